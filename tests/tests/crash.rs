//! Deaths at any instant: nothing committed is lost, nothing torn arrives, lanes go on.

use std::process::{Command, Stdio};
use std::time::Duration;

use laneway_proto::v1::{self, Role, end_status::State};
use laneway_shm::{Attach, PeerState, RecvError};
use laneway_tests::agent::{Agent, plain};
use laneway_tests::process::{Running, laneway};
use laneway_tests::turn;

const SOON: Duration = Duration::from_secs(30);
/// The end of a stream that outlasts its test on every machine, unless its producer is told to end.
const ENDLESS: Option<u64> = None;
/// Messages that flow once more after a death.
const MORE: u64 = 100_000;

/// A worker of the demo: an ordinary producer or consumer that checks and notes what it did.
fn worker(
    agent: &Agent,
    kind: &str,
    lane: &str,
    role: Role,
    until: impl Into<Option<u64>>,
    witness: &str,
) -> Command {
    let mut command = laneway();
    command.args(["demo-worker", kind, "--size", "40"]);
    match until.into() {
        Some(until) => command.args(["--until", &until.to_string()]),
        None => command.stdin(Stdio::piped()),
    };
    command.arg("--attach-socket").arg(agent.attach_socket());
    command.arg("--witness").arg(agent.file(witness));
    command.env("LANEWAY_TICKET", agent.ticket(lane, role));
    command
}

fn noted(agent: &Agent, witness: &str) -> Option<u64> {
    let bytes = std::fs::read(agent.file(witness)).ok()?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// Tells an endless producer to end its stream, which its consumer follows to the end.
fn end_in_order(producer: Running, consumer: Running) {
    let end = producer.finish().json()["end"].clone();
    assert_eq!(clean(&consumer.finish())["tally"]["next"], end);
}

fn state(end: &Option<v1::EndStatus>) -> State {
    end.as_ref().map_or(State::Unspecified, v1::EndStatus::state)
}

fn clean(finished: &laneway_tests::process::Finished) -> serde_json::Value {
    let report = finished.json();
    for wrong in ["lost", "torn", "out_of_order", "duplicates"] {
        assert_eq!(report["tally"][wrong], 0, "{report}");
    }
    report
}

#[test]
fn producers_killed_at_random_instants_lose_nothing_that_they_committed() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(plain("orders", 40, 64)).unwrap();
    let consumer = worker(&agent, "consume", "orders", Role::Consumer, ENDLESS, "consumer");
    let consumer = Running::start(consumer);
    let mut committed = 0;
    for round in 0..25u64 {
        let name = format!("producer-{round}");
        let command = worker(&agent, "produce", "orders", Role::Producer, ENDLESS, &name);
        let producer = Running::start(command);
        agent.wait_for("orders", "attached", |lane| state(&lane.producer) == State::Live);
        std::thread::sleep(Duration::from_millis(round * 7 % 23));
        producer.kill();
        agent.wait_for("orders", "death is seen", |lane| state(&lane.producer) == State::Gone);
        committed = committed.max(noted(&agent, &name).map_or(0, |last| last + 1));
    }
    // The last producer starts where everything committed ends, and closes at once.
    let socket = agent.attach_socket();
    let ticket = agent.ticket("orders", Role::Producer);
    let producer = Attach::with_ticket(socket, &ticket).unwrap().producer().unwrap();
    let end = producer.position();
    assert!(end >= committed, "{committed} were committed, the successor starts at {end}");
    producer.close(SOON).unwrap();
    let report = clean(&consumer.finish());
    assert_eq!(report["tally"]["received"], end);
}

#[test]
fn producers_that_came_and_went_without_a_message_hide_no_later_one_from_a_busy_consumer() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(plain("orders", 8, 8)).unwrap();
    let attach =
        |role| Attach::with_ticket(agent.attach_socket(), &agent.ticket("orders", role)).unwrap();
    let mut consumer = attach(Role::Consumer).consumer().unwrap();
    for _ in 0..20 {
        drop(attach(Role::Producer).producer().unwrap());
        agent.wait_for("orders", "it is gone", |lane| state(&lane.producer) == State::Gone);
    }
    let mut producer = attach(Role::Producer).producer().unwrap();
    producer.send(b"here", SOON).unwrap();
    assert_eq!(consumer.recv(SOON).unwrap().to_vec(), b"here");
    assert_eq!(consumer.generation(), 21);
}

#[test]
fn a_producer_that_leaves_at_once_and_unheard_leaves_its_message() {
    let agent = Agent::start();
    agent.create(plain("orders", 40, 64)).unwrap();
    let attach = |role| {
        let ticket = agent.ticket("orders", role);
        Attach::with_ticket(agent.attach_socket(), &ticket).unwrap().pin(false)
    };
    let mut consumer = attach(Role::Consumer).consumer().unwrap();
    let until_free = |lane: &v1::Lane| state(&lane.producer) != State::Live;
    for number in 0..50u64 {
        // It never looks at what the agent has to say, and has said itself that it is there.
        let mut producer = attach(Role::Producer).producer().unwrap();
        producer.send(&number.to_le_bytes(), SOON).unwrap();
        drop(producer);
        let mut bytes = [0; 8];
        assert_eq!(consumer.recv(SOON).unwrap().copy_to(&mut bytes), 8);
        assert_eq!(u64::from_le_bytes(bytes), number);
        agent.wait_for("orders", "the end is free", until_free);
    }
}

#[test]
fn consumers_that_come_and_go_do_not_cost_an_idle_producer_its_lane() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(plain("orders", 8, 8)).unwrap();
    let attach =
        |role| Attach::with_ticket(agent.attach_socket(), &agent.ticket("orders", role)).unwrap();
    let mut producer = attach(Role::Producer).producer().unwrap();
    for round in 0..150 {
        let consumer = attach(Role::Consumer).lifeline(round % 2 == 0);
        drop(consumer.consumer().unwrap());
        agent.wait_for("orders", "it is gone", |lane| state(&lane.consumer) == State::Gone);
    }
    let mut consumer = attach(Role::Consumer).consumer().unwrap();
    producer.send(b"here", SOON).unwrap();
    assert_eq!(consumer.recv(SOON).unwrap().to_vec(), b"here");
}

#[test]
fn consumers_killed_at_random_instants_repeat_at_most_what_they_had_not_released() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(plain("orders", 40, 64)).unwrap();
    let producer = worker(&agent, "produce", "orders", Role::Producer, ENDLESS, "producer");
    let producer = Running::start(producer);
    let mut processed = 0;
    for round in 0..25u64 {
        let name = format!("consumer-{round}");
        let command = worker(&agent, "consume", "orders", Role::Consumer, ENDLESS, &name);
        let consumer = Running::start(command);
        agent.wait_for("orders", "attached", |lane| state(&lane.consumer) == State::Live);
        std::thread::sleep(Duration::from_millis(round * 5 % 17));
        consumer.kill();
        let gone = |lane: &v1::Lane| state(&lane.consumer) == State::Gone;
        let lane = agent.wait_for("orders", "death is seen", gone);
        let start = lane.consumer.unwrap().counters.unwrap().position;
        if let Some(last) = noted(&agent, &name) {
            processed = processed.max(last + 1);
        }
        assert!(start <= processed, "{start} were released, {processed} processed");
        assert!(processed - start <= 64, "more than a ring would be repeated");
    }
    let last = worker(&agent, "consume", "orders", Role::Consumer, ENDLESS, "last");
    let last = Running::start(last);
    let more = |_: &v1::Lane| noted(&agent, "last").is_some_and(|at| at > processed + MORE);
    agent.wait_for("orders", "it goes on", more);
    end_in_order(producer, last);
}

#[test]
fn data_flows_while_the_agent_is_dead_and_both_ends_come_back() {
    let _turn = turn();
    let mut agent = Agent::start();
    agent.create(plain("orders", 40, 64)).unwrap();
    let consumer =
        Running::start(worker(&agent, "consume", "orders", Role::Consumer, ENDLESS, "consumer"));
    let producer =
        Running::start(worker(&agent, "produce", "orders", Role::Producer, ENDLESS, "producer"));
    agent.wait_for("orders", "messages", |lane| {
        lane.consumer.as_ref().is_some_and(|end| end.counters.unwrap_or_default().messages > 100)
    });
    agent.kill();
    let before = noted(&agent, "consumer").unwrap();
    let deadline = std::time::Instant::now() + SOON;
    while noted(&agent, "consumer").unwrap() < before + 1000 {
        assert!(std::time::Instant::now() < deadline, "nothing flows while the agent is dead");
        std::thread::sleep(Duration::from_millis(1));
    }
    agent.start_again();
    agent.wait_for("orders", "both are back", |lane| {
        [&lane.producer, &lane.consumer].iter().all(|end| state(end) == State::Live)
    });
    producer.kill();
    agent.wait_for("orders", "death is seen", |lane| state(&lane.producer) == State::Gone);
    let until = noted(&agent, "producer").unwrap() + MORE;
    let successor = worker(&agent, "produce", "orders", Role::Producer, until, "successor");
    assert!(Running::start(successor).finish().status.success());
    let report = clean(&consumer.finish());
    assert_eq!(report["tally"]["next"], until);
}

#[test]
fn a_lane_whose_peers_died_with_the_agent_is_reclaimed() {
    let _turn = turn();
    let mut agent = Agent::start();
    let before = agent.pools();
    agent.create(plain("orders", 40, 64)).unwrap();
    let ends = ["consume", "produce"].map(|kind| {
        let role = if kind == "produce" { Role::Producer } else { Role::Consumer };
        Running::start(worker(&agent, kind, "orders", role, ENDLESS, kind))
    });
    agent.wait_for("orders", "both are live", |lane| {
        [&lane.producer, &lane.consumer].iter().all(|end| state(end) == State::Live)
    });
    agent.kill();
    for end in ends {
        end.kill();
    }
    agent.start_again();
    assert!(agent.list().unwrap().is_empty());
    let held = |pools: &[v1::PagePool]| pools.iter().map(|pool| pool.lane_pages).sum::<u64>();
    assert_eq!(held(&agent.pools()), held(&before));
}

#[test]
fn a_lane_that_nobody_attached_survives_a_restart_on_fresh_memory() {
    let _turn = turn();
    let mut agent = Agent::start();
    let created = agent.create(plain("orders", 40, 64)).unwrap();
    agent.kill();
    agent.start_again();
    assert_eq!(agent.get("orders").unwrap().id, created.id);
    let ticket = agent.ticket("orders", Role::Producer);
    let attach = Attach::with_ticket(agent.attach_socket(), &ticket).unwrap();
    let mut producer = attach.producer().unwrap();
    producer.send(b"after the restart", SOON).unwrap();
    let ticket = agent.ticket("orders", Role::Consumer);
    let attach = Attach::with_ticket(agent.attach_socket(), &ticket).unwrap();
    let mut consumer = attach.consumer().unwrap();
    assert_eq!(consumer.recv(SOON).unwrap().to_vec(), b"after the restart");
}

/// Both ends of a lane in this process.
fn both(agent: &Agent, lane: &str) -> (laneway_shm::Producer, laneway_shm::Consumer) {
    let attach = |role| {
        let ticket = agent.ticket(lane, role);
        Attach::with_ticket(agent.attach_socket(), &ticket).unwrap()
    };
    (attach(Role::Producer).producer().unwrap(), attach(Role::Consumer).consumer().unwrap())
}

#[test]
fn the_old_generation_is_drained_before_the_new_one_is_read() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(plain("orders", 8, 8)).unwrap();
    let (mut producer, mut consumer) = both(&agent, "orders");
    for number in 0..5u64 {
        producer.send(&number.to_le_bytes(), SOON).unwrap();
    }
    drop(producer);
    agent.wait_for("orders", "the producer is gone", |l| state(&l.producer) == State::Gone);
    let ticket = agent.ticket("orders", Role::Producer);
    let attach = Attach::with_ticket(agent.attach_socket(), &ticket).unwrap();
    let mut successor = attach.producer().unwrap();
    assert_eq!(successor.position(), 5, "positions go on over generations");
    for number in 5..8u64 {
        successor.send(&number.to_le_bytes(), SOON).unwrap();
    }
    for number in 0..8u64 {
        assert_eq!(consumer.recv(SOON).unwrap().view().u64_at(0), Some(number));
    }
    assert_eq!(consumer.generation(), 2);
    agent.wait_for("orders", "the old one is let go", |lane| lane.open_generations == 1);
}

#[test]
fn undrained_generations_are_bounded_and_a_consumer_frees_them() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(plain("orders", 8, 64)).unwrap();
    let attach = || {
        let ticket = agent.ticket("orders", Role::Producer);
        Attach::with_ticket(agent.attach_socket(), &ticket).unwrap().producer()
    };
    for number in 0..8u64 {
        attach().unwrap().send(&number.to_le_bytes(), SOON).unwrap();
        agent.wait_for("orders", "the producer is gone", |l| state(&l.producer) == State::Gone);
    }
    let refused = attach().unwrap_err().to_string();
    assert!(refused.contains("GENERATIONS_EXHAUSTED"), "{refused}");
    let ticket = agent.ticket("orders", Role::Consumer);
    let attached = Attach::with_ticket(agent.attach_socket(), &ticket).unwrap();
    let mut consumer = attached.consumer().unwrap();
    for number in 0..8u64 {
        assert_eq!(consumer.recv(SOON).unwrap().view().u64_at(0), Some(number));
    }
    assert!(matches!(consumer.recv(Duration::from_millis(50)), Err(RecvError::TimedOut { .. })));
    agent.wait_for("orders", "what was drained is let go", |lane| lane.open_generations < 8);
    assert_eq!(attach().unwrap().position(), 8);
}

#[test]
fn a_consumer_learns_of_the_end_of_the_stream_and_of_a_deleted_lane() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(plain("ends", 8, 8)).unwrap();
    let (mut producer, mut consumer) = both(&agent, "ends");
    producer.send(b"last", SOON).unwrap();
    producer.close(SOON).unwrap();
    assert_eq!(consumer.recv(SOON).unwrap().to_vec(), b"last");
    assert!(matches!(consumer.recv(SOON), Err(RecvError::Closed { position: 2 })));
    agent.create(plain("deleted", 8, 8)).unwrap();
    let (_producer, mut consumer) = both(&agent, "deleted");
    agent.delete("deleted").unwrap();
    assert!(matches!(consumer.recv(SOON), Err(RecvError::Revoked)));
}

#[test]
fn a_paused_peer_is_slow_and_not_dead() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(plain("orders", 40, 64)).unwrap();
    let consumer =
        Running::start(worker(&agent, "consume", "orders", Role::Consumer, ENDLESS, "consumer"));
    let producer =
        Running::start(worker(&agent, "produce", "orders", Role::Producer, ENDLESS, "producer"));
    let flows =
        |_: &v1::Lane| ["producer", "consumer"].iter().all(|end| noted(&agent, end).is_some());
    agent.wait_for("orders", "messages", flows);
    producer.signal(nix::sys::signal::Signal::SIGSTOP);
    std::thread::sleep(Duration::from_millis(700));
    let lane = agent.get("orders").unwrap();
    assert_eq!(state(&lane.producer), State::Live);
    assert_eq!(lane.generation, 1);
    let before = noted(&agent, "producer").unwrap();
    producer.signal(nix::sys::signal::Signal::SIGCONT);
    agent.wait_for("orders", "it goes on", |_| noted(&agent, "producer").unwrap() > before + MORE);
    end_in_order(producer, consumer);
}

#[test]
fn parked_ends_of_two_processes_survive_deaths_and_restarts() {
    let _turn = turn();
    let mut agent = Agent::start();
    let spec = v1::LaneSpec { wait: v1::WaitMode::Park.into(), ..plain("slow", 8, 8) };
    agent.create(spec).unwrap();
    let (producer, mut consumer) = both(&agent, "slow");
    drop(producer);
    let deadline = std::time::Instant::now() + SOON;
    while consumer.peer() != PeerState::Gone {
        assert!(std::time::Instant::now() < deadline, "nobody tells the consumer");
        let nothing = consumer.recv(Duration::from_millis(300));
        assert!(matches!(nothing, Err(RecvError::TimedOut { .. })));
    }
    let ticket = agent.ticket("slow", Role::Producer);
    let attach = Attach::with_ticket(agent.attach_socket(), &ticket).unwrap();
    let mut producer = attach.producer().unwrap();
    let sleeper = std::thread::spawn(move || {
        let message = consumer.recv(SOON).unwrap().to_vec();
        (consumer, message)
    });
    std::thread::sleep(Duration::from_millis(150));
    producer.send(b"wake", SOON).unwrap();
    let (mut consumer, message) = sleeper.join().unwrap();
    assert_eq!(message, b"wake");
    agent.kill();
    producer.send(b"dead", SOON).unwrap();
    assert_eq!(consumer.recv(SOON).unwrap().to_vec(), b"dead");
}

/// Kills the agent, then one end, then starts the agent again and waits for the other end.
fn die_together(agent: &mut Agent, end: Running, other: Role) {
    agent.kill();
    end.kill();
    agent.start_again();
    agent.wait_for("orders", "the living end is back", |lane| {
        let end = if other == Role::Producer { &lane.producer } else { &lane.consumer };
        state(end) == State::Live
    });
}

/// Runs a worker until the agent knows enough to take it.
fn persistent(agent: &Agent, command: impl Fn() -> Command) -> laneway_tests::process::Finished {
    let deadline = std::time::Instant::now() + SOON;
    loop {
        let finished = Running::start(command()).finish();
        if finished.status.success() || !finished.stderr.contains("AGENT_RECOVERING") {
            return finished;
        }
        assert!(std::time::Instant::now() < deadline, "{}{}", finished.stderr, agent.log());
    }
}

#[test]
fn a_consumer_that_dies_while_the_agent_is_dead_leaves_a_usable_lane() {
    let _turn = turn();
    let mut agent = Agent::start();
    agent.create(plain("orders", 40, 64)).unwrap();
    let command = worker(&agent, "consume", "orders", Role::Consumer, ENDLESS, "consumer");
    let consumer = Running::start(command);
    let command = worker(&agent, "produce", "orders", Role::Producer, ENDLESS, "producer");
    let producer = Running::start(command);
    agent.wait_for("orders", "messages", |lane| {
        lane.consumer.as_ref().is_some_and(|end| end.counters.unwrap_or_default().messages > 1000)
    });
    die_together(&mut agent, consumer, Role::Producer);
    let processed = noted(&agent, "consumer").unwrap() + 1;
    let until = processed + MORE;
    let successor = persistent(&agent, || {
        worker(&agent, "consume", "orders", Role::Consumer, until, "successor")
    });
    let report = clean(&successor);
    let first = report["first"].as_u64().unwrap();
    assert!(first <= processed && processed - first <= 64, "{first} after {processed}");
    assert_eq!(report["tally"]["next"], until);
    agent.wait_for("orders", "it is gone", |lane| state(&lane.consumer) == State::Gone);
    let last = worker(&agent, "consume", "orders", Role::Consumer, ENDLESS, "last");
    end_in_order(producer, Running::start(last));
}

#[test]
fn a_producer_that_dies_while_the_agent_is_dead_loses_nothing_that_it_committed() {
    let _turn = turn();
    let mut agent = Agent::start();
    agent.create(plain("orders", 40, 64)).unwrap();
    let command = worker(&agent, "consume", "orders", Role::Consumer, ENDLESS, "consumer");
    let consumer = Running::start(command);
    let command = worker(&agent, "produce", "orders", Role::Producer, ENDLESS, "producer");
    let producer = Running::start(command);
    agent.wait_for("orders", "messages", |lane| {
        lane.consumer.as_ref().is_some_and(|end| end.counters.unwrap_or_default().messages > 1000)
    });
    die_together(&mut agent, producer, Role::Consumer);
    let committed = noted(&agent, "producer").unwrap() + 1;
    let until = committed + MORE;
    let successor = persistent(&agent, || {
        worker(&agent, "produce", "orders", Role::Producer, until, "successor")
    });
    assert!(successor.json()["first"].as_u64().unwrap() >= committed);
    assert_eq!(clean(&consumer.finish())["tally"]["next"], until);
}

#[test]
fn what_a_slow_producer_committed_survives_its_end_after_an_agent_restart() {
    let _turn = turn();
    let mut agent = Agent::start();
    agent.create(plain("slow", 8, 64)).unwrap();
    let ticket = agent.ticket("slow", Role::Producer);
    let attach = Attach::with_ticket(agent.attach_socket(), &ticket).unwrap();
    let mut producer = attach.producer().unwrap();
    let mut command = laneway();
    command.args(["attach", "recv", "--attach-socket"]).arg(agent.attach_socket());
    command.args(["--ticket", &agent.ticket("slow", Role::Consumer)]);
    let consumer = Running::start(command);
    producer.send(&0u64.to_le_bytes(), SOON).unwrap();
    agent.wait_for("slow", "the first message is released", |lane| {
        lane.consumer.as_ref().is_some_and(|end| end.counters.unwrap_or_default().position == 1)
    });
    agent.kill();
    consumer.kill();
    for number in 1..10u64 {
        producer.send(&number.to_le_bytes(), SOON).unwrap();
    }
    agent.start_again();
    producer.close(SOON).unwrap();
    let ticket = agent.ticket("slow", Role::Consumer);
    let deadline = std::time::Instant::now() + SOON;
    let mut successor = loop {
        let attach = Attach::with_ticket(agent.attach_socket(), &ticket).unwrap();
        match attach.consumer() {
            Ok(consumer) => break consumer,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
    };
    for number in 1..10u64 {
        assert_eq!(successor.recv(SOON).unwrap().view().u64_at(0), Some(number));
    }
    assert!(matches!(successor.recv(SOON), Err(RecvError::Closed { .. })));
}

#[test]
fn a_consumer_that_leaves_in_order_repeats_nothing() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(plain("orders", 8, 64)).unwrap();
    let (mut producer, mut consumer) = both(&agent, "orders");
    for number in 0..20u64 {
        producer.send(&number.to_le_bytes(), SOON).unwrap();
    }
    for number in 0..5u64 {
        assert_eq!(consumer.recv(SOON).unwrap().view().u64_at(0), Some(number));
    }
    drop(consumer);
    agent.wait_for("orders", "the consumer is gone", |l| state(&l.consumer) == State::Gone);
    let ticket = agent.ticket("orders", Role::Consumer);
    let attach = Attach::with_ticket(agent.attach_socket(), &ticket).unwrap();
    let mut successor = attach.consumer().unwrap();
    assert_eq!(successor.recv(SOON).unwrap().view().u64_at(0), Some(5));
}
