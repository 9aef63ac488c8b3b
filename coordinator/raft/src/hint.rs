//! Noticing a dead leader early: a follower holds one plain TCP connection to the leader's port. When it breaks and
//! the port refuses a new one, the leader's process is gone, and there is no need to sit out the randomised part of
//! the election timeout.
//!
//! The leader's lease is still waited for, so that nothing about safety changes: the hint only saves the random wait
//! that keeps candidates apart, and replaces it by the candidates' rank.

use crate::core::Core;
use crate::types::Raft;
use std::io::ErrorKind;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

/// Between two candidates: longer than a round of votes, or they would disturb each other.
const RANK_STEP: Duration = Duration::from_millis(10);
/// Between two tries of one candidate: a second call would spoil an election that is under way.
const RETRY: Duration = Duration::from_millis(40);
/// Tries before the ordinary timeout is left to do it.
const TRIES: u32 = 5;
const DIAL_DEADLINE: Duration = Duration::from_millis(200);
/// Connections in a row before starting over. A healthy leader ends one every few seconds, since it is idle.
const CONNECTIONS: u32 = 16;
/// A connection that lived for less was made to a process that is going, or one that takes none.
const SHORT_LIFE: Duration = Duration::from_millis(2);
/// Before a new connection after one that ended for another reason.
const REDIAL_PAUSE: Duration = Duration::from_millis(100);

/// Watches whoever leads, for as long as this coordinator follows.
pub(crate) async fn run(core: Weak<Core>) {
    let mut leadership = {
        let Some(core) = core.upgrade() else { return };
        core.leadership.subscribe()
    };
    loop {
        let target = {
            let Some(core) = core.upgrade() else { return };
            let leader = leadership
                .borrow_and_update()
                .leader
                .map(|l| l.0)
                .filter(|l| *l != core.id());
            leader.and_then(|leader| Some((leader, core.addr_of(leader)?.rpc)))
        };
        let Some((leader, addr)) = target else {
            if leadership.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { return },
            gone = wait_until_gone(&addr) => {
                let Some(core) = core.upgrade() else { return };
                if gone {
                    let term = core.raft_metrics().current_term;
                    tracing::info!(leader, term, "the leader's process is gone");
                    *core.gone.lock() = Some((leader, term, Instant::now()));
                    campaign(&core, leader).await;
                }
                drop(core);
                tokio::time::sleep(REDIAL_PAUSE).await;
            }
        }
    }
}

/// Holds a connection until it ends, and the one after it. True once the port refuses: nobody listens there any more.
///
/// A dying process's connections may end a moment before its port closes, and a connection made in between is reset at
/// once. So one more connection that succeeds proves nothing; it is held like the first.
async fn wait_until_gone(addr: &str) -> bool {
    let mut connected = false;
    for _ in 0..CONNECTIONS {
        match dial(addr).await {
            Ok(mut connection) => {
                connected = true;
                let since = Instant::now();
                // What the other side sends (the greeting of its protocol) does not matter; that it ends does.
                let mut bytes = [0; 64];
                while matches!(connection.read(&mut bytes).await, Ok(n) if n > 0) {}
                if since.elapsed() < SHORT_LIFE {
                    tokio::time::sleep(SHORT_LIFE).await;
                }
            }
            // Never connected: that is no evidence of a death.
            Err(kind) => return connected && kind == ErrorKind::ConnectionRefused,
        }
    }
    false
}

async fn dial(addr: &str) -> Result<holdfast_runtime::Stream, ErrorKind> {
    match tokio::time::timeout(DIAL_DEADLINE, holdfast_runtime::connect(addr)).await {
        Ok(connected) => connected.map_err(|error| error.kind()),
        Err(_) => Err(ErrorKind::TimedOut),
    }
}

async fn campaign(core: &Arc<Core>, dead: u64) {
    let metrics = core.raft_metrics();
    let voters: Vec<u64> = metrics
        .membership_config
        .voter_ids()
        .filter(|id| *id != dead)
        .collect();
    let Some(rank) = voters.iter().position(|id| *id == core.id()) else {
        return;
    };
    let rank = u32::try_from(rank).unwrap_or(u32::MAX);
    let mut term = metrics.current_term;
    for _ in 0..TRIES {
        let lease = core.config.profile.election_max();
        let contact = (*core.leader_contact.lock()).unwrap_or_else(Instant::now);
        // A touch more than the lease, since it is counted from when the message was handled.
        let start = contact + lease + Duration::from_millis(2) + RANK_STEP.saturating_mul(rank);
        tokio::time::sleep_until(start.max(Instant::now())).await;
        let now = core.raft_metrics();
        let heard = (*core.leader_contact.lock()).is_some_and(|at| at.elapsed() < lease);
        if now.current_leader != Some(dead) && now.current_leader.is_some() || heard {
            return;
        }
        if now.current_term != term {
            // Somebody is a candidate already: give them a vote's time.
            term = now.current_term;
            tokio::time::sleep(RETRY).await;
            continue;
        }
        let elect = async |raft: &Raft| raft.trigger().elect(true).await;
        if core.raft.ask(elect).await.is_err() {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}
