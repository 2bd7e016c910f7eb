//! One run: one scenario through one system, measured.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, bail};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use crate::client::{Client, Group, GroupStats, Hist, Reading};
use crate::clock;
use crate::origin::Origin;
use crate::sample::{self, CoreShare, Cores, Cpu, CpuSample, Kernel};
use crate::systems::{Bench, Running, System};

/// A span of the run that is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Window {
    /// So long, from when all connections are live and have settled.
    For(Duration),
    /// From the time all streams are due to start to the end of the last one.
    Burst {
        /// At most.
        limit: Duration,
    },
}

/// What is run and how it is measured.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The scenario's name.
    pub name: &'static str,
    /// Its numbers, for reports.
    pub label: String,
    /// The load.
    pub groups: Vec<Group>,
    /// Between the last connection's first answer and the window.
    pub settle: Duration,
    /// What is measured.
    pub window: Window,
    /// Read memory as well (before, in the window, after).
    pub memory: bool,
}

/// Quantiles of a latency in milliseconds, and its curve for plots.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1000.
    pub p999: f64,
    /// The longest.
    pub max: f64,
    /// How many were counted.
    pub count: u64,
    /// Quantile and milliseconds.
    pub curve: Vec<(f64, f64)>,
}

impl Latency {
    fn of(hist: &Hist) -> Option<Self> {
        let at = |q| hist.millis(q);
        let steps = [1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0];
        let tail = [98.0, 99.0, 99.5, 99.9, 99.95, 99.99, 100.0];
        let quantiles = steps.into_iter().chain(tail);
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
}

/// What one run found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunResult {
    /// The scenario and its numbers.
    pub scenario: String,
    /// Which system; nothing only in a result that is empty.
    pub system: Option<System>,
    /// Counted from nought.
    pub round: usize,
    /// Seconds measured.
    pub seconds: f64,
    /// Frames received in the window.
    pub frames: u64,
    /// Requests that ended well in the window.
    pub requests: u64,
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
    /// Request to end.
    pub whole: Option<Latency>,
    /// Leaving to the upstream seeing it.
    pub disconnect: Option<Latency>,
    /// Streams left, and how many of these the upstream saw.
    pub left: u64,
    /// See `left`.
    pub left_seen: u64,
    /// How late the origin sent, of its own doing or for want of room.
    pub origin_late: Option<Latency>,
    /// Before any connection, in the window, after all are gone.
    pub memory: Vec<Memory>,
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
    /// CPU per frame in microseconds.
    pub fn cpu_per_frame(&self) -> Option<f64> {
        (self.frames > 0).then(|| self.cpu.total() / self.frames as f64 / 1e3)
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
        Some((during.pss - before.pss) / self.connections.max(1) as f64)
    }

    /// The growth of the kernel's TCP buffers a connection, in bytes.
    pub fn tcp_each(&self) -> Option<f64> {
        let [before, during, ..] = self.memory[..] else { return None };
        Some((during.kernel.tcp - before.kernel.tcp) / self.connections.max(1) as f64)
    }

    /// How many faults.
    pub fn fault_count(&self) -> u64 {
        self.faults.values().sum()
    }
}

/// What is sampled at both ends of the window.
struct Mark {
    time: u64,
    sut: CpuSample,
    client: f64,
    origin: f64,
    cores: Cores,
}

/// The things every run needs.
pub struct Stage<'a> {
    /// Programs and cores.
    pub bench: &'a Bench,
    /// The upstream.
    pub origin: &'a Origin,
    /// Set by Ctrl-C.
    pub interrupted: Arc<AtomicBool>,
    /// Shown while it runs.
    pub bar: ProgressBar,
}

impl Stage<'_> {
    /// Starts `system`, runs `spec` through it and stops it.
    pub fn run(&self, system: System, spec: &Spec, round: usize) -> Result<RunResult> {
        let mut running = self.bench.start(system, self.origin.address)?;
        self.warm(&running)?;
        let result = self.measure(&running, spec, round);
        if running.has_died() && system != System::Direct {
            bail!("{system} died: {}", running.log());
        }
        result
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Relaxed)
    }

    /// A few exchanges before anything is measured: lazily built parts are not the load's.
    fn warm(&self, running: &Running) -> Result<()> {
        let shape = crate::shape::Shape { frames: 5, rate: 0.0, ..Default::default() };
        let group = Group { lenient: running.system.lenient(), ..Group::new("warm", 4, shape) };
        let client = Client::start(running.address, &[group], &self.bench.load_cores);
        let deadline = clock::now() + 30_000_000_000;
        while !client.is_done() && clock::now() < deadline && !self.is_interrupted() {
            std::thread::sleep(Duration::from_millis(5));
        }
        client.control.halt.store(true, Relaxed);
        let stats = client.join();
        let good: u64 = stats.iter().map(|group| group.requests).sum();
        if good < 4 && !self.is_interrupted() {
            let faults: Vec<_> =
                stats.iter().map(|group| (&group.faults, &group.statuses)).collect();
            bail!("{} does not relay: {faults:?} {}", running.system, running.log());
        }
        Ok(())
    }

    fn measure(&self, running: &Running, spec: &Spec, round: usize) -> Result<RunResult> {
        let pids = running.pids();
        let mut memory = Vec::new();
        self.remember(spec, &pids, &mut memory);
        self.origin.shared.take_gone();
        let mut groups = spec.groups.clone();
        groups.iter_mut().for_each(|group| group.lenient = running.system.lenient());
        let start_at = self.set_start(spec, &mut groups);
        let client = Client::start(running.address, &groups, &self.bench.load_cores);
        let mut notes = Vec::new();
        self.await_live(&client, spec, &mut notes);
        self.origin.shared.take_late();
        let (from, to) = match spec.window {
            Window::For(length) => self.steady_window(&client, &pids, spec.settle, length),
            Window::Burst { limit } => self.burst_window(&client, &pids, start_at, limit),
        };
        self.remember(spec, &pids, &mut memory);
        let late = self.origin.shared.take_late().map(Hist);
        let stats = self.wind_up(client, spec);
        if spec.memory {
            let quiet = clock::now() + 500_000_000;
            clock::sleep_until(quiet, &|| self.is_interrupted());
            self.remember(spec, &pids, &mut memory);
        }
        let mut result = RunResult {
            scenario: spec.label.clone(),
            system: Some(running.system),
            round,
            connections: groups.iter().map(|group| group.connections).sum(),
            memory,
            notes,
            origin_late: late.as_ref().and_then(Latency::of),
            ..RunResult::default()
        };
        self.fill(&mut result, &from, &to, spec, &groups, &stats);
        Ok(result)
    }

    fn remember(&self, spec: &Spec, pids: &[u32], memory: &mut Vec<Memory>) {
        if spec.memory {
            memory.push(Memory { pss: sample::pss(pids), kernel: sample::kernel() });
        }
    }

    /// All streams of a burst start at one time, once every connection has its answer's head.
    fn set_start(&self, spec: &Spec, groups: &mut [Group]) -> u64 {
        if !matches!(spec.window, Window::Burst { .. }) {
            return 0;
        }
        let ramp = groups.iter().map(|group| group.ramp).max().unwrap_or_default();
        let wait = ramp + Duration::from_millis(600);
        let at = clock::now() + u64::try_from(wait.as_nanos()).unwrap_or(0);
        groups.iter_mut().for_each(|group| group.shape.at = at);
        at
    }

    fn await_live(&self, client: &Client, spec: &Spec, notes: &mut Vec<String>) {
        let all = client.connections as u64;
        let ramp = spec.groups.iter().map(|group| group.ramp).max().unwrap_or_default();
        let limit = ramp + Duration::from_secs(15);
        let deadline = clock::now() + u64::try_from(limit.as_nanos()).unwrap_or(0);
        self.bar.set_length(all);
        loop {
            let live = client.control.live.load(Relaxed);
            self.bar.set_position(live);
            if live >= all || client.is_done() || self.is_interrupted() {
                return;
            }
            if clock::now() > deadline {
                notes.push(format!("{live} of {all} connections were live at the window's start"));
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn mark(&self, client: &Client, pids: &[u32]) -> Mark {
        Mark {
            sut: sample::cpu(pids),
            client: sample::threads(&client.thread_ids()),
            origin: sample::threads(&self.origin.shared.threads()),
            cores: Cores::read(),
            time: clock::now(),
        }
    }

    fn steady_window(
        &self,
        client: &Client,
        pids: &[u32],
        settle: Duration,
        length: Duration,
    ) -> (Mark, Mark) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(0);
        clock::sleep_until(clock::now() + nanos(settle), &|| self.is_interrupted());
        let from = self.mark(client, pids);
        let end = from.time + nanos(length);
        client.control.set_window(from.time, end);
        self.bar.set_length(length.as_millis() as u64);
        let shown = || {
            self.bar.set_position(clock::now().saturating_sub(from.time) / 1_000_000);
            self.is_interrupted()
        };
        if !clock::sleep_until(end, &shown) {
            client.control.set_window(from.time, clock::now());
        }
        let to = self.mark(client, pids);
        (from, to)
    }

    fn burst_window(
        &self,
        client: &Client,
        pids: &[u32],
        at: u64,
        limit: Duration,
    ) -> (Mark, Mark) {
        client.control.set_window(at, u64::MAX);
        clock::sleep_until(at.saturating_sub(3_000_000), &|| self.is_interrupted());
        let mut from = self.mark(client, pids);
        from.time = at;
        let deadline = at + u64::try_from(limit.as_nanos()).unwrap_or(0);
        while !client.is_done() && clock::now() < deadline && !self.is_interrupted() {
            std::thread::sleep(Duration::from_millis(1));
        }
        (from, self.mark(client, pids))
    }

    /// Lets what runs come to its end, within limits.
    fn wind_up(&self, client: Client, spec: &Spec) -> Vec<GroupStats> {
        client.control.finish.store(true, Relaxed);
        self.origin.shared.finish_streams();
        // Slow readers would take hours to their streams' ends.
        let slow = spec.groups.iter().any(|group| group.reading != Reading::Eager);
        let deadline = clock::now() + if slow { 0 } else { 8_000_000_000 };
        while !client.is_done() && clock::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        client.control.halt.store(true, Relaxed);
        client.join()
    }

    fn fill(
        &self,
        result: &mut RunResult,
        from: &Mark,
        to: &Mark,
        spec: &Spec,
        groups: &[Group],
        stats: &[GroupStats],
    ) {
        let mut sum = GroupStats::default();
        for (group, part) in groups.iter().zip(stats) {
            result.by_group.insert(group.name.to_owned(), part.window_frames);
            sum.merge(part.clone());
        }
        let burst = matches!(spec.window, Window::Burst { .. });
        let end = if burst && sum.last_end > from.time { sum.last_end } else { to.time };
        result.seconds = end.saturating_sub(from.time) as f64 / 1e9;
        result.frames = sum.window_frames;
        result.requests = sum.window_requests;
        result.bytes = sum.window_bytes;
        result.cpu = to.sut.since(from.sut);
        result.client_cpu = to.client - from.client;
        result.origin_cpu = to.origin - from.origin;
        result.load_cores = to.cores.since(&from.cores, &self.bench.load_cores);
        result.sut_cores = to.cores.since(&from.cores, &self.bench.sut_cores);
        // The first group's latencies: in a mixture it is the one that has any meaning.
        let first = stats.first().cloned().unwrap_or_default();
        result.latency = Latency::of(&first.latency);
        result.head = Latency::of(&sum.head);
        result.whole = Latency::of(&sum.whole);
        result.statuses = sum.statuses;
        result.faults = sum.faults.iter().map(|(fault, n)| (fault.to_string(), *n)).collect();
        self.disconnects(result, &sum.left);
        if result.load_cores.busy > 0.9 {
            let busy = result.load_cores.busy * 100.0;
            result.notes.push(format!(
                "generator and origin were the bottleneck: their core was {busy:.0} % busy"
            ));
        }
    }

    fn disconnects(&self, result: &mut RunResult, left: &[(u32, u64)]) {
        if left.is_empty() {
            return;
        }
        let gone: BTreeMap<u32, u64> = self.origin.shared.take_gone().into_iter().collect();
        let mut hist = Hist::default();
        for (id, time) in left {
            if let Some(seen) = gone.get(id) {
                hist.record(seen.saturating_sub(*time));
            }
        }
        result.left = left.len() as u64;
        result.left_seen = hist.0.len();
        result.disconnect = Latency::of(&hist);
    }
}
