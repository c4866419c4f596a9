//! Results of whichever command, as they are read from files and shown on a page.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::broadcast;
use crate::noise;
use crate::page::Block;
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
        }
    }

    /// What a page shows of what is no lane's report.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        match self {
            Self::Lanes(_) => Vec::new(),
            Self::Trials(sheet) => of_trials(sheet),
            Self::Broadcast(report) => of_broadcast(report),
            Self::Noise(findings) => of_noise(findings),
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

/// A value with the version of its form and the kind of what it is.
#[derive(Debug, Serialize, Deserialize)]
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
            Document::Broadcast(Box::new(broadcast::tests::example())),
            Document::Noise(Box::new(noise::example())),
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
        for document in &documents()[2..] {
            let blocks = document.blocks();
            assert!(blocks.iter().any(|block| matches!(block, Block::Grid(_))));
            assert!(blocks.iter().any(|block| matches!(block, Block::Chart(_))));
        }
        let odd = serde_json::json!({ "version": VERSION, "kind": "odd" });
        assert!(Document::from_value(odd).unwrap_err().contains("odd"));
    }
}
