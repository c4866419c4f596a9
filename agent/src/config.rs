//! The agent's configuration: a strict, versioned TOML file, a few flags, defaults that fit the
//! user. Built once at start, then only read.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::capacity::{CpuSet, PageSize};
use crate::model::id::Name;

/// The one version of the file format.
pub const CONFIG_VERSION: u32 = 1;
/// File name of the control socket. Some clients send the percent-encoded path as `:authority`;
/// with an `@` in it, what stands before parses as user info and the request is accepted.
pub const CONTROL_SOCKET: &str = "control@laneway.sock";
/// Path of the attach socket below the run directory. It has a directory of its own, so that a
/// pod can be given that one alone: the control socket is never in its reach.
pub const ATTACH_SOCKET: &str = "attach/attach.sock";

/// The whole configuration.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Must be 1.
    pub version: u32,
    /// Directories and listeners.
    #[serde(default)]
    pub agent: AgentConfig,
    /// Logs.
    #[serde(default)]
    pub log: LogConfig,
    /// Hugepage pools.
    #[serde(default)]
    pub hugepages: HugepagesConfig,
    /// Bounds on what callers can make the agent do.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// Who may be charged for lanes.
    #[serde(default)]
    pub tenants: TenantsConfig,
    /// Cores in cpusets of the agent's own.
    #[serde(default)]
    pub cpuset: CpusetConfig,
}

/// Directories and listeners.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentConfig {
    /// Sockets go here. Gone after a reboot.
    pub run_dir: PathBuf,
    /// The journal goes here. Nothing in it outlives the boot.
    pub state_dir: PathBuf,
    /// Also listen for gRPC on this loopback address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_tcp: Option<SocketAddr>,
    /// Root of the file system that `/sys` is read from.
    pub sys_root: PathBuf,
    /// Permission bits of the control socket.
    pub control_mode: u32,
    /// Permission bits of the attach socket. Tickets and rules decide, not the mode.
    pub attach_mode: u32,
}

/// Logs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// How lines look.
    pub format: LogFormat,
    /// A filter such as `info` or `laneway_agent=debug`.
    pub level: String,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Hugepage pools.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HugepagesConfig {
    /// Grow the pools at start until this many pages are available, by page size: `"2MiB" = 64`.
    /// What was added and is unused is given back at exit.
    pub reserve: BTreeMap<ReserveSize, u32>,
}

/// Page size as a key of `hugepages.reserve`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum ReserveSize {
    /// 2 MiB.
    #[serde(rename = "2MiB")]
    Huge2M,
    /// 1 GiB.
    #[serde(rename = "1GiB")]
    Huge1G,
}

impl ReserveSize {
    /// The page size.
    #[must_use]
    pub fn page_size(self) -> PageSize {
        match self {
            Self::Huge2M => PageSize::HUGE_2M,
            Self::Huge1G => PageSize::HUGE_1G,
        }
    }
}

/// Bounds on what callers can make the agent do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Lanes on this node, 1 to 10000.
    pub lanes: u32,
    /// Undrained generations of one lane, 1 to 16.
    pub generations: u32,
    /// Attach connections, in all and for one user.
    pub attach_connections: u32,
    /// Attach connections of one user.
    pub attach_connections_per_uid: u32,
    /// Control connections.
    pub control_connections: u32,
}

/// Who may be charged for lanes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantsConfig {
    /// Names of the tenants; the first is the default.
    pub names: Vec<Name>,
}

/// Cores in cpusets of the agent's own: what `PINNING_CPUSET` needs.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CpusetConfig {
    /// Whether lanes may ask for it. While one holds a core, the agent moves every other task of
    /// the node off that core.
    pub enabled: bool,
    /// The cpuset whose cores are divided, below a mounted hierarchy; the whole node's by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// Cpus that everything else keeps, such as `"0,4-7"`; by default the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub others: Option<CpuSet>,
    /// Lanes may have the others' cpus, too. Where one does, everything else gets about 0.3 % of
    /// that cpu while the lane spins.
    pub share_others: bool,
    /// Divide the cores although a kubelet seems to.
    pub force: bool,
}

impl Default for AgentConfig {
    fn default() -> Self {
        let (run_dir, state_dir) = default_dirs();
        Self {
            run_dir,
            state_dir,
            listen_tcp: None,
            sys_root: PathBuf::from("/"),
            control_mode: 0o660,
            attach_mode: 0o666,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            lanes: 1000,
            generations: 8,
            attach_connections: 4400,
            attach_connections_per_uid: 2200,
            control_connections: 128,
        }
    }
}

impl Default for TenantsConfig {
    fn default() -> Self {
        let names = ["dx", "dg", "px", "pg"].iter().filter_map(|name| Name::parse(name).ok());
        Self { names: names.collect() }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            version: CONFIG_VERSION,
            agent: AgentConfig::default(),
            log: LogConfig::default(),
            hugepages: HugepagesConfig::default(),
            limits: LimitsConfig::default(),
            tenants: TenantsConfig::default(),
            cpuset: CpusetConfig::default(),
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's word.
        source: std::io::Error,
    },
    /// The text is not a configuration.
    #[error("{path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// A field outside its range.
    #[error("{field} is {found}, allowed is {allowed}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Value found.
        found: String,
        /// Range that is allowed.
        allowed: &'static str,
    },
}

impl Config {
    /// Reads a file, or the defaults.
    ///
    /// # Errors
    /// What is wrong, with the file's line where there is one.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let read = |source| ConfigError::Read { path: path.to_path_buf(), source };
        let text = fs::read_to_string(path).map_err(read)?;
        Self::parse(&text).map_err(|error| match error {
            ConfigError::Parse { message, .. } => {
                ConfigError::Parse { path: path.to_path_buf(), message }
            }
            other => other,
        })
    }

    /// Reads a text.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let parsed = toml::from_str::<Self>(text).map_err(|error| ConfigError::Parse {
            path: PathBuf::from("configuration"),
            message: error.to_string(),
        })?;
        parsed.checked()
    }

    /// Checks the ranges. Flags may have changed fields since the file was read.
    ///
    /// # Errors
    /// The first field outside its range.
    pub fn checked(self) -> Result<Self, ConfigError> {
        let refuse =
            |field, found: String, allowed| Err(ConfigError::Field { field, found, allowed });
        let limits = &self.limits;
        if self.version != CONFIG_VERSION {
            return refuse("version", self.version.to_string(), "1");
        }
        for (field, found, highest, allowed) in [
            ("limits.lanes", limits.lanes, 10_000, "1 to 10000"),
            ("limits.generations", limits.generations, 16, "1 to 16"),
            ("limits.attach_connections", limits.attach_connections, 20_000, "1 to 20000"),
            (
                "limits.attach_connections_per_uid",
                limits.attach_connections_per_uid,
                20_000,
                "1 to 20000",
            ),
            ("limits.control_connections", limits.control_connections, 4096, "1 to 4096"),
        ] {
            if !(1..=highest).contains(&found) {
                return refuse(field, found.to_string(), allowed);
            }
        }
        for (field, found) in [
            ("agent.control_mode", self.agent.control_mode),
            ("agent.attach_mode", self.agent.attach_mode),
        ] {
            if found > 0o777 {
                return refuse(field, format!("{found:#o}"), "0 to 0o777");
            }
        }
        if let Some(address) = self.agent.listen_tcp.filter(|address| !address.ip().is_loopback()) {
            let allowed = "a loopback address: the port has no authentication";
            return refuse("agent.listen_tcp", address.to_string(), allowed);
        }
        if self.tenants.names.is_empty() {
            return refuse("tenants.names", "empty".to_owned(), "at least one name");
        }
        if let Some(root) = self.cpuset.root.as_ref().filter(|root| !root.is_absolute()) {
            return refuse("cpuset.root", root.display().to_string(), "an absolute path");
        }
        for (field, dir) in
            [("agent.run_dir", &self.agent.run_dir), ("agent.state_dir", &self.agent.state_dir)]
        {
            if !dir.is_absolute() || dir.as_os_str().len() > 80 {
                let allowed = "an absolute path of at most 80 bytes (sockets allow 108)";
                return refuse(field, dir.display().to_string(), allowed);
            }
        }
        Ok(self)
    }

    /// Path of the control socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.agent.run_dir.join(CONTROL_SOCKET)
    }

    /// Path of the attach socket.
    #[must_use]
    pub fn attach_socket(&self) -> PathBuf {
        self.agent.run_dir.join(ATTACH_SOCKET)
    }
}

/// Run and state directory for this user: system-wide for root, XDG for everybody else.
#[must_use]
pub fn default_dirs() -> (PathBuf, PathBuf) {
    if nix::unistd::geteuid().is_root() {
        return (PathBuf::from("/run/laneway"), PathBuf::from("/var/lib/laneway"));
    }
    let from =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = from("HOME").unwrap_or_else(std::env::temp_dir);
    let uid = nix::unistd::geteuid();
    let run = from("XDG_RUNTIME_DIR").map_or_else(
        || std::env::temp_dir().join(format!("laneway-{uid}")),
        |dir| dir.join("laneway"),
    );
    let state = from("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state"));
    (run, state.join("laneway"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_survive_their_own_text() {
        let text = toml::to_string(&Config::default()).unwrap();
        assert_eq!(Config::parse(&text).unwrap(), Config::default());
    }

    #[test]
    fn a_file_with_only_a_version_is_the_defaults() {
        assert_eq!(Config::parse("version = 1").unwrap(), Config::default());
    }

    #[test]
    fn every_bad_configuration_is_refused_with_its_field() {
        for (text, part) in [
            ("", "version"),
            ("version = 2", "version"),
            ("version = 1\ncolour = 3", "colour"),
            ("version = 1\n[agent]\nrun_dri = '/x'", "run_dri"),
            ("version = 1\n[agent]\nrun_dir = 'relative'", "agent.run_dir"),
            ("version = 1\n[agent]\nlisten_tcp = '0.0.0.0:1'", "agent.listen_tcp"),
            ("version = 1\n[agent]\ncontrol_mode = 4096", "agent.control_mode"),
            ("version = 1\n[agent]\ncontrol_mode = -1", "control_mode"),
            ("version = 1\n[limits]\nlanes = 0", "limits.lanes"),
            ("version = 1\n[limits]\ngenerations = 17", "limits.generations"),
            ("version = 1\n[limits]\nlanes = 99999999999999", "lanes"),
            ("version = 1\n[hugepages]\nreserve = { '3MiB' = 1 }", "3MiB"),
            ("version = 1\n[hugepages]\nreserve = { '2MiB' = -1 }", "reserve"),
            ("version = 1\n[tenants]\nnames = []", "tenants.names"),
            ("version = 1\n[tenants]\nnames = ['../x']", "names"),
            ("version = 1\n[log]\nformat = 'xml'", "format"),
            ("version = 1\n[cpuset]\nroot = 'here'", "cpuset.root"),
            ("version = 1\n[cpuset]\nothers = 'all'", "others"),
            ("version = 1\n[cpuset]\nshare = true", "share"),
            ("version = ", "version"),
        ] {
            let message = Config::parse(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text:?}: {message}");
        }
    }
}
