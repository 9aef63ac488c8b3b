//! The optimizer rules that are right for streams. Nothing here may reorder rows or drop a time attribute.

use crate::error::{self, Pos, Result};
use datafusion_expr::LogicalPlan;
use datafusion_optimizer::optimize_projections::OptimizeProjections;
use datafusion_optimizer::optimize_unions::OptimizeUnions;
use datafusion_optimizer::push_down_filter::PushDownFilter;
use datafusion_optimizer::simplify_expressions::SimplifyExpressions;
use datafusion_optimizer::{Optimizer, OptimizerContext, OptimizerRule};
use std::sync::Arc;

/// Folds constants, pushes filters below windows and unions, and drops columns that nobody reads.
pub(crate) fn optimize(plan: LogicalPlan, pos: Pos) -> Result<LogicalPlan> {
    let rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![
        Arc::new(SimplifyExpressions::new()),
        Arc::new(OptimizeUnions::new()),
        Arc::new(PushDownFilter::new()),
        Arc::new(OptimizeProjections::new()),
    ];
    let context = OptimizerContext::new()
        .without_query_execution_start_time()
        .with_skip_failing_rules(false);
    Optimizer::with_rules(rules)
        .optimize(plan, &context, |_, _| {})
        .map_err(error::at(pos))
}
