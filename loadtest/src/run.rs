//! One run: one scenario through one system, measured.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::ProgressBar;
use rustls::ClientConfig;

use crate::client::{Client, Group, GroupStats, Hist};
use crate::clock;
use crate::frame::{Fault, Form};
use crate::origin::Origin;
use crate::result::{Latency, Memory, Resumption, RunResult};
use crate::sample::{self, Cores, CpuSample};
use crate::shape::Failure;
use crate::systems::{Bench, Place, Running, Start, System};
use crate::tls::{Pki, Tls};

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
    /// From the first connection until the groups with a limit are through.
    Count {
        /// At least.
        least: Duration,
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
    /// What is measured just before, to judge by.
    pub before: Before,
    /// The system's workers; else one, or as many as it has cores of its own choosing.
    pub workers: Option<usize>,
    /// Where https is spoken.
    pub tls: Tls,
    /// Clients resume TLS sessions where the system lets them.
    pub resumes: bool,
    /// The relay's flags beside the usual ones: only it can take part.
    pub relay_flags: Vec<String>,
    /// So can what passes TCP on as it comes: the origin does what the flags ask of the relay.
    pub bare: bool,
    /// What is waited for before memory is read in the window, and again once all are gone.
    pub settling: [Duration; 2],
}

impl Spec {
    /// Whether `system` can take part.
    pub fn suits(&self, system: System) -> bool {
        let relay = system.is_millstream() && !system.is_shaped();
        let asked = self.relay_flags.is_empty() || relay;
        (asked || self.bare && system.is_bare()) && system.speaks(self.tls)
    }

    /// Whether frames come with ids, and streams can be resumed.
    fn is_numbered(&self) -> bool {
        self.relay_flags.iter().any(|flag| flag == "--resume")
    }

    /// What `group` asks for, and expects, of `system`.
    fn adapt(&self, group: &mut Group, system: System) {
        group.form = system.form();
        if self.is_numbered() {
            group.form = Form::Numbered;
            group.shape.numbered = system.is_bare();
        }
    }
}

/// What a run is measured by, with the same system in the same round; before it where nothing else is
/// said.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Before {
    /// Nothing.
    #[default]
    Nothing,
    /// What it takes as fast as it can; then so many times that is offered.
    Capacity(f64),
    /// The same load through one worker.
    OneWorker,
    /// The same load through the relay without the scenario's flags, at the same time.
    Unflagged,
    /// The same streams, the next frame of each sent as soon as its last one has been read.
    Saturation,
}

/// What is sampled at both ends of the window.
struct Mark {
    time: u64,
    sut: CpuSample,
    client: f64,
    origin: f64,
    requests: u64,
    cores: Cores,
}

/// What is read before the load, in the window, and after all is gone.
#[derive(Default)]
struct Kept {
    memory: Vec<Memory>,
    metrics: Vec<BTreeMap<String, f64>>,
}

/// The things every run needs.
pub struct Stage<'a> {
    /// Programs and cores.
    pub bench: &'a Bench,
    /// Set by Ctrl-C.
    pub interrupted: Arc<AtomicBool>,
    /// Certificates, made once they are needed.
    pub pki: OnceCell<Pki>,
    /// Shown while it runs.
    pub bar: ProgressBar,
}

impl Stage<'_> {
    /// Starts `system`, runs `spec` through it and stops it.
    pub fn run(&self, system: System, spec: &Spec, round: usize) -> Result<RunResult> {
        let begun = Instant::now();
        let mut result = self.judged(system, spec, round)?;
        result.took_seconds = begun.elapsed().as_secs_f64();
        Ok(result)
    }

    /// One run, or two, the first of which is the measure of the second.
    fn judged(&self, system: System, spec: &Spec, round: usize) -> Result<RunResult> {
        let place = self.bench.place(spec.workers);
        if spec.before == Before::Unflagged {
            let plain = Spec { relay_flags: Vec::new(), before: Before::Nothing, ..spec.clone() };
            // At once, on the same core: what the machine does to one it does to the other.
            let (other, place) = (self.another(), &place);
            let (plain, all) = std::thread::scope(|scope| {
                let plain = scope.spawn(move || other.through(system, &plain, round, place));
                let all = self.through(system, spec, round, place);
                (plain.join(), all)
            });
            let Ok(plain) = plain else { bail!("the run without {:?} failed", spec.relay_flags) };
            let (plain, mut all) = (plain?, all?);
            all.base = Some(Box::new(plain.brief()));
            return Ok(all);
        }
        if spec.before != Before::OneWorker {
            return self.through(system, spec, round, &place);
        }
        // On the same cores, the load where it is in the run with all workers: what the caches
        // lose to it is then no difference between the two.
        let one = self.through(system, spec, round, &place.with_one())?;
        let mut all = self.through(system, spec, round, &place)?;
        all.base = Some(Box::new(one.brief()));
        Ok(all)
    }

    fn through(
        &self,
        system: System,
        spec: &Spec,
        round: usize,
        place: &Place,
    ) -> Result<RunResult> {
        let pki = self.pki(spec.tls)?;
        let server = pki.filter(|_| spec.tls.has_upstream()).map(|pki| &pki.server);
        let origin = Origin::start(SocketAddr::from(([127, 0, 0, 1], 0)), &place.load, server)?;
        let start = Start {
            upstream: origin.address,
            place,
            tls: spec.tls,
            pki,
            admin: spec.memory || spec.groups.iter().any(|group| group.cuts.is_some()),
            relay_flags: &spec.relay_flags,
        };
        let mut running = self.bench.start(system, &start)?;
        let tls = pki.filter(|_| spec.tls.has_clients()).map(|pki| pki.client(spec.resumes));
        let run = Run { stage: self, origin: &origin, place, tls };
        run.warm(&running, spec)?;
        let result = run.measure(&running, spec, round);
        if running.has_died() && system != System::Direct {
            bail!("{system} died: {}", running.log());
        }
        result
    }

    /// The same for a run at the same time.
    fn another(&self) -> Self {
        let interrupted = Arc::clone(&self.interrupted);
        Stage { bench: self.bench, interrupted, pki: OnceCell::new(), bar: self.bar.clone() }
    }

    fn pki(&self, tls: Tls) -> Result<Option<&Pki>> {
        if tls == Tls::Off {
            return Ok(None);
        }
        if self.pki.get().is_none() {
            let _ = self.pki.set(Pki::new()?);
        }
        Ok(self.pki.get())
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Relaxed)
    }
}

/// One system with its upstream and its load.
struct Run<'a> {
    stage: &'a Stage<'a>,
    origin: &'a Origin,
    place: &'a Place,
    /// The clients', where they speak https.
    tls: Option<&'a Arc<ClientConfig>>,
}

impl Run<'_> {
    fn is_interrupted(&self) -> bool {
        self.stage.is_interrupted()
    }

    fn client(&self, running: &Running, groups: &[Group]) -> Client {
        Client::start(running.address, groups, &self.place.load, &self.origin.shared, self.tls)
    }

    /// A few exchanges before anything is measured: lazily built parts are not the load's.
    fn warm(&self, running: &Running, spec: &Spec) -> Result<()> {
        let shape = crate::shape::Shape { frames: 5, rate: 0.0, ..Default::default() };
        let mut group = Group::new("warm", 4, shape);
        spec.adapt(&mut group, running.system);
        let client = self.client(running, &[group]);
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
        let mut groups = spec.groups.clone();
        groups.iter_mut().for_each(|group| spec.adapt(group, running.system));
        let (mut capacity, mut offered, mut base) = (None, None, None);
        match spec.before {
            Before::Capacity(times) => {
                let most = self.capacity(running, spec, &groups)?.frame_rate();
                (capacity, offered) = (Some(most), Some(most * times));
            }
            Before::Saturation => {
                base = Some(Box::new(self.capacity(running, spec, &groups)?.brief()));
                self.pause(200); // for its connections to be gone
            }
            Before::Nothing | Before::OneWorker | Before::Unflagged => {}
        }
        if let Some(offered) = offered {
            let streams: usize = groups.iter().map(|group| group.connections).sum();
            let rate = offered / streams.max(1) as f64;
            groups.iter_mut().for_each(|group| group.shape.rate = rate);
        }
        if spec.memory {
            self.pause(300);
        }
        let mut kept = Kept::default();
        self.remember(spec, running, &mut kept);
        self.origin.shared.take_gone();
        let asked = self.origin.shared.requests.load(Relaxed);
        let start_at = self.set_start(spec, &mut groups);
        let begun = clock::now();
        let client = self.client(running, &groups);
        let mut notes = Vec::new();
        if !matches!(spec.window, Window::Count { .. }) {
            self.await_live(&client, spec, &mut notes);
        }
        let ramp_seconds = (clock::now() - begun) as f64 / 1e9;
        self.origin.shared.take_late();
        let (from, to) = self.window(&client, &pids, spec, &groups, start_at);
        self.settle(spec.settling[0]);
        self.remember(spec, running, &mut kept);
        let late = self.origin.shared.take_late().map(Hist);
        let stats = self.wind_up(client, spec);
        self.settle(spec.settling[1]);
        if spec.memory {
            self.await_release(&pids);
        }
        self.remember(spec, running, &mut kept);
        let mut result = RunResult {
            scenario: spec.label.clone(),
            system: Some(running.system),
            round,
            connections: groups.iter().map(|group| group.connections).sum(),
            memory: kept.memory,
            notes,
            ramp_seconds,
            workers: self.place.workers,
            tls: spec.tls,
            base,
            capacity,
            offered,
            resume_metrics: kept.metrics,
            upstream_all: self.origin.shared.requests.load(Relaxed) - asked,
            listed: running.listed_streams(),
            origin_late: late.as_ref().and_then(Latency::brief),
            ..RunResult::default()
        };
        self.fill(&mut result, &from, &to, spec, &groups, &stats);
        if let Some(base) = &result.base {
            result.notes.extend(base.notes.iter().map(|note| format!("at saturation, {note}")));
        }
        Ok(result)
    }

    fn window(
        &self,
        client: &Client,
        pids: &[u32],
        spec: &Spec,
        groups: &[Group],
        start_at: u64,
    ) -> (Mark, Mark) {
        match spec.window {
            Window::For(length) => self.steady_window(client, pids, spec.settle, length),
            Window::Burst { limit } => self.burst_window(client, pids, start_at, limit),
            Window::Count { least, limit } => {
                self.count_window(client, pids, groups, (least, limit))
            }
        }
    }

    /// The same streams through `running` as fast as they go.
    fn capacity(&self, running: &Running, spec: &Spec, groups: &[Group]) -> Result<RunResult> {
        let mut groups = groups.to_vec();
        let saturated = spec.before == Before::Saturation;
        for group in &mut groups {
            group.shape.rate = 0.0;
            group.shape.outstanding = u32::from(saturated);
        }
        let spec = Spec {
            label: if saturated { "saturation" } else { "capacity" }.into(),
            groups,
            settle: Duration::from_millis(300),
            window: Window::For(Duration::from_secs(1)),
            memory: false,
            before: Before::Nothing,
            ..spec.clone()
        };
        let result = self.measure(running, &spec, 0)?;
        anyhow::ensure!(result.frames > 0, "no frame came through");
        Ok(result)
    }

    fn pause(&self, millis: u64) {
        clock::sleep_until(clock::now() + millis * 1_000_000, &|| self.is_interrupted());
    }

    fn settle(&self, time: Duration) {
        self.pause(u64::try_from(time.as_millis()).unwrap_or(0));
    }

    /// What goes back does so within seconds, not at once: until no memory has been given back
    /// for three seconds, six at most.
    fn await_release(&self, pids: &[u32]) {
        let (mut least, mut quiet) = (f64::INFINITY, 0);
        for _ in 0..12 {
            let now = sample::pss(pids);
            quiet = if now < least * 0.98 { 0 } else { quiet + 1 };
            least = least.min(now);
            if quiet > 6 || pids.is_empty() {
                return;
            }
            self.pause(500);
        }
    }

    fn remember(&self, spec: &Spec, running: &Running, kept: &mut Kept) {
        if spec.is_numbered() {
            kept.metrics.extend(Some(running.resume_metrics()).filter(|found| !found.is_empty()));
        }
        if spec.memory {
            let pids = running.pids();
            sample::shrink_slabs();
            kept.memory.push(Memory {
                pss: sample::pss(&pids),
                kernel: sample::kernel(),
                descriptors: sample::descriptors(&pids),
            });
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
        self.stage.bar.set_length(all);
        loop {
            let live = client.control.live.load(Relaxed);
            self.stage.bar.set_position(live);
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
            client: client.cpu(),
            origin: sample::threads(&self.origin.shared.threads()),
            requests: self.origin.shared.requests.load(Relaxed),
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
        self.stage.bar.set_length(length.as_millis() as u64);
        let shown = || {
            self.stage.bar.set_position(clock::now().saturating_sub(from.time) / 1_000_000);
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

    fn count_window(
        &self,
        client: &Client,
        pids: &[u32],
        groups: &[Group],
        (least, limit): (Duration, Duration),
    ) -> (Mark, Mark) {
        let from = self.mark(client, pids);
        client.control.set_window(from.time, u64::MAX);
        let all: u64 = groups.iter().filter_map(|group| group.limit).sum();
        let after = |time: Duration| from.time + u64::try_from(time.as_nanos()).unwrap_or(0);
        let (soonest, deadline) = (after(least), after(limit));
        self.stage.bar.set_length(all);
        loop {
            let done = client.control.limited.load(Relaxed);
            self.stage.bar.set_position(done);
            let now = clock::now();
            let through = done >= all && now > soonest || client.is_done();
            if through || now > deadline || self.is_interrupted() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        client.control.set_window(from.time, clock::now());
        (from, self.mark(client, pids))
    }

    /// Lets what runs come to its end, within limits.
    fn wind_up(&self, client: Client, spec: &Spec) -> Vec<GroupStats> {
        client.control.finish.store(true, Relaxed);
        if spec.groups.iter().any(|group| group.leave.is_some()) {
            // Before the rest is ended, so that the last to leave are seen leaving.
            self.pause(500);
        }
        self.origin.shared.finish_streams();
        // Slow readers would take hours to their streams' ends.
        let cut = spec.groups.iter().any(|group| group.cut);
        let deadline = clock::now() + if cut { 0 } else { 8_000_000_000 };
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
        result.refused = sum.window_refused;
        result.upstream_requests = to.requests - from.requests;
        result.bytes = sum.window_bytes;
        result.cpu = to.sut.since(from.sut);
        result.client_cpu = to.client - from.client;
        result.origin_cpu = to.origin - from.origin;
        result.load_cores = to.cores.since(&from.cores, &self.place.load);
        result.sut_cores = to.cores.since(&from.cores, &self.place.sut);
        // The first group's latencies: in a mixture it is the one that has any meaning.
        let first = stats.first().cloned().unwrap_or_default();
        result.latency = Latency::of(&first.latency);
        result.head = Latency::brief(&sum.head);
        result.ramp_head = Latency::brief(&sum.ramp_head);
        result.fairness = match spec.before {
            Before::Capacity(_) => fairness(&sum.each),
            _ => None,
        };
        result.whole = Latency::brief(&sum.whole);
        result.handshake = Latency::brief(&sum.handshake);
        if groups.iter().any(|group| group.cuts.is_some()) {
            result.notes.extend(sum.resumes.odd.take().map(|odd| format!("odd frame {odd:?}")));
            result.resumption = Some(Resumption::from(sum.resumes));
        }
        result.full_handshakes = sum.full;
        result.resumed_handshakes = sum.resumed;
        result.statuses = sum.statuses;
        result.faults = sum.faults.iter().map(|(fault, n)| (fault.to_string(), *n)).collect();
        if spec.groups.iter().any(|group| group.shape.failure != Failure::None) {
            // Asked for; what the system makes of it is counted as refused.
            result.faults.remove(&Fault::Unanswered.to_string());
        }
        result.left_all = sum.left.len() as u64;
        // Where some are seen leaving only because their streams go on, theirs count.
        let endless = |group: &Group| group.shape.frames == 0 || group.shape.hold;
        if groups.iter().any(endless) && !groups.iter().all(endless) {
            let pairs = groups.iter().zip(stats).filter(|(group, _)| endless(group));
            let left: Vec<_> = pairs.flat_map(|(_, stats)| stats.left.clone()).collect();
            self.disconnects(result, &left);
        } else {
            self.disconnects(result, &sum.left);
        }
        self.say_what_was_full(result);
    }

    /// Notes what kept the figures from being the system's alone.
    fn say_what_was_full(&self, result: &mut RunResult) {
        // Not the kernel's ticks, which are too coarse for a burst.
        let seconds = result.seconds.max(1e-9);
        let load = (result.client_cpu + result.origin_cpu) / 1e9 / seconds;
        let load = load / self.place.load.len().max(1) as f64;
        let own = result.own_share() / self.place.sut.len().max(1) as f64;
        let full = result.load_cores.busy > 0.97;
        let mut note = |text: &str| result.notes.push(text.into());
        if self.place.is_shared() {
            return note("generator and origin had no core of their own: judge by CPU per frame");
        }
        if own > 0.93 {
            // What it did was all it could.
        } else if load > 0.88 || full && load > 0.6 {
            note("generator and origin were the bottleneck: their core was full");
        } else if full {
            note("other processes kept the load's core busy");
        }
        if result.sut_cores.busy > 0.97 && own > 0.0 && own < 0.85 {
            note("other processes kept the system's core busy");
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

/// What the least served tenth got, as a share of the mean.
fn fairness(frames: &[u64]) -> Option<f64> {
    let mut frames = frames.to_vec();
    frames.sort_unstable();
    let mean = frames.iter().sum::<u64>() as f64 / frames.len() as f64;
    let least = &frames[..frames.len().div_ceil(10)];
    let served = least.iter().sum::<u64>() as f64 / least.len() as f64;
    (mean > 0.0).then(|| served / mean)
}

#[cfg(test)]
mod tests {
    use super::fairness;

    #[test]
    fn fairness_is_the_least_tenths_share() {
        assert_eq!(fairness(&[5; 20]), Some(1.0));
        let half: Vec<u64> = [vec![5; 2], vec![10; 9], vec![20; 9]].concat();
        assert_eq!(fairness(&half), Some(5.0 / 14.0));
        assert_eq!(fairness(&[0, 0]), None);
        assert_eq!(fairness(&[]), None);
    }
}
