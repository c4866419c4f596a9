//! Cores that belong to one thread: cpusets of the agent's own, with everything else kept off.
//!
//! What is held is a list of [`Hold`]s; the cpusets are brought in line with it, whatever state
//! they were left in, by an earlier agent too. With the last hold everything is as before: only
//! groups whose names begin with `laneway-` are ever made or removed. Who gets which core is
//! placement's business, what is journalled the controller's.

#[cfg(any(test, feature = "test-support"))]
pub mod fake;
#[cfg(test)]
mod tests;
pub mod tree;
mod v1;
mod v2;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::Path;
use std::time::Duration;

use thiserror::Error;
use tracing::{error, info};

use self::tree::{Form, Kernel, Tree, Which};
use crate::config::CpusetConfig;
use crate::model::capacity::CpuSet;
use crate::model::lane::HeldCore;
use crate::plan::{Hold, SegmentKey};

/// A group that is emptied is looked at this often until the kernel has let go of it.
const TRIES: u32 = 200;
const BETWEEN_TRIES: Duration = Duration::from_millis(2);
/// Tasks that are born while others are moved need another pass.
const PASSES: u32 = 8;
/// Threads that a held one started are moved away so many at a time: one that starts them without
/// end crowds its own core and does not keep the agent.
const STRAYS_MAX: usize = 256;

/// Why cores cannot be held, or one could not.
#[derive(Debug, Error)]
pub enum CpusetError {
    /// The operator did not ask for it.
    #[error("cpuset.enabled is false in the agent's configuration; set it")]
    Off,
    /// No hierarchy.
    #[error(
        "no cpuset hierarchy is mounted at cpuset.root; mount cgroup v2, or v1 with cpuset, or \
         set cpuset.enabled = false"
    )]
    Missing,
    /// A kubelet divides the cores.
    #[error(
        "a kubelet owns the cpusets here ({evidence}): two managers undo each other; use \
         PINNING_SELF with its static policy, or set cpuset.force = true"
    )]
    Kubelet {
        /// What tells of it.
        evidence: String,
    },
    /// Another agent divides the same cores.
    #[error("another agent holds {path}; end it, or choose another cpuset.root")]
    Taken {
        /// The group.
        path: String,
    },
    /// What others are to keep is not there.
    #[error("cpuset.others is {others}, but the cpuset has {all}; name cpus of it")]
    NoSuchCpus {
        /// What they are to keep.
        others: CpuSet,
        /// What is there.
        all: CpuSet,
    },
    /// Others keep everything.
    #[error(
        "others keep {others} of {all}: no cpu is left for lanes; keep fewer, or set \
         cpuset.share_others = true"
    )]
    NothingLeft {
        /// What they keep.
        others: CpuSet,
        /// What is there.
        all: CpuSet,
    },
    /// Sharing cannot be had.
    #[error(
        "cpuset.share_others needs cgroup v1 with the cpu controller: {found}; leave others a \
         cpu of their own"
    )]
    NoSharing {
        /// What was found.
        found: String,
    },
    /// The process is in a group that cannot be named here.
    #[error("task {tid} is gone, or in a control group outside of what is mounted here")]
    Homeless {
        /// The task.
        tid: i32,
    },
    /// The kernel refused a partition.
    #[error(
        "the kernel answers {answer:?} to a partition with cpu {cpu}; look for other groups with \
         that cpu in cpuset.cpus.exclusive"
    )]
    Partition {
        /// The cpu.
        cpu: u32,
        /// Its answer.
        answer: String,
    },
    /// A file.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The file, below the mount point.
        path: String,
        /// The kernel's word.
        source: io::Error,
    },
}

/// The cores that are held, and the cpusets that hold them.
#[derive(Debug)]
pub struct Cores {
    tree: Box<dyn Tree>,
    form: Form,
    /// The group whose cores are divided.
    base: String,
    all: CpuSet,
    others: CpuSet,
    share: bool,
    /// The agent's own process: never given next to no weight.
    agent: i32,
    holds: BTreeMap<SegmentKey, Hold>,
    /// Threads of the kernel that were seen and stay where they are.
    stay: BTreeSet<i32>,
}

impl Cores {
    /// Takes the node's cpusets in hand.
    ///
    /// # Errors
    /// Why that cannot work here, and what would.
    pub fn open(config: &CpusetConfig) -> Result<Self, CpusetError> {
        let (kernel, base, form) = Kernel::open(config.root.as_deref())?;
        if !config.force {
            refuse_kubelet(&kernel)?;
        }
        let agent = nix::unistd::getpid().as_raw();
        let cores = Self::over(Box::new(kernel), base, form, config, agent)?;
        info!(lanes = %cores.lanes(), others = %cores.others, shared = %cores.shared(), ?form,
            "cpusets for lanes");
        Ok(cores)
    }

    /// As [`Cores::open`], over any tree.
    ///
    /// # Errors
    /// As there.
    pub fn over(
        tree: Box<dyn Tree>,
        base: String,
        form: Form,
        config: &CpusetConfig,
        agent: i32,
    ) -> Result<Self, CpusetError> {
        let mut cores = Self {
            tree,
            form,
            base,
            all: CpuSet::new(),
            others: CpuSet::new(),
            share: config.share_others,
            agent,
            holds: BTreeMap::new(),
            stay: BTreeSet::new(),
        };
        cores.all = match form {
            Form::V1 => cores.cpus_of("cpuset.cpus")?,
            Form::V2 => cores.all_v2()?,
        };
        let all = cores.all.clone();
        let lowest = || CpuSet::from_ids(all.first()).unwrap_or_default();
        cores.others = config.others.clone().unwrap_or_else(lowest);
        let others = cores.others.clone();
        if others.is_empty() || !others.difference(&all).is_empty() {
            return Err(CpusetError::NoSuchCpus { others, all });
        }
        if cores.lanes().is_empty() {
            return Err(CpusetError::NothingLeft { others, all });
        }
        match form {
            Form::V1 => cores.prove_v1()?,
            Form::V2 => cores.prove_v2()?,
        }
        Ok(cores)
    }

    /// The cpus that lanes may have.
    #[must_use]
    pub fn lanes(&self) -> CpuSet {
        if self.share { self.all.clone() } else { self.all.difference(&self.others) }
    }

    /// Those of them where everything else may run as well.
    #[must_use]
    pub fn shared(&self) -> CpuSet {
        if self.share { self.others.clone() } else { CpuSet::new() }
    }

    /// Says where a thread is and came from: everything that has to be remembered before it is
    /// moved.
    ///
    /// # Errors
    /// It is gone, or its group cannot be named here.
    pub fn survey(
        &self,
        key: SegmentKey,
        pid: i32,
        tid: i32,
        cpu: u32,
    ) -> Result<Hold, CpusetError> {
        let homeless = || CpusetError::Homeless { tid };
        let started = self.tree.task(tid).ok_or_else(homeless)?.started;
        let mover = if self.form == Form::V1 { tid } else { pid };
        let found = self.tree.home(Which::Cpuset, mover).ok_or_else(homeless)?;
        let moved_before = self.holds.values().find(|hold| match self.form {
            Form::V1 => hold.tid == tid,
            Form::V2 => hold.pid == pid,
        });
        let home = match moved_before {
            Some(hold) => hold.home.clone(),
            None if self.is_ours(&found) => self.base.clone(),
            None => found,
        };
        Ok(Hold { key, cpu, pid, tid, started, home })
    }

    /// What is held for an end.
    #[must_use]
    pub fn held(&self, key: SegmentKey) -> Option<&Hold> {
        self.holds.get(&key)
    }

    /// Moves a thread into the cpuset of its core, and everything else off it.
    ///
    /// # Errors
    /// The kernel's refusal. What was done is taken back.
    pub fn hold(&mut self, hold: &Hold) -> Result<HeldCore, CpusetError> {
        self.holds.insert(hold.key, hold.clone());
        let held = self.settle().and_then(|()| match self.form {
            Form::V1 => self.report_v1(hold),
            Form::V2 => self.report_v2(hold),
        });
        if held.is_err() {
            // The first refusal is the one that counts.
            let _ = self.free(hold.key);
        }
        held
    }

    /// Puts a thread back where it came from. One that is not held, or gone, needs nothing.
    ///
    /// # Errors
    /// The kernel's refusal; the rest is put back all the same.
    pub fn free(&mut self, key: SegmentKey) -> Result<(), CpusetError> {
        let Some(hold) = self.holds.remove(&key) else { return Ok(()) };
        let sent = match self.form {
            Form::V1 => self.send_home_v1(&hold),
            Form::V2 => self.send_home_v2(&hold),
        };
        let settled = self.settle();
        sent.and(settled)
    }

    /// Takes over what an earlier agent held: keeps what `keep` names, puts everything else back,
    /// finishes what it had begun.
    pub fn recover(&mut self, before: Vec<Hold>, keep: &HashSet<SegmentKey>) {
        self.holds.extend(before.into_iter().map(|hold| (hold.key, hold)));
        let stale =
            self.holds.values().filter(|hold| !keep.contains(&hold.key) || !self.lives(hold));
        let stale: Vec<SegmentKey> = stale.map(|hold| hold.key).collect();
        for key in stale {
            let Some(hold) = self.holds.remove(&key) else { continue };
            let sent = match self.form {
                Form::V1 => self.send_home_v1(&hold),
                Form::V2 => self.send_home_v2(&hold),
            };
            if let Err(error) = sent {
                error!(lane = %key.lane, %error, "a thread could not be put back");
            }
        }
        if let Err(error) = self.settle() {
            error!(%error, "cpusets of the agent before could not be put in order");
        }
    }

    /// Moves away what came since, puts threads back that somebody moved, and names these.
    pub fn repair(&mut self) -> Vec<SegmentKey> {
        if self.holds.is_empty() {
            return Vec::new();
        }
        let strayed = |hold: &&Hold| {
            let home = self.tree.home(Which::Cpuset, hold.tid);
            self.lives(hold) && home.is_some_and(|home| home != self.core_group(hold.cpu))
        };
        let strayed: Vec<SegmentKey> =
            self.holds.values().filter(strayed).map(|hold| hold.key).collect();
        if let Err(error) = self.settle() {
            error!(%error, "cpusets could not be put in order");
        }
        strayed
    }

    fn settle(&mut self) -> Result<(), CpusetError> {
        match self.form {
            Form::V1 => self.settle_v1(),
            Form::V2 => self.settle_v2(),
        }
    }

    /// Whether the very thread still runs.
    fn lives(&self, hold: &Hold) -> bool {
        self.tree.task(hold.tid).is_some_and(|task| task.started == hold.started)
    }

    fn held_cpus(&self) -> CpuSet {
        CpuSet::from_ids(self.holds.values().map(|hold| hold.cpu)).unwrap_or_default()
    }

    fn is_held(&self, tid: i32) -> bool {
        self.holds.values().any(|hold| hold.tid == tid)
    }

    fn is_ours(&self, group: &str) -> bool {
        let below = match self.base.as_str() {
            "" => Some(group),
            base => group.strip_prefix(base).and_then(|below| below.strip_prefix('/')),
        };
        below.is_some_and(|below| below.starts_with("laneway-"))
    }

    fn core_group(&self, cpu: u32) -> String {
        self.below(&format!("laneway-cpu{cpu}"))
    }

    /// Threads of the kernel, most of which are in the topmost group, that may run on a cpu.
    fn kernel_threads(&self, list: &str, cpu: u32) -> u64 {
        let there = self.tasks(Which::Cpuset, list);
        let reaches = |tid: &&i32| {
            self.tree.task(**tid).is_some_and(|task| task.kernel && task.cpus.contains(cpu))
        };
        there.iter().filter(reaches).count() as u64
    }

    fn below(&self, name: &str) -> String {
        join(&self.base, name)
    }

    fn cpus_of(&self, file: &str) -> Result<CpuSet, CpusetError> {
        let path = self.below(file);
        let text = self.read(Which::Cpuset, &path)?;
        let broken = |_| CpusetError::File {
            what: "understand",
            path,
            source: io::ErrorKind::InvalidData.into(),
        };
        text.trim().parse().map_err(broken)
    }

    fn exists(&self, of: Which, dir: &str) -> bool {
        self.tree.children(of, dir).is_ok()
    }

    fn read(&self, of: Which, path: &str) -> Result<String, CpusetError> {
        self.tree.read(of, path).map_err(failed("read", path))
    }

    fn write(&self, of: Which, path: &str, text: &str) -> Result<(), CpusetError> {
        self.tree.write(of, path, text).map_err(failed("write", path))
    }

    /// Writes only what is not there yet: most writes to a cpuset move every task in it.
    fn set(&self, of: Which, path: &str, text: &str) -> Result<(), CpusetError> {
        let found = self.read(of, path)?;
        if found.trim() == text { Ok(()) } else { self.write(of, path, text) }
    }

    fn make(&self, of: Which, dir: &str) -> Result<(), CpusetError> {
        match self.tree.make(of, dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.map_err(failed("make", dir)),
        }
    }

    /// The numbers in a file of tasks; none if the group is not there.
    fn tasks(&self, of: Which, path: &str) -> Vec<i32> {
        let text = self.tree.read(of, path).unwrap_or_default();
        text.lines().filter_map(|line| line.trim().parse().ok()).collect()
    }

    /// Moves a task, unless it ended meanwhile: then there is nothing to move.
    fn put(&self, of: Which, file: &str, task: i32) -> Result<(), CpusetError> {
        match self.tree.write(of, file, &task.to_string()) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => Ok(()),
            written => written.map_err(failed("move a task to", file)),
        }
    }

    /// Moves whatever is in a group elsewhere and removes it. One that is not there is removed.
    fn dissolve(&self, of: Which, dir: &str, list: &str, to: &str) -> Result<(), CpusetError> {
        for attempt in 0..TRIES {
            if !self.exists(of, dir) {
                return Ok(());
            }
            for task in self.tasks(of, &join(dir, list)) {
                self.put(of, to, task)?;
            }
            match self.tree.remove(of, dir) {
                Ok(()) => return Ok(()),
                // A task that ends, or one that was just born, keeps the group busy for a moment.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    if attempt + 1 == TRIES {
                        return Err(failed("remove", dir)(error));
                    }
                    std::thread::sleep(BETWEEN_TRIES);
                }
                Err(error) => return Err(failed("remove", dir)(error)),
            }
        }
        Ok(())
    }
}

/// Refuses to divide cores that a kubelet divides.
fn refuse_kubelet(tree: &dyn Tree) -> Result<(), CpusetError> {
    let below_root = tree.children(Which::Cpuset, "").unwrap_or_default();
    let group = below_root.into_iter().find(|name| name.starts_with("kubepods"));
    let evidence = match group {
        Some(group) => format!("the group {group}"),
        None if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() => "a pod".to_owned(),
        None if Path::new("/var/run/secrets/kubernetes.io").exists() => "a pod".to_owned(),
        None => return Ok(()),
    };
    Err(CpusetError::Kubelet { evidence })
}

fn failed(what: &'static str, path: &str) -> impl FnOnce(io::Error) -> CpusetError {
    let path = path.to_owned();
    move |source| CpusetError::File { what, path, source }
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}
