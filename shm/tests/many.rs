//! Many messages at once, and calls that never wait or wait for ever, on real sealed segments.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use laneway_shm::{
    Consumer, FanInError, Merge, PairOptions, RecvError, ReserveError, View, pair, typed_pair,
};

const SOON: Duration = Duration::from_secs(10);
const NOW: Duration = Duration::ZERO;

fn options(slot_payload_bytes: u32, slot_count: u32) -> PairOptions {
    PairOptions { slot_payload_bytes, slot_count, ..PairOptions::default() }
}

fn numbers(consumer: &mut Consumer) -> Vec<u64> {
    let mut numbers = Vec::new();
    let read = |view: View<'_>| numbers.push(view.u64_at(0).expect("a number"));
    let taken = consumer.poll_many(64).for_each(read).expect("an honest producer");
    assert_eq!(taken, numbers.len());
    numbers
}

#[test]
fn what_is_tried_is_sent_now_or_refused_with_the_numbers_of_the_ring() {
    let (mut producer, mut consumer) = pair(options(8, 2)).unwrap();
    producer.try_send(b"one").unwrap();
    producer.try_send(b"two").unwrap();
    let full = producer.try_send(b"three");
    assert!(matches!(full, Err(ReserveError::Full { asked: 1, free: 0, slots: 2 })), "{full:?}");
    let never = producer.try_send(&[0; 17]);
    assert!(
        matches!(never, Err(ReserveError::TooLarge { asked_bytes: 17, limit_bytes: 16 })),
        "{never:?}"
    );
    assert_eq!(consumer.recv(NOW).unwrap().to_vec(), b"one");
    producer.try_send(b"three").unwrap();
    assert_eq!(consumer.recv(NOW).unwrap().to_vec(), b"two");
    assert_eq!(consumer.recv(NOW).unwrap().to_vec(), b"three");
}

#[test]
fn as_many_as_there_is_room_for_are_sent_and_the_rest_is_told_and_kept() {
    let (mut producer, mut consumer) = pair(options(8, 4)).unwrap();
    let messages: Vec<[u8; 8]> = (0..10u64).map(u64::to_le_bytes).collect();
    let (mut sent, mut received) = (0, Vec::new());
    for expected in [4, 4, 2] {
        assert_eq!(producer.try_send_many(&messages[sent..]).unwrap(), expected);
        sent += expected;
        if sent < 10 {
            assert_eq!(producer.try_send_many(&messages[sent..]).unwrap(), 0, "the ring is full");
        }
        received.extend(numbers(&mut consumer));
    }
    assert_eq!(received, (0..10).collect::<Vec<u64>>());
    // One that never fits ends what is sent, and is told where it is the first.
    let messages = [vec![1; 8], vec![2; 40], vec![3; 8]];
    assert_eq!(producer.try_send_many(&messages).unwrap(), 1);
    let never = producer.try_send_many(&messages[1..]);
    assert!(matches!(never, Err(ReserveError::TooLarge { asked_bytes: 40, .. })), "{never:?}");
    assert_eq!(producer.position(), 11);
}

#[test]
fn whoever_waits_for_ever_gets_what_comes_late() {
    let (mut producer, mut consumer) = typed_pair::<u64>(options(8, 2)).unwrap();
    let sender = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        for number in 0..100 {
            producer.send(&number, Duration::MAX).unwrap();
        }
        producer.close(Duration::MAX).unwrap();
    });
    for number in 0..100 {
        assert_eq!(consumer.recv(Duration::MAX).unwrap(), number);
    }
    let closed = consumer.recv(Duration::MAX);
    assert!(matches!(closed, Err(RecvError::Closed { .. })), "{closed:?}");
    sender.join().unwrap();
}

#[test]
fn a_chunk_is_written_in_place_and_appears_at_once() {
    let (mut producer, mut consumer) = pair(options(8, 8)).unwrap();
    for lap in 0..20u64 {
        let mut chunk = producer.chunk(5, 8, SOON).unwrap();
        let mut index = 0;
        while let Some(mut slot) = chunk.next().unwrap() {
            slot.bytes_mut().unwrap().copy_from_slice(&(lap * 5 + index).to_le_bytes());
            index += 1;
            assert!(consumer.poll().unwrap().is_none(), "visible before the chunk's commit");
        }
        assert_eq!((chunk.left(), chunk.commit()), (0, 5));
        assert_eq!(numbers(&mut consumer), (lap * 5..lap * 5 + 5).collect::<Vec<_>>());
    }
}

#[test]
fn what_a_chunk_did_not_hand_out_is_given_back_and_a_dropped_one_leaves_nothing() {
    let (mut producer, mut consumer) = pair(options(8, 4)).unwrap();
    let mut chunk = producer.try_chunk(4, 8).unwrap();
    chunk.next().unwrap().unwrap().write(0, &7u64.to_le_bytes());
    assert_eq!((chunk.left(), chunk.commit()), (3, 1));
    for _ in 0..3 {
        let mut chunk = producer.try_chunk(3, 8).unwrap();
        while let Some(mut slot) = chunk.next().unwrap() {
            slot.write(0, &u64::MAX.to_le_bytes());
        }
    }
    let panics = catch_unwind(AssertUnwindSafe(|| {
        producer.try_chunk(3, 8).unwrap().fill(|index, mut slot| {
            slot.write(0, b"unwanted");
            assert!(index < 2, "planted");
        })
    }));
    assert!(panics.is_err());
    producer.send(&8u64.to_le_bytes(), NOW).unwrap();
    assert_eq!(numbers(&mut consumer), [7, 8]);
    assert_eq!(producer.chunk(0, 8, NOW).unwrap().commit(), 0);
}

#[test]
fn a_chunk_waits_for_room_for_all_of_it_and_says_what_never_fits() {
    let (mut producer, mut consumer) = pair(options(8, 4)).unwrap();
    producer.send(&0u64.to_le_bytes(), NOW).unwrap();
    producer.send(&1u64.to_le_bytes(), NOW).unwrap();
    let full = producer.try_chunk(3, 8).map(drop);
    assert!(matches!(full, Err(ReserveError::Full { asked: 3, free: 2, slots: 4 })), "{full:?}");
    let late = producer.chunk(3, 8, Duration::from_millis(5)).map(drop);
    assert!(matches!(late, Err(ReserveError::TimedOut { .. })), "{late:?}");
    for (count, len) in [(5, 8), (2, 20), (usize::MAX, 8), (2, usize::MAX)] {
        let never = producer.chunk(count, len, SOON).map(drop);
        assert!(matches!(never, Err(ReserveError::TooLarge { limit_bytes: 32, .. })), "{never:?}");
    }
    let sender = std::thread::spawn(move || {
        let write = |index: usize, mut slot: laneway_shm::ChunkSlot<'_>| {
            slot.write(0, &(index as u64 + 2).to_le_bytes());
        };
        producer.chunk(3, 8, SOON).unwrap().fill(write).unwrap();
        producer
    });
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(numbers(&mut consumer), [0, 1]);
    drop(sender.join().unwrap());
    assert_eq!(numbers(&mut consumer), [2, 3, 4]);
}

#[test]
fn messages_of_a_chunk_may_take_several_slots() {
    let (mut producer, mut consumer) = pair(options(8, 8)).unwrap();
    for round in 0..10u8 {
        let sent = producer.chunk(2, 20, SOON).unwrap().fill(|index, mut slot| {
            assert!(slot.as_mut().is_none() && slot.len() == 20 && !slot.is_empty());
            slot.write(0, &[round; 20]);
            slot.write(19, &[u8::try_from(index).unwrap()]);
        });
        assert_eq!(sent.unwrap(), 2);
        for index in 0..2 {
            let mut expected = [round; 20];
            expected[19] = index;
            assert_eq!(consumer.recv(NOW).unwrap().to_vec(), expected);
        }
    }
}

#[test]
fn a_batch_that_is_handed_out_is_released_together_also_where_the_reader_panics() {
    let (mut producer, mut consumer) = pair(options(8, 4)).unwrap();
    producer.send_many([[1u8; 8], [2; 8], [3; 8], [4; 8]], NOW).unwrap();
    let panics = catch_unwind(AssertUnwindSafe(|| {
        consumer.poll_many(8).for_each(|view| assert_eq!(view.to_vec(), [1; 8], "planted"))
    }));
    assert!(panics.is_err());
    let mut rest = Vec::new();
    consumer.poll_many(8).for_each(|view| rest.push(view.to_vec()[0])).unwrap();
    assert_eq!(rest, [3, 4]);
    producer.try_send_many(&[[5u8; 8]; 4]).unwrap();
}

#[test]
fn a_merge_hands_out_many_in_order_and_tells_what_it_found_behind_them_next() {
    let mut merge = Merge::new(NOW, |view| view.u64_at(0).unwrap_or(0));
    let mut producers = Vec::new();
    for lane in 0..3u64 {
        let (mut producer, consumer) = pair(options(8, 64)).unwrap();
        merge.add(consumer);
        producer.send_many((0..10).map(|n| (n * 3 + lane).to_le_bytes()), NOW).unwrap();
        producers.push(producer);
    }
    let mut stamps = Vec::new();
    assert_eq!(merge.poll_many(5, |merged| stamps.push(merged.stamp)).unwrap(), 5);
    assert_eq!(merge.recv_many(0, SOON, |_| unreachable!()).unwrap(), 0);
    producers.remove(1).close(NOW).unwrap();
    assert_eq!(merge.recv_many(100, SOON, |merged| stamps.push(merged.stamp)).unwrap(), 24);
    let closed = merge.poll_many(100, |_| unreachable!());
    let is_closed = |error: &FanInError| {
        matches!(error, FanInError::Lane { source: RecvError::Closed { .. }, .. })
    };
    assert!(closed.as_ref().is_err_and(is_closed), "{closed:?}");
    assert_eq!(merge.poll_many(100, |merged| stamps.push(merged.stamp)).unwrap(), 1);
    assert_eq!(stamps, (0..30).collect::<Vec<_>>());
}
