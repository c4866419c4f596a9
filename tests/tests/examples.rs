//! The library's examples as their readers run them: the lanes that they ask for, made by the
//! commands that they print, and each side a process of its own.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use laneway_proto::v1::{self, end_status::State};
use laneway_tests::agent::Agent;
use laneway_tests::documents::{command, header, make_lanes};
use laneway_tests::process::{Finished, Running};
use laneway_tests::turn;

const SENSORS: &str = env!("CARGO_BIN_EXE_example-sensors");
const EVENT_LOG: &str = env!("CARGO_BIN_EXE_example-event-log");
const REQUEST_RESPONSE: &str = env!("CARGO_BIN_EXE_example-request-response");
const ASYNC_SERVICE: &str = env!("CARGO_BIN_EXE_example-async-service");
const MARKET_DATA: &str = env!("CARGO_BIN_EXE_example-market-data");

fn start(agent: &Agent, example: &str, words: &[&str]) -> Running {
    let mut command = Command::new(example);
    command.arg(agent.attach_socket()).args(words);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Running::start(command)
}

/// Standard output of an example that went well.
fn printed(finished: &Finished) -> Vec<&str> {
    assert!(finished.status.success(), "{}: {}", finished.status, finished.stderr);
    finished.stdout.lines().collect()
}

#[test]
fn one_process_reads_the_sensors_of_two_others_to_their_ends() {
    let _turn = turn();
    let agent = Agent::start();
    make_lanes(&agent, &header("sensors.rs"), 2);
    let reader = start(&agent, SENSORS, &["read", "sensor-1", "sensor-2"]);
    let first = start(&agent, SENSORS, &["send", "sensor-1", "30000"]);
    let second = start(&agent, SENSORS, &["send", "sensor-2", "100"]);
    for sender in [second, first] {
        assert_eq!(printed(&sender.finish()), Vec::<&str>::new());
    }
    let reader = reader.finish();
    let mut lines = printed(&reader);
    lines.sort_unstable();
    let expected = ["sensor-1: 30000 readings, mean 24.50", "sensor-2: 100 readings, mean 24.50"];
    assert_eq!(lines, expected);
}

#[test]
fn a_sensor_that_is_killed_delays_nobody_and_its_successor_goes_on() {
    let _turn = turn();
    let agent = Agent::start();
    make_lanes(&agent, &header("sensors.rs"), 2);
    let reader = start(&agent, SENSORS, &["read", "sensor-1", "sensor-2"]);
    // So many that it cannot have ended before it is killed.
    let killed = start(&agent, SENSORS, &["send", "sensor-1", "4000000000"]);
    let moves = |lane: &v1::Lane| {
        let counters = lane.consumer.as_ref().and_then(|end| end.counters);
        counters.is_some_and(|counters| counters.messages > 0)
    };
    agent.wait_for("sensor-1", "readings", moves);
    killed.kill();
    let other = start(&agent, SENSORS, &["send", "sensor-2", "500"]).finish();
    assert_eq!(printed(&other), Vec::<&str>::new());
    let is_gone = |lane: &v1::Lane| {
        let state = lane.producer.as_ref().map(v1::EndStatus::state);
        state == Some(State::Gone)
    };
    agent.wait_for("sensor-1", "the death to be known", is_gone);
    let successor = start(&agent, SENSORS, &["send", "sensor-1", "10"]).finish();
    assert_eq!(printed(&successor), Vec::<&str>::new());
    let reader = reader.finish();
    let lines = printed(&reader);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines.contains(&"sensor-2: 500 readings, mean 24.50"), "{lines:?}");
}

#[test]
fn events_of_two_services_are_printed_in_the_order_in_which_they_happened() {
    let _turn = turn();
    let agent = Agent::start();
    make_lanes(&agent, &header("event_log.rs"), 2);
    let texts: Vec<String> = (0..50).map(|number| format!("event {number}")).collect();
    let words = |lane| ["write", lane].into_iter().chain(texts.iter().map(String::as_str));
    let write = |lane| start(&agent, EVENT_LOG, &words(lane).collect::<Vec<_>>());
    // The lane that is named last has the earliest events, and both logs have ended already.
    for lane in ["net-log", "disk-log"] {
        assert_eq!(printed(&write(lane).finish()), Vec::<&str>::new());
    }
    let printer = start(&agent, EVENT_LOG, &["print", "disk-log", "net-log"]).finish();
    let of = |lane: &str| texts.iter().map(|text| format!("{lane}: {text}")).collect::<Vec<_>>();
    let (stamps, events) = events(&printer);
    assert!(stamps.is_sorted(), "{stamps:?}");
    assert_eq!(events, [of("net-log"), of("disk-log")].concat());

    // Both at once, and the printer is there first.
    let printer = start(&agent, EVENT_LOG, &["print", "disk-log", "net-log"]);
    for service in ["net-log", "disk-log"].map(write) {
        assert_eq!(printed(&service.finish()), Vec::<&str>::new());
    }
    let printer = printer.finish();
    let (stamps, events) = self::events(&printer);
    let in_order = stamps.is_sorted() || printer.stdout.contains("(late)");
    assert!(in_order && events.len() == 100, "{}", printer.stdout);
}

/// The stamps, and the events with their lanes, as the log has them.
fn events(printer: &Finished) -> (Vec<u64>, Vec<&str>) {
    let of = |line: &'_ str| -> Option<u64> { line.split_once(' ')?.0.parse().ok() };
    let lines = printed(printer);
    let stamps = lines.iter().map(|line| of(line).expect("a stamp")).collect();
    (stamps, lines.into_iter().filter_map(|line| Some(line.split_once(' ')?.1)).collect())
}

#[test]
fn requests_of_one_process_are_answered_by_another() {
    let _turn = turn();
    let agent = Agent::start();
    make_lanes(&agent, &header("request_response.rs"), 2);
    let lanes = ["requests", "responses"];
    let server = start(&agent, REQUEST_RESPONSE, &[&["serve"][..], &lanes].concat());
    let texts: Vec<String> = (0..100).map(|number| format!("request-{number}")).collect();
    let words: Vec<&str> =
        ["call"].into_iter().chain(lanes).chain(texts.iter().map(String::as_str)).collect();
    let caller = start(&agent, REQUEST_RESPONSE, &words).finish();
    let expected: Vec<String> = texts.iter().map(|text| text.to_uppercase()).collect();
    assert_eq!(printed(&caller), expected);
    assert_eq!(printed(&server.finish()), ["100 requests answered"]);
}

#[test]
fn an_async_service_answers_clients_of_two_processes_at_once_and_ends_when_it_is_told() {
    let _turn = turn();
    let agent = Agent::start();
    make_lanes(&agent, &header("async_service.rs"), 4);
    let service = start(&agent, ASYNC_SERVICE, &["serve", "one", "two"]);
    let texts: Vec<String> = (0..200).map(|number| format!("text-{number}")).collect();
    let upper: Vec<String> = texts.iter().map(|text| text.to_uppercase()).collect();
    let words = |client| -> Vec<&str> {
        ["call", client].into_iter().chain(texts.iter().map(String::as_str)).collect()
    };
    // A client that follows another one in the same lanes, while a third one uses the others.
    let first = start(&agent, ASYNC_SERVICE, &words("one"));
    let other = start(&agent, ASYNC_SERVICE, &words("two"));
    assert_eq!(printed(&first.finish()), upper);
    let gone = Some(State::Gone);
    agent.wait_for("one-out", "the client is gone", |lane| {
        lane.producer.as_ref().map(v1::EndStatus::state) == gone
    });
    agent.wait_for("one-back", "the client is gone", |lane| {
        lane.consumer.as_ref().map(v1::EndStatus::state) == gone
    });
    let second = start(&agent, ASYNC_SERVICE, &words("one")).finish();
    assert_eq!(printed(&second), upper);
    assert_eq!(printed(&other.finish()), upper);
    service.signal(nix::sys::signal::Signal::SIGINT);
    let service = service.finish();
    assert_eq!(printed(&service), ["serving 2 clients", "600 requests answered"]);
}

/// What stands between two marks of a text.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split_once(after).map(|(found, _)| found)
}

/// One side of the market data as the header starts it: with the ticket that it asks for there, and
/// the words that it gives there.
fn quotes(agent: &Agent, role: &str, kind: &str) -> Running {
    let header = header("market_data/main.rs");
    let ask = header.lines().find_map(|line| {
        let ask = between(line, "LANEWAY_TICKET=$(", ")")?;
        ask.ends_with(role).then_some(ask)
    });
    let runs = header.lines().filter_map(|line| line.split_once("--example market_data -- "));
    let (_, words) = runs.into_iter().find(|run| run.1.starts_with(kind)).expect(kind);
    let mut side = Command::new(MARKET_DATA);
    side.args(words.split_whitespace()).env("LANEWAY_ATTACH_SOCKET", agent.attach_socket());
    side.env("LANEWAY_TICKET", command(agent, ask.expect(role)).trim());
    side.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Running::start(side)
}

#[test]
fn two_readers_follow_the_market_data_that_a_feed_publishes_as_its_header_says() {
    let _turn = turn();
    let agent = Agent::start();
    make_lanes(&agent, &header("market_data/main.rs"), 1);
    let readers = [(); 2].map(|()| quotes(&agent, "consumer", "follow"));
    let is_live = |reader: &v1::ReaderStatus| reader.state() == State::Live;
    agent.wait_for("quotes", "two readers", |lane| {
        lane.readers.len() == 2 && lane.readers.iter().all(is_live)
    });
    let feed = quotes(&agent, "producer", "publish");
    assert_eq!(printed(&feed.finish()), Vec::<&str>::new());
    let last: BTreeMap<u64, u64> =
        (999_992..1_000_000).map(|n| (n % 8, 10_000 + n % 8 * 100 + n % 17)).collect();
    for reader in readers {
        let reader = reader.finish();
        let [line] = printed(&reader)[..] else { panic!("{:?}", reader.stdout) };
        let number = |before: &str| between(line, before, ",").and_then(|n| n.parse::<u64>().ok());
        let (received, lost) = (number("received ").expect(line), number("lost ").expect(line));
        assert_eq!(received + lost, 1_000_000, "{line}");
        assert!(line.ends_with(&format!("last prices {last:?}")), "{line}");
    }
}
