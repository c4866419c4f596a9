//! Programs in C on both ends of real lanes, through the shared and the static library.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use laneway_proto::v1::{BroadcastPolicy, BroadcastSpec, LaneSpec, Role, Shape};
use laneway_shm::{Attach, RecvError};
use laneway_tests::agent::{Agent, plain};
use laneway_tests::bindings::{
    RELATIONS, built, frames_go_between, has, numbered, root, with_cores,
};
use laneway_tests::process::{Finished, Running};
use laneway_tests::{skipped, turn};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(30);
const MESSAGES: u64 = 1_000_000;

/// How a program gets the library.
#[derive(Clone, Copy)]
enum Link {
    Shared,
    Static,
}

/// A compiled program, in a folder that goes with it.
struct Program {
    folder: TempDir,
}

impl Program {
    /// Compiles one source below the root, against the generated header.
    fn compile(source: &str, link: Link) -> Self {
        let (folder, libraries) = (tempfile::tempdir().unwrap(), built("laneway-c"));
        let mut command = Command::new("cc");
        command.args(["-std=c11", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
        command.arg("-I").arg(root().join("shm/c/include")).arg(root().join(source));
        match link {
            Link::Shared => {
                let found = format!("-Wl,-rpath,{}", libraries.display());
                command.arg("-L").arg(&libraries).args(["-Wl,-Bdynamic", "-llaneway", &found]);
            }
            Link::Static => {
                let system = ["-lgcc_s", "-lrt", "-lpthread", "-ldl", "-lm"];
                command.arg(libraries.join("liblaneway.a")).args(system);
            }
        }
        let output = command.arg("-o").arg(folder.path().join("program")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("program")
    }

    fn start(&self, socket: &Path, args: &[&str]) -> Running {
        let mut command = Command::new(self.path());
        command.arg(socket).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running::start(command)
    }
}

fn succeeded(finished: &Finished) {
    assert!(finished.status.success(), "{}: {}", finished.status, finished.stderr);
}

#[test]
fn a_million_messages_go_from_c_to_rust() {
    let _turn = turn();
    if !has("cc") {
        return skipped("a_million_messages_go_from_c_to_rust", "no C compiler");
    }
    let program = Program::compile("shm/c/examples/producer.c", Link::Shared);
    let agent = Agent::start();
    agent.create(plain("c", 56, 4096)).unwrap();
    let tickets = [Role::Producer, Role::Consumer].map(|role| agent.ticket("c", role));
    let socket = agent.attach_socket();
    let mut consumer = Attach::with_ticket(&socket, &tickets[1]).unwrap().consumer().unwrap();
    let running = program.start(&socket, &[&tickets[0], &MESSAGES.to_string()]);
    for number in 0..MESSAGES {
        let same = consumer.recv_array(SOON, |bytes| bytes == numbered(number)).unwrap();
        assert!(same, "message {number} is another one");
    }
    assert!(matches!(consumer.recv(SOON), Err(RecvError::Closed { .. })));
    succeeded(&running.finish());
}

#[test]
fn a_million_messages_go_from_rust_to_c() {
    let _turn = turn();
    if !has("cc") {
        return skipped("a_million_messages_go_from_rust_to_c", "no C compiler");
    }
    let program = Program::compile("shm/c/examples/consumer.c", Link::Shared);
    let agent = Agent::start();
    agent.create(plain("c", 56, 4096)).unwrap();
    let tickets = [Role::Producer, Role::Consumer].map(|role| agent.ticket("c", role));
    let socket = agent.attach_socket();
    let mut producer = Attach::with_ticket(&socket, &tickets[0]).unwrap().producer().unwrap();
    let running = program.start(&socket, &[&tickets[1]]);
    for number in 0..MESSAGES {
        producer.send_array(numbered(number), SOON).unwrap();
    }
    producer.close(SOON).unwrap();
    let finished = running.finish();
    succeeded(&finished);
    assert_eq!(finished.stdout.trim(), MESSAGES.to_string());
}

#[test]
fn every_function_and_status_of_the_c_abi_does_what_the_header_says() {
    let _turn = turn();
    if !has("cc") {
        return skipped("every_function_and_status_of_the_c_abi", "no C compiler");
    }
    for link in [Link::Shared, Link::Static] {
        for (source, slots) in [("tests/tests/c/behaviour.c", 8), ("tests/tests/c/frozen.c", 64)] {
            let program = Program::compile(source, link);
            let agent = Agent::start();
            agent.create(plain("c", 56, slots)).unwrap();
            let ticket = |role| agent.ticket("c", role);
            let tickets = [ticket(Role::Producer), ticket(Role::Consumer), ticket(Role::Producer)];
            let args: Vec<&str> = tickets.iter().map(String::as_str).collect();
            let finished = program.start(&agent.attach_socket(), &args).finish();
            succeeded(&finished);
            assert_eq!(finished.stdout.trim(), "all of it");
        }
    }
}

#[test]
fn a_reader_in_c_that_is_overrun_is_told_how_many_slots_it_lost_and_goes_on() {
    let _turn = turn();
    if !has("cc") {
        return skipped("a_reader_in_c_that_is_overrun", "no C compiler");
    }
    let program = Program::compile("tests/tests/c/overrun.c", Link::Shared);
    for policy in [BroadcastPolicy::Overwrite, BroadcastPolicy::Evicting] {
        let agent = Agent::start();
        let broadcast = BroadcastSpec { policy: policy.into(), ..BroadcastSpec::default() };
        let (shape, broadcast) = (Shape::Broadcast.into(), Some(broadcast));
        agent.create(LaneSpec { shape, broadcast, ..plain("c", 56, 8) }).unwrap();
        let ticket = |role| agent.ticket("c", role);
        let tickets = [ticket(Role::Producer), ticket(Role::Consumer), ticket(Role::Consumer)];
        let mut args: Vec<&str> = tickets.iter().map(String::as_str).collect();
        args.push(if policy == BroadcastPolicy::Evicting { "evicting" } else { "overwriting" });
        let finished = program.start(&agent.attach_socket(), &args).finish();
        succeeded(&finished);
        assert_eq!(finished.stdout.trim(), "all of it");
    }
}

#[test]
fn ends_in_c_are_told_what_their_cores_have_in_common_and_how_far_the_consumer_is() {
    let _turn = turn();
    if !has("cc") {
        return skipped("ends_in_c_are_told_what_their_cores_have_in_common", "no C compiler");
    }
    let program = Program::compile("tests/tests/c/cores.c", Link::Shared);
    let agent = Agent::start();
    let relation = agent.create(with_cores("cores")).unwrap().placement.unwrap().relation;
    let number = RELATIONS.iter().position(|(name, _)| *name == relation).unwrap();
    let distance = match RELATIONS[number].1 {
        "near" => 1,
        "far" => 2,
        _ => 0,
    };
    let tickets = [Role::Producer, Role::Consumer].map(|role| agent.ticket("cores", role));
    let finished = program.start(&agent.attach_socket(), &[&tickets[0], &tickets[1]]).finish();
    succeeded(&finished);
    assert_eq!(finished.stdout.trim(), format!("{0} {0} {distance}", number + 1), "{relation}");
}

#[test]
fn frames_go_between_c_and_rust_as_frozen_payloads_in_both_directions() {
    let _turn = turn();
    if !has("cc") {
        return skipped("frames_go_between_c_and_rust_as_frozen_payloads", "no C compiler");
    }
    let program = Program::compile("shm/c/examples/frames.c", Link::Shared);
    let rust = env!("CARGO_BIN_EXE_example-frozen-frames");
    frames_go_between(|| Command::new(program.path()), rust);
}
