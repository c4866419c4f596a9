//! One consumer, the messages it holds, and what must be true of it.

use laneway_shm::layout::P_READERS;
use laneway_shm::ring::sleep_on_all;
use laneway_shm::roster::Entry;

use super::*;

/// Size of the messages that are also copied out by value, in bytes.
const ARRAY: usize = 8;
/// Bytes that are handed out at once.
const LINE: usize = 64;

/// What the oracles need of a consumer's end, the ring's or a faulty one.
pub(crate) trait ReadEnd {
    fn poll(&mut self) -> Result<Option<Found>, Corruption>;
    fn copy_out(&self, span: &Span, offset: usize, target: &mut [u8]) -> usize;
    fn position(&self) -> u64;
    fn release(&mut self, span: &Span);

    fn copy_lines(&self, _span: &Span, _offset: usize, _len: usize) {}
    fn poll_after(&mut self, _span: &Span) -> Option<Result<Option<Span>, Corruption>> {
        None
    }
    fn other(&mut self, _choice: u64, _demon: Demon) {}
    fn release_end(&mut self) {}
    fn leave(&mut self) {}
    /// Lets it into a broadcast lane, if it is no faulty one: at a plausible position, or not.
    fn let_in(&mut self, _demon: Demon, _joined_at: u64) -> Result<(), Corruption> {
        Ok(())
    }
}

impl ReadEnd for Reader<Demon, Own> {
    fn poll(&mut self) -> Result<Option<Found>, Corruption> {
        match self.spin(1) {
            Some(span) => Ok(Some(Found::Message(span))),
            None => self.poll(),
        }
    }
    fn copy_out(&self, span: &Span, offset: usize, target: &mut [u8]) -> usize {
        let array = self.copy_array::<ARRAY>(span);
        assert!(array.is_none_or(|bytes| span.len == ARRAY && bytes == [DEMONIC; ARRAY]));
        self.copy_out(span, offset, target)
    }
    fn copy_lines(&self, span: &Span, offset: usize, len: usize) {
        let mut left = len.min(span.len.saturating_sub(offset));
        self.copy_lines(span, offset, len, |words| {
            let line = words.map(u64::to_le_bytes).concat();
            let (there, zeros) = line.split_at(left.min(line.len()));
            assert!(there.iter().all(|&byte| byte == DEMONIC), "oracle: a line");
            assert!(zeros.iter().all(|&byte| byte == 0), "oracle: more than there was");
            left -= there.len();
        });
        assert_eq!(left, 0, "oracle: lines");
    }
    fn position(&self) -> u64 {
        self.position()
    }
    fn release(&mut self, span: &Span) {
        self.release(span);
    }
    fn poll_after(&mut self, span: &Span) -> Option<Result<Option<Span>, Corruption>> {
        Some(self.poll_at(span.end(self.geometry())))
    }
    fn other(&mut self, choice: u64, demon: Demon) {
        match choice {
            0 => self.publish(),
            1 => self.park(Duration::MAX),
            2 => {
                self.listen();
                self.stop_listening();
            }
            3 => _ = sleep_on_all(&mut [self], Duration::MAX, |bells, _| bells.len() == 1),
            _ => self.join(demon),
        }
    }
    fn release_end(&mut self) {
        self.release_end();
    }
    fn leave(&mut self) {
        self.leave();
    }
    fn let_in(&mut self, demon: Demon, joined_at: u64) -> Result<(), Corruption> {
        self.join_at(demon, &Entry { offset: P_READERS, joined_at })
    }
}

/// One consumer, the messages it holds, and what must be true of it.
pub(crate) struct ReadCase<'w, E> {
    world: &'w Rc<World>,
    end: E,
    held: Vec<Span>,
    broken: Option<Corruption>,
}

impl<E: ReadEnd> ReadCase<'_, E> {
    fn step(&mut self) {
        self.world.begin(self.end.position(), (0, 0));
        match self.world.dice.below(10) {
            0..4 => self.poll(),
            4 => self.poll_after(),
            5..8 => self.copy(),
            8 => self.release(),
            9 if self.world.dice.below(8) == 0 => self.let_in(),
            _ => self.end.other(self.world.dice.below(5), Demon(Rc::clone(self.world))),
        }
    }

    fn poll(&mut self) {
        let result = self.end.poll();
        self.held.clear();
        match self.judge(result) {
            Some(Found::Message(span)) => {
                assert_eq!(span.position(), self.end.position(), "oracle: position");
                self.hold(span);
            }
            Some(Found::End) => {
                self.world.begin(self.end.position(), (0, 0));
                self.end.release_end();
            }
            Some(Found::Frozen { span, pages }) => {
                assert_eq!((span.position(), span.slots), (self.end.position(), 1), "oracle: slot");
                assert!((1..=FROZEN_PAGES_MAX).contains(&pages), "oracle: {pages} pages");
                self.world.begin(self.end.position(), (0, 0));
                self.end.release(&span);
            }
            None => {}
        }
    }

    /// No entry in the roster takes a reader back.
    fn let_in(&mut self) {
        let (before, dice) = (self.end.position(), &self.world.dice);
        self.held.clear();
        let near = before.saturating_add(dice.below(2 * self.world.geometry.count()));
        let joined_at = if dice.below(8) > 0 { near } else { self.world.edge() };
        let result = self.end.let_in(Demon(Rc::clone(self.world)), joined_at);
        if let (None, Ok(())) = (self.broken, &result) {
            assert!(self.end.position() >= before, "oracle: goes back");
        }
        if self.broken.is_none() {
            self.judge::<()>(result.map(|()| None));
        }
    }

    fn poll_after(&mut self) {
        let Some(last) = self.held.last().copied() else { return };
        self.world.near.set(last.position() + last.slots);
        let Some(result) = self.end.poll_after(&last) else { return };
        if let Some(span) = self.judge(result) {
            assert_eq!(span.position(), last.position() + last.slots, "oracle: position");
            self.hold(span);
        }
    }

    /// Fail-stop: nothing but the first corruption once there was one.
    fn judge<T>(&mut self, result: Result<Option<T>, Corruption>) -> Option<T> {
        match (self.broken, result) {
            (None, Ok(found)) => found,
            (None, Err(corruption)) => {
                self.broken = Some(corruption);
                None
            }
            (Some(first), Err(again)) => {
                assert_eq!(first, again, "oracle: another corruption than the first");
                None
            }
            (Some(_), Ok(_)) => panic!("oracle: goes on after corruption"),
        }
    }

    fn hold(&mut self, span: Span) {
        let geometry = &self.world.geometry;
        let slots = 1..=geometry.count();
        assert!(slots.contains(&span.slots), "oracle: {} slots", span.slots);
        assert!(span.len <= geometry.message_max(), "oracle: length {}", span.len);
        let room = span.slots * u64::from(geometry.payload());
        assert!(span.len as u64 <= room, "oracle: length {} in {room}", span.len);
        self.held.push(span);
    }

    fn copy(&mut self) {
        let Some(span) = self.held.last().copied() else { return };
        let dice = &self.world.dice;
        let small = |limit: usize| usize::try_from(dice.below(limit as u64)).expect("small");
        let offset = dice.pick(&[0, 0, span.len, usize::MAX, small(span.len + 2)]);
        let mut target = vec![CANARY; dice.pick(&[0, 1, span.len, small(300)])];
        let copied = self.end.copy_out(&span, offset, &mut target);
        let expected = target.len().min(span.len.saturating_sub(offset));
        assert_eq!(copied, expected, "oracle: bytes copied");
        assert!(target[..copied].iter().all(|&byte| byte == DEMONIC), "oracle: all copied");
        assert!(target[copied..].iter().all(|&byte| byte == CANARY), "oracle: no more copied");
        self.world.begin(self.end.position(), (0, 0));
        // Each line is a copy here, or several where slots are smaller.
        let geometry = &self.world.geometry;
        let pieces = LINE / geometry.payload() as usize + 2;
        let lines = small(usize::try_from(geometry.count()).expect("few") / pieces + 1);
        self.end.copy_lines(&span, offset, target.len().min(lines * LINE));
    }

    fn release(&mut self) {
        if let Some(first) = self.held.first().copied() {
            self.end.release(&first);
            self.held.clear();
        }
    }
}

/// One call sequence against a fresh consumer.
pub(crate) fn read_case<E: ReadEnd>(world: &Rc<World>, make: impl Fn(u64) -> E) -> bool {
    world.malice.set(world.dice.pick(&[2, 20, 40, 100]));
    let end = make(start(world));
    let mut case = ReadCase { world, end, held: Vec::new(), broken: None };
    for _ in 0..=world.dice.below(64) {
        case.step();
    }
    world.begin(case.end.position(), (0, 0));
    case.end.leave();
    case.broken.is_some()
}
