//! What it costs to serve a client on another core than its stream's: its connection handed over
//! once, or each frame handed across. Both with the wait for the other core's thread, which is what
//! they cost; there and back, so half of it is one way.

use std::hint::black_box;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millstream::net::handover::{self, Received};

const FRAME: &[u8] = &[b'x'; 200];

/// Waits as a core does that has nothing to do.
fn wait(descriptor: &impl AsFd) {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut waiting = [PollFd::new(descriptor, PollFlags::IN)];
    poll(&mut waiting, None).expect("waits");
}

fn connection(c: &mut Criterion) {
    let (way, end) = handover::pair().expect("a pair");
    let (mut back, mut answers) = UnixStream::pair().expect("a pair");
    let (socket, _peer) = UnixStream::pair().expect("a pair");
    let owner = std::thread::spawn(move || {
        loop {
            wait(&end);
            match handover::receive(&end).expect("receives") {
                Received::Socket(_, socket) => {
                    // As its owner does: put it into a set of its own.
                    let set =
                        rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC);
                    let set = set.expect("a set");
                    let flags = rustix::event::epoll::EventFlags::IN;
                    let data = rustix::event::epoll::EventData::new_u64(1);
                    rustix::event::epoll::add(&set, &socket, data, flags).expect("added");
                    back.write_all(&[1]).expect("answers");
                }
                Received::Closed => return,
                Received::Nothing | Received::Lost(_) => {}
            }
        }
    });
    c.bench_function("handover/a connection, there and an answer back", |b| {
        b.iter(|| {
            assert!(handover::send(&way, socket.as_fd(), 7).expect("sends"));
            let mut answer = [0];
            answers.read_exact(&mut answer).expect("an answer");
            black_box(answer);
        });
    });
    drop(way);
    owner.join().expect("no panic");
}

fn frame(c: &mut Criterion) {
    let across = Arc::new(Mutex::new(Vec::with_capacity(4096)));
    let (mut bell, mut rung) = UnixStream::pair().expect("a pair");
    let (mut back, mut answers) = UnixStream::pair().expect("a pair");
    let shared = Arc::clone(&across);
    let reader = std::thread::spawn(move || {
        let mut bytes = [0; 64];
        loop {
            wait(&rung);
            match rung.read(&mut bytes).expect("reads") {
                0 => return,
                _ => {
                    let mut across = shared.lock().expect("no panic");
                    assert_eq!(across.as_slice(), FRAME);
                    across.clear();
                    drop(across);
                    back.write_all(&[1]).expect("answers");
                }
            }
        }
    });
    let mut group = c.benchmark_group("handover");
    group.throughput(Throughput::Elements(1));
    group.bench_function("each frame, there and an answer back", |b| {
        b.iter(|| {
            across.lock().expect("no panic").extend_from_slice(FRAME);
            bell.write_all(&[1]).expect("rings");
            let mut answer = [0];
            answers.read_exact(&mut answer).expect("an answer");
            black_box(answer);
        });
    });
    group.finish();
    drop(bell);
    reader.join().expect("no panic");
}

criterion_group!(benches, connection, frame);
criterion_main!(benches);
