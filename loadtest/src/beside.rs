//! Two systems at once, on the same core, each with an origin and a load of its own.
//!
//! Rounds one behind the other scatter by a tenth on a machine that is shared, because it is faster
//! in one than in the next. What it does to one of two that run at once it does to the other, so
//! the ratio of what they take is good to half a percent in a few rounds. Both have the other's
//! lines in their caches, and turns of the half: the figures themselves are higher than alone.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;

use crate::result::RunResult;
use crate::suite::Findings;
use crate::summary::{a_request, median};
use crate::systems::System;

/// What one round of a pair took: CPU µs a frame or request of the first and of the other.
pub type Round = [f64; 2];

/// One system beside the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The other one.
    pub system: System,
    /// Its rounds.
    pub rounds: Vec<Round>,
}

impl Pair {
    /// The median of what the rounds have in `of`.
    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(of).collect()).unwrap_or(f64::NAN)
    }

    /// The rounds' own ratios to the first system: the median, the least and the most.
    pub fn ratio(&self) -> [f64; 3] {
        let ratio = |round: &Round| round[1] / round[0];
        // NaN gives way to any other.
        let end = |pick: fn(f64, f64) -> f64| self.rounds.iter().map(ratio).fold(f64::NAN, pick);
        [self.median(ratio), end(f64::min), end(f64::max)]
    }
}

/// CPU µs of what the scenario counts: requests where responses are short, else frames.
fn micros(run: &RunResult) -> Option<f64> {
    let short = run.scenario.starts_with("churn") || run.scenario.starts_with("handshake");
    if short { a_request(run) } else { run.cpu_per_frame() }
}

/// A table of the pairs.
pub fn text(first: System, what: &str, pairs: &[Pair]) -> String {
    let rounds = pairs.iter().map(|pair| pair.rounds.len()).max().unwrap_or_default();
    let mut out = format!("{what}, each beside {first} on one core, {rounds} rounds\n");
    out += &format!("{:16} {:>8} {first:>12} {:>7}   from, to\n", "", "CPU µs", "×");
    for pair in pairs {
        let [median, least, most] = pair.ratio();
        let [theirs, own] = [0, 1].map(|at| pair.median(|round| round[at]));
        let system = pair.system;
        out +=
            &format!("{system:16} {own:8.2} {theirs:12.2} {median:7.3}   {least:.3}, {most:.3}\n");
    }
    out
}

/// Runs each of `others` beside `first`, in turn. `arguments` are this program's for one run, without
/// who takes part and where it goes.
///
/// # Errors
/// A run did not come about.
pub fn run(
    arguments: &[OsString],
    (first, others): (System, &[System]),
    rounds: usize,
    bar: &ProgressBar,
) -> Result<Vec<Pair>> {
    let mut pairs: Vec<Pair> =
        others.iter().map(|&system| Pair { system, rounds: Vec::new() }).collect();
    bar.set_length((rounds * others.len()) as u64);
    let file = |which: &str| {
        std::env::temp_dir().join(format!("loadtest-{}-{which}.json", std::process::id()))
    };
    let files = [file("first"), file("other")];
    for round in 0..rounds {
        for pair in &mut pairs {
            bar.set_message(pair.system.to_string());
            let mut starts = [(first, &files[0]), (pair.system, &files[1])];
            // Neither always begins.
            if round % 2 == 1 {
                starts.reverse();
            }
            let children = starts.map(|(system, file)| start(arguments, system, file));
            for child in children {
                wait(child?)?;
            }
            pair.rounds.push([found(&files[0])?, found(&files[1])?]);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(pairs)
}

fn start(arguments: &[OsString], system: System, file: &Path) -> Result<Child> {
    let this = std::env::current_exe().context("this program's place")?;
    let mut command = Command::new(this);
    command.args(arguments).args(["--rounds", "1", "--system", &system.to_string()]);
    command.arg("--json").arg(file).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().with_context(|| format!("cannot start the load of {system}"))
}

fn wait(child: Child) -> Result<()> {
    let ended = child.wait_with_output()?;
    if !ended.status.success() {
        bail!("{}", String::from_utf8_lossy(&ended.stderr).trim());
    }
    Ok(())
}

fn found(file: &Path) -> Result<f64> {
    let findings = Findings::load(file)?;
    let _ = std::fs::remove_file(file);
    if let Some(failure) = findings.failures.first() {
        bail!("{failure}");
    }
    let run = findings.results.first().context("no run came about")?;
    if run.fault_count() > 0 {
        bail!("{} faults in what came through: {:?}", run.fault_count(), run.faults);
    }
    micros(run).context("nothing came through")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Cpu;

    #[test]
    fn ratios_are_the_rounds_own() {
        let rounds = vec![[10.0, 11.0], [20.0, 20.0], [8.0, 10.0]];
        let pair = Pair { system: System::Millstream, rounds };
        assert_eq!(pair.ratio(), [1.1, 1.0, 1.25]);
        let even = Pair { rounds: vec![[1.0, 1.0], [1.0, 2.0]], ..pair.clone() };
        assert_eq!(even.ratio(), [1.5, 1.0, 2.0]);
        let text = text(System::PumpUring, "steady", &[pair]);
        assert!(text.contains("each beside pump-uring on one core, 3 rounds"), "{text}");
        assert!(text.contains("11.00        10.00   1.100   1.000, 1.250"), "{text}");
        let none = Pair { system: System::Nginx, rounds: Vec::new() };
        assert!(none.ratio().iter().all(|ratio| ratio.is_nan()));
    }

    #[test]
    fn short_responses_are_counted_by_requests() {
        let cpu = Cpu { user: 1e6, system: 3e6 };
        let run = |scenario: &str| RunResult {
            scenario: scenario.into(),
            frames: 400,
            requests: 40,
            cpu,
            ..RunResult::default()
        };
        assert_eq!(micros(&run("steady 500×20/s")), Some(10.0));
        assert_eq!(micros(&run("churn-new 64")), Some(100.0));
        assert_eq!(micros(&RunResult::default()), None);
    }
}
