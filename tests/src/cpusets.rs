//! A cpuset for a test, in both hierarchies of cgroup v1: the test and what it starts live in it,
//! and nothing outside of it is touched.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const CPUSET: &str = "/sys/fs/cgroup/cpuset";
const CPU: &str = "/sys/fs/cgroup/cpu";

/// The test's own corner of the node. Tests that use it take their [`turn`](crate::turn).
#[derive(Debug)]
pub struct Corner {
    dirs: [PathBuf; 2],
}

impl Corner {
    /// Makes it with all cpus, and moves this process in. `None` where the kernel or the user may
    /// not, or cgroup v1 is not there.
    #[must_use]
    pub fn enter() -> Option<Self> {
        let name = format!("laneway-test-{}", std::process::id());
        let corner = Self { dirs: [CPUSET, CPU].map(|root| Path::new(root).join(&name)) };
        for dir in &corner.dirs {
            fs::create_dir(dir).ok()?;
        }
        for file in ["cpuset.mems", "cpuset.cpus"] {
            let above = fs::read_to_string(Path::new(CPUSET).join(file)).ok()?;
            fs::write(corner.dirs[0].join(file), above.trim()).ok()?;
        }
        for dir in &corner.dirs {
            fs::write(dir.join("cgroup.procs"), std::process::id().to_string()).ok()?;
        }
        Some(corner)
    }

    /// The cpuset.
    #[must_use]
    pub fn cpuset(&self) -> &Path {
        &self.dirs[0]
    }

    /// Every file of every group in the corner, but those that count what happened, and who of
    /// `tasks` is where.
    #[must_use]
    pub fn snapshot(&self, tasks: &[i32]) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        for dir in &self.dirs {
            collect(dir, tasks, &mut found);
        }
        found
    }
}

fn collect(dir: &Path, tasks: &[i32], found: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, tasks, found);
            continue;
        }
        let name = entry.file_name().into_string().unwrap_or_default();
        let counts = ["stat", "pressure", "procs", "notify_on_release"];
        let text = fs::read_to_string(&path).unwrap_or_default();
        if name == "tasks" {
            let there = text.lines().filter_map(|line| line.parse().ok());
            let known: Vec<i32> = there.filter(|tid| tasks.contains(tid)).collect();
            found.insert(path, format!("{known:?}"));
        } else if !counts.iter().any(|count| name.contains(count)) {
            found.insert(path, text);
        }
    }
}

impl Drop for Corner {
    fn drop(&mut self) {
        // Whatever a failed test left goes where it came from.
        for (dir, root) in self.dirs.iter().zip([CPUSET, CPU]) {
            empty(dir, &Path::new(root).join("cgroup.procs"));
        }
    }
}

fn empty(dir: &Path, to: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            empty(&entry.path(), to);
        }
    }
    for _ in 0..200 {
        for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
            // A process that ended needs no place.
            let _ = fs::write(to, pid);
        }
        if fs::remove_dir(dir).is_ok() || !dir.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    println!("{} could not be removed", dir.display());
}
