//! The report's tables, and the report as text: what ran where, one table for each kind of work,
//! the promises.

use std::fmt::Write;

use crate::charts::{classes, size};
use crate::class::Class;
use crate::grid::Grid;
use crate::plan::Who;
use crate::report::{Kind, Report};
use crate::summary::{Duel, Row};
use crate::targets::Target;
use crate::task::{Mode, Wait, Work};

/// The whole report as text.
pub(crate) fn text(report: &Report) -> String {
    let mut text = heading(report);
    for grid in grids(report) {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{}\n{}\n", grid.title, grid.text());
    }
    text.push_str(&promises(&report.targets));
    text
}

/// All tables: for each class the latencies, the throughputs and the ratios; then what is not
/// there.
pub(crate) fn grids(report: &Report) -> Vec<Grid> {
    let mut grids = Vec::new();
    for class in classes(report) {
        let rows: Vec<&Row> = report.rows.iter().filter(|row| row.class == class).collect();
        grids.push(latencies(report, class, &rows));
        grids.push(throughputs(report, class, &rows));
        if report.kind == Kind::Compare {
            grids.push(duels(report, class));
        }
    }
    if !report.absent.is_empty() {
        grids.push(absent(report));
    }
    grids.retain(|grid| !grid.rows.is_empty());
    grids
}

/// What ran where, and how.
pub(crate) fn heading(report: &Report) -> String {
    let (machine, method) = (&report.machine, &report.method);
    let pages: Vec<String> = method.page_bytes.iter().map(|&bytes| page(bytes)).collect();
    let kind = if machine.virtual_machine { ", virtual: cpus may move" } else { "" };
    let near = if machine.siblings { ", siblings" } else { "" };
    let mut text = format!(
        "machine  {}, Linux {}{kind}\n         {}; load {} at start\n\
         cpus     {} and {}{near}, of {} allowed; pages {}\n\
         method   {} rounds, {} s each, first tenth discarded; {} of {} samples left out \
         because the cpus moved\n",
        machine.cpu,
        machine.kernel,
        machine.caches.join(", "),
        machine.load,
        machine.cpus.0,
        machine.cpus.1,
        machine.cpus_allowed.len(),
        pages.join(" and "),
        method.rounds,
        method.seconds,
        method.samples_moved,
        report.samples.len(),
    );
    let ends = if method.wait == Wait::Park { "may sleep" } else { "spin" };
    let placed =
        if method.pinned { "" } else { ", not pinned: the class is the two cpus', not theirs" };
    let _ = writeln!(text, "ends     {ends} while they wait{placed}");
    if machine.load > 0.5 {
        text.push_str("         others are running on this machine: repeat on an idle one\n");
    }
    text
}

/// Latencies of one class, the yardstick first.
fn latencies(report: &Report, class: Class, rows: &[&Row]) -> Grid {
    let title = format!(
        "Class {class}: one-way latency in ns, half a round trip with one message in flight"
    );
    let columns = ["p50", "p90", "p99", "p99.9", "max", "hand-overs"];
    let mut grid = Grid::new(title, &header(report, &columns));
    let mut nanos: Vec<f64> = rows.iter().map(|row| row.hand_over_ns).collect();
    if let Some(middle) = crate::recorder::median(&mut nanos) {
        let mut line: Vec<String> = ["8", "line", "hand-over"].map(str::to_owned).into();
        line.resize(identity_width(report), String::new());
        line.push(format!("{middle:.0}"));
        line.extend(["", "", "", "", "1"].map(str::to_owned));
        line.resize(grid.header.len(), String::new());
        grid.rows.push(line);
    }
    for row in rows.iter().filter(|row| row.cell.work == Work::Latency) {
        let Some(latency) = &row.latency else { continue };
        let mut line = identity(report, row);
        line.extend(
            [latency.p50_ns, latency.p90_ns, latency.p99_ns, latency.p999_ns, latency.max_ns]
                .map(|nanos| format!("{nanos:.0}")),
        );
        line.push(format!("{:.2}", latency.times_hand_over));
        if report.kind == Kind::Run {
            line.push(times(row.times_rtrb));
        }
        grid.rows.push(line);
    }
    grid
}

/// Throughputs of one class.
fn throughputs(report: &Report, class: Class, rows: &[&Row]) -> Grid {
    let title = format!("Class {class}: throughput, counted where it arrives");
    let columns = ["publish", "M msg/s", "GB/s"];
    let mut grid = Grid::new(title, &header(report, &columns));
    for row in rows.iter().filter(|row| row.cell.work != Work::Latency) {
        let Some(throughput) = &row.throughput else {
            continue;
        };
        let mut line = identity(report, row);
        line.push(publish(row.cell.work).to_owned());
        line.push(format!("{:.3}", throughput.messages_per_s / 1e6));
        // What was not touched did not travel.
        line.push(match row.cell.mode {
            Mode::All => format!("{:.2}", throughput.bytes_per_s / 1e9),
            Mode::Header => String::new(),
        });
        if report.kind == Kind::Run {
            line.push(times(row.times_rtrb));
        }
        grid.rows.push(line);
    }
    grid
}

/// How far the lane is ahead: rivals in rows, sizes in columns, one block for each work.
pub(crate) fn duels(report: &Report, class: Class) -> Grid {
    let duels: Vec<_> = report.duels.iter().filter(|duel| duel.class == class).collect();
    let mut sizes: Vec<usize> = duels.iter().map(|duel| duel.bytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let names: Vec<String> = sizes.iter().map(|&bytes| size(bytes)).collect();
    let columns: Vec<&str> =
        ["who", "work"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let title = format!(
        "Class {class}: how many times faster a lane is, both at their best depth of the same \
         round; below 1 the rival is faster"
    );
    let mut grid = Grid::new(title, &columns);
    let mut pairs: Vec<(Work, u32, Who)> =
        duels.iter().map(|duel| (duel.work, duel.readers, duel.who)).collect();
    pairs.sort_unstable();
    pairs.dedup();
    for (work, readers, who) in pairs {
        let kind = kind(work, readers);
        let mut line = vec![who.as_str().to_owned(), kind];
        line.extend(sizes.iter().map(|&bytes| {
            let key = (work, readers, who, bytes);
            let same = |duel: &&&Duel| (duel.work, duel.readers, duel.who, duel.bytes) == key;
            let duel = duels.iter().find(same);
            duel.map_or_else(String::new, |duel| format!("{:.2}", duel.lane_ahead))
        }));
        grid.rows.push(line);
    }
    grid
}

/// What was not measured, and why.
fn absent(report: &Report) -> Grid {
    let mut grid = Grid::new("Not measured", &["bytes", "who", "work", "why"]);
    for absent in &report.absent {
        let work = kind(absent.cell.work, absent.cell.readers);
        let (bytes, who) = (absent.cell.bytes.to_string(), absent.cell.who.as_str().to_owned());
        grid.rows.push(vec![bytes, who, work, absent.why.clone()]);
    }
    // Every depth has the same reason, most often.
    grid.rows.dedup();
    grid
}

/// A kind of work as words.
fn kind(work: Work, readers: u32) -> String {
    match work {
        Work::Latency => "latency".to_owned(),
        work if readers > 1 => format!("stream, {}, {readers} readers", publish(work)),
        work => format!("stream, {}", publish(work)),
    }
}

/// Whether there is a choice of readers to show.
fn has_crowds(report: &Report) -> bool {
    report.rows.iter().any(|row| row.cell.readers > 1)
}

fn publish(work: Work) -> &'static str {
    match work {
        Work::Batch => "each 32",
        Work::Stream => "each",
        Work::Latency | Work::Copy => "",
    }
}

/// The columns that every line starts with, those given, and in `run` the ratio to rtrb.
fn header<'a>(report: &Report, columns: &[&'a str]) -> Vec<&'a str> {
    let mut header = vec!["bytes", "mode", "who"];
    if report.kind == Kind::Compare {
        header.extend(["ends", "waits"]);
    }
    header.extend(has_crowds(report).then_some("readers"));
    header.extend(["slots", "rounds"]);
    header.extend(columns);
    if report.kind == Kind::Run {
        header.push("x rtrb");
    }
    header
}

fn identity_width(report: &Report) -> usize {
    let width = if report.kind == Kind::Compare { 7 } else { 5 };
    width + usize::from(has_crowds(report))
}

/// The cells that every line starts with.
fn identity(report: &Report, row: &Row) -> Vec<String> {
    let mode = match row.cell.mode {
        Mode::All => "all",
        Mode::Header => "header",
    };
    let mut line = vec![row.cell.bytes.to_string(), mode.to_owned()];
    line.push(row.cell.who.as_str().to_owned());
    if report.kind == Kind::Compare {
        let who = row.cell.who;
        let sleeps = report.method.wait == Wait::Park || who.always_sleeps();
        let (ends, waits) = match (who.in_process(), sleeps) {
            _ if who == Who::Memcpy => ("1 thread", ""),
            _ if who == Who::Ideal => ("2 threads", "spinning"),
            (true, false) => ("2 threads", "spinning"),
            (true, true) => ("2 threads", "may sleep"),
            (false, false) => ("2 processes", "spinning"),
            (false, true) => ("2 processes", "may sleep"),
        };
        line.extend([ends, waits].map(str::to_owned));
    }
    line.extend(has_crowds(report).then(|| row.cell.readers.to_string()));
    // The kernel's buffers have no slots.
    line.push(if row.cell.depth == 0 { String::new() } else { row.cell.depth.to_string() });
    line.push(row.rounds.to_string());
    line
}

/// The promises, one line each.
pub(crate) fn promises(targets: &[Target]) -> String {
    let mut text = String::new();
    for target in targets {
        let verdict = if target.met { "met" } else { "MISSED" };
        let _ = write!(
            text,
            "\n{verdict:6}  {}: {:.2}, wanted {} ({}, {} rounds)",
            target.name, target.found, target.wanted, target.class, target.rounds
        );
    }
    text
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))
}

/// A page size as people write it.
fn page(bytes: u64) -> String {
    usize::try_from(bytes).map_or_else(|_| format!("{bytes} B"), size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::example;

    #[test]
    fn a_comparison_shows_who_runs_where_how_far_ahead_a_lane_is_and_who_is_missing() {
        let text = text(&example());
        for expected in
            ["2 threads", "2 processes", "spinning", "10.00", "2.00", "no such <socket>"]
        {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }

    #[test]
    fn every_line_of_a_table_has_every_column() {
        let compared = example();
        let run = Report { kind: Kind::Run, ..example() };
        for grid in [grids(&compared), grids(&run)].concat() {
            assert!(!grid.rows.is_empty(), "{}", grid.title);
            for row in &grid.rows {
                assert_eq!(row.len(), grid.header.len(), "{}: {row:?}", grid.title);
            }
        }
    }
}
