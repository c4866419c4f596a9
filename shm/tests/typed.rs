//! Messages that are values: what goes in comes out, in place, many at once, packed.

use std::collections::VecDeque;
use std::time::Duration;

use laneway_shm::message::Message;
use laneway_shm::{PairOptions, RecvError, ReserveError, TypedConsumer, TypedProducer, typed_pair};
use proptest::prelude::*;

const SOON: Duration = Duration::from_secs(10);
const NOW: Duration = Duration::ZERO;

laneway_shm::message! {
    #[derive(PartialEq)]
    struct Tick { price: u64, size: u32, venue: [u8; 4] }
}

laneway_shm::message! {
    /// Not a whole number of words.
    #[derive(PartialEq)]
    struct Odd { bytes: [u8; 5] }
}

laneway_shm::message! {
    /// Longer than the slots of these tests.
    #[derive(PartialEq)]
    struct Long { words: [u64; 100] }
}

laneway_shm::message! {
    /// Must be aligned to more than a slot's payload is.
    #[derive(PartialEq)]
    struct Wide { number: u128 }
}

fn lane<T: Message>(payload: u32, slots: u32) -> (TypedProducer<T>, TypedConsumer<T>) {
    let options = PairOptions { slot_payload_bytes: payload, slot_count: slots, ..<_>::default() };
    typed_pair(options).expect("lane")
}

fn tick(number: u64) -> Tick {
    Tick { price: number, size: 7, venue: *b"XETR" }
}

fn odd(number: u64) -> Odd {
    let [a, b, c, ..] = number.to_le_bytes();
    Odd { bytes: [a, b, c, !a, 0xab] }
}

fn long(number: u64) -> Long {
    Long { words: std::array::from_fn(|index| number << 32 | index as u64) }
}

#[test]
fn values_of_every_size_and_alignment_arrive_as_they_were_sent() {
    fn there_and_back<T: Message + PartialEq + std::fmt::Debug>(of: impl Fn(u64) -> T) {
        let (mut producer, mut consumer) = lane::<T>(24, 64);
        for round in 0..200 {
            let [first, second, third] = [3 * round, 3 * round + 1, 3 * round + 2].map(&of);
            if size_of::<T>() > 500 {
                producer.send(&first, NOW).unwrap();
                assert_eq!(consumer.recv(NOW).unwrap(), first);
                continue;
            }
            producer.send(&first, NOW).unwrap();
            producer.send_with(NOW, |slot| *slot = second).unwrap();
            producer.try_send_with(|slot| *slot = third).unwrap();
            producer.try_send(&first).unwrap();
            assert_eq!(consumer.recv(NOW).unwrap(), first);
            assert_eq!(consumer.try_recv().unwrap(), Some(second));
            let mut target = first;
            consumer.recv_into(&mut target, NOW).unwrap();
            assert_eq!(target, third);
            assert_eq!(consumer.recv_with(NOW, |message| message).unwrap(), first);
            assert_eq!(consumer.try_recv().unwrap(), None);
        }
    }
    there_and_back(tick);
    there_and_back(odd);
    there_and_back(long);
    there_and_back(|number| Wide { number: u128::from(number) << 64 | 5 });
    there_and_back(|number| number);
    there_and_back(|number| number.to_le_bytes()[0]);
}

#[test]
fn a_message_written_in_place_lies_in_the_lane_and_not_aside() {
    let (mut producer, mut consumer) = lane::<Tick>(16, 2);
    producer.send(&tick(1), NOW).unwrap();
    producer.send(&tick(2), NOW).unwrap();
    assert_eq!((consumer.recv(NOW).unwrap(), consumer.recv(NOW).unwrap()), (tick(1), tick(2)));
    // The slot's second turn: what the first left there is still there.
    producer.send_with(NOW, |slot| slot.price += 10).unwrap();
    assert_eq!(consumer.recv(NOW).unwrap(), tick(11));
}

#[test]
fn a_full_lane_refuses_a_value_and_does_not_ask_for_it() {
    let (mut producer, mut consumer) = lane::<Tick>(16, 2);
    assert_eq!(producer.try_send_many(&[1, 2, 3].map(tick)).unwrap(), 2);
    assert_eq!(producer.try_send_many(&[tick(3)]).unwrap(), 0);
    assert!(matches!(producer.try_send(&tick(3)), Err(ReserveError::Full { free: 0, .. })));
    let unasked = |_: &mut Tick| panic!("there is no room");
    assert!(matches!(producer.try_send_with(unasked), Err(ReserveError::Full { .. })));
    assert!(matches!(producer.send_with(NOW, unasked), Err(ReserveError::TimedOut { .. })));
    assert!(matches!(producer.send(&tick(3), NOW), Err(ReserveError::TimedOut { .. })));
    let mut seen = Vec::new();
    assert_eq!(consumer.try_recv_many(9, |tick| seen.push(tick)).unwrap(), 2);
    assert_eq!(seen, [1, 2].map(tick));
    assert_eq!(consumer.try_recv_many(9, |_| panic!("there is none")).unwrap(), 0);
}

#[test]
fn a_message_of_another_length_is_refused_stays_and_can_be_taken_as_bytes() {
    let (mut producer, mut consumer) = lane::<Tick>(40, 4);
    producer.producer_mut().send(b"no tick", NOW).unwrap();
    producer.send(&tick(1), NOW).unwrap();
    let expected = |result| matches!(result, Err(RecvError::Length { found: 7, expected: 16 }));
    assert!(expected(consumer.try_recv().map(drop)));
    assert!(expected(consumer.recv_into(&mut tick(0), NOW)));
    assert!(expected(consumer.recv_many(4, NOW, |_| ()).map(drop)));
    assert!(expected(consumer.try_recv_many(4, |_| ()).map(drop)));
    assert!(expected(consumer.recv_packed(4, NOW, |_| ()).map(drop)));
    assert!(expected(consumer.recv(NOW).map(drop)));
    assert_eq!(consumer.consumer_mut().poll().unwrap().unwrap().to_vec(), b"no tick");
    assert_eq!(consumer.recv(NOW).unwrap(), tick(1));
    // Two packed into one slot are no message for `recv`.
    producer.send_packed(&[2, 3].map(tick), NOW).unwrap();
    assert!(matches!(consumer.recv(NOW), Err(RecvError::Length { found: 32, .. })));
    let mut seen = Vec::new();
    assert_eq!(consumer.recv_packed(1, NOW, |tick| seen.push(tick)).unwrap(), 2);
    assert_eq!(seen, [2, 3].map(tick));
}

#[test]
fn values_of_a_chunk_are_written_in_place_and_appear_at_once() {
    fn there_and_back<T: Message + PartialEq + std::fmt::Debug>(of: impl Fn(u64) -> T) {
        let (mut producer, mut consumer) = lane::<T>(24, 128);
        for round in 0..50 {
            let [first, second, third] = [3 * round, 3 * round + 1, 3 * round + 2].map(&of);
            let mut chunk = producer.chunk(3, NOW).unwrap();
            assert!(chunk.write(|value| *value = first).unwrap() && chunk.left() == 2);
            assert_eq!(consumer.try_recv().unwrap(), None);
            let rest = |index, value: &mut T| *value = [second, third][index];
            assert_eq!(chunk.fill(rest).unwrap(), 3);
            let found: Vec<T> = consumer.recv_batch(9, NOW).unwrap().collect();
            assert_eq!(found, [first, second, third]);
        }
    }
    there_and_back(tick);
    there_and_back(odd);
    there_and_back(long);
    there_and_back(|number| Wide { number: u128::from(number) << 64 | 5 });
    there_and_back(|number| number);
}

#[test]
fn what_a_chunk_of_values_did_not_write_is_given_back_and_a_dropped_one_leaves_nothing() {
    let (mut producer, mut consumer) = lane::<Tick>(16, 4);
    let mut dropped = producer.chunk(4, NOW).unwrap();
    dropped.write(|value| *value = tick(9)).unwrap();
    drop(dropped);
    let mut chunk = producer.try_chunk(4).unwrap();
    assert!(chunk.write(|value| *value = tick(0)).unwrap());
    // What the dropped chunk left in its slot is still there: it is the lane's.
    assert!(chunk.write(|value| value.price = 1).unwrap());
    assert_eq!(chunk.commit(), 2);
    producer.send_many(&[2, 3].map(tick), NOW).unwrap();
    assert!(matches!(producer.try_chunk(1), Err(ReserveError::Full { free: 0, .. })));
    assert!(matches!(producer.chunk(1, NOW), Err(ReserveError::TimedOut { .. })));
    assert!(matches!(producer.chunk(5, SOON), Err(ReserveError::TooLarge { .. })));
    let mut nothing = producer.try_chunk(0).unwrap();
    assert!(!nothing.write(|_| panic!("there is no room")).unwrap());
    assert_eq!(nothing.commit(), 0);
    let found: Vec<u64> = consumer.try_recv_batch(9).unwrap().map(|tick| tick.price).collect();
    assert_eq!(found, [0, 1, 2, 3]);
}

#[test]
fn a_batch_of_values_releases_what_it_handed_out_and_leaves_the_rest_in_the_lane() {
    let (mut producer, mut consumer) = lane::<Tick>(40, 4);
    assert_eq!(consumer.try_recv_batch(4).unwrap().count(), 0);
    assert_eq!(consumer.recv_batch(0, SOON).unwrap().count(), 0);
    assert!(matches!(consumer.recv_batch(4, NOW), Err(RecvError::TimedOut { .. })));
    producer.send_many(&[0, 1, 2, 3].map(tick), NOW).unwrap();
    let mut batch = consumer.recv_batch(3, SOON).unwrap();
    assert_eq!((batch.next(), batch.next()), (Some(tick(0)), Some(tick(1))));
    assert!(producer.try_send(&tick(4)).is_err(), "released before the batch ended");
    drop(batch);
    assert_eq!(consumer.consumer().position(), 2);
    drop(consumer.recv_batch(3, SOON).unwrap());
    assert_eq!(consumer.consumer().position(), 2);
    assert_eq!(consumer.recv_batch(1, SOON).unwrap().collect::<Vec<_>>(), [tick(2)]);
    assert_eq!(consumer.recv(NOW).unwrap(), tick(3));
}

#[test]
fn whatever_ends_a_batch_of_values_is_told_by_the_next_call_and_stays_ended() {
    let (mut producer, mut consumer) = lane::<Tick>(40, 8);
    producer.send(&tick(0), NOW).unwrap();
    producer.producer_mut().send(b"no tick", NOW).unwrap();
    producer.send(&tick(1), NOW).unwrap();
    let mut batch = consumer.recv_batch(9, NOW).unwrap();
    assert_eq!((batch.next(), batch.next(), batch.next()), (Some(tick(0)), None, None));
    drop(batch);
    for refused in [consumer.recv_batch(9, SOON).map(drop), consumer.try_recv_batch(9).map(drop)] {
        assert!(matches!(refused, Err(RecvError::Length { found: 7, expected: 16 })));
    }
    assert_eq!(consumer.consumer_mut().poll().unwrap().unwrap().to_vec(), b"no tick");
    producer.close(NOW).unwrap();
    assert_eq!(consumer.recv_batch(9, NOW).unwrap().collect::<Vec<_>>(), [tick(1)]);
    for ended in [consumer.try_recv_batch(9).map(drop), consumer.recv_batch(9, SOON).map(drop)] {
        assert!(matches!(ended, Err(RecvError::Closed { .. })), "{ended:?}");
    }
}

#[test]
fn packed_messages_share_slots_and_come_out_one_by_one_in_order() {
    fn there_and_back<T: Message + PartialEq + std::fmt::Debug>(
        payload: u32,
        of: impl Fn(u64) -> T,
    ) {
        let (mut producer, mut consumer) = lane::<T>(payload, 16);
        let (mut sent, mut received) = (0u64, 0u64);
        for round in 0..300 {
            let messages: Vec<T> = (sent..sent + round % 23).map(&of).collect();
            let now = producer.try_send_packed(&messages).unwrap();
            sent += now as u64;
            let check = |message| {
                assert_eq!(message, of(received));
                received += 1;
            };
            consumer.try_recv_packed(usize::try_from(round % 7).unwrap(), check).unwrap();
        }
        while consumer
            .try_recv_packed(1, |message| {
                assert_eq!(message, of(received));
                received += 1;
            })
            .unwrap()
            > 0
        {}
        assert!(received > 300, "only {received} went through");
        assert_eq!(
            (received, consumer.consumer().position()),
            (sent, producer.producer().position())
        );
    }
    there_and_back(56, |number| number);
    there_and_back(56, odd);
    there_and_back(2000, odd);
    there_and_back(100, tick);
    there_and_back(1700, long);
    there_and_back(24, u128::from);
}

#[test]
fn packed_values_are_written_in_place_where_a_slot_holds_them_and_aside_where_not() {
    fn there_and_back<T: Message + PartialEq + std::fmt::Debug>(of: impl Fn(u64) -> T) {
        let (mut producer, mut consumer) = lane::<T>(100, 64);
        for count in [1, producer.per_slot(), producer.per_slot() + 1] {
            let values: Vec<T> = (0..count as u64).map(&of).collect();
            let fill = |room: &mut [T]| room.copy_from_slice(&values);
            producer.send_packed_with(count, NOW, fill).unwrap();
            producer.try_send_packed_with(count, fill).unwrap();
            let mut found = Vec::new();
            while consumer.try_recv_packed(1, |value| found.push(value)).unwrap() > 0 {}
            assert_eq!(found, [&values[..], &values].concat());
        }
    }
    there_and_back(tick);
    there_and_back(odd);
    there_and_back(long);
    there_and_back(|number| Wide { number: u128::from(number) << 64 | 5 });

    let (mut producer, mut consumer) = lane::<u64>(16, 2);
    producer.send_packed(&[1, 2, 3, 4], NOW).unwrap();
    let unasked = |_: &mut [u64]| panic!("there is no room");
    assert!(matches!(producer.try_send_packed_with(1, unasked), Err(ReserveError::Full { .. })));
    assert!(matches!(
        producer.send_packed_with(1, NOW, unasked),
        Err(ReserveError::TimedOut { .. })
    ));
    for count in [5, usize::MAX] {
        let never = producer.send_packed_with(count, SOON, unasked);
        assert!(matches!(never, Err(ReserveError::TooLarge { .. })), "{never:?}");
    }
    producer.send_packed_with(0, NOW, unasked).unwrap();
    assert_eq!(consumer.recv_packed(9, NOW, |_| ()).unwrap(), 4);
    assert_eq!(consumer.try_recv_packed(9, |_| ()).unwrap(), 0);
    // In place: what the slot's first turn left there is still there.
    producer.send_packed_with(2, NOW, |values| values[0] += 10).unwrap();
    let mut found = Vec::new();
    consumer.recv_packed(1, NOW, |value| found.push(value)).unwrap();
    assert_eq!(found, [11, 2]);
}

#[test]
fn a_slot_of_packed_messages_costs_one_position() {
    let (mut producer, mut consumer) = lane::<u64>(56, 8);
    assert_eq!(producer.per_slot(), 7);
    producer.send_packed(&[5; 15], NOW).unwrap();
    assert_eq!(producer.producer().position(), 3);
    assert_eq!(consumer.recv_packed(8, NOW, |_| ()).unwrap(), 14);
    assert_eq!(consumer.recv_packed(8, NOW, |_| ()).unwrap(), 1);
    let none = consumer.recv_packed(8, Duration::from_millis(1), |_| panic!("nothing was sent"));
    assert!(matches!(none, Err(RecvError::TimedOut { .. })));
}

#[test]
fn many_values_cross_threads_whole_and_in_order() {
    const COUNT: u64 = 20_000;
    let (mut producer, mut consumer) = lane::<Tick>(48, 64);
    let sender = std::thread::spawn(move || {
        let all: Vec<Tick> = (0..COUNT).map(tick).collect();
        for (index, some) in all.chunks(37).enumerate() {
            match index % 3 {
                0 => producer.send_many(some, SOON).unwrap(),
                1 => producer.send_packed(some, SOON).unwrap(),
                _ => some.iter().for_each(|tick| producer.send(tick, SOON).unwrap()),
            }
        }
        producer.close(SOON).unwrap();
    });
    let mut expected = 0;
    let end = loop {
        let check = |found| {
            assert_eq!(found, tick(expected));
            expected += 1;
        };
        if let Err(error) = consumer.recv_packed(50, SOON, check) {
            break error;
        }
    };
    assert!(matches!(end, RecvError::Closed { .. }), "{end}");
    assert_eq!(expected, COUNT);
    sender.join().unwrap();
}

/// One step of a random session.
#[derive(Clone, Debug)]
enum Operation {
    Send(bool),
    SendMany(usize),
    SendChunk(usize, usize),
    SendPacked(usize),
    RecvPacked(usize),
    RecvBatch(usize, usize),
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        1 => any::<bool>().prop_map(Operation::Send),
        1 => (0usize..20).prop_map(Operation::SendMany),
        1 => (0usize..20).prop_map(Operation::SendPacked),
        1 => (0usize..12, 0usize..12).prop_map(|(room, fill)| Operation::SendChunk(room, fill)),
        2 => (0usize..20).prop_map(Operation::RecvPacked),
        1 => (1usize..20, 0usize..20).prop_map(|(limit, take)| Operation::RecvBatch(limit, take)),
    ];
    proptest::collection::vec(operation, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// However values were sent, those that were accepted come out in order, and no others.
    #[test]
    fn a_typed_lane_behaves_like_a_queue(operations in operations(), payload in 1u32..40) {
        let (mut producer, mut consumer) = lane::<Odd>(payload, 8);
        let mut model = VecDeque::new();
        let mut next = 0;
        for operation in operations {
            let mut values = |count: usize| -> Vec<Odd> {
                next += count as u64;
                (next - count as u64..next).map(odd).collect()
            };
            match operation {
                Operation::Send(in_place) => {
                    let value = values(1)[0];
                    let sent = if in_place {
                        producer.try_send_with(|slot| *slot = value)
                    } else {
                        producer.try_send(&value)
                    };
                    model.extend(sent.is_ok().then_some(value));
                }
                Operation::SendMany(count) => {
                    let values = values(count);
                    let sent = producer.try_send_many(&values).unwrap();
                    model.extend(&values[..sent]);
                }
                Operation::SendChunk(room, fill) => {
                    if let Ok(mut chunk) = producer.try_chunk(room) {
                        let values = values(fill.min(room));
                        for value in &values {
                            prop_assert!(chunk.write(|slot| *slot = *value).unwrap());
                        }
                        prop_assert_eq!(chunk.commit(), values.len() as u64);
                        model.extend(values);
                    }
                }
                Operation::SendPacked(count) => {
                    let values = values(count);
                    let sent = producer.try_send_packed(&values).unwrap();
                    model.extend(&values[..sent]);
                }
                Operation::RecvBatch(limit, take) => {
                    // A slot of several values ends it, and is no error behind another one.
                    let Ok(batch) = consumer.try_recv_batch(limit) else { continue };
                    let found: Vec<Odd> = batch.take(take).collect();
                    prop_assert!(found.len() <= limit);
                    let expected: Vec<Odd> = model.drain(..found.len()).collect();
                    prop_assert_eq!(found, expected);
                }
                Operation::RecvPacked(limit) => {
                    let mut found = Vec::new();
                    let taken = consumer.try_recv_packed(limit, |value| found.push(value)).unwrap();
                    prop_assert_eq!(taken, found.len());
                    prop_assert_eq!(taken > 0, limit > 0 && !model.is_empty());
                    let expected: Vec<Odd> = model.drain(..taken).collect();
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }
}
