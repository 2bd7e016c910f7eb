//! One request with its response: the attempts, the head, the pump, the named end.
//!
//! What an exchange passes only once runs in futures of their own on the heap (`begin`,
//! `cut`): a stream that waits for its next token keeps no memory for them.

use std::rc::Rc;
use std::time::Instant;

use super::answer::{self, Own};
use super::ask::Answer;
use super::attempt::{self, Answered, Refusal};
use super::connection::{After, Connection};
use super::inbox::Inbox;
use super::pump::{Body, Pump, malformed, send_queued};
use super::record::Record;
use super::resume::reader::{Account, Reads};
use super::resume::{Seat, reader, request, source};
use super::routing::{self, RouteState, Unrouted, Way};
use super::whole::{self, Source};
use super::{Core, Stage};
use crate::clock;
use crate::dialect::Dialect;
use crate::dialect::ErrorText;
use crate::error::{Failure, Side};
use crate::flow::stream::{Outgoing, Stream};
use crate::flow::timers::Timers;
use crate::http1::body::BodyDecoder;
use crate::http1::forward::{ForwardResponse, ResponseChanges, encode_response};
use crate::http1::head::{BodyFraming, RequestHead, ResponseHead, parse_response};
use crate::http1::{Status, Version};
use crate::limits::ABORT_DELAY;
use crate::net::stream::Transport;
use crate::net::timer;
use crate::outcome::Outcome;
use crate::route::request::Asked;
use crate::shape::chunks::OpenAiRule;
use crate::shape::{Naming, Shaper, Shaping};

/// A response whose head is queued, or has gone down.
pub(super) struct Response {
    pub upstream: Transport,
    pub body: Body,
    framing: Framing,
    /// The upstream sent more than its body.
    pub extra: bool,
}

/// What an exchange leaves to be done.
pub(super) enum Ran {
    /// It is over.
    Over(After),
    /// Its connection is to read a stream that is kept.
    Reads(Box<Reads>),
}

/// What an exchange has come to when it is answered.
pub(super) enum Begun {
    /// The response is carried by this task.
    Plain(Box<Response>),
    /// It is carried by a task of its own, which keeps it; this one reads it from there.
    Kept(Box<Kept>),
    /// The client goes on reading a stream that is kept.
    Reader(Box<(Seat, Opening)>),
}

/// A response that is to be kept, and its first reader.
pub(super) struct Kept {
    response: Response,
    /// Its first bytes were at fault already.
    fault: Option<Failure>,
    seat: Seat,
    opening: Opening,
}

/// How a reader of a stream that is kept begins, and ends.
pub(super) struct Opening {
    /// How frames are sent.
    pub framing: Outgoing,
    /// The client may send another request behind it.
    pub keep_alive: bool,
    /// The body ends with its connection.
    pub to_close: bool,
    /// What goes first: the head, and when to come back.
    pub bytes: Vec<u8>,
    /// The route.
    pub route: Rc<RouteState>,
}

/// What its framing allows at its end.
#[derive(Clone, Copy)]
struct Framing {
    /// The client may send another request.
    keep_alive: bool,
    /// The upstream connection may be used again.
    reusable: bool,
    /// The upstream ends its body by closing.
    from_close: bool,
    /// We end the body by closing.
    to_close: bool,
}

/// Runs one exchange; says what becomes of the connection.
pub(super) async fn run(connection: &mut Connection, head: Box<RequestHead>) -> Ran {
    let dialect = Dialect::from_request(head.path(), |name| head.field(name).is_some());
    let record =
        Record::open(connection.core(), &connection.registration, connection.peer, &head, dialect);
    let (outcome, after) = match Box::pin(begin(connection, head, &record)).await {
        Ok(Begun::Kept(kept)) => return Ran::Reads(first(connection, record, kept)),
        Ok(Begun::Reader(reading)) => {
            let (seat, opening) = *reading;
            let account = Account::Own(record);
            return Ran::Reads(Box::new(Reads { account, seat, opening }));
        }
        Ok(Begun::Plain(response)) => {
            // Beside the rest of the stream's state, not on its own.
            let mut response = unboxed(response);
            let mut pump = Pump {
                connection,
                upstream: &response.upstream,
                body: &mut response.body,
                record: &record,
                upstream_ready: false,
                blocked: false,
                watching: true,
                extra: response.extra,
            };
            match pump.run().await {
                Ok(()) => {
                    response.extra = pump.extra;
                    finish(connection, &record, response)
                }
                Err(failure) => Box::pin(cut(connection, &record, &mut response, failure)).await,
            }
        }
        Err(end) => end,
    };
    record.close(outcome);
    connection.registration.set_live(None);
    Ran::Over(after)
}

/// The first reader of a stream that is kept, with its source.
fn first(connection: &Connection, record: Record, kept: Box<Kept>) -> Box<Reads> {
    let Kept { response, fault, seat, opening } = unboxed(kept);
    let source = source::new(connection.core(), seat.slot(), record, (response, fault));
    Box::new(Reads { account: Account::Source(source), seat, opening })
}

/// What is in a box, whose memory is given back at once: a box that is moved out of where it
/// stands keeps it to the end of its scope.
#[expect(clippy::boxed_local, reason = "it is moved out of its box here")]
fn unboxed<T>(boxed: Box<T>) -> T {
    *boxed
}

pub(super) async fn refuse(
    connection: &mut Connection,
    head: &RequestHead,
    record: &Record,
    refusal: Refusal,
) -> (Outcome, After) {
    record.error.replace(Some(refusal.message.as_str().into()));
    if refusal.outcome == Outcome::ClientGone {
        return (refusal.outcome, After::Abort);
    }
    // A 1.0 client keeps a connection only where the answer says so, and ours does not.
    let keep = keeps(connection, head, refusal.body_read);
    let text = ErrorText {
        status: refusal.status,
        code: refusal.outcome.as_str(),
        message: &refusal.message,
        request_id: &record.live.request_id,
        sequence: 0,
    };
    let head_only = head.method() == "HEAD";
    let own = Own { text, close: !keep, head_only, fields: &refusal.fields };
    let (status, bytes) = match early_event(record, &text, &refusal).filter(|_| !head_only) {
        Some(events) => (200, answer::encode_events(&own, &events)),
        None => {
            let dialect = record.live.dialect.get();
            let dialect = record.route().map_or(dialect, |route| route.route.told_in(dialect));
            (refusal.status, answer::encode(dialect, &own))
        }
    };
    record.responded(status);
    match connection.send_all(&bytes).await {
        Ok(()) => (refusal.outcome, After::whole(keep)),
        Err(_) => (refusal.outcome, After::Abort),
    }
}

/// The stream that tells this instead of a status: of what the upstream failed in, not of requests
/// that are refused here.
fn early_event(record: &Record, text: &ErrorText<'_>, refusal: &Refusal) -> Option<Vec<u8>> {
    let refused_here = matches!(
        refusal.outcome,
        Outcome::RequestRefused | Outcome::RequestTimeout | Outcome::Overloaded | Outcome::Drained
    );
    let shaping = &record.route()?.route.shaping;
    let told = shaping.early_error(text, refusal.outcome.is_timeout());
    told.filter(|_| !refused_here)
}

/// Whether the connection may carry another request behind an answer of our own.
fn keeps(connection: &Connection, head: &RequestHead, body_read: bool) -> bool {
    body_read
        && head.keep_alive()
        && head.version() == Version::Http11
        && connection.core().stage() == Stage::Serving
}

/// Answers with these fields and no content: what goes no further than here.
pub(super) async fn no_content(
    connection: &mut Connection,
    (head, body_read): (&RequestHead, bool),
    record: &Record,
    fields: &[(&'static str, String)],
) -> (Outcome, After) {
    let keep = keeps(connection, head, body_read);
    let bytes = answer::encode_no_content(fields, &record.live.request_id, !keep);
    record.responded(204);
    match connection.send_all(&bytes).await {
        Ok(()) => (Outcome::Done, After::whole(keep)),
        Err(outcome) => (outcome, After::Abort),
    }
}

/// How the response goes down.
struct Shape {
    framing: BodyFraming,
    outgoing: Outgoing,
    keep_alive: bool,
}

fn shape(head: &RequestHead, answer: &ResponseHead, serving: bool, events: bool) -> Shape {
    let keep_alive = head.keep_alive() && serving;
    let framing = answer.framing(head.method());
    let modern = head.version() == Version::Http11;
    let (framing, outgoing, keep_alive) = match framing {
        BodyFraming::None => (BodyFraming::None, Outgoing::Plain, keep_alive),
        BodyFraming::Length(n) if !events => (BodyFraming::Length(n), Outgoing::Plain, keep_alive),
        _ if modern => (BodyFraming::Chunked, Outgoing::Chunked, keep_alive),
        _ => (BodyFraming::Close, Outgoing::Plain, false),
    };
    Shape { framing, outgoing, keep_alive }
}

/// Everything up to the response's head and the bytes that came with it, queued to go down in one
/// write; or the end that came before.
async fn begin(
    connection: &mut Connection,
    head: Box<RequestHead>,
    record: &Record,
) -> Result<Begun, (Outcome, After)> {
    let known = record.live.dialect.get();
    let way = match routing::resolve(connection.core(), &head, known) {
        Ok(way) => way,
        Err(Unrouted::Refused(refusal)) => {
            return Err(Box::pin(refuse(connection, &head, record, *refusal)).await);
        }
        Err(Unrouted::Preflight(fields)) => {
            let read = !head.has_body();
            return Err(Box::pin(no_content(connection, (&head, read), record, &fields)).await);
        }
    };
    record.routed(&way);
    if let Some(named) = way.comes_back {
        return Box::pin(request::come_back(connection, &head, record, &way, named)).await;
    }
    let answered = match attempt::answered(connection, &head, record, &way).await {
        Ok(answered) => answered,
        Err(mut refusal) => {
            refusal.fields.extend(way.cors);
            return Err(Box::pin(refuse(connection, &head, record, refusal)).await);
        }
    };
    record.answered(clock::now());
    pass_on(connection, &head, record, &way, answered).await
}

/// The upstream's answer on its way: its head, and what came with it.
async fn pass_on(
    connection: &mut Connection,
    head: &RequestHead,
    record: &Record,
    way: &Way,
    answered: Answered,
) -> Result<Begun, (Outcome, After)> {
    let Answered { upstream, answer, uploaded, asked, collects } = answered;
    let now = clock::now();
    let from = answer.head.framing(head.method());
    let events = answer.head.is_event_stream() && from != BodyFraming::None;
    let failed = answer.head.status() >= 400 && from != BodyFraming::None;
    let retold = failed && way.route.route.shaping.retells_errors();
    if retold || collects && events {
        let reusable = answer.head.keep_alive() && uploaded && from != BodyFraming::Close;
        let source = Source { upstream, answer, from, uploaded, reusable, events };
        return Err(if retold {
            Box::pin(whole::retold(connection, head, record, way, source)).await
        } else {
            Box::pin(whole::collected(connection, head, record, (way, asked), source)).await
        });
    }
    record.stream.set(events);
    record.live.state.set("streaming");
    let serving = connection.core().stage() == Stage::Serving;
    let mut shape = shape(head, &answer.head, serving, events);
    shape.keep_alive &= uploaded;
    let shaped = events && !matches!(way.route.route.shaping, Shaping::Passthrough);
    if shaped && let Some(refusal) = unreadable(&answer, way) {
        upstream.shutdown();
        return Err(Box::pin(refuse(connection, head, record, refusal)).await);
    }
    // What is kept is framed for each reader when it is sent.
    let seat =
        if events { request::seat(connection.core(), head, way, &answer.head) } else { None };
    let outgoing = if seat.is_some() { Outgoing::Plain } else { shape.outgoing };
    let mut stream = response_stream(connection, record, outgoing, from, events);
    if shaped && let Some(shaper) = shaper(record, way, asked) {
        stream = stream.shaped(shaper);
    }
    // What is left of an interim response goes before it.
    let mut bytes = std::mem::take(&mut connection.unsent).into_vec();
    let position = seat.as_ref().and_then(reader::Position::of);
    let named = position.as_ref().map(|position| position.text.as_str());
    response_head(head, &answer.head, record, (&shape, way), (events, named), &mut bytes);
    record.responded(answer.head.status());
    let opening = position.map(|position| {
        let bytes = std::mem::take(&mut bytes);
        Opening::new(head, way, &shape, &position, bytes)
    });
    stream.begin(bytes);
    let framing = Framing {
        keep_alive: shape.keep_alive,
        reusable: answer.head.keep_alive() && from != BodyFraming::Close && uploaded,
        from_close: from == BodyFraming::Close,
        to_close: shape.framing == BodyFraming::Close,
    };
    // Silence is filled for each reader where there may be several.
    let heartbeats = events && seat.is_none();
    let timers = Timers::new(&way.route.timeouts, record.started(), now, heartbeats);
    let body = Body { stream, timers };
    let mut response = Response { upstream, body, framing, extra: false };
    match (response.take(record, answer.rest, now), seat, opening) {
        (taken, Some(seat), Some(opening)) => {
            let fault = taken.err();
            Ok(Begun::Kept(Box::new(Kept { response, fault, seat, opening })))
        }
        (Ok(()), ..) => Ok(Begun::Plain(Box::new(response))),
        (Err(failure), ..) => Err(Box::pin(cut(connection, record, &mut response, failure)).await),
    }
}

impl Opening {
    /// That of a stream's reader, whose head is in `bytes`.
    fn new(
        head: &RequestHead,
        way: &Way,
        shape: &Shape,
        position: &reader::Position,
        mut bytes: Vec<u8>,
    ) -> Self {
        let framing = shape.outgoing;
        let route = Rc::clone(&way.route);
        let retry = route.route.exchange.resume.as_ref().map(|plan| plan.retry);
        // Only an EventSource asks by GET.
        let hint = (retry.unwrap_or_default().as_millis(), head.method() == "GET", framing);
        reader::put_hint(position, hint, &mut bytes);
        let to_close = shape.framing == BodyFraming::Close;
        Self { framing, keep_alive: shape.keep_alive, to_close, bytes, route }
    }

    /// That of a client that came back.
    pub(super) fn of_a_reader(
        connection: &mut Connection,
        head: &RequestHead,
        record: &Record,
        way: &Way,
        position: &reader::Position,
    ) -> Self {
        let serving = connection.core().stage() == Stage::Serving;
        let own = own_head();
        let shape = shape(head, &own, serving, true);
        let mut bytes = std::mem::take(&mut connection.unsent).into_vec();
        let named = Some(position.text.as_str());
        response_head(head, &own, record, (&shape, way), (true, named), &mut bytes);
        record.responded(200);
        Self::new(head, way, &shape, position, bytes)
    }
}

/// The head of an event stream that no upstream answers with.
fn own_head() -> ResponseHead {
    let text = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    match parse_response(text, &mut 0) {
        Ok(Status::Complete((head, _))) => head,
        _ => unreachable!("a constant that parses, as a test shows"),
    }
}

impl Response {
    /// Whether the upstream's connection can carry another request.
    pub(super) fn may_be_reused(&self) -> bool {
        self.framing.reusable && !self.extra
    }

    /// Takes the bytes that came with the head.
    fn take(&mut self, record: &Record, mut rest: Inbox, now: Instant) -> Result<(), Failure> {
        let Body { stream, timers } = &mut self.body;
        let mut result = Ok(());
        while !rest.is_empty() && !stream.is_ended() && result.is_ok() {
            timers.read(now);
            match stream.receive_copy(rest.bytes()) {
                Ok(taken) => rest.consume(taken),
                Err(error) => result = Err(malformed(error.outcome(), &error)),
            }
        }
        self.extra = !rest.is_empty();
        result?;
        if stream.nothing_to_come() && !stream.is_ended() {
            stream.end();
        }
        if stream.is_ended() {
            stream.finish();
        }
        record.carried(now, stream.carried());
        Ok(())
    }
}

/// The whole body has gone down.
fn finish(connection: &Connection, record: &Record, response: Response) -> (Outcome, After) {
    let (outcome, after) = (outcome(&response), After::whole(response.framing.keep_alive));
    if response.may_be_reused() {
        give_back(connection.core(), record, response.upstream);
    }
    (outcome, after)
}

/// How a body ended that is over in order.
pub(super) fn outcome(response: &Response) -> Outcome {
    let stream = &response.body.stream;
    let in_order = !response.framing.from_close && stream.is_finished_by_dialect();
    let in_order = in_order || (stream.is_events() && stream.is_finished_by_dialect_event());
    if in_order { Outcome::Done } else { Outcome::UpstreamClosed }
}

/// The body broke off: tells the client, and leaves no end that looks like one, unless the route
/// has an event that names the failure: behind that the body ends in order, for a page that reads
/// it must not lose it to a broken connection.
async fn cut(
    connection: &Connection,
    record: &Record,
    response: &mut Response,
    failure: Failure,
) -> (Outcome, After) {
    response.upstream.shutdown();
    if tell(connection, record, &mut response.body.stream, &failure).await {
        let serving = connection.core().stage() == Stage::Serving;
        return (failure.outcome, After::whole(response.framing.keep_alive && serving));
    }
    if response.framing.to_close {
        // Only a reset shows that a body without length or chunks was cut.
        connection.transport.reset();
    }
    (failure.outcome, After::Abort)
}

/// What names the answer.
pub(super) fn naming<R>(record: &Record, with: impl FnOnce(Naming<'_>) -> R) -> R {
    let model = record.model.borrow();
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    with(Naming {
        id: &record.live.request_id,
        model: model.as_deref().unwrap_or_default(),
        created: since.map_or(0, |since| since.as_secs()),
    })
}

pub(super) fn give_back(core: &Core, record: &Record, upstream: Transport) {
    if let Some(used) = &*record.live.upstream.borrow() {
        core.note_pool(used.upstream().pool.give_back(upstream, clock::now()));
    }
}

/// Why this event stream cannot be told in other words.
pub(super) fn unreadable(answer: &Answer, way: &Way) -> Option<Refusal> {
    let coding = answer.head.field("content-encoding")?;
    if coding.eq_ignore_ascii_case(b"identity") {
        return None;
    }
    let message = "the upstream's stream is compressed, so it cannot be told in other words";
    let mut refusal = Refusal::new(502, Outcome::UpstreamProtocol, message);
    refusal.fields.extend(way.cors.iter().cloned());
    Some(refusal)
}

/// What tells the answer's stream, where that is not its own bytes.
fn shaper(record: &Record, way: &Way, asked: Asked) -> Option<Box<Shaper>> {
    let shaping = match &way.route.route.shaping {
        Shaping::OpenAi(rule) if asked.include_usage && !rule.include_usage => {
            let rule = OpenAiRule { include_usage: true, ..(**rule).clone() };
            Shaping::OpenAi(std::sync::Arc::new(rule))
        }
        shaping => shaping.clone(),
    };
    naming(record, |naming| shaping.shaper(way.dialect, asked.increments, naming))
}

fn response_stream(
    connection: &Connection,
    record: &Record,
    outgoing: Outgoing,
    from: BodyFraming,
    events: bool,
) -> Stream {
    let decoder = BodyDecoder::new(from);
    if events {
        Stream::events(decoder, outgoing, connection.core().marks(), record.live.dialect.get())
    } else {
        Stream::opaque(decoder, outgoing, connection.core().marks())
    }
}

/// The present, for an answer that does not say when it was made.
pub(super) fn undated(answer: &ResponseHead) -> Option<std::time::SystemTime> {
    answer.field("date").is_none().then(std::time::SystemTime::now)
}

fn response_head(
    head: &RequestHead,
    answer: &ResponseHead,
    record: &Record,
    (shape, way): (&Shape, &Way),
    (events, stream_id): (bool, Option<&str>),
    out: &mut Vec<u8>,
) {
    let route = &way.route.route;
    let announced = answer.field("content-length");
    let announced = announced.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    let forward = ForwardResponse {
        framing: shape.framing,
        close: !shape.keep_alive,
        stream: events,
        stream_id,
        request_id: &record.live.request_id,
        version: head.version(),
        head_only_length: announced.filter(|_| shape.framing == BodyFraming::None),
        received: undated(answer),
        changes: ResponseChanges {
            edits: route.response_fields.as_ref(),
            cors: route.cors.as_ref().map(|_| way.cors.as_slice()),
        },
    };
    // With what the relay says for itself.
    out.reserve(answer.bytes_len() + 256);
    encode_response(answer, &forward, out);
}

/// Tells the client in-band what happened, where that is possible; true where the body has ended
/// in order behind it, so that no abort is due.
async fn tell(
    connection: &Connection,
    record: &Record,
    stream: &mut Stream,
    failure: &Failure,
) -> bool {
    let text = record.failed(failure, stream.carried().frames);
    if failure.side == Side::Downstream {
        return false;
    }
    stream.discard_held();
    let told = stream.tell(&text, failure.outcome.is_timeout());
    if told {
        connection.core().metrics.error_frames.inc();
    }
    let ended = stream.end_told(told);
    flush(connection, stream).await;
    let sent = stream.buffer().queued() == 0;
    if ended && sent {
        return true;
    }
    if told && sent {
        // A client that knows its dialect leaves when it has read the error: that ends the wait.
        let _ = timer::timeout(ABORT_DELAY, connection.transport.readable()).await;
    }
    false
}

/// Sends what is queued, within the write timeout.
async fn flush(connection: &Connection, stream: &mut Stream) {
    let deadline = clock::now() + connection.core().plan.write_timeout;
    while stream.buffer().queued() > 0 && clock::now() < deadline {
        if send_queued(&connection.transport, stream, false).is_err() {
            return;
        }
        if stream.buffer().queued() > 0 && connection.core().stage() != Stage::Ending {
            let left = deadline.saturating_duration_since(clock::now());
            let _ = timer::timeout(left, connection.transport.writable()).await;
        } else {
            return;
        }
    }
}
