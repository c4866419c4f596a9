//! The percentile curves as a picture: nines to the right, nanoseconds upwards, both logarithmic.

use std::fmt::Write;

use crate::plan::Who;
use crate::report::Report;
use crate::summary::Row;
use crate::task::{Mode, Work};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Colours that are told apart also by the colour-blind (Okabe and Ito, 2008).
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999"];
/// Where the axis has a mark: quantile and label.
const MARKS: [(f64, &str); 5] =
    [(0.0, "0"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %")];
/// Last quantile shown; beyond it is the maximum, which is the host's and not the ring's.
const LAST: f64 = 0.9999;

/// The curves of all sizes in the class with the most rounds.
pub(crate) fn svg(report: &Report) -> String {
    let curve = |row: &&Row| {
        row.cell.work == Work::Latency && row.cell.who == Who::Laneway && row.cell.mode == Mode::All
    };
    let curves: Vec<&Row> = report.rows.iter().filter(curve).collect();
    let most = curves.iter().max_by_key(|row| row.rounds);
    let class = most.map(|row| row.class);
    let curves: Vec<&Row> = curves.into_iter().filter(|row| Some(row.class) == class).collect();
    let scale = Scale::of(&curves);
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"14\">One-way latency of a lane, every byte \
         written and read{}</text>\n",
        class.map_or_else(String::new, |class| format!(" (class {class})"))
    );
    axes(&mut svg, &scale);
    for (row, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        line(&mut svg, &scale, row, colour);
    }
    if let Some(row) = curves.first() {
        let y = scale.y(row.hand_over_ns);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"gray\" \
             stroke-dasharray=\"5 4\"/><text x=\"{}\" y=\"{:.1}\" fill=\"gray\">hand-over</text>",
            WIDTH - RIGHT,
            WIDTH - RIGHT + 6.0,
            y + 4.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// From values to places.
#[derive(Debug)]
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    /// Whole powers of ten around all values.
    fn of(curves: &[&Row]) -> Self {
        let points = curves
            .iter()
            .filter_map(|row| row.latency.as_ref())
            .flat_map(|latency| latency.curve.iter())
            .filter(|point| point.0 <= LAST)
            .map(|point| point.1);
        let low = points.clone().fold(f64::MAX, f64::min).clamp(1.0, 1e6);
        let high = points.fold(low, f64::max);
        Self { low: low.log10().floor(), high: high.log10().floor() + 1.0 }
    }

    fn x(quantile: f64) -> f64 {
        let nines = -(1.0 - quantile.min(LAST)).log10();
        LEFT + (WIDTH - LEFT - RIGHT) * nines / 4.0
    }

    fn y(&self, nanos: f64) -> f64 {
        let part = (nanos.max(1.0).log10() - self.low) / (self.high - self.low);
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part
    }
}

fn axes(svg: &mut String, scale: &Scale) {
    for (quantile, label) in MARKS {
        let x = Scale::x(quantile);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0
        );
    }
    let mut power = scale.low;
    while power <= scale.high {
        let y = scale.y(10f64.powf(power));
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            time(10f64.powf(power))
        );
        power += 1.0;
    }
}

fn line(svg: &mut String, scale: &Scale, row: &Row, colour: &str) {
    let Some(latency) = &row.latency else { return };
    let mut points = String::new();
    let mut end = HEIGHT;
    for (quantile, nanos) in &latency.curve {
        if *quantile <= LAST {
            end = scale.y(*nanos);
            let _ = write!(points, "{:.1},{end:.1} ", Scale::x(*quantile));
        }
    }
    let _ = writeln!(
        svg,
        "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
         <text x=\"{}\" y=\"{:.1}\" fill=\"{colour}\">{} B</text>",
        WIDTH - RIGHT + 6.0,
        end + 4.0,
        row.cell.bytes
    );
}

fn time(nanos: f64) -> String {
    match nanos {
        _ if nanos >= 1e6 => format!("{:.0} ms", nanos / 1e6),
        _ if nanos >= 1e3 => format!("{:.0} us", nanos / 1e3),
        _ => format!("{nanos:.0} ns"),
    }
}
