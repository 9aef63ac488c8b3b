//! Job graphs for REST: planned from the log's SQL off the async threads, kept by fingerprint.

use holdfast_common::config::Configuration;
use holdfast_common::limits::REST_PLANS_MAX;
use holdfast_dataflow::connector::ConnectorRegistry;
use holdfast_dataflow::graph::JobGraph;
use holdfast_machine::state::Job;
use holdfast_sql::PlanError;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Planned graphs, bounded; the oldest goes first.
#[derive(Default)]
pub(crate) struct Plans {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    graphs: BTreeMap<String, Arc<JobGraph>>,
    order: VecDeque<String>,
}

impl Plans {
    /// The graph of a job. `None`, with a warning in the log, if this build cannot plan it.
    pub(crate) async fn of_job(
        &self,
        job: &Job,
        registry: &Arc<dyn ConnectorRegistry>,
    ) -> Option<Arc<JobGraph>> {
        if let Some(graph) = self.get(&job.fingerprint) {
            return Some(graph);
        }
        let settings = match Configuration::from_pairs(&job.settings) {
            Ok(settings) => settings,
            Err(error) => {
                tracing::warn!(job = %job.id, %error, "settings of a job are not understood");
                return None;
            }
        };
        match plan(job.sql.clone(), settings, registry.clone()).await {
            Ok(Ok(graph)) => {
                let graph = Arc::new(graph);
                self.put(&job.fingerprint, graph.clone());
                Some(graph)
            }
            Ok(Err(error)) => {
                tracing::warn!(job = %job.id, %error, "a job cannot be planned for display");
                None
            }
            Err(error) => {
                tracing::warn!(job = %job.id, %error, "planning a job for display failed");
                None
            }
        }
    }

    fn get(&self, fingerprint: &str) -> Option<Arc<JobGraph>> {
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .graphs
            .get(fingerprint)
            .cloned()
    }

    /// Keeps a graph under the fingerprint that the log has for it.
    pub(crate) fn put(&self, fingerprint: &str, graph: Arc<JobGraph>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.graphs.insert(fingerprint.to_owned(), graph).is_none() {
            kept.order.push_back(fingerprint.to_owned());
        }
        while kept.order.len() > REST_PLANS_MAX {
            if let Some(oldest) = kept.order.pop_front() {
                kept.graphs.remove(&oldest);
            }
        }
    }
}

/// Plans on a thread for blocking work. The outer error means that the planner itself failed.
pub(crate) async fn plan(
    sql: String,
    base: Configuration,
    registry: Arc<dyn ConnectorRegistry>,
) -> Result<Result<JobGraph, PlanError>, String> {
    holdfast_runtime::blocking(move || holdfast_sql::plan(&sql, &base, registry.as_ref()))
        .await
        .map_err(|error| format!("the planner failed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::super::view::fixture;
    use super::*;

    #[test]
    fn the_oldest_plan_makes_room() {
        let plans = Plans::default();
        for number in 0..=REST_PLANS_MAX {
            plans.put(&number.to_string(), Arc::new(fixture::graph()));
        }
        assert!(plans.get("0").is_none());
        assert!(plans.get("1").is_some());
        assert!(plans.get(&REST_PLANS_MAX.to_string()).is_some());
    }
}
