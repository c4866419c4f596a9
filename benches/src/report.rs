//! The whole result as one value: what `--json` prints and what tables and plots are made of.

use serde::{Deserialize, Serialize};

use crate::cli::PageSize;
use crate::machine::Machine;
use crate::rounds::Sample;
use crate::summary::{Row, Target};

/// Version of the JSON form.
pub(crate) const VERSION: u32 = 1;

/// Everything that a run found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) version: u32,
    pub(crate) machine: Machine,
    pub(crate) method: Method,
    pub(crate) targets: Vec<Target>,
    pub(crate) rows: Vec<Row>,
    pub(crate) samples: Vec<Sample>,
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::Class;
    use crate::plan::{Cell, Who};
    use crate::rounds::Probe;
    use crate::summary;
    use crate::task::{Mode, Work};

    #[test]
    fn the_json_form_keeps_its_names_and_reads_back() {
        let probe = Probe { typical_ns: 30.5, p50_ns: 30.0, p99_ns: 40.0 };
        let samples = vec![Sample {
            round: 0,
            cell: Cell {
                work: Work::Stream,
                bytes: 56,
                mode: Mode::All,
                who: Who::Laneway,
                depth: 65536,
            },
            class: Some(Class::Near),
            before: probe,
            after: probe,
            latency: None,
            throughput: None,
        }];
        let rows = summary::rows(&samples);
        let report = Report {
            version: VERSION,
            machine: Machine {
                cpu: "test".to_owned(),
                kernel: "6".to_owned(),
                cpus_allowed: vec![0, 1],
                cpus: (0, 1),
                siblings: false,
                virtual_machine: true,
                caches: vec!["L2 1024K".to_owned()],
                load: 0.0,
            },
            method: Method {
                rounds: 1,
                seconds: 0.2,
                page_size_asked: PageSize::Auto,
                page_bytes: vec![2 << 20],
                samples_moved: 0,
            },
            targets: summary::targets(&rows),
            rows,
            samples,
        };
        let value = serde_json::to_value(&report).unwrap();
        for (pointer, expected) in [
            ("/version", "1"),
            ("/machine/cpus/1", "1"),
            ("/method/page_size_asked", "\"auto\""),
            ("/samples/0/work", "\"stream\""),
            ("/samples/0/who", "\"laneway\""),
            ("/samples/0/class", "\"near\""),
            ("/samples/0/before/p50_ns", "30.0"),
            ("/rows/0/hand_over_ns", "30.5"),
        ] {
            let found = value.pointer(pointer).map(ToString::to_string);
            assert_eq!(found.as_deref(), Some(expected), "{pointer}");
        }
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
