//! Several lanes read by one, under random schedules: their producers send, batch, close, die and
//! have successors; the reader takes turns or goes by stamps, takes lanes out, puts them back, and
//! sleeps over all of them.

use laneway_shm::layout::P_BELL;

use super::oracle::by_stamp::ByStamp;
use super::oracle::group::{self, LANES, OF_ORDER, OF_TURNS, Reads, Wrong};
use super::oracle::in_turn::InTurn;
use super::oracle::operation::Group;
use super::*;

/// Positions that each producer fills.
const LANE_POSITIONS: u64 = 20;

/// Lanes whose reader sleeps in one place.
#[derive(Clone)]
struct Below {
    kernel: Arc<Kernel>,
}

impl World for Below {
    type Memory = Segment;

    fn producer(&self) -> Segment {
        let bytes = usize::try_from(geometry().segment_bytes()).expect("a small ring");
        Segment::below(bytes, &self.kernel)
    }

    fn consumer(&self) -> Segment {
        Segment::new(CONSUMER_SEGMENT_BYTES)
    }

    fn pause(&self) {
        thread::yield_now();
    }
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

/// Where each lane ends, once that is known, and whether its producer is gone without an end.
type Finish = Arc<[(Long, Arc<std::sync::atomic::AtomicBool>); LANES]>;

fn speak(mut sender: Sender<Below>, lane: usize, finish: &Finish) {
    while sender.position() < LANE_POSITIONS {
        sender.make(any_call(0..16), Patience::ForEver);
    }
    let (end, gone) = &finish[lane];
    if shuttle::rand::thread_rng().r#gen() {
        sender.make(Operation::Send(Form::Pieces, 3), Patience::ForEver);
        end.store(sender.position() + 1, Ordering::SeqCst);
        sender.make(Operation::Close, Patience::ForEver);
    } else {
        end.store(sender.position(), Ordering::SeqCst);
        gone.store(true, Ordering::SeqCst);
        sender.die();
    }
}

/// Makes calls until every lane has come to its end.
fn listen(reads: &mut impl Reads<Below>, kernel: &Kernel, wait: WaitMode, finish: &Finish) {
    let end = |lane: usize| Some(finish[lane].0.load(Ordering::SeqCst));
    while !reads.is_done(end) {
        let mut dice = shuttle::rand::thread_rng();
        let call = Group::of_the_reader(dice.r#gen(), dice.gen_range(0..LANES), dice.r#gen());
        reads.make(call);
        if dice.gen_range(0..4) > 0 {
            continue;
        }
        // Whoever waits for ever waits for all, and only if nothing is there.
        reads.all_in();
        reads.make(Group::Elapse(4));
        if reads.make(Group::Many(LANES)) == 0 {
            match wait {
                WaitMode::Spin => thread::yield_now(),
                WaitMode::Park if reads.is_done(end) => {}
                WaitMode::Park => reads.sleep(|bells, limit| wait_any(kernel, bells, limit)),
            }
        }
    }
}

/// One execution: a thread for each lane's producers, and one reader.
fn many_lanes<R: Reads<Below>>(
    wait: WaitMode,
    reads: impl Fn() -> R + Send + Sync + 'static,
) -> impl Fn() + Send + Sync + 'static {
    move || {
        let world = Below { kernel: Kernel::new() };
        let mut reads = reads();
        let lanes = group::open(&world, geometry(), wait);
        let gone = lanes.each_ref().map(|(_, ear)| Arc::clone(&ear.gone));
        let finish: Finish = Arc::new(gone.map(|gone| (Long::new(UNKNOWN), gone)));
        let mut speakers = Vec::new();
        for (lane, (sender, ear)) in lanes.into_iter().enumerate() {
            reads.add(ear);
            let finish = Arc::clone(&finish);
            speakers.push(thread::spawn(move || speak(sender, lane, &finish)));
        }
        listen(&mut reads, &world.kernel, wait, &finish);
        speakers.into_iter().for_each(|speaker| speaker.join().expect("no panic"));
    }
}

/// Executions for each way to wait and each kind of scheduler.
fn lanes_wanted() -> usize {
    if is_full_run() { 25_000 } else { 2_500 }
}

fn explore<R: Reads<Below>>(name: &str, reads: impl Fn() -> R + Copy + Send + Sync + 'static) {
    for wait in [WaitMode::Spin, WaitMode::Park] {
        let model = || many_lanes(wait, reads);
        if let Ok(schedule) = std::env::var("LANEWAY_SCHEDULE") {
            shuttle::replay(model(), &schedule);
            continue;
        }
        let random = run(RandomScheduler::new_from_seed(seed(), lanes_wanted()), model());
        let deep = run(PctScheduler::new_from_seed(seed(), 3, lanes_wanted()), model());
        println!("{LANES} lanes, {name}, {wait:?}: {random} random executions, {deep} of PCT");
    }
}

#[test]
fn many_lanes_are_read_in_turn_through_ends_and_successors() {
    explore("in turn", || InTurn::new(Wrong::Nothing));
}

#[test]
fn many_lanes_are_read_by_their_stamps_and_nobody_is_waited_for_beyond_the_patience() {
    explore("by stamps", || ByStamp::new(Wrong::Nothing));
}

#[test]
fn planted_mistakes_of_a_reader_of_many_lanes_are_noticed() {
    for wrong in OF_TURNS.into_iter().chain([Wrong::Deaf]) {
        notice(wrong, many_lanes(WaitMode::Park, move || InTurn::new(wrong)));
    }
    for wrong in OF_ORDER.into_iter().chain([Wrong::AwaitsTheDead]) {
        notice(wrong, many_lanes(WaitMode::Park, move || ByStamp::new(wrong)));
    }
}
