//! Connections to the other coordinators: three per peer, so that neither a snapshot nor a full log stream ever stands
//! before a heartbeat. Connections are opened lazily, resolve names when they dial, and are thrown away when a
//! deadline passes on them.

use super::confirm::Confirmations;
use crate::api::MemberAddr;
use holdfast_common::NodeId;
use holdfast_common::limits::{CONNECT_DEADLINE, RPC_MESSAGE_BYTES_MAX};
use holdfast_proto::raft::raft_client::RaftClient;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// A silent peer is noticed after this much: a ping unanswered. Long streams have no other deadline.
const KEEPALIVE: Duration = Duration::from_millis(1000);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Votes, log streams, and everything rare.
    Append,
    /// Heartbeats alone.
    Heartbeat,
    /// Snapshots alone.
    Snapshot,
}

/// All connections of this coordinator.
#[derive(Debug)]
pub(crate) struct Peers {
    configured: BTreeMap<NodeId, MemberAddr>,
    channels: Mutex<HashMap<(String, Lane), Channel>>,
    /// No heartbeat goes out.
    quiet: AtomicBool,
    /// Who has answered heartbeats.
    pub(crate) confirmations: Confirmations,
    /// Those who get nothing from this one.
    #[cfg(test)]
    pub(crate) cut: Mutex<std::collections::BTreeSet<u64>>,
    /// Those whose answers on log streams are on their way for as long as they are in here.
    #[cfg(test)]
    pub(crate) late: tokio::sync::watch::Sender<std::collections::BTreeSet<u64>>,
}

impl Peers {
    pub(crate) fn new(configured: BTreeMap<NodeId, MemberAddr>) -> Self {
        Self {
            configured,
            channels: Mutex::default(),
            quiet: AtomicBool::new(false),
            confirmations: Confirmations::default(),
            #[cfg(test)]
            cut: Mutex::default(),
            #[cfg(test)]
            late: tokio::sync::watch::Sender::default(),
        }
    }

    /// The configured address of a peer, or what the membership says of one that is not configured.
    pub(crate) fn addr(&self, id: u64, in_membership: &str) -> String {
        self.configured
            .get(&NodeId(id))
            .map_or_else(|| in_membership.to_owned(), |addr| addr.rpc.clone())
    }

    /// A client on the lane's connection; nothing is dialled here.
    pub(crate) fn client(&self, addr: &str, lane: Lane) -> Result<RaftClient<Channel>, String> {
        let mut channels = self.channels.lock();
        let key = (addr.to_owned(), lane);
        let channel = match channels.get(&key) {
            Some(channel) => channel.clone(),
            None => {
                let channel = connect_lazy(addr)?;
                channels.insert(key, channel.clone());
                channel
            }
        };
        Ok(RaftClient::new(channel)
            .max_decoding_message_size(RPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(RPC_MESSAGE_BYTES_MAX))
    }

    /// Holds heartbeats back, or no longer: see [`crate::leadership`].
    pub(crate) fn be_quiet(&self, quiet: bool) {
        match (self.quiet.swap(quiet, Ordering::Relaxed), quiet) {
            (false, true) => {
                tracing::warn!(
                    "no quorum has answered this leader for long: it sends no heartbeats for a while"
                );
            }
            (true, false) => tracing::info!("heartbeats go out again"),
            _ => {}
        }
    }

    /// Whether messages of this lane are held back.
    pub(crate) fn is_held_back(&self, lane: Lane) -> bool {
        lane == Lane::Heartbeat && self.quiet.load(Ordering::Relaxed)
    }

    /// Forgets a connection: a deadline has passed on it, and whatever hangs there would hang again.
    pub(crate) fn discard(&self, addr: &str, lane: Lane) {
        self.channels.lock().remove(&(addr.to_owned(), lane));
    }
}

fn connect_lazy(addr: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))
        .map_err(|error| format!("'{addr}' is no address: {error}"))?
        .connect_timeout(CONNECT_DEADLINE)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true);
    Ok(holdfast_runtime::channel(&endpoint))
}
