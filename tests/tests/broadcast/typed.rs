//! Values of one type, for readers that may be overrun.

use laneway_proto::v1::{self, BroadcastPolicy, Role};
use laneway_shm::{
    AttachError, Reason, RecvError, Start, TypedProducer, TypedReceiver, TypedSubscriber,
};
use laneway_tests::agent::Agent;
use laneway_tests::turn;

use super::{NOT_YET, SOON, attach, cast, gather};

laneway_shm::message! {
    #[derive(PartialEq)]
    struct Quote { number: u64, price: u64, check: [u8; 8] }
}

fn quote(number: u64) -> Quote {
    Quote { number, price: 10_000 + number % 17, check: (!number).to_le_bytes() }
}

fn quotes(numbers: std::ops::Range<u64>) -> Vec<Quote> {
    numbers.map(quote).collect()
}

/// A lane of slots that hold one quote and more, its producer, and a reader that it knows.
fn lane(
    agent: &Agent,
    policy: BroadcastPolicy,
    payload: u32,
) -> (TypedProducer<Quote>, TypedSubscriber<Quote>) {
    let geometry = v1::Geometry { slot_payload_bytes: payload, slot_count: 64 };
    let lag_budget_slots = if policy == BroadcastPolicy::Evicting { 16 } else { 0 };
    let broadcast =
        v1::BroadcastSpec { policy: policy.into(), lag_budget_slots, ..Default::default() };
    let spec = cast("quotes", policy, 64);
    let lane = v1::LaneSpec { geometry: Some(geometry), broadcast: Some(broadcast), ..spec };
    agent.create(lane).unwrap();
    let mut producer = attach(agent, "quotes", Role::Producer).typed_producer().unwrap();
    let reader = attach(agent, "quotes", Role::Consumer).start(Start::Newest);
    let subscriber = reader.typed_subscriber().unwrap();
    gather(producer.producer_mut(), 1);
    (producer, subscriber)
}

#[test]
fn values_come_whole_by_every_call_and_a_loss_is_told_once_with_its_slots() {
    let _turn = turn();
    let agent = Agent::start();
    let (mut producer, mut subscriber) = lane(&agent, BroadcastPolicy::Overwrite, 24);
    assert_eq!(subscriber.try_recv().unwrap(), None);
    assert_eq!(subscriber.try_recv_many(8, |_| unreachable!()).unwrap(), 0);
    let late = subscriber.recv(NOT_YET);
    assert!(matches!(late, Err(RecvError::TimedOut { .. })), "{late:?}");
    producer.send_many(&quotes(0..12), SOON).unwrap();
    assert_eq!(subscriber.recv(SOON).unwrap(), quote(0));
    assert_eq!(subscriber.try_recv().unwrap(), Some(quote(1)));
    let mut target = quote(99);
    subscriber.recv_into(&mut target, SOON).unwrap();
    assert_eq!(target, quote(2));
    assert_eq!(subscriber.recv_many(0, SOON, |_| unreachable!()).unwrap(), 0);
    let mut found = Vec::new();
    assert_eq!(subscriber.try_recv_many(3, |quote| found.push(quote)).unwrap(), 3);
    let taken = subscriber.recv_many(100, SOON, |quote| {
        found.push(quote);
        if quote.number == 8 {
            // While it is looked at, all that were there are written over.
            producer.send_many(&quotes(12..200), SOON).unwrap();
        }
    });
    assert_eq!((taken.unwrap(), found), (3, quotes(3..9)));
    let lost = match subscriber.recv_many(100, SOON, |_| unreachable!()) {
        Err(RecvError::Lost { slots, position }) if position == 9 + slots => slots,
        other => panic!("{other:?}"),
    };
    assert_eq!(lost, subscriber.subscriber().lost());
    let mut found = Vec::new();
    subscriber.recv_many(1000, SOON, |quote| found.push(quote)).unwrap();
    assert_eq!(found, quotes(9 + lost..200));
    producer.close(SOON).unwrap();
    let closed = subscriber.recv(SOON);
    assert!(matches!(closed, Err(RecvError::Closed { position: 201 })), "{closed:?}");
}

#[test]
fn a_reader_of_values_that_is_given_up_is_told_once_and_goes_on() {
    let _turn = turn();
    let agent = Agent::start();
    let (mut producer, mut subscriber) = lane(&agent, BroadcastPolicy::Evicting, 24);
    producer.send_many(&quotes(0..300), SOON).unwrap();
    let (mut next, mut given_up, mut lost) = (0, 0, 0);
    while next < 300 {
        match subscriber.recv(SOON) {
            Ok(found) => {
                assert_eq!(found, quote(next), "a loss was not counted");
                next += 1;
            }
            Err(RecvError::GivenUp { reason: Reason::Behind, .. }) => given_up += 1,
            Err(RecvError::Lost { slots, position }) => {
                assert_eq!(position, next + slots);
                (next, lost) = (position, lost + slots);
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((given_up, lost), (1, subscriber.subscriber().lost()));
    assert!(lost > 0);
}

#[test]
fn a_message_that_is_no_value_stays_for_whoever_takes_bytes_and_costs_no_other() {
    let _turn = turn();
    let agent = Agent::start();
    let (mut producer, mut subscriber) = lane(&agent, BroadcastPolicy::Overwrite, 56);
    let refused = |result: Result<(), RecvError>, bytes: usize| {
        let named =
            matches!(result, Err(RecvError::Length { found, expected: 24 }) if found == bytes);
        assert!(named, "{result:?}");
    };
    producer.send(&quote(0), SOON).unwrap();
    producer.producer_mut().send(b"no quote", SOON).unwrap();
    producer.send(&quote(1), SOON).unwrap();
    // What stood before it is handed out, and it is told by every call after that.
    let mut found = Vec::new();
    assert_eq!(subscriber.recv_many(9, SOON, |quote| found.push(quote)).unwrap(), 1);
    refused(subscriber.recv(SOON).map(drop), 8);
    refused(subscriber.try_recv().map(drop), 8);
    refused(subscriber.recv_into(&mut quote(9), SOON), 8);
    refused(subscriber.recv_many(9, SOON, |_| unreachable!()).map(drop), 8);
    refused(subscriber.try_recv_packed(9, |_| unreachable!()).map(drop), 8);
    // Also when its slot was written over meanwhile: the copy is this reader's own.
    assert_eq!(subscriber.subscriber().position(), 1);
    producer.send_many(&quotes(2..200), SOON).unwrap();
    refused(subscriber.try_recv_many(9, |_| unreachable!()).map(drop), 8);
    let message = subscriber.subscriber_mut().recv(SOON).unwrap();
    assert_eq!((message.position, message.bytes), (1, &b"no quote"[..]));
    let lost = match subscriber.recv(SOON) {
        Err(RecvError::Lost { slots, position }) if position == 2 + slots => slots,
        other => panic!("{other:?}"),
    };
    let read = |quote| found.push(quote);
    assert_eq!(subscriber.recv_many(1000, SOON, read).unwrap() as u64, 199 - lost);
    assert_eq!(found[0], quote(0));
    assert_eq!(found[1..], quotes(1 + lost..200));
    // Empty is no value either.
    producer.producer_mut().send(b"", SOON).unwrap();
    refused(subscriber.recv(SOON).map(drop), 0);
    refused(subscriber.recv_packed(9, SOON, |_| unreachable!()).map(drop), 0);
}

#[test]
fn a_batch_of_values_that_may_be_overrun_has_no_gap_and_whatever_ends_it_is_told_next() {
    let _turn = turn();
    let agent = Agent::start();
    let (mut producer, mut subscriber) = lane(&agent, BroadcastPolicy::Overwrite, 56);
    assert_eq!(subscriber.try_recv_batch(8).unwrap().count(), 0);
    assert_eq!(subscriber.recv_batch(0, SOON).unwrap().count(), 0);
    let late = subscriber.recv_batch(8, NOT_YET).map(drop);
    assert!(matches!(late, Err(RecvError::TimedOut { .. })), "{late:?}");
    producer.send_many(&quotes(0..6), SOON).unwrap();
    let mut batch = subscriber.recv_batch(4, SOON).unwrap();
    assert_eq!((batch.next(), batch.next()), (Some(quote(0)), Some(quote(1))));
    // One that nobody asked for is the next call's, though its slot is written over meanwhile.
    let _unasked = subscriber.try_recv_batch(9).unwrap();
    assert_eq!(subscriber.subscriber().position(), 2);
    producer.send_many(&quotes(6..200), SOON).unwrap();
    let mut batch = subscriber.recv_batch(9, SOON).unwrap();
    assert_eq!((batch.next(), batch.next(), batch.next()), (Some(quote(2)), None, None));
    let lost = match subscriber.recv_batch(9, SOON).map(drop) {
        Err(RecvError::Lost { slots, position }) if position == 3 + slots => slots,
        other => panic!("{other:?}"),
    };
    producer.producer_mut().send(b"no quote", SOON).unwrap();
    let found: Vec<Quote> = subscriber.recv_batch(1000, SOON).unwrap().collect();
    assert_eq!(found, quotes(3 + lost..200));
    for refused in
        [subscriber.recv_batch(9, SOON).map(drop), subscriber.try_recv_batch(9).map(drop)]
    {
        assert!(matches!(refused, Err(RecvError::Length { found: 8, expected: 24 })));
    }
    assert_eq!(subscriber.subscriber_mut().recv(SOON).unwrap().bytes, b"no quote");
    producer.close(SOON).unwrap();
    let closed = subscriber.recv_batch(9, SOON).map(drop);
    assert!(matches!(closed, Err(RecvError::Closed { .. })), "{closed:?}");
}

#[test]
fn packed_values_of_a_lane_that_loses_come_slot_by_slot() {
    let _turn = turn();
    let agent = Agent::start();
    let (mut producer, mut subscriber) = lane(&agent, BroadcastPolicy::Overwrite, 56);
    assert_eq!(producer.per_slot(), 2);
    producer.send_packed(&quotes(0..5), SOON).unwrap();
    let mut found = Vec::new();
    assert_eq!(subscriber.recv_packed(3, SOON, |quote| found.push(quote)).unwrap(), 4);
    assert_eq!(subscriber.recv_packed(9, SOON, |quote| found.push(quote)).unwrap(), 1);
    assert_eq!(subscriber.try_recv_packed(9, |_| unreachable!()).unwrap(), 0);
    // Two in a slot are no message for `recv`, and 200 slots of them were written over.
    producer.send_packed(&quotes(5..7), SOON).unwrap();
    let two = subscriber.recv(SOON);
    assert!(matches!(two, Err(RecvError::Length { found: 48, expected: 24 })), "{two:?}");
    assert_eq!(subscriber.try_recv_packed(2, |quote| found.push(quote)).unwrap(), 2);
    producer.send_packed(&quotes(7..407), SOON).unwrap();
    let lost = match subscriber.recv_packed(9, SOON, |_| unreachable!()) {
        Err(RecvError::Lost { slots, .. }) => slots,
        other => panic!("{other:?}"),
    };
    assert_eq!(found, quotes(0..7));
    found.clear();
    let rest = subscriber.recv_packed(1000, SOON, |quote| found.push(quote)).unwrap();
    assert_eq!((rest as u64, found), (400 - 2 * lost, quotes(7 + 2 * lost..407)));
}

#[test]
fn a_reader_of_another_type_is_refused_and_the_lane_decides_which_end_reads_it() {
    let _turn = turn();
    let agent = Agent::start();
    let (mut producer, mut subscriber) = lane(&agent, BroadcastPolicy::Overwrite, 24);
    let reader = || attach(&agent, "quotes", Role::Consumer);
    for refused in
        [reader().typed_subscriber::<u128>().map(drop), reader().typed_receiver::<u64>().map(drop)]
    {
        let Err(AttachError::Refused { reason, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(reason, "SCHEMA_MISMATCH");
    }
    let Ok(TypedReceiver::Subscriber(mut second)) = reader().typed_receiver::<Quote>() else {
        panic!("a lane that loses");
    };
    gather(producer.producer_mut(), 2);
    producer.send(&quote(7), SOON).unwrap();
    assert_eq!(second.recv(SOON).unwrap(), quote(7));
    assert_eq!(subscriber.recv(SOON).unwrap(), quote(7));
    agent.create(cast("gated", BroadcastPolicy::Gated, 8)).unwrap();
    let gated = || attach(&agent, "gated", Role::Consumer);
    let wrong = gated().typed_subscriber::<u64>().map(drop);
    assert!(matches!(wrong, Err(AttachError::WrongHandle { needed: "consumer", .. })), "{wrong:?}");
    assert!(matches!(gated().typed_receiver::<u64>(), Ok(TypedReceiver::Consumer(_))));
}
