//! A stream's bytes as whole frames, for those who rewrite them.
//!
//! Frames that lie whole in what was fed are lent from there; only one that is cut is put together
//! in a buffer. The relay's own path does not use it: it sends frames on as they lie.

use std::fmt;

use super::event::skip_gap;
use super::scanner::Scanner;

/// A frame was longer than may be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameTooLarge {
    /// The cap, in bytes of one frame.
    pub frame_bytes_max: usize,
}

impl fmt::Display for FrameTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a frame of the event stream is longer than {} bytes", self.frame_bytes_max)
    }
}

impl std::error::Error for FrameTooLarge {}

/// See the module's description.
#[derive(Debug)]
pub struct Frames {
    scanner: Scanner,
    /// The unfinished frame.
    tail: Vec<u8>,
    frame_bytes_max: usize,
}

/// Bytes of room for an unfinished frame that are kept between frames.
const TAIL_KEPT_BYTES: usize = 2 * 1024;

impl Frames {
    /// The start of a stream, of which a frame may have `frame_bytes_max` bytes.
    pub const fn new(frame_bytes_max: usize) -> Self {
        Self { scanner: Scanner::new(), tail: Vec::new(), frame_bytes_max }
    }

    /// Takes the next bytes and lends `each` the frames that end in them, gap bytes before them
    /// included (also a byte order mark at the stream's start).
    ///
    /// # Errors
    /// [`FrameTooLarge`], with what came before told; or the first error of `each`. The stream
    /// cannot be gone on with behind either.
    pub fn feed<E: From<FrameTooLarge>>(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            let Some(end) = self.scanner.next_frame(bytes) else {
                if self.scanner.at_boundary() {
                    // Gap alone is dropped, and the beginning of a byte order mark with it.
                    self.tail.clear();
                    return Ok(());
                }
                return Ok(self.hold(bytes)?);
            };
            let (frame, rest) = bytes.split_at(end);
            bytes = rest;
            // Neither gap before it nor an LF that a CR behind it does not need makes it longer.
            let counted = frame.strip_suffix(b"\r\n").map_or(frame.len(), |rest| rest.len() + 1);
            if self.tail.is_empty() {
                self.check(skip_gap(&frame[..counted], false).len())?;
                each(frame)?;
            } else {
                self.check(self.tail.len() + counted)?;
                self.tail.extend_from_slice(frame);
                let told = each(&self.tail);
                self.tail.clear();
                told?;
            }
        }
        Ok(())
    }

    /// The frame that the stream's end leaves unfinished; empty if it ends between frames.
    pub fn rest(&self) -> &[u8] {
        &self.tail
    }

    /// Gives memory back.
    pub fn settle(&mut self) {
        if self.tail.is_empty() && self.tail.capacity() > TAIL_KEPT_BYTES {
            self.tail = Vec::new();
        }
    }

    fn hold(&mut self, mut bytes: &[u8]) -> Result<(), FrameTooLarge> {
        if self.tail.is_empty() {
            bytes = skip_gap(bytes, false);
        }
        self.check(self.tail.len() + bytes.len())?;
        self.tail.extend_from_slice(bytes);
        Ok(())
    }

    fn check(&self, len: usize) -> Result<(), FrameTooLarge> {
        if len > self.frame_bytes_max {
            return Err(FrameTooLarge { frame_bytes_max: self.frame_bytes_max });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::event::Event;

    fn frames(parts: &[&[u8]], max: usize) -> (Vec<Vec<u8>>, Result<(), FrameTooLarge>, Vec<u8>) {
        let (mut frames, mut found) = (Frames::new(max), Vec::new());
        let mut feed = |part: &&[u8]| {
            frames.feed(part, |frame| {
                let data = Event::parse(skip_gap(frame, true)).data;
                found.push(data.unwrap_or_default().into_owned());
                Ok(())
            })
        };
        let result = parts.iter().try_for_each(&mut feed);
        (found, result, frames.rest().to_vec())
    }

    #[test]
    fn any_two_cuts_yield_the_same_frames() {
        let stream = b"\xEF\xBB\xBF\n\ndata: 1\r\n\r\n: c\n\ndata: 2\r\rdata: 3\n\n\n\ndata: 4";
        let whole = frames(&[stream], 100);
        assert_eq!(whole.0, [&b"1"[..], b"", b"2", b"3"]);
        assert_eq!(whole.2, b"data: 4");
        for a in 0..=stream.len() {
            for b in a..=stream.len() {
                let cut = frames(&[&stream[..a], &stream[a..b], &stream[b..]], 100);
                assert_eq!(cut, whole, "cut at {a} and {b}");
            }
        }
    }

    #[test]
    fn a_frame_above_the_cap_is_refused_whole_or_in_pieces() {
        let stream = b"data: 1\n\ndata: 1234567\n\n";
        for step in 1..=stream.len() {
            let parts: Vec<&[u8]> = stream.chunks(step).collect();
            let (found, result, rest) = frames(&parts, 12);
            assert_eq!(found, [b"1"], "{step}");
            assert_eq!(result, Err(FrameTooLarge { frame_bytes_max: 12 }));
            assert!(rest.len() <= 12);
            assert_eq!(frames(&parts, 15).1, Ok(()));
        }
    }
}
