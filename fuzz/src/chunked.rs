//! The chunked decoder against the naive one, at every prefix and at any splits.

use millstream::http1::body::{BodyError, Step};
use millstream::http1::chunked::ChunkedDecoder;

use super::Choices;
use super::naive::{Stop, unchunk};

/// What the decoder makes of some pieces.
#[derive(Debug, Default, PartialEq, Eq)]
struct Decoded {
    payload: Vec<u8>,
    /// Bytes taken, up to the end of the body or the whole input.
    taken: usize,
    done: bool,
    error: Option<BodyError>,
}

fn decode(bytes: &[u8], cuts: &[usize]) -> Decoded {
    let mut decoder = ChunkedDecoder::default();
    let mut decoded = Decoded::default();
    for to in cuts.iter().copied().chain([bytes.len()]) {
        while decoded.taken < to && !decoded.done {
            let before = decoder.at_boundary();
            let piece = &bytes[decoded.taken..to];
            match decoder.step(piece) {
                Ok(Step::Data(n)) => {
                    assert!(n > 0 && !before, "payload between chunks, or none");
                    decoded.payload.extend_from_slice(&piece[..n]);
                    decoded.taken += n;
                }
                Ok(Step::Framing(n)) => {
                    assert!(n > 0, "no progress");
                    decoded.taken += n;
                }
                Ok(Step::End(n)) => {
                    decoded.taken += n;
                    decoded.done = true;
                }
                Ok(Step::NeedMore) => panic!("there were bytes"),
                Err(error) => {
                    decoded.error = Some(error);
                    return decoded;
                }
            }
            assert_eq!(decoder.is_done(), decoded.done);
        }
    }
    decoded
}

/// See the module's description.
pub fn check(data: &[u8]) {
    let mut choices = Choices::new(data);
    let cuts = choices.cuts();
    let bytes = choices.all();
    let whole = decode(bytes, &[]);
    let naive = unchunk(bytes);
    assert_eq!(whole.payload, naive.payload);
    match naive.stop {
        Stop::Done(at) => assert_eq!((whole.taken, whole.done, whole.error), (at, true, None)),
        Stop::Partial => {
            assert_eq!((whole.taken, whole.done, whole.error), (bytes.len(), false, None));
        }
        Stop::Fault => assert!(whole.error.is_some() && !whole.done),
    }
    let same = |other: &Decoded| {
        // How much of a faulty line was taken before the fault depends on the pieces.
        let taken = whole.error.is_some() || other.taken == whole.taken;
        assert!(taken, "{} taken, not {}", other.taken, whole.taken);
        assert_eq!((&other.payload, other.done), (&whole.payload, whole.done));
        assert_eq!(other.error, whole.error);
    };
    same(&decode(bytes, &cuts));
    if bytes.len() <= 4096 {
        same(&decode(bytes, &(0..bytes.len()).collect::<Vec<_>>()));
    }
}
