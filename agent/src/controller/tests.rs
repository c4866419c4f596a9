//! The actor against a scripted world: every failure leaves nothing behind.

use std::path::Path;
use std::sync::Arc;

use laneway_shm::wire::Claim;
use laneway_shm::{Profile, Start};

use super::*;
use crate::model::capacity::{CpuSet, PageSize};
use crate::model::lane::{
    BroadcastPolicy, BroadcastSpec, EndSpec, LaneSpec, PeerRecord, Pinning, SegmentRecord,
};
use crate::placement::CacheRelationRule;
use crate::provision::fake::FakeWorld;
use crate::sysfs;

/// A controller on a fake world, with its journal in `dir` and a recorded machine as `/sys`.
fn controller(dir: &Path, world: &FakeWorld) -> Controller {
    let journal = Journal::open(&dir.join("journal.redb"), "boot").unwrap();
    let sys_root = dir.join("root");
    if !sys_root.exists() {
        std::fs::create_dir(&sys_root).unwrap();
        let tree = sysfs::fixture::ALL.iter().find(|(name, _)| *name == "two-socket").unwrap().1;
        sysfs::fixture::unpack(tree, &sys_root).unwrap();
    }
    let setup = Setup {
        world: Box::new(world.clone()),
        journal,
        registry: Arc::default(),
        topology: sysfs::read(&sys_root).unwrap(),
        sys_root,
        rules: Rules {
            lanes_max: 3,
            tenants: vec![Name::parse("dx").unwrap()],
            cpuset_missing: None,
            cpuset: ["0-63".parse().unwrap(), CpuSet::new()],
            enforce_missing: Some("no CAP_SYS_NICE".to_owned()),
        },
        generations_max: 2,
        boot_id: "boot".to_owned(),
        added: Added::new(),
    };
    Controller::recovered(setup).unwrap().0
}

fn spec(name: &str, page_size: Option<PageSize>) -> LaneSpec {
    let end = || EndSpec {
        pinning: Pinning::Own,
        exclusive: true,
        cpu: None,
        allowed: None,
        min_grade: None,
        uids: Vec::new(),
        gids: Vec::new(),
    };
    LaneSpec {
        name: Name::parse(name).unwrap(),
        tenant: Name::parse("dx").unwrap(),
        slot_payload_bytes: 56,
        slot_count: 16,
        page_size,
        page_required: false,
        park: false,
        profile: Profile::Latency,
        producer: end(),
        consumer: end(),
        numa_node: None,
        relation: CacheRelationRule::Any,
        schema: 0,
        broadcast: None,
    }
}

fn request(id: &str) -> RequestId {
    RequestId { id: id.to_owned(), hash: format!("hash of {id}") }
}

#[test]
fn a_failure_at_any_step_of_a_creation_leaves_no_residue() {
    for step in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let world = FakeWorld::default();
        let mut controller = controller(dir.path(), &world);
        world.with(|script| script.fail_at = Some(step));
        let small = Some(PageSize::BASE_4K);
        let created = controller.create(&request("r"), false, spec("orders", small));
        if world.with(|script| script.steps) <= step {
            created.unwrap();
            assert!(step > 0, "no step was ever run");
            break;
        }
        assert_eq!(created.unwrap_err().reason(), "INSUFFICIENT_HUGEPAGES");
        assert!(world.with(|script| script.segments.is_empty()), "step {step} left a segment");
        assert!(controller.journal.lanes().unwrap().is_empty(), "step {step} left a record");
        assert!(controller.ledger.keys().next().is_none(), "step {step} left a holding");
        controller.ledger.audit().unwrap();
        world.with(|script| script.fail_at = None);
        controller.create(&request("r"), false, spec("orders", small)).unwrap();
    }
}

#[test]
fn a_page_size_that_the_kernel_refuses_is_stepped_down_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let world = FakeWorld::default();
    let mut controller = controller(dir.path(), &world);
    world.with(|script| script.fail_at = Some(0));
    let huge = Some(PageSize::HUGE_2M);
    let view = controller.create(&request("r"), false, spec("orders", huge)).unwrap();
    assert_eq!(view.record.placement.page_size, PageSize::BASE_4K);
    assert_eq!(view.record.refused_pages[0].0, PageSize::HUGE_2M);
    controller.ledger.audit().unwrap();
}

#[test]
fn a_required_page_size_is_never_stepped_down() {
    let dir = tempfile::tempdir().unwrap();
    let world = FakeWorld::default();
    let mut controller = controller(dir.path(), &world);
    world.with(|script| script.fail_at = Some(0));
    let required = LaneSpec { page_required: true, ..spec("orders", Some(PageSize::HUGE_2M)) };
    let refused = controller.create(&request("r"), false, required).unwrap_err();
    assert!(matches!(refused, ControlError::OutOfPages { .. }), "{refused}");
    assert!(controller.journal.lanes().unwrap().is_empty());
}

#[test]
fn a_lane_is_placed_by_what_the_kernel_says_is_free_at_that_moment() {
    let dir = tempfile::tempdir().unwrap();
    let mut controller = controller(dir.path(), &FakeWorld::default());
    let none = RequestId::default();
    let required = |name| LaneSpec { page_required: true, ..spec(name, Some(PageSize::HUGE_2M)) };
    let kernel_says = |free: &str| {
        for node in ["node0", "node1"] {
            let pool = "hugepages/hugepages-2048kB/free_hugepages";
            let file = dir.path().join("root/sys/devices/system/node").join(node).join(pool);
            assert!(file.exists(), "{}", file.display());
            std::fs::write(file, free).unwrap();
        }
    };
    kernel_says("0\n");
    let refused = controller.create(&none, false, required("orders")).unwrap_err();
    assert_eq!(refused.reason(), "INSUFFICIENT_HUGEPAGES");
    kernel_says("64\n");
    controller.create(&none, false, required("orders")).unwrap();
    kernel_says("0\n");
    let refused = controller.create(&none, false, required("ticks")).unwrap_err();
    assert_eq!(refused.reason(), "INSUFFICIENT_HUGEPAGES");
    controller.delete(&none, false, "orders").unwrap();
    kernel_says("64\n");
    controller.create(&none, false, required("ticks")).unwrap();
}

#[test]
fn a_reader_that_cannot_be_granted_keeps_no_place() {
    let dir = tempfile::tempdir().unwrap();
    let world = FakeWorld::default();
    let mut controller = controller(dir.path(), &world);
    let consumer = EndSpec { uids: vec![0], pinning: Pinning::None, ..spec("x", None).consumer };
    let broadcast = Some(BroadcastSpec { policy: BroadcastPolicy::Gated, readers_max: 1 });
    let lane = LaneSpec { consumer, broadcast, ..spec("quotes", None) };
    controller.create(&request("r"), false, lane).unwrap();
    for _ in 0..3 {
        let (events, _inbox) = tokio::sync::mpsc::unbounded_channel();
        // This world has no descriptors to hand out.
        let refused = controller.attach(Box::new(AttachRequest {
            role: Role::Consumer,
            claim: Claim::Name("quotes".to_owned()),
            peer: PeerRecord { uid: 0, gid: 0, process: None },
            thread: 1,
            schema: 0,
            start: Start::Newest,
            lifeline: false,
            events,
        }));
        assert!(matches!(refused, Err(ControlError::Step(_))), "{refused:?}");
        let id = controller.find("quotes").unwrap();
        assert!(controller.lanes[&id].consumers.is_empty());
    }
}

#[test]
fn a_deleted_lane_gives_everything_back() {
    let dir = tempfile::tempdir().unwrap();
    let world = FakeWorld::default();
    let mut controller = controller(dir.path(), &world);
    controller.create(&request("a"), false, spec("orders", None)).unwrap();
    let deleted = controller.delete(&request("b"), false, "orders").unwrap();
    assert_eq!(deleted.record.spec.name.as_str(), "orders");
    assert!(world.with(|script| script.segments.is_empty()));
    assert!(controller.ledger.keys().next().is_none());
    assert!(controller.journal.lanes().unwrap().is_empty());
    let again = controller.delete(&request("b"), false, "orders").unwrap();
    assert_eq!(again.record.id, deleted.record.id, "the same request gets the same answer");
    let other = controller.delete(&request("c"), false, "orders").unwrap_err();
    assert_eq!(other.reason(), "LANE_NOT_FOUND");
}

#[test]
fn a_request_id_is_good_for_one_content() {
    let dir = tempfile::tempdir().unwrap();
    let world = FakeWorld::default();
    let mut controller = controller(dir.path(), &world);
    let first = controller.create(&request("r"), false, spec("orders", None)).unwrap();
    let again = controller.create(&request("r"), false, spec("orders", None)).unwrap();
    assert_eq!(first.record.id, again.record.id);
    let other = RequestId { id: "r".to_owned(), hash: "other".to_owned() };
    let refused = controller.create(&other, false, spec("ticks", None)).unwrap_err();
    assert_eq!(refused.reason(), "REQUEST_ID_REUSED");
}

#[test]
fn policy_refuses_with_its_own_reasons() {
    let dir = tempfile::tempdir().unwrap();
    let world = FakeWorld::default();
    let mut controller = controller(dir.path(), &world);
    let none = RequestId::default();
    controller.create(&none, false, spec("one", None)).unwrap();
    let taken = controller.create(&none, false, spec("one", None)).unwrap_err();
    assert_eq!(taken.reason(), "NAME_TAKEN");
    let tenant = LaneSpec { tenant: Name::parse("zz").unwrap(), ..spec("two", None) };
    let unknown = controller.create(&none, false, tenant).unwrap_err();
    assert_eq!(unknown.reason(), "TENANT_UNKNOWN");
    let mut enforced = spec("two", None);
    enforced.consumer.pinning = Pinning::Enforce;
    let cannot = controller.create(&none, false, enforced).unwrap_err();
    assert_eq!(cannot.reason(), "PINNING_UNAVAILABLE");
    controller.create(&none, false, spec("two", None)).unwrap();
    controller.create(&none, false, spec("three", None)).unwrap();
    let full = controller.create(&none, false, spec("four", None)).unwrap_err();
    assert_eq!(full.reason(), "QUOTA_LANES");
}

#[test]
fn recovery_of_an_unattached_lane_makes_it_again_and_twice_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let world = FakeWorld::default();
    let created = {
        let mut controller = controller(dir.path(), &world);
        controller.create(&request("r"), false, spec("orders", None)).unwrap()
    };
    for _ in 0..2 {
        let fresh = FakeWorld::default();
        let controller = controller(dir.path(), &fresh);
        let lanes = controller.journal.lanes().unwrap();
        assert_eq!(lanes.len(), 1);
        assert_eq!(lanes[0].id, created.record.id);
        assert_eq!(lanes[0].generations.len(), 1);
        assert!(fresh.with(|script| script.segments.contains(&("producer".to_owned(), 1))));
        controller.ledger.audit().unwrap();
        assert!(controller.registry.snapshot().find("orders").is_some());
    }
}

#[test]
fn recovery_on_smaller_pages_makes_the_same_lane_and_the_next_one_has_its_own_again() {
    let dir = tempfile::tempdir().unwrap();
    let huge = Some(PageSize::HUGE_2M);
    controller(dir.path(), &FakeWorld::default())
        .create(&request("r"), false, spec("orders", huge))
        .unwrap();
    for (fail_at, found) in [(Some(0), PageSize::BASE_4K), (None, PageSize::HUGE_2M)] {
        let world = FakeWorld::default();
        world.with(|script| script.fail_at = fail_at);
        let controller = controller(dir.path(), &world);
        let lane = controller.journal.lanes().unwrap().remove(0);
        let [segment] = lane.generations.as_slice() else { panic!("{lane:?}") };
        assert_eq!((segment.number, segment.page_size), (1, found));
        assert_eq!(lane.refused_pages.len(), usize::from(fail_at.is_some()));
        let held = controller.ledger.holding(lane.id.0).unwrap().pages;
        assert_eq!(held, [super::generations::pages_of(&lane, segment)]);
        controller.ledger.audit().unwrap();
    }
}

#[test]
fn a_producer_that_follows_is_refused_where_no_pages_of_any_size_are_free() {
    let dir = tempfile::tempdir().unwrap();
    let world = FakeWorld::default();
    let mut controller = controller(dir.path(), &world);
    let created = controller.create(&request("r"), false, spec("orders", Some(PageSize::HUGE_2M)));
    let mut record = created.unwrap().record;
    let before = controller.ledger.clone();
    for node in &mut controller.topology.nodes {
        node.memory_free_bytes = 0;
    }
    controller.sys_root = dir.path().join("nothing");
    world.with(|script| script.fail_at = Some(script.steps));
    let refused = controller.follow(&mut record, 7).unwrap_err();
    assert_eq!(refused.reason(), "INSUFFICIENT_HUGEPAGES");
    assert!(refused.to_string().contains("4 KiB"), "{refused}");
    assert_eq!((record.generation, record.generations.len()), (1, 1));
    assert_eq!(controller.ledger, before, "nothing is left in the books");
    controller.follow(&mut record, 7).unwrap();
    assert_eq!((record.generation, record.generations.len()), (2, 2));
    controller.ledger.audit().unwrap();
}

#[test]
fn whoever_was_granted_an_end_and_died_with_the_agent_keeps_no_place() {
    let dir = tempfile::tempdir().unwrap();
    let world = FakeWorld::default();
    let dead = PeerRecord { uid: 0, gid: 0, process: Some((i32::MAX, 1)) };
    let lives = PeerRecord { process: None, ..dead };
    let none = RequestId::default();
    for (consumer, owner) in [(dead, None), (lives, Some(lives))] {
        let mut before = controller(dir.path(), &world);
        let id = before.create(&none, false, spec("orders", None)).unwrap().record.id;
        let key = before.next_incarnation(id).unwrap();
        let record = before.lanes.get_mut(&id).unwrap();
        record.segment_mut(Role::Consumer, key.number).unwrap().granted = Some(consumer);
        record.segment_mut(Role::Producer, 1).unwrap().granted = Some(lives);
        before.journal.put_taken(record, None).unwrap();
        drop(before);
        let mut after = controller(dir.path(), &FakeWorld::default());
        let record = &after.lanes[&id];
        let held = record.newest(Role::Consumer).and_then(SegmentRecord::owner);
        assert_eq!(held, owner, "its process is what counts");
        let waiting = record.newest(Role::Producer).unwrap();
        assert_eq!((waiting.number, waiting.owner()), (1, Some(lives)), "it may still come");
        after.gone(SegmentKey { lane: id, role: Role::Producer, number: 1 });
        let fresh = after.lanes[&id].newest(Role::Producer).unwrap();
        assert_eq!((fresh.number, fresh.owner()), (2, None), "it is not waited for any more");
        after.ledger.audit().unwrap();
        after.delete(&none, false, "orders").unwrap();
    }
}

#[test]
fn an_unfinished_creation_is_reclaimed() {
    let dir = tempfile::tempdir().unwrap();
    let world = FakeWorld::default();
    {
        let mut controller = controller(dir.path(), &world);
        controller.create(&request("r"), false, spec("orders", None)).unwrap();
        let mut record = controller.journal.lanes().unwrap().remove(0);
        record.stage = crate::model::lane::Stage::Provisioning;
        controller.journal.put_lane(&record, None).unwrap();
    }
    let controller = controller(dir.path(), &FakeWorld::default());
    assert!(controller.journal.lanes().unwrap().is_empty());
    assert!(controller.ledger.keys().next().is_none());
}

#[test]
fn lanes_of_another_boot_are_reclaimed() {
    let dir = tempfile::tempdir().unwrap();
    let world = FakeWorld::default();
    {
        let mut controller = controller(dir.path(), &world);
        controller.create(&request("r"), false, spec("orders", None)).unwrap();
        let mut record = controller.journal.lanes().unwrap().remove(0);
        record.boot_id = "an earlier boot".to_owned();
        controller.journal.put_lane(&record, None).unwrap();
    }
    let controller = controller(dir.path(), &FakeWorld::default());
    assert!(controller.journal.lanes().unwrap().is_empty());
}

#[test]
fn every_refusal_has_a_documented_reason() {
    let samples = [
        ControlError::TicketInvalid,
        ControlError::Recovering,
        ControlError::Fenced,
        ControlError::Stopping,
        ControlError::NotFound { lane: "x".to_owned() },
        ControlError::RequestIdReused { id: "x".to_owned() },
        ControlError::GenerationsExhausted { open: 1, limit: 1 },
        ControlError::NotAllowed { uid: 1, gid: 1, role: Role::Producer },
        ControlError::OutOfPages { size_bytes: 1, tried: String::new() },
        SchemaMismatch { lane: Name::parse("a").unwrap(), expected: 1, found: 2 }.into(),
    ];
    for error in samples {
        assert!(REASONS.contains(&error.reason()), "{error}: {}", error.reason());
    }
}

#[test]
fn a_core_of_an_end_that_is_gone_is_not_kept_and_not_journalled_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&dir.path().join("journal.redb"), "boot").unwrap();
    let key = SegmentKey { lane: LaneId(7), role: Role::Producer, number: 1 };
    let hold = Hold { key, cpu: 1, pid: 2, tid: 3, started: 4, home: "there".to_owned() };
    journal.set_fact("held_cores", &vec![hold]).unwrap();
    drop(journal);
    let world = FakeWorld::default();
    world.with(|script| script.cores.insert(key));
    let controller = controller(dir.path(), &world);
    assert!(world.with(|script| script.cores.is_empty()));
    assert_eq!(controller.journal.fact::<Vec<Hold>>("held_cores").unwrap(), Some(Vec::new()));
}
