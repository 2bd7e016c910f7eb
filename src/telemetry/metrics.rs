//! Counters of one worker: written by its thread alone, read by the admin thread at scrape.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::outcome::Outcome;

/// A count that only grows. One thread writes it, so adding is a load and a store, not a locked
/// instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning thread may call it.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Adds one. Only the owning thread may call it.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down; one writer, like [`Counter`].
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: i64) {
        self.0.store(self.0.load(Relaxed) + n, Relaxed);
    }

    /// Takes `n` away.
    #[inline]
    pub fn sub(&self, n: i64) {
        self.add(-n);
    }

    /// Sets it.
    #[inline]
    pub fn set(&self, n: i64) {
        self.0.store(n, Relaxed);
    }

    /// The number.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the histograms' buckets in microseconds: 1 ms to 300 s, about three to a
/// decade. What is longer falls into the last, unbounded one.
pub const BUCKETS_MICROS: [u64; 17] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
];

/// Durations by bucket; one writer.
#[derive(Debug, Default)]
pub struct Histogram {
    cells: [Counter; BUCKETS_MICROS.len() + 1],
    sum_micros: Counter,
}

impl Histogram {
    /// Counts `duration`.
    #[inline]
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_MICROS.partition_point(|bound| *bound < micros);
        self.cells[bucket].inc();
        self.sum_micros.add(micros);
    }

    /// The counts by bucket, the unbounded one last.
    pub fn counts(&self) -> [u64; BUCKETS_MICROS.len() + 1] {
        std::array::from_fn(|index| self.cells[index].get())
    }

    /// The sum in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_micros.get() as f64 / 1e6
    }
}

/// The counters of one worker. Aligned so that two workers share no cache line.
#[derive(Debug)]
#[repr(align(128))]
#[allow(missing_docs)] // each is described where it is exposed, in `expose`
pub struct WorkerMetrics {
    pub connections_accepted: Counter,
    pub connections_active: Gauge,
    pub accept_errors: Counter,
    pub requests: Counter,
    pub responses: [Counter; 5],
    pub streams_active: Gauge,
    pub exchanges: [Counter; Outcome::COUNT],
    pub streams: [Counter; Outcome::COUNT],
    pub frames: Counter,
    pub heartbeats: Counter,
    pub error_frames: Counter,
    pub bytes_in: Counter,
    pub bytes_out: Counter,
    pub first_byte: Histogram,
    pub first_frame: Histogram,
    pub frame_gap: Histogram,
    pub stream_duration: Histogram,
    pub upstream_connects: Counter,
    pub upstream_connect_errors: Counter,
    pub upstream_reuses: Counter,
    pub upstream_tls_resumed: Counter,
    pub upstream_insecure: Gauge,
    pub tls_handshake_errors: Counter,
    pub pool_idle: Gauge,
    pub pool_dead: Counter,
    pub pool_expired: Counter,
    pub retries: Counter,
    pub pauses: Counter,
    pub resumes: Counter,
    pub buffered_bytes: Gauge,
    pub buffers_in_use: Gauge,
    pub panics: Counter,
    pub log_lines_dropped: Counter,
    pub kept_streams: Gauge,
    pub kept_bytes: Gauge,
    pub kept_evicted: Counter,
    pub detached: Counter,
    pub detached_cancelled: Counter,
    pub readers_back: Counter,
    pub readers_lagging: Counter,
    pub readers_replaced: Counter,
    pub resume_over: Counter,
    pub resume_cancelled: Counter,
    pub resume_unknown: Counter,
    pub resume_gaps: Counter,
    pub resume_handovers: Counter,
}

impl Default for WorkerMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl WorkerMetrics {
    /// All at zero.
    pub fn new() -> Self {
        Self {
            connections_accepted: Counter::default(),
            connections_active: Gauge::default(),
            accept_errors: Counter::default(),
            requests: Counter::default(),
            responses: std::array::from_fn(|_| Counter::default()),
            streams_active: Gauge::default(),
            exchanges: std::array::from_fn(|_| Counter::default()),
            streams: std::array::from_fn(|_| Counter::default()),
            frames: Counter::default(),
            heartbeats: Counter::default(),
            error_frames: Counter::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            first_byte: Histogram::default(),
            first_frame: Histogram::default(),
            frame_gap: Histogram::default(),
            stream_duration: Histogram::default(),
            upstream_connects: Counter::default(),
            upstream_connect_errors: Counter::default(),
            upstream_reuses: Counter::default(),
            upstream_tls_resumed: Counter::default(),
            upstream_insecure: Gauge::default(),
            tls_handshake_errors: Counter::default(),
            pool_idle: Gauge::default(),
            pool_dead: Counter::default(),
            pool_expired: Counter::default(),
            retries: Counter::default(),
            pauses: Counter::default(),
            resumes: Counter::default(),
            buffered_bytes: Gauge::default(),
            buffers_in_use: Gauge::default(),
            panics: Counter::default(),
            log_lines_dropped: Counter::default(),
            kept_streams: Gauge::default(),
            kept_bytes: Gauge::default(),
            kept_evicted: Counter::default(),
            detached: Counter::default(),
            detached_cancelled: Counter::default(),
            readers_back: Counter::default(),
            readers_lagging: Counter::default(),
            readers_replaced: Counter::default(),
            resume_over: Counter::default(),
            resume_cancelled: Counter::default(),
            resume_unknown: Counter::default(),
            resume_gaps: Counter::default(),
            resume_handovers: Counter::default(),
        }
    }
}
