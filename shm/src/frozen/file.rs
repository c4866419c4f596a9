//! A file that was proven to be a frozen payload. The proof is the type's only way in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::fstatfs;

use super::{FROZEN_BYTES_MAX, FrozenError, FrozenFault, FrozenSegment, PAGES, file_size};
use crate::error::SegmentError;
use crate::memfd;
use crate::region::Region;

/// A sealed file: nobody can change, shrink, grow or punch it any more, and no page is missing.
///
/// Cloning it shares the descriptor. The memory is free when the last clone, and the last mapping
/// of every process, is gone.
#[derive(Clone, Debug)]
pub struct FrozenFile {
    proven: Arc<Proven>,
}

/// What was proven. The fields are set by [`FrozenFile::accept`] alone.
#[derive(Debug)]
struct Proven {
    fd: OwnedFd,
    payload: usize,
    size: usize,
    page_bytes: u64,
}

impl FrozenFile {
    /// Proves that `fd` is a frozen payload of `len` bytes. Five system calls, no mapping and no
    /// trust in the sender.
    ///
    /// # Errors
    /// `Fault` says which promise the file breaks; `Segment` names a call that failed here.
    pub fn accept(fd: OwnedFd, len: u64) -> Result<Self, FrozenError> {
        let payload = usize::try_from(len).unwrap_or(usize::MAX);
        if !(1..=FROZEN_BYTES_MAX).contains(&payload) {
            let highest = FROZEN_BYTES_MAX as u64;
            return Err(FrozenFault::Length { found: len, highest }.into());
        }
        readable_file(&fd)?;
        sealed(&fd)?;
        let page_bytes = page_bytes(&fd)?;
        let expected = file_size(len, page_bytes);
        // After the seals: from there on neither size nor blocks become less.
        let stat = fstat(&fd).map_err(SegmentError::os("fstat"))?;
        let found = u64::try_from(stat.st_size).unwrap_or(0);
        if found != expected {
            return Err(FrozenFault::Size { found, expected }.into());
        }
        let present = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        if present < expected {
            return Err(FrozenFault::Holes { present, expected }.into());
        }
        let size = memfd::mapping_len(expected)?;
        Ok(Self { proven: Arc::new(Proven { fd, payload, size, page_bytes }) })
    }

    /// Length of the payload, in bytes.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.proven.payload
    }

    /// Size of the file, in bytes: whole pages.
    pub(crate) fn size_bytes(&self) -> usize {
        self.proven.size
    }

    /// Size of the pages that the payload lies on, in bytes.
    #[must_use]
    pub fn page_bytes(&self) -> u64 {
        self.proven.page_bytes
    }

    /// Maps the payload for reading and touches every page.
    ///
    /// # Errors
    /// The kernel's refusal to map, or to find a page: an access could have trapped there.
    pub fn map(&self) -> Result<FrozenSegment, FrozenError> {
        Ok(FrozenSegment::new(Region::map_frozen(self)?, self.clone()))
    }
}

impl AsFd for FrozenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.proven.fd.as_fd()
    }
}

fn readable_file(fd: &OwnedFd) -> Result<(), FrozenError> {
    let stat = fstat(fd).map_err(SegmentError::os("fstat"))?;
    let found = stat.st_mode & SFlag::S_IFMT.bits();
    if found != SFlag::S_IFREG.bits() {
        return Err(FrozenFault::Type { found }.into());
    }
    let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(SegmentError::os("F_GETFL"))?;
    let write_only = flags & OFlag::O_ACCMODE.bits() == OFlag::O_WRONLY.bits();
    if write_only || flags & OFlag::O_PATH.bits() != 0 {
        return Err(FrozenFault::Unreadable { flags }.into());
    }
    Ok(())
}

/// `F_SEAL_WRITE` is what no sender can fake: the kernel adds it only while nobody can write, and
/// from then on nobody can. `F_SEAL_FUTURE_WRITE` would leave the sender its own mapping.
fn sealed(fd: &OwnedFd) -> Result<(), FrozenError> {
    let required = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SEAL;
    let required = required.bits();
    match fcntl(fd, FcntlArg::F_GET_SEALS) {
        Ok(found) if found & required == required => Ok(()),
        Ok(found) => Err(FrozenFault::Seals { found, required }.into()),
        Err(nix::Error::EINVAL) => Err(FrozenFault::NoSeals.into()),
        Err(errno) => Err(SegmentError::os("F_GET_SEALS")(errno).into()),
    }
}

/// The file system's word: a file of base pages may say anything in its block size.
fn page_bytes(fd: &OwnedFd) -> Result<u64, FrozenError> {
    let found = fstatfs(fd).map_err(SegmentError::os("fstatfs"))?.block_size();
    let found = u64::try_from(found).unwrap_or(0);
    if PAGES.contains(&found) { Ok(found) } else { Err(FrozenFault::PageSize { found }.into()) }
}
