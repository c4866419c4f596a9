//! Values of one type, awaited by readers that may be overrun.

use std::time::Duration;

use futures_util::StreamExt;
use laneway_proto::v1::{self, BroadcastPolicy};
use laneway_shm::asynchronous::{AsyncTypedProducer, AsyncTypedSubscriber};
use laneway_shm::{AttachError, RecvError};
use laneway_tests::agent::Agent;
use laneway_tests::turn;

use super::awaited::{give_up_after, run};
use super::{Order, attach, sleeping};

fn order(number: u64) -> Order {
    Order { number, lots: 3, side: 1 }
}

fn orders(numbers: std::ops::Range<u64>) -> Vec<Order> {
    numbers.map(order).collect()
}

fn lane(agent: &Agent, slots: u32) -> (AsyncTypedProducer<Order>, AsyncTypedSubscriber<Order>) {
    let policy = BroadcastPolicy::Overwrite.into();
    let spec = v1::LaneSpec {
        shape: v1::Shape::Broadcast.into(),
        broadcast: Some(v1::BroadcastSpec { policy, ..v1::BroadcastSpec::default() }),
        ..sleeping("orders", 40, slots)
    };
    agent.create(spec).unwrap();
    let reader = attach(agent, "orders").async_typed_subscriber().unwrap();
    (attach(agent, "orders").async_typed_producer().unwrap(), reader)
}

#[test]
fn values_are_awaited_one_by_one_together_and_packed_and_another_type_is_refused() {
    let _turn = turn();
    let agent = Agent::start();
    let (mut producer, mut reader) = lane(&agent, 64);
    let refused = attach(&agent, "orders").async_typed_subscriber::<u64>().map(drop);
    let named =
        matches!(&refused, Err(AttachError::Refused { reason, .. }) if reason == "SCHEMA_MISMATCH");
    assert!(named, "{refused:?}");
    run(async {
        for number in 0..20 {
            let late = async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                producer.send(&order(number)).await.unwrap();
            };
            let (heard, ()) = tokio::join!(reader.recv(), late);
            assert_eq!(heard.unwrap(), order(number));
        }
        for number in 20..26 {
            producer.send(&order(number)).await.unwrap();
        }
        let mut found = Vec::new();
        assert_eq!(reader.recv_many(0, |_| unreachable!()).await.unwrap(), 0);
        assert_eq!(reader.recv_many(4, |order| found.push(order)).await.unwrap(), 4);
        assert_eq!(reader.recv_batch(0).await.unwrap().count(), 0);
        found.extend(reader.recv_batch(1).await.unwrap());
        found.extend(reader.recv_batch(4).await.unwrap());
        assert_eq!(found, orders(20..26));
        producer.chunk(2).await.unwrap().fill(|at, slot| *slot = order(26 + at as u64)).unwrap();
        let _unasked = reader.recv_batch(4).await.unwrap();
        assert_eq!(reader.recv_batch(4).await.unwrap().collect::<Vec<_>>(), orders(26..28));
        found.clear();
        assert_eq!(producer.send_packed(&orders(28..32)).await.unwrap(), 2);
        let two = reader.recv().await;
        assert!(matches!(two, Err(RecvError::Length { found: 32, expected: 16 })), "{two:?}");
        let two = reader.recv_batch(4).await.map(drop);
        assert!(matches!(two, Err(RecvError::Length { found: 32, expected: 16 })), "{two:?}");
        assert_eq!(reader.recv_packed(1, |order| found.push(order)).await.unwrap(), 2);
        assert_eq!(found, orders(28..30));
    });
}

#[test]
fn a_message_that_was_awaited_and_kept_is_the_next_calls() {
    let _turn = turn();
    let agent = Agent::start();
    let (mut producer, mut reader) = lane(&agent, 64);
    run(async {
        for number in 0..2 {
            producer.send(&order(number)).await.unwrap();
        }
        let bytes = reader.get_mut();
        let first = bytes.recv().await.unwrap().bytes.to_vec();
        bytes.get_mut().keep();
        let again = bytes.recv().await.unwrap();
        assert_eq!((again.position, again.bytes), (0, &first[..]));
        bytes.get_mut().keep();
        for number in 0..2 {
            assert_eq!(reader.recv().await.unwrap(), order(number));
        }
    });
}

#[test]
fn a_stream_of_values_tells_losses_and_strangers_between_them_and_ends_with_the_lane() {
    let _turn = turn();
    let agent = Agent::start();
    let (mut producer, mut reader) = lane(&agent, 64);
    run(async {
        // It is let in before anything is sent.
        producer.send(&order(0)).await.unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap(), order(0));
        producer.get_mut().send(b"stranger").await.unwrap();
        for _ in 0..2 {
            let refused = reader.next().await;
            let named = matches!(refused, Some(Err(RecvError::Length { found: 8, .. })));
            assert!(named, "{refused:?}");
        }
        assert_eq!(reader.get_mut().recv().await.unwrap().bytes, b"stranger");
        for number in 2..1000 {
            producer.send(&order(number)).await.unwrap();
        }
        producer.close().await.unwrap();
        let (mut next, mut losses) = (2, 0);
        while let Some(item) = reader.next().await {
            match item {
                Ok(found) => {
                    assert_eq!(found, order(next), "a loss was not counted");
                    next += 1;
                }
                Err(RecvError::Lost { slots, position }) => {
                    assert_eq!(position, next + slots);
                    (next, losses) = (position, losses + 1);
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!((next, losses), (1000, 1));
    });
}

#[test]
fn futures_of_a_reader_of_values_dropped_at_any_await_lose_and_repeat_nothing() {
    const COUNT: u64 = 5_000;
    let _turn = turn();
    let agent = Agent::start();
    // So deep that nothing is lost but by a mistake.
    let (mut producer, mut reader) = lane(&agent, 8192);
    run(async {
        let sender = async {
            for number in 0..COUNT {
                producer.send(&order(number)).await.unwrap();
                if number % 5 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            producer.close().await.unwrap();
        };
        let receiver = async {
            let mut found = Vec::new();
            let mut given_up = 0;
            for round in 0.. {
                let polls = round / 4 % 3;
                let read = |order| found.push(order);
                let heard = match round % 4 {
                    0 => give_up_after(polls, reader.recv()).await.map(|one| one.map(read)),
                    1 => give_up_after(polls, reader.recv_batch(3))
                        .await
                        .map(|batch| batch.map(|batch| batch.take(polls as usize).for_each(read))),
                    2 => give_up_after(polls, reader.recv_many(3, read)).await.map(|n| n.map(drop)),
                    _ => {
                        give_up_after(polls, reader.recv_packed(3, read)).await.map(|n| n.map(drop))
                    }
                };
                match heard {
                    Some(Ok(())) => {}
                    Some(Err(RecvError::Closed { .. })) => break,
                    Some(Err(error)) => panic!("{error}"),
                    None => given_up += 1,
                }
            }
            assert!(given_up > 100, "nothing was given up");
            assert_eq!(found, orders(0..COUNT));
        };
        tokio::join!(sender, receiver);
    });
}
