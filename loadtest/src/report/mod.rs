//! The report: one HTML file that needs nothing else.

mod chart;

use std::fmt::Write;

use chart::{Bars, Curve, distribution, escape, grouped};

use crate::result::{Latency, RunResult};
use crate::suite::Findings;
use crate::summary::{by_system, median, metrics, scenarios, user_share};
use crate::systems::System;
use crate::table::{cells, remarks};
use crate::verdict::checks;

const STYLE: &str = include_str!("style.css");

type Rows<'a> = Vec<(System, Vec<&'a RunResult>)>;

fn kind(scenario: &str) -> &str {
    scenario.split(' ').next().unwrap_or_default()
}

/// The median over rounds of what `value` gives.
fn middle(runs: &[&RunResult], value: impl Fn(&RunResult) -> Option<f64>) -> Option<f64> {
    median(runs.iter().filter_map(|run| value(run)).collect())
}

/// CPU a unit in microseconds, split into user and system by what all rounds took together: one
/// round has too few of the kernel's ticks.
fn cpu_parts(runs: &[&RunResult], units: impl Fn(&RunResult) -> u64) -> Option<[f64; 2]> {
    let each = |run: &RunResult| {
        let (units, cpu) = (units(run), run.cpu.total());
        (units > 0 && cpu > 0.0).then(|| cpu / units as f64 / 1e3)
    };
    let total = middle(runs, each)?;
    let user = user_share(runs);
    Some([total * user, total * (1.0 - user)])
}

/// A curve of medians over rounds, quantile by quantile.
fn curve(runs: &[&RunResult], latency: impl Fn(&RunResult) -> Option<&Latency>) -> Curve {
    let curves: Vec<_> = runs.iter().filter_map(|run| latency(run)).collect();
    let Some(first) = curves.first() else { return Curve::new() };
    let point = |(at, (q, _)): (usize, &(f64, f64))| {
        let times = curves.iter().filter_map(|other| other.curve.get(at).map(|point| point.1));
        Some((*q, median(times.collect())?))
    };
    first.curve.iter().enumerate().filter_map(point).collect()
}

fn card(title: &str, about: &str, chart: &str) -> String {
    format!(
        r#"<figure class="card" style="margin:0"><h3>{title}</h3><p>{about}</p>{chart}</figure>"#
    )
}

fn bars<'a>(
    rows: &Rows<'a>,
    parts: [&'a str; 2],
    digits: usize,
    value: impl Fn(&[&RunResult]) -> Option<[f64; 2]>,
) -> String {
    let pump = rows.iter().find(|row| row.0 == System::PumpUring);
    // As in the table: the median of the ratios within a round.
    let ratio = |runs: &[&RunResult]| {
        let sum = |run: &RunResult| value(&[run]).map(|parts| parts[0] + parts[1]);
        let within = |run: &&RunResult| {
            let other = pump?.1.iter().find(|other| other.round == run.round)?;
            let (mine, other) = (sum(run)?, sum(other)?);
            (other > 0.0).then_some(mine / other)
        };
        let times = median(runs.iter().filter_map(within).collect());
        let near = times.filter(|times| (0.0..50.0).contains(times));
        near.map_or_else(String::new, |times| format!("×{times:.2}"))
    };
    let row =
        |(system, runs): &(System, Vec<&RunResult>)| Some((*system, value(runs)?, ratio(runs)));
    let rows = rows.iter().filter_map(row).collect();
    Bars { parts, digits, rows }.svg()
}

const SPLIT: [&str; 2] = ["user", "system"];

fn one(value: Option<f64>) -> Option<[f64; 2]> {
    value.map(|value| [value, 0.0])
}

/// What a stream costs in the process and in the kernel.
fn memory_charts(slow: bool, rows: &Rows<'_>) -> Vec<String> {
    let chart = |value: fn(&RunResult) -> Option<f64>| {
        let kib = |run: &RunResult| value(run).map(|bytes| bytes / 1024.0);
        bars(rows, ["", ""], 1, |runs| one(middle(runs, kib)))
    };
    let what = if slow { "slow reader" } else { "silent stream" };
    let pss = card(
        &format!("Memory of a {what}: the process, KiB"),
        "Growth of PSS; less is better.",
        &chart(RunResult::pss_each),
    );
    let both = "Of the whole machine: the sockets of client and origin, too.";
    let kernel = match slow {
        true => card("TCP buffers in the kernel for it, KiB", both, &chart(RunResult::tcp_each)),
        false => card(
            "Sockets and files in the kernel for it, KiB",
            both,
            &chart(RunResult::sockets_each),
        ),
    };
    vec![pss, kernel]
}

fn handshakes(run: &RunResult) -> u64 {
    run.handshake.as_ref().map_or(0, |latency| latency.count)
}

fn handshake_chart(rows: &Rows<'_>) -> String {
    let chart = bars(rows, SPLIT, 1, |runs| cpu_parts(runs, handshakes));
    card("CPU per handshake, µs", "Less is better; a response of one frame is in it.", &chart)
}

fn level_chart(rows: &Rows<'_>) -> String {
    let times = |run: &RunResult| Some(run.cpu_per_frame()? / run.base.as_ref()?.cpu_per_frame()?);
    card(
        "CPU per frame with several workers, as a multiple of one worker's",
        "1 is level: none of it goes to what workers share.",
        &bars(rows, ["", ""], 2, |runs| one(middle(runs, times))),
    )
}

fn resume_cost_charts(rows: &Rows<'_>) -> Vec<String> {
    let about = "CPU per frame, µs; nobody resumes.";
    let without = bars(rows, SPLIT, 2, |runs| {
        let base: Vec<_> = runs.iter().filter_map(|run| run.base.as_deref()).collect();
        cpu_parts(&base, |run| run.frames)
    });
    let with = bars(rows, SPLIT, 2, |runs| cpu_parts(runs, |run| run.frames));
    vec![card("Without --resume", about, &without), card("With --resume", about, &with)]
}

/// The charts of one scenario.
fn charts(scenario: &str, rows: &Rows<'_>) -> Vec<String> {
    let curves = |latency: fn(&RunResult) -> Option<&Latency>| {
        let curves: Vec<_> = (rows.iter())
            .map(|(system, runs)| (*system, curve(runs, latency)))
            .filter(|curve| !curve.1.is_empty())
            .collect();
        let of = match kind(scenario) {
            "disconnect" | "disconnect-silent" => "across: time; up: per cent of those who left",
            "resume" => "across: request to first byte; up: per cent of those who came back",
            _ => "across: scheduled send to receive; up: per cent of frames",
        };
        distribution(&curves, of)
    };
    let latency = |title| card(title, "Left is better.", &curves(|run| run.latency.as_ref()));
    let frame_cpu = |digits| {
        let chart = bars(rows, SPLIT, digits, |runs| cpu_parts(runs, |run| run.frames));
        card("CPU per frame, µs", "Less is better; × is to the io_uring pump.", &chart)
    };
    let request_cpu = || {
        let requests = |run: &RunResult| run.requests + run.refused;
        let chart = bars(rows, SPLIT, 1, |runs| cpu_parts(runs, requests));
        card("CPU per request, µs", "Less is better; × is to the io_uring pump.", &chart)
    };
    let throughput = |title, digits, value: fn(&RunResult) -> f64| {
        let chart = bars(rows, ["", ""], digits, |runs| one(middle(runs, |run| Some(value(run)))));
        card(title, "More is better, up to what the generator can take (see the table).", &chart)
    };
    match kind(scenario) {
        "steady" => vec![frame_cpu(2), latency("Latency of frames")],
        "workers" => vec![level_chart(rows), latency("Latency of frames, several workers")],
        "saturation" => vec![
            throughput("Thousand frames a second, each by itself", 1, |run| {
                run.base.as_ref().map_or(0.0, |most| most.frame_rate() / 1e3)
            }),
            latency("Latency of frames at the rate after it"),
        ],
        "handshake" => vec![
            throughput("Handshakes a second a core", 0, |run| {
                handshakes(run) as f64 * 1e9 / run.cpu.total().max(1.0)
            }),
            handshake_chart(rows),
        ],
        "mixed" => vec![frame_cpu(3), latency("Latency of the steady streams' frames")],
        "burst" => vec![
            throughput("Million frames a second", 2, |run| run.frame_rate() / 1e6),
            frame_cpu(3),
        ],
        "churn" | "churn-new" => {
            vec![throughput("Requests a second", 0, RunResult::request_rate), request_cpu()]
        }
        "idle" | "slow" => memory_charts(kind(scenario) == "slow", rows),
        "disconnect" | "disconnect-silent" => {
            vec![card(
                "From leaving to the upstream seeing it",
                "Left is better.",
                &curves(|run| run.disconnect.as_ref()),
            )]
        }
        "resume" => {
            let curves = curves(|run| run.resumption.as_ref()?.latency.as_ref());
            vec![card("Coming back to a stream", "Left is better.", &curves)]
        }
        "resume-cost" => resume_cost_charts(rows),
        _ => vec![],
    }
}

fn table(results: &[RunResult], scenario: &str) -> String {
    let mut out =
        String::from(r#"<div class="card" style="margin-top:16px"><div class="scroll"><table>"#);
    for (at, line) in cells(results, scenario).iter().enumerate() {
        let tag = if at == 0 { "th" } else { "td" };
        let mine = line.first().is_some_and(|name| name.starts_with("millstream"));
        out += if mine { r#"<tr class="mine">"# } else { "<tr>" };
        for cell in line {
            let _ = write!(out, "<{tag}>{}</{tag}>", escape(cell));
        }
        out += "</tr>";
    }
    out += "</table></div>";
    let mut remarks = remarks(results, scenario);
    remarks.extend(checks(results, scenario).iter().map(ToString::to_string));
    if !remarks.is_empty() {
        out += "<ul>";
        for remark in remarks {
            let _ = write!(out, "<li>{}</li>", escape(&remark));
        }
        out += "</ul>";
    }
    out + "</div>"
}

/// What stands behind a median.
fn rounds(count: usize) -> String {
    format!("{count} round{}", if count == 1 { "" } else { "s" })
}

/// The relay's first headline figure in the scenarios that have one, with ratios.
fn tiles(results: &[RunResult]) -> String {
    let mut out = String::from(r#"<div class="tiles">"#);
    for scenario in scenarios(results) {
        if !["steady", "saturation", "burst", "churn", "churn-new", "handshake", "idle"]
            .contains(&kind(scenario))
        {
            continue;
        }
        let rows = by_system(results, scenario);
        if rows.iter().any(|row| row.0 == System::Litellm) {
            continue; // a light load, which tells little
        }
        let runs = |of| rows.iter().find(|row: &&(System, _)| row.0 == of).map(|row| &row.1);
        let metric = metrics(scenario).into_iter().rfind(|metric| metric.headline);
        let (Some(metric), Some(mine)) = (metric, runs(System::Millstream)) else { continue };
        let Some(value) = metric.median(mine) else { continue };
        let mut ratios = Vec::new();
        for (base, name) in
            [(System::PumpUring, "pump"), (System::Nginx, "nginx"), (System::Haproxy, "HAProxy")]
        {
            let times = runs(base).and_then(|base| metric.ratio(mine, base));
            let times = times.filter(|times| (0.01..50.0).contains(times));
            ratios.extend(times.map(|times| format!("<em>×{times:.2}</em> {name}")));
        }
        let _ = write!(
            out,
            r#"<div class="card tile"><span>{}</span><b>{}</b><span>{}, {}<br>{}</span></div>"#,
            escape(scenario),
            grouped(value, metric.digits),
            metric.title,
            rounds(mine.len()),
            ratios.join(" · ")
        );
    }
    out + "</div>"
}

fn machine(findings: &Findings) -> String {
    let mut out = String::from(r#"<div class="card"><dl>"#);
    for (at, line) in findings.machine.lines().iter().enumerate() {
        let (name, text) = match line.split_once(": ") {
            Some((name, text)) if at > 1 => (name, text),
            _ => (["machine", "set-up"].get(at).copied().unwrap_or_default(), line.as_str()),
        };
        let _ = write!(out, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(text));
    }
    let steals = findings.results.iter().map(|run| run.sut_cores.steal.max(run.load_cores.steal));
    let mut steals: Vec<f64> = steals.collect();
    steals.sort_by(f64::total_cmp);
    if let (Some(most), Some(half)) = (steals.last(), median(steals.clone())) {
        let (half, most) = (half * 100.0, most * 100.0);
        let _ = write!(
            out,
            "<dt>stolen</dt><dd>by the hypervisor: {half:.1} % of a core in the median run, {most:.1} % at most</dd>"
        );
    }
    out + "</dl></div>"
}

/// The whole page.
pub fn html(findings: &Findings) -> String {
    let results = &findings.results;
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Millstream: load test</title><style>{STYLE}</style></head><body><main>\
         <h1>Millstream under load</h1>\
         <p class=\"soft\">Streams of server-sent events through Millstream, its peers and bare \
         pumps that copy TCP and know no HTTP. Every frame's number and bytes were checked. \
         Systems took turns; figures are medians over the rounds that the tables name beside each \
         system, ratios medians of the ratios within a round.</p>"
    );
    out += &tiles(results);
    out += &machine(findings);
    for (at, scenario) in scenarios(results).into_iter().enumerate() {
        let rows = by_system(results, scenario);
        let _ = write!(out, "<section id=\"s{at}\"><h2>{}</h2>", escape(scenario));
        let charts = charts(scenario, &rows);
        if !charts.is_empty() {
            let _ = write!(out, r#"<div class="charts">{}</div>"#, charts.concat());
        }
        out += &table(results, scenario);
        out += "</section>";
    }
    if !findings.failures.is_empty() {
        out += "<section><h2>Did not run</h2><div class=\"card\"><ul>";
        for failure in &findings.failures {
            let _ = write!(out, "<li>{}</li>", escape(failure));
        }
        out += "</ul></div></section>";
    }
    out + "</main></body></html>\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Cpu;

    fn run(system: System, round: usize, user: f64, system_time: f64) -> RunResult {
        let latency = Latency { curve: vec![(50.0, 0.1 + round as f64)], ..Latency::default() };
        RunResult {
            scenario: "steady 1<2".into(),
            system: Some(system),
            round,
            frames: 1000,
            seconds: 1.0,
            cpu: Cpu { user, system: system_time },
            latency: Some(latency),
            ..RunResult::default()
        }
    }

    #[test]
    fn the_split_is_that_of_all_rounds() {
        let runs = [run(System::Nginx, 0, 4e6, 6e6), run(System::Nginx, 1, 0.0, 30e6)];
        let parts = cpu_parts(&runs.iter().collect::<Vec<_>>(), |run| run.frames).expect("some");
        assert!((parts[0] + parts[1] - 20.0).abs() < 1e-9 && (parts[0] - 2.0).abs() < 1e-9);
        let curve = curve(&runs.iter().collect::<Vec<_>>(), |run| run.latency.as_ref());
        assert!(curve.len() == 1 && (curve[0].1 - 0.6).abs() < 1e-9);
    }

    #[test]
    fn the_page_is_whole_and_refers_to_nothing_outside() {
        let results =
            vec![run(System::PumpUring, 0, 1e6, 8e6), run(System::Millstream, 0, 3e6, 8e6)];
        let findings = Findings { results, failures: vec!["x & y".into()], ..Findings::default() };
        let page = html(&findings);
        assert!(page.contains("steady 1&lt;2") && page.contains("x &amp; y"));
        assert!(page.contains("×1.22") && page.ends_with("</html>\n"));
        for outside in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
