//! The exported functions of readers that a broadcast lane does not wait for: arguments in, status
//! out.

use std::ffi::{c_char, c_void};

use crate::border::{Out, Table, bytes_mut, guarded, items, items_mut, text};
use crate::consumer::Buffers;
use crate::ends::{
    self, Claim, LanewayAttachOptions, LanewayBuffer, LanewayGrant, LanewayPeer, LanewayRelation,
    Packed,
};
use crate::follow::Inlet;
use crate::status::LanewayStatus;

/// A reader of an evicting or overwriting broadcast lane.
#[derive(Debug)]
pub struct LanewaySubscriber {
    _never_made: std::convert::Infallible,
}

static SUBSCRIBERS: Table<Inlet> = Table::new(9);

/// Attaches a reader of an evicting or overwriting broadcast lane with a ticket of a consumer's; as
/// `laneway_consumer_attach`. It starts with the next message, unless `options` say otherwise.
///
/// # Safety
/// `socket` and `ticket` are texts that end with 0. `options` is null or points to such a
/// struct. `subscriber` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_subscriber_attach(
    socket: *const c_char,
    ticket: *const c_char,
    options: *const LanewayAttachOptions,
    subscriber: *mut *mut LanewaySubscriber,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the texts, the options and the place for `subscriber` are promised to this
        // function, which is what `text`, `items` and `Out` ask for.
        let (out, socket, claim, options) = unsafe {
            let (out, socket) = (Out::new(subscriber, "subscriber")?, text(socket, "socket")?);
            let claim = Claim::Ticket(text(ticket, "ticket")?);
            (out, socket, claim, items(options, usize::from(!options.is_null()), "options")?)
        };
        let attach = ends::attach(socket, &claim, options.first())?;
        out.set(SUBSCRIBERS.insert(Inlet::new(attach.subscriber()?))?);
        Ok(LanewayStatus::Ok)
    })
}

/// As `laneway_subscriber_attach` by the lane's name: its rule about user and group ids decides.
///
/// # Safety
/// `socket` and `lane` are texts that end with 0. `options` is null or points to such a struct.
/// `subscriber` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_subscriber_attach_by_name(
    socket: *const c_char,
    lane: *const c_char,
    options: *const LanewayAttachOptions,
    subscriber: *mut *mut LanewaySubscriber,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the texts, the options and the place for `subscriber` are promised to this
        // function, which is what `text`, `items` and `Out` ask for.
        let (out, socket, claim, options) = unsafe {
            let (out, socket) = (Out::new(subscriber, "subscriber")?, text(socket, "socket")?);
            let claim = Claim::Name(text(lane, "lane")?);
            (out, socket, claim, items(options, usize::from(!options.is_null()), "options")?)
        };
        let attach = ends::attach(socket, &claim, options.first())?;
        out.set(SUBSCRIBERS.insert(Inlet::new(attach.subscriber()?))?);
        Ok(LanewayStatus::Ok)
    })
}

/// Waits for the next message at most `timeout_ns` and copies it to `buffer`. `len` tells its
/// length, also where the answer is `LANEWAY_STATUS_TOO_SMALL`: then the next call has it again.
///
/// `lost` tells how many slots the producer wrote over before this reader came: more than 0 with
/// `LANEWAY_STATUS_LOST` alone, which takes no message. The next call goes on behind the loss.
///
/// # Safety
/// One thread at a time uses the handle. `buffer` has `capacity` bytes that may be written.
/// `len` and `lost` may be written and are not part of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_subscriber_recv(
    subscriber: *mut LanewaySubscriber,
    buffer: *mut c_void,
    capacity: usize,
    timeout_ns: u64,
    len: *mut usize,
    lost: *mut u64,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: `capacity` bytes of `buffer` and the places for `len` and `lost` are promised to
        // this function, apart from one another, and that one thread uses the handle.
        unsafe {
            let (len, lost) = (Out::new(len, "len")?, Out::new(lost, "lost")?);
            let buffer = bytes_mut(buffer, capacity, "buffer")?;
            SUBSCRIBERS.with(subscriber, |end| end.recv(buffer, timeout_ns, &len, &lost))
        }
    })
}

/// As `laneway_subscriber_recv` without a wait: `LANEWAY_STATUS_EMPTY` if no message is there now.
///
/// # Safety
/// One thread at a time uses the handle. `buffer` has `capacity` bytes that may be written.
/// `len` and `lost` may be written and are not part of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_subscriber_poll(
    subscriber: *mut LanewaySubscriber,
    buffer: *mut c_void,
    capacity: usize,
    len: *mut usize,
    lost: *mut u64,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: `capacity` bytes of `buffer` and the places for `len` and `lost` are promised to
        // this function, apart from one another, and that one thread uses the handle.
        unsafe {
            let (len, lost) = (Out::new(len, "len")?, Out::new(lost, "lost")?);
            let buffer = bytes_mut(buffer, capacity, "buffer")?;
            SUBSCRIBERS.with(subscriber, |end| end.poll(buffer, &len, &lost))
        }
    })
}

/// Waits for a message at most `timeout_ns` and receives those that are there, at most `count`,
/// each into a buffer of its own. `received` tells how many. Stops before a message that is longer
/// than its buffer, as `laneway_consumer_recv_many` does, and before a loss: the next call tells
/// it as `laneway_subscriber_recv` does, so that nothing is missing between two messages of a call.
///
/// # Safety
/// One thread at a time uses the handle. `buffers` has `count` buffers, each with its
/// `capacity` bytes, that may be written. None overlaps another, the array, `received` or `lost`,
/// which may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_subscriber_recv_many(
    subscriber: *mut LanewaySubscriber,
    buffers: *mut LanewayBuffer,
    count: usize,
    timeout_ns: u64,
    received: *mut usize,
    lost: *mut u64,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the buffers and the places for `received` and `lost` are promised to this
        // function, and that one thread uses the handle. What `Buffers` asks for is promised, too.
        unsafe {
            let (received, lost) = (Out::new(received, "received")?, Out::new(lost, "lost")?);
            let mut shelf = Buffers(items_mut(buffers, count, "buffers")?);
            SUBSCRIBERS
                .with(subscriber, |end| end.recv_many(&mut shelf, timeout_ns, &received, &lost))
        }
    })
}

/// As `laneway_subscriber_recv_many`, one message behind the other from `bytes` on, without gaps,
/// with their lengths in `lengths`.
///
/// # Safety
/// One thread at a time uses the handle. `bytes` has `capacity` bytes and `lengths` `count`
/// numbers that may be written. Neither overlaps the other, `received` or `lost`, which may be
/// written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_subscriber_recv_packed(
    subscriber: *mut LanewaySubscriber,
    bytes: *mut c_void,
    capacity: usize,
    lengths: *mut usize,
    count: usize,
    timeout_ns: u64,
    received: *mut usize,
    lost: *mut u64,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the bytes, the lengths and the places for `received` and `lost` are promised to
        // this function, apart from one another, and that one thread uses the handle.
        unsafe {
            let (received, lost) = (Out::new(received, "received")?, Out::new(lost, "lost")?);
            let lengths = items_mut(lengths, count, "lengths")?;
            let mut shelf = Packed::new(bytes_mut(bytes, capacity, "bytes")?, lengths);
            SUBSCRIBERS
                .with(subscriber, |end| end.recv_many(&mut shelf, timeout_ns, &received, &lost))
        }
    })
}

/// Tells what the agent granted.
///
/// # Safety
/// One thread at a time uses the handle. `grant` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_subscriber_grant(
    subscriber: *mut LanewaySubscriber,
    grant: *mut LanewayGrant,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the place for `grant` is promised to this function, and that one thread
        // uses the handle.
        unsafe {
            let out = Out::new(grant, "grant")?;
            SUBSCRIBERS.with(subscriber, |end| {
                out.set(ends::grant(end.subscriber.grant(), end.subscriber.message_max()));
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
pub unsafe extern "C" fn laneway_subscriber_relation(
    subscriber: *mut LanewaySubscriber,
    relation: *mut LanewayRelation,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the place for `relation` is promised to this function, and that one thread
        // uses the handle.
        unsafe {
            let out = Out::new(relation, "relation")?;
            SUBSCRIBERS.with(subscriber, |end| {
                out.set(ends::relation(end.subscriber.grant()));
                Ok(LanewayStatus::Ok)
            })
        }
    })
}

/// Tells how far the reader is: the position of the next message, in slots since the lane was made,
/// and the slots that it lost since its attach.
///
/// # Safety
/// One thread at a time uses the handle. `position` and `lost` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_subscriber_position(
    subscriber: *mut LanewaySubscriber,
    position: *mut u64,
    lost: *mut u64,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the places for `position` and `lost` are promised to this function, and that one
        // thread uses the handle.
        unsafe {
            let (position, lost) = (Out::new(position, "position")?, Out::new(lost, "lost")?);
            SUBSCRIBERS.with(subscriber, |end| {
                position.set(end.subscriber.position());
                lost.set(end.subscriber.lost());
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
pub unsafe extern "C" fn laneway_subscriber_peer(
    subscriber: *mut LanewaySubscriber,
    peer: *mut LanewayPeer,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the place for `peer` is promised to this function, and that one thread
        // uses the handle.
        unsafe {
            let out = Out::new(peer, "peer")?;
            SUBSCRIBERS.with(subscriber, |end| {
                out.set(ends::peer(end.subscriber.peer()));
                Ok(LanewayStatus::Ok)
            })
        }
    })
}

/// Looks at the agent's events, as `laneway_consumer_maintain`.
///
/// # Safety
/// One thread at a time uses the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_subscriber_maintain(
    subscriber: *mut LanewaySubscriber,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: that one thread uses the handle is promised to this function.
        unsafe {
            SUBSCRIBERS.with(subscriber, |end| {
                end.subscriber.maintain()?;
                Ok(LanewayStatus::Ok)
            })
        }
    })
}

/// Closes the handle.
///
/// # Safety
/// One thread at a time uses the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_subscriber_detach(
    subscriber: *mut LanewaySubscriber,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: that one thread uses the handle is promised to this function.
        unsafe {
            SUBSCRIBERS.remove(subscriber).map(drop)?;
            Ok(LanewayStatus::Ok)
        }
    })
}
