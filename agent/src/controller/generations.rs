//! Generations: made when a producer follows another, let go of when whoever reads them is done.

use tracing::{error, warn};

use super::{ControlError, Controller, random};
use crate::ledger::{PageHolding, PageState, Role};
use crate::model::capacity::{PageCount, PageSize};
use crate::model::id::{LaneId, Secret};
use crate::model::lane::{LaneRecord, SegmentRecord};
use crate::plan::{SegmentKey, Step};
use crate::provision::{Outcome, is_page_shortage};

impl Controller {
    /// Makes and books the generation that follows, whose first message has position `start`.
    ///
    /// It lies on the lane's pages, and on smaller ones where those are short just now: the one
    /// before may keep them until its last message is read, and its lane must not be down so long.
    pub(super) fn follow(
        &mut self,
        record: &mut LaneRecord,
        start: u64,
    ) -> Result<(), ControlError> {
        let (id, placed) = (record.id, record.placement.page_size);
        let size_bytes = record.spec.geometry()?.segment_bytes();
        record.refused_pages.retain(|(size, _)| *size > placed);
        let ladder = record.spec.page_ladder(size_bytes);
        for page_size in ladder.into_iter().filter(|size| *size <= placed) {
            let count = PageCount::pages_for(size_bytes, page_size);
            let pages = PageHolding { node: record.placement.node, page_size, count };
            self.ledger.add_pages(id.0, pages)?;
            match self.make_generation(record, start, page_size) {
                Ok(segment) => {
                    record.generations.push(segment);
                    return Ok(self.ledger.mark_backed(id.0)?);
                }
                Err(error) => {
                    self.ledger.remove_pages(id.0, PageState::Promised, pages)?;
                    match error {
                        ControlError::Step(error) if is_page_shortage(&error, page_size) => {
                            warn!(lane = %id, %page_size, %error, "no pages for a generation");
                            record.refused_pages.push((page_size, error.to_string()));
                        }
                        error => return Err(error),
                    }
                }
            }
        }
        Err(ControlError::out_of_pages(size_bytes, &record.refused_pages))
    }

    /// Makes the next generation's segment, whose first message has position `start`, and books
    /// nothing.
    pub(super) fn make_generation(
        &mut self,
        record: &mut LaneRecord,
        start: u64,
        page_size: PageSize,
    ) -> Result<SegmentRecord, ControlError> {
        let geometry = record.spec.geometry()?;
        record.generation += 1;
        let mut segment = SegmentRecord {
            number: record.generation,
            nonce: Secret(random()),
            token: Secret(random()),
            start,
            end: None,
            size_bytes: geometry.segment_bytes().next_multiple_of(page_size.bytes()),
            page_size,
            file: None,
            granted: None,
            peer: None,
            gone: false,
            oldest: false,
        };
        let key = SegmentKey { lane: record.id, role: Role::Producer, number: segment.number };
        let header = segment.header(record.id, Role::Producer, &geometry);
        let node = Some(record.placement.node);
        let step = Step::CreateSegment { key, header, page_size, node, words: Vec::new() };
        for outcome in self.run_plan(&[step])? {
            if let Outcome::Made { file, bound } = outcome {
                segment.file = Some((file.device, file.inode));
                record.bound = bound;
            }
        }
        Ok(segment)
    }

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
        let pages = pages_of(record, &segment);
        if let Err(error) = self.ledger.remove_pages(id.0, PageState::Backed, pages) {
            error!(lane = %id, %error, "the books do not balance");
        }
    }
}

/// The pages of a producer's segment.
pub(super) fn pages_of(record: &LaneRecord, segment: &SegmentRecord) -> PageHolding {
    PageHolding {
        node: record.placement.node,
        page_size: segment.page_size,
        count: PageCount::pages_for(segment.size_bytes, segment.page_size),
    }
}
