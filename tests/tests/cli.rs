//! The command line as a person or a script meets it: help, refusals, exit codes, pipes, the end.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use laneway_proto::v1;
use laneway_tests::agent::{Agent, plain};
use laneway_tests::process::{Finished, Running, laneway, run};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Every command, as it is typed.
const COMMANDS: [&str; 19] = [
    "",
    "agent",
    "lane",
    "lane create",
    "lane get",
    "lane list",
    "lane watch",
    "lane delete",
    "lane ticket",
    "node",
    "node topology",
    "node pools",
    "node capabilities",
    "attach",
    "attach send",
    "attach recv",
    "doctor",
    "health",
    "completions",
];

/// Those that are long enough to need examples.
const WITH_EXAMPLES: [&str; 6] = ["", "agent", "lane create", "attach send", "attach recv", "demo"];

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Runs a command line and takes its output as it is, byte for byte.
fn output(args: &[&str], input: &[u8]) -> Output {
    let mut child = laneway().args(args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A command that ends early has read what it wanted.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// The output of a command that has to fail in this way.
fn fails(finished: &Finished, code: i32, part: &str) {
    assert_eq!(finished.status.code(), Some(code), "{}{}", finished.stdout, finished.stderr);
    assert!(finished.stderr.contains(part), "{part:?} is missing: {}", finished.stderr);
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    assert_eq!(finished.stdout, "", "what failed goes to standard error");
}

// --- help ---------------------------------------------------------------------------------------

#[test]
fn every_command_explains_itself() {
    for line in COMMANDS.into_iter().chain(["demo"]) {
        let help = run([&words(line)[..], &["--help"]].concat());
        assert_eq!(help.status.code(), Some(0), "{line}: {}", help.stderr);
        assert!(help.stdout.contains("Usage: laneway"), "{line}: {}", help.stdout);
        let examples = help.stdout.contains("Examples:\n  ");
        assert_eq!(examples, WITH_EXAMPLES.contains(&line), "{line}: {}", help.stdout);
        let wide = help.stdout.lines().find(|text| text.chars().count() > 100);
        assert_eq!(wide, None, "{line}");
    }
    let version = run(["--version"]);
    assert_eq!(version.stdout, format!("laneway {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_examples_in_the_help_are_command_lines_that_parse() {
    for line in WITH_EXAMPLES {
        let help = run([&words(line)[..], &["--help"]].concat()).stdout;
        let examples = help.split_once("Examples:\n").unwrap().1;
        let mut tried = 0;
        for example in examples.lines().filter_map(|text| text.split_once("laneway ")) {
            // The explanation stands behind two blanks, a redirection behind a sign.
            let command = example.1.split("  ").next().unwrap().split('>').next().unwrap();
            let command = [&words(command)[..], &["--help"]].concat();
            assert_eq!(run(&command).status.code(), Some(0), "{command:?}");
            tried += usize::from(example.0.trim().is_empty() || example.0.contains('|'));
        }
        assert!(tried > 1, "{line}: {examples}");
    }
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(["completions", shell]);
        assert!(script.status.success(), "{shell}: {}", script.stderr);
        for command in COMMANDS.iter().flat_map(|line| words(line)) {
            assert!(script.stdout.contains(command), "{shell} does not know {command}");
        }
    }
    fails(&run(["completions", "cmd"]), 2, "cmd");
}

// --- refusals -----------------------------------------------------------------------------------

#[test]
fn a_bad_command_line_ends_with_code_two_and_names_what_is_wrong() {
    for (line, part) in [
        ("", "Usage"),
        ("lanes", "lanes"),
        ("lane", "Usage"),
        ("lane create", "<NAME>"),
        ("lane create a --slots x", "--slots"),
        ("lane create a --slots -1", "-1"),
        ("lane create a --slots 4294967296", "--slots"),
        ("lane create a --page-size 3MiB", "--page-size"),
        ("lane create a --require-page-size", "--page-size"),
        ("lane create a --min-grade e", "--min-grade"),
        ("lane create a --wait forever", "--wait"),
        ("lane ticket a", "<ROLE>"),
        ("lane ticket a reader", "reader"),
        ("lane list --output xml", "--output"),
        ("agent --reserve 2MiB", "--reserve"),
        ("agent --reserve 3MiB=1", "--reserve"),
        ("agent --reserve 2MiB=-1", "--reserve"),
        ("agent --listen-tcp here", "--listen-tcp"),
        ("agent --log-format xml", "--log-format"),
        ("attach send --lane a --size 0", "--size"),
        ("attach send --lane a --ticket b", "--ticket"),
        ("attach recv --lane a --count x", "--count"),
    ] {
        fails(&run(words(line)), 2, part);
    }
}

#[test]
fn a_bad_configuration_ends_with_code_one_and_names_the_field() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("laneway.toml");
    let path = file.to_str().unwrap();
    for (text, part) in [
        ("", "version"),
        ("version = 2", "version"),
        ("version = 1\ncolour = 3", "colour"),
        ("version = 1\n[agent]\nrun_dir = 'here'", "agent.run_dir"),
        ("version = 1\n[agent]\nlisten_tcp = '0.0.0.0:1'", "agent.listen_tcp"),
        ("version = 1\n[limits]\nlanes = 0", "limits.lanes"),
        ("version = 1\n[tenants]\nnames = ['A']", "names"),
        ("version = 1\n[hugepages]\nreserve = { '3MiB' = 1 }", "3MiB"),
    ] {
        fs::write(&file, text).unwrap();
        fails(&run(["agent", "--config", path, "--print-config"]), 1, part);
    }
    fails(&run(["agent", "--config", "/nowhere.toml"]), 1, "/nowhere.toml");
    fails(&run(["agent", "--run-dir", "here", "--print-config"]), 1, "agent.run_dir");
    fails(&run(["agent", "--listen-tcp", "8.8.8.8:1", "--print-config"]), 1, "agent.listen_tcp");
}

#[test]
fn a_printed_configuration_is_accepted_and_means_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("laneway.toml");
    let (run_dir, state_dir) = (dir.path().join("run"), dir.path().join("state"));
    let flags = [
        "agent",
        "--print-config",
        "--reserve",
        "2MiB=3",
        "--listen-tcp",
        "[::1]:4711",
        "--log-format",
        "json",
        "--log-level",
        "debug",
        "--run-dir",
        run_dir.to_str().unwrap(),
        "--state-dir",
        state_dir.to_str().unwrap(),
    ];
    let printed = run(flags);
    assert!(printed.status.success(), "{}", printed.stderr);
    for part in ["2MiB", "[::1]:4711", "json", "debug", run_dir.to_str().unwrap()] {
        assert!(printed.stdout.contains(part), "{part}: {}", printed.stdout);
    }
    fs::write(&file, &printed.stdout).unwrap();
    let again = run(["agent", "--print-config", "--config", file.to_str().unwrap()]);
    assert_eq!(again.stdout, printed.stdout);
    assert!(!run_dir.exists() && !state_dir.exists(), "printing makes nothing");
}

#[test]
fn without_an_agent_every_client_says_how_to_start_one() {
    let socket = "/nowhere/control.sock";
    for line in ["lane list", "lane get a", "lane create a", "lane watch", "node pools", "health"] {
        let refused = run([&words(line)[..], &["--socket", socket]].concat());
        fails(&refused, 1, socket);
        assert!(refused.stderr.contains("laneway agent"), "{line}: {}", refused.stderr);
    }
    let attach = ["attach", "send", "--lane", "a", "--attach-socket", "/nowhere/attach.sock"];
    fails(&run(attach), 1, "/nowhere/attach.sock");
    fails(&run(["attach", "recv", "--ticket-file", "/nowhere"]), 1, "/nowhere");
    fails(&run(["attach", "recv", "--ticket", "abc"]), 1, "32 hexadecimal digits");
    fails(&run(["attach", "recv"]), 1, "--ticket");
}

#[test]
fn a_refusal_of_the_agent_is_printed_with_its_reason() {
    let agent = Agent::start();
    let socket = agent.socket().display().to_string();
    for (line, reason) in [
        ("lane get missing", "LANE_NOT_FOUND"),
        ("lane delete missing", "LANE_NOT_FOUND"),
        ("lane ticket missing producer", "LANE_NOT_FOUND"),
        ("lane create ../x", "INVALID_FIELD: spec.name"),
        ("lane create a --slots 3", "INVALID_FIELD: spec.geometry.slot_count"),
        ("lane create a --tenant nobody", "TENANT_UNKNOWN"),
        ("lane create a --node 77", "NUMA_UNSATISFIABLE"),
        ("lane watch --start-revision 1", "REVISION_COMPACTED"),
    ] {
        fails(&run([&words(line)[..], &["--socket", &socket]].concat()), 1, reason);
    }
}

// --- doctor and node ----------------------------------------------------------------------------

#[test]
fn the_doctor_says_of_every_feature_whether_it_works_and_how_to_get_it() {
    let report = run(["doctor", "--output", "json"]);
    let report: Value = serde_json::from_str(&report.stdout).expect("JSON, whatever the exit code");
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.len() >= 8, "{findings:?}");
    for finding in findings {
        let works = finding["works"].as_bool().expect("works");
        let fix = finding["fix"].as_str().expect("fix");
        assert_eq!(works, fix.is_empty(), "what does not work has a remedy: {finding}");
        assert!(!finding["name"].as_str().expect("name").is_empty());
        assert!(!finding["found"].as_str().expect("found").is_empty(), "{finding}");
    }
    let table = run(["doctor"]).stdout;
    for finding in findings {
        assert!(table.contains(finding["name"].as_str().unwrap()), "{table}");
    }
}

#[test]
fn the_node_is_shown_as_a_table_and_as_json() {
    let agent = Agent::start();
    let socket = agent.socket().display().to_string();
    for (what, list) in [("topology", "cpus"), ("pools", "pools"), ("capabilities", "capabilities")]
    {
        let json = run(["node", what, "--socket", &socket, "--output", "json"]).json();
        assert!(!json[list].as_array().unwrap().is_empty(), "{json}");
        let table = run(["node", what, "--socket", &socket]);
        assert!(table.status.success() && table.stdout.lines().count() > 1, "{}", table.stdout);
    }
}

// --- lanes from the shell -----------------------------------------------------------------------

/// A lane made by the command line: its JSON.
fn made(agent: &Agent, line: &str) -> Value {
    let socket = agent.socket().display().to_string();
    let flags = ["--pinning", "none", "--page-size", "4KiB", "--output", "json", "--socket"];
    run([&["lane", "create"], &words(line)[..], &flags, &[socket.as_str()]].concat()).json()
}

/// `laneway attach VERB` with a ticket of that lane.
fn attach<'a>(verb: &'a str, lane: &'a Value, role: &str, flags: &[&'a str]) -> Vec<&'a str> {
    let ticket = lane["tickets"][role].as_str().unwrap();
    let socket = lane["attach_socket"].as_str().unwrap();
    let line = ["attach", verb, "--no-pin", "--ticket", ticket, "--attach-socket", socket];
    [&line[..], flags].concat()
}

#[test]
fn a_lane_is_made_shown_and_ended_from_the_shell() {
    let agent = Agent::start();
    let socket = agent.socket().display().to_string();
    let line = "orders --slot-size 100 --slots 32 --tenant px --request-id once";
    let lane = made(&agent, line);
    let id = lane["lane"]["id"].as_str().unwrap();
    assert_eq!(made(&agent, line)["lane"]["id"], id);
    let shown = run(["lane", "get", id, "--socket", &socket, "--output", "json"]).json();
    assert_eq!((&shown["name"], &shown["tenant"]), (&"orders".into(), &"px".into()));
    assert_eq!((&shown["slot_payload_bytes"], &shown["slot_count"]), (&100.into(), &32.into()));
    let table = run(["lane", "list", "--socket", &socket]).stdout;
    assert!(table.contains("orders") && table.contains("32 x 100 B"), "{table}");
    let ticket = run(["lane", "ticket", "orders", "producer", "--socket", &socket]).stdout;
    assert!(ticket.trim().len() == 32 && ticket.trim().bytes().all(|b| b.is_ascii_hexdigit()));
    let gone = run(["lane", "delete", "orders", "--socket", &socket]);
    assert_eq!(gone.stdout, format!("lane orders ({id}) is deleted\n"));
    assert_eq!(agent.list().unwrap(), []);
}

#[test]
fn a_dry_run_from_the_shell_makes_no_lane_and_no_ticket() {
    let agent = Agent::start();
    let shown = made(&agent, "orders --validate-only");
    assert_eq!((&shown["name"], &shown["tickets"]), (&"orders".into(), &Value::Null));
    assert_eq!(agent.list().unwrap(), []);
}

#[test]
fn a_text_goes_through_a_lane_byte_for_byte() {
    let agent = Agent::start();
    // Every byte value, no period that fits the slots, and much more than the ring holds.
    let mut word = 1_u32;
    let text: Vec<u8> = (0..300 << 10)
        .map(|_| {
            word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            word.to_le_bytes()[3]
        })
        .collect();
    for (name, slot_size, piece) in
        [("small", "8", "1000"), ("odd", "56", "57"), ("big", "4000", "1")]
    {
        let lane = made(&agent, &format!("{name} --slots 16 --wait park --slot-size {slot_size}"));
        let text = if piece == "1" { &text[..5000] } else { &text[..] };
        let (sent, received) = std::thread::scope(|scope| {
            let line = attach("recv", &lane, "consumer", &[]);
            let receiver = scope.spawn(move || output(&line, b""));
            let sent = output(&attach("send", &lane, "producer", &["--size", piece]), text);
            (sent, receiver.join().unwrap())
        });
        assert!(sent.status.success(), "{name}: {}", String::from_utf8_lossy(&sent.stderr));
        assert!(received.status.success(), "{}", String::from_utf8_lossy(&received.stderr));
        assert_eq!(received.stdout.len(), text.len(), "{name}");
        assert!(received.stdout == text, "{name}: bytes differ");
    }
}

#[test]
fn the_attach_socket_is_found_beside_the_control_socket() {
    let agent = Agent::start();
    let control = agent.socket().display().to_string();
    let lane = made(&agent, "near --slots 16 --wait park");
    let beside = |verb: &'static str, role: &str| {
        let ticket = lane["tickets"][role].as_str().unwrap().to_owned();
        ["attach", verb, "--no-pin", "--socket", &control, "--ticket", &ticket].map(str::to_owned)
    };
    let (send, recv) = (beside("send", "producer"), beside("recv", "consumer"));
    let (sent, received) = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| output(&recv.each_ref().map(String::as_str), b""));
        let sent = output(&send.each_ref().map(String::as_str), b"hello");
        (sent, receiver.join().unwrap())
    });
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    assert_eq!(received.stdout, b"hello");
}

#[test]
fn the_receiver_counts_what_the_sender_generated() {
    let agent = Agent::start();
    let lane = made(&agent, "counted --slots 256 --wait park");
    let report = std::thread::scope(|scope| {
        let flags = ["--verify", "--count", "50000", "--output", "json"];
        let line = attach("recv", &lane, "consumer", &flags);
        let receiver = scope.spawn(move || run(line));
        let sent = run(attach("send", &lane, "producer", &["--count", "50000"]));
        assert!(sent.status.success(), "{}", sent.stderr);
        receiver.join().unwrap().json()
    });
    assert_eq!(report["received"], 50_000);
    for fault in ["lost", "torn", "out_of_order", "duplicates"] {
        assert_eq!(report[fault], 0, "{report}");
    }
    assert!(report["seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_receiver_that_misses_messages_says_so_and_fails() {
    let agent = Agent::start();
    let lane = made(&agent, "short --slots 256 --wait park");
    assert!(run(attach("send", &lane, "producer", &["--count", "9"])).status.success());
    let flags = ["--verify", "--count", "10", "--output", "json"];
    let report = run(attach("recv", &lane, "consumer", &flags));
    assert_eq!(report.status.code(), Some(1), "{}", report.stdout);
    assert!(report.stderr.contains("lost"), "{}", report.stderr);
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!((&report["received"], &report["lost"]), (&9.into(), &1.into()));
}

// --- the agent's life ---------------------------------------------------------------------------

#[test]
fn a_second_agent_on_a_state_directory_is_refused_and_the_first_lives() {
    let agent = Agent::start();
    agent.create(plain("a", 56, 64)).unwrap();
    let other = agent.file("other-run");
    let state = agent.file("state");
    let dirs = [Path::new("--run-dir"), &other, Path::new("--state-dir"), &state];
    let second = run([&[Path::new("agent")], &dirs[..]].concat());
    fails(&second, 1, "is another agent running on this state directory?");
    assert!(!other.join("control@laneway.sock").exists());
    assert!(agent.get("a").is_ok());
}

#[test]
fn a_second_agent_on_a_run_directory_is_refused_and_the_first_keeps_its_sockets() {
    let agent = Agent::start();
    agent.create(plain("a", 56, 64)).unwrap();
    let mut command = laneway();
    command.arg("agent").arg("--run-dir").arg(agent.run_dir());
    command.arg("--state-dir").arg(agent.file("other-state"));
    let mut second = Running::start(command);
    for _ in 0..500 {
        assert!(agent.get("a").is_ok(), "the second agent took the first one's place");
        if !second.is_running() {
            return fails(&second.finish(), 1, "another agent");
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the second agent runs beside the first");
}

#[test]
fn a_polite_end_has_code_zero_and_leaves_no_socket() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().join("run");
        let mut command = laneway();
        command.arg("agent").arg("--run-dir").arg(&run_dir);
        command.arg("--state-dir").arg(dir.path().join("state"));
        let agent = Running::start(command);
        let socket = run_dir.join("control@laneway.sock").display().to_string();
        while !run(["health", "--socket", &socket]).status.success() {}
        agent.signal(signal);
        let ended = agent.finish();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
        assert_eq!(sockets(&run_dir), Vec::<String>::new());
    }
}

/// The socket files that are left below a run directory.
fn sockets(run_dir: &Path) -> Vec<String> {
    let files = ["control@laneway.sock", "attach/attach.sock"].into_iter();
    files.filter(|file| run_dir.join(file).exists()).map(str::to_owned).collect()
}

#[test]
fn an_open_watch_and_an_attached_end_do_not_hold_up_the_end() {
    let mut agent = Agent::start();
    agent.create(plain("a", 56, 64)).unwrap();
    let ticket = agent.ticket("a", v1::Role::Consumer);
    let attach_socket = agent.attach_socket().display().to_string();
    let mut receiver = laneway();
    receiver.args(["attach", "recv", "--ticket", &ticket, "--attach-socket", &attach_socket]);
    let _receiver = Running::start(receiver);
    agent.wait_for("a", "consumer live", |lane| {
        lane.consumer.as_ref().is_some_and(|end| end.state() == v1::end_status::State::Live)
    });
    let socket = agent.socket().display().to_string();
    let mut watcher = laneway();
    watcher.args(["lane", "watch", "--socket", &socket]);
    let mut watcher = Running::start(watcher);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(watcher.is_running());
    assert_eq!(agent.stop().status.code(), Some(0), "{}", agent.log());
    assert_eq!(sockets(&agent.run_dir()), Vec::<String>::new());
    agent.start_again();
    agent.get("a").expect("its consumer lives");
}
