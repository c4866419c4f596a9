//! Frozen payloads in one process: in order with messages, bounded, and against a hostile sender's
//! half of the lifeline.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use laneway_shm::lifeline::{Lifeline, Received};
use laneway_shm::{
    Consumer, Corruption, FROZEN_IN_FLIGHT_MAX, FrozenBuilder, FrozenFault, FrozenFile,
    FrozenSegment, FrozenSendError, Incoming, PairOptions, Producer, RecvError, ReserveError,
    WaitMode, pair,
};
use proptest::prelude::*;

const NOW: Duration = Duration::ZERO;
const SOON: Duration = Duration::from_secs(20);
const PAGE: usize = 4096;

fn lane(slot_payload_bytes: u32, slot_count: u32) -> (Producer, Consumer) {
    let options = PairOptions { slot_payload_bytes, slot_count, ..PairOptions::default() };
    pair(PairOptions { lifeline: true, ..options }).expect("memory")
}

fn payload(len: usize, byte: u8) -> FrozenFile {
    let mut builder = FrozenBuilder::on_pages(len, 4096).expect("memory");
    builder.bytes_mut().fill(byte);
    builder.freeze().expect("nobody else writes it")
}

/// The next message, which must be a frozen payload.
fn frozen(consumer: &mut Consumer) -> FrozenSegment {
    match consumer.recv_any(NOW).expect("a message") {
        Incoming::Frozen(slot) => slot.take(),
        Incoming::Message(slot) => panic!("a message of {} bytes", slot.len()),
    }
}

/// What a hostile producer, or one of another version, writes on its half.
fn announce(lifeline: &Lifeline, position: u64, len: u64, fd: impl AsFd) {
    let text = [&b"FROZEN\0\x01"[..], &position.to_le_bytes(), &len.to_le_bytes()].concat();
    lifeline.send(&text, fd.as_fd()).expect("room");
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc").count()
}

/// This process's descriptors are counted: one test at a time.
fn turn() -> std::sync::MutexGuard<'static, ()> {
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Send(usize),
    Freeze(usize),
    Receive,
    Keep,
    Skip,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (0usize..40).prop_map(Operation::Send),
        (1usize..3 * PAGE).prop_map(Operation::Freeze),
        Just(Operation::Receive),
        Just(Operation::Receive),
        Just(Operation::Keep),
        Just(Operation::Skip),
    ]
}

/// Compares what is next with the oldest of the oracle; true if there was something.
fn same(incoming: &Incoming<'_>, expected: (bool, usize, u8)) {
    let (is_frozen, bytes) = match incoming {
        Incoming::Message(slot) => (false, slot.to_vec()),
        Incoming::Frozen(slot) => (true, slot.to_vec()),
    };
    assert_eq!((is_frozen, bytes), (expected.0, vec![expected.2; expected.1]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_lane_of_both_kinds_behaves_like_a_queue(
        operations in proptest::collection::vec(operation(), 1..80), slots in 1u32..5,
    ) {
        let _turn = turn();
        let (mut producer, mut consumer) = lane(16, 1 << slots);
        let mut queue = std::collections::VecDeque::new();
        for (number, operation) in operations.into_iter().enumerate() {
            let byte = number.to_le_bytes()[0];
            match operation {
                Operation::Send(len) => {
                    match producer.send(&vec![byte; len], NOW) {
                        Ok(()) => queue.push_back((false, len, byte)),
                        Err(ReserveError::TimedOut { .. } | ReserveError::TooLarge { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                Operation::Freeze(len) => match producer.send_frozen(&payload(len, byte), NOW) {
                    Ok(()) => queue.push_back((true, len, byte)),
                    Err(FrozenSendError::Reserve(ReserveError::TimedOut { .. })) => {}
                    Err(FrozenSendError::InFlight { in_flight, .. }) => {
                        assert_eq!(in_flight, FROZEN_IN_FLIGHT_MAX);
                    }
                    Err(error) => panic!("{error}"),
                },
                Operation::Skip => {
                    let is_frozen = queue.front().is_some_and(|&(frozen, ..)| frozen);
                    assert_eq!(consumer.skip_frozen().unwrap(), is_frozen);
                    if is_frozen {
                        queue.pop_front();
                    }
                }
                Operation::Receive | Operation::Keep => {
                    let found = consumer.poll_any().unwrap();
                    assert_eq!(found.is_some(), !queue.is_empty());
                    let Some(found) = found else { continue };
                    same(&found, queue[0]);
                    match (operation, found) {
                        (Operation::Keep, Incoming::Message(slot)) => slot.keep(),
                        (Operation::Keep, Incoming::Frozen(slot)) => slot.keep(),
                        _ => drop(queue.pop_front()),
                    }
                }
            }
        }
        let left = queue.iter().filter(|(frozen, ..)| *frozen).count();
        assert_eq!(producer.frozen_in_flight(), left);
    }
}

#[test]
fn a_call_that_takes_no_frozen_payload_says_so_and_leaves_it_in_the_lane() {
    let _turn = turn();
    let (mut producer, mut consumer) = lane(16, 8);
    producer.send(b"before", NOW).unwrap();
    producer.send_frozen(&payload(PAGE + 1, 1), NOW).unwrap();
    producer.send(b"after", NOW).unwrap();
    let mut batch = consumer.poll_many(8);
    assert_eq!(batch.next().unwrap().unwrap().to_vec(), b"before");
    assert!(batch.next().unwrap().is_none(), "a batch ends before it");
    drop(batch);
    let is_told = |error: RecvError| {
        assert!(matches!(error, RecvError::Frozen { position: 1, bytes_max: 8192 }), "{error:?}");
    };
    is_told(consumer.poll().map(drop).unwrap_err());
    is_told(consumer.recv(SOON).map(drop).unwrap_err());
    is_told(consumer.recv_array::<8, _>(SOON, drop).unwrap_err());
    is_told(consumer.recv_many(8, SOON).map(drop).unwrap_err());
    assert_eq!(frozen(&mut consumer).as_bytes(), [1; PAGE + 1]);
    assert_eq!(consumer.recv(NOW).unwrap().to_vec(), b"after");
}

#[test]
fn no_more_payloads_are_in_flight_than_allowed_and_a_release_makes_room() {
    let _turn = turn();
    let (mut producer, mut consumer) = lane(16, 64);
    let before = descriptors();
    for number in 0..FROZEN_IN_FLIGHT_MAX {
        producer.send_frozen(&payload(PAGE, number.to_le_bytes()[0]), NOW).unwrap();
    }
    let error = producer.send_frozen(&payload(PAGE, 99), NOW).unwrap_err();
    let named = matches!(error, FrozenSendError::InFlight { in_flight, .. }
        if in_flight == FROZEN_IN_FLIGHT_MAX);
    assert!(named, "{error:?}");
    assert_eq!(frozen(&mut consumer).as_bytes(), [0; PAGE]);
    producer.send_frozen(&payload(PAGE, 99), NOW).unwrap();
    for number in 1..FROZEN_IN_FLIGHT_MAX {
        assert_eq!(frozen(&mut consumer).as_bytes(), [number.to_le_bytes()[0]; PAGE]);
    }
    assert_eq!(frozen(&mut consumer).as_bytes(), [99; PAGE]);
    assert_eq!(producer.frozen_in_flight(), 0);
    assert_eq!(descriptors(), before, "nothing is left of any");
}

#[test]
fn payloads_that_were_skipped_cost_no_later_one() {
    let _turn = turn();
    let (mut producer, mut consumer) = lane(16, 64);
    for _ in 0..2 * FROZEN_IN_FLIGHT_MAX {
        producer.send_frozen(&payload(PAGE, 1), NOW).unwrap();
        assert!(consumer.skip_frozen().unwrap());
    }
    producer.send_frozen(&payload(PAGE, 2), NOW).unwrap();
    assert_eq!(frozen(&mut consumer).as_bytes(), [2; PAGE]);
}

#[test]
fn a_sender_waits_until_the_consumer_has_released_in_every_mode() {
    let _turn = turn();
    for wait in [WaitMode::Spin, WaitMode::Park] {
        let options = PairOptions { slot_count: 2, wait, lifeline: true, ..<_>::default() };
        let (mut producer, mut consumer) = pair(options).unwrap();
        let sender = std::thread::spawn(move || {
            for number in 0..100u8 {
                producer.send_frozen(&payload(PAGE, number), SOON).unwrap();
                producer.send(&[number], SOON).unwrap();
            }
            producer
        });
        for number in 0..100u8 {
            match consumer.recv_any(SOON).unwrap() {
                Incoming::Frozen(slot) => assert_eq!(slot.as_bytes(), [number; PAGE]),
                Incoming::Message(slot) => panic!("{} bytes", slot.len()),
            }
            assert_eq!(consumer.recv(SOON).unwrap().to_vec(), [number]);
        }
        sender.join().unwrap();
    }
}

#[test]
fn a_full_lifeline_is_told_and_nothing_of_the_payload_is_in_the_lane() {
    let _turn = turn();
    let (mut producer, mut consumer) = lane(16, 8);
    let file = payload(PAGE, 5);
    let lifeline = producer.lifeline().unwrap();
    // Rings that nobody hears: a descriptor has no room any more.
    while lifeline.send(b"x", file.as_fd()).is_ok() {}
    for _ in 0..1000 {
        lifeline.ring();
    }
    let error = producer.send_frozen(&file, NOW).unwrap_err();
    assert!(matches!(error, FrozenSendError::LifelineFull { .. }), "{error:?}");
    assert!(consumer.poll_any().unwrap().is_none());
    while !matches!(consumer.lifeline().unwrap().receive(), Received::Nothing) {}
    producer.send_frozen(&file, NOW).unwrap();
    assert_eq!(frozen(&mut consumer).as_bytes(), [5; PAGE]);
}

#[test]
fn lanes_without_a_lifeline_refuse_and_messages_go_on() {
    let _turn = turn();
    let (mut producer, mut consumer) = pair(PairOptions::default()).unwrap();
    let error = producer.send_frozen(&payload(PAGE, 1), SOON).unwrap_err();
    assert!(matches!(error, FrozenSendError::NoLifeline { .. }), "{error:?}");
    producer.send(b"message", NOW).unwrap();
    assert_eq!(consumer.recv(NOW).unwrap().to_vec(), b"message");
}

#[test]
fn what_a_producer_sent_before_its_end_arrives() {
    let _turn = turn();
    let (mut producer, mut consumer) = lane(16, 8);
    for byte in [1, 2] {
        producer.send_frozen(&payload(PAGE, byte), NOW).unwrap();
    }
    producer.close(NOW).unwrap();
    for byte in [1, 2] {
        assert_eq!(frozen(&mut consumer).as_bytes(), [byte; PAGE]);
    }
    assert!(matches!(consumer.recv_any(NOW), Err(RecvError::Closed { position: 3 })));
}

#[test]
fn a_payload_can_be_passed_on_without_a_copy() {
    let _turn = turn();
    let (mut first, mut middle) = lane(16, 8);
    let (mut second, mut last) = lane(16, 8);
    first.send_frozen(&payload(2 * PAGE, 8), NOW).unwrap();
    match middle.recv_any(NOW).unwrap() {
        Incoming::Frozen(slot) => second.send_frozen(slot.take().file(), NOW).unwrap(),
        Incoming::Message(_) => panic!(),
    }
    drop((first, middle));
    assert_eq!(frozen(&mut last).as_bytes(), [8; 2 * PAGE]);
}

// --- a hostile producer ------------------------------------------------------------------------

/// A lane whose next slot says that a payload of one page is there, after `hostile` wrote what it
/// likes on the lifeline.
fn beguiled(hostile: impl FnOnce(&Lifeline)) -> (Producer, Consumer) {
    let (mut producer, consumer) = lane(16, 8);
    hostile(producer.lifeline().expect("a lifeline"));
    producer.send_frozen(&payload(PAGE, 1), NOW).expect("room");
    producer.send(b"after", NOW).expect("room");
    (producer, consumer)
}

fn plain_file() -> OwnedFd {
    std::fs::File::open("/proc/self/exe").expect("/proc").into()
}

fn fault(consumer: &mut Consumer) -> FrozenFault {
    let found = consumer.recv_any(NOW).map(drop).expect_err("a fault");
    let again = consumer.recv_any(NOW).map(drop).expect_err("a fault for ever");
    match (found, again) {
        (
            RecvError::Corrupt(Corruption::Frozen { position: 0, fault }),
            RecvError::Corrupt(Corruption::Frozen { fault: again, .. }),
        ) if again == fault => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_is_no_frozen_payload_is_the_end_of_the_handle() {
    let _turn = turn();
    let (_producer, mut consumer) = beguiled(|lifeline| announce(lifeline, 0, 4096, plain_file()));
    assert!(matches!(fault(&mut consumer), FrozenFault::NoSeals));
    let (_producer, mut consumer) =
        beguiled(|lifeline| announce(lifeline, 0, 8192, payload(2 * PAGE, 9)));
    assert_eq!(fault(&mut consumer), FrozenFault::Announced { found: 2, expected: 1 });
    let (_producer, mut consumer) =
        beguiled(|lifeline| announce(lifeline, 0, 4096, payload(2 * PAGE, 9)));
    assert_eq!(fault(&mut consumer), FrozenFault::Size { found: 8192, expected: 4096 });
    for len in [0, u64::MAX] {
        let (_producer, mut consumer) =
            beguiled(|lifeline| announce(lifeline, 0, len, payload(PAGE, 9)));
        assert!(matches!(fault(&mut consumer), FrozenFault::Announced { expected: 1, .. }));
    }
}

#[test]
fn parcels_out_of_order_or_unreadable_cost_their_sender_its_own_payload_alone() {
    let _turn = turn();
    let before = descriptors();
    let lost = |consumer: &mut Consumer| {
        let error = consumer.recv_any(NOW).map(drop).unwrap_err();
        let named = matches!(error, RecvError::FrozenLost { position: 0, bytes_max: 4096 });
        assert!(named, "{error:?}");
    };
    // One for a later slot, so that the one for this slot comes too late.
    let (producer, mut consumer) =
        beguiled(|lifeline| announce(lifeline, 7, 4096, payload(PAGE, 9)));
    lost(&mut consumer);
    assert_eq!(consumer.recv(NOW).unwrap().to_vec(), b"after");
    drop((producer, consumer));
    // Of a slot that was never committed, as a producer that died between the two leaves it.
    let (mut producer, mut consumer) = lane(16, 8);
    producer.send(b"first", NOW).unwrap();
    announce(producer.lifeline().unwrap(), 0, 4096, payload(PAGE, 9));
    producer.send_frozen(&payload(PAGE, 1), NOW).unwrap();
    consumer.recv(NOW).unwrap().release();
    assert_eq!(frozen(&mut consumer).as_bytes(), [1; PAGE]);
    drop((producer, consumer));
    // Nonsense in any number takes neither descriptors nor time.
    let (producer, mut consumer) = beguiled(|lifeline| {
        for number in 0..100u64 {
            lifeline.send(b"nonsense", plain_file().as_fd()).unwrap();
            announce(lifeline, 1000 + number, 4096, plain_file());
        }
    });
    let held = descriptors();
    lost(&mut consumer);
    assert!(descriptors() <= held + FROZEN_IN_FLIGHT_MAX);
    assert_eq!(consumer.recv(NOW).unwrap().to_vec(), b"after");
    drop((producer, consumer));
    assert_eq!(descriptors(), before);
}

#[test]
fn a_slot_whose_descriptor_never_comes_is_lost_once_the_producer_hangs_up() {
    let _turn = turn();
    let (producer, mut consumer) = beguiled(|_| ());
    // Somebody else reads the lifeline, and closes what it finds.
    while !matches!(consumer.lifeline().unwrap().receive(), Received::Parcel(..)) {}
    assert!(consumer.poll_any().unwrap().is_none(), "it may still come");
    let late = consumer.recv_any(Duration::from_millis(20)).map(drop).unwrap_err();
    assert!(matches!(late, RecvError::TimedOut { .. }), "{late:?}");
    drop(producer);
    let error = consumer.recv_any(SOON).map(drop).unwrap_err();
    assert!(matches!(error, RecvError::FrozenLost { position: 0, .. }), "{error:?}");
    assert_eq!(consumer.recv(NOW).unwrap().to_vec(), b"after");
}
