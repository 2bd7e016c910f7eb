//! A client that comes back, or that asks for the end of its stream.

use std::rc::Rc;

use aws_lc_rs::{digest, rand};

use super::super::Core;
use super::super::attempt::Refusal;
use super::super::body;
use super::super::connection::{After, Connection};
use super::super::exchange::{Begun, Opening, no_content, refuse};
use super::super::record::Record;
use super::super::routing::Way;
use super::Seat;
use super::reader;
use crate::flow::replay::{Coming, Credential, Found};
use crate::http1::head::{RequestHead, ResponseHead};
use crate::http1::query;
use crate::outcome::Outcome;
use crate::sse::sequence::EventId;

/// Parameters of the query by which clients say what they have that cannot set a field.
const PARAMETERS: [&str; 3] = ["last_event_id", "lastEventId", "Last-Event-ID"];

/// What a request says of the stream it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Named {
    /// Nothing: it is about a new one.
    Nothing,
    /// This frame was its client's last.
    Id(EventId),
    /// Something that is no id of ours.
    Unknown,
}

/// Which stream the request is about.
pub(in super::super) fn named(head: &RequestHead) -> Named {
    let delete = head.method() == "DELETE";
    let given = |name: &str| head.field(name).filter(|value| !value.is_empty());
    let target = head.path_and_query();
    let (_, asked) = query::split(&target);
    let parameter = || {
        let mut pairs = asked?.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs.find(|(name, value)| PARAMETERS.contains(name) && !value.is_empty())?.1;
        Some(value.as_bytes())
    };
    let id = given("last-event-id")
        .or_else(|| if delete { given("x-stream-id") } else { None })
        .or_else(parameter);
    match id.map(EventId::read) {
        None => Named::Nothing,
        Some(None) => Named::Unknown,
        Some(Some(id)) => Named::Id(id),
    }
}

/// What the client shows of who it is: a digest of these fields, absent ones too.
pub(in super::super) fn credential(head: &RequestHead, names: &[Box<str>]) -> Credential {
    let mut context = digest::Context::new(&digest::SHA256);
    for name in names {
        for value in head.values(name) {
            context.update(&(value.len() as u64).to_le_bytes());
            context.update(value);
        }
        // No value has this length.
        context.update(&u64::MAX.to_le_bytes());
    }
    let mut credential = [0; 32];
    credential.copy_from_slice(context.finish().as_ref());
    credential
}

/// Lets the client go on with its stream, or ends it; or says why not.
pub(in super::super) async fn come_back(
    connection: &mut Connection,
    head: &RequestHead,
    record: &Record,
    way: &Way,
    named: Named,
) -> Result<Begun, (Outcome, After)> {
    let route = &way.route.route;
    // What it asked for the first time is not asked for again.
    if head.has_body()
        && let Err(mut refusal) = body::whole(connection, head, route).await
    {
        refusal.fields.extend(way.cors.iter().cloned());
        return Err(refuse(connection, head, record, refusal).await);
    }
    let core = Rc::clone(connection.core());
    let found = find(&core, head, way, named);
    let metrics = &core.metrics;
    let (status, outcome, message) = match found {
        Found::Reader(slot, reader) => {
            let seat = Seat { core: Rc::clone(&core), slot, reader };
            metrics.readers_back.inc();
            record.stream.set(true);
            record.live.state.set("streaming");
            let Some(position) = reader::Position::of(&seat) else {
                return Err((Outcome::StreamUnknown, After::Abort));
            };
            let opening = Opening::of_a_reader(connection, head, record, way, &position);
            return Ok(Begun::Reader(Box::new((seat, opening))));
        }
        Found::Over => {
            let cancelled = head.method() == "DELETE";
            let counter = if cancelled { &metrics.resume_cancelled } else { &metrics.resume_over };
            counter.inc();
            // To 204 an `EventSource` does not come again (HTML Standard, section 9.2.2).
            return Err(no_content(connection, (head, true), record, &way.cors).await);
        }
        Found::Gap => {
            metrics.resume_gaps.inc();
            let message = "frames behind this id are no longer kept; nothing was generated anew";
            (410, Outcome::StreamGap, message)
        }
        Found::Unknown => {
            metrics.resume_unknown.inc();
            let message = "no stream of yours has this id: it is over for some time, was \
                           cancelled, or never was; nothing was generated anew";
            (404, Outcome::StreamUnknown, message)
        }
    };
    let mut refusal = Refusal::new(status, outcome, message);
    (refusal.body_read, refusal.fields) = (true, way.cors.clone());
    Err(refuse(connection, head, record, refusal).await)
}

/// Looks for the stream. One that is to be ended is ended, and then it is [over](Found::Over).
fn find(core: &Core, head: &RequestHead, way: &Way, named: Named) -> Found {
    let (Named::Id(id), Some(resume), Some(plan)) =
        (named, &core.resume, &way.route.route.exchange.resume)
    else {
        return Found::Unknown;
    };
    let credential = credential(head, &plan.credentials);
    let coming = Coming { id: &id, route: way.route.number, credential: &credential };
    let mut shelf = resume.shelf.borrow_mut();
    if head.method() != "DELETE" {
        return shelf.resume(coming);
    }
    if shelf.cancel(coming) { Found::Over } else { Found::Unknown }
}

/// Begins to keep the stream that a request is answered with, where its route does that.
pub(in super::super) fn seat(
    core: &Rc<Core>,
    head: &RequestHead,
    way: &Way,
    answer: &ResponseHead,
) -> Option<Seat> {
    let (resume, plan) = (core.resume.as_ref()?, way.route.route.exchange.resume.as_ref()?);
    // Frames cannot be told apart in what is compressed.
    let coding = answer.field("content-encoding").unwrap_or(b"identity");
    if !coding.eq_ignore_ascii_case(b"identity") {
        return None;
    }
    let mut secret = [0; 14];
    rand::fill(&mut secret).ok()?;
    let credential = credential(head, &plan.credentials);
    let mut shelf = resume.shelf.borrow_mut();
    let (slot, reader) = shelf.begin(secret, way.route.number, credential, plan.terms);
    Some(Seat { core: Rc::clone(core), slot, reader: reader? })
}
