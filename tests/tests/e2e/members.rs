//! The coordinator set changes while a job runs: add, hand over, remove; a wiped coordinator is refused.

use anyhow::{Context, Result, anyhow, ensure};
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;
use tests::cluster::{Cluster, CommandLine, Options, with_cluster};
use tests::process::Process;
use tests::scenario::Running;
use tests::wait::{self, SOON};

/// A port that is free now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The first members in the form of the configuration.
pub fn peers(cluster: &Cluster) -> Result<String> {
    let all = cluster.coordinators()?;
    let peers: Vec<String> = all
        .iter()
        .map(|p| format!("{}@{}", p.id(), p.rpc.clone().unwrap_or_default()))
        .collect();
    Ok(peers.join(","))
}

/// The cluster's configured name, which `up` draws.
fn cluster_name(cluster: &Cluster) -> Result<String> {
    let view = cluster.view()?;
    view["cluster_name"]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| anyhow!("no cluster_name in {view}"))
}

/// Writes the configuration of a coordinator that `up` does not know, and says how to call it.
pub fn coordinator_config(cluster: &Cluster, id: u64, lines: &[(&str, String)]) -> Result<CommandLine> {
    let path = cluster.home().join(format!("coordinator-{id}-by-hand.yaml"));
    let name = cluster_name(cluster)?;
    let mut text = format!("high-availability.raft.id: {id}\nhigh-availability.cluster-id: \"{name}\"\n");
    for (key, value) in lines {
        text.push_str(&format!("{key}: \"{value}\"\n"));
    }
    std::fs::write(&path, text)?;
    Ok(CommandLine {
        place: format!("coordinator {id} by hand"),
        args: vec![
            "coordinator".into(),
            "--config".into(),
            path.to_string_lossy().into_owned(),
        ],
        cwd: cluster.home().to_path_buf(),
        log: cluster.home().join(format!("coordinator-{id}-by-hand.log")),
    })
}

struct Fourth {
    rpc: String,
    rest: String,
    data: PathBuf,
}

fn start_fourth(cluster: &mut Cluster) -> Result<Fourth> {
    let (rpc, rest) = (free_port()?, free_port()?);
    let data = cluster.home().join("fourth");
    let lines = [
        (
            "high-availability.raft.peers",
            format!("{},4@127.0.0.1:{rpc}", peers(cluster)?),
        ),
        ("high-availability.storageDir", data.display().to_string()),
        ("jobmanager.rpc.port", rpc.to_string()),
        ("rest.port", rest.to_string()),
        (
            "execution.checkpointing.dir",
            format!("file://{}", cluster.dir().join("checkpoints").display()),
        ),
    ];
    let line = coordinator_config(cluster, 4, &lines)?;
    cluster.start_by_hand(&line)?;
    Ok(Fourth {
        rpc: format!("127.0.0.1:{rpc}"),
        rest: format!("127.0.0.1:{rest}"),
        data,
    })
}

fn member_ids(cluster: &Cluster) -> Result<Vec<u64>> {
    let view = cluster.view()?;
    Ok(view["coordinators"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|c| c["id"].as_u64())
        .collect())
}

fn leader_id(cluster: &Cluster) -> Result<u64> {
    wait::until("a leader", SOON, || Ok(cluster.view()?["leader"].as_u64()))
}

/// Removes a coordinator that `up` looks after, and waits until it has ended. Answers where it was.
fn remove_one_of_up(cluster: &Cluster) -> Result<Process> {
    let one = cluster.followers()?.pop().context("there is no follower")?;
    let id = one.id().to_string();
    cluster.cli(&["members", "remove", &id])?.expect_code(0)?;
    wait::until_true("the removed coordinator to end", SOON, || {
        has_ended(cluster, &one)
    })?;
    Ok(one)
}

/// `up` writes 0 for a process that does not run.
fn has_ended(cluster: &Cluster, one: &Process) -> Result<bool> {
    let all = cluster.coordinators()?;
    let left = all.iter().find(|p| p.same_place(one));
    Ok(left.context("it is gone from cluster.json")?.pid == 0)
}

#[test]
fn members_add_transfer_remove() {
    with_cluster("members", Options::default(), |cluster| {
        let running = Running::start(cluster, 20)?;
        let fourth = start_fourth(cluster)?;
        cluster
            .cli(&["members", "add", "4", &fourth.rpc, &fourth.rest])?
            .expect_code(0)?;
        wait::until_true("member 4", SOON, || Ok(member_ids(cluster)?.contains(&4)))?;
        ensure!(fourth.data.exists(), "{} was not made", fourth.data.display());
        cluster.cli(&["members", "transfer", "4"])?.expect_code(0)?;
        wait::until_true("member 4 to lead", SOON, || Ok(leader_id(cluster)? == 4))?;
        cluster.wait_checkpoints(&running.id, 2)?;
        running.check_untouched(cluster)?;
        cluster.cli(&["members", "transfer", "2"])?.expect_code(0)?;
        wait::until_true("member 2 to lead", SOON, || Ok(leader_id(cluster)? == 2))?;
        cluster.cli(&["members", "remove", "4"])?.expect_code(0)?;
        wait::until_true("member 4 to be gone", SOON, || {
            Ok(!member_ids(cluster)?.contains(&4))
        })?;
        // It is told, says so, and ends for good.
        let code = cluster.wait_end_by_hand("coordinator 4 by hand", SOON)?;
        ensure!(code == Some(5), "a removed coordinator ended with {code:?}");
        let log = std::fs::read_to_string(cluster.home().join("coordinator-4-by-hand.log"))?;
        ensure!(
            log.contains("was removed from the cluster"),
            "its log does not say why:\n{log}"
        );
        let removed = remove_one_of_up(cluster)?;
        // One that does not run is refused at once, with its address.
        let begun = std::time::Instant::now();
        let nobody = format!("127.0.0.1:{}", free_port()?);
        let said = cluster
            .cli(&["members", "add", "5", &nobody, &nobody])?
            .expect_code(1)?;
        said.expect_text(&nobody)?;
        ensure!(
            begun.elapsed() < Duration::from_secs(20),
            "it took {:?} to say so",
            begun.elapsed()
        );
        // Nonsense is refused and harms nothing.
        for args in [["members", "transfer", "77"], ["members", "remove", "77"]] {
            let said = cluster.cli(&args)?;
            ensure!(
                said.code.is_some_and(|code| code != 0),
                "nonsense was accepted: {said}"
            );
        }
        cluster.wait_checkpoints(&running.id, 2)?;
        running.check_untouched(cluster)?;
        running.finish(cluster)?;
        // It was not started again in all that time: it has ended once.
        ensure!(
            has_ended(cluster, &removed)?,
            "the removed coordinator runs again"
        );
        let log = std::fs::read_to_string(removed.log.as_ref().context("it has no log")?)?;
        let ends = log.lines().filter(|line| line.contains("code=5")).count();
        ensure!(ends == 1, "the removed coordinator ended {ends} times:\n{log}");
        let said = format!(
            "coordinator {} (pid {}) was removed from the cluster",
            removed.id(),
            removed.pid
        );
        let printed = cluster.printed()?;
        ensure!(printed.contains(&said), "`up` does not say '{said}':\n{printed}");
        Ok(())
    });
}

#[test]
fn wiped_coordinator_is_refused() {
    with_cluster("wiped", Options::default().no_restart(), |cluster| {
        let victim = cluster
            .followers()?
            .into_iter()
            .next()
            .ok_or_else(|| anyhow!("no follower"))?;
        let line = cluster.command_line(&victim)?;
        let data = victim
            .data_dir
            .clone()
            .ok_or_else(|| anyhow!("{} has no data_dir", victim.name()))?;
        cluster.kill_9(&victim)?;
        std::fs::remove_dir_all(&data).with_context(|| data.display().to_string())?;
        std::fs::create_dir_all(&data)?;
        cluster.start_by_hand(&line)?;
        let code = cluster.wait_end_by_hand(&line.place, Duration::from_secs(30)).context(
            "a coordinator that lost its disk came back under its old id: it may have voted and forgotten it",
        )?;
        ensure!(code.is_some_and(|code| code != 0), "exit code {code:?}");
        let log = std::fs::read_to_string(&line.log)?;
        let tail = log
            .lines()
            .rev()
            .take(20)
            .collect::<Vec<_>>()
            .join("\n")
            .to_lowercase();
        ensure!(
            tail.contains("id") && tail.contains("remove"),
            "the log does not say what to do:\n{tail}"
        );
        // The others go on.
        let write = tests::rest::Call::new(hyper::Method::PUT, "/v1/kv/still-there").body("1");
        cluster.rest().call(&write, SOON)?.ok()?;
        Ok(())
    });
}
