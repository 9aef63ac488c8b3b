//! What a seed decides before anything happens: how large the cluster is, what it runs, and which faults it meets. Not
//! every seed meets every fault: a life with few kinds of faults goes further into each (swarm testing, Groce et al.,
//! 2012).

use super::rng::Rng;
use std::collections::BTreeMap;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    KillNode,
    FreezeNode,
    SplitNodes,
    NewLeader,
    ClockJump,
    KillWorker,
    FreezeWorker,
    StopWorker,
    BreakStream,
    CutWorker,
    StorageDown,
    StorageFlaky,
    StorageSlow,
    Damage,
    KillAll,
}

/// Faults of coordinators alone.
const COORDINATORS: &[Fault] = &[
    Fault::KillNode,
    Fault::FreezeNode,
    Fault::SplitNodes,
    Fault::NewLeader,
    Fault::ClockJump,
];

const OTHERS: &[Fault] = &[
    Fault::KillWorker,
    Fault::FreezeWorker,
    Fault::StopWorker,
    Fault::BreakStream,
    Fault::CutWorker,
    Fault::StorageDown,
    Fault::StorageFlaky,
    Fault::StorageSlow,
    Fault::Damage,
    Fault::KillAll,
];

/// Whom faults may hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Profile {
    /// Nobody: everything has to go smoothly.
    Control,
    /// Coordinators only: no task may restart.
    Coordinators,
    /// Anybody.
    All,
}

/// A job.
#[derive(Debug, Clone)]
pub(super) struct JobPlan {
    pub(super) key: String,
    /// Sources; source i reads split i.
    pub(super) sources: u32,
    /// Sinks; sink i takes the splits that leave remainder i.
    pub(super) sinks: u32,
    pub(super) settings: BTreeMap<String, String>,
    pub(super) submit_at_us: u64,
    pub(super) cancel_at_us: Option<u64>,
}

impl JobPlan {
    /// The splits that a sink reads.
    pub(super) fn splits_of(&self, sink: u32) -> Vec<u32> {
        (0..self.sources).filter(|s| s % self.sinks == sink).collect()
    }
}

/// A life.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) profile: Profile,
    pub(super) nodes: usize,
    pub(super) workers: usize,
    pub(super) slots: u32,
    pub(super) jobs: Vec<JobPlan>,
    pub(super) menu: Vec<Fault>,
    pub(super) fault_gap_us: (u64, u64),
    pub(super) safety_us: u64,
    pub(super) latency_us: (u64, u64),
    /// How often a proposal's answer is lost, in a thousand.
    pub(super) unknown: u64,
    pub(super) clients: usize,
}

impl Plan {
    pub(super) fn new(rng: &mut Rng, virtual_seconds: u64) -> Self {
        let profile = match rng.below(10) {
            0 => Profile::Control,
            1 | 2 => Profile::Coordinators,
            _ => Profile::All,
        };
        let nodes = [1, 3, 3, 3, 5][rng.index(5)];
        let workers = 2 + rng.index(3);
        let safety_us = match virtual_seconds {
            0 => rng.range((3_000_000, 7_000_000)),
            seconds => seconds * 1_000_000,
        };
        let jobs: Vec<JobPlan> = (0..1 + rng.below(2)).map(|i| job(rng, i, safety_us)).collect();
        let needed: u32 = jobs.iter().map(|j| j.sources).sum();
        let spare = u32::from(rng.chance(500));
        let slots = needed.div_ceil(u32::try_from(workers).unwrap_or(1)) + spare;
        let slow = rng.chance(200);
        Self {
            profile,
            nodes,
            workers,
            slots,
            jobs,
            menu: menu(rng, profile),
            fault_gap_us: [(20_000, 200_000), (100_000, 800_000), (300_000, 2_000_000)][rng.index(3)],
            safety_us,
            latency_us: if slow { (500, 30_000) } else { (100, 3_000) },
            unknown: if profile == Profile::Control {
                0
            } else {
                [0, 10, 100][rng.index(3)]
            },
            clients: rng.index(3),
        }
    }
}

fn job(rng: &mut Rng, number: u64, safety_us: u64) -> JobPlan {
    let sources = 1 + u32::try_from(rng.below(3)).unwrap_or(0);
    let sinks = 1 + u32::try_from(rng.below(u64::from(sources))).unwrap_or(0);
    let interval = [50, 100, 100, 250, 400][rng.index(5)];
    let settings = [
        ("execution.checkpointing.interval", format!("{interval} ms")),
        (
            "execution.checkpointing.timeout",
            format!("{} ms", [800, 3_000][rng.index(2)]),
        ),
        (
            "execution.checkpointing.num-retained",
            (1 + rng.below(3)).to_string(),
        ),
        (
            "restart-strategy.exponential-delay.initial-backoff",
            "20 ms".to_owned(),
        ),
        (
            "restart-strategy.exponential-delay.max-backoff",
            "200 ms".to_owned(),
        ),
    ];
    JobPlan {
        key: format!("job-{number}"),
        sources,
        sinks,
        settings: settings.map(|(k, v)| (k.to_owned(), v)).into(),
        submit_at_us: rng.below(500_000),
        cancel_at_us: (number > 0 && rng.chance(400)).then(|| rng.range((500_000, safety_us))),
    }
}

/// A random choice of faults; what is more often in it comes more often.
fn menu(rng: &mut Rng, profile: Profile) -> Vec<Fault> {
    let mut menu = Vec::new();
    let mut take = |rng: &mut Rng, kinds: &[Fault]| {
        let share = rng.range((200, 900));
        for kind in kinds {
            if rng.chance(share) {
                let weight = 1 + rng.below(4);
                menu.extend((0..weight).map(|_| *kind));
            }
        }
    };
    match profile {
        Profile::Control => {}
        Profile::Coordinators => take(rng, COORDINATORS),
        Profile::All => {
            take(rng, COORDINATORS);
            take(rng, OTHERS);
        }
    }
    menu
}
