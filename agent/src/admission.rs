//! May this be done at all? Policy that needs no topology: limits, tenants, privileges.
//!
//! Pure. What is possible on the machine is placement's question.

use thiserror::Error;

use crate::model::capacity::CpuSet;
use crate::model::id::Name;
use crate::model::lane::{LaneSpec, Pinning};

/// What admission knows of the agent.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Lanes allowed on this node.
    pub lanes_max: usize,
    /// Tenants that may be charged.
    pub tenants: Vec<Name>,
    /// Why the agent cannot enforce affinity, if it cannot.
    pub enforce_missing: Option<String>,
    /// Why the agent cannot hold cores in cpusets, if it cannot.
    pub cpuset_missing: Option<String>,
    /// The cpus that it can hold, and those of them where everything else runs, too.
    pub cpuset: [CpuSet; 2],
}

/// Why a request was not admitted.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Rejection {
    /// The node has as many lanes as it may.
    #[error("{lanes} lanes exist, at most {limit} are allowed; delete one or raise limits.lanes")]
    TooManyLanes {
        /// Lanes now.
        lanes: usize,
        /// The limit.
        limit: usize,
    },
    /// Another lane has the name.
    #[error("a lane named {name} exists already; choose another name or delete that lane")]
    NameTaken {
        /// The name.
        name: Name,
    },
    /// Nobody by that name.
    #[error("tenant {name} is not known; known are {known}")]
    UnknownTenant {
        /// The tenant.
        name: Name,
        /// The tenants of the configuration.
        known: String,
    },
    /// The agent may not set the affinity of other processes.
    #[error("pinning by the agent is not possible: {missing}; use self pinning")]
    CannotEnforce {
        /// What is missing.
        missing: String,
    },
    /// The agent has no cpusets of its own.
    #[error("cores cannot be held in cpusets: {missing}; use self pinning")]
    NoCpusets {
        /// What is missing.
        missing: String,
    },
}

/// Admits a lane or says why not.
///
/// # Errors
/// The first rule that it breaks.
pub fn admit(
    spec: &LaneSpec,
    rules: &Rules,
    lanes: usize,
    name_taken: bool,
) -> Result<(), Rejection> {
    if name_taken {
        return Err(Rejection::NameTaken { name: spec.name.clone() });
    }
    if !rules.tenants.contains(&spec.tenant) {
        let known = rules.tenants.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
        return Err(Rejection::UnknownTenant { name: spec.tenant.clone(), known });
    }
    let enforced = [&spec.producer, &spec.consumer].iter().any(|e| e.pinning == Pinning::Enforce);
    if let Some(missing) = rules.enforce_missing.clone().filter(|_| enforced) {
        return Err(Rejection::CannotEnforce { missing });
    }
    let held = [&spec.producer, &spec.consumer].iter().any(|e| e.pinning == Pinning::Cpuset);
    if let Some(missing) = rules.cpuset_missing.clone().filter(|_| held) {
        return Err(Rejection::NoCpusets { missing });
    }
    if lanes >= rules.lanes_max {
        return Err(Rejection::TooManyLanes { lanes, limit: rules.lanes_max });
    }
    Ok(())
}
