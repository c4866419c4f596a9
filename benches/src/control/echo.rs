//! The yardstick of every call: a plain tonic service that answers with what it was sent.
//!
//! It runs as the agent does: in a process of its own, on a runtime of one thread, behind a Unix
//! socket, with the same limits. The service is written out as the code generator would write it.

use std::convert::Infallible;
use std::path::Path;
use std::process::{Child, ExitCode, Stdio};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use prost::bytes::Bytes;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::calls::{Calls, refused, runtime};
use crate::child;
use crate::error::BenchError;
use crate::interrupt::Interrupt;

/// How long the server may take to listen.
const START_MAX: Duration = Duration::from_secs(30);
/// Bytes that travel there and back.
const BYTES: usize = 64;
/// Streams of one connection, as the agent allows them.
pub(crate) const STREAMS_MAX: u32 = 32;

/// A message of bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct Packet {
    #[prost(bytes = "bytes", tag = "1")]
    body: Bytes,
}

fn codec() -> ProstCodec<Packet, Packet> {
    ProstCodec::default()
}

/// One method of one service.
#[derive(Clone, Debug)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "laneway.bench.Control";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let handler = service_fn(|request: Request<Packet>| {
                std::future::ready(Ok::<_, Status>(Response::new(request.into_inner())))
            });
            Ok(tonic::server::Grpc::new(codec()).unary(handler, request).await)
        })
    }
}

/// The hidden role `laneway-bench control-echo`: serves until it is ended.
pub(crate) fn serve(parent: Option<i32>, socket: &Path) -> Result<ExitCode, BenchError> {
    child::adopt(parent)?;
    runtime()?.block_on(async {
        let listener = UnixListener::bind(socket).map_err(BenchError::io("cannot listen"))?;
        Server::builder()
            .max_concurrent_streams(STREAMS_MAX)
            .concurrency_limit_per_connection(STREAMS_MAX as usize)
            .http2_max_header_list_size(8 << 10)
            .timeout(Duration::from_secs(60))
            .add_service(Echo)
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await
            .map_err(|error| BenchError::Call { what: "echo server", why: error.to_string() })
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A running server. It ends when dropped.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    /// Starts one that listens on `socket`.
    pub(crate) fn start(socket: &Path, interrupt: &Interrupt) -> Result<Self, BenchError> {
        let mut command = child::command("control-echo")?;
        command.arg("--socket").arg(socket).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().map_err(BenchError::io("cannot start the echo server"))?;
        let running = Self(child);
        let start = Instant::now();
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            if start.elapsed() > START_MAX {
                let why = format!("it did not listen within {START_MAX:?}");
                return Err(BenchError::Call { what: "echo server", why });
            }
            interrupt.sleep(Duration::from_millis(5))?;
        }
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        child::end(&mut self.0);
    }
}

/// One that calls it.
#[derive(Debug)]
pub(crate) struct Echoes {
    client: tonic::client::Grpc<Channel>,
    packet: Packet,
}

impl Echoes {
    pub(crate) fn new(channel: Channel) -> Self {
        let packet = Packet { body: vec![7; BYTES].into() };
        Self { client: tonic::client::Grpc::new(channel), packet }
    }
}

impl Calls for Echoes {
    async fn call(&mut self, _number: u32) -> Result<(), BenchError> {
        let ready = self.client.ready().await;
        ready.map_err(|error| BenchError::Call { what: "echo", why: error.to_string() })?;
        let path = PathAndQuery::from_static("/laneway.bench.Control/Echo");
        let answer = self.client.unary(Request::new(self.packet.clone()), path, codec()).await;
        let answer: Packet = answer.map_err(refused("echo"))?.into_inner();
        if answer == self.packet {
            Ok(())
        } else {
            Err(BenchError::Call { what: "echo", why: "another message came back".to_owned() })
        }
    }
}
