//! Frozen segments: a large payload that is a file of its own, sealed so that nobody can change
//! it any more, the sender included.
//!
//! The sender fills a [`FrozenBuilder`] and freezes it: the mapping is taken away and the kernel
//! adds `F_SEAL_WRITE`, which it refuses while anybody could still write. What is left is a
//! [`FrozenFile`], whose descriptor is the message. A receiver proves the file before it maps it,
//! and then has plain bytes, a [`FrozenSegment`], whoever sent them.
//!
//! Each payload is new memory from the kernel: on hugepages it is faster than copies through the
//! ring from 4 MiB on, on base pages never (`docs/measurements.md`).
//!
//! A lane carries them in order with its messages (`flight`, `arrivals`): the ring carries a slot
//! of a kind of its own, the lifeline the descriptor.

use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};

use crate::error::SegmentError;
use crate::memfd;
use crate::region::{Frozen, Owned, Region};

mod arrivals;
mod error;
mod file;
mod flight;
mod parcel;

pub(crate) use arrivals::Arrivals;
#[cfg(feature = "tokio")]
pub(crate) use arrivals::Look;
pub use arrivals::{FrozenSlot, Incoming};
pub use error::{FrozenError, FrozenFault};
pub use file::FrozenFile;
#[cfg(feature = "tokio")]
pub(crate) use flight::Attempt;
pub(crate) use flight::Flight;
pub use flight::{FROZEN_IN_FLIGHT_MAX, FrozenSendError};

/// Largest payload, in bytes. A receiver maps no more than this for one message.
pub const FROZEN_BYTES_MAX: usize = 1 << 30;

/// Base pages and hugepages, in bytes: what a frozen payload may lie on.
pub(crate) const PAGES: [u64; 2] = [4096, 2 << 20];
/// From this many bytes on a payload lies on hugepages where there are any: at most half of the
/// last page is wasted then.
const HUGE_FROM: usize = 1 << 20;

/// A payload that is being written: memory of this process alone.
///
/// ```
/// use laneway_shm::FrozenBuilder;
///
/// let mut builder = FrozenBuilder::new(3 << 20)?;
/// builder.bytes_mut().fill(7);
/// let file = builder.freeze()?;
/// assert!(file.map()?.iter().all(|&byte| byte == 7));
/// # Ok::<(), laneway_shm::FrozenError>(())
/// ```
#[derive(Debug)]
pub struct FrozenBuilder {
    region: Region<Owned>,
    fd: OwnedFd,
    len: usize,
    page_bytes: u64,
    step_down: Option<SegmentError>,
}

impl FrozenBuilder {
    /// Zeroed memory for a payload of `len` bytes, from 1 MiB on in 2 MiB pages if there are any.
    ///
    /// [`FrozenBuilder::page_bytes`] says what it lies on, and [`FrozenBuilder::step_down`] why
    /// not on hugepages. All of it is there when this returns: a shortage is an error here.
    ///
    /// # Errors
    /// `Length` for an empty payload or one above [`FROZEN_BYTES_MAX`]; otherwise the kernel's
    /// refusal.
    pub fn new(len: usize) -> Result<Self, FrozenError> {
        let [base, huge] = PAGES;
        if len < HUGE_FROM {
            return Self::on_pages(len, base);
        }
        match Self::on_pages(len, huge) {
            Err(FrozenError::Segment(why)) => {
                let builder = Self::on_pages(len, base)?;
                Ok(Self { step_down: Some(why), ..builder })
            }
            made => made,
        }
    }

    /// As [`FrozenBuilder::new`], on pages of `page_bytes` (4096 or 2 MiB) or not at all.
    ///
    /// # Errors
    /// As [`FrozenBuilder::new`]; `Segment` with `PageSize` for any other page size, and with
    /// `NoMemory` for a pool that is too small.
    pub fn on_pages(len: usize, page_bytes: u64) -> Result<Self, FrozenError> {
        if !(1..=FROZEN_BYTES_MAX).contains(&len) {
            return Err(FrozenError::Length { asked: len, highest: FROZEN_BYTES_MAX });
        }
        if !PAGES.contains(&page_bytes) {
            return Err(SegmentError::PageSize { bytes: page_bytes }.into());
        }
        let size = file_size(len as u64, page_bytes);
        let fd = memfd::allocated_file(size, page_bytes)?;
        let region = Region::map_owned(&fd, memfd::mapping_len(size)?)?;
        // From here on the mapping above is the only one that can ever write, and its pages stay.
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_FUTURE_WRITE;
        add_seals(&fd, seals).map_err(SegmentError::os("fcntl(F_ADD_SEALS)"))?;
        Ok(Self { region, fd, len, page_bytes, step_down: None })
    }

    /// The payload, for writing.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.region.written_mut(0, self.len)
    }

    /// Size of the pages that the payload lies on, in bytes.
    #[must_use]
    pub fn page_bytes(&self) -> u64 {
        self.page_bytes
    }

    /// Why the payload does not lie on hugepages although it is large enough for them.
    #[must_use]
    pub fn step_down(&self) -> Option<&SegmentError> {
        self.step_down.as_ref()
    }

    /// Takes the memory away from this process and seals it: nobody can write it any more.
    ///
    /// # Errors
    /// `StillWritable` if the kernel found something that could still write, such as an
    /// asynchronous read into the payload that has not ended; the payload is lost then.
    pub fn freeze(self) -> Result<FrozenFile, FrozenError> {
        let Self { region, fd, len, .. } = self;
        drop(region);
        match add_seals(&fd, SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL) {
            Ok(()) => {}
            Err(nix::Error::EBUSY) => return Err(FrozenError::StillWritable { bytes: len }),
            Err(errno) => return Err(SegmentError::os("fcntl(F_ADD_SEALS)")(errno).into()),
        }
        // Kernels before 6.7 refuse any shared mapping of a sealed file that is open for writing.
        FrozenFile::accept(memfd::read_only(&fd)?, len as u64)
    }
}

/// Size of the file of a payload of `len` bytes on pages of `page_bytes`.
pub(crate) fn file_size(len: u64, page_bytes: u64) -> u64 {
    len.next_multiple_of(page_bytes)
}

fn add_seals(fd: &OwnedFd, seals: SealFlag) -> nix::Result<()> {
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals)).map(drop)
}

/// A frozen payload as bytes: a plain `&[u8]`, also from a hostile sender.
///
/// Costs one mapping and one descriptor until it is dropped. May be sent to and shared by threads,
/// outlives the lane and the sender, and can be passed on by [`FrozenSegment::file`] without a
/// copy. A clone shares the mapping.
#[derive(Clone, Debug)]
pub struct FrozenSegment {
    region: Arc<Region<Frozen>>,
    file: FrozenFile,
}

impl FrozenSegment {
    pub(crate) fn new(region: Region<Frozen>, file: FrozenFile) -> Self {
        Self { region: Arc::new(region), file }
    }

    /// The payload.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.region.as_bytes(self.file.payload_bytes())
    }

    /// The file that the payload is.
    #[must_use]
    pub fn file(&self) -> &FrozenFile {
        &self.file
    }
}

impl Deref for FrozenSegment {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl AsRef<[u8]> for FrozenSegment {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(len: usize) -> FrozenFile {
        let mut builder = FrozenBuilder::on_pages(len, 4096).unwrap();
        for (index, byte) in builder.bytes_mut().iter_mut().enumerate() {
            *byte = index.to_le_bytes()[0];
        }
        builder.freeze().unwrap()
    }

    #[test]
    fn a_payload_of_any_length_is_what_was_written_and_no_byte_more() {
        for len in [1, 4095, 4096, 4097, 300_000] {
            let file = payload(len);
            assert_eq!((file.payload_bytes(), file.page_bytes()), (len, 4096));
            let segment = file.map().unwrap();
            assert_eq!(segment.len(), len);
            let mut bytes = segment.iter().enumerate();
            assert!(bytes.all(|(index, byte)| *byte == index.to_le_bytes()[0]), "{len}");
        }
    }

    #[test]
    fn a_payload_outlives_its_file_and_is_shared_by_threads() {
        let segment = payload(10_000).map().unwrap();
        let copy = segment.file().clone().map().unwrap();
        let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>();
        let (here, there) = std::thread::scope(|scope| {
            let there = scope.spawn(|| sum(&segment));
            (sum(&segment), there.join().unwrap())
        });
        drop(segment);
        assert_eq!((here, there), (sum(&copy), sum(&copy)));
    }

    #[test]
    fn a_length_that_cannot_be_is_refused_by_its_number() {
        for len in [0, FROZEN_BYTES_MAX + 1, usize::MAX] {
            let error = FrozenBuilder::new(len).err();
            let named = matches!(error, Some(FrozenError::Length { asked, .. }) if asked == len);
            assert!(named, "{error:?}");
        }
        let error = FrozenBuilder::on_pages(1, 1 << 30).err();
        let page = matches!(
            error,
            Some(FrozenError::Segment(SegmentError::PageSize { bytes: 0x4000_0000 }))
        );
        assert!(page, "{error:?}");
    }

    #[test]
    fn memory_that_somebody_can_still_write_does_not_freeze() {
        let builder = FrozenBuilder::on_pages(4096, 4096).unwrap();
        // A second mapping from before the seals, as a kernel's pin would be.
        let fd = memfd::allocated_file(4096, 4096).unwrap();
        let other = Region::map_bare(&fd, 4096).unwrap();
        let error = FrozenBuilder { fd, ..builder }.freeze().err();
        assert!(matches!(error, Some(FrozenError::StillWritable { bytes: 4096 })), "{error:?}");
        drop(other);
    }
}
