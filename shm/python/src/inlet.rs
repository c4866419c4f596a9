//! How messages come out of an end: as `bytes`, into a buffer, or as items of a numpy array. The
//! same for every kind of end.

use std::time::Duration;

use laneway_shm::{Consumer, Message, PeerState, ReadSlot, RecvError, Subscriber};
use pyo3::exceptions::{PyImportError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PySlice};

use crate::error;
use crate::wait::in_slices;

/// A message that the end still has.
pub(crate) trait Received {
    /// Its length, in bytes.
    fn len(&self) -> usize;
    /// Copies it to a place of its length.
    fn copy_to(&self, place: &mut [u8]);
}

impl Received for ReadSlot<'_> {
    fn len(&self) -> usize {
        ReadSlot::len(self)
    }

    fn copy_to(&self, place: &mut [u8]) {
        ReadSlot::copy_to(self, place);
    }
}

impl Received for Message<'_> {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn copy_to(&self, place: &mut [u8]) {
        place.copy_from_slice(self.bytes);
    }
}

/// Where messages come from.
pub(crate) trait Source: Send {
    /// What `take` makes of the next message, if there is one now. One that it cannot use stays.
    fn take<T>(
        &mut self,
        take: impl FnOnce(&dyn Received) -> PyResult<T>,
    ) -> Result<Option<PyResult<T>>, RecvError>;

    /// Waits for a message and leaves it where it is.
    fn wait(&mut self, timeout: Duration) -> Result<(), RecvError>;

    /// What is known of the producer.
    fn state(&self) -> PeerState;
}

impl Source for Consumer {
    fn take<T>(
        &mut self,
        take: impl FnOnce(&dyn Received) -> PyResult<T>,
    ) -> Result<Option<PyResult<T>>, RecvError> {
        let Some(slot) = self.poll()? else { return Ok(None) };
        let taken = take(&slot);
        if taken.is_err() {
            slot.keep();
        }
        Ok(Some(taken))
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), RecvError> {
        self.recv(timeout).map(ReadSlot::keep)
    }

    fn state(&self) -> PeerState {
        self.peer()
    }
}

impl Source for Subscriber {
    fn take<T>(
        &mut self,
        take: impl FnOnce(&dyn Received) -> PyResult<T>,
    ) -> Result<Option<PyResult<T>>, RecvError> {
        let Some(message) = self.poll()? else { return Ok(None) };
        let taken = take(&message);
        if taken.is_err() {
            self.keep();
        }
        Ok(Some(taken))
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), RecvError> {
        self.recv(timeout)?;
        self.keep();
        Ok(())
    }

    fn state(&self) -> PeerState {
        self.peer()
    }
}

/// A receiving end, and what it found and has not told.
pub(crate) struct Inlet<S> {
    pub(crate) source: S,
    /// What was wrong behind messages that were handed over: told by the next call.
    pub(crate) deferred: Option<RecvError>,
}

impl<S: Source> Inlet<S> {
    pub(crate) fn new(source: S) -> Self {
        Self { source, deferred: None }
    }

    /// Hands the next message to `take`, if there is one now. A message that `take` cannot use
    /// stays.
    pub(crate) fn now<T>(
        &mut self,
        take: impl FnOnce(&dyn Received) -> PyResult<T>,
    ) -> PyResult<Result<Option<T>, RecvError>> {
        match self.deferred.take().map_or_else(|| self.source.take(take), Err) {
            Ok(found) => found.transpose().map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    /// As [`Inlet::now`], waiting at most `timeout` for the message.
    pub(crate) fn next<T>(
        &mut self,
        py: Python<'_>,
        timeout: Duration,
        mut take: impl FnMut(&dyn Received) -> PyResult<T>,
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

    fn wait(&mut self, py: Python<'_>, timeout: Duration) -> PyResult<Result<(), RecvError>> {
        let source = &mut self.source;
        let waited = in_slices(py, timeout, |slice| match source.wait(slice) {
            Ok(()) => Ok(Some(())),
            Err(RecvError::TimedOut { .. }) => Ok(None),
            Err(error) => Err(error),
        })?;
        let state = self.source.state();
        Ok(waited.unwrap_or(Err(RecvError::TimedOut { waited: timeout, state })))
    }

    /// Hands over the messages that are there, at most `limit`, waiting for the first one.
    pub(crate) fn many<T>(
        &mut self,
        py: Python<'_>,
        limit: usize,
        timeout: Duration,
        mut take: impl FnMut(&dyn Received) -> PyResult<T>,
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

/// How many messages a call may take.
pub(crate) fn limited(limit: usize) -> PyResult<usize> {
    if limit > 0 { Ok(limit) } else { Err(PyValueError::new_err("a limit is 1 or more")) }
}

pub(crate) fn to_bytes<'py>(
    py: Python<'py>,
    message: &dyn Received,
) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, message.len(), |bytes| {
        message.copy_to(bytes);
        Ok(())
    })
}

/// A buffer of the caller's that can be written.
pub(crate) struct Room<'py> {
    view: Bound<'py, PyAny>,
    capacity: usize,
}

impl<'py> Room<'py> {
    pub(crate) fn new(buffer: &Bound<'py, PyAny>) -> PyResult<Self> {
        let view = PyMemoryView::from(buffer)?.call_method1("cast", ("B",))?;
        if view.getattr("readonly")?.extract()? {
            return Err(PyTypeError::new_err("the buffer cannot be written"));
        }
        let capacity = view.getattr("nbytes")?.extract()?;
        Ok(Self { view, capacity })
    }

    /// Copies a message to the start; returns its length.
    pub(crate) fn fill(&self, message: &dyn Received) -> PyResult<usize> {
        let (py, len) = (self.view.py(), message.len());
        if len > self.capacity {
            return Err(error::too_small(py, len, self.capacity));
        }
        let bytes = to_bytes(py, message)?;
        self.view.set_item(PySlice::new(py, 0, isize::try_from(len)?, 1), bytes)?;
        Ok(len)
    }
}

/// Items of one dtype, one message behind the other.
pub(crate) struct Items<'py> {
    numpy: Bound<'py, PyModule>,
    dtype: Bound<'py, PyAny>,
    item_bytes: usize,
    bytes: Vec<u8>,
}

impl<'py> Items<'py> {
    pub(crate) fn new(dtype: &Bound<'py, PyAny>) -> PyResult<Self> {
        let py = dtype.py();
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
        Ok(Self { numpy, dtype, item_bytes, bytes: Vec::new() })
    }

    /// Adds the items of one message.
    pub(crate) fn push(&mut self, message: &dyn Received) -> PyResult<()> {
        let (len, item_bytes) = (message.len(), self.item_bytes);
        if len % item_bytes != 0 {
            let text = format!("the next message has {len} bytes, items have {item_bytes}");
            return Err(PyValueError::new_err(text));
        }
        let start = self.bytes.len();
        self.bytes.resize(start + len, 0);
        message.copy_to(&mut self.bytes[start..]);
        Ok(())
    }

    pub(crate) fn array(self) -> PyResult<Bound<'py, PyAny>> {
        let bytes = PyByteArray::new(self.numpy.py(), &self.bytes);
        self.numpy.call_method1("frombuffer", (bytes, self.dtype))
    }
}
