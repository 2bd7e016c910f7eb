//! A stream of the upstream's as one JSON answer, for a client that asked for no stream: a long
//! thought keeps its connection to the provider alive, and a cut is noticed at once.
//!
//! Nothing goes down before all of it has come, so whatever fails is told by a status.

use std::time::{Duration, Instant};

use super::ask::Answer;
use super::connection::Connection;
use super::inbox::{Filled, Inbox};
use super::pump::{failure, malformed, overdue, receive_failed, truncated};
use crate::clock;
use crate::config::plan::ExchangePlan;
use crate::error::Failure;
use crate::flow::timers::Due;
use crate::http1::body::{BodyDecoder, Eof};
use crate::http1::head::BodyFraming;
use crate::net::stream::Transport;
use crate::net::timer;
use crate::outcome::Outcome;
use crate::shape::collect::{CollectError, Collector};

/// What was collected.
pub(super) struct Collected {
    /// The answer's body.
    pub body: Vec<u8>,
    /// Payload bytes it was made of.
    pub bytes_in: u64,
    /// The upstream sent more than its body.
    pub extra: bool,
}

/// How a body ended in order.
struct Ended {
    /// By its length or last chunk, not merely by the connection's close.
    delimited: bool,
    /// Something stands behind it.
    extra: bool,
    bytes_in: u64,
}

/// Takes the payload of a body piece by piece.
type Take<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), Failure>;

/// A body on its way in.
struct Incoming<'a> {
    upstream: &'a Transport,
    inbox: Inbox,
    decoder: BodyDecoder,
    bytes_in: u64,
    plan: &'a ExchangePlan,
    started: Instant,
}

/// Reads the stream to its end, while the client may leave.
///
/// # Errors
/// Why there is no answer.
pub(super) async fn whole(
    connection: &mut Connection,
    incoming: (&Transport, Answer, BodyFraming),
    mut collector: Collector,
    limits: (&ExchangePlan, Instant),
) -> Result<Collected, Failure> {
    let mut take = |payload: &[u8]| collector.feed(payload).map_err(|error| refused(&error));
    let incoming = Incoming::new(incoming, limits);
    let Ended { delimited, extra, bytes_in } = connection.beside(incoming.run(&mut take)).await??;
    let body = collector.finish(delimited).map_err(|error| refused(&error))?;
    Ok(Collected { body, bytes_in, extra })
}

/// Reads a body of up to so many bytes to its end, while the client may leave.
///
/// # Errors
/// Why it could not be read whole.
pub(super) async fn bounded(
    connection: &mut Connection,
    incoming: (&Transport, Answer, BodyFraming),
    bytes_max: usize,
    limits: (&ExchangePlan, Instant),
) -> Result<Collected, Failure> {
    let mut body = Vec::new();
    let mut take = |payload: &[u8]| {
        if body.len() + payload.len() > bytes_max {
            let message = format!("the upstream's error is longer than {bytes_max} bytes");
            return Err(failure(Outcome::UpstreamProtocol, message));
        }
        body.extend_from_slice(payload);
        Ok(())
    };
    let incoming = Incoming::new(incoming, limits);
    let Ended { extra, bytes_in, .. } = connection.beside(incoming.run(&mut take)).await??;
    Ok(Collected { body, bytes_in, extra })
}

impl<'a> Incoming<'a> {
    fn new(
        (upstream, answer, from): (&'a Transport, Answer, BodyFraming),
        (plan, started): (&'a ExchangePlan, Instant),
    ) -> Self {
        let (inbox, decoder) = (answer.rest, BodyDecoder::new(from));
        Self { upstream, inbox, decoder, bytes_in: 0, plan, started }
    }

    async fn run(mut self, each: Take<'_>) -> Result<Ended, Failure> {
        // Of what came with the head, the moment is now.
        let mut read_at = (!self.inbox.is_empty()).then(clock::now);
        loop {
            if self.take(&mut *each)? {
                return Ok(self.ended(true));
            }
            let (wait, due) = self.wait(read_at);
            if timer::timeout(wait, self.upstream.readable()).await.is_none() {
                overdue(due)?;
            }
            match self.inbox.fill(self.upstream) {
                Ok(Filled::More) => read_at = Some(clock::now()),
                Ok(Filled::Nothing | Filled::Full) => {}
                Ok(Filled::Closed) if self.decoder.at_eof() == Eof::Complete => {
                    return Ok(self.ended(false));
                }
                Ok(Filled::Closed) => return Err(truncated()),
                Err(error) => return Err(receive_failed(error)),
            }
        }
    }

    /// Takes what has come; true when the body is whole.
    fn take(&mut self, each: Take<'_>) -> Result<bool, Failure> {
        let Self { inbox, decoder, bytes_in, .. } = self;
        inbox.decode(
            decoder,
            |error| malformed(Outcome::UpstreamProtocol, &error),
            |payload| {
                *bytes_in += payload.len() as u64;
                each(payload)
            },
        )
    }

    fn ended(&self, delimited: bool) -> Ended {
        Ended { delimited, extra: !self.inbox.is_empty(), bytes_in: self.bytes_in }
    }

    /// How long the next bytes may take, and what it is called when they do not come.
    fn wait(&self, read_at: Option<Instant>) -> (Duration, Due) {
        let now = clock::now();
        let silent = match read_at {
            None => (Some(now + self.plan.first_byte_timeout), Due::FirstByte),
            Some(at) => (self.plan.idle_timeout.map(|idle| at + idle), Due::Idle),
        };
        let stream = self.plan.stream_timeout.map(|limit| self.started + limit);
        let (at, due) = match stream {
            Some(stream) if silent.0.is_none_or(|at| stream < at) => (Some(stream), Due::Stream),
            _ => silent,
        };
        // With no limit at all there is still an end to what a clock can count.
        let left =
            at.map_or(Duration::from_secs(30 * 24 * 3600), |at| at.saturating_duration_since(now));
        (left, due)
    }
}

fn refused(error: &CollectError) -> Failure {
    let outcome = match error {
        CollectError::Upstream { .. } | CollectError::Unfinished => Outcome::UpstreamClosed,
        CollectError::FrameTooLarge(_) | CollectError::TooLarge { .. } => Outcome::FrameTooLarge,
        CollectError::Malformed => Outcome::UpstreamProtocol,
    };
    failure(outcome, error.to_string()).told_as(error.status())
}
