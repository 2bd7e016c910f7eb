//! A stream in its steady state allocates nothing per frame, on both drivers.
//!
//! One thread plays upstream and client, so that between two frames only the relay runs; its
//! allocations are counted by the process's allocator. This file holds one test alone.
#![allow(unsafe_code)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};

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
    const HEAD: &[u8] =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    for io in drivers() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let server = relay(listener.local_addr().expect("bound"), io, "");
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
