//! Whole scripts: golden plans and errors, evaluated expressions, determinism, the examples.
#![allow(clippy::unwrap_used)]

mod evaluate;
mod examples;
mod fuzz;
mod golden;
mod invariants;
mod stable;

use crate::{Catalog, PlanError, Script, script};
use holdfast_common::config::Configuration;
use holdfast_common::{AttemptId, CheckpointId, JobId};
use holdfast_dataflow::connector::{
    Committable, ConnectorError, ConnectorRegistry, Sink, SinkContext, SinkWriter, Source, SourceContext,
    SourceReader, SplitState,
};
use holdfast_dataflow::graph::{JobGraph, TableSpec};
use std::sync::Arc;

/// Takes every table, except for a connector 'unknown' and an option 'bad'.
struct FakeRegistry;

struct FakeTable;

fn check(table: &TableSpec) -> Result<(), ConnectorError> {
    let refuse = |what: &str| {
        Err(ConnectorError::Definition(format!(
            "table '{}': {what}",
            table.name
        )))
    };
    if table.connector == "unknown" {
        return refuse("there is no connector 'unknown'");
    }
    if table.options.contains_key("bad") {
        return refuse("there is no option 'bad'");
    }
    Ok(())
}

impl ConnectorRegistry for FakeRegistry {
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn Source>, ConnectorError> {
        check(table)?;
        Ok(Arc::new(FakeTable))
    }

    fn sink(&self, table: &TableSpec) -> Result<Arc<dyn Sink>, ConnectorError> {
        check(table)?;
        Ok(Arc::new(FakeTable))
    }
}

fn never<T>() -> Result<T, ConnectorError> {
    Err(ConnectorError::Io("planning never runs a table".into()))
}

impl Source for FakeTable {
    fn bounded(&self) -> bool {
        true
    }

    fn reader(&self, _: SourceContext, _: Vec<SplitState>) -> Result<Box<dyn SourceReader>, ConnectorError> {
        never()
    }
}

impl Sink for FakeTable {
    fn writer(&self, _: SinkContext) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        never()
    }

    fn commits(&self) -> bool {
        true
    }

    fn commit(&self, _: CheckpointId, _: &[Committable]) -> Result<(), ConnectorError> {
        never()
    }

    fn recover(&self, _: JobId, _: AttemptId, _: Option<CheckpointId>) -> Result<(), ConnectorError> {
        never()
    }
}

/// Plans a script after a prelude of tables, so that positions are the script's own.
fn plan_after(prelude: &str, sql: &str) -> Result<JobGraph, PlanError> {
    let mut job = Script {
        config: Configuration::new(),
        catalog: Catalog::default(),
        inserts: Vec::new(),
    };
    for text in [prelude, sql] {
        for statement in script::parse(text)? {
            job.statement(statement)?;
        }
    }
    let graph = job.finish(&FakeRegistry)?;
    invariants::check(&graph);
    Ok(graph)
}
