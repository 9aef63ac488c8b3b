//! How a cluster comes to be, and how a coordinator finds out what it is: one of the first, one of a cluster that is
//! there, one that waits to be added, or one that lost its disk.
//!
//! Only the initial peer with the lowest number forms a cluster, only if every other one answers that it has never
//! been part of any and was configured with the same peers. The membership it writes holds every peer's directory
//! identity, so that exactly the directories which answered can take part.

use crate::codec::dir_from;
use crate::core::{Core, is_formed, node_info};
use crate::identity::peers_hash;
use crate::net::Lane;
use crate::types::{DirId, NodeInfo};
use holdfast_common::NodeId;
use holdfast_common::inject::{self, points};
use holdfast_proto::raft as pb;
use openraft::errors::{InitializeError, RaftError};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tonic::Code;

/// One question to one peer.
const PROBE_DEADLINE: Duration = Duration::from_millis(500);
/// Between two rounds while a cluster is being formed.
const ROUND: Duration = Duration::from_millis(50);
/// Between two rounds while waiting to be added, or for the operator.
const SLOW_ROUND: Duration = Duration::from_secs(1);

/// What one peer says, reduced to what matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// It did not answer.
    Silent,
    /// It refuses us, and says why.
    Refused(String),
    /// It has never been part of a cluster.
    Pristine { dir: DirId, peers_hash: u64 },
    /// It has promised something but knows no membership yet.
    Between,
    /// It belongs to a cluster, whose membership has this directory under our number.
    Formed { our_dir: Option<DirId> },
    /// Another coordinator answers at its address.
    Mistaken(u64),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Form the cluster with these.
    Form(BTreeMap<u64, DirId>),
    /// Ask again.
    Wait(String),
    /// The cluster is there and knows us: its leader will call.
    Member,
    /// The cluster is there and does not know us: an operator adds us.
    WaitToBeAdded,
    /// Never go on.
    Refuse(String),
}

/// Decides from what all initial peers but us said. Pure.
pub(crate) fn decide(me: u64, my_dir: DirId, my_peers_hash: u64, replies: &BTreeMap<u64, Reply>) -> Decision {
    for (id, reply) in replies {
        match reply {
            Reply::Refused(why) => return Decision::Refuse(format!("coordinator {id} says: {why}")),
            Reply::Mistaken(other) => {
                return Decision::Refuse(format!(
                    "at the configured address of coordinator {id} answers coordinator {other}: correct the list of \
                     coordinators"
                ));
            }
            Reply::Formed { our_dir: Some(dir) } if *dir != my_dir => {
                return Decision::Refuse(format!(
                    "the cluster knows coordinator {me} with another data directory than this one: the disk was \
                     wiped, or the id is used twice. A coordinator that lost its data must not come back under its \
                     old id: remove it (holdfast members remove {me}) and add it under a new one"
                ));
            }
            _ => {}
        }
    }
    if replies
        .values()
        .any(|r| matches!(r, Reply::Formed { our_dir: Some(_) }))
    {
        return Decision::Member;
    }
    if replies
        .values()
        .any(|r| matches!(r, Reply::Formed { our_dir: None }))
    {
        return Decision::WaitToBeAdded;
    }
    let unsettled = replies
        .iter()
        .find(|(_, r)| matches!(r, Reply::Silent | Reply::Between));
    if let Some((id, _)) = unsettled {
        return Decision::Wait(format!("coordinator {id} does not answer yet"));
    }
    let mut dirs = BTreeMap::from([(me, my_dir)]);
    for (id, reply) in replies {
        let Reply::Pristine { dir, peers_hash } = reply else {
            continue;
        };
        if *peers_hash != my_peers_hash {
            return Decision::Wait(format!(
                "coordinator {id} is configured with other coordinators than this one: make the lists equal"
            ));
        }
        dirs.insert(*id, *dir);
    }
    match dirs.keys().next() {
        Some(lowest) if *lowest == me => Decision::Form(dirs),
        Some(lowest) => Decision::Wait(format!("coordinator {lowest} forms the cluster")),
        None => Decision::Wait("no coordinators".to_owned()),
    }
}

/// Asks one coordinator who it is.
pub(crate) async fn probe(core: &Core, id: Option<u64>, addr: &str) -> Reply {
    let Ok(mut client) = core.peers.client(addr, Lane::Append) else {
        return Reply::Refused(format!("'{addr}' is no address"));
    };
    let request = pb::ProbeRequest {
        cluster_name: core.config.cluster_name.clone(),
        from: core.id(),
    };
    let answer = match tokio::time::timeout(PROBE_DEADLINE, client.probe(request)).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) if status.code() == Code::FailedPrecondition => {
            return Reply::Refused(status.message().to_owned());
        }
        Ok(Err(_)) => return Reply::Silent,
        Err(_) => {
            core.peers.discard(addr, Lane::Append);
            return Reply::Silent;
        }
    };
    if id.is_some_and(|id| id != answer.node_id) {
        return Reply::Mistaken(answer.node_id);
    }
    let (Ok(dir), Ok(prober_dir)) = (dir_from(&answer.dir), dir_from(&answer.prober_dir)) else {
        return Reply::Refused("its answer is damaged".to_owned());
    };
    if answer.initialized {
        Reply::Formed {
            our_dir: answer.knows_prober.then_some(prober_dir),
        }
    } else if answer.pristine {
        Reply::Pristine {
            dir,
            peers_hash: answer.peers_hash,
        }
    } else {
        Reply::Between
    }
}

/// One round of questions to all configured peers, and what follows from it.
pub(crate) async fn round(core: &Arc<Core>) -> Decision {
    let others = core.config.peers.iter().filter(|(id, _)| **id != core.config.id);
    let probes =
        others.map(|(NodeId(id), addr)| async move { (*id, probe(core, Some(*id), &addr.rpc).await) });
    let replies: BTreeMap<u64, Reply> = futures::future::join_all(probes).await.into_iter().collect();
    decide(
        core.id(),
        core.identity.dir(),
        peers_hash(&core.config.peers),
        &replies,
    )
}

/// Goes on until this coordinator is part of a cluster. A refusal stops the coordinator.
pub(crate) async fn run(core: Weak<Core>) {
    let mut said = String::new();
    loop {
        let Some(core) = core.upgrade() else { return };
        if core.fatal().is_some() || is_member_of_one(&core).await {
            return;
        }
        let pause = match round(&core).await {
            Decision::Form(dirs) => {
                if let Err(reason) = form(&core, &dirs).await {
                    core.fail(reason);
                    return;
                }
                ROUND
            }
            Decision::Wait(reason) => {
                say_once(&mut said, &reason);
                ROUND
            }
            Decision::Member => SLOW_ROUND,
            Decision::WaitToBeAdded => {
                let id = core.id();
                say_once(
                    &mut said,
                    &format!("waiting to be added to the cluster (holdfast members add {id})"),
                );
                SLOW_ROUND
            }
            Decision::Refuse(reason) => {
                core.fail(reason);
                return;
            }
        };
        drop(core);
        tokio::time::sleep(pause).await;
    }
}

/// Whether consensus here knows a membership. It is asked itself: its metrics are empty until it has read its log, and
/// a coordinator that was started again would for that moment judge its cluster by the first list of peers.
async fn is_member_of_one(core: &Core) -> bool {
    let known = core
        .raft
        .ask(|raft| raft.with_raft_state(|state| is_formed(state.membership_state.effective().membership())));
    // Consensus that does not answer has failed, and says so elsewhere.
    known.await.unwrap_or(true)
}

fn say_once(said: &mut String, text: &str) {
    if said != text {
        tracing::info!(reason = text, "not part of a cluster yet");
        text.clone_into(said);
    }
}

async fn form(core: &Arc<Core>, dirs: &BTreeMap<u64, DirId>) -> Result<(), String> {
    let mut members: BTreeMap<u64, NodeInfo> = BTreeMap::new();
    for (id, dir) in dirs {
        let addr = core
            .config
            .peers
            .get(&NodeId(*id))
            .ok_or("a peer without an address")?;
        members.insert(*id, node_info(addr, *dir));
    }
    tracing::info!(members = ?dirs.keys().collect::<Vec<_>>(), "forming the cluster");
    inject::point(points::RAFT_BOOTSTRAP).map_err(|error| error.to_string())?;
    match core.raft.ask(|raft| raft.initialize(members)).await {
        // Somebody else's vote or entry came first: then the cluster is there.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
        Err(error) => return Err(format!("cannot form the cluster: {error}")),
    }
    core.identity
        .set_joined()
        .map_err(|error| format!("cannot write the identity file: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pristine(dir: u128) -> Reply {
        Reply::Pristine {
            dir: DirId(dir),
            peers_hash: 9,
        }
    }

    fn at(me: u64, replies: &[(u64, Reply)]) -> Decision {
        decide(me, DirId(u128::from(me)), 9, &replies.iter().cloned().collect())
    }

    #[test]
    fn only_the_lowest_of_all_pristine_peers_forms_a_cluster() {
        let dirs = BTreeMap::from([(1, DirId(1)), (2, DirId(2)), (3, DirId(3))]);
        assert_eq!(at(1, &[(2, pristine(2)), (3, pristine(3))]), Decision::Form(dirs));
        assert!(matches!(
            at(2, &[(1, pristine(1)), (3, pristine(3))]),
            Decision::Wait(_)
        ));
        assert_eq!(at(7, &[]), Decision::Form(BTreeMap::from([(7, DirId(7))])));
    }

    #[test]
    fn a_majority_is_not_enough_to_form_a_cluster() {
        assert!(matches!(
            at(1, &[(2, pristine(2)), (3, Reply::Silent)]),
            Decision::Wait(_)
        ));
        assert!(matches!(
            at(1, &[(2, pristine(2)), (3, Reply::Between)]),
            Decision::Wait(_)
        ));
    }

    #[test]
    fn other_peers_lists_wait_for_the_operator() {
        let other = Reply::Pristine {
            dir: DirId(2),
            peers_hash: 8,
        };
        assert!(matches!(at(1, &[(2, other)]), Decision::Wait(_)));
    }

    #[test]
    fn a_formed_cluster_knows_its_members_by_their_directories() {
        let ours = Reply::Formed {
            our_dir: Some(DirId(1)),
        };
        assert_eq!(at(1, &[(2, ours), (3, Reply::Silent)]), Decision::Member);
        assert_eq!(
            at(4, &[(2, Reply::Formed { our_dir: None }), (3, pristine(3))]),
            Decision::WaitToBeAdded
        );
        let wiped = Reply::Formed {
            our_dir: Some(DirId(77)),
        };
        assert!(matches!(
            at(1, &[(2, wiped), (3, pristine(3))]),
            Decision::Refuse(_)
        ));
    }

    #[test]
    fn wrong_addresses_and_foreign_clusters_are_refused() {
        assert!(matches!(at(1, &[(2, Reply::Mistaken(3))]), Decision::Refuse(_)));
        assert!(matches!(
            at(1, &[(2, Reply::Refused("no".to_owned()))]),
            Decision::Refuse(_)
        ));
    }
}
