//! Which curves of a report are worth a picture.

use std::collections::{BTreeMap, BTreeSet};

use crate::class::Class;
use crate::plan::Who;
use crate::plot::{Axis, Chart, Series};
use crate::recorder::median;
use crate::report::Report;
use crate::summary::Row;
use crate::task::{Mode, Work};

/// Longest hand-over that is drawn, in ns.
const HAND_OVER_MAX_NS: f64 = 1e6;

/// Rows with whole messages of one work and class.
fn all_rows(report: &Report, work: Work, class: Class) -> impl Iterator<Item = &Row> {
    report
        .rows
        .iter()
        .filter(move |row| (row.cell.work, row.cell.mode, row.class) == (work, Mode::All, class))
}

/// The same, with one reader.
fn rows(report: &Report, work: Work, class: Class) -> impl Iterator<Item = &Row> {
    all_rows(report, work, class).filter(|row| row.cell.readers == 1)
}

/// The throughput by the number of readers, for each size that was read by several.
pub(crate) fn throughput_by_readers(report: &Report, class: Class) -> Vec<Chart> {
    let streams = || all_rows(report, Work::Stream, class);
    let crowds = streams().filter(|row| row.cell.readers > 1).map(|row| row.cell.bytes);
    let sizes: BTreeSet<usize> = crowds.collect();
    let chart = |bytes| {
        let mut points: BTreeMap<Who, BTreeMap<u32, f64>> = BTreeMap::new();
        for row in streams().filter(|row| row.cell.bytes == bytes) {
            let Some(throughput) = row.throughput else { continue };
            let of_who = points.entry(row.cell.who).or_default();
            let best = of_who.entry(row.cell.readers).or_default();
            *best = best.max(throughput.bytes_per_s);
        }
        let several = points.into_iter().filter(|(_, points)| points.keys().any(|n| *n > 1));
        let series = several.map(|(who, points)| Series {
            name: who.as_str().to_owned(),
            points: points.into_iter().map(|(n, rate)| (f64::from(n), rate)).collect(),
            first: who.is_lane(),
        });
        Chart {
            title: format!("Throughput of {} by readers, class {class}", size(bytes)),
            x: Axis::Count,
            y: Axis::Rate,
            series: series.collect(),
            limit: None,
        }
    };
    sizes.into_iter().map(chart).collect()
}

/// The classes of a report.
pub(crate) fn classes(report: &Report) -> BTreeSet<Class> {
    report.rows.iter().map(|row| row.class).collect()
}

/// The percentile curves of the lane at every size, in the class with the most rounds.
pub(crate) fn lanes(report: &Report) -> Chart {
    let rounds = |class: &Class| curves_of_lanes(report, *class).map(|row| row.rounds).sum();
    // Figures of a class that is held to no promise are shown where there are no others.
    let most = classes(report)
        .into_iter()
        .max_by_key(|class| -> (bool, usize) { (class.is_judged(), rounds(class)) });
    lanes_in(report, most.unwrap_or(Class::Far))
}

fn curves_of_lanes(report: &Report, class: Class) -> impl Iterator<Item = &Row> {
    rows(report, Work::Latency, class).filter(|row| row.cell.who == Who::Laneway)
}

/// The percentile curves of the lane at every size, in one class.
pub(crate) fn lanes_in(report: &Report, class: Class) -> Chart {
    let curves: Vec<&Row> = curves_of_lanes(report, class).collect();
    let series = curves.iter().map(|row| percentiles(size(row.cell.bytes), row, false));
    Chart {
        title: format!("One-way latency of a lane, every byte written and read, class {class}"),
        x: Axis::Nines,
        y: Axis::Nanos,
        series: series.collect(),
        limit: hand_over(&curves),
    }
}

/// The percentile curves of everybody at one size, each at its best depth.
pub(crate) fn rivals(report: &Report, class: Class, bytes: usize) -> Chart {
    let curves: Vec<&Row> =
        best(rows(report, Work::Latency, class).filter(|row| row.cell.bytes == bytes), |row| {
            row.latency.as_ref().map(|latency| -latency.typical_ns)
        });
    let series = curves
        .iter()
        .map(|row| percentiles(row.cell.who.as_str().to_owned(), row, row.cell.who.is_lane()));
    Chart {
        title: format!("One-way latency at {}, class {class}", size(bytes)),
        x: Axis::Nines,
        y: Axis::Nanos,
        series: series.collect(),
        limit: hand_over(&curves),
    }
}

/// The median latency of everybody by size.
pub(crate) fn latency_by_size(report: &Report, class: Class) -> Chart {
    let value = |row: &Row| row.latency.as_ref().map(|latency| -latency.p50_ns);
    let curves = best(rows(report, Work::Latency, class), value);
    Chart {
        title: format!("Median one-way latency by message size, class {class}"),
        x: Axis::Bytes,
        y: Axis::Nanos,
        series: by_size(&curves, |row| value(row).map(|speed| -speed)),
        limit: hand_over(&curves),
    }
}

/// The throughput of everybody by size, with one publish for each message or one for 32.
pub(crate) fn throughput_by_size(report: &Report, work: Work, class: Class) -> Chart {
    let value = |row: &Row| row.throughput.map(|throughput| throughput.bytes_per_s);
    let copies = rows(report, Work::Copy, class);
    let curves = best(rows(report, work, class).chain(copies), value);
    let publish = if work == Work::Batch { "one publish for 32" } else { "one publish each" };
    Chart {
        title: format!("Throughput by message size, {publish}, class {class}"),
        x: Axis::Bytes,
        y: Axis::Rate,
        series: by_size(&curves, value),
        limit: None,
    }
}

/// For each who and size the row with the highest value, in order.
fn best<'a>(
    rows: impl Iterator<Item = &'a Row>,
    value: impl Fn(&Row) -> Option<f64>,
) -> Vec<&'a Row> {
    let mut best: BTreeMap<(Who, usize), (f64, &Row)> = BTreeMap::new();
    for row in rows {
        if let Some(found) = value(row) {
            let known = best.entry((row.cell.who, row.cell.bytes)).or_insert((found, row));
            if found > known.0 {
                *known = (found, row);
            }
        }
    }
    best.into_values().map(|(_, row)| row).collect()
}

fn by_size(rows: &[&Row], value: impl Fn(&Row) -> Option<f64>) -> Vec<Series> {
    let mut points: BTreeMap<Who, Vec<(f64, f64)>> = BTreeMap::new();
    for row in rows {
        if let Some(value) = value(row) {
            points.entry(row.cell.who).or_default().push((row.cell.bytes as f64, value));
        }
    }
    let series = points.into_iter().map(|(who, points)| {
        let (name, first) = (who.as_str().to_owned(), who.is_lane());
        Series { name, points, first }
    });
    series.collect()
}

fn percentiles(name: String, row: &Row, first: bool) -> Series {
    let points = row.latency.as_ref().map(|latency| latency.curve.clone()).unwrap_or_default();
    Series { name, points, first }
}

/// What no curve can be below: the median hand-over beside these rows.
fn hand_over(rows: &[&Row]) -> Option<(f64, String)> {
    let mut nanos: Vec<f64> = rows.iter().map(|row| row.hand_over_ns).collect();
    // Where not even a line got through, the probe has no figure worth a place on the scale.
    let middle = median(&mut nanos).filter(|nanos| *nanos < HAND_OVER_MAX_NS)?;
    Some((middle, "hand-over of a line".to_owned()))
}

/// A message size as people write it.
pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        _ if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::example;

    #[test]
    fn everybody_is_drawn_once_and_at_the_best_depth() {
        let report = example();
        let chart = throughput_by_size(&report, Work::Stream, Class::Near);
        let names: Vec<&str> = chart.series.iter().map(|series| &*series.name).collect();
        assert_eq!(names, ["laneway", "ringbuf, in process"]);
        assert_eq!(chart.series[1].points, [(64.0, 64.0 * 20.0)]);
        let chart = rivals(&report, Class::Near, 64);
        let names: Vec<&str> = chart.series.iter().map(|series| &*series.name).collect();
        assert_eq!(names, ["laneway", "pipe"]);
        assert_eq!(chart.limit.map(|limit| limit.0), Some(31.0));
    }

    #[test]
    fn readers_are_drawn_by_their_number_and_nowhere_else() {
        let mut report = example();
        let mut crowd = report.rows.clone();
        crowd.iter_mut().for_each(|row| row.cell.readers = 8);
        let before = throughput_by_size(&report, Work::Stream, Class::Near);
        assert_eq!(throughput_by_readers(&report, Class::Near), []);
        report.rows.extend(crowd);
        assert_eq!(throughput_by_size(&report, Work::Stream, Class::Near), before);
        let charts = throughput_by_readers(&report, Class::Near);
        assert_eq!(charts.len(), 1);
        assert_eq!(charts[0].series[0].points, [(1.0, 64.0 * 40.0), (8.0, 64.0 * 40.0)]);
    }

    #[test]
    fn the_lanes_own_chart_takes_the_class_with_most_rounds() {
        let chart = lanes(&example());
        assert!(chart.title.ends_with("class near"), "{}", chart.title);
        assert_eq!(chart.series.len(), 1);
        assert_eq!(chart.series[0].name, "64 B");
    }
}
