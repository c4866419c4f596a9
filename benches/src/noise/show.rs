//! What was found, as a table, as a picture and as one object for programs.

use std::fmt::Write;

use serde::Serialize;

use super::maker::Noise;
use super::{Findings, Sample, Way};
use crate::document::Marked;
use crate::grid::Grid;
use crate::plot::{Axis, Chart, Series};
use crate::recorder::{Latency, median};

/// The promise: with both cores held, p99 beside everything at most this many times p99 beside
/// nothing.
const P99_TIMES_MAX: f64 = 2.0;
/// Share of a measurement that counts: the first tenth is thrown away.
const COUNTED: f64 = 0.9;

/// One way beside one noise: medians over the rounds.
#[derive(Clone, Debug, Serialize)]
struct Row {
    noise: Noise,
    pinning: Way,
    rounds: usize,
    p50_ns: f64,
    p99_ns: f64,
    p999_ns: f64,
    p9999_ns: f64,
    max_ns: f64,
    /// p99 by p99 of the same way beside nothing, in the same round.
    p99_times_idle: Option<f64>,
    /// How long whoever comes at a random moment waits at most, in 99 of 100 cases.
    wait_p99_ns: f64,
    /// That by the same of the same way beside nothing, in the same round.
    wait_times_idle: Option<f64>,
    /// Share of the time that went into what trips took beyond their median: a few long stalls
    /// hardly show in percentiles of so many trips.
    stalled: f64,
    messages_per_s: Option<f64>,
}

/// Everything for programs.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    #[serde(flatten)]
    findings: &'a Findings,
    rows: Vec<Row>,
    p99_times_max: f64,
    p99_times_found: Option<f64>,
}

/// The form for programs.
pub(crate) fn json(findings: &Findings) -> Marked<Report<'_>> {
    let (rows, p99_times_found) = (rows(findings), found(findings));
    let report = Report { findings, rows, p99_times_max: P99_TIMES_MAX, p99_times_found };
    Marked::new("noise", report)
}

/// What the promise is about, as found.
fn found(findings: &Findings) -> Option<f64> {
    let full = |row: &Row| row.noise == Noise::Full && row.pinning == Way::Cpuset;
    rows(findings).into_iter().find(full)?.p99_times_idle
}

fn rows(findings: &Findings) -> Vec<Row> {
    let mut pairs: Vec<(Noise, Way)> =
        findings.samples.iter().map(|sample| (sample.noise, sample.pinning)).collect();
    pairs.sort_unstable();
    pairs.dedup();
    pairs.into_iter().filter_map(|(noise, pinning)| row(findings, noise, pinning)).collect()
}

fn row(findings: &Findings, noise: Noise, pinning: Way) -> Option<Row> {
    let of = |noise: Noise| {
        let same = move |sample: &&Sample| sample.noise == noise && sample.pinning == pinning;
        findings.samples.iter().filter(same)
    };
    let latencies: Vec<&Latency> = of(noise).filter_map(|s| s.latency.as_ref()).collect();
    let middle = |value: &dyn Fn(&Latency) -> f64| {
        median(&mut latencies.iter().map(|latency| value(latency)).collect::<Vec<_>>())
    };
    let counted_ns = findings.method.seconds * COUNTED * 1e9;
    let stalled = |latency: &Latency| {
        1.0 - (latency.trips as f64 * 2.0 * latency.p50_ns / counted_ns).min(1.0)
    };
    let times_idle = |value: fn(&Latency) -> f64| {
        let ratio = |sample: &Sample| {
            let idle = of(Noise::Idle).find(|idle| idle.round == sample.round)?;
            Some(value(sample.latency.as_ref()?) / value(idle.latency.as_ref()?))
        };
        median(&mut of(noise).filter_map(ratio).collect::<Vec<_>>())
    };
    let rates = of(noise).filter_map(|sample| Some(sample.throughput.as_ref()?.rate()));
    Some(Row {
        noise,
        pinning,
        rounds: latencies.len(),
        p50_ns: middle(&|latency| latency.p50_ns)?,
        p99_ns: middle(&|latency| latency.p99_ns)?,
        p999_ns: middle(&|latency| latency.p999_ns)?,
        p9999_ns: middle(&p9999)?,
        max_ns: middle(&|latency| latency.max_ns)?,
        p99_times_idle: times_idle(|latency| latency.p99_ns),
        wait_p99_ns: middle(&|latency| latency.wait_p99_ns)?,
        wait_times_idle: times_idle(|latency| latency.wait_p99_ns),
        stalled: middle(&stalled)?,
        messages_per_s: median(&mut rates.collect::<Vec<_>>()),
    })
}

fn p9999(latency: &Latency) -> f64 {
    let found = latency.curve.iter().find(|(quantile, _)| *quantile >= 0.9999);
    found.map_or(latency.max_ns, |(_, nanos)| *nanos)
}

/// The table with what stands above and below it.
pub(super) fn text(findings: &Findings) -> String {
    let grid = grid(findings);
    format!("{}\n{}\n{}\n{}", heading(findings), grid.title, grid.text(), notes(findings))
}

/// What ran where, and how.
pub(crate) fn heading(findings: &Findings) -> String {
    let (machine, method) = (&findings.machine, &findings.method);
    let kind = if machine.virtual_machine { ", virtual: cpus may move" } else { "" };
    let mut text = format!(
        "machine  {}, Linux {}{kind}; load {} at start\n\
         cpus     {} and {}, of {} allowed\n\
         method   {} rounds, {} s each, {} bytes, first tenth discarded\n",
        machine.cpu,
        machine.kernel,
        machine.load,
        machine.cpus.0,
        machine.cpus.1,
        machine.cpus_allowed.len(),
        method.rounds,
        method.seconds,
        method.bytes,
    );
    // Writing to a string cannot fail.
    if !method.others.is_empty() {
        let weight = if method.shared { ", which the lane shares: next to no weight" } else { "" };
        let _ = writeln!(text, "cpuset   everything else on cpu {}{weight}", method.others);
    }
    text
}

/// What was not measured, and how the promise stands.
pub(crate) fn notes(findings: &Findings) -> String {
    let mut text = String::new();
    for missing in &findings.missing {
        let _ = writeln!(text, "{} was not measured: {}", missing.pinning.as_str(), missing.why);
    }
    let quiet = findings.samples.iter().filter(|sample| !sample.loud).count();
    if quiet > 0 {
        let _ = writeln!(text, "{quiet} measurements outlived an antagonist");
    }
    if let Some(times) = found(findings) {
        let verdict = if times <= P99_TIMES_MAX { "met" } else { "MISSED" };
        let _ = write!(
            text,
            "{verdict:6}  p99 with held cores beside everything, by p99 beside nothing: \
             {times:.2}, wanted at most {P99_TIMES_MAX}"
        );
    }
    text
}

/// All figures.
pub(crate) fn grid(findings: &Findings) -> Grid {
    let columns = [
        "beside",
        "pinning",
        "rounds",
        "p50",
        "p99",
        "p99.9",
        "p99.99",
        "max",
        "p99 x idle",
        "wait p99",
        "stalled %",
        "M msg/s",
    ];
    let title = "One-way latency in ns, half a round trip. Wait: until the trip under way ends, \
                 for whoever comes at a random moment, in ns. Stalled: time beyond the median trip";
    let mut grid = Grid::new(title, &columns);
    for row in rows(findings) {
        let mut line = vec![row.noise.as_str().to_owned(), row.pinning.as_str().to_owned()];
        line.push(row.rounds.to_string());
        line.extend(
            [row.p50_ns, row.p99_ns, row.p999_ns, row.p9999_ns, row.max_ns]
                .map(|nanos| format!("{nanos:.0}")),
        );
        line.push(row.p99_times_idle.map_or_else(String::new, |times| format!("{times:.2}")));
        line.push(format!("{:.0}", row.wait_p99_ns));
        line.push(format!("{:.1}", row.stalled * 100.0));
        let rate = row.messages_per_s;
        line.push(rate.map_or_else(String::new, |rate| format!("{:.3}", rate / 1e6)));
        grid.rows.push(line);
    }
    grid
}

/// The percentile curves of every way beside the loudest noise, and of held cores beside nothing.
pub(crate) fn chart(findings: &Findings) -> Chart {
    let loudest = findings.samples.iter().map(|sample| sample.noise).max();
    let loudest = loudest.unwrap_or(Noise::Idle);
    let mut shown: Vec<(Noise, Way)> = Way::ALL.map(|way| (loudest, way)).to_vec();
    if loudest != Noise::Idle {
        shown.push((Noise::Idle, Way::Cpuset));
    }
    let curve = |(noise, way): (Noise, Way)| {
        let same = |sample: &&Sample| (sample.noise, sample.pinning) == (noise, way);
        let latencies = findings.samples.iter().filter(same).filter_map(|s| s.latency.as_ref());
        let curves: Vec<_> = latencies.map(|latency| &latency.curve).collect();
        let points = curves.first()?.iter().enumerate().filter_map(|(index, (quantile, _))| {
            let mut nanos: Vec<f64> =
                curves.iter().filter_map(|curve| Some(curve.get(index)?.1)).collect();
            Some((*quantile, median(&mut nanos)?))
        });
        let name = format!("{} beside {}", way.as_str(), noise.as_str());
        Some(Series { name, points: points.collect(), first: way == Way::Cpuset })
    };
    Chart {
        title: format!("One-way latency of {} bytes, by who pins", findings.method.bytes),
        x: Axis::Nines,
        y: Axis::Nanos,
        series: shown.into_iter().filter_map(curve).collect(),
        limit: None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::noise::{Method, Missing};
    use crate::stream::Throughput;

    fn sample(round: u32, noise: Noise, pinning: Way, nanos: f64) -> Sample {
        let latency = Latency {
            trips: 1000,
            typical_ns: nanos,
            p50_ns: nanos,
            p90_ns: nanos,
            p99_ns: nanos * 2.0,
            p999_ns: nanos * 3.0,
            max_ns: nanos * 9.0,
            wait_p99_ns: nanos * 5.0,
            curve: vec![(0.5, nanos), (0.9999, nanos * 4.0), (1.0, nanos * 9.0)],
        };
        let throughput = Some(Throughput { messages: 1000, seconds: 1e-3 });
        Sample { round, noise, pinning, loud: true, latency: Some(latency), throughput }
    }

    fn findings(full: f64) -> Findings {
        let machine = Machine {
            cpu: "a cpu".to_owned(),
            kernel: "6.18".to_owned(),
            cpus_allowed: vec![0, 1],
            cpus: (0, 1),
            siblings: false,
            virtual_machine: false,
            caches: Vec::new(),
            load: 0.0,
        };
        let (others, bytes) = ("1".to_owned(), 64);
        let method = Method { rounds: 3, seconds: 1e-3, bytes, others, shared: true };
        let mut samples = Vec::new();
        for round in 0..3 {
            let wobble = 1.0 + f64::from(round);
            samples.push(sample(round, Noise::Idle, Way::Cpuset, 100.0 * wobble));
            samples.push(sample(round, Noise::Full, Way::Cpuset, full * wobble));
        }
        let missing = vec![Missing { pinning: Way::Enforce, why: "no right".to_owned() }];
        Findings { machine, method, samples, missing }
    }

    /// A small result, with a way that is missing.
    pub(crate) fn example() -> Findings {
        findings(150.0)
    }

    #[test]
    fn the_promise_is_judged_by_ratios_within_a_round() {
        for (full, verdict, times) in [(150.0, "met", "1.50"), (250.0, "MISSED", "2.50")] {
            let text = text(&findings(full));
            assert!(text.contains(verdict) && text.contains(times), "{text}");
            assert!(text.contains("enforce was not measured: no right"));
        }
    }

    #[test]
    fn a_row_has_medians_and_the_time_that_no_percentile_shows() {
        let found = findings(150.0);
        let rows = rows(&found);
        let full = rows.iter().find(|row| row.noise == Noise::Full).unwrap();
        assert_eq!((full.rounds, full.p50_ns, full.p9999_ns), (3, 300.0, 1200.0));
        // 1000 trips of 600 ns in 0.9 ms: a third of the time went elsewhere.
        assert!((full.stalled - 1.0 / 3.0).abs() < 0.01, "{}", full.stalled);
        assert_eq!(full.messages_per_s, Some(1e6));
        assert!(text(&found).contains("33.3"));
    }

    #[test]
    fn the_picture_has_a_curve_for_everything_that_was_measured() {
        let chart = chart(&findings(150.0));
        let names: Vec<&str> = chart.series.iter().map(|series| series.name.as_str()).collect();
        assert_eq!(names, ["cpuset beside full", "cpuset beside idle"]);
        assert!(roxmltree::Document::parse(&chart.picture()).is_ok());
    }
}
