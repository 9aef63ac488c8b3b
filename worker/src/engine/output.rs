//! The way out of a task: partitions rows, collects full batches per destination, and keeps the order of rows,
//! watermarks and barriers per channel. Must not know operators or sockets.

use super::cell::TaskCell;
use super::channel::{Credit, Inbox, Payload, charge_of};
use super::event::{Barrier, Event, batch_bytes};
use super::partition::Partitioner;
use crate::exchange::RemoteOutlet;
use crate::operators::{Collector, OperatorError};
use arrow::record_batch::RecordBatch;
use holdfast_common::inject::{self, bugs};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Where a channel leads.
pub enum Target {
    /// To a task of this process.
    Local(Arc<Inbox>, Arc<Credit>),
    /// To another process.
    Remote(RemoteOutlet),
}

/// The sending end of a channel.
pub struct Outlet {
    target: Target,
    /// Events that wait for credit, in order.
    waiting: VecDeque<Event>,
}

impl Outlet {
    /// Nothing sent yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            waiting: VecDeque::new(),
        }
    }

    fn send(&mut self, event: Event) -> Result<(), OperatorError> {
        self.waiting.push_back(event);
        self.flush().map(|_| ())
    }

    /// Sends what credit allows; true if nothing waits any more.
    fn flush(&mut self) -> Result<bool, OperatorError> {
        while let Some(event) = self.waiting.pop_front() {
            let charge = match &event {
                Event::Data(batch) => charge_of(batch_bytes(batch)),
                _ => 0,
            };
            if charge > 0 && !self.credit().take(charge) {
                self.waiting.push_front(event);
                return Ok(false);
            }
            match &mut self.target {
                Target::Local(inbox, _) => {
                    if !inbox.push(Payload::Event(event), charge) {
                        return Err(OperatorError("a channel's credit does not add up".to_owned()));
                    }
                }
                Target::Remote(outlet) => outlet.send(event, charge).map_err(OperatorError)?,
            }
        }
        Ok(true)
    }

    fn credit(&self) -> &Credit {
        match &self.target {
            Target::Local(_, credit) => credit,
            Target::Remote(outlet) => outlet.credit(),
        }
    }
}

/// One edge out of the task.
pub struct OutEdge {
    partitioner: Partitioner,
    outlets: Vec<Outlet>,
}

impl OutEdge {
    /// `outlets` in the order of the destinations that the partitioner names.
    #[must_use]
    pub fn new(partitioner: Partitioner, outlets: Vec<Outlet>) -> Self {
        Self { partitioner, outlets }
    }

    fn send_full(&mut self) -> Result<(), OperatorError> {
        while let Some((to, batch)) = self.partitioner.take_full() {
            self.send(to, batch)?;
        }
        Ok(())
    }

    fn send(&mut self, to: usize, batch: RecordBatch) -> Result<(), OperatorError> {
        match self.outlets.get_mut(to) {
            Some(outlet) => outlet.send(Event::Data(batch)),
            None => Err(OperatorError(format!("an edge has no destination {to}"))),
        }
    }

    fn send_all(&mut self) -> Result<(), OperatorError> {
        self.partitioner.close()?;
        self.send_full()
    }

    fn broadcast(&mut self, event: &Event) -> Result<(), OperatorError> {
        self.send_all()?;
        self.outlets.iter_mut().try_for_each(|o| o.send(event.clone()))
    }
}

/// All edges out of a task.
pub struct Output {
    edges: Vec<OutEdge>,
    cell: Arc<TaskCell>,
    linger_ms: u64,
    /// When the oldest rows that are being collected came.
    since_ms: Option<u64>,
    now_ms: u64,
}

impl Output {
    /// Over the task's edges; rows wait at most `linger_ms` for a batch to fill.
    #[must_use]
    pub fn new(edges: Vec<OutEdge>, cell: Arc<TaskCell>, linger_ms: u64) -> Self {
        Self {
            edges,
            cell,
            linger_ms,
            since_ms: None,
            now_ms: 0,
        }
    }

    /// Sends what waits, as far as credit allows, and what has lingered long enough. True if there is room for more.
    ///
    /// # Errors
    /// If a destination is gone.
    pub fn flush(&mut self, now_ms: u64) -> Result<bool, OperatorError> {
        self.now_ms = now_ms;
        let mut room = true;
        for edge in &mut self.edges {
            for outlet in &mut edge.outlets {
                room &= outlet.flush()?;
            }
        }
        if room
            && self
                .since_ms
                .is_some_and(|since| now_ms.abs_diff(since) >= self.linger_ms)
        {
            self.since_ms = None;
            for edge in &mut self.edges {
                edge.send_all()?;
                room &= edge.outlets.iter().all(|o| o.waiting.is_empty());
            }
        }
        Ok(room)
    }

    /// Milliseconds until rows have lingered long enough; none if there are none.
    #[must_use]
    pub fn linger_left_ms(&self, now_ms: u64) -> Option<u64> {
        self.since_ms
            .map(|since| self.linger_ms.saturating_sub(now_ms.abs_diff(since)))
    }

    fn broadcast(&mut self, event: &Event) -> Result<(), OperatorError> {
        self.since_ms = None;
        self.edges.iter_mut().try_for_each(|e| e.broadcast(event))
    }

    /// The task has fallen silent.
    ///
    /// # Errors
    /// If a destination is gone; so for the others.
    pub fn idle(&mut self) -> Result<(), OperatorError> {
        self.broadcast(&Event::Idle)
    }

    /// A checkpoint's cut.
    ///
    /// # Errors
    /// If a destination is gone.
    pub fn barrier(&mut self, barrier: Barrier) -> Result<(), OperatorError> {
        let event = Event::Barrier(barrier);
        if inject::bug(bugs::BARRIER_OVERTAKES) {
            let mut outlets = self.edges.iter_mut().flat_map(|e| &mut e.outlets);
            return outlets.try_for_each(|o| o.send(event.clone()));
        }
        self.broadcast(&event)
    }

    /// Nothing follows.
    ///
    /// # Errors
    /// If a destination is gone.
    pub fn end(&mut self) -> Result<(), OperatorError> {
        self.broadcast(&Event::End)
    }
}

impl Collector for Output {
    fn emit(&mut self, batch: RecordBatch) -> Result<(), OperatorError> {
        let counters = &self.cell.counters;
        counters
            .records_out
            .fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        counters
            .bytes_out
            .fetch_add(batch_bytes(&batch) as u64, Ordering::Relaxed);
        let mut collecting = false;
        for edge in &mut self.edges {
            edge.partitioner.push(batch.clone())?;
            edge.send_full()?;
            collecting |= edge.partitioner.is_collecting();
        }
        self.since_ms = match (collecting, self.since_ms) {
            (false, _) => None,
            (true, since) => since.or(Some(self.now_ms)),
        };
        Ok(())
    }

    fn watermark(&mut self, watermark_ms: i64) -> Result<(), OperatorError> {
        self.cell
            .counters
            .watermark_ms
            .store(watermark_ms, Ordering::Relaxed);
        self.broadcast(&Event::Watermark(watermark_ms))
    }
}
