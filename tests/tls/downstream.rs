//! The relay as a server of TLS.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command as Process;
use std::sync::Arc;

use millstream::config::cli::{Cli, Command};
use millstream::config::plan::Plan;
use millstream::outcome::Outcome;
use millstream::server::Server;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion, version,
};
use sha2::{Digest, Sha256};

use crate::peers::{Program, python};
use crate::pki::{Authority, Folder, Issued};
use crate::support::{
    Got, chat, connect, drivers, ended, eventually, mock, read_response, relay, relay_to, scripted,
    stop,
};

type Client = StreamOwned<ClientConnection, TcpStream>;

/// A client that trusts the authority in a file.
pub(crate) fn client_config(
    ca: &Path,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).expect("a certificate")).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

fn client(addr: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Client {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connection = ClientConnection::new(Arc::clone(config), name).expect("a client");
    StreamOwned::new(connection, connect(addr))
}

/// The flags that have a relay show a certificate.
pub(crate) fn shown(issued: &Issued) -> String {
    format!("--tls-cert {} --tls-key {} ", issued.certificate.display(), issued.key.display())
}

fn ask_over(client: &mut Client, request: &str) -> Option<Got> {
    client.write_all(request.as_bytes()).expect("sends");
    read_response(client, request.split(' ').next().unwrap_or_default())
}

/// The name of the certificate a client is shown.
fn certificate_shown(client: &mut Client) -> Vec<u8> {
    client.conn.complete_io(&mut client.sock).expect("shakes hands");
    client.conn.peer_certificates().expect("shown")[0].to_vec()
}

#[test]
fn streams_go_down_unchanged_in_both_versions() {
    let (folder, authority, mock) = (Folder::new(), Authority::new(), mock());
    let ca = authority.file(&folder);
    let issued = authority.issue(&folder, "relay", &["relay.test"]);
    for io in drivers() {
        let server = relay(mock, io, &shown(&issued));
        for version in [&version::TLS13, &version::TLS12] {
            let config = client_config(&ca, &[version]);
            let mut client = client(server.addresses[0], &config, "relay.test");
            for round in 0..3 {
                let path = "/v1/chat/completions?mock_tokens=300&mock_rate=0";
                let got = ask_over(&mut client, &chat(path, "")).expect("an answer");
                let direct = crate::support::ask(mock, &chat(path, "")).expect("an answer");
                assert!(got.whole, "{version:?} {round}");
                assert!(got.text() == direct.text(), "{version:?} {round}");
            }
        }
        eventually("six are done", || ended(&server, Outcome::Done) == 6);
        stop(server);
    }
}

#[test]
fn a_million_bytes_in_many_records_pass_both_sides() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = authority.file(&folder);
    let issued = authority.issue(&folder, "both", &["127.0.0.1"]);
    for io in drivers() {
        for (version, python_version) in [(&version::TLS13, "1.3"), (&version::TLS12, "1.2")] {
            let (_peer, addr) = python(&issued, python_version, None);
            let flags = format!("{} --upstream-ca {}", shown(&issued), ca.display());
            let server = relay_to(&format!("https://{addr}"), io, &flags);
            let config = client_config(&ca, &[version]);
            let mut client = client(server.addresses[0], &config, "127.0.0.1");
            let body: Vec<u8> =
                (0..1_000_000_u32).map(|n| (n.wrapping_mul(31) >> 2) as u8).collect();
            let head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
            client.write_all(head.as_bytes()).expect("sends");
            // Records of every length.
            let (mut at, mut len) = (0, 1);
            while at < body.len() {
                let end = (at + len).min(body.len());
                client.write_all(&body[at..end]).expect("sends");
                (at, len) = (end, len % 3000 + 7);
            }
            let got = read_response(&mut client, "POST").expect("an answer");
            assert!(got.whole && got.body == body, "{python_version}");
            let request = chat("/burst", "");
            let got = ask_over(&mut client, &request).expect("an answer");
            assert!(got.whole && got.text().ends_with("data: [DONE]\n\n"));
            assert_eq!(got.text().matches("\n\n").count(), 2001);
            stop(server);
        }
    }
}

#[test]
fn each_name_gets_its_certificate() {
    let (folder, authority, mock) = (Folder::new(), Authority::new(), mock());
    let ca = authority.file(&folder);
    let one = authority.issue(&folder, "one", &["one.test", "*.wild.test"]);
    let two = authority.issue(&folder, "two", &["two.test"]);
    let server = relay(mock, drivers()[0], &(shown(&one) + &shown(&two)));
    let config = client_config(&ca, rustls::DEFAULT_VERSIONS);
    let pem = |issued: &Issued| {
        CertificateDer::from_pem_file(&issued.certificate).expect("a certificate").to_vec()
    };
    for (name, issued) in [("one.test", &one), ("a.wild.test", &one), ("two.test", &two)] {
        let mut client = client(server.addresses[0], &config, name);
        assert!(certificate_shown(&mut client) == pem(issued), "{name}");
    }
    // One nobody has a certificate for gets the first, and refuses it.
    let mut stranger = client(server.addresses[0], &config, "three.test");
    let refused = stranger.conn.complete_io(&mut stranger.sock).expect_err("is refused");
    assert!(refused.to_string().contains("one.test"), "{refused}");
    eventually("is counted", || server.metrics[0].tls_handshake_errors.get() == 1);
    stop(server);
}

#[test]
fn certificates_are_exchanged_without_touching_streams() {
    let (folder, authority, mock) = (Folder::new(), Authority::new(), mock());
    let ca = authority.file(&folder);
    let config = client_config(&ca, rustls::DEFAULT_VERSIONS);
    let first = authority.issue(&folder, "relay", &["relay.test"]);
    let server = relay(mock, drivers()[0], &shown(&first));
    let addr = server.addresses[0];
    let mut living = client(addr, &config, "relay.test");
    let before = certificate_shown(&mut living);
    assert!(ask_over(&mut living, &chat("/v1/chat/completions", "")).expect("an answer").whole);
    // By the files' change alone.
    let second = authority.issue(&folder, "relay", &["relay.test"]);
    let fresh = CertificateDer::from_pem_file(&second.certificate).expect("one").to_vec();
    assert!(fresh != before);
    eventually("new connections get it", || {
        certificate_shown(&mut client(addr, &config, "relay.test")) == fresh
    });
    assert!(ask_over(&mut living, &chat("/v1/chat/completions", "")).expect("an answer").whole);
    // What is no good is not taken.
    let key = std::fs::read_to_string(&second.key).expect("reads");
    folder.write("relay.key", "no key");
    server.reload_certificates();
    assert!(certificate_shown(&mut client(addr, &config, "relay.test")) == fresh);
    folder.write("relay.key", &key);
    let other = authority.issue(&folder, "other", &["relay.test"]);
    folder.write("relay.pem", &std::fs::read_to_string(other.certificate).expect("reads"));
    server.reload_certificates();
    assert!(certificate_shown(&mut client(addr, &config, "relay.test")) == fresh);
    // At once where it is asked for.
    folder.write("relay.key", &std::fs::read_to_string(other.key).expect("reads"));
    server.reload_certificates();
    assert!(certificate_shown(&mut client(addr, &config, "relay.test")) != fresh);
    stop(server);
}

#[test]
fn those_who_do_not_shake_hands_are_answered_or_dropped() {
    let (folder, authority, mock) = (Folder::new(), Authority::new(), mock());
    let issued = authority.issue(&folder, "relay", &["relay.test"]);
    for io in drivers() {
        let flags = shown(&issued) + "--tls-handshake-timeout 50ms";
        let server = relay(mock, io, &flags);
        let addr = server.addresses[0];
        let got = crate::support::ask(addr, &chat("/v1/chat/completions", "")).expect("an answer");
        assert_eq!(got.head.status(), 400);
        assert!(got.text().contains("https://"), "{}", got.text());
        // One byte of a hello, then silence; nothing at all; and what is not TLS.
        for said in [&[22][..], &[], &[0x80, 0x2e, 1, 0, 2], &[22, 3, 1, 255, 255, 1, 2]] {
            let mut slow = connect(addr);
            slow.write_all(said).expect("sends");
            let mut rest = Vec::new();
            let _ = slow.read_to_end(&mut rest);
            assert!(rest.len() < 20, "an alert at most: {rest:?}");
        }
        eventually("five are counted", || server.metrics[0].tls_handshake_errors.get() == 5);
        eventually("none is left", || server.metrics[0].connections_active.get() == 0);
        stop(server);
    }
}

#[test]
fn ends_are_told_the_way_tls_tells_them() {
    const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n\
        data: {\"a\":1}\n\n";
    const CUT: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
        Content-Length: 1000\r\n\r\ndata: {\"a\":1}\n\n";
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = authority.file(&folder);
    let issued = authority.issue(&folder, "relay", &["relay.test"]);
    let config = client_config(&ca, rustls::DEFAULT_VERSIONS);
    for io in drivers() {
        for (upstream, clean) in [(scripted(WHOLE), true), (scripted(CUT), false)] {
            let server = relay(upstream, io, &shown(&issued));
            let mut client = client(server.addresses[0], &config, "relay.test");
            // To HTTP/1.0 only the close tells the end.
            client.write_all(b"GET /v1/chat/completions HTTP/1.0\r\n\r\n").expect("sends");
            let mut heard = Vec::new();
            let read = client.read_to_end(&mut heard);
            assert_eq!(read.is_ok(), clean, "{read:?}");
            // A reset may take what was not read yet with it.
            let text = String::from_utf8_lossy(&heard);
            assert!(!clean || text.ends_with("data: {\"a\":1}\n\n"), "{text}");
            stop(server);
        }
    }
}

#[test]
fn a_client_that_leaves_is_noticed_whether_it_says_goodbye_or_not() {
    let (folder, authority, mock) = (Folder::new(), Authority::new(), mock());
    let ca = authority.file(&folder);
    let issued = authority.issue(&folder, "relay", &["relay.test"]);
    let config = client_config(&ca, rustls::DEFAULT_VERSIONS);
    for io in drivers() {
        let server = relay(mock, io, &shown(&issued));
        for (count, polite) in [(1, true), (2, false)] {
            let mut client = client(server.addresses[0], &config, "relay.test");
            let path = "/v1/chat/completions?mock_rate=1&mock_tokens=1000";
            client.write_all(chat(path, "").as_bytes()).expect("sends");
            eventually("it streams", || server.metrics[0].streams_active.get() == 1);
            assert!(client.read(&mut [0; 100]).expect("a head") > 0);
            if polite {
                client.conn.send_close_notify();
                client.flush().expect("sends");
                eventually("it is noticed", || ended(&server, Outcome::ClientGone) == count);
            } else {
                drop(client);
                eventually("it is noticed", || ended(&server, Outcome::ClientGone) == count);
            }
        }
        stop(server);
    }
}

#[test]
fn curl_and_openssl_speak_to_it() {
    let (folder, authority, mock) = (Folder::new(), Authority::new(), mock());
    let ca = authority.file(&folder).display().to_string();
    let issued = authority.issue(&folder, "relay", &["relay.test", "127.0.0.1"]);
    let path = "/v1/chat/completions?mock_rate=0&mock_tokens=50";
    let direct = crate::support::ask(mock, &chat(path, "")).expect("an answer").text();
    for io in drivers() {
        let server = relay(mock, io, &shown(&issued));
        let addr = server.addresses[0];
        for version in [&["--tlsv1.3"][..], &["--tlsv1.2", "--tls-max", "1.2"]] {
            let url = format!("https://{addr}{path}");
            let args = ["-sS", "-N", "--http1.1", "--cacert", &ca, &url, "-d", "{\"stream\":true}"];
            let output = Process::new("curl").args(version).args(args).output();
            let output = output.expect("curl is needed (tests/run installs it)");
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(said.ends_with("data: [DONE]\n\n"), "{said}");
        }
        for (version, command) in [("-tls1_3", "K\n"), ("-tls1_3", "k\n"), ("-tls1_2", "R\n")] {
            let at = addr.to_string();
            let args = ["s_client", "-connect", &at, "-CAfile", &ca, version, "-alpn", "http/1.1"];
            let mut peer = Program::start("openssl", &args);
            peer.says("ALPN protocol: http/1.1");
            peer.tell(&chat(path, ""));
            peer.says("data: [DONE]");
            peer.tell(command);
            if version == "-tls1_3" {
                peer.tell(&chat(path, ""));
                eventually("twice", || peer.said().matches("data: [DONE]").count() == 2);
                let said = peer.said();
                assert!(said.contains(direct.lines().nth(20).expect("a line")), "{said}");
            } else {
                // It takes our refusal to renegotiate for the end, and says so.
                eventually("it is over", || server.metrics[0].connections_active.get() == 0);
            }
        }
        stop(server);
    }
}

#[test]
fn a_client_without_http11_is_refused() {
    let (folder, authority, mock) = (Folder::new(), Authority::new(), mock());
    let ca = authority.file(&folder);
    let issued = authority.issue(&folder, "relay", &["relay.test"]);
    let server = relay(mock, drivers()[0], &shown(&issued));
    let mut config = (*client_config(&ca, rustls::DEFAULT_VERSIONS)).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut only_h2 = client(server.addresses[0], &Arc::new(config), "relay.test");
    let refused = only_h2.conn.complete_io(&mut only_h2.sock).expect_err("is refused");
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    stop(server);
}

#[test]
fn the_binary_reloads_on_sighup_and_warns_of_what_is_not_verified() {
    let (folder, authority, mock) = (Folder::new(), Authority::new(), mock());
    let ca = authority.file(&folder);
    let config = client_config(&ca, rustls::DEFAULT_VERSIONS);
    let issued = authority.issue(&folder, "relay", &["relay.test"]);
    let (certificate, key) = (issued.certificate.display(), issued.key.display());
    let (certificate, key) = (certificate.to_string(), key.to_string());
    let upstream = format!("https://{mock}");
    let args = ["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--workers", "1"];
    let more = ["--upstream", &upstream, "--upstream-insecure", "--access-log", "off"];
    let shown = ["--tls-cert", &certificate, "--tls-key", &key];
    let binary = env!("CARGO_BIN_EXE_millstream");
    let relay = Program::start(binary, &[&args[..], &more, &shown].concat());
    relay.says(" -> https://");
    assert!(relay.said().contains("--upstream-insecure"), "{}", relay.said());
    let said = relay.said();
    let listens = &said[said.find("serving https://").expect("where") + 16..];
    let addr = listens.split(' ').next().and_then(|addr| addr.parse().ok()).expect("an address");
    let before = certificate_shown(&mut client(addr, &config, "relay.test"));
    folder.write("relay.pem", "no certificate");
    relay.signal(rustix::process::Signal::HUP);
    relay.says("certificates stay as they were: --tls-cert");
    assert!(certificate_shown(&mut client(addr, &config, "relay.test")) == before);
    authority.issue(&folder, "relay", &["relay.test"]);
    relay.signal(rustix::process::Signal::HUP);
    relay.says("certificates were read again");
    eventually("it is shown", || {
        certificate_shown(&mut client(addr, &config, "relay.test")) != before
    });
    relay.signal(rustix::process::Signal::TERM);
    relay.says("draining");
}

#[test]
fn upstreams_are_told_that_the_client_came_by_https() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = authority.file(&folder);
    let issued = authority.issue(&folder, "relay", &["relay.test"]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let upstream = listener.local_addr().expect("bound");
    let server = relay(upstream, drivers()[0], &shown(&issued));
    let config = client_config(&ca, rustls::DEFAULT_VERSIONS);
    let mut client = client(server.addresses[0], &config, "relay.test");
    client.write_all(b"GET / HTTP/1.1\r\nHost: relay.test\r\n\r\n").expect("sends");
    let (mut asked, _) = listener.accept().expect("the relay connects");
    let mut head = vec![0; 4096];
    let n = asked.read(&mut head).expect("a request");
    let head = String::from_utf8_lossy(&head[..n]).to_lowercase();
    assert!(head.contains("x-forwarded-proto: https\r\n"), "{head}");
    stop(server);
}

#[test]
fn listeners_of_a_file_differ_in_their_certificates() {
    let (folder, authority, mock) = (Folder::new(), Authority::new(), mock());
    let ca = authority.file(&folder);
    let one = authority.issue(&folder, "one", &["one.test"]);
    let two = authority.issue(&folder, "two", &["two.test"]);
    let listener = |issued: &Issued| {
        let (certificate, key) = (issued.certificate.display(), issued.key.display());
        format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\ntls_cert = \"{certificate}\"\n\
             tls_key = \"{key}\"\n"
        )
    };
    let text = format!(
        "upstream = \"http://{mock}\"\nadmin = \"off\"\naccess_log = \"off\"\nworkers = 1\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\n{}{}",
        listener(&one),
        listener(&two)
    );
    let file = folder.write("relay.toml", &text);
    for io in drivers() {
        let io = if io == millstream::config::plan::Io::Epoll { "epoll" } else { "uring" };
        let file = file.to_str().expect("UTF-8");
        let cli = Cli::read(["millstream", "serve", "--io", io, "--config", file]);
        let Cli { command: Command::Serve(args) } = cli.expect("parses") else {
            panic!("not serve")
        };
        let plan = Plan::from_args(&args, 20_000, 1).expect("valid");
        let server = Server::start(&plan).expect("starts");
        let request = chat("/v1/chat/completions", "");
        let plain = crate::support::ask(server.addresses[0], &request).expect("an answer");
        let config = client_config(&ca, &[&version::TLS13]);
        for (address, name) in [(1, "one.test"), (2, "two.test")] {
            let mut client = client(server.addresses[address], &config, name);
            let got = ask_over(&mut client, &request).expect("an answer");
            assert!(got.whole && got.text() == plain.text(), "{name}");
        }
        stop(server);
    }
}

#[test]
fn pythons_ssl_speaks_to_it_and_resumes_in_both_versions() {
    let (folder, authority, mock) = (Folder::new(), Authority::new(), mock());
    let ca = authority.file(&folder).display().to_string();
    let issued = authority.issue(&folder, "relay", &["relay.test"]);
    let path = "/v1/chat/completions?mock_rate=0&mock_tokens=300";
    let direct = crate::support::ask(mock, &chat(path, "")).expect("an answer");
    let digest = format!("200 {:x}\n", Sha256::digest(&direct.body));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/client.py");
    for io in drivers() {
        let server = relay(mock, io, &shown(&issued));
        let port = server.addresses[0].port().to_string();
        for version in ["1.3", "1.2"] {
            let args = [script, &port, "relay.test", &ca, version, path, "3"];
            let output = Process::new("python3").args(args).output();
            let output = output.expect("python3 is needed (tests/run installs it)");
            let said = String::from_utf8_lossy(&output.stdout);
            let wanted = format!("TLSv{version} http/1.1 True\n{}", digest.repeat(4));
            assert!(said == wanted, "{said}{}", String::from_utf8_lossy(&output.stderr));
        }
        stop(server);
    }
}

#[test]
fn handshakes_that_do_not_get_on_hold_up_nobody() {
    let (folder, authority, mock) = (Folder::new(), Authority::new(), mock());
    let ca = authority.file(&folder);
    let issued = authority.issue(&folder, "relay", &["relay.test"]);
    let config = client_config(&ca, rustls::DEFAULT_VERSIONS);
    for io in drivers() {
        // One core for all, and more than one handshake's time for those that stand still.
        let server = relay(mock, io, &(shown(&issued) + "--tls-handshake-timeout 300s"));
        let addr = server.addresses[0];
        let mut living = client(addr, &config, "relay.test");
        assert!(ask_over(&mut living, &chat("/v1/chat/completions", "")).expect("one").whole);
        let slow: Vec<TcpStream> = (0..200)
            .map(|n| {
                let name = ServerName::try_from("relay.test").expect("a name");
                let made = ClientConnection::new(Arc::clone(&config), name);
                let mut hello = Vec::new();
                made.expect("a client").write_tls(&mut hello).expect("writes");
                // Nothing, a part of a hello, or a whole one and no answer to ours.
                let said = [0, 1, 4, 100, hello.len()][n % 5];
                let mut slow = connect(addr);
                slow.write_all(&hello[..said]).expect("sends");
                slow
            })
            .collect();
        eventually("all are there", || server.metrics[0].connections_active.get() == 201);
        for _ in 0..3 {
            assert!(ask_over(&mut living, &chat("/v1/chat/completions", "")).expect("one").whole);
            let mut fresh = client(addr, &config, "relay.test");
            assert!(ask_over(&mut fresh, &chat("/v1/chat/completions", "")).expect("one").whole);
        }
        assert_eq!(server.metrics[0].tls_handshake_errors.get(), 0, "they still wait");
        drop(slow);
        stop(server);
    }
}

#[test]
fn a_client_that_does_not_trust_us_is_told_of_with_the_mend() {
    let (folder, authority, mock) = (Folder::new(), Authority::new(), mock());
    let other = Authority::new().file(&folder);
    let issued = authority.issue(&folder, "relay", &["relay.test"]);
    let (certificate, key) = (issued.certificate.display(), issued.key.display());
    let (certificate, key) = (certificate.to_string(), key.to_string());
    let upstream = format!("http://{mock}");
    let args = ["serve", "--listen", "127.0.0.1:0", "--admin", "off", "--workers", "1"];
    let more = ["--upstream", &upstream, "--tls-cert", &certificate, "--tls-key", &key];
    let relay = Program::start(env!("CARGO_BIN_EXE_millstream"), &[&args[..], &more].concat());
    relay.says(" -> http://");
    let said = relay.said();
    let listens = &said[said.find("serving https://").expect("where") + 16..];
    let addr = listens.split(' ').next().and_then(|addr| addr.parse().ok()).expect("an address");
    // One that only looks whether the port is open is not worth a word.
    drop(connect(addr));
    let config = client_config(&other, rustls::DEFAULT_VERSIONS);
    let mut strange = client(addr, &config, "relay.test");
    let from = strange.sock.local_addr().expect("connected");
    strange.conn.complete_io(&mut strange.sock).expect_err("is refused");
    relay.says(&format!("client {from}: TLS handshake failed: the client does not trust"));
    let said = relay.said();
    assert!(said.contains("--tls-cert") && said.matches("handshake failed").count() == 1, "{said}");
}

#[test]
fn a_kept_stream_is_found_by_https_on_whatever_worker_its_client_lands() {
    let (folder, authority, mock) = (Folder::new(), Authority::new(), mock());
    let ca = authority.file(&folder);
    let issued = authority.issue(&folder, "relay", &["relay.test"]);
    for io in drivers() {
        let server = relay(mock, io, &(shown(&issued) + "--resume --workers 2"));
        for version in [&version::TLS13, &version::TLS12] {
            let config = client_config(&ca, &[version]);
            let client = || client(server.addresses[0], &config, "relay.test");
            let whole = ask_over(&mut client(), &chat("/v1/chat/completions", ""));
            let whole = whole.expect("an answer");
            let name = whole.head.field("x-stream-id").expect("a name");
            let name = String::from_utf8_lossy(name).into_owned();
            for _ in 0..20 {
                let mut client = client();
                // Twice on one connection: it stays usable where it has gone.
                for _ in 0..2 {
                    let field = format!("Last-Event-ID: {name}\r\n");
                    let again = ask_over(&mut client, &chat("/v1/chat/completions", &field));
                    let again = again.expect("an answer");
                    assert!(again.whole);
                    assert_eq!(again.body, whole.body);
                }
            }
        }
        let handed = server.metrics.iter().map(|m| m.resume_handovers.get()).sum::<u64>();
        assert!((1..80).contains(&handed), "{handed}");
        stop(server);
    }
}
