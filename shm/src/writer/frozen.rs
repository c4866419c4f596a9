//! What the ring does for a payload that is not in it.

use super::Writer;
use crate::cursor::{CommitWord, Kind};
use crate::error::Corruption;
use crate::memory::{Memory, OwnedMemory};
use crate::ring::{Span, WaitMode};

impl<P: OwnedMemory, C: Memory> Writer<P, C> {
    /// Commits a slot that says that a frozen payload of so many base pages is the message.
    pub(crate) fn commit_frozen(&mut self, span: &Span, pages: u64) {
        debug_assert!(self.batch.is_none() && span.slots == 1);
        #[expect(clippy::cast_possible_truncation, reason = "a payload has at most 2^18 pages")]
        let word = CommitWord::of(&span.place, Kind::Frozen, pages as u32);
        self.publish(span.place, word);
        self.move_on(span, 1);
        if self.wait == WaitMode::Park {
            self.wake_parked_consumer();
        }
    }

    /// Looks at the consumer's cursor now.
    ///
    /// # Errors
    /// As [`Writer::try_reserve`].
    pub(crate) fn look_released(&mut self) -> Result<u64, Corruption> {
        self.refresh(0)?;
        Ok(self.released)
    }
}
