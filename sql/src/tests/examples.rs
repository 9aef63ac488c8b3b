//! The scripts under examples/ plan as intended.

use super::FakeRegistry;
use crate::{explain, plan};
use holdfast_common::config::Configuration;
use holdfast_dataflow::graph::{JobGraph, OperatorSpec, Partitioning, WindowKind};
use std::path::Path;

fn example(name: &str) -> JobGraph {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name);
    let sql = std::fs::read_to_string(path).unwrap();
    plan(&sql, &Configuration::new(), &FakeRegistry).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn flights() {
    let graph = example("flights.sql");
    assert_eq!((graph.name.as_str(), graph.parallelism), ("flights", 2));
    assert_eq!(
        graph
            .settings
            .get("execution.checkpointing.interval")
            .map(String::as_str),
        Some("500 ms")
    );
    let names: Vec<&str> = graph.vertices.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(
        names,
        ["Source: flights -> Calc", "WindowAggregate -> Sink: departures"],
        "{}",
        explain(&graph)
    );
    assert_eq!(graph.edges.len(), 1);
    // Only what the aggregation needs crosses the exchange: carrier, delay as INT and as DOUBLE, dep.
    assert_eq!(graph.edges[0].schema.fields().len(), 4);
    let Partitioning::Hash(keys) = &graph.edges[0].partitioning else {
        panic!("{:?}", graph.edges[0].partitioning);
    };
    assert_eq!(graph.edges[0].schema.field(keys[0]).name(), "carrier");
    let OperatorSpec::WindowAggregate(aggregate) = &graph.vertices[1].chain[0].spec else {
        panic!("{}", explain(&graph));
    };
    assert_eq!(
        aggregate.kind,
        WindowKind::Tumble {
            size_ms: 3_600_000,
            offset_ms: 0
        }
    );
}

#[test]
fn nexmark() {
    let graph = example("nexmark.sql");
    assert_eq!(graph.sinks().count(), 2);
    let sources = graph
        .vertices
        .iter()
        .filter(|v| matches!(v.chain[0].spec, OperatorSpec::Source(_)))
        .count();
    assert_eq!(sources, 1, "{}", explain(&graph));
    let alone = graph.vertices.iter().filter(|v| v.parallelism == 1).count();
    assert_eq!(
        alone,
        1,
        "the highest price of all bids has one task: {}",
        explain(&graph)
    );
}
