//! Deletes objects of checkpoints that nobody needs any more, and of those that never completed. Deletes nothing that
//! a kept manifest refers to; what a retired manifest refers to goes before the manifest itself, so that an interrupted
//! collection can be taken up again.

use super::cleaner::is_orphan;
use super::input::{CollectWork, StoredCheckpoint};
use super::io::{ManifestCache, read_manifest};
use super::ports::Snapshots;
use holdfast_common::inject::{self, bugs};
use holdfast_common::{CheckpointId, ClusterId, JobId, layout};
use holdfast_proto::snapshot::Manifest;
use holdfast_storage::StorageError;
use std::collections::BTreeSet;

/// Objects deleted by one call.
const DELETE_BATCH: usize = 500;

/// Carries out one piece of collection. Returns the retired checkpoints whose objects are gone.
///
/// # Errors
/// What hindered it, for people; it can be repeated.
pub async fn collect(
    store: &dyn Snapshots,
    manifests: &ManifestCache,
    cluster: ClusterId,
    job: JobId,
    work: &CollectWork,
) -> Result<BTreeSet<CheckpointId>, String> {
    let needed = referenced(store, manifests, job, &work.kept).await?;
    let mut gone = BTreeSet::new();
    for checkpoint in &work.retired {
        delete_checkpoint(store, manifests, cluster, job, checkpoint, &needed).await?;
        manifests.forget(job, checkpoint.id);
        gone.insert(checkpoint.id);
    }
    if inject::bug(bugs::COLLECT_BY_AGE)
        && let Some(newest) = work.kept.last()
    {
        let nothing = BTreeSet::new();
        delete_checkpoint(store, manifests, cluster, job, newest, &nothing).await?;
    }
    if work.orphans_below.is_some() {
        let listed = store
            .list(&layout::job_prefix(cluster, job))
            .await
            .map_err(|e| e.to_string())?;
        let orphans = listed
            .into_iter()
            .filter(|path| {
                layout::parse_checkpoint_path(cluster, job, path)
                    .is_some_and(|(checkpoint, attempt)| is_orphan(work, checkpoint, attempt))
            })
            .filter(|path| !needed.contains(path))
            .collect();
        delete_all(store, orphans).await?;
    }
    Ok(gone)
}

/// Everything that kept manifests refer to. One that is known or found to be damaged refers to nothing that could still
/// be read; its own objects stay, since the log owns them.
async fn referenced(
    store: &dyn Snapshots,
    manifests: &ManifestCache,
    job: JobId,
    kept: &[StoredCheckpoint],
) -> Result<BTreeSet<String>, String> {
    let mut paths = BTreeSet::new();
    for checkpoint in kept.iter().filter(|c| !c.damaged) {
        match read_manifest(store, manifests, job, checkpoint).await {
            Ok(manifest) => paths.extend(parts(&manifest)),
            Err(StorageError::NotFound(_) | StorageError::Damaged { .. }) => {
                tracing::error!(%job, checkpoint = %checkpoint.id, path = checkpoint.manifest_path, "manifest of a retained checkpoint is damaged");
            }
            Err(error) => return Err(error.to_string()),
        }
        paths.insert(checkpoint.manifest_path.clone());
    }
    Ok(paths)
}

async fn delete_checkpoint(
    store: &dyn Snapshots,
    manifests: &ManifestCache,
    cluster: ClusterId,
    job: JobId,
    checkpoint: &StoredCheckpoint,
    needed: &BTreeSet<String>,
) -> Result<(), String> {
    let prefix = layout::checkpoint_prefix(cluster, job, checkpoint.id, checkpoint.attempt);
    let listed = store.list(&prefix).await.map_err(|e| e.to_string())?;
    let mut paths: BTreeSet<String> = listed.into_iter().collect();
    if !checkpoint.damaged {
        match read_manifest(store, manifests, job, checkpoint).await {
            Ok(manifest) => paths.extend(parts(&manifest)),
            Err(StorageError::NotFound(_) | StorageError::Damaged { .. }) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    paths.remove(&checkpoint.manifest_path);
    paths.retain(|path| !needed.contains(path));
    delete_all(store, paths.into_iter().collect()).await?;
    if needed.contains(&checkpoint.manifest_path) {
        return Ok(());
    }
    delete_all(store, vec![checkpoint.manifest_path.clone()]).await
}

async fn delete_all(store: &dyn Snapshots, paths: Vec<String>) -> Result<(), String> {
    for batch in paths.chunks(DELETE_BATCH) {
        store.delete(batch.to_vec()).await.map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn parts(manifest: &Manifest) -> impl Iterator<Item = String> {
    manifest
        .vertices
        .iter()
        .flat_map(|v| &v.parts)
        .filter_map(|p| p.part.as_ref().map(|object| object.path.clone()))
}
