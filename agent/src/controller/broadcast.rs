//! Broadcast lanes: readers come, go, hold the producer, and are given up. Every message of one
//! lane is the same segment for all of them; what is here is who knows of whom.

use laneway_shm::wire::Frame;
use laneway_shm::{Policy, Reason, Start};
use tracing::{info, warn};

use super::{ControlError, Controller, now_ms, resume_claim};
use crate::ledger::Role;
use crate::model::id::LaneId;
use crate::model::lane::{LaneRecord, SegmentRecord};
use crate::plan::{SegmentKey, Step};
use crate::registry::{ChangeKind, ReaderView};

impl Controller {
    /// The segment for one more reader. It starts in the current generation at the earliest.
    pub(super) fn next_reader(
        &mut self,
        id: LaneId,
        wish: Start,
    ) -> Result<SegmentKey, ControlError> {
        let record = self.lanes[&id].clone();
        let (lane, readers) = (record.spec.name.clone(), record.consumers.len());
        let limit = record.spec.broadcast.map_or(0, |broadcast| broadcast.readers_max);
        if readers >= usize::try_from(limit).unwrap_or(usize::MAX) {
            return Err(ControlError::ReadersExhausted { lane, readers, limit });
        }
        let start = record.generations.last().map_or(record.released, |current| current.start);
        self.make_incarnation(record, start, wish)
    }

    /// Shows an end that became live to those that are there, and them to it.
    pub(super) fn introduce_all(&self, record: &LaneRecord, key: SegmentKey) {
        let to = |role, number| SegmentKey { lane: key.lane, role, number };
        match key.role {
            Role::Producer => {
                for reader in record.consumers.iter().filter(|segment| segment.peer.is_some()) {
                    let reader = to(Role::Consumer, reader.number);
                    self.connect(key, reader);
                    self.offer(record, key, reader);
                    self.offer(record, reader, key);
                }
                self.tell_gathered(record);
            }
            Role::Consumer => {
                let start = record.segment(key.role, key.number).map_or(0, |own| own.start);
                let open = record.generations.iter().filter(|segment| segment.peer.is_some());
                if let Some(producer) = record.generations.last() {
                    self.connect(to(Role::Producer, producer.number), key);
                }
                for segment in open.filter(|segment| segment.start >= start) {
                    self.offer(record, key, to(Role::Producer, segment.number));
                    if let Some(end) = segment.end {
                        let generation = segment.number;
                        self.tell(key, (Frame::Ended { generation, end }, None));
                    }
                }
                if let Some(producer) = record.generations.last() {
                    self.offer(record, to(Role::Producer, producer.number), key);
                }
                // Only one that comes back can have been waited for.
                let session = self.sessions.get(&key);
                if session.is_some_and(|session| resume_claim(&session.request.claim).is_some()) {
                    self.tell_gathered(record);
                }
            }
        }
    }

    /// Lets the producer begin, if it was told of every reader that it has to wait for. One that
    /// has yet to come back to an agent that was restarted would lose what is sent before.
    fn tell_gathered(&self, record: &LaneRecord) {
        let waits = !record.spec.policy().is_some_and(Policy::loses);
        let missing = |segment: &SegmentRecord| {
            let (role, number) = (Role::Consumer, segment.number);
            let key = SegmentKey { lane: record.id, role, number };
            self.world.consumer_view(key).upgrade().is_none()
        };
        let mut readers = record.consumers.iter().filter(|segment| segment.peer.is_some());
        if waits && readers.any(missing) {
            return;
        }
        if let Some(producer) = record.generations.last() {
            let (role, number) = (Role::Producer, producer.number);
            self.tell(SegmentKey { lane: record.id, role, number }, (Frame::Gathered, None));
        }
    }

    /// A reader is forgotten: nobody follows in its place, and it holds nobody any more.
    pub(super) fn reader_gone(&mut self, key: SegmentKey) {
        let Some(record) = self.lanes.get_mut(&key.lane) else { return };
        record.consumers.retain(|segment| segment.number != key.number);
        let producer = record.generations.last().map(|segment| segment.number);
        if let Some(number) = producer {
            let to = SegmentKey { lane: key.lane, role: Role::Producer, number };
            self.tell(to, (Frame::ReaderGone { number: key.number }, None));
        }
        if self.held.get(&key.lane).is_some_and(|(reader, _)| *reader == key.number) {
            self.held.remove(&key.lane);
        }
        // Asleep for this reader, the producer would notice no earlier than its next look.
        self.wake_peer_of(key);
        let was_missing = self.world.consumer_view(key).upgrade().is_none();
        self.attempt(&Step::DropSegment { key });
        if let Some(record) = self.lanes.get(&key.lane).filter(|_| was_missing) {
            self.tell_gathered(record);
        }
        self.prune_drained(key.lane);
    }

    /// Whether a segment is that of a reader which is not there any more.
    pub(super) fn is_gone_reader(&self, key: SegmentKey) -> bool {
        self.lanes.get(&key.lane).is_some_and(|record| {
            let known = record.segment(key.role, key.number).is_some();
            key.role == Role::Consumer && record.is_broadcast() && !known
        })
    }

    /// Whether a reader says that it has left: its process may live on, and does not bring it back.
    pub(super) fn has_left(&self, key: SegmentKey) -> bool {
        let broadcast = self.lanes.get(&key.lane).is_some_and(LaneRecord::is_broadcast);
        let view = self.world.consumer_view(key).upgrade();
        key.role == Role::Consumer && broadcast && view.is_some_and(|view| view.has_left())
    }

    /// How far every reader has come. One that has not come back to this agent is where it began.
    pub(super) fn lowest_cursor(&self, record: &LaneRecord) -> u64 {
        let cursors = record.consumers.iter().map(|segment| {
            let (role, number) = (Role::Consumer, segment.number);
            let view = self.world.consumer_view(SegmentKey { lane: record.id, role, number });
            view.upgrade().map_or(segment.start, |view| view.counters().position)
        });
        cursors.min().unwrap_or(u64::MAX)
    }

    /// The readers' side of a lane, for the registry.
    pub(super) fn reader_views(&self, record: &LaneRecord) -> Vec<ReaderView> {
        let readers = record.consumers.iter().filter(|_| record.is_broadcast());
        let key = |number| SegmentKey { lane: record.id, role: Role::Consumer, number };
        readers
            .map(|segment| ReaderView {
                connected: self.sessions.contains_key(&key(segment.number)),
                view: self.world.consumer_view(key(segment.number)),
            })
            .collect()
    }

    /// The producer says who holds it.
    pub(crate) fn held(&mut self, key: SegmentKey, reader: u64, held_ms: u64) {
        let Some(record) = self.lanes.get(&key.lane) else { return };
        if key.role != Role::Producer || !record.is_broadcast() {
            return;
        }
        if self.held.get(&key.lane).map_or(0, |(known, _)| *known) == reader {
            return;
        }
        if record.segment(Role::Consumer, reader).is_some() {
            self.held.insert(key.lane, (reader, now_ms().saturating_sub(held_ms)));
            warn!(lane = %key.lane, reader, held_ms, "a slow reader holds the producer");
        } else {
            self.held.remove(&key.lane);
        }
        self.show_changed(key.lane);
    }

    /// The producer says whom it gave up.
    pub(crate) fn given_up(&mut self, key: SegmentKey, reader: u64, at: u64, reason: Reason) {
        let Some(record) = self.lanes.get(&key.lane) else { return };
        if key.role != Role::Producer || record.segment(Role::Consumer, reader).is_none() {
            return;
        }
        match reason {
            Reason::Behind => info!(lane = %key.lane, reader, at, "reader is behind its budget"),
            Reason::Lied => warn!(lane = %key.lane, reader, at, "reader broke the protocol"),
        }
        self.show_changed(key.lane);
    }

    /// Shows a change that needs no memory: the next agent asks the segments themselves.
    fn show_changed(&mut self, id: LaneId) {
        let revision = self.next_revision();
        if let Some(record) = self.lanes.get_mut(&id) {
            record.revision = revision;
            self.publish(Some((ChangeKind::Changed, id)));
        }
    }
}
