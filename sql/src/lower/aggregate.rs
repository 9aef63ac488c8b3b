//! Window aggregations. Directly over a window table function, the operator assigns the windows itself; over rows that
//! carry their window already, it groups them by the window's last instant.

use super::dag::{Exchange, Node};
use super::flow::{Base, Branch, Lowering, column, distinct_names, plain_index, plain_schema, typed_field};
use crate::error::{self, PlanError, Pos, Result};
use crate::functions::{Native, time};
use crate::nodes::{self, Windows};
use arrow::datatypes::Schema;
use datafusion_common::DFSchema;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_expr::Expr;
use datafusion_expr::logical_plan::Aggregate;
use holdfast_dataflow::graph::{AggregateSpec, OperatorSpec, WindowAggregateSpec, WindowOutput};
use std::sync::Arc;

impl Lowering<'_> {
    pub(super) fn aggregate(&mut self, aggregate: &Aggregate, output: &DFSchema, pos: Pos) -> Result<Branch> {
        let props = nodes::props(&aggregate.input);
        let window = props
            .window
            .as_ref()
            .ok_or_else(|| PlanError::new(pos, "an aggregation without a window"))?;
        let input_schema = aggregate.input.schema();
        let mut flow = self.flow(&aggregate.input, pos)?;
        let mut roles = Vec::with_capacity(aggregate.group_expr.len());
        for key in &aggregate.group_expr {
            let index = plain_index(key, input_schema, pos)?;
            roles.push((index, props.role(index)));
        }
        let call = Call::new(aggregate, input_schema, pos)?;
        let direct = flow.len() == 1 && flow.iter_mut().all(|branch| split_filters(branch, &call, &roles));
        let (branch, kind, time) = if let Some(branch) = if direct { flow.pop() } else { None } {
            (branch, window.windows, None)
        } else {
            let branch = self.settle(flow, input_schema, pos)?;
            // Rows carry their window: a tumbling window of one slide around window_time holds exactly the rows of
            // one window, because the ends of two windows lie one slide apart.
            let attached = Windows {
                size_ms: window.windows.slide_ms,
                ..window.windows
            };
            let time = attached_time(&branch, &window.roles, &roles)?;
            (branch, attached, Some(time))
        };
        let post = call.post.take();
        let spec = AggregateBuild {
            call: &call,
            roles: &roles,
            windows: kind,
            time,
        };
        let base = self.window_aggregate(branch, &spec, output, pos)?;
        let mut columns: Vec<Expr> = (0..base.schema.fields().len())
            .map(|i| column(&base.schema, i))
            .collect();
        if !direct && !window.windows.tumbles() {
            restore_starts(&mut columns, &roles, window.windows);
        }
        let filters = post
            .iter()
            .map(|f| rebase_post(f, &roles, &columns, pos))
            .collect::<Result<_>>()?;
        Ok(Branch {
            base,
            columns,
            filters,
        })
    }

    fn window_aggregate(
        &mut self,
        branch: Branch,
        build: &AggregateBuild<'_>,
        output: &DFSchema,
        pos: Pos,
    ) -> Result<Base> {
        // Before the exchange: keys, arguments and the time, each once.
        let mut sent: Vec<Expr> = Vec::new();
        let mut names: Vec<String> = Vec::new();
        let mut send = |expr: &Expr, fallback: &str| {
            sent.iter().position(|e| e == expr).unwrap_or_else(|| {
                names.push(match expr {
                    Expr::Column(c) => c.name.clone(),
                    _ => fallback.to_owned(),
                });
                sent.push(expr.clone());
                sent.len() - 1
            })
        };
        let keys: Vec<usize> = build
            .roles
            .iter()
            .filter(|(_, role)| role.is_none())
            .map(|(index, _)| send(&branch.columns[*index], "key"))
            .collect();
        let aggregates = build.call.specs(|index| send(&branch.columns[index], "argument"));
        let time = match (&build.time, branch.base.window) {
            (Some(expr), _) => expr.clone(),
            (None, Some((_, time))) => column(&branch.base.schema, time),
            (None, None) => return Err(PlanError::new(pos, "the window has no time column")),
        };
        let time_column = send(&time, "window_time");
        let base = Base {
            window: None,
            ..branch.base
        };
        let fields = sent
            .iter()
            .zip(distinct_names(names.into_iter()))
            .map(|(expr, name)| typed_field(expr, &base.schema, &name, pos))
            .collect::<Result<Vec<_>>>()?;
        let below = Branch {
            base,
            columns: sent,
            filters: branch.filters,
        };
        let below = self.materialize(vec![below], &Arc::new(Schema::new(fields)), pos)?;
        let exchange = if keys.is_empty() {
            Exchange::Single
        } else {
            Exchange::Hash(keys.clone())
        };
        let schema = plain_schema(output);
        let id = self.dag.add(Node {
            spec: OperatorSpec::WindowAggregate(WindowAggregateSpec {
                kind: build.windows.kind(),
                time_column,
                keys,
                aggregates,
                output: outputs(build),
            }),
            schema: Arc::clone(&schema),
            inputs: below.inputs,
            exchange,
        });
        Ok(Base {
            inputs: vec![id],
            schema,
            window: None,
        })
    }
}

/// Moves filters on the window's bounds behind the aggregation. False if the window is assigned already, or must be
/// because something else before the aggregation needs its columns.
fn split_filters(branch: &mut Branch, call: &Call, roles: &[(usize, Option<usize>)]) -> bool {
    if branch.base.window.is_none() {
        return false;
    }
    let keys = roles
        .iter()
        .filter(|(_, role)| role.is_none())
        .map(|(index, _)| index);
    let mut needed = call.columns.iter().chain(keys);
    if needed.any(|i| branch.base.needs_window(&branch.columns[*i])) {
        return false;
    }
    // Every column of a filter that moves must be a key or a bound that the aggregation emits.
    let grouped: Vec<&Expr> = roles.iter().map(|(index, _)| &branch.columns[*index]).collect();
    let movable = |f: &Expr| {
        f.column_refs()
            .iter()
            .all(|c| grouped.iter().any(|g| matches!(g, Expr::Column(k) if k == *c)))
    };
    let (moving, staying): (Vec<Expr>, Vec<Expr>) = branch
        .filters
        .iter()
        .cloned()
        .partition(|f| branch.base.needs_window(f));
    if !moving.iter().all(movable) {
        return false;
    }
    call.post.borrow_mut().extend(moving.into_iter().map(|f| {
        let keys = grouped.iter().map(|g| (*g).clone()).collect();
        (f, keys)
    }));
    branch.filters = staying;
    true
}

/// What a window aggregation is built from.
struct AggregateBuild<'a> {
    call: &'a Call,
    /// Per grouping expression: the input's column, and its role if it is a bound of the window.
    roles: &'a [(usize, Option<usize>)],
    windows: Windows,
    /// The time, if rows carry their window already.
    time: Option<Expr>,
}

fn outputs(build: &AggregateBuild<'_>) -> Vec<WindowOutput> {
    let mut key = 0;
    let groups = build.roles.iter().map(|(_, role)| match role {
        Some(0) => WindowOutput::Start,
        Some(1) => WindowOutput::End,
        Some(_) => WindowOutput::Time,
        None => {
            key += 1;
            WindowOutput::Key(key - 1)
        }
    });
    let groups: Vec<WindowOutput> = groups.collect();
    let aggregates = (0..build.call.functions.len()).map(WindowOutput::Aggregate);
    groups.into_iter().chain(aggregates).collect()
}

/// The aggregate calls of a plan, their arguments as the input's columns.
struct Call {
    functions: Vec<(AggregateSpec, Option<usize>, Option<usize>)>,
    columns: Vec<usize>,
    /// Filters that run behind the aggregation, with the expressions that its keys had before it.
    post: std::cell::RefCell<Vec<(Expr, Vec<Expr>)>>,
}

impl Call {
    fn new(aggregate: &Aggregate, schema: &DFSchema, pos: Pos) -> Result<Self> {
        use crate::bind::aggregate::FlinkAggregate;
        let mut functions = Vec::with_capacity(aggregate.aggr_expr.len());
        let mut columns = Vec::new();
        for expr in &aggregate.aggr_expr {
            let bare = expr.clone().unalias();
            let Expr::AggregateFunction(call) = &bare else {
                return Err(PlanError::new(pos, format!("{expr} is no aggregate")));
            };
            let Some(function) = call.func.inner().downcast_ref::<FlinkAggregate>() else {
                return Err(PlanError::new(
                    pos,
                    format!("the aggregate {} is unknown", call.func.name()),
                ));
            };
            let argument = call
                .params
                .args
                .first()
                .map(|a| plain_index(a, schema, pos))
                .transpose()?;
            let filter = call
                .params
                .filter
                .as_ref()
                .map(|f| plain_index(f, schema, pos))
                .transpose()?;
            columns.extend(argument.into_iter().chain(filter));
            let spec = AggregateSpec {
                function: function.function(),
                argument: None,
                filter: None,
                distinct: call.params.distinct,
                result: function.result().clone(),
            };
            functions.push((spec, argument, filter));
        }
        Ok(Call {
            functions,
            columns,
            post: std::cell::RefCell::default(),
        })
    }

    /// The calls with their arguments placed by `send`.
    fn specs(&self, mut send: impl FnMut(usize) -> usize) -> Vec<AggregateSpec> {
        self.functions
            .iter()
            .map(|(spec, argument, filter)| AggregateSpec {
                argument: argument.map(&mut send),
                filter: filter.map(&mut send),
                ..spec.clone()
            })
            .collect()
    }
}

/// The instant by which rows that carry their window are aggregated: their window's last millisecond.
fn attached_time(
    branch: &Branch,
    carried: &[Option<usize>],
    roles: &[(usize, Option<usize>)],
) -> Result<Expr> {
    if let Some(time) = carried.iter().position(|role| *role == Some(2)) {
        return Ok(branch.columns[time].clone());
    }
    let end = roles
        .iter()
        .find(|(_, role)| *role == Some(1))
        .map(|(index, _)| branch.columns[*index].clone())
        .ok_or_else(|| PlanError::new(Pos::default(), "the aggregation has no window_end"))?;
    Ok(shifted(end, -1, "- INTERVAL '0.001' SECOND"))
}

/// A window bound moved by milliseconds.
fn shifted(bound: Expr, millis: i64, text: &str) -> Expr {
    let ty = arrow::datatypes::DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, None);
    Native::new("INTERVAL", ty, time::add_interval)
        .params(vec![0, millis])
        .text(text)
        .fallible(true)
        .call(vec![bound])
}

/// The start of a hopping window from its end: the attached aggregation knows only the last slide.
fn restore_starts(columns: &mut [Expr], roles: &[(usize, Option<usize>)], windows: Windows) {
    let Some(end) = roles.iter().position(|(_, role)| *role == Some(1)) else {
        return;
    };
    let end = columns[end].clone();
    let seconds = windows.size_ms as f64 / 1000.0;
    for (position, (_, role)) in roles.iter().enumerate() {
        if *role == Some(0) {
            let text = format!("- INTERVAL '{seconds}' SECOND");
            columns[position] = shifted(end.clone(), -windows.size_ms, &text);
        }
    }
}

/// A filter over keys and bounds, as a filter over the aggregation's output.
fn rebase_post(
    (filter, keys): &(Expr, Vec<Expr>),
    roles: &[(usize, Option<usize>)],
    columns: &[Expr],
    pos: Pos,
) -> Result<Expr> {
    debug_assert_eq!(keys.len(), roles.len());
    filter
        .clone()
        .transform_up(|e| match keys.iter().position(|key| *key == e) {
            Some(position) => Ok(Transformed::yes(columns[position].clone())),
            None => Ok(Transformed::no(e)),
        })
        .map(|t| t.data)
        .map_err(error::at(pos))
}
