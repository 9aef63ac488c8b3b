//! The replicated log as an ideal consensus gives it: one order for all, no entry is lost once it is committed, at most
//! one leader per term. What Raft leaves open is decided by the seed: how long an entry takes, whether what a dead
//! leader had proposed survives it, how far followers lag, and whether a proposer ever learns what became of its entry.

use holdfast_machine::command::Proposal;
use std::collections::VecDeque;
use std::sync::Arc;

/// Who waits for an entry's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiter {
    /// Nobody.
    Nobody,
    /// A leader's services: run, ticket, which try.
    Core { run: u64, ticket: u64, tries: u32 },
    /// A node that claims its role.
    Claim { term: u64 },
    /// A client: number, request, which try.
    Client { client: usize, request: u64 },
}

/// What stands in an entry.
#[derive(Debug, Clone)]
pub(super) enum Payload {
    /// A new leader's first entry.
    Blank,
    Proposal(Arc<Proposal>),
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) payload: Payload,
    /// Where it was proposed: node and its process generation.
    pub(super) origin: (usize, u32),
    pub(super) waiter: Waiter,
}

/// An entry that is not committed yet.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) entry: Entry,
    /// When a quorum can have stored it.
    pub(super) ready_us: u64,
    /// It may have reached another node, so it may survive its leader.
    pub(super) spread: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Committed; the entry at position i has index i + 1.
    pub(super) entries: Vec<Entry>,
    pub(super) term: u64,
    /// The newest term's leader.
    pub(super) leader: Option<usize>,
    pub(super) pending: VecDeque<Pending>,
    /// When the leader was last seen with a quorum.
    pub(super) healthy_us: u64,
    /// How long consensus waits before it elects another.
    pub(super) patience_us: u64,
}

impl Log {
    pub(super) fn last(&self) -> u64 {
        self.entries.len() as u64
    }
}
