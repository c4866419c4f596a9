//! Why a lane cannot be placed, and what could be placed instead.
//!
//! A refusal names the first constraint that cannot be met with the figures behind it, the largest
//! segment that would fit, and the nearest single concession that makes the request placeable,
//! found by placing it again with one constraint relaxed at a time. Decides nothing itself: what
//! is possible is asked of the same search that refused.

use std::fmt;

use laneway_shm::Relation;
use thiserror::Error;

use super::score::{Survey, Vacancy};
use super::{
    CacheRelationRule, EndRequest, Grade, PlaceRequest, StepDown, find_memory, free_pages, solve,
};
use crate::ledger::{Ledger, Role};
use crate::model::capacity::{CpuSet, PageSize};
use crate::model::topology::{Topology, how_near};

/// A request that cannot be met.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{constraint}{would_fit}")]
pub struct Refusal {
    /// What is in the way.
    pub constraint: Constraint,
    /// What is not.
    pub would_fit: Box<WouldFit>,
}

/// What would fit instead.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct WouldFit {
    /// The largest segment the accepted pages could hold, whatever the cores; `None` for none.
    pub largest: Option<LargestFit>,
    /// The smallest concession that alone is enough; `None` where it takes several.
    pub relaxation: Option<Relaxation>,
}

/// The largest segment that fits on one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LargestFit {
    /// Its bytes.
    pub size_bytes: u64,
    /// The size of its pages.
    pub page_size: PageSize,
    /// The node.
    pub node: u32,
}

/// One end of a lane, or both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ends {
    /// The end that writes.
    Producer,
    /// The end that reads.
    Consumer,
    /// The two together.
    Both,
}

/// A constraint that cannot be met, what was asked of it and what is free.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum Constraint {
    /// The request names no bytes or no page size.
    #[error("nothing to place: {size_bytes} bytes in pages of {page_sizes} sizes")]
    NothingAsked {
        /// The bytes.
        size_bytes: u64,
        /// How many page sizes are acceptable.
        page_sizes: usize,
    },
    /// No node has enough pages of any accepted size.
    #[error("no node has the pages for {size_bytes} bytes ({})", list(tried))]
    InsufficientHugepages {
        /// The bytes.
        size_bytes: u64,
        /// What is missing of each accepted size.
        tried: Vec<StepDown>,
    },
    /// The demanded node does not exist or has too few pages, though another node has them.
    #[error("node {node} lacks the pages for {size_bytes} bytes ({})", list(tried))]
    NumaUnsatisfiable {
        /// The node.
        node: u32,
        /// The bytes.
        size_bytes: u64,
        /// What is missing of each accepted size.
        tried: Vec<StepDown>,
    },
    /// No online cpu is in the list an end may use, or its one cpu is not.
    #[error("{role} may not use {}: usable cpus are \"{usable}\"", asked_cpu(*cpu))]
    CpuOutsideCpuset {
        /// The end.
        role: Role,
        /// The cpu it asked for, if it asked for one.
        cpu: Option<u32>,
        /// The online cpus of its list.
        usable: CpuSet,
    },
    /// Every core is held already, or too few are left for two.
    #[error("{ends}: {needed} {} needed, {free} of {usable} are free", core_kind(*exclusive))]
    CoresExhausted {
        /// Which end.
        ends: Ends,
        /// Whether it must be alone on its physical core.
        exclusive: bool,
        /// Physical cores it takes.
        needed: usize,
        /// Physical cores that are free for it.
        free: usize,
        /// Physical cores its lists allow.
        usable: usize,
    },
    /// The cores that could be shared belong to another tenant.
    #[error("{role} of tenant {tenant:?}: other tenants hold all {usable} usable cores")]
    TenantConflict {
        /// The end.
        role: Role,
        /// Its tenant.
        tenant: String,
        /// Physical cores its lists allow, all held by other tenants.
        usable: usize,
    },
    /// No free core is good enough.
    #[error("{role} asks for grade {asked}, the best it can have is {best}")]
    GradeUnreachable {
        /// The end.
        role: Role,
        /// The worst acceptable grade.
        asked: Grade,
        /// The best grade there is, the end's other wishes being met.
        best: Grade,
    },
    /// No two free cores are near enough.
    #[error("the ends cannot be {}: {}", rule_text(*asked), nearest_text(*nearest))]
    RelationUnsatisfiable {
        /// The rule.
        asked: CacheRelationRule,
        /// How near the ends could be; `None` where an end has no core.
        nearest: Option<Relation>,
    },
}

/// A single concession.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Relaxation {
    /// Take pages of any node.
    AnyNode,
    /// Take any cpu of the list instead of the one.
    AnyCpu(Ends),
    /// Let the ends be farther apart.
    Relation(CacheRelationRule),
    /// Accept a worse grade.
    Grade(Ends, Grade),
    /// Share cores with lanes of the same tenant.
    Shared(Ends),
    /// Accept pages of this size too.
    Pages(PageSize),
    /// Make the segment smaller.
    Size(LargestFit),
    /// Allow the whole machine instead of the list.
    WiderCpuset(Ends),
    /// Do without a core.
    Unpinned(Ends),
}

impl Refusal {
    pub(super) fn new(
        constraint: Constraint,
        request: &PlaceRequest,
        topology: &Topology,
        ledger: &Ledger,
    ) -> Self {
        let largest = largest_fit(request, topology, ledger);
        let relaxation = relaxations(request, largest).into_iter().find(|relaxation| {
            let relaxed = relaxation.apply(request);
            relaxed != *request && solve(&relaxed, topology, ledger).is_ok()
        });
        Self { constraint, would_fit: Box::new(WouldFit { largest, relaxation }) }
    }
}

impl Relaxation {
    /// The request with this concession made.
    #[must_use]
    pub fn apply(&self, request: &PlaceRequest) -> PlaceRequest {
        let mut relaxed = request.clone();
        match *self {
            Self::AnyNode => relaxed.node = None,
            Self::AnyCpu(ends) => ends.change(&mut relaxed, |end| end.cpu = None),
            Self::Relation(rule) => relaxed.relation = rule,
            Self::Grade(ends, grade) => ends.change(&mut relaxed, |end| {
                end.min_grade = end.min_grade.map(|asked| asked.max(grade));
            }),
            Self::Shared(ends) => ends.change(&mut relaxed, |end| end.exclusive = false),
            Self::Pages(page_size) if !relaxed.page_ladder.contains(&page_size) => {
                relaxed.page_ladder.push(page_size);
            }
            Self::Pages(_) => {}
            Self::Size(largest) => relaxed.size_bytes = largest.size_bytes,
            Self::WiderCpuset(ends) => ends.change(&mut relaxed, |end| end.allowed = None),
            Self::Unpinned(ends) => ends.change(&mut relaxed, |end| end.pinned = false),
        }
        relaxed
    }
}

impl Ends {
    /// The ways to ask a concession of the ends, the smallest first.
    const EACH: [Self; 3] = [Self::Producer, Self::Consumer, Self::Both];

    fn change(self, request: &mut PlaceRequest, change: impl Fn(&mut EndRequest)) {
        if self != Self::Consumer {
            change(&mut request.producer);
        }
        if self != Self::Producer {
            change(&mut request.consumer);
        }
    }
}

/// All single concessions, the nearest first: what costs the lane nothing it would notice, then
/// distance, isolation and page size, then its size, and last what it cannot change by itself.
fn relaxations(request: &PlaceRequest, largest: Option<LargestFit>) -> Vec<Relaxation> {
    let mut list = vec![Relaxation::AnyNode];
    list.extend(Ends::EACH.map(Relaxation::AnyCpu));
    if request.relation == CacheRelationRule::SameL3 {
        list.push(Relaxation::Relation(CacheRelationRule::SameNode));
    }
    list.push(Relaxation::Relation(CacheRelationRule::Any));
    for grade in [Grade::B, Grade::C, Grade::D] {
        list.extend(Ends::EACH.map(|ends| Relaxation::Grade(ends, grade)));
    }
    list.extend(Ends::EACH.map(Relaxation::Shared));
    list.extend(PageSize::ALL.map(Relaxation::Pages));
    list.extend(largest.map(Relaxation::Size).filter(|_| request.size_bytes > 0));
    list.extend(Ends::EACH.map(Relaxation::WiderCpuset));
    list.extend(Ends::EACH.map(Relaxation::Unpinned));
    list
}

/// The largest segment of any accepted page size; the preferred size and the lowest node among
/// equals.
fn largest_fit(request: &PlaceRequest, topology: &Topology, ledger: &Ledger) -> Option<LargestFit> {
    let mut largest: Option<LargestFit> = None;
    for page_size in request.page_ladder.iter().copied() {
        for (node, free) in free_pages(topology, ledger, page_size) {
            let size_bytes = free.bytes(page_size).unwrap_or(u64::MAX);
            let permitted = request.node.is_none_or(|only| only == node);
            let better = |largest: LargestFit| {
                size_bytes > largest.size_bytes
                    || (size_bytes == largest.size_bytes
                        && page_size == largest.page_size
                        && node < largest.node)
            };
            if permitted && size_bytes > 0 && largest.is_none_or(better) {
                largest = Some(LargestFit { size_bytes, page_size, node });
            }
        }
    }
    largest
}

pub(super) fn memory_constraint(
    request: &PlaceRequest,
    topology: &Topology,
    ledger: &Ledger,
    tried: Vec<StepDown>,
) -> Constraint {
    let size_bytes = request.size_bytes;
    let Some(node) = request.node else {
        return Constraint::InsufficientHugepages { size_bytes, tried };
    };
    let anywhere = Relaxation::AnyNode.apply(request);
    match find_memory(&anywhere, topology, ledger) {
        Err(_) if topology.node(node).is_some() => {
            Constraint::InsufficientHugepages { size_bytes, tried }
        }
        _ => Constraint::NumaUnsatisfiable { node, size_bytes, tried },
    }
}

/// Why a pinned end has no place even by itself.
pub(super) fn end_constraint(survey: &Survey<'_>, role: Role) -> Constraint {
    let end = survey.request.end(role);
    let listed: Vec<_> = survey.sites.iter().filter(|site| end.lists(site.cpu.id)).collect();
    if listed.is_empty() {
        let online = survey.sites.iter().map(|site| site.cpu.id);
        let usable = online.filter(|id| end.allowed.as_ref().is_none_or(|set| set.contains(*id)));
        let usable = CpuSet::from_ids(usable).unwrap_or_default();
        return Constraint::CpuOutsideCpuset { role, cpu: end.cpu, usable };
    }
    let usable = distinct_cores(listed.iter().map(|site| site.cpu.core));
    let open = listed.iter().filter(|site| site.vacancy(end) == Vacancy::Open);
    if let Some(best) = open.map(|site| end.grade_on(Some(site.cpu))).min() {
        return grade_constraint(role, end, best);
    }
    if listed.iter().all(|site| site.vacancy(end) == Vacancy::OtherTenant) {
        let tenant = survey.request.tenant.clone();
        return Constraint::TenantConflict { role, tenant, usable };
    }
    let exclusive = end.exclusive;
    Constraint::CoresExhausted { ends: role.into(), exclusive, needed: 1, free: 0, usable }
}

pub(super) fn grade_constraint(role: Role, end: &EndRequest, best: Grade) -> Constraint {
    Constraint::GradeUnreachable { role, asked: end.min_grade.unwrap_or(best), best }
}

/// Why two ends that each have a place have none together.
pub(super) fn pair_constraint(
    survey: &Survey<'_>,
    producer: Option<&[usize]>,
    consumer: Option<&[usize]>,
) -> Constraint {
    let asked = survey.request.relation;
    let unruled = survey.seats(producer, consumer, CacheRelationRule::Any);
    if !unruled.is_empty() {
        let relation = |(p, c): (Option<usize>, Option<usize>)| {
            let (p, c) = (survey.sites.get(p?)?, survey.sites.get(c?)?);
            Some(how_near(p.cpu, c.cpu))
        };
        let nearest = unruled.into_iter().filter_map(relation).min();
        return Constraint::RelationUnsatisfiable { asked, nearest };
    }
    let cores = |places: Option<&[usize]>| -> Vec<u32> {
        let sites = places.unwrap_or_default().iter().filter_map(|place| survey.sites.get(*place));
        sites.map(|site| site.cpu.core).collect()
    };
    let free = distinct_cores(cores(producer).into_iter().chain(cores(consumer)));
    let ends = [&survey.request.producer, &survey.request.consumer];
    let listed = |id: u32| ends.iter().any(|end| end.lists(id));
    let usable = survey.sites.iter().filter(|site| listed(site.cpu.id)).map(|site| site.cpu.core);
    let usable = distinct_cores(usable);
    Constraint::CoresExhausted { ends: Ends::Both, exclusive: true, needed: 2, free, usable }
}

impl From<Role> for Ends {
    fn from(role: Role) -> Self {
        match role {
            Role::Producer => Self::Producer,
            Role::Consumer => Self::Consumer,
        }
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Producer => "producer",
            Self::Consumer => "consumer",
            Self::Both => "producer and consumer",
        })
    }
}

impl fmt::Display for WouldFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(LargestFit { size_bytes, page_size, node }) = self.largest {
            write!(f, "; up to {size_bytes} bytes fit in pages of {page_size} on node {node}")?;
        }
        match self.relaxation {
            Some(relaxation) => write!(f, "; it would fit {relaxation}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Relaxation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyNode => f.write_str("with pages of any node"),
            Self::AnyCpu(ends) => write!(f, "on another cpu for the {ends}"),
            Self::Relation(rule) => write!(f, "with the ends {}", rule_text(*rule)),
            Self::Grade(ends, grade) => write!(f, "with grade {grade} for the {ends}"),
            Self::Shared(ends) => write!(f, "with a shared core for the {ends}"),
            Self::Pages(page_size) => write!(f, "in pages of {page_size}"),
            Self::Size(largest) => write!(f, "with {} bytes", largest.size_bytes),
            Self::WiderCpuset(ends) => write!(f, "with more cpus allowed for the {ends}"),
            Self::Unpinned(ends) => write!(f, "without a core for the {ends}"),
        }
    }
}

const fn rule_text(rule: CacheRelationRule) -> &'static str {
    match rule {
        CacheRelationRule::Any => "anywhere",
        CacheRelationRule::SameL3 => "below one l3 cache",
        CacheRelationRule::SameNode => "on one node",
    }
}

fn nearest_text(nearest: Option<Relation>) -> String {
    let text = match nearest {
        None => return "an end without a core is nowhere in particular".to_owned(),
        Some(Relation::SameCpu) => "on one cpu",
        Some(Relation::SameCore) => "on one core",
        Some(Relation::SameL2) => "below one l2 cache",
        Some(Relation::SameL3) => "below one l3 cache",
        Some(Relation::SameNode) => "on one node",
        Some(Relation::OtherNode) => "on two nodes",
    };
    format!("the nearest free cores are {text}")
}

fn asked_cpu(cpu: Option<u32>) -> String {
    cpu.map_or_else(|| "any online cpu".to_owned(), |cpu| format!("cpu {cpu}"))
}

const fn core_kind(exclusive: bool) -> &'static str {
    if exclusive { "exclusive physical cores" } else { "shared physical cores" }
}

fn list(tried: &[StepDown]) -> String {
    tried.iter().map(StepDown::to_string).collect::<Vec<_>>().join("; ")
}

fn distinct_cores(cores: impl Iterator<Item = u32>) -> usize {
    cores.collect::<std::collections::BTreeSet<u32>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{CoreHolding, Holding};
    use crate::model::capacity::PageCount;
    use crate::placement::{StepDownReason, place};
    use crate::sysfs::fixture;

    fn pinned() -> EndRequest {
        EndRequest { pinned: true, ..EndRequest::default() }
    }

    fn request() -> PlaceRequest {
        PlaceRequest {
            size_bytes: 8 << 20,
            page_ladder: vec![PageSize::HUGE_2M],
            node: None,
            producer: pinned(),
            consumer: pinned(),
            relation: CacheRelationRule::Any,
            tenant: "dx".to_owned(),
        }
    }

    fn only(cpus: &str) -> Option<CpuSet> {
        Some(cpus.parse().unwrap())
    }

    /// A ledger in which a tenant holds these cpus.
    fn held(tenant: &str, cpus: &[u32], exclusive: bool) -> Ledger {
        let role = Role::Producer;
        let core = |cpu: &u32| CoreHolding { cpu: *cpu, exclusive, role };
        let mut ledger = Ledger::new();
        let holding = Holding {
            tenant: tenant.to_owned(),
            pages: Vec::new(),
            cores: cpus.iter().map(core).collect(),
        };
        ledger.grant(1, holding).unwrap();
        ledger
    }

    /// Refuses, and checks that the concession it names is enough.
    fn refuse(request: &PlaceRequest, machine: &str, ledger: &Ledger) -> Refusal {
        let topology = fixture::load(machine);
        let refusal = place(request, &topology, ledger).unwrap_err();
        if let Some(relaxation) = refusal.would_fit.relaxation {
            assert!(place(&relaxation.apply(request), &topology, ledger).is_ok());
        }
        refusal
    }

    #[test]
    fn a_request_for_nothing_is_refused() {
        let mut asked = request();
        asked.page_ladder.clear();
        let refusal = refuse(&asked, "two-socket", &Ledger::new());
        let nothing = Constraint::NothingAsked { size_bytes: 8 << 20, page_sizes: 0 };
        assert_eq!(refusal.constraint, nothing);
        asked = request();
        asked.size_bytes = 0;
        let refusal = refuse(&asked, "two-socket", &Ledger::new());
        assert!(matches!(refusal.constraint, Constraint::NothingAsked { size_bytes: 0, .. }));
    }

    #[test]
    fn too_few_pages_name_what_is_free_and_what_would_fit() {
        let mut asked = request();
        asked.size_bytes = 4 << 30;
        let refusal = refuse(&asked, "two-socket", &Ledger::new());
        let reason = StepDownReason::TooFewPages {
            needed: PageCount::new(2048),
            free: PageCount::new(1008),
            node: 0,
        };
        let tried = vec![StepDown { page_size: PageSize::HUGE_2M, reason }];
        let size_bytes = 4 << 30;
        let short = Constraint::InsufficientHugepages { size_bytes, tried };
        assert_eq!(refusal.constraint, short);
        let largest = LargestFit { size_bytes: 1008 << 21, page_size: PageSize::HUGE_2M, node: 0 };
        assert_eq!(refusal.would_fit.largest, Some(largest));
        let gigantic = Relaxation::Pages(PageSize::HUGE_1G);
        assert_eq!(refusal.would_fit.relaxation, Some(gigantic));
    }

    #[test]
    fn a_smaller_segment_is_offered_where_no_page_size_helps() {
        let mut asked = request();
        asked.page_ladder = PageSize::ALL.to_vec();
        asked.size_bytes = 1 << 50;
        let refusal = refuse(&asked, "two-socket", &Ledger::new());
        let largest =
            LargestFit { size_bytes: 50_331_648 << 10, page_size: PageSize::BASE_4K, node: 0 };
        assert_eq!(refusal.would_fit.relaxation, Some(Relaxation::Size(largest)));
    }

    #[test]
    fn a_node_without_pages_is_refused_where_another_has_them() {
        let mut asked = request();
        asked.node = Some(0);
        asked.size_bytes = 2 << 30;
        let refusal = refuse(&asked, "cpuless-node", &Ledger::new());
        assert!(matches!(refusal.constraint, Constraint::NumaUnsatisfiable { node: 0, .. }));
        assert_eq!(refusal.would_fit.relaxation, Some(Relaxation::AnyNode));
    }

    #[test]
    fn a_node_that_does_not_exist_is_refused() {
        let mut asked = request();
        asked.node = Some(7);
        let refusal = refuse(&asked, "two-socket", &Ledger::new());
        let text = refusal.to_string();
        assert!(text.starts_with("node 7 lacks the pages for 8388608 bytes"), "{text}");
        assert!(text.contains("2 MiB: no such node"), "{text}");
        assert!(text.ends_with("; it would fit with pages of any node"), "{text}");
    }

    #[test]
    fn a_cpu_outside_the_list_is_refused() {
        let mut asked = request();
        asked.producer.allowed = only("0-3");
        asked.producer.cpu = Some(9);
        let refusal = refuse(&asked, "two-socket", &Ledger::new());
        let outside = Constraint::CpuOutsideCpuset {
            role: Role::Producer,
            cpu: Some(9),
            usable: "0-3".parse().unwrap(),
        };
        assert_eq!(refusal.constraint, outside);
        let any_cpu = Relaxation::AnyCpu(Ends::Producer);
        assert_eq!(refusal.would_fit.relaxation, Some(any_cpu));
    }

    #[test]
    fn an_offline_cpu_is_outside_every_list() {
        let mut asked = request();
        asked.consumer.allowed = only("3,6");
        let refusal = refuse(&asked, "offline-cpu", &Ledger::new());
        let text = refusal.constraint.to_string();
        assert_eq!(text, "consumer may not use any online cpu: usable cpus are \"\"");
        let wider = Relaxation::WiderCpuset(Ends::Consumer);
        assert_eq!(refusal.would_fit.relaxation, Some(wider));
    }

    #[test]
    fn held_cores_are_refused_with_how_many_there_are() {
        let mut asked = request();
        asked.consumer.exclusive = true;
        asked.consumer.allowed = only("0-3");
        let refusal = refuse(&asked, "two-socket", &held("dx", &[0, 1, 2, 19], false));
        let exhausted = Constraint::CoresExhausted {
            ends: Ends::Consumer,
            exclusive: true,
            needed: 1,
            free: 0,
            usable: 4,
        };
        assert_eq!(refusal.constraint, exhausted);
        let shared = Relaxation::Shared(Ends::Consumer);
        assert_eq!(refusal.would_fit.relaxation, Some(shared));
    }

    #[test]
    fn one_free_core_is_too_few_for_two_exclusive_ends() {
        let mut asked = request();
        asked.producer.exclusive = true;
        asked.consumer.exclusive = true;
        asked.producer.allowed = only("0-1,16-17");
        asked.consumer.allowed = only("0-1,16-17");
        let refusal = refuse(&asked, "two-socket", &held("px", &[0], true));
        let text = refusal.constraint.to_string();
        let expected = "producer and consumer: 2 exclusive physical cores needed, \
                        1 of 2 are free";
        assert_eq!(text, expected);
        // One end alone cannot share: the other one still wants the core for itself.
        let shared = Relaxation::Shared(Ends::Both);
        assert_eq!(refusal.would_fit.relaxation, Some(shared));
    }

    #[test]
    fn a_core_of_another_tenant_is_a_conflict() {
        let mut asked = request();
        asked.producer.cpu = Some(16);
        let refusal = refuse(&asked, "two-socket", &held("px", &[0], false));
        let conflict =
            Constraint::TenantConflict { role: Role::Producer, tenant: "dx".to_owned(), usable: 1 };
        assert_eq!(refusal.constraint, conflict);
        let any_cpu = Relaxation::AnyCpu(Ends::Producer);
        assert_eq!(refusal.would_fit.relaxation, Some(any_cpu));
    }

    #[test]
    fn a_grade_no_core_reaches_is_refused_with_the_best_there_is() {
        let mut asked = request();
        asked.producer.exclusive = true;
        asked.producer.min_grade = Some(Grade::A);
        let refusal = refuse(&asked, "epyc-nps4", &Ledger::new());
        let unreachable =
            Constraint::GradeUnreachable { role: Role::Producer, asked: Grade::A, best: Grade::B };
        assert_eq!(refusal.constraint, unreachable);
        let lower = Relaxation::Grade(Ends::Producer, Grade::B);
        assert_eq!(refusal.would_fit.relaxation, Some(lower));
    }

    #[test]
    fn an_end_without_a_core_has_no_grade_to_ask_for() {
        let mut asked = request();
        asked.consumer.pinned = false;
        asked.consumer.min_grade = Some(Grade::C);
        let refusal = refuse(&asked, "two-socket", &Ledger::new());
        let text = refusal.constraint.to_string();
        assert_eq!(text, "consumer asks for grade C, the best it can have is D");
    }

    #[test]
    fn ends_that_cannot_be_near_are_refused_with_how_near_they_could_be() {
        let mut asked = request();
        asked.relation = CacheRelationRule::SameL3;
        asked.producer.allowed = only("0-3");
        asked.consumer.allowed = only("4-15");
        let refusal = refuse(&asked, "epyc-nps1-ccx", &Ledger::new());
        let far = Constraint::RelationUnsatisfiable {
            asked: CacheRelationRule::SameL3,
            nearest: Some(Relation::SameNode),
        };
        assert_eq!(refusal.constraint, far);
        let same_node = Relaxation::Relation(CacheRelationRule::SameNode);
        assert_eq!(refusal.would_fit.relaxation, Some(same_node));
    }

    #[test]
    fn an_end_without_a_core_is_near_nothing() {
        let mut asked = request();
        asked.relation = CacheRelationRule::SameNode;
        asked.consumer.pinned = false;
        let refusal = refuse(&asked, "two-socket", &Ledger::new());
        let nowhere =
            Constraint::RelationUnsatisfiable { asked: CacheRelationRule::SameNode, nearest: None };
        assert_eq!(refusal.constraint, nowhere);
    }

    #[test]
    fn where_it_takes_two_concessions_none_is_named() {
        let mut asked = request();
        asked.size_bytes = 1 << 50;
        asked.producer.cpu = Some(99);
        let refusal = refuse(&asked, "two-socket", &Ledger::new());
        assert_eq!(refusal.would_fit.relaxation, None);
        assert!(refusal.would_fit.largest.is_some());
    }
}
