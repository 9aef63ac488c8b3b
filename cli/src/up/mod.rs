//! `up`, `down` and what runs between them: a local cluster of processes of this binary.

mod claim;
mod health;
mod layout;
pub mod local;
mod logs;
mod policy;
mod ports;
mod supervisor;

use crate::args::{DirArgs, SuperviseArgs, UpArgs};
use crate::client::{Client, target};
use crate::commands::{planned_here, print, read_script, submit_file};
use crate::config_file::{load_file, to_yaml};
use crate::exit::{Exit, Failure};
use crate::files::{Layout, layout_path, read_json};
use crate::news::{self, News};
use crate::output::several;
use crate::process::stop_signal;
use crate::{follow, pids, results};
use anyhow::Context;
use claim::{Claim, Held};
use holdfast_common::config::{Configuration, options};
use holdfast_coordinator::api::view::cluster::ClusterInfo;
use holdfast_coordinator::api::view::plan::SinkInfo;
use nix::sys::signal::Signal;
use ports::PortLocks;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use supervisor::Running;
use tokio::sync::watch;

/// A supervisor in the background takes the directory over from the command that started it.
const HANDOVER: Duration = Duration::from_secs(5);
/// Three stages of ten seconds, and the kills.
const DOWN_PATIENCE: Duration = Duration::from_secs(60);

/// A script that is to be submitted.
struct Script {
    file: PathBuf,
    sql: String,
    sinks: Vec<SinkInfo>,
}

/// `up`.
///
/// # Errors
/// See [`crate::exit`].
pub async fn up(args: &UpArgs) -> Result<Exit, Failure> {
    // A wrong script is refused before anything is started.
    let scripts = scripts(&args.jobs)?;
    std::fs::create_dir_all(&args.dir).with_context(|| format!("cannot make {}", args.dir.display()))?;
    let dir =
        std::fs::canonicalize(&args.dir).with_context(|| format!("cannot use {}", args.dir.display()))?;
    let claim = Claim::take(&dir).map_err(|held| occupied(&dir, held))?;
    let left = claim::stop_left_running(&dir).await;
    if left > 0 {
        print(&format!(
            "stopped {left} processes that an earlier cluster in {} had left running\n",
            dir.display()
        ));
    }
    let mut locks = PortLocks::default();
    let base = base_settings(&dir, args.config.as_deref())?;
    let layout = layout::settle(&dir, args, &mut locks)?;
    print(&format!(
        "starting {} and {} with {} each in {}\n",
        several(layout.coordinators.len(), "coordinator"),
        several(layout.workers as usize, "worker"),
        several(layout.slots as usize, "slot"),
        dir.display()
    ));
    if args.detach {
        drop((claim, locks));
        return detached(&dir, args, &scripts).await;
    }
    // Before the first process exists: a signal that comes while they are being started must stop them too.
    let stop = stop_signal().map_err(|e| Failure::error(format!("cannot listen for signals: {e}")))?;
    let running = start(&dir, &layout, &base, !args.no_restart).await?;
    let outcome = tokio::select! {
        outcome = use_cluster(&dir, &running, &scripts) => outcome,
        () = stop => Ok(if scripts.is_empty() { Exit::Ok } else { Exit::Interrupted }),
    };
    print("stopping the cluster\n");
    running.stop().await;
    drop((claim, locks));
    outcome
}

fn scripts(files: &[PathBuf]) -> Result<Vec<Script>, Failure> {
    let mut scripts = Vec::new();
    for file in files {
        let sql = read_script(file)?;
        let sinks = planned_here(file, &sql)?.sinks;
        scripts.push(Script {
            file: file.clone(),
            sql,
            sinks,
        });
    }
    Ok(scripts)
}

fn occupied(dir: &Path, held: Held) -> Failure {
    match held {
        Held::By(supervisor) => Failure::error(format!(
            "a cluster runs in {} already{}: submit with `holdfast run FILE.sql --dir {}`, or stop it with `holdfast down --dir \
             {}`",
            dir.display(),
            supervisor
                .map(|s| format!(" (supervisor {})", s.pid))
                .unwrap_or_default(),
            dir.display(),
            dir.display()
        )),
        Held::Broken(failure) => failure,
    }
}

/// The user's settings for all processes: those of `--config`, or of the start before.
fn base_settings(dir: &Path, given: Option<&Path>) -> Result<Configuration, Failure> {
    let kept = dir.join("conf").join("base.yaml");
    match given {
        Some(file) => {
            let config = load_file(file)?;
            std::fs::create_dir_all(dir.join("conf"))
                .with_context(|| format!("cannot make {}", dir.join("conf").display()))?;
            std::fs::write(&kept, to_yaml(&config))
                .with_context(|| format!("cannot write {}", kept.display()))?;
            Ok(config)
        }
        None if kept.exists() => load_file(&kept),
        None => Ok(Configuration::new()),
    }
}

async fn start(
    dir: &Path,
    layout: &Layout,
    base: &Configuration,
    restarts: bool,
) -> Result<Running, Failure> {
    let specs = layout::children(dir, layout, base)?;
    layout::write(dir, &specs)?;
    let log_max = base
        .get(&options::LOG_MAX)
        .map_err(|e| Failure::usage(e.to_string()))?;
    Running::start(dir, specs, restarts, log_max.0).await
}

/// What happens between start and stop: health, jobs, results; without jobs it lasts for ever.
async fn use_cluster(dir: &Path, running: &Running, scripts: &[Script]) -> Result<Exit, Failure> {
    let mut given_up = running.given_up();
    let info = health::wait(dir, &mut given_up).await?;
    announce(dir, &info);
    if scripts.is_empty() {
        print("Ctrl-C stops it\n");
        return stay(given_up, Some(running.news())).await;
    }
    let client = Client::new(target::of_directory(dir)?);
    let jobs = submit(&client, scripts).await?;
    let ends = tokio::select! {
        ends = follow::follow(&client, &jobs, follow::Show::Here, Some(running.news())) => ends?,
        failure = broken(given_up) => return Err(failure),
    };
    follow::report(&client, &ends).await;
    for (script, end) in scripts
        .iter()
        .zip(&ends)
        .filter(|(_, end)| end.state == "FINISHED")
    {
        results::show(&script.sinks, &end.id);
    }
    Ok(follow::exit_of(&ends))
}

/// Tells of processes that are given up, and other news, for as long as the cluster stays.
async fn stay(mut given_up: watch::Receiver<Vec<String>>, mut news: Option<News>) -> Result<Exit, Failure> {
    let mut told = 0;
    loop {
        let reasons = given_up.borrow_and_update().clone();
        for reason in reasons.iter().skip(told) {
            eprintln!("{reason}");
        }
        told = reasons.len();
        tokio::select! {
            changed = given_up.changed() => if changed.is_err() {
                return Ok(Exit::Ok);
            },
            text = news::next(&mut news) => eprintln!("{text}"),
        }
    }
}

/// Completes when a process is given up while jobs are followed.
async fn broken(mut given_up: watch::Receiver<Vec<String>>) -> Failure {
    let reason = match given_up.wait_for(|reasons| !reasons.is_empty()).await {
        Ok(reasons) => reasons.first().cloned(),
        Err(_) => None,
    };
    Failure::error(reason.unwrap_or_else(|| "the supervisor has ended".to_owned()))
}

fn announce(dir: &Path, info: &ClusterInfo) {
    let slots: u32 = info.workers.iter().map(|w| w.slots).sum();
    let rest: Vec<String> = info
        .coordinators
        .iter()
        .map(|c| format!("http://{}", c.rest))
        .collect();
    print(&format!(
        "the cluster is up: leader {}, {}, {}, {}; logs in {}\nREST {}\n",
        info.leader.map_or_else(|| "none".to_owned(), |l| l.to_string()),
        several(info.coordinators.len(), "coordinator"),
        several(info.workers.len(), "worker"),
        several(slots as usize, "slot"),
        dir.join("log").display(),
        rest.join(" ")
    ));
}

async fn submit(client: &Client, scripts: &[Script]) -> Result<Vec<String>, Failure> {
    let mut jobs = Vec::new();
    for script in scripts {
        let job = submit_file(client, &script.file, &script.sql, "", None).await?;
        print(&format!(
            "submitted {} as job {}\n",
            script.file.display(),
            job.id
        ));
        jobs.push(job.id);
    }
    Ok(jobs)
}

/// Starts the supervisor in the background, waits until the cluster is healthy, submits, and leaves.
async fn detached(dir: &Path, args: &UpArgs, scripts: &[Script]) -> Result<Exit, Failure> {
    let log_dir = dir.join("log");
    std::fs::create_dir_all(&log_dir).with_context(|| format!("cannot make {}", log_dir.display()))?;
    let log_path = log_dir.join("supervisor.log");
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&log_path)
        .with_context(|| format!("cannot open {}", log_path.display()))?;
    let binary = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = tokio::process::Command::new(binary);
    command.arg("supervise").arg("--dir").arg(dir);
    if args.no_restart {
        command.arg("--no-restart");
    }
    let second = log.try_clone().context("cannot share the log file")?;
    command.stdin(Stdio::null()).stdout(log).stderr(second);
    // A signal that comes from here on stops the supervisor; it outlives this process otherwise.
    let stop = stop_signal().map_err(|e| Failure::error(format!("cannot listen for signals: {e}")))?;
    let mut child = command
        .kill_on_drop(false)
        .spawn()
        .context("cannot start the supervisor")?;
    let pid = child.id().context("the supervisor has ended before it began")?;
    let supervisor = pids::stamp(pid);
    let (ended, mut trouble) = watch::channel(Vec::new());
    let watched = log_path.clone();
    tokio::spawn(async move {
        if let Ok(status) = child.wait().await {
            let reason = format!(
                "the supervisor has ended ({}); the end of {}:\n{}",
                policy::Death::of(status),
                watched.display(),
                logs::tail(&watched, 12)
            );
            ended.send_modify(|reasons| reasons.push(reason));
        }
    });
    let outcome = tokio::select! {
        outcome = leave_running(dir, &mut trouble, scripts) => outcome,
        () = stop => Ok(Exit::Interrupted),
    };
    if !matches!(outcome, Ok(Exit::Ok)) {
        print("stopping the cluster\n");
        pids::send(supervisor, Signal::SIGTERM);
        pids::wait_gone(&[supervisor], DOWN_PATIENCE).await;
    }
    outcome
}

async fn leave_running(
    dir: &Path,
    trouble: &mut watch::Receiver<Vec<String>>,
    scripts: &[Script],
) -> Result<Exit, Failure> {
    let info = health::wait(dir, trouble).await?;
    announce(dir, &info);
    let client = Client::new(target::of_directory(dir)?);
    submit(&client, scripts).await?;
    print(&format!(
        "it stays; `holdfast down --dir {}` stops it\n",
        dir.display()
    ));
    Ok(Exit::Ok)
}

/// `supervise`: what `up --detach` leaves running.
///
/// # Errors
/// If the directory has no layout, is held by another, or its ports are taken.
pub async fn supervise(args: &SuperviseArgs) -> Result<Exit, Failure> {
    // A session of its own: closing the terminal does not reach it. It fails only if this process leads one already.
    if let Err(error) = nix::unistd::setsid() {
        tracing::debug!(%error, "no session of its own");
    }
    let stop = stop_signal().map_err(|e| Failure::error(format!("cannot listen for signals: {e}")))?;
    let dir = &args.dir;
    let claim = Claim::take_soon(dir, HANDOVER)
        .await
        .map_err(|held| occupied(dir, held))?;
    let layout: Option<Layout> = read_json(&layout_path(dir))?;
    let layout = layout.ok_or_else(|| {
        Failure::usage(format!(
            "{} holds no cluster: start one with `holdfast up --dir …`",
            dir.display()
        ))
    })?;
    let mut locks = PortLocks::default();
    layout::hold(&layout, &mut locks)?;
    let base = base_settings(dir, None)?;
    let running = start(dir, &layout, &base, !args.no_restart).await?;
    tokio::select! {
        outcome = stay(running.given_up(), None) => { outcome?; }
        () = stop => {}
    }
    running.stop().await;
    drop((claim, locks));
    Ok(Exit::Ok)
}

/// `down`.
///
/// # Errors
/// If something does not stop.
pub async fn down(args: &DirArgs) -> Result<Exit, Failure> {
    let dir = std::fs::canonicalize(&args.dir)
        .map_err(|e| Failure::usage(format!("cannot use {}: {e}", args.dir.display())))?;
    let claim = match Claim::take(&dir) {
        Ok(claim) => claim,
        Err(Held::Broken(failure)) => return Err(failure),
        Err(Held::By(Some(supervisor))) => {
            print(&format!("stopping the cluster in {}\n", dir.display()));
            pids::send(supervisor, Signal::SIGTERM);
            pids::send(supervisor, Signal::SIGCONT);
            let left = pids::wait_gone(&[supervisor], DOWN_PATIENCE).await;
            if !left.is_empty() {
                return Err(Failure::error(format!(
                    "supervisor {} has not stopped within {} s",
                    supervisor.pid,
                    DOWN_PATIENCE.as_secs()
                )));
            }
            Claim::take_soon(&dir, HANDOVER)
                .await
                .map_err(|held| occupied(&dir, held))?
        }
        Err(Held::By(None)) => {
            return Err(Failure::error(format!(
                "another process is working on {} (another `up` or `down`?); try again in a moment",
                dir.display()
            )));
        }
    };
    let left = claim::stop_left_running(&dir).await;
    if left > 0 {
        print(&format!("stopped {left} processes that had no supervisor\n"));
    }
    clear(&dir)?;
    drop(claim);
    print("the cluster is stopped\n");
    Ok(Exit::Ok)
}

/// What is stopped is not listed any more.
fn clear(dir: &Path) -> Result<(), Failure> {
    use crate::files::{ClusterFile, SupervisorFile, cluster_path, supervisor_path, write_json};
    if cluster_path(dir).exists() {
        write_json(&cluster_path(dir), &ClusterFile::default())?;
        write_json(&supervisor_path(dir), &SupervisorFile::default())?;
    }
    Ok(())
}
