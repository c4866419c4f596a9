//! The running agent: everything is opened in order, privileges go, the doors open, SIGTERM ends.

use std::collections::HashSet;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::actor::{self, Command, Handle};
use crate::admission::Rules;
use crate::attach::{Listener, peer};
use crate::config::{Config, CpusetConfig};
use crate::controller::{ControlError, Setup, Watched};
use crate::doctor;
use crate::journal::{Journal, JournalError};
use crate::plan::Hold;
use crate::privilege;
use crate::provision::cpuset::{Cores, CpusetError};
use crate::provision::memory::World;
use crate::provision::pools;
use crate::registry::Registry;
use crate::service::server::{Control, Services};
use crate::sysfs::{self, SysfsError};

/// Why the agent did not start or did not end well.
#[derive(Debug, Error)]
pub enum AgentError {
    /// A directory.
    #[error("cannot prepare {path}: {source}; choose others with --run-dir and --state-dir")]
    Directory {
        /// The directory.
        path: String,
        /// The kernel's word.
        source: io::Error,
    },
    /// The run directory's lock.
    #[error("cannot lock {path}: {source}; another agent runs there, choose another --run-dir")]
    Taken {
        /// The lock file.
        path: String,
        /// The kernel's word.
        source: io::Error,
    },
    /// The journal.
    #[error("{0}; is another agent running on this state directory?")]
    Journal(#[from] JournalError),
    /// The topology.
    #[error("{0}")]
    Topology(#[from] SysfsError),
    /// The cpusets.
    #[error("cores cannot be held in cpusets: {0}")]
    Cpuset(#[from] CpusetError),
    /// Recovery.
    #[error("{0}")]
    Recovery(#[from] ControlError),
    /// A socket.
    #[error("cannot listen on {what}: {source}")]
    Listen {
        /// The socket.
        what: String,
        /// The kernel's word.
        source: io::Error,
    },
    /// The server.
    #[error("control server failed: {0}")]
    Server(Box<dyn std::error::Error + Send + Sync>),
    /// The runtime.
    #[error("{call} failed: {source}")]
    Os {
        /// The call.
        call: &'static str,
        /// The kernel's word.
        source: io::Error,
    },
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// What kept it from starting.
pub fn run(config: &Config) -> Result<(), AgentError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| AgentError::Os { call: "epoll_create1", source })?;
    runtime.block_on(serve(config))
}

async fn serve(config: &Config) -> Result<(), AgentError> {
    prepare(&config.agent.run_dir, 0o755)?;
    prepare(&config.agent.state_dir, 0o700)?;
    let _lock = lock(&config.agent.run_dir)?;
    raise_open_files();
    let boot_id = boot_id();
    let journal = Journal::open(&config.agent.state_dir.join("journal.redb"), &boot_id)?;
    let registry = Arc::new(Registry::default());
    let (setup, findings) = setup(config, journal, boot_id, Arc::clone(&registry))?;
    let listen = |what: &str| {
        let what = what.to_owned();
        move |source| AgentError::Listen { what, source }
    };
    let attach = Listener::bind(config).map_err(listen("the attach socket"))?;
    let control = Control::bind(config).await.map_err(listen("the control socket"))?;
    // Before the controller's thread starts: capabilities belong to threads.
    privilege::drop_what_is_not_needed();
    let topology = Arc::new(setup.topology.clone());
    let (controller, watched) = actor::start(setup, attach)?;
    for process in watched {
        tokio::spawn(watch_process(process, controller.clone()));
    }
    let (stop, stopped) = watch::channel(false);
    let mut terminate = stop_signal(SignalKind::terminate())?;
    let mut interrupt = stop_signal(SignalKind::interrupt())?;
    let services = Services { controller: controller.clone(), registry, topology, findings };
    let serving = control.serve(config, services, stopped);
    info!(control = %config.control_socket().display(), attach = %config.attach_socket().display(),
        version = env!("CARGO_PKG_VERSION"), "ready");
    let ended = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("stopping");
        // The server may be gone already; then there is nobody to tell.
        let _ = stop.send(true);
        // A watcher's stream would keep its connection open for ever.
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    let served = tokio::select! {
        served = serving => served.map_err(AgentError::Server),
        () = ended => Ok(()),
    };
    controller.stop().await;
    info!("stopped");
    served
}

fn setup(
    config: &Config,
    journal: Journal,
    boot_id: String,
    registry: Arc<Registry>,
) -> Result<(Setup, Arc<Vec<doctor::Finding>>), AgentError> {
    let sys_root = config.agent.sys_root.clone();
    let mut topology = sysfs::read(&sys_root)?;
    // What an agent of this boot added and could not give back is this agent's to give back.
    let mut added = journal.fact("hugepages_added")?.unwrap_or_else(pools::Added::new);
    pools::grow(&sys_root, &mut topology, &config.hugepages.reserve, &mut added);
    let findings = Arc::new(doctor::examine(&sys_root));
    for finding in findings.iter().filter(|finding| !finding.works && finding.required) {
        warn!(name = finding.name, detail = %finding.detail(), "lanes cannot work on this node");
    }
    let cores = cores(&config.cpuset, &journal)?;
    let enforce = doctor::enforced_pinning();
    let rules = Rules {
        lanes_max: config.limits.lanes as usize,
        tenants: config.tenants.names.clone(),
        enforce_missing: (!enforce.works).then(|| enforce.detail()),
        cpuset_missing: cores.is_none().then(|| CpusetError::Off.to_string()),
        cpuset: cores.as_ref().map(|c| [c.lanes(), c.shared()]).unwrap_or_default(),
    };
    let setup = Setup {
        world: Box::new(World::new(cores)),
        journal,
        registry,
        topology,
        sys_root,
        rules,
        generations_max: config.limits.generations as usize,
        boot_id,
        added,
    };
    Ok((setup, findings))
}

/// Takes the node's cpusets in hand, if the operator wants that. What an agent of this boot held
/// elsewhere, or by a configuration that wanted it, is put back first.
fn cores(config: &CpusetConfig, journal: &Journal) -> Result<Option<Cores>, AgentError> {
    let before = journal.fact::<Option<CpusetConfig>>("cpuset")?.flatten();
    if let Some(before) = before.filter(|before| !config.enabled || before.root != config.root) {
        let holds = journal.fact("held_cores")?.unwrap_or_default();
        // It was there a moment ago: who moved in since does not matter for putting it back.
        match Cores::open(&CpusetConfig { force: true, ..before }) {
            Ok(mut cores) => cores.recover(holds, &HashSet::new()),
            Err(error) => warn!(%error, "cpusets of the agent before stay as they are"),
        }
        journal.set_fact("held_cores", &Vec::<Hold>::new())?;
    }
    let cores = config.enabled.then(|| Cores::open(config)).transpose()?;
    journal.set_fact("cpuset", &cores.as_ref().map(|_| config))?;
    Ok(cores)
}

/// Makes a directory that only this user may write. One that is there keeps its mode: it may be
/// somebody else's business.
fn prepare(path: &Path, mode: u32) -> Result<(), AgentError> {
    let directory = |source| AgentError::Directory { path: path.display().to_string(), source };
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(directory)?;
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(directory)
}

/// Takes the run directory: two agents must not replace each other's sockets.
fn lock(run_dir: &Path) -> Result<Flock<File>, AgentError> {
    let path = run_dir.join("agent.lock");
    let taken = |source| AgentError::Taken { path: path.display().to_string(), source };
    let file = File::options().create(true).append(true).open(&path).map_err(taken)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| taken(errno.into()))
}

/// Uses the whole of what the hard limit allows: every lane takes a few descriptors.
fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "limit of open files stays as it is");
    }
}

fn stop_signal(kind: SignalKind) -> Result<tokio::signal::unix::Signal, AgentError> {
    signal(kind).map_err(|source| AgentError::Os { call: "sigaction", source })
}

/// Tells the controller when a process of the time before this agent ends.
async fn watch_process(process: Watched, controller: Handle) {
    if let Ok(pidfd) = peer::reopen(process.pid, process.start_time) {
        // A descriptor that cannot be watched counts as an end only if the process is gone.
        if peer::ended(pidfd).await.is_err() {
            return;
        }
    }
    controller.tell(Command::Gone { key: process.key }).await;
}

/// The kernel's random number of this boot; a fixed text where there is none.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned())
}
