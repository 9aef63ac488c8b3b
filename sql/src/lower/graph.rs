//! Chains operators into vertices, connects them, and gives every operator its stable identity.

use super::dag::{Dag, Exchange, Node, kind, schema_text};
use holdfast_common::VertexId;
use holdfast_dataflow::graph::{Edge, JobGraph, OperatorNode, OperatorSpec, Vertex};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// The job graph of all operators.
pub(super) fn build(
    dag: &Dag,
    name: String,
    parallelism: u32,
    max_parallelism: u32,
    settings: BTreeMap<String, String>,
) -> JobGraph {
    let parallelisms = parallelisms(dag, parallelism);
    let uids = uids(dag);
    let mut vertices: Vec<Vertex> = Vec::new();
    let mut vertex_of: Vec<usize> = Vec::with_capacity(dag.nodes.len());
    for (id, node) in dag.nodes.iter().enumerate() {
        let operator = OperatorNode {
            uid: uids[id].clone(),
            name: operator_name(&node.spec),
            spec: node.spec.clone(),
            schema: Arc::clone(&node.schema),
        };
        if let Some(input) = chained_to(dag, id, &parallelisms) {
            let vertex = vertex_of[input];
            vertices[vertex].chain.push(operator);
            vertex_of.push(vertex);
        } else {
            vertex_of.push(vertices.len());
            vertices.push(Vertex {
                id: VertexId(u32::try_from(vertices.len()).unwrap_or(u32::MAX)),
                name: String::new(),
                parallelism: parallelisms[id],
                chain: vec![operator],
            });
        }
    }
    for vertex in &mut vertices {
        let names: Vec<&str> = vertex.chain.iter().map(|o| o.name.as_str()).collect();
        vertex.name = names.join(" -> ");
    }
    JobGraph {
        name,
        edges: edges(dag, &parallelisms, &vertex_of),
        parallelism: vertices
            .iter()
            .map(|v| v.parallelism)
            .max()
            .unwrap_or(parallelism),
        vertices,
        max_parallelism,
        settings,
    }
}

/// Parallelism per operator: the job's, one where all rows meet, and downstream of that again one.
fn parallelisms(dag: &Dag, parallelism: u32) -> Vec<u32> {
    let mut out: Vec<u32> = Vec::with_capacity(dag.nodes.len());
    for node in &dag.nodes {
        let widest = node.inputs.iter().map(|i| out[*i]).max();
        out.push(match (&node.exchange, widest) {
            (Exchange::Single, _) => 1,
            (Exchange::Hash(_), _) | (Exchange::Forward, None) => parallelism,
            (Exchange::Forward, Some(widest)) => widest,
        });
    }
    out
}

/// The operator before, if this one runs in the same task: it takes the rows of one operator of the same parallelism
/// unshuffled, and is the only one that does.
fn chained_to(dag: &Dag, id: usize, parallelisms: &[u32]) -> Option<usize> {
    let node = &dag.nodes[id];
    let [input] = node.inputs.as_slice() else {
        return None;
    };
    let chained = node.exchange == Exchange::Forward
        && parallelisms[*input] == parallelisms[id]
        && dag.consumers(*input) == 1;
    chained.then_some(*input)
}

fn operator_name(spec: &OperatorSpec) -> String {
    match spec {
        OperatorSpec::Source(source) => format!("Source: {}", source.table.name),
        OperatorSpec::Calc(_) => "Calc".into(),
        OperatorSpec::WindowAssign(_) => "WindowAssign".into(),
        OperatorSpec::WindowAggregate(_) => "WindowAggregate".into(),
        OperatorSpec::Sink(table) => format!("Sink: {}", table.name),
    }
}

fn edges(dag: &Dag, parallelisms: &[u32], vertex_of: &[usize]) -> Vec<Edge> {
    let vertex = |id: usize| VertexId(u32::try_from(vertex_of[id]).unwrap_or(u32::MAX));
    let mut edges = Vec::new();
    for (id, node) in dag.nodes.iter().enumerate() {
        if chained_to(dag, id, parallelisms).is_some() {
            continue;
        }
        for input in &node.inputs {
            edges.push(Edge {
                id: u32::try_from(edges.len()).unwrap_or(u32::MAX),
                from: vertex(*input),
                to: vertex(id),
                input: 0,
                partitioning: node.exchange.partitioning(parallelisms[*input], parallelisms[id]),
                schema: Arc::clone(&dag.nodes[*input].schema),
            });
        }
    }
    edges
}

/// Identities that depend on what an operator does and on what comes before it, not on its place in the script.
fn uids(dag: &Dag) -> Vec<String> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut uids: Vec<String> = Vec::with_capacity(dag.nodes.len());
    for node in &dag.nodes {
        let text = identity(node, &uids);
        let ordinal = seen.entry(text.clone()).or_insert(0);
        let digest = Sha256::digest(format!("{text}|{ordinal}").as_bytes());
        *ordinal += 1;
        let hash = digest.iter().take(6).fold(String::new(), |mut hash, byte| {
            let _ = write!(hash, "{byte:02x}");
            hash
        });
        uids.push(format!("{}-{hash}", kind(&node.spec)));
    }
    uids
}

fn identity(node: &Node, uids: &[String]) -> String {
    let inputs: Vec<&str> = node.inputs.iter().map(|i| uids[*i].as_str()).collect();
    format!(
        "{}|{}|{}|{}",
        kind(&node.spec),
        node.spec.describe(),
        schema_text(&node.schema),
        inputs.join(",")
    )
}
