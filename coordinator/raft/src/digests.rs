//! Whether all coordinators compute the same state: the leader sends the digests of its state at recent entries, and
//! every other coordinator compares those that it has. A difference is a defect in the state machine or a broken
//! machine; it is shouted about, and nothing else is done, since nobody knows which one is right.

use crate::core::Core;
use crate::net::Lane;
use holdfast_common::limits::RPC_DEADLINE;
use holdfast_machine::{Digest, State};
use holdfast_proto::raft as pb;
use parking_lot::Mutex;
use prost::bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::mpsc;

/// Between two comparisons.
const PERIOD: Duration = Duration::from_secs(1);
/// Digests kept for comparison: half a minute.
const DIGESTS_KEPT: usize = 16;
/// States that wait for their digest. One more is passed over: only entries that both sides have are compared.
const STATES_WAITING: usize = 2;

/// Digests by the entry that the state is of, in the order in which they were taken.
pub(crate) type Digests = Arc<Mutex<VecDeque<(u64, Digest)>>>;

/// Takes digests without holding entries up: of copies, on a thread in the background.
pub(crate) struct Hasher {
    states: mpsc::Sender<(u64, State)>,
}

impl Hasher {
    /// Begins; ends when it is dropped.
    pub(crate) fn start(digests: Digests) -> Self {
        let (states, mut due) = mpsc::channel::<(u64, State)>(STATES_WAITING);
        tokio::spawn(async move {
            while let Some((index, state)) = due.recv().await {
                match holdfast_runtime::background("raft-digest", move || state.digest()).await {
                    Ok(digest) => keep(&mut digests.lock(), index, digest),
                    Err(error) => tracing::warn!(index, "no digest of the state: {error}"),
                }
            }
        });
        Self { states }
    }

    /// Takes the digest of the state as of entry `index`, unless too many others wait.
    pub(crate) fn digest(&self, index: u64, state: State) {
        if self.states.try_send((index, state)).is_err() {
            tracing::debug!(index, "no digest here: the ones before it are still being taken");
        }
    }
}

fn keep(digests: &mut VecDeque<(u64, Digest)>, index: u64, digest: Digest) {
    digests.push_back((index, digest));
    while digests.len() > DIGESTS_KEPT {
        digests.pop_front();
    }
}

/// Compares the digests of coordinator `from` with ours.
pub(crate) fn compare(core: &Core, from: u64, theirs: &[pb::IndexDigest]) -> pb::CompareDigestResponse {
    let ours = core.view.digests.lock().clone();
    let (compared, differing) = differing(&ours, theirs);
    let mut different = Vec::new();
    for (index, digest) in differing {
        let their = theirs.iter().find(|their| their.index == index);
        note(
            core,
            from,
            index,
            their.map_or(&[], |their| their.digest.as_ref()),
            &digest.0,
        );
        different.push(pb::IndexDigest {
            index,
            digest: Bytes::copy_from_slice(&digest.0),
        });
    }
    pb::CompareDigestResponse { compared, different }
}

/// How many entries both have a digest of, and where ours is another one.
fn differing(ours: &VecDeque<(u64, Digest)>, theirs: &[pb::IndexDigest]) -> (u32, Vec<(u64, Digest)>) {
    let mut compared = 0;
    let mut different = Vec::new();
    for their in theirs {
        // After a restart the same entry may have been applied twice: the later digest counts.
        let Some((index, digest)) = ours.iter().rev().find(|(index, _)| *index == their.index) else {
            continue;
        };
        compared += 1;
        if digest.0.as_slice() != their.digest.as_ref() {
            different.push((*index, *digest));
        }
    }
    (compared, different)
}

fn note(core: &Core, other: u64, index: u64, theirs: &[u8], ours: &[u8]) {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let text = format!(
        "at entry {index} coordinator {other} has state {} and coordinator {} has state {}",
        hex(theirs),
        core.id(),
        hex(ours)
    );
    tracing::error!(index, other, "the coordinators' states differ: {text}");
    core.digest_mismatch.lock().get_or_insert(text);
}

/// Compares with every other coordinator while this one leads.
pub(crate) async fn run(core: Weak<Core>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut sent, mut sent_before) = (0, 0);
    loop {
        ticks.tick().await;
        let Some(core) = core.upgrade() else { return };
        if !core.leadership.borrow().is_leader {
            continue;
        }
        let recent: Vec<(u64, Digest)> = core.view.digests.lock().iter().copied().collect();
        let newest = recent.last().map_or(0, |(index, _)| *index);
        // Once more after the newest was first sent, since followers apply it a moment later than the leader.
        if newest > sent_before {
            compare_all(&core, &recent).await;
        }
        sent_before = sent;
        sent = newest;
    }
}

async fn compare_all(core: &Arc<Core>, recent: &[(u64, Digest)]) {
    let digests: Vec<pb::IndexDigest> = recent
        .iter()
        .map(|(index, digest)| pb::IndexDigest {
            index: *index,
            digest: Bytes::copy_from_slice(&digest.0),
        })
        .collect();
    let membership = core.raft_metrics().membership_config;
    for (id, node) in membership.nodes().filter(|(id, _)| **id != core.id()) {
        let addr = core.peers.addr(*id, &node.rpc);
        let Ok(mut client) = core.peers.client(&addr, Lane::Append) else {
            continue;
        };
        let request = pb::CompareDigestRequest {
            caller: Some(core.caller(*id, node.dir)),
            digests: digests.clone(),
        };
        // One that cannot be asked now is asked again with the next digests.
        let Ok(Ok(answer)) = tokio::time::timeout(RPC_DEADLINE, client.compare_digest(request)).await else {
            continue;
        };
        for different in answer.into_inner().different {
            if let Some((index, ours)) = recent.iter().find(|(index, _)| *index == different.index) {
                note(core, *id, *index, &different.digest, &ours.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_common_entries_are_compared() {
        let ours = VecDeque::from([(5, Digest([1; 16])), (9, Digest([2; 16]))]);
        let their = |index, n: u8| pb::IndexDigest {
            index,
            digest: Bytes::copy_from_slice(&[n; 16]),
        };
        assert_eq!(differing(&ours, &[their(5, 1), their(7, 7)]), (1, vec![]));
        assert_eq!(
            differing(&ours, &[their(5, 1), their(9, 3)]),
            (2, vec![(9, Digest([2; 16]))])
        );
    }
}
