//! Processes that must not start, or must not join: each says why and ends; the cluster does not notice.

use crate::members::{coordinator_config, free_port, peers};
use anyhow::{Context, Result, anyhow, ensure};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;
use tests::binary::{self, Said};
use tests::cluster::{Cluster, Options, with_cluster};
use tests::wait::SOON;

const DEADLINE: Duration = Duration::from_secs(30);

/// Runs a process that must end by itself, not with 0.
fn must_end(cwd: &Path, args: &[&str]) -> Result<Said> {
    let said = binary::run(cwd, args, DEADLINE)?;
    ensure!(
        said.code.is_some_and(|code| code != 0),
        "it must not end with 0: {said}"
    );
    Ok(said)
}

#[test]
fn a_typo_in_the_configuration_is_answered_with_the_nearest_key() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("holdfast.yaml");
    let config = path.to_string_lossy().into_owned();
    let cases = [
        ("heartbeat.timout: 2 s\n", "heartbeat.timeout"),
        (
            "taskmanager.numberOfTaskSlot: 2\n",
            "taskmanager.numberOfTaskSlots",
        ),
        ("heartbeat.timeout: soon\n", "heartbeat.timeout"),
        ("rest.port: 99999\n", "rest.port"),
        ("no colon here\n", "holdfast.yaml"),
    ];
    for (text, named) in cases {
        std::fs::write(&path, text)?;
        for role in ["coordinator", "worker", "up"] {
            let said = binary::run(dir.path(), &[role, "--config", &config], DEADLINE)
                .with_context(|| format!("{role} with {text:?}"))?
                .expect_code(2)?;
            said.expect_text(named)?;
        }
    }
    let missing = dir.path().join("missing.yaml").to_string_lossy().into_owned();
    binary::run(dir.path(), &["worker", "--config", &missing], DEADLINE)?
        .expect_code(2)?
        .expect_text("missing.yaml")?;
    binary::run(dir.path(), &["coordinatr"], DEADLINE)?.expect_code(2)?;
    Ok(())
}

#[test]
fn a_port_in_use_is_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port();
    let (rpc, rest) = (free_port()?, free_port()?);
    for (rpc, rest) in [(port, rest), (rpc, port)] {
        let path = dir.path().join("holdfast.yaml");
        let text = format!(
            "high-availability.raft.id: 1\nhigh-availability.raft.peers: 1@127.0.0.1:{rpc}\n\
             high-availability.storageDir: {0}/data\njobmanager.rpc.port: {rpc}\nrest.port: {rest}\n\
             execution.checkpointing.dir: file://{0}/checkpoints\n",
            dir.path().display()
        );
        std::fs::write(&path, text)?;
        let said = must_end(dir.path(), &["coordinator", "--config", &path.to_string_lossy()])?;
        said.expect_text(&port.to_string())?;
    }
    Ok(())
}

#[test]
fn a_client_without_a_cluster_says_so() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let said = must_end(dir.path(), &["status", "--dir", "nowhere"])?;
    said.expect_text("nowhere")?;
    let port = free_port()?;
    let said = must_end(
        dir.path(),
        &["jobs", "--rest", &format!("http://127.0.0.1:{port}")],
    )?;
    said.expect_text(&port.to_string())?;
    Ok(())
}

#[test]
fn strangers_are_refused() {
    with_cluster("strangers", Options::default().no_restart(), |cluster| {
        second_coordinator(cluster).context("a second coordinator on one data directory")?;
        foreign_worker(cluster).context("a worker of another cluster")?;
        cluster.wait_workers(3)?;
        cluster.wait_coordinators_agree()
    });
}

fn second_coordinator(cluster: &Cluster) -> Result<()> {
    let first = cluster
        .followers()?
        .into_iter()
        .next()
        .ok_or_else(|| anyhow!("no follower"))?;
    let data = first
        .data_dir
        .clone()
        .ok_or_else(|| anyhow!("{} has no data_dir", first.name()))?;
    let lines = [
        ("high-availability.raft.peers", peers(cluster)?),
        ("high-availability.storageDir", data.display().to_string()),
        ("jobmanager.rpc.port", free_port()?.to_string()),
        ("rest.port", free_port()?.to_string()),
        (
            "execution.checkpointing.dir",
            format!("file://{}", cluster.dir().join("checkpoints").display()),
        ),
    ];
    let line = coordinator_config(cluster, first.number()?, &lines)?;
    let args: Vec<&str> = line.args.iter().map(String::as_str).collect();
    let said = must_end(cluster.home(), &args)?;
    said.expect_text(
        &data
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default(),
    )?;
    ensure!(
        first.alive(),
        "the first coordinator did not survive the second one"
    );
    Ok(())
}

fn foreign_worker(cluster: &Cluster) -> Result<()> {
    let path = cluster.home().join("foreign-worker.yaml");
    let text = format!(
        "high-availability.cluster-id: somebody-elses\nhigh-availability.raft.peers: \"{}\"\n\
         taskmanager.resource-id: stranger\nio.tmp.dirs: {}\n\
         execution.checkpointing.dir: file://{}\n",
        peers(cluster)?,
        cluster.home().join("foreign-tmp").display(),
        cluster.dir().join("checkpoints").display()
    );
    std::fs::write(&path, text)?;
    let said = must_end(cluster.home(), &["worker", "--config", &path.to_string_lossy()])?;
    said.expect_text("somebody-elses")?;
    let view = cluster.rest().get("/v1/cluster", SOON)?;
    ensure!(
        !view["workers"].to_string().contains("stranger"),
        "the stranger is listed: {}",
        view["workers"]
    );
    Ok(())
}
