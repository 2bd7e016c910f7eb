//! Why a stream cannot go on.

use std::fmt;

use crate::http1::body::BodyError;
use crate::outcome::Outcome;
use crate::shape::FrameMalformed;
use crate::sse::frames::FrameTooLarge;

/// Why a stream cannot go on. What came before is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFault {
    /// The body's framing is broken.
    Body(BodyError),
    /// A frame that was to be told in other words is longer than may be held.
    FrameTooLarge(FrameTooLarge),
    /// Such a frame is broken.
    Malformed(FrameMalformed),
}

impl StreamFault {
    /// The named end it leads to.
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::FrameTooLarge(_) => Outcome::FrameTooLarge,
            Self::Body(_) | Self::Malformed(_) => Outcome::UpstreamProtocol,
        }
    }
}

impl fmt::Display for StreamFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(error) => error.fmt(f),
            Self::FrameTooLarge(error) => error.fmt(f),
            Self::Malformed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StreamFault {}

impl From<BodyError> for StreamFault {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

impl From<FrameTooLarge> for StreamFault {
    fn from(error: FrameTooLarge) -> Self {
        Self::FrameTooLarge(error)
    }
}

impl From<FrameMalformed> for StreamFault {
    fn from(error: FrameMalformed) -> Self {
        Self::Malformed(error)
    }
}
