//! What must be true at the end of a run, by plain rules of its own.

use millstream::dialect::Dialect;
use millstream::flow::stream::Outgoing;
use millstream::http1::head::BodyFraming;
use millstream::outcome::Outcome;

use super::driver::End;
use super::world::{Fault, Plan};

/// The payload of a chunked body as far as it is well-formed, and whether it is whole.
pub(crate) fn unchunk(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut payload = Vec::new();
    loop {
        let Some(line) = bytes.windows(2).take(4096).position(|pair| pair == b"\r\n") else {
            return (payload, false);
        };
        let size = bytes[..line].split(|byte| *byte == b';').next().unwrap_or_default();
        let size = std::str::from_utf8(size).ok().and_then(|s| usize::from_str_radix(s, 16).ok());
        let Some(size) = size else {
            return (payload, false);
        };
        bytes = &bytes[line + 2..];
        if size == 0 {
            let over = bytes.starts_with(b"\r\n") || bytes.windows(4).any(|w| w == b"\r\n\r\n");
            return (payload, over);
        }
        let part = &bytes[..size.min(bytes.len())];
        payload.extend_from_slice(part);
        bytes = &bytes[part.len()..];
        if !bytes.starts_with(b"\r\n") {
            return (payload, false);
        }
        bytes = &bytes[2..];
    }
}

/// For each offset into an event stream, whether it lies between two frames.
pub(crate) fn boundaries(stream: &[u8]) -> Vec<bool> {
    let mut between = vec![true];
    let (mut in_frame, mut line_empty, mut after_cr) = (false, true, false);
    let mark = if stream.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    for (at, &byte) in stream.iter().enumerate() {
        if at < mark {
            between.push(at + 1 == mark);
            continue;
        }
        match byte {
            b'\n' if after_cr => {}
            b'\r' | b'\n' if line_empty => in_frame = false,
            b'\r' | b'\n' => line_empty = true,
            _ => (in_frame, line_empty) = (true, false),
        }
        after_cr = byte == b'\r';
        between.push(!in_frame);
    }
    between
}

/// Bytes of the mark at the start of a stream; behind a frame of our own it is dropped.
fn mark(payload: &[u8], inserts: &[(usize, &'static [u8])]) -> usize {
    let behind = inserts.first().is_some_and(|(at, _)| *at == 0);
    if behind && payload.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 }
}

/// The first `upto` bytes of `payload`, with the frames of our own where they were inserted.
fn with_inserts(payload: &[u8], inserts: &[(usize, &'static [u8])], upto: usize) -> Vec<u8> {
    let skip = mark(payload, inserts);
    let (mut out, mut at) = (Vec::new(), skip);
    for (offset, frame) in inserts {
        assert!(*offset <= upto, "a frame was inserted behind what was sent");
        out.extend_from_slice(&payload[at..at.max(*offset)]);
        out.extend_from_slice(frame);
        at = at.max(*offset);
    }
    out.extend_from_slice(&payload[at..at.max(upto)]);
    out
}

pub(crate) fn end(plan: &Plan, end: &End) {
    let (got, ended) = match plan.outgoing {
        Outgoing::Chunked => unchunk(&end.out),
        Outgoing::Plain => (end.out.clone(), end.failure.is_none()),
    };
    let between = boundaries(&plan.payload);
    let dropped = mark(&plan.payload, &end.inserts);
    // Bytes sent, told as places in the payload.
    let place = |(at, frame): &(usize, _)| (if *at == 0 { 0 } else { at + dropped }, *frame);
    let inserts: Vec<(usize, &'static [u8])> = end.inserts.iter().map(place).collect();
    for (offset, frame) in &inserts {
        assert!(between[*offset], "a heartbeat within a frame, at {offset}");
        assert_eq!(Some(*frame), plan.dialect.heartbeat());
    }
    outcome(plan, end);
    let Some(downstream) = end.failure else {
        assert!(ended, "a whole body must end");
        assert_eq!(got.len(), with_inserts(&plan.payload, &inserts, plan.payload.len()).len());
        assert!(got == with_inserts(&plan.payload, &inserts, plan.payload.len()));
        assert_eq!(end.carried.bytes_out, (plan.payload.len() - dropped) as u64);
        return;
    };
    // A client may have the whole body and the stream still end late, but then the end is true.
    assert!(!ended || end.finished || plan.outgoing == Outgoing::Plain, "a forged end");
    let received = match plan.framing {
        BodyFraming::Chunked => unchunk(&plan.wire[..end.read]).0.len(),
        _ => end.read.min(plan.payload.len()),
    };
    let upto = match end.overlong_at_end || end.finished {
        true => received,
        false => (0..=received).rev().find(|at| between[*at]).unwrap_or(0),
    };
    let mut expected = with_inserts(&plan.payload, &inserts, upto);
    assert_eq!(end.error_frame.is_some(), !(downstream || end.overlong_at_end || end.finished));
    expected.extend_from_slice(end.error_frame.as_deref().unwrap_or_default());
    if downstream || end.left > 0 {
        assert!(expected.starts_with(&got), "what went out is what came in");
    } else {
        assert_eq!(got.len(), expected.len(), "whole frames, all of them");
        assert!(got == expected);
    }
}

/// The one outcome is the one that what happened calls for.
fn outcome(plan: &Plan, end: &End) {
    let complete = match plan.framing {
        BodyFraming::Close => !matches!(plan.fault, Fault::Reset(_) | Fault::Silence(_)),
        _ => plan.whole,
    };
    let has_end =
        matches!(plan.dialect, Dialect::OpenAiChat | Dialect::OpenAiResponses | Dialect::Anthropic);
    let in_order = plan.terminal || (!has_end && plan.framing != BodyFraming::Close);
    let fits = match end.outcome {
        Outcome::Done => complete && in_order,
        Outcome::UpstreamClosed => complete && !in_order,
        Outcome::UpstreamTruncated => !complete && matches!(plan.fault, Fault::Truncate(_)),
        Outcome::UpstreamReset => !complete && matches!(plan.fault, Fault::Reset(_)),
        Outcome::UpstreamProtocol => !complete && matches!(plan.fault, Fault::BadChunk(_)),
        Outcome::ClientGone => plan.leaves.is_some_and(|at| end.lasted >= at),
        Outcome::Drained => plan.ends.is_some_and(|at| end.lasted >= at),
        // That these came in time and not early was checked when they came.
        Outcome::FirstByteTimeout
        | Outcome::IdleTimeout
        | Outcome::StreamTimeout
        | Outcome::ClientStalled => true,
        _ => false,
    };
    assert!(fits, "{:?} does not fit {:?} (whole: {})", end.outcome, plan.fault, plan.whole);
}
