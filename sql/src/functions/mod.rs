//! Scalar functions with Flink's behaviour, as functions over Arrow arrays. Binding chooses them and fixes their
//! types; nothing here resolves names or knows plans.

pub(crate) mod cast;
pub(crate) mod decimal;
pub(crate) mod java_time;
pub(crate) mod math;
pub(crate) mod pattern;
pub(crate) mod text;
pub(crate) mod time;

use crate::sqltext;
use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use datafusion_common::{DataFusionError, ScalarValue};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// What an evaluation returns: an array of as many rows as the call, or a reason.
pub(crate) type Evaluated = std::result::Result<ArrayRef, String>;

/// The arguments of one evaluation.
pub(crate) struct Call<'a> {
    /// One array per argument, all of `rows` rows.
    pub args: &'a [ArrayRef],
    /// Number of rows.
    pub rows: usize,
    /// Type of the result.
    pub result: &'a DataType,
    /// Numbers that planning fixed.
    pub params: &'a [i64],
    /// Text that planning fixed.
    pub text: &'a str,
}

/// Evaluates a function.
pub(crate) type Eval = fn(&Call<'_>) -> Evaluated;

/// A function whose types are fixed.
#[derive(Debug, Clone)]
pub(crate) struct Native {
    /// Flink's name, or an operator.
    pub name: &'static str,
    /// Type of the result.
    pub result: DataType,
    /// Numbers that planning fixed.
    pub params: Vec<i64>,
    /// Text that planning fixed.
    pub text: String,
    /// Whether a row can make it fail; such a function is not evaluated where AND, OR or CASE have decided already.
    pub fallible: bool,
    eval: Eval,
    signature: Signature,
}

impl PartialEq for Native {
    fn eq(&self, other: &Self) -> bool {
        (self.name, &self.result, &self.params, &self.text)
            == (other.name, &other.result, &other.params, &other.text)
    }
}

impl Eq for Native {}

impl Hash for Native {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.name, &self.result, &self.params, &self.text).hash(state);
    }
}

impl Native {
    /// A function without fixed parameters that cannot fail.
    pub(crate) fn new(name: &'static str, result: DataType, eval: Eval) -> Self {
        Native {
            name,
            result,
            params: Vec::new(),
            text: String::new(),
            fallible: false,
            eval,
            signature: any_arguments(),
        }
    }

    /// Fixes numbers.
    pub(crate) fn params(mut self, params: Vec<i64>) -> Self {
        self.params = params;
        self
    }

    /// Fixes a text.
    pub(crate) fn text(mut self, text: impl Into<String>) -> Self {
        self.text = text.into();
        self
    }

    /// Marks the function as one that rows can make fail.
    pub(crate) fn fallible(mut self, fallible: bool) -> Self {
        self.fallible = fallible;
        self
    }

    /// The function applied to arguments.
    pub(crate) fn call(self, args: Vec<Expr>) -> Expr {
        Expr::ScalarFunction(ScalarFunction::new_udf(
            Arc::new(ScalarUDF::new_from_impl(self)),
            args,
        ))
    }
}

impl ScalarUDFImpl for Native {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn display_name(&self, args: &[Expr]) -> datafusion_common::Result<String> {
        Ok(sqltext::native(self, args))
    }

    fn schema_name(&self, args: &[Expr]) -> datafusion_common::Result<String> {
        Ok(sqltext::native(self, args))
    }

    fn return_type(&self, _args: &[DataType]) -> datafusion_common::Result<DataType> {
        Ok(self.result.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion_common::Result<ColumnarValue> {
        let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let arrays = args
            .args
            .into_iter()
            .map(|a| a.into_array(rows))
            .collect::<datafusion_common::Result<Vec<_>>>()?;
        let call = Call {
            args: &arrays,
            rows,
            result: &self.result,
            params: &self.params,
            text: &self.text,
        };
        let array = (self.eval)(&call).map_err(DataFusionError::Execution)?;
        if constant {
            ScalarValue::try_from_array(&array, 0).map(ColumnarValue::Scalar)
        } else {
            Ok(ColumnarValue::Array(array))
        }
    }
}

/// The signature of functions whose arguments binding has checked already.
pub(crate) fn any_arguments() -> Signature {
    Signature::one_of(
        vec![TypeSignature::VariadicAny, TypeSignature::Nullary],
        Volatility::Immutable,
    )
}

/// What a function takes at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arg {
    /// STRING; numbers, dates and booleans are cast to it.
    Text,
    /// STRING and nothing else.
    OnlyText,
    /// TINYINT to INT, as INT.
    Int,
    /// Any integer, as BIGINT.
    Long,
    /// Any number, as DOUBLE.
    Double,
    /// DATE, TIME or TIMESTAMP.
    Time,
    /// BYTES, or STRING as its UTF-8 bytes.
    Bytes,
}

/// What a function returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ret {
    /// STRING.
    Text,
    /// INT.
    Int,
    /// BIGINT.
    Long,
    /// DOUBLE.
    Double,
    /// BOOLEAN.
    Bool,
}

impl Ret {
    pub(crate) fn data_type(self) -> DataType {
        match self {
            Ret::Text => DataType::Utf8,
            Ret::Int => DataType::Int32,
            Ret::Long => DataType::Int64,
            Ret::Double => DataType::Float64,
            Ret::Bool => DataType::Boolean,
        }
    }
}

/// A function whose types do not depend on its arguments'.
pub(crate) struct Def {
    /// Flink's name.
    pub name: &'static str,
    /// What it takes; with `repeats`, the last one any number of times.
    pub args: &'static [Arg],
    /// How many of the last arguments may be left out.
    pub optional: usize,
    /// Whether the last argument may be repeated.
    pub repeats: bool,
    /// What it returns.
    pub ret: Ret,
    /// Whether a row can make it fail.
    pub fallible: bool,
    /// Evaluates it.
    pub eval: Eval,
}

/// Short form of a [`Def`].
pub(crate) const fn def(
    name: &'static str,
    args: &'static [Arg],
    optional: usize,
    ret: Ret,
    eval: Eval,
) -> Def {
    Def {
        name,
        args,
        optional,
        repeats: false,
        ret,
        fallible: false,
        eval,
    }
}

impl Def {
    /// `SUBSTRING(STRING, INT [, INT])`
    pub(crate) fn usage(&self) -> String {
        let mut text = format!("{}(", self.name);
        for (i, arg) in self.args.iter().enumerate() {
            let optional = i + self.optional >= self.args.len();
            let comma = if i == 0 { "" } else { ", " };
            let name = match arg {
                Arg::Text | Arg::OnlyText => "STRING",
                Arg::Int => "INT",
                Arg::Long => "BIGINT",
                Arg::Double => "DOUBLE",
                Arg::Time => "DATE or TIMESTAMP",
                Arg::Bytes => "BYTES",
            };
            text += &if optional {
                format!(" [{comma}{name}]")
            } else {
                format!("{comma}{name}")
            };
        }
        if self.repeats {
            text += ", ...";
        }
        text + ")"
    }
}

/// Functions with fixed types, from all files.
pub(crate) fn defs() -> impl Iterator<Item = &'static Def> {
    text::DEFS
        .iter()
        .chain(math::DEFS)
        .chain(pattern::DEFS)
        .chain(time::DEFS)
}

/// The strings of an argument.
pub(crate) fn strings(array: &ArrayRef) -> &StringArray {
    array.as_string::<i32>()
}

/// Row `i` of a string argument.
pub(crate) fn string_at(array: &ArrayRef, i: usize) -> Option<&str> {
    let array = strings(array);
    (!array.is_null(i)).then(|| array.value(i))
}

/// Row `i` of an INT argument.
pub(crate) fn int_at(array: &ArrayRef, i: usize) -> Option<i32> {
    let array = array.as_primitive::<Int32Type>();
    (!array.is_null(i)).then(|| array.value(i))
}

/// Row `i` of a BIGINT argument.
pub(crate) fn long_at(array: &ArrayRef, i: usize) -> Option<i64> {
    let array = array.as_primitive::<Int64Type>();
    (!array.is_null(i)).then(|| array.value(i))
}

/// An array of strings, one per row.
pub(crate) fn collect_text(call: &Call<'_>, f: impl FnMut(usize) -> Option<String>) -> Evaluated {
    Ok(Arc::new((0..call.rows).map(f).collect::<StringArray>()))
}
