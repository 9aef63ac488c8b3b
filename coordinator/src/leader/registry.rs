//! The workers as this leader sees them: expected, attached, suspected, lost. A pure state machine over registrations,
//! heartbeats, ended streams, refused redials and time. Knows nothing of jobs, and decides nothing that must survive
//! the leader: registrations and removals are also proposed to the log by the core.

use super::input::{Hello, Report, SessionId};
use holdfast_common::clock::UnixMillis;
use holdfast_common::{AttemptId, Incarnation, JobId};
use holdfast_machine::state::Worker;
use std::collections::{BTreeMap, BTreeSet};

/// Incarnations remembered as replaced by another process under the same name.
const SUPERSEDED_MAX: usize = 1024;
/// A worker that missed this many heartbeats gets no new slots, though it is not lost yet.
const MISSED_HEARTBEATS: u64 = 4;

/// The leader looks at its workers at least once per heartbeat interval; after so many without a look it has stood still.
const STALL_INTERVALS: u64 = 4;
/// How long work is held back for workers that were gone when the leader came: whoever started everything again will
/// start them too, and the job is better spread over all than on the first that comes.
const RETURN_WAIT_MS: u64 = 300;

/// How a worker is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The log knows it; it has not come to this leader yet.
    Expected,
    /// Its stream is open.
    Attached(SessionId),
    /// Its stream has ended.
    Suspected,
}

/// A worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Stable name.
    pub resource_id: String,
    /// Its process.
    pub incarnation: Incarnation,
    /// Where other workers reach it.
    pub data_addr: String,
    /// Slots.
    pub slots: u32,
    /// Its build.
    pub version: String,
    /// Its operating-system process.
    pub pid: u32,
    /// Connection.
    pub link: Link,
    /// When anything was last heard of it.
    pub heard_ms: u64,
    /// The same on the wall clock.
    pub heard_wall_ms: UnixMillis,
    /// What it said that it runs.
    pub reports: BTreeMap<JobId, Report>,
}

/// What follows from an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is attached on this stream now (again).
    Attached(Incarnation, SessionId),
    /// It is lost, and why.
    Lost(Box<LostWorker>),
    /// Find out whether it still listens.
    Redial(Incarnation, String),
    /// End this stream.
    Close(SessionId),
    /// Tell it not to come back, then end the stream.
    Refuse(SessionId, String),
}

/// A worker that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostWorker {
    /// Stable name.
    pub resource_id: String,
    /// Its process.
    pub incarnation: Incarnation,
    /// Why.
    pub reason: String,
    /// It was stopped in order, or was gone before this leader came: no failure of the job's.
    pub excused: bool,
}

/// All workers.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    workers: BTreeMap<Incarnation, Entry>,
    sessions: BTreeMap<SessionId, Incarnation>,
    superseded: BTreeSet<Incarnation>,
    /// Names of workers that were gone when this leader came, and until when their next process is waited for.
    returning: BTreeMap<String, u64>,
    looked_ms: u64,
    interval_ms: u64,
    timeout_ms: u64,
}

impl Registry {
    /// No workers.
    #[must_use]
    pub fn new(interval_ms: u64, timeout_ms: u64) -> Self {
        Self {
            interval_ms: interval_ms.max(1),
            timeout_ms: timeout_ms.max(1),
            ..Self::default()
        }
    }

    /// Called in every step. If this process itself stood still (stopped, suspended, starved), nobody is to blame for a
    /// silence that nobody here could have heard: all deadlines are put off by that time.
    pub fn wake(&mut self, now_ms: u64) {
        let gap_ms = now_ms.saturating_sub(self.looked_ms);
        if self.looked_ms > 0 && gap_ms > STALL_INTERVALS * self.interval_ms.max(50) {
            for entry in self.workers.values_mut() {
                entry.heard_ms = entry.heard_ms.saturating_add(gap_ms).min(now_ms);
            }
        }
        self.looked_ms = now_ms;
    }

    /// A worker that the log knows when the leader begins.
    pub fn expect(&mut self, worker: &Worker, now_ms: u64) -> Vec<Change> {
        let entry = Entry {
            resource_id: worker.resource_id.clone(),
            incarnation: worker.incarnation,
            data_addr: worker.data_addr.clone(),
            slots: worker.slots,
            version: worker.version.clone(),
            pid: worker.pid,
            link: Link::Expected,
            heard_ms: now_ms,
            heard_wall_ms: 0,
            reports: BTreeMap::new(),
        };
        let change = Change::Redial(entry.incarnation, entry.data_addr.clone());
        self.workers.insert(entry.incarnation, entry);
        vec![change]
    }

    /// A worker has registered on a new stream.
    pub fn attach(&mut self, hello: Hello, now_ms: u64, wall_ms: UnixMillis) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.superseded.contains(&hello.incarnation) {
            let reason = format!(
                "another process has registered as '{}' since; give every worker its own taskmanager.resource-id",
                hello.resource_id
            );
            return vec![Change::Refuse(hello.session, reason)];
        }
        if let Some(old) = self.other_process(&hello) {
            if self.superseded.len() >= SUPERSEDED_MAX {
                self.superseded.pop_first();
            }
            self.superseded.insert(old.incarnation);
            if let Link::Attached(session) = old.link {
                changes.push(Change::Refuse(session, format!(
                    "another process has registered as '{}'; give every worker its own taskmanager.resource-id",
                    old.resource_id
                )));
            }
            changes.extend(self.lose(old.incarnation, "it was started again as another process"));
        }
        if let Some(Link::Attached(session)) = self.workers.get(&hello.incarnation).map(|e| e.link) {
            self.sessions.remove(&session);
            changes.push(Change::Close(session));
        }
        let entry = Entry {
            resource_id: hello.resource_id,
            incarnation: hello.incarnation,
            data_addr: hello.data_addr,
            slots: hello.slots,
            version: hello.version,
            pid: hello.pid,
            link: Link::Attached(hello.session),
            heard_ms: now_ms,
            heard_wall_ms: wall_ms,
            reports: hello.reports.into_iter().map(|r| (r.job, r)).collect(),
        };
        self.returning.remove(&entry.resource_id);
        self.sessions.insert(hello.session, entry.incarnation);
        changes.push(Change::Attached(entry.incarnation, hello.session));
        self.workers.insert(entry.incarnation, entry);
        changes
    }

    fn other_process(&self, hello: &Hello) -> Option<Entry> {
        self.workers
            .values()
            .find(|e| e.resource_id == hello.resource_id && e.incarnation != hello.incarnation)
            .cloned()
    }

    /// Something was heard on a stream. The worker's incarnation, if the stream is a current one.
    pub fn heard(&mut self, session: SessionId, now_ms: u64, wall_ms: UnixMillis) -> Option<Incarnation> {
        let incarnation = *self.sessions.get(&session)?;
        let entry = self.workers.get_mut(&incarnation)?;
        entry.heard_ms = now_ms;
        entry.heard_wall_ms = wall_ms;
        Some(incarnation)
    }

    /// What a worker runs, from its heartbeat.
    pub fn reported(&mut self, incarnation: Incarnation, reports: Vec<Report>) {
        if let Some(entry) = self.workers.get_mut(&incarnation) {
            entry.reports = reports.into_iter().map(|r| (r.job, r)).collect();
        }
    }

    /// One report of a worker, to be changed by a message that is newer than its heartbeat.
    pub fn report_mut(
        &mut self,
        incarnation: Incarnation,
        job: JobId,
        attempt: AttemptId,
    ) -> Option<&mut Report> {
        let report = self.workers.get_mut(&incarnation)?.reports.get_mut(&job)?;
        (report.attempt == attempt).then_some(report)
    }

    /// A worker runs an attempt now; its next heartbeat tells the details.
    pub fn add_report(&mut self, incarnation: Incarnation, job: JobId, attempt: AttemptId) {
        if let Some(entry) = self.workers.get_mut(&incarnation) {
            let report = Report {
                job,
                attempt,
                ..Report::default()
            };
            entry.reports.insert(job, report);
        }
    }

    /// A worker no longer runs an attempt.
    pub fn forget_attempt(&mut self, incarnation: Incarnation, job: JobId, attempt: AttemptId) {
        if let Some(entry) = self.workers.get_mut(&incarnation)
            && entry.reports.get(&job).is_some_and(|r| r.attempt == attempt)
        {
            entry.reports.remove(&job);
        }
    }

    /// A stream has ended: the worker is suspected, and redialled at once.
    pub fn closed(&mut self, session: SessionId) -> Vec<Change> {
        let Some(incarnation) = self.sessions.remove(&session) else {
            return Vec::new();
        };
        let Some(entry) = self.workers.get_mut(&incarnation) else {
            return Vec::new();
        };
        entry.link = Link::Suspected;
        vec![Change::Redial(incarnation, entry.data_addr.clone())]
    }

    /// The answer to a redial. Nobody there: lost, unless it has attached meanwhile.
    pub fn redialed(&mut self, incarnation: Incarnation, refused: bool) -> Vec<Change> {
        let gone = refused
            && self
                .workers
                .get(&incarnation)
                .is_some_and(|e| !matches!(e.link, Link::Attached(_)));
        if gone {
            if let Some(entry) = self
                .workers
                .get(&incarnation)
                .filter(|e| e.link == Link::Expected)
            {
                let until_ms = self.looked_ms.saturating_add(RETURN_WAIT_MS);
                self.returning.insert(entry.resource_id.clone(), until_ms);
            }
            return self.lose(incarnation, "its connection broke and a new one was refused");
        }
        Vec::new()
    }

    /// A worker leaves in order.
    pub fn leaving(&mut self, session: SessionId, reason: &str) -> Vec<Change> {
        let Some(incarnation) = self.sessions.get(&session).copied() else {
            return Vec::new();
        };
        let mut changes = self.lose(incarnation, &format!("it was stopped: {reason}"));
        for change in &mut changes {
            if let Change::Lost(lost) = change {
                lost.excused = true;
            }
        }
        changes.push(Change::Close(session));
        changes
    }

    /// How long a worker may be silent. One that is expected may hold a stream to the leader before, which is cut off or
    /// stands still without a word: it looks for another one only after its own timeout, and then still has to find it.
    fn patience_ms(&self, link: Link) -> u64 {
        match link {
            Link::Expected => self.timeout_ms.saturating_add(self.timeout_ms / 2),
            Link::Attached(_) | Link::Suspected => self.timeout_ms,
        }
    }

    fn lost_at(&self, entry: &Entry) -> u64 {
        entry.heard_ms.saturating_add(self.patience_ms(entry.link))
    }

    /// Whoever was silent for too long is lost.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Change> {
        self.returning.retain(|_, until_ms| now_ms < *until_ms);
        let silent: Vec<(Incarnation, Link)> = self
            .workers
            .values()
            .filter(|e| now_ms >= self.lost_at(e))
            .map(|e| (e.incarnation, e.link))
            .collect();
        let mut changes = Vec::new();
        for (incarnation, link) in silent {
            let reason = match link {
                Link::Expected => format!(
                    "it did not come to the new leader within {} ms",
                    self.patience_ms(link)
                ),
                Link::Attached(_) => format!("nothing was heard of it for {} ms", self.timeout_ms),
                Link::Suspected => format!("it did not come back within {} ms", self.timeout_ms),
            };
            changes.extend(self.lose(incarnation, &reason));
            if let Link::Attached(session) = link {
                changes.push(Change::Close(session));
            }
        }
        changes
    }

    fn lose(&mut self, incarnation: Incarnation, reason: &str) -> Vec<Change> {
        let Some(entry) = self.workers.remove(&incarnation) else {
            return Vec::new();
        };
        if let Link::Attached(session) = entry.link {
            self.sessions.remove(&session);
        }
        vec![Change::Lost(Box::new(LostWorker {
            resource_id: entry.resource_id,
            incarnation,
            reason: reason.to_owned(),
            excused: entry.link == Link::Expected,
        }))]
    }

    /// When [`Self::tick`] has something to do next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        // At least one look per interval, so that a longer pause shows that this process stood still.
        let look = (!self.workers.is_empty()).then_some(self.looked_ms.saturating_add(self.interval_ms));
        let silent = self.workers.values().map(|e| self.lost_at(e));
        silent.chain(look).chain(self.returning.values().copied()).min()
    }

    /// A worker.
    #[must_use]
    pub fn get(&self, incarnation: Incarnation) -> Option<&Entry> {
        self.workers.get(&incarnation)
    }

    /// All workers.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.workers.values()
    }

    /// The stream of an attached worker.
    #[must_use]
    pub fn session(&self, incarnation: Incarnation) -> Option<SessionId> {
        match self.workers.get(&incarnation)?.link {
            Link::Attached(session) => Some(session),
            Link::Expected | Link::Suspected => None,
        }
    }

    /// What a worker runs of an attempt.
    #[must_use]
    pub fn report(&self, incarnation: Incarnation, job: JobId, attempt: AttemptId) -> Option<&Report> {
        self.workers
            .get(&incarnation)?
            .reports
            .get(&job)
            .filter(|r| r.attempt == attempt)
    }

    /// Attached, and heard of lately enough to be given work.
    #[must_use]
    pub fn is_fit(&self, entry: &Entry, now_ms: u64) -> bool {
        matches!(entry.link, Link::Attached(_))
            && now_ms.saturating_sub(entry.heard_ms) < MISSED_HEARTBEATS * self.interval_ms.max(50)
    }

    /// Workers of the log may still come to this leader.
    #[must_use]
    pub fn awaits_any(&self) -> bool {
        !self.returning.is_empty() || self.workers.values().any(|e| e.link == Link::Expected)
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
