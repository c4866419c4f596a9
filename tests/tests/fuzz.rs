//! Bytes from outside, from a saved corpus and from mutations of it, against everything that reads
//! them: rings, frames of the attach protocol on both sides, records, requests, names, files.
//!
//! How inputs are saved, mutated and grown is in `tests/src/fuzz.rs`.

#[path = "fuzz/agent.rs"]
mod agent;
#[path = "fuzz/attach.rs"]
mod attach;
#[path = "fuzz/frames.rs"]
mod frames;
#[path = "../../shm/tests/oracle/mod.rs"]
mod oracle;
#[path = "fuzz/rings.rs"]
mod rings;
#[path = "fuzz/values.rs"]
mod values;
