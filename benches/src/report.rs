//! The whole result as one value: what `--json` prints and what tables and plots are made of.

use serde::{Deserialize, Serialize};

use crate::cli::PageSize;
use crate::document::VERSION;
use crate::machine::Machine;
use crate::rounds::{Absent, Found, Sample};
use crate::summary::{self, Duel, Row};
use crate::targets::{self, Target};
use crate::task::Wait;

/// Which command made a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Lanes beside the machine's limits.
    #[default]
    Run,
    /// Lanes beside their rivals.
    Compare,
}

/// Everything that a run found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) version: u32,
    #[serde(default)]
    pub(crate) kind: Kind,
    pub(crate) machine: Machine,
    pub(crate) method: Method,
    pub(crate) targets: Vec<Target>,
    pub(crate) rows: Vec<Row>,
    /// A lane against each rival, both at their best depth of the same round.
    #[serde(default)]
    pub(crate) duels: Vec<Duel>,
    /// What could not be measured, and why.
    #[serde(default)]
    pub(crate) absent: Vec<Absent>,
    pub(crate) samples: Vec<Sample>,
}

impl Report {
    /// Draws the conclusions from what the rounds found.
    pub(crate) fn new(kind: Kind, machine: Machine, method: Method, found: Found) -> Self {
        let Found { samples, absent } = found;
        let (rows, duels) = (summary::rows(&samples), summary::duels(&samples));
        let samples_moved = samples.iter().filter(|sample| sample.class.is_none()).count();
        Self {
            version: VERSION,
            kind,
            machine,
            method: Method { samples_moved, ..method },
            targets: [targets::of_rows(&rows), targets::of_duels(&duels)].concat(),
            rows,
            duels,
            absent,
            samples,
        }
    }
}

/// How it was found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Method {
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) page_size_asked: PageSize,
    /// Page sizes that the lanes got, in bytes.
    pub(crate) page_bytes: Vec<u64>,
    /// Samples whose hand-overs disagreed; they count nowhere.
    pub(crate) samples_moved: usize,
    #[serde(default)]
    pub(crate) wait: Wait,
    /// Whether the ends were pinned to the two cpus.
    #[serde(default = "yes")]
    pub(crate) pinned: bool,
}

/// Reports from before there was a choice.
fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::example;

    #[test]
    fn the_json_form_keeps_its_names_and_reads_back() {
        let report = example();
        let value = serde_json::to_value(&report).unwrap();
        for (pointer, expected) in [
            ("/version", "1"),
            ("/kind", "\"compare\""),
            ("/machine/cpus/1", "1"),
            ("/method/page_size_asked", "\"auto\""),
            ("/method/wait", "\"spin\""),
            ("/method/samples_moved", "1"),
            ("/duels/0/lane_ahead", "10.0"),
            ("/absent/0/who", "\"unix-seqpacket\""),
            ("/samples/0/work", "\"stream\""),
            ("/samples/0/who", "\"laneway\""),
            ("/samples/0/class", "\"near\""),
            ("/samples/0/before/p50_ns", "30.0"),
            ("/rows/0/hand_over_ns", "31.0"),
        ] {
            let found = value.pointer(pointer).map(ToString::to_string);
            assert_eq!(found.as_deref(), Some(expected), "{pointer}");
        }
        assert_eq!(serde_json::from_value::<Report>(value).unwrap(), report);
    }

    #[test]
    fn a_report_from_before_there_were_rivals_is_read() {
        let mut value = serde_json::to_value(example()).unwrap();
        let fields = value.as_object_mut().unwrap();
        for new in ["kind", "duels", "absent"] {
            fields.remove(new);
        }
        for new in ["wait", "pinned"] {
            fields["method"].as_object_mut().unwrap().remove(new);
        }
        for list in ["rows", "samples"] {
            for cell in fields[list].as_array_mut().unwrap() {
                cell.as_object_mut().unwrap().remove("readers").unwrap();
            }
        }
        let report = serde_json::from_value::<Report>(value).unwrap();
        assert!(report.rows.iter().all(|row| row.cell.readers == 1));
        assert_eq!((report.kind, report.method.pinned), (Kind::Run, true));
    }
}
