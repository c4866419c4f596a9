//! The search against brute force: random machines, random holdings, random wishes.
//!
//! Owns a second telling of the placement rules, written to be read and not to be fast, and the
//! properties no placement may break. Shares no code with the search it judges.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ledger::PageState;
use crate::model::topology::{NumaNode, PagePool};

const G1: PageSize = PageSize::HUGE_1G;
const M2: PageSize = PageSize::HUGE_2M;
const K4: PageSize = PageSize::BASE_4K;

/// A machine of any shape up to 2 nodes, 2 domains, 4 cores and 2 threads, its cpus numbered in
/// any order; sometimes with a third node that is only memory.
#[derive(Clone, Debug)]
struct Shape {
    nodes: u32,
    domains: u32,
    cores: u32,
    threads: u32,
    cores_per_l2: u32,
    caches_known: bool,
    memory_node: bool,
    ids: Vec<u32>,
    isolated: u32,
    distances: Vec<u32>,
    pages: Vec<[u64; 3]>,
}

fn shape() -> impl Strategy<Value = Shape> {
    let counts = (1u32..3, 1u32..3, 1u32..5, 1u32..3, 1u32..3);
    let flags = (prop::bool::weighted(0.9), prop::bool::weighted(0.2));
    let ids = Just((0..32).collect::<Vec<u32>>()).prop_shuffle();
    let distances = prop::collection::vec(10u32..40, 9);
    let pages = prop::collection::vec([0u64..3, 0u64..10, 0u64..2048], 3);
    (counts, flags, ids, any::<u32>(), distances, pages).prop_map(
        |(counts, flags, ids, isolated, distances, pages)| Shape {
            nodes: counts.0,
            domains: counts.1,
            cores: counts.2,
            threads: counts.3,
            cores_per_l2: counts.4,
            caches_known: flags.0,
            memory_node: flags.1,
            ids,
            isolated,
            distances,
            pages,
        },
    )
}

fn build(shape: &Shape) -> Topology {
    let Shape { nodes, domains, cores, threads, .. } = *shape;
    // Position of a thread within the machine to the positions of its core and caches.
    let core_of = |position: u32| position / threads;
    let l2_of = |position: u32| {
        let core = core_of(position);
        (core / cores, core % cores / shape.cores_per_l2)
    };
    let l3_of = |position: u32| core_of(position) / cores;
    let node_of = |position: u32| l3_of(position) / domains;
    let total = nodes * domains * cores * threads;
    let id = |position: u32| shape.ids[usize::try_from(position).unwrap()];
    let mut topology = Topology::default();
    for position in 0..total {
        let mates = |same: &dyn Fn(u32) -> bool| -> Vec<u32> {
            let mut ids: Vec<u32> = (0..total).filter(|at| same(*at)).map(id).collect();
            ids.sort_unstable();
            ids
        };
        let core = mates(&|at| core_of(at) == core_of(position));
        let l2 = mates(&|at| l2_of(at) == l2_of(position))[0];
        let l3 = mates(&|at| l3_of(at) == l3_of(position))[0];
        let me = id(position);
        topology.cpus.push(Cpu {
            id: me,
            package: 0,
            core: core[0],
            node: node_of(position),
            l2: shape.caches_known.then_some(l2),
            l3: shape.caches_known.then_some(l3),
            siblings: core.into_iter().filter(|cpu| *cpu != me).collect(),
            isolated: shape.isolated >> me & 1 == 1,
            nohz_full: false,
        });
    }
    for node in 0..nodes + u32::from(shape.memory_node) {
        let index = usize::try_from(node).unwrap();
        let of_node = topology.cpus.iter().filter(|cpu| cpu.node == node);
        let [giga, mega, base] = shape.pages[index];
        topology.nodes.push(NumaNode {
            id: node,
            cpus: of_node.map(|cpu| cpu.id).collect(),
            distance: (0..3).zip(shape.distances[index * 3..].iter().copied()).collect(),
            pools: vec![pool(G1, giga), pool(M2, mega)],
            memory_total_bytes: 1 << 30,
            memory_free_bytes: base * K4.bytes(),
        });
    }
    topology
}

fn pool(page_size: PageSize, free: u64) -> PagePool {
    let free = PageCount::new(free);
    PagePool { page_size, total: free, free, reserved: PageCount::ZERO, surplus: PageCount::ZERO }
}

/// Holdings any which way, as long as the ledger takes them.
fn ledger() -> impl Strategy<Value = Ledger> {
    let core = (0u32..32, prop::bool::weighted(0.2));
    let lane = (any::<bool>(), prop::collection::vec(core, 0..3), 0u32..3, 0u64..3);
    prop::collection::vec(lane, 0..12).prop_map(|lanes| {
        let mut ledger = Ledger::new();
        for (key, (tenant, cores, node, pages)) in (100u128..).zip(lanes) {
            let role = Role::Producer;
            let core = |(cpu, exclusive)| CoreHolding { cpu, exclusive, role };
            let count = PageCount::new(pages);
            let _refused = ledger.grant(
                key,
                Holding {
                    tenant: if tenant { "dx" } else { "px" }.to_owned(),
                    pages: vec![PageHolding { node, page_size: M2, count }],
                    cores: cores.into_iter().map(core).collect(),
                },
            );
        }
        ledger
    })
}

fn end() -> impl Strategy<Value = EndRequest> {
    let allowed = prop::option::weighted(0.3, any::<u32>());
    let grade = prop::sample::select(vec![Grade::A, Grade::B, Grade::C, Grade::D]);
    (
        prop::bool::weighted(0.85),
        allowed,
        prop::bool::weighted(0.4),
        prop::option::weighted(0.15, grade),
        prop::option::weighted(0.1, 0u32..32),
        prop::option::weighted(0.2, any::<u32>()),
    )
        .prop_map(|(pinned, allowed, exclusive, min_grade, cpu, crowded)| {
            let set =
                |mask: u32| CpuSet::from_ids((0..32).filter(|id| mask >> id & 1 == 1)).unwrap();
            let (allowed, crowded) = (allowed.map(set), crowded.map(set).unwrap_or_default());
            EndRequest { pinned, allowed, exclusive, min_grade, cpu, crowded }
        })
}

fn any_request() -> impl Strategy<Value = PlaceRequest> {
    let ladders = vec![vec![G1, M2, K4], vec![M2, K4], vec![M2], vec![G1], vec![K4]];
    let rules = vec![
        CacheRelationRule::Any,
        CacheRelationRule::Any,
        CacheRelationRule::SameL3,
        CacheRelationRule::SameNode,
    ];
    (
        1u64..(10 << 20),
        prop::sample::select(ladders),
        prop::option::weighted(0.2, 0u32..4),
        end(),
        end(),
        prop::sample::select(rules),
    )
        .prop_map(|(size_bytes, page_ladder, node, producer, consumer, relation)| {
            PlaceRequest {
                size_bytes,
                page_ladder,
                node,
                producer,
                consumer,
                relation,
                tenant: "dx".to_owned(),
            }
        })
}

/// The rules once more, written to be read and not to be fast.
struct Oracle<'a> {
    request: &'a PlaceRequest,
    topology: &'a Topology,
    ledger: &'a Ledger,
}

impl Oracle<'_> {
    fn best(&self) -> Option<Vec<u64>> {
        for (step, size) in (0u64..).zip(&self.request.page_ladder) {
            let needed = self.request.size_bytes.div_ceil(size.bytes());
            let free = self.free(*size);
            let fits = |node: u32| {
                self.request.node.is_none_or(|only| only == node) && free[&node] >= needed
            };
            let nodes: Vec<u32> = free.keys().copied().filter(|node| fits(*node)).collect();
            if nodes.is_empty() {
                continue;
            }
            let mut best: Option<Vec<u64>> = None;
            for (p, c) in self.pairs() {
                let terms = self.core_terms(p, c);
                for node in &nodes {
                    let mut after = free.clone();
                    *after.get_mut(node).unwrap() -= needed;
                    let lost = free.values().max().unwrap() - after.values().max().unwrap();
                    let numa = self.numa(p, c, *node);
                    let mut vector = vec![step];
                    vector.extend(&terms[..3]);
                    vector.push(numa);
                    vector.extend(&terms[3..]);
                    vector.extend([lost, u64::from(*node)]);
                    vector.extend([p, c].map(|end| end.map_or(0, |cpu| u64::from(cpu.id))));
                    if best.as_ref().is_none_or(|best| vector < *best) {
                        best = Some(vector);
                    }
                }
            }
            return best;
        }
        None
    }

    fn free(&self, size: PageSize) -> BTreeMap<u32, u64> {
        let free = |node: &NumaNode| {
            let promised = self.ledger.pool_usage(node.id, size).promised.get();
            let kernel = match node.pool(size) {
                Some(pool) => pool.free.get().saturating_sub(pool.reserved.get()),
                None => node.memory_free_bytes / 4096,
            };
            (node.id, kernel.saturating_sub(promised))
        };
        self.topology.nodes.iter().map(free).collect()
    }

    fn pairs(&self) -> Vec<(Option<&Cpu>, Option<&Cpu>)> {
        let choices = |end: &EndRequest| -> Vec<Option<&Cpu>> {
            if !end.pinned {
                return if end.min_grade.is_none_or(|worst| worst == Grade::D) {
                    vec![None]
                } else {
                    Vec::new()
                };
            }
            let open = self.topology.cpus.iter().filter(|cpu| self.open(end, cpu));
            open.map(Some).collect()
        };
        let mut pairs = Vec::new();
        for p in choices(&self.request.producer) {
            for c in choices(&self.request.consumer) {
                if self.together(p, c) {
                    pairs.push((p, c));
                }
            }
        }
        pairs
    }

    fn open(&self, end: &EndRequest, cpu: &Cpu) -> bool {
        let listed = end.allowed.as_ref().is_none_or(|set| set.contains(cpu.id));
        let only = end.cpu.is_none_or(|only| only == cpu.id);
        let grade = match (end.exclusive && !end.crowded.contains(cpu.id), cpu.isolated) {
            (true, true) => Grade::A,
            (true, false) => Grade::B,
            (false, _) => Grade::C,
        };
        let good = end.min_grade.is_none_or(|worst| grade <= worst);
        let core = self.topology.cpus.iter().filter(|other| other.core == cpu.core);
        let mut holders = core.flat_map(|other| self.ledger.cpu_holders(other.id));
        let free = if end.exclusive {
            holders.next().is_none()
        } else {
            holders.all(|holder| !holder.exclusive && holder.tenant == self.request.tenant)
        };
        listed && only && good && free
    }

    fn together(&self, p: Option<&Cpu>, c: Option<&Cpu>) -> bool {
        let (Some(p), Some(c)) = (p, c) else {
            return self.request.relation == CacheRelationRule::Any;
        };
        let alone = self.request.producer.exclusive || self.request.consumer.exclusive;
        let same_cache = |a: Option<u32>, b: Option<u32>| a.is_some() && a == b;
        let near = match self.request.relation {
            CacheRelationRule::Any => true,
            CacheRelationRule::SameNode => p.node == c.node,
            CacheRelationRule::SameL3 => {
                p.core == c.core || same_cache(p.l2, c.l2) || same_cache(p.l3, c.l3)
            }
        };
        near && !(alone && p.core == c.core)
    }

    /// Loads, isolation, then what comes after the distance of nodes.
    fn core_terms(&self, p: Option<&Cpu>, c: Option<&Cpu>) -> Vec<u64> {
        let len = |cpu: u32| u64::try_from(self.ledger.cpu_holders(cpu).len()).unwrap();
        let ends = [(p, c, &self.request.producer), (c, p, &self.request.consumer)];
        let (mut cpu_load, mut core_load, mut missed, mut spent) = (0, 0, 0, 0);
        for (me, peer, end) in ends {
            let Some(me) = me else { continue };
            cpu_load += len(me.id) + u64::from(peer.is_some_and(|peer| peer.id == me.id));
            core_load += me.siblings.iter().map(|id| len(*id)).sum::<u64>();
            core_load += u64::from(peer.is_some_and(|peer| me.siblings.contains(&peer.id)));
            missed += u64::from(end.exclusive && !me.isolated);
            spent += u64::from(!end.exclusive && me.isolated);
        }
        let distance = match (p, c) {
            (Some(p), Some(c)) => self.topology.relation(p.id, c.id).unwrap() as u64,
            _ => 0,
        };
        let mut domains: BTreeMap<u32, (u64, Vec<u32>)> = BTreeMap::new();
        for cpu in &self.topology.cpus {
            if let Some(l3) = cpu.l3 {
                let (holders, cores) = domains.entry(l3).or_default();
                *holders += len(cpu.id);
                if !cores.contains(&cpu.core) {
                    cores.push(cpu.core);
                }
            }
        }
        let used = |l3: u32| [p, c].iter().flatten().any(|cpu| cpu.l3 == Some(l3));
        let mine = domains.iter().filter(|(l3, _)| used(**l3));
        let interference = mine.map(|(_, (holders, _))| holders).sum();
        let largest_free = |taken: bool| {
            let free =
                domains.iter().filter(|(l3, (holders, _))| *holders == 0 && !(taken && used(**l3)));
            free.map(|(_, (_, cores))| cores.len()).max().unwrap_or(0)
        };
        let broken = u64::try_from(largest_free(false) - largest_free(true)).unwrap();
        vec![cpu_load, core_load, missed, distance, interference, spent, broken]
    }

    fn numa(&self, p: Option<&Cpu>, c: Option<&Cpu>, memory: u32) -> u64 {
        let far = |from: u32, to: u32| u64::from(self.topology.distance(from, to));
        let reach = |cpu: Option<&Cpu>, end: &EndRequest| match cpu {
            Some(cpu) => far(cpu.node, memory),
            None => {
                let allowed =
                    |cpu: &&Cpu| end.allowed.as_ref().is_none_or(|set| set.contains(cpu.id));
                let cpus = self.topology.cpus.iter().filter(allowed);
                cpus.map(|cpu| far(cpu.node, memory)).max().unwrap_or(0)
            }
        };
        let apart = match (p, c) {
            (Some(p), Some(c)) => far(p.node, c.node),
            _ => 0,
        };
        reach(p, &self.request.producer) + reach(c, &self.request.consumer) + apart
    }
}

/// The terms that more resources can only improve; those after them depend on what is largest.
fn essential(score: &[u64]) -> &[u64] {
    let end = SCORE_TERMS.iter().position(|name| *name == "l3_fragmentation");
    &score[..end.unwrap()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_search_finds_what_brute_force_finds(
        shape in shape(), ledger in ledger(), request in any_request(),
    ) {
        let topology = build(&shape);
        let oracle = Oracle { request: &request, topology: &topology, ledger: &ledger };
        let placed = place(&request, &topology, &ledger);
        prop_assert_eq!(placed.ok().map(|placement| placement.score), oracle.best());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn a_placement_can_be_granted_and_keeps_the_rules_of_sharing(
        shape in shape(), request in any_request(), lanes in 1usize..8,
    ) {
        let topology = build(&shape);
        let mut ledger = Ledger::new();
        for key in 0..lanes {
            let mut request = request.clone();
            request.tenant = if key % 3 == 0 { "px" } else { "dx" }.to_owned();
            let Ok(placement) = place(&request, &topology, &ledger) else { continue };
            let key = u128::try_from(key).unwrap();
            ledger.grant(key, placement.holding(&request.tenant)).unwrap();
            prop_assert_eq!(ledger.audit_cores(&topology), Ok(()));
            let left = topology.node(placement.node).unwrap().available(placement.page_size);
            let usage = ledger.pool_usage(placement.node, placement.page_size);
            prop_assert!(usage.promised <= left);
        }
    }

    #[test]
    fn a_released_lane_frees_exactly_what_it_took(
        shape in shape(), ledger in ledger(), request in any_request(),
    ) {
        let topology = build(&shape);
        if let Ok(placement) = place(&request, &topology, &ledger) {
            let mut after = ledger.clone();
            after.grant(1, placement.holding(&request.tenant)).unwrap();
            let pages = placement.page_holding();
            after.remove_pages(1, PageState::Promised, pages).unwrap();
            after.release(1).unwrap();
            prop_assert_eq!(&after, &ledger);
            prop_assert_eq!(place(&request, &topology, &after), Ok(placement));
        }
    }

    #[test]
    fn the_order_in_which_a_machine_is_listed_changes_nothing(
        shape in shape(), ledger in ledger(), request in any_request(),
    ) {
        let topology = build(&shape);
        let mut turned = topology.clone();
        turned.cpus.reverse();
        turned.nodes.reverse();
        let [first, second] = [&topology, &turned].map(|it| place(&request, it, &ledger));
        prop_assert_eq!(first, second);
    }

    #[test]
    fn more_resources_never_make_a_placement_worse(
        shape in shape(), ledger in ledger(), request in any_request(), what in 0usize..3,
    ) {
        let (mut topology, mut ledger, mut request) = (build(&shape), ledger, request);
        if let Ok(before) = place(&request, &topology, &ledger) {
            match what {
                0 => topology.nodes[0].pools = vec![pool(G1, 9), pool(M2, 99)],
                1 => {
                    let key = ledger.keys().next();
                    if let Some(key) = key {
                        ledger.release(key).unwrap();
                    }
                }
                _ if request.producer.pinned => request.producer.allowed = None,
                _ => {}
            }
            let after = place(&request, &topology, &ledger).unwrap();
            prop_assert!(essential(&after.score) <= essential(&before.score));
        }
    }
}
