//! The other side of the comparison: three members of Debian's etcd on loopback, spoken to by the same gRPC client.
//!
//! The messages are the few fields that a put and a status need, numbered as in etcd's rpc.proto.

use crate::load::Writer;
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use prost::Message;
use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

const MEMBERS: usize = 3;

/// `etcdserverpb.PutRequest`.
#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// `etcdserverpb.PutResponse`.
#[derive(Clone, PartialEq, Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

/// `etcdserverpb.ResponseHeader`.
#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "1")]
    cluster_id: u64,
    #[prost(uint64, tag = "2")]
    member_id: u64,
    #[prost(int64, tag = "3")]
    revision: i64,
    #[prost(uint64, tag = "4")]
    raft_term: u64,
}

/// `etcdserverpb.StatusRequest`.
#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

/// `etcdserverpb.StatusResponse`.
#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

/// Three members; killed and removed on drop.
pub struct Etcd {
    binary: String,
    arguments: Vec<Vec<String>>,
    members: Vec<Child>,
    clients: Vec<String>,
    home: TempDir,
}

impl Etcd {
    /// Starts a cluster below `dir`, on the disk that the other side uses.
    ///
    /// # Errors
    /// If there is no etcd.
    pub fn start(dir: &Path) -> Result<Self> {
        let binary = std::env::var("ETCD_BIN").unwrap_or_else(|_| "etcd".to_owned());
        let home = tempfile::Builder::new().prefix("raft-vs-etcd-").tempdir_in(dir)?;
        let ports = free_ports(2 * MEMBERS)?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let (client_ports, peer_ports) = ports.split_at(MEMBERS);
        let everyone: Vec<String> = peer_ports
            .iter()
            .enumerate()
            .map(|(i, port)| format!("m{i}={}", url(*port)))
            .collect();
        let mut etcd = Self {
            binary,
            arguments: Vec::new(),
            members: Vec::new(),
            clients: Vec::new(),
            home,
        };
        for (i, (client, peer)) in client_ports.iter().zip(peer_ports).enumerate() {
            etcd.arguments.push(
                [
                    ("--name", format!("m{i}")),
                    (
                        "--data-dir",
                        etcd.home.path().join(format!("m{i}")).display().to_string(),
                    ),
                    ("--listen-client-urls", url(*client)),
                    ("--advertise-client-urls", url(*client)),
                    ("--listen-peer-urls", url(*peer)),
                    ("--initial-advertise-peer-urls", url(*peer)),
                    ("--initial-cluster", everyone.join(",")),
                    ("--initial-cluster-state", "new".to_owned()),
                    ("--logger", "zap".to_owned()),
                    ("--log-level", "warn".to_owned()),
                ]
                .into_iter()
                .flat_map(|(flag, value)| [flag.to_owned(), value])
                .collect(),
            );
            etcd.clients.push(format!("127.0.0.1:{client}"));
            let child = etcd.spawn(i)?;
            etcd.members.push(child);
        }
        Ok(etcd)
    }

    fn spawn(&self, member: usize) -> Result<Child> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.home.path().join(format!("m{member}.log")))?;
        Command::new(&self.binary)
            .args(&self.arguments[member])
            .env(
                "ETCD_UNSUPPORTED_ARCH",
                std::env::consts::ARCH.replace("aarch64", "arm64"),
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| {
                format!(
                    "cannot start '{}': apt-get install etcd-server, or set ETCD_BIN",
                    self.binary
                )
            })
    }

    /// Addresses for clients.
    #[must_use]
    pub fn clients(&self) -> &[String] {
        &self.clients
    }

    fn index(&self, address: &str) -> Result<usize> {
        let index = self.clients.iter().position(|c| c == address);
        index.with_context(|| format!("{address} is no member"))
    }

    /// Kills the member at an address.
    ///
    /// # Errors
    /// If it is none.
    pub fn kill(&mut self, address: &str) -> Result<()> {
        let index = self.index(address)?;
        self.members[index].kill()?;
        self.members[index].wait()?;
        Ok(())
    }

    /// Starts a killed member again on its own directory.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn revive(&mut self, address: &str) -> Result<()> {
        let index = self.index(address)?;
        self.members[index] = self.spawn(index)?;
        Ok(())
    }

    /// Address and version of the leading member, as soon as there is one.
    ///
    /// # Errors
    /// If there is none within half a minute.
    pub async fn leader(&self) -> Result<(String, String)> {
        let start = Instant::now();
        let mut last = anyhow!("no member was asked");
        while start.elapsed() < Duration::from_secs(30) {
            for address in &self.clients {
                match status(address).await {
                    Ok(s) if s.leader != 0 && s.header.as_ref().is_some_and(|h| h.member_id == s.leader) => {
                        return Ok((address.clone(), s.version));
                    }
                    Ok(_) => last = anyhow!("{address} does not lead"),
                    Err(error) => last = error,
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!(
            "etcd has no leader: {last:#}; logs in {}",
            self.home.path().display()
        )
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            member.kill().ok();
            member.wait().ok();
        }
    }
}

/// Ports that are free now, all different.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    listeners.iter().map(|l| Ok(l.local_addr()?.port())).collect()
}

async fn unary<Q, A>(channel: &Channel, path: &'static str, request: Q) -> Result<A>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.context("the channel is closed")?;
    let codec = ProstCodec::<Q, A>::default();
    let answer = grpc
        .unary(
            tonic::Request::new(request),
            PathAndQuery::from_static(path),
            codec,
        )
        .await?;
    Ok(answer.into_inner())
}

async fn status(address: &str) -> Result<StatusResponse> {
    let channel = crate::holdfast::connect(address).await?;
    unary(&channel, "/etcdserverpb.Maintenance/Status", StatusRequest {}).await
}

/// Puts a key through whatever member a channel leads to, and waits until it is committed.
///
/// # Errors
/// If it is not known to be.
pub async fn put_once(channel: &Channel, key: String) -> Result<()> {
    let mut putter = Putter::new(channel.clone());
    putter.put(key, Bytes::from_static(b"drill")).await
}

/// A client of etcd's key-value service.
pub struct Putter {
    channel: Channel,
}

impl Putter {
    /// A client on a channel to the leader.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self { channel }
    }
}

impl Writer for Putter {
    async fn put(&mut self, key: String, value: Bytes) -> Result<()> {
        let request = PutRequest {
            key: key.into(),
            value,
        };
        let answer: PutResponse = unary(&self.channel, "/etcdserverpb.KV/Put", request).await?;
        if answer.header.is_none_or(|h| h.revision == 0) {
            bail!("etcd gave no revision");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::load;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs Debian's etcd-server"]
    async fn etcd_takes_writes() {
        let etcd = Etcd::start(&std::env::temp_dir()).unwrap();
        let (address, version) = etcd.leader().await.unwrap();
        let channel = crate::holdfast::connect(&address).await.unwrap();
        let writers = (0..16).map(|_| Putter::new(channel.clone())).collect();
        let measured = load::run(writers, Duration::from_millis(300), Duration::from_secs(1))
            .await
            .unwrap();
        println!("etcd {version}: {measured:?}");
        assert!(measured.writes > 0);
    }
}
