//! Which route a request is for.
//!
//! A route with a host goes before one without; then the one whose path has the most bytes that
//! are not parameters; then an exact path before a prefix; then fewer parameters; then named
//! methods before any; then the one that stands first in the file. Paths are compared as they
//! were sent, without decoding, and one that climbs (`..`) matches no route but the implicit one.

use std::cmp::Reverse;

use crate::http1::head::RequestHead;

/// Hosts a route is for, in lower case, without port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// This one.
    Exact(Box<str>),
    /// Every name below this one; it begins with a dot.
    Below(Box<str>),
}

impl Host {
    /// Reads `api.example.com` or `*.example.com`.
    ///
    /// # Errors
    /// What is wrong.
    pub fn read(text: &str) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let bare = text.strip_prefix('*').unwrap_or(text);
        let ipv6 = text.starts_with('[') && text.ends_with(']');
        if ipv6 {
            return Ok(Self::Exact(text.to_ascii_lowercase().into()));
        }
        if bare.is_empty() || !bare.chars().all(fits) {
            return Err("is no host name; write e.g. \"api.example.com\" or \"*.example.com\", \
                        without a port"
                .into());
        }
        let lower = bare.to_ascii_lowercase().into_boxed_str();
        match text.strip_prefix('*') {
            Some(below) if below.starts_with('.') => Ok(Self::Below(lower)),
            Some(_) => Err("a * stands only before a dot; write e.g. \"*.example.com\"".into()),
            None => Ok(Self::Exact(lower)),
        }
    }

    fn fits(&self, host: &str) -> bool {
        match self {
            Self::Exact(own) => host.eq_ignore_ascii_case(own),
            Self::Below(end) => {
                let at = host.len().wrapping_sub(end.len());
                at > 0 && host.get(at..).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
            }
        }
    }
}

/// The host of an authority, without its port and a dot at its end.
fn host_of(authority: &str) -> &str {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    };
    host.strip_suffix('.').unwrap_or(host)
}

/// One segment of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    /// `before{name}after`: at least one byte for the parameter.
    Parameter {
        before: Box<str>,
        name: Box<str>,
        after: Box<str>,
    },
}

/// A written path: segments, some of them parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    segments: Vec<Segment>,
    prefix: bool,
    text: Box<str>,
}

/// What a request's path gave for a pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured<'p> {
    parameters: Vec<(Box<str>, &'p str)>,
    /// What stands behind a prefix.
    rest: &'p str,
}

fn segment(text: &str) -> Result<Segment, String> {
    let Some((before, rest)) = text.split_once('{') else {
        if text.contains('}') {
            return Err("has a } without its {".into());
        }
        return Ok(Segment::Literal(text.into()));
    };
    let Some((name, after)) = rest.split_once('}') else {
        return Err("has a { without its }".into());
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(fits) {
        return Err(format!("has a parameter named {name:?}; write letters, digits and _"));
    }
    if after.contains(['{', '}']) {
        return Err("has two parameters in one segment; put a / between them".into());
    }
    Ok(Segment::Parameter { before: before.into(), name: name.into(), after: after.into() })
}

fn check_path(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err("does not begin with a /; write e.g. \"/v1/chat\"".into());
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err("has bytes that no path has; write them as %XX".into());
    }
    Ok(())
}

impl Pattern {
    /// Reads an exact path, `/v1/models/{model}`, or a prefix.
    ///
    /// # Errors
    /// What is wrong.
    pub fn read(text: &str, prefix: bool) -> Result<Self, String> {
        check_path(text)?;
        if text.contains('?') {
            return Err("has a query; routes are matched by the path alone".into());
        }
        let segments: Vec<_> = text[1..].split('/').map(segment).collect::<Result<_, _>>()?;
        let pattern = Self { segments, prefix, text: text.into() };
        let mut names: Vec<&str> = pattern.parameters().collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("has the parameter {:?} twice", pair[0]));
        }
        Ok(pattern)
    }

    /// The names of its parameters.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Parameter { name, .. } => Some(&**name),
            Segment::Literal(_) => None,
        })
    }

    fn literal_bytes(&self) -> usize {
        let bytes = |segment: &Segment| match segment {
            Segment::Literal(text) => text.len(),
            Segment::Parameter { before, after, .. } => before.len() + after.len(),
        };
        self.segments.len() + self.segments.iter().map(bytes).sum::<usize>()
    }

    fn fits<'p>(&self, path: &'p str) -> Option<Captured<'p>> {
        let mut captured = Captured::default();
        let mut rest = Some(path.strip_prefix('/')?);
        for (index, segment) in self.segments.iter().enumerate() {
            let last = index + 1 == self.segments.len();
            let left = rest?;
            if self.prefix && last && *segment == Segment::Literal("".into()) {
                // The slash that ends a prefix has been taken; what follows may be anything.
                captured.rest = left;
                return Some(captured);
            }
            let (own, behind) = match left.split_once('/') {
                Some((own, behind)) => (own, Some(behind)),
                None => (left, None),
            };
            match segment {
                Segment::Literal(text) if own == &**text => {}
                Segment::Literal(_) => return None,
                Segment::Parameter { before, name, after } => {
                    let value = own.strip_prefix(&**before)?.strip_suffix(&**after)?;
                    if value.is_empty() {
                        return None;
                    }
                    captured.parameters.push((name.clone(), value));
                }
            }
            rest = behind;
        }
        match rest {
            None => Some(captured),
            Some(rest) if self.prefix => {
                captured.rest = rest;
                Some(captured)
            }
            Some(_) => None,
        }
    }

    /// The same requests fit both.
    fn is_same(&self, other: &Self) -> bool {
        let shape = |pattern: &Self| -> Vec<(Box<str>, Box<str>, bool)> {
            let parts = pattern.segments.iter().map(|segment| match segment {
                Segment::Literal(text) => (text.clone(), "".into(), false),
                Segment::Parameter { before, after, .. } => (before.clone(), after.clone(), true),
            });
            parts.collect()
        };
        self.prefix == other.prefix && shape(self) == shape(other)
    }
}

/// The path asked for upstream: text with the parameters of the path that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    text: Box<str>,
    prefix: bool,
}

impl Rewrite {
    /// Reads it, for the routes of `pattern`; a query may stand behind it.
    ///
    /// # Errors
    /// What is wrong.
    pub fn read(text: &str, pattern: &Pattern) -> Result<Self, String> {
        check_path(text)?;
        if pattern.prefix && text.contains('?') {
            return Err("has a query, but the rest of the path goes behind it; write it with \
                        path instead of prefix"
                .into());
        }
        for part in text.split('/') {
            let part = part.split('?').next().unwrap_or_default();
            if let Segment::Parameter { name, .. } = segment(part)?
                && !pattern.parameters().any(|known| *known == *name)
            {
                return Err(format!("names {{{name}}}, which is no parameter of the route's path"));
            }
        }
        Ok(Self { text: text.into(), prefix: pattern.prefix })
    }

    /// The path for what was captured.
    pub fn path(&self, captured: &Captured<'_>) -> String {
        let mut path = self.text.to_string();
        for (name, value) in &captured.parameters {
            path = path.replace(&format!("{{{name}}}"), value);
        }
        if self.prefix && !captured.rest.is_empty() {
            if !path.ends_with('/') {
                path.push('/');
            }
            path.push_str(captured.rest);
        }
        path
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// The requests of one route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matching {
    /// Any host where there is none.
    pub host: Option<Host>,
    /// Any method where there is none.
    pub methods: Vec<Box<str>>,
    /// Any path where there is none.
    pub path: Option<Pattern>,
}

impl Matching {
    /// Every request there is.
    pub fn everything() -> Self {
        Self::default()
    }

    fn takes(&self, method: &str) -> bool {
        let named = |own: &str| own == method || (method == "HEAD" && own == "GET");
        self.methods.is_empty() || self.methods.iter().any(|own| named(own))
    }

    /// Whether no request reaches `later`, which stands behind this one.
    pub fn hides(&self, later: &Self) -> bool {
        let same_path = match (&self.path, &later.path) {
            (Some(own), Some(other)) => own.is_same(other),
            (own, other) => own.is_none() && other.is_none(),
        };
        let methods = self.methods.is_empty()
            || (!later.methods.is_empty()
                && later.methods.iter().all(|m| self.methods.contains(m)));
        self.host == later.host && same_path && methods
    }

    fn rank(&self) -> impl Ord + use<> {
        let host = match &self.host {
            Some(Host::Exact(name)) => (2, name.len()),
            Some(Host::Below(end)) => (1, end.len()),
            None => (0, 0),
        };
        let path = self.path.as_ref();
        let literal = path.map_or(0, Pattern::literal_bytes);
        let exact = path.is_some_and(|path| !path.prefix);
        let parameters = path.map_or(0, |path| path.parameters().count());
        Reverse((host, literal, exact, Reverse(parameters), !self.methods.is_empty()))
    }

    /// As `check` shows it.
    pub fn describe(&self) -> String {
        let methods = if self.methods.is_empty() { "any".into() } else { self.methods.join(",") };
        let host = match &self.host {
            Some(Host::Exact(name)) => name.to_string(),
            Some(Host::Below(end)) => format!("*{end}"),
            None => String::new(),
        };
        let path = match &self.path {
            Some(Pattern { text, prefix: true, .. }) => format!("{text}…"),
            Some(Pattern { text, .. }) => text.to_string(),
            None => "…".to_owned(),
        };
        format!("{methods} {host}{path}")
    }
}

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'p> {
    /// The route of this number.
    Route(usize, Captured<'p>),
    /// No route has this host and path.
    NotFound,
    /// Some have, but for these methods.
    MethodNotAllowed(Vec<Box<str>>),
}

/// The routes in the order in which they are asked.
#[derive(Clone, Debug)]
pub struct Router {
    /// With their numbers.
    routes: Vec<(usize, Matching)>,
}

impl Router {
    /// A router of these routes; their numbers are their places.
    pub fn new(matchings: impl IntoIterator<Item = Matching>) -> Self {
        let mut routes: Vec<_> = matchings.into_iter().enumerate().collect();
        routes.sort_by_key(|(_, matching)| matching.rank());
        Self { routes }
    }

    /// The route of a request, asked as if it had `method`.
    pub fn find<'p>(&self, head: &'p RequestHead, method: &str) -> Found<'p> {
        self.find_parts(method, head.host(), head.path())
    }

    /// The routes that a request could take, if it had another method: the best first.
    pub fn reach(&self, head: &RequestHead) -> Vec<usize> {
        let path = head.path();
        let host = head.host().map_or("", host_of);
        let fits = |matching: &Matching| {
            matching.host.as_ref().is_none_or(|own| own.fits(host))
                && matching.path.as_ref().is_none_or(|own| own.fits(path).is_some())
        };
        let climbs = climbs(path) && !self.routes.iter().all(|(_, m)| *m == Matching::default());
        let fitting = self.routes.iter().filter(|(_, matching)| !climbs && fits(matching));
        fitting.map(|(number, _)| *number).collect()
    }

    fn find_parts<'p>(&self, method: &str, host: Option<&str>, path: &'p str) -> Found<'p> {
        if let [(number, only)] = self.routes.as_slice()
            && *only == Matching::default()
        {
            return Found::Route(*number, Captured::default());
        }
        if climbs(path) {
            return Found::NotFound;
        }
        let host = host.map_or("", host_of);
        let mut allowed: Option<Vec<Box<str>>> = None;
        for (number, matching) in &self.routes {
            if matching.host.as_ref().is_some_and(|own| !own.fits(host)) {
                continue;
            }
            let captured = match &matching.path {
                None => Captured::default(),
                Some(pattern) => match pattern.fits(path) {
                    Some(captured) => captured,
                    None => continue,
                },
            };
            if matching.takes(method) {
                return Found::Route(*number, captured);
            }
            let allowed = allowed.get_or_insert_default();
            for own in &matching.methods {
                if !allowed.contains(own) {
                    allowed.push(own.clone());
                }
            }
        }
        allowed.map_or(Found::NotFound, Found::MethodNotAllowed)
    }
}

/// Whether a path has a `.` or `..` segment, in any spelling: behind us it may lead elsewhere than
/// the route that was matched.
fn climbs(path: &str) -> bool {
    path.split('/').any(|segment| {
        let plain = segment.replace("%2e", ".").replace("%2E", ".");
        plain == "." || plain == ".."
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matching(host: &str, methods: &[&str], path: &str) -> Matching {
        let prefix = path.ends_with('*');
        let path = path.trim_end_matches('*');
        Matching {
            host: (!host.is_empty()).then(|| Host::read(host).expect("a host")),
            methods: methods.iter().map(|method| (*method).into()).collect(),
            path: (!path.is_empty()).then(|| Pattern::read(path, prefix).expect("a path")),
        }
    }

    fn found(router: &Router, asked: &str) -> String {
        let mut words = asked.split(' ');
        let (method, host, path) = (words.next(), words.next(), words.next());
        let path = path.expect("a path");
        match router.find_parts(method.expect("a method"), host, path) {
            Found::Route(number, captured) => {
                let parameters: Vec<_> = captured
                    .parameters
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                format!("{number} {} {}", parameters.join(","), captured.rest).trim_end().to_owned()
            }
            Found::NotFound => "404".into(),
            Found::MethodNotAllowed(allowed) => format!("405 {}", allowed.join(",")),
        }
    }

    #[test]
    fn the_longest_wins_whatever_the_order() {
        let routes = [
            matching("", &[], "/*"),
            matching("", &["POST"], "/v1/chat"),
            matching("", &[], "/v1/*"),
            matching("", &[], "/v1/{x}"),
            matching("", &[], "/v1/chat*"),
            matching("a.example", &["GET"], "/v1/chat"),
            matching("*.example", &[], "/v1/*"),
            matching("", &["GET"], "/m/{model}:stream"),
            matching("", &["DELETE"], "/m/{model}:stream"),
        ];
        let router = Router::new(routes.clone());
        for (asked, wanted) in [
            ("POST h /v1/chat", "1"),
            ("GET h /v1/chat", "4"),
            ("GET h /v1/chat/x", "4  x"),
            ("GET h /v1/chatter", "3 x=chatter"),
            ("GET h /v1/x/y", "2  x/y"),
            ("GET h /v1/", "2"),
            ("GET h /v1", "0  v1"),
            ("GET h /", "0"),
            ("GET A.Example:80 /v1/chat", "5"),
            ("HEAD a.example. /v1/chat", "5"),
            ("POST a.example /v1/chat", "6  chat"),
            ("GET b.a.example /v1/chat", "6  chat"),
            ("GET example /v1/chat", "4"),
            ("GET h /m/g-1:stream", "7 model=g-1"),
            ("DELETE h /m/g%2F1:stream", "8 model=g%2F1"),
            ("POST h /m/g-1:stream", "0  m/g-1:stream"),
            ("POST h /m/:stream", "0  m/:stream"),
            ("GET h /v1/../m", "404"),
            ("GET h /v1/%2E%2e/m", "404"),
            ("GET h /v1/./m", "404"),
        ] {
            assert_eq!(found(&router, asked), wanted, "{asked}");
        }
        // Whatever the order in the file: only the numbers differ.
        for shift in 1..routes.len() {
            let mut shifted = routes.clone();
            shifted.rotate_left(shift);
            let router = Router::new(shifted);
            let number = (1 + routes.len() - shift) % routes.len();
            assert_eq!(found(&router, "POST h /v1/chat"), number.to_string());
        }
    }

    #[test]
    fn what_no_route_takes_is_told_with_what_one_would() {
        let router = Router::new([
            matching("", &["POST"], "/chat"),
            matching("", &["GET", "POST"], "/chat*"),
            matching("x.example", &["PUT"], "/chat"),
        ]);
        assert_eq!(found(&router, "DELETE h /chat"), "405 POST,GET");
        assert_eq!(found(&router, "DELETE x.example /chat"), "405 PUT,POST,GET");
        assert_eq!(found(&router, "POST h /other"), "404");
        let everything = Router::new([Matching::everything()]);
        assert_eq!(found(&everything, "BREW h /a/../b"), "0");
    }

    #[test]
    fn routes_that_no_request_reaches_are_known() {
        let first = matching("", &["GET", "POST"], "/a/{x}");
        assert!(first.hides(&matching("", &["POST"], "/a/{y}")));
        assert!(!first.hides(&matching("", &[], "/a/{x}")));
        assert!(!first.hides(&matching("", &["POST"], "/a/{x}*")));
        assert!(!first.hides(&matching("h", &["POST"], "/a/{x}")));
        assert!(matching("", &[], "/a").hides(&matching("", &["POST"], "/a")));
    }

    #[test]
    fn paths_are_rewritten() {
        let rewritten = |pattern: &str, to: &str, path| {
            let prefix = pattern.ends_with('*');
            let pattern = Pattern::read(pattern.trim_end_matches('*'), prefix).expect("a path");
            let rewrite = Rewrite::read(to, &pattern).expect("a path");
            rewrite.path(&pattern.fits(path).expect("fits"))
        };
        assert_eq!(rewritten("/a", "/b/c", "/a"), "/b/c");
        assert_eq!(rewritten("/a/{m}", "/m/{m}:go?alt=sse", "/a/x%20y"), "/m/x%20y:go?alt=sse");
        assert_eq!(rewritten("/a*", "/b", "/a/c/d"), "/b/c/d");
        assert_eq!(rewritten("/a/*", "/b/", "/a/c"), "/b/c");
        assert_eq!(rewritten("/a/*", "/b", "/a/"), "/b");
        assert_eq!(rewritten("/*", "/b", "/c"), "/b/c");
    }

    #[test]
    fn wrong_patterns_are_refused() {
        for text in
            ["a", "/a b", "/{", "/}", "/{}", "/{a b}", "/{a}{b}", "/{a}/{a}", "/a?b", "/a#b"]
        {
            assert!(Pattern::read(text, false).is_err(), "{text}");
        }
        let pattern = Pattern::read("/{a}", false).expect("a path");
        assert!(Rewrite::read("/{b}", &pattern).is_err());
        assert!(Rewrite::read("b", &pattern).is_err());
        for host in ["", "*", "a:1", "*a", "a b"] {
            assert!(Host::read(host).is_err(), "{host}");
        }
    }
}
