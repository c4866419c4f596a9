//! The workload's door: a SEQPACKET socket on which claims become segments.
//!
//! Knows sockets, deadlines and who is at the other end; decides nothing about lanes, which is
//! the controller's business. A hostile client can waste one connection until a deadline.

pub mod listener;
pub mod peer;
mod session;

pub use listener::Listener;
