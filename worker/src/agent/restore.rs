//! Reads a checkpoint back: the manifest by its digest, the parts by their checksums. What is missing or does not match
//! is damage; what the storage does not give now is not.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use holdfast_common::inject::{self, points};
use holdfast_common::limits::STORAGE_DEADLINE;
use holdfast_common::{CheckpointId, VertexId};
use holdfast_proto::control::Restore;
use holdfast_proto::snapshot::{Manifest, ObjectRef, SubtaskState, VertexState};
use holdfast_storage::{SnapshotStore, StorageError, manifest_decode};
use prost::Message;
use std::collections::BTreeSet;

use crate::engine::{RestoreState, VertexRestore};

/// Parts read at the same time: enough to hide a store's latency, few enough for its connections.
const PARTS_AT_ONCE: usize = 8;

/// Why a checkpoint was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct RestoreError {
    /// What happened, to which object.
    pub reason: String,
    /// The checkpoint cannot be restored by anybody.
    pub damaged: bool,
}

impl From<StorageError> for RestoreError {
    fn from(error: StorageError) -> Self {
        Self {
            damaged: matches!(
                error,
                StorageError::NotFound(_) | StorageError::Damaged { .. } | StorageError::Conflict(_)
            ),
            reason: error.to_string(),
        }
    }
}

/// Reads the state of the given vertices.
///
/// # Errors
/// If the manifest or a part is damaged or cannot be read.
pub async fn fetch(
    store: &SnapshotStore,
    restore: &Restore,
    vertices: &BTreeSet<VertexId>,
) -> Result<RestoreState, RestoreError> {
    inject::point(points::WORKER_RESTORE).map_err(|error| RestoreError {
        reason: error.to_string(),
        damaged: false,
    })?;
    let sha256: [u8; 32] = restore
        .manifest_sha256
        .as_ref()
        .try_into()
        .map_err(|_| RestoreError {
            reason: "the manifest's digest in the log is not 32 bytes long".to_owned(),
            damaged: false,
        })?;
    let bytes = in_time(store.get_by_path(&restore.manifest_path)).await?;
    let manifest: Manifest = manifest_decode(&bytes, Some(sha256))?;
    let mut state = RestoreState {
        checkpoint: CheckpointId(restore.checkpoint),
        vertices: Default::default(),
    };
    let wanted = manifest
        .vertices
        .iter()
        .filter(|v| vertices.contains(&VertexId(v.vertex)));
    for vertex in wanted {
        let restored = fetch_vertex(store, vertex).await?;
        state.vertices.insert(VertexId(vertex.vertex), restored);
    }
    Ok(state)
}

async fn fetch_vertex(store: &SnapshotStore, vertex: &VertexState) -> Result<VertexRestore, RestoreError> {
    let reads = vertex.parts.iter().filter_map(|part| {
        let object = part.part.clone()?;
        Some(fetch_part(store, part.subtask, object))
    });
    let reads: Vec<_> = reads.collect();
    let mut parts: Vec<(u32, SubtaskState)> = stream::iter(reads)
        .buffer_unordered(PARTS_AT_ONCE)
        .try_collect()
        .await?;
    parts.sort_by_key(|(subtask, _)| *subtask);
    Ok(VertexRestore {
        old_parallelism: vertex.parallelism,
        parts,
    })
}

async fn fetch_part(
    store: &SnapshotStore,
    subtask: u32,
    object: ObjectRef,
) -> Result<(u32, SubtaskState), RestoreError> {
    let bytes: Bytes = in_time(store.get(&object)).await?;
    let state = SubtaskState::decode(bytes).map_err(|error| RestoreError {
        reason: format!("object '{}' is damaged: {error}", object.path),
        damaged: true,
    })?;
    Ok((subtask, state))
}

async fn in_time<T>(operation: impl Future<Output = Result<T, StorageError>>) -> Result<T, StorageError> {
    tokio::time::timeout(STORAGE_DEADLINE, operation)
        .await
        .unwrap_or_else(|_| {
            Err(StorageError::Unavailable(format!(
                "snapshot storage did not answer within {} s",
                STORAGE_DEADLINE.as_secs()
            )))
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use holdfast_common::config::Configuration;
    use holdfast_proto::snapshot::SubtaskPart;
    use holdfast_storage::{manifest_encode, manifest_sha256};

    async fn checkpoint(store: &SnapshotStore, root: &str) -> Restore {
        let mut parts = Vec::new();
        for subtask in 0..2 {
            let state = SubtaskState {
                input_watermarks_ms: vec![i64::from(subtask)],
                ..SubtaskState::default()
            };
            let path = format!("{root}/v0-{subtask}.part");
            let part = store.put_new(&path, state.encode_to_vec().into()).await.unwrap();
            parts.push(SubtaskPart {
                subtask,
                part: Some(part),
            });
        }
        let manifest = Manifest {
            checkpoint: 7,
            vertices: vec![VertexState {
                vertex: 0,
                parallelism: 2,
                parts,
                ..VertexState::default()
            }],
            ..Manifest::default()
        };
        let body = manifest_encode(&manifest);
        let sha256 = manifest_sha256(&body).to_vec();
        let manifest_path = format!("{root}/manifest");
        store.put_new(&manifest_path, body).await.unwrap();
        Restore {
            checkpoint: 7,
            attempt: 1,
            manifest_path,
            manifest_sha256: sha256.into(),
        }
    }

    #[tokio::test]
    async fn state_is_read_back_and_damage_is_told_from_absence_of_storage() {
        let store = SnapshotStore::open("memory://restore-test", &Configuration::new()).unwrap();
        let restore = checkpoint(&store, "a").await;
        let wanted = BTreeSet::from([VertexId(0)]);
        let state = fetch(&store, &restore, &wanted).await.unwrap();
        let vertex = &state.vertices[&VertexId(0)];
        assert_eq!((vertex.old_parallelism, vertex.parts.len()), (2, 2));
        assert_eq!(vertex.parts[1].1.input_watermarks_ms, vec![1]);
        assert!(
            fetch(&store, &restore, &BTreeSet::new())
                .await
                .unwrap()
                .vertices
                .is_empty()
        );

        let other = Restore {
            manifest_sha256: vec![0; 32].into(),
            ..restore.clone()
        };
        assert!(
            fetch(&store, &other, &wanted).await.unwrap_err().damaged,
            "another manifest"
        );
        store.delete(vec!["a/v0-1.part".to_owned()]).await.unwrap();
        let error = fetch(&store, &restore, &wanted).await.unwrap_err();
        assert!(error.damaged && error.reason.contains("a/v0-1.part"), "{error}");
        let unavailable = RestoreError::from(StorageError::Unavailable("no route".into()));
        assert!(!unavailable.damaged);
    }
}
