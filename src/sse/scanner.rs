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
        let begin = match self.enter(bytes) {
            Entry::Continued => {
                found.last_continued = true;
                0
            }
            Entry::Begins(begin) => begin,
            Entry::Gap(end) => return Scan { end, ..found },
        };
        let Some(end) = self.finish(bytes, begin) else {
            return Scan {
                end: begin,
                ..Scan::default()
            };
        };
        found.frames = 1;
        found.last = begin;
        found.end = skip_line_ends(bytes, end);
        let rest = &bytes[found.end..];
        if rest.len() >= BULK_BYTES_MIN {
            self.scan_bulk(bytes, &mut found);
        } else if !rest.is_empty() {
            self.scan_each(bytes, &mut found);
        }
        found
    }

    /// Goes on from `found.end`, where a frame begins, frame by frame.
    fn scan_each(&mut self, bytes: &[u8], found: &mut Scan) {
        let mut begin = found.end;
        while let Some(end) = self.finish(bytes, begin) {
            found.frames += 1;
            found.last = begin;
            found.last_continued = false;
            begin = skip_line_ends(bytes, end);
        }
        found.end = begin;
    }

    /// The same for many bytes: counts the ends of frames without finding them, then finds the
    /// last two from behind.
    fn scan_bulk(&mut self, bytes: &[u8], found: &mut Scan) {
        let rest = &bytes[found.end..];
        let ends = count_ends(rest);
        if ends > 0
            && let Some(last_end) = rfind_end(rest)
        {
            let last = rfind_end(&rest[..last_end - 1]).map_or(0, |end| skip_line_ends(rest, end));
            found.frames += ends;
            found.last = found.end + last;
            found.last_continued = false;
            found.end += skip_line_ends(rest, last_end);
        }
        // What is left is an unfinished frame; it sets the place.
        self.scan_each(bytes, found);
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
                return if begun {
                    Entry::Continued
                } else {
                    Entry::Begins(0)
                };
            }
        }
        at = skip_line_ends(bytes, at);
        if at == bytes.len() {
            Entry::Gap(at)
        } else {
            Entry::Begins(at)
        }
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

/// Bytes from which counting beats searching.
const BULK_BYTES_MIN: usize = 512;
/// Bytes counted in one stretch. A frame takes three, so a `u8` holds the ends of this many.
const BLOCK: usize = 704;

/// Whether the byte `b0` ends a frame, given the bytes before it, nearest first, where all of them
/// belong to lines and their ends: it ends an empty line, and the line before was not empty.
///
/// In words: it ends a line (a LF behind a CR ended it already); what stands before it ends a
/// line too; and what stands before *that* line end, of two bytes if it is CRLF, does not.
#[inline(always)]
fn ends_frame(b0: u8, b1: u8, b2: u8, b3: u8) -> bool {
    let line_end = |byte: u8| (byte == LF) | (byte == CR);
    let blank = line_end(b0) & line_end(b1) & !((b0 == LF) & (b1 == CR));
    blank & (!line_end(b2) | ((b1 == LF) & (b2 == CR) & !line_end(b3)))
}

fn ends_frame_at(bytes: &[u8], at: usize) -> bool {
    let before = |n: usize| at.checked_sub(n).map_or(0, |at| bytes[at]);
    ends_frame(bytes[at], before(1), before(2), before(3))
}

/// The frames that end in `bytes`, which begin with the first byte of one.
fn count_ends(bytes: &[u8]) -> u32 {
    let mut ends = (0..bytes.len().min(3))
        .filter(|at| ends_frame_at(bytes, *at))
        .count() as u32;
    let mut at = 0;
    while let Some(block) = bytes[at..].first_chunk::<{ BLOCK + 3 }>() {
        let mut sum = 0_u8;
        for i in 0..BLOCK {
            sum += u8::from(ends_frame(
                block[i + 3],
                block[i + 2],
                block[i + 1],
                block[i],
            ));
        }
        ends += u32::from(sum);
        at += BLOCK;
    }
    for window in bytes[at..].windows(4) {
        ends += u32::from(ends_frame(window[3], window[2], window[1], window[0]));
    }
    ends
}

/// The offset just after the byte that ends the last frame of `bytes`, which begin with the first
/// byte of one.
fn rfind_end(bytes: &[u8]) -> Option<usize> {
    memchr::memrchr2_iter(LF, CR, bytes)
        .find(|at| ends_frame_at(bytes, *at))
        .map(|at| at + 1)
}
