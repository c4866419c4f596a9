//! Hugepages for a test: reserved when it starts, given back when it ends.

use std::fs;
use std::path::PathBuf;

/// Times that the kernel is asked for pages.
const TRIES: u32 = 5;

/// Pages that this test added. Tests that use it take their [`turn`](crate::turn).
#[derive(Debug)]
pub struct Reserved {
    file: PathBuf,
    before: u64,
}

impl Reserved {
    /// Adds `pages` of `page_bytes` to the pool. `None` where the kernel or the user may not.
    #[must_use]
    pub fn add(page_bytes: u64, pages: u64) -> Option<Self> {
        let folder = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", page_bytes / 1024);
        let folder = PathBuf::from(folder);
        let (file, found) = (folder.join("nr_hugepages"), read(&folder.join("nr_hugepages"))?);
        // What was given back and is still held, by a child of a test before, is no part of the
        // pool that is left behind.
        let before = found.saturating_sub(read(&folder.join("surplus_hugepages"))?);
        let reserved = Self { file, before };
        for _ in 0..TRIES {
            fs::write(&reserved.file, (found + pages).to_string()).ok()?;
            if read(&reserved.file)? >= found + pages {
                return Some(reserved);
            }
            // Memory that was used for long has no such piece free before its caches are dropped
            // and what is left was moved together. Both are help, and may be refused.
            let _ = fs::write("/proc/sys/vm/drop_caches", "3");
            let _ = fs::write("/proc/sys/vm/compact_memory", "1");
        }
        None
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // A pool that cannot shrink keeps pages that somebody else took meanwhile.
        let _ = fs::write(&self.file, self.before.to_string());
    }
}

fn read(file: &PathBuf) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Free pages of a size now.
#[must_use]
pub fn free(page_bytes: u64) -> u64 {
    let folder = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", page_bytes / 1024);
    read(&PathBuf::from(folder).join("free_hugepages")).unwrap_or(0)
}

/// All pages of a size now.
#[must_use]
pub fn total(page_bytes: u64) -> u64 {
    let folder = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", page_bytes / 1024);
    read(&PathBuf::from(folder).join("nr_hugepages")).unwrap_or(0)
}
