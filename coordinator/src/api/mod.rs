//! REST for people, scripts and Prometheus: every coordinator serves it.
//!
//! Reads are linearizable (ReadIndex on the leader) unless `?stale=true`; what needs the leader is passed on to it once
//! by the others. Handlers do no work of their own: they propose to the log, or show what [`view`] computes.

mod config;
mod error;
mod forward;
mod gate;
mod handlers;
mod levels;
mod metrics;
mod plans;
mod server;
mod submit;
pub mod view;

pub use error::ApiError;
pub use levels::Members;
pub use server::serve;

use crate::live::{LiveReceiver, LiveView};
use forward::Forwarder;
use holdfast_common::NodeId;
use holdfast_common::clock::{SharedClock, SharedRandom};
use holdfast_common::config::Configuration;
use holdfast_dataflow::connector::ConnectorRegistry;
use holdfast_dataflow::graph::JobGraph;
use holdfast_machine::command::{Command, Proposal, Response};
use holdfast_machine::state::{Job, State};
use holdfast_raft::{MemberInfo, RaftHandle};
use plans::Plans;
use std::collections::BTreeMap;
use std::sync::Arc;
use view::Scene;
use view::cluster::{CoordinatorInfo, RaftView};

/// What the REST interface needs from its coordinator.
#[derive(Clone)]
pub struct ApiDeps {
    /// The log and the state.
    pub handle: RaftHandle,
    /// What the leader hears from its workers.
    pub live: LiveReceiver,
    /// For planning.
    pub registry: Arc<dyn ConnectorRegistry>,
    /// This coordinator's settings; job settings in it are defaults of submitted jobs.
    pub config: Configuration,
    /// Stamps.
    pub clock: SharedClock,
    /// Job ids.
    pub random: SharedRandom,
    /// This build.
    pub version: &'static str,
}

/// Shared by all handlers.
pub(crate) struct Api {
    deps: ApiDeps,
    /// REST addresses as this coordinator's configuration has them, for members whose own record lacks one.
    rest_peers: BTreeMap<NodeId, String>,
    plans: Plans,
    forwarder: Forwarder,
}

/// What one answer is computed from, held together.
pub(crate) struct Moment {
    state: Arc<State>,
    live: Arc<LiveView>,
    now_ms: u64,
}

impl Moment {
    fn scene(&self) -> Scene<'_> {
        Scene {
            state: &self.state,
            live: &self.live,
            now_ms: self.now_ms,
        }
    }
}

impl Api {
    fn new(deps: ApiDeps) -> Self {
        let rest_peers = config::rest_peers(&deps.config);
        Self {
            deps,
            rest_peers,
            plans: Plans::default(),
            forwarder: Forwarder::new(),
        }
    }

    fn moment(&self) -> Moment {
        // The state second: what the live view no longer has of a job that has ended stands there.
        let live = Arc::clone(&self.deps.live.borrow());
        Moment {
            state: self.deps.handle.state(),
            live,
            now_ms: self.deps.clock.now_ms(),
        }
    }

    async fn graph(&self, job: &Job) -> Option<Arc<JobGraph>> {
        self.plans.of_job(job, &self.deps.registry).await
    }

    async fn propose(&self, command: Command) -> Result<Response, ApiError> {
        let proposal = Proposal {
            proposed_ms: self.deps.clock.now_ms(),
            session: None,
            command,
        };
        match self.deps.handle.propose(proposal).await {
            Ok(applied) => match applied.response {
                Response::Rejected(rejection) => Err(ApiError::from(rejection)),
                response => Ok(response),
            },
            Err(error) => Err(ApiError::from(error)),
        }
    }

    /// The members, each with its REST address as far as it is known.
    fn members(&self) -> Vec<MemberInfo> {
        let mut members = self.deps.handle.metrics().members;
        for member in members.iter_mut().filter(|m| m.addr.rest.is_empty()) {
            if let Some(rest) = self.rest_peers.get(&member.id) {
                member.addr.rest.clone_from(rest);
            }
        }
        members
    }

    /// Raft's view in the answers' words. A leader that no quorum hears leads nobody.
    fn raft_view(&self) -> RaftView {
        let metrics = self.deps.handle.metrics();
        let cut_off = metrics.leadership.is_leader && !metrics.leadership.quorum_ok;
        RaftView {
            own_id: metrics.id.0,
            leader: metrics.leadership.leader.filter(|_| !cut_off).map(|id| id.0),
            term: metrics.leadership.term,
            coordinators: self
                .members()
                .into_iter()
                .map(|m| CoordinatorInfo {
                    id: m.id.0,
                    rpc: m.addr.rpc,
                    rest: m.addr.rest,
                    role: m.role.to_owned(),
                    last_log: m.last_log,
                    applied: m.applied,
                })
                .collect(),
        }
    }
}
