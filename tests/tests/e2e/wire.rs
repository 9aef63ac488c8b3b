//! What comes over the wire from something that is not a worker of this very cluster and version, or is too large: it is
//! refused by name, and the process that was spoken to lives on.

use crate::members::free_port;
use anyhow::{Context, Result, anyhow, bail, ensure};
use holdfast_common::Incarnation;
use holdfast_common::limits::{EXCHANGE_FRAME_BYTES_MAX, RPC_MESSAGE_BYTES_MAX};
use holdfast_proto::control::control_client::ControlClient;
use holdfast_proto::control::coordinator_message::Body;
use holdfast_proto::control::worker_message::Body as Said;
use holdfast_proto::control::{Heartbeat, Register, WorkerMessage};
use std::io::{Read, Write};
use std::net::TcpStream;
use tests::cluster::{Cluster, Options, with_cluster};
use tests::scenario::Running;
use tests::wait::SOON;

#[test]
fn strangers_and_giants_on_the_wire_are_refused_by_name() {
    with_cluster("wire", Options::default().no_restart(), |cluster| {
        let running = Running::start(cluster, 15)?;
        other_version(cluster).context("a worker of another version")?;
        no_registration(cluster).context("a stream that does not begin with a registration")?;
        giant_message(cluster).context("a message over the limit")?;
        noise_at_rpc(cluster).context("noise at the RPC port")?;
        giant_frame(cluster).context("a frame over the limit")?;
        for process in cluster.file()?.processes {
            ensure!(process.alive(), "{} did not survive", process.name());
        }
        running.check_untouched(cluster)?;
        running.finish(cluster)?;
        Ok(())
    });
}

fn leader_rpc(cluster: &Cluster) -> Result<String> {
    cluster
        .leader()?
        .rpc
        .ok_or_else(|| anyhow!("the leader has no RPC address"))
}

fn register(cluster: &Cluster, version: &str) -> Result<Register> {
    let view = cluster.view()?;
    Ok(Register {
        cluster_name: view["cluster_name"].as_str().unwrap_or_default().to_owned(),
        resource_id: "by-hand".to_owned(),
        incarnation: Incarnation(77).to_bytes().to_vec().into(),
        data_addr: format!("127.0.0.1:{}", free_port()?),
        slots: 1,
        version: version.to_owned(),
        ..Register::default()
    })
}

/// Says one thing on a new stream and answers what comes back first.
fn say(cluster: &Cluster, said: Said) -> Result<Result<Option<Body>, tonic::Status>> {
    let rpc = leader_rpc(cluster)?;
    let exchange = async move {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{rpc}"))?
            .connect()
            .await?;
        let mut client = ControlClient::new(channel).max_encoding_message_size(usize::MAX);
        let (sender, messages) = tokio::sync::mpsc::channel(1);
        sender.send(WorkerMessage { body: Some(said) }).await?;
        let stream = tokio_stream::wrappers::ReceiverStream::new(messages);
        let answer = match client.attach(stream).await {
            Ok(answered) => answered
                .into_inner()
                .message()
                .await
                .map(|m| m.and_then(|m| m.body)),
            Err(status) => Err(status),
        };
        drop(sender);
        Ok(answer)
    };
    cluster.rest().runtime().block_on(async {
        tokio::time::timeout(SOON, exchange)
            .await
            .unwrap_or_else(|_| Err(anyhow!("no answer within {SOON:?}")))
    })
}

fn other_version(cluster: &Cluster) -> Result<()> {
    let answer = say(cluster, Said::Register(register(cluster, "0.0.1-older")?))?;
    let Ok(Some(Body::Refused(refused))) = answer else {
        bail!("it was not refused: {answer:?}");
    };
    ensure!(
        refused.reason.contains("0.0.1-older") && refused.reason.contains("coordinators are of version"),
        "{}",
        refused.reason
    );
    let view = cluster.rest().get("/v1/cluster", SOON)?;
    ensure!(
        !view["workers"].to_string().contains("by-hand"),
        "it is listed: {}",
        view["workers"]
    );
    Ok(())
}

fn no_registration(cluster: &Cluster) -> Result<()> {
    match say(cluster, Said::Heartbeat(Heartbeat::default()))? {
        Err(status) if status.code() == tonic::Code::InvalidArgument => Ok(()),
        other => bail!("{other:?}"),
    }
}

fn giant_message(cluster: &Cluster) -> Result<()> {
    let version = cluster.view()?["version"].as_str().unwrap_or_default().to_owned();
    let mut giant = register(cluster, &version)?;
    giant.data_addr = "x".repeat(RPC_MESSAGE_BYTES_MAX + 1);
    match say(cluster, Said::Register(giant))? {
        Err(status) if status.code() == tonic::Code::OutOfRange => {
            let limit = RPC_MESSAGE_BYTES_MAX.to_string();
            ensure!(
                status.message().contains(&limit),
                "the limit is not named: {status}"
            );
            Ok(())
        }
        other => bail!("{other:?}"),
    }
}

/// The peer must end the connection; answers what it said before.
fn last_words(stream: &mut TcpStream) -> Result<String> {
    stream.set_read_timeout(Some(SOON))?;
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => said.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => bail!("the connection is still open: {error}"),
        }
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

fn noise_at_rpc(cluster: &Cluster) -> Result<()> {
    let mut stream = TcpStream::connect(leader_rpc(cluster)?)?;
    // The other side may hang up while this is still being sent.
    let _ = stream.write_all(&vec![0xa5; 1 << 20]);
    last_words(&mut stream).map(drop)
}

/// A header of the exchange between workers that announces more bytes than any frame may have.
fn giant_frame(cluster: &Cluster) -> Result<()> {
    const HEADER: usize = 21;
    let largest = u32::try_from(EXCHANGE_FRAME_BYTES_MAX)?;
    for (kind, length) in [(4_u8, largest + 1), (1, u32::MAX), (99, 1 << 20)] {
        let view = cluster.view()?;
        let addr = view["workers"][0]["data_addr"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let mut stream = TcpStream::connect(&addr).with_context(|| addr.clone())?;
        let mut header = vec![0_u8; HEADER];
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4] = kind;
        stream.write_all(&header)?;
        let words = last_words(&mut stream).with_context(|| format!("kind {kind}, {length} bytes"))?;
        let named = words.contains(&format!("{length} bytes are more than"));
        ensure!(
            named,
            "kind {kind}, {length} bytes: the limit is not named: {words:?}"
        );
    }
    Ok(())
}
