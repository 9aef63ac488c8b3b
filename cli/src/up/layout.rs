//! What processes a directory's cluster has, and each one's configuration.

use super::ports::{PortLocks, REST_FIRST, RPC_FIRST};
use crate::args::UpArgs;
use crate::config_file::to_yaml;
use crate::exit::Failure;
use crate::files::{CoordinatorPlace, Layout, ProcessEntry, layout_path, read_json, write_json};
use crate::random::SystemRandom;
use anyhow::Context;
use holdfast_common::NodeId;
use holdfast_common::clock::Random;
use holdfast_common::config::peers::format_peers;
use holdfast_common::config::{Configuration, options};
use std::path::{Path, PathBuf};

/// A process that `up` starts.
#[derive(Debug, Clone)]
pub struct ChildSpec {
    /// Its entry in `cluster.json`, with pid 0.
    pub entry: ProcessEntry,
    /// Its configuration file.
    pub config_file: PathBuf,
    /// Its settings.
    pub config: Configuration,
}

/// The layout of a directory, as it is or newly made, with its ports held.
///
/// # Errors
/// If the flags contradict what the directory holds, or the ports are taken.
pub fn settle(dir: &Path, args: &UpArgs, locks: &mut PortLocks) -> Result<Layout, Failure> {
    let existing: Option<Layout> = read_json(&layout_path(dir))?;
    let layout = match existing {
        Some(old) => {
            hold(&old, locks)?;
            reshaped(old, dir, args).map_err(Failure::usage)?
        }
        None => fresh(args, locks)?,
    };
    write_json(&layout_path(dir), &layout)?;
    Ok(layout)
}

/// Holds the ports of a layout.
///
/// # Errors
/// If one is in use; says which and what to do.
pub fn hold(layout: &Layout, locks: &mut PortLocks) -> Result<(), Failure> {
    for place in &layout.coordinators {
        for port in [place.rpc_port, place.rest_port] {
            if !locks.take(port) {
                return Err(Failure::error(format!(
                    "port {port} of coordinator {} is in use by another program. The cluster's log names this port, so it \
                     cannot be changed here: stop that program and start again",
                    place.id
                )));
            }
        }
    }
    Ok(())
}

/// An existing layout under the flags of another start. Workers come and go; coordinators do not.
fn reshaped(mut layout: Layout, dir: &Path, args: &UpArgs) -> Result<Layout, String> {
    let count = u32::try_from(layout.coordinators.len()).unwrap_or(u32::MAX);
    if args.coordinators.is_some_and(|wanted| wanted != count) {
        return Err(format!(
            "the cluster in {} has {count} coordinators; `holdfast members` changes them while it runs, --coordinators does \
             not. Leave the flag out, or choose another directory",
            dir.display()
        ));
    }
    layout.workers = args.workers.unwrap_or(layout.workers);
    layout.slots = args.slots.unwrap_or(layout.slots);
    Ok(layout)
}

fn fresh(args: &UpArgs, locks: &mut PortLocks) -> Result<Layout, Failure> {
    let count = args.coordinators.unwrap_or(3);
    let rest = locks.pick(REST_FIRST, count as usize)?;
    let rpc = locks.pick(RPC_FIRST, count as usize)?;
    let places = rest.into_iter().zip(rpc).zip(1..);
    Ok(Layout {
        name: format!("local-{:08x}", SystemRandom.next_u64() >> 32),
        coordinators: places
            .map(|((rest_port, rpc_port), id)| CoordinatorPlace {
                id,
                rpc_port,
                rest_port,
            })
            .collect(),
        workers: args.workers.unwrap_or(3),
        slots: args.slots.unwrap_or(2),
    })
}

/// Every process of a layout. `dir` must be absolute.
///
/// # Errors
/// If a setting is refused, which means that this function is wrong.
pub fn children(dir: &Path, layout: &Layout, base: &Configuration) -> Result<Vec<ChildSpec>, Failure> {
    let common = common_settings(dir, layout, base)?;
    let mut specs = Vec::new();
    for place in &layout.coordinators {
        let name = format!("coordinator-{}", place.id);
        let data_dir = dir.join(&name);
        let own = [
            (options::RAFT_ID.info.key, place.id.to_string()),
            (options::STORAGE_DIR.info.key, data_dir.display().to_string()),
            (options::JOBMANAGER_BIND.info.key, "127.0.0.1".to_owned()),
            (options::JOBMANAGER_PORT.info.key, place.rpc_port.to_string()),
            (options::REST_ADDRESS.info.key, "127.0.0.1".to_owned()),
            (options::REST_PORT.info.key, place.rest_port.to_string()),
        ];
        let entry = ProcessEntry {
            role: "coordinator".to_owned(),
            id: place.id,
            pid: 0,
            rpc: Some(place.rpc()),
            rest: Some(place.rest()),
            resource_id: None,
            data_dir: data_dir.display().to_string(),
            log: log_path(dir, &name),
        };
        specs.push(child(dir, &name, entry, with(&common, &own)?));
    }
    for id in 1..=u64::from(layout.workers) {
        let name = format!("worker-{id}");
        let data_dir = dir.join(&name);
        let own = [
            (options::TM_RESOURCE_ID.info.key, name.clone()),
            (options::TM_BIND.info.key, "127.0.0.1".to_owned()),
            (options::TM_SLOTS.info.key, layout.slots.to_string()),
            (
                options::TM_TMP_DIR.info.key,
                data_dir.join("tmp").display().to_string(),
            ),
        ];
        let entry = ProcessEntry {
            role: "worker".to_owned(),
            id,
            pid: 0,
            rpc: None,
            rest: None,
            resource_id: Some(name.clone()),
            data_dir: data_dir.display().to_string(),
            log: log_path(dir, &name),
        };
        specs.push(child(dir, &name, entry, with(&common, &own)?));
    }
    Ok(specs)
}

fn log_path(dir: &Path, name: &str) -> String {
    dir.join("log").join(format!("{name}.log")).display().to_string()
}

fn child(dir: &Path, name: &str, entry: ProcessEntry, config: Configuration) -> ChildSpec {
    ChildSpec {
        entry,
        config_file: dir.join("conf").join(format!("{name}.yaml")),
        config,
    }
}

/// What all processes share: the user's settings, and where the cluster is.
fn common_settings(dir: &Path, layout: &Layout, base: &Configuration) -> Result<Configuration, Failure> {
    let list = |address: fn(&CoordinatorPlace) -> String| {
        format_peers(
            &layout
                .coordinators
                .iter()
                .map(|place| (NodeId(place.id), address(place)))
                .collect(),
        )
    };
    let mut settings = vec![
        (options::RAFT_PEERS.info.key, list(CoordinatorPlace::rpc)),
        (options::RAFT_REST_PEERS.info.key, list(CoordinatorPlace::rest)),
    ];
    if !base.is_set(options::CLUSTER_NAME.info.key) {
        settings.push((options::CLUSTER_NAME.info.key, layout.name.clone()));
    }
    if !base.is_set(options::CHECKPOINT_DIR.info.key) {
        let url = format!("file://{}", dir.join("checkpoints").display());
        settings.push((options::CHECKPOINT_DIR.info.key, url));
    }
    with(base, &settings)
}

fn with(base: &Configuration, settings: &[(&str, String)]) -> Result<Configuration, Failure> {
    let mut config = base.clone();
    for (key, value) in settings {
        config
            .set(key, value)
            .map_err(|e| Failure::error(e.to_string()))?;
    }
    Ok(config)
}

/// Writes every process's configuration, and makes the directories.
///
/// # Errors
/// If the disk refuses.
pub fn write(dir: &Path, specs: &[ChildSpec]) -> Result<(), Failure> {
    for part in ["conf", "log", "checkpoints"] {
        let path = dir.join(part);
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    for spec in specs {
        let data_dir = Path::new(&spec.entry.data_dir);
        std::fs::create_dir_all(data_dir).with_context(|| format!("cannot make {}", data_dir.display()))?;
        std::fs::write(&spec.config_file, to_yaml(&spec.config))
            .with_context(|| format!("cannot write {}", spec.config_file.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn args(coordinators: Option<u32>, workers: Option<u32>) -> UpArgs {
        UpArgs {
            coordinators,
            workers,
            slots: None,
            dir: PathBuf::new(),
            jobs: Vec::new(),
            detach: false,
            config: None,
            no_restart: false,
        }
    }

    fn layout() -> Layout {
        Layout {
            name: "local-1".into(),
            coordinators: (1..=3)
                .map(|id| CoordinatorPlace {
                    id,
                    rpc_port: 7100 + id as u16,
                    rest_port: 8080 + id as u16,
                })
                .collect(),
            workers: 2,
            slots: 2,
        }
    }

    #[test]
    fn every_process_gets_its_own_settings_over_the_users() {
        let base = Configuration::from_pairs([
            ("execution.checkpointing.interval", "200 ms"),
            ("taskmanager.numberOfTaskSlots", "9"),
        ])
        .unwrap();
        let specs = children(Path::new("/d"), &layout(), &base).unwrap();
        assert_eq!(specs.len(), 5);
        let second = &specs[1];
        assert_eq!(second.entry.rest.as_deref(), Some("127.0.0.1:8082"));
        assert_eq!(second.config.get(&options::RAFT_ID), Ok(2));
        assert_eq!(second.config.get(&options::REST_PORT), Ok(8082));
        assert_eq!(
            second.config.get(&options::CHECKPOINT_DIR).unwrap(),
            "file:///d/checkpoints"
        );
        assert!(
            second
                .config
                .get(&options::RAFT_PEERS)
                .unwrap()
                .starts_with("1@127.0.0.1:7101,2@")
        );
        assert!(
            second
                .config
                .get(&options::RAFT_REST_PEERS)
                .unwrap()
                .starts_with("1@127.0.0.1:8081,2@")
        );
        let worker = &specs[4];
        assert_eq!((worker.entry.role.as_str(), worker.entry.id), ("worker", 2));
        assert_eq!(worker.config.get(&options::TM_RESOURCE_ID).unwrap(), "worker-2");
        assert_eq!(worker.config.get(&options::TM_SLOTS), Ok(2));
        assert!(worker.config.is_set("execution.checkpointing.interval"));
        assert_eq!(worker.entry.log, "/d/log/worker-2.log");
    }

    #[test]
    fn another_start_may_change_workers_but_not_coordinators() {
        let changed = reshaped(layout(), Path::new("/d"), &args(None, Some(5))).unwrap();
        assert_eq!((changed.workers, changed.coordinators.len()), (5, 3));
        assert_eq!(
            reshaped(layout(), Path::new("/d"), &args(Some(3), None)).unwrap(),
            layout()
        );
        assert!(
            reshaped(layout(), Path::new("/d"), &args(Some(5), None))
                .unwrap_err()
                .contains("holdfast members")
        );
    }

    #[test]
    fn a_layout_keeps_its_ports() {
        let dir = tempfile::tempdir().unwrap();
        let mut locks = PortLocks::default();
        let first = settle(dir.path(), &args(Some(1), None), &mut locks).unwrap();
        assert!(
            settle(dir.path(), &args(None, None), &mut PortLocks::default()).is_err(),
            "its ports are held"
        );
        drop(locks);
        let second = settle(dir.path(), &args(None, None), &mut PortLocks::default()).unwrap();
        assert_eq!(first, second);
    }
}
