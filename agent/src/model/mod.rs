//! The words the rooms of the agent share: plain values and questions about them.
//!
//! Nothing here reads a file, asks for the time or knows a caller. A value that exists is already
//! checked: text is parsed into these types at the edge, and never looked at again.

pub mod capacity;
pub mod id;
pub mod lane;
pub mod topology;
