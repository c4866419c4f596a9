//! The queue that a lane must behave like, in private memory.
//!
//! It is told of a message before its commit is called (*offered*) and after it returned
//! (*committed*), and of a release before it is called (*taken*) and after (*shown*), so that it
//! also says what two ends that run at the same time may answer. In one thread the pairs coincide.

/// Something that takes slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    position: u64,
    slots: u64,
    /// `None` is the end of the stream.
    len: Option<usize>,
    /// Appeared in one batch with the next one.
    joined: bool,
}

/// What is to be received next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Message(Vec<u8>),
    End,
    Nothing,
}

/// Whether a message has to find room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Certain,
    Possible,
    None,
}

/// The queue. Positions count slots, as the lane's do.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    /// Of several lanes, which one: the same place of another holds other bytes.
    number: u64,
    payload: usize,
    count: u64,
    entries: Vec<Entry>,
    /// Position after the last offered entry.
    offered: u64,
    /// Position after the last committed one.
    committed: u64,
    /// Index of the next entry to receive.
    at: usize,
    /// Position up to which the consumer has begun to release.
    taken: u64,
    /// Position up to which the producer is certain to see it.
    shown: u64,
}

/// The bytes of the message at `position`: they differ from place to place and from message to
/// message, so that a torn, shifted or repeated one is not taken for another.
pub(crate) fn bytes_of(position: u64, len: usize) -> Vec<u8> {
    let mut word = position.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..len)
        .map(|index| {
            if index % 8 == 0 {
                word = word.rotate_left(9).wrapping_add(index as u64 + 1);
            }
            word.to_le_bytes()[index % 8]
        })
        .collect()
}

impl Queue {
    /// The queue of a new lane.
    pub(crate) fn new(payload: u32, count: u64) -> Self {
        Self::numbered(0, payload, count)
    }

    /// The queue of one of several new lanes.
    pub(crate) fn numbered(number: u64, payload: u32, count: u64) -> Self {
        Self {
            number,
            payload: payload as usize,
            count,
            entries: Vec::new(),
            offered: 0,
            committed: 0,
            at: 0,
            taken: 0,
            shown: 0,
        }
    }

    /// Longest message, in bytes.
    pub(crate) fn message_max(&self) -> usize {
        self.payload * usize::try_from(self.count).expect("a small ring")
    }

    /// Slots that a message takes.
    pub(crate) fn slots(&self, len: usize) -> u64 {
        len.div_ceil(self.payload).max(1) as u64
    }

    /// Whether a message of `len` bytes finds room, `ahead` slots after what was offered.
    ///
    /// The consumer shows its cursor at the latest after a quarter of the ring.
    pub(crate) fn room(&self, ahead: u64, len: usize) -> Room {
        if len > self.message_max() {
            return Room::None;
        }
        let needed = self.offered + ahead + self.slots(len);
        if needed <= self.shown + self.count {
            Room::Certain
        } else if needed <= self.taken + self.count {
            Room::Possible
        } else {
            Room::None
        }
    }

    /// Position of the next message to send.
    pub(crate) fn end(&self) -> u64 {
        self.offered
    }

    /// Position of the next message to receive.
    pub(crate) fn position(&self) -> u64 {
        self.taken
    }

    /// What the message to send looks like, `ahead` slots after what was offered.
    pub(crate) fn message(&self, ahead: u64, len: usize) -> Vec<u8> {
        self.bytes(self.offered + ahead, len)
    }

    fn bytes(&self, position: u64, len: usize) -> Vec<u8> {
        bytes_of(position ^ self.number << 48, len)
    }

    /// From now on the consumer may see `lens`, all at once if they are a batch.
    pub(crate) fn offer(&mut self, lens: &[usize], batch: bool) {
        for (index, &len) in lens.iter().enumerate() {
            let (position, slots) = (self.offered, self.slots(len));
            let joined = batch && index + 1 < lens.len();
            self.entries.push(Entry { position, slots, len: Some(len), joined });
            self.offered += slots;
        }
    }

    /// From now on the consumer may see the end.
    pub(crate) fn offer_end(&mut self) {
        let position = self.offered;
        self.entries.push(Entry { position, slots: 1, len: None, joined: false });
        self.offered += 1;
    }

    /// Takes back what was offered and not sent, down to position `end`.
    pub(crate) fn withdraw(&mut self, end: u64) {
        while self.entries.last().is_some_and(|entry| entry.position >= end) {
            let entry = self.entries.pop().expect("just seen");
            self.offered = entry.position;
        }
        assert_eq!(self.offered, end, "oracle: the producer stopped within a message");
        assert!(self.at <= self.entries.len(), "oracle: what was never sent was received");
    }

    /// What was offered is committed.
    pub(crate) fn commit(&mut self) {
        self.committed = self.offered;
    }

    /// What the consumer may find, so many messages after the next one.
    pub(crate) fn after(&self, skip: usize) -> Next {
        let Some(entry) = self.entries.get(self.at + skip) else { return Next::Nothing };
        entry.len.map_or(Next::End, |len| Next::Message(self.bytes(entry.position, len)))
    }

    /// Whether what was received last is the end.
    pub(crate) fn has_ended(&self) -> bool {
        self.at > 0 && self.entries[self.at - 1].len.is_none()
    }

    /// Whether that one's commit has returned.
    pub(crate) fn is_committed(&self, skip: usize) -> bool {
        let entry = self.entries.get(self.at + skip);
        entry.is_some_and(|entry| entry.position + entry.slots <= self.committed)
    }

    /// Whether that one came in one batch with the one before it, which was seen.
    pub(crate) fn is_joined(&self, skip: usize) -> bool {
        skip > 0 && self.entries.get(self.at + skip - 1).is_some_and(|entry| entry.joined)
    }

    /// Length of that one, in bytes; `None` for an end and where nothing is.
    pub(crate) fn len(&self, skip: usize) -> Option<usize> {
        self.entries.get(self.at + skip)?.len
    }

    /// The consumer begins to release so many messages, or the end.
    pub(crate) fn take(&mut self, messages: usize) {
        for _ in 0..messages {
            let entry = self.entries[self.at];
            (self.at, self.taken) = (self.at + 1, entry.position + entry.slots);
        }
    }

    /// The release returned.
    pub(crate) fn released(&mut self) {
        let quarter = (self.count / 4).max(1);
        self.shown = self.shown.max((self.taken + 1).saturating_sub(quarter));
    }

    /// The consumer found nothing, or an end, or left in order.
    pub(crate) fn show(&mut self) {
        self.shown = self.taken;
    }

    /// A new consumer starts at `position`: what the last one had not shown comes again.
    pub(crate) fn restart(&mut self, position: u64) {
        let between = (self.shown..=self.taken).contains(&position);
        let (shown, taken) = (self.shown, self.taken);
        assert!(between, "oracle: a successor starts at {position}, not in {shown}..={taken}");
        let starts = self.entries.iter().position(|entry| entry.position == position);
        self.at = match starts {
            Some(at) => at,
            None if position == self.offered => self.entries.len(),
            None => panic!("oracle: a successor starts within a message, at {position}"),
        };
        (self.taken, self.shown) = (position, position);
    }
}
