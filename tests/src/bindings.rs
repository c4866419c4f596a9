//! The library for other languages, as the tests load it: built by cargo, into the same folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use laneway_proto::v1::{EndSpec, LaneSpec, Pinning};

use crate::agent::{Agent, plain};
use crate::process::{Running, binary};

/// The root of the tree.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Builds a package as these tests were built; returns the folder of its libraries.
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn built(package: &str) -> PathBuf {
    let folder = binary().parent().expect("profile's folder").to_path_buf();
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let target = folder.parent().expect("target folder");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--locked", "--package", package, "--profile", profile]);
    command.arg("--target-dir").arg(target).current_dir(root()).stdin(Stdio::null());
    let output = command.output().expect("cargo runs");
    assert!(output.status.success(), "{package}: {}", String::from_utf8_lossy(&output.stderr));
    folder
}

/// Whether a program can be run at all.
#[must_use]
pub fn has(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The interpreter of an environment in `folder` that has a module, installed as `package`. `None`
/// where no environment can be made or nothing can be installed.
#[must_use]
pub fn python_with(folder: &Path, package: &str, module: &str) -> Option<PathBuf> {
    let python = folder.join("bin/python");
    let succeeds = |program: &Path, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).output().is_ok_and(|out| out.status.success())
    };
    let import = format!("import {module}");
    let installed = || succeeds(&python, &["-c", &import]);
    if !installed() {
        let path = folder.display().to_string();
        let made = succeeds(Path::new("python3"), &["-m", "venv", &path]);
        let pip = ["-m", "pip", "install", "--quiet", "--only-binary=:all:", package];
        if !made || !succeeds(&python, &pip) || !installed() {
            return None;
        }
    }
    Some(python)
}

/// Number `number` of a stream of messages of 56 bytes: the number, and bytes that follow from it.
#[must_use]
pub fn numbered(number: u64) -> [u8; 56] {
    let mut bytes = [0; 56];
    let tail = u8::try_from(number % 256).unwrap_or(0);
    for (at, byte) in (0u8..).zip(&mut bytes) {
        *byte = tail.wrapping_add(at);
    }
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// What the cores of a lane's ends may have in common, nearest first, in the agent's words, and how
/// far the consumer then is before anything was measured.
pub const RELATIONS: [(&str, &str); 6] = [
    ("same cpu", "unknown"),
    ("same core", "near"),
    ("same L2", "near"),
    ("same L3", "near"),
    ("same node", "far"),
    ("other node", "far"),
];

/// A lane each end of which gets a core.
#[must_use]
pub fn with_cores(name: &str) -> LaneSpec {
    let end = || Some(EndSpec { pinning: Pinning::Self_.into(), ..EndSpec::default() });
    LaneSpec { producer: end(), consumer: end(), ..plain(name, 56, 8) }
}

/// Lets the example of frozen frames in another language shoot for the one in Rust, the program
/// `rust`, and then view what that one shoots.
///
/// # Panics
/// When a frame is missing or another one.
pub fn frames_go_between(other: impl Fn() -> Command, rust: &str) {
    let uids = vec![nix::unistd::geteuid().as_raw()];
    let pinning = Pinning::None.into();
    let end = || Some(EndSpec { pinning, uids: uids.clone(), ..EndSpec::default() });
    for shoots_in_rust in [false, true] {
        let agent = Agent::start();
        let spec = LaneSpec { producer: end(), consumer: end(), ..plain("frames", 56, 64) };
        agent.create(spec).expect("a lane");
        let start = |in_rust: bool, args: &[&str]| {
            let mut command = if in_rust { Command::new(rust) } else { other() };
            command.arg(agent.attach_socket()).args(args);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            Running::start(command)
        };
        let viewer = start(!shoots_in_rust, &["view", "frames"]);
        let camera = start(shoots_in_rust, &["shoot", "frames", "30", "2048"]).finish();
        assert!(camera.status.success(), "{}", camera.stderr);
        let viewed = viewer.finish();
        let counted = viewed.stdout.trim();
        assert_eq!(counted, "30 captions, 30 frames, 0 lost, 61 slots", "{}", viewed.stderr);
    }
}
