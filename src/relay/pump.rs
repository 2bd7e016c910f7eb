//! The loop between two sockets, for one response.
//!
//! A turn moves what can be moved without waiting: read from upstream (twice, where it has a lot),
//! release whole frames, write them, until the upstream has nothing more, the downstream takes
//! nothing more, or the turn has had its share. Then the task waits for whichever comes first:
//! upstream readable, downstream writable (only while it refused bytes), downstream gone, the
//! nearest deadline. The waits are kept across turns and own no buffer, so dropping one loses
//! nothing; no read or write is ever in flight while the task waits.
//!
//! Nothing here allocates, spawns or sets a timer per frame.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::time::Instant;

use super::Stage;
use super::connection::Connection;
use super::record::Record;
use crate::buf::{Block, prefetch};
use crate::clock;
use crate::error::{Failure, Phase};
use crate::flow::stream::{Stream, StreamFault};
use crate::flow::timers::{Due, Timers};
use crate::http1::body::Eof;
use crate::limits::{READ_BUFFER_BYTES, READS_PER_TURN_MAX, WRITE_SLICES_MAX};
use crate::net::stream::Transport;
use crate::net::wait::GiveWay;
use crate::outcome::Outcome;

/// Bytes that are gathered before a write while the upstream has more at once, which is two reads:
/// each write wakes the client, and half as many are 8 % less CPU in a burst (loadtest/NOTES.md).
const GATHERED_BYTES: usize = READ_BUFFER_BYTES * 3 / 2;

/// The body on its way down.
pub struct Body {
    /// The bytes between the two sockets.
    pub stream: Stream,
    /// The deadlines.
    pub timers: Timers,
}

/// Everything one response needs while it is pumped.
pub struct Pump<'a> {
    /// The client's side.
    pub connection: &'a mut Connection,
    /// The provider's side.
    pub upstream: &'a Transport,
    /// The body.
    pub body: &'a mut Body,
    /// The account.
    pub record: &'a Record,
    /// The upstream may have bytes for us: worth a read without waiting first.
    pub upstream_ready: bool,
    /// The downstream refused bytes: wait before writing again.
    pub blocked: bool,
    /// The downstream is watched for leaving.
    pub watching: bool,
    /// The upstream sent bytes behind its body: its connection is not used again.
    pub extra: bool,
}

impl Pump<'_> {
    /// Pumps until the body is over and sent, or a failure.
    ///
    /// # Errors
    /// Why the response could not be carried to its end.
    pub async fn run(&mut self) -> Result<(), Failure> {
        let mut give_way = GiveWay::default();
        let mut now = clock::now();
        // Everything was looked at since the upstream last had something.
        let mut looked = false;
        loop {
            if self.turn(now)? {
                return Ok(());
            }
            self.body.stream.settle();
            // An upstream that is not read from is silent by our doing, whatever the reason.
            let paused = !self.body.stream.wants_more();
            if self.body.timers.set_paused(now, paused) {
                self.record.live.state.set(if paused { "paused" } else { "streaming" });
            }
            let upstream = self.upstream;
            let (mut client_stirred, mut late, mut waited) = (false, false, false);
            poll_fn(|cx| {
                if std::mem::replace(&mut waited, true) {
                    now = clock::now();
                }
                let mut ready = self.connection.core().stage() == Stage::Ending;
                if self.body.stream.wants_more() && upstream.poll_arrived(cx).is_ready() {
                    self.upstream_ready = true;
                    ready = true;
                    if std::mem::take(&mut looked) {
                        // The rest is looked at when these bytes have gone on: now it would be
                        // waited for, by then it is in the cache.
                        self.ask_ahead();
                        return give_way.poll(ready, cx);
                    }
                }
                looked = true;
                if self.blocked && self.connection.transport.poll_writable(cx).is_ready() {
                    (self.blocked, ready) = (false, true);
                }
                if self.watching && self.connection.stirred(cx).is_ready() {
                    (client_stirred, ready) = (true, true);
                }
                if self.body.timers.take_stale() || !self.connection.registration.is_early(now) {
                    let deadline = self.body.timers.next().map(|(at, _)| at);
                    late |= self.connection.registration.poll_deadline(deadline, now).is_ready();
                    ready |= late;
                }
                give_way.poll(ready, cx)
            })
            .await;
            self.woke(client_stirred)?;
            if late {
                self.due(now)?;
            }
        }
    }

    /// Asks for the memory that is needed once the next bytes have been received. Between two
    /// frames of one stream those of a thousand others have passed through the cache.
    #[inline]
    fn ask_ahead(&self) {
        prefetch(&*self.record.live);
        self.connection.transport.ask_ahead();
    }

    /// Deals with what woke the pump, apart from bytes to move.
    fn woke(&mut self, client_stirred: bool) -> Result<(), Failure> {
        if self.connection.core().stage() == Stage::Ending {
            return Err(failure(Outcome::Drained, "the relay is shutting down"));
        }
        if client_stirred {
            self.connection.look(&mut self.watching)?;
        }
        Ok(())
    }

    /// Deals with a deadline that has come.
    fn due(&mut self, now: Instant) -> Result<(), Failure> {
        match self.body.timers.due(now) {
            None => Ok(()),
            // Bytes that arrived together with these deadlines are moved first: they push them
            // back. The others wait for no one, or an upstream that always has bytes would never
            // meet them.
            Some(Due::FirstByte | Due::Idle) if self.upstream_ready => Ok(()),
            Some(Due::Heartbeat) => {
                self.heartbeat(now);
                Ok(())
            }
            Some(due) => overdue(due),
        }
    }

    /// Moves what can be moved; true when all is done.
    fn turn(&mut self, now: Instant) -> Result<bool, Failure> {
        let mut reads = 0;
        loop {
            if !self.blocked && !self.gathers(reads) && self.body.stream.buffer().queued() > 0 {
                self.write(now)?;
            }
            if self.body.stream.is_ended() {
                return Ok(self.body.stream.buffer().queued() == 0);
            }
            if !self.upstream_ready || !self.body.stream.wants_more() || reads == READS_PER_TURN_MAX
            {
                // The rest of a turn that had its share is taken up behind everyone else who is
                // ready.
                self.upstream_ready = false;
                return Ok(false);
            }
            reads += 1;
            self.read(now)?;
        }
    }

    /// Whether another read comes before what is queued is written: the last one of this turn filled
    /// its room, and there is little yet.
    fn gathers(&self, reads: u32) -> bool {
        let read_full = self.upstream_ready && (1..READS_PER_TURN_MAX).contains(&reads);
        let stream = &self.body.stream;
        read_full && stream.wants_more() && stream.buffer().queued() < GATHERED_BYTES
    }

    fn read(&mut self, now: Instant) -> Result<(), Failure> {
        if self.body.stream.is_clear() {
            return self.pass(now);
        }
        let room = self.body.stream.room();
        let size = room.len();
        let received = self.upstream.try_recv(room);
        let Some(n) = self.noted(now, received, size)? else { return Ok(()) };
        let received = self.body.stream.received(n);
        self.taken(now, received)
    }

    /// Notes what a read into `size` bytes of room came to; the bytes it brought, if any.
    fn noted(
        &mut self,
        now: Instant,
        received: io::Result<Option<usize>>,
        size: usize,
    ) -> Result<Option<usize>, Failure> {
        let timers = &mut self.body.timers;
        match brought(now, received, size, &mut self.upstream_ready, timers)? {
            Some(0) => self.upstream_closed().map(|()| None),
            some => Ok(some),
        }
    }

    /// Reads and writes at a stroke while nothing is queued or held: what came as whole chunks of
    /// whole frames, as nearly all does, goes out from where it was received, and the stream's
    /// buffer is not touched.
    fn pass(&mut self, now: Instant) -> Result<(), Failure> {
        let (stream, client) = (&mut self.body.stream, &self.connection.transport);
        let judged = self.upstream.pass_ahead(client, |bytes| stream.take_passing(bytes));
        if let Some((n, taken)) = judged
            && n == taken
        {
            self.upstream_ready = false;
            self.body.timers.read(now);
            self.has_passed(now, n);
            return Ok(());
        }
        let mut block = Block::for_reading();
        let received = self.upstream.try_recv(block.bytes_mut());
        let Some(n) = self.noted(now, received, block.size())? else { return Ok(()) };
        let bytes = &block.bytes()[..n];
        let taken = match judged {
            Some((_, taken)) => taken,
            None => self.body.stream.take_passing(bytes),
        };
        if taken < n {
            let received = self.body.stream.received_in(block, n, taken);
            return self.taken(now, received);
        }
        let sent = self.connection.transport.post(&[IoSlice::new(bytes)]).map_err(client_gone)?;
        if sent == Some(n) {
            self.has_passed(now, n);
            return Ok(());
        }
        let received = self.body.stream.received_in(block, n, taken);
        let sent = sent.map(|n| Sent { resumed: self.body.stream.sent(n) });
        self.wrote(now, sent);
        self.taken(now, received)
    }

    fn has_passed(&mut self, now: Instant, n: usize) {
        self.body.stream.passed(n);
        self.body.timers.wrote(now, false);
        self.record.carried(now, self.body.stream.carried());
    }

    /// Accounts for what the stream has taken.
    fn taken(&mut self, now: Instant, received: Result<usize, StreamFault>) -> Result<(), Failure> {
        self.record.carried(now, self.body.stream.carried());
        match received {
            Ok(0) => {}
            Ok(_) => {
                self.extra = true;
                self.record.error.replace(Some("upstream sent bytes behind its body".into()));
            }
            Err(error) => {
                // What came in order before the fault still goes out.
                self.write(now)?;
                return Err(malformed(error.outcome(), &error));
            }
        }
        if self.body.stream.is_ended() {
            self.body.stream.finish();
        }
        Ok(())
    }

    fn upstream_closed(&mut self) -> Result<(), Failure> {
        match self.body.stream.decoder().at_eof() {
            Eof::Complete => {
                self.body.stream.end();
                self.body.stream.finish();
                self.record.carried(clock::now(), self.body.stream.carried());
                Ok(())
            }
            Eof::Truncated => Err(truncated()),
        }
    }

    fn write(&mut self, now: Instant) -> Result<(), Failure> {
        let sent = send_queued(&self.connection.transport, &mut self.body.stream, true);
        self.wrote(now, sent.map_err(client_gone)?);
        Ok(())
    }

    /// Notes what a write did; `None` where the socket took nothing.
    fn wrote(&mut self, now: Instant, sent: Option<Sent>) {
        let Some(sent) = sent else {
            self.blocked = true;
            return self.body.timers.refused(now);
        };
        self.blocked = self.body.stream.buffer().queued() > 0;
        self.body.timers.wrote(now, self.blocked);
        if sent.resumed {
            self.connection.core().metrics.resumes.inc();
            self.upstream_ready = true;
        }
    }

    fn heartbeat(&mut self, now: Instant) {
        let frame = self.body.stream.heartbeat();
        if frame.is_some_and(|frame| self.body.stream.insert(frame)) {
            self.record.heartbeat();
            // Written by the turn that follows.
        }
        self.body.timers.skip_heartbeat(now);
    }
}

/// What a read into `size` bytes of room came to: the bytes it brought, none at the upstream's
/// close. Says in `ready` whether another may bring more.
pub(super) fn brought(
    now: Instant,
    received: io::Result<Option<usize>>,
    size: usize,
    ready: &mut bool,
    timers: &mut Timers,
) -> Result<Option<usize>, Failure> {
    let brought = received.map_err(receive_failed)?;
    if brought != Some(0) {
        // A short read emptied the socket; the next wait sees what comes after, or the close.
        *ready = brought == Some(size);
        if brought.is_some() {
            timers.read(now);
        }
    }
    Ok(brought)
}

/// Fails where a limit has run out; a heartbeat that is due is no failure.
pub(super) fn overdue(due: Due) -> Result<(), Failure> {
    Err(match due {
        Due::FirstByte => {
            failure(Outcome::FirstByteTimeout, "the upstream sent no first frame in time")
        }
        Due::Idle => failure(Outcome::IdleTimeout, "the upstream fell silent"),
        Due::Stream => failure(Outcome::StreamTimeout, "the stream took too long"),
        Due::Stalled => gone(Outcome::ClientStalled, "the client takes no bytes"),
        Due::Heartbeat => return Ok(()),
    })
}

pub(super) fn failure(outcome: Outcome, message: impl Into<String>) -> Failure {
    Failure::upstream(Phase::Body, outcome, message)
}

pub(super) fn gone(outcome: Outcome, message: impl Into<String>) -> Failure {
    Failure::downstream(Phase::Body, outcome, message)
}

pub(super) fn client_gone(error: io::Error) -> Failure {
    gone(Outcome::ClientGone, format!("the client is gone: {error}"))
}

/// The upstream closed too early.
pub(super) fn truncated() -> Failure {
    failure(Outcome::UpstreamTruncated, "the upstream closed before its body was whole")
}

/// The upstream's body is not what it should be.
pub(super) fn malformed(outcome: Outcome, error: &dyn std::error::Error) -> Failure {
    failure(outcome, format!("the upstream's body is malformed: {error}"))
}

/// Reading from the upstream failed.
pub(super) fn receive_failed(error: io::Error) -> Failure {
    // TLS without its close_notify: anyone in between may have cut it.
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return failure(Outcome::UpstreamTruncated, format!("upstream: {error}"));
    }
    failure(Outcome::UpstreamReset, format!("the upstream connection failed: {error}"))
}

/// What one write did.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Reading may resume.
    pub resumed: bool,
}

/// Sends queued bytes in one call, or [posts](Transport::post) them; `Ok(None)` when the socket took
/// none.
///
/// # Errors
/// The peer is gone.
pub fn send_queued(
    transport: &Transport,
    stream: &mut Stream,
    posts: bool,
) -> io::Result<Option<Sent>> {
    let mut resumed = false;
    let mut any = false;
    while stream.buffer().queued() > 0 {
        let buffer = stream.buffer();
        let sent = match buffer.single() {
            Some(bytes) if posts => transport.post(&[IoSlice::new(bytes)])?,
            Some(bytes) => transport.try_send(bytes)?,
            None => {
                let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
                let used = buffer.gather(&mut slices);
                let slices = &slices[..used];
                if posts { transport.post(slices)? } else { transport.try_send_vectored(slices)? }
            }
        };
        let Some(n) = sent else { break };
        any = true;
        resumed |= stream.sent(n);
    }
    Ok(any.then_some(Sent { resumed }))
}
