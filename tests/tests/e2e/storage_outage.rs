//! Snapshot storage gone for a while: the job does not fail; checkpoints fail, say so, and resume.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;
use tests::cluster::{Options, with_cluster};
use tests::scenario::Running;
use tests::wait::{self, SOON};

const OUTAGE: Duration = Duration::from_secs(6);

/// A file in place of the directory. Permissions would not do: tests may run as root.
fn take_away(checkpoints: &Path) -> Result<()> {
    let aside = checkpoints.with_extension("aside");
    std::fs::rename(checkpoints, aside).with_context(|| checkpoints.display().to_string())?;
    std::fs::write(checkpoints, "storage is out of order\n")?;
    Ok(())
}

fn give_back(checkpoints: &Path) -> Result<()> {
    std::fs::remove_file(checkpoints)?;
    std::fs::rename(checkpoints.with_extension("aside"), checkpoints)?;
    Ok(())
}

#[test]
fn storage_outage_fails_checkpoints_and_not_the_job() {
    with_cluster("storage-outage", Options::default(), |cluster| {
        let running = Running::start(cluster, 20)?;
        let checkpoints = cluster.dir().join("checkpoints");
        let before = cluster.checkpoints(&running.id)?;
        take_away(&checkpoints)?;
        sleep(OUTAGE);
        let during = cluster.checkpoints(&running.id);
        let job = cluster.job(&running.id);
        let history = cluster.checkpoints_json(&running.id);
        give_back(&checkpoints)?;
        let (during, job, history) = (during?, job?, history?);
        ensure!(
            job.attempt == running.first.attempt,
            "the job was restarted: {}",
            job.attempt
        );
        ensure!(
            during.failed > before.failed,
            "no checkpoint failed: {during:?}, before {before:?}"
        );
        ensure!(
            during.completed <= before.completed + 2,
            "checkpoints completed: {during:?}, before {before:?}"
        );
        let told = history["history"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["status"] == "FAILED");
        ensure!(told, "the history names no failed checkpoint: {history}");
        wait::until_true("checkpoints that complete again", SOON, || {
            Ok(cluster.checkpoints(&running.id)?.completed > during.completed + 1)
        })?;
        running.check_untouched(cluster)?;
        running.finish(cluster)?;
        Ok(())
    });
}
