//! Many frames through TLS on both sides, cut at random: into chunks, records and segments on the
//! way up the relay, into reads on the way down. Every byte is compared.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use millstream::config::plan::Io;
use millstream::http1::Status;
use millstream::http1::body::{BodyDecoder, Step};
use millstream::http1::head::parse_response;
use millstream::outcome::Outcome;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConnection, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
    version,
};

use crate::downstream::{client_config, shown};
use crate::pki::{Authority, Folder, Issued};
use crate::support::{chat, drivers, ended, eventually, relay_to, stop};

/// Between two reads or writes; the whole process may be held up.
const PATIENCE: Duration = Duration::from_secs(300);

/// A stream's bytes, made as they are needed.
struct Frames {
    count: u64,
    made: u64,
    frame: Vec<u8>,
    at: usize,
}

impl Frames {
    fn new(count: u64) -> Self {
        Self { count, made: 0, frame: Vec::new(), at: 0 }
    }

    /// What is left of the frame in work, or the next one; empty behind the last.
    fn rest(&mut self) -> &[u8] {
        if self.at == self.frame.len() && self.made <= self.count {
            let n = self.made;
            self.frame = if n == self.count {
                b"data: [DONE]\n\n".to_vec()
            } else {
                let text = "token ".repeat((n * 7919 % 41) as usize);
                format!("data: {{\"n\":{n},\"text\":\"{text}\"}}\n\n").into_bytes()
            };
            (self.made, self.at) = (n + 1, 0);
        }
        &self.frame[self.at..]
    }

    /// The next `len` bytes, fewer at the end.
    fn take(&mut self, len: usize) -> Vec<u8> {
        let mut taken = Vec::with_capacity(len);
        while taken.len() < len && !self.rest().is_empty() {
            let n = self.rest().len().min(len - taken.len());
            taken.extend_from_slice(&self.rest()[..n]);
            self.at += n;
        }
        taken
    }
}

/// A length up to `max`: mostly of any size, now and then tiny ones.
fn length(random: &mut fastrand::Rng, max: usize) -> usize {
    if random.u8(..8) == 0 { random.usize(1..30) } else { random.usize(1..=max) }
}

/// An https upstream that answers one request with `count` frames.
fn upstream(
    issued: &Issued,
    version: &'static SupportedProtocolVersion,
    count: u64,
    seed: u64,
) -> (SocketAddr, JoinHandle<io::Result<()>>) {
    let chain = vec![CertificateDer::from_pem_file(&issued.certificate).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(&issued.key).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("fit");
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("bound");
    let serving = std::thread::spawn(move || {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let connection = ServerConnection::new(Arc::new(config)).map_err(io::Error::other)?;
        answer(&mut StreamOwned::new(connection, socket), count, seed)
    });
    (addr, serving)
}

fn answer(
    stream: &mut StreamOwned<ServerConnection, TcpStream>,
    count: u64,
    seed: u64,
) -> io::Result<()> {
    let mut asked = Vec::new();
    while !asked.ends_with(b"}]}") {
        let mut part = [0; 4096];
        match stream.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => asked.extend_from_slice(&part[..n]),
        }
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let mut frames = Frames::new(count);
    let mut plain = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
        Transfer-Encoding: chunked\r\n\r\n"
        .to_vec();
    let mut over = false;
    while !over {
        let chunk = frames.take(length(&mut random, 30_000));
        over = chunk.is_empty();
        plain.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        plain.extend_from_slice(&chunk);
        plain.extend_from_slice(b"\r\n");
        // Records, each of what one write brings.
        let mut sealed = Vec::new();
        while plain.len() > 40_000 || (over && !plain.is_empty()) {
            let n = length(&mut random, 16_384).min(plain.len());
            stream.conn.writer().write_all(&plain[..n])?;
            plain.drain(..n);
            while stream.conn.wants_write() {
                stream.conn.write_tls(&mut sealed)?;
            }
        }
        // Segments, which know nothing of records.
        let mut sealed = sealed.as_slice();
        while !sealed.is_empty() {
            let n = length(&mut random, 40_000).min(sealed.len());
            stream.sock.write_all(&sealed[..n])?;
            sealed = &sealed[n..];
        }
    }
    // Until the relay has gone.
    let _ = stream.read(&mut [0; 1]);
    Ok(())
}

/// A socket that is read in pieces of any size.
struct Cut {
    socket: TcpStream,
    random: fastrand::Rng,
}

impl Read for Cut {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let n = length(&mut self.random, 20_000).min(room.len());
        self.socket.read(&mut room[..n])
    }
}

impl Write for Cut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads one stream of `count` frames and compares it.
fn compare(stream: &mut impl Read, random: &mut fastrand::Rng, count: u64) {
    let mut bytes = Vec::new();
    let mut room = vec![0; 50_000];
    let mut more = |bytes: &mut Vec<u8>| {
        let wanted = length(random, room.len());
        let n = stream.read(&mut room[..wanted]).expect("no error in the middle");
        assert!(n > 0, "an early end");
        bytes.extend_from_slice(&room[..n]);
    };
    let mut decoder = loop {
        match parse_response(&bytes, &mut 0).expect("a head") {
            Status::Complete((head, consumed)) => {
                assert_eq!(head.status(), 200);
                bytes.drain(..consumed);
                break BodyDecoder::new(head.framing("POST"));
            }
            Status::Partial => more(&mut bytes),
        }
    };
    let (mut frames, mut at) = (Frames::new(count), 0);
    loop {
        match decoder.step(&bytes[at..]).expect("the relay's framing is right") {
            Step::Framing(n) => at += n,
            Step::Data(n) => {
                let due = frames.take(n);
                assert!(bytes[at..at + n] == due, "changed around frame {}", frames.made);
                at += n;
            }
            Step::NeedMore => {
                bytes.drain(..at);
                at = 0;
                more(&mut bytes);
            }
            Step::End(_) => break,
        }
    }
    assert!(frames.rest().is_empty(), "an end at frame {} of {count}", frames.made);
}

fn pass(io: Io, version: &'static SupportedProtocolVersion, count: u64, seed: u64) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = authority.file(&folder);
    let issued = authority.issue(&folder, "both", &["127.0.0.1"]);
    let (addr, serving) = upstream(&issued, version, count, seed);
    let flags = format!(
        "{} --upstream-ca {} --heartbeat off --retries 0 --write-timeout 300s",
        shown(&issued),
        ca.display()
    );
    let server = relay_to(&format!("https://{addr}"), io, &flags);
    let socket = TcpStream::connect(server.addresses[0]).expect("connects");
    socket.set_read_timeout(Some(PATIENCE)).expect("sets");
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let connection = ClientConnection::new(client_config(&ca, &[version]), name).expect("one");
    let mut random = fastrand::Rng::with_seed(!seed);
    let mut stream = StreamOwned::new(connection, Cut { socket, random: random.fork() });
    stream.write_all(chat("/v1/chat/completions", "").as_bytes()).expect("sends");
    compare(&mut stream, &mut random, count);
    eventually("it is done", || ended(&server, Outcome::Done) == 1);
    assert_eq!(server.metrics[0].frames.get(), count + 1);
    drop(stream);
    stop(server);
    serving.join().expect("no panic").expect("all was sent");
}

fn pass_everywhere(count: u64) {
    for io in drivers() {
        for (seed, version) in [&version::TLS13, &version::TLS12].into_iter().enumerate() {
            pass(io, version, count, seed as u64);
        }
    }
}

#[test]
fn frames_pass_both_sides_under_random_splits() {
    pass_everywhere(5_000);
}

/// `cargo test --test tls -- --ignored`
#[test]
#[ignore = "a million frames for each driver and version"]
fn a_million_frames_pass_both_sides_under_random_splits() {
    pass_everywhere(1_000_000);
}
