//! INSERT INTO: maps a query's columns to the table's, with the casts that Flink does by itself.

use super::query::Binder;
use super::{Typed, call, operator};
use crate::catalog::{Catalog, Table};
use crate::error::{self, PlanError, Pos, Result, hint};
use crate::parse::script::Insert;
use crate::types;
use datafusion_common::{Column, ScalarValue};
use datafusion_expr::logical_plan::Projection;
use datafusion_expr::{Expr, LogicalPlan};
use sqlparser::ast::{SelectItem, SetExpr};
use std::sync::Arc;

/// An INSERT whose plan has exactly the table's physical columns.
#[derive(Debug)]
pub(crate) struct BoundInsert {
    /// The target.
    pub table: Arc<Table>,
    /// The rows.
    pub plan: LogicalPlan,
    /// The statement's place.
    pub pos: Pos,
}

/// Binds an INSERT.
pub(crate) fn bind(catalog: &Catalog, insert: &Insert) -> Result<BoundInsert> {
    let pos = insert.pos;
    let table = Arc::clone(catalog.sink(&insert.table, pos)?);
    let targets = targets(&table, insert)?;
    let plan = Binder::new(catalog).query(&insert.query, pos)?;
    let given = plan.schema().fields().len();
    let places = places(insert);
    if given != targets.len() {
        let place = places.get(targets.len().min(places.len().saturating_sub(1)));
        return Err(PlanError::new(
            place.copied().unwrap_or(pos),
            format!(
                "INSERT INTO {}: the query has {given} columns, the target has {} ({})",
                table.name,
                targets.len(),
                targets
                    .iter()
                    .map(|i| table.physical.field(*i).name().as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        ));
    }
    let mut outputs = Vec::with_capacity(table.physical.fields().len());
    for (index, field) in table.physical.fields().iter().enumerate() {
        let source = targets.iter().position(|t| *t == index);
        let value = match source {
            Some(source) => {
                let (relation, input) = plan.schema().qualified_field(source);
                let column = Expr::Column(Column::new(relation.cloned(), input.name()));
                let place = places.get(source).copied().unwrap_or(pos);
                let nullable = input.is_nullable();
                (Typed::new(column, input.data_type().clone(), place), nullable)
            }
            None => (Typed::literal(ScalarValue::Null, pos), true),
        };
        outputs.push(assign(&table, field, value)?.alias(field.name()));
    }
    let plan = Projection::try_new(outputs, Arc::new(plan))
        .map(LogicalPlan::Projection)
        .map_err(error::at(pos))?;
    Ok(BoundInsert { table, plan, pos })
}

/// Indexes of the physical columns that the query's columns go to.
fn targets(table: &Table, insert: &Insert) -> Result<Vec<usize>> {
    if insert.columns.is_empty() {
        return Ok((0..table.physical.fields().len()).collect());
    }
    let mut targets = Vec::with_capacity(insert.columns.len());
    for column in &insert.columns {
        let pos = insert.pos.ident(column);
        let Ok(index) = table.physical.index_of(&column.value) else {
            let names = table.physical.fields().iter().map(|f| f.name().as_str());
            return Err(PlanError::new(
                pos,
                format!(
                    "the table {} has no column '{}' to insert into{}",
                    table.name,
                    column.value,
                    hint(&column.value, "columns", names)
                ),
            ));
        };
        if targets.contains(&index) {
            return Err(PlanError::new(
                pos,
                format!("the column '{}' is named twice", column.value),
            ));
        }
        targets.push(index);
    }
    Ok(targets)
}

/// Places of the query's columns, as far as the first SELECT list names them one by one.
fn places(insert: &Insert) -> Vec<Pos> {
    let mut body = insert.query.body.as_ref();
    let select = loop {
        match body {
            SetExpr::Select(select) => break select,
            SetExpr::Query(query) => body = query.body.as_ref(),
            SetExpr::SetOperation { left, .. } => body = left.as_ref(),
            _ => return Vec::new(),
        }
    };
    let named = |item: &SelectItem| {
        matches!(
            item,
            SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }
        )
    };
    select
        .projection
        .iter()
        .take_while(|item| named(item))
        .map(|item| insert.pos.at(item))
        .collect()
}

/// The value of a target column.
fn assign(table: &Table, field: &arrow::datatypes::Field, value: (Typed, bool)) -> Result<Expr> {
    let (value, nullable) = value;
    let pos = value.pos;
    let column = format!("{}.{}", table.name, field.name());
    if !types::implicit(&value.ty, field.data_type()) {
        return Err(PlanError::new(
            pos,
            format!(
                "the column {column} is {}, the query's column is {}: write CAST(... AS {})",
                types::name(field.data_type()),
                types::name(&value.ty),
                types::name(field.data_type())
            ),
        ));
    }
    let null = value.as_literal().is_some_and(ScalarValue::is_null);
    if null && !field.is_nullable() {
        return Err(PlanError::new(
            pos,
            format!("the column {column} is NOT NULL and gets no value"),
        ));
    }
    let value = operator::coerce(value, field.data_type())?;
    if nullable && !field.is_nullable() {
        return Ok(call::require_not_null(value, &column).expr);
    }
    Ok(value.expr)
}
