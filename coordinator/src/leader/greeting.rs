//! How the core meets a worker: it greets it, puts it into the log or takes it out, and stops what it should not run.

use super::core::Core;
use super::input::{Effect, Level, SessionId};
use super::registry::{Entry, LostWorker};
use super::supervisor::Purpose;
use holdfast_common::Incarnation;
use holdfast_common::inject::{self, bugs};
use holdfast_machine::command::Command;
use holdfast_machine::state::{Job, JobStatus, State, Worker};
use holdfast_proto::control::coordinator_message::Body;
use holdfast_proto::control::{Cancel, Welcome};

impl Core {
    /// Greets a worker, registers it in the log unless it is there, and stops what it should not run.
    pub(super) fn welcome(
        &mut self,
        state: &State,
        worker: Incarnation,
        session: SessionId,
        out: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.registry.get(worker).cloned() else {
            return;
        };
        out.push(Effect::Send {
            session,
            body: Box::new(Body::Welcome(Welcome {
                leader_epoch: self.config.epoch.0,
                leader_id: self.config.node.0,
                cluster_id: self.config.cluster.to_bytes().to_vec().into(),
                heartbeat_interval_ms: self.config.heartbeat_interval_ms,
                heartbeat_timeout_ms: self.config.heartbeat_timeout_ms,
            })),
        });
        self.note(
            out,
            Level::Info,
            format!(
                "worker '{}' is attached with {} slots, data at {}",
                entry.resource_id, entry.slots, entry.data_addr
            ),
        );
        self.ensure_registered(state, &entry, out);
        self.cancel_stale(state, &entry, session, out);
    }

    /// Registers a worker in the log unless it is there. It may have come back while its removal was on its way into the
    /// log, or its registration may have been lost: so this is asked again for as long as it is attached.
    pub(super) fn ensure_registered(&mut self, state: &State, entry: &Entry, out: &mut Vec<Effect>) {
        let known = state.workers.get(&entry.resource_id);
        let logged = known.is_some_and(|w| {
            w.incarnation == entry.incarnation && w.data_addr == entry.data_addr && w.slots == entry.slots
        });
        if logged {
            return;
        }
        let ticket = self.tickets.issue(None, Purpose::Worker);
        out.push(Effect::Propose {
            ticket,
            command: Box::new(Command::RegisterWorker {
                epoch: self.config.epoch,
                worker: Worker {
                    resource_id: entry.resource_id.clone(),
                    incarnation: entry.incarnation,
                    data_addr: entry.data_addr.clone(),
                    slots: entry.slots,
                    version: entry.version.clone(),
                    pid: entry.pid,
                    registered_ms: entry.heard_wall_ms,
                },
            }),
        });
    }

    pub(super) fn remove_worker(&mut self, state: &State, lost: LostWorker, out: &mut Vec<Effect>) {
        let logged = state.workers.get(&lost.resource_id);
        if logged.is_none_or(|w| w.incarnation != lost.incarnation) {
            return;
        }
        let ticket = self.tickets.issue(None, Purpose::Worker);
        out.push(Effect::Propose {
            ticket,
            command: Box::new(Command::RemoveWorker {
                epoch: self.config.epoch,
                resource_id: lost.resource_id,
                incarnation: lost.incarnation,
                reason: lost.reason,
            }),
        });
    }

    /// Tells a worker to stop attempts that are not current: it was away when they were replaced.
    pub(super) fn cancel_stale(
        &self,
        state: &State,
        entry: &Entry,
        session: SessionId,
        out: &mut Vec<Effect>,
    ) {
        for report in entry.reports.values() {
            let current = state
                .jobs
                .get(&report.job)
                .filter(|job| !job.status.is_terminal() && !has_failed(job))
                .and_then(|job| job.attempt.as_ref())
                .is_some_and(|a| {
                    a.id == report.attempt && a.assignment.iter().any(|s| s.incarnation == entry.incarnation)
                });
            if !current && !inject::bug(bugs::TWO_ATTEMPTS) {
                self.note(
                    out,
                    Level::Info,
                    format!(
                        "worker '{}' runs attempt {} of job {}, which is over: it is told to stop it",
                        entry.resource_id, report.attempt, report.job
                    ),
                );
                out.push(Effect::Send {
                    session,
                    body: Box::new(Body::Cancel(Cancel {
                        leader_epoch: self.config.epoch.0,
                        job_id: report.job.to_bytes().to_vec().into(),
                        attempt: report.attempt.0,
                    })),
                });
            }
        }
    }
}

/// The log says that the job's current attempt has failed: it ran, or was deployed, and the job waits for the next one.
fn has_failed(job: &Job) -> bool {
    job.status == JobStatus::Restarting && job.attempt.as_ref().is_some_and(|a| a.running_ms.is_some())
}
