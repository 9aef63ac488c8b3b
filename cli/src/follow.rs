//! Following jobs until they end: live lines on a terminal, plain log lines elsewhere.

use crate::client::{Call, Client, ClientError};
use crate::commands::print;
use crate::exit::{Exit, Failure};
use crate::news::{self, News};
use crate::output::{bytes, colours, count, painted, several, span, watermark};
use holdfast_coordinator::api::view::checkpoints::Checkpoints;
use holdfast_coordinator::api::view::cluster::ClusterInfo;
use holdfast_coordinator::api::view::jobs::{Exceptions, JobDetails};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(400);
/// Between two plain lines of one job without anything new.
const PLAIN_LINE: Duration = Duration::from_secs(5);
/// Silence of the whole cluster after which following is given up.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// Characters of a live line: narrower than any terminal, since a wrapped line could not be redrawn.
const LINE_CHARS: usize = 78;

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// FINISHED, CANCELED or FAILED.
    pub state: String,
    /// Rows in.
    pub records_in: u64,
    /// Rows out.
    pub records_out: u64,
    /// Milliseconds.
    pub duration: u64,
    /// Attempts after the first.
    pub restarts: u32,
}

impl End {
    /// One object for programs, with the field names of `/v1/jobs/:id`.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "jid": self.id,
            "name": self.name,
            "state": self.state,
            "records-in": self.records_in,
            "records-out": self.records_out,
            "duration": self.duration,
            "restarts": self.restarts,
        })
    }
}

/// A job at one look.
#[derive(Debug, Clone, Default, PartialEq)]
struct Progress {
    name: String,
    state: String,
    attempt: u32,
    restarts: u32,
    records_in: u64,
    records_out: u64,
    /// Rows in per second since the last look; `None` at the first, and after a restart.
    rate: Option<u64>,
    watermark: Option<i64>,
    checkpoint: Option<LastCheckpoint>,
    checkpoints_failed: u64,
    leader: Option<u64>,
    duration: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct LastCheckpoint {
    id: u64,
    age_ms: u64,
    size: u64,
}

/// The previous look at a job, for its rate and for what is new.
#[derive(Debug, Clone)]
struct Before {
    at: Instant,
    attempt: u32,
    records_in: u64,
    rate: Option<u64>,
    printed: Option<Instant>,
    printed_as: (String, u32, Option<u64>),
}

/// Rows per second, smoothed: half of it is the last look's.
fn rate(before: Option<&Before>, attempt: u32, records_in: u64, now: Instant) -> Option<u64> {
    let before = before.filter(|b| b.attempt == attempt)?;
    let millis = u64::try_from(now.duration_since(before.at).as_millis())
        .unwrap_or(u64::MAX)
        .max(1);
    let fresh = records_in.saturating_sub(before.records_in).saturating_mul(1000) / millis;
    Some(before.rate.map_or(fresh, |old| (old + fresh) / 2))
}

fn progress(
    job: &JobDetails,
    checkpoints: Option<&Checkpoints>,
    leader: Option<u64>,
    rate: Option<u64>,
) -> Progress {
    let completed = checkpoints.and_then(|c| c.latest.completed.as_ref());
    Progress {
        name: job.name.clone(),
        state: job.state.clone(),
        attempt: job.attempt,
        restarts: job.restarts,
        records_in: job.records_in,
        records_out: job.records_out,
        rate,
        watermark: job.current_watermark,
        checkpoint: completed.map(|c| LastCheckpoint {
            id: c.id,
            age_ms: u64::try_from(job.now.saturating_sub(c.latest_ack_timestamp)).unwrap_or(0),
            size: c.state_size,
        }),
        checkpoints_failed: checkpoints.map_or(0, |c| c.counts.failed),
        leader,
        duration: u64::try_from(job.duration).unwrap_or(0),
    }
}

fn facts(p: &Progress) -> String {
    let mut text = format!("in {} out {}", count(p.records_in), count(p.records_out));
    if let Some(rate) = p.rate {
        let _ = write!(text, ", {} rows/s", count(rate));
    }
    if p.watermark.is_some() {
        let _ = write!(text, ", watermark {}", watermark(p.watermark));
    }
    text
}

fn safety(p: &Progress) -> String {
    let mut text = match &p.checkpoint {
        Some(c) => format!("checkpoint {} ({} ago, {})", c.id, span(c.age_ms), bytes(c.size)),
        None => "no checkpoint yet".to_owned(),
    };
    if p.checkpoints_failed > 0 {
        let _ = write!(text, ", {} failed", p.checkpoints_failed);
    }
    let leader = p.leader.map_or_else(|| "none".to_owned(), |l| l.to_string());
    let _ = write!(
        text,
        ", leader {leader}, {}",
        several(p.restarts as usize, "restart")
    );
    text
}

/// One plain line.
fn plain(p: &Progress) -> String {
    format!(
        "{} {} after {}: {}, {}\n",
        p.name,
        p.state,
        span(p.duration),
        facts(p),
        safety(p)
    )
}

/// The lines that are redrawn.
fn live(p: &Progress, colours: bool) -> Vec<String> {
    let cut = |text: String| text.chars().take(LINE_CHARS).collect::<String>();
    let state = if colours {
        painted(&p.state)
    } else {
        p.state.clone()
    };
    vec![
        format!(
            "{} {state} {}",
            cut(p.name.clone()).chars().take(40).collect::<String>(),
            span(p.duration)
        ),
        cut(format!("  {}", facts(p))),
        cut(format!("  {}", safety(p))),
    ]
}

/// Where progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// On standard output, for people.
    Here,
    /// On standard error, line by line: standard output is for a program.
    Aside,
}

/// Follows jobs until all have ended. Lines of `news` stand between those of progress, on standard error.
///
/// # Errors
/// If a job is not known (any more), or the whole cluster is silent for two minutes.
pub async fn follow(
    client: &Client,
    jobs: &[String],
    show: Show,
    mut news: Option<News>,
) -> Result<Vec<End>, Failure> {
    let terminal = show == Show::Here && std::io::stdout().is_terminal();
    let mut before: BTreeMap<String, Before> = BTreeMap::new();
    let mut ends: BTreeMap<String, End> = BTreeMap::new();
    let mut drawn = 0;
    let mut heard = Instant::now();
    while ends.len() < jobs.len() {
        let looked = look(client, jobs, &ends, &mut before).await?;
        if looked.is_empty() {
            if heard.elapsed() > SILENCE_MAX {
                return Err(Failure::error(format!(
                    "no coordinator has answered for {} s; the jobs are not lost: start the cluster again",
                    SILENCE_MAX.as_secs()
                )));
            }
        } else {
            heard = Instant::now();
        }
        for text in news::waiting(&mut news) {
            // What was drawn stays above it.
            drawn = 0;
            eprintln!("{text}");
        }
        if terminal {
            redraw(&looked, &mut drawn);
        } else {
            print_news(&looked, &mut before, show);
        }
        for (id, progress) in looked {
            if matches!(progress.state.as_str(), "FINISHED" | "CANCELED" | "FAILED") {
                if terminal {
                    // The final lines stay where they are.
                    drawn = 0;
                }
                ends.insert(id.clone(), end(id, progress));
            }
        }
        if ends.len() < jobs.len() {
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(jobs.iter().filter_map(|id| ends.remove(id)).collect())
}

fn end(id: String, progress: Progress) -> End {
    End {
        id,
        name: progress.name,
        state: progress.state,
        records_in: progress.records_in,
        records_out: progress.records_out,
        duration: progress.duration,
        restarts: progress.restarts,
    }
}

/// Looks at every job that has not ended. Empty if the cluster gives no answer now.
async fn look(
    client: &Client,
    jobs: &[String],
    ends: &BTreeMap<String, End>,
    before: &mut BTreeMap<String, Before>,
) -> Result<Vec<(String, Progress)>, Failure> {
    let quick = Duration::from_secs(3);
    let leader = client
        .read::<ClusterInfo>(&Call::get("/v1/cluster").deadline(quick))
        .await
        .ok()
        .and_then(|c| c.leader);
    let mut looked = Vec::new();
    for id in jobs.iter().filter(|id| !ends.contains_key(*id)) {
        let details: JobDetails = match client
            .read(&Call::get(format!("/v1/jobs/{id}")).deadline(quick))
            .await
        {
            Ok(details) => details,
            Err(error @ (ClientError::Refused { .. } | ClientError::Strange(_))) => return Err(error.into()),
            Err(_) => continue,
        };
        let path = format!("/v1/jobs/{id}/checkpoints");
        let checkpoints = client
            .read::<Checkpoints>(&Call::get(path).deadline(quick))
            .await
            .ok();
        let now = Instant::now();
        let old = before.get(id);
        let rate = rate(old, details.attempt, details.records_in, now);
        let progress = progress(&details, checkpoints.as_ref(), leader, rate);
        let next = Before {
            at: now,
            attempt: details.attempt,
            records_in: details.records_in,
            rate,
            printed: old.and_then(|b| b.printed),
            printed_as: old.map(|b| b.printed_as.clone()).unwrap_or_default(),
        };
        before.insert(id.clone(), next);
        looked.push((id.clone(), progress));
    }
    Ok(looked)
}

fn redraw(looked: &[(String, Progress)], drawn: &mut usize) {
    if looked.is_empty() {
        return;
    }
    let mut text = String::new();
    if *drawn > 0 {
        // Up to the first line, then clear to the end of the screen.
        let _ = write!(text, "\x1b[{drawn}A\x1b[J");
    }
    *drawn = 0;
    for (_, progress) in looked {
        for line in live(progress, colours()) {
            text.push_str(&line);
            text.push('\n');
            *drawn += 1;
        }
    }
    print(&text);
}

/// A line for a job when its state, attempt or leader is new, or when the last one is old.
fn print_news(looked: &[(String, Progress)], before: &mut BTreeMap<String, Before>, show: Show) {
    for (id, progress) in looked {
        let Some(memory) = before.get_mut(id) else {
            continue;
        };
        let shown_as = (progress.state.clone(), progress.attempt, progress.leader);
        let due = memory.printed.is_none_or(|at| at.elapsed() >= PLAIN_LINE);
        if due || memory.printed_as != shown_as {
            memory.printed = Some(Instant::now());
            memory.printed_as = shown_as;
            match show {
                Show::Here => print(&plain(progress)),
                Show::Aside => eprint!("{}", plain(progress)),
            }
        }
    }
}

/// Prints how every job ended, and why if it failed.
pub async fn report(client: &Client, ends: &[End]) {
    for end in ends {
        print(&format!(
            "{} {}: {} rows in, {} rows out, {}, {} (job {})\n",
            end.name,
            end.state,
            count(end.records_in),
            count(end.records_out),
            span(end.duration),
            several(end.restarts as usize, "restart"),
            end.id
        ));
        tell_why(client, end).await;
    }
}

/// As [`report`] for programs: one object a line; why a job failed goes to standard error.
pub async fn report_json(client: &Client, ends: &[End]) {
    for end in ends {
        print(&format!("{}\n", end.json()));
        tell_why(client, end).await;
    }
}

async fn tell_why(client: &Client, end: &End) {
    if end.state != "FAILED" {
        return;
    }
    let call = Call::get(format!("/v1/jobs/{}/exceptions", end.id));
    match client.read::<Exceptions>(&call).await {
        Ok(answer) => {
            let reason = answer
                .root_exception
                .unwrap_or_else(|| "no reason is recorded".to_owned());
            eprintln!("job {} failed: {reason}", end.id);
        }
        Err(error) => eprintln!("job {} failed; its reason cannot be read now: {error}", end.id),
    }
}

/// The exit code for jobs that have ended: the worst of them.
#[must_use]
pub fn exit_of(ends: &[End]) -> Exit {
    let any = |state: &str| ends.iter().any(|e| e.state == state);
    if any("FAILED") {
        Exit::Error
    } else if any("CANCELED") {
        Exit::Canceled
    } else {
        Exit::Ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Progress {
        Progress {
            name: "flights".into(),
            state: "RUNNING".into(),
            attempt: 1,
            restarts: 0,
            records_in: 1_234_567,
            records_out: 42,
            rate: Some(250_000),
            watermark: Some(0),
            checkpoint: Some(LastCheckpoint {
                id: 7,
                age_ms: 400,
                size: 2048,
            }),
            checkpoints_failed: 0,
            leader: Some(1),
            duration: 5_000,
        }
    }

    #[test]
    fn a_plain_line_says_it_all() {
        assert_eq!(
            plain(&some()),
            "flights RUNNING after 5.0 s: in 1,234,567 out 42, 250,000 rows/s, watermark 1970-01-01 00:00:00, checkpoint 7 \
             (400 ms ago, 2.0 KiB), leader 1, 0 restarts\n"
        );
        let start = Progress {
            name: "x".into(),
            state: "CREATED".into(),
            ..Progress::default()
        };
        assert_eq!(
            plain(&start),
            "x CREATED after 0 ms: in 0 out 0, no checkpoint yet, leader none, 0 restarts\n"
        );
    }

    #[test]
    fn live_lines_never_wrap() {
        let mut progress = some();
        progress.name = "n".repeat(300);
        progress.records_in = u64::MAX;
        for line in live(&progress, false) {
            assert!(line.chars().count() < 80, "{line}");
        }
    }

    #[test]
    fn the_rate_starts_anew_with_every_attempt() {
        let at = Instant::now();
        let before = Before {
            at,
            attempt: 1,
            records_in: 1_000,
            rate: None,
            printed: None,
            printed_as: Default::default(),
        };
        let later = at + Duration::from_millis(500);
        assert_eq!(rate(None, 1, 5, later), None);
        assert_eq!(rate(Some(&before), 1, 2_000, later), Some(2_000));
        assert_eq!(rate(Some(&before), 2, 2_000, later), None);
        let smoothed = Before {
            rate: Some(1_000),
            ..before
        };
        assert_eq!(rate(Some(&smoothed), 1, 2_000, later), Some(1_500));
    }

    #[test]
    fn the_worst_end_gives_the_exit_code() {
        let end = |state: &str| End {
            id: String::new(),
            name: String::new(),
            state: state.into(),
            records_in: 0,
            records_out: 0,
            duration: 0,
            restarts: 0,
        };
        assert_eq!(exit_of(&[end("FINISHED")]), Exit::Ok);
        assert_eq!(exit_of(&[end("FINISHED"), end("CANCELED")]), Exit::Canceled);
        assert_eq!(exit_of(&[end("CANCELED"), end("FAILED")]), Exit::Error);
    }
}
