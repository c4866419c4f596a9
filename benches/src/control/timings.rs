//! Times of single calls, and how many of them there were in a second.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest call that is told apart from longer ones, in ns.
const CALL_MAX_NS: u64 = 60_000_000_000;

/// What one measurement found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Timings {
    /// Calls that count.
    pub(crate) calls: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Calls in a second, of all callers together.
    pub(crate) per_s: f64,
}

/// Collects the times of calls.
#[derive(Debug)]
pub(crate) struct Clock {
    times: Histogram<u64>,
    /// Sum of the times.
    spent: Duration,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let Ok(times) = Histogram::new_with_bounds(1, CALL_MAX_NS, 3) else {
            unreachable!("constants: 1 < CALL_MAX_NS / 2, and 3 digits of at most 5");
        };
        Self { times, spent: Duration::ZERO }
    }

    /// Runs and times one call; a failed one is not counted.
    pub(crate) fn time<T, E>(&mut self, call: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let start = Instant::now();
        let result = call()?;
        self.count(start.elapsed());
        Ok(result)
    }

    /// Counts a call that took so long.
    pub(crate) fn count(&mut self, time: Duration) {
        self.times.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        self.spent += time;
    }

    /// Whether nothing was counted.
    pub(crate) fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Takes in what another one counted.
    pub(crate) fn add(&mut self, other: &Self) {
        // Both have the same bounds, so that nothing can be out of them.
        let _ = self.times.add(&other.times);
        self.spent += other.spent;
    }

    /// What was counted, if each call came after the one before. `None` of nothing.
    pub(crate) fn in_turn(&self) -> Option<Timings> {
        self.within(self.spent)
    }

    /// What was counted in `time`, however many were at work. `None` of nothing.
    pub(crate) fn within(&self, time: Duration) -> Option<Timings> {
        if self.times.is_empty() || time.is_zero() {
            return None;
        }
        let at = |quantile: f64| self.times.value_at_quantile(quantile) as f64 / 1e3;
        let calls = self.times.len();
        let per_s = calls as f64 / time.as_secs_f64();
        Some(Timings { calls, p50_us: at(0.5), p99_us: at(0.99), per_s })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_have_their_percentiles_and_their_rate() {
        let (mut clock, mut other) = (Clock::new(), Clock::new());
        for micros in 1..=100 {
            let half = if micros % 2 == 0 { &mut clock } else { &mut other };
            half.count(Duration::from_micros(micros));
        }
        clock.add(&other);
        let found = clock.in_turn().unwrap();
        assert_eq!(found.calls, 100);
        assert!((found.p50_us - 50.0).abs() < 0.1, "{found:?}");
        assert!((found.p99_us - 99.0).abs() < 0.1, "{found:?}");
        assert!((found.per_s - 100.0 / 0.005_05).abs() < 1.0, "{found:?}");
        let faster = clock.within(Duration::from_millis(1)).unwrap();
        assert!((faster.per_s - 100_000.0).abs() < 1.0, "{faster:?}");
    }

    #[test]
    fn nothing_counted_is_no_figure_and_failures_do_not_count() {
        let mut clock = Clock::new();
        assert_eq!(clock.time(|| Err::<(), _>("no")), Err("no"));
        assert_eq!(clock.in_turn(), None);
    }
}
