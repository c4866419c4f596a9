//! Every public call of an end, and the test that makes it against a hostile peer.

use std::collections::BTreeMap;

use super::source::without_tests;
use super::{none, root, rust, tests_of};

/// Where the ends are. What is public there is called by applications.
const ENDS: [&str; 26] = [
    "producer",
    "producer/batch",
    "producer/readers",
    "consumer",
    "received",
    "subscriber",
    "fan_in",
    "merge",
    "call",
    "responder",
    "duplex",
    "typed",
    "typed/many",
    "typed/subscriber",
    "by_value",
    "trusted",
    "frozen/arrivals",
    "frozen/flight",
    "reader",
    "reader/leave",
    "reader/payload",
    "writer",
    "writer/crowd",
    "writer/payload",
    "writer/sleep",
    "follower",
];
const TABLE: &str = "docs/adversaries.md";

/// The type that an `impl` without a trait is for.
fn type_of(line: &str) -> Option<&str> {
    let mut rest = line.strip_prefix("impl")?;
    if rest.starts_with('<') {
        let mut depth = 0;
        let end = rest.char_indices().find(|&(at, c)| {
            depth += i32::from(c == '<') - i32::from(c == '>' && !rest[..at].ends_with('-'));
            depth == 0
        });
        rest = &rest[end?.0 + 1..];
    }
    let name = rest.trim_start();
    let len = name.find(|c: char| !c.is_ascii_alphanumeric())?;
    (!rest.contains(" for ")).then_some(&name[..len])
}

/// The public calls in some code, as `Type::call`.
fn calls(code: &str) -> Vec<String> {
    let (mut found, mut of) = (Vec::new(), None);
    for line in code.lines() {
        if line.starts_with("impl") {
            of = type_of(line);
        }
        let call = line.strip_prefix("    pub fn ").and_then(|rest| rest.split(['(', '<']).next());
        if let (Some(of), Some(call)) = (of, call) {
            found.push(format!("{of}::{call}"));
        }
    }
    found
}

/// The table's calls, each with its test, or `-`.
fn rows(text: &str) -> Vec<(String, String)> {
    let row = |line: &str| -> Option<Vec<(String, String)>> {
        let cells: Vec<&str> = line.strip_prefix("| `")?.split('|').map(str::trim).collect();
        let (of, test) = (cells.first()?.trim_matches('`'), cells.get(2)?.trim_matches('`'));
        let calls = cells.get(1)?.split(", ").map(|call| call.trim_matches('`'));
        Some(calls.map(|call| (format!("{of}::{call}"), test.to_owned())).collect())
    };
    text.lines().filter_map(row).flatten().collect()
}

/// What is wrong between the calls that there are, the table, and the tests that there are.
fn amiss(calls: &[String], rows: &[(String, String)], tests: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut known: BTreeMap<&str, u32> = BTreeMap::new();
    for (call, test) in rows {
        *known.entry(call).or_default() += 1;
        if test != "-" && !tests.contains(test) {
            found.push(format!("{call}: there is no test {test}"));
        }
        if !calls.contains(call) {
            found.push(format!("{call} is no public call"));
        }
    }
    found.extend(calls.iter().filter(|call| !known.contains_key(call.as_str())).map(|call| {
        format!("{call} has no adversary: add it to {TABLE}, and to the test that makes it")
    }));
    let twice = known.iter().filter(|(_, count)| **count > 1);
    found.extend(twice.map(|(call, count)| format!("{call} has {count} rows")));
    found
}

#[test]
fn every_call_has_its_adversary() {
    let files = rust();
    let code_of = |name: &str| {
        let path = format!("shm/src/{name}.rs");
        let file = files.iter().find(|file| file.path == path);
        without_tests(&file.unwrap_or_else(|| panic!("{path} is no end any more")).code)
    };
    let calls: Vec<String> = ENDS.iter().flat_map(|name| calls(&code_of(name))).collect();
    // What makes an end by asking an agent is not a call on one, nor is a question to an error.
    let is_other = |call: &String| call.starts_with("Attach::") || call.contains("Error::");
    let calls: Vec<String> = calls.into_iter().filter(|call| !is_other(call)).collect();
    assert!(
        calls.len() > 150,
        "only {} calls found: the test looks at the wrong lines",
        calls.len()
    );
    let text = std::fs::read_to_string(root().join(TABLE)).expect("the table");
    let tests: Vec<String> =
        files.iter().flat_map(|file| tests_of(&file.path, &file.code)).collect();
    none(&amiss(&calls, &rows(&text), &tests));
}

#[test]
fn a_planted_call_without_an_adversary_is_found() {
    let code = "impl<T: Fn(u8) -> u8> End<T> {\n    pub fn recv(&mut self) {}\n    fn own() {}\n}\n\
                impl Drop for End {\n    pub fn none() {}\n}\n\
                impl End {\n    pub fn poll<R>() {}\n}";
    let calls = calls(code);
    assert_eq!(calls, ["End::recv", "End::poll"]);
    let tests = ["ends::survive".to_owned()];
    let table = "| `End` | `recv`, `poll` | `ends::survive` |";
    assert_eq!(amiss(&calls, &rows(table), &tests), Vec::<String>::new());
    assert_eq!(amiss(&calls, &rows(&table.replace(", `poll`", "")), &tests).len(), 1);
    assert_eq!(amiss(&calls, &rows(&table.replace("`poll`", "`pull`")), &tests).len(), 2);
    assert_eq!(amiss(&calls, &rows(&table.replace("survive", "thrive")), &tests).len(), 2);
    assert_eq!(amiss(&calls, &rows(&table.replace("`recv`, ", "`poll`, ")), &tests).len(), 2);
}
