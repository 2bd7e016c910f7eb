//! What of a head is sent on, and what the relay says for itself (RFC 9110, sections 7.6 and
//! 10.1).

use std::io::Write;
use std::net::IpAddr;
use std::time::SystemTime;

use super::Version;
use super::date::date;
use super::edits::{FieldEdits, Secret};
use super::head::{BodyFraming, Field, RequestHead, ResponseHead, list};
use super::name::Name;

/// A body of the relay's own instead of the client's.
#[derive(Clone, Copy, Debug)]
pub struct OwnBody<'a> {
    /// The method it goes up with.
    pub method: &'a str,
    /// Its media type.
    pub content_type: &'a [u8],
}

/// What a route changes in a request's head; nothing by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestChanges<'a> {
    /// What the route changes in the client's fields.
    pub edits: Option<&'a FieldEdits>,
    /// A provider's key: a field of its own, or none.
    pub key: Option<(&'a str, &'a Secret)>,
    /// The client's credentials stay here.
    pub keep_credentials: bool,
    /// The relay has made the body.
    pub own_body: Option<OwnBody<'a>>,
}

/// What a route changes in a response's head; nothing by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseChanges<'a> {
    /// What it changes in the upstream's fields.
    pub edits: Option<&'a FieldEdits>,
    /// Its own answer to who may read this (CORS), instead of the upstream's.
    pub cors: Option<&'a [(&'static str, String)]>,
}

/// How a request goes up.
#[derive(Clone, Copy, Debug)]
pub struct ForwardRequest<'a> {
    /// The upstream's Host.
    pub authority: &'a str,
    /// What stands before every path on the upstream; not before `*`.
    pub base_path: &'a str,
    /// Path and query asked for.
    pub target: &'a str,
    /// The client's address, for X-Forwarded-For.
    pub client_ip: IpAddr,
    /// `http` or `https`, as the client came.
    pub scheme: &'a str,
    /// The exchange's id.
    pub request_id: &'a str,
    /// Ask for an uncompressed answer whatever the client accepts.
    pub identity: bool,
    /// How the body goes up.
    pub framing: BodyFraming,
    /// What its route changes.
    pub changes: RequestChanges<'a>,
}

/// How a response goes down.
#[derive(Clone, Copy, Debug)]
pub struct ForwardResponse<'a> {
    /// How the body goes down.
    pub framing: BodyFraming,
    /// The connection ends with it.
    pub close: bool,
    /// It is an event stream.
    pub stream: bool,
    /// The stream's name, where it is kept for clients that come back.
    pub stream_id: Option<&'a str>,
    /// The exchange's id.
    pub request_id: &'a str,
    /// The client's version.
    pub version: Version,
    /// The length a body would have (answers to HEAD, 304).
    pub head_only_length: Option<u64>,
    /// When it came, where it has no Date of its own.
    pub received: Option<SystemTime>,
    /// What its route changes.
    pub changes: ResponseChanges<'a>,
}

fn named_by_connection<'a>(fields: impl Iterator<Item = Field<'a>>) -> Vec<&'a [u8]> {
    let connection = fields.filter(|field| field.known == Name::Connection);
    connection.flat_map(|field| list(field.value)).filter(|item| !is_usual(item)).collect()
}

/// Options that name no field.
fn is_usual(option: &[u8]) -> bool {
    option.eq_ignore_ascii_case(b"keep-alive") || option.eq_ignore_ascii_case(b"close")
}

/// Whether a field ends here: it speaks of the connection it came on, or was `named` as one that
/// does.
fn stays(field: &Field<'_>, named: &[&[u8]]) -> bool {
    field.known.is_hop_by_hop()
        || (named.iter().any(|name| field.name.eq_ignore_ascii_case(name))
            && !field.known.is_kept())
}

fn is_named(field: &Field<'_>, name: &str) -> bool {
    field.name.eq_ignore_ascii_case(name.as_bytes())
}

/// Fields by which clients show who they are to providers.
fn is_credential(name: &[u8]) -> bool {
    let known = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];
    known.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// Whether a response field is about who may read it across origins.
fn is_cors(name: &[u8]) -> bool {
    let prefix = b"access-control-";
    name.len() > prefix.len() && name[..prefix.len()].eq_ignore_ascii_case(prefix)
}

pub(super) fn put(out: &mut Vec<u8>, name: impl AsRef<[u8]>, value: &[u8]) {
    let name = name.as_ref();
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn put_framing(out: &mut Vec<u8>, framing: BodyFraming) {
    match framing {
        BodyFraming::None | BodyFraming::Close => {}
        BodyFraming::Length(length) => put_number(out, "Content-Length", length),
        BodyFraming::Chunked => put(out, "Transfer-Encoding", b"chunked"),
    }
}

fn put_number(out: &mut Vec<u8>, name: impl AsRef<[u8]>, number: u64) {
    put(out, name, itoa::Buffer::new().format(number).as_bytes());
}

fn put_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (index, byte) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                out.extend_from_slice(itoa::Buffer::new().format(byte).as_bytes());
            }
        }
        // A vector takes all.
        IpAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

/// Writes the head that goes upstream: end-to-end fields as they came, in order; Host, framing,
/// Via, X-Forwarded-* and X-Request-Id by the relay. An X-Forwarded-Proto or -Host that is there
/// already is kept: another proxy of the same house stands in front.
pub fn encode_request(head: &RequestHead, forward: &ForwardRequest<'_>, out: &mut Vec<u8>) {
    let changes = &forward.changes;
    let method = changes.own_body.map_or_else(|| head.method(), |body| body.method);
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    if forward.target != "*" {
        out.extend_from_slice(forward.base_path.as_bytes());
    }
    out.extend_from_slice(forward.target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    put(out, "Host", forward.authority.as_bytes());
    let named = named_by_connection(head.entries());
    let mut forwarded_for = Vec::new();
    let mut via = Vec::new();
    for field in head.entries() {
        if stays(&field, &named) {
            continue;
        }
        match field.known {
            // Written afresh.
            Name::Host | Name::Expect => {}
            Name::AcceptEncoding if forward.identity => {}
            Name::ContentType if changes.own_body.is_some() => {}
            _ if changes.keep_credentials && is_credential(field.name) => {}
            _ if changes.key.is_some_and(|(name, _)| is_named(&field, name)) => {}
            _ if changes.edits.is_some_and(|edits| edits.stops(field.name)) => {}
            Name::XForwardedFor => join(&mut forwarded_for, field.value),
            Name::Via => join(&mut via, field.value),
            Name::MaxForwards if counts_hops(head.method()) => put_hops(out, &field),
            _ => put(out, field.name, field.value),
        }
    }
    if forward.identity {
        put(out, "Accept-Encoding", b"identity");
    }
    if let Some(body) = changes.own_body {
        put(out, "Content-Type", body.content_type);
    }
    // A field that is set by name is meant.
    let set = |name: &str| changes.edits.is_some_and(|edits| edits.sets(name));
    if let Some((name, value)) = changes.key.filter(|(name, _)| !set(name)) {
        put(out, name, value.expose().as_bytes());
    }
    if let Some(edits) = changes.edits {
        edits.put(out);
    }
    let waits = head.expects_continue() && changes.own_body.is_none();
    if waits && forward.framing != BodyFraming::None {
        put(out, "Expect", b"100-continue");
    }
    put_joined(out, "X-Forwarded-For", &forwarded_for);
    put_address(out, forward.client_ip);
    out.extend_from_slice(b"\r\n");
    if head.field("x-forwarded-proto").is_none() {
        put(out, "X-Forwarded-Proto", forward.scheme.as_bytes());
    }
    if let (None, Some(host)) = (head.field("x-forwarded-host"), head.host()) {
        put(out, "X-Forwarded-Host", host.as_bytes());
    }
    put(out, "X-Request-Id", forward.request_id.as_bytes());
    let own = if head.version() == Version::Http10 { "1.0 millstream" } else { "1.1 millstream" };
    put_joined(out, "Via", &via);
    out.extend_from_slice(own.as_bytes());
    out.extend_from_slice(b"\r\n");
    put_framing(out, forward.framing);
    out.extend_from_slice(b"\r\n");
}

/// Methods whose Max-Forwards every hop counts down (RFC 9110, section 7.6.2).
fn counts_hops(method: &str) -> bool {
    matches!(method, "OPTIONS" | "TRACE")
}

/// The hops that are left, as the Max-Forwards of an OPTIONS or TRACE says.
fn hops(value: &[u8]) -> Option<u32> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    // More than can be counted is as many as can be.
    digits.then(|| std::str::from_utf8(value).ok()?.parse().ok()).map(|n| n.unwrap_or(u32::MAX))
}

fn put_hops(out: &mut Vec<u8>, field: &Field<'_>) {
    match hops(field.value) {
        Some(hops) => put_number(out, field.name, hops.saturating_sub(1).into()),
        None => put(out, field.name, field.value),
    }
}

/// Whether the request may go no further than here.
pub fn ends_here(head: &RequestHead) -> bool {
    counts_hops(head.method()) && head.field("max-forwards").and_then(hops) == Some(0)
}

fn join(list: &mut Vec<u8>, item: &[u8]) {
    if !list.is_empty() {
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(item);
}

/// A list field up to where one more item goes.
fn put_joined(out: &mut Vec<u8>, name: &str, list: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    if !list.is_empty() {
        out.extend_from_slice(list);
        out.extend_from_slice(b", ");
    }
}

/// Writes the head that goes downstream.
pub fn encode_response(head: &ResponseHead, forward: &ForwardResponse<'_>, out: &mut Vec<u8>) {
    let changes = &forward.changes;
    put_status(head.status(), head.reason(), out);
    let named = named_by_connection(head.entries());
    for field in head.entries() {
        if stays(&field, &named) {
            continue;
        }
        match field.known {
            Name::CacheControl | Name::XAccelBuffering if forward.stream => {}
            _ if forward.stream_id.is_some() && is_named(&field, "x-stream-id") => {}
            _ if changes.cors.is_some() && is_cors(field.name) => {}
            _ if changes.edits.is_some_and(|edits| edits.stops(field.name)) => {}
            Name::ContentType if forward.stream && memchr::memchr(b'=', field.value).is_none() => {
                put(out, field.name, b"text/event-stream; charset=utf-8");
            }
            _ => put(out, field.name, field.value),
        }
    }
    if forward.stream {
        put(out, "Cache-Control", b"no-cache, no-transform");
        put(out, "X-Accel-Buffering", b"no");
    }
    if let Some(edits) = changes.edits {
        edits.put(out);
    }
    for (name, value) in changes.cors.unwrap_or_default() {
        put(out, name, value.as_bytes());
    }
    if let Some(received) = forward.received {
        put(out, "Date", &date(received));
    }
    put(out, "X-Request-Id", forward.request_id.as_bytes());
    if let Some(id) = forward.stream_id {
        put(out, "X-Stream-Id", id.as_bytes());
    }
    put_framing(out, forward.framing);
    // RFC 9110, section 8.6: never with 204, not even where the upstream did.
    if let Some(length) = forward.head_only_length.filter(|_| head.status() != 204) {
        put_number(out, "Content-Length", length);
    }
    if forward.close {
        put(out, "Connection", b"close");
    } else if forward.version == Version::Http10 {
        put(out, "Connection", b"keep-alive");
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes an interim response (1xx).
pub fn encode_interim(head: &ResponseHead, out: &mut Vec<u8>) {
    put_status(head.status(), head.reason(), out);
    let named = named_by_connection(head.entries());
    for field in head.entries() {
        if !stays(&field, &named) {
            put(out, field.name, field.value);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a response of the relay's own; without its body in answer to HEAD.
pub fn encode_own(
    status: u16,
    fields: &[(&str, &str)],
    body: &[u8],
    close: bool,
    head_only: bool,
    out: &mut Vec<u8>,
) {
    put_status(status, "", out);
    for (name, value) in fields {
        put(out, name, value.as_bytes());
    }
    // RFC 9110, section 8.6: never with 204.
    if status != 204 {
        put_number(out, "Content-Length", body.len() as u64);
    }
    if close {
        put(out, "Connection", b"close");
    }
    out.extend_from_slice(b"\r\n");
    if !head_only {
        out.extend_from_slice(body);
    }
}

fn put_status(status: u16, reason: &str, out: &mut Vec<u8>) {
    let reason = if reason.is_empty() { phrase(status) } else { reason };
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The reason phrases of what the relay says itself (RFC 9110, section 15).
fn phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        204 => "No Content",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        410 => "Gone",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        414 => "URI Too Long",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::super::head::{parse_request, parse_response};
    use super::*;

    fn forwarded(request: &str, identity: bool) -> String {
        let Ok(Status::Complete((head, _))) = parse_request(request.as_bytes(), &mut 0) else {
            panic!("{request:?} does not parse");
        };
        let target = head.path_and_query();
        let forward = ForwardRequest {
            authority: "up:1",
            base_path: "",
            target: &target,
            client_ip: IpAddr::from([127, 0, 0, 9]),
            scheme: "http",
            request_id: "id-1",
            identity,
            framing: head.framing(),
            changes: RequestChanges::default(),
        };
        let mut out = Vec::new();
        encode_request(&head, &forward, &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn hop_by_hop_fields_stay_and_the_relay_names_itself() {
        let out = forwarded(
            "POST /a?b HTTP/1.1\r\nHost: front\r\nConnection: keep-alive, X-Secret, Authorization\r\n\
             X-Secret: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nAuthorization: Bearer k\r\n\
             X-Forwarded-For: 9.9.9.9\r\nAccept-Encoding: gzip\r\nVia: 1.0 old\r\n\
             Content-Length: 3\r\nExpect: 100-continue\r\nAccept: */*\r\n\r\n",
            true,
        );
        let expected = "POST /a?b HTTP/1.1\r\nHost: up:1\r\nAuthorization: Bearer k\r\n\
             Accept: */*\r\nAccept-Encoding: identity\r\nExpect: 100-continue\r\n\
             X-Forwarded-For: 9.9.9.9, 127.0.0.9\r\nX-Forwarded-Proto: http\r\n\
             X-Forwarded-Host: front\r\nX-Request-Id: id-1\r\nVia: 1.0 old, 1.1 millstream\r\n\
             Content-Length: 3\r\n\r\n";
        assert_eq!(out, expected);
    }

    #[test]
    fn a_route_changes_the_fields_it_names_and_the_clients_key_stays() {
        let request = "GET /a HTTP/1.1\r\nHost: front\r\nAuthorization: Bearer c\r\nApi-Key: c\r\n\
             X-Key: c\r\nX-Set: c\r\nX-Gone: c\r\nX-Kept: c\r\nX-Other: c\r\nContent-Type: a/b\r\n\
             Content-Length: 1\r\n\r\n";
        let Ok(Status::Complete((head, _))) = parse_request(request.as_bytes(), &mut 0) else {
            panic!("does not parse");
        };
        let names = |names: &[&str]| names.iter().map(|name| (*name).into()).collect();
        let edits = FieldEdits {
            set: vec![("X-Set".into(), Secret::open("s"))],
            remove: names(&["x-gone"]),
            pass: Some(names(&["X-Kept", "x-gone", "X-KEY", "authorization"])),
        };
        let key = Secret::hidden("k");
        let forward = ForwardRequest {
            authority: "up:1",
            base_path: "",
            target: "/a",
            client_ip: IpAddr::from([127, 0, 0, 9]),
            scheme: "http",
            request_id: "id-1",
            identity: false,
            framing: BodyFraming::Length(2),
            changes: RequestChanges {
                edits: Some(&edits),
                key: Some(("x-key", &key)),
                keep_credentials: true,
                own_body: Some(OwnBody { method: "POST", content_type: b"application/json" }),
            },
        };
        let encoded = |forward: &ForwardRequest<'_>| {
            let mut out = Vec::new();
            encode_request(&head, forward, &mut out);
            String::from_utf8(out).expect("ASCII")
        };
        let expected = "POST /a HTTP/1.1\r\nHost: up:1\r\nX-Kept: c\r\n\
             Content-Type: application/json\r\nx-key: k\r\nX-Set: s\r\n\
             X-Forwarded-For: 127.0.0.9\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: front\r\n\
             X-Request-Id: id-1\r\nVia: 1.1 millstream\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(encoded(&forward), expected);
        let changes = RequestChanges { key: Some(("x-set", &key)), ..forward.changes };
        let set = encoded(&ForwardRequest { changes, ..forward });
        assert!(set.contains("X-Set: s\r\n") && !set.contains(": k\r\n"), "{set}");
    }

    #[test]
    fn an_event_stream_goes_down_without_length_and_unbuffered() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n\
            Cache-Control: max-age=1\r\nConnection: close\r\nX-Other: y\r\n\r\n";
        let Ok(Status::Complete((head, _))) = parse_response(bytes, &mut 0) else {
            panic!("does not parse");
        };
        let forward = ForwardResponse {
            framing: BodyFraming::Chunked,
            close: false,
            stream: true,
            stream_id: None,
            request_id: "id-1",
            version: Version::Http11,
            head_only_length: None,
            received: Some(SystemTime::UNIX_EPOCH),
            changes: ResponseChanges::default(),
        };
        let mut out = Vec::new();
        encode_response(&head, &forward, &mut out);
        let expected = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
            X-Other: y\r\nCache-Control: no-cache, no-transform\r\nX-Accel-Buffering: no\r\n\
            Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nX-Request-Id: id-1\r\n\
            Transfer-Encoding: chunked\r\n\r\n";
        assert_eq!(String::from_utf8(out).expect("ASCII"), expected);
    }
}
