//! The smallest plan that still fails: delta debugging over its steps (Zeller and Hildebrandt, "Simplifying and isolating
//! failure-inducing input", IEEE TSE 2002). Real processes are not deterministic, so the caller says by repeated runs
//! whether a plan fails.

use super::{Plan, Step};

/// Removes steps as long as `fails` says that the rest still fails. `fails` is asked of at most `budget` plans.
///
/// # Errors
/// As `fails`.
pub fn shrink<E>(
    plan: &Plan,
    budget: usize,
    mut fails: impl FnMut(&Plan) -> Result<bool, E>,
) -> Result<Plan, E> {
    let mut best = plan.clone();
    let mut left = budget;
    let mut parts = 2;
    while best.steps.len() > 1 && left > 0 {
        let size = best.steps.len().div_ceil(parts);
        let mut found = None;
        for at in 0..best.steps.len().div_ceil(size) {
            if left == 0 {
                break;
            }
            left -= 1;
            let candidate = with_steps(plan, without(&best.steps, at * size, size));
            if fails(&candidate)? {
                found = Some(candidate);
                break;
            }
        }
        match found {
            Some(smaller) => {
                best = smaller;
                parts = parts.saturating_sub(1).max(2);
            }
            None if size == 1 => break,
            None => parts = (parts * 2).min(best.steps.len()),
        }
    }
    // With fewer steps the phase may be shorter.
    let end = best
        .steps
        .iter()
        .map(|step| step.at_ms + step.for_ms)
        .max()
        .unwrap_or(0)
        + 2_000;
    if end < best.fault_phase_ms && left > 0 {
        let mut shorter = best.clone();
        shorter.fault_phase_ms = end;
        if fails(&shorter)? {
            best = shorter;
        }
    }
    Ok(best)
}

fn without(steps: &[Step], from: usize, count: usize) -> Vec<Step> {
    let kept = steps
        .iter()
        .enumerate()
        .filter(|(at, _)| !(from..from + count).contains(at));
    kept.map(|(_, step)| step.clone()).collect()
}

fn with_steps(plan: &Plan, steps: Vec<Step>) -> Plan {
    Plan {
        steps,
        ..plan.clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::generate::{Wishes, draw, every_fault};
    use super::super::{Mode, Plan};
    use super::*;
    use std::convert::Infallible;

    fn plan() -> Plan {
        draw(
            5,
            &Wishes {
                faults: every_fault(),
                swarm: false,
                workloads: Vec::new(),
                fault_phase_ms: 90_000,
                mode: Mode::Isolated,
                object_storage: true,
            },
        )
    }

    #[test]
    fn the_two_steps_that_matter_are_found() {
        let plan = plan();
        assert!(plan.steps.len() > 8);
        let (a, b) = (plan.steps[1].id, plan.steps[6].id);
        let mut asked = 0;
        let small = shrink(&plan, 200, |candidate| {
            asked += 1;
            let has = |id| candidate.steps.iter().any(|step| step.id == id);
            Ok::<_, Infallible>(has(a) && has(b))
        })
        .unwrap();
        assert_eq!(small.steps.iter().map(|s| s.id).collect::<Vec<_>>(), [a, b]);
        assert!(asked < 100, "{asked}");
        assert!(small.fault_phase_ms < plan.fault_phase_ms);
    }

    #[test]
    fn the_budget_is_kept_and_a_flaky_failure_keeps_the_plan() {
        let mut asked = 0;
        let same = shrink(&plan(), 7, |_| {
            asked += 1;
            Ok::<_, Infallible>(false)
        })
        .unwrap();
        assert!(asked <= 8);
        assert_eq!(same.steps, plan().steps);
    }
}
