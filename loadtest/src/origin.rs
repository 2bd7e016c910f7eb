//! The load test's upstream: one epoll loop a thread, frames paced by absolute schedules.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use rustls::ServerConfig;

use crate::frame::{TERMINAL, Template};
use crate::numbered::Id;
use crate::schedule::Schedule;
use crate::shape::{Failure, Shape};
use crate::transport::Transport;
use crate::{clock, cores};

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
    Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
const NO_CONTENT: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
const UNAVAILABLE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
    Content-Length: 34\r\n\r\n{\"error\":{\"message\":\"overloaded\"}}";
/// Bytes built before they are sent.
const BATCH: usize = 64 << 10;
const LISTENER: u64 = u64::MAX;
const BELL: u64 = u64::MAX - 1;
const REQUEST_MAX: usize = 1 << 20;

/// What the origin's threads and the run share.
#[derive(Debug)]
pub struct Shared {
    /// Frames sent.
    pub frames: AtomicU64,
    /// Requests taken.
    pub requests: AtomicU64,
    /// Streams that are to have ended: those begun before this time get their terminal frame.
    finish_before: AtomicU64,
    stop: AtomicBool,
    /// For each thread: the streams whose reader has had all that was sent, and a bell.
    read: Vec<(Mutex<Vec<u32>>, OwnedFd)>,
    gone: Mutex<Vec<(u32, u64)>>,
    late: Mutex<Option<Histogram<u64>>>,
    threads: Mutex<Vec<i32>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Shared {
    fn new(threads: usize) -> Result<Self> {
        let bell = |_| Ok((Mutex::default(), eventfd(0, EventfdFlags::NONBLOCK)?));
        Ok(Self {
            frames: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            finish_before: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            read: (0..threads).map(bell).collect::<Result<_>>()?,
            gone: Mutex::default(),
            late: Mutex::default(),
            threads: Mutex::default(),
        })
    }

    /// Tells of frames that were read, by their streams: what limits those with `outstanding`.
    /// Past the network, so that it costs the system under test nothing.
    pub fn tell_read(&self, streams: &[u32]) {
        for (queue, bell) in &self.read {
            let mut queue = locked(queue);
            let silent = queue.is_empty();
            queue.extend_from_slice(streams);
            drop(queue);
            if silent {
                let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
            }
        }
    }

    /// Ends all present streams properly, each at its next frame's time.
    pub fn finish_streams(&self) {
        self.finish_before.store(clock::now(), Relaxed);
    }

    /// The streams whose reader left before their end, and when that was seen; empties the list.
    pub fn take_gone(&self) -> Vec<(u32, u64)> {
        std::mem::take(&mut locked(&self.gone))
    }

    /// How late frames went out against their schedule, in nanoseconds; starts anew.
    pub fn take_late(&self) -> Option<Histogram<u64>> {
        locked(&self.late).take()
    }

    /// The thread ids, for their CPU time.
    pub fn threads(&self) -> Vec<i32> {
        locked(&self.threads).clone()
    }
}

/// A running origin.
#[derive(Debug)]
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its counters.
    pub shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Origin {
    /// Starts one thread for each of `cores` (an empty list: one, unpinned).
    /// They speak TLS where there is a `tls`.
    pub fn start(
        address: SocketAddr,
        cores: &[usize],
        tls: Option<&Arc<ServerConfig>>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::new(cores.len().max(1))?);
        let first = listen(address)?;
        let address = first.local_addr().context("origin's address")?;
        let mut listeners = vec![first];
        for _ in 1..cores.len() {
            listeners.push(listen(address)?);
        }
        let spawn = |(at, listener): (usize, TcpListener)| {
            let (shared, core) = (Arc::clone(&shared), cores.get(at).copied());
            let tls = tls.cloned();
            std::thread::spawn(move || {
                cores::pin_thread(core);
                locked(&shared.threads).push(rustix::thread::gettid().as_raw_nonzero().get());
                if let Err(error) = Loop::new(listener, shared, at, tls).and_then(Loop::run) {
                    eprintln!("origin: {error}");
                }
            })
        };
        let threads = listeners.into_iter().enumerate().map(spawn).collect();
        Ok(Self { address, shared, threads })
    }

    /// Waits for its threads, which end when they are told to.
    pub fn wait(&mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        self.wait();
    }
}

/// A non-blocking listener that others may share the port of.
pub fn listen(address: SocketAddr) -> Result<TcpListener> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into()).with_context(|| format!("cannot listen on {address}"))?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

struct Streaming {
    shape: Shape,
    schedule: Schedule,
    template: Rc<Template>,
    asked: u64,
    next: u32,
    /// Frames that the client has read, where it matters.
    read: u32,
    /// The name of a stream that the origin itself numbers.
    name: Option<String>,
}

struct Conn {
    transport: Transport,
    request: Vec<u8>,
    stream: Option<Streaming>,
    /// Built and not yet taken by the socket.
    left: Vec<u8>,
    /// Waiting for the socket to have room.
    blocked: bool,
    serial: u32,
}

struct Loop {
    epoll: OwnedFd,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    shared: Arc<Shared>,
    /// Which of the threads this is.
    number: usize,
    /// Where the streams are whose frames are counted as they are read.
    counted: HashMap<u32, usize>,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    timers: BinaryHeap<Reverse<(u64, usize, u32)>>,
    templates: HashMap<usize, Rc<Template>>,
    late: Histogram<u64>,
    out: Vec<u8>,
    serial: u32,
    finished: u64,
}

impl Loop {
    fn new(
        listener: TcpListener,
        shared: Arc<Shared>,
        number: usize,
        tls: Option<Arc<ServerConfig>>,
    ) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        epoll::add(&epoll, &shared.read[number].1, EventData::new_u64(BELL), EventFlags::IN)?;
        Ok(Self {
            epoll,
            listener,
            tls,
            shared,
            number,
            counted: HashMap::new(),
            conns: Vec::new(),
            free: Vec::new(),
            timers: BinaryHeap::new(),
            templates: HashMap::new(),
            late: Histogram::new(3)?,
            out: Vec::with_capacity(2 * BATCH),
            serial: 0,
            finished: 0,
        })
    }

    fn run(mut self) -> Result<()> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(512);
        let mut input = vec![0; 64 << 10];
        while !self.shared.stop.load(Relaxed) {
            let due = self.timers.peek().map(|timer| timer.0.0);
            let wait = clock::until(due, clock::now(), Duration::from_millis(50));
            events.clear();
            let spare = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, spare, Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.fire();
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    BELL => self.go_on(),
                    at => self.ready(at as usize, event.flags, &mut input),
                }
            }
            self.finish();
            self.publish();
        }
        Ok(())
    }

    /// Sends what is due.
    fn fire(&mut self) {
        let now = clock::now();
        while let Some(&Reverse((due, at, serial))) = self.timers.peek() {
            if due > now {
                break;
            }
            self.timers.pop();
            let live = self.conns[at].as_ref().is_some_and(|conn| conn.serial == serial);
            if live {
                self.advance(at);
            }
        }
    }

    /// Sends the next frames of streams whose last ones have been read.
    fn go_on(&mut self) {
        let shared = Arc::clone(&self.shared);
        let (queue, bell) = &shared.read[self.number];
        let _ = rustix::io::read(bell, &mut [0; 8]);
        let streams = std::mem::take(&mut *locked(queue));
        for id in streams {
            let Some(at) = self.counted.get(&id).copied() else { continue };
            let conn = self.conns.get_mut(at).and_then(Option::as_mut);
            let stream = conn.and_then(|conn| conn.stream.as_mut());
            if let Some(stream) = stream.filter(|stream| stream.shape.id == id) {
                stream.read += 1;
                self.advance(at);
            }
        }
    }

    /// Ends held and endless streams once the run asks for it.
    fn finish(&mut self) {
        let before = self.shared.finish_before.load(Relaxed);
        if before == self.finished {
            return;
        }
        self.finished = before;
        for at in 0..self.conns.len() {
            let held = self.conns[at].as_ref().and_then(|conn| conn.stream.as_ref());
            if held.is_some_and(|stream| stream.asked <= before && stream.shape.hold) {
                self.advance(at);
            }
        }
    }

    fn publish(&mut self) {
        if self.late.len() >= 1000 || (!self.late.is_empty() && self.timers.is_empty()) {
            let mut shared = locked(&self.shared.late);
            match shared.as_mut() {
                Some(sum) => drop(sum.add(&self.late)),
                None => *shared = Some(self.late.clone()),
            }
            self.late.reset();
        }
    }

    fn accept(&mut self) {
        for _ in 0..64 {
            let Ok((socket, _)) = self.listener.accept() else { return };
            if socket.set_nonblocking(true).is_err() || socket.set_nodelay(true).is_err() {
                continue;
            }
            let Ok(transport) = Transport::server(socket, self.tls.as_ref()) else { continue };
            let at = self.free.pop().unwrap_or(self.conns.len());
            let interest = EventFlags::IN | EventFlags::RDHUP;
            if epoll::add(&self.epoll, transport.socket(), EventData::new_u64(at as u64), interest)
                .is_err()
            {
                self.free.push(at);
                continue;
            }
            if at == self.conns.len() {
                self.conns.push(None);
            }
            self.serial = self.serial.wrapping_add(1);
            self.conns[at] = Some(Conn {
                transport,
                request: Vec::new(),
                stream: None,
                left: Vec::new(),
                blocked: false,
                serial: self.serial,
            });
        }
    }

    fn ready(&mut self, at: usize, flags: EventFlags, input: &mut [u8]) {
        let Some(conn) = self.conns[at].as_mut() else { return };
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::ERR | EventFlags::HUP)
        {
            match conn.transport.read(input, usize::MAX) {
                Ok(0) => return self.close(at),
                Ok(count) => {
                    conn.request.extend_from_slice(&input[..count]);
                    if conn.request.len() > REQUEST_MAX {
                        return self.close(at);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return self.close(at),
            }
            self.take_request(at);
        }
        if flags.contains(EventFlags::OUT) && self.conns[at].is_some() {
            self.advance(at);
        }
    }

    fn close(&mut self, at: usize) {
        if let Some(conn) = self.conns[at].take() {
            if let Some(stream) = conn.stream {
                self.counted.remove(&stream.shape.id);
                locked(&self.shared.gone).push((stream.shape.id, clock::now()));
            }
            self.free.push(at);
        }
    }

    fn take_request(&mut self, at: usize) {
        let Some(conn) = self.conns[at].as_mut() else { return };
        if conn.stream.is_some() {
            return;
        }
        let Some(len) = request_len(&conn.request) else { return };
        let request: Vec<u8> = conn.request.drain(..len).collect();
        let number = self.shared.requests.fetch_add(1, Relaxed) as u32;
        let asked = clock::now();
        let Some(shape) = Shape::find(&request) else {
            let answer =
                if request.starts_with(b"GET /probe") { self.probe() } else { not_found() };
            return self.answer(at, &answer);
        };
        // By attempt, not by stream: a retry may fare better.
        let draw = number.wrapping_mul(2_654_435_761) >> 8;
        if shape.failure != Failure::None && draw % 100 < shape.fail_share {
            return match shape.failure {
                Failure::Close => self.close(at),
                _ => self.answer(at, UNAVAILABLE),
            };
        }
        let (begun, next) = match resumed(&request).filter(|_| shape.numbered) {
            Some((_, had)) if had > shape.frames => return self.answer(at, NO_CONTENT),
            Some(resumed) => resumed,
            None => (asked, 0),
        };
        let schedule = Schedule::new(&shape, begun);
        let template = self.template(shape.size);
        let waits = schedule.due(next) > asked || shape.hold;
        let Some(conn) = self.conns[at].as_mut() else { return };
        if shape.outstanding > 0 {
            self.counted.insert(shape.id, at);
        }
        let name = shape.numbered.then(|| format!("origin.0.{begun:x}"));
        conn.left.extend_from_slice(&head(name.as_deref()));
        conn.stream = Some(Streaming { shape, schedule, template, asked, next, read: 0, name });
        if waits && !self.flush(at) {
            return;
        }
        self.advance(at);
    }

    fn template(&mut self, size: usize) -> Rc<Template> {
        let size = size.min(1 << 20);
        Rc::clone(self.templates.entry(size).or_insert_with(|| Rc::new(Template::new(size))))
    }

    fn probe(&self) -> Vec<u8> {
        let body = serde_json::to_string(&self.shared.take_gone()).unwrap_or_default();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ";
        format!("{head}{}\r\n\r\n{body}", body.len()).into_bytes()
    }

    fn answer(&mut self, at: usize, bytes: &[u8]) {
        if let Some(conn) = self.conns[at].as_mut() {
            conn.left.extend_from_slice(bytes);
            self.flush(at);
        }
    }

    /// Sends every frame that is due, then waits for the next one's time or for room.
    fn advance(&mut self, at: usize) {
        loop {
            if !self.flush(at) {
                return;
            }
            let (now, before) = (clock::now(), self.finished);
            let Some(conn) = self.conns[at].as_mut() else { return };
            let Some(stream) = conn.stream.as_mut() else { return };
            let mut out = std::mem::take(&mut self.out);
            out.clear();
            let from = stream.next;
            let told = stream.asked <= before;
            while !stream.over(told) && stream.is_due(now) && out.len() < BATCH {
                let due = stream.schedule.due(stream.next);
                if stream.shape.rate > 0.0 {
                    let _ = self.late.record(now.saturating_sub(due));
                }
                let time = if stream.shape.rate > 0.0 { due } else { now };
                stream.number(&mut out);
                stream.template.write(&mut out, time, stream.next, stream.shape.id);
                stream.next += 1;
            }
            self.shared.frames.fetch_add(u64::from(stream.next - from), Relaxed);
            let over = stream.over(told);
            let ends = over && (told || !stream.shape.hold);
            if ends {
                if stream.shape.outstanding > 0 {
                    self.counted.remove(&stream.shape.id);
                }
                stream.number(&mut out);
                let _ = write!(out, "{:x}\r\n", TERMINAL.len());
                out.extend_from_slice(TERMINAL);
                out.extend_from_slice(b"\r\n0\r\n\r\n");
                conn.stream = None;
            }
            let sent = send(conn, &out);
            self.out = out;
            if sent.is_err() {
                return self.close(at);
            }
            if !self.flush(at) && !ends {
                return; // goes on when there is room
            }
            if ends {
                return self.take_request(at);
            }
            if over || !self.again(at, now) {
                return self.rearm(at, now);
            }
        }
    }

    /// Whether more is due at once.
    fn again(&self, at: usize, now: u64) -> bool {
        let stream = self.conns[at].as_ref().and_then(|conn| conn.stream.as_ref());
        stream.is_some_and(|stream| stream.is_due(now))
    }

    fn rearm(&mut self, at: usize, now: u64) {
        let Some(conn) = self.conns[at].as_ref() else { return };
        let due = conn.stream.as_ref().filter(|stream| !stream.over(false));
        let due = due.map(|stream| stream.schedule.due(stream.next));
        if let Some(due) = due.filter(|due| *due > now) {
            self.timers.push(Reverse((due, at, conn.serial)));
        }
    }

    /// Sends what is left over; false if the socket is still full or gone.
    fn flush(&mut self, at: usize) -> bool {
        let Some(conn) = self.conns[at].as_mut() else { return false };
        let left = std::mem::take(&mut conn.left);
        if send(conn, &left).is_err() {
            self.close(at);
            return false;
        }
        let full = !conn.left.is_empty() || conn.transport.is_blocked();
        if full != conn.blocked {
            conn.blocked = full;
            let mut interest = EventFlags::IN | EventFlags::RDHUP;
            interest.set(EventFlags::OUT, full);
            let token = EventData::new_u64(at as u64);
            if epoll::modify(&self.epoll, conn.transport.socket(), token, interest).is_err() {
                self.close(at);
                return false;
            }
        }
        !full
    }
}

impl Streaming {
    /// Writes the next frame's id, a chunk of its own.
    fn number(&self, out: &mut Vec<u8>) {
        if let Some(name) = &self.name {
            let id = format!("id: {name}.{}\n", u64::from(self.next) + 1);
            let _ = write!(out, "{:x}\r\n{id}\r\n", id.len());
        }
    }

    fn is_due(&self, now: u64) -> bool {
        let outstanding = self.shape.outstanding;
        let may = outstanding == 0 || self.next.saturating_sub(self.read) < outstanding;
        may && self.schedule.due(self.next) <= now
    }

    fn over(&self, told: bool) -> bool {
        told && (self.shape.frames == 0 || self.shape.hold)
            || self.shape.frames != 0 && self.next >= self.shape.frames
    }
}

/// Sends what the socket takes; the rest is kept.
fn send(conn: &mut Conn, mut bytes: &[u8]) -> io::Result<()> {
    if conn.transport.is_blocked() {
        conn.transport.flush()?;
    }
    while !bytes.is_empty() {
        match conn.transport.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                conn.left.extend_from_slice(bytes);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// When the stream began that a request comes back to, and how many of its frames it has had:
/// all that is needed to go on, because frames follow from their schedule.
fn resumed(request: &[u8]) -> Option<(u64, u32)> {
    let head = std::str::from_utf8(request).ok()?.split("\r\n\r\n").next()?;
    let mut fields = head.split("\r\n").filter_map(|line| line.split_once(':'));
    let id = fields.find(|(name, _)| name.eq_ignore_ascii_case("last-event-id"))?.1;
    let id = Id::parse(id.trim().as_bytes()).ok()?;
    let begun = id.stream.strip_prefix("origin.0.")?;
    Some((u64::from_str_radix(begun, 16).ok()?, id.number))
}

/// A stream's response head; with a name also the hint that goes before the first frame.
fn head(name: Option<&str>) -> Vec<u8> {
    let Some(name) = name else { return HEAD.to_vec() };
    let fields = &HEAD[..HEAD.len() - 2];
    let field = format!("X-Stream-Id: {name}\r\n\r\nc\r\nretry: 1000\n\r\n");
    [fields, field.as_bytes()].concat()
}

fn not_found() -> Vec<u8> {
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()
}

/// The length of a whole request at the front of `bytes`.
fn request_len(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|at| at == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).ok()?.to_ascii_lowercase();
    if text.contains("\r\ntransfer-encoding: chunked") {
        let end = bytes[head - 2..].windows(7).position(|at| at == b"\r\n0\r\n\r\n")?;
        return Some(head - 2 + end + 7);
    }
    let length = text.split("\r\ncontent-length:").nth(1).and_then(|rest| rest.split('\r').next());
    let whole = head + length.map_or(Ok(0), |length| length.trim().parse()).ok()?;
    (bytes.len() >= whole).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_found_whole() {
        assert_eq!(request_len(b"GET / HTTP/1.1\r\nHost: a\r\n"), None);
        assert_eq!(request_len(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET"), Some(27));
        let post = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(request_len(post), Some(post.len()));
        assert_eq!(request_len(&post[..post.len() - 1]), None);
        let chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
        assert_eq!(request_len(chunked), Some(chunked.len()));
    }

    #[test]
    fn who_comes_back_is_known_by_the_id() {
        let request = b"POST / HTTP/1.1\r\nlast-event-id: origin.0.ff.3\r\n\r\nlast-event-id: x.1";
        assert_eq!(resumed(request), Some((255, 3)));
        assert_eq!(resumed(b"POST / HTTP/1.1\r\n\r\nlast-event-id: origin.0.ff.3"), None);
        assert_eq!(resumed(b"POST / HTTP/1.1\r\nLast-Event-ID: other.0.ff.3\r\n\r\n"), None);
        let text = head(Some("origin.0.ff"));
        let mut input = &text[..];
        let mut decoder = crate::wire::Decoder::default();
        decoder.next(&mut input).expect("a head");
        assert_eq!(decoder.stream.as_deref(), Some("origin.0.ff"));
        let hint = decoder.next(&mut input).expect("a chunk");
        assert_eq!(hint, crate::wire::Part::Payload(b"retry: 1000\n"));
    }

    #[test]
    fn the_canned_answer_has_the_length_it_says() {
        let mut input = UNAVAILABLE;
        let mut decoder = crate::wire::Decoder::default();
        decoder.next(&mut input).expect("a head");
        decoder.next(&mut input).expect("a body");
        assert!(decoder.done() && input.is_empty() && decoder.status == 503);
    }
}
