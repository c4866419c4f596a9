//! Broadcast lanes with a real agent: one producer, many readers, and deaths of each.

use std::collections::VecDeque;
use std::process::Command;
use std::time::{Duration, Instant};

use laneway_agent::workload::{fill, sequence_of};
use laneway_proto::v1::reader_status::GivenUp;
use laneway_proto::v1::{self, BroadcastPolicy, Role, end_status::State};
use laneway_shm::{
    Attach, AttachError, Consumer, Lag, Producer, Reason, RecvError, ReserveError, Start,
    Subscriber,
};
use laneway_tests::agent::{Agent, plain};
use laneway_tests::process::{Running, laneway};
use laneway_tests::turn;
use nix::sys::signal::Signal;

#[path = "broadcast/fairness.rs"]
mod fairness;
#[path = "broadcast/many.rs"]
mod many;
#[path = "../../shm/examples/market_data/feed.rs"]
mod market_data;
#[path = "broadcast/typed.rs"]
mod typed;

const SOON: Duration = Duration::from_secs(30);
const NOT_YET: Duration = Duration::from_millis(50);

/// A broadcast lane of 8-byte messages whose ends sleep.
fn cast(name: &str, policy: BroadcastPolicy, slots: u32) -> v1::LaneSpec {
    let policy = policy.into();
    v1::LaneSpec {
        shape: v1::Shape::Broadcast.into(),
        wait: v1::WaitMode::Park.into(),
        broadcast: Some(v1::BroadcastSpec { policy, ..v1::BroadcastSpec::default() }),
        ..plain(name, 8, slots)
    }
}

fn attach(agent: &Agent, lane: &str, role: Role) -> Attach {
    Attach::with_ticket(agent.attach_socket(), &agent.ticket(lane, role)).unwrap()
}

fn producer(agent: &Agent, lane: &str) -> Producer {
    attach(agent, lane, Role::Producer).producer().unwrap()
}

fn reader(agent: &Agent, lane: &str, start: Start) -> Consumer {
    attach(agent, lane, Role::Consumer).start(start).consumer().unwrap()
}

fn subscriber(agent: &Agent, lane: &str, start: Start) -> Subscriber {
    attach(agent, lane, Role::Consumer).start(start).subscriber().unwrap()
}

/// Serves the producer until it knows so many readers.
fn gather(producer: &mut Producer, readers: usize) -> Vec<Lag> {
    let deadline = Instant::now() + SOON;
    loop {
        producer.maintain().unwrap();
        let known: Vec<Lag> = producer.readers().collect();
        if known.len() == readers {
            return known;
        }
        assert!(Instant::now() < deadline, "{known:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn send(producer: &mut Producer, numbers: std::ops::Range<u64>) {
    for number in numbers {
        producer.send(&number.to_le_bytes(), SOON).unwrap();
    }
}

fn expect(reader: &mut Consumer, numbers: std::ops::Range<u64>) {
    for number in numbers {
        assert_eq!(reader.recv(SOON).unwrap().view().u64_at(0), Some(number));
    }
}

fn state(end: &Option<v1::EndStatus>) -> State {
    end.as_ref().map_or(State::Unspecified, v1::EndStatus::state)
}

/// What a subscriber saw: messages, which carry their position, and losses.
#[derive(Default, Debug)]
struct Account {
    received: u64,
    lost: u64,
    given_up: u64,
}

impl Account {
    /// Takes what there is until the end of the stream; every position is accounted for.
    fn settle(&mut self, subscriber: &mut Subscriber, from: u64, pause: Duration) -> u64 {
        let mut next = from;
        loop {
            match subscriber.recv(SOON) {
                Ok(message) => {
                    assert_eq!(message.position, next, "a loss was not counted");
                    assert_eq!(sequence_of(message.bytes), Some(next), "torn");
                    next += 1;
                    self.received += 1;
                    std::thread::sleep(pause);
                }
                Err(RecvError::Lost { slots, position }) => {
                    assert_eq!(position, next + slots);
                    next = position;
                    self.lost += slots;
                }
                Err(RecvError::GivenUp { reason: Reason::Behind, .. }) => self.given_up += 1,
                Err(RecvError::Closed { .. }) => return next,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn every_reader_receives_every_message_and_comes_and_goes_without_a_pause() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(cast("quotes", BroadcastPolicy::Gated, 16)).unwrap();
    let mut producer = producer(&agent, "quotes");
    // Nobody is there: nobody is waited for.
    send(&mut producer, 0..100);
    let mut readers: Vec<Consumer> =
        (0..3).map(|_| reader(&agent, "quotes", Start::Newest)).collect();
    gather(&mut producer, 3);
    send(&mut producer, 100..110);
    readers.iter_mut().for_each(|reader| expect(reader, 100..110));
    drop(readers.pop());
    gather(&mut producer, 2);
    send(&mut producer, 110..120);
    readers.iter_mut().for_each(|reader| expect(reader, 110..120));
    producer.close(SOON).unwrap();
    for reader in &mut readers {
        assert!(matches!(reader.recv(SOON), Err(RecvError::Closed { .. })));
    }
}

#[test]
fn a_late_reader_starts_with_the_next_message_or_with_the_oldest_that_is_retained() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(cast("quotes", BroadcastPolicy::Gated, 16)).unwrap();
    let mut producer = producer(&agent, "quotes");
    send(&mut producer, 0..5);
    let mut from_the_first = reader(&agent, "quotes", Start::Oldest);
    gather(&mut producer, 1);
    expect(&mut from_the_first, 0..5);
    drop(from_the_first);
    gather(&mut producer, 0);
    send(&mut producer, 5..100);
    let mut oldest = reader(&agent, "quotes", Start::Oldest);
    let mut newest = reader(&agent, "quotes", Start::Newest);
    gather(&mut producer, 2);
    // A quarter of the ring is free at once: joins never pause the stream.
    send(&mut producer, 100..104);
    expect(&mut oldest, 88..104);
    expect(&mut newest, 100..104);
    for policy in [BroadcastPolicy::Evicting, BroadcastPolicy::Overwrite] {
        let name = format!("{policy:?}").to_lowercase();
        agent.create(cast(&name, policy, 16)).unwrap();
        let mut producer = attach(&agent, &name, Role::Producer).producer().unwrap();
        send(&mut producer, 0..100);
        let mut oldest = subscriber(&agent, &name, Start::Oldest);
        let mut newest = subscriber(&agent, &name, Start::Newest);
        gather(&mut producer, 2);
        let first = oldest.recv(SOON).unwrap().position;
        assert!((88..100).contains(&first), "{name}: {first}");
        send(&mut producer, 100..101);
        assert_eq!(newest.recv(SOON).unwrap().position, 100);
    }
}

#[test]
fn a_late_reader_of_a_dead_producer_gets_what_the_ring_retains() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(cast("quotes", BroadcastPolicy::Gated, 16)).unwrap();
    let mut first = producer(&agent, "quotes");
    send(&mut first, 0..5);
    drop(first);
    agent.wait_for("quotes", "the producer is gone", |l| state(&l.producer) == State::Gone);
    let mut oldest = reader(&agent, "quotes", Start::Oldest);
    expect(&mut oldest, 0..5);
    let mut newest = reader(&agent, "quotes", Start::Newest);
    assert!(matches!(newest.recv(NOT_YET), Err(RecvError::TimedOut { .. })));
    let mut second = producer(&agent, "quotes");
    assert_eq!(second.position(), 5);
    send(&mut second, 5..10);
    expect(&mut oldest, 5..10);
    expect(&mut newest, 5..10);
}

#[test]
fn a_slow_reader_holds_the_producer_and_is_named() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(cast("quotes", BroadcastPolicy::Gated, 8)).unwrap();
    let mut producer = producer(&agent, "quotes");
    let mut slow = reader(&agent, "quotes", Start::Newest);
    let mut fast = reader(&agent, "quotes", Start::Newest);
    let numbers: Vec<u64> = gather(&mut producer, 2).iter().map(|lag| lag.reader).collect();
    send(&mut producer, 0..8);
    expect(&mut fast, 0..8);
    assert!(fast.poll().unwrap().is_none(), "the whole cursor is shown");
    let refused = producer.send(b"no room.", Duration::from_millis(300)).unwrap_err();
    match refused {
        ReserveError::Held { reader, lag_slots: 8, held, .. } => {
            assert_eq!(reader, numbers[0]);
            assert!(held >= Duration::from_millis(200), "{held:?}");
        }
        other => panic!("{other}"),
    }
    let holder = producer.holder().expect("somebody holds it");
    assert_eq!((holder.lag.reader, holder.lag.slots), (numbers[0], 8));
    let held = |lane: &v1::Lane| lane.readers.iter().any(|reader| reader.gates_since.is_some());
    let lane = agent.wait_for("quotes", "the slow reader is named", held);
    let [first, second] = &lane.readers[..] else { panic!("{lane:?}") };
    assert_eq!((first.number, first.lag_slots, first.lost_slots), (numbers[0], 8, 0));
    assert_eq!((second.number, second.lag_slots, second.gates_since), (numbers[1], 0, None));
    assert_eq!(lane.lag_slots, 8);
    assert!(first.joined && first.state() == State::Live);
    expect(&mut slow, 0..8);
    send(&mut producer, 8..9);
    agent.wait_for("quotes", "nobody holds it any more", |lane| !held(lane));
    assert_eq!(producer.holder(), None);
}

#[test]
fn a_reader_beyond_its_budget_is_told_and_goes_on_with_what_is_left() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(cast("quotes", BroadcastPolicy::Evicting, 64)).unwrap();
    let mut producer = producer(&agent, "quotes");
    let mut slow = subscriber(&agent, "quotes", Start::Newest);
    let mut fast = subscriber(&agent, "quotes", Start::Newest);
    let numbers: Vec<u64> = gather(&mut producer, 2).iter().map(|lag| lag.reader).collect();
    for number in 0..500u64 {
        producer.send(&number.to_le_bytes(), SOON).unwrap();
        assert_eq!(fast.recv(SOON).unwrap().position, number, "the fast one is not given up");
    }
    producer.maintain().unwrap();
    let lane = agent.get("quotes").unwrap();
    assert_eq!(lane.readers[0].given_up(), GivenUp::Behind);
    assert_eq!(lane.readers[1].given_up(), GivenUp::Unspecified);
    let gates: Vec<bool> = producer.readers().map(|lag| lag.gates).collect();
    assert_eq!((numbers.len(), gates), (2, vec![false, true]));
    producer.close(SOON).unwrap();
    let mut account = Account::default();
    let end = account.settle(&mut slow, 0, Duration::ZERO);
    assert_eq!((end, account.given_up), (500, 1), "{account:?}");
    assert_eq!(account.received + account.lost, 500);
    assert!(account.lost >= 500 - 64 && account.received > 0, "{account:?}");
    assert_eq!((slow.lost(), fast.lost()), (account.lost, 0));
}

/// A producer process that generates checkable messages and then ends the stream.
fn generator(agent: &Agent, lane: &str, count: u64) -> Running {
    let mut command = laneway();
    command.args(["attach", "send", "--size", "40", "--count", &count.to_string()]);
    command.arg("--attach-socket").arg(agent.attach_socket());
    command.env("LANEWAY_TICKET", agent.ticket(lane, Role::Producer));
    Running::start(command)
}

#[test]
fn a_reader_that_is_overrun_counts_to_the_slot_what_it_lost_and_hands_out_nothing_torn() {
    let _turn = turn();
    let agent = Agent::start();
    let geometry = v1::Geometry { slot_payload_bytes: 40, slot_count: 64 };
    let spec = cast("ticks", BroadcastPolicy::Overwrite, 64);
    agent.create(v1::LaneSpec { geometry: Some(geometry), ..spec }).unwrap();
    let mut readers: Vec<Subscriber> =
        (0..2).map(|_| subscriber(&agent, "ticks", Start::Newest)).collect();
    let count = 300_000;
    let sender = generator(&agent, "ticks", count);
    let slow = readers.pop().unwrap();
    let quick = readers.pop().unwrap();
    let threads = [(quick, Duration::ZERO), (slow, Duration::from_micros(100))];
    let threads = threads.map(|(mut subscriber, pause)| {
        std::thread::spawn(move || {
            let mut account = Account::default();
            let end = account.settle(&mut subscriber, 0, pause);
            assert_eq!(subscriber.lost(), account.lost);
            (end, account)
        })
    });
    assert!(sender.finish().status.success(), "nobody was waited for");
    for thread in threads {
        let (end, account) = thread.join().unwrap();
        assert_eq!((end, account.received + account.lost), (count, count), "{account:?}");
        assert!(account.received > 0);
    }
}

#[test]
fn messages_over_several_slots_are_whole_or_counted_as_lost() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(cast("frames", BroadcastPolicy::Overwrite, 32)).unwrap();
    let mut producer = producer(&agent, "frames");
    let mut subscriber = subscriber(&agent, "frames", Start::Newest);
    gather(&mut producer, 1);
    assert!(matches!(subscriber.recv(NOT_YET), Err(RecvError::TimedOut { .. })));
    let (mut message, mut sent) = (vec![0; 60], 0);
    let (mut received, mut slots) = (VecDeque::new(), 0);
    for round in 0..2000u64 {
        fill(round, &mut message);
        producer.send(&message, SOON).unwrap();
        sent += 8;
        if round % 7 < 3 {
            continue;
        }
        match subscriber.poll() {
            Ok(Some(found)) => {
                assert_eq!(found.bytes.len(), 60);
                received.push_back(sequence_of(found.bytes).expect("torn"));
                slots += 8;
            }
            Err(RecvError::Lost { slots: lost, .. }) => slots += lost,
            other => panic!("{other:?}"),
        }
        assert_eq!(subscriber.position(), slots);
    }
    assert!(slots <= sent && received.len() > 100 && subscriber.lost() > 0);
    assert!(received.iter().zip(received.iter().skip(1)).all(|(a, b)| a < b));
}

#[test]
fn a_reader_that_is_killed_or_stopped_for_ever_holds_nobody_once_it_is_gone() {
    let _turn = turn();
    let agent = Agent::start();
    agent.create(cast("quotes", BroadcastPolicy::Gated, 8)).unwrap();
    let mut producer = producer(&agent, "quotes");
    let mut alive = reader(&agent, "quotes", Start::Newest);
    let mut command = laneway();
    command.args(["attach", "recv", "--attach-socket"]).arg(agent.attach_socket());
    command.args(["--ticket", &agent.ticket("quotes", Role::Consumer)]);
    let doomed = Running::start(command);
    gather(&mut producer, 2);
    send(&mut producer, 0..1);
    agent.wait_for("quotes", "both read", |lane| {
        let read = |reader: &v1::ReaderStatus| reader.counters.unwrap_or_default().position == 1;
        lane.readers.len() == 2 && lane.readers.iter().skip(1).all(read)
    });
    doomed.signal(Signal::SIGSTOP);
    expect(&mut alive, 0..1);
    assert!(alive.poll().unwrap().is_none(), "the whole cursor is shown");
    send(&mut producer, 1..9);
    expect(&mut alive, 1..9);
    let refused = producer.send(b"no room.", Duration::from_millis(200)).unwrap_err();
    assert!(matches!(refused, ReserveError::Held { .. }), "silence is not death: {refused}");
    doomed.kill();
    for number in 9..30 {
        send(&mut producer, number..number + 1);
        expect(&mut alive, number..number + 1);
    }
    agent.wait_for("quotes", "it is forgotten", |lane| lane.readers.len() == 1);
}

/// A worker of the demo: an ordinary producer or consumer that checks and notes what it did.
fn worker(agent: &Agent, kind: &str, lane: &str, role: Role, until: u64, witness: &str) -> Command {
    let mut command = laneway();
    command.args(["demo-worker", kind, "--size", "40", "--until", &until.to_string()]);
    command.arg("--attach-socket").arg(agent.attach_socket());
    command.arg("--witness").arg(agent.file(witness));
    command.env("LANEWAY_TICKET", agent.ticket(lane, role));
    command
}

fn clean(finished: &laneway_tests::process::Finished) -> serde_json::Value {
    let report = finished.json();
    for wrong in ["lost", "torn", "out_of_order", "duplicates"] {
        assert_eq!(report["tally"][wrong], 0, "{report}");
    }
    report
}

/// A gated lane with two reader processes that are there from the first message on.
fn with_two_readers(agent: &Agent, until: u64) -> Vec<Running> {
    let geometry = v1::Geometry { slot_payload_bytes: 40, slot_count: 64 };
    let spec = cast("orders", BroadcastPolicy::Gated, 64);
    agent.create(v1::LaneSpec { geometry: Some(geometry), ..spec }).unwrap();
    let names = ["reader-1", "reader-2"];
    let start = |name| worker(agent, "consume", "orders", Role::Consumer, until, name);
    let readers = names.map(|name| Running::start(start(name))).into();
    agent.wait_for("orders", "both are there", |lane| {
        lane.readers.len() == 2 && lane.readers.iter().all(|r| r.state() == State::Live)
    });
    readers
}

#[test]
fn producers_killed_at_random_instants_lose_nothing_for_any_reader() {
    let _turn = turn();
    let agent = Agent::start();
    let until = u64::MAX / 2;
    let readers = with_two_readers(&agent, until);
    for round in 0..8u64 {
        let name = format!("producer-{round}");
        let command = worker(&agent, "produce", "orders", Role::Producer, until, &name);
        let producer = Running::start(command);
        agent.wait_for("orders", "attached", |lane| state(&lane.producer) == State::Live);
        std::thread::sleep(Duration::from_millis(round * 7 % 23));
        producer.kill();
        agent.wait_for("orders", "death is seen", |lane| state(&lane.producer) == State::Gone);
    }
    let last = producer(&agent, "orders");
    let end = last.position();
    last.close(SOON).unwrap();
    for reader in readers {
        assert_eq!(clean(&reader.finish())["tally"]["received"], end);
    }
    agent.wait_for("orders", "drained generations are let go", |l| l.open_generations == 1);
}

#[test]
fn messages_flow_while_the_agent_is_dead_and_every_end_comes_back() {
    let _turn = turn();
    let mut agent = Agent::start();
    // Longer than this test on every machine: it goes on until it is killed.
    let endless = u64::MAX / 2;
    let readers = with_two_readers(&agent, endless);
    let producer =
        Running::start(worker(&agent, "produce", "orders", Role::Producer, endless, "producer"));
    let came = |lane: &v1::Lane, slots| {
        let position = |r: &v1::ReaderStatus| r.counters.unwrap_or_default().position;
        lane.readers.iter().all(|reader| position(reader) > slots)
    };
    agent.wait_for("orders", "messages", |lane| came(lane, 1000));
    agent.kill();
    std::thread::sleep(Duration::from_millis(50));
    agent.start_again();
    agent.wait_for("orders", "every end is back", |lane| {
        let live = lane.readers.iter().filter(|r| r.state() == State::Live && r.joined).count();
        live == 2 && state(&lane.producer) == State::Live
    });
    producer.kill();
    let gone = |lane: &v1::Lane| state(&lane.producer) == State::Gone;
    let lane = agent.wait_for("orders", "death is seen", gone);
    let until = lane.producer.unwrap().counters.unwrap().position + 100_000;
    let successor = worker(&agent, "produce", "orders", Role::Producer, until, "successor");
    assert!(Running::start(successor).finish().status.success());
    for reader in readers {
        assert_eq!(clean(&reader.finish())["tally"]["next"], until);
    }
}

#[test]
fn a_reader_that_dies_while_the_agent_is_dead_is_forgotten_and_a_new_one_is_let_in() {
    let _turn = turn();
    let mut agent = Agent::start();
    agent.create(cast("quotes", BroadcastPolicy::Gated, 8)).unwrap();
    let mut producer = producer(&agent, "quotes");
    let mut alive = reader(&agent, "quotes", Start::Newest);
    let mut command = laneway();
    command.args(["attach", "recv", "--attach-socket"]).arg(agent.attach_socket());
    command.args(["--ticket", &agent.ticket("quotes", Role::Consumer)]);
    let doomed = Running::start(command);
    gather(&mut producer, 2);
    agent.kill();
    doomed.kill();
    send(&mut producer, 0..8);
    expect(&mut alive, 0..8);
    agent.start_again();
    gather(&mut producer, 1);
    send(&mut producer, 8..16);
    expect(&mut alive, 8..16);
    let deadline = Instant::now() + SOON;
    while alive.maintain().is_ok() && agent.get("quotes").unwrap().readers.len() != 1 {
        assert!(Instant::now() < deadline);
    }
    let mut late = reader(&agent, "quotes", Start::Newest);
    gather(&mut producer, 2);
    send(&mut producer, 16..20);
    expect(&mut alive, 16..20);
    expect(&mut late, 16..20);
}

#[test]
fn there_are_never_more_readers_than_the_lane_allows_and_each_takes_its_own_ticket() {
    let _turn = turn();
    let agent = Agent::start();
    let broadcast = v1::BroadcastSpec { readers_max: 2, ..v1::BroadcastSpec::default() };
    let spec = cast("quotes", BroadcastPolicy::Gated, 8);
    agent.create(v1::LaneSpec { broadcast: Some(broadcast), ..spec }).unwrap();
    let _first = reader(&agent, "quotes", Start::Newest);
    let second = reader(&agent, "quotes", Start::Newest);
    let third = attach(&agent, "quotes", Role::Consumer);
    let refused = third.consumer().unwrap_err().to_string();
    assert!(refused.contains("READERS_EXHAUSTED") && refused.contains("2 readers"), "{refused}");
    drop(second);
    agent.wait_for("quotes", "it is forgotten", |lane| lane.readers.len() == 1);
    third.consumer().unwrap();
    // A lane that loses needs the other handle, and says so.
    agent.create(cast("ticks", BroadcastPolicy::Overwrite, 8)).unwrap();
    let wrong = attach(&agent, "ticks", Role::Consumer).consumer().unwrap_err();
    assert!(matches!(wrong, AttachError::WrongHandle { needed: "subscriber", .. }), "{wrong}");
    let wrong = attach(&agent, "quotes", Role::Consumer).subscriber().unwrap_err();
    assert!(matches!(wrong, AttachError::WrongHandle { needed: "consumer", .. }), "{wrong}");
}

#[test]
fn a_broadcast_lane_is_made_shown_and_read_from_the_shell() {
    let _turn = turn();
    let agent = Agent::start();
    let run = |line: &str| {
        let mut command = laneway();
        command.args(line.split(' ')).env("LANEWAY_SOCKET", agent.socket());
        Running::start(command).finish()
    };
    let made = run("lane create quotes --shape broadcast --policy evicting --readers 3 \
                    --lag-budget 8 --slots 16 --page-size 4KiB --wait park --output json")
    .json();
    assert_eq!(made["lane"]["broadcast"]["policy"], "evicting");
    assert_eq!(made["lane"]["broadcast"]["lag_budget_slots"], 8);
    assert_eq!(made["lane"]["consumer"]["pinning"], "none");
    let refused = run("lane create wrong --policy gated");
    assert!(refused.stderr.contains("spec.broadcast"), "{}", refused.stderr);
    let mut command = laneway();
    command.args(["attach", "recv", "--verify", "--output", "json", "--attach-socket"]);
    command
        .arg(agent.attach_socket())
        .env("LANEWAY_TICKET", agent.ticket("quotes", Role::Consumer));
    let receiver = Running::start(command);
    agent.wait_for("quotes", "the reader is there", |lane| lane.readers.len() == 1);
    let shown = run("lane get quotes");
    assert!(shown.stdout.contains("reader 1") && shown.stdout.contains("0 slots behind"));
    let mut producer = producer(&agent, "quotes");
    let mut message = [0; 40];
    for sequence in 0..5 {
        fill(sequence, &mut message);
        producer.send(&message, SOON).unwrap();
    }
    producer.close(SOON).unwrap();
    let report = receiver.finish().json();
    assert_eq!((&report["received"], &report["lost"]), (&5.into(), &0.into()));
}

#[test]
fn the_market_data_example_runs_on_lanes_of_every_policy() {
    let _turn = turn();
    let agent = Agent::start();
    let count = 20_000;
    for policy in [BroadcastPolicy::Gated, BroadcastPolicy::Evicting, BroadcastPolicy::Overwrite] {
        let name = format!("{policy:?}").to_lowercase();
        let geometry = v1::Geometry { slot_payload_bytes: 24, slot_count: 256 };
        agent
            .create(v1::LaneSpec { geometry: Some(geometry), ..cast(&name, policy, 256) })
            .unwrap();
        let socket = agent.attach_socket();
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (socket, ticket) = (socket.clone(), agent.ticket(&name, Role::Consumer));
                std::thread::spawn(move || {
                    market_data::follow(&socket, &ticket, Start::Newest).unwrap()
                })
            })
            .collect();
        agent.wait_for(&name, "both follow", |lane| {
            lane.readers.len() == 2 && lane.readers.iter().all(|r| r.state() == State::Live)
        });
        market_data::publish(&socket, &agent.ticket(&name, Role::Producer), count).unwrap();
        for reader in readers {
            let book = reader.join().unwrap();
            assert_eq!(book.received + book.lost, count, "{name}: {book:?}");
            if policy == BroadcastPolicy::Gated {
                assert_eq!((book.lost, book.given_up), (0, false));
                let last = market_data::Quote::new(count - 1);
                assert_eq!(book.last[&last.instrument], last.price);
            }
        }
    }
}
