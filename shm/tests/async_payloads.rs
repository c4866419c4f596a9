//! Frozen payloads of async ends within one process: in order, whoever waits for whom, whatever is
//! given up meanwhile.

use std::future::poll_fn;
use std::os::fd::AsFd;
use std::pin::pin;
use std::time::Duration;

use laneway_shm::asynchronous::{AsyncConsumer, AsyncProducer, async_pair};
use laneway_shm::lifeline::{Lifeline, Received};
use laneway_shm::{
    FROZEN_IN_FLIGHT_MAX, FrozenBuilder, FrozenFile, FrozenSendError, Incoming, PairOptions,
    RecvError, WaitMode, pair,
};

mod awaited;

use awaited::{give_up_after, run};

const PAGE: usize = 4096;

fn slots(slot_count: u32) -> PairOptions {
    PairOptions { slot_count, ..PairOptions::default() }
}

fn small(slot_count: u32) -> (AsyncProducer, AsyncConsumer) {
    async_pair(slots(slot_count)).expect("lane")
}

/// A payload of one page with a number.
fn payload(number: u64) -> FrozenFile {
    let mut builder = FrozenBuilder::on_pages(PAGE, PAGE as u64).expect("memory");
    builder.bytes_mut()[..8].copy_from_slice(&number.to_le_bytes());
    builder.freeze().expect("nobody else writes it")
}

/// The number in what came, and whether it was frozen.
fn number(incoming: &Incoming<'_>) -> (bool, u64) {
    match incoming {
        Incoming::Message(slot) => (false, slot.view().u64_at(0).expect("a number")),
        Incoming::Frozen(slot) => {
            assert_eq!(slot.len(), PAGE);
            (true, u64::from_le_bytes(slot[..8].try_into().expect("8 bytes")))
        }
    }
}

#[test]
fn payloads_and_messages_arrive_in_order_while_both_ends_wait_for_each_other() {
    // So few slots that the ring is full first, and so many that the payloads in flight are.
    for slot_count in [2, 64] {
        let (mut producer, mut consumer) = small(slot_count);
        run(async {
            let sender = async {
                for at in 0..300u64 {
                    if at % 5 == 4 {
                        producer.send(&at.to_le_bytes()).await.unwrap();
                    } else {
                        producer.send_frozen(&payload(at)).await.unwrap();
                    }
                }
                producer.close().await.unwrap();
            };
            let receiver = async {
                for at in 0..300u64 {
                    assert_eq!(number(&consumer.recv_any().await.unwrap()), (at % 5 != 4, at));
                    if at % 50 == 0 {
                        // The producer has as many in flight as it may, and sleeps.
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
                let end = consumer.recv_any().await.map(drop);
                assert!(matches!(end, Err(RecvError::Closed { .. })), "{end:?}");
            };
            tokio::join!(sender, receiver);
        });
    }
}

#[test]
fn a_sender_of_payloads_sleeps_until_the_oldest_is_released_whatever_else_is() {
    let (mut producer, mut consumer) = small(64);
    run(async {
        for at in 0..FROZEN_IN_FLIGHT_MAX as u64 {
            producer.send_frozen(&payload(at)).await.unwrap();
        }
        let file = payload(99);
        let mut polls = 0;
        let mut sending = pin!(producer.send_frozen(&file));
        let mut sent = pin!(poll_fn(|cx| {
            polls += 1;
            sending.as_mut().poll(cx)
        }));
        let releases = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            consumer.recv_any().await.map(drop).unwrap();
        };
        let (sent, ()) = tokio::join!(sent.as_mut(), releases);
        sent.unwrap();
        assert!(polls <= 10, "it looked {polls} times");
        for at in (1..FROZEN_IN_FLIGHT_MAX as u64).chain([99]) {
            assert_eq!(number(&consumer.recv_any().await.unwrap()), (true, at));
        }
    });
}

#[test]
fn futures_of_payloads_dropped_at_any_await_lose_and_repeat_nothing() {
    const COUNT: u64 = 600;
    let (mut producer, mut consumer) = small(32);
    run(async {
        let sender = async {
            let mut next = 0u64;
            for round in 0.. {
                if next == COUNT {
                    break;
                }
                let file = payload(next);
                if give_up_after(round % 3, producer.send_frozen(&file)).await.is_some() {
                    next += 1;
                }
                if round % 7 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            producer.close().await.unwrap();
        };
        let receiver = async {
            let mut expected = 0;
            for round in 0.. {
                match give_up_after(round % 4, consumer.recv_any()).await {
                    Some(Ok(incoming)) => {
                        assert_eq!(number(&incoming), (true, expected));
                        // Left in the lane, now and then: it is what comes next.
                        match incoming {
                            Incoming::Frozen(slot) if round % 6 == 1 => slot.keep(),
                            _ => expected += 1,
                        }
                    }
                    Some(Err(RecvError::Closed { .. })) => break,
                    Some(Err(error)) => panic!("{error}"),
                    None => tokio::task::yield_now().await,
                }
            }
            assert_eq!(expected, COUNT);
        };
        tokio::join!(sender, receiver);
    });
}

#[test]
fn the_losing_branch_of_a_select_takes_no_payload_with_it() {
    let (mut first_in, mut first) = small(8);
    let (mut second_in, mut second) = small(8);
    run(async {
        let sender = async {
            for at in 0..300u64 {
                let lane = if at % 3 == 0 { &mut first_in } else { &mut second_in };
                lane.send_frozen(&payload(at)).await.unwrap();
            }
        };
        let receiver = async {
            let (mut thirds, mut rest) = (Vec::new(), Vec::new());
            while thirds.len() + rest.len() < 300 {
                tokio::select! {
                    one = first.recv_any() => thirds.push(number(&one.unwrap()).1),
                    one = second.recv_any() => rest.push(number(&one.unwrap()).1),
                };
            }
            assert!(thirds.into_iter().eq((0..300).step_by(3)));
            assert!(rest.into_iter().eq((0..300).filter(|at| at % 3 != 0)));
        };
        tokio::join!(sender, receiver);
    });
}

/// A lane whose next slot says that a payload is there, when somebody else took its descriptor.
fn without_its_descriptor() -> (AsyncProducer, AsyncConsumer) {
    let options = PairOptions { wait: WaitMode::Park, lifeline: true, ..PairOptions::default() };
    let (mut producer, consumer) = pair(options).expect("a lane");
    producer.send_frozen(&payload(1), Duration::ZERO).expect("a lane");
    while !matches!(consumer.lifeline().expect("a lane").receive(), Received::Parcel(..)) {}
    (AsyncProducer::new(producer).expect("a lane"), AsyncConsumer::new(consumer).expect("a lane"))
}

/// What the receiver says after `act`, and how many times it looked.
fn hears(
    consumer: &mut AsyncConsumer,
    act: impl FnOnce(),
) -> (Result<(bool, u64), RecvError>, u32) {
    run(async {
        let mut polls = 0;
        let mut receiving = pin!(consumer.recv_any());
        let receiver = poll_fn(|cx| {
            polls += 1;
            receiving.as_mut().poll(cx)
        });
        let acts = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            act();
        };
        let (heard, ()) = tokio::join!(receiver, acts);
        (heard.map(|incoming| number(&incoming)), polls)
    })
}

fn announce(lifeline: &Lifeline, position: u64) {
    let len = (PAGE as u64).to_le_bytes();
    let text = [&b"FROZEN\0\x01"[..], &position.to_le_bytes(), &len].concat();
    lifeline.send(&text, payload(7).as_fd()).expect("room");
}

#[test]
fn a_descriptor_that_is_late_is_waited_for_and_one_that_will_not_come_is_told() {
    let (producer, mut consumer) = without_its_descriptor();
    let lifeline = producer.get_ref().lifeline().unwrap().clone();
    let (heard, polls) = hears(&mut consumer, || announce(&lifeline, 0));
    assert_eq!(heard.unwrap(), (true, 7));
    assert!(polls <= 10, "it looked {polls} times");

    // A descriptor that found no place in this process looks like nonsense; as does the end.
    let is_lost = |heard: Result<_, RecvError>| {
        let named = matches!(heard, Err(RecvError::FrozenLost { position: 0, bytes_max: 4096 }));
        assert!(named, "{heard:?}");
    };
    let (producer, mut consumer) = without_its_descriptor();
    let lifeline = producer.get_ref().lifeline().unwrap().clone();
    is_lost(hears(&mut consumer, || lifeline.send(b"?", payload(0).as_fd()).unwrap()).0);
    let (producer, mut consumer) = without_its_descriptor();
    is_lost(hears(&mut consumer, || drop(producer)).0);
    // What comes after it is told by then, and nothing is told twice.
    run(async {
        let gone = consumer.recv_any().await.map(drop);
        assert!(matches!(gone, Err(RecvError::PeerGone { position: 1 })), "{gone:?}");
    });
}

#[test]
fn payloads_that_were_skipped_do_not_stand_in_the_way_of_later_ones() {
    let (mut producer, mut consumer) = small(64);
    run(async {
        for at in 0..2 * FROZEN_IN_FLIGHT_MAX as u64 {
            let file = payload(at);
            let sends = async {
                // The consumer waits by now, and hears the descriptor before the slot.
                tokio::time::sleep(Duration::from_millis(2)).await;
                producer.send_frozen(&file).await.unwrap();
            };
            let told = async { consumer.recv().await.map(drop) };
            let (told, ()) = tokio::join!(told, sends);
            assert!(matches!(told, Err(RecvError::Frozen { .. })), "{told:?}");
            assert!(consumer.get_mut().skip_frozen().unwrap());
        }
        producer.send_frozen(&payload(7)).await.unwrap();
        assert_eq!(number(&consumer.recv_any().await.unwrap()), (true, 7));
    });
}

#[test]
fn a_full_lifeline_is_waited_for_by_the_clock() {
    let (mut producer, mut consumer) = small(8);
    let (mine, theirs) = [producer.get_ref().lifeline(), consumer.get_ref().lifeline()]
        .map(|lifeline| lifeline.unwrap().clone())
        .into();
    for _ in 0..100_000 {
        mine.ring();
    }
    run(async {
        let file = payload(5);
        let reads = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            while !matches!(theirs.receive(), Received::Nothing) {}
        };
        let (sent, ()) = tokio::join!(producer.send_frozen(&file), reads);
        sent.unwrap();
        assert_eq!(number(&consumer.recv_any().await.unwrap()), (true, 5));
    });
}

#[test]
fn lanes_that_cannot_carry_payloads_refuse_at_once() {
    let options = PairOptions { wait: WaitMode::Park, ..PairOptions::default() };
    let (producer, _consumer) = pair(options).unwrap();
    let mut producer = AsyncProducer::new(producer).unwrap();
    let refused = run(producer.send_frozen(&payload(0)));
    assert!(matches!(refused, Err(FrozenSendError::NoLifeline { .. })), "{refused:?}");
}
