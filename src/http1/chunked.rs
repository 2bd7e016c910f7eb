//! The chunked transfer coding (RFC 9112, section 7.1).
//!
//! A decoder is thirty-two bytes of state and resumes at any byte. It tells framing from payload
//! and stops at every boundary between two chunks, so that a caller can send a chunk on with the
//! framing it came in.

use super::body::{BodyError, Step};
use crate::limits::{CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};

/// Chunk sizes above this are refused: 2⁵³, the largest number every peer counts exactly.
const SIZE_MAX: u64 = 1 << 53;
/// Digits of a size that may be sent on as it is.
const PLAIN_DIGITS_MAX: usize = 8;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    #[default]
    Boundary,
    Size,
    /// Whitespace between size and extension ("bad whitespace" of the grammar).
    Space,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer line.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

/// See the module's description.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChunkedDecoder {
    state: State,
    /// The size while it is read; then what is left of the payload.
    left: u64,
    /// Bytes of the size line or of the trailer section so far.
    line: u32,
    /// The chunk's framing is not canonical.
    odd: bool,
}

impl ChunkedDecoder {
    /// Says what the first bytes of `buf` are. One call takes bytes of one kind, and goes no
    /// further than the next boundary.
    ///
    /// # Errors
    /// The framing is broken.
    pub fn step(&mut self, buf: &[u8]) -> Result<Step, BodyError> {
        if buf.is_empty() {
            return Ok(Step::NeedMore);
        }
        match self.state {
            State::Done => Ok(Step::End(0)),
            State::Data => {
                let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
                self.left -= n as u64;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                Ok(Step::Data(n))
            }
            _ => self.framing(buf),
        }
    }

    /// Takes framing up to payload, a boundary, the end, or the end of `buf`.
    fn framing(&mut self, buf: &[u8]) -> Result<Step, BodyError> {
        for (index, &byte) in buf.iter().enumerate() {
            let taken = index + 1;
            self.take(byte)?;
            match self.state {
                State::Data | State::Boundary => return Ok(Step::Framing(taken)),
                State::Done => return Ok(Step::End(taken)),
                _ => {}
            }
        }
        Ok(Step::Framing(buf.len()))
    }

    /// Takes one byte of framing.
    #[inline]
    fn take(&mut self, byte: u8) -> Result<(), BodyError> {
        self.state = match self.state {
            State::Boundary | State::Size => return self.take_size(byte),
            State::Space => {
                self.count()?;
                match byte {
                    b' ' | b'\t' => State::Space,
                    b';' => State::Extension,
                    b'\r' => State::SizeLf,
                    _ => return Err(BodyError::ChunkSize),
                }
            }
            State::Extension => {
                self.count()?;
                match byte {
                    b'\r' => State::SizeLf,
                    b'\n' | 0 => return Err(BodyError::ChunkEnd),
                    _ => State::Extension,
                }
            }
            State::SizeLf if byte != b'\n' => return Err(BodyError::ChunkEnd),
            State::SizeLf if self.left == 0 => {
                self.line = 0;
                State::TrailerStart
            }
            State::SizeLf => State::Data,
            State::DataCr if byte == b'\r' => State::DataLf,
            State::DataLf if byte == b'\n' => {
                self.line = 0;
                State::Boundary
            }
            State::DataCr | State::DataLf => return Err(BodyError::ChunkEnd),
            _ => return self.take_trailer(byte),
        };
        Ok(())
    }

    fn take_size(&mut self, byte: u8) -> Result<(), BodyError> {
        if self.state == State::Boundary {
            (self.left, self.odd) = (0, false);
        }
        self.count()?;
        if let Some(digit) = digit(byte) {
            self.left = self.left * 16 + u64::from(digit);
            if self.left > SIZE_MAX {
                return Err(BodyError::ChunkSizeTooLarge);
            }
            self.odd |= self.line as usize > PLAIN_DIGITS_MAX;
            self.state = State::Size;
            return Ok(());
        }
        if self.state == State::Boundary {
            return Err(BodyError::ChunkSize);
        }
        self.odd |= byte != b'\r';
        self.state = match byte {
            b'\r' => State::SizeLf,
            b';' => State::Extension,
            b' ' | b'\t' => State::Space,
            _ => return Err(BodyError::ChunkSize),
        };
        Ok(())
    }

    /// Trailer fields are read for their structure and dropped (RFC 9110, section 6.5.1).
    fn take_trailer(&mut self, byte: u8) -> Result<(), BodyError> {
        self.line += 1;
        if self.line as usize > TRAILER_BYTES_MAX {
            return Err(BodyError::TrailersTooLong);
        }
        self.state = match (self.state, byte) {
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::EndLf, b'\n') => State::Done,
            (State::TrailerStart | State::TrailerName, byte) if is_token(byte) => {
                State::TrailerName
            }
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => State::TrailerValue,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            _ => return Err(BodyError::Trailer),
        };
        Ok(())
    }

    fn count(&mut self) -> Result<(), BodyError> {
        self.line += 1;
        if self.line as usize > CHUNK_LINE_BYTES_MAX {
            return Err(BodyError::ChunkLineTooLong);
        }
        Ok(())
    }

    /// Whether the next byte begins a chunk-size line: the last chunk is over, CRLF included.
    #[inline]
    pub fn at_boundary(&self) -> bool {
        self.state == State::Boundary
    }

    /// Whether the current or last chunk's framing is canonical (at most eight hexadecimal digits
    /// and CRLF, no extension), so that its bytes may be sent on as they are.
    #[inline]
    pub fn plain(&self) -> bool {
        !self.odd
    }

    /// Whether the last chunk and the trailers are over.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }
}

/// The lengths of the size line and of the payload of the chunk at the start of `buf`, where all of
/// it is there, its framing is canonical, and it is not the last. `None` says nothing: the decoder
/// tells.
#[inline]
pub fn whole_chunk(buf: &[u8]) -> Option<(usize, usize)> {
    let (mut size, mut digits) = (0, 0);
    for &byte in buf.iter().take(PLAIN_DIGITS_MAX) {
        let Some(digit) = digit(byte) else { break };
        size = size * 16 + usize::from(digit);
        digits += 1;
    }
    let line = digits + 2;
    let whole = size > 0
        && buf.get(digits..line) == Some(b"\r\n")
        && buf.get(line + size..line + size + 2) == Some(b"\r\n");
    whole.then_some((line, size))
}

/// The value of a hexadecimal digit.
#[inline]
fn digit(byte: u8) -> Option<u8> {
    let value = DIGITS[usize::from(byte)];
    (value < 16).then_some(value)
}

/// What each byte is as a digit; more than 15 where it is none.
const DIGITS: [u8; 256] = {
    let mut table = [u8::MAX; 256];
    let mut byte = 0;
    while byte < 256 {
        if let Some(digit) = (byte as u8 as char).to_digit(16) {
            table[byte] = digit as u8;
        }
        byte += 1;
    }
    table
};

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Bytes of the longest chunk-size line: 16 digits and CRLF, with some to spare.
pub const CHUNK_LINE_BYTES: usize = 20;

/// The length of the chunk-size line for `size` bytes of payload.
#[inline]
pub const fn chunk_line_len(size: usize) -> usize {
    // One digit for each four bits, and one for none.
    ((size | 1).ilog2() / 4) as usize + 3
}

/// Writes a chunk-size line for `size` bytes of payload; returns its length.
pub fn encode_chunk_line(size: usize, out: &mut [u8; CHUNK_LINE_BYTES]) -> usize {
    let digits = chunk_line_len(size) - 2;
    for (index, byte) in out[..digits].iter_mut().enumerate() {
        let digit = (size >> (4 * (digits - 1 - index))) & 0xf;
        *byte = b"0123456789abcdef"[digit];
    }
    out[digits..digits + 2].copy_from_slice(b"\r\n");
    digits + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `parts` one after the other; the payload, and whether the body ended where the
    /// input did.
    fn decode(parts: &[&[u8]]) -> Result<(Vec<u8>, bool), BodyError> {
        let mut decoder = ChunkedDecoder::default();
        let mut payload = Vec::new();
        for part in parts {
            let mut at = 0;
            while at < part.len() {
                match decoder.step(&part[at..])? {
                    Step::Framing(n) => at += n,
                    Step::Data(n) => {
                        payload.extend_from_slice(&part[at..at + n]);
                        at += n;
                    }
                    Step::End(n) => {
                        at += n;
                        if n == 0 {
                            return Ok((payload, false));
                        }
                    }
                    Step::NeedMore => break,
                }
            }
        }
        Ok((payload, decoder.is_done()))
    }

    const WHOLE: &[u8] =
        b"5\r\nhello\r\n00A;x=\"y;z\"\r\n0123456789\r\n1 \t;a\r\n!\r\n0\r\nA: b\r\nC:\r\n\r\n";

    #[test]
    fn every_pair_of_splits_gives_the_same_payload() {
        for a in 0..=WHOLE.len() {
            for b in a..=WHOLE.len() {
                let parts = [&WHOLE[..a], &WHOLE[a..b], &WHOLE[b..]];
                let expected = (b"hello0123456789!".to_vec(), true);
                assert_eq!(decode(&parts), Ok(expected), "split at {a} and {b}");
            }
        }
    }

    #[test]
    fn malformed_shapes_are_refused() {
        let cases: &[(&[u8], BodyError)] = &[
            (b"\r\n", BodyError::ChunkSize),
            (b"g\r\n", BodyError::ChunkSize),
            (b"+5\r\nhello\r\n", BodyError::ChunkSize),
            (b"0x5\r\nhello\r\n", BodyError::ChunkSize),
            (b"-1\r\n", BodyError::ChunkSize),
            (b"5\nhello\r\n", BodyError::ChunkSize),
            (b"5;a\nhello", BodyError::ChunkEnd),
            (b"5\rhello", BodyError::ChunkEnd),
            (b"5\r\nhelloX\r\n", BodyError::ChunkEnd),
            (b"5\r\nhello\n0\r\n", BodyError::ChunkEnd),
            (b"5\r\nhello\r0\r\n", BodyError::ChunkEnd),
            (b"20000000000001\r\n", BodyError::ChunkSizeTooLarge),
            (b"fffffffffffffffff\r\n", BodyError::ChunkSizeTooLarge),
            (b"0\r\n bad: folded\r\n\r\n", BodyError::Trailer),
            (b"0\r\nno colon\r\n\r\n", BodyError::Trailer),
            (b"0\r\na: b\n\r\n", BodyError::Trailer),
        ];
        for (bytes, error) in cases {
            assert_eq!(decode(&[bytes]), Err(*error), "{}", String::from_utf8_lossy(bytes));
        }
        let long = [b"1;".as_slice(), &[b'x'; CHUNK_LINE_BYTES_MAX]].concat();
        assert_eq!(decode(&[&long]), Err(BodyError::ChunkLineTooLong));
        let zeros = vec![b'0'; CHUNK_LINE_BYTES_MAX + 1];
        assert_eq!(decode(&[&zeros]), Err(BodyError::ChunkLineTooLong));
        let trailers = [b"0\r\na:".as_slice(), &[b'x'; TRAILER_BYTES_MAX]].concat();
        assert_eq!(decode(&[&trailers]), Err(BodyError::TrailersTooLong));
    }

    #[test]
    fn boundaries_are_stopped_at_and_odd_framing_is_told() {
        let mut decoder = ChunkedDecoder::default();
        assert!(decoder.at_boundary());
        let bytes = b"3\r\nabc\r\n2;x\r\n";
        assert_eq!(decoder.step(bytes), Ok(Step::Framing(3)));
        assert_eq!(decoder.step(&bytes[3..]), Ok(Step::Data(3)));
        assert_eq!(decoder.step(&bytes[6..]), Ok(Step::Framing(2)));
        assert!(decoder.at_boundary() && decoder.plain());
        assert_eq!(decoder.step(&bytes[8..]), Ok(Step::Framing(5)));
        assert!(!decoder.at_boundary() && !decoder.plain());
    }

    #[test]
    fn size_lines_come_back() {
        for size in [1, 9, 15, 16, 208, 0xabc, 65_536, usize::MAX >> 11] {
            let mut line = [0; 20];
            let len = encode_chunk_line(size, &mut line);
            assert_eq!(&line[..len], format!("{size:x}\r\n").as_bytes());
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end_without_panic_and_any_split_agrees(
            bytes in proptest::collection::vec(proptest::sample::select(
                b"0123456789abcdefABCDEFgx;:\"= \t\r\n\r\n\0z".to_vec()), 0..200),
            at in 0_usize..200,
        ) {
            let at = at.min(bytes.len());
            let split = decode(&[&bytes[..at], &bytes[at..]]);
            proptest::prop_assert_eq!(decode(&[&bytes]), split);
        }
    }
}
