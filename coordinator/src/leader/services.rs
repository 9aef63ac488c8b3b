//! The leader's services while they run: one task that steps the core, and side tasks for everything that takes time.

use super::core::{Core, CoreConfig};
use super::crash;
use super::input::{Effect, Input, Level, Now, SessionId};
use super::io::Io;
use crate::control::{Event, Outgoing};
use crate::live::{LivePublisher, LiveView};
use holdfast_common::clock::SharedRandom;
use holdfast_common::limits::LIVE_VIEW_INTERVAL;
use holdfast_machine::state::State;
use holdfast_proto::control::CoordinatorMessage;
use holdfast_proto::control::coordinator_message::Body;
use holdfast_raft::Leadership;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Events taken in one go before timers and the live view are looked after.
const EVENTS_AT_ONCE: usize = 128;
/// Least time between two looks at a log that goes on for other reasons than the leader's.
const APPLIED_PAUSE: Duration = Duration::from_millis(5);

/// Why services ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// They were told to.
    Stopped,
    /// This coordinator does not lead any more, or has no contact with a quorum.
    NotLeading,
    /// Another claim is in the log.
    Deposed,
    /// A side task has panicked.
    Broken,
}

/// Services of one epoch.
pub struct Services {
    core: Core,
    io: Io,
    random: SharedRandom,
    events: mpsc::Receiver<Event>,
    sessions: BTreeMap<SessionId, Outgoing>,
    tasks: JoinSet<Option<Input>>,
    live: LivePublisher,
    started: Instant,
    tick_at: Option<Instant>,
    live_at: Instant,
    live_stale: bool,
}

impl Services {
    /// Begins.
    #[must_use]
    pub fn new(
        config: CoreConfig,
        io: Io,
        random: SharedRandom,
        events: mpsc::Receiver<Event>,
        live: LivePublisher,
    ) -> Self {
        let started = Instant::now();
        let state = io.log.state();
        let now = Now {
            mono_ms: 0,
            wall_ms: io.clock.now_ms(),
            bits: random.next_u64(),
        };
        let (core, effects) = Core::new(config, now, &state);
        let mut services = Self {
            core,
            io,
            random,
            events,
            sessions: BTreeMap::new(),
            tasks: JoinSet::new(),
            live,
            started,
            tick_at: None,
            live_at: started,
            live_stale: true,
        };
        services.carry_out(&state, effects);
        services.schedule(&state, now);
        services
    }

    /// Runs until leadership, contact with a quorum, or the epoch is lost, or `stop` says so. All side tasks and
    /// streams end with it.
    pub async fn run(
        mut self,
        mut leadership: watch::Receiver<Leadership>,
        term: u64,
        stop: CancellationToken,
    ) -> Ended {
        // What has changed since the claim counts too.
        leadership.mark_changed();
        let mut applied = self.io.log.watch_applied();
        let mut look_at = Instant::now();
        let ended = loop {
            if self.core.is_deposed() {
                break Ended::Deposed;
            }
            self.publish();
            let tick_at = self.tick_at.unwrap_or_else(far);
            let live_at = if self.live_stale { self.live_at } else { far() };
            tokio::select! {
                biased;
                () = stop.cancelled() => break Ended::Stopped,
                changed = leadership.changed() => {
                    let lost = {
                        let l = leadership.borrow_and_update();
                        changed.is_err() || !l.is_leader || !l.quorum_ok || l.term != term
                    };
                    if lost {
                        break Ended::NotLeading;
                    }
                }
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                    Ok(Some(input)) => self.step(input),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::error!(%error, "a side task of the leader's services broke");
                        break Ended::Broken;
                    }
                },
                event = self.events.recv() => {
                    let Some(event) = event else { break Ended::Stopped };
                    self.take_events(event);
                }
                () = tokio::time::sleep_until(tick_at) => self.step(Input::Tick),
                () = tokio::time::sleep_until(live_at) => {}
                changed = wait_applied(&mut applied, look_at) => {
                    if changed.is_err() {
                        break Ended::Stopped;
                    }
                    look_at = Instant::now() + APPLIED_PAUSE;
                    self.step(Input::Applied);
                }
            }
        };
        self.live.send_replace(Arc::new(LiveView::default()));
        self.tasks.abort_all();
        if let Some(work) = self.io.clone().step_down_work(&self.io.log.state()) {
            work.await;
        }
        ended
    }

    fn take_events(&mut self, first: Event) {
        self.take_event(first);
        for _ in 1..EVENTS_AT_ONCE {
            match self.events.try_recv() {
                Ok(event) => self.take_event(event),
                Err(_) => break,
            }
        }
        // However many events come, timers are kept.
        if self.tick_at.is_some_and(|at| Instant::now() >= at) {
            self.step(Input::Tick);
        }
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::Attached { hello, outgoing } => {
                self.sessions.insert(hello.session, outgoing);
                self.step(Input::Attached(hello));
            }
            Event::Input(input) => {
                match &input {
                    Input::Closed { session } => {
                        self.sessions.remove(session);
                    }
                    Input::Message { message, .. } => crash::heard(message),
                    _ => {}
                }
                self.step(input);
            }
        }
    }

    fn now(&self) -> Now {
        Now {
            mono_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            wall_ms: self.io.clock.now_ms(),
            bits: self.random.next_u64(),
        }
    }

    fn step(&mut self, input: Input) {
        let state = self.io.log.state();
        let now = self.now();
        let effects = self.core.step(now, &state, input);
        self.live_stale = true;
        self.carry_out(&state, effects);
        self.schedule(&state, now);
    }

    fn schedule(&mut self, state: &State, stepped: Now) {
        let tick_ms = self.core.next_tick(stepped, state);
        self.tick_at = tick_ms.map(|at_ms| self.started + Duration::from_millis(at_ms));
    }

    fn carry_out(&mut self, state: &State, effects: Vec<Effect>) {
        for effect in effects {
            let io = self.io.clone();
            match effect {
                Effect::Send { session, body } => {
                    crash::before_send(state, &body);
                    self.send(session, *body);
                }
                Effect::Close { session } => {
                    self.sessions.remove(&session);
                }
                Effect::Redial {
                    incarnation,
                    data_addr,
                } => {
                    self.tasks.spawn(io.redial(incarnation, data_addr));
                }
                Effect::Propose { ticket, command } => {
                    crash::before_proposal(&command);
                    self.tasks.spawn(io.propose(ticket, *command));
                }
                Effect::Plan { job } => {
                    if let Some(job) = state.jobs.get(&job) {
                        self.tasks.spawn(io.plan(Arc::clone(job)));
                    }
                }
                Effect::Note { level, job, message } => note(level, job, &message),
                storage => {
                    if let Ok(work) = io.storage_work(storage) {
                        self.tasks.spawn(work);
                    }
                }
            }
        }
    }

    /// A worker that does not take its messages is disconnected: it comes back and learns everything anew.
    fn send(&mut self, session: SessionId, body: Body) {
        let Some(outgoing) = self.sessions.get(&session) else {
            return;
        };
        let message = CoordinatorMessage { body: Some(body) };
        if let Err(error) = outgoing.try_send(Ok(message)) {
            let full = matches!(error, mpsc::error::TrySendError::Full(_));
            tracing::warn!(
                session,
                full,
                "a worker does not take its messages and is disconnected"
            );
            self.sessions.remove(&session);
            self.tasks.spawn(async move { Some(Input::Closed { session }) });
        }
    }

    fn publish(&mut self) {
        let now = Instant::now();
        if !self.live_stale || now < self.live_at {
            return;
        }
        self.live_stale = false;
        self.live_at = now + LIVE_VIEW_INTERVAL;
        self.live
            .send_replace(Arc::new(self.core.live(&self.io.log.state())));
    }
}

async fn wait_applied(
    applied: &mut watch::Receiver<u64>,
    not_before: Instant,
) -> Result<(), watch::error::RecvError> {
    tokio::time::sleep_until(not_before).await;
    applied.changed().await
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

fn note(level: Level, job: Option<holdfast_common::JobId>, message: &str) {
    let job = job.map(tracing::field::display);
    match level {
        Level::Debug => tracing::debug!(job, "{message}"),
        Level::Info => tracing::info!(job, "{message}"),
        Level::Warn => tracing::warn!(job, "{message}"),
        Level::Error => tracing::error!(job, "{message}"),
    }
}
