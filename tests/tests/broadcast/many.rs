//! Many messages at once, for readers that may be overrun and from producers that write in place.

use std::time::Duration;

use laneway_agent::workload::sequence_of;
use laneway_proto::v1::{self, BroadcastPolicy};
use laneway_shm::{ChunkSlot, Message, Reason, RecvError, Start};
use laneway_tests::agent::Agent;
use laneway_tests::turn;

use super::{NOT_YET, SOON, cast, expect, gather, generator, producer, reader, subscriber};

fn number(message: &Message<'_>) -> u64 {
    u64::from_le_bytes(message.bytes.try_into().expect("8 bytes"))
}

fn bytes(numbers: std::ops::Range<u64>) -> impl Iterator<Item = [u8; 8]> {
    numbers.map(u64::to_le_bytes)
}

#[test]
fn a_loss_ends_what_is_received_together_and_is_told_before_what_comes_behind_it() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(cast("ticks", BroadcastPolicy::Overwrite, 64)).unwrap();
    let mut producer = producer(&agent, "ticks");
    let mut subscriber = subscriber(&agent, "ticks", Start::Newest);
    gather(&mut producer, 1);
    let late = subscriber.recv_many(8, NOT_YET, |_| unreachable!());
    assert!(matches!(late, Err(RecvError::TimedOut { .. })), "{late:?}");
    producer.send_many(bytes(0..10), SOON).unwrap();
    let mut found = Vec::new();
    assert_eq!(subscriber.recv_many(0, SOON, |_| unreachable!()).unwrap(), 0);
    let taken = subscriber.recv_many(100, SOON, |message| {
        found.push(number(&message));
        if message.position == 3 {
            // While the fourth is looked at, all that were there are written over.
            producer.send_many(bytes(10..200), SOON).unwrap();
        }
    });
    assert_eq!((taken.unwrap(), found), (4, vec![0, 1, 2, 3]));
    let lost = match subscriber.recv_many(100, SOON, |_| unreachable!()) {
        Err(RecvError::Lost { slots, position }) if position == 4 + slots => slots,
        other => panic!("{other:?}"),
    };
    assert_eq!(lost, subscriber.lost());
    let mut next = 4 + lost;
    let taken = subscriber.poll_many(100, |message| {
        assert_eq!((number(&message), message.position), (next, next));
        next += 1;
    });
    assert_eq!((taken.unwrap() as u64, next), (196 - lost, 200));
    assert_eq!(subscriber.poll_many(100, |_| unreachable!()).unwrap(), 0);
    producer.send_many(bytes(200..203), SOON).unwrap();
    producer.close(SOON).unwrap();
    assert_eq!(subscriber.recv_many(2, SOON, |_| ()).unwrap(), 2);
    assert_eq!(subscriber.recv_many(2, SOON, |_| ()).unwrap(), 1);
    let closed = subscriber.recv_many(2, SOON, |_| unreachable!());
    assert!(matches!(closed, Err(RecvError::Closed { position: 204 })), "{closed:?}");
}

#[test]
fn a_message_that_a_reader_keeps_is_the_next_calls_though_its_slot_was_written_over() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(cast("ticks", BroadcastPolicy::Overwrite, 64)).unwrap();
    let mut producer = producer(&agent, "ticks");
    let mut subscriber = subscriber(&agent, "ticks", Start::Newest);
    gather(&mut producer, 1);
    producer.send_many(bytes(0..2), SOON).unwrap();
    assert_eq!(number(&subscriber.recv(SOON).unwrap()), 0);
    assert_eq!(number(&subscriber.poll().unwrap().unwrap()), 1);
    subscriber.keep();
    assert_eq!(subscriber.position(), 1);
    producer.send_many(bytes(2..200), SOON).unwrap();
    let again = subscriber.recv(SOON).unwrap();
    assert_eq!((number(&again), again.position), (1, 1));
    // Once more, and to those that are received together.
    subscriber.keep();
    subscriber.keep();
    let mut found = Vec::new();
    assert_eq!(subscriber.recv_many(9, SOON, |message| found.push(number(&message))).unwrap(), 1);
    assert_eq!(found, [1]);
    subscriber.keep();
    let lost = subscriber.recv(SOON).map(drop);
    assert!(matches!(lost, Err(RecvError::Lost { .. })), "{lost:?}");
    subscriber.keep();
    let next = subscriber.recv(SOON).unwrap();
    assert_eq!(number(&next), next.position);
}

#[test]
fn a_reader_that_falls_behind_in_the_middle_is_told_so_behind_what_it_received() {
    let _turn = turn();
    let agent = Agent::start();
    let policy = BroadcastPolicy::Evicting.into();
    let broadcast = v1::BroadcastSpec { policy, lag_budget_slots: 16, ..Default::default() };
    let spec = cast("quotes", BroadcastPolicy::Evicting, 64);
    agent.create(v1::LaneSpec { broadcast: Some(broadcast), ..spec }).unwrap();
    let mut producer = producer(&agent, "quotes");
    let mut subscriber = subscriber(&agent, "quotes", Start::Newest);
    gather(&mut producer, 1);
    producer.send_many(bytes(0..4), SOON).unwrap();
    let mut next = 0;
    let (mut given_up, mut lost) = (0, 0);
    while next < 300 {
        let found = subscriber.recv_many(50, SOON, |message| {
            assert_eq!((number(&message), message.position), (next, next), "torn");
            next += 1;
            if next == 2 {
                producer.send_many(bytes(4..300), SOON).unwrap();
            }
        });
        match found {
            Ok(taken) => assert!((1..=50).contains(&taken)),
            Err(RecvError::GivenUp { reason: Reason::Behind, position, .. }) => {
                assert_eq!((position >= next, given_up), (true, 0));
                given_up += 1;
            }
            Err(RecvError::Lost { slots, position }) => {
                assert_eq!(position, next + slots, "a loss was not counted");
                next = position;
                lost += slots;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((given_up, lost), (1, subscriber.lost()));
    assert!(lost > 0);
}

#[test]
fn many_received_together_beside_a_running_producer_are_whole_or_counted_as_lost() {
    const COUNT: u64 = 300_000;
    let _turn = turn();
    let agent = Agent::start();
    let geometry = v1::Geometry { slot_payload_bytes: 40, slot_count: 64 };
    let spec = cast("ticks", BroadcastPolicy::Overwrite, 64);
    agent.create(v1::LaneSpec { geometry: Some(geometry), ..spec }).unwrap();
    let threads = [0u64, 100].map(|pause_us| {
        let mut subscriber = subscriber(&agent, "ticks", Start::Newest);
        std::thread::spawn(move || {
            let (mut next, mut received, mut lost) = (0, 0, 0);
            loop {
                let found = subscriber.recv_many(32, SOON, |message| {
                    assert_eq!(message.position, next, "a loss was not counted");
                    assert_eq!(sequence_of(message.bytes), Some(next), "torn");
                    next += 1;
                });
                match found {
                    Ok(taken) => received += taken as u64,
                    Err(RecvError::Lost { slots, position }) => {
                        assert_eq!(position, next + slots);
                        next = position;
                        lost += slots;
                    }
                    Err(RecvError::Closed { .. }) => break,
                    Err(error) => panic!("{error}"),
                }
                std::thread::sleep(Duration::from_micros(pause_us));
            }
            assert_eq!((next, received + lost, subscriber.lost()), (COUNT, COUNT, lost));
            received
        })
    });
    assert!(generator(&agent, "ticks", COUNT).finish().status.success());
    for thread in threads {
        assert!(thread.join().unwrap() > 0);
    }
}

#[test]
fn chunks_that_are_written_in_place_reach_the_readers_of_every_policy() {
    let _turn = turn();
    let agent = Agent::start();
    let write = |base: u64| {
        move |index: usize, mut slot: ChunkSlot<'_>| {
            slot.bytes_mut().unwrap().copy_from_slice(&(base + index as u64).to_le_bytes());
        }
    };
    for (name, policy) in [
        ("gated", BroadcastPolicy::Gated),
        ("evicting", BroadcastPolicy::Evicting),
        ("overwrite", BroadcastPolicy::Overwrite),
    ] {
        agent.create(cast(name, policy, 16)).unwrap();
        let mut producer = producer(&agent, name);
        if policy == BroadcastPolicy::Gated {
            let mut reader = reader(&agent, name, Start::Newest);
            gather(&mut producer, 1);
            for base in (0..160).step_by(16) {
                let sent = producer.chunk(16, 8, SOON).unwrap().fill(write(base)).unwrap();
                assert_eq!(sent, 16);
                assert!(producer.try_chunk(1, 8).is_err(), "the reader holds the ring");
                expect(&mut reader, base..base + 16);
            }
        } else {
            let mut subscriber = subscriber(&agent, name, Start::Newest);
            gather(&mut producer, 1);
            let mut next = 0;
            for base in (0..160).step_by(4) {
                producer.chunk(4, 8, SOON).unwrap().fill(write(base)).unwrap();
                assert!(producer.chunk(3, 8, SOON).unwrap().next().unwrap().is_some());
                let taken = subscriber.recv_many(16, SOON, |message| {
                    assert_eq!(number(&message), next);
                    next += 1;
                });
                assert_eq!((taken.unwrap(), next), (4, base + 4));
            }
            assert_eq!(subscriber.lost(), 0);
        }
    }
}
