//! Whole machines as small text files, for tests.
//!
//! Owns the notation: `path = content` on each line, `[0-3,8]` in a path for several files of the
//! same content, `\n` for a line break, `#` before a remark. The first remark says whether the
//! machine was recorded or composed. Never part of a production build.

use std::fs;
use std::io;
use std::path::{Component, Path};

use tempfile::TempDir;

use crate::model::capacity::CpuSet;

/// Every machine there is: its name and its text.
pub const ALL: &[(&str, &str)] = &[
    ("this-machine", include_str!("../../fixtures/topology/this-machine.tree")),
    ("two-socket", include_str!("../../fixtures/topology/two-socket.tree")),
    ("epyc-nps1-ccx", include_str!("../../fixtures/topology/epyc-nps1-ccx.tree")),
    ("epyc-nps4", include_str!("../../fixtures/topology/epyc-nps4.tree")),
    ("offline-cpu", include_str!("../../fixtures/topology/offline-cpu.tree")),
    ("cpuless-node", include_str!("../../fixtures/topology/cpuless-node.tree")),
    ("no-cache-info", include_str!("../../fixtures/topology/no-cache-info.tree")),
];

/// Writes the files of a machine below the directory `into`.
///
/// # Errors
/// When the text is not in the notation, a path leaves `into`, or a file cannot be written.
pub fn unpack(tree: &str, into: &Path) -> io::Result<()> {
    let lines = tree.lines().map(str::trim).filter(|line| !line.is_empty());
    for line in lines.filter(|line| !line.starts_with('#')) {
        let (pattern, content) = line.split_once('=').ok_or_else(|| invalid(line))?;
        let content = content.trim().replace("\\n", "\n") + "\n";
        for path in expand(pattern.trim()).ok_or_else(|| invalid(line))? {
            if !Path::new(&path).components().all(|part| matches!(part, Component::Normal(_))) {
                return Err(invalid(line));
            }
            let target = into.join(path);
            fs::create_dir_all(target.parent().unwrap_or(into))?;
            fs::write(target, &content)?;
        }
    }
    Ok(())
}

/// The paths a pattern stands for; at most one bracket is needed.
fn expand(pattern: &str) -> Option<Vec<String>> {
    let Some((head, rest)) = pattern.split_once('[') else {
        return Some(vec![pattern.to_owned()]);
    };
    let (ids, tail) = rest.split_once(']')?;
    let ids: CpuSet = ids.parse().ok()?;
    Some(ids.iter().map(|id| format!("{head}{id}{tail}")).collect())
}

fn invalid(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a line of a machine: {line:?}"))
}

/// A directory that holds the machine of this name and goes away with the value.
///
/// # Errors
/// When there is no such machine, or it cannot be written.
pub fn unpacked(name: &str) -> io::Result<TempDir> {
    let found = ALL.iter().find(|(known, _)| *known == name);
    let (_, tree) = found.ok_or(io::ErrorKind::NotFound)?;
    let root = tempfile::tempdir()?;
    unpack(tree, root.path())?;
    Ok(root)
}

/// The topology of the machine of this name.
#[cfg(test)]
pub(crate) fn load(name: &str) -> crate::model::topology::Topology {
    super::read(unpacked(name).unwrap().path()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bracket_stands_for_several_files() {
        let root = tempfile::tempdir().unwrap();
        unpack("# COMPOSED\nsys/cpu[0,2]/id = a\\nb\n", root.path()).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("sys/cpu2/id")).unwrap(), "a\nb\n");
        assert!(!root.path().join("sys/cpu1").exists());
    }

    #[test]
    fn a_line_that_leaves_the_directory_is_refused() {
        let root = tempfile::tempdir().unwrap();
        for tree in ["../a = b", "/a = b", "no equals sign", "a[0-] = b", "a[0 = b"] {
            assert!(unpack(tree, root.path()).is_err(), "{tree}");
        }
    }

    #[test]
    fn every_machine_says_where_it_comes_from() {
        for (name, tree) in ALL {
            let first = tree.lines().next().unwrap();
            let known = ["# RECORDED", "# COMPOSED"].iter().any(|kind| first.starts_with(kind));
            assert!(known, "{name}: {first}");
        }
    }
}
