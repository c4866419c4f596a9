//! The machine code of the data path: how many instructions a message takes, and which are none.
//!
//! Works on `shm/examples/steps.rs`, built for release with the toolchain that the project pins.
//! Counts come from valgrind's callgrind and are compared with `shm/examples/steps.txt`
//! (`BLESS=1` rewrites it): counts do not depend on the load of the machine, as times do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Instant;

use laneway_proto::v1::{self, BroadcastPolicy, Role};
use laneway_tests::agent::{Agent, plain};
use laneway_tests::{skipped, turn};

#[path = "machine_code/executed.rs"]
mod executed;

use executed::{Executed, forbidden};

/// How much a count may grow, in percent.
const GROWTH_PERCENT: f64 = 2.0;
/// What is executed less often than once for so many messages is a look at the clock or the agent.
/// Counters, every 64 messages, are not that seldom.
const SELDOM: u64 = 96;
/// So often in a second do the ends of a slow lane look at the clock, at most: twice in a tenth of
/// the time between two looks at the agent, two ends of a lane or three of a broadcast lane.
const LOOKS: u64 = 40;
const LOOKS_BROADCAST: u64 = 600;
/// Messages of two runs: what one of the difference takes has no share in what starting costs.
const FEW: u64 = 4096;
const MANY: u64 = 36_864;
/// Steps that are counted there and back.
const WHOLE: [&str; 8] =
    ["array", "array-park", "arrays", "packed", "slot", "slot-1024", "slot-4096", "cast"];
/// Names of counts, with the step, the one function of it that is counted, and messages.
const PARTS: [(&str, &str, &str, u64); 12] = [
    ("reserve-commit", "bare", "reserve_commit", MANY),
    ("poll-release", "bare", "poll_release", MANY),
    ("copy-in-64", "copy-64", "copy_in", FEW),
    ("copy-in-1024", "copy-1024", "copy_in", FEW),
    ("copy-in-4096", "copy-4096", "copy_in", FEW),
    ("copy-past-65536", "past-65536", "copy_past", FEW),
    ("copy-out-64", "copy-64", "copy_out", FEW),
    ("copy-out-1024", "copy-1024", "copy_out", FEW),
    ("copy-out-4096", "copy-4096", "copy_out", FEW),
    ("copy-out-65536", "copy-65536", "copy_out", FEW),
    ("lines-4096", "copy-4096", "add_up", FEW),
    ("broadcast-send", "cast", "send_cast", MANY),
];
/// Functions of the example whose code is looked at.
const FUNCTIONS: [&str; 4] = ["send_array", "recv_array", "send_arrays", "recv_arrays"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folder with the example's program and assembly, built once for all tests.
static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = root().join("target/machine-code");
    // Its own folder: the outer `cargo test` holds the lock of the usual one.
    let status = Command::new(env!("CARGO"))
        .args(["rustc", "--quiet", "--release", "--locked", "-p", "laneway-shm"])
        .args(["--example", "steps", "--target-dir"])
        .arg(&target)
        // It inlines less across its units, whatever the outer build wants.
        .env("CARGO_INCREMENTAL", "0")
        .args(["--", "--emit", "asm,link"])
        .current_dir(root())
        .status()
        .expect("cargo is there, it runs this test");
    assert!(status.success(), "the example was not built");
    target.join("release/examples")
});

/// A broadcast lane whose ends spin, and the environment of the process that has all of them.
fn cast_lane(agent: &Agent, name: &str) -> [(&'static str, String); 2] {
    let policy = BroadcastPolicy::Gated.into();
    let spec = v1::LaneSpec {
        shape: v1::Shape::Broadcast.into(),
        wait: v1::WaitMode::Spin.into(),
        broadcast: Some(v1::BroadcastSpec { policy, ..v1::BroadcastSpec::default() }),
        ..plain(name, 56, 64)
    };
    agent.create(spec).expect("lane");
    let roles = [Role::Producer, Role::Consumer, Role::Consumer];
    let socket = agent.attach_socket().display().to_string();
    let tickets = roles.map(|role| agent.ticket(name, role)).join(" ");
    [("LANEWAY_ATTACH_SOCKET", socket), ("LANEWAY_TICKETS", tickets)]
}

/// Runs a step under callgrind: all of it, or what one function executes.
fn run(agent: &Agent, step: &str, messages: u64, function: Option<&str>) -> Executed {
    let out = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--cache-sim=no", "--branch-sim=no", "--dump-instr=yes"]);
    command.args(["--compress-pos=no", "--compress-strings=no", "--demangle=no"]);
    command.arg(format!("--callgrind-out-file={}", out.path().display()));
    if let Some(function) = function {
        // Both manglings write the length of a name before it.
        command.arg(format!("--toggle-collect=*{}{function}*", function.len()));
    }
    if step == "cast" {
        let name = format!("cast-{messages}{}", function.map_or("", |_| "-alone"));
        command.envs(cast_lane(agent, &name));
    }
    command.arg(BUILT.join("steps")).args([step, &messages.to_string()]);
    let output = command.output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{step}: {log}");
    Executed::parse(&fs::read_to_string(out.path()).unwrap())
}

/// How often an instruction of a look is executed at most in a run that began at `start`.
fn seldom(step: &str, messages: u64, start: Instant) -> u64 {
    let looks = if step == "cast" { LOOKS_BROADCAST } else { LOOKS };
    messages / SELDOM + start.elapsed().as_secs() * looks
}

/// What was counted for one message.
struct Counts {
    /// By the name of the count.
    instructions: BTreeMap<&'static str, f64>,
    /// Of each step there and back: what `MANY - FEW` messages executed, but what is seldom.
    executed: BTreeMap<&'static str, Executed>,
}

static COUNTS: LazyLock<Counts> = LazyLock::new(|| {
    let _turn = turn();
    let agent = Agent::start();
    let (mut instructions, mut executed) = (BTreeMap::new(), BTreeMap::new());
    for step in WHOLE {
        let few = run(&agent, step, FEW, None);
        let start = Instant::now();
        let more = run(&agent, step, MANY, None).less(&few);
        let more = more.more_than(seldom(step, MANY - FEW, start));
        instructions.insert(step, more.total() as f64 / (MANY - FEW) as f64);
        executed.insert(step, more);
    }
    for (name, step, function, messages) in PARTS {
        let start = Instant::now();
        let alone = run(&agent, step, messages, Some(function));
        let alone = alone.more_than(seldom(step, messages, start));
        instructions.insert(name, alone.total() as f64 / messages as f64);
    }
    Counts { instructions, executed }
});

/// Why nothing can be counted here, if that is so.
fn obstacle() -> Option<&'static str> {
    if !cfg!(target_arch = "x86_64") {
        return Some("the recorded counts are those of x86-64");
    }
    #[cfg(target_arch = "x86_64")]
    if !is_x86_feature_detected!("avx") {
        return Some("the recorded counts are those of a processor with AVX");
    }
    let valgrind = Command::new("valgrind").arg("--version").output();
    valgrind.is_err().then_some("valgrind is not installed (Debian: apt-get install valgrind)")
}

#[test]
fn a_message_takes_no_more_instructions_than_recorded() {
    if let Some(obstacle) = obstacle() {
        return skipped("a_message_takes_no_more_instructions_than_recorded", obstacle);
    }
    let found = &COUNTS.instructions;
    let lines = found.iter().map(|(name, count)| format!("{name} {count:.1}\n"));
    let text = lines.collect::<String>();
    print!("instructions for a message:\n{text}");
    let recorded = root().join("shm/examples/steps.txt");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&recorded, text).unwrap();
    }
    let recorded = fs::read_to_string(&recorded).unwrap();
    for line in recorded.lines() {
        let (name, before) = line.split_once(' ').expect("a name and a count");
        let (before, now) = (before.parse::<f64>().unwrap(), found[name]);
        let limit = before * (1.0 + GROWTH_PERCENT / 100.0);
        assert!(now <= limit, "{name}: {now:.1} instructions, recorded {before:.1}");
    }
    assert_eq!(recorded.lines().count(), found.len());
}

#[test]
fn no_message_of_a_spinning_lane_executes_an_atomic_read_modify_write_a_fence_or_a_system_call() {
    let test = "no_message_of_a_spinning_lane_executes_an_atomic_read_modify_write_a_fence_or_a_\
                system_call";
    if let Some(obstacle) = obstacle() {
        return skipped(test, obstacle);
    }
    for (step, executed) in &COUNTS.executed {
        assert!(executed.places() > 20, "{step}: only {} instructions", executed.places());
        let bad = executed.bad();
        if *step == "array-park" {
            // The test has teeth: an end that may sleep needs its fence.
            // Every message has it, so that no load of the machine hides it.
            assert!(!bad.is_empty(), "{step}: the fence of a commit was not found");
            assert!(!bad.iter().any(|found| found.is_call), "{step}: {bad:?}");
        } else {
            assert!(bad.is_empty(), "{step}: {bad:?}");
        }
    }
}

/// The lines of code of each function of the example.
fn code() -> BTreeMap<&'static str, Vec<String>> {
    let folder = fs::read_dir(&*BUILT).unwrap().map(|entry| entry.unwrap().path());
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("steps-") && name.ends_with(".s")
    };
    let newest =
        folder.filter(is_ours).max_by_key(|path| path.metadata().unwrap().modified().unwrap());
    let text = fs::read_to_string(newest.expect("the assembly was asked for")).unwrap();
    let mut found = BTreeMap::new();
    for function in FUNCTIONS {
        // As above.
        let mark = format!("{}{function}", function.len());
        let start =
            |line: &&str| line.contains(&mark) && line.ends_with(':') && !line.starts_with('.');
        let body = text.lines().skip_while(|line| !start(line)).skip(1);
        let body = body.take_while(|line| !line.trim_start().starts_with(".size"));
        let body = body.map(str::trim).filter(|line| !line.starts_with(['.', '#']));
        found.insert(function, body.map(str::to_owned).collect());
    }
    found
}

#[test]
fn small_messages_travel_without_calls_to_copy() {
    let test = "small_messages_travel_without_calls_to_copy";
    if !cfg!(target_arch = "x86_64") {
        return skipped(test, "the small messages of x86-64 fit its registers");
    }
    for (function, lines) in code() {
        assert!(lines.len() > 20, "{function}: only {} lines of code found", lines.len());
        let copies =
            |line: &&String| ["memcpy", "memmove", "memset"].iter().any(|c| line.contains(c));
        let bad: Vec<&String> = lines.iter().filter(copies).collect();
        assert!(bad.is_empty(), "{function}: {bad:?}");
    }
}

#[test]
fn planted_instructions_are_found() {
    for (bytes, text) in [
        (&[0xf0, 0x48, 0x01, 0x07][..], "lock add [rdi], rax"),
        (&[0xf0, 0x83, 0x0c, 0x24, 0x00], "lock or [rsp], 0"),
        (&[0xf0, 0x48, 0x0f, 0xb1, 0x0f], "lock cmpxchg [rdi], rcx"),
        (&[0x48, 0x87, 0x07], "xchg [rdi], rax"),
        (&[0x0f, 0xae, 0xf0], "mfence"),
        (&[0x0f, 0xae, 0xf8], "sfence"),
        (&[0x0f, 0xae, 0xe8], "lfence"),
        (&[0x0f, 0x05], "syscall"),
        (&[0xcd, 0x80], "int 0x80"),
    ] {
        assert!(forbidden(bytes).is_some(), "{text}");
    }
    for (bytes, text) in [
        (&[0x48, 0x89, 0x07][..], "mov [rdi], rax"),
        (&[0x48, 0x87, 0xc8], "xchg rax, rcx"),
        (&[0xf3, 0x90], "pause"),
        (&[0xf3, 0xa4], "rep movsb"),
    ] {
        assert!(forbidden(bytes).is_none(), "{text}");
    }
}
