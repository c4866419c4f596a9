//! Growing the hugepage pools at start, and giving back at exit what nobody uses.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use crate::config::ReserveSize;
use crate::model::capacity::{PageCount, PageSize};
use crate::model::topology::Topology;
use crate::sysfs;

/// Pages added, by node and page size in bytes.
pub type Added = BTreeMap<String, u64>;

/// Grows the pools until `reserve` pages are available, round robin over nodes with cpus.
///
/// Growing can fall short on fragmented memory; what was got is reported, not hidden.
pub fn grow(
    root: &Path,
    topology: &mut Topology,
    reserve: &BTreeMap<ReserveSize, u32>,
    added: &mut Added,
) {
    for (size, wanted) in reserve {
        let page_size = size.page_size();
        let available: u64 = topology.nodes.iter().map(|n| n.available(page_size).get()).sum();
        let mut missing = u64::from(*wanted).saturating_sub(available);
        let nodes: Vec<u32> =
            topology.nodes.iter().filter(|node| !node.cpus.is_empty()).map(|n| n.id).collect();
        for (index, node) in nodes.iter().enumerate() {
            let left = (nodes.len() - index) as u64;
            let share = missing.div_ceil(left);
            match change(root, *node, page_size, i64::try_from(share).unwrap_or(0)) {
                Ok(got) => {
                    let got = u64::try_from(got).unwrap_or(0);
                    missing -= got.min(missing);
                    *added.entry(key(*node, page_size)).or_insert(0) += got;
                    info!(node, %page_size, added = got, "hugepage pool grown");
                }
                Err(error) => warn!(node, %page_size, %error, "hugepage pool cannot be grown"),
            }
        }
        if missing > 0 {
            warn!(%page_size, wanted, missing, "hugepage pool is smaller than hugepages.reserve");
        }
        if let Ok(memory) = sysfs::read_pools(root) {
            topology.refresh(&memory);
        }
    }
}

/// Gives back what was added, as far as it is unused.
pub fn shrink(root: &Path, topology: &mut Topology, added: &mut Added) {
    if let Ok(memory) = sysfs::read_pools(root) {
        topology.refresh(&memory);
    }
    for node in &topology.nodes {
        for page_size in [PageSize::HUGE_2M, PageSize::HUGE_1G] {
            let Some(count) = added.get_mut(&key(node.id, page_size)) else {
                continue;
            };
            let give = PageCount::new(*count).get().min(node.available(page_size).get());
            if give == 0 {
                continue;
            }
            match change(root, node.id, page_size, -i64::try_from(give).unwrap_or(0)) {
                Ok(_) => {
                    *count -= give;
                    info!(node = node.id, %page_size, given_back = give, "hugepage pool shrunk");
                }
                Err(error) => {
                    warn!(node = node.id, %page_size, %error, "hugepages cannot be given back");
                }
            }
        }
    }
    added.retain(|_, count| *count > 0);
}

/// Pages that this agent added to one pool.
#[must_use]
pub fn added_to(added: &Added, node: u32, page_size: PageSize) -> u64 {
    added.get(&key(node, page_size)).copied().unwrap_or(0)
}

fn key(node: u32, page_size: PageSize) -> String {
    format!("node{node}/{}", page_size.bytes())
}

/// Changes one pool by `delta` pages; returns by how many it really changed.
fn change(root: &Path, node: u32, page_size: PageSize, delta: i64) -> io::Result<i64> {
    if delta == 0 {
        return Ok(0);
    }
    let path = pool_file(root, node, page_size);
    let read = || -> io::Result<i64> {
        let text = fs::read_to_string(&path)?;
        text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
    };
    let before = read()?;
    fs::write(&path, (before + delta).max(0).to_string())?;
    Ok(read()? - before)
}

fn pool_file(root: &Path, node: u32, page_size: PageSize) -> PathBuf {
    let size = format!("hugepages/hugepages-{}kB/nr_hugepages", page_size.bytes() / 1024);
    let per_node = root.join(format!("sys/devices/system/node/node{node}")).join(&size);
    if per_node.exists() { per_node } else { root.join("sys/kernel/mm").join(&size) }
}
