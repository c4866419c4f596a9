//! The agent's read-only eye on a lane: counters, lag, and where a dead producer stopped.
//!
//! Reads what hostile processes may be writing, so every number is bounded before it is used.

use crate::cursor::{CommitWord, Kind};
use crate::error::SegmentError;
use crate::geometry::Geometry;
use crate::layout::{
    C_BELL, C_BYTES, C_EMPTY, C_LOST, C_MESSAGES, C_RELEASED, P_BELL, P_BYTES, P_COMMITTED,
    P_MESSAGES, P_STALLS,
};
use crate::memfd::Segment;
use crate::memory::Memory;
use crate::region::{Foreign, Region};
use crate::roster::{self, Entry, Reason};

/// Counters of one end, as its process last showed them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Cursor: slots committed or released.
    pub position: u64,
    /// Messages committed or released.
    pub messages: u64,
    /// Payload bytes committed or released.
    pub bytes: u64,
    /// Times that the end found the ring full (producer) or empty (consumer).
    pub waits: u64,
}

/// A producer's segment, seen from outside.
#[derive(Debug)]
pub struct ProducerView {
    region: Region<Foreign>,
    geometry: Geometry,
}

impl ProducerView {
    /// Maps a proven segment.
    ///
    /// # Errors
    /// The kernel's refusal to map, or a header that differs.
    pub fn new(segment: &Segment, geometry: Geometry) -> Result<Self, SegmentError> {
        Ok(Self { region: segment.map()?, geometry })
    }

    /// The counters, up to 64 messages old.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            position: self.region.load_acquire(P_COMMITTED),
            messages: self.region.load_acquire(P_MESSAGES),
            bytes: self.region.load_acquire(P_BYTES),
            waits: self.region.load_acquire(P_STALLS),
        }
    }

    /// Position after the last committed slot of a generation that started at `start`.
    ///
    /// Exact for a dead honest producer: its segment is frozen, its counters are less than 64
    /// slots and one batch or message old, and from there every committed slot carries its own
    /// turn or, where the ring has come round since, a later one. A hostile producer's counters
    /// lead to a position where nothing was committed, which its consumer notices. The walk is
    /// bounded either way.
    #[must_use]
    pub fn committed_end(&self, start: u64) -> u64 {
        let mut position = start.max(self.counters().position);
        for _ in 0..2 * self.geometry.count() + 64 {
            if !self.is_committed(position) {
                break;
            }
            position += 1;
        }
        position
    }

    /// Whether a consumer can really have come as far as `position`.
    #[must_use]
    pub fn has_committed(&self, position: u64) -> bool {
        position.checked_sub(1).is_none_or(|last| self.is_committed(last))
    }

    /// Whether the slot at `position` was committed, in its lap or since then in a later one: a
    /// small ring comes round many times between two looks at its counters.
    fn is_committed(&self, position: u64) -> bool {
        let word = CommitWord(self.region.load_acquire(self.geometry.slot_offset(position)));
        let ahead = word.turn().wrapping_sub(self.geometry.turn(position));
        // A slot that is being written in this lap is not committed; one that is being written in
        // a later lap was.
        let busy = ahead == 0 && word.kind_byte() == Kind::Busy as u8;
        word.0 != 0 && !busy && ahead < 1 << 31
    }

    /// Whether and where the producer of a broadcast lane has let a reader in.
    #[must_use]
    pub fn reader(&self, number: u64) -> Option<Entry> {
        roster::find(&self.region, number)
    }

    /// Why the producer gave up the reader of an entry, if it did.
    #[must_use]
    pub fn given_up(&self, entry: &Entry) -> Option<Reason> {
        roster::given_up(&self.region, entry.offset).map(|(reason, _)| reason)
    }

    /// NUMA node that the slots really lie on, if the kernel tells.
    #[must_use]
    pub fn numa_node(&self) -> Option<u32> {
        self.region.node_of(self.region.len() / 2)
    }

    /// Ends the sleep of a consumer that waits for this producer.
    pub fn wake_consumer(&self) {
        self.region.wake_foreign(P_BELL);
    }
}

/// A consumer's segment, seen from outside.
#[derive(Debug)]
pub struct ConsumerView {
    region: Region<Foreign>,
}

impl ConsumerView {
    /// Maps a proven segment.
    ///
    /// # Errors
    /// The kernel's refusal to map, or a header that differs.
    pub fn new(segment: &Segment) -> Result<Self, SegmentError> {
        Ok(Self { region: segment.map()? })
    }

    /// The counters, up to a quarter ring old.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            position: self.region.load_acquire(C_RELEASED),
            messages: self.region.load_acquire(C_MESSAGES),
            bytes: self.region.load_acquire(C_BYTES),
            waits: self.region.load_acquire(C_EMPTY),
        }
    }

    /// Slots that a reader of a broadcast lane has lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.region.load_acquire(C_LOST)
    }

    /// Whether the reader of a broadcast lane says that it has left.
    #[must_use]
    pub fn has_left(&self) -> bool {
        roster::has_left(&self.region)
    }

    /// Ends the sleep of a producer that waits for this consumer.
    pub fn wake_producer(&self) {
        self.region.wake_foreign(C_BELL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{CONSUMER_SEGMENT_BYTES, Header, KIND_CONSUMER, KIND_PRODUCER};
    use crate::memfd::Draft;
    use crate::memory::OwnedMemory;
    use crate::region::Owned;
    use crate::ring::{WaitMode, Writer};

    /// A producer that is killed and not dropped, the cursor of its consumer, and the agent's eye.
    struct Scene {
        writer: Writer<Region<Owned>, Region<Foreign>>,
        consumer: Region<Owned>,
        eye: ProducerView,
    }

    fn segment(kind: u64, size_bytes: u64, geometry: Geometry) -> (Region<Owned>, Segment) {
        let header = Header {
            kind,
            lane: 1,
            generation: 1,
            nonce: 1,
            slot_stride: geometry.stride() as u64,
            slot_payload: u64::from(geometry.payload()),
            slot_count: geometry.count(),
            base_position: 0,
            size_bytes,
        };
        let draft = Draft::create(header, 4096, None).unwrap();
        let own = Region::map_owned(&draft, usize::try_from(size_bytes).unwrap()).unwrap();
        (own, draft.seal().unwrap())
    }

    impl Scene {
        fn new(slot_count: u32) -> Self {
            let geometry = Geometry::try_new(8, slot_count).unwrap();
            let size = geometry.segment_bytes().next_multiple_of(4096);
            let (own, seen) = segment(KIND_PRODUCER, size, geometry);
            let (consumer, cursor) =
                segment(KIND_CONSUMER, CONSUMER_SEGMENT_BYTES as u64, geometry);
            let mut writer = Writer::new(own, geometry, WaitMode::Spin, 0, 0);
            writer.join(cursor.map().unwrap(), 1);
            Self { writer, consumer, eye: ProducerView::new(&seen, geometry).unwrap() }
        }

        fn send(&mut self) {
            let span = match self.writer.ready(8) {
                Some(span) => span,
                None => self.writer.try_reserve(8).unwrap().expect("all was released"),
            };
            self.writer.write(&span, 0, &[7; 8]);
            self.writer.commit(&span);
            self.consumer.store_release(C_RELEASED, self.writer.committed());
        }

        /// As many messages as the ring has slots, written and taken back.
        fn abort_a_batch(&mut self) {
            while let Some(span) = self.writer.try_reserve(8).unwrap() {
                self.writer.write(&span, 0, &[9; 8]);
                self.writer.stage(&span);
                self.check();
            }
            self.writer.abort_batch();
        }

        fn check(&self) {
            let (end, slots) = (self.writer.committed(), self.writer.geometry().count());
            assert_eq!(self.eye.committed_end(0), end, "{slots} slots");
            assert!(!self.eye.has_committed(end + 1), "{slots} slots");
        }
    }

    #[test]
    fn a_producer_that_is_killed_ends_where_it_committed_last_in_rings_of_every_size() {
        for slot_count in (1..=8).map(|log| 1 << log) {
            let mut scene = Scene::new(slot_count);
            for _ in 0..300 {
                scene.check();
                scene.send();
            }
        }
    }

    #[test]
    fn a_batch_that_was_taken_back_hides_nothing_that_was_committed_before() {
        for slot_count in (1..=8).map(|log| 1 << log) {
            for before in [0, 1, 63, 64, 65, 100] {
                let mut scene = Scene::new(slot_count);
                (0..before).for_each(|_| scene.send());
                scene.abort_a_batch();
                scene.check();
                scene.send();
                scene.check();
            }
        }
    }
}
