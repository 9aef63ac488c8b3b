//! One failure after the other: wait until all is calm, strike at a random moment, wait until all is well again, and
//! measure what was seen in between.

use super::cases::{self, Timing};
use super::cluster::Cluster;
use super::events::{self, Stamps};
use super::fault::{self, Fault};
use super::job;
use super::probe::{self, Kind, Probe, Sample};
use super::result::{Failure as Measured, Moments, Strip};
use super::rows::{self, Emitted, SPLITS};
use super::stats;
use super::time::{Timebase, millis};
use super::watch::Watch;
use crate::args::DrillCase as Case;
use crate::exit::Failure;
use crate::random::SystemRandom;
use holdfast_common::clock::Random;
use holdfast_coordinator::api::view::cluster::ClusterInfo;
use holdfast_coordinator::api::view::jobs::JobDetails;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Calm between two failures, at least.
const SETTLED: Duration = Duration::from_secs(3);
/// How long a cluster may take to become calm, or well after a failure.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks at the cluster.
const LOOK: Duration = Duration::from_millis(100);
/// A cluster that serves nobody for so long is not calm.
const SERVED_US: i64 = 500_000;
/// What is measured of the time before a fault.
const BEFORE_US: i64 = 1_000_000;
/// What is shown after all is well.
const AFTER: Duration = Duration::from_millis(500);
/// Moments that are kept.
const KEEP_US: i64 = 5_000_000;

/// A cluster with its job, its probes and its watch.
pub struct Lab {
    cluster: Cluster,
    time: Timebase,
    writes: Probe,
    reads: Probe,
    watch: Watch,
    job: String,
    parallelism: u32,
    load: u64,
    timing: Timing,
    out: PathBuf,
}

/// What the job was before a fault.
struct Before {
    attempt: u32,
    starts: Vec<(String, u32, i64)>,
    doubled: u64,
}

/// Takes a fault back when dropped: also when the drill is interrupted, nobody is left stopped or cut off.
struct Undo<'a> {
    fault: &'a Fault,
    cluster: &'a Cluster,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if let Err(failure) = self.fault.heal(self.cluster) {
            eprintln!("{}", failure.message);
        }
    }
}

impl Lab {
    /// Submits the job and starts probes and watch.
    ///
    /// # Errors
    /// If the job is refused, or does not run in time.
    pub async fn open(
        cluster: Cluster,
        load: u64,
        timing: Timing,
        time: Timebase,
    ) -> Result<Self, (Box<Cluster>, Failure)> {
        let out = cluster.out();
        match Self::parts(&cluster, load, &out, time).await {
            Ok((writes, reads, watch, job, parallelism)) => Ok(Self {
                cluster,
                time,
                writes,
                reads,
                watch,
                job,
                parallelism,
                load,
                timing,
                out,
            }),
            Err(failure) => Err((Box::new(cluster), failure)),
        }
    }

    async fn parts(
        cluster: &Cluster,
        load: u64,
        out: &std::path::Path,
        time: Timebase,
    ) -> Result<(Probe, Probe, Watch, String, u32), Failure> {
        let view = wait_whole(cluster).await?;
        let free: u32 = view.workers.iter().map(|w| w.free_slots).sum();
        let parallelism = free.min(2);
        if parallelism == 0 {
            return Err(Failure::error("the cluster has no free slot for the drill's job"));
        }
        let logs: Vec<PathBuf> = cluster.processes()?.into_iter().map(|p| p.log.into()).collect();
        let watch = Watch::start(&logs, &out.join("committed"), SPLITS, time);
        let sql = job::script(load, parallelism, &out.join("committed"));
        let job = cluster.submit(&sql).await?;
        let writes = Probe::start(Kind::Write, &cluster.rpc, time)?;
        let reads = Probe::start(Kind::Read, &cluster.rpc, time)?;
        Ok((writes, reads, watch, job, parallelism))
    }

    /// Cancels the job. An own cluster is stopped.
    pub async fn close(self, keep: bool) {
        self.cluster.cancel(&self.job).await;
        drop((self.writes, self.reads, self.watch));
        let own = self
            .out
            .starts_with(self.cluster.dir.parent().unwrap_or(&self.cluster.dir));
        self.cluster.stop(keep).await;
        if !own && !keep {
            let _ = std::fs::remove_dir_all(&self.out);
        }
    }

    /// The cluster's.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Brings one failure about and measures it.
    ///
    /// # Errors
    /// If the cluster does not become calm before, or well after it: that is a finding, not a sample.
    pub async fn fail(&self, case: Case, number: u32) -> Result<Measured, Failure> {
        self.settle().await?;
        // Any phase of heartbeats, leases and checkpoints.
        let phase_us = SystemRandom.next_u64() % (job::CHECKPOINT_MS * 1000);
        sleep(Duration::from_micros(phase_us)).await;
        let view = self.cluster.view().await;
        let view = view.ok_or_else(|| Failure::error("the leader has gone by itself"))?;
        let fault = fault::choose(case, number, &self.cluster, &view)?;
        let before = self.before().await?;
        let horizon = self.time.now() - KEEP_US;
        self.writes.forget_before(horizon);
        self.reads.forget_before(horizon);
        self.watch.forget_before(horizon, self.time);

        let undo = Undo {
            fault: &fault,
            cluster: &self.cluster,
        };
        let at = self.time.now();
        fault.strike(&self.cluster)?;
        let healed = self.hold(case, undo).await;
        let well = self.wait_well(case, at, healed).await;
        let (job, checkpoint) = well.map_err(|f| {
            Failure::error(format!(
                "{}, run {number} ({}): {}",
                cases::name(case),
                fault.victim,
                f.message
            ))
        })?;
        sleep(AFTER).await;
        let strange = self.watch.with(|seen| seen.committed.strange());
        if strange > 0 {
            return Err(Failure::error(format!(
                "{strange} lines of the committed files are no rows of the job"
            )));
        }
        Ok(self.measure(case, number, &fault, &before, (at, healed), (&job, checkpoint)))
    }

    async fn hold(&self, case: Case, undo: Undo<'_>) -> Option<i64> {
        sleep(cases::hold(case, &self.timing)?).await;
        drop(undo);
        Some(self.time.now())
    }

    /// Waits until everything has been well for a while, and the job has a checkpoint from then.
    async fn settle(&self) -> Result<(), Failure> {
        let give_up = Instant::now() + PATIENCE;
        let mut calm: Option<(Instant, u32, u64)> = None;
        loop {
            let trouble = match self.calm().await {
                Ok((attempt, term)) => match calm {
                    Some((since, a, t)) if (a, t) == (attempt, term) => {
                        if since.elapsed() >= SETTLED {
                            return Ok(());
                        }
                        "it has not been calm for long enough".to_owned()
                    }
                    _ => {
                        calm = Some((Instant::now(), attempt, term));
                        continue;
                    }
                },
                Err(trouble) => {
                    calm = None;
                    trouble
                }
            };
            if Instant::now() >= give_up {
                return Err(Failure::error(format!(
                    "the cluster is not calm after {} s: {trouble}",
                    PATIENCE.as_secs()
                )));
            }
            sleep(LOOK).await;
        }
    }

    /// The job's attempt and the term, if all is well.
    async fn calm(&self) -> Result<(u32, u64), String> {
        let view: ClusterInfo = self.cluster.whole().await?;
        let lately = self.time.now() - SERVED_US;
        for (name, probe) in [("write", &self.writes), ("read", &self.reads)] {
            let served = probe::first_served(&probe.since(lately), lately);
            served.ok_or_else(|| format!("no {name} is served within {} ms", SERVED_US / 1000))?;
        }
        let job = self.cluster.job(&self.job).await.map_err(|f| f.message)?;
        running(&job)?;
        let checkpoints = self.cluster.checkpoints(&self.job).await.map_err(|f| f.message)?;
        let attempt_began = checkpoints.latest.restored.map_or(0, |r| r.restore_timestamp);
        let newest = checkpoints
            .latest
            .completed
            .ok_or("no checkpoint is complete yet")?;
        if newest.trigger_timestamp < attempt_began {
            return Err("no checkpoint since the last restart".to_owned());
        }
        Ok((job.attempt, view.term))
    }

    async fn before(&self) -> Result<Before, Failure> {
        let job = self.cluster.job(&self.job).await?;
        Ok(Before {
            attempt: job.attempt,
            starts: starts(&job),
            doubled: self.watch.with(|seen| seen.committed.doubled()),
        })
    }

    /// Waits until all is well again: the job as it is then, and when the checkpoint was complete (Unix ms).
    async fn wait_well(
        &self,
        case: Case,
        at: i64,
        healed: Option<i64>,
    ) -> Result<(JobDetails, i64), Failure> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            match self.is_well(case, at, healed).await {
                Ok(found) => return Ok(found),
                Err(trouble) if Instant::now() >= give_up => {
                    return Err(Failure::error(format!(
                        "not well {} s after the fault: {trouble}",
                        PATIENCE.as_secs()
                    )));
                }
                Err(_) => sleep(LOOK).await,
            }
        }
    }

    async fn is_well(&self, case: Case, at: i64, healed: Option<i64>) -> Result<(JobDetails, i64), String> {
        for (name, probe) in [("write", &self.writes), ("read", &self.reads)] {
            probe::first_served(&probe.since(at), at).ok_or_else(|| format!("no {name} was served"))?;
        }
        let emitted = self.watch.with(|seen| rows::caught_up(seen.emissions.rows(), at));
        emitted.ok_or("the job has not caught up")?;
        let from = match (case, healed) {
            (Case::StorageOutage, Some(healed)) => healed,
            _ => at,
        };
        let checkpoints = self.cluster.checkpoints(&self.job).await.map_err(|f| f.message)?;
        let from_ms = self.time.to_unix(from).div_euclid(1000);
        let complete = checkpoints
            .history
            .iter()
            .filter(|c| c.status == "COMPLETED" && i64::try_from(c.trigger_timestamp).unwrap_or(0) > from_ms)
            .map(|c| c.latest_ack_timestamp)
            .min()
            .ok_or("no new checkpoint is complete")?;
        let commits = self
            .watch
            .with(|seen| (seen.committed.lost(), seen.commits.last().copied()));
        if commits.0 > 0 && self.time.now() - at < 20_000_000 {
            return Err(format!("{} rows are missing", commits.0));
        }
        if commits.1.is_none_or(|last| last < from) {
            return Err("nothing was committed".to_owned());
        }
        self.cluster.whole().await?;
        let job = self.cluster.job(&self.job).await.map_err(|f| f.message)?;
        running(&job)?;
        Ok((job, complete))
    }

    fn measure(
        &self,
        case: Case,
        number: u32,
        fault: &Fault,
        before: &Before,
        (at, healed): (i64, Option<i64>),
        (job, checkpoint_ms): (&JobDetails, i64),
    ) -> Measured {
        let end = self.time.now();
        let from = at - BEFORE_US;
        let (writes, reads) = (
            self.writes.since(from - BEFORE_US),
            self.reads.since(from - BEFORE_US),
        );
        let (emitted, commits, events, lost, doubled) = self.watch.with(|seen| {
            (
                seen.emissions.rows().to_vec(),
                seen.commits.clone(),
                seen.events.clone(),
                seen.committed.lost(),
                seen.committed.doubled(),
            )
        });
        let stamps = events::stamps(&events, self.time.to_unix(at), cases::hits_leader(case));
        let lanes = u64::from(self.parallelism);
        // Where the job was started anew, what its old tasks still emitted does not count.
        let began = stamps.restarted.map_or(at, |unix_us| self.time.of_unix(unix_us));
        let output = rows::silence(&emitted, lanes, at, end);
        let since = |moment: i64| millis(moment - at);
        let gap = |(begin, end): (i64, i64)| millis(end - begin);
        let checkpoint = self.time.of_unix(checkpoint_ms.saturating_mul(1000));
        let moments = Moments {
            first_write: probe::first_served(&writes, at).map(since),
            first_read: probe::first_served(&reads, at).map(since),
            first_record: rows::first_out(&emitted, lanes, began).map(since),
            caught_up: rows::caught_up(&emitted, at).map(since),
            next_checkpoint: Some(since(checkpoint)),
            healed: healed.map(since),
            ..self.stamped(stamps, at)
        };
        Measured {
            number,
            victim: fault.victim.clone(),
            moments,
            write_gap_ms: gap(probe::gap(&writes, at, end)),
            read_gap_ms: gap(probe::gap(&reads, at, end)),
            output_gap_ms: gap(output),
            output_gap_from_ms: since(output.0),
            usual_output_gap_ms: gap(rows::silence(&emitted, lanes, from, at)),
            commit_gap_ms: gap(stats::longest_silence(commits.iter().copied(), at, end)),
            usual_write_ms: usual_latency(&writes, from, at),
            tasks_restarted: restarted(before, job),
            records_replayed: replayed(&emitted, at, end, self.load),
            rows_lost: lost,
            rows_doubled: doubled - before.doubled,
            strip: Strip::of(&writes, &reads, &emitted, &commits, (from, at, end)),
        }
    }

    fn stamped(&self, stamps: Stamps, at: i64) -> Moments {
        let since = |unix_us: i64| millis(self.time.of_unix(unix_us) - at);
        Moments {
            detected: stamps.detected.map(since),
            elected: stamps.elected.map(since),
            claimed: stamps.claimed.map(since),
            reattached: stamps.reattached.map(since),
            ..Moments::default()
        }
    }
}

/// A cluster that has just been started may have workers that are known and still on their way.
async fn wait_whole(cluster: &Cluster) -> Result<ClusterInfo, Failure> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match cluster.whole().await {
            Ok(view) => return Ok(view),
            Err(trouble) if Instant::now() >= give_up => return Err(Failure::error(trouble)),
            Err(_) => sleep(LOOK).await,
        }
    }
}

fn running(job: &JobDetails) -> Result<(), String> {
    let still = job
        .vertices
        .iter()
        .flat_map(|v| &v.subtasks)
        .filter(|s| s.status != "RUNNING")
        .count();
    if job.state == "RUNNING" && still == 0 && !job.vertices.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the job is {}, {still} of its tasks do not run",
        job.state
    ))
}

/// When each task started.
fn starts(job: &JobDetails) -> Vec<(String, u32, i64)> {
    let of = |v: &holdfast_coordinator::api::view::tasks::VertexInfo| {
        let tasks = v.subtasks.iter().map(|s| (v.id.clone(), s.subtask, s.start_time));
        tasks.collect::<Vec<_>>()
    };
    job.vertices.iter().flat_map(of).collect()
}

/// Tasks that were started again: by new attempts, or, within one, by their start time.
fn restarted(before: &Before, job: &JobDetails) -> u64 {
    let now = starts(job);
    let attempts = u64::from(job.attempt.saturating_sub(before.attempt));
    if attempts > 0 {
        return attempts * now.len() as u64;
    }
    now.iter().filter(|task| !before.starts.contains(task)).count() as u64
}

/// Rows that were emitted again; where not every row is printed, as many times the number seen.
fn replayed(rows: &[Emitted], from: i64, to: i64, load: u64) -> u64 {
    rows::replayed(rows, from, to) * job::printed_one_in(load)
}

fn usual_latency(samples: &[Sample], from: i64, to: i64) -> f64 {
    let calm = samples
        .iter()
        .filter(|s| s.ok && (from..to).contains(&s.sent) && s.done < to);
    let latencies: Vec<f64> = calm.map(|s| millis(s.done - s.sent)).collect();
    stats::p50(&latencies).unwrap_or(0.0)
}
