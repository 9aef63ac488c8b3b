//! What flows through channels. Must not know how it is carried.

use arrow::record_batch::RecordBatch;
use holdfast_common::CheckpointId;

/// Marks the cut of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Barrier {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Newest checkpoint that the injecting worker knew to be complete: a sink learns by it what it need not carry
    /// into this checkpoint, even if the leader's own word reaches its worker later.
    pub settled: CheckpointId,
}

/// One event of a channel.
#[derive(Debug, Clone)]
pub enum Event {
    /// Rows.
    Data(RecordBatch),
    /// Event time in milliseconds. Also says that a silent sender is back.
    Watermark(i64),
    /// The sender is silent: it no longer holds event time back.
    Idle,
    /// See [`Barrier`].
    Barrier(Barrier),
    /// Nothing follows.
    End,
}

/// Bytes that a batch's rows take, slices counted as what they show.
#[must_use]
pub fn batch_bytes(batch: &RecordBatch) -> usize {
    batch
        .columns()
        .iter()
        .map(|c| {
            c.to_data()
                .get_slice_memory_size()
                .unwrap_or_else(|_| c.get_array_memory_size())
        })
        .sum()
}
