//! What a hostile holder of a segment can do to it after the hand-over: nothing.
//!
//! Each row of a table is one call, made by a real process that is the segment's writer or one of
//! its readers, as the owner's uid, as another uid and as root, on base pages and on hugepages.
//! After every call the bytes, the size and the page count must be what they were. Where the
//! machine cannot play an actor the test prints `SKIPPED`; under `CI` that is a failure.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Mutex;

use laneway_shm::SegmentError;
use laneway_shm::fdpass;
use laneway_shm::layout::{Header, KIND_PRODUCER};
use laneway_shm::memfd::{Draft, Segment, required_seals};
use laneway_shm::memory::Memory;
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::fstat;

const BASE: u64 = 4096;
const HUGE: u64 = 2 << 20;
/// Pages of a test segment: the first has the header, the second is there to be punched.
const PAGES: u64 = 2;
/// Who owns the segments when the test is root, so that root is a different actor.
const OWNER: u32 = 1000;
const OTHER: u32 = 65534;

/// Who makes the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Actor {
    SameUid,
    OtherUid,
    Root,
}

/// What the actor got: the writer maps before the seal, the reader gets a read-only descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grip {
    Writer,
    Reader,
}

/// What the hostile process has in its hands.
struct Hands {
    fd: i32,
    size: usize,
    /// The writer's own mapping, or a reader's.
    map: *mut libc::c_void,
}

/// One call and what it must return, by actor: same uid, other uid, root. Zero is success.
type Row = (&'static str, fn(&Hands) -> i32, [i32; 3]);

fn outcome(result: i64) -> i32 {
    if result == -1 { Errno::last_raw() } else { 0 }
}

fn truncate(hands: &Hands, size: usize) -> i32 {
    // SAFETY: no memory is passed.
    outcome(unsafe { libc::ftruncate(hands.fd, size as libc::off_t) }.into())
}

fn shrink(hands: &Hands) -> i32 {
    truncate(hands, hands.size / 2)
}

fn grow(hands: &Hands) -> i32 {
    truncate(hands, hands.size * 2)
}

fn allocate(hands: &Hands, mode: i32, start: usize, len: usize) -> i32 {
    let (start, len) = (start as libc::off_t, len as libc::off_t);
    // SAFETY: no memory is passed.
    outcome(unsafe { libc::fallocate(hands.fd, mode, start, len) }.into())
}

fn allocate_beyond(hands: &Hands) -> i32 {
    allocate(hands, 0, hands.size, hands.size)
}

fn punch(hands: &Hands) -> i32 {
    allocate(hands, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 0, hands.size)
}

fn zero_range(hands: &Hands) -> i32 {
    allocate(hands, libc::FALLOC_FL_ZERO_RANGE, 0, hands.size)
}

fn collapse(hands: &Hands) -> i32 {
    allocate(hands, libc::FALLOC_FL_COLLAPSE_RANGE, 0, hands.size / 2)
}

fn advise(hands: &Hands, advice: i32) -> i32 {
    // SAFETY: the range is this process's own mapping, to which no reference exists.
    outcome(unsafe { libc::madvise(hands.map, hands.size, advice) }.into())
}

fn remove_pages(hands: &Hands) -> i32 {
    advise(hands, libc::MADV_REMOVE)
}

fn drop_own_pages(hands: &Hands) -> i32 {
    advise(hands, libc::MADV_DONTNEED)
}

/// Maps the whole file; the mapping stays, the process is short-lived.
fn map(fd: i32, size: usize, protection: i32) -> Result<*mut libc::c_void, i32> {
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    let map = unsafe {
        libc::mmap(std::ptr::null_mut(), size, protection, libc::MAP_SHARED, fd, 0)
    };
    if map == libc::MAP_FAILED { Err(Errno::last_raw()) } else { Ok(map) }
}

fn map_writable(hands: &Hands) -> i32 {
    map(hands.fd, hands.size, libc::PROT_READ | libc::PROT_WRITE).err().unwrap_or(0)
}

fn protect(map: *mut libc::c_void, size: usize) -> i32 {
    // SAFETY: the range is a mapping of this process to which no reference exists.
    outcome(unsafe { libc::mprotect(map, size, libc::PROT_READ | libc::PROT_WRITE) }.into())
}

/// A read-only mapping made after the seal, handed to `attack`.
fn with_read_only(hands: &Hands, attack: impl Fn(*mut libc::c_void) -> i32) -> i32 {
    map(hands.fd, hands.size, libc::PROT_READ).map_or_else(|errno| errno, attack)
}

fn make_writable(hands: &Hands) -> i32 {
    with_read_only(hands, |map| protect(map, hands.size))
}

fn duplicate_and_make_writable(hands: &Hands) -> i32 {
    with_read_only(hands, |map| {
        // SAFETY: an old size of zero duplicates the shared mapping and leaves the old one alone.
        let second = unsafe { libc::mremap(map, 0, hands.size, libc::MREMAP_MAYMOVE) };
        if second == libc::MAP_FAILED { Errno::last_raw() } else { protect(second, hands.size) }
    })
}

fn write_file(hands: &Hands) -> i32 {
    // SAFETY: the source is a live static string.
    outcome(unsafe { libc::pwrite(hands.fd, c"nonsense".as_ptr().cast(), 8, 0) } as i64)
}

fn open_own(hands: &Hands, flags: i32) -> Result<i32, i32> {
    let path = format!("/proc/self/fd/{}\0", hands.fd);
    // SAFETY: the path is terminated and lives until after the call.
    let fd = unsafe { libc::open(path.as_ptr().cast(), flags) };
    if fd == -1 { Err(Errno::last_raw()) } else { Ok(fd) }
}

fn reopen_and_map_writable(hands: &Hands) -> i32 {
    match open_own(hands, libc::O_RDWR) {
        Ok(fd) => map_writable(&Hands { fd, ..*hands }),
        Err(errno) => errno,
    }
}

fn reopen_and_punch(hands: &Hands) -> i32 {
    match open_own(hands, libc::O_RDWR) {
        Ok(fd) => punch(&Hands { fd, ..*hands }),
        Err(errno) => errno,
    }
}

fn reopen_truncating(hands: &Hands) -> i32 {
    open_own(hands, libc::O_RDWR | libc::O_TRUNC).err().unwrap_or(0)
}

fn write_through_own_memory_file(hands: &Hands) -> i32 {
    with_read_only(hands, |map| {
        // SAFETY: the path is a terminated literal; the source of the write is one, too.
        outcome(unsafe {
            let fd = libc::open(c"/proc/self/mem".as_ptr(), libc::O_RDWR);
            libc::pwrite(fd, c"nonsense".as_ptr().cast(), 8, map as libc::off_t)
        } as i64)
    })
}

fn write_by_process_vm(hands: &Hands) -> i32 {
    with_read_only(hands, |map| {
        let local = libc::iovec { iov_base: c"nonsense".as_ptr().cast_mut().cast(), iov_len: 8 };
        let remote = libc::iovec { iov_base: map, iov_len: 8 };
        // SAFETY: the local range is a live literal and only read; the kernel checks the remote.
        outcome(unsafe {
            libc::process_vm_writev(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0)
        } as i64)
    })
}

fn add_seals(hands: &Hands) -> i32 {
    // SAFETY: no memory is passed.
    outcome(unsafe { libc::fcntl(hands.fd, libc::F_ADD_SEALS, libc::F_SEAL_WRITE) }.into())
}

fn make_executable(hands: &Hands) -> i32 {
    // SAFETY: no memory is passed.
    outcome(unsafe { libc::fchmod(hands.fd, 0o777) }.into())
}

const E: i32 = libc::EPERM;
const A: i32 = libc::EACCES;

/// The writer, with its writable descriptor and its mapping from before the seal.
const WRITER: [Row; 19] = [
    ("ftruncate, shrinking", shrink, [E; 3]),
    ("ftruncate, growing", grow, [E; 3]),
    ("fallocate beyond the end", allocate_beyond, [E; 3]),
    ("fallocate(PUNCH_HOLE)", punch, [E; 3]),
    ("fallocate(ZERO_RANGE)", zero_range, [libc::EOPNOTSUPP; 3]),
    ("fallocate(COLLAPSE_RANGE)", collapse, [libc::EOPNOTSUPP; 3]),
    ("madvise(MADV_REMOVE) on the old mapping", remove_pages, [E; 3]),
    ("madvise(MADV_DONTNEED), which is harmless", drop_own_pages, [0; 3]),
    ("mmap, writable", map_writable, [E; 3]),
    ("mprotect of a read-only mapping", make_writable, [A; 3]),
    ("mremap and mprotect", duplicate_and_make_writable, [A; 3]),
    ("pwrite", write_file, [E; 3]),
    ("re-open, then mmap writable", reopen_and_map_writable, [E, A, E]),
    ("re-open, then punch", reopen_and_punch, [E, A, E]),
    ("re-open with O_TRUNC", reopen_truncating, [E, A, E]),
    ("write through /proc/self/mem", write_through_own_memory_file, [libc::EIO; 3]),
    ("process_vm_writev", write_by_process_vm, [libc::EFAULT; 3]),
    ("fcntl(F_ADD_SEALS)", add_seals, [E; 3]),
    ("fchmod(0777)", make_executable, [E; 3]),
];

/// A reader, with a descriptor that is open for reading only.
const READER: [Row; 15] = [
    ("ftruncate, shrinking", shrink, [libc::EINVAL; 3]),
    ("ftruncate, growing", grow, [libc::EINVAL; 3]),
    ("fallocate(PUNCH_HOLE)", punch, [libc::EBADF; 3]),
    ("madvise(MADV_REMOVE)", remove_pages, [A; 3]),
    ("mmap, writable", map_writable, [A; 3]),
    ("mprotect of a read-only mapping", make_writable, [A; 3]),
    ("mremap and mprotect", duplicate_and_make_writable, [A; 3]),
    ("pwrite", write_file, [libc::EBADF; 3]),
    ("re-open, then mmap writable", reopen_and_map_writable, [E, A, E]),
    ("re-open, then punch", reopen_and_punch, [E, A, E]),
    ("re-open with O_TRUNC", reopen_truncating, [E, A, E]),
    ("write through /proc/self/mem", write_through_own_memory_file, [libc::EIO; 3]),
    ("process_vm_writev", write_by_process_vm, [libc::EFAULT; 3]),
    ("fcntl(F_ADD_SEALS)", add_seals, [E; 3]),
    ("fchmod(0777)", make_executable, [E; 3]),
];

/// What the table says, and the one place where hugetlbfs answers otherwise: it has no write.
fn expected(row: &Row, actor: Actor, grip: Grip, page: u64) -> i32 {
    match (row.0, grip) {
        ("pwrite", Grip::Writer) if page != BASE => libc::EINVAL,
        _ => row.2[actor as usize],
    }
}
