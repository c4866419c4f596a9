//! Which measurements a round of `compare` consists of: who, at which sizes and depths. Pure.

use crate::cli::{CompareArgs, CopyArg};
use crate::error::BenchError;
use crate::ideal;
use crate::plan::{Cell, Depths, Who};
use crate::stream::BATCH;
use crate::task::{Mode, Wait, Work};

/// Sizes that are compared unless told otherwise, in bytes.
pub(crate) const SIZES: [usize; 6] = [8, 64, 1024, 4096, 65536, 1 << 20];
/// The same for a first look.
pub(crate) const QUICK_SIZES: [usize; 2] = [64, 4096];
/// Everybody whom any build can have, in the order of the tables.
const RIVALS: [Who; 13] = [
    Who::Rtrb,
    Who::ArrayQueue,
    Who::CrossbeamChannel,
    Who::Ringbuf,
    Who::Iceoryx2,
    Who::ShmemIpc,
    Who::IpcChannel,
    Who::Pipe,
    Who::UnixStream,
    Who::UnixSeqpacket,
    Who::Tcp,
    Who::TonicUnary,
    Who::TonicStream,
];
/// Who needs more than cargo brings, and has a feature of its own.
const WANTING: &[Who] = &[
    #[cfg(feature = "rivals-dpdk")]
    Who::DpdkRing,
    #[cfg(feature = "rivals-dpdk")]
    Who::DpdkInPlace,
    #[cfg(feature = "rivals-aeron")]
    Who::Aeron,
];
/// Largest message that lanes always pass by value, in bytes. Beyond it there are two ways in.
const SMALL_MAX: usize = 256;
/// Largest message that is also sent in batches, in bytes.
const BATCH_MAX: usize = 256;
/// Sizes that queues of one process move by value, in bytes.
const BY_VALUE: [usize; 6] = [8, 56, 64, 256, 1024, 4096];
/// Sizes that shmem-ipc's typed ring is built for here, in bytes.
const TYPED: [usize; 8] = [8, 56, 64, 256, 1024, 4096, 65536, 1 << 20];
/// Elements of a ring between whose ends one message travels: a few that stay hotter, or as many
/// as a lane has, so that an end looks at the other one's position more seldom.
const LATENCY_SLOTS: [usize; 2] = [64, 256];
/// A shallow ring that streams, in bytes and elements: within a private L2.
const SHALLOW: (usize, usize) = (256 << 10, 1024);
/// A deep ring that streams, in bytes and elements: beyond a private L2, within a shared L3.
const DEEP: (usize, usize) = (4 << 20, 65536);
/// Terms of Aeron's log, of which it has three: one that caches may hold, and Aeron's own.
const TERMS: [usize; 2] = [4 << 20, 64 << 20];
/// The shortest term, in bytes.
pub(crate) const TERM_MIN: usize = 64 << 10;

/// All measurements of a round. For each size and work the lane comes first and its rivals right
/// after it, so that the cpus have little time to move.
pub(crate) fn cells(sizes: &[usize], args: &CompareArgs) -> Result<Vec<Cell>, BenchError> {
    let everybody = [&RIVALS, WANTING].concat();
    let rivals = if args.rivals.is_empty() { &everybody } else { &args.rivals };
    let asked = |work| args.work.is_empty() || args.work.contains(&work);
    let mut cells = Vec::new();
    for &bytes in sizes {
        for work in [Work::Latency, Work::Stream, Work::Batch].into_iter().filter(|w| asked(*w)) {
            if args.readers.contains(&1) && (work != Work::Batch || bytes <= BATCH_MAX) {
                pairs(&mut cells, work, bytes, rivals, args)?;
            }
            if work == Work::Stream {
                crowds(&mut cells, bytes, rivals, args)?;
            }
        }
        let (work, mode, who) = (Work::Copy, Mode::All, Who::Memcpy);
        cells.push(Cell { work, bytes, readers: 1, mode, who, depth: 0 });
    }
    Ok(cells)
}

/// One writer, one reader: lanes, then everybody else.
fn pairs(
    cells: &mut Vec<Cell>,
    work: Work,
    bytes: usize,
    rivals: &[Who],
    args: &CompareArgs,
) -> Result<(), BenchError> {
    let lane = Depths::of(bytes)?;
    let depths = if work == Work::Latency { &args.latency_depths } else { &args.depths };
    let usual = if work == Work::Latency { lane.latency } else { lane.stream };
    let slots = if depths.is_empty() { std::slice::from_ref(&usual) } else { depths };
    let mut add = |who, depth| {
        cells.push(Cell { work, bytes, readers: 1, mode: Mode::All, who, depth });
    };
    let (strict, trusted) = match &args.copy[..] {
        [] => (true, bytes > SMALL_MAX),
        copy => (copy.contains(&CopyArg::Strict), copy.contains(&CopyArg::Trusted)),
    };
    // In turns by depth, so that each way meets the same moment.
    for &slots in slots {
        if strict {
            add(Who::Laneway, slots);
        }
        if strict && bytes > SMALL_MAX {
            add(Who::Sent, slots);
        }
        // Batches are received by the strict reader only.
        if trusted && work != Work::Batch {
            add(Who::Trusted, slots);
        }
    }
    if work == Work::Batch && strict {
        lane.packed.iter().for_each(|&slots| add(Who::Packed, slots));
    }
    if work == Work::Latency && ideal::SIZES.contains(&bytes) {
        add(Who::Ideal, 0);
    }
    for &who in rivals.iter().filter(|who| work != Work::Batch || has_batches(**who)) {
        for depth in depths_of(who, work, bytes, depths) {
            add(who, depth);
        }
    }
    Ok(())
}

/// One writer, several readers: lanes, and of the rivals those that can, or were named.
fn crowds(
    cells: &mut Vec<Cell>,
    bytes: usize,
    rivals: &[Who],
    args: &CompareArgs,
) -> Result<(), BenchError> {
    let usual = Depths::of(bytes)?.stream;
    let slots = if args.depths.is_empty() { std::slice::from_ref(&usual) } else { &args.depths };
    for &readers in args.readers.iter().filter(|readers| **readers > 1) {
        let mut add = |who, depth| {
            let (work, mode) = (Work::Stream, Mode::All);
            cells.push(Cell { work, bytes, readers, mode, who, depth });
        };
        slots.iter().for_each(|&slots| add(Who::Laneway, slots));
        let named = !args.rivals.is_empty();
        for &who in rivals.iter().filter(|who| named || has_readers(**who)) {
            for depth in depths_of(who, Work::Stream, bytes, &args.depths) {
                add(who, depth);
            }
        }
    }
    Ok(())
}

/// Rivals whose messages several readers read each.
fn has_readers(who: Who) -> bool {
    who == Who::Iceoryx2
}

/// Rivals with a documented way to publish many small messages at once.
fn has_batches(who: Who) -> bool {
    matches!(
        who,
        Who::Rtrb
            | Who::Ringbuf
            | Who::ShmemIpc
            | Who::DpdkRing
            | Who::DpdkInPlace
            | Who::Pipe
            | Who::UnixStream
            | Who::Tcp
    )
}

/// What a message takes of Aeron's log, roughly if it needs several frames, in bytes.
pub(crate) fn aeron_frame(bytes: usize) -> usize {
    (bytes + 32).next_multiple_of(32)
}

/// The shortest term for messages of `bytes` bytes: Aeron sends none beyond an eighth of it.
pub(crate) fn term_min(bytes: usize) -> usize {
    bytes.saturating_mul(8).next_power_of_two().max(TERM_MIN)
}

/// The depths of a rival that are worth a measurement; 0 where it has none.
fn depths_of(who: Who, work: Work, bytes: usize, asked: &[u32]) -> Vec<u32> {
    let elements = |(budget, most): (usize, usize), least: usize| {
        let fitting = (budget / bytes.max(1)).clamp(least, most);
        u32::try_from(fitting).unwrap_or(u32::MAX)
    };
    match (who, work) {
        (Who::Pipe | Who::UnixStream | Who::UnixSeqpacket | Who::Tcp | Who::IpcChannel, _)
        | (Who::TonicUnary | Who::TonicStream, _) => vec![0],
        // Its rate does not change with the depth: see `docs/measurements.md`.
        (Who::Iceoryx2, _) if asked.is_empty() => vec![elements((4 << 20, 64), 4)],
        // Three terms follow each other whatever travels; what is counted is one term's messages.
        (Who::Aeron, work) if asked.is_empty() || work == Work::Latency => {
            let fitting = TERMS.into_iter().filter(|&term| term >= term_min(bytes));
            let messages = |term: usize| u32::try_from(term / aeron_frame(bytes));
            fitting.filter_map(|term| messages(term).ok()).collect()
        }
        _ if !asked.is_empty() => asked.to_vec(),
        (_, Work::Latency) => {
            let mut depths = LATENCY_SLOTS.map(|most| elements((SHALLOW.0, most), 2)).to_vec();
            depths.dedup();
            depths
        }
        _ => {
            // A batch must fit in.
            let least = if work == Work::Batch { BATCH } else { 4 };
            let mut depths = vec![elements(SHALLOW, least), elements(DEEP, least)];
            depths.dedup();
            depths
        }
    }
}

/// Why a cell cannot be measured, if it cannot.
pub(crate) fn out_of_reach(cell: &Cell, wait: Wait) -> Option<&'static str> {
    match cell.who {
        who if cell.readers > 1 && !has_readers(who) => {
            Some("it has one reader here: iceoryx2 is the rival with several")
        }
        Who::DpdkRing | Who::DpdkInPlace if !cfg!(feature = "rivals-dpdk") => {
            Some("this build has no DPDK: build it with `--features rivals-dpdk`")
        }
        Who::Aeron if !cfg!(feature = "rivals-aeron") => {
            Some("this build has no Aeron: build it with `--features rivals-aeron`")
        }
        Who::Rtrb
        | Who::ArrayQueue
        | Who::Ringbuf
        | Who::DpdkRing
        | Who::DpdkInPlace
        | Who::Aeron
            if wait == Wait::Park =>
        {
            Some("it has no call that sleeps until there is a message")
        }
        Who::TonicUnary if cell.work == Work::Stream => {
            Some("a call for each message is a round trip each: see its latency")
        }
        Who::Rtrb | Who::ArrayQueue | Who::CrossbeamChannel | Who::Ringbuf
            if !BY_VALUE.contains(&cell.bytes) =>
        {
            Some("it moves values, and is built for 8, 56, 64, 256, 1024 and 4096 bytes here")
        }
        Who::DpdkRing if !BY_VALUE.contains(&cell.bytes) => {
            Some("it copies elements of 8, 56, 64, 256, 1024 and 4096 bytes here: see `in place`")
        }
        Who::DpdkInPlace if !cell.bytes.is_multiple_of(4) => {
            Some("its elements have a multiple of four bytes")
        }
        Who::ShmemIpc if !TYPED.contains(&cell.bytes) => {
            Some("its ring is typed, and is built for the usual sizes here")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_compares_nothing_twice_and_everybody_with_a_lane() {
        let cells = cells(&SIZES, &CompareArgs::default()).unwrap();
        let mut unique = cells.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), cells.len());
        for cell in cells.iter().filter(|cell| cell.work != Work::Copy) {
            let lane = |other: &&Cell| {
                other.who == Who::Laneway && (other.work, other.bytes) == (cell.work, cell.bytes)
            };
            assert!(cells.iter().any(|other| lane(&other)), "{cell:?}");
        }
        for who in RIVALS {
            assert!(cells.iter().any(|cell| cell.who == who), "{who:?}");
        }
    }

    #[test]
    fn every_axis_can_be_chosen() {
        let found = |args: CompareArgs, test: fn(&Cell) -> bool| {
            let cells = cells(&[64, 4096], &args).unwrap();
            assert!(cells.iter().any(|cell| cell.work != Work::Copy), "{cells:?}");
            cells.iter().filter(|cell| cell.work != Work::Copy).all(test)
        };
        let usual = CompareArgs::default;
        let args = CompareArgs { work: vec![Work::Batch], ..usual() };
        assert!(found(args, |cell| cell.work == Work::Batch && cell.bytes == 64));
        let args = CompareArgs { copy: vec![CopyArg::Trusted], ..usual() };
        assert!(found(args, |cell| !cell.who.is_lane() || cell.who == Who::Trusted));
        let args = CompareArgs { copy: vec![CopyArg::Strict], ..usual() };
        assert!(found(args, |cell| cell.who != Who::Trusted));
        let args = CompareArgs {
            latency_depths: vec![16],
            rivals: vec![Who::Rtrb],
            work: vec![Work::Latency],
            ..usual()
        };
        assert!(found(args, |cell| cell.depth == 16 || cell.who == Who::Ideal));
        let args = CompareArgs { readers: vec![8], ..usual() };
        assert!(found(args, |cell| cell.readers == 8
            && cell.work == Work::Stream
            && matches!(cell.who, Who::Laneway | Who::Iceoryx2)));
        let named = CompareArgs { readers: vec![2], rivals: vec![Who::Pipe], ..usual() };
        let cells = cells(&[64], &named).unwrap();
        let pipe = cells.iter().find(|cell| cell.who == Who::Pipe).unwrap();
        assert!(out_of_reach(pipe, Wait::Spin).is_some_and(|why| why.contains("one reader")));
    }

    #[test]
    fn depths_are_shallow_and_deep_unless_they_are_asked_for() {
        let of = |who, work, bytes, asked: &[u32]| depths_of(who, work, bytes, asked);
        assert_eq!(of(Who::Rtrb, Work::Stream, 64, &[]), [1024, 65536]);
        assert_eq!(of(Who::ShmemIpc, Work::Stream, 65536, &[]), [4, 64]);
        assert_eq!(of(Who::ShmemIpc, Work::Stream, 1 << 20, &[]), [4]);
        assert_eq!(of(Who::Ringbuf, Work::Stream, 64, &[128]), [128]);
        assert_eq!(of(Who::Ringbuf, Work::Latency, 64, &[]), [64, 256]);
        assert_eq!(of(Who::Ringbuf, Work::Latency, 64, &[128]), [128]);
        assert_eq!(of(Who::Iceoryx2, Work::Latency, 64, &[128]), [128]);
        assert_eq!(of(Who::Ringbuf, Work::Latency, 4096, &[]), [64]);
        assert_eq!(of(Who::Pipe, Work::Stream, 64, &[128]), [0]);
        assert_eq!(of(Who::Iceoryx2, Work::Stream, 65536, &[]), [64]);
        assert_eq!(of(Who::Aeron, Work::Stream, 64, &[]), [43_690, 699_050]);
        assert_eq!(of(Who::Aeron, Work::Stream, 1 << 20, &[]), [63]);
        assert_eq!(of(Who::Aeron, Work::Stream, 64, &[128]), [128]);
    }

    #[test]
    fn who_cannot_take_part_says_why() {
        let cell =
            |who, work, bytes| Cell { work, bytes, readers: 1, mode: Mode::All, who, depth: 64 };
        let spinning = |who, work, bytes| out_of_reach(&cell(who, work, bytes), Wait::Spin);
        assert!(spinning(Who::Rtrb, Work::Stream, 64).is_none());
        assert!(spinning(Who::Rtrb, Work::Stream, 65536).is_some());
        assert!(spinning(Who::TonicUnary, Work::Stream, 64).is_some());
        let built = spinning(Who::Aeron, Work::Stream, 64).is_none();
        assert_eq!(built, cfg!(feature = "rivals-aeron"), "a build without it says so");
        let built = spinning(Who::DpdkRing, Work::Batch, 64).is_none();
        assert_eq!(built, cfg!(feature = "rivals-dpdk"), "a build without it says so");
        assert!(spinning(Who::DpdkRing, Work::Stream, 65536).is_some());
        assert!(spinning(Who::DpdkInPlace, Work::Stream, 57).is_some());
        let parked = out_of_reach(&cell(Who::Rtrb, Work::Stream, 64), Wait::Park);
        assert!(parked.is_some_and(|why| why.contains("sleeps")));
    }
}
