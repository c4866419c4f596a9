//! What a call answers: a number for the program, a text for whoever reads its log.

use std::cell::RefCell;
use std::ffi::{CString, c_char};

use laneway_shm::{AttachError, FrozenError, FrozenSendError, Reason, RecvError, ReserveError};

/// What a call answers. Later versions may add numbers; none changes its meaning.
///
/// All but `LANEWAY_STATUS_OK` and `LANEWAY_STATUS_EMPTY` leave a text for
/// `laneway_error_message`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LanewayStatus {
    /// Done.
    Ok = 0,
    /// No message is there now.
    Empty = 1,
    /// The time ran out. Silence is not death: the text says what is known of the other end.
    TimedOut = 2,
    /// The producer ended the stream, and everything before the end was received.
    Closed = 3,
    /// The agent took the lane away.
    Revoked = 4,
    /// The other end broke the protocol, or a segment did not stand up to the check. Final.
    Corrupt = 5,
    /// The message can never fit into this lane.
    TooLarge = 6,
    /// The next message is longer than the buffer. It stays in the lane, and its length was
    /// written where the call says.
    TooSmall = 7,
    /// No room now, and the call was not to wait.
    Full = 8,
    /// The agent refused; the text starts with its fixed word.
    Refused = 9,
    /// The agent cannot be reached.
    Unreachable = 10,
    /// The thread cannot be pinned to the granted cpu.
    NotPinned = 11,
    /// The message takes several slots and has no address of its own.
    NotInPlace = 12,
    /// A reservation is open, or none is.
    OutOfTurn = 13,
    /// An argument is null, misaligned, too large or no text.
    InvalidArgument = 14,
    /// This is no open handle: never attached, closed, or the other kind.
    InvalidHandle = 15,
    /// The operating system refused a call, or there are too many handles.
    System = 16,
    /// A bug in the library. The handle answers this for ever; it can still be detached.
    Panicked = 17,
    /// A broadcast lane that does not wait for its readers and was to be attached as a consumer,
    /// another lane as a subscriber; or a broadcast lane that was to take a frozen payload.
    WrongShape = 18,
    /// The next message is a frozen payload, which this call does not take. It stays in the lane.
    Frozen = 19,
    /// A frozen payload will never come: its producer ended before this consumer was sent it, or
    /// there was no room for its descriptor here. The next call goes on behind it.
    FrozenLost = 20,
    /// Neither end of the lane attached with `LANEWAY_ATTACH_LIFELINE`.
    NoLifeline = 21,
    /// The producer of a broadcast lane was faster than this subscriber: so many slots are lost as
    /// the call tells. Told once for each loss; the next call goes on behind it.
    Lost = 22,
    /// This subscriber is beyond the budget of an evicting lane, whose producer no longer counts
    /// with it. Told once; it may go on, and is told what it loses.
    GivenUp = 23,
}

/// A status that is not well, with its text.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: LanewayStatus,
    text: String,
}

impl Failure {
    pub(crate) fn new(status: LanewayStatus, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    pub(crate) fn argument(name: &str, wrong: &str) -> Self {
        Self::new(LanewayStatus::InvalidArgument, format!("argument {name} {wrong}"))
    }

    pub(crate) fn handle() -> Self {
        let text = "not an open handle: never attached, closed already, or of the other kind";
        Self::new(LanewayStatus::InvalidHandle, text)
    }

    pub(crate) fn panicked() -> Self {
        let text = "the library panicked, which is a bug; detach this handle and report it";
        Self::new(LanewayStatus::Panicked, text)
    }

    /// Leaves the text for [`message`].
    pub(crate) fn tell(self) -> LanewayStatus {
        let mut bytes = self.text.into_bytes();
        bytes.retain(|byte| *byte != 0);
        // A thread that is ending has no place for it any more, and nobody who would ask.
        let _ = MESSAGE.try_with(|place| {
            *place.borrow_mut() = CString::new(bytes).unwrap_or_default();
        });
        self.status
    }
}

thread_local! {
    static MESSAGE: RefCell<CString> = RefCell::new(CString::default());
}

/// The text of this thread's last failure; valid until its next one.
pub(crate) fn message() -> *const c_char {
    MESSAGE.try_with(|place| place.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

impl From<AttachError> for Failure {
    fn from(error: AttachError) -> Self {
        let status = match &error {
            AttachError::Refused { .. } => LanewayStatus::Refused,
            AttachError::Connect { .. } | AttachError::Disconnected { .. } => {
                LanewayStatus::Unreachable
            }
            AttachError::TimedOut { .. } => LanewayStatus::TimedOut,
            AttachError::Pin { .. } => LanewayStatus::NotPinned,
            AttachError::Os { .. } => LanewayStatus::System,
            AttachError::WrongHandle { .. } => LanewayStatus::WrongShape,
            // What the agent sent, and whatever a later library may add to it.
            _ => LanewayStatus::Corrupt,
        };
        let text = match &error {
            AttachError::Refused { reason, message } => format!("{reason}: {message}"),
            AttachError::WrongHandle { lane, needed } => {
                format!("the lane {lane}: attach it as a {needed}")
            }
            other => other.to_string(),
        };
        Self::new(status, text)
    }
}

impl From<ReserveError> for Failure {
    fn from(error: ReserveError) -> Self {
        let status = match &error {
            ReserveError::Full { .. } => LanewayStatus::Full,
            ReserveError::TooLarge { .. } => LanewayStatus::TooLarge,
            error if error.is_timeout() => LanewayStatus::TimedOut,
            ReserveError::Revoked => LanewayStatus::Revoked,
            _ => LanewayStatus::Corrupt,
        };
        Self::new(status, error.to_string())
    }
}

impl From<RecvError> for Failure {
    fn from(error: RecvError) -> Self {
        let status = match &error {
            RecvError::Closed { .. } => LanewayStatus::Closed,
            RecvError::TimedOut { .. } => LanewayStatus::TimedOut,
            RecvError::TooLong { .. } => LanewayStatus::TooSmall,
            RecvError::Revoked => LanewayStatus::Revoked,
            RecvError::Frozen { .. } => LanewayStatus::Frozen,
            RecvError::FrozenLost { .. } => LanewayStatus::FrozenLost,
            RecvError::FrozenFailed { .. } => LanewayStatus::System,
            RecvError::Lost { .. } => LanewayStatus::Lost,
            RecvError::GivenUp { reason: Reason::Behind, .. } => LanewayStatus::GivenUp,
            _ => LanewayStatus::Corrupt,
        };
        Self::new(status, error.to_string())
    }
}

impl From<FrozenError> for Failure {
    fn from(error: FrozenError) -> Self {
        let status = match &error {
            FrozenError::Length { .. } => LanewayStatus::InvalidArgument,
            FrozenError::Fault(_) => LanewayStatus::Corrupt,
            // Somebody still writes, or there is no memory.
            _ => LanewayStatus::System,
        };
        Self::new(status, error.to_string())
    }
}

impl From<FrozenSendError> for Failure {
    fn from(error: FrozenSendError) -> Self {
        let status = match error {
            FrozenSendError::Reserve(error) => return error.into(),
            FrozenSendError::Broadcast => LanewayStatus::WrongShape,
            FrozenSendError::NoLifeline { state } => {
                let remedy = "attach an end with LANEWAY_ATTACH_LIFELINE";
                let text = format!("no lifeline to the consumer, which {state}: {remedy}");
                return Self::new(LanewayStatus::NoLifeline, text);
            }
            ref full if full.is_timeout() => LanewayStatus::TimedOut,
            _ => LanewayStatus::System,
        };
        Self::new(status, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use laneway_shm::PeerState;

    use super::*;

    #[test]
    fn a_slow_reader_is_told_as_time_that_ran_out_and_not_as_a_broken_protocol() {
        let waited = Duration::from_secs(1);
        let held = ReserveError::Held { waited, reader: 3, lag_slots: 8, held: waited };
        for error in [held, ReserveError::TimedOut { waited, state: PeerState::Live }] {
            assert_eq!(Failure::from(error).status, LanewayStatus::TimedOut);
        }
    }

    #[test]
    fn what_becomes_of_a_frozen_payload_is_not_told_as_a_broken_protocol() {
        let (position, bytes_max, waited) = (3, 8192, Duration::ZERO);
        let status = |error: RecvError| Failure::from(error).status;
        assert_eq!(status(RecvError::Frozen { position, bytes_max }), LanewayStatus::Frozen);
        assert_eq!(
            status(RecvError::FrozenLost { position, bytes_max }),
            LanewayStatus::FrozenLost
        );
        let status = |error: FrozenSendError| Failure::from(error).status;
        assert_eq!(status(FrozenSendError::Broadcast), LanewayStatus::WrongShape);
        assert_eq!(status(FrozenSendError::LifelineFull { waited }), LanewayStatus::TimedOut);
        assert_eq!(status(ReserveError::Revoked.into()), LanewayStatus::Revoked);
    }

    #[test]
    fn a_lane_of_another_shape_is_not_told_as_a_broken_protocol() {
        let lane = "does not wait for its readers";
        let failure = Failure::from(AttachError::WrongHandle { lane, needed: "subscriber" });
        assert_eq!(failure.status, LanewayStatus::WrongShape);
        assert!(failure.text.contains(lane) && failure.text.contains("subscriber"));
    }
}
