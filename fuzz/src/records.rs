//! A TLS session against rustls's own connection, with a wire between them that cuts, stalls and
//! damages as the input says. Whatever happens, what is read is a prefix of what was said, and
//! without damage all of it arrives.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::sync::{Arc, OnceLock};

use millstream::net::tls::session::{Session, Wire};
use rustls::client::UnbufferedClientConnection;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
    version,
};

use super::Choices;

type Configs = (Arc<ClientConfig>, Arc<ServerConfig>);

/// For TLS 1.3 and 1.2.
fn configs() -> &'static [Configs; 2] {
    static CONFIGS: OnceLock<[Configs; 2]> = OnceLock::new();
    CONFIGS.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["peer.test".to_owned()]).expect("makes");
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a root");
        [&version::TLS13, &version::TLS12].map(|version| {
            let mut client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
                .with_protocol_versions(&[version])
                .expect("a version")
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            client.enable_secret_extraction = true;
            let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
            let mut server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
                .with_protocol_versions(&[version])
                .expect("a version")
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key)
                .expect("a certificate");
            server.enable_secret_extraction = true;
            (Arc::new(client), Arc::new(server))
        })
    })
}

#[derive(Default)]
struct Pipe {
    incoming: RefCell<VecDeque<u8>>,
    outgoing: RefCell<Vec<u8>>,
    room: Cell<usize>,
}

impl Wire for Pipe {
    fn recv(&self, room: &mut [u8]) -> io::Result<Option<usize>> {
        let mut incoming = self.incoming.borrow_mut();
        let n = room.len().min(incoming.len());
        incoming.drain(..n).zip(room).for_each(|(byte, place)| *place = byte);
        Ok((n > 0).then_some(n))
    }

    fn send(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let n = bytes.len().min(self.room.get());
        self.room.set(self.room.get() - n);
        self.outgoing.borrow_mut().extend(&bytes[..n]);
        Ok((n > 0).then_some(n))
    }
}

struct World {
    session: Session,
    peer: Connection,
    pipe: Pipe,
    /// Sealed by the peer, not delivered.
    waiting: VecDeque<u8>,
    said: Vec<u8>,
    heard: Vec<u8>,
    told: Vec<u8>,
    answered: Vec<u8>,
    /// Bytes told that count as sent.
    counted: usize,
    damaged: bool,
    broken: bool,
}

impl World {
    fn new(client: bool, configs: &Configs) -> Self {
        let name = ServerName::try_from("peer.test").expect("a name");
        let (ours, theirs) = (Arc::clone(&configs.0), Arc::clone(&configs.1));
        let (session, peer) = if client {
            let connection = UnbufferedClientConnection::new(ours, name).expect("a client");
            let peer = ServerConnection::new(theirs).expect("a server");
            (Session::client(connection), Connection::Server(peer))
        } else {
            let connection = UnbufferedServerConnection::new(theirs).expect("a server");
            let peer = ClientConnection::new(ours, name).expect("a client");
            (Session::server(connection), Connection::Client(peer))
        };
        let pipe = Pipe::default();
        pipe.room.set(usize::MAX);
        let waiting = VecDeque::new();
        let (said, heard, told, answered) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self {
            session,
            peer,
            pipe,
            waiting,
            said,
            heard,
            told,
            answered,
            counted: 0,
            damaged: false,
            broken: false,
        }
    }

    /// Moves what was sealed on both sides; the peer hears at once.
    fn carry(&mut self) {
        let out = self.pipe.outgoing.take();
        let mut out = out.as_slice();
        while !out.is_empty() && self.peer.read_tls(&mut out).is_ok_and(|n| n > 0) {
            if let Err(error) = self.peer.process_new_packets() {
                assert!(self.damaged, "undamaged, the peer refuses: {error}");
                self.broken = true;
                return;
            }
            let mut part = [0; 4096];
            while let Ok(n @ 1..) = self.peer.reader().read(&mut part) {
                self.answered.extend_from_slice(&part[..n]);
            }
        }
        let mut sealed = Vec::new();
        while self.peer.wants_write() {
            self.peer.write_tls(&mut sealed).expect("writes");
        }
        self.waiting.extend(sealed);
    }

    fn deliver(&mut self, n: usize) {
        let n = n.min(self.waiting.len());
        self.pipe.incoming.borrow_mut().extend(self.waiting.drain(..n));
    }

    fn step(&mut self, room: usize) {
        let ended = if self.session.is_handshaking() {
            self.session.shake_hands(&self.pipe).map(|_| ())
        } else {
            let mut room = vec![0; room];
            self.session.read(&self.pipe, &mut room).map(|read| {
                self.heard.extend_from_slice(&room[..read.unwrap_or_default()]);
            })
        };
        if let Err(error) = ended {
            assert!(self.damaged, "undamaged, the session refuses: {error}");
            self.broken = true;
        }
    }

    fn tell(&mut self, bytes: &[u8]) {
        if self.session.is_handshaking() {
            return;
        }
        // As a queue would: what was not counted comes again, before anything else.
        self.told.extend_from_slice(bytes);
        self.push();
    }

    fn push(&mut self) {
        let rest = self.told[self.counted..].to_vec();
        if !rest.is_empty()
            && let Ok(Some(n)) = self.session.write(&self.pipe, &[IoSlice::new(&rest)])
        {
            self.counted += n;
        }
    }
}

/// Plays the input.
pub fn check(data: &[u8]) {
    let mut choices = Choices::new(data);
    let first = choices.byte();
    let mut world = World::new(first & 1 == 0, &configs()[usize::from(first >> 1 & 1)]);
    while !choices.is_empty() && !world.broken {
        match choices.byte() % 8 {
            0 if !world.peer.is_handshaking() => {
                let len = choices.number() % 5000;
                let text: Vec<u8> =
                    (0..len).map(|n| (((n + world.said.len()) * 7) >> 2) as u8).collect();
                let taken = world.peer.writer().write(&text).unwrap_or(0);
                world.said.extend_from_slice(&text[..taken]);
            }
            1 if !world.waiting.is_empty() => {
                let at = choices.number() % world.waiting.len();
                world.waiting[at] ^= choices.byte().max(1);
                world.damaged = true;
            }
            2 => {
                let n = usize::from(choices.byte());
                let more = choices.bytes(n);
                world.damaged |= !more.is_empty();
                world.waiting.extend(more);
            }
            3 => world.step(1 + choices.number() % 20_000),
            4 => {
                let n = choices.number() % 3000;
                world.tell(&vec![first; n]);
            }
            5 => world.pipe.room.set(choices.number()),
            6 => {
                let n = choices.number();
                world.deliver(n);
            }
            _ => {
                let _ = world.peer.refresh_traffic_keys();
            }
        }
        world.carry();
        assert!(world.said.starts_with(&world.heard), "what was read was never said");
    }
    if world.damaged || world.broken {
        return;
    }
    // Undamaged, all of it arrives once the wire lets it.
    for _ in 0..2000 {
        world.pipe.room.set(usize::MAX);
        world.push();
        world.carry();
        world.deliver(usize::MAX);
        world.step(4096);
    }
    assert!(world.heard == world.said, "{} of {} bytes", world.heard.len(), world.said.len());
    assert!(world.answered == world.told, "{} of {}", world.answered.len(), world.told.len());
}
