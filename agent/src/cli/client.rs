//! Talking to a running agent, over its Unix socket or loopback TCP.

use std::error::Error;
use std::future::Future;

use hyper_util::rt::TokioIo;
use laneway_proto::v1::lane_service_client::LaneServiceClient;
use laneway_proto::v1::node_service_client::NodeServiceClient;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use super::CliResult;

/// Largest answer, in bytes: as the server's.
const ANSWER_MAX: usize = 8 << 20;

/// Runs a client to its end.
pub(super) fn block_on<T>(
    work: impl Future<Output = Result<T, Box<dyn Error>>>,
) -> Result<T, Box<dyn Error>> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Connects to an agent.
pub(crate) async fn connect(socket: &str) -> Result<Channel, Box<dyn Error>> {
    if socket.starts_with("http://") {
        let endpoint = Endpoint::from_shared(socket.to_owned())?;
        return endpoint.connect().await.map_err(|error| unreachable_agent(socket, &error));
    }
    let path = socket.to_owned();
    // The address is never dialled; it only gives the request a well-formed `:authority`.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|error| unreachable_agent(socket, &error))
}

/// The innermost cause says what to do; the outer ones say "transport error".
fn unreachable_agent(socket: &str, error: &dyn Error) -> Box<dyn Error> {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    format!("cannot reach an agent at {socket}: {cause}; is it running? (laneway agent)").into()
}

/// A client for lanes.
pub(crate) async fn lanes(socket: &str) -> Result<LaneServiceClient<Channel>, Box<dyn Error>> {
    let channel = connect(socket).await?;
    Ok(LaneServiceClient::new(channel).max_decoding_message_size(ANSWER_MAX))
}

/// A client for the node.
pub(super) async fn node(socket: &str) -> Result<NodeServiceClient<Channel>, Box<dyn Error>> {
    let channel = connect(socket).await?;
    Ok(NodeServiceClient::new(channel).max_decoding_message_size(ANSWER_MAX))
}

/// A refusal as a person reads it: the message, then the numbers.
#[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
pub(crate) fn refused(status: Status) -> Box<dyn Error> {
    let info = status.get_details_error_info();
    let reason = info.as_ref().map(|info| info.reason.clone()).unwrap_or_default();
    if reason.is_empty() {
        return format!("{}: {}", status.code(), status.message()).into();
    }
    let numbers = info.map(|info| info.metadata).unwrap_or_default();
    let mut numbers: Vec<String> = numbers
        .into_iter()
        .filter(|(name, _)| name.starts_with("would_fit"))
        .map(|(name, value)| format!("\n  {name}: {value}"))
        .collect();
    numbers.sort();
    format!("{reason}: {}{}", status.message(), numbers.concat()).into()
}

/// Asks the health service.
pub(super) fn health(socket: &str) -> CliResult {
    block_on(async {
        let mut client = HealthClient::new(connect(socket).await?);
        let request = HealthCheckRequest { service: String::new() };
        let status = client.check(request).await.map_err(refused)?.into_inner().status();
        if status == ServingStatus::Serving {
            println!("SERVING");
            return Ok(());
        }
        Err(format!("agent at {socket} is {}", status.as_str_name()).into())
    })
}
