//! The state that readers see, beside the one that entries are applied to.
//!
//! Two copies take turns: entries are applied to the spare one, which is then published; the one that was published
//! before becomes the spare and gets the same entries later. So readers share a whole state without a lock, nothing
//! is copied, and applying costs twice the processor time. Only a reader that keeps an old state for long makes the
//! writer copy it.

use arc_swap::ArcSwap;
use holdfast_common::inject::{self, bugs};
use holdfast_machine::{Command, Proposal, Response, State};
use std::sync::Arc;

/// What readers hold.
pub(crate) type Published = Arc<ArcSwap<State>>;

enum Applied {
    Proposal(u64, Arc<Proposal>),
    Skip(u64),
    /// Of the seeded bug [`bugs::APPLY_TWICE`].
    Again(u64, Box<Proposal>),
}

/// The writer's end.
pub(crate) struct Replica {
    published: Published,
    /// Not shared with anyone, unless a reader still holds what it was published as.
    spare: Arc<State>,
    /// What the published state has and the spare one lacks, before the first entry of a batch.
    behind: Vec<Applied>,
    /// What was applied to the spare state in the present batch.
    batch: Vec<Applied>,
    in_batch: bool,
    /// Of the seeded bug [`bugs::APPLY_TWICE`].
    repeat: Repeat,
}

/// What the seeded bug [`bugs::APPLY_TWICE`] remembers of the first batch, which after a restart is the log's.
#[derive(Default)]
struct Repeat {
    batch_over: bool,
    last: Option<Arc<Proposal>>,
}

impl Replica {
    pub(crate) fn new() -> Self {
        let published = Arc::new(ArcSwap::from_pointee(State::default()));
        Self {
            published,
            spare: Arc::new(State::default()),
            behind: Vec::new(),
            batch: Vec::new(),
            in_batch: false,
            repeat: Repeat::default(),
        }
    }

    pub(crate) fn published(&self) -> Published {
        Arc::clone(&self.published)
    }

    /// Applies an entry; readers see it after [`Self::publish`].
    pub(crate) fn apply(&mut self, index: u64, proposal: Proposal) -> Response {
        let state = self.writable();
        let response = state.apply(index, &proposal);
        let proposal = Arc::new(proposal);
        self.batch.push(Applied::Proposal(index, Arc::clone(&proposal)));
        if inject::bug(bugs::APPLY_TWICE) {
            self.apply_twice(index, proposal);
        }
        response
    }

    /// The first entry after the first batch is followed by the batch's last one, without the request number and the
    /// condition by which the state would notice.
    fn apply_twice(&mut self, index: u64, proposal: Arc<Proposal>) {
        if !self.repeat.batch_over {
            self.repeat.last = Some(proposal);
            return;
        }
        let Some(last) = self.repeat.last.take() else {
            return;
        };
        let mut again = Proposal::clone(&last);
        again.session = None;
        if let Command::KvPut { if_revision, .. } = &mut again.command {
            *if_revision = None;
        }
        let state = self.writable();
        state.applied = index.saturating_sub(1);
        state.apply(index, &again);
        self.batch.push(Applied::Again(index, Box::new(again)));
    }

    /// Everything that was committed before a restart comes in the first batches.
    pub(crate) fn first_batch_ends(&mut self) {
        self.repeat.batch_over = true;
    }

    /// Takes note of an entry without a command.
    pub(crate) fn skip(&mut self, index: u64) {
        self.writable().skip(index);
        self.batch.push(Applied::Skip(index));
    }

    /// The state as of the last entry applied, published or not.
    pub(crate) fn newest(&mut self) -> &State {
        self.writable()
    }

    /// Shows readers everything applied so far.
    pub(crate) fn publish(&mut self) {
        if !self.in_batch {
            return;
        }
        self.spare = self.published.swap(Arc::clone(&self.spare));
        self.behind = std::mem::take(&mut self.batch);
        self.in_batch = false;
    }

    /// Replaces everything, as an installed snapshot does.
    pub(crate) fn replace(&mut self, state: State) {
        self.spare = Arc::new(state.clone());
        self.published.store(Arc::new(state));
        self.behind.clear();
        self.batch.clear();
        self.in_batch = false;
    }

    fn writable(&mut self) -> &mut State {
        if !self.in_batch {
            self.in_batch = true;
            if Arc::get_mut(&mut self.spare).is_none() {
                // A reader keeps the old state: leave it to them.
                self.spare = Arc::new(State::clone(&self.published.load()));
                self.behind.clear();
            }
            let behind = std::mem::take(&mut self.behind);
            let state = Arc::make_mut(&mut self.spare);
            for entry in behind {
                match entry {
                    Applied::Proposal(index, proposal) => {
                        state.apply(index, &proposal);
                    }
                    Applied::Skip(index) => state.skip(index),
                    Applied::Again(index, proposal) => {
                        state.applied = index.saturating_sub(1);
                        state.apply(index, &proposal);
                    }
                }
            }
        }
        Arc::make_mut(&mut self.spare)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn put(n: u8) -> Proposal {
        Proposal {
            proposed_ms: u64::from(n),
            session: None,
            command: Command::KvPut {
                key: format!("k{}", n % 7),
                value: vec![n].into(),
                if_revision: None,
            },
        }
    }

    proptest! {
        /// Whatever the batches and however long readers keep old states, what is published is what plain
        /// application gives, and a kept state never changes.
        #[test]
        fn published_states_equal_plain_application(
            batches in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..6), 0_usize..4), 1..30)
        ) {
            let mut replica = Replica::new();
            let published = replica.published();
            let mut plain = State::default();
            let mut kept: Vec<(Arc<State>, State)> = Vec::new();
            let mut index = 0;
            for (batch, keep) in batches {
                for n in batch {
                    index += 1;
                    if n % 5 == 0 {
                        replica.skip(index);
                        plain.skip(index);
                    } else {
                        let answer = replica.apply(index, put(n));
                        prop_assert_eq!(answer, plain.apply(index, &put(n)));
                    }
                }
                replica.publish();
                prop_assert_eq!(&**published.load(), &plain);
                kept.truncate(keep);
                kept.push((published.load_full(), plain.clone()));
                for (held, was) in &kept {
                    prop_assert_eq!(&**held, was);
                }
            }
        }
    }
}
