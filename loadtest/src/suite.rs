//! Several systems in one run: interleaved, repeated.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::ProgressStyle;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::run::{RunResult, Spec, Stage};
use crate::scenario::{Numbers, Scenario};
use crate::systems::System;

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

/// A scenario and how often it is run through each system.
pub struct Item {
    /// The scenario.
    pub spec: Spec,
    /// Rounds.
    pub rounds: usize,
}

fn item(scenario: Scenario, rounds: usize, numbers: Numbers) -> Item {
    Item { spec: scenario.spec(&numbers), rounds }
}

/// The usual suite: about ten minutes, or less than two if `quick`.
pub fn usual(quick: bool, rounds: Option<usize>) -> Vec<Item> {
    let none = Numbers::default;
    let n = |usual| rounds.unwrap_or(usual);
    let many = |seconds| Numbers {
        streams: Some(5000),
        rate: Some(4.0),
        seconds: Some(seconds),
        ..Numbers::default()
    };
    let brief = |seconds| Numbers { seconds: Some(seconds), ..Numbers::default() };
    if quick {
        let idle = Numbers { streams: Some(2000), seconds: Some(0.2), ..Numbers::default() };
        return vec![
            item(Scenario::Steady, n(1), brief(2.0)),
            item(Scenario::Burst, n(1), none()),
            item(Scenario::Churn, n(1), brief(1.0)),
            item(Scenario::ChurnNew, n(1), brief(1.0)),
            item(Scenario::Idle, n(1), idle),
            item(Scenario::Disconnect, n(1), brief(2.0)),
        ];
    }
    vec![
        item(Scenario::Steady, n(3), brief(3.0)),
        item(Scenario::Steady, n(3), many(3.0)),
        item(Scenario::Burst, n(3), none()),
        item(Scenario::Churn, n(3), brief(2.0)),
        item(Scenario::ChurnNew, n(3), brief(2.0)),
        item(Scenario::Idle, n(1), none()),
        item(Scenario::Slow, n(1), none()),
        item(Scenario::Disconnect, n(1), brief(2.0)),
        item(Scenario::DisconnectSilent, n(1), brief(2.0)),
        item(Scenario::Mixed, n(1), brief(3.0)),
        item(Scenario::Overload, n(1), brief(2.0)),
    ]
}

impl Findings {
    /// Runs every item, round by round, through every system in turn; the order turns with the
    /// round, so that nobody is always first. Ctrl-C ends it early with what there is.
    pub fn gather(stage: &Stage<'_>, systems: &[System], items: &[Item]) -> Self {
        let machine = Machine::describe(stage.bench, systems);
        let present: Vec<System> =
            systems.iter().copied().filter(|system| !machine.missing.contains(system)).collect();
        let mut findings = Self { machine, ..Self::default() };
        if let Ok(style) = ProgressStyle::with_template("{elapsed} {msg} [{bar:30}] {pos}/{len}") {
            stage.bar.set_style(style);
        }
        stage.bar.enable_steady_tick(Duration::from_millis(500));
        for item in items {
            for round in 0..item.rounds {
                for turn in 0..present.len() {
                    let system = present[(turn + round) % present.len()];
                    if stage.interrupted.load(Relaxed) {
                        stage.bar.finish_and_clear();
                        return findings;
                    }
                    let of = format!("{}/{}", round + 1, item.rounds);
                    stage.bar.set_message(format!("{}, {system}, round {of}", item.spec.label));
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

    /// Writes the findings as JSON.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads them back.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path);
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not ours", path.display()))
    }
}
