//! What the awaited readers have in common: one loop that looks, waits in epoll, and is woken.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use super::alarm::Alarm;
use super::{LOOKS, Turn};
use crate::consumer::Consumer;
use crate::control::Link;
use crate::error::{PeerState, RecvError};
use crate::frozen::Look;
use crate::generations::Generations;
use crate::reader::Reader;
use crate::region::{Foreign, Owned, Region};
use crate::subscriber::Subscriber;

type Ring = Reader<Region<Foreign>, Region<Owned>>;

/// A reader's end, as far as it waits.
pub(super) trait Reading {
    /// The ring, the producers' segments, and the agent.
    fn parts(&mut self) -> (&mut Ring, &Generations, &mut Link);
    /// Asks for a doorbell, unless there is something to read.
    fn listen(&mut self) -> bool;
    fn maintain(&mut self) -> Result<(), RecvError>;
}

impl Reading for Consumer {
    fn parts(&mut self) -> (&mut Ring, &Generations, &mut Link) {
        (&mut self.ring, &self.line, &mut self.link)
    }

    fn listen(&mut self) -> bool {
        self.ring.listen()
    }

    fn maintain(&mut self) -> Result<(), RecvError> {
        Consumer::maintain(self)
    }
}

impl Reading for Subscriber {
    fn parts(&mut self) -> (&mut Ring, &Generations, &mut Link) {
        (self.ring.reader_mut(), &self.line, &mut self.link)
    }

    fn listen(&mut self) -> bool {
        self.ring.listen()
    }

    fn maintain(&mut self) -> Result<(), RecvError> {
        Subscriber::maintain(self)
    }
}

/// An end and what it waits with.
#[derive(Debug)]
pub(super) struct Awaited<E> {
    pub(super) end: E,
    alarm: Alarm,
    turn: Turn,
    /// Generation whose producer was told to be gone.
    told: u64,
}

impl<E: Reading> Awaited<E> {
    pub(super) fn new(end: E) -> Self {
        Self { end, alarm: Alarm::new(), turn: Turn::new(), told: 0 }
    }

    /// Waits until a look finds something. Where this is dropped, no doorbell is asked for any
    /// more.
    pub(super) async fn until<T>(
        &mut self,
        mut look: impl FnMut(&mut E) -> Result<Look<T>, RecvError>,
    ) -> Result<T, RecvError> {
        let listening = Listening(self);
        poll_fn(|cx| listening.0.poll(cx, &mut look)).await
    }

    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut look: impl FnMut(&mut E) -> Result<Look<T>, RecvError>,
    ) -> Poll<Result<T, RecvError>> {
        self.stop_listening();
        // Before the look: what it takes out of the lane is returned at once, or it would be lost.
        ready!(self.turn.take(cx));
        for _ in 0..LOOKS {
            let late = match look(&mut self.end)? {
                Look::Found(found) => {
                    self.alarm.progress();
                    return Poll::Ready(Ok(found));
                }
                Look::Nothing => false,
                Look::Late => true,
            };
            if !late && let Some(gone) = self.tell_gone() {
                return Poll::Ready(Err(gone));
            }
            // The waker is set before we ask for a ring, which therefore cannot come unheard.
            if self.poll_alarm(cx).is_pending() {
                self.alarm.asked();
                // Of a descriptor that is late tells the lifeline: its slot is there already.
                if late || self.end.listen() {
                    self.turn.over();
                    return Poll::Pending;
                }
            } else {
                self.end.maintain()?;
                let (ring, _, link) = self.end.parts();
                if self.alarm.is_hung_up(ring.peer().and_then(|peer| peer.lifeline())) {
                    // By the kernel's word. What was committed before is found by the next look.
                    link.peer = PeerState::Gone;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    pub(super) fn stop_listening(&mut self) {
        self.end.parts().0.stop_listening();
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (ring, line, link) = self.end.parts();
        // A commit may overlook an end that paid for its fence: see Reader::pay_for_fences.
        let sees = ring.is_noticed() && !ring.is_heavy();
        let read = ring.peer().map(|peer| (sees, peer.lifeline()));
        let lifelines = line.lifelines().chain(read.and_then(|(_, lifeline)| lifeline));
        self.alarm.watch(lifelines, link.socket());
        let clock = self.alarm.clock(read, line, link);
        self.alarm.poll(cx, clock)
    }

    /// Everything was received, and nobody is there to send more: told once for each producer.
    fn tell_gone(&mut self) -> Option<RecvError> {
        let (ring, line, link) = self.end.parts();
        let is_gone = link.peer == PeerState::Gone && line.pending.is_empty();
        if !is_gone || line.current == self.told {
            return None;
        }
        self.told = line.current;
        Some(RecvError::PeerGone { position: ring.position() })
    }
}

/// Ends the asking for a doorbell when a future is dropped where it waits.
struct Listening<'a, E: Reading>(&'a mut Awaited<E>);

impl<E: Reading> Drop for Listening<'_, E> {
    fn drop(&mut self) {
        self.0.stop_listening();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pair::{PairOptions, pair_with};
    use crate::{WaitMode, barrier, lifeline};

    const PATIENCE: Duration = Duration::from_secs(60);
    const SILENCE: Duration = Duration::from_millis(50);
    /// More than what two ends that get to know each other have to say.
    const TURNS: u32 = 6;

    /// Whether a consumer that waits for nothing is woken again and again, within `patience`.
    fn is_woken_for_nothing(pays: bool, patience: Duration) -> bool {
        let options = PairOptions { wait: WaitMode::Park, ..PairOptions::default() };
        let (mut producer, mut consumer) =
            pair_with(options, Some(lifeline::pair().unwrap())).unwrap();
        if pays {
            consumer.ring.pay_for_fences();
        }
        consumer.maintain().unwrap();
        producer.maintain().unwrap();
        let mut awaited = Awaited::new(consumer);
        let mut polls = 0;
        let again = poll_fn(|cx| {
            polls += 1;
            let nothing = |_: &mut Consumer| Ok(Look::<()>::Nothing);
            assert!(awaited.poll(cx, nothing).is_pending());
            if polls == TURNS { Poll::Ready(()) } else { Poll::Pending }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = tokio::time::sleep(patience) => false,
                () = again => true,
            }
        })
    }

    #[test]
    fn an_end_that_pays_for_fences_looks_by_the_clock_and_no_other_does() {
        if !barrier::works() {
            eprintln!("SKIPPED: the kernel refuses membarrier(2) here");
            return;
        }
        assert!(is_woken_for_nothing(true, PATIENCE));
        assert!(!is_woken_for_nothing(false, SILENCE));
    }
}
