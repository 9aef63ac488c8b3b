//! A flipped byte in the newest checkpoint: its checksum tells, the previous one is used, users hear of it.

use anyhow::{Context, Result, anyhow, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::cluster::{Options, with_cluster};
use tests::output::check_numbers_job;
use tests::script::Numbers;
use tests::wait::{self, LATER, SOON};

/// All files below a directory.
fn files_below(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            files_below(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// Flips a bit in the middle of every state file of a checkpoint.
fn damage(storage: &Path, checkpoint: u64) -> Result<usize> {
    let mut files = Vec::new();
    files_below(storage, &mut files)?;
    let number = format!("{checkpoint:010}");
    let mut damaged = 0;
    for file in files {
        let ours = file.components().any(|c| c.as_os_str() == number.as_str());
        if !ours || file.extension().is_none_or(|e| e != "part") {
            continue;
        }
        let mut bytes = std::fs::read(&file)?;
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 0x10;
            damaged += 1;
        }
        std::fs::write(&file, bytes)?;
    }
    Ok(damaged)
}

#[test]
fn corrupt_snapshot_falls_back_and_is_reported() {
    with_cluster("corrupt-snapshot", Options::default(), |cluster| {
        let mut spec = Numbers::lasting(20, &cluster.home().join("out"));
        // Long enough that no checkpoint completes between the look and the kill.
        spec.checkpoint = Duration::from_secs(3);
        let id = cluster.submit_running(&spec.sql())?;
        cluster.wait_checkpoints(&id, 2)?;
        let newest = cluster.wait_checkpoints(&id, 1)?.latest;
        cluster.kill_all()?;
        let damaged = damage(&cluster.dir().join("checkpoints"), newest)?;
        ensure!(
            damaged > 0,
            "checkpoint {newest} has no state file below {}",
            cluster.dir().display()
        );
        println!("    damaged {damaged} files of checkpoint {newest}");
        cluster.up()?;
        cluster.wait_running(&id)?;
        let told = wait::until("the damaged checkpoint among the exceptions", SOON, || {
            let exceptions = cluster.exceptions(&id)?.to_string();
            Ok(exceptions.contains("checkpoint").then_some(exceptions))
        })?;
        ensure!(
            told.contains(&newest.to_string()),
            "the exceptions do not name checkpoint {newest}: {told}"
        );
        let checkpoints = cluster.checkpoints_json(&id)?;
        let restored = checkpoints["latest"]["restored"]["id"]
            .as_u64()
            .ok_or_else(|| anyhow!("no restored checkpoint in {checkpoints}"))?;
        ensure!(
            restored < newest,
            "restored {restored}, though {newest} is damaged"
        );
        cluster.wait_state(&id, "FINISHED", LATER)?;
        check_numbers_job(&spec)?;
        Ok(())
    });
}
