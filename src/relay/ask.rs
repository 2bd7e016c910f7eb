//! One attempt's first half: the request goes up as it arrives, the response's head is awaited.
//!
//! Both happen at once: an upstream may answer before it has the whole body, and the client may
//! leave before the first byte comes back; both are seen at once.

use std::future::poll_fn;
use std::time::Instant;

use super::inbox::{Filled, Inbox};
use super::pump::send_queued;
use super::routing::RouteState;
use super::{Core, Registration, Stage};
use crate::clock;
use crate::error::{Failure, Phase, Retryable};
use crate::flow::stream::Stream;
use crate::http1::Status;
use crate::http1::head::{ResponseHead, parse_response};
use crate::limits::INTERIM_RESPONSES_MAX;
use crate::net::stream::Transport;
use crate::net::wait::GiveWay;
use crate::outcome::Outcome;

/// One attempt at one upstream connection.
pub struct Ask<'a> {
    /// The core it runs on.
    pub core: &'a Core,
    /// The connection's entry in the core.
    pub registration: &'a Registration,
    /// The route it goes.
    pub route: &'a RouteState,
    /// The endpoint's name, for messages.
    pub authority: &'a str,
    /// The leased connection.
    pub upstream: &'a Transport,
    /// It was used before.
    pub reused: bool,
    /// The client's side.
    pub downstream: &'a Transport,
    /// Bytes from the client not taken yet.
    pub inbox: &'a mut Inbox,
    /// Where the end of an interim response goes that the client does not take at once.
    pub unsent: &'a mut Box<[u8]>,
    /// The request on its way up: its head is queued, its body comes behind it.
    pub body: &'a mut Stream,
    /// When the whole stream must be over, where that has a limit: its head is part of it.
    pub stream_deadline: Option<Instant>,
    /// Interim responses may be passed down (HTTP/1.1 clients).
    pub interim: bool,
    /// The client waits for `100 Continue` before it sends its body.
    pub expects_continue: bool,
}

/// How far the attempt has come.
struct Progress {
    /// Response bytes: heads, then the body's beginning.
    answer: Inbox,
    searched: usize,
    interims: u32,
    upstream_blocked: bool,
    /// Writing failed: the answer may still be there to read.
    upstream_deaf: bool,
    /// The client is watched for more bytes and for leaving.
    watching: bool,
    /// When the answer must be there: counted from the last byte of the request sent.
    deadline: Instant,
}

/// The answer's head and what came behind it.
pub struct Answer {
    /// The final response head.
    pub head: ResponseHead,
    /// The first bytes of its body.
    pub rest: Inbox,
}

impl Ask<'_> {
    /// Sends the request and awaits the final response head.
    ///
    /// # Errors
    /// Why there is no answer, and whether another attempt is safe.
    pub async fn run(&mut self) -> Result<Answer, Failure> {
        let (upstream, downstream) = (self.upstream, self.downstream);
        let mut give_way = GiveWay::default();
        let mut progress = Progress {
            answer: Inbox::default(),
            searched: 0,
            interims: 0,
            upstream_blocked: false,
            upstream_deaf: false,
            watching: true,
            deadline: clock::now() + self.route.route.exchange.first_byte_timeout,
        };
        self.take_body()?;
        self.send(&mut progress);
        loop {
            let mut upstream_stirred = false;
            let mut downstream_stirred = false;
            poll_fn(|cx| {
                let mut ready = self.core.stage() == Stage::Ending;
                if upstream.poll_readable(cx).is_ready() {
                    (upstream_stirred, ready) = (true, true);
                }
                if progress.upstream_blocked && upstream.poll_writable(cx).is_ready() {
                    (progress.upstream_blocked, ready) = (false, true);
                }
                if progress.watching
                    && (self.body.is_ended() || self.body.wants_more())
                    && downstream.poll_readable(cx).is_ready()
                {
                    (downstream_stirred, ready) = (true, true);
                }
                ready |= self
                    .registration
                    .poll_deadline(Some(self.deadline(&progress)), clock::now())
                    .is_ready();
                give_way.poll(ready, cx)
            })
            .await;
            if self.core.stage() == Stage::Ending {
                return Err(self.failure(Outcome::Drained, "the relay is shutting down"));
            }
            if downstream_stirred {
                self.look_downstream(&mut progress)?;
            }
            if upstream_stirred && let Some(answer) = self.read(&mut progress)? {
                return Ok(answer);
            }
            self.send(&mut progress);
            // What the inbox kept while the upstream was slow.
            self.take_body()?;
            self.send(&mut progress);
            let now = clock::now();
            if now >= self.deadline(&progress) {
                return Err(self.too_late(now));
            }
        }
    }

    fn deadline(&self, progress: &Progress) -> Instant {
        self.stream_deadline.map_or(progress.deadline, |limit| limit.min(progress.deadline))
    }

    fn too_late(&self, now: Instant) -> Failure {
        if self.stream_deadline.is_some_and(|limit| limit <= now) {
            return self.failure(Outcome::StreamTimeout, "the stream took too long");
        }
        if self.body.is_ended() {
            let message = "the upstream did not answer within the first-byte timeout";
            return self.failure(Outcome::FirstByteTimeout, message);
        }
        let message = "the request's body did not arrive in time";
        Failure::downstream(Phase::Request, Outcome::RequestTimeout, message)
    }

    /// Sends what the upstream takes. A failing write is no verdict: the reading side tells why.
    fn send(&mut self, progress: &mut Progress) {
        if progress.upstream_deaf || progress.upstream_blocked {
            return;
        }
        match send_queued(self.upstream, self.body, true) {
            Ok(sent) => {
                progress.upstream_blocked = self.body.buffer().queued() > 0;
                if sent.is_some() {
                    progress.deadline = clock::now() + self.route.route.exchange.first_byte_timeout;
                }
            }
            Err(_) => progress.upstream_deaf = true,
        }
        self.body.settle();
    }

    /// Takes what the inbox has of the request's body.
    fn take_body(&mut self) -> Result<(), Failure> {
        while !self.body.is_ended() && self.body.wants_more() && !self.inbox.is_empty() {
            let taken = self.body.receive_copy(self.inbox.bytes()).map_err(|error| {
                let message = format!("the request's body is malformed: {error}");
                self.refused(message)
            })?;
            self.inbox.consume(taken);
            if self.body.carried().bytes_in > self.route.route.exchange.body_bytes_max {
                let max = self.route.route.exchange.body_bytes_max;
                let message = format!("the request's body is larger than {max} bytes");
                return Err(self.refused(message).told_as(413));
            }
            if self.body.is_ended() {
                self.body.finish();
            }
        }
        Ok(())
    }

    /// The client's side became readable: more of the body, its next request, or it left.
    fn look_downstream(&mut self, progress: &mut Progress) -> Result<(), Failure> {
        match self.inbox.fill(self.downstream) {
            Ok(Filled::More) => self.take_body(),
            Ok(Filled::Nothing) => Ok(()),
            // The client sends far ahead: it is noticed leaving when it is written to.
            Ok(Filled::Full) => {
                progress.watching = !self.body.is_ended();
                Ok(())
            }
            Ok(Filled::Closed) if self.core.plan.half_close && self.body.is_ended() => {
                progress.watching = false;
                Ok(())
            }
            Ok(Filled::Closed) => Err(self.gone("the client closed its connection")),
            Err(_) => Err(self.gone("the client reset its connection")),
        }
    }

    /// Reads from upstream; the answer once its final head is there.
    fn read(&mut self, progress: &mut Progress) -> Result<Option<Answer>, Failure> {
        match progress.answer.fill(self.upstream) {
            Ok(Filled::More) => {}
            Ok(Filled::Nothing) => return Ok(None),
            Ok(Filled::Full) => return Err(self.protocol(&"its head is too large")),
            Ok(Filled::Closed) => return Err(self.no_answer(progress, "closed the connection")),
            Err(error) => return Err(self.no_answer(progress, &error.to_string())),
        }
        loop {
            let parsed = parse_response(progress.answer.bytes(), &mut progress.searched);
            let (head, consumed) = match parsed {
                Ok(Status::Complete(complete)) => complete,
                Ok(Status::Partial) => return Ok(None),
                Err(error) => return Err(self.protocol(&error)),
            };
            progress.answer.consume(consumed);
            progress.searched = 0;
            if !head.is_interim() {
                let rest = std::mem::take(&mut progress.answer);
                return Ok(Some(Answer { head, rest }));
            }
            progress.interims += 1;
            if progress.interims > INTERIM_RESPONSES_MAX {
                return Err(self.protocol(&"too many interim responses"));
            }
            self.pass_interim(&head);
        }
    }

    /// Passes an interim response down as far as the client takes it at once. One behind another
    /// that is not taken whole is dropped: nobody reads, and they are hints (RFC 9110, section
    /// 15.2).
    fn pass_interim(&mut self, head: &ResponseHead) {
        let unasked = head.status() == 100 && !self.expects_continue;
        if !self.interim || unasked || !self.unsent.is_empty() {
            return;
        }
        let mut bytes = Vec::new();
        crate::http1::forward::encode_interim(head, &mut bytes);
        // A failing write is seen by the watch on the client's side.
        if let Ok(Some(sent)) = self.downstream.try_send(&bytes)
            && sent < bytes.len()
        {
            bytes.drain(..sent);
            *self.unsent = bytes.into();
        }
    }

    fn no_answer(&self, progress: &Progress, why: &str) -> Failure {
        let nothing_came = progress.answer.is_empty() && progress.interims == 0;
        let authority = self.authority;
        let failure =
            self.failure(Outcome::UpstreamNoAnswer, &format!("upstream {authority}: {why}"));
        if self.reused && nothing_came { failure.retryable(Retryable::Reused) } else { failure }
    }

    fn protocol(&self, why: &dyn std::fmt::Display) -> Failure {
        self.failure(Outcome::UpstreamProtocol, &format!("the upstream's answer is refused: {why}"))
    }

    fn failure(&self, outcome: Outcome, message: &str) -> Failure {
        Failure::upstream(Phase::Head, outcome, message)
    }

    fn gone(&self, message: &str) -> Failure {
        Failure::downstream(Phase::Request, Outcome::ClientGone, message)
    }

    fn refused(&self, message: String) -> Failure {
        Failure::downstream(Phase::Request, Outcome::RequestRefused, message)
    }
}
