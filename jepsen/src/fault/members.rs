//! Changes of membership under fire: a coordinator removed and brought back, a spare one added, leadership handed over.

use super::process::installed;
use super::{Outcome, Tools, skipped};
use crate::cluster::Start;
use crate::env::Role;
use crate::plan::Target;
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

/// Longest that one request may take.
const REQUEST: Duration = Duration::from_secs(5);
/// Longest that the members of the beginning are tried to be restored.
const RESTORE: Duration = Duration::from_secs(40);

/// Asks any coordinator, once each.
fn ask(tools: &Tools, method: &str, path: &str) -> Result<String> {
    let mut said = Vec::new();
    for name in tools.cluster.coordinators() {
        match tools.cluster.rest(&name, method, path, REQUEST) {
            Ok((200..300, body)) => return Ok(body),
            Ok((status, body)) => said.push(format!("{name}: {status} {body}")),
            Err(error) => said.push(format!("{name}: {error:#}")),
        }
    }
    bail!("{method} {path}: {}", said.join("; "))
}

/// Until it is so. The cluster may be without a leader when a fault is healed.
fn insist(tools: &Tools, method: &str, path: &str, done: impl Fn(&Tools) -> bool) -> Result<()> {
    let end = Instant::now() + RESTORE;
    loop {
        let answer = ask(tools, method, path);
        if done(tools) {
            return Ok(());
        }
        if Instant::now() > end {
            let said = answer.unwrap_or_else(|error| format!("{error:#}"));
            bail!("{method} {path}: not done within {RESTORE:?}: {said}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Whether a coordinator is among the members, by the word of the one that leads: any other may lag behind.
fn is_member(tools: &Tools, number: u32) -> Option<bool> {
    let leader = tools.cluster.leader()?;
    let (status, body) = tools.cluster.rest(&leader, "GET", "/v1/cluster", REQUEST).ok()?;
    let view: serde_json::Value = serde_json::from_str(&body).ok().filter(|_| status == 200)?;
    // It does not know yet, or any more, that it leads.
    view["leader"].as_u64()?;
    let members = view["coordinators"].as_array()?;
    let own = members
        .iter()
        .find(|member| member["id"].as_u64() == Some(number.into()));
    Some(own.is_some_and(|member| member["role"] != "learner"))
}

fn add_path(tools: &Tools, name: &str) -> Result<(u32, String)> {
    let place = tools.cluster.env().place(name)?;
    let id = tools.cluster.member_id(name)?;
    let path = format!("/v1/members/{id}?rpc={}&rest={}", place.main, place.rest);
    Ok((id, path))
}

/// A member that was removed ends; it comes back with an empty disk under an id that nobody has had, as an operator is
/// told to do it.
fn bring_back(tools: &Tools, name: &str) -> Result<()> {
    // What it was told may still be on its way; it is killed if it has not ended by then.
    let _ = tools.cluster.wait_exit(name, REQUEST);
    tools.cluster.kill(name)?;
    tools.cluster.renew(name)?;
    tools.cluster.start_node(name, Start::default())?;
    let (id, path) = add_path(tools, name)?;
    insist(tools, "POST", &path, |tools| is_member(tools, id) == Some(true))
}

pub(super) fn remove(tools: &Tools, target: &Target) -> Result<Outcome> {
    let targets = tools.resolve(target);
    let Some(lease) = tools.lease(&targets).filter(|_| targets.len() == 1) else {
        return skipped("no such node is free");
    };
    let name = targets[0].clone();
    let id = tools.cluster.member_id(&name)?;
    // Told that it was removed, it ends.
    tools.cluster.expect_exit(&name, true)?;
    let removed = ask(tools, "DELETE", &format!("/v1/members/{id}"));
    let refused = removed.is_err();
    let detail = removed.unwrap_or_else(|error| format!("{error:#}"));
    let own = tools.clone();
    let heal = move || {
        // A removal without an answer may still come true.
        let gone = settled(&own, id, refused)?;
        if gone {
            bring_back(&own, &name)?;
        } else {
            own.cluster.expect_exit(&name, false)?;
            if !own.cluster.runs(&name) {
                own.cluster.kill(&name)?;
                own.cluster.start_node(&name, Start::default())?;
            }
        }
        Ok(Some(gone))
    };
    Ok(installed(targets, detail, heal, Some(lease)))
}

/// Whether a member is gone, once the cluster can tell. One whose removal was refused is looked at for longer.
fn settled(tools: &Tools, id: u32, refused: bool) -> Result<bool> {
    let end = Instant::now() + RESTORE;
    let patience = Instant::now() + if refused { REQUEST } else { Duration::ZERO };
    loop {
        match is_member(tools, id) {
            Some(false) => return Ok(true),
            Some(true) if Instant::now() >= patience => return Ok(false),
            None if Instant::now() > end => bail!("nobody tells within {RESTORE:?} whether {id} is a member"),
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

pub(super) fn add(tools: &Tools) -> Result<Outcome> {
    let spare = tools
        .places(Role::Coordinator)
        .into_iter()
        .find(|place| place.number >= tools.spare_from && !tools.cluster.runs(&place.name));
    let Some(spare) = spare else {
        return skipped("there is no spare coordinator");
    };
    let targets = vec![spare.name.clone()];
    let Some(lease) = tools.lease(&targets) else {
        return skipped("the spare coordinator is not free");
    };
    // A number that has been a member is not used again.
    tools.cluster.kill(&spare.name)?;
    tools.cluster.renew(&spare.name)?;
    tools.cluster.start_node(&spare.name, Start::default())?;
    let (id, path) = add_path(tools, &spare.name)?;
    let detail = ask(tools, "POST", &path).unwrap_or_else(|error| format!("{error:#}"));
    let own = tools.clone();
    let heal = move || {
        let there = is_member(&own, id) == Some(true);
        own.cluster.expect_exit(&spare.name, true)?;
        let path = format!("/v1/members/{id}");
        insist(&own, "DELETE", &path, |tools| is_member(tools, id) == Some(false))?;
        own.cluster.kill(&spare.name)?;
        Ok(Some(there))
    };
    Ok(installed(targets, detail, heal, Some(lease)))
}

pub(super) fn transfer(tools: &Tools) -> Result<Outcome> {
    let before = tools.cluster.leader().context("nobody leads");
    let Ok(before) = before else {
        return skipped("nobody leads");
    };
    let detail = ask(tools, "POST", "/v1/leader/transfer").unwrap_or_else(|error| format!("{error:#}"));
    let (own, old) = (tools.clone(), before.clone());
    let heal = move || Ok(Some(own.cluster.leader().is_some_and(|now| now != old)));
    Ok(installed(vec![before], detail, heal, None))
}
