//! Faults of disks: lost power, failing and slow syncs, no space, no answer, a flipped bit.

use super::process::{installed, is_coordinator};
use super::{Outcome, Tools, skipped};
use crate::check::words::note;
use crate::cluster::Start;
use crate::env::{Role, SHARED, disk as images};
use crate::plan::Target;
use crate::seed::Stream;
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::time::Duration;

/// Bytes that are left of a full disk.
const LEFT: u64 = 16 * 1024;
/// Bytes of a torn write that never reached the disk.
const TORN: u64 = 512;

/// The coordinators among a target that have disks. Workers share one.
fn with_disks(tools: &Tools, target: &Target) -> Vec<String> {
    let mut targets = tools.resolve(target);
    targets.retain(|name| is_coordinator(tools, name) && tools.cluster.env().disk(name).is_some());
    targets
}

/// Every worker meets the power loss of the shared disk; a coordinator that of its own.
pub(super) fn power_loss(tools: &Tools, target: &Target, torn: bool) -> Result<Outcome> {
    let cluster = &tools.cluster;
    let mut targets = tools.resolve(target);
    let shared = targets.iter().any(|name| !is_coordinator(tools, name));
    if shared {
        let workers = tools.places(Role::Worker).into_iter().map(|place| place.name);
        targets.retain(|name| is_coordinator(tools, name));
        targets.extend(workers.filter(|name| cluster.runs(name)));
    }
    let mut disks: Vec<String> = targets
        .iter()
        .filter(|name| is_coordinator(tools, name))
        .cloned()
        .collect();
    disks.extend(shared.then(|| SHARED.to_owned()));
    if disks.iter().any(|name| cluster.env().disk(name).is_none()) {
        return skipped("nodes have no disks of their own here");
    }
    let mut leased = targets.clone();
    leased.extend(disks.iter().filter(|name| *name == SHARED).cloned());
    let Some(lease) = tools.lease(&leased).filter(|_| !targets.is_empty()) else {
        return skipped("no such node is free");
    };
    lose_power(tools, &targets, &disks, torn)?;
    let (own, names) = (tools.clone(), targets.clone());
    let heal = move || {
        for name in &names {
            own.cluster.start_node(name, Start::default())?;
        }
        Ok(Some(true))
    };
    Ok(installed(
        targets,
        format!("disks {}", disks.join(", ")),
        heal,
        Some(lease),
    ))
}

/// Power goes everywhere at once: first the disks, so that nothing more is written, then the processes.
pub(super) fn lose_power(tools: &Tools, targets: &[String], disks: &[String], torn: bool) -> Result<()> {
    let cluster = &tools.cluster;
    for name in targets {
        cluster.expect_exit(name, true)?;
    }
    for name in disks {
        cluster.env().disk(name).context("disk")?.power_off()?;
    }
    for name in targets {
        cluster.signal(name, Signal::SIGKILL).ok();
    }
    for name in targets {
        cluster.kill(name)?;
    }
    for name in disks {
        cluster.env().disk(name).context("disk")?.power_on()?;
        if torn && name != SHARED {
            let log = cluster.env().data_dir(name);
            images::tear_log(&log, TORN, &mut Stream::new(tools.seed, "torn"))?;
        }
    }
    Ok(())
}

/// A process that is armed with a loss of power stops itself at its point, after saying so; its power is taken then.
pub(super) fn power_at_point(tools: &Tools, name: &str) -> Result<()> {
    let log = tools.logs.join(format!("{name}.inject"));
    loop {
        // Looked at once more after the end of the phase: a process must not be left standing at its point.
        let last = tools.stopping();
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        if said.lines().any(|line| line.starts_with("fired ")) {
            break;
        }
        if last {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let world = tools.cluster.world();
    let targets = vec![name.to_owned()];
    let disk = if is_coordinator(tools, name) { name } else { SHARED };
    let disks: Vec<String> = tools
        .cluster
        .env()
        .disk(disk)
        .map(|_| disk.to_owned())
        .into_iter()
        .collect();
    // Others write to the shared disk too: they lose power with it.
    let mut all = targets.clone();
    if disk == SHARED && !disks.is_empty() {
        all = tools.cluster.workers();
    }
    let event = |phase: Option<&str>| {
        let event = note(world.now(), "nemesis", "nemesis", "power-loss-at-point");
        let event = event.with("outcome", "installed").with("targets", all.clone());
        phase.map_or(event.clone(), |phase| {
            event.with("phase", phase).with("effect", true)
        })
    };
    world.record(event(None));
    lose_power(tools, &all, &disks, false)?;
    for name in &all {
        tools.cluster.start_node(name, Start::default())?;
    }
    world.record(event(Some("heal")));
    Ok(())
}

/// A process whose syncs fail or are slow, until it is started again without.
pub(super) fn fsync(tools: &Tools, target: &Target, nth: u64, delay_us: u64) -> Result<Outcome> {
    let targets = tools.resolve(target);
    let Some(shim) = tools.shim.clone() else {
        return skipped("there is no library with faults of the disk");
    };
    let Some(lease) = tools.lease(&targets).filter(|_| !targets.is_empty()) else {
        return skipped("no such node is free");
    };
    for name in &targets {
        tools.cluster.kill(name)?;
        let log = tools.logs.join(format!("{name}.shim"));
        let mut extra = BTreeMap::from([
            ("LD_PRELOAD".to_owned(), shim.display().to_string()),
            (
                "SHIM_DIR".to_owned(),
                tools.cluster.env().home().display().to_string(),
            ),
            ("SHIM_LOG".to_owned(), log.display().to_string()),
        ]);
        if delay_us > 0 {
            extra.insert("SHIM_FSYNC_DELAY_US".to_owned(), delay_us.to_string());
        } else {
            extra.insert("SHIM_FAULT".to_owned(), format!("op=fsync,nth={nth},action=eio"));
        }
        tools.cluster.start_node(
            name,
            // It ends when its sync fails, as it should.
            Start {
                extra,
                expected: delay_us == 0,
                ..Start::default()
            },
        )?;
    }
    let (own, names) = (tools.clone(), targets.clone());
    let heal = move || {
        let mut effect = delay_us > 0;
        for name in &names {
            let said = std::fs::read_to_string(own.logs.join(format!("{name}.shim"))).unwrap_or_default();
            effect |= !said.is_empty();
            own.cluster.kill(name)?;
            own.cluster.start_node(name, Start::default())?;
        }
        Ok(Some(effect))
    };
    let detail = if delay_us > 0 {
        format!("each sync {delay_us} us later")
    } else {
        format!("sync {nth} fails")
    };
    Ok(installed(targets, detail, heal, Some(lease)))
}

pub(super) fn full(tools: &Tools, target: &Target) -> Result<Outcome> {
    let targets = with_disks(tools, target);
    let Some(lease) = tools.lease(&targets).filter(|_| !targets.is_empty()) else {
        return skipped("no node with a disk is free");
    };
    let mut taken = 0;
    for name in &targets {
        // A coordinator that cannot write ends, as it should.
        tools.cluster.expect_exit(name, true)?;
        taken += tools.cluster.env().disk(name).context("disk")?.fill(LEFT)?;
    }
    let (own, names) = (tools.clone(), targets.clone());
    let heal = move || {
        for name in &names {
            own.cluster.env().disk(name).context("disk")?.empty()?;
            own.cluster.expect_exit(name, false)?;
            if !own.cluster.runs(name) {
                own.cluster.kill(name)?;
                own.cluster.start_node(name, Start::default())?;
            }
        }
        Ok(Some(taken > 0))
    };
    Ok(installed(
        targets,
        format!("{} MiB of ballast", taken >> 20),
        heal,
        Some(lease),
    ))
}

pub(super) fn stall(tools: &Tools, target: &Target, for_ms: u64) -> Result<Outcome> {
    let targets = with_disks(tools, target);
    let Some(lease) = tools.lease(&targets).filter(|_| !targets.is_empty()) else {
        return skipped("no node with a disk is free");
    };
    let longest = Duration::from_millis(for_ms) + Duration::from_secs(1);
    let mut stalls = Vec::new();
    for name in &targets {
        stalls.push(tools.cluster.env().disk(name).context("disk")?.stall(longest)?);
    }
    let heal = move || {
        drop(stalls);
        Ok(None)
    };
    Ok(installed(targets, "frozen file system", heal, Some(lease)))
}

/// What a coordinator that finds the damage does is its own affair, as long as nothing wrong is answered: it may refuse
/// to start. Then the bit is flipped back before it is started again.
pub(super) fn bit_flip(tools: &Tools, target: &Target, at: u64) -> Result<Outcome> {
    let targets = with_disks(tools, target);
    let Some(lease) = tools.lease(&targets).filter(|_| targets.len() == 1) else {
        return skipped("no single node with a disk is free");
    };
    let name = targets[0].clone();
    tools.cluster.kill(&name)?;
    let mut random = Stream::new(tools.seed ^ at, "bit-flip");
    let flipped = images::flip_a_bit(&tools.cluster.env().data_dir(&name), &mut random)?;
    let start = Start {
        expected: true,
        ..Start::default()
    };
    tools.cluster.start_node(&name, start)?;
    let detail = format!(
        "{} byte {} bit {}",
        flipped.file.display(),
        flipped.offset,
        flipped.bit
    );
    let own = tools.clone();
    let heal = move || {
        let refused = !own.cluster.runs(&name);
        if refused {
            own.cluster.kill(&name)?;
            images::flip(&flipped)?;
            own.cluster.start_node(&name, Start::default())?;
        } else {
            own.cluster.expect_exit(&name, false)?;
        }
        Ok(Some(true))
    };
    Ok(installed(targets, detail, heal, Some(lease)))
}
