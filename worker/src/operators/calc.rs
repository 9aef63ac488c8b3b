//! Filter, then projection. Must not know who planned the expressions.

use super::{Collector, Operator, OperatorError};
use arrow::array::{Array, AsArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::DataType;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use holdfast_dataflow::expr::ExprError;
use holdfast_dataflow::graph::CalcSpec;

impl From<ExprError> for OperatorError {
    fn from(error: ExprError) -> Self {
        Self(error.to_string())
    }
}

/// The operator of a [`CalcSpec`].
pub struct Calc {
    spec: CalcSpec,
}

impl Calc {
    /// From its specification.
    #[must_use]
    pub fn new(spec: CalcSpec) -> Self {
        Self { spec }
    }

    /// Filters and projects one batch.
    ///
    /// # Errors
    /// If an expression has no value for some row.
    pub fn apply(&self, batch: RecordBatch) -> Result<RecordBatch, OperatorError> {
        let batch = match &self.spec.filter {
            None => batch,
            Some(filter) => {
                let keep = filter.evaluate(&batch)?;
                if keep.data_type() != &DataType::Boolean {
                    return Err(OperatorError(format!(
                        "filter {} is of type {}, not boolean",
                        filter.describe(),
                        keep.data_type()
                    )));
                }
                let keep = keep.as_boolean();
                if keep.null_count() == 0 && keep.true_count() == keep.len() {
                    batch
                } else {
                    filter_record_batch(&batch, keep)?
                }
            }
        };
        let Some(projection) = &self.spec.projection else {
            return Ok(batch);
        };
        let columns = projection
            .iter()
            .map(|e| e.evaluate(&batch))
            .collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(
            self.spec.schema.clone(),
            columns,
            &options,
        )?)
    }
}

impl Operator for Calc {
    fn on_batch(&mut self, batch: RecordBatch, out: &mut dyn Collector) -> Result<(), OperatorError> {
        let batch = self.apply(batch)?;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        out.emit(batch)
    }
}
