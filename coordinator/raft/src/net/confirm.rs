//! Who has answered a heartbeat that was sent after a read had begun.
//!
//! A read is linearizable if, after it began, a quorum had promised itself to nobody newer than its leader (ReadIndex;
//! D. Ongaro, "Consensus: Bridging Theory and Practice", 2014, section 6.4). openraft counts answers on log streams too,
//! and takes one for the answer to every message up to the entry that it names. A message without entries, which only
//! tells what is committed, names the entry before it: the late answer to an old entry is taken for one to the message
//! that has just been made, and a leader that was stopped for seconds, and replaced, answers from its old state. So this
//! is counted here, from answers to heartbeats alone, each of which is a call of its own.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// The newest heartbeat that a coordinator has answered: the leader's term, and when it was sent.
type Answered = (u64, u64);

/// The answers to this coordinator's heartbeats. Moments are counted, so that no two are the same.
#[derive(Debug)]
pub(crate) struct Confirmations {
    moment: AtomicU64,
    answered: watch::Sender<BTreeMap<u64, Answered>>,
}

impl Default for Confirmations {
    fn default() -> Self {
        Self {
            moment: AtomicU64::new(0),
            answered: watch::Sender::new(BTreeMap::new()),
        }
    }
}

impl Confirmations {
    /// A moment later than all before.
    pub(crate) fn moment(&self) -> u64 {
        self.moment.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// `peer` has promised itself to nobody newer than the leader of `term` at some time after `sent`.
    pub(crate) fn answered(&self, peer: u64, term: u64, sent: u64) {
        self.answered.send_if_modified(|all| {
            let newest = all.entry(peer).or_default();
            let newer = (term, sent) > *newest;
            *newest = (*newest).max((term, sent));
            newer
        });
    }

    /// Waits, without an end, until a majority of each set of voters has answered a heartbeat of `term` that was sent
    /// after `since`. The leader, `own`, counts as one of them.
    pub(crate) async fn quorum(&self, own: u64, voters: &[BTreeSet<u64>], term: u64, since: u64) {
        let mut answered = self.answered.subscribe();
        let reached = answered.wait_for(|all| is_quorum(all, own, voters, term, since));
        // It fails if the sender is gone, which is kept here.
        let _ = reached.await;
    }
}

fn is_quorum(
    answered: &BTreeMap<u64, Answered>,
    own: u64,
    voters: &[BTreeSet<u64>],
    term: u64,
    since: u64,
) -> bool {
    let confirms = |id: &&u64| {
        let newest = answered.get(*id);
        **id == own || newest.is_some_and(|(of, sent)| *of == term && *sent > since)
    };
    voters
        .iter()
        .all(|set| set.iter().filter(confirms).count() > set.len() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn reached(confirmations: &Confirmations, voters: &[&[u64]], term: u64, since: u64) -> bool {
        let sets: Vec<BTreeSet<u64>> = voters.iter().map(|set| set.iter().copied().collect()).collect();
        confirmations
            .quorum(1, &sets, term, since)
            .now_or_never()
            .is_some()
    }

    #[test]
    fn only_what_was_sent_after_the_read_began_counts() {
        let heartbeats = Confirmations::default();
        let before = heartbeats.moment();
        let read = heartbeats.moment();
        let after = heartbeats.moment();
        assert!(!reached(&heartbeats, &[&[1, 2, 3]], 1, read));
        heartbeats.answered(2, 1, before);
        assert!(!reached(&heartbeats, &[&[1, 2, 3]], 1, read));
        heartbeats.answered(2, 1, after);
        assert!(reached(&heartbeats, &[&[1, 2, 3]], 1, read));
        // An older answer that comes late takes nothing back.
        heartbeats.answered(2, 1, before);
        assert!(reached(&heartbeats, &[&[1, 2, 3]], 1, read));
    }

    #[test]
    fn another_term_does_not_count() {
        let heartbeats = Confirmations::default();
        let read = heartbeats.moment();
        heartbeats.answered(2, 3, heartbeats.moment());
        assert!(!reached(&heartbeats, &[&[1, 2, 3]], 1, read));
        assert!(reached(&heartbeats, &[&[1, 2, 3]], 3, read));
    }

    #[test]
    fn every_set_of_voters_needs_a_majority() {
        let heartbeats = Confirmations::default();
        assert!(reached(&heartbeats, &[&[1]], 1, 0));
        heartbeats.answered(2, 1, heartbeats.moment());
        assert!(
            !reached(&heartbeats, &[&[1, 2, 3, 4]], 1, 0),
            "half is no majority"
        );
        assert!(!reached(&heartbeats, &[&[1, 2, 3], &[1, 4, 5]], 1, 0));
        heartbeats.answered(5, 1, heartbeats.moment());
        assert!(reached(&heartbeats, &[&[1, 2, 3], &[1, 4, 5]], 1, 0));
        // A leader that is no voter any more does not count as one.
        assert!(!reached(&heartbeats, &[&[2, 3, 4]], 1, 0));
    }
}
