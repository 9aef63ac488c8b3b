//! `run`: submit, once however often it has to be sent, and follow.

use super::{print, read_script};
use crate::args::{Output, RunArgs};
use crate::client::{Call, Client, Safety, encode, target};
use crate::exit::{Exit, Failure};
use crate::follow;
use crate::random::SystemRandom;
use crate::results;
use holdfast_common::clock::Random;
use holdfast_common::config::load::from_flag;
use hyper::Method;
use serde::Deserialize;
use std::path::Path;
use std::time::Duration;

/// A new leader may have to be elected, and the script planned.
const SUBMIT_DEADLINE: Duration = Duration::from_secs(30);

/// A job that was submitted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Submitted {
    /// Its id.
    #[serde(rename = "jobid")]
    pub id: String,
    /// It had been submitted before under the same key.
    #[serde(default)]
    pub existing: bool,
}

/// Submits a script's text. `settings` are encoded pairs of a query.
///
/// # Errors
/// If it is refused, with the script's name, line and column.
pub async fn submit_file(
    client: &Client,
    file: &Path,
    sql: &str,
    query: &str,
    key: Option<&str>,
) -> Result<Submitted, Failure> {
    let key = key.map_or_else(|| format!("cli-{:032x}", SystemRandom.next_u128()), str::to_owned);
    let call = Call::new(Method::POST, format!("/v1/jobs{query}"), Safety::Repeatable)
        .header("content-type", "application/sql")
        .header("idempotency-key", &key)
        .body(sql.to_owned())
        .deadline(SUBMIT_DEADLINE);
    client
        .read(&call)
        .await
        .map_err(|e| Failure::from(e).in_file(file))
}

fn query(flags: &[String]) -> Result<String, Failure> {
    let mut pairs = Vec::new();
    for flag in flags {
        let entry = from_flag(flag).map_err(|e| Failure::usage(e.to_string()))?;
        pairs.push(format!("{}={}", encode(&entry.key), encode(&entry.value)));
    }
    Ok(if pairs.is_empty() {
        String::new()
    } else {
        format!("?{}", pairs.join("&"))
    })
}

/// `run`.
pub async fn run(args: &RunArgs) -> Result<Exit, Failure> {
    let sql = read_script(&args.file)?;
    let client = target::connect(&args.target)?;
    let query = query(&args.define)?;
    let job = submit_file(&client, &args.file, &sql, &query, args.idempotency_key.as_deref()).await?;
    if args.target.output == Output::Json {
        print(&format!(
            "{{\"jobid\": \"{}\", \"existing\": {}}}\n",
            job.id, job.existing
        ));
    } else {
        print(&format!(
            "job {} {}\n",
            job.id,
            if job.existing {
                "was submitted before"
            } else {
                "submitted"
            }
        ));
    }
    if args.detach {
        return Ok(Exit::Ok);
    }
    let interrupted = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    let json = args.target.output == Output::Json;
    let show = if json {
        follow::Show::Aside
    } else {
        follow::Show::Here
    };
    let ends = tokio::select! {
        ends = follow::follow(&client, std::slice::from_ref(&job.id), show, None) => ends?,
        () = interrupted => {
            eprintln!("\njob {} goes on; `holdfast cancel {}` ends it", job.id, job.id);
            return Ok(Exit::Interrupted);
        }
    };
    if json {
        // A second line: the first one told the job's identity while it ran.
        follow::report_json(&client, &ends).await;
        return Ok(follow::exit_of(&ends));
    }
    follow::report(&client, &ends).await;
    if ends.iter().all(|e| e.state == "FINISHED") {
        // Where the results lie is known from the plan; without one (another build's script) there is nothing to show.
        if let Ok(explained) = super::explain::planned_here(&args.file, &sql) {
            results::show(&explained.sinks, &job.id);
        }
    }
    Ok(follow::exit_of(&ends))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn settings_travel_in_the_query() {
        assert_eq!(query(&[]).unwrap(), "");
        let flags = ["parallelism.default=4".to_owned(), "pipeline.name=a b".to_owned()];
        assert_eq!(
            query(&flags).unwrap(),
            "?parallelism.default=4&pipeline.name=a%20b"
        );
        assert!(query(&["x".to_owned()]).is_err());
    }
}
