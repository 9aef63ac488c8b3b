//! Flink's side: a real Flink with three ZooKeepers, two JobManagers and two TaskManagers, run by a script that is given
//! by its path, with the same job, rate and checkpoint interval as Holdfast's.

use super::Entry;
use super::flink_watch::Watch;
use super::probe::{Asked, Probe, Since};
use super::rows;
use ::tests::rest::{Call, send};
use ::tests::wait;
use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// REST addresses of the two JobManagers; either answers for the leader.
const REST: [&str; 2] = ["127.0.0.1:8081", "127.0.0.1:8082"];
const ZOOKEEPERS: [u16; 3] = [2181, 2182, 2183];
/// Requests to the JobManagers, as often as the drill's probes.
const EVERY: Duration = Duration::from_millis(10);
const SETTLED: Duration = Duration::from_secs(3);
/// One recovery with default timeouts takes most of a minute.
const RECOVERY: Duration = Duration::from_secs(240);
const PARALLELISM: u64 = 2;
/// How long a ZooKeeper is gone.
const BLIP: Duration = Duration::from_secs(1);

/// A Flink that runs; stopped on drop.
pub struct Flink {
    script: PathBuf,
    work: PathBuf,
    tuned: bool,
    runtime: tokio::runtime::Runtime,
}

impl Flink {
    /// Starts it: `script` is flink.sh, `work` its directory. Its `setup` must have been run there.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(script: &Path, work: &Path, tuned: bool) -> Result<Self> {
        let flink = Self {
            script: script
                .canonicalize()
                .with_context(|| script.display().to_string())?,
            work: work.to_owned(),
            tuned,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
        };
        flink.call(&["stop"]).ok();
        for old in ["storage", "zk1", "zk2", "zk3", "log"] {
            let dir = work.join(old);
            if dir.exists() {
                std::fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
            }
        }
        flink.call(&["start", "ha"])?;
        Ok(flink)
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Result<String> {
        let log = self.work.join("bench.log");
        let errors = std::fs::File::options().create(true).append(true).open(&log)?;
        let output = Command::new(program)
            .args(arguments)
            .env("WORK", &self.work)
            .env("TUNED", if self.tuned { "1" } else { "0" })
            .env("CHECKPOINT", "1s")
            .stdin(Stdio::null())
            .stderr(errors)
            .output()
            .with_context(|| format!("cannot run {}", program.display()))?;
        ensure!(
            output.status.success(),
            "{} {arguments:?} ended with {}; see {}",
            program.display(),
            output.status,
            log.display()
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn call(&self, arguments: &[&str]) -> Result<String> {
        self.command(&self.script, arguments)
    }

    fn helper(&self, arguments: &[&str]) -> Result<String> {
        let helper = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/flink-failover.sh");
        let script = self.script.display().to_string();
        let all: Vec<&str> = std::iter::once(script.as_str())
            .chain(arguments.iter().copied())
            .collect();
        self.command(&helper, &all)
    }

    fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let pid: i32 = self.call(&["pid", name])?.parse()?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("{name} ({pid})"))
    }

    fn get(&self, path: &str) -> Result<Value> {
        let mut last = anyhow!("nobody was asked");
        for address in REST {
            let call = Call::get(path);
            match self
                .runtime
                .block_on(send(address, &call, Duration::from_secs(2)))
            {
                Ok(reply) => match reply.ok().and_then(|r| r.json()) {
                    Ok(value) => return Ok(value),
                    Err(error) => last = error,
                },
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.work.join("log").join(format!("{name}.log"))
    }

    /// The JobManager that was granted leadership last.
    fn leader(&self) -> Result<&'static str> {
        let granted = |name: &'static str| {
            let text = std::fs::read_to_string(self.log(name)).unwrap_or_default();
            let line = text.lines().rev().find(|l| l.contains("granted leadership"))?;
            Some((line.get(..12)?.to_owned(), name))
        };
        let newest = ["jm1", "jm2"].into_iter().filter_map(granted).max();
        newest
            .map(|(_, name)| name)
            .context("no JobManager was granted leadership")
    }

    /// The ZooKeeper that leads, by its own word.
    fn leading_zookeeper(&self) -> Result<String> {
        for (index, port) in ZOOKEEPERS.iter().enumerate() {
            if four_letters(*port, "srvr").is_ok_and(|text| text.contains("Mode: leader")) {
                return Ok(format!("zk{}", index + 1));
            }
        }
        bail!("no ZooKeeper leads")
    }
}

impl Drop for Flink {
    fn drop(&mut self) {
        if let Err(error) = self.call(&["stop"]) {
            eprintln!("Flink was not stopped: {error:#}");
        }
    }
}

fn four_letters(port: u16, word: &str) -> Result<String> {
    let address = ("127.0.0.1", port)
        .to_socket_addrs()?
        .next()
        .context("no address")?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(word.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The job of `holdfast drill`, with its rows numbered up to an end: Flink's sequence holds what is still to come in its
/// state, so it must not be endless.
fn script(load: u64, rows: u64, committed: &Path) -> String {
    format!(
        "SET 'pipeline.name' = 'failover';
SET 'parallelism.default' = '{PARALLELISM}';
CREATE TABLE numbers (
  n BIGINT,
  k AS MOD(n, 1000),
  ts AS TO_TIMESTAMP_LTZ(n, 3),
  WATERMARK FOR ts AS ts - INTERVAL '1' SECOND
) WITH (
  'connector' = 'datagen',
  'rows-per-second' = '{load}',
  'fields.n.kind' = 'sequence',
  'fields.n.start' = '0',
  'fields.n.end' = '{}'
);
CREATE TABLE committed (n BIGINT) WITH ('connector' = 'filesystem', 'path' = 'file://{}', 'format' = 'csv');
CREATE TABLE emitted (n BIGINT) WITH ('connector' = 'print', 'print-identifier' = 'drill');
CREATE TABLE counts (w TIMESTAMP(3), k BIGINT, c BIGINT) WITH ('connector' = 'blackhole');
EXECUTE STATEMENT SET
BEGIN
  INSERT INTO committed SELECT n FROM numbers;
  INSERT INTO emitted SELECT n FROM numbers;
  INSERT INTO counts
    SELECT window_start, k, COUNT(*)
    FROM TABLE(TUMBLE(TABLE numbers, DESCRIPTOR(ts), INTERVAL '10' SECOND))
    GROUP BY window_start, window_end, k;
END;
",
        rows - 1,
        committed.display()
    )
}

/// Vertex, subtask and start of a task.
type Task = (String, u64, i64);

/// A job under watch.
struct Bench<'a> {
    flink: &'a Flink,
    job: String,
    since: Since,
    watch: Watch,
    control: Probe,
}

/// Runs one case.
///
/// # Errors
/// If Flink does not come up or does not recover.
pub fn run(flink: &Flink, case: &str, runs: usize, load: u64, deadline: Duration) -> Result<Entry> {
    let started = Instant::now();
    let system = if flink.tuned { "flink-tuned" } else { "flink" };
    let mut entry = Entry {
        system: system.into(),
        case: case.into(),
        what: what(case, flink.tuned),
        tasks_restarted: Some(0),
        records_replayed: Some(0),
        ..Entry::default()
    };
    let bench = Bench::open(flink, load, case, deadline + RECOVERY)?;
    for run in 0..runs {
        if started.elapsed() > deadline {
            entry.trouble = Some(format!("ended after {} s", deadline.as_secs()));
            break;
        }
        if let Err(error) = bench.fail(case, run, &mut entry) {
            entry.trouble = Some(format!("failure {}: {error:#}", run + 1));
            break;
        }
        eprintln!(
            "{system} {case} {}/{runs}: control {:.0} ms, output {:.0} ms",
            run + 1,
            entry.write_gap_ms.last().copied().unwrap_or_default(),
            entry.output_gap_ms.last().copied().unwrap_or_default()
        );
    }
    sleep(Duration::from_secs(2));
    let account = bench
        .watch
        .with(|seen| (seen.committed.lost(), seen.committed.doubled()));
    (entry.rows_lost, entry.rows_doubled) = (Some(account.0), Some(account.1));
    bench.cancel();
    Ok(entry)
}

fn what(case: &str, tuned: bool) -> String {
    let timeouts = if tuned {
        "the shortest timeouts that run"
    } else {
        "default timeouts"
    };
    let fault = match case {
        "leader" => "kill -9 of the leading JobManager",
        "worker" => "kill -9 of the TaskManager that has the tasks",
        "worker-silent" => "SIGSTOP of the TaskManager that has the tasks",
        _ => "the leading ZooKeeper is gone for 1 s (kill -9, started again)",
    };
    format!("Flink 2.2.1 with ZooKeeper 3.8, {timeouts}: {fault}")
}

impl<'a> Bench<'a> {
    fn open(flink: &'a Flink, load: u64, case: &str, time: Duration) -> Result<Self> {
        let committed = flink.work.join(format!("out-{case}-{}", u8::from(flink.tuned)));
        if committed.exists() {
            std::fs::remove_dir_all(&committed)?;
        }
        let sql = flink.work.join("failover.sql");
        std::fs::write(&sql, script(load, load * (time.as_secs() + 60), &committed))?;
        let since = Since::begin();
        let logs = vec![flink.log("tm1"), flink.log("tm2")];
        let path = sql.display().to_string();
        let job = wait::until("a submitted job", RECOVERY, || {
            let job = flink.helper(&["submit", &path])?;
            Ok(Some(job).filter(|id| id.len() == 32))
        })?;
        let watch = Watch::start(logs, committed, PARALLELISM, since);
        let control = Probe::start(since, EVERY, Duration::from_secs(2), || {
            |number| -> Asked {
                Box::pin(async move {
                    // One after the other, beginning with another one every time.
                    for turn in 0..2 {
                        let at = usize::try_from(number).unwrap_or(0) + turn;
                        let answer =
                            send(REST[at % 2], &Call::get("/jobs/overview"), Duration::from_secs(1)).await;
                        if answer.is_ok_and(|r| r.status.is_success()) {
                            return true;
                        }
                    }
                    false
                })
            }
        });
        Ok(Self {
            flink,
            job,
            since,
            watch,
            control,
        })
    }

    fn cancel(&self) {
        let call = Call::new(
            "PATCH".parse().unwrap_or_default(),
            format!("/jobs/{}?mode=cancel", self.job),
        );
        for address in REST {
            let asked = self
                .flink
                .runtime
                .block_on(send(address, &call, Duration::from_secs(5)));
            if asked.is_ok_and(|r| r.status.is_success()) {
                break;
            }
        }
        sleep(Duration::from_secs(3));
    }

    /// Vertex, subtask and start of every task, if all run.
    fn tasks(&self) -> Result<Vec<Task>> {
        let job = self.flink.get(&format!("/jobs/{}", self.job))?;
        ensure!(job["state"] == "RUNNING", "the job is {}", job["state"]);
        let mut tasks = Vec::new();
        for vertex in job["vertices"].as_array().into_iter().flatten() {
            let id = vertex["id"].as_str().unwrap_or_default();
            let details = self.flink.get(&format!("/jobs/{}/vertices/{id}", self.job))?;
            for subtask in details["subtasks"].as_array().into_iter().flatten() {
                ensure!(subtask["status"] == "RUNNING", "a task is {}", subtask["status"]);
                let number = subtask["subtask"].as_u64().unwrap_or_default();
                tasks.push((
                    id.to_owned(),
                    number,
                    subtask["start-time"].as_i64().unwrap_or_default(),
                ));
            }
        }
        ensure!(!tasks.is_empty(), "the job has no tasks");
        Ok(tasks)
    }

    /// Whether all is well, with a checkpoint after a moment (Unix ms by Flink's clock) and both TaskManagers.
    fn calm(&self) -> Result<bool> {
        self.tasks()?;
        let managers = self.flink.get("/taskmanagers")?;
        let count = managers["taskmanagers"].as_array().map_or(0, Vec::len);
        ensure!(count == 2, "{count} TaskManagers");
        Ok(true)
    }

    fn completed(&self) -> Result<u64> {
        let all = self.flink.get(&format!("/jobs/{}/checkpoints", self.job))?;
        all["latest"]["completed"]["id"]
            .as_u64()
            .context("no checkpoint is complete")
    }

    fn settle(&self) -> Result<()> {
        wait::until_true("a calm Flink", RECOVERY, || self.calm())?;
        let before = self.completed().unwrap_or(0);
        wait::until_true("a checkpoint", RECOVERY, || Ok(self.completed()? > before + 1))?;
        sleep(SETTLED);
        wait::until_true("a calm Flink", RECOVERY, || self.calm())
    }

    /// The TaskManager that emitted last.
    fn busy(&self) -> Result<&'static str> {
        let length = |name| std::fs::metadata(self.flink.log(name)).map_or(0, |m| m.len());
        let before = [length("tm1"), length("tm2")];
        sleep(Duration::from_millis(500));
        let grown = |at: usize, name| length(name).saturating_sub(before[at]);
        match (grown(0, "tm1"), grown(1, "tm2")) {
            (0, 0) => bail!("no TaskManager emits"),
            (one, two) if one >= two => Ok("tm1"),
            _ => Ok("tm2"),
        }
    }

    fn fail(&self, case: &str, run: usize, entry: &mut Entry) -> Result<()> {
        self.settle()?;
        let victim = match case {
            "leader" => self.flink.leader()?.to_owned(),
            "blip" => self.flink.leading_zookeeper()?,
            _ => self.busy()?.to_owned(),
        };
        let before = self.tasks()?;
        let now = self.since.now();
        self.watch
            .with(|seen| seen.emissions.forget_before(now - 5_000_000));
        sleep(Duration::from_millis((run as u64 * 137) % 1000));
        let signal = if case == "worker-silent" {
            Signal::SIGSTOP
        } else {
            Signal::SIGKILL
        };
        let at = self.since.now();
        self.flink.signal(&victim, signal)?;
        match case {
            "leader" | "worker" => {
                // As `holdfast up` does it: a dead process is started again at once.
                sleep(Duration::from_millis(100));
                self.flink.helper(&["revive", &victim])?;
            }
            "blip" => {
                sleep(BLIP);
                self.flink.helper(&["revive", &victim])?;
                // An effect would begin within this time.
                sleep(Duration::from_secs(5));
            }
            _ => {}
        }
        // The fault must have bitten, where one is certain, before its end can be seen.
        let healed = wait::until_true(
            "an output that has caught up and a leader that answers",
            RECOVERY,
            || {
                let caught_up = self.watch.with(|seen| rows::caught_up(seen.emissions.rows(), at));
                let bitten = case == "blip" || case == "leader" || caught_up.is_some();
                Ok(bitten && caught_up.is_some() && self.control.served_since(at + 100_000))
            },
        );
        if case == "worker-silent" {
            self.flink.signal(&victim, Signal::SIGCONT).ok();
        }
        healed?;
        wait::until_true("a calm Flink", RECOVERY, || self.calm())?;
        let after = self.tasks()?;
        sleep(Duration::from_secs(1));
        self.record(at, (&before, &after), entry);
        Ok(())
    }

    fn record(&self, at: i64, (before, after): (&[Task], &[Task]), entry: &mut Entry) {
        let end = self.since.now();
        let emitted = self.watch.with(|seen| seen.emissions.rows().to_vec());
        let silent = rows::silence(&emitted, PARALLELISM, at, end);
        let control = self.control.gap_ms(at, end);
        entry.write_gap_ms.push(control);
        entry.output_gap_ms.push((silent.1 - silent.0) as f64 / 1e3);
        if let Some(caught_up) = rows::caught_up(&emitted, at) {
            entry.caught_up_ms.push((caught_up - at) as f64 / 1e3);
        }
        let restarted = after.iter().filter(|task| !before.contains(task)).count() as u64;
        *entry.tasks_restarted.get_or_insert(0) += restarted;
        *entry.records_replayed.get_or_insert(0) += rows::replayed(&emitted, at, end);
        entry.runs += 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_script_ends_its_sequence() {
        let sql = script(1000, 5000, Path::new("/out"));
        assert!(sql.contains("'fields.n.end' = '4999'") && sql.contains("'rows-per-second' = '1000'"));
    }
}
