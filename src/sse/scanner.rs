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
//!
//! # Speed
//!
//! One `memchr2` a line, then one look at the next byte, is what won. Measured on one core of an
//! Intel Xeon (AVX2, 64 KiB in cache, LF, GB/s by bytes of a frame; `benches/sse.rs` repeats the
//! first and the last rows):
//!
//! | | 40 | 100 | 208 | 400 | 1 MiB |
//! |---|---|---|---|---|---|
//! | this scanner | 5.8 | 11 | 18 | 28 | 82 |
//! | bare loop of `memchr2` | 6.2 | 12 | 19 | 30 | 82 |
//! | loop of `memchr(LF)`, after one pass that finds no CR | 6.5 | 14 | 19 | 29 | 61 |
//! | `memmem` of two LFs, after the same pass | 5.7 | 11 | 16 | 22 | 29 |
//! | counting LF LF without a branch (SSE2), after the same pass | 16 | 16 | 16 | 16 | 16 |
//! | counting every kind of end without a branch (SSE2) | 7.8 | 7.8 | 7.8 | 7.5 | 7.9 |
//! | one `memchr` of an absent byte | 121 | 121 | 121 | 121 | 123 |
//!
//! The counters win only below 100 bytes a frame and would need a second search for the last end;
//! about 8 ns a frame is a thousandth of the system calls around it.

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
        Self { place: Place::Gap, start: Start::Fresh }
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
        let (mut begin, mut continued) = match self.enter(bytes) {
            Entry::Continued => (0, true),
            Entry::Begins(begin) => (begin, false),
            Entry::Gap(end) => {
                return Scan { end, ..Scan::default() };
            }
        };
        let mut found = Scan { end: begin, ..Scan::default() };
        while let Some(end) = self.finish(bytes, begin) {
            found.frames += 1;
            found.last = begin;
            found.last_continued = continued;
            continued = false;
            begin = skip_line_ends(bytes, end);
            found.end = begin;
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
        let begin = match self.enter(bytes) {
            Entry::Continued => 0,
            Entry::Begins(begin) => begin,
            Entry::Gap(_) => return None,
        };
        let end = self.finish(bytes, begin)?;
        let pair = bytes[end - 1] == CR && bytes.get(end) == Some(&LF);
        Some(end + usize::from(pair))
    }

    /// Skips the gap at the start of `bytes`, if the place is in one.
    #[inline]
    fn enter(&mut self, bytes: &[u8]) -> Entry {
        if self.place != Place::Gap {
            return Entry::Continued;
        }
        let mut at = 0;
        if self.start != Start::Past {
            let begun = self.start != Start::Fresh;
            at = self.skip_mark(bytes);
            if self.start != Start::Past {
                return Entry::Gap(0);
            }
            if self.place == Place::Line {
                return if begun { Entry::Continued } else { Entry::Begins(0) };
            }
        }
        at = skip_line_ends(bytes, at);
        if at == bytes.len() { Entry::Gap(at) } else { Entry::Begins(at) }
    }

    /// Skips the byte order mark at the start of the stream, which may come byte by byte. If it
    /// turns out to be none, its bytes are the first of a line.
    fn skip_mark(&mut self, bytes: &[u8]) -> usize {
        for (at, &byte) in bytes.iter().enumerate() {
            self.start = match self.start {
                Start::Fresh if byte == BOM[0] => Start::One,
                Start::One if byte == BOM[1] => Start::Two,
                Start::Two if byte == BOM[2] => {
                    self.start = Start::Past;
                    return at + 1;
                }
                before => {
                    if before != Start::Fresh {
                        self.place = Place::Line;
                    }
                    self.start = Start::Past;
                    return at;
                }
            };
        }
        bytes.len()
    }

    /// Goes on from `at`, at or behind the first byte of a frame, to its end: the offset after
    /// the byte that ended it, or `None` if these bytes end first.
    #[inline(always)] // a call would cost a frame 60 instructions
    fn finish(&mut self, bytes: &[u8], mut at: usize) -> Option<usize> {
        let mut place = self.place;
        loop {
            // Between lines the next byte decides alone; it is nearly always there already.
            if place != Place::Line {
                let Some(&byte) = bytes.get(at) else { break };
                at += 1;
                match (place, byte) {
                    (Place::LineStartAfterCr, LF) => {
                        place = Place::LineStart;
                        continue;
                    }
                    (Place::LineStart | Place::LineStartAfterCr, LF | CR) => {
                        self.place = Place::Gap;
                        return Some(at);
                    }
                    _ => place = Place::Line,
                }
            }
            let Some(length) = memchr2(LF, CR, &bytes[at..]) else {
                break;
            };
            at += length + 1;
            place = if bytes[at - 1] == CR { Place::LineStartAfterCr } else { Place::LineStart };
        }
        self.place = place;
        None
    }
}
/// What the first of some bytes is.
enum Entry {
    /// The middle of a frame.
    Continued,
    /// A frame begins at this offset, behind a gap if it is not 0.
    Begins(usize),
    /// There is gap only, which ends at this offset: 0 in the middle of a byte order mark.
    Gap(usize),
}

fn skip_line_ends(bytes: &[u8], mut at: usize) -> usize {
    while let Some(&(LF | CR)) = bytes.get(at) {
        at += 1;
    }
    at
}
