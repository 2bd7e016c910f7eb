//! What one run found, as it is kept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

use crate::client::{Hist, Resumes};
use crate::frame::Fault;
use crate::sample::{CoreShare, Cpu, Kernel};
use crate::systems::System;
use crate::tls::Tls;

/// Quantiles of a latency in milliseconds, and its curve for plots.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    #[serde(serialize_with = "short")]
    pub p50: f64,
    /// 99 of 100.
    #[serde(serialize_with = "short")]
    pub p99: f64,
    /// 999 of 1000.
    #[serde(serialize_with = "short")]
    pub p999: f64,
    /// The longest.
    #[serde(serialize_with = "short")]
    pub max: f64,
    /// How many were counted.
    pub count: u64,
    /// Per cent and milliseconds.
    #[serde(serialize_with = "short_pairs", skip_serializing_if = "Vec::is_empty", default)]
    pub curve: Vec<(f64, f64)>,
}

impl Latency {
    /// The same without the curve.
    pub fn brief(hist: &Hist) -> Option<Self> {
        Some(Self { curve: Vec::new(), ..Self::of(hist)? })
    }

    /// The quantiles of `hist`, unless it is empty.
    pub fn of(hist: &Hist) -> Option<Self> {
        let at = |q| hist.millis(q);
        let steps = [1, 2, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90];
        let tail = [92.5, 95.0, 97.0, 98.0, 99.0, 99.5, 99.9, 99.95, 99.99, 100.0];
        let quantiles = steps.into_iter().map(f64::from).chain(tail);
        Some(Self {
            p50: at(0.5)?,
            p99: at(0.99)?,
            p999: at(0.999)?,
            max: at(1.0)?,
            count: hist.0.len(),
            curve: quantiles.filter_map(|q| Some((q, at(q / 100.0)?))).collect(),
        })
    }
}

/// Memory at one time.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    /// The system's user space (PSS), in bytes.
    pub pss: f64,
    /// The kernel's, of the whole machine.
    pub kernel: Kernel,
    /// The system's open descriptors.
    pub descriptors: usize,
}

/// Streams that were cut by their clients at random, and came back.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Resumption {
    /// Connections cut by the clients.
    pub cuts: u64,
    /// Those cut within a frame.
    pub within_frame: u64,
    /// Those that were reset on purpose.
    pub resets: u64,
    /// Connections that ended before their stream and were not cut by a client.
    pub unasked: u64,
    /// Requests to go on that were answered with the rest of the stream.
    pub resumed: u64,
    /// Those that were told that the stream is over.
    pub over: u64,
    /// From a request to go on to the first byte of its answer.
    pub latency: Option<Latency>,
}

impl From<Resumes> for Resumption {
    fn from(seen: Resumes) -> Self {
        Self {
            cuts: seen.cuts,
            within_frame: seen.within_frame,
            resets: seen.resets,
            unasked: seen.unasked,
            resumed: seen.resumed,
            over: seen.over,
            latency: Latency::of(&seen.latency),
        }
    }
}

/// What one run found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RunResult {
    /// The scenario and its numbers.
    pub scenario: String,
    /// Which system; nothing only in a result that is empty.
    pub system: Option<System>,
    /// Counted from nought.
    pub round: usize,
    /// Seconds measured.
    pub seconds: f64,
    /// Seconds that the run took in all: starting, warming, ramp, window and stopping.
    pub took_seconds: f64,
    /// Frames received in the window.
    pub frames: u64,
    /// Requests that ended well in the window.
    pub requests: u64,
    /// Requests that were answered otherwise or not at all in the window.
    pub refused: u64,
    /// Requests that reached the upstream in the window.
    pub upstream_requests: u64,
    /// Requests that reached the upstream in the whole run.
    pub upstream_all: u64,
    /// Bytes received in the window.
    pub bytes: u64,
    /// Connections at a time.
    pub connections: usize,
    /// CPU time of the system in the window, nanoseconds.
    pub cpu: Cpu,
    /// CPU time of generator and origin in the window, nanoseconds.
    pub client_cpu: f64,
    /// See `client_cpu`.
    pub origin_cpu: f64,
    /// The busiest core of the load, and what was stolen from all.
    pub load_cores: CoreShare,
    /// The same of the system's cores.
    pub sut_cores: CoreShare,
    /// Receive less scheduled send time of frames.
    pub latency: Option<Latency>,
    /// Request to response head.
    pub head: Option<Latency>,
    /// The same before the window, while connections were opened.
    pub ramp_head: Option<Latency>,
    /// From the first connection to the last one's response head, in seconds.
    pub ramp_seconds: f64,
    /// Request to end.
    pub whole: Option<Latency>,
    /// Opening a connection to the end of its TLS handshake.
    pub handshake: Option<Latency>,
    /// TLS handshakes of the whole run that began a session.
    pub full_handshakes: u64,
    /// Those that resumed one.
    pub resumed_handshakes: u64,
    /// Streams that were cut and came back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumption: Option<Resumption>,
    /// What the relay's metrics say of streams that can be resumed, when memory is read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resume_metrics: Vec<BTreeMap<String, f64>>,
    /// Leaving to the upstream seeing it.
    pub disconnect: Option<Latency>,
    /// Streams left, those included that were to end by themselves.
    pub left_all: u64,
    /// Streams left that go on by themselves, and how many of these the upstream saw.
    pub left: u64,
    /// See `left`.
    pub left_seen: u64,
    /// How late the origin sent, of its own doing or for want of room.
    pub origin_late: Option<Latency>,
    /// Before any connection, in the window, after all are gone.
    pub memory: Vec<Memory>,
    /// Where https was spoken.
    pub tls: Tls,
    /// The system's workers.
    pub workers: usize,
    /// What was measured just before to judge this by: the same through one worker, or the same
    /// streams at saturation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<Box<Self>>,
    /// Frames a second the system took as fast as it could, measured just before an overload.
    pub capacity: Option<f64>,
    /// Frames a second that were due.
    pub offered: Option<f64>,
    /// Frames of the least served tenth of streams, as a share of the mean.
    pub fairness: Option<f64>,
    /// What `/streams` listed after all were gone.
    pub listed: Option<usize>,
    /// Responses by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Faults by name.
    pub faults: BTreeMap<String, u64>,
    /// What a reader should know.
    pub notes: Vec<String>,
    /// Frames in the window by group.
    pub by_group: BTreeMap<String, u64>,
}

impl RunResult {
    /// The same without curves.
    pub fn brief(mut self) -> Self {
        let latencies = [&mut self.latency, &mut self.disconnect];
        latencies.into_iter().flatten().for_each(|latency| latency.curve.clear());
        self
    }

    /// CPU per frame in microseconds.
    pub fn cpu_per_frame(&self) -> Option<f64> {
        (self.frames > 0 && self.cpu.total() > 0.0)
            .then(|| self.cpu.total() / self.frames as f64 / 1e3)
    }

    /// The system's CPU time in the window, as a share of one core.
    pub fn own_share(&self) -> f64 {
        self.cpu.total() / 1e9 / self.seconds.max(1e-9)
    }

    /// Frames a second.
    pub fn frame_rate(&self) -> f64 {
        self.frames as f64 / self.seconds.max(1e-9)
    }

    /// Requests a second.
    pub fn request_rate(&self) -> f64 {
        self.requests as f64 / self.seconds.max(1e-9)
    }

    /// The growth of user-space memory a connection, in bytes.
    pub fn pss_each(&self) -> Option<f64> {
        let [before, during, ..] = self.memory[..] else { return None };
        (before.pss > 0.0).then(|| (during.pss - before.pss) / self.connections.max(1) as f64)
    }

    /// The growth of the kernel's TCP buffers a connection, in bytes.
    pub fn tcp_each(&self) -> Option<f64> {
        let [before, during, ..] = self.memory[..] else { return None };
        Some((during.kernel.tcp - before.kernel.tcp) / self.connections.max(1) as f64)
    }

    /// The growth of the kernel's socket objects a connection, in bytes.
    pub fn sockets_each(&self) -> Option<f64> {
        let [before, during, ..] = self.memory[..] else { return None };
        let grown = during.kernel.sockets - before.kernel.sockets;
        (before.kernel.sockets > 0.0).then(|| grown / self.connections.max(1) as f64)
    }

    /// What a figure of the relay's metrics has grown by in the window.
    pub fn counted(&self, name: &str) -> Option<f64> {
        let [before, during, ..] = &self.resume_metrics[..] else { return None };
        Some(during.get(name)? - before.get(name).unwrap_or(&0.0))
    }

    /// A figure of the relay's metrics before (0), in (1) or after (2) the window.
    pub fn gauged(&self, name: &str, at: usize) -> Option<f64> {
        self.resume_metrics.get(at)?.get(name).copied()
    }

    /// How many faults of this kind.
    pub fn faults_of(&self, fault: Fault) -> u64 {
        self.faults.get(&fault.to_string()).copied().unwrap_or(0)
    }

    /// How many faults.
    pub fn fault_count(&self) -> u64 {
        self.faults.values().sum::<u64>() + self.base.as_ref().map_or(0, |base| base.fault_count())
    }
}

/// Five digits are more than any of this is good for.
fn rounded(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(value)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn short<S: Serializer>(value: &f64, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_f64(rounded(*value))
}

fn short_pairs<S: Serializer>(pairs: &[(f64, f64)], out: S) -> Result<S::Ok, S::Error> {
    out.collect_seq(pairs.iter().map(|(q, ms)| (q, rounded(*ms))))
}
