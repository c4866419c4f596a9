//! What lanes hold, as plain values: the words the ledger and its readers share.
//!
//! No rule lives here; which holdings go together is the ledger's to say.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::capacity::{PageCount, PageSize};

/// What one lane holds.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Holding {
    /// The tenant that pays for it.
    pub tenant: String,
    /// Its pages; several entries where generations overlap.
    pub pages: Vec<PageHolding>,
    /// Its cores, one for each pinned end.
    pub cores: Vec<CoreHolding>,
}

/// Pages of one pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PageHolding {
    /// The NUMA node.
    pub node: u32,
    /// The size of each page.
    pub page_size: PageSize,
    /// How many.
    pub count: PageCount,
}

/// One cpu held for one end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CoreHolding {
    /// The cpu.
    pub cpu: u32,
    /// Whether nobody else may have it.
    pub exclusive: bool,
    /// The end that runs there.
    pub role: Role,
}

/// An end of a lane.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Role {
    /// The end that writes.
    Producer,
    /// An end that reads.
    Consumer,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Producer => "producer",
            Self::Consumer => "consumer",
        })
    }
}

/// Where pages of a live lane stand.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PageState {
    /// Granted, not yet allocated: the kernel still counts them as free.
    Promised,
    /// Allocated: the kernel no longer counts them as free.
    Backed,
}

/// The pages of one pool that the ledger knows of.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PoolUsage {
    /// Granted, not yet allocated.
    pub promised: PageCount,
    /// Allocated for a live lane.
    pub backed: PageCount,
    /// Given up, not yet freed by the kernel.
    pub quarantined: PageCount,
}

/// What all lanes hold together: as large as the machine, however many lanes there are.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Sums {
    pub(super) pools: BTreeMap<(u32, PageSize), PoolUsage>,
    pub(super) holders: BTreeMap<u32, usize>,
}

/// One reason why a cpu is not empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuHolder {
    /// The lane.
    pub key: u128,
    /// Its tenant.
    pub tenant: String,
    /// The end that runs there.
    pub role: Role,
    /// Whether nobody else may have the cpu.
    pub exclusive: bool,
}

/// What one tenant holds, for its quota.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TenantUsage {
    /// Live lanes.
    pub lanes: u64,
    /// Bytes of huge pages, quarantined ones included: they are gone from the pool all the same.
    pub hugepage_bytes: u64,
    /// Core holdings.
    pub cores: u64,
}

impl Sums {
    /// The pages of one pool that are spoken for.
    #[must_use]
    pub fn pool_usage(&self, node: u32, page_size: PageSize) -> PoolUsage {
        self.pools.get(&(node, page_size)).copied().unwrap_or_default()
    }

    /// How many ends hold a cpu.
    #[must_use]
    pub fn cpu_holders(&self, cpu: u32) -> usize {
        self.holders.get(&cpu).copied().unwrap_or_default()
    }
}

impl PoolUsage {
    /// All pages of the pool that are spoken for, or `None` where the sum does not fit.
    #[must_use]
    pub fn total(&self) -> Option<PageCount> {
        self.promised.checked_add(self.backed)?.checked_add(self.quarantined)
    }
}
