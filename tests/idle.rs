//! What a stream that waits costs in heap memory, on both drivers, and that all of it is given
//! back.
//!
//! One thread plays upstream and client; the process's allocator counts the bytes that are live.
//! This file holds one test alone.
#![allow(unsafe_code)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicI64, Ordering};

use support::{chat, connect, drivers, eventually, relay, stop};

struct Counting;

static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size() as i64, Ordering::Relaxed);
        sizes::note(layout.size(), 1);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        sizes::note(layout.size(), -1);
        // SAFETY: the pointer came from `alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Live allocations by size, to see where the bytes are.
mod sizes {
    use std::sync::atomic::{AtomicI64, Ordering};

    pub(crate) static COUNTS: [AtomicI64; 8192] = [const { AtomicI64::new(0) }; 8192];

    pub(crate) fn note(size: usize, n: i64) {
        if let Some(count) = COUNTS.get(size) {
            count.fetch_add(n, Ordering::Relaxed);
        }
    }

    pub(crate) fn all() -> Vec<i64> {
        COUNTS.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Streams that wait at once.
const STREAMS: usize = 400;
/// Heap bytes one of them may cost.
const STREAM_BYTES_MAX: i64 = 1664;

#[test]
fn a_stream_that_waits_costs_little_and_gives_it_back() {
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nServer: x\r\n\
        Transfer-Encoding: chunked\r\n\r\n11\r\ndata: {\"a\":\"b\"}\n\n\r\n";
    let fields = "Accept: text/event-stream\r\nAuthorization: Bearer 0123456789abcdef\r\n";
    let request = chat("/v1/chat/completions", fields);
    for io in drivers() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let server = relay(listener.local_addr().expect("bound"), io, "");
        let mut sockets = Vec::with_capacity(2 * STREAMS);
        let run = |sockets: &mut Vec<_>| {
            let mut client = connect(server.addresses[0]);
            client.write_all(request.as_bytes()).expect("sends");
            let (mut upstream, _) = listener.accept().expect("the relay connects");
            let mut part = [0; 4096];
            let _ = upstream.read(&mut part).expect("a request");
            upstream.write_all(HEAD).expect("sends");
            let mut seen = 0;
            while !part[..seen].ends_with(b"}\n\n\r\n") {
                let n = client.read(&mut part[seen..]).expect("a frame");
                assert!(n > 0, "closed");
                seen += n;
            }
            sockets.extend([client, upstream]);
        };
        // Queues and slabs of the core grow to their size first.
        for _ in 0..3 {
            (0..STREAMS).for_each(|_| run(&mut sockets));
            sockets.clear();
            eventually("all are gone", || server.metrics[0].connections_active.get() == 0);
        }
        let before = LIVE_BYTES.load(Ordering::Relaxed);
        let sizes_before = sizes::all();
        (0..STREAMS).for_each(|_| run(&mut sockets));
        let each = (LIVE_BYTES.load(Ordering::Relaxed) - before) / STREAMS as i64;
        let sizes = sizes::all().into_iter().zip(sizes_before).map(|(now, then)| now - then);
        let large: Vec<_> = sizes
            .enumerate()
            .filter(|(_, n)| *n >= STREAMS as i64 / 2)
            .map(|(size, n)| (size, n / STREAMS as i64))
            .collect();
        eprintln!("{io:?}: {each} bytes a stream; sizes of its allocations: {large:?}");
        sockets.clear();
        eventually("all are gone", || server.metrics[0].connections_active.get() == 0);
        let left = LIVE_BYTES.load(Ordering::Relaxed) - before;
        assert!(left < STREAMS as i64 * 64, "{left} bytes were not given back on {io:?}");
        assert!(each <= STREAM_BYTES_MAX, "{each} bytes a stream on {io:?}: {large:?}");
        stop(server);
    }
}
