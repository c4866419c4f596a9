//! What the demo found, as JSON and as text.

use std::fmt;

use serde::Serialize;

use crate::cli::output::size;
use crate::workload::Tally;

/// How often each kind of process was killed.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Kills {
    pub(super) producer: u32,
    pub(super) consumer: u32,
    pub(super) agent: u32,
}

/// Cores that the streaming lane was granted.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Cores {
    pub(super) producer: Option<u32>,
    pub(super) consumer: Option<u32>,
    /// The worse of the two grades.
    pub(super) grade: String,
    /// How near they are.
    pub(super) relation: String,
}

/// Half a round trip, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
}

/// Everything.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) delivered: u64,
    pub(super) lost: u64,
    pub(super) torn: u64,
    pub(super) out_of_order: u64,
    /// Messages that a consumer's successor saw again: allowed, at most what it had not released.
    pub(super) duplicates: u64,
    pub(super) kills: Kills,
    pub(super) message_bytes: u32,
    pub(super) page_size_bytes: u64,
    /// Why not a larger page size; empty if none was refused.
    pub(super) page_size_why: Vec<String>,
    pub(super) numa_node: u32,
    pub(super) cores: Cores,
    pub(super) throughput_msgs_per_s: f64,
    pub(super) one_way_latency_ns: Latency,
    /// Both ends together while streaming, by tracing them; null if tracing was refused.
    pub(super) data_path_syscalls_per_million: Option<f64>,
    pub(super) data_path_syscalls_note: String,
    /// What this machine or user does not offer.
    pub(super) misses: Vec<String>,
    pub(super) seconds: f64,
}

impl Report {
    pub(super) fn is_clean(&self) -> bool {
        self.lost == 0 && self.torn == 0 && self.out_of_order == 0
    }

    /// Adds what a consumer counted.
    pub(super) fn add(&mut self, tally: &Tally) {
        self.delivered += tally.received;
        self.lost += tally.lost;
        self.torn += tally.torn;
        self.out_of_order += tally.out_of_order;
        self.duplicates += tally.duplicates;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kills { producer, consumer, agent } = self.kills;
        let cpu = |cpu: Option<u32>| cpu.map_or_else(|| "none".to_owned(), |cpu| cpu.to_string());
        let verdict = if self.is_clean() { "nothing lost, torn or out of order" } else { "FAILED" };
        writeln!(f, "{verdict}: {} messages of {} bytes", self.delivered, self.message_bytes)?;
        writeln!(
            f,
            "  lost {}, torn {}, out of order {}, repeated {} (allowed after a consumer's death)",
            self.lost, self.torn, self.out_of_order, self.duplicates
        )?;
        writeln!(f, "  killed with -9: producer {producer}, consumer {consumer}, agent {agent}")?;
        let (pages, node) = (size(self.page_size_bytes), self.numa_node);
        writeln!(f, "  memory: {pages} pages on NUMA node {node}")?;
        for why in &self.page_size_why {
            writeln!(f, "    not larger: {why}")?;
        }
        writeln!(
            f,
            "  cores: producer {}, consumer {}, grade {}, {}",
            cpu(self.cores.producer),
            cpu(self.cores.consumer),
            self.cores.grade,
            self.cores.relation
        )?;
        let millions = self.throughput_msgs_per_s / 1e6;
        writeln!(f, "  streaming: {millions:.1} million messages/s, each byte checked")?;
        let Latency { p50, p99, p999 } = self.one_way_latency_ns;
        writeln!(f, "  one way: p50 {p50:.0} ns, p99 {p99:.0} ns, p99.9 {p999:.0} ns")?;
        match self.data_path_syscalls_per_million {
            Some(calls) => {
                writeln!(f, "  system calls per million messages, both ends: {calls:.3}")?;
            }
            None => writeln!(f, "  system calls: not counted ({})", self.data_path_syscalls_note)?,
        }
        for miss in &self.misses {
            writeln!(f, "  this machine misses {miss}")?;
        }
        write!(f, "  took {:.1} s", self.seconds)
    }
}
