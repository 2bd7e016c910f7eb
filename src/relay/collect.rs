//! A stream of the upstream's as one JSON answer, for a client that asked for no stream: a long
//! thought keeps its connection to the provider alive, and a cut is noticed at once.
//!
//! Nothing goes down before all of it has come, so whatever fails is told by a status.

use std::time::{Duration, Instant};

use super::ask::Answer;
use super::connection::Connection;
use super::inbox::{Filled, Inbox};
use super::pump::{failure, malformed, receive_failed, truncated};
use crate::clock;
use crate::config::plan::ExchangePlan;
use crate::error::Failure;
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

/// The stream on its way in.
struct Incoming<'a> {
    upstream: &'a Transport,
    inbox: Inbox,
    decoder: BodyDecoder,
    collector: Collector,
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
    (upstream, answer, from): (&Transport, Answer, BodyFraming),
    collector: Collector,
    (plan, started): (&ExchangePlan, Instant),
) -> Result<Collected, Failure> {
    let decoder = BodyDecoder::new(from);
    let inbox = answer.rest;
    let incoming = Incoming { upstream, inbox, decoder, collector, bytes_in: 0, plan, started };
    connection.beside(incoming.run()).await?
}

impl Incoming<'_> {
    async fn run(mut self) -> Result<Collected, Failure> {
        // Of what came with the head, the moment is now.
        let mut read_at = (!self.inbox.is_empty()).then(clock::now);
        loop {
            if self.take()? {
                return self.finish(true);
            }
            let (wait, late) = self.wait(read_at);
            if timer::timeout(wait, self.upstream.readable()).await.is_none() {
                return Err(late);
            }
            match self.inbox.fill(self.upstream) {
                Ok(Filled::More) => read_at = Some(clock::now()),
                Ok(Filled::Nothing | Filled::Full) => {}
                Ok(Filled::Closed) if self.decoder.at_eof() == Eof::Complete => {
                    return self.finish(false);
                }
                Ok(Filled::Closed) => return Err(truncated()),
                Err(error) => return Err(receive_failed(error)),
            }
        }
    }

    /// Takes what has come; true when the body is whole.
    fn take(&mut self) -> Result<bool, Failure> {
        let Self { inbox, decoder, collector, bytes_in, .. } = self;
        inbox.decode(
            decoder,
            |error| malformed(Outcome::UpstreamProtocol, &error),
            |payload| {
                collector.feed(payload).map_err(|error| refused(&error))?;
                *bytes_in += payload.len() as u64;
                Ok(())
            },
        )
    }

    /// How long the next bytes may take, and what it is called when they do not come.
    fn wait(&self, read_at: Option<Instant>) -> (Duration, Failure) {
        let now = clock::now();
        let silent = match read_at {
            None => {
                let message = "the upstream sent no first frame in time";
                let limit = Some(self.plan.first_byte_timeout);
                (limit.map(|limit| now + limit), Outcome::FirstByteTimeout, message)
            }
            Some(at) => {
                let limit = self.plan.idle_timeout.map(|idle| at + idle);
                (limit, Outcome::IdleTimeout, "the upstream fell silent")
            }
        };
        let stream = self.plan.stream_timeout.map(|limit| self.started + limit);
        let (due, outcome, message) = match (silent.0, stream) {
            (silent_at, Some(stream)) if silent_at.is_none_or(|at| stream < at) => {
                (Some(stream), Outcome::StreamTimeout, "the stream took too long")
            }
            _ => silent,
        };
        // With no limit at all there is still an end to what a clock can count.
        let left = due
            .map_or(Duration::from_secs(30 * 24 * 3600), |due| due.saturating_duration_since(now));
        (left, failure(outcome, message))
    }

    fn finish(self, delimited: bool) -> Result<Collected, Failure> {
        let body = self.collector.finish(delimited).map_err(|error| refused(&error))?;
        Ok(Collected { body, bytes_in: self.bytes_in, extra: !self.inbox.is_empty() })
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
