//! The library for other languages, as the tests load it: built by cargo, into the same folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::binary;

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
