//! Frozen payloads: copied from a buffer once, received without a copy.
//!
//! What a program looks at is a mapping of Python's own `mmap`, read-only, of a file that the
//! library has proven to be sealed: nobody can change it, and it outlives whoever made it.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, PoisonError};

use laneway_shm::{FrozenBuilder, FrozenFile};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyMemoryView, PySlice};

use crate::error;

/// Bytes of a buffer that are taken out at once.
const CHUNK: usize = 256 << 10;

/// A payload that nobody can change any more, the sender included.
#[pyclass(frozen, module = "laneway")]
pub(crate) struct Frozen {
    /// Nothing of Python's runs while it is locked.
    payload: Mutex<Option<Payload>>,
}

struct Payload {
    file: FrozenFile,
    /// Its mapping, once somebody looked.
    map: Option<Py<PyAny>>,
}

impl Frozen {
    pub(crate) fn received(file: FrozenFile) -> Self {
        Self { payload: Mutex::new(Some(Payload { file, map: None })) }
    }

    /// Looks at the payload, if it was not released.
    fn with<T>(&self, py: Python<'_>, look: impl FnOnce(&mut Payload) -> T) -> PyResult<T> {
        let mut payload = self.payload.lock().unwrap_or_else(PoisonError::into_inner);
        let payload = payload.as_mut().map(look);
        payload.ok_or_else(|| error::other(py, "this payload was released"))
    }

    pub(crate) fn file(&self, py: Python<'_>) -> PyResult<FrozenFile> {
        self.with(py, |payload| payload.file.clone())
    }
}

/// The file of a payload: of a `Frozen`, or of anything bytes-like, which is copied.
pub(crate) fn file_of(payload: &Bound<'_, PyAny>) -> PyResult<FrozenFile> {
    match payload.cast::<Frozen>() {
        Ok(frozen) => frozen.get().file(payload.py()),
        Err(_) => freeze(payload),
    }
}

fn freeze(payload: &Bound<'_, PyAny>) -> PyResult<FrozenFile> {
    let py = payload.py();
    let view = PyMemoryView::from(payload)?;
    let len: usize = view.getattr("nbytes")?.extract()?;
    let failed = |error| error::frozen(py, error);
    let mut builder = py.detach(|| FrozenBuilder::new(len)).map_err(failed)?;
    let target = builder.bytes_mut();
    match payload.cast::<PyBytes>() {
        Ok(bytes) => {
            let bytes = bytes.as_bytes();
            py.detach(|| target.copy_from_slice(bytes));
        }
        Err(_) if view.getattr("c_contiguous")?.extract()? => {
            let flat = view.call_method1("cast", ("B",))?;
            for (index, target) in target.chunks_mut(CHUNK).enumerate() {
                let start = isize::try_from(index * CHUNK)?;
                let end = start + isize::try_from(target.len())?;
                let part = flat.get_item(PySlice::new(py, start, end, 1))?;
                copy(&part.call_method0("tobytes")?, target)?;
                py.check_signals()?;
            }
        }
        Err(_) => copy(&view.call_method0("tobytes")?, target)?,
    }
    py.detach(|| builder.freeze()).map_err(failed)
}

fn copy(bytes: &Bound<'_, PyAny>, target: &mut [u8]) -> PyResult<()> {
    target.copy_from_slice(bytes.cast::<PyBytes>()?.as_bytes());
    Ok(())
}

/// Maps a payload with Python's own module: its objects keep the mapping as long as any view does.
fn map<'py>(py: Python<'py>, file: &FrozenFile) -> PyResult<Bound<'py, PyAny>> {
    let module = py.import("mmap")?;
    // Whole pages: a mapping of hugepages of any other length could not be taken away again.
    let page_bytes = usize::try_from(file.page_bytes())?;
    let size = file.payload_bytes().next_multiple_of(page_bytes);
    let how = PyDict::new(py);
    how.set_item("access", module.getattr("ACCESS_READ")?)?;
    let args = (file.as_fd().as_raw_fd(), size);
    let map = module.getattr("mmap")?.call(args, Some(&how))?;
    // A payload has no business in a core dump.
    map.call_method1("madvise", (module.getattr("MADV_DONTDUMP")?,))?;
    Ok(map)
}

#[pymethods]
impl Frozen {
    /// Copies a bytes-like object of 1 byte to 1 GiB, and seals the copy.
    #[new]
    fn new(payload: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self::received(freeze(payload)?))
    }

    /// The payload's bytes, read-only and not copied; they stay as long as a view does.
    fn view<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (file, known) = self.with(py, |payload| {
            let known = payload.map.as_ref().map(|map| map.clone_ref(py));
            (payload.file.clone(), known)
        })?;
        let map = match known {
            Some(map) => map.into_bound(py),
            None => {
                let made = map(py, &file)?;
                let kept = made.clone().unbind();
                self.with(py, |payload| payload.map.replace(kept))?;
                made
            }
        };
        let end = isize::try_from(file.payload_bytes())?;
        PyMemoryView::from(&map)?.get_item(PySlice::new(py, 0, end, 1))
    }

    /// Size of the pages that the payload lies on, in bytes.
    #[getter]
    fn page_bytes(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |payload| payload.file.page_bytes())
    }

    /// Lets go of the payload. Views that are still there stay what they are.
    fn release(&self) {
        let payload = self.payload.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(payload);
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |payload| payload.file.payload_bytes())
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    #[pyo3(signature = (kind, value, traceback))]
    fn __exit__(
        &self,
        kind: Option<&Bound<'_, PyAny>>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> bool {
        let _ = (kind, value, traceback);
        self.release();
        false
    }
}
