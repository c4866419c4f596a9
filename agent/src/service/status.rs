//! Refusals as google.rpc.Status: one table from reason to code, and the details that go with it.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::controller::ControlError;

/// Domain of every ErrorInfo.
pub(super) const DOMAIN: &str = "laneway.v1";

/// A field of a request that was refused before anything looked at the rest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct BadField {
    /// Path of the field, such as `spec.geometry.slot_count`.
    pub(super) field: String,
    /// What is wrong and what is allowed.
    pub(super) description: String,
    /// Whether the value is known and its feature does not exist yet.
    pub(super) unimplemented: bool,
}

impl BadField {
    pub(super) fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into(), unimplemented: false }
    }

    pub(super) fn unimplemented(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { unimplemented: true, ..Self::new(field, description) }
    }
}

impl From<BadField> for Status {
    fn from(bad: BadField) -> Self {
        let (code, reason) = if bad.unimplemented {
            (Code::Unimplemented, "UNIMPLEMENTED_FIELD")
        } else {
            (Code::InvalidArgument, "INVALID_FIELD")
        };
        let message = format!("{}: {}", bad.field, bad.description);
        let facts = HashMap::from([("field".to_owned(), bad.field.clone())]);
        let mut details = ErrorDetails::with_error_info(reason, DOMAIN, facts);
        details.set_bad_request(vec![FieldViolation {
            field: bad.field,
            description: bad.description,
            ..FieldViolation::default()
        }]);
        Self::with_error_details(code, message, details)
    }
}

impl From<ControlError> for Status {
    fn from(error: ControlError) -> Self {
        let reason = error.reason();
        let facts = error.metadata().into_iter().map(|(key, value)| (key.to_owned(), value));
        let mut details =
            ErrorDetails::with_error_info(reason, DOMAIN, facts.collect::<HashMap<_, _>>());
        if matches!(reason, "AGENT_RECOVERING" | "AGENT_STOPPING") {
            details.set_retry_info(Some(std::time::Duration::from_secs(1)));
        }
        Self::with_error_details(code(reason), error.to_string(), details)
    }
}

/// The one table from reason to code.
pub(super) fn code(reason: &str) -> Code {
    match reason {
        "INVALID_FIELD" | "REQUEST_ID_REUSED" | "TENANT_UNKNOWN" => Code::InvalidArgument,
        "UNIMPLEMENTED_FIELD" => Code::Unimplemented,
        "LANE_NOT_FOUND" => Code::NotFound,
        "NAME_TAKEN" => Code::AlreadyExists,
        "QUOTA_LANES"
        | "INSUFFICIENT_HUGEPAGES"
        | "NUMA_UNSATISFIABLE"
        | "CORES_EXHAUSTED"
        | "TENANT_CONFLICT"
        | "GENERATIONS_EXHAUSTED"
        | "READERS_EXHAUSTED"
        | "WATCHER_SLOW" => Code::ResourceExhausted,
        "REVISION_COMPACTED" => Code::OutOfRange,
        "TICKET_INVALID" | "NOT_ALLOWED" => Code::PermissionDenied,
        "AGENT_RECOVERING" | "AGENT_STOPPING" => Code::Unavailable,
        "JOURNAL_FAILED" => Code::Internal,
        // What is impossible in the present state, and would be possible in another.
        _ => Code::FailedPrecondition,
    }
}

/// A refusal that has no error type of its own.
pub(super) fn refusal(reason: &'static str, message: String) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(code(reason), message, details)
}
