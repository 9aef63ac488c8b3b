//! The leader's core: the registry and one supervisor per job, stepped by inputs.
//!
//! `step` is a function of (core, time, log's state, input) that returns effects. It does no IO and reads no clock, so
//! every rule of the leader is tested without any.

use super::input::{Effect, FromWorker, Hello, Input, Level, Now, SessionId};
use super::registry::{Change, LostWorker, Registry};
use super::supervisor::{Ctx, Supervisor, Tickets};
use crate::live::{LiveView, LiveWorker};
use holdfast_common::{ClusterId, Incarnation, JobId, LeaderEpoch, NodeId};
use holdfast_machine::command::{Rejection, Response};
use holdfast_machine::state::State;
use holdfast_proto::control::coordinator_message::Body;
use holdfast_proto::control::{HeartbeatReply, Refused};
use std::collections::{BTreeMap, BTreeSet};

/// Every so many heartbeats a worker's attempts are compared with the log.
const STALE_LOOK: u64 = 5;
/// Wait before a deadline that has passed without effect is looked at again.
const PASSED_PAUSE_MS: u64 = 50;

/// What a leader knows from its start on.
#[derive(Debug, Clone)]
pub struct CoreConfig {
    /// This coordinator.
    pub node: NodeId,
    /// Its fencing number.
    pub epoch: LeaderEpoch,
    /// The cluster.
    pub cluster: ClusterId,
    /// `heartbeat.interval`.
    pub heartbeat_interval_ms: u64,
    /// `heartbeat.timeout`.
    pub heartbeat_timeout_ms: u64,
}

/// The leader's mind.
pub struct Core {
    pub(super) config: CoreConfig,
    pub(super) registry: Registry,
    jobs: BTreeMap<JobId, Supervisor>,
    done: BTreeSet<JobId>,
    held: BTreeMap<JobId, Vec<Incarnation>>,
    pub(super) tickets: Tickets,
    deposed: bool,
}

/// What concerns one job after an event.
enum News<'a> {
    Attached(Incarnation),
    Lost(&'a LostWorker),
}

impl Core {
    /// A new leader: it expects the workers that the log knows, and redials them at once to learn who is gone.
    #[must_use]
    pub fn new(config: CoreConfig, now: Now, state: &State) -> (Self, Vec<Effect>) {
        let mut registry = Registry::new(config.heartbeat_interval_ms, config.heartbeat_timeout_ms);
        registry.wake(now.mono_ms);
        let mut core = Self {
            config,
            registry,
            jobs: BTreeMap::new(),
            done: BTreeSet::new(),
            held: BTreeMap::new(),
            tickets: Tickets::default(),
            deposed: false,
        };
        let mut out = Vec::new();
        for worker in state.workers.values() {
            let changes = core.registry.expect(worker, now.mono_ms);
            core.carry_out(now, state, changes, &mut out);
        }
        core.reconcile_all(now, state, &mut out);
        (core, out)
    }

    /// One step.
    pub fn step(&mut self, now: Now, state: &State, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        self.registry.wake(now.mono_ms);
        match input {
            Input::Attached(hello) => self.attached(now, state, *hello, &mut out),
            Input::Message { session, message } => self.message(now, state, session, *message, &mut out),
            Input::Closed { session } => {
                let changes = self.registry.closed(session);
                self.carry_out(now, state, changes, &mut out);
            }
            Input::Redialed { incarnation, refused } => {
                let changes = self.registry.redialed(incarnation, refused);
                self.carry_out(now, state, changes, &mut out);
            }
            Input::Answered { ticket, response } => self.answered(now, state, ticket, &response, &mut out),
            Input::Planned { job, result } => {
                self.with_job(now, state, job, &mut out, |s, ctx| s.planned(ctx, result));
            }
            Input::ManifestWritten {
                job,
                checkpoint,
                result,
            } => self.with_job(now, state, job, &mut out, |s, ctx| {
                s.manifest_written(ctx, checkpoint, result);
            }),
            Input::ManifestRead {
                job,
                checkpoint,
                result,
            } => self.with_job(now, state, job, &mut out, |s, ctx| {
                s.manifest_read(ctx, checkpoint, result);
            }),
            Input::Collected { job, result } => {
                self.with_job(now, state, job, &mut out, |s, ctx| s.collected(ctx, result));
            }
            Input::Applied => self.reconcile_all(now, state, &mut out),
            Input::Tick => {
                let changes = self.registry.tick(now.mono_ms);
                self.carry_out(now, state, changes, &mut out);
                self.reconcile_all(now, state, &mut out);
            }
        }
        out
    }

    /// Another leader has claimed its role since: nothing here counts any more.
    #[must_use]
    pub fn is_deposed(&self) -> bool {
        self.deposed
    }

    /// When a [`Input::Tick`] is due, on the clock that never jumps.
    #[must_use]
    pub fn next_deadline(&self, now: Now, state: &State) -> Option<u64> {
        let jobs = self
            .jobs
            .iter()
            .filter_map(|(id, s)| s.next_deadline(state.jobs.get(id)?, now));
        jobs.chain(self.registry.next_deadline()).min()
    }

    /// When to step again with [`Input::Tick`]. What was due in the step just made and had no effect is looked at again
    /// a little later, never in a loop.
    #[must_use]
    pub fn next_tick(&self, stepped: Now, state: &State) -> Option<u64> {
        let at_ms = self.next_deadline(stepped, state)?;
        let passed = at_ms <= stepped.mono_ms;
        Some(if passed {
            stepped.mono_ms.saturating_add(PASSED_PAUSE_MS)
        } else {
            at_ms
        })
    }

    /// What the leader sees now.
    #[must_use]
    pub fn live(&self, state: &State) -> LiveView {
        let mut used: BTreeMap<Incarnation, u32> = BTreeMap::new();
        for worker in self.held.values().flatten() {
            *used.entry(*worker).or_default() += 1;
        }
        let workers = self
            .registry
            .iter()
            .filter(|e| self.registry.session(e.incarnation).is_some())
            .map(|e| {
                let live = LiveWorker {
                    incarnation: e.incarnation,
                    heartbeat_ms: e.heard_wall_ms,
                    free_slots: e
                        .slots
                        .saturating_sub(used.get(&e.incarnation).copied().unwrap_or(0)),
                };
                (e.resource_id.clone(), live)
            })
            .collect();
        let jobs = self
            .jobs
            .iter()
            .filter_map(|(id, s)| Some((*id, s.live(&self.registry, state.jobs.get(id)?)?)))
            .collect();
        LiveView {
            epoch: Some(self.config.epoch),
            workers,
            jobs,
        }
    }

    fn attached(&mut self, now: Now, state: &State, hello: Hello, out: &mut Vec<Effect>) {
        let changes = self.registry.attach(hello, now.mono_ms, now.wall_ms);
        self.carry_out(now, state, changes, out);
    }

    fn carry_out(&mut self, now: Now, state: &State, changes: Vec<Change>, out: &mut Vec<Effect>) {
        let mut reconcile = false;
        for change in changes {
            match change {
                Change::Attached(worker, session) => {
                    self.welcome(state, worker, session, out);
                    self.tell_all(now, state, &News::Attached(worker), out);
                    reconcile = true;
                }
                Change::Lost(lost) => {
                    self.note(
                        out,
                        Level::Warn,
                        format!("worker '{}' is lost: {}", lost.resource_id, lost.reason),
                    );
                    self.tell_all(now, state, &News::Lost(&lost), out);
                    self.remove_worker(state, *lost, out);
                    reconcile = true;
                }
                Change::Redial(incarnation, data_addr) => out.push(Effect::Redial {
                    incarnation,
                    data_addr,
                }),
                Change::Close(session) => out.push(Effect::Close { session }),
                Change::Refuse(session, reason) => {
                    out.push(Effect::Send {
                        session,
                        body: Box::new(Body::Refused(Refused { reason })),
                    });
                    out.push(Effect::Close { session });
                }
            }
        }
        if reconcile {
            self.reconcile_all(now, state, out);
        }
    }

    fn message(
        &mut self,
        now: Now,
        state: &State,
        session: SessionId,
        message: FromWorker,
        out: &mut Vec<Effect>,
    ) {
        let Some(worker) = self.registry.heard(session, now.mono_ms, now.wall_ms) else {
            return;
        };
        let job = match message {
            FromWorker::Heartbeat { reports, sequence } => {
                self.registry.reported(worker, reports);
                // Now and then, for a worker that was away when the command was sent.
                if sequence.is_multiple_of(STALE_LOOK)
                    && let Some(entry) = self.registry.get(worker).cloned()
                {
                    self.ensure_registered(state, &entry, out);
                    self.cancel_stale(state, &entry, session, out);
                }
                out.push(Effect::Send {
                    session,
                    body: Box::new(Body::HeartbeatReply(HeartbeatReply { sequence })),
                });
                return self.reconcile_all(now, state, out);
            }
            FromWorker::Leaving { reason } => {
                let changes = self.registry.leaving(session, &reason);
                return self.carry_out(now, state, changes, out);
            }
            FromWorker::Deployed { job, attempt } => {
                self.note_deployed(worker, job, attempt);
                job
            }
            FromWorker::TaskState {
                job,
                attempt,
                task,
                status,
                ..
            } => {
                if let Some(report) = self.registry.report_mut(worker, job, attempt) {
                    report.tasks.entry(task).or_default().set_status(status);
                }
                job
            }
            FromWorker::Cancelled { job, attempt } => {
                self.registry.forget_attempt(worker, job, attempt);
                self.look_again(now, state, job);
                job
            }
            FromWorker::DeployFailed { job, .. }
            | FromWorker::Ack { job, .. }
            | FromWorker::Declined { job, .. }
            | FromWorker::CommitDone { job, .. }
            | FromWorker::CommitFailed { job, .. } => job,
        };
        self.with_job(now, state, job, out, |s, ctx| s.heard(ctx, worker, message));
    }

    /// A worker was still busy with a job that was done: what it wrote meanwhile has to go.
    fn look_again(&mut self, now: Now, state: &State, id: JobId) {
        if self.done.remove(&id)
            && let Some(job) = state.jobs.get(&id)
        {
            self.jobs.insert(id, Supervisor::new(job, now));
        }
    }

    /// The next heartbeat will list the attempt; until then this stands for it.
    fn note_deployed(&mut self, worker: Incarnation, job: JobId, attempt: holdfast_common::AttemptId) {
        if self.registry.report(worker, job, attempt).is_none() {
            self.registry.add_report(worker, job, attempt);
        }
    }

    fn answered(&mut self, now: Now, state: &State, ticket: u64, response: &Response, out: &mut Vec<Effect>) {
        if let Response::Rejected(Rejection::StaleEpoch { current, .. }) = response
            && *current > self.config.epoch
        {
            self.deposed = true;
            return;
        }
        match self.tickets.take(ticket) {
            Some((Some(job), purpose)) => {
                self.with_job(now, state, job, out, |s, ctx| s.answered(ctx, purpose, response));
            }
            Some((None, _)) => {
                if let Response::Rejected(rejection) = response {
                    self.note(
                        out,
                        Level::Warn,
                        format!("the log refused a worker's registration: {rejection}"),
                    );
                }
                self.reconcile_all(now, state, out);
            }
            None => {}
        }
    }

    fn tell_all(&mut self, now: Now, state: &State, news: &News<'_>, out: &mut Vec<Effect>) {
        for supervisor in self.jobs.values_mut() {
            let mut ctx = Ctx {
                now,
                state,
                registry: &mut self.registry,
                held: &self.held,
                out,
                tickets: &mut self.tickets,
                epoch: self.config.epoch,
                cluster: self.config.cluster,
            };
            match news {
                News::Attached(worker) => supervisor.attached(&mut ctx, *worker),
                News::Lost(lost) => {
                    supervisor.lost(&mut ctx, lost);
                }
            }
        }
    }

    fn with_job(
        &mut self,
        now: Now,
        state: &State,
        job: JobId,
        out: &mut Vec<Effect>,
        event: impl FnOnce(&mut Supervisor, &mut Ctx<'_>),
    ) {
        let Some(supervisor) = self.jobs.get_mut(&job) else {
            return;
        };
        let mut ctx = Ctx {
            now,
            state,
            registry: &mut self.registry,
            held: &self.held,
            out,
            tickets: &mut self.tickets,
            epoch: self.config.epoch,
            cluster: self.config.cluster,
        };
        event(supervisor, &mut ctx);
        supervisor.reconcile(&mut ctx);
        self.note_held(state, job);
        self.wake_waiting(now, state, job, out);
    }

    /// Slots may have become free: jobs that wait for some look again.
    fn wake_waiting(&mut self, now: Now, state: &State, but: JobId, out: &mut Vec<Effect>) {
        let waiting: Vec<JobId> = self
            .jobs
            .iter()
            .filter(|(id, s)| **id != but && s.waits_for_slots())
            .map(|(id, _)| *id)
            .collect();
        for job in waiting {
            self.reconcile_job(now, state, job, out);
        }
    }

    fn reconcile_all(&mut self, now: Now, state: &State, out: &mut Vec<Effect>) {
        for (id, job) in &state.jobs {
            if !self.done.contains(id) {
                self.jobs.entry(*id).or_insert_with(|| Supervisor::new(job, now));
            }
        }
        // Slots of attempts that this leader has not looked at yet are taken all the same.
        let fresh: Vec<JobId> = self
            .jobs
            .keys()
            .filter(|id| !self.held.contains_key(id))
            .copied()
            .collect();
        for id in fresh {
            self.note_held(state, id);
        }
        let mut order: Vec<(u64, JobId)> = self
            .jobs
            .keys()
            .map(|id| (state.jobs.get(id).map_or(0, |j| j.submitted_ms), *id))
            .collect();
        order.sort_unstable();
        for (_, id) in order {
            self.reconcile_job(now, state, id, out);
        }
    }

    fn reconcile_job(&mut self, now: Now, state: &State, id: JobId, out: &mut Vec<Effect>) {
        let Some(supervisor) = self.jobs.get_mut(&id) else {
            return;
        };
        let mut ctx = Ctx {
            now,
            state,
            registry: &mut self.registry,
            held: &self.held,
            out,
            tickets: &mut self.tickets,
            epoch: self.config.epoch,
            cluster: self.config.cluster,
        };
        supervisor.reconcile(&mut ctx);
        self.note_held(state, id);
        let gone = !state.jobs.contains_key(&id);
        if gone || self.jobs.get(&id).is_some_and(Supervisor::is_done) {
            self.jobs.remove(&id);
            self.held.remove(&id);
            if !gone {
                self.done.insert(id);
            }
        }
    }

    fn note_held(&mut self, state: &State, id: JobId) {
        let held = self
            .jobs
            .get(&id)
            .zip(state.jobs.get(&id))
            .map(|(s, job)| s.held(job))
            .unwrap_or_default();
        self.held.insert(id, held);
    }

    pub(super) fn note(&self, out: &mut Vec<Effect>, level: Level, message: String) {
        out.push(Effect::Note {
            level,
            job: None,
            message,
        });
    }
}
