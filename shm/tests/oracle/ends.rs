//! The calls on the handles that applications have, in one thread.

use std::time::Duration;

use laneway_shm::{
    Consumer, PairOptions, Producer, ReadBatch, RecvError, ReserveError, WriteSlot, pair,
};

use super::operation::{ARRAY, Form, Operation, Take, TakeMany};
use super::queue::{Next, Queue, Room};

const NOW: Duration = Duration::ZERO;

/// Both ends of a lane, and what they must behave like.
pub(crate) struct Ends {
    /// Until it closes.
    producer: Option<Producer>,
    /// Unless it is in a group.
    consumer: Option<Consumer>,
    pub(crate) queue: Queue,
}

impl Ends {
    pub(crate) fn new(options: PairOptions) -> Self {
        Self::numbered(0, options)
    }

    /// One of several lanes.
    pub(crate) fn numbered(number: u64, options: PairOptions) -> Self {
        let (producer, consumer) = pair(options).expect("a small lane");
        let count = u64::from(options.slot_count);
        let queue = Queue::numbered(number, options.slot_payload_bytes, count);
        Self { producer: Some(producer), consumer: Some(consumer), queue }
    }

    /// Gives its consumer away, into a group.
    pub(crate) fn lend(&mut self) -> Consumer {
        self.consumer.take().expect("not in a group")
    }

    /// Has its consumer back.
    pub(crate) fn have_back(&mut self, consumer: Consumer) {
        assert_eq!(consumer.position(), self.queue.position(), "oracle: position");
        self.consumer = Some(consumer);
    }

    fn consumer(&mut self) -> &mut Consumer {
        self.consumer.as_mut().expect("not in a group")
    }

    /// Makes a call. Those that need an agent, and those of a producer that has closed, are none.
    pub(crate) fn make(&mut self, operation: Operation) {
        match operation {
            Operation::Succeed | Operation::Restart => {}
            Operation::Receive(take) => self.receive(take),
            Operation::ReceiveMany(TakeMany::Arrays, limit) => self.receive_arrays(limit),
            Operation::ReceiveMany(TakeMany::Packed, limit) => self.receive_packed(limit),
            Operation::ReceiveMany(many, limit) => self.receive_many(many, limit),
            Operation::Close => self.close(),
            sending => {
                if let Some(mut producer) = self.producer.take() {
                    self.send(&mut producer, sending);
                    assert_eq!(producer.position(), self.queue.end(), "oracle: position");
                    self.producer = Some(producer);
                }
            }
        }
        if let Some(consumer) = &self.consumer {
            assert_eq!(consumer.position(), self.queue.position(), "oracle: position");
        }
    }

    /// Makes the calls and takes what is left.
    pub(crate) fn make_all(&mut self, operations: impl IntoIterator<Item = Operation>) {
        operations.into_iter().for_each(|operation| self.make(operation));
        while self.queue.after(0) != Next::Nothing {
            self.make(Operation::Receive(Take::Poll));
        }
        self.make(Operation::Receive(Take::Poll));
    }

    fn send(&mut self, producer: &mut Producer, operation: Operation) {
        match operation {
            Operation::Send(form, len) => self.send_one(producer, form, len),
            Operation::Abort(len) => {
                let result = producer.try_reserve(len).map(|mut slot| slot.write(0, &vec![7; len]));
                self.judge(0, len, result.as_ref().err());
            }
            Operation::Batch { count, len, commit } => self.batch(producer, count, len, commit),
            Operation::SendMany { count, len: ARRAY } => self.send_arrays(producer, count),
            Operation::SendMany { count, len } => self.send_many(producer, count, len),
            other => panic!("{other:?} is the consumer's"),
        }
    }

    /// Whether a refusal, or none, is right for a message of `len` bytes.
    fn judge(&self, ahead: u64, len: usize, refusal: Option<&ReserveError>) {
        let room = self.queue.room(ahead, len);
        match refusal {
            None => assert!(room != Room::None, "oracle: room for {len} bytes where there is none"),
            Some(&ReserveError::TooLarge { asked_bytes, limit_bytes }) => {
                let max = self.queue.message_max();
                assert!(asked_bytes == len && len > max && limit_bytes == max, "oracle: too large");
            }
            Some(&ReserveError::Full { asked, free, .. }) => {
                assert!(asked == self.queue.slots(len) && free < asked, "oracle: full");
                assert!(room != Room::Certain, "oracle: full where there is room");
            }
            Some(ReserveError::TimedOut { .. }) => {
                assert!(room != Room::Certain, "oracle: no room where there is some");
            }
            Some(other) => panic!("oracle: {other}"),
        }
    }

    fn send_one(&mut self, producer: &mut Producer, form: Form, len: usize) {
        let message = self.queue.message(0, len);
        let result = match (form, <[u8; ARRAY]>::try_from(&message[..])) {
            (Form::Array, Ok(array)) => producer.send_array(array, NOW),
            (Form::Packed, _) if len.is_multiple_of(ARRAY) => {
                let mut items = message.as_chunks::<ARRAY>().0.iter();
                producer.send_packed_arrays(len / ARRAY, NOW, || *items.next().expect("counted"))
            }
            (Form::Whole | Form::Array | Form::Packed, _) => producer.send(&message, NOW),
            (Form::Pieces, _) => producer.reserve(len, NOW).map(|mut slot| {
                let (first, second) = message.split_at(len / 2);
                slot.write(len / 2, second);
                slot.write(0, first);
                slot.commit();
            }),
            (Form::Shortened, _) => {
                let reserved = (len + 3).min(self.queue.message_max()).max(len);
                let result = producer.try_reserve(reserved).map(|slot| shortened(slot, &message));
                self.judge(0, reserved, result.as_ref().err());
                if result.is_ok() {
                    self.sent(&[len]);
                }
                return;
            }
        };
        self.judge(0, len, result.as_ref().err());
        if result.is_ok() {
            self.sent(&[len]);
        }
    }

    fn sent(&mut self, lens: &[usize]) {
        self.queue.offer(lens, false);
        self.queue.commit();
    }

    fn batch(&mut self, producer: &mut Producer, count: usize, len: usize, commit: bool) {
        let mut batch = producer.batch();
        let (mut lens, mut ahead) = (Vec::new(), 0);
        for len in (len..).take(count) {
            let message = self.queue.message(ahead, len);
            let result = match <[u8; ARRAY]>::try_from(&message[..]) {
                Ok(array) => batch.push_array(array),
                Err(_) => batch.push(&message),
            };
            self.judge(ahead, len, result.as_ref().err());
            if result.is_err() {
                break;
            }
            lens.push(len);
            ahead += self.queue.slots(len);
        }
        if commit {
            assert_eq!(batch.commit(), lens.len() as u64, "oracle: messages of a batch");
            self.sent(&lens);
        }
    }

    fn send_arrays(&mut self, producer: &mut Producer, count: usize) {
        let (before, slots) = (self.queue.end(), self.queue.slots(ARRAY));
        let mut made = 0;
        let result = producer.send_arrays(count, NOW, || {
            made += 1;
            let message = self.queue.message((made - 1) * slots, ARRAY);
            <[u8; ARRAY]>::try_from(message).expect("an array's length")
        });
        let sent = (producer.position() - before) / slots;
        self.sent(&vec![ARRAY; usize::try_from(sent).expect("small")]);
        match result {
            Ok(()) => assert_eq!(sent, count as u64, "oracle: sent"),
            Err(refusal) => self.judge(0, ARRAY, Some(&refusal)),
        }
    }

    fn send_many(&mut self, producer: &mut Producer, count: usize, len: usize) {
        let mut ahead = 0;
        let lens: Vec<usize> = (len..).take(count).collect();
        let messages: Vec<Vec<u8>> = lens
            .iter()
            .map(|&len| {
                ahead += self.queue.slots(len);
                self.queue.message(ahead - self.queue.slots(len), len)
            })
            .collect();
        let mut fetched = 0;
        let result = producer.send_many(messages.iter().inspect(|_| fetched += 1), NOW);
        match result {
            Ok(sent) => {
                assert_eq!(sent, count, "oracle: sent");
                self.sent(&lens);
            }
            Err(refusal) => {
                self.sent(&lens[..fetched - 1]);
                self.judge(0, lens[fetched - 1], Some(&refusal));
            }
        }
    }

    /// A producer that finds no room for the end is gone all the same.
    fn close(&mut self) {
        let Some(producer) = self.producer.take() else { return };
        let result = producer.close(NOW);
        self.judge(0, 0, result.as_ref().err());
        if result.is_ok() {
            self.queue.offer_end();
            self.queue.commit();
        }
    }

    fn receive(&mut self, take: Take) {
        let expected = self.queue.after(0);
        let (found, stays) = match take {
            Take::Poll => (self.consumer().poll().map(|slot| slot.map(|s| s.to_vec())), false),
            Take::Recv => (self.consumer().recv(NOW).map(|slot| Some(slot.to_vec())), false),
            Take::Array => {
                let array = self.consumer().recv_array(NOW, |bytes: [u8; ARRAY]| bytes.to_vec());
                (array.map(Some), false)
            }
            Take::Keep => {
                let kept = |slot: laneway_shm::ReadSlot<'_>| {
                    let bytes = slot.to_vec();
                    slot.keep();
                    bytes
                };
                (self.consumer().poll().map(|slot| slot.map(kept)), true)
            }
        };
        match found {
            Ok(Some(bytes)) => {
                assert_eq!(Next::Message(bytes), expected, "oracle: message");
                if !stays {
                    self.taken(1);
                }
            }
            Ok(None) => self.nothing(),
            Err(error) => self.refused(&error),
        }
    }

    pub(crate) fn taken(&mut self, messages: usize) {
        self.queue.take(messages);
        self.queue.released();
    }

    fn nothing(&mut self) {
        assert_eq!(self.queue.after(0), Next::Nothing, "oracle: nothing found");
        self.queue.show();
    }

    /// The consumer found the end, if that is next.
    pub(crate) fn pass_end(&mut self) {
        if self.queue.after(0) == Next::End {
            self.queue.take(1);
            self.queue.show();
        }
    }

    /// Judges an error about the next message.
    pub(crate) fn refused(&mut self, error: &RecvError) {
        match *error {
            RecvError::TimedOut { .. } => self.nothing(),
            RecvError::Closed { position } => {
                self.pass_end();
                assert_eq!(position, self.queue.position(), "oracle: closed");
                assert_eq!(self.queue.after(0), Next::Nothing, "oracle: closed");
            }
            RecvError::Length { found, expected } => {
                assert_eq!(self.queue.len(0), Some(found), "oracle: length");
                // Packed ones may be several, but not none.
                assert!(found != expected && expected == ARRAY, "oracle: length");
            }
            RecvError::TooLong { found, limit } => {
                assert_eq!(self.queue.len(0), Some(found), "oracle: too long");
                assert!(found > limit, "oracle: too long");
            }
            ref other => panic!("oracle: {other}"),
        }
    }

    fn receive_many(&mut self, many: TakeMany, limit: usize) {
        let consumer = self.consumer.as_mut().expect("not in a group");
        let queue = &self.queue;
        let (taken, refusal) = match many {
            TakeMany::Within(bytes) => match consumer.recv_many(limit, NOW) {
                Ok(batch) => take_from(batch, queue, limit, bytes),
                Err(error) => (0, Some(error)),
            },
            _ => take_from(consumer.poll_many(limit), queue, limit, usize::MAX),
        };
        self.taken(taken);
        match refusal {
            Some(error) => self.refused(&error),
            None if taken == 0 && limit > 0 => self.nothing(),
            None => {}
        }
    }

    fn receive_arrays(&mut self, limit: usize) {
        let mut found = Vec::new();
        let result =
            self.consumer().recv_arrays(limit, NOW, |bytes: [u8; ARRAY]| found.push(bytes));
        for (skip, bytes) in found.iter().enumerate() {
            let expected = self.queue.after(skip);
            assert_eq!(Next::Message(bytes.to_vec()), expected, "oracle: array");
        }
        // What fits into a slot comes with those that are there.
        let more = self.queue.len(found.len()) == Some(ARRAY) && self.queue.slots(ARRAY) == 1;
        assert!(found.len() == limit || !more, "oracle: arrays that are there were left");
        match result {
            Ok(taken) => assert_eq!(taken, found.len(), "oracle: arrays"),
            Err(error) => {
                assert!(found.is_empty(), "oracle: an error after a message");
                self.refused(&error);
            }
        }
        self.taken(found.len());
    }

    fn receive_packed(&mut self, limit: usize) {
        let mut found = Vec::new();
        let result = self.consumer().recv_packed_arrays(limit, NOW, |item: [u8; ARRAY]| {
            found.extend(item);
        });
        let (mut messages, mut expected) = (0, Vec::new());
        while expected.len() < found.len() {
            let Next::Message(bytes) = self.queue.after(messages) else { break };
            expected.extend(bytes);
            messages += 1;
        }
        assert_eq!(found, expected, "oracle: packed");
        match result {
            Ok(taken) => assert_eq!(taken * ARRAY, found.len(), "oracle: packed"),
            Err(error) => {
                assert!(found.is_empty(), "oracle: an error after a message");
                self.refused(&error);
            }
        }
        self.taken(messages);
    }
}

fn shortened(mut slot: WriteSlot<'_>, message: &[u8]) {
    match slot.as_mut() {
        Some(bytes) => {
            for (to, from) in bytes.iter_mut().zip(message) {
                to.write(*from);
            }
        }
        None => slot.write(0, message),
    }
    slot.commit_len(message.len());
}

/// Takes up to `limit` messages; returns how many came, and what ended the batch before its time.
fn take_from(
    mut batch: ReadBatch<'_>,
    queue: &Queue,
    limit: usize,
    limit_bytes: usize,
) -> (usize, Option<RecvError>) {
    for taken in 0..limit {
        let found = match batch.next_within(limit_bytes) {
            Ok(Some(view)) => Next::Message(view.to_vec()),
            Ok(None) => {
                let more = queue.len(taken).is_some();
                assert!(!more, "oracle: messages that are there were left");
                return (taken, None);
            }
            Err(error) => return (taken, Some(error)),
        };
        assert_eq!(found, queue.after(taken), "oracle: message of a batch");
    }
    (limit, None)
}
