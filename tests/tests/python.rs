//! Python programs on both ends of real lanes, through the module as cargo builds it or as a wheel
//! installed it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use laneway_proto::v1::{BroadcastPolicy, BroadcastSpec, LaneSpec, Role, Shape};
use laneway_shm::{Attach, RecvError};
use laneway_tests::agent::{Agent, plain};
use laneway_tests::bindings::{
    RELATIONS, built, frames_go_between, has, numbered, python_with, root, with_cores,
};
use laneway_tests::documents::{make_lanes, python};
use laneway_tests::hugepages::Reserved;
use laneway_tests::process::{Finished, Running};
use laneway_tests::{skipped, turn};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(30);
const MESSAGES: u64 = 1_000_000;

/// An interpreter that finds the module. `LANEWAY_PYTHON` names one that has it installed, together
/// with numpy; without it the module is the one that cargo builds.
struct Python {
    program: PathBuf,
    /// Where the module lies, if it is not installed.
    folder: Option<TempDir>,
}

impl Python {
    /// `None` where there is no interpreter.
    fn find() -> Option<Self> {
        Self::installed().or_else(|| has("python3").then(|| Self::with("python3".into())))
    }

    /// `None` where there is none, or no numpy to be had.
    fn with_numpy() -> Option<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("numpy-venv");
        Self::installed().or_else(|| python_with(&folder, "numpy", "numpy").map(Self::with))
    }

    fn installed() -> Option<Self> {
        let program = std::env::var_os("LANEWAY_PYTHON")?.into();
        Some(Self { program, folder: None })
    }

    fn with(program: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let library = built("laneway-python").join("liblaneway_python.so");
        std::fs::copy(library, folder.path().join("laneway.abi3.so")).unwrap();
        Self { program, folder: Some(folder) }
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new(&self.program);
        // No byte code: it would land beside the sources.
        command.arg("-B").arg(root().join(script)).env_remove("PYTHONPATH");
        command.envs(self.folder.as_ref().map(|folder| ("PYTHONPATH", folder.path())));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A scenario of `python/behaviour.py` on a fresh lane.
    fn behaviour(&self, agent: &Agent, scenario: &str) -> Command {
        let policy = match scenario {
            "held" => Some(BroadcastPolicy::Gated),
            "overrun" | "overrun_into" | "overrun_arrays" => Some(BroadcastPolicy::Overwrite),
            "evicted" => Some(BroadcastPolicy::Evicting),
            _ => None,
        };
        let shape = if policy.is_some() { Shape::Broadcast } else { Shape::Spsc };
        let broadcast = policy
            .map(|policy| BroadcastSpec { policy: policy.into(), ..BroadcastSpec::default() });
        let lane = scenario.replace('_', "-");
        let spec = LaneSpec { shape: shape.into(), broadcast, ..plain(&lane, 56, 8) };
        agent.create(spec).unwrap();
        let mut command = self.command("tests/tests/python/behaviour.py");
        command.arg(scenario).arg(agent.attach_socket());
        let roles = [Role::Producer, Role::Consumer, Role::Consumer];
        let tickets = if policy.is_some() { &roles[..] } else { &roles[..2] };
        command.args(tickets.iter().map(|role| agent.ticket(&lane, *role)));
        command
    }

    fn passes(&self, scenarios: &[&str]) {
        let agent = Agent::start();
        for scenario in scenarios {
            let finished = Running::start(self.behaviour(&agent, scenario)).finish();
            succeeded(&finished, scenario);
        }
    }
}

fn succeeded(finished: &Finished, what: &str) {
    assert!(finished.status.success(), "{what}: {}: {}", finished.status, finished.stderr);
}

/// An agent with one lane, and a ticket for each end.
fn lane() -> (Agent, [String; 2]) {
    let agent = Agent::start();
    agent.create(plain("python", 56, 4096)).unwrap();
    let tickets = [Role::Producer, Role::Consumer].map(|role| agent.ticket("python", role));
    (agent, tickets)
}

#[test]
fn a_million_messages_go_from_python_to_rust() {
    let _turn = turn();
    let Some(python) = Python::find() else {
        return skipped("a_million_messages_go_from_python_to_rust", "no python3");
    };
    let (agent, tickets) = lane();
    let socket = agent.attach_socket();
    let mut consumer = Attach::with_ticket(&socket, &tickets[1]).unwrap().consumer().unwrap();
    let mut command = python.command("shm/python/examples/producer.py");
    command.arg(&socket).args([&tickets[0], &MESSAGES.to_string()]);
    let running = Running::start(command);
    for number in 0..MESSAGES {
        let same = consumer.recv_array(SOON, |bytes| bytes == numbered(number)).unwrap();
        assert!(same, "message {number} is another one");
    }
    assert!(matches!(consumer.recv(SOON), Err(RecvError::Closed { .. })));
    succeeded(&running.finish(), "producer.py");
}

#[test]
fn a_million_messages_go_from_rust_to_python() {
    let _turn = turn();
    let Some(python) = Python::find() else {
        return skipped("a_million_messages_go_from_rust_to_python", "no python3");
    };
    let (agent, tickets) = lane();
    let socket = agent.attach_socket();
    let mut producer = Attach::with_ticket(&socket, &tickets[0]).unwrap().producer().unwrap();
    let mut command = python.command("shm/python/examples/consumer.py");
    command.arg(&socket).arg(&tickets[1]);
    let running = Running::start(command);
    for number in 0..MESSAGES {
        producer.send_array(numbered(number), SOON).unwrap();
    }
    producer.close(SOON).unwrap();
    let finished = running.finish();
    succeeded(&finished, "consumer.py");
    assert_eq!(finished.stdout.trim(), MESSAGES.to_string());
}

#[test]
fn every_way_to_send_and_receive_in_python_does_what_it_says() {
    let _turn = turn();
    let Some(python) = Python::find() else {
        return skipped("every_way_to_send_and_receive_in_python", "no python3");
    };
    python.passes(&["messages", "facts", "contexts", "exception", "fork", "bare"]);
}

#[test]
fn frozen_payloads_are_sent_from_any_buffer_and_seen_without_a_copy_in_python() {
    let _turn = turn();
    let Some(python) = Python::find() else {
        return skipped("frozen_payloads_are_sent_from_any_buffer", "no python3");
    };
    python.passes(&["frozen", "in_flight", "lost", "no_lifeline"]);
}

#[test]
fn a_payload_on_hugepages_is_seen_in_python_and_nothing_is_left_of_it() {
    let _turn = turn();
    let Some(python) = Python::find() else {
        return skipped("a_payload_on_hugepages_is_seen_in_python", "no python3");
    };
    let Some(_reserved) = Reserved::add(2 << 20, 4) else {
        return skipped("a_payload_on_hugepages_is_seen_in_python", "no hugepages to be had");
    };
    python.passes(&["huge"]);
}

#[test]
fn frames_go_between_python_and_rust_as_frozen_payloads_in_both_directions() {
    let _turn = turn();
    let Some(python) = Python::find() else {
        return skipped("frames_go_between_python_and_rust_as_frozen_payloads", "no python3");
    };
    let rust = env!("CARGO_BIN_EXE_example-frozen-frames");
    frames_go_between(|| python.command("shm/python/examples/frames.py"), rust);
}

#[test]
fn ends_in_python_are_told_what_their_cores_have_in_common_and_how_far_the_consumer_is() {
    let _turn = turn();
    let Some(python) = Python::find() else {
        return skipped("ends_in_python_are_told_what_their_cores_have_in_common", "no python3");
    };
    let agent = Agent::start();
    let relation = agent.create(with_cores("cores")).unwrap().placement.unwrap().relation;
    let (_, distance) = RELATIONS.into_iter().find(|(name, _)| *name == relation).unwrap();
    let mut command = python.command("tests/tests/python/behaviour.py");
    command.arg("cores").arg(agent.attach_socket());
    command.args([Role::Producer, Role::Consumer].map(|role| agent.ticket("cores", role)));
    let finished = Running::start(command).finish();
    succeeded(&finished, "cores");
    assert_eq!(finished.stdout.trim(), format!("{relation}, {relation}, {distance}"));
}

#[test]
fn every_error_of_a_lane_is_a_typed_exception_with_its_numbers() {
    let _turn = turn();
    let Some(python) = Python::find() else {
        return skipped("every_error_of_a_lane_is_a_typed_exception", "no python3");
    };
    python.passes(&["errors"]);
}

#[test]
fn a_slow_reader_of_a_broadcast_lane_is_waited_for_as_long_as_python_says() {
    let _turn = turn();
    let Some(python) = Python::find() else {
        return skipped("a_slow_reader_of_a_broadcast_lane_is_waited_for", "no python3");
    };
    python.passes(&["held"]);
}

#[test]
fn a_reader_in_python_that_is_overrun_or_given_up_is_told_and_goes_on() {
    let _turn = turn();
    let Some(python) = Python::find() else {
        return skipped("a_reader_in_python_that_is_overrun", "no python3");
    };
    python.passes(&["overrun", "overrun_into", "evicted"]);
}

#[test]
fn a_wait_in_python_lets_other_threads_run_and_ends_with_ctrl_c() {
    let _turn = turn();
    let Some(python) = Python::find() else {
        return skipped("a_wait_in_python_lets_other_threads_run", "no python3");
    };
    python.passes(&["threads", "interrupt"]);
}

#[test]
fn messages_arrive_as_typed_numpy_arrays() {
    let _turn = turn();
    let Some(python) = Python::with_numpy() else {
        return skipped(
            "messages_arrive_as_typed_numpy_arrays",
            "no Python, or no numpy to be had",
        );
    };
    python.passes(&["arrays", "overrun_arrays", "frozen_arrays"]);
}

/// The stub and the module name the same things.
#[test]
fn the_type_stubs_name_what_the_module_has() {
    let Some(python) = Python::find() else {
        return skipped("the_type_stubs_name_what_the_module_has", "no python3");
    };
    let mut command = python.command("tests/tests/python/stubs.py");
    command.arg(root().join("shm/python/laneway.pyi"));
    succeeded(&Running::start(command).finish(), "stubs.py");
}

#[test]
fn what_the_readme_shows_in_python_runs_once_and_again() {
    let _turn = turn();
    let name = "what_the_readme_shows_in_python_runs_once_and_again";
    let Some(interpreter) = Python::with_numpy() else {
        return skipped(name, "no Python, or no numpy to be had");
    };
    let readme = std::fs::read_to_string(root().join("shm/python/README.md")).unwrap();
    let agent = Agent::start();
    make_lanes(&agent, &readme.replace("\\\n", " "), 2);
    let socket = agent.attach_socket().display().to_string();
    let program = python(&readme).replace("/run/laneway/attach/attach.sock", &socket);
    assert!(program.contains(&socket), "it attaches nowhere");
    let script = agent.file("readme.py");
    std::fs::write(&script, program).unwrap();
    for _ in 0..2 {
        let command = interpreter.command(script.to_str().unwrap());
        let finished = Running::start(command).finish();
        succeeded(&finished, "readme.py");
        let printed: Vec<_> = finished.stdout.lines().collect();
        assert_eq!(printed, ["b'hello'", "b'one'", r"b'\x00\x00'", "7", "7"]);
    }
}
