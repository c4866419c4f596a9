//! A reader of a broadcast lane, judged at each look.

use std::sync::atomic::Ordering;

use laneway_shm::layout::C_LOST;
use laneway_shm::memory::Memory;
use laneway_shm::ring::{Follower, Found, Heard, Policy, Reader, Span};
use laneway_shm::roster::{self, Entry};
use laneway_shm::{Reason, WaitMode};

use super::crowd::{Hall, News, Shared};
use super::ring::{FOR_EVER, Ground, Patience, World};

enum Eyes<M: Ground> {
    Gate(Reader<M, M>),
    Follow(Follower<M, M>),
}

fn copy<M: Ground>(reader: &Reader<M, M>, span: &Span) -> Vec<u8> {
    let mut bytes = vec![0; span.len];
    reader.copy_out(span, 0, &mut bytes);
    bytes
}

/// One stay of a reader.
pub(crate) struct Listener<W: World> {
    hall: Hall<W>,
    eyes: Eyes<W::Memory>,
    own: W::Memory,
    number: u64,
    /// The generation that it reads, once it was let in.
    entered: Option<usize>,
    /// What it found last was a message.
    by_message: bool,
    /// Slots that it was told of as lost.
    lost: u64,
    buffer: Vec<u8>,
}

impl<W: World> Listener<W> {
    pub(super) fn new(hall: &Hall<W>, own: W::Memory, number: u64) -> Self {
        let Shared { geometry, policy, wait, .. } = *hall.0;
        let eyes = match policy.loses() {
            false => Eyes::Gate(Reader::new(own.clone(), geometry, wait, 0, number)),
            true => Eyes::Follow(Follower::new(own.clone(), geometry, wait, 0, number)),
        };
        let (hall, buffer) = (hall.clone(), Vec::new());
        Self { hall, eyes, own, number, entered: None, by_message: false, lost: 0, buffer }
    }

    /// Position of the next message.
    pub(crate) fn position(&self) -> u64 {
        match &self.eyes {
            Eyes::Gate(reader) => reader.position(),
            Eyes::Follow(follower) => follower.position(),
        }
    }

    /// Receives up to `most` messages, ends and losses; returns how many.
    pub(crate) fn receive(&mut self, most: usize, patience: Patience) -> usize {
        while !self.enter() {
            if patience == Patience::None {
                return 0;
            }
            self.hall.0.world.pause();
        }
        for found in 0..most {
            loop {
                if self.hall.0.end.load(Ordering::SeqCst) == self.position() {
                    return found;
                }
                if self.hears() {
                    break;
                }
                if patience == Patience::None {
                    return found;
                }
                self.wait();
            }
        }
        most
    }

    /// Looks for itself in the lists of all producers; true once it was let in.
    fn enter(&mut self) -> bool {
        if self.entered.is_some() {
            return true;
        }
        // Those that are there now: a list that is followed by another one changes no more.
        let known = self.hall.generations(|generations| generations.clone());
        let found = known.into_iter().enumerate().find_map(|(at, (memory, _))| {
            let entry = roster::find(&memory, self.number)?;
            Some((at, memory, entry))
        });
        let Some((at, memory, entry)) = found else { return false };
        self.hall.history().enter(self.number, entry.joined_at);
        self.join(memory, &entry);
        self.hall.history().take(self.number, entry.joined_at);
        self.hall.history().show(self.number);
        self.entered = Some(at);
        true
    }

    fn join(&mut self, memory: W::Memory, entry: &Entry) {
        let lost = match &mut self.eyes {
            Eyes::Gate(reader) => reader.join_at(memory, entry).map(|()| 0),
            Eyes::Follow(follower) => follower.join_at(memory, entry),
        };
        assert_eq!(lost, Ok(0), "oracle: lost between two generations");
        assert_eq!(self.position(), entry.joined_at, "oracle: where it was let in");
    }

    /// Goes on with the next generation if this one is drained.
    fn advance(&mut self) -> bool {
        let (at, position) = (self.entered.expect("let in"), self.position());
        let Some((drained, end)) = self.hall.generation(at) else { return false };
        let next = self.hall.generation(at + 1).filter(|_| end == position);
        let Some((memory, _)) = next else { return false };
        // The news is for every sleeper, and one nudge ends one sleep.
        drained.nudge();
        // Its producer may be about to let it in.
        let entry = loop {
            match roster::find(&memory, self.number) {
                Some(entry) => break entry,
                None => self.hall.0.world.pause(),
            }
        };
        assert_eq!(entry.joined_at, position, "oracle: where the next generation lets it in");
        self.join(memory, &entry);
        self.entered = Some(at + 1);
        true
    }

    /// Takes what is next. False if nothing is there.
    fn hears(&mut self) -> bool {
        loop {
            let (at, position) = (self.entered.expect("let in"), self.position());
            let outlook = self.hall.history().outlook(at, position, self.by_message);
            let heard = match self.eyes {
                Eyes::Gate(_) => self.gated(),
                Eyes::Follow(_) => self.losing(at),
            };
            if let Some(Heard::Message { .. }) = heard {
                assert!(!outlook.gone, "oracle: {position} was written over, and is handed out");
            }
            if heard.is_some() {
                self.by_message = matches!(heard, Some(Heard::Message { .. }));
                return true;
            }
            assert!(!outlook.certain, "oracle: nothing found where something was committed");
            self.hall.history().show(self.number);
            if !self.advance() {
                return false;
            }
        }
    }

    fn gated(&mut self) -> Option<Heard> {
        let Eyes::Gate(reader) = &mut self.eyes else { return None };
        let (history, position) = (|| self.hall.history(), reader.position());
        match reader.poll().expect("oracle: an honest producer is blamed")? {
            Found::Message(span) => {
                let bytes = copy(reader, &span);
                let after = history().judge(span.position(), &bytes);
                assert_eq!(span.position(), position, "oracle: position");
                history().take(self.number, after);
                reader.release(&span);
                history().released(self.number);
                assert_eq!(reader.position(), after, "oracle: position");
                Some(Heard::Message { position, len: span.len })
            }
            Found::End => {
                let after = history().judge_end(position);
                history().take(self.number, after);
                reader.release_end();
                history().show(self.number);
                Some(Heard::End)
            }
            Found::Frozen { .. } => panic!("oracle: a frozen payload that was not sent"),
        }
    }

    fn losing(&mut self, at: usize) -> Option<Heard> {
        let (_, end) = self.hall.generation(at).expect("it was there");
        let Eyes::Follow(follower) = &mut self.eyes else { return None };
        let position = follower.position();
        self.hall.history().look(self.number);
        let heard = follower.poll(&mut self.buffer, end);
        let heard = heard.expect("oracle: an honest producer is blamed");
        let after = follower.position();
        let mut history = self.hall.history();
        history.take(self.number, after);
        let heard = heard?;
        let expected = match heard {
            Heard::Message { position: found, len } => {
                assert_eq!(found, position, "oracle: position");
                history.judge(position, &self.buffer[..len])
            }
            Heard::End => history.judge_end(position),
            Heard::Lost { slots } => {
                history.judge_lost(at, position, position + slots);
                self.lost += slots;
                position + slots
            }
        };
        assert_eq!(after, expected, "oracle: what is lost is counted to the slot");
        match heard {
            Heard::Message { .. } => history.released(self.number),
            _ => history.show(self.number),
        }
        drop(history);
        if let Heard::Lost { .. } = heard {
            self.is_told(at);
        }
        Some(heard)
    }

    /// Whoever lost something can see how much, and why.
    fn is_told(&self, at: usize) {
        let Eyes::Follow(follower) = &self.eyes else { return };
        // Observers are no part of a model that shows stale values.
        let shown = if self.hall.is_strict() { self.own.load_acquire(C_LOST) } else { self.lost };
        assert_eq!((follower.lost(), shown), (self.lost, self.lost), "oracle: slots lost so far");
        match (follower.given_up(), self.hall.0.policy) {
            (Some((Reason::Behind, when)), Policy::Evicting { .. }) => {
                self.hall.history().judge_given_up(at, self.number, when);
            }
            (None, Policy::Overwrite) => {}
            (verdict, policy) => panic!("oracle: a loss by {verdict:?} where {policy:?}"),
        }
    }

    /// Leaves in order; nobody else tells the producer. Who is patient and gates waits for the next
    /// message, and has it in its hands then.
    pub(crate) fn leave(mut self, patience: Patience) {
        while patience == Patience::ForEver && !self.holds() {
            self.wait();
        }
        self.hall.history().leave(self.number);
        match &mut self.eyes {
            Eyes::Gate(reader) => {
                reader.leave();
                assert_eq!(reader.poll(), Ok(None), "oracle: who has left reads on");
            }
            Eyes::Follow(follower) => follower.leave(),
        }
        self.hall.history().left(self.number);
    }

    /// Looks at the next message without releasing it. False if none is there.
    fn holds(&mut self) -> bool {
        let Eyes::Gate(reader) = &mut self.eyes else { return true };
        let found = reader.poll().expect("oracle: an honest producer is blamed");
        let Some(Found::Message(span)) = found else { return found.is_some() };
        let bytes = copy(reader, &span);
        self.hall.history().judge(span.position(), &bytes);
        true
    }

    /// Is killed: the agent tells the producer, and wakes it.
    pub(crate) fn die(self) {
        self.hall.tell(News::Gone { number: self.number });
        self.own.nudge();
        // It may have been woken by news that are for others, too.
        let (memory, _) = self.hall.generation(self.entered.unwrap_or(0)).expect("it was there");
        memory.nudge();
    }

    fn wait(&mut self) {
        match (self.hall.0.wait, &mut self.eyes) {
            (WaitMode::Spin, _) => self.hall.0.world.pause(),
            (WaitMode::Park, Eyes::Gate(reader)) => reader.park(FOR_EVER),
            (WaitMode::Park, Eyes::Follow(follower)) => follower.park(FOR_EVER),
        }
    }
}
