//! A real agent as a process of its own, with everything in one temporary directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use laneway_proto::v1;
use laneway_proto::v1::lane_service_client::LaneServiceClient;
use laneway_proto::v1::node_service_client::NodeServiceClient;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::process::{Finished, PATIENCE, Running, laneway, laneway_as};

/// An agent.
#[derive(Debug)]
pub struct Agent {
    dir: TempDir,
    args: Vec<String>,
    uid: Option<u32>,
    process: Option<Running>,
    /// Runs the clients.
    pub runtime: Runtime,
}

impl Agent {
    /// Starts an agent with defaults.
    #[must_use]
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts an agent with further flags.
    #[must_use]
    pub fn with(args: &[&str]) -> Self {
        Self::launch(args, None)
    }

    /// Starts an agent as another user.
    #[must_use]
    pub fn as_user(uid: u32) -> Self {
        Self::launch(&[], Some(uid))
    }

    fn launch(args: &[&str], uid: Option<u32>) -> Self {
        let dir = tempfile::Builder::new().prefix("laneway-test-").tempdir().expect("directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("mode");
        if let Some(uid) = uid {
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(uid)).expect("chown");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("runtime");
        let args = args.iter().map(ToString::to_string).collect();
        let mut agent = Self { dir, args, uid, process: None, runtime };
        agent.start_again();
        agent
    }

    /// Starts the process again, on the same directories.
    ///
    /// # Panics
    /// When it does not serve in time.
    pub fn start_again(&mut self) {
        self.spawn();
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.list().is_err() {
            let running = self.process.as_mut().is_some_and(Running::is_running);
            assert!(running, "the agent ended: {}", self.log());
            assert!(Instant::now() < deadline, "the agent does not serve: {}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Starts the process and does not wait.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(&mut self) {
        let log = self.dir.path().join("agent.log");
        let log = fs::File::options().create(true).append(true).open(log).expect("log");
        let mut command = match self.uid {
            Some(uid) => laneway_as(uid, self.dir.path()),
            None => laneway(),
        };
        command.arg("agent").arg("--run-dir").arg(self.run_dir());
        command.arg("--state-dir").arg(self.dir.path().join("state"));
        command.args(&self.args).stdout(Stdio::null()).stderr(log);
        self.process = Some(Running::start(command));
    }

    /// Kills the process as a power cut would.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Ends the process politely.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&mut self) -> Finished {
        let process = self.process.take().expect("running");
        process.signal(Signal::SIGTERM);
        process.finish()
    }

    /// Sends the process a signal.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("running").signal(signal);
    }

    /// Pid of the agent.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.as_ref().expect("running").pid().as_raw()
    }

    /// Directory of the sockets.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// The agent's temporary directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A file in the agent's temporary directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("control@laneway.sock")
    }

    /// The attach socket.
    #[must_use]
    pub fn attach_socket(&self) -> PathBuf {
        self.run_dir().join("attach/attach.sock")
    }

    /// What the agent logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default()
    }

    /// A connection to the control socket.
    ///
    /// # Errors
    /// The transport's word.
    pub async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let path = self.socket();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://localhost").connect_with_connector(connector).await
    }

    /// Calls the lane service.
    ///
    /// # Errors
    /// The agent's refusal.
    pub fn lanes<T>(
        &self,
        call: impl AsyncFnOnce(LaneServiceClient<Channel>) -> Result<T, Status>,
    ) -> Result<T, Status> {
        self.runtime.block_on(async {
            let channel = self.channel().await.map_err(|e| Status::unavailable(e.to_string()))?;
            call(LaneServiceClient::new(channel)).await
        })
    }

    /// Calls the node service.
    ///
    /// # Errors
    /// The agent's refusal.
    pub fn node<T>(
        &self,
        call: impl AsyncFnOnce(NodeServiceClient<Channel>) -> Result<T, Status>,
    ) -> Result<T, Status> {
        self.runtime.block_on(async {
            let channel = self.channel().await.map_err(|e| Status::unavailable(e.to_string()))?;
            call(NodeServiceClient::new(channel)).await
        })
    }

    /// Creates a lane.
    ///
    /// # Errors
    /// The agent's refusal.
    pub fn create(&self, spec: v1::LaneSpec) -> Result<v1::Lane, Status> {
        let spec = Some(spec);
        let request = v1::CreateLaneRequest { spec, ..v1::CreateLaneRequest::default() };
        self.lanes(async |mut client| {
            Ok(client.create_lane(request).await?.into_inner().lane.unwrap_or_default())
        })
    }

    /// Looks at a lane.
    ///
    /// # Errors
    /// The agent's refusal.
    pub fn get(&self, lane: &str) -> Result<v1::Lane, Status> {
        let request = v1::GetLaneRequest { lane: lane.to_owned() };
        self.lanes(async |mut client| {
            Ok(client.get_lane(request).await?.into_inner().lane.unwrap_or_default())
        })
    }

    /// All lanes.
    ///
    /// # Errors
    /// The agent's refusal.
    pub fn list(&self) -> Result<Vec<v1::Lane>, Status> {
        let request = v1::ListLanesRequest { page_size: 1000, ..v1::ListLanesRequest::default() };
        self.lanes(async |mut client| Ok(client.list_lanes(request).await?.into_inner().lanes))
    }

    /// Ends a lane.
    ///
    /// # Errors
    /// The agent's refusal.
    pub fn delete(&self, lane: &str) -> Result<v1::Lane, Status> {
        let lane = lane.to_owned();
        let request = v1::DeleteLaneRequest { lane, ..v1::DeleteLaneRequest::default() };
        self.lanes(async |mut client| {
            Ok(client.delete_lane(request).await?.into_inner().lane.unwrap_or_default())
        })
    }

    /// A ticket for an end.
    ///
    /// # Panics
    /// When the agent refuses.
    #[must_use]
    pub fn ticket(&self, lane: &str, role: v1::Role) -> String {
        let (lane, role) = (lane.to_owned(), role.into());
        let request = v1::IssueTicketRequest { lane, role, ..v1::IssueTicketRequest::default() };
        self.lanes(async |mut client| Ok(client.issue_ticket(request).await?.into_inner().ticket))
            .expect("ticket")
    }

    /// Pages of all pools.
    ///
    /// # Panics
    /// When the agent refuses.
    #[must_use]
    pub fn pools(&self) -> Vec<v1::PagePool> {
        let request = v1::GetPoolsRequest {};
        self.node(async |mut client| Ok(client.get_pools(request).await?.into_inner().pools))
            .expect("pools")
    }

    /// Waits until a lane looks as it should.
    ///
    /// # Panics
    /// When it does not within [`PATIENCE`].
    pub fn wait_for(&self, lane: &str, what: &str, look: impl Fn(&v1::Lane) -> bool) -> v1::Lane {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.get(lane).expect("lane");
            if look(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "{what}: {seen:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A specification on 4 KiB pages, without cores: works for every user on every machine.
#[must_use]
pub fn plain(name: &str, slot_payload_bytes: u32, slot_count: u32) -> v1::LaneSpec {
    let end = || Some(v1::EndSpec { pinning: v1::Pinning::None.into(), ..v1::EndSpec::default() });
    v1::LaneSpec {
        name: name.to_owned(),
        geometry: Some(v1::Geometry { slot_payload_bytes, slot_count }),
        pages: Some(v1::PageRequest { page_size_bytes: 4096, require: true }),
        producer: end(),
        consumer: end(),
        ..v1::LaneSpec::default()
    }
}
