//! One oracle for every driver: the public calls as values, a plain queue that says what each may
//! return, and ways to make the calls on any lane.
//!
//! A broadcast lane has, in place of the queue, all that was sent with a cursor for each reader.
//!
//! Property tests make them in one thread (`tests/queue.rs`), loom and shuttle make them in
//! several (`tests/loom`, `tests/shuttle`), and the fuzzer makes them from bytes. A call that
//! answers anything else than the queue allows panics with `oracle:`.

#![expect(dead_code, reason = "each driver takes its own part")]

pub(crate) mod by_stamp;
pub(crate) mod crowd;
pub(crate) mod ends;
pub(crate) mod fan_in;
pub(crate) mod group;
pub(crate) mod heap;
pub(crate) mod history;
pub(crate) mod in_turn;
pub(crate) mod listener;
pub(crate) mod mutant;
pub(crate) mod operation;
pub(crate) mod queue;
pub(crate) mod ring;
