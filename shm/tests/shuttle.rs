//! The ring under hundreds of thousands of random schedules, larger than loom could exhaust.
//!
//! Sequentially consistent: what is sought are mistakes of the protocol, not missing orders, which
//! are loom's. Half of the schedules are random, half are PCT of depth 3 (Burckhardt et al, ASPLOS
//! 2010). The calls are random, too, and part of the schedule: a failure prints its seed, and
//! `LANEWAY_SEED=… cargo test -p laneway-shm --test shuttle` runs that one execution alone.
//! `LANEWAY_FULL=1` makes a million (build with `--release`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as Long, Ordering};
use std::time::Duration;

use laneway_shm::WaitMode;
use laneway_shm::geometry::Geometry;
use laneway_shm::layout::{CONSUMER_SEGMENT_BYTES, P_READERS, P_SLOTS, READER_BYTES};
use laneway_shm::memory::{Memory, OwnedMemory};
use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::atomic::AtomicBool;
use shuttle::sync::{Condvar, Mutex};
use shuttle::{Config, MaxSteps, Runner, thread};

#[path = "shuttle/crowd.rs"]
mod crowd;
#[path = "shuttle/lanes.rs"]
mod lanes;
mod oracle;

use oracle::mutant::{self, Mistake, Mutant};
use oracle::operation::{Form, Operation};
use oracle::queue::Next;
use oracle::ring::{self, FOR_EVER, Ground, Patience, Receiver, Sender, World};

/// Positions that the producer of one execution fills at least.
const POSITIONS: u64 = 64;
const SLOTS: u32 = 8;
const PAYLOAD: u32 = 8;
/// Entries of the roster that a model uses at most: the rest is never written.
const ENTRIES: usize = 4;
/// Far more than any execution takes: who gets there does not end.
const STEPS_MAX: usize = 100_000;

/// One segment. Words are plain; every access to one is a place where another thread may run.
#[derive(Clone)]
struct Segment(Arc<Words>);

struct Words {
    words: Vec<Long>,
    /// Shuttle lets others run before each access to it.
    crossing: AtomicBool,
    kernel: Arc<Kernel>,
}

/// Who sleeps on any word of the segments that share it.
struct Kernel {
    /// Whether a nudge is due, under the lock that a sleeper compares its words under.
    nudged: Mutex<bool>,
    rung: Condvar,
}

impl Kernel {
    fn new() -> Arc<Self> {
        Arc::new(Self { nudged: Mutex::new(false), rung: Condvar::new() })
    }

    /// Sleeps while the words are what was expected. As in the kernel, they are compared under the
    /// lock that a waker takes, and who rings for others wakes nobody here.
    fn wait(&self, as_expected: impl Fn() -> bool) {
        let mut nudged = self.nudged.lock().expect("never poisoned");
        while !*nudged && as_expected() {
            nudged = self.rung.wait(nudged).expect("never poisoned");
        }
        *nudged = false;
    }

    fn wake(&self, nudge: bool) {
        *self.nudged.lock().expect("never poisoned") |= nudge;
        self.rung.notify_all();
    }
}

impl Segment {
    fn new(bytes: usize) -> Self {
        Self::below(bytes, &Kernel::new())
    }

    /// A segment below a kernel that others share.
    fn below(bytes: usize, kernel: &Arc<Kernel>) -> Self {
        Self(Arc::new(Words {
            words: (0..bytes.div_ceil(8)).map(|_| Long::new(0)).collect(),
            crossing: AtomicBool::new(false),
            kernel: Arc::clone(kernel),
        }))
    }

    fn word(&self, offset: usize) -> &Long {
        self.0.crossing.load(Ordering::SeqCst);
        &self.0.words[offset / 8]
    }

    /// The half of a word in which a futex word stands.
    fn half(offset: usize) -> u32 {
        if offset.is_multiple_of(8) { 0 } else { 32 }
    }
}

impl Memory for Segment {
    fn load_acquire(&self, offset: usize) -> u64 {
        if (P_READERS + ENTRIES * READER_BYTES..P_SLOTS).contains(&offset) {
            return 0;
        }
        self.word(offset).load(Ordering::SeqCst)
    }

    #[expect(clippy::cast_possible_truncation, reason = "half of a word is meant")]
    fn load_u32(&self, offset: usize) -> u32 {
        (self.word(offset).load(Ordering::SeqCst) >> Self::half(offset)) as u32
    }

    fn copy_out(&self, offset: usize, target: &mut [u8]) {
        let (mut offset, mut rest) = (offset, target);
        while !rest.is_empty() {
            let within = offset % 8;
            let now = rest.len().min(8 - within);
            let word = self.word(offset).load(Ordering::SeqCst).to_le_bytes();
            let (bytes, later) = rest.split_at_mut(now);
            bytes.copy_from_slice(&word[within..within + now]);
            (offset, rest) = (offset + now, later);
        }
    }

    fn full_fence(&self) {}

    fn wait(&self, offset: usize, expected: u32, timeout: Duration) {
        if timeout < FOR_EVER {
            return thread::yield_now();
        }
        self.0.kernel.wait(|| self.load_u32(offset) == expected);
    }
}

impl OwnedMemory for Segment {
    fn store_relaxed(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::SeqCst);
    }

    fn store_release(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::SeqCst);
    }

    fn store_u32(&self, offset: usize, value: u32) {
        let (word, half) = (self.word(offset), Self::half(offset));
        let rest = word.load(Ordering::SeqCst) & !(u64::from(u32::MAX) << half);
        word.store(rest | u64::from(value) << half, Ordering::SeqCst);
    }

    fn copy_in(&self, offset: usize, source: &[u8]) {
        let (mut offset, mut rest) = (offset, source);
        while !rest.is_empty() {
            let within = offset % 8;
            let (bytes, later) = rest.split_at(rest.len().min(8 - within));
            let shared = self.word(offset);
            let mut word = shared.load(Ordering::SeqCst).to_le_bytes();
            word[within..within + bytes.len()].copy_from_slice(bytes);
            shared.store(u64::from_le_bytes(word), Ordering::SeqCst);
            (offset, rest) = (offset + bytes.len(), later);
        }
    }

    fn wake(&self, _offset: usize) {
        self.0.kernel.wake(false);
    }
}

impl Ground for Segment {
    fn nudge(&self) {
        self.0.kernel.wake(true);
    }
}

#[derive(Clone, Copy)]
struct Scheduled(Geometry);

impl World for Scheduled {
    type Memory = Segment;

    fn producer(&self) -> Segment {
        Segment::new(usize::try_from(self.0.segment_bytes()).expect("a small ring"))
    }

    fn consumer(&self) -> Segment {
        Segment::new(CONSUMER_SEGMENT_BYTES)
    }

    fn pause(&self) {
        thread::yield_now();
    }
}

/// Ends of the stream: how many there will be, once the producer knows.
type Ends = Arc<Long>;
const UNKNOWN: u64 = u64::MAX;

/// Half of all calls are the producer's.
fn any_call(choices: std::ops::Range<u8>) -> Operation {
    let mut dice = shuttle::rand::thread_rng();
    let max = (PAYLOAD * SLOTS) as usize;
    Operation::decode(dice.gen_range(choices), dice.r#gen(), max)
}

fn produce<W: World>(mut sender: Sender<W>, ends: &Ends) {
    let mut closed = 0;
    while sender.position() < POSITIONS {
        let call = any_call(0..16);
        let done = sender.make(call, Patience::ForEver);
        closed += u64::from(done && call == Operation::Close);
    }
    ends.store(closed + 1, Ordering::SeqCst);
    sender.make(Operation::Send(Form::Pieces, 3), Patience::ForEver);
    sender.make(Operation::Close, Patience::ForEver);
}

fn consume<W: World>(mut receiver: Receiver<W>, ends: &Ends) {
    let mut found = 0;
    while found < ends.load(Ordering::SeqCst) {
        let call = any_call(16..32);
        found += u64::from(receiver.make(call, Patience::ForEver) == Next::End);
    }
}

/// One execution: both ends make calls until the producer has filled its positions and closed.
fn execution<W>(world: W, wait: WaitMode) -> impl Fn() + Send + Sync + 'static
where
    W: World + Send + Sync + 'static,
    W::Memory: Send,
{
    move || {
        let geometry = geometry();
        let (sender, receiver) = ring::open(world.clone(), geometry, wait);
        let ends: Ends = Arc::new(Long::new(UNKNOWN));
        let told = Arc::clone(&ends);
        let producer = thread::spawn(move || produce(sender, &told));
        consume(receiver, &ends);
        producer.join().expect("no panic");
    }
}

fn geometry() -> Geometry {
    Geometry::try_new(PAYLOAD, SLOTS).expect("legal")
}

fn is_full_run() -> bool {
    std::env::var_os("LANEWAY_FULL").is_some_and(|value| value == "1")
}

/// Executions for each kind of scheduler and each way to wait.
fn executions_wanted() -> usize {
    if is_full_run() { 250_000 } else { 25_000 }
}

fn run(scheduler: impl Scheduler + 'static, model: impl Fn() + Send + Sync + 'static) -> usize {
    let mut config = Config::new();
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(model)
}

/// Whether a model with a planted mistake fails within a thousand schedules, as it must.
fn notice(mistake: impl std::fmt::Debug, model: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.failure_persistence = shuttle::FailurePersistence::None;
    config.silence_warnings = true;
    let scheduler = RandomScheduler::new_from_seed(1, 1000);
    mutant::assert_noticed(mistake, || {
        Runner::new(scheduler, config).run(model);
    });
}

/// The same schedules on every commit, others in each full run.
fn seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = since.map_or(0, |since| u64::from(since.subsec_nanos()) ^ since.as_secs());
    if is_full_run() { now } else { 1 }
}

fn explore_randomly(wait: WaitMode) {
    let model = execution(Scheduled(geometry()), wait);
    if let Ok(schedule) = std::env::var("LANEWAY_SCHEDULE") {
        return shuttle::replay(model, &schedule);
    }
    let scheduler = RandomScheduler::new_from_seed(seed(), executions_wanted());
    println!("{wait:?}: {} random executions", run(scheduler, model));
}

fn explore_by_depth(wait: WaitMode) {
    let model = execution(Scheduled(geometry()), wait);
    if let Ok(schedule) = std::env::var("LANEWAY_SCHEDULE") {
        return shuttle::replay(model, &schedule);
    }
    let scheduler = PctScheduler::new_from_seed(seed(), 3, executions_wanted());
    println!("{wait:?}: {} PCT executions", run(scheduler, model));
}

#[test]
fn spinning_ends_behave_like_a_queue_on_random_schedules() {
    explore_randomly(WaitMode::Spin);
}

#[test]
fn sleeping_ends_behave_like_a_queue_on_random_schedules() {
    explore_randomly(WaitMode::Park);
}

#[test]
fn spinning_ends_behave_like_a_queue_on_schedules_of_few_preemptions() {
    explore_by_depth(WaitMode::Spin);
}

#[test]
fn sleeping_ends_behave_like_a_queue_on_schedules_of_few_preemptions() {
    explore_by_depth(WaitMode::Park);
}

#[test]
fn every_planted_mistake_is_noticed_within_a_thousand_schedules() {
    let late = [Mistake::LateBytes];
    for mistake in mutant::OF_THE_DATA.into_iter().chain(mutant::OF_THE_SLEEP).chain(late) {
        let world = Mutant::new(Scheduled(geometry()), mistake);
        notice(mistake, execution(world, WaitMode::Park));
    }
}
