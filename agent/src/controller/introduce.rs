//! Ends of one lane are shown to each other: who is told what, and when.

use laneway_shm::Start;
use laneway_shm::wire::{Frame, PeerSegment};

use super::{Controller, Event};
use crate::ledger::Role;
use crate::model::lane::LaneRecord;
use crate::plan::SegmentKey;

impl Controller {
    /// Shows an end that does not wait for LIVE its peer, so that it knows it with its first look.
    pub(crate) fn greet(&self, key: SegmentKey) {
        let record = self.lanes.get(&key.lane).filter(|lane| !lane.is_broadcast());
        if let Some(record) = record.filter(|_| key.role == Role::Producer)
            && let Some(consumer) = record.newest(Role::Consumer)
        {
            self.show_consumer(record, key, key.of(Role::Consumer, consumer.number));
        }
    }

    /// Shows an end that was mapped to its peer, and the peer to it if that was not done before.
    pub(super) fn introduce_mapped(&self, key: SegmentKey) {
        let Some(record) = self.lanes.get(&key.lane) else {
            return;
        };
        match (record.newest(Role::Consumer), key.role) {
            _ if record.is_broadcast() => self.introduce_all(record, key),
            (Some(consumer), Role::Producer) => {
                self.offer(record, key.of(Role::Consumer, consumer.number), key);
            }
            (None, Role::Producer) => {}
            (_, Role::Consumer) => self.introduce_consumer(record, key),
        }
    }

    /// Shows an end that came back to its peer, and the peer to it.
    pub(super) fn introduce(&self, key: SegmentKey) {
        self.greet(key);
        self.introduce_mapped(key);
    }

    fn show_consumer(&self, record: &LaneRecord, producer: SegmentKey, consumer: SegmentKey) {
        self.connect(producer, consumer);
        // How far one that is gone had come is in the grant.
        if record.segment(Role::Consumer, consumer.number).is_some_and(|segment| !segment.gone) {
            self.offer(record, producer, consumer);
        }
    }

    /// Shows a consumer every generation that there is for it, and the last of them the consumer.
    fn introduce_consumer(&self, record: &LaneRecord, key: SegmentKey) {
        let producer = record.newest(Role::Producer);
        let producer = producer.map(|segment| key.of(Role::Producer, segment.number));
        if let Some(producer) = producer {
            self.connect(producer, key);
        }
        for segment in record.generations.iter().filter(|segment| segment.peer.is_some()) {
            let generation = segment.number;
            self.offer(record, key, key.of(Role::Producer, generation));
            if let Some(end) = segment.end {
                self.tell(key, (Frame::Ended { generation, end }, None));
            }
        }
        if let Some(producer) = producer {
            self.offer(record, producer, key);
        }
    }

    /// Tells `to` of the peer's segment `of`, if both are there.
    pub(super) fn offer(&self, record: &LaneRecord, to: SegmentKey, of: SegmentKey) {
        let Some(segment) = record.segment(of.role, of.number) else {
            return;
        };
        let announced = PeerSegment {
            generation: segment.number,
            nonce: segment.nonce.0,
            base: segment.start,
            size_bytes: segment.size_bytes,
        };
        // Not sealed yet, or lost with the agent before: it is offered when it turns up.
        let Ok(fd) = self.world.for_reader(of) else {
            return;
        };
        let frame = match of.role {
            Role::Producer => Frame::Generation(announced),
            Role::Consumer if record.is_broadcast() => {
                let start = if segment.oldest { Start::Oldest } else { Start::Newest };
                Frame::Reader { segment: announced, start }
            }
            Role::Consumer => Frame::Join(announced),
        };
        self.tell(to, (frame, Some(fd)));
        self.wake_peer_of(of);
    }

    /// Tells an end. One that waits for LIVE hears nothing before: it is shown all there is then.
    pub(super) fn tell(&self, to: SegmentKey, event: Event) {
        if let Some(session) = self.sessions.get(&to).filter(|session| session.live) {
            // A session that is closing needs no telling.
            let _ = session.events.send(event);
        }
    }
}
