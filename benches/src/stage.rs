//! What lanes are measured on: a running agent, its lanes, and two workers attached to them.

use std::collections::BTreeSet;

use crate::agent::{Agent, Lanes, Wishes};
use crate::error::BenchError;
use crate::interrupt::Interrupt;
use crate::workers::Workers;

/// Everything that runs during the rounds. Dropped in this order: first the workers, then the
/// agent with its directory and its pages.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) workers: Workers,
    _agent: Agent,
    /// Page sizes that the lanes got, in bytes.
    pub(crate) page_bytes: Vec<u64>,
}

impl Stage {
    /// Starts the agent, creates the lanes of these message sizes and attaches the workers, each
    /// pinned to its cpu where there are `cpus`.
    pub(crate) fn set(
        sizes: &[usize],
        wishes: &Wishes,
        cpus: Option<(u32, u32)>,
        interrupt: &Interrupt,
    ) -> Result<Self, BenchError> {
        let mut agent = Agent::start(sizes, wishes, interrupt)?;
        let mut lanes = Vec::new();
        for &bytes in sizes {
            interrupt.check()?;
            lanes.push(agent.lanes(bytes, wishes)?);
        }
        let workers = Workers::start(cpus, &agent.attach_socket(), &lanes, interrupt)?;
        let pages: BTreeSet<u64> =
            lanes.iter().flat_map(Lanes::all).map(|lane| lane.page_bytes).collect();
        Ok(Self { workers, _agent: agent, page_bytes: pages.into_iter().collect() })
    }
}
