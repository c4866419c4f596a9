//! What a reader of a broadcast lane is not to be blamed for, and what is not to be kept from it.

use std::ops::Range;
use std::time::{Duration, Instant};

use laneway_proto::v1::{self, BroadcastPolicy, Role};
use laneway_shm::{AttachError, Consumer, Message, Producer, RecvError, Start};
use laneway_tests::agent::Agent;
use laneway_tests::process::Running;
use laneway_tests::turn;
use nix::sys::signal::Signal;

use super::{
    NOT_YET, SOON, attach, cast, expect, gather, producer, reader, send, subscriber, worker,
};

fn sequence(message: &Message<'_>) -> u64 {
    u64::from_le_bytes(message.bytes.try_into().expect("8 bytes"))
}

#[test]
fn a_reader_that_has_read_all_there_is_is_not_behind_whatever_its_producer_prepares() {
    let _turn = turn();
    let agent = Agent::start();
    let policy = BroadcastPolicy::Evicting.into();
    let broadcast = v1::BroadcastSpec { policy, lag_budget_slots: 8, ..Default::default() };
    let spec = cast("quotes", BroadcastPolicy::Evicting, 64);
    agent.create(v1::LaneSpec { broadcast: Some(broadcast), ..spec }).unwrap();
    let mut producer = producer(&agent, "quotes");
    let mut subscriber = subscriber(&agent, "quotes", Start::Newest);
    gather(&mut producer, 1);
    assert!(matches!(subscriber.recv(NOT_YET), Err(RecvError::TimedOut { .. })));
    let mut batch = producer.batch();
    (0..40u64).for_each(|number| batch.push(&number.to_le_bytes()).unwrap());
    drop(batch);
    assert!(producer.readers().all(|reader| reader.gates), "none of it became visible");
    // Many at once go out in parts that a reader can follow.
    let mut read = 0;
    let many = (0..100u64).map(|number| {
        while let Ok(Some(message)) = subscriber.poll() {
            assert_eq!(sequence(&message), read);
            read += 1;
        }
        number.to_le_bytes()
    });
    assert_eq!(producer.send_many(many, SOON).unwrap(), 100);
    assert!(producer.readers().all(|reader| reader.gates), "it kept the pace");
    while let Some(message) = subscriber.poll().unwrap() {
        assert_eq!(sequence(&message), read);
        read += 1;
    }
    assert_eq!((read, subscriber.lost()), (100, 0));
}

#[test]
fn a_producer_that_follows_after_a_restart_waits_for_every_reader_to_come_back() {
    let _turn = turn();
    let mut agent = Agent::start();
    let geometry = v1::Geometry { slot_payload_bytes: 40, slot_count: 64 };
    let spec = cast("orders", BroadcastPolicy::Gated, 64);
    agent.create(v1::LaneSpec { geometry: Some(geometry), ..spec }).unwrap();
    let mut early = reader(&agent, "orders", Start::Newest);
    let mut late = reader(&agent, "orders", Start::Newest);
    let first = worker(&agent, "produce", "orders", Role::Producer, 1000, "first");
    let first = Running::start(first);
    agent.wait_for("orders", "the ring is full", |lane| lane.lag_slots == 64);
    agent.kill();
    first.kill();
    agent.start_again();
    let next = attach(&agent, "orders", Role::Producer).timeout(SOON);
    let next = std::thread::spawn(move || {
        let mut producer = loop {
            match next.producer() {
                Ok(producer) => break producer,
                Err(AttachError::Refused { reason, .. }) if reason == "AGENT_RECOVERING" => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("{error}"),
            }
        };
        send(&mut producer, 0..3);
        producer.close(SOON).unwrap();
    });
    // The one that comes back shows where the producer stopped.
    let is_attached = || agent.get("orders").unwrap().generation == 2;
    let deadline = Instant::now() + SOON;
    while !is_attached() {
        early.maintain().unwrap();
        assert!(Instant::now() < deadline, "no successor");
    }
    std::thread::sleep(4 * NOT_YET);
    assert!(!next.is_finished(), "nobody may send before the other reader is back");
    while !next.is_finished() {
        late.maintain().unwrap();
    }
    next.join().unwrap();
    for reader in [&mut early, &mut late] {
        let mut received = 0;
        loop {
            match reader.recv(SOON) {
                Ok(_) => received += 1,
                Err(RecvError::Closed { position }) => break assert_eq!(position, received + 1),
                Err(error) => panic!("{received} received: {error}"),
            }
        }
        assert_eq!(received, 64 + 3);
    }
}

#[test]
fn readers_that_come_and_go_do_not_cost_an_idle_producer_its_lane() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(cast("quotes", BroadcastPolicy::Gated, 16)).unwrap();
    let mut producer = producer(&agent, "quotes");
    let mut stays = reader(&agent, "quotes", Start::Newest);
    for _ in 0..300 {
        drop(reader(&agent, "quotes", Start::Newest));
    }
    gather(&mut producer, 1);
    send(&mut producer, 0..3);
    expect(&mut stays, 0..3);
}

/// One message after the other, each read before the next.
fn go_on(producer: &mut Producer, reader: &mut Consumer, numbers: Range<u64>) {
    for number in numbers {
        send(producer, number..number + 1);
        expect(reader, number..number + 1);
    }
}

#[test]
fn a_reader_that_leaves_holds_nobody_while_the_agent_is_stopped() {
    let _turn = turn();
    let agent = Agent::start();
    for (name, wait) in [("sleeping", v1::WaitMode::Park), ("spinning", v1::WaitMode::Spin)] {
        let spec = cast(name, BroadcastPolicy::Gated, 8);
        agent.create(v1::LaneSpec { wait: wait.into(), ..spec }).unwrap();
        let mut producer = producer(&agent, name);
        let mut stays = reader(&agent, name, Start::Newest);
        let [leaves, too] = [(); 2].map(|()| reader(&agent, name, Start::Newest));
        gather(&mut producer, 3);
        agent.signal(Signal::SIGSTOP);
        go_on(&mut producer, &mut stays, 0..3);
        drop(leaves);
        // The other one leaves while the producer waits for it.
        let leave = std::thread::spawn(move || {
            std::thread::sleep(NOT_YET);
            drop(too);
        });
        go_on(&mut producer, &mut stays, 3..100);
        leave.join().unwrap();
        assert_eq!(producer.readers().count(), 1, "those that left are forgotten");
        agent.signal(Signal::SIGCONT);
        let mut late = reader(&agent, name, Start::Newest);
        gather(&mut producer, 2);
        send(&mut producer, 100..108);
        expect(&mut stays, 100..108);
        expect(&mut late, 100..108);
        agent.wait_for(name, "the agent knows it, too", |lane| lane.readers.len() == 2);
    }
}

#[test]
fn a_reader_that_leaves_while_the_agent_is_dead_is_forgotten_by_its_successor() {
    let _turn = turn();
    let mut agent = Agent::start();
    agent.create(cast("quotes", BroadcastPolicy::Gated, 8)).unwrap();
    let mut producer = producer(&agent, "quotes");
    let mut stays = reader(&agent, "quotes", Start::Newest);
    let leaves = reader(&agent, "quotes", Start::Newest);
    gather(&mut producer, 2);
    agent.kill();
    drop(leaves);
    go_on(&mut producer, &mut stays, 0..100);
    agent.start_again();
    let deadline = Instant::now() + SOON;
    while agent.get("quotes").unwrap().readers.len() != 1 {
        producer.maintain().unwrap();
        stays.maintain().unwrap();
        assert!(Instant::now() < deadline, "{:?}", agent.get("quotes").unwrap().readers);
    }
    let mut late = reader(&agent, "quotes", Start::Newest);
    gather(&mut producer, 2);
    send(&mut producer, 100..108);
    expect(&mut stays, 100..108);
    expect(&mut late, 100..108);
}
