//! Reads the machine out of sysfs.
//!
//! Owns the paths and formats of `/sys` and the rules for what may be absent: a machine without
//! node directories is one node, unknown caches are unknown, an absent list is empty. A number
//! that is there but makes no sense is an error that names its file, never a guess. Everything is
//! read below a root directory, `/` in production. Never writes, and keeps nothing between calls.

#[cfg(any(test, feature = "test-support"))]
pub mod fixture;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::model::capacity::{CpuSet, CpuSetError, PageCount, PageSize};
use crate::model::topology::{CacheSizes, Cpu, NodeMemory, NumaNode, PagePool, Topology};

/// Reads the whole topology below `root`.
///
/// # Errors
/// When a required file is missing, a file makes no sense, or the files contradict each other
/// because a cpu came or went meanwhile.
pub fn read(root: &Path) -> Result<Topology, SysfsError> {
    let cpu_dir = root.join(CPU_DIR);
    let online = required(read_cpu_list(&cpu_dir.join("online"))?, cpu_dir.join("online"))?;
    let present = read_cpu_list(&cpu_dir.join("present"))?.unwrap_or_else(|| online.clone());

    let nodes = read_nodes(root, &online)?;
    let cpus = read_cpus(&cpu_dir, &online, &nodes)?;
    let offline = present.difference(&online).iter().collect();
    let caches = CacheSizes {
        l2_bytes: smallest_cache(&cpu_dir, 2, &online)?,
        l3_bytes: smallest_cache(&cpu_dir, 3, &online)?,
    };
    Ok(Topology { nodes, cpus, offline, caches })
}

/// Reads only the figures that change, for [`Topology::refresh`].
///
/// # Errors
/// As [`read`].
pub fn read_pools(root: &Path) -> Result<Vec<NodeMemory>, SysfsError> {
    let node_dir = root.join(NODE_DIR);
    let Some(ids) = read_cpu_list(&node_dir.join("online"))? else {
        let (memory_total_bytes, memory_free_bytes) = read_meminfo(&root.join("proc/meminfo"))?;
        let pools = read_pool_dir(root, &root.join(HUGEPAGE_DIR))?;
        return Ok(vec![NodeMemory { node: 0, pools, memory_total_bytes, memory_free_bytes }]);
    };
    let read_node = |node: u32| {
        let dir = node_dir.join(format!("node{node}"));
        let (memory_total_bytes, memory_free_bytes) = read_meminfo(&dir.join("meminfo"))?;
        let pools = read_pool_dir(root, &dir.join("hugepages"))?;
        Ok(NodeMemory { node, pools, memory_total_bytes, memory_free_bytes })
    };
    ids.iter().map(read_node).collect()
}

/// Why the machine could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SysfsError {
    /// A file or directory could not be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error("{path} holds {found:?}, not {expected}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The beginning of what it holds.
        found: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// A file holds no cpu list.
    #[error("{path} is no list of ids", path = path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// What is wrong with the list.
        source: CpuSetError,
    },
    /// An online cpu is on no node's list; it was probably plugged in between two reads.
    #[error("cpu {cpu} is online but belongs to no numa node")]
    CpuWithoutNode {
        /// The cpu.
        cpu: u32,
    },
}

fn read_nodes(root: &Path, online: &CpuSet) -> Result<Vec<NumaNode>, SysfsError> {
    let memory = read_pools(root)?;
    let ids: Vec<u32> = memory.iter().map(|node| node.node).collect();
    let has_nodes = root.join(NODE_DIR).join("online").exists();

    let mut nodes = Vec::with_capacity(memory.len());
    for NodeMemory { node: id, pools, memory_total_bytes, memory_free_bytes } in memory {
        let dir = root.join(NODE_DIR).join(format!("node{id}"));
        let (cpus, distance) = if has_nodes {
            let cpus = read_cpu_list(&dir.join("cpulist"))?.unwrap_or_default();
            (cpus.intersection(online), read_distance(&dir.join("distance"), &ids)?)
        } else {
            (online.clone(), BTreeMap::new())
        };
        let cpus = cpus.iter().collect();
        nodes.push(NumaNode { id, cpus, distance, pools, memory_total_bytes, memory_free_bytes });
    }
    Ok(nodes)
}

/// The row of distances, which the kernel prints in the order of the online nodes.
fn read_distance(path: &Path, nodes: &[u32]) -> Result<BTreeMap<u32, u32>, SysfsError> {
    let Some(text) = read_text(path)? else {
        return Ok(BTreeMap::new());
    };
    let expected = "one distance for each online node";
    let row: Vec<u32> =
        text.split_ascii_whitespace().map(|word| number(path, word)).collect::<Result<_, _>>()?;
    if row.len() != nodes.len() {
        return Err(malformed(path, &text, expected));
    }
    Ok(nodes.iter().copied().zip(row).collect())
}

fn read_meminfo(path: &Path) -> Result<(u64, u64), SysfsError> {
    let text = required(read_text(path)?, path.to_owned())?;
    let field = |name: &str| {
        let mut words = text.split_ascii_whitespace().skip_while(|word| *word != name).skip(1);
        let kib: u64 = number(path, words.next().unwrap_or_default())?;
        kib.checked_mul(1024).ok_or_else(|| malformed(path, &text, "a size in kB"))
    };
    Ok((field("MemTotal:")?, field("MemFree:")?))
}

/// The pools of one `hugepages` directory, largest pages first. Sizes no lane is offered (arm64
/// has 64 KiB and 32 MiB) are passed over.
fn read_pool_dir(root: &Path, dir: &Path) -> Result<Vec<PagePool>, SysfsError> {
    let mut pools = Vec::new();
    for page_size in PageSize::ALL.into_iter().filter(|size| size.is_huge()) {
        let name = format!("hugepages-{}kB", page_size.bytes() / 1024);
        let pool = dir.join(&name);
        let Some(total) = read_number(&pool.join("nr_hugepages"))? else {
            continue;
        };
        let count = |path: &Path| Ok(PageCount::new(read_number(path)?.unwrap_or_default()));
        pools.push(PagePool {
            page_size,
            total: PageCount::new(total),
            free: count(&pool.join("free_hugepages"))?,
            reserved: count(&root.join(HUGEPAGE_DIR).join(&name).join("resv_hugepages"))?,
            surplus: count(&pool.join("surplus_hugepages"))?,
        });
    }
    Ok(pools)
}

fn read_cpus(cpu_dir: &Path, online: &CpuSet, nodes: &[NumaNode]) -> Result<Vec<Cpu>, SysfsError> {
    let isolated = read_cpu_list(&cpu_dir.join("isolated"))?.unwrap_or_default();
    let nohz_full = read_cpu_list(&cpu_dir.join("nohz_full"))?.unwrap_or_default();
    let node_of: BTreeMap<u32, u32> =
        nodes.iter().flat_map(|node| node.cpus.iter().map(|cpu| (*cpu, node.id))).collect();

    let mut cores = Vec::with_capacity(online.len());
    let mut l2 = Vec::with_capacity(online.len());
    let mut l3 = Vec::with_capacity(online.len());
    let mut packages = Vec::with_capacity(online.len());
    for id in online.iter() {
        let dir = cpu_dir.join(format!("cpu{id}"));
        let package = read_package(&dir.join("topology/physical_package_id"))?;
        packages.push(package);
        cores.push((id, read_core(&dir.join("topology"), package, online)?));
        l2.push((id, read_cache(&dir.join("cache"), 2, online)?));
        l3.push((id, read_cache(&dir.join("cache"), 3, online)?));
    }

    let cores = lowest_members(&cores);
    let mut threads: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (cpu, core) in &cores {
        threads.entry(*core).or_default().push(*cpu);
    }
    let (l2, l3) = (lowest_members(&l2), lowest_members(&l3));
    let mut cpus = Vec::with_capacity(online.len());
    for (id, package) in online.iter().zip(packages) {
        let node = node_of.get(&id).copied().ok_or(SysfsError::CpuWithoutNode { cpu: id })?;
        let core = cores.get(&id).copied().unwrap_or(id);
        let siblings = threads.get(&core).into_iter().flatten().copied();
        cpus.push(Cpu {
            id,
            package,
            core,
            node,
            l2: l2.get(&id).copied(),
            l3: l3.get(&id).copied(),
            siblings: siblings.filter(|cpu| *cpu != id).collect(),
            isolated: isolated.contains(id),
            nohz_full: nohz_full.contains(id),
        });
    }
    Ok(cpus)
}

/// How the kernel names a group of cpus: by its lowest member or by a number of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Lowest(u32),
    Numbered(u32, u32),
    Unknown,
}

/// Names each group by its lowest cpu, so that both ways of naming give one kind of key.
fn lowest_members(groups: &[(u32, Group)]) -> BTreeMap<u32, u32> {
    let mut lowest = BTreeMap::new();
    for (cpu, group) in groups {
        lowest.entry(*group).or_insert(*cpu);
    }
    let known = groups.iter().filter(|(_, group)| *group != Group::Unknown);
    known.filter_map(|(cpu, group)| Some((*cpu, *lowest.get(group)?))).collect()
}

/// Some boards do not know their sockets and say -1; they have one.
fn read_package(path: &Path) -> Result<u32, SysfsError> {
    match read_text(path)?.as_deref() {
        None | Some("-1") => Ok(0),
        Some(text) => number(path, text),
    }
}

fn read_core(dir: &Path, package: u32, online: &CpuSet) -> Result<Group, SysfsError> {
    // The second name is the older one.
    for name in ["core_cpus_list", "thread_siblings_list"] {
        if let Some(threads) = read_cpu_list(&dir.join(name))? {
            return Ok(lowest_online(&threads, online));
        }
    }
    let core_id = dir.join("core_id");
    Ok(match read_text(&core_id)?.as_deref() {
        None | Some("-1") => Group::Unknown,
        Some(text) => Group::Numbered(package, number(&core_id, text)?),
    })
}

/// The directories of the data caches of this level: one, or none.
fn data_caches(dir: &Path, level: u32) -> Result<Vec<PathBuf>, SysfsError> {
    let mut found = Vec::new();
    for index in 0..CACHE_INDEX_LIMIT {
        let cache = dir.join(format!("index{index}"));
        let same_level = read_number(&cache.join("level"))? == Some(u64::from(level));
        if same_level && read_text(&cache.join("type"))?.as_deref() != Some("Instruction") {
            found.push(cache);
        }
    }
    Ok(found)
}

/// The data cache of this level; `Unknown` where the machine does not say.
fn read_cache(dir: &Path, level: u32, online: &CpuSet) -> Result<Group, SysfsError> {
    for cache in data_caches(dir, level)? {
        // Virtual machines repeat cache ids, so the list of sharers is asked first.
        if let Some(sharers) = read_cpu_list(&cache.join("shared_cpu_list"))? {
            return Ok(lowest_online(&sharers, online));
        }
        let id = cache.join("id");
        if let Some(text) = read_text(&id)? {
            return Ok(Group::Numbered(level, number(&id, &text)?));
        }
    }
    Ok(Group::Unknown)
}

/// The smallest data cache of this level that any cpu has, in bytes.
fn smallest_cache(cpu_dir: &Path, level: u32, online: &CpuSet) -> Result<Option<u64>, SysfsError> {
    let mut smallest = None;
    for id in online.iter() {
        for cache in data_caches(&cpu_dir.join(format!("cpu{id}/cache")), level)? {
            let path = cache.join("size");
            if let Some(text) = read_text(&path)? {
                let bytes = cache_size(&path, &text)?;
                smallest = Some(smallest.map_or(bytes, |least: u64| least.min(bytes)));
            }
        }
    }
    Ok(smallest)
}

/// A cache's size: always in KiB since the file exists, as "1024K".
fn cache_size(path: &Path, text: &str) -> Result<u64, SysfsError> {
    let expected = "a size in K";
    let kib = text.strip_suffix('K').ok_or_else(|| malformed(path, text, expected))?;
    let kib: u64 = number(path, kib)?;
    kib.checked_mul(1024).filter(|&bytes| bytes > 0).ok_or_else(|| malformed(path, text, expected))
}

fn lowest_online(members: &CpuSet, online: &CpuSet) -> Group {
    members.intersection(online).first().map_or(Group::Unknown, Group::Lowest)
}

/// A list of ids; `None` where there is no such file.
fn read_cpu_list(path: &Path) -> Result<Option<CpuSet>, SysfsError> {
    let Some(text) = read_text(path)? else {
        return Ok(None);
    };
    // A kernel that could stop the tick but was not told to prints a null pointer here.
    let list = if text == "(null)" { "" } else { text.as_str() };
    let source = |source| SysfsError::List { path: path.to_owned(), source };
    list.parse().map(Some).map_err(source)
}

fn read_number(path: &Path) -> Result<Option<u64>, SysfsError> {
    read_text(path)?.map(|text| number(path, &text)).transpose()
}

/// The text of a small file without the space around it; `None` where there is no such file.
fn read_text(path: &Path) -> Result<Option<String>, SysfsError> {
    let failed = |source| SysfsError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    // Room for all of it: piece by piece it would be as many calls.
    let mut text = String::with_capacity(FILE_SIZE_USUAL);
    file.take(FILE_SIZE_LIMIT).read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text.trim().to_owned()))
}

fn number<N: TryFrom<u64>>(path: &Path, text: &str) -> Result<N, SysfsError> {
    // `str::parse` would let a sign through.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let value = text.parse::<u64>().ok().filter(|_| digits).and_then(|n| N::try_from(n).ok());
    value.ok_or_else(|| malformed(path, text, "a number"))
}

fn required<T>(found: Option<T>, path: PathBuf) -> Result<T, SysfsError> {
    found.ok_or_else(|| SysfsError::Read { path, source: io::ErrorKind::NotFound.into() })
}

fn malformed(path: &Path, found: &str, expected: &'static str) -> SysfsError {
    let found = found.chars().take(64).collect();
    SysfsError::Malformed { path: path.to_owned(), found, expected }
}

const CPU_DIR: &str = "sys/devices/system/cpu";
const NODE_DIR: &str = "sys/devices/system/node";
const HUGEPAGE_DIR: &str = "sys/kernel/mm/hugepages";
/// No processor describes more caches for one cpu; x86 has four.
const CACHE_INDEX_LIMIT: u32 = 16;
/// Longer than any file read here; a wrong root must not fill the memory.
const FILE_SIZE_LIMIT: u64 = 64 << 10;
/// As long as any of them is, as a rule: a page.
const FILE_SIZE_USUAL: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use laneway_shm::Relation;

    use crate::model::topology::CacheSizes;

    /// Reads a machine after changing some of its files; `None` removes a file or directory.
    fn read_changed(name: &str, changes: &[(&str, Option<&str>)]) -> Result<Topology, SysfsError> {
        let root = fixture::unpacked(name).unwrap();
        for (path, content) in changes {
            let path = root.path().join(path);
            match content {
                Some(content) => std::fs::write(path, content).unwrap(),
                None if path.is_dir() => std::fs::remove_dir_all(path).unwrap(),
                None => std::fs::remove_file(path).unwrap(),
            }
        }
        read(root.path())
    }

    #[test]
    fn cache_sizes_are_the_smallest_that_a_cpu_has_and_nonsense_is_refused() {
        let caches = fixture::load("this-machine").caches;
        assert_eq!((caches.l2_bytes, caches.l3_bytes), (Some(1 << 20), Some(32 << 20)));
        let size = "sys/devices/system/cpu/cpu1/cache/index2/size";
        let smaller = read_changed("this-machine", &[(size, Some("512K"))]).unwrap();
        assert_eq!(smaller.caches.l2_bytes, Some(512 << 10));
        for nonsense in ["", "K", "1024", "-1K", "0K", "99999999999999999999K", "1M"] {
            let read = read_changed("this-machine", &[(size, Some(nonsense))]);
            assert!(read.is_err(), "{nonsense:?} was taken");
        }
        assert_eq!(fixture::load("no-cache-info").caches, CacheSizes::default());
    }

    #[test]
    fn every_fixture_reads_as_a_machine() {
        for (name, _) in fixture::ALL {
            let topology = fixture::load(name);
            assert!(!topology.nodes.is_empty() && !topology.cpus.is_empty(), "{name}");
            for cpu in &topology.cpus {
                let node = topology.node(cpu.node).expect("the node of a cpu exists");
                assert!(node.cpus.contains(&cpu.id), "{name}: cpu {}", cpu.id);
            }
        }
    }

    #[test]
    fn the_recorded_machine_has_two_cores_below_one_l3() {
        let topology = fixture::load("this-machine");
        assert_eq!(topology.relation(0, 1), Some(Relation::SameL3));
        assert_eq!(topology.nodes[0].memory_total_bytes, 5_859_540 << 10);
        assert_eq!(topology.nodes[0].pools.len(), 2);
    }

    #[test]
    fn two_sockets_are_two_packages_with_smt() {
        let topology = fixture::load("two-socket");
        let cpu = topology.cpu(24).unwrap();
        assert_eq!((cpu.package, cpu.core, cpu.node), (1, 8, 1));
        assert_eq!(cpu.siblings, [8]);
        assert_eq!(topology.distance(0, 1), 21);
        assert_eq!(topology.relation(8, 24), Some(Relation::SameCore));
        assert_eq!(topology.relation(7, 8), Some(Relation::OtherNode));
    }

    #[test]
    fn isolated_and_tickless_cpus_are_marked() {
        let topology = fixture::load("two-socket");
        let marked = |mark: fn(&Cpu) -> bool| -> Vec<u32> {
            topology.cpus.iter().filter(|cpu| mark(cpu)).map(|cpu| cpu.id).collect()
        };
        assert_eq!(marked(|cpu| cpu.isolated), [4, 5, 6, 7, 20, 21, 22, 23]);
        assert_eq!(marked(|cpu| cpu.nohz_full), [6, 7, 22, 23]);
    }

    #[test]
    fn core_complexes_of_one_node_are_separate_domains() {
        let topology = fixture::load("epyc-nps1-ccx");
        let domains: std::collections::BTreeSet<_> =
            topology.cpus.iter().filter_map(|cpu| cpu.l3).collect();
        assert_eq!(domains, [0, 4, 8, 12].into());
        assert_eq!(topology.relation(0, 3), Some(Relation::SameL3));
        assert_eq!(topology.relation(3, 4), Some(Relation::SameNode));
    }

    #[test]
    fn a_socket_split_into_four_nodes_keeps_one_package() {
        let topology = fixture::load("epyc-nps4");
        assert_eq!(topology.nodes.len(), 4);
        assert!(topology.cpus.iter().all(|cpu| cpu.package == 0));
        assert_eq!(topology.node(3).unwrap().cpus, [12, 13, 14, 15, 28, 29, 30, 31]);
        assert_eq!(topology.distance(0, 3), 12);
    }

    #[test]
    fn an_offline_cpu_is_listed_apart_and_no_longer_a_sibling() {
        let topology = fixture::load("offline-cpu");
        assert_eq!(topology.offline, [3, 6]);
        assert!(topology.cpu(3).is_none());
        assert_eq!(topology.cpu(2).unwrap().siblings, Vec::<u32>::new());
        // Cpu 7 is all that is left of its core, so it gives the core its name.
        assert_eq!(topology.cpu(7).unwrap().core, 7);
    }

    #[test]
    fn a_node_may_be_only_memory() {
        let topology = fixture::load("cpuless-node");
        let node = topology.node(1).unwrap();
        assert!(node.cpus.is_empty());
        assert_eq!(topology.distance(0, 1), 24);
        assert_eq!(node.available(PageSize::HUGE_2M), PageCount::new(4096));
    }

    #[test]
    fn missing_caches_are_unknown_and_not_an_error() {
        let topology = fixture::load("no-cache-info");
        assert!(topology.cpus.iter().all(|cpu| cpu.l2.is_none() && cpu.l3.is_none()));
        assert_eq!(topology.relation(0, 2), Some(Relation::SameNode));
    }

    #[test]
    fn without_sibling_lists_the_core_ids_tell_the_cores() {
        let topology = fixture::load("no-cache-info");
        assert_eq!(topology.cpu(0).unwrap().siblings, [1]);
        assert_eq!(topology.cpu(3).unwrap().core, 2);
    }

    #[test]
    fn a_machine_without_node_directories_is_one_node() {
        let topology = fixture::load("no-cache-info");
        assert_eq!(topology.nodes.len(), 1);
        let node = &topology.nodes[0];
        assert_eq!((node.id, node.cpus.as_slice()), (0, [0, 1, 2, 3].as_slice()));
        assert_eq!(node.memory_free_bytes, 1_500_000 << 10);
        assert_eq!(node.available(PageSize::HUGE_2M), PageCount::new(60));
    }

    #[test]
    fn caches_without_a_list_of_sharers_are_told_apart_by_id() {
        let caches = "sys/devices/system/cpu";
        let changes: Vec<(String, Option<&str>)> = (0..2)
            .map(|cpu| (format!("{caches}/cpu{cpu}/cache/index3/shared_cpu_list"), None))
            .collect();
        let changes: Vec<_> = changes.iter().map(|(path, to)| (path.as_str(), *to)).collect();
        let topology = read_changed("this-machine", &changes).unwrap();
        assert_eq!(topology.cpu(1).unwrap().l3, Some(0));
    }

    #[test]
    fn pages_promised_anywhere_count_against_every_node() {
        let topology = fixture::load("two-socket");
        let pool = topology.nodes[1].pool(PageSize::HUGE_2M).unwrap();
        assert_eq!((pool.total, pool.free), (PageCount::new(1024), PageCount::new(1000)));
        assert_eq!(pool.reserved, PageCount::new(16));
        assert_eq!(pool.available(), PageCount::new(984));
    }

    #[test]
    fn a_refresh_sees_only_the_pools_change() {
        let root = fixture::unpacked("two-socket").unwrap();
        let mut topology = read(root.path()).unwrap();
        let before = topology.clone();
        let pool = "sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages";
        std::fs::write(root.path().join(pool), "20\n").unwrap();
        topology.refresh(&read_pools(root.path()).unwrap());
        assert_eq!(topology.nodes[1].available(PageSize::HUGE_2M), PageCount::new(4));
        assert_eq!((topology.cpus, &topology.nodes[0]), (before.cpus, &before.nodes[0]));
    }

    #[test]
    fn a_malformed_number_is_an_error_that_names_its_file() {
        let free = "sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages";
        for (path, content) in [
            (free, "-5"),
            (free, ""),
            (free, "12 pages"),
            ("sys/devices/system/cpu/cpu1/topology/physical_package_id", "zero"),
            ("sys/devices/system/cpu/cpu0/cache/index3/level", "99999999999999999999"),
            ("sys/devices/system/node/node0/distance", "10 x"),
            ("sys/devices/system/node/node0/distance", "10 20"),
            ("sys/devices/system/node/node0/meminfo", "Node 0 MemTotal: some kB"),
            ("sys/devices/system/node/node0/meminfo", "Node 0 MemTotal: 18446744073709551615 kB"),
        ] {
            let error = read_changed("this-machine", &[(path, Some(content))]).unwrap_err();
            assert!(matches!(error, SysfsError::Malformed { .. }), "{path}: {error:?}");
            assert!(error.to_string().contains(path), "{error}");
        }
    }

    #[test]
    fn a_malformed_list_is_an_error_that_names_its_file() {
        let path = "sys/devices/system/cpu/isolated";
        let error = read_changed("this-machine", &[(path, Some("0-1-2\n"))]).unwrap_err();
        assert!(matches!(error, SysfsError::List { .. }), "{error:?}");
        assert!(error.to_string().contains(path), "{error}");
    }

    #[test]
    fn a_kernel_that_prints_a_null_pointer_has_no_tickless_cpus() {
        let path = "sys/devices/system/cpu/nohz_full";
        let topology = read_changed("this-machine", &[(path, Some("  (null)\n"))]).unwrap();
        assert!(topology.cpus.iter().all(|cpu| !cpu.nohz_full));
    }

    #[test]
    fn a_machine_that_lists_no_cpus_cannot_be_read() {
        let path = "sys/devices/system/cpu/online";
        let error = read_changed("this-machine", &[(path, None)]).unwrap_err();
        assert!(matches!(error, SysfsError::Read { .. }), "{error:?}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error_and_not_an_absence() {
        let root = fixture::unpacked("this-machine").unwrap();
        let path = root.path().join("sys/devices/system/cpu/isolated");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(read(root.path()).unwrap_err(), SysfsError::Read { .. }));
    }

    #[test]
    fn a_cpu_that_no_node_knows_is_an_error() {
        let path = "sys/devices/system/node/node0/cpulist";
        let error = read_changed("this-machine", &[(path, Some("0\n"))]).unwrap_err();
        assert!(matches!(error, SysfsError::CpuWithoutNode { cpu: 1 }), "{error:?}");
    }

    #[test]
    fn a_cpu_without_a_topology_directory_is_a_core_of_its_own() {
        let path = "sys/devices/system/cpu/cpu1/topology";
        let topology = read_changed("this-machine", &[(path, None)]).unwrap();
        let cpu = topology.cpu(1).unwrap();
        assert_eq!((cpu.core, cpu.package, cpu.siblings.len()), (1, 0, 0));
    }
}
