//! The calls by which a hostile process tries to take bytes away or to write them.
//!
//! Each is one attempt with what the process has in its hands, and returns the kernel's errno,
//! zero for success. They allocate next to nothing, because forked children make them.

use nix::errno::Errno;

/// What the hostile process has in its hands.
pub(super) struct Hands {
    pub(super) fd: i32,
    pub(super) size: usize,
    /// The writer's own mapping, or a reader's.
    pub(super) map: *mut libc::c_void,
}

pub(super) fn outcome(result: i64) -> i32 {
    if result == -1 { Errno::last_raw() } else { 0 }
}

fn signed(bytes: usize) -> libc::off_t {
    libc::off_t::try_from(bytes).expect("a file's size")
}

fn truncate(hands: &Hands, size: usize) -> i32 {
    // SAFETY: no memory is passed.
    outcome(unsafe { libc::ftruncate(hands.fd, signed(size)) }.into())
}

pub(super) fn shrink(hands: &Hands) -> i32 {
    truncate(hands, hands.size / 2)
}

pub(super) fn grow(hands: &Hands) -> i32 {
    truncate(hands, hands.size * 2)
}

pub(super) fn allocate(hands: &Hands, mode: i32, start: usize, len: usize) -> i32 {
    let (start, len) = (signed(start), signed(len));
    // SAFETY: no memory is passed.
    outcome(unsafe { libc::fallocate(hands.fd, mode, start, len) }.into())
}

pub(super) fn allocate_beyond(hands: &Hands) -> i32 {
    allocate(hands, 0, hands.size, hands.size)
}

pub(super) fn punch(hands: &Hands) -> i32 {
    allocate(hands, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 0, hands.size)
}

pub(super) fn zero_range(hands: &Hands) -> i32 {
    allocate(hands, libc::FALLOC_FL_ZERO_RANGE, 0, hands.size)
}

pub(super) fn collapse(hands: &Hands) -> i32 {
    allocate(hands, libc::FALLOC_FL_COLLAPSE_RANGE, 0, hands.size / 2)
}

fn advise(hands: &Hands, advice: i32) -> i32 {
    // SAFETY: the range is this process's own mapping, to which no reference exists.
    outcome(unsafe { libc::madvise(hands.map, hands.size, advice) }.into())
}

pub(super) fn remove_pages(hands: &Hands) -> i32 {
    advise(hands, libc::MADV_REMOVE)
}

pub(super) fn drop_own_pages(hands: &Hands) -> i32 {
    advise(hands, libc::MADV_DONTNEED)
}

/// Maps the whole file; the mapping stays, the process is short-lived.
pub(super) fn map(fd: i32, size: usize, protection: i32) -> Result<*mut libc::c_void, i32> {
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    let map =
        unsafe { libc::mmap(std::ptr::null_mut(), size, protection, libc::MAP_SHARED, fd, 0) };
    if map == libc::MAP_FAILED { Err(Errno::last_raw()) } else { Ok(map) }
}

pub(super) fn map_writable(hands: &Hands) -> i32 {
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

pub(super) fn make_writable(hands: &Hands) -> i32 {
    with_read_only(hands, |map| protect(map, hands.size))
}

pub(super) fn duplicate_and_make_writable(hands: &Hands) -> i32 {
    with_read_only(hands, |map| {
        // SAFETY: an old size of zero duplicates the shared mapping and leaves the old one alone.
        let second = unsafe { libc::mremap(map, 0, hands.size, libc::MREMAP_MAYMOVE) };
        if second == libc::MAP_FAILED { Errno::last_raw() } else { protect(second, hands.size) }
    })
}

pub(super) fn write_file(hands: &Hands) -> i32 {
    // SAFETY: the source is a live static string.
    outcome(unsafe { libc::pwrite(hands.fd, c"nonsense".as_ptr().cast(), 8, 0) } as i64)
}

pub(super) fn open_own(hands: &Hands, flags: i32) -> Result<i32, i32> {
    let path = format!("/proc/self/fd/{}\0", hands.fd);
    // SAFETY: the path is terminated and lives until after the call.
    let fd = unsafe { libc::open(path.as_ptr().cast(), flags) };
    if fd == -1 { Err(Errno::last_raw()) } else { Ok(fd) }
}

pub(super) fn reopen_and_map_writable(hands: &Hands) -> i32 {
    match open_own(hands, libc::O_RDWR) {
        Ok(fd) => map_writable(&Hands { fd, ..*hands }),
        Err(errno) => errno,
    }
}

pub(super) fn reopen_and_punch(hands: &Hands) -> i32 {
    match open_own(hands, libc::O_RDWR) {
        Ok(fd) => punch(&Hands { fd, ..*hands }),
        Err(errno) => errno,
    }
}

pub(super) fn reopen_truncating(hands: &Hands) -> i32 {
    open_own(hands, libc::O_RDWR | libc::O_TRUNC).err().unwrap_or(0)
}

pub(super) fn write_through_own_memory_file(hands: &Hands) -> i32 {
    with_read_only(hands, |map| {
        // SAFETY: the path is a terminated literal; the source of the write is one, too.
        outcome(unsafe {
            let fd = libc::open(c"/proc/self/mem".as_ptr(), libc::O_RDWR);
            libc::pwrite(fd, c"nonsense".as_ptr().cast(), 8, map as libc::off_t)
        } as i64)
    })
}

pub(super) fn write_by_process_vm(hands: &Hands) -> i32 {
    with_read_only(hands, |map| {
        let local = libc::iovec { iov_base: c"nonsense".as_ptr().cast_mut().cast(), iov_len: 8 };
        let remote = libc::iovec { iov_base: map, iov_len: 8 };
        // SAFETY: the local range is a live literal and only read; the kernel checks the remote.
        outcome(unsafe {
            libc::process_vm_writev(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0)
        } as i64)
    })
}

pub(super) fn add_seals(hands: &Hands) -> i32 {
    // SAFETY: no memory is passed.
    outcome(unsafe { libc::fcntl(hands.fd, libc::F_ADD_SEALS, libc::F_SEAL_WRITE) }.into())
}

pub(super) fn make_executable(hands: &Hands) -> i32 {
    // SAFETY: no memory is passed.
    outcome(unsafe { libc::fchmod(hands.fd, 0o777) }.into())
}
