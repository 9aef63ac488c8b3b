//! What is looked at while a cluster lives: every coordinator's metrics and state, after every tick. Knows the product
//! from within, and nothing of faults.

use super::super::Violation;
use super::trace;
use holdfast_common::NodeId;
use holdfast_machine::{Digest, State, invariants};
use holdfast_raft::testing;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// More are of no use to anybody.
const VIOLATIONS_MAX: usize = 20;
/// The last entries whose digest is kept for comparison with those who come later.
const DIGESTS_MAX: usize = 20_000;

/// The observer's memory.
#[derive(Default)]
pub struct Observer {
    /// Who led in a term.
    leaders: BTreeMap<u64, BTreeSet<NodeId>>,
    /// The state's digest after an entry: one for all coordinators and all time.
    digests: BTreeMap<u64, Digest>,
    seen: BTreeMap<NodeId, Seen>,
    /// The newest state that anybody showed.
    newest: Option<Arc<State>>,
    violations: Vec<Violation>,
}

#[derive(Default)]
struct Seen {
    term: u64,
    leader: Option<NodeId>,
    applied: u64,
    fatal: bool,
}

impl Observer {
    /// A coordinator was started anew: what it showed but had not made durable is forgotten, its term included.
    pub fn restarted(&mut self, id: NodeId) {
        self.seen.insert(id, Seen::default());
    }

    /// Looks at every coordinator that lives. `may_fail` says of which ones a fault was made that ends consensus.
    pub fn look(&mut self, ids: &[NodeId], may_fail: impl Fn(NodeId) -> bool) {
        for id in ids {
            let Some(node) = testing::node(*id) else { continue };
            let (Some(metrics), Some(state)) = (node.metrics(), node.state()) else {
                continue;
            };
            self.look_at_leadership(*id, &metrics);
            if let Some(reason) = &metrics.fatal {
                let first = !std::mem::replace(&mut self.seen.entry(*id).or_default().fatal, true);
                if first {
                    trace::event(&format!("coordinator {id}: consensus has stopped: {reason}"));
                    // A disk may stay broken through restarts, longer than the fault's own record.
                    if !may_fail(*id) && !reason.contains("the simulated disk cannot") {
                        self.violate("consensus-lives", format!("coordinator {id}: {reason}"));
                    }
                }
            }
            if let Some(mismatch) = &metrics.digest_mismatch {
                self.violate("states-equal", mismatch.clone());
            }
            self.look_at_state(*id, &state);
        }
    }

    fn look_at_leadership(&mut self, id: NodeId, metrics: &holdfast_raft::RaftMetrics) {
        let now = &metrics.leadership;
        if now.is_leader {
            // openraft orders leaders by term, then id: within a term a greater id may still win the votes of those that
            // gave them to a smaller one, which is deposed by that. Never the other way round.
            let known = self.leaders.entry(now.term).or_default();
            let greatest = known.last().copied();
            if known.insert(id) && greatest.is_some_and(|greatest| greatest > id) {
                let text = format!("term {}: coordinator {id} after {greatest:?}", now.term);
                self.violate("leaders-are-ordered", text);
            }
        }
        let seen = self.seen.entry(id).or_default();
        let backwards = now.term < seen.term;
        let before = seen.term;
        if (seen.term, seen.leader) != (now.term, now.leader) {
            seen.term = now.term;
            seen.leader = now.leader;
            trace::count("leadership changes seen", 1);
            trace::event(&format!(
                "coordinator {id}: term {}, leader {:?}{}",
                now.term,
                now.leader.map(|l| l.0),
                if now.is_leader { ", itself" } else { "" }
            ));
        }
        if backwards {
            let text = format!("coordinator {id}: from term {before} to {}", now.term);
            self.violate("terms-never-go-back", text);
        }
    }

    fn look_at_state(&mut self, id: NodeId, state: &Arc<State>) {
        let before = self.seen.entry(id).or_default().applied;
        if state.applied == before {
            return;
        }
        self.seen.entry(id).or_default().applied = state.applied;
        if state.applied < before {
            let text = format!("coordinator {id}: from entry {before} to {}", state.applied);
            self.violate("applied-never-goes-back", text);
        }
        let digest = state.digest();
        let known = self.digests.entry(state.applied).or_insert(digest);
        if *known != digest {
            let text = format!(
                "after entry {} coordinator {id} has another state than was seen before",
                state.applied
            );
            self.violate("one-state-per-entry", text);
        }
        while self.digests.len() > DIGESTS_MAX {
            self.digests.pop_first();
        }
        let newer = self
            .newest
            .as_ref()
            .is_none_or(|newest| newest.applied < state.applied);
        if !newer {
            return;
        }
        for broken in invariants::check(state) {
            self.violate("state-machine", broken.to_string());
        }
        if let Some(newest) = self.newest.clone() {
            for broken in invariants::check_step(&newest, state) {
                self.violate("state-machine", broken.to_string());
            }
        }
        self.narrate(state);
        self.newest = Some(Arc::clone(state));
    }

    /// Puts into the trace what happened to jobs.
    fn narrate(&self, now: &State) {
        let before = self.newest.as_deref();
        if before.map(|b| b.leader.as_ref().map(|l| l.epoch)) != Some(now.leader.as_ref().map(|l| l.epoch)) {
            let claim = now.leader.as_ref().map(|l| (l.epoch, l.node));
            trace::event(&format!("leader's claim {claim:?}"));
        }
        for (id, job) in &now.jobs {
            let was = before.and_then(|b| b.jobs.get(id));
            let attempt = |j: &holdfast_machine::state::Job| j.attempt.as_ref().map(|a| a.id);
            if was.map(|w| (w.status, attempt(w))) != Some((job.status, attempt(job))) {
                trace::count("job changes", 1);
                trace::event(&format!("job: {:?}, attempt {:?}", job.status, attempt(job)));
            }
            let completed = |j: &Arc<holdfast_machine::state::Job>| j.checkpoint_stats.newest_completed;
            if was.map(completed) != Some(completed(job)) {
                trace::count("checkpoints completed", 1);
                trace::event(&format!("checkpoint {} is complete", completed(job)));
            }
        }
    }

    /// Notes a violation; the same one only once.
    pub fn violate(&mut self, invariant: &str, detail: String) {
        let known = |v: &Violation| v.invariant == invariant && v.detail == detail;
        if self.violations.len() >= VIOLATIONS_MAX || self.violations.iter().any(known) {
            return;
        }
        trace::event(&format!("VIOLATION {invariant}: {detail}"));
        self.violations.push(Violation {
            invariant: invariant.to_owned(),
            detail,
            at_ms: trace::now_ms(),
        });
    }

    /// Adds what other checkers have found.
    pub fn add(&mut self, found: Vec<Violation>) {
        for violation in found {
            self.violate(&violation.invariant, violation.detail);
        }
    }

    /// The newest state that anybody showed.
    #[must_use]
    pub fn newest(&self) -> Option<&Arc<State>> {
        self.newest.as_ref()
    }

    /// Terms in which somebody led.
    #[must_use]
    pub fn terms_led(&self) -> usize {
        self.leaders.len()
    }

    /// What was found.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }
}
