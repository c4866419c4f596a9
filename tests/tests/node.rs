//! The agent on a node: pools, pages, cores, footprint, and an ordinary user.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use laneway_proto::v1::{self, Role, end_status::State};
use laneway_shm::{Attach, Distance, Relation};
use laneway_tests::agent::{Agent, plain};
use laneway_tests::hugepages::{Reserved, free, total};
use laneway_tests::process::{Running, laneway_as};
use laneway_tests::{is_root, skipped, turn};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(30);
const HUGE_2M: u64 = 2 << 20;
const HUGE_1G: u64 = 1 << 30;
/// A user without any privilege.
const NOBODY: u32 = 65_534;

/// A specification with cores, on pages of one size.
fn pinned(name: &str, page_size_bytes: u64, pinning: v1::Pinning) -> v1::LaneSpec {
    let end = || Some(v1::EndSpec { pinning: pinning.into(), ..v1::EndSpec::default() });
    v1::LaneSpec {
        pages: Some(v1::PageRequest { page_size_bytes, require: true }),
        producer: end(),
        consumer: end(),
        ..plain(name, 56, 1024)
    }
}

fn both(agent: &Agent, lane: &str) -> (laneway_shm::Producer, laneway_shm::Consumer) {
    let attach = |role| {
        let ticket = agent.ticket(lane, role);
        Attach::with_ticket(agent.attach_socket(), &ticket).unwrap()
    };
    let producer = attach(Role::Producer).producer().unwrap();
    (producer, attach(Role::Consumer).consumer().unwrap())
}

#[test]
fn messages_travel_on_pages_of_every_size() {
    let _turn = turn();
    for page_bytes in [4096, HUGE_2M, HUGE_1G] {
        let _reserved = if page_bytes == 4096 {
            None
        } else {
            let Some(reserved) = Reserved::add(page_bytes, 1) else {
                return skipped("messages_travel_on_pages_of_every_size", "no page to be had");
            };
            Some(reserved)
        };
        let mut agent = Agent::start();
        let lane = agent.create(pinned("pages", page_bytes, v1::Pinning::None)).unwrap();
        let placement = lane.placement.unwrap();
        assert_eq!(placement.page_size_bytes, page_bytes);
        assert!(placement.bound, "mbind works on this machine");
        let (mut producer, mut consumer) = both(&agent, "pages");
        assert_eq!(producer.grant().page_bytes, page_bytes);
        for number in 0..5000u64 {
            producer.send(&number.to_le_bytes(), SOON).unwrap();
            assert_eq!(consumer.recv(SOON).unwrap().view().u64_at(0), Some(number));
        }
        let seen = agent.get("pages").unwrap();
        assert_eq!(seen.placement.unwrap().actual_numa_node, Some(0));
        assert!(seen.consumer.unwrap().counters.unwrap().messages > 4000);
        drop((producer, consumer));
        assert!(agent.stop().status.success());
    }
}

#[test]
fn the_grant_says_what_the_cores_have_in_common() {
    let _turn = turn();
    let agent = Agent::start();
    let named = |relation: Option<Relation>| match relation {
        None => "",
        Some(Relation::SameCpu) => "same cpu",
        Some(Relation::SameCore) => "same core",
        Some(Relation::SameL2) => "same L2",
        Some(Relation::SameL3) => "same L3",
        Some(Relation::SameNode) => "same node",
        Some(Relation::OtherNode) => "other node",
    };
    for (name, pinning) in [("cores", v1::Pinning::Self_), ("none", v1::Pinning::None)] {
        let placement = agent.create(pinned(name, 4096, pinning)).unwrap().placement.unwrap();
        let (producer, consumer) = both(&agent, name);
        assert_eq!(named(producer.grant().relation), placement.relation);
        assert_eq!(named(consumer.grant().relation), placement.relation);
        assert_eq!(placement.relation.is_empty(), pinning == v1::Pinning::None, "{placement:?}");
        let expected = match producer.grant().relation {
            None | Some(Relation::SameCpu) => Distance::Unknown,
            Some(relation) if relation <= Relation::SameL3 => Distance::Near,
            Some(_) => Distance::Far,
        };
        assert_eq!(producer.distance(), expected, "nothing was measured yet");
    }
}

#[test]
fn pages_are_taken_at_creation_and_free_again_after_the_end() {
    let _turn = turn();
    let Some(_reserved) = Reserved::add(HUGE_2M, 4) else {
        return skipped("pages_are_taken_at_creation", "no 2 MiB pages to be had");
    };
    let agent = Agent::start();
    let before = free(HUGE_2M);
    agent.create(pinned("held", HUGE_2M, v1::Pinning::None)).unwrap();
    assert_eq!(free(HUGE_2M), before - 1, "eagerly, before anybody touches them");
    let (producer, consumer) = both(&agent, "held");
    agent.delete("held").unwrap();
    assert_eq!(free(HUGE_2M), before - 1, "a process still maps them");
    let quarantined =
        |agent: &Agent| -> u64 { agent.pools().iter().map(|pool| pool.quarantined_pages).sum() };
    assert_eq!(quarantined(&agent), 1);
    drop((producer, consumer));
    while quarantined(&agent) > 0 {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(free(HUGE_2M), before);
}

#[test]
fn a_shortage_is_an_error_at_creation_that_says_what_would_fit() {
    let _turn = turn();
    let Some(_reserved) = Reserved::add(HUGE_2M, 2) else {
        return skipped("a_shortage_is_an_error_at_creation", "no 2 MiB pages to be had");
    };
    let agent = Agent::start();
    let available = free(HUGE_2M);
    let mut spec = pinned("large", HUGE_2M, v1::Pinning::None);
    let slots = u32::try_from((available + 2).next_power_of_two()).unwrap();
    spec.geometry = Some(v1::Geometry { slot_payload_bytes: (2 << 20) - 8, slot_count: slots });
    let refused = agent.create(spec).unwrap_err();
    let info = tonic_types::StatusExt::get_details_error_info(&refused).unwrap();
    assert_eq!(info.reason, "INSUFFICIENT_HUGEPAGES");
    assert_eq!(info.metadata["would_fit_bytes"], (available * HUGE_2M).to_string());
    assert_eq!(free(HUGE_2M), available);
    assert!(agent.list().unwrap().is_empty());
}

#[test]
fn a_producer_that_follows_onto_an_empty_pool_gets_smaller_pages_and_the_lane_says_so() {
    let _turn = turn();
    let test = "a_producer_that_follows_onto_an_empty_pool";
    let Some(_reserved) = Reserved::add(HUGE_2M, 2) else {
        return skipped(test, "no 2 MiB pages to be had");
    };
    let agent = Agent::start();
    let spec = |name, require| {
        let pages = Some(v1::PageRequest { page_size_bytes: HUGE_2M, require });
        v1::LaneSpec { pages, ..pinned(name, HUGE_2M, v1::Pinning::None) }
    };
    agent.create(spec("may", false)).unwrap();
    agent.create(spec("must", true)).unwrap();
    for number in 0..free(HUGE_2M) {
        agent.create(pinned(&format!("other-{number}"), HUGE_2M, v1::Pinning::None)).unwrap();
    }
    let attach = |lane| {
        let ticket = agent.ticket(lane, Role::Producer);
        Attach::with_ticket(agent.attach_socket(), &ticket).unwrap().producer()
    };
    let leave = |lane, producer: laneway_shm::Producer| {
        drop(producer);
        let is_gone =
            |l: &v1::Lane| l.producer.as_ref().map(|end| end.state()) == Some(State::Gone);
        agent.wait_for(lane, "the producer is gone", is_gone).placement.unwrap()
    };
    let send = |lane, number: u64| {
        let mut producer = attach(lane).unwrap();
        producer.send(&number.to_le_bytes(), SOON).unwrap();
        (producer.grant().page_bytes, leave(lane, producer))
    };
    let (first, placed) = send("may", 0);
    assert_eq!((first, placed.page_size_bytes, placed.steps_down.len()), (HUGE_2M, HUGE_2M, 0));
    let (second, placed) = send("may", 1);
    assert_eq!((second, placed.page_size_bytes), (4096, 4096));
    assert_eq!(placed.segment_bytes, placed.page_count * 4096);
    let [down] = placed.steps_down.as_slice() else { panic!("{placed:?}") };
    assert_eq!(down.page_size_bytes, HUGE_2M);
    assert!(down.reason.contains("no memory for 2097152 bytes"), "{}", down.reason);

    // What was read gives its page back, and the next producer has it.
    let ticket = agent.ticket("may", Role::Consumer);
    let mut consumer =
        Attach::with_ticket(agent.attach_socket(), &ticket).unwrap().consumer().unwrap();
    for number in 0..2u64 {
        assert_eq!(consumer.recv(SOON).unwrap().view().u64_at(0), Some(number));
    }
    assert!(consumer.recv(Duration::from_millis(50)).is_err());
    agent.wait_for("may", "the first generation is let go", |lane| lane.open_generations == 1);
    let (third, placed) = send("may", 2);
    assert_eq!((third, placed.page_size_bytes, placed.steps_down.len()), (HUGE_2M, HUGE_2M, 0));
    assert_eq!(consumer.recv(SOON).unwrap().view().u64_at(0), Some(2));

    send("must", 0);
    let refused = attach("must").unwrap_err().to_string();
    assert!(refused.contains("INSUFFICIENT_HUGEPAGES"), "{refused}");
    assert!(refused.contains("grow the pool"), "{refused}");
}

#[test]
fn the_agent_grows_a_pool_at_start_and_gives_back_what_it_added() {
    let _turn = turn();
    if !is_root() {
        return skipped("the_agent_grows_a_pool_at_start", "needs root");
    }
    // One page of somebody else's, so that there is something not to give back.
    let Some(_reserved) = Reserved::add(HUGE_2M, 1) else {
        return skipped("the_agent_grows_a_pool_at_start", "no 2 MiB pages to be had");
    };
    let (all, available) = (total(HUGE_2M), free(HUGE_2M));
    let mut agent = Agent::with(&["--reserve", &format!("2MiB={}", available + 3)]);
    assert_eq!(total(HUGE_2M), all + 3);
    let added: u64 = agent.pools().iter().map(|pool| pool.added_pages).sum();
    assert_eq!(added, 3);
    agent.create(pinned("held", HUGE_2M, v1::Pinning::None)).unwrap();
    assert!(agent.stop().status.success());
    assert_eq!(total(HUGE_2M), all, "{}", agent.log());
    agent.spawn();
    drop(agent);
}

#[test]
fn what_a_killed_agent_added_its_successor_gives_back() {
    let _turn = turn();
    if !is_root() {
        return skipped("what_a_killed_agent_added", "needs root");
    }
    let Some(_reserved) = Reserved::add(HUGE_2M, 1) else {
        return skipped("what_a_killed_agent_added", "no 2 MiB pages to be had");
    };
    let (all, available) = (total(HUGE_2M), free(HUGE_2M));
    let mut agent = Agent::with(&["--reserve", &format!("2MiB={}", available + 2)]);
    agent.kill();
    assert_eq!(total(HUGE_2M), all + 2);
    agent.start_again();
    assert!(agent.stop().status.success());
    assert_eq!(total(HUGE_2M), all, "{}", agent.log());
}

/// Cpus that a thread may run on.
fn affinity(thread: i32) -> BTreeSet<usize> {
    let set = sched_getaffinity(Pid::from_raw(thread)).unwrap();
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap()).collect()
}

#[test]
fn the_library_pins_its_thread_and_gives_the_affinity_back() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(pinned("cores", 4096, v1::Pinning::Self_)).unwrap();
    let before = affinity(0);
    let ticket = agent.ticket("cores", Role::Producer);
    let attach = Attach::with_ticket(agent.attach_socket(), &ticket).unwrap();
    let producer = attach.producer().unwrap();
    let cpu = producer.grant().cpu;
    assert_eq!(affinity(0), BTreeSet::from([cpu as usize]));
    let lane = agent.get("cores").unwrap().producer.unwrap();
    assert_eq!((lane.cpu, lane.state()), (Some(cpu), State::Live));
    assert_eq!(lane.facts["exclusive"], "false");
    drop(producer);
    assert_eq!(affinity(0), before);
}

#[test]
fn a_thread_that_drifts_goes_back_and_the_agent_knows() {
    let _turn = turn();
    if affinity(0).len() < 2 {
        return skipped("a_thread_that_drifts_goes_back", "needs two cpus");
    }
    let agent = Agent::start();
    agent.create(pinned("drift", 4096, v1::Pinning::Self_)).unwrap();
    let all = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let ticket = agent.ticket("drift", Role::Consumer);
    let attach = Attach::with_ticket(agent.attach_socket(), &ticket).unwrap();
    let mut consumer = attach.consumer().unwrap();
    let granted = consumer.grant().cpu as usize;
    let other =
        (0..CpuSet::count()).find(|cpu| *cpu != granted && all.is_set(*cpu).unwrap()).unwrap();
    let mut elsewhere = CpuSet::new();
    elsewhere.set(other).unwrap();
    sched_setaffinity(Pid::from_raw(0), &elsewhere).unwrap();
    consumer.maintain().unwrap();
    assert_eq!(affinity(0), BTreeSet::from([granted]));
    agent.wait_for("drift", "the drift is counted", |lane| {
        lane.consumer.as_ref().is_some_and(|end| end.drifts == 1)
    });
    drop(consumer);
}

#[test]
fn the_agent_enforces_affinity_and_restores_it_on_detach() {
    let _turn = turn();
    if !is_root() {
        return skipped("the_agent_enforces_affinity", "needs CAP_SYS_NICE");
    }
    let agent = Agent::start();
    agent.create(pinned("enforced", 4096, v1::Pinning::Enforce)).unwrap();
    let before = affinity(0);
    let ticket = agent.ticket("enforced", Role::Producer);
    let attach = Attach::with_ticket(agent.attach_socket(), &ticket).unwrap();
    // The library would not pin in this mode; only the agent can have done it.
    let producer = attach.pin(false).producer().unwrap();
    let granted = BTreeSet::from([producer.grant().cpu as usize]);
    assert_eq!(affinity(0), granted);
    // Somebody widens it: the agent notices, puts it back and counts.
    let mut wide = CpuSet::new();
    for cpu in &before {
        wide.set(*cpu).unwrap();
    }
    sched_setaffinity(Pid::from_raw(0), &wide).unwrap();
    agent.wait_for("enforced", "the drift is counted", |lane| {
        lane.producer.as_ref().is_some_and(|end| end.drifts == 1)
    });
    assert_eq!(affinity(0), granted);
    drop(producer);
    agent.wait_for("enforced", "detached", |lane| {
        lane.producer.as_ref().is_some_and(|end| end.state() == State::Gone)
    });
    assert_eq!(affinity(0), before);
}

#[test]
fn the_agent_keeps_only_the_capability_that_it_needs() {
    let _turn = turn();
    if !is_root() {
        return skipped("the_agent_keeps_only_the_capability", "needs root to have any");
    }
    let agent = Agent::start();
    // CAP_SYS_NICE is capability 23. Capabilities belong to threads: each one is looked at.
    let sys_nice = format!("{:016x}", 1u64 << 23);
    let threads = fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap();
    let mut seen = 0;
    for thread in threads {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().to_owned()
        };
        assert_eq!(field("CapEff:"), sys_nice);
        assert_eq!(field("CapPrm:"), sys_nice);
        assert_eq!(field("CapInh:"), "0000000000000000");
        assert_eq!(field("CapAmb:"), "0000000000000000");
        assert_eq!(field("NoNewPrivs:"), "1");
        seen += 1;
    }
    assert!(seen >= 2, "the controller has a thread of its own");
    assert!(agent.log().contains("privileges after start"));
}

/// One number of `/proc/PID/status`.
fn status_number(pid: i32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Times that any thread of a process was scheduled.
fn wake_ups(pid: i32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads
        .map(|thread| {
            let path = thread.unwrap().path().join("status");
            let status = fs::read_to_string(path).unwrap();
            let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
            line.unwrap().trim().parse::<u64>().unwrap()
        })
        .sum()
}

#[test]
fn an_idle_agent_is_small_and_sleeps() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(plain("idle", 56, 64)).unwrap();
    let (_producer, _consumer) = both(&agent, "idle");
    std::thread::sleep(Duration::from_millis(300));
    let resident_kib = status_number(agent.pid(), "VmRSS:");
    println!("idle agent: {resident_kib} KiB resident");
    assert!(resident_kib <= 25 * 1024, "{resident_kib} KiB");
    let before = wake_ups(agent.pid());
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(wake_ups(agent.pid()), before, "nothing happened, and yet it woke up");
}

fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn mappings(pid: i32) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    maps.lines().filter(|line| line.contains("memfd:laneway")).count()
}

#[test]
fn a_lane_costs_what_the_documentation_says_and_leaves_nothing() {
    let _turn = turn();
    let agent = Agent::start();
    let own = i32::try_from(std::process::id()).unwrap();
    let baseline =
        (descriptors(agent.pid()), mappings(agent.pid()), mappings(own), descriptors(own));
    for round in 0..3 {
        agent.create(plain("cost", 56, 64)).unwrap();
        let (mut producer, mut consumer) = both(&agent, "cost");
        producer.send(b"joined", SOON).unwrap();
        consumer.recv(SOON).unwrap().release();
        // The consumer is met by now; the producer meets it when it looks at its events.
        let ends = || (descriptors(own) - baseline.3, mappings(own) - baseline.2);
        let deadline = std::time::Instant::now() + SOON;
        while ends().1 < 4 {
            producer.maintain().unwrap();
            assert!(std::time::Instant::now() < deadline, "{:?}", ends());
        }
        let agent_cost =
            (descriptors(agent.pid()) - baseline.0, mappings(agent.pid()) - baseline.1);
        println!("one lane, descriptors and mappings: agent {agent_cost:?}, ends {:?}", ends());
        // Two segments, two connections, two pidfds; each segment is mapped once, read-only.
        assert!(agent_cost.0 <= 8 && agent_cost.1 <= 2, "{agent_cost:?}");
        // Each end: its connection, its own segment and the peer's, both mapped.
        assert!(ends().0 <= 6 && ends().1 <= 4, "{:?}", ends());
        drop((producer, consumer));
        agent.delete("cost").unwrap();
        let deadline = std::time::Instant::now() + SOON;
        while (descriptors(agent.pid()), mappings(agent.pid())) != (baseline.0, baseline.1) {
            let left = (descriptors(agent.pid()), mappings(agent.pid()));
            assert!(std::time::Instant::now() < deadline, "round {round}: {left:?} {baseline:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn an_ordinary_user_runs_agent_and_lanes_on_small_pages() {
    let _turn = turn();
    if !is_root() {
        return skipped("an_ordinary_user_runs_agent_and_lanes", "needs root to become another");
    }
    let agent = Agent::as_user(NOBODY);
    let lane = agent.create(pinned("user", 4096, v1::Pinning::Self_)).unwrap();
    assert_eq!(lane.placement.unwrap().page_size_bytes, 4096);
    let receive = |args: &[&str]| {
        let mut command = laneway_as(NOBODY, agent.dir());
        command.args(["attach", "recv", "--verify", "--count", "20000", "--output", "json"]);
        command.arg("--attach-socket").arg(agent.attach_socket()).args(args);
        Running::start(command)
    };
    let consumer = receive(&["--ticket", &agent.ticket("user", Role::Consumer)]);
    let mut send = laneway_as(NOBODY, agent.dir());
    send.args(["attach", "send", "--count", "20000", "--size", "56"]);
    send.arg("--attach-socket").arg(agent.attach_socket());
    send.args(["--ticket", &agent.ticket("user", Role::Producer)]);
    assert!(Running::start(send).finish().status.success());
    assert_eq!(consumer.finish().json()["received"], 20_000);
}

#[test]
fn the_demo_is_clean_and_says_what_it_measured() {
    let _turn = turn();
    let finished = laneway_tests::process::run(["demo", "--json", "--messages", "100000"]);
    check_demo(&finished.json());
}

#[test]
fn an_ordinary_user_can_run_the_demo_and_is_told_what_is_missing() {
    let _turn = turn();
    if !is_root() {
        return skipped("an_ordinary_user_can_run_the_demo", "needs root to become another");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut command = laneway_as(NOBODY, dir.path());
    command.args(["demo", "--json", "--messages", "100000"]);
    let report = Running::start(command).finish().json();
    check_demo(&report);
    let misses = report["misses"].as_array().unwrap();
    let told = misses.iter().any(|miss| miss.as_str().unwrap().contains("pinning_enforce"));
    assert!(told, "{report}");
}

fn check_demo(report: &serde_json::Value) {
    for nothing in ["lost", "torn", "out_of_order"] {
        assert_eq!(report[nothing], 0, "{report}");
    }
    for kind in ["producer", "consumer", "agent"] {
        assert!(report["kills"][kind].as_u64().unwrap() >= 1, "{report}");
    }
    assert!(report["delivered"].as_u64().unwrap() >= 100_000);
    assert!(report["page_size_bytes"].as_u64().unwrap() >= 4096);
    assert!(report["numa_node"].is_u64());
    assert!(report["throughput_msgs_per_s"].as_f64().unwrap() > 0.0);
    let latency = &report["one_way_latency_ns"];
    let [p50, p99, p999] = ["p50", "p99", "p999"].map(|p| latency[p].as_f64().unwrap());
    assert!(0.0 < p50 && p50 <= p99 && p99 <= p999, "{latency}");
    assert!(report["data_path_syscalls_per_million"].is_number(), "{report}");
    assert!(report["cores"]["producer"].is_u64() && report["cores"]["consumer"].is_u64());
    assert!(report["cores"]["grade"].is_string());
}
