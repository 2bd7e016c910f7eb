//! The frame scanner and the event parser against naive ones, at any splits.

use millstream::sse::{Event, EventText, Parser, Scan, Scanner, encode, fields, lines};

#[path = "../../tests/oracle/mod.rs"]
mod oracle;

use super::Choices;
use super::naive::Places;

/// See the module's description.
pub fn check(data: &[u8]) {
    let mut choices = Choices::new(data);
    let cuts = choices.cuts();
    let stream = choices.all();
    let bytes: Vec<usize> = (0..stream.len()).collect();
    let places = Places::of(stream);
    for cuts in [&cuts[..], &[], &bytes] {
        check_scan(&places, cuts);
        check_next_frame(&places, cuts);
        check_parser(stream, cuts);
    }
    check_event(stream);
}

/// What a scan of `from..to` must say.
fn expected(places: &Places, from: usize, to: usize) -> Scan {
    let between = |at: usize| places.at(at).between;
    let frames = |at: usize| places.at(at).frames;
    let end = (from + 1..=to).rev().find(|at| between(*at)).map_or(0, |at| at - from);
    let mut scan = Scan { frames: (frames(to) - frames(from)) as u32, end, ..Scan::default() };
    if scan.frames > 0 {
        let last = (from + 1..=to).rev().find(|at| frames(*at) > frames(*at - 1)).expect("some");
        let begin = (0..last).rev().find(|at| between(*at)).expect("the start is");
        scan.last = begin.saturating_sub(from);
        scan.last_continued = begin < from;
    }
    scan
}

fn check_scan(places: &Places, cuts: &[usize]) {
    let stream = places.stream();
    let mut scanner = Scanner::new();
    let mut from = 0;
    for to in cuts.iter().copied().chain([stream.len()]) {
        let scan = scanner.scan(&stream[from..to]);
        assert_eq!(scan, expected(places, from, to), "{from}..{to}");
        assert_eq!(scanner.at_boundary(), places.at(to).between, "at {to}");
        from = to;
    }
}

fn check_next_frame(places: &Places, cuts: &[usize]) {
    let stream = places.stream();
    let mut scanner = Scanner::new();
    let (mut from, mut frames) = (0, 0);
    for to in cuts.iter().copied().chain([stream.len()]) {
        while let Some(end) = scanner.next_frame(&stream[from..to]) {
            from += end;
            frames += 1;
            assert!(end > 0 && scanner.at_boundary());
            assert_eq!(places.at(from).frames, frames, "at {from}");
        }
        from = to;
    }
    assert_eq!(frames, places.at(stream.len()).frames);
}

fn check_parser(stream: &[u8], cuts: &[usize]) {
    let mut parser = Parser::new(stream.len());
    let (mut messages, mut from) = (Vec::new(), 0);
    for to in cuts.iter().copied().chain([stream.len()]) {
        parser.feed(&stream[from..to], &mut messages).expect("no frame is longer than the stream");
        from = to;
    }
    let whole = oracle::interpret(stream);
    let got = messages.iter().map(|m| (&m.event, &m.data, &m.last_event_id));
    assert!(got.eq(whole.events.iter().map(|e| (&e.event, &e.data, &e.id))));
    if oracle::position(stream).1 {
        assert_eq!(parser.retry(), whole.retry);
    }
}

/// Any bytes read as one frame: the parts agree with each other, and what was read, written and
/// read again is the same.
fn check_event(frame: &[u8]) {
    assert!(fields(frame).count() <= lines(frame).count());
    let event = Event::parse(frame);
    let data = event.data.as_deref();
    let text =
        EventText { comment: None, id: event.id, retry: event.retry, event: event.event, data };
    let mut written = Vec::new();
    encode(&text, &mut written).expect("a field read from a line holds no line end");
    assert_eq!(Event::parse(&written), event);
    assert_eq!(oracle::position(&written), (u32::from(written.len() > 1), true));
}
