//! Failures, told by routes that tell answers in other words: as an end by name, as an event before
//! the answer has begun, and the upstream's own in the words of the route.

use std::io::Write;
use std::net::SocketAddr;

use millstream::config::plan::Io;
use millstream::outcome::Outcome;
use millstream::server::Server;

use crate::support::{
    ask, connect, drivers, ended, eventually, mock, read_response, scripted, stop,
};
use crate::upstream::{Upstream, configured_to};
use crate::{field, got, request};

const ENDS: &str = r#"
        upstream = "UP"
        retries = 0
        stream_timeout = "300ms"
        [[route]]
        prefix = "/named"
        to = "/"
        response = "tokens"
        [[route]]
        prefix = "/unnamed"
        to = "/"
        response = "tokens"
        events = { error = false, timeout = false }
        [[route]]
        prefix = "/events"
        to = "/"
        response = "tokens"
        errors = "event"
        cors = { origins = "*" }
        [[route]]
        prefix = "/forward"
        to = "/"
        response = "forward"
        events = { error = false }
        [[route]]
        prefix = "/plain"
        to = "/"
"#;

const TIMEOUT: &str = "event: timeout\ndata: the stream took too long\n\n";

/// A route's event that names a failure is the stream's end; without one only an abort is honest.
#[test]
fn a_failure_that_has_an_event_ends_the_stream_by_name() {
    for io in drivers() {
        let upstream = mock();
        let server = configured_to(upstream, io, ENDS, "");
        let relay = server.addresses[0];
        let asked = |line: &str| got(relay, &format!("POST {line}"), "", "{\"stream\":true}");
        for (path, whole, end) in [
            ("/named/v1/messages?mock_stall=5:60000", true, TIMEOUT),
            ("/named/v1/messages?mock_truncate=900", true, "event: error\ndata: the upstream"),
            ("/named/v1/messages?mock_error_at=6", true, "event: error\ndata: the mock was"),
            ("/named/v1/messages?mock_error_at=6&mock_truncate=1200", true, "event: error"),
            ("/unnamed/v1/messages?mock_stall=5:60000", false, "data: \""),
            ("/unnamed/v1/messages?mock_truncate=900", false, "data: \""),
            ("/forward/v1/messages?mock_stall=5:60000", true, "event: timeout\ndata: 请求超时\n"),
            ("/forward/v1/messages?mock_truncate=900", false, "event: content_block_delta"),
            ("/plain/v1/messages?mock_stall=5:60000", false, "event: error"),
        ] {
            let got = asked(path);
            let text = got.text();
            let last = text.trim_end().rsplit("\n\n").next().expect("a last event");
            assert_eq!(got.head.status(), 200, "{path}");
            assert!(got.whole == whole && format!("{last}\n\n").starts_with(end), "{path}: {text}");
            assert!(!text.contains("event: done"), "{path}: {text}");
        }
        stop(server);
    }
}

/// The connection is as good as after any other answer; a client of HTTP/1.0 sees a close.
#[test]
fn behind_such_an_end_the_connection_is_kept() {
    for io in drivers() {
        let upstream = mock();
        let server = configured_to(upstream, io, ENDS, "");
        let relay = server.addresses[0];
        let body = "{\"stream\":true}";
        let line = "POST /named/v1/messages?mock_truncate=900";
        let mut client = connect(relay);
        for _ in 0..2 {
            client.write_all(request(line, "", body).as_bytes()).expect("sends");
            assert!(read_response(&mut client, "POST").expect("an answer").whole);
        }
        let old = request(line, "", body).replace("HTTP/1.1", "HTTP/1.0");
        let old = ask(relay, &old).expect("an answer");
        assert!(old.whole && old.text().contains("event: error\n"), "{}", old.text());
        stop(server);
    }
}

/// Before the answer has begun a status tells it, or the same event where the page wants that.
#[test]
fn a_failure_that_comes_early_is_a_status_or_the_event() {
    for io in drivers() {
        let upstream = mock();
        let server = configured_to(upstream, io, ENDS, "");
        let relay = server.addresses[0];
        let asked = |line: &str| got(relay, &format!("POST {line}"), "", "{\"stream\":true}");
        let late = asked("/named/v1/messages?mock_head_delay=60000");
        assert_eq!(late.head.status(), 504);
        let late = asked("/unnamed/v1/messages?mock_head_delay=60000");
        assert_eq!(late.head.status(), 504);
        let late = got(
            relay,
            "POST /events/v1/messages?mock_head_delay=60000",
            "Origin: https://a.example\r\n",
            "{\"stream\":true}",
        );
        assert_eq!(late.head.status(), 200);
        assert_eq!(field(&late, "access-control-allow-origin").as_deref(), Some("*"));
        assert_eq!(late.text(), format!("event: start\ndata: \n\n{TIMEOUT}"));
        let away = asked("/events/v1/messages?mock_fail_first=9:close&mock_key=events");
        assert!(away.text().contains("event: error\ndata: upstream "), "{}", away.text());
        eventually("the log knows better", || ended(&server, Outcome::UpstreamNoAnswer) == 1);
        stop(server);
    }
}

const RETOLD: &str = r#"
        upstream = "UP"
        [[route]]
        prefix = "/openai"
        to = "/"
        response = "openai"
        [[route]]
        prefix = "/tokens"
        to = "/"
        response = "tokens"
        cors = { origins = "*" }
        [[route]]
        prefix = "/forward"
        to = "/"
        response = "forward"
        [[route]]
        prefix = "/plain"
        to = "/"
"#;

const JSON: &str = "Content-Type: application/json\r\n";

/// An error as an upstream answers with it.
fn answer(status: &str, fields: &str, body: &str) -> &'static str {
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nRetry-After: 9\r\n\
         x-ratelimit-remaining-requests: 0\r\nETag: \"a\"\r\n{fields}\r\n{body}"
    );
    text.leak()
}

/// Answers with their status, and with the message and the code they are told by.
fn errors() -> Vec<(&'static str, u16, String, &'static str)> {
    let anthropic =
        r#"{"type":"error","error":{"type":"overloaded_error","message":"Over\n\"loaded\""}}"#;
    let sse = "event:error\nstatus:400\n\
        data:{\"code\":\"InvalidParameter\",\"message\":\"bad\"}\n\n";
    let long = format!("{{\"message\":\"{}\"}}", "x".repeat(70_000));
    let known = |answer, status, message: &str, code| (answer, status, message.to_owned(), code);
    let unknown = |answer, status| {
        (answer, status, format!("the upstream answered with status {status}"), "upstream_error")
    };
    let events = "Content-Type: text/event-stream\r\n";
    vec![
        known(answer("529 Busy", JSON, anthropic), 529, "Over\n\"loaded\"", "overloaded_error"),
        known(answer("400 Bad Request", events, sse), 400, "bad", "InvalidParameter"),
        unknown(answer("500 Oops", "Content-Type: text/html\r\n", "<html>"), 500),
        unknown(answer("503 Gone", JSON, ""), 503),
        unknown(answer("403 No", "Content-Encoding: gzip\r\n", "\u{1f}x"), 403),
        unknown(answer("413 Long", JSON, &long), 413),
    ]
}

fn relaying(io: Io, upstream: SocketAddr) -> Server {
    configured_to(upstream, io, RETOLD, "")
}

/// An upstream's own error keeps its status and what it says, in the words of the route.
#[test]
fn an_upstreams_error_is_told_in_the_routes_words() {
    for io in drivers() {
        for (answer, status, message, code) in errors() {
            let up = Upstream::answering(answer);
            let server = relaying(io, up.addr);
            let relay = server.addresses[0];
            for (prefix, pointer) in [("openai", "/error/type"), ("tokens", "/error/request_id")] {
                let path = match status {
                    400 => "api/v1/services/aigc/text-generation/generation",
                    _ => "v1/messages",
                };
                let line = format!("POST /{prefix}/{path}");
                let told = got(relay, &line, "Origin: https://a.example\r\n", "{\"stream\":true}");
                let body: serde_json::Value = serde_json::from_slice(&told.body)
                    .unwrap_or_else(|_| panic!("{}", told.text()));
                assert_eq!(told.head.status(), status);
                assert_eq!(body["error"]["message"], message, "{prefix}");
                assert_eq!(body["error"]["code"], code, "{prefix}");
                assert!(body.pointer(pointer).is_some_and(serde_json::Value::is_string), "{body}");
                for (name, value) in [
                    ("retry-after", Some("9")),
                    ("x-ratelimit-remaining-requests", Some("0")),
                    ("content-type", Some("application/json")),
                    ("etag", None),
                    ("content-encoding", None),
                    ("access-control-allow-origin", (prefix == "tokens").then_some("*")),
                ] {
                    assert_eq!(field(&told, name).as_deref(), value, "{prefix}: {name}");
                }
            }
            let raw = answer.split_once("\r\n\r\n").expect("a body").1;
            for prefix in ["forward", "plain"] {
                let kept = got(relay, &format!("POST /{prefix}/v1/messages"), "", "{}");
                assert_eq!((kept.head.status(), kept.text().as_str()), (status, raw), "{prefix}");
            }
            eventually("all are done", || {
                ended(&server, Outcome::Done) + ended(&server, Outcome::UpstreamClosed) == 4
            });
            stop(server);
        }
    }
}

#[test]
fn what_is_in_the_routes_words_keeps_its_bytes_and_connections_are_used_again() {
    let own = r#"{ "error" : {"message":"no","type":"x","param":"messages","code":null} }"#;
    for io in drivers() {
        let up = Upstream::answering(answer("404 Not Found", JSON, own));
        let server = relaying(io, up.addr);
        let relay = server.addresses[0];
        let told = got(relay, "POST /openai/v1/chat/completions", "", "{\"stream\":true}");
        assert_eq!((told.head.status(), told.text().as_str()), (404, own));
        let mut client = connect(relay);
        for _ in 0..2 {
            let line = "POST /tokens/v1/messages";
            client.write_all(request(line, "", "{}").as_bytes()).expect("sends");
            let told = read_response(&mut client, "POST").expect("an answer");
            assert!(told.whole && told.text().contains("\"message\":\"no\""), "{}", told.text());
        }
        assert!(server.metrics[0].upstream_reuses.get() >= 2);
        stop(server);
        let bodiless = answer("404 Not Found", JSON, "");
        let server = relaying(io, Upstream::answering(bodiless).addr);
        let head = got(server.addresses[0], "HEAD /tokens/v1/chat/completions", "", "");
        assert_eq!((head.head.status(), head.body.len()), (404, 0));
        stop(server);
    }
}

#[test]
fn an_error_that_breaks_off_keeps_its_status() {
    for io in drivers() {
        let half = b"HTTP/1.1 500 Oops\r\nContent-Length: 100\r\n\r\n{\"message\":";
        let server = relaying(io, scripted(half));
        let told = got(server.addresses[0], "POST /tokens/v1/messages", "", "{}");
        assert_eq!(told.head.status(), 500);
        assert!(told.text().contains("the upstream answered with status 500"), "{}", told.text());
        stop(server);
    }
}
