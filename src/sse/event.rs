//! The fields of a frame, read lazily, and a parser of whole streams (HTML Standard, sections
//! 9.2.5 "Parsing an event stream" and 9.2.6 "Interpreting an event stream").
//!
//! Values are bytes. The standard decodes the stream as UTF-8 first; since that never makes or
//! removes a line end, a colon, a space or a digit, fields may be read before decoding.

use std::borrow::Cow;
use std::fmt;

use memchr::{memchr, memchr2};

use super::BOM;
use super::scanner::Scanner;

/// One field of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// What stands before the first colon, or the whole line where there is none.
    pub name: &'a [u8],
    /// What stands behind it, less one leading space; empty where there is no colon.
    pub value: &'a [u8],
}

/// One line of a frame that is not blank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line that begins with a colon: what follows the colon, unchanged.
    Comment(&'a [u8]),
    /// Any other line.
    Field(Field<'a>),
}

impl<'a> Line<'a> {
    /// Reads one line, given without its end.
    fn parse(line: &'a [u8]) -> Self {
        match memchr(b':', line) {
            Some(0) => Self::Comment(&line[1..]),
            Some(colon) => {
                let value = &line[colon + 1..];
                let value = value.strip_prefix(b" ").unwrap_or(value);
                Self::Field(Field { name: &line[..colon], value })
            }
            None => Self::Field(Field { name: line, value: b"" }),
        }
    }
}

/// The lines of `frame` in order, comments included, blank lines skipped. A last line without an
/// end is yielded too.
///
/// The frame must not begin with the stream's byte order mark (see [`super::BOM`]).
pub fn lines(frame: &[u8]) -> Lines<'_> {
    Lines { rest: frame }
}

/// The fields of `frame` in order, comments skipped. See [`lines`].
pub fn fields(frame: &[u8]) -> impl Iterator<Item = Field<'_>> {
    lines(frame).filter_map(|line| match line {
        Line::Field(field) => Some(field),
        Line::Comment(_) => None,
    })
}

/// The iterator of [`lines`].
#[derive(Clone, Debug)]
pub struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        while !self.rest.is_empty() {
            // The LF of a CRLF shows up as an empty line here, which is skipped like any other.
            let end = memchr2(b'\n', b'\r', self.rest).unwrap_or(self.rest.len());
            let line = &self.rest[..end];
            self.rest = self.rest.get(end + 1..).unwrap_or_default();
            if !line.is_empty() {
                return Some(Line::parse(line));
            }
        }
        None
    }
}

/// A frame's parsed view. Where a field repeats, the last one counts; `data` lines are joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    /// The event's name; `None` and an empty name both mean `message`.
    pub event: Option<&'a [u8]>,
    /// The `data` lines joined with LF. `None` if there was no such line: then the frame
    /// dispatches nothing. One line is borrowed, several are copied.
    pub data: Option<Cow<'a, [u8]>>,
    /// The id, unless it holds U+0000 (such a line is ignored).
    pub id: Option<&'a [u8]>,
    /// The reconnection time in milliseconds, where the value is ASCII digits only. A number
    /// too large for the type is its largest value.
    pub retry: Option<u64>,
}

impl<'a> Event<'a> {
    /// Reads one frame. It never fails: unknown fields are ignored, as the standard says.
    pub fn parse(frame: &'a [u8]) -> Self {
        let mut event = Self::default();
        for Field { name, value } in fields(frame) {
            match name {
                b"data" => event.push_data(value),
                b"event" => event.event = Some(value),
                b"id" if memchr(0, value).is_none() => event.id = Some(value),
                b"retry" => event.retry = milliseconds(value).or(event.retry),
                _ => {}
            }
        }
        event
    }

    fn push_data(&mut self, value: &'a [u8]) {
        match &mut self.data {
            None => self.data = Some(Cow::Borrowed(value)),
            Some(data) => {
                let data = data.to_mut();
                data.push(b'\n');
                data.extend_from_slice(value);
            }
        }
    }
}

fn milliseconds(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        Some(sum.saturating_mul(10).saturating_add(digit))
    })
}

/// An event as an `EventSource` dispatches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The event's type, `message` unless the stream named another.
    pub event: Vec<u8>,
    /// Its data.
    pub data: Vec<u8>,
    /// The last event id at that time, from this event or an earlier one.
    pub last_event_id: Vec<u8>,
}

/// A parser of a whole stream, for tests, the mock and rewriting routes. It copies; the relay's
/// own path does not use it. It holds at most one unfinished frame.
#[derive(Debug)]
pub struct Parser {
    scanner: Scanner,
    /// The unfinished frame, with what little gap came before it in the same feed.
    tail: Vec<u8>,
    /// Whether `tail` begins at the first byte of the stream, where a byte order mark is one.
    fresh: bool,
    frame_bytes_max: usize,
    last_event_id: Vec<u8>,
    retry: Option<u64>,
    full: bool,
}

/// A frame was longer than the parser was told to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParserFull {
    /// The cap, in bytes of one frame.
    pub frame_bytes_max: usize,
}

impl fmt::Display for ParserFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a frame of the event stream is longer than {} bytes", self.frame_bytes_max)
    }
}

impl std::error::Error for ParserFull {}

impl Parser {
    /// A parser at the start of a stream that holds frames of up to `frame_bytes_max` bytes.
    pub const fn new(frame_bytes_max: usize) -> Self {
        Self {
            scanner: Scanner::new(),
            tail: Vec::new(),
            fresh: true,
            frame_bytes_max,
            last_event_id: Vec::new(),
            retry: None,
            full: false,
        }
    }

    /// Takes the next bytes of the stream and appends the events they complete to `messages`.
    /// At the end of a stream an unfinished frame is simply never dispatched.
    ///
    /// # Errors
    ///
    /// [`ParserFull`] once a frame exceeds the cap; events before it were appended. It cannot be
    /// mended: every later call says the same.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        messages: &mut Vec<Message>,
    ) -> Result<(), ParserFull> {
        while !self.full && !bytes.is_empty() {
            let end = self.scanner.next_frame(bytes);
            let (taken, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            bytes = rest;
            if end.is_none() && self.scanner.at_boundary() {
                // Nothing but gap, which may be dropped: the byte order mark is in it.
                self.tail.clear();
                self.fresh = false;
                continue;
            }
            self.take(taken, end.is_some(), messages);
        }
        if self.full {
            return Err(ParserFull { frame_bytes_max: self.frame_bytes_max });
        }
        Ok(())
    }

    /// The last event id so far; empty if none was set.
    pub fn last_event_id(&self) -> &[u8] {
        &self.last_event_id
    }

    /// The reconnection time in milliseconds, if a whole frame has set it.
    pub const fn retry(&self) -> Option<u64> {
        self.retry
    }

    fn take(&mut self, taken: &[u8], ended: bool, messages: &mut Vec<Message>) {
        let held = std::mem::take(&mut self.tail);
        let bytes = if held.is_empty() {
            Cow::Borrowed(taken)
        } else {
            let mut held = held;
            held.extend_from_slice(taken);
            Cow::Owned(held)
        };
        let frame = skip_gap(&bytes, self.fresh);
        if frame.len() > self.frame_bytes_max {
            self.full = true;
        } else if ended {
            self.fresh = false;
            self.dispatch(frame, messages);
        } else {
            self.tail = bytes.into_owned();
        }
    }

    fn dispatch(&mut self, frame: &[u8], messages: &mut Vec<Message>) {
        let event = Event::parse(frame);
        self.retry = event.retry.or(self.retry);
        if let Some(id) = event.id {
            self.last_event_id = id.to_vec();
        }
        let Some(data) = event.data else { return };
        let name = event.event.filter(|name| !name.is_empty()).unwrap_or(b"message");
        messages.push(Message {
            event: name.to_vec(),
            data: data.into_owned(),
            last_event_id: self.last_event_id.clone(),
        });
    }
}

/// `bytes` from the first byte that is not gap. A byte order mark is gap only at the start of a
/// stream, which `fresh` says.
pub(crate) fn skip_gap(bytes: &[u8], fresh: bool) -> &[u8] {
    let bytes = if fresh { bytes.strip_prefix(BOM).unwrap_or(bytes) } else { bytes };
    let begin = bytes.iter().position(|byte| !matches!(byte, b'\n' | b'\r'));
    &bytes[begin.unwrap_or(bytes.len())..]
}
