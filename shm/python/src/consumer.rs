//! The consumer's end.

use std::time::Duration;

use laneway_shm::{Incoming, ReadSlot, RecvError};
use pyo3::exceptions::{PyImportError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PySlice};

use crate::error;
use crate::frozen::Frozen;
use crate::grant::{self, Grant};
use crate::wait::{Held, in_slices, open, timeout};

/// The consumer's end of a lane. One thread at a time uses it.
#[pyclass(frozen, module = "laneway")]
pub(crate) struct Consumer {
    end: Held<Inlet>,
}

struct Inlet {
    consumer: laneway_shm::Consumer,
    /// What was wrong behind messages that were handed over: told by the next call.
    deferred: Option<RecvError>,
}

impl Inlet {
    /// Hands the next message to `take`, if there is one now. A message that `take` cannot use
    /// stays in the lane.
    fn now<T>(
        &mut self,
        take: impl FnOnce(&ReadSlot<'_>) -> PyResult<T>,
    ) -> PyResult<Result<Option<T>, RecvError>> {
        if let Some(error) = self.deferred.take() {
            return Ok(Err(error));
        }
        match self.consumer.poll() {
            Ok(Some(slot)) => match take(&slot) {
                Ok(taken) => Ok(Ok(Some(taken))),
                Err(error) => {
                    slot.keep();
                    Err(error)
                }
            },
            Ok(None) => Ok(Ok(None)),
            Err(error) => Ok(Err(error)),
        }
    }

    /// As [`Inlet::now`], waiting at most `timeout` for the message.
    fn next<T>(
        &mut self,
        py: Python<'_>,
        timeout: Duration,
        mut take: impl FnMut(&ReadSlot<'_>) -> PyResult<T>,
    ) -> PyResult<Result<T, RecvError>> {
        loop {
            match self.now(&mut take)? {
                Ok(Some(taken)) => return Ok(Ok(taken)),
                Ok(None) => {}
                Err(error) => return Ok(Err(error)),
            }
            if let Err(error) = self.wait(py, timeout)? {
                return Ok(Err(error));
            }
        }
    }

    /// Waits for a message and leaves it where it is.
    fn wait(&mut self, py: Python<'_>, timeout: Duration) -> PyResult<Result<(), RecvError>> {
        let consumer = &mut self.consumer;
        let waited = in_slices(py, timeout, |slice| match consumer.recv(slice) {
            Ok(slot) => {
                slot.keep();
                Ok(Some(()))
            }
            Err(RecvError::TimedOut { .. }) => Ok(None),
            Err(error) => Err(error),
        })?;
        let state = self.consumer.peer();
        Ok(waited.unwrap_or(Err(RecvError::TimedOut { waited: timeout, state })))
    }

    /// The next message of either kind, waiting at most `timeout` for it; nothing if none came.
    fn any<'py>(
        &mut self,
        py: Python<'py>,
        timeout: Duration,
    ) -> PyResult<Result<Option<Bound<'py, PyAny>>, RecvError>> {
        loop {
            match self.now(|slot| to_bytes(py, slot))? {
                Ok(Some(bytes)) => return Ok(Ok(Some(bytes.into_any()))),
                Ok(None) | Err(RecvError::Frozen { .. }) => {}
                Err(error) => return Ok(Err(error)),
            }
            let consumer = &mut self.consumer;
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

    /// Hands over the messages that are there, at most `limit`, waiting for the first one.
    fn many<T>(
        &mut self,
        py: Python<'_>,
        limit: usize,
        timeout: Duration,
        mut take: impl FnMut(&ReadSlot<'_>) -> PyResult<T>,
    ) -> PyResult<Vec<T>> {
        let first = self.next(py, timeout, &mut take)?;
        let mut taken = vec![first.map_err(|error| error::recv(py, error))?];
        while taken.len() < limit {
            match self.now(&mut take) {
                Ok(Ok(Some(more))) => taken.push(more),
                // What it cannot take now is the first one of the next call.
                Ok(Ok(None)) | Err(_) => break,
                Ok(Err(error)) => {
                    self.deferred = Some(error);
                    break;
                }
            }
        }
        Ok(taken)
    }
}

fn to_bytes<'py>(py: Python<'py>, slot: &ReadSlot<'_>) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, slot.len(), |bytes| {
        slot.copy_to(bytes);
        Ok(())
    })
}

pub(crate) fn limited(limit: usize) -> PyResult<usize> {
    if limit > 0 { Ok(limit) } else { Err(PyValueError::new_err("a limit is 1 or more")) }
}

impl Consumer {
    pub(crate) fn new(consumer: laneway_shm::Consumer) -> Self {
        Self { end: Held::new(Inlet { consumer, deferred: None }) }
    }

    fn look<T>(
        &self,
        py: Python<'_>,
        look: impl FnOnce(&mut laneway_shm::Consumer) -> T,
    ) -> PyResult<T> {
        Ok(look(&mut open(py, &mut self.end.lock(py)?)?.consumer))
    }
}

#[pymethods]
impl Consumer {
    /// The next message, waiting for it at most `timeout` seconds.
    #[pyo3(signature = (timeout=None))]
    fn recv<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyBytes>> {
        let timeout = self::timeout(timeout)?;
        let mut end = self.end.lock(py)?;
        let message = open(py, &mut end)?.next(py, timeout, |slot| to_bytes(py, slot))?;
        message.map_err(|error| error::recv(py, error))
    }

    /// The next message, if there is one now.
    fn poll<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let mut end = self.end.lock(py)?;
        let message = open(py, &mut end)?.now(|slot| to_bytes(py, slot))?;
        message.map_err(|error| error::recv(py, error))
    }

    /// The next message as `bytes`, or the next frozen payload.
    #[pyo3(signature = (timeout=None))]
    fn recv_any<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let timeout = self::timeout(timeout)?;
        let mut end = self.end.lock(py)?;
        let inlet = open(py, &mut end)?;
        let found = inlet.any(py, timeout)?;
        let state = inlet.consumer.peer();
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
            None | Some(RecvError::Frozen { .. }) => inlet.consumer.skip_frozen(),
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
        open(py, &mut end)?.many(py, limit, timeout, |slot| to_bytes(py, slot))
    }

    /// Copies the next message into a buffer that can be written; returns its length.
    #[pyo3(signature = (buffer, timeout=None))]
    fn recv_into(&self, buffer: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<usize> {
        let (py, timeout) = (buffer.py(), self::timeout(timeout)?);
        let view = PyMemoryView::from(buffer)?.call_method1("cast", ("B",))?;
        if view.getattr("readonly")?.extract()? {
            return Err(PyTypeError::new_err("the buffer cannot be written"));
        }
        let capacity: usize = view.getattr("nbytes")?.extract()?;
        let mut end = self.end.lock(py)?;
        let received = open(py, &mut end)?.next(py, timeout, |slot| {
            if slot.len() > capacity {
                return Err(error::too_small(py, slot.len(), capacity));
            }
            let bytes = to_bytes(py, slot)?;
            let len = isize::try_from(slot.len())?;
            view.set_item(PySlice::new(py, 0, len, 1), bytes)?;
            Ok(slot.len())
        })?;
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
        let numpy = py.import("numpy").map_err(|missing| {
            let error = PyImportError::new_err("recv_array needs numpy: pip install numpy");
            error.set_cause(py, Some(missing));
            error
        })?;
        let dtype = numpy.getattr("dtype")?.call1((dtype,))?;
        let item_bytes: usize = dtype.getattr("itemsize")?.extract()?;
        if item_bytes == 0 || dtype.getattr("hasobject")?.extract()? {
            return Err(PyValueError::new_err("a dtype of numbers with a size is needed"));
        }
        let mut bytes = Vec::new();
        let mut end = self.end.lock(py)?;
        open(py, &mut end)?.many(py, limit, timeout, |slot| {
            if slot.len() % item_bytes != 0 {
                let len = slot.len();
                let text = format!("the next message has {len} bytes, items have {item_bytes}");
                return Err(PyValueError::new_err(text));
            }
            let start = bytes.len();
            bytes.resize(start + slot.len(), 0);
            slot.copy_to(&mut bytes[start..]);
            Ok(())
        })?;
        numpy.call_method1("frombuffer", (PyByteArray::new(py, &bytes), dtype))
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
        match open(py, &mut end)?.next(py, Duration::MAX, |slot| to_bytes(py, slot))? {
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
