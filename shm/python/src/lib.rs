//! Laneway's lanes for Python: the module `laneway`.
//!
//! The ring is reached through the public API of `laneway-shm` alone. What a Python program sees is
//! written down in `laneway.pyi`. No `unsafe` here: buffers that are not `bytes` go through
//! `memoryview`, which costs one copy more.

mod consumer;
mod error;
mod frozen;
mod grant;
mod inlet;
mod producer;
mod subscriber;
mod wait;

use std::path::PathBuf;

use laneway_shm::{Attach, Start};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use consumer::Consumer;
use frozen::Frozen;
use grant::Grant;
use producer::Producer;
use subscriber::Subscriber;

fn attach(
    py: Python<'_>,
    socket: PathBuf,
    ticket: Option<&str>,
    lane: Option<&str>,
    timeout: Option<f64>,
) -> PyResult<Attach> {
    let attach = match (ticket, lane) {
        (Some(ticket), None) => {
            Attach::with_ticket(socket, ticket).map_err(|error| error::attach(py, error))?
        }
        (None, Some(lane)) => Attach::by_name(socket, lane),
        _ => return Err(PyValueError::new_err("give one of ticket and lane")),
    };
    let timeout = wait::timeout(timeout)?;
    Ok(attach.timeout(timeout))
}

/// Attaches the producer's end of a lane.
#[pyfunction]
#[pyo3(signature = (socket, *, ticket=None, lane=None, timeout=5.0, pin=true, lifeline=false))]
fn attach_producer(
    py: Python<'_>,
    socket: PathBuf,
    ticket: Option<&str>,
    lane: Option<&str>,
    timeout: Option<f64>,
    pin: bool,
    lifeline: bool,
) -> PyResult<Producer> {
    let attach = attach(py, socket, ticket, lane, timeout)?.pin(pin).lifeline(lifeline);
    let producer = py.detach(|| attach.producer()).map_err(|error| error::attach(py, error))?;
    Ok(Producer::new(producer))
}

/// Attaches the consumer's end of a lane.
#[pyfunction]
#[pyo3(signature = (socket, *, ticket=None, lane=None, timeout=5.0, pin=true, lifeline=false))]
fn attach_consumer(
    py: Python<'_>,
    socket: PathBuf,
    ticket: Option<&str>,
    lane: Option<&str>,
    timeout: Option<f64>,
    pin: bool,
    lifeline: bool,
) -> PyResult<Consumer> {
    let attach = attach(py, socket, ticket, lane, timeout)?.pin(pin).lifeline(lifeline);
    let consumer = py.detach(|| attach.consumer()).map_err(|error| error::attach(py, error))?;
    Ok(Consumer::new(consumer))
}

/// Attaches a reader of a broadcast lane that does not wait for its readers.
#[pyfunction]
#[pyo3(signature = (socket, *, ticket=None, lane=None, timeout=5.0, pin=true, oldest=false))]
fn attach_subscriber(
    py: Python<'_>,
    socket: PathBuf,
    ticket: Option<&str>,
    lane: Option<&str>,
    timeout: Option<f64>,
    pin: bool,
    oldest: bool,
) -> PyResult<Subscriber> {
    let start = if oldest { Start::Oldest } else { Start::Newest };
    let attach = attach(py, socket, ticket, lane, timeout)?.pin(pin).start(start);
    let subscriber = py.detach(|| attach.subscriber()).map_err(|error| error::attach(py, error))?;
    Ok(Subscriber::new(subscriber))
}

#[pymodule]
fn laneway(module: &Bound<'_, PyModule>) -> PyResult<()> {
    error::register(module)?;
    let hook = PyDict::new(module.py());
    hook.set_item("after_in_child", wrap_pyfunction!(wait::forked, module)?)?;
    module.py().import("os")?.call_method("register_at_fork", (), Some(&hook))?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Producer>()?;
    module.add_class::<Consumer>()?;
    module.add_class::<Subscriber>()?;
    module.add_class::<Grant>()?;
    module.add_class::<Frozen>()?;
    module.add_function(wrap_pyfunction!(attach_producer, module)?)?;
    module.add_function(wrap_pyfunction!(attach_consumer, module)?)?;
    module.add_function(wrap_pyfunction!(attach_subscriber, module)?)
}
