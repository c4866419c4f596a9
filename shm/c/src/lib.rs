//! Laneway's lanes for programs in C, and in whatever else can call C.
//!
//! The header `include/laneway.h` is made from these files. Each exported function (`producer`,
//! `consumer`, `subscriber`, `frozen`) checks its arguments (`border`), does its work with
//! references (`ends`, `follow`), and answers a status (`status`). The ring is reached through the
//! public API of `laneway-shm` alone.
//!
//! Built with `panic = "unwind"`, a panic of the library ends at the border as a status; with
//! `panic = "abort"`, as the release profile has it, it ends the process. The profile `bindings`
//! is the release profile that unwinds.

mod border;
mod consumer;
mod ends;
mod follow;
mod frozen;
mod producer;
mod status;
mod subscriber;

pub use border::{laneway_abi_version, laneway_error_message};
pub use consumer::*;
pub use ends::{
    LANEWAY_ATTACH_LIFELINE, LANEWAY_ATTACH_NO_PIN, LANEWAY_ATTACH_OLDEST, LANEWAY_FOREVER,
    LANEWAY_GRANT_PARKS, LANEWAY_GRANT_PINNED_BY_AGENT, LANEWAY_GRANT_PINS_ITSELF,
    LANEWAY_GRANT_THROUGHPUT, LANEWAY_NO_CPU, LanewayAttachOptions, LanewayBuffer, LanewayDistance,
    LanewayGrant, LanewayPeer, LanewayRelation, LanewaySlice,
};
pub use frozen::{
    LanewayFrozen, LanewayFrozenBuilder, laneway_frozen_builder_discard,
    laneway_frozen_builder_freeze, laneway_frozen_builder_new, laneway_frozen_bytes,
    laneway_frozen_page_bytes, laneway_frozen_release,
};
pub use producer::*;
pub use status::LanewayStatus;
pub use subscriber::*;

/// Version of this interface. It grows when something is taken away or changes its meaning.
pub const LANEWAY_ABI_VERSION: u32 = 1;

// A handle carries more than 32 bits.
const _: () = assert!(usize::BITS == 64, "the C ABI needs a machine of 64 bits");
