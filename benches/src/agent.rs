//! A real agent in a directory of its own, and the lanes that it grants.
//!
//! Started before the first measurement and idle during all of them. Dropping it ends it and
//! removes the directory, whatever happened in between.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use laneway_shm::Profile;
use laneway_shm::geometry::Geometry;
use nix::unistd::geteuid;
use serde::Deserialize;
use tempfile::TempDir;

use crate::child;
use crate::cli::PageSize;
use crate::error::BenchError;
use crate::interrupt::Interrupt;
use crate::plan::{self, Depths};
use crate::stream::BATCH;
use crate::task::Wait;

/// How long the agent may take to listen: it may have to grow a hugepage pool.
const START_MAX: Duration = Duration::from_secs(30);
/// Huge pages of 2 MiB beside the lanes' own, for the rivals of this build that want some: what
/// two rings of DPDK's have at most at the usual sizes.
const SPARE_PAGES: u64 = if cfg!(feature = "rivals-dpdk") { 6 } else { 0 };
/// Lines of its log that an error shows.
const LOG_LINES: usize = 8;

/// A running agent.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
    directory: TempDir,
    created: u32,
    /// Lanes of these that are deleted.
    forgotten: u32,
}

/// The lanes of one message size.
#[derive(Clone, Debug)]
pub(crate) struct Lanes {
    pub(crate) bytes: usize,
    /// For round trips: there and back, for each depth.
    pub(crate) echoes: Vec<(Lane, Lane)>,
    /// For streams: one lane for each depth.
    pub(crate) streams: Vec<Lane>,
    /// For packed messages, where they are small enough.
    pub(crate) packed: Option<Lane>,
    /// For streams with several readers, by their number, at each depth.
    pub(crate) crowds: Vec<(u32, Lane)>,
}

impl Lanes {
    /// Each of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Lane> {
        let echoes = self.echoes.iter().flat_map(|(there, back)| [there, back]);
        let crowds = self.crowds.iter().map(|(_, lane)| lane);
        echoes.chain(&self.streams).chain(&self.packed).chain(crowds)
    }
}

/// One lane: a ticket for each end, and the pages that it got.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub(crate) name: String,
    pub(crate) producer: String,
    pub(crate) consumer: String,
    pub(crate) slots: u32,
    pub(crate) page_bytes: u64,
}

/// What lanes are asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) pages: PageSize,
    pub(crate) wait: Wait,
    /// Slots of the streams' lanes; empty means the plan's own depth for the size.
    pub(crate) depths: Vec<u32>,
    /// The same of the lanes for round trips.
    pub(crate) latency_depths: Vec<u32>,
    /// Numbers of readers; one is what every lane has.
    pub(crate) readers: Vec<u32>,
}

impl Wishes {
    /// Slots of each stream's lane for messages of one size.
    fn streams(&self, depths: Depths) -> Vec<u32> {
        if self.depths.is_empty() { vec![depths.stream] } else { self.depths.clone() }
    }

    /// The same of the lanes for round trips.
    fn echoes(&self, depths: Depths) -> Vec<u32> {
        let asked = &self.latency_depths;
        if asked.is_empty() { vec![depths.latency] } else { asked.clone() }
    }

    /// Numbers of readers beyond one.
    fn crowds(&self) -> impl Iterator<Item = u32> {
        self.readers.iter().copied().filter(|readers| *readers > 1)
    }
}

/// The part of `lane create --output json` that is needed here.
#[derive(Debug, Deserialize)]
struct Created {
    lane: CreatedLane,
    tickets: CreatedTickets,
}

#[derive(Debug, Deserialize)]
struct CreatedLane {
    placement: CreatedPlacement,
}

#[derive(Debug, Deserialize)]
struct CreatedPlacement {
    page_size_bytes: u64,
}

#[derive(Debug, Deserialize)]
struct CreatedTickets {
    producer: String,
    consumer: String,
}

impl Agent {
    /// Starts an agent that can grant lanes for messages of these sizes.
    pub(crate) fn start(
        sizes: &[usize],
        wishes: &Wishes,
        interrupt: &Interrupt,
    ) -> Result<Self, BenchError> {
        Self::with_pages(reserve(sizes, wishes)?.as_deref(), interrupt)
    }

    /// Starts an agent with pages as its `--reserve` wants them.
    pub(crate) fn with_pages(
        reserve: Option<&str>,
        interrupt: &Interrupt,
    ) -> Result<Self, BenchError> {
        let flags = reserve.iter().flat_map(|reserve| ["--reserve", *reserve]);
        Self::launch(&flags.collect::<Vec<_>>(), None, None, interrupt)
    }

    /// Starts an agent with a configuration file of this text.
    pub(crate) fn configured(config: &str, interrupt: &Interrupt) -> Result<Self, BenchError> {
        Self::launch(&[], Some(config), None, interrupt)
    }

    /// The same, and writes the steps of its attaches to the file `steps` when it ends.
    pub(crate) fn watched(
        config: &str,
        steps: &Path,
        interrupt: &Interrupt,
    ) -> Result<Self, BenchError> {
        Self::launch(&[], Some(config), Some(steps), interrupt)
    }

    fn launch(
        flags: &[&str],
        config: Option<&str>,
        steps: Option<&Path>,
        interrupt: &Interrupt,
    ) -> Result<Self, BenchError> {
        let directory = tempfile::Builder::new()
            .prefix("laneway-bench-")
            .tempdir()
            .map_err(BenchError::io("cannot make a temporary directory"))?;
        let log = File::create(directory.path().join("agent.log"))
            .map_err(BenchError::io("cannot make the agent's log"))?;
        let mut command = child::command("laneway")?;
        if let Some(file) = steps {
            command.arg("--steps").arg(file);
        }
        command.args(["--", "agent", "--run-dir"]);
        command.arg(directory.path().join("run"));
        command.arg("--state-dir").arg(directory.path().join("state"));
        command.args(flags);
        if let Some(text) = config {
            let file = directory.path().join("laneway.toml");
            fs::write(&file, text).map_err(BenchError::io("cannot write a configuration"))?;
            command.arg("--config").arg(file);
        }
        let output = log.try_clone().map_err(BenchError::io("cannot share the agent's log"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(log)
            .spawn()
            .map_err(BenchError::io("cannot start the agent"))?;
        let mut agent = Self { child, directory, created: 0, forgotten: 0 };
        agent.await_socket(interrupt)?;
        Ok(agent)
    }

    fn await_socket(&mut self, interrupt: &Interrupt) -> Result<(), BenchError> {
        let start = Instant::now();
        // A socket file may be there before anybody listens on it.
        while UnixStream::connect(self.control_socket()).is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failed(format!("ended at once, {status}")));
            }
            if start.elapsed() > START_MAX {
                return Err(self.failed(format!("did not listen within {START_MAX:?}")));
            }
            interrupt.sleep(Duration::from_millis(10))?;
        }
        Ok(())
    }

    fn failed(&self, what: String) -> BenchError {
        let log = fs::read_to_string(self.directory.path().join("agent.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.len().saturating_sub(LOG_LINES);
        let log = lines.get(tail..).unwrap_or_default().join("\n");
        BenchError::Agent { what, log }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where controllers call.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.directory.path().join("run/control@laneway.sock")
    }

    /// Where workers attach.
    pub(crate) fn attach_socket(&self) -> PathBuf {
        self.directory.path().join("run/attach/attach.sock")
    }

    /// Makes the lanes for messages of `bytes` bytes.
    pub(crate) fn lanes(&mut self, bytes: usize, wishes: &Wishes) -> Result<Lanes, BenchError> {
        let depths = Depths::of(bytes)?;
        let (mut echoes, mut streams, mut crowds) = (Vec::new(), Vec::new(), Vec::new());
        for slots in wishes.echoes(depths) {
            let there = self.create(bytes, slots, "latency", wishes, &[])?;
            echoes.push((there, self.create(bytes, slots, "latency", wishes, &[])?));
        }
        for slots in wishes.streams(depths) {
            streams.push(self.create(bytes, slots, "throughput", wishes, &[])?);
            for readers in wishes.crowds() {
                let (count, uid) = (readers.to_string(), geteuid().as_raw().to_string());
                let shape = ["--shape", "broadcast", "--policy", "gated", "--readers", &count];
                let shape = [&shape[..], &["--consumer-uid", &uid]].concat();
                crowds.push((readers, self.create(bytes, slots, "throughput", wishes, &shape)?));
            }
        }
        let mut packed = None;
        if let Some(slots) = depths.packed {
            packed = Some(self.create(bytes * BATCH, slots, "throughput", wishes, &[])?);
        }
        Ok(Lanes { bytes, echoes, streams, packed, crowds })
    }

    fn create(
        &mut self,
        bytes: usize,
        slots: u32,
        profile: &str,
        wishes: &Wishes,
        shape: &[&str],
    ) -> Result<Lane, BenchError> {
        let (bytes, depth) = (bytes.to_string(), slots.to_string());
        let mut words = vec!["--slot-size", &bytes, "--slots", &depth, "--profile", profile];
        words.extend(["--wait", wishes.wait.as_flag()]);
        if let Some(size) = wishes.pages.as_flag() {
            words.extend(["--page-size", size]);
        }
        words.extend(shape);
        self.make(slots, &words)
    }

    /// Makes a lane of `slots` slots as `laneway lane create` does, with these flags.
    pub(crate) fn make(&mut self, slots: u32, flags: &[&str]) -> Result<Lane, BenchError> {
        self.ask(slots, &[&["--pinning", "none"], flags].concat())
    }

    /// Makes lanes on small pages, of which one has cores, by way of `pinning`: a thread with
    /// several ends needs its core once.
    pub(crate) fn pinned_lanes(
        &mut self,
        bytes: usize,
        pinning: &str,
        cpus: (u32, u32),
    ) -> Result<Lanes, BenchError> {
        let depths = Depths::of(bytes)?;
        let [size, hot, deep] =
            [bytes.to_string(), depths.latency.to_string(), depths.stream.to_string()];
        let (first, second) = (cpus.0.to_string(), cpus.1.to_string());
        let small = ["--page-size", "4KiB", "--slot-size", &size];
        let hot = [&small[..], &["--slots", &hot]].concat();
        let mut pinned = [&hot[..], &["--pinning", pinning]].concat();
        if pinning != "none" {
            pinned.extend(["--exclusive", "--producer-cpu", &first, "--consumer-cpu", &second]);
        }
        let deep = [&small[..], &["--slots", &deep, "--profile", "throughput"]].concat();
        let ping = self.ask(depths.latency, &pinned)?;
        let echoes = vec![(ping, self.make(depths.latency, &hot)?)];
        let streams = vec![self.make(depths.stream, &deep)?];
        Ok(Lanes { bytes, echoes, streams, packed: None, crowds: Vec::new() })
    }

    fn ask(&mut self, slots: u32, flags: &[&str]) -> Result<Lane, BenchError> {
        self.created += 1;
        let name = lane_name(self.created);
        let mut words = vec!["lane", "create", &name, "--output", "json"];
        words.extend(flags);
        let output = child::command("laneway")?
            .args(["--", "--socket"])
            .arg(self.control_socket())
            .args(&words)
            .stdin(Stdio::null())
            .output()
            .map_err(BenchError::io("cannot run the agent's client"))?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let command = words.join(" ");
            return Err(BenchError::Refused { command, message });
        }
        let created: Created = serde_json::from_slice(&output.stdout)
            .map_err(BenchError::json("the answer to `lane create`"))?;
        Ok(Lane {
            name: name.clone(),
            producer: created.tickets.producer,
            consumer: created.tickets.consumer,
            slots,
            page_bytes: created.lane.placement.page_size_bytes,
        })
    }
}

impl Agent {
    /// Deletes every lane that it granted.
    pub(crate) fn forget_lanes(&mut self) {
        for number in self.forgotten + 1..=self.created {
            let Ok(mut command) = child::command("laneway") else { continue };
            command.args(["--", "--socket"]).arg(self.control_socket());
            command.args(["lane", "delete", &lane_name(number)]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            // A lane that was refused does not exist; an agent that is gone deletes nothing.
            let _ = command.status();
        }
        self.forgotten = self.created;
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // An agent keeps its lanes beyond its end, and with them the hugepages that it added:
        // it would give back only those that no lane has.
        self.forget_lanes();
        child::end(&mut self.child);
    }
}

fn lane_name(number: u32) -> String {
    format!("bench-{number}")
}

/// Pages that the lanes need, as the agent's `--reserve` wants them.
fn reserve(sizes: &[usize], wishes: &Wishes) -> Result<Option<String>, BenchError> {
    let (page, name, mut count) = match wishes.pages {
        PageSize::Base4K => return Ok(None),
        PageSize::Auto | PageSize::Huge2M => (2u64 << 20, "2MiB", SPARE_PAGES),
        PageSize::Huge1G => (1 << 30, "1GiB", 0),
    };
    for &bytes in sizes {
        let depths = Depths::of(bytes)?;
        let echoes = wishes.echoes(depths).into_iter();
        let round_trips = echoes.flat_map(|slots| [(slots, Profile::Latency); 2]);
        // Each number of readers has a lane of its own.
        let crowds = wishes.crowds().count() + 1;
        let streams = wishes.streams(depths).into_iter();
        let streams = streams.flat_map(|slots| vec![(slots, Profile::Throughput); crowds]);
        for (slots, profile) in round_trips.chain(streams) {
            let geometry = Geometry::for_profile(plan::payload(bytes), slots, profile)?;
            count += geometry.segment_bytes().div_ceil(page);
        }
        if let Some(slots) = depths.packed {
            let payload = plan::payload(bytes * BATCH);
            let geometry = Geometry::for_profile(payload, slots, Profile::Throughput)?;
            count += geometry.segment_bytes().div_ceil(page);
        }
    }
    Ok(Some(format!("{name}={count}")))
}
