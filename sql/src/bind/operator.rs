//! Operators: which types they take, and the casts that make their operands equal.

use super::{Typed, literal};
use crate::error::{PlanError, Pos, Result};
use crate::functions::decimal::{self, Op};
use crate::functions::{Native, cast, text, time};
use crate::types::{self, SqlType};
use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_expr::expr::{Between, BinaryExpr, Case, InList};
use datafusion_expr::{Expr, Operator};

/// `typed` as a value of `to`; the caller has checked that the cast exists.
pub(crate) fn coerce(typed: Typed, to: &DataType) -> Result<Typed> {
    if typed.ty == *to {
        return Ok(typed);
    }
    let pos = typed.pos;
    if let Some(value) = typed.as_literal() {
        if value.is_null() {
            let null = ScalarValue::try_from(to).map_err(crate::error::at(pos))?;
            return Ok(Typed::literal(null, pos));
        }
        if types::is_numeric(&typed.ty)
            && types::is_numeric(to)
            && let Ok(value) = value.cast_to(to)
        {
            return Ok(Typed::literal(value, pos));
        }
        if let Some(text) = typed.as_text()
            && types::is_temporal(to)
        {
            let value = literal::temporal(text, to)
                .ok_or_else(|| PlanError::new(pos, format!("'{text}' is no {}", types::name(to))))?;
            return Ok(Typed::literal(value, pos));
        }
    }
    let target = SqlType {
        data: to.clone(),
        nullable: true,
        length: None,
    };
    Ok(cast_to(typed, &target, false))
}

/// CAST or TRY_CAST, whose possibility the caller has checked.
pub(crate) fn cast_to(typed: Typed, to: &SqlType, is_try: bool) -> Typed {
    let function = cast::cast(&typed.ty, to, is_try);
    Typed::new(function.call(vec![typed.expr]), to.data.clone(), typed.pos)
}

/// Both operands in a type in which they can be compared.
fn comparable(left: Typed, right: Typed, pos: Pos) -> Result<(Typed, Typed)> {
    let ty = match (&left.ty, &right.ty) {
        (DataType::Interval(_), _) | (_, DataType::Interval(_)) => None,
        (DataType::Null, DataType::Null) => Some(DataType::Boolean),
        (DataType::Utf8, other) | (other, DataType::Utf8) if types::is_temporal(other) => Some(other.clone()),
        (a, b) => types::common(a, b),
    };
    let Some(ty) = ty else {
        return Err(PlanError::new(
            pos,
            format!(
                "cannot compare {} with {}: write a CAST",
                types::name(&left.ty),
                types::name(&right.ty)
            ),
        ));
    };
    Ok((coerce(left, &ty)?, coerce(right, &ty)?))
}

/// `=`, `<>`, `<`, `<=`, `>`, `>=`, IS [NOT] DISTINCT FROM
pub(crate) fn compare(left: Typed, op: Operator, right: Typed, pos: Pos) -> Result<Typed> {
    let (left, right) = comparable(left, right, pos)?;
    Ok(Typed::new(
        binary(left.expr, op, right.expr),
        DataType::Boolean,
        pos,
    ))
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

/// AND, OR
pub(crate) fn logic(left: Typed, op: Operator, right: Typed, pos: Pos) -> Result<Typed> {
    let left = boolean(left, &op.to_string())?;
    let right = boolean(right, &op.to_string())?;
    Ok(Typed::new(
        binary(left.expr, op, right.expr),
        DataType::Boolean,
        pos,
    ))
}

/// A condition.
pub(crate) fn boolean(typed: Typed, place: &str) -> Result<Typed> {
    if !matches!(typed.ty, DataType::Boolean | DataType::Null) {
        return Err(PlanError::new(
            typed.pos,
            format!("{place} takes BOOLEAN, not {}", types::name(&typed.ty)),
        ));
    }
    coerce(typed, &DataType::Boolean)
}

/// `x [NOT] BETWEEN low AND high`
pub(crate) fn between(value: Typed, negated: bool, low: Typed, high: Typed, pos: Pos) -> Result<Typed> {
    let (value_low, low) = comparable(value.clone(), low, pos)?;
    let (value_high, high) = comparable(value, high, pos)?;
    let expr = if value_low.expr == value_high.expr {
        Expr::Between(Between::new(
            Box::new(value_low.expr),
            negated,
            Box::new(low.expr),
            Box::new(high.expr),
        ))
    } else {
        let inside = binary(
            binary(value_low.expr, Operator::GtEq, low.expr),
            Operator::And,
            binary(value_high.expr, Operator::LtEq, high.expr),
        );
        if negated {
            Expr::Not(Box::new(inside))
        } else {
            inside
        }
    };
    Ok(Typed::new(expr, DataType::Boolean, pos))
}

/// `x [NOT] IN (a, b, c)`
pub(crate) fn in_list(value: Typed, list: Vec<Typed>, negated: bool, pos: Pos) -> Result<Typed> {
    let mut ty = value.ty.clone();
    for item in &list {
        let string = |t: &DataType| *t == DataType::Utf8;
        ty = if types::is_temporal(&ty) && string(&item.ty) {
            ty
        } else {
            types::common(&ty, &item.ty).ok_or_else(|| {
                PlanError::new(
                    item.pos,
                    format!(
                        "cannot compare {} with {}: write a CAST",
                        types::name(&value.ty),
                        types::name(&item.ty)
                    ),
                )
            })?
        };
    }
    if ty == DataType::Null {
        ty = DataType::Boolean;
    }
    let list = list
        .into_iter()
        .map(|item| coerce(item, &ty).map(|t| t.expr))
        .collect::<Result<Vec<_>>>()?;
    let value = coerce(value, &ty)?;
    Ok(Typed::new(
        Expr::InList(InList::new(Box::new(value.expr), list, negated)),
        DataType::Boolean,
        pos,
    ))
}

/// The type that all results of a CASE or COALESCE share.
pub(crate) fn unify(values: Vec<Typed>, what: &str) -> Result<(Vec<Typed>, DataType)> {
    let mut ty = DataType::Null;
    for value in &values {
        ty = types::common(&ty, &value.ty).ok_or_else(|| {
            PlanError::new(
                value.pos,
                format!(
                    "the values of {what} have no common type: {} and {}; write a CAST",
                    types::name(&ty),
                    types::name(&value.ty)
                ),
            )
        })?;
    }
    let values = values
        .into_iter()
        .map(|v| coerce(v, &ty))
        .collect::<Result<Vec<_>>>()?;
    Ok((values, ty))
}

/// `CASE WHEN condition THEN result ... ELSE otherwise END`; without ELSE, NULL.
pub(crate) fn case(
    conditions: Vec<Typed>,
    results: Vec<Typed>,
    otherwise: Option<Typed>,
    pos: Pos,
) -> Result<Typed> {
    let otherwise = otherwise.unwrap_or_else(|| Typed::literal(ScalarValue::Null, pos));
    let mut all = results;
    all.push(otherwise);
    let (mut all, ty) = unify(all, "CASE")?;
    if ty == DataType::Null {
        return Ok(Typed::literal(ScalarValue::Null, pos));
    }
    let otherwise = all.pop().map(|t| Box::new(t.expr));
    let mut branches = Vec::with_capacity(all.len());
    for (condition, result) in conditions.into_iter().zip(all) {
        let condition = boolean(condition, "WHEN")?;
        branches.push((Box::new(condition.expr), Box::new(result.expr)));
    }
    Ok(Typed::new(
        Expr::Case(Case::new(None, branches, otherwise)),
        ty,
        pos,
    ))
}

/// `+`, `-`, `*`, `/`, `%`
pub(crate) fn arithmetic(left: Typed, op: Op, right: Typed, pos: Pos) -> Result<Typed> {
    if types::is_interval(&left.ty) || types::is_interval(&right.ty) {
        return with_interval(left, op, right, pos);
    }
    let (left, right) = match (&left.ty, &right.ty) {
        (DataType::Null, other) | (other, DataType::Null) if types::is_numeric(other) => {
            let ty = other.clone();
            (coerce(left, &ty)?, coerce(right, &ty)?)
        }
        _ => (left, right),
    };
    if !types::is_numeric(&left.ty) || !types::is_numeric(&right.ty) {
        return Err(no_arithmetic(&left, op, &right, pos));
    }
    let decimal = matches!(left.ty, DataType::Decimal128(..)) || matches!(right.ty, DataType::Decimal128(..));
    if decimal && let (Some(a), Some(b)) = (types::as_decimal(&left.ty), types::as_decimal(&right.ty)) {
        let (precision, scale) = op.result(a, b);
        let ty = DataType::Decimal128(precision, scale);
        let left = coerce(left, &DataType::Decimal128(a.0, a.1))?;
        let right = coerce(right, &DataType::Decimal128(b.0, b.1))?;
        let function = Native::new(op.sign(), ty.clone(), decimal::eval(op))
            .fallible(matches!(op, Op::Divide | Op::Modulo));
        return Ok(Typed::new(function.call(vec![left.expr, right.expr]), ty, pos));
    }
    let ty = types::common(&left.ty, &right.ty).ok_or_else(|| no_arithmetic(&left, op, &right, pos))?;
    let operator = match op {
        Op::Add => Operator::Plus,
        Op::Subtract => Operator::Minus,
        Op::Multiply => Operator::Multiply,
        Op::Divide => Operator::Divide,
        Op::Modulo => Operator::Modulo,
    };
    let (left, right) = (coerce(left, &ty)?, coerce(right, &ty)?);
    Ok(Typed::new(binary(left.expr, operator, right.expr), ty, pos))
}

fn no_arithmetic(left: &Typed, op: Op, right: &Typed, pos: Pos) -> PlanError {
    let advice = match (&left.ty, &right.ty, op) {
        (a, b, Op::Subtract) if types::is_temporal(a) && types::is_temporal(b) => {
            ": write TIMESTAMPDIFF(SECOND, earlier, later)"
        }
        (DataType::Utf8, DataType::Utf8, Op::Add) => ": strings are joined with ||",
        (DataType::Utf8, _, _) | (_, DataType::Utf8, _) => ": write a CAST",
        _ => "",
    };
    PlanError::new(
        pos,
        format!(
            "the operator {} does not exist for {} and {}{advice}",
            op.sign(),
            types::name(&left.ty),
            types::name(&right.ty)
        ),
    )
}

/// A time plus or minus a constant interval.
fn with_interval(left: Typed, op: Op, right: Typed, pos: Pos) -> Result<Typed> {
    let (at, interval, sign) = match op {
        Op::Add if types::is_interval(&left.ty) => (right, left, 1),
        Op::Add => (left, right, 1),
        Op::Subtract if types::is_interval(&right.ty) => (left, right, -1),
        _ => return Err(no_arithmetic(&left, op, &right, pos)),
    };
    let Some(ScalarValue::IntervalMonthDayNano(Some(value))) = interval.as_literal() else {
        return Err(no_arithmetic(&at, op, &interval, pos));
    };
    let (months, millis) = literal::interval_parts(value);
    let possible = match &at.ty {
        DataType::Timestamp(..) => true,
        DataType::Date32 => millis % 86_400_000 == 0,
        _ => false,
    };
    if !possible {
        let advice = if at.ty == DataType::Date32 {
            ": cast the DATE to TIMESTAMP(3) first"
        } else {
            ""
        };
        return Err(PlanError::new(
            pos,
            format!("an INTERVAL cannot be added to {}{advice}", types::name(&at.ty)),
        ));
    }
    let (months, millis) = (sign * months, sign * millis);
    let ty = at.ty.clone();
    let function = Native::new("INTERVAL", ty.clone(), time::add_interval)
        .params(vec![months, millis])
        .text(interval_text(months, millis))
        .fallible(true);
    Ok(Typed::new(function.call(vec![at.expr]), ty, pos))
}

/// `- INTERVAL '24' HOUR`, in the largest unit that divides it.
fn interval_text(months: i64, millis: i64) -> String {
    let sign = if months < 0 || millis < 0 { "-" } else { "+" };
    let (months, millis) = (months.abs(), millis.abs());
    if months > 0 {
        return format!("{sign} INTERVAL '{months}' MONTH");
    }
    for (size, unit) in [(86_400_000, "DAY"), (3_600_000, "HOUR"), (60_000, "MINUTE")] {
        if millis > 0 && millis % size == 0 {
            return format!("{sign} INTERVAL '{}' {unit}", millis / size);
        }
    }
    let fraction = match millis % 1000 {
        0 => String::new(),
        rest => format!(".{rest:03}"),
    };
    format!("{sign} INTERVAL '{}{fraction}' SECOND", millis / 1000)
}

/// `a || b`: values that are no strings are cast.
pub(crate) fn concat(left: Typed, right: Typed, pos: Pos) -> Result<Typed> {
    let (left, right) = (as_text(left, "||")?, as_text(right, "||")?);
    let function = Native::new("||", DataType::Utf8, text::CONCAT);
    Ok(Typed::new(
        function.call(vec![left.expr, right.expr]),
        DataType::Utf8,
        pos,
    ))
}

/// Any plain value as STRING.
pub(crate) fn as_text(typed: Typed, what: &str) -> Result<Typed> {
    if types::is_interval(&typed.ty) {
        return Err(PlanError::new(
            typed.pos,
            format!("{what} does not take an INTERVAL"),
        ));
    }
    coerce(typed, &DataType::Utf8)
}
