//! Breaking what readers see, and what runs.

use super::clusters::later_of;
use super::{Draw, pick, places, set};
use crate::check::faults::healed_at;
use crate::check::ops::ops;
use crate::history::{Event, Kind, Nanos};
use serde_json::{Value, json};

/// Visible files of a workload.
pub(super) fn files(history: &[Event], workload: &str) -> Vec<usize> {
    places(history, |e| e.workload == workload && e.f == "visible")
}

pub(super) fn rename(event: &mut Event, part: usize, value: u64) -> bool {
    let Some(file) = event.text("file").map(str::to_owned) else {
        return false;
    };
    let Some((stem, extension)) = file.rsplit_once('.') else {
        return false;
    };
    let mut parts: Vec<String> = stem.split('-').map(str::to_owned).collect();
    let Some(slot) = parts.get_mut(part) else {
        return false;
    };
    *slot = value.to_string();
    event
        .value
        .insert("file".into(), format!("{}.{extension}", parts.join("-")).into());
    true
}

pub(super) fn two_writers(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let Some(at) = pick(&files(history, "eos"), draw) else {
        return false;
    };
    let mut copy = history[at].clone();
    copy.value.remove("runs");
    let done = rename(&mut copy, 4, 99_999);
    history.push(copy);
    done
}

pub(super) fn early_commit(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let polls: Vec<(String, Nanos)> = ops(history, "catalogue")
        .iter()
        .filter(|o| o.f == "checkpoints" && o.is_ok())
        .filter_map(|o| Some((o.text("job")?.to_owned(), o.start)))
        .collect();
    let asked = |e: &Event| {
        polls
            .iter()
            .any(|(job, start)| Some(job.as_str()) == e.text("job") && *start > e.t)
    };
    let places = places(history, |e| e.f == "visible" && asked(e));
    let Some(at) = pick(&places, draw) else {
        return false;
    };
    rename(&mut history[at], 3, 88_888)
}

pub(super) fn lose_file(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let Some(at) = pick(&files(history, "eos"), draw) else {
        return false;
    };
    history.remove(at);
    true
}

pub(super) fn lose_row(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let places = places(history, |e| {
        e.workload == "eos" && e.f == "visible" && e.value.contains_key("runs")
    });
    let Some(at) = pick(&places, draw) else {
        return false;
    };
    let runs = history[at].value.get_mut("runs").and_then(Value::as_array_mut);
    let Some(run) = runs.and_then(|r| r.first_mut()) else {
        return false;
    };
    let (first, step, count) = (
        run[0].as_u64().unwrap_or(0),
        run[1].as_u64().unwrap_or(1),
        run[2].as_u64().unwrap_or(1),
    );
    *run = json!([first + step, step, count.saturating_sub(1).max(1)]);
    true
}

pub(super) fn duplicate_commit(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let Some(at) = pick(&files(history, "eos"), draw) else {
        return false;
    };
    let mut copy = history[at].clone();
    let done = rename(&mut copy, 6, 55);
    history.insert(at + 1, copy);
    done
}

pub(super) fn vanish(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let Some(at) = pick(&files(history, "eos"), draw) else {
        return false;
    };
    let mut gone = history[at].clone();
    gone.f = "gone".into();
    history.insert(at + 1, gone);
    true
}

pub(super) fn foreign_row(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let Some(at) = pick(&files(history, "eos"), draw) else {
        return false;
    };
    let event = &mut history[at];
    if let Some(runs) = event.value.get_mut("runs").and_then(Value::as_array_mut) {
        runs.push(json!([u64::MAX, 16, 1]));
        return true;
    }
    let lines = event.value.get_mut("lines").and_then(Value::as_array_mut);
    lines.map(|lines| lines.push("0,0,1,1".into())).is_some()
}

pub(super) fn torn(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let Some(at) = pick(&files(history, "eos"), draw) else {
        return false;
    };
    let mut event = history[at].clone();
    event.f = "torn".into();
    history.insert(at + 1, event);
    true
}

pub(super) fn make_money(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let Some(at) = pick(&files(history, "bank"), draw) else {
        return false;
    };
    let lines = history[at].value.get_mut("lines").and_then(Value::as_array_mut);
    let Some(line) = lines.and_then(|l| l.first_mut()) else {
        return false;
    };
    let Some((head, sum)) = line.as_str().and_then(|l| l.rsplit_once(',')) else {
        return false;
    };
    let more = sum.parse::<i64>().unwrap_or(0) + 1;
    *line = format!("{head},{more}").into();
    true
}

pub(super) fn end_process(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let starts = places(history, |e| e.workload == "cluster" && e.f == "start");
    let Some(at) = pick(&starts, draw) else {
        return false;
    };
    let mut exit = history[at].clone();
    exit.f = "exit".into();
    exit.value.insert("expected".into(), false.into());
    history.push(exit);
    true
}

/// Every success after healing becomes a failure.
pub(super) fn serve_nobody(history: &mut Vec<Event>, _draw: Draw<'_>) -> bool {
    let Some(healed) = healed_at(history) else {
        return false;
    };
    let late = |e: &&mut Event| e.workload == "register" && e.kind == Kind::Ok && e.t >= healed;
    let mut any = false;
    for event in history.iter_mut().filter(late) {
        event.kind = Kind::Fail;
        any = true;
    }
    any
}

pub(super) fn restart_job(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let later = later_of(history, "job", "attempt_id");
    let Some(op) = pick(&later, draw) else {
        return false;
    };
    set(history, op, &[("attempt_id", 5_000_000.into())])
}
