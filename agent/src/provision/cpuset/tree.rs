//! The control groups of a node as files: the border behind which the kernel or its double answers.
//!
//! Finds the hierarchy, reads and writes its files, says where a task lives. Decides nothing.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{AccessFlags, access};

use super::CpusetError;
use crate::model::capacity::CpuSet;
use crate::provision::cpu::start_time;

/// Which hierarchy a path is in. cgroup v2 has one for both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Which {
    /// The one with the cpuset controller.
    Cpuset,
    /// The one with the cpu controller.
    Cpu,
}

/// Which generation of control groups it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// cgroup v1: a hierarchy for each controller, `tasks`.
    V1,
    /// cgroup v2: one hierarchy, partitions, threaded groups.
    V2,
}

/// What is known of a task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    /// The process that it is a thread of.
    pub process: i32,
    /// Whether it is a thread of the kernel.
    pub kernel: bool,
    /// Whether the kernel binds it to its cpus for good.
    pub bound: bool,
    /// When it started, in clock ticks since boot.
    pub started: u64,
    /// The cpus that it may run on.
    pub cpus: CpuSet,
}

/// Control groups and tasks. Paths are below the mount point, without a slash in front.
pub trait Tree: Debug + Send {
    /// The text of a file.
    ///
    /// # Errors
    /// The kernel's word.
    fn read(&self, of: Which, path: &str) -> io::Result<String>;

    /// Writes a text with one call.
    ///
    /// # Errors
    /// The kernel's word.
    fn write(&self, of: Which, path: &str, text: &str) -> io::Result<()>;

    /// Makes a group.
    ///
    /// # Errors
    /// The kernel's word.
    fn make(&self, of: Which, dir: &str) -> io::Result<()>;

    /// Removes a group, which must be empty.
    ///
    /// # Errors
    /// The kernel's word.
    fn remove(&self, of: Which, dir: &str) -> io::Result<()>;

    /// The names of the groups directly below one.
    ///
    /// # Errors
    /// The kernel's word.
    fn children(&self, of: Which, dir: &str) -> io::Result<Vec<String>>;

    /// The group that a task is in. `None` for a task that is gone, or that lives in a group that
    /// is not mounted here.
    fn home(&self, of: Which, tid: i32) -> Option<String>;

    /// What a task is, while it lives.
    fn task(&self, tid: i32) -> Option<Task>;
}

/// The kernel's own tree.
#[derive(Debug)]
pub struct Kernel {
    cpuset: Mount,
    cpu: Option<Mount>,
    /// Held as long as this agent divides the cores: a second one must not.
    _lock: Flock<File>,
}

/// One mounted hierarchy.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Mount {
    form: Form,
    /// The group that is mounted.
    root: String,
    point: PathBuf,
    controllers: Vec<String>,
}

impl Kernel {
    /// Finds the hierarchy that holds `root`, or else the node's, and locks it. Returns with it the
    /// group's path in it, and its form.
    ///
    /// # Errors
    /// There is none, or another agent holds it.
    pub fn open(root: Option<&Path>) -> Result<(Self, String, Form), CpusetError> {
        let mounts = mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
        let cpuset = with_cpuset(&mounts, root).ok_or(CpusetError::Missing)?;
        let root = root.unwrap_or(&cpuset.point);
        let base = root.strip_prefix(&cpuset.point).unwrap_or_else(|_| Path::new(""));
        let base = base.to_string_lossy().into_owned();
        let failed = |what| {
            let path = root.display().to_string();
            move |source| CpusetError::File { what, path, source }
        };
        let lock = File::open(root).map_err(failed("open"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| CpusetError::Taken { path: root.display().to_string() })?;
        let cpu = match cpuset.form {
            Form::V2 => None,
            // Where both controllers are one hierarchy, a group cannot be in one of them alone.
            Form::V1 => mounts
                .iter()
                .filter(|mount| mount.point != cpuset.point)
                .find(|mount| mount.controllers.iter().any(|name| name == "cpu")),
        };
        let (cpuset, cpu) = (cpuset.clone(), cpu.cloned());
        let form = cpuset.form;
        Ok((Self { cpuset, cpu, _lock: lock }, base, form))
    }

    fn at(&self, of: Which, path: &str) -> io::Result<PathBuf> {
        match of {
            Which::Cpuset => Ok(self.cpuset.point.join(path)),
            Which::Cpu if self.cpuset.form == Form::V2 => Ok(self.cpuset.point.join(path)),
            Which::Cpu => {
                let mount = self.cpu.as_ref().ok_or(io::ErrorKind::NotFound)?;
                Ok(mount.point.join(path))
            }
        }
    }
}

impl Tree for Kernel {
    fn read(&self, of: Which, path: &str) -> io::Result<String> {
        fs::read_to_string(self.at(of, path)?)
    }

    fn write(&self, of: Which, path: &str, text: &str) -> io::Result<()> {
        // Never creates: a file that is not there is a feature that is not there.
        OpenOptions::new().write(true).open(self.at(of, path)?)?.write_all(text.as_bytes())
    }

    fn make(&self, of: Which, dir: &str) -> io::Result<()> {
        fs::create_dir(self.at(of, dir)?)
    }

    fn remove(&self, of: Which, dir: &str) -> io::Result<()> {
        fs::remove_dir(self.at(of, dir)?)
    }

    fn children(&self, of: Which, dir: &str) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(self.at(of, dir)?)?.flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        Ok(dirs.filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    fn home(&self, of: Which, tid: i32) -> Option<String> {
        let text = fs::read_to_string(format!("/proc/{tid}/cgroup")).ok()?;
        let mount = match of {
            Which::Cpu if self.cpuset.form == Form::V1 => self.cpu.as_ref()?,
            _ => &self.cpuset,
        };
        let name = match (mount.form, of) {
            (Form::V2, _) => "",
            (Form::V1, Which::Cpuset) => "cpuset",
            (Form::V1, Which::Cpu) => "cpu",
        };
        group_of(&text, name, &mount.root)
    }

    fn task(&self, tid: i32) -> Option<Task> {
        let stat = fs::read_to_string(format!("/proc/{tid}/stat")).ok()?;
        // The command name may contain spaces and parentheses; the last ')' ends it.
        let flags: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(6)?.parse().ok()?;
        let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        Some(Task {
            process: field("Tgid:")?.parse().ok()?,
            kernel: flags & PF_KTHREAD != 0,
            bound: flags & PF_NO_SETAFFINITY != 0,
            started: start_time(tid)?,
            cpus: field("Cpus_allowed_list:")?.parse().ok()?,
        })
    }
}

/// The mounted hierarchy with the cpuset controller that holds `root`, or else the node's.
fn with_cpuset<'a>(mounts: &'a [Mount], root: Option<&Path>) -> Option<&'a Mount> {
    let has = |mount: &&Mount| match mount.form {
        Form::V1 => mount.controllers.iter().any(|name| name == "cpuset"),
        Form::V2 => fs::read_to_string(mount.point.join("cgroup.controllers"))
            .is_ok_and(|names| names.split_whitespace().any(|name| name == "cpuset")),
    };
    let holds = |mount: &&Mount| root.is_none_or(|root| root.starts_with(&mount.point));
    // The old form first: where it is mounted, it has the controller.
    let order = |mount: &&Mount| (mount.form == Form::V2, mount.point.as_os_str().len());
    mounts.iter().filter(has).filter(holds).min_by_key(order)
}

/// Where the node's cpusets are, and whether this process may make some.
///
/// # Errors
/// There are none, or they may not be changed.
pub fn describe() -> Result<String, CpusetError> {
    let mounts = mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
    let mount = with_cpuset(&mounts, None).ok_or(CpusetError::Missing)?;
    let path = mount.point.display().to_string();
    match access(&mount.point, AccessFlags::W_OK) {
        Ok(()) => {
            Ok(format!("cgroup {} at {path}", if mount.form == Form::V1 { "v1" } else { "v2" }))
        }
        Err(errno) => Err(CpusetError::File { what: "change", path, source: errno.into() }),
    }
}

/// A thread of the kernel: `PF_KTHREAD` of `include/linux/sched.h`, in the ninth field of `stat`.
const PF_KTHREAD: u64 = 0x0020_0000;
/// Its cpus may not be changed: `PF_NO_SETAFFINITY`.
const PF_NO_SETAFFINITY: u64 = 0x0400_0000;

/// Every mounted hierarchy of control groups, from the text of `mountinfo`.
fn mounts(mountinfo: &str) -> Vec<Mount> {
    let line = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, point) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let form = match after.next()? {
            "cgroup" => Form::V1,
            "cgroup2" => Form::V2,
            _ => return None,
        };
        let controllers = after.nth(1)?.split(',').map(ToOwned::to_owned).collect();
        Some(Mount { form, root: root.to_owned(), point: PathBuf::from(point), controllers })
    };
    mountinfo.lines().filter_map(line).collect()
}

/// A task's group in the hierarchy of a controller ("" for cgroup v2), below the mounted `root`.
fn group_of(cgroup: &str, controller: &str, root: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| {
        let (names, path) = line.split_once(':')?.1.split_once(':')?;
        names.split(',').any(|name| name == controller).then_some(path)
    })?;
    let below = match root {
        "/" => path,
        root => path.strip_prefix(root).filter(|rest| rest.is_empty() || rest.starts_with('/'))?,
    };
    let below = below.trim_start_matches('/');
    // Outside of what this namespace can name.
    (!below.split('/').any(|part| part == "..")).then(|| below.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_in_both_forms() {
        let text = "24 1 0:22 / /proc rw - proc proc rw\n\
            34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n\
            33 31 0:30 /docker/a /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw\n";
        let found = mounts(text);
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].form, found[1].form, found[2].form), (Form::V1, Form::V1, Form::V2));
        assert_eq!(found[1].root, "/docker/a");
        assert!(found[1].controllers.contains(&"cpu".to_owned()));
    }

    #[test]
    fn a_task_is_found_below_the_mounted_group_and_not_outside_of_it() {
        let text = "9:name=systemd:/x\n3:cpuset,cpu:/docker/a/b\n0::/user.slice/s 1\n";
        assert_eq!(group_of(text, "cpuset", "/").as_deref(), Some("docker/a/b"));
        assert_eq!(group_of(text, "cpuset", "/docker/a").as_deref(), Some("b"));
        assert_eq!(group_of(text, "cpuset", "/docker/a/b").as_deref(), Some(""));
        assert_eq!(group_of(text, "cpuset", "/dock"), None);
        assert_eq!(group_of(text, "", "/").as_deref(), Some("user.slice/s 1"));
        assert_eq!(group_of("0::/../../up\n", "", "/"), None);
        assert_eq!(group_of("0::/\n", "", "/").as_deref(), Some(""));
    }
}
