//! A coordinator: its copy of the state machine, and the leader's services while it leads. What the services' event
//! loop does with tokio, this does with the simulator's queue; the core that decides is the real one.

use super::clock::leader_io;
use super::log::Waiter;
use super::plan::Profile;
use super::world::{Completion, Event, Proc, Queued, World};
use holdfast_common::{ClusterId, Incarnation, LeaderEpoch, NodeId, VertexId};
use holdfast_coordinator::leader::core::{Core, CoreConfig};
use holdfast_coordinator::leader::input::{Effect, Input, Now};
use holdfast_coordinator::leader::io::ManifestCache;
use holdfast_coordinator::leader::shape::{Shape, VertexShape};
use holdfast_machine::command::{Command, Response};
use holdfast_machine::state::State;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Waits before each dial of a worker, as the leader's IO has them, in milliseconds.
const REDIAL_AFTER_MS: [u64; 8] = [0, 5, 10, 20, 40, 80, 160, 320];
/// A proposal's deadline: then its outcome is unknown, and it is made again.
const PROPOSE_US: u64 = 2_000_000;
/// Wait before a proposal is made again.
const AGAIN_US: u64 = 20_000;
/// Heartbeats of the simulated cluster.
pub(super) const HEARTBEAT_MS: u64 = 200;
/// Silence after which the other side counts as lost.
pub(super) const TIMEOUT_MS: u64 = 2_000;

/// A state as a node has stored it.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) index: u64,
    pub(super) bytes: Vec<u8>,
}

/// The leader's services.
pub(super) struct Run {
    pub(super) id: u64,
    pub(super) core: Core,
    epoch: LeaderEpoch,
    /// Proposals without an answer, and how often they were made.
    open: BTreeMap<u64, (Command, u32)>,
    tick_us: Option<u64>,
    look_us: u64,
    started_us: u64,
}

/// See the module.
pub(super) struct Node {
    pub(super) generation: u32,
    pub(super) incarnation: Incarnation,
    pub(super) alive: bool,
    pub(super) frozen: bool,
    pub(super) held: Vec<Queued>,
    pub(super) state: State,
    pub(super) snapshot: Option<Snapshot>,
    /// It believes that it leads this term.
    pub(super) leads: Option<u64>,
    pub(super) quorum_us: u64,
    pub(super) run: Option<Run>,
    /// How far its wall clock is ahead.
    pub(super) wall_ms: u64,
    manifests: Arc<ManifestCache>,
}

impl Node {
    pub(super) fn new(wall_ms: u64) -> Self {
        Self {
            generation: 0,
            incarnation: Incarnation(0),
            alive: false,
            frozen: false,
            held: Vec::new(),
            state: State::default(),
            snapshot: None,
            leads: None,
            quorum_us: 0,
            run: None,
            wall_ms,
            manifests: Arc::default(),
        }
    }

    pub(super) fn reset(&mut self, state: State, incarnation: Incarnation) {
        self.alive = true;
        self.frozen = false;
        self.held.clear();
        self.leads = None;
        self.run = None;
        self.state = state;
        self.incarnation = incarnation;
        self.manifests = Arc::default();
    }
}

impl World {
    /// A node that has come to lead, and has applied all that was committed before, claims its role.
    pub(super) fn claim(&mut self, node: usize, term: u64) {
        if self.nodes[node].leads != Some(term) || self.nodes[node].run.is_some() {
            return;
        }
        let command = if self.nodes[node].state.cluster.is_some() {
            Command::ClaimLeader {
                node: NodeId(node as u64 + 1),
                incarnation: self.nodes[node].incarnation,
            }
        } else {
            Command::InitCluster {
                cluster_id: ClusterId(self.rng.wide()),
                name: "simulated".to_owned(),
            }
        };
        let proposal = self.stamp(node, command);
        self.propose(node, proposal, Waiter::Claim { term });
        // Claims are made again until there is an answer, like every proposal.
        self.after(500_000, Some(Proc::Node(node)), Event::Claim { node, term });
    }

    pub(super) fn answer(&mut self, node: usize, waiter: Waiter, index: u64, response: Response) {
        match waiter {
            Waiter::Nobody => {}
            Waiter::Claim { term } => self.claimed(node, term, &response),
            Waiter::Client { client, request } => self.client_told(client, request, index, response),
            Waiter::Core { run, ticket, tries } => {
                let Some(r) = self.run_mut(node, run) else { return };
                if r.open.get(&ticket).is_none_or(|(_, t)| *t != tries) {
                    return;
                }
                r.open.remove(&ticket);
                let input = Box::new(Input::Answered { ticket, response });
                let wait = self.rng.below(1_000);
                self.after(wait, Some(Proc::Node(node)), Event::Input { node, run, input });
            }
        }
    }

    fn claimed(&mut self, node: usize, term: u64, response: &Response) {
        if self.nodes[node].leads != Some(term) || self.nodes[node].run.is_some() {
            return;
        }
        match response {
            Response::Cluster(_) => self.claim(node, term),
            Response::Epoch(epoch) => self.begin(node, *epoch),
            other => self.violation("claims-are-granted", format!("{other:?}")),
        }
    }

    fn begin(&mut self, node: usize, epoch: LeaderEpoch) {
        let Some(cluster) = self.nodes[node].state.cluster.as_ref().map(|c| c.id) else {
            return;
        };
        self.count("leaders");
        self.note(2, node as u64, epoch.0, || {
            format!("node {node} leads by epoch {epoch}")
        });
        let config = CoreConfig {
            node: NodeId(node as u64 + 1),
            epoch,
            cluster,
            heartbeat_interval_ms: HEARTBEAT_MS,
            heartbeat_timeout_ms: TIMEOUT_MS,
        };
        let now = self.now_of(node, self.now_us);
        let (core, effects) = Core::new(config, now, &self.nodes[node].state);
        let id = self.number();
        self.nodes[node].run = Some(Run {
            id,
            core,
            epoch,
            open: BTreeMap::new(),
            tick_us: None,
            look_us: 0,
            started_us: self.now_us,
        });
        self.carry_out(node, id, effects);
        self.schedule(node, id, now);
    }

    fn now_of(&mut self, node: usize, started_us: u64) -> Now {
        Now {
            mono_ms: (self.now_us - started_us) / 1000,
            wall_ms: self.wall_ms(node),
            bits: self.rng.next(),
        }
    }

    /// The services of a node end; what they have begun outside goes on.
    pub(super) fn end_run(&mut self, node: usize) {
        let Some(run) = self.nodes[node].run.take() else {
            return;
        };
        self.note(3, node as u64, run.epoch.0, || {
            format!("node {node} no longer leads by epoch {}", run.epoch)
        });
        self.drop_flights(Proc::Node(node));
        let streams: Vec<u64> = self
            .streams
            .iter()
            .filter(|(_, s)| s.run == Some(run.id))
            .map(|(id, _)| *id)
            .collect();
        for stream in streams {
            self.close_down(stream);
        }
        self.step_down(node, run.id);
    }

    fn step_down(&mut self, node: usize, run: u64) {
        let n = &self.nodes[node];
        let Some(cluster) = n.state.cluster.as_ref().map(|c| c.id) else {
            return;
        };
        let io = leader_io(&self.outside, cluster, &n.manifests);
        if let Some(work) = io.step_down_work(&n.state) {
            let done = async move { Completion::Leader(node, run, work.await) };
            self.spawn(Proc::Node(node), Box::pin(done));
        }
    }

    pub(super) fn deposed(&mut self, node: usize, term: u64) {
        if self.nodes[node].leads == Some(term) {
            if self.log.term > term || self.log.leader != Some(node) {
                self.nodes[node].leads = None;
            } else {
                // It leads on paper, without a quorum: it claims again once it has one.
                self.after(50_000, Some(Proc::Node(node)), Event::Claim { node, term });
            }
            self.end_run(node);
        }
    }

    /// One step of the services.
    pub(super) fn step(&mut self, node: usize, run: u64, input: Input) {
        let Some(started_us) = self.run_mut(node, run).map(|r| r.started_us) else {
            return;
        };
        self.count("steps");
        let kind = input_kind(&input);
        let now = self.now_of(node, started_us);
        let n = &mut self.nodes[node];
        let Some(r) = n.run.as_mut() else { return };
        let effects = r.core.step(now, &n.state, input);
        let deposed = r.core.is_deposed();
        let many = effects.len() as u64;
        self.note(4, (node as u64) << 8 | kind, many, || {
            format!("node {node} takes input {kind} and wants {many} effects")
        });
        self.carry_out(node, run, effects);
        self.schedule(node, run, now);
        if deposed {
            self.end_run(node);
            if let Some(term) = self.nodes[node].leads {
                self.after(20_000, Some(Proc::Node(node)), Event::Claim { node, term });
            }
        }
    }

    fn schedule(&mut self, node: usize, run: u64, stepped: Now) {
        let n = &mut self.nodes[node];
        let Some(r) = n.run.as_mut().filter(|r| r.id == run) else {
            return;
        };
        let tick_ms = r.core.next_tick(stepped, &n.state);
        let tick_us = tick_ms.map(|at_ms| r.started_us.saturating_add(at_ms.saturating_mul(1000)));
        let changed = r.tick_us != tick_us;
        r.tick_us = tick_us;
        if let Some(at_us) = tick_us.filter(|_| changed) {
            let at_us = at_us.max(self.now_us + 1);
            if let Some(r) = self.run_mut(node, run) {
                r.tick_us = Some(at_us);
            }
            self.at(at_us, Some(Proc::Node(node)), Event::Tick { node, run, at_us });
        }
    }

    pub(super) fn tick(&mut self, node: usize, run: u64, at_us: u64) {
        if let Some(r) = self.run_mut(node, run)
            && r.tick_us == Some(at_us)
        {
            r.tick_us = None;
            self.step(node, run, Input::Tick);
        }
    }

    /// The log has gone on at a node: its services look, not too often.
    pub(super) fn log_went_on(&mut self, node: usize) {
        let now_us = self.now_us;
        let Some(r) = self.nodes[node].run.as_mut() else {
            return;
        };
        if r.look_us > now_us {
            return;
        }
        let run = r.id;
        r.look_us = now_us + 5_000;
        let input = Box::new(Input::Applied);
        self.at(
            now_us + 200,
            Some(Proc::Node(node)),
            Event::Input { node, run, input },
        );
    }

    fn carry_out(&mut self, node: usize, run: u64, effects: Vec<Effect>) {
        for effect in effects {
            let owner = Some(Proc::Node(node));
            match effect {
                Effect::Send { session, body } => self.send_down(node, session, *body),
                Effect::Close { session } => self.close_down(session),
                Effect::Redial { incarnation, .. } => {
                    self.after(
                        100,
                        owner,
                        Event::Redial {
                            node,
                            run,
                            incarnation,
                            dials: 0,
                        },
                    );
                }
                Effect::Propose { ticket, command } => {
                    if let Some(r) = self.run_mut(node, run) {
                        r.open.insert(ticket, (*command, 0));
                    }
                    self.propose_again(node, run, ticket, 0);
                }
                Effect::Plan { job } => {
                    let result = self.shape_of(&self.nodes[node].state, job);
                    let wait = self.rng.range((500, 5_000));
                    let input = Box::new(Input::Planned { job, result });
                    self.after(wait, owner, Event::Input { node, run, input });
                }
                Effect::Note { message, .. } => {
                    if self.plan.profile == Profile::Control && message.contains("fail") {
                        self.count("troubles");
                    }
                    self.note(5, node as u64, message.len() as u64, || {
                        format!("node {node}: {message}")
                    });
                }
                other => self.carry_out_io(node, run, other),
            }
        }
    }

    fn carry_out_io(&mut self, node: usize, run: u64, effect: Effect) {
        let Some(cluster) = self.nodes[node].state.cluster.as_ref().map(|c| c.id) else {
            return;
        };
        if matches!(effect, Effect::Collect { .. }) {
            self.count("collections");
        }
        let io = leader_io(&self.outside, cluster, &self.nodes[node].manifests);
        if let Ok(work) = io.storage_work(effect) {
            let done = async move { Completion::Leader(node, run, work.await) };
            self.spawn(Proc::Node(node), Box::pin(done));
        }
    }

    pub(super) fn propose_again(&mut self, node: usize, run: u64, ticket: u64, tries: u32) {
        let found = self.run_mut(node, run).and_then(|r| {
            let (command, t) = r.open.get_mut(&ticket)?;
            if *t != tries {
                return None;
            }
            *t += 1;
            Some(command.clone())
        });
        let Some(command) = found else { return };
        let tries = tries + 1;
        let owner = Some(Proc::Node(node));
        let proposal = self.stamp(node, command);
        let accepted = self.propose(node, proposal, Waiter::Core { run, ticket, tries });
        let unknown = self.plan.unknown;
        let wait = if !accepted {
            AGAIN_US
        } else if self.faults_on && self.rng.chance(unknown) {
            self.count("unknown proposals");
            self.rng.range((AGAIN_US, 150_000))
        } else {
            PROPOSE_US
        };
        self.after(
            wait,
            owner,
            Event::Again {
                node,
                run,
                ticket,
                tries,
            },
        );
    }

    pub(super) fn redial(&mut self, node: usize, run: u64, incarnation: Incarnation, dials: usize) {
        if self.run_mut(node, run).is_none() {
            return;
        }
        let target = self
            .workers
            .iter()
            .position(|w| w.incarnation == incarnation && w.alive);
        let cut = self
            .worker_of(incarnation)
            .is_some_and(|w| self.is_cut(Proc::Node(node), Proc::Worker(w)));
        let refused = target.is_none() && !cut;
        let owner = Some(Proc::Node(node));
        if refused || dials + 1 >= REDIAL_AFTER_MS.len() {
            let input = Box::new(Input::Redialed { incarnation, refused });
            return self.after(50, owner, Event::Input { node, run, input });
        }
        let dials = dials + 1;
        let wait = REDIAL_AFTER_MS[dials] * 1000;
        self.after(
            wait,
            owner,
            Event::Redial {
                node,
                run,
                incarnation,
                dials,
            },
        );
    }

    /// Workers are told apart by their incarnation, whose lower half is the worker's number.
    pub(super) fn worker_of(&self, incarnation: Incarnation) -> Option<usize> {
        let i = usize::try_from(incarnation.0 & 0xffff).ok()?;
        (i < self.workers.len()).then_some(i)
    }

    fn shape_of(&self, state: &State, job: holdfast_common::JobId) -> Result<Shape, String> {
        let record = state.jobs.get(&job).ok_or("there is no such job")?;
        let plan = self
            .plan
            .jobs
            .iter()
            .find(|p| p.key == record.sql)
            .ok_or("there is no such script")?;
        let vertex = |id: u32, name: &str, parallelism: u32| VertexShape {
            id: VertexId(id),
            name: name.to_owned(),
            parallelism,
            operator_uids: vec![format!("{name}-operator")],
        };
        Ok(Shape {
            fingerprint: record.fingerprint.clone(),
            max_parallelism: record.max_parallelism,
            vertices: vec![vertex(0, "source", plan.sources), vertex(1, "sink", plan.sinks)],
        })
    }
}

fn input_kind(input: &Input) -> u64 {
    match input {
        Input::Attached(_) => 0,
        Input::Message { .. } => 1,
        Input::Closed { .. } => 2,
        Input::Redialed { .. } => 3,
        Input::Answered { .. } => 4,
        Input::Planned { .. } => 5,
        Input::ManifestWritten { .. } => 6,
        Input::ManifestRead { .. } => 7,
        Input::Collected { .. } => 8,
        Input::Applied => 9,
        Input::Tick => 10,
    }
}
