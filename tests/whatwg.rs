//! The HTML Standard's rules for event streams (sections 9.2.5 and 9.2.6), one test each, with
//! the rule quoted. Every stream is fed whole, byte by byte, and in every pair of pieces.

use millstream::sse::{Event, Line, Message, Parser, ParserFull, fields, lines};

/// The events of a stream as (type, data, last event id), the same for every way to split it.
fn events(stream: &[u8]) -> Vec<(String, String, String)> {
    let whole = parse([stream].into_iter());
    assert_eq!(parse(stream.chunks(1)), whole, "byte by byte: {stream:?}");
    for cut in 0..=stream.len() {
        let (first, second) = stream.split_at(cut);
        assert_eq!(parse([first, second].into_iter()), whole, "cut at {cut}: {stream:?}");
    }
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    whole.into_iter().map(|m| (text(m.event), text(m.data), text(m.last_event_id))).collect()
}

fn parse<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Message> {
    let mut parser = Parser::new(1 << 16);
    let mut messages = Vec::new();
    for piece in pieces {
        parser.feed(piece, &mut messages).unwrap();
    }
    messages
}

fn data(stream: &[u8]) -> Vec<String> {
    events(stream).into_iter().map(|(_, data, _)| data).collect()
}

/// "The UTF-8 decode algorithm strips one leading UTF-8 Byte Order Mark (BOM), if any."
#[test]
fn one_leading_mark_is_stripped() {
    assert_eq!(data(b"\xEF\xBB\xBFdata: a\n\n"), ["a"]);
}

/// The same rule: only one, and only a leading one. What follows is part of a field name.
#[test]
fn a_second_or_later_mark_is_not() {
    assert_eq!(data(b"\xEF\xBB\xBF\xEF\xBB\xBFdata:1\n\ndata:2\n\n"), ["2"]);
    assert_eq!(data(b"data:1\n\n\xEF\xBB\xBFdata:2\n\n"), ["1"]);
    assert_eq!(data(b"\n\xEF\xBB\xBFdata:1\n\ndata:2\n\n"), ["2"]);
}

/// "end-of-line = ( cr lf / cr / lf )"
#[test]
fn lines_end_with_crlf_cr_or_lf_in_any_mix() {
    assert_eq!(
        data(b"data:1\n\ndata:2\r\rdata:3\r\n\r\ndata:4\n\rdata:5\r\n\ndata:6\r\r\n"),
        ["1", "2", "3", "4", "5", "6"]
    );
}

/// The same rule: CR LF is one line end, so it alone ends no event.
#[test]
fn a_crlf_is_one_line_end() {
    assert_eq!(data(b"data:1\r\ndata:2\r\n\r\n"), ["1\n2"]);
}

/// "If the line is empty (a blank line): Dispatch the event, as defined below."
#[test]
fn a_blank_line_dispatches_at_once_even_if_its_cr_may_have_a_lf() {
    let mut parser = Parser::new(64);
    let mut messages = Vec::new();
    parser.feed(b"data:1\r\n\r", &mut messages).unwrap();
    assert_eq!(messages.len(), 1);
    parser.feed(b"\ndata:2\r\n\r", &mut messages).unwrap();
    assert_eq!(messages.len(), 2);
}

/// "If the line starts with a U+003A COLON character (:): Ignore the line."
#[test]
fn comments_are_ignored_also_within_an_event() {
    let mut stream = b"data:1\r:\0\n:\r\ndata:2\n:".to_vec();
    stream.extend(std::iter::repeat_n(b'x', 200));
    stream.extend(b"\rdata:3\n:data:fail\r:");
    stream.extend(std::iter::repeat_n(b'x', 200));
    stream.extend(b"\ndata:4\n\n");
    assert_eq!(data(&stream), ["1\n2\n3\n4"]);
    assert_eq!(data(b": only\n\n:\n\n"), [""; 0]);
}

/// "Collect the characters on the line after the first U+003A COLON character (:), and let value
/// be that string. If value starts with a U+0020 SPACE character, remove it from value."
#[test]
fn one_leading_space_is_removed_and_only_a_space() {
    assert_eq!(
        data(b"data: a\n\ndata:  b\n\ndata:\tc\n\ndata:d:e\n\ndata: \n\n"),
        ["a", " b", "\tc", "d:e", ""]
    );
}

/// "Otherwise, the string is not empty but does not contain a U+003A COLON character (:): Process
/// the field using the steps described below, using the whole line as the field name, and the
/// empty string as the field value."
#[test]
fn a_line_without_a_colon_is_a_name() {
    assert_eq!(data(b"data\n\ndata\ndata\n\ndata:test\n\n"), ["", "\n", "test"]);
}

/// "Append the field value to the data buffer, then append a single U+000A LINE FEED (LF)
/// character to the data buffer." and "If the data buffer's last character is a U+000A LINE FEED
/// (LF) character, then remove the last character from the data buffer."
#[test]
fn data_lines_are_joined() {
    assert_eq!(data(b"data:YHOO\ndata:+2\ndata\ndata:10\n\n"), ["YHOO\n+2\n\n10"]);
}

/// "If the data buffer is an empty string, set the data buffer and the event type buffer to the
/// empty string and return."
#[test]
fn without_a_data_line_nothing_is_dispatched_and_the_type_is_forgotten() {
    assert_eq!(events(b"event:a\n\ndata:b\n\n"), [("message".into(), "b".into(), String::new())]);
}

/// "If the field name is 'event': Set the event type buffer to the field value."
#[test]
fn the_last_name_counts_and_lasts_one_event() {
    let stream = b"event:a\nevent:b\ndata:1\n\ndata:2\n\nevent:c\nevent\ndata:3\n\n";
    let types: Vec<_> = events(stream).into_iter().map(|(event, ..)| event).collect();
    assert_eq!(types, ["b", "message", "message"]);
}

/// "Field names must be compared literally, with no case folding performed." and "Otherwise: The
/// field is ignored."
#[test]
fn names_are_exact() {
    assert_eq!(data(b"Data:1\n data:2\ndata :3\ndatas:4\n\ndata:5\n\n"), ["5"]);
}

/// "If the field name is 'id': If the field value does not contain U+0000 NULL, then set the last
/// event ID buffer to the field value. Otherwise, ignore the field."
#[test]
fn an_id_lasts_until_the_next_and_may_not_hold_nul() {
    let stream = b"id:1\ndata:a\n\ndata:b\n\nid:2\0\ndata:c\n\nid\ndata:d\n\nid:3\n\ndata:e\n\n";
    let ids: Vec<_> = events(stream).into_iter().map(|(_, _, id)| id).collect();
    assert_eq!(ids, ["1", "1", "1", "", "3"]);
}

/// "If the field value consists of only ASCII digits, then interpret the field value as an
/// integer in base ten, and set the event stream's reconnection time to that integer. Otherwise,
/// ignore the field."
#[test]
fn retry_takes_digits_only() {
    let mut parser = Parser::new(64);
    for (stream, retry) in [
        ("retry:10\n\n", Some(10)),
        ("retry:1x\n\n", Some(10)),
        ("retry:-1\n\n", Some(10)),
        ("retry\n\n", Some(10)),
        ("retry: 020\n\n", Some(20)),
        ("retry:99999999999999999999999\n\n", Some(u64::MAX)),
    ] {
        parser.feed(stream.as_bytes(), &mut Vec::new()).unwrap();
        assert_eq!(parser.retry(), retry, "{stream:?}");
    }
}

/// "Once the end of the file is reached, any pending data must be discarded. (If the file ends in
/// the middle of an event, before the final empty line, the incomplete event is not dispatched.)"
#[test]
fn an_unfinished_event_is_never_dispatched_and_its_id_not_taken() {
    let mut parser = Parser::new(64);
    let mut messages = Vec::new();
    parser.feed(b"id:1\ndata:a\n\nid:2\ndata:b\n", &mut messages).unwrap();
    assert_eq!(messages.len(), 1);
    assert_eq!(parser.last_event_id(), b"1");
}

/// "Streams must be decoded using the UTF-8 decode algorithm", after which U+0000 is a character
/// of data like any other; and no character is harmed by a split in its middle.
#[test]
fn data_may_hold_nul_and_split_characters() {
    assert_eq!(data(b"data:\0\n\n"), ["\0"]);
    assert_eq!(data("data: 你好 🌊\n\n".as_bytes()), ["你好 🌊"]);
}

/// The grammar's own view of one frame: comments and fields in order, nothing lost.
#[test]
fn the_lines_of_a_frame_keep_their_comments() {
    let frame = b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:{}\n\n";
    let names: Vec<_> = fields(frame).map(|field| field.name).collect();
    assert_eq!(names, [&b"id"[..], b"event", b"data"]);
    let comments: Vec<_> = lines(frame)
        .filter_map(|line| if let Line::Comment(text) = line { Some(text) } else { None })
        .collect();
    assert_eq!(comments, [b"HTTP_STATUS/200"]);
}

/// One `data` line is borrowed from the frame, so reading it copies nothing.
#[test]
fn a_single_data_line_is_not_copied() {
    let event = Event::parse(b"data: {\"a\":1}\n\n");
    assert!(matches!(event.data, Some(std::borrow::Cow::Borrowed(b"{\"a\":1}"))));
    assert_eq!(Event::parse(b": ping\n\n"), Event::default());
}

/// Not the standard's: the parser holds no more than it was told, however the frame is split,
/// and gap does not count.
#[test]
fn a_parser_is_full_at_its_cap_and_not_before() {
    let fits = b"data: 12345678\n\n";
    let stream = [b"\n\n\n".as_slice(), fits, b"\n\n\n\n\n\n\n\n", fits, b"data: 123456789\n\n"];
    let stream = stream.concat();
    for size in 1..=stream.len() {
        let mut parser = Parser::new(fits.len());
        let mut messages = Vec::new();
        let full = Err(ParserFull { frame_bytes_max: fits.len() });
        let fed: Vec<_> =
            stream.chunks(size).map(|piece| parser.feed(piece, &mut messages)).collect();
        assert_eq!(messages.len(), 2, "pieces of {size}");
        assert_eq!(fed.last(), Some(&full));
        assert_eq!(parser.feed(b"", &mut messages), full);
    }
}
