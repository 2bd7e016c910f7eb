//! The relay with real sockets, on both drivers.

mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use millstream::outcome::Outcome;
use sha2::{Digest, Sha256};
use support::{
    DIALECT_PATHS, Got, ask, chat, connect, drivers, ended, eventually, mock, read_response, relay,
    scripted, stop,
};

const CHAT: &str = "/v1/chat/completions";

fn with_mock(
    flags: &str,
    test: impl Fn(std::net::SocketAddr, std::net::SocketAddr, &millstream::server::Server),
) {
    for io in drivers() {
        let upstream = mock();
        let server = relay(upstream, io, flags);
        test(upstream, server.addresses[0], &server);
        stop(server);
    }
}

/// The account is closed just after the client has its answer.
fn assert_ended(server: &millstream::server::Server, outcome: Outcome, n: u64) {
    eventually(outcome.as_str(), || ended(server, outcome) == n);
}

fn got(addr: std::net::SocketAddr, request: &str) -> Got {
    ask(addr, request).expect("an answer")
}

#[test]
fn every_dialect_and_framing_comes_through_byte_for_byte() {
    with_mock("", |upstream, relay, server| {
        let mut asked = 0;
        for path in DIALECT_PATHS {
            for mock in [
                "framing=chunked",
                "framing=length",
                "framing=close",
                "split=1",
                "split=3",
                "eol=crlf",
                "eol=cr",
                "huge=300000",
                "huge=3000000",
                "odd=chunk_ext",
                "odd=trailers",
                "odd=interim",
                "tokens=0",
                "tokens=3000",
                "gzip=1",
            ] {
                let target = format!("{path}?mock_{mock}");
                let fields = "Accept: text/event-stream\r\nX-DashScope-SSE: enable\r\n";
                let request = chat(&target, fields);
                let (direct, through) = (got(upstream, &request), got(relay, &request));
                assert!(direct.whole && through.whole, "{target}");
                let digest = |got: &Got| Sha256::digest(&got.body);
                assert_eq!(digest(&direct), digest(&through), "{target}: {}", through.text());
                let field = |name| through.head.field(name).map(<[u8]>::to_vec);
                assert_eq!(
                    field("content-type"),
                    Some(b"text/event-stream; charset=utf-8".to_vec())
                );
                assert_eq!(field("cache-control"), Some(b"no-cache, no-transform".to_vec()));
                assert_eq!(field("x-accel-buffering"), Some(b"no".to_vec()));
                assert_eq!(field("content-length"), None);
                assert_eq!(field("keep-alive"), None);
                asked += 1;
            }
        }
        eventually("all are accounted for", || {
            ended(server, Outcome::Done) + ended(server, Outcome::UpstreamClosed) == asked
        });
    });
}

#[test]
fn a_finished_stream_is_done_and_one_without_its_last_event_is_not() {
    with_mock("", |_, relay, server| {
        assert!(got(relay, &chat(CHAT, "")).whole);
        assert_ended(server, Outcome::Done, 1);
        assert!(got(relay, &chat(&format!("{CHAT}?mock_no_terminal=1"), "")).whole);
        assert_ended(server, Outcome::UpstreamClosed, 1);
    });
}

#[test]
fn a_broken_answer_is_told_in_band_and_never_ends_in_order() {
    with_mock("", |upstream, relay, server| {
        for (fault, outcome) in [
            ("truncate=700", Outcome::UpstreamTruncated),
            ("truncate=700&mock_framing=length", Outcome::UpstreamTruncated),
            ("reset_at=700", Outcome::UpstreamReset),
            ("bad_chunk=3", Outcome::UpstreamProtocol),
        ] {
            let through = got(relay, &chat(&format!("{CHAT}?mock_{fault}"), ""));
            assert!(!through.whole, "{fault} looked whole");
            let text = through.text();
            let last = text.trim_end().rsplit("\n\n").next().expect("a frame");
            let error: serde_json::Value =
                serde_json::from_str(last.strip_prefix("data: ").expect("data")).expect("JSON");
            assert_eq!(error["error"]["code"], outcome.as_str(), "{fault}");
            assert!(!text.contains("[DONE]"), "{fault} invented an end");
            let direct = got(upstream, &chat(&format!("{CHAT}?mock_rate=0"), ""));
            let frames = text[..text.len() - last.len() - 2].to_owned();
            assert!(direct.text().starts_with(&frames), "{fault}: only whole frames, unchanged");
            eventually(fault, || ended(server, outcome) > 0);
        }
        let anthropic = got(relay, &chat("/v1/messages?mock_truncate=700", ""));
        assert!(anthropic.text().contains("event: error\n") && !anthropic.whole);
    });
}

/// On one core, where the bytes of several are received before any of them goes on.
#[test]
fn in_a_crowd_everyone_gets_their_own_bytes_and_their_own_end() {
    with_mock("--workers 1", |upstream, relay, server| {
        let asked = [
            "tokens=400",
            "tokens=300&mock_size=900",
            "tokens=400&mock_truncate=9000",
            "tokens=400&mock_reset_at=9000",
        ];
        let expected: Vec<_> = asked
            .iter()
            .map(|mock| got(upstream, &chat(&format!("{CHAT}?mock_rate=0&mock_{mock}"), "")))
            .collect();
        std::thread::scope(|scope| {
            for n in 0..48 {
                let (mock, expected) = (asked[n % 4], &expected[n % 4]);
                scope.spawn(move || {
                    let through =
                        got(relay, &chat(&format!("{CHAT}?mock_rate=400&mock_{mock}"), ""));
                    assert_eq!(through.whole, n % 4 < 2, "{mock}");
                    if through.whole {
                        assert!(through.body == expected.body, "{mock}");
                        return;
                    }
                    // Whole frames, and then what the relay says of it.
                    let text = through.text();
                    let frames = text.rsplit("data: {\"error\"").nth(1).expect("it is told");
                    let direct = expected.text();
                    assert!(
                        direct.starts_with(frames) && direct.len() < frames.len() + 400,
                        "{mock}"
                    );
                });
            }
        });
        assert_ended(server, Outcome::Done, 24);
        assert_ended(server, Outcome::UpstreamTruncated, 12);
        assert_ended(server, Outcome::UpstreamReset, 12);
    });
}

#[test]
fn an_http_1_0_client_gets_a_body_that_the_close_ends_or_a_reset() {
    with_mock("", |upstream, relay, _| {
        let old = |target: &str| chat(target, "").replace("HTTP/1.1", "HTTP/1.0");
        let through = got(relay, &old(CHAT));
        assert_eq!(through.head.field("transfer-encoding"), None);
        assert!(through.whole);
        assert_eq!(through.body, got(upstream, &chat(CHAT, "")).body);
        let mut stream = connect(relay);
        stream.write_all(old(&format!("{CHAT}?mock_truncate=700")).as_bytes()).expect("sends");
        let mut bytes = Vec::new();
        assert!(stream.read_to_end(&mut bytes).is_err(), "a cut body must end in a reset");
    });
}

#[test]
fn keep_alive_pipelining_and_the_pool() {
    with_mock("", |_, relay, server| {
        let mut stream = connect(relay);
        let both = [chat(CHAT, ""), chat("/v1/messages", ""), chat("/echo", "")].concat();
        stream.write_all(both.as_bytes()).expect("sends");
        let mut whole = Vec::new();
        for _ in 0..3 {
            // The answers stand one behind the other; a byte at a time keeps them apart.
            whole.push(read_exactly_one(&mut stream));
        }
        assert!(whole[0].contains("[DONE]") && whole[1].contains("message_stop"));
        assert!(whole[2].contains("\"m-1\""));
        let reuses: u64 = server.metrics.iter().map(|m| m.upstream_reuses.get()).sum();
        assert_eq!(reuses, 2);
    });
}

/// Reads one response a byte at a time, so that nothing of the next is taken.
fn read_exactly_one(stream: &mut std::net::TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a head");
        bytes.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
    let mut body = Vec::new();
    if let Some(at) = head.find("content-length: ") {
        let length = head[at + 16..].split('\r').next().expect("a line").parse().expect("a number");
        body.resize(length, 0);
        stream.read_exact(&mut body).expect("a body");
    } else {
        while !body.ends_with(b"0\r\n\r\n") {
            stream.read_exact(&mut byte).expect("a body");
            body.push(byte[0]);
        }
    }
    String::from_utf8_lossy(&body).into_owned()
}

#[test]
fn a_client_that_leaves_cancels_upstream_at_once_streaming_or_silent() {
    with_mock("", |upstream, relay, server| {
        for (pause, first) in
            [("rate=50", true), ("stall=2:60000", true), ("head_delay=60000", false)]
        {
            let gone_before = ended(server, Outcome::ClientGone);
            let target = format!("{CHAT}?mock_tokens=5000&mock_{pause}");
            let mut stream = connect(relay);
            stream.write_all(chat(&target, "").as_bytes()).expect("sends");
            if first {
                let _ = stream.read(&mut [0; 100]).expect("a first byte");
            } else {
                eventually("the request is waiting", || {
                    got(upstream, "GET /stats HTTP/1.1\r\nHost: t\r\n\r\n")
                        .text()
                        .contains("\"active\":1")
                });
            }
            drop(stream);
            eventually("the mock sees it", || {
                got(upstream, "GET /stats HTTP/1.1\r\nHost: t\r\n\r\n")
                    .text()
                    .contains("\"active\":0")
            });
            eventually("it is accounted for", || {
                ended(server, Outcome::ClientGone) == gone_before + 1
            });
        }
        eventually("all is released", || server.metrics[0].streams_active.get() == 0);
    });
}

#[test]
fn retries_before_the_first_byte() {
    with_mock("--retry-status 503", |_, relay, server| {
        let target = format!("{CHAT}?mock_fail_first=2:503&mock_key=a");
        let answer = got(relay, &chat(&target, ""));
        assert_eq!((answer.head.status(), answer.whole), (200, true));
        assert_eq!(server.metrics[0].retries.get(), 2);
        let answer = got(relay, &chat(&format!("{CHAT}?mock_fail_first=3:503&mock_key=b"), ""));
        assert_eq!(answer.head.status(), 503, "two retries are all");
        // A fresh connection that had the POST is not retried unless told.
        let before = server.metrics[0].retries.get();
        let answer = got(relay, &chat(&format!("{CHAT}?mock_status=500"), "Connection: close\r\n"));
        assert_eq!(answer.head.status(), 500);
        assert_eq!(server.metrics[0].retries.get(), before);
    });
}

#[test]
fn a_dead_upstream_is_502_in_the_words_of_the_dialect() {
    for io in drivers() {
        let nobody =
            std::net::TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound");
        let server = relay(nobody, io, "");
        let answer = got(server.addresses[0], &chat("/v1/messages", ""));
        assert_eq!(answer.head.status(), 502);
        let json: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(json["type"], "error");
        assert_ended(&server, Outcome::UpstreamUnreachable, 1);
        assert_eq!(server.metrics[0].retries.get(), 2);
        stop(server);
    }
}

#[test]
fn smuggling_shapes_of_responses_are_refused() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
        b"nonsense\r\n\r\n",
    ] {
        for io in drivers() {
            let server = relay(scripted(answer), io, "");
            let through = got(server.addresses[0], &chat(CHAT, ""));
            assert_eq!(through.head.status(), 502, "{}", String::from_utf8_lossy(answer));
            assert_ended(&server, Outcome::UpstreamProtocol, 1);
            assert_eq!(server.metrics[0].pool_idle.get(), 0, "never pooled");
            stop(server);
        }
    }
}

#[test]
fn bad_requests_get_one_clear_answer_and_the_close() {
    with_mock("--max-body-bytes 1k", |_, relay, _| {
        for (request, status) in [
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/3.0\r\nHost: a\r\n\r\n".to_owned(), 505),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 501),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_owned(), 501),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n".to_owned(), 413),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(), 400),
            (format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n{}", "x".repeat(2000)), 413),
            (format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "x".repeat(40_000)), 431),
        ] {
            let answer = got(relay, &request);
            assert_eq!(answer.head.status(), status, "{}", &request[..request.len().min(100)]);
            assert!(!answer.head.keep_alive() && answer.whole);
        }
    });
}

#[test]
fn bodies_up_and_down_of_every_kind() {
    with_mock("", |_, relay, _| {
        let chunked = "POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n4\r\ndefg\r\n0\r\nA: b\r\n\r\n";
        assert_eq!(got(relay, chunked).text(), "abcdefg");
        let large = "x".repeat(5_000_000);
        let request = format!(
            "POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{large}",
            large.len()
        );
        assert_eq!(got(relay, &request).text(), large);
        let expect = chat("/echo", "Expect: 100-continue\r\n");
        assert!(got(relay, &expect).text().contains("m-1"));
        let head = got(relay, "HEAD /healthz HTTP/1.1\r\nHost: t\r\n\r\n");
        assert_eq!((head.head.status(), head.body.len()), (200, 0));
        assert!(head.head.field("content-length").is_some());
        assert_eq!(got(relay, "OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n").head.status(), 200);
    });
}

#[test]
fn silence_brings_heartbeats_between_frames_in_the_dialects_own_shape() {
    with_mock("--heartbeat 1s", |_, relay, server| {
        let target = "/v1/messages?mock_tokens=4&mock_stall=4:2500";
        let text = got(relay, &chat(target, "")).text();
        assert_eq!(
            text.matches("event: ping\n").count(),
            3,
            "the mock's own and two of ours: {text}"
        );
        assert_eq!(server.metrics[0].heartbeats.get(), 2);
    });
}

#[test]
fn timeouts_have_their_own_names() {
    with_mock(
        "--first-byte-timeout 300ms --idle-timeout 400ms --stream-timeout 900ms",
        |_, relay, server| {
            let late = got(relay, &chat(&format!("{CHAT}?mock_head_delay=60000"), ""));
            assert_eq!(late.head.status(), 504);
            assert_ended(server, Outcome::FirstByteTimeout, 1);
            let late = got(relay, &chat(&format!("{CHAT}?mock_first_delay=60000"), ""));
            assert!(!late.whole && late.text().contains("first_byte_timeout"));
            let idle = got(relay, &chat(&format!("{CHAT}?mock_stall=3:60000"), ""));
            assert!(!idle.whole && idle.text().contains("idle_timeout"));
            let long = got(relay, &chat(&format!("{CHAT}?mock_rate=50&mock_tokens=5000"), ""));
            assert!(!long.whole && long.text().contains("stream_timeout"));
        },
    );
}

/// The whole stream's limit held only once its head had come: a provider that never sent one
/// outlasted it.
#[test]
fn the_streams_limit_counts_from_the_request() {
    with_mock("--stream-timeout 200ms", |_, relay, server| {
        let late = got(relay, &chat(&format!("{CHAT}?mock_head_delay=60000"), ""));
        assert_eq!(late.head.status(), 504);
        assert!(late.text().contains("stream_timeout"), "{}", late.text());
        assert_ended(server, Outcome::StreamTimeout, 1);
        assert_eq!(server.metrics[0].retries.get(), 0);
    });
}

#[test]
fn a_reader_that_stalls_pauses_upstream_and_is_given_up() {
    with_mock("--write-timeout 1s --high-water-mark 64k", |_, relay, server| {
        let mut stream = connect(relay);
        let target = format!("{CHAT}?mock_tokens=200000&mock_size=200");
        stream.write_all(chat(&target, "").as_bytes()).expect("sends");
        let _ = stream.read(&mut [0; 100]).expect("a first byte");
        eventually("given up", || ended(server, Outcome::ClientStalled) == 1);
        assert!(server.metrics[0].pauses.get() >= 1);
        drop(stream);
    });
}

#[test]
fn a_slow_reader_gets_every_byte() {
    with_mock("--high-water-mark 16k", |upstream, relay, server| {
        let target = format!("{CHAT}?mock_tokens=20000&mock_size=200");
        let expected = got(upstream, &chat(&target, ""));
        let mut stream = connect(relay);
        stream.write_all(chat(&target, "").as_bytes()).expect("sends");
        let admin = server.admin.expect("an admin listener");
        eventually("it shows as paused", || {
            let live = got(admin, "GET /streams HTTP/1.1\r\nHost: t\r\n\r\n").text();
            live.contains("\"state\":\"paused\"")
        });
        assert!(server.metrics[0].pauses.get() > 0);
        let through = read_response(&mut stream, "POST").expect("an answer");
        assert!(through.whole && through.body == expected.body);
        assert!(server.metrics[0].resumes.get() > 0);
        // Each crossing is counted once, in the turn that reads and writes at a stroke as well.
        let metrics = &server.metrics[0];
        assert_eq!(metrics.resumes.get(), metrics.pauses.get());
    });
}

#[test]
fn over_the_limit_is_503_with_retry_after() {
    with_mock("--max-streams 1", |_, relay, server| {
        let mut holder = connect(relay);
        holder.write_all(chat(&format!("{CHAT}?mock_rate=1"), "").as_bytes()).expect("sends");
        let _ = holder.read(&mut [0; 100]).expect("a first byte");
        let refused = got(relay, &chat(CHAT, ""));
        assert_eq!(refused.head.status(), 503);
        assert_eq!(refused.head.field("retry-after"), Some(&b"1"[..]));
        assert_ended(server, Outcome::Overloaded, 1);
        drop(holder);
        eventually("a place is free", || server.metrics[0].streams_active.get() == 0);
        assert!(got(relay, &chat(CHAT, "")).whole);
    });
}

#[test]
fn drain_lets_streams_finish_and_ends_idle_connections() {
    for io in drivers() {
        let server = relay(mock(), io, "--drain-grace 20s");
        let addr = server.addresses[0];
        let mut idle = connect(addr);
        idle.write_all(chat(CHAT, "").as_bytes()).expect("sends");
        read_exactly_one(&mut idle);
        let mut streaming = connect(addr);
        let target = format!("{CHAT}?mock_tokens=40&mock_rate=40");
        streaming.write_all(chat(&target, "").as_bytes()).expect("sends");
        eventually("it streams", || server.metrics[0].streams_active.get() == 1);
        let admin = server.admin.expect("on");
        let ready =
            |status| got(admin, "GET /readyz HTTP/1.1\r\nHost: t\r\n\r\n").head.status() == status;
        assert!(ready(200));
        server.drain();
        assert!(ready(503));
        assert_eq!(idle.read(&mut [0; 10]).expect("closed in order"), 0);
        let begun = Instant::now();
        let through = read_response(&mut streaming, "POST").expect("an answer");
        assert!(through.whole && through.text().contains("[DONE]"));
        server.wait(&|| begun.elapsed() > Duration::from_secs(15));
        assert!(begun.elapsed() < Duration::from_secs(15), "it ended by itself");
    }
}

#[test]
fn the_end_of_the_grace_cuts_with_a_word() {
    for io in drivers() {
        let server = relay(mock(), io, "");
        let mut stream = connect(server.addresses[0]);
        stream
            .write_all(chat(&format!("{CHAT}?mock_stall=2:60000"), "").as_bytes())
            .expect("sends");
        eventually("it streams", || server.metrics[0].frames.get() >= 2);
        server.end();
        let through = read_response(&mut stream, "POST").expect("an answer");
        assert!(!through.whole && through.text().contains("drained"), "{}", through.text());
        server.wait(&|| true);
    }
}

#[test]
fn the_admin_listener_tells() {
    with_mock("", |_, relay, server| {
        let admin = server.admin.expect("on");
        let get = |path: &str| got(admin, &format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n"));
        let mut stream = connect(relay);
        stream
            .write_all(chat(&format!("{CHAT}?mock_rate=2"), "X-Request-Id: seen-1\r\n").as_bytes())
            .expect("sends");
        eventually("it streams", || server.metrics[0].frames.get() >= 1);
        assert_eq!(get("/healthz").text(), "ok\n");
        let streams: serde_json::Value =
            serde_json::from_slice(&get("/streams").body).expect("JSON");
        assert_eq!(streams[0]["request_id"], "seen-1");
        assert_eq!(streams[0]["state"], "streaming");
        assert!(get("/streams?format=text").text().contains("seen-1"));
        assert!(get("/metrics").text().contains("millstream_streams_active{worker=\"0\"} 1"));
        assert_eq!(get("/nothing").head.status(), 404);
        let mut garbage = connect(admin);
        garbage.write_all(b"\x00\xff nonsense \r\n\r\n\r\n").expect("sends");
        let _ = garbage.read(&mut [0; 100]);
        assert_eq!(get("/healthz").head.status(), 200);
    });
}

#[test]
fn a_client_that_leaves_while_the_upstream_is_connected_to_is_seen() {
    for io in drivers() {
        // A listener whose queue is full: further connections wait for an answer.
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        full.bind(&any.into()).expect("binds");
        full.listen(0).expect("listens");
        let addr = full.local_addr().expect("bound").as_socket().expect("an address");
        let fill = || std::net::TcpStream::connect_timeout(&addr, Duration::from_millis(100));
        let filling: Vec<_> = std::iter::from_fn(|| fill().ok()).take(64).collect();
        assert!(filling.len() < 64, "the queue never filled");
        let server = relay(addr, io, "");
        let mut stream = connect(server.addresses[0]);
        stream.write_all(chat(CHAT, "").as_bytes()).expect("sends");
        eventually("it connects", || server.metrics[0].upstream_connects.get() == 1);
        drop(stream);
        assert_ended(&server, Outcome::ClientGone, 1);
        stop(server);
    }
}

#[test]
fn interim_responses_that_nobody_reads_do_not_garble_the_answer() {
    let hint = format!("HTTP/1.1 103 Early Hints\r\nLink: <{}>\r\n\r\n", "x".repeat(30_000));
    let answer = hint.repeat(16) + "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let answer: &'static [u8] = answer.into_bytes().leak();
    for io in drivers() {
        let server = relay(scripted(answer), io, "");
        let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        client.set_recv_buffer_size(4096).expect("sets");
        client.connect(&server.addresses[0].into()).expect("connects");
        let mut stream: std::net::TcpStream = client.into();
        stream.write_all(chat(CHAT, "").as_bytes()).expect("sends");
        eventually("the answer is there", || server.metrics[0].responses[1].get() == 1);
        let got = read_response(&mut stream, "POST").expect("an answer");
        assert_eq!((got.head.status(), got.text().as_str(), got.whole), (200, "hello", true));
        stop(server);
    }
}

#[test]
fn an_answer_that_comes_before_the_body_is_taken_gets_through() {
    with_mock("", |_, relay, _| {
        let target = format!("{CHAT}?mock_early=413");
        // More than the sockets between them hold, so that it cannot all be on its way already.
        let large = "x".repeat(30_000_000);
        let request =
            format!("POST {target} HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", large.len());
        let mut stream = connect(relay);
        stream.write_all(request.as_bytes()).expect("sends");
        let mut reading = stream.try_clone().expect("cloned");
        let sending = std::thread::spawn(move || {
            // The relay may close while this is under way.
            let _ = stream.write_all(large.as_bytes());
        });
        let got = read_response(&mut reading, "POST").expect("an answer");
        assert_eq!((got.head.status(), got.whole, got.head.keep_alive()), (413, true, false));
        drop(reading);
        sending.join().expect("no panic");
    });
}

/// Answers a request of known length, and takes an endless one for as long as it comes.
fn patient() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accepts");
            std::thread::spawn(move || {
                let mut part = vec![0; 1 << 20];
                while let Ok(n @ 1..) = stream.read(&mut part) {
                    if part[..n].ends_with(b"]}") {
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                        stream.write_all(answer).expect("sends");
                    }
                }
            });
        }
    });
    addr
}

#[test]
fn a_client_that_never_pauses_does_not_keep_its_core_to_itself() {
    use std::sync::atomic::{AtomicBool, Ordering};
    for io in drivers() {
        let server = relay(patient(), io, "--max-body-bytes 4000g");
        let address = server.addresses[0];
        let served = AtomicBool::new(false);
        let mut stream = connect(address);
        let head = format!("POST {CHAT} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("sends");
        let chunk = [b"100000\r\n".as_slice(), &vec![b'x'; 0x10_0000], b"\r\n"].concat();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !served.load(Ordering::Relaxed) {
                    stream.write_all(&chunk).expect("is taken all the while");
                }
            });
            for _ in 0..10 {
                assert_eq!(got(address, &chat(CHAT, "")).text(), "ok");
            }
            served.store(true, Ordering::Relaxed);
        });
        stop(server);
    }
}
