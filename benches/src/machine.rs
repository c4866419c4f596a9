//! What this machine says of itself, and which two cpus are used.

use std::fs;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::BenchError;

/// The machine as the report names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) kernel: String,
    /// Cpus that this process may use.
    pub(crate) cpus_allowed: Vec<u32>,
    /// The two that are used: initiator and producer first.
    pub(crate) cpus: (u32, u32),
    /// Whether they are hardware threads of one core, as the kernel knows it.
    pub(crate) siblings: bool,
    /// Whether a hypervisor is below: it may move what looks like a cpu.
    pub(crate) virtual_machine: bool,
    /// Caches of the first cpu, such as `L2 1024K`.
    pub(crate) caches: Vec<String>,
    /// Load average before the first measurement: above 0.1, others were running.
    pub(crate) load: f64,
}

impl Machine {
    /// Reads it, and chooses the cpus unless they are `wanted`.
    pub(crate) fn read(wanted: Option<(u32, u32)>) -> Result<Self, BenchError> {
        let allowed = allowed()?;
        let cpus = choose(&allowed, wanted, siblings)?;
        let info = read("/proc/cpuinfo");
        let model = info
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or("unknown", |(_, model)| model.trim());
        let load = read("/proc/loadavg");
        Ok(Self {
            cpu: model.to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpus_allowed: allowed,
            cpus,
            siblings: siblings(cpus.0).contains(&cpus.1),
            virtual_machine: info.contains(" hypervisor"),
            caches: caches(cpus.0),
            load: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        })
    }
}

/// The wanted cpus if they are allowed, else the first and the next that is not its sibling.
fn choose(
    allowed: &[u32],
    wanted: Option<(u32, u32)>,
    siblings: impl Fn(u32) -> Vec<u32>,
) -> Result<(u32, u32), BenchError> {
    if let Some((first, second)) = wanted {
        return match [first, second].into_iter().find(|cpu| !allowed.contains(cpu)) {
            None => Ok((first, second)),
            Some(cpu) => Err(BenchError::Cpu { cpu, allowed: allowed.to_vec() }),
        };
    }
    let [first, rest @ ..] = allowed else {
        return Err(BenchError::Cpus { allowed: Vec::new() });
    };
    let near = siblings(*first);
    match rest.iter().find(|cpu| !near.contains(cpu)).or_else(|| rest.first()) {
        Some(second) => Ok((*first, *second)),
        None => Err(BenchError::Cpus { allowed: allowed.to_vec() }),
    }
}

pub(crate) fn allowed() -> Result<Vec<u32>, BenchError> {
    let mask = sched_getaffinity(Pid::from_raw(0)).map_err(BenchError::io("sched_getaffinity"))?;
    let cpus = 0..CpuSet::count();
    Ok(cpus
        .filter(|&cpu| mask.is_set(cpu).unwrap_or(false))
        .filter_map(|cpu| u32::try_from(cpu).ok())
        .collect())
}

/// Hardware threads of the cpu's core, itself included.
pub(crate) fn siblings(cpu: u32) -> Vec<u32> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    list(read(&path).trim())
}

/// A list such as `0-2,8`; what is no number is left out.
fn list(text: &str) -> Vec<u32> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse(), last.parse::<u32>()) {
            cpus.extend(first..=last);
        }
    }
    cpus
}

fn caches(cpu: u32) -> Vec<String> {
    let cache = |index: u32| {
        let field = |name: &str| {
            let root = format!("/sys/devices/system/cpu/cpu{cpu}/cache/index{index}");
            read(&format!("{root}/{name}")).trim().to_owned()
        };
        let kind = match field("type").as_str() {
            "Data" => "d",
            "Instruction" => "i",
            _ => "",
        };
        let level = field("level");
        (!level.is_empty()).then(|| format!("L{level}{kind} {}", field("size")))
    };
    (0..8).map_while(cache).collect()
}

/// A file of the kernel's, or nothing where this kernel has none.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_cpu_is_no_sibling_where_there_is_a_choice() {
        let pairs = |cpu: u32| vec![cpu & !1, cpu | 1];
        assert_eq!(choose(&[0, 1, 2, 3], None, pairs).unwrap(), (0, 2));
        assert_eq!(choose(&[4, 5], None, pairs).unwrap(), (4, 5));
        assert_eq!(choose(&[0, 1, 2], Some((2, 1)), pairs).unwrap(), (2, 1));
        assert!(choose(&[7], None, pairs).is_err());
        assert!(choose(&[0, 1], Some((0, 9)), pairs).is_err());
    }

    #[test]
    fn cpu_lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(list("0-2,8"), [0, 1, 2, 8]);
        assert_eq!(list(""), [0u32; 0]);
    }
}
