//! A network that can be cut without root: every process reaches every coordinator through a relay of its own on
//! loopback, and a relay that is cut passes nothing on. Nothing is refused or reset: to both ends it looks as if
//! packets were lost, and what they had sent arrives after healing, as TCP would repeat it.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Bytes that a relay holds per direction; the rest waits in the sockets.
const BUFFER_BYTES: usize = 64 << 10;

/// A process of the cluster: its role's first letter and number, `c1` or `w2`.
pub type Place = String;

struct Link {
    address: String,
    open: watch::Sender<bool>,
}

/// The relays; dropped, all connections end.
#[derive(Default)]
pub struct Net {
    links: BTreeMap<(Place, Place), Link>,
    tasks: JoinSet<()>,
}

impl Net {
    /// Opens a relay from one process to the address of another, and returns where `from` must connect.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn link(&mut self, from: &str, to: &str, target: String) -> Result<String> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .with_context(|| format!("cannot open a relay from {from} to {to}"))?;
        let address = listener
            .local_addr()
            .context("a relay has no address")?
            .to_string();
        let open = watch::Sender::new(true);
        self.tasks.spawn(serve(listener, target, open.subscribe()));
        let link = Link {
            address: address.clone(),
            open,
        };
        self.links.insert((from.to_owned(), to.to_owned()), link);
        Ok(address)
    }

    /// Where a process connects to reach another.
    #[must_use]
    pub fn address(&self, from: &str, to: &str) -> Option<&str> {
        let link = self.links.get(&(from.to_owned(), to.to_owned()))?;
        Some(&link.address)
    }

    /// Cuts or heals every link whose ends `chosen` picks.
    pub fn set(&self, open: bool, chosen: impl Fn(&str, &str) -> bool) {
        for ((from, to), link) in &self.links {
            if chosen(from, to) {
                link.open.send_replace(open);
            }
        }
    }
}

async fn serve(listener: TcpListener, target: String, open: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((near, _)) = listener.accept().await else {
            // Out of descriptors: later perhaps.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        connections.spawn(carry(near, target.clone(), open.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(near: TcpStream, target: String, mut open: watch::Receiver<bool>) {
    // A cut link answers nothing, not even a refusal.
    if open.wait_for(|open| *open).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(&target).await else {
        return;
    };
    for stream in [&near, &far] {
        if stream.set_nodelay(true).is_err() {
            return;
        }
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    // When one direction breaks, the other is dropped with it; a half-closed one goes on.
    let there = pump(near_in, far_out, open.clone());
    let back = pump(far_in, near_out, open);
    let _ = tokio::try_join!(there, back);
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut open: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        let closed = || std::io::Error::other("the relay is closed");
        open.wait_for(|open| *open).await.map_err(|_| closed())?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_cut_link_is_silent_and_loses_nothing() {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut net = Net::default();
        let to = target.local_addr().unwrap().to_string();
        let address = net.link("c1", "c2", to).await.unwrap();
        assert_eq!(net.address("c1", "c2"), Some(address.as_str()));
        let mut near = TcpStream::connect(&address).await.unwrap();
        let (mut far, _) = target.accept().await.unwrap();
        let mut bytes = [0; 3];
        near.write_all(b"abc").await.unwrap();
        far.read_exact(&mut bytes).await.unwrap();
        net.set(false, |from, to| (from, to) == ("c1", "c2"));
        near.write_all(b"def").await.unwrap();
        let silent = timeout(Duration::from_millis(50), far.read_exact(&mut bytes)).await;
        assert!(silent.is_err());
        // A new connection is neither refused nor answered.
        let _waiting = TcpStream::connect(&address).await.unwrap();
        assert!(timeout(Duration::from_millis(50), target.accept()).await.is_err());
        net.set(true, |_, _| true);
        far.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"def");
        timeout(Duration::from_secs(5), target.accept())
            .await
            .unwrap()
            .unwrap();
        drop(near);
        assert_eq!(
            timeout(Duration::from_secs(5), far.read(&mut bytes))
                .await
                .unwrap()
                .unwrap(),
            0
        );
    }
}
