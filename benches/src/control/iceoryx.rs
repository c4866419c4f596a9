//! iceoryx2's way to a live service: opening it and making a port, from a node that is there.
//!
//! The service has a publisher and a subscriber already. Both nodes are in this process, which is
//! no disadvantage for it; making a node is not counted. Its files lie in memory where they can:
//! opening a service locks and reads some, and a disk that others write to makes that slow.

use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::{
    Config, LogLevel, Node, NodeBuilder, Path, SemanticString, ServiceName, SignalHandlingMode,
    ipc, set_log_level,
};
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;
use tempfile::TempDir;

use super::attach::Found;
use super::timings::Clock;
use super::what::What;
use crate::error::BenchError;

/// Where files lie in memory.
const MEMORY: &str = "/dev/shm";

/// As many bytes as a lane's slot has.
type Payload = [u8; 56];
type Service = PortFactory<ipc::Service, Payload, ()>;

/// A live service.
#[derive(Debug)]
pub(crate) struct Live {
    /// The node that comes to it.
    guest: Node<ipc::Service>,
    name: ServiceName,
    // Dropped in this order: ports, service, node.
    _publisher: Publisher<ipc::Service, Payload, ()>,
    _subscriber: Subscriber<ipc::Service, Payload, ()>,
    _service: Service,
    _host: Node<ipc::Service>,
    _directory: TempDir,
}

impl Live {
    /// Makes one, with its files in memory, or in the temporary directory where that cannot be.
    pub(crate) fn new() -> Result<Self, BenchError> {
        set_log_level(LogLevel::Error);
        let mut builder = tempfile::Builder::new();
        builder.prefix("laneway-control-");
        let directory = builder.tempdir_in(MEMORY).or_else(|_| builder.tempdir());
        let directory = directory.map_err(BenchError::io("cannot make a temporary directory"))?;
        let (host, guest) = (node(directory.path())?, node(directory.path())?);
        let name = ServiceName::new("live").map_err(BenchError::rival("iceoryx2 name"))?;
        let service = host
            .service_builder(&name)
            .publish_subscribe::<Payload>()
            .enable_safe_overflow(false)
            .history_size(0)
            .max_publishers(2)
            .max_subscribers(2)
            .max_nodes(2)
            .subscriber_max_buffer_size(64)
            .create()
            .map_err(BenchError::rival("iceoryx2 service"))?;
        let publisher = service.publisher_builder().create();
        let subscriber = service.subscriber_builder().create();
        Ok(Self {
            guest,
            name,
            _publisher: publisher.map_err(BenchError::rival("iceoryx2 publisher"))?,
            _subscriber: subscriber.map_err(BenchError::rival("iceoryx2 subscriber"))?,
            _service: service,
            _host: host,
            _directory: directory,
        })
    }

    /// Comes and goes `times` times as a publisher, and as a subscriber.
    pub(crate) fn pass(&self, times: u32) -> Result<Found, BenchError> {
        let (mut opening, mut publishing, mut subscribing) =
            (Clock::new(), Clock::new(), Clock::new());
        for _ in 0..times {
            let service = opening.time(|| self.open())?;
            drop(service);
            let ends = publishing.time(|| -> Result<_, BenchError> {
                let service = self.open()?;
                let port = service.publisher_builder().create();
                Ok((port.map_err(BenchError::rival("iceoryx2 publisher"))?, service))
            })?;
            drop(ends);
            let ends = subscribing.time(|| -> Result<_, BenchError> {
                let service = self.open()?;
                let port = service.subscriber_builder().create();
                Ok((port.map_err(BenchError::rival("iceoryx2 subscriber"))?, service))
            })?;
            drop(ends);
        }
        let all = [
            (What::IceoryxOpen, opening),
            (What::IceoryxPublisher, publishing),
            (What::IceoryxSubscriber, subscribing),
        ];
        Ok(all.into_iter().filter_map(|(what, clock)| Some((what, clock.in_turn()?))).collect())
    }

    fn open(&self) -> Result<Service, BenchError> {
        let builder = self.guest.service_builder(&self.name).publish_subscribe::<Payload>();
        builder.open().map_err(BenchError::rival("iceoryx2 open"))
    }
}

fn node(directory: &std::path::Path) -> Result<Node<ipc::Service>, BenchError> {
    let root = directory.join("iceoryx2");
    let root = Path::new(root.as_os_str().as_encoded_bytes())
        .map_err(BenchError::rival("iceoryx2 root path"))?;
    let mut config = Config::default();
    config.global.set_root_path(&root);
    NodeBuilder::new()
        .config(&config)
        .signal_handling_mode(SignalHandlingMode::Disabled)
        .create::<ipc::Service>()
        .map_err(BenchError::rival("iceoryx2 node"))
}
