//! `/v1/jobs/:id/plan` and EXPLAIN: the job graph in the shape of Flink's JSON plan.

use holdfast_dataflow::connector::ConnectorRegistry;
use holdfast_dataflow::graph::{Edge, JobGraph, Partitioning, Vertex};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Answer of `/v1/jobs/:id/plan`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanAnswer {
    /// The plan.
    pub plan: Plan,
}

/// The plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The job; empty in an explanation of a script that is no job yet.
    pub jid: String,
    /// The job's name.
    pub name: String,
    /// Always STREAMING.
    #[serde(rename = "type")]
    pub kind: String,
    /// Vertices, sinks last.
    pub nodes: Vec<PlanNode>,
}

/// A vertex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanNode {
    /// Its identity in every answer.
    pub id: String,
    /// Subtasks.
    pub parallelism: u32,
    /// Its name (Flink calls it so).
    pub description: String,
    /// The operators of its chain.
    pub operators: Vec<String>,
    /// Where its rows come from.
    #[serde(default)]
    pub inputs: Vec<PlanInput>,
}

/// An edge, seen from its consumer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanInput {
    /// Which input.
    pub num: u32,
    /// The producer.
    pub id: String,
    /// FORWARD, HASH or REBALANCE.
    pub ship_strategy: String,
    /// Flink's field.
    pub exchange: String,
}

/// The plan of a graph.
#[must_use]
pub fn plan(jid: &str, name: &str, graph: &JobGraph) -> Plan {
    Plan {
        jid: jid.to_owned(),
        name: name.to_owned(),
        kind: "STREAMING".to_owned(),
        nodes: graph.vertices.iter().map(|vertex| node(graph, vertex)).collect(),
    }
}

fn node(graph: &JobGraph, vertex: &Vertex) -> PlanNode {
    PlanNode {
        id: vertex.id.to_rest(),
        parallelism: vertex.parallelism,
        description: vertex.name.clone(),
        operators: vertex.chain.iter().map(|o| o.name.clone()).collect(),
        inputs: graph.inputs(vertex.id).map(input).collect(),
    }
}

fn input(edge: &Edge) -> PlanInput {
    let strategy = match &edge.partitioning {
        Partitioning::Forward => "FORWARD",
        Partitioning::Hash(_) => "HASH",
        Partitioning::Rebalance => "REBALANCE",
    };
    PlanInput {
        num: edge.input,
        id: edge.from.to_rest(),
        ship_strategy: strategy.to_owned(),
        exchange: "pipelined_bounded".to_owned(),
    }
}

/// Answer of `/v1/sql/explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The job's name.
    pub name: String,
    /// Slots that it would take.
    pub parallelism: u32,
    /// Key groups.
    pub max_parallelism: u32,
    /// Digest of the plan.
    pub fingerprint: String,
    /// The plan for people.
    pub text: String,
    /// The plan for programs.
    pub plan: Plan,
    /// Where results go.
    pub sinks: Vec<SinkInfo>,
    /// The settings in force that are not defaults.
    pub settings: BTreeMap<String, String>,
}

/// A sink of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkInfo {
    /// The table.
    pub table: String,
    /// Its connector.
    pub connector: String,
    /// The directory where results become visible; null for sinks without one.
    pub location: Option<String>,
    /// The table's columns.
    pub columns: Vec<String>,
}

/// What a script would become.
#[must_use]
pub fn explanation(graph: &JobGraph, registry: &dyn ConnectorRegistry, text: String) -> Explanation {
    Explanation {
        name: graph.name.clone(),
        parallelism: graph.parallelism,
        max_parallelism: graph.max_parallelism,
        fingerprint: graph.fingerprint(),
        text,
        plan: plan("", &graph.name, graph),
        sinks: graph
            .sinks()
            .map(|(_, table)| SinkInfo {
                table: table.name.clone(),
                connector: table.connector.clone(),
                location: registry.sink(table).ok().and_then(|sink| sink.location()),
                columns: table.schema.fields().iter().map(|f| f.name().clone()).collect(),
            })
            .collect(),
        settings: graph.settings.clone(),
    }
}
