//! Holdfast's side of the comparison: the coordinators' client service, with a session per client, so that every write
//! is applied once however often it is retried (etcd has no such thing; the comparison is not made easier by it).

use crate::load::Writer;
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use holdfast_proto::client::client_client::ClientClient;
use holdfast_proto::client::{
    ExecuteRequest, KvPut, OpenSessionRequest, execute_request, execute_response, open_session_response,
};
use std::time::Duration;
use tests::cluster::Cluster;
use tonic::transport::{Channel, Endpoint};

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

/// A client with its session.
pub struct Session {
    client: ClientClient<Channel>,
    session: u64,
    seq: u64,
}

impl Session {
    /// Opens a session at the leader.
    ///
    /// # Errors
    /// If it does not lead.
    pub async fn open(channel: Channel) -> Result<Self> {
        let mut client = ClientClient::new(channel);
        let request = OpenSessionRequest {
            client: "raft-vs-etcd".into(),
        };
        let answer = client.open_session(request).await?.into_inner();
        match answer.result {
            Some(open_session_response::Result::Session(session)) => Ok(Self {
                client,
                session,
                seq: 0,
            }),
            other => bail!("no session: {other:?}"),
        }
    }
}

impl Writer for Session {
    async fn put(&mut self, key: String, value: Bytes) -> Result<()> {
        self.seq += 1;
        let put = KvPut {
            key,
            value,
            if_revision: None,
        };
        let request = ExecuteRequest {
            session: self.session,
            seq: self.seq,
            acked_up_to: self.seq - 1,
            command: Some(execute_request::Command::KvPut(put)),
        };
        match self.client.execute(request).await?.into_inner().result {
            Some(execute_response::Result::Applied(_)) => Ok(()),
            other => Err(anyhow!("not applied: {other:?}")),
        }
    }
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
