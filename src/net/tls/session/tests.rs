//! The session against rustls's own connections, over wires that cut where they like.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
    SupportedCipherSuite, SupportedProtocolVersion, version,
};

use super::*;
use crate::buf::pool_usage;

/// One authority and one certificate for all tests.
struct Pki {
    roots: Arc<RootCertStore>,
    certificate: rustls::pki_types::CertificateDer<'static>,
    key: Vec<u8>,
}

fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["peer.test".to_owned()]).expect("makes");
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a root");
        Pki {
            roots: Arc::new(roots),
            certificate: made.cert.der().clone(),
            key: made.signing_key.serialize_der(),
        }
    })
}

/// The versions with each of their ciphers that the relay may meet.
fn suites() -> Vec<(&'static SupportedProtocolVersion, SupportedCipherSuite)> {
    let all = provider::ALL_CIPHER_SUITES.iter().copied();
    let suites = all.map(|suite| match suite {
        SupportedCipherSuite::Tls13(_) => (&version::TLS13, suite),
        SupportedCipherSuite::Tls12(_) => (&version::TLS12, suite),
    });
    // The key is of one kind, so of TLS 1.2 only the suites for it.
    suites.filter(|(_, suite)| !format!("{:?}", suite.suite()).contains("RSA")).collect()
}

fn configs(
    version: &'static SupportedProtocolVersion,
    suite: SupportedCipherSuite,
) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let provider = rustls::crypto::CryptoProvider {
        cipher_suites: vec![suite],
        ..provider::default_provider()
    };
    let (provider, pki) = (Arc::new(provider), pki());
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(Arc::clone(&pki.roots))
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    let key = PrivateKeyDer::try_from(pki.key.clone()).expect("a key");
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(vec![pki.certificate.clone()], key)
        .expect("a certificate");
    server.enable_secret_extraction = true;
    (Arc::new(client), Arc::new(server))
}

/// A wire that moves at most so many bytes a call.
struct Pipe {
    incoming: RefCell<VecDeque<u8>>,
    outgoing: RefCell<Vec<u8>>,
    recv_max: Cell<usize>,
    /// Bytes a call takes.
    send_max: Cell<usize>,
    /// Bytes it takes before it says that there is no room.
    send_room: Cell<usize>,
    ended: Cell<bool>,
}

impl Pipe {
    fn new(recv_max: usize, send_max: usize) -> Self {
        Self {
            incoming: RefCell::default(),
            outgoing: RefCell::default(),
            recv_max: Cell::new(recv_max),
            send_max: Cell::new(send_max),
            send_room: Cell::new(usize::MAX),
            ended: Cell::new(false),
        }
    }

    fn give(&self, bytes: &[u8]) {
        self.incoming.borrow_mut().extend(bytes);
    }
}

impl Wire for Pipe {
    fn recv(&self, room: &mut [u8]) -> io::Result<Option<usize>> {
        assert!(!room.is_empty(), "a read into no room");
        let mut incoming = self.incoming.borrow_mut();
        let n = room.len().min(self.recv_max.get()).min(incoming.len());
        if n == 0 {
            return Ok(self.ended.get().then_some(0));
        }
        incoming.drain(..n).zip(room).for_each(|(byte, place)| *place = byte);
        Ok(Some(n))
    }

    fn send(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let n = bytes.len().min(self.send_max.get()).min(self.send_room.get());
        if n == 0 {
            return Ok(None);
        }
        self.send_room.set(self.send_room.get() - n);
        self.outgoing.borrow_mut().extend(&bytes[..n]);
        Ok(Some(n))
    }
}

/// A session and the peer it talks to.
struct Pair {
    session: Session,
    pipe: Pipe,
    peer: Connection,
    /// What the peer has heard.
    heard: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

const ROLES: [Role; 2] = [Role::Client, Role::Server];

fn pair(role: Role, configs: &(Arc<ClientConfig>, Arc<ServerConfig>), pipe: Pipe) -> Pair {
    let name = ServerName::try_from("peer.test").expect("a name");
    let (client, server) = (Arc::clone(&configs.0), Arc::clone(&configs.1));
    let (session, peer) = match role {
        Role::Client => (
            Session::client(UnbufferedClientConnection::new(client, name).expect("a client")),
            Connection::Server(ServerConnection::new(server).expect("a server")),
        ),
        Role::Server => (
            Session::server(UnbufferedServerConnection::new(server).expect("a server")),
            Connection::Client(ClientConnection::new(client, name).expect("a client")),
        ),
    };
    let mut pair = Pair { session, pipe, peer, heard: Vec::new() };
    pair.peer.set_buffer_limit(None);
    pair
}

impl Pair {
    /// Moves what the peer has sealed to the session's wire, and back.
    fn carry(&mut self) {
        let out = std::mem::take(&mut *self.pipe.outgoing.borrow_mut());
        let mut out = out.as_slice();
        while !out.is_empty() {
            self.peer.read_tls(&mut out).expect("reads");
            let processed = self.peer.process_new_packets();
            processed.expect("the session's records are right");
            let mut part = [0; 16_384];
            while let Ok(n @ 1..) = self.peer.reader().read(&mut part) {
                self.heard.extend_from_slice(&part[..n]);
            }
        }
        self.collect();
    }

    fn collect(&mut self) {
        let mut sealed = Vec::new();
        while self.peer.wants_write() {
            self.peer.write_tls(&mut sealed).expect("writes");
        }
        self.pipe.give(&sealed);
    }

    fn shake(&mut self) {
        for _ in 0..100_000 {
            let shaken = self.session.shake_hands(&self.pipe).expect("shakes hands");
            self.carry();
            if shaken == Shaken::Done && !self.peer.is_handshaking() {
                return;
            }
        }
        panic!("the handshake does not end");
    }

    /// Has the peer say `text`, and reads it with rooms of `room` bytes.
    fn hear(&mut self, text: &[u8], room: usize) {
        self.peer.writer().write_all(text).expect("takes it");
        self.collect();
        let heard = self.read(text.len(), room);
        assert!(heard == text, "{} bytes were changed", text.len());
    }

    fn read(&mut self, len: usize, room: usize) -> Vec<u8> {
        let mut heard = Vec::new();
        let mut room = vec![0; room];
        let mut quiet = 0;
        while heard.len() < len {
            match self.session.read(&self.pipe, &mut room).expect("reads") {
                Some(0) => panic!("closed after {} of {len} bytes", heard.len()),
                Some(n) => heard.extend_from_slice(&room[..n]),
                None => {
                    assert!(!self.session.has_buffered(), "bytes were left with nobody to wake");
                    quiet += 1;
                    assert!(quiet < 100_000, "{} of {len} bytes came", heard.len());
                }
            }
        }
        heard
    }

    /// Says `text` in `pieces`, and checks that the peer hears it.
    fn say(&mut self, text: &[u8], piece: usize) {
        let mut sent = 0;
        self.heard.clear();
        for _ in 0..100_000 {
            let slices: Vec<IoSlice<'_>> = text[sent..].chunks(piece).map(IoSlice::new).collect();
            if let Some(n) = self.session.write(&self.pipe, &slices).expect("writes") {
                sent += n;
            }
            assert!(sent <= text.len());
            self.carry();
            if sent == text.len() {
                break;
            }
            // The wire has room again.
            let granted = self.pipe.send_room.get().max(333);
            self.pipe.send_room.set(granted);
        }
        assert_eq!(sent, text.len());
        let heard = self.heard.len();
        assert!(self.heard == text, "{heard} of {} bytes were heard, not the same", text.len());
    }
}

/// Bytes that repeat nowhere soon.
fn text(len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn every_cipher_carries_both_ways_in_both_roles() {
    assert_eq!(suites().len(), 6, "three ciphers in two versions");
    for (version, suite) in suites() {
        let configs = configs(version, suite);
        for role in ROLES {
            let mut pair = pair(role, &configs, Pipe::new(usize::MAX, usize::MAX));
            pair.shake();
            assert_eq!(pair.session.is_modern(), version.version == version::TLS13.version);
            for len in [1, 15, 16, 17, 255, 4096, 16_384, 16_385, 70_000] {
                pair.hear(&text(len), 65_536);
                pair.say(&text(len), len);
                pair.say(&text(len), len.div_ceil(7));
            }
        }
    }
}

#[test]
fn the_wire_may_cut_anywhere() {
    for (version, suite) in suites() {
        let configs = configs(version, suite);
        for role in ROLES {
            for cut in (1..40).chain([61, 100, 255, 511, 1024, 4095]) {
                let mut pair = pair(role, &configs, Pipe::new(cut, cut));
                pair.shake();
                pair.hear(&text(300), 64);
                pair.hear(&text(1), 1);
                pair.say(&text(300), 37);
            }
        }
    }
}

#[test]
fn a_record_may_be_cut_at_every_byte() {
    for (version, suite) in suites() {
        let configs = configs(version, suite);
        for role in ROLES {
            let mut pair = pair(role, &configs, Pipe::new(usize::MAX, usize::MAX));
            pair.shake();
            let said = b"data: {\"a\":1}\n\n";
            for cut in 0..said.len() + 40 {
                pair.peer.writer().write_all(said).expect("takes it");
                pair.collect();
                let sealed: Vec<u8> = pair.pipe.incoming.borrow_mut().drain(..).collect();
                let (first, second) = sealed.split_at(cut.min(sealed.len()));
                pair.pipe.give(first);
                let mut room = [0; 100];
                let early = pair.session.read(&pair.pipe, &mut room).expect("reads");
                let before = early.unwrap_or_default();
                assert!(!pair.session.has_buffered() || before > 0);
                pair.pipe.give(second);
                let late = pair.session.read(&pair.pipe, &mut room[before..]).expect("reads");
                let heard = before + late.unwrap_or_default();
                assert_eq!(&room[..heard], said, "{version:?} {role:?} cut at {cut}");
            }
        }
    }
}

#[test]
fn large_records_pass_through_small_rooms_and_tiny_records_fill_large_ones() {
    for (version, suite) in suites() {
        let configs = configs(version, suite);
        let mut pair = pair(Role::Client, &configs, Pipe::new(usize::MAX, usize::MAX));
        pair.shake();
        for room in [1, 2, 100, 2048, 5000, 16_384, 16_401, 65_536] {
            let len = if room < 100 { 20_000 } else { 200_000 };
            pair.hear(&text(len), room);
        }
        for byte in text(500) {
            pair.peer.writer().write_all(&[byte]).expect("takes it");
            pair.collect();
        }
        let mut room = vec![0; 65_536];
        let n = pair.session.read(&pair.pipe, &mut room).expect("reads");
        assert_eq!(n, Some(500), "what is there comes with one read");
        assert_eq!(&room[..500], text(500));
    }
}

#[test]
fn a_server_begins_with_records_of_a_packet() {
    for (version, suite) in suites() {
        let configs = configs(version, suite);
        for role in ROLES {
            let mut pair = pair(role, &configs, Pipe::new(usize::MAX, usize::MAX));
            pair.shake();
            let said = text(EARLY_BYTES + 100_000);
            let (mut sent, mut records) = (0, Vec::new());
            while sent < said.len() {
                let slices: Vec<_> = said[sent..].chunks(5000).map(IoSlice::new).collect();
                sent += pair.session.write(&pair.pipe, &slices).expect("writes").expect("has room");
                let out = pair.pipe.outgoing.borrow().clone();
                let mut rest = out.as_slice();
                while let Some(len) = record_len(rest).expect("a record") {
                    records.push(len);
                    rest = &rest[len..];
                }
                pair.carry();
            }
            assert!(pair.heard == said);
            let of_a_packet = records.iter().take_while(|&&len| len <= 1500 - 72).count();
            let early = if role == Role::Server { EARLY_BYTES } else { 0 };
            assert_eq!(of_a_packet, early.div_ceil(EARLY_RECORD_BYTES), "{role:?}: {records:?}");
        }
    }
}

#[test]
fn a_wire_without_room_loses_and_repeats_nothing() {
    for (version, suite) in suites() {
        let configs = configs(version, suite);
        for role in ROLES {
            for room in [0, 1, 20, 100, 5000, 66_000] {
                let mut pair = pair(role, &configs, Pipe::new(usize::MAX, usize::MAX));
                pair.shake();
                pair.pipe.send_room.set(room);
                pair.say(&text(150_000), 150_000);
                pair.pipe.send_room.set(room);
                pair.say(b"x", 1);
                pair.pipe.send_room.set(room);
                pair.say(&text(4000), 210);
            }
        }
    }
}

#[test]
fn keys_are_updated_by_either_side() {
    let (version, suite) = (&version::TLS13, provider::cipher_suite::TLS13_AES_128_GCM_SHA256);
    let configs = configs(version, suite);
    for role in ROLES {
        let mut pair = pair(role, &configs, Pipe::new(usize::MAX, usize::MAX));
        pair.shake();
        for round in 0..40 {
            // The peer's update asks for ours.
            pair.peer.refresh_traffic_keys().expect("sends an update");
            pair.hear(b"behind the update", 1000);
            pair.carry();
            pair.say(b"with the next key", 20);
            if round % 3 == 0 {
                pair.session.refresh_key().expect("updates");
                pair.say(b"and with the one after it", 20);
            }
        }
    }
}

#[test]
fn an_end_is_clean_only_with_a_goodbye() {
    for (version, suite) in suites() {
        let configs = configs(version, suite);
        for role in ROLES {
            let fresh = || {
                let mut pair = pair(role, &configs, Pipe::new(usize::MAX, usize::MAX));
                pair.shake();
                pair.hear(b"hello", 100);
                pair
            };
            let mut room = [0; 100];
            let mut polite = fresh();
            polite.peer.writer().write_all(b"last").expect("takes it");
            polite.peer.send_close_notify();
            polite.collect();
            polite.pipe.ended.set(true);
            assert_eq!(polite.session.read(&polite.pipe, &mut room).expect("reads"), Some(4));
            for _ in 0..2 {
                assert_eq!(polite.session.read(&polite.pipe, &mut room).expect("reads"), Some(0));
            }
            assert!(polite.session.is_over() && polite.session.has_buffered());
            polite.session.close(&polite.pipe);
            let out = polite.pipe.outgoing.take();
            polite.peer.read_tls(&mut out.as_slice()).expect("reads");
            let state = polite.peer.process_new_packets().expect("a goodbye");
            assert!(state.peer_has_closed());

            let mut cut = fresh();
            cut.peer.writer().write_all(b"last").expect("takes it");
            cut.collect();
            cut.pipe.ended.set(true);
            assert_eq!(cut.session.read(&cut.pipe, &mut room).expect("reads"), Some(4));
            for _ in 0..2 {
                let error = cut.session.read(&cut.pipe, &mut room).expect_err("was cut");
                assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
            }
        }
    }
}

#[test]
fn tampering_is_noticed_and_told() {
    for (version, suite) in suites() {
        let configs = configs(version, suite);
        for role in ROLES {
            let mut pair = pair(role, &configs, Pipe::new(usize::MAX, usize::MAX));
            pair.shake();
            pair.hear(b"hello", 100);
            pair.peer.writer().write_all(b"good").expect("takes it");
            pair.collect();
            pair.peer.writer().write_all(b"bad").expect("takes it");
            pair.collect();
            *pair.pipe.incoming.borrow_mut().back_mut().expect("bytes") ^= 1;
            let mut room = [0; 100];
            assert_eq!(pair.session.read(&pair.pipe, &mut room).expect("reads"), Some(4));
            assert!(pair.session.has_buffered(), "the fault is to be told at once");
            let error = pair.session.read(&pair.pipe, &mut room).expect_err("was tampered with");
            assert_eq!(error.kind(), ErrorKind::InvalidData);
            let out = pair.pipe.outgoing.take();
            pair.peer.read_tls(&mut out.as_slice()).expect("reads");
            let told = pair.peer.process_new_packets().expect_err("an alert");
            assert_eq!(told, Error::AlertReceived(AlertDescription::BadRecordMac));
        }
    }
}

#[test]
fn junk_instead_of_records_is_refused() {
    let (version, suite) = (&version::TLS13, provider::cipher_suite::TLS13_AES_128_GCM_SHA256);
    let configs = configs(version, suite);
    for junk in [
        &[99, 3, 3, 0, 5, 1, 2, 3, 4, 5][..],
        &[23, 9, 3, 0, 5, 1, 2, 3, 4, 5],
        &[23, 3, 3, 255, 255, 1],
        &[23, 3, 3, 0, 1, 1],
        &[20, 3, 3, 0, 1, 1],
        &[22, 3, 3, 0, 40],
    ] {
        let mut pair = pair(Role::Client, &configs, Pipe::new(usize::MAX, usize::MAX));
        pair.shake();
        pair.hear(b"hello", 100);
        pair.pipe.give(junk);
        pair.pipe.give(&[0; 64]);
        let error = pair.session.read(&pair.pipe, &mut [0; 100]).expect_err("is refused");
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{junk:?}");
    }
    let mut pair = pair(Role::Server, &configs, Pipe::new(usize::MAX, usize::MAX));
    pair.pipe.give(b"GET / HTTP/1.1\r\n");
    assert_eq!(pair.session.shake_hands(&pair.pipe).expect("tells"), Shaken::PlainText);
    assert_eq!(pair.session.take_received(), b"GET / HTTP/1.1\r\n");
}

#[test]
fn a_peer_that_says_nothing_in_many_records_is_refused() {
    let (version, suite) = (&version::TLS13, provider::cipher_suite::TLS13_AES_128_GCM_SHA256);
    let mut pair = pair(Role::Client, &configs(version, suite), Pipe::new(usize::MAX, usize::MAX));
    pair.shake();
    pair.hear(b"hello", 100);
    for round in 0.. {
        pair.peer.refresh_traffic_keys().expect("sends an update");
        pair.collect();
        let read = pair.session.read(&pair.pipe, &mut [0; 10]);
        assert_eq!(read.is_err(), round == u32::from(IDLE_RECORDS_MAX), "round {round}");
        if let Err(error) = read {
            assert_eq!(error.kind(), ErrorKind::InvalidData);
            return;
        }
    }
}

#[test]
fn connections_resume_in_both_versions_and_roles() {
    for (version, suite) in suites() {
        let configs = configs(version, suite);
        for role in ROLES {
            let mut resumed = Vec::new();
            for _ in 0..3 {
                let mut pair = pair(role, &configs, Pipe::new(usize::MAX, usize::MAX));
                pair.shake();
                // Tickets come with the first bytes.
                pair.hear(b"hello", 100);
                pair.say(b"hello", 5);
                resumed.push(pair.session.is_resumed());
                pair.session.close(&pair.pipe);
            }
            let first = role == Role::Server && resumed[0];
            assert!(first || resumed == [false, true, true] || resumed == [true; 3], "{resumed:?}");
        }
    }
}

#[test]
fn a_session_that_waits_holds_no_buffer() {
    for (version, suite) in suites() {
        let configs = configs(version, suite);
        for role in ROLES {
            let mut pair = pair(role, &configs, Pipe::new(usize::MAX, usize::MAX));
            pair.shake();
            pair.hear(&text(40_000), 65_536);
            pair.say(&text(40_000), 1000);
            assert_eq!(pool_usage().blocks, 0);
            // Half a record is kept in a block of its size.
            pair.peer.writer().write_all(&text(300)).expect("takes it");
            pair.collect();
            let rest: Vec<u8> = pair.pipe.incoming.borrow_mut().drain(100..).collect();
            assert_eq!(pair.session.read(&pair.pipe, &mut [0; 4096]).expect("reads"), None);
            assert_eq!((pool_usage().blocks, pool_usage().bytes), (1, 1024));
            pair.pipe.give(&rest);
            assert_eq!(pair.read(300, 4096), text(300));
            assert_eq!(pool_usage().blocks, 0);
        }
    }
    eprintln!("a session has {} bytes, its records {}", size_of::<Session>(), size_of::<Records>());
}

#[test]
fn a_look_takes_nothing() {
    let (version, suite) = (&version::TLS13, provider::cipher_suite::TLS13_AES_128_GCM_SHA256);
    let configs = configs(version, suite);
    let mut pair = pair(Role::Client, &configs, Pipe::new(usize::MAX, usize::MAX));
    pair.shake();
    // The server's tickets are no payload.
    assert!(!pair.session.peek(&pair.pipe).expect("looks"));
    pair.peer.writer().write_all(&text(40_000)).expect("takes it");
    pair.collect();
    assert!(pair.session.peek(&pair.pipe).expect("looks"));
    assert!(pair.session.peek(&pair.pipe).expect("looks"));
    assert_eq!(pair.read(40_000, 3000), text(40_000));
    assert!(!pair.session.peek(&pair.pipe).expect("looks"));
    pair.peer.send_close_notify();
    pair.collect();
    assert!(pair.session.peek(&pair.pipe).expect("looks"));
    assert!(pair.session.is_over());
}

#[test]
fn a_peer_that_asks_for_keys_and_does_not_read_costs_one_answer() {
    let (version, suite) = (&version::TLS13, provider::cipher_suite::TLS13_AES_128_GCM_SHA256);
    let mut pair = pair(Role::Server, &configs(version, suite), Pipe::new(usize::MAX, usize::MAX));
    pair.shake();
    pair.say(&text(EARLY_BYTES), 5000);
    // Nothing goes out from here on, and what waits fills its block.
    pair.pipe.send_room.set(0);
    let said = text(WRITE_BYTES_MAX);
    let counted = pair.session.write(&pair.pipe, &[IoSlice::new(&said)]).expect("writes");
    assert_eq!(counted, Some(said.len() - 1));
    for _ in 0..2000 {
        pair.peer.refresh_traffic_keys().expect("sends an update");
        pair.hear(b"x", 10);
    }
    assert!(pair.session.out.len() <= READ_BUFFER_BYTES);
    pair.pipe.send_room.set(usize::MAX);
    let rest = pair.session.write(&pair.pipe, &[IoSlice::new(&said[said.len() - 1..])]);
    assert_eq!(rest.expect("writes"), Some(1));
    pair.heard.clear();
    pair.carry();
    assert!(pair.heard == said);
    pair.say(b"with the next key", 20);
    pair.hear(b"heard", 10);
}

/// What happens to bytes on a bad day.
fn damage(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    if bytes.is_empty() {
        return;
    }
    let at = random.usize(..bytes.len());
    match random.u8(..6) {
        0 => bytes[at] ^= 1 << random.u8(..8),
        1 => bytes.truncate(at),
        2 => drop(bytes.remove(at)),
        3 => bytes.insert(at, random.u8(..)),
        4 => {
            let again = bytes[at..].to_vec();
            bytes.extend_from_slice(&again);
        }
        _ => bytes[at..].iter_mut().for_each(|byte| *byte = random.u8(..)),
    }
}

#[test]
fn damage_at_any_time_changes_no_byte_that_is_read() {
    let suites = suites();
    for seed in 0..1000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (version, suite) = suites[random.usize(..suites.len())];
        let role = ROLES[random.usize(..2)];
        let most = [1, 3, 100, 5000, usize::MAX][random.usize(..5)];
        let mut pair = pair(role, &configs(version, suite), Pipe::new(most, most));
        let mut calm = random.usize(..12);
        let said = text(30_000);
        let (mut told, mut heard) = (0, Vec::new());
        let mut room = vec![0; random.usize(1..20_000)];
        for _ in 0..400 {
            let out = pair.pipe.outgoing.take();
            let mut out = out.as_slice();
            while !out.is_empty() && pair.peer.read_tls(&mut out).is_ok_and(|n| n > 0) {
                let _ = pair.peer.process_new_packets();
            }
            if !pair.peer.is_handshaking() && told < said.len() {
                let end = (told + random.usize(1..3000)).min(said.len());
                told += pair.peer.writer().write(&said[told..end]).unwrap_or(0);
            }
            let mut sealed = Vec::new();
            while pair.peer.wants_write() {
                pair.peer.write_tls(&mut sealed).expect("writes");
            }
            match calm {
                0 => damage(&mut sealed, &mut random),
                _ => calm -= usize::from(!sealed.is_empty()),
            }
            pair.pipe.give(&sealed);
            if pair.session.is_handshaking() {
                if pair.session.shake_hands(&pair.pipe).is_err() {
                    break;
                }
                continue;
            }
            match pair.session.read(&pair.pipe, &mut room) {
                Ok(Some(n)) => heard.extend_from_slice(&room[..n]),
                Ok(None) => {}
                Err(_) => break,
            }
            let _ = pair.session.write(&pair.pipe, &[IoSlice::new(&said[..100])]);
        }
        assert!(said.starts_with(&heard), "seed {seed}: {} bytes were read", heard.len());
    }
}
