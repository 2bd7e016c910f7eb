//! The flow of one response through its write buffer, without sockets: bytes are received into
//! the buffer's room, whole frames released, and taken from it as a socket would take them.
//!
//! ```text
//! cargo bench --bench flow
//! ```
//!
//! One frame a read is a steady stream, 64 KiB a read a burst; `kept` passes the upstream's own
//! chunks on, `rechunked` writes chunks around the frames of a body that came without any.

mod queue;

use std::hint::black_box;
use std::io::IoSlice;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millstream::dialect::Dialect;
use millstream::flow::replay::{Limits, Lines, Log, UpstreamIds};
use millstream::flow::stream::{Marks, Outgoing, Stream};
use millstream::http1::body::BodyDecoder;
use millstream::http1::head::BodyFraming;
use millstream::sse::sequence::{Epoch, StreamId};
use queue::put;

const MARKS: Marks = Marks { high: 256 << 10, low: 64 << 10, frame_max: 8 << 20 };

fn stream(from: BodyFraming) -> Stream {
    Stream::events(BodyDecoder::new(from), Outgoing::Chunked, MARKS, Dialect::OpenAiChat)
}

fn flow(criterion: &mut Criterion) {
    let frame = format!("data: {{\"x\":\"{}\"}}\n\n", "y".repeat(192));
    let chunk = format!("{:x}\r\n{frame}\r\n", frame.len());
    let mut group = criterion.benchmark_group("flow");
    for (name, framing, unit) in
        [("kept", BodyFraming::Chunked, &chunk), ("rechunked", BodyFraming::Close, &frame)]
    {
        let unit = unit.as_bytes();
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("{name}/a frame a read"), |b| {
            let mut stream = stream(framing);
            b.iter(|| assert!(put(&mut stream, black_box(unit)) >= unit.len()));
        });
        let frames = 64 * 1024 / unit.len();
        let burst = unit.repeat(frames);
        group.throughput(Throughput::Elements(frames as u64));
        group.bench_function(format!("{name}/64 KiB a read"), |b| {
            let mut stream = stream(framing);
            b.iter(|| assert!(put(&mut stream, black_box(&burst)) >= burst.len()));
        });
    }
    group.finish();
}

/// A frame into the log of a stream that is kept, and out of it with its number.
fn log(criterion: &mut Criterion) {
    let frame = format!("data: {{\"x\":\"{}\"}}\n\n", "y".repeat(192)).into_bytes();
    let limits =
        Limits { bytes_max: 1 << 20, high: 256 << 10, low: 128 << 10, frame_max: 512 << 10 };
    let name = StreamId { slot: 1, secret: [7; 14], core: 0, epoch: Epoch::new([1; 6]) }.text();
    let how = (&name, Outgoing::Chunked);
    let mut group = criterion.benchmark_group("log");
    group.throughput(Throughput::Elements(1));
    group.bench_function("a frame kept and sent", |b| {
        let mut log = Log::new(limits, UpstreamIds::Comment);
        let reader = log.attach(0).expect("from the start");
        b.iter(|| {
            log.feed(black_box(&frame)).expect("fits");
            let (mut lines, mut slices) = (Lines::<1>::default(), [IoSlice::new(&[]); 3]);
            let used = log.gather(reader, how, &mut lines, &mut slices);
            let n = black_box(&slices[..used]).iter().map(|slice| slice.len()).sum::<usize>();
            assert_eq!(log.sent(reader, how, n), 1);
        });
    });
    group.throughput(Throughput::Elements(31));
    group.bench_function("31 frames kept and sent", |b| {
        let mut log = Log::new(limits, UpstreamIds::Comment);
        let reader = log.attach(0).expect("from the start");
        let frames = frame.repeat(31);
        b.iter(|| {
            log.feed(black_box(&frames)).expect("fits");
            let mut lines = Lines::<31>::default();
            let mut slices = [IoSlice::new(&[]); 63];
            let used = log.gather(reader, how, &mut lines, &mut slices);
            let n = black_box(&slices[..used]).iter().map(|slice| slice.len()).sum::<usize>();
            assert_eq!(log.sent(reader, how, n), 31);
        });
    });
    group.finish();
}

criterion_group!(benches, flow, log);
criterion_main!(benches);
