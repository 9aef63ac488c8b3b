//! Aggregate functions and GROUP BY. The functions carry Flink's result types; workers evaluate them.

use super::expr::{Place, Scope};
use super::{Typed, call, operator};
use crate::error::{self, PlanError, Pos, Result};
use crate::functions::any_arguments;
use crate::nodes;
use crate::types;
use arrow::datatypes::DataType;
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, DataFusionError};
use datafusion_expr::expr::AggregateFunction as AggregateExpr;
use datafusion_expr::function::AccumulatorArgs;
use datafusion_expr::logical_plan::{Aggregate, Projection};
use datafusion_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Expr, LogicalPlan, Signature};
use holdfast_dataflow::graph::AggregateFunction;
use sqlparser::ast::{
    self, DuplicateTreatment, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr,
};
use std::sync::Arc;

/// The aggregates that exist.
pub(crate) const NAMES: &[&str] = &["COUNT", "SUM", "AVG", "MIN", "MAX"];

/// Aggregates and ranking functions of Flink that are not there yet.
const MISSING: &[&str] = &[
    "STDDEV",
    "STDDEV_POP",
    "STDDEV_SAMP",
    "VARIANCE",
    "VAR_POP",
    "VAR_SAMP",
    "FIRST_VALUE",
    "LAST_VALUE",
    "LISTAGG",
    "COLLECT",
    "APPROX_COUNT_DISTINCT",
    "ROW_NUMBER",
    "RANK",
    "DENSE_RANK",
    "PERCENT_RANK",
    "NTILE",
    "LAG",
    "LEAD",
    "CUME_DIST",
    "JSON_OBJECTAGG",
    "JSON_ARRAYAGG",
    "ARRAY_AGG",
    "SINGLE_VALUE",
];

/// Whether a name is an aggregate's.
pub(crate) fn is_aggregate(name: &str) -> bool {
    NAMES.contains(&name) || MISSING.contains(&name)
}

/// A function by name, with its result type fixed.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlinkAggregate {
    name: &'static str,
    result: DataType,
    signature: Signature,
}

impl FlinkAggregate {
    /// The form of the job graph.
    pub(crate) fn function(&self) -> AggregateFunction {
        match self.name {
            "COUNT" => AggregateFunction::Count,
            "SUM" => AggregateFunction::Sum,
            "AVG" => AggregateFunction::Avg,
            "MIN" => AggregateFunction::Min,
            _ => AggregateFunction::Max,
        }
    }

    /// Type of the result.
    pub(crate) fn result(&self) -> &DataType {
        &self.result
    }
}

impl AggregateUDFImpl for FlinkAggregate {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _args: &[DataType]) -> datafusion_common::Result<DataType> {
        Ok(self.result.clone())
    }

    fn accumulator(&self, _args: AccumulatorArgs<'_>) -> datafusion_common::Result<Box<dyn Accumulator>> {
        Err(DataFusionError::NotImplemented(
            "aggregates are evaluated by the window operator".into(),
        ))
    }
}

/// The type of an aggregate's result, by Flink's rules.
fn result_type(name: &str, arg: &DataType) -> Option<DataType> {
    match (name, arg) {
        ("COUNT", _) => Some(DataType::Int64),
        ("MIN" | "MAX", ty) => (types::is_numeric(ty)
            || types::is_temporal(ty)
            || matches!(ty, DataType::Utf8 | DataType::Boolean))
        .then(|| ty.clone()),
        ("SUM", DataType::Decimal128(_, s)) => Some(DataType::Decimal128(types::DECIMAL_MAX, *s)),
        ("AVG", DataType::Decimal128(_, s)) => Some(DataType::Decimal128(types::DECIMAL_MAX, (*s).max(6))),
        (_, ty) => types::is_numeric(ty).then(|| ty.clone()),
    }
}

/// Binds a call of an aggregate.
pub(crate) fn call(scope: &Scope<'_>, name: &str, call: &ast::Function) -> Result<Typed> {
    let pos = scope.pos;
    let Some(name) = NAMES.iter().copied().find(|known| *known == name) else {
        return Err(PlanError::unsupported(pos, &format!("the aggregate {name}"), ""));
    };
    if !scope.place.aggregates() {
        return Err(PlanError::new(
            pos,
            format!("the aggregate {name} cannot stand in {}", scope.place.name()),
        ));
    }
    let FunctionArguments::List(list) = &call.args else {
        return Err(PlanError::new(pos, format!("{name} takes one argument")));
    };
    if !list.clauses.is_empty() || call.null_treatment.is_some() {
        return Err(PlanError::unsupported(
            pos,
            &format!("ORDER BY, LIMIT or NULLS in {name}"),
            "",
        ));
    }
    let distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
    let inner = scope.at(Place::Aggregate);
    let argument = match list.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)] if name == "COUNT" && !distinct => None,
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))] => Some(inner.bind(expr)?),
        [_, _, ..] => {
            return Err(PlanError::unsupported(
                pos,
                &format!("{name} of several arguments"),
                "",
            ));
        }
        _ => return Err(PlanError::new(pos, format!("{name} takes one argument"))),
    };
    let filter = match &call.filter {
        Some(filter) => Some(operator::boolean(inner.bind(filter)?, "FILTER")?),
        None => None,
    };
    build(name, argument, distinct, filter, pos)
}

fn build(
    name: &'static str,
    argument: Option<Typed>,
    distinct: bool,
    filter: Option<Typed>,
    pos: Pos,
) -> Result<Typed> {
    // The number of rows of a constant is the number of rows.
    let argument =
        argument.filter(|a| !(name == "COUNT" && a.as_literal().is_some_and(|v| !v.is_null()) && !distinct));
    let result = match &argument {
        None => DataType::Int64,
        Some(arg) => result_type(name, &arg.ty).ok_or_else(|| {
            PlanError::new(arg.pos, format!("{name} does not take {}", types::name(&arg.ty)))
        })?,
    };
    let function = FlinkAggregate {
        name,
        result: result.clone(),
        signature: any_arguments(),
    };
    let expr = Expr::AggregateFunction(AggregateExpr::new_udf(
        Arc::new(AggregateUDF::new_from_impl(function)),
        argument.into_iter().map(|a| a.expr).collect(),
        distinct,
        filter.map(|f| Box::new(f.expr)),
        Vec::new(),
        None,
    ));
    Ok(Typed::new(expr, result, pos))
}

/// The expressions of GROUP BY.
pub(crate) fn group_by(scope: &Scope<'_>, group_by: &GroupByExpr) -> Result<Vec<Typed>> {
    let exprs = match group_by {
        GroupByExpr::Expressions(exprs, modifiers) if modifiers.is_empty() => exprs,
        _ => {
            return Err(PlanError::unsupported(
                scope.pos,
                "GROUP BY with ALL, ROLLUP, CUBE or TOTALS",
                "",
            ));
        }
    };
    let mut bound = Vec::with_capacity(exprs.len());
    for expr in exprs {
        if let ast::Expr::Function(function) = expr
            && call::is_legacy_window(&function.name.to_string())
        {
            let name = function.name.to_string().to_uppercase();
            return Err(call::legacy_window(&name, scope.pos.at(expr)));
        }
        let key = scope.at(Place::GroupBy).bind(expr)?;
        if key.as_literal().is_some() {
            return Err(PlanError::new(
                key.pos,
                "GROUP BY takes columns and expressions, not constants or positions",
            ));
        }
        bound.push(key);
    }
    Ok(bound)
}

/// Whether an expression holds an aggregate.
pub(crate) fn has_aggregate(expr: &Expr) -> bool {
    expr.exists(|e| Ok(matches!(e, Expr::AggregateFunction(_))))
        .unwrap_or(false)
}

/// Puts a windowed aggregation over `input` and rewrites `outputs` (SELECT list and HAVING) to refer to it.
pub(crate) fn aggregate(
    input: LogicalPlan,
    keys: Vec<Typed>,
    outputs: &mut [Typed],
    pos: Pos,
) -> Result<LogicalPlan> {
    check_window(&input, &keys, outputs, pos)?;
    let mut calls: Vec<Expr> = Vec::new();
    for output in outputs.iter() {
        output
            .expr
            .apply(|e| {
                if matches!(e, Expr::AggregateFunction(_)) && !calls.contains(e) {
                    calls.push(e.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
            .map_err(error::at(output.pos))?;
    }
    let mut prepared = Prepared::new(&input);
    let groups: Vec<Expr> = keys.iter().map(|k| prepared.column(&k.expr)).collect();
    let aggregates: Vec<Expr> = calls.iter().map(|c| prepared.aggregate(c)).collect();
    let input = prepared.plan(input).map_err(error::at(pos))?;
    let aggregate = Aggregate::try_new(Arc::new(input), groups, aggregates).map_err(error::at(pos))?;
    let plan = LogicalPlan::Aggregate(aggregate);
    let produced: Vec<Expr> = plan
        .schema()
        .iter()
        .map(|(relation, field)| Expr::Column(Column::new(relation.cloned(), field.name())))
        .collect();
    let known: Vec<(&Expr, &Expr)> = keys
        .iter()
        .map(|k| &k.expr)
        .chain(&calls)
        .zip(&produced)
        .collect();
    for output in outputs {
        output.expr = rebase(output.expr.clone(), &known, output.pos)?;
    }
    Ok(plan)
}

/// Replaces keys and aggregates by the aggregation's columns; what is neither is an error.
fn rebase(expr: Expr, known: &[(&Expr, &Expr)], pos: Pos) -> Result<Expr> {
    let mut stray = None;
    let rebased = expr
        .transform_down(|e| {
            if let Some((_, column)) = known.iter().find(|(from, _)| **from == e) {
                return Ok(Transformed::new((*column).clone(), true, TreeNodeRecursion::Jump));
            }
            if let Expr::Column(column) = &e {
                stray = stray.take().or_else(|| Some(column.clone()));
            }
            Ok(Transformed::no(e))
        })
        .map_err(error::at(pos))?;
    match stray {
        None => Ok(rebased.data),
        Some(column) => Err(PlanError::new(
            column_pos(&column, pos),
            format!(
                "the column '{}' must be in GROUP BY or inside of an aggregate function",
                column.name
            ),
        )),
    }
}

fn column_pos(column: &Column, fallback: Pos) -> Pos {
    let clamp = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    column.spans.first().map_or(fallback, |span| Pos {
        line: clamp(span.start.line),
        column: clamp(span.start.column),
    })
}

/// Only aggregations over windows exist so far.
fn check_window(input: &LogicalPlan, keys: &[Typed], outputs: &[Typed], pos: Pos) -> Result<()> {
    let props = nodes::props(input);
    let role = |key: &Typed| match &key.expr {
        Expr::Column(column) => input
            .schema()
            .maybe_index_of_column(column)
            .and_then(|i| props.role(i)),
        _ => None,
    };
    let has = |wanted: usize| keys.iter().any(|key| role(key) == Some(wanted));
    if has(0) && has(1) {
        return Ok(());
    }
    let place = keys
        .first()
        .map(|k| k.pos)
        .or_else(|| outputs.iter().find(|o| has_aggregate(&o.expr)).map(|o| o.pos))
        .unwrap_or(pos);
    if props.window.is_some() {
        let missing = if has(0) { "window_end" } else { "window_start" };
        return Err(PlanError::new(
            place,
            format!(
                "an aggregation over a window groups by window_start and window_end: add {missing} to GROUP BY"
            ),
        ));
    }
    let feature = if keys.is_empty() {
        "an aggregation without GROUP BY"
    } else {
        "GROUP BY without a window"
    };
    Err(PlanError::unsupported(
        place,
        feature,
        "read FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' HOUR)) and GROUP BY window_start, window_end",
    ))
}

/// Computes keys and arguments that are no plain columns before the aggregation.
struct Prepared {
    columns: Vec<Expr>,
    added: Vec<Expr>,
}

impl Prepared {
    fn new(input: &LogicalPlan) -> Self {
        let columns = input
            .schema()
            .iter()
            .map(|(relation, field)| Expr::Column(Column::new(relation.cloned(), field.name())))
            .collect();
        Prepared {
            columns,
            added: Vec::new(),
        }
    }

    fn name(index: usize) -> String {
        format!("$expr{index}")
    }

    /// The column that holds an expression's value.
    fn column(&mut self, expr: &Expr) -> Expr {
        if matches!(expr, Expr::Column(_)) {
            return expr.clone();
        }
        let index = self.added.iter().position(|e| e == expr).unwrap_or_else(|| {
            self.added.push(expr.clone());
            self.added.len() - 1
        });
        Expr::Column(Column::new_unqualified(Self::name(index)))
    }

    fn aggregate(&mut self, expr: &Expr) -> Expr {
        let Expr::AggregateFunction(call) = expr else {
            return expr.clone();
        };
        let mut call = call.clone();
        call.params.args = call.params.args.iter().map(|a| self.column(a)).collect();
        call.params.filter = call.params.filter.as_ref().map(|f| Box::new(self.column(f)));
        Expr::AggregateFunction(call)
    }

    fn plan(self, input: LogicalPlan) -> datafusion_common::Result<LogicalPlan> {
        if self.added.is_empty() {
            return Ok(input);
        }
        let mut exprs = self.columns;
        for (index, expr) in self.added.into_iter().enumerate() {
            exprs.push(expr.alias(Self::name(index)));
        }
        Projection::try_new(exprs, Arc::new(input)).map(LogicalPlan::Projection)
    }
}
