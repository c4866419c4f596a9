//! Results of whichever command, as they are read from files and shown on a page.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::broadcast;
use crate::control::{steps, summary as control};
use crate::noise;
use crate::page::Block;
use crate::plot::{Axis, Chart, Series};
use crate::report::Report;
use crate::trial::{self, Sheet};

/// Version of every JSON form.
pub(crate) const VERSION: u32 = 1;

/// One result.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Document {
    /// Of `run` or `compare`.
    Lanes(Box<Report>),
    /// Of `wake`, `copies` or `pause`.
    Trials(Box<Sheet>),
    Broadcast(Box<broadcast::Report>),
    Noise(Box<noise::Findings>),
    Control(Box<control::Report>),
    Steps(Box<steps::Steps>),
}

impl Document {
    /// A result of this version, from its JSON form.
    pub(crate) fn from_value(value: Value) -> Result<Self, String> {
        match value.get("version").and_then(Value::as_u64) {
            Some(version) if version == u64::from(VERSION) => {}
            Some(other) => {
                return Err(format!("it has version {other}, this program reads {VERSION}"));
            }
            None => return Err("it is no result of `laneway-bench`".to_owned()),
        }
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or("run").to_owned();
        match kind.as_str() {
            "run" | "compare" => read(value).map(Self::Lanes),
            "wake" | "copies" | "pause" => read(value).map(Self::Trials),
            "broadcast" => read(value).map(Self::Broadcast),
            "noise" => read(value).map(Self::Noise),
            "control" => read(value).map(Self::Control),
            "control-steps" => read(value).map(Self::Steps),
            other => Err(format!("it is of the kind `{other}`, which has no page")),
        }
    }

    /// Its JSON form.
    pub(crate) fn to_value(&self) -> serde_json::Result<Value> {
        match self {
            Self::Lanes(report) => serde_json::to_value(report),
            Self::Trials(sheet) => serde_json::to_value(sheet),
            Self::Broadcast(report) => serde_json::to_value(Marked::new("broadcast", report)),
            Self::Noise(findings) => serde_json::to_value(noise::json(findings)),
            Self::Control(report) => serde_json::to_value(Marked::new("control", report)),
            Self::Steps(steps) => serde_json::to_value(Marked::new("control-steps", steps)),
        }
    }

    /// What a page shows of what is no lane's report.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        match self {
            Self::Lanes(_) => Vec::new(),
            Self::Trials(sheet) => of_trials(sheet),
            Self::Broadcast(report) => of_broadcast(report),
            Self::Noise(findings) => of_noise(findings),
            Self::Control(report) => of_control(report),
            Self::Steps(steps) => of_steps(steps),
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<Box<T>, String> {
    serde_json::from_value(value).map(Box::new).map_err(|error| error.to_string())
}

fn of_trials(sheet: &Sheet) -> Vec<Block> {
    let name = match sheet.kind {
        trial::Kind::Wake => "Ends that sleep, and ends that may",
        trial::Kind::Copies => "Copies",
        trial::Kind::Pause => "A pause in the spin",
    };
    let mut blocks = vec![Block::Heading(1, name.to_owned()), Block::Lines(trial::heading(sheet))];
    if !sheet.targets.is_empty() {
        blocks.push(Block::promises(&sheet.targets));
    }
    blocks.extend(trial::charts(sheet).into_iter().map(Block::Chart));
    blocks.extend(trial::grids(sheet).into_iter().map(Block::Grid));
    blocks
}

fn of_broadcast(report: &broadcast::Report) -> Vec<Block> {
    let name = format!("What a broadcast costs its producer, {}", report.policy.as_str());
    let mut blocks = vec![Block::Heading(1, name), Block::Lines(broadcast::heading(report))];
    blocks.extend(broadcast::charts(report).into_iter().map(Block::Chart));
    blocks.push(Block::Grid(broadcast::grid(report)));
    blocks.push(Block::Lines(broadcast::verdicts(report)));
    blocks
}

fn of_noise(findings: &noise::Findings) -> Vec<Block> {
    vec![
        Block::Heading(1, "What a granted core is worth".to_owned()),
        Block::Lines(noise::heading(findings)),
        Block::Chart(noise::chart(findings)),
        Block::Grid(noise::grid(findings)),
        Block::Lines(noise::notes(findings)),
    ]
}

fn of_control(report: &control::Report) -> Vec<Block> {
    // Its text without the tables: what ran where before them, the promises behind.
    let text = control::text(report);
    let mut parts = text.split("\n\n");
    let heading = parts.next().unwrap_or_default().to_owned();
    let notes = parts.last().unwrap_or_default().to_owned();
    let mut blocks = vec![Block::Heading(1, "The agent".to_owned()), Block::Lines(heading)];
    blocks.extend(calls_by_callers(report).into_iter().map(Block::Chart));
    blocks.extend(control::grids(report).into_iter().map(Block::Grid));
    blocks.push(Block::Lines(notes));
    blocks
}

fn of_steps(found: &steps::Steps) -> Vec<Block> {
    let heading = Block::Heading(1, "Where the time of an attach goes".to_owned());
    let grids = steps::grids(found).into_iter().map(Block::Grid);
    [heading, Block::Lines(steps::heading(found))].into_iter().chain(grids).collect()
}

/// The median of each call by the number of its callers, for each number of lanes.
fn calls_by_callers(report: &control::Report) -> Vec<Chart> {
    let lanes: BTreeSet<u32> = report.rows.iter().map(|row| row.cell.lanes).collect();
    let chart = |lanes| {
        let mut curves: BTreeMap<_, Vec<(f64, f64)>> = BTreeMap::new();
        for row in report.rows.iter().filter(|row| row.cell.lanes == lanes) {
            let point = (f64::from(row.cell.callers), row.timings.p50_us * 1e3);
            curves.entry(row.cell.what).or_default().push(point);
        }
        let several = curves.into_iter().filter(|(_, points)| points.len() > 1);
        let series = several.map(|(what, points)| Series {
            name: what.as_str().to_owned(),
            points,
            first: false,
        });
        Chart {
            title: format!("Median of a call by callers at the same time, {lanes} lanes there"),
            x: Axis::Count,
            y: Axis::Nanos,
            series: series.collect(),
            limit: None,
        }
    };
    lanes.into_iter().map(chart).collect()
}

/// A value with the version of its form and the kind of what it is.
#[derive(Debug, Serialize)]
pub(crate) struct Marked<T> {
    version: u32,
    kind: String,
    #[serde(flatten)]
    value: T,
}

impl<T> Marked<T> {
    pub(crate) fn new(kind: &str, value: T) -> Self {
        Self { version: VERSION, kind: kind.to_owned(), value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::example;

    /// Every kind of result there is.
    fn documents() -> Vec<Document> {
        vec![
            Document::Lanes(Box::new(example())),
            Document::Trials(Box::new(trial::tests::example())),
            Document::Steps(Box::new(steps::tests::example())),
            Document::Broadcast(Box::new(broadcast::tests::example())),
            Document::Noise(Box::new(noise::example())),
            Document::Control(Box::new(control::tests::of_calls())),
        ]
    }

    #[test]
    fn every_kind_has_version_and_kind_in_its_json_form_and_reads_back() {
        for document in documents() {
            let value = document.to_value().unwrap();
            assert_eq!(value["version"], VERSION, "{value}");
            assert!(value["kind"].is_string(), "{value}");
            let mut newer = value.clone();
            assert_eq!(Document::from_value(value).unwrap(), document);
            newer["version"] = 9.into();
            assert!(Document::from_value(newer).unwrap_err().contains('9'));
        }
    }

    #[test]
    fn every_kind_is_shown_with_a_table_and_a_picture_and_of_an_unknown_one_is_said_so() {
        for document in &documents()[3..] {
            let blocks = document.blocks();
            let lines = blocks.iter().filter(|block| matches!(block, Block::Lines(_)));
            assert_eq!(lines.count(), 2, "{blocks:?}");
            assert!(blocks.iter().any(|block| matches!(block, Block::Grid(_))));
            assert!(blocks.iter().any(|block| matches!(block, Block::Chart(_))));
        }
        // Steps have no curves.
        let steps = documents()[2].blocks();
        assert!(matches!(steps[..], [Block::Heading(..), Block::Lines(_), Block::Grid(_)]));
        let odd = serde_json::json!({ "version": VERSION, "kind": "odd" });
        assert!(Document::from_value(odd).unwrap_err().contains("odd"));
    }
}
