//! Faults of processes: kill, orderly stop, rolling restart, pause, freeze.

use super::{Installed, Outcome, Tools, skipped};
use crate::cluster::Start;
use crate::env::Role;
use crate::plan::Target;
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use std::time::Duration;

/// Longest that an orderly stop may take before it is a finding of its own.
const STOP: Duration = Duration::from_secs(15);

pub(super) fn kill(tools: &Tools, target: &Target, again: Option<u64>) -> Result<Outcome> {
    let targets = tools.resolve(target);
    let Some(lease) = tools.lease(&targets).filter(|_| !targets.is_empty()) else {
        return skipped("no such node is free");
    };
    for name in &targets {
        tools.cluster.expect_exit(name, true)?;
        tools.cluster.signal(name, Signal::SIGKILL).ok();
    }
    for name in &targets {
        tools.cluster.kill(name)?;
    }
    let (own, names) = (tools.clone(), targets.clone());
    let heal = move || {
        let gone = names.iter().all(|name| !own.cluster.runs(name));
        start_all(&own, &names)?;
        if let Some(after) = again {
            own.sleep(Duration::from_millis(after));
            for name in &names {
                own.cluster.kill(name)?;
            }
            start_all(&own, &names)?;
        }
        Ok(Some(gone))
    };
    Ok(installed(targets, "SIGKILL", heal, Some(lease)))
}

fn start_all(tools: &Tools, names: &[String]) -> Result<()> {
    names
        .iter()
        .try_for_each(|name| tools.cluster.start_node(name, Start::default()))
}

pub(super) fn term(tools: &Tools, target: &Target) -> Result<Outcome> {
    let targets = tools.resolve(target);
    let Some(lease) = tools.lease(&targets).filter(|_| !targets.is_empty()) else {
        return skipped("no such node is free");
    };
    for name in &targets {
        tools.cluster.expect_exit(name, true)?;
        tools.cluster.signal(name, Signal::SIGTERM)?;
    }
    let (own, names) = (tools.clone(), targets.clone());
    let heal = move || {
        for name in &names {
            let ended = own.cluster.wait_exit(name, STOP);
            own.cluster.kill(name)?;
            ended?;
        }
        start_all(&own, &names)?;
        Ok(Some(true))
    };
    Ok(installed(targets, "SIGTERM", heal, Some(lease)))
}

/// One after the other; the step's length does not matter, all are restarted when it is healed.
pub(super) fn rolling(tools: &Tools, pause_ms: u64, upgrade: bool) -> Result<Outcome> {
    if upgrade && std::env::var_os(crate::runner::OTHER_BINARY).is_none() {
        return skipped(format!(
            "{} names no binary of another release",
            crate::runner::OTHER_BINARY
        ));
    }
    let mut targets = tools.cluster.coordinators();
    targets.extend(tools.cluster.workers());
    let Some(lease) = tools.lease(&targets) else {
        return skipped("a node is not free");
    };
    let (own, names) = (tools.clone(), targets.clone());
    let heal = move || {
        for name in &names {
            own.cluster.expect_exit(name, true)?;
            own.cluster.signal(name, Signal::SIGTERM)?;
            let ended = own.cluster.wait_exit(name, STOP);
            own.cluster.kill(name)?;
            ended?;
            let other_release = upgrade.then_some(true);
            own.cluster.start_node(
                name,
                Start {
                    other_release,
                    ..Start::default()
                },
            )?;
            // Not cut short by the phase's end: a rolling restart waits for the one before.
            std::thread::sleep(Duration::from_millis(pause_ms));
        }
        Ok(Some(true))
    };
    Ok(installed(
        targets,
        "SIGTERM, one after the other",
        heal,
        Some(lease),
    ))
}

pub(super) fn pause(tools: &Tools, target: &Target) -> Result<Outcome> {
    let targets = tools.resolve(target);
    let Some(lease) = tools.lease(&targets).filter(|_| !targets.is_empty()) else {
        return skipped("no such node is free");
    };
    for name in &targets {
        tools.cluster.signal(name, Signal::SIGSTOP)?;
    }
    let (own, names) = (tools.clone(), targets.clone());
    let heal = move || {
        let stopped = names.iter().all(|name| state(&own, name) == Some('T'));
        for name in &names {
            own.cluster.signal(name, Signal::SIGCONT)?;
        }
        Ok(Some(stopped))
    };
    Ok(installed(targets, "SIGSTOP", heal, Some(lease)))
}

pub(super) fn freeze(tools: &Tools, target: &Target) -> Result<Outcome> {
    let targets = tools.resolve(target);
    if targets
        .iter()
        .any(|name| tools.cluster.env().cgroup(name).is_none())
    {
        return skipped("there are no cgroups here");
    }
    let Some(lease) = tools.lease(&targets).filter(|_| !targets.is_empty()) else {
        return skipped("no such node is free");
    };
    for name in &targets {
        tools.cluster.env().cgroup(name).context("cgroup")?.freeze(true)?;
    }
    let (own, names) = (tools.clone(), targets.clone());
    let heal = move || {
        for name in &names {
            own.cluster.env().cgroup(name).context("cgroup")?.freeze(false)?;
        }
        Ok(None)
    };
    Ok(installed(targets, "frozen", heal, Some(lease)))
}

/// The state letter of a process.
fn state(tools: &Tools, name: &str) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", tools.cluster.pid(name)?)).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

pub(super) fn installed(
    targets: Vec<String>,
    detail: impl Into<String>,
    heal: impl FnOnce() -> Result<Option<bool>> + Send + 'static,
    lease: Option<super::Lease>,
) -> Outcome {
    Outcome::Installed(Installed {
        targets,
        detail: detail.into(),
        heal: Box::new(heal),
        lease,
    })
}

/// Whether a node is a coordinator.
pub(super) fn is_coordinator(tools: &Tools, name: &str) -> bool {
    tools
        .cluster
        .env()
        .place(name)
        .is_ok_and(|place| place.role == Role::Coordinator)
}
