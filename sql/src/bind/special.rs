//! Functions whose result types depend on their arguments'.

use super::call::{check_patterns, wrong_count};
use super::expr::Scope;
use super::{Typed, operator};
use crate::error::{PlanError, Pos, Result};
use crate::functions::{self, Native, math, time};
use crate::types;
use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, TimeUnit};
use datafusion_common::ScalarValue;
use datafusion_expr::Operator;
use sqlparser::ast::{self, FunctionArg, FunctionArgExpr};

/// Functions whose types depend on their arguments'.
pub(super) const NAMES: &[&str] = &[
    "COALESCE",
    "IFNULL",
    "NULLIF",
    "IF",
    "GREATEST",
    "LEAST",
    "ABS",
    "SIGN",
    "MOD",
    "FLOOR",
    "CEIL",
    "CEILING",
    "ROUND",
    "TO_TIMESTAMP",
    "TO_DATE",
    "TO_TIMESTAMP_LTZ",
    "TIMESTAMPADD",
    "TIMESTAMPDIFF",
    "YEAR",
    "QUARTER",
    "MONTH",
    "WEEK",
    "DAYOFMONTH",
    "DAYOFYEAR",
    "DAYOFWEEK",
    "HOUR",
    "MINUTE",
    "SECOND",
];

/// What became of a call.
pub(super) enum Dispatched {
    /// It is one of these functions.
    Bound(Typed),
    /// It is another one; these are its arguments.
    Plain(Vec<Typed>),
}

/// Binds a call of one of these functions.
pub(super) fn dispatch(name: &str, args: Vec<Typed>, pos: Pos) -> Result<Dispatched> {
    if !NAMES.contains(&name) {
        return Ok(Dispatched::Plain(args));
    }
    bind(name, args, pos).map(Dispatched::Bound)
}

fn bind(name: &str, args: Vec<Typed>, pos: Pos) -> Result<Typed> {
    match (name, args.len()) {
        ("COALESCE", 1..) | ("IFNULL", 2) => coalesce(args, pos),
        ("NULLIF", 2) => {
            let [a, b] = two(args, pos)?;
            let null = Typed::literal(ScalarValue::Null, pos);
            let equal = operator::compare(a.clone(), Operator::Eq, b, pos)?;
            operator::case(vec![equal], vec![null], Some(a), pos)
        }
        ("IF", 3) => {
            let mut args = args.into_iter();
            match (args.next(), args.next(), args.next()) {
                (Some(condition), Some(then), Some(otherwise)) => {
                    operator::case(vec![condition], vec![then], Some(otherwise), pos)
                }
                _ => Err(wrong_count(name, "IF(condition, value, otherwise)", pos)),
            }
        }
        ("GREATEST" | "LEAST", 1..) => extreme(name, args, pos),
        ("ABS", 1) => same_number("ABS", math::abs, args, pos),
        ("SIGN", 1) => same_number("SIGN", math::sign, args, pos),
        ("MOD", 2) => {
            let [a, b] = two(args, pos)?;
            operator::arithmetic(a, functions::decimal::Op::Modulo, b, pos)
        }
        ("FLOOR", 1) => floor_ceil("FLOOR", one(args, pos)?, pos),
        ("CEIL" | "CEILING", 1) => floor_ceil("CEIL", one(args, pos)?, pos),
        ("ROUND", 1 | 2) => round(args, pos),
        ("TO_TIMESTAMP", 1 | 2) => to_time("TO_TIMESTAMP", ts3(None), args, pos),
        ("TO_DATE", 1 | 2) => to_time("TO_DATE", DataType::Date32, args, pos),
        ("TO_TIMESTAMP_LTZ", 1 | 2) => to_timestamp_ltz(args, pos),
        ("YEAR" | "QUARTER" | "MONTH" | "WEEK" | "HOUR" | "MINUTE" | "SECOND", 1) => {
            let part = time::Part::parse(name).ok_or_else(|| wrong_count(name, name, pos))?;
            extract(part, one(args, pos)?, pos)
        }
        ("DAYOFMONTH", 1) => extract(time::Part::Day, one(args, pos)?, pos),
        ("DAYOFYEAR", 1) => extract(time::Part::DayOfYear, one(args, pos)?, pos),
        ("DAYOFWEEK", 1) => extract(time::Part::DayOfWeek, one(args, pos)?, pos),
        _ => Err(PlanError::new(
            pos,
            format!("{name} does not take {} arguments", args.len()),
        )),
    }
}

fn one(args: Vec<Typed>, pos: Pos) -> Result<Typed> {
    args.into_iter()
        .next()
        .ok_or_else(|| PlanError::new(pos, "the argument is missing"))
}

fn two(args: Vec<Typed>, pos: Pos) -> Result<[Typed; 2]> {
    args.try_into()
        .map_err(|_| PlanError::new(pos, "two arguments are expected"))
}

fn coalesce(args: Vec<Typed>, pos: Pos) -> Result<Typed> {
    let (mut args, ty) = operator::unify(args, "COALESCE")?;
    let Some(last) = args.pop() else {
        return Err(PlanError::new(pos, "COALESCE needs an argument"));
    };
    if args.is_empty() || ty == DataType::Null {
        return Ok(last);
    }
    let conditions = args
        .iter()
        .map(|a| {
            let test = datafusion_expr::Expr::IsNotNull(Box::new(a.expr.clone()));
            Typed::new(test, DataType::Boolean, a.pos)
        })
        .collect();
    operator::case(conditions, args, Some(last), pos)
}

fn extreme(name: &str, args: Vec<Typed>, pos: Pos) -> Result<Typed> {
    let (args, ty) = operator::unify(args, name)?;
    let (name, greatest) = if name == "GREATEST" {
        ("GREATEST", 1)
    } else {
        ("LEAST", 0)
    };
    let function = Native::new(name, ty.clone(), eval_extreme).params(vec![greatest]);
    let exprs = args.into_iter().map(|a| a.expr).collect();
    Ok(Typed::new(function.call(exprs), ty, pos))
}

/// The greatest or least argument of every row; NULL if one of them is.
fn eval_extreme(call: &functions::Call<'_>) -> functions::Evaluated {
    let greatest = call.params[0] == 1;
    let mut compare = Vec::new();
    for (i, a) in call.args.iter().enumerate() {
        for b in &call.args[..i] {
            let order = arrow::compute::SortOptions::default();
            compare.push(
                arrow::array::make_comparator(a.as_ref(), b.as_ref(), order).map_err(|e| e.to_string())?,
            );
        }
    }
    let pick = |row: usize| {
        let mut best = 0;
        for (i, arg) in call.args.iter().enumerate() {
            if arg.is_null(row) {
                return (i, row);
            }
            if i > 0 && !call.args[best].is_null(row) {
                let order = compare[i * (i - 1) / 2 + best](row, row);
                let better = if greatest { order.is_gt() } else { order.is_lt() };
                if better {
                    best = i;
                }
            }
        }
        (best, row)
    };
    let picks: Vec<(usize, usize)> = (0..call.rows).map(pick).collect();
    let arrays: Vec<&dyn Array> = call.args.iter().map(|a: &ArrayRef| a.as_ref()).collect();
    arrow::compute::interleave(&arrays, &picks).map_err(|e| e.to_string())
}

fn same_number(name: &'static str, eval: functions::Eval, args: Vec<Typed>, pos: Pos) -> Result<Typed> {
    let arg = number(name, one(args, pos)?)?;
    let ty = arg.ty.clone();
    Ok(Typed::new(
        Native::new(name, ty.clone(), eval).call(vec![arg.expr]),
        ty,
        pos,
    ))
}

fn number(name: &str, arg: Typed) -> Result<Typed> {
    if arg.ty == DataType::Null {
        return operator::coerce(arg, &DataType::Int32);
    }
    if types::is_numeric(&arg.ty) {
        return Ok(arg);
    }
    Err(PlanError::new(
        arg.pos,
        format!("{name} takes a number, not {}", types::name(&arg.ty)),
    ))
}

/// `FLOOR(number)` and `CEIL(number)`
pub(crate) fn floor_ceil(name: &'static str, arg: Typed, pos: Pos) -> Result<Typed> {
    if types::is_temporal(&arg.ty) {
        return Err(PlanError::new(
            pos,
            format!("{name} of a time names the unit: {name}(ts TO HOUR)"),
        ));
    }
    let arg = number(name, arg)?;
    if types::is_integer(&arg.ty) {
        return Ok(arg);
    }
    let ty = match &arg.ty {
        DataType::Decimal128(p, s) => {
            DataType::Decimal128((*p - s.unsigned_abs() + 1).clamp(1, types::DECIMAL_MAX), 0)
        }
        other => other.clone(),
    };
    let function = Native::new(name, ty.clone(), math::floor_ceil).params(vec![i64::from(name == "CEIL")]);
    Ok(Typed::new(function.call(vec![arg.expr]), ty, pos))
}

/// `FLOOR(time TO part)` and `CEIL(time TO part)`
pub(crate) fn round_to(name: &'static str, part: time::Part, arg: Typed, pos: Pos) -> Result<Typed> {
    if !matches!(arg.ty, DataType::Timestamp(..) | DataType::Date32) {
        return Err(PlanError::new(
            arg.pos,
            format!(
                "{name}(... TO {}) takes DATE or TIMESTAMP, not {}",
                part.name(),
                types::name(&arg.ty)
            ),
        ));
    }
    let ty = arg.ty.clone();
    let function = Native::new(name, ty.clone(), time::round_to)
        .params(vec![i64::from(name == "CEIL")])
        .text(part.name());
    Ok(Typed::new(function.call(vec![arg.expr]), ty, pos))
}

/// `EXTRACT(part FROM time)`
pub(crate) fn extract(part: time::Part, arg: Typed, pos: Pos) -> Result<Typed> {
    if !types::is_temporal(&arg.ty) {
        return Err(PlanError::new(
            arg.pos,
            format!(
                "{} takes DATE, TIME or TIMESTAMP, not {}",
                part.name(),
                types::name(&arg.ty)
            ),
        ));
    }
    let function = Native::new("EXTRACT", DataType::Int64, time::extract).text(part.name());
    Ok(Typed::new(function.call(vec![arg.expr]), DataType::Int64, pos))
}

fn round(args: Vec<Typed>, pos: Pos) -> Result<Typed> {
    let mut args = args.into_iter();
    let Some(value) = args.next() else {
        return Err(wrong_count("ROUND", "ROUND(number [, digits])", pos));
    };
    let value = number("ROUND", value)?;
    let digits = match args.next() {
        Some(digits) if types::implicit(&digits.ty, &DataType::Int32) => {
            operator::coerce(digits, &DataType::Int32)?
        }
        Some(digits) => {
            return Err(PlanError::new(
                digits.pos,
                format!("the digits of ROUND are INT, not {}", types::name(&digits.ty)),
            ));
        }
        None => Typed::literal(ScalarValue::Int32(Some(0)), pos),
    };
    let (from, to) = (value.ty.clone(), round_type(&value.ty, digits.as_literal()));
    let working = match &to {
        DataType::Decimal128(..) => from,
        ty if types::is_integer(ty) => DataType::Int64,
        _ => DataType::Float64,
    };
    let value = operator::coerce(value, &working)?;
    let result = if matches!(to, DataType::Decimal128(..)) {
        to.clone()
    } else {
        working
    };
    let rounded = Native::new("ROUND", result.clone(), math::round).call(vec![value.expr, digits.expr]);
    operator::coerce(Typed::new(rounded, result, pos), &to)
}

fn round_type(ty: &DataType, digits: Option<&ScalarValue>) -> DataType {
    match (ty, digits) {
        (DataType::Decimal128(p, s), Some(ScalarValue::Int32(Some(digits)))) if *digits < i32::from(*s) => {
            let scale = i8::try_from((*digits).max(0)).unwrap_or(0);
            let whole = *p - s.unsigned_abs() + 1;
            DataType::Decimal128((whole + scale.unsigned_abs()).min(types::DECIMAL_MAX), scale)
        }
        (ty, _) => ty.clone(),
    }
}

pub(super) fn ts3(zone: Option<&str>) -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, zone.map(Into::into))
}

fn to_time(name: &'static str, ty: DataType, args: Vec<Typed>, pos: Pos) -> Result<Typed> {
    let mut bound = Vec::with_capacity(args.len());
    for arg in args {
        if !matches!(arg.ty, DataType::Utf8 | DataType::Null) {
            return Err(PlanError::new(
                arg.pos,
                format!("{name} takes STRING [, STRING], not {}", types::name(&arg.ty)),
            ));
        }
        bound.push(operator::coerce(arg, &DataType::Utf8)?);
    }
    check_patterns(name, &bound)?;
    let function = Native::new(name, ty.clone(), time::to_time).fallible(true);
    let exprs = bound.into_iter().map(|t| t.expr).collect();
    Ok(Typed::new(function.call(exprs), ty, pos))
}

fn to_timestamp_ltz(args: Vec<Typed>, pos: Pos) -> Result<Typed> {
    let usage = "TO_TIMESTAMP_LTZ(BIGINT [, 0 or 3])";
    let wanted = [DataType::Int64, DataType::Int32];
    let mut bound = Vec::with_capacity(args.len());
    for (arg, ty) in args.into_iter().zip(wanted) {
        if !types::implicit(&arg.ty, &ty) {
            return Err(PlanError::new(
                arg.pos,
                format!(
                    "TO_TIMESTAMP_LTZ does not take {} here: {usage}",
                    types::name(&arg.ty)
                ),
            ));
        }
        let arg = operator::coerce(arg, &ty)?;
        if let (DataType::Int32, Some(ScalarValue::Int32(Some(p)))) = (&ty, arg.as_literal())
            && ![0, 3].contains(p)
        {
            return Err(PlanError::new(
                arg.pos,
                format!("the precision is 0 (seconds) or 3 (milliseconds), not {p}"),
            ));
        }
        bound.push(arg.expr);
    }
    let ty = ts3(Some(types::UTC));
    let function = Native::new("TO_TIMESTAMP_LTZ", ty.clone(), time::to_timestamp_ltz).fallible(true);
    Ok(Typed::new(function.call(bound), ty, pos))
}

/// `TIMESTAMPADD(unit, n, time)` and `TIMESTAMPDIFF(unit, from, to)`
pub(super) fn with_unit(scope: &Scope<'_>, name: &str, args: &[FunctionArg]) -> Result<Typed> {
    let pos = scope.pos;
    let usage = if name == "TIMESTAMPADD" {
        "TIMESTAMPADD(unit, n, time)"
    } else {
        "TIMESTAMPDIFF(unit, from, to)"
    };
    let [
        FunctionArg::Unnamed(FunctionArgExpr::Expr(ast::Expr::Identifier(unit))),
        FunctionArg::Unnamed(FunctionArgExpr::Expr(first)),
        FunctionArg::Unnamed(FunctionArgExpr::Expr(second)),
    ] = args
    else {
        return Err(wrong_count(name, usage, pos));
    };
    let part = time::Part::parse(&unit.value)
        .filter(|part| {
            use time::Part::{Day, Hour, Minute, Month, Quarter, Second, Week, Year};
            matches!(part, Year | Quarter | Month | Week | Day | Hour | Minute | Second)
        })
        .ok_or_else(|| {
            PlanError::new(
                pos.ident(unit),
                format!(
                    "{} is no unit: YEAR, QUARTER, MONTH, WEEK, DAY, HOUR, MINUTE or SECOND",
                    unit.value
                ),
            )
        })?;
    let (first, second) = (scope.bind(first)?, scope.bind(second)?);
    if name == "TIMESTAMPADD" {
        let first = if types::implicit(&first.ty, &DataType::Int64) {
            operator::coerce(first, &DataType::Int64)?
        } else {
            return Err(PlanError::new(
                first.pos,
                format!("{usage}: n is an integer, not {}", types::name(&first.ty)),
            ));
        };
        let second = instant(second, usage)?;
        let sub_day = matches!(part, time::Part::Hour | time::Part::Minute | time::Part::Second);
        let ty = if second.ty == DataType::Date32 && sub_day {
            ts3(None)
        } else {
            second.ty.clone()
        };
        let function = Native::new("TIMESTAMPADD", ty.clone(), time::timestamp_add)
            .text(part.name())
            .fallible(true);
        return Ok(Typed::new(function.call(vec![first.expr, second.expr]), ty, pos));
    }
    let (first, second) = (instant(first, usage)?, instant(second, usage)?);
    let function = Native::new("TIMESTAMPDIFF", DataType::Int32, time::timestamp_diff).text(part.name());
    Ok(Typed::new(
        function.call(vec![first.expr, second.expr]),
        DataType::Int32,
        pos,
    ))
}

fn instant(arg: Typed, usage: &str) -> Result<Typed> {
    match &arg.ty {
        DataType::Date32 | DataType::Timestamp(..) => Ok(arg),
        DataType::Utf8 | DataType::Null => operator::coerce(arg, &ts3(None)),
        other => Err(PlanError::new(
            arg.pos,
            format!("{usage}: a time is DATE or TIMESTAMP, not {}", types::name(other)),
        )),
    }
}
