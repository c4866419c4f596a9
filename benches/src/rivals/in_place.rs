//! The two rivals whose documented way in place ends in an `unsafe` call: all of these calls.
//!
//! Only for messages between two children of this program, which write and read as shown here.

use std::mem::MaybeUninit;

use iceoryx2::prelude::ipc;
use iceoryx2::sample_mut::SampleMut;
use iceoryx2::sample_mut_uninit::SampleMutUninit;
use shmem_ipc::Error;
use shmem_ipc::sharedring::{Receiver, Sender};

use crate::message::{fill, fill_uninit};

/// Message `number` over all of a loaned sample.
#[inline(always)]
pub(crate) fn filled(
    mut sample: SampleMutUninit<ipc::Service, [MaybeUninit<u8>], ()>,
    number: u64,
) -> SampleMut<ipc::Service, [u8], ()> {
    fill_uninit(sample.payload_mut(), number);
    // SAFETY: `fill_uninit` has written every element of the slice, and any byte is a valid `u8`.
    unsafe { sample.assume_init() }
}

/// Sends as many of `messages` as there is room for at once; how many.
#[inline(always)]
pub(crate) fn send_values<const N: usize>(
    ring: &mut Sender<[u8; N]>,
    wakes: bool,
    messages: &mut impl Iterator<Item = [u8; N]>,
) -> Result<usize, Error> {
    let mut sent = 0;
    let write = |slots: *mut [u8; N], room: usize| {
        while sent < room {
            let Some(message) = messages.next() else { break };
            // SAFETY: the ring hands out `room` slots of its mapping from `slots` on, of which
            // this is number `sent`, below `room`. They belong to this sender until the closure
            // has returned, and `[u8; N]` may lie anywhere.
            unsafe { slots.add(sent).write(message) };
            sent += 1;
        }
        sent
    };
    if wakes {
        ring.send_raw(write)?;
    } else {
        ring.sender_mut().send(write)?;
    }
    Ok(sent)
}

/// Sends message `number`, made in place, if there is room.
#[inline(always)]
pub(crate) fn send_in_place<const N: usize>(
    ring: &mut Sender<[u8; N]>,
    wakes: bool,
    number: u64,
) -> Result<bool, Error> {
    let mut sent = false;
    let write = |slots: *mut [u8; N], _room: usize| {
        // SAFETY: the closure is called only if there is room for one: `slots` is a slot of the
        // ring's mapping, which was zeroed by the kernel, so that every byte is initialised. It
        // belongs to this sender until the closure has returned: the receiver is another child
        // of this program and reads only what was counted as sent.
        fill(unsafe { &mut *slots }, number);
        sent = true;
        1
    };
    if wakes {
        ring.send_raw(write)?;
    } else {
        ring.sender_mut().send(write)?;
    }
    Ok(sent)
}

/// Hands at most `most` messages to `read`, in order; how many.
#[inline(always)]
pub(crate) fn receive_values<const N: usize>(
    ring: &mut Receiver<[u8; N]>,
    wakes: bool,
    most: usize,
    mut read: impl FnMut([u8; N]),
) -> Result<usize, Error> {
    let mut received = 0;
    let take = |slots: *const [u8; N], there: usize| {
        while received < there.min(most) {
            // SAFETY: the ring hands out `there` slots of its mapping from `slots` on, of which
            // this is number `received`, below `there`. The sender, another child of this
            // program, leaves them alone until they are counted as received, and wrote all of
            // their bytes.
            read(unsafe { slots.add(received).read() });
            received += 1;
        }
        received
    };
    if wakes {
        ring.receive_raw(take)?;
    } else {
        ring.receiver_mut().recv(take)?;
    }
    Ok(received)
}

/// Hands the next message to `read` where it lies, if there is one.
#[inline(always)]
pub(crate) fn receive_in_place<R, const N: usize>(
    ring: &mut Receiver<[u8; N]>,
    wakes: bool,
    read: impl FnOnce(&[u8]) -> R,
) -> Result<Option<R>, Error> {
    let mut result = None;
    let take = |slots: *const [u8; N], _there: usize| {
        // SAFETY: the closure is called only if there is a message: `slots` is a slot of the
        // ring's mapping, all of whose bytes the sender has written. The sender, another child of
        // this program, leaves it alone until it is counted as received, which is after the
        // reference has ended.
        result = Some(read(unsafe { &*slots }));
        1
    };
    if wakes {
        ring.receive_raw(take)?;
    } else {
        ring.receiver_mut().recv(take)?;
    }
    Ok(result)
}
