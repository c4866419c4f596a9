//! cgroup v1: one cpuset for each held core, one for everything else, and a group of the cpu
//! controller for everything else where it shares a core with a lane.

use super::tree::Which;
use super::{Cores, CpusetError, PASSES, STRAYS_MAX, join};
use crate::model::capacity::CpuSet;
use crate::model::lane::{HeldCore, HeldHow};
use crate::plan::Hold;

/// Everything else, in both hierarchies.
const OTHERS: &str = "laneway-others";
const CORE: &str = "laneway-cpu";
const PROOF: &str = "laneway-proof";
/// The first process: a node whose init starves cannot be helped.
const INIT: i32 = 1;
/// Groups of other people's that are looked through for tasks that reach a core.
const FOREIGN_GROUPS_MAX: usize = 1000;

impl Cores {
    /// Makes and removes a group in each hierarchy that will be needed.
    pub(super) fn prove_v1(&self) -> Result<(), CpusetError> {
        let proof = self.below(PROOF);
        self.make(Which::Cpuset, &proof)?;
        self.dissolve(Which::Cpuset, &proof, "tasks", &self.below("tasks"))?;
        if !self.share {
            return Ok(());
        }
        let no_sharing = |error: CpusetError| CpusetError::NoSharing { found: error.to_string() };
        self.make(Which::Cpu, &proof).map_err(no_sharing)?;
        self.dissolve(Which::Cpu, &proof, "tasks", &self.below("tasks"))
    }

    pub(super) fn settle_v1(&mut self) -> Result<(), CpusetError> {
        let held = self.held_cpus();
        if held.is_empty() {
            return self.dissolve_v1();
        }
        let alone = held.difference(&self.shared());
        // Others leave the cores before their new owners come.
        let left = self.all.difference(&alone);
        // Empty only after a change of the configuration: they keep what it says.
        let left = if left.is_empty() { &self.others } else { &left };
        self.cpuset(&self.below(OTHERS), left)?;
        let others = self.below(&join(OTHERS, "tasks"));
        for cpu in held.iter() {
            let only = CpuSet::from_ids([cpu]).unwrap_or_default();
            self.cpuset(&self.core_group(cpu), &only)?;
        }
        for hold in self.holds.values().filter(|hold| self.lives(hold)) {
            let group = self.core_group(hold.cpu);
            if self.tree.home(Which::Cpuset, hold.tid).as_deref() != Some(group.as_str()) {
                self.put(Which::Cpuset, &join(&group, "tasks"), hold.tid)?;
            }
        }
        for group in self.core_groups() {
            let is_held = held.iter().any(|cpu| group == self.core_group(cpu));
            let list = join(&group, "tasks");
            if !is_held {
                self.dissolve(Which::Cpuset, &group, "tasks", &others)?;
                continue;
            }
            // What a held thread started began where the thread is.
            for tid in self.tasks(Which::Cpuset, &list).into_iter().take(STRAYS_MAX) {
                if !self.is_held(tid) {
                    self.put(Which::Cpuset, &others, tid)?;
                }
            }
        }
        self.sweep()?;
        self.weigh(&held)
    }

    /// Makes a cpuset with these cpus and the memory of the group above.
    fn cpuset(&self, dir: &str, cpus: &CpuSet) -> Result<(), CpusetError> {
        self.make(Which::Cpuset, dir)?;
        let memory = self.read(Which::Cpuset, &self.below("cpuset.mems"))?;
        self.set(Which::Cpuset, &join(dir, "cpuset.mems"), memory.trim())?;
        self.set(Which::Cpuset, &join(dir, "cpuset.cpus"), &cpus.to_string())
    }

    /// Moves everything that can be moved from the divided group to the others.
    fn sweep(&mut self) -> Result<(), CpusetError> {
        let (from, to) = (self.below("tasks"), self.below(&join(OTHERS, "tasks")));
        for _ in 0..PASSES {
            let mut moved = false;
            let found = self.tasks(Which::Cpuset, &from);
            for tid in found.iter().filter(|tid| !self.stay.contains(tid)).collect::<Vec<_>>() {
                match self.tree.task(*tid) {
                    None => {}
                    Some(task) if task.bound => _ = self.stay.insert(*tid),
                    Some(task) => match self.put(Which::Cpuset, &to, *tid) {
                        Ok(()) => moved = true,
                        // The father of the kernel's threads is bound without saying so.
                        Err(_) if task.kernel => _ = self.stay.insert(*tid),
                        // Counted as foreign: a deadline task has its cpus by contract.
                        Err(error) if is_the_tasks_own(&error) => {}
                        Err(error) => return Err(error),
                    },
                }
            }
            if !moved {
                break;
            }
        }
        Ok(())
    }

    /// Gives everything else next to no weight where it shares a core with a lane; its usual weight
    /// where it does not.
    fn weigh(&mut self, held: &CpuSet) -> Result<(), CpusetError> {
        let group = self.below(OTHERS);
        if held.intersection(&self.shared()).is_empty() {
            return self.dissolve(Which::Cpu, &group, "tasks", &self.below("tasks"));
        }
        self.make(Which::Cpu, &group)?;
        let idle = join(&group, "cpu.idle");
        if self.tree.read(Which::Cpu, &idle).is_ok() {
            self.set(Which::Cpu, &idle, "1")?;
        } else {
            self.set(Which::Cpu, &join(&group, "cpu.shares"), "2")?;
        }
        let (from, to) = (self.below("tasks"), join(&group, "tasks"));
        for tid in self.tasks(Which::Cpu, &from) {
            if self.keeps_its_weight(tid) {
                continue;
            }
            match self.put(Which::Cpu, &to, tid) {
                // A real-time task has no weight to lose. It is counted as foreign.
                Err(error) if is_the_tasks_own(&error) => {}
                put => put?,
            }
        }
        // A thread that is held now may have been one of the others before.
        for tid in self.tasks(Which::Cpu, &to) {
            if self.is_held(tid) {
                self.put(Which::Cpu, &from, tid)?;
            }
        }
        Ok(())
    }

    /// The kernel's threads, init and the agent keep their weight: the node must stay usable.
    fn keeps_its_weight(&mut self, tid: i32) -> bool {
        if tid == INIT || self.is_held(tid) || self.stay.contains(&tid) {
            return true;
        }
        let Some(task) = self.tree.task(tid) else { return true };
        if task.kernel {
            self.stay.insert(tid);
        }
        task.kernel || task.process == INIT || task.process == self.agent
    }

    fn core_groups(&self) -> Vec<String> {
        let names = self.tree.children(Which::Cpuset, &self.base).unwrap_or_default();
        names.iter().filter(|name| name.starts_with(CORE)).map(|name| self.below(name)).collect()
    }

    fn dissolve_v1(&mut self) -> Result<(), CpusetError> {
        self.stay.clear();
        let to = self.below("tasks");
        let mut groups = self.core_groups();
        groups.extend([self.below(OTHERS), self.below(PROOF)]);
        let cpusets = groups.into_iter().map(|group| (Which::Cpuset, group));
        let weights = [self.below(OTHERS), self.below(PROOF)].map(|group| (Which::Cpu, group));
        // Each is tried, also where another one cannot go.
        let gone: Vec<_> = cpusets
            .chain(weights)
            .map(|(of, group)| self.dissolve(of, &group, "tasks", &to))
            .collect();
        gone.into_iter().collect()
    }

    /// Moves a thread to where it came from; where that is gone, to the divided group.
    pub(super) fn send_home_v1(&self, hold: &Hold) -> Result<(), CpusetError> {
        // A thread with two ends stays until it has none.
        if !self.lives(hold) || self.is_held(hold.tid) {
            return Ok(());
        }
        let home = if self.exists(Which::Cpuset, &hold.home) { &hold.home } else { &self.base };
        self.put(Which::Cpuset, &join(home, "tasks"), hold.tid)
    }

    pub(super) fn report_v1(&self, hold: &Hold) -> Result<HeldCore, CpusetError> {
        let shared = self.shared().contains(hold.cpu);
        let mut foreign = self.foreign_tasks(hold.cpu);
        if shared {
            foreign += self.weighty_others();
        }
        Ok(HeldCore {
            how: HeldHow::V1,
            shared,
            bound_tasks: self.kernel_threads("tasks", hold.cpu),
            foreign_tasks: foreign,
            whole_process: false,
        })
    }

    /// Tasks of programs in other people's cpusets that have this cpu.
    fn foreign_tasks(&self, cpu: u32) -> u64 {
        let (mut count, mut groups, mut looked) = (0, vec![String::new()], 0);
        while let Some(group) = groups.pop() {
            looked += 1;
            if looked > FOREIGN_GROUPS_MAX {
                break;
            }
            if self.is_ours(&group) {
                continue;
            }
            let names = self.tree.children(Which::Cpuset, &group).unwrap_or_default();
            groups.extend(names.iter().map(|name| join(&group, name)));
            let tasks = self.tasks(Which::Cpuset, &join(&group, "tasks"));
            let runs = |tid: &&i32| {
                let task = self.tree.task(**tid);
                task.is_some_and(|task| !task.kernel && task.cpus.contains(cpu))
            };
            count += tasks.iter().filter(runs).count() as u64;
        }
        count
    }

    /// Tasks of programs among the others that keep their weight: somebody else put them into a
    /// group of the cpu controller, or they run by real-time rules.
    fn weighty_others(&self) -> u64 {
        let (list, weighed) = (self.below(&join(OTHERS, "tasks")), self.below(OTHERS));
        let weighty = |tid: &&i32| {
            let spared = |process| process == INIT || process == self.agent;
            let task = self.tree.task(**tid);
            task.is_some_and(|task| !task.kernel && !spared(task.process))
                && self.tree.home(Which::Cpu, **tid).is_some_and(|home| home != weighed)
        };
        self.tasks(Which::Cpuset, &list).iter().filter(weighty).count() as u64
    }
}

/// Whether the kernel refused to move this task, and would move others.
fn is_the_tasks_own(error: &CpusetError) -> bool {
    let CpusetError::File { source, .. } = error else { return false };
    matches!(source.raw_os_error(), Some(nix::libc::EINVAL | nix::libc::EBUSY))
}
