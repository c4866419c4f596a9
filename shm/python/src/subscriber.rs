//! A reader that a broadcast lane does not wait for.

use std::time::Duration;

use laneway_shm::RecvError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error;
use crate::grant::{self, Grant};
use crate::inlet::{Inlet, Items, Room, limited, to_bytes};
use crate::wait::{Held, open, timeout};

/// A reader of an evicting or overwriting broadcast lane. One thread at a time uses it.
#[pyclass(frozen, module = "laneway")]
pub(crate) struct Subscriber {
    end: Held<Inlet<laneway_shm::Subscriber>>,
}

impl Subscriber {
    pub(crate) fn new(subscriber: laneway_shm::Subscriber) -> Self {
        Self { end: Held::new(Inlet::new(subscriber)) }
    }

    fn look<T>(
        &self,
        py: Python<'_>,
        look: impl FnOnce(&mut laneway_shm::Subscriber) -> T,
    ) -> PyResult<T> {
        Ok(look(&mut open(py, &mut self.end.lock(py)?)?.source))
    }
}

#[pymethods]
impl Subscriber {
    /// The next message, waiting for it at most `timeout` seconds.
    #[pyo3(signature = (timeout=None))]
    fn recv<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyBytes>> {
        let timeout = self::timeout(timeout)?;
        let mut end = self.end.lock(py)?;
        let message = open(py, &mut end)?.next(py, timeout, |message| to_bytes(py, message))?;
        message.map_err(|error| error::recv(py, error))
    }

    /// The next message, if there is one now.
    fn poll<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let mut end = self.end.lock(py)?;
        let message = open(py, &mut end)?.now(|message| to_bytes(py, message))?;
        message.map_err(|error| error::recv(py, error))
    }

    /// The messages that are there, waiting for the first one; nothing is missing between them.
    #[pyo3(signature = (limit=1024, timeout=None))]
    fn recv_many<'py>(
        &self,
        py: Python<'py>,
        limit: usize,
        timeout: Option<f64>,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let (limit, timeout) = (limited(limit)?, self::timeout(timeout)?);
        let mut end = self.end.lock(py)?;
        open(py, &mut end)?.many(py, limit, timeout, |message| to_bytes(py, message))
    }

    /// Copies the next message into a buffer that can be written; returns its length.
    #[pyo3(signature = (buffer, timeout=None))]
    fn recv_into(&self, buffer: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<usize> {
        let (py, timeout) = (buffer.py(), self::timeout(timeout)?);
        let room = Room::new(buffer)?;
        let mut end = self.end.lock(py)?;
        let received = open(py, &mut end)?.next(py, timeout, |message| room.fill(message))?;
        received.map_err(|error| error::recv(py, error))
    }

    /// The items of the messages that are there as one numpy array; nothing is missing between
    /// them.
    #[pyo3(signature = (dtype, limit=1024, timeout=None))]
    fn recv_array<'py>(
        &self,
        dtype: &Bound<'py, PyAny>,
        limit: usize,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = dtype.py();
        let (limit, timeout) = (limited(limit)?, self::timeout(timeout)?);
        let mut items = Items::new(dtype)?;
        let mut end = self.end.lock(py)?;
        open(py, &mut end)?.many(py, limit, timeout, |message| items.push(message))?;
        items.array()
    }

    /// What the agent granted.
    #[getter]
    fn grant(&self, py: Python<'_>) -> PyResult<Grant> {
        self.look(py, |end| Grant::new(end.grant(), end.message_max()))
    }

    /// "absent", "live" or "gone".
    #[getter]
    fn peer(&self, py: Python<'_>) -> PyResult<&'static str> {
        self.look(py, |end| grant::peer(end.peer()))
    }

    /// Position of the next message, in slots since the lane was made.
    #[getter]
    fn position(&self, py: Python<'_>) -> PyResult<u64> {
        self.look(py, |end| end.position())
    }

    /// Slots lost since the attach.
    #[getter]
    fn lost(&self, py: Python<'_>) -> PyResult<u64> {
        self.look(py, |end| end.lost())
    }

    /// Looks at the agent's events; for a reader that receives rarely.
    fn maintain(&self, py: Python<'_>) -> PyResult<()> {
        self.look(py, laneway_shm::Subscriber::maintain)?.map_err(|error| error::recv(py, error))
    }

    /// Lets go of the lane.
    fn detach(&self, py: Python<'_>) -> PyResult<()> {
        self.end.lock(py)?.take();
        Ok(())
    }

    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    /// Nothing at the end of the stream: that ends the loop. A loss is raised.
    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let mut end = self.end.lock(py)?;
        match open(py, &mut end)?.next(py, Duration::MAX, |message| to_bytes(py, message))? {
            Ok(message) => Ok(Some(message)),
            Err(RecvError::Closed { .. }) => Ok(None),
            Err(error) => Err(error::recv(py, error)),
        }
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    #[pyo3(signature = (kind, value, traceback))]
    fn __exit__(
        &self,
        py: Python<'_>,
        kind: Option<&Bound<'_, PyAny>>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let _ = (kind, value, traceback);
        self.detach(py)?;
        Ok(false)
    }
}
