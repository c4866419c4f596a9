//! Typed messages of async ends within one process: one by one, in place, many at once, whatever is
//! given up meanwhile.

use futures_util::{SinkExt, StreamExt};
use laneway_shm::asynchronous::{AsyncTypedConsumer, AsyncTypedProducer, async_typed_pair};
use laneway_shm::{PairOptions, RecvError, ReserveError};

mod awaited;

use awaited::{give_up_after, run};

laneway_shm::message! {
    #[derive(PartialEq)]
    struct Tick { price: u64, size: u32, venue: [u8; 4] }
}

fn tick(price: u64) -> Tick {
    Tick { price, size: 7, venue: *b"XETR" }
}

/// A lane of so many slots, each with room for three.
fn lane(slot_count: u32) -> (AsyncTypedProducer<Tick>, AsyncTypedConsumer<Tick>) {
    async_typed_pair(PairOptions { slot_count, ..PairOptions::default() }).expect("lane")
}

#[test]
fn values_arrive_as_they_were_sent_one_by_one_in_place_many_at_once_and_packed() {
    let (mut producer, mut consumer) = lane(4);
    run(async {
        let sender = async {
            for at in 0..300 {
                producer.send(&tick(3 * at)).await.unwrap();
                producer.send_with(|slot| *slot = tick(3 * at + 1)).await.unwrap();
                // Three of them fit into a slot of 56 bytes.
                let packed = [tick(3 * at + 2), tick(0), tick(1), tick(2)];
                assert_eq!(producer.send_packed(&packed).await.unwrap(), 3);
            }
            assert_eq!(producer.send_packed(&[]).await.unwrap(), 0);
            producer.send_packed_with(0, |_| unreachable!()).await.unwrap();
            producer.send_packed_with(3, |values| values.fill(tick(7))).await.unwrap();
            producer.close().await.unwrap();
        };
        let receiver = async {
            for at in 0..300 {
                assert_eq!(consumer.recv().await.unwrap(), tick(3 * at));
                let mut found = Vec::new();
                consumer.recv_many(1, |message| found.push(message)).await.unwrap();
                assert_eq!(
                    consumer.recv_packed(1, |message| found.push(message)).await.unwrap(),
                    3
                );
                assert_eq!(found, [tick(3 * at + 1), tick(3 * at + 2), tick(0), tick(1)]);
            }
            let mut found = Vec::new();
            consumer.recv_packed(1, |message| found.push(message)).await.unwrap();
            assert_eq!(found, [tick(7); 3]);
            assert!(matches!(consumer.recv().await, Err(RecvError::Closed { .. })));
        };
        tokio::join!(sender, receiver);
    });
}

#[test]
fn chunks_wait_for_room_for_all_of_it_and_batches_for_the_first_value() {
    let (mut producer, mut consumer) = lane(4);
    run(async {
        let sender = async {
            for at in 0..1000 {
                let chunk = producer.chunk(3).await.unwrap();
                let fill = |index, slot: &mut Tick| *slot = tick(3 * at + index as u64);
                assert_eq!(chunk.fill(fill).unwrap(), 3);
            }
            assert_eq!(producer.chunk(0).await.unwrap().commit(), 0);
            let too_large = producer.chunk(5).await.map(drop);
            assert!(matches!(too_large, Err(ReserveError::TooLarge { .. })), "{too_large:?}");
            producer.close().await.unwrap();
        };
        let receiver = async {
            assert_eq!(consumer.recv_batch(0).await.unwrap().count(), 0);
            let mut expected = 0;
            loop {
                let batch = match consumer.recv_batch(2).await {
                    Ok(batch) => batch,
                    Err(RecvError::Closed { .. }) => break,
                    Err(error) => panic!("{error}"),
                };
                for found in batch {
                    assert_eq!(found, tick(expected));
                    expected += 1;
                }
            }
            assert_eq!(expected, 3000);
        };
        tokio::join!(sender, receiver);
    });
}

#[test]
fn a_typed_stream_and_sink_carry_every_value_to_the_end() {
    let (mut producer, consumer) = lane(4);
    run(async {
        let sender = async {
            for at in 0..10_000 {
                producer.feed(tick(at)).await.unwrap();
            }
            SinkExt::close(&mut producer).await.unwrap();
        };
        let receiver = async {
            let found: Vec<_> = consumer.map(Result::unwrap).collect().await;
            assert!(found.into_iter().eq((0..10_000).map(tick)));
        };
        tokio::join!(sender, receiver);
    });
}

#[test]
fn typed_futures_dropped_at_any_await_lose_and_repeat_nothing() {
    const MESSAGES: u64 = 10_000;
    let (mut producer, mut consumer) = lane(8);
    run(async {
        let sender = async {
            let mut next = 0;
            for round in 0.. {
                if next == MESSAGES {
                    break;
                }
                let polls = round / 3 % 3;
                let sent = match round % 3 {
                    0 => give_up_after(polls, producer.send(&tick(next))).await.map(drop),
                    1 => {
                        let fill = |slot: &mut Tick| *slot = tick(next);
                        give_up_after(polls, producer.send_with(fill)).await.map(drop)
                    }
                    // Of the room for three, one is written.
                    _ => give_up_after(polls, producer.chunk(3)).await.map(|chunk| {
                        let mut chunk = chunk.unwrap();
                        assert!(chunk.write(|slot| *slot = tick(next)).unwrap());
                        assert_eq!(chunk.commit(), 1);
                    }),
                };
                next += u64::from(sent.is_some());
                if round % 7 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            producer.close().await.unwrap();
        };
        let receiver = async {
            let mut expected = 0;
            let next = |message| {
                assert_eq!(message, tick(expected));
                expected += 1;
            };
            let mut next = next;
            for round in 0..usize::MAX {
                let polls = u32::try_from(round / 3 % 3).unwrap();
                let heard = match round % 3 {
                    0 => give_up_after(polls, consumer.recv()).await.map(|one| one.map(&mut next)),
                    1 => {
                        let many = give_up_after(polls, consumer.recv_many(3, &mut next)).await;
                        many.map(|many| many.map(drop))
                    }
                    // Not every value of the batch is taken, nor is each batch looked at.
                    _ => give_up_after(polls, consumer.recv_batch(3))
                        .await
                        .map(|batch| batch.map(|batch| batch.take(round % 4).for_each(&mut next))),
                };
                match heard {
                    Some(Err(RecvError::Closed { .. })) => break,
                    Some(Err(error)) => panic!("{error}"),
                    Some(Ok(())) | None => {}
                }
            }
            assert_eq!(expected, MESSAGES);
        };
        tokio::join!(sender, receiver);
    });
}

#[test]
fn a_message_of_another_length_is_told_and_stays_for_the_end_for_bytes() {
    let (mut producer, mut consumer) = lane(8);
    run(async {
        producer.get_mut().send(b"another").await.unwrap();
        producer.send(&tick(1)).await.unwrap();
        for _ in 0..2 {
            let refused = consumer.recv().await;
            let named = matches!(refused, Err(RecvError::Length { found: 7, expected: 16 }));
            assert!(named, "{refused:?}");
        }
        let streamed = consumer.next().await;
        assert!(matches!(streamed, Some(Err(RecvError::Length { .. }))), "{streamed:?}");
        assert_eq!(consumer.get_mut().recv().await.unwrap().to_vec(), b"another");
        assert_eq!(consumer.next().await.unwrap().unwrap(), tick(1));
        let too_large = producer.get_mut().send(&[0; 1000]).await;
        assert!(matches!(too_large, Err(ReserveError::TooLarge { .. })), "{too_large:?}");
    });
}
