//! From samples to rows: medians over rounds, ratios within rounds; and all of it as text. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::timings::Timings;
use super::usage::{Idle, Share, Usage};
use super::what::What;
use crate::grid::Grid;
use crate::machine::Machine;
use crate::recorder::median;
use crate::task::Wait;

/// An attach is to take at most this part of what iceoryx2 takes to open a service and make a port.
const ATTACH_WANTED: f64 = 0.2;

/// What is measured, by how many callers, among how many lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// Lanes that were there meanwhile.
    pub(crate) lanes: u32,
    pub(crate) what: What,
    /// Callers at the same time.
    pub(crate) callers: u32,
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) round: u32,
    #[serde(flatten)]
    pub(crate) cell: Cell,
    #[serde(flatten)]
    pub(crate) timings: Timings,
}

/// All rounds of one cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    #[serde(flatten)]
    pub(crate) cell: Cell,
    /// Medians of the rounds; the calls are those of all rounds.
    #[serde(flatten)]
    pub(crate) timings: Timings,
    pub(crate) beside: Option<Beside>,
}

/// How a row compares with its yardstick: medians of the rounds' ratios.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Beside {
    /// What that is.
    pub(crate) what: What,
    /// Its median time in this one's: 2 is twice as slow.
    pub(crate) p50: f64,
    /// This one's rate in its: 0.5 is half as many in a second.
    pub(crate) per_s: f64,
}

/// How it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Method {
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) page_bytes: u64,
    pub(crate) wait: Wait,
}

/// What attached lanes cost one process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Footprint {
    pub(crate) lanes: u32,
    pub(crate) process: Process,
    pub(crate) total: Usage,
    /// None without lanes.
    pub(crate) per_lane: Option<Share>,
}

/// Whose footprint it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Process {
    Agent,
    /// One process with all producers.
    Producers,
    /// One process with all consumers.
    Consumers,
}

impl Process {
    fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Producers => "producers",
            Self::Consumers => "consumers",
        }
    }
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) method: Method,
    pub(crate) rows: Vec<Row>,
    pub(crate) footprints: Vec<Footprint>,
    pub(crate) idle: Idle,
    pub(crate) samples: Vec<Sample>,
}

/// One row for each cell.
pub(crate) fn rows(samples: &[Sample]) -> Vec<Row> {
    let mut cells: BTreeMap<Cell, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        cells.entry(sample.cell).or_default().push(sample);
    }
    let middle = |samples: &[&Sample], of: fn(&Timings) -> f64| {
        let mut values: Vec<f64> = samples.iter().map(|sample| of(&sample.timings)).collect();
        median(&mut values).unwrap_or(0.0)
    };
    let row = |(cell, of_it): (Cell, Vec<&Sample>)| Row {
        cell,
        timings: Timings {
            calls: of_it.iter().map(|sample| sample.timings.calls).sum(),
            p50_us: middle(&of_it, |timings| timings.p50_us),
            p99_us: middle(&of_it, |timings| timings.p99_us),
            per_s: middle(&of_it, |timings| timings.per_s),
        },
        beside: beside(cell, &of_it, samples),
    };
    cells.into_iter().map(row).collect()
}

fn beside(cell: Cell, of_it: &[&Sample], samples: &[Sample]) -> Option<Beside> {
    let (what, _) = cell.what.yardstick()?;
    let pairs: Vec<(&Timings, &Timings)> = of_it
        .iter()
        .filter_map(|sample| {
            let wanted = Cell { what, ..cell };
            let same = |other: &&Sample| other.round == sample.round && other.cell == wanted;
            samples.iter().find(same).map(|other| (&sample.timings, &other.timings))
        })
        .collect();
    let ratio = |of: fn(&Timings) -> f64| {
        median(&mut pairs.iter().map(|(one, other)| of(one) / of(other)).collect::<Vec<_>>())
    };
    Some(Beside { what, p50: ratio(|timings| timings.p50_us)?, per_s: ratio(|t| t.per_s)? })
}

/// The whole report as text.
pub(crate) fn text(report: &Report) -> String {
    let (machine, method) = (&report.machine, &report.method);
    let mut text = format!(
        "machine  {}, Linux {}; load {} at start\n\
         method   medians of {} rounds, {} s for each load; lanes that {}, 64 slots of 56 bytes \
         on {} KiB pages; nobody is pinned\n",
        machine.cpu,
        machine.kernel,
        machine.load,
        method.rounds,
        method.seconds,
        method.wait.as_flag(),
        method.page_bytes / 1024,
    );
    if machine.load > 0.5 {
        text.push_str("         others are running on this machine: repeat on an idle one\n");
    }
    for grid in grids(report) {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{}\n{}\n", grid.title, grid.text());
    }
    let idle = &report.idle;
    let _ = writeln!(
        text,
        "\nThe agent with {} idle lanes attached: {:.0} us of cpu and {} wake-ups in {:.1} s",
        idle.lanes, idle.cpu_us, idle.sleeps, idle.seconds
    );
    for row in report.rows.iter().filter(|row| row.cell.what.joins_live_lane()) {
        let Some(beside) = &row.beside else { continue };
        let met = if beside.p50 <= ATTACH_WANTED { "met" } else { "missed" };
        let _ = writeln!(
            text,
            "wanted   {}, among {} lanes: at most {ATTACH_WANTED} of iceoryx2's open and port, \
             found {:.2}, {met}",
            row.cell.what.as_str(),
            row.cell.lanes,
            beside.p50
        );
    }
    text
}

/// One table for each number of lanes that were there, and the footprints.
pub(crate) fn grids(report: &Report) -> Vec<Grid> {
    let mut lanes: Vec<u32> = report.rows.iter().map(|row| row.cell.lanes).collect();
    lanes.dedup();
    let mut grids: Vec<Grid> = lanes.into_iter().map(|lanes| times(report, lanes)).collect();
    grids.push(footprints(report));
    grids
}

fn times(report: &Report, lanes: u32) -> Grid {
    let title = format!("With {lanes} lanes there");
    let header = ["work", "callers", "p50 us", "p99 us", "per s", "times p50 of", "times rate of"];
    let mut grid = Grid::new(title, &header);
    for row in report.rows.iter().filter(|row| row.cell.lanes == lanes) {
        let mut line = vec![
            row.cell.what.as_str().to_owned(),
            row.cell.callers.to_string(),
            format!("{:.1}", row.timings.p50_us),
            format!("{:.1}", row.timings.p99_us),
            format!("{:.0}", row.timings.per_s),
        ];
        match (&row.beside, row.cell.what.yardstick()) {
            (Some(beside), Some((_, name))) => {
                line.push(format!("{:.2} {name}", beside.p50));
                line.push(format!("{:.2} {name}", beside.per_s));
            }
            _ => line.extend([String::new(), String::new()]),
        }
        grid.rows.push(line);
    }
    grid
}

fn footprints(report: &Report) -> Grid {
    let title = "What attached lanes cost each process; below the totals, for each lane";
    let header = ["work", "lanes", "rss KiB", "pss KiB", "shared KiB", "fds", "maps"];
    let mut grid = Grid::new(title, &header);
    for found in &report.footprints {
        let total = &found.total;
        let mut line = vec![found.process.as_str().to_owned(), found.lanes.to_string()];
        let numbers = [total.rss_kib, total.pss_kib, total.shared_kib, total.fds, total.maps];
        line.extend(numbers.map(|number| number.to_string()));
        grid.rows.push(line);
        let Some(share) = &found.per_lane else { continue };
        let mut line = vec!["  each".to_owned(), String::new()];
        line.extend(
            [share.rss_bytes, share.pss_bytes, share.shared_bytes]
                .map(|bytes| format!("{:.1}", bytes / 1024.0)),
        );
        line.extend([share.fds, share.maps].map(|count| format!("{count:.2}")));
        grid.rows.push(line);
    }
    grid
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn sample(round: u32, what: What, callers: u32, p50_us: f64) -> Sample {
        let timings = Timings { calls: 10, p50_us, p99_us: p50_us * 2.0, per_s: 1e6 / p50_us };
        Sample { round, cell: Cell { lanes: 16, what, callers }, timings }
    }

    #[test]
    fn a_ratio_is_taken_within_its_round_and_with_as_many_callers() {
        let samples = [
            sample(0, What::Echo, 1, 10.0),
            sample(0, What::Get, 1, 20.0),
            sample(1, What::Echo, 1, 100.0),
            sample(1, What::Get, 1, 300.0),
            sample(2, What::Get, 1, 1.0),
            sample(0, What::Echo, 16, 1.0),
            sample(2, What::Get, 16, 1.0),
        ];
        let rows = rows(&samples);
        let found = |what, callers| {
            let cell = Cell { lanes: 16, what, callers };
            rows.iter().find(|row| row.cell == cell).unwrap()
        };
        let get = found(What::Get, 1);
        assert_eq!((get.timings.calls, get.timings.p50_us), (30, 20.0));
        let beside = get.beside.as_ref().unwrap();
        assert_eq!((beside.what, beside.p50), (What::Echo, 2.5));
        assert!((beside.per_s - (0.5 + 1.0 / 3.0) / 2.0).abs() < 1e-9);
        assert_eq!(found(What::Get, 16).beside, None);
        assert_eq!(found(What::Echo, 1).beside, None);
    }

    #[test]
    fn the_text_says_whether_an_attach_is_as_quick_as_wanted() {
        let samples = [
            sample(0, What::IceoryxPublisher, 1, 1000.0),
            sample(0, What::IceoryxSubscriber, 1, 1000.0),
            sample(0, What::ProducerJoins, 1, 150.0),
            sample(0, What::ConsumerReceives, 1, 250.0),
        ];
        let report = example(&samples);
        let text = text(&report);
        assert!(text.contains("attach producer, consumer there, among 16 lanes"), "{text}");
        assert!(text.contains("found 0.15, met") && text.contains("found 0.25, missed"), "{text}");
        assert!(text.contains("4.0") && text.contains("6.00"), "{text}");
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }

    /// A small result with a call by several numbers of callers.
    pub(crate) fn of_calls() -> Report {
        example(&[1, 16].map(|callers| sample(0, What::Get, callers, 40.0 * f64::from(callers))))
    }

    fn example(samples: &[Sample]) -> Report {
        let usage = Usage { rss_kib: 4, pss_kib: 3, shared_kib: 2, fds: 6, maps: 2 };
        let share = Some(usage.share(&Usage::default(), 1));
        Report {
            machine: crate::example::example().machine,
            method: Method { rounds: 1, seconds: 0.1, page_bytes: 4096, wait: Wait::Spin },
            rows: rows(samples),
            footprints: vec![Footprint {
                lanes: 1,
                process: Process::Agent,
                total: usage,
                per_lane: share,
            }],
            idle: Idle { lanes: 1, seconds: 1.0, cpu_us: 0.0, sleeps: 0 },
            samples: samples.to_vec(),
        }
    }
}
