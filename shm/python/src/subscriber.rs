//! A reader that a broadcast lane does not wait for.

use std::time::Duration;

use laneway_shm::RecvError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::consumer::limited;
use crate::error;
use crate::grant::{self, Grant};
use crate::wait::{Held, in_slices, open, timeout};

/// A reader of an evicting or overwriting broadcast lane. One thread at a time uses it.
#[pyclass(frozen, module = "laneway")]
pub(crate) struct Subscriber {
    end: Held<Inlet>,
}

struct Inlet {
    subscriber: laneway_shm::Subscriber,
    /// What was found behind messages that were handed over: told by the next call.
    deferred: Option<RecvError>,
}

type Found<'py> = Result<Option<Bound<'py, PyBytes>>, RecvError>;

impl Inlet {
    /// The next message, if there is one now.
    fn now<'py>(&mut self, py: Python<'py>) -> Found<'py> {
        if let Some(error) = self.deferred.take() {
            return Err(error);
        }
        Ok(self.subscriber.poll()?.map(|message| PyBytes::new(py, message.bytes)))
    }

    /// The next message, waiting at most `timeout` for it.
    fn next<'py>(
        &mut self,
        py: Python<'py>,
        timeout: Duration,
    ) -> PyResult<Result<Bound<'py, PyBytes>, RecvError>> {
        match self.now(py) {
            Ok(Some(message)) => return Ok(Ok(message)),
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
        let subscriber = &mut self.subscriber;
        // What comes while others run is copied once more: it is taken before they can be stopped.
        let waited = in_slices(py, timeout, |slice| match subscriber.recv(slice) {
            Ok(message) => Ok(Some(message.bytes.to_vec())),
            Err(RecvError::TimedOut { .. }) => Ok(None),
            Err(error) => Err(error),
        })?;
        let state = self.subscriber.peer();
        let late = RecvError::TimedOut { waited: timeout, state };
        Ok(waited.unwrap_or(Err(late)).map(|bytes| PyBytes::new(py, &bytes)))
    }
}

impl Subscriber {
    pub(crate) fn new(subscriber: laneway_shm::Subscriber) -> Self {
        Self { end: Held::new(Inlet { subscriber, deferred: None }) }
    }

    fn look<T>(
        &self,
        py: Python<'_>,
        look: impl FnOnce(&mut laneway_shm::Subscriber) -> T,
    ) -> PyResult<T> {
        Ok(look(&mut open(py, &mut self.end.lock(py)?)?.subscriber))
    }
}

#[pymethods]
impl Subscriber {
    /// The next message, waiting for it at most `timeout` seconds.
    #[pyo3(signature = (timeout=None))]
    fn recv<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyBytes>> {
        let timeout = self::timeout(timeout)?;
        let mut end = self.end.lock(py)?;
        open(py, &mut end)?.next(py, timeout)?.map_err(|error| error::recv(py, error))
    }

    /// The next message, if there is one now.
    fn poll<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let mut end = self.end.lock(py)?;
        open(py, &mut end)?.now(py).map_err(|error| error::recv(py, error))
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
        let inlet = open(py, &mut end)?;
        let first = inlet.next(py, timeout)?;
        let mut taken = vec![first.map_err(|error| error::recv(py, error))?];
        while taken.len() < limit {
            match inlet.now(py) {
                Ok(Some(more)) => taken.push(more),
                Ok(None) => break,
                Err(error) => {
                    inlet.deferred = Some(error);
                    break;
                }
            }
        }
        Ok(taken)
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
        match open(py, &mut end)?.next(py, Duration::MAX)? {
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
