//! Where a body ends (RFC 9112, section 6.3).

use std::fmt;

use super::chunked::ChunkedDecoder;
use super::head::BodyFraming;

/// What the next bytes of a body are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes are framing, not payload.
    Framing(usize),
    /// So many bytes are payload.
    Data(usize),
    /// So many bytes are framing, and the body is over behind them.
    End(usize),
    /// There are no bytes to look at.
    NeedMore,
}

/// What is wrong with a body's framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// A chunk size is no hexadecimal number, or missing.
    ChunkSize,
    /// A chunk size is beyond 2⁵³.
    ChunkSizeTooLarge,
    /// A chunk-size line with its extensions is too long.
    ChunkLineTooLong,
    /// A chunk's payload, size line or trailer does not end in CRLF.
    ChunkEnd,
    /// A trailer field is malformed.
    Trailer,
    /// The trailer section is too long.
    TrailersTooLong,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ChunkSize => "a chunk size is not hexadecimal",
            Self::ChunkSizeTooLarge => "a chunk size is beyond 2^53",
            Self::ChunkLineTooLong => "a chunk-size line is too long",
            Self::ChunkEnd => "a chunk does not end in CRLF",
            Self::Trailer => "a trailer field is malformed",
            Self::TrailersTooLong => "the trailer section is too long",
        })
    }
}

impl std::error::Error for BodyError {}

/// What a closed connection means for the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eof {
    /// The body is whole.
    Complete,
    /// Some of it is missing.
    Truncated,
}

/// Finds the end of a body; resumable at any byte, in constant memory.
#[derive(Debug)]
pub enum BodyDecoder {
    /// No body.
    None,
    /// So many bytes are left.
    Length(u64),
    /// Chunks.
    Chunked(ChunkedDecoder),
    /// Until the connection closes.
    Close,
}

impl BodyDecoder {
    /// A decoder for `framing`.
    pub fn new(framing: BodyFraming) -> Self {
        match framing {
            BodyFraming::None => Self::None,
            BodyFraming::Length(length) => Self::Length(length),
            BodyFraming::Chunked => Self::Chunked(ChunkedDecoder::default()),
            BodyFraming::Close => Self::Close,
        }
    }

    /// Says what the first bytes of `buf` are; the next call gets what follows them.
    ///
    /// # Errors
    /// The framing is broken; nothing after it can be trusted.
    pub fn step(&mut self, buf: &[u8]) -> Result<Step, BodyError> {
        match self {
            Self::None | Self::Length(0) => Ok(Step::End(0)),
            _ if buf.is_empty() => Ok(Step::NeedMore),
            Self::Length(left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
                *left -= n as u64;
                Ok(Step::Data(n))
            }
            Self::Chunked(decoder) => decoder.step(buf),
            Self::Close => Ok(Step::Data(buf.len())),
        }
    }

    /// Whether the body is over.
    pub fn is_done(&self) -> bool {
        match self {
            Self::None | Self::Length(0) => true,
            Self::Length(_) | Self::Close => false,
            Self::Chunked(decoder) => decoder.is_done(),
        }
    }

    /// What a close means now.
    pub fn at_eof(&self) -> Eof {
        match self {
            Self::Close => Eof::Complete,
            _ if self.is_done() => Eof::Complete,
            _ => Eof::Truncated,
        }
    }

    /// Whether the next byte begins a chunk-size line.
    pub fn at_boundary(&self) -> bool {
        matches!(self, Self::Chunked(decoder) if decoder.at_boundary())
    }

    /// Whether the current or last chunk's framing may be sent on as it is.
    pub fn plain(&self) -> bool {
        matches!(self, Self::Chunked(decoder) if decoder.plain())
    }
}
