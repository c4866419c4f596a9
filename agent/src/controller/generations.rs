//! Generations: made when a producer follows another, let go of when whoever reads them is done.

use tracing::{error, warn};

use super::{ControlError, Controller, random};
use crate::ledger::{PageHolding, PageState, Role};
use crate::model::capacity::{PageCount, PageSize};
use crate::model::id::{LaneId, Secret};
use crate::model::lane::{LaneRecord, SegmentRecord};
use crate::placement::{StepDown, StepDownReason, free_pages};
use crate::plan::{SegmentKey, Step};
use crate::provision::{Outcome, is_page_shortage};

impl Controller {
    /// Makes and books the generation that follows, whose first message has position `start`.
    ///
    /// It lies on the lane's pages, and on smaller ones where those are short just now and smaller
    /// ones are free: the one before keeps its pages until somebody follows and its last message is
    /// read, and its lane must not be down so long.
    pub(super) fn follow(
        &mut self,
        record: &mut LaneRecord,
        start: u64,
    ) -> Result<(), ControlError> {
        let placed = record.placement.page_size;
        let size_bytes = record.spec.geometry()?.segment_bytes();
        record.refused_pages.retain(|(size, _)| *size > placed);
        let ladder = record.spec.page_ladder(size_bytes);
        for page_size in ladder.into_iter().filter(|size| *size <= placed) {
            let count = PageCount::pages_for(size_bytes, page_size);
            let pages = PageHolding { node: record.placement.node, page_size, count };
            // The pages of its placement are the lane's; smaller ones are everybody's.
            let why = match self.shortage(pages).filter(|_| page_size < placed) {
                Some(short) => short.to_string(),
                None => match self.follow_on(record, start, pages) {
                    Err(ControlError::Step(error)) if is_page_shortage(&error, page_size) => {
                        self.refresh_pools();
                        error.to_string()
                    }
                    result => return result,
                },
            };
            warn!(lane = %record.id, %page_size, why, "no pages for a generation");
            record.refused_pages.push((page_size, why));
        }
        Err(ControlError::out_of_pages(size_bytes, &record.refused_pages))
    }

    /// Why these pages cannot be had, as far as is known.
    fn shortage(&self, pages: PageHolding) -> Option<StepDown> {
        let PageHolding { node, page_size, count: needed } = pages;
        let free = free_pages(&self.topology, &self.ledger, page_size);
        let free = free.filter(|(id, _)| *id == node).map(|(_, free)| free).next();
        let free = free.unwrap_or(PageCount::ZERO);
        let reason = StepDownReason::TooFewPages { needed, free, node };
        (free < needed).then_some(StepDown { page_size, reason })
    }

    fn follow_on(
        &mut self,
        record: &mut LaneRecord,
        start: u64,
        pages: PageHolding,
    ) -> Result<(), ControlError> {
        let id = record.id.0;
        self.ledger.add_pages(id, pages)?;
        match self.make_generation(record, start, pages.page_size) {
            Ok(segment) => {
                record.generations.push(segment);
                Ok(self.ledger.mark_backed(id)?)
            }
            Err(error) => {
                self.ledger.remove_pages(id, PageState::Promised, pages)?;
                Err(error)
            }
        }
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
        let mut segment = SegmentRecord {
            number: record.generation + 1,
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
        // Not before: a number that was tried in vain would look like a generation that was.
        record.generation = segment.number;
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
