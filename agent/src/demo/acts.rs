//! The five acts. Each makes its lane, plays, compares the witnesses, and ends its lane.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use laneway_proto::v1::{self, Role, end_status::State};

use super::report::{Cores, Latency, Report};
use super::stage::{Failure, PATIENCE, Stage, Worker};
use super::worker::{Consumed, Pinged, Produced};
use super::{DemoArgs, Progress, syscalls};

/// Slots of a streaming ring: beyond the private caches, within the shared one.
const STREAM_SLOTS: u32 = 16_384;
/// Slots of a ping-pong ring: one line that stays hot.
const PING_SLOTS: u32 = 2;
/// Slots of the rings of acts 3 to 5: few enough that a producer feels a dead consumer, many enough
/// to stay busy.
const PLAY_SLOTS: u32 = 1024;
/// Fewest messages between two deaths: more than a ring, so that the ends know of each other and
/// need no agent for the next one.
pub(super) const SHARE_MIN: u64 = 2 * PLAY_SLOTS as u64;
/// Deaths of each kind of end.
const KILLS: u64 = 3;
/// Round trips of the latency act.
const ROUNDS: u64 = 400_000;

/// Act 1: as many messages as asked, every byte checked, system calls counted.
pub(super) fn stream(
    stage: &Stage,
    args: &DemoArgs,
    report: &mut Report,
    progress: &Progress,
) -> Result<(), Failure> {
    progress.act("1 stream: every byte of every message checked");
    let lane = stage.create("demo-stream", args.size, STREAM_SLOTS, v1::Profile::Throughput)?;
    describe(&lane, report);
    let worker = |kind, role| -> Result<_, Failure> {
        let mut command = stage.worker(kind, "demo-stream", role)?;
        command.args(["--until", &args.messages.to_string(), "--size", &args.size.to_string()]);
        Ok(command)
    };
    let consumer = syscalls::run(worker("consume", Role::Consumer)?);
    let producer = syscalls::run(worker("produce", Role::Producer)?);
    while !consumer.is_finished() {
        let lane = stage.get("demo-stream")?;
        progress.set(position(lane.consumer.as_ref()), args.messages);
        std::thread::sleep(Duration::from_millis(50));
    }
    let (_, sent): (Produced, _) = syscalls::finish(producer)?;
    let (consumed, received): (Consumed, _) = syscalls::finish(consumer)?;
    settle(&consumed, args.messages, report);
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let (messages, seconds) = (consumed.tally.received as f64, consumed.nanoseconds as f64 / 1e9);
    report.throughput_msgs_per_s = messages / seconds.max(1e-9);
    match (sent, received) {
        (Ok(sent), Ok(received)) => {
            #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
            let calls = (sent + received) as f64;
            report.data_path_syscalls_per_million = Some(calls * 1e6 / messages);
            report.data_path_syscalls_note =
                format!("{sent} by the producer, {received} by the consumer, by ptrace");
        }
        (Err(why), _) | (_, Err(why)) => report.data_path_syscalls_note = why,
    }
    stage.delete("demo-stream")
}

fn describe(lane: &v1::Lane, report: &mut Report) {
    let placement = lane.placement.clone().unwrap_or_default();
    report.page_size_bytes = placement.page_size_bytes;
    report.page_size_why = placement.steps_down.into_iter().map(|step| step.reason).collect();
    report.numa_node = placement.numa_node;
    let ends = [&lane.producer, &lane.consumer].map(|end| end.clone().unwrap_or_default());
    let worse = ends.iter().map(v1::EndStatus::grade).max_by_key(|grade| *grade as i32);
    let grade = worse.map(|grade| grade.as_str_name().trim_start_matches("GRADE_").to_owned());
    report.cores = Cores {
        producer: ends[0].cpu,
        consumer: ends[1].cpu,
        grade: grade.unwrap_or_default(),
        relation: placement.relation,
    };
}

fn position(end: Option<&v1::EndStatus>) -> u64 {
    end.and_then(|end| end.counters).map_or(0, |counters| counters.position)
}

/// Counts what a consumer saw, and what it should have seen and did not.
fn settle(consumed: &Consumed, end: u64, report: &mut Report) {
    report.add(&consumed.tally);
    report.lost += end.saturating_sub(consumed.tally.next);
}

/// Act 2: one message in flight, there and back.
pub(super) fn ping_pong(
    stage: &Stage,
    report: &mut Report,
    progress: &Progress,
) -> Result<(), Failure> {
    progress.act("2 ping-pong: one message in flight");
    for name in ["demo-ping", "demo-pong"] {
        stage.create(name, 56, PING_SLOTS, v1::Profile::Latency)?;
    }
    let worker = |kind, out, back| -> Result<Worker, Failure> {
        let mut command = stage.worker(kind, "demo-ping", out)?;
        command.env("LANEWAY_TICKET_BACK", stage.ticket("demo-pong", back)?);
        command.args(["--rounds", &ROUNDS.to_string(), "--size", "56"]);
        Worker::spawn(command)
    };
    let pong = worker("pong", Role::Consumer, Role::Producer)?;
    let ping = worker("ping", Role::Producer, Role::Consumer)?;
    let Pinged { p50, p99, p999 } = ping.finish()?;
    let _: serde_json::Value = pong.finish()?;
    report.one_way_latency_ns = Latency { p50, p99, p999 };
    progress.set(1, 1);
    for name in ["demo-ping", "demo-pong"] {
        stage.delete(name)?;
    }
    Ok(())
}

/// A lane with both ends running, witnesses beside it. Its streams have no length of their own: on
/// a machine of any speed, busy or not, they outlast what happens to them.
struct Play<'a> {
    stage: &'a Stage,
    lane: &'static str,
    size: u32,
    /// Messages between two deaths, at least.
    share: u64,
}

impl Play<'_> {
    fn create(&self) -> Result<(), Failure> {
        self.stage.create(self.lane, self.size, PLAY_SLOTS, v1::Profile::Latency).map(|_| ())
    }

    fn end(&self, kind: &str, role: Role, witness: &str) -> Result<Worker, Failure> {
        let mut command = self.stage.worker(kind, self.lane, role)?;
        command.args(["--size", &self.size.to_string()]).stdin(Stdio::piped());
        command.arg("--witness").arg(self.stage.witness(witness));
        Worker::spawn(command)
    }

    fn producer(&self, witness: &str) -> Result<Worker, Failure> {
        self.end("produce", Role::Producer, witness)
    }

    fn consumer(&self, witness: &str) -> Result<Worker, Failure> {
        self.end("consume", Role::Consumer, witness)
    }

    /// Waits until a process has noted a share of messages from `start` on.
    fn reach(&self, witness: &str, start: u64) -> Result<(), Failure> {
        let reached = |_: &v1::Lane| self.noted(witness).is_ok_and(|at| at >= start + self.share);
        self.stage.wait_for(self.lane, "progress", reached).map(|_| ())
    }

    fn wait_gone(&self, role: Role) -> Result<(), Failure> {
        let gone = |lane: &v1::Lane| {
            let end = match role {
                Role::Consumer => &lane.consumer,
                _ => &lane.producer,
            };
            end.as_ref().is_some_and(|end| end.state() == State::Gone)
        };
        self.stage.wait_for(self.lane, "the agent's verdict of death", gone).map(|_| ())
    }

    /// The last sequence number that a process noted, before it was killed or so far.
    fn noted(&self, witness: &str) -> Result<u64, Failure> {
        read_witness(&self.stage.witness(witness))
    }
}

fn read_witness(path: &Path) -> Result<u64, Failure> {
    let bytes: [u8; 8] = fs::read(path)?.try_into().map_err(|_| "a witness was cut off")?;
    Ok(u64::from_le_bytes(bytes))
}

/// Act 3: the producer dies in the middle; its successor goes on where it stopped.
pub(super) fn kill_producer(
    stage: &Stage,
    size: u32,
    share: u64,
    report: &mut Report,
    progress: &Progress,
) -> Result<(), Failure> {
    progress.act("3 kill -9 the producer, attach another");
    let play = Play { stage, lane: "demo-producer", size, share };
    play.create()?;
    let consumer = play.consumer("consumer-3")?;
    // Everything that the dead ones had committed stands before the next one's first message.
    let mut committed = 0;
    for round in 1..=KILLS {
        let witness = format!("producer-3-{round}");
        let producer = play.producer(&witness)?;
        play.reach(&witness, committed)?;
        producer.kill()?;
        play.wait_gone(Role::Producer)?;
        report.kills.producer += 1;
        committed = play.noted(&witness)? + 1;
        progress.set(round, KILLS + 1);
    }
    let last = play.producer("producer-3-last")?;
    play.reach("producer-3-last", committed)?;
    let last: Produced = last.finish()?;
    report.lost += committed.saturating_sub(last.first);
    settle(&consumer.finish()?, last.end, report);
    stage.delete(play.lane)
}

/// Act 4: the consumer dies in the middle; its successor starts at the last release.
pub(super) fn kill_consumer(
    stage: &Stage,
    size: u32,
    share: u64,
    report: &mut Report,
    progress: &Progress,
) -> Result<(), Failure> {
    progress.act("4 kill -9 the consumer, attach another");
    let play = Play { stage, lane: "demo-consumer", size, share };
    play.create()?;
    let producer = play.producer("producer-4")?;
    let mut processed = 0;
    for round in 1..=KILLS {
        let witness = format!("consumer-4-{round}");
        let consumer = play.consumer(&witness)?;
        play.reach(&witness, processed)?;
        consumer.kill()?;
        play.wait_gone(Role::Consumer)?;
        report.kills.consumer += 1;
        let noted = play.noted(&witness)? + 1;
        report.delivered += noted.saturating_sub(processed);
        processed = noted;
        let start = position(stage.get(play.lane)?.consumer.as_ref());
        report.lost += start.saturating_sub(noted);
        report.duplicates += noted.saturating_sub(start);
        progress.set(round, KILLS + 1);
    }
    let last = play.consumer("consumer-4-last")?;
    play.reach("consumer-4-last", processed)?;
    let producer: Produced = producer.finish()?;
    settle(&last.finish()?, producer.end, report);
    stage.delete(play.lane)
}

/// Act 5: the agent dies while data flows, and comes back to a lane that never stopped.
pub(super) fn kill_agent(
    stage: &mut Stage,
    size: u32,
    share: u64,
    report: &mut Report,
    progress: &Progress,
) -> Result<(), Failure> {
    progress.act("5 kill -9 the agent while data flows, start it again");
    let lane = "demo-agent";
    let (consumer, producer) = {
        let play = Play { stage, lane, size, share };
        play.create()?;
        let ends = (play.consumer("consumer-5")?, play.producer("producer-5")?);
        play.reach("consumer-5", 0)?;
        ends
    };
    stage.kill_agent()?;
    report.kills.agent += 1;
    let witness = stage.witness("consumer-5");
    let when_dead = read_witness(&witness)?;
    let deadline = Instant::now() + PATIENCE;
    let without_agent = loop {
        std::thread::sleep(Duration::from_millis(200));
        let noted = read_witness(&witness)?;
        if noted > when_dead {
            break noted;
        }
        if Instant::now() > deadline {
            return Err("nothing moved while the agent was dead".into());
        }
    };
    progress.set(1, 2);
    stage.start_agent()?;
    let live =
        |end: &Option<v1::EndStatus>| end.as_ref().is_some_and(|end| end.state() == State::Live);
    let back = |lane: &v1::Lane| live(&lane.producer) && live(&lane.consumer);
    stage.wait_for(lane, "both ends' return", back)?;
    let play = Play { stage, lane, size, share };
    play.reach("consumer-5", play.noted("consumer-5")?)?;
    let producer: Produced = producer.finish()?;
    settle(&consumer.finish()?, producer.end, report);
    let moved = format!("{} messages moved while the agent was dead", without_agent - when_dead);
    progress.line(&moved);
    stage.delete(lane)
}
