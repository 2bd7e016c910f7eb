//! Routes of a configuration file, end to end, on both drivers.

#[path = "routes/failures.rs"]
mod failures;
#[path = "routes/files.rs"]
mod files;
#[path = "routes/kept.rs"]
mod kept;
mod support;
#[path = "routes/told.rs"]
mod told;
#[path = "routes/upstream.rs"]
mod upstream;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use millstream::outcome::Outcome;
use millstream::server::Server;
use support::{Got, ask, connect, drivers, ended, eventually, mock, read_response, stop};
use upstream::{EVENTS, Upstream, configured, configured_to};

/// Runs `test` with a relay of `config` (`UP` is the upstream) on each driver.
fn with(config: &str, flags: &str, test: impl Fn(&Upstream, SocketAddr, &Server)) {
    for io in drivers() {
        let upstream = Upstream::answering(EVENTS);
        let server = configured_to(upstream.addr, io, config, flags);
        test(&upstream, server.addresses[0], &server);
        stop(server);
    }
}

fn request(line: &str, fields: &str, body: &str) -> String {
    let length = if body.is_empty() && !line.starts_with("POST") {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    format!("{line} HTTP/1.1\r\nHost: relay.example\r\n{length}{fields}\r\n{body}")
}

fn got(relay: SocketAddr, line: &str, fields: &str, body: &str) -> Got {
    ask(relay, &request(line, fields, body)).expect("an answer")
}

fn field(got: &Got, name: &str) -> Option<String> {
    got.head.field(name).map(|value| String::from_utf8_lossy(value).into_owned())
}

#[test]
fn requests_find_their_route_or_are_told_why_not() {
    let config = r#"
        upstream = "UP/base"
        [[route]]
        method = "POST"
        path = "/v1/chat/completions"
        [[route]]
        method = ["GET", "PUT"]
        path = "/v1/chat/completions"
        to = "/other"
        [[route]]
        prefix = "/models"
        to = "/v2/models/"
        [[route]]
        path = "/m/{model}"
        to = "/go/{model}:stream?alt=sse"
        [[route]]
        host = "*.tenant.example"
        prefix = "/"
    "#;
    with(config, "", |up, relay, server| {
        for (line, fields, wanted) in [
            ("POST /v1/chat/completions?a=1", "", "POST /base/v1/chat/completions?a=1"),
            ("PUT /v1/chat/completions?a=1", "", "PUT /base/other?a=1"),
            ("GET /models/x/y?z", "", "GET /base/v2/models/x/y?z"),
            ("GET /m/g%20p?k=1", "", "GET /base/go/g%20p:stream?alt=sse&k=1"),
        ] {
            let got = got(relay, line, fields, "");
            assert_eq!((got.head.status(), got.text().as_str()), (200, "data: 1\n\ndata: 2\n\n"));
            assert_eq!(up.next().line(), wanted);
        }
        let tenant = "GET /any HTTP/1.1\r\nHost: a.tenant.example:8080\r\n\r\n";
        assert_eq!(ask(relay, tenant).expect("an answer").head.status(), 200);
        assert_eq!(up.next().line(), "GET /base/any");

        let missing = got(relay, "GET /nothing", "", "");
        assert_eq!(missing.head.status(), 404);
        assert!(missing.text().contains("\"message\":\"no route has this path\""));
        assert_eq!(got(relay, "GET /models/../secret", "", "").head.status(), 404);
        let wrong = got(relay, "DELETE /v1/chat/completions", "", "");
        assert_eq!(wrong.head.status(), 405);
        assert_eq!(field(&wrong, "allow").as_deref(), Some("POST, GET, PUT, HEAD"));
        assert!(wrong.text().contains("\"type\":\"invalid_request_error\""), "{}", wrong.text());
        // An answer of the relay's own keeps the connection where there was no body.
        let mut stream = connect(relay);
        for _ in 0..2 {
            stream.write_all(request("GET /nothing", "", "").as_bytes()).expect("sends");
            assert_eq!(read_response(&mut stream, "GET").expect("answers").head.status(), 404);
        }
        up.was_not_asked();
        eventually("all are accounted for", || ended(server, Outcome::RequestRefused) == 5);
    });
}

#[test]
fn the_key_is_added_and_the_clients_own_stays_here() {
    let config = r#"
        [[upstream]]
        name = "keyed"
        url = "UP"
        key = "sk-house"
        [[upstream]]
        name = "open"
        url = "UP"
        [[upstream]]
        name = "azure"
        url = "UP"
        key = "sk-azure"
        key_header = "api-key"
        [[route]]
        path = "/v1/chat/completions"
        upstream = "keyed"
        [[route]]
        path = "/v1/messages"
        upstream = "keyed"
        [[route]]
        path = "/open"
        upstream = "open"
        [[route]]
        path = "/forwarded"
        upstream = "open"
        forward_credentials = true
        [[route]]
        path = "/azure"
        upstream = "azure"
        request_headers = { set = { X-Tenant = "t" }, remove = ["Cookie"], pass = ["Accept", "Cookie"] }
        response_headers = { set = { X-Relay = "1" }, remove = ["Server"] }
    "#;
    let fields = "Authorization: Bearer client\r\nX-Api-Key: client\r\nx-goog-api-key: client\r\n\
        Api-Key: client\r\nAccept: */*\r\nCookie: a=b\r\nX-Tenant: mine\r\nUser-Agent: u\r\n";
    with(config, "", |up, relay, _| {
        let asked = |path: &str| {
            let got = got(relay, &format!("POST {path}"), fields, "{}");
            assert_eq!(got.head.status(), 200);
            (up.next(), got)
        };
        let (chat, _) = asked("/v1/chat/completions");
        assert_eq!(chat.field("authorization").as_deref(), Some("Bearer sk-house"));
        assert_eq!((chat.field("x-api-key"), chat.field("api-key")), (None, None));
        assert_eq!(chat.field("cookie").as_deref(), Some("a=b"));
        let (messages, _) = asked("/v1/messages");
        assert_eq!(messages.field("x-api-key").as_deref(), Some("sk-house"));
        assert_eq!(messages.field("authorization"), None);
        let (open, _) = asked("/open");
        for name in ["authorization", "x-api-key", "x-goog-api-key", "api-key"] {
            assert_eq!(open.field(name), None, "{name}");
        }
        let (forwarded, _) = asked("/forwarded");
        assert_eq!(forwarded.field("authorization").as_deref(), Some("Bearer client"));
        let (azure, got) = asked("/azure");
        assert_eq!(azure.field("api-key").as_deref(), Some("sk-azure"));
        assert_eq!(azure.field("x-tenant").as_deref(), Some("t"));
        assert_eq!((azure.field("cookie"), azure.field("user-agent")), (None, None));
        assert_eq!(azure.field("accept").as_deref(), Some("*/*"));
        assert!(azure.field("x-forwarded-for").is_some() && azure.field("via").is_some());
        assert_eq!((field(&got, "server"), field(&got, "x-relay").as_deref()), (None, Some("1")));
    });
    // Without a file, or with one that says no more than the upstream, the client's own is used.
    with("upstream = \"UP\"", "", |up, relay, _| {
        assert_eq!(got(relay, "POST /a/../b", fields, "{}").head.status(), 200);
        let asked = up.next();
        assert_eq!(asked.line(), "POST /a/../b");
        assert_eq!(asked.field("authorization").as_deref(), Some("Bearer client"));
    });
}

#[test]
fn bodies_are_edited_where_they_lie() {
    let config = r#"
        upstream = "UP"
        [[route]]
        path = "/v1/chat/completions"
        stream = "force"
        include_usage = true
        rename = { opening = "system" }
        remove = ["debug"]
        default = { model = "m-1" }
        set = { "metadata.via" = "relay" }
    "#;
    with(config, "", |up, relay, _| {
        let body = "{ \"opening\" : \"\\u00e9\", \"n\":1e999, \"debug\":1, \"n\":[ ] }";
        let wanted = "{ \"system\" : \"\\u00e9\", \"n\":1e999, \"n\":[ ], \"model\":\"m-1\", \
            \"metadata\":{\"via\":\"relay\"}, \"stream\":true, \
            \"stream_options\":{\"include_usage\":true} }";
        assert!(got(relay, "POST /v1/chat/completions", "", body).whole);
        let asked = up.next();
        assert_eq!(asked.body, wanted);
        assert_eq!(asked.field("content-type").as_deref(), Some("application/json"));
        assert_eq!(asked.field("content-length"), Some(wanted.len().to_string()));
        // In chunks, in pieces, with a 100 that is waited for, and with the next request behind it.
        let mut stream = connect(relay);
        let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\
            Content-Type: application/json; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("sends");
        let mut interim = [0; 25];
        stream.read_exact(&mut interim).expect("a 100");
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        let (first, second) = body.split_at(10);
        let chunks = format!(
            "{:x}\r\n{first}\r\n{:x};x=y\r\n{second}\r\n0\r\n\r\n",
            first.len(),
            second.len()
        );
        for byte in chunks.as_bytes() {
            stream.write_all(std::slice::from_ref(byte)).expect("sends");
        }
        assert!(read_response(&mut stream, "POST").expect("an answer").whole);
        let asked = up.next();
        assert_eq!((asked.body.as_str(), asked.field("expect")), (wanted, None));
        let kind = asked.field("content-type");
        assert_eq!(kind.as_deref(), Some("application/json; charset=utf-8"));
        let empty = request("POST /v1/chat/completions", "", "");
        let both = format!("{empty}{empty}");
        stream.write_all(both.as_bytes()).expect("sends");
        assert!(read_response(&mut stream, "POST").expect("an answer").whole);
        for _ in 0..2 {
            assert!(up.next().body.starts_with("{\"model\":\"m-1\",\"metadata\":"));
        }
    });
}

#[test]
fn a_small_form_becomes_the_providers_request() {
    let config = r#"
        upstream = "UP"
        [[route]]
        path = "/optimize-stream"
        to = "/prompt/optimize-prompt"
        query = ["prompt", "type", "model", "n"]
        request_headers = { set = { Accept = "text/event-stream" } }
        [route.fields]
        prompt = { required = true, type = "string", max_bytes = 64 }
        n = { type = "integer" }
        [route.body]
        prompt = { from = "prompt" }
        type = { from = "type", default = "优化" }
        model = { from = "model", default = "qwen-max" }
        n = { from = "n" }
        stream = true
    "#;
    with(config, "", |up, relay, server| {
        let form = "{\"prompt\":\"写一首诗\",\"type\":\"扩写\",\"opening\":\"x\"}";
        assert!(got(relay, "POST /optimize-stream", "Accept: */*\r\n", form).whole);
        let asked = up.next();
        assert_eq!(asked.line(), "POST /prompt/optimize-prompt");
        assert_eq!(
            asked.body,
            "{\"prompt\":\"写一首诗\",\"type\":\"扩写\",\"model\":\"qwen-max\",\"stream\":true}"
        );
        assert_eq!(asked.field("accept").as_deref(), Some("text/event-stream"));
        // EventSource can only GET.
        let line = "GET /optimize-stream?prompt=%E5%86%99+%22&n=7&keep=1";
        assert!(got(relay, line, "", "").whole);
        let asked = up.next();
        assert_eq!(asked.line(), "POST /prompt/optimize-prompt?keep=1");
        assert_eq!(
            asked.body,
            "{\"prompt\":\"写 \\\"\",\"type\":\"优化\",\"model\":\"qwen-max\",\"n\":7,\"stream\":true}"
        );
        for (line, fields, body, status, says) in [
            ("POST /optimize-stream", "", "{}", 400, "field \\\"prompt\\\" is required"),
            ("GET /optimize-stream", "", "", 400, "field \\\"prompt\\\" is required"),
            ("GET /optimize-stream?prompt=a&n=x", "", "", 400, "\\\"n\\\" must be an integer"),
            ("POST /optimize-stream", "", "{\"prompt\":1}", 400, "\\\"prompt\\\" must be a string"),
            ("POST /optimize-stream", "", "{\"prompt\":\"a\",}", 400, "not JSON at byte 14"),
            ("POST /optimize-stream", "", "a=b", 400, "must be a JSON object"),
            ("POST /optimize-stream?prompt=b", "", "{\"prompt\":\"a\"}", 400, "more than once"),
            ("POST /optimize-stream", "Content-Encoding: gzip\r\n", "x", 415, "Content-Encoding"),
        ] {
            let got = got(relay, line, fields, body);
            assert_eq!(got.head.status(), status, "{line} {body}: {}", got.text());
            assert!(got.text().contains(says), "{line} {body}: {}", got.text());
        }
        let deep = format!("{{\"prompt\":\"a\",\"x\":{}", "[".repeat(100_000));
        assert!(got(relay, "POST /optimize-stream", "", &deep).text().contains("nested deeper"));
        up.was_not_asked();
        // A client that leaves with half a request is noticed, and nobody is asked.
        let before = ended(server, Outcome::ClientGone);
        let mut stream = connect(relay);
        let half = "POST /optimize-stream HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{";
        stream.write_all(half.as_bytes()).expect("sends");
        drop(stream);
        eventually("it is noticed", || ended(server, Outcome::ClientGone) == before + 1);
        up.was_not_asked();
    });
}

#[test]
fn sizes_are_those_of_the_route() {
    let config = r#"
        upstream = "UP"
        max_body_bytes = 100
        [[route]]
        path = "/small"
        set = { a = 1 }
        max_body_bytes = 10
        [[route]]
        path = "/plain"
        max_body_bytes = 10
        [[route]]
        path = "/top"
        set = { a = 1 }
    "#;
    with(config, "", |up, relay, _| {
        let body = "{\"b\":\"0123456789\"}";
        for path in ["/small", "/plain"] {
            assert_eq!(got(relay, &format!("POST {path}"), "", body).head.status(), 413);
            let chunked = format!(
                "POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            );
            assert_eq!(ask(relay, &chunked).expect("answers").head.status(), 413, "{path}");
        }
        assert_eq!(got(relay, "POST /top", "", body).head.status(), 200);
        while let Ok(asked) = up.asked.try_recv() {
            assert!(!asked.line().contains("small"));
        }
    });
}

#[test]
fn other_origins_may_read_what_the_route_lets_them() {
    let config = r#"
        upstream = "UP"
        [[route]]
        method = "POST"
        path = "/chat"
        fields = { prompt = { required = true } }
        [route.cors]
        origins = ["https://a.example", "http://localhost:3000"]
        credentials = true
        expose = ["X-Request-Id"]
        [[route]]
        path = "/any"
        cors = { origins = "*" }
        [[route]]
        path = "/none"
    "#;
    let preflight = "Origin: https://a.example\r\nAccess-Control-Request-Method: POST\r\n\
        Access-Control-Request-Headers: content-type\r\n";
    with(config, "", |up, relay, server| {
        let allowed = got(relay, "OPTIONS /chat", preflight, "");
        assert_eq!((allowed.head.status(), allowed.body.len()), (204, 0));
        for (name, value) in [
            ("access-control-allow-origin", "https://a.example"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "POST"),
            ("access-control-allow-headers", "content-type"),
            ("access-control-max-age", "600"),
        ] {
            assert_eq!(field(&allowed, name).as_deref(), Some(value), "{name}");
        }
        assert!(field(&allowed, "vary").expect("vary").starts_with("Origin"));
        assert_eq!(field(&allowed, "content-length"), None);
        let evil = preflight.replace("a.example", "evil.example");
        let refused = got(relay, "OPTIONS /chat", &evil, "");
        assert_eq!(field(&refused, "access-control-allow-origin"), None);
        up.was_not_asked();
        eventually("both are done", || ended(server, Outcome::Done) == 2);

        let origin = "Origin: https://a.example\r\n";
        let answer = got(relay, "POST /chat", origin, "{\"prompt\":\"x\"}");
        let origins: Vec<&[u8]> = answer
            .head
            .fields()
            .filter(|(name, _)| name.eq_ignore_ascii_case("access-control-allow-origin"))
            .map(|(_, value)| value)
            .collect();
        assert_eq!(origins, [b"https://a.example"], "the upstream's own is gone");
        assert_eq!(field(&answer, "vary").as_deref(), Some("Origin"));
        assert_eq!(
            field(&answer, "access-control-expose-headers").as_deref(),
            Some("X-Request-Id")
        );
        let bad = got(relay, "POST /chat", origin, "{}");
        assert_eq!(bad.head.status(), 400);
        assert_eq!(
            field(&bad, "access-control-allow-origin").as_deref(),
            Some("https://a.example"),
            "the page may read why"
        );
        let without = got(relay, "POST /chat", "", "{\"prompt\":\"x\"}");
        assert_eq!(field(&without, "vary").as_deref(), Some("Origin"));
        assert_eq!(field(&without, "access-control-allow-origin"), None);
        let any = got(relay, "GET /any", "Origin: https://b.example\r\n", "");
        assert_eq!(field(&any, "access-control-allow-origin").as_deref(), Some("*"));
        assert_eq!(field(&any, "vary"), None);
        // A route that says nothing of it leaves it to the upstream, preflights too.
        let none = got(relay, "OPTIONS /none", preflight, "");
        assert_eq!(
            field(&none, "access-control-allow-origin").as_deref(),
            Some("https://up.example")
        );
    });
}

#[test]
fn a_route_carries_no_more_than_it_may() {
    let config = "upstream = \"UP\"\n[[route]]\nprefix = \"/v1\"\nmax_in_flight = 2\n\
        [[route]]\nprefix = \"/free\"\nto = \"/v1\"\n";
    for io in drivers() {
        let upstream = mock();
        let server = configured_to(upstream, io, config, "");
        let relay = server.addresses[0];
        let slow = request("POST /v1/chat/completions?mock_stall=1:60000", "", "{\"stream\":true}");
        let mut streams: Vec<_> = (0..2)
            .map(|_| {
                let mut stream = connect(relay);
                stream.write_all(slow.as_bytes()).expect("sends");
                stream.read_exact(&mut [0; 12]).expect("an answer begins");
                stream
            })
            .collect();
        let full = got(relay, "POST /v1/chat/completions", "", "{\"stream\":true}");
        assert_eq!((full.head.status(), field(&full, "retry-after").as_deref()), (503, Some("1")));
        assert!(full.text().contains("the route carries all it may"), "{}", full.text());
        let free = got(relay, "POST /free/chat/completions", "", "{\"stream\":true}");
        assert_eq!(free.head.status(), 200);
        drop(streams.pop());
        eventually("the place is free again", || {
            got(relay, "POST /v1/chat/completions", "", "{\"stream\":true}").head.status() == 200
        });
        drop(streams);
        stop(server);
    }
}

#[test]
fn times_are_those_of_the_route() {
    let config = "upstream = \"UP\"\n[[route]]\nprefix = \"/v1\"\n\
        [[route]]\nprefix = \"/short\"\nto = \"/v1\"\nstream_timeout = \"300ms\"\n";
    for io in drivers() {
        let upstream = mock();
        let server = configured_to(upstream, io, config, "");
        let line = "POST /short/chat/completions?mock_stall=2:60000";
        let short = got(server.addresses[0], line, "", "{\"stream\":true}");
        assert!(!short.whole && short.text().contains("\"code\":\"stream_timeout\""));
        eventually("it is accounted for", || ended(&server, Outcome::StreamTimeout) == 1);
        let line = "POST /v1/chat/completions?mock_stall=2:600";
        let long = got(server.addresses[0], line, "", "{\"stream\":true}");
        assert!(long.whole && long.text().contains("[DONE]"));
        stop(server);
        // A flag wins over the route.
        let server = configured_to(upstream, io, config, "--stream-timeout 60s");
        let line = "POST /short/chat/completions?mock_stall=2:600";
        assert!(got(server.addresses[0], line, "", "{\"stream\":true}").whole);
        stop(server);
    }
}

#[test]
fn endpoints_share_the_work_and_take_each_others_place() {
    for io in drivers() {
        let (one, two) = (Upstream::answering(EVENTS), Upstream::answering(EVENTS));
        let dead = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
            listener.local_addr().expect("bound")
        };
        let urls = |addrs: &[SocketAddr]| {
            let urls: Vec<_> = addrs.iter().map(|addr| format!("\"http://{addr}\"")).collect();
            format!("[[upstream]]\nname = \"pair\"\nurls = [{}]\n", urls.join(", "))
        };
        let server = configured(io, &urls(&[one.addr, two.addr]), "");
        for _ in 0..6 {
            assert!(got(server.addresses[0], "POST /a", "", "{}").whole);
        }
        let count = |up: &Upstream| up.asked.try_iter().count();
        assert_eq!((count(&one), count(&two)), (3, 3));
        let reuses: u64 = server.metrics.iter().map(|m| m.upstream_reuses.get()).sum();
        assert_eq!(reuses, 4, "each has its own connection");
        stop(server);

        // No wait and no retry of the plan is needed for an endpoint that is away.
        let config = format!("retries = 0\nretry_backoff = \"30s\"\n{}", urls(&[dead, one.addr]));
        let server = configured(io, &config, "");
        let began = Instant::now();
        for _ in 0..4 {
            assert!(got(server.addresses[0], "POST /a", "", "{\"x\":1}").whole);
        }
        assert!(began.elapsed() < Duration::from_secs(20), "it waited");
        let asked: Vec<_> = one.asked.try_iter().collect();
        assert_eq!(asked.len(), 4);
        assert!(asked.iter().all(|asked| asked.body == "{\"x\":1}"));
        let failed: u64 = server.metrics.iter().map(|m| m.upstream_connect_errors.get()).sum();
        assert_eq!(failed, 1, "it rests");
        stop(server);

        let server = configured(io, &urls(&[dead, dead]), "--retries 0");
        assert_eq!(got(server.addresses[0], "POST /a", "", "{}").head.status(), 502);
        stop(server);
    }
}

#[test]
fn an_edited_body_is_sent_again_when_it_has_to_be() {
    for io in drivers() {
        let upstream = mock();
        let config = format!(
            "[[upstream]]\nurl = \"http://{upstream}\"\nretry_status = [503]\n\
             [[route]]\nprefix = \"/v1\"\nset = {{ model = \"m-2\" }}\n"
        );
        let server = configured(io, &config, "");
        let line = "POST /v1/chat/completions?mock_fail_first=2:503&mock_key=edited";
        let got = got(server.addresses[0], line, "", "{\"stream\":true}");
        assert_eq!(got.head.status(), 200, "{}", got.text());
        assert!(got.text().contains("m-2") && got.text().contains("[DONE]"), "{}", got.text());
        let retries: u64 = server.metrics.iter().map(|m| m.retries.get()).sum();
        assert_eq!(retries, 2);
        stop(server);
    }
}
