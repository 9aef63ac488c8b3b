//! Window table functions: `TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' HOUR))` and HOP, with positional and
//! named arguments.

use super::literal;
use super::query::Binder;
use crate::error::{self, PlanError, Pos, Result, did_you_mean, hint};
use crate::nodes::{self, WINDOW_COLUMNS, WindowTvf, Windows};
use crate::parse::dialect::TABLE_ARGUMENT;
use crate::types;
use datafusion_common::{Column, ScalarValue};
use datafusion_expr::LogicalPlan;
use sqlparser::ast::{self, FunctionArg, FunctionArgExpr, FunctionArguments, Ident};

/// The expression inside of `TABLE(...)`.
pub(crate) fn table_expression(binder: &Binder<'_>, expr: &ast::Expr, pos: Pos) -> Result<LogicalPlan> {
    let ast::Expr::Function(function) = expr else {
        return Err(PlanError::new(
            pos,
            "TABLE(...) takes a table function: TUMBLE or HOP",
        ));
    };
    let args = match &function.args {
        FunctionArguments::List(list) => list.args.as_slice(),
        _ => &[],
    };
    table_function(binder, &function.name.to_string(), args, pos)
}

/// A table function by name.
pub(crate) fn table_function(
    binder: &Binder<'_>,
    name: &str,
    args: &[FunctionArg],
    pos: Pos,
) -> Result<LogicalPlan> {
    match name.to_uppercase().as_str() {
        "TUMBLE" => bind(
            binder,
            "TUMBLE",
            args,
            &["DATA", "TIMECOL", "SIZE", "OFFSET"],
            pos,
        ),
        "HOP" => bind(
            binder,
            "HOP",
            args,
            &["DATA", "TIMECOL", "SLIDE", "SIZE", "OFFSET"],
            pos,
        ),
        "CUMULATE" => Err(PlanError::unsupported(
            pos,
            "the window table function CUMULATE",
            "use TUMBLE or HOP",
        )),
        "SESSION" => Err(PlanError::unsupported(
            pos,
            "the window table function SESSION",
            "use TUMBLE or HOP",
        )),
        other => Err(PlanError::new(
            pos,
            format!(
                "unknown table function {other}{}",
                did_you_mean(other, ["TUMBLE", "HOP"].into_iter())
            ),
        )),
    }
}

/// Arguments by their place in `names`.
fn assign<'a>(
    name: &str,
    args: &'a [FunctionArg],
    names: &[&str],
    pos: Pos,
) -> Result<Vec<Option<&'a ast::Expr>>> {
    let mut values = vec![None; names.len()];
    for (position, arg) in args.iter().enumerate() {
        let (index, value) = match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => (Some(position), value),
            FunctionArg::Named {
                name: key,
                arg: FunctionArgExpr::Expr(value),
                ..
            } => {
                let index = names.iter().position(|n| key.value.eq_ignore_ascii_case(n));
                if index.is_none() {
                    return Err(PlanError::new(
                        pos.ident(key),
                        format!(
                            "{name} has no argument {}; it has {}",
                            key.value,
                            names.join(", ")
                        ),
                    ));
                }
                (index, value)
            }
            other => {
                return Err(PlanError::new(
                    pos.at(other),
                    format!("{name} does not take {other}"),
                ));
            }
        };
        match index.and_then(|i| values.get_mut(i)) {
            Some(slot @ None) => *slot = Some(value),
            Some(Some(_)) => {
                return Err(PlanError::new(
                    pos.at(value),
                    format!("{name}: an argument is given twice"),
                ));
            }
            None => {
                return Err(PlanError::new(
                    pos.at(value),
                    format!(
                        "{name} takes at most {} arguments: {}",
                        names.len(),
                        names.join(", ")
                    ),
                ));
            }
        }
    }
    for (value, wanted) in values.iter().zip(names) {
        if value.is_none() && *wanted != "OFFSET" {
            return Err(PlanError::new(
                pos,
                format!("{name} needs the argument {wanted}: {name}({})", usage(names)),
            ));
        }
    }
    Ok(values)
}

fn usage(names: &[&str]) -> String {
    let parts: Vec<&str> = names
        .iter()
        .map(|name| match *name {
            "DATA" => "TABLE t",
            "TIMECOL" => "DESCRIPTOR(ts)",
            "SLIDE" => "INTERVAL '5' MINUTE",
            "SIZE" => "INTERVAL '1' HOUR",
            _ => "[INTERVAL '0' MINUTE]",
        })
        .collect();
    parts.join(", ")
}

fn bind(
    binder: &Binder<'_>,
    name: &str,
    args: &[FunctionArg],
    names: &[&str],
    pos: Pos,
) -> Result<LogicalPlan> {
    let values = assign(name, args, names, pos)?;
    let argument = |key: &str| {
        names
            .iter()
            .position(|n| *n == key)
            .and_then(|i| values.get(i).copied().flatten())
    };
    let missing = || PlanError::new(pos, format!("{name}({})", usage(names)));
    let table = data(argument("DATA").ok_or_else(missing)?, name, pos)?;
    let input = binder.named(&table, pos)?;
    let time = descriptor(argument("TIMECOL").ok_or_else(missing)?, name, pos)?;
    let windows = windows(name, &argument, pos)?;
    let column = time_column(&input, time, name, pos)?;
    for added in WINDOW_COLUMNS {
        if input.schema().fields().iter().any(|f| f.name() == added) {
            return Err(PlanError::new(
                pos,
                format!(
                    "the input of {name} has a column '{added}' already: rename it in a subquery or view"
                ),
            ));
        }
    }
    WindowTvf::plan(input, column, windows).map_err(error::at(pos))
}

fn data(expr: &ast::Expr, name: &str, pos: Pos) -> Result<Ident> {
    let parts = match expr {
        ast::Expr::Prefixed { prefix, value } if prefix.value == TABLE_ARGUMENT => match value.as_ref() {
            ast::Expr::CompoundIdentifier(parts) => parts.as_slice(),
            _ => &[],
        },
        _ => &[],
    };
    match parts {
        [table] => Ok(table.clone()),
        [.., table] if parts[0].value.starts_with("default_") => Ok(table.clone()),
        _ => Err(PlanError::new(
            pos.at(expr),
            format!("the first argument of {name} is TABLE t, where t is a table or view"),
        )),
    }
}

fn descriptor<'a>(expr: &'a ast::Expr, name: &str, pos: Pos) -> Result<&'a Ident> {
    if let ast::Expr::Function(function) = expr
        && function.name.to_string().eq_ignore_ascii_case("DESCRIPTOR")
        && let FunctionArguments::List(list) = &function.args
        && let [FunctionArg::Unnamed(FunctionArgExpr::Expr(ast::Expr::Identifier(column)))] =
            list.args.as_slice()
    {
        return Ok(column);
    }
    Err(PlanError::new(
        pos.at(expr),
        format!("the time column of {name} is written DESCRIPTOR(ts)"),
    ))
}

fn windows<'a>(name: &str, argument: &dyn Fn(&str) -> Option<&'a ast::Expr>, pos: Pos) -> Result<Windows> {
    let length = |key: &str| {
        let value = argument(key).map(|e| millis(e, name, key, pos)).transpose()?;
        match value {
            Some((value, at)) if value <= 0 => Err(PlanError::new(
                at,
                format!("the {key} of {name} must be positive"),
            )),
            value => Ok(value),
        }
    };
    let missing = || PlanError::new(pos, format!("{name} needs a SIZE"));
    let (size_ms, size_pos) = length("SIZE")?.ok_or_else(missing)?;
    let slide_ms = length("SLIDE")?.map_or(size_ms, |(slide, _)| slide);
    let offset_ms = match argument("OFFSET") {
        Some(expr) => millis(expr, name, "OFFSET", pos)?.0,
        None => 0,
    };
    if size_ms % slide_ms != 0 {
        return Err(PlanError::new(
            size_pos,
            format!("the SIZE of {name} ({size_ms} ms) must be a multiple of its SLIDE ({slide_ms} ms)"),
        ));
    }
    Ok(Windows {
        slide_ms,
        size_ms,
        offset_ms,
    })
}

fn millis(expr: &ast::Expr, name: &str, key: &str, pos: Pos) -> Result<(i64, Pos)> {
    let at = pos.at(expr);
    let (interval, sign) = match expr {
        ast::Expr::Interval(interval) => (interval, 1),
        ast::Expr::UnaryOp {
            op: ast::UnaryOperator::Minus,
            expr,
        } => match expr.as_ref() {
            ast::Expr::Interval(interval) => (interval, -1),
            _ => return Err(not_an_interval(name, key, at)),
        },
        _ => return Err(not_an_interval(name, key, at)),
    };
    let bound = literal::interval(interval, at)?;
    match bound.as_literal() {
        Some(ScalarValue::IntervalMonthDayNano(Some(value))) => match literal::interval_parts(value) {
            (0, millis) => Ok((sign * millis, at)),
            _ => Err(PlanError::new(
                at,
                format!("the {key} of {name} cannot be in months or years: they differ in length"),
            )),
        },
        _ => Err(not_an_interval(name, key, at)),
    }
}

fn not_an_interval(name: &str, key: &str, pos: Pos) -> PlanError {
    PlanError::new(
        pos,
        format!("the {key} of {name} is an interval like INTERVAL '1' HOUR"),
    )
}

/// The time attribute that DESCRIPTOR names.
fn time_column(input: &LogicalPlan, time: &Ident, name: &str, pos: Pos) -> Result<Column> {
    let pos = pos.ident(time);
    let schema = input.schema();
    let Some(index) = schema.fields().iter().position(|f| f.name() == &time.value) else {
        let names = schema.fields().iter().map(|f| f.name().as_str());
        return Err(PlanError::new(
            pos,
            format!(
                "unknown column '{}'{}",
                time.value,
                hint(&time.value, "columns", names)
            ),
        ));
    };
    let (relation, field) = schema.qualified_field(index);
    if !nodes::props(input).rowtime.get(index).copied().unwrap_or(false) {
        let ty = field.data_type();
        return Err(PlanError::new(
            pos,
            format!(
                "{name} needs a time attribute, and '{}' is a plain {}: only the column of a table's WATERMARK, \
                 selected unchanged through views and subqueries, or window_time is one",
                time.value,
                types::name(ty)
            ),
        ));
    }
    Ok(Column::new(relation.cloned(), field.name()))
}
