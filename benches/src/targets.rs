//! The project's promises, held against what was found. Pure.

use serde::{Deserialize, Serialize};

use crate::class::Class;
use crate::plan::Who;
use crate::summary::{Duel, Row};
use crate::task::{Mode, Work};
use crate::trial::{self, Way, What};

/// A promise of the project, as it stands on this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) class: Class,
    pub(crate) rounds: usize,
    pub(crate) found: f64,
    pub(crate) wanted: String,
    pub(crate) met: bool,
}

/// Largest allowed latency of 64 bytes, in hand-overs.
const HAND_OVERS_MAX: f64 = 1.15;

/// Largest allowed latency of a large message, in hand-overs of as many bytes, and which.
const PAYLOADS_MAX: f64 = 1.2;
const PAYLOADS: [usize; 2] = [1024, 4096];

/// Largest allowed wake-up of a reader that sleeps, in wake-ups by a bare futex.
const WAKE_UPS_MAX: f64 = 1.15;

/// Most that a message may cost more because its reader may sleep, in ns.
const MAY_SLEEP_MAX_NS: f64 = 2.0;

/// Most that a copy out may take: from so many bytes on in copies by `memcpy`, below in ns more.
const COPY_LARGE: u32 = 4096;
const COPIES_MAX: f64 = 1.15;
const COPY_MORE_MAX_NS: f64 = 8.0;

/// Rings that are judged together: the best of them is the one to beat.
const RINGS: &[Who] = &[
    Who::Rtrb,
    Who::ArrayQueue,
    Who::CrossbeamChannel,
    Who::Ringbuf,
    Who::ShmemIpc,
    Who::DpdkRing,
    Who::DpdkInPlace,
];

/// A promise about rivals: a lane is so many times faster than the fastest of them.
struct Ahead {
    name: &'static str,
    work: Work,
    bytes: usize,
    rivals: &'static [Who],
    least: f64,
    /// The same between far cores.
    least_far: f64,
}

impl Ahead {
    fn least(&self, class: Class) -> f64 {
        if class == Class::Far { self.least_far } else { self.least }
    }
}

/// Batches of 32, of which DPDK's ring has one call for each.
const BURSTS: &[Who] = &[Who::DpdkRing, Who::DpdkInPlace];

/// Everybody that carries large messages.
const CARRIERS: &[Who] = &[
    Who::Iceoryx2,
    Who::ShmemIpc,
    Who::DpdkRing,
    Who::DpdkInPlace,
    Who::Aeron,
    Who::IpcChannel,
    Who::Pipe,
    Who::UnixStream,
    Who::UnixSeqpacket,
    Who::Tcp,
    Who::TonicStream,
];

const AHEAD: [Ahead; 10] = [
    Ahead {
        name: "64 KiB messages against the best other way",
        work: Work::Stream,
        bytes: 65536,
        rivals: CARRIERS,
        least: 1.0,
        least_far: 5.0,
    },
    Ahead {
        name: "1 MiB messages against the best other way",
        work: Work::Stream,
        bytes: 1 << 20,
        rivals: CARRIERS,
        least: 1.0,
        least_far: 5.0,
    },
    Ahead {
        name: "8-byte messages, 32 at once or packed, against DPDK's ring",
        work: Work::Batch,
        bytes: 8,
        rivals: BURSTS,
        least: 2.0,
        least_far: 2.0,
    },
    Ahead {
        name: "64-byte messages, 32 at once or packed, against DPDK's ring",
        work: Work::Batch,
        bytes: 64,
        rivals: BURSTS,
        least: 2.0,
        least_far: 2.0,
    },
    Ahead {
        name: "64-byte message, one way, against iceoryx2",
        work: Work::Latency,
        bytes: 64,
        rivals: &[Who::Iceoryx2],
        least: 4.0,
        least_far: 4.0,
    },
    Ahead {
        name: "64-byte message, one way, against the best other ring",
        work: Work::Latency,
        bytes: 64,
        rivals: RINGS,
        least: 1.0,
        least_far: 1.0,
    },
    Ahead {
        name: "8-byte stream, one publish each, against iceoryx2",
        work: Work::Stream,
        bytes: 8,
        rivals: &[Who::Iceoryx2],
        least: 30.0,
        least_far: 30.0,
    },
    Ahead {
        name: "64-byte stream, one publish each, against iceoryx2",
        work: Work::Stream,
        bytes: 64,
        rivals: &[Who::Iceoryx2],
        least: 30.0,
        least_far: 30.0,
    },
    Ahead {
        name: "8-byte stream, one publish each, against the best other ring",
        work: Work::Stream,
        bytes: 8,
        rivals: RINGS,
        least: 1.0,
        least_far: 1.0,
    },
    Ahead {
        name: "64-byte stream, one publish each, against the best other ring",
        work: Work::Stream,
        bytes: 64,
        rivals: RINGS,
        least: 1.0,
        least_far: 1.0,
    },
];

/// The promises of `run`, for each class that was seen.
pub(crate) fn of_rows(rows: &[Row]) -> Vec<Target> {
    let mut targets = Vec::new();
    for row in rows.iter().filter(|row| row.class.is_judged()) {
        let wanted =
            (row.cell.who, row.cell.mode, row.cell.readers) == (Who::Laneway, Mode::All, 1);
        match (row.cell.work, row.cell.bytes, &row.latency, row.times_rtrb) {
            (Work::Latency, 64, Some(latency), _) if wanted => targets.push(Target {
                name: "64-byte message, one way, in hand-overs".to_owned(),
                class: row.class,
                rounds: row.rounds,
                found: latency.times_hand_over,
                wanted: format!("at most {HAND_OVERS_MAX}"),
                met: latency.times_hand_over <= HAND_OVERS_MAX,
            }),
            (Work::Stream, 56, _, Some(times)) if wanted => targets.push(Target {
                name: "56-byte stream, one publish each, in rtrb's rate".to_owned(),
                class: row.class,
                rounds: row.rounds,
                found: times,
                wanted: "above 1".to_owned(),
                met: times > 1.0,
            }),
            _ => {}
        }
    }
    targets
}

/// The promises of `compare`, for each class in which one of the rivals was seen.
pub(crate) fn of_duels(duels: &[Duel]) -> Vec<Target> {
    let mut targets = of_payloads(duels);
    for promise in &AHEAD {
        for class in [Class::Smt, Class::Near, Class::Far] {
            let meant = duels.iter().filter(|duel| {
                (duel.class, duel.work, duel.bytes) == (class, promise.work, promise.bytes)
                    && duel.readers == 1
                    && promise.rivals.contains(&duel.who)
            });
            let hardest = meant.min_by(|a, b| a.lane_ahead.total_cmp(&b.lane_ahead));
            targets.extend(hardest.map(|duel| Target {
                name: match promise.rivals {
                    [_] => promise.name.to_owned(),
                    _ => format!("{} ({})", promise.name, duel.who.as_str()),
                },
                class,
                rounds: duel.rounds,
                found: duel.lane_ahead,
                wanted: format!("at least {} times faster", promise.least(class)),
                met: duel.lane_ahead >= promise.least(class),
            }));
        }
    }
    targets
}

/// The promises about waking, publishing and copying, for each class that was seen.
pub(crate) fn of_trials(rows: &[trial::Row]) -> Vec<Target> {
    let targets = rows.iter().filter(|row| row.class.is_judged()).filter_map(|row| {
        let (bytes, gap) = (row.trial.bytes, row.trial.gap_us);
        let times = |most| Some((row.times?, most, ""));
        let more = |most| Some((row.more_ns?, most, " ns"));
        let (name, judged) = match (row.trial.what, row.trial.way) {
            (What::WakeUp, Way::Lane) => (
                format!("a reader woken after {gap} us, in wake-ups by a bare futex"),
                times(WAKE_UPS_MAX),
            ),
            (What::Publish, Way::Park) => (
                format!("{bytes}-byte message to a running reader that may sleep, ns more"),
                more(MAY_SLEEP_MAX_NS),
            ),
            (What::CopyOut, Way::Lane) if bytes >= COPY_LARGE => {
                (format!("{bytes} bytes copied out, in copies by memcpy"), times(COPIES_MAX))
            }
            (What::CopyOut, Way::Lane) => {
                (format!("{bytes} bytes copied out, ns more than memcpy"), more(COPY_MORE_MAX_NS))
            }
            _ => return None,
        };
        let (found, most, unit) = judged?;
        Some(Target {
            name,
            class: row.class,
            rounds: row.rounds,
            found,
            wanted: format!("at most {most}{unit}"),
            met: found <= most,
        })
    });
    targets.collect()
}

/// What large messages take, in ideal hand-overs of as many bytes.
fn of_payloads(duels: &[Duel]) -> Vec<Target> {
    let ideal = duels.iter().filter(|duel| duel.who == Who::Ideal);
    let meant = ideal.filter(|duel| PAYLOADS.contains(&duel.bytes) && duel.class.is_judged());
    let targets = meant.map(|duel| {
        let found = 1.0 / duel.lane_ahead;
        Target {
            name: format!("{}-byte message, one way, in hand-overs of as much", duel.bytes),
            class: duel.class,
            rounds: duel.rounds,
            found,
            wanted: format!("at most {PAYLOADS_MAX}"),
            met: found <= PAYLOADS_MAX,
        }
    });
    targets.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hardest_rival_of_each_class_is_the_one_to_beat() {
        let duel = |who, class, lane_ahead| Duel {
            work: Work::Stream,
            bytes: 64,
            readers: 1,
            class,
            who,
            rounds: 3,
            lane_ahead,
        };
        let duels = [
            duel(Who::Rtrb, Class::Near, 1.5),
            duel(Who::Ringbuf, Class::Near, 0.9),
            duel(Who::Rtrb, Class::Far, 1.1),
            duel(Who::Iceoryx2, Class::Near, 31.0),
            duel(Who::Pipe, Class::Near, 0.1),
            // Others had the cpus.
            duel(Who::Rtrb, Class::Busy, 0.1),
        ];
        let found: Vec<(Class, f64, bool)> = of_duels(&duels)
            .into_iter()
            .map(|target| (target.class, target.found, target.met))
            .collect();
        let expected =
            [(Class::Near, 31.0, true), (Class::Near, 0.9, false), (Class::Far, 1.1, true)];
        assert_eq!(found, expected);
    }

    #[test]
    fn large_messages_are_held_against_an_ideal_hand_over_of_as_much() {
        let duel = |bytes, lane_ahead| Duel {
            work: Work::Latency,
            bytes,
            readers: 1,
            class: Class::Far,
            who: Who::Ideal,
            rounds: 2,
            lane_ahead,
        };
        let busy = Duel { class: Class::Busy, ..duel(4096, 0.1) };
        let found = of_duels(&[duel(1024, 0.5), duel(4096, 2.0), duel(64, 0.1), busy]);
        let found: Vec<(f64, bool)> =
            found.into_iter().map(|target| (target.found, target.met)).collect();
        assert_eq!(found, [(2.0, false), (0.5, true)]);
    }

    #[test]
    fn trials_are_judged_by_ratio_or_by_difference_as_promised() {
        let row = |what, way, bytes, times, more_ns| trial::Row {
            trial: trial::Trial::new(what, bytes, way),
            class: Class::Near,
            rounds: 3,
            nanos: 10.0,
            p99_ns: None,
            times,
            more_ns,
        };
        let rows = [
            row(What::WakeUp, Way::Futex, 8, None, None),
            row(What::WakeUp, Way::Lane, 8, Some(1.1), Some(900.0)),
            row(What::Publish, Way::Park, 64, Some(1.9), Some(1.5)),
            row(What::CopyOut, Way::Lane, 2048, Some(3.0), Some(9.0)),
            row(What::CopyOut, Way::Lane, 4096, Some(1.2), Some(1.0)),
            row(What::HandOver, Way::RepMovsb, 65536, Some(9.0), Some(9.0)),
            trial::Row { class: Class::Busy, ..row(What::WakeUp, Way::Lane, 8, Some(9.0), None) },
        ];
        let found = of_trials(&rows);
        let found: Vec<(f64, bool)> =
            found.into_iter().map(|target| (target.found, target.met)).collect();
        assert_eq!(found, [(1.1, true), (1.5, true), (9.0, false), (1.2, false)]);
    }
}
