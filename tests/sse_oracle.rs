//! The scanner and the event parser against a naive reading of the HTML Standard, over streams
//! made to be awkward and over every way to split them.

mod oracle;

use millstream::sse::{EventText, Message, Parser, Scan, Scanner, encode};
use oracle::{interpret, position};
use proptest::prelude::*;

/// Streams that other parsers got wrong, one trap each.
const TRICKY: &[&[u8]] = &[
    b"data: a\n\ndata: b\n\n",
    b"data: a\r\n\r\ndata: b\r\n\r\n",
    b"data: a\r\rdata: b\r\r",
    b"data: a\n\r\ndata: b\r\n\ndata: c\r\r\ndata: d\n\r\rdata: e\r\n\r",
    b"\n\r\n\r\r\n\ndata: a\n\n\n\r\n\rdata: b\n\n",
    b"\xEF\xBB\xBFdata: a\n\n",
    b"\xEF\xBB\xBF\n\ndata: a\n\n",
    b"\xEF\xBB\xBF\xEF\xBB\xBFdata: a\n\ndata: b\n\n",
    b"\n\xEF\xBB\xBFdata: a\n\ndata: b\n\n",
    b"\xEF\xBBdata: a\n\ndata: b\n\n",
    b"\xEF\n\ndata: b\n\n",
    b"\xEF\xEF\xBB\xBF\n\n",
    b": ping\n\n:\n\ndata: a\n\n",
    b"data:1\r:\0\n:\r\ndata:2\n:xxxxxxxxxxxxxxxx\rdata:3\n:data:fail\r:yyyyyyyy\ndata:4\n\n",
    b"data\n\ndata\ndata\n\ndata:\n\ndata:test\n",
    b"data:\0\n\nid:a\0b\ndata: c\n\nid:1\n\nid\ndata: d\n\n",
    b"event: e\n\ndata: f\n\nevent: g\ndata: h\n\n",
    b"retry: 10\ndata: a\n\nretry: 1x\n\nretry: 99999999999999999999999\n\nretry\n\n",
    b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:{\"output\":{}}\n\n",
    b"data: \xE4\xBD\xA0\xE5\xA5\xBD\n\ndata:  two\n\n data: no\n\ndata :no\n\n",
    b"data: [DONE]\n\n",
];

/// What a scan of `stream[from..to]`, with all before it scanned already, must say.
fn expected(stream: &[u8], from: usize, to: usize) -> Scan {
    let between = |at: usize| position(&stream[..at]).1;
    let frames = |at: usize| position(&stream[..at]).0;
    let end = (from + 1..=to).rev().find(|at| between(*at)).map_or(0, |at| at - from);
    let mut scan = Scan { frames: frames(to) - frames(from), end, ..Scan::default() };
    if scan.frames > 0 {
        let last_end = (from + 1..=to).rev().find(|at| frames(*at) > frames(*at - 1)).unwrap();
        let begin = (0..last_end).rev().find(|at| between(*at)).unwrap();
        scan.last = begin.saturating_sub(from);
        scan.last_continued = begin < from;
    }
    scan
}

fn check_scan(stream: &[u8], cuts: &[usize]) {
    let mut scanner = Scanner::new();
    let mut from = 0;
    for to in cuts.iter().copied().chain([stream.len()]) {
        let scan = scanner.scan(&stream[from..to]);
        assert_eq!(scan, expected(stream, from, to), "{from}..{to} of {stream:?}");
        assert_eq!(scanner.at_boundary(), position(&stream[..to]).1, "at {to} of {stream:?}");
        if to > from {
            assert_eq!(scanner.at_boundary(), scan.end == to - from);
        }
        from = to;
    }
}

/// The offsets after which `next_frame` says that a frame ended.
fn frame_ends(stream: &[u8], cuts: &[usize]) -> Vec<usize> {
    let mut scanner = Scanner::new();
    let mut ends = Vec::new();
    let mut from = 0;
    for to in cuts.iter().copied().chain([stream.len()]) {
        while let Some(end) = scanner.next_frame(&stream[from..to]) {
            from += end;
            assert!(scanner.at_boundary());
            ends.push(from);
        }
        from = to;
    }
    ends
}

fn check_next_frame(stream: &[u8], cuts: &[usize]) {
    let ends = frame_ends(stream, cuts);
    let frames = position(stream).0;
    assert_eq!(ends.len() as u32, frames, "{stream:?} at {cuts:?}");
    for (index, end) in ends.iter().enumerate() {
        assert_eq!(position(&stream[..*end]), (index as u32 + 1, true), "{stream:?}");
        // At most the LF of its own CRLF stands behind the byte that ended the frame.
        let before = position(&stream[..*end - 1]).0;
        let pair = before as usize == index + 1 && stream[..*end].ends_with(b"\r\n");
        assert!(before as usize == index || pair, "{end} in {stream:?}");
    }
}

fn parse(stream: &[u8], cuts: &[usize]) -> (Vec<Message>, Option<u64>) {
    let mut parser = Parser::new(1 << 20);
    let mut messages = Vec::new();
    let mut from = 0;
    for to in cuts.iter().copied().chain([stream.len()]) {
        parser.feed(&stream[from..to], &mut messages).unwrap();
        from = to;
    }
    (messages, parser.retry())
}

fn check_parse(stream: &[u8], cuts: &[usize]) {
    let (messages, retry) = parse(stream, cuts);
    let whole = interpret(stream);
    let got: Vec<_> =
        messages.iter().map(|m| (&m.event[..], &m.data[..], &m.last_event_id[..])).collect();
    let wanted: Vec<_> =
        whole.events.iter().map(|e| (&e.event[..], &e.data[..], &e.id[..])).collect();
    assert_eq!(got, wanted, "{stream:?} at {cuts:?}");
    if position(stream).1 {
        // The standard sets the time line by line, the parser frame by frame.
        assert_eq!(retry, whole.retry, "{stream:?}");
    }
}

fn check_all(stream: &[u8], cuts: &[usize]) {
    check_scan(stream, cuts);
    check_next_frame(stream, cuts);
    check_parse(stream, cuts);
}

#[test]
fn every_pair_of_splits_of_the_tricky_streams() {
    for stream in TRICKY {
        for first in 0..=stream.len() {
            check_all(stream, &[first]);
            for second in first..=stream.len() {
                check_all(stream, &[first, second]);
            }
        }
    }
}

#[test]
fn byte_by_byte_the_tricky_streams_say_the_same() {
    for stream in TRICKY {
        let cuts: Vec<usize> = (0..stream.len()).collect();
        check_all(stream, &cuts);
    }
}

/// Every stream of eight bytes over an alphabet where all that matters can happen.
#[test]
fn every_short_stream_of_line_ends() {
    const ALPHABET: &[u8] = b"\r\nx:";
    for number in 0..ALPHABET.len().pow(8) {
        let stream: Vec<u8> = (0..8)
            .map(|place| ALPHABET[number / ALPHABET.len().pow(place) % ALPHABET.len()])
            .collect();
        check_scan(&stream, &[number % 9]);
    }
}

/// Long runs take the bulk path, whose blocks and remainders have seams of their own.
#[test]
fn long_streams_of_every_line_end_in_one_piece() {
    for end in ["\n", "\r\n", "\r", "\n\r\n", "\r\r\n"] {
        for frame_bytes in [1, 2, 3, 5, 40, 177, 703, 704, 705, 3000] {
            let frame = format!("{}{end}{end}", "x".repeat(frame_bytes));
            let count = 9000 / frame.len() + 2;
            for tail in ["", "t", "data: t\n", "t\r", "\n", "\r\n"] {
                let stream = frame.repeat(count) + tail;
                let (frames, between) = position(stream.as_bytes());
                let mut scanner = Scanner::new();
                let scan = scanner.scan(stream.as_bytes());
                assert_eq!((scan.frames, scanner.at_boundary()), (frames, between));
                let mut each = Scanner::new();
                let (mut from, mut last, mut seen) = (0, 0, 0);
                while let Some(taken) = each.next_frame(&stream.as_bytes()[from..]) {
                    let gap = stream[from..].find(['x', 't', 'd']).unwrap();
                    (last, from, seen) = (from + gap, from + taken, seen + 1);
                }
                assert_eq!(each.at_boundary(), between);
                assert_eq!((seen, scan.last), (frames, last), "{end:?} {frame_bytes} {tail:?}");
                let gap = stream.len() - stream[from..].trim_start_matches(['\r', '\n']).len();
                assert_eq!(scan.end, gap);
            }
        }
    }
}

#[test]
fn a_frame_of_many_mebibytes() {
    let mut stream = b"data: ".to_vec();
    stream.resize(70 << 20, b'x');
    stream.extend_from_slice(b"\n\ndata: y\n\n");
    let mut scanner = Scanner::new();
    let (mut frames, mut boundary_bytes) = (0, 0);
    for piece in stream.chunks(64 << 10) {
        let scan = scanner.scan(piece);
        frames += scan.frames;
        boundary_bytes += scan.end;
    }
    assert_eq!(frames, 2);
    assert!(scanner.at_boundary() && boundary_bytes > 0);
    assert!(size_of::<Scanner>() <= 16);
}

/// Bytes biased to what the grammar knows.
fn streams(pieces_max: usize) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => Just(b"\n".to_vec()),
        3 => Just(b"\r".to_vec()),
        3 => Just(b"\r\n".to_vec()),
        2 => Just(b"\n\n".to_vec()),
        2 => Just(b":".to_vec()),
        2 => Just(b" ".to_vec()),
        3 => Just(b"data".to_vec()),
        2 => Just(b"id".to_vec()),
        2 => Just(b"event".to_vec()),
        1 => Just(b"retry".to_vec()),
        1 => Just(b"\0".to_vec()),
        1 => Just(b"\xEF\xBB\xBF".to_vec()),
        1 => Just(b"7".to_vec()),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
        1 => prop::collection::vec(any::<u8>(), 0..12),
    ];
    prop::collection::vec(piece, 0..pieces_max).prop_map(|pieces| pieces.concat())
}

fn cut_streams(pieces_max: usize) -> impl Strategy<Value = (Vec<u8>, Vec<usize>)> {
    streams(pieces_max).prop_flat_map(|stream| {
        let cuts = prop::collection::vec(0..=stream.len(), 0..6).prop_map(|mut cuts| {
            cuts.sort_unstable();
            cuts
        });
        (Just(stream), cuts)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn scanner_and_parser_agree_with_the_oracle((stream, cuts) in cut_streams(40)) {
        check_all(&stream, &cuts);
    }

    #[test]
    fn bulk_scan_agrees_with_frame_by_frame((stream, cuts) in cut_streams(4000)) {
        let mut scanner = Scanner::new();
        let mut each = Scanner::new();
        let mut from = 0;
        for to in cuts.iter().copied().chain([stream.len()]) {
            let scan = scanner.scan(&stream[from..to]);
            let (mut at, mut frames) = (from, 0);
            while let Some(taken) = each.next_frame(&stream[at..to]) {
                at += taken;
                frames += 1;
            }
            prop_assert_eq!(scan.frames, frames);
            prop_assert_eq!(&scanner, &each);
            prop_assert!(scan.end >= at - from);
            prop_assert!(stream[at..from + scan.end.max(at - from)]
                .iter().all(|byte| b"\r\n\xEF\xBB\xBF".contains(byte)));
            from = to;
        }
    }

    #[test]
    fn what_is_encoded_is_read_back(
        id in prop::option::of("[a-z0-9 :]{0,6}"),
        event in prop::option::of("[a-z :]{1,6}"),
        data in prop::option::of("[a-z :\r\n]{0,20}"),
        comment in prop::option::of("[a-z :\r\n]{0,20}"),
        retry in prop::option::of(any::<u64>()),
    ) {
        let text = EventText {
            comment: comment.as_deref().map(str::as_bytes),
            id: id.as_deref().map(str::as_bytes),
            retry,
            event: event.as_deref().map(str::as_bytes),
            data: data.as_deref().map(str::as_bytes),
        };
        let mut frame = Vec::new();
        encode(&text, &mut frame).unwrap();
        let whole = interpret(&frame);
        prop_assert_eq!(whole.retry, retry);
        prop_assert_eq!(whole.events.len(), usize::from(data.is_some()));
        if let (Some(data), Some(read)) = (data, whole.events.first()) {
            let lines = data.replace("\r\n", "\n").replace('\r', "\n");
            prop_assert_eq!(&read.data, lines.as_bytes());
            prop_assert_eq!(&read.event, event.as_deref().unwrap_or("message").as_bytes());
            prop_assert_eq!(&read.id, id.as_deref().unwrap_or_default().as_bytes());
        }
    }
}
