//! A double of the kernel's control groups, of both forms, that dies when told to.
//!
//! Keeps the rules that matter to who runs where: what may move, what may be written, which cpus
//! are left, when a partition holds, when a group can go. The errors are the kernel's.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;

use super::join;
use super::tree::{Form, Task, Tree, Which};
use crate::model::capacity::CpuSet;

/// A task of the double.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FakeTask {
    /// Its process.
    pub process: i32,
    /// Whether it is a thread of the kernel.
    pub kernel: bool,
    /// Whether it is bound to this cpu for good.
    pub bound_to: Option<u32>,
    homes: [String; 2],
}

/// What the double holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    form: Form,
    groups: BTreeMap<(Which, String), BTreeMap<String, String>>,
    /// Its tasks by number.
    pub tasks: BTreeMap<i32, FakeTask>,
    immovable: BTreeSet<i32>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    changes_left: Option<u64>,
    threads_allowed: bool,
}

/// The double. Clones share one state.
#[derive(Clone, Debug)]
pub struct FakeTree {
    inner: Arc<Mutex<Inner>>,
}

impl FakeTree {
    /// A machine with these cpus and no tasks.
    #[must_use]
    pub fn new(form: Form, cpus: &str) -> Self {
        let files = |names: &[(&str, &str)]| -> BTreeMap<String, String> {
            names.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        let mut groups = BTreeMap::new();
        let root = |which| (which, String::new());
        if form == Form::V1 {
            let cpuset = files(&[("cpuset.cpus", cpus), ("cpuset.mems", "0")]);
            groups.insert(root(Which::Cpuset), cpuset);
            groups.insert(root(Which::Cpu), files(&[("cpu.shares", "1024")]));
        } else {
            let cpuset = files(&[("cgroup.subtree_control", ""), ("cpus", cpus)]);
            groups.insert(root(Which::Cpuset), cpuset);
        }
        let state = State { form, groups, tasks: BTreeMap::new(), immovable: BTreeSet::new() };
        let inner = Inner { state, changes_left: None, threads_allowed: true };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Inner) -> T) -> T {
        look(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a thread of a process in a group of both hierarchies.
    pub fn add(&self, tid: i32, process: i32, group: &str) {
        let homes = [group.to_owned(), group.to_owned()];
        let task = FakeTask { process, kernel: false, bound_to: None, homes };
        self.with(|inner| inner.state.tasks.insert(tid, task));
    }

    /// Adds a thread of the kernel, bound to a cpu or not.
    pub fn add_kernel(&self, tid: i32, bound_to: Option<u32>) {
        let task = FakeTask { process: tid, kernel: true, bound_to, homes: Default::default() };
        self.with(|inner| inner.state.tasks.insert(tid, task));
    }

    /// From now on the kernel refuses to move a task, as one with real-time rules.
    pub fn refuse_to_move(&self, tid: i32) {
        self.with(|inner| inner.state.immovable.insert(tid));
    }

    /// A task starts another one, where it is itself.
    pub fn fork(&self, parent: i32, tid: i32, process: i32) {
        self.with(|inner| {
            if let Some(task) = inner.state.tasks.get(&parent).cloned() {
                inner.state.tasks.insert(tid, FakeTask { process, ..task });
            }
        });
    }

    /// A task ends.
    pub fn end(&self, tid: i32) {
        self.with(|inner| inner.state.tasks.remove(&tid));
    }

    /// Whoever changes the tree dies after so many changes; `None` for never.
    pub fn die_after(&self, changes: Option<u64>) {
        self.with(|inner| inner.changes_left = changes);
    }

    /// Whether groups may hold single threads.
    pub fn allow_threads(&self, allowed: bool) {
        self.with(|inner| inner.threads_allowed = allowed);
    }

    /// Everything, to be compared.
    #[must_use]
    pub fn state(&self) -> State {
        self.with(|inner| inner.state.clone())
    }

    /// The tasks that may run on a cpu and are not bound to it.
    #[must_use]
    pub fn may_run_on(&self, cpu: u32) -> Vec<i32> {
        self.with(|inner| {
            let state = &inner.state;
            let free = state.tasks.iter().filter(|(_, task)| task.bound_to.is_none());
            let there = free.filter(|(_, task)| state.cpus(task).contains(cpu));
            there.map(|(tid, _)| *tid).collect()
        })
    }

    /// The group of a task.
    #[must_use]
    pub fn group(&self, of: Which, tid: i32) -> Option<String> {
        self.home(of, tid)
    }

    fn change(&self, change: impl FnOnce(&mut State, bool) -> io::Result<()>) -> io::Result<()> {
        self.with(|inner| {
            match &mut inner.changes_left {
                Some(0) => return Err(io::Error::other("whoever did this is dead")),
                Some(left) => *left -= 1,
                None => {}
            }
            change(&mut inner.state, inner.threads_allowed)
        })
    }
}

fn refused(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno as i32)
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn set(text: &str) -> CpuSet {
    text.trim().parse().unwrap_or_default()
}

impl State {
    fn file(&self, of: Which, group: &str, name: &str) -> Option<&str> {
        let files = self.groups.get(&(of, group.to_owned()))?;
        files.get(name).map(String::as_str)
    }

    fn has_children(&self, of: Which, group: &str) -> bool {
        self.children(of, group).next().is_some()
    }

    fn children(&self, of: Which, group: &str) -> impl Iterator<Item = &str> {
        let paths = self.groups.keys().filter(move |(which, _)| *which == of);
        let paths = paths.map(|(_, path)| path.as_str());
        paths.filter(move |path| !path.is_empty() && parent(path) == group)
    }

    /// Whether the cpuset controller is on in a group.
    fn is_on(&self, group: &str) -> bool {
        let control = self.file(Which::Cpuset, parent(group), "cgroup.subtree_control");
        group.is_empty() || control.is_some_and(|on| on.contains("cpuset"))
    }

    /// The nearest group above that is no threaded one.
    fn domain<'a>(&self, mut group: &'a str) -> &'a str {
        while self.file(Which::Cpuset, group, "cgroup.type") == Some("threaded") {
            group = parent(group);
        }
        group
    }

    fn own(&self, group: &str) -> CpuSet {
        set(self.file(Which::Cpuset, group, "cpuset.cpus").unwrap_or_default())
    }

    fn all(&self) -> CpuSet {
        set(self.file(Which::Cpuset, "", "cpus").unwrap_or_default())
    }

    /// What the kernel says of a partition.
    fn partition(&self, group: &str) -> String {
        let asked = self.file(Which::Cpuset, group, "cpuset.cpus.partition").unwrap_or("member");
        let invalid = |why: &str| format!("{asked} invalid ({why})");
        if asked == "member" || !self.is_on(group) {
            return "member".to_owned();
        }
        let own = self.own(group);
        let siblings = self.children(Which::Cpuset, parent(group)).filter(|other| *other != group);
        let mut taken = own.clone();
        for sibling in siblings {
            let cpus = self.own(sibling);
            if !cpus.intersection(&own).is_empty() {
                return invalid("Cpu list in cpuset.cpus not exclusive");
            }
            if self.file(Which::Cpuset, sibling, "cpuset.cpus.partition") != Some("member") {
                taken = CpuSet::from_ids(taken.iter().chain(cpus.iter())).unwrap_or_default();
            }
        }
        if !parent(group).is_empty() {
            return invalid("Parent is not a partition root");
        }
        if own.is_empty() || !own.difference(&self.all()).is_empty() {
            return invalid("Invalid cpu list in cpuset.cpus");
        }
        if self.all().difference(&taken).is_empty() {
            return invalid("Parent unable to distribute cpu downstream");
        }
        asked.to_owned()
    }

    fn holds(&self, group: &str) -> bool {
        matches!(self.partition(group).as_str(), "isolated" | "root")
    }

    fn effective(&self, group: &str) -> CpuSet {
        if group.is_empty() {
            let taken = self.children(Which::Cpuset, "").filter(|child| self.holds(child));
            return taken.fold(self.all(), |left, child| left.difference(&self.own(child)));
        }
        let above = self.effective(parent(group));
        let own = self.own(group);
        match () {
            () if self.is_on(group) && self.holds(group) => own,
            () if self.is_on(group) && !own.intersection(&above).is_empty() => {
                own.intersection(&above)
            }
            () => above,
        }
    }

    fn cpus(&self, task: &FakeTask) -> CpuSet {
        if let Some(cpu) = task.bound_to {
            return CpuSet::from_ids([cpu]).unwrap_or_default();
        }
        match self.form {
            Form::V1 => self.own(&task.homes[0]),
            Form::V2 => self.effective(&task.homes[0]),
        }
    }

    fn list(&self, of: Which, group: &str, file: &str) -> String {
        let index = usize::from(of == Which::Cpu);
        let here = |task: &FakeTask| match file {
            "cgroup.procs" => self.domain(&task.homes[index]) == group,
            _ => task.homes[index] == group,
        };
        let there = self.tasks.iter().filter(|(_, task)| here(task));
        let numbers =
            there.map(|(tid, task)| if file == "cgroup.procs" { task.process } else { *tid });
        let numbers: BTreeSet<i32> = numbers.collect();
        numbers.iter().map(|number| format!("{number}\n")).collect()
    }

    fn read(&self, of: Which, path: &str) -> io::Result<String> {
        let (group, name) = split(path);
        let missing = || refused(Errno::ENOENT);
        let files = self.groups.get(&(of, group.to_owned())).ok_or_else(missing)?;
        if name.starts_with("cpuset.") && self.form == Form::V2 && !self.is_on(group) {
            return Err(missing());
        }
        Ok(match name {
            "tasks" if self.form == Form::V1 => self.list(of, group, name),
            "cgroup.threads" if self.form == Form::V2 => self.list(of, group, name),
            "cgroup.procs" if self.form == Form::V2 && self.domain(group) != group => {
                return Err(refused(Errno::EOPNOTSUPP));
            }
            "cgroup.procs" if self.form == Form::V2 => self.list(of, group, name),
            "cpuset.cpus.effective" if self.form == Form::V2 => self.effective(group).to_string(),
            "cpuset.cpus.partition" => self.partition(group),
            _ => files.get(name).ok_or_else(missing)?.clone(),
        })
    }

    fn write(&mut self, of: Which, path: &str, text: &str, threads: bool) -> io::Result<()> {
        let (group, name) = split(path);
        let key = (of, group.to_owned());
        if !self.groups.contains_key(&key) {
            return Err(refused(Errno::ENOENT));
        }
        let mut value = text.to_owned();
        match (self.form, name) {
            (Form::V1, "tasks") => return self.move_v1(of, group, text),
            (Form::V2, "cgroup.procs" | "cgroup.threads") => {
                return self.move_v2(group, name == "cgroup.threads", text);
            }
            (Form::V1, "cpuset.cpus") => {
                if !set(text).difference(&self.own(parent(group))).is_empty() {
                    return Err(refused(Errno::EACCES));
                }
                let outside = |child: &str| !self.own(child).difference(&set(text)).is_empty();
                if self.children(of, group).any(outside) {
                    return Err(refused(Errno::EBUSY));
                }
            }
            (Form::V2, "cgroup.type") if !threads => return Err(refused(Errno::EOPNOTSUPP)),
            (Form::V2, "cgroup.subtree_control") => {
                let on = text == "+cpuset";
                value = if on { "cpuset".to_owned() } else { String::new() };
                let children: Vec<String> =
                    self.children(of, group).map(ToOwned::to_owned).collect();
                for child in children.into_iter().filter(|_| !on) {
                    // What a controller knew is gone when it is switched off.
                    if let Some(files) = self.groups.get_mut(&(of, child)) {
                        files.insert("cpuset.cpus".to_owned(), String::new());
                        files.insert("cpuset.cpus.partition".to_owned(), "member".to_owned());
                    }
                }
            }
            _ => {}
        }
        if name.starts_with("cpuset.") && self.form == Form::V2 && !self.is_on(group) {
            return Err(refused(Errno::ENOENT));
        }
        let files = self.groups.get_mut(&key).ok_or_else(|| refused(Errno::ENOENT))?;
        let file = files.get_mut(name).ok_or_else(|| refused(Errno::ENOENT))?;
        *file = value;
        Ok(())
    }

    fn move_v1(&mut self, of: Which, group: &str, text: &str) -> io::Result<()> {
        let tid: i32 = text.parse().map_err(|_| refused(Errno::EINVAL))?;
        let no_room = of == Which::Cpuset
            && (self.own(group).is_empty() || self.file(of, group, "cpuset.mems") == Some(""));
        let task = self.tasks.get_mut(&tid).ok_or_else(|| refused(Errno::ESRCH))?;
        // The kernel's thread 2, which makes all others, never moves.
        let immovable = self.immovable.contains(&tid);
        if immovable || task.bound_to.is_some() || (task.kernel && tid == 2) {
            return Err(refused(Errno::EINVAL));
        }
        if no_room {
            return Err(refused(Errno::ENOSPC));
        }
        task.homes[usize::from(of == Which::Cpu)] = group.to_owned();
        Ok(())
    }

    fn move_v2(&mut self, group: &str, thread: bool, text: &str) -> io::Result<()> {
        let number: i32 = text.parse().map_err(|_| refused(Errno::EINVAL))?;
        let task = self.tasks.get(&number).ok_or_else(|| refused(Errno::ESRCH))?;
        if task.bound_to.is_some() {
            return Err(refused(Errno::EINVAL));
        }
        let process = task.process;
        let leader = self.tasks.get(&process).map_or("", |leader| leader.homes[0].as_str());
        let is_domain = self.domain(group) == group;
        if thread && self.domain(leader) != self.domain(group) || !thread && !is_domain {
            return Err(refused(Errno::EOPNOTSUPP));
        }
        let control = self.file(Which::Cpuset, group, "cgroup.subtree_control");
        if !group.is_empty() && is_domain && control.is_some_and(|on| !on.is_empty()) {
            return Err(refused(Errno::EBUSY));
        }
        let moves = |(tid, task): &(&i32, &mut FakeTask)| {
            if thread { **tid == number } else { task.process == process }
        };
        for (_, task) in self.tasks.iter_mut().filter(moves) {
            task.homes = [group.to_owned(), group.to_owned()];
        }
        Ok(())
    }

    fn make(&mut self, of: Which, dir: &str) -> io::Result<()> {
        let key = (of, dir.to_owned());
        if !self.groups.contains_key(&(of, parent(dir).to_owned())) {
            return Err(refused(Errno::ENOENT));
        }
        if self.groups.contains_key(&key) {
            return Err(refused(Errno::EEXIST));
        }
        let names: &[(&str, &str)] = match (self.form, of) {
            (Form::V1, Which::Cpuset) => &[("cpuset.cpus", ""), ("cpuset.mems", "")],
            (Form::V1, Which::Cpu) => &[("cpu.shares", "1024"), ("cpu.idle", "0")],
            (Form::V2, _) => &[
                ("cgroup.type", "domain"),
                ("cgroup.subtree_control", ""),
                ("cpuset.cpus", ""),
                ("cpuset.cpus.partition", "member"),
            ],
        };
        let files = names.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        self.groups.insert(key, files.collect());
        Ok(())
    }

    fn remove(&mut self, of: Which, dir: &str) -> io::Result<()> {
        let index = usize::from(of == Which::Cpu);
        let busy = self.tasks.values().any(|task| task.homes[index] == dir);
        if busy || self.has_children(of, dir) {
            return Err(refused(Errno::EBUSY));
        }
        let removed = self.groups.remove(&(of, dir.to_owned()));
        removed.map(|_| ()).ok_or_else(|| refused(Errno::ENOENT))
    }
}

impl Tree for FakeTree {
    fn read(&self, of: Which, path: &str) -> io::Result<String> {
        self.with(|inner| inner.state.read(of, path))
    }

    fn write(&self, of: Which, path: &str, text: &str) -> io::Result<()> {
        self.change(|state, threads| state.write(of, path, text, threads))
    }

    fn make(&self, of: Which, dir: &str) -> io::Result<()> {
        self.change(|state, _| state.make(of, dir))
    }

    fn remove(&self, of: Which, dir: &str) -> io::Result<()> {
        self.change(|state, _| state.remove(of, dir))
    }

    fn children(&self, of: Which, dir: &str) -> io::Result<Vec<String>> {
        self.with(|inner| {
            if !inner.state.groups.contains_key(&(of, dir.to_owned())) {
                return Err(refused(Errno::ENOENT));
            }
            let names = inner.state.children(of, dir).map(|path| split(path).1.to_owned());
            Ok(names.collect())
        })
    }

    fn home(&self, of: Which, tid: i32) -> Option<String> {
        let index = usize::from(of == Which::Cpu);
        self.with(|inner| inner.state.tasks.get(&tid).map(|task| task.homes[index].clone()))
    }

    fn task(&self, tid: i32) -> Option<Task> {
        self.with(|inner| {
            let task = inner.state.tasks.get(&tid)?;
            Some(Task {
                process: task.process,
                kernel: task.kernel,
                bound: task.bound_to.is_some(),
                started: 0,
                cpus: inner.state.cpus(task),
            })
        })
    }
}

/// A machine of four cpus with tasks of every kind: 1 init, 2 to 4 the kernel's, 10 the agent, 20
/// with threads 21 and 22, 30 alone, 40 in a group of somebody else's.
#[must_use]
pub fn machine(form: Form) -> FakeTree {
    let tree = FakeTree::new(form, "0-3");
    tree.add(1, 1, "");
    tree.add_kernel(2, None);
    tree.add_kernel(3, Some(3));
    tree.add_kernel(4, None);
    tree.add(10, 10, "");
    for tid in 20..23 {
        tree.add(tid, 20, "");
    }
    tree.add(30, 30, "");
    let made = |of, dir: &str| {
        // A double that has room for everything refuses nothing.
        let _ = tree.make(of, dir);
    };
    made(Which::Cpuset, "elsewhere");
    if form == Form::V1 {
        made(Which::Cpu, "elsewhere");
        let cpus = join("elsewhere", "cpuset.cpus");
        let _ = tree.write(Which::Cpuset, &cpus, "0");
        let _ = tree.write(Which::Cpuset, &join("elsewhere", "cpuset.mems"), "0");
    }
    tree.add(40, 40, "elsewhere");
    tree.add(41, 40, "elsewhere");
    tree
}
