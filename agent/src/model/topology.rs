//! What a machine is made of, as far as lanes care: nodes, page pools, cpus and their caches.
//!
//! Plain data with questions about distance. Read once by `sysfs`, asked by `placement`; the
//! figures that change (free pages, free memory) are replaced by [`Topology::refresh`]. Does not
//! know who holds what, which is the ledger's business, nor where the figures come from.

use std::collections::BTreeMap;

use laneway_shm::Relation;
use serde::{Deserialize, Serialize};

use super::capacity::{CpuSet, PageCount, PageSize};

/// One machine: its NUMA nodes and its online cpus, both ascending by id.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Topology {
    /// The online NUMA nodes, those without cpus included.
    pub nodes: Vec<NumaNode>,
    /// The online cpus.
    pub cpus: Vec<Cpu>,
    /// Cpus that are present but offline; no lane may have them.
    pub offline: Vec<u32>,
    /// Sizes of the caches.
    pub caches: CacheSizes,
}

/// Sizes of the caches of a cpu, the smallest of the machine; `None` where it does not tell.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct CacheSizes {
    /// Level 2, in bytes.
    pub l2_bytes: Option<u64>,
    /// Level 3, in bytes.
    pub l3_bytes: Option<u64>,
}

/// One NUMA node.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct NumaNode {
    /// The kernel's number of the node.
    pub id: u32,
    /// Its online cpus, ascending; empty for a node that is only memory.
    pub cpus: Vec<u32>,
    /// The firmware's relative distance from this node to each node; 10 is local.
    pub distance: BTreeMap<u32, u32>,
    /// Its huge page pools, largest pages first.
    pub pools: Vec<PagePool>,
    /// All memory of the node.
    pub memory_total_bytes: u64,
    /// Memory nobody uses, not even as cache: the limit for 4 KiB pages.
    pub memory_free_bytes: u64,
}

/// The huge pages of one size on one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PagePool {
    /// The size of each page.
    pub page_size: PageSize,
    /// Pages in the pool, used or not.
    pub total: PageCount,
    /// Pages nobody has touched; some of them may be promised.
    pub free: PageCount,
    /// Free pages the kernel has promised to existing mappings. It knows this figure only for the
    /// whole machine, so on a machine of several nodes each pool carries all of it.
    pub reserved: PageCount,
    /// Pages beyond the configured pool, which the kernel takes back when they fall free.
    pub surplus: PageCount,
}

impl PagePool {
    /// Pages that can really be had: free and promised to nobody, on the cautious side where the
    /// node of a promise is unknown.
    #[must_use]
    pub const fn available(&self) -> PageCount {
        self.free.saturating_sub(self.reserved)
    }
}

/// The figures of one node that change while the agent runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeMemory {
    /// The node.
    pub node: u32,
    /// Its huge page pools, largest pages first.
    pub pools: Vec<PagePool>,
    /// See [`NumaNode::memory_total_bytes`].
    pub memory_total_bytes: u64,
    /// See [`NumaNode::memory_free_bytes`].
    pub memory_free_bytes: u64,
}

/// One online cpu: a hardware thread.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cpu {
    /// The kernel's number of the cpu.
    pub id: u32,
    /// The socket.
    pub package: u32,
    /// The physical core, named by its lowest online cpu: unique on the machine, unlike the
    /// kernel's `core_id`.
    pub core: u32,
    /// The NUMA node.
    pub node: u32,
    /// The level 2 cache, named by the lowest cpu that shares it; `None` where unknown.
    pub l2: Option<u32>,
    /// The level 3 cache, named likewise.
    pub l3: Option<u32>,
    /// The other online threads of the same physical core, ascending.
    pub siblings: Vec<u32>,
    /// Whether the scheduler keeps other work away (`isolcpus`, isolated partitions).
    pub isolated: bool,
    /// Whether the timer tick stops while one thread runs.
    pub nohz_full: bool,
}

/// How near two cpus of one machine are.
#[must_use]
pub fn how_near(a: &Cpu, b: &Cpu) -> Relation {
    let shared = |a: Option<u32>, b: Option<u32>| a.is_some() && a == b;
    if a.id == b.id {
        Relation::SameCpu
    } else if a.core == b.core {
        Relation::SameCore
    } else if shared(a.l2, b.l2) {
        Relation::SameL2
    } else if shared(a.l3, b.l3) {
        // Also where it is shared across nodes.
        Relation::SameL3
    } else if a.node == b.node {
        Relation::SameNode
    } else {
        Relation::OtherNode
    }
}

/// How the journal writes what two cores have in common.
pub mod written_relation {
    use laneway_shm::Relation;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(remote = "Relation")]
    enum Written {
        SameCpu,
        SameCore,
        SameL2,
        SameL3,
        SameNode,
        OtherNode,
    }

    #[derive(Serialize, Deserialize)]
    struct One(#[serde(with = "Written")] Relation);

    /// As its variant's name, or nothing.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &Option<Relation>, to: S) -> Result<S::Ok, S::Error> {
        value.map(One).serialize(to)
    }

    /// What [`serialize`] wrote.
    ///
    /// # Errors
    /// Another name, or none.
    pub fn deserialize<'de, D>(from: D) -> Result<Option<Relation>, D::Error>
    where
        D: Deserializer<'de>,
    {
        Ok(Option::<One>::deserialize(from)?.map(|one| one.0))
    }
}

impl NumaNode {
    /// The pool of pages of this size, where the node has one.
    #[must_use]
    pub fn pool(&self, page_size: PageSize) -> Option<&PagePool> {
        self.pools.iter().find(|pool| pool.page_size == page_size)
    }

    /// Pages of this size that the kernel could give now; 4 KiB pages come from free memory.
    #[must_use]
    pub fn available(&self, page_size: PageSize) -> PageCount {
        if page_size.is_huge() {
            self.pool(page_size).map_or(PageCount::ZERO, PagePool::available)
        } else {
            PageCount::new(self.memory_free_bytes / page_size.bytes())
        }
    }

    /// The distance to another node; the kernel's defaults where the firmware is silent.
    #[must_use]
    pub fn distance_to(&self, node: u32) -> u32 {
        let default = if node == self.id { LOCAL_DISTANCE } else { REMOTE_DISTANCE };
        self.distance.get(&node).copied().unwrap_or(default)
    }
}

impl Topology {
    /// The online cpu of this id.
    #[must_use]
    pub fn cpu(&self, id: u32) -> Option<&Cpu> {
        self.cpus.iter().find(|cpu| cpu.id == id)
    }

    /// The node of this id.
    #[must_use]
    pub fn node(&self, id: u32) -> Option<&NumaNode> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// How near two cpus are, or `None` where one of them is not online.
    #[must_use]
    pub fn relation(&self, a: u32, b: u32) -> Option<Relation> {
        Some(how_near(self.cpu(a)?, self.cpu(b)?))
    }

    /// The distance from one node to another; the kernel's default for a node it never heard of.
    #[must_use]
    pub fn distance(&self, from: u32, to: u32) -> u32 {
        let default = if from == to { LOCAL_DISTANCE } else { REMOTE_DISTANCE };
        self.node(from).map_or(default, |node| node.distance_to(to))
    }

    /// The ids of all online cpus; ids no [`CpuSet`] can hold are left out.
    #[must_use]
    pub fn online(&self) -> CpuSet {
        let ids = self.cpus.iter().map(|cpu| cpu.id).filter(|id| *id < CpuSet::ID_LIMIT);
        CpuSet::from_ids(ids).unwrap_or_default()
    }

    /// Takes over newer figures; a node they do not mention has nothing left to give.
    pub fn refresh(&mut self, memory: &[NodeMemory]) {
        for node in &mut self.nodes {
            let fresh = memory.iter().find(|fresh| fresh.node == node.id);
            node.pools = fresh.map_or_else(Vec::new, |fresh| fresh.pools.clone());
            node.memory_free_bytes = fresh.map_or(0, |fresh| fresh.memory_free_bytes);
            if let Some(fresh) = fresh {
                node.memory_total_bytes = fresh.memory_total_bytes;
            }
        }
    }
}

/// The distance of a node to itself where no table says otherwise (ACPI 6.5, section 5.2.17).
const LOCAL_DISTANCE: u32 = 10;
/// The distance the kernel assumes between two nodes without a table.
const REMOTE_DISTANCE: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(id: u32, core: u32, node: u32, l2: Option<u32>, l3: Option<u32>) -> Cpu {
        let (siblings, isolated, nohz_full) = (Vec::new(), false, false);
        Cpu { id, package: 0, core, node, l2, l3, siblings, isolated, nohz_full }
    }

    fn pool(free: u64, reserved: u64) -> PagePool {
        PagePool {
            page_size: PageSize::HUGE_2M,
            total: PageCount::new(free),
            free: PageCount::new(free),
            reserved: PageCount::new(reserved),
            surplus: PageCount::ZERO,
        }
    }

    #[test]
    fn relations_are_ordered_by_distance() {
        let base = cpu(0, 0, 0, Some(0), Some(0));
        let others = [
            base.clone(),
            cpu(1, 0, 0, Some(0), Some(0)),
            cpu(2, 2, 0, Some(0), Some(0)),
            cpu(4, 4, 0, Some(4), Some(0)),
            cpu(8, 8, 0, Some(8), Some(8)),
            cpu(16, 16, 1, Some(16), Some(16)),
        ];
        let found = others.map(|other| how_near(&base, &other));
        use Relation::{OtherNode, SameCore, SameCpu, SameL2, SameL3, SameNode};
        assert_eq!(found, [SameCpu, SameCore, SameL2, SameL3, SameNode, OtherNode]);
        assert!(found.is_sorted());
    }

    #[test]
    fn the_journal_writes_relations_as_it_always_did_and_reads_them_back() {
        #[derive(PartialEq, Debug, Serialize, Deserialize)]
        struct Record(#[serde(with = "written_relation")] Option<Relation>);
        let written = ["SameCpu", "SameCore", "SameL2", "SameL3", "SameNode", "OtherNode"];
        for text in written.map(|name| format!("\"{name}\"")).into_iter().chain(["null".into()]) {
            let record: Record = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_string(&record).unwrap(), text);
        }
        assert!(serde_json::from_str::<Record>("\"Elsewhere\"").is_err());
    }

    #[test]
    fn unknown_caches_are_never_shared() {
        let (a, b) = (cpu(0, 0, 0, None, None), cpu(1, 1, 0, None, None));
        assert_eq!(how_near(&a, &b), Relation::SameNode);
    }

    #[test]
    fn a_cache_may_be_shared_across_nodes() {
        let (a, b) = (cpu(0, 0, 0, None, Some(0)), cpu(1, 1, 1, None, Some(0)));
        assert_eq!(how_near(&a, &b), Relation::SameL3);
    }

    #[test]
    fn promised_pages_are_not_available() {
        assert_eq!(pool(10, 3).available(), PageCount::new(7));
        assert_eq!(pool(2, 3).available(), PageCount::ZERO);
    }

    #[test]
    fn a_silent_firmware_gets_the_kernels_distances() {
        let topology = Topology::default();
        assert_eq!((topology.distance(0, 0), topology.distance(0, 1)), (10, 20));
    }

    #[test]
    fn a_refresh_replaces_only_what_changes() {
        let node = NumaNode { id: 0, cpus: vec![0], pools: vec![pool(1, 0)], ..Default::default() };
        let mut topology = Topology { nodes: vec![node], ..Default::default() };
        topology.refresh(&[NodeMemory {
            node: 0,
            pools: vec![pool(9, 0)],
            memory_total_bytes: 8192,
            memory_free_bytes: 4096,
        }]);
        assert_eq!(topology.nodes[0].available(PageSize::HUGE_2M), PageCount::new(9));
        assert_eq!(topology.nodes[0].available(PageSize::BASE_4K), PageCount::new(1));
        assert_eq!(topology.nodes[0].cpus, [0]);
        topology.refresh(&[]);
        assert_eq!(topology.nodes[0].available(PageSize::HUGE_2M), PageCount::ZERO);
    }
}
