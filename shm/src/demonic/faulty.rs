//! Calls with planted bugs: the siege has teeth if its oracles catch each of them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::cursor::CommitWord;
use crate::memory::Memory as _;

/// Packed messages taken as they are, or with a bug that somebody could have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packed {
    Real,
    /// Looks at the length again to count the items.
    LooksTwice,
    /// Takes a message that is no whole number of items for one more.
    RoundsUp,
    /// Goes on for as long as something is there.
    NeverFull,
    /// Tells of a stranger after it has handed out messages.
    TellsLate,
}

impl Packed {
    pub(super) const FAULTY: [Self; 4] =
        [Self::LooksTwice, Self::RoundsUp, Self::NeverFull, Self::TellsLate];

    pub(super) fn try_recv<const N: usize>(
        self,
        consumer: &mut Consumer,
        limit: usize,
        mut read: impl FnMut([u8; N]),
    ) -> Result<usize, RecvError> {
        let mut taken = 0;
        while taken < limit || self == Self::NeverFull {
            let span = match consumer.ring.ready() {
                Some(span) => span,
                None if taken > 0 => break,
                None => match consumer.next_span()? {
                    Some(span) => span,
                    None => break,
                },
            };
            let whole = span.len > 0 && span.len.is_multiple_of(N);
            if !whole && (self != Self::RoundsUp || span.len == 0) {
                if taken == 0 || self == Self::TellsLate {
                    return Err(RecvError::Length { found: span.len, expected: N });
                }
                break;
            }
            let peer = consumer.ring.peer().unwrap();
            let len = match self {
                Self::LooksTwice if span.slots == 1 => {
                    CommitWord(peer.load_acquire(span.place.offset)).len() as usize
                }
                _ => span.len,
            };
            let items = len.div_ceil(N);
            for item in 0..items {
                let mut bytes = [0; N];
                match self {
                    Self::LooksTwice if span.slots == 1 => {
                        peer.copy_out(span.place.offset + WORD_BYTES + item * N, &mut bytes);
                    }
                    _ => _ = consumer.ring.copy_out(&span, item * N, &mut bytes),
                }
                read(bytes);
            }
            consumer.ring.release(&span);
            taken += items;
        }
        Ok(taken)
    }
}

/// As [`Consumer::try_recv_arrays`], but whatever is found behind messages is told to nobody.
pub(super) fn try_recv_arrays<const N: usize>(
    consumer: &mut Consumer,
    limit: usize,
    mut read: impl FnMut([u8; N]),
) -> Result<usize, RecvError> {
    let mut taken = 0;
    while taken < limit {
        match consumer.try_recv_array(&mut read) {
            Ok(Some(())) => taken += 1,
            Err(error) if taken == 0 => return Err(error),
            Ok(None) | Err(_) => break,
        }
    }
    Ok(taken)
}

/// How many cases the oracles needed to notice; a panic if they did not, or noticed something else.
pub(super) fn assert_caught(bug: &str, case: impl Fn(&Lane, &Dice) -> (u64, bool)) {
    let dice = Dice::new(1);
    let lanes = [Lane::new(8, 4, WaitMode::Spin), Lane::new(24, 8, WaitMode::Spin)];
    let noticed = (1..3000).zip(lanes.iter().cycle()).find_map(|(number, lane)| {
        let outcome = catch_unwind(AssertUnwindSafe(|| case(lane, &dice)));
        let payload = outcome.err()?;
        let said = payload.downcast_ref::<String>().cloned();
        Some((number, said.or_else(|| Some((*payload.downcast_ref::<&str>()?).into()))?))
    });
    let (cases, said) = noticed.unwrap_or_else(|| panic!("{bug} survived"));
    println!("{bug}: caught after {cases} cases: {said}");
    assert!(said.contains("oracle"), "{bug} fell over something else: {said}");
}
