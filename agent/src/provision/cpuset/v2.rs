//! cgroup v2: a partition for each held core, which the kernel itself takes away from every other
//! group.
//!
//! The process of a held thread moves to the divided group, because its threads must be in one
//! threaded domain; its other threads keep the cpus that are left. Partitions are direct children
//! of that group: others would need CAP_SYS_ADMIN.

use super::tree::Which;
use super::{Cores, CpusetError, STRAYS_MAX, join};
use crate::model::capacity::CpuSet;
use crate::model::lane::{HeldCore, HeldHow};
use crate::plan::Hold;

/// It stands here that the controller was off before, and is to be switched off again.
const WAS_OFF: &str = "laneway-was-off";
const CORE: &str = "laneway-cpu";
const PROOF: &str = "laneway-proof";

impl Cores {
    /// All cpus, those that an earlier agent's partitions hold included.
    pub(super) fn all_v2(&self) -> Result<CpuSet, CpusetError> {
        let mut cpus: Vec<u32> = self.cpus_of("cpuset.cpus.effective")?.iter().collect();
        for group in self.partitions() {
            let number = group.rsplit_once(CORE).and_then(|(_, number)| number.parse().ok());
            cpus.extend::<Option<u32>>(number);
        }
        Ok(CpuSet::from_ids(cpus).unwrap_or_default())
    }

    /// Switches the controller on, looks for what partitions need, and switches it off again.
    pub(super) fn prove_v2(&mut self) -> Result<(), CpusetError> {
        if self.share {
            return Err(CpusetError::NoSharing { found: "cgroup v2 is mounted".to_owned() });
        }
        if !self.partitions().is_empty() {
            // An earlier agent's, which had proof.
            return Ok(());
        }
        let proof = self.below(PROOF);
        let proven = self.enable().and_then(|()| {
            self.make(Which::Cpuset, &proof)?;
            self.read(Which::Cpuset, &join(&proof, "cpuset.cpus.partition"))
        });
        self.dissolve_v2()?;
        proven.map(|_| ())
    }

    fn enable(&self) -> Result<(), CpusetError> {
        let file = self.below("cgroup.subtree_control");
        if has_cpuset(&self.read(Which::Cpuset, &file)?) {
            return Ok(());
        }
        // The mark first: whoever finds it, switches off.
        self.make(Which::Cpuset, &self.below(WAS_OFF))?;
        self.write(Which::Cpuset, &file, "+cpuset")
    }

    pub(super) fn settle_v2(&mut self) -> Result<(), CpusetError> {
        let held = self.held_cpus();
        if held.is_empty() {
            return self.dissolve_v2();
        }
        self.enable()?;
        for group in self.partitions() {
            if !held.iter().any(|cpu| group == self.core_group(cpu)) {
                self.dissolve_partition(&group)?;
            }
        }
        for cpu in held.iter() {
            self.partition(cpu)?;
        }
        for hold in self.holds.values().filter(|hold| self.lives(hold)) {
            self.move_in(hold)?;
        }
        self.move_out_children()
    }

    fn partition(&self, cpu: u32) -> Result<(), CpusetError> {
        let group = self.core_group(cpu);
        self.make(Which::Cpuset, &group)?;
        let kind = join(&group, "cgroup.type");
        if self.read(Which::Cpuset, &kind)?.trim() == "domain" {
            match self.tree.write(Which::Cpuset, &kind, "threaded") {
                // The kernel allows no threads here: the whole process will move.
                Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => {}
                written => written.map_err(super::failed("write", &kind))?,
            }
        }
        self.set(Which::Cpuset, &join(&group, "cpuset.cpus"), &cpu.to_string())?;
        let file = join(&group, "cpuset.cpus.partition");
        let mut answer = self.read(Which::Cpuset, &file)?;
        for form in ["isolated", "root"] {
            if is_valid(&answer) {
                return Ok(());
            }
            // Old kernels refuse the word, others take it and say that it does not hold.
            answer = match self.tree.write(Which::Cpuset, &file, form) {
                Ok(()) => self.read(Which::Cpuset, &file)?,
                Err(error) => error.to_string(),
            };
        }
        if is_valid(&answer) {
            return Ok(());
        }
        Err(CpusetError::Partition { cpu, answer: answer.trim().to_owned() })
    }

    fn is_threaded(&self, group: &str) -> bool {
        let kind = self.tree.read(Which::Cpuset, &join(group, "cgroup.type"));
        kind.is_ok_and(|kind| kind.trim() == "threaded")
    }

    /// Whether a group is the divided one, or one for a core.
    fn is_inside(&self, group: &str) -> bool {
        group == self.base || self.is_ours(group)
    }

    fn move_in(&self, hold: &Hold) -> Result<(), CpusetError> {
        let group = self.core_group(hold.cpu);
        if self.tree.home(Which::Cpuset, hold.tid).as_deref() == Some(group.as_str()) {
            return Ok(());
        }
        if !self.is_threaded(&group) {
            return self.put(Which::Cpuset, &join(&group, "cgroup.procs"), hold.pid);
        }
        if !self.tree.home(Which::Cpuset, hold.pid).is_some_and(|home| self.is_inside(&home)) {
            self.put(Which::Cpuset, &self.below("cgroup.procs"), hold.pid)?;
        }
        self.put(Which::Cpuset, &join(&group, "cgroup.threads"), hold.tid)
    }

    /// What a held thread started began on its core.
    fn move_out_children(&self) -> Result<(), CpusetError> {
        let to = self.below("cgroup.threads");
        for group in self.partitions().iter().filter(|group| self.is_threaded(group)) {
            let there = self.tasks(Which::Cpuset, &join(group, "cgroup.threads"));
            for tid in there.into_iter().take(STRAYS_MAX) {
                if !self.is_held(tid) {
                    self.put(Which::Cpuset, &to, tid)?;
                }
            }
        }
        Ok(())
    }

    fn partitions(&self) -> Vec<String> {
        let names = self.tree.children(Which::Cpuset, &self.base).unwrap_or_default();
        names.iter().filter(|name| name.starts_with(CORE)).map(|name| self.below(name)).collect()
    }

    fn dissolve_partition(&self, group: &str) -> Result<(), CpusetError> {
        let list = if self.is_threaded(group) { "cgroup.threads" } else { "cgroup.procs" };
        self.dissolve(Which::Cpuset, group, list, &self.below(list))
    }

    fn dissolve_v2(&mut self) -> Result<(), CpusetError> {
        for group in self.partitions() {
            self.dissolve_partition(&group)?;
        }
        let to = self.below("cgroup.procs");
        self.dissolve(Which::Cpuset, &self.below(PROOF), "cgroup.procs", &to)?;
        let mark = self.below(WAS_OFF);
        if self.exists(Which::Cpuset, &mark) {
            let file = self.below("cgroup.subtree_control");
            if has_cpuset(&self.read(Which::Cpuset, &file)?) && !self.is_wanted_by_others() {
                self.write(Which::Cpuset, &file, "-cpuset")?;
            }
            self.dissolve(Which::Cpuset, &mark, "cgroup.procs", &to)?;
        }
        Ok(())
    }

    /// Whether somebody else set a cpuset since the controller was switched on.
    fn is_wanted_by_others(&self) -> bool {
        let names = self.tree.children(Which::Cpuset, &self.base).unwrap_or_default();
        let sets = |name: &String| {
            let file = self.below(&join(name, "cpuset.cpus"));
            self.tree.read(Which::Cpuset, &file).is_ok_and(|cpus| !cpus.trim().is_empty())
        };
        names.iter().any(sets)
    }

    /// Moves a process to where it came from, once none of its threads is held.
    pub(super) fn send_home_v2(&self, hold: &Hold) -> Result<(), CpusetError> {
        // Moved by somebody else meanwhile, or gone: then its place is not ours to choose.
        if !self.tree.home(Which::Cpuset, hold.pid).is_some_and(|home| self.is_inside(&home)) {
            return Ok(());
        }
        if self.holds.values().any(|other| other.pid == hold.pid) {
            let leaves = self.lives(hold) && !self.is_held(hold.tid);
            let to = self.below("cgroup.threads");
            return if leaves { self.put(Which::Cpuset, &to, hold.tid) } else { Ok(()) };
        }
        let home = if self.exists(Which::Cpuset, &hold.home) { &hold.home } else { &self.base };
        self.put(Which::Cpuset, &join(home, "cgroup.procs"), hold.pid)
    }

    pub(super) fn report_v2(&self, hold: &Hold) -> Result<HeldCore, CpusetError> {
        let group = self.core_group(hold.cpu);
        let answer = self.read(Which::Cpuset, &join(&group, "cpuset.cpus.partition"))?;
        let how = if answer.trim() == "isolated" { HeldHow::Isolated } else { HeldHow::Root };
        Ok(HeldCore {
            how,
            shared: false,
            bound_tasks: self.kernel_threads("cgroup.procs", hold.cpu),
            foreign_tasks: 0,
            whole_process: !self.is_threaded(&group),
        })
    }
}

fn has_cpuset(controllers: &str) -> bool {
    controllers.split_whitespace().any(|name| name == "cpuset")
}

/// Whether the kernel says that the partition holds: `isolated`, not `isolated invalid (why)`.
fn is_valid(answer: &str) -> bool {
    matches!(answer.trim(), "isolated" | "root")
}
