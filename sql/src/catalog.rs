//! The script's tables and views. Binds their definitions; knows nothing of connectors beyond the options' text.

use crate::bind::expr::{Place, Scope};
use crate::bind::operator;
use crate::error::{self, PlanError, Pos, Result, did_you_mean};
use crate::parse::ddl::{ColumnKind, CreateTable, WatermarkDef};
use crate::types;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion_common::{DFSchema, TableReference};
use datafusion_expr::{Expr, LogicalPlan};
use holdfast_dataflow::graph::TableSpec;
use sqlparser::ast::Ident;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A table with everything bound.
#[derive(Debug)]
pub(crate) struct Table {
    /// Its name.
    pub name: String,
    /// All columns, computed ones included.
    pub schema: SchemaRef,
    /// What the connector reads or writes.
    pub physical: SchemaRef,
    /// One expression per column over the physical ones, if any column is computed.
    pub computed: Option<Vec<Expr>>,
    /// The time attribute and its watermark, over all columns.
    pub watermark: Option<(usize, Expr)>,
    /// Connector and options.
    pub spec: TableSpec,
    /// Place of the WITH clause.
    pub with_pos: Pos,
    /// Place of every option.
    pub option_pos: BTreeMap<String, Pos>,
}

impl Table {
    /// Where an error of the connector belongs: the first option that its text names, else the WITH clause.
    pub(crate) fn error_pos(&self, message: &str) -> Pos {
        self.option_pos
            .iter()
            .filter(|(key, _)| message.contains(&format!("'{key}'")))
            .max_by_key(|(key, _)| key.len())
            .map_or(self.with_pos, |(_, pos)| *pos)
    }
}

/// Tables and views by name.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    tables: BTreeMap<String, Arc<Table>>,
    views: BTreeMap<String, LogicalPlan>,
}

/// What a name in FROM stands for.
pub(crate) enum Relation<'a> {
    Table(&'a Arc<Table>),
    View(&'a LogicalPlan),
}

impl Catalog {
    /// The table or view of a name.
    pub(crate) fn relation(&self, name: &str) -> Option<Relation<'_>> {
        self.tables
            .get(name)
            .map(Relation::Table)
            .or_else(|| self.views.get(name).map(Relation::View))
    }

    /// The target of an INSERT.
    pub(crate) fn sink(&self, name: &Ident, pos: Pos) -> Result<&Arc<Table>> {
        let pos = pos.ident(name);
        match self.relation(&name.value) {
            Some(Relation::Table(table)) => Ok(table),
            Some(Relation::View(_)) => Err(PlanError::new(
                pos,
                format!("'{}' is a view: INSERT INTO needs a table", name.value),
            )),
            None => Err(self.unknown(&name.value, pos, std::iter::empty())),
        }
    }

    /// The error for a name that is not there.
    pub(crate) fn unknown<'a>(
        &'a self,
        name: &str,
        pos: Pos,
        more: impl Iterator<Item = &'a str>,
    ) -> PlanError {
        let known = self.tables.keys().chain(self.views.keys()).map(String::as_str);
        PlanError::new(
            pos,
            format!("unknown table '{name}'{}", did_you_mean(name, known.chain(more))),
        )
    }

    /// Whether a name is free; with IF NOT EXISTS, a taken one is no error.
    fn free(&self, name: &Ident, if_not_exists: bool, pos: Pos) -> Result<bool> {
        if self.relation(&name.value).is_none() {
            return Ok(true);
        }
        if if_not_exists {
            return Ok(false);
        }
        Err(PlanError::new(
            pos.ident(name),
            format!("a table or view '{}' exists already", name.value),
        ))
    }

    /// Adds a view whose query is bound. Its columns get the view's names.
    pub(crate) fn add_view(
        &mut self,
        name: &Ident,
        if_not_exists: bool,
        plan: LogicalPlan,
        pos: Pos,
    ) -> Result<()> {
        if self.free(name, if_not_exists, pos)? {
            self.views.insert(name.value.clone(), plan);
        }
        Ok(())
    }

    /// Binds and adds a table.
    pub(crate) fn add_table(&mut self, def: &CreateTable, pos: Pos) -> Result<()> {
        if self.free(&def.name, def.if_not_exists, pos)? {
            let table = bind_table(def, pos)?;
            self.tables.insert(table.name.clone(), Arc::new(table));
        }
        Ok(())
    }
}

fn bind_table(def: &CreateTable, pos: Pos) -> Result<Table> {
    let name = def.name.value.clone();
    check_names(def, pos)?;
    let key = primary_key(def)?;
    let physical: Fields = def
        .columns
        .iter()
        .filter_map(|column| match &column.kind {
            ColumnKind::Physical(ty) => {
                let nullable = ty.nullable && !key.contains(&column.name.value.as_str());
                Some(Field::new(&column.name.value, ty.data.clone(), nullable))
            }
            ColumnKind::Computed(_) => None,
        })
        .collect();
    if physical.is_empty() {
        return Err(PlanError::new(
            pos,
            format!("the table '{name}' has no physical column"),
        ));
    }
    let physical = Arc::new(Schema::new(physical));
    let (schema, computed) = columns(def, &name, &physical, pos)?;
    let watermark = match &def.watermark {
        Some(watermark) => Some(bind_watermark(watermark, &name, &schema)?),
        None => None,
    };
    let mut options: BTreeMap<String, String> = def
        .options
        .iter()
        .map(|(key, _, value)| (key.clone(), value.clone()))
        .collect();
    let connector = options.remove("connector").ok_or_else(|| {
        PlanError::new(
            def.with_pos,
            format!("the table '{name}' needs WITH ('connector' = '...', ...)"),
        )
    })?;
    Ok(Table {
        spec: TableSpec {
            name: name.clone(),
            connector,
            options,
            schema: Arc::clone(&physical),
        },
        name,
        schema,
        physical,
        computed,
        watermark,
        with_pos: def.with_pos,
        option_pos: def
            .options
            .iter()
            .map(|(key, pos, _)| (key.clone(), *pos))
            .collect(),
    })
}

fn check_names(def: &CreateTable, pos: Pos) -> Result<()> {
    for (n, column) in def.columns.iter().enumerate() {
        if def.columns[..n].iter().any(|c| c.name.value == column.name.value) {
            return Err(PlanError::new(
                pos.ident(&column.name),
                format!("the column '{}' is defined twice", column.name.value),
            ));
        }
    }
    Ok(())
}

/// Names of the primary key's columns.
fn primary_key(def: &CreateTable) -> Result<Vec<&str>> {
    let Some((pos, columns)) = &def.primary_key else {
        return Ok(Vec::new());
    };
    for column in columns {
        let physical = def
            .columns
            .iter()
            .any(|c| c.name.value == column.value && matches!(c.kind, ColumnKind::Physical(_)));
        if !physical {
            return Err(PlanError::new(
                pos.ident(column),
                format!("PRIMARY KEY: the table has no physical column '{}'", column.value),
            ));
        }
    }
    Ok(columns.iter().map(|c| c.value.as_str()).collect())
}

fn scope_schema(table: &str, schema: &Schema) -> Result<DFSchema> {
    DFSchema::try_from_qualified_schema(TableReference::bare(table), schema)
        .map_err(error::at(Pos::default()))
}

/// All columns in order, and their expressions over the physical ones if any is computed.
fn columns(
    def: &CreateTable,
    name: &str,
    physical: &SchemaRef,
    pos: Pos,
) -> Result<(SchemaRef, Option<Vec<Expr>>)> {
    if physical.fields().len() == def.columns.len() {
        return Ok((Arc::clone(physical), None));
    }
    let over = scope_schema(name, physical)?;
    let mut fields = Vec::with_capacity(def.columns.len());
    let mut exprs = Vec::with_capacity(def.columns.len());
    for column in &def.columns {
        match &column.kind {
            ColumnKind::Physical(_) => {
                let field = physical
                    .field_with_name(&column.name.value)
                    .map_err(|e| PlanError::new(pos, e.to_string()))?;
                fields.push(field.clone());
                exprs.push(Expr::Column(datafusion_common::Column::new_unqualified(
                    &column.name.value,
                )));
            }
            ColumnKind::Computed(expr) => {
                let scope = Scope {
                    schema: &over,
                    place: Place::Table,
                    pos: pos.ident(&column.name),
                };
                let bound = scope.bind(expr)?;
                if matches!(bound.ty, DataType::Null | DataType::Interval(_)) {
                    return Err(PlanError::new(
                        bound.pos,
                        format!(
                            "a column cannot have the type {}: write a CAST",
                            types::name(&bound.ty)
                        ),
                    ));
                }
                fields.push(Field::new(&column.name.value, bound.ty, true));
                exprs.push(unqualified(bound.expr)?);
            }
        }
    }
    Ok((Arc::new(Schema::new(fields)), Some(exprs)))
}

/// Column references without their table, as the operators use them.
fn unqualified(expr: Expr) -> Result<Expr> {
    use datafusion_common::tree_node::{Transformed, TreeNode};
    expr.transform(|e| {
        Ok(match e {
            Expr::Column(column) => Transformed::yes(Expr::Column(
                datafusion_common::Column::new_unqualified(column.name),
            )),
            other => Transformed::no(other),
        })
    })
    .map(|t| t.data)
    .map_err(error::at(Pos::default()))
}

fn bind_watermark(def: &WatermarkDef, table: &str, schema: &SchemaRef) -> Result<(usize, Expr)> {
    let pos = def.pos.ident(&def.column);
    let Ok(index) = schema.index_of(&def.column.value) else {
        let names = schema.fields().iter().map(|f| f.name().as_str());
        return Err(PlanError::new(
            pos,
            format!(
                "WATERMARK: unknown column '{}'{}",
                def.column.value,
                did_you_mean(&def.column.value, names)
            ),
        ));
    };
    let ty = schema.field(index).data_type();
    if !matches!(ty, DataType::Timestamp(..)) {
        return Err(PlanError::new(
            pos,
            format!(
                "the column '{}' of a WATERMARK is TIMESTAMP(3) or TIMESTAMP_LTZ(3), not {}",
                def.column.value,
                types::name(ty)
            ),
        ));
    }
    let over = scope_schema(table, schema)?;
    let scope = Scope {
        schema: &over,
        place: Place::Table,
        pos: def.pos,
    };
    let bound = scope.bind(&def.expression)?;
    let fits = matches!((&bound.ty, ty), (DataType::Timestamp(_, a), DataType::Timestamp(_, b)) if a == b);
    if !fits {
        return Err(PlanError::new(
            bound.pos,
            format!(
                "a watermark on {} must be {}, not {}",
                def.column.value,
                types::name(ty),
                types::name(&bound.ty)
            ),
        ));
    }
    let bound = operator::coerce(bound, ty)?;
    Ok((index, unqualified(bound.expr)?))
}
