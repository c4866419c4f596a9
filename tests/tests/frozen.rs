//! Frozen payloads against a hostile sender: a real process that sends whatever it can make.
//!
//! What is no frozen payload is refused by what it lacks before it is mapped, and what was
//! accepted stays what it was, whatever its sender tries. On base pages and on hugepages.

use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use laneway_shm::fdpass;
use laneway_shm::{FrozenBuilder, FrozenError, FrozenFault, FrozenFile, SegmentError};
use laneway_tests::hugepages::{self, Reserved};
use laneway_tests::{skipped, turn};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, ftruncate, pipe, read, write};

#[path = "tamper/calls.rs"]
mod calls;

use calls::*;

const BASE: usize = 4096;
const HUGE: usize = 2 << 20;
/// The payload that every file of the table pretends to be.
const PAYLOAD: usize = 2 * BASE;
/// The name of a hostile sender's files in `/proc/self/maps`.
const NAME: &CStr = c"hostile";

fn frozen() -> SealFlag {
    SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

// --- what a hostile sender makes ----------------------------------------------------------------

fn memfd(flags: MFdFlags, size: usize) -> OwnedFd {
    let fd = memfd_create(NAME, flags).expect("memfd_create");
    ftruncate(&fd, libc::off_t::try_from(size).expect("a small file")).expect("ftruncate");
    fd
}

/// A file with every page of `size` there.
fn filled(size: usize) -> OwnedFd {
    let fd = memfd(MFdFlags::MFD_ALLOW_SEALING, size);
    let hands = Hands { fd: fd.as_raw_fd(), size, map: std::ptr::null_mut() };
    assert_eq!(allocate(&hands, 0, 0, size), 0);
    fd
}

fn seal(fd: OwnedFd, seals: SealFlag) -> OwnedFd {
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).expect("F_ADD_SEALS");
    fd
}

fn again(fd: &OwnedFd, flags: OFlag) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    open(path.as_str(), flags, Mode::empty()).expect("open")
}

fn unsealed() -> OwnedFd {
    filled(PAYLOAD)
}

fn never_sealable() -> OwnedFd {
    memfd(MFdFlags::empty(), PAYLOAD)
}

fn can_be_unsealed_by_nobody_but_sealed_by_all() -> OwnedFd {
    seal(filled(PAYLOAD), frozen() - SealFlag::F_SEAL_SEAL)
}

fn can_shrink() -> OwnedFd {
    seal(filled(PAYLOAD), frozen() - SealFlag::F_SEAL_SHRINK)
}

/// The file that every segment of a lane is, and a writable mapping that stays.
fn future_write_only() -> OwnedFd {
    let fd = filled(PAYLOAD);
    map(fd.as_raw_fd(), PAYLOAD, libc::PROT_READ | libc::PROT_WRITE).expect("not yet sealed");
    // The seal that it would need is refused while the mapping is there.
    let refused = fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE));
    assert_eq!(refused, Err(Errno::EBUSY));
    seal(fd, (frozen() - SealFlag::F_SEAL_WRITE) | SealFlag::F_SEAL_FUTURE_WRITE)
}

fn punched() -> OwnedFd {
    let fd = filled(PAYLOAD);
    let hands = Hands { fd: fd.as_raw_fd(), size: BASE, map: std::ptr::null_mut() };
    assert_eq!(punch(&hands), 0);
    seal(fd, frozen())
}

fn hollow_on_hugepages() -> OwnedFd {
    let flags = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
    seal(memfd(flags, HUGE), frozen())
}

fn on_gigantic_pages() -> OwnedFd {
    let flags = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_1GB;
    seal(memfd(flags, 1 << 30), frozen())
}

fn too_short() -> OwnedFd {
    seal(filled(PAYLOAD - BASE), frozen())
}

fn too_long() -> OwnedFd {
    seal(filled(PAYLOAD + BASE), frozen())
}

fn empty() -> OwnedFd {
    seal(memfd(MFdFlags::MFD_ALLOW_SEALING, 0), frozen())
}

fn write_only() -> OwnedFd {
    again(&seal(filled(PAYLOAD), frozen()), OFlag::O_WRONLY)
}

fn path_only() -> OwnedFd {
    again(&seal(filled(PAYLOAD), frozen()), OFlag::O_PATH)
}

fn directory() -> OwnedFd {
    open("/", OFlag::O_RDONLY, Mode::empty()).expect("a root")
}

fn one_end_of_a_pipe() -> OwnedFd {
    pipe().expect("pipe").0
}

fn device() -> OwnedFd {
    open("/dev/zero", OFlag::O_RDWR, Mode::empty()).expect("/dev/zero")
}

fn file_on_disk() -> OwnedFd {
    let file = tempfile::tempfile().expect("a temporary file");
    file.set_len(PAYLOAD as u64).expect("ftruncate");
    file.into()
}

/// What is sent, and whether it was refused by its name.
type Row = (&'static str, fn() -> OwnedFd, fn(FrozenFault) -> bool);

const ROWS: [Row; 17] = [
    ("unsealed", unsealed, lacks_seals),
    ("a memfd that takes no seals", never_sealable, lacks_seals),
    ("open to more seals", can_be_unsealed_by_nobody_but_sealed_by_all, lacks_seals),
    ("open to shrinking", can_shrink, lacks_seals),
    ("FUTURE_WRITE and a live mapping", future_write_only, lacks_seals),
    ("punched before the seals", punched, |fault| {
        matches!(fault, FrozenFault::Holes { present: 4096, expected: 8192 })
    }),
    ("hollow, on hugepages", hollow_on_hugepages, |fault| {
        matches!(fault, FrozenFault::Holes { present: 0, expected: 0x20_0000 })
    }),
    ("on pages of 1 GiB", on_gigantic_pages, |fault| {
        matches!(fault, FrozenFault::PageSize { found: 0x4000_0000 })
    }),
    ("too short", too_short, |fault| {
        matches!(fault, FrozenFault::Size { found: 4096, expected: 8192 })
    }),
    ("too long", too_long, |fault| {
        matches!(fault, FrozenFault::Size { found: 12288, expected: 8192 })
    }),
    ("empty", empty, |fault| matches!(fault, FrozenFault::Size { found: 0, expected: 8192 })),
    ("open for writing alone", write_only, unreadable),
    ("a path", path_only, unreadable),
    ("a directory", directory, |fault| matches!(fault, FrozenFault::Type { found: 0o040_000 })),
    ("a pipe", one_end_of_a_pipe, |fault| matches!(fault, FrozenFault::Type { found: 0o010_000 })),
    ("a device", device, |fault| matches!(fault, FrozenFault::Type { found: 0o020_000 })),
    // On a tmpfs, where `/tmp` often is, a file has a seal: the one against seals.
    ("a file on disk", file_on_disk, |fault| {
        matches!(fault, FrozenFault::NoSeals) || lacks_seals(fault)
    }),
];

fn lacks_seals(fault: FrozenFault) -> bool {
    matches!(fault, FrozenFault::Seals { found, required }
        if found & required != required && required == frozen().bits())
}

fn unreadable(fault: FrozenFault) -> bool {
    matches!(fault, FrozenFault::Unreadable { .. })
}

// --- the process --------------------------------------------------------------------------------

/// A process that makes what it is told, sends it, and keeps what it has of it.
struct Hostile {
    pid: Pid,
    socket: OwnedFd,
}

impl Hostile {
    fn start(life: impl FnOnce(&OwnedFd)) -> Self {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty())
                .expect("a pair of sockets");
        // SAFETY: the child makes system calls, and allocates through a libc that allows it
        // after a fork; it never returns from the closure.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Parent { child } => Self { pid: child, socket: ours },
            ForkResult::Child => {
                drop(ours);
                let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
                life(&theirs);
                // SAFETY: ends a forked child without the test harness's exit handlers.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// Asks for the `order`-th thing; returns what came.
    fn order(&self, order: usize) -> fdpass::Packet {
        write(&self.socket, &[u8::try_from(order).expect("a short table")]).expect("it lives");
        self.receive()
    }

    fn receive(&self) -> fdpass::Packet {
        loop {
            match fdpass::receive(&self.socket) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    std::thread::yield_now();
                }
                packet => break packet.expect("a packet"),
            }
        }
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

fn orders(socket: &OwnedFd) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let mut order = [0];
        (read(socket, &mut order) == Ok(1)).then_some(usize::from(order[0]))
    })
}

fn mapped(name: &CStr) -> bool {
    let maps = fs::read_to_string("/proc/self/maps").expect("/proc");
    maps.contains(&format!("memfd:{}", name.to_str().expect("ASCII")))
}

#[test]
fn what_is_no_frozen_payload_is_refused_by_what_it_lacks_and_never_mapped() {
    let _turn = turn();
    let hostile = Hostile::start(|socket| {
        for row in orders(socket) {
            let fd = ROWS[row].1();
            fdpass::send(socket, b"take", Some(fd.as_fd())).expect("sent");
        }
    });
    for (row, (name, _, expected)) in ROWS.iter().enumerate() {
        let fd = hostile.order(row).descriptors.pop().expect("a descriptor");
        match FrozenFile::accept(fd, PAYLOAD as u64) {
            Err(FrozenError::Fault(fault)) => assert!(expected(fault), "{name}: {fault:?}"),
            other => panic!("{name}: {other:?}"),
        }
        assert!(!mapped(NAME), "{name} was mapped");
    }
    let sealed = seal(filled(PAYLOAD), frozen());
    for len in [0, 1 << 31, u64::MAX] {
        let error = FrozenFile::accept(sealed.try_clone().unwrap(), len).err();
        let named = matches!(error,
            Some(FrozenError::Fault(FrozenFault::Length { found, .. })) if found == len);
        assert!(named, "{error:?}");
    }
    let bytes = FrozenFile::accept(sealed, PAYLOAD as u64 - 1).unwrap().map().unwrap();
    assert_eq!(bytes.len(), PAYLOAD - 1, "what is announced counts, within the last page");
}

/// A page is missing, and one behind the end makes up for it in the count of blocks.
fn hole_behind_a_true_count(page: usize) -> OwnedFd {
    let huge = MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
    let flags = if page == HUGE { huge } else { MFdFlags::empty() };
    let fd = memfd(MFdFlags::MFD_ALLOW_SEALING | flags, 2 * page);
    let hands = Hands { fd: fd.as_raw_fd(), size: 2 * page, map: std::ptr::null_mut() };
    for start in [page, 2 * page] {
        assert_eq!(allocate(&hands, libc::FALLOC_FL_KEEP_SIZE, start, page), 0);
    }
    seal(fd, frozen())
}

#[test]
fn a_hole_that_the_count_of_blocks_hides_cannot_trap_the_reader() {
    let _turn = turn();
    let accept = |page: usize| {
        let hostile = Hostile::start(|socket| {
            let fd = hole_behind_a_true_count(page);
            fdpass::send(socket, b"take", Some(fd.as_fd())).expect("sent");
            orders(socket).count();
        });
        let fd = hostile.receive().descriptors.pop().expect("a descriptor");
        FrozenFile::accept(fd, 2 * page as u64).expect("the count is right")
    };
    // Base pages: the kernel finds a page when the reader maps the file, or the map fails.
    let bytes = accept(BASE).map().expect("a free page");
    assert!(bytes.iter().all(|&byte| byte == 0));
    let Some(_pool) = Reserved::add(HUGE as u64, 2) else {
        return skipped("a hole in hugepages", "the pool of hugepages cannot grow");
    };
    let file = accept(HUGE);
    if hugepages::free(HUGE as u64) > 0 {
        return skipped("a hole in hugepages", "somebody else has pages in the pool");
    }
    // The pool is empty: what would be a SIGBUS is an error.
    let error = file.map().err();
    let refused = matches!(error, Some(FrozenError::Segment(SegmentError::Os { .. })));
    assert!(refused, "{error:?}");
}

// --- a payload that was accepted ----------------------------------------------------------------

const E: i32 = libc::EPERM;
const A: i32 = libc::EACCES;

/// One call and what it must return on base pages and on hugepages. Zero is success.
type Attempt = (&'static str, fn(&Hands) -> i32, [i32; 2]);

/// What the sender tries afterwards, with the descriptor that it made and a read-only mapping.
const ATTEMPTS: [Attempt; 19] = [
    ("ftruncate, shrinking", shrink, [E; 2]),
    ("ftruncate, growing", grow, [E; 2]),
    ("fallocate beyond the end", allocate_beyond, [E; 2]),
    ("fallocate(PUNCH_HOLE)", punch, [E; 2]),
    ("fallocate(ZERO_RANGE)", zero_range, [libc::EOPNOTSUPP; 2]),
    ("fallocate(COLLAPSE_RANGE)", collapse, [libc::EOPNOTSUPP; 2]),
    ("madvise(MADV_REMOVE)", remove_pages, [A; 2]),
    ("madvise(MADV_DONTNEED), which is harmless", drop_own_pages, [0; 2]),
    ("mmap, writable", map_writable, [E; 2]),
    ("mprotect of a read-only mapping", make_writable, [A; 2]),
    ("mremap and mprotect", duplicate_and_make_writable, [A, libc::EINVAL]),
    ("pwrite", write_file, [E, libc::EINVAL]),
    ("re-open, then mmap writable", reopen_and_map_writable, [E; 2]),
    ("re-open, then punch", reopen_and_punch, [E; 2]),
    ("re-open with O_TRUNC", reopen_truncating, [E; 2]),
    ("write through /proc/self/mem", write_through_own_memory_file, [libc::EIO; 2]),
    ("process_vm_writev", write_by_process_vm, [libc::EFAULT; 2]),
    ("fcntl(F_ADD_SEALS)", add_seals, [E; 2]),
    ("fchmod(0777), which hugepages allow", make_executable, [E, 0]),
];

/// A sender that did everything right, and then tries everything.
fn serve_attempts(socket: &OwnedFd, page: usize) {
    let size = 2 * page;
    let mut builder = FrozenBuilder::on_pages(size, page as u64).expect("pages");
    builder.bytes_mut().fill(7);
    let file = builder.freeze().expect("frozen");
    fdpass::send(socket, b"take", Some(file.as_fd())).expect("sent");
    // Its own descriptor again, as if it had never let go of it.
    let hands = Hands { fd: file.as_fd().as_raw_fd(), size, map: std::ptr::null_mut() };
    let fd = open_own(&hands, libc::O_RDWR).expect("the same user");
    let map = map(fd, size, libc::PROT_READ).expect("a mapping for reading");
    for attempt in orders(socket) {
        let errno = ATTEMPTS[attempt].1(&Hands { fd, size, map });
        fdpass::send(socket, &errno.to_le_bytes(), None).expect("sent");
    }
}

#[test]
fn a_payload_that_was_accepted_stays_as_it_was_whatever_its_sender_tries() {
    let _turn = turn();
    for (kind, page) in [BASE, HUGE].into_iter().enumerate() {
        let pool = (page == HUGE).then(|| Reserved::add(HUGE as u64, 2));
        if matches!(pool, Some(None)) {
            return skipped("a payload on hugepages", "the pool of hugepages cannot grow");
        }
        let hostile = Hostile::start(|socket| serve_attempts(socket, page));
        let fd = hostile.receive().descriptors.pop().expect("a descriptor");
        let segment = FrozenFile::accept(fd, 2 * page as u64).unwrap().map().unwrap();
        for (attempt, (name, _, expected)) in ATTEMPTS.iter().enumerate() {
            let packet = hostile.order(attempt);
            let errno = i32::from_le_bytes(packet.bytes.try_into().expect("an errno"));
            let (found, expected) = (Errno::from_raw(errno), Errno::from_raw(expected[kind]));
            assert_eq!(found, expected, "{name} on pages of {page} bytes");
            assert!(segment.iter().all(|&byte| byte == 7), "{name} on pages of {page} bytes");
        }
        drop(hostile);
        assert!(segment.iter().all(|&byte| byte == 7), "after the sender's death");
    }
}

#[test]
fn a_payload_lies_on_hugepages_where_there_are_any_and_else_says_why_not() {
    let _turn = turn();
    let len = HUGE + 1;
    if hugepages::free(HUGE as u64) == 0 {
        let builder = FrozenBuilder::new(len).unwrap();
        assert_eq!(builder.page_bytes(), BASE as u64);
        let why = builder.step_down();
        assert!(matches!(why, Some(SegmentError::NoMemory { .. })), "{why:?}");
        let error = FrozenBuilder::on_pages(len, HUGE as u64).err();
        let short = matches!(error, Some(FrozenError::Segment(SegmentError::NoMemory { .. })));
        assert!(short, "{error:?}");
    }
    let Some(_pool) = Reserved::add(HUGE as u64, 2) else {
        return skipped("a payload on hugepages", "the pool of hugepages cannot grow");
    };
    let free = hugepages::free(HUGE as u64);
    let mut builder = FrozenBuilder::new(len).unwrap();
    assert_eq!((builder.page_bytes(), builder.step_down().is_none()), (HUGE as u64, true));
    builder.bytes_mut().fill(9);
    let segment = builder.freeze().unwrap().map().unwrap();
    assert_eq!((segment.len(), segment.iter().all(|&byte| byte == 9)), (len, true));
    assert_eq!(hugepages::free(HUGE as u64), free - 2, "two pages for a byte more than one");
    drop(segment);
    assert_eq!(hugepages::free(HUGE as u64), free, "the payload is gone with its last holder");
    // A small payload would waste most of a hugepage.
    assert_eq!(FrozenBuilder::new(BASE).unwrap().page_bytes(), BASE as u64);
}

#[test]
fn a_child_inherits_no_memory_that_is_being_written_and_keeps_it_from_no_seal() {
    let _turn = turn();
    let mut builder = FrozenBuilder::on_pages(BASE, BASE as u64).unwrap();
    builder.bytes_mut().fill(1);
    let address = builder.bytes_mut().as_ptr() as usize;
    // SAFETY: the child asks the kernel about an address, touches nothing, and exits.
    let child = match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let mut page = [0u8];
            // SAFETY: the kernel checks the address and writes one byte for one page.
            let result = unsafe { libc::mincore(address as *mut _, BASE, page.as_mut_ptr()) };
            let errno = outcome(result.into());
            // Alive until the parent has frozen the payload: its mapping would have forbidden it.
            let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
            std::thread::sleep(std::time::Duration::from_millis(50));
            // SAFETY: ends the child without the test harness's exit handlers.
            unsafe { libc::_exit(errno) }
        }
    };
    assert_eq!(builder.freeze().unwrap().map().unwrap().as_bytes(), [1; BASE]);
    let status = waitpid(child, None).unwrap();
    assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, libc::ENOMEM));
}

#[test]
fn nothing_is_left_of_a_payload_that_was_dropped() {
    let _turn = turn();
    let held = || {
        let fds = fs::read_dir("/proc/self/fd").expect("/proc").flatten();
        let links = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
        let files = links.filter(|link| link.to_string_lossy().contains("memfd:laneway"));
        (files.count(), mapped(c"laneway"))
    };
    assert_eq!(held(), (0, false));
    let segment = FrozenBuilder::on_pages(BASE, BASE as u64).unwrap().freeze().unwrap().map();
    let segment = segment.unwrap();
    assert_eq!(held(), (1, true));
    let file = segment.file().clone();
    drop(segment);
    assert_eq!(held(), (1, false));
    drop(file);
    assert_eq!(held(), (0, false));
}

#[test]
fn a_descriptor_that_was_sent_is_closed_by_every_refusal() {
    // A child that another test makes would hold the pipe open, too.
    let _turn = turn();
    let (theirs, ours) = pipe().unwrap();
    let error = FrozenFile::accept(theirs, 1).err();
    assert!(matches!(error, Some(FrozenError::Fault(FrozenFault::Type { .. }))), "{error:?}");
    // Only the last reader's end makes a write fail; the runtime ignores the signal.
    assert_eq!(write(&ours, &[1]), Err(Errno::EPIPE));
}
