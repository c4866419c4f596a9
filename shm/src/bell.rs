//! When an end rings for a peer that sleeps. Pure.

/// Wakes without progress after which a peer's parked word is ignored: a hostile peer that
/// pretends to sleep would otherwise cost a system call for each message.
const IDLE_WAKES_MAX: u32 = 64;

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
        self.value = self.value.wrapping_add(1);
        Some(self.value)
    }
}
