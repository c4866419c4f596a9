//! How near two cpus are, judged by what one cache line needs from one to the other.
//!
//! Pure. On virtual machines this changes under a running program (the host moves vCPUs), which
//! is why every figure carries the class that held before and after it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// One-way hand-over up to which two cpus share a core, in ns.
const SMT_MAX_NS: f64 = 25.0;
/// One-way hand-over up to which two cpus share a last-level cache, in ns: 25 to 130 on the
/// machines of `docs/measurements.md` ("Near and far"), where others took 180 and more.
const NEAR_MAX_NS: f64 = 150.0;
/// One-way hand-over up to which it was two cpus that ran, in ns: a line that takes longer waited
/// for its cpu and not for the way.
const FAR_MAX_NS: f64 = 1000.0;

/// The longest hand-over of one placement over its shortest: 25 to 65 ns were seen of two cores of
/// an EPYC; of two placements in one class, 34 and 105.
const SPREAD: f64 = 2.6;

/// Distance class of two cpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Class {
    /// Two hardware threads of one core.
    Smt,
    /// Two cores below one last-level cache.
    Near,
    /// Two cores without a common cache.
    Far,
    /// One core only, whose distance to others is nothing to it.
    Core,
    /// Others had the cpus, or both were one: nothing is concluded.
    Busy,
}

impl Class {
    /// The class of a one-way hand-over of `nanos`.
    pub(crate) fn of(nanos: f64) -> Self {
        if nanos <= SMT_MAX_NS {
            Self::Smt
        } else if nanos <= NEAR_MAX_NS {
            Self::Near
        } else if nanos <= FAR_MAX_NS {
            Self::Far
        } else {
            Self::Busy
        }
    }

    /// Whether figures of this class are held to a promise.
    pub(crate) fn is_judged(self) -> bool {
        self != Self::Busy
    }

    /// The class that held before and after, if it was one.
    pub(crate) fn agreed(before_ns: f64, after_ns: f64) -> Option<Self> {
        let (before, after) = (Self::of(before_ns), Self::of(after_ns));
        (before == after).then_some(before)
    }
}

/// Keeps of each distance the placement that most samples had, and takes the class of the others
/// away: two placements can be of one class, as on a Xeon two threads of a core, 34 ns, and two
/// cores, 105 ns, both are near. `of` tells a sample's class and the hand-overs around it, in ns.
pub(crate) fn keep_commonest<S>(
    samples: &mut [S],
    of: impl Fn(&mut S) -> (&mut Option<Class>, [f64; 2]),
) {
    let mut hand_overs: BTreeMap<Class, Vec<f64>> = BTreeMap::new();
    for sample in samples.iter_mut() {
        if let (Some(class @ (Class::Smt | Class::Near | Class::Far)), around) = of(sample) {
            hand_overs.entry(*class).or_default().extend(around);
        }
    }
    let usual: BTreeMap<Class, Usual> = hand_overs
        .into_iter()
        .filter_map(|(class, mut all)| Some((class, densest(&mut all)?)))
        .collect();
    for sample in samples {
        let (class, around) = of(sample);
        let Some(usual) = class.and_then(|class| usual.get(&class)) else { continue };
        if !around.iter().all(|nanos| usual.contains(nanos)) {
            *class = None;
        }
    }
}

/// Hand-overs of one placement, in ns.
type Usual = RangeInclusive<f64>;

/// The range that one placement may have and in which most lie; of several the nearest.
fn densest(all: &mut [f64]) -> Option<Usual> {
    all.sort_by(f64::total_cmp);
    let within = |from: f64| {
        let beyond = all.partition_point(|nanos| *nanos <= from * SPREAD);
        beyond - all.partition_point(|nanos| *nanos < from)
    };
    // The last of the largest would be the farthest.
    let from = all.iter().rev().copied().max_by_key(|from| within(*from))?;
    Some(from..=from * SPREAD)
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Smt => "smt",
            Self::Near => "near",
            Self::Far => "far",
            Self::Core => "core",
            Self::Busy => "busy",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_borders_of_the_measurements_divide_the_classes() {
        let classes = [17.0, 25.0, 25.1, 43.0, 150.0, 150.1, 225.0, 3e6].map(Class::of);
        use Class::{Busy, Far, Near, Smt};
        assert_eq!(classes, [Smt, Smt, Near, Near, Near, Far, Far, Busy]);
    }

    #[test]
    fn of_a_class_with_two_placements_the_commoner_one_counts() {
        let near = Some(Class::Near);
        let mut samples = vec![
            (near, [105.0, 110.0]),
            (near, [34.0, 35.0]),
            (near, [98.0, 121.0]),
            // It moved within its class.
            (near, [34.0, 105.0]),
            (near, [110.0, 101.0]),
            // Of another class, and of none.
            (Some(Class::Far), [250.0, 260.0]),
            (Some(Class::Core), [1.0, 1e9]),
            (Some(Class::Busy), [3e6, 4e9]),
            (None, [30.0, 250.0]),
        ];
        keep_commonest(&mut samples, |sample| (&mut sample.0, sample.1));
        let found: Vec<Option<Class>> = samples.into_iter().map(|sample| sample.0).collect();
        let [far, core, busy] = [Class::Far, Class::Core, Class::Busy].map(Some);
        assert_eq!(found, [near, None, near, None, near, far, core, busy, None]);
    }

    #[test]
    fn of_two_placements_as_common_the_nearer_one_counts_and_never_none() {
        let far = |nanos| (Some(Class::Far), [nanos; 2]);
        let mut samples = vec![far(700.0), far(200.0), far(720.0), far(210.0), far(500.0)];
        keep_commonest(&mut samples, |sample| (&mut sample.0, sample.1));
        let kept: Vec<f64> =
            samples.iter().filter(|sample| sample.0.is_some()).map(|sample| sample.1[0]).collect();
        assert_eq!(kept, [200.0, 210.0, 500.0]);
        assert_eq!(densest(&mut []), None);
    }

    #[test]
    fn a_move_between_two_probes_leaves_no_class() {
        assert_eq!(Class::agreed(30.0, 45.0), Some(Class::Near));
        assert_eq!(Class::agreed(30.0, 200.0), None);
    }
}
