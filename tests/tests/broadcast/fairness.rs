//! What a reader of a broadcast lane is not to be blamed for, and what is not to be kept from it.

use laneway_proto::v1::{self, BroadcastPolicy};
use laneway_shm::{Message, RecvError, Start};
use laneway_tests::agent::Agent;
use laneway_tests::turn;

use super::{NOT_YET, SOON, cast, gather, producer, subscriber};

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
