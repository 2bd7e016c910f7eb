//! The pump between real sockets on loopback, on both drivers: a relay in this process, an
//! upstream that answers every request with one event stream, a client that reads it.
//!
//! ```text
//! cargo bench --bench pump
//! ```
//!
//! `burst` is one answer of 20,000 frames as fast as it goes; `turn` is one frame through the
//! relay and back as a wake-up of everyone on the way, so it measures latency with nothing queued.
//! Client, upstream and relay share the machine: compare within one run.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

#[path = "../tests/support/mod.rs"]
mod support;

use support::{chat, connect, drivers, relay, stop};

const BURST_FRAMES: usize = 20_000;
const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

fn chunk() -> Vec<u8> {
    let frame = format!("data: {{\"x\":\"{}\"}}\n\n", "y".repeat(192));
    format!("{:x}\r\n{frame}\r\n", frame.len()).into_bytes()
}

/// Reads one request's head and body, which come in one piece or two.
fn read_request(stream: &mut TcpStream) -> bool {
    let mut seen = Vec::new();
    let mut part = [0; 4096];
    while !seen.ends_with(b"]}") {
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return false,
            Ok(n) => seen.extend_from_slice(&part[..n]),
        }
    }
    true
}

/// An upstream for as long as the process lives: each request gets `answer` of its connection.
fn upstream(answer: fn(&mut TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accepts");
            stream.set_nodelay(true).expect("sets");
            thread::spawn(move || {
                while read_request(&mut stream) {
                    answer(&mut stream);
                }
            });
        }
    });
    addr
}

fn read_until(stream: &mut TcpStream, part: &mut [u8], end: &[u8]) -> usize {
    let mut total = 0;
    loop {
        let n = stream.read(part).expect("reads");
        assert!(n > 0, "closed");
        total += n;
        if part[..n].ends_with(end) {
            return total;
        }
    }
}

fn pump(criterion: &mut Criterion) {
    let burst = upstream(|stream| {
        let body = [HEAD, &chunk().repeat(BURST_FRAMES), b"0\r\n\r\n"].concat();
        let _ = stream.write_all(&body);
    });
    // One frame more for each byte that the other end of the test asks for: the frame itself is
    // the token that wakes it.
    let turns = upstream(|stream| {
        let chunk = chunk();
        let _ = stream.write_all(&[HEAD, &chunk].concat());
        let Ok((mut bell, _)) = BELLS.accept() else { return };
        while bell.read_exact(&mut [0]).is_ok() && stream.write_all(&chunk).is_ok() {}
    });
    let request = chat("/v1/chat/completions", "");
    for io in drivers() {
        let mut group = criterion.benchmark_group(format!("pump/{io:?}"));
        let mut part = vec![0; 1 << 20];
        let server = relay(burst, io, "");
        let mut client = connect(server.addresses[0]);
        group.throughput(Throughput::Elements(BURST_FRAMES as u64));
        group.sample_size(20);
        group.bench_function("burst", |b| {
            b.iter(|| {
                client.write_all(request.as_bytes()).expect("sends");
                let total = read_until(&mut client, &mut part, b"\r\n0\r\n\r\n");
                assert!(total > BURST_FRAMES * chunk().len(), "{total} bytes");
            });
        });
        stop(server);

        let server = relay(turns, io, "");
        let mut client = connect(server.addresses[0]);
        client.write_all(request.as_bytes()).expect("sends");
        read_until(&mut client, &mut part, b"\n\n\r\n");
        let mut bell = TcpStream::connect(BELLS.local_addr().expect("bound")).expect("connects");
        bell.set_nodelay(true).expect("sets");
        group.throughput(Throughput::Elements(1));
        group.bench_function("turn", |b| {
            b.iter(|| {
                bell.write_all(b"!").expect("rings");
                assert_eq!(read_until(&mut client, &mut part, b"\n\n\r\n"), chunk().len());
            });
        });
        drop(bell);
        stop(server);
        group.finish();
    }
}

/// Where the client of `turn` asks for the next frame.
static BELLS: std::sync::LazyLock<TcpListener> =
    std::sync::LazyLock::new(|| TcpListener::bind("127.0.0.1:0").expect("binds"));

criterion_group!(benches, pump);
criterion_main!(benches);
