//! The results as text.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::machine::Machine;
use crate::result::RunResult;
use crate::summary::{BASES, Metric, TRUST, by_system, metrics, scenarios};

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
    let mut head = vec!["system".to_owned(), "n".to_owned()];
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
        let value = |metric: &Metric| number(metric.median(runs.iter().copied()), metric.digits);
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
    let mut seen = BTreeSet::new();
    for (system, runs) in by_system(results, scenario) {
        for run in runs {
            seen.extend(run.notes.iter().map(|note| format!("{system}: {note}")));
            for (fault, count) in &run.faults {
                seen.insert(format!("{system}: round {}: {fault} × {count}", run.round));
            }
            let others: Vec<String> = (run.statuses.iter())
                .filter(|(status, _)| **status != 200)
                .map(|(status, count)| format!("{status} × {count}"))
                .collect();
            if !others.is_empty() {
                seen.insert(format!("{system}: round {}: {}", run.round, others.join(", ")));
            }
        }
    }
    seen.into_iter().collect()
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
    }
    out
}
