//! From samples to rows: medians over rounds, ratios within rounds, one row for each class. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::class::Class;
use crate::plan::{Cell, Who};
use crate::recorder::median;
use crate::rounds::Sample;
use crate::task::{Mode, Work};

/// All rounds of one cell in one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    #[serde(flatten)]
    pub(crate) cell: Cell,
    pub(crate) class: Class,
    /// Rounds that count.
    pub(crate) rounds: usize,
    /// Median of the hand-overs beside these rounds.
    pub(crate) hand_over_ns: f64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) latency: Option<LatencyRow>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) throughput: Option<ThroughputRow>,
    /// Median of this one's rate over rtrb's best rate, or of rtrb's latency over this one's:
    /// above 1, this one is faster.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) times_rtrb: Option<f64>,
}

/// Medians of the rounds' percentiles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LatencyRow {
    pub(crate) typical_ns: f64,
    pub(crate) p50_ns: f64,
    pub(crate) p90_ns: f64,
    pub(crate) p99_ns: f64,
    pub(crate) p999_ns: f64,
    pub(crate) max_ns: f64,
    /// Median of the rounds' typical latency over their hand-over: as fine as the data.
    pub(crate) times_hand_over: f64,
    /// The same of the plain p50, which the clock's step makes coarse.
    pub(crate) times_hand_over_p50: f64,
    /// Quantiles and the medians of their latencies.
    pub(crate) curve: Vec<(f64, f64)>,
}

/// Medians of the rounds' rates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ThroughputRow {
    pub(crate) messages_per_s: f64,
    pub(crate) bytes_per_s: f64,
}

/// A promise of the project, as it stands on this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) class: Class,
    pub(crate) rounds: usize,
    pub(crate) found: f64,
    pub(crate) wanted: String,
    pub(crate) met: bool,
}

/// Largest allowed latency of 64 bytes, in hand-overs.
const HAND_OVERS_MAX: f64 = 1.3;

/// The rows of all samples that count, ordered by cell and class.
pub(crate) fn rows(samples: &[Sample]) -> Vec<Row> {
    let mut groups: BTreeMap<(Class, Cell), Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        if let Some(class) = sample.class {
            groups.entry((class, sample.cell)).or_default().push(sample);
        }
    }
    let rows = groups.into_iter().filter_map(|((class, cell), group)| {
        let hand_over_ns = middle(&group, |sample| Some(hand_over(sample)))?;
        Some(Row {
            cell,
            class,
            rounds: group.len(),
            hand_over_ns,
            latency: latency(&group),
            throughput: throughput(&group, cell.bytes),
            times_rtrb: middle(&group, |sample| times_rtrb(sample, samples)),
        })
    });
    rows.collect()
}

/// The project's two promises, for each class that was seen.
pub(crate) fn targets(rows: &[Row]) -> Vec<Target> {
    let mut targets = Vec::new();
    for row in rows {
        let wanted = (row.cell.who, row.cell.mode) == (Who::Laneway, Mode::All);
        match (row.cell.work, row.cell.bytes, &row.latency, row.times_rtrb) {
            (Work::Latency, 64, Some(latency), _) if wanted => targets.push(Target {
                name: "64-byte message, one way, in hand-overs".to_owned(),
                class: row.class,
                rounds: row.rounds,
                found: latency.times_hand_over,
                wanted: format!("at most {HAND_OVERS_MAX}"),
                met: latency.times_hand_over <= HAND_OVERS_MAX,
            }),
            (Work::Stream, 56, _, Some(times)) if wanted => targets.push(Target {
                name: "56-byte stream, one publish each, in rtrb's rate".to_owned(),
                class: row.class,
                rounds: row.rounds,
                found: times,
                wanted: "above 1".to_owned(),
                met: times > 1.0,
            }),
            _ => {}
        }
    }
    targets
}

/// The hand-over of a sample: the mean of the two around it.
fn hand_over(sample: &Sample) -> f64 {
    (sample.before.typical_ns + sample.after.typical_ns) / 2.0
}

fn latency(group: &[&Sample]) -> Option<LatencyRow> {
    let of = |field: fn(&crate::recorder::Latency) -> f64| {
        middle(group, |sample| sample.latency.as_ref().map(field))
    };
    let p50_ratio = |sample: &Sample| {
        let hand_over = (sample.before.p50_ns + sample.after.p50_ns) / 2.0;
        Some(sample.latency.as_ref()?.p50_ns / hand_over)
    };
    let ratio = |sample: &Sample| Some(sample.latency.as_ref()?.typical_ns / hand_over(sample));
    let first = group.iter().find_map(|sample| sample.latency.as_ref())?;
    let curve = first.curve.iter().enumerate().filter_map(|(at, point)| {
        let value = |sample: &Sample| Some(sample.latency.as_ref()?.curve.get(at)?.1);
        Some((point.0, middle(group, value)?))
    });
    Some(LatencyRow {
        typical_ns: of(|latency| latency.typical_ns)?,
        p50_ns: of(|latency| latency.p50_ns)?,
        p90_ns: of(|latency| latency.p90_ns)?,
        p99_ns: of(|latency| latency.p99_ns)?,
        p999_ns: of(|latency| latency.p999_ns)?,
        max_ns: of(|latency| latency.max_ns)?,
        times_hand_over: middle(group, ratio)?,
        times_hand_over_p50: middle(group, p50_ratio)?,
        curve: curve.collect(),
    })
}

fn throughput(group: &[&Sample], bytes: usize) -> Option<ThroughputRow> {
    let messages_per_s = middle(group, |sample| Some(sample.throughput.as_ref()?.rate()))?;
    Some(ThroughputRow { messages_per_s, bytes_per_s: messages_per_s * bytes as f64 })
}

/// How many times better than rtrb's best in the same round and class.
fn times_rtrb(sample: &Sample, samples: &[Sample]) -> Option<f64> {
    if !matches!(sample.cell.who, Who::Laneway | Who::Trusted) {
        return None;
    }
    let rivals = samples.iter().filter(|rival| {
        let same = |cell: &Cell| (cell.work, cell.mode, cell.bytes);
        rival.cell.who == Who::Rtrb
            && rival.round == sample.round
            && rival.class == sample.class
            && same(&rival.cell) == same(&sample.cell)
    });
    // Speed, so that more is better for latency too.
    let speed = |sample: &Sample| match (&sample.latency, &sample.throughput) {
        (Some(latency), _) => Some(1.0 / latency.typical_ns),
        (None, Some(throughput)) => Some(throughput.rate()),
        (None, None) => None,
    };
    let best = rivals.filter_map(speed).max_by(f64::total_cmp)?;
    Some(speed(sample)? / best)
}

/// The median of what `of` finds in the samples.
fn middle(group: &[&Sample], of: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
    let mut values: Vec<f64> = group.iter().filter_map(|sample| of(sample)).collect();
    median(&mut values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounds::Probe;
    use crate::stream::Throughput;

    fn sample(round: u32, who: Who, rate: u64, probes: (f64, f64)) -> Sample {
        let probe = |typical_ns| Probe { typical_ns, p50_ns: typical_ns, p99_ns: typical_ns };
        let cell = Cell { work: Work::Stream, bytes: 56, mode: Mode::All, who, depth: 1024 };
        Sample {
            round,
            cell,
            class: Class::agreed(probes.0, probes.1),
            before: probe(probes.0),
            after: probe(probes.1),
            latency: None,
            throughput: Some(Throughput { messages: rate, seconds: 1.0 }),
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round_and_a_class() {
        let near = (30.0, 32.0);
        let samples = [
            sample(0, Who::Laneway, 20, near),
            sample(0, Who::Rtrb, 10, near),
            // A slow round for both: the ratio holds.
            sample(1, Who::Laneway, 4, near),
            sample(1, Who::Rtrb, 2, near),
            // A move in the middle, and a rival from elsewhere: neither counts.
            sample(2, Who::Laneway, 1000, (30.0, 200.0)),
            sample(2, Who::Rtrb, 10, near),
            sample(3, Who::Laneway, 1000, near),
            sample(3, Who::Rtrb, 1, (200.0, 200.0)),
        ];
        let rows = rows(&samples);
        let row = rows.iter().find(|row| row.cell.who == Who::Laneway).unwrap();
        assert_eq!((row.class, row.rounds), (Class::Near, 3));
        assert_eq!(row.times_rtrb, Some(2.0));
        assert_eq!(row.hand_over_ns, 31.0);
        assert_eq!(row.throughput.unwrap().messages_per_s, 20.0);
        let targets = targets(&rows);
        assert_eq!(targets.len(), 1);
        assert!(targets[0].met);
    }
}
