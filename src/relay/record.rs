//! The account of one exchange: what the access log, the metrics and `/streams` say of it.
//!
//! It is closed exactly once on every path: by [`Record::close`], or, when the task unwinds, by
//! its drop.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use super::routing::{RouteState, Way};
use super::{Core, Registration};
use crate::clock;
use crate::dialect::{Dialect, ErrorText};
use crate::error::Failure;
use crate::flow::stream::Carried;
use crate::http1::head::RequestHead;
use crate::limits::SHOWN_TEXT_BYTES_MAX;
use crate::outcome::Outcome;
use crate::telemetry::log::AccessLine;
use crate::telemetry::streams::StreamInfo;
use crate::upstream::group::InUse;

/// The part of the account that others may look at while the exchange runs.
#[repr(C)] // what changes with every frame stands together, in few cache lines
pub struct Live {
    carried: Cell<Carried>,
    last_frame: Cell<Option<Instant>>,
    /// What it is doing.
    pub state: Cell<&'static str>,
    /// The dialect as known by now.
    pub dialect: Cell<Dialect>,
    worker: usize,
    started: Instant,
    /// The request's id, the client's own or ours.
    pub request_id: Box<str>,
    client: SocketAddr,
    method: Box<str>,
    path: Box<str>,
    /// The endpoint it uses; empty before and after.
    pub upstream: RefCell<Option<InUse>>,
}

impl Live {
    /// What `/streams` shows.
    pub fn info(&self, now: Instant) -> StreamInfo {
        let upstream = self.upstream.borrow();
        let upstream = upstream.as_ref().map(|used| &*used.upstream().endpoint.authority);
        let carried = self.carried.get();
        let since = self.last_frame.get().unwrap_or(self.started);
        StreamInfo {
            request_id: self.request_id.to_string(),
            client: self.client.to_string(),
            method: self.method.to_string(),
            path: self.path.to_string(),
            dialect: self.dialect.get().as_str().to_owned(),
            state: self.state.get().to_owned(),
            upstream: upstream.unwrap_or_default().to_owned(),
            started_ms_ago: millis(now - self.started),
            frames: carried.frames,
            bytes: carried.bytes_out,
            idle_ms: millis(now - since),
            worker: self.worker,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// See the module's description.
pub struct Record {
    core: Rc<Core>,
    /// The visible part.
    pub live: Rc<Live>,
    /// Attempts made so far.
    pub attempts: Cell<u32>,
    /// The last attempt used a pooled connection.
    pub reused: Cell<bool>,
    /// The status sent downstream, 0 for none.
    pub status: Cell<u16>,
    /// It is an event stream.
    pub stream: Cell<bool>,
    /// The model named in the request's body.
    pub model: RefCell<Option<Box<str>>>,
    /// What went wrong, in one line.
    pub error: RefCell<Option<Box<str>>>,
    /// Heartbeats sent.
    pub heartbeats: Cell<u32>,
    first_byte: Cell<Option<Duration>>,
    first_frame: Cell<Option<Duration>>,
    longest_gap_us: Cell<u64>,
    admitted: Cell<bool>,
    closed: Cell<bool>,
    /// The route, once it is known.
    route: OnceCell<Rc<RouteState>>,
}

impl Record {
    /// Opens the account of a request.
    pub(super) fn open(
        core: &Rc<Core>,
        registration: &Registration,
        client: SocketAddr,
        head: &RequestHead,
        dialect: Dialect,
    ) -> Self {
        let live = Rc::new(Live {
            request_id: request_id(head),
            client,
            method: shown(head.method()),
            path: shown(head.path()),
            worker: core.worker,
            started: clock::now(),
            state: Cell::new("connecting"),
            dialect: Cell::new(dialect),
            carried: Cell::default(),
            last_frame: Cell::new(None),
            upstream: RefCell::default(),
        });
        registration.set_live(Some(Rc::clone(&live)));
        core.metrics.requests.inc();
        Self {
            core: Rc::clone(core),
            live,
            attempts: Cell::new(0),
            reused: Cell::new(false),
            status: Cell::new(0),
            stream: Cell::new(false),
            model: RefCell::new(None),
            error: RefCell::new(None),
            heartbeats: Cell::new(0),
            first_byte: Cell::new(None),
            first_frame: Cell::new(None),
            longest_gap_us: Cell::new(0),
            admitted: Cell::new(false),
            closed: Cell::new(false),
            route: OnceCell::new(),
        }
    }

    /// The route is known.
    pub(super) fn routed(&self, way: &Way) {
        self.live.dialect.set(way.dialect);
        let _ = self.route.set(Rc::clone(&way.route));
    }

    /// The route, once it is known.
    pub fn route(&self) -> Option<&Rc<RouteState>> {
        self.route.get()
    }

    /// Takes a place among the streams of the core and those of the route, given back when the
    /// account is closed.
    ///
    /// # Errors
    /// There is none: why, in one line.
    pub fn admit(&self) -> Result<(), &'static str> {
        if !self.core.admit() {
            return Err("the relay carries all it can");
        }
        if self.route.get().is_some_and(|route| !route.admit()) {
            self.core.dismiss();
            return Err("the route carries all it may");
        }
        self.admitted.set(true);
        Ok(())
    }

    /// When the request's head was complete.
    pub fn started(&self) -> Instant {
        self.live.started
    }

    /// The response head came.
    pub fn answered(&self, now: Instant) {
        let took = now - self.live.started;
        self.first_byte.set(Some(took));
        self.core.metrics.first_byte.record(took);
    }

    /// Bytes were carried; `frames` of them ended just now.
    pub fn carried(&self, now: Instant, carried: Carried) {
        let before = self.live.carried.replace(carried);
        let metrics = &self.core.metrics;
        metrics.bytes_in.add(carried.bytes_in - before.bytes_in);
        metrics.bytes_out.add(carried.bytes_out - before.bytes_out);
        metrics.pauses.add(u64::from(carried.pauses - before.pauses));
        let frames = carried.frames - before.frames;
        if frames == 0 {
            return;
        }
        metrics.frames.add(frames);
        match self.live.last_frame.replace(Some(now)) {
            None => {
                let took = now - self.live.started;
                self.first_frame.set(Some(took));
                metrics.first_frame.record(took);
            }
            Some(last) => {
                let gap = now - last;
                metrics.frame_gap.record(gap);
                let us = u64::try_from(gap.as_micros()).unwrap_or(u64::MAX);
                self.longest_gap_us.set(self.longest_gap_us.get().max(us));
            }
        }
    }

    /// Bytes of a stream that is another's account were sent.
    pub(super) fn replayed(&self, carried: Carried) {
        self.live.carried.set(carried);
    }

    /// Notes a failure, and what tells it to those who read the stream: behind so many frames.
    pub(super) fn failed<'a>(&'a self, failure: &'a Failure, frames: u64) -> ErrorText<'a> {
        self.error.replace(Some(failure.message.as_str().into()));
        ErrorText {
            status: failure.status(),
            code: failure.outcome.as_str(),
            message: &failure.message,
            request_id: &self.live.request_id,
            sequence: frames,
        }
    }

    /// A heartbeat was sent.
    pub fn heartbeat(&self) {
        self.heartbeats.set(self.heartbeats.get() + 1);
        self.core.metrics.heartbeats.inc();
    }

    /// A status went downstream.
    pub fn responded(&self, status: u16) {
        self.status.set(status);
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.core.metrics.responses[class].inc();
    }

    /// Closes the account.
    pub fn close(&self, outcome: Outcome) {
        if self.closed.replace(true) {
            return;
        }
        if self.admitted.get() {
            self.core.dismiss();
            self.route.get().inspect(|route| route.dismiss());
        }
        self.live.upstream.take();
        let metrics = &self.core.metrics;
        metrics.exchanges[outcome as usize].inc();
        let duration = clock::now() - self.live.started;
        if self.stream.get() {
            metrics.streams[outcome as usize].inc();
            metrics.stream_duration.record(duration);
        }
        if !self.core.access.enabled() {
            return;
        }
        let carried = self.live.carried.get();
        let (model, error) = (self.model.borrow(), self.error.borrow());
        let ms = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        let line = AccessLine {
            time: SystemTime::now().checked_sub(duration).unwrap_or(SystemTime::UNIX_EPOCH),
            request_id: &self.live.request_id,
            client: self.live.client,
            method: &self.live.method,
            path: &self.live.path,
            route: self.route.get().map(|route| &*route.route.name).filter(|name| !name.is_empty()),
            status: self.status.get(),
            dialect: self.live.dialect.get().as_str(),
            model: model.as_deref(),
            outcome: outcome.as_str(),
            attempts: self.attempts.get(),
            reused: self.reused.get(),
            stream: self.stream.get(),
            frames: carried.frames,
            bytes_in: carried.bytes_in,
            bytes_out: carried.bytes_out,
            first_byte_ms: self.first_byte.get().map(ms),
            first_frame_ms: self.first_frame.get().map(ms),
            duration_ms: ms(duration),
            longest_gap_ms: self.first_frame.get().map(|_| self.longest_gap_us.get() as f64 / 1e3),
            pauses: carried.pauses,
            heartbeats: self.heartbeats.get(),
            worker: self.core.worker,
            error: error.as_deref(),
        };
        if !self.core.access.write(&line) {
            metrics.log_lines_dropped.inc();
        }
    }
}

/// Accounts for bytes that never became a request: there is no head that would tell more.
pub(super) fn refused(core: &Core, client: SocketAddr, status: u16, outcome: Outcome, why: &str) {
    let metrics = &core.metrics;
    metrics.requests.inc();
    metrics.exchanges[outcome as usize].inc();
    metrics.responses[usize::from(status / 100).clamp(1, 5) - 1].inc();
    if !core.access.enabled() {
        return;
    }
    let line = AccessLine {
        time: SystemTime::now(),
        request_id: "-",
        client,
        method: "-",
        path: "-",
        route: None,
        status,
        dialect: Dialect::Generic.as_str(),
        model: None,
        outcome: outcome.as_str(),
        attempts: 0,
        reused: false,
        stream: false,
        frames: 0,
        bytes_in: 0,
        bytes_out: 0,
        first_byte_ms: None,
        first_frame_ms: None,
        duration_ms: 0.0,
        longest_gap_ms: None,
        pauses: 0,
        heartbeats: 0,
        worker: core.worker,
        error: Some(why),
    };
    if !core.access.write(&line) {
        metrics.log_lines_dropped.inc();
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Only an unwinding task comes here with an open account.
        self.close(Outcome::Panicked);
    }
}

/// As much of a text the client chose as is kept.
pub(super) fn shown(text: &str) -> Box<str> {
    let mut end = text.len().min(SHOWN_TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

/// The client's X-Request-Id where it is short and harmless, else a fresh one.
fn request_id(head: &RequestHead) -> Box<str> {
    let given = head.field("x-request-id").and_then(|value| std::str::from_utf8(value).ok());
    let harmless = |c: u8| c.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&c);
    match given {
        Some(id) if !id.is_empty() && id.len() <= 128 && id.bytes().all(harmless) => id.into(),
        _ => fresh_id(fastrand::u128(..)),
    }
}

/// Its 32 hexadecimal digits.
fn fresh_id(number: u128) -> Box<str> {
    let mut digits = [0; 32];
    for (two, byte) in digits.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        two[0] = HEX[usize::from(byte >> 4)];
        two[1] = HEX[usize::from(byte & 15)];
    }
    std::str::from_utf8(&digits).unwrap_or_default().into()
}

const HEX: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::Status;
    use crate::http1::head::parse_request;
    use crate::relay::tests::unattached;

    #[test]
    fn an_id_has_every_digit() {
        assert_eq!(&*fresh_id(0x0123_4567_89ab_cdef), "00000000000000000123456789abcdef");
        assert_eq!(&*fresh_id(u128::MAX), "f".repeat(32));
    }

    #[test]
    fn an_exchange_that_unwinds_is_accounted_for_once_and_gives_its_place_back() {
        let core = unattached(1);
        let bytes = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\n\r\n";
        let Ok(Status::Complete((head, _))) = parse_request(bytes, &mut 0) else {
            panic!("does not parse");
        };
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let registration = core.register();
            let client = SocketAddr::from(([127, 0, 0, 1], 1));
            let record = Record::open(&core, &registration, client, &head, Dialect::Anthropic);
            assert_eq!(record.admit(), Ok(()), "there is room");
            assert!(!core.admit(), "for one");
            record.stream.set(true);
            panic!("a fault, as this test wants it");
        }));
        assert!(unwound.is_err());
        let metrics = &core.metrics;
        for (index, exchanges) in metrics.exchanges.iter().enumerate() {
            let expected = u64::from(index == Outcome::Panicked as usize);
            assert_eq!((exchanges.get(), metrics.streams[index].get()), (expected, expected));
        }
        assert_eq!((core.connections(), core.snapshot(clock::now()).len()), (0, 0));
        assert_eq!((metrics.connections_active.get(), metrics.streams_active.get()), (0, 0));
        assert!(core.admit(), "the place is free again");
    }
}
