//! What the functions of a subscriber do once their arguments are references. No `unsafe` here.

use std::time::Duration;

use laneway_shm::{RecvError, Subscriber};

use crate::border::{Answer, Out};
use crate::ends::Shelf;
use crate::status::{Failure, LanewayStatus};

/// A reader that may be overrun.
pub(crate) struct Inlet {
    pub(crate) subscriber: Subscriber,
    /// What was found behind messages that were handed over.
    deferred: Option<RecvError>,
}

impl Inlet {
    pub(crate) fn new(subscriber: Subscriber) -> Self {
        Self { subscriber, deferred: None }
    }

    /// Copies the next message out, or keeps it and answers its length alone. `None` if there is
    /// none; without a timeout it does not wait.
    fn next(
        &mut self,
        room: &mut [u8],
        timeout: Option<Duration>,
    ) -> Result<Option<Result<usize, usize>>, RecvError> {
        if let Some(error) = self.deferred.take() {
            return Err(error);
        }
        let found = match timeout {
            Some(timeout) => Some(self.subscriber.recv(timeout)?),
            None => self.subscriber.poll()?,
        };
        let Some(message) = found else { return Ok(None) };
        let fitted = fit(message.bytes, room);
        if fitted.is_err() {
            self.subscriber.keep();
        }
        Ok(Some(fitted))
    }

    fn take(
        &mut self,
        buffer: &mut [u8],
        timeout: Option<Duration>,
        len: &Out<usize>,
        lost: &Out<u64>,
    ) -> Answer {
        lost.set(0);
        match self.next(buffer, timeout) {
            Ok(Some(Ok(found))) => {
                len.set(found);
                Ok(LanewayStatus::Ok)
            }
            Ok(Some(Err(found))) => {
                len.set(found);
                Err(too_small(found, buffer.len()))
            }
            Ok(None) => Ok(LanewayStatus::Empty),
            Err(error) => Err(told(error, lost)),
        }
    }

    pub(crate) fn recv(
        &mut self,
        buffer: &mut [u8],
        timeout_ns: u64,
        len: &Out<usize>,
        lost: &Out<u64>,
    ) -> Answer {
        self.take(buffer, Some(Duration::from_nanos(timeout_ns)), len, lost)
    }

    pub(crate) fn poll(&mut self, buffer: &mut [u8], len: &Out<usize>, lost: &Out<u64>) -> Answer {
        self.take(buffer, None, len, lost)
    }

    pub(crate) fn recv_many(
        &mut self,
        shelf: &mut impl Shelf,
        timeout_ns: u64,
        received: &Out<usize>,
        lost: &Out<u64>,
    ) -> Answer {
        received.set(0);
        lost.set(0);
        let places = shelf.places();
        if places == 0 {
            return Err(Failure::argument("count", "is 0"));
        }
        for index in 0..places {
            let room = match shelf.room(index) {
                Ok(room) => room,
                // What was taken is taken: a wrong place is told once it is the first one.
                Err(_) if index > 0 => break,
                Err(failure) => return Err(failure),
            };
            let timeout = (index == 0).then(|| Duration::from_nanos(timeout_ns));
            let capacity = room.len();
            match self.next(room, timeout) {
                Ok(Some(Ok(len))) => shelf.note(index, len),
                Ok(Some(Err(len))) if index == 0 => {
                    shelf.note(index, len);
                    return Err(too_small(len, capacity));
                }
                Ok(_) => break,
                Err(error) if index == 0 => return Err(told(error, lost)),
                Err(error) => {
                    self.deferred = Some(error);
                    break;
                }
            }
            received.set(index + 1);
        }
        Ok(LanewayStatus::Ok)
    }
}

/// Copies the message if there is room for it; its length, in any case.
fn fit(bytes: &[u8], room: &mut [u8]) -> Result<usize, usize> {
    let target = room.get_mut(..bytes.len()).ok_or(bytes.len())?;
    target.copy_from_slice(bytes);
    Ok(bytes.len())
}

fn too_small(found: usize, capacity: usize) -> Failure {
    let text = format!("the next message has {found} bytes, the buffer {capacity}");
    Failure::new(LanewayStatus::TooSmall, text)
}

fn told(error: RecvError, lost: &Out<u64>) -> Failure {
    if let RecvError::Lost { slots, .. } = error {
        lost.set(slots);
    }
    error.into()
}
