//! A job under observation: what most failure tests have in common.

use crate::cluster::Cluster;
use crate::job::{Job, JobId};
use crate::output::{Watcher, check_numbers_job};
use crate::process::Process;
use crate::script::Numbers;
use crate::wait::LATER;
use anyhow::{Context, Result, anyhow, ensure};

/// A [`Numbers`] job whose visible output is watched all the time.
pub struct Running {
    /// The job's parameters.
    pub spec: Numbers,
    /// Its id.
    pub id: JobId,
    /// The job when it first ran.
    pub first: Job,
    /// Watches the raw numbers.
    pub raw: Watcher,
    /// Watches the windows.
    pub windows: Watcher,
}

impl Running {
    /// Submits a job of about `seconds` and waits until it runs and its second checkpoint is complete.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(cluster: &Cluster, seconds: u64) -> Result<Self> {
        let spec = Numbers::lasting(seconds, &cluster.home().join("out"));
        Self::start_spec(cluster, spec)
    }

    /// As [`Self::start`].
    ///
    /// # Errors
    /// If it does not run.
    pub fn start_spec(cluster: &Cluster, spec: Numbers) -> Result<Self> {
        let (raw, windows) = (Watcher::numbers(&spec), Watcher::windows(&spec));
        let id = cluster.submit_running(&spec.sql())?;
        cluster.wait_checkpoints(&id, 2)?;
        let first = cluster.wait_running(&id)?;
        ensure!(
            first.state == "RUNNING",
            "the job was over before the test began: {}",
            first.state
        );
        Ok(Self {
            spec,
            id,
            first,
            raw,
            windows,
        })
    }

    /// Waits for the end of the job: every row must have been right at every moment, and all of them are there.
    ///
    /// # Errors
    /// Names what is wrong.
    pub fn finish(self, cluster: &Cluster) -> Result<Job> {
        let job = cluster.wait_state(&self.id, "FINISHED", LATER + self.spec.duration() * 2)?;
        self.raw.finish().context("raw numbers, while the job ran")?;
        self.windows.finish().context("windows, while the job ran")?;
        check_numbers_job(&self.spec)?;
        println!("    exact: {} rows, {} restarts", self.spec.rows, job.restarts);
        Ok(job)
    }

    /// Refuses a job that was restarted, or one of whose subtasks was.
    ///
    /// # Errors
    /// Names attempt and starts.
    pub fn check_untouched(&self, cluster: &Cluster) -> Result<()> {
        let now = cluster.wait_running(&self.id)?;
        ensure!(
            now.attempt == self.first.attempt && now.restarts == self.first.restarts,
            "the job was restarted: attempt {} with {} restarts, at first {} with {}",
            now.attempt,
            now.restarts,
            self.first.attempt,
            self.first.restarts
        );
        ensure!(
            now.starts() == self.first.starts(),
            "subtasks were restarted: {:?}, at first {:?}",
            now.starts(),
            self.first.starts()
        );
        Ok(())
    }

    /// A worker that runs subtasks of the job.
    ///
    /// # Errors
    /// If none can be found.
    pub fn busy_worker(&self, cluster: &Cluster) -> Result<Process> {
        let job = cluster.wait_running(&self.id)?;
        let view = cluster.view()?;
        let busy = job.by_worker();
        let pids = view["workers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|worker| {
                let name = worker["resource_id"].as_str()?;
                busy.contains_key(name).then_some(worker["pid"].as_i64()?)
            });
        let pids: Vec<i64> = pids.collect();
        let workers = cluster.workers()?;
        workers
            .into_iter()
            .find(|p| pids.contains(&i64::from(p.pid)) && p.alive())
            .ok_or_else(|| anyhow!("no living worker runs the job: {busy:?}, {}", view["workers"]))
    }
}
