//! Removing what a run left behind that did not end by itself. Touches nothing whose name does not begin with a run's tag.

use super::{PREFIX, cgroup, netns};
use nix::mount::{MntFlags, umount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The mounts below a directory, deepest first.
#[must_use]
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from)
        .filter(|path| path.starts_with(dir))
        .collect();
    found.sort();
    found.reverse();
    found
}

/// The tags of runs whose harness no longer lives; with `all`, of every run but this process's own.
#[must_use]
pub fn left_behind(all: bool) -> Vec<String> {
    let mut tags = BTreeSet::new();
    for entry in std::fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        if let Ok(name) = entry.file_name().into_string()
            && is_tag(&name)
        {
            tags.insert(name);
        }
    }
    for namespace in netns::with_prefix(PREFIX) {
        if let Some((tag, _)) = namespace.split_once('-') {
            tags.insert(tag.to_owned());
        }
    }
    tags.into_iter()
        .filter(|tag| is_tag(tag) && (all || !owned(tag)))
        .collect()
}

fn is_tag(name: &str) -> bool {
    let digits = name.strip_prefix(PREFIX).unwrap_or_default();
    digits.len() >= 4 && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether the harness that made a run still lives.
fn owned(tag: &str) -> bool {
    let owner = std::fs::read_to_string(std::env::temp_dir().join(tag).join("owner")).unwrap_or_default();
    let Ok(pid) = owner.trim().parse::<i32>() else {
        return false;
    };
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().starts_with("jepsen")
}

/// Removes everything of a run.
pub fn remove(tag: &str) {
    if !is_tag(tag) {
        return;
    }
    // Frozen processes cannot be killed.
    for pid in cgroup::processes_of(tag) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    cgroup::remove_run(tag);
    for namespace in netns::with_prefix(&format!("{tag}-")) {
        for pid in netns_processes(&namespace) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        netns::remove(std::iter::once(namespace.as_str()));
    }
    let home = std::env::temp_dir().join(tag);
    for mount in mounts_below(&home) {
        if umount(&mount).is_err() {
            std::thread::sleep(Duration::from_millis(200));
            if umount(&mount).is_err() {
                let _ = umount2(&mount, MntFlags::MNT_DETACH);
            }
        }
    }
    if mounts_below(&home).is_empty() {
        let _ = std::fs::remove_dir_all(&home);
    }
}

fn netns_processes(namespace: &str) -> Vec<i32> {
    let said = super::command::run("ip", &["netns", "pids", namespace]).unwrap_or_default();
    said.lines()
        .filter_map(|line| line.trim().parse().ok())
        .filter(|pid| *pid > 1)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tags_are_ours() {
        assert!(is_tag("jxn1a2b3c"));
        for other in ["jxn", "jxn1", "jxnzzzz", "hostns", "jx1a2b", "jxn1a2b-c1"] {
            assert!(!is_tag(other), "{other}");
        }
    }
}
