//! Thousands of generated event streams through a real relay, on both drivers: what the upstream
//! wrote is what the client reads, byte for byte, and connections are reused behind it.
//!
//! Each case is made from its seed alone, by the upstream and by the client: lines, line ends,
//! comments, NUL, byte order marks, frames of megabytes; framing, splits and chunks on the way
//! in, reads of a few bytes on the way out. `PROPERTY_SEED=n cargo test --test property` begins
//! at another seed, `PROPERTY_CASES=n` runs more or fewer of them per driver.

mod support;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use fastrand::Rng;
use millstream::config::plan::Io;
use millstream::outcome::Outcome;
use support::{connect, drivers, ended, eventually, relay, stop};

/// Cases per driver.
const CASES: u64 = 6000;
/// Connections they go over, side by side.
const CLIENTS: u64 = 4;

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Chunked,
    Length,
    Close,
}

/// One exchange: what is sent up, what comes down, and in which pieces.
struct Case {
    events: bool,
    request: Vec<u8>,
    request_chunked: bool,
    payload: Vec<u8>,
    framing: Framing,
    /// The client speaks HTTP/1.0, and the end of the body is the close.
    old: bool,
    /// The largest read of the client.
    read_max: usize,
    /// The rest of the randomness: where things are split.
    rng: Rng,
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let events = rng.u8(..) > 25;
        let payload = if events { event_stream(&mut rng) } else { some_bytes(&mut rng, 20_000) };
        let framing = match rng.u8(..10) {
            0 => Framing::Close,
            1..3 => Framing::Length,
            _ => Framing::Chunked,
        };
        let read_max = match rng.u8(..8) {
            0 => 1 + rng.usize(..7),
            1 => 1 + rng.usize(..500),
            _ => 65_536,
        };
        Self {
            events,
            request: some_bytes(&mut rng, 3000),
            request_chunked: rng.bool(),
            read_max: if payload.len() > 40_000 { 65_536 } else { read_max },
            payload,
            framing,
            old: rng.u8(..20) == 0,
            rng,
        }
    }
}

fn some_bytes(rng: &mut Rng, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.usize(..most)];
    rng.fill(&mut bytes);
    bytes
}

/// A text of up to `most` bytes that holds no line end: mostly words, sometimes any bytes.
fn text(rng: &mut Rng, most: usize, out: &mut Vec<u8>) {
    const WORDS: [&[u8]; 8] = [
        b"token ",
        b"\"delta\":{\"content\":\"x\"} ",
        "Grüße 世界 🦀 ".as_bytes(),
        b"\0",
        b": data:",
        b"\xff\xfe\xc3",
        b"\xef\xbb\xbf",
        b"[DONE]",
    ];
    let end = out.len() + rng.usize(..=most);
    while out.len() < end {
        out.extend_from_slice(WORDS[rng.usize(..WORDS.len())]);
    }
}

fn event_stream(rng: &mut Rng) -> Vec<u8> {
    const ENDS: [&[u8]; 3] = [b"\n", b"\r\n", b"\r"];
    const FIELDS: [&[u8]; 9] =
        [b"data: ", b"data:", b"data", b"event: ", b"id: ", b"retry: 10", b": ", b":", b"x"];
    let mut out = Vec::new();
    if rng.u8(..6) == 0 {
        out.extend_from_slice(b"\xef\xbb\xbf");
    }
    let usual = rng.usize(..3);
    let mixed = rng.u8(..4) == 0;
    let frames = if rng.u8(..8) == 0 { rng.usize(..300) } else { rng.usize(..25) };
    for _ in 0..frames {
        let line_end = |rng: &mut Rng| ENDS[if mixed { rng.usize(..3) } else { usual }];
        for _ in 0..rng.usize(..5) {
            out.extend_from_slice(FIELDS[rng.usize(..FIELDS.len())]);
            let most = if rng.u8(..30) == 0 { 5000 } else { 60 };
            text(rng, most, &mut out);
            out.extend_from_slice(line_end(rng));
        }
        out.extend_from_slice(line_end(rng));
    }
    if rng.u8(..80) == 0 {
        // Above and below what the relay holds whole.
        out.extend_from_slice(b"data: ");
        let more = out.len() + (1 << 17) + rng.usize(..3 << 20);
        out.resize(more, b'h');
        out.extend_from_slice(b"\n\n");
    }
    match rng.u8(..4) {
        0 => out.extend_from_slice(b"data: [DONE]\n\n"),
        1 => out.extend_from_slice(b"data: unfinished"),
        _ => {}
    }
    out
}

/// Writes `bytes` in pieces of random sizes: few large ones, or many small ones.
fn in_pieces(rng: &mut Rng, bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
    let most = match rng.u8(..4) {
        0 => bytes.len() / 20 + 3,
        1 => bytes.len() / 3 + 5,
        _ => bytes.len() + 1,
    };
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(rng.usize(1..=most).min(rest.len()));
        out.write_all(piece)?;
        rest = behind;
    }
    Ok(())
}

/// `payload` in chunks of random sizes, cut anywhere or behind blank lines, with extensions,
/// leading zeros and trailers now and then.
fn chunked(rng: &mut Rng, payload: &[u8]) -> Vec<u8> {
    let most = 1 + rng.usize(..payload.len().max(1)) / (1 + rng.usize(..20));
    let most = most.max(payload.len() / 2000);
    let odd = rng.u8(..5) == 0;
    let frames = rng.bool();
    let (mut out, mut rest) = (Vec::with_capacity(payload.len() + 64), payload);
    while !rest.is_empty() {
        let near = &rest[..rest.len().min(if frames { 4096 } else { 0 })];
        let blank = memchr::memmem::find(near, b"\n\n");
        let len = blank.map_or_else(|| rng.usize(1..=most).min(rest.len()), |at| at + 2);
        match rng.u8(..6) {
            0 if odd => write!(out, "{len:x};a=\"b;c\"\r\n"),
            1 if odd => write!(out, "{len:012X}\r\n"),
            _ => write!(out, "{len:x}\r\n"),
        }
        .expect("memory");
        out.extend_from_slice(&rest[..len]);
        out.extend_from_slice(b"\r\n");
        rest = &rest[len..];
    }
    let trailers = if odd { "X-Sum: 1\r\nX-Empty:\r\n" } else { "" };
    write!(out, "0\r\n{trailers}\r\n").expect("memory");
    out
}

/// A head up to its empty line, one byte after the other, so that nothing behind it is taken.
fn head(from: &mut impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn field(head: &str, name: &str) -> Option<String> {
    let named = |line: &str| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    };
    head.lines().find_map(named)
}

/// A body in the framing its head tells, read without any code of the relay.
fn body(from: &mut impl Read, head: &str, read_max: usize) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    let take = |from: &mut dyn Read, mut left: usize, body: &mut Vec<u8>| -> io::Result<()> {
        while left > 0 {
            let at = body.len();
            body.resize(at + left.min(read_max), 0);
            let n = from.read(&mut body[at..])?;
            body.truncate(at + n);
            left -= n;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    };
    if let Some(length) = field(head, "content-length") {
        take(from, length.parse().expect("a length"), &mut body)?;
    } else if field(head, "transfer-encoding").as_deref() == Some("chunked") {
        loop {
            let mut line = Vec::new();
            take(from, 1, &mut line)?;
            while !line.ends_with(b"\r\n") {
                take(from, 1, &mut line)?;
            }
            let digits = std::str::from_utf8(&line[..line.len() - 2]).expect("digits alone");
            let size = usize::from_str_radix(digits, 16).expect("a size without extension");
            take(from, size, &mut body)?;
            let mut end = Vec::new();
            take(from, 2, &mut end)?;
            assert_eq!(end, b"\r\n", "behind a chunk");
            if size == 0 {
                break;
            }
        }
    } else {
        from.read_to_end(&mut body)?;
    }
    Ok(body)
}

/// An upstream that answers `/SEED` with that seed's payload, if it got that seed's request.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            std::thread::spawn(move || while answer(&stream).is_ok_and(|keep| keep) {});
        }
    });
    addr
}

fn answer(mut stream: &TcpStream) -> io::Result<bool> {
    stream.set_nodelay(true)?;
    let head = head(&mut stream)?;
    let path = head.split(' ').nth(1).unwrap_or_default();
    let seed = path.trim_start_matches('/').parse().expect("a seed");
    let mut case = Case::new(seed);
    if body(&mut stream, &head, 65_536)? != case.request {
        stream.write_all(b"HTTP/1.1 500 The body came up changed\r\nContent-Length: 0\r\n\r\n")?;
        return Ok(false);
    }
    let kind = if case.events { "text/event-stream" } else { "application/octet-stream" };
    let mut out = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n").into_bytes();
    let rng = &mut case.rng;
    match case.framing {
        Framing::Chunked => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            out.extend_from_slice(&chunked(rng, &case.payload));
        }
        Framing::Length => {
            write!(out, "Content-Length: {}\r\n\r\n", case.payload.len())?;
            out.extend_from_slice(&case.payload);
        }
        Framing::Close => {
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(&case.payload);
        }
    }
    in_pieces(rng, &out, &mut stream)?;
    Ok(case.framing != Framing::Close)
}

/// One case over `kept`, a connection of the cases before it, or over a new one.
fn run(seed: u64, addr: SocketAddr, kept: &mut Option<TcpStream>) {
    let mut case = Case::new(seed);
    let reused = kept.take().filter(|_| !case.old);
    let mut stream = reused.unwrap_or_else(|| connect(addr));
    let version = if case.old { "1.0" } else { "1.1" };
    stream.set_nodelay(true).expect("sets");
    let mut request = format!("POST /{seed} HTTP/{version}\r\nHost: t\r\n").into_bytes();
    if case.request_chunked && !case.old {
        request.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
        request.extend_from_slice(&chunked(&mut case.rng.clone(), &case.request));
    } else {
        write!(request, "Content-Length: {}\r\n\r\n", case.request.len()).expect("memory");
        request.extend_from_slice(&case.request);
    }
    in_pieces(&mut case.rng, &request, &mut stream).expect("sends");
    let head = head(&mut stream).expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(case.old || field(&head, "connection").is_none(), "{head}");
    let length = field(&head, "content-length");
    let of_length = case.framing == Framing::Length && !case.events;
    assert_eq!(length.is_some(), of_length, "{head}");
    let got = body(&mut stream, &head, case.read_max).expect("a whole body");
    let same = got.iter().zip(&case.payload).take_while(|(a, b)| a == b).count();
    assert!(
        got == case.payload,
        "{} bytes became {}; the first that differs is at {same}",
        case.payload.len(),
        got.len()
    );
    if !case.old {
        *kept = Some(stream);
    }
}

fn all(io: Io, base: u64, cases: u64) {
    let server =
        relay(upstream(), io, "--heartbeat off --high-water-mark 32k --max-frame-bytes 256k");
    let addr = server.addresses[0];
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                let mut kept = None;
                for seed in (base..base + cases).skip(client as usize).step_by(CLIENTS as usize) {
                    let case = AssertUnwindSafe(|| run(seed, addr, &mut kept));
                    if let Err(panic) = catch_unwind(case) {
                        eprintln!("{io:?}: PROPERTY_SEED={seed} PROPERTY_CASES=1 shows it");
                        resume_unwind(panic);
                    }
                }
            });
        }
    });
    eventually("all are accounted for", || {
        ended(&server, Outcome::Done) + ended(&server, Outcome::UpstreamClosed) == cases
    });
    let metrics = &server.metrics[0];
    let (accepted, reused) = (metrics.connections_accepted.get(), metrics.upstream_reuses.get());
    println!("{io:?}: {cases} cases over {accepted} connections, {reused} reused upstream");
    if cases > 1000 {
        assert!(accepted < cases / 5 && reused > cases / 2, "connections were not reused");
    }
    stop(server);
}

#[test]
fn what_goes_in_comes_out() {
    let (base, cases) = (from_env("PROPERTY_SEED", 1), from_env("PROPERTY_CASES", CASES));
    for io in drivers() {
        all(io, base, cases);
    }
}
