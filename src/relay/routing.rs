//! Which way a request goes: its route, or an answer of the relay's own.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Core;
use super::attempt::Refusal;
use super::resume::request::{self, Named};
use crate::balance::retry::RetryRule;
use crate::config::plan::Plan;
use crate::dialect::Dialect;
use crate::flow::timers::Timeouts;
use crate::http1::head::RequestHead;
use crate::outcome::Outcome;
use crate::route::Route;
use crate::route::cors::Fields;
use crate::route::matching::{Captured, Found};

/// The methods by which clients come back to a stream.
const COMING_BACK: [&str; 3] = ["GET", "POST", "DELETE"];

/// A route and what all cores share of it.
#[derive(Clone, Debug)]
pub struct RouteParts {
    /// The route.
    pub route: Route,
    /// Its exchanges of all cores, where they are limited.
    pub in_flight: Arc<AtomicUsize>,
}

impl RouteParts {
    /// Those of a plan.
    pub fn of(plan: &Plan) -> Vec<Self> {
        let parts = |route: &Route| Self { route: route.clone(), in_flight: Arc::default() };
        plan.routes.iter().map(parts).collect()
    }
}

/// A route as one core uses it.
#[derive(Debug)]
pub struct RouteState {
    /// The route.
    pub route: Route,
    /// How long its exchanges may take.
    pub timeouts: Rc<Timeouts>,
    /// The same for one reader of a stream that is kept: only its own side's.
    pub reader_timeouts: Rc<Timeouts>,
    /// When they are tried again.
    pub retry: RetryRule,
    in_flight: Arc<AtomicUsize>,
    /// Its number.
    pub number: usize,
}

impl RouteState {
    /// What a core makes of the parts of the route of this number.
    pub fn new(number: usize, parts: RouteParts) -> Self {
        let plan = &parts.route.exchange;
        let timeouts = Timeouts {
            first_byte: plan.first_byte_timeout,
            idle: plan.idle_timeout,
            stream: plan.stream_timeout,
            write: plan.write_timeout,
            heartbeat: plan.heartbeat,
        };
        Self {
            timeouts: Rc::new(timeouts),
            reader_timeouts: Rc::new(Timeouts { idle: None, stream: None, ..timeouts }),
            retry: RetryRule {
                retries: plan.retry.retries,
                backoff: plan.retry.backoff,
                backoff_max: plan.retry.backoff_max,
                statuses: plan.retry.statuses.clone(),
                posts: plan.retry.posts,
            },
            route: parts.route,
            in_flight: parts.in_flight,
            number,
        }
    }

    /// Takes a place for one exchange, to be given back by [`dismiss`](Self::dismiss); false if
    /// the route is full.
    pub(super) fn admit(&self) -> bool {
        let Some(max) = self.route.in_flight_max else { return true };
        let more = |taken| (taken < max).then_some(taken + 1);
        self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub(super) fn dismiss(&self) {
        if self.route.in_flight_max.is_some() {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The way of one request.
pub(super) struct Way {
    pub route: Rc<RouteState>,
    /// Path and query to ask for, where they are not the client's.
    pub target: Option<String>,
    /// The dialect of the answer, as far as the request tells.
    pub dialect: Dialect,
    /// What any answer says of who may read it.
    pub cors: Fields,
    /// The stream its client comes back to, where the route keeps any.
    pub comes_back: Option<Named>,
}

/// What a request is answered with at once.
pub(super) enum Unrouted {
    /// An error.
    Refused(Box<Refusal>),
    /// The answer to a preflight.
    Preflight(Fields),
}

/// The way of the request with this head, whose own path and fields say `known` of its dialect.
pub(super) fn resolve(core: &Core, head: &RequestHead, known: Dialect) -> Result<Way, Unrouted> {
    let text = |name: &str| head.field(name).and_then(|value| std::str::from_utf8(value).ok());
    if head.method() == "OPTIONS"
        && let (Some(origin), Some(asked)) = (text("origin"), text("access-control-request-method"))
        && let Some(number) = preflighted(core, head, asked)
        && let Some(cors) = &core.routes[number].route.cors
    {
        let route = &core.routes[number].route;
        let mut methods = route.matching.methods.clone();
        if route.exchange.resume.is_some() && !methods.is_empty() {
            let missing = COMING_BACK
                .into_iter()
                .filter(|method| !methods.iter().any(|own| **own == **method));
            methods.extend(missing.map(Into::into).collect::<Vec<Box<str>>>());
        }
        let headers = text("access-control-request-headers");
        return Err(Unrouted::Preflight(cors.preflight(origin, asked, headers, &methods)));
    }
    let has_body = head.has_body();
    let refused = |status, message: String, fields: Fields| {
        let outcome = Outcome::RequestRefused;
        let body_read = !has_body;
        Unrouted::Refused(Box::new(Refusal { status, outcome, message, body_read, fields }))
    };
    let may = core.resume.is_some() && COMING_BACK.contains(&head.method());
    let named = if may { request::named(head) } else { Named::Nothing };
    let again = find_again(core, head, named);
    let again = again.map(|number| Found::Route(number, Captured::default()));
    let (number, captured) = match again.unwrap_or_else(|| core.router.find(head, head.method())) {
        Found::Route(number, captured) => (number, captured),
        Found::NotFound => {
            return Err(refused(404, "no route has this path".to_owned(), Fields::new()));
        }
        Found::MethodNotAllowed(mut allowed) => {
            if allowed.iter().any(|method| &**method == "GET")
                && !allowed.iter().any(|method| &**method == "HEAD")
            {
                allowed.push("HEAD".into());
            }
            let allowed = allowed.join(", ");
            let message = format!("{} is not allowed here, but {allowed}", head.method());
            return Err(refused(405, message, vec![("Allow", allowed)]));
        }
    };
    let route = Rc::clone(&core.routes[number]);
    let asked = head.path_and_query();
    let target = route.route.target(&asked, &captured);
    let dialect = match (route.route.dialect, &target) {
        (Some(dialect), _) => dialect,
        (None, None) => known,
        (None, Some(path)) => Dialect::from_request(path, |name| head.field(name).is_some()),
    };
    let cors = route.route.cors.as_ref();
    let cors = cors.map_or_else(Fields::new, |cors| cors.answer(text("origin")));
    let comes_back = (keeps(core, number) && named != Named::Nothing).then_some(named);
    Ok(Way { route, target, dialect, cors, comes_back })
}

/// The route of a stream that the client comes back to: whatever route takes requests of this host
/// and path, by whatever method, if the stream is one of its own. An `EventSource` comes back by GET
/// to what began with POST, and DELETE cancels it.
fn find_again(core: &Core, head: &RequestHead, named: Named) -> Option<usize> {
    if named == Named::Nothing {
        return None;
    }
    let own = core.resume.as_ref()?.route_of(named);
    let reached = core.router.reach(head);
    if let Some(known) = reached.iter().copied().find(|number| Some(*number) == own) {
        return Some(known);
    }
    // It is nobody's stream; where a route takes the request by itself, that says so, or passes it
    // on.
    match core.router.find(head, head.method()) {
        Found::MethodNotAllowed(_) => reached.into_iter().find(|number| keeps(core, *number)),
        _ => None,
    }
}

fn keeps(core: &Core, route: usize) -> bool {
    core.routes[route].route.exchange.resume.is_some()
}

/// The route that a preflight for `method` is about.
fn preflighted(core: &Core, head: &RequestHead, method: &str) -> Option<usize> {
    if let Found::Route(number, _) = core.router.find(head, method) {
        return Some(number);
    }
    let comes_back = core.resume.is_some() && COMING_BACK.contains(&method);
    core.router.reach(head).into_iter().find(|number| comes_back && keeps(core, *number))
}
