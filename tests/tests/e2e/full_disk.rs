//! A full disk, under the output and under the coordinators' logs: the error names it, nothing acknowledged is lost, and
//! when there is room again everything goes on.

use anyhow::{Result, ensure};
use hyper::Method;
use std::thread::sleep;
use std::time::Duration;
use tests::cluster::{Cluster, Options};
use tests::disk::SmallDisk;
use tests::probe::{Kind, Probe};
use tests::rest::Call;
use tests::scenario::Running;
use tests::script::Numbers;
use tests::wait::{self, SOON};

/// What the operating system calls it.
const NO_SPACE: &str = "No space left on device";

#[test]
fn a_full_output_disk_fails_the_attempt_by_name_and_costs_no_row() -> Result<()> {
    let mut cluster = Cluster::prepare(&std::env::temp_dir(), "full-output", Options::default())?;
    let out = cluster.home().join("out");
    let Some(disk) = SmallDisk::mount(&out, 64)? else {
        return Ok(());
    };
    cluster.up()?;
    let mut spec = Numbers::lasting(20, &out);
    spec = spec.set("restart-strategy.type", "fixed-delay");
    spec = spec.set("restart-strategy.fixed-delay.attempts", "1000");
    spec = spec.set("restart-strategy.fixed-delay.delay", "200 ms");
    let running = Running::start_spec(&cluster, spec)?;
    disk.fill()?;
    wait::until_true("an exception that names the full disk", SOON, || {
        let told = cluster.exceptions(&running.id)?.to_string();
        ensure!(told.contains(NO_SPACE), "{told}");
        Ok(true)
    })?;
    sleep(Duration::from_secs(2));
    for process in cluster.file()?.processes {
        ensure!(
            process.alive(),
            "{} did not survive a full output disk",
            process.name()
        );
    }
    disk.free()?;
    cluster.wait_checkpoints(&running.id, 2)?;
    running.finish(&cluster)?;
    cluster.down()
}

#[test]
fn a_full_coordinators_disk_loses_nothing_that_was_acknowledged() -> Result<()> {
    let mut cluster = Cluster::prepare(&std::env::temp_dir(), "full-log", Options::default())?;
    let mut disks = Vec::new();
    for id in 1..=3 {
        let Some(disk) = SmallDisk::mount(&cluster.dir().join(format!("coordinator-{id}")), 96)? else {
            return Ok(());
        };
        disks.push(disk);
    }
    cluster.up()?;
    let running = Running::start(&cluster, 30)?;
    let mut probe = Probe::start(cluster.rest(), Kind::Write, Duration::from_millis(10));
    sleep(Duration::from_secs(1));
    // One full disk: the other two go on.
    disks[0].fill()?;
    sleep(Duration::from_secs(2));
    let write = Call::new(Method::PUT, "/v1/kv/one-disk-full").body("1");
    cluster.rest().call(&write, SOON)?.ok()?;
    // All of them: nothing can be acknowledged any more, and each process says why it ends.
    for disk in &disks {
        disk.fill()?;
    }
    wait::until_true("every coordinator to end or refuse writes", SOON, || {
        refuses(&cluster)
    })?;
    probe.stop();
    name_the_disk(&cluster)?;
    for disk in &disks {
        disk.free()?;
    }
    // Those that have ended are started again all the time; now they stay.
    cluster.wait_healthy()?;
    println!(
        "    {} acknowledged writes are all there",
        probe.check_writes(cluster.rest())?
    );
    cluster.wait_running(&running.id)?;
    cluster.wait_checkpoints(&running.id, 2)?;
    running.finish(&cluster)?;
    cluster.down()?;
    Ok(())
}

fn refuses(cluster: &Cluster) -> Result<bool> {
    // Larger than what is left in a block that is not full yet.
    let write = Call::new(Method::PUT, "/v1/kv/no-room").body(vec![b'x'; 64 << 10]);
    let mut refused = 0;
    for address in cluster.rest().addresses() {
        match cluster.rest().call_at(&address, &write, Duration::from_secs(3)) {
            Ok(reply) if reply.status.is_success() => {}
            Ok(_) | Err(_) => refused += 1,
        }
    }
    Ok(refused == cluster.rest().addresses().len())
}

/// Those that had to write say what is the matter: a majority, since the last one may only miss the others.
fn name_the_disk(cluster: &Cluster) -> Result<()> {
    let mut silent = Vec::new();
    for process in cluster.coordinators()? {
        let log = process
            .log
            .clone()
            .map(std::fs::read_to_string)
            .transpose()?
            .unwrap_or_default();
        if !log.contains(NO_SPACE) {
            silent.push(process.name());
        }
    }
    ensure!(
        silent.len() <= 1,
        "the logs of {silent:?} do not name the full disk"
    );
    Ok(())
}
