//! The harness's end of a client process.

use super::client::{Command, Line, Node, Reply, Spec};
use crate::world::World;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Operation numbers that a client process may use.
const OPS_PER_CLIENT: u64 = 1 << 24;

/// A running client process. Its events go into the history; it is killed when this is dropped.
pub(super) struct ClientProcess {
    child: Child,
    input: Option<ChildStdin>,
    output: JoinHandle<()>,
    replies: mpsc::UnboundedReceiver<Reply>,
}

impl ClientProcess {
    /// Starts one.
    pub(super) fn start(
        world: &World,
        kind: &str,
        index: u32,
        params: BTreeMap<String, Value>,
    ) -> Result<Self> {
        let node = |n: crate::world::NodeAddr| Node {
            name: n.name,
            rpc: n.rpc,
            rest: n.rest,
        };
        let spec = Spec {
            kind: kind.to_owned(),
            index,
            seed: world
                .seed()
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .wrapping_add(u64::from(index)),
            epoch_ns: world.epoch_ns(),
            op_base: world.reserve_ops(OPS_PER_CLIENT),
            nodes: world.coordinators().into_iter().map(node).collect(),
            params,
        };
        let mut command = world.client_command(index, &[serde_json::to_string(&spec)?])?;
        let command = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start client {kind}-{index}"))?;
        let stdout = child.stdout.take().context("no output of a client")?;
        let (sender, replies) = mpsc::unbounded_channel();
        let sink = world.clone();
        let output = tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                match serde_json::from_str::<Line>(&line) {
                    Ok(Line::Event(event)) => sink.record(event),
                    Ok(Line::Reply(reply)) => {
                        let _ = sender.send(reply);
                    }
                    Err(error) => eprintln!("a client printed what is no event ({error}): {line}"),
                }
            }
        });
        let input = child.stdin.take();
        Ok(Self {
            child,
            input,
            output,
            replies,
        })
    }

    /// Tells it something.
    pub(super) async fn tell(&mut self, command: &Command) -> Result<()> {
        let Some(input) = &mut self.input else {
            bail!("the client was told to end already");
        };
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        input.write_all(&line).await.context("a client has gone")?;
        input.flush().await.context("a client has gone")
    }

    /// The next reply within a time; `None` if there is none.
    pub(super) async fn reply(&mut self, within: Duration) -> Option<Reply> {
        tokio::time::timeout(within, self.replies.recv())
            .await
            .ok()
            .flatten()
    }

    /// Waits for its end, or ends it: all it printed is in the history afterwards.
    pub(super) async fn end(mut self, within: Duration) -> Result<()> {
        let waited = tokio::time::timeout(within, self.child.wait()).await;
        self.input = None;
        let status = match waited {
            Ok(status) => Some(status?),
            Err(_) => {
                self.child.kill().await.context("a client could not be ended")?;
                None
            }
        };
        // What is still in the pipe.
        let _ = tokio::time::timeout(Duration::from_secs(5), &mut self.output).await;
        match status {
            Some(status) if !status.success() => bail!("a client ended with {status}"),
            _ => Ok(()),
        }
    }
}
