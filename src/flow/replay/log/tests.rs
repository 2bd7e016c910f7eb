use std::ops::Range;

use super::*;
use crate::sse::sequence::{Epoch, StreamId};
use crate::sse::{Message, Parser};

fn text() -> StreamText {
    StreamId { slot: 1, secret: [7; 14], core: 2, epoch: Epoch::new([3; 6]) }.text()
}

fn limits(bytes_max: usize) -> Limits {
    let (high, low) = (bytes_max / 2, bytes_max / 4);
    Limits { bytes_max, high, low, frame_max: bytes_max / 2 }
}

fn log(bytes_max: usize) -> Log {
    Log::new(limits(bytes_max), UpstreamIds::Comment)
}

/// What a reader is sent next.
fn gathered(log: &Log, key: ReaderKey, framing: Outgoing) -> Vec<u8> {
    let (mut lines, mut slices) =
        (Lines::<FRAMES_PER_GATHER>::default(), [IoSlice::new(&[]); WRITE_SLICES_MAX]);
    let used = log.gather(key, (&text(), framing), &mut lines, &mut slices);
    slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect()
}

/// Everything a reader has not been sent, taken `step` bytes at a time.
fn drained(log: &mut Log, key: ReaderKey, framing: Outgoing, step: usize) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let next = gathered(log, key, framing);
        if next.is_empty() {
            assert!(log.is_caught_up(key) && log.is_between(key));
            return all;
        }
        let n = step.min(next.len());
        all.extend_from_slice(&next[..n]);
        log.sent(key, (&text(), framing), n);
    }
}

fn numbered(frames: &[&str], first: u64) -> String {
    let text = text();
    let name = text.as_str();
    let frame = |(number, frame): (u64, &&str)| format!("id: {name}.{number}\n{frame}");
    (first..).zip(frames).map(frame).collect()
}

fn chunk(payload: &str) -> String {
    format!("{:x}\r\n{payload}\r\n", payload.len())
}

#[test]
fn every_cut_of_input_and_output_brings_the_same_numbered_frames() {
    let stream = b"\xEF\xBB\xBFdata: 1\n\n\n: note\r\n\r\nid: 9\r\ndata: 2\r\n\r\ndata: 3\r\rrest";
    let frames =
        ["data: 1\n\n", ": id: 9\r\ndata: 2\r\n\r\n", "data: 3\r\r\n"].map(|frame| [frame]);
    let expected: [String; 5] = [
        numbered(&frames[0], 1),
        ": note\r\n".to_owned(),
        numbered(&frames[1], 2),
        numbered(&frames[2], 3),
        "rest".to_owned(),
    ];
    for cut in 0..=stream.len() {
        for step in [1, 7, 50, 1000] {
            let mut log = log(16 * 1024);
            let plain = log.attach(0).expect("from the start");
            let chunked = log.attach(0).expect("from the start");
            log.feed(&stream[..cut]).expect("short");
            let mut first = drained(&mut log, plain, Outgoing::Plain, step);
            log.feed(&stream[cut..]).expect("short");
            log.finish(true);
            first.extend(drained(&mut log, plain, Outgoing::Plain, step));
            assert_eq!(String::from_utf8_lossy(&first), expected.concat(), "cut at {cut}");
            let second = drained(&mut log, chunked, Outgoing::Chunked, step);
            let chunks: String = expected.iter().map(|payload| chunk(payload)).collect();
            assert_eq!(String::from_utf8_lossy(&second), chunks, "cut at {cut}");
        }
    }
}

#[test]
fn a_rest_of_which_nothing_is_left_is_no_chunk_of_no_bytes() {
    let mut log = Log::new(limits(16 * 1024), UpstreamIds::Drop);
    let key = log.attach(0).expect("from the start");
    log.feed(b"data: a\n\nid: 7").expect("short");
    log.finish(true);
    let sent = drained(&mut log, key, Outgoing::Chunked, usize::MAX);
    assert_eq!(String::from_utf8(sent), Ok(chunk(&numbered(&["data: a\n\n"], 1))));
}

#[test]
fn a_reader_goes_on_behind_any_frame_and_nowhere_else() {
    let mut log = log(16 * 1024);
    let frames: Vec<String> = (1..=50).map(|n| format!("data: {n}\n\n")).collect();
    for (n, frame) in frames.iter().enumerate() {
        if n % 5 == 0 {
            log.feed(b": note\n\n").expect("short");
        }
        log.feed(frame.as_bytes()).expect("short");
    }
    for after in 0..=50_u64 {
        let key = log.attach(after).expect("kept");
        let sent = drained(&mut log, key, Outgoing::Plain, 100);
        let mut parser = Parser::new(1000);
        let mut messages = Vec::<Message>::new();
        parser.feed(&sent, &mut messages).expect("short");
        let numbers: Vec<String> =
            messages.iter().map(|m| String::from_utf8_lossy(&m.data).into_owned()).collect();
        let expected: Vec<String> = (after + 1..=50).map(|n| n.to_string()).collect();
        assert_eq!(numbers, expected, "after {after}");
        assert_eq!(log.sent_up_to(key), 50);
        log.detach(key);
    }
    assert_eq!(log.attach(51), Err(Refused::Unknown));
    assert_eq!(log.attach(u64::MAX), Err(Refused::Unknown));
}

#[test]
fn frames_of_any_length_are_kept_within_the_bound_and_the_oldest_go_first() {
    let bytes_max = 256 * 1024;
    let mut log = log(bytes_max);
    let key = log.attach(0).expect("from the start");
    let mut rng = fastrand::Rng::with_seed(4);
    for number in 1..2000_u64 {
        let len = if number % 100 == 0 { rng.usize(60_000..100_000) } else { rng.usize(1..2000) };
        let frame = format!("data: {}\n\n", "x".repeat(len));
        log.feed(frame.as_bytes()).expect("fits");
        let sent = drained(&mut log, key, Outgoing::Chunked, usize::MAX);
        assert_eq!(String::from_utf8(sent), Ok(chunk(&numbered(&[&frame], number))));
        assert!(log.bytes() <= bytes_max, "{} bytes", log.bytes());
    }
    assert_eq!(log.attach(0), Err(Refused::Gap));
    assert!(log.attach(1990).is_ok());
}

#[test]
fn a_frame_that_is_too_long_is_refused_and_what_came_before_it_is_kept() {
    let mut log = log(16 * 1024);
    let frame = format!("data: a\n\ndata: {}", "x".repeat(9000));
    let refused = log.feed(frame.as_bytes()).expect_err("too long");
    assert_eq!(refused.frame_bytes_max, 8 * 1024);
    assert_eq!(log.last(), 1);
    log.push(b"event: error\ndata: b\n\n");
    log.finish(false);
    let key = log.attach(0).expect("kept");
    let expected = numbered(&["data: a\n\n", "event: error\ndata: b\n\n"], 1);
    assert_eq!(drained(&mut log, key, Outgoing::Plain, 10), expected.as_bytes());
}

/// Frames of 1,000 bytes with everything around them as they are kept.
fn fill(log: &mut Log, frames: Range<u64>) {
    for _ in frames {
        log.push(format!("data: {}\n\n", "x".repeat(992 - HEADER_BYTES)).as_bytes());
    }
}

#[test]
fn the_source_waits_for_its_furthest_reader_alone() {
    let mut log = log(64 * 1024);
    let slow = log.attach(0).expect("from the start");
    let quick = log.attach(0).expect("from the start");
    fill(&mut log, 0..30);
    assert!(log.wants_more(false));
    fill(&mut log, 30..34);
    assert!(!log.wants_more(false), "34 KB behind, of 32 KiB");
    let all = gathered(&log, quick, Outgoing::Plain).len();
    log.sent(quick, (&text(), Outgoing::Plain), all / 31 * 10);
    assert!(!log.wants_more(false) && !log.may_resume(), "not below 16 KiB yet");
    drained(&mut log, quick, Outgoing::Plain, usize::MAX);
    assert!(log.may_resume() && log.wants_more(false));
    assert!(!log.has_gap(slow));
    for _ in 0..10 {
        fill(&mut log, 0..8);
        drained(&mut log, quick, Outgoing::Plain, usize::MAX);
        assert!(log.wants_more(false), "the slow one stalls nobody");
    }
    assert!(log.has_gap(slow) && log.bytes() <= 64 * 1024);
    assert_eq!(gathered(&log, slow, Outgoing::Plain), b"", "nothing out of order");
}

#[test]
fn without_a_reader_nothing_is_lost_that_nobody_has_and_the_source_pauses() {
    let mut log = log(64 * 1024);
    let key = log.attach(0).expect("from the start");
    for _ in 0..10 {
        fill(&mut log, 0..10);
        drained(&mut log, key, Outgoing::Plain, usize::MAX);
    }
    log.detach(key);
    let mut more = 0;
    while log.wants_more(false) {
        fill(&mut log, 0..1);
        more += 1;
    }
    assert!((20..=64).contains(&more), "{more}");
    assert!(log.bytes() <= 64 * 1024 + READ_BUFFER_BYTES);
    // What was sent may not have arrived: half of the log reaches back behind it.
    let back = log.attach(100 - 20).expect("kept");
    assert!(!log.wants_more(false), "as far behind as at the mark, or further");
    drained(&mut log, back, Outgoing::Plain, usize::MAX);
    assert!(log.wants_more(false), "and on it goes");
}

#[test]
fn where_memory_is_short_only_what_somebody_has_may_be_added_to() {
    let mut log = log(64 * 1024);
    let key = log.attach(0).expect("from the start");
    assert!(log.wants_more(true), "nothing waits to be read");
    fill(&mut log, 0..1);
    assert!(!log.wants_more(true));
    drained(&mut log, key, Outgoing::Plain, usize::MAX);
    assert!(log.wants_more(true));
}

#[test]
fn another_reader_casts_doubt_on_those_who_are_there() {
    let mut log = log(64 * 1024);
    let first = log.attach(0).expect("from the start");
    assert!(!log.take_suspicion(first));
    let second = log.attach(0).expect("from the start");
    assert!(log.take_suspicion(first) && !log.take_suspicion(first));
    assert!(!log.take_suspicion(second));
}
