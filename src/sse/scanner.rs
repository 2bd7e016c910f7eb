//! Where frames end.
//!
//! A frame is the bytes of one event up to and including the blank line that ends it. Lines end
//! with LF, CRLF or a lone CR, in any mix. A CR that makes a blank line ends its frame at once:
//! waiting for the LF that may follow would hold the event back until the next one. When that LF
//! comes, it is a *gap* byte.
//!
//! The gap is what may stand between frames: the LF of such a CRLF, further blank lines, and the
//! byte order mark at the start of the stream. Gap bytes are no frame and dispatch nothing, and
//! anything may be inserted after any of them.

use memchr::memchr2;

use super::BOM;

const LF: u8 = b'\n';
const CR: u8 = b'\r';

/// Where a stream of frames stands: two bytes of state, whatever the size of a frame.
///
/// It never fails: every sequence of bytes is a sequence of frames and gaps with an unfinished
/// tail. The state lives across calls, so the bytes may be split anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scanner {
    place: Place,
    /// Bytes of the byte order mark seen, while the stream has brought nothing else.
    start: Start,
}

/// Where in a frame the next byte falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Between frames. Any line end here is gap, so a CR need not be remembered.
    #[default]
    Gap,
    /// In a frame, at the start of a line.
    LineStart,
    /// The same, and the byte before was a CR: an LF would belong to it.
    LineStartAfterCr,
    /// In a frame, in a line that is not empty.
    Line,
}

/// The byte order mark is one only as the first three bytes of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Start {
    #[default]
    Fresh,
    One,
    Two,
    Past,
}

/// What one call of [`Scanner::scan`] found. Offsets are into the bytes of that call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Frames that ended in these bytes. A block of comments counts; a blank line in a gap
    /// does not.
    pub frames: u32,
    /// Just after the last frame that ended here and the gap that follows it; 0 if these bytes
    /// hold neither. `bytes[..end]` may go downstream, `bytes[end..]` is an unfinished frame.
    /// It equals `bytes.len()` exactly when the scanner is at a boundary afterwards.
    pub end: usize,
    /// Where the last frame that ended here begins, behind any gap; 0 if it began in earlier
    /// bytes or none ended.
    pub last: usize,
    /// Whether that frame began in earlier bytes.
    pub last_continued: bool,
}

impl Scanner {
    /// A scanner at the start of a stream.
    pub const fn new() -> Self {
        Self {
            place: Place::Gap,
            start: Start::Fresh,
        }
    }

    /// Whether the last byte seen ended a frame or belongs to a gap, so that another frame may
    /// be inserted here. True at the start of a stream, false inside its byte order mark.
    ///
    /// A byte order mark *after* an inserted frame is no longer the first of the stream: its
    /// reader takes it for the start of a field name. Who inserts before the stream's first byte
    /// must drop the mark (see [`super::BOM`]).
    pub fn at_boundary(&self) -> bool {
        self.place == Place::Gap && matches!(self.start, Start::Fresh | Start::Past)
    }

    /// Takes the next bytes of the stream and says which frames ended in them.
    pub fn scan(&mut self, bytes: &[u8]) -> Scan {
        let mut found = Scan::default();
        let mut continued = self.in_frame();
        let mut begin = if continued {
            0
        } else {
            self.skip_gap(bytes, 0)
        };
        found.end = if self.at_boundary() { begin } else { 0 };
        continued |= begin == 0 && self.in_frame();
        while let Some(end) = self.finish(bytes, begin) {
            found.frames += 1;
            found.last = begin;
            found.last_continued = continued;
            begin = self.skip_gap(bytes, end);
            found.end = begin;
            continued = false;
        }
        found
    }

    /// Takes bytes up to the end of the next frame and returns the offset just after it, or takes
    /// all of them and returns `None` if no frame ends in them. To iterate, call it again with
    /// the bytes from that offset on.
    ///
    /// A gap before the frame is part of what is taken (blank lines, which the readers of frames
    /// here skip). Of a closing CRLF the LF is included if these bytes hold it.
    pub fn next_frame(&mut self, bytes: &[u8]) -> Option<usize> {
        let begin = if self.in_frame() {
            0
        } else {
            self.skip_gap(bytes, 0)
        };
        let end = self.finish(bytes, begin)?;
        let pair = bytes[end - 1] == CR && bytes.get(end) == Some(&LF);
        Some(end + usize::from(pair))
    }

    fn in_frame(&self) -> bool {
        self.place != Place::Gap
    }

    /// Skips the gap from `at` on; returns where the next frame begins, or the length. Leaves
    /// the place in a line as soon as a frame began, be it by a byte that looked like a mark.
    fn skip_gap(&mut self, bytes: &[u8], mut at: usize) -> usize {
        if self.start != Start::Past {
            at = self.skip_mark(bytes, at);
            if self.start != Start::Past || self.in_frame() {
                return at;
            }
        }
        while let Some(&(LF | CR)) = bytes.get(at) {
            at += 1;
        }
        at
    }

    /// Skips the byte order mark at the start of the stream, which may come byte by byte.
    fn skip_mark(&mut self, bytes: &[u8], mut at: usize) -> usize {
        while let Some(&byte) = bytes.get(at) {
            self.start = match (self.start, byte) {
                (Start::Fresh, b) if b == BOM[0] => Start::One,
                (Start::One, b) if b == BOM[1] => Start::Two,
                (Start::Two, b) if b == BOM[2] => Start::Past,
                (Start::Fresh, _) => {
                    self.start = Start::Past;
                    return at;
                }
                _ => {
                    // The bytes that looked like a mark are the first of a line.
                    self.start = Start::Past;
                    self.place = Place::Line;
                    return at;
                }
            };
            at += 1;
            if self.start == Start::Past {
                break;
            }
        }
        at
    }

    /// Goes on from `at`, at or behind the first byte of a frame, to its end: the offset after
    /// the byte that ended it, or `None` if these bytes end first.
    fn finish(&mut self, bytes: &[u8], mut at: usize) -> Option<usize> {
        loop {
            if self.place == Place::Line {
                at += memchr2(LF, CR, &bytes[at..])? + 1;
                self.place = Place::after_line(bytes[at - 1]);
            }
            let byte = *bytes.get(at)?;
            at += 1;
            self.place = match (self.place, byte) {
                (Place::LineStartAfterCr, LF) => Place::LineStart,
                (Place::LineStart | Place::LineStartAfterCr, LF | CR) => {
                    self.place = Place::Gap;
                    return Some(at);
                }
                _ => Place::Line,
            };
        }
    }
}

impl Place {
    fn after_line(end: u8) -> Self {
        if end == CR {
            Self::LineStartAfterCr
        } else {
            Self::LineStart
        }
    }
}
