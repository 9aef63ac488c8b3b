//! Expressions over batches, evaluated without knowing who planned them.

use arrow::array::ArrayRef;
use arrow::record_batch::RecordBatch;
use std::fmt::Debug;
use std::sync::Arc;

/// A vectorised, deterministic expression.
pub trait RowExpr: Send + Sync + Debug {
    /// The value of the expression for every row of `batch`; the array has as many rows as the batch.
    ///
    /// # Errors
    /// If the rows make it impossible (overflow, a CAST that fails, division by zero), with the reason.
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExprError>;

    /// A canonical, stable text of the expression: part of the plan's fingerprint and of EXPLAIN.
    fn describe(&self) -> String;
}

/// Shared expression.
pub type ExprRef = Arc<dyn RowExpr>;

/// Why an expression has no value for some row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot evaluate {expression}: {reason}")]
pub struct ExprError {
    /// The expression's text.
    pub expression: String,
    /// What went wrong.
    pub reason: String,
}
