//! Segments as files: made, allocated and sealed by the agent, proven by every client.
//!
//! The order is the safety: create, size, allocate, hand to the one writer, writer maps, seals and
//! says so, allocate again, check seals and that no page is missing, and only then hand to readers.
//! After `FUTURE_WRITE|SHRINK|GROW|SEAL` nobody, root included, can map the segment for writing,
//! shrink it or punch a hole; and with every page present no access of a reader can trap.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::sys::uio::pwrite;
use nix::unistd::ftruncate;

use crate::error::SegmentError;
use crate::layout::{self, HEADER_FIELDS, Header};
use crate::memory::{Memory, OwnedMemory};
use crate::region::{Foreign, Region};

/// Page sizes that a segment can have, in bytes.
pub const PAGE_SIZES: [u64; 3] = [4096, 2 << 20, 1 << 30];

/// Seals that every handed-over segment carries.
#[must_use]
pub fn required_seals() -> SealFlag {
    SealFlag::F_SEAL_FUTURE_WRITE
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SEAL
}

/// Device and inode: what the journal remembers of a segment, and what a re-presented
/// descriptor is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// A segment before its seal: allocated, with a header, and with one writer to come.
#[derive(Debug)]
pub struct Draft {
    fd: OwnedFd,
    header: Header,
    page_bytes: u64,
    bound_node: Option<u32>,
}

impl Draft {
    /// Creates and allocates a segment on pages of `page_bytes`, bound to NUMA node `node`.
    ///
    /// `header.size_bytes` must be a multiple of the page size. A shortage is an error here, at
    /// creation, and never a SIGBUS later. Where the kernel or a seccomp profile forbids
    /// binding, the segment is made all the same and [`Draft::bound_node`] says `None`.
    ///
    /// # Errors
    /// `NoMemory` when the pool is short; `Os` names any other call that failed.
    pub fn create(
        header: Header,
        page_bytes: u64,
        node: Option<u32>,
    ) -> Result<Self, SegmentError> {
        Self::create_with(header, page_bytes, node, &[])
    }

    /// As [`Draft::create`], with words at these offsets, such as a consumer's first position.
    ///
    /// # Errors
    /// As [`Draft::create`].
    ///
    /// # Panics
    /// If an offset is outside of the segment.
    pub fn create_with(
        header: Header,
        page_bytes: u64,
        node: Option<u32>,
        words: &[(usize, u64)],
    ) -> Result<Self, SegmentError> {
        let fd = sized_file(header.size_bytes, page_bytes)?;
        let mut draft = Self { fd, header, page_bytes, bound_node: None };
        if page_bytes == PAGE_SIZES[0] && node.is_none() {
            allocate(&draft.fd, header.size_bytes).map_err(|error| draft.shortage(error))?;
            draft.fill(words)?;
            return Ok(draft);
        }
        let len = mapping_len(header.size_bytes)?;
        // The policy belongs to the mapping, so it is set before the first page is taken.
        let region = Region::map_bare(&draft.fd, len).map_err(|error| draft.shortage(error))?;
        draft.bound_node = node.filter(|&node| region.bind_to_node(node).is_ok());
        allocate(&draft.fd, header.size_bytes).map_err(|error| draft.shortage(error))?;
        for (index, word) in header.words().into_iter().enumerate() {
            region.store_relaxed(index * 8, word);
        }
        for (offset, word) in words {
            region.store_relaxed(*offset, *word);
        }
        Ok(draft)
    }

    /// Writes header and words as into any file: a mapping for a few words takes longer. Files of
    /// hugepages cannot be written so.
    fn fill(&self, words: &[(usize, u64)]) -> Result<(), SegmentError> {
        let header = self.header.words();
        let mut bytes = Vec::with_capacity(header.len() * 8);
        header.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        self.write(0, &bytes)?;
        words.iter().try_for_each(|(offset, word)| self.write(*offset, &word.to_ne_bytes()))
    }

    fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), SegmentError> {
        // A write behind its end would make the file longer.
        let end = offset.saturating_add(bytes.len()) as u64;
        assert!(end <= self.header.size_bytes, "a word at {offset} is outside of the segment");
        let at = i64::try_from(offset).unwrap_or(i64::MAX);
        match pwrite(&self.fd, bytes, at).map_err(SegmentError::os("pwrite"))? {
            written if written == bytes.len() => Ok(()),
            _ => Err(SegmentError::os("pwrite")(nix::Error::EIO)),
        }
    }

    /// The header that was written.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Page size, in bytes.
    #[must_use]
    pub fn page_bytes(&self) -> u64 {
        self.page_bytes
    }

    /// The node that the pages were bound to, if binding was asked for and allowed.
    #[must_use]
    pub fn bound_node(&self) -> Option<u32> {
        self.bound_node
    }

    /// Closes the door behind the writer, if it has not done so itself, refills what a hostile
    /// writer may have punched in between, and proves the result.
    ///
    /// # Errors
    /// `Holes` if pages are missing even after the refill, `NoMemory` if they cannot be had.
    /// The segment is gone then: its writer gets a fresh one at the next attach.
    pub fn seal(self) -> Result<Segment, SegmentError> {
        let required = required_seals().bits();
        if seals(&self.fd)? & required != required {
            seal(&self.fd)?;
        }
        allocate(&self.fd, self.header.size_bytes).map_err(|error| self.shortage(error))?;
        Segment::verify(self.fd, self.header)
    }

    /// Takes the memory back from whoever may hold the descriptor: a client that was granted the
    /// segment and never said that it mapped it.
    ///
    /// # Errors
    /// The kernel's refusal; the pages are then free when the last holder is gone.
    pub fn abandon(self) -> Result<(), SegmentError> {
        ftruncate(&self.fd, 0).map_err(SegmentError::os("ftruncate"))?;
        let seals = SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&self.fd, FcntlArg::F_ADD_SEALS(seals)).map_err(SegmentError::os("F_ADD_SEALS"))?;
        Ok(())
    }

    fn shortage(&self, error: SegmentError) -> SegmentError {
        shortage(error, self.header.size_bytes, self.page_bytes)
    }
}

impl AsFd for Draft {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A segment that was proven: seals, size and every page present.
#[derive(Debug)]
pub struct Segment {
    fd: OwnedFd,
    header: Header,
    id: FileId,
}

impl Segment {
    /// Proves a descriptor against what was promised. Costs two system calls and no trust.
    ///
    /// # Errors
    /// `Size`, `Holes` or `Seals` with what was found and what was expected.
    pub fn verify(fd: OwnedFd, expected: Header) -> Result<Self, SegmentError> {
        let stat = fstat(&fd).map_err(SegmentError::os("fstat"))?;
        let found = u64::try_from(stat.st_size).unwrap_or(0);
        if found != expected.size_bytes {
            return Err(SegmentError::Size { found, expected: expected.size_bytes });
        }
        let present = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        if present < found {
            return Err(SegmentError::Holes { present, expected: found });
        }
        let (found, required) = (seals(&fd)?, required_seals().bits());
        if found & required != required {
            return Err(SegmentError::Seals { found, required });
        }
        let id = FileId { device: stat.st_dev, inode: stat.st_ino };
        Ok(Self { fd, header: expected, id })
    }

    /// Maps the segment for reading and compares its header with what was promised.
    ///
    /// # Errors
    /// `Header` names the first field that differs.
    pub fn map(&self) -> Result<Region<Foreign>, SegmentError> {
        let region = Region::map_foreign(&self.fd, mapping_len(self.header.size_bytes)?)?;
        let mut words = [0; HEADER_FIELDS.len()];
        for (index, word) in words.iter_mut().enumerate() {
            *word = region.load_acquire(index * 8);
        }
        self.header.check(&words)?;
        if !layout::is_later(&words) {
            check_reserved(&region, self.header.kind)?;
        }
        Ok(region)
    }

    /// A second descriptor of the same segment that is open for reading only.
    ///
    /// The seals are what protects the bytes; this keeps an honest reader from a mistake.
    ///
    /// # Errors
    /// `Os` if `/proc` is not mounted or forbids the re-open.
    pub fn read_only_fd(&self) -> Result<OwnedFd, SegmentError> {
        read_only(&self.fd)
    }

    /// The descriptor alone.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Identity and geometry that were promised and checked.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Device and inode.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.id
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Closes a segment behind its writer, which has mapped it: the mapping stays, and nobody gets
/// another one.
///
/// # Errors
/// `Os` if the kernel refuses, for instance because somebody sealed it otherwise.
pub(crate) fn seal(fd: &OwnedFd) -> Result<(), SegmentError> {
    let sealed = fcntl(fd, FcntlArg::F_ADD_SEALS(required_seals()));
    sealed.map(drop).map_err(SegmentError::os("fcntl(F_ADD_SEALS)"))
}

fn seals(fd: &OwnedFd) -> Result<i32, SegmentError> {
    fcntl(fd, FcntlArg::F_GET_SEALS).map_err(SegmentError::os("F_GET_SEALS"))
}

/// Device and inode of any descriptor, and whether it is open for writing.
///
/// # Errors
/// `Os` if the kernel refuses to tell.
pub fn identify(fd: impl AsFd) -> Result<(FileId, bool), SegmentError> {
    let stat = fstat(fd.as_fd()).map_err(SegmentError::os("fstat"))?;
    let flags = fcntl(fd.as_fd(), FcntlArg::F_GETFL).map_err(SegmentError::os("F_GETFL"))?;
    let writable = OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE == OFlag::O_RDWR;
    Ok((FileId { device: stat.st_dev, inode: stat.st_ino }, writable))
}

/// A second descriptor of a file of ours that is open for reading only.
///
/// # Errors
/// `Os` if `/proc` is not mounted or forbids the re-open.
pub(crate) fn read_only(fd: &OwnedFd) -> Result<OwnedFd, SegmentError> {
    // Without blocking: a writer of our own uid could hold a lease on the file (fcntl(2)), and
    // this thread would wait for it for 45 seconds.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd));
    open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK, Mode::empty())
        .map_err(SegmentError::os("open(/proc/self/fd)"))
}

/// A new unsealed file of `size_bytes`, every page of it allocated.
///
/// # Errors
/// `NoMemory` when the pool is short; `PageSize`; `Os` names any other call that failed.
pub(crate) fn allocated_file(size_bytes: u64, page_bytes: u64) -> Result<OwnedFd, SegmentError> {
    let fd = sized_file(size_bytes, page_bytes)?;
    allocate(&fd, size_bytes).map_err(|error| shortage(error, size_bytes, page_bytes))?;
    Ok(fd)
}

fn sized_file(size_bytes: u64, page_bytes: u64) -> Result<OwnedFd, SegmentError> {
    let fd = create_file(page_bytes)?;
    // A memfd starts with mode 0777: any uid could re-open a read-only descriptor for writing.
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR).map_err(SegmentError::os("fchmod"))?;
    let size = i64::try_from(size_bytes).unwrap_or(i64::MAX);
    ftruncate(&fd, size).map_err(SegmentError::os("ftruncate"))?;
    Ok(fd)
}

/// Tells a shortage of pages from every other failure.
fn shortage(error: SegmentError, size_bytes: u64, page_bytes: u64) -> SegmentError {
    match error {
        SegmentError::Os { source, .. }
            if matches!(source.raw_os_error(), Some(libc::ENOMEM | libc::ENOSPC)) =>
        {
            SegmentError::NoMemory { size_bytes, page_bytes, source }
        }
        other => other,
    }
}

fn create_file(page_bytes: u64) -> Result<OwnedFd, SegmentError> {
    let huge = match page_bytes {
        0x1000 => MFdFlags::empty(),
        0x20_0000 => MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB,
        0x4000_0000 => MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_1GB,
        bytes => return Err(SegmentError::PageSize { bytes }),
    };
    let flags = huge
        | MFdFlags::MFD_CLOEXEC
        | MFdFlags::MFD_ALLOW_SEALING
        | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    memfd_create("laneway", flags).map_err(|errno| match errno {
        // The kernel was built without this page size.
        nix::Error::ENODEV => SegmentError::PageSize { bytes: page_bytes },
        errno => SegmentError::os("memfd_create")(errno),
    })
}

fn allocate(fd: &OwnedFd, size_bytes: u64) -> Result<(), SegmentError> {
    let size = i64::try_from(size_bytes).unwrap_or(i64::MAX);
    // A large allocation can be interrupted by a signal half-way; what was taken stays taken.
    loop {
        match fallocate(fd, FallocateFlags::empty(), 0, size) {
            Err(nix::Error::EINTR) => {}
            result => return result.map_err(SegmentError::os("fallocate")),
        }
    }
}

/// A version that gives these bytes a meaning says so in the header; nobody else writes there.
fn check_reserved(region: &Region<Foreign>, kind: u64) -> Result<(), SegmentError> {
    for offset in layout::reserved(kind).step_by(8) {
        let found = region.load_acquire(offset);
        if found != 0 {
            return Err(SegmentError::Header { field: "reserved", found, expected: 0 });
        }
    }
    Ok(())
}

pub(crate) fn mapping_len(size_bytes: u64) -> Result<usize, SegmentError> {
    usize::try_from(size_bytes).map_err(|_| SegmentError::Geometry {
        field: "size_bytes",
        found: size_bytes,
        allowed: "the address space",
    })
}
