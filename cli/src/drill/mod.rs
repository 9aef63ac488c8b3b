//! `drill`: makes a cluster fail again and again and measures what its clients and its output notice of it.
//!
//! Faults and measurements come from outside, by signals, sockets, files and REST; the moments in between (suspicion,
//! election) are those that the processes stamp into their logs. What is decided from them stands in pure files:
//! [`stats`], [`rows`], [`events`], [`cases`], [`result`], [`text`], [`page`].

mod cases;
mod cluster;
mod events;
mod fault;
mod job;
mod page;
mod probe;
mod relay;
mod result;
mod rows;
mod run;
mod stats;
mod svg;
mod text;
mod time;
mod watch;

use crate::args::{DrillArgs, DrillCase as Case, Output};
use crate::commands::print;
use crate::exit::{Exit, Failure};
use crate::output::colours;
use crate::process::{init_log, stop_signal};
use cases::Timing;
use cluster::Cluster;
use holdfast_common::config::{Configuration, options};
use result::CaseResult;
use run::Lab;
use time::Timebase;
use tokio::sync::watch as flag;

/// `drill`.
///
/// # Errors
/// If a cluster does not come up, or is not well again after a failure. What was measured until then is still told.
pub fn drill(args: &DrillArgs) -> Result<Exit, Failure> {
    let mut quiet = Configuration::new();
    quiet
        .set(options::LOG_LEVEL.info.key, "error")
        .map_err(|e| Failure::error(e.to_string()))?;
    init_log(&quiet)?;
    // Several threads: probes must not wait for the reading of logs.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::error(format!("cannot start the runtime: {e}")))?;
    runtime.block_on(run_all(args))
}

/// What there is to do on one cluster.
struct Round {
    cases: Vec<Case>,
    relays: bool,
}

fn rounds(args: &DrillArgs) -> Vec<Round> {
    let wanted: Vec<Case> = match args.case {
        Case::All => cases::ALL
            .into_iter()
            .filter(|case| args.against.is_none() || cases::runs_against_others(*case))
            .collect(),
        one => vec![one],
    };
    let (cut, plain): (Vec<Case>, Vec<Case>) = wanted.into_iter().partition(|c| cases::needs_relays(*c));
    [(plain, false), (cut, true)]
        .into_iter()
        .filter(|(cases, _)| !cases.is_empty())
        .map(|(cases, relays)| Round { cases, relays })
        .collect()
}

async fn run_all(args: &DrillArgs) -> Result<Exit, Failure> {
    let stop = stop_signal().map_err(|e| Failure::error(format!("cannot listen for signals: {e}")))?;
    let (stopped, stopping) = flag::channel(false);
    tokio::spawn(async move {
        stop.await;
        let _ = stopped.send(true);
    });
    let mut done: Vec<CaseResult> = Vec::new();
    let mut timing = None;
    let mut outcome = Ok(Exit::Ok);
    if args.case == Case::All && args.against.is_some() {
        eprintln!(
            "left out, since they need a cluster of the drill's own: storage-outage, partition-leader, blip"
        );
    }
    for round in rounds(args) {
        outcome = one_cluster(args, &round, &mut done, &mut timing, stopping.clone()).await;
        if !matches!(outcome, Ok(Exit::Ok)) {
            break;
        }
    }
    let timing = match timing {
        Some(timing) => timing,
        None => Timing::of(&Configuration::new()).map_err(|e| Failure::usage(e.to_string()))?,
    };
    done.retain(|case| !case.failures.is_empty());
    tell(args, &done, timing)?;
    match outcome {
        Ok(Exit::Ok) if !done.iter().all(CaseResult::exact) => {
            Err(Failure::error("rows were lost or doubled: see above"))
        }
        outcome => outcome,
    }
}

async fn one_cluster(
    args: &DrillArgs,
    round: &Round,
    done: &mut Vec<CaseResult>,
    timing: &mut Option<Timing>,
    stopping: flag::Receiver<bool>,
) -> Result<Exit, Failure> {
    let cluster = match &args.against {
        Some(dir) => Cluster::of_directory(dir)?,
        None => {
            eprintln!("starting a cluster: 3 coordinators, 3 workers with 2 slots each");
            Cluster::own(args, round.relays).await?
        }
    };
    let bounds = Timing::of(&cluster.settings).map_err(|e| Failure::usage(e.to_string()))?;
    *timing = Some(bounds);
    let lab = match Lab::open(cluster, args.load, bounds, Timebase::new()).await {
        Ok(lab) => lab,
        Err((cluster, failure)) => {
            cluster.stop(true).await;
            return Err(failure);
        }
    };
    let outcome = measure(args, &lab, round, done, stopping).await;
    let suspicious = outcome.is_err() || !done.iter().all(CaseResult::exact);
    lab.close(suspicious).await;
    outcome
}

async fn measure(
    args: &DrillArgs,
    lab: &Lab,
    round: &Round,
    done: &mut Vec<CaseResult>,
    mut stopping: flag::Receiver<bool>,
) -> Result<Exit, Failure> {
    let settings = &lab.cluster().settings;
    let profile = settings
        .get(&options::RAFT_PROFILE)
        .map_err(|e| Failure::usage(e.to_string()))?;
    for case in &round.cases {
        fault::possible(*case, lab.cluster(), args.against.is_none()).map_err(Failure::usage)?;
        done.push(CaseResult {
            case: cases::name(*case).to_owned(),
            about: cases::about(*case).to_owned(),
            load: args.load,
            profile: profile.clone(),
            failures: Vec::new(),
        });
        for number in 1..=args.runs {
            let failure = tokio::select! {
                failure = lab.fail(*case, number) => failure?,
                _ = stopping.wait_for(|stop| *stop) => return Ok(Exit::Interrupted),
            };
            progress(cases::name(*case), args.runs, &failure);
            if let Some(result) = done.last_mut() {
                result.failures.push(failure);
            }
        }
    }
    Ok(Exit::Ok)
}

fn progress(case: &str, runs: u32, failure: &result::Failure) {
    eprintln!(
        "{case} {}/{runs}: {}: writes {} ms, reads {} ms, output {} ms (from {} ms on), \
         restarted {}, replayed {}, lost {}, doubled {}",
        failure.number,
        failure.victim,
        text::ms(Some(failure.write_gap_ms)),
        text::ms(Some(failure.read_gap_ms)),
        text::ms(Some(failure.output_gap_ms)),
        text::ms(Some(failure.output_gap_from_ms)),
        failure.tasks_restarted,
        failure.records_replayed,
        failure.rows_lost,
        failure.rows_doubled
    );
}

fn tell(args: &DrillArgs, done: &[CaseResult], timing: Timing) -> Result<(), Failure> {
    let floors = |case: &CaseResult| {
        let known = cases::ALL.into_iter().find(|c| cases::name(*c) == case.case);
        known
            .map(|c| cases::floors(c, timing, case.usual_write_ms()))
            .unwrap_or_default()
    };
    let write = |path: &std::path::Path, content: String| {
        std::fs::write(path, content)
            .map_err(|e| Failure::error(format!("cannot write {}: {e}", path.display())))
    };
    let pretty = |value: &serde_json::Value| {
        let text = serde_json::to_string_pretty(value);
        text.map(|t| t + "\n").map_err(|e| Failure::error(e.to_string()))
    };
    if let Some(path) = &args.details {
        let all = serde_json::json!({ "cases": done });
        write(path, pretty(&all)?)?;
    }
    if let Some(path) = &args.report {
        write(
            path,
            page::page(&done.iter().map(|c| (c, floors(c))).collect::<Vec<_>>()),
        )?;
    }
    if done.is_empty() {
        return Ok(());
    }
    match args.output {
        Output::Json => print(&pretty(&result::json_of(done))?),
        Output::Table => {
            for case in done {
                print(&text::case(case, &floors(case), colours()));
            }
        }
    }
    Ok(())
}
