//! Child processes that never outlive their test.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Nothing in a test takes longer, on any machine that is not stuck.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The product's command line.
#[must_use]
pub fn laneway() -> Command {
    let mut command = Command::new(binary());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The product's command line as another user, from a copy in `dir`: the build folder may be
/// closed to everybody else.
///
/// # Panics
/// When the copy cannot be made.
#[must_use]
pub fn laneway_as(uid: u32, dir: &Path) -> Command {
    let copy = dir.join("laneway");
    if !copy.exists() {
        // By a program: no child of another test's inherits the file while it is open for writing,
        // and none of them keeps the copy from being run.
        let copied = Command::new("cp").arg(binary()).arg(&copy).status().expect("cp");
        assert!(copied.success(), "{copied}");
        std::fs::set_permissions(&copy, Permissions::from_mode(0o755)).expect("mode");
        std::fs::set_permissions(dir, Permissions::from_mode(0o755)).expect("mode");
    }
    let mut command = Command::new(copy);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.uid(uid).gid(uid);
    command
}

/// Path of the product's binary: beside the test binaries' folder.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("own path");
    let folder = test.parent().and_then(std::path::Path::parent).expect("target folder");
    let binary = folder.join("laneway-under-test");
    assert!(binary.exists(), "{} was not built", binary.display());
    binary
}

/// A running child. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
}

/// What a child left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Running {
    /// Starts a command.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        Self { child: Some(command.spawn().expect("child starts")) }
    }

    /// What it reads, which was set to be piped.
    ///
    /// # Panics
    /// When it was not, or was taken before.
    #[must_use]
    pub fn stdin(&mut self) -> ChildStdin {
        let child = self.child.as_mut().expect("running");
        child.stdin.take().expect("piped")
    }

    /// Its pid.
    ///
    /// # Panics
    /// Never: the child is only taken by the calls that consume it.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.as_ref().expect("running").id().cast_signed())
    }

    /// Kills it at whatever instruction it is, and waits until the kernel has buried it.
    pub fn kill(mut self) {
        self.end();
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("child is there");
    }

    /// Whether it still runs.
    ///
    /// # Panics
    /// When the kernel does not tell.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().expect("running").try_wait().expect("wait").is_none()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end within [`PATIENCE`].
    #[must_use]
    pub fn finish(mut self) -> Finished {
        let child = self.child.as_mut().expect("running");
        drop(child.stdin.take());
        let pipes = (child.stdout.take(), child.stderr.take());
        let stdout = std::thread::spawn(move || read_all(pipes.0));
        let stderr = std::thread::spawn(move || read_all(pipes.1));
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().expect("wait") {
                break status;
            }
            assert!(Instant::now() < deadline, "child does not end");
            std::thread::sleep(Duration::from_millis(2));
        };
        self.child = None;
        let stdout = stdout.join().expect("reader");
        Finished { status, stdout, stderr: stderr.join().expect("reader") }
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Gone already is fine.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn read_all(pipe: Option<impl Read>) -> String {
    let mut text = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = pipe.read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Runs a command line to its end.
///
/// # Panics
/// When it does not end.
pub fn run<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Finished {
    let mut command = laneway();
    command.args(args);
    Running::start(command).finish()
}

impl Finished {
    /// Its output as JSON.
    ///
    /// # Panics
    /// When it failed or printed something else.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        assert!(self.status.success(), "{}: {}{}", self.status, self.stderr, self.stdout);
        serde_json::from_str(&self.stdout).expect("JSON")
    }
}
