//! The exported functions of consumers: arguments in, status out.

use std::ffi::{c_char, c_void};

use laneway_shm::Consumer;

use crate::border::{Out, Table, bytes_mut, guarded, items, items_mut, text};
use crate::ends::{
    self, Claim, LanewayAttachOptions, LanewayBuffer, LanewayGrant, LanewayPeer, LanewayRelation,
    Packed, Shelf,
};
use crate::frozen::LanewayFrozen;
use crate::status::{Failure, LanewayStatus};

/// The consumer's end of a lane.
#[derive(Debug)]
pub struct LanewayConsumer {
    _never_made: std::convert::Infallible,
}

static CONSUMERS: Table<Consumer> = Table::new(10);

/// Attaches the consumer's end with a ticket, as the control API printed it: 32 hexadecimal digits.
/// `socket` is the path of the agent's attach socket. Pins the thread to the granted core, unless
/// `options` forbids it, until the end is closed or detached by the same thread.
///
/// # Safety
/// `socket` and `ticket` are texts that end with 0. `options` is null or points to such a
/// struct. `consumer` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_consumer_attach(
    socket: *const c_char,
    ticket: *const c_char,
    options: *const LanewayAttachOptions,
    consumer: *mut *mut LanewayConsumer,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the texts, the options and the place for `consumer` are promised to this
        // function, which is what `text`, `items` and `Out` ask for.
        let (out, socket, claim, options) = unsafe {
            let (out, socket) = (Out::new(consumer, "consumer")?, text(socket, "socket")?);
            let claim = Claim::Ticket(text(ticket, "ticket")?);
            (out, socket, claim, items(options, usize::from(!options.is_null()), "options")?)
        };
        let attach = ends::attach(socket, &claim, options.first())?;
        out.set(CONSUMERS.insert(attach.consumer()?)?);
        Ok(LanewayStatus::Ok)
    })
}

/// Attaches the consumer's end by the lane's name: its rule about user and group ids decides.
///
/// # Safety
/// `socket` and `lane` are texts that end with 0. `options` is null or points to such a struct.
/// `consumer` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_consumer_attach_by_name(
    socket: *const c_char,
    lane: *const c_char,
    options: *const LanewayAttachOptions,
    consumer: *mut *mut LanewayConsumer,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the texts, the options and the place for `consumer` are promised to this
        // function, which is what `text`, `items` and `Out` ask for.
        let (out, socket, claim, options) = unsafe {
            let (out, socket) = (Out::new(consumer, "consumer")?, text(socket, "socket")?);
            let claim = Claim::Name(text(lane, "lane")?);
            (out, socket, claim, items(options, usize::from(!options.is_null()), "options")?)
        };
        let attach = ends::attach(socket, &claim, options.first())?;
        out.set(CONSUMERS.insert(attach.consumer()?)?);
        Ok(LanewayStatus::Ok)
    })
}

/// Waits for the next message at most `timeout_ns`, copies it to `buffer` and gives its slots back.
/// `len` tells its length, also where the answer is `LANEWAY_STATUS_TOO_SMALL`.
///
/// # Safety
/// One thread at a time uses the handle. `buffer` has `capacity` bytes that may be written.
/// `len` may be written and is not part of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_consumer_recv(
    consumer: *mut LanewayConsumer,
    buffer: *mut c_void,
    capacity: usize,
    timeout_ns: u64,
    len: *mut usize,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: `capacity` bytes of `buffer` and the place for `len` are promised to this
        // function, apart from each other, and that one thread uses the handle.
        unsafe {
            let (len, buffer) = (Out::new(len, "len")?, bytes_mut(buffer, capacity, "buffer")?);
            CONSUMERS.with(consumer, |end| ends::recv(end, buffer, timeout_ns, &len))
        }
    })
}

/// As `laneway_consumer_recv` without a wait: `LANEWAY_STATUS_EMPTY` if no message is there now.
///
/// # Safety
/// One thread at a time uses the handle. `buffer` has `capacity` bytes that may be written.
/// `len` may be written and is not part of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_consumer_poll(
    consumer: *mut LanewayConsumer,
    buffer: *mut c_void,
    capacity: usize,
    len: *mut usize,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: `capacity` bytes of `buffer` and the place for `len` are promised to this
        // function, apart from each other, and that one thread uses the handle.
        unsafe {
            let (len, buffer) = (Out::new(len, "len")?, bytes_mut(buffer, capacity, "buffer")?);
            CONSUMERS.with(consumer, |end| ends::poll(end, buffer, &len))
        }
    })
}

/// As `laneway_consumer_recv` for a lane that carries frozen payloads, too. If the next message is
/// one, `*frozen` is its handle, to be released, `len` tells its length, and nothing is copied;
/// otherwise `*frozen` is null. The message's slot is given back: should this process end now, its
/// successor is not sent the payload again.
///
/// # Safety
/// One thread at a time uses the handle. `buffer` has `capacity` bytes that may be written.
/// `len` and `frozen` may be written and are not part of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_consumer_recv_any(
    consumer: *mut LanewayConsumer,
    buffer: *mut c_void,
    capacity: usize,
    timeout_ns: u64,
    len: *mut usize,
    frozen: *mut *mut LanewayFrozen,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: `capacity` bytes of `buffer` and the places for `len` and `frozen` are promised
        // to this function, apart from one another, and that one thread uses the handle.
        unsafe {
            let (len, frozen) = (Out::new(len, "len")?, Out::new(frozen, "frozen")?);
            let buffer = bytes_mut(buffer, capacity, "buffer")?;
            CONSUMERS.with(consumer, |end| ends::recv_any(end, buffer, timeout_ns, &len, &frozen))
        }
    })
}

/// As `laneway_consumer_recv_any` without a wait: `LANEWAY_STATUS_EMPTY` if no message is there
/// now.
///
/// # Safety
/// One thread at a time uses the handle. `buffer` has `capacity` bytes that may be written.
/// `len` and `frozen` may be written and are not part of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_consumer_poll_any(
    consumer: *mut LanewayConsumer,
    buffer: *mut c_void,
    capacity: usize,
    len: *mut usize,
    frozen: *mut *mut LanewayFrozen,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: `capacity` bytes of `buffer` and the places for `len` and `frozen` are promised
        // to this function, apart from one another, and that one thread uses the handle.
        unsafe {
            let (len, frozen) = (Out::new(len, "len")?, Out::new(frozen, "frozen")?);
            let buffer = bytes_mut(buffer, capacity, "buffer")?;
            CONSUMERS.with(consumer, |end| ends::poll_any(end, buffer, &len, &frozen))
        }
    })
}

/// Leaves out the next message if it is a frozen payload, for a consumer that does not want it or
/// has no memory to map it; `LANEWAY_STATUS_EMPTY` if it is none.
///
/// # Safety
/// One thread at a time uses the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_consumer_skip_frozen(
    consumer: *mut LanewayConsumer,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: that one thread uses the handle is promised to this function.
        unsafe {
            CONSUMERS.with(consumer, |end| match end.skip_frozen()? {
                true => Ok(LanewayStatus::Ok),
                false => Ok(LanewayStatus::Empty),
            })
        }
    })
}

/// Waits for a message at most `timeout_ns` and receives those that are there, at most `count`,
/// each into a buffer of its own. `received` tells how many. Stops before a message that is longer
/// than its buffer; if that is the first one, the answer is `LANEWAY_STATUS_TOO_SMALL` and the
/// first buffer's `len` tells the length.
///
/// # Safety
/// One thread at a time uses the handle. `buffers` has `count` buffers, each with its
/// `capacity` bytes, that may be written. None overlaps another, the array or `received`, which
/// may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_consumer_recv_many(
    consumer: *mut LanewayConsumer,
    buffers: *mut LanewayBuffer,
    count: usize,
    timeout_ns: u64,
    received: *mut usize,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the buffers and the place for `received` are promised to this function, and that
        // one thread uses the handle.
        unsafe {
            let received = Out::new(received, "received")?;
            let mut shelf = Buffers(items_mut(buffers, count, "buffers")?);
            CONSUMERS.with(consumer, |end| ends::recv_many(end, &mut shelf, timeout_ns, &received))
        }
    })
}

/// As `laneway_consumer_recv_many`, one message behind the other from `bytes` on, without gaps,
/// with their lengths in `lengths`.
///
/// # Safety
/// One thread at a time uses the handle. `bytes` has `capacity` bytes and `lengths` `count`
/// numbers that may be written. Neither overlaps the other or `received`, which may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_consumer_recv_packed(
    consumer: *mut LanewayConsumer,
    bytes: *mut c_void,
    capacity: usize,
    lengths: *mut usize,
    count: usize,
    timeout_ns: u64,
    received: *mut usize,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the bytes, the lengths and the place for `received` are promised to this
        // function, apart from one another, and that one thread uses the handle.
        unsafe {
            let received = Out::new(received, "received")?;
            let lengths = items_mut(lengths, count, "lengths")?;
            let rest = bytes_mut(bytes, capacity, "bytes")?;
            let mut shelf = Packed::new(rest, lengths);
            CONSUMERS.with(consumer, |end| ends::recv_many(end, &mut shelf, timeout_ns, &received))
        }
    })
}

/// Tells what the agent granted.
///
/// # Safety
/// One thread at a time uses the handle. `grant` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_consumer_grant(
    consumer: *mut LanewayConsumer,
    grant: *mut LanewayGrant,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the place for `grant` is promised to this function, and that one thread
        // uses the handle.
        unsafe {
            let out = Out::new(grant, "grant")?;
            CONSUMERS.with(consumer, |end| {
                out.set(ends::grant(end.grant(), end.message_max()));
                Ok(LanewayStatus::Ok)
            })
        }
    })
}

/// Tells what the granted cores of this end and of the producer have in common.
///
/// # Safety
/// One thread at a time uses the handle. `relation` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_consumer_relation(
    consumer: *mut LanewayConsumer,
    relation: *mut LanewayRelation,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the place for `relation` is promised to this function, and that one thread
        // uses the handle.
        unsafe {
            let out = Out::new(relation, "relation")?;
            CONSUMERS.with(consumer, |end| {
                out.set(ends::relation(end.grant()));
                Ok(LanewayStatus::Ok)
            })
        }
    })
}

/// Tells the position of the next message, in slots since the lane was made.
///
/// # Safety
/// One thread at a time uses the handle. `position` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_consumer_position(
    consumer: *mut LanewayConsumer,
    position: *mut u64,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the place for `position` is promised to this function, and that one thread
        // uses the handle.
        unsafe {
            let out = Out::new(position, "position")?;
            CONSUMERS.with(consumer, |end| {
                out.set(end.position());
                Ok(LanewayStatus::Ok)
            })
        }
    })
}

/// Tells what is known of the producer.
///
/// # Safety
/// One thread at a time uses the handle. `peer` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_consumer_peer(
    consumer: *mut LanewayConsumer,
    peer: *mut LanewayPeer,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the place for `peer` is promised to this function, and that one thread
        // uses the handle.
        unsafe {
            let out = Out::new(peer, "peer")?;
            CONSUMERS.with(consumer, |end| {
                out.set(ends::peer(end.peer()));
                Ok(LanewayStatus::Ok)
            })
        }
    })
}

/// Looks at the agent's events: a new producer, a restarted agent, a revocation. A consumer that
/// waits, or receives at full rate, does so by itself.
///
/// # Safety
/// One thread at a time uses the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_consumer_maintain(
    consumer: *mut LanewayConsumer,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: that one thread uses the handle is promised to this function.
        unsafe {
            CONSUMERS.with(consumer, |end| {
                end.maintain()?;
                Ok(LanewayStatus::Ok)
            })
        }
    })
}

/// Closes the handle. A successor goes on after what was received.
///
/// # Safety
/// One thread at a time uses the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_consumer_detach(consumer: *mut LanewayConsumer) -> LanewayStatus {
    guarded(|| {
        // SAFETY: that one thread uses the handle is promised to this function.
        unsafe {
            CONSUMERS.remove(consumer).map(drop)?;
            Ok(LanewayStatus::Ok)
        }
    })
}

/// One buffer for each message.
///
/// Whoever makes one was promised that each buffer may be written and that none overlaps anything
/// else.
pub(crate) struct Buffers<'a>(pub(crate) &'a mut [LanewayBuffer]);

impl Shelf for Buffers<'_> {
    fn places(&self) -> usize {
        self.0.len()
    }

    fn room(&mut self, index: usize) -> Result<&mut [u8], Failure> {
        let buffer = &self.0[index];
        // SAFETY: each buffer may be written and none overlaps anything else, as was promised to
        // the makers of this shelf: `laneway_consumer_recv_many`, `laneway_subscriber_recv_many`.
        unsafe { bytes_mut(buffer.data, buffer.capacity, "buffers") }
    }

    fn note(&mut self, index: usize, len: usize) {
        self.0[index].len = len;
    }
}
