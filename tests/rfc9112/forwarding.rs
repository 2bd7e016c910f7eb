//! What a relay passes on, changes and keeps to itself.

use std::io::{Read, Write};

use crate::wire::{Close, Keep, OK, get, message, through};

#[test]
fn rfc9110_7_6_1_hop_by_hop_and_nominated_fields_end_here() {
    const ANSWER: &str = "HTTP/1.1 103 Early\r\nConnection: X-Hint\r\nX-Hint: 1\r\nLink: </x>\r\n\r\n\
        HTTP/1.1 200 OK\r\nConnection: x-hop, Keep-Alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
        Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\nTrailer: X-Sum\r\nX-End: 2\r\n\
        Content-Length: 2\r\n\r\nok";
    through("", &[Keep(ANSWER)], |between| {
        let mut stream = between.send(&get(
            "Connection: close, X-Hop\r\nconnection: x-other\r\nX-Hop: 1\r\nX-Other: 2\r\n\
             Keep-Alive: 5\r\nProxy-Connection: x\r\nProxy-Authorization: Basic eA==\r\n\
             TE: trailers\r\nTrailer: X-Sum\r\nX-End: 3\r\n",
        ));
        let hint = message(&mut stream, true).expect("an interim response");
        assert_eq!((hint.status(), hint.field("link")), (103, Some("</x>")));
        assert_eq!((hint.field("x-hint"), hint.field("connection")), (None, None));
        let answer = message(&mut stream, true).expect("an answer");
        let asked = between.asked();
        for name in [
            "x-hop",
            "x-other",
            "keep-alive",
            "proxy-connection",
            "proxy-authorization",
            "proxy-authenticate",
            "te",
            "trailer",
            "upgrade",
        ] {
            assert_eq!((asked.field(name), answer.field(name)), (None, None), "{name}");
        }
        assert_eq!((asked.field("connection"), answer.field("connection")), (None, Some("close")));
        assert_eq!((asked.field("x-end"), answer.field("x-end")), (Some("3"), Some("2")));
    });
}

/// "A sender MUST NOT send a connection option corresponding to a field intended for all
/// recipients": one that does so all the same does not get to strip what the message means.
#[test]
fn rfc9110_7_6_1_connection_cannot_nominate_what_gives_the_message_its_meaning() {
    through("", &[Keep(OK)], |between| {
        between.ask(&get(
            "Connection: Authorization, Content-Type, X-Forwarded-For\r\nAuthorization: Bearer k\r\n\
             Content-Type: a/b\r\nX-Forwarded-For: 9.9.9.9\r\n",
        ));
        let asked = between.asked();
        assert_eq!(asked.field("authorization"), Some("Bearer k"));
        assert_eq!(asked.field("content-type"), Some("a/b"));
        assert_eq!(asked.field("x-forwarded-for"), Some("9.9.9.9, 127.0.0.1"));
    });
}

#[test]
fn rfc9110_7_6_2_max_forwards_is_counted_down_and_ends_at_zero() {
    through("", &[Keep(OK)], |between| {
        for (method, given, expected) in [
            ("OPTIONS", "10", "9"),
            ("TRACE", "1", "0"),
            ("TRACE", "99999999999999999999", "4294967294"),
            ("GET", "10", "10"),
        ] {
            let request = get(&format!("Max-Forwards: {given}\r\n")).replacen("GET", method, 1);
            assert_eq!(between.ask(&request).status(), 200);
            assert_eq!(between.asked().field("max-forwards"), Some(expected), "{method}");
        }
        for method in ["OPTIONS", "TRACE"] {
            let request = get("Max-Forwards: 0\r\n").replacen("GET", method, 1);
            assert_eq!(between.ask(&request).status(), 501);
        }
        between.assert_unasked();
    });
}

#[test]
fn rfc9110_7_6_3_via_is_added_with_the_version_received() {
    through("", &[Keep(OK)], |between| {
        between.ask(&get("Via: 1.0 first\r\nVia: 1.1 second (a, b)\r\n"));
        let asked = between.asked();
        assert_eq!(asked.all("via"), ["1.0 first, 1.1 second (a, b), 1.1 millstream"]);
        between.ask("GET /x HTTP/1.0\r\n\r\n");
        assert_eq!(between.asked().all("via"), ["1.0 millstream"]);
    });
}

#[test]
fn rfc9110_7_2_host_is_the_upstreams_and_the_targets_host_is_told_beside() {
    through("", &[Keep(OK)], |between| {
        let upstream = between.ask(&get("")).status();
        assert_eq!(upstream, 200);
        let asked = between.asked();
        assert_eq!(asked.all("host").len(), 1);
        assert!(asked.field("host").is_some_and(|host| host.starts_with("127.0.0.1:")));
        assert_eq!(asked.field("x-forwarded-host"), Some("front"));
        assert!(asked.head.starts_with("GET /x HTTP/1.1\r\n"), "{}", asked.head);
        between.ask("GET http://other:1/y?z HTTP/1.1\r\nHost: front\r\n\r\n");
        let asked = between.asked();
        assert!(asked.head.starts_with("GET /y?z HTTP/1.1\r\n"), "{}", asked.head);
        assert_eq!(asked.field("x-forwarded-host"), Some("other:1"));
        between.ask("OPTIONS http://other HTTP/1.1\r\nHost: front\r\n\r\n");
        assert!(between.asked().head.starts_with("OPTIONS * HTTP/1.1\r\n"));
    });
}

#[test]
fn rfc9110_10_1_1_expect_100_continue_goes_up_and_the_100_comes_down() {
    const ANSWERS: &str =
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    through("", &[Keep(ANSWERS)], |between| {
        let expecting =
            "POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
        let mut stream = between.send(&format!("{expecting}hello"));
        assert_eq!(message(&mut stream, true).expect("an interim response").status(), 100);
        assert_eq!(message(&mut stream, true).expect("an answer").status(), 200);
        let asked = between.asked();
        assert_eq!((asked.field("expect"), asked.body.as_str()), (Some("100-continue"), "hello"));
        // An HTTP/1.0 client cannot mean it: neither goes the one up nor the other down.
        let answer = between.ask(&format!("{}hello", expecting.replace("HTTP/1.1", "HTTP/1.0")));
        assert_eq!((answer.status(), between.asked().field("expect")), (200, None));
        // Without a body there is nothing to wait for.
        assert_eq!(between.ask(&get("Expect: 100-continue\r\n")).status(), 100);
        assert_eq!(between.asked().field("expect"), None);
    });
}

#[test]
fn rfc9110_10_1_1_a_final_answer_instead_of_100_ends_the_connection_with_the_body_unsent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                head.push(byte[0]);
            }
            let _ = stream.write_all(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno");
            let _ = stream.read(&mut byte);
        }
    });
    for io in crate::support::drivers() {
        let server = crate::support::relay(addr, io, "");
        let mut stream = crate::support::connect(server.addresses[0]);
        let request =
            "POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("sends");
        let answer = message(&mut stream, true).expect("an answer");
        // What the client sends now could be the body or a request: nobody may guess.
        assert_eq!((answer.status(), answer.field("connection")), (403, Some("close")));
        assert_eq!(stream.read(&mut [0; 10]).expect("closed in order"), 0);
        assert_eq!(server.metrics[0].pool_idle.get(), 0);
        crate::support::stop(server);
    }
}

#[test]
fn rfc9110_15_2_interim_responses_reach_1_1_clients_and_no_1_0_client() {
    const ANSWERS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
        HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    through("", &[Keep(ANSWERS)], |between| {
        let mut stream = between.send(&get(""));
        let statuses = [(); 3].map(|()| message(&mut stream, true).expect("a response").status());
        assert_eq!(statuses, [103, 102, 200]);
        assert_eq!(between.ask("GET /x HTTP/1.0\r\n\r\n").status(), 200);
    });
}

#[test]
fn rfc9110_6_6_1_a_response_without_date_gets_one_and_another_is_kept() {
    const DATED: &str =
        "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 2\r\n\r\nok";
    through("", &[Keep(OK), Keep(DATED)], |between| {
        let dated = between.ask(&get(""));
        let date = dated.field("date").expect("a date");
        let date = httpdate::parse_http_date(date).expect("an HTTP date");
        assert!(date <= std::time::SystemTime::now());
        assert_eq!(between.ask(&get("")).all("date"), ["Thu, 01 Jan 1970 00:00:00 GMT"]);
        let refused = between.ask("GET / HTTP/1.1\r\n\r\n");
        assert_eq!((refused.status(), refused.all("date").len()), (400, 1));
    });
}

#[test]
fn rfc9110_7_8_upgrade_is_refused_or_ignored_and_never_passed_on() {
    through("", &[Keep(OK)], |between| {
        let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n";
        assert_eq!(between.ask(&get(fields)).status(), 501);
        between.assert_unasked();
        let fields =
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n";
        assert_eq!(between.ask(&get(fields)).status(), 200);
        let asked = between.asked();
        assert_eq!((asked.field("upgrade"), asked.field("http2-settings")), (None, None));
    });
}

#[test]
fn rfc9110_9_3_6_connect_is_refused() {
    through("", &[Keep(OK)], |between| {
        let answer = between.ask("CONNECT inner:22 HTTP/1.1\r\nHost: inner:22\r\n\r\n");
        assert_eq!((answer.status(), answer.field("connection")), (501, Some("close")));
        between.assert_unasked();
    });
}

#[test]
fn rfc9110_9_3_2_an_answer_to_head_keeps_its_length_and_has_no_body() {
    const ANSWER: &str =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 1234\r\n\r\n";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    through("", &[Keep(ANSWER), Keep(CHUNKED), Keep(OK)], |between| {
        let head = get("").replacen("GET", "HEAD", 1);
        let mut stream = between.send(&format!("{head}{head}"));
        let answer = message(&mut stream, false).expect("an answer");
        assert_eq!((answer.status(), answer.field("content-length")), (200, Some("1234")));
        let answer = message(&mut stream, false).expect("an answer");
        assert_eq!((answer.status(), answer.field("content-length")), (200, None));
        assert_eq!(between.asked().connection, between.asked().connection, "reused behind it");
    });
}

#[test]
fn rfc9110_8_6_no_content_has_no_length_and_not_modified_keeps_it() {
    const NONE: &str = "HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n";
    const SAME: &str = "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: \"x\"\r\n\r\n";
    through("", &[Keep(NONE), Keep(SAME), Keep(OK)], |between| {
        let mut stream = between.send(&get("").repeat(3));
        let none = message(&mut stream, true).expect("an answer");
        assert_eq!((none.status(), none.field("content-length")), (204, None));
        assert_eq!(none.field("transfer-encoding"), None);
        let same = message(&mut stream, true).expect("an answer");
        assert_eq!((same.status(), same.field("content-length")), (304, Some("7")));
        assert_eq!(same.field("etag"), Some("\"x\""));
        assert_eq!(message(&mut stream, true).expect("an answer").body, "ok");
    });
}

#[test]
fn rfc9112_7_1_a_chunked_body_is_chunked_afresh_without_extensions_and_trailers() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
        0003;a=b\r\nabc\r\n00000000000000002\r\nde\r\n0;z\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n";
    through("", &[Keep(ANSWER)], |between| {
        let request = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
            3;a=\"b\"\r\nfgh\r\n0\r\nHost: evil\r\n\r\n";
        for _ in 0..2 {
            // The reader takes chunk sizes alone, and no trailers.
            let answer = between.ask(request);
            assert_eq!((answer.body.as_str(), answer.whole), ("abcde", true));
            let asked = between.asked();
            assert_eq!((asked.body.as_str(), asked.whole), ("fgh", true));
            assert_eq!(asked.field("host").map(|host| host.starts_with("127.")), Some(true));
        }
    });
}

#[test]
fn rfc9112_6_3_a_body_to_the_close_is_framed_for_a_client_that_keeps_its_connection() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nto the close";
    const OLD: &str = "HTTP/1.0 200 OK\r\n\r\nto the close";
    through("", &[Close(ANSWER), Close(OLD), Keep(OK)], |between| {
        let mut stream = between.send(&get("").repeat(3));
        for _ in 0..2 {
            let answer = message(&mut stream, true).expect("an answer");
            assert_eq!((answer.body.as_str(), answer.whole), ("to the close", true));
            assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
            assert!(answer.head.starts_with("HTTP/1.1 200 "), "{}", answer.head);
        }
        assert_eq!(message(&mut stream, true).expect("an answer").body, "ok");
    });
}
