//! `laneway-bench control --steps`: where the time of an attach goes, on both sides.
//!
//! The library and the agent say when they are done with a step; here is who listens, in either
//! process, and by one clock. A step's time is that since its side's step before: what the other
//! side does meanwhile is in the waits.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use laneway_agent::attach::STEPS;
use laneway_proto::v1;
use laneway_shm::Attach;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::attach::Attaching;
use super::summary::Method;
use super::what::What;
use crate::error::BenchError;
use crate::grid::Grid;
use crate::machine::Machine;
use crate::message::PATIENCE;
use crate::recorder::median;

/// Between two attaches: the agent is asleep again, as it is when somebody comes.
const PAUSE: Duration = Duration::from_millis(1);
/// What is added to the client's steps here.
const READY: &str = "make the handle";
const SENT: &str = "send a message";
const RECEIVED: &str = "receive a message";
/// What the agent does for producers alone.
const OF_PRODUCERS: [&str; 2] = ["journal the grant", "show the grant"];

thread_local! {
    /// What the client did in the attach that is under way, and when.
    static DONE: RefCell<Vec<(&'static str, u64)>> = const { RefCell::new(Vec::new()) };
}

/// A step that was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Done {
    step: String,
    /// By the machine's clock, in ns.
    at_ns: u64,
}

/// Whose step it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    Client,
    Agent,
}

/// One step of an attach: medians.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) side: Side,
    pub(crate) step: String,
    /// Since this side's step before.
    pub(crate) took_us: f64,
    /// Since the client began.
    pub(crate) at_us: f64,
    /// In how many attaches it was done.
    pub(crate) times: usize,
}

/// One way to attach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Course {
    pub(crate) what: What,
    /// In the order in which they are done.
    pub(crate) steps: Vec<Step>,
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Steps {
    pub(crate) machine: Machine,
    pub(crate) method: Method,
    pub(crate) courses: Vec<Course>,
}

/// An attach whose steps were heard: when it began, and what the client did.
#[derive(Debug)]
pub(crate) struct Heard {
    what: What,
    began_ns: u64,
    client: Vec<(&'static str, u64)>,
}

/// Listens to the agent of this process, which ends with its last step told to a file.
#[derive(Debug, Default)]
pub(crate) struct Listener(Mutex<Vec<(&'static str, u64)>>);

impl Listener {
    /// Writes what was heard to `file`.
    pub(crate) fn write(&self, file: &Path) -> Result<(), BenchError> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let done =
            heard.iter().map(|(step, at_ns)| Done { step: (*step).to_owned(), at_ns: *at_ns });
        let text = serde_json::to_vec(&done.collect::<Vec<_>>());
        let text = text.map_err(BenchError::json("the agent's steps"))?;
        fs::write(file, text).map_err(BenchError::io("cannot write the agent's steps"))
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == STEPS
    }

    fn event(&self, event: &Event<'_>) {
        let now = now_ns();
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.push((event.metadata().name(), now));
    }

    /// There are no spans among the steps.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The time by the clock that all processes of the machine share.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let whole = u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000;
    whole + u64::try_from(now.tv_nsec).unwrap_or(0)
}

fn note(step: &'static str) {
    DONE.with_borrow_mut(|done| done.push((step, now_ns())));
}

/// Attaches both ends of fresh lanes in either order, listening to each.
pub(crate) fn pass(attaching: &mut Attaching<'_>) -> Result<Vec<Heard>, BenchError> {
    let mut heard = Vec::new();
    let orders = [
        (
            "s",
            [(v1::Role::Consumer, What::ConsumerAlone), (v1::Role::Producer, What::ProducerJoins)],
        ),
        (
            "t",
            [
                (v1::Role::Producer, What::ProducerAlone),
                (v1::Role::Consumer, What::ConsumerReceives),
            ],
        ),
    ];
    for (prefix, order) in orders {
        let lanes = attaching.make(prefix)?;
        let (mut producers, mut consumers) = (Vec::new(), Vec::new());
        for (role, what) in order {
            for ticket in attaching.tickets(&lanes, role)? {
                std::thread::sleep(PAUSE);
                let began_ns = now_ns();
                let attach = Attach::with_ticket(&attaching.socket, &ticket)?;
                let attach = attach.pin(false).watched(note);
                if role == v1::Role::Producer {
                    let mut end = attach.producer()?;
                    note(READY);
                    end.send(&1u64.to_le_bytes(), Duration::ZERO)?;
                    note(SENT);
                    producers.push(end);
                } else {
                    let mut end = attach.consumer()?;
                    note(READY);
                    if what == What::ConsumerReceives {
                        drop(end.recv(PATIENCE)?);
                        note(RECEIVED);
                    }
                    consumers.push(end);
                }
                heard.push(Heard { what, began_ns, client: DONE.take() });
            }
        }
        // The agent is done with the last one.
        std::thread::sleep(PAUSE);
        drop((producers, consumers));
        attaching.end(&lanes)?;
    }
    Ok(heard)
}

/// Puts together what both sides said. `file` is the agent's, which has ended.
pub(crate) fn courses(heard: &[Heard], file: &Path) -> Result<Vec<Course>, BenchError> {
    let text = fs::read(file).map_err(BenchError::io("cannot read the agent's steps"))?;
    let agent: Vec<Done> =
        serde_json::from_slice(&text).map_err(BenchError::json("the agent's steps"))?;
    put_together(heard, &agent)
}

/// Steps by when they were done, for each way to attach.
fn put_together(heard: &[Heard], agent: &[Done]) -> Result<Vec<Course>, BenchError> {
    let mut all: Vec<Vec<(Side, &str, u64)>> = heard
        .iter()
        .map(|one| one.client.iter().map(|(step, at)| (Side::Client, *step, *at)).collect())
        .collect();
    for done in agent {
        let (side, step) = (Side::Agent, done.step.as_str());
        let lacks =
            |index: &usize| !all[*index].iter().any(|found| (found.0, found.1) == (side, step));
        // One end comes after the other, and the agent does a step once for each.
        let index = (0..all.len()).filter(|index| takes(heard[*index].what, step)).find(lacks);
        let Some(index) = index else {
            let why = format!("more often than there were attaches: {step}");
            return Err(BenchError::Call { what: "the agent's steps", why });
        };
        all[index].push((side, step, done.at_ns));
    }
    /// How long each took, and when it was done.
    type Times<'a> = BTreeMap<(Side, &'a str), (Vec<f64>, Vec<f64>)>;
    let mut found: BTreeMap<What, Times<'_>> = BTreeMap::new();
    for (one, steps) in heard.iter().zip(all) {
        let mut before = BTreeMap::new();
        for (side, step, at) in steps {
            let last = before.insert(side, at).unwrap_or(one.began_ns);
            let times = found.entry(one.what).or_default().entry((side, step)).or_default();
            times.0.push(at.saturating_sub(last) as f64 / 1e3);
            times.1.push(at.saturating_sub(one.began_ns) as f64 / 1e3);
        }
    }
    let course = |(what, times): (What, Times<'_>)| {
        let steps = times.into_iter().map(|((side, step), (mut took, mut at))| Step {
            side,
            step: step.to_owned(),
            times: took.len(),
            took_us: median(&mut took).unwrap_or(0.0),
            at_us: median(&mut at).unwrap_or(0.0),
        });
        let mut steps: Vec<Step> = steps.collect();
        steps.sort_by(|a, b| a.at_us.total_cmp(&b.at_us));
        Course { what, steps }
    };
    Ok(found.into_iter().map(course).collect())
}

/// Whether the agent does the step for such an end: only a producer is journalled twice.
fn takes(what: What, step: &str) -> bool {
    !OF_PRODUCERS.contains(&step) || matches!(what, What::ProducerAlone | What::ProducerJoins)
}

/// How it was measured, in lines.
pub(crate) fn heading(steps: &Steps) -> String {
    let (machine, method) = (&steps.machine, &steps.method);
    format!(
        "machine  {}, Linux {}; load {} at start\n\
         method   medians of all attaches of {} rounds, {} ms after the one before; lanes that {}, \
         64 slots of 56 bytes on {} KiB pages; nobody is pinned; took: since the side's last",
        machine.cpu,
        machine.kernel,
        machine.load,
        method.rounds,
        PAUSE.as_millis(),
        method.wait.as_flag(),
        method.page_bytes / 1024,
    )
}

/// A table for each way to attach.
pub(crate) fn grids(steps: &Steps) -> Vec<Grid> {
    let grid = |course: &Course| {
        let mut grid =
            Grid::new(course.what.as_str(), &["who", "work", "took us", "done at us", "times"]);
        for step in &course.steps {
            let who = match step.side {
                Side::Client => "client",
                Side::Agent => "agent",
            };
            grid.rows.push(vec![
                who.to_owned(),
                step.step.clone(),
                format!("{:.1}", step.took_us),
                format!("{:.1}", step.at_us),
                step.times.to_string(),
            ]);
        }
        grid
    };
    steps.courses.iter().map(grid).collect()
}

/// All of it as text.
pub(crate) fn text(steps: &Steps) -> String {
    let mut text = heading(steps) + "\n";
    for grid in grids(steps) {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{}\n{}\n", grid.title, grid.text());
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::task::Wait;

    fn done(step: &str, at_ns: u64) -> Done {
        Done { step: step.to_owned(), at_ns }
    }

    #[test]
    fn a_step_takes_the_time_since_its_sides_step_before_and_belongs_to_one_attach() {
        let heard = |began_ns, client| Heard { what: What::ProducerJoins, began_ns, client };
        let heard = [
            heard(1000, vec![("connect", 3000), ("wait for GRANT", 9000)]),
            heard(100_000, vec![("connect", 104_000), ("wait for GRANT", 108_000)]),
        ];
        let agent = [
            done("accept", 5000),
            done("grant", 8000),
            done("accept", 107_000),
            // After the next attach began.
            done("late", 110_000),
            done("late", 150_000),
        ];
        let courses = put_together(&heard, &agent).unwrap();
        let [course] = &courses[..] else { panic!("one way to attach") };
        let found = |side, name: &str| {
            let step = course.steps.iter().find(|step| step.side == side && step.step == name);
            let step = step.unwrap_or_else(|| panic!("{name}: {course:?}"));
            (step.took_us, step.at_us, step.times)
        };
        assert_eq!(found(Side::Client, "connect"), (3.0, 3.0, 2));
        assert_eq!(found(Side::Client, "wait for GRANT"), (5.0, 8.0, 2));
        assert_eq!(found(Side::Agent, "accept"), (5.5, 5.5, 2));
        assert_eq!(found(Side::Agent, "late"), (72.5, 79.5, 2));
        assert!(put_together(&heard[..1], &agent).is_err());
        assert_eq!(course.steps.last().map(|step| step.step.as_str()), Some("late"));
    }

    #[test]
    fn what_is_no_step_is_not_heard() {
        let listener = Listener::default();
        tracing::subscriber::with_default(listener, || {
            tracing::trace!(name: "hear HELLO", target: STEPS, "done");
            tracing::error!("no step");
            tracing::dispatcher::get_default(|dispatch| {
                let listener = dispatch.downcast_ref::<Listener>().unwrap();
                let heard = listener.0.lock().unwrap();
                assert_eq!(heard.iter().map(|done| done.0).collect::<Vec<_>>(), ["hear HELLO"]);
            });
        });
    }

    /// A small result.
    pub(crate) fn example() -> Steps {
        let step = Step {
            side: Side::Agent,
            step: "journal the end".to_owned(),
            took_us: 50.0,
            at_us: 150.0,
            times: 2,
        };
        Steps {
            machine: crate::example::example().machine,
            method: Method { rounds: 1, seconds: 0.1, page_bytes: 4096, wait: Wait::Spin },
            courses: vec![Course { what: What::ConsumerReceives, steps: vec![step] }],
        }
    }
}
