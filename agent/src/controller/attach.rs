//! Ends come and go: grants, seals, generations, deaths, and the return of peers after a restart.

use std::os::fd::OwnedFd;

use laneway_shm::Start;
use laneway_shm::layout::{C_RELEASED, CONSUMER_SEGMENT_BYTES};
use laneway_shm::memfd::identify;
use laneway_shm::wire::{self, Claim, Frame, Grant, NO_CPU};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::generations::pages_of;
use super::tickets::ticket_hash;
use super::{ControlError, Controller, Event, Session, now_ms, random, resume_claim};
use crate::attach::step;
use crate::journal::TicketHash;
use crate::ledger::{PageState, Role};
use crate::model::capacity::PageSize;
use crate::model::id::{LaneId, Secret};
use crate::model::lane::{LaneRecord, PeerRecord, Pinning, SegmentRecord};
use crate::plan::{SegmentKey, Step};
use crate::provision::{Outcome, StepError};
use crate::registry::ChangeKind;

/// A peer that wants an end, and how to reach it.
#[derive(Debug)]
pub struct AttachRequest {
    /// Which end.
    pub role: Role,
    /// By what right.
    pub claim: Claim,
    /// Who it is.
    pub peer: PeerRecord,
    /// Its thread, as it calls itself.
    pub thread: u32,
    /// What its messages are; 0 if it does not say.
    pub schema: u64,
    /// Where a reader of a broadcast lane wants to start.
    pub start: Start,
    /// Whether it wants a lifeline to each of its peers.
    pub lifeline: bool,
    /// Where its events go.
    pub events: mpsc::UnboundedSender<Event>,
}

/// An end that is granted and not yet live.
#[derive(Debug)]
pub struct Granted {
    /// The new segment.
    pub key: SegmentKey,
    /// What to tell the peer.
    pub grant: Box<Grant>,
    /// The unsealed segment.
    pub fd: OwnedFd,
}

impl Controller {
    /// Grants an end: everything that is said of it is so when this returns, but for its segment,
    /// which its owner has yet to map.
    pub(crate) fn attach(&mut self, request: Box<AttachRequest>) -> Result<Granted, ControlError> {
        let (role, schema) = (request.role, request.schema);
        let (id, ticket) = self.claimed(&request)?;
        let Some(record) = self.lanes.get(&id) else {
            return Err(ControlError::TicketInvalid);
        };
        record.check_schema(schema)?;
        let is_reader = role == Role::Consumer && record.is_broadcast();
        if self.is_taken(record, role) {
            return Err(ControlError::RoleTaken { lane: record.spec.name.clone(), role });
        }
        let key = match role {
            Role::Producer => self.next_generation(id)?,
            Role::Consumer if is_reader => self.next_reader(id, request.start)?,
            Role::Consumer => self.next_incarnation(id)?,
        };
        step!("judge, make a segment");
        let granted = self.grant_to(key, request, ticket);
        if granted.is_err() {
            self.take_back(key);
        }
        granted
    }

    /// Whether the end is somebody else's, as far as is known.
    pub(crate) fn has_owner(&self, request: &AttachRequest) -> bool {
        let lane = self.claimed(request).ok().and_then(|(id, _)| self.lanes.get(&id));
        lane.is_some_and(|record| self.is_taken(record, request.role))
    }

    fn is_taken(&self, record: &LaneRecord, role: Role) -> bool {
        let (lane, mut segments) = (record.id, record.segments(role).iter());
        let is_ours = |segment: &SegmentRecord| {
            self.sessions.contains_key(&SegmentKey { lane, role, number: segment.number })
        };
        let is_reader = role == Role::Consumer && record.is_broadcast();
        let held = record.newest(role).is_some_and(SegmentRecord::is_held);
        !is_reader && (held || segments.any(is_ours))
    }

    fn grant_to(
        &mut self,
        key: SegmentKey,
        request: Box<AttachRequest>,
        ticket: Option<TicketHash>,
    ) -> Result<Granted, ControlError> {
        let (peer, schema, events) = (request.peer, request.schema, request.events.clone());
        let record = self.lanes.get_mut(&key.lane).ok_or(ControlError::Fenced)?;
        if schema != 0 {
            record.schema = schema;
        }
        let live = !waits_for_live(record, key.role);
        if let Some(ticket) = ticket.and_then(|hash| self.tickets.get_mut(&hash)) {
            ticket.used = true;
        }
        self.sessions.insert(key, Session { events, request, ticket, live });
        let steps: Vec<Step> = self.pin_step(key)?.into_iter().collect();
        let outcomes = self.run_plan(&steps)?;
        self.note_held(key, &outcomes);
        let granted =
            Granted { key, fd: self.world.for_writer(key)?, grant: Box::new(self.grant(key)?) };
        if live {
            let record = self.lanes.get_mut(&key.lane).ok_or(ControlError::Fenced)?;
            if let Some(segment) = record.segment_mut(key.role, key.number) {
                segment.granted = Some(peer);
            }
            self.save_taken(key)?;
            step!("journal the grant");
            self.publish(Some((ChangeKind::Changed, key.lane)));
            step!("show the grant");
        }
        Ok(granted)
    }

    /// Writes a lane of which an end was taken, and with it the ticket for that.
    fn save_taken(&mut self, key: SegmentKey) -> Result<(), ControlError> {
        let revision = self.next_revision();
        let ticket = self.sessions.get(&key).and_then(|session| session.ticket);
        let used = ticket.and_then(|hash| Some((hash, self.tickets.get(&hash)?)));
        let record = self.lanes.get_mut(&key.lane).ok_or(ControlError::Fenced)?;
        record.revision = revision;
        self.journal.put_taken(record, used)?;
        Ok(())
    }

    /// A grant that failed half-way. Nobody has the segment and nobody will.
    fn take_back(&mut self, key: SegmentKey) {
        let ticket = self.sessions.remove(&key).and_then(|session| session.ticket);
        if let Some(ticket) = ticket.and_then(|hash| self.tickets.get_mut(&hash)) {
            ticket.used = false;
        }
        self.let_go(key);
        if key.role == Role::Consumer {
            // It must not keep a place.
            return self.handshake_failed(key);
        }
        let record = self.lanes.get_mut(&key.lane);
        if let Some(segment) = record.and_then(|record| record.segment_mut(key.role, key.number)) {
            segment.granted = None;
        }
        self.save_or_log(key.lane);
    }

    /// The lane that the claim is good for, and the ticket if that is what it is.
    fn claimed(
        &self,
        request: &AttachRequest,
    ) -> Result<(LaneId, Option<TicketHash>), ControlError> {
        let role = request.role;
        match &request.claim {
            Claim::Ticket(ticket) => {
                let hash = ticket_hash(&ticket_text(ticket));
                let found = self.tickets.get(&hash);
                found
                    .filter(|record| record.role == role && !record.used)
                    .filter(|record| record.expires_ms > now_ms())
                    .map(|record| (record.lane, Some(hash)))
                    .ok_or(ControlError::TicketInvalid)
            }
            Claim::Name(name) => {
                let PeerRecord { uid, gid, .. } = request.peer;
                // A name that is not there and one that is not allowed look the same from outside.
                let refused = || ControlError::NotAllowed { uid, gid, role };
                let id = self.find(name).map_err(|_| refused())?;
                let end = self.lanes[&id].spec.end(role);
                let allowed = end.uids.contains(&uid) || end.gids.contains(&gid);
                allowed.then_some((id, None)).ok_or_else(refused)
            }
            Claim::Resume { .. } => Err(ControlError::TicketInvalid),
        }
    }

    /// The segment for a new producer: the one that waits for its first, or a new generation.
    fn next_generation(&mut self, id: LaneId) -> Result<SegmentKey, ControlError> {
        self.prune_drained(id);
        let record = &self.lanes[&id];
        let start = match record.generations.last() {
            Some(current) if current.owner().is_none() => {
                return Ok(SegmentKey { lane: id, role: Role::Producer, number: current.number });
            }
            // Its end is unknown until somebody shows us the segment of the time before.
            Some(current) => current.end.ok_or(ControlError::Recovering)?,
            None => record.released,
        };
        let (open, limit) = (record.generations.len(), self.generations_max);
        if open >= limit {
            return Err(ControlError::GenerationsExhausted { open, limit });
        }
        let mut record = record.clone();
        self.follow(&mut record, start)?;
        let key = SegmentKey { lane: id, role: Role::Producer, number: record.generation };
        self.lanes.insert(id, record);
        self.save(id, ChangeKind::Changed)?;
        Ok(key)
    }

    /// The segment for a new consumer, which starts where the one before released last.
    pub(super) fn next_incarnation(&mut self, id: LaneId) -> Result<SegmentKey, ControlError> {
        let mut record = self.lanes[&id].clone();
        let old = record.consumers.pop();
        if old.as_ref().is_some_and(|old| old.peer.is_some() && old.end.is_none()) {
            // How far it came stands in a segment that the producer has yet to show us.
            return Err(ControlError::Recovering);
        }
        if let Some(old) = old {
            let key = SegmentKey { lane: id, role: Role::Consumer, number: old.number };
            self.attempt(&Step::DropSegment { key });
        }
        let start = record.released;
        self.make_incarnation(record, start, Start::Newest)
    }

    /// Makes the segment of a consumer or reader whose first message has position `start`. The
    /// caller saves the lane.
    pub(super) fn make_incarnation(
        &mut self,
        mut record: LaneRecord,
        start: u64,
        wish: Start,
    ) -> Result<SegmentKey, ControlError> {
        let (id, geometry) = (record.id, record.spec.geometry()?);
        record.incarnation += 1;
        let mut segment = SegmentRecord {
            number: record.incarnation,
            nonce: Secret(random()),
            token: Secret(random()),
            start,
            end: None,
            size_bytes: CONSUMER_SEGMENT_BYTES as u64,
            page_size: PageSize::BASE_4K,
            file: None,
            granted: None,
            peer: None,
            gone: false,
            oldest: wish == Start::Oldest,
        };
        let key = SegmentKey { lane: id, role: Role::Consumer, number: segment.number };
        let step = Step::CreateSegment {
            key,
            header: segment.header(id, Role::Consumer, &geometry),
            page_size: segment.page_size,
            node: None,
            words: vec![(C_RELEASED, segment.start)],
        };
        for outcome in self.run_plan(&[step])? {
            if let Outcome::Made { file, .. } = outcome {
                segment.file = Some((file.device, file.inode));
            }
        }
        record.consumers.push(segment);
        self.lanes.insert(id, record);
        Ok(key)
    }

    fn grant(&self, key: SegmentKey) -> Result<Grant, ControlError> {
        let unknown = || StepError::Unknown { key };
        let record = self.lanes.get(&key.lane).ok_or_else(unknown)?;
        let segment = record.segment(key.role, key.number).ok_or_else(unknown)?;
        let end = match key.role {
            Role::Producer => &record.placement.producer,
            Role::Consumer => &record.placement.consumer,
        };
        Ok(Grant {
            role: match key.role {
                Role::Producer => wire::Role::Producer,
                Role::Consumer => wire::Role::Consumer,
            },
            lane: record.id.0,
            generation: segment.number,
            nonce: segment.nonce.0,
            token: segment.token.0,
            slot_payload: record.spec.slot_payload_bytes,
            slot_count: record.spec.slot_count,
            size_bytes: segment.size_bytes,
            page_bytes: segment.page_size.bytes(),
            base: segment.start,
            released: self.released(record).min(segment.start),
            broadcast: record.spec.policy(),
            start: if segment.oldest { Start::Oldest } else { Start::Newest },
            park: record.spec.park,
            profile: record.spec.profile,
            pinning: match record.spec.end(key.role).pinning {
                Pinning::None => wire::Pinning::None,
                Pinning::Own => wire::Pinning::Own,
                Pinning::Enforce | Pinning::Cpuset => wire::Pinning::Enforced,
            },
            cpu: end.cpu.unwrap_or(NO_CPU),
            grade: end.grade.to_string().bytes().next().unwrap_or(b'D'),
            relation: record.placement.relation,
        })
    }

    /// The peer mapped its segment: nobody else can write it any more, and others may read it.
    pub(crate) fn mapped(&mut self, key: SegmentKey) -> Result<(), ControlError> {
        step!("hear MAPPED");
        self.run_plan(&[Step::SealSegment { key }])?;
        step!("prove, map");
        let session = self.sessions.get_mut(&key).ok_or(ControlError::Fenced)?;
        let waited = !std::mem::replace(&mut session.live, true);
        let peer = session.request.peer;
        let record = self.lanes.get_mut(&key.lane).ok_or(ControlError::Fenced)?;
        if let Some(segment) = record.segment_mut(key.role, key.number) {
            (segment.granted, segment.peer) = (None, Some(peer));
        }
        if waited {
            self.save_taken(key)?;
        } else {
            self.journal.put_lane(record, None)?;
        }
        step!("journal the end");
        if waited {
            self.publish(Some((ChangeKind::Changed, key.lane)));
        } else {
            // No change to watchers: they know of it since it was granted.
            self.publish_memory(&self.lanes[&key.lane]);
        }
        step!("show the end");
        self.introduce_mapped(key);
        step!("introduce");
        Ok(())
    }

    /// A peer's process ended or hung up.
    pub(crate) fn gone(&mut self, key: SegmentKey) {
        let session = self.sessions.remove(&key);
        self.let_go(key);
        let Some(record) = self.lanes.get(&key.lane) else {
            return self.unquarantine(key.lane);
        };
        let Some(segment) = record.segment(key.role, key.number) else {
            return;
        };
        if segment.gone {
            return;
        }
        if segment.peer.is_none() {
            return self.handshake_failed(key);
        }
        info!(lane = %key.lane, role = %key.role, number = key.number, "peer is gone");
        match key.role {
            Role::Producer => self.producer_gone(key),
            Role::Consumer if record.is_broadcast() => self.reader_gone(key),
            Role::Consumer => self.consumer_gone(key),
        }
        drop(session);
        self.save_or_log(key.lane);
    }

    /// The peer may have mapped the segment and never said so: nobody else may get it.
    fn handshake_failed(&mut self, key: SegmentKey) {
        self.attempt(&Step::DropSegment { key });
        let Some(mut record) = self.lanes.get(&key.lane).cloned() else {
            return;
        };
        match key.role {
            Role::Consumer => record.consumers.retain(|segment| segment.number != key.number),
            Role::Producer => {
                let lost = record.generations.pop();
                let start = lost.as_ref().map_or(record.released, |lost| lost.start);
                let pages = lost.map(|lost| pages_of(&record, &lost));
                let books = pages.map_or(Ok(()), |pages| {
                    self.ledger.remove_pages(key.lane.0, PageState::Backed, pages)
                });
                if let Err(error) = books {
                    error!(lane = %key.lane, %error, "the books do not balance");
                }
                // Where somebody took the pages the next producer tries again.
                if let Err(error) = self.follow(&mut record, start) {
                    warn!(lane = %key.lane, %error, "no segment for the next producer");
                }
            }
        }
        self.lanes.insert(key.lane, record);
        self.save_or_log(key.lane);
    }

    fn producer_gone(&mut self, key: SegmentKey) {
        let end = self.lanes.get(&key.lane).and_then(|record| {
            let start = record.segment(key.role, key.number)?.start;
            Some(self.world.producer_view(key).upgrade()?.committed_end(start))
        });
        let Some(record) = self.lanes.get_mut(&key.lane) else {
            return;
        };
        if let Some(segment) = record.segment_mut(key.role, key.number) {
            (segment.gone, segment.end) = (true, end);
        }
        let consumers: Vec<u64> = record.consumers.iter().map(|segment| segment.number).collect();
        for number in consumers {
            let Some(end) = end else { break };
            let to = SegmentKey { lane: key.lane, role: Role::Consumer, number };
            self.tell(to, (Frame::Ended { generation: key.number, end }, None));
        }
        self.held.remove(&key.lane);
        self.wake_peer_of(key);
    }

    fn consumer_gone(&mut self, key: SegmentKey) {
        let Some(record) = self.lanes.get(&key.lane) else { return };
        let seen = self.world.consumer_view(key).upgrade().is_some();
        let released = self.released(record);
        let producer = record.generations.last().map(|segment| segment.number);
        let Some(record) = self.lanes.get_mut(&key.lane) else { return };
        record.released = released;
        if let Some(segment) = record.segment_mut(key.role, key.number) {
            (segment.gone, segment.end) = (true, seen.then_some(released));
        }
        if let Some(number) = producer {
            let to = SegmentKey { lane: key.lane, role: Role::Producer, number };
            self.tell(to, (Frame::PeerGone, None));
        }
        self.wake_peer_of(key);
    }

    /// The consumer's cursor, bounded by what was recorded and what is really committed: a
    /// consumer that lied must not make its successor start in the void.
    pub(super) fn released(&self, record: &LaneRecord) -> u64 {
        let view = record.consumers.last().filter(|_| !record.is_broadcast()).and_then(|segment| {
            let (role, number) = (Role::Consumer, segment.number);
            self.world.consumer_view(SegmentKey { lane: record.id, role, number }).upgrade()
        });
        let Some(view) = view else {
            return record.released;
        };
        let claimed = view.counters().position.max(record.released);
        let Some(current) = record.generations.last() else { return claimed };
        if current.peer.is_none() {
            // Its producer is yet to come: everything committed lies below its start.
            return claimed.min(current.start);
        }
        if claimed <= current.start {
            return claimed;
        }
        let (role, number) = (Role::Producer, current.number);
        match self.world.producer_view(SegmentKey { lane: record.id, role, number }).upgrade() {
            Some(view) if !view.has_committed(claimed) => {
                let shown = view.counters().position;
                warn!(lane = %record.id, claimed, shown, "released what was not committed");
                record.released.max(current.start).max(shown.min(claimed))
            }
            // Without the segment (an agent that restarted) there is nothing to compare with.
            _ => claimed,
        }
    }

    /// A peer of an agent before this one comes back with its segment.
    pub(crate) fn resume(
        &mut self,
        request: Box<AttachRequest>,
        fd: OwnedFd,
    ) -> Result<SegmentKey, ControlError> {
        let (lane, number, token) =
            resume_claim(&request.claim).ok_or(ControlError::TicketInvalid)?;
        let role = request.role;
        let key = SegmentKey { lane, role, number };
        let not_found = || ControlError::NotFound { lane: lane.to_string() };
        let record = self.lanes.get(&lane).ok_or_else(not_found)?;
        let replaced = role == Role::Producer
            && record.newest(role).is_some_and(|segment| segment.number != number);
        let segment = record.segment(role, number).ok_or(ControlError::Fenced)?;
        let same_uid = segment.owner().is_some_and(|peer| peer.uid == request.peer.uid);
        if replaced || segment.gone || segment.token.0 != token || !same_uid {
            return Err(ControlError::Fenced);
        }
        self.adopt(key, fd)?;
        let events = request.events.clone();
        let peer = request.peer;
        self.sessions.insert(key, Session { events, request, ticket: None, live: true });
        if let Some(segment) = self.lanes.get_mut(&lane).and_then(|r| r.segment_mut(role, number)) {
            (segment.granted, segment.peer) = (None, Some(peer));
        }
        self.hold_again(key);
        self.save(lane, ChangeKind::Changed)?;
        info!(%lane, %role, number, "peer came back after the agent's restart");
        self.introduce(key);
        Ok(key)
    }

    /// Takes a descriptor only if it is the very file that the journal names.
    fn adopt(&mut self, key: SegmentKey, fd: OwnedFd) -> Result<(), ControlError> {
        let record = self.lanes.get(&key.lane).ok_or(ControlError::Fenced)?;
        let segment = record.segment(key.role, key.number).ok_or(ControlError::Fenced)?;
        let (found, _) = identify(&fd)?;
        if segment.file != Some((found.device, found.inode)) {
            return Err(ControlError::Fenced);
        }
        let header = segment.header(key.lane, key.role, &record.spec.geometry()?);
        Ok(self.world.adopt(key, header, fd)?)
    }

    /// A resumed peer shows a segment that it reads: the agent can hand it out again, and judge
    /// where its dead producer stopped.
    pub(crate) fn present(&mut self, key: SegmentKey, role: Role, number: u64, fd: OwnedFd) {
        let shown = SegmentKey { lane: key.lane, role, number };
        if self.is_gone_reader(shown) {
            return self.tell(key, (Frame::ReaderGone { number }, None));
        }
        if let Err(error) = self.adopt(shown, fd) {
            warn!(lane = %key.lane, %role, number, %error, "a presented segment was refused");
            return;
        }
        if self.has_left(shown) {
            self.reader_gone(shown);
            return self.save_or_log(key.lane);
        }
        let record = self.lanes.get(&key.lane);
        let segment = record.and_then(|record| record.segment(role, number));
        if segment.is_some_and(|segment| segment.gone && segment.end.is_none()) {
            match role {
                Role::Producer => self.producer_gone(shown),
                Role::Consumer => self.consumer_gone(shown),
            }
            self.save_or_log(key.lane);
        }
    }
}

/// Whether the peer waits until the agent says that it is mapped: what it does next must find it
/// shown to everybody. A producer alone with its consumer need not, because its messages wait;
/// so that the journal has to know of it before it goes.
fn waits_for_live(record: &LaneRecord, role: Role) -> bool {
    role == Role::Consumer || record.is_broadcast()
}

fn ticket_text(ticket: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*ticket))
}
