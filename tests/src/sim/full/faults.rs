//! The plan of what goes wrong, drawn from the seed before anything runs. Pure: the cluster carries it out.

use super::determinism::Dice;

/// A host, by its name.
pub type Host = String;

/// What goes wrong, for some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The process dies; its disk is as it left it.
    Kill(Host),
    /// The machine goes dark: nobody is told, and what was not synced is partly gone.
    PowerLoss(Host),
    /// Messages between two hosts are lost, in both directions.
    Partition(Host, Host),
    /// Messages from the first to the second are lost.
    OneWay(Host, Host),
    /// Nobody hears a host any more.
    Isolate(Host),
    /// Messages between two hosts wait until the fault ends.
    Hold(Host, Host),
    /// Everything between two hosts takes so many milliseconds.
    Slow(Host, Host, u64),
    /// A coordinator's syncs take up to so many milliseconds.
    SlowDisk(Host, u64),
    /// A coordinator's disk cannot sync any more.
    BrokenDisk(Host),
    /// Snapshot storage fails so many of a hundred calls, some of them after having done what was asked.
    Storage(u64),
}

/// A fault and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// It begins then, in milliseconds of virtual time.
    pub at_ms: u64,
    /// And lasts so long.
    pub for_ms: u64,
    /// What.
    pub fault: Fault,
}

/// Draws a plan for `from_ms..to_ms`. A seed has its own temper: some are calm, some live through a fault every second.
#[must_use]
pub fn plan(seed: u64, coordinators: &[Host], workers: &[Host], from_ms: u64, to_ms: u64) -> Vec<Planned> {
    let mut dice = Dice::new(seed, "faults");
    let gap_most = *dice.choose(&[600, 1200, 2500]);
    let all: Vec<Host> = coordinators.iter().chain(workers).cloned().collect();
    let mut planned = Vec::new();
    let mut at_ms = from_ms + dice.below(gap_most);
    while at_ms < to_ms {
        let for_ms = dice.between(50, 2500).min(to_ms.saturating_sub(at_ms) + 50);
        let fault = draw(&mut dice, coordinators, workers, &all);
        planned.push(Planned { at_ms, for_ms, fault });
        at_ms += dice.between(30, gap_most);
    }
    planned
}

fn draw(dice: &mut Dice, coordinators: &[Host], workers: &[Host], all: &[Host]) -> Fault {
    let coordinator = dice.choose(coordinators).clone();
    let one = dice.choose(all).clone();
    let mut other = dice.choose(all).clone();
    while other == one {
        other = dice.choose(all).clone();
    }
    match dice.below(100) {
        0..20 => Fault::Kill(coordinator),
        20..30 => Fault::Kill(if workers.is_empty() {
            coordinator
        } else {
            dice.choose(workers).clone()
        }),
        30..42 => Fault::PowerLoss(coordinator),
        42..50 => Fault::Partition(one, other),
        50..58 => Fault::OneWay(one, other),
        58..66 => Fault::Isolate(one),
        66..74 => Fault::Hold(one, other),
        74..82 => Fault::Slow(one, other, dice.between(20, 300)),
        82..88 => Fault::SlowDisk(coordinator, dice.between(10, 400)),
        88..92 => Fault::BrokenDisk(coordinator),
        _ => Fault::Storage(dice.between(20, 100)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_plan_and_others_have_others() {
        let (c, w) = (vec!["c1".to_owned(), "c2".to_owned()], vec!["w1".to_owned()]);
        let first = plan(7, &c, &w, 1000, 9000);
        assert_eq!(first, plan(7, &c, &w, 1000, 9000));
        assert_ne!(first, plan(8, &c, &w, 1000, 9000));
        assert!(first.iter().all(|p| (1000..9000).contains(&p.at_ms)));
        assert!(!first.is_empty());
    }
}
