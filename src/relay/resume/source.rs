//! The upstream's side of a stream that is kept: reads it into the log, whoever is there to read.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::super::exchange::{Response, give_back, outcome};
use super::super::pump::{brought, failure, malformed, overdue, truncated};
use super::super::record::Record;
use super::super::task::spawn_caught;
use super::super::{Core, Registration, Stage};
use crate::buf::{Block, prefetch, prefetch_from};
use crate::clock;
use crate::error::Failure;
use crate::flow::replay::{Kept, Log, Shelf};
use crate::flow::stream::StreamFault;
use crate::flow::timers::Due;
use crate::http1::body::Eof;
use crate::http1::chunked::whole_chunk;
use crate::limits::{READS_PER_TURN_MAX, WRITE_SLICES_MAX};
use crate::net::wait::GiveWay;
use crate::outcome::Outcome;
use crate::sse::frames::FrameTooLarge;

/// What [`Shelf::near`] says.
type Ahead = (*const (), *const (), *const ());

/// Bytes of a usual frame.
const FRAME_BYTES: usize = 256;

/// The upstream's side of one stream. Somebody drives it: one of its readers while there are any,
/// in the task of its connection, so that a frame costs no wake of another one; else a task of its
/// own, until a reader takes it over.
pub(in super::super) struct Source {
    core: Rc<Core>,
    slot: u32,
    response: Response,
    /// The first bytes were at fault.
    fault: Option<Failure>,
    record: Record,
    /// The upstream may have bytes for us: worth a read without waiting first.
    ready: bool,
    /// Reading waits for a reader.
    paused: bool,
    /// Memory that the next frame is kept in ([`Shelf::near`]).
    ahead: Ahead,
    /// What keeps its readers alive, as they know it.
    heartbeat: Option<&'static [u8]>,
    unfinished: Unfinished,
}

/// What carries the rest of `response` into the log of the stream in `slot`.
pub(in super::super) fn new(
    core: &Rc<Core>,
    slot: u32,
    record: Record,
    (response, fault): (Response, Option<Failure>),
) -> Source {
    let unfinished = Unfinished { core: Rc::clone(core), slot, over: false };
    let (core, ready, paused) = (Rc::clone(core), true, false);
    let (ahead, heartbeat) = ((std::ptr::null(), std::ptr::null(), std::ptr::null()), None);
    Source { core, slot, response, fault, record, ready, paused, ahead, heartbeat, unfinished }
}

/// Gives a source away that its driver leaves: to another reader of its stream, else to a task of
/// its own.
pub(super) fn hand_on(source: Source) {
    let core = Rc::clone(&source.core);
    if source.is_unread() {
        return spawn_caught(&core, alone(source));
    }
    let Some(resume) = &core.resume else { return };
    let slot = source.slot;
    resume.parked.borrow_mut().insert(slot, Box::new(source));
    if let Some(kept) = resume.shelf.borrow_mut().stream_mut(slot) {
        kept.parked = true;
        kept.log.wake_readers();
    }
}

/// The source that waits for a driver, if one does.
pub(super) fn take_parked(core: &Core, slot: u32) -> Option<Source> {
    let resume = core.resume.as_ref()?;
    resume.shelf.borrow_mut().stream_mut(slot)?.parked = false;
    resume.parked.borrow_mut().remove(&slot).map(|source| *source)
}

/// Drives a source for as long as it has no reader.
async fn alone(mut source: Source) {
    let registration: Registration = source.core.register_silently();
    registration.set_live(Some(Rc::clone(&source.record.live)));
    poll_fn(|cx| {
        registration.set_waker(cx.waker());
        source.watch(cx);
        Poll::Ready(())
    })
    .await;
    let mut give_way = GiveWay::default();
    let (mut now, mut late) = (clock::now(), false);
    loop {
        let driven = if late { source.due(now) } else { Ok(()) };
        match driven.and_then(|()| source.check()).and_then(|()| source.turn(now)) {
            Ok(false) => {}
            ended => {
                registration.set_live(None);
                return source.close(ended.map(|_| ()));
            }
        }
        if !source.is_unread() {
            registration.set_live(None);
            return hand_on(source);
        }
        let deadline = source.detached_until().into_iter().chain(source.deadline()).min();
        // Whatever else wakes this task (a reader, a cancel, the end of the process) is looked at
        // by the turn that follows.
        let mut woken = false;
        poll_fn(|cx| {
            now = clock::now();
            let mut ready = std::mem::replace(&mut woken, true);
            ready |= source.poll_readable(cx);
            late = registration.poll_deadline(deadline, now).is_ready();
            give_way.poll(ready | late, cx)
        })
        .await;
    }
}

impl Source {
    fn with<R>(&self, act: impl FnOnce(&mut Shelf) -> R) -> Option<R> {
        self.core.with_shelf(act)
    }

    /// Has this task woken when readers come, go, or make room.
    pub(super) fn watch(&self, cx: &Context<'_>) {
        self.with(|shelf| {
            if let Some(kept) = shelf.stream_mut(self.slot) {
                kept.watch(cx.waker());
            }
        });
    }

    /// Asks for the memory that is needed once the next bytes have been received.
    #[inline]
    pub(super) fn ask_ahead(&self) {
        let (place, stream, tail) = self.ahead;
        prefetch_from(place, size_of::<usize>());
        prefetch_from(stream, size_of::<Log>() + 64);
        prefetch_from(tail, FRAME_BYTES);
        prefetch(&*self.record.live);
    }

    /// Whether there may be something to read that may be read; else the task is woken then.
    pub(super) fn poll_readable(&mut self, cx: &Context<'_>) -> bool {
        if self.paused {
            if !self.wants_more() {
                return false;
            }
            self.pause(clock::now(), false);
        }
        self.ready |= self.response.upstream.poll_arrived(cx).is_ready();
        self.ready
    }

    /// When it is to be looked at for a limit of the upstream's.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.response.body.timers.next().map(|(at, _)| at)
    }

    /// Whether [`deadline`](Self::deadline) may have come forward since this was asked.
    pub(super) fn take_stale(&mut self) -> bool {
        self.response.body.timers.take_stale()
    }

    /// When it is to end for want of a reader.
    fn detached_until(&self) -> Option<Instant> {
        self.with(|shelf| shelf.stream(self.slot).and_then(Kept::deadline)).flatten()
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

    /// Whether it must end for another reason than its upstream's.
    pub(super) fn check(&self) -> Result<(), Failure> {
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

    /// Notes whether reading waits for a reader.
    fn pause(&mut self, now: Instant, paused: bool) {
        self.paused = paused;
        if self.response.body.timers.set_paused(now, paused) {
            self.record.live.state.set(if paused { "paused" } else { "streaming" });
        }
    }

    fn wants_more(&self) -> bool {
        self.response.body.stream.wants_more()
            && self.with(|shelf| shelf.wants_more(self.slot)) == Some(true)
    }

    /// Reads what is there; true when the body is over.
    pub(super) fn turn(&mut self, now: Instant) -> Result<bool, Failure> {
        if self.response.body.stream.buffer().queued() > 0 {
            // What came with the head.
            self.keep()?;
        }
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let mut reads = 0;
        while self.ready && !self.response.body.stream.is_ended() {
            if !self.wants_more() {
                self.pause(now, true);
                break;
            }
            if reads == READS_PER_TURN_MAX {
                // The rest comes behind everyone else who is ready.
                break;
            }
            reads += 1;
            self.read(now)?;
        }
        self.response.body.stream.settle();
        Ok(self.response.body.stream.is_ended())
    }

    /// Reads what has the usual shape, whole chunks of whole frames, and keeps it from where it was
    /// received; anything else goes through the stream's buffer.
    fn pass(&mut self, now: Instant) -> Result<(), Failure> {
        let mut block = Block::for_reading();
        let received = self.response.upstream.try_recv(block.bytes_mut());
        let Some(n) = self.noted(now, received, block.size())? else { return Ok(()) };
        let Response { body, .. } = &mut self.response;
        let bytes = &block.bytes()[..n];
        let taken = body.stream.take_passing(bytes);
        body.stream.passed(taken);
        self.record.carried(now, body.stream.carried());
        self.note_heartbeat();
        add(&self.core, (self.slot, &mut self.ahead), |log| {
            let mut chunks = &bytes[..taken];
            while let Some((line, len)) = whole_chunk(chunks) {
                log.feed(&chunks[line..line + len])?;
                chunks = &chunks[line + len + 2..];
            }
            Ok(())
        })?;
        let mut rest = &bytes[taken..];
        while !rest.is_empty() {
            let taken = self.response.body.stream.receive_copy(rest);
            let taken = self.taken(now, taken)?;
            if self.response.body.stream.is_ended() {
                self.response.extra |= taken < rest.len();
                break;
            }
            rest = &rest[taken..];
        }
        Ok(())
    }

    fn read(&mut self, now: Instant) -> Result<(), Failure> {
        if self.response.body.stream.keeps_whole_chunks() {
            return self.pass(now);
        }
        let Response { upstream, body, .. } = &mut self.response;
        let room = body.stream.room();
        let size = room.len();
        let received = upstream.try_recv(room);
        let Some(n) = self.noted(now, received, size)? else { return Ok(()) };
        let received = self.response.body.stream.received(n);
        let unused = self.taken(now, received)?;
        self.response.extra |= unused > 0;
        Ok(())
    }

    /// Notes what a read into `size` bytes of room came to; the bytes it brought, if any.
    fn noted(
        &mut self,
        now: Instant,
        received: io::Result<Option<usize>>,
        size: usize,
    ) -> Result<Option<usize>, Failure> {
        let timers = &mut self.response.body.timers;
        match brought(now, received, size, &mut self.ready, timers)? {
            Some(0) => self.upstream_closed().map(|()| None),
            some => Ok(some),
        }
    }

    fn upstream_closed(&mut self) -> Result<(), Failure> {
        let stream = &mut self.response.body.stream;
        if stream.decoder().at_eof() != Eof::Complete {
            return Err(truncated());
        }
        stream.end();
        stream.finish();
        self.keep()
    }

    /// Accounts for what the stream has taken, and keeps it.
    fn taken(&mut self, now: Instant, taken: Result<usize, StreamFault>) -> Result<usize, Failure> {
        let taken = taken.map_err(|error| malformed(error.outcome(), &error));
        let stream = &mut self.response.body.stream;
        if taken.is_ok() && stream.is_ended() {
            stream.finish();
        }
        self.record.carried(now, stream.carried());
        // What came in order before a fault is still kept.
        self.keep()?;
        taken
    }

    /// Moves what is queued to the log.
    fn keep(&mut self) -> Result<(), Failure> {
        self.note_heartbeat();
        let stream = &mut self.response.body.stream;
        add(&self.core, (self.slot, &mut self.ahead), |log| {
            while stream.buffer().queued() > 0 {
                let (mut fed, mut n) = (Ok(()), 0);
                let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
                let used = stream.buffer().gather(&mut slices);
                for bytes in &slices[..used] {
                    fed = fed.and_then(|()| log.feed(bytes));
                    n += bytes.len();
                }
                stream.sent(n);
                fed?;
            }
            Ok(())
        })
    }

    /// What keeps readers alive follows the dialect, which is known by the first frames.
    fn note_heartbeat(&mut self) {
        let heartbeat = self.response.body.stream.heartbeat();
        if heartbeat != self.heartbeat {
            self.heartbeat = heartbeat;
            self.with(|shelf| {
                if let Some(kept) = shelf.stream_mut(self.slot) {
                    kept.heartbeat = heartbeat;
                }
            });
        }
    }

    /// Deals with a deadline that has come.
    pub(super) fn due(&mut self, now: Instant) -> Result<(), Failure> {
        if self.detached_until().is_some_and(|at| at <= now) {
            self.core.metrics.detached_cancelled.inc();
            let message = "its client left, and none came back in time (--detach-grace)";
            return Err(failure(Outcome::ClientGone, message));
        }
        match self.response.body.timers.due(now) {
            // Bytes that arrived together with these deadlines are moved first.
            Some(Due::FirstByte | Due::Idle) if self.ready => Ok(()),
            // Its readers' own.
            Some(Due::Stalled | Due::Heartbeat) | None => Ok(()),
            Some(due) => overdue(due),
        }
    }

    /// Tells the readers how it ended, and closes the account.
    pub(super) fn close(mut self, ended: Result<(), Failure>) {
        let (outcome, in_order) = match &ended {
            Ok(()) => (outcome(&self.response), true),
            // An event of the route's that names the failure is an end to its readers.
            Err(failure) => {
                let told = self.tell(failure);
                (failure.outcome, self.response.body.stream.end_told(told))
            }
        };
        let Self { core, response, record, mut unfinished, .. } = self;
        unfinished.finish(outcome, in_order);
        if ended.is_err() {
            response.upstream.shutdown();
        } else if response.may_be_reused() {
            give_back(&core, &record, response.upstream);
        }
        record.close(outcome);
    }

    /// Keeps the frame that tells a failure, as the last; false where there is none.
    fn tell(&mut self, failure: &Failure) -> bool {
        let stream = &mut self.response.body.stream;
        let text = self.record.failed(failure, stream.carried().frames);
        let frame = stream.error_frame(&text, failure.outcome.is_timeout());
        if !frame.is_empty() {
            self.change(|log| log.push(&frame));
            self.core.metrics.error_frames.inc();
        }
        !frame.is_empty()
    }
}

/// Lets `keep` add frames to a stream's log, and tells its readers.
fn add(
    core: &Core,
    (slot, ahead): (u32, &mut Ahead),
    keep: impl FnOnce(&mut Log) -> Result<(), FrameTooLarge>,
) -> Result<(), Failure> {
    let kept = core.with_shelf(|shelf| {
        let kept = shelf.change(slot, |log| {
            let kept = keep(log);
            log.wake_readers();
            kept
        });
        *ahead = shelf.near(slot);
        kept
    });
    let too_large = |error: FrameTooLarge| failure(Outcome::FrameTooLarge, error.to_string());
    kept.flatten().unwrap_or(Ok(())).map_err(too_large)
}

/// Sees to it that a stream's readers learn of its end.
struct Unfinished {
    core: Rc<Core>,
    slot: u32,
    over: bool,
}

impl Unfinished {
    fn finish(&mut self, outcome: Outcome, whole: bool) {
        let now = clock::now();
        self.core.with_shelf(|shelf| shelf.finish(self.slot, outcome, whole, now));
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
