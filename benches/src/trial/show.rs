//! Trials as tables and pictures.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::{Sheet, Trial, Way, What};
use crate::class::Class;
use crate::grid::Grid;
use crate::plot::{Axis, Chart, Series};
use crate::table;

/// Smallest payload whose rate is worth a column, in bytes.
const RATE_MIN: u32 = 4096;

/// The whole sheet as text.
pub(crate) fn text(sheet: &Sheet) -> String {
    let mut text = heading(sheet);
    for grid in grids(sheet) {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{}\n{}\n", grid.title, grid.text());
    }
    text + &table::promises(&sheet.targets)
}

/// What ran where, and how.
pub(crate) fn heading(sheet: &Sheet) -> String {
    let machine = &sheet.machine;
    let moved = sheet.samples.iter().filter(|sample| sample.class.is_none()).count();
    let kind = if machine.virtual_machine { ", virtual: cpus may move" } else { "" };
    let mut text = format!(
        "machine  {}, Linux {}{kind}\n         {}; load {} at start\n\
         cpus     {} and {}, of {} allowed\n\
         method   {} rounds, {} s each, in turns; {moved} of {} samples left out because the cpus \
         moved\n",
        machine.cpu,
        machine.kernel,
        machine.caches.join(", "),
        machine.load,
        machine.cpus.0,
        machine.cpus.1,
        machine.cpus_allowed.len(),
        sheet.rounds,
        sheet.seconds,
        sheet.samples.len(),
    );
    if machine.load > 0.5 {
        text.push_str("         others are running on this machine: repeat on an idle one\n");
    }
    text
}

/// One table for each thing, then what is not there.
pub(crate) fn grids(sheet: &Sheet) -> Vec<Grid> {
    let things: BTreeSet<What> = sheet.rows.iter().map(|row| row.trial.what).collect();
    let mut grids: Vec<Grid> = things.into_iter().map(|thing| of_thing(sheet, thing)).collect();
    if !sheet.absent.is_empty() {
        let mut grid = Grid::new("Not measured", &["bytes", "way", "why"]);
        for absent in &sheet.absent {
            let way = format!("{}: {}", what(absent.trial.what), way(&absent.trial));
            grid.rows.push(vec![absent.trial.bytes.to_string(), way, absent.why.clone()]);
        }
        grids.push(grid);
    }
    grids
}

fn of_thing(sheet: &Sheet, thing: What) -> Grid {
    let rows = || sheet.rows.iter().filter(|row| row.trial.what == thing);
    let gaps = rows().any(|row| row.trial.gap_us > 0);
    let rare = rows().any(|row| row.p99_ns.is_some());
    let rates = rows().any(|row| row.trial.bytes >= RATE_MIN);
    let mut columns = vec!["class", "bytes"];
    columns.extend(gaps.then_some("gap us"));
    columns.extend(["way", "rounds", "ns"]);
    columns.extend(rare.then_some("p99 ns"));
    columns.extend(["times", "more ns"]);
    columns.extend(rates.then_some("GB/s"));
    let mut grid = Grid::new(title(thing), &columns);
    for row in rows() {
        let mut line = vec![row.class.to_string(), row.trial.bytes.to_string()];
        line.extend(gaps.then(|| row.trial.gap_us.to_string()));
        line.extend([way(&row.trial).to_owned(), row.rounds.to_string(), nanos(row.nanos)]);
        line.extend(rare.then(|| row.p99_ns.map_or_else(String::new, nanos)));
        line.push(row.times.map_or_else(String::new, |times| format!("{times:.2}")));
        line.push(row.more_ns.map_or_else(String::new, nanos));
        line.extend(rates.then(|| format!("{:.2}", f64::from(row.trial.bytes) / row.nanos)));
        grid.rows.push(line);
    }
    grid
}

fn nanos(value: f64) -> String {
    if value.abs() < 1000.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

/// One picture for each thing and class that has several points to a curve.
pub(crate) fn charts(sheet: &Sheet) -> Vec<Chart> {
    let mut keys: Vec<(What, Class)> =
        sheet.rows.iter().map(|row| (row.trial.what, row.class)).collect();
    keys.sort_unstable();
    keys.dedup();
    let charts = keys.into_iter().map(|(thing, class)| {
        let rows = || sheet.rows.iter().filter(move |r| (r.trial.what, r.class) == (thing, class));
        let gaps = rows().any(|row| row.trial.gap_us > 0);
        let mut curves: BTreeMap<Way, Vec<(f64, f64)>> = BTreeMap::new();
        for row in rows() {
            let at = if gaps { row.trial.gap_us } else { row.trial.bytes };
            curves.entry(row.trial.way).or_default().push((f64::from(at), row.nanos));
        }
        let series = curves.into_iter().map(|(kind, points)| {
            let trial = Trial::new(thing, 0, kind);
            let first = matches!(kind, Way::Lane | Way::Lines | Way::Park | Way::Pause);
            Series { name: way(&trial).to_owned(), points, first }
        });
        let by = if gaps { "gap in us" } else { "message size" };
        Chart {
            title: format!("{} by {by}, class {class}", what(thing)),
            x: if gaps { Axis::Count } else { Axis::Bytes },
            y: Axis::Nanos,
            series: series.collect(),
            limit: None,
        }
    });
    charts.filter(|chart| chart.series.iter().any(|series| series.points.len() > 1)).collect()
}

/// A thing's name.
pub(crate) fn what(what: What) -> &'static str {
    match what {
        What::WakeUp => "wake-up",
        What::Publish => "publish",
        What::CopyOut => "copy out",
        What::LookedAt => "looked at",
        What::HandOver => "hand-over",
        What::Line => "line",
        What::Message => "message",
        What::Stream => "stream",
    }
}

/// A way's name.
pub(crate) fn way(trial: &Trial) -> &'static str {
    match (trial.what, trial.way) {
        (_, Way::Futex) => "bare futex",
        (_, Way::Spin) => "ends that spin",
        (_, Way::Park) => "ends that may sleep",
        (_, Way::Memcpy) => "memcpy",
        (What::CopyOut, Way::Lane) => "out of a lane",
        (_, Way::Lane) => "a lane",
        (_, Way::RepMovsb) => "rep movsb",
        (_, Way::NonTemporal) => "non-temporal stores",
        (What::LookedAt, Way::InPlace) => "a slice in place",
        (_, Way::InPlace) => "written in place",
        (_, Way::Copied) => "copied first",
        (_, Way::Pieces) => "by pieces",
        (_, Way::Lines) => "by lines",
        (_, Way::WrittenBack) => "in place, then clwb",
        (_, Way::NoPause) => "no pause",
        (_, Way::Pause) => "pause",
    }
}

fn title(thing: What) -> &'static str {
    match thing {
        What::WakeUp => {
            "Wake-up: from before a message is sent to after a reader that slept has it; beside a \
             bare futex"
        }
        What::Publish => {
            "Publish: one message of a stream, one publish each, to a peer that may sleep; beside \
             one that spins"
        }
        What::CopyOut => "Copy out of memory that another process may write; beside memcpy",
        What::LookedAt => {
            "A held message whose words are added up, out of memory that another process may \
             write; beside a slice of private memory"
        }
        What::HandOver => {
            "Large payload made in private memory and copied over by each method, or made in \
             place, and read there: half a round trip, beside memcpy; clwb beside in place"
        }
        What::Line => "One cache line, half a round trip, with and without a pause in the spin",
        What::Message => {
            "A message over a lane, half a round trip, with and without a pause in the spin"
        }
        What::Stream => "A message of a lane's stream, with and without a pause in the spin",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::Row;
    use crate::trial::tests::example;

    #[test]
    fn the_text_has_every_figure_the_promise_and_what_is_missing() {
        let text = text(&example());
        for expected in ["bare futex", "20000", "no <such> instruction", "at most 1.15", "gap us"] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        for grid in grids(&example()) {
            for row in &grid.rows {
                assert_eq!(row.len(), grid.header.len(), "{}: {row:?}", grid.title);
            }
        }
    }

    #[test]
    fn a_picture_needs_several_points_to_a_curve() {
        assert_eq!(charts(&example()), []);
        let mut sheet = example();
        let more = sheet.rows.iter().map(|row| Row {
            trial: Trial { gap_us: 2000, ..row.trial },
            nanos: row.nanos * 2.0,
            ..*row
        });
        let more: Vec<Row> = more.collect();
        sheet.rows.extend(more);
        let charts = charts(&sheet);
        assert!(charts.iter().any(|chart| chart.title == "wake-up by gap in us, class near"));
        for chart in charts {
            assert!(roxmltree::Document::parse(&chart.picture()).is_ok());
        }
    }
}
