//! Writing events (HTML Standard, section 9.2.5, the grammar of an event stream).

use std::fmt;

use memchr::{memchr, memchr2};

/// An event to be written. Every part is optional; without `data` the reader dispatches nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventText<'a> {
    /// A comment, written first. It may hold line ends: each line becomes a comment of its own.
    pub comment: Option<&'a [u8]>,
    /// The id. May hold neither a line end nor U+0000.
    pub id: Option<&'a [u8]>,
    /// The reconnection time in milliseconds.
    pub retry: Option<u64>,
    /// The event's name. May not hold a line end.
    pub event: Option<&'a [u8]>,
    /// The data. Each of its lines (ended by LF, CRLF or CR) becomes a `data` line; the reader
    /// joins them with LF.
    pub data: Option<&'a [u8]>,
}

/// Why an event cannot be written: its part would be read back as something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// The event's name holds a CR or LF.
    LineEndInEvent,
    /// The id holds a CR or LF.
    LineEndInId,
    /// The id holds U+0000, so readers would ignore it.
    NulInId,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LineEndInEvent => "the event's name holds a line end",
            Self::LineEndInId => "the event's id holds a line end",
            Self::NulInId => "the event's id holds U+0000",
        })
    }
}

impl std::error::Error for EncodeError {}

/// Appends one whole frame, blank line included, to `out`, with LF line ends and one space behind
/// each colon.
///
/// # Errors
///
/// [`EncodeError`] if a part cannot be carried; `out` is then unchanged.
pub fn encode(event: &EventText<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if event.event.is_some_and(holds_line_end) {
        return Err(EncodeError::LineEndInEvent);
    }
    if event.id.is_some_and(holds_line_end) {
        return Err(EncodeError::LineEndInId);
    }
    if event.id.is_some_and(|id| memchr(0, id).is_some()) {
        return Err(EncodeError::NulInId);
    }
    if let Some(text) = event.comment {
        split_lines(text, |line| push_line(out, b"", line));
    }
    if let Some(id) = event.id {
        push_line(out, b"id", id);
    }
    if let Some(retry) = event.retry {
        push_line(out, b"retry", retry.to_string().as_bytes());
    }
    if let Some(name) = event.event {
        push_line(out, b"event", name);
    }
    if let Some(data) = event.data {
        split_lines(data, |line| push_line(out, b"data", line));
    }
    out.push(b'\n');
    Ok(())
}

fn push_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn holds_line_end(text: &[u8]) -> bool {
    memchr2(b'\n', b'\r', text).is_some()
}

/// Calls `each` with the lines of `text`, one more than it has line ends.
fn split_lines(mut text: &[u8], mut each: impl FnMut(&[u8])) {
    while let Some(end) = memchr2(b'\n', b'\r', text) {
        each(&text[..end]);
        let pair = text[end..].starts_with(b"\r\n");
        text = &text[end + 1 + usize::from(pair)..];
    }
    each(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(event: &EventText<'_>) -> String {
        let mut out = Vec::new();
        encode(event, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn parts_are_written_in_order_with_one_space() {
        let event = EventText {
            comment: Some(b"hi"),
            id: Some(b"7"),
            retry: Some(100),
            event: Some(b"delta"),
            data: Some(b" x"),
        };
        let frame = ": hi\nid: 7\nretry: 100\nevent: delta\ndata:  x\n\n";
        assert_eq!(encoded(&event), frame);
    }

    #[test]
    fn each_line_of_data_and_comment_gets_its_own() {
        let data = |data| encoded(&EventText { data: Some(data), ..EventText::default() });
        assert_eq!(data(b"a\nb\r\nc\rd"), "data: a\ndata: b\ndata: c\ndata: d\n\n");
        assert_eq!(data(b"\n"), "data: \ndata: \n\n");
        assert_eq!(data(b"\r\n\r"), "data: \ndata: \ndata: \n\n");
        assert_eq!(data(b""), "data: \n\n");
        let comment = EventText { comment: Some(b"a\n\ndata: b"), ..EventText::default() };
        assert_eq!(encoded(&comment), ": a\n: \n: data: b\n\n");
    }

    #[test]
    fn what_would_be_read_otherwise_is_refused_and_leaves_no_trace() {
        let cases: &[(EventText<'_>, EncodeError)] = &[
            (
                EventText { event: Some(b"a\nb"), ..EventText::default() },
                EncodeError::LineEndInEvent,
            ),
            (
                EventText { event: Some(b"a\r"), ..EventText::default() },
                EncodeError::LineEndInEvent,
            ),
            (EventText { id: Some(b"\n"), ..EventText::default() }, EncodeError::LineEndInId),
            (EventText { id: Some(b"1\r2"), ..EventText::default() }, EncodeError::LineEndInId),
            (EventText { id: Some(b"1\x002"), ..EventText::default() }, EncodeError::NulInId),
        ];
        for (event, error) in cases {
            let mut out = b"before".to_vec();
            assert_eq!(encode(event, &mut out), Err(*error));
            assert_eq!(out, b"before");
        }
    }
}
