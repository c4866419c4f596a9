//! Ending a lane: the ends are told, the cores are free at once, the pages when nobody maps them.

use laneway_shm::wire::Frame;

use super::{ControlError, Controller, RequestId, now_ms};
use crate::journal::RequestRecord;
use crate::ledger::{PageHolding, Role};
use crate::model::id::LaneId;
use crate::model::lane::{LaneRecord, SegmentRecord};
use crate::plan::{SegmentKey, Step};
use crate::registry::LaneView;

impl Controller {
    pub(crate) fn delete(
        &mut self,
        request: &RequestId,
        validate_only: bool,
        lane: &str,
    ) -> Result<LaneView, ControlError> {
        if let Some(answered) = self.answered(request)? {
            return Ok(answered);
        }
        let id = self.find(lane)?;
        let view = self.view(&self.lanes[&id]);
        if validate_only {
            return Ok(view);
        }
        let lane = view.record.clone();
        let answer = RequestRecord { hash: request.hash.clone(), lane, at_ms: now_ms() };
        let answer = (!request.id.is_empty()).then_some((request.id.as_str(), &answer));
        let tickets = self.tickets_of(id);
        self.journal.remove_lane(id, &tickets, answer)?;
        for hash in &tickets {
            self.tickets.remove(hash);
        }
        self.forget(id)?;
        tracing::info!(lane = %id, name = %view.record.spec.name, "lane deleted");
        Ok(view)
    }

    /// Lets go of a lane that the journal has forgotten.
    pub(super) fn forget(&mut self, id: LaneId) -> Result<(), ControlError> {
        let Some(record) = self.lanes.remove(&id) else {
            return Ok(());
        };
        self.names.remove(&record.spec.name);
        self.held.remove(&id);
        self.next_revision();
        let view = self.view(&record);
        self.end_sessions(&record);
        for key in segments_of(&record) {
            self.let_go(key);
            self.attempt(&Step::DropSegment { key });
        }
        if self.is_mapped(&record) {
            self.ledger.retire(id.0)?;
        } else {
            self.ledger.release(id.0)?;
        }
        self.publish_deleted(view);
        Ok(())
    }

    fn end_sessions(&self, record: &LaneRecord) {
        for key in segments_of(record) {
            if let Some(session) = self.sessions.get(&key) {
                // A session that is closing needs no telling.
                let _ = session.events.send((Frame::Revoked, None));
            }
            self.wake_peer_of(key);
        }
    }

    /// Ends the sleep of the process at the other end of a segment.
    pub(super) fn wake_peer_of(&self, key: SegmentKey) {
        match key.role {
            Role::Producer => {
                if let Some(view) = self.world.producer_view(key).upgrade() {
                    view.wake_consumer();
                }
            }
            Role::Consumer => {
                if let Some(view) = self.world.consumer_view(key).upgrade() {
                    view.wake_producer();
                }
            }
        }
    }

    /// Whether some process may still map pages of the lane.
    fn is_mapped(&self, record: &LaneRecord) -> bool {
        let connected = segments_of(record).any(|key| self.sessions.contains_key(&key));
        let unseen = |role| record.segments(role).iter().any(SegmentRecord::is_held);
        connected || unseen(Role::Producer) || unseen(Role::Consumer)
    }

    /// Called when a peer of a deleted lane is gone: with the last one its pages are free.
    pub(super) fn unquarantine(&mut self, lane: LaneId) {
        if self.lanes.contains_key(&lane) || self.sessions.keys().any(|key| key.lane == lane) {
            return;
        }
        let held: Vec<PageHolding> = self
            .ledger
            .quarantined()
            .filter(|(key, _)| *key == lane.0)
            .map(|(_, pages)| pages)
            .collect();
        for pages in held {
            if let Err(error) = self.ledger.free_quarantined(lane.0, pages) {
                tracing::error!(%lane, %error, "quarantined pages could not be freed");
            }
        }
        self.publish(None);
    }
}

/// Every segment that a lane's record names.
pub(super) fn segments_of(record: &LaneRecord) -> impl Iterator<Item = SegmentKey> + '_ {
    let producers = record.generations.iter().map(|segment| (Role::Producer, segment.number));
    let consumers = record.consumers.iter().map(|segment| (Role::Consumer, segment.number));
    producers.chain(consumers).map(|(role, number)| SegmentKey { lane: record.id, role, number })
}
