//! The attempts of one exchange, until one of them has an answer to pass on: admission, a pooled
//! connection or a new one, the request on its way up, retries.

use std::time::{Duration, Instant};

use super::ask::{Answer, Ask};
use super::body;
use super::connection::Connection;
use super::record::{Record, shown};
use super::routing::{RouteState, Way};
use crate::balance::retry::retry_after;
use crate::clock;
use crate::dialect::peek::peek;
use crate::error::{Failure, Phase, Retryable, Side};
use crate::flow::stream::{Outgoing, Stream};
use crate::http1::Version;
use crate::http1::body::BodyDecoder;
use crate::http1::forward::{ForwardRequest, OwnBody, RequestChanges, encode_request, ends_here};
use crate::http1::head::{BodyFraming, RequestHead};
use crate::limits::{CONNECT_CHAIN_TIMEOUT, PEEK_BODY_BYTES_MAX, REPLAY_BODY_BYTES_MAX};
use crate::net::stream::Transport;
use crate::net::timer;
use crate::outcome::Outcome;
use crate::route::cors::Fields;
use crate::route::request::{Asked, Collect};
use crate::shape::Shaping;
use crate::upstream::connect;
use crate::upstream::group::{Group, Upstream};

/// The attempt that was answered.
pub(super) struct Answered {
    /// The upstream connection, with the rest of the answer to come.
    pub upstream: Transport,
    /// The answer's head, and what came with it.
    pub answer: Answer,
    /// The whole request went up.
    pub uploaded: bool,
    /// What its telling depends on, where it is told in other words.
    pub asked: Asked,
    /// It is to be collected, should it be a stream.
    pub collects: bool,
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
    /// Fields beside the usual ones.
    pub fields: Fields,
}

impl Refusal {
    pub(super) fn new(status: u16, outcome: Outcome, message: impl Into<String>) -> Self {
        Self { status, outcome, message: message.into(), body_read: false, fields: Fields::new() }
    }
}

/// What the relay does not carry, by the head alone.
fn check(head: &RequestHead, route: &RouteState) -> Result<(), Refusal> {
    let bytes_max = route.route.exchange.body_bytes_max;
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
        && length > bytes_max
    {
        let message = format!("the request's body is larger than {bytes_max} bytes");
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

/// A request's body that a route has made, with what is left of its target.
struct Own {
    method: String,
    content_type: Vec<u8>,
    body: Vec<u8>,
    target: String,
    collects: bool,
    asked: Asked,
}

/// Reads the body, checks and changes it.
async fn own_request(
    connection: &mut Connection,
    head: &RequestHead,
    way: &Way,
) -> Result<Own, Refusal> {
    let route = &way.route.route;
    let received = body::whole(connection, head, route).await?;
    let asked = head.path_and_query();
    let target = way.target.as_deref().unwrap_or(&asked);
    let made = route.body.apply(&received, target, way.dialect).map_err(|refused| {
        let mut refusal = Refusal::new(refused.status, Outcome::RequestRefused, refused.message);
        refusal.body_read = true;
        refusal
    })?;
    let given = head.field("content-type").unwrap_or_default();
    let json = memchr::memmem::find(&given.to_ascii_lowercase(), b"json").is_some();
    Ok(Own {
        method: if head.method() == "GET" { "POST" } else { head.method() }.to_owned(),
        content_type: if json { given } else { b"application/json" }.to_vec(),
        body: made.body,
        target: made.target,
        collects: made.collects,
        asked: made.asked,
    })
}

/// A request on its way: what each attempt begins with.
struct Request<'a> {
    head: &'a RequestHead,
    record: &'a Record,
    way: &'a Way,
    own: Option<Own>,
}

impl Request<'_> {
    /// The body as it comes, kept for another attempt; of one that is made nothing is left to
    /// come, for it goes up with its head.
    fn stream(&self, connection: &Connection) -> Stream {
        if self.own.is_none() {
            return request_body(connection, self.head);
        }
        let (decoder, marks) = (BodyDecoder::None, connection.core().marks());
        let mut body = Stream::opaque(decoder, Outgoing::Plain, marks).keeping(0);
        body.end();
        body
    }

    /// What the telling of its answer depends on.
    fn asked(&self, body: &Stream) -> Asked {
        let route = &self.way.route.route;
        if matches!(route.shaping, Shaping::Passthrough) && route.body.collect == Collect::Off {
            return Asked::default();
        }
        match &self.own {
            Some(own) => own.asked,
            None => body.kept().map_or_else(Asked::default, Asked::read),
        }
    }

    /// What goes up first, to this endpoint.
    fn head(&self, connection: &Connection, group: &Group, upstream: &Upstream) -> Vec<u8> {
        let Self { head, record, way, own } = self;
        let (endpoint, route) = (&upstream.endpoint, &way.route.route);
        let asked = head.path_and_query();
        let asked = way.target.as_deref().unwrap_or(&asked);
        let asked = own.as_ref().map_or(asked, |own| own.target.as_str());
        let method = own.as_ref().map_or_else(|| head.method(), |own| &own.method);
        // A provider must not compress a stream: most compressors hold bytes back. Whether a POST
        // asks for a stream stands in its body, which has not been read yet.
        let identity = method == "POST" || head.accepts_event_stream();
        let bytes = own.as_ref().map_or(0, |own| own.body.len());
        let mut out = Vec::with_capacity(head.bytes_len() + 256 + bytes);
        let own_framing = |own: &Own| BodyFraming::Length(own.body.len() as u64);
        let forward = ForwardRequest {
            authority: &endpoint.authority,
            base_path: &endpoint.base_path,
            target: asked,
            client_ip: connection.peer.ip(),
            scheme: if connection.transport.is_tls() { "https" } else { "http" },
            request_id: &record.live.request_id,
            identity,
            framing: own.as_ref().map_or_else(|| head.framing(), own_framing),
            changes: RequestChanges {
                edits: route.request_fields.as_ref(),
                key: group.plan.key.as_ref().map(|key| key.field(way.dialect)),
                keep_credentials: !route.forwards_credentials,
                own_body: own
                    .as_ref()
                    .map(|own| OwnBody { method, content_type: &own.content_type }),
            },
        };
        encode_request(head, &forward, &mut out);
        out.extend_from_slice(own.as_ref().map_or(&[], |own| &own.body));
        out
    }
}

/// The wait before another attempt after this answer, or `None` to pass the answer on.
fn wait_after(record: &Record, way: &Way, answer: &Answer, body: &Stream) -> Option<Duration> {
    let after = answer.head.field("retry-after");
    let after = after.and_then(|value| retry_after(value, std::time::SystemTime::now()));
    way.route.retry.after_status(
        answer.head.status(),
        after,
        record.attempts.get(),
        body.kept().is_some(),
        fastrand::f64(),
    )
}

/// The endpoints that one exchange has tried.
struct Tried<'a> {
    group: &'a Group,
    /// Bit n for the endpoint of number n.
    numbers: u64,
}

impl Tried<'_> {
    /// The wait after a failed attempt: none where another endpoint is left that can be asked in
    /// place of one that could not be reached.
    fn wait(
        &mut self,
        (number, upstream): (usize, &Upstream),
        failure: &Failure,
        (way, record, body): (&Way, &Record, &Stream),
    ) -> Option<Duration> {
        if failure.phase == Phase::Connect && failure.side == Side::Upstream {
            upstream.rest(clock::now());
            // Nothing was sent, not even where TLS failed that would only fail again here.
            if self.group.has_others(self.numbers) {
                return body.kept().map(|_| Duration::ZERO);
            }
        }
        if failure.retryable == Retryable::Reused {
            // A dead connection says nothing of its endpoint.
            self.numbers &= !(1 << number);
        }
        let (attempts, replayable) = (record.attempts.get(), body.kept().is_some());
        way.route.retry.after_failure(failure, attempts, replayable, fastrand::f64())
    }
}

/// Makes attempts until one is answered, or none is left.
pub(super) async fn answered(
    connection: &mut Connection,
    head: &RequestHead,
    record: &Record,
    way: &Way,
) -> Result<Answered, Refusal> {
    check(head, &way.route)?;
    let core = std::rc::Rc::clone(connection.core());
    record.admit().map_err(|why| Refusal::new(503, Outcome::Overloaded, why))?;
    let route = &way.route.route;
    let own = if route.body.apply_to(head.method(), head.has_body(), way.dialect) {
        Some(Box::pin(own_request(connection, head, way)).await?)
    } else {
        None
    };
    if let Some(own) = &own {
        peek_body(record, &own.body);
    }
    let request = Request { head, record, way, own };
    let mut body = request.stream(connection);
    let chain_deadline = clock::now() + CONNECT_CHAIN_TIMEOUT;
    let group = &core.groups[route.upstream];
    let mut tried = Tried { group, numbers: 0 };
    loop {
        record.attempts.set(record.attempts.get() + 1);
        if !group.has_others(tried.numbers) {
            tried.numbers = 0;
        }
        let chosen = group.choose(tried.numbers, clock::now());
        let (number, used) = chosen.ok_or_else(|| {
            Refusal::new(502, Outcome::UpstreamUnreachable, "the upstream has no endpoint")
        })?;
        tried.numbers |= 1 << number;
        let upstream = std::rc::Rc::clone(used.upstream());
        record.live.upstream.replace(Some(used));
        let first = request.head(connection, group, &upstream);
        if record.attempts.get() == 1 {
            body.begin(first);
        } else {
            body.restart(first);
        }
        let attempt = attempt(connection, &request, &upstream, &mut body, chain_deadline).await;
        body.kept().inspect(|kept| peek_body(record, kept));
        let wait = match attempt {
            Ok((lease, answer)) => match wait_after(record, way, &answer, &body) {
                Some(wait) => wait,
                None => {
                    let uploaded = body.is_ended() && body.buffer().queued() == 0;
                    let upstream = lease.transport;
                    let asked = request.asked(&body);
                    let collects = request.own.as_ref().is_some_and(|own| own.collects);
                    return Ok(Answered { upstream, answer, uploaded, asked, collects });
                }
            },
            Err(failure) => {
                log::debug!("{}: {failure}", record.live.request_id);
                match tried.wait((number, &upstream), &failure, (way, record, &body)) {
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
    }
}

fn refusal(failure: &Failure, body: &Stream) -> Refusal {
    let mut refusal = Refusal::new(failure.status(), failure.outcome, failure.message.clone());
    refusal.body_read = body.is_ended() && failure.side != Side::Downstream;
    refusal
}

fn peek_body(record: &Record, kept: &[u8]) {
    if record.model.borrow().is_some() {
        return;
    }
    if kept.first().is_some_and(|byte| !byte.is_ascii_alphanumeric()) {
        let seen = &kept[..kept.len().min(PEEK_BODY_BYTES_MAX)];
        record.model.replace(peek(seen).model.as_deref().map(shown));
    }
}

/// One try: a connection, the request, the answer's head.
async fn attempt(
    connection: &mut Connection,
    request: &Request<'_>,
    upstream: &Upstream,
    body: &mut Stream,
    chain_deadline: Instant,
) -> Result<(Lease, Answer), Failure> {
    let Request { head, record, way, .. } = request;
    record.live.state.set("connecting");
    let plan = &way.route.route.exchange;
    let lease = lease(connection, upstream, plan.connect_timeout, chain_deadline).await?;
    record.reused.set(lease.reused);
    record.live.state.set("waiting");
    let core = std::rc::Rc::clone(connection.core());
    let mut ask = Ask {
        core: &core,
        registration: &connection.registration,
        route: &way.route,
        authority: &upstream.endpoint.authority,
        upstream: &lease.transport,
        reused: lease.reused,
        downstream: &connection.transport,
        inbox: &mut connection.inbox,
        unsent: &mut connection.unsent,
        body,
        stream_deadline: plan.stream_timeout.map(|limit| record.started() + limit),
        interim: head.version() == Version::Http11,
        // Of one that is made, the client has been told to go on.
        expects_continue: head.expects_continue() && request.own.is_none(),
    };
    // Without an answer the connection is closed here, which tells the upstream at once.
    let answer = ask.run().await?;
    Ok((lease, answer))
}

/// A pooled connection, or a new one.
async fn lease(
    connection: &mut Connection,
    upstream: &Upstream,
    timeout: Duration,
    chain_deadline: Instant,
) -> Result<Lease, Failure> {
    let core = std::rc::Rc::clone(connection.core());
    let (pooled, dropped) = upstream.pool.lease(clock::now());
    core.note_pool(dropped);
    if let Some(transport) = pooled {
        core.metrics.upstream_reuses.inc();
        return Ok(Lease { transport, reused: true });
    }
    let authority = &upstream.endpoint.authority;
    let addresses = upstream.addresses.addresses().map_err(|why| {
        connect::unreachable(format!("upstream name {authority} does not resolve: {why}"))
    })?;
    core.metrics.upstream_connects.inc();
    let tls = upstream.tls.as_deref().map(|tls| (tls, &core.turns));
    let trusted = &upstream.trusted;
    let target = connect::Target { authority, addresses: &addresses, trusted, tls };
    let connecting = Box::pin(connect::connect(target, timeout, chain_deadline));
    match connection.beside(connecting).await? {
        Ok(transport) => {
            upstream.works();
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
