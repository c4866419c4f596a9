//! How near two cpus are, judged by what one cache line needs from one to the other.
//!
//! Pure. On virtual machines this changes under a running program (the host moves vCPUs), which
//! is why every figure carries the class that held before and after it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One-way hand-over up to which two cpus share a core, in ns.
const SMT_MAX_NS: f64 = 25.0;
/// One-way hand-over up to which two cpus share a last-level cache, in ns: those of one took 20 to
/// 130 on the machines of `docs/measurements.md` ("Near and far"), others 180 and more.
const NEAR_MAX_NS: f64 = 150.0;
/// One-way hand-over up to which it was two cpus that ran, in ns: a line that takes longer waited
/// for its cpu and not for the way.
const FAR_MAX_NS: f64 = 1000.0;

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
    fn a_move_between_two_probes_leaves_no_class() {
        assert_eq!(Class::agreed(30.0, 45.0), Some(Class::Near));
        assert_eq!(Class::agreed(30.0, 200.0), None);
    }
}
