//! What the flow of one direction must keep to in its corners, by its public face alone.

mod queue;

use millstream::dialect::Dialect;
use millstream::flow::stream::{Marks, Outgoing, Stream};
use millstream::http1::body::BodyDecoder;
use millstream::http1::head::BodyFraming;
use millstream::limits::READ_BUFFER_BYTES;
use queue::drain;

const MARKS: Marks = Marks { high: 1 << 20, low: 1 << 19, frame_max: 100_000 };

fn events(framing: BodyFraming, outgoing: Outgoing) -> Stream {
    Stream::events(BodyDecoder::new(framing), outgoing, MARKS, Dialect::OpenAiChat)
}

fn receive(stream: &mut Stream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let taken = stream.receive_copy(bytes).expect("in order");
        bytes = &bytes[taken..];
    }
}

/// A limit may run out while the end waits to be written; the error must not follow the last
/// chunk, where a client would read it as the next response.
#[test]
fn nothing_is_inserted_behind_the_end() {
    let mut stream = events(BodyFraming::Chunked, Outgoing::Chunked);
    receive(&mut stream, b"9\r\ndata: 1\n\n\r\n0\r\n\r\n");
    stream.finish();
    assert!(!stream.insert(b"data: {\"error\":{}}\n\n"));
    assert_eq!(drain(&mut stream), b"9\r\ndata: 1\n\n\r\n0\r\n\r\n");
}

/// Behind a frame of our own a byte order mark would be read as part of a field's name.
#[test]
fn a_byte_order_mark_behind_a_frame_of_our_own_is_dropped() {
    let body = b"\xEF\xBB\xBFdata: 1\n\ndata: 2\n\n";
    for cut in 0..=2 {
        for step in 1..body.len() {
            let mut stream = events(BodyFraming::Close, Outgoing::Plain);
            receive(&mut stream, &body[..cut]);
            assert!(stream.insert(b": beat\n\n"));
            body[cut..].chunks(step).for_each(|part| receive(&mut stream, part));
            assert_eq!(drain(&mut stream), b": beat\n\ndata: 1\n\ndata: 2\n\n", "{cut} {step}");
            assert_eq!(stream.carried().bytes_out, 18);
        }
    }
    let mut stream = events(BodyFraming::Close, Outgoing::Plain);
    receive(&mut stream, body);
    assert!(stream.insert(b": beat\n\n"));
    assert_eq!(drain(&mut stream), [&body[..], b": beat\n\n"].concat(), "the first stays");
    let mut stream = events(BodyFraming::Close, Outgoing::Plain);
    assert!(stream.insert(b": beat\n\n"));
    receive(&mut stream, b"\xEF\xBBdata: 1\n\n");
    assert_eq!(drain(&mut stream), b": beat\n\n\xEF\xBBdata: 1\n\n", "half a mark is none");
}

/// One byte of payload in four thousand of framing: what is held counts as it lies in memory.
#[test]
fn a_frame_in_tiny_chunks_with_long_extensions_holds_no_more_than_its_limit() {
    let mut stream = events(BodyFraming::Chunked, Outgoing::Chunked);
    let chunk = format!("1;{}\r\nx\r\n", "e".repeat(4000));
    for _ in 0..1000 {
        receive(&mut stream, chunk.as_bytes());
        drain(&mut stream);
        let taken = stream.buffer().footprint();
        assert!(taken <= MARKS.frame_max + 4 * READ_BUFFER_BYTES, "{taken}");
    }
}
