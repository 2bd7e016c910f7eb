//! The same rules once more, for whole inputs, as directly as they can be written.

use millstream::limits::{CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};

/// Why reading a chunked body stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The body is over, this many bytes into the input.
    Done(usize),
    /// The input ends within the body.
    Partial,
    /// The last byte looked at cannot stand there.
    Fault,
}

/// What a chunked body comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The payload before the stop.
    pub payload: Vec<u8>,
    /// Why it stopped.
    pub stop: Stop,
    /// The last offset at which a chunk was over, and the payload up to there.
    pub boundary: (usize, usize),
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn next(&mut self) -> Result<u8, Stop> {
        let byte = self.bytes.get(self.at).copied().ok_or(Stop::Partial)?;
        self.at += 1;
        Ok(byte)
    }

    fn next_within(&mut self, start: usize, max: usize) -> Result<u8, Stop> {
        let byte = self.next()?;
        if self.at - start > max { Err(Stop::Fault) } else { Ok(byte) }
    }

    fn expect(&mut self, wanted: u8) -> Result<(), Stop> {
        if self.next()? == wanted { Ok(()) } else { Err(Stop::Fault) }
    }

    /// chunk-size [ chunk-ext ] CRLF
    fn size(&mut self) -> Result<u64, Stop> {
        let start = self.at;
        let next = |cursor: &mut Self| cursor.next_within(start, CHUNK_LINE_BYTES_MAX);
        let (mut size, mut digits) = (0_u64, 0);
        let mut byte = next(self)?;
        while let Some(digit) = (byte as char).to_digit(16) {
            size = size * 16 + u64::from(digit);
            if size > 1 << 53 {
                return Err(Stop::Fault);
            }
            digits += 1;
            byte = next(self)?;
        }
        if digits == 0 {
            return Err(Stop::Fault);
        }
        while matches!(byte, b' ' | b'\t') {
            byte = next(self)?;
        }
        if byte == b';' {
            while byte != b'\r' {
                byte = next(self)?;
                if matches!(byte, 0 | b'\n') {
                    return Err(Stop::Fault);
                }
            }
        }
        if byte != b'\r' {
            return Err(Stop::Fault);
        }
        self.expect(b'\n')?;
        Ok(size)
    }

    /// trailer-section CRLF
    fn trailers(&mut self) -> Result<(), Stop> {
        let start = self.at;
        let next = |cursor: &mut Self| cursor.next_within(start, TRAILER_BYTES_MAX);
        let token = |byte: u8| {
            matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z')
                || b"!#$%&'*+-.^_`|~".contains(&byte)
        };
        loop {
            let mut byte = next(self)?;
            if byte == b'\r' {
                return if next(self)? == b'\n' { Ok(()) } else { Err(Stop::Fault) };
            }
            if !token(byte) {
                return Err(Stop::Fault);
            }
            while token(byte) {
                byte = next(self)?;
            }
            if byte != b':' {
                return Err(Stop::Fault);
            }
            byte = next(self)?;
            while byte != b'\r' {
                if byte != b'\t' && (byte < b' ' || byte == 0x7f) {
                    return Err(Stop::Fault);
                }
                byte = next(self)?;
            }
            if next(self)? != b'\n' {
                return Err(Stop::Fault);
            }
        }
    }
}

/// Reads `bytes` as a chunked body (RFC 9112, section 7.1).
pub fn unchunk(bytes: &[u8]) -> Body {
    let mut cursor = Cursor { bytes, at: 0 };
    let mut body = Body { payload: Vec::new(), stop: Stop::Partial, boundary: (0, 0) };
    body.stop = loop {
        match chunk(&mut cursor, &mut body.payload) {
            Ok(true) => body.boundary = (cursor.at, body.payload.len()),
            Ok(false) => break Stop::Done(cursor.at),
            Err(stop) => break stop,
        }
    };
    body
}

/// One chunk; false where it was the last.
fn chunk(cursor: &mut Cursor<'_>, payload: &mut Vec<u8>) -> Result<bool, Stop> {
    let size = cursor.size()?;
    if size == 0 {
        cursor.trailers()?;
        return Ok(false);
    }
    let left = &cursor.bytes[cursor.at..];
    let n = usize::try_from(size).unwrap_or(usize::MAX).min(left.len());
    payload.extend_from_slice(&left[..n]);
    cursor.at += n;
    if (n as u64) < size {
        return Err(Stop::Partial);
    }
    cursor.expect(b'\r')?;
    cursor.expect(b'\n')?;
    Ok(true)
}

/// A place in an event stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Frames that have ended.
    pub frames: u64,
    /// Another frame may stand here.
    pub between: bool,
}

/// The places before the first byte, and after each, of an event stream.
#[derive(Clone, Debug)]
pub struct Places {
    stream: Vec<u8>,
    places: Vec<Place>,
    after_cr: bool,
    line_empty: bool,
    in_frame: bool,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            stream: Vec::new(),
            places: vec![Place { frames: 0, between: true }],
            after_cr: false,
            line_empty: true,
            in_frame: false,
        }
    }
}

impl Places {
    /// The places of `stream`.
    pub fn of(stream: &[u8]) -> Self {
        let mut places = Self::default();
        places.extend(stream);
        places
    }

    /// Goes on with more bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.push(*byte);
        }
    }

    fn push(&mut self, byte: u8) {
        self.stream.push(byte);
        let mut frames = self.at(self.stream.len() - 1).frames;
        let pair = byte == b'\n' && self.after_cr;
        self.after_cr = byte == b'\r';
        if self.stream == b"\xEF\xBB\xBF" {
            self.line_empty = true;
        } else if pair {
            // Part of the line end before.
        } else if matches!(byte, b'\r' | b'\n') {
            if self.line_empty && self.in_frame {
                frames += 1;
            }
            self.in_frame = !self.line_empty;
            self.line_empty = true;
        } else {
            self.line_empty = false;
        }
        self.places.push(Place { frames, between: self.line_empty && !self.in_frame });
    }

    /// The bytes.
    pub fn stream(&self) -> &[u8] {
        &self.stream
    }

    /// The place after `n` bytes.
    pub fn at(&self, n: usize) -> Place {
        self.places[n]
    }

    /// The last place in `..=n` that is between frames.
    pub fn last_between(&self, n: usize) -> usize {
        (0..=n).rev().find(|at| self.places[*at].between).unwrap_or_default()
    }
}
