//! How near two cpus are, judged by what one cache line needs from one to the other.
//!
//! Pure. On virtual machines this changes under a running program (the host moves vCPUs), which
//! is why every figure carries the class that held before and after it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One-way hand-over up to which two cpus share a core, in ns.
const SMT_MAX_NS: f64 = 25.0;
/// One-way hand-over up to which two cpus share a last-level cache, in ns.
const NEAR_MAX_NS: f64 = 110.0;

/// Distance class of two cpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Class {
    /// Two hardware threads of one core.
    Smt,
    /// Two cores below one last-level cache.
    Near,
    /// Two cores without a common cache, or a machine too busy to tell.
    Far,
    /// One core only, whose distance to others is nothing to it.
    Core,
}

impl Class {
    /// The class of a one-way hand-over of `nanos`.
    pub(crate) fn of(nanos: f64) -> Self {
        if nanos <= SMT_MAX_NS {
            Self::Smt
        } else if nanos <= NEAR_MAX_NS {
            Self::Near
        } else {
            Self::Far
        }
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
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_borders_of_the_measurements_divide_the_classes() {
        let classes = [17.0, 25.0, 25.1, 43.0, 110.0, 110.1, 225.0].map(Class::of);
        use Class::{Far, Near, Smt};
        assert_eq!(classes, [Smt, Smt, Near, Near, Near, Far, Far]);
    }

    #[test]
    fn a_move_between_two_probes_leaves_no_class() {
        assert_eq!(Class::agreed(30.0, 45.0), Some(Class::Near));
        assert_eq!(Class::agreed(30.0, 200.0), None);
    }
}
