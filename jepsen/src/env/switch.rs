//! The network of a run: one thread that carries Ethernet frames between the nodes' TAP interfaces, by the rules.

use super::frame;
use super::links::{Rule, Table};
use crate::plan::Plane;
use crate::seed::Stream;
use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Frames that are taken from one port before the next one gets its turn.
const BATCH: usize = 32;
/// Longest wait for frames, so that the end is noticed.
const TURN: Duration = Duration::from_millis(20);
/// Frames that wait at most; more are lost, as in a real queue.
const QUEUE: usize = 100_000;

struct Shared {
    table: Mutex<Arc<Table>>,
    stop: AtomicBool,
    forwarded: AtomicU64,
    /// Frames by fault that a rule of it met: dropped or changed.
    touched: Vec<AtomicU64>,
    dropped: Vec<AtomicU64>,
    ports: usize,
}

/// The running switch.
pub struct Switch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// One frame on its way.
struct Late {
    due: Instant,
    order: u64,
    to: usize,
    frame: Vec<u8>,
}

impl PartialEq for Late {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.order) == (other.due, other.order)
    }
}
impl Eq for Late {}
impl PartialOrd for Late {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Late {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

impl Switch {
    /// Starts carrying frames between the ports of `taps`, whose hardware addresses are `macs`, in the same order.
    ///
    /// # Errors
    /// If its thread cannot be started.
    pub fn start(taps: Vec<File>, macs: &[[u8; 6]], seed: u64) -> Result<Self> {
        let ports = taps.len();
        let counters = || (0..ports * ports).map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared {
            table: Mutex::new(Arc::new(Table::new(ports))),
            stop: AtomicBool::new(false),
            forwarded: AtomicU64::new(0),
            touched: counters(),
            dropped: counters(),
            ports,
        });
        let by_mac = macs.iter().enumerate().map(|(at, mac)| (*mac, at)).collect();
        let mut carrier = Carrier {
            shared: Arc::clone(&shared),
            taps,
            by_mac,
            random: Stream::new(seed, "packets"),
            late: BinaryHeap::new(),
            order: 0,
        };
        let thread = std::thread::Builder::new()
            .name("switch".into())
            .spawn(move || carrier.run())
            .context("the switch's thread")?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Adds rules to directed links in one moment.
    pub fn add(&self, rules: &[(usize, usize, Rule)]) {
        self.change(|table| {
            for (from, to, rule) in rules {
                table.add(*from, *to, rule.clone());
            }
        });
    }

    /// Removes the rules of a fault.
    pub fn remove(&self, fault: u64) {
        self.change(|table| table.remove(fault));
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.change(Table::clear);
    }

    fn change(&self, change: impl FnOnce(&mut Table)) {
        let mut table = self.shared.table.lock().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut table));
    }

    /// Frames that were met by rules on these links so far, and those of them that were dropped.
    #[must_use]
    pub fn met(&self, links: &[(usize, usize)]) -> (u64, u64) {
        let sum = |counters: &[AtomicU64]| {
            links
                .iter()
                .filter_map(|(from, to)| counters.get(from * self.shared.ports + to))
                .map(|counter| counter.load(Ordering::Relaxed))
                .sum()
        };
        (sum(&self.shared.touched), sum(&self.shared.dropped))
    }

    /// Frames carried so far.
    #[must_use]
    pub fn forwarded(&self) -> u64 {
        self.shared.forwarded.load(Ordering::Relaxed)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Carrier {
    shared: Arc<Shared>,
    taps: Vec<File>,
    by_mac: BTreeMap<[u8; 6], usize>,
    random: Stream,
    late: BinaryHeap<Reverse<Late>>,
    order: u64,
}

impl Carrier {
    fn run(&mut self) {
        let mut buffer = vec![0u8; 65_536];
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.deliver_due();
            let wait = self.late.peek().map_or(TURN, |Reverse(next)| {
                next.due.saturating_duration_since(Instant::now()).min(TURN)
            });
            let ready = self.wait(wait);
            let table = {
                let table = self.shared.table.lock().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(&table)
            };
            for port in ready {
                self.take(port, &table, &mut buffer);
            }
        }
    }

    fn wait(&self, wait: Duration) -> Vec<usize> {
        let mut polled: Vec<PollFd<'_>> = self
            .taps
            .iter()
            .map(|tap| PollFd::new(tap.as_fd(), PollFlags::POLLIN))
            .collect();
        match ppoll(&mut polled, Some(TimeSpec::from(wait)), None) {
            Ok(0) => return Vec::new(),
            Ok(_) => {}
            // An interface that is going away, or a signal: the next turn sees what is left.
            Err(_) => {
                std::thread::sleep(Duration::from_millis(1));
                return Vec::new();
            }
        }
        let ready = polled.iter().enumerate();
        ready
            .filter(|(_, fd)| fd.revents().is_some_and(|e| e.contains(PollFlags::POLLIN)))
            .map(|(at, _)| at)
            .collect()
    }

    fn take(&mut self, from: usize, table: &Table, buffer: &mut [u8]) {
        for _ in 0..BATCH {
            let length = match (&self.taps[from]).read(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let frame = &buffer[..length];
            let Some(to) = frame::destination(frame).and_then(|mac| self.by_mac.get(&mac).copied()) else {
                continue;
            };
            let plane = frame::plane(frame);
            self.carry(from, to, plane, table, frame);
        }
    }

    fn carry(&mut self, from: usize, to: usize, plane: Plane, table: &Table, frame: &[u8]) {
        let fate = table.fate(from, to, plane, &mut self.random);
        let link = from * self.shared.ports + to;
        if fate.touched {
            self.shared.touched[link].fetch_add(1, Ordering::Relaxed);
        }
        if fate.copies.is_empty() {
            self.shared.dropped[link].fetch_add(1, Ordering::Relaxed);
        }
        for delay in fate.copies {
            if delay.is_zero() {
                self.send(to, frame);
            } else if self.late.len() < QUEUE {
                self.order += 1;
                self.late.push(Reverse(Late {
                    due: Instant::now() + delay,
                    order: self.order,
                    to,
                    frame: frame.to_vec(),
                }));
            }
        }
    }

    fn deliver_due(&mut self) {
        let now = Instant::now();
        while self.late.peek().is_some_and(|Reverse(next)| next.due <= now) {
            if let Some(Reverse(late)) = self.late.pop() {
                self.send(late.to, &late.frame);
            }
        }
    }

    /// A full or vanished interface loses the frame, as a cable would.
    fn send(&self, to: usize, frame: &[u8]) {
        if (&self.taps[to]).write(frame).is_ok() {
            self.shared.forwarded.fetch_add(1, Ordering::Relaxed);
        }
    }
}
