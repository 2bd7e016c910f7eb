//! The generator: one epoll loop a core; every frame that comes is checked and timed.

mod drive;
mod stats;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use stats::{GroupStats, Hist, Resumes};

use rustls::ClientConfig;

use crate::frame::Form;
use crate::origin::Shared;
use crate::shape::Shape;
use crate::{clock, cores, sample};
use std::net::SocketAddr;

/// How a connection reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reading {
    /// All there is, at once.
    Eager,
    /// So many bytes a second once the head is in, with a small receive buffer.
    Slow {
        /// Bytes a second.
        bytes_per_second: u64,
        /// SO_RCVBUF.
        receive_buffer: usize,
    },
}

/// How streams that can be resumed are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cuts {
    /// Between a request and the cut of its connection, on average.
    pub every: Duration,
    /// Repeats the draws.
    pub seed: u64,
}

/// Connections that do the same.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name in reports.
    pub name: &'static str,
    /// Connections at any time.
    pub connections: usize,
    /// What is asked for; `id` is set for each request.
    pub shape: Shape,
    /// Ask anew on the same or a new connection until the run finishes.
    pub again: bool,
    /// A new connection for each request.
    pub fresh: bool,
    /// Leave this long after the first frame, spread evenly over the range.
    pub leave: Option<(Duration, Duration)>,
    /// How frames are expected to arrive.
    pub form: Form,
    /// Cut each connection at random and come back, until the stream has ended.
    pub cuts: Option<Cuts>,
    /// How they read.
    pub reading: Reading,
    /// The connections are opened evenly over this time.
    pub ramp: Duration,
    /// May be cut short at the run's end without a fault.
    pub cut: bool,
    /// Requests in all, where there is such a number; those that failed are not counted.
    pub limit: Option<u64>,
}

impl Group {
    /// A group of `connections` eager readers that ask once for `shape`.
    pub fn new(name: &'static str, connections: usize, shape: Shape) -> Self {
        Self {
            name,
            connections,
            shape,
            again: false,
            fresh: false,
            leave: None,
            form: Form::AsSent,
            cuts: None,
            reading: Reading::Eager,
            ramp: Duration::ZERO,
            cut: false,
            limit: None,
        }
    }
}

/// What the generator's threads and the run share.
#[derive(Debug, Default)]
pub struct Control {
    /// Start and end of the window on the monotonic clock; frames in it count.
    pub window: [AtomicU64; 2],
    /// Connections that have had a response head, counted once each.
    pub live: AtomicU64,
    /// Frames so far, in the window or not.
    pub frames: AtomicU64,
    /// Requests of groups with a limit that have come to an end.
    pub limited: AtomicU64,
    /// No new requests.
    pub finish: AtomicBool,
    /// Leave at once.
    pub halt: AtomicBool,
    /// Ids of the generator's threads.
    pub threads: Mutex<Vec<i32>>,
    /// CPU time of threads that have ended, in nanoseconds.
    pub spent: AtomicU64,
}

impl Control {
    fn retire(&self, thread: i32) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        self.spent.fetch_add(sample::threads(&[thread]) as u64, Relaxed);
        threads.retain(|id| *id != thread);
    }

    /// Sets the window.
    pub fn set_window(&self, start: u64, end: u64) {
        self.window[0].store(start, Relaxed);
        self.window[1].store(end, Relaxed);
    }
}

/// Numbers of streams, unlike in the whole process.
static IDS: AtomicU32 = AtomicU32::new(1);

/// A running generator.
#[derive(Debug)]
pub struct Client {
    /// Shared with its threads.
    pub control: Arc<Control>,
    /// Connections over all groups.
    pub connections: usize,
    threads: Vec<JoinHandle<Vec<GroupStats>>>,
}

impl Client {
    /// Starts one thread for each of `on` (an empty list: one, unpinned) and shares the groups'
    /// connections among them.
    ///
    /// They speak TLS where there is a `tls`. The origin is told of the frames read of streams that wait for that.
    pub fn start(
        target: SocketAddr,
        groups: &[Group],
        on: &[usize],
        origin: &Arc<Shared>,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Self {
        let control = Arc::new(Control::default());
        control.set_window(u64::MAX, u64::MAX);
        let count = on.len().max(1);
        let begin = clock::now() + 20_000_000;
        let spawn = |at: usize| {
            let (control, core) = (Arc::clone(&control), on.get(at).copied());
            let (origin, tls) = (Arc::clone(origin), tls.cloned());
            let groups = groups.to_vec();
            std::thread::spawn(move || {
                cores::pin_thread(core);
                let thread = rustix::thread::gettid().as_raw_nonzero().get();
                control.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
                let stats =
                    drive::run((target, tls), &groups, (at, count), begin, (&control, &origin));
                control.retire(thread);
                stats
            })
        };
        let connections = groups.iter().map(|group| group.connections).sum();
        let threads = (0..count).map(spawn).collect();
        Self { control, connections, threads }
    }

    /// Whether every thread is through.
    pub fn is_done(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// The threads' CPU time so far, in nanoseconds.
    pub fn cpu(&self) -> f64 {
        let threads = self.control.threads.lock().unwrap_or_else(PoisonError::into_inner);
        sample::threads(&threads) + self.control.spent.load(Relaxed) as f64
    }

    /// Waits for the threads and merges what they saw, group by group.
    pub fn join(self) -> Vec<GroupStats> {
        let mut merged: Vec<GroupStats> = Vec::new();
        for thread in self.threads {
            let Ok(stats) = thread.join() else { continue };
            if merged.is_empty() {
                merged = stats;
            } else {
                merged.iter_mut().zip(stats).for_each(|(sum, part)| sum.merge(part));
            }
        }
        merged
    }
}
