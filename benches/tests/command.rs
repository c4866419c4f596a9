//! The program as people call it: real agents, real lanes, real rivals, tiny times.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

fn bench(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_laneway-bench"))
        .args(arguments)
        .current_dir(directory)
        .output()
        .expect("the program starts")
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn succeeded(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Two cpus, for one test at a time: what spins on them beside it makes every sample one that does
/// not count.
fn two_cpus() -> Option<MutexGuard<'static, ()>> {
    static CPUS: Mutex<()> = Mutex::new(());
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("SKIPPED: a lane is measured between two cpus, and this process has one");
        return None;
    }
    Some(CPUS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// What `report` wrote, with every part that a reader looks for.
fn check_page(path: PathBuf, expected: &[&str]) {
    let page = std::fs::read_to_string(&path).expect("the page");
    assert!(page.contains("<polyline"), "{page}");
    check_page_without_curves(path, expected);
}

/// The same of what may have too few points for a curve.
fn check_page_without_curves(path: PathBuf, expected: &[&str]) {
    let page = std::fs::read_to_string(path).expect("the page");
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let parsed = roxmltree::Document::parse_with_options(&page, options).expect("well-formed");
    for expected in expected {
        let found =
            |node: roxmltree::Node<'_, '_>| node.text().is_some_and(|text| text.contains(expected));
        assert!(parsed.descendants().any(found), "{expected}");
    }
}

#[test]
fn a_run_becomes_a_page_a_text_and_json_that_reads_back() {
    let Some(_cpus) = two_cpus() else { return };
    let directory = directory();
    // On a busy machine the cpus seem to move: some of three rounds will count.
    let small = ["--sizes", "64", "--rounds", "3", "--seconds", "0.02"];
    let pages = ["--page-size", "4KiB", "--plot", "lanes.svg", "--json"];
    let run = bench(directory.path(), &[&["run"], &small[..], &pages[..]].concat());
    std::fs::write(directory.path().join("run.json"), succeeded(&run)).expect("a file");
    let picture = std::fs::read_to_string(directory.path().join("lanes.svg")).expect("a picture");
    assert!(roxmltree::Document::parse(&picture).is_ok());

    let report = ["report", "--input", "run.json", "--markdown", "run.md", "--json", "all.json"];
    succeeded(&bench(directory.path(), &report));
    check_page(directory.path().join("report.html"), &["laneway", "Method", "hand-over"]);
    let text = std::fs::read_to_string(directory.path().join("run.md")).expect("Markdown");
    assert!(text.contains("| 64 | all | laneway |"), "{text}");

    let again =
        ["report", "--input", "all.json", "--output", "again.html", "--pictures", "pictures"];
    succeeded(&bench(directory.path(), &again));
    assert!(directory.path().join("pictures").read_dir().expect("pictures").count() > 0);
    check_page(directory.path().join("again.html"), &["laneway"]);
}

/// The page of a result that a command wrote with `--json`.
fn shown(result: &serde_json::Value, kind: &str, expected: &str) {
    assert_eq!((&result["version"], &result["kind"]), (&1.into(), &kind.into()));
    let directory = directory();
    std::fs::write(directory.path().join("result.json"), result.to_string()).expect("a file");
    let report =
        ["report", "--input", "result.json", "--markdown", "page.md", "--json", "all.json"];
    succeeded(&bench(directory.path(), &report));
    check_page_without_curves(directory.path().join("report.html"), &[expected, "Method"]);
    let text = std::fs::read_to_string(directory.path().join("page.md")).expect("Markdown");
    assert!(text.contains(expected), "{text}");
    succeeded(&bench(directory.path(), &["report", "--input", "all.json"]));
}

#[test]
fn what_a_broadcast_costs_is_measured_for_each_number_of_readers() {
    let Some(_cpus) = two_cpus() else { return };
    let small = ["--rounds", "6", "--seconds", "0.02", "--json"];
    for (policy, readers) in [("gated", "1,3"), ("overwrite", "2")] {
        let asked = ["broadcast", "--policy", policy, "--readers", readers];
        let output = bench(directory().path(), &[&asked[..], &small[..]].concat());
        let report: serde_json::Value =
            serde_json::from_str(&succeeded(&output)).expect("one JSON object");
        let rows = report["rows"].as_array().expect("rows");
        for readers in readers.split(',').map(|readers| readers.parse::<u64>().expect("a number")) {
            let row = rows.iter().find(|row| row["readers"] == readers);
            // On a busy machine the cpus seem to move: some of the rounds will count.
            let cost =
                row.and_then(|row| row["reading_ns"].as_f64().or_else(|| row["quiet_ns"].as_f64()));
            assert!(cost.is_some_and(|cost| cost > 0.0), "{policy}, {readers}: {report}");
        }
        shown(&report, "broadcast", "Cost of a message");
    }
}

/// A sheet of trials: whatever has no figure says why.
fn trials(arguments: &[&str], expected: &[(&str, &str)]) -> serde_json::Value {
    let output = bench(directory().path(), &[arguments, &["--json"]].concat());
    let sheet: serde_json::Value =
        serde_json::from_str(&succeeded(&output)).expect("one JSON object");
    assert_eq!((&sheet["version"], &sheet["kind"]), (&1.into(), &arguments[0].into()));
    for (what, way) in expected {
        let is = |trial: &serde_json::Value| trial["what"] == *what && trial["way"] == *way;
        let samples = sheet["samples"].as_array().expect("samples");
        let found = samples.iter().filter(|sample| is(sample));
        assert!(found.clone().all(|sample| sample["nanos"].as_f64() > Some(0.0)), "{sheet}");
        let absent = sheet["absent"].as_array().expect("absent").iter().find(|trial| is(trial));
        let why = absent.map(|absent| absent["why"].to_string());
        assert!(found.count() > 0 || why.is_some(), "{what} {way}: {sheet}");
    }
    shown(&sheet, arguments[0], "in turns");
    sheet
}

#[test]
fn a_sleeper_is_woken_by_a_lane_and_by_a_bare_futex_in_the_same_rounds() {
    let Some(_cpus) = two_cpus() else { return };
    let small = ["wake", "--gaps", "1000", "--rounds", "2", "--seconds", "0.1"];
    let expected =
        [("wake-up", "futex"), ("wake-up", "lane"), ("publish", "spin"), ("publish", "park")];
    let sheet = trials(&small, &expected);
    let woken = sheet["samples"].as_array().expect("samples").iter();
    let mut woken = woken.filter(|sample| sample["what"] == "wake-up");
    assert!(woken.all(|sample| sample["gap_us"] == 1000), "{sheet}");
}

#[test]
fn every_way_to_copy_is_tried_or_says_why_not() {
    let Some(_cpus) = two_cpus() else { return };
    let ways = ["memcpy", "rep-movsb", "non-temporal", "in-place", "written-back"];
    let mut expected = ways.map(|way| ("hand-over", way)).to_vec();
    expected.extend([("copy-out", "memcpy"), ("copy-out", "lane")]);
    expected.extend(["in-place", "copied", "pieces", "lines"].map(|way| ("looked-at", way)));
    let sheet = trials(&["copies", "--quick", "--seconds", "0.02"], &expected);
    // One core copies however busy the machine is.
    let rows = sheet["rows"].as_array().expect("rows");
    let copied = |row: &&serde_json::Value| row["what"] == "copy-out" && row["way"] == "lane";
    assert_eq!(rows.iter().filter(copied).count(), 9, "{sheet}");
    assert!(rows.iter().filter(copied).all(|row| row["times"].as_f64() > Some(0.0)), "{sheet}");
    let judged = sheet["targets"].as_array().expect("targets").iter();
    assert_eq!(judged.filter(|target| target["class"] == "core").count(), 9, "{sheet}");
}

#[test]
fn what_a_pause_does_is_measured_for_a_line_messages_and_streams() {
    let Some(_cpus) = two_cpus() else { return };
    let expected = ["line", "message", "stream"];
    let expected = expected.map(|what| [(what, "no-pause"), (what, "pause")]).concat();
    trials(&["pause", "--quick", "--rounds", "2"], &expected);
}

#[test]
fn a_file_that_is_no_report_is_named_with_what_to_do() {
    let directory = directory();
    std::fs::write(directory.path().join("odd.json"), "{\"a\": 1}").expect("a file");
    let output = bench(directory.path(), &["report", "--input", "odd.json"]);
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("odd.json") && error.contains("run --json"), "{error}");
}

#[test]
fn the_control_plane_is_measured_beside_a_plain_echo_and_every_end_attaches() {
    let Some(_cpus) = two_cpus() else { return };
    let directory = directory();
    let small = ["--lanes", "16", "--attaches", "2", "--seconds", "0.02", "--quick"];
    let output = bench(directory.path(), &[&["control", "--json"], &small[..]].concat());
    let report: serde_json::Value =
        serde_json::from_str(&succeeded(&output)).expect("one JSON object");
    let rows = report["rows"].as_array().expect("rows");
    let row = |what: &str, callers: u64| {
        let found = |row: &&serde_json::Value| row["what"] == what && row["callers"] == callers;
        rows.iter().find(found).unwrap_or_else(|| panic!("{what} by {callers}: {rows:?}"))
    };
    for callers in [1, 16] {
        assert!(row("echo", callers)["p50_us"].as_f64() > Some(0.0));
        for call in ["get", "create", "ticket", "delete"] {
            assert_eq!(row(call, callers)["beside"]["what"], "echo", "{call}");
        }
    }
    for what in [
        "list",
        "connect",
        "refusal",
        "producer-alone",
        "producer-joins",
        "producer-again",
        "consumer-alone",
        "consumer-joins",
        "consumer-receives",
        "consumer-again",
        "consumer-asks",
        "producer-leaves",
        "consumer-leaves",
        "process",
        "first-message",
    ] {
        assert!(row(what, 1)["calls"].as_u64() > Some(0), "{what}");
    }
    // Descriptors and mappings are counts: they do not depend on how busy the machine is.
    let footprints = report["footprints"].as_array().expect("footprints");
    let ends = |footprint: &&serde_json::Value| {
        footprint["lanes"] == 16 && footprint["process"] != "agent"
    };
    let ends: Vec<_> = footprints.iter().filter(ends).collect();
    assert_eq!(ends.len(), 2, "{footprints:?}");
    for end in ends {
        assert!(end["per_lane"]["fds"].as_f64() >= Some(2.0), "{end}");
        assert!(end["per_lane"]["maps"].as_f64() >= Some(2.0), "{end}");
    }
    assert_eq!(report["idle"]["lanes"], 16);
    shown(&report, "control", "With 16 lanes there");
}

#[test]
fn the_steps_of_an_attach_are_timed_on_both_sides() {
    let Some(_cpus) = two_cpus() else { return };
    let directory = directory();
    let arguments = ["control", "--steps", "--json", "--quick", "--attaches", "3"];
    let output = bench(directory.path(), &arguments);
    let report: serde_json::Value =
        serde_json::from_str(&succeeded(&output)).expect("one JSON object");
    let courses = report["courses"].as_array().expect("courses");
    assert_eq!(courses.len(), 4, "{courses:?}");
    for (what, last) in [
        ("producer-joins", "send a message"),
        ("consumer-alone", "make the handle"),
        ("consumer-receives", "receive a message"),
    ] {
        let course = courses.iter().find(|course| course["what"] == what).expect(what);
        let steps = course["steps"].as_array().expect("steps");
        let done = |side: &str, name: &str| {
            let step = steps.iter().find(|step| step["side"] == side && step["step"] == name);
            let step = step.unwrap_or_else(|| panic!("{name} of {what}: {steps:?}"));
            assert_eq!(step["times"], 3, "{name} of {what}");
            step["at_us"].as_f64().expect("a time")
        };
        let in_turn = [
            done("client", "connect"),
            done("agent", "hear HELLO"),
            done("agent", "judge, make a segment"),
            done("client", "map and touch"),
            done("agent", "hear MAPPED"),
        ];
        assert!(in_turn.is_sorted(), "{what}: {in_turn:?}");
        done("agent", "send GRANT");
        done("client", last);
    }
    shown(&report, "control-steps", "wait for GRANT");
}

#[cfg(not(feature = "rivals"))]
#[test]
fn without_rivals_compare_says_how_to_get_them() {
    let directory = directory();
    for arguments in [&["compare"][..], &["compare", "--quick", "--rivals", "pipe"]] {
        let output = bench(directory.path(), arguments);
        assert!(!output.status.success());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("--features rivals -- compare"), "{error}");
    }
}

#[cfg(feature = "rivals")]
mod rivals {
    #[cfg(feature = "rivals-aeron")]
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn compare(arguments: &[&str]) -> Value {
        let directory = directory();
        let small = ["compare", "--rounds", "1", "--seconds", "0.02", "--page-size", "4KiB"];
        let output = bench(directory.path(), &[&small[..], arguments, &["--json"]].concat());
        serde_json::from_str(&succeeded(&output)).expect("one JSON object")
    }

    /// Whether there are figures of `who` at `work` and `bytes`.
    fn measured(report: &Value, who: &str, work: &str, bytes: u64) -> bool {
        let samples = report["samples"].as_array().expect("samples");
        samples.iter().any(|sample| {
            let kind = if work == "latency" { "latency" } else { "throughput" };
            (sample["who"].as_str(), sample["work"].as_str()) == (Some(who), Some(work))
                && sample["bytes"] == bytes
                && sample[kind].is_object()
        })
    }

    /// Why there are no figures, if somebody said so.
    fn absent<'a>(report: &'a Value, who: &str, work: &str, bytes: u64) -> Option<&'a str> {
        let mut absent = report["absent"].as_array().expect("absent").iter();
        let found = absent.find(|absent| {
            (&absent["who"], &absent["work"]) == (&who.into(), &work.into())
                && absent["bytes"] == bytes
        });
        found.and_then(|absent| absent["why"].as_str())
    }

    /// What a rival says that passed every message it was given time for, which were too few.
    const TOO_FEW: &str = "too few messages";

    #[test]
    fn every_rival_passes_every_byte_of_small_and_large_messages() {
        let Some(_cpus) = two_cpus() else { return };
        let report = compare(&["--sizes", "64,4096"]);
        let mut counts = (0, 0);
        // On a busy machine an end may not run at all for as long as a measurement takes.
        let mut check = |who, work, bytes| {
            let why = absent(&report, who, work, bytes);
            let few = why.is_some_and(|why| why.contains(TOO_FEW));
            let found = measured(&report, who, work, bytes);
            assert!(found || few, "{who} {work} {bytes}: {why:?}");
            counts = (counts.0 + u32::from(found), counts.1 + 1);
        };
        for who in [
            "laneway",
            "rtrb",
            "array-queue",
            "crossbeam-channel",
            "ringbuf",
            "iceoryx2",
            "shmem-ipc",
            "ipc-channel",
            "pipe",
            "unix-stream",
            "unix-seqpacket",
            "tcp",
            "tonic-stream",
        ] {
            for work in ["latency", "stream"] {
                check(who, work, 64);
                check(who, work, 4096);
            }
        }
        check("tonic-unary", "latency", 64);
        check("sent", "stream", 4096);
        for who in ["laneway", "rtrb", "ringbuf", "shmem-ipc", "pipe", "unix-stream", "tcp"] {
            check(who, "batch", 64);
        }
        assert!(counts.0 * 2 > counts.1, "figures of {} among {} cells", counts.0, counts.1);
        let why = absent(&report, "tonic-unary", "stream", 64).expect("a reason");
        assert!(why.contains("round trip"), "{why}");
    }

    #[test]
    fn sleeping_ends_are_compared_with_rivals_that_can_sleep() {
        let Some(_cpus) = two_cpus() else { return };
        let rivals = "rtrb,crossbeam-channel,iceoryx2,shmem-ipc,ipc-channel,pipe,tonic-unary";
        let report = compare(&["--wait", "park", "--no-pin", "--sizes", "64", "--rivals", rivals]);
        assert_eq!(report["method"]["wait"], "park");
        assert_eq!(report["method"]["pinned"], false);
        for who in ["laneway", "crossbeam-channel", "iceoryx2", "shmem-ipc", "ipc-channel", "pipe"]
        {
            let why = absent(&report, who, "latency", 64);
            let few = why.is_some_and(|why| why.contains(TOO_FEW));
            assert!(measured(&report, who, "latency", 64) || few, "{who}: {why:?}");
        }
        let why = absent(&report, "rtrb", "latency", 64).expect("a reason");
        assert!(why.contains("sleeps"), "{why}");
    }

    #[cfg(feature = "rivals-dpdk")]
    #[test]
    fn dpdks_ring_passes_every_byte_copied_and_in_place() {
        let Some(_cpus) = two_cpus() else { return };
        let report = compare(&["--sizes", "56,64,65536", "--rivals", "dpdk-ring,dpdk-in-place"]);
        let mut found = 0;
        let mut check = |who, work, bytes| {
            let why = absent(&report, who, work, bytes);
            let few = why.is_some_and(|why| why.contains(TOO_FEW));
            let measured = measured(&report, who, work, bytes);
            assert!(measured || few, "{who} {work} {bytes}: {why:?}");
            found += u32::from(measured);
        };
        for work in ["latency", "stream", "batch"] {
            for who in ["dpdk-ring", "dpdk-in-place"] {
                check(who, work, 56);
                check(who, work, 64);
            }
        }
        check("dpdk-in-place", "latency", 65536);
        check("dpdk-in-place", "stream", 65536);
        assert!(found > 7, "figures of {found} among 14 cells");
        let why = absent(&report, "dpdk-ring", "stream", 65536).expect("a reason");
        assert!(why.contains("in place"), "{why}");
    }

    #[cfg(feature = "rivals-aeron")]
    #[test]
    fn aeron_passes_every_byte_claimed_and_offered_and_leaves_nothing_in_memory() {
        let Some(_cpus) = two_cpus() else { return };
        let left = || {
            let files = std::fs::read_dir("/dev/shm").expect("memory").flatten();
            let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
            names.filter(|name| name.starts_with("laneway-rival-")).collect::<BTreeSet<_>>()
        };
        let before = left();
        let report = compare(&["--sizes", "64,4096,65536", "--rivals", "aeron"]);
        // What is new is another test's, which removes it, or it stays for ever.
        let new: BTreeSet<_> = left().difference(&before).cloned().collect();
        let start = std::time::Instant::now();
        while !left().is_disjoint(&new) {
            assert!(start.elapsed().as_secs() < 300, "left in memory: {new:?}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let mut found = 0;
        for work in ["latency", "stream"] {
            for bytes in [64, 4096, 65536] {
                let why = absent(&report, "aeron", work, bytes);
                let few = why.is_some_and(|why| why.contains(TOO_FEW));
                let measured = measured(&report, "aeron", work, bytes);
                assert!(measured || few, "{work} {bytes}: {why:?}");
                found += u32::from(measured);
            }
        }
        assert!(found > 3, "figures of {found} among 6 cells");
    }

    #[test]
    fn what_is_not_asked_for_is_not_measured() {
        let Some(_cpus) = two_cpus() else { return };
        let asked = ["--sizes", "64", "--rivals", "rtrb", "--work", "latency,batch"];
        let how = ["--copy", "trusted", "--latency-depths", "4,64"];
        let report = compare(&[&asked[..], &how].concat());
        let both = ["samples", "absent"];
        let cells = both.iter().flat_map(|key| report[key].as_array().expect("cells"));
        let mut found: Vec<_> = cells
            .filter(|cell| cell["work"] != "copy" && cell["who"] != "ideal")
            .map(|cell| {
                let word = |key: &str| cell[key].as_str().expect("a word").to_owned();
                (word("work"), word("who"), cell["depth"].as_u64().expect("slots"))
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        let cell = |work: &str, who: &str, slots| (work.to_owned(), who.to_owned(), slots);
        let expected = [
            cell("batch", "rtrb", 1024),
            cell("batch", "rtrb", 65536),
            cell("latency", "rtrb", 4),
            cell("latency", "rtrb", 64),
            cell("latency", "trusted", 4),
            cell("latency", "trusted", 64),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn several_readers_get_every_message_of_a_lane_and_of_iceoryx2() {
        let Some(_cpus) = two_cpus() else { return };
        let asked = ["--readers", "1,3", "--work", "stream", "--sizes", "64,4096"];
        let report = compare(&[&asked[..], &["--rivals", "iceoryx2,pipe"]].concat());
        let mut found = 0;
        for (who, readers, bytes) in [
            ("laneway", 1, 64),
            ("laneway", 3, 64),
            ("laneway", 3, 4096),
            ("iceoryx2", 1, 64),
            ("iceoryx2", 3, 64),
            ("iceoryx2", 3, 4096),
        ] {
            let is = |cell: &&Value| {
                cell["who"] == who && cell["readers"] == readers && cell["bytes"] == bytes
            };
            let figure = report["samples"].as_array().expect("samples").iter().find(is);
            let figure = figure.is_some_and(|sample| sample["throughput"].is_object());
            let absent = report["absent"].as_array().expect("absent").iter().find(is);
            let why = absent.map_or_else(String::new, |absent| absent["why"].to_string());
            assert!(figure || why.contains(TOO_FEW), "{who} {readers} {bytes}: {why}");
            found += u32::from(figure);
        }
        assert!(found > 2, "figures of {found} among 6 cells");
        let mut absent = report["absent"].as_array().expect("absent").iter();
        let pipe =
            absent.find(|cell| cell["who"] == "pipe" && cell["readers"] == 3).expect("a reason");
        assert!(pipe["why"].to_string().contains("one reader"), "{pipe}");
    }

    #[test]
    fn depths_that_are_asked_for_are_what_every_ring_gets() {
        let Some(_cpus) = two_cpus() else { return };
        let report = compare(&["--sizes", "64", "--rivals", "rtrb", "--depths", "128,1024"]);
        let samples = report["samples"].as_array().expect("samples");
        let mut depths: Vec<_> = samples
            .iter()
            .filter(|sample| sample["work"] == "stream")
            .map(|sample| (sample["who"].as_str().expect("who"), sample["depth"].as_u64()))
            .collect();
        depths.sort_unstable();
        let both = |who| [(who, Some(128)), (who, Some(1024))];
        assert_eq!(depths, [both("laneway"), both("rtrb")].concat());
    }
}

#[test]
fn noise_measures_every_way_to_pin_and_leaves_the_node_as_it_was() {
    let Some(_cpus) = two_cpus() else { return };
    let directory = directory();
    let small = ["noise", "--quick", "--seconds", "0.02", "--plot", "noise.svg", "--json"];
    let child = Command::new(env!("CARGO_BIN_EXE_laneway-bench"))
        .args(small)
        .current_dir(directory.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    let group = format!("laneway-noise-{}", child.id());
    let report = succeeded(&child.wait_with_output().expect("an end"));
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let samples = report["samples"].as_array().expect("samples");
    let missing = report["missing"].as_array().expect("missing");
    // Where others want the cores, too, a tiny time may be too short for an end that shares one.
    let found = |sample: &serde_json::Value| {
        ["latency", "throughput"].into_iter().any(|what| !sample[what].is_null())
    };
    for way in ["none", "self", "enforce", "cpuset"] {
        let measured = samples.iter().any(|sample| sample["pinning"] == way && found(sample));
        assert!(measured || missing.iter().any(|row| row["pinning"] == way), "{way}: {report}");
    }
    let told = samples.iter().filter(|sample| !sample["latency"].is_null());
    assert!(told.count() > 0, "no way has a latency: {report}");
    shown(&report, "noise", "One-way latency");
    let picture = std::fs::read_to_string(directory.path().join("noise.svg")).expect("a picture");
    assert!(roxmltree::Document::parse(&picture).is_ok());
    for root in ["/sys/fs/cgroup/cpuset", "/sys/fs/cgroup/cpu"] {
        assert!(!Path::new(root).join(&group).exists(), "{root}/{group}");
    }
}
