//! Carries out the core's effects that take time: proposals, planning, storage, redials. Each runs as a task of its own
//! with a deadline, and reports back as an input.

use super::collect::collect;
use super::input::{Effect, Input, ReadFailure, StoredCheckpoint};
use super::log::{ReplicatedLog, propose_until_answered};
use super::ports::{Dialer, Planner, Snapshots};
use super::shape::Shape;
use holdfast_common::clock::SharedClock;
use holdfast_common::inject::{self, bugs, points};
use holdfast_common::limits::{PLAN_DEADLINE, STORAGE_DEADLINE};
use holdfast_common::{AttemptId, CheckpointId, ClusterId, Incarnation, JobId, layout};
use holdfast_machine::command::Command;
use holdfast_machine::state::{Job, State};
use holdfast_proto::snapshot::{Manifest, SinkCommittables};
use holdfast_storage::{StorageError, manifest_decode, manifest_encode, manifest_sha256};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Manifests kept in memory so that retention need not read them again; more are read from storage.
const MANIFESTS_MAX: usize = 256;
/// A process that was killed closes its sockets one after another, so one successful dial proves little: waits before
/// each dial, in milliseconds.
const REDIAL_AFTER_MS: [u64; 8] = [0, 5, 10, 20, 40, 80, 160, 320];

/// Manifests by job and checkpoint, and shapes of plans by job.
#[derive(Debug, Default)]
pub struct ManifestCache {
    manifests: Mutex<BTreeMap<(JobId, CheckpointId), Arc<Manifest>>>,
}

impl ManifestCache {
    fn get(&self, job: JobId, checkpoint: CheckpointId) -> Option<Arc<Manifest>> {
        let manifests = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        manifests.get(&(job, checkpoint)).cloned()
    }

    fn put(&self, job: JobId, checkpoint: CheckpointId, manifest: Arc<Manifest>) {
        let mut manifests = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        if manifests.len() >= MANIFESTS_MAX {
            manifests.pop_first();
        }
        manifests.insert((job, checkpoint), manifest);
    }

    /// It is gone from storage.
    pub fn forget(&self, job: JobId, checkpoint: CheckpointId) {
        let mut manifests = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        manifests.remove(&(job, checkpoint));
    }
}

/// Shapes that were planned, by job: a plan depends on the job's record alone.
#[derive(Debug, Default)]
pub struct ShapeCache {
    shapes: Mutex<BTreeMap<JobId, Shape>>,
}

/// Work outside that is under way, and what it brings back.
pub type Work = Pin<Box<dyn Future<Output = Option<Input>> + Send>>;

/// Everything that effects need.
#[derive(Clone)]
pub struct Io {
    /// Consensus.
    pub log: Arc<dyn ReplicatedLog>,
    /// Storage.
    pub snapshots: Arc<dyn Snapshots>,
    /// Plans.
    pub planner: Arc<dyn Planner>,
    /// Redials.
    pub dialer: Arc<dyn Dialer>,
    /// Stamps.
    pub clock: SharedClock,
    /// The cluster.
    pub cluster: ClusterId,
    /// Manifests read or written lately.
    pub manifests: Arc<ManifestCache>,
    /// Plans made before.
    pub shapes: Arc<ShapeCache>,
}

impl Io {
    /// Proposes until there is an answer.
    pub async fn propose(self, ticket: u64, command: Command) -> Option<Input> {
        match propose_until_answered(self.log.as_ref(), &self.clock, command).await {
            Ok(applied) => Some(Input::Answered {
                ticket,
                response: applied.response,
            }),
            Err(reason) => {
                tracing::error!(reason, "a proposal cannot be answered: consensus has stopped");
                None
            }
        }
    }

    /// Plans a job's script on a thread for blocking work.
    pub async fn plan(self, job: Arc<Job>) -> Option<Input> {
        let id = job.id;
        let known = {
            let shapes = self.shapes.shapes.lock().unwrap_or_else(PoisonError::into_inner);
            shapes.get(&id).cloned()
        };
        if let Some(shape) = known {
            return Some(Input::Planned {
                job: id,
                result: Ok(shape),
            });
        }
        let planner = Arc::clone(&self.planner);
        let planning = holdfast_runtime::blocking(move || planner.shape(&job));
        let result = match tokio::time::timeout(PLAN_DEADLINE, planning).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(format!("planning has panicked: {panic}")),
            Err(_) => Err(format!("planning took over {} s", PLAN_DEADLINE.as_secs())),
        };
        if let Ok(shape) = &result {
            let mut shapes = self.shapes.shapes.lock().unwrap_or_else(PoisonError::into_inner);
            if shapes.len() >= MANIFESTS_MAX {
                shapes.pop_first();
            }
            shapes.insert(id, shape.clone());
        }
        Some(Input::Planned { job: id, result })
    }

    /// Writes a manifest.
    pub async fn write_manifest(
        self,
        job: JobId,
        checkpoint: CheckpointId,
        path: String,
        manifest: Manifest,
    ) -> Option<Input> {
        let body = manifest_encode(&manifest);
        let sha256 = manifest_sha256(&body);
        let put = async {
            inject::point(points::LEADER_MANIFEST_BEFORE)
                .map_err(|error| StorageError::Unavailable(error.to_string()))?;
            self.snapshots.put_new(&path, body).await
        };
        let result = match deadline(put).await {
            Ok(()) => {
                inject::pass(points::LEADER_MANIFEST_AFTER);
                self.manifests.put(job, checkpoint, Arc::new(manifest));
                Ok(sha256)
            }
            Err(error) => Err(format!("its manifest could not be written: {error}")),
        };
        Some(Input::ManifestWritten {
            job,
            checkpoint,
            result,
        })
    }

    /// Reads a manifest for its committables.
    pub async fn read_committables(self, job: JobId, stored: StoredCheckpoint) -> Option<Input> {
        let read = read_manifest(self.snapshots.as_ref(), &self.manifests, job, &stored).await;
        let result: Result<Vec<SinkCommittables>, ReadFailure> = match read {
            Ok(manifest) => Ok(manifest.sinks.clone()),
            Err(error @ (StorageError::NotFound(_) | StorageError::Damaged { .. })) => {
                Err(ReadFailure::Damaged(error.to_string()))
            }
            Err(error) => Err(ReadFailure::Unavailable(error.to_string())),
        };
        Some(Input::ManifestRead {
            job,
            checkpoint: stored.id,
            result,
        })
    }

    /// Deletes objects.
    pub async fn collect(self, job: JobId, work: super::input::CollectWork) -> Option<Input> {
        let store = Deadlined(Arc::clone(&self.snapshots));
        let result = match inject::point(points::LEADER_COLLECT) {
            Ok(()) => collect(&store, &self.manifests, self.cluster, job, &work).await,
            Err(error) => Err(error.to_string()),
        };
        Some(Input::Collected { job, result })
    }

    /// What an effect wants of snapshot storage. It begins when it is first polled.
    ///
    /// # Errors
    /// The effect, if it wants something else.
    pub fn storage_work(self, effect: Effect) -> Result<Work, Effect> {
        Ok(match effect {
            Effect::WriteManifest {
                job,
                checkpoint,
                path,
                manifest,
            } => Box::pin(self.write_manifest(job, checkpoint, path, *manifest)),
            Effect::ReadManifest {
                job,
                checkpoint,
                path,
                sha256,
            } => {
                let stored = StoredCheckpoint {
                    id: checkpoint,
                    attempt: AttemptId(0),
                    manifest_path: path,
                    sha256,
                    damaged: false,
                };
                Box::pin(self.read_committables(job, stored))
            }
            Effect::Collect { job, work } => Box::pin(self.collect(job, *work)),
            other => return Err(other),
        })
    }

    /// What a leader does that steps down: nothing, but for the seeded bug `delete-on-step-down`.
    #[must_use]
    pub fn step_down_work(self, state: &State) -> Option<Work> {
        if !inject::bug(bugs::DELETE_ON_STEP_DOWN) {
            return None;
        }
        let jobs = state.jobs.keys().copied().collect();
        Some(Box::pin(async move {
            self.delete_everything(jobs).await;
            None
        }))
    }

    async fn delete_everything(&self, jobs: Vec<JobId>) {
        for job in jobs {
            let prefix = layout::job_prefix(self.cluster, job);
            if let Ok(paths) = deadline(self.snapshots.list(&prefix)).await {
                let _ = deadline(self.snapshots.delete(paths)).await;
            }
        }
    }

    /// Dials a worker's data address until it is refused, or for half a second.
    pub async fn redial(self, incarnation: Incarnation, data_addr: String) -> Option<Input> {
        for wait_ms in REDIAL_AFTER_MS {
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            if self.dialer.is_refused(&data_addr).await {
                return Some(Input::Redialed {
                    incarnation,
                    refused: true,
                });
            }
        }
        Some(Input::Redialed {
            incarnation,
            refused: false,
        })
    }
}

/// Reads and verifies a manifest, or takes it from memory.
///
/// # Errors
/// As storage.
pub async fn read_manifest(
    store: &dyn Snapshots,
    manifests: &ManifestCache,
    job: JobId,
    stored: &StoredCheckpoint,
) -> Result<Arc<Manifest>, StorageError> {
    if let Some(manifest) = manifests.get(job, stored.id) {
        return Ok(manifest);
    }
    let bytes = deadline(store.get(&stored.manifest_path)).await?;
    let manifest = Arc::new(manifest_decode(&bytes, Some(stored.sha256))?);
    manifests.put(job, stored.id, Arc::clone(&manifest));
    Ok(manifest)
}

async fn deadline<T>(operation: impl Future<Output = Result<T, StorageError>>) -> Result<T, StorageError> {
    tokio::time::timeout(STORAGE_DEADLINE, operation)
        .await
        .unwrap_or_else(|_| {
            Err(StorageError::Unavailable(format!(
                "snapshot storage did not answer within {} s",
                STORAGE_DEADLINE.as_secs()
            )))
        })
}

/// Storage whose every operation has a deadline.
struct Deadlined(Arc<dyn Snapshots>);

#[async_trait::async_trait]
impl Snapshots for Deadlined {
    async fn put_new(&self, path: &str, body: bytes::Bytes) -> Result<(), StorageError> {
        deadline(self.0.put_new(path, body)).await
    }

    async fn get(&self, path: &str) -> Result<bytes::Bytes, StorageError> {
        deadline(self.0.get(path)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        deadline(self.0.list(prefix)).await
    }

    async fn delete(&self, paths: Vec<String>) -> Result<(), StorageError> {
        deadline(self.0.delete(paths)).await
    }
}
