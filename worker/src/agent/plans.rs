//! Plans of jobs, by fingerprint: the agent plans the script itself and must reach the leader's plan.

use holdfast_common::config::Configuration;
use holdfast_common::limits::PLAN_DEADLINE;
use holdfast_dataflow::connector::ConnectorRegistry;
use holdfast_dataflow::graph::JobGraph;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Plans kept; a worker rarely runs more jobs than it has slots.
const PLANS_MAX: usize = 64;

/// Plans a script. Called on a thread for blocking work.
pub trait Planner: Send + Sync + 'static {
    /// The graph of a script under the given settings.
    ///
    /// # Errors
    /// Why there is none, with the position in the script.
    fn plan(&self, sql: &str, settings: &BTreeMap<String, String>) -> Result<JobGraph, String>;
}

/// Plans with the connectors of this build.
pub struct SqlPlanner {
    /// The connectors.
    pub registry: Arc<dyn ConnectorRegistry>,
}

impl Planner for SqlPlanner {
    fn plan(&self, sql: &str, settings: &BTreeMap<String, String>) -> Result<JobGraph, String> {
        let base = Configuration::from_pairs(settings).map_err(|e| e.to_string())?;
        holdfast_sql::plan(sql, &base, self.registry.as_ref()).map_err(|e| e.to_string())
    }
}

/// See the module.
#[derive(Clone)]
pub struct Plans {
    planner: Arc<dyn Planner>,
    known: Arc<Mutex<BTreeMap<String, Arc<JobGraph>>>>,
}

impl Plans {
    /// No plans yet.
    #[must_use]
    pub fn new(planner: Arc<dyn Planner>) -> Self {
        Self {
            planner,
            known: Arc::default(),
        }
    }

    /// The plan of a script, checked against the leader's fingerprint.
    ///
    /// # Errors
    /// If the script cannot be planned here, or is planned differently.
    pub async fn get(
        &self,
        sql: &str,
        settings: &BTreeMap<String, String>,
        fingerprint: &str,
    ) -> Result<Arc<JobGraph>, String> {
        let known = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.get(fingerprint).cloned()
        };
        if let Some(graph) = known {
            return Ok(graph);
        }
        let (planner, sql, settings) = (Arc::clone(&self.planner), sql.to_owned(), settings.clone());
        let planning = holdfast_runtime::blocking(move || planner.plan(&sql, &settings));
        let graph = match tokio::time::timeout(PLAN_DEADLINE, planning).await {
            Ok(Ok(planned)) => {
                planned.map_err(|reason| format!("the script cannot be planned here: {reason}"))?
            }
            Ok(Err(panic)) => return Err(format!("planning has panicked: {panic}")),
            Err(_) => return Err(format!("planning took over {} s", PLAN_DEADLINE.as_secs())),
        };
        let reached = graph.fingerprint();
        if reached != fingerprint {
            return Err(format!(
                "this worker plans the script differently (fingerprint {reached} instead of {fingerprint}); run one version of Holdfast everywhere"
            ));
        }
        let graph = Arc::new(graph);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= PLANS_MAX {
            known.pop_first();
        }
        known.insert(reached, Arc::clone(&graph));
        Ok(graph)
    }
}
