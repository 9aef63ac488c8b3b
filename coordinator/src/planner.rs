//! Plans jobs' scripts with the connectors of this build, for the leader's services.

use crate::leader::ports::Planner;
use crate::leader::shape::Shape;
use holdfast_common::config::Configuration;
use holdfast_dataflow::connector::ConnectorRegistry;
use holdfast_machine::state::Job;
use std::sync::Arc;

/// Plans with the connectors of this build.
pub struct SqlPlanner {
    /// The connectors.
    pub registry: Arc<dyn ConnectorRegistry>,
}

impl Planner for SqlPlanner {
    fn shape(&self, job: &Job) -> Result<Shape, String> {
        let base = Configuration::from_pairs(&job.settings).map_err(|e| e.to_string())?;
        let graph = holdfast_sql::plan(&job.sql, &base, self.registry.as_ref()).map_err(|e| e.to_string())?;
        Ok(Shape::of(&graph))
    }
}
