//! Answers that are read whole before anything goes down: a stream as one JSON answer, an
//! upstream's error in the words of the route.

use super::Stage;
use super::answer::{self, Own};
use super::ask::Answer;
use super::attempt::Refusal;
use super::collect::{self, Collected};
use super::connection::{After, Connection};
use super::exchange::{give_back, naming, refuse, undated, unreadable};
use super::record::Record;
use super::routing::Way;
use crate::clock;
use crate::dialect::refusal::Refusal as Told;
use crate::dialect::{Dialect, ErrorText};
use crate::error::{Failure, Side};
use crate::flow::stream::Carried;
use crate::http1::edits::Secret;
use crate::http1::forward::{ForwardResponse, ResponseChanges, encode_response};
use crate::http1::head::{BodyFraming, RequestHead, ResponseHead};
use crate::limits::{COLLECTED_BYTES_MAX, ERROR_BODY_BYTES_MAX};
use crate::net::stream::Transport;
use crate::outcome::Outcome;
use crate::route::request::Asked;
use crate::shape::collect::{CollectError, Collector};

/// An answer whose body is still to be read.
pub(super) struct Source {
    pub upstream: Transport,
    pub answer: Answer,
    pub from: BodyFraming,
    /// The whole request went up.
    pub uploaded: bool,
    /// The upstream connection may be used again.
    pub reusable: bool,
    /// It is an event stream.
    pub events: bool,
}

/// Fields that describe a body as the upstream sent it.
const OF_THE_BODY: [&str; 7] = [
    "Content-Encoding",
    "Content-Language",
    "Content-MD5",
    "Content-Digest",
    "Repr-Digest",
    "ETag",
    "Last-Modified",
];

/// Answers with the whole of a stream.
pub(super) async fn collected(
    connection: &mut Connection,
    head: &RequestHead,
    record: &Record,
    (way, asked): (&Way, Asked),
    source: Source,
) -> (Outcome, After) {
    let Source { upstream, answer, from, reusable, uploaded, .. } = source;
    if let Some(refusal) = unreadable(&answer, way) {
        upstream.shutdown();
        return refuse(connection, head, record, refusal).await;
    }
    let (plan, core) = (&way.route.route.exchange, std::rc::Rc::clone(connection.core()));
    let response = answer.head.clone();
    let collector = collector(connection, record, way, asked);
    let incoming = (&upstream, answer, from);
    let whole = collect::whole(connection, incoming, collector, (plan, record.started())).await;
    let collected = match whole {
        Ok(collected) => collected,
        Err(failure) => {
            upstream.shutdown();
            let mut refusal = Refusal::new(failure.status(), failure.outcome, failure.message);
            (refusal.body_read, refusal.fields) = (true, way.cors.clone());
            return refuse(connection, head, record, refusal).await;
        }
    };
    if reusable && !collected.extra {
        give_back(&core, record, upstream);
    }
    let keep = keeps(connection, head, uploaded);
    answer_with(connection, (head, keep), record, (way, &response), collected).await
}

fn collector(connection: &Connection, record: &Record, way: &Way, asked: Asked) -> Collector {
    let frame_max = connection.core().plan.frame_bytes_max;
    naming(record, |naming| {
        Collector::new(way.dialect, asked.increments, naming, frame_max, COLLECTED_BYTES_MAX)
    })
}

/// Answers with the upstream's error in the route's words: its status, its message, and its fields
/// apart from those of the body.
pub(super) async fn retold(
    connection: &mut Connection,
    head: &RequestHead,
    record: &Record,
    way: &Way,
    source: Source,
) -> (Outcome, After) {
    let Source { upstream, answer, from, reusable, uploaded, events } = source;
    let core = std::rc::Rc::clone(connection.core());
    let response = answer.head.clone();
    let plan = &way.route.route.exchange;
    let limits = (plan, record.started());
    let packed = unreadable(&answer, way).is_some();
    let incoming = (&upstream, answer, from);
    let read = collect::bounded(connection, incoming, ERROR_BODY_BYTES_MAX, limits).await;
    let (body, bytes_in) = match read {
        Ok(Collected { body, bytes_in, extra }) => {
            if reusable && !extra {
                give_back(&core, record, upstream);
            }
            (body, bytes_in)
        }
        Err(Failure { side: Side::Downstream, outcome, message, .. }) => {
            upstream.shutdown();
            return refuse(connection, head, record, Refusal::new(502, outcome, message)).await;
        }
        Err(failure) => {
            // That much is known: with which status it was refused.
            upstream.shutdown();
            record.error.replace(Some(failure.message.into()));
            (Vec::new(), 0)
        }
    };
    let told = match () {
        () if packed => None,
        () if events => of_stream(collector(connection, record, way, Asked::default()), &body),
        () => Told::read(&body),
    };
    let (status, keep) = (response.status(), keeps(connection, head, uploaded));
    let speaks_openai = matches!(way.dialect, Dialect::OpenAiChat | Dialect::OpenAiResponses);
    let told_in = way.route.route.told_in(way.dialect);
    // What the route's readers know already keeps its bytes.
    let kept = told_in == Dialect::OpenAiChat
        && speaks_openai
        && !events
        && told.as_ref().is_some_and(|told| told.is_openai);
    let told = told.unwrap_or_else(|| Told {
        message: format!("the upstream answered with status {status}"),
        code: String::new(),
        is_openai: false,
    });
    let text = ErrorText {
        status,
        code: if told.code.is_empty() { "upstream_error" } else { &told.code },
        message: &told.message,
        request_id: &record.live.request_id,
        sequence: 0,
    };
    let timeout = matches!(status, 408 | 504);
    if let Some(events) = way.route.route.shaping.early_error(&text, timeout) {
        let own = Own { text, close: !keep, head_only: false, fields: &way.cors };
        let bytes = answer::encode_events(&own, &events);
        record.carried(clock::now(), Carried { bytes_in, ..Carried::default() });
        return send(connection, keep, record, (200, &bytes)).await;
    }
    let body = if kept {
        body
    } else {
        let mut out = Vec::new();
        told_in.error_body(&text, &mut out);
        out
    };
    let collected = Collected { body, bytes_in, extra: false };
    answer_with(connection, (head, keep), record, (way, &response), collected).await
}

/// The error in a stream that came beside a status.
fn of_stream(mut collector: Collector, body: &[u8]) -> Option<Told> {
    let told = collector.feed(body).and_then(|()| collector.finish(true).map(drop));
    match told {
        Err(CollectError::Upstream { code, message, .. }) => {
            Some(Told { message, code, is_openai: false })
        }
        _ => None,
    }
}

/// Whether the client may send another request: its own must have been read to its end.
fn keeps(connection: &Connection, head: &RequestHead, uploaded: bool) -> bool {
    uploaded && head.keep_alive() && connection.core().stage() == Stage::Serving
}

/// Answers with a JSON body under the head of the upstream's answer.
async fn answer_with(
    connection: &mut Connection,
    (head, keep): (&RequestHead, bool),
    record: &Record,
    (way, response): (&Way, &ResponseHead),
    collected: Collected,
) -> (Outcome, After) {
    let mut edits = way.route.route.response_fields.clone().unwrap_or_default();
    edits.set.push(("Content-Type".into(), Secret::open("application/json")));
    edits.remove.extend(OF_THE_BODY.map(Into::into));
    let forward = ForwardResponse {
        framing: BodyFraming::Length(collected.body.len() as u64),
        close: !keep,
        stream: false,
        request_id: &record.live.request_id,
        stream_id: None,
        version: head.version(),
        head_only_length: None,
        received: undated(response),
        changes: ResponseChanges {
            edits: Some(&edits),
            cors: way.route.route.cors.as_ref().map(|_| way.cors.as_slice()),
        },
    };
    let mut bytes = Vec::with_capacity(1024 + collected.body.len());
    encode_response(response, &forward, &mut bytes);
    bytes.extend_from_slice(&collected.body);
    let (bytes_in, bytes_out) = (collected.bytes_in, collected.body.len() as u64);
    record.carried(clock::now(), Carried { bytes_in, bytes_out, ..Carried::default() });
    send(connection, keep, record, (response.status(), &bytes)).await
}

async fn send(
    connection: &mut Connection,
    keep: bool,
    record: &Record,
    (status, bytes): (u16, &[u8]),
) -> (Outcome, After) {
    record.responded(status);
    match connection.send_all(bytes).await {
        Ok(()) => (Outcome::Done, After::whole(keep)),
        Err(outcome) => (outcome, After::Abort),
    }
}
