//! `[[route]]`: which requests, and what becomes of them.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::super::layer::{Layer, Takes};
use super::super::units;
use super::source::{Source, Value};
use crate::dialect::Dialect;
use crate::http1::edits::{FieldEdits, Secret};
use crate::json::Path;
use crate::route::cors::{Cors, Origins};
use crate::route::matching::{Host, Matching, Pattern, Rewrite};
use crate::route::request::{
    BodyRules, Collect, Edit, FieldKind, FieldRule, StreamRule, asks_usage,
};
use crate::route::template::Template;
use crate::shape::Shaping;
use crate::shape::chunks::OpenAiRule;
use crate::shape::template::Told;
use crate::shape::tokens::TokensRule;

/// Keys that stand for flags here, by the flag.
const FLAGS: &[(&str, &str, Takes)] = &[
    ("first_byte_timeout", "first-byte-timeout", Takes::One),
    ("idle_timeout", "idle-timeout", Takes::One),
    ("stream_timeout", "stream-timeout", Takes::One),
    ("heartbeat", "heartbeat", Takes::One),
    ("max_body_bytes", "max-body-bytes", Takes::One),
    ("retries", "retries", Takes::One),
    ("retry_backoff", "retry-backoff", Takes::One),
    ("retry_status", "retry-status", Takes::Many),
    ("retry_posts", "retry-posts", Takes::Switch),
    ("resume", "resume", Takes::Switch),
    ("resume_bytes", "resume-bytes", Takes::One),
    ("resume_keep", "resume-keep", Takes::One),
    ("resume_retry", "resume-retry", Takes::One),
    ("resume_credentials", "resume-credentials", Takes::Many),
    ("resume_upstream_id", "resume-upstream-id", Takes::One),
    ("detach_grace", "detach-grace", Takes::One),
];

/// The other keys.
const KEYS: &[&str] = &[
    "name",
    "host",
    "method",
    "path",
    "prefix",
    "upstream",
    "to",
    "dialect",
    "response",
    "events",
    "errors",
    "forward_credentials",
    "max_in_flight",
    "query",
    "fields",
    "body",
    "rename",
    "remove",
    "default",
    "set",
    "lift_system",
    "stream",
    "include_usage",
    "collect",
    "request_headers",
    "response_headers",
    "cors",
];

/// A route as it is written.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) name: Option<Box<str>>,
    pub(super) at: Range<usize>,
    pub(super) matching: Matching,
    /// The group's name, and where it is said.
    pub(super) upstream: Option<(Box<str>, Range<usize>)>,
    pub(super) to: Option<Rewrite>,
    pub(super) dialect: Option<Dialect>,
    response: Response,
    pub(super) shaping: Shaping,
    pub(super) body: BodyRules,
    pub(super) request_fields: Option<FieldEdits>,
    pub(super) response_fields: Option<FieldEdits>,
    /// Where it is said that they are.
    pub(super) forwards_credentials: Option<Range<usize>>,
    pub(super) cors: Option<Cors>,
    pub(super) in_flight_max: Option<usize>,
    pub(super) settings: Layer,
}

/// How answers are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Response {
    #[default]
    Passthrough,
    Tokens,
    /// As they came; what the relay says itself in the events of tokens.
    Forward,
    OpenAi,
}

/// What `tokens` and `forward` tell, as it is written.
#[derive(Clone, Copy, Default)]
struct Events<'v, 't> {
    events: Option<&'v Value<'t>>,
    errors: Option<&'v Value<'t>>,
}

/// Changes of members, which are made in an order of their own.
#[derive(Default)]
struct Edits {
    rename: Vec<Edit>,
    remove: Vec<Edit>,
    default: Vec<Edit>,
    set: Vec<Edit>,
}

/// Reads one route.
pub(super) fn read<'t>(source: &Source<'t>, table: &DeTable<'t>, at: Range<usize>) -> Written {
    let mut route = Written { at, ..Written::default() };
    let (mut to, mut told, mut edits) = (None, Events::default(), Edits::default());
    let mut collect = None;
    for (name, value) in table {
        let (name, name_at) = (&**name.get_ref(), name.span());
        match name {
            "path" | "prefix" | "host" | "method" => matching(source, &mut route, name, value),
            "to" => to = Some(value),
            "events" => told.events = Some(value),
            "errors" => told.errors = Some(value),
            "collect" => collect = source.switch(name, value).filter(|on| *on).map(|_| name_at),
            "query" | "fields" | "body" | "lift_system" | "stream" | "include_usage" => {
                body(source, &mut route.body, name, value);
            }
            "rename" | "remove" | "default" | "set" => edit(source, &mut edits, name, value),
            _ if KEYS.contains(&name) => other(source, &mut route, name, value),
            _ => match FLAGS.iter().find(|(known, ..)| *known == name) {
                Some((_, flag, takes)) => {
                    source.flag(&mut route.settings, (flag, *takes), (name, &name_at), value);
                }
                None => {
                    let known: Vec<&str> = KEYS
                        .iter()
                        .copied()
                        .chain(FLAGS.iter().map(|(known, ..)| *known))
                        .collect();
                    source.unknown(name, &name_at, "[[route]]", &known);
                }
            },
        }
    }
    let Edits { rename, remove, default, set } = edits;
    route.body.edits = [rename, remove, default, set].concat();
    if let Some(to) = to {
        match &route.matching.path {
            Some(pattern) => {
                route.to = source.read("to", to, |text| Rewrite::read(text, pattern));
            }
            None => source.refuse(&to.span(), "to: the route has no path; write path or prefix"),
        }
    }
    route.shaping = shaping(source, &route, told);
    if let Some(at) = collect {
        route.body.collect = collecting(source, &route, &at);
    }
    if route.body.include_usage
        && route.response != Response::OpenAi
        && let Some(dialect) = route.dialect.filter(|dialect| !asks_usage(*dialect))
    {
        source.refuse(
            &route.at,
            format!("include_usage: {dialect} has no such option; leave it out"),
        );
    }
    route
}

/// Which answers are collected, where the route's clients know the result.
fn collecting(source: &Source<'_>, route: &Written, at: &Range<usize>) -> Collect {
    match (route.response, route.dialect) {
        (Response::OpenAi, _) => return Collect::All,
        (Response::Passthrough, None | Some(Dialect::OpenAiChat)) => return Collect::Chat,
        (Response::Passthrough, Some(dialect)) => source.refuse(
            at,
            format!(
                "collect: answers in OpenAI's words, not {dialect}'s; write response = \"openai\""
            ),
        ),
        _ => source.refuse(at, "collect: answers in OpenAI's words; write response = \"openai\""),
    }
    Collect::Off
}

/// How the route's answers are told; `told` words what tokens and forward tell.
fn shaping<'t>(source: &Source<'t>, route: &Written, told: Events<'_, 't>) -> Shaping {
    let mut rule = match route.response {
        Response::Tokens => TokensRule::chat(),
        Response::Forward => TokensRule::forward(),
        other => {
            for (key, value) in [("events", told.events), ("errors", told.errors)] {
                let Some(value) = value else { continue };
                let message = format!("{key}: is for response = \"tokens\" and \"forward\" alone");
                source.refuse(&value.span(), message);
            }
            let include_usage = route.body.include_usage;
            let rule = OpenAiRule { include_usage, ..OpenAiRule::default() };
            return match other {
                Response::OpenAi => Shaping::OpenAi(Arc::new(rule)),
                _ => Shaping::Passthrough,
            };
        }
    };
    if let Some(errors) = told.errors {
        let words = [("status", false), ("event", true)];
        rule.early = source.word("errors", errors, &words).unwrap_or_default();
    }
    let events = told.events;
    for (name, value) in
        events.and_then(|events| source.table("events", events)).into_iter().flatten()
    {
        let (name, at) = (&**name.get_ref(), name.span());
        let own = |told: &Told| !rule.forward || matches!(told, Told::Error | Told::Timeout);
        let Some(told) = Told::from_word(name).filter(own) else {
            let known: Vec<&str> =
                Told::ALL.into_iter().filter(own).map(|told| told.as_str()).collect();
            source.unknown(name, &at, "events", &known);
            continue;
        };
        if value.get_ref().as_bool() == Some(false) {
            rule.leave_out(told);
        } else if let Some((event, data)) = event(source, told, value)
            && let Err(why) = rule.tell(told, event.as_deref(), &data)
        {
            source.refuse(&value.span(), format!("{name}: {why}"));
        }
    }
    Shaping::Tokens(Arc::new(rule))
}

/// An event as it is written: its data, or its name and data.
fn event<'t>(
    source: &Source<'t>,
    told: Told,
    value: &Value<'t>,
) -> Option<(Option<String>, String)> {
    let key = told.as_str();
    let usual = (!matches!(told, Told::Token | Told::Refusal)).then(|| key.to_owned());
    if value.get_ref().is_str() {
        return Some((usual, source.text(key, value)?.value));
    }
    let (mut name, mut data) = (usual, None);
    for (part, value) in source.table(key, value)? {
        let (part, at) = (&**part.get_ref(), part.span());
        match part {
            "name" => name = source.text(part, value).map(|text| text.value),
            "data" => data = source.text(part, value).map(|text| text.value),
            _ => source.unknown(part, &at, "an event", &["name", "data"]),
        }
    }
    if data.is_none() {
        let message = format!("{key}: has no data; write {key} = \"{{{{text}}}}\", or false");
        source.refuse(&value.span(), message);
    }
    Some((name, data?))
}

fn matching<'t>(source: &Source<'t>, route: &mut Written, key: &str, value: &Value<'t>) {
    match key {
        "host" => route.matching.host = source.read(key, value, Host::read),
        "method" => {
            for (method, at) in source.texts(key, value) {
                let method = method.value;
                if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
                    let mend = "write it in capitals, e.g. \"POST\" or [\"GET\", \"POST\"]";
                    source.refuse(&at, format!("method: {method:?} is no method; {mend}"));
                } else {
                    route.matching.methods.push(method.into());
                }
            }
        }
        _ => {
            if route.matching.path.is_some() {
                source.refuse(&value.span(), "path and prefix are both given; leave one out");
            }
            let prefix = key == "prefix";
            route.matching.path = source.read(key, value, |text| Pattern::read(text, prefix));
        }
    }
}

fn other<'t>(source: &Source<'t>, route: &mut Written, key: &str, value: &Value<'t>) {
    match key {
        "name" => route.name = source.text(key, value).map(|text| text.value.into()),
        "upstream" => {
            let text = source.text(key, value);
            route.upstream = text.map(|text| (text.value.into(), value.span()));
        }
        "dialect" => {
            let mut words = vec![("auto", None)];
            words.extend(Dialect::ALL.iter().map(|dialect| (dialect.as_str(), Some(*dialect))));
            route.dialect = source.word(key, value, &words).flatten();
        }
        "response" => {
            let words = [
                ("passthrough", Response::Passthrough),
                ("tokens", Response::Tokens),
                ("forward", Response::Forward),
                ("openai", Response::OpenAi),
            ];
            route.response = source.word(key, value, &words).unwrap_or_default();
        }
        "forward_credentials" => {
            let forwards = source.switch(key, value) == Some(true);
            route.forwards_credentials = forwards.then(|| value.span());
        }
        "max_in_flight" => {
            route.in_flight_max = source.number(key, value);
            if route.in_flight_max == Some(0) {
                let message = "max_in_flight: 0 would refuse everything; write 1 or more";
                source.refuse(&value.span(), message);
            }
        }
        "request_headers" => route.request_fields = fields(source, key, value, true),
        "response_headers" => route.response_fields = fields(source, key, value, false),
        _ => route.cors = cors(source, value),
    }
}

fn path(source: &Source<'_>, key: &str, text: &str, at: &Range<usize>) -> Option<Path> {
    let path = Path::read(text);
    if path.is_none() {
        source.refuse(at, format!("{key}: {text:?} is no field; write e.g. model or options.seed"));
    }
    path
}

fn body<'t>(source: &Source<'t>, body: &mut BodyRules, key: &str, value: &Value<'t>) {
    match key {
        "query" => body.query = source.names(key, value),
        "stream" => {
            let words = [("force", StreamRule::Force), ("forbid", StreamRule::Forbid)];
            body.stream = source.word(key, value, &words);
        }
        "lift_system" => body.lift_system = source.switch(key, value) == Some(true),
        "include_usage" => body.include_usage = source.switch(key, value) == Some(true),
        "body" => {
            if source.table(key, value).is_some() {
                body.template = template(source, value, true);
            }
        }
        _ => {
            for (name, value) in source.table(key, value).into_iter().flatten() {
                let (name, at) = (&**name.get_ref(), name.span());
                if let (Some(path), Some(table)) =
                    (path(source, key, name, &at), source.table(name, value))
                {
                    body.fields.push(field(source, path, table));
                }
            }
        }
    }
}

fn field<'t>(source: &Source<'t>, path: Path, table: &DeTable<'t>) -> FieldRule {
    let mut rule =
        FieldRule { path, required: false, kind: None, bytes_min: 0, bytes_max: usize::MAX };
    for (name, value) in table {
        let (name, at) = (&**name.get_ref(), name.span());
        match name {
            "required" => rule.required = source.switch(name, value) == Some(true),
            "type" => rule.kind = source.word(name, value, FieldKind::ALL),
            "min_bytes" => rule.bytes_min = source.size(name, value).unwrap_or_default(),
            "max_bytes" => rule.bytes_max = source.size(name, value).unwrap_or(usize::MAX),
            _ => {
                let known = ["required", "type", "min_bytes", "max_bytes"];
                source.unknown(name, &at, "a field", &known);
            }
        }
        if rule.bytes_min > rule.bytes_max {
            source.refuse(&at, "min_bytes is more than max_bytes: nothing would fit");
        }
    }
    rule
}

/// A new body's value: a table with `from` is a field of the request, all else is itself.
fn template<'t>(source: &Source<'t>, value: &Value<'t>, top: bool) -> Option<Template> {
    match value.get_ref() {
        DeValue::Table(table) if !top && table.contains_key("from") => {
            let (mut from, mut default) = (None, None);
            for (name, value) in table {
                let (name, at) = (&**name.get_ref(), name.span());
                match name {
                    "from" => {
                        let text = source.text(name, value)?.value;
                        from = path(source, name, &text, &value.span());
                    }
                    "default" => default = source.json(name, value),
                    _ => source.unknown(name, &at, "a field that is taken", &["from", "default"]),
                }
            }
            Some(Template::Field { from: from?, default: default.map(Into::into) })
        }
        DeValue::Table(table) => {
            let member = |(name, value): (&toml::Spanned<_>, &Value<'t>)| {
                let name: &str = AsRef::<str>::as_ref(name.get_ref());
                Some((name.into(), template(source, value, false)?))
            };
            Some(Template::Object(table.iter().filter_map(member).collect()))
        }
        DeValue::Array(items) => {
            let items = items.iter().filter_map(|item| template(source, item, false));
            Some(Template::Array(items.collect()))
        }
        _ => source.json("body", value).map(|text| Template::Text(text.into())),
    }
}

fn edit<'t>(source: &Source<'t>, edits: &mut Edits, key: &str, value: &Value<'t>) {
    if key == "remove" {
        for (text, at) in source.texts(key, value) {
            edits.remove.extend(path(source, key, &text.value, &at).map(Edit::Remove));
        }
        return;
    }
    for (name, value) in source.table(key, value).into_iter().flatten() {
        let Some(path) = path(source, key, name.get_ref(), &name.span()) else { continue };
        if key == "rename" {
            let Some(to) = source.text(key, value) else { continue };
            if to.value.is_empty() || to.value == path.name() {
                source.refuse(&value.span(), "rename: the new name is empty, or the old one");
            }
            edits.rename.push(Edit::Rename(path, to.value.into()));
            continue;
        }
        let Some(text) = source.json(key, value) else { continue };
        match key {
            "default" => edits.default.push(Edit::Default(path, text.into())),
            _ => edits.set.push(Edit::Set(path, text.into())),
        }
    }
}

/// A field's name, as heads have it.
pub(super) fn field_name(text: &str) -> Result<Box<str>, String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || !text.bytes().all(token) {
        return Err("is no field name; write e.g. \"X-Tenant\"".to_owned());
    }
    let own = [
        "host",
        "connection",
        "content-length",
        "transfer-encoding",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "via",
        "x-request-id",
        "proxy-connection",
    ];
    if own.iter().any(|own| text.eq_ignore_ascii_case(own)) {
        return Err("is written by the relay itself; leave it out".to_owned());
    }
    Ok(text.into())
}

fn fields<'t>(
    source: &Source<'t>,
    key: &str,
    value: &Value<'t>,
    request: bool,
) -> Option<FieldEdits> {
    let mut edits = FieldEdits::default();
    let names = |name: &str, value: &Value<'t>| -> Vec<Box<str>> {
        let checked = source.texts(name, value).into_iter().filter_map(|(text, at)| {
            let read = field_name(&text.value);
            read.map_err(|why| source.refuse(&at, format!("{name}: {:?} {why}", text.value))).ok()
        });
        checked.collect()
    };
    for (name, value) in source.table(key, value)? {
        let (name, at) = (&**name.get_ref(), name.span());
        match name {
            "set" => {
                for (field, value) in source.table(name, value).into_iter().flatten() {
                    let (field, at) = (&**field.get_ref(), field.span());
                    if let Err(why) = field_name(field) {
                        source.refuse(&at, format!("set: {field:?} {why}"));
                    }
                    let Some(text) = source.secret(field, value) else { continue };
                    if text.value.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
                        let message = format!("{field}: has a character that no field has");
                        source.refuse(&value.span(), message);
                    }
                    let secret = if text.written.is_some() { Secret::hidden } else { Secret::open };
                    edits.set.push((field.into(), secret(text.value)));
                }
            }
            "remove" => edits.remove = names(name, value),
            "pass" if request => edits.pass = Some(names(name, value)),
            _ => {
                let known: &[&str] =
                    if request { &["set", "remove", "pass"] } else { &["set", "remove"] };
                source.unknown(name, &at, key, known);
            }
        }
    }
    Some(edits)
}

fn cors<'t>(source: &Source<'t>, value: &Value<'t>) -> Option<Cors> {
    let mut origins: Option<Vec<Box<str>>> = None;
    let mut cors = Cors {
        origins: Origins::Any,
        credentials: false,
        headers: Vec::new(),
        expose: Vec::new(),
        max_age: Duration::from_secs(600),
    };
    for (name, value) in source.table("cors", value)? {
        let (name, at) = (&**name.get_ref(), name.span());
        match name {
            "origins" => {
                let texts = source.texts(name, value);
                for (text, at) in &texts {
                    if text.value != "*"
                        && let Err(why) = Cors::check_origin(&text.value)
                    {
                        source.refuse(at, format!("origins: {why}"));
                    }
                }
                origins = Some(texts.into_iter().map(|(text, _)| text.value.into()).collect());
            }
            "credentials" => cors.credentials = source.switch(name, value) == Some(true),
            "headers" => cors.headers = source.names(name, value),
            "expose" => cors.expose = source.names(name, value),
            "max_age" => {
                let age = source.read(name, value, |text| {
                    units::duration(text).map_err(|why| format!("is {why}"))
                });
                cors.max_age = age.unwrap_or(cors.max_age);
            }
            _ => {
                let known = ["origins", "credentials", "headers", "expose", "max_age"];
                source.unknown(name, &at, "cors", &known);
            }
        }
    }
    let Some(origins) = origins.filter(|origins| !origins.is_empty()) else {
        let message = "cors: no origins are given; write origins = [\"https://app.example.com\"], \
                       or \"*\" for all";
        source.refuse(&value.span(), message);
        return None;
    };
    let any = origins.iter().any(|origin| &**origin == "*");
    if any && origins.len() > 1 {
        source.refuse(&value.span(), "origins: \"*\" stands alone; leave the others out");
    }
    if any && cors.credentials {
        let message = "credentials: browsers take none from \"*\"; name the origins";
        source.refuse(&value.span(), message);
    }
    if !any {
        cors.origins = Origins::These(origins);
    }
    Some(cors)
}
