//! Where a lane goes: which node's pages, which size of page, which cores.
//!
//! A function from a request, the topology and the ledger to the best placement there is, or to a
//! refusal that says what is in the way and what would fit. One vector of integers decides
//! (`score`), so the answer is the same on every run and can be explained term by term. Touches
//! nothing: the caller refreshes the topology before and grants the holding after. Existing lanes
//! are never moved.

pub mod depth;
#[cfg(test)]
mod oracle;
mod refusal;
mod score;

use std::fmt;

use laneway_shm::Relation;
use serde::{Deserialize, Serialize};

pub use refusal::{Constraint, Ends, LargestFit, Refusal, Relaxation, WouldFit};
pub use score::SCORE_TERMS;

use crate::ledger::{CoreHolding, Holding, Ledger, PageHolding, Role};
use crate::model::capacity::{CpuSet, PageCount, PageSize};
use crate::model::topology::{Cpu, Topology, how_near, written_relation};
use score::{Best, Site, Survey};

/// Finds the best placement of one lane.
///
/// # Errors
/// When no placement meets every constraint; see [`Refusal`].
pub fn place(
    request: &PlaceRequest,
    topology: &Topology,
    ledger: &Ledger,
) -> Result<Placement, Refusal> {
    solve(request, topology, ledger)
        .map_err(|constraint| Refusal::new(constraint, request, topology, ledger))
}

/// What a lane asks of the node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlaceRequest {
    /// The bytes of the producer's segment.
    pub size_bytes: u64,
    /// Acceptable page sizes, the preferred one first. A size that would waste most of its page
    /// does not belong here: the first one that fits is taken.
    pub page_ladder: Vec<PageSize>,
    /// The only node the pages may come from. Cores follow by distance, they are not bound to it.
    pub node: Option<u32>,
    /// The end that writes.
    pub producer: EndRequest,
    /// The end that reads.
    pub consumer: EndRequest,
    /// How near the two ends must be.
    pub relation: CacheRelationRule,
    /// Who pays; two tenants never share a physical core.
    pub tenant: String,
}

/// What one end asks.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct EndRequest {
    /// Whether the end gets a core at all; without one it may run anywhere in `allowed`.
    pub pinned: bool,
    /// The cpus its process may run on; `None` for all.
    pub allowed: Option<CpuSet>,
    /// Whether nobody else may have any thread of its physical core, the other end included.
    /// Otherwise it shares with other sharing ends of its tenant, at the least loaded place.
    pub exclusive: bool,
    /// The worst acceptable grade.
    pub min_grade: Option<Grade>,
    /// The only acceptable cpu.
    pub cpu: Option<u32>,
    /// Cpus where other programs run as well, whatever the end asks: no better than C.
    #[serde(default)]
    pub crowded: CpuSet,
}

/// How near the two ends of a lane must be. An end without a core is nowhere in particular, so it
/// meets only `Any`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub enum CacheRelationRule {
    /// As near as possible.
    #[default]
    Any,
    /// Below one level 3 cache, or nearer.
    SameL3,
    /// On one NUMA node.
    SameNode,
}

impl CacheRelationRule {
    fn allows(self, a: &Cpu, b: &Cpu) -> bool {
        match self {
            Self::Any => true,
            Self::SameL3 => how_near(a, b) <= Relation::SameL3,
            Self::SameNode => a.node == b.node,
        }
    }
}

/// What a core is really worth; the best grade is the least.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Grade {
    /// Exclusive among lanes, and isolated from the scheduler's other work.
    A,
    /// Exclusive among lanes.
    B,
    /// Pinned, shared with others.
    C,
    /// Not pinned.
    D,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Where a lane goes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Placement {
    /// The node of the producer's segment.
    pub node: u32,
    /// The size of its pages.
    pub page_size: PageSize,
    /// How many pages it takes.
    pub page_count: PageCount,
    /// The preferred page sizes that could not be had, in the order they were tried.
    pub steps_down: Vec<StepDown>,
    /// The producer's core.
    pub producer: EndPlacement,
    /// The consumer's core.
    pub consumer: EndPlacement,
    /// How near the ends are, where both have a core.
    #[serde(with = "written_relation")]
    pub relation: Option<Relation>,
    /// The vector that decided, less is better from the left; [`SCORE_TERMS`] names its terms.
    pub score: Vec<u64>,
    /// What is known about the score.
    pub proof: Proof,
}

impl Placement {
    /// What the ledger has to grant for this placement.
    #[must_use]
    pub fn holding(&self, tenant: &str) -> Holding {
        let ends = [(Role::Producer, self.producer), (Role::Consumer, self.consumer)];
        let core = |(role, end): (Role, EndPlacement)| {
            Some(CoreHolding { cpu: end.cpu?, exclusive: end.facts.exclusive, role })
        };
        Holding {
            tenant: tenant.to_owned(),
            pages: vec![self.page_holding()],
            cores: ends.into_iter().filter_map(core).collect(),
        }
    }

    /// The pages of the producer's segment.
    #[must_use]
    pub const fn page_holding(&self) -> PageHolding {
        PageHolding { node: self.node, page_size: self.page_size, count: self.page_count }
    }
}

/// Where one end goes, and what that is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndPlacement {
    /// The cpu; `None` for an end without a core.
    pub cpu: Option<u32>,
    /// The grade the facts add up to.
    pub grade: Grade,
    /// What the grade rests on.
    pub facts: Facts,
}

/// What is known about the core of one end. All false or zero for an end without a core.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// No other end of any lane has a thread of this physical core, nor will get one.
    pub exclusive: bool,
    /// The scheduler keeps other work away.
    pub isolated: bool,
    /// The timer tick stops while one thread runs.
    pub nohz_full: bool,
    /// No other end of any lane holds another thread of this physical core. What other programs do
    /// there is not known.
    pub smt_sibling_idle: bool,
    /// The other end of this lane is on the same physical core.
    pub same_core_as_peer: bool,
    /// How many other ends, of this lane or another, take turns on this cpu.
    pub co_holders: u64,
}

/// What is known about a score.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Proof {
    /// No placement has a lesser score.
    Optimal,
}

/// A page size that was preferred but could not be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StepDown {
    /// The size.
    pub page_size: PageSize,
    /// Why not.
    pub reason: StepDownReason,
}

/// Why a page size could not be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StepDownReason {
    /// No node that may be used exists.
    NoNode,
    /// Too few pages on any one node that may be used.
    TooFewPages {
        /// How many it takes.
        needed: PageCount,
        /// The most that one node has.
        free: PageCount,
        /// That node.
        node: u32,
    },
}

impl fmt::Display for StepDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let page_size = self.page_size;
        match self.reason {
            StepDownReason::NoNode => write!(f, "{page_size}: no such node"),
            StepDownReason::TooFewPages { needed, free, node } => {
                write!(f, "{page_size}: {needed} needed, {free} free on node {node}")
            }
        }
    }
}

impl PlaceRequest {
    const fn end(&self, role: Role) -> &EndRequest {
        match role {
            Role::Producer => &self.producer,
            Role::Consumer => &self.consumer,
        }
    }
}

impl EndRequest {
    /// Whether the end may be on this cpu as far as its own lists go.
    fn lists(&self, cpu: u32) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.contains(cpu))
            && self.cpu.is_none_or(|only| only == cpu)
    }

    /// The grade the end gets on this cpu, its demands being met.
    fn grade_on(&self, cpu: Option<&Cpu>) -> Grade {
        match cpu {
            None => Grade::D,
            Some(cpu) if !self.exclusive || self.crowded.contains(cpu.id) => Grade::C,
            Some(cpu) if cpu.isolated => Grade::A,
            Some(_) => Grade::B,
        }
    }

    fn accepts(&self, grade: Grade) -> bool {
        self.min_grade.is_none_or(|worst| grade <= worst)
    }
}

/// The pages that would hold the lane: the first size that fits, and every node that has it.
struct Memory {
    step: usize,
    page_size: PageSize,
    count: PageCount,
    nodes: Vec<MemoryNode>,
    steps_down: Vec<StepDown>,
}

struct MemoryNode {
    id: u32,
    /// By how many pages the largest pool of this size would shrink.
    fragmentation: u64,
}

fn solve(
    request: &PlaceRequest,
    topology: &Topology,
    ledger: &Ledger,
) -> Result<Placement, Constraint> {
    let PlaceRequest { size_bytes, ref page_ladder, .. } = *request;
    if size_bytes == 0 || page_ladder.is_empty() {
        return Err(Constraint::NothingAsked { size_bytes, page_sizes: page_ladder.len() });
    }
    let memory = find_memory(request, topology, ledger)
        .map_err(|tried| refusal::memory_constraint(request, topology, ledger, tried))?;
    let survey = Survey::new(request, topology, ledger);
    let producer = candidates(&survey, Role::Producer)?;
    let consumer = candidates(&survey, Role::Consumer)?;
    let seats = survey.seats(producer.as_deref(), consumer.as_deref(), request.relation);
    let best = survey.best(&memory, &seats).ok_or_else(|| {
        refusal::pair_constraint(&survey, producer.as_deref(), consumer.as_deref())
    })?;
    Ok(describe(request, memory, &survey, &best))
}

/// Tries the page sizes in order; where none fits, says what was missing of each.
fn find_memory(
    request: &PlaceRequest,
    topology: &Topology,
    ledger: &Ledger,
) -> Result<Memory, Vec<StepDown>> {
    let mut steps_down = Vec::new();
    for (step, page_size) in request.page_ladder.iter().copied().enumerate() {
        let count = PageCount::pages_for(request.size_bytes, page_size);
        let free: Vec<(u32, PageCount)> = free_pages(topology, ledger, page_size).collect();
        let permitted = |id: u32| request.node.is_none_or(|only| only == id);
        let fits = free.iter().filter(|(id, free)| permitted(*id) && *free >= count);
        let nodes: Vec<MemoryNode> = fits
            .map(|(id, _)| MemoryNode { id: *id, fragmentation: fragmentation(&free, *id, count) })
            .collect();
        if !nodes.is_empty() {
            return Ok(Memory { step, page_size, count, nodes, steps_down });
        }
        // The lowest node among equals, so that the report does not depend on any order.
        let most = free
            .into_iter()
            .filter(|(id, _)| permitted(*id))
            .max_by_key(|(id, free)| (*free, std::cmp::Reverse(*id)));
        let reason = most.map_or(StepDownReason::NoNode, |(node, free)| {
            StepDownReason::TooFewPages { needed: count, free, node }
        });
        steps_down.push(StepDown { page_size, reason });
    }
    Err(steps_down)
}

/// What each node could give now: what the kernel has, less what is promised but not yet taken
/// from it. Pages that are backed or in quarantine are gone from the kernel's count already.
pub(crate) fn free_pages<'a>(
    topology: &'a Topology,
    ledger: &'a Ledger,
    page_size: PageSize,
) -> impl Iterator<Item = (u32, PageCount)> + 'a {
    topology.nodes.iter().map(move |node| {
        let promised = ledger.pool_usage(node.id, page_size).promised;
        (node.id, node.available(page_size).saturating_sub(promised))
    })
}

fn fragmentation(free: &[(u32, PageCount)], taken_from: u32, count: PageCount) -> u64 {
    let largest = |taken: PageCount| {
        let left = |(id, free): &(u32, PageCount)| {
            if *id == taken_from { free.saturating_sub(taken) } else { *free }
        };
        free.iter().map(left).max().unwrap_or_default()
    };
    largest(PageCount::ZERO).saturating_sub(largest(count)).get()
}

/// The places one end could take by itself; `None` for an end without a core.
fn candidates(survey: &Survey<'_>, role: Role) -> Result<Option<Vec<usize>>, Constraint> {
    let end = survey.request.end(role);
    if !end.pinned {
        let unreachable = || refusal::grade_constraint(role, end, Grade::D);
        return if end.accepts(Grade::D) { Ok(None) } else { Err(unreachable()) };
    }
    let found = survey.candidates(end);
    if found.is_empty() { Err(refusal::end_constraint(survey, role)) } else { Ok(Some(found)) }
}

fn describe(request: &PlaceRequest, memory: Memory, survey: &Survey<'_>, best: &Best) -> Placement {
    let site = |index: Option<usize>| index.and_then(|index| survey.sites.get(index));
    let (producer, consumer) = (site(best.producer), site(best.consumer));
    let relation = producer.zip(consumer).map(|(p, c)| how_near(p.cpu, c.cpu));
    Placement {
        node: best.node,
        page_size: memory.page_size,
        page_count: memory.count,
        steps_down: memory.steps_down,
        producer: describe_end(&request.producer, producer, relation),
        consumer: describe_end(&request.consumer, consumer, relation),
        relation,
        score: best.score.to_vec(),
        proof: Proof::Optimal,
    }
}

fn describe_end(
    end: &EndRequest,
    site: Option<&Site<'_>>,
    relation: Option<Relation>,
) -> EndPlacement {
    let grade = end.grade_on(site.map(|site| site.cpu));
    let Some(site) = site else {
        return EndPlacement { cpu: None, grade, facts: Facts::default() };
    };
    let peer_on_cpu = relation == Some(Relation::SameCpu);
    let peer_on_sibling = relation == Some(Relation::SameCore);
    let facts = Facts {
        exclusive: end.exclusive,
        isolated: site.cpu.isolated,
        nohz_full: site.cpu.nohz_full,
        smt_sibling_idle: site.neighbours == 0 && !peer_on_sibling,
        same_core_as_peer: peer_on_cpu || peer_on_sibling,
        co_holders: site.holders + u64::from(peer_on_cpu),
    };
    EndPlacement { cpu: Some(site.cpu.id), grade, facts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysfs::fixture;

    const G1: PageSize = PageSize::HUGE_1G;
    const M2: PageSize = PageSize::HUGE_2M;
    const K4: PageSize = PageSize::BASE_4K;

    fn pinned() -> EndRequest {
        EndRequest { pinned: true, ..EndRequest::default() }
    }

    fn exclusive() -> EndRequest {
        EndRequest { exclusive: true, ..pinned() }
    }

    fn request(producer: EndRequest, consumer: EndRequest) -> PlaceRequest {
        PlaceRequest {
            size_bytes: 8 << 20,
            page_ladder: vec![M2],
            node: None,
            producer,
            consumer,
            relation: CacheRelationRule::Any,
            tenant: "dx".to_owned(),
        }
    }

    /// Places and grants under the next key.
    fn grant(request: &PlaceRequest, topology: &Topology, ledger: &mut Ledger) -> Placement {
        let placement = place(request, topology, ledger).unwrap();
        let key = ledger.keys().max().map_or(0, |key| key + 1);
        ledger.grant(key, placement.holding(&request.tenant)).unwrap();
        placement
    }

    fn cpus(placement: &Placement) -> (Option<u32>, Option<u32>) {
        (placement.producer.cpu, placement.consumer.cpu)
    }

    fn score(placement: &Placement, term: &str) -> u64 {
        let index = SCORE_TERMS.iter().position(|name| *name == term).unwrap();
        placement.score[index]
    }

    #[test]
    fn a_lane_prefers_two_cores_of_one_l3_domain() {
        let topology = fixture::load("epyc-nps1-ccx");
        let placement = place(&request(pinned(), pinned()), &topology, &Ledger::new()).unwrap();
        assert_eq!(cpus(&placement), (Some(0), Some(1)));
        assert_eq!(placement.relation, Some(Relation::SameL3));
        assert_eq!(placement.producer.grade, Grade::C);
        assert!(placement.producer.facts.smt_sibling_idle);
    }

    #[test]
    fn a_second_lane_takes_a_domain_of_its_own() {
        let topology = fixture::load("epyc-nps1-ccx");
        let (mut ledger, asked) = (Ledger::new(), request(exclusive(), exclusive()));
        let placed: Vec<_> =
            (0..5).map(|_| cpus(&grant(&asked, &topology, &mut ledger)).0).collect();
        assert_eq!(placed, [Some(0), Some(4), Some(8), Some(12), Some(2)]);
        assert_eq!(ledger.audit_cores(&topology), Ok(()));
    }

    #[test]
    fn exclusive_ends_prefer_isolated_cores_and_say_so() {
        let topology = fixture::load("two-socket");
        let placement =
            place(&request(exclusive(), exclusive()), &topology, &Ledger::new()).unwrap();
        assert_eq!(cpus(&placement), (Some(4), Some(5)));
        assert_eq!(placement.producer.grade, Grade::A);
        let facts = placement.producer.facts;
        assert!(facts.exclusive && facts.isolated && !facts.nohz_full && facts.smt_sibling_idle);
    }

    #[test]
    fn sharing_ends_leave_isolated_cores_alone() {
        let topology = fixture::load("two-socket");
        let mut ledger = Ledger::new();
        let mut asked = request(pinned(), pinned());
        asked.node = Some(0);
        asked.producer.allowed = Some("3-5".parse().unwrap());
        let placement = grant(&asked, &topology, &mut ledger);
        assert_eq!(cpus(&placement), (Some(3), Some(0)));
        // A load weighs more than what an exclusive end to come might want.
        let second = grant(&asked, &topology, &mut ledger);
        assert_eq!(cpus(&second), (Some(4), Some(1)));
        assert_eq!(score(&second, "isolation_spent"), 1);
    }

    #[test]
    fn the_largest_pool_is_kept_whole() {
        let topology = fixture::load("two-socket");
        let placement = place(&request(pinned(), pinned()), &topology, &Ledger::new()).unwrap();
        assert_eq!((placement.node, cpus(&placement)), (1, (Some(8), Some(9))));
        assert_eq!(score(&placement, "pool_fragmentation"), 0);
    }

    #[test]
    fn cores_follow_the_pages_to_their_node() {
        let topology = fixture::load("two-socket");
        let mut asked = request(pinned(), pinned());
        asked.node = Some(1);
        let placement = place(&asked, &topology, &Ledger::new()).unwrap();
        assert_eq!((placement.node, cpus(&placement)), (1, (Some(8), Some(9))));
        assert_eq!(score(&placement, "numa_distance"), 30);
    }

    #[test]
    fn pages_follow_a_bound_process_to_its_node() {
        let topology = fixture::load("two-socket");
        let bound = EndRequest { allowed: Some("8-15".parse().unwrap()), ..EndRequest::default() };
        let asked = request(bound.clone(), bound);
        let placement = place(&asked, &topology, &Ledger::new()).unwrap();
        assert_eq!(placement.node, 1);
        assert_eq!(placement.producer.grade, Grade::D);
        assert_eq!((cpus(&placement), placement.relation), ((None, None), None));
    }

    #[test]
    fn a_split_socket_keeps_a_lane_in_one_domain_of_one_node() {
        let topology = fixture::load("epyc-nps4");
        let mut asked = request(exclusive(), exclusive());
        asked.node = Some(2);
        let mut ledger = Ledger::new();
        let first = grant(&asked, &topology, &mut ledger);
        let second = grant(&asked, &topology, &mut ledger);
        assert_eq!(cpus(&first), (Some(8), Some(9)));
        assert_eq!(cpus(&second), (Some(10), Some(11)));
        // The node is full: the third lane keeps its pages there and runs next door.
        let third = grant(&asked, &topology, &mut ledger);
        assert_eq!((third.node, cpus(&third)), (2, (Some(0), Some(1))));
        assert_eq!(score(&third, "numa_distance"), 12 + 12 + 10);
    }

    #[test]
    fn far_memory_is_the_last_resort() {
        let topology = fixture::load("cpuless-node");
        for ends in [(pinned(), pinned()), Default::default()] {
            let mut asked = request(ends.0, ends.1);
            assert_eq!(place(&asked, &topology, &Ledger::new()).unwrap().node, 0);
            asked.size_bytes = 2 << 30;
            assert_eq!(place(&asked, &topology, &Ledger::new()).unwrap().node, 1);
        }
    }

    #[test]
    fn an_offline_cpu_is_never_used() {
        let topology = fixture::load("offline-cpu");
        let mut ledger = Ledger::new();
        let asked = request(exclusive(), exclusive());
        let first = grant(&asked, &topology, &mut ledger);
        let second = grant(&asked, &topology, &mut ledger);
        assert_eq!(cpus(&first), (Some(0), Some(1)));
        assert_eq!(cpus(&second), (Some(2), Some(7)));
    }

    #[test]
    fn without_cache_information_lanes_are_still_placed() {
        let topology = fixture::load("no-cache-info");
        let placement =
            place(&request(exclusive(), exclusive()), &topology, &Ledger::new()).unwrap();
        assert_eq!(cpus(&placement), (Some(0), Some(2)));
        assert_eq!(placement.relation, Some(Relation::SameNode));
    }

    #[test]
    fn every_step_down_is_reported() {
        let topology = fixture::load("this-machine");
        let mut asked = request(pinned(), pinned());
        asked.page_ladder = vec![G1, M2, K4];
        let placement = place(&asked, &topology, &Ledger::new()).unwrap();
        assert_eq!(placement.page_size, K4);
        assert_eq!(placement.page_count, PageCount::new(2048));
        let texts: Vec<_> = placement.steps_down.iter().map(StepDown::to_string).collect();
        let expected = ["1 GiB: 1 needed, 0 free on node 0", "2 MiB: 4 needed, 0 free on node 0"];
        assert_eq!(texts, expected);
    }

    #[test]
    fn promised_pages_are_gone_and_backed_ones_are_the_kernels_to_count() {
        let topology = fixture::load("offline-cpu");
        let mut ledger = Ledger::new();
        let mut asked = request(EndRequest::default(), EndRequest::default());
        asked.size_bytes = 200 * M2.bytes();
        grant(&asked, &topology, &mut ledger);
        assert!(place(&asked, &topology, &ledger).is_err());
        // Once backed, the kernel's free count is lower by itself.
        ledger.mark_backed(0).unwrap();
        assert!(place(&asked, &topology, &ledger).is_ok());
    }

    #[test]
    fn lanes_share_the_least_loaded_cores_of_their_tenant() {
        let topology = fixture::load("this-machine");
        let mut asked = request(pinned(), pinned());
        asked.page_ladder = vec![K4];
        let mut ledger = Ledger::new();
        let first = grant(&asked, &topology, &mut ledger);
        let second = grant(&asked, &topology, &mut ledger);
        assert_eq!(cpus(&first), (Some(0), Some(1)));
        assert_eq!(cpus(&second), (Some(0), Some(1)));
        assert_eq!(second.producer.facts.co_holders, 1);
        assert!(!second.producer.facts.exclusive);
    }

    #[test]
    fn two_ends_on_one_cpu_are_better_than_none() {
        let topology = fixture::load("this-machine");
        let only = EndRequest { allowed: Some("1".parse().unwrap()), ..pinned() };
        let mut asked = request(only.clone(), only);
        asked.page_ladder = vec![K4];
        let placement = place(&asked, &topology, &Ledger::new()).unwrap();
        assert_eq!(cpus(&placement), (Some(1), Some(1)));
        assert_eq!(placement.relation, Some(Relation::SameCpu));
        let facts = placement.consumer.facts;
        assert!(facts.same_core_as_peer);
        assert_eq!((facts.co_holders, score(&placement, "cpu_load")), (1, 2));
    }

    #[test]
    fn a_tenant_never_gets_the_sibling_of_another() {
        let topology = fixture::load("two-socket");
        let mut ledger = Ledger::new();
        let at = |cpu| EndRequest { cpu: Some(cpu), ..pinned() };
        grant(&request(at(0), at(1)), &topology, &mut ledger);
        let mut other = request(pinned(), pinned());
        other.tenant = "px".to_owned();
        other.producer.allowed = Some("0,1,16,17,2".parse().unwrap());
        other.consumer.allowed = Some("0,1,16,17,3".parse().unwrap());
        let placement = grant(&other, &topology, &mut ledger);
        assert_eq!(cpus(&placement), (Some(2), Some(3)));
        assert_eq!(ledger.audit_cores(&topology), Ok(()));
    }

    #[test]
    fn every_term_of_the_score_has_a_name() {
        let topology = fixture::load("two-socket");
        let placement = place(&request(pinned(), pinned()), &topology, &Ledger::new()).unwrap();
        assert_eq!(placement.score.len(), SCORE_TERMS.len());
        assert_eq!(score(&placement, "memory_node"), 1);
        assert_eq!(score(&placement, "consumer_cpu"), 9);
    }
}
