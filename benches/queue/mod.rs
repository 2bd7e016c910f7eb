//! Bytes put through a stream's flow, and taken from it as a socket would take them.

use std::hint::black_box;
use std::io::IoSlice;

use millstream::flow::stream::Stream;
use millstream::limits::WRITE_SLICES_MAX;

/// Takes all that is queued; returns how many bytes it was.
fn take(stream: &mut Stream) -> usize {
    let mut taken = 0;
    while stream.buffer().queued() > 0 {
        let n = match stream.buffer().single() {
            Some(bytes) => black_box(bytes).len(),
            None => {
                let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
                let used = stream.buffer().gather(&mut slices);
                black_box(&slices[..used]).iter().map(|slice| slice.len()).sum()
            }
        };
        stream.sent(n);
        taken += n;
    }
    stream.settle();
    taken
}

/// Puts `bytes` through in reads as large as the buffer's room; returns the bytes that came out.
pub(crate) fn put(stream: &mut Stream, mut bytes: &[u8]) -> usize {
    let mut out = 0;
    while !bytes.is_empty() {
        let room = stream.room();
        let n = room.len().min(bytes.len());
        room[..n].copy_from_slice(&bytes[..n]);
        assert_eq!(stream.received(n).expect("in order"), 0);
        out += take(stream);
        bytes = &bytes[n..];
    }
    out
}
