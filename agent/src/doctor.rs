//! What this node can do, what it cannot, and the command that would change it.
//!
//! Each finding is tried, not guessed: a seal is set, a page is taken, an affinity is set. The
//! same findings answer `laneway doctor` and GetCapabilities.

use std::fs;
use std::path::Path;

use laneway_shm::geometry::Geometry;
use laneway_shm::layout::{Header, KIND_PRODUCER};
use laneway_shm::memfd::Draft;
use serde::Serialize;

use crate::model::capacity::PageSize;
use crate::provision::cpuset::tree;
use crate::sysfs;

/// One thing that works or does not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// Stable name.
    pub name: &'static str,
    /// Whether it works.
    pub works: bool,
    /// Whether lanes cannot be made without it.
    pub required: bool,
    /// What was found.
    pub found: String,
    /// The command or setting that would change it; empty if nothing has to change.
    pub fix: String,
}

impl Finding {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, works: true, required: false, found: found.into(), fix: String::new() }
    }

    fn bad(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, works: false, required: false, found: found.into(), fix: fix.into() }
    }

    fn required(self) -> Self {
        Self { required: true, ..self }
    }

    /// Finding and fix in one line.
    #[must_use]
    pub fn detail(&self) -> String {
        if self.fix.is_empty() {
            self.found.clone()
        } else {
            format!("{}; to change it: {}", self.found, self.fix)
        }
    }
}

/// Tries everything. Takes and gives back one page of each kind; changes nothing that stays.
#[must_use]
pub fn examine(sys_root: &Path) -> Vec<Finding> {
    let mut findings = vec![kernel(), seals(), peer_pidfd()];
    findings.extend(pools(sys_root));
    findings.push(numa_binding());
    findings.push(hugetlb_cgroup());
    findings.push(self_pinning());
    findings.push(enforced_pinning());
    findings.push(cpuset_pinning());
    findings.push(isolated_cpus(sys_root));
    findings.push(open_files());
    findings
}

fn kernel() -> Finding {
    let name = "kernel";
    let release = nix::sys::utsname::uname()
        .ok()
        .and_then(|uname| uname.release().to_str().map(ToOwned::to_owned))
        .unwrap_or_default();
    let mut numbers = release.split(['.', '-']).filter_map(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (6, 5) {
        return Finding::good(name, format!("Linux {release}")).required();
    }
    let fix = "boot Linux 6.5 or later (6.3 has MFD_NOEXEC_SEAL, 6.5 SO_PEERPIDFD)";
    Finding::bad(name, format!("Linux {release} is older than 6.5"), fix).required()
}

/// Makes and seals a segment of the smallest ring on pages of `page_bytes`.
fn try_segment(page_bytes: u64, node: Option<u32>) -> Result<Option<u32>, String> {
    let geometry = Geometry::try_new(8, 2).map_err(|error| error.to_string())?;
    let header = Header {
        kind: KIND_PRODUCER,
        lane: 0,
        generation: 0,
        nonce: 0,
        slot_stride: geometry.stride() as u64,
        slot_payload: u64::from(geometry.payload()),
        slot_count: geometry.count(),
        base_position: 0,
        size_bytes: geometry.segment_bytes().next_multiple_of(page_bytes),
    };
    let draft = Draft::create(header, page_bytes, node).map_err(|error| error.to_string())?;
    let bound = draft.bound_node();
    draft.seal().map_err(|error| error.to_string())?;
    Ok(bound)
}

fn seals() -> Finding {
    let name = "sealed_memory";
    match try_segment(PageSize::BASE_4K.bytes(), None) {
        Ok(_) => Finding::good(name, "memfd with FUTURE_WRITE, SHRINK, GROW and SEAL").required(),
        Err(error) => {
            let fix = "allow memfd_create and fcntl(F_ADD_SEALS) in the seccomp profile";
            Finding::bad(name, error, fix).required()
        }
    }
}

fn peer_pidfd() -> Finding {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socketpair, sockopt};
    let name = "peer_pidfd";
    let flags = SockFlag::SOCK_CLOEXEC;
    let tried = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
        .and_then(|(one, _other)| getsockopt(&one, sockopt::PeerPidfd));
    match tried {
        Ok(_) => Finding::good(name, "SO_PEERPIDFD: the death of a peer is seen at once"),
        Err(errno) => {
            let fix = "boot Linux 6.5 or later; until then only a hang-up tells of a death";
            Finding::bad(name, format!("SO_PEERPIDFD: {errno}"), fix)
        }
    }
}

fn pools(sys_root: &Path) -> Vec<Finding> {
    let memory = sysfs::read_pools(sys_root).unwrap_or_default();
    let sizes = [
        (PageSize::HUGE_2M, "hugepages_2mib", "2048kB", 64),
        (PageSize::HUGE_1G, "hugepages_1gib", "1048576kB", 1),
    ];
    let judge = |(size, name, folder, some): (PageSize, &'static str, &str, u64)| {
        let pools = memory.iter().flat_map(|node| &node.pools);
        let (mut total, mut free) = (0, 0);
        for pool in pools.filter(|pool| pool.page_size == size) {
            total += pool.total.get();
            free += pool.available().get();
        }
        let found = format!("{free} of {total} pages free");
        let file = format!("/sys/kernel/mm/hugepages/hugepages-{folder}/nr_hugepages");
        let fix = format!("echo {} > {file} (as root), or hugepages.reserve", total + some);
        if free == 0 {
            return Finding::bad(name, found, fix);
        }
        match try_segment(size.bytes(), None) {
            Ok(_) => Finding::good(name, found),
            Err(error) => {
                let fix = "raise the hugepage limit of this cgroup or pod";
                Finding::bad(name, format!("{found}, but {error}"), fix)
            }
        }
    };
    sizes.into_iter().map(judge).collect()
}

fn numa_binding() -> Finding {
    let name = "numa_binding";
    match try_segment(PageSize::BASE_4K.bytes(), Some(0)) {
        Ok(Some(_)) => Finding::good(name, "mbind works"),
        Ok(None) => {
            let fix = "add CAP_SYS_NICE, or a seccomp profile that permits mbind";
            Finding::bad(name, "mbind is forbidden: memory follows the agent's own node", fix)
        }
        Err(error) => Finding::bad(name, error, "see sealed_memory"),
    }
}

/// The tightest hugetlb limit of this process's own cgroup, if it has one.
fn hugetlb_cgroup() -> Finding {
    let name = "hugetlb_cgroup";
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        let file = format!("{root}{path}/hugetlb.2MB.max");
        if let Ok(limit) = fs::read_to_string(&file) {
            let limit = limit.trim();
            if limit == "0" {
                let fix = "give the pod a hugepages-2Mi limit";
                return Finding::bad(name, "limit for 2 MiB pages is 0", fix);
            }
            return Finding::good(name, format!("limit for 2 MiB pages is {limit}"));
        }
    }
    Finding::good(name, "no limit on hugepages")
}

fn self_pinning() -> Finding {
    let name = "pinning_self";
    let cpus = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).map(|set| {
        (0..nix::sched::CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).count()
    });
    match cpus {
        Ok(1) => {
            let fix = "give the process at least two cpus: the ends of a lane spin";
            Finding::bad(name, "1 cpu in this cpuset", fix)
        }
        Ok(cpus) => Finding::good(name, format!("{cpus} cpus in this cpuset")),
        Err(errno) => Finding::bad(name, errno.to_string(), "allow sched_setaffinity"),
    }
}

/// Whether this process may set the affinity of another user's threads.
#[must_use]
pub fn enforced_pinning() -> Finding {
    let name = "pinning_enforce";
    match caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_NICE) {
        Ok(true) => Finding::good(name, "CAP_SYS_NICE"),
        _ => Finding::bad(
            name,
            "no CAP_SYS_NICE: threads of other users cannot be pinned by the agent",
            "run as root, or: setcap cap_sys_nice+ep laneway; pinning SELF needs nothing",
        ),
    }
}

/// Whether cores could be held in cpusets; whether they are is the operator's choice.
fn cpuset_pinning() -> Finding {
    let name = "pinning_cpuset";
    match tree::describe() {
        Ok(found) => Finding::good(name, format!("{found}; used with cpuset.enabled = true")),
        Err(error) => {
            let fix = "run as root on a bare node with /sys/fs/cgroup writable";
            Finding::bad(name, error.to_string(), fix)
        }
    }
}

fn isolated_cpus(sys_root: &Path) -> Finding {
    let name = "isolated_cpus";
    let isolated = sysfs::read(sys_root)
        .map_or(0, |topology| topology.cpus.iter().filter(|cpu| cpu.isolated).count());
    if isolated > 0 {
        return Finding::good(name, format!("{isolated} cpus isolated: grade A can be had"));
    }
    let fix = "boot with isolcpus=managed_irq,domain,LIST nohz_full=LIST for grade A";
    Finding::bad(name, "none: grade B is the best that can be had", fix)
}

fn open_files() -> Finding {
    use nix::sys::resource::{Resource, getrlimit};
    let name = "open_files";
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard);
    // Two connections with a pidfd each, and three segments' descriptors, for each lane.
    let lanes = limit / 8;
    if lanes >= 128 {
        return Finding::good(name, format!("limit {limit}: about {lanes} lanes"));
    }
    let fix = "raise the hard limit: ulimit -Hn 20000";
    Finding::bad(name, format!("limit {limit}: about {lanes} lanes"), fix)
}
