//! What the compiler does not check about this tree: who may import whom, where `unsafe` lives,
//! sizes, and that the documents and the code speak of the same things.
//!
//! Each rule is a function from text to what breaks it, and each is shown a planted violation.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use laneway_agent::controller::REASONS;

#[path = "tidy/calls.rs"]
mod calls;
#[path = "tidy/source.rs"]
mod source;

use source::{
    Function, Source, blocks_of_comments, code_of, functions, imports, names, tree, without_tests,
};

/// The only files with `unsafe`, and why.
const UNSAFE: [&str; 16] = [
    "shm/src/region.rs",
    "shm/src/copy.rs",
    "shm/src/futex.rs",
    "shm/src/trusted.rs",
    // The border to C: pointers and handles; the exported functions, whose names and arguments are
    // promises of their callers.
    "shm/c/src/border.rs",
    "shm/c/src/producer.rs",
    "shm/c/src/consumer.rs",
    "shm/c/src/subscriber.rs",
    "shm/c/src/frozen.rs",
    // Calls a copy of `copy.rs` by itself, to have its instructions counted.
    "shm/examples/steps.rs",
    // A caller of the trusted consumer, which only `unsafe` can be: the promise is the caller's.
    "benches/src/trusted.rs",
    // The yardstick of large payloads: two threads take turns at one buffer.
    "benches/src/ideal.rs",
    // Stores that the language has no words for: microcode, past the caches, back to memory.
    "benches/src/stores.rs",
    // The two rivals whose documented way of writing in place ends in an `unsafe` call.
    "benches/src/rivals/in_place.rs",
    // A messaging system and a ring whose clients exist in C only.
    "benches/src/rivals/aeron_calls.rs",
    "benches/src/rivals/dpdk_ring.rs",
];

const LINE_MAX: usize = 100;
const FILE_MAX: usize = 600;
const FUNCTION_MAX: usize = 70;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rust() -> Vec<Source> {
    let files = tree(&root(), &["rs"]);
    assert!(files.len() > 60, "only {} files found: the tests look at the wrong tree", files.len());
    files
}

fn none(violations: &[String]) {
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

/// Whether `path` is in a folder or is the room's file: `agent/src/plan` means `plan.rs`, too.
fn is_in(path: &str, room: &str) -> bool {
    path.strip_prefix(room).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
}

fn is_test(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

// --- unsafe -------------------------------------------------------------------------------------

fn misplaced_unsafe(path: &str, code: &str) -> bool {
    names(code, "unsafe") && !UNSAFE.contains(&path) && !is_test(path)
}

#[test]
fn unsafe_stays_in_its_files() {
    let files = rust();
    let misplaced = files.iter().filter(|file| misplaced_unsafe(&file.path, &file.code));
    none(&misplaced.map(|file| format!("{} names unsafe", file.path)).collect::<Vec<_>>());
    let library = files.iter().find(|file| file.path == "agent/src/lib.rs").expect("agent");
    assert!(library.code.contains("#![forbid(unsafe_code)]"), "agent/src/lib.rs forbids unsafe");
    for path in UNSAFE {
        let there = files.iter().any(|file| file.path == path && names(&file.code, "unsafe"));
        assert!(there, "{path} has no unsafe: take it off the list");
    }
}

#[test]
fn a_planted_unsafe_is_found_and_a_word_in_a_comment_is_not() {
    let planted = code_of("fn f() { unsafe { g() } }");
    assert!(misplaced_unsafe("agent/src/plan.rs", &planted));
    assert!(!misplaced_unsafe("shm/src/copy.rs", &planted));
    for innocent in ["// unsafe\n/* unsafe */", "f(\"unsafe\", r#\"unsafe\"#);", "let unsafe_code;"]
    {
        assert!(!misplaced_unsafe("agent/src/plan.rs", &code_of(innocent)), "{innocent}");
    }
}

/// `unsafe` without the argument why it is sound.
fn unargued(text: &str) -> Vec<String> {
    let code = code_of(text);
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    // `let start =` on a line of its own starts the statement.
    let is_head = |line: &&&str| line.trim_end().ends_with('=');
    for (index, line) in code.lines().enumerate().filter(|(_, line)| names(line, "unsafe")) {
        let outer = |above: &&&str| {
            let above = above.trim_start();
            above.starts_with("//") || above.starts_with("#[")
        };
        let above = lines[..index].iter().rev().skip_while(is_head).take_while(outer);
        let above: Vec<&str> = above.copied().collect();
        let exported = line.contains("unsafe extern") && names(line, "fn");
        let is_function = line.contains("unsafe fn") || exported;
        let needed = if is_function { "# Safety" } else { "SAFETY:" };
        if !line.contains("unsafe(") && !above.iter().any(|above| above.contains(needed)) {
            found.push(format!("line {}: no {needed} above", index + 1));
        }
    }
    found
}

#[test]
fn every_unsafe_block_is_argued() {
    let found = rust().into_iter().flat_map(|file| {
        unargued(&file.text).into_iter().map(move |found| format!("{}: {found}", file.path))
    });
    none(&found.collect::<Vec<_>>());
}

#[test]
fn a_planted_block_without_an_argument_is_found() {
    assert_eq!(unargued("// SAFETY: here is why.\nunsafe { f() }"), Vec::<String>::new());
    assert_eq!(unargued("/// # Safety\n/// Ask.\n#[inline]\nunsafe fn f() {}").len(), 0);
    assert_eq!(unargued("// SAFETY: here is why.\nlet a =\n    unsafe { f() };").len(), 0);
    assert_eq!(unargued("/// # Safety\n/// Ask.\nunsafe extern \"C\" fn f() {}").len(), 0);
    assert_eq!(unargued("// SAFETY: not this word.\nunsafe extern \"C\" fn f() {}").len(), 1);
    assert_eq!(unargued("let a = 1;\nunsafe { f() }").len(), 1);
    assert_eq!(unargued("// SAFETY: far away.\nlet a = 1;\nunsafe impl Send for A {}").len(), 1);
    assert_eq!(unargued("// SAFETY: not this word.\nunsafe fn f() {}").len(), 1);
}

// --- orderings ----------------------------------------------------------------------------------

/// The labels of `Pairs with … [label]`, with the line and the function of each.
fn labels(text: &str) -> Vec<(String, usize, String)> {
    let functions = functions(&code_of(text));
    let mut found = Vec::new();
    for (line, comment) in blocks_of_comments(text) {
        for part in comment.split("Pairs with").skip(1) {
            let label = part.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
            let label = label.map_or("no label", |(label, _)| label).to_owned();
            let inside = functions.iter().rfind(|f| f.first <= line && line <= f.last);
            let inside = inside.map_or_else(String::new, |f| format!("{}:{}", f.name, f.first));
            found.push((label, line, inside));
        }
    }
    found
}

fn unpaired(labels: &[(String, usize, String)]) -> Vec<String> {
    let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (label, _, function) in labels {
        places.entry(label).or_default().push(function);
    }
    let alone = places.into_iter().filter(|(_, at)| at.len() != 2 || at[0] == at[1]);
    alone.map(|(label, at)| format!("[{label}] is in {at:?}")).collect()
}

#[test]
fn ordering_labels_come_in_pairs() {
    let mut all = Vec::new();
    for file in rust().iter().filter(|file| file.path.starts_with("shm/src/")) {
        let found = labels(&file.text).into_iter();
        all.extend(found.map(|(label, line, f)| (label, line, format!("{} {f}", file.path))));
    }
    assert!(all.len() >= 8, "the ring's orderings name their partners: {all:?}");
    none(&unpaired(&all));
}

#[test]
fn a_planted_lonely_or_self_paired_label_is_found() {
    let pair = "fn a() {\n// Pairs with b\n// [x].\n}\nfn b() {\n// Pairs with a [x].\n}";
    assert_eq!(labels(pair).len(), 2);
    assert_eq!(unpaired(&labels(pair)), Vec::<String>::new());
    assert_eq!(unpaired(&labels(&pair.replace("a [x]", "a [y]"))).len(), 2);
    assert_eq!(unpaired(&labels(&pair.replace("a [x]", "a"))).len(), 2);
    let same = "fn a() {\n// Pairs with a [x].\nf();\n// Pairs with a [x].\n}";
    assert_eq!(unpaired(&labels(same)).len(), 1);
}

// --- rooms --------------------------------------------------------------------------------------

/// Rooms that only compute: the same input, the same output, on any machine.
const PURE: [&str; 7] = [
    "agent/src/model",
    "agent/src/admission",
    "agent/src/placement",
    "agent/src/ledger",
    "agent/src/plan",
    "agent/src/recovery",
    "agent/src/workload",
];

/// What a file may not name, each with the rule that it breaks.
fn forbidden(path: &str) -> Vec<(&'static str, &'static str)> {
    let mut list = Vec::new();
    let mut forbid = |rule, words: &[&'static str]| {
        list.extend(words.iter().map(|word| (*word, rule)));
    };
    if PURE.iter().any(|room| is_in(path, room)) {
        let effects = ["tokio", "nix", "tonic", "std::fs", "std::net", "std::process"];
        forbid("a pure room has no effects", &effects);
        let clocks = ["std::time::Instant", "std::time::SystemTime"];
        forbid("time comes into a pure room as an argument", &clocks);
    }
    if path.starts_with("shm/") {
        forbid("workloads link shm alone", &["tonic", "laneway_agent", "laneway_proto"]);
        if !is_in(path, "shm/src/asynchronous") && path != "shm/examples/async_service.rs" {
            forbid("only the async ends know a runtime", &["tokio"]);
        }
    }
    if path.starts_with("proto/") {
        forbid("proto knows nothing of ours", &["laneway_agent", "laneway_shm"]);
    }
    if path.starts_with("shm/src/") && path != "shm/src/sync.rs" {
        forbid("atomics come through the seam", &["std::sync::atomic", "core::sync::atomic"]);
    }
    if path != "shm/src/region.rs" {
        forbid("only region maps", &["memmap2"]);
    }
    let writes = path == "agent/src/journal.rs" || is_in(path, "agent/src/controller");
    if path.starts_with("agent/src/") && !writes {
        let words = ["put_lane", "remove_lane", "put_ticket", "put_taken", "prune"];
        forbid("only the controller writes lanes and tickets", &words);
        if path != "agent/src/agent.rs" {
            forbid("only the controller and the start write facts", &["set_fact"]);
        }
    }
    list
}

/// What a file names although it may not.
fn trespasses(path: &str, code: &str) -> Vec<String> {
    let code = without_tests(code);
    let imported = imports(&code);
    let has = |word: &str| names(&code, word) || imported.iter().any(|path| names(path, word));
    let mut found: Vec<String> = forbidden(path)
        .into_iter()
        .filter(|(word, _)| has(word))
        .map(|(word, rule)| format!("{path} names {word}: {rule}"))
        .collect();
    let both = has("laneway_proto") && has("model::lane");
    if path.starts_with("agent/src/") && both && path != "agent/src/service/convert.rs" {
        found.push(format!("{path} names messages and values: only service/convert.rs may"));
    }
    found
}

#[test]
fn rooms_import_only_what_they_may() {
    let files = rust();
    for room in PURE {
        let there = files.iter().any(|file| is_in(&file.path, room));
        assert!(there, "{room} is no room any more");
    }
    let product = files.iter().filter(|file| !is_test(&file.path));
    none(&product.flat_map(|file| trespasses(&file.path, &file.code)).collect::<Vec<_>>());
}

#[test]
fn planted_trespasses_are_found() {
    for (path, code) in [
        ("agent/src/model/id.rs", "use std::fs;"),
        ("agent/src/model/id.rs", "use std::{fmt, fs::{self, File}};"),
        ("agent/src/plan.rs", "use std::time::{Duration, Instant};"),
        ("agent/src/plan.rs", "fn f() { std::time::SystemTime::now(); }"),
        ("agent/src/placement/score.rs", "use nix::unistd;"),
        ("agent/src/service/lane_service.rs", "use laneway_proto::v1;\nuse crate::model::lane::A;"),
        ("agent/src/service/status.rs", "use laneway_proto::v1;\nuse crate::model::{lane, id};"),
        ("shm/src/ring.rs", "use std::sync::{Arc, atomic::AtomicU64};"),
        ("shm/src/memfd.rs", "use memmap2::MmapRaw;"),
        ("shm/tests/lane.rs", "use laneway_agent::config;"),
        ("shm/src/consumer.rs", "use tokio::io::unix::AsyncFd;"),
        ("shm/src/asynchronous/alarm.rs", "use tonic::Status;"),
        ("proto/src/lib.rs", "use laneway_shm::wire;"),
        ("agent/src/registry.rs", "fn f(j: &Journal) { j.put_lane(&lane, None); }"),
    ] {
        assert_eq!(trespasses(path, code).len(), 1, "{path}: {code}");
    }
    for (path, code) in [
        ("agent/src/model/id.rs", "use std::{fmt, time::Duration};"),
        ("agent/src/plan.rs", "#[cfg(test)]\nmod tests {\n use std::fs;\n}"),
        ("agent/src/service/convert.rs", "use laneway_proto::v1;\nuse crate::model::lane::A;"),
        ("agent/src/controller/create.rs", "fn f() { self.journal.put_lane(&lane, None); }"),
        ("shm/src/sync.rs", "use std::sync::atomic::AtomicU64;"),
    ] {
        assert_eq!(trespasses(path, code), Vec::<String>::new(), "{path}: {code}");
    }
}

// --- sizes --------------------------------------------------------------------------------------

fn wide_lines(text: &str) -> Vec<String> {
    let wide = text.lines().enumerate().filter(|(_, line)| line.chars().count() > LINE_MAX);
    wide.map(|(index, line)| format!("{}: {} columns", index + 1, line.chars().count())).collect()
}

fn long_functions(code: &str) -> Vec<String> {
    let length = |f: &Function| f.last + 1 - f.first;
    let long = functions(code).into_iter().filter(|f| length(f) > FUNCTION_MAX);
    long.map(|f| format!("fn {} has {} lines", f.name, length(&f))).collect()
}

#[test]
fn files_and_functions_stay_small() {
    let mut found = Vec::new();
    for file in tree(&root(), &["rs", "proto", "py"]) {
        let path = &file.path;
        found.extend(wide_lines(&file.text).into_iter().map(|wide| format!("{path}:{wide}")));
        let lines = without_tests(&file.code).trim_end().lines().count();
        if lines > FILE_MAX {
            found.push(format!("{path} has {lines} lines"));
        }
        if path.ends_with(".rs") {
            let long = long_functions(&file.code).into_iter();
            found.extend(long.map(|long| format!("{path}: {long}")));
        }
    }
    none(&found);
}

#[test]
fn a_planted_long_line_file_and_function_are_found() {
    assert_eq!(wide_lines(&format!("a\n{}\n{}", "ä".repeat(100), "b".repeat(101))).len(), 1);
    let long = format!("fn f() {{\n{}}}\nfn g() {{}}", "    a();\n".repeat(69));
    assert_eq!(long_functions(&long), ["fn f has 71 lines"]);
    assert_eq!(long_functions(&long.replacen("    a();\n", "", 1)), Vec::<String>::new());
    let tests = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{}}}\n", "a();\n".repeat(700));
    assert_eq!(without_tests(&tests).trim_end().lines().count(), 1);
}

// --- documents ----------------------------------------------------------------------------------

/// The tests of a file, as `stem::name`. A `mod.rs` goes by its folder's name.
fn tests_of(path: &str, code: &str) -> Vec<String> {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    let stem = path.rsplit('/').next().unwrap_or(path);
    let lines: Vec<&str> = code.lines().map(str::trim).collect();
    let tested = |f: &&Function| {
        let above = lines[..f.first - 1].iter().rev();
        let mut attributes = above.take_while(|line| line.is_empty() || line.starts_with("#["));
        attributes.any(|line| line.contains("test]"))
    };
    functions(code).iter().filter(tested).map(|f| format!("{stem}::{}", f.name)).collect()
}

/// What is wrong with the table of promises: `| n | promise | proven by |`.
fn unproven(specification: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    let mut last = 0;
    for line in specification.lines().filter(|line| line.trim_start().starts_with('|')) {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let Some(number) = cells.first().and_then(|cell| cell.parse::<u32>().ok()) else {
            continue;
        };
        // Numbers stay when a promise goes: others may have quoted them.
        if number <= last {
            found.push(format!("promise {number} comes after {last}"));
        }
        last = number;
        let proof = cells.last().copied().unwrap_or_default();
        let named: Vec<&str> =
            proof.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect();
        if named.is_empty() && !names(proof, "pending") {
            found.push(format!("promise {number} names no test and is not pending"));
        }
        let missing = named.iter().filter(|name| !tests.contains(**name));
        found.extend(missing.map(|name| format!("promise {number}: there is no test {name}")));
    }
    if last == 0 {
        found.push("there is no promise at all".to_owned());
    }
    found
}

#[test]
fn every_specification_line_names_an_existing_test() {
    let text = fs::read_to_string(root().join("SPECIFICATION.md")).expect("SPECIFICATION.md");
    let tests = rust().iter().flat_map(|file| tests_of(&file.path, &file.code)).collect();
    none(&unproven(&text, &tests));
}

#[test]
fn a_planted_promise_without_a_proof_is_found() {
    let code = "#[test]\nfn good() {}\n#[test]\n/// A test.\n#[cfg(x)]\nfn also() {}\nfn no() {}";
    let code = code_of(code);
    let tests: BTreeSet<String> = tests_of("tests/tests/a.rs", &code).into_iter().collect();
    assert_eq!(tests, ["a::also", "a::good"].map(str::to_owned).into());
    let table = "| n | promise | proven by |\n|---|---|---|\n| 1 | x | `a::good`, `a::also` |\n";
    assert_eq!(unproven(&format!("{table}| 2 | y | pending |"), &tests), Vec::<String>::new());
    for line in ["| 1 | y | pending |", "| 2 | y | `a::no` |", "| 2 | y | soon |", "| 2 | y | |"] {
        assert_eq!(unproven(&format!("{table}{line}"), &tests).len(), 1, "{line}");
    }
    assert_eq!(unproven("no table", &tests).len(), 1);
}

/// Reasons that only the attach socket gives, in `attach/session.rs`.
const ATTACH_REASONS: [&str; 2] = ["DEADLINE_EXCEEDED", "FRAME_INVALID"];

/// What one of the two lists has and the other has not. Rows of small letters are other tables'.
fn undocumented(page: &str, reasons: &[&str]) -> Vec<String> {
    let row = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    let is_reason = |word: &String| word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    let documented: BTreeSet<String> = page.lines().filter_map(row).filter(is_reason).collect();
    let known: BTreeSet<String> = reasons.iter().map(ToString::to_string).collect();
    let missing = known.difference(&documented).map(|word| format!("{word} is not documented"));
    let extra = documented.difference(&known).map(|word| format!("{word} is never given"));
    missing.chain(extra).collect()
}

#[test]
fn every_reason_is_documented() {
    let page = fs::read_to_string(root().join("docs/errors.md")).expect("docs/errors.md");
    let session = fs::read_to_string(root().join("agent/src/attach/session.rs")).expect("session");
    for reason in ATTACH_REASONS {
        assert!(session.contains(&format!("\"{reason}\"")), "{reason} is never given");
    }
    none(&undocumented(&page, &[&ATTACH_REASONS[..], &REASONS[..]].concat()));
}

#[test]
fn a_planted_reason_without_a_row_is_found() {
    let page = "| reason |\n| `A` | x |\n| `B` | y |\n| `fact` | z |";
    assert_eq!(undocumented(page, &["A", "B"]), Vec::<String>::new());
    assert_eq!(undocumented(page, &["A", "C"]).len(), 2);
}

// --- leftovers ----------------------------------------------------------------------------------

/// What somebody meant to come back to. The words are put together here so that this file is clean.
fn leftovers(text: &str) -> Vec<String> {
    let code = code_of(text);
    let marks =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX"), concat!("HA", "CK")];
    let words = [
        concat!("#[", "ignore"),
        concat!("dbg", "!"),
        concat!("todo", "!"),
        concat!("unimplemented", "!"),
        concat!("allow(", "dead_code"),
    ];
    let marked = marks.iter().filter(|mark| names(text, mark)).map(ToString::to_string);
    let left = words.iter().filter(|word| code.contains(*word)).map(ToString::to_string);
    marked.chain(left).collect()
}

#[test]
fn nothing_is_left_to_do() {
    let files = tree(&root(), &["rs", "proto", "py", "md", "toml", "yaml", "yml"]);
    let found = files.iter().flat_map(|file| {
        leftovers(&file.text).into_iter().map(|mark| format!("{}: {mark}", file.path))
    });
    none(&found.collect::<Vec<_>>());
}

#[test]
fn a_planted_leftover_is_found() {
    let ignored = concat!("#[", "ignore]\nfn f() {}");
    let later = [concat!("// TO", "DO later"), concat!("todo", "!()")];
    for planted in [later[0], later[1], "dbg!(a);", ignored] {
        assert_eq!(leftovers(planted).len(), 1, "{planted}");
    }
    assert_eq!(leftovers(concat!("#![allow(", "dead_code)]")).len(), 1);
    assert_eq!(leftovers("// the method of the day, \"dbg!\""), Vec::<String>::new());
}
