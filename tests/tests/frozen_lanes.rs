//! Frozen payloads on lanes of a real agent: who may come first, and who may die when.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use laneway_proto::v1::{self, Role, end_status::State};
use laneway_shm::asynchronous::AsyncConsumer;
use laneway_shm::{
    Attach, Consumer, FROZEN_IN_FLIGHT_MAX, FrozenBuilder, FrozenFile, FrozenSegment,
    FrozenSendError, Incoming, Producer, RecvError, ReserveError,
};
use laneway_tests::agent::{Agent, plain};
use laneway_tests::documents::{header, make_lanes};
use laneway_tests::process::{Finished, Running};
use laneway_tests::turn;

const FRAMES: &str = env!("CARGO_BIN_EXE_example-frozen-frames");
const NOW: Duration = Duration::ZERO;
const SOON: Duration = Duration::from_secs(30);
const PAGE: usize = 4096;
/// Frames of a film that outlasts its test on every machine.
const ENDLESS: &str = "1000000000";

fn attach(agent: &Agent, lane: &str, role: Role) -> Attach {
    let ticket = agent.ticket(lane, role);
    Attach::with_ticket(agent.attach_socket(), &ticket).unwrap().pin(false)
}

/// The agent frees an end when it has seen its process go.
fn patiently<T, E: std::fmt::Display>(mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        match attempt() {
            Ok(made) => return made,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn producer(agent: &Agent, lane: &str) -> Producer {
    patiently(|| attach(agent, lane, Role::Producer).lifeline(true).producer())
}

fn consumer(agent: &Agent, lane: &str) -> Consumer {
    patiently(|| attach(agent, lane, Role::Consumer).consumer())
}

fn payload(byte: u8) -> FrozenFile {
    let mut builder = FrozenBuilder::on_pages(2 * PAGE, PAGE as u64).unwrap();
    builder.bytes_mut().fill(byte);
    builder.freeze().unwrap()
}

/// The next message, a frozen payload, while the producer looks after its lane.
fn frozen(producer: &mut Producer, consumer: &mut Consumer) -> FrozenSegment {
    patiently(|| {
        producer.maintain().unwrap();
        match consumer.recv_any(Duration::from_millis(5)) {
            Ok(Incoming::Frozen(slot)) => Ok(slot.take()),
            Ok(Incoming::Message(slot)) => panic!("a message of {} bytes", slot.len()),
            Err(RecvError::TimedOut { .. }) => Err("no payload"),
            Err(error) => panic!("{error}"),
        }
    })
}

fn state(end: &Option<v1::EndStatus>) -> State {
    end.as_ref().map_or(State::Unspecified, v1::EndStatus::state)
}

fn producer_is_gone(lane: &v1::Lane) -> bool {
    state(&lane.producer) == State::Gone
}

fn consumer_is_gone(lane: &v1::Lane) -> bool {
    state(&lane.consumer) == State::Gone
}

#[test]
fn what_was_sent_before_there_was_a_consumer_goes_out_when_there_is_one() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(plain("a", 8, 64)).unwrap();
    let mut producer = producer(&agent, "a");
    for byte in 1..4 {
        producer.send_frozen(&payload(byte), NOW).unwrap();
    }
    let mut consumer = consumer(&agent, "a");
    for byte in 1..4 {
        assert_eq!(frozen(&mut producer, &mut consumer).as_bytes(), [byte; 2 * PAGE]);
    }
}

#[test]
fn what_was_sent_before_a_consumer_was_heard_of_goes_out_before_its_producer_is_gone() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(plain("a", 64, 8)).unwrap();
    let mut producer = producer(&agent, "a");
    producer.send_frozen(&payload(7), NOW).unwrap();
    std::thread::scope(|scope| {
        // It closes at once, and its consumer comes while it does.
        let closing = scope.spawn(|| producer.close(SOON));
        let mut consumer = consumer(&agent, "a");
        let Incoming::Frozen(slot) = consumer.recv_any(SOON).unwrap() else { panic!("a message") };
        assert!(slot.iter().all(|&byte| byte == 7));
        slot.release();
        closing.join().unwrap().unwrap();
    });
}

#[test]
fn what_a_consumer_did_not_release_its_successor_is_sent_again() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(plain("a", 8, 64)).unwrap();
    let mut producer = producer(&agent, "a");
    let mut first = consumer(&agent, "a");
    for byte in 1..6 {
        producer.send_frozen(&payload(byte), SOON).unwrap();
    }
    assert_eq!(frozen(&mut producer, &mut first).as_bytes(), [1; 2 * PAGE]);
    // Received, mapped, and kept: not released.
    match first.recv_any(SOON).unwrap() {
        Incoming::Frozen(slot) => slot.keep(),
        Incoming::Message(_) => panic!(),
    }
    drop(first);
    agent.wait_for("a", "the consumer is gone", consumer_is_gone);
    let mut successor = consumer(&agent, "a");
    for byte in 2..6 {
        assert_eq!(frozen(&mut producer, &mut successor).as_bytes(), [byte; 2 * PAGE]);
    }
    assert_eq!(producer.frozen_in_flight(), 0);
}

#[test]
fn what_died_with_its_producer_is_told_by_its_position_and_the_lane_goes_on() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(plain("a", 8, 64)).unwrap();
    let mut first = producer(&agent, "a");
    first.send(b"one", NOW).unwrap();
    first.send_frozen(&payload(1), NOW).unwrap();
    first.send(b"two", NOW).unwrap();
    drop(first);
    agent.wait_for("a", "the producer is gone", producer_is_gone);
    let mut successor = producer(&agent, "a");
    successor.send_frozen(&payload(2), NOW).unwrap();
    let mut consumer = consumer(&agent, "a");
    assert_eq!(consumer.recv(SOON).unwrap().to_vec(), b"one");
    let error = consumer.recv_any(SOON).map(drop).unwrap_err();
    let named = matches!(error, RecvError::FrozenLost { position: 1, bytes_max: 8192 });
    assert!(named, "{error:?}");
    assert_eq!(consumer.recv(SOON).unwrap().to_vec(), b"two");
    assert_eq!(frozen(&mut successor, &mut consumer).as_bytes(), [2; 2 * PAGE]);
}

#[test]
fn payloads_flow_while_the_agent_is_dead_and_after_it_came_back() {
    let _turn = turn();
    let mut agent = Agent::start();
    agent.create(plain("a", 8, 64)).unwrap();
    let (mut producer, mut consumer) = (producer(&agent, "a"), consumer(&agent, "a"));
    producer.send_frozen(&payload(1), SOON).unwrap();
    assert_eq!(frozen(&mut producer, &mut consumer).as_bytes(), [1; 2 * PAGE]);
    agent.kill();
    producer.send_frozen(&payload(2), SOON).unwrap();
    assert_eq!(frozen(&mut producer, &mut consumer).as_bytes(), [2; 2 * PAGE]);
    producer.send_frozen(&payload(3), SOON).unwrap();
    agent.start_again();
    patiently(|| {
        producer.maintain().unwrap();
        let lane = agent.get("a").unwrap();
        let live = state(&lane.producer) == State::Live;
        // The consumer looks for the agent when it waits.
        consumer.maintain().unwrap();
        (live && state(&lane.consumer) == State::Live).then_some(()).ok_or("not back")
    });
    producer.send_frozen(&payload(4), SOON).unwrap();
    for byte in [3, 4] {
        assert_eq!(frozen(&mut producer, &mut consumer).as_bytes(), [byte; 2 * PAGE]);
    }
}

#[test]
fn ends_that_cannot_are_refused_and_nothing_is_in_the_lane() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(plain("a", 8, 64)).unwrap();
    let mut plain_end = attach(&agent, "a", Role::Producer).producer().unwrap();
    let error = plain_end.send_frozen(&payload(1), NOW).unwrap_err();
    assert!(matches!(error, FrozenSendError::NoLifeline { .. }), "{error:?}");
    plain_end.send(b"message", NOW).unwrap();
    assert_eq!(consumer(&agent, "a").recv(SOON).unwrap().to_vec(), b"message");
    let broadcast = v1::BroadcastSpec {
        policy: v1::BroadcastPolicy::Gated.into(),
        readers_max: 2,
        ..v1::BroadcastSpec::default()
    };
    let shape = v1::Shape::Broadcast.into();
    let spec = v1::LaneSpec { shape, broadcast: Some(broadcast), ..plain("many", 8, 64) };
    agent.create(spec).unwrap();
    let error = producer(&agent, "many").send_frozen(&payload(1), NOW).unwrap_err();
    assert!(matches!(error, FrozenSendError::Broadcast), "{error:?}");
}

#[test]
fn an_awaiting_consumer_keeps_the_payloads_that_come_with_its_rings() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(v1::LaneSpec { wait: v1::WaitMode::Park.into(), ..plain("a", 8, 64) }).unwrap();
    let mut producer = producer(&agent, "a");
    let consumer = attach(&agent, "a", Role::Consumer).lifeline(true).consumer().unwrap();
    let mut consumer = AsyncConsumer::new(consumer).unwrap();
    let sender = std::thread::spawn(move || {
        for byte in 1..20 {
            // Long enough for the other end to fall asleep.
            std::thread::sleep(Duration::from_millis(10));
            producer.send_frozen(&payload(byte), SOON).unwrap();
            producer.send(&[byte], SOON).unwrap();
        }
        producer
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        for byte in 1..20 {
            let error = consumer.recv().await.map(drop).unwrap_err();
            assert!(matches!(error, RecvError::Frozen { .. }), "{error}");
            let segment = patiently(|| match consumer.get_mut().poll_any() {
                Ok(Some(Incoming::Frozen(slot))) => Ok(slot.take()),
                Ok(None) => Err("not sent yet"),
                other => panic!("{other:?}"),
            });
            assert_eq!(segment.as_bytes(), [byte; 2 * PAGE]);
            assert_eq!(consumer.recv().await.unwrap().to_vec(), [byte]);
        }
    });
    sender.join().unwrap();
}

#[test]
fn awaited_ends_carry_payloads_to_whoever_follows_a_dead_consumer() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(v1::LaneSpec { wait: v1::WaitMode::Park.into(), ..plain("a", 8, 64) }).unwrap();
    let successor = || patiently(|| attach(&agent, "a", Role::Consumer).async_consumer());
    let mut producer = attach(&agent, "a", Role::Producer).async_producer().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    // Before there is a consumer; it goes out with the next one.
    runtime.block_on(producer.send_frozen(&payload(1))).unwrap();
    let mut first = successor();
    runtime.block_on(async {
        producer.send_frozen(&payload(2)).await.unwrap();
        assert_eq!(awaited(&mut first).await.as_bytes(), [1; 2 * PAGE]);
        match first.recv_any().await.unwrap() {
            Incoming::Frozen(slot) => slot.keep(),
            Incoming::Message(_) => panic!(),
        }
    });
    drop(first);
    agent.wait_for("a", "the consumer is gone", consumer_is_gone);
    let end = u8::try_from(2 + FROZEN_IN_FLIGHT_MAX).unwrap();
    runtime.block_on(async {
        for byte in 3..end {
            producer.send_frozen(&payload(byte)).await.unwrap();
        }
        // As many are in flight as may be, and nobody is there to take them: told once.
        let gone = producer.send_frozen(&payload(end)).await;
        let named = matches!(gone, Err(FrozenSendError::Reserve(ReserveError::PeerGone)));
        assert!(named, "{gone:?}");
    });
    let mut second = successor();
    runtime.block_on(async {
        let sender = async {
            for byte in end..60 {
                producer.send_frozen(&payload(byte)).await.unwrap();
            }
        };
        let receiver = async {
            for byte in 2..60 {
                assert_eq!(awaited(&mut second).await.as_bytes(), [byte; 2 * PAGE]);
            }
        };
        tokio::join!(sender, receiver);
    });
}

/// The next message, a frozen payload.
async fn awaited(consumer: &mut AsyncConsumer) -> FrozenSegment {
    match consumer.recv_any().await.unwrap() {
        Incoming::Frozen(slot) => slot.take(),
        Incoming::Message(slot) => panic!("a message of {} bytes", slot.len()),
    }
}

// --- processes ----------------------------------------------------------------------------------

fn start(agent: &Agent, words: &[&str]) -> Running {
    let mut command = Command::new(FRAMES);
    command.arg(agent.attach_socket()).args(words);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Running::start(command)
}

/// What the viewer counted: captions, frames, lost frames, slots.
fn counted(finished: &Finished) -> [u64; 4] {
    assert!(finished.status.success(), "{}{}", finished.stdout, finished.stderr);
    let words = finished.stdout.split_whitespace();
    let numbers: Vec<_> = words.filter_map(|word| word.parse().ok()).collect();
    numbers.try_into().unwrap_or_else(|_| panic!("{}", finished.stdout))
}

#[test]
fn the_viewer_of_the_example_sees_every_frame_that_the_camera_shot() {
    let _turn = turn();
    let agent = Agent::start();
    make_lanes(&agent, &header("frozen_frames.rs"), 1);
    let viewer = start(&agent, &["view", "frames"]);
    let camera = start(&agent, &["shoot", "frames", "20", "2048"]).finish();
    assert!(camera.status.success(), "{}", camera.stderr);
    assert_eq!(counted(&viewer.finish()), [20, 20, 0, 41]);
}

/// A last camera, which starts where everything committed ends, shoots one more frame and closes.
/// Returns how many there are.
fn end_the_film(agent: &Agent) -> u64 {
    let last = producer(agent, "frames");
    let end = last.position();
    drop(last);
    agent.wait_for("frames", "the last one's end", producer_is_gone);
    let count = end / 2 + 1;
    let camera = start(agent, &["shoot", "frames", &count.to_string(), "64"]).finish();
    assert!(camera.status.success(), "{}", camera.stderr);
    count
}

#[test]
fn cameras_killed_at_random_instants_lose_no_frame_that_they_sent_to_a_viewer() {
    let _turn = turn();
    let agent = Agent::start();
    make_lanes(&agent, &header("frozen_frames.rs"), 1);
    let viewer = start(&agent, &["view", "frames"]);
    agent.wait_for("frames", "the viewer", |lane| state(&lane.consumer) == State::Live);
    for round in 0..20u64 {
        let camera = start(&agent, &["shoot", "frames", ENDLESS, "64"]);
        agent.wait_for("frames", "a camera", |lane| state(&lane.producer) == State::Live);
        std::thread::sleep(Duration::from_millis(round * 7 % 19));
        camera.kill();
        agent.wait_for("frames", "its death", producer_is_gone);
    }
    let count = end_the_film(&agent);
    assert_eq!(counted(&viewer.finish()), [count, count, 0, 2 * count + 1]);
}

#[test]
fn viewers_killed_at_random_instants_leave_every_frame_to_their_successors() {
    let _turn = turn();
    let agent = Agent::start();
    make_lanes(&agent, &header("frozen_frames.rs"), 1);
    let camera = start(&agent, &["shoot", "frames", ENDLESS, "64"]);
    let position = |lane: &v1::Lane| {
        lane.consumer.as_ref().and_then(|end| end.counters).map_or(0, |counters| counters.position)
    };
    let mut released = 0;
    for round in 0..20u64 {
        let viewer = start(&agent, &["view", "frames"]);
        agent.wait_for("frames", "a viewer", |lane| state(&lane.consumer) == State::Live);
        std::thread::sleep(Duration::from_millis(round * 5 % 17));
        viewer.kill();
        let lane = agent.wait_for("frames", "its death", consumer_is_gone);
        assert!(position(&lane) >= released);
        released = position(&lane);
    }
    let viewer = start(&agent, &["view", "frames"]);
    // Beyond all that it found in the ring: from there on it is sent each frame at once.
    agent.wait_for("frames", "it goes on", |lane| position(lane) > released + 64);
    camera.kill();
    agent.wait_for("frames", "the camera is gone", producer_is_gone);
    let slots = 2 * end_the_film(&agent);
    let [captions, frames, lost, end] = counted(&viewer.finish());
    // From the first slot that was not released on, and nothing is left out.
    assert_eq!((captions + frames, lost, end), (slots - released, 0, slots + 1));
}
