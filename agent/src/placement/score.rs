//! What every cpu is worth to one request, and the search for the best choice.
//!
//! Owns the score vector and the enumeration. Cpus in equal state below the same caches are
//! interchangeable, so only the lowest of each such class is tried, which keeps the search exact
//! and its size independent of the number of threads. Hard constraints are checked here; why one
//! cannot be met is worked out in `refusal`.

use std::collections::BTreeMap;

use laneway_shm::Relation;

use super::{CacheRelationRule, EndRequest, Memory, PlaceRequest};
use crate::ledger::Ledger;
use crate::model::topology::{Cpu, Topology, how_near};

/// The terms of the score vector, the most important first; less is better.
pub const SCORE_TERMS: [&str; TERMS] = [
    // Position in the page ladder.
    "page_steps_down",
    // Ends that take turns with the two ends on their cpus, each other included.
    "cpu_load",
    // Ends on other threads of the same physical cores, each other included.
    "core_load",
    // Exclusive ends whose cpu is not isolated: whatever else the scheduler puts there hurts like
    // a neighbour would, which is why it stands beside the loads and before every distance.
    "isolation_missed",
    // Distance producer to pages, consumer to pages, producer to consumer.
    "numa_distance",
    // How far apart the two ends are.
    "cache_distance",
    // Ends that already use the level 3 caches of the two ends.
    "interference",
    // Sharing ends on isolated cpus: a loss only for exclusive ends to come.
    "isolation_spent",
    // Cores by which the largest wholly free level 3 domain shrinks.
    "l3_fragmentation",
    // Pages by which the largest pool shrinks.
    "pool_fragmentation",
    // Lowest ids, so that equals are told apart the same way every time.
    "memory_node",
    "producer_cpu",
    "consumer_cpu",
];

pub(super) type Score = [u64; TERMS];

/// A pair of indices into [`Survey::sites`]; `None` for an end without a core.
pub(super) type Seat = (Option<usize>, Option<usize>);

/// One online cpu as one request sees it.
pub(super) struct Site<'a> {
    pub(super) cpu: &'a Cpu,
    /// How many ends hold the cpu.
    pub(super) holders: u64,
    /// How many ends hold other threads of its core.
    pub(super) neighbours: u64,
    /// The level 2 cache where several cores share it. One below a single core tells cores apart,
    /// not classes of them.
    cluster: Option<u32>,
    /// The index of its node in [`Survey::distance`].
    node: usize,
    /// Whether an exclusive end holds a thread of the core.
    exclusive: bool,
    /// Whether another tenant holds a thread of the core.
    foreign: bool,
}

/// Whether an end could have a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Vacancy {
    Open,
    /// Only another tenant is in the way.
    OtherTenant,
    /// Somebody is, whoever they are.
    Held,
}

impl Site<'_> {
    pub(super) const fn vacancy(&self, end: &EndRequest) -> Vacancy {
        if end.exclusive {
            let empty = self.holders == 0 && self.neighbours == 0;
            return if empty { Vacancy::Open } else { Vacancy::Held };
        }
        match (self.exclusive, self.foreign) {
            (true, _) => Vacancy::Held,
            (false, true) => Vacancy::OtherTenant,
            (false, false) => Vacancy::Open,
        }
    }
}

/// The best choice and its score.
pub(super) struct Best {
    pub(super) score: Score,
    pub(super) node: u32,
    pub(super) producer: Option<usize>,
    pub(super) consumer: Option<usize>,
}

/// The machine as one request sees it.
pub(super) struct Survey<'a> {
    pub(super) request: &'a PlaceRequest,
    /// The online cpus, ascending by id.
    pub(super) sites: Vec<Site<'a>>,
    /// Every node of the machine, ascending.
    nodes: Vec<u32>,
    /// The distance between two nodes by their indices in `nodes`.
    distance: Vec<Vec<u64>>,
    /// How many ends use each level 3 cache.
    l3_holders: BTreeMap<u32, u64>,
    /// The level 3 domains nobody uses, with their number of cores, the largest first.
    free_l3: Vec<(u64, u32)>,
}

impl<'a> Survey<'a> {
    pub(super) fn new(request: &'a PlaceRequest, topology: &'a Topology, ledger: &Ledger) -> Self {
        let mut nodes: Vec<u32> = topology.nodes.iter().map(|node| node.id).collect();
        nodes.extend(topology.cpus.iter().map(|cpu| cpu.node));
        nodes.sort_unstable();
        nodes.dedup();
        let row =
            |from: &u32| nodes.iter().map(|to| u64::from(topology.distance(*from, *to))).collect();
        let distance = nodes.iter().map(row).collect();

        let sites = survey_sites(request, topology, ledger, &nodes);
        let mut l3_holders: BTreeMap<u32, u64> = BTreeMap::new();
        let mut l3_cores: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for site in &sites {
            if let Some(l3) = site.cpu.l3 {
                *l3_holders.entry(l3).or_default() += site.holders;
                l3_cores.entry(l3).or_default().push(site.cpu.core);
            }
        }
        let mut free_l3: Vec<(u64, u32)> = Vec::new();
        for (l3, cores) in l3_cores {
            if l3_holders.get(&l3) == Some(&0) {
                free_l3.push((distinct(cores), l3));
            }
        }
        free_l3.sort_unstable_by(|a, b| b.cmp(a));
        Self { request, sites, nodes, distance, l3_holders, free_l3 }
    }

    /// The places one pinned end could take, whatever the other end does; ascending by cpu.
    pub(super) fn candidates(&self, end: &EndRequest) -> Vec<usize> {
        let fits = |site: &Site<'_>| {
            end.lists(site.cpu.id)
                && site.vacancy(end) == Vacancy::Open
                && end.accepts(end.grade_on(Some(site.cpu)))
        };
        let found = self.sites.iter().enumerate().filter(|(_, site)| fits(site));
        found.map(|(index, _)| index).collect()
    }

    /// The choices of cores worth scoring: at least one that is best. Ends without a core are
    /// `None`.
    pub(super) fn seats(
        &self,
        producer: Option<&[usize]>,
        consumer: Option<&[usize]>,
        rule: CacheRelationRule,
    ) -> Vec<Seat> {
        let (producer, consumer) = match (producer, consumer) {
            (Some(producer), Some(consumer)) => return self.pairs(producer, consumer, rule),
            one_at_most => one_at_most,
        };
        // A rule about two places cannot be promised for an end that has none.
        if rule != CacheRelationRule::Any {
            return Vec::new();
        }
        let lowest = |end: &[usize]| -> Vec<Option<usize>> {
            self.classes(end).into_values().map(|class| class.first().copied()).collect()
        };
        let producers = producer.map_or_else(|| vec![None], lowest);
        let consumers = consumer.map_or_else(|| vec![None], lowest);
        let with_consumers = |p| consumers.iter().map(move |c| (p, *c));
        producers.into_iter().flat_map(with_consumers).collect()
    }

    /// The best choice of cores and node.
    pub(super) fn best(&self, memory: &Memory, seats: &[Seat]) -> Option<Best> {
        let spread = self.spread();
        let mut best: Option<Best> = None;
        for seat in seats {
            let mut score = self.core_score(*seat);
            score[PAGE_STEPS_DOWN] = u64::try_from(memory.step).unwrap_or(u64::MAX);
            // The terms before the first that depends on the node already decide most of them.
            let worse = |best: &Best| score[..NUMA_DISTANCE] > best.score[..NUMA_DISTANCE];
            if best.as_ref().is_some_and(worse) {
                continue;
            }
            for node in &memory.nodes {
                score[NUMA_DISTANCE] = self.numa_distance(*seat, node.id, &spread);
                score[POOL_FRAGMENTATION] = node.fragmentation;
                score[MEMORY_NODE] = u64::from(node.id);
                if best.as_ref().is_none_or(|best| score < best.score) {
                    let (producer, consumer) = *seat;
                    best = Some(Best { score, node: node.id, producer, consumer });
                }
            }
        }
        best
    }

    /// The pairs of places for two pinned ends.
    fn pairs(&self, producer: &[usize], consumer: &[usize], rule: CacheRelationRule) -> Vec<Seat> {
        let mut seats = Vec::new();
        // Two ends on one core: few enough to try them all.
        if !self.request.producer.exclusive && !self.request.consumer.exclusive {
            let mut by_core: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
            for c in consumer {
                by_core.entry(self.sites[*c].cpu.core).or_default().push(*c);
            }
            for p in producer {
                let same_core = by_core.get(&self.sites[*p].cpu.core);
                seats.extend(same_core.into_iter().flatten().map(|c| (Some(*p), Some(*c))));
            }
        }
        // Two ends on two cores: the members of two classes differ in nothing but their ids.
        let consumers = self.classes(consumer);
        for producers in self.classes(producer).values() {
            for consumers in consumers.values() {
                seats.extend(self.lowest_apart(producers, consumers));
            }
        }
        let allowed = |seat: &Seat| match *seat {
            (Some(p), Some(c)) => rule.allows(self.sites[p].cpu, self.sites[c].cpu),
            _ => false,
        };
        seats.retain(allowed);
        seats
    }

    /// The lowest pair on two different cores. Ends soon: only the threads of one core can fail.
    fn lowest_apart(&self, producers: &[usize], consumers: &[usize]) -> Option<Seat> {
        let core = |index: usize| self.sites[index].cpu.core;
        producers.iter().find_map(|p| {
            let apart = consumers.iter().find(|c| core(**c) != core(*p));
            apart.map(|c| (Some(*p), Some(*c)))
        })
    }

    /// The given places by everything a score can tell apart but the id; members ascending.
    fn classes(&self, places: &[usize]) -> BTreeMap<ClassKey, Vec<usize>> {
        let mut classes: BTreeMap<ClassKey, Vec<usize>> = BTreeMap::new();
        for index in places {
            let site = &self.sites[*index];
            let caches = (site.node, site.cpu.l3, site.cluster);
            let key = (caches, site.cpu.isolated, site.holders, site.neighbours);
            classes.entry(key).or_default().push(*index);
        }
        classes
    }

    /// The terms that depend on the cores alone.
    fn core_score(&self, (producer, consumer): Seat) -> Score {
        let site = |index: Option<usize>| index.map(|index| &self.sites[index]);
        let (producer, consumer) = (site(producer), site(consumer));
        let relation = producer.zip(consumer).map(|(p, c)| how_near(p.cpu, c.cpu));
        let mut score = [0; TERMS];
        // Sharing with each other is one more neighbour for each of the two.
        score[CPU_LOAD] = 2 * u64::from(relation == Some(Relation::SameCpu));
        score[CORE_LOAD] = 2 * u64::from(relation == Some(Relation::SameCore));
        score[CACHE_DISTANCE] = relation.map_or(0, |relation| relation as u64);

        let ends = [(producer, &self.request.producer), (consumer, &self.request.consumer)];
        for (site, end) in ends {
            let Some(site) = site else { continue };
            score[CPU_LOAD] += site.holders;
            score[CORE_LOAD] += site.neighbours;
            score[ISOLATION_MISSED] += u64::from(end.exclusive && !site.cpu.isolated);
            score[ISOLATION_SPENT] += u64::from(!end.exclusive && site.cpu.isolated);
        }
        let l3 = [producer, consumer].map(|site| site.and_then(|site| site.cpu.l3));
        score[INTERFERENCE] = self.interference(l3);
        score[L3_FRAGMENTATION] = self.l3_fragmentation(l3);
        score[PRODUCER_CPU] = producer.map_or(0, |site| u64::from(site.cpu.id));
        score[CONSUMER_CPU] = consumer.map_or(0, |site| u64::from(site.cpu.id));
        score
    }

    fn interference(&self, [producer, consumer]: [Option<u32>; 2]) -> u64 {
        let holders = |l3: Option<u32>| {
            l3.and_then(|l3| self.l3_holders.get(&l3)).copied().unwrap_or_default()
        };
        // One cache is counted once.
        let other = consumer.filter(|_| consumer != producer);
        holders(producer) + holders(other)
    }

    fn l3_fragmentation(&self, used: [Option<u32>; 2]) -> u64 {
        let cores = |(cores, _): &(u64, u32)| *cores;
        let before = self.free_l3.first().map_or(0, cores);
        let after = self.free_l3.iter().find(|(_, l3)| !used.contains(&Some(*l3))).map_or(0, cores);
        before - after
    }

    fn numa_distance(&self, (producer, consumer): Seat, memory: u32, spread: &Spread) -> u64 {
        let memory = self.node_index(memory);
        let node = |seat: Option<usize>| seat.map(|index| self.sites[index].node);
        let (producer, consumer) = (node(producer), node(consumer));
        let reach = |node: Option<usize>, spread: &[usize]| match node {
            Some(node) => self.distance[node][memory],
            None => spread.iter().map(|node| self.distance[*node][memory]).max().unwrap_or(0),
        };
        let apart = producer.zip(consumer).map_or(0, |(p, c)| self.distance[p][c]);
        reach(producer, &spread.producer) + reach(consumer, &spread.consumer) + apart
    }

    /// Where ends without a core may run: they are judged by the worst of it.
    fn spread(&self) -> Spread {
        let nodes = |end: &EndRequest| {
            let allowed = |id: u32| end.allowed.as_ref().is_none_or(|set| set.contains(id));
            let sites = self.sites.iter().filter(|site| allowed(site.cpu.id));
            let mut nodes: Vec<usize> = sites.map(|site| site.node).collect();
            nodes.sort_unstable();
            nodes.dedup();
            nodes
        };
        Spread { producer: nodes(&self.request.producer), consumer: nodes(&self.request.consumer) }
    }

    fn node_index(&self, id: u32) -> usize {
        self.nodes.binary_search(&id).unwrap_or_default()
    }
}

/// The nodes each end may run on.
struct Spread {
    producer: Vec<usize>,
    consumer: Vec<usize>,
}

/// Node, level 3 and shared level 2 cache; isolation; holders of the cpu and of its core.
type ClassKey = ((usize, Option<u32>, Option<u32>), bool, u64, u64);

/// What the ledger says about one physical core.
#[derive(Clone, Copy, Default)]
struct CoreState {
    holders: u64,
    exclusive: bool,
    foreign: bool,
}

fn survey_sites<'a>(
    request: &PlaceRequest,
    topology: &'a Topology,
    ledger: &Ledger,
    nodes: &[u32],
) -> Vec<Site<'a>> {
    let mut cores: BTreeMap<u32, CoreState> = BTreeMap::new();
    let mut l2_cores: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for cpu in &topology.cpus {
        let holders = ledger.cpu_holders(cpu.id);
        let core = cores.entry(cpu.core).or_default();
        core.holders += count(holders.len());
        core.exclusive |= holders.iter().any(|holder| holder.exclusive);
        core.foreign |= holders.iter().any(|holder| holder.tenant != request.tenant);
        if let Some(l2) = cpu.l2 {
            l2_cores.entry(l2).or_default().push(cpu.core);
        }
    }
    let clusters: BTreeMap<u32, bool> =
        l2_cores.into_iter().map(|(l2, cores)| (l2, distinct(cores) > 1)).collect();

    let site = |cpu: &'a Cpu| {
        let core = cores.get(&cpu.core).copied().unwrap_or_default();
        let holders = count(ledger.cpu_holders(cpu.id).len());
        Site {
            cpu,
            holders,
            neighbours: core.holders - holders,
            cluster: cpu.l2.filter(|l2| clusters.get(l2) == Some(&true)),
            node: nodes.binary_search(&cpu.node).unwrap_or_default(),
            exclusive: core.exclusive,
            foreign: core.foreign,
        }
    };
    let mut sites: Vec<Site<'a>> = topology.cpus.iter().map(site).collect();
    sites.sort_unstable_by_key(|site| site.cpu.id);
    sites
}

fn distinct(mut cores: Vec<u32>) -> u64 {
    cores.sort_unstable();
    cores.dedup();
    count(cores.len())
}

fn count(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}

const PAGE_STEPS_DOWN: usize = 0;
const CPU_LOAD: usize = 1;
const CORE_LOAD: usize = 2;
const ISOLATION_MISSED: usize = 3;
const NUMA_DISTANCE: usize = 4;
const CACHE_DISTANCE: usize = 5;
const INTERFERENCE: usize = 6;
const ISOLATION_SPENT: usize = 7;
const L3_FRAGMENTATION: usize = 8;
const POOL_FRAGMENTATION: usize = 9;
const MEMORY_NODE: usize = 10;
const PRODUCER_CPU: usize = 11;
const CONSUMER_CPU: usize = 12;
const TERMS: usize = 13;
