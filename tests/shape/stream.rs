//! Shaped streams on the relay's own path, without sockets: body framing on both sides, marks,
//! limits, and what the relay says itself.

use std::sync::Arc;

use millstream::dialect::{Dialect, ErrorText};
use millstream::flow::stream::{Marks, Outgoing, Stream, StreamFault};
use millstream::http1::body::{BodyDecoder, Step};
use millstream::http1::chunked::ChunkedDecoder;
use millstream::http1::head::BodyFraming;
use millstream::limits::SHAPED_READ_BYTES;
use millstream::outcome::Outcome;
use millstream::shape::Shaping;
use millstream::shape::tokens::TokensRule;

use crate::fixtures::all;
use crate::queue::drain;
use crate::told::{full_tokens, openai, raw_tokens, shaped, shaper};

const MARKS: Marks = Marks { high: 256 << 10, low: 128 << 10, frame_max: 20_000 };
const TEXT: ErrorText<'static> = ErrorText {
    status: 504,
    code: "stream_timeout",
    message: "the stream\ntook too long",
    request_id: "r-1",
    sequence: 3,
};

fn stream(from: BodyFraming, outgoing: Outgoing, shaping: &Shaping, dialect: Dialect) -> Stream {
    Stream::events(BodyDecoder::new(from), outgoing, MARKS, dialect).shaped(shaper(
        shaping,
        dialect,
        Default::default(),
    ))
}

fn receive(stream: &mut Stream, mut bytes: &[u8]) -> Result<(), StreamFault> {
    while !bytes.is_empty() && !stream.is_ended() {
        let taken = stream.receive_copy(bytes)?;
        bytes = &bytes[taken..];
    }
    Ok(())
}

fn chunked(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts.iter().filter(|part| !part.is_empty()) {
        out.extend_from_slice(format!("{:x};x=y\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

fn unchunk(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let (mut decoder, mut payload) = (ChunkedDecoder::default(), Vec::new());
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

#[test]
fn every_fixture_comes_out_the_same_in_any_chunks_and_reads() {
    for fixture in all() {
        for shaping in [full_tokens(), raw_tokens(), openai(true)] {
            let make = || shaper(&shaping, fixture.dialect, fixture.increments);
            let wanted = shaped(make(), [&*fixture.bytes], true);
            for (chunk, read) in [(1, 3), (7, 1), (64, 1000), (5000, 65_536), (200, 11)] {
                let parts: Vec<&[u8]> = fixture.bytes.chunks(chunk).collect();
                let decoder = BodyDecoder::new(BodyFraming::Chunked);
                let mut stream = Stream::events(decoder, Outgoing::Chunked, MARKS, fixture.dialect)
                    .shaped(make());
                stream.begin(b"HEAD".as_slice().into());
                let mut out = Vec::new();
                for part in chunked(&parts).chunks(read) {
                    receive(&mut stream, part).expect("in order");
                    out.extend(drain(&mut stream));
                    assert_eq!(stream.buffer().footprint(), 0, "a waiting stream holds nothing");
                    assert!(!stream.is_clear(), "no byte passes untold");
                }
                stream.finish();
                out.extend(drain(&mut stream));
                let (payload, ended) = unchunk(out.strip_prefix(b"HEAD").expect("the head first"));
                assert!(ended);
                assert_eq!(
                    String::from_utf8_lossy(&payload),
                    String::from_utf8_lossy(&wanted),
                    "{}",
                    fixture.name
                );
                assert_eq!(stream.carried().bytes_out, wanted.len() as u64);
                assert_eq!(stream.carried().bytes_in, fixture.bytes.len() as u64);
            }
        }
    }
}

#[test]
fn what_the_relay_says_is_in_the_streams_words() {
    let tell = |shaping: &Shaping, timeout| {
        let mut stream = stream(BodyFraming::Close, Outgoing::Plain, shaping, Dialect::OpenAiChat);
        receive(
            &mut stream,
            b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"ch",
        )
        .expect("in order");
        let heartbeat = stream.heartbeat().expect("one");
        assert!(stream.insert(heartbeat));
        stream.discard_held();
        assert!(stream.tell(&TEXT, timeout));
        assert!(shaping_forwards(shaping) || !stream.tell(&TEXT, timeout), "once is enough");
        let named = matches!(shaping, Shaping::Tokens(_));
        assert_eq!(stream.end_told(true), named, "an event of the route's is an end by name");
        assert!(!stream.end_told(true), "and the last thing");
        String::from_utf8(drain(&mut stream)).expect("text")
    };
    let tokens = Shaping::Tokens(Arc::new(TokensRule::chat()));
    let start = "event: start\ndata: \n\ndata: \"a\"\n\n: keepalive\n\n";
    let message = "data: the stream\ndata: took too long\n\n";
    assert_eq!(tell(&tokens, true), format!("{start}event: timeout\n{message}"));
    assert_eq!(tell(&tokens, false), format!("{start}event: error\n{message}"));
    let forward = Shaping::Tokens(Arc::new(TokensRule::forward()));
    assert_eq!(
        tell(&forward, true),
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n: keepalive\n\n\
         event: timeout\ndata: 请求超时\n\n"
    );
    let told = tell(&openai(false), true);
    let (_, error) = told.split_once(": keepalive\n\n").expect("a heartbeat");
    let mut wanted = Vec::new();
    Dialect::OpenAiChat.error_frame(&TEXT, &mut wanted);
    assert_eq!(error.as_bytes(), wanted);
    assert!(!told.contains("[DONE]"));
}

fn shaping_forwards(shaping: &Shaping) -> bool {
    matches!(shaping, Shaping::Tokens(rule) if rule.forward)
}

/// The frames of a forwarding route are the provider's, byte for byte, in the same chunks.
#[test]
fn forwarding_changes_no_byte() {
    let body = b"9\r\ndata: 1\n\n\r\nb\r\ndata:\t2\r\n\r\n\r\n0\r\n\r\n";
    let forward = Shaping::Tokens(Arc::new(TokensRule::forward()));
    for cut in 0..=body.len() {
        let mut stream =
            stream(BodyFraming::Chunked, Outgoing::Chunked, &forward, Dialect::Generic);
        let mut out = Vec::new();
        for part in [&body[..cut], &body[cut..]] {
            receive(&mut stream, part).expect("in order");
            out.extend(drain(&mut stream));
        }
        stream.finish();
        out.extend(drain(&mut stream));
        let whole = (b"data: 1\n\ndata:\t2\r\n\r\n".to_vec(), true);
        assert_eq!(unchunk(&out), whole, "cut at {cut}");
    }
}

#[test]
fn a_frame_above_the_limit_is_a_named_end_and_takes_no_more_memory() {
    for framing in [BodyFraming::Close, BodyFraming::Length(1 << 20)] {
        let mut stream = stream(framing, Outgoing::Chunked, &full_tokens(), Dialect::Generic);
        receive(&mut stream, b"data: a\n\n").expect("in order");
        let fault = receive(&mut stream, &[b'x'; 40_000]).expect_err("too long");
        assert_eq!(fault.outcome(), Outcome::FrameTooLarge);
        assert_eq!(fault.to_string(), "a frame of the event stream is longer than 20000 bytes");
        assert!(stream.is_ended());
        stream.discard_held();
        assert!(stream.tell(&TEXT, false));
        let (told, ended) = unchunk(&drain(&mut stream));
        let told = String::from_utf8(told).expect("text");
        assert!(told.contains("data: \"a\"\n\nevent: error\n") && !told.contains("done") && !ended);
    }
}

#[test]
fn broken_json_is_a_named_end_behind_what_came_before() {
    for shaping in [full_tokens(), openai(true)] {
        let mut stream = stream(BodyFraming::Close, Outgoing::Plain, &shaping, Dialect::OpenAiChat);
        let fault = receive(
            &mut stream,
            b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choices\":[{]}\n\ndata: [DONE]\n\n",
        )
        .expect_err("broken");
        assert_eq!(fault.outcome(), Outcome::UpstreamProtocol);
        assert!(stream.tell(&TEXT, false));
        let told = String::from_utf8(drain(&mut stream)).expect("text");
        assert!(told.contains("\"a\"") && told.contains("too long") && !told.contains("DONE"));
    }
}

/// Small frames grow much when they become chunks; the queue does not run away.
#[test]
fn a_reader_that_takes_nothing_pauses_the_stream_at_its_mark() {
    let mut stream =
        stream(BodyFraming::Close, Outgoing::Chunked, &openai(false), Dialect::Generic);
    let frames = b"data:a\n\n".repeat(SHAPED_READ_BYTES / 8);
    while stream.wants_more() {
        let room = stream.room().len();
        assert_eq!(room, SHAPED_READ_BYTES);
        receive(&mut stream, &frames[..room]).expect("in order");
    }
    let queued = stream.buffer().queued();
    let bounds = MARKS.high..MARKS.high + 30 * SHAPED_READ_BYTES;
    assert!(bounds.contains(&queued), "{queued}");
    assert_eq!(stream.carried().pauses, 1);
    drain(&mut stream);
    assert!(stream.wants_more() && stream.buffer().footprint() == 0);
}

#[test]
fn the_end_has_the_name_of_what_the_provider_said() {
    for (body, finished) in [
        (
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\n",
            true,
        ),
        ("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n", false),
    ] {
        for shaping in [full_tokens(), openai(true)] {
            let mut stream =
                stream(BodyFraming::Close, Outgoing::Plain, &shaping, Dialect::OpenAiChat);
            receive(&mut stream, body.as_bytes()).expect("in order");
            stream.end();
            stream.finish();
            assert_eq!(stream.is_finished_by_dialect(), finished);
            let told = String::from_utf8(drain(&mut stream)).expect("text");
            assert_eq!(told.contains("DONE") || told.contains("event: done"), finished, "{told}");
            assert_eq!(told.contains("before it was finished"), !finished, "{told}");
        }
    }
}
