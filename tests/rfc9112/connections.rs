//! Which bytes belong to which message, and which connections may be used again.

use std::io::{Read, Write};
use std::net::TcpStream;

use millstream::outcome::Outcome;

use crate::support::{ask, eventually};
use crate::wire::{Between, Close, Keep, OK, get, message, through};

/// Asserts that the relay closes in order, with nothing more to say.
fn assert_closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("closed in order");
    assert_eq!(String::from_utf8_lossy(&rest), "");
}

fn idle(between: &Between) -> i64 {
    between.server.metrics[0].pool_idle.get()
}

#[test]
fn rfc9112_9_3_a_connection_persists_unless_a_side_says_otherwise() {
    through("", &[Keep(OK)], |between| {
        for (version, fields, persists) in [
            ("1.1", "", true),
            ("1.1", "Connection: keep-alive\r\n", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: x, Close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let request = get(fields).replace("HTTP/1.1", &format!("HTTP/{version}"));
            let mut stream = between.send(&request);
            let answer = message(&mut stream, true).expect("an answer");
            let said = answer.field("connection");
            match (version, persists) {
                ("1.1", true) => assert_eq!(said, None),
                (_, true) => assert_eq!(said, Some("keep-alive")),
                (_, false) => assert_eq!(said, Some("close")),
            }
            if persists {
                stream.write_all(request.as_bytes()).expect("sends");
                assert_eq!(message(&mut stream, true).expect("another answer").body, "ok");
            } else {
                assert_closed(stream);
            }
        }
    });
}

#[test]
fn rfc9112_9_3_an_answer_of_the_relays_own_never_leaves_a_1_0_client_waiting() {
    through("--retries 0", &[Close("")], |between| {
        let request = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
        let mut stream = between.send(request);
        let answer = message(&mut stream, true).expect("an answer");
        assert_eq!((answer.status(), answer.field("connection")), (502, Some("close")));
        assert_closed(stream);
    });
}

#[test]
fn rfc9112_9_3_2_pipelined_requests_are_answered_in_order() {
    const FIRST: &str =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n";
    const SECOND: &str = "HTTP/1.1 404 No\r\nContent-Length: 3\r\n\r\ntwo";
    const THIRD: &str = "HTTP/1.1 200 OK\r\n\r\nthree";
    through("", &[Keep(FIRST), Keep(SECOND), Close(THIRD)], |between| {
        let post = "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
        let mut stream = between.send(&[&get(""), post, &get("")].concat());
        for expected in ["one", "two", "three"] {
            assert_eq!(message(&mut stream, true).expect("an answer").body, expected);
        }
        let asked = [(); 3].map(|()| between.asked());
        assert_eq!(asked[1].body, "hello");
        assert!(asked[1].head.starts_with("POST /b ") && asked[2].head.starts_with("GET /x "));
    });
}

#[test]
fn rfc9112_9_6_nothing_behind_a_request_with_close_is_taken() {
    through("", &[Keep(OK)], |between| {
        let mut stream = between.send(&[get("Connection: close\r\n"), get("")].concat());
        let answer = message(&mut stream, true).expect("an answer");
        assert_eq!(answer.field("connection"), Some("close"));
        assert_closed(stream);
        between.asked();
        between.assert_unasked();
    });
}

#[test]
fn rfc9112_9_6_no_reset_meets_a_body_that_is_still_coming_behind_its_answer() {
    through("--max-body-bytes 1k", &[Keep(OK)], |between| {
        let mut stream =
            between.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 400000\r\n\r\n");
        let answer = message(&mut stream, true).expect("an answer");
        assert_eq!((answer.status(), answer.field("connection")), (413, Some("close")));
        // The relay has said that it closes; what is on its way all the same is taken.
        assert_eq!(stream.read(&mut [0; 10]).expect("closed in order"), 0);
        for _ in 0..40 {
            stream.write_all(&[b'x'; 10_000]).expect("no reset");
        }
        between.assert_unasked();
    });
}

#[test]
fn rfc9112_8_an_incomplete_request_stays_incomplete_upstream() {
    through("", &[Keep(OK)], |between| {
        for request in [
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        ] {
            let stream = between.send(request);
            let admin = between.server.admin.expect("on");
            // It waits for the answer when it has sent what there is of the request.
            eventually("it is on its way", || {
                let live = ask(admin, "GET /streams HTTP/1.1\r\nHost: t\r\n\r\n");
                live.is_some_and(|live| live.text().contains("\"state\":\"waiting\""))
            });
            drop(stream);
            let asked = between.asked();
            assert!(!asked.whole, "{request:?} became whole: {:?}", asked.body);
        }
        between.assert_ended(Outcome::ClientGone, 3);
        assert_eq!(idle(between), 0, "never pooled");
    });
}

#[test]
fn rfc9112_8_an_incomplete_response_stays_incomplete_and_its_connection_is_not_used_again() {
    const SHORT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
    const CHUNKS: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n";
    const BROKEN: &str =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n";
    through("", &[Close(SHORT), Close(CHUNKS), Keep(BROKEN), Keep(OK)], |between| {
        for n in 0..3 {
            let answer = between.ask(&get(""));
            assert_eq!((answer.status(), answer.whole), (200, false), "answer {n}");
            assert_eq!((between.asked().connection, idle(between)), (n, 0));
        }
        assert_eq!(between.ask(&get("")).body, "ok");
        assert_eq!(between.asked().connection, 3);
    });
}

#[test]
fn rfc9112_8_an_incomplete_head_is_no_response() {
    through("--retries 0", &[Close("HTTP/1.1 200 OK\r\nContent-Le"), Close("")], |between| {
        for _ in 0..2 {
            assert_eq!(between.ask(&get("")).status(), 502);
        }
        assert_eq!(idle(between), 0);
    });
}

#[test]
fn rfc9112_9_3_what_an_upstream_says_of_its_connection_is_obeyed() {
    const LAST: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    const OLD: &str = "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const OLD_KEPT: &str =
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok";
    through("", &[Keep(OK), Keep(LAST), Keep(OLD), Keep(OLD_KEPT), Keep(OK)], |between| {
        let mut stream = between.send(&get("").repeat(5));
        for connection in [0, 0, 1, 2, 2] {
            let answer = message(&mut stream, true).expect("an answer");
            assert_eq!((answer.body.as_str(), answer.field("connection")), ("ok", None));
            assert_eq!(between.asked().connection, connection);
        }
    });
}

/// Response splitting: whatever stands behind a response is nobody's answer.
#[test]
fn rfc9112_11_1_bytes_behind_a_response_are_never_the_next_answer() {
    const TWO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\
        HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    const CHUNKS: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n\
        HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    const NONE: &str = "HTTP/1.1 204 No\r\nContent-Length: 40\r\n\r\n\
        HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    const EMPTY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n\
        HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    through("", &[Keep(TWO), Keep(CHUNKS), Keep(NONE), Keep(EMPTY), Keep(OK)], |between| {
        let mut stream = between.send(&get("").repeat(5));
        for (connection, body) in ["ok", "ok", "", "", "ok"].into_iter().enumerate() {
            let answer = message(&mut stream, true).expect("an answer");
            assert_eq!(answer.body, body);
            assert_eq!(between.asked().connection, connection, "each over a fresh connection");
        }
    });
}

#[test]
fn rfc9112_9_2_an_answer_to_no_request_closes_the_idle_connection_it_came_over() {
    for io in crate::support::drivers() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        listener.set_nonblocking(true).expect("sets");
        let addr = listener.local_addr().expect("bound");
        let server = crate::support::relay(addr, io, "");
        let mut client = crate::support::connect(server.addresses[0]);
        let mut exchange = || {
            client.write_all(get("").as_bytes()).expect("sends");
            let mut fresh = None;
            eventually("a fresh connection", || {
                fresh = listener.accept().ok();
                fresh.is_some()
            });
            let (mut upstream, _) = fresh.expect("just seen");
            message(&mut upstream, true).expect("a request");
            upstream.write_all(OK.as_bytes()).expect("sends");
            assert_eq!(message(&mut client, true).expect("an answer").body, "ok");
            upstream
        };
        let mut idle = exchange();
        eventually("it is pooled", || server.metrics[0].pool_idle.get() == 1);
        idle.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").expect("sends");
        exchange();
        assert_eq!(server.metrics[0].pool_dead.get(), 1);
        crate::support::stop(server);
    }
}

#[test]
fn rfc9112_6_3_responses_of_ambiguous_framing_are_502_and_end_their_connection() {
    const BAD: &[crate::wire::Answer] = &[
        Keep("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        Keep("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        Keep("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello"),
        Keep("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello"),
        Keep("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\nhello"),
        Keep("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        Keep("HTTP/1.1 200 OK\r\nA: b\r\n Content-Length: 5\r\n\r\nhello"),
        Keep("HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello"),
        Keep("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"),
        Keep("HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n"),
        Keep("HTTP/1.1 200 OK\r\nA: b\u{0}\r\nContent-Length: 5\r\n\r\nhello"),
        Keep("nonsense\r\n\r\n"),
    ];
    through("--retries 0", BAD, |between| {
        for n in 0..BAD.len() {
            let answer = between.ask(&get(""));
            assert_eq!((answer.status(), answer.whole), (502, true), "answer {n}");
            assert_eq!((between.asked().connection, idle(between)), (n, 0), "answer {n}");
        }
        between.assert_ended(Outcome::UpstreamProtocol, BAD.len() as u64);
    });
}

#[test]
fn rfc9112_11_2_ambiguous_requests_are_400_and_nothing_behind_them_is_taken() {
    through("", &[Keep(OK)], |between| {
        let hidden = get("");
        for request in [
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nA: b\r\n Content-Length: 44\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nA: b\nContent-Length: 44\r\n\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        ] {
            let mut stream = between.send(&format!("{request}{hidden}"));
            let answer = message(&mut stream, true).expect("an answer");
            let status = answer.status();
            assert_eq!((status, answer.field("connection")), (400, Some("close")), "{request:?}");
            assert_closed(stream);
        }
        between.assert_unasked();
    });
}

#[test]
fn rfc9112_11_2_a_request_within_a_body_is_payload() {
    through("", &[Keep(OK)], |between| {
        let hidden = get("");
        let length = hidden.len();
        let request =
            format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{hidden}");
        let chunked = format!(
            "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
             {length:x}\r\n{hidden}\r\n0\r\n\r\n"
        );
        let mut stream = between.send(&[request, chunked].concat());
        for path in ["/a", "/b"] {
            assert_eq!(message(&mut stream, true).expect("an answer").body, "ok");
            let asked = between.asked();
            assert!(asked.head.starts_with(&format!("POST {path} ")), "{}", asked.head);
            assert_eq!(asked.body, hidden);
        }
        between.assert_unasked();
    });
}

#[test]
fn rfc9112_7_1_a_broken_chunk_of_a_request_is_400_and_never_whole_upstream() {
    through("", &[Keep(OK)], |between| {
        for size in ["zz", "fffffffffffffffff", "-1", ""] {
            let mut stream = between.send(&format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2\r\nhi\r\n{size}\r\nhello\r\n0\r\n\r\n{}",
                get("")
            ));
            let answer = message(&mut stream, true).expect("an answer");
            assert_eq!((answer.status(), answer.field("connection")), (400, Some("close")));
            assert_closed(stream);
        }
        between.assert_ended(Outcome::RequestRefused, 4);
        while let Some(asked) = between.asked_already() {
            assert!(!asked.whole, "{asked:?}");
        }
    });
}

#[test]
fn rfc9110_15_5_messages_beyond_the_limits_are_told_apart() {
    through("--max-body-bytes 1k", &[Keep(OK)], |between| {
        let long = "x".repeat(40_000);
        let chunk = "x".repeat(2000);
        for (request, status) in [
            (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
            (get(&format!("A: {long}\r\n")), 431),
            (get(&"A: b\r\n".repeat(200)), 431),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n".to_owned(), 413),
            (
                format!(
                    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n{chunk}"
                ),
                413,
            ),
            ("GET / HTTP/3.0\r\nHost: a\r\n\r\n".to_owned(), 505),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".to_owned(),
                501,
            ),
        ] {
            let answer = between.ask(&request);
            assert_eq!((answer.status(), answer.field("connection")), (status, Some("close")));
        }
    });
}

#[test]
fn rfc9112_6_1_a_1_0_client_never_sees_chunks_and_its_cut_body_is_a_reset() {
    const CHUNKS: &str =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    const CUT: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n";
    through("", &[Keep(CHUNKS), Close(CUT)], |between| {
        let request = "GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
        let answer = between.ask(request);
        assert_eq!((answer.body.as_str(), answer.whole), ("ok", true));
        assert_eq!(answer.field("transfer-encoding"), None);
        assert_eq!(answer.field("connection"), Some("close"));
        let mut stream = between.send(request);
        let mut all = Vec::new();
        assert!(stream.read_to_end(&mut all).is_err(), "a close would make it whole");
    });
}

#[test]
fn rfc9112_6_3_a_request_of_length_0_keeps_both_connections() {
    through("", &[Keep(OK)], |between| {
        let request = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
        let mut stream = between.send(&request.repeat(3));
        for _ in 0..3 {
            let answer = message(&mut stream, true).expect("an answer");
            assert_eq!((answer.body.as_str(), answer.field("connection")), ("ok", None));
            let asked = between.asked();
            assert_eq!((asked.connection, asked.field("content-length")), (0, Some("0")));
        }
    });
}

#[test]
fn rfc9110_15_5_9_a_head_that_does_not_come_is_408_and_silence_is_no_request() {
    through("--head-timeout 200ms", &[Keep(OK)], |between| {
        let mut stream = between.send("GET / HTTP/1.1\r\nHost: a\r\n");
        let answer = message(&mut stream, true).expect("an answer");
        assert_eq!((answer.status(), answer.field("connection")), (408, Some("close")));
        assert_closed(stream);
        assert_closed(between.send(""));
        between.assert_ended(Outcome::RequestTimeout, 1);
        between.assert_ended(Outcome::RequestRefused, 0);
        between.assert_unasked();
    });
}
