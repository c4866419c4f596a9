//! Tables of pages by pool, and the only arithmetic done on them.
//!
//! Every sum is checked and every function changes all of its tables or nothing. Whose pages they
//! are is the ledger's business.

use std::collections::BTreeMap;

use super::{LedgerError, PageHolding, PoolUsage};
use crate::model::capacity::{PageCount, PageSize};

pub(super) type Pool = (u32, PageSize);
/// Pages by pool; no entry is zero.
pub(super) type PageTable = BTreeMap<Pool, PageCount>;

/// A column of the sums by pool.
#[derive(Clone, Copy)]
pub(super) enum Shelf {
    Promised,
    Backed,
    Quarantined,
}

impl Shelf {
    const fn of(self, usage: &mut PoolUsage) -> &mut PageCount {
        match self {
            Self::Promised => &mut usage.promised,
            Self::Backed => &mut usage.backed,
            Self::Quarantined => &mut usage.quarantined,
        }
    }
}

pub(super) fn listed(table: &PageTable) -> Vec<PageHolding> {
    let entry = |((node, page_size), count): (&Pool, &PageCount)| PageHolding {
        node: *node,
        page_size: *page_size,
        count: *count,
    };
    table.iter().map(entry).collect()
}

pub(super) fn put(table: &mut PageTable, page: PageHolding) -> Result<(), LedgerError> {
    let PageHolding { node, page_size, count } = page;
    if count.is_zero() {
        return Ok(());
    }
    let held = table.entry((node, page_size)).or_default();
    let overflow = LedgerError::CountOverflow { node, page_size, added: count };
    *held = held.checked_add(count).ok_or(overflow)?;
    Ok(())
}

pub(super) fn take(key: u128, table: &mut PageTable, page: PageHolding) -> Result<(), LedgerError> {
    let PageHolding { node, page_size, count: asked } = page;
    let held = table.get(&(node, page_size)).copied().unwrap_or_default();
    let short = LedgerError::TooFewPages { key, node, page_size, asked, held };
    let left = held.checked_sub(asked).ok_or(short)?;
    if left.is_zero() {
        table.remove(&(node, page_size));
    } else {
        table.insert((node, page_size), left);
    }
    Ok(())
}

/// Moves pages between the columns of a pool's sum; `None` is the outside. Changes nothing where
/// it fails.
pub(super) fn move_sum(
    pools: &mut BTreeMap<Pool, PoolUsage>,
    page: PageHolding,
    from: Option<Shelf>,
    to: Option<Shelf>,
) -> Result<(), LedgerError> {
    let PageHolding { node, page_size, count } = page;
    let recorded = pools.get(&(node, page_size)).copied().unwrap_or_default();
    let mut usage = recorded;
    if let Some(shelf) = from {
        let column = shelf.of(&mut usage);
        let unbalanced =
            LedgerError::PoolUnbalanced { node, page_size, recorded: *column, counted: count };
        *column = column.checked_sub(count).ok_or(unbalanced)?;
    }
    let overflow = LedgerError::CountOverflow { node, page_size, added: count };
    if let Some(shelf) = to {
        let column = shelf.of(&mut usage);
        *column = column.checked_add(count).ok_or_else(|| overflow.clone())?;
    }
    usage.total().ok_or(overflow)?;
    if usage == PoolUsage::default() {
        pools.remove(&(node, page_size));
    } else {
        pools.insert((node, page_size), usage);
    }
    Ok(())
}
