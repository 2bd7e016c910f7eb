//! What went wrong, on which side, in which phase, and whether another try is allowed.

use std::fmt;
use std::io;

use crate::outcome::Outcome;

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's side.
    Downstream,
    /// The provider's side.
    Upstream,
    /// The relay itself.
    Relay,
}

/// How far the exchange had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Making the upstream connection.
    Connect,
    /// Sending the request.
    Request,
    /// Waiting for or reading the response head.
    Head,
    /// Relaying the response body.
    Body,
}

/// Whether another try is safe (asked only while nothing has gone downstream).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retryable {
    /// Nothing reached an upstream: always.
    Always,
    /// The connection was a reused one and closed before its first byte: it was dead already.
    Reused,
    /// The upstream may have begun to work: only where the route says so.
    Never,
}

/// A failure of an exchange.
#[derive(Debug)]
pub struct Failure {
    /// Whose fault.
    pub side: Side,
    /// How far it had come.
    pub phase: Phase,
    /// The named end it leads to.
    pub outcome: Outcome,
    /// Whether another try is safe.
    pub retryable: Retryable,
    /// The status that tells it before a head was sent, where the outcome alone does not say.
    pub told_as: Option<u16>,
    /// One line for the log and the client: what happened. Never holds credentials.
    pub message: String,
}

impl Failure {
    /// A failure on the upstream's side that must not be tried again.
    pub fn upstream(phase: Phase, outcome: Outcome, message: impl Into<String>) -> Self {
        Self {
            side: Side::Upstream,
            phase,
            outcome,
            retryable: Retryable::Never,
            told_as: None,
            message: message.into(),
        }
    }

    /// A failure on the client's side.
    pub fn downstream(phase: Phase, outcome: Outcome, message: impl Into<String>) -> Self {
        Self {
            side: Side::Downstream,
            phase,
            outcome,
            retryable: Retryable::Never,
            told_as: None,
            message: message.into(),
        }
    }

    /// The same failure, told with this status.
    #[must_use]
    pub fn told_as(mut self, status: u16) -> Self {
        self.told_as = Some(status);
        self
    }

    /// The same failure, with another answer to whether it may be tried again.
    #[must_use]
    pub fn retryable(mut self, retryable: Retryable) -> Self {
        self.retryable = retryable;
        self
    }

    /// The status that tells it before a head was sent (RFC 9110, section 15).
    pub const fn status(&self) -> u16 {
        if let Some(status) = self.told_as {
            return status;
        }
        match self.outcome {
            Outcome::ConnectTimeout
            | Outcome::FirstByteTimeout
            | Outcome::IdleTimeout
            | Outcome::StreamTimeout => 504,
            Outcome::RequestTimeout => 408,
            Outcome::RequestRefused => 400,
            Outcome::Overloaded | Outcome::Drained => 503,
            Outcome::Panicked => 500,
            _ => 502,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Whether an I/O error says that the peer went away (and not that our call was wrong).
pub fn is_peer_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
            | io::ErrorKind::TimedOut
    )
}
