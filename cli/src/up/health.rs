//! Waiting until a cluster is whole: every coordinator healthy, every worker registered with the process that runs now.

use crate::client::{Call, Client, Outcome};
use crate::commands::print;
use crate::exit::Failure;
use crate::files::{ClusterFile, ProcessEntry, cluster_path, read_json};
use holdfast_coordinator::api::view::cluster::ClusterInfo;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// A healthy machine needs about a second; one that builds something else meanwhile needs more.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two lines about the same wait.
const REPEAT: Duration = Duration::from_secs(5);

/// Waits; says what it waits for when that takes longer than a moment.
///
/// # Errors
/// If a process was given up, or the wait is too long: what is missing, and where the logs are.
pub async fn wait(dir: &Path, given_up: &mut watch::Receiver<Vec<String>>) -> Result<ClusterInfo, Failure> {
    let started = Instant::now();
    let mut said = Instant::now();
    loop {
        if let Some(reason) = given_up.borrow().first() {
            return Err(Failure::error(reason.clone()));
        }
        let file: ClusterFile = read_json(&cluster_path(dir))?.unwrap_or_default();
        let missing = match look(&file.processes).await {
            Ok(info) => return Ok(info),
            Err(missing) => missing,
        };
        if started.elapsed() > PATIENCE {
            return Err(Failure::error(format!(
                "the cluster is not healthy after {} s: {missing}. The logs are in {}",
                PATIENCE.as_secs(),
                dir.join("log").display()
            )));
        }
        if said.elapsed() >= REPEAT {
            print(&format!("waiting: {missing}\n"));
            said = Instant::now();
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// One look: the cluster, or what is missing.
async fn look(processes: &[ProcessEntry]) -> Result<ClusterInfo, String> {
    let rest: Vec<(u64, String)> = processes
        .iter()
        .filter_map(|p| Some((p.id, p.rest.clone()?)))
        .collect();
    if rest.is_empty() {
        return Err("no coordinator has been started yet".to_owned());
    }
    let client = Client::new(rest.iter().map(|(_, address)| address.clone()).collect());
    for (id, address) in &rest {
        let health = client
            .ask(address, &Call::get("/health"), Duration::from_secs(3))
            .await;
        match &health {
            Outcome::Answer { status, .. } if status.is_success() => {}
            other => return Err(format!("coordinator {id} ({address}): {other}")),
        }
    }
    let call = Call::get("/v1/cluster").deadline(Duration::from_secs(3));
    let info: ClusterInfo = client.read(&call).await.map_err(|e| e.to_string())?;
    missing_workers(processes, &info).map_or(Ok(info), Err)
}

fn missing_workers(processes: &[ProcessEntry], info: &ClusterInfo) -> Option<String> {
    let registered: BTreeSet<(&str, u32)> = info
        .workers
        .iter()
        .map(|w| (w.resource_id.as_str(), w.pid))
        .collect();
    let missing: Vec<&str> = processes
        .iter()
        .filter_map(|p| Some((p.resource_id.as_deref()?, p.pid)))
        .filter(|worker| !registered.contains(worker))
        .map(|(name, _)| name)
        .collect();
    (!missing.is_empty()).then(|| format!("not registered yet: {}", missing.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_coordinator::api::view::cluster::WorkerInfo;

    #[test]
    fn a_worker_counts_only_with_the_process_that_runs_now() {
        let worker = ProcessEntry {
            role: "worker".into(),
            id: 1,
            pid: 7,
            rpc: None,
            rest: None,
            resource_id: Some("worker-1".into()),
            data_dir: String::new(),
            log: String::new(),
        };
        let info = |pid: u32| ClusterInfo {
            leader: Some(1),
            term: 1,
            cluster_id: None,
            cluster_name: String::new(),
            leader_epoch: None,
            leader_epoch_by: None,
            feature_level: 1,
            supported_feature_level: 1,
            answered_by: 1,
            version: String::new(),
            coordinators: Vec::new(),
            workers: vec![WorkerInfo {
                resource_id: "worker-1".into(),
                data_addr: String::new(),
                slots: 1,
                free_slots: 1,
                pid,
                incarnation: String::new(),
                version: String::new(),
                attached: Some(true),
                heartbeat_age_ms: None,
            }],
        };
        let processes = [worker];
        assert_eq!(missing_workers(&processes, &info(7)), None);
        assert_eq!(
            missing_workers(&processes, &info(6)),
            Some("not registered yet: worker-1".into())
        );
    }
}
