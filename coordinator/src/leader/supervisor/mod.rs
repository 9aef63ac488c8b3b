//! The supervisor of one job: compares what the log says with what workers report and decides what to do next.
//!
//! Level-triggered: [`Supervisor::reconcile`] may be called at any time and does whatever is missing. Events only record
//! what has changed. Nothing here does IO or reads a clock; all that must survive the leader is in the log.

mod adopt;
mod checkpoint;
mod cleanup;
mod deploy;
mod end;
mod events;

use super::cleaner::Retention;
use super::commit::{CommitTask, Want};
use super::input::{Effect, Level, Now, TaskKey};
use super::registry::Registry;
use super::restart::RestartStrategy;
use super::shape::Shape;
use super::tracker::{Tracker, TrackerSettings};
use holdfast_common::config::{ConfigError, Configuration, options};
use holdfast_common::{AttemptId, CheckpointId, ClusterId, Incarnation, JobId, LeaderEpoch};
use holdfast_machine::command::Command;
use holdfast_machine::state::{Attempt, Job, JobStatus, SlotAssignment, State};
use holdfast_proto::control::coordinator_message::Body;
use holdfast_proto::snapshot::SinkCommittables;
use std::collections::{BTreeMap, BTreeSet};

/// Wait before something that the log refused, or a plan that failed, is tried again.
const RETRY_MS: u64 = 100;
/// How long a task's failure waits for a better explanation.
const EXPLANATION_WAIT_MS: u64 = 10;

/// What a proposal was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// A worker's registration or removal.
    Worker,
    /// A new attempt in place of this one.
    StartAttempt(Option<AttemptId>),
    /// All tasks run.
    AttemptRunning,
    /// The attempt failed.
    AttemptFailed,
    /// A checkpoint cannot be restored.
    Damaged,
    /// The job is over.
    EndJob,
    /// Checkpoint numbers.
    Reserve,
    /// A checkpoint is complete.
    Complete(CheckpointId),
    /// A checkpoint's sinks have committed.
    CommitDone(CheckpointId),
    /// A checkpoint failed.
    CheckpointFailed,
    /// Checkpoints are retired or forgotten.
    Cleanup,
}

impl Purpose {
    /// Moves the job from one phase to another: only one such proposal is under way per job.
    fn is_lifecycle(&self) -> bool {
        matches!(
            self,
            Self::StartAttempt(_) | Self::AttemptRunning | Self::AttemptFailed | Self::Damaged | Self::EndJob
        )
    }
}

/// Proposals without an answer.
#[derive(Debug, Default)]
pub struct Tickets {
    next: u64,
    open: BTreeMap<u64, (Option<JobId>, Purpose)>,
}

impl Tickets {
    /// A new ticket.
    pub fn issue(&mut self, job: Option<JobId>, purpose: Purpose) -> u64 {
        self.next += 1;
        self.open.insert(self.next, (job, purpose));
        self.next
    }

    /// What an answered ticket was for.
    pub fn take(&mut self, ticket: u64) -> Option<(Option<JobId>, Purpose)> {
        self.open.remove(&ticket)
    }
}

/// What a supervisor sees and says in one step.
pub struct Ctx<'a> {
    /// Time.
    pub now: Now,
    /// The log's state.
    pub state: &'a State,
    /// The workers.
    pub registry: &'a mut Registry,
    /// Slots held by every job, by worker.
    pub held: &'a BTreeMap<JobId, Vec<Incarnation>>,
    /// What is to be done.
    pub out: &'a mut Vec<Effect>,
    /// Proposals.
    pub tickets: &'a mut Tickets,
    /// This leader's fencing number.
    pub epoch: LeaderEpoch,
    /// The cluster.
    pub cluster: ClusterId,
}

impl Ctx<'_> {
    /// Sends to a worker if it is attached.
    pub fn send(&mut self, worker: Incarnation, body: Body) {
        if let Some(session) = self.registry.session(worker) {
            self.out.push(Effect::Send {
                session,
                body: Box::new(body),
            });
        }
    }

    fn note(&mut self, level: Level, job: JobId, message: String) {
        self.out.push(Effect::Note {
            level,
            job: Some(job),
            message,
        });
    }
}

/// Where this leader stands with a job.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// The log has an attempt that this leader has not started: do its tasks run?
    Adopting,
    /// No attempt runs; one is to be started.
    Waiting,
    /// StartAttempt is proposed.
    Starting(Vec<SlotAssignment>),
    /// The new attempt exists; tasks of the old one are being stopped.
    Stopping,
    /// Sinks commit and undo.
    Recovering,
    /// Workers build their tasks; those listed have not answered.
    Deploying {
        waiting: BTreeSet<Incarnation>,
        until_ms: u64,
    },
    /// Start was sent.
    Running,
    /// A user cancelled it.
    Cancelling { since_ms: u64 },
    /// The log says that it is over. `swept`: what nobody refers to is gone, and nobody writes any more.
    Ended { swept: bool },
}

/// A failure that is to be recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct FailureNote {
    task: String,
    worker: String,
    message: String,
    /// Not the restart strategy's business: restart at once.
    immediate: bool,
    /// No restart can help.
    terminal: bool,
    /// A worker went, which is not the job's doing.
    worker_lost: bool,
    /// When it may be recorded: a task's failure is often the first sign of a lost worker, which is the better reason.
    not_before_ms: u64,
}

/// What is known of the job's plan.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Plan {
    Unknown {
        retry_at_ms: u64,
        trouble: Option<String>,
    },
    Asked,
    Known(Shape),
}

/// Settings of one job.
#[derive(Debug, Clone)]
struct JobSettings {
    tracker: TrackerSettings,
    tolerable: u32,
    retention: Retention,
    restart: RestartStrategy,
}

/// The supervisor of one job under one leader.
pub struct Supervisor {
    job: JobId,
    settings: JobSettings,
    phase: Phase,
    plan: Plan,
    tracker: Tracker,
    commit: Option<CommitTask>,
    /// The newest commit that is done, and whose entry may still be on its way.
    committed: Option<Want>,
    commit_recording: Option<CheckpointId>,
    /// An ended job's last commit cannot be done.
    commit_given_up: bool,
    committables: Option<(CheckpointId, Vec<SinkCommittables>)>,
    pending: bool,
    backoff_until_ms: u64,
    waiting_since_ms: u64,
    failure: Option<FailureNote>,
    damage: Option<(CheckpointId, String)>,
    failed_task_since_ms: Option<u64>,
    stopping: BTreeMap<Incarnation, AttemptId>,
    stop_until_ms: u64,
    all_finished: bool,
    shortage: Option<String>,
    cleanup: cleanup::Cleanup,
}

impl Supervisor {
    /// For a job that this leader sees for the first time.
    #[must_use]
    pub fn new(job: &Job, now: Now) -> Self {
        let settings = job_settings(job);
        let tracker = Tracker::new(settings.tracker, now.mono_ms);
        Self {
            job: job.id,
            phase: first_phase(job),
            tracker,
            settings,
            plan: Plan::Unknown {
                retry_at_ms: 0,
                trouble: None,
            },
            commit: None,
            committed: None,
            commit_recording: None,
            commit_given_up: false,
            committables: None,
            pending: false,
            backoff_until_ms: 0,
            waiting_since_ms: now.mono_ms,
            failure: None,
            damage: None,
            failed_task_since_ms: None,
            stopping: BTreeMap::new(),
            stop_until_ms: 0,
            all_finished: false,
            shortage: None,
            cleanup: cleanup::Cleanup::default(),
        }
    }

    /// Does what is missing.
    pub fn reconcile(&mut self, ctx: &mut Ctx<'_>) {
        let state = ctx.state;
        let Some(job) = state.jobs.get(&self.job) else {
            return;
        };
        self.sync_tracker(ctx, job);
        if job.status.is_terminal() {
            return self.wind_up(ctx, job);
        }
        self.ensure_plan(ctx, job);
        self.drive_commit(ctx, job);
        self.drive_cleanup(ctx, job);
        if self.pending || ctx.now.mono_ms < self.backoff_until_ms || self.record_damage(ctx, job) {
            return;
        }
        if job.status == JobStatus::Cancelling {
            return self.drive_cancel(ctx, job);
        }
        if let Some(last) = final_checkpoint(job) {
            self.failure = None;
            if last.committed {
                self.propose_end(ctx, JobStatus::Finished);
            }
            return;
        }
        if self.record_trouble(ctx, job) {
            return;
        }
        self.drive_phase(ctx, job);
    }

    fn drive_phase(&mut self, ctx: &mut Ctx<'_>, job: &Job) {
        match &self.phase {
            Phase::Adopting => self.drive_adoption(ctx, job),
            Phase::Waiting => self.drive_waiting(ctx, job),
            Phase::Starting(_) => {}
            Phase::Stopping => self.drive_stopping(ctx, job),
            Phase::Recovering => self.drive_recovering(ctx, job),
            Phase::Deploying { .. } => self.drive_deploying(ctx, job),
            Phase::Running => self.drive_running(ctx, job),
            Phase::Cancelling { .. } | Phase::Ended { .. } => {}
        }
    }

    /// The current attempt, if this leader watches over it.
    fn active_attempt<'j>(&self, job: &'j Job) -> Option<&'j Attempt> {
        match self.phase {
            Phase::Stopping | Phase::Recovering | Phase::Deploying { .. } | Phase::Running => {
                job.attempt.as_ref()
            }
            _ => None,
        }
    }

    /// Slots that this job holds, by worker.
    #[must_use]
    pub fn held(&self, job: &Job) -> Vec<Incarnation> {
        let assigned = || {
            job.attempt
                .iter()
                .flat_map(|a| a.assignment.iter().map(|slot| slot.incarnation))
        };
        match &self.phase {
            Phase::Waiting => Vec::new(),
            Phase::Starting(assignment) => assignment.iter().map(|slot| slot.incarnation).collect(),
            Phase::Ended { .. } => assigned().filter(|w| self.stopping.contains_key(w)).collect(),
            _ => assigned().collect(),
        }
    }

    /// It would start an attempt if there were slots.
    #[must_use]
    pub fn waits_for_slots(&self) -> bool {
        matches!(self.phase, Phase::Waiting) && self.shortage.is_some()
    }

    /// The job is over and everything about it is done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Ended { swept: true })
            && self.stopping.is_empty()
            && self.commit.is_none()
            && self.commit_recording.is_none()
            && self.cleanup.is_done()
    }

    /// When [`Self::reconcile`] has something to do next, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self, job: &Job, now: Now) -> Option<u64> {
        let mut deadlines: Vec<u64> = Vec::new();
        if self.backoff_until_ms > now.mono_ms {
            deadlines.push(self.backoff_until_ms);
        }
        if let Plan::Unknown { retry_at_ms, .. } = self.plan {
            deadlines.push(retry_at_ms);
        }
        deadlines.extend(self.failure.as_ref().map(|note| note.not_before_ms));
        deadlines.extend(self.commit.as_ref().and_then(CommitTask::next_deadline));
        deadlines.extend(self.cleanup.next_deadline());
        deadlines.extend(
            self.failed_task_since_ms
                .map(|at| at + adopt::FAILED_TASK_GRACE_MS),
        );
        if !self.stopping.is_empty() {
            deadlines.push(self.stop_until_ms);
        }
        match &self.phase {
            Phase::Waiting => {
                let wait_ms = self.restart_delay_ms(job, now);
                if wait_ms > 0 {
                    deadlines.push(now.mono_ms.saturating_add(wait_ms));
                }
            }
            Phase::Deploying { until_ms, .. } => deadlines.push(*until_ms),
            Phase::Running => deadlines.extend(self.tracker.next_deadline(self.all_finished)),
            Phase::Cancelling { since_ms } => deadlines.push(since_ms.saturating_add(500)),
            _ => {}
        }
        deadlines.into_iter().min()
    }

    /// What is left of the restart strategy's delay. Measured on both clocks, so that a leader whose wall clock is
    /// behind its predecessor's does not wait longer than was decided.
    fn restart_delay_ms(&self, job: &Job, now: Now) -> u64 {
        if job.attempt.is_none() && job.restart_at_ms == 0 {
            return 0;
        }
        let decided_ms = job.restart_at_ms.saturating_sub(job.status_ms);
        let waited_ms = now.mono_ms.saturating_sub(self.waiting_since_ms);
        let by_wall_ms = job.restart_at_ms.saturating_sub(now.wall_ms);
        by_wall_ms.min(decided_ms.saturating_sub(waited_ms))
    }

    fn propose(&mut self, ctx: &mut Ctx<'_>, purpose: Purpose, command: Command) {
        self.pending |= purpose.is_lifecycle();
        let ticket = ctx.tickets.issue(Some(self.job), purpose);
        ctx.out.push(Effect::Propose {
            ticket,
            command: Box::new(command),
        });
    }

    fn shape(&self) -> Option<&Shape> {
        match &self.plan {
            Plan::Known(shape) => Some(shape),
            Plan::Unknown { .. } | Plan::Asked => None,
        }
    }

    fn task_name(&self, task: TaskKey) -> String {
        self.shape().map_or_else(
            || format!("vertex {} subtask {}", task.0, task.1),
            |s| s.task_name(task),
        )
    }

    /// The first reason counts, but a lost worker explains the failure of tasks that talked to it.
    fn fail(&mut self, note: FailureNote) {
        let explains = |known: &FailureNote| note.worker_lost && !known.worker_lost && !known.terminal;
        if self.failure.as_ref().is_none_or(explains) {
            self.failure = Some(note);
        }
    }
}

fn first_phase(job: &Job) -> Phase {
    if job.status.is_terminal() {
        return Phase::Ended { swept: false };
    }
    let may_run = job
        .attempt
        .as_ref()
        .is_some_and(|a| job.status == JobStatus::Running || a.running_ms.is_none());
    if may_run { Phase::Adopting } else { Phase::Waiting }
}

/// The job's last checkpoint, if it is in the log.
fn final_checkpoint(job: &Job) -> Option<&holdfast_machine::state::Checkpoint> {
    job.checkpoints
        .values()
        .rev()
        .find(|c| c.is_final && !c.damaged && !c.retired)
}

/// Every worker of an assignment, once.
fn workers_of(assignment: &[SlotAssignment]) -> BTreeSet<Incarnation> {
    assignment.iter().map(|slot| slot.incarnation).collect()
}

/// A worker's name in an assignment.
fn worker_name(assignment: &[SlotAssignment], worker: Incarnation) -> String {
    assignment
        .iter()
        .find(|slot| slot.incarnation == worker)
        .map_or_else(|| worker.to_string(), |slot| slot.resource_id.clone())
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Settings were checked when the job was submitted. Should a later build refuse one, its default holds: a running job
/// is not failed for that.
fn job_settings(job: &Job) -> JobSettings {
    let mut config = Configuration::new();
    for (key, value) in &job.settings {
        let _ = config.set(key, value);
    }
    read_settings(&config)
        .or_else(|_| read_settings(&Configuration::new()))
        .unwrap_or(JobSettings {
            tracker: TrackerSettings {
                interval_ms: 1000,
                timeout_ms: 600_000,
                min_pause_ms: 0,
            },
            tolerable: u32::MAX,
            retention: Retention {
                retained: 3,
                keep_on_cancel: false,
            },
            restart: RestartStrategy::None,
        })
}

fn read_settings(config: &Configuration) -> Result<JobSettings, ConfigError> {
    let keep = config.get(&options::CHECKPOINT_RETENTION)?;
    Ok(JobSettings {
        tracker: TrackerSettings {
            interval_ms: millis(config.get(&options::CHECKPOINT_INTERVAL)?),
            timeout_ms: millis(config.get(&options::CHECKPOINT_TIMEOUT)?),
            min_pause_ms: millis(config.get(&options::CHECKPOINT_MIN_PAUSE)?),
        },
        tolerable: config.get(&options::CHECKPOINT_TOLERABLE)?,
        retention: Retention {
            retained: config.get(&options::CHECKPOINT_RETAINED)?,
            keep_on_cancel: keep.eq_ignore_ascii_case("RETAIN_ON_CANCELLATION"),
        },
        restart: RestartStrategy::from_config(config)?,
    })
}
