//! The configuration file of each node.

use crate::env::{Env, OBJECTS, Place, Role};
use crate::plan::{SnapshotStorage, Swarm};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The bucket of the object server.
pub const BUCKET: &str = "holdfast";

/// Where snapshots lie.
#[must_use]
pub fn snapshot_url(env: &Env, swarm: &Swarm) -> String {
    match swarm.storage {
        SnapshotStorage::File => format!("file://{}", env.checkpoint_dir().display()),
        SnapshotStorage::S3 => format!("s3://{BUCKET}/checkpoints"),
    }
}

/// The keys by which the snapshot storage is reached.
#[must_use]
pub fn storage_settings(env: &Env, swarm: &Swarm) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    if swarm.storage == SnapshotStorage::S3
        && let Ok(objects) = env.place(OBJECTS)
    {
        settings.insert("s3.endpoint".into(), format!("http://{}", objects.main));
        settings.insert("s3.access-key".into(), "harness".into());
        settings.insert("s3.secret-key".into(), "harness".into());
        settings.insert("s3.path.style.access".into(), "true".into());
    }
    settings
}

/// Ids of coordinators that are not their numbers any more, by name.
pub type Ids = BTreeMap<String, u32>;

/// The members of the beginning, by RPC or REST address: `1@10.77.0.11:7100,...`, each under the id that it has now. A
/// coordinator lists itself too.
fn peers(env: &Env, swarm: &Swarm, own: &Place, ids: &Ids, (rest, relayed): (bool, bool)) -> String {
    let members = env.places().iter().filter(|place| {
        place.role == Role::Coordinator && (place.number <= swarm.voters || place.name == own.name)
    });
    let listed: Vec<String> = members
        .map(|place| {
            let id = ids.get(&place.name).unwrap_or(&place.number);
            let address = if rest { place.rest } else { place.main };
            let seen = if relayed {
                env.reach(&own.name, address)
            } else {
                address
            };
            format!("{id}@{seen}")
        })
        .collect();
    listed.join(",")
}

/// A node's file. `relayed`: others are reached through relays, where there are any; coordinators that form a cluster must
/// have equal lists, and know each other's addresses from the log only afterwards.
#[must_use]
pub fn yaml(env: &Env, swarm: &Swarm, place: &Place, ids: &Ids, relayed: bool) -> String {
    let mut keys: BTreeMap<String, String> = storage_settings(env, swarm);
    let mut set = |key: &str, value: String| keys.insert(key.to_owned(), value);
    set("high-availability.cluster-id", "jepsen".into());
    set(
        "high-availability.raft.peers",
        peers(env, swarm, place, ids, (false, relayed)),
    );
    set("execution.checkpointing.dir", snapshot_url(env, swarm));
    set("heartbeat.timeout", format!("{} ms", swarm.heartbeat_timeout_ms));
    set("env.log.level", "info".into());
    match place.role {
        Role::Coordinator => {
            let id = ids.get(&place.name).unwrap_or(&place.number);
            set("high-availability.raft.id", id.to_string());
            set(
                "high-availability.raft.rest-peers",
                peers(env, swarm, place, ids, (true, relayed)),
            );
            set("high-availability.raft.profile", swarm.profile.clone());
            set(
                "high-availability.raft.snapshot-after-logs",
                swarm.snapshot_after_logs.to_string(),
            );
            set(
                "high-availability.storageDir",
                env.data_dir(&place.name).display().to_string(),
            );
            set("rest.address", place.rest.ip().to_string());
            set("rest.port", place.rest.port().to_string());
            set(
                "execution.checkpointing.interval",
                format!("{} ms", swarm.checkpoint_ms),
            );
        }
        _ => {
            set("taskmanager.host", place.main.ip().to_string());
            set("taskmanager.data.port", place.main.port().to_string());
            set("taskmanager.numberOfTaskSlots", swarm.slots.to_string());
            set("taskmanager.resource-id", place.name.clone());
            let tmp = env.home().join(format!("tmp-{}", place.name));
            set("io.tmp.dirs", tmp.display().to_string());
        }
    }
    keys.iter().fold(String::new(), |mut text, (key, value)| {
        let _ = writeln!(text, "{key}: \"{value}\"");
        text
    })
}
