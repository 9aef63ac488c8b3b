//! Bound expressions as [`RowExpr`]s: DataFusion evaluates them, errors carry the SQL text, and AND and OR evaluate
//! their right side only where the left one has not decided, as a user of Flink expects of `b <> 0 AND a / b > 1`.

use crate::error::{self, PlanError, Pos, Result};
use crate::functions::Native;
use crate::sqltext;
use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::kernels::boolean::{and_kleene, or_kleene};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DFSchema, DataFusionError};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::{ColumnarValue, Expr, Operator};
use datafusion_physical_expr::expressions::{BinaryExpr, CastExpr};
use datafusion_physical_expr::{PhysicalExpr, ScalarFunctionExpr, create_physical_expr};
use holdfast_dataflow::expr::{ExprError, ExprRef, RowExpr};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// An expression with its text.
#[derive(Debug)]
struct PlannedExpr {
    text: String,
    physical: Arc<dyn PhysicalExpr>,
}

impl RowExpr for PlannedExpr {
    fn evaluate(&self, batch: &RecordBatch) -> std::result::Result<ArrayRef, ExprError> {
        self.physical
            .evaluate(batch)
            .and_then(|value| value.into_array(batch.num_rows()))
            .map_err(|error| ExprError {
                expression: self.text.clone(),
                reason: reason(&error),
            })
    }

    fn describe(&self) -> String {
        self.text.clone()
    }
}

/// The cause, in words that do not name libraries.
fn reason(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::Execution(text) => text.clone(),
        DataFusionError::ArrowError(error, _) => match error.as_ref() {
            arrow::error::ArrowError::DivideByZero => "division by zero".into(),
            other => other.to_string(),
        },
        other => other.strip_backtrace(),
    }
}

/// Makes an expression over the columns of `schema` ready to run.
pub(crate) fn compile(expr: &Expr, schema: &SchemaRef, pos: Pos) -> Result<ExprRef> {
    let columns = DFSchema::try_from(Arc::clone(schema)).map_err(error::at(pos))?;
    let physical = create_physical_expr(
        expr,
        &columns,
        &ExecutionProps::new(),
        &PhysicalPlanningContext::default(),
    )
    .map_err(|e| PlanError::new(pos, format!("{}: {}", sqltext::text(expr), e.strip_backtrace())))?;
    let physical = guard(physical).map_err(error::at(pos))?;
    Ok(Arc::new(PlannedExpr {
        text: sqltext::text(expr),
        physical,
    }))
}

/// Replaces AND and OR whose right side can fail.
fn guard(expr: Arc<dyn PhysicalExpr>) -> std::result::Result<Arc<dyn PhysicalExpr>, DataFusionError> {
    expr.transform_up(|e| {
        let Some(binary) = e.downcast_ref::<BinaryExpr>() else {
            return Ok(Transformed::no(e));
        };
        let is_and = match binary.op() {
            Operator::And => true,
            Operator::Or => false,
            _ => return Ok(Transformed::no(e)),
        };
        if !physical_fallible(binary.right()) {
            return Ok(Transformed::no(e));
        }
        Ok(Transformed::yes(Arc::new(Guarded {
            is_and,
            left: Arc::clone(binary.left()),
            right: Arc::clone(binary.right()),
        }) as Arc<dyn PhysicalExpr>))
    })
    .map(|t| t.data)
}

fn physical_fallible(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let here = if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
        matches!(binary.op(), Operator::Divide | Operator::Modulo)
    } else if let Some(function) = expr.downcast_ref::<ScalarFunctionExpr>() {
        function
            .fun()
            .inner()
            .downcast_ref::<Native>()
            .is_none_or(|f| f.fallible)
    } else {
        expr.is::<CastExpr>()
    };
    here || expr.children().into_iter().any(physical_fallible)
}

/// Whether some row can make an expression fail.
pub(crate) fn fallible(expr: &Expr) -> bool {
    expr.exists(|e| {
        Ok(match e {
            Expr::BinaryExpr(b) => matches!(b.op, Operator::Divide | Operator::Modulo),
            Expr::ScalarFunction(f) => f.func.inner().downcast_ref::<Native>().is_none_or(|f| f.fallible),
            Expr::Cast(_) => true,
            _ => false,
        })
    })
    .unwrap_or(true)
}

/// AND or OR that spares the right side the rows on which the left side decides.
#[derive(Debug, Clone, Eq)]
struct Guarded {
    is_and: bool,
    left: Arc<dyn PhysicalExpr>,
    right: Arc<dyn PhysicalExpr>,
}

impl PartialEq for Guarded {
    fn eq(&self, other: &Self) -> bool {
        self.is_and == other.is_and && self.left.eq(&other.left) && self.right.eq(&other.right)
    }
}

impl Hash for Guarded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.is_and.hash(state);
        self.left.hash(state);
        self.right.hash(state);
    }
}

impl fmt::Display for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = if self.is_and { "AND" } else { "OR" };
        write!(f, "({} {op} {})", self.left, self.right)
    }
}

impl PhysicalExpr for Guarded {
    fn data_type(&self, _schema: &Schema) -> datafusion_common::Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, _schema: &Schema) -> datafusion_common::Result<bool> {
        Ok(true)
    }

    fn evaluate(&self, batch: &RecordBatch) -> datafusion_common::Result<ColumnarValue> {
        let rows = batch.num_rows();
        let left = self.left.evaluate(batch)?.into_array(rows)?;
        let left_values = left.as_boolean();
        let undecided: BooleanArray = left_values
            .iter()
            .map(|value| Some(value != Some(!self.is_and)))
            .collect();
        if undecided.true_count() == 0 {
            return Ok(ColumnarValue::Array(left));
        }
        let right = self
            .right
            .evaluate_selection(batch, &undecided)?
            .into_array(rows)?;
        let right_values = right.as_boolean();
        let result = if self.is_and {
            and_kleene(left_values, right_values)?
        } else {
            or_kleene(left_values, right_values)?
        };
        debug_assert_eq!(result.len(), rows);
        Ok(ColumnarValue::Array(Arc::new(result)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.left, &self.right]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> datafusion_common::Result<Arc<dyn PhysicalExpr>> {
        let [left, right] = <[_; 2]>::try_from(children)
            .map_err(|_| DataFusionError::Internal("AND and OR have two sides".into()))?;
        Ok(Arc::new(Guarded {
            is_and: self.is_and,
            left,
            right,
        }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
