//! The loop of one generator thread.

mod resume;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustls::{ClientConfig, HandshakeKind};
use socket2::{Domain, Socket, Type};

use super::{Control, Group, GroupStats, IDS, Reading};
use crate::clock;
use crate::frame::{Checker, Fault, Form, Template};
use crate::origin::Shared;
use crate::shape::Shape;
use crate::transport::Transport;
use crate::wire::{Decoder, Part};

/// One read takes at most this.
const READ: usize = 256 << 10;
/// Slow readers read so often a second, or less often where that would be less than a byte.
const SLOW_TURNS: u64 = 10;

/// One request and its response; of a stream that is resumed, the one at hand.
struct Exchange {
    id: u32,
    asked: u64,
    decoder: Decoder,
    checker: Checker,
    cuts: Option<resume::Course>,
}

struct Conn {
    transport: Transport,
    group: usize,
    connected: bool,
    /// The TLS handshake is not through.
    shaking: bool,
    /// The socket's room is waited for.
    blocked: bool,
    exchange: Exchange,
    /// The request's bytes that the socket has not taken.
    unsent: Vec<u8>,
    leaving: bool,
    serial: u32,
    /// Frames in the window.
    frames: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Open,
    Leave,
    Read,
    Cut,
}

struct Driver<'a> {
    epoll: rustix::fd::OwnedFd,
    target: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    groups: &'a [Group],
    templates: Vec<Template>,
    control: &'a Control,
    origin: &'a Shared,
    /// Streams a frame of which came in this turn and whose origin waits to hear of it.
    read: Vec<u32>,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    timers: BinaryHeap<Reverse<(u64, Due, usize, u32)>>,
    /// Groups whose connection is to be opened anew, some for a stream that goes on.
    reopen: VecDeque<(usize, Option<Exchange>)>,
    stats: Vec<GroupStats>,
    /// Connections to be counted live that are not yet.
    unseen: Vec<usize>,
    /// Requests still to be made well, by group.
    left: Vec<u64>,
    window: (u64, u64),
    open: usize,
    serial: u32,
    source: u32,
}

/// Runs `share.0` of `share.1` parts of the groups' connections; returns what it saw.
pub(super) fn run(
    (target, tls): (SocketAddr, Option<Arc<ClientConfig>>),
    groups: &[Group],
    share: (usize, usize),
    begin: u64,
    (control, origin): (&Control, &Shared),
) -> Vec<GroupStats> {
    let epoll = match epoll::create(epoll::CreateFlags::CLOEXEC) {
        Ok(epoll) => epoll,
        Err(error) => {
            eprintln!("generator: {error}");
            return Vec::new();
        }
    };
    let mut driver = Driver {
        epoll,
        target,
        tls,
        groups,
        templates: groups.iter().map(|group| Template::new(group.shape.size)).collect(),
        control,
        origin,
        read: Vec::new(),
        conns: Vec::new(),
        free: Vec::new(),
        timers: BinaryHeap::new(),
        reopen: VecDeque::new(),
        stats: groups.iter().map(|_| GroupStats::default()).collect(),
        unseen: vec![0; groups.len()],
        left: vec![u64::MAX; groups.len()],
        window: (u64::MAX, u64::MAX),
        open: 0,
        serial: 0,
        source: share.0 as u32 * 7919,
    };
    driver.plan(share, begin);
    driver.turn_until_done();
    driver.stats
}

impl Driver<'_> {
    fn plan(&mut self, (part, parts): (usize, usize), begin: u64) {
        for (at, group) in self.groups.iter().enumerate() {
            let ramp = u64::try_from(group.ramp.as_nanos()).unwrap_or(0);
            if let Some(limit) = group.limit {
                let more = u64::from((part as u64) < limit % parts as u64);
                self.left[at] = limit / parts as u64 + more;
            }
            for number in (part..group.connections).step_by(parts) {
                let due = begin + ramp * number as u64 / group.connections as u64;
                self.timers.push(Reverse((due, Due::Open, at, number as u32)));
                self.unseen[at] += 1;
            }
        }
    }

    fn turn_until_done(&mut self) {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(512);
        let mut input = vec![0; READ];
        loop {
            let finish = self.control.finish.load(Relaxed);
            if self.control.halt.load(Relaxed) {
                return self.halt();
            }
            if self.open == 0 && self.reopen.is_empty() && (finish || self.timers.is_empty()) {
                return;
            }
            self.window =
                (self.control.window[0].load(Relaxed), self.control.window[1].load(Relaxed));
            let due = self.timers.peek().map(|timer| timer.0.0);
            let wait = clock::until(due, clock::now(), Duration::from_millis(20));
            events.clear();
            let spare = rustix::buffer::spare_capacity(&mut events);
            if !matches!(
                epoll::wait(&self.epoll, spare, Some(&wait)),
                Ok(_) | Err(rustix::io::Errno::INTR)
            ) {
                return self.halt();
            }
            for event in &events {
                self.ready(event.data.u64() as usize, event.flags, &mut input);
            }
            if !self.read.is_empty() {
                self.origin.tell_read(&self.read);
                self.read.clear();
            }
            self.fire(finish, &mut input);
            for _ in 0..self.reopen.len() {
                let Some((group, exchange)) = self.reopen.pop_front() else { break };
                if !finish {
                    let exchange = exchange.unwrap_or_else(|| self.exchange(group, 0));
                    self.open(group, exchange);
                } else if exchange.is_some() {
                    self.stats[group].fault(Fault::Stuck);
                }
            }
        }
    }

    fn halt(&mut self) {
        for conn in self.conns.iter_mut().filter_map(Option::take) {
            let stats = &mut self.stats[conn.group];
            stats.each.push(conn.frames);
            let group = &self.groups[conn.group];
            if group.leave.is_none() && !group.shape.hold && !group.cut {
                stats.fault(Fault::Stuck);
            }
        }
    }

    fn fire(&mut self, finish: bool, input: &mut [u8]) {
        let now = clock::now();
        while let Some(&Reverse((due, what, at, serial))) = self.timers.peek() {
            if due > now {
                break;
            }
            self.timers.pop();
            if what == Due::Open {
                if !finish {
                    self.open(at, self.exchange(at, serial));
                }
                continue;
            }
            if self.conns[at].as_ref().is_none_or(|conn| conn.serial != serial) {
                continue;
            }
            match what {
                Due::Leave => self.leave(at),
                Due::Cut => self.cut_due(at),
                _ => self.read_slowly(at, serial, now, input),
            }
        }
    }

    fn open(&mut self, group: usize, exchange: Exchange) {
        let Ok(socket) = self.connect(&self.groups[group]) else {
            return self.lost(group, Fault::Connect);
        };
        let Ok(transport) = Transport::client(socket, self.tls.as_ref()) else {
            return self.lost(group, Fault::Connect);
        };
        let at = self.free.pop().unwrap_or(self.conns.len());
        if at == self.conns.len() {
            self.conns.push(None);
        }
        let token = EventData::new_u64(at as u64);
        if epoll::add(&self.epoll, transport.socket(), token, EventFlags::OUT).is_err() {
            self.free.push(at);
            return self.lost(group, Fault::Connect);
        }
        self.serial = self.serial.wrapping_add(1);
        self.open += 1;
        self.conns[at] = Some(Conn {
            shaking: transport.is_secured(),
            transport,
            group,
            connected: false,
            blocked: false,
            exchange,
            unsent: Vec::new(),
            leaving: false,
            serial: self.serial,
            frames: 0,
        });
    }

    /// A connection from the next source address of 127.0.0.0/8.
    fn connect(&mut self, group: &Group) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.target), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Reading::Slow { receive_buffer, .. } = group.reading {
            socket.set_recv_buffer_size(receive_buffer)?;
        }
        if self.target.is_ipv4() && self.target.ip().is_loopback() {
            self.source = self.source.wrapping_add(1);
            let host = self.source % 60_000;
            let address = Ipv4Addr::new(127, 1, (host / 250) as u8, (host % 250 + 1) as u8);
            socket.bind(&SocketAddr::new(IpAddr::V4(address), 0).into())?;
        }
        match socket.connect(&self.target.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(IN_PROGRESS) => {}
            Err(error) => return Err(error),
        }
        Ok(socket.into())
    }

    /// A new request of a group, the group's connection number `number`.
    fn exchange(&self, group: usize, number: u32) -> Exchange {
        let id = IDS.fetch_add(1, Relaxed);
        let group = &self.groups[group];
        let checker = Checker::new(id, group.form);
        Exchange {
            id,
            asked: clock::now(),
            decoder: Decoder::default(),
            checker: if group.cuts.is_some() { checker.paced(group.shape.rate) } else { checker },
            cuts: group.cuts.map(|cuts| resume::Course::new(cuts, number)),
        }
    }

    /// A connection came to a bad end: count it, and try anew where the group goes on.
    fn lost(&mut self, group: usize, fault: Fault) {
        let now = clock::now();
        let stats = &mut self.stats[group];
        stats.fault(fault);
        if fault == Fault::Unanswered && now >= self.window.0 && now < self.window.1 {
            stats.window_refused += 1;
        }
        if self.groups[group].again && self.left[group] > 0 && !self.finishing() {
            self.timers.push(Reverse((now + 5_000_000, Due::Open, group, 0)));
        }
    }

    fn finishing(&self) -> bool {
        self.control.finish.load(Relaxed)
    }

    /// Counts a request against its group's limit; false if it was the last.
    fn count_off(&mut self, group: usize) -> bool {
        if self.groups[group].limit.is_some() && self.left[group] > 0 {
            self.left[group] -= 1;
            self.control.limited.fetch_add(1, Relaxed);
        }
        self.left[group] > 0
    }

    fn fail(&mut self, at: usize, fault: Fault) {
        if let Some(conn) = self.drop_conn(at) {
            let Some(conn) = self.come_back_unasked(conn, fault) else { return };
            let silent = conn.exchange.decoder.status == 0 && fault == Fault::Cut;
            self.lost(conn.group, if silent { Fault::Unanswered } else { fault });
        }
    }

    fn drop_conn(&mut self, at: usize) -> Option<Conn> {
        let mut conn = self.conns[at].take()?;
        conn.transport.close();
        if self.finishing() {
            self.stats[conn.group].each.push(conn.frames);
        }
        self.free.push(at);
        self.open -= 1;
        Some(conn)
    }

    fn leave(&mut self, at: usize) {
        let Some(conn) = self.drop_conn(at) else { return };
        let (id, group) = (conn.exchange.id, conn.group);
        let now = clock::now();
        drop(conn);
        if now >= self.window.0 && now < self.window.1 {
            self.stats[group].left.push((id, now));
        }
        if self.count_off(group) && self.groups[group].again {
            self.reopen.push_back((group, None));
        }
    }

    fn ready(&mut self, at: usize, flags: EventFlags, input: &mut [u8]) {
        let Some(conn) = self.conns[at].as_mut() else { return };
        if !conn.connected {
            if conn.transport.socket().take_error().ok().flatten().is_some()
                || flags.intersects(EventFlags::HUP | EventFlags::ERR)
            {
                return self.fail(at, Fault::Connect);
            }
            conn.connected = true;
            conn.blocked = true; // told so by `open`
            let request = request_text(&self.groups[conn.group], &conn.exchange);
            let settled = !conn.shaking;
            self.asking(at);
            self.ask(at, &request);
            if settled {
                self.slow_down(at);
            }
            return;
        }
        if conn.blocked && flags.contains(EventFlags::OUT) {
            let unsent = std::mem::take(&mut conn.unsent);
            self.ask(at, &unsent);
        }
        self.read(at, input);
    }

    /// From here on a slow reader reads by the clock.
    fn slow_down(&mut self, at: usize) {
        let Some(conn) = self.conns[at].as_ref() else { return };
        if self.groups[conn.group].reading == Reading::Eager {
            return;
        }
        let token = EventData::new_u64(at as u64);
        let silent = EventFlags::empty();
        if epoll::modify(&self.epoll, conn.transport.socket(), token, silent).is_err() {
            return self.fail(at, Fault::Connect);
        }
        // One after another over the first tenth of a second.
        let due = clock::now() + u64::from(conn.serial % 100) * 1_000_000;
        self.timers.push(Reverse((due, Due::Read, at, conn.serial)));
    }

    fn ask(&mut self, at: usize, request: &[u8]) {
        let Some(conn) = self.conns[at].as_mut() else { return };
        let sent = match conn.transport.write(request) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return self.fail(at, Fault::Cut),
        };
        conn.unsent = request[sent..].to_vec();
        let blocked = !conn.unsent.is_empty() || conn.transport.is_blocked();
        if blocked == conn.blocked {
            return;
        }
        conn.blocked = blocked;
        let mut interest = EventFlags::IN;
        interest.set(EventFlags::OUT, blocked);
        let token = EventData::new_u64(at as u64);
        if epoll::modify(&self.epoll, conn.transport.socket(), token, interest).is_err() {
            self.fail(at, Fault::Cut);
        }
    }

    /// Receives, and notices the end of a handshake.
    fn receive(&mut self, at: usize, input: &mut [u8], most: usize) -> Option<io::Result<usize>> {
        let conn = self.conns[at].as_mut()?;
        let received = conn.transport.read(input, most);
        if conn.shaking
            && let Some(kind) = conn.transport.handshake()
        {
            conn.shaking = false;
            let now = clock::now();
            let stats = &mut self.stats[conn.group];
            match kind {
                HandshakeKind::Resumed => stats.resumed += 1,
                _ => stats.full += 1,
            }
            if now >= self.window.0 && now < self.window.1 {
                stats.handshake.record(now - conn.exchange.asked);
            }
            self.slow_down(at);
        }
        Some(received)
    }

    fn read(&mut self, at: usize, input: &mut [u8]) {
        for _ in 0..4 {
            if self.bites(at) {
                return self.read_and_cut(at, input);
            }
            let Some(received) = self.receive(at, input, usize::MAX) else { return };
            match received {
                Ok(0) => return self.end_of_connection(at),
                Ok(count) => {
                    self.take(at, &input[..count]);
                    if count < input.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.fail(at, fault_of(&error)),
            }
        }
    }

    fn read_slowly(&mut self, at: usize, serial: u32, now: u64, input: &mut [u8]) {
        let Some(conn) = self.conns[at].as_mut() else { return };
        let Reading::Slow { bytes_per_second, .. } = self.groups[conn.group].reading else {
            return;
        };
        let turns = SLOW_TURNS.min(bytes_per_second).max(1);
        // The head at once: the run waits for it.
        let headless = conn.exchange.decoder.status == 0;
        let (take, pause) = match headless {
            true => (256, 10_000_000),
            false => (bytes_per_second / turns, 1_000_000_000 / turns),
        };
        let take = take.clamp(1, input.len() as u64) as usize;
        let Some(received) = self.receive(at, input, take) else { return };
        match received {
            Ok(0) => return self.end_of_connection(at),
            Ok(count) => self.take(at, &input[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return self.fail(at, fault_of(&error)),
        }
        self.timers.push(Reverse((now + pause, Due::Read, at, serial)));
    }

    fn end_of_connection(&mut self, at: usize) {
        let Some(conn) = self.conns[at].as_ref() else { return };
        if conn.exchange.decoder.ends_by_close() {
            self.end_of_response(at, clock::now());
        } else {
            self.fail(at, Fault::Cut);
        }
    }

    /// Takes what came: decodes, checks and times it.
    fn take(&mut self, at: usize, bytes: &[u8]) {
        let now = clock::now();
        let counts = now >= self.window.0 && now < self.window.1;
        let Some(conn) = self.conns[at].as_mut() else { return };
        let group = conn.group;
        let (stats, template) = (&mut self.stats[group], &self.templates[group]);
        stats.window_bytes += if counts { bytes.len() as u64 } else { 0 };
        let (mut input, mut frames) = (bytes, 0);
        let mut outcome = Ok(false);
        let latency = &mut stats.latency;
        let mut seen = |time: u64| {
            frames += 1;
            if counts {
                latency.record(now.saturating_sub(time));
            }
        };
        let exchange = &mut conn.exchange;
        if let Some(course) = exchange.cuts.as_mut() {
            course.answered(now, &mut stats.resumes);
        }
        let mut headed = false;
        while !input.is_empty() && outcome == Ok(false) {
            outcome = match exchange.decoder.next(&mut input) {
                Ok(Part::Head) => {
                    headed = true;
                    Ok(exchange.decoder.done())
                }
                Ok(Part::Payload(payload)) if exchange.decoder.status == 200 => exchange
                    .checker
                    .feed(template, payload, &mut seen)
                    .map(|()| exchange.decoder.done()),
                Ok(Part::Payload(_)) => Ok(exchange.decoder.done()),
                Ok(Part::End) => Ok(true),
                Ok(Part::Empty) => Ok(false),
                Err(fault) => Err(fault),
            };
        }
        stats.frames += frames;
        if counts {
            stats.window_frames += frames;
            conn.frames += frames;
        }
        self.control.frames.fetch_add(frames, Relaxed);
        if self.groups[group].shape.outstanding > 0 {
            self.read.extend((0..frames).map(|_| conn.exchange.id));
        }
        if headed {
            self.headed(at, now, counts);
        }
        if frames > 0 {
            self.plan_leave(at, now);
        }
        match outcome {
            Ok(false) => {}
            Ok(true) if !input.is_empty() => self.fail(at, Fault::Framing),
            Ok(true) => self.end_of_response(at, now),
            Err(fault) => self.fail(at, fault),
        }
    }

    fn headed(&mut self, at: usize, now: u64, counts: bool) {
        let Some(conn) = self.conns[at].as_ref() else { return };
        let stats = &mut self.stats[conn.group];
        *stats.statuses.entry(conn.exchange.decoder.status).or_default() += 1;
        let head = if counts { &mut stats.head } else { &mut stats.ramp_head };
        head.record(now - conn.exchange.asked);
        if self.unseen[conn.group] > 0 {
            self.unseen[conn.group] -= 1;
            self.control.live.fetch_add(1, Relaxed);
        }
        self.resumable(at, now);
    }

    fn plan_leave(&mut self, at: usize, now: u64) {
        let Some(conn) = self.conns[at].as_mut() else { return };
        let Some((least, most)) = self.groups[conn.group].leave.filter(|_| !conn.leaving) else {
            return;
        };
        conn.leaving = true;
        let turn = (f64::from(conn.exchange.id) * 0.618_033_988_749_895).fract();
        let wait = least + most.saturating_sub(least).mul_f64(turn);
        let due = now + u64::try_from(wait.as_nanos()).unwrap_or(0);
        self.timers.push(Reverse((due, Due::Leave, at, conn.serial)));
    }

    fn end_of_response(&mut self, at: usize, now: u64) {
        let Some(conn) = self.conns[at].as_mut() else { return };
        let (index, exchange) = (conn.group, &conn.exchange);
        let (group, stats) = (&self.groups[index], &mut self.stats[index]);
        if let Some(fault) = resume::refusal(exchange) {
            return self.fail(at, fault);
        }
        let good = exchange.decoder.status == 200 || exchange.cuts.is_some();
        if good && !exchange.checker.complete(group.shape.frames) {
            return self.fail(at, Fault::Truncated);
        }
        if good && exchange.cuts.is_some() && exchange.decoder.status == 200 {
            return self.come_back_once_more(at);
        }
        if good {
            stats.requests += 1;
        }
        if now >= self.window.0 && now < self.window.1 {
            if good {
                stats.window_requests += 1;
                stats.whole.record(now - exchange.asked);
            } else {
                stats.window_refused += 1;
            }
        }
        stats.last_end = now;
        let keep = exchange.decoder.keep && !group.fresh;
        let more = group.again;
        if !self.count_off(index) || !more || self.finishing() {
            self.drop_conn(at);
        } else if keep {
            let next = self.exchange(index, 0);
            let request = request_text(&self.groups[index], &next);
            if let Some(conn) = self.conns[at].as_mut() {
                conn.exchange = next;
                conn.leaving = false;
            }
            self.ask(at, &request);
        } else {
            self.drop_conn(at);
            self.reopen.push_back((index, None));
        }
    }
}

/// What a failed receive is to the stream.
fn fault_of(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::InvalidData => Fault::Tls,
        _ => Fault::Cut,
    }
}

/// EINPROGRESS.
const IN_PROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();

/// A chat request as SDKs send it, the stream's shape in its query or, for a gateway that drops
/// that, in the model's name.
fn request_text(group: &Group, exchange: &Exchange) -> Vec<u8> {
    let shape = Shape { id: exchange.id, ..group.shape.clone() };
    let named = group.form == Form::Rewritten;
    let model = if named { format!("openai/{shape}") } else { "m".into() };
    let body = format!(
        r#"{{"model":"{model}","stream":true,"messages":[{{"role":"user","content":"hello"}}]}}"#
    );
    let query = if named { String::new() } else { format!("?{shape}") };
    let last = exchange.cuts.as_ref().and_then(|_| exchange.checker.last_event_id());
    let last = last.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
    format!(
        "POST /v1/chat/completions{query} HTTP/1.1\r\nHost: loadtest\r\n\
         Content-Type: application/json\r\nAccept: text/event-stream\r\n\
         Authorization: Bearer sk-loadtest\r\n{last}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
