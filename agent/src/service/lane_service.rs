//! LaneService: decode, ask the actor or a snapshot, encode.

use std::pin::Pin;
use std::sync::Arc;

use laneway_proto::v1;
use laneway_proto::v1::lane_service_server::LaneService;
use laneway_proto::v1::watch_lanes_response::Kind;
use prost::Message;
use sha2::{Digest, Sha256};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::convert::{self, lane_to_proto, timestamp};
use super::status::{BadField, refusal};
use crate::actor::{Command, Handle};
use crate::controller::RequestId;
use crate::model::id::Name;
use crate::registry::{Change, ChangeKind, Registry};

/// Longest and default lifetime of a ticket, in milliseconds.
const TICKET_TTL_MS: (u32, u32) = (3_600_000, 60_000);
/// Largest and default page of a list.
const PAGE: (u32, u32) = (1000, 100);
/// Watch responses that wait for one slow client.
const WATCH_QUEUE: usize = 64;

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Lanes {
    pub(super) controller: Handle,
    pub(super) registry: Arc<Registry>,
    pub(super) default_tenant: Name,
    pub(super) attach_socket: String,
}

/// The caller's id with a digest of what it asked, so that a re-used id is noticed.
fn identified<M: Message>(id: &str, method: &str, content: &M) -> Result<RequestId, BadField> {
    let id = convert::request_id(id)?;
    let mut hasher = Sha256::new();
    hasher.update(method.as_bytes());
    hasher.update(content.encode_to_vec());
    let hash = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(RequestId { id, hash })
}

#[tonic::async_trait]
impl LaneService for Lanes {
    async fn create_lane(
        &self,
        request: Request<v1::CreateLaneRequest>,
    ) -> Result<Response<v1::CreateLaneResponse>, Status> {
        let message = request.into_inner();
        let request = identified(&message.request_id, "CreateLane", &message)?;
        let validate_only = message.validate_only;
        let spec = Box::new(convert::spec(message.spec, &self.default_tenant)?);
        let view = self
            .controller
            .ask(|reply| Command::Create { request, validate_only, spec, reply })
            .await?;
        Ok(Response::new(v1::CreateLaneResponse { lane: Some(lane_to_proto(&view)) }))
    }

    async fn get_lane(
        &self,
        request: Request<v1::GetLaneRequest>,
    ) -> Result<Response<v1::GetLaneResponse>, Status> {
        let name = request.into_inner().lane;
        let snapshot = self.registry.snapshot();
        let lane = snapshot.find(&name).ok_or_else(|| not_found(&name))?;
        Ok(Response::new(v1::GetLaneResponse { lane: Some(lane_to_proto(lane)) }))
    }

    async fn list_lanes(
        &self,
        request: Request<v1::ListLanesRequest>,
    ) -> Result<Response<v1::ListLanesResponse>, Status> {
        let message = request.into_inner();
        let page_size = match message.page_size {
            0 => PAGE.1,
            size if size <= PAGE.0 => size,
            size => {
                let description = format!("is {size}, allowed is 0 to {}", PAGE.0);
                return Err(BadField::new("page_size", description).into());
            }
        };
        let parse = |field: &str, text: &str| match text {
            "" => Ok(None),
            text => {
                Name::parse(text).map(Some).map_err(|error| BadField::new(field, error.to_string()))
            }
        };
        let after = parse("page_token", &message.page_token)?;
        let tenant = parse("tenant", &message.tenant)?;
        let snapshot = self.registry.snapshot();
        let mut lanes = snapshot
            .lanes
            .iter()
            .filter(|(name, _)| after.as_ref().is_none_or(|after| *name > after))
            .filter(|(_, lane)| tenant.as_ref().is_none_or(|t| lane.record.spec.tenant == *t))
            .map(|(_, lane)| lane);
        let page: Vec<v1::Lane> =
            lanes.by_ref().take(page_size as usize).map(|lane| lane_to_proto(lane)).collect();
        let last = page.last().and_then(|lane| lane.spec.as_ref()).map(|spec| spec.name.clone());
        let next_page_token = lanes.next().and(last).unwrap_or_default();
        let revision = snapshot.revision;
        Ok(Response::new(v1::ListLanesResponse { lanes: page, next_page_token, revision }))
    }

    async fn delete_lane(
        &self,
        request: Request<v1::DeleteLaneRequest>,
    ) -> Result<Response<v1::DeleteLaneResponse>, Status> {
        let message = request.into_inner();
        let request = identified(&message.request_id, "DeleteLane", &message)?;
        let v1::DeleteLaneRequest { validate_only, lane, .. } = message;
        let view = self
            .controller
            .ask(|reply| Command::Delete { request, validate_only, lane, reply })
            .await?;
        Ok(Response::new(v1::DeleteLaneResponse { lane: Some(lane_to_proto(&view)) }))
    }

    type WatchLanesStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchLanesResponse, Status>> + Send>>;

    async fn watch_lanes(
        &self,
        request: Request<v1::WatchLanesRequest>,
    ) -> Result<Response<Self::WatchLanesStream>, Status> {
        let start = request.into_inner().start_revision;
        // First subscribe, then look: nothing falls in between.
        let changes = self.registry.subscribe();
        let first = self.first_of_watch(start)?;
        let (sender, stream) = mpsc::channel(WATCH_QUEUE);
        tokio::spawn(feed(first, changes, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn issue_ticket(
        &self,
        request: Request<v1::IssueTicketRequest>,
    ) -> Result<Response<v1::IssueTicketResponse>, Status> {
        let message = request.into_inner();
        let request = identified(&message.request_id, "IssueTicket", &message)?;
        let role = convert::role(message.role)?;
        let ttl_ms = match message.ttl_ms {
            0 => TICKET_TTL_MS.1,
            ttl if (1000..=TICKET_TTL_MS.0).contains(&ttl) => ttl,
            ttl => {
                let description = format!("is {ttl}, allowed is 1000 to {}", TICKET_TTL_MS.0);
                return Err(BadField::new("ttl_ms", description).into());
            }
        };
        let (lane, ttl_ms) = (message.lane, u64::from(ttl_ms));
        let ticket = self
            .controller
            .ask(|reply| Command::IssueTicket { request, lane, role, ttl_ms, reply })
            .await?;
        Ok(Response::new(v1::IssueTicketResponse {
            ticket: ticket.text,
            expire_time: Some(timestamp(ticket.expires_ms)),
            attach_socket: self.attach_socket.clone(),
        }))
    }
}

impl Lanes {
    /// The lanes there are, or the changes since a revision; then a bookmark.
    fn first_of_watch(&self, start: u64) -> Result<Vec<v1::WatchLanesResponse>, Status> {
        let mut first = Vec::new();
        let complete = if start == 0 {
            let snapshot = self.registry.snapshot();
            for lane in snapshot.lanes.values() {
                first.push(v1::WatchLanesResponse {
                    kind: Kind::Existing.into(),
                    lane: Some(lane_to_proto(lane)),
                    revision: lane.record.revision,
                });
            }
            snapshot.revision
        } else {
            let (changes, complete) = self.registry.since(start).map_err(|compacted| {
                let message = format!(
                    "start_revision {start} is not remembered, the lowest is {}; start with 0",
                    compacted.lowest
                );
                refusal("REVISION_COMPACTED", message)
            })?;
            first.extend(changes.iter().map(|change| change_to_proto(change)));
            complete
        };
        first.push(v1::WatchLanesResponse {
            kind: Kind::Bookmark.into(),
            lane: None,
            revision: complete,
        });
        Ok(first)
    }
}

/// Feeds one watcher until it is gone or too slow.
async fn feed(
    first: Vec<v1::WatchLanesResponse>,
    mut changes: broadcast::Receiver<Arc<Change>>,
    sender: mpsc::Sender<Result<v1::WatchLanesResponse, Status>>,
) {
    let seen = first.last().map_or(0, |bookmark| bookmark.revision);
    for response in first {
        if sender.send(Ok(response)).await.is_err() {
            return;
        }
    }
    loop {
        let received = tokio::select! {
            received = changes.recv() => received,
            () = sender.closed() => return,
        };
        let response = match received {
            Ok(change) if change.revision <= seen => continue,
            Ok(change) => Ok(change_to_proto(&change)),
            Err(RecvError::Closed) => return,
            Err(RecvError::Lagged(missed)) => {
                let message = format!("watcher fell behind by {missed} changes; watch anew");
                Err(refusal("WATCHER_SLOW", message))
            }
        };
        let last = response.is_err();
        if sender.send(response).await.is_err() || last {
            return;
        }
    }
}

fn change_to_proto(change: &Change) -> v1::WatchLanesResponse {
    let kind = match change.kind {
        ChangeKind::Created => Kind::Created,
        ChangeKind::Changed => Kind::Changed,
        ChangeKind::Deleted => Kind::Deleted,
    };
    v1::WatchLanesResponse {
        kind: kind.into(),
        lane: Some(lane_to_proto(&change.lane)),
        revision: change.revision,
    }
}

fn not_found(name: &str) -> Status {
    let lane = name.chars().take(64).collect();
    crate::controller::ControlError::NotFound { lane }.into()
}
