//! The exported functions of producers: arguments in, status out.

use std::ffi::{c_char, c_void};

use crate::border::{Out, Table, bytes, guarded, items, text};
use crate::ends::{
    self, Claim, LanewayAttachOptions, LanewayDistance, LanewayGrant, LanewayPeer, LanewayRelation,
    LanewaySlice, Outlet,
};
use crate::frozen::{self, LanewayFrozen};
use crate::status::LanewayStatus;

/// The producer's end of a lane.
#[derive(Debug)]
pub struct LanewayProducer {
    _never_made: std::convert::Infallible,
}

static PRODUCERS: Table<Outlet> = Table::new(5);

/// Attaches the producer's end with a ticket, as the control API printed it: 32 hexadecimal digits.
/// `socket` is the path of the agent's attach socket. Pins the thread to the granted core, unless
/// `options` forbids it, until the end is closed or detached by the same thread.
///
/// # Safety
/// `socket` and `ticket` are texts that end with 0. `options` is null or points to such a
/// struct. `producer` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_producer_attach(
    socket: *const c_char,
    ticket: *const c_char,
    options: *const LanewayAttachOptions,
    producer: *mut *mut LanewayProducer,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the texts, the options and the place for `producer` are promised to this
        // function, which is what `text`, `items` and `Out` ask for.
        let (out, socket, claim, options) = unsafe {
            let (out, socket) = (Out::new(producer, "producer")?, text(socket, "socket")?);
            let claim = Claim::Ticket(text(ticket, "ticket")?);
            (out, socket, claim, items(options, usize::from(!options.is_null()), "options")?)
        };
        let attach = ends::attach(socket, &claim, options.first())?;
        out.set(PRODUCERS.insert(Outlet::new(attach.producer()?))?);
        Ok(LanewayStatus::Ok)
    })
}

/// Attaches the producer's end by the lane's name: its rule about user and group ids decides.
///
/// # Safety
/// `socket` and `lane` are texts that end with 0. `options` is null or points to such a struct.
/// `producer` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_producer_attach_by_name(
    socket: *const c_char,
    lane: *const c_char,
    options: *const LanewayAttachOptions,
    producer: *mut *mut LanewayProducer,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the texts, the options and the place for `producer` are promised to this
        // function, which is what `text`, `items` and `Out` ask for.
        let (out, socket, claim, options) = unsafe {
            let (out, socket) = (Out::new(producer, "producer")?, text(socket, "socket")?);
            let claim = Claim::Name(text(lane, "lane")?);
            (out, socket, claim, items(options, usize::from(!options.is_null()), "options")?)
        };
        let attach = ends::attach(socket, &claim, options.first())?;
        out.set(PRODUCERS.insert(Outlet::new(attach.producer()?))?);
        Ok(LanewayStatus::Ok)
    })
}

/// Copies one message into the lane and makes it visible. Waits for room at most `timeout_ns`; with
/// 0 it does not wait and answers `LANEWAY_STATUS_FULL`.
///
/// # Safety
/// One thread at a time uses the handle. `message` has `len` bytes that may be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_producer_send(
    producer: *mut LanewayProducer,
    message: *const c_void,
    len: usize,
    timeout_ns: u64,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: `len` bytes of `message` are promised to this function, and that one thread uses
        // the handle.
        unsafe {
            let message = bytes(message, len, "message")?;
            PRODUCERS.with(producer, |outlet| outlet.send(message, timeout_ns))
        }
    })
}

/// Sends messages in order; what there is room for becomes visible at once. Waits for room at most
/// `timeout_ns` for each. `sent` tells how many were sent, also where the answer is a failure.
///
/// # Safety
/// One thread at a time uses the handle. `messages` has `count` slices, and each its bytes,
/// that may be read. `sent` may be written and is not part of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_producer_send_many(
    producer: *mut LanewayProducer,
    messages: *const LanewaySlice,
    count: usize,
    timeout_ns: u64,
    sent: *mut usize,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the slices, the bytes of each and the place for `sent` are promised to this
        // function, and that one thread uses the handle.
        unsafe {
            let (sent, messages) = (Out::new(sent, "sent")?, items(messages, count, "messages")?);
            // Each slice is promised as the array is.
            let each = |slice: &LanewaySlice| bytes(slice.data, slice.len, "messages");
            PRODUCERS.with(producer, |outlet| {
                outlet.send_many(messages.iter().map(each), timeout_ns, &sent)
            })
        }
    })
}

/// Sends a frozen payload, in order with the lane's messages and without a copy. Waits at most
/// `timeout_ns` for a slot and for earlier payloads to be released, of which 16 may be on their
/// way; with 0 it does not wait and answers `LANEWAY_STATUS_FULL`. The handle of the payload stays
/// open: it may be sent again, over this lane or another.
///
/// One end of the lane at least attached with `LANEWAY_ATTACH_LIFELINE`. What is sent before there
/// is a consumer goes out at a later call, or at `laneway_producer_maintain`, and is lost if the
/// producer ends before that.
///
/// # Safety
/// One thread at a time uses each handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_producer_send_frozen(
    producer: *mut LanewayProducer,
    frozen: *mut LanewayFrozen,
    timeout_ns: u64,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: that one thread uses each of the handles is promised to this function.
        unsafe {
            let file = frozen::file(frozen)?;
            PRODUCERS.with(producer, |outlet| outlet.send_frozen(&file, timeout_ns))
        }
    })
}

/// Finds room for a message of `len` bytes, which are then written in place, in the lane's own
/// memory, from `*bytes` on. They keep what an earlier message left there. Nothing is visible, and
/// nothing else can be sent, before `laneway_producer_commit` or `laneway_producer_abort`.
///
/// # Safety
/// One thread at a time uses the handle. `bytes` may be written. `*bytes` is used until the
/// commit, the abort, the close or the detach, and no longer, for `len` bytes and no more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_producer_reserve(
    producer: *mut LanewayProducer,
    len: usize,
    timeout_ns: u64,
    bytes: *mut *mut c_void,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the place for `bytes` is promised to this function, and that one thread uses the
        // handle.
        unsafe {
            let place = Out::new(bytes, "bytes")?;
            PRODUCERS.with(producer, |outlet| outlet.reserve(len, timeout_ns, &place))
        }
    })
}

/// Makes the first `len` bytes of the open reservation visible as a message.
///
/// # Safety
/// One thread at a time uses the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_producer_commit(
    producer: *mut LanewayProducer,
    len: usize,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: that one thread uses the handle is promised to this function.
        unsafe { PRODUCERS.with(producer, |outlet| outlet.commit(len)) }
    })
}

/// Gives the open reservation up: nobody will ever see it.
///
/// # Safety
/// One thread at a time uses the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_producer_abort(producer: *mut LanewayProducer) -> LanewayStatus {
    guarded(|| {
        // SAFETY: that one thread uses the handle is promised to this function.
        unsafe { PRODUCERS.with(producer, Outlet::abort) }
    })
}

/// Tells what the agent granted.
///
/// # Safety
/// One thread at a time uses the handle. `grant` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_producer_grant(
    producer: *mut LanewayProducer,
    grant: *mut LanewayGrant,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the place for `grant` is promised to this function, and that one thread
        // uses the handle.
        unsafe {
            let out = Out::new(grant, "grant")?;
            PRODUCERS.with(producer, |end| {
                out.set(ends::grant(end.producer.grant(), end.producer.message_max()));
                Ok(LanewayStatus::Ok)
            })
        }
    })
}

/// Tells what the granted cores of this end and of the consumer have in common.
///
/// # Safety
/// One thread at a time uses the handle. `relation` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_producer_relation(
    producer: *mut LanewayProducer,
    relation: *mut LanewayRelation,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the place for `relation` is promised to this function, and that one thread
        // uses the handle.
        unsafe {
            let out = Out::new(relation, "relation")?;
            PRODUCERS.with(producer, |end| {
                out.set(ends::relation(end.producer.grant()));
                Ok(LanewayStatus::Ok)
            })
        }
    })
}

/// Tells how far the consumer is: what the agent granted, and then what the time says in which the
/// consumer's cursor comes here, looked at where messages take slots of 16 KiB or more, and in
/// rings from 256 KiB on of slots up to 256 bytes. A lane that overwrites looks at no cursor:
/// there the agent's word stands.
///
/// # Safety
/// One thread at a time uses the handle. `distance` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_producer_distance(
    producer: *mut LanewayProducer,
    distance: *mut LanewayDistance,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the place for `distance` is promised to this function, and that one thread
        // uses the handle.
        unsafe {
            let out = Out::new(distance, "distance")?;
            PRODUCERS.with(producer, |end| {
                out.set(ends::distance(end.producer.distance()));
                Ok(LanewayStatus::Ok)
            })
        }
    })
}

/// Tells the position after the last visible message, in slots since the lane was made.
///
/// # Safety
/// One thread at a time uses the handle. `position` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_producer_position(
    producer: *mut LanewayProducer,
    position: *mut u64,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the place for `position` is promised to this function, and that one thread
        // uses the handle.
        unsafe {
            let out = Out::new(position, "position")?;
            PRODUCERS.with(producer, |end| {
                out.set(end.producer.position());
                Ok(LanewayStatus::Ok)
            })
        }
    })
}

/// Tells how many visible slots the consumer has not released, as last seen.
///
/// # Safety
/// One thread at a time uses the handle. `lag` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_producer_lag(
    producer: *mut LanewayProducer,
    lag: *mut u64,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the place for `lag` is promised to this function, and that one thread
        // uses the handle.
        unsafe {
            let out = Out::new(lag, "lag")?;
            PRODUCERS.with(producer, |end| {
                out.set(end.producer.lag());
                Ok(LanewayStatus::Ok)
            })
        }
    })
}

/// Tells what is known of the consumer.
///
/// # Safety
/// One thread at a time uses the handle. `peer` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_producer_peer(
    producer: *mut LanewayProducer,
    peer: *mut LanewayPeer,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: the place for `peer` is promised to this function, and that one thread
        // uses the handle.
        unsafe {
            let out = Out::new(peer, "peer")?;
            PRODUCERS.with(producer, |end| {
                out.set(ends::peer(end.producer.peer()));
                Ok(LanewayStatus::Ok)
            })
        }
    })
}

/// Looks at the agent's events: a new consumer, a restarted agent, a revocation. A producer that
/// waits, or sends at full rate, does so by itself; one that sends rarely calls it now and then.
///
/// # Safety
/// One thread at a time uses the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_producer_maintain(
    producer: *mut LanewayProducer,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: that one thread uses the handle is promised to this function.
        unsafe {
            PRODUCERS.with(producer, |outlet| {
                outlet.producer.maintain()?;
                Ok(LanewayStatus::Ok)
            })
        }
    })
}

/// Ends the stream and closes the handle: the consumer sees the end after the last message. Waits
/// at most `timeout_ns` for the one slot that the end takes, and up to a second more where an agent
/// is away or a frozen payload waits for news of its consumer. Where the answer is not
/// `LANEWAY_STATUS_OK`, the handle stays open: close it again, or detach it.
///
/// # Safety
/// One thread at a time uses the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_producer_close(
    producer: *mut LanewayProducer,
    timeout_ns: u64,
) -> LanewayStatus {
    guarded(|| {
        // SAFETY: that one thread uses the handle is promised to this function.
        unsafe {
            PRODUCERS.with(producer, |outlet| outlet.make_room(timeout_ns))?;
            PRODUCERS.remove(producer)?.producer.close(std::time::Duration::ZERO)?;
            Ok(LanewayStatus::Ok)
        }
    })
}

/// Closes the handle and leaves the stream open for a successor. An open reservation is given up.
///
/// # Safety
/// One thread at a time uses the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn laneway_producer_detach(producer: *mut LanewayProducer) -> LanewayStatus {
    guarded(|| {
        // SAFETY: that one thread uses the handle is promised to this function.
        unsafe {
            PRODUCERS.remove(producer).map(drop)?;
            Ok(LanewayStatus::Ok)
        }
    })
}
