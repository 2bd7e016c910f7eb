//! The scenarios and their numbers.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::client::{Group, Reading};
use crate::run::{Spec, Window};
use crate::shape::{Failure, Shape};

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
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Scenario {
    /// Streams of a fixed rate: CPU per frame and latency
    Steady,
    /// Streams as fast as they go: frames a second
    Burst,
    /// Short responses one after another on kept connections: requests a second
    Churn,
    /// The same with a new connection for each request
    ChurnNew,
    /// Streams that are silent: memory of each
    Idle,
    /// Fast streams to slow readers: memory of each
    Slow,
    /// Clients that leave while frames come: when the upstream sees it
    Disconnect,
    /// Clients that leave while the stream is silent: when the upstream sees it
    DisconnectSilent,
    /// Steady, bursting, short and silent streams at once: latency of the steady ones
    Mixed,
    /// Half of the requests are answered 503 or not at all: what becomes of them
    RetryStorm,
    /// More frames than can be carried: what suffers
    Overload,
    /// Steady for minutes: memory at its start and end
    Soak,
}

/// All scenarios of a suite.
pub const ALL: [Scenario; 12] = [
    Scenario::Steady,
    Scenario::Burst,
    Scenario::Churn,
    Scenario::ChurnNew,
    Scenario::Idle,
    Scenario::Slow,
    Scenario::Disconnect,
    Scenario::DisconnectSilent,
    Scenario::Mixed,
    Scenario::RetryStorm,
    Scenario::Overload,
    Scenario::Soak,
];

fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(value.clamp(0.01, 86_400.0))
}

/// Opened at no more than 2500 a second: the ramp is not what is measured.
fn ramp(streams: usize) -> Duration {
    Duration::from_millis((streams as u64 * 2 / 5).clamp(20, 60_000))
}

impl Scenario {
    /// The scenario's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Burst => "burst",
            Self::Churn => "churn",
            Self::ChurnNew => "churn-new",
            Self::Idle => "idle",
            Self::Slow => "slow",
            Self::Disconnect => "disconnect",
            Self::DisconnectSilent => "disconnect-silent",
            Self::Mixed => "mixed",
            Self::RetryStorm => "retry-storm",
            Self::Overload => "overload",
            Self::Soak => "soak",
        }
    }

    /// The scenario with `numbers` where given.
    pub fn spec(self, numbers: &Numbers) -> Spec {
        let streams = |usual| numbers.streams.unwrap_or(usual);
        let rate = |usual| numbers.rate.unwrap_or(usual);
        let frames = |usual| numbers.frames.unwrap_or(usual);
        let size = numbers.size.unwrap_or(200);
        let window = |usual| Window::For(seconds(numbers.seconds.unwrap_or(usual)));
        let shape = Shape { size, ..Shape::default() };
        let fast = Shape { rate: 0.0, ..shape.clone() };
        let silent = Shape { frames: 1, rate: 0.0, hold: true, ..shape.clone() };
        let ramped =
            |count, shape| Group { ramp: ramp(count), ..Group::new("streams", count, shape) };
        let spec = |label: String, groups, window| Spec {
            name: self.name(),
            label: format!("{} {label}", self.name()),
            groups,
            settle: Duration::from_millis(700),
            window,
            memory: false,
        };
        match self {
            Self::Steady | Self::Soak | Self::Overload => {
                let usual = if self == Self::Overload { 100.0 } else { 20.0 };
                let (count, rate) = (streams(1000), rate(usual));
                let group = ramped(count, Shape { rate, ..shape });
                let length = if self == Self::Soak { 120.0 } else { 4.0 };
                let label = format!("{count}×{rate}/s×{size}B");
                let memory = self == Self::Soak;
                Spec { memory, ..spec(label, vec![group], window(length)) }
            }
            Self::Burst => {
                let (count, frames) = (streams(64), frames(20_000));
                let group = ramped(count, Shape { frames, ..fast });
                let limit = seconds(numbers.seconds.unwrap_or(30.0));
                let label = format!("{count}×{frames}×{size}B");
                spec(label, vec![group], Window::Burst { limit })
            }
            Self::Churn | Self::ChurnNew => {
                let (count, frames) = (streams(64), frames(10));
                let fresh = self == Self::ChurnNew;
                let shape = Shape { frames, ..fast };
                let group = Group { again: true, fresh, ..ramped(count, shape) };
                spec(format!("{count} at a time×{frames} frames"), vec![group], window(3.0))
            }
            Self::Idle => {
                let count = streams(5000);
                let group = ramped(count, silent);
                Spec { memory: true, ..spec(format!("{count} streams"), vec![group], window(1.0)) }
            }
            Self::Slow => self.slow(numbers, fast, spec),
            Self::Disconnect | Self::DisconnectSilent => {
                let count = streams(500);
                let quiet = self == Self::DisconnectSilent;
                let shape = if quiet { silent } else { Shape { rate: rate(20.0), ..shape } };
                let leave = Some((Duration::from_millis(500), Duration::from_millis(1500)));
                let group = Group { leave, again: true, ..ramped(count, shape) };
                spec(format!("{count} streams"), vec![group], window(3.0))
            }
            Self::Mixed => {
                let steady = Group {
                    name: "steady",
                    ..ramped(streams(500), Shape { rate: rate(20.0), ..shape })
                };
                let short = Shape { frames: 10, ..fast.clone() };
                let short = Group { name: "short", again: true, ..Group::new("", 4, short) };
                let burst = Shape { frames: 2000, ..fast };
                let burst = Group { name: "burst", again: true, ..Group::new("", 2, burst) };
                let idle = Group { name: "idle", ..ramped(streams(500), silent) };
                let label = format!("{0} steady + {0} silent + 2 bursting + 4 short", streams(500));
                spec(label, vec![steady, idle, short, burst], window(4.0))
            }
            Self::RetryStorm => {
                let count = streams(64);
                let failing =
                    |failure| Shape { frames: 10, fail_share: 50, failure, ..fast.clone() };
                let group = |name, failure| Group {
                    name,
                    again: true,
                    ..ramped(count / 2, failing(failure))
                };
                let groups =
                    vec![group("503", Failure::Unavailable), group("closed", Failure::Close)];
                spec(format!("{count} at a time, half fail"), groups, window(3.0))
            }
        }
    }

    fn slow(
        self,
        numbers: &Numbers,
        fast: Shape,
        spec: impl Fn(String, Vec<Group>, Window) -> Spec,
    ) -> Spec {
        let count = numbers.streams.unwrap_or(64);
        let reading = Reading::Slow { bytes_per_second: 20_000, receive_buffer: 16 << 10 };
        let group = Group { reading, ramp: ramp(count), ..Group::new("readers", count, fast) };
        let window = Window::For(seconds(numbers.seconds.unwrap_or(3.0)));
        Spec { memory: true, ..spec(format!("{count} readers of 20 kB/s"), vec![group], window) }
    }
}
