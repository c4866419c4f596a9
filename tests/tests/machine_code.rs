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

use laneway_tests::skipped;

/// How much a count may grow, in percent.
const GROWTH_PERCENT: f64 = 2.0;
const STEPS: [&str; 6] = ["array", "array-park", "arrays", "slot", "slot-1024", "slot-4096"];
/// Functions of the example whose code is looked at.
const FUNCTIONS: [&str; 6] =
    ["send_array", "recv_array", "send_arrays", "recv_arrays", "send_slot", "recv_slot"];

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

/// Instructions of a whole run, as callgrind counts them.
fn instructions(step: &str, messages: u64) -> u64 {
    let out = tempfile::NamedTempFile::new().unwrap();
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--cache-sim=no", "--branch-sim=no"])
        .arg(format!("--callgrind-out-file={}", out.path().display()))
        .arg(BUILT.join("steps"))
        .args([step, &messages.to_string()])
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}");
    let counts = fs::read_to_string(out.path()).unwrap();
    let total = counts.lines().find_map(|line| line.strip_prefix("summary: "));
    total.and_then(|total| total.trim().parse().ok()).expect("callgrind sums up")
}

/// Instructions for one message, there and back, without what starting costs.
fn per_message(step: &str) -> f64 {
    let (few, many) = (4096, 36_864);
    let more = instructions(step, many) - instructions(step, few);
    more as f64 / (many - few) as f64
}

#[test]
fn a_message_takes_no_more_instructions_than_recorded() {
    let test = "a_message_takes_no_more_instructions_than_recorded";
    if !cfg!(target_arch = "x86_64") {
        return skipped(test, "the recorded counts are those of x86-64");
    }
    #[cfg(target_arch = "x86_64")]
    if !is_x86_feature_detected!("avx") {
        return skipped(test, "the recorded counts are those of a processor with AVX");
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        return skipped(test, "valgrind is not installed (Debian: apt-get install valgrind)");
    }
    let found: BTreeMap<&str, f64> = STEPS.map(|step| (step, per_message(step))).into();
    let lines = found.iter().map(|(step, count)| format!("{step} {count:.1}\n"));
    let text = lines.collect::<String>();
    print!("instructions for a message, there and back:\n{text}");
    let recorded = root().join("shm/examples/steps.txt");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&recorded, text).unwrap();
    }
    let recorded = fs::read_to_string(&recorded).unwrap();
    for line in recorded.lines() {
        let (step, before) = line.split_once(' ').expect("a step and a count");
        let (before, now) = (before.parse::<f64>().unwrap(), found[step]);
        let limit = before * (1.0 + GROWTH_PERCENT / 100.0);
        assert!(now <= limit, "{step}: {now:.1} instructions, recorded {before:.1}");
    }
    assert_eq!(recorded.lines().count(), STEPS.len());
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
        // Both manglings write the length of a name before it.
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

/// What the steady path must not have, wherever it stands in a function.
fn forbidden(line: &str) -> bool {
    let name = line.split_whitespace().next().unwrap_or_default();
    let atomic = name == "lock" || name.starts_with("xchg") || name.starts_with("cmpxchg");
    let fence = matches!(name, "mfence" | "sfence" | "lfence");
    let copy = line.contains("memcpy") || line.contains("memmove") || line.contains("memset");
    atomic || fence || name == "syscall" || copy
}

#[test]
fn small_messages_travel_without_atomic_read_modify_writes_fences_or_calls_to_copy() {
    let test = "small_messages_travel_without_atomic_read_modify_writes_fences_or_calls_to_copy";
    if !cfg!(target_arch = "x86_64") {
        return skipped(test, "the forbidden instructions are those of x86-64");
    }
    let code = code();
    for function in ["send_array", "recv_array", "send_arrays", "recv_arrays"] {
        let lines = &code[function];
        assert!(lines.len() > 20, "{function}: only {} lines of code found", lines.len());
        let bad: Vec<&String> = lines.iter().filter(|line| forbidden(line)).collect();
        assert!(bad.is_empty(), "{function}: {bad:?}");
    }
}

#[test]
fn planted_instructions_are_found() {
    for line in ["lock\txaddq %rax, (%rdi)", "lock addl $1, (%rax)", "xchgq %rax, (%rdi)", "mfence"]
    {
        assert!(forbidden(line), "{line}");
    }
    assert!(forbidden("callq\t*memcpy@GOTPCREL(%rip)"));
    assert!(!forbidden("movq\t%rax, (%rdi)"));
}
