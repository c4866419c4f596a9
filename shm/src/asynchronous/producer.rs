//! The producer's end, awaited.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_sink::Sink;

use super::alarm::Alarm;
use super::{LOOKS, Turn, sleeps};
use crate::error::{AttachError, PeerState, ReserveError};
use crate::frozen::{Attempt, FrozenFile, FrozenSendError};
use crate::producer::{Producer, WriteChunk, WriteSlot};
use crate::ring::Span;
use crate::wire::Frame;

/// A producer that leaves gives a restarted agent this long to take its segments back.
const SETTLE_WITHIN: Duration = Duration::from_secs(1);
/// Between two looks for that agent.
const SETTLE_LOOK: Duration = Duration::from_millis(5);

/// The producer's end of a lane in an async runtime. `Send`, not `Sync`, not `Clone`.
///
/// A [`Sink`] of whatever is bytes as well; it holds one message back at most, where there was no
/// room for it.
#[derive(Debug)]
pub struct AsyncProducer {
    inner: Producer,
    alarm: Alarm,
    turn: Turn,
    /// Incarnation of the consumer that was told to be gone.
    told: u64,
    /// What the sink took and the lane had no room for.
    held_back: Option<Vec<u8>>,
    /// How far the sink's closing has come.
    closing: Closing,
}

/// What an attempt to send lacks.
enum Lack {
    /// So many free slots.
    Slots(u64),
    /// Room on the lifeline, of which only the clock tells: a consumer that does not read it is
    /// none of ours.
    Lifeline,
}

#[derive(Debug)]
enum Closing {
    Open,
    /// The end of the stream is in the lane.
    Ended(Instant),
    Closed,
}

impl AsyncProducer {
    /// Takes an end that was attached with [`Attach::lifeline`](crate::Attach::lifeline).
    ///
    /// # Errors
    /// `SpinLane` if the lane's ends never sleep.
    pub fn new(inner: Producer) -> Result<Self, AttachError> {
        sleeps(inner.grant().park)?;
        let (alarm, turn, closing) = (Alarm::new(), Turn::new(), Closing::Open);
        Ok(Self { inner, alarm, turn, told: 0, held_back: None, closing })
    }

    /// Copies one message into the lane and commits it, waiting for room. Cancel-safe: the
    /// message is in the lane once the future is ready, and not at all if it was dropped before.
    ///
    /// # Errors
    /// `PeerGone` once, when there is no room and the consumer died; otherwise as
    /// [`Producer::try_reserve`], but for `Full`.
    ///
    /// # Panics
    /// Where it has to wait outside of a tokio runtime with its I/O driver.
    pub async fn send(&mut self, message: &[u8]) -> Result<(), ReserveError> {
        let mut slot = self.reserve(message.len()).await?;
        slot.write(0, message);
        slot.commit();
        Ok(())
    }

    /// Room for a message of `len` bytes, waiting for it. Cancel-safe: a reservation that is not
    /// committed leaves nothing behind.
    ///
    /// # Errors
    /// As [`AsyncProducer::send`].
    ///
    /// # Panics
    /// As [`AsyncProducer::send`].
    pub async fn reserve(&mut self, len: usize) -> Result<WriteSlot<'_>, ReserveError> {
        let span = self.room_for(len).await?;
        Ok(WriteSlot::new(&mut self.inner, span))
    }

    /// Sends as many of the messages as there is room for at once, from the first one on, waiting
    /// for room for that; returns how many. Cancel-safe: they are in the lane once the future is
    /// ready, and none of them if it was dropped before.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # use laneway_shm::{PairOptions, asynchronous::async_pair};
    /// # let (mut producer, mut consumer) = async_pair(PairOptions::default())?;
    /// let mut quotes = &["bid", "ask", "last"][..];
    /// while !quotes.is_empty() {
    ///     quotes = &quotes[producer.send_many(quotes).await?..];
    /// }
    /// # assert_eq!(consumer.recv_many(8).await?.for_each(|_| ())?, 3);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`AsyncProducer::send`], for the first message: what is wrong with another is told by the
    /// call that begins with it.
    ///
    /// # Panics
    /// As [`AsyncProducer::send`].
    pub async fn send_many<M: AsRef<[u8]>>(
        &mut self,
        messages: &[M],
    ) -> Result<usize, ReserveError> {
        let Some(first) = messages.first() else { return Ok(0) };
        self.room_for(first.as_ref().len()).await?;
        self.inner.try_send_many(messages)
    }

    /// Room for `count` messages of `len` bytes each, to be written where they lie and to become
    /// visible together, waiting for all of it; as [`Producer::chunk`]. Cancel-safe: a chunk that
    /// is not committed leaves nothing behind.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # use laneway_shm::{PairOptions, asynchronous::async_pair};
    /// # let (mut producer, mut consumer) = async_pair(PairOptions::default())?;
    /// let chunk = producer.chunk(3, 8).await?;
    /// chunk.fill(|index, mut slot| slot.write(0, &index.to_le_bytes()))?;
    /// # assert_eq!(consumer.recv_many(8).await?.for_each(|_| ())?, 3);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`AsyncProducer::send`], and `TooLarge` as with [`Producer::chunk`].
    ///
    /// # Panics
    /// As [`AsyncProducer::send`].
    pub async fn chunk(
        &mut self,
        count: usize,
        len: usize,
    ) -> Result<WriteChunk<'_>, ReserveError> {
        if count > 0 {
            self.room_for(self.inner.room_bytes(count, len)).await?;
        }
        Ok(WriteChunk::new(&mut self.inner, count, len))
    }

    /// Waits until there is room for a message of `len` bytes. It stays until this end uses it.
    /// Cancel-safe.
    ///
    /// # Errors
    /// As [`AsyncProducer::send`].
    ///
    /// # Panics
    /// As [`AsyncProducer::send`].
    pub async fn room(&mut self, len: usize) -> Result<(), ReserveError> {
        self.room_for(len).await.map(drop)
    }

    async fn room_for(&mut self, len: usize) -> Result<Span, ReserveError> {
        let listening = Listening(self);
        poll_fn(|cx| {
            // What the sink took before comes first.
            ready!(listening.0.poll_held_back(cx))?;
            listening.0.poll_span(len, cx)
        })
        .await
    }

    /// Sends a [frozen](crate::FrozenBuilder) payload, in order with the lane's messages, waiting
    /// for a slot and for earlier payloads to be released. Cancel-safe as
    /// [`AsyncProducer::send`] is.
    ///
    /// As with [`Producer::send_frozen`], a payload that is sent before there is a consumer goes
    /// out at a later call.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # use laneway_shm::{Incoming, PairOptions, asynchronous::async_pair};
    /// use laneway_shm::FrozenBuilder;
    ///
    /// # let (mut producer, mut consumer) = async_pair(PairOptions::default())?;
    /// let mut picture = FrozenBuilder::new(3 << 20)?;
    /// picture.bytes_mut().fill(7);
    /// producer.send_frozen(&picture.freeze()?).await?;
    /// # let Incoming::Frozen(picture) = consumer.recv_any().await? else { panic!() };
    /// # assert!(picture.iter().all(|&byte| byte == 7));
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Producer::send_frozen`], but for `InFlight` and `LifelineFull`; `Reserve` with
    /// `PeerGone` once, when the consumer died and there is no room.
    ///
    /// # Panics
    /// As [`AsyncProducer::send`].
    pub async fn send_frozen(&mut self, file: &FrozenFile) -> Result<(), FrozenSendError> {
        let listening = Listening(self);
        poll_fn(|cx| {
            ready!(listening.0.poll_held_back(cx))?;
            listening.0.poll_attempt(cx, |producer| {
                Ok(match producer.try_send_frozen(file)? {
                    Attempt::Sent => Ok(()),
                    Attempt::RingFull => Err(Lack::Slots(1)),
                    Attempt::InFlight => Err(Lack::Slots(producer.free_without_oldest())),
                    Attempt::LifelineFull => Err(Lack::Lifeline),
                })
            })
        })
        .await
    }

    /// Ends the stream: the consumer sees the end after the last message. What the sink held back
    /// is sent first.
    ///
    /// Dropping the producer, or this future, without it leaves the lane open for a successor.
    ///
    /// # Errors
    /// As [`AsyncProducer::send`]: the end takes one slot.
    ///
    /// # Panics
    /// As [`AsyncProducer::send`].
    pub async fn close(mut self) -> Result<(), ReserveError> {
        poll_fn(|cx| self.poll_end(cx)).await
    }

    /// What is known of the consumer.
    #[must_use]
    pub fn peer(&self) -> PeerState {
        self.inner.peer()
    }

    /// The end itself.
    #[must_use]
    pub fn get_ref(&self) -> &Producer {
        &self.inner
    }

    /// The end itself, for batches for instance. Its calls that wait block the thread.
    pub fn get_mut(&mut self) -> &mut Producer {
        &mut self.inner
    }

    /// The end itself, for blocking calls from now on. What the sink held back is lost: flush it
    /// first.
    #[must_use]
    pub fn into_inner(mut self) -> Producer {
        self.inner.ring.stop_listening();
        self.inner
    }

    /// Room for a message of `len` bytes, for implementations of futures: ready if
    /// [`Producer::try_reserve`] has it or an error.
    ///
    /// # Errors
    /// As [`AsyncProducer::send`].
    ///
    /// # Panics
    /// As [`AsyncProducer::send`].
    pub fn poll_room(
        &mut self,
        len: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ReserveError>> {
        self.poll_span(len, cx).map_ok(|_| ())
    }

    fn poll_span(&mut self, len: usize, cx: &mut Context<'_>) -> Poll<Result<Span, ReserveError>> {
        self.poll_attempt(cx, |producer| {
            let found = match producer.ring.ready(len) {
                Some(span) => Ok(span),
                None => producer.find_room(len),
            };
            match found {
                Err(ReserveError::Full { asked, .. }) => Ok(Err(Lack::Slots(asked))),
                found => found.map(Ok),
            }
        })
    }

    /// Waits until an attempt has all that it needs.
    fn poll_attempt<T, E: From<ReserveError>>(
        &mut self,
        cx: &mut Context<'_>,
        mut attempt: impl FnMut(&mut Producer) -> Result<Result<T, Lack>, E>,
    ) -> Poll<Result<T, E>> {
        self.inner.ring.stop_listening();
        // Before the attempt: what it did is told at once.
        ready!(self.turn.take(cx));
        if self.inner.peer() != PeerState::Live && self.inner.grant().broadcast.is_none() {
            // A consumer that this end does not know yet could not be rung for.
            self.inner.maintain()?;
        }
        for _ in 0..LOOKS {
            let lack = match attempt(&mut self.inner)? {
                Ok(done) => {
                    self.alarm.progress();
                    return Poll::Ready(Ok(done));
                }
                Err(lack) => lack,
            };
            if let Some(gone) = self.tell_gone() {
                return Poll::Ready(Err(gone.into()));
            }
            let clock = matches!(lack, Lack::Lifeline).then(|| self.alarm.pause());
            if self.poll_alarm(cx, clock).is_pending() {
                self.alarm.asked();
                let waits = match lack {
                    Lack::Slots(slots) => {
                        self.inner.ring.listen(slots).map_err(ReserveError::from)?
                    }
                    Lack::Lifeline => true,
                };
                if waits {
                    self.turn.over();
                    return Poll::Pending;
                }
            } else {
                self.inner.maintain()?;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready if something may have changed: the waker is set before a ring is asked for, which
    /// therefore cannot come unheard.
    fn poll_alarm(&mut self, cx: &mut Context<'_>, clock: Option<Duration>) -> Poll<()> {
        let (inner, alarm) = (&mut self.inner, &mut self.alarm);
        let lifelines = inner.ring.peers().filter_map(|peer| peer.lifeline());
        alarm.watch(lifelines, inner.link.socket());
        let live = inner.peer() == PeerState::Live;
        let deaf = live && inner.ring.peers().any(|peer| !alarm.hears(peer.lifeline()));
        let pause = deaf.then(|| alarm.pause());
        let clock = [pause, inner.link.retry_in(), clock].into_iter().flatten().min();
        let polled = alarm.poll(cx, clock);
        if polled.is_ready() && alarm.is_hung_up(inner.lifeline()) {
            // By the kernel's word. What it released before is found by the next look.
            inner.link.peer = PeerState::Gone;
        }
        polled
    }

    /// There is no room, and nobody is there to make some: told once for each consumer. A broadcast
    /// lane without readers always has room.
    fn tell_gone(&mut self) -> Option<ReserveError> {
        let incarnation = self.inner.ring.joined();
        if self.inner.peer() != PeerState::Gone || incarnation == self.told {
            return None;
        }
        self.told = incarnation;
        Some(ReserveError::PeerGone)
    }

    /// Sends what the sink held back.
    fn poll_held_back(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ReserveError>> {
        if let Some(message) = self.held_back.take() {
            let polled = self.poll_span(message.len(), cx);
            let Poll::Ready(Ok(span)) = polled else {
                self.held_back = Some(message);
                return polled.map_ok(|_| ());
            };
            let mut slot = WriteSlot::new(&mut self.inner, span);
            slot.write(0, &message);
            slot.commit();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ReserveError>> {
        ready!(self.poll_held_back(cx))?;
        if let Closing::Open = self.closing {
            while !self.inner.ring.try_end()? {
                ready!(self.poll_span(0, cx))?;
            }
            self.closing = Closing::Ended(Instant::now());
        }
        // As in Producer::settle.
        while let Closing::Ended(at) = self.closing {
            let waits = self.inner.maintain().is_ok() && self.inner.is_unsettled();
            if !waits || at.elapsed() >= SETTLE_WITHIN {
                self.inner.link.tell(&Frame::Bye);
                self.closing = Closing::Closed;
            } else {
                ready!(self.poll_alarm(cx, Some(SETTLE_LOOK)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<M: AsRef<[u8]>> Sink<M> for AsyncProducer {
    type Error = ReserveError;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ReserveError>> {
        self.get_mut().poll_held_back(cx)
    }

    /// Puts the message into the lane, or holds it back until there is room.
    ///
    /// # Errors
    /// As [`Producer::try_reserve`], but for `Full`.
    fn start_send(self: Pin<&mut Self>, message: M) -> Result<(), ReserveError> {
        let (this, message) = (self.get_mut(), message.as_ref());
        match this.inner.try_reserve(message.len()) {
            Ok(mut slot) => {
                slot.write(0, message);
                slot.commit();
                Ok(())
            }
            Err(ReserveError::Full { .. }) => {
                this.held_back = Some(message.to_vec());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ReserveError>> {
        self.get_mut().poll_held_back(cx)
    }

    /// Ends the stream, as [`AsyncProducer::close`].
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ReserveError>> {
        self.get_mut().poll_end(cx)
    }
}

/// Ends the asking for a doorbell when a future is dropped where it waits.
struct Listening<'a>(&'a mut AsyncProducer);

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.inner.ring.stop_listening();
    }
}
