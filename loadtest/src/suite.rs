//! Several systems in one run: interleaved, repeated.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::ProgressStyle;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::result::RunResult;
use crate::run::{Spec, Stage};
use crate::scenario::{Numbers, Scenario};
use crate::systems::System;
use crate::tls::Tls;

/// All that was found, as it is kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Findings {
    /// Where.
    pub machine: Machine,
    /// Every run.
    pub results: Vec<RunResult>,
    /// Runs that did not come about.
    pub failures: Vec<String>,
}

/// Who takes part in a scenario, of the systems there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// All that relay as fast as the generator.
    All,
    /// The same without what shows nothing new there: no relay at all, the second I/O back ends.
    Relays,
    /// The relay, the proxies that come closest and the pump.
    Closest,
    /// The same and the relay as `loadtest/pgo` builds it.
    Judged,
    /// The same and Envoy.
    Proxies,
    /// Loads that a gateway in Python can carry: it, the relay and nginx.
    Light,
    /// The relay, passing on, telling tokens and telling OpenAI's chunks.
    Shaped,
    /// All but those two.
    Plain,
    /// The relay alone.
    Own,
    /// Whoever is asked for.
    Given,
}

impl Field {
    /// Whether `system` takes part.
    pub fn holds(self, system: System) -> bool {
        let second = matches!(system, System::Direct | System::PumpEpoll | System::MillstreamEpoll);
        // They show what one part of a relay costs.
        let experiment = matches!(system, System::PumpKeep | System::PumpMonoio);
        let closest = matches!(
            system,
            System::PumpUring | System::Millstream | System::Nginx | System::Haproxy
        );
        let plain = system != System::Litellm && !system.is_shaped();
        match self {
            Self::All => plain && !experiment,
            Self::Relays => plain && !experiment && !second,
            Self::Closest => closest,
            Self::Judged => closest || system == System::MillstreamPgo,
            Self::Proxies => closest || system == System::Envoy,
            Self::Light => {
                matches!(system, System::Millstream | System::Nginx | System::Litellm)
            }
            Self::Shaped => system == System::Millstream || system.is_shaped(),
            Self::Plain => !system.is_shaped(),
            Self::Own => system == System::Millstream,
            Self::Given => true,
        }
    }
}

/// How often a scenario is run through each system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounds {
    /// Those that figures are judged by: the relay in both builds, nginx, HAProxy and the io_uring
    /// pump.
    pub closest: usize,
    /// Any other that takes part, in the first of the rounds.
    pub others: usize,
}

impl Rounds {
    /// The same number for all.
    pub fn all(rounds: usize) -> Self {
        Self { closest: rounds, others: rounds }
    }

    fn of(self, system: System) -> usize {
        if Field::Judged.holds(system) { self.closest } else { self.others }
    }
}

/// A scenario, how often it is run, and through whom.
pub struct Item {
    /// The scenario.
    pub spec: Spec,
    /// Rounds.
    pub rounds: Rounds,
    /// Who takes part.
    pub field: Field,
}

fn item(scenario: Scenario, rounds: Rounds, field: Field, numbers: Numbers) -> Item {
    Item { spec: scenario.spec(&numbers), rounds, field }
}

impl Item {
    /// Who of `systems` takes part in `round`.
    fn present(&self, systems: &[System], round: usize) -> Vec<System> {
        let takes_part = |system: &System| {
            self.field.holds(*system) && self.spec.suits(*system) && round < self.rounds.of(*system)
        };
        systems.iter().copied().filter(takes_part).collect()
    }
}

/// The usual suite: about sixteen minutes, or less than two if `quick`.
pub fn usual(quick: bool, rounds: Option<usize>) -> Vec<Item> {
    let n = |usual| Rounds::all(rounds.unwrap_or(usual));
    // What is judged by its medians has at least five rounds; the rest is there to compare with.
    let judged = |others| rounds.map_or(Rounds { closest: 5, others }, Rounds::all);
    let once = |closest| rounds.map_or(Rounds { closest, others: 1 }, Rounds::all);
    let none = Numbers::default;
    let brief = |seconds| Numbers { seconds: Some(seconds), ..Numbers::default() };
    let with = |streams, seconds| Numbers { streams: Some(streams), ..brief(seconds) };
    let https = |tls, numbers| Numbers { tls: Some(tls), ..numbers };
    if quick {
        return vec![
            item(Scenario::Steady, n(1), Field::All, brief(1.5)),
            item(Scenario::Burst, n(1), Field::Relays, none()),
            item(Scenario::Churn, n(1), Field::Relays, brief(1.0)),
            item(Scenario::ChurnNew, n(1), Field::Relays, brief(1.0)),
            item(Scenario::Idle, n(1), Field::Closest, with(2000, 0.2)),
            item(Scenario::Disconnect, n(1), Field::Closest, with(200, 1.5)),
            item(Scenario::Steady, n(1), Field::Closest, https(Tls::Upstream, brief(1.0))),
            item(Scenario::Handshake, n(1), Field::Closest, brief(0.7)),
            item(Scenario::Resume, n(1), Field::Own, with(100, 4.0)),
        ];
    }
    let many = Numbers { rate: Some(4.0), ..with(5000, 1.5) };
    // TLS is the load's to open as well, a core for both ends.
    let few_frames = || Numbers { frames: Some(5000), ..Numbers::default() };
    let few = Numbers { rate: Some(10.0), ..with(20, 3.0) };
    vec![
        item(Scenario::Steady, judged(1), Field::All, brief(2.0)),
        item(Scenario::Steady, judged(0), Field::Judged, many),
        item(Scenario::Shaped, n(3), Field::Shaped, brief(2.0)),
        item(Scenario::Workers, n(2), Field::Closest, brief(1.0)),
        item(Scenario::Saturation, judged(1), Field::Proxies, brief(1.0)),
        item(Scenario::Burst, judged(1), Field::Relays, none()),
        item(Scenario::Churn, judged(1), Field::Relays, brief(1.5)),
        item(Scenario::ChurnNew, judged(1), Field::Relays, brief(1.0)),
        item(Scenario::Idle, n(1), Field::Relays, brief(0.5)),
        item(Scenario::Slow, n(1), Field::Closest, brief(2.0)),
        item(Scenario::Disconnect, n(1), Field::Relays, brief(2.0)),
        item(Scenario::DisconnectSilent, n(1), Field::Relays, brief(2.0)),
        item(Scenario::Mixed, n(1), Field::Proxies, brief(2.0)),
        item(Scenario::RetryStorm, n(1), Field::Proxies, brief(1.5)),
        item(Scenario::Overload, n(1), Field::Closest, brief(1.5)),
        item(Scenario::Soak, n(1), Field::Closest, with(500, 6.0)),
        item(Scenario::Steady, once(3), Field::Proxies, https(Tls::Upstream, brief(1.5))),
        item(Scenario::Steady, once(2), Field::Proxies, https(Tls::Both, brief(1.5))),
        item(Scenario::Burst, once(3), Field::Proxies, https(Tls::Upstream, few_frames())),
        item(Scenario::Churn, n(1), Field::Proxies, https(Tls::Both, brief(1.0))),
        item(Scenario::Handshake, once(2), Field::Proxies, brief(1.0)),
        item(Scenario::Idle, n(1), Field::Proxies, https(Tls::Upstream, with(4000, 0.3))),
        item(Scenario::Idle, n(1), Field::Proxies, https(Tls::Both, with(4000, 0.3))),
        item(Scenario::ResumeCost, judged(0), Field::Own, brief(2.0)),
        item(Scenario::Resume, n(1), Field::Own, with(400, 8.0)),
        item(Scenario::Steady, n(1), Field::Light, few),
        item(Scenario::Idle, n(1), Field::Light, with(100, 0.5)),
    ]
}

/// How the progress of many runs is shown.
pub fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{elapsed} {msg} [{bar:30}] {pos}/{len}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Findings {
    /// Runs every item, round by round, through every system in turn; the order turns with the
    /// round, so that nobody is always first. Ctrl-C ends it early with what there is.
    pub fn gather(stage: &Stage<'_>, systems: &[System], items: &[Item]) -> Self {
        let mut machine = Machine::describe(stage.bench, systems);
        machine.https = items.iter().any(|item| item.spec.tls != Tls::Off);
        let present: Vec<System> =
            systems.iter().copied().filter(|system| !machine.missing.contains(system)).collect();
        let mut findings = Self { machine, ..Self::default() };
        stage.bar.set_style(bar_style());
        stage.bar.enable_steady_tick(Duration::from_millis(500));
        for item in items {
            let rounds = item.rounds.closest.max(item.rounds.others);
            for round in 0..rounds {
                let present = item.present(&present, round);
                for turn in 0..present.len() {
                    let system = present[(turn + round) % present.len()];
                    if stage.interrupted.load(Relaxed) {
                        stage.bar.finish_and_clear();
                        return findings;
                    }
                    let of = format!("{}/{rounds}", round + 1);
                    stage.bar.set_message(format!("{}, {system}, round {of}", item.spec.label));
                    if turn == 0 && stage.bar.is_hidden() {
                        eprintln!("{}, round {of}", item.spec.label);
                    }
                    match stage.run(system, &item.spec, round) {
                        Ok(result) => findings.results.push(result),
                        Err(error) => {
                            let what = format!("{}: {system}: {error:#}", item.spec.label);
                            stage.bar.println(&what);
                            findings.failures.push(what);
                        }
                    }
                }
            }
        }
        stage.bar.finish_and_clear();
        findings
    }

    /// Writes the findings as JSON, a line for each run.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut text = format!("{{\n\"machine\": {}", serde_json::to_string(&self.machine)?);
        text += &format!(",\n\"failures\": {}", serde_json::to_string(&self.failures)?);
        let lines: Result<Vec<String>, _> =
            self.results.iter().map(serde_json::to_string).collect();
        text += &format!(",\n\"results\": [\n{}\n]}}\n", lines?.join(",\n"));
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads them back.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path);
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not ours", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::Latency;

    #[test]
    fn findings_come_back_as_they_were_kept() {
        let latency =
            Latency { p50: 0.123_456_789, curve: vec![(50.0, 2.0)], ..Latency::default() };
        let run = RunResult {
            scenario: "steady".into(),
            system: Some(System::Nginx),
            frames: 7,
            latency: Some(latency),
            ..RunResult::default()
        };
        let failures = vec!["a \"word\"".to_owned()];
        let kept = Findings { results: vec![run.clone(), run], failures, ..Findings::default() };
        let path = std::env::temp_dir().join(format!("findings-{}.json", std::process::id()));
        kept.save(&path).expect("written");
        let back = Findings::load(&path);
        fs::remove_file(&path).expect("there");
        let back = back.expect("read");
        assert_eq!(back.failures, kept.failures);
        assert_eq!((back.results.len(), back.results[1].frames), (2, 7));
        assert_eq!(back.results[0].system, Some(System::Nginx));
        let latency = back.results[0].latency.as_ref().expect("there");
        assert!((latency.p50 - 0.12346).abs() < 1e-9 && latency.curve == [(50.0, 2.0)]);
    }

    #[test]
    fn slow_gateways_get_light_loads_only() {
        for item in usual(false, None).iter().chain(&usual(true, None)) {
            let streams: usize = item.spec.groups.iter().map(|group| group.connections).sum();
            assert!(!item.field.holds(System::Litellm) || streams <= 100, "{}", item.spec.label);
            let mine = item.field.holds(System::Millstream);
            assert!(mine && item.rounds.closest > 0, "{}", item.spec.label);
        }
    }

    #[test]
    fn who_is_judged_runs_in_five_rounds_and_the_others_in_the_first_of_them() {
        use System::{Caddy, Envoy, Haproxy, Millstream, Nginx, PumpUring};
        let judged = ["steady 1000×20", "steady 5000×4", "burst 64", "churn 64", "churn-new 64"];
        for label in judged.into_iter().chain(["saturation 1000"]) {
            let items = usual(false, None);
            let item = items.iter().find(|item| item.spec.label.starts_with(label));
            let item = item.expect(label);
            let all = [Millstream, Envoy, Nginx, Caddy, Haproxy, PumpUring];
            let in_round = |round| item.present(&all, round).len();
            assert_eq!((in_round(4), in_round(5)), (4, 0), "{label}");
            assert!(in_round(0) >= 4, "{label}");
            // The second build of the relay too, where rounds are judged by CPU.
            let second = item.present(&[System::MillstreamPgo], 4).len();
            assert_eq!(second == 1, !label.starts_with("saturation"), "{label}");
        }
        let items = usual(false, Some(3));
        assert!(items.iter().all(|item| item.rounds == Rounds::all(3)));
    }
}
