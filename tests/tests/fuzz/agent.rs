//! An agent inside this process, so that the fuzzer sees which of its branches an input takes.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use laneway_agent::actor::{self, Command, Handle};
use laneway_agent::admission::Rules;
use laneway_agent::attach::Listener;
use laneway_agent::config::Config;
use laneway_agent::controller::{RequestId, Setup};
use laneway_agent::journal::Journal;
use laneway_agent::model::id::Name;
use laneway_agent::model::lane::LaneRecord;
use laneway_agent::provision::memory::World;
use laneway_agent::service::spec_from_proto;
use laneway_agent::sysfs;
use laneway_proto::v1;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The agent's actor and its attach socket.
pub(crate) struct InProcess {
    config: Config,
    controller: Handle,
    _dir: TempDir,
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime")
}

impl InProcess {
    pub(crate) fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("laneway-fuzz-").tempdir().expect("directory");
        let mut config = Config::default();
        config.agent.run_dir = dir.path().to_path_buf();
        std::fs::create_dir(dir.path().join("attach")).expect("directory");
        let root = Path::new("/");
        let setup = Setup {
            world: Box::new(World::default()),
            journal: Journal::open(&dir.path().join("journal.redb"), "boot").expect("journal"),
            registry: Arc::default(),
            topology: sysfs::read(root).expect("this machine"),
            sys_root: root.to_path_buf(),
            rules: Rules {
                lanes_max: 1000,
                tenants: config.tenants.names.clone(),
                enforce_missing: Some("not here".to_owned()),
                cpuset_missing: Some("not here".to_owned()),
                cpuset: Default::default(),
            },
            generations_max: 8,
            boot_id: "boot".to_owned(),
            added: Default::default(),
        };
        let listener = Listener::bind(&config).expect("a fresh directory");
        let (controller, _) = actor::start(setup, listener).expect("an empty journal");
        Self { _dir: dir, config, controller }
    }

    /// A lane whose ends this user may attach by name; with readers it is a broadcast lane.
    pub(crate) fn create(&self, name: &str, readers: Option<u32>) -> LaneRecord {
        let uids = vec![nix::unistd::getuid().as_raw()];
        let end = || v1::EndSpec {
            pinning: v1::Pinning::None.into(),
            uids: uids.clone(),
            ..Default::default()
        };
        let shape = if readers.is_some() { v1::Shape::Broadcast } else { v1::Shape::Spsc };
        let message = v1::LaneSpec {
            name: name.to_owned(),
            geometry: Some(v1::Geometry { slot_payload_bytes: 56, slot_count: 8 }),
            pages: Some(v1::PageRequest { page_size_bytes: 4096, require: true }),
            producer: Some(end()),
            consumer: Some(end()),
            shape: shape.into(),
            broadcast: readers.map(|readers_max| v1::BroadcastSpec {
                policy: v1::BroadcastPolicy::Gated.into(),
                readers_max,
                ..Default::default()
            }),
            ..Default::default()
        };
        let tenant = Name::parse("dx").expect("legal");
        let spec = Box::new(spec_from_proto(Some(message), &tenant).expect("legal"));
        let request = RequestId::default();
        let created = self.controller.ask(|reply| {
            let validate_only = false;
            Command::Create { request, validate_only, spec, reply }
        });
        runtime().block_on(created).expect("there is room for a small lane").record
    }

    /// A connection to the attach socket.
    pub(crate) fn connect(&self) -> OwnedFd {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None);
        let socket = socket.expect("a socket");
        let address = UnixAddr::new(&self.config.attach_socket()).expect("a short path");
        connect(socket.as_raw_fd(), &address).expect("the agent listens");
        socket
    }

    /// Path of the attach socket.
    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.config.attach_socket()
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        runtime().block_on(self.controller.stop());
    }
}
