//! The loop between the two sides, on a clock of its own. It takes the decisions that
//! `src/relay/pump.rs` and `pump`, `relay` and `tell` of `src/relay/exchange.rs` take, in the
//! same order and under the same names; what those do with sockets and wakers is done here with
//! counters.

use std::io::IoSlice;
use std::rc::Rc;
use std::time::{Duration, Instant};

use millstream::dialect::ErrorText;
use millstream::flow::stream::{Carried, Stream};
use millstream::flow::timers::{Due, Timers};
use millstream::http1::body::{BodyDecoder, Eof};
use millstream::http1::head::BodyFraming;
use millstream::limits::{READ_BUFFER_BYTES, READS_PER_TURN_MAX, WRITE_SLICES_MAX};
use millstream::outcome::Outcome;

use super::watch::Watch;
use super::world::{Fault, Plan, Taking};

/// How a run ended.
pub(crate) struct End {
    pub(crate) outcome: Outcome,
    /// It failed; whether on the downstream's side.
    pub(crate) failure: Option<bool>,
    /// All that the client took.
    pub(crate) out: Vec<u8>,
    /// Heartbeats and the payload bytes they stand behind.
    pub(crate) inserts: Vec<(usize, &'static [u8])>,
    pub(crate) error_frame: Option<Vec<u8>>,
    pub(crate) carried: Carried,
    pub(crate) heartbeats: u64,
    pub(crate) overlong_seen: bool,
    pub(crate) overlong_at_end: bool,
    /// The body was over and its end queued.
    pub(crate) finished: bool,
    /// Bytes of the wire that were read.
    pub(crate) read: usize,
    /// Bytes that were queued and never taken.
    pub(crate) left: usize,
    pub(crate) lasted: Duration,
}

/// The outcome, and whether it is the downstream's.
type Failure = (Outcome, bool);

pub(crate) struct Simulation<'a> {
    plan: &'a Plan,
    origin: Instant,
    now: Duration,
    stream: Stream,
    timers: Timers,
    upstream_ready: bool,
    blocked: bool,
    watching: bool,
    watch: Watch,
    arrived: usize,
    arrivals_seen: usize,
    read_at: usize,
    out: Vec<u8>,
    stalled_from: Option<Duration>,
    /// When the core will wake it.
    noted: Option<Duration>,
    inserts: Vec<(usize, &'static [u8])>,
    overlong_seen: bool,
    finished: bool,
}

impl<'a> Simulation<'a> {
    pub(crate) fn new(plan: &'a Plan) -> Self {
        let decoder = BodyDecoder::new(plan.framing);
        let origin = Instant::now();
        Self {
            plan,
            origin,
            now: Duration::ZERO,
            stream: Stream::events(decoder, plan.outgoing, plan.marks, plan.dialect),
            timers: Timers::new(&Rc::new(plan.timeouts), origin, origin, true),
            upstream_ready: false,
            blocked: false,
            watching: true,
            watch: Watch::new(plan),
            arrived: 0,
            arrivals_seen: 0,
            read_at: 0,
            out: Vec::new(),
            stalled_from: None,
            noted: None,
            inserts: Vec::new(),
            overlong_seen: false,
            finished: false,
        }
    }

    pub(crate) fn run(mut self) -> End {
        let result = self.begin().and_then(|()| self.pump());
        let (mut outcome, mut error_frame, mut overlong_at_end) = (Outcome::Done, None, false);
        match result {
            Ok(()) => {
                let in_order =
                    self.plan.framing != BodyFraming::Close && self.stream.is_finished_by_dialect();
                if !in_order && !self.stream.is_finished_by_dialect_event() {
                    outcome = Outcome::UpstreamClosed;
                }
            }
            Err((failed, downstream)) => {
                outcome = failed;
                overlong_at_end = self.stream.is_overlong();
                if !downstream {
                    error_frame = self.tell(failed);
                }
            }
        }
        End {
            outcome,
            failure: result.err().map(|(_, downstream)| downstream),
            heartbeats: self.inserts.len() as u64,
            inserts: self.inserts,
            error_frame,
            carried: self.stream.carried(),
            overlong_seen: self.overlong_seen,
            overlong_at_end,
            finished: self.finished,
            read: self.read_at,
            left: self.stream.buffer().queued(),
            out: self.out,
            lasted: self.now,
        }
    }

    fn at(&self) -> Instant {
        self.origin + self.now
    }

    /// What came behind the head (`exchange::pump`).
    fn begin(&mut self) -> Result<(), Failure> {
        self.pour();
        let rest = self.arrived.min(READ_BUFFER_BYTES / 2);
        while self.read_at < rest && !self.stream.is_ended() {
            self.timers.read(self.at());
            let taken = self.stream.receive_copy(&self.plan.wire[self.read_at..rest]);
            self.watch.read(self.now);
            match taken {
                Ok(taken) => self.read_at += taken,
                Err(_) => {
                    self.read_at = rest;
                    self.step();
                    return Err((Outcome::UpstreamProtocol, false));
                }
            }
            self.step();
        }
        if self.stream.nothing_to_come() && !self.stream.is_ended() {
            self.stream.end();
        }
        if self.stream.is_ended() {
            self.finish();
        }
        Ok(())
    }

    fn pump(&mut self) -> Result<(), Failure> {
        for _ in 0..200_000 {
            self.now += self.plan.turn;
            if self.turn()? {
                return Ok(());
            }
            self.stream.settle();
            self.timers.set_paused(self.at(), !self.stream.wants_more());
            self.step();
            let stirred = self.wait();
            self.woke(stirred)?;
        }
        panic!("it never ends: now {:?}, {:?}", self.now, self.timers);
    }

    /// When the core wakes it. Like the pump, it asks its timers only when something may have
    /// brought the next deadline forward, or when the one it noted has come; an earlier note stays.
    fn deadline(&mut self) -> Option<Duration> {
        let early = self.noted.is_none_or(|noted| self.now < noted);
        if self.timers.take_stale() || !early {
            let next = self.timers.next().map(|(at, _)| at - self.origin);
            let stays = self.noted.filter(|noted| self.now < *noted);
            self.noted = next.map(|next| stays.map_or(next, |noted| noted.min(next))).or(stays);
        }
        self.noted
    }

    /// Waits for whichever comes first; says whether the downstream stirred.
    fn wait(&mut self) -> bool {
        let deadline = self.deadline();
        let upstream = if self.stream.wants_more() { self.upstream_stirs() } else { None };
        let downstream = if self.blocked { self.takes_at() } else { None };
        let leaves = self.plan.leaves.filter(|_| self.watching);
        let next = [deadline, upstream, downstream, leaves, self.plan.ends];
        let next = next.into_iter().flatten().min().expect("nothing would ever wake it");
        self.now = self.now.max(next);
        self.pour();
        self.watch.woke(self.now, &self.stream, self.blocked);
        if self.stream.wants_more() && self.upstream_stirs().is_some_and(|at| at <= self.now) {
            self.upstream_ready = true;
        }
        if self.blocked && self.room() > 0 {
            self.blocked = false;
        }
        leaves.is_some_and(|at| at <= self.now)
    }

    fn woke(&mut self, downstream_stirred: bool) -> Result<(), Failure> {
        if self.plan.ends.is_some_and(|at| at <= self.now) {
            return Err((Outcome::Drained, false));
        }
        if downstream_stirred {
            return Err((Outcome::ClientGone, true));
        }
        let Some(due) = self.timers.due(self.at()) else { return Ok(()) };
        if self.upstream_ready && matches!(due, Due::FirstByte | Due::Idle) {
            return Ok(());
        }
        self.watch.due(self.now, due);
        match due {
            Due::Heartbeat => {
                self.heartbeat();
                Ok(())
            }
            Due::FirstByte => Err((Outcome::FirstByteTimeout, false)),
            Due::Idle => Err((Outcome::IdleTimeout, false)),
            Due::Stream => Err((Outcome::StreamTimeout, false)),
            Due::Stalled => Err((Outcome::ClientStalled, true)),
        }
    }

    fn turn(&mut self) -> Result<bool, Failure> {
        let mut reads = 0;
        loop {
            if self.stream.buffer().queued() > 0 && !self.blocked {
                self.write()?;
            }
            if self.stream.is_ended() {
                return Ok(self.stream.buffer().queued() == 0);
            }
            if !self.upstream_ready || !self.stream.wants_more() || reads == READS_PER_TURN_MAX {
                self.upstream_ready = false;
                return Ok(false);
            }
            reads += 1;
            self.read()?;
        }
    }

    fn read(&mut self) -> Result<(), Failure> {
        let unread = self.arrived - self.read_at;
        let room = self.stream.room();
        let size = room.len();
        if unread == 0 {
            if !self.upstream_over() {
                self.upstream_ready = false;
                return Ok(());
            }
            return match self.plan.fault {
                Fault::Reset(_) => Err((Outcome::UpstreamReset, false)),
                _ => self.upstream_closed(),
            };
        }
        let n = unread.min(size).min(self.plan.recv_max);
        room[..n].copy_from_slice(&self.plan.wire[self.read_at..self.read_at + n]);
        self.read_at += n;
        self.upstream_ready = n == size;
        self.timers.read(self.at());
        let received = self.stream.received(n);
        self.watch.read(self.now);
        self.step();
        if received.is_err() {
            self.write()?;
            return Err((Outcome::UpstreamProtocol, false));
        }
        if self.stream.is_ended() {
            self.finish();
        }
        Ok(())
    }

    fn upstream_closed(&mut self) -> Result<(), Failure> {
        match self.stream.decoder().at_eof() {
            Eof::Complete => {
                self.stream.end();
                self.finish();
                Ok(())
            }
            Eof::Truncated => Err((Outcome::UpstreamTruncated, false)),
        }
    }

    fn finish(&mut self) {
        self.finished = true;
        self.stream.finish();
    }

    fn write(&mut self) -> Result<(), Failure> {
        if self.plan.leaves.is_some_and(|at| at <= self.now) {
            return Err((Outcome::ClientGone, true));
        }
        match self.send_queued() {
            Some(resumed) => {
                self.blocked = self.stream.buffer().queued() > 0;
                self.timers.wrote(self.at(), self.blocked);
                self.upstream_ready |= resumed;
            }
            None => {
                self.blocked = true;
                self.timers.refused(self.at());
            }
        }
        self.step();
        Ok(())
    }

    fn heartbeat(&mut self) {
        let frame = self.stream.dialect().and_then(|dialect| dialect.heartbeat());
        if let Some(frame) = frame {
            let behind = self.stream.carried().bytes_out as usize;
            if self.stream.insert(frame) {
                self.inserts.push((behind, frame));
            }
        }
        self.timers.skip_heartbeat(self.at());
    }

    /// Tells the client in-band what happened, then flushes.
    fn tell(&mut self, outcome: Outcome) -> Option<Vec<u8>> {
        self.stream.discard_held();
        let dialect = self.stream.dialect().expect("an event stream");
        let text = ErrorText {
            status: 502,
            code: outcome.as_str(),
            message: "it broke",
            request_id: "r",
            sequence: self.stream.carried().frames,
        };
        let mut frame = Vec::new();
        dialect.error_frame(&text, &mut frame);
        let inserted = self.stream.insert(&frame);
        let deadline = self.now + self.plan.timeouts.write;
        while self.stream.buffer().queued() > 0 && self.now < deadline {
            if self.plan.leaves.is_some_and(|at| at <= self.now) {
                break;
            }
            self.send_queued();
            if self.stream.buffer().queued() == 0 || outcome == Outcome::Drained {
                break;
            }
            self.now = self.takes_at().unwrap_or(deadline).clamp(self.now, deadline);
        }
        inserted.then_some(frame)
    }

    /// Sends what the client takes; whether reading may resume, or `None` where it took nothing.
    fn send_queued(&mut self) -> Option<bool> {
        let (mut any, mut resumed) = (false, false);
        while self.stream.buffer().queued() > 0 {
            let room = self.room();
            let buffer = self.stream.buffer();
            let before = self.out.len();
            match buffer.single() {
                Some(bytes) => self.out.extend_from_slice(&bytes[..bytes.len().min(room)]),
                None => {
                    let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
                    let used = buffer.gather(&mut slices);
                    assert!(used > 0, "something is queued, nothing can be gathered");
                    for slice in &slices[..used] {
                        let left = room - (self.out.len() - before);
                        self.out.extend_from_slice(&slice[..slice.len().min(left)]);
                    }
                }
            }
            let taken = self.out.len() - before;
            if taken == 0 {
                break;
            }
            any = true;
            let sent = self.stream.sent(taken);
            self.watch.sent(sent, &self.stream);
            resumed |= sent;
        }
        self.watch.wrote(self.now, any, self.stream.buffer().queued() > 0);
        any.then_some(resumed)
    }

    fn step(&mut self) {
        self.overlong_seen |= self.stream.is_overlong();
        self.watch.step(self.now, &self.stream);
    }

    /// Lets arrive what is due.
    fn pour(&mut self) {
        while let Some((at, n)) = self.plan.arrivals.get(self.arrivals_seen)
            && *at <= self.now
        {
            self.arrived += n;
            self.arrivals_seen += 1;
        }
    }

    /// The upstream closed or reset behind what has arrived.
    fn upstream_over(&self) -> bool {
        self.arrivals_seen == self.plan.arrivals.len()
            && !matches!(self.plan.fault, Fault::Silence(_) | Fault::BadChunk(_))
    }

    /// When the upstream is next readable.
    fn upstream_stirs(&self) -> Option<Duration> {
        if self.read_at < self.arrived || self.upstream_over() {
            return Some(self.now);
        }
        self.plan.arrivals.get(self.arrivals_seen).map(|(at, _)| *at)
    }

    /// Bytes the client takes now.
    fn room(&mut self) -> usize {
        let sent = self.out.len();
        match self.plan.taking {
            Taking::Quick => usize::MAX,
            Taking::Slow(bytes, every) => {
                let ticks = self.now.as_millis() as usize / every as usize;
                (bytes * (ticks + 1)).saturating_sub(sent)
            }
            Taking::Stalls(after) => after.saturating_sub(sent),
            Taking::Pauses(after, ms) => {
                if sent < after {
                    return after - sent;
                }
                let from = *self.stalled_from.get_or_insert(self.now);
                let over = self.now >= from + Duration::from_millis(ms);
                if over { usize::MAX } else { 0 }
            }
        }
    }

    /// When it next takes any.
    fn takes_at(&mut self) -> Option<Duration> {
        if self.room() > 0 {
            return Some(self.now);
        }
        match self.plan.taking {
            Taking::Slow(bytes, every) => {
                let ticks = self.out.len() / bytes;
                Some(Duration::from_millis(ticks as u64 * every))
            }
            Taking::Pauses(_, ms) => self.stalled_from.map(|at| at + Duration::from_millis(ms)),
            Taking::Quick | Taking::Stalls(_) => None,
        }
    }
}
