//! The exceptions, and which error becomes which of them.

use std::time::Duration;

use laneway_shm::{AttachError, FrozenError, FrozenSendError, Reason, RecvError, ReserveError};
use pyo3::exceptions::{PyConnectionError, PyException, PyTimeoutError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

struct Exceptions {
    base: Py<PyType>,
    timed_out: Py<PyType>,
    closed: Py<PyType>,
    revoked: Py<PyType>,
    corrupt: Py<PyType>,
    refused: Py<PyType>,
    unreachable: Py<PyType>,
    too_large: Py<PyType>,
    full: Py<PyType>,
    too_small: Py<PyType>,
    is_frozen: Py<PyType>,
    frozen_lost: Py<PyType>,
    lost: Py<PyType>,
    given_up: Py<PyType>,
}

static EXCEPTIONS: PyOnceLock<Exceptions> = PyOnceLock::new();

impl Exceptions {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let base = make(py, "LanewayError", &[py.get_type::<PyException>()])?;
        let ours = base.bind(py).clone();
        let plain = |name| make(py, name, std::slice::from_ref(&ours));
        let also = |name, other| make(py, name, &[ours.clone(), other]);
        Ok(Self {
            timed_out: also("TimedOutError", py.get_type::<PyTimeoutError>())?,
            closed: plain("ClosedError")?,
            revoked: plain("RevokedError")?,
            corrupt: plain("CorruptError")?,
            refused: plain("RefusedError")?,
            unreachable: also("UnreachableError", py.get_type::<PyConnectionError>())?,
            too_large: also("TooLargeError", py.get_type::<PyValueError>())?,
            full: plain("FullError")?,
            too_small: also("BufferTooSmallError", py.get_type::<PyValueError>())?,
            is_frozen: plain("IsFrozenError")?,
            frozen_lost: plain("FrozenLostError")?,
            lost: plain("LostError")?,
            given_up: plain("GivenUpError")?,
            base,
        })
    }

    fn all(&self) -> [&Py<PyType>; 14] {
        [
            &self.base,
            &self.timed_out,
            &self.closed,
            &self.revoked,
            &self.corrupt,
            &self.refused,
            &self.unreachable,
            &self.too_large,
            &self.full,
            &self.too_small,
            &self.is_frozen,
            &self.frozen_lost,
            &self.lost,
            &self.given_up,
        ]
    }
}

/// As a `class` statement would, which may name several bases.
fn make(py: Python<'_>, name: &str, bases: &[Bound<'_, PyType>]) -> PyResult<Py<PyType>> {
    let members = PyDict::new(py);
    members.set_item("__module__", "laneway")?;
    let made = py.get_type::<PyType>().call1((name, PyTuple::new(py, bases)?, members))?;
    Ok(made.cast_into::<PyType>()?.unbind())
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    for exception in EXCEPTIONS.get_or_try_init(py, || Exceptions::new(py))?.all() {
        let exception = exception.bind(py);
        module.add(exception.name()?, exception)?;
    }
    Ok(())
}

fn raise(
    py: Python<'_>,
    which: impl Fn(&Exceptions) -> &Py<PyType>,
    text: impl std::fmt::Display,
) -> PyErr {
    match EXCEPTIONS.get(py) {
        Some(exceptions) => PyErr::from_type(which(exceptions).bind(py).clone(), text.to_string()),
        // No end exists before the module does.
        None => PyException::new_err(text.to_string()),
    }
}

/// Gives an exception a number or a text to act on.
fn with<'py>(py: Python<'py>, error: PyErr, name: &str, value: impl IntoPyObject<'py>) -> PyErr {
    match error.value(py).setattr(name, value) {
        Ok(()) => error,
        Err(other) => other,
    }
}

/// What needs no exception of its own.
pub(crate) fn other(py: Python<'_>, text: &str) -> PyErr {
    raise(py, |all| &all.base, text)
}

pub(crate) fn too_small(py: Python<'_>, required: usize, capacity: usize) -> PyErr {
    let text = format!(
        "the next message has {required} bytes, the buffer {capacity}; it stays in the lane"
    );
    with(py, raise(py, |all| &all.too_small, text), "required", required)
}

pub(crate) fn sent_before(py: Python<'_>, error: PyErr, sent: usize) -> PyErr {
    with(py, error, "sent", sent)
}

pub(crate) fn attach(py: Python<'_>, error: AttachError) -> PyErr {
    match &error {
        AttachError::Refused { reason, .. } => {
            with(py, raise(py, |all| &all.refused, &error), "reason", reason)
        }
        AttachError::Connect { .. } | AttachError::Disconnected { .. } => {
            raise(py, |all| &all.unreachable, error)
        }
        AttachError::TimedOut { .. } => raise(py, |all| &all.timed_out, error),
        AttachError::NoTicket { .. } => PyValueError::new_err(error.to_string()),
        AttachError::WrongHandle { lane, needed } => {
            let text = format!("the lane {lane}: attach it with attach_{needed}, and a new ticket");
            raise(py, |all| &all.base, text)
        }
        AttachError::Segment(_) | AttachError::Frame(_) | AttachError::Unexpected { .. } => {
            raise(py, |all| &all.corrupt, error)
        }
        _ => raise(py, |all| &all.base, error),
    }
}

pub(crate) fn reserve(py: Python<'_>, error: ReserveError) -> PyErr {
    match &error {
        ReserveError::Full { .. } => raise(py, |all| &all.full, error),
        ReserveError::TooLarge { .. } => raise(py, |all| &all.too_large, error),
        failed if failed.is_timeout() => raise(py, |all| &all.timed_out, error),
        ReserveError::Revoked => raise(py, |all| &all.revoked, error),
        ReserveError::Corrupt(_) => raise(py, |all| &all.corrupt, error),
        _ => raise(py, |all| &all.base, error),
    }
}

pub(crate) fn recv(py: Python<'_>, error: RecvError) -> PyErr {
    match &error {
        RecvError::Closed { .. } => raise(py, |all| &all.closed, error),
        RecvError::TimedOut { .. } => raise(py, |all| &all.timed_out, error),
        RecvError::Revoked => raise(py, |all| &all.revoked, error),
        RecvError::Frozen { position, bytes_max } => {
            let raised = raise(py, |all| &all.is_frozen, &error);
            with(py, with(py, raised, "position", *position), "bytes_max", *bytes_max)
        }
        RecvError::FrozenLost { position, bytes_max } => {
            let raised = raise(py, |all| &all.frozen_lost, &error);
            with(py, with(py, raised, "position", *position), "bytes_max", *bytes_max)
        }
        RecvError::Lost { slots, position } => {
            let raised = raise(py, |all| &all.lost, &error);
            with(py, with(py, raised, "slots", *slots), "position", *position)
        }
        RecvError::GivenUp { reason: Reason::Behind, position, .. } => {
            with(py, raise(py, |all| &all.given_up, &error), "position", *position)
        }
        RecvError::GivenUp { .. } | RecvError::Corrupt(_) | RecvError::Segment(_) => {
            raise(py, |all| &all.corrupt, error)
        }
        _ => raise(py, |all| &all.base, error),
    }
}

pub(crate) fn frozen(py: Python<'_>, error: FrozenError) -> PyErr {
    match error {
        FrozenError::Length { .. } => PyValueError::new_err(error.to_string()),
        _ => raise(py, |all| &all.base, error),
    }
}

/// `timeout` is what the caller waited, of which the error knows the last slice only.
pub(crate) fn send_frozen(py: Python<'_>, error: FrozenSendError, timeout: Duration) -> PyErr {
    let error = match error {
        FrozenSendError::Reserve(ReserveError::TimedOut { state, .. }) => {
            ReserveError::TimedOut { waited: timeout, state }.into()
        }
        FrozenSendError::InFlight { in_flight, state, .. } => {
            FrozenSendError::InFlight { in_flight, waited: timeout, state }
        }
        FrozenSendError::LifelineFull { .. } => FrozenSendError::LifelineFull { waited: timeout },
        other => other,
    };
    match error {
        full if full.is_timeout() && timeout.is_zero() => raise(py, |all| &all.full, full),
        FrozenSendError::Reserve(error) => reserve(py, error),
        late if late.is_timeout() => raise(py, |all| &all.timed_out, late),
        FrozenSendError::NoLifeline { state } => {
            let remedy = "attach an end with lifeline=True";
            raise(
                py,
                |all| &all.base,
                format!("no lifeline to the consumer, which {state}: {remedy}"),
            )
        }
        other => raise(py, |all| &all.base, other),
    }
}
