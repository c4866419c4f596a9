//! Generations that ended: let go of as soon as whoever reads them is done.

use tracing::error;

use super::Controller;
use crate::ledger::{PageHolding, PageState, Role};
use crate::model::capacity::PageCount;
use crate::model::id::LaneId;
use crate::plan::{SegmentKey, Step};

impl Controller {
    pub(crate) fn drained(&mut self, key: SegmentKey, generation: u64) {
        let Some(record) = self.lanes.get(&key.lane) else {
            return;
        };
        let current = record.generations.last().map(|segment| segment.number);
        if record.is_broadcast() {
            return self.prune_drained(key.lane);
        }
        let drained = key.role == Role::Consumer
            && current != Some(generation)
            && record.segment(Role::Producer, generation).is_some_and(|s| s.end.is_some());
        if drained {
            self.drop_generation(key.lane, generation);
            self.save_or_log(key.lane);
        }
    }

    /// Lets go of ended generations whose every message was released.
    pub(super) fn prune_drained(&mut self, id: LaneId) {
        let Some(record) = self.lanes.get(&id) else { return };
        let released = match record.is_broadcast() {
            true => self.lowest_cursor(record),
            false => self.released(record),
        };
        let drained: Vec<u64> = record
            .generations
            .iter()
            .rev()
            .skip(1)
            .filter(|segment| segment.end.is_some_and(|end| end <= released))
            .map(|segment| segment.number)
            .collect();
        if drained.is_empty() {
            return;
        }
        for number in drained {
            self.drop_generation(id, number);
        }
        self.save_or_log(id);
    }

    fn drop_generation(&mut self, id: LaneId, number: u64) {
        self.attempt(&Step::DropSegment {
            key: SegmentKey { lane: id, role: Role::Producer, number },
        });
        let Some(record) = self.lanes.get_mut(&id) else {
            return;
        };
        let Some(index) = record.generations.iter().position(|s| s.number == number) else {
            return;
        };
        let segment = record.generations.remove(index);
        let count = PageCount::pages_for(segment.size_bytes, segment.page_size);
        let pages =
            PageHolding { node: record.placement.node, page_size: segment.page_size, count };
        if let Err(error) = self.books().remove_pages(id.0, PageState::Backed, pages) {
            error!(lane = %id, %error, "the books do not balance");
        }
    }
}
