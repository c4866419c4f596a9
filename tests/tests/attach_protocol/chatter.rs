//! Clients that talk without end.

use std::time::{Duration, Instant};

use laneway_shm::wire::{Frame, Role};

use super::raw::{attached, until};
use super::{State, producer_is, with_lanes};

/// What a session may say at once, and in each second after that.
const AT_ONCE: f64 = 256.0;
const PER_SECOND: f64 = 32.0;
/// How long the flood lasts, at least.
const FLOOD: Duration = Duration::from_secs(2);

#[test]
fn a_client_that_never_stops_talking_is_heard_at_a_bounded_rate_and_delays_nobody() {
    let agent = with_lanes(&["a", "b"]);
    let start = Instant::now();
    let (talker, ..) = attached(&agent, "a", Role::Producer);
    // Every third drift is a line of the log, and each a record of the journal and a change.
    let drifted = Frame::Drifted { count: 3_000_003 };
    let (mut offered, mut others) = (0_u32, 0);
    while start.elapsed() < FLOOD {
        for _ in 0..1000 {
            offered += u32::from(talker.try_send(&drifted));
        }
        // Meanwhile others come, are heard, and leave.
        let (honest, ..) = attached(&agent, "b", Role::Consumer);
        honest.send(&Frame::Drifted { count: others + 1 }, None);
        others += 1;
        until("an honest end is heard", || {
            let drifts = agent.get("b").expect("lane").consumer.expect("end").drifts;
            (drifts == others).then_some(())
        });
    }
    let lines = |what: &str| agent.log().matches(what).count();
    let heard = f64::from(u32::try_from(lines("count=3000003")).expect("bounded"));
    let allowed = AT_ONCE + PER_SECOND * start.elapsed().as_secs_f64();
    assert!(heard <= allowed, "{heard} reports heard of {offered}, {allowed} allowed");
    assert!(heard >= AT_ONCE && others > 3, "{heard} heard, and {others} of others");
    assert_eq!(lines("says too much"), 1, "and that is said once");
    // An end like any other all the same.
    producer_is(&agent, "a", State::Live);
}
