//! The control sockets: accept loops, limits, health, reflection, shutdown.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use laneway_proto::v1::lane_service_server::LaneServiceServer;
use laneway_proto::v1::node_service_server::NodeServiceServer;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tracing::warn;

use super::lane_service::Lanes;
use super::node_service::Node;
use crate::actor::Handle;
use crate::attach::listener::SocketFile;
use crate::config::Config;
use crate::doctor::Finding;
use crate::model::topology::Topology;
use crate::registry::Registry;

/// Largest request, in bytes: a lane's specification with every list full is below 4 KiB.
const REQUEST_MAX: usize = 64 << 10;
/// Largest answer, in bytes: a page of a thousand lanes.
const RESPONSE_MAX: usize = 8 << 20;
/// Streams of one connection.
const STREAMS_MAX: u32 = 32;
/// A request is answered within this time, or refused.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// A connection that has not sent the HTTP/2 preface by then is closed: silence must not keep
/// the places of others.
const PREFACE_WITHIN: Duration = Duration::from_secs(2);
/// Bytes of the preface (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;
/// Pause after the kernel refused a connection for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the services need.
#[derive(Clone, Debug)]
pub struct Services {
    /// The actor.
    pub controller: Handle,
    /// The readers' side.
    pub registry: Arc<Registry>,
    /// The machine, as it was at the start.
    pub topology: Arc<Topology>,
    /// What this node can do.
    pub findings: Arc<Vec<Finding>>,
}

/// The bound Unix socket and, if asked for, the TCP listener.
#[derive(Debug)]
pub struct Control {
    unix: UnixListener,
    tcp: Option<TcpListener>,
    file: SocketFile,
    connections: Arc<Semaphore>,
}

impl Control {
    /// Binds the sockets.
    ///
    /// # Errors
    /// The kernel's word, for instance for a port that is taken.
    pub async fn bind(config: &Config) -> io::Result<Self> {
        let path = config.control_socket();
        let file = SocketFile::replacing(path.clone())?;
        let unix = UnixListener::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(config.agent.control_mode))?;
        let tcp = match config.agent.listen_tcp {
            Some(address) => Some(TcpListener::bind(address).await?),
            None => None,
        };
        let connections = Arc::new(Semaphore::new(config.limits.control_connections as usize));
        Ok(Self { unix, tcp, file, connections })
    }

    /// Serves until `stop` turns true.
    ///
    /// # Errors
    /// The server could not be built or failed.
    pub async fn serve(
        self,
        config: &Config,
        services: Services,
        stop: watch::Receiver<bool>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let router = router(config, services).await?;
        let (sender, connections) = tokio::sync::mpsc::channel(16);
        let permits = Arc::clone(&self.connections);
        // Goes with this future, however it ends.
        let _file = self.file;
        let unix = self.unix;
        let to = sender.clone();
        tokio::spawn(async move {
            loop {
                let permit = Arc::clone(&permits).acquire_owned().await;
                let accepted = unix.accept().await.map(|(stream, _)| Stream::Unix(stream));
                if !pass_on(accepted, permit.ok(), &to).await {
                    return;
                }
            }
        });
        if let Some(tcp) = self.tcp {
            let permits = self.connections;
            tokio::spawn(async move {
                loop {
                    let permit = Arc::clone(&permits).acquire_owned().await;
                    let accepted = tcp.accept().await.map(|(stream, _)| Stream::Tcp(stream));
                    if !pass_on(accepted, permit.ok(), &sender).await {
                        return;
                    }
                }
            });
        }
        let stopped = async move {
            let mut stop = stop;
            // A sender that is gone means the same as one that says stop.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        router.serve_with_incoming_shutdown(ReceiverStream::new(connections), stopped).await?;
        Ok(())
    }
}

/// Hands an accepted connection to the server. False when the server is gone.
async fn pass_on(
    accepted: io::Result<Stream>,
    permit: Option<OwnedSemaphorePermit>,
    to: &tokio::sync::mpsc::Sender<io::Result<Counted>>,
) -> bool {
    match accepted {
        Ok(stream) => {
            let preface = Some(Box::pin(tokio::time::sleep(PREFACE_WITHIN)));
            let counted = Counted { stream, preface, received: 0, _permit: permit };
            to.send(Ok(counted)).await.is_ok()
        }
        // Out of descriptors, most likely: the connection still waits, the agent goes on.
        Err(error) => {
            warn!(%error, "control connection not accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            !to.is_closed()
        }
    }
}

async fn router(
    config: &Config,
    services: Services,
) -> Result<Router, Box<dyn std::error::Error + Send + Sync>> {
    let default_tenant = config.tenants.names.first().cloned().ok_or("no tenant configured")?;
    let lanes = Lanes {
        controller: services.controller,
        registry: Arc::clone(&services.registry),
        default_tenant,
        attach_socket: config.attach_socket().display().to_string(),
    };
    let node = Node {
        registry: services.registry,
        topology: services.topology,
        sys_root: config.agent.sys_root.clone(),
        findings: services.findings,
    };
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<LaneServiceServer<Lanes>>().await;
    health.set_serving::<NodeServiceServer<Node>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(laneway_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let lanes = LaneServiceServer::new(lanes)
        .max_decoding_message_size(REQUEST_MAX)
        .max_encoding_message_size(RESPONSE_MAX);
    let node = NodeServiceServer::new(node).max_decoding_message_size(REQUEST_MAX);
    Ok(Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .concurrency_limit_per_connection(STREAMS_MAX as usize)
        .http2_max_header_list_size(8 << 10)
        .http2_max_pending_accept_reset_streams(Some(20))
        .timeout(ANSWER_WITHIN)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(lanes)
        .add_service(node))
}

/// A connection that counts against the limit while it lives.
struct Counted {
    stream: Stream,
    /// Runs out unless the preface comes first.
    preface: Option<Pin<Box<tokio::time::Sleep>>>,
    received: usize,
    _permit: Option<OwnedSemaphorePermit>,
}

enum Stream {
    Unix(tokio::net::UnixStream),
    Tcp(tokio::net::TcpStream),
}

mod io_impl {
    //! Reading and writing pass through to whichever stream it is.

    use std::future::Future;
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use tonic::transport::server::Connected;

    use super::{Counted, PREFACE_BYTES, Stream};

    impl Connected for Counted {
        type ConnectInfo = ();

        fn connect_info(&self) {}
    }

    /// Calls the same method on whichever stream it is.
    macro_rules! either {
        ($self:ident, $stream:ident => $call:expr) => {
            match &mut $self.get_mut().stream {
                Stream::Unix($stream) => $call,
                Stream::Tcp($stream) => $call,
            }
        };
    }

    impl AsyncRead for Counted {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let this = self.get_mut();
            let before = buf.filled().len();
            let read = match &mut this.stream {
                Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
                Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            };
            if let Some(preface) = &mut this.preface {
                this.received += buf.filled().len() - before;
                if this.received >= PREFACE_BYTES {
                    this.preface = None;
                } else if read.is_pending() && preface.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            read
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            either!(self, stream => Pin::new(stream).poll_write(cx, buf))
        }

        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            either!(self, stream => Pin::new(stream).poll_flush(cx))
        }

        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            either!(self, stream => Pin::new(stream).poll_shutdown(cx))
        }
    }
}
