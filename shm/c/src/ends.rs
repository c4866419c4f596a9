//! What the exported functions do once their arguments are references. No `unsafe` here.

use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use laneway_shm::wire::{Grant, Pinning};
use laneway_shm::{
    Attach, Consumer, Distance, FrozenFile, Incoming, PeerState, Producer, Profile, Relation, Start,
};

use crate::border::{Answer, Out};
use crate::frozen::{self, LanewayFrozen};
use crate::status::{Failure, LanewayStatus};

/// For a timeout: waits until there is something to answer.
pub const LANEWAY_FOREVER: u64 = u64::MAX;
/// For a cpu: none was granted.
pub const LANEWAY_NO_CPU: u32 = u32::MAX;
/// For `laneway_attach_options`: leaves the thread where it is, whatever core was granted.
pub const LANEWAY_ATTACH_NO_PIN: u32 = 1;
/// For `laneway_attach_options`: asks for a lifeline to each peer, over which frozen payloads go.
/// Costs a descriptor; one end of the two is enough to ask. Where the consumer of a lane that parks
/// asks, its producer makes a fence for each commit (about 12 ns).
pub const LANEWAY_ATTACH_LIFELINE: u32 = 2;
/// For `laneway_attach_options`: a reader of a broadcast lane starts with the oldest message that
/// is retained, and not with the next one.
pub const LANEWAY_ATTACH_OLDEST: u32 = 4;
/// For `laneway_grant`: ends sleep when there is nothing to do.
pub const LANEWAY_GRANT_PARKS: u32 = 1;
/// For `laneway_grant`: the lane is tuned for throughput, not for latency.
pub const LANEWAY_GRANT_THROUGHPUT: u32 = 2;
/// For `laneway_grant`: the attach pinned its thread, unless it was told not to.
pub const LANEWAY_GRANT_PINS_ITSELF: u32 = 4;
/// For `laneway_grant`: the agent pins the thread.
pub const LANEWAY_GRANT_PINNED_BY_AGENT: u32 = 8;

/// How to attach. All zero is a good choice, and what a null pointer means.
#[repr(C)]
#[derive(Debug)]
pub struct LanewayAttachOptions {
    /// Longest wait for each answer of the agent, in nanoseconds; 0 for 5 s.
    pub timeout_ns: u64,
    /// Sum of `LANEWAY_ATTACH_` flags.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}

/// What the agent granted to an end. Never grows: what comes later gets a function of its own.
#[repr(C)]
#[derive(Debug)]
pub struct LanewayGrant {
    /// Largest message of the lane, in bytes.
    pub message_max_bytes: u64,
    /// Size of the end's own segment, in bytes.
    pub segment_bytes: u64,
    /// Size of its pages, in bytes.
    pub page_bytes: u64,
    /// Counts the ends that attached here, this one included.
    pub generation: u64,
    /// Payload of one slot, in bytes. Longer messages take several slots.
    pub slot_payload_bytes: u32,
    /// Slots of the lane.
    pub slot_count: u32,
    /// Granted cpu, or `LANEWAY_NO_CPU`.
    pub cpu: u32,
    /// Sum of `LANEWAY_GRANT_` flags.
    pub flags: u32,
    /// How well the core is kept free of other work: 'A' (isolated) to 'D' (not at all).
    pub grade: c_char,
}

/// What is known of the other end. One that is silent is attached.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LanewayPeer {
    /// It has not attached yet.
    Absent = 0,
    /// It is attached, as far as the agent knows.
    Live = 1,
    /// Its process ended, or it detached.
    Gone = 2,
}

/// What the granted cores of a lane's two ends have in common, nearest first.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LanewayRelation {
    /// An end has no core.
    Unknown = 0,
    /// They are one cpu: the ends take turns.
    SameCpu = 1,
    /// They are two threads of one core.
    SameCore = 2,
    /// They share a level 2 cache.
    SameL2 = 3,
    /// They share a level 3 cache.
    SameL3 = 4,
    /// They are of one NUMA node.
    SameNode = 5,
    /// They are of different NUMA nodes.
    OtherNode = 6,
}

/// How far the consumer is from the producer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LanewayDistance {
    /// The agent could not say, or both ends have one cpu, and nothing was measured yet; or what
    /// was measured contradicts it.
    Unknown = 0,
    /// The two cores share a cache.
    Near = 1,
    /// They do not.
    Far = 2,
}

/// Bytes to send.
#[repr(C)]
#[derive(Debug)]
pub struct LanewaySlice {
    /// First byte; may be null if `len` is 0.
    pub data: *const std::ffi::c_void,
    /// Number of bytes.
    pub len: usize,
}

/// A place for one received message.
#[repr(C)]
#[derive(Debug)]
pub struct LanewayBuffer {
    /// First byte; may be null if `capacity` is 0.
    pub data: *mut std::ffi::c_void,
    /// Bytes that there is room for.
    pub capacity: usize,
    /// Length of the message that was received.
    pub len: usize,
}

/// A producer with at most one open reservation.
pub(crate) struct Outlet {
    pub(crate) producer: Producer,
    reserved: Option<usize>,
}

fn duration(timeout_ns: u64) -> Duration {
    // Forever as nanoseconds is some centuries.
    Duration::from_nanos(timeout_ns)
}

/// By what right an end is attached.
pub(crate) enum Claim<'a> {
    Ticket(&'a CStr),
    Name(&'a CStr),
}

pub(crate) fn attach(
    socket: &CStr,
    claim: &Claim<'_>,
    options: Option<&LanewayAttachOptions>,
) -> Result<Attach, Failure> {
    let socket = OsStr::from_bytes(socket.to_bytes());
    let utf8 = |text: &CStr, name| match text.to_str() {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Failure::argument(name, "is not UTF-8")),
    };
    let attach = match claim {
        Claim::Name(lane) => Attach::by_name(socket, &utf8(lane, "lane")?),
        Claim::Ticket(ticket) => Attach::with_ticket(socket, &utf8(ticket, "ticket")?)
            .map_err(|_| Failure::argument("ticket", "has not 32 hexadecimal digits"))?,
    };
    let Some(options) = options else { return Ok(attach) };
    let known = LANEWAY_ATTACH_NO_PIN | LANEWAY_ATTACH_LIFELINE | LANEWAY_ATTACH_OLDEST;
    if options.flags & !known != 0 || options.reserved != 0 {
        return Err(Failure::argument("options", "has flags that this version does not know"));
    }
    let attach = attach
        .pin(options.flags & LANEWAY_ATTACH_NO_PIN == 0)
        .lifeline(options.flags & LANEWAY_ATTACH_LIFELINE != 0)
        .start(match options.flags & LANEWAY_ATTACH_OLDEST {
            0 => Start::Newest,
            _ => Start::Oldest,
        });
    Ok(match options.timeout_ns {
        0 => attach,
        timeout_ns => attach.timeout(duration(timeout_ns)),
    })
}

pub(crate) fn grant(grant: &Grant, message_max: usize) -> LanewayGrant {
    let flag = |given: bool, flag: u32| if given { flag } else { 0 };
    LanewayGrant {
        message_max_bytes: message_max as u64,
        segment_bytes: grant.size_bytes,
        page_bytes: grant.page_bytes,
        generation: grant.generation,
        slot_payload_bytes: grant.slot_payload,
        slot_count: grant.slot_count,
        cpu: grant.cpu,
        flags: flag(grant.park, LANEWAY_GRANT_PARKS)
            | flag(grant.profile == Profile::Throughput, LANEWAY_GRANT_THROUGHPUT)
            | flag(grant.pinning == Pinning::Own, LANEWAY_GRANT_PINS_ITSELF)
            | flag(grant.pinning == Pinning::Enforced, LANEWAY_GRANT_PINNED_BY_AGENT),
        grade: c_char::from_ne_bytes([grant.grade]),
    }
}

pub(crate) fn peer(state: PeerState) -> LanewayPeer {
    match state {
        PeerState::Live => LanewayPeer::Live,
        PeerState::Gone => LanewayPeer::Gone,
        _ => LanewayPeer::Absent,
    }
}

pub(crate) fn relation(grant: &Grant) -> LanewayRelation {
    match grant.relation {
        None => LanewayRelation::Unknown,
        Some(Relation::SameCpu) => LanewayRelation::SameCpu,
        Some(Relation::SameCore) => LanewayRelation::SameCore,
        Some(Relation::SameL2) => LanewayRelation::SameL2,
        Some(Relation::SameL3) => LanewayRelation::SameL3,
        Some(Relation::SameNode) => LanewayRelation::SameNode,
        Some(Relation::OtherNode) => LanewayRelation::OtherNode,
    }
}

pub(crate) fn distance(distance: Distance) -> LanewayDistance {
    match distance {
        Distance::Unknown => LanewayDistance::Unknown,
        Distance::Near => LanewayDistance::Near,
        Distance::Far => LanewayDistance::Far,
    }
}

impl Outlet {
    pub(crate) fn new(producer: Producer) -> Self {
        Self { producer, reserved: None }
    }

    fn idle(&self) -> Result<(), Failure> {
        let text = "a reservation is open: commit or abort it first";
        match self.reserved {
            None => Ok(()),
            Some(_) => Err(Failure::new(LanewayStatus::OutOfTurn, text)),
        }
    }

    pub(crate) fn send(&mut self, message: &[u8], timeout_ns: u64) -> Answer {
        self.idle()?;
        if timeout_ns == 0 {
            let mut slot = self.producer.try_reserve(message.len())?;
            slot.write(0, message);
            slot.commit();
        } else {
            self.producer.send(message, duration(timeout_ns))?;
        }
        Ok(LanewayStatus::Ok)
    }

    /// Sends until one cannot be sent. The messages are made one by one, because each of the
    /// caller's slices has to be checked.
    pub(crate) fn send_many<'m>(
        &mut self,
        messages: impl Iterator<Item = Result<&'m [u8], Failure>>,
        timeout_ns: u64,
        sent: &Out<usize>,
    ) -> Answer {
        sent.set(0);
        self.idle()?;
        let (mut fetched, mut wrong) = (0, None);
        let good = messages.map_while(|message| match message {
            Ok(message) => {
                fetched += 1;
                Some(message)
            }
            Err(failure) => {
                wrong = Some(failure);
                None
            }
        });
        let answer = self.producer.send_many(good, duration(timeout_ns));
        let failed = usize::from(answer.is_err());
        sent.set(fetched - failed);
        match (answer, wrong) {
            (Err(error), _) if timeout_ns == 0 && error.is_timeout() => {
                Err(Failure::new(LanewayStatus::Full, "no room for all of them now"))
            }
            (Err(error), _) => Err(error.into()),
            (Ok(_), Some(failure)) => Err(failure),
            (Ok(_), None) => Ok(LanewayStatus::Ok),
        }
    }

    pub(crate) fn send_frozen(&mut self, file: &FrozenFile, timeout_ns: u64) -> Answer {
        self.idle()?;
        match self.producer.send_frozen(file, duration(timeout_ns)) {
            Ok(()) => Ok(LanewayStatus::Ok),
            Err(error) if timeout_ns == 0 && error.is_timeout() => {
                Err(Failure::new(LanewayStatus::Full, error.to_string()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Finds room, and takes its address and leaves it: nothing is visible before the commit, which
    /// finds the same room again, because nothing else can have taken it.
    pub(crate) fn reserve<T>(
        &mut self,
        len: usize,
        timeout_ns: u64,
        place: &Out<*mut T>,
    ) -> Answer {
        self.idle()?;
        let mut slot = if timeout_ns == 0 {
            self.producer.try_reserve(len)?
        } else {
            self.producer.reserve(len, duration(timeout_ns))?
        };
        let text = "the message takes several slots and has no address of its own: send it";
        let Some(bytes) = slot.as_mut() else {
            return Err(Failure::new(LanewayStatus::NotInPlace, text));
        };
        place.set(bytes.as_mut_ptr().cast());
        self.reserved = Some(len);
        Ok(LanewayStatus::Ok)
    }

    pub(crate) fn commit(&mut self, len: usize) -> Answer {
        let reserved = self.open()?;
        if len > reserved {
            return Err(Failure::argument("len", "is more than was reserved"));
        }
        self.producer.try_reserve(reserved)?.commit_len(len);
        self.abort()
    }

    pub(crate) fn abort(&mut self) -> Answer {
        self.open()?;
        self.reserved = None;
        Ok(LanewayStatus::Ok)
    }

    fn open(&self) -> Result<usize, Failure> {
        let text = "no reservation is open";
        self.reserved.ok_or_else(|| Failure::new(LanewayStatus::OutOfTurn, text))
    }

    /// Waits until the end of the stream has room, so that the close itself cannot fail for it.
    pub(crate) fn make_room(&mut self, timeout_ns: u64) -> Answer {
        self.idle()?;
        self.producer.reserve(0, duration(timeout_ns))?;
        Ok(LanewayStatus::Ok)
    }
}

/// Copies one message out, or leaves it in the lane with its length told.
fn take(slot: laneway_shm::ReadSlot<'_>, buffer: &mut [u8], len: &Out<usize>) -> Answer {
    len.set(slot.len());
    if slot.len() > buffer.len() {
        let text =
            format!("the next message has {} bytes, the buffer {}", slot.len(), buffer.len());
        slot.keep();
        return Err(Failure::new(LanewayStatus::TooSmall, text));
    }
    slot.copy_to(buffer);
    Ok(LanewayStatus::Ok)
}

pub(crate) fn poll(consumer: &mut Consumer, buffer: &mut [u8], len: &Out<usize>) -> Answer {
    match consumer.poll()? {
        Some(slot) => take(slot, buffer, len),
        None => Ok(LanewayStatus::Empty),
    }
}

pub(crate) fn recv(
    consumer: &mut Consumer,
    buffer: &mut [u8],
    timeout_ns: u64,
    len: &Out<usize>,
) -> Answer {
    take(consumer.recv(duration(timeout_ns))?, buffer, len)
}

/// Copies one message out, or hands its payload over; or leaves it in the lane.
fn take_any(
    incoming: Incoming<'_>,
    buffer: &mut [u8],
    len: &Out<usize>,
    frozen: &Out<*mut LanewayFrozen>,
) -> Answer {
    match incoming {
        Incoming::Message(slot) => take(slot, buffer, len),
        Incoming::Frozen(slot) => {
            len.set(slot.len());
            match frozen::received(slot.segment()) {
                Ok(handle) => frozen.set(handle),
                Err(failure) => {
                    slot.keep();
                    return Err(failure);
                }
            }
            Ok(LanewayStatus::Ok)
        }
    }
}

pub(crate) fn poll_any(
    consumer: &mut Consumer,
    buffer: &mut [u8],
    len: &Out<usize>,
    frozen: &Out<*mut LanewayFrozen>,
) -> Answer {
    frozen.set(std::ptr::null_mut());
    match consumer.poll_any()? {
        Some(incoming) => take_any(incoming, buffer, len, frozen),
        None => Ok(LanewayStatus::Empty),
    }
}

pub(crate) fn recv_any(
    consumer: &mut Consumer,
    buffer: &mut [u8],
    timeout_ns: u64,
    len: &Out<usize>,
    frozen: &Out<*mut LanewayFrozen>,
) -> Answer {
    frozen.set(std::ptr::null_mut());
    take_any(consumer.recv_any(duration(timeout_ns))?, buffer, len, frozen)
}

/// Where received messages go, one after the other.
pub(crate) trait Shelf {
    /// Places in all.
    fn places(&self) -> usize;
    /// Room of the next place.
    fn room(&mut self, index: usize) -> Result<&mut [u8], Failure>;
    /// Notes how long the message is, which was put there if it fits.
    fn note(&mut self, index: usize, len: usize);
}

/// Fills a shelf with what is there, waiting for the first message.
pub(crate) fn recv_many(
    consumer: &mut Consumer,
    shelf: &mut impl Shelf,
    timeout_ns: u64,
    received: &Out<usize>,
) -> Answer {
    received.set(0);
    let places = shelf.places();
    if places == 0 {
        return Err(Failure::argument("count", "is 0"));
    }
    let mut batch = consumer.recv_many(places, duration(timeout_ns))?;
    for index in 0..places {
        let room = match shelf.room(index) {
            Ok(room) => room,
            // What was taken is taken: a wrong place is told once it is the first one.
            Err(_) if index > 0 => break,
            Err(failure) => return Err(failure),
        };
        match batch.next_within(room.len()) {
            Ok(Some(message)) => {
                let len = message.copy_to(room);
                shelf.note(index, len);
            }
            // Only a hostile producer takes back what the wait has found.
            Ok(None) if index == 0 => {
                return Err(Failure::new(LanewayStatus::TimedOut, "the message is gone again"));
            }
            Ok(None) => break,
            Err(laneway_shm::RecvError::TooLong { found, .. }) if index == 0 => {
                shelf.note(0, found);
                let text = format!("the next message has {found} bytes, its place has fewer");
                return Err(Failure::new(LanewayStatus::TooSmall, text));
            }
            Err(laneway_shm::RecvError::TooLong { .. }) => break,
            Err(error) if index == 0 => return Err(error.into()),
            Err(_) => break,
        }
        received.set(index + 1);
    }
    Ok(LanewayStatus::Ok)
}

/// Messages one behind the other.
pub(crate) struct Packed<'a> {
    bytes: &'a mut [u8],
    used: usize,
    lengths: &'a mut [usize],
}

impl<'a> Packed<'a> {
    pub(crate) fn new(bytes: &'a mut [u8], lengths: &'a mut [usize]) -> Self {
        Self { bytes, used: 0, lengths }
    }
}

impl Shelf for Packed<'_> {
    fn places(&self) -> usize {
        self.lengths.len()
    }

    fn room(&mut self, _index: usize) -> Result<&mut [u8], Failure> {
        Ok(&mut self.bytes[self.used..])
    }

    fn note(&mut self, index: usize, len: usize) {
        self.lengths[index] = len;
        // A length that did not fit is told and not used: nothing comes after it.
        self.used = self.bytes.len().min(self.used + len);
    }
}
