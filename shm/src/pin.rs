//! Pinning the calling thread, and giving its old affinity back.
//!
//! Cooperative: the thread pins itself inside its own cpuset and needs no privilege. A thread can
//! hold several pins, one for each end that it attached: it is where the newest wants it, and has
//! its old affinity back after the last, in whatever order they go. Knows nothing of who granted
//! the core.

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, Weak};
use std::thread::{self, ThreadId};

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

thread_local! {
    static PINS: RefCell<Pins> = RefCell::default();
}

/// The pins of one thread.
#[derive(Default)]
struct Pins {
    /// Affinity from before the first of them.
    original: Option<CpuSet>,
    /// The cpus, the newest last. One that was dropped on another thread is only left behind.
    cpus: Vec<Weak<u32>>,
}

impl Pins {
    /// The pin that decides where the thread is.
    fn newest(&mut self) -> Option<Arc<u32>> {
        self.cpus.retain(|cpu| cpu.strong_count() > 0);
        self.cpus.last().and_then(Weak::upgrade)
    }
}

/// A pinned thread. Dropping it on that thread restores the affinity from before.
#[derive(Debug)]
pub struct Pinned {
    /// Known without a system call, unlike the kernel's number.
    thread: ThreadId,
    /// Shared with the thread's list of pins alone.
    cpu: Arc<u32>,
    drifts: u64,
}

impl Pinned {
    /// Pins the calling thread to `cpu`, also where it is pinned to another one already.
    ///
    /// # Errors
    /// `EINVAL` if the cpu does not exist or lies outside the thread's cpuset.
    pub fn new(cpu: u32) -> io::Result<Self> {
        let pinned = PINS.try_with(|pins| {
            let mut pins = pins.borrow_mut();
            if pins.newest().is_none() {
                pins.original = Some(sched_getaffinity(current())?);
            }
            set(cpu)?;
            let cpu = Arc::new(cpu);
            pins.cpus.push(Arc::downgrade(&cpu));
            Ok(Self { thread: thread::current().id(), cpu, drifts: 0 })
        });
        pinned.unwrap_or_else(|_| Err(io::Error::other("the thread is ending")))
    }

    /// The granted cpu.
    #[must_use]
    pub fn cpu(&self) -> u32 {
        *self.cpu
    }

    /// Goes back to the granted cpu if the thread runs elsewhere; counts how often it did. Not for
    /// a thread that was pinned once more since: it is where it was told to be.
    ///
    /// A cpuset that shrank under the thread moves it silently; nothing else tells us.
    pub fn check(&mut self) -> Option<u64> {
        if thread::current().id() != self.thread || running_on() == Some(*self.cpu) {
            return None;
        }
        let newest = PINS.try_with(|pins| pins.borrow_mut().newest()).ok().flatten();
        if !newest.is_some_and(|newest| Arc::ptr_eq(&newest, &self.cpu)) {
            return None;
        }
        self.drifts += 1;
        // Outside the cpuset there is nothing to do but count and tell.
        let _ = set(*self.cpu);
        Some(self.drifts)
    }

    /// Takes this pin off its own thread.
    fn remove(&self, pins: &mut Pins) {
        let newest = pins.newest();
        pins.cpus.retain(|cpu| !std::ptr::eq(cpu.as_ptr(), Arc::as_ptr(&self.cpu)));
        // The old mask may have left the cpuset meanwhile; the kernel then keeps ours.
        let _ = match (pins.newest(), &pins.original) {
            (None, Some(original)) => sched_setaffinity(current(), original).map_err(Into::into),
            (Some(below), _) if newest.is_some_and(|cpu| Arc::ptr_eq(&cpu, &self.cpu)) => {
                set(*below)
            }
            _ => Ok(()),
        };
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if thread::current().id() == self.thread {
            // A thread that is ending needs no affinity any more.
            let _ = PINS.try_with(|pins| self.remove(&mut pins.borrow_mut()));
        }
    }
}

/// The cpu that the calling thread runs on, if the kernel tells.
#[must_use]
pub fn running_on() -> Option<u32> {
    sched_getcpu().ok().and_then(|cpu| u32::try_from(cpu).ok())
}

fn set(cpu: u32) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu as usize)?;
    Ok(sched_setaffinity(current(), &set)?)
}

/// Pid 0 means the calling thread to the scheduler's calls.
fn current() -> Pid {
    Pid::from_raw(0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn allowed() -> Vec<u32> {
        let set = sched_getaffinity(current()).unwrap();
        let cpus = 0..u32::try_from(CpuSet::count()).unwrap();
        cpus.filter(|cpu| set.is_set(*cpu as usize).unwrap()).collect()
    }

    /// Two pins of one thread, which may be on all of `before`.
    fn pinned_twice(test: impl FnOnce(Pinned, Pinned, &[u32]) + Send) {
        let run = || {
            let before = allowed();
            let [first, .., last] = before[..] else {
                return eprintln!("SKIPPED: one cpu is not enough to move between two");
            };
            let (older, newer) = (Pinned::new(first).unwrap(), Pinned::new(last).unwrap());
            assert_eq!(allowed(), [last]);
            test(older, newer, &before);
        };
        std::thread::scope(|scope| scope.spawn(run).join().unwrap());
    }

    #[test]
    fn pins_go_in_any_order_and_the_last_gives_the_affinity_back() {
        pinned_twice(|older, newer, before| {
            drop(older);
            assert_eq!(allowed(), [newer.cpu()]);
            drop(newer);
            assert_eq!(allowed(), before);
        });
        pinned_twice(|older, newer, before| {
            drop(newer);
            assert_eq!(allowed(), [older.cpu()]);
            drop(older);
            assert_eq!(allowed(), before);
        });
        pinned_twice(|older, newer, before| {
            std::thread::scope(|scope| scope.spawn(|| drop(newer)).join().unwrap());
            drop(older);
            assert_eq!(allowed(), before);
        });
    }

    #[test]
    fn a_thread_with_several_pins_is_where_the_newest_wants_it_and_none_calls_that_a_drift() {
        pinned_twice(|mut older, mut newer, _| {
            for _ in 0..3 {
                assert_eq!((older.check(), newer.check()), (None, None));
                assert_eq!(allowed(), [newer.cpu()]);
            }
        });
    }
}
