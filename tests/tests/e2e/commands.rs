//! Every reading command answers, for people and as JSON; `run` follows a job to its end and exits by its state.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::cluster::{Cluster, Options, with_cluster};
use tests::output::check_numbers_job;
use tests::scenario::Running;
use tests::script::{Numbers, csv_table};
use tests::wait::{self, LATER, SOON};

fn json(cluster: &Cluster, args: &[&str]) -> Result<Value> {
    let mut all = args.to_vec();
    all.extend(["--output", "json"]);
    let said = cluster.cli(&all)?.expect_code(0)?;
    serde_json::from_str(&said.stdout).with_context(|| format!("no JSON: {said}"))
}

#[test]
fn run_follows_a_job_and_commands_show_it() {
    with_cluster("commands", Options::default(), |cluster| {
        let spec = Numbers::lasting(6, &cluster.home().join("out"));
        std::fs::write(cluster.home().join("numbers.sql"), spec.sql())?;
        let detached = cluster.cli(&["run", "numbers.sql", "--detach"])?.expect_code(0)?;
        let jobs = cluster.rest().get("/v1/jobs/overview", SOON)?;
        let id = jobs["jobs"][0]["jid"].as_str().unwrap_or_default().to_owned();
        ensure!(
            detached.stdout.contains(&id),
            "`run --detach` does not name the job {id}: {detached}"
        );
        let job = tests::job::JobId(id.clone());
        cluster.wait_running(&job)?;
        cluster.wait_checkpoints(&job, 2)?;
        for args in [
            vec!["jobs"],
            vec!["job", &id],
            vec!["checkpoints", &id],
            vec!["exceptions", &id],
            vec!["status"],
        ] {
            let said = cluster.cli(&args)?.expect_code(0)?;
            ensure!(!said.stdout.trim().is_empty(), "nothing was said: {said}");
            let value = json(cluster, &args)?;
            ensure!(value.is_object() || value.is_array(), "{args:?}: {value}");
        }
        cluster.cli(&["jobs"])?.expect_text("numbers")?;
        let explained = cluster.cli(&["explain", "numbers.sql"])?.expect_code(0)?;
        explained.expect_text("numbers")?;
        let status = json(cluster, &["status"])?.to_string();
        ensure!(status.contains("leader") && status.contains("term"), "{status}");
        cluster.wait_state(&job, "FINISHED", LATER)?;
        check_numbers_job(&spec)?;
        check_rest(cluster)
    });
}

fn check_rest(cluster: &Cluster) -> Result<()> {
    for path in [
        "/v1/overview",
        "/v1/jobs/overview",
        "/v1/taskmanagers",
        "/v1/cluster",
    ] {
        for address in cluster.rest().addresses() {
            let reply = cluster
                .rest()
                .call_at(&address, &tests::rest::Call::get(path), SOON)?
                .ok()?;
            reply.json().with_context(|| format!("{path} at {address}"))?;
        }
    }
    Ok(())
}

#[test]
fn run_exits_by_the_final_state() {
    with_cluster("run-exit", Options::default(), |cluster| {
        let mut spec = Numbers::lasting(1, &cluster.home().join("out"));
        spec.rate = 40_000;
        std::fs::write(cluster.home().join("good.sql"), spec.sql())?;
        cluster.cli(&["run", "good.sql"])?.expect_code(0)?;
        check_numbers_job(&spec)?;
        let input = cluster.home().join("bad.csv");
        std::fs::write(&input, "1\nx\n")?;
        let mut sql = String::from("SET 'restart-strategy.type' = 'none';\n");
        sql.push_str(&csv_table("a", "n BIGINT", &input));
        sql.push_str(&csv_table("b", "n BIGINT", &cluster.out("b")));
        sql.push_str("INSERT INTO b SELECT n FROM a;\n");
        std::fs::write(cluster.home().join("bad.sql"), sql)?;
        let said = cluster.cli(&["run", "bad.sql"])?;
        ensure!(
            said.code.is_some_and(|code| code != 0),
            "a failed job must not exit with 0: {said}"
        );
        said.expect_text("FAILED")?;
        let said = cluster.cli(&["run", "bad.sql", "--output", "json"])?;
        let lines = said.stdout.lines().map(serde_json::from_str::<serde_json::Value>);
        let lines: Vec<_> = lines
            .collect::<Result<_, _>>()
            .context("standard output is for programs")?;
        ensure!(
            lines.len() == 2 && lines[0]["jobid"] == lines[1]["jid"] && lines[1]["state"] == "FAILED",
            "{said}"
        );
        ensure!(said.stderr.contains("failed:"), "the reason is told: {said}");
        Ok(())
    });
}

#[test]
fn a_child_that_dies_is_started_again() {
    with_cluster("restart-child", Options::default(), |cluster| {
        let mut all = cluster.coordinators()?;
        all.extend(cluster.workers()?);
        ensure!(all.len() == 6, "cluster.json lists {} processes", all.len());
        for process in &all {
            ensure!(
                process.log.as_ref().is_some_and(|log| log.exists()),
                "{} has no log",
                process.name()
            );
        }
        for role in ["coordinator", "worker"] {
            let Some(victim) = all.iter().find(|p| p.role == role) else {
                continue;
            };
            cluster.kill_9(victim)?;
            let again = cluster.wait_restarted(victim)?;
            ensure!(
                again.rest == victim.rest,
                "another REST address after the restart: {:?}",
                again.rest
            );
        }
        cluster.refresh_addresses()?;
        wait::until_true("everything to be healthy again", SOON, || {
            let view = cluster.leader_view()?;
            let attached = tests::cluster::attached_pids(&view);
            Ok(cluster.workers()?.iter().all(|w| attached.contains(&w.pid)))
        })
    });
}

#[test]
fn metrics_tell_what_operators_alert_on() {
    with_cluster("metrics", Options::default(), |cluster| {
        let running = Running::start(cluster, 6)?;
        cluster.wait_checkpoints(&running.id, 2)?;
        // Jobs and workers are the leader's to export, so that a sum over all coordinators counts them once.
        let leader = cluster
            .leader()?
            .rest
            .with_context(|| "the leader has no REST address".to_owned())?;
        let metrics = cluster
            .rest()
            .call_at(&leader, &tests::rest::Call::get("/metrics"), SOON)?
            .ok()?;
        let text = metrics.text();
        ensure!(
            text.contains("# HELP") && text.contains("# TYPE"),
            "no metrics for Prometheus: {text}"
        );
        for part in ["checkpoint", "leader", "worker", "restart"] {
            ensure!(
                text.to_lowercase().contains(part),
                "no metric about '{part}': {text}"
            );
        }
        running.finish(cluster)?;
        Ok(())
    });
}
