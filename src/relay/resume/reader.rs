//! One client of a stream that is kept: sends it what it has not got.

use std::future::poll_fn;
use std::io::IoSlice;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::super::Stage;
use super::super::connection::{self, After, Connection};
use super::super::exchange::Opening;
use super::super::pump::{client_gone, gone, overdue};
use super::super::record::Record;
use super::super::task::spawn_caught;
use super::Seat;
use super::source::{self, Source};
use crate::clock;
use crate::error::Failure;
use crate::flow::replay::{FRAMES_PER_GATHER, Lines};
use crate::flow::stream::{Carried, Outgoing};
use crate::flow::timers::{Due, Timers};
use crate::http1::chunked::{CHUNK_LINE_BYTES, encode_chunk_line};
use crate::limits::{ABORT_DELAY, READS_PER_TURN_MAX, SUSPECT_TIMEOUT, WRITE_SLICES_MAX};
use crate::net::stream::Transport;
use crate::net::timer;
use crate::net::wait::GiveWay;
use crate::outcome::Outcome;
use crate::sse::sequence::StreamText;

/// Where a reader stands in its stream.
pub(in super::super) struct Position {
    /// The stream's name.
    pub text: StreamText,
    /// The number of the last frame it has.
    pub after: u64,
}

impl Position {
    pub(in super::super) fn of(seat: &Seat) -> Option<Self> {
        let position = seat.with(|shelf| {
            let kept = shelf.stream(seat.slot)?;
            Some(Self { text: kept.text, after: kept.log.sent_up_to(seat.reader) })
        });
        position.flatten()
    }
}

/// Writes the payload that goes before the first frame: when to come back, and, to those who read
/// events as browsers do, where from. To others a frame without data would be one: their libraries
/// take what has an id for an event, and its data for JSON.
pub(in super::super) fn put_hint(
    position: &Position,
    (retry_ms, own_frame, framing): (u128, bool, Outgoing),
    out: &mut Vec<u8>,
) {
    let Position { text, after } = position;
    let hint = if own_frame {
        format!("id: {}.{after}\nretry: {retry_ms}\n\n", text.as_str())
    } else {
        format!("retry: {retry_ms}\n")
    };
    put_payload(hint.as_bytes(), framing, out);
}

fn put_payload(payload: &[u8], framing: Outgoing, out: &mut Vec<u8>) {
    match framing {
        Outgoing::Plain => out.extend_from_slice(payload),
        Outgoing::Chunked => {
            let mut line = [0; CHUNK_LINE_BYTES];
            let len = encode_chunk_line(payload.len(), &mut line);
            out.extend_from_slice(&line[..len]);
            out.extend_from_slice(payload);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// A doubt whether anybody is still there.
struct Suspicion {
    until: Instant,
    /// Bytes that the peer had acknowledged at the last look.
    acknowledged: i64,
    /// Bytes that it must have acknowledged to be believed: all that were sent when it began.
    enough: i64,
}

/// Whose account what is sent belongs to.
#[expect(clippy::large_enum_variant, reason = "made once a stream, and taken apart at once")]
pub(in super::super) enum Account {
    /// The generation's: this is its first reader, and drives its source.
    Source(Source),
    /// That of a client that came back.
    Own(Record),
}

/// What a connection is to read.
pub(in super::super) struct Reads {
    pub account: Account,
    pub seat: Seat,
    pub opening: Opening,
}

/// One connection that reads a stream. It is a task of its own, so that all that a frame takes of
/// it lies in one place.
struct Reading {
    connection: Connection,
    /// The stream's source, while this reader drives it.
    source: Option<Source>,
    /// The account of a client that came back; that of the first is its source's.
    record: Option<Record>,
    seat: Seat,
    text: StreamText,
    framing: Outgoing,
    /// What is not kept: the head, a heartbeat, the end. It goes before the next frame.
    own: Vec<u8>,
    own_sent: usize,
    /// The end is in `own`, or has been sent.
    ending: bool,
    timers: Timers,
    blocked: bool,
    watching: bool,
    /// The source may have to end.
    interrupted: bool,
    /// This reader must go.
    replaced: bool,
    /// Another may have taken its place.
    doubted: bool,
    /// Bytes the socket took.
    sent: i64,
    suspicion: Option<Suspicion>,
    carried: Carried,
    /// The connection may carry another request behind the stream.
    keep_alive: bool,
    /// Only a close can end the body.
    to_close: bool,
}

/// What a look at the log shows.
enum News {
    None,
    /// Something to send, or to say.
    Other,
    /// The stream's end was asked for.
    Cancelled,
    /// Its source waits for a driver.
    Parked,
    /// So many others read it that this one must go.
    Replaced,
    /// Another has come, perhaps in this one's place.
    Doubt,
}

/// How a reader's stream ended, when all of it was sent.
enum End {
    InOrder(Outcome),
    Broken(Outcome),
}

/// Has the connection read its stream, and then go on with what is asked next.
pub(in super::super) fn go_on(connection: Connection, reads: Box<Reads>) {
    let Reads { account, seat, opening } = *reads;
    let (source, record) = match account {
        Account::Source(source) => (Some(source), None),
        Account::Own(record) => (None, Some(record)),
    };
    let Some(Position { text, .. }) = Position::of(&seat) else { return };
    let now = clock::now();
    let mut timers = Timers::new(&opening.route.reader_timeouts, now, now, true);
    // The upstream's silence is its source's to judge.
    timers.set_paused(now, true);
    let core = Rc::clone(connection.core());
    let mut reading = Reading {
        connection,
        source,
        record,
        seat,
        text,
        framing: opening.framing,
        own: opening.bytes,
        own_sent: 0,
        ending: false,
        timers,
        blocked: false,
        watching: true,
        interrupted: false,
        replaced: false,
        doubted: false,
        sent: 0,
        suspicion: None,
        carried: Carried::default(),
        keep_alive: opening.keep_alive,
        to_close: opening.to_close,
    };
    spawn_caught(&core, async move {
        reading.connection.set_waker().await;
        let ended = reading.run().await;
        Box::pin(reading.end_with(ended)).await;
    });
}

/// Sends slices; how many bytes the socket took, and of how many.
fn send(transport: &Transport, slices: &[IoSlice<'_>]) -> Result<(Option<usize>, usize), Failure> {
    let wanted = slices.iter().map(|slice| slice.len()).sum::<usize>();
    let sent = transport.post(slices);
    sent.map(|sent| (sent, wanted)).map_err(client_gone)
}

impl Reading {
    async fn run(&mut self) -> Result<End, Failure> {
        let mut give_way = GiveWay::default();
        let mut now = clock::now();
        let mut late = false;
        poll_fn(|cx| {
            self.source.as_ref().inspect(|source| source.watch(cx));
            Poll::Ready(())
        })
        .await;
        loop {
            self.drive(now, late);
            if let Some(end) = self.turn(now)? {
                return Ok(end);
            }
            let (mut client_stirred, mut waited) = (false, false);
            late = false;
            poll_fn(|cx| {
                if std::mem::replace(&mut waited, true) {
                    now = clock::now();
                }
                let mut ready = self.source.as_mut().is_some_and(|source| {
                    source.ask_ahead();
                    self.connection.transport.ask_ahead();
                    source.poll_readable(cx)
                });
                ready |= self.poll_news(cx);
                if self.blocked && self.connection.transport.poll_writable(cx).is_ready() {
                    (self.blocked, ready) = (false, true);
                }
                if self.watching && self.connection.stirred(cx).is_ready() {
                    (client_stirred, ready) = (true, true);
                }
                if self.is_stale() || !self.connection.registration.is_early(now) {
                    let deadline = self.deadline();
                    late |= self.connection.registration.poll_deadline(deadline, now).is_ready();
                    ready |= late;
                }
                ready |= self.connection.core().stage() == Stage::Ending;
                give_way.poll(ready, cx)
            })
            .await;
            if self.connection.core().stage() == Stage::Ending && self.blocked {
                return Err(gone(Outcome::Drained, "the relay is shutting down"));
            }
            if client_stirred {
                self.connection.look(&mut self.watching)?;
            }
            if self.replaced {
                self.connection.core().metrics.readers_replaced.inc();
                let message = "so many newer connections read this stream";
                return Err(gone(Outcome::ClientGone, message));
            }
            if std::mem::take(&mut self.doubted) {
                self.suspect(now);
            }
            if late {
                self.due(now)?;
            }
        }
    }

    /// What is left to do when it has ended so.
    async fn end_with(self, ended: Result<End, Failure>) {
        // The place is given up before the source is handed on: to those who are left.
        let Self { mut connection, source, record, seat, keep_alive, to_close, .. } = self;
        drop(seat);
        if let Some(source) = source {
            source::hand_on(source);
        }
        let (outcome, after) = match ended {
            Ok(End::InOrder(outcome)) => (outcome, After::whole(keep_alive)),
            Ok(End::Broken(outcome)) => {
                // A client that knows its dialect leaves when it has read the error: that ends the
                // wait.
                let _ = timer::timeout(ABORT_DELAY, connection.transport.readable()).await;
                (outcome, After::Abort)
            }
            Err(failure) => {
                if let Some(record) = &record {
                    record.error.replace(Some(failure.message.as_str().into()));
                }
                (failure.outcome, After::Abort)
            }
        };
        if let Some(record) = record {
            record.close(outcome);
        }
        connection.registration.set_live(None);
        match after {
            After::KeepAlive => {
                let core = Rc::clone(connection.core());
                spawn_caught(&core, connection::serve_more(connection));
            }
            After::Close => connection.linger().await,
            After::Abort if to_close => connection.transport.reset(),
            After::Abort => {}
        }
    }

    /// Drives the source, if that is this reader's to do.
    fn drive(&mut self, now: Instant, late: bool) {
        let Some(source) = &mut self.source else { return };
        let driven = if late { source.due(now) } else { Ok(()) };
        let stays = self.connection.core().stage() == Stage::Serving && !self.interrupted;
        let driven = driven.and_then(|()| if stays { Ok(()) } else { source.check() });
        self.interrupted = false;
        match driven.and_then(|()| source.turn(now)) {
            Ok(false) => {}
            ended => {
                if let Some(source) = self.source.take() {
                    source.close(ended.map(|_| ()));
                }
            }
        }
    }

    fn is_stale(&mut self) -> bool {
        let source = self.source.as_mut().is_some_and(|source| source.take_stale());
        self.timers.take_stale() | source
    }

    fn deadline(&self) -> Option<Instant> {
        let next = self.timers.next().map(|(at, _)| at);
        let suspicion = self.suspicion.as_ref().map(|suspicion| suspicion.until);
        let source = self.source.as_ref().and_then(|source| source.deadline());
        next.into_iter().chain(suspicion).chain(source).min()
    }

    /// Whether there is something to send, or to do; else the task is woken when there is. A source
    /// that waits for a driver is taken.
    fn poll_news(&mut self, cx: &Context<'_>) -> bool {
        let (slot, reader) = (self.seat.slot, self.seat.reader);
        let (blocked, drives) = (self.blocked, self.source.is_some());
        let news = self.seat.with(|shelf| {
            let Some(kept) = shelf.stream_mut(slot) else { return News::Other };
            if drives {
                if kept.cancelled {
                    return News::Cancelled;
                }
            } else {
                kept.log.watch(reader, cx.waker());
                if kept.parked {
                    // Who drives the source needs no other's word for what comes.
                    kept.log.unwatch(reader);
                    return News::Parked;
                }
            }
            if kept.log.is_replaced(reader) {
                return News::Replaced;
            }
            if kept.log.take_suspicion(reader) {
                return News::Doubt;
            }
            let log = &kept.log;
            let more = !log.is_caught_up(reader) || log.is_over() || log.has_gap(reader);
            if more && !blocked { News::Other } else { News::None }
        });
        match news {
            Some(News::None) => self.own_sent < self.own.len() && !blocked,
            Some(News::Cancelled) => {
                self.interrupted = true;
                true
            }
            Some(News::Parked) => {
                self.source = source::take_parked(self.connection.core(), slot);
                self.source.as_ref().inspect(|source| source.watch(cx));
                // What it missed meanwhile is looked at.
                self.interrupted = true;
                true
            }
            Some(News::Replaced) => {
                self.replaced = true;
                true
            }
            Some(News::Doubt) => {
                self.doubted = true;
                true
            }
            Some(News::Other) | None => true,
        }
    }

    /// Sends what can be sent; the end, when all of it was.
    fn turn(&mut self, now: Instant) -> Result<Option<End>, Failure> {
        for _ in 0..READS_PER_TURN_MAX {
            if self.blocked {
                return Ok(None);
            }
            if self.own_sent < self.own.len() {
                self.send_own(now)?;
            } else if !self.send_frames(now)? {
                return self.end();
            }
        }
        Ok(None)
    }

    fn wrote(&mut self, now: Instant, sent: Option<usize>, wanted: usize) -> usize {
        let Some(n) = sent else {
            self.blocked = true;
            self.timers.refused(now);
            return 0;
        };
        self.blocked = n < wanted;
        self.timers.wrote(now, self.blocked);
        self.sent += n as i64;
        n
    }

    fn send_own(&mut self, now: Instant) -> Result<(), Failure> {
        let rest = &self.own[self.own_sent..];
        let wanted = rest.len();
        let sent = self.connection.transport.try_send(rest);
        let sent = sent.map_err(client_gone)?;
        self.own_sent += self.wrote(now, sent, wanted);
        if self.own_sent == self.own.len() {
            (self.own, self.own_sent) = (Vec::new(), 0);
        }
        Ok(())
    }

    /// Sends kept frames in one call; false where none is left.
    fn send_frames(&mut self, now: Instant) -> Result<bool, Failure> {
        let how = (&self.text, self.framing);
        let (slot, reader) = (self.seat.slot, self.seat.reader);
        let transport = &self.connection.transport;
        let sent = self.seat.with(|shelf| {
            let kept = shelf.stream(slot)?;
            if kept.log.has_gap(reader) {
                let message = "it fell behind another reader of its stream, out of what is kept";
                return Some(Err(gone(Outcome::ClientLagging, message)));
            }
            if kept.log.is_one_behind(reader) {
                let (mut lines, mut slices) = (Lines::<1>::default(), [IoSlice::new(&[]); 3]);
                let used = kept.log.gather(reader, how, &mut lines, &mut slices);
                return Some(send(transport, &slices[..used]));
            }
            let mut lines = Lines::<FRAMES_PER_GATHER>::default();
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
            let used = kept.log.gather(reader, how, &mut lines, &mut slices);
            (used > 0).then(|| send(transport, &slices[..used]))
        });
        let Some(sent) = sent.flatten() else { return Ok(false) };
        if let Err(Failure { outcome: Outcome::ClientLagging, .. }) = sent {
            self.connection.core().metrics.readers_lagging.inc();
        }
        let (sent, wanted) = sent?;
        let n = self.wrote(now, sent, wanted);
        if n > 0 {
            let how = (&self.text, self.framing);
            let frames = self.seat.with(|shelf| {
                let Some(kept) = shelf.stream_mut(slot) else { return 0 };
                let frames = kept.log.sent(reader, how, n);
                if kept.log.may_resume() {
                    kept.wake_source();
                }
                frames
            });
            self.note(n, frames.unwrap_or_default());
        }
        Ok(true)
    }

    /// Accounts for what was sent.
    fn note(&mut self, n: usize, frames: u64) {
        self.carried.bytes_out += n as u64;
        self.carried.frames += frames;
        if let Some(record) = &self.record {
            record.replayed(self.carried);
        }
    }

    /// The end, where the stream has come to it.
    fn end(&mut self) -> Result<Option<End>, Failure> {
        let over = self.seat.with(|shelf| {
            let Some(kept) = shelf.stream(self.seat.slot) else {
                return Some((Outcome::Cancelled, false));
            };
            let over = kept.log.is_over() && kept.log.is_caught_up(self.seat.reader);
            over.then(|| (kept.outcome.unwrap_or(Outcome::Panicked), kept.whole))
        });
        let Some((outcome, whole)) = over.flatten() else { return Ok(None) };
        if !whole {
            return Ok(Some(End::Broken(outcome)));
        }
        if self.framing == Outgoing::Plain || self.ending {
            return Ok(Some(End::InOrder(outcome)));
        }
        self.ending = true;
        self.own = b"0\r\n\r\n".to_vec();
        // By the turn that follows at once: there is news as long as it is not sent.
        Ok(None)
    }

    /// Begins to doubt whether anybody is there: another reader has come.
    fn suspect(&mut self, now: Instant) {
        if self.suspicion.is_some() {
            return;
        }
        // One byte more, or nothing at all would be an answer.
        self.doubt(now, self.sent + 1);
        // An answer to something shows that somebody is.
        self.heartbeat();
    }

    fn doubt(&mut self, now: Instant, enough: i64) {
        let acknowledged = self.sent - self.connection.transport.unacknowledged();
        self.suspicion = Some(Suspicion { until: now + SUSPECT_TIMEOUT, acknowledged, enough });
        self.timers.touch();
    }

    /// Deals with a deadline that has come.
    fn due(&mut self, now: Instant) -> Result<(), Failure> {
        if self.suspicion.as_ref().is_some_and(|suspicion| suspicion.until <= now) {
            self.judge(now)?;
        }
        match self.timers.due(now) {
            Some(Due::Heartbeat) => {
                self.heartbeat();
                self.timers.skip_heartbeat(now);
                Ok(())
            }
            Some(due @ Due::Stalled) => overdue(due),
            // The upstream's limits are its source's.
            _ => Ok(()),
        }
    }

    fn judge(&mut self, now: Instant) -> Result<(), Failure> {
        let Some(Suspicion { acknowledged, enough, .. }) = self.suspicion.take() else {
            return Ok(());
        };
        let waiting = self.connection.transport.unacknowledged();
        let answered = self.sent - waiting;
        if answered >= enough {
            return Ok(());
        }
        if waiting > 0 && answered <= acknowledged {
            self.connection.core().metrics.readers_replaced.inc();
            let message = "it acknowledges nothing any more, and another connection reads on";
            return Err(gone(Outcome::ClientGone, message));
        }
        // Slowly, or nothing was sent that could have been acknowledged.
        self.doubt(now, enough);
        Ok(())
    }

    fn heartbeat(&mut self) {
        let (slot, reader) = (self.seat.slot, self.seat.reader);
        let frame = self.seat.with(|shelf| {
            let kept = shelf.stream(slot)?;
            if kept.log.is_between(reader) { kept.heartbeat } else { None }
        });
        let Some(frame) = frame.flatten() else { return };
        if !self.own.is_empty() {
            return;
        }
        // Comments without their blank line, as they are kept in the log.
        let comment = frame.starts_with(b":");
        let frame = if comment { frame.strip_suffix(b"\n").unwrap_or(frame) } else { frame };
        put_payload(frame, self.framing, &mut self.own);
        match &self.record {
            Some(record) => record.heartbeat(),
            None => self.connection.core().metrics.heartbeats.inc(),
        }
    }
}
