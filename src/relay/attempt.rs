//! The attempts of one exchange, until one of them has an answer to pass on: admission, a pooled
//! connection or a new one, the request on its way up, retries.

use std::time::{Duration, Instant};

use super::ask::{Answer, Ask};
use super::connection::Connection;
use super::record::{Record, shown};
use crate::balance::retry::retry_after;
use crate::clock;
use crate::dialect::peek::peek;
use crate::error::{Failure, Side};
use crate::flow::stream::{Outgoing, Stream};
use crate::http1::Version;
use crate::http1::body::BodyDecoder;
use crate::http1::forward::{ForwardRequest, encode_request, ends_here};
use crate::http1::head::{BodyFraming, RequestHead};
use crate::limits::{CONNECT_CHAIN_TIMEOUT, PEEK_BODY_BYTES_MAX, REPLAY_BODY_BYTES_MAX};
use crate::net::stream::Transport;
use crate::net::timer;
use crate::outcome::Outcome;
use crate::upstream::connect;

/// The attempt that was answered.
pub(super) struct Answered {
    /// The upstream connection, with the rest of the answer to come.
    pub upstream: Transport,
    /// The answer's head, and what came with it.
    pub answer: Answer,
    /// The whole request went up.
    pub uploaded: bool,
}

/// An upstream connection while an exchange uses it.
struct Lease {
    transport: Transport,
    reused: bool,
}

/// An answer of our own instead of the upstream's.
pub(super) struct Refusal {
    pub status: u16,
    pub outcome: Outcome,
    pub message: String,
    /// The request's body was read to its end, or there was none.
    pub body_read: bool,
}

impl Refusal {
    fn new(status: u16, outcome: Outcome, message: impl Into<String>) -> Self {
        Self { status, outcome, message: message.into(), body_read: false }
    }
}

/// What the relay does not carry, by the head alone.
fn check(connection: &Connection, head: &RequestHead) -> Result<(), Refusal> {
    let core = connection.core();
    if head.method() == "CONNECT" {
        let message = "CONNECT is not carried: this relay is a gateway, not a tunnel";
        return Err(Refusal::new(501, Outcome::RequestRefused, message));
    }
    if ends_here(head) {
        let message = "Max-Forwards ends here, and this relay answers no such request itself";
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

/// The request's body on its way up, kept for another attempt.
fn request_body(connection: &Connection, head: &RequestHead) -> Stream {
    let chunked = head.framing() == BodyFraming::Chunked;
    let outgoing = if chunked { Outgoing::Chunked } else { Outgoing::Plain };
    let mut body =
        Stream::opaque(BodyDecoder::new(head.framing()), outgoing, connection.core().marks())
            .keeping(REPLAY_BODY_BYTES_MAX);
    // A length of 0 brings no byte that would tell its end.
    if body.nothing_to_come() {
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
    connection.core().retry.after_status(
        answer.head.status(),
        after,
        record.attempts.get(),
        body.kept().is_some(),
        fastrand::f64(),
    )
}

/// Makes attempts until one is answered, or none is left.
pub(super) async fn answered(
    connection: &mut Connection,
    head: &RequestHead,
    record: &Record,
) -> Result<Answered, Refusal> {
    check(connection, head)?;
    let core = std::rc::Rc::clone(connection.core());
    if !record.admit() {
        return Err(Refusal::new(503, Outcome::Overloaded, "the relay carries all it can"));
    }
    let mut body = request_body(connection, head);
    body.begin(upstream_head(connection, head, record));
    let chain_deadline = clock::now() + CONNECT_CHAIN_TIMEOUT;
    loop {
        record.attempts.set(record.attempts.get() + 1);
        let attempt = attempt(connection, head, record, &mut body, chain_deadline).await;
        peek_body(record, &body);
        let wait = match attempt {
            Ok((lease, answer)) => match wait_after(connection, record, &answer, &body) {
                Some(wait) => wait,
                None => {
                    let uploaded = body.is_ended() && body.buffer().queued() == 0;
                    let upstream = lease.transport;
                    return Ok(Answered { upstream, answer, uploaded });
                }
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
            let waited = connection.beside(timer::sleep(wait)).await;
            waited.map_err(|failure| refusal(&failure, &body))?;
        }
        body.restart(upstream_head(connection, head, record));
    }
}

fn refusal(failure: &Failure, body: &Stream) -> Refusal {
    let mut refusal = Refusal::new(failure.status(), failure.outcome, failure.message.clone());
    refusal.body_read = body.is_ended() && failure.side != Side::Downstream;
    refusal
}

fn upstream_head(connection: &Connection, head: &RequestHead, record: &Record) -> Box<[u8]> {
    let endpoint = &connection.core().endpoint;
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
        scheme: if connection.transport.is_tls() { "https" } else { "http" },
        request_id: &record.live.request_id,
        identity,
        framing: head.framing(),
        changes: Default::default(),
    };
    encode_request(head, &forward, &mut out);
    out.into()
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
    chain_deadline: Instant,
) -> Result<(Lease, Answer), Failure> {
    record.live.state.set("connecting");
    let lease = lease(connection, chain_deadline).await?;
    record.reused.set(lease.reused);
    record.live.state.set("waiting");
    let core = std::rc::Rc::clone(connection.core());
    let mut ask = Ask {
        core: &core,
        registration: &connection.registration,
        upstream: &lease.transport,
        reused: lease.reused,
        downstream: &connection.transport,
        inbox: &mut connection.inbox,
        unsent: &mut connection.unsent,
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
    let core = std::rc::Rc::clone(connection.core());
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
    let tls = core.tls.upstream.as_deref();
    let tls = tls.map(|tls| (tls, &core.turns));
    let trusted = &core.trusted;
    let target = connect::Target { authority, addresses: &addresses, trusted, tls };
    match connection.beside(connect::connect(target, timeout, chain_deadline)).await? {
        Ok(transport) => {
            if transport.is_resumed() {
                core.metrics.upstream_tls_resumed.inc();
            }
            Ok(Lease { transport, reused: false })
        }
        Err(failure) => {
            core.metrics.upstream_connect_errors.inc();
            Err(failure)
        }
    }
}
