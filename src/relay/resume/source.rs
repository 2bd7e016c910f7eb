//! The upstream's side of a stream that is kept: reads it into the log, whoever is there to read.

use std::future::poll_fn;
use std::io::IoSlice;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use super::super::exchange::{Response, give_back, outcome};
use super::super::pump::{failure, malformed, receive_failed, truncated};
use super::super::record::Record;
use super::super::task::spawn_caught;
use super::super::{Core, Registration, Stage};
use crate::clock;
use crate::dialect::ErrorText;
use crate::error::Failure;
use crate::flow::replay::{Log, Shelf};
use crate::flow::timers::Due;
use crate::http1::body::Eof;
use crate::limits::{READS_PER_TURN_MAX, WRITE_SLICES_MAX};
use crate::net::wait::GiveWay;
use crate::outcome::Outcome;
use crate::sse::frames::FrameTooLarge;

struct Source {
    core: Rc<Core>,
    slot: u32,
    response: Box<Response>,
    /// The first bytes were at fault.
    fault: Option<Failure>,
    record: Record,
    registration: Registration,
    /// The upstream may have bytes for us: worth a read without waiting first.
    ready: bool,
    unfinished: Unfinished,
}

/// Reads the rest of `response` into the log of the stream in `slot`.
pub(in super::super) fn start(
    core: &Rc<Core>,
    slot: u32,
    record: Record,
    (response, fault): (Box<Response>, Option<Failure>),
) {
    let registration = core.register_silently();
    registration.set_live(Some(Rc::clone(&record.live)));
    let unfinished = Unfinished { core: Rc::clone(core), slot, over: false };
    let (shared, ready) = (Rc::clone(core), true);
    let source =
        Source { core: shared, slot, response, fault, record, registration, ready, unfinished };
    spawn_caught(core, source.run());
}

impl Source {
    async fn run(mut self) {
        poll_fn(|cx| {
            self.registration.set_waker(cx.waker());
            self.with(|shelf| {
                if let Some(kept) = shelf.stream_mut(self.slot) {
                    kept.watch(cx.waker());
                }
            });
            Poll::Ready(())
        })
        .await;
        let ended = self.carry().await;
        self.close(ended);
    }

    fn with<R>(&self, act: impl FnOnce(&mut Shelf) -> R) -> Option<R> {
        self.core.resume.as_ref().map(|resume| act(&mut resume.shelf.borrow_mut()))
    }

    /// Changes the log, with the core's memory accounted for; wakes its readers.
    fn change<R>(&self, change: impl FnOnce(&mut Log) -> R) -> Option<R> {
        let changed = self.with(|shelf| {
            shelf.change(self.slot, |log| {
                let result = change(log);
                log.wake_readers();
                result
            })
        });
        changed.flatten()
    }

    /// Carries the body to its end.
    async fn carry(&mut self) -> Result<(), Failure> {
        let mut give_way = GiveWay::default();
        let mut now = clock::now();
        // What came with the head.
        self.keep()?;
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        loop {
            if self.turn(now)? {
                return Ok(());
            }
            self.response.body.stream.settle();
            let paused = self.pause(now);
            let mut late = false;
            let upstream = &self.response.upstream;
            let (registration, timers) = (&self.registration, &mut self.response.body.timers);
            let deadline = self.core.resume.as_ref().and_then(|resume| {
                resume.shelf.borrow().stream(self.slot).and_then(|kept| kept.deadline())
            });
            let (mut woken, mut ready_to_read) = (false, false);
            poll_fn(|cx| {
                // Whatever wakes this task beside the two below (a reader, a cancel, the end of
                // the process) is looked at by the turn that follows.
                let mut ready = std::mem::replace(&mut woken, true);
                if !paused && upstream.poll_readable(cx).is_ready() {
                    (ready_to_read, ready) = (true, true);
                }
                now = clock::now();
                if timers.take_stale() || deadline.is_some() || !registration.is_early(now) {
                    let next = timers.next().map(|(at, _)| at).into_iter().chain(deadline).min();
                    late = registration.poll_deadline(next, now).is_ready();
                    ready |= late;
                }
                give_way.poll(ready, cx)
            })
            .await;
            self.ready |= ready_to_read;
            self.woke()?;
            if late {
                self.due(now, deadline)?;
            }
        }
    }

    /// Deals with what woke the task, apart from bytes.
    fn woke(&self) -> Result<(), Failure> {
        if self.core.stage() == Stage::Ending {
            return Err(failure(Outcome::Drained, "the relay is shutting down"));
        }
        // Nobody can come back any more: no connection is accepted.
        if self.core.stage() != Stage::Serving && self.is_unread() {
            return Err(failure(Outcome::Drained, "the relay is shutting down, and nobody reads"));
        }
        let cancelled =
            self.with(|shelf| shelf.stream(self.slot).is_none_or(|kept| kept.cancelled));
        if cancelled != Some(false) {
            return Err(failure(Outcome::Cancelled, "the stream was cancelled by its client"));
        }
        Ok(())
    }

    fn is_unread(&self) -> bool {
        let unread =
            self.with(|shelf| shelf.stream(self.slot).is_none_or(|kept| kept.log.readers() == 0));
        unread != Some(false)
    }

    /// Notes whether reading is paused, and what the stream is shown as.
    fn pause(&mut self, now: Instant) -> bool {
        let paused = !self.wants_more();
        let detached = self.is_unread();
        self.response.body.timers.set_paused(now, paused);
        let state = match (detached, paused) {
            (true, _) => "detached",
            (_, true) => "paused",
            (_, false) => "streaming",
        };
        self.record.live.state.set(state);
        paused
    }

    fn wants_more(&self) -> bool {
        self.response.body.stream.wants_more()
            && self.with(|shelf| shelf.wants_more(self.slot)) == Some(true)
    }

    /// Reads what is there; true when the body is over.
    fn turn(&mut self, now: Instant) -> Result<bool, Failure> {
        let mut reads = 0;
        while self.ready && !self.response.body.stream.is_ended() && self.wants_more() {
            if reads == READS_PER_TURN_MAX {
                // The rest comes behind everyone else who is ready.
                self.ready = false;
                break;
            }
            reads += 1;
            self.read(now)?;
        }
        Ok(self.response.body.stream.is_ended())
    }

    fn read(&mut self, now: Instant) -> Result<(), Failure> {
        let Response { upstream, body, extra, .. } = &mut *self.response;
        let room = body.stream.room();
        let size = room.len();
        match upstream.try_recv(room).map_err(receive_failed)? {
            None => {
                self.ready = false;
                Ok(())
            }
            Some(0) if body.stream.decoder().at_eof() == Eof::Complete => {
                body.stream.end();
                body.stream.finish();
                self.keep()
            }
            Some(0) => Err(truncated()),
            Some(n) => {
                // A short read emptied the socket; the next wait sees what comes after.
                self.ready = n == size;
                body.timers.read(now);
                let received = body.stream.received(n);
                let received = received.map(|unused| *extra |= unused > 0);
                let received = received.map_err(|error| malformed(error.outcome(), &error));
                if received.is_ok() && body.stream.is_ended() {
                    body.stream.finish();
                }
                self.record.carried(now, body.stream.carried());
                // What came in order before a fault is still kept.
                self.keep()?;
                received
            }
        }
    }

    /// Moves what is queued to the log.
    fn keep(&mut self) -> Result<(), Failure> {
        let heartbeat = self.response.body.stream.heartbeat();
        let stream = &mut self.response.body.stream;
        let Some(resume) = &self.core.resume else { return Ok(()) };
        let mut shelf = resume.shelf.borrow_mut();
        if let Some(kept) = shelf.stream_mut(self.slot) {
            kept.heartbeat = heartbeat;
        }
        let kept = shelf.change(self.slot, |log| {
            while stream.buffer().queued() > 0 {
                let (mut fed, mut n) = (Ok(()), 0);
                if let Some(bytes) = stream.buffer().single() {
                    (fed, n) = (log.feed(bytes), bytes.len());
                } else {
                    let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
                    let used = stream.buffer().gather(&mut slices);
                    for bytes in &slices[..used] {
                        fed = fed.and_then(|()| log.feed(bytes));
                        n += bytes.len();
                    }
                }
                stream.sent(n);
                fed?;
            }
            log.wake_readers();
            Ok(())
        });
        kept.unwrap_or(Ok(()))
            .map_err(|error: FrameTooLarge| failure(Outcome::FrameTooLarge, error.to_string()))
    }

    /// Deals with a deadline that has come.
    fn due(&mut self, now: Instant, deadline: Option<Instant>) -> Result<(), Failure> {
        let still = self.with(|shelf| shelf.stream(self.slot).and_then(|kept| kept.deadline()));
        if deadline.is_some_and(|at| at <= now) && still.flatten() == deadline {
            self.core.metrics.detached_cancelled.inc();
            let message = "its client left, and none came back in time (--detach-grace)";
            return Err(failure(Outcome::ClientGone, message));
        }
        match self.response.body.timers.due(now) {
            // Bytes that arrived together with these deadlines are moved first.
            Some(Due::FirstByte | Due::Idle) if self.ready => Ok(()),
            Some(Due::FirstByte) => {
                Err(failure(Outcome::FirstByteTimeout, "the upstream sent no first frame in time"))
            }
            Some(Due::Idle) => Err(failure(Outcome::IdleTimeout, "the upstream fell silent")),
            Some(Due::Stream) => Err(failure(Outcome::StreamTimeout, "the stream took too long")),
            Some(Due::Stalled | Due::Heartbeat) | None => Ok(()),
        }
    }

    /// Tells the readers how it ended, and closes the account.
    fn close(mut self, ended: Result<(), Failure>) {
        let (outcome, in_order) = match &ended {
            Ok(()) => (outcome(&self.response), true),
            // An event of the route's that names the failure is an end to its readers.
            Err(failure) => {
                let told = self.tell(failure);
                (failure.outcome, self.response.body.stream.end_told(told))
            }
        };
        let Self { core, response, record, registration, mut unfinished, .. } = self;
        unfinished.finish(outcome, in_order);
        registration.set_live(None);
        if ended.is_err() {
            response.upstream.shutdown();
        } else if response.may_be_reused() {
            give_back(&core, &record, response.upstream);
        }
        record.close(outcome);
    }

    /// Keeps the frame that tells a failure, as the last; false where there is none.
    fn tell(&mut self, failure: &Failure) -> bool {
        self.record.error.replace(Some(failure.message.as_str().into()));
        let stream = &mut self.response.body.stream;
        let text = ErrorText {
            status: failure.status(),
            code: failure.outcome.as_str(),
            message: &failure.message,
            request_id: &self.record.live.request_id,
            sequence: stream.carried().frames,
        };
        let frame = stream.error_frame(&text, failure.outcome.is_timeout());
        if !frame.is_empty() {
            self.change(|log| log.push(&frame));
            self.core.metrics.error_frames.inc();
        }
        !frame.is_empty()
    }
}

/// Sees to it that a stream's readers learn of its end.
struct Unfinished {
    core: Rc<Core>,
    slot: u32,
    over: bool,
}

impl Unfinished {
    fn finish(&mut self, outcome: Outcome, whole: bool) {
        if let Some(resume) = &self.core.resume {
            resume.shelf.borrow_mut().finish(self.slot, outcome, whole, clock::now());
        }
        self.over = true;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Only an unwinding task comes here with readers that wait for an end.
        if !self.over {
            self.finish(Outcome::Panicked, false);
        }
    }
}
