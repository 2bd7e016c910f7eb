//! A stream in its steady state allocates nothing per frame, on both drivers.
//!
//! One thread plays upstream and client, so that between two frames only the relay runs; its
//! allocations are counted by the process's allocator. This file holds one test alone.
#![allow(unsafe_code)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use millstream::config::plan::Io;
use millstream::server::Server;
use support::{chat, connect, drivers, relay, stop};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_steady_stream_allocates_nothing_per_frame() {
    passed_on();
    kept();
}

const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

fn passed_on() {
    for io in drivers() {
        let (server, mut client, mut upstream, _) = begun(io, "");
        let payload = format!("data: {}\n\n", "x".repeat(192));
        let frame = format!("{:x}\r\n{payload}\r\n", payload.len());
        let mut got = vec![0; frame.len()];
        let mut before = 0;
        for number in 0..2100 {
            if number == 100 {
                before = ALLOCATIONS.load(Ordering::Relaxed);
            }
            upstream.write_all(frame.as_bytes()).expect("sends");
            client.read_exact(&mut got).expect("a frame");
            assert_eq!(got, frame.as_bytes());
        }
        let allocated = ALLOCATIONS.load(Ordering::Relaxed) - before;
        // The look at the pool every two seconds is the only thing besides frames.
        assert!(allocated < 20, "{allocated} allocations for 2000 frames on {io:?}");
        stop(server);
    }
}

/// A stream that is under way: relay, client, upstream, and the head that the client got.
fn begun(io: Io, flags: &str) -> (Server, TcpStream, TcpStream, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let server = relay(listener.local_addr().expect("bound"), io, flags);
    let mut client = connect(server.addresses[0]);
    client.write_all(chat("/v1/chat/completions", "").as_bytes()).expect("sends");
    let (mut upstream, _) = listener.accept().expect("the relay connects");
    upstream.set_nodelay(true).expect("sets");
    let mut request = [0; 4096];
    let _ = upstream.read(&mut request).expect("a request");
    upstream.write_all(HEAD).expect("sends");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    (server, client, upstream, head)
}

fn kept() {
    const HINT: &[u8] = b"c\r\nretry: 1000\n\r\n";
    for io in drivers() {
        let (server, mut client, mut upstream, head) = begun(io, "--resume --resume-bytes 128k");
        let head = String::from_utf8_lossy(&head).into_owned();
        let name = head.lines().find_map(|line| line.strip_prefix("X-Stream-Id: "));
        let name = name.expect("a name");
        let mut hint = [0; HINT.len()];
        client.read_exact(&mut hint).expect("a hint");
        assert_eq!(hint, HINT);
        let payload = format!("data: {}\n\n", "x".repeat(192));
        let frame = format!("{:x}\r\n{payload}\r\n", payload.len());
        let numbered = |number: u64| {
            let payload = format!("id: {name}.{number}\n{payload}");
            format!("{:x}\r\n{payload}\r\n", payload.len()).into_bytes()
        };
        let mut before = 0;
        let mut expected = numbered(1000);
        let digits = expected.windows(5).position(|five| five == b".1000").expect("there") + 1;
        let mut got = Vec::with_capacity(1024);
        for number in 1..=3000_u64 {
            if number < 1000 {
                expected = numbered(number);
            } else {
                if number == 1000 {
                    expected = numbered(number);
                    before = ALLOCATIONS.load(Ordering::Relaxed);
                }
                for (place, unit) in (0..4).zip([1000, 100, 10, 1]) {
                    expected[digits + place] = b'0' + (number / unit % 10) as u8;
                }
            }
            upstream.write_all(frame.as_bytes()).expect("sends");
            got.resize(expected.len(), 0);
            client.read_exact(&mut got).expect("a frame");
            assert_eq!(got, expected);
        }
        let allocated = ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert!(allocated < 20, "{allocated} allocations for 2000 kept frames on {io:?}");
        stop(server);
    }
}
