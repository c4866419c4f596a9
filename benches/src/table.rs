//! The report for people: what ran where, one table for each kind of work, the two promises.

use std::collections::BTreeSet;
use std::fmt::Write;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Cell, CellAlignment, Table};

use crate::class::Class;
use crate::plan::Who;
use crate::report::Report;
use crate::summary::Row;
use crate::task::{Mode, Work};

/// The whole report as text.
pub(crate) fn text(report: &Report) -> String {
    let mut text = heading(report);
    let classes: BTreeSet<Class> = report.rows.iter().map(|row| row.class).collect();
    for class in classes {
        let rows: Vec<&Row> = report.rows.iter().filter(|row| row.class == class).collect();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\nClass {class}: one-way latency in ns, half a round trip with one message in flight\n\
             {}\n\nClass {class}: throughput, counted where it arrives\n{}\n",
            latencies(&rows),
            throughputs(&rows)
        );
    }
    text.push_str(&promises(report));
    text
}

fn heading(report: &Report) -> String {
    let (machine, method) = (&report.machine, &report.method);
    let pages: Vec<String> = method.page_bytes.iter().map(|&bytes| size(bytes)).collect();
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
    if machine.load > 0.5 {
        text.push_str("         others are running on this machine: repeat on an idle one\n");
    }
    text
}

fn latencies(rows: &[&Row]) -> Table {
    let header = [
        "bytes",
        "mode",
        "who",
        "slots",
        "rounds",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max",
        "hand-overs",
        "x rtrb",
    ];
    let mut table = table(&header);
    if let Some(line) = hand_over(rows) {
        table.add_row(right(line));
    }
    for row in rows.iter().filter(|row| row.cell.work == Work::Latency) {
        let Some(latency) = &row.latency else { continue };
        let mut line = identity(row);
        line.extend(
            [latency.p50_ns, latency.p90_ns, latency.p99_ns, latency.p999_ns, latency.max_ns]
                .map(|nanos| format!("{nanos:.0}")),
        );
        line.push(format!("{:.2}", latency.times_hand_over));
        line.push(times(row.times_rtrb));
        table.add_row(right(line));
    }
    table
}

/// The yardstick as the table's first line.
fn hand_over(rows: &[&Row]) -> Option<Vec<String>> {
    let mut nanos: Vec<f64> = rows.iter().map(|row| row.hand_over_ns).collect();
    let middle = crate::recorder::median(&mut nanos)?;
    let mut line: Vec<String> = ["8", "line", "hand-over", "", ""].map(str::to_owned).into();
    line.push(format!("{middle:.0}"));
    line.extend(["", "", "", "", "1", ""].map(str::to_owned));
    Some(line)
}

fn throughputs(rows: &[&Row]) -> Table {
    let header =
        ["bytes", "mode", "who", "slots", "rounds", "publish", "M msg/s", "GB/s", "x rtrb"];
    let mut table = table(&header);
    for row in rows.iter().filter(|row| row.cell.work != Work::Latency) {
        let Some(throughput) = &row.throughput else {
            continue;
        };
        let mut line = identity(row);
        line.push(match row.cell.work {
            Work::Batch => "each 32".to_owned(),
            Work::Stream => "each".to_owned(),
            Work::Latency | Work::Copy => String::new(),
        });
        line.push(format!("{:.3}", throughput.messages_per_s / 1e6));
        // What was not touched did not travel.
        line.push(match row.cell.mode {
            Mode::All => format!("{:.2}", throughput.bytes_per_s / 1e9),
            Mode::Header => String::new(),
        });
        line.push(times(row.times_rtrb));
        table.add_row(right(line));
    }
    table
}

/// The cells that every line starts with.
fn identity(row: &Row) -> Vec<String> {
    let mode = match row.cell.mode {
        Mode::All => "all",
        Mode::Header => "header",
    };
    let depth = match row.cell.who {
        Who::Memcpy => String::new(),
        _ => row.cell.depth.to_string(),
    };
    vec![
        row.cell.bytes.to_string(),
        mode.to_owned(),
        row.cell.who.as_str().to_owned(),
        depth,
        row.rounds.to_string(),
    ]
}

fn promises(report: &Report) -> String {
    let mut text = String::new();
    for target in &report.targets {
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

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(header);
    table
}

/// Numbers to the right, the names in columns two and three to the left.
fn right(line: Vec<String>) -> Vec<Cell> {
    let align = |(column, text): (usize, String)| {
        let side = if matches!(column, 1 | 2) { CellAlignment::Left } else { CellAlignment::Right };
        Cell::new(text).set_alignment(side)
    };
    line.into_iter().enumerate().map(align).collect()
}

/// A size as people write it.
fn size(bytes: u64) -> String {
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit {
            return format!("{} {name}", bytes / unit);
        }
    }
    format!("{bytes} B")
}
