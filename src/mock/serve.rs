//! The mock's sockets: one task per connection, frames by an open-loop schedule, a client that
//! leaves noticed at once.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::io;
use std::net::TcpListener;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::script::{Failing, Framing, NAMES, Script};
use super::text::{Answer, Asked};
use super::tools;
use crate::clock;
use crate::demo;
use crate::dialect::{Dialect, ErrorText};
use crate::http1::Status;
use crate::http1::body::{BodyDecoder, Step};
use crate::http1::head::{RequestHead, parse_request};
use crate::net::listener::{self, Accepted};
use crate::net::ready::{Watched, give_way};
use crate::net::stream::{Peer, Transport};
use crate::net::wait::poll_deadline;
use crate::relay::inbox::{Filled, Inbox};

/// Bytes of a request body the mock takes.
const BODY_BYTES_MAX: usize = 64 << 20;

/// What a request gets that asks for nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// Seed of the text.
    pub seed: u64,
    /// Tokens per second, 0 for as fast as it goes.
    pub rate: f64,
    /// Time to the first token.
    pub first_delay: Duration,
    /// Tokens of an answer.
    pub tokens: u32,
}

/// Counts, shown at `/stats`.
#[derive(Debug, Default, serde::Serialize)]
#[allow(missing_docs)] // the names are the JSON's
pub struct Stats {
    pub connections: Cell<u64>,
    pub requests: Cell<u64>,
    pub started: Cell<u64>,
    pub finished: Cell<u64>,
    pub aborted: Cell<u64>,
    pub active: Cell<u64>,
    pub frames: Cell<u64>,
}

fn add(cell: &Cell<u64>, n: u64) {
    cell.set(cell.get().wrapping_add(n));
}

/// A mock upstream.
#[derive(Debug)]
pub struct Mock {
    defaults: Defaults,
    /// Counts.
    pub stats: Stats,
    failed: RefCell<HashMap<String, u32>>,
}

impl Mock {
    /// A mock with these defaults.
    pub fn new(defaults: Defaults) -> Rc<Self> {
        Rc::new(Self { defaults, stats: Stats::default(), failed: RefCell::default() })
    }

    fn script(&self, head: &RequestHead) -> Result<Script, String> {
        let d = self.defaults;
        let mut script = Script {
            tokens: d.tokens,
            rate: d.rate,
            seed: d.seed,
            first_delay: d.first_delay,
            eol: "\n",
            ..Script::default()
        };
        for (name, value) in head.fields() {
            let name = name.to_ascii_lowercase().replace('-', "_");
            if let Some(name) = name.strip_prefix("x_mock_") {
                script.set(name, &String::from_utf8_lossy(value))?;
            }
        }
        let target = head.path_and_query();
        let query = target.split_once('?').map_or("", |(_, query)| query);
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let Some(name) = name.strip_prefix("mock_") {
                script.set(name, value)?;
            }
        }
        Ok(script)
    }
}

/// Accepts for as long as the runtime runs.
///
/// # Errors
/// The listener is broken.
pub async fn accept(listener: TcpListener, mock: Rc<Mock>) -> io::Result<()> {
    let listener = Watched::new(listener.into())?;
    loop {
        poll_fn(|cx| listener.poll_readable(cx)).await;
        loop {
            match listener::accept(&listener) {
                Accepted::Connection(stream, _) => {
                    add(&mock.stats.connections, 1);
                    let transport = Transport::from_std(stream)?;
                    let connection =
                        Connection { mock: Rc::clone(&mock), transport, inbox: Inbox::default() };
                    monoio::spawn(connection.run());
                }
                Accepted::Nothing => {
                    listener.drained();
                    break;
                }
                Accepted::Aborted => {}
                Accepted::Exhausted(_) => crate::net::timer::sleep(Duration::from_millis(50)).await,
                Accepted::Failed(error) => return Err(error),
            }
        }
    }
}

/// The client is gone.
struct Gone;

struct Connection {
    mock: Rc<Mock>,
    transport: Transport,
    inbox: Inbox,
}

impl Connection {
    async fn run(mut self) {
        while let Ok(true) = self.exchange().await {}
        self.transport.shutdown();
    }

    /// Waits for bytes from the client.
    async fn more(&mut self) -> Result<(), Gone> {
        loop {
            match self.inbox.fill(&self.transport) {
                Ok(Filled::More) => return Ok(()),
                Ok(Filled::Nothing) => self.transport.readable().await,
                _ => return Err(Gone),
            }
        }
    }

    /// One request and its answer; whether another may follow.
    async fn exchange(&mut self) -> Result<bool, Gone> {
        let mut searched = 0;
        let head = loop {
            match parse_request(self.inbox.bytes(), &mut searched) {
                Ok(Status::Complete((head, consumed))) => {
                    self.inbox.consume(consumed);
                    break head;
                }
                Ok(Status::Partial) => self.more().await?,
                Err(error) => {
                    self.respond(400, "", &error.to_string()).await?;
                    return Err(Gone);
                }
            }
        };
        add(&self.mock.stats.requests, 1);
        let keep = head.keep_alive();
        if head.expects_continue() {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let script = self.mock.script(&head);
        if let Ok(Script { early: Some(status), .. }) = script {
            self.respond(status, "Connection: close\r\n", "too early for the body\n").await?;
            // What is still on its way is taken, so that no reset overtakes the answer.
            self.transport.shutdown_write();
            loop {
                self.more().await?;
                let n = self.inbox.bytes().len();
                self.inbox.consume(n);
            }
        }
        let body = self.body(&head).await?;
        let script = match script {
            Ok(script) => script,
            Err(error) => {
                self.respond(400, "", &error).await?;
                return Ok(keep);
            }
        };
        let kept = self.answer(&head, &body, &script).await?;
        Ok(keep && kept)
    }

    async fn body(&mut self, head: &RequestHead) -> Result<Vec<u8>, Gone> {
        let mut decoder = BodyDecoder::new(head.framing());
        let mut body = Vec::new();
        loop {
            match decoder.step(self.inbox.bytes()) {
                Ok(Step::Framing(n)) => self.inbox.consume(n),
                Ok(Step::Data(n)) if body.len() + n <= BODY_BYTES_MAX => {
                    body.extend_from_slice(&self.inbox.bytes()[..n]);
                    self.inbox.consume(n);
                }
                Ok(Step::End(n)) => {
                    self.inbox.consume(n);
                    return Ok(body);
                }
                Ok(Step::NeedMore) => self.more().await?,
                Ok(Step::Data(_)) | Err(_) => return Err(Gone),
            }
        }
    }

    async fn answer(
        &mut self,
        head: &RequestHead,
        body: &[u8],
        script: &Script,
    ) -> Result<bool, Gone> {
        if let Some((kind, file)) = demo::file(head.path()) {
            self.respond_as(200, kind, demo::FILE_FIELDS, file).await?;
            return Ok(true);
        }
        if let Some((kind, page)) = self.page(head, body) {
            self.respond_as(200, kind, "", &page).await?;
            return Ok(true);
        }
        if matches!(head.method(), "GET" | "HEAD") && !head.accepts_event_stream() {
            self.respond(404, "", "not found; see GET /mock\n").await?;
            return Ok(true);
        }
        let dialect = match head.path() {
            // Short for OpenAI's own path, as in examples/chat.toml.
            "/v1/chat" => Dialect::OpenAiChat,
            path => Dialect::from_request(path, |name| head.field(name).is_some()),
        };
        if let Some((times, how)) = script.fail_first {
            let failed = {
                let mut failed = self.mock.failed.borrow_mut();
                let count = failed.entry(script.key.clone()).or_default();
                *count += 1;
                *count <= times
            };
            match how {
                Failing::Close if failed => return Err(Gone),
                Failing::Status(status) if failed => {
                    return self.fail(status, dialect, script).await;
                }
                _ => {}
            }
        }
        if let Some(status) = script.status {
            return self.fail(status, dialect, script).await;
        }
        if script.strict
            && let Some(why) = tools::refusal(dialect, body)
        {
            self.respond(400, "", &refusal(400, dialect, "invalid_request", &why)).await?;
            return Ok(true);
        }
        let mut asked = Asked::read(body);
        asked.stream |= matches!(dialect, Dialect::Generic | Dialect::Gemini)
            || head.field("x-dashscope-sse").is_some()
            || head.accepts_event_stream();
        let stream = asked.stream;
        let answer = Answer::new(script, dialect, asked);
        if !stream {
            self.pause(script.head_delay).await?;
            self.respond(200, "", &answer.document().to_string()).await?;
            return Ok(true);
        }
        add(&self.mock.stats.started, 1);
        add(&self.mock.stats.active, 1);
        let streamed = self.stream(head, script, &answer).await;
        let stats = &self.mock.stats;
        stats.active.set(stats.active.get() - 1);
        add(if streamed.is_ok() { &stats.finished } else { &stats.aborted }, 1);
        streamed
    }

    /// What is not an answer of a model: content type and body.
    fn page(&self, head: &RequestHead, body: &[u8]) -> Option<(&'static str, String)> {
        const MODELS: &str = r#"{"object":"list","data":[{"id":"mock","object":"model","created":1700000000,"owned_by":"millstream"}]}"#;
        const JSON: &str = "application/json";
        Some(match head.path() {
            "/stats" => (JSON, serde_json::to_string(&self.mock.stats).unwrap_or_default()),
            "/healthz" => (JSON, "{\"ok\":true}".to_owned()),
            "/v1/models" => (JSON, MODELS.to_owned()),
            "/echo" => ("text/plain", String::from_utf8_lossy(body).into_owned()),
            "/mock" => (
                "text/plain",
                NAMES.iter().fold(String::new(), |mut text, (name, what)| {
                    let _ = writeln!(text, "{name:<12} {what}");
                    text
                }),
            ),
            "*" => ("text/plain", String::new()),
            _ => return None,
        })
    }

    async fn fail(&mut self, status: u16, dialect: Dialect, script: &Script) -> Result<bool, Gone> {
        let after = script.retry_after.map(|s| format!("Retry-After: {s}\r\n")).unwrap_or_default();
        let body = refusal(status, dialect, "mock", "the mock was told to fail");
        self.respond(status, &after, &body).await?;
        Ok(true)
    }

    async fn respond(&mut self, status: u16, fields: &str, body: &str) -> Result<(), Gone> {
        let kind = if body.starts_with(['{', '[']) { "application/json" } else { "text/plain" };
        self.respond_as(status, kind, fields, body).await
    }

    async fn respond_as(
        &mut self,
        status: u16,
        kind: &str,
        fields: &str,
        body: &str,
    ) -> Result<(), Gone> {
        let response = format!(
            "HTTP/1.1 {status} Mock\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{fields}\r\n{body}",
            body.len()
        );
        self.send(response.as_bytes()).await
    }

    /// The head of a stream's response.
    fn stream_head(script: &Script, length: usize) -> String {
        let mut head = String::new();
        if script.odd == "interim" {
            head.push_str("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n");
        }
        head.push_str("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n");
        head.push_str("X-Mock: 1\r\nKeep-Alive: timeout=5\r\n");
        if script.gzip {
            head.push_str("Content-Encoding: gzip\r\n");
        }
        match script.framing {
            Framing::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
            Framing::Length => {
                let _ = write!(head, "Content-Length: {length}\r\n");
            }
            Framing::Close => head.push_str("Connection: close\r\n"),
        }
        if script.odd == "te_cl" {
            head.push_str("Content-Length: 10\r\n");
        }
        head + "\r\n"
    }

    async fn stream(
        &mut self,
        head: &RequestHead,
        script: &Script,
        answer: &Answer<'_>,
    ) -> Result<bool, Gone> {
        let zipped =
            script.gzip.then(|| gzip_stored(&answer.frames().collect::<Vec<_>>().concat()));
        self.pause(script.head_delay).await?;
        let length = match (&zipped, script.framing) {
            (Some(zipped), _) => zipped.len(),
            (None, Framing::Length) => answer.frames().map(|frame| frame.len()).sum(),
            _ => 0,
        };
        self.send(Self::stream_head(script, length).as_bytes()).await?;
        if head.method() == "HEAD" {
            return Ok(true);
        }
        match zipped {
            Some(zipped) => self.frames(script, std::iter::once(zipped)).await?,
            None => self.frames(script, answer.frames()).await?,
        }
        Ok(script.framing != Framing::Close)
    }

    /// Sends `frames` when they are due, and the end of the body.
    async fn frames(
        &mut self,
        script: &Script,
        frames: impl Iterator<Item = Vec<u8>>,
    ) -> Result<(), Gone> {
        let t0 = clock::now() + script.first_delay;
        let mut late = Duration::ZERO;
        let mut sent = 0_u64;
        let mut out = Vec::new();
        for (number, frame) in frames.enumerate() {
            let number = number as u32;
            if let Some((after, wait)) = script.stall
                && after == number
            {
                self.flush(&mut out).await?;
                late += wait;
            }
            let due = t0 + late + script.due(number);
            if due > clock::now() {
                self.flush(&mut out).await?;
                self.until(due).await?;
            }
            if script.bad_chunk == Some(number) {
                out.extend_from_slice(b"zz\r\n");
            }
            self.frame(script, &frame, &mut sent, &mut out).await?;
            add(&self.mock.stats.frames, 1);
            if out.len() >= 64 * 1024 {
                self.flush(&mut out).await?;
                // The other streams that are due go first.
                give_way().await;
            }
        }
        if script.framing == Framing::Chunked {
            let trailers = if script.odd == "trailers" { "X-Mock-Trailer: 1\r\n" } else { "" };
            out.extend_from_slice(format!("0\r\n{trailers}\r\n").as_bytes());
        }
        self.flush(&mut out).await
    }

    /// Puts one frame into `out`, or what of it goes before a fault, which ends the connection.
    async fn frame(
        &mut self,
        script: &Script,
        frame: &[u8],
        sent: &mut u64,
        out: &mut Vec<u8>,
    ) -> Result<(), Gone> {
        let cut = script.truncate.or(script.reset_at);
        let left = cut.map_or(u64::MAX, |at| at - *sent);
        let whole = (frame.len() as u64) < left;
        let frame = if whole { frame } else { &frame[..left as usize] };
        *sent += frame.len() as u64;
        let parts = if script.split > 0 { script.split } else { frame.len().max(1) };
        for part in frame.chunks(parts) {
            if script.framing == Framing::Chunked {
                let ext = if script.odd == "chunk_ext" { ";mock=\"1\"" } else { "" };
                out.extend_from_slice(format!("{:x}{ext}\r\n", part.len()).as_bytes());
                out.extend_from_slice(part);
                out.extend_from_slice(b"\r\n");
            } else {
                out.extend_from_slice(part);
            }
            if script.split > 0 {
                self.flush(out).await?;
            }
        }
        if whole {
            return Ok(());
        }
        self.flush(out).await?;
        if script.reset_at.is_some() {
            // Give the bytes before the reset time to be read: a reset may overtake them.
            self.until(clock::now() + Duration::from_millis(50)).await?;
            self.transport.reset();
            return Err(Gone);
        }
        self.transport.shutdown_write();
        Err(Gone)
    }

    async fn flush(&mut self, out: &mut Vec<u8>) -> Result<(), Gone> {
        let sent = self.send(out).await;
        out.clear();
        sent
    }

    async fn send(&self, mut bytes: &[u8]) -> Result<(), Gone> {
        while !bytes.is_empty() {
            match self.transport.try_send(bytes) {
                Ok(Some(n)) => bytes = &bytes[n..],
                Ok(None) => self.transport.writable().await,
                Err(_) => return Err(Gone),
            }
        }
        Ok(())
    }

    async fn pause(&self, wait: Duration) -> Result<(), Gone> {
        if wait.is_zero() { Ok(()) } else { self.until(clock::now() + wait).await }
    }

    /// Waits until `due`, or until the client leaves.
    async fn until(&self, due: Instant) -> Result<(), Gone> {
        let mut timer = pin!(None);
        let mut watching = true;
        poll_fn(|cx| {
            while watching && self.transport.poll_readable(cx).is_ready() {
                match self.transport.peer() {
                    Peer::Closed | Peer::Reset => return Poll::Ready(Err(Gone)),
                    Peer::Talking => watching = false,
                    Peer::Quiet => {}
                }
            }
            poll_deadline(timer.as_mut(), Some(due), cx).map(Ok)
        })
        .await
    }
}

/// An error as the provider that speaks `dialect` tells it beside a status.
fn refusal(status: u16, dialect: Dialect, code: &str, message: &str) -> String {
    let mut body = Vec::new();
    let error = ErrorText { status, code, message, request_id: "mock", sequence: 0 };
    dialect.error_body(&error, &mut body);
    String::from_utf8_lossy(&body).into_owned()
}

/// `bytes` as a gzip member of stored blocks (RFC 1951, section 3.2.4; RFC 1952).
fn gzip_stored(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = bytes.chunks(65_535).peekable();
    while let Some(block) = blocks.next() {
        let len = block.len() as u16;
        out.push(u8::from(blocks.peek().is_none()));
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
        out.extend_from_slice(block);
    }
    let crc = bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (0_u32.wrapping_sub(crc & 1)))
        })
    });
    out.extend_from_slice(&(!crc).to_le_bytes());
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out
}
