//! `status`: leader, members, workers, slots, as any coordinator knows them, with or without a leader.

use super::show;
use crate::args::Target;
use crate::client::{Call, Client, target};
use crate::exit::{Exit, Failure};
use crate::output::{Table, colours, or_dash, several, span};
use holdfast_coordinator::api::view::cluster::ClusterInfo;
use std::fmt::Write;
use std::time::Duration;

/// A leader that has just died is not waited for.
const ASK_LEADER: Duration = Duration::from_millis(500);

/// `status`. Fails (code 1) if no coordinator answers; a missing leader is shown, not an error.
pub async fn status(args: &Target) -> Result<Exit, Failure> {
    let client = target::connect(args)?;
    let first: ClusterInfo = client.read(&Call::get("/v1/cluster")).await?;
    // Only the leader knows the others' log positions and the workers' heartbeats.
    let leader = first
        .coordinators
        .iter()
        .find(|c| Some(c.id) == first.leader && c.id != first.answered_by);
    if let Some(rest) = leader.map(|c| c.rest.clone()).filter(|rest| !rest.is_empty()) {
        let leader = Client::new(vec![rest]);
        if leader
            .read::<ClusterInfo>(&Call::get("/v1/cluster").deadline(ASK_LEADER))
            .await
            .is_ok()
        {
            return show(&leader, args, "/v1/cluster", text).await;
        }
    }
    show(&client, args, "/v1/cluster", text).await
}

fn text(cluster: &ClusterInfo) -> String {
    let mut text = format!(
        "cluster {} ({})\nleader {}, term {}\nfeature level {}{}\n\n",
        cluster.cluster_name,
        or_dash(cluster.cluster_id.as_deref()),
        cluster.leader.map_or_else(
            || "NONE: a majority of the coordinators must be up".to_owned(),
            |l| l.to_string()
        ),
        cluster.term,
        cluster.feature_level,
        if cluster.feature_level < cluster.supported_feature_level {
            format!(
                " (this build has {}: it comes into force when every coordinator runs such a build)",
                cluster.supported_feature_level
            )
        } else {
            String::new()
        },
    );
    let mut table = Table::new(&["COORDINATOR", "ROLE", "RPC", "REST", "LAST LOG", "APPLIED"]);
    for member in &cluster.coordinators {
        table.row([
            member.id.to_string(),
            member.role.clone(),
            member.rpc.clone(),
            member.rest.clone(),
            or_dash(member.last_log),
            or_dash(member.applied),
        ]);
    }
    text.push_str(&table.render(colours()));
    let slots: u32 = cluster.workers.iter().map(|w| w.slots).sum();
    let free: u32 = cluster.workers.iter().map(|w| w.free_slots).sum();
    let _ = writeln!(
        text,
        "\n{}, {free} of {slots} slots free",
        several(cluster.workers.len(), "worker")
    );
    if !cluster.workers.is_empty() {
        let mut table = Table::new(&["WORKER", "DATA", "PID", "SLOTS", "FREE", "LAST HEARTBEAT"]);
        for worker in &cluster.workers {
            table.row([
                worker.resource_id.clone(),
                worker.data_addr.clone(),
                worker.pid.to_string(),
                worker.slots.to_string(),
                worker.free_slots.to_string(),
                worker
                    .heartbeat_age_ms
                    .map_or_else(|| "-".to_owned(), |ms| format!("{} ago", span(ms))),
            ]);
        }
        text.push('\n');
        text.push_str(&table.render(colours()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_coordinator::api::view::cluster::{CoordinatorInfo, WorkerInfo};

    #[test]
    fn the_status_shows_members_and_workers() {
        let cluster = ClusterInfo {
            leader: Some(1),
            term: 3,
            cluster_id: Some("ab".into()),
            cluster_name: "test".into(),
            leader_epoch: Some(9),
            leader_epoch_by: None,
            feature_level: 1,
            supported_feature_level: 1,
            answered_by: 1,
            version: "0".into(),
            coordinators: vec![CoordinatorInfo {
                id: 1,
                rpc: "127.0.0.1:7101".into(),
                rest: "127.0.0.1:8081".into(),
                role: "leader".into(),
                last_log: Some(40),
                applied: None,
            }],
            workers: vec![WorkerInfo {
                resource_id: "worker-1".into(),
                data_addr: "127.0.0.1:9".into(),
                slots: 2,
                free_slots: 1,
                pid: 7,
                incarnation: "x".into(),
                version: "0".into(),
                attached: Some(true),
                heartbeat_age_ms: Some(120),
            }],
        };
        let shown = text(&cluster);
        assert!(shown.contains("leader 1, term 3"), "{shown}");
        assert!(shown.contains("feature level 1\n"), "{shown}");
        assert!(shown.contains("1 worker, 1 of 2 slots free"), "{shown}");
        assert!(shown.contains("120 ms ago"), "{shown}");
        assert!(
            text(&ClusterInfo {
                leader: None,
                ..cluster
            })
            .contains("leader NONE")
        );
    }
}
