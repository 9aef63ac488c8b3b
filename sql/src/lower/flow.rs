//! Turns a logical plan into operators. Projections and filters are collected symbolically over the last real operator
//! and become one Calc where rows leave for an exchange, a window or a sink; over a union, one in each of its inputs.

use super::dag::{Dag, Exchange, Node};
use crate::catalog::Table;
use crate::error::{self, PlanError, Pos, Result};
use crate::nodes::{self, WINDOW_COLUMNS, Windows};
use crate::physical;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, DFSchema};
use datafusion_expr::utils::{conjunction, split_conjunction_owned};
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan, TableScan};
use holdfast_dataflow::connector::ConnectorRegistry;
use holdfast_dataflow::graph::{CalcSpec, OperatorSpec, SourceSpec, WatermarkSpec, WindowAssignSpec};
use std::sync::Arc;

/// Operators whose rows flow together, and the window that is still to be assigned to them.
#[derive(Debug, Clone)]
pub(super) struct Base {
    pub inputs: Vec<usize>,
    /// Columns with distinct names, including the window's three at the end if there is one.
    pub schema: SchemaRef,
    /// The windows and the time column.
    pub window: Option<(Windows, usize)>,
}

/// A base with what is still to be computed from it.
#[derive(Debug, Clone)]
pub(super) struct Branch {
    pub base: Base,
    pub columns: Vec<Expr>,
    pub filters: Vec<Expr>,
}

/// The inputs of a union, one below the other; mostly a single one.
pub(super) type Flow = Vec<Branch>;

impl Base {
    /// Whether an expression needs the window's columns.
    pub(super) fn needs_window(&self, expr: &Expr) -> bool {
        let width = self.schema.fields().len();
        self.window.is_some()
            && expr
                .column_refs()
                .iter()
                .any(|c| self.schema.index_of(&c.name).is_ok_and(|i| i + 3 >= width))
    }

    /// All columns as they are.
    pub(super) fn all(self) -> Branch {
        let columns = (0..self.schema.fields().len())
            .map(|i| column(&self.schema, i))
            .collect();
        Branch {
            base: self,
            columns,
            filters: Vec::new(),
        }
    }
}

/// Builds the operators of a job.
pub(super) struct Lowering<'a> {
    registry: &'a dyn ConnectorRegistry,
    pub(super) dag: Dag,
}

/// A reference to a column of a base.
pub(super) fn column(schema: &Schema, index: usize) -> Expr {
    Expr::Column(Column::new_unqualified(schema.field(index).name().clone()))
}

/// The index of a base column, if the expression is one.
fn column_index(expr: &Expr, schema: &Schema) -> Option<usize> {
    match expr {
        Expr::Column(c) => schema.index_of(&c.name).ok(),
        _ => None,
    }
}

/// Replaces a plan's columns by the flow's expressions.
fn substitute(expr: &Expr, schema: &DFSchema, columns: &[Expr], pos: Pos) -> Result<Expr> {
    expr.clone()
        .unalias_nested()
        .data
        .transform_up(|e| match &e {
            Expr::Column(c) => {
                let index = schema.index_of_column(c)?;
                Ok(Transformed::yes(columns[index].clone()))
            }
            _ => Ok(Transformed::no(e)),
        })
        .map(|t| t.data)
        .map_err(error::at(pos))
}

/// Field names made distinct.
pub(super) fn distinct_names(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for name in names {
        let mut candidate = name.clone();
        let mut n = 1;
        while out.contains(&candidate) {
            candidate = format!("{name}_{n}");
            n += 1;
        }
        out.push(candidate);
    }
    out
}

impl<'a> Lowering<'a> {
    pub(super) fn new(registry: &'a dyn ConnectorRegistry) -> Self {
        Lowering {
            registry,
            dag: Dag::default(),
        }
    }

    pub(super) fn finish(self) -> Dag {
        self.dag
    }

    /// Adds the operators of one INSERT.
    pub(super) fn insert(&mut self, table: &Table, plan: &LogicalPlan, pos: Pos) -> Result<()> {
        self.registry
            .sink(&table.spec)
            .map_err(|e| PlanError::new(table.error_pos(&e.to_string()), e.to_string()))?;
        let flow = self.flow(plan, pos)?;
        let base = self.materialize(flow, &table.physical, pos)?;
        self.dag.add(Node {
            spec: OperatorSpec::Sink(table.spec.clone()),
            schema: Arc::clone(&table.physical),
            inputs: base.inputs,
            exchange: Exchange::Forward,
        });
        Ok(())
    }

    pub(super) fn flow(&mut self, plan: &LogicalPlan, pos: Pos) -> Result<Flow> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan, pos),
            LogicalPlan::SubqueryAlias(alias) => self.flow(&alias.input, pos),
            LogicalPlan::Filter(filter) => {
                let mut flow = self.flow(&filter.input, pos)?;
                for branch in &mut flow {
                    let predicate =
                        substitute(&filter.predicate, filter.input.schema(), &branch.columns, pos)?;
                    branch.filters.extend(split_conjunction_owned(predicate));
                }
                Ok(flow)
            }
            LogicalPlan::Projection(projection) => {
                let schema = projection.input.schema();
                let mut flow = self.flow(&projection.input, pos)?;
                if flow
                    .iter()
                    .any(|branch| repeats_work(&projection.expr, schema, branch))
                {
                    flow = vec![self.settle(flow, schema, pos)?];
                }
                for branch in &mut flow {
                    branch.columns = projection
                        .expr
                        .iter()
                        .map(|e| substitute(e, schema, &branch.columns, pos))
                        .collect::<Result<_>>()?;
                }
                Ok(flow)
            }
            LogicalPlan::Union(union) => {
                let mut all = Vec::new();
                for input in &union.inputs {
                    all.extend(self.flow(input, pos)?);
                }
                Ok(all)
            }
            LogicalPlan::Aggregate(aggregate) => Ok(vec![self.aggregate(aggregate, plan.schema(), pos)?]),
            LogicalPlan::Extension(extension) => match nodes::window_tvf(extension) {
                Some(tvf) => Ok(vec![self.window(tvf, pos)?]),
                None => Err(unexpected(plan, pos)),
            },
            other => Err(unexpected(other, pos)),
        }
    }

    fn scan(&mut self, scan: &TableScan, pos: Pos) -> Result<Flow> {
        let table = nodes::scanned(&scan.source)
            .ok_or_else(|| PlanError::new(pos, format!("{} is no table", scan.table_name)))?;
        let base = Base {
            inputs: vec![self.source(table)?],
            schema: Arc::clone(&table.schema),
            window: None,
        };
        let mut branch = base.all();
        if let Some(indexes) = &scan.projection {
            branch.columns = indexes.iter().map(|i| branch.columns[*i].clone()).collect();
        }
        Ok(vec![branch])
    }

    fn source(&mut self, table: &Table) -> Result<usize> {
        let source = self
            .registry
            .source(&table.spec)
            .map_err(|e| PlanError::new(table.error_pos(&e.to_string()), e.to_string()))?;
        let pos = table.with_pos;
        let computed = match &table.computed {
            Some(exprs) => Some(CalcSpec {
                filter: None,
                projection: Some(
                    exprs
                        .iter()
                        .map(|e| physical::compile(e, &table.physical, pos))
                        .collect::<Result<_>>()?,
                ),
                schema: Arc::clone(&table.schema),
            }),
            None => None,
        };
        let watermark = match &table.watermark {
            Some((column, expr)) => Some(WatermarkSpec {
                column: *column,
                expression: physical::compile(expr, &table.schema, pos)?,
            }),
            None => None,
        };
        Ok(self.dag.add(Node {
            spec: OperatorSpec::Source(SourceSpec {
                table: table.spec.clone(),
                computed,
                watermark,
                bounded: source.bounded(),
            }),
            schema: Arc::clone(&table.schema),
            inputs: Vec::new(),
            exchange: Exchange::Forward,
        }))
    }

    fn window(&mut self, tvf: &nodes::WindowTvf, pos: Pos) -> Result<Branch> {
        let mut flow = self.flow(&tvf.input, pos)?;
        let picks = |branch: &Branch| {
            branch.base.window.is_none() && branch.columns.iter().all(|c| matches!(c, Expr::Column(_)))
        };
        // A time column that is only picked needs no operator before the window.
        let branch = match flow.pop() {
            Some(only) if flow.is_empty() && picks(&only) => only,
            last => {
                flow.extend(last);
                self.settle(flow, tvf.input.schema(), pos)?
            }
        };
        let index = tvf
            .input
            .schema()
            .index_of_column(&tvf.time)
            .map_err(error::at(pos))?;
        let time = column_index(&branch.columns[index], &branch.base.schema)
            .ok_or_else(|| PlanError::new(pos, "the time attribute is no column"))?;
        let schema = with_window(&branch.base.schema, time);
        let width = schema.fields().len();
        let mut columns = branch.columns;
        columns.extend((width - 3..width).map(|i| column(&schema, i)));
        Ok(Branch {
            base: Base {
                inputs: branch.base.inputs,
                schema,
                window: Some((tvf.windows, time)),
            },
            columns,
            filters: branch.filters,
        })
    }

    /// Makes everything pending into operators; the result's columns are plain.
    pub(super) fn settle(&mut self, flow: Flow, schema: &DFSchema, pos: Pos) -> Result<Branch> {
        Ok(self.materialize(flow, &plain_schema(schema), pos)?.all())
    }

    /// The operators whose output has exactly `wanted`'s columns.
    pub(super) fn materialize(&mut self, flow: Flow, wanted: &SchemaRef, pos: Pos) -> Result<Base> {
        let mut inputs = Vec::new();
        for branch in flow {
            inputs.extend(self.materialize_branch(branch, wanted, pos)?);
        }
        Ok(Base {
            inputs,
            schema: Arc::clone(wanted),
            window: None,
        })
    }

    fn materialize_branch(&mut self, branch: Branch, wanted: &SchemaRef, pos: Pos) -> Result<Vec<usize>> {
        let branch = self.assign_window(branch, pos)?;
        let base = &branch.base;
        let in_place = branch.columns.len() == base.schema.fields().len()
            && branch
                .columns
                .iter()
                .zip(wanted.fields())
                .enumerate()
                .all(|(i, (expr, field))| {
                    let same = base.schema.field(i);
                    column_index(expr, &base.schema) == Some(i)
                        && same.name() == field.name()
                        && same.data_type() == field.data_type()
                });
        let filter = ordered_conjunction(branch.filters);
        if in_place && filter.is_none() {
            return Ok(branch.base.inputs);
        }
        let projection = branch
            .columns
            .iter()
            .map(|e| physical::compile(e, &base.schema, pos))
            .collect::<Result<Vec<_>>>()?;
        let filter = filter
            .map(|f| physical::compile(&f, &base.schema, pos))
            .transpose()?;
        let spec = OperatorSpec::Calc(CalcSpec {
            filter,
            projection: (!in_place).then_some(projection),
            schema: Arc::clone(wanted),
        });
        Ok(self.forward(&branch.base.inputs, &spec, wanted))
    }

    /// One operator behind each of these.
    fn forward(&mut self, inputs: &[usize], spec: &OperatorSpec, schema: &SchemaRef) -> Vec<usize> {
        let mut add = |input: &usize| {
            self.dag.add(Node {
                spec: spec.clone(),
                schema: Arc::clone(schema),
                inputs: vec![*input],
                exchange: Exchange::Forward,
            })
        };
        inputs.iter().map(&mut add).collect()
    }

    /// Appends the window's columns by an operator of its own, if they are still to come. Filters that do not need them
    /// stay before it, and only columns that are read go through it.
    fn assign_window(&mut self, branch: Branch, pos: Pos) -> Result<Branch> {
        let Some((windows, time)) = branch.base.window else {
            return Ok(branch);
        };
        let (late, early): (Vec<Expr>, Vec<Expr>) = branch
            .filters
            .into_iter()
            .partition(|f| branch.base.needs_window(f));
        let width = branch.base.schema.fields().len() - 3;
        let read = |i: usize| {
            let name = branch.base.schema.field(i).name();
            let reads = |e: &Expr| e.column_refs().iter().any(|c| c.name == *name);
            i == time || branch.columns.iter().chain(&late).any(reads)
        };
        let kept: Vec<usize> = (0..width).filter(|i| read(*i)).collect();
        let time_column = kept.iter().position(|i| *i == time).unwrap_or(0);
        let below = Branch {
            columns: kept.iter().map(|i| column(&branch.base.schema, *i)).collect(),
            filters: early,
            base: Base {
                inputs: branch.base.inputs,
                schema: Arc::new(project(&branch.base.schema, 0..width)),
                window: None,
            },
        };
        let wanted = Arc::new(project(&branch.base.schema, kept.iter().copied()));
        let inputs = self.materialize_branch(below, &wanted, pos)?;
        let schema = Arc::new(project(
            &branch.base.schema,
            kept.into_iter().chain(width..width + 3),
        ));
        let spec = OperatorSpec::WindowAssign(WindowAssignSpec {
            kind: windows.kind(),
            time_column,
        });
        Ok(Branch {
            base: Base {
                inputs: self.forward(&inputs, &spec, &schema),
                schema,
                window: None,
            },
            columns: branch.columns,
            filters: late,
        })
    }
}

fn project(schema: &Schema, indexes: impl IntoIterator<Item = usize>) -> Schema {
    let fields: Vec<Arc<Field>> = indexes
        .into_iter()
        .map(|i| Arc::clone(&schema.fields()[i]))
        .collect();
    Schema::new(fields)
}

/// The columns with the window's three behind them.
fn with_window(schema: &Schema, time: usize) -> SchemaRef {
    let types = nodes::window_types(schema.field(time).data_type());
    let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
    let names = fields.iter().map(|f| f.name().clone());
    let names = distinct_names(names.chain(WINDOW_COLUMNS.iter().map(|n| (*n).to_owned())));
    for (name, ty) in names[schema.fields().len()..].iter().zip(types) {
        fields.push(Arc::new(Field::new(name, ty, true)));
    }
    Arc::new(Schema::new(fields))
}

fn unexpected(plan: &LogicalPlan, pos: Pos) -> PlanError {
    PlanError::new(
        pos,
        format!("the plan node {} is not supported yet", plan.display()),
    )
}

/// The input column that a plain expression is.
pub(super) fn plain_index(expr: &Expr, schema: &DFSchema, pos: Pos) -> Result<usize> {
    match expr {
        Expr::Column(c) => schema.index_of_column(c).map_err(error::at(pos)),
        Expr::Alias(alias) => plain_index(&alias.expr, schema, pos),
        other => Err(PlanError::new(pos, format!("{other} is no column"))),
    }
}

/// A plan's columns without qualifiers, under distinct names.
pub(super) fn plain_schema(schema: &DFSchema) -> SchemaRef {
    let names = distinct_names(schema.fields().iter().map(|f| f.name().clone()));
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .zip(names)
        .map(|(f, name)| Field::new(name, f.data_type().clone(), true))
        .collect();
    Arc::new(Schema::new(fields))
}

/// The field that holds an expression's value.
pub(super) fn typed_field(expr: &Expr, schema: &SchemaRef, name: &str, pos: Pos) -> Result<Field> {
    let columns = DFSchema::try_from(Arc::clone(schema)).map_err(error::at(pos))?;
    let ty = expr.get_type(&columns).map_err(error::at(pos))?;
    Ok(Field::new(name, ty, true))
}

/// Whether a projection would compute a pending expression more than once.
fn repeats_work(exprs: &[Expr], schema: &DFSchema, branch: &Branch) -> bool {
    let mut uses = vec![0usize; branch.columns.len()];
    for expr in exprs {
        let _ = expr.apply(|e| {
            if let Expr::Column(c) = e
                && let Some(index) = schema.maybe_index_of_column(c)
            {
                uses[index] += 1;
            }
            Ok(TreeNodeRecursion::Continue)
        });
    }
    uses.iter()
        .zip(&branch.columns)
        .any(|(uses, column)| *uses > 1 && !matches!(column, Expr::Column(_) | Expr::Literal(..)))
}

/// All conditions; those that cannot fail come first, so that they keep bad rows from the others.
fn ordered_conjunction(filters: Vec<Expr>) -> Option<Expr> {
    let always = |f: &Expr| {
        matches!(
            f,
            Expr::Literal(datafusion_common::ScalarValue::Boolean(Some(true)), _)
        )
    };
    let (fallible, safe): (Vec<Expr>, Vec<Expr>) = filters
        .into_iter()
        .filter(|f| !always(f))
        .partition(physical::fallible);
    conjunction(safe.into_iter().chain(fallible))
}
