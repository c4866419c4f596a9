//! The consumer's end.

use std::time::Duration;

use laneway_shm::{Incoming, RecvError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error;
use crate::frozen::Frozen;
use crate::grant::{self, Grant};
use crate::inlet::{Inlet, Items, Room, limited, to_bytes};
use crate::wait::{Held, in_slices, open, timeout};

/// The consumer's end of a lane. One thread at a time uses it.
#[pyclass(frozen, module = "laneway")]
pub(crate) struct Consumer {
    end: Held<Inlet<laneway_shm::Consumer>>,
}

impl Inlet<laneway_shm::Consumer> {
    /// The next message of either kind, waiting at most `timeout` for it; nothing if none came.
    fn any<'py>(
        &mut self,
        py: Python<'py>,
        timeout: Duration,
    ) -> PyResult<Result<Option<Bound<'py, PyAny>>, RecvError>> {
        loop {
            match self.now(|message| to_bytes(py, message))? {
                Ok(Some(bytes)) => return Ok(Ok(Some(bytes.into_any()))),
                Ok(None) | Err(RecvError::Frozen { .. }) => {}
                Err(error) => return Ok(Err(error)),
            }
            let consumer = &mut self.source;
            // A payload is mapped here once and all its pages are touched: not while others wait.
            let waited = in_slices(py, timeout, |slice| match consumer.recv_any(slice) {
                Ok(Incoming::Frozen(slot)) => Ok(Some(Some(slot.take().file().clone()))),
                Ok(Incoming::Message(slot)) => {
                    slot.keep();
                    Ok(Some(None))
                }
                Err(RecvError::TimedOut { .. }) => Ok(None),
                Err(error) => Err(error),
            })?;
            match waited {
                Some(Ok(Some(file))) => {
                    let frozen = Bound::new(py, Frozen::received(file))?;
                    return Ok(Ok(Some(frozen.into_any())));
                }
                Some(Ok(None)) => {}
                Some(Err(error)) => return Ok(Err(error)),
                None => return Ok(Ok(None)),
            }
        }
    }
}

impl Consumer {
    pub(crate) fn new(consumer: laneway_shm::Consumer) -> Self {
        Self { end: Held::new(Inlet::new(consumer)) }
    }

    fn look<T>(
        &self,
        py: Python<'_>,
        look: impl FnOnce(&mut laneway_shm::Consumer) -> T,
    ) -> PyResult<T> {
        Ok(look(&mut open(py, &mut self.end.lock(py)?)?.source))
    }
}

#[pymethods]
impl Consumer {
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

    /// The next message as `bytes`, or the next frozen payload.
    #[pyo3(signature = (timeout=None))]
    fn recv_any<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let timeout = self::timeout(timeout)?;
        let mut end = self.end.lock(py)?;
        let inlet = open(py, &mut end)?;
        let found = inlet.any(py, timeout)?;
        let state = inlet.source.peer();
        let found =
            found.and_then(|found| found.ok_or(RecvError::TimedOut { waited: timeout, state }));
        found.map_err(|error| error::recv(py, error))
    }

    /// As `recv_any`, if there is one now.
    fn poll_any<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let mut end = self.end.lock(py)?;
        let found = open(py, &mut end)?.any(py, Duration::ZERO)?;
        found.map_err(|error| error::recv(py, error))
    }

    /// Leaves out the next message if it is a frozen payload; whether it was one.
    fn skip_frozen(&self, py: Python<'_>) -> PyResult<bool> {
        let mut end = self.end.lock(py)?;
        let inlet = open(py, &mut end)?;
        let skipped = match inlet.deferred.take() {
            None | Some(RecvError::Frozen { .. }) => inlet.source.skip_frozen(),
            Some(error) => Err(error),
        };
        skipped.map_err(|error| error::recv(py, error))
    }

    /// The messages that are there, waiting for the first one.
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

    /// The items of the messages that are there as one numpy array.
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

    /// Looks at the agent's events; for a consumer that receives rarely.
    fn maintain(&self, py: Python<'_>) -> PyResult<()> {
        self.look(py, laneway_shm::Consumer::maintain)?.map_err(|error| error::recv(py, error))
    }

    /// Lets go of the lane. A successor goes on after what was received.
    fn detach(&self, py: Python<'_>) -> PyResult<()> {
        self.end.lock(py)?.take();
        Ok(())
    }

    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    /// Nothing at the end of the stream: that ends the loop.
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
