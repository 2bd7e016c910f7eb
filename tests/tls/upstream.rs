//! The relay as a client of TLS.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use millstream::outcome::Outcome;
use millstream::server::Server;

use crate::downstream::shown;
use crate::peers::{Program, python};
use crate::pki::{Authority, Folder};
use crate::support::{
    ask, chat, configured, connect, drivers, ended, eventually, read_response, relay_to, stop,
};

const VERSIONS: [&str; 2] = ["1.3", "1.2"];

/// The frames of `peer.py`.
fn frames(count: usize) -> String {
    let frame = |n: usize| format!("data: {{\"n\":{n},\"text\":\"{}\"}}\n\n", "x".repeat(n % 90));
    (0..count).map(frame).collect::<String>()
}

fn url(addr: SocketAddr) -> String {
    format!("https://127.0.0.1:{}", addr.port())
}

fn got(server: &Server, path: &str) -> crate::support::Got {
    ask(server.addresses[0], &chat(path, "")).expect("an answer")
}

#[test]
fn streams_come_unchanged_in_both_versions() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = authority.file(&folder);
    let shown = authority.issue(&folder, "server", &["127.0.0.1"]);
    for io in drivers() {
        for version in VERSIONS {
            let (_peer, addr) = python(&shown, version, None);
            let server = relay_to(&url(addr), io, &format!("--upstream-ca {}", ca.display()));
            for (path, count) in [("/chunked", 50), ("/tiny", 20), ("/burst", 2000), ("/close", 20)]
            {
                let got = got(&server, path);
                assert!(got.whole, "{path} {version}");
                let whole = frames(count) + "data: [DONE]\n\n";
                assert!(got.text() == whole, "{path} {version}: {} bytes", got.body.len());
            }
            eventually("four are done", || ended(&server, Outcome::Done) == 4);
            let reused = server.metrics[0].upstream_reuses.get();
            assert_eq!(reused, 3, "the pool's connection was used again");
            stop(server);
        }
    }
}

#[test]
fn large_bodies_go_up_unchanged() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = authority.file(&folder);
    let shown = authority.issue(&folder, "server", &["127.0.0.1"]);
    for io in drivers() {
        for version in VERSIONS {
            let (_peer, addr) = python(&shown, version, None);
            let server = relay_to(&url(addr), io, &format!("--upstream-ca {}", ca.display()));
            for len in [1, 16_384, 3_000_000] {
                let body: Vec<u8> =
                    (0..len as u32).map(|n| (n.wrapping_mul(97) >> 3) as u8).collect();
                let mut client = connect(server.addresses[0]);
                let head =
                    format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n");
                client.write_all(head.as_bytes()).expect("sends");
                client.write_all(&body).expect("sends");
                let got = read_response(&mut client, "POST").expect("an answer");
                assert!(got.whole && got.body == body, "{len} bytes in {version}");
            }
            stop(server);
        }
    }
}

#[test]
fn an_end_without_close_notify_is_no_end() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = authority.file(&folder);
    let shown = authority.issue(&folder, "server", &["127.0.0.1"]);
    for io in drivers() {
        for version in VERSIONS {
            let (_peer, addr) = python(&shown, version, None);
            let flags = format!("--upstream-ca {} --retries 0", ca.display());
            let server = relay_to(&url(addr), io, &flags);
            // The close was to be the end, and anyone could have made it.
            let cut = got(&server, "/cut");
            assert!(!cut.whole);
            assert!(cut.text().starts_with(&frames(20)), "{}", cut.text());
            eventually("truncated", || ended(&server, Outcome::UpstreamTruncated) == 1);
            let cut = got(&server, "/cut-chunked");
            assert!(!cut.whole);
            eventually("truncated", || ended(&server, Outcome::UpstreamTruncated) == 2);
            // This one's body told its own end.
            let got_whole = got(&server, "/cut-length");
            assert!(got_whole.whole && got_whole.text() == "hello");
            let none = got(&server, "/cut-head");
            assert_eq!(none.head.status(), 502);
            assert!(none.text().contains("close_notify"), "{}", none.text());
            stop(server);
        }
    }
}

#[test]
fn sessions_resume_and_client_certificates_are_shown() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = authority.file(&folder).display().to_string();
    let shown = authority.issue(&folder, "server", &["127.0.0.1"]);
    let client = authority.issue(&folder, "client", &["relay.test"]);
    for io in drivers() {
        for version in VERSIONS {
            let (_peer, addr) = python(&shown, version, Some(&ca));
            let (certificate, key) = (client.certificate.display(), client.key.display());
            let flags =
                format!("--upstream-ca {ca} --upstream-cert {certificate} --upstream-key {key}");
            let server = relay_to(&url(addr), io, &flags);
            assert_eq!(got(&server, "/who").text(), format!("TLSv{version} False True"));
            assert_eq!(got(&server, "/who").text(), format!("TLSv{version} True True"));
            assert_eq!(server.metrics[0].upstream_tls_resumed.get(), 1);
            stop(server);

            let server = relay_to(&url(addr), io, &format!("--upstream-ca {ca} --retries 0"));
            let refused = got(&server, "/who");
            assert_eq!(refused.head.status(), 502);
            assert!(refused.text().contains("--upstream-cert"), "{}", refused.text());
            stop(server);
        }
    }
}

#[test]
fn certificates_that_are_no_good_are_refused_with_the_mend() {
    use rcgen::{BasicConstraints, IsCa, date_time_ymd};
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = authority.file(&folder).display().to_string();
    let names = ["127.0.0.1"];
    let good = authority.issue(&folder, "good", &names);
    let expired = authority.issue_with(&folder, "expired", &names, |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 2, 3);
    });
    let early = authority.issue_with(&folder, "early", &names, |params| {
        params.not_before = date_time_ymd(2999, 1, 1);
        params.not_after = date_time_ymd(2999, 2, 3);
    });
    let other = authority.issue(&folder, "other", &["llm.test"]);
    let stranger = Authority::new().issue(&folder, "stranger", &names);
    let itself = authority.issue_with(&folder, "itself", &names, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let trust = format!("--upstream-ca {ca}");
    let as_llm = format!("{trust} --upstream-tls-name llm.test");
    let io = drivers()[0];
    for (shown, flags, says) in [
        (&expired, &trust, "expired on Wed, 03 Feb 2021"),
        (&early, &trust, "valid only from Tue, 01 Jan 2999"),
        (&other, &trust, "--upstream-tls-name"),
        (&stranger, &trust, "--upstream-ca"),
        (&itself, &trust, "authority's own"),
        (&good, &as_llm, "not for llm.test"),
        (&other, &as_llm, ""),
        (&good, &trust, ""),
        (&stranger, &"--upstream-insecure".to_owned(), ""),
        (&expired, &"--upstream-insecure".to_owned(), ""),
    ] {
        let (_peer, addr) = python(shown, "1.3", None);
        let server = relay_to(&url(addr), io, flags);
        let got = got(&server, "/chunked");
        if says.is_empty() {
            assert_eq!(got.head.status(), 200, "{flags}: {}", got.text());
        } else {
            assert_eq!(got.head.status(), 502);
            assert!(got.text().contains(says), "{says}: {}", got.text());
            assert_eq!(server.metrics[0].retries.get(), 0, "it would fail again");
        }
        let insecure = flags.contains("insecure");
        assert_eq!(server.metrics[0].upstream_insecure.get(), i64::from(insecure));
        stop(server);
    }
}

#[test]
fn an_upstream_that_speaks_no_tls_or_says_nothing_is_told_apart() {
    let mock = crate::support::mock();
    let io = drivers()[0];
    let server = relay_to(&url(mock), io, "--retries 0");
    let got_plain = got(&server, "/v1/chat/completions");
    assert_eq!(got_plain.head.status(), 502);
    assert!(got_plain.text().contains("http://"), "{}", got_plain.text());
    stop(server);

    let silent = TcpListener::bind("127.0.0.1:0").expect("binds");
    let server = relay_to(
        &url(silent.local_addr().expect("bound")),
        io,
        "--retries 0 --connect-timeout 50ms",
    );
    let got_late = got(&server, "/v1/chat/completions");
    assert_eq!(got_late.head.status(), 504);
    assert!(got_late.text().contains("handshake"), "{}", got_late.text());
    eventually("late", || ended(&server, Outcome::ConnectTimeout) == 1);
    stop(server);
}

#[test]
fn openssl_updates_keys_and_asks_to_renegotiate_amid_a_stream() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = authority.file(&folder).display().to_string();
    let shown = authority.issue(&folder, "server", &["127.0.0.1"]);
    let (certificate, key) = (shown.certificate.display(), shown.key.display());
    let (certificate, key) = (certificate.to_string(), key.to_string());
    for io in drivers() {
        for (version, command) in [("-tls1_3", "K\n"), ("-tls1_2", "R\n")] {
            let args = ["s_server", "-accept", "127.0.0.1:0", "-cert", &certificate, "-key", &key];
            let mut peer = Program::start("openssl", &[&args[..], &[version]].concat());
            let addr = peer.port("ACCEPT ");
            let server = relay_to(&url(addr), io, &format!("--upstream-ca {ca}"));
            let mut client = connect(server.addresses[0]);
            client.write_all(chat("/v1/chat/completions", "").as_bytes()).expect("sends");
            peer.says("\"stream\":true");
            peer.tell(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 28\r\n\r\n\
                 data: 1\n\n",
            );
            eventually(&format!("a first frame {version} {io:?}"), || {
                server.metrics[0].frames.get() == 1
            });
            peer.tell(command);
            peer.tell("data: 2\n\n");
            eventually(&format!("a second frame {version} {io:?}"), || {
                server.metrics[0].frames.get() == 2
            });
            peer.tell("data: [X]\n");
            let got = read_response(&mut client, "POST").expect("an answer");
            assert_eq!(got.text(), "data: 1\n\ndata: 2\n\ndata: [X]\n", "{version}");
            assert!(got.whole, "{version}");
            stop(server);
        }
    }
}

#[test]
fn a_name_is_asked_for_and_verified_wherever_it_is() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = authority.file(&folder).display().to_string();
    let shown = authority.issue(&folder, "server", &["llm.test"]);
    let (_peer, addr) = python(&shown, "1.3", None);
    // Nobody listens at the first address.
    let flags =
        format!("--upstream-ca {ca} --resolve llm.test=127.0.0.9 --resolve llm.test=127.0.0.1");
    let server = relay_to(&format!("https://llm.test:{}", addr.port()), drivers()[0], &flags);
    assert!(got(&server, "/chunked").whole);
    assert_eq!(server.metrics[0].upstream_connect_errors.get(), 0);
    stop(server);
}

#[test]
fn ssl_cert_file_names_the_authorities() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = authority.file(&folder).display().to_string();
    let shown = authority.issue(&folder, "server", &["127.0.0.1"]);
    let (_peer, addr) = python(&shown, "1.3", None);
    let binary = env!("CARGO_BIN_EXE_millstream");
    let upstream = url(addr);
    let args = [binary, "serve", "--listen", "127.0.0.1:0", "--admin", "off", "--workers", "1"];
    let args = [&args[..], &["--upstream", &upstream, "--retries", "0"]].concat();
    for (file, status) in [(ca.as_str(), 200), ("/nowhere.pem", 0)] {
        let set = format!("SSL_CERT_FILE={file}");
        let env = ["-u", "SSL_CERT_DIR", set.as_str()];
        let relay = Program::start("env", &[&env[..], &args].concat());
        if status == 0 {
            relay.says("SSL_CERT_FILE: /nowhere.pem holds no certificate");
            continue;
        }
        relay.says(" -> https://");
        let said = relay.said();
        let listens = &said[said.find("serving http://").expect("where") + 15..];
        let at = listens.split(' ').next().and_then(|at| at.parse().ok()).expect("an address");
        let got = ask(at, &chat("/chunked", "")).expect("an answer");
        assert_eq!(got.head.status(), status, "{}", got.text());
    }
}

#[test]
fn a_chain_longer_than_a_record_and_a_second_hello_are_no_obstacle() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = authority.file(&folder);
    let shown = authority.issue(&folder, "server", &["127.0.0.1"]);
    let whole = std::fs::read_to_string(&shown.certificate).expect("reads");
    let authority_pem = std::fs::read_to_string(&ca).expect("reads");
    folder.write("server.pem", &(whole + &authority_pem.repeat(70)));
    let trust = format!("--upstream-ca {}", ca.display());
    for io in drivers() {
        for version in VERSIONS {
            let (_peer, addr) = python(&shown, version, None);
            let server = relay_to(&url(addr), io, &trust);
            assert!(got(&server, "/chunked").whole, "{version}");
            stop(server);
        }
    }
    // A group that we offer, but not at first.
    let (certificate, key) = (shown.certificate.display(), shown.key.display());
    let (certificate, key) = (certificate.to_string(), key.to_string());
    let args = ["s_server", "-accept", "127.0.0.1:0", "-cert", &certificate, "-key", &key];
    let mut peer = Program::start("openssl", &[&args[..], &["-groups", "P-384"]].concat());
    let server = relay_to(&url(peer.port("ACCEPT ")), drivers()[0], &trust);
    let mut client = connect(server.addresses[0]);
    client.write_all(chat("/v1/chat/completions", "").as_bytes()).expect("sends");
    peer.says("\"stream\":true");
    peer.tell("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n");
    assert_eq!(read_response(&mut client, "POST").expect("an answer").text(), "ok\n");
    stop(server);
}

#[test]
fn an_ipv6_literal_is_reached_and_verified() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("no IPv6 here, nothing is tested");
        return;
    }
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = authority.file(&folder).display().to_string();
    let six = authority.issue(&folder, "six", &["::1"]);
    let four = authority.issue(&folder, "four", &["127.0.0.1"]);
    let mock = crate::support::mock();
    for io in drivers() {
        for (issued, status) in [(&six, 200), (&four, 502)] {
            let inner = shown(issued) + "--listen [::1]:0";
            let inner = crate::support::relay(mock, io, &inner);
            let at = inner.addresses[1];
            let outer = relay_to(
                &format!("https://{at}"),
                io,
                &format!("--upstream-ca {ca} --listen [::1]:0"),
            );
            let got = ask(outer.addresses[1], &chat("/v1/chat/completions", "")).expect("one");
            assert_eq!(got.head.status(), status, "{}", got.text());
            let told = got.text().contains(&format!("upstream {at} ({at}): its certificate"));
            assert_eq!(told, status == 502, "{}", got.text());
            stop(outer);
            stop(inner);
        }
    }
}

#[test]
fn the_log_names_the_endpoint_and_the_mend_and_the_client_hears_its_dialect() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = authority.file(&folder).display().to_string();
    let expired = authority.issue_with(&folder, "expired", &["127.0.0.1"], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 2, 3);
    });
    let (_peer, addr) = python(&expired, "1.3", None);
    let upstream = url(addr);
    let args = ["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--workers", "1"];
    let more = ["--upstream", &upstream, "--upstream-ca", &ca, "--log-level", "debug"];
    let relay = Program::start(env!("CARGO_BIN_EXE_millstream"), &[&args[..], &more].concat());
    relay.says(" -> https://");
    let said = relay.said();
    let listens = &said[said.find("serving http://").expect("where") + 15..];
    let at = listens.split(' ').next().and_then(|at| at.parse().ok()).expect("an address");
    let secret = "Authorization: Bearer sk-SECRET1\r\nx-api-key: sk-SECRET2\r\n";
    for (path, dialect) in [
        ("/v1/messages?key=SECRET3", r#"{"type":"error","error":{"#),
        ("/v1/chat/completions?key=SECRET3", r#"{"error":{"#),
    ] {
        let got = ask(at, &chat(path, secret)).expect("an answer");
        assert_eq!(got.head.status(), 502);
        assert!(got.text().starts_with(dialect), "{}", got.text());
    }
    let why = format!(
        "\"error\":\"upstream {addr} ({addr}): its certificate expired on Wed, 03 Feb 2021 00:00:00 \
         GMT; have it renewed"
    );
    eventually("both are accounted for", || relay.said().matches("\"request_id\"").count() == 2);
    let said = relay.said();
    assert!(said.matches(&why).count() == 2 && !said.contains("SECRET"), "{said}");
}

#[test]
fn an_address_that_accepts_and_says_nothing_is_passed_over_by_the_next_attempt() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = authority.file(&folder).display().to_string();
    let shown = authority.issue(&folder, "server", &["llm.test"]);
    let (_peer, addr) = python(&shown, "1.3", None);
    let silent = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 6), addr.port())).expect("binds");
    let flags = format!(
        "--upstream-ca {ca} --resolve llm.test=127.0.0.6 --resolve llm.test=127.0.0.1 \
         --connect-timeout 500ms --retries 9"
    );
    let server = relay_to(&format!("https://llm.test:{}", addr.port()), drivers()[0], &flags);
    assert!(got(&server, "/chunked").whole);
    assert!(server.metrics[0].retries.get() > 0);
    stop(server);
    drop(silent);
}

/// A handshake that fails has sent nothing: another endpoint takes its place, with no retry of the
/// plan; where there is none, it would fail again.
#[test]
fn an_endpoint_whose_tls_fails_is_passed_over() {
    let (folder, authority, other) = (Folder::new(), Authority::new(), Authority::new());
    let ca = authority.file(&folder);
    let good = authority.issue(&folder, "good", &["127.0.0.1"]);
    let bad = other.issue(&folder, "bad", &["127.0.0.1"]);
    for io in drivers() {
        let ((_one, bad_addr), (_two, good_addr)) =
            (python(&bad, "1.3", None), python(&good, "1.3", None));
        let config = |urls: &[SocketAddr]| {
            let urls: Vec<String> = urls.iter().map(|addr| format!("{:?}", url(*addr))).collect();
            let text = format!(
                "retries = 0\n[[upstream]]\nurls = [{}]\ntls_ca = \"{}\"\n",
                urls.join(", "),
                ca.display()
            );
            folder.write("relay.toml", &text)
        };
        let server = configured(io, &config(&[bad_addr, good_addr]), "");
        for _ in 0..3 {
            let got = got(&server, "/chunked");
            assert!(got.whole && got.text().contains("[DONE]"), "{}", got.text());
        }
        let failed: u64 = server.metrics.iter().map(|m| m.upstream_connect_errors.get()).sum();
        assert_eq!(failed, 1, "it rests");
        stop(server);
        let server = configured(io, &config(&[bad_addr, bad_addr]), "");
        let got = got(&server, "/chunked");
        assert_eq!(got.head.status(), 502);
        assert!(got.text().contains("not signed by an authority known here"), "{}", got.text());
        let tried: u64 = server.metrics.iter().map(|m| m.upstream_connects.get()).sum();
        assert_eq!(tried, 2, "each of the two once");
        stop(server);
    }
}
