//! Lifelines from a real agent: who gets one, and how long it holds.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use laneway_proto::v1::{self, Role};
use laneway_shm::lifeline::{Lifeline, Received, Rung};
use laneway_shm::{Attach, Consumer, Producer};
use laneway_tests::agent::{Agent, plain};
use laneway_tests::process::PATIENCE;
use laneway_tests::turn;

const SOON: Duration = Duration::from_secs(30);

fn attach(agent: &Agent, lane: &str, role: Role, lifeline: bool) -> Attach {
    let ticket = agent.ticket(lane, role);
    let attach = Attach::with_ticket(agent.attach_socket(), &ticket).unwrap();
    attach.pin(false).lifeline(lifeline)
}

fn producer(agent: &Agent, lane: &str, lifeline: bool) -> Producer {
    attach(agent, lane, Role::Producer, lifeline).producer().unwrap()
}

fn consumer(agent: &Agent, lane: &str, lifeline: bool) -> Consumer {
    attach(agent, lane, Role::Consumer, lifeline).consumer().unwrap()
}

/// Tries until something comes of it.
fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Lets both ends hear of each other, and says how many bells each got: one when the peer took up.
fn meet(producer: &mut Producer, consumer: &mut Consumer) {
    producer.send(b"met", SOON).unwrap();
    consumer.recv(SOON).unwrap().release();
    until("the producer knows its consumer", || {
        producer.maintain().unwrap();
        (producer.peer() == laneway_shm::PeerState::Live).then_some(())
    });
}

/// The next packet that is no doorbell.
fn next(lifeline: &Lifeline) -> Received {
    loop {
        match lifeline.receive() {
            Received::Doorbell => {}
            received => return received,
        }
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn ends_have_a_lifeline_if_either_asks_for_one_and_none_if_nobody_does() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(plain("a", 56, 64)).unwrap();
    let before = descriptors();
    for (first, second) in [(false, false), (true, false), (false, true), (true, true)] {
        // Whoever comes second: both are there only then.
        for producer_first in [true, false] {
            let (mut producer, mut consumer) = if producer_first {
                let producer = producer(&agent, "a", first);
                (producer, consumer(&agent, "a", second))
            } else {
                let consumer = consumer(&agent, "a", first);
                (producer(&agent, "a", second), consumer)
            };
            meet(&mut producer, &mut consumer);
            let expected = usize::from(first || second);
            // Each end's connection, its own segment and the peer's, and the lifeline.
            assert_eq!(descriptors() - before, 6 + 2 * expected, "{first} {second}");
            let found = (producer.lifeline(), consumer.lifeline());
            assert_eq!(found.0.is_some() && found.1.is_some(), first || second);
            if let (Some(one), Some(other)) = found {
                assert!(matches!(next(one), Received::Nothing));
                assert_eq!(other.ring(), Rung::Heard);
                assert!(matches!(one.receive(), Received::Doorbell));
                one.send(b"x", std::io::stdin().as_fd()).unwrap();
                assert!(matches!(next(other), Received::Parcel(..)));
            }
            drop((producer, consumer));
            agent.wait_for("a", "both are gone", |lane| {
                let gone = |end: &Option<v1::EndStatus>| {
                    end.as_ref().is_some_and(|end| end.state() == v1::end_status::State::Gone)
                };
                gone(&lane.producer) && gone(&lane.consumer)
            });
        }
    }
}

#[test]
fn a_lifeline_hangs_up_with_its_peer_and_a_successor_has_a_new_one() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(plain("a", 56, 64)).unwrap();
    let mut producer = producer(&agent, "a", false);
    let mut consumer = consumer(&agent, "a", true);
    meet(&mut producer, &mut consumer);
    let old = Arc::clone(consumer.lifeline().unwrap());
    drop(producer);
    assert!(matches!(next(&old), Received::HungUp));
    let mut successor =
        until("the end is free", || attach(&agent, "a", Role::Producer, false).producer().ok());
    meet(&mut successor, &mut consumer);
    let new = consumer.lifeline().unwrap();
    assert!(!Arc::ptr_eq(&old, new));
    assert!(matches!(next(new), Received::Nothing));
    successor.lifeline().unwrap().ring();
    assert!(matches!(new.receive(), Received::Doorbell));
}

#[test]
fn lifelines_outlive_the_agent_and_peers_that_come_back_keep_theirs() {
    let _turn = turn();
    let mut agent = Agent::start();
    agent.create(plain("a", 56, 64)).unwrap();
    let mut producer = producer(&agent, "a", true);
    let mut first = consumer(&agent, "a", true);
    meet(&mut producer, &mut first);
    let lines = [Arc::clone(producer.lifeline().unwrap()), Arc::clone(first.lifeline().unwrap())];
    agent.kill();
    lines[0].ring();
    assert!(matches!(lines[1].receive(), Received::Doorbell));
    agent.start_again();
    let is_live = |end: &Option<v1::EndStatus>| {
        end.as_ref().is_some_and(|end| end.state() == v1::end_status::State::Live)
    };
    until("both are back", || {
        producer.maintain().unwrap();
        first.maintain().unwrap();
        let lane = agent.get("a").unwrap();
        (is_live(&lane.producer) && is_live(&lane.consumer)).then_some(())
    });
    // Whatever the new agent had to say is said.
    std::thread::sleep(Duration::from_millis(50));
    producer.maintain().unwrap();
    first.maintain().unwrap();
    assert!(Arc::ptr_eq(producer.lifeline().unwrap(), &lines[0]));
    assert!(Arc::ptr_eq(first.lifeline().unwrap(), &lines[1]));
    drop(first);
    let mut second = until("the end is free", || {
        let tried = attach(&agent, "a", Role::Consumer, false).consumer();
        tried.inspect_err(|error| println!("{error}")).ok()
    });
    until("the lifeline to the successor", || {
        producer.maintain().unwrap();
        second.maintain().unwrap();
        let new = producer.lifeline().filter(|new| !Arc::ptr_eq(new, &lines[0]))?;
        new.ring();
        let _ = second.poll().unwrap();
        matches!(second.lifeline()?.receive(), Received::Doorbell).then_some(())
    });
}

#[test]
fn every_reader_of_a_broadcast_lane_has_a_lifeline_of_its_own() {
    let _turn = turn();
    let agent = Agent::start();
    let policy = v1::BroadcastPolicy::Gated.into();
    let broadcast = Some(v1::BroadcastSpec { policy, ..v1::BroadcastSpec::default() });
    let shape = v1::Shape::Broadcast.into();
    agent.create(v1::LaneSpec { shape, broadcast, ..plain("b", 56, 64) }).unwrap();
    let mut readers: Vec<_> = (0..3).map(|_| consumer(&agent, "b", true)).collect();
    let mut producer = producer(&agent, "b", false);
    producer.send(b"all", SOON).unwrap();
    for reader in &mut readers {
        reader.recv(SOON).unwrap().release();
    }
    let lines: Vec<_> = readers.iter().map(|r| Arc::clone(r.lifeline().unwrap())).collect();
    for (index, line) in lines.iter().enumerate() {
        assert!(lines[..index].iter().all(|other| !Arc::ptr_eq(other, line)));
        assert!(matches!(next(line), Received::Nothing));
    }
    drop(producer);
    assert!(lines.iter().all(|line| matches!(next(line), Received::HungUp)));
}
