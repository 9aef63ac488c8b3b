//! `jobs`, `job`, `cancel`, `checkpoints`, `exceptions`.

use super::{print, show};
use crate::args::{JobArgs, Output, Target};
use crate::client::{Call, Client, Safety, target};
use crate::exit::{Exit, Failure};
use crate::output::{
    Table, bytes, colours, count, moment, moment_or_dash, or_dash, painted, shortened, span, watermark,
};
use holdfast_coordinator::api::view::checkpoints::{CheckpointInfo, Checkpoints};
use holdfast_coordinator::api::view::jobs::{Exceptions, JobDetails, JobIds, JobsOverview};
use hyper::Method;
use std::fmt::Write;

/// `jobs`.
pub async fn jobs(args: &Target) -> Result<Exit, Failure> {
    let client = target::connect(args)?;
    show(&client, args, "/v1/jobs/overview", |answer: &JobsOverview| {
        if answer.jobs.is_empty() {
            return "no jobs\n".to_owned();
        }
        let mut table = Table::new(&["JOB", "NAME", "STATE", "STARTED", "DURATION", "TASKS", "RESTARTS"]);
        let mut jobs: Vec<_> = answer.jobs.iter().collect();
        jobs.sort_by_key(|j| std::cmp::Reverse(j.start_time));
        for job in jobs {
            table.row([
                job.jid.clone(),
                shortened(&job.name, 32),
                job.state.clone(),
                moment_or_dash(job.start_time),
                span(u64::try_from(job.duration).unwrap_or(0)),
                job.tasks.get("total").copied().unwrap_or(0).to_string(),
                job.restarts.to_string(),
            ]);
        }
        table.render(colours())
    })
    .await
}

/// The whole id of the one job whose id starts so.
async fn resolve(client: &Client, text: &str) -> Result<String, Failure> {
    let text = text.to_lowercase();
    if text.len() == 32 {
        return Ok(text);
    }
    let answer: JobIds = client.read(&Call::get("/v1/jobs")).await?;
    choose(&text, answer.jobs.iter().map(|j| j.id.as_str())).map_err(Failure::usage)
}

fn choose<'a>(beginning: &str, ids: impl Iterator<Item = &'a str>) -> Result<String, String> {
    let found: Vec<&str> = ids.filter(|id| id.starts_with(beginning)).collect();
    match found.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => Err(format!(
            "no job's id starts with '{beginning}'; `holdfast jobs` lists them"
        )),
        many => Err(format!(
            "{} jobs' ids start with '{beginning}': {}",
            many.len(),
            many.join(", ")
        )),
    }
}

/// `job`.
pub async fn job(args: &JobArgs) -> Result<Exit, Failure> {
    let client = target::connect(&args.target)?;
    let id = resolve(&client, &args.id).await?;
    show(&client, &args.target, &format!("/v1/jobs/{id}"), details).await
}

fn details(job: &JobDetails) -> String {
    let state = if colours() {
        painted(&job.state)
    } else {
        job.state.clone()
    };
    let mut text = format!("{}  {}  {state}\n", job.jid, job.name);
    let _ = writeln!(
        text,
        "started {}, running for {}, attempt {}, {} restart{}{}",
        moment_or_dash(job.start_time),
        span(u64::try_from(job.duration).unwrap_or(0)),
        job.attempt,
        job.restarts,
        if job.restarts == 1 { "" } else { "s" },
        job.restored_checkpoint
            .map(|c| format!(", restored from checkpoint {c}"))
            .unwrap_or_default(),
    );
    let _ = writeln!(
        text,
        "{} rows in, {} rows out, watermark {}, {} late and {} bad rows left out\n",
        count(job.records_in),
        count(job.records_out),
        watermark(job.current_watermark),
        count(job.late_records_dropped),
        count(job.bad_records_skipped),
    );
    let mut table = Table::new(&[
        "VERTEX",
        "SUBTASK",
        "STATE",
        "WORKER",
        "UP",
        "ROWS IN",
        "ROWS OUT",
        "WATERMARK",
    ]);
    for vertex in &job.vertices {
        for subtask in &vertex.subtasks {
            table.row([
                shortened(&vertex.name, 48),
                format!("{}/{}", subtask.subtask + 1, vertex.parallelism),
                subtask.status.clone(),
                subtask.taskmanager_id.clone(),
                u64::try_from(subtask.duration).map_or_else(|_| "-".to_owned(), span),
                count(subtask.read_records),
                count(subtask.write_records),
                watermark(subtask.current_watermark),
            ]);
        }
    }
    text.push_str(&table.render(colours()));
    text
}

/// `cancel`.
pub async fn cancel(args: &JobArgs) -> Result<Exit, Failure> {
    let client = target::connect(&args.target)?;
    let id = resolve(&client, &args.id).await?;
    // Cancelling twice cancels once.
    let call = Call::new(
        Method::PATCH,
        format!("/v1/jobs/{id}?mode=cancel"),
        Safety::Repeatable,
    );
    client.call(&call).await?;
    match args.target.output {
        Output::Json => print(&format!("{{\"jobid\": \"{id}\"}}\n")),
        Output::Table => print(&format!("cancelling job {id}\n")),
    }
    Ok(Exit::Ok)
}

/// `checkpoints`.
pub async fn checkpoints(args: &JobArgs) -> Result<Exit, Failure> {
    let client = target::connect(&args.target)?;
    let id = resolve(&client, &args.id).await?;
    show(
        &client,
        &args.target,
        &format!("/v1/jobs/{id}/checkpoints"),
        checkpoint_table,
    )
    .await
}

fn checkpoint_table(answer: &Checkpoints) -> String {
    let counts = answer.counts;
    let mut text = format!(
        "{} completed, {} failed, {} in progress, {} restored{}\n",
        count(counts.completed),
        count(counts.failed),
        counts.in_progress,
        counts.restored,
        answer
            .latest
            .restored
            .as_ref()
            .map(|r| format!(" (the last from checkpoint {})", r.id))
            .unwrap_or_default(),
    );
    let mut table = Table::new(&["ID", "STATE", "TRIGGERED", "DURATION", "SIZE", "RETAINED", "NOTE"]);
    for checkpoint in &answer.history {
        table.row([
            checkpoint.id.to_string(),
            checkpoint.status.clone(),
            moment(i64::try_from(checkpoint.trigger_timestamp).unwrap_or(0)),
            span(checkpoint.end_to_end_duration),
            bytes(checkpoint.state_size),
            if checkpoint.status == "COMPLETED" && !checkpoint.discarded {
                "yes"
            } else {
                "no"
            }
            .to_owned(),
            note(checkpoint),
        ]);
    }
    if !answer.history.is_empty() {
        text.push('\n');
        text.push_str(&table.render(colours()));
    }
    text
}

fn note(checkpoint: &CheckpointInfo) -> String {
    if let Some(failure) = &checkpoint.failure_message {
        return shortened(failure, 80);
    }
    if checkpoint.damaged {
        return "damaged".to_owned();
    }
    if checkpoint.is_final {
        return "the job's last".to_owned();
    }
    if checkpoint.status == "IN_PROGRESS" {
        return format!(
            "{}, {} of {} subtasks",
            or_dash(checkpoint.phase.as_deref()),
            checkpoint.num_acknowledged_subtasks,
            checkpoint.num_subtasks
        );
    }
    if checkpoint.committed == Some(false) {
        return "sinks are committing".to_owned();
    }
    String::new()
}

/// `exceptions`.
pub async fn exceptions(args: &JobArgs) -> Result<Exit, Failure> {
    let client = target::connect(&args.target)?;
    let id = resolve(&client, &args.id).await?;
    show(
        &client,
        &args.target,
        &format!("/v1/jobs/{id}/exceptions"),
        exception_text,
    )
    .await
}

fn exception_text(answer: &Exceptions) -> String {
    if answer.exception_history.entries.is_empty() {
        return "nothing has gone wrong\n".to_owned();
    }
    let mut text = String::new();
    for entry in &answer.exception_history.entries {
        let _ = writeln!(
            text,
            "{}  attempt {}{}{}",
            moment(i64::try_from(entry.timestamp).unwrap_or(0)),
            entry.attempt,
            entry
                .task_name
                .as_ref()
                .map(|t| format!("  {t}"))
                .unwrap_or_default(),
            entry
                .endpoint
                .as_ref()
                .map(|w| format!("  on {w}"))
                .unwrap_or_default(),
        );
        for line in entry.stacktrace.lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    if answer.truncated {
        text.push_str("(older ones are no longer known)\n");
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_id_is_completed_only_if_it_is_clear() {
        let ids = ["aa1", "aa2", "b"];
        assert_eq!(choose("b", ids.into_iter()).unwrap(), "b");
        assert!(choose("aa", ids.into_iter()).unwrap_err().contains("2 jobs"));
        assert!(
            choose("x", ids.into_iter())
                .unwrap_err()
                .contains("holdfast jobs")
        );
    }
}
