//! A mock upstream and a relay in this process on ports of the kernel's choice, and a client
//! that reads what the relay really sends.
#![allow(dead_code, unreachable_pub, missing_docs)] // each test binary uses a part

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use millstream::config::cli::{Cli, Command, MockArgs};
use millstream::config::plan::{Io, Plan};
use millstream::http1::Status;
use millstream::http1::body::{BodyDecoder, Eof, Step};
use millstream::http1::head::{ResponseHead, parse_response};
use millstream::net::listener;
use millstream::outcome::Outcome;
use millstream::server::Server;

/// Both drivers, where the kernel has both.
pub fn drivers() -> Vec<Io> {
    // On a thread of its own: tearing a ring down interrupts its thread's system calls later.
    let tried = std::thread::spawn(|| {
        millstream::net::runtime::build_runtime(Io::Uring)
            .map(|_| ())
            .map_err(|error| error.to_string())
    });
    match tried.join().expect("no panic") {
        Ok(()) => vec![Io::Uring, Io::Epoll],
        Err(error) => {
            eprintln!("io_uring is not available here, epoll alone is tested: {error}");
            vec![Io::Epoll]
        }
    }
}

/// A mock upstream for as long as the process lives.
pub fn mock() -> SocketAddr {
    let listener = listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("binds");
    let listen = listener.local_addr().expect("bound");
    let args = MockArgs {
        listen,
        seed: 1,
        rate: 0.0,
        first_delay: Duration::ZERO,
        tokens: 20,
        io: Io::Epoll,
    };
    std::thread::spawn(move || millstream::mock::serve_on(listener, &args));
    listen
}

/// A relay in front of `upstream` with more flags.
pub fn relay(upstream: SocketAddr, io: Io, flags: &str) -> Server {
    relay_to(&format!("http://{upstream}"), io, flags)
}

/// A relay in front of the upstream at a URL, with more flags.
pub fn relay_to(upstream: &str, io: Io, flags: &str) -> Server {
    let io = if io == Io::Epoll { "epoll" } else { "uring" };
    let words = ["millstream", "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let words = words.into_iter().chain(["--upstream", upstream, "--io", io]);
    let more = ["--access-log", "off", "--retry-backoff", "1ms"];
    let workers: &[&str] = if flags.contains("--workers") { &[] } else { &["--workers", "1"] };
    let words = words.chain(more).chain(workers.iter().copied());
    let cli = Cli::read(words.chain(flags.split_whitespace()));
    let Command::Serve(args) = cli.expect("flags parse").command else { panic!("not serve") };
    let plan = Plan::from_args(&args, 20_000, 1).expect("flags are valid");
    Server::start(&plan).expect("starts")
}

/// A relay of a configuration file, with more flags.
pub fn configured(io: Io, file: &std::path::Path, flags: &str) -> Server {
    let path = file.to_str().expect("UTF-8");
    let io = if io == Io::Epoll { "epoll" } else { "uring" };
    let words = ["millstream", "serve", "--config", path, "--listen", "127.0.0.1:0", "--io", io];
    let more =
        ["--admin", "off", "--access-log", "off", "--workers", "1", "--retry-backoff", "1ms"];
    let cli = Cli::read(words.into_iter().chain(more).chain(flags.split_whitespace()));
    let Command::Serve(args) = cli.expect("flags parse").command else { panic!("not serve") };
    let plan = Plan::from_args(&args, 20_000, 1).unwrap_or_else(|error| panic!("{error}"));
    Server::start(&plan).expect("starts")
}

/// Ends a relay at once.
pub fn stop(server: Server) {
    server.end();
    server.wait(&|| true);
}

/// Waits until `condition` holds; panics after ten seconds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

/// How many exchanges ended so.
pub fn ended(server: &Server, outcome: Outcome) -> u64 {
    server.metrics.iter().map(|m| m.exchanges[outcome as usize].get()).sum()
}

/// What a client got.
#[derive(Debug)]
pub struct Got {
    pub head: ResponseHead,
    pub body: Vec<u8>,
    /// The body ended as its framing says.
    pub whole: bool,
}

impl Got {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("sets");
    stream
}

/// Reads one response; interim ones are skipped.
pub fn read_response(stream: &mut impl Read, method: &str) -> Option<Got> {
    let (mut bytes, mut part) = (Vec::new(), [0; 65_536]);
    let head = loop {
        match parse_response(&bytes, &mut 0).expect("a head") {
            Status::Complete((head, consumed)) => {
                bytes.drain(..consumed);
                if !head.is_interim() {
                    break head;
                }
            }
            Status::Partial => match stream.read(&mut part) {
                Ok(0) | Err(_) => return None,
                Ok(n) => bytes.extend_from_slice(&part[..n]),
            },
        }
    };
    let mut decoder = BodyDecoder::new(head.framing(method));
    let (mut body, mut at) = (Vec::new(), 0);
    let whole = loop {
        match decoder.step(&bytes[at..]).expect("the relay's framing is right") {
            Step::Framing(n) => at += n,
            Step::Data(n) => {
                body.extend_from_slice(&bytes[at..at + n]);
                at += n;
            }
            Step::End(_) => break true,
            Step::NeedMore => match stream.read(&mut part) {
                Ok(0) => break decoder.at_eof() == Eof::Complete,
                Err(_) => break false,
                Ok(n) => {
                    bytes.clear();
                    at = 0;
                    bytes.extend_from_slice(&part[..n]);
                }
            },
        }
    };
    Some(Got { head, body, whole })
}

/// Where the mock answers with a stream, a path for each dialect.
pub const DIALECT_PATHS: [&str; 5] = [
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
    "/prompt/optimize-prompt",
    "/api/v1/services/aigc/text-generation/generation",
];

/// A chat request for a stream.
pub fn chat(path_and_query: &str, fields: &str) -> String {
    let body = r#"{"model":"m-1","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    let length = body.len();
    format!(
        "POST {path_and_query} HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n{fields}\r\n{body}"
    )
}

/// Sends `request` on a connection of its own and reads the answer.
pub fn ask(addr: SocketAddr, request: &str) -> Option<Got> {
    let mut stream = connect(addr);
    stream.write_all(request.as_bytes()).expect("sends");
    let method = request.split(' ').next().unwrap_or_default();
    read_response(&mut stream, method)
}

/// A scripted upstream: answers each connection's first request head with `answer`.
pub fn scripted(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut bytes = Vec::new();
            let mut part = [0; 4096];
            while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
                match stream.read(&mut part) {
                    Ok(0) | Err(_) => break,
                    Ok(n) => bytes.extend_from_slice(&part[..n]),
                }
            }
            let _ = stream.write_all(answer);
            // A close with the request's body unread would be a reset, and could overtake.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            while stream.read(&mut part).is_ok_and(|n| n > 0) {}
        }
    });
    addr
}
