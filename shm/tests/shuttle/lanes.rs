//! Several lanes read by one, under random schedules: their producers send, batch, close, die and
//! have successors; the reader takes turns, and sleeps over all of them.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex as Plain;

use laneway_shm::layout::P_BELL;
use laneway_shm::ring::{Found, Reader, Writer, sleep_on_all};

use super::oracle::queue::bytes_of;
use super::*;

const LANES: usize = 3;
/// Positions that each producer fills.
const LANE_POSITIONS: u64 = 20;
/// Messages that a lane hands out in its turn, at most.
const BUDGET: usize = 3;

/// What is planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// The sleeper does not hear the first bell.
    Deaf,
    /// The first lane has the turn in every round, and no budget.
    NoTurns,
}

/// What the agent carries between the ends of one lane.
struct Line {
    consumer: Segment,
    /// Segments of successors, each with the position at which it starts.
    successors: Plain<VecDeque<(u64, Segment)>>,
    /// Length of the message at each position.
    lens: Plain<BTreeMap<u64, usize>>,
}

fn segment(kernel: &Arc<Kernel>) -> Segment {
    let bytes = usize::try_from(geometry().segment_bytes()).expect("a small ring");
    Segment::below(bytes, kernel)
}

/// What the message at a position of a lane says.
fn text(lane: usize, position: u64, len: usize) -> Vec<u8> {
    bytes_of(position * LANES as u64 + lane as u64, len)
}

/// The producers of one lane, one after the other.
struct Speaker {
    lane: usize,
    line: Arc<Line>,
    kernel: Arc<Kernel>,
    writer: Writer<Segment, Segment>,
    memory: Segment,
    wait: WaitMode,
}

impl Speaker {
    fn put(&mut self, len: usize, staged: bool) {
        loop {
            if let Some(span) = self.writer.try_reserve(len).expect("oracle: nobody lies") {
                let position = span.position();
                self.writer.write(&span, 0, &text(self.lane, position, len));
                self.line.lens.lock().expect("never poisoned").insert(position, len);
                return if staged { self.writer.stage(&span) } else { self.writer.commit(&span) };
            }
            self.wait_for_room(len);
        }
    }

    fn wait_for_room(&mut self, len: usize) {
        match self.wait {
            WaitMode::Spin => thread::yield_now(),
            WaitMode::Park => {
                let slots = self.writer.geometry().slots_for(len);
                self.writer.park(slots, FOR_EVER).expect("oracle: nobody lies");
            }
        }
    }

    /// Dies, with a batch half written, and is followed by another.
    fn succeed(&mut self) {
        let _ = self.writer.try_reserve(8);
        let (end, released) = (self.writer.committed(), self.writer.released());
        let memory = segment(&self.kernel);
        self.writer = Writer::new(memory.clone(), geometry(), self.wait, end, released);
        self.writer.join(self.line.consumer.clone(), 1);
        let mut successors = self.line.successors.lock().expect("never poisoned");
        successors.push_back((end, memory.clone()));
        drop(successors);
        // The agent wakes whoever sleeps on the dead one's bell.
        std::mem::replace(&mut self.memory, memory).nudge();
    }

    fn speak(mut self) {
        let mut dice = shuttle::rand::thread_rng();
        while self.writer.committed() < LANE_POSITIONS {
            let len = dice.gen_range(0..20);
            match dice.gen_range(0..10) {
                0 => self.succeed(),
                1 => _ = self.writer.try_reserve(len),
                2 => {
                    self.put(len, true);
                    self.put(3, true);
                    self.writer.commit_batch();
                }
                _ => self.put(len, false),
            }
        }
        while !self.writer.try_end().expect("oracle: nobody lies") {
            self.wait_for_room(0);
        }
    }
}

/// The reader's side of one lane.
struct Ear {
    reader: Reader<Segment, Segment>,
    line: Arc<Line>,
    done: bool,
}

impl Ear {
    /// Hands out up to `budget` messages; how many there were.
    fn turn(&mut self, lane: usize, budget: usize) -> usize {
        let mut taken = 0;
        while taken < budget && !self.done {
            match self.reader.poll().expect("oracle: an honest producer") {
                Some(Found::Message(span)) => {
                    let mut bytes = vec![0; span.len];
                    self.reader.copy_out(&span, 0, &mut bytes);
                    let lens = self.line.lens.lock().expect("never poisoned");
                    let len = lens.get(&span.position()).copied();
                    drop(lens);
                    assert_eq!(len, Some(span.len), "oracle: length of a message");
                    assert_eq!(bytes, text(lane, span.position(), span.len), "oracle: torn");
                    self.reader.release(&span);
                    taken += 1;
                }
                Some(Found::Frozen { .. }) => panic!("oracle: a frozen payload that was not sent"),
                Some(Found::End) => {
                    self.reader.release_end();
                    self.done = true;
                }
                None if self.come_over() => {}
                None => break,
            }
        }
        taken
    }

    /// Goes on with the next generation, if this one is drained.
    fn come_over(&mut self) -> bool {
        let mut successors = self.line.successors.lock().expect("never poisoned");
        let next = successors.front().is_some_and(|(base, _)| *base == self.reader.position());
        let next = if next { successors.pop_front() } else { None };
        drop(successors);
        next.map(|(_, memory)| self.reader.join(memory)).is_some()
    }
}

fn open(lane: usize, kernel: &Arc<Kernel>, wait: WaitMode) -> (Speaker, Ear) {
    let (memory, consumer) = (segment(kernel), Segment::new(CONSUMER_SEGMENT_BYTES));
    let mut writer = Writer::new(memory.clone(), geometry(), wait, 0, 0);
    let mut reader = Reader::new(consumer.clone(), geometry(), wait, 0, 1);
    writer.join(consumer.clone(), 1);
    reader.join(memory.clone());
    let (successors, lens) = (Plain::default(), Plain::default());
    let line = Arc::new(Line { consumer, successors, lens });
    let (kernel, ear_line) = (Arc::clone(kernel), Arc::clone(&line));
    let speaker = Speaker { lane, line, kernel, writer, memory, wait };
    (speaker, Ear { reader, line: ear_line, done: false })
}

/// Sleeps on many bells of one kernel, as `futex_waitv` does.
fn wait_any(kernel: &Kernel, bells: &[(&Segment, u32)], limit: Duration) -> bool {
    if limit < FOR_EVER {
        thread::yield_now();
        return false;
    }
    kernel.wait(|| bells.iter().all(|(peer, rung)| peer.load_u32(P_BELL) == *rung));
    true
}

/// Takes turns until every lane has ended.
fn listen(mut ears: Vec<Ear>, kernel: &Kernel, wait: WaitMode, planted: Planted) {
    let mut waited = [0; LANES];
    while ears.iter().any(|ear| !ear.done) {
        let mut found = 0;
        for (lane, ear) in ears.iter_mut().enumerate() {
            if planted == Planted::NoTurns && found > 0 {
                break;
            }
            let taken = ear.turn(lane, BUDGET);
            found += taken;
            waited.iter_mut().for_each(|waited| *waited += taken);
            waited[lane] = 0;
        }
        // Whoever has something is heard after the others' budgets.
        let most = waited.iter().max().copied().unwrap_or(0);
        assert!(most <= (LANES - 1) * BUDGET, "oracle: a lane waits for {most} of the others");
        if found > 0 {
            continue;
        }
        let open = ears.iter_mut().filter(|ear| !ear.done);
        let mut rings: Vec<_> = open.map(|ear| &mut ear.reader).collect();
        match wait {
            _ if rings.is_empty() => {}
            WaitMode::Spin => thread::yield_now(),
            WaitMode::Park => {
                let deaf = usize::from(planted == Planted::Deaf);
                sleep_on_all(&mut rings, FOR_EVER, |bells, limit| {
                    wait_any(kernel, &bells[deaf.min(bells.len())..], limit)
                });
            }
        }
    }
    for ear in &ears {
        let lens = ear.line.lens.lock().expect("never poisoned");
        let (last, len) = lens.last_key_value().expect("something was sent");
        let end = last + geometry().slots_for(*len) + 1;
        assert_eq!(ear.reader.position(), end, "oracle: not all that was sent came");
    }
}

/// One execution: a thread for each lane's producers, and one reader.
fn fan_in(wait: WaitMode, planted: Planted) -> impl Fn() + Send + Sync + 'static {
    move || {
        let kernel = Kernel::new();
        let opened = (0..LANES).map(|lane| open(lane, &kernel, wait));
        let (speakers, ears): (Vec<_>, Vec<_>) = opened.unzip();
        let speakers: Vec<_> =
            speakers.into_iter().map(|speaker| thread::spawn(move || speaker.speak())).collect();
        listen(ears, &kernel, wait, planted);
        speakers.into_iter().for_each(|speaker| speaker.join().expect("no panic"));
    }
}

/// Executions for each way to wait and each kind of scheduler.
fn lanes_wanted() -> usize {
    if is_full_run() { 25_000 } else { 2_500 }
}

#[test]
fn many_lanes_are_read_in_turn_through_ends_and_successors() {
    for wait in [WaitMode::Spin, WaitMode::Park] {
        let model = || fan_in(wait, Planted::Nothing);
        if let Ok(schedule) = std::env::var("LANEWAY_SCHEDULE") {
            shuttle::replay(model(), &schedule);
            continue;
        }
        let random = run(RandomScheduler::new_from_seed(seed(), lanes_wanted()), model());
        let deep = run(PctScheduler::new_from_seed(seed(), 3, lanes_wanted()), model());
        println!("{LANES} lanes, {wait:?}: {random} random executions, {deep} of PCT");
    }
}

#[test]
fn planted_mistakes_of_a_reader_of_many_lanes_are_noticed() {
    for planted in [Planted::Deaf, Planted::NoTurns] {
        let mut config = Config::new();
        config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
        config.failure_persistence = shuttle::FailurePersistence::None;
        config.silence_warnings = true;
        let scheduler = RandomScheduler::new_from_seed(1, 1000);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            Runner::new(scheduler, config).run(fan_in(WaitMode::Park, planted));
        }));
        assert!(outcome.is_err(), "{planted:?} survived");
    }
}
