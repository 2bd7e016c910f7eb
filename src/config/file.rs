//! The configuration file: TOML, read with places, so that every fault is told with its line and
//! its mend.
//!
//! The top has the flags of `serve` as keys, and `upstream` as one URL; `[[upstream]]` has groups
//! of endpoints, `[[route]]` says which requests go where. What a route does not say its group
//! says, then the top of the file, then the default; what the command line says wins over all.

mod route;
mod source;
mod upstream;

use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::cli::ServeArgs;
use super::layer::{Layer, Places, Takes, flags};
use super::plan::{
    ListenerPlan, Plan, Room, endpoint_of, exchange_plan, listeners_of, pool_idle_max, streams_max,
};
use crate::route::Route;
use source::{Source, Value};
use upstream::Group;

/// The plan of the file at `path` with the flags of `args` above it.
///
/// # Errors
/// One line a fault: file, line, key, why, and the mend.
pub(super) fn load(path: &Path, args: &ServeArgs, room: Room) -> Result<Plan, String> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("--config: {shown} cannot be read: {error}"))?;
    let environment = |name: &str| std::env::var(name).ok();
    read(&shown, &text, &environment, &args.given, room)
}

/// The file's parts, before they are one plan.
#[derive(Default)]
struct Parts {
    top: Layer,
    listeners: Vec<Layer>,
    groups: Vec<Group>,
    routes: Vec<route::Written>,
}

/// The plan of a file that is called `file` and holds `text`.
pub(super) fn read(
    file: &str,
    text: &str,
    environment: source::Environment<'_>,
    given: &Layer,
    room: Room,
) -> Result<Plan, String> {
    let source = Source::new(file, text, environment);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let at = error.span().unwrap_or(0..0);
        source.refuse(&at, format!("{}; this is not TOML", error.message()));
    }
    if let Some(faults) = source.faults() {
        return Err(faults);
    }
    let mut parts = parts(&source, table.get_ref());
    check_groups(&source, &mut parts, given);
    // What stands alone is known to be right before it is put together.
    if let Some(faults) = source.faults() {
        return Err(faults);
    }
    let plan = plan(&source, &parts, given, room);
    match (source.faults(), plan) {
        (None, Some(plan)) => Ok(plan),
        (faults, _) => Err(faults.unwrap_or_else(|| format!("{file}: is refused"))),
    }
}

fn parts<'t>(source: &Source<'t>, table: &DeTable<'t>) -> Parts {
    let mut parts = Parts::default();
    let flags = flags();
    for (name, value) in table {
        let (name, at) = (&**name.get_ref(), name.span());
        let flag = name.replace('_', "-");
        match name {
            "upstream" if !value.get_ref().is_str() => {
                for (table, at) in tables(source, name, value) {
                    parts.groups.push(upstream::read(source, table, at));
                }
            }
            "listener" => {
                for (table, at) in tables(source, name, value) {
                    parts.listeners.push(listener(source, table, at));
                }
            }
            "route" => {
                for (table, at) in tables(source, name, value) {
                    parts.routes.push(route::read(source, table, at));
                }
            }
            _ => match flags.get(&flag).filter(|_| !name.contains('-')) {
                Some(takes) => source.flag(&mut parts.top, (&flag, *takes), (name, &at), value),
                None => {
                    let keys: Vec<String> =
                        flags.keys().map(|flag| flag.replace('-', "_")).collect();
                    let mut known: Vec<&str> = keys.iter().map(String::as_str).collect();
                    known.extend(["listener", "route"]);
                    source.unknown(name, &at, "the file", &known);
                }
            },
        }
    }
    parts
}

/// Reads one `[[listener]]`.
fn listener<'t>(source: &Source<'t>, table: &DeTable<'t>, at: Range<usize>) -> Layer {
    const FLAGS: &[(&str, &str, Takes)] = &[
        ("address", "listen", Takes::One),
        ("tls_cert", "tls-cert", Takes::Many),
        ("tls_key", "tls-key", Takes::Many),
    ];
    let mut layer = Layer::default();
    for (name, value) in table {
        let (name, name_at) = (&**name.get_ref(), name.span());
        match FLAGS.iter().find(|(known, ..)| *known == name) {
            Some((_, flag, takes)) => {
                source.flag(&mut layer, (flag, *takes), (name, &name_at), value);
            }
            None => {
                let known: Vec<&str> = FLAGS.iter().map(|(known, ..)| *known).collect();
                source.unknown(name, &name_at, "[[listener]]", &known);
            }
        }
    }
    if !table.contains_key("address") {
        source.refuse(&at, "the listener has no address; write address = \"0.0.0.0:8080\"");
    }
    layer
}

/// Where clients come: what flags say, else what the file says, in its tables and at its top.
fn listeners(parts: &Parts, given: &Layer, args: &ServeArgs) -> Result<Vec<ListenerPlan>, String> {
    let top = || listeners_of(args).map_err(|error| parts.top.places().relocate(error));
    if given.has("listen") || parts.listeners.is_empty() {
        return top();
    }
    let mut all = if parts.top.has("listen") { top()? } else { Vec::new() };
    for layer in &parts.listeners {
        let made = listeners_of(&layer.args()?);
        all.extend(made.map_err(|error| layer.places().relocate(error))?);
    }
    Ok(all)
}

/// The tables of an array of tables, each with the place it begins at.
fn tables<'v, 't>(
    source: &Source<'t>,
    key: &str,
    value: &'v Value<'t>,
) -> Vec<(&'v DeTable<'t>, Range<usize>)> {
    let DeValue::Array(items) = value.get_ref() else {
        source.refuse(&value.span(), format!("{key}: write [[{key}]] with two brackets"));
        return Vec::new();
    };
    let table = |item: &'v Value<'t>| Some((source.table(key, item)?, item.span()));
    items.iter().filter_map(table).collect()
}

/// Gives the one upstream of the top a group, and sees to the names of the others.
fn check_groups(source: &Source<'_>, parts: &mut Parts, given: &Layer) {
    if parts.groups.is_empty() {
        if parts.top.has("upstream") || given.has("upstream") {
            let endpoints = vec![Layer::default()];
            parts.groups.push(Group { endpoints, ..Group::default() });
        } else if source.faults().is_none() {
            // What is misspelt above may have been meant to be one.
            source.refuse_as_told(format!(
                "{}: no upstream is given; write upstream = \"https://api.openai.com\", or \
                 [[upstream]] for groups",
                source.file
            ));
        }
        return;
    }
    if given.has("upstream") && parts.groups.len() > 1 {
        source.refuse_as_told(format!(
            "--upstream: {} has {} groups, and this would take the place of each; leave it out",
            source.file,
            parts.groups.len()
        ));
    }
    for (index, group) in parts.groups.iter().enumerate() {
        if group.name.is_empty() && parts.groups.len() > 1 {
            source.refuse(&group.at, "the upstream has no name; write name = \"openai\"");
        }
        let twice = parts.groups[..index].iter().any(|other| other.name == group.name);
        if twice && !group.name.is_empty() {
            source.refuse(&group.at, format!("name: {:?} is taken already", group.name));
        }
    }
}

/// Puts the parts together.
fn plan(source: &Source<'_>, parts: &Parts, given: &Layer, room: Room) -> Option<Plan> {
    let told = |error: String| source.refuse_as_told(error);
    let top = parts.top.under(given);
    let one = given.has("upstream");
    let endpoints = |group: &Group| if one { 1 } else { group.endpoints.len() };
    let count = parts.groups.iter().map(endpoints).sum::<usize>();
    let args = top.args().map_err(told).ok()?;
    let places = top.places();
    let listeners = listeners(parts, given, &args).map_err(told).ok()?;
    let plan = Plan::without_routes(&args, room, &listeners, count);
    let mut plan = plan.map_err(|error| told(places.relocate(error))).ok()?;
    plan.places = places;
    plan.file = Some((*source.file).into());
    let idle_max = |args: &ServeArgs| pool_idle_max(args, room.descriptors, plan.workers, count);
    let mut groups = Vec::new();
    for group in &parts.groups {
        let mut made = Vec::new();
        let mut settings = (None, Places::default());
        for endpoint in group.endpoints.iter().take(endpoints(group)) {
            let layer = parts.top.under(endpoint).under(given);
            let places = layer.places();
            let args = match layer.args() {
                Ok(args) => args,
                Err(error) => {
                    told(error);
                    continue;
                }
            };
            let exchange = exchange_plan(&args, idle_max(&args));
            let endpoint = endpoint_of(&args).and_then(|made| Ok((made, exchange?)));
            match endpoint {
                Ok((endpoint, exchange)) => {
                    made.push(endpoint);
                    settings = (Some(exchange), places);
                }
                Err(error) => told(places.relocate(error)),
            }
        }
        if let (Some(exchange), places) = settings {
            groups.push((group, made, exchange, places));
        }
    }
    for (group, endpoints, exchange, places) in groups {
        plan.add_group(&group.name, endpoints, group.key.clone(), &exchange);
        if let Some(added) = plan.upstreams.last_mut() {
            added.places = places;
        }
    }
    if plan.upstreams.len() < parts.groups.len() {
        return None;
    }
    let pooled = plan.upstreams.iter().map(|group| group.pool.idle_max * group.endpoints.len());
    let per_worker = (pooled.sum(), plan.listeners.len());
    match streams_max(&args, room.descriptors, plan.workers, per_worker) {
        Ok(streams) => plan.streams_max = streams,
        Err(error) => {
            // What a group asks for is too much where the top does not.
            let places = plan.upstreams.iter().map(|group| &group.places).chain([&plan.places]);
            let located = places.map(|places| places.relocate(error.clone()));
            told(located.into_iter().find(|told| *told != error).unwrap_or(error));
        }
    }
    routes(source, parts, given, &mut plan);
    Some(plan)
}

fn routes(source: &Source<'_>, parts: &Parts, given: &Layer, plan: &mut Plan) {
    if parts.routes.is_empty() {
        if parts.groups.len() > 1 {
            let file = &source.file;
            source.refuse_as_told(format!(
                "{file}: no route says which of the upstreams is meant; write [[route]]"
            ));
        }
        let mut everything = Route::everything(plan.exchange.clone());
        everything.forwards_credentials = parts.groups[0].key.is_none();
        everything.exchange = settings(source, parts, &parts.groups[0], &Layer::default(), given)
            .unwrap_or_else(|| plan.exchange.clone());
        plan.routes.push(everything);
        return;
    }
    for (index, written) in parts.routes.iter().enumerate() {
        let upstream = match &written.upstream {
            None if parts.groups.len() == 1 => Some(0),
            None => {
                source.refuse(&written.at, "the route has no upstream; write upstream = \"NAME\"");
                None
            }
            Some((name, at)) => {
                let found = parts.groups.iter().position(|group| group.name == *name);
                if found.is_none() {
                    let names: Vec<&str> = parts.groups.iter().map(|group| &*group.name).collect();
                    let known = names.join(", ");
                    let message =
                        format!("upstream: {name:?} is no [[upstream]]; known are {known}");
                    source.refuse(at, message);
                }
                found
            }
        };
        let Some(upstream) = upstream else { continue };
        let group = &parts.groups[upstream];
        if let (Some(at), Some(_)) = (&written.forwards_credentials, &group.key) {
            let message = "forward_credentials: the upstream has a key of its own; leave one out";
            source.refuse(at, message);
        }
        let hiding =
            parts.routes[..index].iter().find(|other| other.matching.hides(&written.matching));
        if let Some(other) = hiding {
            let line = source.line(other.at.start);
            let message = format!("no request comes here: the route of line {line} takes them all");
            source.refuse(&written.at, message);
        }
        let Some(exchange) = settings(source, parts, group, &written.settings, given) else {
            continue;
        };
        let name = written.name.clone().unwrap_or_else(|| written.matching.describe().into());
        plan.routes.push(Route {
            name,
            matching: written.matching.clone(),
            upstream,
            to: written.to.clone(),
            dialect: written.dialect,
            shaping: written.shaping.clone(),
            body: written.body.clone(),
            request_fields: written.request_fields.clone(),
            response_fields: written.response_fields.clone(),
            forwards_credentials: written.forwards_credentials.is_some(),
            cors: written.cors.clone().map(|cors| match exchange.resume {
                Some(_) => cors.for_coming_back(),
                None => cors,
            }),
            in_flight_max: written.in_flight_max,
            exchange,
        });
    }
}

/// How a route's exchanges are done.
fn settings(
    source: &Source<'_>,
    parts: &Parts,
    group: &Group,
    route: &Layer,
    given: &Layer,
) -> Option<super::plan::ExchangePlan> {
    let layer = parts.top.under(&group.settings).under(route).under(given);
    let plan = layer.args().and_then(|args| {
        let idle_max = args.pool_max_idle.unwrap_or_default();
        exchange_plan(&args, idle_max).map_err(|error| layer.places().relocate(error))
    });
    plan.map_err(|error| source.refuse_as_told(error)).ok()
}

#[cfg(test)]
mod tests;
