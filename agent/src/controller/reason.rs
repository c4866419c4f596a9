//! The fixed words by which callers tell refusals apart, and the numbers that go with them.
//!
//! Stable: a controller's code compares with these words. Documented in `docs/errors.md`; a test
//! holds that page and this table together.

use super::ControlError;
use crate::admission::Rejection;
use crate::placement::Constraint;
use crate::provision::StepError;

/// Every reason that the agent gives, in the order of the documentation.
pub const REASONS: [&str; 31] = [
    "INVALID_FIELD",
    "UNIMPLEMENTED_FIELD",
    "REQUEST_ID_REUSED",
    "LANE_NOT_FOUND",
    "NAME_TAKEN",
    "QUOTA_LANES",
    "TENANT_UNKNOWN",
    "INSUFFICIENT_HUGEPAGES",
    "NUMA_UNSATISFIABLE",
    "CPU_OUTSIDE_CPUSET",
    "CORES_EXHAUSTED",
    "TENANT_CONFLICT",
    "GRADE_UNREACHABLE",
    "RELATION_UNSATISFIABLE",
    "PINNING_UNAVAILABLE",
    "PINNING_FAILED",
    "ROLE_TAKEN",
    "READERS_EXHAUSTED",
    "TICKET_INVALID",
    "NOT_ALLOWED",
    "SCHEMA_MISMATCH",
    "GENERATIONS_EXHAUSTED",
    "AGENT_RECOVERING",
    "FENCED",
    "SEGMENT_REFUSED",
    "JOURNAL_FAILED",
    "REVISION_COMPACTED",
    "WATCHER_SLOW",
    "AGENT_STOPPING",
    // The attach socket's own, for a client that breaks its protocol.
    "DEADLINE_EXCEEDED",
    "FRAME_INVALID",
];

impl ControlError {
    /// The fixed word.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Rejected(rejection) => match rejection {
                Rejection::TooManyLanes { .. } => "QUOTA_LANES",
                Rejection::NameTaken { .. } => "NAME_TAKEN",
                Rejection::UnknownTenant { .. } => "TENANT_UNKNOWN",
                Rejection::CannotEnforce { .. } | Rejection::NoCpusets { .. } => {
                    "PINNING_UNAVAILABLE"
                }
            },
            Self::Refused(refusal) => match refusal.constraint {
                Constraint::NumaUnsatisfiable { .. } => "NUMA_UNSATISFIABLE",
                Constraint::CpuOutsideCpuset { .. } => "CPU_OUTSIDE_CPUSET",
                Constraint::CoresExhausted { .. } => "CORES_EXHAUSTED",
                Constraint::TenantConflict { .. } => "TENANT_CONFLICT",
                Constraint::GradeUnreachable { .. } => "GRADE_UNREACHABLE",
                Constraint::RelationUnsatisfiable { .. } => "RELATION_UNSATISFIABLE",
                Constraint::NothingAsked { .. } => "INVALID_FIELD",
                Constraint::InsufficientHugepages { .. } => "INSUFFICIENT_HUGEPAGES",
            },
            Self::OutOfPages { .. } | Self::Step(StepError::NoMemory(_)) => {
                "INSUFFICIENT_HUGEPAGES"
            }
            Self::NotFound { .. } => "LANE_NOT_FOUND",
            Self::RequestIdReused { .. } => "REQUEST_ID_REUSED",
            Self::RoleTaken { .. } => "ROLE_TAKEN",
            Self::ReadersExhausted { .. } => "READERS_EXHAUSTED",
            Self::TicketInvalid => "TICKET_INVALID",
            Self::NotAllowed { .. } => "NOT_ALLOWED",
            Self::Schema(_) => "SCHEMA_MISMATCH",
            Self::GenerationsExhausted { .. } => "GENERATIONS_EXHAUSTED",
            Self::Recovering => "AGENT_RECOVERING",
            Self::Fenced => "FENCED",
            Self::Step(StepError::Pin { .. } | StepError::Hold { .. }) => "PINNING_FAILED",
            Self::Step(_) | Self::Segment(_) => "SEGMENT_REFUSED",
            Self::Journal(_) | Self::Ledger(_) => "JOURNAL_FAILED",
            Self::Stopping => "AGENT_STOPPING",
        }
    }

    /// Numbers behind the refusal, for the caller's code.
    #[must_use]
    pub fn metadata(&self) -> Vec<(&'static str, String)> {
        let mut facts = match self {
            Self::Rejected(Rejection::TooManyLanes { lanes, limit }) => {
                vec![("lanes", lanes.to_string()), ("limit", limit.to_string())]
            }
            Self::OutOfPages { size_bytes, .. } => vec![("asked_bytes", size_bytes.to_string())],
            Self::GenerationsExhausted { open, limit } => {
                vec![("open", open.to_string()), ("limit", limit.to_string())]
            }
            Self::ReadersExhausted { readers, limit, .. } => {
                vec![("readers", readers.to_string()), ("limit", limit.to_string())]
            }
            Self::RoleTaken { role, .. } => vec![("role", role.to_string())],
            _ => Vec::new(),
        };
        if let Self::Refused(refusal) = self {
            facts.push(("constraint", refusal.constraint.to_string()));
            if let Some(fit) = refusal.would_fit.largest {
                facts.push(("would_fit_bytes", fit.size_bytes.to_string()));
                facts.push(("would_fit_page_bytes", fit.page_size.bytes().to_string()));
                facts.push(("would_fit_node", fit.node.to_string()));
            }
            if let Some(relaxation) = refusal.would_fit.relaxation {
                facts.push(("would_fit_if", relaxation.to_string()));
            }
        }
        facts
    }
}
