//! A process that scribbles over every byte it may write, against an honest end in another.
//!
//! The demon of `shm/tests/demonic.rs` proves the logic; this proves it on real sealed segments,
//! under real races. The honest end must live: every answer is a message within bounds or a
//! `Corruption`, no signal reaches it, and it never hangs. `LANEWAY_FULL=1` raises the two seconds
//! of each siege to thirty.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use laneway_shm::geometry::Geometry;
use laneway_shm::layout::{
    C_BELL, C_PARKED, C_RELEASED, CONSUMER_SEGMENT_BYTES, Header, KIND_CONSUMER, KIND_PRODUCER,
    P_BELL,
};
use laneway_shm::memfd::{Draft, Segment};
use laneway_shm::memory::{Memory, OwnedMemory};
use laneway_shm::ring::{Found, Reader, Span, Writer};
use laneway_shm::{Corruption, WaitMode};
use laneway_tests::hugepages::Reserved;
use laneway_tests::{skipped, turn};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe, write};

/// How much longer than its siege an honest end may take before it counts as hung.
const WATCHDOG: Duration = Duration::from_secs(120);
/// Laps that the scribbler pretends to be in, so that its turns often fit.
const LAPS: u64 = 4;
/// Calls before an end that was not found out starts anew.
const CALLS: u64 = 256;
/// What the buffers of a copy look like before it.
const CANARY: u8 = 0x2a;

/// A seeded generator (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn index(&mut self, limit: usize) -> usize {
        usize::try_from(self.below(limit as u64)).expect("below a usize")
    }
}

/// The scribbler's own writable mapping, as words.
struct Paper {
    start: *mut u64,
    words: usize,
}

impl Paper {
    /// Maps a segment that is not sealed yet.
    fn map(fd: i32, bytes: usize) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, fd, 0) };
        assert_ne!(start, libc::MAP_FAILED, "the writer maps its own segment");
        Self { start: start.cast(), words: bytes / 8 }
    }

    fn read(&self, word: usize) -> u64 {
        assert!(word < self.words);
        // SAFETY: the word lies inside the mapping, aligned, and no reference to it exists.
        unsafe { self.start.add(word).read_volatile() }
    }

    fn write(&self, word: usize, value: u64) {
        assert!(word < self.words);
        // SAFETY: as in `read`; the mapping is writable.
        unsafe { self.start.add(word).write_volatile(value) }
    }
}

/// Nonsense of every kind over the whole segment, the header included, for ever.
fn scribble(paper: &Paper, geometry: &Geometry, dice: &mut Dice) -> ! {
    loop {
        match dice.below(6) {
            0 => (0..64).for_each(|_| paper.write(dice.index(paper.words), dice.next())),
            1 => {
                let word = dice.index(paper.words);
                (0..64).for_each(|bit| paper.write(word, paper.read(word) ^ 1 << bit));
            }
            2 => {
                let (from, to) = (dice.index(paper.words), dice.index(paper.words));
                paper.write(to, paper.read(from));
            }
            3 => (0..paper.words).for_each(|word| paper.write(word, 0)),
            _ if paper.words * 8 == CONSUMER_SEGMENT_BYTES => plausible_cursor(paper, dice),
            4 => plausible_lap(paper, geometry, dice),
            _ => flip_a_length(paper, geometry, dice),
        }
    }
}

/// A lap of commit words as an honest producer leaves them, now and then with a lie.
fn plausible_lap(paper: &Paper, geometry: &Geometry, dice: &mut Dice) {
    let (turn, payload) = (1 + dice.below(LAPS), u64::from(geometry.payload()));
    for position in 0..geometry.count() {
        let (kind, len) = match dice.below(64) {
            0..48 => (1, dice.below(payload + 1)),
            48..63 => (2, payload),
            _ => (dice.below(5), dice.below(1 << 24)),
        };
        paper.write(geometry.slot_offset(position) / 8, turn << 32 | kind << 24 | len);
    }
}

/// The classical double fetch: a length that is legal and huge in turns, at full speed.
fn flip_a_length(paper: &Paper, geometry: &Geometry, dice: &mut Dice) {
    let word = geometry.slot_offset(dice.next()) / 8;
    let legal = (1 + dice.below(LAPS)) << 32 | 1 << 24 | dice.below(8);
    for _ in 0..2048 {
        paper.write(word, legal);
        paper.write(word, legal | 0x00ff_ff00);
    }
}

/// A cursor that an honest consumer might have, a sleep that it might sleep.
fn plausible_cursor(paper: &Paper, dice: &mut Dice) {
    for _ in 0..64 {
        let cursor = paper.read(C_RELEASED / 8);
        paper.write(C_RELEASED / 8, cursor.wrapping_add(dice.below(3)).wrapping_sub(dice.below(2)));
        paper.write(C_RELEASED / 8, dice.below(LAPS * 64));
        let bell_and_parked = dice.next() | 1 << 32;
        assert_eq!(C_BELL + 4, C_PARKED, "one word has both");
        paper.write(C_BELL / 8, bell_and_parked);
    }
}

/// The honest end's own segment. The scribbler cannot see it; stores only have to be inside.
struct Private {
    bytes: usize,
}

impl Private {
    fn inside(&self, offset: usize, len: usize) {
        assert!(offset + len <= self.bytes, "{len} bytes at {offset} of {}", self.bytes);
    }
}

impl Memory for Private {
    fn load_acquire(&self, offset: usize) -> u64 {
        unreachable!("own word at {offset} is read back")
    }
    fn load_u32(&self, offset: usize) -> u32 {
        unreachable!("own word at {offset} is read back")
    }
    fn copy_out(&self, offset: usize, _target: &mut [u8]) {
        unreachable!("own bytes at {offset} are read back")
    }
    fn full_fence(&self) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }
    fn wait(&self, offset: usize, _expected: u32, _timeout: Duration) {
        unreachable!("nobody rings at {offset}")
    }
}

impl OwnedMemory for Private {
    fn store_relaxed(&self, offset: usize, _value: u64) {
        self.inside(offset, 8);
    }
    fn store_release(&self, offset: usize, _value: u64) {
        self.inside(offset, 8);
    }
    fn store_u32(&self, offset: usize, _value: u32) {
        self.inside(offset, 4);
    }
    fn copy_in(&self, offset: usize, source: &[u8]) {
        self.inside(offset, source.len());
    }
    fn wake(&self, offset: usize) {
        assert!([P_BELL, C_BELL].contains(&offset));
    }
}

/// The scribbled segment: one real mapping, lent to one fresh end after the other.
struct Shared<M>(Rc<M>);

impl<M: Memory> Memory for Shared<M> {
    fn load_acquire(&self, offset: usize) -> u64 {
        self.0.load_acquire(offset)
    }
    fn load_u32(&self, offset: usize) -> u32 {
        self.0.load_u32(offset)
    }
    fn copy_out(&self, offset: usize, target: &mut [u8]) {
        self.0.copy_out(offset, target);
    }
    fn full_fence(&self) {
        self.0.full_fence();
    }
    fn wait(&self, offset: usize, expected: u32, timeout: Duration) {
        self.0.wait(offset, expected, timeout);
    }
}

/// What an honest end did during its siege.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    calls: u64,
    messages: u64,
    corruptions: u64,
}

impl Work {
    fn to_bytes(self) -> Vec<u8> {
        let words = [self.calls, self.messages, self.corruptions];
        words.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let work = Self { calls: word(0)?, messages: word(8)?, corruptions: word(16)? };
        (bytes.len() == 24).then_some(work)
    }

    /// Counts an answer; the corruption ends a round.
    fn count<T>(&mut self, answer: Result<Option<T>, Corruption>) -> Result<Option<T>, Corruption> {
        self.calls += 1;
        match &answer {
            Ok(Some(_)) => self.messages += 1,
            Ok(None) => {}
            Err(_) => self.corruptions += 1,
        }
        answer
    }
}

fn siege() -> Duration {
    let full = std::env::var_os("LANEWAY_FULL").is_some_and(|value| value == "1");
    Duration::from_secs(if full { 30 } else { 2 })
}

fn wait_mode(dice: &mut Dice) -> WaitMode {
    if dice.below(2) == 0 { WaitMode::Spin } else { WaitMode::Park }
}

/// The honest consumer: one strict reader after the other on the scribbled segment.
fn read_for(time: Duration, region: impl Memory, geometry: Geometry) -> Work {
    let (region, mut dice, mut work) = (Rc::new(region), Dice(1), Work::default());
    let start = Instant::now();
    while start.elapsed() < time {
        let position = dice.below(LAPS * geometry.count());
        let own = Private { bytes: CONSUMER_SEGMENT_BYTES };
        let mut reader = Reader::new(own, geometry, wait_mode(&mut dice), position, 1);
        reader.join(Shared(Rc::clone(&region)));
        // A round ends with the first corruption, which has been counted.
        let _ = read_round(&mut reader, &mut dice, &mut work);
    }
    work
}

fn read_round<M: Memory>(
    reader: &mut Reader<Shared<M>, Private>,
    dice: &mut Dice,
    work: &mut Work,
) -> Result<(), Corruption> {
    for _ in 0..CALLS {
        match work.count(reader.poll()) {
            Ok(Some(Found::Message(span))) => {
                examine(reader, &span, reader.position(), dice);
                let next = span.position() + span.slots;
                if let Some(span) = work.count(reader.poll_at(span.end(reader.geometry())))? {
                    examine(reader, &span, next, dice);
                }
                reader.release(&span);
            }
            Ok(Some(Found::End)) => reader.release_end(),
            Ok(Some(Found::Frozen { span, .. })) => reader.release(&span),
            Ok(None) => reader.park(Duration::from_micros(dice.below(100))),
            Err(first) => {
                for _ in 0..4 {
                    assert_eq!(reader.poll(), Err(first), "goes on after corruption");
                }
                return Err(first);
            }
        }
    }
    Ok(())
}

/// A message must lie where it should, within the geometry, and copy out exactly its length.
fn examine<M: Memory>(
    reader: &Reader<Shared<M>, Private>,
    span: &Span,
    position: u64,
    dice: &mut Dice,
) {
    let geometry = reader.geometry();
    assert_eq!(span.position(), position);
    assert!((1..=geometry.count()).contains(&span.slots), "{span:?}");
    assert!(span.len as u64 <= span.slots * u64::from(geometry.payload()), "{span:?}");
    let mut target = vec![CANARY; span.len + 8];
    let wanted = dice.index(target.len() + 1);
    let copied = reader.copy_out(span, 0, &mut target[..wanted]);
    assert_eq!(copied, wanted.min(span.len));
    assert!(target[copied..].iter().all(|&byte| byte == CANARY), "copied beyond {copied}");
}

/// The honest producer: one writer after the other, with a scribbled cursor.
fn write_for(time: Duration, region: impl Memory, geometry: Geometry) -> Work {
    let (region, mut dice, mut work) = (Rc::new(region), Dice(2), Work::default());
    let own_bytes = usize::try_from(geometry.segment_bytes()).expect("a small segment");
    let start = Instant::now();
    while start.elapsed() < time {
        let base = dice.below(geometry.count());
        let own = Private { bytes: own_bytes };
        let mut writer = Writer::new(own, geometry, wait_mode(&mut dice), base, base);
        writer.join(Shared(Rc::clone(&region)), 1);
        // A round ends with the first corruption, which has been counted.
        let _ = write_round(&mut writer, &mut dice, &mut work);
    }
    work
}

fn write_round<M: Memory>(
    writer: &mut Writer<Private, Shared<M>>,
    dice: &mut Dice,
    work: &mut Work,
) -> Result<(), Corruption> {
    let geometry = *writer.geometry();
    let message = vec![CANARY; geometry.message_max()];
    for _ in 0..CALLS {
        let len = dice.index(3 * geometry.payload() as usize);
        match work.count(writer.try_reserve(len)) {
            Ok(Some(span)) => {
                writer.write(&span, 0, &message[..len]);
                writer.commit(&span);
            }
            Ok(None) => {
                let timeout = Duration::from_micros(dice.below(100));
                work.count(writer.park(geometry.slots_for(len), timeout).map(|()| None::<()>))?;
            }
            Err(first) => {
                for _ in 0..4 {
                    assert_eq!(writer.try_reserve(0), Err(first), "goes on after corruption");
                }
                return Err(first);
            }
        }
        let lag = writer.committed() - writer.released();
        assert!(lag <= geometry.count(), "{lag} slots unreleased");
    }
    Ok(())
}

/// A forked process and the pipe on which it speaks.
struct Child {
    pid: Pid,
    speaks: OwnedFd,
    /// Already waited for: its number may belong to another process by now.
    buried: bool,
}

impl Child {
    /// Forks; the child says what `work` returns, or dies saying why.
    fn start(work: impl FnOnce(&OwnedFd) -> Vec<u8>) -> Self {
        let (speaks, mouth) = pipe().expect("a pipe");
        // SAFETY: the child uses nothing that another thread could hold at the fork except the
        // allocator, which libc makes usable again; it never returns from this function.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Parent { child } => Self { pid: child, speaks, buried: false },
            ForkResult::Child => {
                drop(speaks);
                let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
                let outcome = catch_unwind(AssertUnwindSafe(|| work(&mouth)));
                let (said, code) = match outcome {
                    Ok(said) => (said, 0),
                    Err(panic) => {
                        (panic.downcast_ref::<String>().map_or("a panic", |text| text).into(), 101)
                    }
                };
                let _ = write(&mouth, &said);
                // SAFETY: ends the child without the test harness's exit handlers.
                unsafe { libc::_exit(code) }
            }
        }
    }

    /// Waits for the child's next words, but not for ever; nothing if it hangs.
    fn hears(&self, patience: Duration) -> bool {
        let start = Instant::now();
        let mut fds = [PollFd::new(self.speaks.as_fd(), PollFlags::POLLIN)];
        while start.elapsed() < patience {
            // An interrupted poll looks at the clock again.
            if poll(&mut fds, PollTimeout::from(1000u16)).is_ok_and(|ready| ready > 0) {
                return true;
            }
        }
        false
    }

    /// What the child did, after it ended as a healthy process ends.
    fn outcome(mut self, patience: Duration) -> Work {
        assert!(self.hears(patience), "the honest end hangs");
        let status = waitpid(self.pid, None).expect("our child");
        self.buried = true;
        let mut said = Vec::new();
        let mut pipe = std::fs::File::from(self.speaks.try_clone().expect("a descriptor"));
        pipe.read_to_end(&mut said).expect("a pipe");
        let healthy = status == WaitStatus::Exited(self.pid, 0);
        assert!(healthy, "the honest end died: {status:?}: {}", String::from_utf8_lossy(&said));
        Work::from_bytes(&said).expect("the honest end says what it did")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.buried {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

/// A segment that a scribbler owns: it maps, the segment is sealed, and it scribbles as soon as
/// the honest end has mapped it, too, and compared its header.
struct Besieged {
    segment: Segment,
    _scribbler: Child,
    start: OwnedFd,
}

fn besieged(kind: u64, geometry: Geometry, page_bytes: u64) -> Besieged {
    let size_bytes = match kind {
        KIND_PRODUCER => geometry.segment_bytes().next_multiple_of(page_bytes),
        _ => CONSUMER_SEGMENT_BYTES as u64,
    };
    let header = Header {
        kind,
        lane: 1,
        generation: 1,
        nonce: 1,
        slot_stride: geometry.stride() as u64,
        slot_payload: u64::from(geometry.payload()),
        slot_count: geometry.count(),
        base_position: 0,
        size_bytes,
    };
    let draft = Draft::create(header, page_bytes, None).expect("memory for a segment");
    let fd = draft.as_fd().as_raw_fd();
    let (go, start) = pipe().expect("a pipe");
    let scribbler = Child::start(move |mouth| {
        let paper = Paper::map(fd, usize::try_from(size_bytes).expect("a small segment"));
        let _ = write(mouth, b"mapped");
        let _ = nix::unistd::read(&go, &mut [0]);
        scribble(&paper, &geometry, &mut Dice(3))
    });
    assert!(scribbler.hears(WATCHDOG), "the scribbler maps its segment");
    let segment = draft.seal().expect("sealed after the writer's map");
    Besieged { segment, _scribbler: scribbler, start }
}

impl Besieged {
    /// Runs the honest end in a process of its own, and reports when it came out alive.
    fn withstand(&self, name: &str, honest: impl FnOnce(Duration, &Segment) -> Work) {
        let child = Child::start(|_| honest(siege(), &self.segment).to_bytes());
        let work = child.outcome(siege() + WATCHDOG);
        println!("{name}: {work:?}");
        assert!(work.calls > 1000, "{name} hardly worked: {work:?}");
        assert!(work.messages > 100, "{name} never got past the first check: {work:?}");
        assert!(work.corruptions > 10, "{name} was hardly attacked: {work:?}");
    }

    fn begin(&self) {
        write(&self.start, b"go").expect("the scribbler waits");
    }
}

/// A consumer against a scribbling producer.
fn withstand_producer(name: &str, payload: u32, count: u32, page_bytes: u64) {
    let geometry = Geometry::try_new(payload, count).expect("legal");
    let besieged = besieged(KIND_PRODUCER, geometry, page_bytes);
    besieged.withstand(name, |time, segment| {
        let region = segment.map().expect("an untouched header");
        besieged.begin();
        read_for(time, region, geometry)
    });
}

#[test]
fn a_consumer_outlives_a_producer_that_scribbles_on_base_pages() {
    let _turn = turn();
    withstand_producer("short slots", 56, 64, 4096);
}

#[test]
fn a_consumer_outlives_a_producer_that_scribbles_on_hugepages() {
    let _turn = turn();
    match Reserved::add(2 << 20, 2) {
        Some(_pages) => withstand_producer("long slots", 4088, 256, 2 << 20),
        None => skipped("scribbling on hugepages", "the pool cannot grow"),
    }
}

#[test]
fn a_producer_outlives_a_consumer_that_scribbles() {
    let _turn = turn();
    let geometry = Geometry::try_new(56, 64).expect("legal");
    let besieged = besieged(KIND_CONSUMER, geometry, 4096);
    besieged.withstand("producer", |time, segment| {
        let region = segment.map().expect("an untouched header");
        besieged.begin();
        write_for(time, region, geometry)
    });
}
