//! Pinned threads that were found elsewhere.

use tracing::warn;

use super::Controller;
use crate::ledger::Role;
use crate::plan::SegmentKey;

impl Controller {
    pub(crate) fn drifted(&mut self, key: SegmentKey, count: u64) {
        let Some(record) = self.lanes.get_mut(&key.lane) else {
            return;
        };
        let index = usize::from(key.role == Role::Consumer);
        record.drifts[index] = count;
        if count == 1 || count.is_multiple_of(3) {
            warn!(lane = %key.lane, role = %key.role, count, "thread left its core and went back");
        }
        self.save_or_log(key.lane);
    }

    pub(crate) fn repair_threads(&mut self) {
        for key in self.world.repair_threads() {
            let index = usize::from(key.role == Role::Consumer);
            let count = self.lanes.get(&key.lane).map_or(0, |record| record.drifts[index]);
            self.drifted(key, count + 1);
        }
    }
}
