//! What a hostile holder of a segment can do to it after the hand-over: nothing.
//!
//! Each row of a table is one call, made by a real process that is the segment's writer or one of
//! its readers, as the owner's uid, as another uid and as root, on base pages and on hugepages.
//! After every call the bytes, the size and the page count must be what they were. What
//! the machine cannot play is skipped, and said so.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use laneway_shm::SegmentError;
use laneway_shm::fdpass;
use laneway_shm::layout::{Header, KIND_PRODUCER};
use laneway_shm::memfd::{Draft, Segment, required_seals};
use laneway_shm::memory::Memory;
use laneway_tests::hugepages::Reserved;
use laneway_tests::{is_root, skipped, turn};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::fstat;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, geteuid, read, write};

#[path = "tamper/calls.rs"]
mod calls;

use calls::*;

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

/// One call and what it must return, by actor: same uid, other uid, root. Zero is success.
type Row = (&'static str, fn(&Hands) -> i32, [i32; 3]);

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

/// What the table says, and where hugetlbfs answers otherwise: it has no write, duplicates no
/// mapping, and lets an owner change the mode in spite of `F_SEAL_EXEC`, which opens no door
/// that the other seals leave ajar.
fn expected(row: &Row, actor: Actor, grip: Grip, page: u64) -> i32 {
    match (row.0, grip, actor) {
        _ if page == BASE => row.2[actor as usize],
        ("pwrite", Grip::Writer, _) | ("mremap and mprotect", ..) => libc::EINVAL,
        ("fchmod(0777)", _, Actor::SameUid | Actor::Root) => 0,
        _ => row.2[actor as usize],
    }
}

/// Hugepages for `segments` test segments, or none needed on base pages.
enum Pool {
    Base,
    Huge(#[expect(dead_code, reason = "held for its drop")] Reserved),
}

fn pool(test: &str, page: u64, segments: u64) -> Option<Pool> {
    if page == BASE {
        return Some(Pool::Base);
    }
    let reserved = Reserved::add(page, segments * PAGES);
    if reserved.is_none() {
        skipped(test, "the pool of hugepages cannot grow");
    }
    reserved.map(Pool::Huge)
}

fn header(page: u64) -> Header {
    Header {
        kind: KIND_PRODUCER,
        lane: 1,
        generation: 2,
        nonce: 3,
        slot_stride: 64,
        slot_payload: 56,
        slot_count: 2,
        base_position: 0,
        size_bytes: page * PAGES,
    }
}

fn size_of(header: &Header) -> usize {
    usize::try_from(header.size_bytes).expect("a small segment")
}

fn blocks(file: impl AsFd) -> i64 {
    fstat(file).expect("fstat").st_blocks
}

/// A segment before its seal, owned by [`OWNER`] if we may choose, with bytes on every page.
fn draft(page: u64) -> Draft {
    let (first, last) = (BASE..2 * BASE, page * PAGES - BASE..page * PAGES);
    let offsets = first.step_by(8).chain(last.step_by(8));
    let index = |offset| usize::try_from(offset).expect("a small segment");
    let words: Vec<_> = offsets.map(|offset| (index(offset), offset | 1 << 40)).collect();
    as_owner(|| Draft::create_with(header(page), page, None, &words)).expect("enough pages")
}

/// Runs `make` with the owner's uid on this thread alone.
fn as_owner<T>(make: impl FnOnce() -> T) -> T {
    const KEEP: libc::c_int = -1;
    let become_uid = |uid: u32| {
        // SAFETY: no memory is passed. The raw call changes this thread only, unlike libc's.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, KEEP, uid, KEEP) };
        assert_eq!(result, 0, "setresuid");
    };
    if !is_root() {
        return make();
    }
    become_uid(OWNER);
    let made = make();
    become_uid(0);
    // A change of uid hides /proc/self from ourselves.
    nix::sys::prctl::set_dumpable(true).expect("prctl");
    made
}

/// A process that does what it is told to a segment.
struct Hostile {
    pid: Pid,
    socket: OwnedFd,
}

impl Hostile {
    fn start(actor: Actor, grip: Grip, inherited: i32, size: usize) -> Self {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty())
                .expect("a pair of sockets");
        // SAFETY: the child makes system calls, and allocates through a libc that allows it
        // after a fork; it never returns from the closure.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Parent { child } => Self { pid: child, socket: ours },
            ForkResult::Child => {
                drop(ours);
                become_actor(actor);
                let fd = match grip {
                    Grip::Writer => inherited,
                    Grip::Reader => receive(&theirs),
                };
                serve(&theirs, grip, fd, size)
            }
        }
    }

    /// Waits until the process has its mapping.
    fn ready(&self) {
        assert_eq!(self.answer(), 0, "the actor could not map the segment");
    }

    fn answer(&self) -> i32 {
        let mut bytes = [0; 4];
        let read = read(&self.socket, &mut bytes);
        assert_eq!(read, Ok(4), "the actor died");
        i32::from_le_bytes(bytes)
    }

    fn call(&self, row: usize) -> i32 {
        write(&self.socket, &[u8::try_from(row).expect("a short table")]).expect("the actor lives");
        self.answer()
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

fn become_actor(actor: Actor) {
    let uid = match actor {
        Actor::OtherUid => OTHER,
        Actor::SameUid if is_root() => OWNER,
        _ => geteuid().as_raw(),
    };
    if is_root() && uid != 0 {
        nix::unistd::setgroups(&[]).expect("setgroups");
        nix::unistd::setresuid(uid.into(), uid.into(), uid.into()).expect("setresuid");
        // Otherwise /proc/self would be refused, and hide what the segment itself refuses.
        nix::sys::prctl::set_dumpable(true).expect("prctl");
    }
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
}

/// Takes the descriptor that the test sends over the socket.
fn receive(socket: &OwnedFd) -> i32 {
    loop {
        if let Ok(packet) = fdpass::receive(socket)
            && let Some(fd) = packet.descriptors.into_iter().next()
        {
            return fd.into_raw_fd();
        }
        std::thread::yield_now();
    }
}

/// The hostile process's life: map, say so, make the calls it is told, die with the socket.
fn serve(socket: &OwnedFd, grip: Grip, fd: i32, size: usize) -> ! {
    let (rows, protection): (&[Row], _) = match grip {
        Grip::Writer => (&WRITER, libc::PROT_READ | libc::PROT_WRITE),
        Grip::Reader => (&READER, libc::PROT_READ),
    };
    let mapped = map(fd, size, protection);
    let say = |errno: i32| {
        let _ = write(socket, &errno.to_le_bytes());
    };
    say(mapped.err().unwrap_or(0));
    let hands = Hands { fd, size, map: mapped.unwrap_or(std::ptr::null_mut()) };
    let mut order = [0];
    while let Ok(1) = read(socket, &mut order) {
        say(rows[usize::from(order[0])].1(&hands));
    }
    // SAFETY: ends a forked child without running the test harness's exit handlers.
    unsafe { libc::_exit(0) }
}

/// What must not change: every byte, the size, the pages.
struct Watch<M> {
    region: M,
    bytes: Vec<u8>,
    blocks: i64,
}

impl<M: Memory> Watch<M> {
    fn new(segment: &Segment, region: M) -> Self {
        let mut bytes = vec![0; size_of(segment.header())];
        region.copy_out(0, &mut bytes);
        Self { region, bytes, blocks: blocks(segment) }
    }

    fn assert_unchanged(&self, segment: &Segment, context: &str) {
        let mut now = vec![0; self.bytes.len()];
        self.region.copy_out(0, &mut now);
        let stat = fstat(segment).expect("fstat");
        assert!(now == self.bytes, "{context}: bytes changed");
        assert_eq!(stat.st_blocks, self.blocks, "{context}: pages changed");
        assert_eq!(u64::try_from(stat.st_size), Ok(segment.header().size_bytes), "{context}");
        segment.map().unwrap_or_else(|error| panic!("{context}: {error}"));
    }
}

/// Plays a whole table with one actor on one page size; returns what did not come as expected.
fn play(rows: &[Row], actor: Actor, grip: Grip, page: u64) -> Vec<String> {
    let draft = draft(page);
    let size = size_of(draft.header());
    let hostile = Hostile::start(actor, grip, draft.as_fd().as_raw_fd(), size);
    let segment = match grip {
        Grip::Writer => {
            hostile.ready();
            draft.seal().expect("sealed")
        }
        Grip::Reader => {
            let segment = draft.seal().expect("sealed");
            let fd = segment.read_only_fd().expect("/proc");
            fdpass::send(&hostile.socket, b"take", Some(fd.as_fd())).expect("the actor lives");
            hostile.ready();
            segment
        }
    };
    let watch = Watch::new(&segment, segment.map().expect("mapped"));
    let mut surprises = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let context = format!("{} by {grip:?} {actor:?} on {page}-byte pages", row.0);
        let (found, expected) = (hostile.call(index), expected(row, actor, grip, page));
        if found != expected {
            let (found, expected) = (Errno::from_raw(found), Errno::from_raw(expected));
            surprises.push(format!("{context}: {found:?} instead of {expected:?}"));
        }
        watch.assert_unchanged(&segment, &context);
    }
    surprises
}

fn play_all(rows: &[Row], grip: Grip, page: u64) {
    let _turn = turn();
    let test = format!("{grip:?} on {page}-byte pages");
    let Some(_pool) = pool(&test, page, 3) else { return };
    let mut surprises = Vec::new();
    for actor in [Actor::SameUid, Actor::OtherUid, Actor::Root] {
        if actor == Actor::SameUid || is_root() {
            surprises.extend(play(rows, actor, grip, page));
        } else {
            skipped(&test, &format!("only root can play {actor:?}"));
        }
    }
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}

#[test]
fn a_writer_cannot_tamper_with_its_sealed_segment_of_base_pages() {
    play_all(&WRITER, Grip::Writer, BASE);
}

#[test]
fn a_writer_cannot_tamper_with_its_sealed_segment_of_hugepages() {
    play_all(&WRITER, Grip::Writer, HUGE);
}

#[test]
fn a_reader_cannot_tamper_with_a_segment_of_base_pages() {
    play_all(&READER, Grip::Reader, BASE);
}

#[test]
fn a_reader_cannot_tamper_with_a_segment_of_hugepages() {
    play_all(&READER, Grip::Reader, HUGE);
}

/// A hostile writer's grip inside this process, for what happens before the seal.
fn hands_of(draft: &Draft) -> Hands {
    let (fd, size) = (draft.as_fd().as_raw_fd(), size_of(draft.header()));

    let map = map(fd, size, libc::PROT_READ | libc::PROT_WRITE).expect("not yet sealed");
    Hands { fd, size, map }
}

#[test]
fn the_writers_own_mapping_keeps_working_after_the_seal() {
    let draft = draft(BASE);
    let hands = hands_of(&draft);
    let segment = draft.seal().unwrap();
    let region = segment.map().unwrap();
    // SAFETY: the offset lies inside this writable mapping, to which no reference exists.
    unsafe { hands.map.cast::<u64>().add(600).write_volatile(77) };
    assert_eq!(region.load_acquire(4800), 77);
}

#[test]
fn a_hole_punched_between_map_and_seal_is_refilled() {
    let _turn = turn();
    for page in [BASE, HUGE] {
        let Some(_pool) = pool("a punched hole", page, 2) else { continue };
        let second = usize::try_from(page).unwrap();
        let keep = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let by_call = |hands: &Hands| allocate(hands, keep, second, second);
        let by_advice = |hands: &Hands| {
            let map = hands.map.wrapping_byte_add(second);
            remove_pages(&Hands { map, size: second, ..*hands })
        };
        for punch in [&by_call as &dyn Fn(&Hands) -> i32, &by_advice] {
            let draft = draft(page);
            let full = blocks(&draft);
            assert_eq!(punch(&hands_of(&draft)), 0, "before the seal punching is possible");
            assert!(blocks(&draft) < full, "there is a hole");
            let segment = draft.seal().unwrap();
            assert_eq!(blocks(&segment), full);
            assert_eq!(segment.map().unwrap().load_acquire(second), 0, "the new page is zero");
        }
    }
}

#[test]
fn a_header_punched_before_the_seal_is_refused_at_the_map() {
    let draft = draft(BASE);
    assert_eq!(punch(&hands_of(&draft)), 0);
    match draft.seal().unwrap().map().err() {
        Some(SegmentError::Header { field: "magic", found: 0, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_writer_that_shrinks_or_seals_before_the_agent_gets_no_segment() {
    let shrunk = draft(BASE);
    assert_eq!(shrink(&hands_of(&shrunk)), 0);
    let error = shrunk.seal().err();
    assert!(matches!(error, Some(SegmentError::Os { call: "fallocate", .. })), "{error:?}");

    let sealed = draft(BASE);
    // SAFETY: no memory is passed.
    let result =
        unsafe { libc::fcntl(sealed.as_fd().as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SEAL) };
    assert_eq!(result, 0);
    let error = sealed.seal().err();
    let expected = matches!(error, Some(SegmentError::Os { call: "fcntl(F_ADD_SEALS)", .. }));
    assert!(expected, "{error:?}");
}

/// A sealed file of the right size that nobody allocated.
fn hollow() -> OwnedFd {
    let fd = memfd_create("hollow", MFdFlags::MFD_ALLOW_SEALING).expect("memfd_create");
    nix::unistd::ftruncate(&fd, 2 * 4096).expect("ftruncate");
    let seals = nix::fcntl::FcntlArg::F_ADD_SEALS(required_seals());
    nix::fcntl::fcntl(&fd, seals).expect("F_ADD_SEALS");
    fd
}

fn duplicate(fd: impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().expect("a free descriptor")
}

#[test]
fn a_file_that_lacks_a_promise_is_refused_by_that_promises_name() {
    let unsealed = draft(BASE);
    let error = Segment::verify(duplicate(&unsealed), header(BASE)).err();
    assert!(matches!(error, Some(SegmentError::Seals { .. })), "{error:?}");

    let sealed = unsealed.seal().unwrap();
    let larger = Header { size_bytes: 3 * BASE, ..header(BASE) };
    let error = Segment::verify(duplicate(&sealed), larger).err();
    let size = matches!(error, Some(SegmentError::Size { found: 8192, expected: 12288 }));
    assert!(size, "{error:?}");

    let error = Segment::verify(hollow(), header(BASE)).err();
    let holes = matches!(error, Some(SegmentError::Holes { present: 0, expected: 8192 }));
    assert!(holes, "{error:?}");

    let stranger = Header { nonce: 4, ..header(BASE) };
    let error = Segment::verify(duplicate(&sealed), stranger).unwrap().map().err();
    let differs = matches!(error, Some(SegmentError::Header { field: "nonce_low", .. }));
    assert!(differs, "{error:?}");

    let mut plain = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut plain, &[1; 8192]).unwrap();
    plain.sync_all().unwrap();
    let error = Segment::verify(plain.into(), header(BASE)).err();
    let refused = matches!(
        error,
        Some(SegmentError::Os { call: "F_GET_SEALS", .. } | SegmentError::Seals { .. })
    );
    assert!(refused, "{error:?}");
}

/// Address, length and flags of the mapping of a segment in this process.
fn mapping_of(segment: &Segment) -> (usize, String) {
    let inode = format!(" {} ", segment.id().inode);
    let smaps = fs::read_to_string("/proc/self/smaps").expect("/proc");
    let from = smaps.lines().skip_while(|line| !line.contains(&inode));
    let lines: Vec<_> = from.take(40).collect();
    let start = lines[0].split('-').next().expect("an address");
    let flags = lines.iter().find(|line| line.starts_with("VmFlags")).expect("flags");
    (usize::from_str_radix(start, 16).expect("an address"), format!("{flags} "))
}

#[test]
fn a_forked_child_has_no_mapping_of_a_segment_and_no_core_dump_has_its_bytes() {
    let segment = draft(BASE).seal().unwrap();
    let region = segment.map().unwrap();
    let (address, flags) = mapping_of(&segment);
    assert!(flags.contains(" dc ") && flags.contains(" dd "), "{flags}");
    let resident = || {
        let mut pages = [0u8; 2];
        // SAFETY: the kernel checks the address and writes one byte for each of two pages.
        outcome(unsafe { libc::mincore(address as *mut _, 8192, pages.as_mut_ptr()) }.into())
    };
    assert_eq!(resident(), 0);
    // SAFETY: the child makes one system call and exits.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let errno = resident();
            // SAFETY: ends the child without the test harness's exit handlers.
            unsafe { libc::_exit(errno) }
        }
        ForkResult::Parent { child } => {
            let status = waitpid(child, None).unwrap();
            assert_eq!(status, WaitStatus::Exited(child, libc::ENOMEM));
        }
    }
    drop(region);
}

#[test]
fn a_shortage_of_hugepages_is_an_error_at_creation() {
    let size_bytes = 1 << 36;
    let huge = Header { size_bytes, ..header(HUGE) };
    match Draft::create(huge, HUGE, None).err() {
        Some(SegmentError::NoMemory { size_bytes: size, page_bytes: HUGE, source }) => {
            assert_eq!((size, source.raw_os_error()), (size_bytes, Some(libc::ENOMEM)));
        }
        Some(SegmentError::PageSize { bytes: HUGE }) => skipped("a shortage", "no hugepages"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_page_size_that_no_kernel_has_is_an_error_at_creation() {
    let error = Draft::create(header(BASE), 8192, None).err();
    assert!(matches!(error, Some(SegmentError::PageSize { bytes: 8192 })), "{error:?}");
}

#[test]
fn a_lease_on_the_file_cannot_stall_the_hand_over() {
    let draft = draft(BASE);
    let hands = hands_of(&draft);
    let segment = draft.seal().unwrap();
    // SAFETY: the signal is ignored from here on; the kernel sends it to the lease's holder.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    let fd = open_own(&hands, libc::O_RDWR).unwrap();
    // SAFETY: `open` just returned the descriptor to us alone.
    let leased = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: no memory is passed.
    let lease = unsafe { libc::fcntl(leased.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
    if lease != 0 {
        return println!("this kernel grants no lease on such a file: {}", Errno::last());
    }
    // A blocking open would succeed, after the 45 seconds that the holder has to answer.
    match segment.read_only_fd().err() {
        Some(SegmentError::Os { source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(libc::EWOULDBLOCK));
        }
        other => panic!("the open waited for the lease: {other:?}"),
    }
}
