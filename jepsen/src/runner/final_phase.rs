//! After healing: every process runs again, and the cluster must lead, run its jobs, complete checkpoints and serve.

use crate::cluster::{Cluster, Start};
use crate::env::Role;
use crate::plan::Plan;
use anyhow::{Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest that service may take to return; the checker of liveness judges, so a little more than its budget.
const SERVED: Duration = Duration::from_secs(32);
/// How long clients go on after everything is served, so that checkers see it.
const AFTER: Duration = Duration::from_secs(1);
/// Longest answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Starts what does not run. A fault that was healed badly leaves processes down.
pub(super) fn revive(cluster: &Cluster, plan: &Plan) -> Result<()> {
    for place in cluster.env().places().to_vec() {
        let member = match place.role {
            Role::Coordinator => place.number <= plan.swarm.voters,
            Role::Worker => true,
            _ => false,
        };
        if member && !cluster.runs(&place.name) {
            cluster.kill(&place.name)?;
            cluster.start_node(&place.name, Start::default())?;
        }
    }
    Ok(())
}

/// Waits until everything is served, and answers what was missing when time was over (empty: nothing).
pub(super) fn wait_served(cluster: &Cluster, plan: &Plan, interrupted: &AtomicBool) -> Result<String> {
    let healed = cluster.world().now();
    let end = Instant::now() + SERVED;
    let mut before: Option<BTreeMap<String, u64>> = None;
    let mut missing = String::from("nothing was looked at");
    while Instant::now() < end {
        if interrupted.load(Ordering::SeqCst) {
            bail!("interrupted");
        }
        missing = match served(cluster, plan, healed, &mut before) {
            Ok(()) => {
                std::thread::sleep(AFTER);
                return Ok(String::new());
            }
            Err(missing) => format!("{missing:#}"),
        };
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(missing)
}

fn served(
    cluster: &Cluster,
    plan: &Plan,
    healed: u64,
    before: &mut Option<BTreeMap<String, u64>>,
) -> Result<()> {
    cluster.wait_ready(plan.swarm.workers as usize, Duration::ZERO)?;
    let jobs = running_jobs(cluster)?;
    let before = match before {
        Some(before) => before,
        None => before.insert(completed(cluster, &jobs)?),
    };
    let now = completed(cluster, &jobs)?;
    for job in &jobs {
        let (then, now) = (
            before.get(job).copied().unwrap_or(0),
            now.get(job).copied().unwrap_or(0),
        );
        if now <= then {
            bail!("job {job} has completed no checkpoint since: {then}, now {now}");
        }
    }
    for workload in ["register", "jobs"] {
        let asked = plan.workloads.iter().any(|name| name == workload);
        if asked && !cluster.world().answered_since(healed, workload) {
            bail!("no operation of {workload} was answered since");
        }
    }
    Ok(())
}

/// Jobs that have not ended; all of them must be running.
fn running_jobs(cluster: &Cluster) -> Result<Vec<String>> {
    let view = cluster.ask("/v1/jobs/overview", ANSWER)?;
    let mut jobs = Vec::new();
    for job in view["jobs"].as_array().into_iter().flatten() {
        let id = job["jid"].as_str().or(job["id"].as_str()).unwrap_or_default();
        match job["state"]
            .as_str()
            .or(job["status"].as_str())
            .unwrap_or_default()
        {
            "RUNNING" => jobs.push(id.to_owned()),
            "FINISHED" | "CANCELED" | "FAILED" => {}
            // The workload of submissions goes on all the time: what it submitted just now need not run yet.
            _ if job["name"].as_str().unwrap_or_default().starts_with("jobs-") => {}
            state => bail!("job {id} is {state}"),
        }
    }
    Ok(jobs)
}

fn completed(cluster: &Cluster, jobs: &[String]) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for job in jobs {
        let view: Value = cluster.ask(&format!("/v1/jobs/{job}/checkpoints"), ANSWER)?;
        counts.insert(job.clone(), view["counts"]["completed"].as_u64().unwrap_or(0));
    }
    Ok(counts)
}
