//! From a seed to a plan. Pure: the same seed and wishes give the same plan.

use super::{FAULTS, Fault, Mode, Plan, Plane, Shape, SnapshotStorage, Step, Swarm, Target};
use crate::seed::Stream;
use std::collections::BTreeMap;

/// What is asked of a plan.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// Faults by name; empty: a control run.
    pub faults: Vec<&'static str>,
    /// Whether half of the faults are left out by the seed, so that runs differ in kind.
    pub swarm: bool,
    /// Workloads.
    pub workloads: Vec<String>,
    /// Length of the fault phase in milliseconds.
    pub fault_phase_ms: u64,
    /// How nodes are made.
    pub mode: Mode,
    /// Whether the binary can reach an object server.
    pub object_storage: bool,
}

/// Quiet time before the first fault: leaders lead and jobs run.
const QUIET_MS: u64 = 1_500;

/// Faults that nodes without namespaces, disks and cgroups can bear.
const LOOPBACK: &[&str] = &[
    "kill-",
    "term-",
    "pause-",
    "partition-leader",
    "partition-follower",
    "partition-halves",
    "partition-ring",
    "partition-bridge",
    "partition-one-way-in",
    "partition-one-way-out",
    "partition-flapping",
    "partition-control",
    "partition-worker",
    "rolling-",
    "member-",
    "transfer-",
    "fsync-",
    "clock-",
    "storage-",
];

/// Draws a plan.
#[must_use]
pub fn draw(seed: u64, wishes: &Wishes) -> Plan {
    let mut faults = wishes.faults.clone();
    if wishes.mode == Mode::Loopback {
        faults.retain(|name| LOOPBACK.iter().any(|start| name.starts_with(start)));
    }
    let mut choice = Stream::new(seed, "choice");
    if wishes.swarm && faults.len() > 6 {
        choice.shuffle(&mut faults);
        faults.truncate(faults.len().div_ceil(2));
        faults.sort_unstable();
    }
    let swarm = draw_swarm(seed, &faults, wishes);
    let steps = draw_steps(seed, &faults, wishes.fault_phase_ms, &swarm);
    Plan {
        version: 1,
        seed,
        mode: wishes.mode,
        swarm,
        workloads: wishes.workloads.clone(),
        fault_phase_ms: wishes.fault_phase_ms,
        steps,
        environment: BTreeMap::new(),
        first_start: BTreeMap::new(),
    }
}

fn draw_swarm(seed: u64, faults: &[&str], wishes: &Wishes) -> Swarm {
    let mut random = Stream::new(seed, "swarm");
    let profiles = ["standard", "standard", "fast", "relaxed"];
    let storage_faults = faults
        .iter()
        .any(|name| name.starts_with("storage-") || *name == "partition-storage");
    let object_storage = random.per_mille(330) || storage_faults;
    // A number taken by each draw whatever comes of it, so that wishes do not shift the rest.
    let five = random.per_mille(250);
    let pick = |random: &mut Stream, list: &[u64]| random.pick(list).copied().unwrap_or(1);
    Swarm {
        voters: if five && wishes.mode == Mode::Isolated {
            5
        } else {
            3
        },
        spares: u32::from(faults.contains(&"member-add")),
        workers: random.between(2, 3) as u32,
        slots: 4,
        snapshot_after_logs: pick(&mut random, &[50, 100, 1000]),
        checkpoint_ms: pick(&mut random, &[50, 100, 200, 500, 1000, 5000]),
        profile: random.pick(&profiles).copied().unwrap_or("standard").to_owned(),
        heartbeat_timeout_ms: pick(&mut random, &[1000, 2000]),
        storage: if object_storage && wishes.object_storage {
            SnapshotStorage::S3
        } else {
            SnapshotStorage::File
        },
        clients: 2,
    }
}

fn draw_steps(seed: u64, faults: &[&'static str], phase_ms: u64, swarm: &Swarm) -> Vec<Step> {
    let mut random = Stream::new(seed, "faults");
    let mut steps = Vec::new();
    let mut at_ms = QUIET_MS + random.below(500);
    // Every fault comes once before one comes twice.
    let mut bag: Vec<&'static str> = Vec::new();
    while at_ms + 500 < phase_ms {
        if bag.is_empty() {
            bag = faults.to_vec();
            random.shuffle(&mut bag);
        }
        let Some(name) = bag.pop() else { break };
        let (fault, for_ms) = parameters(name, &mut random, swarm);
        let for_ms = for_ms.min(phase_ms.saturating_sub(at_ms));
        steps.push(Step {
            id: steps.len() as u32 + 1,
            name: name.to_owned(),
            at_ms,
            for_ms,
            fault,
        });
        // Some faults begin while others last, most have the stage to themselves.
        let overlap = random.per_mille(300);
        let rest = random.between(300, 1800);
        at_ms += if overlap {
            random.between(100, for_ms.max(101))
        } else {
            for_ms + rest
        };
    }
    steps
}

/// A lease and the longest election that can follow it, in milliseconds.
fn lease_ms(swarm: &Swarm) -> u64 {
    match swarm.profile.as_str() {
        "fast" => 200,
        "relaxed" => 1600,
        _ => 400,
    }
}

fn parameters(name: &str, random: &mut Stream, swarm: &Swarm) -> (Fault, u64) {
    let lease = lease_ms(swarm);
    let n = random.next_u64() % 64;
    let short = random.between(100, 1500);
    let long = random.between(lease, lease * 6).max(500);
    let paused = random.between(lease / 2, lease * 10);
    let silent = swarm.heartbeat_timeout_ms + random.between(0, 2000);
    match name {
        "term-leader" => (
            Fault::Term {
                target: Target::Leader,
            },
            short,
        ),
        "term-worker" => (
            Fault::Term {
                target: Target::Worker(n),
            },
            short,
        ),
        "rolling-restart" | "upgrade" => {
            let pause_ms = random.between(100, 1500);
            let upgrade = name == "upgrade";
            (Fault::Rolling { pause_ms, upgrade }, 10)
        }
        "pause-leader" => (
            Fault::Pause {
                target: Target::Leader,
            },
            paused,
        ),
        "pause-follower" => (
            Fault::Pause {
                target: Target::Follower(n),
            },
            paused,
        ),
        "pause-worker" => (
            Fault::Pause {
                target: Target::Worker(n),
            },
            silent,
        ),
        "freeze-leader" => (
            Fault::Freeze {
                target: Target::Leader,
            },
            paused,
        ),
        "freeze-worker" => (
            Fault::Freeze {
                target: Target::Worker(n),
            },
            silent,
        ),
        "transfer-leader" => (Fault::Transfer, 1000),
        "member-add" => (Fault::MemberAdd, random.between(1000, 4000)),
        "member-remove-follower" => (
            Fault::MemberRemove {
                target: Target::Follower(n),
            },
            long,
        ),
        "member-remove-leader" => (
            Fault::MemberRemove {
                target: Target::Leader,
            },
            long,
        ),
        "cpu-squeeze" => {
            let target = random
                .pick(&[Target::Leader, Target::Workers, Target::Coordinators])
                .cloned();
            let percent = random.between(5, 20) as u32;
            (
                Fault::Cpu {
                    target: target.unwrap_or(Target::Leader),
                    percent,
                },
                long,
            )
        }
        "memory-squeeze" => {
            let above_mib = random.between(1, 8) as u32;
            (
                Fault::Memory {
                    target: Target::Worker(n),
                    above_mib,
                },
                long,
            )
        }
        _ if name.starts_with("kill-") => kill(name, random, n, short),
        _ if name.starts_with("partition-") => partition(name, random, n, long, silent, lease),
        _ if name.starts_with("clock-") => clock(name, random, n, long),
        _ if name.starts_with("storage-") => storage(name, random, long),
        _ if ["delay", "loss", "duplicate", "reorder", "slow-link"].contains(&name) => {
            packets(name, random, n, long)
        }
        _ => disk(name, random, n, short, long),
    }
}

fn kill(name: &str, random: &mut Stream, n: u64, short: u64) -> (Fault, u64) {
    let target = match name {
        "kill-follower" => Target::Follower(n),
        "kill-majority" => Target::Majority,
        "kill-all" => Target::All,
        "kill-worker" => Target::Worker(n),
        "kill-workers" => Target::Workers,
        _ => Target::Leader,
    };
    let again_after_ms = (name == "kill-double").then(|| random.between(100, 2000));
    (
        Fault::Kill {
            target,
            again_after_ms,
        },
        short,
    )
}

fn partition(name: &str, random: &mut Stream, n: u64, long: u64, silent: u64, lease: u64) -> (Fault, u64) {
    let one = if n.is_multiple_of(2) {
        Target::Leader
    } else {
        Target::Follower(n)
    };
    let (shape, plane, for_ms) = match name {
        "partition-leader" => (Shape::Alone(Target::Leader), Plane::Any, long),
        "partition-follower" => (Shape::AmongCoordinators(Target::Follower(n)), Plane::Any, long),
        "partition-halves" => {
            let leader_minor = random.per_mille(500);
            (Shape::Halves { leader_minor }, Plane::Any, long)
        }
        "partition-ring" => (Shape::Ring, Plane::Any, long),
        "partition-bridge" => (Shape::Bridge, Plane::Any, long),
        "partition-one-way-in" => (Shape::OneWayIn(one), Plane::Any, long),
        "partition-one-way-out" => (Shape::OneWayOut(one), Plane::Any, long),
        "partition-control" => (Shape::Alone(one), Plane::Control, long),
        "partition-data" => (Shape::WorkersApart, Plane::Data, long),
        "partition-workers" => (
            Shape::WorkersFromCoordinators(Target::Workers),
            Plane::Any,
            silent,
        ),
        "partition-worker" => (Shape::Alone(Target::Worker(n)), Plane::Any, silent),
        "partition-storage" => (Shape::FromStorage(Target::All), Plane::Any, long),
        _ => (Shape::AmongCoordinators(Target::Leader), Plane::Any, lease * 6),
    };
    let flap_ms = (name == "partition-flapping").then(|| random.between(lease * 3 / 10, lease * 12 / 10));
    (
        Fault::Partition {
            shape,
            plane,
            flap_ms,
        },
        for_ms,
    )
}

fn packets(name: &str, random: &mut Stream, n: u64, long: u64) -> (Fault, u64) {
    let wide = [Target::All, Target::Leader, Target::Workers, Target::Follower(n)];
    let target = random.pick(&wide).cloned().unwrap_or(Target::All);
    let (mut delay_ms, mut jitter_ms, mut loss, mut duplicate, mut reorder) = (0, 0, 0, 0, 0);
    match name {
        "delay" => (delay_ms, jitter_ms) = (random.between(2, 60) as u32, random.between(0, 40) as u32),
        "loss" => loss = random.between(10, 200) as u32,
        "duplicate" => duplicate = random.between(50, 400) as u32,
        "reorder" => reorder = random.between(50, 400) as u32,
        _ => (delay_ms, jitter_ms) = (random.between(100, 500) as u32, 50),
    }
    let fault = Fault::Packets {
        target,
        delay_ms,
        jitter_ms,
        loss,
        duplicate,
        reorder,
    };
    (fault, long)
}

fn clock(name: &str, random: &mut Stream, n: u64, long: u64) -> (Fault, u64) {
    let targets = [
        Target::Leader,
        Target::Follower(n),
        Target::Worker(n),
        Target::Coordinators,
        Target::All,
    ];
    let target = random.pick(&targets).cloned().unwrap_or(Target::Leader);
    // From a tenth of a second to a day, both ways.
    let size = random
        .pick(&[100i64, 1_000, 60_000, 3_600_000, 86_400_000])
        .copied()
        .unwrap_or(1000);
    let jump = if random.per_mille(500) { size } else { -size };
    let (jump_ms, drift_ppm, strobe_ms) = match name {
        "clock-drift" => (0, if jump > 0 { 50_000 } else { -50_000 }, None),
        "clock-strobe" => (jump, 0, Some(random.between(5, 100))),
        _ => (jump, 0, None),
    };
    let fault = Fault::Clock {
        target,
        jump_ms,
        drift_ppm,
        strobe_ms,
    };
    (fault, long)
}

fn storage(name: &str, random: &mut Stream, long: u64) -> (Fault, u64) {
    let mode = name.trim_start_matches("storage-").to_owned();
    let (share, ms) = match mode.as_str() {
        "slow" => (1000, random.between(20, 800) as u32),
        "errors" => (random.between(200, 900) as u32, 0),
        "hang" => (random.between(50, 500) as u32, 0),
        "apply-drop" => (random.between(100, 500) as u32, 0),
        "late-list" => (1000, random.between(200, 3000) as u32),
        _ => (1000, 0),
    };
    (Fault::Storage { mode, share, ms }, long)
}

fn disk(name: &str, random: &mut Stream, n: u64, short: u64, long: u64) -> (Fault, u64) {
    let one = if random.per_mille(500) {
        Target::Leader
    } else {
        Target::Follower(n)
    };
    match name {
        "power-loss" => (
            Fault::PowerLoss {
                target: one,
                torn: false,
            },
            short,
        ),
        "power-loss-all" => (
            Fault::PowerLoss {
                target: Target::All,
                torn: false,
            },
            short,
        ),
        "torn-write" => (
            Fault::PowerLoss {
                target: one,
                torn: true,
            },
            short,
        ),
        "fsync-error" => {
            let nth = random.between(1, 60);
            (
                Fault::FsyncError {
                    target: one,
                    nth,
                    delay_us: 0,
                },
                long,
            )
        }
        "fsync-slow" => {
            let delay_us = random.between(2_000, 100_000);
            (
                Fault::FsyncError {
                    target: one,
                    nth: 0,
                    delay_us,
                },
                long,
            )
        }
        "disk-full" => (Fault::DiskFull { target: one }, long),
        "disk-stall" => (Fault::DiskStall { target: one }, random.between(200, 4000)),
        "bit-flip" => (
            Fault::BitFlip {
                target: Target::Follower(n),
                at: n,
            },
            long,
        ),
        "bit-flip-leader" => (
            Fault::BitFlip {
                target: Target::Leader,
                at: n,
            },
            long,
        ),
        _ => (
            Fault::Kill {
                target: one,
                again_after_ms: None,
            },
            short,
        ),
    }
}

/// Every name of [`FAULTS`].
#[must_use]
pub fn every_fault() -> Vec<&'static str> {
    FAULTS
        .iter()
        .flat_map(|(_, members)| members.iter().copied())
        .collect()
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;
