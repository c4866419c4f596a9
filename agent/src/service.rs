//! The controllers' door: gRPC in, commands to the actor, answers out. No decisions.

mod convert;
mod lane_service;
mod node_service;
pub mod server;
mod status;

pub use convert::{lane_to_proto, spec_from_proto};
