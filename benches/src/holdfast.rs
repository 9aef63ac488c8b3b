//! Holdfast's side of the comparison: the coordinators' client service, with a session per client, so that every write
//! is applied once however often it is retried (etcd has no such thing; the comparison is not made easier by it).

use crate::load::{RETRY, Writer};
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use holdfast_proto::client::client_client::ClientClient;
use holdfast_proto::client::{
    ExecuteRequest, KvPut, NotLeader, OpenSessionRequest, execute_request, execute_response,
    open_session_response,
};
use std::sync::Arc;
use std::time::Duration;
use tests::cluster::Cluster;
use tokio::sync::Mutex;
use tonic::transport::{Channel, Endpoint};

/// Coordinators asked for a session, one after the other, until one leads.
const OPEN_TRIES: usize = 200;

/// Opens the one channel that all clients share.
///
/// # Errors
/// If nobody listens.
pub async fn connect(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(10));
    endpoint
        .connect()
        .await
        .with_context(|| format!("cannot connect to {address}"))
}

/// Where writes go, for all clients together.
pub struct Leader {
    addresses: Vec<String>,
    current: Mutex<(String, Channel)>,
}

impl Leader {
    /// Begins with the leader at `address`; `addresses` are all coordinators'.
    ///
    /// # Errors
    /// If nobody listens there.
    pub async fn connect(address: &str, addresses: Vec<String>) -> Result<Arc<Self>> {
        let channel = connect(address).await?;
        Ok(Arc::new(Self {
            addresses,
            current: Mutex::new((address.to_owned(), channel)),
        }))
    }

    /// Another coordinator than the one at `refused`: the one that it named, or the next one; unless another client
    /// has found one meanwhile.
    async fn after(&self, refused: &str, named: &str) -> (String, Channel) {
        let mut current = self.current.lock().await;
        if current.0 == refused {
            let at = self.addresses.iter().position(|a| a == refused);
            let next = at.map_or(0, |at| at + 1) % self.addresses.len().max(1);
            let target = match named {
                "" => self.addresses.get(next).map_or(refused, String::as_str),
                named => named,
            };
            if let Ok(channel) = connect(target).await {
                *current = (target.to_owned(), channel);
            }
        }
        current.clone()
    }
}

/// A client with its session.
pub struct Session {
    leader: Arc<Leader>,
    address: String,
    client: ClientClient<Channel>,
    session: u64,
    /// The last request that was answered.
    seq: u64,
    /// Whom the last refusal named.
    named: String,
}

impl Session {
    /// Opens a session at the leader.
    ///
    /// # Errors
    /// If none is found.
    pub async fn open(leader: &Arc<Leader>) -> Result<Self> {
        let (address, channel) = leader.current.lock().await.clone();
        let mut new = Self {
            leader: Arc::clone(leader),
            address,
            client: ClientClient::new(channel),
            session: 0,
            seq: 0,
            named: String::new(),
        };
        let mut last = anyhow!("nobody was asked");
        for _ in 0..OPEN_TRIES {
            match new.try_open().await {
                Ok(session) => {
                    new.session = session;
                    return Ok(new);
                }
                Err(error) => last = error,
            }
            new.recover().await;
        }
        Err(last)
    }

    async fn try_open(&mut self) -> Result<u64> {
        let request = OpenSessionRequest {
            client: "raft-vs-etcd".into(),
        };
        match self.client.open_session(request).await?.into_inner().result {
            Some(open_session_response::Result::Session(session)) => Ok(session),
            Some(open_session_response::Result::NotLeader(not)) => Err(self.refused(not)),
            None => bail!("an empty answer"),
        }
    }

    fn refused(&mut self, not: NotLeader) -> anyhow::Error {
        self.named = not.leader_rpc;
        anyhow!("not the leader: {}", not.reason)
    }
}

impl Writer for Session {
    /// The request keeps its number until it is answered, so that a repeated one is applied once.
    async fn put(&mut self, key: String, value: Bytes) -> Result<()> {
        let put = KvPut {
            key,
            value,
            if_revision: None,
        };
        let request = ExecuteRequest {
            session: self.session,
            seq: self.seq + 1,
            acked_up_to: self.seq,
            command: Some(execute_request::Command::KvPut(put)),
        };
        match self.client.execute(request).await?.into_inner().result {
            Some(execute_response::Result::Applied(_)) => {
                self.seq += 1;
                Ok(())
            }
            Some(execute_response::Result::NotLeader(not)) => Err(self.refused(not)),
            other => Err(anyhow!("not applied: {other:?}")),
        }
    }

    async fn recover(&mut self) {
        tokio::time::sleep(RETRY).await;
        let named = std::mem::take(&mut self.named);
        let (address, channel) = self.leader.after(&self.address, &named).await;
        if address != self.address {
            self.address = address;
            self.client = ClientClient::new(channel);
        }
    }
}

/// The cluster's term: it grows by one or more with every change of the leader.
///
/// # Errors
/// If nobody answers.
pub fn term(cluster: &Cluster) -> Result<u64> {
    cluster.view()?["term"].as_u64().context("no term")
}

/// RPC address of the leading coordinator.
///
/// # Errors
/// If there is none.
pub fn leader_rpc(cluster: &Cluster) -> Result<String> {
    let leader = cluster.leader()?;
    leader
        .rpc
        .clone()
        .ok_or_else(|| anyhow!("{} has no rpc address in cluster.json", leader.name()))
}
