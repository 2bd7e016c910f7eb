//! Routes: which requests go where, and what is changed in them.
//!
//! - [`matching`]: by host, method and path; the longest wins;
//! - [`request`]: the body's checks and edits, on JSON text; [`template`]: a new body of its
//!   fields;
//! - [`cors`]: who may read the answers across origins.
//!
//! A route is resolved once a request; no frame of a stream knows of it.

pub mod cors;
mod lift;
pub mod matching;
pub mod request;
pub mod template;

use crate::config::plan::ExchangePlan;
use crate::dialect::Dialect;
use crate::http1::edits::FieldEdits;
use crate::http1::query;
use crate::shape::Shaping;
use cors::Cors;
use matching::{Captured, Matching, Rewrite};
use request::BodyRules;

/// What becomes of the requests it matches.
#[derive(Clone, Debug)]
pub struct Route {
    /// What it is called in the log and by `check`.
    pub name: Box<str>,
    /// Which requests it is for.
    pub matching: Matching,
    /// The number of its upstream group.
    pub upstream: usize,
    /// The path asked for upstream, instead of the client's.
    pub to: Option<Rewrite>,
    /// The dialect of its answers, where they are not to be recognised.
    pub dialect: Option<Dialect>,
    /// How they are told.
    pub shaping: Shaping,
    /// What is checked and changed in bodies.
    pub body: BodyRules,
    /// What is changed in request fields.
    pub request_fields: Option<FieldEdits>,
    /// What is changed in response fields.
    pub response_fields: Option<FieldEdits>,
    /// The client's own credentials go upstream.
    pub forwards_credentials: bool,
    /// Who may read its answers across origins.
    pub cors: Option<Cors>,
    /// Exchanges at once, per process.
    pub in_flight_max: Option<usize>,
    /// How its exchanges are done.
    pub exchange: ExchangePlan,
}

impl Route {
    /// The one route of a relay without any: all there is goes to the first group, as it came.
    pub fn everything(exchange: ExchangePlan) -> Self {
        Self {
            name: "".into(),
            matching: Matching::everything(),
            upstream: 0,
            to: None,
            dialect: None,
            shaping: Shaping::Passthrough,
            body: BodyRules::default(),
            request_fields: None,
            response_fields: None,
            forwards_credentials: true,
            cors: None,
            in_flight_max: None,
            exchange,
        }
    }

    /// The dialect that a client knows which reads this route's answers: of one that is answered in
    /// `dialect`.
    pub const fn told_in(&self, dialect: Dialect) -> Dialect {
        match self.shaping {
            Shaping::Passthrough => dialect,
            Shaping::OpenAi(_) => Dialect::OpenAiChat,
            Shaping::Tokens(_) => Dialect::Generic,
        }
    }

    /// Path and query to ask for upstream, before the endpoint's base path, where they are not
    /// those that were asked for.
    pub fn target(&self, asked: &str, captured: &Captured<'_>) -> Option<String> {
        let (_, asked_query) = query::split(asked);
        let mut target = self.to.as_ref()?.path(captured);
        if let Some(asked_query) = asked_query {
            target.push(if target.contains('?') { '&' } else { '?' });
            target.push_str(asked_query);
        }
        Some(target)
    }
}
