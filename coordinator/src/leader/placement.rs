//! Placement: which worker gets which slot of a job. A small optimisation, solved as a pure function.
//!
//! Given `n` slots to place and workers with free slots, minimise, in this order:
//! 1. the sum of squares of the job's slots per worker (an even spread);
//! 2. the number of slots that move away from the worker that held them in the previous attempt;
//! 3. names, so that equal inputs give equal answers.
//!
//! Knows nothing of tasks, the log or connections.

use holdfast_common::Incarnation;
use holdfast_machine::state::SlotAssignment;

/// A worker that may take slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Stable name.
    pub resource_id: String,
    /// Its process.
    pub incarnation: Incarnation,
    /// Where other workers reach it.
    pub data_addr: String,
    /// Slots that no other job holds.
    pub free_slots: u32,
}

/// There is not enough room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the job needs {needed} slots and only {free} are free on {workers} workers; start more workers, raise taskmanager.numberOfTaskSlots or lower parallelism.default"
)]
pub struct Shortage {
    /// Wanted.
    pub needed: u32,
    /// There.
    pub free: u32,
    /// On so many workers.
    pub workers: usize,
}

/// Places `needed` slots.
///
/// # Errors
/// If there are fewer free slots.
pub fn place(
    needed: u32,
    candidates: &[Candidate],
    previous: &[SlotAssignment],
) -> Result<Vec<SlotAssignment>, Shortage> {
    let previous = &previous[..previous.len().min(needed as usize)];
    let mut workers: Vec<Worker<'_>> = candidates.iter().map(|c| Worker::new(c, previous)).collect();
    workers.sort_by(|a, b| {
        (&a.candidate.resource_id, a.candidate.incarnation)
            .cmp(&(&b.candidate.resource_id, b.candidate.incarnation))
    });
    let free: u32 = candidates
        .iter()
        .fold(0, |sum, c| sum.saturating_add(c.free_slots));
    if free < needed {
        return Err(Shortage {
            needed,
            free,
            workers: candidates.len(),
        });
    }
    for _ in 0..needed {
        if let Some(worker) = least_loaded(&mut workers) {
            worker.quota += 1;
        }
    }
    Ok(assign(needed, &mut workers, previous))
}

struct Worker<'a> {
    candidate: &'a Candidate,
    held: u32,
    quota: u32,
}

impl<'a> Worker<'a> {
    fn new(candidate: &'a Candidate, previous: &[SlotAssignment]) -> Self {
        let held = previous
            .iter()
            .filter(|slot| slot.resource_id == candidate.resource_id)
            .count();
        Self {
            candidate,
            held: u32::try_from(held).unwrap_or(u32::MAX),
            quota: 0,
        }
    }

    fn slot(&self) -> SlotAssignment {
        SlotAssignment {
            resource_id: self.candidate.resource_id.clone(),
            incarnation: self.candidate.incarnation,
            data_addr: self.candidate.data_addr.clone(),
        }
    }
}

/// Water-filling: the next slot raises the lowest level; ties go to a worker that could keep one more slot, then to the
/// one with more room.
fn least_loaded<'w, 'a>(workers: &'w mut [Worker<'a>]) -> Option<&'w mut Worker<'a>> {
    workers
        .iter_mut()
        .filter(|w| w.quota < w.candidate.free_slots)
        .min_by_key(|w| {
            (
                w.quota,
                w.held <= w.quota,
                u32::MAX - (w.candidate.free_slots - w.quota),
            )
        })
}

fn assign(needed: u32, workers: &mut [Worker<'_>], previous: &[SlotAssignment]) -> Vec<SlotAssignment> {
    let mut slots: Vec<Option<SlotAssignment>> = vec![None; needed as usize];
    for (slot, before) in slots.iter_mut().zip(previous) {
        let keeper = workers
            .iter_mut()
            .find(|w| w.quota > 0 && w.candidate.resource_id == before.resource_id);
        if let Some(worker) = keeper {
            worker.quota -= 1;
            *slot = Some(worker.slot());
        }
    }
    slots
        .into_iter()
        .filter_map(|slot| {
            slot.or_else(|| {
                let worker = workers
                    .iter_mut()
                    .filter(|w| w.quota > 0)
                    .min_by_key(|w| u32::MAX - w.quota)?;
                worker.quota -= 1;
                Some(worker.slot())
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn candidate(name: usize, free_slots: u32) -> Candidate {
        Candidate {
            resource_id: format!("w{name}"),
            incarnation: Incarnation(name as u128 + 1),
            data_addr: format!("127.0.0.1:{name}"),
            free_slots,
        }
    }

    fn slot(name: usize) -> SlotAssignment {
        SlotAssignment {
            resource_id: format!("w{name}"),
            incarnation: Incarnation(99),
            data_addr: String::new(),
        }
    }

    /// (sum of squares, moved slots) of every possible placement's minimum.
    fn brute_force(needed: usize, free: &[u32], previous: &[usize]) -> Option<(u32, u32)> {
        fn go(
            slot: usize,
            needed: usize,
            free: &mut [u32],
            used: &mut [u32],
            moved: u32,
            previous: &[usize],
        ) -> Option<(u32, u32)> {
            if slot == needed {
                return Some((used.iter().map(|u| u * u).sum(), moved));
            }
            (0..free.len())
                .filter_map(|w| {
                    if free[w] == 0 {
                        return None;
                    }
                    free[w] -= 1;
                    used[w] += 1;
                    let away = u32::from(previous.get(slot).is_some_and(|p| *p != w));
                    let best = go(slot + 1, needed, free, used, moved + away, previous);
                    free[w] += 1;
                    used[w] -= 1;
                    best
                })
                .min()
        }
        let mut used = vec![0; free.len()];
        go(0, needed, &mut free.to_vec(), &mut used, 0, previous)
    }

    proptest! {
        #[test]
        fn is_optimal(
            free in prop::collection::vec(0u32..4, 1..4),
            needed in 0u32..5,
            previous in prop::collection::vec(0usize..4, 0..5),
        ) {
            let candidates: Vec<_> = free.iter().enumerate().map(|(i, f)| candidate(i, *f)).collect();
            let before: Vec<_> = previous.iter().map(|p| slot(*p)).collect();
            let best = brute_force(needed as usize, &free, &previous);
            match place(needed, &candidates, &before) {
                Err(_) => prop_assert!(best.is_none()),
                Ok(got) => {
                    prop_assert_eq!(got.len(), needed as usize);
                    let mut used: BTreeMap<&str, u32> = BTreeMap::new();
                    for s in &got {
                        *used.entry(&s.resource_id).or_default() += 1;
                    }
                    for c in &candidates {
                        prop_assert!(used.get(c.resource_id.as_str()).copied().unwrap_or(0) <= c.free_slots);
                    }
                    let squares: u32 = used.values().map(|u| u * u).sum();
                    let moved = got.iter().zip(&before).filter(|(a, b)| a.resource_id != b.resource_id).count();
                    prop_assert_eq!(Some((squares, moved as u32)), best);
                }
            }
        }

        #[test]
        fn does_not_depend_on_the_order_of_candidates(free in prop::collection::vec(1u32..4, 1..6), needed in 1u32..6) {
            let mut candidates: Vec<_> = free.iter().enumerate().map(|(i, f)| candidate(i, *f)).collect();
            let forward = place(needed, &candidates, &[]);
            candidates.reverse();
            prop_assert_eq!(forward, place(needed, &candidates, &[]));
        }
    }

    #[test]
    fn says_what_is_missing() {
        let error = place(4, &[candidate(0, 1), candidate(1, 2)], &[]).unwrap_err();
        assert_eq!(
            error,
            Shortage {
                needed: 4,
                free: 3,
                workers: 2
            }
        );
    }

    #[test]
    fn a_lost_worker_moves_only_its_own_slots() {
        let before = [slot(0), slot(1), slot(2)];
        let got = place(3, &[candidate(0, 2), candidate(2, 2)], &before).unwrap();
        assert_eq!(got[0].resource_id, "w0");
        assert_eq!(got[2].resource_id, "w2");
    }
}
