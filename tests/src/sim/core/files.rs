//! Output files: their names, their record in a committable, and what is judged when they appear and vanish.

use super::ops::{Op, OpResult, OutputFile, Rows};
use super::world::World;
use holdfast_common::{AttemptId, CheckpointId, JobId, layout};

/// The hidden and the visible name of a file.
pub(super) fn names(file: &OutputFile) -> (String, String) {
    let OutputFile {
        job,
        attempt,
        checkpoint,
        subtask,
        ..
    } = file;
    (
        format!("{job}/.part-{attempt}-{subtask}-c{checkpoint}.pending"),
        format!(
            "{job}/part-{checkpoint:08}-{attempt}-{subtask}",
            checkpoint = checkpoint.0
        ),
    )
}

pub(super) fn encode_file(file: &OutputFile) -> Vec<u8> {
    let mut bytes = file.job.to_bytes().to_vec();
    let mut put = |n: u64| bytes.extend_from_slice(&n.to_le_bytes());
    for n in [file.attempt.0, file.checkpoint.0, u64::from(file.subtask)] {
        put(n);
    }
    for rows in &file.rows {
        for n in [u64::from(rows.split), rows.from, rows.to] {
            put(n);
        }
    }
    bytes
}

/// The numbers in a record.
pub(super) fn numbers(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks_exact(8)
        .filter_map(|c| c.try_into().ok().map(u64::from_le_bytes))
        .collect()
}

/// Reads a committable back.
pub(super) fn decode_file(bytes: &[u8]) -> Option<OutputFile> {
    let job = JobId::from_bytes(bytes.get(..16)?).ok()?;
    let n = numbers(bytes.get(16..)?);
    let rows = n.get(3..)?.chunks_exact(3);
    Some(OutputFile {
        job,
        attempt: AttemptId(*n.first()?),
        checkpoint: CheckpointId(*n.get(1)?),
        subtask: u32::try_from(*n.get(2)?).ok()?,
        visible: false,
        rows: rows
            .map(|r| Rows {
                split: u32::try_from(r[0]).unwrap_or(u32::MAX),
                from: r[1],
                to: r[2],
            })
            .collect(),
    })
}

impl World {
    /// An operation outside takes effect.
    pub(super) fn carry_out_op(&mut self, op: &Op) -> OpResult {
        match op {
            Op::Pause { .. } => OpResult::Done,
            Op::Prepare { name, file } => {
                self.directory.files.insert(name.clone(), file.clone());
                OpResult::Done
            }
            Op::Publish {
                pending,
                visible,
                file,
            } => {
                let (result, changed) = self.directory.publish(pending, visible, file);
                if changed {
                    self.judge_visible(file);
                }
                result
            }
            Op::Files { job } => {
                let of_job = self.directory.files.iter().filter(|(_, f)| f.job == *job);
                OpResult::Files(of_job.map(|(name, f)| (name.clone(), f.clone())).collect())
            }
            Op::Remove { name } => {
                if let Some(file) = self.directory.files.remove(name)
                    && file.visible
                {
                    self.judge_removed(&file);
                }
                OpResult::Done
            }
            storage => {
                if let Op::Delete { paths } = storage
                    && !self.store.health.down
                {
                    self.judge_deleted(paths);
                }
                let (before, after) = self.store.health.flaky;
                let (before, after) = (self.rng.chance(before), self.rng.chance(after));
                self.store.apply(storage, before, after)
            }
        }
    }

    fn judge_visible(&mut self, file: &OutputFile) {
        let record = self.checks.jobs.entry(file.job).or_default();
        let covered = record
            .completed
            .range(file.checkpoint.0..)
            .any(|(_, c)| c.attempt == file.attempt.0);
        let mut wrong = Vec::new();
        if !covered {
            wrong.push(("visible-after-entry", format!("{file:?}")));
        }
        for rows in &file.rows {
            let visible = record.visible.entry(rows.split).or_default();
            if !visible.add(rows.from, rows.to) {
                wrong.push(("no-row-twice", format!("rows {rows:?} of {file:?}")));
            }
        }
        let prefix = record.visible.values().all(super::checks::Visible::is_prefix);
        if !prefix && !record.undoing && wrong.is_empty() {
            wrong.push((
                "output-is-a-prefix",
                format!("after {file:?}: {:?}", record.visible),
            ));
        }
        record.undoing &= !prefix;
        for (invariant, detail) in wrong {
            self.violation(invariant, detail);
        }
    }

    fn judge_removed(&mut self, file: &OutputFile) {
        self.count("files taken back");
        let record = self.checks.jobs.entry(file.job).or_default();
        for rows in &file.rows {
            record.visible.entry(rows.split).or_default().remove(rows.from);
        }
        record.undoing = !record.visible.values().all(super::checks::Visible::is_prefix);
        if !record.completed.values().any(|c| c.damaged) {
            self.violation("rows-vanish-only-after-damage", format!("{file:?}"));
        }
    }

    fn judge_deleted(&mut self, paths: &[String]) {
        let Some(cluster) = self.checks.reference.cluster.as_ref().map(|c| c.id) else {
            return;
        };
        let needed = paths.iter().find(|path| {
            self.checks.reference.jobs.values().any(|job| {
                let owner = layout::parse_checkpoint_path(cluster, job.id, path);
                owner.is_some_and(|(id, attempt)| {
                    let checkpoint = job.checkpoints.get(&id);
                    checkpoint.is_some_and(|c| c.attempt == attempt && !c.retired && !c.damaged)
                })
            })
        });
        if let Some(path) = needed.cloned() {
            self.violation("objects-are-kept", format!("'{path}' is deleted"));
        }
    }
}
