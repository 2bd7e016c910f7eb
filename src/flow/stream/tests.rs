use std::io::IoSlice;

use super::*;
use crate::http1::chunked::ChunkedDecoder;
use crate::limits::{DIALECT_GUESSES_MAX, WRITE_SLICES_MAX};

const MARKS: Marks = Marks { high: 1 << 20, low: 1 << 19, frame_max: 4096 };

/// Takes everything queued.
fn drain(stream: &mut Stream) -> Vec<u8> {
    let mut out = Vec::new();
    while stream.buffer().queued() > 0 {
        let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
        let used = stream.buffer().gather(&mut slices);
        let sent: Vec<u8> = slices[..used].iter().flat_map(|s| s.iter().copied()).collect();
        stream.sent(sent.len());
        out.extend(sent);
    }
    stream.settle();
    out
}

fn receive(stream: &mut Stream, mut bytes: &[u8]) -> Result<(), StreamFault> {
    while !bytes.is_empty() && !stream.is_ended() {
        let taken = stream.receive_copy(bytes)?;
        bytes = &bytes[taken..];
    }
    Ok(())
}

/// The payload of a chunked body, and whether it ended.
fn unchunk(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut decoder = ChunkedDecoder::default();
    let mut payload = Vec::new();
    loop {
        match decoder.step(bytes).expect("our framing is right") {
            Step::Framing(n) => bytes = &bytes[n..],
            Step::Data(n) => {
                payload.extend_from_slice(&bytes[..n]);
                bytes = &bytes[n..];
            }
            Step::End(_) => return (payload, true),
            Step::NeedMore => return (payload, false),
        }
    }
}

fn chunks(parts: &[&[u8]], ext: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        out.extend_from_slice(format!("{:x}{ext}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

fn chunked_events() -> Stream {
    let decoder = BodyDecoder::Chunked(ChunkedDecoder::default());
    Stream::events(decoder, Outgoing::Chunked, MARKS, Dialect::OpenAiChat)
}

#[test]
fn chunks_that_hold_whole_frames_are_sent_on_as_they_are() {
    let body = chunks(&[b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"], "");
    let mut stream = chunked_events();
    receive(&mut stream, &body).expect("in order");
    stream.finish();
    assert_eq!(drain(&mut stream), body);
    assert!(stream.is_ended() && stream.is_finished_by_dialect());
    assert_eq!((stream.carried().frames, stream.carried().bytes_out), (3, 32));
}

#[test]
fn every_pair_of_splits_keeps_payload_frames_and_atomicity() {
    let frames: &[&[u8]] = &[b"data: a\n\n", b": c\r\n\r\n", b"data: [DONE]\n\n"];
    let payload = frames.concat();
    let together = [payload.as_slice()];
    let bytes: Vec<&[u8]> = payload.chunks(1).collect();
    let layouts: [&[&[u8]]; 4] =
        [frames, &together, &[&payload[..5], &payload[5..20], &payload[20..]], &bytes];
    for (layout, ext) in layouts.iter().flat_map(|layout| [(layout, ""), (layout, ";x")]) {
        let body = chunks(layout, ext);
        for a in 0..=body.len() {
            for b in [a, (a + 3).min(body.len()), (a + 17).min(body.len())] {
                let mut stream = chunked_events();
                let mut out = Vec::new();
                for part in [&body[..a], &body[a..b], &body[b..]] {
                    receive(&mut stream, part).expect("in order");
                    out.extend(drain(&mut stream));
                    let (sent, _) = unchunk(&out);
                    // 15: the CR of a blank line ends its frame without waiting for LF.
                    let whole = [0, 9, 15, 16, 30].contains(&sent.len());
                    assert!(whole || stream.is_ended(), "half a frame went out: {sent:?}");
                }
                stream.finish();
                out.extend(drain(&mut stream));
                assert_eq!(unchunk(&out), (payload.clone(), true), "split at {a}, {b}");
                assert_eq!(stream.carried().frames, 3);
                assert!(stream.is_finished_by_dialect());
                assert_eq!(stream.buffer().footprint(), 0, "a waiting stream holds nothing");
            }
        }
    }
}

#[test]
fn a_frame_above_the_limit_passes_in_pieces_and_nothing_gets_between() {
    let huge = [b"data: ".as_slice(), &[b'x'; 20_000], b"\n\n"].concat();
    let mut stream = chunked_events();
    let body = chunks(&[&huge, b"data: 2\n\n"], "");
    receive(&mut stream, &body[..10_000]).expect("in order");
    assert!(stream.is_overlong() && !stream.insert(b": beat\n\n"));
    let mut out = drain(&mut stream);
    assert!(out.len() > 9_000, "it does not wait for its end");
    receive(&mut stream, &body[10_000..]).expect("in order");
    assert!(!stream.is_overlong());
    stream.finish();
    out.extend(drain(&mut stream));
    assert_eq!(unchunk(&out), ([huge.as_slice(), b"data: 2\n\n"].concat(), true));
}

#[test]
fn frames_of_our_own_stand_between_frames_and_half_an_event_is_given_up() {
    for outgoing in [Outgoing::Chunked, Outgoing::Plain] {
        let mut stream = Stream::events(BodyDecoder::Close, outgoing, MARKS, Dialect::Generic);
        receive(&mut stream, b"data: 1\n\ndata: ha").expect("in order");
        assert!(stream.insert(b": beat\n\n"));
        stream.discard_held();
        let out = drain(&mut stream);
        let payload = if outgoing == Outgoing::Chunked { unchunk(&out).0 } else { out };
        assert_eq!(payload, b"data: 1\n\n: beat\n\n");
    }
}

#[test]
fn every_payload_byte_counts_once_in_tiny_chunks_too() {
    let payload = b"data: a\n\n".repeat(20);
    let parts: Vec<&[u8]> = payload.chunks(1).collect();
    let mut stream = chunked_events();
    receive(&mut stream, &chunks(&parts, ";e")).expect("in order");
    stream.finish();
    drain(&mut stream);
    let carried = stream.carried();
    assert_eq!((carried.bytes_in, carried.bytes_out), (180, 180));
}

#[test]
fn marks_pause_once_and_resume_once() {
    let marks = Marks { high: 1000, low: 500, frame_max: 4096 };
    let mut stream = Stream::opaque(BodyDecoder::Close, Outgoing::Plain, marks);
    receive(&mut stream, &[7; 999]).expect("in order");
    assert!(stream.wants_more());
    receive(&mut stream, &[7; 1]).expect("in order");
    assert!(!stream.wants_more());
    assert!(!stream.sent(499));
    assert!(stream.sent(1), "at the low mark");
    assert!(!stream.sent(1), "only once");
    assert!(stream.wants_more());
    assert_eq!(stream.carried().pauses, 1);
}

#[test]
fn a_held_frame_alone_never_stops_reading() {
    let marks = Marks { high: 4096, low: 2048, frame_max: 1 << 20 };
    let mut stream = Stream::events(BodyDecoder::Close, Outgoing::Chunked, marks, Dialect::Generic);
    receive(&mut stream, &[b'x'; 500_000]).expect("in order");
    assert!(stream.wants_more() && stream.buffer().queued() == 0);
}

#[test]
fn a_kept_body_can_begin_again() {
    for split in 0..5 {
        let decoder = BodyDecoder::Chunked(ChunkedDecoder::default());
        let mut stream = Stream::opaque(decoder, Outgoing::Chunked, MARKS).keeping(100);
        let body = chunks(&[b"abc", b"de"], ";x");
        let at = body.len() * split / 4;
        stream.begin(b"first ".to_vec());
        receive(&mut stream, &body[..at]).expect("in order");
        if stream.is_ended() {
            stream.finish();
        }
        let first = stream.buffer().queued() / 2;
        stream.sent(first);
        assert!(stream.restart(b"again ".to_vec()));
        receive(&mut stream, &body[at..]).expect("in order");
        if at < body.len() {
            stream.finish();
        }
        let out = drain(&mut stream);
        let body = out.strip_prefix(b"again ").expect("the head goes first");
        assert_eq!(unchunk(body), (b"abcde".to_vec(), true), "at {at}");
    }
}

proptest::proptest! {
    #[test]
    fn any_chunking_and_any_reads_carry_the_same_payload(
        payload in proptest::collection::vec(
            proptest::sample::select(b"ab:d \r\n\n\n".to_vec()), 0..3000),
        sizes in proptest::collection::vec(1_usize..200, 1..40),
        reads in proptest::collection::vec(1_usize..500, 1..40),
        ext in proptest::bool::ANY,
    ) {
        let mut rest = payload.as_slice();
        let mut parts = Vec::new();
        for size in sizes.iter().cycle() {
            if rest.is_empty() { break; }
            let (part, more) = rest.split_at((*size).min(rest.len()));
            parts.push(part);
            rest = more;
        }
        let body = chunks(&parts, if ext { ";e" } else { "" });
        let mut stream = chunked_events();
        let (mut out, mut at) = (Vec::new(), 0);
        for (turn, read) in reads.iter().cycle().enumerate() {
            if at == body.len() { break; }
            let to = (at + read).min(body.len());
            receive(&mut stream, &body[at..to]).expect("in order");
            at = to;
            if turn % 3 != 0 {
                out.extend(drain(&mut stream));
            }
        }
        stream.finish();
        out.extend(drain(&mut stream));
        let (got, ended) = unchunk(&out);
        proptest::prop_assert!(ended && got == payload);
        proptest::prop_assert_eq!(stream.carried().bytes_out, payload.len() as u64);
    }
}

/// A stream whose request did not tell its dialect.
fn unknown_events() -> Stream {
    let decoder = BodyDecoder::Chunked(ChunkedDecoder::default());
    Stream::events(decoder, Outgoing::Chunked, MARKS, Dialect::Generic)
}

fn chunk(part: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat()
}

const FIRST: &[u8] = b"data: {\"id\":\"chatcmpl-0123456789\",\"object\":\"chat.completion.chunk\",\
    \"created\":1700000000,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";

#[test]
fn a_frame_of_usual_size_gives_its_dialect_away() {
    let mut stream = unknown_events();
    receive(&mut stream, &chunk(b": hello\n\n")).expect("in order");
    assert_eq!(stream.dialect(), Some(Dialect::Generic));
    receive(&mut stream, &chunk(FIRST)).expect("in order");
    assert_eq!(stream.dialect(), Some(Dialect::OpenAiChat));
    receive(&mut stream, &chunk(b"data: [DONE]\n\n")).expect("in order");
    assert!(stream.is_finished_by_dialect());
}

#[test]
fn a_stream_that_tells_no_dialect_is_not_asked_for_ever() {
    let mut stream = unknown_events();
    for _ in 0..DIALECT_GUESSES_MAX {
        receive(&mut stream, &chunk(b"data: {\"token\":\"abc\"}\n\n")).expect("in order");
    }
    receive(&mut stream, &chunk(FIRST)).expect("in order");
    assert_eq!(stream.dialect(), Some(Dialect::Generic));
    assert_eq!(stream.carried().frames, u64::from(DIALECT_GUESSES_MAX) + 1);
}

/// Frames like those that are passed at a glance are the same to the scanner.
#[test]
fn a_glance_agrees_with_the_scanner() {
    let member = |name: &str| format!("data: {{\"{name}\":\"{}\"}}\n\n", "x".repeat(50));
    let frames = [
        member("id"),
        member("error").replacen("\"x", "{\"x", 1),
        member("type"),
        member("id").replace("xx\"", "\nx\""),
        member("id").replace("xx\"", "\n\ndata: [DONE]"),
        member("id").replace("xx\"", "\rx\""),
        member("id").replace("\n\n", "\n\n\n"),
        member("id").replace("\n\n", "\n\n\n\n"),
        "data: {\"\n\n".to_owned(),
        "data: {\"a\n\n".to_owned(),
        format!("data: {{\"{}\n\n", "x".repeat(Dialect::TERMINAL_PREFIX_BYTES - 8)),
        format!("data: {{\"{}\n\n", "x".repeat(Dialect::TERMINAL_PREFIX_BYTES - 7)),
        "data: [DONE]\n\n".to_owned(),
    ];
    for first in &frames {
        for second in &frames {
            let (mut glanced, mut scanned) = (chunked_events(), chunked_events());
            let mut read = 0;
            for frame in [first, second, &frames[0]] {
                receive(&mut glanced, &chunk(frame.as_bytes())).expect("in order");
                let whole = chunk(frame.as_bytes());
                // Byte by byte no chunk is ever whole.
                for byte in whole.chunks(1) {
                    receive(&mut scanned, byte).expect("in order");
                }
                read += frame.len() as u64;
                let (own, other) = (glanced.carried(), scanned.carried());
                assert_eq!(
                    (own.frames, own.bytes_in),
                    (other.frames, read),
                    "{first:?} {second:?}"
                );
                assert_eq!(glanced.is_finished_by_dialect(), scanned.is_finished_by_dialect());
            }
            assert_eq!(unchunk(&drain(&mut glanced)).0, unchunk(&drain(&mut scanned)).0);
        }
    }
}
