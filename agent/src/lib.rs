//! The Laneway node agent: who gets which lane, making it, handing it over, stepping aside.
//!
//! Rooms in the order a request travels: `service` (gRPC in, values out) → [`admission`] →
//! [`placement`] → [`plan`] → [`controller`] (the one actor) → [`provision`] (effects) →
//! [`journal`] (durable) → [`registry`] (what readers see). Workloads come in through
//! [`attach`] instead. See ARCHITECTURE.md.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod actor;
pub mod admission;
pub mod agent;
pub mod attach;
pub mod cli;
pub mod config;
pub mod controller;
mod demo;
pub mod doctor;
pub mod journal;
pub mod ledger;
pub mod model;
pub mod placement;
pub mod plan;
pub mod privilege;
pub mod provision;
pub mod recovery;
pub mod registry;
pub mod service;
pub mod sysfs;
pub mod telemetry;
pub mod workload;

pub use demo::syscalls;
