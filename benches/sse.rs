//! The frame scanner beside bare `memchr` passes over the same bytes.
//!
//! ```text
//! cargo bench --bench sse
//! ```
//!
//! 64 KiB of frames of 40 to 400 bytes, as one large read brings them, and one frame of 1 MiB.
//! Criterion reports bytes a second; the frames of each buffer stand in the benchmark's name, and
//! every pass asserts that it counted them. See `src/sse/scanner.rs` for what was tried.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use memchr::{memchr, memchr_iter};
use millstream::sse::{Event, Scanner};

const BUFFER_BYTES: usize = 64 * 1024;
const FRAME_BYTES: [usize; 5] = [40, 100, 208, 400, 1024 * 1024];

/// As many frames of `frame_bytes` as fill one buffer, at least one, and how many they are.
fn buffer(frame_bytes: usize, end: &str) -> (Vec<u8>, u32) {
    let frame = "data: ".to_owned() + &"x".repeat(frame_bytes - 6 - 2 * end.len()) + end + end;
    let count = (BUFFER_BYTES / frame_bytes).max(1);
    (frame.repeat(count).into_bytes(), count as u32)
}

fn each_frame(bytes: &[u8]) -> u32 {
    let mut scanner = Scanner::new();
    let (mut frames, mut at) = (0, 0);
    while let Some(end) = scanner.next_frame(&bytes[at..]) {
        at += end;
        frames += 1;
    }
    frames
}

fn scan(criterion: &mut Criterion) {
    for (name, end) in [("lf", "\n"), ("crlf", "\r\n")] {
        let mut group = criterion.benchmark_group(format!("sse/{name}"));
        for frame_bytes in FRAME_BYTES {
            let (bytes, count) = buffer(frame_bytes, end);
            let id = |pass| BenchmarkId::new(pass, format!("{frame_bytes}B x {count}"));
            group.throughput(Throughput::Bytes(bytes.len() as u64));
            group.bench_with_input(id("scan"), &bytes[..], |bencher, bytes| {
                bencher.iter(|| assert_eq!(Scanner::new().scan(black_box(bytes)).frames, count));
            });
            group.bench_with_input(id("next_frame"), &bytes[..], |bencher, bytes| {
                bencher.iter(|| assert_eq!(each_frame(black_box(bytes)), count));
            });
            group.bench_with_input(id("memchr-newlines"), &bytes[..], |bencher, bytes| {
                let newlines = 2 * count as usize;
                bencher.iter(|| {
                    assert_eq!(memchr_iter(b'\n', black_box(bytes)).count(), newlines);
                });
            });
            group.bench_with_input(id("memchr-absent"), &bytes[..], |bencher, bytes| {
                bencher.iter(|| assert_eq!(memchr(0, black_box(bytes)), None));
            });
        }
    }
}

fn parse(criterion: &mut Criterion) {
    let frame =
        b"event: delta\nid: 17\ndata: {\"choices\":[{\"delta\":{\"content\":\"word\"}}]}\n\n";
    let mut group = criterion.benchmark_group("sse/event");
    group.throughput(Throughput::Bytes(frame.len() as u64));
    group.bench_function("parse", |bencher| {
        bencher.iter(|| assert_eq!(Event::parse(black_box(frame)).id, Some(&b"17"[..])));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(600));
    targets = scan, parse
}
criterion_main!(benches);
