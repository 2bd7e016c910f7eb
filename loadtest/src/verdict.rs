//! What the figures are held to, where a scenario is passed or failed.

use std::fmt;

use crate::frame::Fault;
use crate::result::RunResult;
use crate::summary::{by_system, extra_requests, resume_user, scenarios};
use crate::systems::System;

/// User CPU that resuming may cost a frame while nobody resumes, in microseconds.
const COST_MAX: f64 = 1.0;
/// Bytes that the process may hold more than before once all that was kept has expired: a MiB, and
/// what 5000 idle streams leave behind that were never kept (`idle`: from 4.6 to 5.7 MiB).
const LEFT_MAX: f64 = 2.1 * 1048576.0;

/// One figure and whether it is what it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Whose.
    pub system: System,
    /// What it is about.
    pub name: String,
    /// The figure, and what it should be.
    pub found: String,
    /// Whether it passed.
    pub passed: bool,
}

impl fmt::Display for Check {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.passed { "passed" } else { "FAILED" };
        write!(out, "{word}: {}: {}: {}", self.system, self.name, self.found)
    }
}

/// Gathers the checks of one system.
struct Sheet {
    system: System,
    of: String,
    checks: Vec<Check>,
}

impl Sheet {
    fn check(&mut self, name: &str, found: String, passed: bool) {
        let name = format!("{}{name}", self.of);
        self.checks.push(Check { system: self.system, name, found, passed });
    }

    fn all(&mut self, name: &str, count: f64, of: f64) {
        self.check(name, format!("{count:.0} of {of:.0}"), (count - of).abs() < 0.5 && of > 0.0);
    }

    fn none(&mut self, name: &str, count: f64) {
        self.check(name, format!("{count:.0}"), count.abs() < 0.5);
    }

    fn resume(&mut self, run: &RunResult) {
        let faults = |fault| run.faults_of(fault) as f64;
        self.all("streams byte for byte to their end", run.requests as f64, run.connections as f64);
        let gaps = faults(Fault::Gap) + run.counted("resume_gaps").unwrap_or(0.0);
        self.none("gaps", gaps);
        self.none("frames doubled", faults(Fault::Duplicate));
        let others = run.fault_count() as f64 - faults(Fault::Gap) - faults(Fault::Duplicate);
        self.none("other faults", others);
        if let Some(extra) = extra_requests(run) {
            self.none("extra upstream requests", extra);
        }
        let Some(seen) = &run.resumption else { return };
        self.all("told that the stream is over", seen.over as f64, run.connections as f64);
        self.none("connections cut by the system", seen.unasked as f64);
        let (cuts, back) = (seen.cuts, seen.resumed + seen.over);
        let some = back > 0 && seen.within_frame > 0 && seen.resets > 0;
        let found = format!(
            "{cuts} ({} within a frame, {} resets), {back} answers on coming back",
            seen.within_frame, seen.resets
        );
        self.check("cuts, some of every kind", found, some);
        if let (Some(handed), true) = (run.counted("resume_handovers"), run.workers > 1) {
            self.check("came back on another worker, some", format!("{handed:.0}"), handed > 0.5);
        }
    }

    fn cost(&mut self, runs: &[&RunResult]) {
        let Some([with, without]) = resume_user(runs) else {
            return self.check("user CPU with --resume", "not measured".into(), false);
        };
        let found = format!(
            "{:+.2} µs a frame ({without:.2} without, {with:.2} with), {COST_MAX} at most",
            with - without
        );
        self.check("user CPU of --resume, nobody resuming", found, with - without <= COST_MAX);
    }

    fn detached(&mut self, run: &RunResult) {
        let left = run.left_all as f64;
        if let Some(extra) = extra_requests(run) {
            self.none("extra upstream requests", extra);
        }
        self.all("endless streams cancelled upstream", run.left_seen as f64, run.left as f64);
        if let Some(kept) = run.gauged("kept_streams", 1) {
            // And those of the exchanges before it, if they have not expired.
            let all = (left..left + 5.0).contains(&kept);
            self.check("kept at once", format!("{kept:.0}, {left:.0} at least"), all);
        }
        for (name, what) in [("kept_streams", "streams"), ("kept_bytes", "bytes")] {
            if let Some(kept) = run.gauged(name, 2) {
                self.none(&format!("{what} kept after all have expired"), kept);
            }
        }
        if let Some(listed) = run.listed {
            self.none("streams listed after", listed as f64);
        }
        let [before, _, after] = run.memory[..] else {
            return self.check("memory", "not measured".into(), false);
        };
        let open = after.descriptors as f64 - before.descriptors as f64;
        self.check("descriptors more than before", format!("{open:.0}"), open < 0.5);
        let (more, mib) = (after.pss - before.pss, 1048576.0);
        let found = format!("{:+.2} MiB, {:.1} at most", more / mib, LEFT_MAX / mib);
        self.check("memory more than before", found, more <= LEFT_MAX);
    }
}

/// The checks of the scenario with this label; none where its figures are only told.
pub fn checks(results: &[RunResult], scenario: &str) -> Vec<Check> {
    let kind = scenario.split(' ').next().unwrap_or_default();
    let mut checks = Vec::new();
    for (system, runs) in by_system(results, scenario) {
        let mut sheet = Sheet { system, of: String::new(), checks: Vec::new() };
        if kind == "resume-cost" {
            sheet.cost(&runs);
        }
        for run in &runs {
            if runs.len() > 1 {
                sheet.of = format!("round {}: ", run.round);
            }
            match kind {
                "resume" => sheet.resume(run),
                "detached" => sheet.detached(run),
                _ => {}
            }
        }
        checks.extend(sheet.checks);
    }
    checks
}

/// All checks that failed.
pub fn failed(results: &[RunResult]) -> Vec<Check> {
    let all = scenarios(results).into_iter().flat_map(|scenario| checks(results, scenario));
    all.filter(|check| !check.passed).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::result::{Memory, Resumption};
    use crate::sample::Cpu;

    fn named(checks: &[Check], name: &str) -> bool {
        let found = checks.iter().find(|check| check.name.contains(name));
        found.unwrap_or_else(|| panic!("no {name}: {checks:?}")).passed
    }

    fn run(scenario: &str) -> RunResult {
        RunResult {
            scenario: scenario.into(),
            system: Some(System::Millstream),
            connections: 10,
            requests: 10,
            upstream_all: 10,
            workers: 2,
            ..RunResult::default()
        }
    }

    fn resumed() -> RunResult {
        let seen = Resumption {
            cuts: 50,
            within_frame: 20,
            resets: 9,
            resumed: 49,
            over: 10,
            ..Resumption::default()
        };
        let metrics = |handed| BTreeMap::from([("resume_handovers".to_owned(), handed)]);
        RunResult {
            resumption: Some(seen),
            resume_metrics: vec![metrics(1.0), metrics(26.0), metrics(26.0)],
            ..run("resume 10")
        }
    }

    #[test]
    fn a_resume_passes_only_if_nothing_is_lost_doubled_or_asked_for_again() {
        assert_eq!(failed(&[resumed()]), []);
        let short = RunResult { requests: 9, ..resumed() };
        assert!(!named(&checks(&[short], "resume 10"), "to their end"));
        let again = RunResult { upstream_all: 11, ..resumed() };
        assert_eq!(failed(std::slice::from_ref(&again)).len(), 1);
        // With nothing in between, who comes back does so at the upstream.
        assert_eq!(failed(&[RunResult { system: Some(System::Direct), ..again }]), []);
        for (fault, name) in
            [(Fault::Gap, "gaps"), (Fault::Duplicate, "doubled"), (Fault::Bytes, "other")]
        {
            let mut bad = resumed();
            bad.faults.insert(fault.to_string(), 1);
            assert!(!named(&checks(&[bad], "resume 10"), name));
        }
        let mut uncut = resumed();
        uncut.resumption = Some(Resumption::default());
        assert_eq!(failed(&[uncut]).len(), 2);
    }

    #[test]
    fn the_cost_is_that_of_all_rounds() {
        let half = |user| RunResult {
            frames: 1000,
            cpu: Cpu { user, system: 10e6 - user },
            ..RunResult::default()
        };
        let round = |round, without, with| RunResult {
            round,
            base: Some(Box::new(half(without))),
            frames: 1000,
            cpu: half(with).cpu,
            ..run("resume-cost 1")
        };
        let cheap = [round(0, 1e6, 2.5e6), round(1, 1e6, 1.4e6)];
        assert_eq!(failed(&cheap), []);
        assert_eq!(checks(&cheap, "resume-cost 1").len(), 1);
        assert_eq!(failed(&[round(0, 1e6, 2.5e6), round(1, 1e6, 1.6e6)]).len(), 1);
    }

    #[test]
    fn what_was_kept_has_to_go() {
        let memory =
            |mib: f64| Memory { pss: mib * 1048576.0, descriptors: 9, ..Memory::default() };
        let metrics = |kept| BTreeMap::from([("kept_streams".to_owned(), kept)]);
        let good = RunResult {
            left_all: 10,
            left: 5,
            left_seen: 5,
            memory: vec![memory(4.6), memory(30.0), memory(6.0)],
            resume_metrics: vec![metrics(0.0), metrics(10.0), metrics(0.0)],
            ..run("detached 10")
        };
        assert_eq!(failed(std::slice::from_ref(&good)), []);
        let mut fat = good.clone();
        fat.memory[2].pss *= 1.2;
        assert!(!named(&failed(&[fat]), "memory"));
        let mut kept = good.clone();
        kept.resume_metrics[2] = metrics(1.0);
        assert!(!named(&failed(&[kept]), "expired"));
        let mut less = good;
        less.left_seen = 4;
        assert!(!named(&failed(&[less]), "cancelled"));
    }
}
