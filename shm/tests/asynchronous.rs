//! Async ends within one process: waiting, giving up a wait, hostile lifelines.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use laneway_shm::asynchronous::{AsyncConsumer, AsyncProducer, async_pair};
use laneway_shm::{AttachError, PairOptions, PeerState, RecvError, ReserveError, WaitMode, pair};

mod awaited;

use awaited::{PATIENCE, give_up_after, run};

fn small(slot_count: u32) -> (AsyncProducer, AsyncConsumer) {
    async_pair(PairOptions { slot_count, ..PairOptions::default() }).expect("lane")
}

/// The number in a message.
async fn number(consumer: &mut AsyncConsumer) -> u64 {
    let message = consumer.recv().await.expect("a message");
    message.view().u64_at(0).expect("a number")
}

#[test]
fn two_ends_wait_for_each_other_over_many_laps() {
    let (mut producer, mut consumer) = small(4);
    run(async {
        let sender = async {
            for number in 0..50_000u64 {
                producer.send(&number.to_le_bytes()).await.unwrap();
            }
            producer.close().await.unwrap();
        };
        let receiver = async {
            for expected in 0..50_000 {
                assert_eq!(number(&mut consumer).await, expected);
            }
            assert!(matches!(
                consumer.recv().await,
                Err(RecvError::Closed { position: 50_001 | 50_000 })
            ));
        };
        tokio::join!(sender, receiver);
    });
}

#[test]
fn futures_dropped_at_any_await_lose_and_repeat_nothing() {
    const MESSAGES: u64 = 20_000;
    let (mut producer, mut consumer) = small(8);
    run(async {
        let sender = async {
            let mut next = 0u64;
            for round in 0.. {
                if next == MESSAGES {
                    break;
                }
                let bytes = next.to_le_bytes();
                let polls = round % 4;
                let (mut slot, mut sent) = (None, false);
                match round % 3 {
                    0 => sent = give_up_after(polls, producer.send(&bytes)).await.is_some(),
                    1 => slot = give_up_after(polls, producer.reserve(8)).await,
                    _ if give_up_after(polls, producer.room(8)).await.is_some() => {
                        // It stays until this end uses it.
                        slot = Some(producer.get_mut().try_reserve(8));
                    }
                    _ => {}
                }
                if let Some(slot) = slot {
                    let mut slot = slot.unwrap();
                    slot.write(0, &bytes);
                    // A reservation that is dropped as well, now and then.
                    if round % 5 != 0 {
                        slot.commit();
                        sent = true;
                    }
                }
                next += u64::from(sent);
                if round % 7 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            producer.close().await.unwrap();
        };
        let receiver = async {
            let mut expected = 0;
            for round in 0.. {
                let polls = (round / 2) % 4;
                if round % 2 == 0 {
                    match give_up_after(polls, consumer.recv()).await {
                        Some(Ok(message)) => {
                            assert_eq!(message.view().u64_at(0), Some(expected));
                            // Left in the lane, now and then: it is what comes next.
                            if round % 6 == 0 { message.keep() } else { expected += 1 }
                        }
                        Some(Err(RecvError::Closed { .. })) => break,
                        Some(Err(error)) => panic!("{error}"),
                        None => {}
                    }
                } else if let Some(batch) = give_up_after(polls, consumer.recv_many(3)).await {
                    let Ok(mut batch) = batch else { break };
                    while let Some(message) = batch.next().unwrap() {
                        assert_eq!(message.u64_at(0), Some(expected));
                        expected += 1;
                    }
                }
            }
            assert_eq!(expected, MESSAGES);
        };
        tokio::join!(sender, receiver);
    });
}

#[test]
fn the_losing_branch_of_a_select_takes_no_message_with_it() {
    let (mut first_in, mut first) = small(8);
    let (mut second_in, mut second) = small(8);
    run(async {
        let sender = async {
            for number in 0..5_000u64 {
                let lane = if number % 3 == 0 { &mut first_in } else { &mut second_in };
                lane.send(&number.to_le_bytes()).await.unwrap();
            }
        };
        let receiver = async {
            let mut heard = Vec::new();
            while heard.len() < 5_000 {
                let message = tokio::select! {
                    message = first.recv() => message,
                    message = second.recv() => message,
                };
                heard.push(message.unwrap().view().u64_at(0).unwrap());
            }
            let (thirds, rest): (Vec<u64>, Vec<u64>) =
                heard.into_iter().partition(|number| number % 3 == 0);
            assert!(thirds.is_sorted() && rest.is_sorted());
            assert_eq!((thirds.len(), rest.len()), (1667, 3333));
        };
        tokio::join!(sender, receiver);
    });
}

#[test]
fn a_stream_and_a_sink_carry_everything_to_the_end() {
    let (mut producer, consumer) = small(4);
    run(async {
        let sender = async {
            for number in 0..10_000u64 {
                producer.feed(number.to_le_bytes()).await.unwrap();
                // What the sink holds back goes out before what is sent beside it.
                if number % 1000 == 999 {
                    producer.send(&u64::MAX.to_le_bytes()).await.unwrap();
                }
            }
            SinkExt::<[u8; 8]>::close(&mut producer).await.unwrap();
        };
        let receiver = async {
            let messages: Vec<_> = consumer.collect().await;
            let numbers = messages
                .into_iter()
                .map(|message| u64::from_le_bytes(message.unwrap().try_into().unwrap()));
            let expected = (0..10_000u64).flat_map(|number| {
                let extra = (number % 1000 == 999).then_some(u64::MAX);
                std::iter::once(number).chain(extra)
            });
            assert!(numbers.eq(expected));
        };
        tokio::join!(sender, receiver);
    });
}

#[test]
fn a_peer_that_is_gone_is_told_once_after_its_last_message() {
    let (mut producer, mut consumer) = small(8);
    run(async {
        producer.send(&7u64.to_le_bytes()).await.unwrap();
        let receiver = async {
            assert_eq!(number(&mut consumer).await, 7);
            let gone = consumer.recv().await.map(|_| ());
            assert!(matches!(gone, Err(RecvError::PeerGone { position: 1 })), "{gone:?}");
            assert_eq!(consumer.peer(), PeerState::Gone);
            // From now on it waits for a successor.
            assert!(give_up_after(1, consumer.recv()).await.is_none());
        };
        let leaves = async {
            tokio::task::yield_now().await;
            drop(producer);
        };
        tokio::join!(receiver, leaves);
    });
    let (mut producer, consumer) = small(2);
    run(async {
        for _ in 0..2 {
            producer.send(b"fills").await.unwrap();
        }
        let sender = async {
            let gone = producer.send(b"no room").await;
            assert!(matches!(gone, Err(ReserveError::PeerGone)), "{gone:?}");
            assert!(give_up_after(1, producer.send(b"no room")).await.is_none());
        };
        let leaves = async {
            tokio::task::yield_now().await;
            drop(consumer);
        };
        tokio::join!(sender, leaves);
    });
}

#[test]
fn a_peer_that_floods_the_lifeline_is_looked_at_by_the_clock() {
    let (mut producer, mut consumer) = small(8);
    let flood = producer.get_ref().lifeline().unwrap().clone();
    run(async {
        // Some at a time while it waits, and once as many as the socket holds.
        for rings in [0, 1, 100, 100_000] {
            for _ in 0..rings {
                flood.ring();
            }
            assert!(give_up_after(2, consumer.recv()).await.is_none());
        }
        for number in 0..20u64 {
            producer.send(&number.to_le_bytes()).await.unwrap();
            assert_eq!(consumer.recv().await.unwrap().view().u64_at(0), Some(number));
            let sender = async {
                tokio::time::sleep(Duration::from_millis(2)).await;
                producer.send(b"while it waits").await.unwrap();
            };
            let (received, ()) = tokio::join!(async { consumer.recv().await.map(drop) }, sender);
            received.unwrap();
        }
    });
}

#[test]
fn an_async_end_and_a_blocking_one_wake_each_other() {
    let options = PairOptions { slot_count: 2, ..PairOptions::default() };
    let (producer, mut consumer) = async_pair(options).unwrap();
    let mut blocking = producer.into_inner();
    let sender = std::thread::spawn(move || {
        for number in 0..20_000u64 {
            blocking.send(&number.to_le_bytes(), PATIENCE).unwrap();
        }
    });
    run(async {
        for expected in 0..20_000 {
            assert_eq!(number(&mut consumer).await, expected);
        }
    });
    sender.join().unwrap();
    let (mut producer, consumer) = async_pair(options).unwrap();
    let mut blocking = consumer.into_inner();
    let receiver = std::thread::spawn(move || {
        for expected in 0..20_000 {
            assert_eq!(blocking.recv(PATIENCE).unwrap().view().u64_at(0), Some(expected));
        }
    });
    run(async {
        for number in 0..20_000u64 {
            producer.send(&number.to_le_bytes()).await.unwrap();
        }
    });
    receiver.join().unwrap();
}

#[test]
fn a_stream_that_never_waits_lets_other_tasks_run() {
    let (mut producer, mut consumer) = small(1024);
    run(async {
        for number in 0..1000u64 {
            producer.send(&number.to_le_bytes()).await.unwrap();
        }
        let mut turns = 0;
        let receiver = async {
            for expected in 0..1000 {
                assert_eq!(number(&mut consumer).await, expected);
            }
        };
        let mut receiver = pin!(receiver);
        poll_fn(|cx| {
            turns += 1;
            receiver.as_mut().poll(cx)
        })
        .await;
        assert!(turns > 5, "1000 messages in {turns} turns");
    });
}

#[test]
fn messages_sent_together_wait_for_room_and_a_dropped_future_leaves_none_of_them() {
    const MESSAGES: usize = 10_000;
    let (mut producer, mut consumer) = small(4);
    let messages: Vec<[u8; 8]> = (0..MESSAGES as u64).map(u64::to_le_bytes).collect();
    run(async {
        let sender = async {
            let (mut sent, mut attempt) = (0, 0);
            while sent < MESSAGES {
                let end = MESSAGES.min(sent + 7);
                attempt += 1;
                // Often given up in the middle of the wait.
                let polls = 1 + attempt % 3;
                let many = producer.send_many(&messages[sent..end]);
                if let Some(now) = give_up_after(polls, many).await {
                    let now = now.unwrap();
                    assert!((1..=4).contains(&now));
                    sent += now;
                }
                tokio::task::yield_now().await;
            }
            assert_eq!(producer.send_many::<&[u8]>(&[]).await.unwrap(), 0);
            producer.close().await.unwrap();
        };
        let receiver = async {
            for expected in 0..MESSAGES as u64 {
                assert_eq!(number(&mut consumer).await, expected);
            }
            let closed = consumer.recv().await.map(drop);
            assert!(matches!(closed, Err(RecvError::Closed { .. })), "{closed:?}");
        };
        tokio::join!(sender, receiver);
    });
}

#[test]
fn a_lane_whose_ends_spin_is_refused() {
    let (producer, consumer) = pair(PairOptions::default()).unwrap();
    assert_eq!(producer.grant().park, WaitMode::default() == WaitMode::Park);
    assert!(matches!(AsyncProducer::new(producer), Err(AttachError::SpinLane)));
    assert!(matches!(AsyncConsumer::new(consumer), Err(AttachError::SpinLane)));
}

#[test]
fn ends_without_a_lifeline_are_served_by_the_clock() {
    let options = PairOptions { wait: WaitMode::Park, slot_count: 2, ..PairOptions::default() };
    let (producer, consumer) = pair(options).unwrap();
    let mut producer = AsyncProducer::new(producer).unwrap();
    let mut consumer = AsyncConsumer::new(consumer).unwrap();
    run(async {
        let sender = async {
            for number in 0..20u64 {
                producer.send(&number.to_le_bytes()).await.unwrap();
            }
        };
        let receiver = async {
            for expected in 0..20 {
                assert_eq!(number(&mut consumer).await, expected);
            }
        };
        tokio::join!(sender, receiver);
    });
}

#[test]
fn errors_of_the_lane_end_the_wait() {
    let (mut producer, _consumer) = small(2);
    run(async {
        let refused = producer.send(&[0; 1000]).await;
        assert!(matches!(refused, Err(ReserveError::TooLarge { asked_bytes: 1000, .. })));
    });
}
