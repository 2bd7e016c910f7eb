//! Routes whose streams survive their connection.

use std::io::{Read, Write};
use std::net::TcpListener;

use millstream::sse::{Message, Parser};

use super::{field, got, request, with};
use crate::support::{ask, connect, drivers, mock, stop};
use crate::upstream::configured_to;

fn messages(body: &[u8]) -> Vec<Message> {
    let (mut parser, mut messages) = (Parser::new(1 << 20), Vec::new());
    parser.feed(body, &mut messages).expect("short");
    messages
}

const CHAT: &str = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;

#[test]
fn what_is_told_in_other_words_is_kept_in_them() {
    for response in ["tokens", "openai", "forward"] {
        let config = format!(
            "upstream = \"UP\"\n[[route]]\nmethod = \"POST\"\npath = \"/chat\"\n\
             to = \"/v1/messages?mock_tokens=30\"\nresponse = \"{response}\"\nresume = true\n"
        );
        for io in drivers() {
            let upstream = mock();
            let server = configured_to(upstream, io, &config, "");
            let relay = server.addresses[0];
            let whole = got(relay, "POST /chat", "", CHAT);
            assert!(whole.whole, "{response}: {}", whole.text());
            let name = field(&whole, "x-stream-id").expect("a name");
            let all = messages(&whole.body);
            assert!(all.len() > 30);
            for after in [0, 1, 7, all.len() - 1] {
                let behind = format!("Last-Event-ID: {name}.{after}\r\n");
                for line in ["GET /chat", "POST /chat"] {
                    let again = got(relay, line, &behind, "");
                    assert!(again.whole);
                    assert_eq!(messages(&again.body), all[after..], "{response} {after}");
                }
            }
            let behind = format!("Last-Event-ID: {name}.{}\r\n", all.len());
            assert_eq!(got(relay, "GET /chat", &behind, "").head.status(), 204);
            stop(server);
        }
    }
}

#[test]
fn a_stream_is_found_on_its_own_route_whatever_else_takes_the_request() {
    let config = r#"
        upstream = "UP"
        [[route]]
        method = "POST"
        path = "/chat"
        resume = true
        [[route]]
        method = "GET"
        path = "/chat"
        [[route]]
        prefix = "/"
        resume = true
    "#;
    with(config, "", |upstream, relay, _| {
        let first = got(relay, "POST /chat", "", "{}");
        upstream.next();
        let name = field(&first, "x-stream-id").expect("a name");
        let behind = format!("Last-Event-ID: {name}.1\r\n");
        for line in ["GET /chat", "POST /chat"] {
            assert_eq!(messages(&got(relay, line, &behind, "").body).len(), 1);
        }
        for line in ["GET /other", "DELETE /other", "PUT /chat"] {
            let status = got(relay, line, &behind, "").head.status();
            assert!(status == 404 || line.starts_with("PUT"), "{line}: {status}");
        }
        upstream.next();
        // What is no id of ours belongs to the route that takes the request by itself.
        let other = got(relay, "GET /chat", "Last-Event-ID: 42\r\n", "");
        assert_eq!(other.head.status(), 200);
        assert_eq!(upstream.next().field("last-event-id"), Some("42".to_owned()));
        let delete = got(relay, "DELETE /chat", &behind, "");
        assert_eq!(delete.head.status(), 204);
        assert_eq!(got(relay, "POST /chat", &behind, "").head.status(), 404);
        upstream.was_not_asked();
    });
}

#[test]
fn a_page_of_another_origin_may_come_back_and_cancel() {
    let config = r#"
        upstream = "UP"
        [[route]]
        method = "POST"
        path = "/chat"
        resume = true
        cors = { origins = "https://a.example", headers = ["Content-Type"] }
    "#;
    with(config, "", |upstream, relay, _| {
        for method in ["GET", "POST", "DELETE"] {
            let fields = format!(
                "Origin: https://a.example\r\nAccess-Control-Request-Method: {method}\r\n\
                 Access-Control-Request-Headers: last-event-id\r\n"
            );
            let preflight = got(relay, "OPTIONS /chat", &fields, "");
            assert_eq!(preflight.head.status(), 204, "{method}");
            let allowed =
                |what| field(&preflight, &format!("access-control-allow-{what}")).expect("allowed");
            assert!(allowed("methods").contains(method));
            assert!(allowed("headers").contains("Last-Event-ID"));
        }
        let origin = "Origin: https://a.example\r\n";
        let first = got(relay, "POST /chat", origin, "{}");
        let exposed = field(&first, "access-control-expose-headers").expect("exposed");
        assert!(exposed.contains("X-Stream-Id"));
        let unknown = got(relay, "GET /chat", &format!("{origin}Last-Event-ID: 1\r\n"), "");
        assert_eq!(unknown.head.status(), 404);
        assert!(unknown.head.field("access-control-allow-origin").is_some());
        upstream.next();
        upstream.was_not_asked();
    });
}

#[test]
fn an_end_by_name_is_an_end_in_order_for_those_who_come_later_too() {
    let config = r#"
        upstream = "UP"
        [[route]]
        path = "/chat"
        dialect = "openai-chat"
        response = "tokens"
        resume = true
        stream_timeout = "1s"
    "#;
    for io in drivers() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let upstream = listener.local_addr().expect("bound");
        let server = configured_to(upstream, io, config, "");
        let relay = server.addresses[0];
        let mut client = connect(relay);
        client.write_all(request("POST /chat", "", CHAT).as_bytes()).expect("sends");
        let (mut upstream, _) = listener.accept().expect("asked");
        let _ = upstream.read(&mut [0; 4096]).expect("a request");
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        upstream.write_all(head.as_bytes()).expect("sends");
        let whole = crate::support::read_response(&mut client, "POST").expect("an answer");
        assert!(whole.whole, "{}", whole.text());
        let all = messages(&whole.body);
        assert_eq!(all.last().map(|last| last.event.as_slice()), Some(&b"timeout"[..]));
        let name = field(&whole, "x-stream-id").expect("a name");
        let again = format!("GET /chat HTTP/1.1\r\nHost: t\r\nLast-Event-ID: {name}\r\n\r\n");
        let again = ask(relay, &again).expect("an answer");
        assert!(again.whole);
        assert_eq!(messages(&again.body), all);
        stop(server);
    }
}
