//! Functions over numbers.

use super::{Arg, Call, Def, Evaluated, Ret, def, int_at};
use Arg::{Double, Long};
use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, PrimitiveArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type,
};
use std::sync::Arc;

/// The functions of this file with fixed types.
pub(crate) const DEFS: &[Def] = &[
    def("SQRT", &[Double], 0, Ret::Double, |c| map(c, f64::sqrt)),
    def("EXP", &[Double], 0, Ret::Double, |c| map(c, f64::exp)),
    def("LN", &[Double], 0, Ret::Double, |c| map(c, f64::ln)),
    def("LOG10", &[Double], 0, Ret::Double, |c| map(c, f64::log10)),
    def("LOG2", &[Double], 0, Ret::Double, |c| map(c, f64::log2)),
    def("LOG", &[Double, Double], 1, Ret::Double, log),
    def("POWER", &[Double, Double], 0, Ret::Double, |c| map2(c, f64::powf)),
    def("SIN", &[Double], 0, Ret::Double, |c| map(c, f64::sin)),
    def("COS", &[Double], 0, Ret::Double, |c| map(c, f64::cos)),
    def("TAN", &[Double], 0, Ret::Double, |c| map(c, f64::tan)),
    def("ASIN", &[Double], 0, Ret::Double, |c| map(c, f64::asin)),
    def("ACOS", &[Double], 0, Ret::Double, |c| map(c, f64::acos)),
    def("ATAN", &[Double], 0, Ret::Double, |c| map(c, f64::atan)),
    def("ATAN2", &[Double, Double], 0, Ret::Double, |c| {
        map2(c, f64::atan2)
    }),
    def("RADIANS", &[Double], 0, Ret::Double, |c| map(c, f64::to_radians)),
    def("DEGREES", &[Double], 0, Ret::Double, |c| map(c, f64::to_degrees)),
    def("PI", &[], 0, Ret::Double, |c| constant(c, std::f64::consts::PI)),
    def("E", &[], 0, Ret::Double, |c| constant(c, std::f64::consts::E)),
    def("BIN", &[Long], 0, Ret::Text, |c| {
        super::collect_text(c, |i| super::long_at(&c.args[0], i).map(|n| format!("{n:b}")))
    }),
    def("HEX", &[Long], 0, Ret::Text, |c| {
        super::collect_text(c, |i| super::long_at(&c.args[0], i).map(|n| format!("{n:X}")))
    }),
];

fn doubles(array: &ArrayRef) -> &Float64Array {
    array.as_primitive::<Float64Type>()
}

fn map(call: &Call<'_>, f: impl Fn(f64) -> f64) -> Evaluated {
    Ok(Arc::new(doubles(&call.args[0]).unary::<_, Float64Type>(f)))
}

fn map2(call: &Call<'_>, f: impl Fn(f64, f64) -> f64) -> Evaluated {
    let (a, b) = (doubles(&call.args[0]), doubles(&call.args[1]));
    let values: Float64Array = a.iter().zip(b).map(|(a, b)| Some(f(a?, b?))).collect();
    Ok(Arc::new(values))
}

fn constant(call: &Call<'_>, value: f64) -> Evaluated {
    Ok(Arc::new(Float64Array::from(vec![value; call.rows])))
}

/// `LOG(x)` is natural, `LOG(base, x)` is not.
fn log(call: &Call<'_>) -> Evaluated {
    if call.args.len() == 1 {
        map(call, f64::ln)
    } else {
        map2(call, |base, x| x.ln() / base.ln())
    }
}

fn each<T: ArrowPrimitiveType>(call: &Call<'_>, f: impl Fn(T::Native) -> T::Native) -> Evaluated {
    let array: PrimitiveArray<T> = call.args[0].as_primitive::<T>().unary(f);
    Ok(Arc::new(array.with_data_type(call.result.clone())))
}

fn no_number(call: &Call<'_>) -> Evaluated {
    Err(format!("{} is no number", call.args[0].data_type()))
}

/// `ABS`, of the argument's type.
pub(crate) fn abs(call: &Call<'_>) -> Evaluated {
    match call.result {
        DataType::Int8 => each::<Int8Type>(call, i8::wrapping_abs),
        DataType::Int16 => each::<Int16Type>(call, i16::wrapping_abs),
        DataType::Int32 => each::<Int32Type>(call, i32::wrapping_abs),
        DataType::Int64 => each::<Int64Type>(call, i64::wrapping_abs),
        DataType::Float32 => each::<Float32Type>(call, f32::abs),
        DataType::Float64 => each::<Float64Type>(call, f64::abs),
        DataType::Decimal128(..) => each::<Decimal128Type>(call, i128::wrapping_abs),
        _ => no_number(call),
    }
}

/// `SIGN`, of the argument's type.
pub(crate) fn sign(call: &Call<'_>) -> Evaluated {
    let float = |x: f64| if x == 0.0 || x.is_nan() { x } else { x.signum() };
    match call.result {
        DataType::Int8 => each::<Int8Type>(call, i8::signum),
        DataType::Int16 => each::<Int16Type>(call, i16::signum),
        DataType::Int32 => each::<Int32Type>(call, i32::signum),
        DataType::Int64 => each::<Int64Type>(call, i64::signum),
        DataType::Float32 => each::<Float32Type>(call, |x| float(f64::from(x)) as f32),
        DataType::Float64 => each::<Float64Type>(call, float),
        DataType::Decimal128(_, s) => {
            let one = 10i128.pow(u32::from(s.unsigned_abs()));
            each::<Decimal128Type>(call, |x| x.signum() * one)
        }
        _ => no_number(call),
    }
}

/// `FLOOR` and `CEIL` (`params[0]` = 1): integers stay, decimals lose their scale.
pub(crate) fn floor_ceil(call: &Call<'_>) -> Evaluated {
    let up = call.params.first() == Some(&1);
    let float = |x: f64| if up { x.ceil() } else { x.floor() };
    match call.args[0].data_type() {
        DataType::Float32 => each::<Float32Type>(call, |x| float(f64::from(x)) as f32),
        DataType::Float64 => each::<Float64Type>(call, float),
        DataType::Decimal128(_, s) => {
            let one = 10i128.pow(u32::from(s.unsigned_abs()));
            let whole = |x: i128| {
                let down = x.div_euclid(one);
                if up && x.rem_euclid(one) != 0 {
                    down + 1
                } else {
                    down
                }
            };
            let array: Decimal128Array = call.args[0].as_primitive::<Decimal128Type>().unary(whole);
            Ok(Arc::new(array.with_data_type(call.result.clone())))
        }
        _ => Ok(Arc::clone(&call.args[0])),
    }
}

/// `ROUND(x [, digits])`: half away from zero, on the decimal digits.
pub(crate) fn round(call: &Call<'_>) -> Evaluated {
    let digits = |i: usize| match call.args.get(1) {
        Some(digits) => int_at(digits, i),
        None => Some(0),
    };
    match call.args[0].data_type() {
        DataType::Float64 => {
            let values = doubles(&call.args[0]);
            let out: Float64Array = (0..call.rows)
                .map(|i| {
                    Some(round_double(
                        (!values.is_null(i)).then(|| values.value(i))?,
                        digits(i)?,
                    ))
                })
                .collect();
            Ok(Arc::new(out))
        }
        DataType::Decimal128(_, s) => {
            let from = i32::from(*s);
            let to = match call.result {
                DataType::Decimal128(_, s) => i32::from(*s),
                _ => 0,
            };
            let values = call.args[0].as_primitive::<Decimal128Type>();
            let out: Decimal128Array = (0..call.rows)
                .map(|i| {
                    let value = (!values.is_null(i)).then(|| values.value(i))?;
                    let rounded = round_integer(value, from - digits(i)?.min(from));
                    Some(rescale(rounded, from, to))
                })
                .collect();
            Ok(Arc::new(out.with_data_type(call.result.clone())))
        }
        DataType::Int64 => {
            let values = call.args[0].as_primitive::<Int64Type>();
            let out: Int64Array = (0..call.rows)
                .map(|i| {
                    let value = (!values.is_null(i)).then(|| values.value(i))?;
                    Some(round_integer(i128::from(value), -digits(i)?) as i64)
                })
                .collect();
            Ok(Arc::new(out))
        }
        _ => no_number(call),
    }
}

fn rescale(value: i128, from: i32, to: i32) -> i128 {
    let factor = 10i128.pow((from - to).unsigned_abs());
    if from > to { value / factor } else { value * factor }
}

/// Rounds the last `places` digits away, half away from zero.
fn round_integer(value: i128, places: i32) -> i128 {
    if places <= 0 {
        return value;
    }
    if places > 38 {
        return 0;
    }
    let unit = 10i128.pow(places.unsigned_abs());
    let rest = value % unit;
    let down = value - rest;
    if rest.abs() * 2 >= unit {
        down + unit * value.signum()
    } else {
        down
    }
}

/// Rounds the shortest decimal form of a double, so that 2.675 becomes 2.68 as its reader expects.
fn round_double(value: f64, digits: i32) -> f64 {
    if !value.is_finite() {
        return value;
    }
    let text = format!("{}", value.abs());
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let places = i32::try_from(fraction.len()).unwrap_or(i32::MAX) - digits;
    let Ok(unscaled) = format!("{whole}{fraction}").parse::<i128>() else {
        return value;
    };
    let rounded = round_integer(unscaled, places);
    if rounded == 0 {
        return 0.0;
    }
    let sign = if value.is_sign_negative() { "-" } else { "" };
    format!("{sign}{rounded}e-{}", fraction.len())
        .parse()
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::float_cmp)]
    fn doubles_round_by_their_decimal_digits() {
        for (value, digits, expected) in [
            (2.675, 2, 2.68),
            (-2.5, 0, -3.0),
            (1234.5678, -2, 1200.0),
            (0.1, 5, 0.1),
            (1e300, 2, 1e300),
        ] {
            assert_eq!(round_double(value, digits), expected, "{value} {digits}");
        }
        assert_eq!(round_integer(15, 1), 20);
        assert_eq!(round_integer(-14, 1), -10);
    }
}
