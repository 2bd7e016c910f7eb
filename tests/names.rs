//! Where an upstream's name leads: overrides, several addresses, dead ones among them.

mod support;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use millstream::outcome::Outcome;
use support::{ask, chat, drivers, ended, eventually, mock, relay_to, scripted, stop};

const CHAT: &str = "/v1/chat/completions?mock_rate=0";

#[test]
fn an_override_leads_to_its_address_and_the_name_stays() {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let upstream = scripted(ANSWER);
    for io in drivers() {
        let url = format!("http://llm.test:{}", upstream.port());
        let server = relay_to(&url, io, "--resolve LLM.test=127.0.0.1");
        let got = ask(server.addresses[0], "GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("an answer");
        assert_eq!(got.text(), "ok");
        stop(server);
    }
}

#[test]
fn addresses_that_refuse_are_passed_over_at_once() {
    let mock = mock();
    for io in drivers() {
        let url = format!("http://llm.test:{}", mock.port());
        let dead = "--resolve llm.test=127.0.0.7 --resolve llm.test=127.0.0.8";
        let server =
            relay_to(&url, io, &format!("{dead} --resolve llm.test=127.0.0.1 --retries 0"));
        for _ in 0..2 {
            assert!(ask(server.addresses[0], &chat(CHAT, "")).expect("an answer").whole);
        }
        eventually("done", || ended(&server, Outcome::Done) == 2);
        assert_eq!(server.metrics[0].upstream_connect_errors.get(), 0);
        stop(server);

        let server = relay_to(&url, io, &format!("{dead} --retries 0"));
        let got = ask(server.addresses[0], &chat(CHAT, "")).expect("an answer");
        assert_eq!(got.head.status(), 502);
        let text = got.text();
        assert!(text.contains("127.0.0.7") && text.contains("127.0.0.8"), "{text}");
        assert!(text.contains("none of 2 addresses"), "{text}");
        stop(server);
    }
}

/// An address that neither accepts nor refuses: its backlog is full, so the kernel drops what
/// knocks. The connections that fill it must live on.
fn hole(port: u16) -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let addr = SocketAddr::from(([127, 0, 0, 6], port));
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    socket.bind(&addr.into()).expect("binds");
    socket.listen(0).expect("listens");
    let listener: TcpListener = socket.into();
    let mut filling = Vec::new();
    let wait = Duration::from_millis(200);
    while let Ok(stream) = TcpStream::connect_timeout(&addr, wait) {
        filling.push(stream);
        assert!(filling.len() < 100, "the backlog never fills");
    }
    (addr, listener, filling)
}

#[test]
fn an_address_that_says_nothing_does_not_hold_up_the_next() {
    let mock = mock();
    let _hole = hole(mock.port());
    for io in drivers() {
        let url = format!("http://llm.test:{}", mock.port());
        // Only the second address can answer within the time.
        let flags = "--resolve llm.test=127.0.0.6 --resolve llm.test=127.0.0.1 --retries 0 \
                     --connect-timeout 20s --pool-max-idle 0";
        let server = relay_to(&url, io, flags);
        for _ in 0..3 {
            assert!(ask(server.addresses[0], &chat(CHAT, "")).expect("an answer").whole);
        }
        stop(server);

        let flags = "--resolve llm.test=127.0.0.6 --retries 0 --connect-timeout 50ms";
        let server = relay_to(&url, io, flags);
        let got = ask(server.addresses[0], &chat(CHAT, "")).expect("an answer");
        assert_eq!(got.head.status(), 504);
        assert!(got.text().contains("127.0.0.6"), "{}", got.text());
        stop(server);
    }
}

#[test]
fn a_name_that_does_not_resolve_is_told_by_name_and_reason() {
    // No resolver can be asked for a label this long.
    let name = "x".repeat(64);
    let server = relay_to(&format!("http://{name}:1"), drivers()[0], "--retries 0");
    let got = ask(server.addresses[0], &chat(CHAT, "")).expect("an answer");
    assert_eq!(got.head.status(), 502);
    assert!(
        got.text().contains(&name) && got.text().contains("does not resolve"),
        "{}",
        got.text()
    );
    stop(server);
}

#[test]
fn a_family_that_is_not_there_does_not_hold_up_the_other() {
    // Nobody listens there, or there is no IPv6 at all.
    let mock = mock();
    for io in drivers() {
        let url = format!("http://llm.test:{}", mock.port());
        let flags = "--resolve llm.test=::1 --resolve \
                     llm.test=127.0.0.1 --retries 0 --pool-max-idle 0";
        let server = relay_to(&url, io, flags);
        for _ in 0..3 {
            assert!(ask(server.addresses[0], &chat(CHAT, "")).expect("an answer").whole);
        }
        assert_eq!(server.metrics[0].upstream_connect_errors.get(), 0);
        stop(server);
    }
}
