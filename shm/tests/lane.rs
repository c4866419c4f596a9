//! What an application sees of a lane, on real sealed segments inside one process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use laneway_shm::{PairOptions, RecvError, ReserveError, WaitMode, pair};

const SOON: Duration = Duration::from_secs(10);

fn options(slot_payload_bytes: u32, slot_count: u32) -> PairOptions {
    PairOptions { slot_payload_bytes, slot_count, ..PairOptions::default() }
}

#[test]
fn messages_arrive_in_order_and_whole_over_many_laps() {
    let (mut producer, mut consumer) = pair(options(56, 4)).unwrap();
    for lap in 0..1000u64 {
        for index in 0..4 {
            producer.send(&(lap * 4 + index).to_le_bytes(), Duration::ZERO).unwrap();
        }
        for index in 0..4 {
            let message = consumer.poll().unwrap().expect("a message was committed");
            assert_eq!(message.view().u64_at(0), Some(lap * 4 + index));
        }
    }
}

#[test]
fn a_message_of_a_known_length_goes_by_value_and_waits_like_any_other() {
    let (mut producer, mut consumer) = pair(options(16, 2)).unwrap();
    producer.send_array([1; 16], Duration::ZERO).unwrap();
    producer.send_array([2; 3], Duration::ZERO).unwrap();
    let full = producer.send_array([3; 16], Duration::from_millis(5));
    assert!(matches!(full, Err(ReserveError::TimedOut { .. })));
    assert_eq!(consumer.poll().unwrap().unwrap().to_vec(), [1; 16]);
    assert_eq!(consumer.poll().unwrap().unwrap().to_vec(), [2; 3]);
    producer.send_array([4; 20], Duration::ZERO).unwrap();
    assert_eq!(consumer.poll().unwrap().unwrap().to_vec(), [4; 20]);
}

#[test]
fn a_full_ring_says_how_full_and_has_room_again_after_a_release() {
    let (mut producer, mut consumer) = pair(options(8, 2)).unwrap();
    producer.send(b"one", Duration::ZERO).unwrap();
    producer.send(b"two", Duration::ZERO).unwrap();
    match producer.try_reserve(3) {
        Err(ReserveError::Full { asked: 1, free: 0, slots: 2 }) => {}
        other => panic!("{other:?}"),
    }
    drop(consumer.poll().unwrap());
    producer.send(b"three", Duration::ZERO).unwrap();
}

#[test]
fn a_dropped_reservation_publishes_nothing_and_gives_the_slot_back() {
    let (mut producer, mut consumer) = pair(options(8, 2)).unwrap();
    for _ in 0..10 {
        let mut slot = producer.try_reserve(8).unwrap();
        slot.write(0, b"unwanted");
    }
    assert!(consumer.poll().unwrap().is_none());
    producer.send(b"wanted", Duration::ZERO).unwrap();
    assert_eq!(consumer.poll().unwrap().unwrap().to_vec(), b"wanted");
}

#[test]
fn writing_in_place_needs_no_copy_and_commits_only_what_was_asked() {
    let (mut producer, mut consumer) = pair(options(56, 4)).unwrap();
    let mut slot = producer.try_reserve(56).unwrap();
    for (index, byte) in slot.as_mut().unwrap().iter_mut().enumerate() {
        byte.write(u8::try_from(index).unwrap());
    }
    slot.commit_len(3);
    assert_eq!(consumer.poll().unwrap().unwrap().to_vec(), [0, 1, 2]);
}

#[test]
fn a_message_over_several_slots_arrives_as_one() {
    let (mut producer, mut consumer) = pair(options(56, 8)).unwrap();
    for len in [0, 1, 55, 56, 57, 112, 113, 8 * 56] {
        let message: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        producer.send(&message, Duration::ZERO).unwrap();
        let slot = consumer.poll().unwrap().unwrap();
        assert_eq!(slot.len(), len);
        assert_eq!(slot.to_vec(), message);
        if len > 60 {
            let mut part = [0; 7];
            assert_eq!(slot.view().range(53, 7).unwrap().copy_to(&mut part), 7);
            assert_eq!(part, message[53..60]);
        }
        assert!(slot.view().range(len, 1).is_none());
    }
    match producer.try_reserve(8 * 56 + 1) {
        Err(ReserveError::TooLarge { asked_bytes: 449, limit_bytes: 448 }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_handed_out_in_pieces_is_whole_wherever_they_and_its_slots_end() {
    let (mut producer, mut consumer) = pair(options(40, 64)).unwrap();
    for len in (0..300).chain([2000, 2560]) {
        let sent: Vec<u8> = (0..=250).cycle().take(len).collect();
        producer.send(&sent, Duration::ZERO).unwrap();
        let slot = consumer.poll().unwrap().unwrap();
        for start in [0, 1, 8, 39, 40].into_iter().filter(|start| *start <= len) {
            let view = slot.view().range(start, len - start).unwrap();
            for piece_bytes in [1, 3, 40, 64, 100, 4000] {
                let (mut found, mut buffer) = (Vec::new(), vec![0; piece_bytes]);
                let taken = view.for_each_piece(&mut buffer, |piece| {
                    assert_eq!(piece.len(), piece_bytes.min(len - start - found.len()));
                    found.extend(piece);
                });
                assert_eq!((taken, &found[..]), (len - start, &sent[start..]));
            }
            assert_eq!(view.for_each_piece(&mut [], |_| panic!("an empty piece")), 0);
        }
    }
}

#[test]
fn a_message_handed_out_by_lines_is_whole_wherever_they_and_its_slots_end() {
    for payload in [40, 64, 4096] {
        let (mut producer, mut consumer) = pair(options(payload, 128)).unwrap();
        for len in (0..300).chain([2000, 2560]) {
            let sent: Vec<u8> = (0..=250).cycle().take(len).collect();
            producer.send(&sent, Duration::ZERO).unwrap();
            let slot = consumer.poll().unwrap().unwrap();
            for start in [0, 1, 8, 39, 40, 64].into_iter().filter(|start| *start <= len) {
                let view = slot.view().range(start, len - start).unwrap();
                let mut found = Vec::new();
                view.for_each_line(|words| {
                    found.extend(words.into_iter().flat_map(u64::to_le_bytes));
                });
                assert_eq!(found.len(), view.len().next_multiple_of(64));
                let zeros = found.split_off(view.len());
                assert!(zeros.iter().all(|byte| *byte == 0), "{len} bytes from {start}");
                assert_eq!(found, sent[start..], "{len} bytes from {start}");
            }
        }
    }
}

#[test]
fn a_batch_appears_at_once_or_not_at_all() {
    let (mut producer, mut consumer) = pair(options(8, 8)).unwrap();
    let mut batch = producer.batch();
    for index in 0..5u64 {
        batch.push(&index.to_le_bytes()).unwrap();
        assert!(consumer.poll().unwrap().is_none(), "visible before the batch's commit");
    }
    assert_eq!(batch.commit(), 5);
    let mut received = consumer.poll_many(16);
    for index in 0..5 {
        assert_eq!(received.next().unwrap().unwrap().u64_at(0), Some(index));
    }
    assert!(received.next().unwrap().is_none());
}

#[test]
fn a_dropped_batch_leaves_no_trace_for_later_messages() {
    let (mut producer, mut consumer) = pair(options(8, 8)).unwrap();
    let mut batch = producer.batch();
    for _ in 0..5 {
        batch.push(b"ghost").unwrap();
    }
    drop(batch);
    producer.send(b"real", Duration::ZERO).unwrap();
    assert_eq!(consumer.poll().unwrap().unwrap().to_vec(), b"real");
    assert!(consumer.poll().unwrap().is_none());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "to forget a batch is what is tested")]
fn a_forgotten_batch_goes_out_before_the_next_message() {
    let (mut producer, mut consumer) = pair(options(8, 8)).unwrap();
    let mut batch = producer.batch();
    batch.push(b"first").unwrap();
    std::mem::forget(batch);
    producer.send(b"second", Duration::ZERO).unwrap();
    for expected in [&b"first"[..], b"second"] {
        assert_eq!(consumer.poll().unwrap().unwrap().to_vec(), expected);
    }
}

#[test]
fn a_batch_is_bounded_by_the_ring_and_keeps_what_fitted() {
    let (mut producer, mut consumer) = pair(options(8, 4)).unwrap();
    let mut batch = producer.batch();
    for _ in 0..4 {
        batch.push(b"fits").unwrap();
    }
    assert!(matches!(batch.push(b"not"), Err(ReserveError::Full { .. })));
    assert_eq!(batch.commit(), 4);
    let mut received = consumer.poll_many(100);
    let mut count = 0;
    while received.next().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 4);
}

#[test]
fn receiving_many_releases_only_what_was_taken() {
    let (mut producer, mut consumer) = pair(options(8, 8)).unwrap();
    for index in 0..6u64 {
        producer.send(&index.to_le_bytes(), Duration::ZERO).unwrap();
    }
    let mut some = consumer.poll_many(2);
    while some.next().unwrap().is_some() {}
    drop(some);
    assert_eq!(consumer.poll().unwrap().unwrap().view().u64_at(0), Some(2));
}

#[test]
fn the_end_of_the_stream_comes_after_the_last_message_and_stays() {
    let (mut producer, mut consumer) = pair(options(8, 4)).unwrap();
    producer.send(b"last", Duration::ZERO).unwrap();
    producer.close(SOON).unwrap();
    assert_eq!(consumer.poll().unwrap().unwrap().to_vec(), b"last");
    for _ in 0..3 {
        assert!(matches!(consumer.poll(), Err(RecvError::Closed { position: 2 })));
    }
}

#[test]
fn both_directions_of_waiting_time_out_with_what_is_known_of_the_peer() {
    for wait in [WaitMode::Spin, WaitMode::Park] {
        let (mut producer, mut consumer) = pair(PairOptions { wait, ..options(8, 2) }).unwrap();
        let short = Duration::from_millis(30);
        assert!(matches!(consumer.recv(short), Err(RecvError::TimedOut { .. })));
        producer.send(b"1", short).unwrap();
        producer.send(b"2", short).unwrap();
        assert!(matches!(producer.send(b"3", short), Err(ReserveError::TimedOut { .. })));
    }
}

#[test]
fn parked_ends_wake_each_other_in_both_directions() {
    let wait = WaitMode::Park;
    let (mut producer, mut consumer) = pair(PairOptions { wait, ..options(8, 2) }).unwrap();
    let sender = std::thread::spawn(move || {
        for index in 0..300u64 {
            if index % 50 == 0 {
                std::thread::sleep(Duration::from_millis(3));
            }
            producer.send(&index.to_le_bytes(), SOON).unwrap();
        }
    });
    for index in 0..300u64 {
        if index % 70 == 0 {
            std::thread::sleep(Duration::from_millis(3));
        }
        assert_eq!(consumer.recv(SOON).unwrap().view().u64_at(0), Some(index));
    }
    sender.join().unwrap();
}

#[test]
fn a_trusted_consumer_reads_in_place() {
    let (mut producer, consumer) = pair(options(56, 4)).unwrap();
    // SAFETY: the only producer of this lane is the library's own, two lines above.
    let mut consumer = unsafe { consumer.assume_trusted() };
    producer.send(b"in place", Duration::ZERO).unwrap();
    assert_eq!(consumer.poll().unwrap().unwrap().as_bytes(), Some(&b"in place"[..]));
    producer.send(&[7; 100], Duration::ZERO).unwrap();
    let long = consumer.recv(SOON).unwrap();
    assert_eq!(long.as_bytes(), None);
    let mut copy = [0; 100];
    assert_eq!(long.copy_to(&mut copy), 100);
    assert_eq!(copy, [7; 100]);
}

#[test]
fn a_message_of_another_length_is_not_taken_by_value_and_stays_in_the_lane() {
    let (mut producer, mut consumer) = pair(options(16, 4)).unwrap();
    producer.send(b"three", Duration::ZERO).unwrap();
    let wrong = consumer.recv_array(Duration::ZERO, |bytes: [u8; 8]| bytes);
    assert!(matches!(wrong, Err(RecvError::Length { found: 5, expected: 8 })));
    assert_eq!(consumer.recv_array(Duration::ZERO, |bytes: [u8; 5]| bytes).unwrap(), *b"three");
    assert!(consumer.poll().unwrap().is_none());
}

#[test]
fn messages_by_value_arrive_whole_for_every_length_in_one_slot_or_in_several() {
    fn there_and_back<const N: usize>() {
        let (mut producer, mut consumer) = pair(options(24, 4)).unwrap();
        for round in 0..9u8 {
            let sent: [u8; N] = std::array::from_fn(|at| round ^ at.to_le_bytes()[0]);
            producer.send_array(sent, Duration::ZERO).unwrap();
            let received = consumer.recv_array(Duration::ZERO, |bytes: [u8; N]| bytes).unwrap();
            assert_eq!(received, sent);
        }
        assert_eq!(consumer.position(), producer.position());
    }
    there_and_back::<0>();
    there_and_back::<1>();
    there_and_back::<7>();
    there_and_back::<8>();
    there_and_back::<9>();
    there_and_back::<23>();
    there_and_back::<24>();
    there_and_back::<25>();
    there_and_back::<96>();
}

#[test]
fn packed_items_come_out_in_order_whether_they_lie_in_one_slot_or_in_several() {
    fn there_and_back<const N: usize>(slot_payload_bytes: u32) {
        let (mut producer, mut consumer) = pair(options(slot_payload_bytes, 8)).unwrap();
        let (mut sent, mut received) = (0u8, 0u8);
        for count in (1..=5).cycle().take(60) {
            let make = || {
                sent = sent.wrapping_add(1);
                [sent; N]
            };
            producer.send_packed_arrays(count, Duration::ZERO, make).unwrap();
            let check = |item: [u8; N]| {
                received = received.wrapping_add(1);
                assert_eq!(item, [received; N]);
            };
            let taken = consumer.recv_packed_arrays(100, Duration::ZERO, check).unwrap();
            assert_eq!(taken, count);
        }
        assert_eq!(consumer.position(), producer.position());
    }
    there_and_back::<1>(24);
    there_and_back::<8>(24);
    there_and_back::<8>(56);
    there_and_back::<9>(24);
    there_and_back::<24>(64);
    there_and_back::<600>(1000);
}

#[test]
fn a_message_that_is_no_whole_number_of_items_stays_in_the_lane() {
    let (mut producer, mut consumer) = pair(options(56, 4)).unwrap();
    producer.send_packed_arrays(2, Duration::ZERO, || [7; 8]).unwrap();
    producer.send(&[1; 12], Duration::ZERO).unwrap();
    let mut taken = Vec::new();
    let two = consumer.recv_packed_arrays(9, Duration::ZERO, |item: [u8; 8]| taken.push(item));
    assert_eq!(two.unwrap(), 2);
    let odd = consumer.recv_packed_arrays(9, Duration::ZERO, |_: [u8; 8]| ());
    assert!(matches!(odd, Err(RecvError::Length { found: 12, expected: 8 })), "{odd:?}");
    let nothing = consumer.recv_packed_arrays(9, Duration::ZERO, |_: [u8; 0]| ());
    assert!(matches!(nothing, Err(RecvError::Length { found: 12, expected: 0 })), "{nothing:?}");
    assert_eq!(consumer.recv_packed_arrays(9, Duration::ZERO, |_: [u8; 6]| ()).unwrap(), 2);
    let full = producer.send_packed_arrays(1000, Duration::ZERO, || [7; 8]);
    assert!(matches!(full, Err(ReserveError::TooLarge { .. })), "{full:?}");
}

#[test]
fn arrays_sent_together_are_received_together_in_order_and_released() {
    let (mut producer, mut consumer) = pair(options(8, 64)).unwrap();
    let (mut sent, mut received) = (0u64, 0u64);
    for round in 0..200 {
        let count = round % 49;
        let next = || {
            sent += 1;
            sent.to_le_bytes()
        };
        producer.send_arrays(count, Duration::ZERO, next).unwrap();
        while received < sent {
            let (before, limit) = (received, 1 + round % 7);
            let check = |bytes: [u8; 8]| {
                received += 1;
                assert_eq!(u64::from_le_bytes(bytes), received);
            };
            let taken = consumer.recv_arrays(limit, Duration::ZERO, check).unwrap();
            assert_eq!(taken, limit.min(usize::try_from(sent - before).unwrap()));
        }
    }
    assert_eq!((consumer.position(), producer.position()), (sent, sent));
    let none = consumer.recv_arrays(4, Duration::ZERO, |_: [u8; 8]| panic!("nothing was sent"));
    assert!(matches!(none, Err(RecvError::TimedOut { .. })));
}

#[test]
fn arrays_wait_for_room_and_a_stranger_among_them_stays_in_the_lane() {
    let (mut producer, mut consumer) = pair(options(8, 4)).unwrap();
    let full = producer.send_arrays(6, Duration::ZERO, || [7; 8]);
    assert!(matches!(full, Err(ReserveError::TimedOut { .. })));
    assert_eq!(producer.position(), 4);
    let all = consumer.recv_arrays(9, Duration::ZERO, |b: [u8; 8]| assert_eq!(b, [7; 8]));
    assert_eq!(all.unwrap(), 4);
    producer.send_arrays(1, Duration::ZERO, || [8; 8]).unwrap();
    producer.send_arrays(1, Duration::ZERO, || [9; 3]).unwrap();
    let all = consumer.recv_arrays(9, Duration::ZERO, |b: [u8; 8]| assert_eq!(b, [8; 8]));
    assert_eq!(all.unwrap(), 1);
    let stranger = consumer.recv_arrays(9, Duration::ZERO, |_: [u8; 8]| ());
    assert!(matches!(stranger, Err(RecvError::Length { found: 3, expected: 8 })));
    let all = consumer.recv_arrays(9, Duration::ZERO, |b: [u8; 3]| assert_eq!(b, [9; 3]));
    assert_eq!(all.unwrap(), 1);
}

#[test]
fn a_message_that_is_kept_or_too_long_stays_in_the_lane() {
    let (mut producer, mut consumer) = pair(options(56, 8)).unwrap();
    for message in [&b"one"[..], b"three", &[7; 100], b"two"] {
        producer.send(message, Duration::ZERO).unwrap();
    }
    consumer.recv(Duration::ZERO).unwrap().keep();
    consumer.poll().unwrap().unwrap().keep();
    let mut batch = consumer.recv_many(8, Duration::ZERO).unwrap();
    assert_eq!(batch.next_within(3).unwrap().unwrap().to_vec(), b"one");
    for _ in 0..2 {
        match batch.next_within(4) {
            Err(RecvError::TooLong { found: 5, limit: 4 }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(batch.next_within(5).unwrap().unwrap().to_vec(), b"three");
    assert!(matches!(batch.next_within(99), Err(RecvError::TooLong { found: 100, .. })));
    drop(batch);
    consumer.poll().unwrap().unwrap().keep();
    assert_eq!(consumer.poll().unwrap().unwrap().to_vec(), [7; 100]);
    assert_eq!(consumer.poll().unwrap().unwrap().to_vec(), b"two");
    assert!(consumer.poll().unwrap().is_none());
}

#[test]
fn many_messages_of_any_length_go_out_in_order_until_one_cannot() {
    let (mut producer, mut consumer) = pair(options(8, 8)).unwrap();
    let messages: Vec<Vec<u8>> = (0..200u8).map(|n| vec![n; usize::from(n % 20)]).collect();
    let sent = messages.clone();
    let sender = std::thread::spawn(move || {
        let sent = producer.send_many(&sent, Duration::from_secs(30));
        (producer, sent)
    });
    for message in &messages {
        assert_eq!(consumer.recv(Duration::from_secs(30)).unwrap().to_vec(), *message);
    }
    let (mut producer, sent) = sender.join().unwrap();
    assert_eq!(sent.unwrap(), 200);
    let mut fetched = 0;
    let messages = [3, 65, 2].map(|len| vec![1; len]);
    let refused = producer.send_many(messages.iter().inspect(|_| fetched += 1), Duration::ZERO);
    assert!(matches!(refused, Err(ReserveError::TooLarge { asked_bytes: 65, limit_bytes: 64 })));
    assert_eq!(fetched, 2);
    assert_eq!(consumer.poll().unwrap().unwrap().len(), 3);
    assert!(consumer.poll().unwrap().is_none());
}

#[test]
fn a_message_that_cannot_be_made_leaves_no_trace_of_those_that_were_to_go_with_it() {
    let (mut producer, mut consumer) = pair(options(8, 256)).unwrap();
    for broken_at in (1..=20u8).cycle().take(200) {
        let before = producer.position();
        let mut made = 0;
        let make = || {
            made += 1;
            assert!(made < broken_at, "planted");
            [made; 8]
        };
        let send = AssertUnwindSafe(|| producer.send_arrays(20, Duration::ZERO, make));
        assert!(catch_unwind(send).is_err());
        // What went out before, because the ring was looked after in between, is whole.
        let mut next = |expected| match consumer.poll().unwrap() {
            Some(slot) => slot.to_vec() == [expected; 8],
            None => expected == 0,
        };
        for number in before..producer.position() {
            assert!(next(u8::try_from(number - before + 1).unwrap()));
        }
        assert!(next(0), "a message of those that were to go with number {broken_at}");
        producer.send_array([broken_at; 8], Duration::ZERO).unwrap();
        assert!(next(broken_at) && next(0), "the like, behind another message");
    }
}
