//! Binds expressions: resolves columns, and hands operators, constants and calls to their files.

use super::{Typed, call, literal, operator, special};
use crate::error::{PlanError, Pos, Result, did_you_mean, hint};
use crate::functions::decimal::Op;
use crate::functions::{Native, pattern, time};
use crate::types;
use arrow::datatypes::DataType;
use datafusion_common::{Column, DFSchema, Spans};
use datafusion_expr::{Expr, Operator};
use sqlparser::ast::{
    self, BinaryOperator, CaseWhen, CastKind, CeilFloorKind, Ident, TrimWhereField, UnaryOperator, Value,
};

/// Where an expression stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// SELECT list.
    Select,
    /// HAVING.
    Having,
    /// WHERE.
    Where,
    /// GROUP BY.
    GroupBy,
    /// Inside of an aggregate.
    Aggregate,
    /// A computed column or a watermark.
    Table,
}

impl Place {
    /// How errors name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Place::Select => "SELECT",
            Place::Having => "HAVING",
            Place::Where => "WHERE",
            Place::GroupBy => "GROUP BY",
            Place::Aggregate => "an aggregate function",
            Place::Table => "a table's definition",
        }
    }

    /// Whether aggregates may stand there.
    pub(crate) fn aggregates(self) -> bool {
        matches!(self, Place::Select | Place::Having)
    }
}

/// Binds expressions over one set of columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    /// The columns.
    pub schema: &'a DFSchema,
    /// What the expressions are part of.
    pub place: Place,
    /// Place of nodes for which the parser kept none.
    pub pos: Pos,
}

impl Scope<'_> {
    /// The same columns elsewhere.
    pub(crate) fn at(self, place: Place) -> Self {
        Scope { place, ..self }
    }

    /// Binds an expression.
    pub(crate) fn bind(&self, expr: &ast::Expr) -> Result<Typed> {
        let pos = self.pos.at(expr);
        let scope = Scope { pos, ..*self };
        match expr {
            ast::Expr::Identifier(name) => scope.column(None, name),
            ast::Expr::CompoundIdentifier(parts) => scope.compound(parts),
            ast::Expr::Nested(inner) => scope.bind(inner),
            ast::Expr::Value(value) => literal::value(&value.value, pos.or_span(value.span)),
            ast::Expr::TypedString(typed) => literal::typed_string(typed, pos),
            ast::Expr::Interval(interval) => literal::interval(interval, pos),
            ast::Expr::UnaryOp { op, expr } => scope.unary(op, expr),
            ast::Expr::BinaryOp { left, op, right } => scope.binary(left, op, right),
            ast::Expr::IsDistinctFrom(a, b) => {
                operator::compare(scope.bind(a)?, Operator::IsDistinctFrom, scope.bind(b)?, pos)
            }
            ast::Expr::IsNotDistinctFrom(a, b) => {
                operator::compare(scope.bind(a)?, Operator::IsNotDistinctFrom, scope.bind(b)?, pos)
            }
            ast::Expr::InList { expr, list, negated } => {
                let list = list.iter().map(|e| scope.bind(e)).collect::<Result<Vec<_>>>()?;
                operator::in_list(scope.bind(expr)?, list, *negated, pos)
            }
            ast::Expr::Between {
                expr,
                negated,
                low,
                high,
            } => operator::between(
                scope.bind(expr)?,
                *negated,
                scope.bind(low)?,
                scope.bind(high)?,
                pos,
            ),
            ast::Expr::Case {
                operand,
                conditions,
                else_result,
                ..
            } => scope.case(operand.as_deref(), conditions, else_result.as_deref()),
            ast::Expr::Like {
                negated,
                any: false,
                expr,
                pattern,
                escape_char,
            } => scope.like(expr, pattern, escape_char.as_ref().map(|v| &v.value), *negated),
            ast::Expr::Cast {
                kind,
                expr,
                data_type,
                ..
            } => scope.cast(kind, expr, data_type),
            _ => scope.special(expr),
        }
    }

    /// Syntax that stands for a function.
    fn special(&self, expr: &ast::Expr) -> Result<Typed> {
        let pos = self.pos;
        let truth = |e: &ast::Expr, f: fn(Box<Expr>) -> Expr| {
            let value = operator::boolean(self.bind(e)?, "IS TRUE, IS FALSE and IS UNKNOWN")?;
            Ok(Typed::new(f(Box::new(value.expr)), DataType::Boolean, pos))
        };
        match expr {
            ast::Expr::IsNull(e) => self.is_null(e, Expr::IsNull),
            ast::Expr::IsNotNull(e) => self.is_null(e, Expr::IsNotNull),
            ast::Expr::IsTrue(e) => truth(e, Expr::IsTrue),
            ast::Expr::IsNotTrue(e) => truth(e, Expr::IsNotTrue),
            ast::Expr::IsFalse(e) => truth(e, Expr::IsFalse),
            ast::Expr::IsNotFalse(e) => truth(e, Expr::IsNotFalse),
            ast::Expr::IsUnknown(e) => truth(e, Expr::IsUnknown),
            ast::Expr::IsNotUnknown(e) => truth(e, Expr::IsNotUnknown),
            ast::Expr::Function(function) => call::function(self, function),
            ast::Expr::Extract { field, expr, .. } => self.extract(&field.to_string(), expr),
            ast::Expr::Ceil { expr, field } => self.floor_ceil("CEIL", expr, field),
            ast::Expr::Floor { expr, field } => self.floor_ceil("FLOOR", expr, field),
            ast::Expr::Position { expr, r#in } => {
                call::plain(self, "LOCATE", vec![self.bind(expr)?, self.bind(r#in)?])
            }
            ast::Expr::Substring {
                expr,
                substring_from,
                substring_for,
                ..
            } => {
                let mut args = vec![self.bind(expr)?];
                for part in [substring_from, substring_for].into_iter().flatten() {
                    args.push(self.bind(part)?);
                }
                call::plain(self, "SUBSTRING", args)
            }
            ast::Expr::Trim {
                trim_where,
                trim_what,
                expr,
                trim_characters: None,
            } => {
                let name = match trim_where {
                    Some(TrimWhereField::Leading) => "LTRIM",
                    Some(TrimWhereField::Trailing) => "RTRIM",
                    _ => "TRIM",
                };
                let mut args = vec![self.bind(expr)?];
                if let Some(what) = trim_what {
                    args.push(self.bind(what)?);
                }
                call::plain(self, name, args)
            }
            other => Err(refused(other, pos)),
        }
    }

    fn is_null(&self, expr: &ast::Expr, f: fn(Box<Expr>) -> Expr) -> Result<Typed> {
        let value = self.bind(expr)?;
        Ok(Typed::new(f(Box::new(value.expr)), DataType::Boolean, self.pos))
    }

    fn compound(&self, parts: &[Ident]) -> Result<Typed> {
        match parts {
            [name] => self.column(None, name),
            [table, name] => self.column(Some(table), name),
            [c, d, table, name] if c.value == "default_catalog" && d.value == "default_database" => {
                self.column(Some(table), name)
            }
            _ => Err(PlanError::unsupported(
                self.pos,
                "a nested field",
                "ROW types are not supported yet",
            )),
        }
    }

    /// Resolves a column, by Flink's rules: names are case-sensitive.
    fn column(&self, table: Option<&Ident>, name: &Ident) -> Result<Typed> {
        let pos = self.pos.ident(name);
        let mut found = None;
        for (relation, field) in self.schema.iter() {
            let in_table = table.is_none_or(|t| relation.is_some_and(|r| r.table() == t.value));
            if in_table && field.name() == &name.value {
                if found.is_some() {
                    return Err(PlanError::new(
                        pos,
                        format!(
                            "the column '{}' is ambiguous: write it with its table",
                            name.value
                        ),
                    ));
                }
                found = Some((relation, field));
            }
        }
        let Some((relation, field)) = found else {
            return Err(self.unknown_column(table, name, pos));
        };
        let location = |column: u64| datafusion_common::Location {
            line: u64::from(pos.line),
            column,
        };
        let column = u64::from(pos.column);
        let mut spans = Spans::new();
        spans.add_span(datafusion_common::Span::new(location(column), location(column)));
        let column = Column {
            relation: relation.cloned(),
            name: field.name().clone(),
            spans,
        };
        Ok(Typed::new(Expr::Column(column), field.data_type().clone(), pos))
    }

    fn unknown_column(&self, table: Option<&Ident>, name: &Ident, pos: Pos) -> PlanError {
        if let Some(table) = table
            && !self
                .schema
                .iter()
                .any(|(relation, _)| relation.is_some_and(|r| r.table() == table.value))
        {
            let mut tables: Vec<&str> = self
                .schema
                .iter()
                .filter_map(|(r, _)| r.map(|r| r.table()))
                .collect();
            tables.dedup();
            let here = match tables.as_slice() {
                [only] => format!("; the table here is called '{only}'"),
                all => did_you_mean(&table.value, all.iter().copied()),
            };
            return PlanError::new(
                self.pos.ident(table),
                format!("unknown table '{}' in '{table}.{name}'{here}", table.value),
            );
        }
        let names = self.schema.fields().iter().map(|f| f.name().as_str());
        let columns = hint(&name.value, "columns", names);
        PlanError::new(pos, format!("unknown column '{}'{columns}", name.value))
    }

    fn unary(&self, op: &UnaryOperator, expr: &ast::Expr) -> Result<Typed> {
        let pos = self.pos;
        let value = self.bind(expr)?;
        match op {
            UnaryOperator::Not => {
                let value = operator::boolean(value, "NOT")?;
                Ok(Typed::new(
                    Expr::Not(Box::new(value.expr)),
                    DataType::Boolean,
                    pos,
                ))
            }
            UnaryOperator::Plus if types::is_numeric(&value.ty) => Ok(value),
            UnaryOperator::Minus => {
                if let Some(negative) = value.as_literal().and_then(literal::negate) {
                    return Ok(Typed::literal(negative, pos));
                }
                if !types::is_numeric(&value.ty) {
                    return Err(PlanError::new(
                        pos,
                        format!("the operator - does not exist for {}", types::name(&value.ty)),
                    ));
                }
                // As 0 - x, which wraps for the least integer as in Java.
                let zero = Typed::literal(
                    datafusion_common::ScalarValue::new_zero(&value.ty).map_err(crate::error::at(pos))?,
                    pos,
                );
                let ty = value.ty.clone();
                let negative = operator::arithmetic(zero, Op::Subtract, value, pos)?;
                operator::coerce(negative, &ty)
            }
            other => Err(PlanError::unsupported(pos, &format!("the operator {other}"), "")),
        }
    }

    fn binary(&self, left: &ast::Expr, op: &BinaryOperator, right: &ast::Expr) -> Result<Typed> {
        let pos = self.pos;
        let (a, b) = (self.bind(left)?, self.bind(right)?);
        match op {
            BinaryOperator::And => operator::logic(a, Operator::And, b, pos),
            BinaryOperator::Or => operator::logic(a, Operator::Or, b, pos),
            BinaryOperator::Eq => operator::compare(a, Operator::Eq, b, pos),
            BinaryOperator::NotEq => operator::compare(a, Operator::NotEq, b, pos),
            BinaryOperator::Lt => operator::compare(a, Operator::Lt, b, pos),
            BinaryOperator::LtEq => operator::compare(a, Operator::LtEq, b, pos),
            BinaryOperator::Gt => operator::compare(a, Operator::Gt, b, pos),
            BinaryOperator::GtEq => operator::compare(a, Operator::GtEq, b, pos),
            BinaryOperator::Plus => operator::arithmetic(a, Op::Add, b, pos),
            BinaryOperator::Minus => operator::arithmetic(a, Op::Subtract, b, pos),
            BinaryOperator::Multiply => operator::arithmetic(a, Op::Multiply, b, pos),
            BinaryOperator::Divide => operator::arithmetic(a, Op::Divide, b, pos),
            BinaryOperator::Modulo => operator::arithmetic(a, Op::Modulo, b, pos),
            BinaryOperator::StringConcat => operator::concat(a, b, pos),
            other => Err(PlanError::unsupported(pos, &format!("the operator {other}"), "")),
        }
    }

    fn case(
        &self,
        operand: Option<&ast::Expr>,
        conditions: &[CaseWhen],
        otherwise: Option<&ast::Expr>,
    ) -> Result<Typed> {
        let operand = operand.map(|e| self.bind(e)).transpose()?;
        let mut whens = Vec::with_capacity(conditions.len());
        let mut results = Vec::with_capacity(conditions.len());
        for branch in conditions {
            let when = self.bind(&branch.condition)?;
            let pos = when.pos;
            whens.push(match &operand {
                Some(operand) => operator::compare(operand.clone(), Operator::Eq, when, pos)?,
                None => when,
            });
            results.push(self.bind(&branch.result)?);
        }
        let otherwise = otherwise.map(|e| self.bind(e)).transpose()?;
        operator::case(whens, results, otherwise, self.pos)
    }

    fn like(
        &self,
        value: &ast::Expr,
        pattern: &ast::Expr,
        escape: Option<&Value>,
        negated: bool,
    ) -> Result<Typed> {
        let pos = self.pos;
        let (value, pattern) = (self.bind(value)?, self.bind(pattern)?);
        for side in [&value, &pattern] {
            if !matches!(side.ty, DataType::Utf8 | DataType::Null) {
                return Err(PlanError::new(
                    side.pos,
                    format!("LIKE takes STRING, not {}", types::name(&side.ty)),
                ));
            }
        }
        let escape = match escape {
            None => String::new(),
            Some(Value::SingleQuotedString(text)) if text.chars().count() == 1 => text.clone(),
            Some(other) => {
                return Err(PlanError::new(
                    pos,
                    format!("ESCAPE takes one character, not {other}"),
                ));
            }
        };
        if let Some(text) = pattern.as_text() {
            pattern::like_regex(text, escape.chars().next()).map_err(|e| PlanError::new(pattern.pos, e))?;
        }
        let args = vec![
            operator::coerce(value, &DataType::Utf8)?.expr,
            operator::coerce(pattern, &DataType::Utf8)?.expr,
        ];
        let like = Native::new("LIKE", DataType::Boolean, pattern::like)
            .text(&escape)
            .fallible(!escape.is_empty())
            .call(args);
        let expr = if negated { Expr::Not(Box::new(like)) } else { like };
        Ok(Typed::new(expr, DataType::Boolean, pos))
    }

    fn cast(&self, kind: &CastKind, expr: &ast::Expr, ty: &ast::DataType) -> Result<Typed> {
        let pos = self.pos;
        let is_try = match kind {
            CastKind::Cast => false,
            CastKind::TryCast => true,
            CastKind::SafeCast => {
                return Err(PlanError::new(
                    pos,
                    "SAFE_CAST is written TRY_CAST in Flink's SQL",
                ));
            }
            CastKind::DoubleColon => return Err(PlanError::new(pos, "a cast is written CAST(x AS type)")),
        };
        let value = self.bind(expr)?;
        let target = types::from_ast(ty, pos)?;
        if !types::castable(&value.ty, &target.data) {
            let advice = match (&value.ty, &target.data) {
                (from, DataType::Timestamp(..)) if types::is_numeric(from) => ": use TO_TIMESTAMP_LTZ",
                (DataType::Timestamp(..), to) if types::is_numeric(to) => ": use TIMESTAMPDIFF or EXTRACT",
                _ => "",
            };
            return Err(PlanError::new(
                pos,
                format!(
                    "{} cannot be cast to {}{advice}",
                    types::name(&value.ty),
                    types::name(&target.data)
                ),
            ));
        }
        if value.ty == DataType::Null {
            return operator::coerce(value, &target.data);
        }
        if value.ty == target.data && target.length.is_none() {
            return Ok(Typed { pos, ..value });
        }
        Ok(Typed {
            pos,
            ..operator::cast_to(value, &target, is_try)
        })
    }

    /// `EXTRACT(part FROM time)`
    pub(crate) fn extract(&self, part: &str, expr: &ast::Expr) -> Result<Typed> {
        let value = self.bind(expr)?;
        let part = time::Part::parse(part)
            .ok_or_else(|| PlanError::unsupported(self.pos, &format!("EXTRACT({part} FROM ...)"), ""))?;
        special::extract(part, value, self.pos)
    }

    fn floor_ceil(&self, name: &'static str, expr: &ast::Expr, field: &CeilFloorKind) -> Result<Typed> {
        let value = self.bind(expr)?;
        match field {
            CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime) => {
                special::floor_ceil(name, value, self.pos)
            }
            CeilFloorKind::DateTimeField(field) => {
                let part = time::Part::parse(&field.to_string()).ok_or_else(|| {
                    PlanError::unsupported(self.pos, &format!("{name}(... TO {field})"), "")
                })?;
                special::round_to(name, part, value, self.pos)
            }
            CeilFloorKind::Scale(_) => Err(PlanError::new(
                self.pos,
                format!("{name} takes one argument; use ROUND(x, digits)"),
            )),
        }
    }
}

/// The refusal of an expression by its name.
fn refused(expr: &ast::Expr, pos: Pos) -> PlanError {
    let (name, advice) = match expr {
        ast::Expr::InSubquery { .. } => ("IN (SELECT ...)", "list the values"),
        ast::Expr::Exists { .. } => ("EXISTS (SELECT ...)", ""),
        ast::Expr::Subquery(_) => ("a scalar subquery", ""),
        ast::Expr::SimilarTo { .. } => ("SIMILAR TO", "use REGEXP(text, pattern)"),
        ast::Expr::ILike { .. } => ("ILIKE", "use LOWER(text) LIKE pattern"),
        ast::Expr::RLike { .. } => ("RLIKE", "use REGEXP(text, pattern)"),
        ast::Expr::Overlay { .. } => ("OVERLAY", ""),
        ast::Expr::AtTimeZone { .. } => ("AT TIME ZONE", ""),
        ast::Expr::Array(_) => ("an ARRAY", ""),
        ast::Expr::Map(_) => ("a MAP", ""),
        ast::Expr::Struct { .. } | ast::Expr::Tuple(_) => ("a ROW", ""),
        ast::Expr::CompoundFieldAccess { .. } => ("access to a field or element", ""),
        ast::Expr::GroupingSets(_) => ("GROUPING SETS", "write one query for each set"),
        ast::Expr::Cube(_) => ("CUBE", "write one query for each set"),
        ast::Expr::Rollup(_) => ("ROLLUP", "write one query for each set"),
        ast::Expr::AnyOp { .. } | ast::Expr::AllOp { .. } => ("a comparison with ANY or ALL", ""),
        other => return PlanError::unsupported(pos, &format!("the expression {other}"), ""),
    };
    PlanError::unsupported(pos, name, advice)
}
