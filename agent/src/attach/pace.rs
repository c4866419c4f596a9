//! How often a session is heard: as often as an honest end has something to say.
//!
//! What an end says costs the agent time, journal records and log lines, and wakes watchers. One
//! that says too much is read more slowly, and nothing else: the rest waits in its sender's socket,
//! whose buffer bounds it. An end that is only busy for a moment loses nothing. Pure: the time
//! comes in as an argument.

use std::time::{Duration, Instant};

use laneway_shm::wire::Frame;

/// What most frames cost. The busiest honest end, a producer that is held and let go again and
/// again, says so 20 times a second: 100 ms each time before it does.
const REPORT: u32 = 8;
/// What a drained generation costs: as many come as producers do, and each attach costs the agent
/// more than this.
const DRAINED: u32 = 1;
/// What may be spent in a second: 32 reports.
const PER_SECOND: u32 = 32 * REPORT;
/// What may be spent at once: 256 reports. An end that comes back shows up to 64 readers and its
/// generations.
const SAVED_MAX: u32 = 256 * REPORT;

/// What a session may still say now.
#[derive(Debug)]
pub(super) struct Pace {
    saved: u32,
    /// Until when `saved` is counted.
    counted: Instant,
    /// Whether it was ever made to wait.
    noted: bool,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { saved: SAVED_MAX, counted: now, noted: false }
    }

    /// When the next frame may be read; `None` if it may be now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Instant> {
        self.save(now);
        let missing = REPORT.saturating_sub(self.saved);
        (missing > 0).then(|| self.counted + worth(missing))
    }

    /// A frame was heard. True once, when the session has said too much for the first time.
    pub(super) fn spend(&mut self, frame: &Frame) -> bool {
        let cost = if matches!(frame, Frame::Drained { .. }) { DRAINED } else { REPORT };
        self.saved = self.saved.saturating_sub(cost);
        self.saved < REPORT && !std::mem::replace(&mut self.noted, true)
    }

    /// Counts the time that has passed, in whole units.
    fn save(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.counted);
        let earned = passed.as_nanos() / worth(1).as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX).min(SAVED_MAX);
        self.saved = self.saved.saturating_add(earned).min(SAVED_MAX);
        // The rest of a unit is not lost, unless there is nothing to save up for.
        self.counted = if self.saved == SAVED_MAX { now } else { self.counted + worth(earned) };
    }
}

/// The time in which as much is earned.
fn worth(units: u32) -> Duration {
    Duration::from_secs(1) / PER_SECOND * units
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: Frame = Frame::Held { reader: 1, held_ms: 100 };
    const TICK: Duration = Duration::from_millis(1);

    /// How many frames a session gets heard in `time` if it always has another one to say.
    fn heard(pace: &mut Pace, start: Instant, time: Duration, frame: &Frame) -> u32 {
        let (mut now, mut heard) = (start, 0);
        while now < start + time {
            match pace.next(now) {
                Some(then) => now = then.max(now),
                None => {
                    pace.spend(frame);
                    heard += 1;
                }
            }
        }
        heard
    }

    #[test]
    fn a_session_that_never_stops_is_heard_at_the_rate_of_an_honest_one() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(heard(&mut pace, start, TICK, &HELD), 256);
        let (later, minute) = (start + TICK, Duration::from_secs(60));
        let reports = heard(&mut pace, later, minute, &HELD);
        assert!((60 * 32 - 1..=60 * 32 + 1).contains(&reports), "{reports} in a minute");
        let later = later + minute;
        let drained = heard(&mut pace, later, minute, &Frame::Drained { generation: 1 });
        assert!((60 * 256 - 8..=60 * 256 + 8).contains(&drained), "{drained} in a minute");
    }

    #[test]
    fn the_busiest_honest_end_never_waits() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        // It came back, and then is held and let go as often as it can say so.
        for _ in 0..64 + 32 {
            assert_eq!(pace.next(start), None);
            pace.spend(&HELD);
        }
        for time in 0..10_000 {
            assert_eq!(pace.next(start + 50 * TICK * time), None);
            assert!(!pace.spend(&HELD));
        }
    }

    #[test]
    fn who_says_too_much_is_noted_once() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!((0..1000).filter(|_| pace.spend(&HELD)).count(), 1);
    }

    #[test]
    fn time_in_pieces_counts_as_much_as_in_one() {
        let start = Instant::now();
        let (mut often, mut rarely) = (Pace::new(start), Pace::new(start));
        for pace in [&mut often, &mut rarely] {
            (0..256).for_each(|_| _ = pace.spend(&HELD));
        }
        for step in 1..=1000 {
            often.next(start + TICK * step);
        }
        rarely.next(start + TICK * 1000);
        assert_eq!(often.saved, rarely.saved);
        assert_eq!(rarely.saved, PER_SECOND);
    }
}
