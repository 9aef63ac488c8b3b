//! Builds an attempt's tasks on this worker: operators with their state, channels with their ends. Opens connectors but
//! makes no connections; the links that must be dialled and those that will be are handed back. Must not know threads.

use super::api::{Deployment, EngineError};
use super::cell::{TaskCell, TaskId};
use super::channel::{Credit, Inbox};
use super::events::EventQueue;
use super::input::{InputChannel, InputGate};
use super::output::{OutEdge, Outlet, Output, Target};
use super::partition::Partitioner;
use super::restore::VertexState;
use super::task::{Head, Task, TaskParts};
use super::waker::Waker;
use crate::exchange::{InboundChannels, Link, LinkChannel, Peer, RemoteOutlet};
use crate::operators::{
    Calc, Chain, ChainNode, NO_WATERMARK, Operator, SinkOperator, SourceHead, SourceTiming, WindowAggregate,
    WindowAssign,
};
use arrow::datatypes::SchemaRef;
use holdfast_common::clock::SharedClock;
use holdfast_common::config::options::{BUFFER_TIMEOUT, HEARTBEAT_TIMEOUT, IDLE_TIMEOUT, WATERMARK_INTERVAL};
use holdfast_common::keygroup::range_of;
use holdfast_common::{CheckpointId, Incarnation, VertexId};
use holdfast_dataflow::connector::{ConnectorRegistry, SinkContext, SourceContext, SplitState};
use holdfast_dataflow::graph::{
    Edge, OperatorNode, OperatorSpec, Partitioning, SourceSpec, TableSpec, Vertex,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What building needs besides the deployment.
pub struct Site {
    /// This process.
    pub incarnation: Incarnation,
    /// Connectors.
    pub registry: Arc<dyn ConnectorRegistry>,
    /// Stamps.
    pub clock: SharedClock,
    /// Where events go.
    pub events: EventQueue,
    /// Temporary files of sinks.
    pub tmp_dir: PathBuf,
    /// The waker of the thread that will run a slot of the job.
    pub wakers: BTreeMap<u32, Arc<Waker>>,
    /// Ends the attempt's links.
    pub stop: CancellationToken,
}

/// An attempt's tasks here, not yet connected.
pub struct Built {
    /// The tasks, with their slot.
    pub tasks: Vec<(u32, Task)>,
    /// Links that peers will dial.
    pub inbound: InboundChannels,
    /// Links to dial.
    pub outbound: Vec<(Peer, Arc<Link>)>,
}

struct Builder<'a> {
    d: &'a Deployment,
    site: &'a Site,
    cells: BTreeMap<(VertexId, u32), Arc<TaskCell>>,
    inbound: InboundChannels,
    outbound: BTreeMap<Incarnation, (Peer, Arc<Link>)>,
    /// Channels within this process, by channel id.
    local: BTreeMap<u32, (Arc<Inbox>, Arc<Credit>)>,
    /// First channel id of every edge.
    first_channel: BTreeMap<u32, u32>,
    /// Silence after which a peer is gone.
    silence: Duration,
}

/// Builds all tasks of the deployment's slots here.
///
/// # Errors
/// If the deployment contradicts itself, a connector cannot be opened or state does not fit.
pub fn build(d: &Deployment, site: &Site) -> Result<Built, EngineError> {
    check(d, site)?;
    let mut builder = Builder {
        d,
        site,
        cells: BTreeMap::new(),
        inbound: BTreeMap::new(),
        outbound: BTreeMap::new(),
        local: BTreeMap::new(),
        first_channel: number_channels(d)?,
        silence: d
            .settings
            .get(&HEARTBEAT_TIMEOUT)
            .map_err(|e| EngineError::Invalid(e.to_string()))?,
    };
    builder.make_cells();
    let mut tasks = Vec::new();
    for vertex in &d.graph.vertices {
        for &slot in d.my_slots.iter().filter(|s| **s < vertex.parallelism) {
            tasks.push((slot, builder.task(vertex, slot)?));
        }
    }
    Ok(Built {
        tasks,
        inbound: builder.inbound,
        outbound: builder.outbound.into_values().collect(),
    })
}

fn check(d: &Deployment, site: &Site) -> Result<(), EngineError> {
    let invalid = |what: String| {
        Err(EngineError::Invalid(format!(
            "job {} attempt {}: {what}",
            d.job, d.attempt
        )))
    };
    let widest = d.graph.vertices.iter().map(|v| v.parallelism).max().unwrap_or(0);
    if widest == 0 || d.slots.len() < widest as usize {
        return invalid(format!("{} slots for a parallelism of {widest}", d.slots.len()));
    }
    for (i, place) in d.slots.iter().enumerate() {
        if d.my_slots.contains(&(i as u32)) != (place.incarnation == site.incarnation) {
            return invalid(format!("slot {i} is not where the list of slots says"));
        }
    }
    if d.my_slots.is_empty() || d.my_slots.iter().any(|s| *s as usize >= d.slots.len()) {
        return invalid(format!(
            "my slots {:?} are not among {} slots",
            d.my_slots,
            d.slots.len()
        ));
    }
    for edge in &d.graph.edges {
        let (Some(from), Some(to)) = (d.graph.vertex(edge.from), d.graph.vertex(edge.to)) else {
            return invalid(format!("edge {} has no end", edge.id));
        };
        if edge.partitioning == Partitioning::Forward && from.parallelism != to.parallelism {
            return invalid(format!("forward edge {} between unequal parallelisms", edge.id));
        }
    }
    match d
        .graph
        .vertices
        .iter()
        .find(|v| v.parallelism > d.graph.max_parallelism)
    {
        Some(v) => invalid(format!(
            "vertex '{}' is wider than {} key groups",
            v.name, d.graph.max_parallelism
        )),
        None => Ok(()),
    }
}

/// Every worker numbers the channels of the graph alike: edge by edge, sender by sender.
fn number_channels(d: &Deployment) -> Result<BTreeMap<u32, u32>, EngineError> {
    let mut next = 0u32;
    let mut first = BTreeMap::new();
    for edge in &d.graph.edges {
        first.insert(edge.id, next);
        let width = |v: VertexId| d.graph.vertex(v).map_or(0, |v| v.parallelism);
        next = width(edge.from)
            .checked_mul(width(edge.to))
            .and_then(|n| next.checked_add(n))
            .ok_or_else(|| EngineError::Invalid("too many channels".to_owned()))?;
    }
    Ok(first)
}

impl Builder<'_> {
    fn make_cells(&mut self) {
        let now_ms = self.site.clock.now_ms();
        for vertex in &self.d.graph.vertices {
            for &subtask in self.d.my_slots.iter().filter(|s| **s < vertex.parallelism) {
                let id = TaskId {
                    job: self.d.job,
                    attempt: self.d.attempt,
                    vertex: vertex.id,
                    subtask,
                };
                let cell = TaskCell::new(id, self.waker(subtask), now_ms);
                self.cells.insert((vertex.id, subtask), Arc::new(cell));
            }
        }
    }

    fn waker(&self, slot: u32) -> Arc<Waker> {
        self.site.wakers.get(&slot).cloned().unwrap_or_default()
    }

    fn cell(&self, vertex: VertexId, subtask: u32) -> Result<Arc<TaskCell>, EngineError> {
        self.cells
            .get(&(vertex, subtask))
            .cloned()
            .ok_or_else(|| EngineError::Invalid(format!("subtask {vertex}/{subtask} is not here")))
    }

    fn is_here(&self, slot: u32) -> bool {
        self.d.my_slots.contains(&slot)
    }

    fn peer(&self, slot: u32) -> Peer {
        let place = &self.d.slots[slot as usize];
        Peer {
            incarnation: place.incarnation,
            addr: place.data_addr.clone(),
        }
    }

    fn channel_id(&self, edge: &Edge, from: u32, to: u32) -> u32 {
        let width = self.d.graph.vertex(edge.to).map_or(1, |v| v.parallelism);
        self.first_channel.get(&edge.id).copied().unwrap_or(0) + from * width + to
    }

    fn task(&mut self, vertex: &Vertex, subtask: u32) -> Result<Task, EngineError> {
        let cell = self.cell(vertex.id, subtask)?;
        let d = self.d;
        let state = d
            .restore
            .as_ref()
            .map(|r| VertexState::find(r, vertex))
            .transpose()?;
        let last = state.map_or(CheckpointId(0), |s| s.checkpoint);
        let watermark_ms = state.map_or(NO_WATERMARK, |s| {
            s.watermark_ms(subtask, vertex.parallelism, self.d.graph.max_parallelism)
        });
        let output = self.output(vertex, subtask, &cell)?;
        let (source, rest) = match vertex.chain.split_first() {
            Some((
                OperatorNode {
                    spec: OperatorSpec::Source(spec),
                    uid,
                    name,
                    ..
                },
                rest,
            )) => (Some((spec, uid, name)), rest),
            _ => (None, &vertex.chain[..]),
        };
        let head = match source {
            Some((spec, uid, name)) => {
                let head = self
                    .source(vertex, spec, uid, subtask, state)
                    .map_err(|e| e.at_operator(name))?;
                Head::Source(uid.clone(), Box::new(head))
            }
            None => Head::Inputs(InputGate::new(self.inputs(vertex, subtask)?, last, watermark_ms)),
        };
        let mut schema = match source {
            Some(_) => vertex.chain[0].schema.clone(),
            None => self.input_schema(vertex)?,
        };
        let mut nodes = Vec::new();
        for node in rest {
            let operator = self
                .operator(vertex, node, &schema, subtask, state)
                .map_err(|e| e.at_operator(&node.name))?;
            nodes.push(ChainNode {
                uid: node.uid.clone(),
                name: node.name.clone(),
                operator,
            });
            schema = node.schema.clone();
        }
        Ok(Task::new(TaskParts {
            cell,
            head,
            chain: Chain::new(nodes),
            output,
            events: self.site.events.clone(),
            clock: self.site.clock.clone(),
            last,
            watermark_ms,
        }))
    }

    fn input_schema(&self, vertex: &Vertex) -> Result<SchemaRef, EngineError> {
        let edge = self.d.graph.inputs(vertex.id).next();
        edge.map(|e| e.schema.clone()).ok_or_else(|| {
            EngineError::Invalid(format!(
                "vertex '{}' has neither a source nor an input",
                vertex.name
            ))
        })
    }

    fn source(
        &self,
        vertex: &Vertex,
        spec: &SourceSpec,
        uid: &str,
        subtask: u32,
        state: Option<VertexState<'_>>,
    ) -> Result<SourceHead, EngineError> {
        let failed = |e: holdfast_dataflow::connector::ConnectorError| EngineError::Connector(e.to_string());
        let splits = state.map(|s| s.splits(uid)).unwrap_or_default();
        let context = SourceContext {
            job: self.d.job,
            subtask,
            parallelism: vertex.parallelism,
            clock: self.site.clock.clone(),
            bad_records: self.cell(vertex.id, subtask)?.counters.bad.clone(),
        };
        let restored = splits
            .iter()
            .map(|s| SplitState {
                split_id: s.split_id.clone(),
                position: s.position.to_vec(),
                finished: s.finished,
            })
            .collect();
        let source = self.site.registry.source(&spec.table).map_err(failed)?;
        let reader = source.reader(context, restored).map_err(failed)?;
        let setting = |option| {
            self.d
                .settings
                .get(option)
                .map_err(|e: holdfast_common::config::ConfigError| EngineError::Invalid(e.to_string()))
        };
        let timing = SourceTiming {
            watermark_interval: setting(&WATERMARK_INTERVAL)?,
            idle_timeout: setting(&IDLE_TIMEOUT)?,
        };
        SourceHead::new(spec, reader, &splits, timing, self.site.clock.now_ms())
            .map_err(|e| EngineError::Connector(e.0))
    }

    fn operator(
        &self,
        vertex: &Vertex,
        node: &OperatorNode,
        input: &SchemaRef,
        subtask: u32,
        state: Option<VertexState<'_>>,
    ) -> Result<Box<dyn Operator>, EngineError> {
        let invalid = |e: crate::operators::OperatorError| EngineError::Invalid(e.0);
        Ok(match &node.spec {
            OperatorSpec::Source(_) => {
                return Err(EngineError::Invalid("a source stands inside a chain".to_owned()));
            }
            OperatorSpec::Calc(spec) => Box::new(Calc::new(spec.clone())),
            OperatorSpec::WindowAssign(spec) => {
                Box::new(WindowAssign::new(spec, node.schema.clone()).map_err(invalid)?)
            }
            OperatorSpec::WindowAggregate(spec) => {
                let groups = self.d.graph.max_parallelism;
                let mut operator =
                    WindowAggregate::new(spec, input, node.schema.clone(), groups).map_err(invalid)?;
                if let Some(state) = state {
                    let range = range_of(subtask, groups, vertex.parallelism);
                    let watermark_ms = state.watermark_ms(subtask, vertex.parallelism, groups);
                    let reached = state.reached(&node.uid, &range, groups)?;
                    operator
                        .restore(state.keyed(&node.uid), &range, watermark_ms, &reached)
                        .map_err(|e| EngineError::Restore(e.0))?;
                }
                Box::new(operator)
            }
            OperatorSpec::Sink(table) => Box::new(self.sink(table, &node.uid, subtask)?),
        })
    }

    fn sink(&self, table: &TableSpec, uid: &str, subtask: u32) -> Result<SinkOperator, EngineError> {
        let failed = |e: holdfast_dataflow::connector::ConnectorError| EngineError::Connector(e.to_string());
        let sink = self.site.registry.sink(table).map_err(failed)?;
        let context = SinkContext {
            job: self.d.job,
            attempt: self.d.attempt,
            uid: uid.to_owned(),
            subtask,
            clock: self.site.clock.clone(),
            tmp_dir: self.site.tmp_dir.clone(),
        };
        Ok(SinkOperator::new(
            sink.writer(context).map_err(failed)?,
            sink.commits(),
        ))
    }

    /// Senders of a subtask over an edge.
    fn senders(&self, edge: &Edge, subtask: u32) -> Vec<u32> {
        match edge.partitioning {
            Partitioning::Forward => vec![subtask],
            _ => (0..self.d.graph.vertex(edge.from).map_or(0, |v| v.parallelism)).collect(),
        }
    }

    fn inputs(&mut self, vertex: &Vertex, subtask: u32) -> Result<Vec<InputChannel>, EngineError> {
        let cell = self.cell(vertex.id, subtask)?;
        let edges: Vec<Edge> = self.d.graph.inputs(vertex.id).cloned().collect();
        let mut channels = Vec::new();
        for edge in &edges {
            for from in self.senders(edge, subtask) {
                let id = self.channel_id(edge, from, subtask);
                let inbox = if self.is_here(from) {
                    self.local_channel(id, &cell, from).0
                } else {
                    self.remote_inbox(id, from, &cell)
                };
                channels.push(InputChannel::new(inbox, edge.schema.clone()));
            }
        }
        Ok(channels)
    }

    /// Both ends of a channel in this process, made by whichever end is built first.
    fn local_channel(&mut self, id: u32, receiver: &TaskCell, sender_slot: u32) -> (Arc<Inbox>, Arc<Credit>) {
        let sender = self.waker(sender_slot);
        self.local
            .entry(id)
            .or_insert_with(|| {
                let credit = Arc::new(Credit::new(sender));
                (
                    Arc::new(Inbox::new(receiver.waker.clone(), credit.clone())),
                    credit,
                )
            })
            .clone()
    }

    fn remote_inbox(&mut self, id: u32, from: u32, task: &Arc<TaskCell>) -> Arc<Inbox> {
        let peer = self.peer(from);
        let (stop, silence) = (&self.site.stop, self.silence);
        let link = self
            .inbound
            .entry(peer.incarnation)
            .or_insert_with(|| Link::new(peer.addr, silence, stop.clone()));
        let inbox = Arc::new(Inbox::new(task.waker.clone(), link.credit_return(id)));
        link.add(
            id,
            LinkChannel::In {
                inbox: inbox.clone(),
                task: task.clone(),
            },
        );
        inbox
    }

    fn output(&mut self, vertex: &Vertex, subtask: u32, cell: &Arc<TaskCell>) -> Result<Output, EngineError> {
        let edges: Vec<Edge> = self.d.graph.outputs(vertex.id).cloned().collect();
        let mut out = Vec::new();
        for edge in &edges {
            let width = self.d.graph.vertex(edge.to).map_or(0, |v| v.parallelism);
            let (partitioner, receivers) = match &edge.partitioning {
                Partitioning::Forward => (Partitioner::single(), vec![subtask]),
                Partitioning::Rebalance => (
                    Partitioner::turns(width as usize, subtask as usize),
                    (0..width).collect(),
                ),
                Partitioning::Hash(columns) => (
                    Partitioner::hash(columns.clone(), self.d.graph.max_parallelism, width as usize),
                    (0..width).collect(),
                ),
            };
            let outlets = receivers
                .into_iter()
                .map(|to| self.outlet(edge, subtask, to, cell).map(Outlet::new))
                .collect::<Result<Vec<_>, _>>()?;
            out.push(OutEdge::new(partitioner, outlets));
        }
        let linger = self
            .d
            .settings
            .get(&BUFFER_TIMEOUT)
            .map_err(|e| EngineError::Invalid(e.to_string()))?;
        let linger_ms = u64::try_from(linger.as_millis()).unwrap_or(u64::MAX);
        Ok(Output::new(out, cell.clone(), linger_ms))
    }

    fn outlet(
        &mut self,
        edge: &Edge,
        from: u32,
        to: u32,
        sender: &Arc<TaskCell>,
    ) -> Result<Target, EngineError> {
        let id = self.channel_id(edge, from, to);
        if self.is_here(to) {
            let receiver = self.cell(edge.to, to)?;
            let (inbox, credit) = self.local_channel(id, &receiver, from);
            return Ok(Target::Local(inbox, credit));
        }
        let peer = self.peer(to);
        let (stop, silence) = (&self.site.stop, self.silence);
        let (_, link) = self.outbound.entry(peer.incarnation).or_insert_with(|| {
            let link = Link::new(peer.addr.clone(), silence, stop.clone());
            (peer, link)
        });
        let credit = Arc::new(Credit::new(sender.waker.clone()));
        link.add(
            id,
            LinkChannel::Out {
                credit: credit.clone(),
                task: sender.clone(),
            },
        );
        Ok(Target::Remote(RemoteOutlet::new(link.clone(), id, credit)))
    }
}
