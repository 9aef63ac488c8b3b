//! Bound expressions as SQL text: for EXPLAIN, for evaluation errors, and for the plan's fingerprint. The text depends
//! on nothing but the expression.

use crate::functions::Native;
use crate::types;
use datafusion_common::ScalarValue;
use datafusion_expr::expr::{AggregateFunction, Case, InList};
use datafusion_expr::{Expr, Operator};
use std::fmt::Write;

/// The text of an expression.
pub(crate) fn text(expr: &Expr) -> String {
    match expr {
        Expr::Alias(alias) => text(&alias.expr),
        Expr::Column(column) => identifier(&column.name),
        Expr::Literal(value, _) => literal(value),
        Expr::BinaryExpr(b) => format!("({} {} {})", text(&b.left), operator(b.op), text(&b.right)),
        Expr::Not(e) => format!("NOT {}", text(e)),
        Expr::IsNull(e) => format!("{} IS NULL", text(e)),
        Expr::IsNotNull(e) => format!("{} IS NOT NULL", text(e)),
        Expr::IsTrue(e) => format!("{} IS TRUE", text(e)),
        Expr::IsFalse(e) => format!("{} IS FALSE", text(e)),
        Expr::IsUnknown(e) => format!("{} IS UNKNOWN", text(e)),
        Expr::IsNotTrue(e) => format!("{} IS NOT TRUE", text(e)),
        Expr::IsNotFalse(e) => format!("{} IS NOT FALSE", text(e)),
        Expr::IsNotUnknown(e) => format!("{} IS NOT UNKNOWN", text(e)),
        Expr::Negative(e) => format!("-{}", text(e)),
        Expr::Between(b) => format!(
            "({} {}BETWEEN {} AND {})",
            text(&b.expr),
            not(b.negated),
            text(&b.low),
            text(&b.high)
        ),
        Expr::InList(list) => in_list(list),
        Expr::Case(case) => case_text(case),
        Expr::Cast(cast) => format!(
            "CAST({} AS {})",
            text(&cast.expr),
            types::name(cast.field.data_type())
        ),
        Expr::TryCast(cast) => {
            format!(
                "TRY_CAST({} AS {})",
                text(&cast.expr),
                types::name(cast.field.data_type())
            )
        }
        Expr::ScalarFunction(f) => match f.func.inner().downcast_ref::<Native>() {
            Some(function) => native(function, &f.args),
            None => format!("{}({})", f.name(), list(&f.args)),
        },
        Expr::AggregateFunction(f) => aggregate(f),
        other => other.to_string(),
    }
}

fn not(negated: bool) -> &'static str {
    if negated { "NOT " } else { "" }
}

fn list(args: &[Expr]) -> String {
    args.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// A name, in backticks unless it is a plain one.
pub(crate) fn identifier(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '$')
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty();
    if plain {
        name.to_owned()
    } else {
        format!("`{}`", name.replace('`', "``"))
    }
}

fn operator(op: Operator) -> String {
    match op {
        Operator::NotEq => "<>".into(),
        other => other.to_string(),
    }
}

fn in_list(in_list: &InList) -> String {
    format!(
        "{} {}IN ({})",
        text(&in_list.expr),
        not(in_list.negated),
        list(&in_list.list)
    )
}

fn case_text(case: &Case) -> String {
    let mut out = "CASE".to_owned();
    if let Some(operand) = &case.expr {
        let _ = write!(out, " {}", text(operand));
    }
    for (when, then) in &case.when_then_expr {
        let _ = write!(out, " WHEN {} THEN {}", text(when), text(then));
    }
    if let Some(otherwise) = &case.else_expr {
        let _ = write!(out, " ELSE {}", text(otherwise));
    }
    out + " END"
}

fn aggregate(f: &AggregateFunction) -> String {
    let distinct = if f.params.distinct { "DISTINCT " } else { "" };
    let args = if f.params.args.is_empty() {
        "*".to_owned()
    } else {
        list(&f.params.args)
    };
    let filter = f
        .params
        .filter
        .as_ref()
        .map(|e| format!(" FILTER (WHERE {})", text(e)))
        .unwrap_or_default();
    format!("{}({distinct}{args}){filter}", f.func.name())
}

/// The text of one of our functions applied to arguments.
pub(crate) fn native(function: &Native, args: &[Expr]) -> String {
    let fixed = &function.text;
    match (function.name, args) {
        ("CAST" | "TRY_CAST", [arg]) => format!("{}({} AS {fixed})", function.name, text(arg)),
        ("EXTRACT", [arg]) => format!("EXTRACT({fixed} FROM {})", text(arg)),
        ("FLOOR" | "CEIL", [arg]) if !fixed.is_empty() => {
            format!("{}({} TO {fixed})", function.name, text(arg))
        }
        ("TIMESTAMPADD" | "TIMESTAMPDIFF", _) => format!("{}({fixed}, {})", function.name, list(args)),
        ("INTERVAL", [arg]) => format!("({} {fixed})", text(arg)),
        ("LIKE", [left, right]) if fixed.is_empty() => format!("({} LIKE {})", text(left), text(right)),
        ("LIKE", [left, right]) => {
            format!("({} LIKE {} ESCAPE '{fixed}')", text(left), text(right))
        }
        ("+" | "-" | "*" | "/" | "%" | "||", [left, right]) => {
            format!("({} {} {})", text(left), function.name, text(right))
        }
        _ if fixed.is_empty() => format!("{}({})", function.name, list(args)),
        _ => format!("{}({}, '{fixed}')", function.name, list(args)),
    }
}

fn literal(value: &ScalarValue) -> String {
    if value.is_null() {
        return "NULL".into();
    }
    match value {
        ScalarValue::Utf8(Some(text)) => format!("'{}'", text.replace('\'', "''")),
        ScalarValue::Boolean(Some(b)) => if *b { "TRUE" } else { "FALSE" }.into(),
        ScalarValue::Decimal128(Some(v), _, scale) => decimal(*v, *scale),
        ScalarValue::Float32(Some(x)) => format!("{x:e}"),
        ScalarValue::Float64(Some(x)) => format!("{x:e}"),
        ScalarValue::Date32(_) | ScalarValue::Time32Millisecond(_) => temporal(value),
        other if types::is_temporal(&other.data_type()) => temporal(other),
        other => other.to_string(),
    }
}

fn decimal(value: i128, scale: i8) -> String {
    let scale = usize::from(scale.unsigned_abs());
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if value < 0 { "-" } else { "" };
    if fraction.is_empty() {
        format!("{sign}{whole}")
    } else {
        format!("{sign}{whole}.{fraction}")
    }
}

fn temporal(value: &ScalarValue) -> String {
    use crate::functions::{java_time, time};
    let ty = value.data_type();
    let at = value
        .to_array()
        .ok()
        .and_then(|array| time::instant_at(&array, 0));
    match (at, &ty) {
        (Some(at), arrow::datatypes::DataType::Date32) => format!("DATE '{}'", at.date()),
        (Some(at), arrow::datatypes::DataType::Time32(_)) => {
            format!("TIME '{}'", java_time::format_time(at.time(), 3))
        }
        (Some(at), arrow::datatypes::DataType::Timestamp(unit, zone)) => {
            let digits = types::precision(*unit);
            let name = if zone.is_some() {
                "TIMESTAMP_LTZ"
            } else {
                "TIMESTAMP"
            };
            format!("{name} '{}'", java_time::format_timestamp(at, digits))
        }
        _ => value.to_string(),
    }
}
