//! One producer and what must be true of it.

use super::*;

/// What the oracles need of a producer's end.
pub(crate) trait WriteEnd {
    fn try_reserve(&mut self, len: usize) -> Result<Option<Span>, Corruption>;
    fn write(&self, span: &Span, bytes: &[u8]);
    fn commit(&mut self, span: &Span);
    fn committed(&self) -> u64;
    fn released(&self) -> u64;

    fn stage(&mut self, span: &Span);
    fn close_batch(&mut self, commit: bool);

    fn report(&mut self, _end: bool) -> Option<Result<(), Corruption>> {
        None
    }
    fn join(&mut self, _demon: Demon) {}
}

impl WriteEnd for Writer<Own, Demon> {
    fn try_reserve(&mut self, len: usize) -> Result<Option<Span>, Corruption> {
        let found = self.try_reserve(len)?;
        assert!(self.free() <= self.geometry().count(), "oracle: more free than there is");
        Ok(found)
    }
    fn write(&self, span: &Span, bytes: &[u8]) {
        self.write(span, 0, bytes);
    }
    fn commit(&mut self, span: &Span) {
        self.commit(span);
    }
    fn committed(&self) -> u64 {
        self.committed()
    }
    fn released(&self) -> u64 {
        self.released()
    }
    fn stage(&mut self, span: &Span) {
        self.stage(span);
    }
    fn close_batch(&mut self, commit: bool) {
        if commit {
            self.commit_batch();
        } else {
            self.abort_batch();
        }
    }
    fn report(&mut self, end: bool) -> Option<Result<(), Corruption>> {
        Some(match end {
            true => self.try_end().map(drop),
            false if self.committed().is_multiple_of(2) => self.park(1, Duration::MAX),
            false => self.listen(1).map(|_| self.stop_listening()),
        })
    }
    fn join(&mut self, demon: Demon) {
        self.join(demon, 2);
    }
}

/// One producer and what must be true of it.
pub(crate) struct WriteCase<'w, E> {
    world: &'w Rc<World>,
    end: E,
    staged: u64,
    broken: Option<Corruption>,
}

impl<E: WriteEnd> WriteCase<'_, E> {
    /// Opens the books; checks that what counts as free really is.
    fn begin(&self) {
        let (committed, released) = (self.end.committed(), self.end.released());
        let count = self.world.geometry.count();
        let sane = released <= committed && committed - released <= count;
        assert!(sane, "oracle: released {released}, committed {committed}");
        self.world.begin(committed, (committed, released + count));
    }

    fn step(&mut self) {
        self.begin();
        match self.world.dice.below(12) {
            0..7 => self.send(),
            7 => self.close_batch(true),
            8 => self.close_batch(false),
            9 => self.end.join(Demon(Rc::clone(self.world))),
            10 if self.staged == 0 => self.report(true),
            _ => self.report(false),
        }
    }

    fn send(&mut self) {
        let (dice, max) = (&self.world.dice, self.world.geometry.message_max());
        let payload = self.world.geometry.payload() as usize;
        let any = usize::try_from(dice.below(max as u64 + 1)).expect("small");
        let len = dice.pick(&[0, 1, payload, any, any, max, max + 1, usize::MAX]);
        let position = self.end.committed() + self.staged;
        let result = self.end.try_reserve(len);
        let Some(span) = self.judge(result) else { return };
        assert!(span.len == len && len <= max, "oracle: reserved {len} of {max}");
        assert_eq!(span.position(), position, "oracle: position");
        self.begin();
        self.end.write(&span, &vec![CANARY; len]);
        self.begin();
        match self.world.dice.below(4) {
            0 => {}
            1 if self.staged == 0 => self.end.commit(&span),
            _ => {
                self.end.stage(&span);
                self.staged += span.slots;
            }
        }
    }

    fn close_batch(&mut self, commit: bool) {
        self.end.close_batch(commit);
        self.staged = 0;
    }

    fn report(&mut self, end: bool) {
        if let Some(result) = self.end.report(end) {
            self.judge(result.map(|()| Some(())));
        }
    }

    fn judge<T>(&mut self, result: Result<Option<T>, Corruption>) -> Option<T> {
        match (self.broken, result) {
            (None, Ok(found)) => found,
            (None, Err(corruption)) => {
                self.broken = Some(corruption);
                None
            }
            (Some(first), again) => {
                assert_eq!(again.err(), Some(first), "oracle: goes on after corruption");
                None
            }
        }
    }
}

/// One call sequence against a fresh producer.
pub(crate) fn write_case<E: WriteEnd>(world: &Rc<World>, make: impl Fn(u64, u64) -> E) -> bool {
    world.malice.set(world.dice.pick(&[2, 20, 40, 100]));
    let base = start(world);
    let lag = world.dice.below(world.geometry.count() + 1).min(base);
    let mut case = WriteCase { world, end: make(base, base - lag), staged: 0, broken: None };
    for _ in 0..=world.dice.below(64) {
        case.step();
    }
    case.broken.is_some()
}
