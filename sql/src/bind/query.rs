//! Queries: FROM, WHERE, GROUP BY, HAVING, SELECT, UNION ALL, WITH. What Flink has beyond that is refused by name.

use super::expr::{Place, Scope};
use super::{Typed, aggregate, operator, window};
use crate::catalog::{Catalog, Relation};
use crate::error::{self, PlanError, Pos, Result};
use crate::nodes::ScanSource;
use crate::parse::script::simple_name;
use crate::types;
use arrow::datatypes::DataType;
use datafusion_common::{Column, TableReference};
use datafusion_expr::logical_plan::{Filter, Projection, SubqueryAlias, Union};
use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use sqlparser::ast::{
    self, GroupByExpr, Ident, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr,
    SetOperator, SetQuantifier, Spanned, TableAlias, TableFactor,
};
use std::sync::Arc;

/// Binds queries against a catalogue and the WITH clauses around them.
pub(crate) struct Binder<'a> {
    catalog: &'a Catalog,
    ctes: Vec<(String, LogicalPlan)>,
}

impl<'a> Binder<'a> {
    /// A binder without WITH clauses.
    pub(crate) fn new(catalog: &'a Catalog) -> Self {
        Binder {
            catalog,
            ctes: Vec::new(),
        }
    }

    /// Binds a query.
    pub(crate) fn query(&self, query: &Query, pos: Pos) -> Result<LogicalPlan> {
        let pos = pos.at(query);
        refuse_query_clauses(query, pos)?;
        let mut inner = Binder {
            catalog: self.catalog,
            ctes: self.ctes.clone(),
        };
        if let Some(with) = &query.with {
            if with.recursive {
                return Err(PlanError::unsupported(pos, "WITH RECURSIVE", ""));
            }
            for cte in &with.cte_tables {
                let pos = pos.ident(&cte.alias.name);
                let plan = inner.query(&cte.query, pos)?;
                let columns: Vec<Ident> = cte.alias.columns.iter().map(|c| c.name.clone()).collect();
                let plan = rename(plan, &columns, pos)?;
                inner.ctes.push((cte.alias.name.value.clone(), plan));
            }
        }
        inner.set_expr(&query.body, pos)
    }

    fn set_expr(&self, body: &SetExpr, pos: Pos) -> Result<LogicalPlan> {
        match body {
            SetExpr::Select(select) => self.select(select, pos.at(select.as_ref())),
            SetExpr::Query(query) => self.query(query, pos),
            SetExpr::SetOperation {
                left,
                op,
                set_quantifier,
                right,
            } => {
                let at = pos.at(right.as_ref());
                match (op, set_quantifier) {
                    (SetOperator::Union, SetQuantifier::All) => {
                        let left = self.set_expr(left, pos)?;
                        let right = self.set_expr(right, at)?;
                        union(left, right, at)
                    }
                    (SetOperator::Union, _) => {
                        Err(PlanError::unsupported(at, "UNION without ALL", "write UNION ALL"))
                    }
                    (other, _) => Err(PlanError::unsupported(at, &other.to_string(), "")),
                }
            }
            SetExpr::Table(table) => {
                let name = table.table_name.clone().unwrap_or_default();
                self.named(&Ident::new(name), pos)
            }
            SetExpr::Values(_) => Err(PlanError::unsupported(pos, "VALUES", "read rows from a table")),
            _ => Err(PlanError::new(pos, "syntax error: expected SELECT")),
        }
    }

    /// A table, view or WITH query by name.
    pub(crate) fn named(&self, name: &Ident, pos: Pos) -> Result<LogicalPlan> {
        let pos = pos.ident(name);
        let qualifier = TableReference::bare(name.value.clone());
        if let Some((_, plan)) = self.ctes.iter().rev().find(|(known, _)| *known == name.value) {
            return alias(plan.clone(), qualifier, pos);
        }
        match self.catalog.relation(&name.value) {
            Some(Relation::View(plan)) => alias(plan.clone(), qualifier, pos),
            Some(Relation::Table(table)) => {
                let source = Arc::new(ScanSource(Arc::clone(table)));
                LogicalPlanBuilder::scan(qualifier, source, None)
                    .and_then(LogicalPlanBuilder::build)
                    .map_err(error::at(pos))
            }
            None => {
                let ctes = self.ctes.iter().map(|(name, _)| name.as_str());
                let mut error = self.catalog.unknown(&name.value, pos, std::iter::empty());
                let hint = error::did_you_mean(&name.value, ctes);
                if !error.message.contains("did you mean") {
                    error.message += &hint;
                }
                Err(error)
            }
        }
    }

    fn select(&self, select: &Select, pos: Pos) -> Result<LogicalPlan> {
        refuse_select_clauses(select, pos)?;
        let mut plan = self.from(select, pos)?;
        if let Some(condition) = &select.selection {
            let schema = Arc::clone(plan.schema());
            let scope = Scope {
                schema: &schema,
                place: Place::Where,
                pos,
            };
            let condition = operator::boolean(scope.bind(condition)?, "WHERE")?;
            plan = filter(plan, condition)?;
        }
        let schema = Arc::clone(plan.schema());
        let scope = Scope {
            schema: &schema,
            place: Place::Select,
            pos,
        };
        let keys = aggregate::group_by(&scope, &select.group_by)?;
        let (names, mut outputs) = select_list(&scope, &select.projection)?;
        let having = match &select.having {
            Some(having) => Some(operator::boolean(
                scope.at(Place::Having).bind(having)?,
                "HAVING",
            )?),
            None => None,
        };
        let grouped =
            !keys.is_empty() || having.is_some() || outputs.iter().any(|o| aggregate::has_aggregate(&o.expr));
        if grouped {
            let has_having = having.is_some();
            outputs.extend(having);
            plan = aggregate::aggregate(plan, keys, &mut outputs, pos)?;
            if has_having && let Some(condition) = outputs.pop() {
                plan = filter(plan, condition)?;
            }
        }
        project(plan, names, outputs, pos)
    }

    fn from(&self, select: &Select, pos: Pos) -> Result<LogicalPlan> {
        let (relation, joins) = match select.from.as_slice() {
            [] => {
                return Err(PlanError::unsupported(
                    pos,
                    "SELECT without FROM",
                    "read rows from a table, for example with the connector 'datagen'",
                ));
            }
            [only] => (&only.relation, &only.joins),
            [_, second, ..] => {
                return Err(PlanError::unsupported(
                    pos.at(&second.relation),
                    "a join (two tables in FROM)",
                    "",
                ));
            }
        };
        if let Some(join) = joins.first() {
            return Err(PlanError::unsupported(pos.at(&join.relation), "a JOIN", ""));
        }
        self.table_factor(relation, pos.at(relation))
    }

    fn table_factor(&self, factor: &TableFactor, pos: Pos) -> Result<LogicalPlan> {
        match factor {
            TableFactor::Table {
                name,
                alias,
                args,
                version,
                sample,
                with_ordinality,
                partitions,
                ..
            } => {
                if version.is_some() {
                    return Err(PlanError::unsupported(pos, "FOR SYSTEM_TIME AS OF", ""));
                }
                if sample.is_some() || *with_ordinality || !partitions.is_empty() {
                    return Err(PlanError::unsupported(
                        pos,
                        "TABLESAMPLE, WITH ORDINALITY or PARTITION in FROM",
                        "",
                    ));
                }
                let plan = match args {
                    Some(args) => window::table_function(self, &name.to_string(), &args.args, pos)?,
                    None => self.named(&simple_name(name, pos)?, pos)?,
                };
                aliased(plan, alias.as_ref(), pos)
            }
            TableFactor::Derived {
                lateral: false,
                subquery,
                alias,
                sample: None,
            } => aliased(self.query(subquery, pos)?, alias.as_ref(), pos),
            TableFactor::TableFunction { expr, alias } => {
                aliased(window::table_expression(self, expr, pos)?, alias.as_ref(), pos)
            }
            TableFactor::NestedJoin {
                table_with_joins,
                alias,
            } if table_with_joins.joins.is_empty() => aliased(
                self.table_factor(&table_with_joins.relation, pos)?,
                alias.as_ref(),
                pos,
            ),
            other => Err(PlanError::unsupported(pos, refused_factor(other), "")),
        }
    }
}

fn refused_factor(factor: &TableFactor) -> &'static str {
    match factor {
        TableFactor::Derived { .. } | TableFactor::Function { .. } => "LATERAL",
        TableFactor::UNNEST { .. } => "UNNEST",
        TableFactor::NestedJoin { .. } => "a JOIN",
        TableFactor::MatchRecognize { .. } => "MATCH_RECOGNIZE",
        TableFactor::Pivot { .. } | TableFactor::Unpivot { .. } => "PIVOT",
        _ => "this kind of table in FROM",
    }
}

fn refuse_query_clauses(query: &Query, pos: Pos) -> Result<()> {
    let at = |span: sqlparser::tokenizer::Span| pos.or_span(span);
    if let Some(order) = &query.order_by {
        return Err(PlanError::unsupported(
            at(order.span()),
            "ORDER BY",
            "a stream has no end at which it could be sorted; sort the output files",
        ));
    }
    if let Some(limit) = &query.limit_clause {
        return Err(PlanError::unsupported(at(limit.span()), "LIMIT or OFFSET", ""));
    }
    if query.fetch.is_some() {
        return Err(PlanError::unsupported(pos, "FETCH FIRST", ""));
    }
    if !query.locks.is_empty()
        || query.for_clause.is_some()
        || query.settings.is_some()
        || query.format_clause.is_some()
        || !query.pipe_operators.is_empty()
    {
        return Err(PlanError::new(
            pos,
            "syntax error: FOR, SETTINGS, FORMAT and |> are not Flink's SQL",
        ));
    }
    Ok(())
}

fn refuse_select_clauses(select: &Select, pos: Pos) -> Result<()> {
    if matches!(
        select.distinct,
        Some(ast::Distinct::Distinct | ast::Distinct::On(_))
    ) {
        return Err(PlanError::unsupported(
            pos,
            "SELECT DISTINCT",
            "GROUP BY window_start, window_end and the columns, over a window",
        ));
    }
    if let Some(qualify) = &select.qualify {
        return Err(PlanError::unsupported(pos.at(qualify), "QUALIFY", ""));
    }
    if let Some(window) = select.named_window.first() {
        return Err(PlanError::unsupported(pos.ident(&window.0), "WINDOW", ""));
    }
    let foreign = select.top.is_some()
        || select.into.is_some()
        || select.exclude.is_some()
        || !select.lateral_views.is_empty()
        || select.prewhere.is_some()
        || !select.connect_by.is_empty()
        || !select.cluster_by.is_empty()
        || !select.distribute_by.is_empty()
        || !select.sort_by.is_empty()
        || select.value_table_mode.is_some()
        || select.select_modifiers.is_some();
    if foreign {
        return Err(PlanError::new(
            pos,
            "syntax error: the SELECT has a clause that is not Flink's SQL",
        ));
    }
    if let GroupByExpr::All(_) = select.group_by {
        return Err(PlanError::new(
            pos,
            "syntax error: GROUP BY ALL is not Flink's SQL",
        ));
    }
    Ok(())
}

/// Names and expressions of a SELECT list, wildcards expanded.
fn select_list(scope: &Scope<'_>, items: &[SelectItem]) -> Result<(Vec<String>, Vec<Typed>)> {
    let mut names: Vec<String> = Vec::new();
    let mut outputs: Vec<Typed> = Vec::new();
    for item in items {
        let pos = scope.pos.at(item);
        match item {
            SelectItem::Wildcard(_) => expand(scope, None, pos, &mut names, &mut outputs)?,
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(table), _) => {
                let table = simple_name(table, pos)?;
                expand(scope, Some(&table.value), pos, &mut names, &mut outputs)?;
            }
            SelectItem::UnnamedExpr(expr) => {
                let name = match expr {
                    ast::Expr::Identifier(name) => name.value.clone(),
                    ast::Expr::CompoundIdentifier(parts) => {
                        parts.last().map(|p| p.value.clone()).unwrap_or_default()
                    }
                    _ => format!("EXPR${}", outputs.len()),
                };
                outputs.push(scope.bind(expr)?);
                names.push(name);
            }
            SelectItem::ExprWithAlias { expr, alias } => {
                outputs.push(scope.bind(expr)?);
                names.push(alias.value.clone());
            }
            _ => return Err(PlanError::new(pos, "syntax error in the SELECT list")),
        }
    }
    for (typed, name) in outputs.iter().zip(&names) {
        if types::is_interval(&typed.ty) {
            return Err(PlanError::unsupported(
                typed.pos,
                &format!("a column '{name}' of type INTERVAL"),
                "",
            ));
        }
    }
    Ok((unique(names), outputs))
}

/// Names made distinct as Flink does: `a`, `a0`, `a1`.
fn unique(names: Vec<String>) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        let mut candidate = name.clone();
        let mut n = 0;
        while out.contains(&candidate) {
            candidate = format!("{name}{n}");
            n += 1;
        }
        out.push(candidate);
    }
    out
}

fn expand(
    scope: &Scope<'_>,
    table: Option<&str>,
    pos: Pos,
    names: &mut Vec<String>,
    outputs: &mut Vec<Typed>,
) -> Result<()> {
    let before = outputs.len();
    for (relation, field) in scope.schema.iter() {
        if table.is_none_or(|t| relation.is_some_and(|r| r.table() == t)) {
            let column = Column::new(relation.cloned(), field.name());
            outputs.push(Typed::new(Expr::Column(column), field.data_type().clone(), pos));
            names.push(field.name().clone());
        }
    }
    match table {
        Some(table) if outputs.len() == before => Err(PlanError::new(
            pos,
            format!("unknown table '{table}' in '{table}.*'"),
        )),
        _ => Ok(()),
    }
}

fn filter(plan: LogicalPlan, condition: Typed) -> Result<LogicalPlan> {
    Filter::try_new(condition.expr, Arc::new(plan))
        .map(LogicalPlan::Filter)
        .map_err(error::at(condition.pos))
}

fn project(plan: LogicalPlan, names: Vec<String>, outputs: Vec<Typed>, pos: Pos) -> Result<LogicalPlan> {
    let exprs = outputs
        .into_iter()
        .zip(names)
        .map(|(output, name)| output.expr.alias(name))
        .collect();
    Projection::try_new(exprs, Arc::new(plan))
        .map(LogicalPlan::Projection)
        .map_err(error::at(pos))
}

fn alias(plan: LogicalPlan, name: TableReference, pos: Pos) -> Result<LogicalPlan> {
    SubqueryAlias::try_new(Arc::new(plan), name)
        .map(LogicalPlan::SubqueryAlias)
        .map_err(error::at(pos))
}

fn aliased(plan: LogicalPlan, table_alias: Option<&TableAlias>, pos: Pos) -> Result<LogicalPlan> {
    let Some(table_alias) = table_alias else {
        return Ok(plan);
    };
    let columns: Vec<Ident> = table_alias.columns.iter().map(|c| c.name.clone()).collect();
    let plan = rename(plan, &columns, pos)?;
    alias(plan, TableReference::bare(table_alias.name.value.clone()), pos)
}

/// Gives a plan's columns new names: `AS t (a, b)`, and the columns of a view.
pub(crate) fn rename(plan: LogicalPlan, columns: &[Ident], pos: Pos) -> Result<LogicalPlan> {
    if columns.is_empty() {
        return Ok(plan);
    }
    let width = plan.schema().fields().len();
    if columns.len() != width {
        return Err(PlanError::new(
            pos,
            format!(
                "{} column names are given, the query has {width} columns",
                columns.len()
            ),
        ));
    }
    for (n, column) in columns.iter().enumerate() {
        if columns[..n].iter().any(|c| c.value == column.value) {
            return Err(PlanError::new(
                pos.ident(column),
                format!("the column '{}' is named twice", column.value),
            ));
        }
    }
    let outputs = plan
        .schema()
        .iter()
        .map(|(relation, field)| {
            let column = Column::new(relation.cloned(), field.name());
            Typed::new(Expr::Column(column), field.data_type().clone(), pos)
        })
        .collect();
    project(
        plan,
        columns.iter().map(|c| c.value.clone()).collect(),
        outputs,
        pos,
    )
}

/// Two queries under each other, in their common types and the first one's names.
fn union(left: LogicalPlan, right: LogicalPlan, pos: Pos) -> Result<LogicalPlan> {
    let (width, other) = (left.schema().fields().len(), right.schema().fields().len());
    if width != other {
        return Err(PlanError::new(
            pos,
            format!("UNION ALL of {width} and {other} columns: both sides need the same number"),
        ));
    }
    let names: Vec<String> = left.schema().fields().iter().map(|f| f.name().clone()).collect();
    let mut common = Vec::with_capacity(width);
    for (n, (a, b)) in left
        .schema()
        .fields()
        .iter()
        .zip(right.schema().fields())
        .enumerate()
    {
        let ty = types::common(a.data_type(), b.data_type()).ok_or_else(|| {
            PlanError::new(
                pos,
                format!(
                    "column {} of UNION ALL is {} on one side and {} on the other: write a CAST",
                    n + 1,
                    types::name(a.data_type()),
                    types::name(b.data_type())
                ),
            )
        })?;
        common.push(ty);
    }
    let side = |plan: LogicalPlan| cast_columns(plan, &common, names.clone(), pos).map(Arc::new);
    Union::try_new(vec![side(left)?, side(right)?])
        .map(LogicalPlan::Union)
        .map_err(error::at(pos))
}

fn cast_columns(plan: LogicalPlan, wanted: &[DataType], names: Vec<String>, pos: Pos) -> Result<LogicalPlan> {
    let outputs = plan
        .schema()
        .iter()
        .zip(wanted)
        .map(|((relation, field), ty)| {
            let column = Expr::Column(Column::new(relation.cloned(), field.name()));
            operator::coerce(Typed::new(column, field.data_type().clone(), pos), ty)
        })
        .collect::<Result<Vec<_>>>()?;
    project(plan, names, outputs, pos)
}
