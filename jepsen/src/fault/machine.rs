//! Faults of the machine: its clock, its processor, its memory.

use super::process::installed;
use super::{Outcome, Tools, skipped};
use crate::cluster::clock_file;
use crate::plan::Target;
use anyhow::{Context, Result};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A memory limit that leaves more than this is none.
const MOST_ROOM: u64 = 1 << 30;

/// Writes offset (nanoseconds) and drift (parts per million) in place: the file is mapped by the process.
fn set(file: &Path, offset_ns: i64, drift_ppm: i64) -> Result<()> {
    let mut bytes = Vec::with_capacity(16);
    bytes.extend(offset_ns.to_ne_bytes());
    bytes.extend(drift_ppm.to_ne_bytes());
    let mut file = std::fs::File::options()
        .write(true)
        .open(file)
        .with_context(|| file.display().to_string())?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file.write_all(&bytes)?)
}

pub(super) fn clock(
    tools: &Tools,
    target: &Target,
    jump_ms: i64,
    drift: i64,
    strobe: Option<u64>,
) -> Result<Outcome> {
    let targets = tools.resolve(target);
    let env = tools.cluster.env();
    let files: Vec<PathBuf> = targets.iter().map(|name| clock_file(env, name)).collect();
    if targets.is_empty() || files.iter().any(|file| !file.exists()) {
        return skipped("no process has a clock that can be moved: the library is missing");
    }
    let offset = jump_ms * 1_000_000;
    for file in &files {
        set(file, offset, drift)?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let strobing = strobe.map(|every| {
        let (stop, files) = (Arc::clone(&stop), files.clone());
        std::thread::spawn(move || {
            let mut there = true;
            while !stop.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(every.max(1)));
                there = !there;
                for file in &files {
                    let _ = set(file, if there { offset } else { 0 }, drift);
                }
            }
        })
    });
    let heal = move || {
        stop.store(true, Ordering::SeqCst);
        if let Some(thread) = strobing {
            let _ = thread.join();
        }
        files.iter().try_for_each(|file| set(file, 0, 0))?;
        Ok(None)
    };
    Ok(installed(
        targets,
        format!("{jump_ms} ms, {drift} ppm"),
        heal,
        None,
    ))
}

pub(super) fn cpu(tools: &Tools, target: &Target, percent: u32) -> Result<Outcome> {
    let targets = tools.resolve(target);
    let env = tools.cluster.env();
    if targets.is_empty() || targets.iter().any(|name| env.cgroup(name).is_none()) {
        return skipped("there are no cgroups here");
    }
    let throttled = |tools: &Tools, names: &[String]| -> u64 {
        let groups = names.iter().filter_map(|name| tools.cluster.env().cgroup(name));
        groups.map(crate::env::cgroup::Cgroup::throttled).sum()
    };
    let before = throttled(tools, &targets);
    for name in &targets {
        env.cgroup(name).context("cgroup")?.cpu_percent(Some(percent))?;
    }
    let (own, names) = (tools.clone(), targets.clone());
    let heal = move || {
        for name in &names {
            own.cluster
                .env()
                .cgroup(name)
                .context("cgroup")?
                .cpu_percent(None)?;
        }
        Ok(Some(throttled(&own, &names) > before))
    };
    Ok(installed(targets, format!("{percent} % of a CPU"), heal, None))
}

/// Limits memory to so many bytes above the present use. The kernel refuses a limit below what it cannot take away at
/// once, so more room is left until it agrees.
fn squeeze(cgroup: &crate::env::cgroup::Cgroup, above: u64) -> Result<()> {
    let mut room = above;
    loop {
        match cgroup.memory_limit(Some(cgroup.memory_used() + room)) {
            Err(_) if room < MOST_ROOM => room *= 2,
            done => return done,
        }
    }
}

/// A process may be killed by the kernel for it; it is started again as after any death.
pub(super) fn memory(tools: &Tools, target: &Target, above_mib: u32) -> Result<Outcome> {
    let targets = tools.resolve(target);
    let env = tools.cluster.env();
    if targets.iter().any(|name| env.cgroup(name).is_none()) {
        return skipped("there are no cgroups here");
    }
    let Some(lease) = tools.lease(&targets).filter(|_| !targets.is_empty()) else {
        return skipped("no such node is free");
    };
    let failures = |tools: &Tools, names: &[String]| -> u64 {
        let groups = names.iter().filter_map(|name| tools.cluster.env().cgroup(name));
        groups.map(crate::env::cgroup::Cgroup::memory_failures).sum()
    };
    let before = failures(tools, &targets);
    for name in &targets {
        let cgroup = env.cgroup(name).context("cgroup")?;
        tools.cluster.expect_exit(name, true)?;
        squeeze(cgroup, u64::from(above_mib) << 20)?;
    }
    let (own, names) = (tools.clone(), targets.clone());
    let heal = move || {
        let met = failures(&own, &names) > before;
        for name in &names {
            own.cluster
                .env()
                .cgroup(name)
                .context("cgroup")?
                .memory_limit(None)?;
            own.cluster.expect_exit(name, false)?;
            if !own.cluster.runs(name) {
                own.cluster.kill(name)?;
                own.cluster.start_node(name, crate::cluster::Start::default())?;
            }
        }
        Ok(Some(met))
    };
    Ok(installed(
        targets,
        format!("{above_mib} MiB above the present use"),
        heal,
        Some(lease),
    ))
}
