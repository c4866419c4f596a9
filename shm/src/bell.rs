//! When an end rings for a peer that sleeps, and how the peer says that it does. Pure.

use crate::layout::BY_DOORBELL;

/// Wakes without progress after which a peer's parked word is ignored: a hostile peer that
/// pretends to sleep would otherwise cost a system call for each message.
const IDLE_WAKES_MAX: u32 = 64;

/// An end's own parked word.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    word: u32,
}

impl Parked {
    /// The word of the next sleep, which has a number of its own; `how` is 0 or [`BY_DOORBELL`].
    pub(crate) fn asleep(&mut self, how: u32) -> u32 {
        self.word = ((self.word.wrapping_add(1) | 1) & !BY_DOORBELL) | how;
        self.word
    }

    pub(crate) fn awake(&mut self) -> u32 {
        self.word = self.word.wrapping_add(1) & !BY_DOORBELL;
        self.word
    }

    pub(crate) fn is_asleep(&self) -> bool {
        !self.word.is_multiple_of(2)
    }
}

/// Decides whether a parked peer gets a wake-up.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    value: u32,
    rung_for: u32,
    idle_wakes: u32,
    progress_at: u64,
}

impl Bell {
    /// Forgets the peer but not the word in memory: a ring must change it, or it rings nobody.
    pub(crate) fn for_new_peer(&self) -> Self {
        Self { value: self.value, ..Self::default() }
    }

    /// The word to store before the wake-up, if there is to be one, given the peer's parked word
    /// and its cursor.
    ///
    /// One wake for each sleep: `parked` is odd while the peer sleeps and has a new value each
    /// time, so that a burst of commits during one wake-up costs one system call.
    pub(crate) fn ring(&mut self, parked: u32, progress: u64) -> Option<u32> {
        if parked.is_multiple_of(2) || parked == self.rung_for {
            return None;
        }
        if progress != self.progress_at {
            self.progress_at = progress;
            self.idle_wakes = 0;
        }
        self.rung_for = parked;
        self.idle_wakes = self.idle_wakes.saturating_add(1);
        if self.idle_wakes > IDLE_WAKES_MAX {
            return None;
        }
        Some(self.ring_unasked())
    }

    /// The bell's next value, for a peer whose sleep cannot be seen.
    pub(crate) fn ring_unasked(&mut self) -> u32 {
        self.value = self.value.wrapping_add(1);
        self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sleep_has_another_number_than_the_one_before_and_says_how_to_wake() {
        for start in [0, 1, u32::MAX, BY_DOORBELL - 2, BY_DOORBELL - 1] {
            let mut parked = Parked { word: start & !BY_DOORBELL };
            let mut before = 0;
            for how in [0, BY_DOORBELL, BY_DOORBELL, 0, 0] {
                let asleep = parked.asleep(how);
                assert!(parked.is_asleep() && !asleep.is_multiple_of(2));
                assert_eq!(asleep & BY_DOORBELL, how);
                assert_ne!(asleep & !BY_DOORBELL, before);
                before = asleep & !BY_DOORBELL;
                assert!(parked.awake().is_multiple_of(2) && !parked.is_asleep());
            }
        }
    }
}
