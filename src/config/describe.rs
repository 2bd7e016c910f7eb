//! What `check` prints. Secrets are hidden.

use std::fmt::Write as _;
use std::time::Duration;

use super::plan::{Endpoint, ExchangePlan, Plan, UpstreamPlan, UpstreamTlsPlan};
use crate::http1::edits::FieldEdits;
use crate::route::Route;
use crate::route::cors::Origins;
use crate::route::request::{BodyRules, Collect, Edit, StreamRule};
use crate::route::template::Template;
use crate::shape::Shaping;

type Rows = Vec<(&'static str, String)>;

fn off(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "off".to_owned(), |duration| format!("{duration:?}"))
}

impl Plan {
    /// What `check` prints.
    pub fn describe(&self) -> String {
        let mut rows = self.front();
        if self.file.is_none() {
            rows.extend(self.upstreams.iter().flat_map(|group| endpoint_rows(&group.endpoints)));
        }
        rows.extend(self.process());
        rows.extend(exchange_rows(&self.exchange));
        let mut out = table(&rows);
        if self.file.is_some() {
            for group in &self.upstreams {
                let _ = write!(out, "\nupstream {:?}\n{}", group.name, table(&group_rows(group)));
            }
            for route in &self.routes {
                let _ = write!(out, "\nroute {:?}\n{}", route.name, table(&self.route(route)));
            }
        }
        out
    }

    fn front(&self) -> Rows {
        // Those with the same certificates stand together.
        let mut rows = Rows::new();
        for together in self.listeners.chunk_by(|a, b| a.certificates == b.certificates) {
            let addresses: Vec<String> =
                together.iter().map(|listener| listener.address.to_string()).collect();
            rows.push(("listen", addresses.join(", ")));
            let certificates = together.first().map_or(0, |first| first.certificates.len());
            rows.push(("tls certificates", certificates.to_string()));
        }
        if let Some(file) = &self.file {
            rows.insert(0, ("file", file.display().to_string()));
        }
        rows
    }

    fn process(&self) -> Rows {
        let x = &self.exchange;
        vec![
            ("admin", self.admin.map_or_else(|| "off".to_owned(), |admin| admin.to_string())),
            ("workers", format!("{}{}", self.workers, if self.pin { ", pinned" } else { "" })),
            ("io", format!("{:?}", self.io).to_lowercase()),
            ("streams at once", self.streams_max.to_string()),
            ("marks", format!("{} / {} bytes", x.high_water_mark, x.low_water_mark)),
            ("frame held up to", format!("{} bytes", x.frame_bytes_max)),
            ("write timeout", format!("{:?}", x.write_timeout)),
            ("head / keep-alive", format!("{:?} / {:?}", x.head_timeout, x.keep_alive_timeout)),
            ("tls handshake", format!("{:?}", x.tls_handshake_timeout)),
            ("half-close", if x.half_close { "allowed" } else { "means leaving" }.to_owned()),
            ("drain grace", format!("{:?}", x.drain_grace)),
            ("access log", format!("{:?}", self.access_log)),
            ("kept for resume", format!("{} bytes at most", self.resume_memory)),
        ]
    }

    fn route(&self, route: &Route) -> Rows {
        let group = self.upstreams.get(route.upstream);
        let mut rows = vec![
            ("matches", route.matching.describe()),
            ("upstream", format!("{:?}", group.map_or("", |group| &*group.name))),
        ];
        if let Some(to) = &route.to {
            rows.push(("asks for", to.as_str().to_owned()));
        }
        let dialect = route.dialect.map_or("recognised", |dialect| dialect.as_str());
        rows.push(("dialect", dialect.to_owned()));
        rows.push(("response", response(&route.shaping)));
        let credentials = if route.forwards_credentials { "forwarded" } else { "kept here" };
        rows.push(("client's credentials", credentials.to_owned()));
        if let Some(max) = route.in_flight_max {
            rows.push(("in flight", format!("{max} at most")));
        }
        rows.extend(body_rows(&route.body));
        rows.extend(field_rows("request fields", route.request_fields.as_ref()));
        rows.extend(field_rows("response fields", route.response_fields.as_ref()));
        if let Some(cors) = &route.cors {
            let origins = match &cors.origins {
                Origins::Any => "*".to_owned(),
                Origins::These(these) => these.join(", "),
            };
            let with = if cors.credentials { ", with credentials" } else { "" };
            rows.push(("cors", format!("{origins}{with}")));
        }
        let x = &route.exchange;
        rows.push(("request body up to", format!("{} bytes", x.body_bytes_max)));
        rows.push(("first-byte timeout", format!("{:?}", x.first_byte_timeout)));
        rows.push(("idle timeout", off(x.idle_timeout)));
        rows.push(("stream timeout", off(x.stream_timeout)));
        rows.push(("heartbeat", off(x.heartbeat)));
        rows.push(("retries", retries(x)));
        rows.push(("resume", resume(x)));
        rows
    }
}

/// The word in the file, and how errors are told that come early.
fn response(shaping: &Shaping) -> String {
    match shaping {
        Shaping::Passthrough => "passthrough".to_owned(),
        Shaping::Tokens(rule) => {
            let word = if rule.forward { "forward" } else { "tokens" };
            let errors = if rule.early { "events" } else { "a status" };
            format!("{word}, early errors as {errors}")
        }
        Shaping::OpenAi(_) => "openai".to_owned(),
    }
}

fn table(rows: &Rows) -> String {
    rows.iter().map(|(name, value)| format!("{name:<20} {value}\n")).collect()
}

fn endpoint_rows(endpoints: &[Endpoint]) -> Rows {
    let rows = endpoints.iter().flat_map(|endpoint| {
        let at = match endpoint.addresses.as_slice() {
            [] => "where its name says".to_owned(),
            given => format!("{given:?}"),
        };
        let tls = describe_tls(endpoint.tls.as_ref());
        [("upstream", endpoint.url()), ("upstream tls", tls), ("upstream is at", at)]
    });
    rows.collect()
}

fn group_rows(group: &UpstreamPlan) -> Rows {
    let mut rows = endpoint_rows(&group.endpoints);
    if let Some(key) = &group.key {
        let header = key.header().unwrap_or("in the dialect's field");
        rows.push(("key", format!("[hidden] {header}")));
    }
    rows.push(("connect timeout", format!("{:?}", group.connect_timeout)));
    let pool = group.pool;
    rows.push(("pool", format!("{} idle per worker for {:?}", pool.idle_max, pool.idle_timeout)));
    rows
}

/// What a route may change, for those that do not.
fn exchange_rows(x: &ExchangePlan) -> Rows {
    vec![
        ("request body up to", format!("{} bytes", x.body_bytes_max)),
        ("connect timeout", format!("{:?}", x.connect_timeout)),
        ("first-byte timeout", format!("{:?}", x.first_byte_timeout)),
        ("idle timeout", off(x.idle_timeout)),
        ("stream timeout", off(x.stream_timeout)),
        ("heartbeat", off(x.heartbeat)),
        ("retries", retries(x)),
        ("resume", resume(x)),
        ("pool", format!("{} idle per worker for {:?}", x.pool.idle_max, x.pool.idle_timeout)),
    ]
}

fn resume(x: &ExchangePlan) -> String {
    let Some(resume) = &x.resume else { return "off".to_owned() };
    let (terms, credentials) = (&resume.terms, resume.credentials.join(", "));
    format!(
        "{} bytes a stream, {:?} behind its end, {:?} without a reader, same {credentials}",
        terms.limits.bytes_max, terms.keep, terms.grace
    )
}

fn retries(x: &ExchangePlan) -> String {
    let r = &x.retry;
    let (retries, backoff) = (r.retries, r.backoff);
    format!("{retries}, backoff {backoff:?}, statuses {:?}, posts {}", r.statuses, r.posts)
}

fn body_rows(body: &BodyRules) -> Rows {
    let mut rows = Rows::new();
    if !body.query.is_empty() {
        rows.push(("from the query", body.query.join(", ")));
    }
    for field in &body.fields {
        let required = if field.required { ", required" } else { "" };
        let kind = field.kind.map_or("any", |kind| kind.as_str());
        let max = match field.bytes_max {
            usize::MAX => String::new(),
            max => format!(", up to {max} bytes"),
        };
        let min = match field.bytes_min {
            0 => String::new(),
            min => format!(", at least {min} bytes"),
        };
        rows.push(("field", format!("{}: {kind}{required}{max}{min}", field.path)));
    }
    if let Some(Template::Object(members)) = &body.template {
        let names: Vec<&str> = members.iter().map(|(name, _)| &**name).collect();
        rows.push(("new body of", names.join(", ")));
    }
    for edit in &body.edits {
        rows.push(match edit {
            Edit::Rename(path, name) => ("renames", format!("{path} to {name}")),
            Edit::Remove(path) => ("removes", path.to_string()),
            Edit::Default(path, _) => ("gives a default to", path.to_string()),
            Edit::Set(path, _) => ("sets", path.to_string()),
        });
    }
    if body.lift_system {
        rows.push(("lifts", "system messages".to_owned()));
    }
    match body.stream {
        Some(StreamRule::Force) => rows.push(("stream", "forced".to_owned())),
        Some(StreamRule::Forbid) => rows.push(("stream", "refused".to_owned())),
        None => {}
    }
    match body.collect {
        Collect::Off => {}
        Collect::Chat => rows.push(("collects", "chat answers that are no streams".to_owned())),
        Collect::All => rows.push(("collects", "answers that are no streams".to_owned())),
    }
    if body.include_usage {
        rows.push(("usage", "asked for".to_owned()));
    }
    rows
}

fn field_rows(name: &'static str, edits: Option<&FieldEdits>) -> Rows {
    let Some(edits) = edits else { return Rows::new() };
    let mut rows = Rows::new();
    if let Some(pass) = &edits.pass {
        rows.push((name, format!("only {} pass", pass.join(", "))));
    }
    rows.extend(edits.remove.iter().map(|field| (name, format!("without {field}"))));
    rows.extend(edits.set.iter().map(|(field, value)| (name, format!("{field}: {value}"))));
    rows
}

/// What `check` prints about the upstream's TLS.
fn describe_tls(tls: Option<&UpstreamTlsPlan>) -> String {
    let Some(tls) = tls else { return "none".to_owned() };
    let trust = match &tls.ca {
        _ if tls.insecure => "NOT VERIFIED (--upstream-insecure)".to_owned(),
        Some(ca) => format!("verified by {}", ca.display()),
        None => "verified by the platform's authorities".to_owned(),
    };
    let name = tls.name.as_ref().map_or_else(String::new, |name| format!(", as {name}"));
    let shown = if tls.certificate.is_some() { ", with a client certificate" } else { "" };
    format!("{trust}{name}{shown}")
}
