//! The results as text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::machine::Machine;
use crate::result::RunResult;
use crate::summary::{BASES, Metric, TRUST, by_system, metrics, scenarios, shaping_costs};
use crate::systems::System;
use crate::verdict::checks;

/// A table's cells, its head first.
pub type Cells = Vec<Vec<String>>;

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".into(), |value| format!("{value:.digits$}"))
}

/// The cells of one scenario.
pub fn cells(results: &[RunResult], scenario: &str) -> Cells {
    let rows = by_system(results, scenario);
    let columns = metrics(scenario);
    let bases: Vec<_> =
        BASES.iter().filter_map(|base| rows.iter().find(|row| row.0 == *base)).collect();
    let mut head = vec!["system".to_owned(), "rounds".to_owned()];
    for column in &columns {
        head.push(column.title.to_owned());
        if column.headline {
            head.extend(bases.iter().map(|base| format!("×{}", base.0)));
        }
    }
    head.extend(TRUST.iter().map(|metric| metric.title.to_owned()));
    head.push("faults".into());
    let mut cells = vec![head];
    for (system, runs) in &rows {
        let mut line = vec![system.to_string(), runs.len().to_string()];
        let value = |metric: &Metric| number(metric.median(runs), metric.digits);
        for column in &columns {
            line.push(value(column));
            if column.headline {
                line.extend(bases.iter().map(|base| number(column.ratio(runs, &base.1), 2)));
            }
        }
        line.extend(TRUST.iter().map(value));
        line.push(runs.iter().map(|run| run.fault_count()).sum::<u64>().to_string());
        cells.push(line);
    }
    cells
}

/// What a reader of a scenario's figures should know.
pub fn remarks(results: &[RunResult], scenario: &str) -> Vec<String> {
    let costs = shaping_costs(results, scenario).into_iter().map(|(system, micros)| {
        format!("{system}: {micros:+.2} µs of user CPU a frame over millstream")
    });
    let mut seen: BTreeSet<String> = costs.collect();
    let mut notes: BTreeMap<&str, BTreeSet<System>> = BTreeMap::new();
    for (system, runs) in by_system(results, scenario) {
        for run in runs {
            for note in &run.notes {
                notes.entry(note).or_default().insert(system);
            }
            let before = run.base.iter().flat_map(|base| &base.faults);
            for (fault, count) in run.faults.iter().chain(before) {
                seen.insert(format!("{system}: round {}: {fault} × {count}", run.round));
            }
            let others: Vec<String> = (run.statuses.iter())
                .filter(|(status, _)| **status != 200 && **status != 204)
                .map(|(status, count)| format!("{status} × {count}"))
                .collect();
            if !others.is_empty() {
                seen.insert(format!("{system}: round {}: {}", run.round, others.join(", ")));
            }
        }
    }
    let names = |systems: &BTreeSet<System>| {
        systems.iter().map(System::to_string).collect::<Vec<_>>().join(", ")
    };
    let notes = notes.iter().map(|(note, systems)| format!("{note}: {}", names(systems)));
    notes.chain(seen).collect()
}

/// Everything as text.
pub fn text(machine: &Machine, results: &[RunResult]) -> String {
    let mut out = machine.lines().join("\n") + "\n";
    for scenario in scenarios(results) {
        let _ = writeln!(out, "\n{scenario}");
        let cells = cells(results, scenario);
        let count = cells.first().map_or(0, Vec::len);
        let width =
            |at: usize| cells.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..count).map(width).collect();
        for line in &cells {
            let mut padded = line.iter().zip(&widths).enumerate().map(|(at, (cell, width))| {
                let fill = " ".repeat(width - cell.chars().count());
                if at == 0 { format!("{cell}{fill}") } else { format!("{fill}{cell}") }
            });
            let first = padded.next().unwrap_or_default();
            let _ = writeln!(out, "  {first}  {}", padded.collect::<Vec<_>>().join("  "));
        }
        for remark in remarks(results, scenario) {
            let _ = writeln!(out, "  ! {remark}");
        }
        for check in checks(results, scenario) {
            let _ = writeln!(out, "  {check}");
        }
    }
    let took: f64 = results.iter().map(|run| run.took_seconds).sum();
    if took > 0.0 {
        let _ = writeln!(out, "\nRuns: {}, in {:.1} minutes", results.len(), took / 60.0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Cpu;

    fn run(system: System, round: usize, cpu: f64) -> RunResult {
        RunResult {
            scenario: "churn 4".into(),
            system: Some(system),
            round,
            seconds: 2.0,
            frames: 10,
            requests: 100,
            cpu: Cpu { user: cpu / 2.0, system: cpu / 2.0 },
            notes: vec!["a note".into()],
            ..RunResult::default()
        }
    }

    #[test]
    fn the_table_has_ratios_to_who_is_there_and_says_what_was_odd() {
        let mut odd = run(System::Millstream, 0, 6e6);
        odd.faults.insert("bytes differ".into(), 3);
        odd.statuses.insert(503, 4);
        let results = vec![odd, run(System::Nginx, 0, 3e6)];
        let cells = cells(&results, "churn 4");
        assert_eq!(cells.len(), 3);
        assert!(cells.iter().all(|line| line.len() == cells[0].len()));
        let column = |title: &str| cells[0].iter().position(|cell| cell == title);
        assert_eq!(column("×haproxy"), None);
        let cost = column("CPU µs/request").expect("there");
        assert_eq!((cells[1][0].as_str(), cells[1][cost].as_str()), ("millstream", "60.0"));
        assert_eq!((cells[0][cost + 1].as_str(), cells[1][cost + 1].as_str()), ("×nginx", "2.00"));
        assert_eq!(cells[1].last().map(String::as_str), Some("3"));
        let remarks = remarks(&results, "churn 4");
        assert_eq!(
            remarks,
            [
                "a note: millstream, nginx",
                "millstream: round 0: 503 × 4",
                "millstream: round 0: bytes differ × 3"
            ]
        );
        let text = text(&Machine::default(), &results);
        let widths: BTreeSet<usize> = text
            .lines()
            .filter(|line| line.starts_with("  ") && !line.starts_with("  !"))
            .map(|line| line.chars().count())
            .collect();
        assert_eq!(widths.len(), 1, "lines of one table are of one width");
    }
}
