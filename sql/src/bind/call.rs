//! Function calls: Flink's names, argument types and result types.

use super::expr::Scope;
use super::special::{self, Dispatched};
use super::{Typed, aggregate, operator};
use crate::error::{PlanError, Pos, Result, did_you_mean};
use crate::functions::{self, Arg, Def, Native, java_time, pattern};
use crate::types;
use arrow::array::Array;
use arrow::datatypes::DataType;
use sqlparser::ast::{self, FunctionArg, FunctionArgExpr, FunctionArguments};

/// Functions of Flink whose value depends on when or where they are called.
const NONDETERMINISTIC: &[&str] = &[
    "NOW",
    "CURRENT_TIMESTAMP",
    "CURRENT_DATE",
    "CURRENT_TIME",
    "LOCALTIME",
    "LOCALTIMESTAMP",
    "CURRENT_ROW_TIMESTAMP",
    "CURRENT_WATERMARK",
    "PROCTIME",
    "RAND",
    "RAND_INTEGER",
    "UUID",
    "CURRENT_DATABASE",
];

/// Functions that Flink has and that are not there yet.
const MISSING: &[&str] = &[
    "MD5",
    "SHA1",
    "SHA2",
    "TRUNCATE",
    "TO_BASE64",
    "FROM_BASE64",
    "ENCODE",
    "DECODE",
    "PARSE_URL",
    "OVERLAY",
    "STR_TO_MAP",
    "JSON_VALUE",
    "JSON_QUERY",
    "JSON_EXISTS",
    "JSON_STRING",
    "JSON_OBJECT",
    "JSON_ARRAY",
    "IS_JSON",
    "CARDINALITY",
    "ELEMENT",
    "CONVERT_TZ",
    "TYPEOF",
    "IS_ALPHA",
    "IS_DECIMAL",
    "IS_DIGIT",
    "SOURCE_WATERMARK",
    "SINH",
    "COSH",
    "TANH",
    "COT",
    "UNHEX",
    "ELT",
    "TRANSLATE",
    "REGEXP_COUNT",
    "REGEXP_INSTR",
    "REGEXP_SUBSTR",
    "REGEXP_EXTRACT_ALL",
    "ARRAY_CONTAINS",
    "ARRAY_AGG",
    "BTRIM_ARRAY",
    "PERCENTILE",
    "URL_ENCODE",
    "URL_DECODE",
    "OVERLAPS",
    "GROUPING",
    "GROUP_ID",
    "GROUPING_ID",
];

/// Window functions of the older GROUP BY syntax.
const LEGACY_WINDOWS: &[&str] = &[
    "TUMBLE",
    "HOP",
    "SESSION",
    "CUMULATE",
    "TUMBLE_START",
    "TUMBLE_END",
    "TUMBLE_ROWTIME",
    "TUMBLE_PROCTIME",
    "HOP_START",
    "HOP_END",
    "HOP_ROWTIME",
    "SESSION_START",
    "SESSION_END",
    "SESSION_ROWTIME",
];

/// Binds a call.
pub(crate) fn function(scope: &Scope<'_>, call: &ast::Function) -> Result<Typed> {
    let name = call.name.to_string().replace('`', "").to_uppercase();
    let pos = scope.pos;
    if call.over.is_some() {
        return Err(PlanError::unsupported(
            pos,
            &format!("{name}(...) OVER"),
            "aggregate over TABLE(TUMBLE(...)) or TABLE(HOP(...))",
        ));
    }
    if !call.within_group.is_empty() {
        return Err(PlanError::unsupported(pos, "WITHIN GROUP", ""));
    }
    if LEGACY_WINDOWS.contains(&name.as_str()) {
        return Err(legacy_window(&name, pos));
    }
    let bare = matches!(&call.args, FunctionArguments::None)
        || matches!(&call.args, FunctionArguments::List(list) if list.args.is_empty());
    if NONDETERMINISTIC.contains(&name.as_str()) || (name == "UNIX_TIMESTAMP" && bare) {
        return Err(PlanError::unsupported(
            pos,
            &format!("the function {name}, whose value differs from call to call,"),
            "results must be the same after a recovery; use a column of the input",
        ));
    }
    if aggregate::is_aggregate(&name) {
        return aggregate::call(scope, &name, call);
    }
    if call.filter.is_some() {
        return Err(PlanError::new(
            pos,
            format!("FILTER belongs to an aggregate function, not to {name}"),
        ));
    }
    if let ("TIMESTAMPADD" | "TIMESTAMPDIFF", FunctionArguments::List(list)) = (name.as_str(), &call.args) {
        return special::with_unit(scope, &name, &list.args);
    }
    let args = arguments(scope, &name, &call.args)?;
    match special::dispatch(&name, args, pos)? {
        Dispatched::Bound(bound) => Ok(bound),
        Dispatched::Plain(args) => plain(scope, &name, args),
    }
}

/// How a legacy group window is written today.
pub(crate) fn legacy_window(name: &str, pos: Pos) -> PlanError {
    PlanError::unsupported(
        pos,
        &format!("the group window function {name}"),
        "write FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' HOUR)) and GROUP BY window_start, window_end",
    )
}

/// Whether a function is one of the older group windows.
pub(crate) fn is_legacy_window(name: &str) -> bool {
    LEGACY_WINDOWS.contains(&name.to_uppercase().as_str())
}

fn arguments(scope: &Scope<'_>, name: &str, args: &FunctionArguments) -> Result<Vec<Typed>> {
    let list = match args {
        FunctionArguments::None => return Ok(Vec::new()),
        FunctionArguments::Subquery(_) => {
            return Err(PlanError::unsupported(
                scope.pos,
                &format!("a subquery in {name}"),
                "",
            ));
        }
        FunctionArguments::List(list) => list,
    };
    if list.duplicate_treatment.is_some() {
        return Err(PlanError::new(
            scope.pos,
            format!("DISTINCT belongs to an aggregate function, not to {name}"),
        ));
    }
    list.args
        .iter()
        .map(|arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => scope.bind(expr),
            other => Err(PlanError::new(
                scope.pos.at(other),
                format!("{name} does not take the argument {other}"),
            )),
        })
        .collect()
}

pub(super) fn wrong_count(name: &str, usage: &str, pos: Pos) -> PlanError {
    PlanError::new(pos, format!("wrong number of arguments for {name}: {usage}"))
}

/// A function with fixed types.
pub(crate) fn plain(scope: &Scope<'_>, name: &str, args: Vec<Typed>) -> Result<Typed> {
    let pos = scope.pos;
    let Some(def) = functions::defs().find(|def| def.name == name) else {
        return Err(unknown(name, pos));
    };
    let count = args.len();
    let least = def.args.len() - def.optional;
    if count < least || (count > def.args.len() && !def.repeats) {
        return Err(wrong_count(name, &def.usage(), pos));
    }
    let mut bound = Vec::with_capacity(count);
    for (i, arg) in args.into_iter().enumerate() {
        let Some(wanted) = def.args.get(i).or(def.args.last()) else {
            return Err(wrong_count(name, &def.usage(), pos));
        };
        bound.push(argument(def, *wanted, arg)?);
    }
    check_patterns(name, &bound)?;
    let ty = def.ret.data_type();
    let function = Native::new(def.name, ty.clone(), def.eval).fallible(def.fallible);
    let exprs = bound.into_iter().map(|t| t.expr).collect();
    Ok(Typed::new(function.call(exprs), ty, pos))
}

fn unknown(name: &str, pos: Pos) -> PlanError {
    if MISSING.contains(&name) {
        return PlanError::unsupported(pos, &format!("the function {name}"), "");
    }
    let names = functions::defs()
        .map(|d| d.name)
        .chain(special::NAMES.iter().copied())
        .chain(aggregate::NAMES.iter().copied());
    PlanError::new(
        pos,
        format!("unknown function {name}{}", did_you_mean(name, names)),
    )
}

/// Casts an argument to what the function takes, where Flink does so by itself.
fn argument(def: &Def, wanted: Arg, arg: Typed) -> Result<Typed> {
    let to = match wanted {
        Arg::Text => return operator::as_text(arg, def.name),
        Arg::OnlyText if matches!(arg.ty, DataType::Utf8 | DataType::Null) => DataType::Utf8,
        Arg::Int if types::implicit(&arg.ty, &DataType::Int32) => DataType::Int32,
        Arg::Long if types::implicit(&arg.ty, &DataType::Int64) => DataType::Int64,
        Arg::Double if types::implicit(&arg.ty, &DataType::Float64) => DataType::Float64,
        Arg::Bytes if matches!(arg.ty, DataType::Utf8 | DataType::Binary | DataType::Null) => {
            DataType::Binary
        }
        Arg::Time if types::is_temporal(&arg.ty) => return Ok(arg),
        Arg::Time if matches!(arg.ty, DataType::Utf8 | DataType::Null) => special::ts3(None),
        _ => {
            return Err(PlanError::new(
                arg.pos,
                format!(
                    "{} does not take {} here: {}",
                    def.name,
                    types::name(&arg.ty),
                    def.usage()
                ),
            ));
        }
    };
    operator::coerce(arg, &to)
}

/// Constant patterns are checked before the job runs.
pub(super) fn check_patterns(name: &str, args: &[Typed]) -> Result<()> {
    let Some((pos, text)) = args.get(1).and_then(|a| a.as_text().map(|t| (a.pos, t))) else {
        return Ok(());
    };
    let checked = match name {
        "REGEXP" | "REGEXP_REPLACE" | "REGEXP_EXTRACT" => pattern::compile(text).map(|_| ()),
        "DATE_FORMAT" | "FROM_UNIXTIME" | "UNIX_TIMESTAMP" | "TO_TIMESTAMP" | "TO_DATE" => {
            java_time::Pattern::compile(text).map(|_| ())
        }
        _ => Ok(()),
    };
    checked.map_err(|reason| PlanError::new(pos, reason))
}

/// An expression that fails on NULL: what INSERT puts before a NOT NULL column.
pub(crate) fn require_not_null(value: Typed, column: &str) -> Typed {
    let ty = value.ty.clone();
    let function = Native::new("NOT_NULL", ty.clone(), |call| {
        if call.args[0].null_count() > 0 {
            return Err(format!("NULL for the column {}, which is NOT NULL", call.text));
        }
        Ok(std::sync::Arc::clone(&call.args[0]))
    })
    .text(column)
    .fallible(true);
    Typed::new(function.call(vec![value.expr]), ty, value.pos)
}
