//! Streams that are cut by their client at random, and come back until they have ended.

use std::cmp::Reverse;
use std::time::Duration;

use super::{Conn, Driver, Due, Exchange, fault_of};
use crate::client::Cuts;
use crate::client::stats::Resumes;
use crate::clock;
use crate::draw::Draws;
use crate::frame::Fault;
use crate::wire::Decoder;

/// Connections in a row that may bring nothing before their stream is given up.
const BARREN_MAX: u32 = 10;

/// A stream's course through its connections.
pub(super) struct Course {
    draws: Draws,
    every: Duration,
    /// When the request at hand went out.
    sent: u64,
    /// Whether a byte of its answer is in.
    answered: bool,
    /// Whether it came back.
    back: bool,
    /// So many bytes are read once there are any, and the connection is cut.
    bite: Option<usize>,
    /// Connections in a row that ended by themselves without a frame.
    barren: u32,
    /// Frames had when the connection began.
    had: u32,
}

impl Course {
    pub(super) fn new(cuts: Cuts, number: u32) -> Self {
        Self {
            draws: Draws::new(cuts.seed, number.into()),
            every: cuts.every,
            sent: 0,
            answered: false,
            back: false,
            bite: None,
            barren: 0,
            had: 0,
        }
    }

    /// A byte of the answer is in.
    pub(super) fn answered(&mut self, now: u64, resumes: &mut Resumes) {
        if !self.answered && self.back {
            resumes.latency.record(now.saturating_sub(self.sent));
        }
        self.answered = true;
    }
}

/// What is wrong with an answer to a request to go on; nothing where there is no such request.
pub(super) fn refusal(exchange: &Exchange) -> Option<Fault> {
    let course = exchange.cuts.as_ref()?;
    match exchange.decoder.status {
        200 => None,
        204 if course.back => None,
        404 if course.back => Some(Fault::Unknown),
        410 if course.back => Some(Fault::Gap),
        _ => Some(Fault::Refused),
    }
}

impl Driver<'_> {
    /// The request goes out: of a stream that is known, the connection may be cut from now on.
    pub(super) fn asking(&mut self, at: usize) {
        let Some(conn) = self.conns[at].as_mut() else { return };
        let Some(course) = conn.exchange.cuts.as_mut() else { return };
        course.sent = clock::now();
        if course.back {
            let now = course.sent;
            self.plan_cut(at, now);
        }
    }

    fn plan_cut(&mut self, at: usize, now: u64) {
        let Some(conn) = self.conns[at].as_mut() else { return };
        let Some(course) = conn.exchange.cuts.as_mut() else { return };
        let wait = course.draws.wait(course.every);
        let due = now + u64::try_from(wait.as_nanos()).unwrap_or(0);
        self.timers.push(Reverse((due, Due::Cut, at, conn.serial)));
    }

    /// The head is in: it names the stream.
    pub(super) fn resumable(&mut self, at: usize, now: u64) {
        let Some(conn) = self.conns[at].as_mut() else { return };
        let Some(course) = conn.exchange.cuts.as_ref() else { return };
        let first = !course.back;
        let resumes = &mut self.stats[conn.group].resumes;
        match conn.exchange.decoder.status {
            200 if !first => resumes.resumed += 1,
            204 if !first => resumes.over += 1,
            _ => {}
        }
        if conn.exchange.decoder.status != 200 {
            return;
        }
        let named = match conn.exchange.decoder.stream.as_deref() {
            Some(stream) => conn.exchange.checker.name(stream),
            None => Err(Fault::Id),
        };
        if let Err(fault) = named {
            self.stats[conn.group].fault(fault);
        }
        if first {
            self.plan_cut(at, now);
        }
    }

    /// It is time: half of the connections are cut within what they receive next, a quarter at
    /// once, a quarter at once with a reset.
    pub(super) fn cut_due(&mut self, at: usize) {
        let Some(conn) = self.conns[at].as_mut() else { return };
        let Some(course) = conn.exchange.cuts.as_mut() else { return };
        match course.draws.below(4) {
            0 => self.cut(at, false),
            1 => self.cut(at, true),
            _ => {
                let longest = self.templates[conn.group].len as u64 + 64;
                course.bite = Some(1 + course.draws.below(longest) as usize);
            }
        }
    }

    /// Whether the connection is to be cut within what comes next.
    pub(super) fn bites(&self, at: usize) -> bool {
        let course = self.conns[at].as_ref().and_then(|conn| conn.exchange.cuts.as_ref());
        course.is_some_and(|course| course.bite.is_some())
    }

    /// Reads no further than was drawn, and cuts.
    pub(super) fn read_and_cut(&mut self, at: usize, input: &mut [u8]) {
        let Some(conn) = self.conns[at].as_ref() else { return };
        let (serial, course) = (conn.serial, conn.exchange.cuts.as_ref());
        let most = course.and_then(|course| course.bite).unwrap_or(1);
        match self.receive(at, input, most) {
            None => return,
            Some(Ok(0)) => return self.end_of_connection(at),
            Some(Ok(count)) => self.take(at, &input[..count]),
            Some(Err(error)) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Some(Err(error)) => return self.fail(at, fault_of(&error)),
        }
        if self.conns[at].as_ref().is_some_and(|conn| conn.serial == serial) {
            self.cut(at, false); // what is unread makes it a reset, too
        }
    }

    /// Cuts the connection and comes back.
    fn cut(&mut self, at: usize, reset: bool) {
        let Some(mut conn) = self.conns[at].take() else { return };
        self.free.push(at);
        self.open -= 1;
        let resumes = &mut self.stats[conn.group].resumes;
        resumes.cuts += 1;
        resumes.within_frame += u64::from(conn.exchange.checker.cut());
        if reset {
            let socket = socket2::SockRef::from(conn.transport.socket());
            resumes.resets += u64::from(socket.set_linger(Some(Duration::ZERO)).is_ok());
        }
        drop(conn.transport);
        if let Some(course) = conn.exchange.cuts.as_mut() {
            course.barren = 0;
        }
        self.come_back(conn.group, conn.exchange);
    }

    fn come_back(&mut self, group: usize, mut exchange: Exchange) {
        exchange.decoder = Decoder::default();
        exchange.asked = clock::now();
        exchange.checker.cut();
        let had = exchange.checker.frames();
        if let Some(course) = exchange.cuts.as_mut() {
            course.answered = false;
            course.bite = None;
            course.back = true;
            course.had = had;
        }
        self.reopen.push_back((group, Some(exchange)));
    }

    /// A stream ended in order, and its client asks for more all the same, as an `EventSource`
    /// does: it is to be told that there is none.
    pub(super) fn come_back_once_more(&mut self, at: usize) {
        if let Some(conn) = self.drop_conn(at) {
            self.come_back(conn.group, conn.exchange);
        }
    }

    /// A connection ended that was not cut by this side: its stream goes on, too, unless something
    /// else is wrong or nothing comes of it. Returns the connection if the stream is lost.
    pub(super) fn come_back_unasked(&mut self, mut conn: Conn, fault: Fault) -> Option<Conn> {
        let group = conn.group;
        let Some(course) = conn.exchange.cuts.as_mut() else { return Some(conn) };
        let resumes = &mut self.stats[group].resumes;
        let fruitful = conn.exchange.checker.frames() > course.had;
        course.barren = if fruitful { 0 } else { course.barren + 1 };
        let named = conn.exchange.checker.last_event_id().is_some();
        let gone = matches!(fault, Fault::Cut | Fault::Connect | Fault::Unanswered);
        if gone {
            resumes.unasked += 1;
        }
        if gone && named && course.barren < BARREN_MAX {
            self.come_back(group, conn.exchange);
            return None;
        }
        if resumes.odd.is_none() {
            resumes.odd = conn.exchange.checker.odd();
        }
        self.count_off(group); // it is through, though not well
        Some(conn)
    }
}
