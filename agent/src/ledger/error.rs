//! What the ledger refuses and what its audits find, with the figures that prove it.

use thiserror::Error;

use crate::model::capacity::{PageCount, PageSize};

/// What the ledger refuses, and what an audit finds.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The lane has an account.
    #[error("lane {key:032x} already holds resources")]
    AlreadyHeld {
        /// The lane.
        key: u128,
    },
    /// The lane has no account, or nothing in quarantine.
    #[error("lane {key:032x} holds nothing")]
    NotHeld {
        /// The lane.
        key: u128,
    },
    /// An exclusive cpu or core has a second holder.
    #[error("cpu {cpu} is exclusive but would have {holders} holders")]
    NotExclusive {
        /// The cpu, or the lowest cpu of the core.
        cpu: u32,
        /// How many would hold it.
        holders: usize,
    },
    /// Two tenants would share a cpu or core.
    #[error("cpu {cpu} would be shared by tenants {first:?} and {second:?}")]
    TenantsMixed {
        /// The cpu, or the lowest cpu of the core.
        cpu: u32,
        /// One tenant.
        first: String,
        /// The other one.
        second: String,
    },
    /// More pages are taken than there are.
    #[error("lane {key:032x} gives up {asked} pages of {page_size} on node {node} but has {held}")]
    TooFewPages {
        /// The lane.
        key: u128,
        /// The NUMA node.
        node: u32,
        /// The size of each page.
        page_size: PageSize,
        /// How many were to be taken.
        asked: PageCount,
        /// How many there are.
        held: PageCount,
    },
    /// A sum of pages does not fit its number.
    #[error("the pages of {page_size} on node {node} cannot be counted: {added} more than fit")]
    CountOverflow {
        /// The NUMA node.
        node: u32,
        /// The size of each page.
        page_size: PageSize,
        /// The pages that were to be added.
        added: PageCount,
    },
    /// The sum of a pool is not the sum of its accounts.
    #[error("pages of {page_size} on node {node}: {recorded} recorded, {counted} counted")]
    PoolUnbalanced {
        /// The NUMA node.
        node: u32,
        /// The size of each page.
        page_size: PageSize,
        /// The sum the ledger keeps.
        recorded: PageCount,
        /// The sum over the accounts.
        counted: PageCount,
    },
    /// The holders of a cpu are not those of its accounts.
    #[error("cpu {cpu}: {recorded} holders recorded, {counted} counted")]
    CpuUnbalanced {
        /// The cpu.
        cpu: u32,
        /// The holders the ledger keeps.
        recorded: usize,
        /// The holders over the accounts.
        counted: usize,
    },
}
