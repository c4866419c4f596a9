//! Where the noise is made: a cpuset of its own, so that nobody else on the node is moved, weighed
//! or measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const CPUSET: &str = "/sys/fs/cgroup/cpuset";
const CPU: &str = "/sys/fs/cgroup/cpu";
const V2: &str = "/sys/fs/cgroup/cgroup.controllers";
/// A group that was left is looked at this often until the kernel has let go of it.
const TRIES: u32 = 200;

/// This process and everything that it starts live in it. Left and removed when dropped.
#[derive(Debug)]
pub(crate) struct Corner {
    /// The group in each hierarchy, with the one that this process came from.
    groups: Vec<(PathBuf, PathBuf)>,
}

/// How the agent is to hold cores.
#[derive(Debug)]
pub(crate) struct Quarters {
    /// Kept until the end; on cgroup v2 the partitions alone do it.
    _corner: Option<Corner>,
    /// The agent's configuration.
    pub(crate) config: String,
    /// The cpus of everything else.
    pub(crate) others: String,
    /// Whether a lane's end shares one of them.
    pub(crate) shared: bool,
}

impl Quarters {
    /// Prepares the node for lanes on `cpus`, of those that are `allowed`.
    ///
    /// # Errors
    /// Why cores cannot be held here.
    pub(crate) fn prepare(cpus: (u32, u32), allowed: &[u32]) -> Result<Self, String> {
        let free = allowed.iter().filter(|cpu| **cpu != cpus.0 && **cpu != cpus.1);
        let free: Vec<String> = free.map(ToString::to_string).collect();
        // With two cpus in all, everything else gets the second one, and next to no weight.
        let shared = free.is_empty();
        let others = if shared { cpus.1.to_string() } else { free.join(",") };
        let mut config = format!(
            "version = 1\n[cpuset]\nenabled = true\nothers = \"{others}\"\n\
             share_others = {shared}\n"
        );
        if Path::new(V2).exists() {
            if shared {
                return Err("cgroup v2 cannot share a core, and there are two in all".to_owned());
            }
            return Ok(Self { _corner: None, config, others, shared });
        }
        let corner = Corner::enter().map_err(|error| format!("no cpuset of our own: {error}"))?;
        let root = corner.groups.first().map(|(group, _)| group.display().to_string());
        config += &format!("root = {:?}\n", root.unwrap_or_default());
        Ok(Self { _corner: Some(corner), config, others, shared })
    }
}

impl Corner {
    fn enter() -> std::io::Result<Self> {
        let pid = std::process::id();
        let cgroup = fs::read_to_string("/proc/self/cgroup")?;
        let mut corner = Self { groups: Vec::new() };
        for (root, controller) in [(CPUSET, "cpuset"), (CPU, "cpu")] {
            let path = cgroup.lines().find_map(|line| {
                let (names, path) = line.split_once(':')?.1.split_once(':')?;
                names.split(',').any(|name| name == controller).then_some(path)
            });
            let path = path.ok_or(std::io::ErrorKind::NotFound)?.trim_start_matches('/');
            let home = Path::new(root).join(path);
            let group = home.join(format!("laneway-noise-{pid}"));
            fs::create_dir(&group)?;
            corner.groups.push((group.clone(), home.clone()));
            if controller == "cpuset" {
                for file in ["cpuset.mems", "cpuset.cpus"] {
                    fs::write(group.join(file), fs::read_to_string(home.join(file))?.trim())?;
                }
            }
        }
        // Only now: an error before this leaves the process where it was.
        for (group, _) in &corner.groups {
            fs::write(group.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(corner)
    }
}

impl Drop for Corner {
    fn drop(&mut self) {
        for (group, home) in &self.groups {
            empty(group, &home.join("cgroup.procs"));
        }
    }
}

/// Sends whoever is left where this process came from, and removes the group and those below it.
fn empty(group: &Path, to: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            empty(&entry.path(), to);
        }
    }
    for _ in 0..TRIES {
        for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
            // One that ended needs no place.
            let _ = fs::write(to, pid);
        }
        if fs::remove_dir(group).is_ok() || !group.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
