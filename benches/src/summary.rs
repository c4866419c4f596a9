//! From samples to rows: medians over rounds, ratios within rounds, one row for each class. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::class::Class;
use crate::plan::{Cell, Who, one};
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

/// A lane against one rival: the same work and size, the same rounds and class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Duel {
    pub(crate) work: Work,
    pub(crate) bytes: usize,
    #[serde(default = "one")]
    pub(crate) readers: u32,
    pub(crate) class: Class,
    pub(crate) who: Who,
    /// Rounds in which both were measured in this class.
    pub(crate) rounds: usize,
    /// Median over these rounds of the lane's best speed over the rival's best: above 1, the
    /// lane is faster. Speed is a rate, or one over a latency.
    pub(crate) lane_ahead: f64,
}

/// What a duel is about: work, bytes, readers, class.
type Match = (Work, usize, u32, Class);

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
    let rtrbs = samples.iter().filter(|rival| {
        let same = |cell: &Cell| (cell.work, cell.mode, cell.bytes, cell.readers);
        rival.cell.who == Who::Rtrb
            && rival.round == sample.round
            && rival.class == sample.class
            && same(&rival.cell) == same(&sample.cell)
    });
    let best = rtrbs.filter_map(speed).max_by(f64::total_cmp)?;
    Some(speed(sample)? / best)
}

/// More is better, for latency too.
fn speed(sample: &Sample) -> Option<f64> {
    match (&sample.latency, &sample.throughput) {
        (Some(latency), _) => Some(1.0 / latency.typical_ns),
        (None, Some(throughput)) => Some(throughput.rate()),
        (None, None) => None,
    }
}

/// Every rival against the lane, with whole messages, each at its best of the round: the strict
/// lane, except where the rival trusts its writer, too.
pub(crate) fn duels(samples: &[Sample]) -> Vec<Duel> {
    let mut best: BTreeMap<(Match, u32), BTreeMap<Who, f64>> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| sample.cell.mode == Mode::All) {
        if let (Some(class), Some(speed)) = (sample.class, speed(sample)) {
            let Cell { work, bytes, readers, .. } = sample.cell;
            let key = ((work, bytes, readers, class), sample.round);
            let found = best.entry(key).or_default().entry(sample.cell.who).or_insert(speed);
            *found = found.max(speed);
        }
    }
    let mut ratios: BTreeMap<(Match, Who), Vec<f64>> = BTreeMap::new();
    for ((matched, _), speeds) in best {
        let (_, bytes, ..) = matched;
        // Ways through the lane, of which a user takes the best one; against who reads in place
        // also the one that does.
        let ways = [Who::Laneway, Who::Sent, Who::Packed, Who::Trusted];
        for (&who, speed) in speeds.iter().filter(|(who, _)| !who.is_lane()) {
            let allowed =
                ways.iter().filter(|way| !way.reads_in_place(bytes) || who.reads_in_place(bytes));
            let lanes = allowed.filter_map(|way| speeds.get(way).copied());
            if let Some(lane) = lanes.max_by(f64::total_cmp) {
                ratios.entry((matched, who)).or_default().push(lane / speed);
            }
        }
    }
    let duels = ratios.into_iter().filter_map(|((matched, who), mut ratios)| {
        let (work, bytes, readers, class) = matched;
        let rounds = ratios.len();
        Some(Duel { work, bytes, readers, class, who, rounds, lane_ahead: median(&mut ratios)? })
    });
    duels.collect()
}

/// The median of what `of` finds in the samples.
fn middle(group: &[&Sample], of: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
    let mut values: Vec<f64> = group.iter().filter_map(|sample| of(sample)).collect();
    median(&mut values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    fn sample(round: u32, who: Who, rate: u64, probes: (f64, f64)) -> Sample {
        let sample = example::sample(round, who, rate, probes);
        Sample { cell: Cell { bytes: 56, ..sample.cell }, ..sample }
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
        let targets = crate::targets::of_rows(&rows);
        assert_eq!(targets.len(), 1);
        assert!(targets[0].met);
    }

    #[test]
    fn a_duel_takes_each_sides_best_depth_of_the_same_round_and_class() {
        let near = (30.0, 32.0);
        let deep = |mut sample: Sample| {
            sample.cell.depth = 65536;
            sample
        };
        let samples = [
            sample(0, Who::Laneway, 40, near),
            sample(0, Who::Pipe, 5, near),
            deep(sample(0, Who::Ringbuf, 20, near)),
            sample(0, Who::Ringbuf, 10, near),
            // Too far from each other to be compared.
            sample(1, Who::Laneway, 40, near),
            sample(1, Who::Ringbuf, 1, (200.0, 200.0)),
            // Nobody to compare with.
            sample(2, Who::Pipe, 5, near),
        ];
        let found: Vec<(Who, usize, f64)> =
            duels(&samples).iter().map(|duel| (duel.who, duel.rounds, duel.lane_ahead)).collect();
        assert_eq!(found, [(Who::Ringbuf, 1, 2.0), (Who::Pipe, 1, 8.0)]);
    }
}
