//! The calls on a lane, as values.

use laneway_shm::ring::Start;

/// How one message is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `send`.
    Whole,
    /// `reserve`, two writes, `commit`.
    Pieces,
    /// `reserve` of more than is needed, writing in place where that is possible, `commit_len`.
    Shortened,
    /// `send_array`, of messages of [`ARRAY`] bytes; otherwise as `Whole`.
    Array,
    /// `send_packed_arrays` of [`ARRAY`] bytes; as `Whole` where the length is no multiple.
    Packed,
}

/// How one message is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// `poll`, copy, release.
    Poll,
    /// `recv`.
    Recv,
    /// `recv_array` of [`ARRAY`] bytes: a message of another length stays.
    Array,
    /// `poll`, copy, and the message stays.
    Keep,
}

/// How several are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TakeMany {
    /// `poll_many`.
    Poll,
    /// `recv_many`, of messages of at most so many bytes: a longer one stays.
    Within(usize),
    /// `recv_arrays` of [`ARRAY`] bytes.
    Arrays,
    /// `recv_packed_arrays` of [`ARRAY`] bytes: so many items, and what comes with the last one.
    Packed,
}

/// One call, or a few that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Sends one message.
    Send(Form, usize),
    /// Reserves, writes, and drops the reservation.
    Abort(usize),
    /// A batch of `count` messages of `len` bytes and more, committed or dropped.
    Batch {
        /// Messages.
        count: usize,
        /// Length of the first, in bytes; each is a byte longer than the one before.
        len: usize,
        /// Whether it is committed.
        commit: bool,
    },
    /// `send_many` of `count` messages from `len` bytes on; `send_arrays` for [`ARRAY`] bytes.
    SendMany {
        /// Messages.
        count: usize,
        /// As in a batch.
        len: usize,
    },
    /// Ends the stream. A successor may go on.
    Close,
    /// The producer is gone, and a new generation goes on.
    Succeed,
    /// Receives one message.
    Receive(Take),
    /// Receives several, at most so many.
    ReceiveMany(TakeMany, usize),
    /// The consumer is gone without a word, and a new one goes on.
    Restart,
}

/// Length of the messages that are sent and received by value, in bytes.
pub(crate) const ARRAY: usize = 8;

impl Operation {
    /// Makes a call from two bytes, for lanes whose longest message has `message_max` bytes.
    /// Every pair of bytes is a call; lengths lie around what a slot and what a ring holds.
    pub(crate) fn decode(choice: u8, size: u8, message_max: usize) -> Self {
        let size = usize::from(size);
        let len = match size % 8 {
            0 => message_max + size / 128,
            1 => message_max.saturating_sub(size / 8),
            2 | 3 => ARRAY,
            _ => (size / 8) % (message_max + 1),
        };
        let count = size % 6;
        match choice % 32 {
            0..6 => Self::Send(Form::Whole, len),
            6 => Self::Send(Form::Pieces, len),
            7 => Self::Send(Form::Shortened, len),
            8 if size < 64 => Self::Send(Form::Packed, count * ARRAY),
            8 => Self::Send(Form::Array, ARRAY),
            9 => Self::Abort(len),
            10 | 11 => Self::Batch { count, len: size / 8, commit: true },
            12 => Self::Batch { count, len: size / 8, commit: false },
            13 => Self::SendMany { count, len: size / 8 },
            14 => Self::SendMany { count, len: ARRAY },
            15 if size < 64 => Self::Close,
            15 => Self::Succeed,
            16..22 => Self::Receive(Take::Poll),
            22 => Self::Receive(Take::Recv),
            23 => Self::Receive(Take::Array),
            24 => Self::Receive(Take::Keep),
            25 | 26 => Self::ReceiveMany(TakeMany::Poll, count),
            27 => Self::ReceiveMany(TakeMany::Within(size / 8), count),
            28 if size < 128 => Self::ReceiveMany(TakeMany::Packed, count),
            28 => Self::ReceiveMany(TakeMany::Arrays, count),
            29 if size < 64 => Self::Restart,
            _ => Self::Receive(Take::Poll),
        }
    }

    /// Whether the producer's end makes it.
    pub(crate) fn is_sending(&self) -> bool {
        !matches!(self, Self::Receive(_) | Self::ReceiveMany(..) | Self::Restart)
    }
}

/// A call on several lanes that one reads together; lanes go by numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// A call of one lane's producer.
    Of(usize, Operation),
    /// The next message.
    Poll,
    /// The next ones, at most so many.
    Many(usize),
    /// The budget of a lane, where there are turns.
    Budget(usize, usize),
    /// Takes a lane out; the next such call puts it back, with a new consumer.
    OutOrIn(usize),
    /// So many quarters of the patience go by, where there is a clock.
    Elapse(usize),
}

impl Group {
    /// Makes a call from three bytes, for `lanes` lanes as in [`Operation::decode`]. A third of all
    /// are a producer's.
    pub(crate) fn decode(kind: u8, choice: u8, size: u8, lanes: usize, message_max: usize) -> Self {
        let lane = usize::from(kind / 16) % lanes;
        match kind % 16 {
            0..6 => Self::Of(lane, Operation::decode(choice % 16, size, message_max)),
            _ => Self::of_the_reader(kind % 16, lane, usize::from(size)),
        }
    }

    /// Makes a call of the reader's from numbers.
    pub(crate) fn of_the_reader(kind: u8, lane: usize, size: usize) -> Self {
        match kind % 16 {
            0..2 => Self::OutOrIn(lane),
            2..4 => Self::Budget(lane, size % 4),
            4..6 => Self::Elapse(size % 5),
            6..9 => Self::Many(size % 12),
            9..13 => Self::Poll,
            13 => Self::Budget(lane, size % 4),
            14 => Self::OutOrIn(lane),
            _ => Self::Elapse(size % 5),
        }
    }
}

/// A call on a broadcast lane; readers go by their seats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crowd {
    /// A call of the producer's.
    Of(Operation),
    /// The producer hears who came and who died.
    Attend,
    /// A reader comes, unless one has the seat.
    Join(usize, Start),
    /// Receives up to so many messages.
    Receive(usize, usize),
    /// Leaves in order.
    Leave(usize),
    /// Is gone without a word.
    Die(usize),
}

impl Crowd {
    /// Makes a call from three bytes, for `seats` readers as in [`Operation::decode`]. Half of all
    /// are the producer's.
    pub(crate) fn decode(kind: u8, choice: u8, size: u8, seats: usize, message_max: usize) -> Self {
        let seat = usize::from(kind / 16) % seats;
        match kind % 16 {
            0..7 => Self::Of(Operation::decode(choice % 16, size, message_max)),
            7 => Self::Attend,
            8 => Self::Join(seat, Start::Newest),
            9 => Self::Join(seat, Start::Oldest),
            10 if choice < 128 => Self::Leave(seat),
            10 => Self::Die(seat),
            11 => Self::Receive(seat, usize::from(size)),
            _ => Self::Receive(seat, usize::from(size % 4)),
        }
    }
}
