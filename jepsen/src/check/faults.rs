//! The faults of a run as bands in time, from the events of the workload `nemesis`.

use crate::history::{Event, Nanos};
use serde_json::Value;
use std::collections::BTreeMap;

/// A fault while it lasted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Band {
    /// Its name: `kill-leader`, `partition-halves`, ...
    pub name: String,
    /// The plan's step, if it has one.
    pub step: Option<u64>,
    /// When it was installed.
    pub start: Nanos,
    /// When it was healed; the end of the history if it was not.
    pub end: Nanos,
    /// `installed`, `skipped` or `indeterminate`.
    pub outcome: String,
    /// Nodes that it met.
    pub targets: Vec<String>,
    /// Whether it had an effect, as far as the nemesis could see.
    pub effect: Option<bool>,
}

impl Band {
    /// Whether it was really there.
    #[must_use]
    pub fn installed(&self) -> bool {
        self.outcome == "installed"
    }
}

fn targets(event: &Event) -> Vec<String> {
    match event.value.get("targets") {
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect(),
        Some(Value::String(one)) => one
            .split([',', ' '])
            .filter(|t| !t.is_empty())
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    }
}

/// Whether an event ends a fault.
fn heals(event: &Event) -> bool {
    event.text("phase") == Some("heal")
}

/// All faults in the order in which they began.
#[must_use]
pub fn bands(history: &[Event]) -> Vec<Band> {
    let last = history.iter().map(|e| e.t).max().unwrap_or(0);
    let mut bands: Vec<Band> = Vec::new();
    let mut open: BTreeMap<(String, Option<u64>), usize> = BTreeMap::new();
    for event in history
        .iter()
        .filter(|e| e.workload == "nemesis" && e.text("outcome").is_some())
    {
        let key = (event.f.clone(), event.number("step"));
        if heals(event) {
            if let Some(band) = open.remove(&key).and_then(|at| bands.get_mut(at)) {
                band.end = event.t;
                band.effect = event.value.get("effect").and_then(Value::as_bool);
            }
            continue;
        }
        let outcome = event.text("outcome").unwrap_or_default().to_owned();
        // What was skipped does not last.
        let end = if outcome == "skipped" { event.t } else { last };
        if outcome != "skipped" {
            open.insert(key, bands.len());
        }
        bands.push(Band {
            name: event.f.clone(),
            step: event.number("step"),
            start: event.t,
            end,
            outcome,
            targets: targets(event),
            effect: None,
        });
    }
    bands
}

/// When everything had been healed: the note `healed` of the nemesis, else the end of the last fault; `None` without faults.
#[must_use]
pub fn healed_at(history: &[Event]) -> Option<Nanos> {
    let told = history
        .iter()
        .rev()
        .find(|e| e.workload == "nemesis" && e.f == "healed");
    told.map(|e| e.t)
        .or_else(|| bands(history).iter().map(|b| b.end).max())
}

#[cfg(test)]
mod tests {
    use super::super::words::note;
    use super::*;

    #[test]
    fn a_fault_lasts_until_it_is_healed() {
        let fault = |t: Nanos, f: &str| note(t, "nemesis", "nemesis", f);
        let history = [
            fault(5, "kill-leader")
                .with("outcome", "installed")
                .with("step", 1)
                .with("targets", vec!["c1"]),
            fault(6, "clock-jump").with("outcome", "skipped").with("step", 2),
            fault(9, "kill-leader")
                .with("outcome", "installed")
                .with("step", 1)
                .with("phase", "heal"),
            fault(20, "healed"),
        ];
        let bands = bands(&history);
        assert_eq!(bands.len(), 2);
        assert_eq!((bands[0].start, bands[0].end, bands[0].installed()), (5, 9, true));
        assert_eq!(bands[0].targets, ["c1"]);
        assert_eq!((bands[1].end, bands[1].installed()), (6, false));
        assert_eq!(healed_at(&history), Some(20));
        assert_eq!(healed_at(&[]), None);
    }
}
