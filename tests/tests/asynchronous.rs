//! Async ends with a real agent: among themselves, with peers that block, over deaths and restarts.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use laneway_proto::v1::{self, end_status::State};
use laneway_shm::asynchronous::{AsyncConsumer, AsyncProducer};
use laneway_shm::{Attach, AttachError, PeerState, RecvError, ReserveError};
use laneway_tests::agent::{Agent, plain};
use laneway_tests::process::{PATIENCE, Running, laneway};
use laneway_tests::turn;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

#[path = "../../shm/tests/awaited/mod.rs"]
mod awaited;
#[path = "asynchronous/typed.rs"]
mod typed;

use awaited::run;

/// A lane that this user may attach by its name, on 4 KiB pages and without cores.
fn open(name: &str, payload: u32, slots: u32) -> v1::LaneSpec {
    let uids = vec![nix::unistd::geteuid().as_raw()];
    let pinning = v1::Pinning::None.into();
    let end = || Some(v1::EndSpec { pinning, uids: uids.clone(), ..v1::EndSpec::default() });
    v1::LaneSpec { producer: end(), consumer: end(), ..plain(name, payload, slots) }
}

/// The same, with ends that sleep.
fn sleeping(name: &str, payload: u32, slots: u32) -> v1::LaneSpec {
    v1::LaneSpec { wait: v1::WaitMode::Park.into(), ..open(name, payload, slots) }
}

fn attach(agent: &Agent, lane: &str) -> Attach {
    Attach::by_name(agent.attach_socket(), lane).pin(false)
}

fn producer(agent: &Agent, lane: &str) -> AsyncProducer {
    attach(agent, lane).async_producer().unwrap()
}

fn consumer(agent: &Agent, lane: &str) -> AsyncConsumer {
    attach(agent, lane).async_consumer().unwrap()
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn producer_is(agent: &Agent, lane: &str, state: State) {
    agent.wait_for(lane, "producer's state", |lane| {
        lane.producer.as_ref().is_some_and(|end| end.state() == state)
    });
}

/// `laneway attach send` with its standard input: a line is a message.
struct Sender {
    process: Running,
    input: std::process::ChildStdin,
}

impl Sender {
    fn start(agent: &Agent, lane: &str) -> Self {
        let mut command = laneway();
        command.args(["attach", "send", "--lane", lane]);
        command.arg("--attach-socket").arg(agent.attach_socket());
        command.stdin(Stdio::piped());
        let mut process = Running::start(command);
        let input = process.stdin();
        Self { process, input }
    }

    fn send(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("it reads");
    }
}

#[test]
fn a_million_messages_go_between_two_async_ends_of_one_thread() {
    const MESSAGES: u64 = 1_000_000;
    let _turn = turn();
    let agent = Agent::start();
    agent.create(sleeping("stream", 56, 1024)).unwrap();
    let (mut producer, mut consumer) = (producer(&agent, "stream"), consumer(&agent, "stream"));
    run(async {
        let sender = async {
            for number in 0..MESSAGES {
                let mut slot = producer.reserve(8).await.unwrap();
                slot.write(0, &number.to_le_bytes());
                slot.commit();
            }
            producer.close().await.unwrap();
        };
        let receiver = async {
            let mut expected = 0;
            loop {
                let mut batch = match consumer.recv_many(256).await {
                    Ok(batch) => batch,
                    Err(RecvError::Closed { .. }) => break,
                    Err(error) => panic!("{error}"),
                };
                while let Some(message) = batch.next().unwrap() {
                    assert_eq!(message.u64_at(0), Some(expected));
                    expected += 1;
                }
            }
            assert_eq!(expected, MESSAGES);
        };
        tokio::join!(sender, receiver);
    });
}

#[test]
fn an_async_end_and_one_that_blocks_wake_each_other_in_both_directions() {
    const ROUNDS: u64 = 300;
    let _turn = turn();
    let agent = Agent::start();
    agent.create(sleeping("out", 8, 2)).unwrap();
    agent.create(sleeping("back", 8, 2)).unwrap();
    let (mut out, mut back) = (producer(&agent, "out"), consumer(&agent, "back"));
    // The blocking ends did not ask for a lifeline, and know of the others in their own time.
    let mut from = attach(&agent, "out").consumer().unwrap();
    let mut to = attach(&agent, "back").producer().unwrap();
    let blocking = std::thread::spawn(move || {
        for round in 0..ROUNDS {
            let number = from.recv(PATIENCE).unwrap().view().u64_at(0).unwrap();
            // Now and then so late that the other one is asleep for certain.
            if round % 50 == 0 {
                std::thread::sleep(Duration::from_millis(10));
            }
            to.send(&(number * 2).to_le_bytes(), PATIENCE).unwrap();
        }
        for number in 0..ROUNDS {
            to.send(&number.to_le_bytes(), PATIENCE).unwrap();
        }
        to.close(PATIENCE).unwrap();
        from
    });
    run(async {
        for number in 0..ROUNDS {
            if number % 50 == 25 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            out.send(&number.to_le_bytes()).await.unwrap();
            let doubled = back.recv().await.unwrap().view().u64_at(0);
            assert_eq!(doubled, Some(number * 2));
        }
        for expected in 0..ROUNDS {
            assert_eq!(back.recv().await.unwrap().view().u64_at(0), Some(expected));
        }
        assert!(matches!(back.recv().await.map(|_| ()), Err(RecvError::Closed { .. })));
    });
    let _from = blocking.join().unwrap();
}

#[test]
fn hundreds_of_lanes_share_one_thread() {
    const LANES: usize = 200;
    const MESSAGES: u64 = 50;
    let _turn = turn();
    let agent = Agent::start();
    let names: Vec<String> = (0..LANES).map(|index| format!("lane-{index}")).collect();
    for name in &names {
        agent.create(sleeping(name, 8, 4)).unwrap();
    }
    run(async {
        let mut tasks = tokio::task::JoinSet::new();
        for name in &names {
            let (mut producer, consumer) = (producer(&agent, name), consumer(&agent, name));
            tasks.spawn(async move {
                for number in 0..MESSAGES {
                    producer.send(&number.to_le_bytes()).await.unwrap();
                }
                producer.close().await.unwrap();
            });
            tasks.spawn(async move {
                let received: Vec<_> = consumer.collect().await;
                let numbers = received
                    .into_iter()
                    .map(|message| u64::from_le_bytes(message.unwrap().try_into().unwrap()));
                assert!(numbers.eq(0..MESSAGES));
            });
        }
        let before = threads();
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert_eq!(threads(), before, "no lane has a thread");
    });
}

#[test]
fn a_peer_that_is_killed_wakes_whoever_waits_after_its_last_message() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(sleeping("orders", 56, 8)).unwrap();
    let mut consumer = consumer(&agent, "orders");
    let mut sender = Sender::start(&agent, "orders");
    sender.send("last");
    run(async {
        assert_eq!(consumer.recv().await.unwrap().to_vec(), b"last\n");
        assert_eq!(consumer.peer(), PeerState::Live);
        let killed = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            sender.process.kill();
        };
        let (gone, ()) = tokio::join!(async { consumer.recv().await.map(|_| ()) }, killed);
        assert!(matches!(gone, Err(RecvError::PeerGone { position: 1 })), "{gone:?}");
        // And the next generation is read as soon as there is one.
        let mut successor = Sender::start(&agent, "orders");
        successor.send("first");
        assert_eq!(consumer.recv().await.unwrap().to_vec(), b"first\n");
        assert_eq!(consumer.get_ref().generation(), 2);
        successor.process.kill();
    });
}

#[test]
fn a_full_lane_whose_consumer_leaves_wakes_its_producer_and_goes_on_with_the_next_one() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(sleeping("orders", 8, 4)).unwrap();
    let mut producer = producer(&agent, "orders");
    let first = consumer(&agent, "orders");
    run(async {
        for number in 0..4u64 {
            producer.send(&number.to_le_bytes()).await.unwrap();
        }
        let leaves = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(first);
        };
        let fifth = 4u64.to_le_bytes();
        let (gone, ()) = tokio::join!(producer.send(&fifth), leaves);
        assert!(matches!(gone, Err(ReserveError::PeerGone)), "{gone:?}");
        let mut second = loop {
            match attach(&agent, "orders").async_consumer() {
                Ok(second) => break second,
                Err(AttachError::Refused { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        let receiver = async {
            for expected in 0..5 {
                assert_eq!(second.recv().await.unwrap().view().u64_at(0), Some(expected));
            }
        };
        let (sent, ()) = tokio::join!(producer.send(&fifth), receiver);
        sent.unwrap();
    });
}

#[test]
fn whoever_waits_hears_of_the_end_of_the_lane_and_of_the_stream() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(sleeping("a", 8, 4)).unwrap();
    let (producer, mut consumer) = (producer(&agent, "a"), consumer(&agent, "a"));
    let ended = async |consumer: &mut AsyncConsumer| consumer.recv().await.map(|_| ());
    run(async {
        let closes = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            producer.close().await.unwrap();
        };
        let (closed, ()) = tokio::join!(ended(&mut consumer), closes);
        assert!(matches!(closed, Err(RecvError::Closed { position: 0 | 1 })), "{closed:?}");
    });
    producer_is(&agent, "a", State::Gone);
    let mut successor = self::producer(&agent, "a");
    let (heard, was_heard) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || {
        run(async {
            // After a stream that ended, the next one is found by looking.
            loop {
                consumer.get_mut().maintain().unwrap();
                match consumer.recv().await {
                    Ok(message) => break assert_eq!(message.to_vec(), b"again"),
                    Err(RecvError::Closed { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
            heard.send(()).unwrap();
            consumer.recv().await.map(|_| ())
        })
    });
    run(async { successor.send(b"again").await.unwrap() });
    was_heard.recv_timeout(PATIENCE).unwrap();
    // Time to fall asleep in.
    std::thread::sleep(Duration::from_millis(50));
    agent.delete("a").unwrap();
    let revoked = waiting.join().unwrap();
    assert!(matches!(revoked, Err(RecvError::Revoked)), "{revoked:?}");
}

#[test]
fn ends_that_wait_come_back_to_an_agent_that_was_restarted() {
    let _turn = turn();
    let mut agent = Agent::start();
    agent.create(sleeping("orders", 56, 8)).unwrap();
    let mut producer = producer(&agent, "orders");
    let mut consumer = consumer(&agent, "orders");
    let runtime = runtime();
    runtime.block_on(async {
        producer.send(b"before").await.unwrap();
        assert_eq!(consumer.recv().await.unwrap().to_vec(), b"before");
    });
    agent.kill();
    runtime.block_on(async {
        let sender = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            producer.send(b"meanwhile").await.unwrap();
        };
        let (received, ()) =
            tokio::join!(async { consumer.recv().await.map(|m| m.to_vec()) }, sender);
        assert_eq!(received.unwrap(), b"meanwhile");
    });
    agent.start_again();
    // The consumer does nothing but wait, and is known again; the producer is gone by then.
    let waiting = std::thread::spawn(move || {
        runtime.block_on(async {
            let gone = consumer.recv().await.map(|_| ());
            let first = timeout(PATIENCE, consumer.recv()).await.unwrap();
            (gone, first.map(|message| message.to_vec()))
        })
    });
    let is_live =
        |lane: &v1::Lane| lane.consumer.as_ref().is_some_and(|end| end.state() == State::Live);
    agent.wait_for("orders", "the consumer is back", is_live);
    let deadline = Instant::now() + PATIENCE;
    let state = |lane: &v1::Lane| lane.producer.as_ref().map(v1::EndStatus::state);
    while state(&agent.get("orders").unwrap()) != Some(State::Live) {
        producer.get_mut().maintain().unwrap();
        assert!(Instant::now() < deadline, "the producer does not come back");
    }
    drop(producer);
    producer_is(&agent, "orders", State::Gone);
    let mut successor = self::producer(&agent, "orders");
    run(async { successor.send(b"after").await.unwrap() });
    let (gone, first) = waiting.join().unwrap();
    assert!(matches!(gone, Err(RecvError::PeerGone { position: 2 })), "{gone:?}");
    assert_eq!(first.unwrap(), b"after");
}

/// Voluntary and other context switches of the calling thread.
fn switches() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
    counts.map(|line| line.split_whitespace().last().unwrap().parse::<u64>().unwrap()).sum()
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn async_ends_that_wait_cost_no_processor_time() {
    let _turn = turn();
    let agent = Agent::start();
    let names: Vec<String> = (0..20).map(|index| format!("idle-{index}")).collect();
    for name in &names {
        agent.create(sleeping(name, 8, 4)).unwrap();
    }
    runtime().block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for name in &names {
            let (mut producer, mut consumer) = (producer(&agent, name), consumer(&agent, name));
            // A producer that does nothing hears of its consumer late: that one looks by the clock.
            while producer.peer() != PeerState::Live {
                producer.get_mut().maintain().unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            for _ in 0..4 {
                producer.send(b"full").await.unwrap();
            }
            // One half wait for room, the other for a message.
            if tasks.len() % 2 == 0 {
                tasks.spawn(async move {
                    let sent = producer.send(b"waits").await;
                    drop(consumer);
                    sent.unwrap();
                });
            } else {
                for _ in 0..4 {
                    consumer.recv().await.unwrap().release();
                }
                tasks.spawn(async move {
                    let received = consumer.recv().await.map(|_| ());
                    drop(producer);
                    received.unwrap();
                });
            }
        }
        // Looked at several times: whatever else runs here may take the cpu away. An end that polls
        // is never still for a second.
        for _ in 0..20 {
            let before = switches();
            tokio::time::sleep(Duration::from_secs(1)).await;
            let spent = switches() - before;
            println!("{spent} context switches in a second, with 20 idle lanes");
            assert!(tasks.try_join_next().is_none(), "they wait");
            if spent <= 4 {
                return;
            }
        }
        panic!("20 idle lanes are never still for a second");
    });
}

laneway_shm::message! {
    #[derive(PartialEq)]
    struct Order { number: u64, lots: u32, side: u32 }
}

#[test]
fn typed_ends_are_awaited_and_one_of_another_type_is_refused() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(sleeping("orders", 56, 8)).unwrap();
    let mut producer = attach(&agent, "orders").async_typed_producer::<Order>().unwrap();
    let refused = attach(&agent, "orders").async_typed_consumer::<u64>().unwrap_err();
    let named =
        matches!(&refused, AttachError::Refused { reason, .. } if reason == "SCHEMA_MISMATCH");
    assert!(named, "{refused:?}");
    let mut consumer = attach(&agent, "orders").async_typed_consumer::<Order>().unwrap();
    let order = |number| Order { number, lots: 3, side: 1 };
    run(async {
        let sender = async {
            for number in 0..1000 {
                producer.send(&order(number)).await.unwrap();
            }
            producer.close().await.unwrap();
        };
        let receiver = async {
            for number in 0..500 {
                assert_eq!(consumer.recv().await.unwrap(), order(number));
            }
            let rest: Vec<_> = consumer.map(Result::unwrap).collect().await;
            assert!(rest.into_iter().eq((500..1000).map(order)));
        };
        tokio::join!(sender, receiver);
    });
}

#[test]
fn a_lane_whose_ends_spin_is_refused_with_what_to_do() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(open("spins", 8, 4)).unwrap();
    let refused = attach(&agent, "spins").async_producer().unwrap_err();
    assert!(matches!(refused, AttachError::SpinLane), "{refused:?}");
    assert!(refused.to_string().contains("--wait park"), "{refused}");
}

#[test]
fn readers_of_a_broadcast_lane_are_awaited_each_over_its_own_lifeline() {
    let _turn = turn();
    let agent = Agent::start();
    let cast = |name: &str, policy: v1::BroadcastPolicy| {
        let broadcast = v1::BroadcastSpec { policy: policy.into(), ..Default::default() };
        let shape = v1::Shape::Broadcast.into();
        v1::LaneSpec { shape, broadcast: Some(broadcast), ..sleeping(name, 8, 4) }
    };
    agent.create(cast("gated", v1::BroadcastPolicy::Gated)).unwrap();
    agent.create(cast("lossy", v1::BroadcastPolicy::Overwrite)).unwrap();
    run(async {
        let mut readers: Vec<_> = (0..3).map(|_| consumer(&agent, "gated")).collect();
        let mut to_all = producer(&agent, "gated");
        let sender = async {
            for number in 0..1000u64 {
                to_all.send(&number.to_le_bytes()).await.unwrap();
            }
        };
        let all = futures_util::future::join_all(readers.iter_mut().map(async |reader| {
            for expected in 0..1000 {
                assert_eq!(reader.recv().await.unwrap().view().u64_at(0), Some(expected));
            }
        }));
        tokio::join!(sender, all);

        let mut lossy = attach(&agent, "lossy").async_subscriber().unwrap();
        let mut sender = producer(&agent, "lossy");
        for number in 0..50u64 {
            let late = async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                sender.send(&number.to_le_bytes()).await.unwrap();
            };
            let heard = async { lossy.recv().await.map(|message| message.bytes.to_vec()) };
            let (heard, ()) = tokio::join!(heard, late);
            assert_eq!(heard.unwrap(), number.to_le_bytes());
        }
        drop(sender);
        let gone = lossy.recv().await.map(|_| ());
        assert!(matches!(gone, Err(RecvError::PeerGone { .. })), "{gone:?}");
    });
}

#[test]
fn many_are_awaited_together_and_a_stream_tells_its_losses_between_the_messages() {
    let _turn = turn();
    let agent = Agent::start();
    let policy = v1::BroadcastPolicy::Overwrite.into();
    let cast = |name: &str| v1::LaneSpec {
        shape: v1::Shape::Broadcast.into(),
        broadcast: Some(v1::BroadcastSpec { policy, ..v1::BroadcastSpec::default() }),
        ..sleeping(name, 8, 64)
    };
    agent.create(cast("ticks")).unwrap();
    let mut reader = attach(&agent, "ticks").async_subscriber().unwrap();
    let mut sender = producer(&agent, "ticks");
    let messages: Vec<[u8; 8]> = (0..1000u64).map(u64::to_le_bytes).collect();
    run(async {
        let late = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            sender.send_many(&messages[..10]).await.unwrap()
        };
        let mut found = Vec::new();
        let heard = reader.recv_many(4, |message| found.push(message.bytes.to_vec()));
        let (heard, sent) = tokio::join!(heard, late);
        assert_eq!((heard.unwrap(), sent), (4, 10));
        let heard = reader.recv_many(100, |message| found.push(message.bytes.to_vec())).await;
        assert_eq!(
            (heard.unwrap(), found),
            (6, messages[..10].iter().map(|m| m.to_vec()).collect::<Vec<_>>())
        );

        let mut rest = &messages[10..];
        while !rest.is_empty() {
            rest = &rest[sender.send_many(rest).await.unwrap()..];
        }
        sender.close().await.unwrap();
        let (mut next, mut losses) = (10, 0);
        while let Some(item) = reader.next().await {
            match item {
                Ok(message) => {
                    assert_eq!(message, messages[next]);
                    next += 1;
                }
                Err(RecvError::Lost { slots, position }) => {
                    assert_eq!(position, next as u64 + slots);
                    next = usize::try_from(position).unwrap();
                    losses += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!((next, losses), (1000, 1));
    });
}
