//! `explain`: the plan of a script, from the cluster if one runs (its settings count), else made here.

use super::{print, print_json, read_script};
use crate::args::{ExplainArgs, Output};
use crate::client::{Call, Safety, target};
use crate::exit::{Exit, Failure};
use holdfast_common::config::Configuration;
use holdfast_coordinator::api::view::plan::{Explanation, explanation};
use hyper::Method;
use std::fmt::Write;
use std::path::Path;

/// `explain`.
pub async fn explain(args: &ExplainArgs) -> Result<Exit, Failure> {
    let sql = read_script(&args.file)?;
    let named = args.target.rest.is_some()
        || args.target.dir.is_some()
        || std::env::var_os(target::REST_VARIABLE).is_some();
    let explained = match target::connect(&args.target) {
        Ok(client) => {
            let call = Call::new(Method::POST, "/v1/sql/explain", Safety::Repeatable)
                .header("content-type", "application/sql")
                .body(sql.clone());
            match client.read::<Explanation>(&call).await {
                Ok(answer) => answer,
                // What lies in the default directory may be the trace of a dead cluster.
                Err(crate::client::ClientError::Unreachable { .. }) if !named => {
                    planned_here(&args.file, &sql)?
                }
                Err(error) => return Err(Failure::from(error).in_file(&args.file)),
            }
        }
        Err(_) if !named => planned_here(&args.file, &sql)?,
        Err(failure) => return Err(failure),
    };
    match args.target.output {
        Output::Json => {
            print_json(&serde_json::to_value(&explained).map_err(|e| Failure::error(e.to_string()))?)?
        }
        Output::Table => print(&text(&explained)),
    }
    Ok(Exit::Ok)
}

/// Plans without a cluster.
///
/// # Errors
/// With exit code 2, file, line and column if the script is wrong.
pub fn planned_here(file: &Path, sql: &str) -> Result<Explanation, Failure> {
    let registry = holdfast_connectors::registry();
    let graph = holdfast_sql::plan(sql, &Configuration::new(), registry.as_ref())
        .map_err(|e| Failure::usage(e.to_string()).in_file(file))?;
    let text = holdfast_sql::explain(&graph);
    Ok(explanation(&graph, registry.as_ref(), text))
}

impl Failure {
    /// The failure with the script's name in front of it.
    #[must_use]
    pub fn in_file(mut self, file: &Path) -> Self {
        self.message = format!("{}: {}", file.display(), self.message);
        self
    }
}

fn text(explained: &Explanation) -> String {
    let mut text = format!(
        "job '{}', parallelism {}, {} key groups\n\n{}\n",
        explained.name,
        explained.parallelism,
        explained.max_parallelism,
        explained.text.trim_end()
    );
    for sink in &explained.sinks {
        let _ = write!(text, "\nsink {} ({})", sink.table, sink.connector);
        if let Some(location) = &sink.location {
            let _ = write!(text, " -> {location}");
        }
    }
    text.push('\n');
    text
}
