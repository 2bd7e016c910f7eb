//! What a stream has queued, taken as a socket that has room takes it.

use std::io::IoSlice;

use millstream::flow::stream::Stream;
use millstream::limits::WRITE_SLICES_MAX;

/// Takes all that is queued.
pub(crate) fn drain(stream: &mut Stream) -> Vec<u8> {
    let mut out = Vec::new();
    while stream.buffer().queued() > 0 {
        let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
        let used = stream.buffer().gather(&mut slices);
        let before = out.len();
        out.extend(slices[..used].iter().flat_map(|slice| slice.iter().copied()));
        stream.sent(out.len() - before);
    }
    stream.settle();
    out
}
