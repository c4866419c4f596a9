//! The demo's stage: a directory, an agent process, worker processes, and a client.

use std::error::Error;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use laneway_proto::v1;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::runtime::Runtime;

use crate::cli::client;
use crate::config::{ATTACH_SOCKET, CONTROL_SOCKET};
use crate::doctor;

/// Hugepages that the demo asks its agent to reserve: the largest ring, twice, and small ones.
const RESERVE_2M: &str = "2MiB=12";
/// Nothing here takes longer, on any machine that is not stuck.
pub(super) const PATIENCE: Duration = Duration::from_secs(45);

/// A failure on stage.
pub(super) type Failure = Box<dyn Error>;

/// Directory, agent and client. Ends what it started when dropped.
#[derive(Debug)]
pub(super) struct Stage {
    dir: PathBuf,
    keep: bool,
    agent: Option<Child>,
    runtime: Runtime,
}

impl Stage {
    pub(super) fn open(keep: bool) -> Result<Self, Failure> {
        let name = format!("laneway-demo-{}", uuid::Uuid::new_v4().simple());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir(&dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { dir, keep, agent: None, runtime })
    }

    fn socket(&self) -> String {
        self.dir.join("run").join(CONTROL_SOCKET).display().to_string()
    }

    pub(super) fn attach_socket(&self) -> PathBuf {
        self.dir.join("run").join(ATTACH_SOCKET)
    }

    /// A file that a worker writes beside the lane, so that its word survives its death.
    pub(super) fn witness(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Starts the agent and waits until it serves.
    pub(super) fn start_agent(&mut self) -> Result<(), Failure> {
        let log = File::options().create(true).append(true).open(self.dir.join("agent.log"))?;
        let mut command = own_command()?;
        command.arg("agent").arg("--run-dir").arg(self.dir.join("run"));
        command.arg("--state-dir").arg(self.dir.join("state"));
        if nix::unistd::geteuid().is_root() {
            command.args(["--reserve", RESERVE_2M]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.agent = Some(command.spawn()?);
        let socket = self.socket();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let answered = self.runtime.block_on(async {
                let mut lanes = client::lanes(&socket).await?;
                let request = v1::ListLanesRequest::default();
                lanes.list_lanes(request).await.map_err(client::refused)
            });
            match answered {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(format!("the agent did not start: {error}").into());
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
            if let Some(status) = self.agent.as_mut().and_then(|a| a.try_wait().ok().flatten()) {
                return Err(format!("the agent ended at once ({status})").into());
            }
        }
    }

    /// Kills the agent as a power cut would.
    pub(super) fn kill_agent(&mut self) -> Result<(), Failure> {
        if let Some(mut agent) = self.agent.take() {
            agent.kill()?;
            agent.wait()?;
        }
        Ok(())
    }

    /// Makes a lane.
    pub(super) fn create(
        &self,
        name: &str,
        slot: u32,
        slots: u32,
        profile: v1::Profile,
    ) -> Result<v1::Lane, Failure> {
        let spec = v1::LaneSpec {
            name: name.to_owned(),
            profile: profile.into(),
            geometry: Some(v1::Geometry { slot_payload_bytes: slot, slot_count: slots }),
            ..v1::LaneSpec::default()
        };
        let request = v1::CreateLaneRequest {
            request_id: format!("demo-{name}"),
            validate_only: false,
            spec: Some(spec),
        };
        let socket = self.socket();
        self.runtime.block_on(async {
            let mut lanes = client::lanes(&socket).await?;
            let answer = lanes.create_lane(request).await.map_err(client::refused)?;
            answer.into_inner().lane.ok_or_else(|| "the agent answered without a lane".into())
        })
    }

    /// Looks at a lane.
    pub(super) fn get(&self, lane: &str) -> Result<v1::Lane, Failure> {
        let (socket, lane) = (self.socket(), lane.to_owned());
        self.runtime.block_on(async {
            let mut lanes = client::lanes(&socket).await?;
            let answer =
                lanes.get_lane(v1::GetLaneRequest { lane }).await.map_err(client::refused)?;
            answer.into_inner().lane.ok_or_else(|| "the agent answered without a lane".into())
        })
    }

    /// Waits until a lane looks as it should.
    pub(super) fn wait_for(
        &self,
        lane: &str,
        what: &str,
        mut look: impl FnMut(&v1::Lane) -> bool,
    ) -> Result<v1::Lane, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.get(lane)?;
            if look(&seen) {
                return Ok(seen);
            }
            if Instant::now() > deadline {
                return Err(format!("lane {lane}: {what} did not come to pass").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends a lane.
    pub(super) fn delete(&self, lane: &str) -> Result<(), Failure> {
        let (socket, lane) = (self.socket(), lane.to_owned());
        self.runtime.block_on(async {
            let mut lanes = client::lanes(&socket).await?;
            let request = v1::DeleteLaneRequest { lane, ..v1::DeleteLaneRequest::default() };
            lanes.delete_lane(request).await.map_err(client::refused)?;
            Ok(())
        })
    }

    /// A worker for one end of a lane, with a fresh ticket in its environment.
    pub(super) fn worker(
        &self,
        kind: &str,
        lane: &str,
        role: v1::Role,
    ) -> Result<Command, Failure> {
        let mut command = own_command()?;
        command.arg("demo-worker").arg(kind);
        command.arg("--attach-socket").arg(self.attach_socket());
        command.env("LANEWAY_TICKET", self.ticket(lane, role)?);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(command)
    }

    pub(super) fn ticket(&self, lane: &str, role: v1::Role) -> Result<String, Failure> {
        let request = v1::IssueTicketRequest {
            lane: lane.to_owned(),
            role: role.into(),
            ..v1::IssueTicketRequest::default()
        };
        let socket = self.socket();
        self.runtime.block_on(async {
            let mut lanes = client::lanes(&socket).await?;
            let answer = lanes.issue_ticket(request).await.map_err(client::refused)?;
            Ok(answer.into_inner().ticket)
        })
    }

    /// What this machine or user does not offer, in the doctor's words.
    pub(super) fn misses(&self) -> Vec<String> {
        let findings = doctor::examine(std::path::Path::new("/"));
        let missing = findings.iter().filter(|finding| !finding.works);
        missing.map(|finding| format!("{}: {}", finding.name, finding.detail())).collect()
    }

    /// The end of the agent's log, for a failure's report.
    pub(super) fn last_words(&self) -> String {
        let log = fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(12);
        format!("the agent's last words:\n{}", lines[from..].join("\n"))
    }

    /// Ends the agent politely, so that it gives back the hugepages that it added.
    pub(super) fn close(&mut self) {
        let Some(mut agent) = self.agent.take() else {
            return;
        };
        let pid = Pid::from_raw(agent.id().cast_signed());
        // Gone already is fine.
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if !matches!(agent.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = agent.kill();
        let _ = agent.wait();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.close();
        if self.keep {
            eprintln!("kept {}", self.dir.display());
        } else {
            // A directory that stays behind holds a log and a journal, nothing else.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// This very program again.
fn own_command() -> Result<Command, Failure> {
    Ok(Command::new(std::env::current_exe()?))
}

/// A worker that is running. Killed when dropped.
#[derive(Debug)]
pub(super) struct Worker {
    child: Guard,
}

impl Worker {
    pub(super) fn spawn(mut command: Command) -> Result<Self, Failure> {
        Ok(Self { child: Guard(command.spawn()?) })
    }

    /// Kills it at whatever instruction it is.
    pub(super) fn kill(mut self) -> Result<(), Failure> {
        self.child.0.kill()?;
        self.child.0.wait()?;
        Ok(())
    }

    /// Ends its standard input, if it has one, and waits for its report.
    pub(super) fn finish<T: serde::de::DeserializeOwned>(self) -> Result<T, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut child = self.child;
        drop(child.0.stdin.take());
        while child.0.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Err("a worker did not end".into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut text = String::new();
        if let Some(mut output) = child.0.stdout.take() {
            std::io::Read::read_to_string(&mut output, &mut text)?;
        }
        let status = child.0.wait()?;
        if !status.success() {
            return Err(format!("a worker failed ({status})").into());
        }
        Ok(serde_json::from_str(&text)?)
    }
}

/// Kills a child that nobody waits for any more.
#[derive(Debug)]
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // It may have ended between the two calls.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
