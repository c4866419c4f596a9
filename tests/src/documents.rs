//! What the documents tell their readers to type, done as they say.

use crate::agent::Agent;
use crate::bindings::root;
use crate::process::{Running, laneway};

/// The header of an example of the library's, with the lines joined that go on in the next one.
///
/// # Panics
/// When there is no such example, or it is too long for one.
#[must_use]
pub fn header(example: &str) -> String {
    let path = root().join("shm/examples").join(example);
    let text = std::fs::read_to_string(path).expect("example");
    let code = text.lines().filter(|line| !line.starts_with("//!"));
    assert!(code.count() <= 90, "{example} is an example and not a program");
    let header = text.lines().map_while(|line| line.strip_prefix("//!"));
    header.collect::<Vec<_>>().join("\n").replace("\\\n", " ")
}

/// What `laneway` prints for a line of words that begins with it.
///
/// # Panics
/// When it fails.
#[must_use]
pub fn command(agent: &Agent, line: &str) -> String {
    let mut command = laneway();
    command.arg("--socket").arg(agent.socket()).args(line.split_whitespace().skip(1));
    let finished = Running::start(command).finish();
    assert!(finished.status.success(), "{line}: {}", finished.stderr);
    finished.stdout
}

/// Runs every `laneway lane create` of a text, of which there are so many.
///
/// # Panics
/// When there are more or fewer, or one of them fails.
pub fn make_lanes(agent: &Agent, text: &str, lanes: usize) {
    let uid = nix::unistd::geteuid().to_string();
    let mut made = 0;
    for line in text.lines().filter(|line| line.contains("laneway lane create")) {
        let _lane = command(agent, &line.replace("$(id -u)", &uid));
        made += 1;
    }
    assert_eq!(made, lanes, "not the lanes that it wants");
}

/// The programs in Python that a text shows, as one.
#[must_use]
pub fn python(text: &str) -> String {
    let blocks = text.split("```python\n").skip(1);
    blocks.filter_map(|block| Some(block.split_once("```")?.0)).collect()
}
