//! The network of a run without root: every process reaches every coordinator through a relay of its own on loopback, and
//! the rules of the switch decide what a relay passes on.
//!
//! A relay carries a stream, not packets. What a rule drops is held and tried again, as TCP would repeat it; a delay holds
//! the stream up. Nothing can be doubled or overtaken here, and rows between workers pass no relay.

use super::links::{Rule, Table};
use super::{Place, Role};
use crate::plan::Plane;
use crate::seed::Stream;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes that a relay holds per direction; the rest waits in the sockets.
const BUFFER_BYTES: usize = 64 << 10;
/// After this, what a rule has held is tried again: about the first repetition of TCP.
const AGAIN: Duration = Duration::from_millis(200);

/// The relays of a run; dropped, all connections end.
pub struct Relays {
    runtime: Option<tokio::runtime::Runtime>,
    table: watch::Sender<Table>,
    counters: Arc<Counters>,
    /// Where a process connects to reach an address.
    doors: BTreeMap<(usize, SocketAddr), SocketAddr>,
}

struct Counters {
    ports: usize,
    touched: Vec<AtomicU64>,
    dropped: Vec<AtomicU64>,
}

/// One direction of one connection.
struct Lane {
    from: usize,
    to: usize,
    plane: Plane,
    table: watch::Receiver<Table>,
    counters: Arc<Counters>,
    random: Stream,
}

impl Relays {
    /// Opens a relay from every process to both addresses of every other coordinator.
    ///
    /// # Errors
    /// If a port cannot be bound.
    pub fn start(places: &[Place], seed: u64) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("relays")
            .enable_all()
            .build()?;
        let ports = places.len();
        let counters = || (0..ports * ports).map(|_| AtomicU64::new(0)).collect();
        let mut relays = Self {
            runtime: Some(runtime),
            table: watch::Sender::new(Table::new(ports)),
            counters: Arc::new(Counters {
                ports,
                touched: counters(),
                dropped: counters(),
            }),
            doors: BTreeMap::new(),
        };
        let taken: BTreeSet<u16> = places
            .iter()
            .flat_map(|p| [p.main.port(), p.rest.port()])
            .collect();
        for from in 0..ports {
            for (to, place) in places.iter().enumerate() {
                if from != to && place.role == Role::Coordinator && places[from].role != Role::Objects {
                    relays.open(from, to, place.main, Plane::Control, (seed, &taken))?;
                    relays.open(from, to, place.rest, Plane::Any, (seed, &taken))?;
                }
            }
        }
        Ok(relays)
    }

    fn open(
        &mut self,
        from: usize,
        to: usize,
        target: SocketAddr,
        plane: Plane,
        (seed, taken): (u64, &BTreeSet<u16>),
    ) -> Result<()> {
        let runtime = self.runtime.as_ref().context("the relays have ended")?;
        let listener = runtime
            .block_on(listen(taken))
            .with_context(|| format!("a relay to {target}"))?;
        self.doors.insert((from, target), listener.local_addr()?);
        let table = self.table.subscribe();
        let counters = Arc::clone(&self.counters);
        runtime.spawn(async move {
            let mut connections = 0;
            loop {
                let Ok((near, _)) = listener.accept().await else {
                    // Out of descriptors: later perhaps.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                connections += 1;
                let lane = |from, to| Lane {
                    from,
                    to,
                    plane,
                    table: table.clone(),
                    counters: Arc::clone(&counters),
                    random: Stream::new(seed ^ connections, "relay"),
                };
                tokio::spawn(carry(near, target, lane(from, to), lane(to, from)));
            }
        });
        Ok(())
    }

    /// Where a process connects to reach an address.
    #[must_use]
    pub fn door(&self, from: usize, target: SocketAddr) -> Option<SocketAddr> {
        self.doors.get(&(from, target)).copied()
    }

    /// Adds rules to directed links in one moment.
    pub fn add(&self, rules: &[(usize, usize, Rule)]) {
        self.table.send_modify(|table| {
            for (from, to, rule) in rules {
                table.add(*from, *to, rule.clone());
            }
        });
    }

    /// Removes the rules of a fault.
    pub fn remove(&self, fault: u64) {
        self.table.send_modify(|table| table.remove(fault));
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.table.send_modify(Table::clear);
    }

    /// Pieces that rules met on these links so far, and those of them that were held back.
    #[must_use]
    pub fn met(&self, links: &[(usize, usize)]) -> (u64, u64) {
        let sum = |counters: &[AtomicU64]| {
            let of = links
                .iter()
                .filter_map(|(from, to)| counters.get(from * self.counters.ports + to));
            of.map(|counter| counter.load(Ordering::Relaxed)).sum()
        };
        (sum(&self.counters.touched), sum(&self.counters.dropped))
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Lane {
    /// Waits until the rules let something pass, for as long as they say.
    async fn pass(&mut self) {
        let link = self.from * self.counters.ports + self.to;
        loop {
            let fate = self
                .table
                .borrow_and_update()
                .fate(self.from, self.to, self.plane, &mut self.random);
            if fate.touched {
                self.counters.touched[link].fetch_add(1, Ordering::Relaxed);
            }
            if let Some(delay) = fate.copies.first() {
                if !delay.is_zero() {
                    tokio::time::sleep(*delay).await;
                }
                return;
            }
            self.counters.dropped[link].fetch_add(1, Ordering::Relaxed);
            // The sender of the table lives as long as the runtime.
            let _ = tokio::time::timeout(AGAIN, self.table.changed()).await;
        }
    }
}

/// Listens at a port that is not one of those that processes will want in a moment.
async fn listen(taken: &BTreeSet<u16>) -> Result<TcpListener> {
    // Kept until the end, so that the same port is not offered again.
    let mut unwanted = Vec::new();
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        if !taken.contains(&listener.local_addr()?.port()) {
            return Ok(listener);
        }
        unwanted.push(listener);
    }
}

async fn carry(near: TcpStream, target: SocketAddr, mut there: Lane, mut back: Lane) {
    // A cut link answers nothing, not even a refusal.
    there.pass().await;
    back.pass().await;
    let Ok(far) = TcpStream::connect(target).await else {
        return;
    };
    for stream in [&near, &far] {
        if stream.set_nodelay(true).is_err() {
            return;
        }
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    // When one direction breaks, the other is dropped with it; a half-closed one goes on.
    let _ = tokio::try_join!(pump(near_in, far_out, there), pump(far_in, near_out, back));
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut lane: Lane) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        lane.pass().await;
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
    use std::io::{Read, Write};

    fn place(name: &str, role: Role, main: SocketAddr) -> Place {
        Place {
            name: name.into(),
            role,
            number: 1,
            namespace: None,
            main,
            rest: SocketAddr::from(([127, 0, 0, 1], 1)),
        }
    }

    #[test]
    fn a_cut_link_is_silent_in_its_direction_and_loses_nothing() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = server.local_addr().unwrap();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 2));
        let places = [
            place("c1", Role::Coordinator, target),
            place("w1", Role::Worker, nowhere),
        ];
        let relays = Relays::start(&places, 7).unwrap();
        assert!(relays.door(1, nowhere).is_none(), "workers are reached directly");
        let door = relays.door(1, target).unwrap();
        let mut near = std::net::TcpStream::connect(door).unwrap();
        let (mut far, _) = server.accept().unwrap();
        let mut buffer = [0; 4];
        near.write_all(b"ping").unwrap();
        far.read_exact(&mut buffer).unwrap();

        relays.add(&[(1, 0, Rule::cut(9, Plane::Control))]);
        far.write_all(b"pong").unwrap();
        near.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"pong", "the other direction is open");
        near.write_all(b"held").unwrap();
        far.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert!(far.read_exact(&mut buffer).is_err(), "nothing passes");
        assert!(relays.met(&[(1, 0)]).1 > 0);

        relays.remove(9);
        far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        far.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"held");
    }
}
