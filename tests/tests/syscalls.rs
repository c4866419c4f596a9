//! System calls of two processes that stream over a spinning lane, counted by tracing them.

use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use laneway_agent::syscalls::{self, Traced};
use laneway_proto::v1::{self, Role};
use laneway_tests::agent::{Agent, plain};
use laneway_tests::process::laneway;
use laneway_tests::{skipped, turn};

/// Messages of the shorter stream.
const MESSAGES: u64 = 2_000_000;
/// An end that waits looks at the agent so often. One that does not looks once a second.
const LOOK: Duration = Duration::from_millis(20);
/// Looks that a stream begins and ends with.
const BESIDES: u64 = 2;

fn worker(agent: &Agent, kind: &str, lane: &str, role: Role, until: u64) -> Command {
    let mut command = laneway();
    command.args(["demo-worker", kind, "--size", "40", "--until", &until.to_string()]);
    command.arg("--attach-socket").arg(agent.attach_socket());
    command.env("LANEWAY_TICKET", agent.ticket(lane, role));
    command
}

fn finish(end: JoinHandle<Result<Traced, String>>) -> (serde_json::Value, Result<u64, String>) {
    let traced = end.join().expect("the tracer").expect("a worker");
    (serde_json::from_str(&traced.output).expect(&traced.output), traced.calls)
}

/// Streams so many messages; the calls of both ends while both were busy, and how many looks there
/// was time for.
fn stream(agent: &Agent, lane: &str, messages: u64) -> Result<([u64; 2], u64), String> {
    let spec = v1::LaneSpec { wait: v1::WaitMode::Spin.into(), ..plain(lane, 40, 16_384) };
    agent.create(spec).expect("lane");
    let consumer = syscalls::run(worker(agent, "consume", lane, Role::Consumer, messages));
    let producer = syscalls::run(worker(agent, "produce", lane, Role::Producer, messages));
    let ((_, sent), (consumed, received)) = (finish(producer), finish(consumer));
    assert_eq!(consumed["tally"]["received"], messages, "{consumed}");
    let nanoseconds = consumed["nanoseconds"].as_u64().expect("a time");
    let looks = u64::try_from(u128::from(nanoseconds) / LOOK.as_nanos()).expect("not for ever");
    Ok(([sent?, received?], looks + BESIDES))
}

#[test]
fn twice_as_many_messages_of_a_spinning_lane_take_no_more_system_calls_but_looks_at_the_agent() {
    let _turn = turn();
    let agent = Agent::start();
    for (lane, messages) in [("once", MESSAGES), ("twice", 2 * MESSAGES)] {
        let (calls, looks) = match stream(&agent, lane, messages) {
            Ok(counted) => counted,
            Err(why) => {
                let test = "twice_as_many_messages_of_a_spinning_lane_take_no_more_system_calls_\
                            but_looks_at_the_agent";
                return skipped(test, &format!("no process may be traced: {why}"));
            }
        };
        println!("{messages} messages: {calls:?} system calls, time for {looks} looks each");
        for calls in calls {
            assert!(calls <= looks, "{messages} messages: {calls} system calls, {looks} looks");
        }
    }
}
