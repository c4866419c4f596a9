//! Lifelines: which two ends get one, and when.
//!
//! A pair of live ends gets one if either asked for it. Ends keep theirs when this agent dies, so
//! that a pair of which both come back from before gets none: it has one, or lost it in that
//! moment and then looks by the clock.

use laneway_shm::wire::{self, Claim, Frame};
use tracing::warn;

use super::{Controller, Session};
use crate::ledger::Role;
use crate::plan::SegmentKey;

impl Controller {
    /// Gives a producer and a reader their halves of a new lifeline, before they are shown to each
    /// other.
    pub(super) fn connect(&self, producer: SegmentKey, reader: SegmentKey) {
        let live = |key| self.sessions.get(&key).filter(|session: &&Session| session.live);
        let (Some(one), Some(other)) = (live(producer), live(reader)) else {
            return;
        };
        let wanted = one.request.lifeline || other.request.lifeline;
        let is_back = |session: &Session| matches!(session.request.claim, Claim::Resume { .. });
        if !wanted || (is_back(one) && is_back(other)) {
            return;
        }
        match self.world.lifeline() {
            Ok([first, second]) => {
                self.tell(producer, (frame(reader), Some(first)));
                self.tell(reader, (frame(producer), Some(second)));
            }
            Err(error) => warn!(lane = %producer.lane, %error, "no lifeline"),
        }
    }
}

fn frame(to: SegmentKey) -> Frame {
    let role = match to.role {
        Role::Producer => wire::Role::Producer,
        Role::Consumer => wire::Role::Consumer,
    };
    Frame::Lifeline { role, number: to.number }
}
