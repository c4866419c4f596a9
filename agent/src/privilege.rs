//! Giving up what is not needed after start: capabilities, and the way to new ones.

use std::collections::BTreeSet;

use caps::{CapSet, Capability, CapsHashSet};
use tracing::{info, warn};

/// Capabilities that the agent may keep, and for what.
///
/// `SYS_NICE`: affinity of other users' threads, and `mbind` under strict seccomp profiles.
/// `SYS_PTRACE` is *not* kept: reading `/proc/PID/task` needs none.
const KEPT: [Capability; 1] = [Capability::CAP_SYS_NICE];

/// Drops every capability but those of `KEPT`, forbids new ones, and logs what is left.
///
/// Called when sockets are bound, pools are grown and the journal is open, and before any other
/// thread exists. Pool files can still be written at exit: uid 0 owns them.
pub fn drop_what_is_not_needed() {
    let held = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let kept: CapsHashSet =
        held.iter().filter(|capability| KEPT.contains(capability)).copied().collect();
    // The effective set first: it must never exceed the permitted one.
    let sets = [CapSet::Effective, CapSet::Permitted];
    for set in sets {
        if let Err(error) = caps::set(None, set, &kept) {
            warn!(?set, %error, "capabilities could not be dropped");
        }
    }
    for set in [CapSet::Inheritable, CapSet::Ambient] {
        // An unprivileged process has none and may not be asked: nothing is lost.
        let _ = caps::clear(None, set);
    }
    if let Err(error) = nix::sys::prctl::set_no_new_privs() {
        warn!(%error, "no_new_privs could not be set");
    }
    let names: BTreeSet<String> = kept.iter().map(ToString::to_string).collect();
    let dropped = held.len() - kept.len();
    info!(kept = ?names, dropped, no_new_privs = true, "privileges after start");
}
