//! How consensus goes on: elections, commits, and entries that reach each node's copy of the state machine.

use super::coordinator::Snapshot;
use super::log::{Entry, Payload, Pending, Waiter};
use super::world::{EPOCH_MS, Event, Proc, World};
use holdfast_machine::command::{Proposal, Response};
use holdfast_machine::state::State;
use std::sync::Arc;

/// How often consensus looks after its leader.
const LOOK_US: u64 = 10_000;
/// A leader without a quorum for so long stops leading.
const LEASE_US: u64 = 300_000;
/// Time to store an entry on a quorum.
const COMMIT_US: (u64, u64) = (500, 8_000);
/// Every so many entries the digests of all copies are compared.
const DIGEST_EVERY: u64 = 16;

impl World {
    /// The nodes that a node can reach, itself included.
    fn reach(&self, from: usize) -> usize {
        let me = Proc::Node(from);
        (0..self.nodes.len())
            .filter(|i| self.reaches(me, Proc::Node(*i)))
            .count()
    }

    pub(super) fn has_quorum(&self, node: usize) -> bool {
        let p = Proc::Node(node);
        self.is_alive(p) && !self.is_frozen(p) && self.reach(node) * 2 > self.nodes.len()
    }

    pub(super) fn watch(&mut self) {
        self.after(LOOK_US, None, Event::Watch);
        let term = Some(self.log.term);
        let healthy = self
            .log
            .leader
            .is_some_and(|l| self.has_quorum(l) && self.nodes[l].leads == term);
        if healthy {
            self.log.healthy_us = self.now_us;
        } else if self.now_us >= self.log.healthy_us + self.log.patience_us {
            let able: Vec<usize> = (0..self.nodes.len()).filter(|n| self.has_quorum(*n)).collect();
            if !able.is_empty() {
                let winner = able[self.rng.index(able.len())];
                self.elect(winner);
            }
        }
        for node in 0..self.nodes.len() {
            self.look_after(node);
        }
        self.after(0, None, Event::Commit);
    }

    /// A node that believes that it leads finds out whether it does.
    fn look_after(&mut self, node: usize) {
        let (Some(term), false) = (self.nodes[node].leads, self.nodes[node].frozen) else {
            return;
        };
        if self.has_quorum(node) {
            self.nodes[node].quorum_us = self.now_us;
        }
        let superseded = term < self.log.term
            && self
                .log
                .leader
                .is_some_and(|l| self.reaches(Proc::Node(node), Proc::Node(l)));
        let expired = self.now_us > self.nodes[node].quorum_us + LEASE_US;
        if superseded || expired {
            let wait = self.rng.below(20_000);
            self.after(wait, Some(Proc::Node(node)), Event::Deposed { node, term });
        }
    }

    /// A node comes to lead. A prefix of what its predecessor had proposed survives.
    pub(super) fn elect(&mut self, winner: usize) {
        let spread = self.log.pending.iter().take_while(|p| p.spread).count();
        let survive = self.rng.index(spread + 1);
        let pending: Vec<Pending> = self.log.pending.drain(..).collect();
        let lost = pending.len() - survive;
        self.log.term += 1;
        let term = self.log.term;
        self.log.leader = Some(winner);
        self.log.healthy_us = self.now_us;
        self.log.patience_us = self.rng.range((60_000, 400_000));
        self.note(1, winner as u64, term, || {
            format!("node {winner} leads term {term}; of its predecessor's entries {survive} survive, {lost} do not")
        });
        self.count("elections");
        for p in pending.into_iter().take(survive) {
            self.append(p.entry);
        }
        self.nodes[winner].leads = Some(term);
        self.nodes[winner].quorum_us = self.now_us;
        self.append(Entry {
            payload: Payload::Blank,
            origin: (winner, self.nodes[winner].generation),
            waiter: Waiter::Nobody,
        });
        self.spread_commit();
        let upto = self.log.last();
        self.after(500, Some(Proc::Node(winner)), Event::Apply { node: winner, upto });
        self.after(
            1_000,
            Some(Proc::Node(winner)),
            Event::Claim { node: winner, term },
        );
    }

    /// Proposes at a node. False if it does not lead, and certainly nothing happens.
    pub(super) fn propose(&mut self, node: usize, proposal: Proposal, waiter: Waiter) -> bool {
        let Some(term) = self.nodes[node].leads else {
            return false;
        };
        if term < self.log.term || self.log.leader != Some(node) {
            // It does not know yet that it was deposed: its entry goes nowhere.
            return true;
        }
        let wait = self.rng.range(COMMIT_US);
        let spread = self.reach(node) > 1;
        let after = self.log.pending.back().map_or(0, |p| p.ready_us);
        let ready_us = (self.now_us + wait).max(after);
        self.log.pending.push_back(Pending {
            entry: Entry {
                payload: Payload::Proposal(Arc::new(proposal)),
                origin: (node, self.nodes[node].generation),
                waiter,
            },
            ready_us,
            spread,
        });
        self.at(ready_us, None, Event::Commit);
        true
    }

    /// A proposal as a node makes it now.
    pub(super) fn stamp(&self, node: usize, command: holdfast_machine::command::Command) -> Proposal {
        Proposal {
            proposed_ms: self.wall_ms(node),
            session: None,
            command,
        }
    }

    pub(super) fn wall_ms(&self, node: usize) -> u64 {
        EPOCH_MS + self.now_us / 1000 + self.nodes[node].wall_ms
    }

    pub(super) fn commit(&mut self) {
        let Some(leader) = self.log.leader else { return };
        if !self.has_quorum(leader) || self.nodes[leader].leads != Some(self.log.term) {
            return;
        }
        let mut any = false;
        while self
            .log
            .pending
            .front()
            .is_some_and(|p| p.ready_us <= self.now_us)
        {
            if let Some(p) = self.log.pending.pop_front() {
                self.append(p.entry);
                any = true;
            }
        }
        if any {
            self.spread_commit();
        }
    }

    /// An entry is committed: from here on it is there for ever.
    fn append(&mut self, entry: Entry) {
        self.log.entries.push(entry);
        self.count("entries");
        let index = self.log.last();
        self.judge_entry(index);
    }

    /// Tells every node that can be told how far the log has come.
    pub(super) fn spread_commit(&mut self) {
        let Some(leader) = self.log.leader else { return };
        let upto = self.log.last();
        for node in 0..self.nodes.len() {
            if !self.reaches(Proc::Node(leader), Proc::Node(node)) {
                continue;
            }
            let wait = if node == leader {
                self.rng.below(1_500)
            } else {
                self.rng.range((500, 30_000))
            };
            self.after(wait, Some(Proc::Node(node)), Event::Apply { node, upto });
        }
    }

    /// A node applies what is committed, as far as it knows.
    pub(super) fn apply(&mut self, node: usize, upto: u64) {
        let upto = upto.min(self.log.last());
        let mut applied_any = false;
        while self.nodes[node].state.applied < upto {
            let index = self.nodes[node].state.applied + 1;
            let entry = self.log.entries[usize::try_from(index - 1).unwrap_or(usize::MAX)].clone();
            let response = match &entry.payload {
                Payload::Blank => {
                    self.nodes[node].state.skip(index);
                    Response::Done
                }
                Payload::Proposal(proposal) => self.nodes[node].state.apply(index, proposal),
            };
            applied_any = true;
            if index.is_multiple_of(DIGEST_EVERY) {
                let digest = self.nodes[node].state.digest();
                let digest = format!("{digest:?}");
                if let Err(detail) = self.checks.digest(index, node, digest) {
                    self.violation("copies-are-equal", detail);
                }
            }
            if entry.origin == (node, self.nodes[node].generation) {
                self.answer(node, entry.waiter, index, response);
            }
        }
        if !applied_any {
            return;
        }
        if self.rng.chance(60) {
            let bytes = self.nodes[node].state.snapshot_bytes();
            let index = self.nodes[node].state.applied;
            self.nodes[node].snapshot = Some(Snapshot {
                index,
                bytes: bytes.to_vec(),
            });
        }
        self.log_went_on(node);
    }

    /// The state with which a node comes back: its snapshot and a part of the log, as it had stored them.
    pub(super) fn recovered_state(&mut self, node: usize) -> State {
        let Some(snapshot) = &self.nodes[node].snapshot else {
            return State::default();
        };
        let index = snapshot.index;
        match State::from_snapshot_bytes(&snapshot.bytes) {
            Ok(state) if state.applied == index => state,
            Ok(state) => {
                let detail = format!(
                    "a snapshot of entry {index} gives a state of entry {}",
                    state.applied
                );
                self.violation("snapshots-restore", detail);
                State::default()
            }
            Err(error) => {
                self.violation("snapshots-restore", format!("node {node}: {error:?}"));
                State::default()
            }
        }
    }
}
