//! What an async end waits for in epoll: its peers' lifelines, the agent's connection, and where
//! neither can tell, the clock.
//!
//! Owns the registrations and what a hostile peer may cost: so many packets of a lifeline are read
//! at once, and as many as there were sleeps are believed. A peer that sends more is not listened
//! to any longer; its end is then looked at by the clock.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::control::Link;
use crate::error::PeerState;
use crate::generations::Generations;
use crate::lifeline::{Lifeline, Received};
use crate::producer::SLEEP_MAX;
use crate::ring::UNJOINED_SLEEP;

/// Rings that may come without a sleep that asked for them: greetings, and what a sleep asked for
/// that was given up.
const CREDIT_START: u32 = 8;
/// Packets that may come in one go: no honest peer can owe more.
const CREDIT_MAX: u32 = 64;

/// The registrations of one end.
#[derive(Debug)]
pub(super) struct Alarm {
    lines: Vec<Line>,
    control: Option<AsyncFd<Arc<OwnedFd>>>,
    timer: Option<AsyncFd<OwnedFd>>,
    timer_at: Option<Instant>,
    /// Until the next look by the clock.
    pause: Duration,
}

/// A peer's lifeline.
#[derive(Debug)]
struct Line {
    lifeline: Arc<Lifeline>,
    state: State,
    credit: u32,
}

#[derive(Debug)]
enum State {
    Heard(AsyncFd<Arc<Lifeline>>),
    /// It could not be registered, or told us more than we asked for.
    Deaf,
    /// The runtime that it was registered with is gone: another one may be asked.
    Lost,
    HungUp,
}

impl Alarm {
    pub(super) fn new() -> Self {
        let (lines, pause) = (Vec::new(), UNJOINED_SLEEP);
        Self { lines, control: None, timer: None, timer_at: None, pause }
    }

    /// Registers what there is now, and forgets what is not there any more.
    ///
    /// # Panics
    /// Outside of a runtime, or in one without its I/O driver, as everything of tokio's.
    pub(super) fn watch<'a>(
        &mut self,
        lifelines: impl Iterator<Item = &'a Arc<Lifeline>> + Clone,
        control: Option<&Arc<OwnedFd>>,
    ) {
        self.lines.retain(|line| {
            let known = lifelines.clone().any(|known| Arc::ptr_eq(known, &line.lifeline));
            known && !matches!(line.state, State::Lost)
        });
        for lifeline in lifelines {
            if !self.lines.iter().any(|line| Arc::ptr_eq(lifeline, &line.lifeline)) {
                let registered = registered(Arc::clone(lifeline));
                let state = registered.map_or(State::Deaf, State::Heard);
                let lifeline = Arc::clone(lifeline);
                self.lines.push(Line { lifeline, state, credit: CREDIT_START });
            }
        }
        let known = self.control.as_ref().map(AsyncFd::get_ref);
        if known.map(Arc::as_ptr) != control.map(Arc::as_ptr) {
            // An agent that cannot be waited for is looked at by the clock, too.
            self.control = control.and_then(|control| registered(Arc::clone(control)).ok());
        }
    }

    /// Whether rings of this peer are heard: false if there is no lifeline, or it is not listened
    /// to; true after a hang-up, after which nothing can come.
    pub(super) fn hears(&self, lifeline: Option<&Arc<Lifeline>>) -> bool {
        let line = lifeline.and_then(|lifeline| self.line(lifeline));
        line.is_some_and(|line| !matches!(line.state, State::Deaf | State::Lost))
    }

    /// Whether the peer's process has let go of its half.
    pub(super) fn is_hung_up(&self, lifeline: Option<&Arc<Lifeline>>) -> bool {
        let line = lifeline.and_then(|lifeline| self.line(lifeline));
        line.is_some_and(|line| matches!(line.state, State::HungUp))
    }

    /// When a reader has to look although nobody rang: if a producer cannot ring or may not know
    /// of this sleep, or the agent is away. `read` is the producer that is read, if there is one:
    /// whether it sees every sleep, and its lifeline.
    pub(super) fn clock(
        &self,
        read: Option<(bool, Option<&Arc<Lifeline>>)>,
        line: &Generations,
        link: &Link,
    ) -> Option<Duration> {
        let is_live = link.peer == PeerState::Live;
        let read = read.is_some_and(|(sees, lifeline)| !sees || !self.hears(lifeline));
        let waiting = line.open().any(|lifeline| !self.hears(lifeline));
        let pause = (read && is_live || waiting).then_some(self.pause);
        [pause, link.retry_in()].into_iter().flatten().min()
    }

    fn line(&self, lifeline: &Arc<Lifeline>) -> Option<&Line> {
        self.lines.iter().find(|line| Arc::ptr_eq(lifeline, &line.lifeline))
    }

    /// Ready if something may have changed. Otherwise the task is woken when it does, or when
    /// `clock` has passed. Parcels are kept for who asks for them, as many as can be in flight.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, clock: Option<Duration>) -> Poll<()> {
        let mut woken = false;
        for line in &mut self.lines {
            woken |= line.poll(cx);
        }
        while let Some(Poll::Ready(ready)) =
            self.control.as_ref().map(|control| control.poll_read_ready(cx))
        {
            woken = true;
            // The caller reads until there is nothing more: what comes after this is new.
            if ready.map(|mut guard| guard.clear_ready()).is_err() {
                self.control = None;
            }
        }
        if self.poll_clock(cx, clock) {
            self.pause = (self.pause * 2).min(SLEEP_MAX);
            woken = true;
        }
        if woken { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The end was woken for something: the next look by the clock comes soon.
    pub(super) fn progress(&mut self) {
        self.pause = UNJOINED_SLEEP;
    }

    /// How long to wait where nobody rings: longer each time that it was in vain.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    /// Each of the peers may ring once more.
    pub(super) fn asked(&mut self) {
        for line in &mut self.lines {
            line.credit = (line.credit + 1).min(CREDIT_MAX);
        }
    }

    /// True if the time is up. A runtime's timers need a driver that it may not have; a descriptor
    /// is all that is needed here, and only by an end that lost somebody or may be overlooked.
    fn poll_clock(&mut self, cx: &mut Context<'_>, clock: Option<Duration>) -> bool {
        let Some(clock) = clock else { return false };
        let at = Instant::now() + clock;
        let set = match &self.timer {
            Some(timer) => self.timer_at.is_some_and(|set| set <= at) || arm(timer, clock).is_ok(),
            None => match new_timer().and_then(|timer| arm(&timer, clock).map(|()| timer)) {
                Ok(timer) => {
                    self.timer = Some(timer);
                    true
                }
                Err(_) => false,
            },
        };
        if !set {
            self.timer = None;
        }
        let Some(timer) = &self.timer else {
            // No descriptors left: looking again at once is slow and right.
            cx.waker().wake_by_ref();
            return false;
        };
        self.timer_at = Some(self.timer_at.map_or(at, |set| set.min(at)));
        let mut rang = false;
        while let Poll::Ready(ready) = timer.poll_read_ready(cx) {
            rang = true;
            match ready {
                Ok(mut guard) => guard.clear_ready(),
                Err(_) => break,
            }
            // It stays readable, and would be heard as often as it is registered.
            let mut count = [0; 8];
            let _ = rustix::io::read(timer, &mut count);
        }
        if rang {
            self.timer_at = None;
        }
        rang
    }
}

impl Line {
    /// Reads what came. True if anything did.
    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let State::Heard(fd) = &self.state else { return false };
        let mut woken = false;
        while let Poll::Ready(ready) = fd.poll_read_ready(cx) {
            let Ok(mut guard) = ready else {
                self.state = State::Lost;
                return true;
            };
            loop {
                let is_free = match self.lifeline.receive() {
                    Received::Nothing => break,
                    Received::HungUp => {
                        self.state = State::HungUp;
                        return true;
                    }
                    parcel @ Received::Parcel(..) => self.lifeline.keep(parcel),
                    // A parcel whose descriptor found no place here looks like that.
                    Received::Junk => {
                        self.lifeline.keep(Received::Junk);
                        false
                    }
                    Received::Doorbell => false,
                };
                woken = true;
                if !is_free {
                    let Some(left) = self.credit.checked_sub(1) else {
                        self.state = State::Deaf;
                        return true;
                    };
                    self.credit = left;
                }
            }
            guard.clear_ready();
        }
        woken
    }
}

fn new_timer() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    registered(timerfd_create(TimerfdClockId::Monotonic, flags)?)
}

fn arm(timer: &AsyncFd<OwnedFd>, after: Duration) -> io::Result<()> {
    // All zeros would disarm it.
    let after = after.max(Duration::from_nanos(1));
    let never = Timespec { tv_sec: 0, tv_nsec: 0 };
    let tv_sec = i64::try_from(after.as_secs()).unwrap_or(i64::MAX);
    let it_value = Timespec { tv_sec, tv_nsec: after.subsec_nanos().into() };
    let once = Itimerspec { it_interval: never, it_value };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
    Ok(())
}

/// A descriptor that the runtime watches.
#[expect(deprecated, reason = "its successor is an unsafe fn, for the sake of types that lie")]
fn registered<T: AsRawFd>(fd: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}
