//! Charts as inline SVG; colours are the page's.

use std::fmt::Write;

use crate::systems::System;

const WIDTH: f64 = 560.0;
const NAMES: f64 = 122.0;
const ROW: f64 = 25.0;

/// A chart of horizontal bars, each of one or two parts.
pub(super) struct Bars<'a> {
    /// What the parts are, unless there is one.
    pub(super) parts: [&'a str; 2],
    /// Digits of the sums after the point.
    pub(super) digits: usize,
    /// System, its parts, and what is said behind the sum.
    pub(super) rows: Vec<(System, [f64; 2], String)>,
}

/// Text as HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

pub(super) fn is_mine(system: System) -> bool {
    system.is_millstream()
}

/// A number with thin spaces between thousands.
pub(super) fn grouped(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.find('.').map_or((text.as_str(), ""), |at| text.split_at(at));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let mut out = String::from(sign);
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) && whole.len() > 4 {
            out.push('\u{2009}');
        }
        out.push(digit);
    }
    out + rest
}

impl Bars<'_> {
    /// The chart, and its legend where there are two parts.
    pub(super) fn svg(&self) -> String {
        let sum = |parts: &[f64; 2]| parts.iter().map(|part| part.max(0.0)).sum::<f64>();
        // One giant would flatten the rest: its bar is cut, its figure is not.
        let mut sums: Vec<f64> = self.rows.iter().map(|row| sum(&row.1)).collect();
        sums.sort_by(f64::total_cmp);
        let most = sums.last().copied().unwrap_or(0.0);
        let usual = sums.get(sums.len().saturating_sub(2)).copied().unwrap_or(most);
        let full = if most > 6.0 * usual && usual > 0.0 { 2.0 * usual } else { most };
        let room = WIDTH - NAMES - 118.0;
        let height = ROW * self.rows.len() as f64 + 4.0;
        let mut out = format!(r#"<svg viewBox="0 0 {WIDTH} {height}" role="img">"#);
        for (at, (system, parts, remark)) in self.rows.iter().enumerate() {
            let y = ROW * at as f64 + 3.0;
            let mine = if is_mine(*system) { " mine" } else { "" };
            let _ = write!(
                out,
                r#"<text class="name{mine}" x="{:.1}" y="{:.1}" text-anchor="end">{system}</text>"#,
                NAMES - 9.0,
                y + 13.5
            );
            let mut x = NAMES;
            let colours = match is_mine(*system) {
                true => ["--mine", "--mine-soft"],
                false => ["--user", "--system"],
            };
            for (part, colour) in parts.iter().zip(colours) {
                let width = (part.max(0.0) / full.max(1e-12) * room).min(room + NAMES - x).max(0.0);
                let _ = write!(
                    out,
                    r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="18" rx="2" fill="var({colour})"/>"#
                );
                x += width;
            }
            let cut = if sum(parts) > full { "→ " } else { "" };
            let value = grouped(sum(parts), self.digits);
            let _ = write!(
                out,
                r#"<text class="value{mine}" x="{:.1}" y="{:.1}">{cut}{value} <tspan fill="var(--soft)" font-weight="400">{}</tspan></text>"#,
                x + 7.0,
                y + 13.5,
                escape(remark)
            );
        }
        out += "</svg>";
        if !self.parts[1].is_empty() {
            let _ = write!(
                out,
                r#"<div class="legend"><span><i class="box" style="background:var(--user)"></i>{}</span><span><i class="box" style="background:var(--system)"></i>{}</span></div>"#,
                self.parts[0], self.parts[1]
            );
        }
        out
    }
}

/// Per cent and milliseconds, rising.
pub(super) type Curve = Vec<(f64, f64)>;

/// Where a quantile in per cent stands: each step up is a tenth of the rest.
fn nines(per_cent: f64) -> f64 {
    -(1.0 - per_cent / 100.0).max(1e-4).log10()
}

/// Latency distributions: time on a logarithmic axis, quantiles by nines.
pub(super) fn distribution(curves: &[(System, Curve)], caption: &str) -> String {
    let (height, left, right, bottom, top) = (300.0, 46.0, WIDTH - 14.0, 262.0, 10.0);
    let times = || curves.iter().flat_map(|curve| curve.1.iter().map(|point| point.1));
    let least = times().fold(f64::INFINITY, f64::min).max(1e-3);
    let most = times().fold(least * 2.0, f64::max);
    let (from, to) = (least.log10().floor(), most.log10().ceil());
    let x = |ms: f64| left + (ms.max(1e-3).log10() - from) / (to - from) * (right - left);
    let y = |per_cent: f64| bottom - nines(per_cent) / 4.0 * (bottom - top);
    let mut out = format!(r#"<svg viewBox="0 0 {WIDTH} {height}" role="img">"#);
    for tick in [0.0, 50.0, 90.0, 99.0, 99.9, 99.99] {
        let at = y(tick);
        let _ = write!(
            out,
            r#"<path class="grid" d="M{left} {at:.1}H{right}"/><text x="{:.1}" y="{:.1}" text-anchor="end">{tick}</text>"#,
            left - 7.0,
            at + 4.0
        );
    }
    let mut decade = from;
    while decade <= to {
        let ms = 10f64.powf(decade);
        let label = match ms {
            ..0.999 => format!("{} µs", (ms * 1e3).round()),
            ..999.0 => format!("{ms:.0} ms"),
            _ => format!("{:.0} s", ms / 1e3),
        };
        let _ = write!(
            out,
            r#"<path class="grid" d="M{0:.1} {top}V{bottom}"/><text x="{0:.1}" y="{1:.1}" text-anchor="{2}">{label}</text>"#,
            x(ms),
            bottom + 18.0,
            if decade < to { "middle" } else { "end" }
        );
        decade += 1.0;
    }
    let _ = write!(
        out,
        r#"<text x="{:.1}" y="{height}" text-anchor="middle" dy="-4">{caption}</text>"#,
        f64::midpoint(left, right)
    );
    // Ours last, so that it lies on top.
    let mut order: Vec<_> = curves.iter().collect();
    order.sort_by_key(|curve| is_mine(curve.0));
    for (system, curve) in order {
        let points: Vec<String> =
            curve.iter().map(|(q, ms)| format!("{:.1} {:.1}", x(*ms), y(*q))).collect();
        let bold = if *system == System::Millstream { " bold" } else { "" };
        let _ = write!(
            out,
            r#"<path class="curve{bold}" stroke="var(--{system})" d="M{}"/>"#,
            points.join("L")
        );
    }
    out += r#"</svg><div class="legend">"#;
    for (system, _) in curves {
        let _ = write!(out, r#"<span><i style="background:var(--{system})"></i>{system}</span>"#);
    }
    out + "</div>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(1234.0, 0), "1234");
        assert_eq!(grouped(12345.678, 1), "12\u{2009}345.7");
        assert_eq!(grouped(-1234567.0, 0), "-1\u{2009}234\u{2009}567");
        assert_eq!(grouped(0.04321, 3), "0.043");
    }

    #[test]
    fn a_giant_is_cut_and_says_so() {
        let row = |system, value| (system, [value, 0.0], String::new());
        let rows =
            vec![row(System::Nginx, 1.0), row(System::Haproxy, 2.0), row(System::Litellm, 900.0)];
        let svg = Bars { parts: ["", ""], digits: 0, rows }.svg();
        assert!(svg.contains("→ 900") && !svg.contains("→ 2"));
    }

    #[test]
    fn quantiles_climb_by_nines() {
        assert!(nines(0.0).abs() < 1e-9 && (nines(99.0) - 2.0).abs() < 1e-9);
        assert!((nines(100.0) - 4.0).abs() < 1e-9);
        let svg = distribution(&[(System::Nginx, vec![(50.0, 0.05), (99.9, 3.0)])], "up");
        assert!(svg.contains("10 µs") && svg.contains("10 ms") && svg.contains("var(--nginx)"));
    }
}
