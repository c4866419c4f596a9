//! Callers of the control API: what they call, how many at once, and for how long.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use laneway_proto::v1;
use laneway_proto::v1::lane_service_client::LaneServiceClient;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::timings::{Clock, Timings};
use crate::error::BenchError;
use crate::task::Wait;

/// An answer that takes longer is an error.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Bytes of an ordinary page.
pub(crate) const BASE_PAGE: u64 = 4096;
/// What a lane is that nobody attaches to.
pub(crate) const ORDINARY: Kind = Kind { page_bytes: BASE_PAGE, wait: Wait::Spin };
/// Largest answer, in bytes: a page of a thousand lanes.
const ANSWER_MAX: usize = 8 << 20;

/// A runtime like the agent's: one thread.
pub(crate) fn runtime() -> Result<Runtime, BenchError> {
    Builder::new_current_thread().enable_all().build().map_err(BenchError::io("tokio"))
}

/// For `map_err`: a refusal, with the call that was refused.
pub(crate) fn refused(what: &'static str) -> impl FnOnce(Status) -> BenchError {
    move |status| BenchError::Call { what, why: status.message().to_owned() }
}

/// A connection to a Unix socket.
pub(crate) async fn connect(socket: &Path) -> Result<Channel, BenchError> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost")
        .timeout(ANSWER_WITHIN)
        .connect_with_connector(connector)
        .await
        .map_err(|error| BenchError::Call { what: "connect", why: error.to_string() })
}

/// A client for lanes.
pub(crate) fn lanes(channel: Channel) -> LaneServiceClient<Channel> {
    LaneServiceClient::new(channel).max_decoding_message_size(ANSWER_MAX)
}

/// Somebody who makes one call after the other.
pub(crate) trait Calls: Send + 'static {
    /// The next call, which is this caller's `number`th from 0.
    fn call(&mut self, number: u32) -> impl Future<Output = Result<(), BenchError>> + Send;
}

/// When a caller has done its part.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// After this time, and one call; the first tenth does not count.
    Time(Duration),
    /// After this many calls.
    Calls(u32),
}

/// Lets all callers call at once; `None` if no call counted.
pub(crate) async fn load<C: Calls>(
    callers: Vec<C>,
    until: Until,
) -> Result<Option<Timings>, BenchError> {
    let start = Instant::now();
    let warm_up = match until {
        Until::Time(time) => time / 10,
        Until::Calls(_) => Duration::ZERO,
    };
    let mut working = JoinSet::new();
    for caller in callers {
        working.spawn(drive(caller, start, warm_up, until));
    }
    let mut all = Clock::new();
    while let Some(ended) = working.join_next().await {
        match ended {
            Ok(clock) => all.add(&clock?),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => {
                    return Err(BenchError::Call { what: "caller", why: error.to_string() });
                }
            },
        }
    }
    Ok(all.within(start.elapsed().saturating_sub(warm_up)))
}

async fn drive<C: Calls>(
    mut caller: C,
    start: Instant,
    warm_up: Duration,
    until: Until,
) -> Result<Clock, BenchError> {
    let mut clock = Clock::new();
    let mut number = 0;
    loop {
        let before = Instant::now();
        let since = before.duration_since(start);
        let done = match until {
            // On a busy machine, the first call may take all of it.
            Until::Time(time) => since >= time && !clock.is_empty(),
            Until::Calls(calls) => number >= calls,
        };
        if done {
            return Ok(clock);
        }
        caller.call(number).await?;
        if since >= warm_up {
            clock.count(before.elapsed());
        }
        number += 1;
    }
}

/// What is asked of the agent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Errand {
    /// A lane, by its name.
    Get,
    /// All lanes there are, of which there must be this many.
    List(usize),
    /// A lane: memory is allocated before the answer.
    Create,
    /// A ticket for an end.
    Ticket,
    /// The end of a lane.
    Delete,
}

/// One that calls the agent about lanes of its own.
#[derive(Debug)]
pub(crate) struct Asker {
    pub(crate) client: LaneServiceClient<Channel>,
    pub(crate) errand: Errand,
    /// Names of its lanes; calls go through them in turn.
    pub(crate) names: Arc<[String]>,
}

impl Calls for Asker {
    async fn call(&mut self, number: u32) -> Result<(), BenchError> {
        let lane = self.names.get(number as usize % self.names.len().max(1));
        let lane = lane.cloned().unwrap_or_default();
        match self.errand {
            Errand::Get => {
                let request = v1::GetLaneRequest { lane };
                self.client.get_lane(request).await.map_err(refused("lane get")).map(|_| ())
            }
            Errand::List(expected) => self.list(expected).await,
            Errand::Create => create(&mut self.client, &lane, ORDINARY).await,
            Errand::Ticket => ticket(&mut self.client, &lane, v1::Role::Producer).await.map(|_| ()),
            Errand::Delete => delete(&mut self.client, &lane).await,
        }
    }
}

impl Asker {
    async fn list(&mut self, expected: usize) -> Result<(), BenchError> {
        let request = v1::ListLanesRequest { page_size: 1000, ..Default::default() };
        let answer = self.client.list_lanes(request).await.map_err(refused("lane list"))?;
        let found = answer.into_inner().lanes.len();
        if found == expected {
            return Ok(());
        }
        let why = format!("{found} lanes came where {expected} are");
        Err(BenchError::Call { what: "lane list", why })
    }
}

/// What small lanes differ in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) page_bytes: u64,
    pub(crate) wait: Wait,
}

/// Makes a small lane whose ends are pinned nowhere.
pub(crate) async fn create(
    client: &mut LaneServiceClient<Channel>,
    name: &str,
    kind: Kind,
) -> Result<(), BenchError> {
    let end = || Some(v1::EndSpec { pinning: v1::Pinning::None.into(), ..Default::default() });
    let spec = v1::LaneSpec {
        name: name.to_owned(),
        geometry: Some(v1::Geometry { slot_payload_bytes: 56, slot_count: 64 }),
        pages: Some(v1::PageRequest { page_size_bytes: kind.page_bytes, require: true }),
        wait: match kind.wait {
            Wait::Spin => v1::WaitMode::Spin.into(),
            Wait::Park => v1::WaitMode::Park.into(),
        },
        producer: end(),
        consumer: end(),
        ..Default::default()
    };
    let request = v1::CreateLaneRequest { spec: Some(spec), ..Default::default() };
    client.create_lane(request).await.map_err(refused("lane create")).map(|_| ())
}

/// A ticket for one end of a lane.
pub(crate) async fn ticket(
    client: &mut LaneServiceClient<Channel>,
    lane: &str,
    role: v1::Role,
) -> Result<String, BenchError> {
    let (lane, role) = (lane.to_owned(), role.into());
    let request = v1::IssueTicketRequest { lane, role, ttl_ms: 600_000, ..Default::default() };
    let answer = client.issue_ticket(request).await.map_err(refused("lane ticket"))?;
    Ok(answer.into_inner().ticket)
}

/// Ends a lane.
pub(crate) async fn delete(
    client: &mut LaneServiceClient<Channel>,
    lane: &str,
) -> Result<(), BenchError> {
    let request = v1::DeleteLaneRequest { lane: lane.to_owned(), ..Default::default() };
    client.delete_lane(request).await.map_err(refused("lane delete")).map(|_| ())
}

/// Waits until the agent knows that an end's process let go of it.
pub(crate) async fn left(
    client: &mut LaneServiceClient<Channel>,
    lane: &str,
    role: v1::Role,
) -> Result<(), BenchError> {
    let start = Instant::now();
    loop {
        let request = v1::GetLaneRequest { lane: lane.to_owned() };
        let answer = client.get_lane(request).await.map_err(refused("lane get"))?.into_inner();
        let lane = answer.lane.unwrap_or_default();
        let end = if role == v1::Role::Producer { lane.producer } else { lane.consumer };
        if end.unwrap_or_default().state() != v1::end_status::State::Live {
            return Ok(());
        }
        if start.elapsed() > ANSWER_WITHIN {
            return Err(BenchError::Peer(ANSWER_WITHIN));
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}
