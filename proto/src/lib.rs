//! The control API `laneway.v1`: messages, clients and servers, generated from `laneway/v1/`.

/// Version 1 of the API.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("laneway.v1");
}

/// The compiled descriptors, for reflection and for the frozen text in `api/`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
