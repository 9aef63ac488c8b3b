//! Lowering: from optimised logical plans to the job graph. `flow` turns a plan into operators, `dag` holds them and
//! shares equal ones, `graph` chains them into vertices. Knows nothing of SQL text beyond positions for errors.

mod aggregate;
mod dag;
mod flow;
mod graph;
mod optimize;

use crate::bind::insert::BoundInsert;
use crate::error::{PlanError, Pos, Result};
use crate::settings;
use holdfast_common::config::{Configuration, options};
use holdfast_common::keygroup;
use holdfast_dataflow::connector::ConnectorRegistry;
use holdfast_dataflow::graph::JobGraph;

/// The job of a script's INSERTs.
pub(crate) fn lower(
    inserts: Vec<BoundInsert>,
    config: &Configuration,
    registry: &dyn ConnectorRegistry,
) -> Result<JobGraph> {
    let bad = |e: holdfast_common::config::ConfigError| PlanError::new(Pos::default(), e.to_string());
    let parallelism = config.get(&options::PARALLELISM).map_err(bad)?.max(1);
    let max_parallelism = config
        .get_optional(&options::MAX_PARALLELISM)
        .map_err(bad)?
        .unwrap_or_else(|| keygroup::default_max_parallelism(parallelism));
    if parallelism > max_parallelism {
        return Err(PlanError::new(
            Pos::default(),
            format!(
                "parallelism.default is {parallelism}, above pipeline.max-parallelism, which is {max_parallelism}"
            ),
        ));
    }
    let sinks: Vec<&str> = inserts.iter().map(|insert| insert.table.name.as_str()).collect();
    let name = match config.get_optional(&options::JOB_NAME).map_err(bad)? {
        Some(name) => name,
        None => format!("insert-into_{}", sinks.join(",")),
    };
    let mut lowering = flow::Lowering::new(registry);
    for insert in inserts {
        let plan = optimize::optimize(insert.plan, insert.pos)?;
        lowering.insert(&insert.table, &plan, insert.pos)?;
    }
    let mut dag = lowering.finish();
    dag.absorb_projections();
    let settings = settings::job_settings(config);
    Ok(graph::build(&dag, name, parallelism, max_parallelism, settings))
}
