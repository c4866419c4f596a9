//! Who holds which pages and which cores of this node.
//!
//! Owns the accounts of all lanes and the rule that nothing is given twice or lost: every call
//! changes all of it or nothing. The controller writes it; placement and admission read it. Does
//! not know what the machine has (the topology does), so it counts holdings, not what is left;
//! makes and frees nothing itself.
//!
//! Pages are *promised* from the grant until the kernel has allocated them, then *backed*: from
//! there on the kernel's own free counts no longer include them. Pages given up are *quarantined*
//! until the kernel has them back, because a peer may still map them.

mod error;
mod holding;
mod pages;

use std::collections::BTreeMap;

pub use error::LedgerError;
pub use holding::{
    CoreHolding, CpuHolder, Holding, PageHolding, PageState, PoolUsage, Role, Sums, TenantUsage,
};

use crate::model::capacity::PageSize;
use crate::model::topology::Topology;
use pages::{PageTable, Pool, Shelf, listed, move_sum, put, take};

/// The books of one node.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Ledger {
    accounts: BTreeMap<u128, Account>,
    /// Outlives the account: the key may be long gone when its last peer unmaps.
    quarantine: BTreeMap<u128, Quarantine>,
    /// The sums of the above by pool; [`Ledger::audit`] recounts them. No entry is all zero.
    pools: BTreeMap<Pool, PoolUsage>,
    /// The core holdings of the accounts by cpu, in the order they were granted.
    cpus: BTreeMap<u32, Vec<CpuHolder>>,
}

impl Ledger {
    /// Empty books.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens the account of a lane; its pages are promised.
    ///
    /// # Errors
    /// When the lane has an account already, or one of its cpus is not to be had.
    pub fn grant(&mut self, key: u128, holding: Holding) -> Result<(), LedgerError> {
        if self.accounts.contains_key(&key) {
            return Err(LedgerError::AlreadyHeld { key });
        }
        self.check_cores(key, &holding)?;
        let Holding { tenant, pages, cores } = holding;
        let mut draft = self.pools.clone();
        let mut account =
            Account { tenant, cores, promised: BTreeMap::new(), backed: BTreeMap::new() };
        for page in pages {
            put(&mut account.promised, page)?;
            move_sum(&mut draft, page, None, Some(Shelf::Promised))?;
        }

        for core in &account.cores {
            let CoreHolding { cpu, exclusive, role } = *core;
            let holder = CpuHolder { key, tenant: account.tenant.clone(), role, exclusive };
            self.cpus.entry(cpu).or_default().push(holder);
        }
        self.pools = draft;
        self.accounts.insert(key, account);
        Ok(())
    }

    /// Promises further pages to a lane, for another generation.
    ///
    /// # Errors
    /// When the lane has no account.
    pub fn add_pages(&mut self, key: u128, page: PageHolding) -> Result<(), LedgerError> {
        let account = self.accounts.get_mut(&key).ok_or(LedgerError::NotHeld { key })?;
        // The sum over the pool is never below the sum of one account, so it overflows first.
        move_sum(&mut self.pools, page, None, Some(Shelf::Promised))?;
        put(&mut account.promised, page)
    }

    /// Notes that the kernel has allocated all promised pages of a lane. Read the free counts anew
    /// before the next placement: these pages are no longer subtracted from them.
    ///
    /// # Errors
    /// When the lane has no account.
    pub fn mark_backed(&mut self, key: u128) -> Result<(), LedgerError> {
        let account = self.accounts.get_mut(&key).ok_or(LedgerError::NotHeld { key })?;
        for page in listed(&std::mem::take(&mut account.promised)) {
            move_sum(&mut self.pools, page, Some(Shelf::Promised), Some(Shelf::Backed))?;
            put(&mut account.backed, page)?;
        }
        Ok(())
    }

    /// Takes pages off a lane that the kernel has back already, or was never asked for.
    ///
    /// # Errors
    /// When the lane does not hold so many pages in that state.
    pub fn remove_pages(
        &mut self,
        key: u128,
        state: PageState,
        page: PageHolding,
    ) -> Result<(), LedgerError> {
        let account = self.accounts.get_mut(&key).ok_or(LedgerError::NotHeld { key })?;
        let (table, shelf) = match state {
            PageState::Promised => (&mut account.promised, Shelf::Promised),
            PageState::Backed => (&mut account.backed, Shelf::Backed),
        };
        take(key, table, page)?;
        move_sum(&mut self.pools, page, Some(shelf), None)
    }

    /// Takes backed pages off a lane that somebody may still map.
    ///
    /// # Errors
    /// When the lane does not hold so many backed pages.
    pub fn quarantine(&mut self, key: u128, page: PageHolding) -> Result<(), LedgerError> {
        let account = self.accounts.get_mut(&key).ok_or(LedgerError::NotHeld { key })?;
        take(key, &mut account.backed, page)?;
        let tenant = account.tenant.clone();
        self.put_in_quarantine(key, tenant, page)
    }

    /// Notes that the kernel has quarantined pages of a lane back.
    ///
    /// # Errors
    /// When not so many pages of the lane are in quarantine.
    pub fn free_quarantined(&mut self, key: u128, page: PageHolding) -> Result<(), LedgerError> {
        let entry = self.quarantine.get_mut(&key).ok_or(LedgerError::NotHeld { key })?;
        take(key, &mut entry.pages, page)?;
        if entry.pages.is_empty() {
            self.quarantine.remove(&key);
        }
        move_sum(&mut self.pools, page, Some(Shelf::Quarantined), None)
    }

    /// Closes the account of a lane whose pages the kernel has back, or was never asked for, and
    /// returns what it held. Quarantined pages stay in quarantine.
    ///
    /// # Errors
    /// When the lane has no account.
    pub fn release(&mut self, key: u128) -> Result<Holding, LedgerError> {
        let account = self.close(key)?;
        let backed = listed(&account.backed);
        for page in &backed {
            move_sum(&mut self.pools, *page, Some(Shelf::Backed), None)?;
        }
        let mut pages = listed(&account.promised);
        pages.extend(backed);
        Ok(Holding { tenant: account.tenant, pages, cores: account.cores })
    }

    /// Closes the account of a lane whose peers may still map its pages: the backed ones go into
    /// quarantine. Returns those.
    ///
    /// # Errors
    /// When the lane has no account.
    pub fn retire(&mut self, key: u128) -> Result<Vec<PageHolding>, LedgerError> {
        let account = self.close(key)?;
        let backed = listed(&account.backed);
        for page in &backed {
            self.put_in_quarantine(key, account.tenant.clone(), *page)?;
        }
        Ok(backed)
    }

    /// The pages of one pool that are spoken for.
    #[must_use]
    pub fn pool_usage(&self, node: u32, page_size: PageSize) -> PoolUsage {
        self.pools.get(&(node, page_size)).copied().unwrap_or_default()
    }

    /// Who holds a cpu.
    #[must_use]
    pub fn cpu_holders(&self, cpu: u32) -> &[CpuHolder] {
        self.cpus.get(&cpu).map_or(&[], Vec::as_slice)
    }

    /// What all lanes hold together, for those who look while the books are written.
    #[must_use]
    pub fn sums(&self) -> Sums {
        let holders = self.cpus.iter().map(|(cpu, holders)| (*cpu, holders.len())).collect();
        Sums { pools: self.pools.clone(), holders }
    }

    /// What a lane holds, promised and backed; `None` where it has no account.
    #[must_use]
    pub fn holding(&self, key: u128) -> Option<Holding> {
        let account = self.accounts.get(&key)?;
        let mut pages = listed(&account.promised);
        pages.extend(listed(&account.backed));
        Some(Holding { tenant: account.tenant.clone(), pages, cores: account.cores.clone() })
    }

    /// The lanes that have an account, ascending.
    pub fn keys(&self) -> impl Iterator<Item = u128> + '_ {
        self.accounts.keys().copied()
    }

    /// The pages in quarantine, with the lane that gave them up.
    pub fn quarantined(&self) -> impl Iterator<Item = (u128, PageHolding)> + '_ {
        self.quarantine
            .iter()
            .flat_map(|(key, entry)| listed(&entry.pages).into_iter().map(move |page| (*key, page)))
    }

    /// What a tenant holds.
    #[must_use]
    pub fn tenant_usage(&self, tenant: &str) -> TenantUsage {
        let mut usage = TenantUsage::default();
        let mut count = |pages: &PageTable| {
            for page in listed(pages).iter().filter(|page| page.page_size.is_huge()) {
                let bytes = page.count.bytes(page.page_size).unwrap_or(u64::MAX);
                usage.hugepage_bytes = usage.hugepage_bytes.saturating_add(bytes);
            }
        };
        for account in self.accounts.values().filter(|account| account.tenant == tenant) {
            count(&account.promised);
            count(&account.backed);
        }
        for entry in self.quarantine.values().filter(|entry| entry.tenant == tenant) {
            count(&entry.pages);
        }
        for account in self.accounts.values().filter(|account| account.tenant == tenant) {
            usage.lanes += 1;
            usage.cores += u64::try_from(account.cores.len()).unwrap_or(u64::MAX);
        }
        usage
    }

    /// Recounts everything from the accounts and compares: nothing lost, nothing given twice.
    ///
    /// # Errors
    /// When the books do not balance, which no sequence of calls may bring about.
    pub fn audit(&self) -> Result<(), LedgerError> {
        let mut counted = BTreeMap::new();
        let live = self.accounts.values();
        let shelves = live
            .flat_map(|account| {
                [(&account.promised, Shelf::Promised), (&account.backed, Shelf::Backed)]
            })
            .chain(self.quarantine.values().map(|entry| (&entry.pages, Shelf::Quarantined)));
        for (table, shelf) in shelves {
            for page in listed(table) {
                move_sum(&mut counted, page, None, Some(shelf))?;
            }
        }
        for pool in self.pools.keys().chain(counted.keys()) {
            let (recorded, counted) = (self.pools.get(pool), counted.get(pool));
            if recorded != counted {
                return Err(LedgerError::PoolUnbalanced {
                    node: pool.0,
                    page_size: pool.1,
                    recorded: recorded.and_then(PoolUsage::total).unwrap_or_default(),
                    counted: counted.and_then(PoolUsage::total).unwrap_or_default(),
                });
            }
        }
        self.audit_cpus()
    }

    /// Checks what needs the machine's help: cores of two tenants, and threads beside an exclusive
    /// one. A cpu the topology does not know is passed over; it went offline under its lane.
    ///
    /// # Errors
    /// Names the first core that is shared against the rules.
    pub fn audit_cores(&self, topology: &Topology) -> Result<(), LedgerError> {
        let mut cores: BTreeMap<u32, Vec<&CpuHolder>> = BTreeMap::new();
        for (cpu, holders) in &self.cpus {
            if let Some(cpu) = topology.cpu(*cpu) {
                cores.entry(cpu.core).or_default().extend(holders);
            }
        }
        cores.iter().try_for_each(|(core, holders)| check_holders(*core, holders))
    }

    fn audit_cpus(&self) -> Result<(), LedgerError> {
        let mut counted: BTreeMap<u32, usize> = BTreeMap::new();
        for core in self.accounts.values().flat_map(|account| &account.cores) {
            *counted.entry(core.cpu).or_default() += 1;
        }
        for cpu in self.cpus.keys().chain(counted.keys()) {
            let holders: Vec<&CpuHolder> = self.cpu_holders(*cpu).iter().collect();
            let counted = counted.get(cpu).copied().unwrap_or_default();
            if holders.len() != counted || counted == 0 {
                let recorded = holders.len();
                return Err(LedgerError::CpuUnbalanced { cpu: *cpu, recorded, counted });
            }
            check_holders(*cpu, &holders)?;
        }
        Ok(())
    }

    /// Whether each cpu of a new holding may be had, next to those who hold it and to each other.
    fn check_cores(&self, key: u128, holding: &Holding) -> Result<(), LedgerError> {
        for (index, core) in holding.cores.iter().enumerate() {
            let CoreHolding { cpu, exclusive, role } = *core;
            let asked = CpuHolder { key, tenant: holding.tenant.clone(), role, exclusive };
            let mut holders: Vec<&CpuHolder> = self.cpu_holders(cpu).iter().collect();
            let earlier = holding.cores.iter().take(index).filter(|other| other.cpu == cpu);
            let earlier: Vec<CpuHolder> = earlier
                .map(|other| CpuHolder { exclusive: other.exclusive, ..asked.clone() })
                .collect();
            holders.extend(&earlier);
            holders.push(&asked);
            check_holders(cpu, &holders)?;
        }
        Ok(())
    }

    /// Takes the account out with its cores and its promises; the backed pages are the caller's.
    fn close(&mut self, key: u128) -> Result<Account, LedgerError> {
        let account = self.accounts.remove(&key).ok_or(LedgerError::NotHeld { key })?;
        for core in &account.cores {
            if let Some(holders) = self.cpus.get_mut(&core.cpu) {
                holders.retain(|holder| holder.key != key);
                if holders.is_empty() {
                    self.cpus.remove(&core.cpu);
                }
            }
        }
        for page in listed(&account.promised) {
            move_sum(&mut self.pools, page, Some(Shelf::Promised), None)?;
        }
        Ok(account)
    }

    fn put_in_quarantine(
        &mut self,
        key: u128,
        tenant: String,
        page: PageHolding,
    ) -> Result<(), LedgerError> {
        move_sum(&mut self.pools, page, Some(Shelf::Backed), Some(Shelf::Quarantined))?;
        let fresh = || Quarantine { tenant, pages: BTreeMap::new() };
        let entry = self.quarantine.entry(key).or_insert_with(fresh);
        let result = put(&mut entry.pages, page);
        // A holding of no pages must not leave an empty entry behind.
        if entry.pages.is_empty() {
            self.quarantine.remove(&key);
        }
        result
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Account {
    tenant: String,
    cores: Vec<CoreHolding>,
    promised: PageTable,
    backed: PageTable,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Quarantine {
    tenant: String,
    pages: PageTable,
}

/// The two rules of sharing, for all holders of one cpu or one core.
fn check_holders(cpu: u32, holders: &[&CpuHolder]) -> Result<(), LedgerError> {
    let mut tenants = holders.iter().map(|holder| &holder.tenant);
    if let Some(first) = tenants.next()
        && let Some(second) = tenants.find(|tenant| *tenant != first)
    {
        return Err(LedgerError::TenantsMixed {
            cpu,
            first: first.clone(),
            second: second.clone(),
        });
    }
    if holders.len() > 1 && holders.iter().any(|holder| holder.exclusive) {
        return Err(LedgerError::NotExclusive { cpu, holders: holders.len() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::capacity::PageCount;
    use crate::sysfs::fixture;

    const M2: PageSize = PageSize::HUGE_2M;

    fn pages(node: u32, count: u64) -> PageHolding {
        PageHolding { node, page_size: M2, count: PageCount::new(count) }
    }

    fn core(cpu: u32, exclusive: bool) -> CoreHolding {
        CoreHolding { cpu, exclusive, role: Role::Producer }
    }

    fn holding(tenant: &str, page: PageHolding, cores: &[CoreHolding]) -> Holding {
        Holding { tenant: tenant.to_owned(), pages: vec![page], cores: cores.to_vec() }
    }

    fn with_lane(key: u128, holding: Holding) -> Ledger {
        let mut ledger = Ledger::new();
        ledger.grant(key, holding).unwrap();
        ledger
    }

    fn usage(ledger: &Ledger) -> [u64; 3] {
        let usage = ledger.pool_usage(0, M2);
        [usage.promised.get(), usage.backed.get(), usage.quarantined.get()]
    }

    #[test]
    fn granted_pages_are_promised_until_the_kernel_has_allocated_them() {
        let mut ledger = with_lane(1, holding("dx", pages(0, 4), &[]));
        assert_eq!(usage(&ledger), [4, 0, 0]);
        ledger.mark_backed(1).unwrap();
        assert_eq!(usage(&ledger), [0, 4, 0]);
        ledger.add_pages(1, pages(0, 3)).unwrap();
        assert_eq!(usage(&ledger), [3, 4, 0]);
    }

    #[test]
    fn a_lane_is_granted_once() {
        let mut ledger = with_lane(1, holding("dx", pages(0, 4), &[]));
        let again = ledger.grant(1, holding("dx", pages(0, 1), &[]));
        assert_eq!(again, Err(LedgerError::AlreadyHeld { key: 1 }));
        assert_eq!(usage(&ledger), [4, 0, 0]);
    }

    #[test]
    fn a_released_lane_leaves_nothing_behind() {
        let held = holding("dx", pages(0, 4), &[core(2, true)]);
        let mut ledger = with_lane(1, held.clone());
        ledger.mark_backed(1).unwrap();
        assert_eq!(ledger.release(1), Ok(held));
        assert_eq!(ledger, Ledger::new());
    }

    #[test]
    fn a_retired_lane_frees_its_cores_but_not_its_pages() {
        let mut ledger = with_lane(1, holding("dx", pages(0, 4), &[core(2, true)]));
        ledger.mark_backed(1).unwrap();
        ledger.add_pages(1, pages(0, 1)).unwrap();
        assert_eq!(ledger.retire(1), Ok(vec![pages(0, 4)]));
        assert_eq!(usage(&ledger), [0, 0, 4]);
        assert!(ledger.cpu_holders(2).is_empty());
        assert_eq!(ledger.quarantined().collect::<Vec<_>>(), [(1, pages(0, 4))]);
    }

    #[test]
    fn quarantined_pages_count_until_the_kernel_has_them_back() {
        let mut ledger = with_lane(1, holding("dx", pages(0, 4), &[]));
        ledger.mark_backed(1).unwrap();
        ledger.quarantine(1, pages(0, 3)).unwrap();
        ledger.release(1).unwrap();
        assert_eq!(ledger.tenant_usage("dx").hugepage_bytes, 3 * M2.bytes());
        ledger.free_quarantined(1, pages(0, 3)).unwrap();
        assert_eq!(ledger, Ledger::new());
    }

    #[test]
    fn pages_that_are_not_held_cannot_be_given_up() {
        let mut ledger = with_lane(1, holding("dx", pages(0, 4), &[]));
        let short = |held| LedgerError::TooFewPages {
            key: 1,
            node: 0,
            page_size: M2,
            asked: PageCount::new(5),
            held: PageCount::new(held),
        };
        let removed = ledger.remove_pages(1, PageState::Promised, pages(0, 5));
        assert_eq!(removed, Err(short(4)));
        assert_eq!(ledger.quarantine(1, pages(0, 5)), Err(short(0)));
        assert_eq!(ledger.free_quarantined(1, pages(0, 5)), Err(LedgerError::NotHeld { key: 1 }));
        assert_eq!(usage(&ledger), [4, 0, 0]);
    }

    #[test]
    fn an_exclusive_cpu_has_one_holder() {
        let mut ledger = with_lane(1, holding("dx", pages(0, 1), &[core(2, true)]));
        let taken = LedgerError::NotExclusive { cpu: 2, holders: 2 };
        for exclusive in [true, false] {
            let second = ledger.grant(2, holding("dx", pages(0, 1), &[core(2, exclusive)]));
            assert_eq!(second, Err(taken.clone()));
        }
        let twice = [core(3, false), core(3, true)];
        assert!(ledger.grant(3, holding("dx", pages(0, 1), &twice)).is_err());
        assert_eq!(usage(&ledger), [1, 0, 0]);
    }

    #[test]
    fn a_shared_cpu_has_holders_of_one_tenant() {
        let mut ledger = with_lane(1, holding("dx", pages(0, 1), &[core(2, false)]));
        ledger.grant(2, holding("dx", pages(0, 1), &[core(2, false)])).unwrap();
        assert_eq!(ledger.cpu_holders(2).len(), 2);
        let mixed = ledger.grant(3, holding("px", pages(0, 1), &[core(2, false)]));
        assert!(matches!(mixed, Err(LedgerError::TenantsMixed { cpu: 2, .. })), "{mixed:?}");
    }

    #[test]
    fn a_count_that_does_not_fit_changes_nothing() {
        let mut ledger = with_lane(1, holding("dx", pages(0, u64::MAX), &[]));
        let before = ledger.clone();
        let error = ledger.grant(2, holding("dx", pages(0, 1), &[core(1, false)])).unwrap_err();
        assert!(matches!(error, LedgerError::CountOverflow { node: 0, .. }), "{error}");
        assert!(ledger.add_pages(1, pages(0, 1)).is_err());
        assert_eq!(ledger, before);
    }

    #[test]
    fn a_tenant_is_charged_for_lanes_huge_pages_and_cores() {
        let mut ledger = with_lane(1, holding("dx", pages(0, 2), &[core(2, false)]));
        let small = PageHolding { page_size: PageSize::BASE_4K, ..pages(0, 9) };
        ledger.grant(2, holding("dx", small, &[core(2, false), core(3, true)])).unwrap();
        ledger.grant(3, holding("px", pages(0, 7), &[])).unwrap();
        let expected = TenantUsage { lanes: 2, hugepage_bytes: 2 * M2.bytes(), cores: 3 };
        assert_eq!(ledger.tenant_usage("dx"), expected);
    }

    #[test]
    fn the_sums_are_those_of_the_books_and_do_not_grow_with_the_lanes() {
        let mut ledger = Ledger::new();
        for key in 0..1000 {
            ledger.grant(key, holding("dx", pages(0, 2), &[core(2, false)])).unwrap();
        }
        ledger.mark_backed(7).unwrap();
        ledger.retire(7).unwrap();
        let sums = ledger.sums();
        assert_eq!(sums.pool_usage(0, M2), ledger.pool_usage(0, M2));
        assert_eq!(sums.pool_usage(1, M2), PoolUsage::default());
        assert_eq!([2, 3].map(|cpu| sums.cpu_holders(cpu)), [999, 0]);
        assert_eq!((sums.pools.len(), sums.holders.len()), (1, 1));
    }

    #[test]
    fn an_audit_finds_a_lost_page() {
        let mut ledger = with_lane(1, holding("dx", pages(0, 4), &[]));
        ledger.pools.clear();
        let found = LedgerError::PoolUnbalanced {
            node: 0,
            page_size: M2,
            recorded: PageCount::ZERO,
            counted: PageCount::new(4),
        };
        assert_eq!(ledger.audit(), Err(found));
    }

    #[test]
    fn an_audit_finds_a_lost_core() {
        let mut ledger = with_lane(1, holding("dx", pages(0, 4), &[core(2, true)]));
        ledger.cpus.clear();
        let found = LedgerError::CpuUnbalanced { cpu: 2, recorded: 0, counted: 1 };
        assert_eq!(ledger.audit(), Err(found));
    }

    #[test]
    fn an_audit_of_cores_finds_neighbours_on_one_core() {
        let topology = fixture::load("two-socket");
        let mut ledger = with_lane(1, holding("dx", pages(0, 1), &[core(0, false)]));
        ledger.grant(2, holding("dx", pages(0, 1), &[core(1, true)])).unwrap();
        assert_eq!(ledger.audit_cores(&topology), Ok(()));
        // Cpu 16 is the second thread of the core of cpu 0.
        ledger.grant(3, holding("px", pages(0, 1), &[core(16, false)])).unwrap();
        assert_eq!(ledger.audit(), Ok(()));
        let found = ledger.audit_cores(&topology);
        assert!(matches!(found, Err(LedgerError::TenantsMixed { cpu: 0, .. })), "{found:?}");
    }

    /// Everything that can be asked of a ledger, over few enough lanes and pools to collide.
    #[derive(Clone, Debug)]
    enum Command {
        Grant { tenant: bool, page: PageHolding, cpus: Vec<(u32, bool)> },
        AddPages(PageHolding),
        MarkBacked,
        RemovePages(PageState, PageHolding),
        Quarantine(PageHolding),
        FreeQuarantined(PageHolding),
        Release,
        Retire,
    }

    fn command() -> impl Strategy<Value = (u128, Command)> {
        let page = (0u32..2, 0usize..3, 0u64..6).prop_map(|(node, size, count)| PageHolding {
            node,
            page_size: PageSize::ALL[size],
            count: PageCount::new(count),
        });
        let state = prop_oneof![Just(PageState::Promised), Just(PageState::Backed)];
        let cpus = prop::collection::vec((0u32..4, prop::bool::weighted(0.3)), 0..3);
        let command = prop_oneof![
            3 => (any::<bool>(), page.clone(), cpus)
                .prop_map(|(tenant, page, cpus)| Command::Grant { tenant, page, cpus }),
            1 => page.clone().prop_map(Command::AddPages),
            2 => Just(Command::MarkBacked),
            1 => (state, page.clone()).prop_map(|(state, page)| Command::RemovePages(state, page)),
            1 => page.clone().prop_map(Command::Quarantine),
            1 => page.prop_map(Command::FreeQuarantined),
            1 => Just(Command::Release),
            1 => Just(Command::Retire),
        ];
        (0u128..4, command)
    }

    fn apply(ledger: &mut Ledger, key: u128, command: &Command) -> Result<(), LedgerError> {
        match command.clone() {
            Command::Grant { tenant, page, cpus } => {
                let cores: Vec<_> = cpus.into_iter().map(|(cpu, own)| core(cpu, own)).collect();
                ledger.grant(key, holding(if tenant { "dx" } else { "px" }, page, &cores))
            }
            Command::AddPages(page) => ledger.add_pages(key, page),
            Command::MarkBacked => ledger.mark_backed(key),
            Command::RemovePages(state, page) => ledger.remove_pages(key, state, page),
            Command::Quarantine(page) => ledger.quarantine(key, page),
            Command::FreeQuarantined(page) => ledger.free_quarantined(key, page),
            Command::Release => ledger.release(key).map(drop),
            Command::Retire => ledger.retire(key).map(drop),
        }
    }

    /// All pages the ledger knows of, the only figure the outside can check.
    fn all_pages(ledger: &Ledger) -> u64 {
        ledger.pools.values().filter_map(PoolUsage::total).map(PageCount::get).sum()
    }

    /// How many pages a successful command brings in (first) and takes out (second).
    fn flow(before: &Ledger, key: u128, command: &Command) -> (u64, u64) {
        let state = |state: PageState| match before.accounts.get(&key) {
            Some(account) if state == PageState::Promised => &account.promised,
            Some(account) => &account.backed,
            None => panic!("the command succeeded"),
        };
        let sum = |table: &PageTable| table.values().map(|count| count.get()).sum::<u64>();
        match command {
            Command::Grant { page, .. } | Command::AddPages(page) => (page.count.get(), 0),
            Command::RemovePages(_, page) | Command::FreeQuarantined(page) => (0, page.count.get()),
            Command::Release => {
                (0, sum(state(PageState::Promised)) + sum(state(PageState::Backed)))
            }
            Command::Retire => (0, sum(state(PageState::Promised))),
            Command::MarkBacked | Command::Quarantine(_) => (0, 0),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn pages_and_cores_are_conserved_whatever_is_asked(
            commands in prop::collection::vec(command(), 0..60),
        ) {
            let mut ledger = Ledger::new();
            for (key, command) in &commands {
                let before = ledger.clone();
                match apply(&mut ledger, *key, command) {
                    Ok(()) => {
                        let (inward, outward) = flow(&before, *key, command);
                        prop_assert_eq!(all_pages(&ledger), all_pages(&before) + inward - outward);
                    }
                    Err(_) => prop_assert_eq!(&ledger, &before),
                }
                prop_assert_eq!(ledger.audit(), Ok(()));
            }
        }

        #[test]
        fn a_ledger_can_always_be_emptied(commands in prop::collection::vec(command(), 0..60)) {
            let mut ledger = Ledger::new();
            for (key, command) in &commands {
                let _refused = apply(&mut ledger, *key, command);
            }
            for key in ledger.keys().collect::<Vec<_>>() {
                ledger.retire(key).unwrap();
            }
            for (key, page) in ledger.quarantined().collect::<Vec<_>>() {
                ledger.free_quarantined(key, page).unwrap();
            }
            prop_assert_eq!(ledger, Ledger::new());
        }
    }
}
