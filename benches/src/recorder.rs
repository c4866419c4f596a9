//! Times of round trips, with the clock read while the message is in flight.
//!
//! The stamp is taken right after a message went out, so the 10 to 30 ns that a clock needs hide
//! behind the flight instead of being added to it; the interval between two stamps is exactly one
//! round trip. Clocks here step in 10 ns, so single trips are coarse: [`Latency::typical_ns`] is
//! the median of means over 32 trips, and finer.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::stream::Throughput;

/// Round trips averaged for one fine-grained value.
const WINDOW: u32 = 32;
/// Longest trip that is told apart from longer ones, in ns.
const TRIP_MAX_NS: u64 = 60_000_000_000;
/// Quantiles of the curve in plots and JSON.
const CURVE: [f64; 14] =
    [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999, 1.0];

/// One-way latencies of one run: half of the round trips, in ns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// Round trips that count.
    pub(crate) trips: u64,
    /// Median of the means over 32 trips.
    pub(crate) typical_ns: f64,
    pub(crate) p50_ns: f64,
    pub(crate) p90_ns: f64,
    pub(crate) p99_ns: f64,
    pub(crate) p999_ns: f64,
    pub(crate) max_ns: f64,
    /// How long whoever comes at a random moment waits until the trip ends that is under way, at
    /// most, in 99 of 100 cases. Not halved: stalls that hardly show among so many trips show here.
    #[serde(default)]
    pub(crate) wait_p99_ns: f64,
    /// Pairs of quantile and latency.
    pub(crate) curve: Vec<(f64, f64)>,
}

/// What one measurement found: one of the two, or nothing if the time was too short.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    pub(crate) latency: Option<Latency>,
    pub(crate) throughput: Option<Throughput>,
}

/// Collects round trips for a given time, of which the first tenth is thrown away.
#[derive(Debug)]
pub(crate) struct Recorder {
    time: Duration,
    start: Option<Instant>,
    counting: bool,
    last: Instant,
    window: Instant,
    window_trips: u32,
    trips: Histogram<u64>,
    windows: Vec<f64>,
}

impl Recorder {
    /// Counts from the first stamp on.
    pub(crate) fn new(time: Duration) -> Self {
        let now = Instant::now();
        let Ok(trips) = Histogram::new_with_bounds(1, TRIP_MAX_NS, 3) else {
            unreachable!("constants: 1 < TRIP_MAX_NS / 2, and 3 digits of at most 5");
        };
        Self {
            time,
            start: None,
            counting: false,
            last: now,
            window: now,
            window_trips: 0,
            trips,
            windows: Vec::with_capacity(1 << 16),
        }
    }

    /// Called after each message that starts a round trip. False when the time is up.
    #[inline]
    pub(crate) fn stamp(&mut self) -> bool {
        let now = Instant::now();
        if self.counting {
            self.trips.saturating_record(nanos(now.duration_since(self.last)));
            self.window_trips += 1;
            if self.window_trips == WINDOW {
                self.end_window(now);
            }
        } else {
            self.warm_up(now);
        }
        self.last = now;
        self.start.is_some_and(|start| now.duration_since(start) < self.time)
    }

    #[cold]
    fn warm_up(&mut self, now: Instant) {
        let start = *self.start.get_or_insert(now);
        self.counting = now.duration_since(start) * 10 >= self.time;
        self.window = now;
    }

    #[inline]
    fn end_window(&mut self, now: Instant) {
        let trips = f64::from(2 * WINDOW);
        self.windows.push(now.duration_since(self.window).as_secs_f64() * 1e9 / trips);
        self.window = now;
        self.window_trips = 0;
    }

    /// What was counted; `None` if the time was too short for a single trip.
    pub(crate) fn finish(mut self) -> Option<Latency> {
        if self.trips.is_empty() {
            return None;
        }
        let at = |quantile: f64| self.trips.value_at_quantile(quantile) as f64 / 2.0;
        let curve = CURVE.map(|quantile| (quantile, at(quantile))).to_vec();
        let typical = median(&mut self.windows).unwrap_or_else(|| at(0.5));
        Some(Latency {
            trips: self.trips.len(),
            typical_ns: typical,
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns: self.trips.max() as f64 / 2.0,
            wait_p99_ns: wait(&self.trips, 0.99),
            curve,
        })
    }
}

/// The wait that whoever comes at a random moment of these trips has at most, with a probability of
/// `quantile`: a trip is met as often as it is long, and anywhere within it.
fn wait(trips: &Histogram<u64>, quantile: f64) -> f64 {
    let mut met: Vec<(f64, f64)> = trips
        .iter_recorded()
        .map(|step| (step.value_iterated_to() as f64, step.count_since_last_iteration() as f64))
        .collect();
    met.reverse();
    let total: f64 = met.iter().map(|(nanos, count)| nanos * count).sum();
    let allowed = (1.0 - quantile) * total;
    let (mut nanos_above, mut count_above) = (0.0, 0.0);
    for (index, (nanos, count)) in met.iter().enumerate() {
        nanos_above += nanos * count;
        count_above += count;
        // Between this length and the next shorter one, the time beyond `x` falls with `x`.
        let x = (nanos_above - allowed) / count_above;
        if x >= met.get(index + 1).map_or(0.0, |shorter| shorter.0) {
            return x.max(0.0);
        }
    }
    0.0
}

/// The middle value; of two middle values the mean. `None` of nothing.
pub(crate) fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (upper, lower) = (values.len() / 2, values.len().checked_sub(1)? / 2);
    Some((values.get(upper)? + values.get(lower)?) / 2.0)
}

/// Nanoseconds as an integer; 584 years saturate.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_even_and_odd_and_no_values_is_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut [4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&mut []), None);
    }

    #[test]
    fn percentiles_of_known_trips_are_their_halves() {
        let mut recorder = Recorder::new(Duration::from_secs(1));
        for nanos in 1..=1000 {
            recorder.trips.saturating_record(nanos * 2);
        }
        let latency = recorder.finish().unwrap();
        assert_eq!(latency.trips, 1000);
        for (found, expected) in [
            (latency.p50_ns, 500.0),
            (latency.p90_ns, 900.0),
            (latency.p99_ns, 990.0),
            (latency.p999_ns, 999.0),
            (latency.max_ns, 1000.0),
        ] {
            assert!((found - expected).abs() <= expected / 500.0, "{found} {expected}");
        }
        assert!(latency.curve.is_sorted_by(|a, b| a.1 <= b.1));
    }

    #[test]
    fn a_stall_that_no_percentile_shows_is_what_a_random_moment_meets() {
        let mut recorder = Recorder::new(Duration::from_secs(1));
        for _ in 0..9_000 {
            recorder.trips.saturating_record(100);
        }
        recorder.trips.saturating_record(100_000);
        let latency = recorder.finish().unwrap();
        assert!(latency.p999_ns < 60.0, "one of 9001 trips");
        // 10 % of the time is the stall; 1 % of all moments have more than 90 us of it before them.
        assert!((latency.wait_p99_ns - 90_000.0).abs() < 500.0, "{}", latency.wait_p99_ns);
        let mut even = Recorder::new(Duration::from_secs(1));
        even.trips.saturating_record(1000);
        assert!((even.finish().unwrap().wait_p99_ns - 990.0).abs() < 5.0);
    }

    #[test]
    fn a_run_without_a_trip_has_no_latency() {
        assert_eq!(Recorder::new(Duration::ZERO).finish(), None);
    }
}
