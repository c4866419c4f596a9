//! The producer's end.

use std::time::Duration;

use laneway_shm::ReserveError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

use crate::grant::{self, Grant};
use crate::wait::{Held, in_slices, open, timeout};
use crate::{error, frozen};

/// Messages that are taken from an iterable before they are sent.
const CHUNK: usize = 1024;

/// The producer's end of a lane. One thread at a time uses it.
#[pyclass(frozen, module = "laneway")]
pub(crate) struct Producer {
    end: Held<laneway_shm::Producer>,
}

impl Producer {
    pub(crate) fn new(end: laneway_shm::Producer) -> Self {
        Self { end: Held::new(end) }
    }

    fn look<T>(
        &self,
        py: Python<'_>,
        look: impl FnOnce(&mut laneway_shm::Producer) -> T,
    ) -> PyResult<T> {
        Ok(look(open(py, &mut self.end.lock(py)?)?))
    }
}

/// The bytes of anything bytes-like; copied, unless it is `bytes`, which nobody can change.
fn bytes_of<'py>(message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    match message.cast::<PyBytes>() {
        Ok(bytes) => Ok(bytes.clone()),
        Err(_) => Ok(PyMemoryView::from(message)?.call_method0("tobytes")?.cast_into()?),
    }
}

/// Waits for room, and leaves it where it is: the next reservation finds it.
fn wait_for_room(
    py: Python<'_>,
    producer: &mut laneway_shm::Producer,
    len: usize,
    timeout: Duration,
) -> PyResult<()> {
    let mut held = None;
    let waited = in_slices(py, timeout, |slice| match producer.reserve(len, slice) {
        Ok(_) => Ok(Some(())),
        Err(error) if error.is_timeout() => {
            held = Some(error);
            Ok(None)
        }
        Err(error) => Err(error),
    })?;
    let error = match held {
        // The last slice is not what the caller waited.
        Some(ReserveError::Held { reader, lag_slots, held, .. }) => {
            ReserveError::Held { waited: timeout, reader, lag_slots, held }
        }
        _ => ReserveError::TimedOut { waited: timeout, state: producer.peer() },
    };
    waited.unwrap_or(Err(error)).map_err(|error| error::reserve(py, error))
}

fn send(
    py: Python<'_>,
    producer: &mut laneway_shm::Producer,
    message: &[u8],
    timeout: Duration,
) -> PyResult<()> {
    loop {
        match producer.try_reserve(message.len()) {
            Ok(mut slot) => {
                slot.write(0, message);
                slot.commit();
                return Ok(());
            }
            Err(ReserveError::Full { .. }) if !timeout.is_zero() => {}
            Err(error) => return Err(error::reserve(py, error)),
        }
        wait_for_room(py, producer, message.len(), timeout)?;
    }
}

/// Sends a chunk; tells how many were sent, also where not all were.
fn send_chunk(
    py: Python<'_>,
    producer: &mut laneway_shm::Producer,
    chunk: &[&[u8]],
    timeout: Duration,
) -> (usize, PyResult<()>) {
    let mut sent = 0;
    loop {
        let now = py.detach(|| {
            let mut taken = 0;
            let messages = chunk[sent..].iter().inspect(|_| taken += 1);
            let failed = producer.send_many(messages, Duration::ZERO).err();
            (taken - usize::from(failed.is_some()), failed)
        });
        sent += now.0;
        match now.1 {
            None => return (sent, Ok(())),
            Some(error) if error.is_timeout() => {}
            Some(error) => return (sent, Err(error::reserve(py, error))),
        }
        // One by the way that waits; it also says `Full` where nobody is to wait.
        if let Err(error) = send(py, producer, chunk[sent], timeout) {
            return (sent, Err(error));
        }
        sent += 1;
    }
}

#[pymethods]
impl Producer {
    /// Sends one bytes-like object, waiting for room at most `timeout` seconds.
    #[pyo3(signature = (message, timeout=None))]
    #[pyo3(name = "send")]
    fn send_one(&self, message: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<()> {
        let py = message.py();
        let (bytes, timeout) = (bytes_of(message)?, self::timeout(timeout)?);
        send(py, open(py, &mut self.end.lock(py)?)?, bytes.as_bytes(), timeout)
    }

    /// Sends in order; returns how many. An error has the number as its attribute `sent`.
    #[pyo3(signature = (messages, timeout=None))]
    fn send_many(&self, messages: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<usize> {
        let (py, timeout) = (messages.py(), self::timeout(timeout)?);
        let mut messages = messages.try_iter()?;
        let mut sent = 0;
        let failed = |error, sent| error::sent_before(py, error, sent);
        loop {
            let (mut chunk, mut wrong) = (Vec::with_capacity(CHUNK), None);
            // Python code may run here: the end is not held.
            for message in messages.by_ref().take(CHUNK) {
                match message.and_then(|message| bytes_of(&message)) {
                    Ok(bytes) => chunk.push(bytes),
                    Err(error) => {
                        wrong = Some(error);
                        break;
                    }
                }
            }
            let ended = chunk.len() < CHUNK;
            let slices: Vec<&[u8]> = chunk.iter().map(|bytes| bytes.as_bytes()).collect();
            let mut end = self.end.lock(py)?;
            let (now, answer) = send_chunk(py, open(py, &mut end)?, &slices, timeout);
            drop(end);
            sent += now;
            answer.map_err(|error| failed(error, sent))?;
            match wrong {
                Some(error) => return Err(failed(error, sent)),
                None if ended => return Ok(sent),
                None => py.check_signals()?,
            }
        }
    }

    /// Sends a `Frozen`, or a copy of anything bytes-like, as a file of its own.
    #[pyo3(signature = (payload, timeout=None))]
    fn send_frozen(&self, payload: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<()> {
        let (py, timeout) = (payload.py(), self::timeout(timeout)?);
        let file = frozen::file_of(payload)?;
        let mut end = self.end.lock(py)?;
        let producer = open(py, &mut end)?;
        let mut late = None;
        let sent = in_slices(py, timeout, |slice| match producer.send_frozen(&file, slice) {
            Ok(()) => Ok(Some(())),
            Err(error) if error.is_timeout() => {
                late = Some(error);
                Ok(None)
            }
            Err(error) => Err(error),
        })?;
        let silent = || ReserveError::TimedOut { waited: timeout, state: producer.peer() }.into();
        let sent = sent.unwrap_or_else(|| Err(late.unwrap_or_else(silent)));
        sent.map_err(|error| error::send_frozen(py, error, timeout))
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

    /// "unknown", "near" or "far".
    #[getter]
    fn distance(&self, py: Python<'_>) -> PyResult<&'static str> {
        self.look(py, |end| grant::distance(end.distance()))
    }

    /// Position after the last visible message, in slots since the lane was made.
    #[getter]
    fn position(&self, py: Python<'_>) -> PyResult<u64> {
        self.look(py, |end| end.position())
    }

    /// Visible slots that the consumer has not released, as last seen.
    #[getter]
    fn lag(&self, py: Python<'_>) -> PyResult<u64> {
        self.look(py, |end| end.lag())
    }

    /// Looks at the agent's events; for a producer that sends rarely.
    fn maintain(&self, py: Python<'_>) -> PyResult<()> {
        self.look(py, laneway_shm::Producer::maintain)?.map_err(|error| error::reserve(py, error))
    }

    /// Ends the stream. If that fails, the end stays open. Takes up to a second more where an agent
    /// is away or a frozen payload waits for news of its consumer.
    #[pyo3(signature = (timeout=None))]
    fn close(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let timeout = self::timeout(timeout)?;
        let mut end = self.end.lock(py)?;
        wait_for_room(py, open(py, &mut end)?, 0, timeout)?;
        // The end of the stream has its slot.
        let closed = end.take().map(|producer| py.detach(|| producer.close(Duration::ZERO)));
        closed.unwrap_or(Ok(())).map_err(|error| error::reserve(py, error))
    }

    /// Leaves the stream open for a successor.
    fn detach(&self, py: Python<'_>) -> PyResult<()> {
        self.end.lock(py)?.take();
        Ok(())
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
        let _ = (value, traceback);
        let open = self.end.lock(py)?.is_some();
        match kind {
            // Half a stream is not ended: a successor may go on.
            Some(_) => self.detach(py)?,
            None if open => self.close(py, None)?,
            None => {}
        }
        Ok(false)
    }
}
