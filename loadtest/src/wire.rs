//! A response's framing, decoded as it comes.

use crate::frame::Fault;

/// The longest response head taken.
const HEAD_MAX: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    /// Hex digits of a chunk's size, then anything up to the line's end.
    Size {
        value: u64,
        extension: bool,
    },
    Data(u64),
    /// Line-end bytes after a chunk's data.
    DataEnd(u8),
    /// Trailer lines after the last chunk; the bytes of the current line.
    Trailer(u32),
    Length(u64),
    UntilClose,
    Done,
}

/// A decoder of one response.
#[derive(Debug)]
pub struct Decoder {
    /// The status, once the head is in; nought before.
    pub status: u16,
    /// Whether the connection may carry another exchange.
    pub keep: bool,
    /// The `X-Stream-Id` of a stream that can be resumed.
    pub stream: Option<String>,
    head: Vec<u8>,
    body: Body,
}

/// What a piece of input held.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// The head ended.
    Head,
    /// Payload.
    Payload(&'a [u8]),
    /// The response ended.
    End,
    /// All was taken.
    Empty,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { status: 0, keep: true, stream: None, head: Vec::new(), body: Body::Done }
    }
}

impl Decoder {
    /// Whether the response is over.
    pub fn done(&self) -> bool {
        self.status != 0 && self.body == Body::Done
    }

    /// Whether the end of the connection is the end of the response.
    pub fn ends_by_close(&self) -> bool {
        self.status != 0 && self.body == Body::UntilClose
    }

    /// Takes from `input` up to the next part.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Part<'a>, Fault> {
        if self.status == 0 {
            return self.take_head(input);
        }
        while !input.is_empty() {
            match &mut self.body {
                Body::Data(left) | Body::Length(left) => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    let (payload, rest) = input.split_at(take);
                    *input = rest;
                    *left -= take as u64;
                    if *left == 0 {
                        let chunk = matches!(self.body, Body::Data(_));
                        self.body = if chunk { Body::DataEnd(0) } else { Body::Done };
                    }
                    return Ok(Part::Payload(payload));
                }
                Body::UntilClose => return Ok(Part::Payload(std::mem::take(input))),
                Body::Done => return Err(Fault::Framing),
                _ => {
                    let byte = input[0];
                    *input = &input[1..];
                    self.frame_byte(byte)?;
                    if self.body == Body::Done {
                        return Ok(Part::End);
                    }
                }
            }
        }
        Ok(Part::Empty)
    }

    fn frame_byte(&mut self, byte: u8) -> Result<(), Fault> {
        self.body = match (self.body, byte) {
            (Body::Size { value: 0, .. }, b'\n') => Body::Trailer(0),
            (Body::Size { value, .. }, b'\n') => Body::Data(value),
            (Body::Size { value, .. }, b'\r' | b';' | b' ') => {
                Body::Size { value, extension: true }
            }
            (Body::Size { value, extension: false }, digit) => {
                let digit = char::from(digit).to_digit(16).ok_or(Fault::Framing)?;
                Body::Size { value: value << 4 | u64::from(digit), extension: false }
            }
            (same @ Body::Size { .. }, _) => same,
            (Body::DataEnd(0), b'\r') => Body::DataEnd(1),
            (Body::DataEnd(1), b'\n') => Body::Size { value: 0, extension: false },
            (Body::Trailer(0), b'\n') => Body::Done,
            (Body::Trailer(_), b'\n') => Body::Trailer(0),
            (same @ Body::Trailer(_), b'\r') => same,
            (Body::Trailer(count), _) => Body::Trailer(count.saturating_add(1)),
            _ => return Err(Fault::Framing),
        };
        Ok(())
    }

    fn take_head<'a>(&mut self, input: &mut &'a [u8]) -> Result<Part<'a>, Fault> {
        let before = self.head.len();
        self.head.extend_from_slice(input);
        let from = before.saturating_sub(3);
        let Some(end) = self.head[from..].windows(4).position(|at| at == b"\r\n\r\n") else {
            *input = &[];
            return if self.head.len() > HEAD_MAX { Err(Fault::Framing) } else { Ok(Part::Empty) };
        };
        let end = from + end + 4;
        *input = &input[end - before..];
        let head = std::mem::take(&mut self.head);
        self.read_head(&head[..end]).ok_or(Fault::Framing)?;
        Ok(Part::Head)
    }

    fn read_head(&mut self, head: &[u8]) -> Option<()> {
        let text = std::str::from_utf8(head).ok()?;
        let mut lines = text.split("\r\n");
        let start = lines.next()?;
        self.status = start.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
        self.keep = start.starts_with("HTTP/1.1");
        // No content, whatever the fields say.
        let bare = self.status == 204 || self.status == 304;
        self.body = if bare { Body::Done } else { Body::UntilClose };
        for line in lines {
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            if name.eq_ignore_ascii_case("x-stream-id") {
                self.stream = Some(value.to_owned());
            } else if bare {
                self.keep &= !value.eq_ignore_ascii_case("close");
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                self.body = Body::Size { value: 0, extension: false };
            } else if name.eq_ignore_ascii_case("content-length") {
                let length = value.parse().ok()?;
                self.body = if length == 0 { Body::Done } else { Body::Length(length) };
            } else if name.eq_ignore_ascii_case("connection") {
                self.keep &= !value.eq_ignore_ascii_case("close");
            }
        }
        self.keep &= self.body != Body::UntilClose;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(pieces: &[&[u8]]) -> Result<(u16, Vec<u8>, bool), Fault> {
        let mut decoder = Decoder::default();
        let mut payload = Vec::new();
        for piece in pieces {
            let mut input = *piece;
            while !input.is_empty() {
                if let Part::Payload(part) = decoder.next(&mut input)? {
                    payload.extend_from_slice(part);
                }
            }
        }
        Ok((decoder.status, payload, decoder.done()))
    }

    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\nabc\r\n00a;x=y\r\n0123456789\r\n0\r\nA: b\r\n\r\n";

    #[test]
    fn chunks_are_decoded_however_they_are_cut() {
        for cut in 0..=CHUNKED.len() {
            let seen = decode(&[&CHUNKED[..cut], &CHUNKED[cut..]]).expect("valid");
            assert_eq!(seen, (200, b"abc0123456789".to_vec(), true), "cut at {cut}");
        }
        let single: Vec<&[u8]> = CHUNKED.chunks(1).collect();
        assert_eq!(decode(&single).expect("valid").1, b"abc0123456789");
    }

    #[test]
    fn no_content_is_over_at_its_head_and_a_streams_name_is_read() {
        let mut input = &b"HTTP/1.1 204 No Content\r\nX-Stream-Id: s.0.1\r\n\r\n"[..];
        let mut decoder = Decoder::default();
        assert_eq!(decoder.next(&mut input), Ok(Part::Head));
        assert!(decoder.done() && decoder.keep && input.is_empty());
        assert_eq!(decoder.stream.as_deref(), Some("s.0.1"));
    }

    #[test]
    fn lengths_and_broken_framing() {
        let head = b"HTTP/1.1 503 No\r\nContent-Length: 3\r\nConnection: close\r\n\r\n";
        assert_eq!(decode(&[head, b"abc"]), Ok((503, b"abc".to_vec(), true)));
        assert_eq!(decode(&[head, b"abcd"]), Err(Fault::Framing));
        let bad = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd";
        assert_eq!(decode(&[bad]), Err(Fault::Framing));
        assert_eq!(decode(&[b"nonsense\r\n\r\n"]), Err(Fault::Framing));
        assert!(!decode(&[&CHUNKED[..60]]).expect("valid so far").2);
    }
}
