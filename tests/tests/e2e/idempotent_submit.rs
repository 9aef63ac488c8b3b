//! A submission that is retried never runs twice, also across a leader's death.

use anyhow::{Result, ensure};
use tests::cluster::{Cluster, Options, with_cluster};
use tests::script::Numbers;
use tests::wait::LATER;

fn count_jobs(cluster: &Cluster) -> Result<usize> {
    let overview = cluster.rest().get("/v1/jobs/overview", tests::wait::SOON)?;
    Ok(overview["jobs"].as_array().map_or(0, Vec::len))
}

#[test]
fn idempotent_submit_runs_once() {
    with_cluster("idempotent-submit", Options::default(), |cluster| {
        let spec = Numbers::lasting(5, &cluster.home().join("out"));
        let first = cluster.submit_with_key(&spec.sql(), "order-17")?;
        let again = cluster.submit_with_key(&spec.sql(), "order-17")?;
        ensure!(first == again, "one key, two jobs: {first:?} and {again:?}");
        // The key is in the log: the next leader knows it too.
        cluster.kill_9(&cluster.leader()?)?;
        let after = cluster.submit_with_key(&spec.sql(), "order-17")?;
        ensure!(
            first == after,
            "one key, two jobs after the leader's death: {first:?} and {after:?}"
        );
        ensure!(count_jobs(cluster)? == 1, "{} jobs", count_jobs(cluster)?);
        cluster.wait_state(&first, "FINISHED", LATER)?;
        tests::output::check_numbers_job(&spec)?;
        // A new submission under another key while the leader dies: retried until it is answered, there is one more.
        let mut other = Numbers::lasting(2, &cluster.home().join("out2"));
        other.parallelism = 1;
        let leader = cluster.leader()?;
        let sql = other.sql();
        let submitted = std::thread::scope(|scope| {
            let submitter = scope.spawn(|| cluster.submit_with_key(&sql, "order-18"));
            let killed = cluster.kill_9(&leader);
            let submitted = submitter
                .join()
                .map_err(|_| anyhow::anyhow!("the submitter panicked"))?;
            killed?;
            submitted
        })?;
        ensure!(count_jobs(cluster)? == 2, "{} jobs", count_jobs(cluster)?);
        cluster.wait_state(&submitted, "FINISHED", LATER)?;
        tests::output::check_numbers_job(&other)?;
        Ok(())
    });
}
