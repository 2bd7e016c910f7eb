//! One request with its response: admission, attempts, the head, the pump, the named end.

use std::time::{Duration, Instant};

use super::Stage;
use super::answer::{self, Own};
use super::ask::{Answer, Ask};
use super::connection::{After, Connection};
use super::inbox::Inbox;
use super::pump::{Pump, send_queued};
use super::record::{Record, shown};
use crate::balance::retry::retry_after;
use crate::clock;
use crate::dialect::Dialect;
use crate::dialect::ErrorText;
use crate::dialect::peek::peek;
use crate::error::{Failure, Phase, Side};
use crate::flow::stream::{Marks, Outgoing, Stream};
use crate::flow::timers::{Timeouts, Timers};
use crate::http1::Version;
use crate::http1::body::BodyDecoder;
use crate::http1::forward::{ForwardRequest, ForwardResponse, encode_request, encode_response};
use crate::http1::head::{BodyFraming, RequestHead};
use crate::limits::{
    ABORT_DELAY, CONNECT_CHAIN_TIMEOUT, PEEK_BODY_BYTES_MAX, REPLAY_BODY_BYTES_MAX,
};
use crate::net::stream::Transport;
use crate::outcome::Outcome;
use crate::upstream::connect;

/// An upstream connection while an exchange uses it.
struct Lease {
    transport: Transport,
    reused: bool,
}

/// Runs one exchange; says what becomes of the connection.
pub async fn run(connection: &mut Connection, head: RequestHead) -> After {
    let dialect = Dialect::from_request(head.path(), |name| head.field(name).is_some());
    let record =
        Record::open(&connection.core, &connection.registration, connection.peer, &head, dialect);
    let result = attempt_all(connection, &head, &record).await;
    let (outcome, after) = match result {
        Ok((outcome, after)) => (outcome, after),
        Err(refusal) => refuse(connection, &head, &record, refusal).await,
    };
    record.close(outcome);
    connection.registration.set_live(None);
    after
}

/// An answer of our own instead of the upstream's.
struct Refusal {
    status: u16,
    outcome: Outcome,
    message: String,
    /// The request's body was read to its end, or there was none.
    body_read: bool,
}

impl Refusal {
    fn new(status: u16, outcome: Outcome, message: impl Into<String>) -> Self {
        Self { status, outcome, message: message.into(), body_read: false }
    }
}

async fn refuse(
    connection: &mut Connection,
    head: &RequestHead,
    record: &Record,
    refusal: Refusal,
) -> (Outcome, After) {
    record.error.replace(Some(refusal.message.clone()));
    if refusal.outcome == Outcome::ClientGone {
        return (refusal.outcome, After::Abort);
    }
    let keep = refusal.body_read && head.keep_alive() && connection.core.stage() == Stage::Serving;
    let own = Own {
        status: refusal.status,
        code: refusal.outcome.as_str(),
        message: &refusal.message,
        request_id: &record.live.request_id,
        close: !keep,
        head_only: head.method() == "HEAD",
    };
    let bytes = answer::encode(record.live.dialect.get(), &own);
    record.responded(refusal.status);
    match connection.send_all(&bytes).await {
        Ok(()) if keep => (refusal.outcome, After::KeepAlive),
        Ok(()) => (refusal.outcome, After::Close),
        Err(_) => (refusal.outcome, After::Abort),
    }
}

/// What the relay does not carry, by the head alone.
fn check(connection: &Connection, head: &RequestHead) -> Result<(), Refusal> {
    let core = &connection.core;
    if head.method() == "CONNECT" {
        let message = "CONNECT is not carried: this relay is a gateway, not a tunnel";
        return Err(Refusal::new(501, Outcome::RequestRefused, message));
    }
    let upgrade = head.field("upgrade").unwrap_or_default();
    if upgrade.to_ascii_lowercase().starts_with(b"websocket") {
        let message = "WebSocket upgrades are not carried: use an event stream";
        return Err(Refusal::new(501, Outcome::RequestRefused, message));
    }
    if let BodyFraming::Length(length) = head.framing()
        && length > core.plan.body_bytes_max
    {
        let max = core.plan.body_bytes_max;
        let message = format!("the request's body is larger than {max} bytes");
        return Err(Refusal::new(413, Outcome::RequestRefused, message));
    }
    Ok(())
}

fn marks(connection: &Connection) -> Marks {
    let plan = &connection.core.plan;
    Marks { high: plan.high_water_mark, low: plan.low_water_mark, frame_max: plan.frame_bytes_max }
}

/// The request's body on its way up, kept for another attempt.
fn request_body(connection: &Connection, head: &RequestHead) -> Stream {
    let chunked = head.framing() == BodyFraming::Chunked;
    let outgoing = if chunked { Outgoing::Chunked } else { Outgoing::Plain };
    let mut body = Stream::opaque(BodyDecoder::new(head.framing()), outgoing, marks(connection))
        .keeping(REPLAY_BODY_BYTES_MAX);
    if head.framing() == BodyFraming::None {
        body.end();
    }
    body
}

/// The wait before another attempt after this answer, or `None` to pass the answer on.
fn wait_after(
    connection: &Connection,
    record: &Record,
    answer: &Answer,
    body: &Stream,
) -> Option<Duration> {
    let after = answer.head.field("retry-after");
    let after = after.and_then(|value| retry_after(value, std::time::SystemTime::now()));
    connection.core.retry.after_status(
        answer.head.status(),
        after,
        record.attempts.get(),
        body.kept().is_some(),
        fastrand::f64(),
    )
}

/// Makes attempts until one is answered and relayed, or none is left.
async fn attempt_all(
    connection: &mut Connection,
    head: &RequestHead,
    record: &Record,
) -> Result<(Outcome, After), Refusal> {
    check(connection, head)?;
    let core = std::rc::Rc::clone(&connection.core);
    let Some(_admission) = core.admit() else {
        return Err(Refusal::new(503, Outcome::Overloaded, "the relay carries all it can"));
    };
    let mut body = request_body(connection, head);
    let request = encode_upstream_head(connection, head, record);
    let chain_deadline = clock::now() + CONNECT_CHAIN_TIMEOUT;
    loop {
        record.attempts.set(record.attempts.get() + 1);
        let attempt = attempt(connection, head, record, &mut body, &request, chain_deadline).await;
        peek_body(record, &body);
        let wait = match attempt {
            Ok((lease, answer)) => match wait_after(connection, record, &answer, &body) {
                Some(wait) => wait,
                None => return Ok(relay(connection, head, record, body, lease, answer).await),
            },
            Err(failure) => {
                log::debug!("{}: {failure}", record.live.request_id);
                let (attempts, replayable) = (record.attempts.get(), body.kept().is_some());
                let jitter = fastrand::f64();
                match core.retry.after_failure(&failure, attempts, replayable, jitter) {
                    Some(wait) => wait,
                    None => return Err(refusal(&failure, &body)),
                }
            }
        };
        core.metrics.retries.inc();
        if !wait.is_zero() {
            let waited = connection.beside(monoio::time::sleep(wait)).await;
            waited.map_err(|failure| refusal(&failure, &body))?;
        }
        body.restart();
    }
}

fn refusal(failure: &Failure, body: &Stream) -> Refusal {
    let mut refusal = Refusal::new(failure.status(), failure.outcome, failure.message.clone());
    refusal.body_read = body.is_ended() && failure.side != Side::Downstream;
    refusal
}

fn encode_upstream_head(connection: &Connection, head: &RequestHead, record: &Record) -> Vec<u8> {
    let endpoint = &connection.core.endpoint;
    let target = match head.path_and_query().as_ref() {
        "*" => "*".to_owned(),
        path => format!("{}{path}", endpoint.base_path),
    };
    // A provider must not compress a stream: most compressors hold bytes back. Whether a POST
    // asks for a stream stands in its body, which has not been read yet.
    let identity = head.method() == "POST" || head.accepts_event_stream();
    let mut out = Vec::with_capacity(head.bytes_len() + 256);
    let forward = ForwardRequest {
        authority: &endpoint.authority,
        target: &target,
        client_ip: connection.peer.ip(),
        scheme: "http",
        request_id: &record.live.request_id,
        identity,
        framing: head.framing(),
    };
    encode_request(head, &forward, &mut out);
    out
}

fn peek_body(record: &Record, body: &Stream) {
    if record.model.borrow().is_some() {
        return;
    }
    if let Some(kept) = body.kept()
        && kept.first().is_some_and(|byte| !byte.is_ascii_alphanumeric())
    {
        let seen = &kept[..kept.len().min(PEEK_BODY_BYTES_MAX)];
        record.model.replace(peek(seen).model.as_deref().map(shown));
    }
}

/// One try: a connection, the request, the answer's head.
async fn attempt(
    connection: &mut Connection,
    head: &RequestHead,
    record: &Record,
    body: &mut Stream,
    request: &[u8],
    chain_deadline: Instant,
) -> Result<(Lease, Answer), Failure> {
    record.live.state.set("connecting");
    let lease = lease(connection, chain_deadline).await?;
    record.reused.set(lease.reused);
    record.live.state.set("waiting");
    let core = std::rc::Rc::clone(&connection.core);
    let mut ask = Ask {
        core: &core,
        upstream: &lease.transport,
        reused: lease.reused,
        downstream: &connection.transport,
        inbox: &mut connection.inbox,
        unsent: &mut connection.unsent,
        head: request,
        body,
        interim: head.version() == Version::Http11,
        expects_continue: head.expects_continue(),
    };
    let answer = ask.run().await;
    if answer.is_err() {
        // Tells the upstream at once, without waiting for the descriptor's close.
        lease.transport.shutdown();
    }
    Ok((lease, answer?))
}

/// A pooled connection, or a new one.
async fn lease(connection: &mut Connection, chain_deadline: Instant) -> Result<Lease, Failure> {
    let core = std::rc::Rc::clone(&connection.core);
    let (pooled, dropped) = core.pool.lease(clock::now());
    core.note_pool(dropped);
    if let Some(transport) = pooled {
        core.metrics.upstream_reuses.inc();
        return Ok(Lease { transport, reused: true });
    }
    let authority = &core.endpoint.authority;
    let addresses = core.addresses.addresses().map_err(|why| {
        connect::unreachable(format!("upstream name {authority} does not resolve: {why}"))
    })?;
    core.metrics.upstream_connects.inc();
    let timeout = core.plan.connect_timeout;
    let connect = connect::connect(authority, &addresses, timeout, chain_deadline);
    match connection.beside(connect).await? {
        Ok(transport) => Ok(Lease { transport, reused: false }),
        Err(failure) => {
            core.metrics.upstream_connect_errors.inc();
            Err(failure)
        }
    }
}

/// How the response goes down.
struct Shape {
    framing: BodyFraming,
    outgoing: Outgoing,
    keep_alive: bool,
}

fn shape(head: &RequestHead, answer: &Answer, serving: bool, events: bool) -> Shape {
    let keep_alive = head.keep_alive() && serving;
    let framing = answer.head.framing(head.method());
    let modern = head.version() == Version::Http11;
    let (framing, outgoing, keep_alive) = match framing {
        BodyFraming::None => (BodyFraming::None, Outgoing::Plain, keep_alive),
        BodyFraming::Length(n) if !events => (BodyFraming::Length(n), Outgoing::Plain, keep_alive),
        _ if modern => (BodyFraming::Chunked, Outgoing::Chunked, keep_alive),
        _ => (BodyFraming::Close, Outgoing::Plain, false),
    };
    Shape { framing, outgoing, keep_alive }
}

/// Sends the answer down: its head, its body, its end.
async fn relay(
    connection: &mut Connection,
    head: &RequestHead,
    record: &Record,
    body: Stream,
    lease: Lease,
    answer: Answer,
) -> (Outcome, After) {
    let core = std::rc::Rc::clone(&connection.core);
    let now = clock::now();
    record.answered(now);
    let from = answer.head.framing(head.method());
    let events = answer.head.is_event_stream() && from != BodyFraming::None;
    record.stream.set(events);
    record.live.state.set("streaming");
    let uploaded = body.is_ended() && body.buffer().queued() == 0;
    drop(body);
    let mut shape = shape(head, &answer, core.stage() == Stage::Serving, events);
    shape.keep_alive &= uploaded;
    let mut stream = response_stream(connection, record, &shape, from, events);
    let bytes = response_head(head, &answer, record, &shape, events);
    record.responded(answer.head.status());
    if let Err(outcome) = connection.send_all(&bytes).await {
        lease.transport.shutdown();
        return (outcome, After::Abort);
    }
    let reusable = answer.head.keep_alive() && from != BodyFraming::Close && uploaded;
    let rest = answer.rest;
    drop(bytes);
    let result = pump(connection, record, &lease, &mut stream, rest).await;
    match result {
        Ok(extra) => {
            if reusable && !extra {
                core.note_pool(core.pool.give_back(lease.transport, clock::now()));
            }
            let in_order = from != BodyFraming::Close && stream.is_finished_by_dialect();
            let in_order = in_order || (events && stream.is_finished_by_dialect_event());
            let outcome = if in_order { Outcome::Done } else { Outcome::UpstreamClosed };
            (outcome, if shape.keep_alive { After::KeepAlive } else { After::Close })
        }
        Err(failure) => {
            lease.transport.shutdown();
            tell(connection, record, &mut stream, &failure).await;
            if shape.framing == BodyFraming::Close {
                // Only a reset shows that a body without length or chunks was cut.
                connection.transport.reset();
            }
            (failure.outcome, After::Abort)
        }
    }
}

fn response_stream(
    connection: &Connection,
    record: &Record,
    shape: &Shape,
    from: BodyFraming,
    events: bool,
) -> Stream {
    let decoder = BodyDecoder::new(from);
    if events {
        Stream::events(decoder, shape.outgoing, marks(connection), record.live.dialect.get())
    } else {
        Stream::opaque(decoder, shape.outgoing, marks(connection))
    }
}

fn response_head(
    head: &RequestHead,
    answer: &Answer,
    record: &Record,
    shape: &Shape,
    events: bool,
) -> Vec<u8> {
    let announced = answer.head.field("content-length");
    let announced = announced.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    let forward = ForwardResponse {
        framing: shape.framing,
        close: !shape.keep_alive,
        stream: events,
        request_id: &record.live.request_id,
        version: head.version(),
        head_only_length: announced.filter(|_| shape.framing == BodyFraming::None),
    };
    let mut out = Vec::new();
    encode_response(&answer.head, &forward, &mut out);
    out
}

/// Pumps the body; says whether the upstream sent more than its body.
async fn pump(
    connection: &mut Connection,
    record: &Record,
    lease: &Lease,
    stream: &mut Stream,
    mut rest: Inbox,
) -> Result<bool, Failure> {
    let core = std::rc::Rc::clone(&connection.core);
    let now = clock::now();
    let timeouts = Timeouts {
        first_byte: core.plan.first_byte_timeout,
        idle: core.plan.idle_timeout,
        stream: core.plan.stream_timeout,
        write: core.plan.write_timeout,
        heartbeat: core.plan.heartbeat.filter(|_| stream.is_events()),
    };
    let mut timers = Timers::new(timeouts, record.started(), now);
    let mut fault = None;
    while !rest.is_empty() && !stream.is_ended() {
        timers.read(now);
        match stream.receive_copy(rest.bytes()) {
            Ok(taken) => rest.consume(taken),
            Err(error) => {
                let message = format!("the upstream's body is malformed: {error}");
                fault = Some(Failure::upstream(Phase::Body, Outcome::UpstreamProtocol, message));
            }
        }
    }
    let extra = !rest.is_empty();
    drop(rest);
    timers.set_paused(now, !stream.wants_more() && !stream.is_ended());
    if let Some(fault) = fault {
        return Err(fault);
    }
    if stream.nothing_to_come() && !stream.is_ended() {
        stream.end();
    }
    if stream.is_ended() {
        stream.finish();
    }
    record.carried(now, stream.carried());
    let mut pump = Pump {
        core: &core,
        upstream: &lease.transport,
        downstream: &connection.transport,
        inbox: &mut connection.inbox,
        stream,
        timers,
        record,
        upstream_ready: false,
        blocked: false,
        watching: true,
        extra,
    };
    pump.run().await?;
    Ok(pump.extra)
}

/// Tells the client in-band what happened, where that is possible, before the abort.
async fn tell(connection: &Connection, record: &Record, stream: &mut Stream, failure: &Failure) {
    record.error.replace(Some(failure.message.clone()));
    if failure.side == Side::Downstream {
        return;
    }
    stream.discard_held();
    let mut told = false;
    if let Some(dialect) = stream.dialect() {
        let text = ErrorText {
            status: failure.status(),
            code: failure.outcome.as_str(),
            message: &failure.message,
            request_id: &record.live.request_id,
            sequence: stream.carried().frames,
        };
        let mut frame = Vec::new();
        dialect.error_frame(&text, &mut frame);
        told = stream.insert(&frame);
        if told {
            connection.core.metrics.error_frames.inc();
        }
    }
    flush(connection, stream).await;
    if told && stream.buffer().queued() == 0 {
        // A client that knows its dialect leaves when it has read the error: that ends the wait.
        let _ = monoio::time::timeout(ABORT_DELAY, connection.transport.readable()).await;
    }
}

/// Sends what is queued, within the write timeout.
async fn flush(connection: &Connection, stream: &mut Stream) {
    let deadline = clock::now() + connection.core.plan.write_timeout;
    while stream.buffer().queued() > 0 && clock::now() < deadline {
        if send_queued(&connection.transport, stream).is_err() {
            return;
        }
        if stream.buffer().queued() > 0 && connection.core.stage() != Stage::Ending {
            let left = deadline.saturating_duration_since(clock::now());
            let _ = monoio::time::timeout(left, connection.transport.writable()).await;
        } else {
            return;
        }
    }
}
