//! The state machine as openraft drives it: applies batches, publishes the state, builds and installs snapshots.
//! What entries mean is `holdfast-machine`'s.

use crate::digests::{Digests, Hasher};
use crate::growth::Growth;
use crate::replica::{Published, Replica};
use crate::snapshots::SnapshotDir;
use crate::store::entry_bytes;
use crate::types::{Entry, LogId, Payload, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use arc_swap::ArcSwap;
use futures::{Stream, StreamExt};
use holdfast_common::inject::{self, points};
use holdfast_machine::{Proposal, Response, State};
use openraft::OptionalSend;
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use prost::bytes::Bytes;
use std::io;
use std::sync::Arc;
use tokio::sync::watch;

/// Entries that are applied before readers see them and their proposers are answered.
const PUBLISH_ENTRIES: usize = 512;
/// A digest is taken at the first entry of every such span of the log's own time. All coordinators see the same log
/// time, so that they take it at the same entries, whatever the rate.
const DIGEST_PERIOD_MS: u64 = 2_000;
/// And at every multiple of this index, should the log's time stand still.
const DIGEST_ENTRIES: u64 = 1 << 16;
/// With this many keys a digest is taken half as often, with twice as many a third as often: hashing the whole state
/// takes processor time.
const DIGEST_KEYS: usize = 1 << 14;
/// What the state machine shows to the rest of the crate.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) state: Published,
    pub(crate) membership: Arc<ArcSwap<StoredMembership>>,
    pub(crate) digests: Digests,
    pub(crate) applied: watch::Sender<u64>,
    pub(crate) growth: Arc<Growth>,
}

/// The state machine.
pub(crate) struct StateMachine {
    replica: Replica,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: SnapshotDir,
    hasher: Hasher,
    view: View,
}

impl StateMachine {
    /// Within a runtime: digests are computed by a task of their own.
    pub(crate) fn new(id: u64, snapshots: SnapshotDir, snapshot_after_logs: u64) -> Self {
        let replica = Replica::new();
        let view = View {
            state: replica.published(),
            membership: Arc::new(ArcSwap::from_pointee(StoredMembership::default())),
            digests: Arc::default(),
            applied: watch::Sender::new(0),
            growth: Arc::new(Growth::new(id, snapshot_after_logs)),
        };
        Self {
            replica,
            last_applied: None,
            membership: StoredMembership::default(),
            snapshots,
            hasher: Hasher::start(Arc::clone(&view.digests)),
            view,
        }
    }

    pub(crate) fn view(&self) -> View {
        self.view.clone()
    }

    fn apply_entry(&mut self, entry: Entry) -> io::Result<Response> {
        let index = entry.log_id.index();
        let log_time_before = self.replica.newest().now_ms;
        let response = match entry.payload {
            Payload::Blank => {
                self.replica.skip(index);
                Response::Done
            }
            Payload::Normal(command) => {
                let proposal = Proposal::decode(&command.0).map_err(|error| {
                    let text = format!("entry {index} cannot be applied: {error}; install a newer version");
                    io::Error::new(io::ErrorKind::InvalidData, text)
                })?;
                self.replica.apply(index, proposal)
            }
            Payload::Membership(membership) => {
                self.replica.skip(index);
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                self.view.membership.store(Arc::new(self.membership.clone()));
                Response::Done
            }
        };
        self.last_applied = Some(entry.log_id);
        self.note_digest(index, log_time_before);
        Ok(response)
    }

    fn note_digest(&mut self, index: u64, log_time_before: u64) {
        let state = self.replica.newest();
        // Of the state alone, so that all coordinators agree on it.
        let rarer = 1 + (state.kv.len() / DIGEST_KEYS) as u64;
        let span = DIGEST_PERIOD_MS * rarer;
        if state.now_ms / span != log_time_before / span || index.is_multiple_of(DIGEST_ENTRIES * rarer) {
            self.hasher.digest(index, state.clone());
        }
    }

    /// Readers first, answers second: whoever is answered finds the effect in the state.
    fn publish(&mut self, answers: &mut Vec<(ApplyResponder<TypeConfig>, Response)>) {
        self.replica.publish();
        inject::pass(points::RAFT_APPLY_AFTER);
        if let Some(last) = self.last_applied {
            self.view.applied.send_if_modified(|applied| {
                let newer = *applied < last.index();
                *applied = last.index().max(*applied);
                newer
            });
        }
        for (responder, response) in answers.drain(..) {
            responder.send(response);
        }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        inject::pass(points::RAFT_APPLY_BEFORE);
        let mut answers = Vec::new();
        let mut unpublished = 0;
        let (mut applied, mut bytes) = (0, 0);
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            applied += 1;
            bytes += entry_bytes(&entry) as u64;
            let response = self.apply_entry(entry)?;
            answers.extend(responder.map(|responder| (responder, response)));
            unpublished += 1;
            if unpublished == PUBLISH_ENTRIES {
                self.publish(&mut answers);
                unpublished = 0;
            }
        }
        self.publish(&mut answers);
        self.replica.first_batch_ends();
        self.view.growth.applied(applied, bytes);
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<SnapshotBuilder> {
        Some(self.get_snapshot_builder().await)
    }

    /// Runs between two batches: state, position and membership are of one instant, and taking them costs nothing.
    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.view.growth.begins();
        SnapshotBuilder {
            growth: Arc::clone(&self.view.growth),
            state: self.view.state.load_full(),
            meta: SnapshotMeta {
                last_log_id: self.last_applied,
                last_membership: self.membership.clone(),
            },
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> io::Result<()> {
        inject::point(points::RAFT_SNAPSHOT_INSTALL)?;
        let (snapshots, position) = (self.snapshots.clone(), meta.clone());
        let bytes = snapshot.len();
        let state = holdfast_runtime::blocking(move || {
            let state = State::from_snapshot_bytes(&snapshot).map_err(io::Error::other)?;
            check_position(&position, &state)?;
            snapshots.store(&position, &snapshot).map(|()| state)
        })
        .await
        .map_err(io::Error::other)??;
        self.view.growth.begins();
        self.view.growth.stored(bytes);
        let applied = state.applied;
        self.hasher.digest(applied, state.clone());
        self.replica.replace(state);
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.view.membership.store(Arc::new(self.membership.clone()));
        self.view.applied.send_replace(applied);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let snapshots = self.snapshots.clone();
        let read = holdfast_runtime::blocking(move || snapshots.read_current())
            .await
            .map_err(io::Error::other)??;
        Ok(read.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// A snapshot whose position and state disagree would silently skip or repeat entries.
fn check_position(meta: &SnapshotMeta, state: &State) -> io::Result<()> {
    let said = meta.last_log_id.map_or(0, |id| id.index());
    if said == state.applied {
        return Ok(());
    }
    let text = format!(
        "the snapshot says entry {said} and holds the state of entry {}",
        state.applied
    );
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

/// Writes one snapshot.
pub(crate) struct SnapshotBuilder {
    state: Arc<State>,
    meta: SnapshotMeta,
    snapshots: SnapshotDir,
    growth: Arc<Growth>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        inject::point(points::RAFT_SNAPSHOT_BUILD)?;
        check_position(&self.meta, &self.state)?;
        let (state, meta, snapshots) = (Arc::clone(&self.state), self.meta.clone(), self.snapshots.clone());
        let body = holdfast_runtime::background("raft-snapshot", move || {
            let body = Bytes::from(state.snapshot_bytes());
            snapshots.store(&meta, &body).map(|()| body)
        })
        .await
        .map_err(io::Error::other)??;
        self.growth.stored(body.len());
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot: body,
        })
    }
}
