//! The scenarios and their numbers.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum as _};

use crate::client::{Cuts, Group, Reading};
use crate::run::{Before, Spec, Window};
use crate::shape::{Failure, Shape};
use crate::tls::Tls;

/// Numbers that scenarios share; each has defaults of its own for what is not given.
#[derive(Clone, Debug, Default, Args)]
pub struct Numbers {
    /// Streams at a time
    #[arg(long, global = true)]
    pub streams: Option<usize>,
    /// Frames a second on each stream
    #[arg(long, global = true)]
    pub rate: Option<f64>,
    /// Bytes of JSON in a frame
    #[arg(long, global = true)]
    pub size: Option<usize>,
    /// Frames of each response, where it has an end
    #[arg(long, global = true)]
    pub frames: Option<u32>,
    /// Seconds measured
    #[arg(long, global = true)]
    pub seconds: Option<f64>,
    /// Workers or threads of the system, and cores for it where the machine has them [default: 1]
    #[arg(long, global = true, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: Option<u16>,
    /// What random draws follow from, in `resume` [default: 1]
    #[arg(long, global = true)]
    pub seed: Option<u64>,
    /// Where https is spoken [default: off; clients in `handshake`]
    #[arg(long, global = true, value_enum)]
    pub tls: Option<Tls>,
}

impl Numbers {
    /// As they were given.
    pub fn arguments(&self) -> Vec<String> {
        let tls = self.tls.and_then(|tls| Some(tls.to_possible_value()?.get_name().to_owned()));
        let given = [
            ("--streams", self.streams.map(|n| n.to_string())),
            ("--rate", self.rate.map(|n| n.to_string())),
            ("--size", self.size.map(|n| n.to_string())),
            ("--frames", self.frames.map(|n| n.to_string())),
            ("--seconds", self.seconds.map(|n| n.to_string())),
            ("--workers", self.workers.map(|n| n.to_string())),
            ("--seed", self.seed.map(|n| n.to_string())),
            ("--tls", tls),
        ];
        let given = given.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?]));
        given.flatten().collect()
    }
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Scenario {
    /// Streams of a fixed rate: CPU per frame and latency
    Steady,
    /// Steady streams passed on, told as a page's tokens and told in OpenAI's words: CPU per frame
    Shaped,
    /// Steady streams through one worker, then through two (or --workers): CPU per frame of both
    Workers,
    /// Streams that never wait for their next frame: frames a second; then latency at a high rate
    Saturation,
    /// Streams as fast as they go: frames a second
    Burst,
    /// Short responses one after another on kept connections: requests a second
    Churn,
    /// The same with a new connection for each request
    ChurnNew,
    /// Full TLS handshakes of clients, each with one short response: handshakes a second
    Handshake,
    /// Streams that are silent: memory of each
    Idle,
    /// Fast streams to readers of a byte a second: memory of each
    Slow,
    /// Clients that leave while frames come: when the upstream sees it
    Disconnect,
    /// Clients that leave while the stream is silent: when the upstream sees it
    DisconnectSilent,
    /// Steady, bursting, short and silent streams at once: latency of the steady ones
    Mixed,
    /// Half of the requests are answered 503 or not at all: what becomes of them
    RetryStorm,
    /// Twice the frames that can be carried: what suffers
    Overload,
    /// Steady streams beside short and aborted ones by the thousand: what is left behind
    Soak,
    /// Resumable streams whose connections are cut at random: whether every client has all of it
    Resume,
    /// Steady streams through the relay without --resume and with it, at once on one core: CPU per
    /// frame of both
    ResumeCost,
    /// Resumable streams left for good by the thousand: what is kept of them, and what is left
    Detached,
}

/// All scenarios of a suite.
pub const ALL: [Scenario; 19] = [
    Scenario::Steady,
    Scenario::Shaped,
    Scenario::Workers,
    Scenario::Saturation,
    Scenario::Burst,
    Scenario::Churn,
    Scenario::ChurnNew,
    Scenario::Handshake,
    Scenario::Idle,
    Scenario::Slow,
    Scenario::Disconnect,
    Scenario::DisconnectSilent,
    Scenario::Mixed,
    Scenario::RetryStorm,
    Scenario::Overload,
    Scenario::Soak,
    Scenario::Resume,
    Scenario::ResumeCost,
    Scenario::Detached,
];

fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(value.clamp(0.01, 86_400.0))
}

/// Opened at no more than 2500 a second: the ramp is not what is measured.
fn ramp(streams: usize) -> Duration {
    Duration::from_millis((streams as u64 * 2 / 5).clamp(20, 60_000))
}

fn ramped(count: usize, shape: Shape) -> Group {
    Group { ramp: ramp(count), ..Group::new("streams", count, shape) }
}

/// One frame, then silence.
fn silent(shape: &Shape) -> Shape {
    Shape { frames: 1, rate: 0.0, hold: true, ..shape.clone() }
}

impl Scenario {
    /// The scenario's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Shaped => "shaped",
            Self::Workers => "workers",
            Self::Saturation => "saturation",
            Self::Burst => "burst",
            Self::Churn => "churn",
            Self::ChurnNew => "churn-new",
            Self::Handshake => "handshake",
            Self::Idle => "idle",
            Self::Slow => "slow",
            Self::Disconnect => "disconnect",
            Self::DisconnectSilent => "disconnect-silent",
            Self::Mixed => "mixed",
            Self::RetryStorm => "retry-storm",
            Self::Overload => "overload",
            Self::Soak => "soak",
            Self::Resume => "resume",
            Self::ResumeCost => "resume-cost",
            Self::Detached => "detached",
        }
    }

    /// The scenario with `numbers` where given.
    pub fn spec(self, numbers: &Numbers) -> Spec {
        let mut spec = self.load(numbers);
        let handshake = self == Self::Handshake;
        let usual = if handshake { Tls::Clients } else { Tls::Off };
        spec.tls = numbers.tls.unwrap_or(usual);
        spec.resumes = !handshake;
        spec.label += spec.tls.label();
        if self == Self::Workers {
            let workers = numbers.workers.unwrap_or(2);
            spec.label += &format!(", 1 and {workers} workers");
            return Spec { before: Before::OneWorker, workers: Some(workers.into()), ..spec };
        }
        let usual = (self == Self::Resume).then_some(2);
        if let Some(workers) = numbers.workers.or(usual) {
            let more = if workers > 1 { "s" } else { "" };
            spec.label += &format!(", {workers} worker{more}");
            spec.workers = Some(workers.into());
        }
        spec
    }

    fn load(self, numbers: &Numbers) -> Spec {
        let streams = |usual| numbers.streams.unwrap_or(usual);
        let rate = |usual| numbers.rate.unwrap_or(usual);
        let frames = |usual| numbers.frames.unwrap_or(usual);
        let size = numbers.size.unwrap_or(200);
        let window = |usual| Window::For(seconds(numbers.seconds.unwrap_or(usual)));
        let shape = Shape { size, ..Shape::default() };
        let fast = Shape { rate: 0.0, ..shape.clone() };
        let silent = silent(&shape);
        let spec = |label: String, groups, window| usual(self.name(), &label, groups, window);
        match self {
            Self::Steady | Self::Shaped | Self::Workers => {
                let (count, rate) = (streams(1000), rate(20.0));
                let group = ramped(count, Shape { rate, ..shape });
                spec(format!("{count}×{rate}/s×{size}B"), vec![group], window(4.0))
            }
            Self::Saturation => {
                let (count, rate) = (streams(1000), rate(30.0));
                let group = ramped(count, Shape { rate, ..shape });
                let label = format!("{count}×{size}B, then {rate}/s");
                let spec = spec(label, vec![group], window(2.0));
                Spec { before: Before::Saturation, ..spec }
            }
            Self::Overload => {
                let count = streams(200);
                let group = Group { cut: true, ..ramped(count, fast) };
                let spec = spec(format!("{count}×{size}B at twice"), vec![group], window(3.0));
                Spec { memory: true, before: Before::Capacity(2.0), ..spec }
            }
            Self::Soak => Spec { memory: true, ..soak(numbers, shape, spec) },
            Self::Resume => resume(numbers, shape, spec),
            Self::ResumeCost => resume_cost(numbers, shape, spec),
            Self::Detached => detached(numbers, shape, spec),
            Self::Burst => {
                let (count, frames) = (streams(64), frames(20_000));
                let group = ramped(count, Shape { frames, ..fast });
                let limit = seconds(numbers.seconds.unwrap_or(30.0));
                let label = format!("{count}×{frames}×{size}B");
                spec(label, vec![group], Window::Burst { limit })
            }
            Self::Churn | Self::ChurnNew | Self::Handshake => {
                let least = if self == Self::Handshake { 1 } else { 10 };
                let (count, frames) = (streams(64), frames(least));
                let fresh = self != Self::Churn;
                let shape = Shape { frames, ..fast };
                let group = Group { again: true, fresh, ..ramped(count, shape) };
                spec(format!("{count} at a time×{frames} frames"), vec![group], window(3.0))
            }
            Self::Idle => {
                let count = streams(5000);
                let group = ramped(count, silent);
                Spec { memory: true, ..spec(format!("{count} streams"), vec![group], window(1.0)) }
            }
            Self::Slow => Spec { memory: true, ..slow(numbers, fast, spec) },
            Self::Disconnect => {
                leaving(streams(500), Shape { rate: rate(20.0), ..shape }, window(3.0), spec)
            }
            Self::DisconnectSilent => leaving(streams(500), silent, window(3.0), spec),
            Self::Mixed => mixed(numbers, shape, spec),
            Self::RetryStorm => retry_storm(numbers, fast, spec),
        }
    }
}

/// The usual way to run a load.
fn usual(name: &'static str, label: &str, groups: Vec<Group>, window: Window) -> Spec {
    Spec {
        name,
        label: format!("{name} {label}"),
        groups,
        settle: Duration::from_millis(700),
        window,
        memory: false,
        before: Before::Nothing,
        workers: None,
        tls: Tls::Off,
        resumes: true,
        relay_flags: Vec::new(),
        bare: false,
        settling: [Duration::ZERO; 2],
    }
}

/// Builds a spec from its label, groups and window.
trait Build: Fn(String, Vec<Group>, Window) -> Spec {}
impl<F: Fn(String, Vec<Group>, Window) -> Spec> Build for F {}

fn slow(numbers: &Numbers, fast: Shape, spec: impl Build) -> Spec {
    let count = numbers.streams.unwrap_or(64);
    let reading = Reading::Slow { bytes_per_second: 1, receive_buffer: 16 << 10 };
    let group = Group { reading, cut: true, ..ramped(count, fast) };
    let window = Window::For(seconds(numbers.seconds.unwrap_or(3.0)));
    spec(format!("{count} readers of 1 B/s"), vec![group], window)
}

/// Every client leaves half a second to one and a half after its first frame, and comes back.
fn leaving(count: usize, shape: Shape, window: Window, spec: impl Build) -> Spec {
    let leave = Some((Duration::from_millis(500), Duration::from_millis(1500)));
    let group = Group { leave, again: true, ..ramped(count, shape) };
    spec(format!("{count} streams"), vec![group], window)
}

fn mixed(numbers: &Numbers, shape: Shape, spec: impl Build) -> Spec {
    let count = numbers.streams.unwrap_or(500);
    let steady = Shape { rate: numbers.rate.unwrap_or(20.0), ..shape.clone() };
    let again = |name, at_once, frames| Group {
        again: true,
        ..Group::new(name, at_once, Shape { frames, rate: 0.0, ..shape.clone() })
    };
    let groups = vec![
        Group { name: "steady", ..ramped(count, steady) },
        Group { name: "idle", ..ramped(count, silent(&shape)) },
        again("short", 4, 10),
        again("burst", 2, 2000),
    ];
    let window = Window::For(seconds(numbers.seconds.unwrap_or(4.0)));
    spec(format!("{count} steady + {count} silent + 2 bursting + 4 short"), groups, window)
}

fn retry_storm(numbers: &Numbers, fast: Shape, spec: impl Build) -> Spec {
    let count = numbers.streams.unwrap_or(64);
    let group = |name, failure| {
        let shape = Shape { frames: 10, fail_share: 50, failure, ..fast.clone() };
        Group { name, again: true, ..ramped(count / 2, shape) }
    };
    let groups = vec![group("503", Failure::Unavailable), group("closed", Failure::Close)];
    let window = Window::For(seconds(numbers.seconds.unwrap_or(3.0)));
    spec(format!("{count} at a time, half fail"), groups, window)
}

/// Steady streams all along; beside them a hundred short streams for each of `--streams`, and ten
/// that are left within 20 ms of their first frame.
fn soak(numbers: &Numbers, shape: Shape, spec: impl Build) -> Spec {
    let count = numbers.streams.unwrap_or(1000);
    let rate = numbers.rate.unwrap_or(20.0);
    let short = Shape { frames: numbers.frames.unwrap_or(10), rate: 0.0, ..shape.clone() };
    let begun = Shape { rate: 100.0, ..shape.clone() };
    let steady = Shape { rate, ..shape };
    let steady = Group { ramp: ramp(count / 5), ..Group::new("steady", count / 5, steady) };
    let again = |name, at_once, shape| Group { again: true, ..Group::new(name, at_once, shape) };
    let (shorts, aborts) = (count as u64 * 100, count as u64 * 10);
    let kept = Group { limit: Some(shorts / 2), ..again("short", 16, short.clone()) };
    let fresh = Group { limit: Some(shorts - shorts / 2), ..again("short, new", 16, short) };
    let leave = Some((Duration::ZERO, Duration::from_millis(20)));
    let aborted = Group { limit: Some(aborts), leave, ..again("aborted", 32, begun) };
    let groups = vec![steady, kept, Group { fresh: true, ..fresh }, aborted];
    let least = seconds(numbers.seconds.unwrap_or(30.0));
    let limit = least + Duration::from_secs(120);
    spec(format!("{shorts} short, {aborts} aborted"), groups, Window::Count { least, limit })
}

fn flags(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Every connection is cut a second after its request on average, and its client comes back.
fn resume(numbers: &Numbers, shape: Shape, spec: impl Build) -> Spec {
    let (count, rate) = (numbers.streams.unwrap_or(1000), numbers.rate.unwrap_or(20.0));
    let length = numbers.seconds.unwrap_or(40.0);
    let frames = numbers.frames.unwrap_or_else(|| (length * rate).clamp(1.0, 1e6) as u32);
    let cuts = Cuts { every: Duration::from_secs(1), seed: numbers.seed.unwrap_or(1) };
    let shape = Shape { frames, rate, ..shape };
    let limit = seconds(f64::from(frames) / rate.max(0.1) + 30.0) + ramp(count);
    let label = format!("{count}×{rate}/s×{}B×{frames} frames", shape.size);
    let group = Group { cuts: Some(cuts), limit: Some(count as u64), ..ramped(count, shape) };
    let spec = spec(label, vec![group], Window::Count { least: Duration::ZERO, limit });
    Spec { relay_flags: flags(&["--resume"]), bare: true, ..spec }
}

fn resume_cost(numbers: &Numbers, shape: Shape, spec: impl Build) -> Spec {
    let (count, rate) = (numbers.streams.unwrap_or(500), numbers.rate.unwrap_or(20.0));
    let label = format!("{count}×{rate}/s×{}B", shape.size);
    let group = ramped(count, Shape { rate, ..shape });
    let window = Window::For(seconds(numbers.seconds.unwrap_or(4.0)));
    let spec = spec(label, vec![group], window);
    Spec { before: Before::Unflagged, relay_flags: flags(&["--resume"]), ..spec }
}

/// How long a stream goes on without a reader, and how long it is kept once it is over. The first
/// streams must still be there when the last have ended.
const GRACE: Duration = Duration::from_secs(2);
const KEEP: Duration = Duration::from_secs(12);

/// Clients that leave 100 to 300 ms after their first frame and never come back: half of the
/// streams end by themselves within the grace, half go on until it is over. They are opened at
/// 2000 a second: some hundred have a client at a time, and some thousand an upstream, which is
/// what there are descriptors for.
fn detached(numbers: &Numbers, shape: Shape, spec: impl Build) -> Spec {
    let count = numbers.streams.unwrap_or(10_000).max(2);
    let leave = Some((Duration::from_millis(100), Duration::from_millis(300)));
    let group = |name, frames, count: usize| Group {
        leave,
        limit: Some(count as u64),
        ramp: Duration::from_millis(count as u64),
        ..Group::new(name, count, Shape { frames, ..shape.clone() })
    };
    let groups = vec![group("ending", 20, count / 2), group("endless", 0, count - count / 2)];
    let seconds = |time: Duration| format!("{}s", time.as_secs());
    let flags = flags(&[
        "--resume",
        "--detach-grace",
        &seconds(GRACE),
        "--resume-keep",
        &seconds(KEEP),
        "--pool-idle-timeout",
        "5s",
    ]);
    let limit = Duration::from_secs(60);
    let spec =
        spec(format!("{count} streams"), groups, Window::Count { least: Duration::ZERO, limit });
    let second = Duration::from_secs(1);
    // The relay looks every two seconds for what has expired, and gives back what two looks later
    // nobody has wanted again.
    let settling = [GRACE + second, KEEP + 8 * second];
    Spec { memory: true, relay_flags: flags, settling, ..spec }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systems::System;

    #[test]
    fn every_scenario_has_a_name_figures_and_a_load() {
        let numbers = Numbers { streams: Some(10), ..Numbers::default() };
        for scenario in ALL {
            let spec = scenario.spec(&numbers);
            assert!(spec.label.starts_with(scenario.name()), "{}", spec.label);
            assert!(!crate::summary::metrics(&spec.label).is_empty());
            assert!(spec.groups.iter().all(|group| group.connections > 0), "{}", spec.label);
        }
    }

    #[test]
    fn the_numbers_given_are_used() {
        let numbers = Numbers {
            streams: Some(7),
            rate: Some(3.0),
            size: Some(500),
            frames: Some(9),
            seconds: Some(0.5),
            workers: Some(3),
            seed: Some(4),
            tls: Some(Tls::Both),
        };
        let steady = Scenario::Steady.spec(&numbers);
        let shape = &steady.groups[0].shape;
        assert_eq!((steady.groups[0].connections, shape.size), (7, 500));
        assert_eq!((steady.workers, steady.before), (Some(3), Before::Nothing));
        assert!(steady.label.ends_with("B, https both sides, 3 workers"), "{}", steady.label);
        let workers = Scenario::Workers.spec(&Numbers::default());
        assert_eq!((workers.workers, workers.before), (Some(2), Before::OneWorker));
        assert!((shape.rate - 3.0).abs() < f64::EPSILON);
        assert_eq!(steady.window, Window::For(Duration::from_millis(500)));
        assert_eq!(Scenario::Churn.spec(&numbers).groups[0].shape.frames, 9);
        let soak = Scenario::Soak.spec(&numbers);
        let limits: u64 = soak.groups.iter().filter_map(|group| group.limit).sum();
        assert_eq!(limits, 770);
        let resume = Scenario::Resume.spec(&numbers).groups.remove(0);
        assert_eq!((resume.shape.frames, resume.limit), (9, Some(7)));
        assert_eq!(resume.cuts.map(|cuts| cuts.seed), Some(4));
        let resume = Scenario::Resume.spec(&Numbers { frames: None, ..numbers.clone() });
        assert_eq!((resume.groups[0].shape.frames, resume.workers), (1, Some(3)));
        assert!(resume.suits(System::Direct) && !resume.suits(System::Nginx));
        let detached = Scenario::Detached.spec(&numbers);
        let limits: u64 = detached.groups.iter().filter_map(|group| group.limit).sum();
        assert!(limits == 7 && !detached.suits(System::Direct));
        assert!(detached.suits(System::Millstream));
    }
}
