//! Faults of snapshot storage: lines to the object server.

use super::process::installed;
use super::{Outcome, Tools, skipped};
use crate::env::OBJECTS;
use anyhow::Result;

pub(super) fn misbehave(tools: &Tools, mode: &str, share: u32, ms: u32) -> Result<Outcome> {
    if !tools.cluster.runs(OBJECTS) {
        return skipped("snapshots lie in a directory in this run");
    }
    let log = tools.logs.join("objects.jsonl");
    let met = move || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().filter(|line| line.contains("\"fault\":\"")).count()
    };
    let before = met();
    tools
        .cluster
        .tell_objects(&format!("fault {mode} {share} {ms}"))?;
    let (own, mode_name) = (tools.clone(), mode.to_owned());
    let heal = move || {
        own.cluster.tell_objects(&format!("heal {mode_name}"))?;
        Ok(Some(met() > before))
    };
    let detail = format!("{mode}, {share} of 1000 requests, {ms} ms");
    Ok(installed(vec![OBJECTS.to_owned()], detail, heal, None))
}
