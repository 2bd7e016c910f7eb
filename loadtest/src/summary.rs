//! Medians and ratios over rounds.

use crate::frame::Fault;
use crate::result::{Resumption, RunResult};
use crate::systems::System;

/// A figure of all rounds together.
type OfAll = fn(&[&RunResult]) -> Option<f64>;

/// One figure of a scenario.
#[derive(Clone, Copy)]
pub struct Metric {
    /// Its column's title.
    pub title: &'static str,
    /// Its digits after the point.
    pub digits: usize,
    value: fn(&RunResult) -> Option<f64>,
    /// Ratios to the peers are shown.
    pub headline: bool,
    /// A part of the value, as a share, that one round alone has too few of the kernel's ticks for:
    /// the median is multiplied by the share in all rounds together.
    share: Option<fn(&[&RunResult]) -> f64>,
    /// A figure that is one of all rounds only.
    whole: Option<OfAll>,
}

/// The peers that ratios are taken to.
pub const BASES: [System; 3] = [System::PumpUring, System::Nginx, System::Haproxy];

const fn metric(
    title: &'static str,
    digits: usize,
    value: fn(&RunResult) -> Option<f64>,
) -> Metric {
    Metric { title, digits, value, headline: false, share: None, whole: None }
}

const fn headline(
    title: &'static str,
    digits: usize,
    value: fn(&RunResult) -> Option<f64>,
) -> Metric {
    Metric { title, digits, value, headline: true, share: None, whole: None }
}

fn a_frame(result: &RunResult, nanos: f64) -> Option<f64> {
    (result.frames > 0 && nanos > 0.0).then(|| nanos / result.frames as f64 / 1e3)
}

/// The share of the systems' own code in the CPU time of all these rounds.
pub fn user_share(runs: &[&RunResult]) -> f64 {
    let sum = |part: fn(&RunResult) -> f64| runs.iter().map(|run| part(run)).sum::<f64>();
    sum(|run| run.cpu.user) / sum(|run| run.cpu.total()).max(1.0)
}

/// CPU of a request in microseconds.
pub(crate) fn a_request(result: &RunResult) -> Option<f64> {
    let requests = result.requests + result.refused;
    (requests > 0 && result.cpu.total() > 0.0).then(|| result.cpu.total() / requests as f64 / 1e3)
}

/// CPU of a handshake, the short response on it included.
fn a_handshake(result: &RunResult) -> Option<f64> {
    let count = result.handshake.as_ref().map_or(0, |latency| latency.count);
    (count > 0 && result.cpu.total() > 0.0).then(|| result.cpu.total() / count as f64 / 1e3)
}

fn mib(result: &RunResult, at: usize) -> Option<f64> {
    result.memory.get(at).map(|memory| memory.pss / 1048576.0).filter(|mib| *mib > 0.0)
}

fn descriptors(result: &RunResult, at: usize) -> Option<f64> {
    result.memory.get(at).map(|memory| memory.descriptors as f64).filter(|count| *count > 0.0)
}

fn share(part: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| 100.0 * part as f64 / of as f64)
}

/// What came before, in the same round, as the measure of it.
fn ratio_to_base(result: &RunResult, value: fn(&RunResult) -> Option<f64>) -> Option<f64> {
    let before = value(result.base.as_deref()?)?;
    value(result).map(|value| value / before)
}

const CPU: Metric = headline("CPU µs/frame", 2, RunResult::cpu_per_frame);
const USER: Metric =
    Metric { share: Some(user_share), ..metric("user", 2, RunResult::cpu_per_frame) };
const FRAMES: Metric = metric("frames/s", 0, |r| Some(r.frame_rate()));
const P50: Metric = metric("p50 ms", 2, |r| r.latency.as_ref().map(|l| l.p50));
const P99: Metric = metric("p99 ms", 2, |r| r.latency.as_ref().map(|l| l.p99));
const P999: Metric = metric("p99.9 ms", 2, |r| r.latency.as_ref().map(|l| l.p999));
const RESUMED: Metric = metric("resumed %", 0, |r| {
    share(r.resumed_handshakes, r.resumed_handshakes + r.full_handshakes)
});
const BEFORE: Metric = metric("PSS MiB before", 1, |r| mib(r, 0));
const WITH: Metric = metric("with", 1, |r| mib(r, 1));
const AFTER: Metric = metric("after", 1, |r| mib(r, 2));

const STEADY: &[Metric] = &[
    CPU,
    USER,
    FRAMES,
    P50,
    P99,
    P999,
    metric("ramp head p99 ms", 2, |r| r.ramp_head.as_ref().map(|l| l.p99)),
];
const WORKERS: &[Metric] = &[
    metric("CPU µs/frame of 1", 2, |r| r.base.as_ref().and_then(|one| one.cpu_per_frame())),
    headline("of all", 2, RunResult::cpu_per_frame),
    metric("×1 worker", 2, |r| ratio_to_base(r, RunResult::cpu_per_frame)),
    metric("workers", 0, |r| Some(r.workers as f64)),
    FRAMES,
    metric("p50 ms of 1", 2, |r| r.base.as_ref()?.latency.as_ref().map(|l| l.p50)),
    metric("of all", 2, |r| r.latency.as_ref().map(|l| l.p50)),
    metric("p99 ms of 1", 2, |r| r.base.as_ref()?.latency.as_ref().map(|l| l.p99)),
    metric("of all", 2, |r| r.latency.as_ref().map(|l| l.p99)),
];
const SATURATION: &[Metric] = &[
    headline("saturated k frames/s", 1, |r| r.base.as_ref().map(|most| most.frame_rate() / 1e3)),
    headline("CPU µs/frame", 2, |r| r.base.as_ref().and_then(|most| most.cpu_per_frame())),
    metric("k/s a core", 1, |r| r.base.as_ref()?.cpu_per_frame().map(|micros| 1e3 / micros)),
    metric("of a core %", 0, |r| r.base.as_ref().map(|most| 100.0 * most.own_share())),
    metric("load core %", 0, |r| r.base.as_ref().map(|most| 100.0 * most.load_cores.busy)),
    metric("then k/s", 1, |r| Some(r.frame_rate() / 1e3)),
    metric("CPU µs/frame", 2, RunResult::cpu_per_frame),
    P50,
    P99,
    P999,
];
const BURST: &[Metric] = &[
    headline("M frames/s", 2, |r| Some(r.frame_rate() / 1e6)),
    headline("CPU µs/frame", 3, RunResult::cpu_per_frame),
    Metric { digits: 3, ..USER },
    metric("MB/s", 0, |r| Some(r.bytes as f64 / 1e6 / r.seconds.max(1e-9))),
];
const CHURN: &[Metric] = &[
    headline("requests/s", 0, |r| Some(r.request_rate())),
    headline("CPU µs/request", 1, a_request),
    metric("p50 ms", 2, |r| r.whole.as_ref().map(|l| l.p50)),
    metric("p99 ms", 2, |r| r.whole.as_ref().map(|l| l.p99)),
];
const CHURN_NEW_TLS: &[Metric] = &[
    headline("requests/s", 0, |r| Some(r.request_rate())),
    headline("CPU µs/request", 1, a_request),
    metric("p50 ms", 2, |r| r.whole.as_ref().map(|l| l.p50)),
    metric("p99 ms", 2, |r| r.whole.as_ref().map(|l| l.p99)),
    RESUMED,
];
const HANDSHAKE: &[Metric] = &[
    headline("handshakes/s", 0, |r| r.handshake.as_ref().map(|l| l.count as f64 / r.seconds)),
    headline("CPU µs/handshake", 1, a_handshake),
    Metric { share: Some(user_share), ..metric("user", 1, a_handshake) },
    metric("/s a core", 0, |r| a_handshake(r).map(|micros| 1e6 / micros)),
    metric("of a core %", 0, |r| Some(100.0 * r.own_share())),
    metric("p50 ms", 2, |r| r.handshake.as_ref().map(|l| l.p50)),
    metric("p99 ms", 2, |r| r.handshake.as_ref().map(|l| l.p99)),
    RESUMED,
];
const RETRY: &[Metric] = &[
    metric("good/s", 0, |r| Some(r.request_rate())),
    metric("good %", 1, |r| share(r.requests, r.requests + r.refused)),
    headline("CPU µs/request", 1, a_request),
    metric("upstream requests each", 2, |r| {
        share(r.upstream_requests, r.requests + r.refused).map(|share| share / 100.0)
    }),
    metric("p50 ms", 2, |r| r.whole.as_ref().map(|l| l.p50)),
    metric("p99 ms", 2, |r| r.whole.as_ref().map(|l| l.p99)),
];
const MEMORY: &[Metric] = &[
    headline("PSS B/stream", 0, RunResult::pss_each),
    metric("sockets B/stream", 0, RunResult::sockets_each),
    metric("TCP buffers B/stream", 0, RunResult::tcp_each),
    BEFORE,
    WITH,
    AFTER,
];
const SLOW: &[Metric] = &[
    headline("PSS B/stream", 0, RunResult::pss_each),
    metric("TCP buffers B/stream", 0, RunResult::tcp_each),
    BEFORE,
    WITH,
    AFTER,
];
const DISCONNECT: &[Metric] = &[
    headline("p50 ms", 2, |r| r.disconnect.as_ref().map(|l| l.p50)),
    metric("p99 ms", 2, |r| r.disconnect.as_ref().map(|l| l.p99)),
    metric("max ms", 2, |r| r.disconnect.as_ref().map(|l| l.max)),
    metric("left", 0, |r| Some(r.left as f64)),
    metric("seen %", 1, |r| share(r.left_seen, r.left)),
];
const OVERLOAD: &[Metric] = &[
    metric("offered k/s", 0, |r| r.offered.map(|offered| offered / 1e3)),
    metric("carried k/s", 0, |r| Some(r.frame_rate() / 1e3)),
    metric("of capacity %", 0, |r| r.capacity.map(|most| 100.0 * r.frame_rate() / most)),
    metric("least tenth %", 0, |r| r.fairness.map(|share| 100.0 * share)),
    metric("CPU µs/frame", 3, RunResult::cpu_per_frame),
    P50,
    metric("max ms", 0, |r| r.latency.as_ref().map(|l| l.max)),
    BEFORE,
    WITH,
    AFTER,
];
const SOAK: &[Metric] = &[
    CPU,
    P50,
    P99,
    metric("seconds", 1, |r| Some(r.seconds)),
    metric("short", 0, |r| Some(r.requests as f64)),
    metric("left", 0, |r| Some(r.left as f64)),
    metric("seen %", 1, |r| share(r.left_seen, r.left)),
    metric("fds before", 0, |r| descriptors(r, 0)),
    metric("with", 0, |r| descriptors(r, 1)),
    metric("after", 0, |r| descriptors(r, 2)),
    metric("/streams after", 0, |r| r.listed.map(|listed| listed as f64)),
    BEFORE,
    WITH,
    AFTER,
];

fn resumption(r: &RunResult, value: fn(&Resumption) -> u64) -> Option<f64> {
    r.resumption.as_ref().map(|seen| value(seen) as f64)
}

/// Requests that reached the upstream beyond one for each stream.
pub fn extra_requests(r: &RunResult) -> Option<f64> {
    // Where nothing is in between, those who come back do so at the upstream.
    let relay = r.system.is_some_and(System::is_millstream);
    let streams = if r.left_all > 0 { r.left_all } else { r.connections as u64 };
    relay.then_some(r.upstream_all as f64 - streams as f64)
}

/// The system's own code, of all rounds, with --resume and without it.
pub fn resume_user(runs: &[&RunResult]) -> Option<[f64; 2]> {
    let base: Vec<&RunResult> = runs.iter().filter_map(|run| run.base.as_deref()).collect();
    Some([USER.median(runs)?, USER.median(&base)?])
}

const RESUME: &[Metric] = &[
    metric("complete", 0, |r| Some(r.requests as f64)),
    metric("of", 0, |r| Some(r.connections as f64)),
    metric("gaps", 0, |r| Some(r.faults_of(Fault::Gap) as f64)),
    metric("doubles", 0, |r| Some(r.faults_of(Fault::Duplicate) as f64)),
    metric("extra upstream requests", 0, extra_requests),
    metric("cuts", 0, |r| resumption(r, |seen| seen.cuts)),
    metric("within a frame", 0, |r| resumption(r, |seen| seen.within_frame)),
    metric("resets", 0, |r| resumption(r, |seen| seen.resets)),
    metric("resumed", 0, |r| resumption(r, |seen| seen.resumed)),
    metric("told over", 0, |r| resumption(r, |seen| seen.over)),
    metric("on another worker", 0, |r| r.counted("resume_handovers")),
    metric("resume p50 ms", 2, |r| r.resumption.as_ref()?.latency.as_ref().map(|l| l.p50)),
    metric("p99 ms", 2, |r| r.resumption.as_ref()?.latency.as_ref().map(|l| l.p99)),
    metric("max ms", 1, |r| r.resumption.as_ref()?.latency.as_ref().map(|l| l.max)),
    metric("CPU µs/frame", 2, RunResult::cpu_per_frame),
];
const RESUME_COST: &[Metric] = &[
    metric("CPU µs/frame without", 2, |r| r.base.as_ref().and_then(|one| one.cpu_per_frame())),
    metric("with", 2, RunResult::cpu_per_frame),
    metric("more", 2, |r| Some(r.cpu_per_frame()? - r.base.as_ref()?.cpu_per_frame()?)),
    Metric {
        whole: Some(|runs| resume_user(runs).map(|user| user[1])),
        ..metric("user without", 2, |_| None)
    },
    Metric {
        whole: Some(|runs| resume_user(runs).map(|user| user[0])),
        ..metric("with", 2, |_| None)
    },
    Metric {
        whole: Some(|runs| resume_user(runs).map(|user| user[0] - user[1])),
        ..metric("more", 2, |_| None)
    },
    FRAMES,
    metric("p50 ms without", 2, |r| r.base.as_ref()?.latency.as_ref().map(|l| l.p50)),
    metric("with", 2, |r| r.latency.as_ref().map(|l| l.p50)),
    metric("p99 ms without", 2, |r| r.base.as_ref()?.latency.as_ref().map(|l| l.p99)),
    metric("with", 2, |r| r.latency.as_ref().map(|l| l.p99)),
];
const DETACHED: &[Metric] = &[
    metric("left", 0, |r| Some(r.left_all as f64)),
    metric("kept", 0, |r| r.gauged("kept_streams", 1)),
    metric("KiB of frames kept", 0, |r| r.gauged("kept_bytes", 1).map(|bytes| bytes / 1024.0)),
    metric("PSS B/stream", 0, |r| {
        let [before, during, ..] = r.memory[..] else { return None };
        (before.pss > 0.0 && r.left_all > 0).then(|| (during.pss - before.pss) / r.left_all as f64)
    }),
    metric("endless", 0, |r| Some(r.left as f64)),
    metric("cancelled", 0, |r| Some(r.left_seen as f64)),
    metric("p50 s", 2, |r| r.disconnect.as_ref().map(|l| l.p50 / 1e3)),
    metric("max s", 2, |r| r.disconnect.as_ref().map(|l| l.max / 1e3)),
    metric("extra upstream requests", 0, extra_requests),
    metric("kept after", 0, |r| r.gauged("kept_streams", 2)),
    metric("fds before", 0, |r| descriptors(r, 0)),
    metric("after", 0, |r| descriptors(r, 2)),
    BEFORE,
    WITH,
    AFTER,
];

/// The figures of the scenario with this name or label.
pub fn metrics(scenario: &str) -> Vec<Metric> {
    let kind = scenario.split(' ').next().unwrap_or_default();
    let own = match kind {
        "workers" => WORKERS,
        "saturation" => SATURATION,
        "burst" => BURST,
        "churn" => CHURN,
        "churn-new" if scenario.contains("https") => CHURN_NEW_TLS,
        "churn-new" => CHURN,
        "handshake" => HANDSHAKE,
        "retry-storm" => RETRY,
        "idle" => MEMORY,
        "slow" => SLOW,
        "disconnect" | "disconnect-silent" => DISCONNECT,
        "overload" => OVERLOAD,
        "soak" => SOAK,
        "resume" => RESUME,
        "resume-cost" => RESUME_COST,
        "detached" => DETACHED,
        _ => STEADY,
    };
    own.to_vec()
}

/// The figures that tell how far a run can be trusted.
pub const TRUST: [Metric; 3] = [
    metric("load µs/frame", 2, |r| a_frame(r, r.client_cpu + r.origin_cpu)),
    metric("load core %", 0, |r| Some(100.0 * r.load_cores.busy)),
    metric("steal %", 1, |r| Some(100.0 * f64::max(r.load_cores.steal, r.sut_cores.steal))),
];

impl Metric {
    /// Its value in one run.
    pub fn of(&self, result: &RunResult) -> Option<f64> {
        (self.value)(result).map(|value| value * self.share.map_or(1.0, |share| share(&[result])))
    }

    /// Its median over runs.
    pub fn median(&self, runs: &[&RunResult]) -> Option<f64> {
        if let Some(whole) = self.whole {
            return whole(runs);
        }
        let middle = median(runs.iter().filter_map(|run| (self.value)(run)).collect());
        middle.map(|value| value * self.share.map_or(1.0, |share| share(runs)))
    }

    /// The median over rounds of the ratio to `base` in the same round.
    pub fn ratio(&self, of: &[&RunResult], base: &[&RunResult]) -> Option<f64> {
        let ratios = of.iter().filter_map(|result| {
            let other = base.iter().find(|other| other.round == result.round)?;
            let (value, other) = (self.of(result)?, self.of(other)?);
            (other > 0.0).then_some(value / other)
        });
        median(ratios.collect())
    }
}

/// The middle value, or the mean of the two.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[half]),
        _ => Some(f64::midpoint(values[half - 1], values[half])),
    }
}

/// The user CPU of a frame in microseconds: what all rounds took together, since the kernel's ticks
/// are too coarse for one.
fn user_of_all(runs: &[&RunResult]) -> Option<f64> {
    let frames: u64 = runs.iter().map(|run| run.frames).sum();
    let nanos: f64 = runs.iter().map(|run| run.cpu.user).sum();
    (frames > 0 && nanos > 0.0).then(|| nanos / frames as f64 / 1e3)
}

/// What telling a frame in other words takes over passing it on, in microseconds of user CPU.
pub fn shaping_costs(results: &[RunResult], scenario: &str) -> Vec<(System, f64)> {
    let rows = by_system(results, scenario);
    let passed = rows.iter().find(|row| row.0 == System::Millstream);
    let Some(passed) = passed.and_then(|row| user_of_all(&row.1)) else { return Vec::new() };
    let shaped = rows.iter().filter(|row| row.0.is_shaped());
    shaped.filter_map(|row| Some((row.0, user_of_all(&row.1)? - passed))).collect()
}

/// The scenarios of `results`, in their order.
pub fn scenarios(results: &[RunResult]) -> Vec<&str> {
    let mut seen = Vec::new();
    for result in results {
        if !seen.contains(&result.scenario.as_str()) {
            seen.push(result.scenario.as_str());
        }
    }
    seen
}

/// The results of one scenario by system, systems in their own order.
pub fn by_system<'a>(
    results: &'a [RunResult],
    scenario: &str,
) -> Vec<(System, Vec<&'a RunResult>)> {
    let mut rows: Vec<(System, Vec<&RunResult>)> = Vec::new();
    for result in results.iter().filter(|result| result.scenario == scenario) {
        let Some(system) = result.system else { continue };
        match rows.iter_mut().find(|row| row.0 == system) {
            Some(row) => row.1.push(result),
            None => rows.push((system, vec![result])),
        }
    }
    rows.sort_by_key(|row| row.0);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shaping_costs_what_it_takes_over_passing_on() {
        let run = |system, round, user| RunResult {
            scenario: "shaped 4".into(),
            system: Some(system),
            round,
            frames: 1000,
            cpu: crate::sample::Cpu { user, system: 1e6 },
            ..RunResult::default()
        };
        let (passed, tokens) = (System::Millstream, System::MillstreamTokens);
        let runs =
            [run(passed, 0, 1e6), run(passed, 1, 3e6), run(tokens, 0, 3e6), run(tokens, 1, 4e6)];
        assert_eq!(shaping_costs(&runs, "shaped 4"), [(tokens, 1.5)]);
        assert_eq!(shaping_costs(&runs[2..], "shaped 4"), []);
    }

    #[test]
    fn medians_and_ratios_are_by_round() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
        let run = |round, frames| RunResult { round, frames, seconds: 1.0, ..RunResult::default() };
        let (mine, other) = ([run(0, 10), run(1, 40), run(2, 90)], [run(1, 20), run(0, 10)]);
        let rate = FRAMES;
        let mine: Vec<_> = mine.iter().collect();
        assert_eq!(rate.median(&mine), Some(40.0));
        assert_eq!(rate.ratio(&mine, &other.iter().collect::<Vec<_>>()), Some(1.5));
    }

    #[test]
    fn the_split_of_a_median_is_that_of_all_rounds() {
        let run = |user, system| RunResult {
            frames: 1000,
            cpu: crate::sample::Cpu { user, system },
            ..RunResult::default()
        };
        let runs = [run(0.0, 10e6), run(4e6, 6e6), run(2e6, 18e6)];
        let runs: Vec<_> = runs.iter().collect();
        let near =
            |value: Option<f64>, wanted: f64| value.is_some_and(|v| (v - wanted).abs() < 1e-9);
        assert!(near(CPU.median(&runs), 10.0) && near(USER.median(&runs), 1.5));
        assert!(near(USER.of(runs[1]), 4.0));
    }
}
