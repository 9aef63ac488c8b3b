//! Exact arithmetic on decimals, with Flink's result types and rounding. A result that does not fit is NULL, as in
//! Flink; a division by zero fails.

use super::{Call, Evaluated};
use crate::types::DECIMAL_MAX;
use arrow::array::{Array, AsArray, Decimal128Array};
use arrow::datatypes::{DataType, Decimal128Type, i256};
use std::sync::Arc;

/// Operators on decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

impl Op {
    /// The operator's sign.
    pub(crate) fn sign(self) -> &'static str {
        match self {
            Op::Add => "+",
            Op::Subtract => "-",
            Op::Multiply => "*",
            Op::Divide => "/",
            Op::Modulo => "%",
        }
    }

    /// Precision and scale of the result of two decimals.
    pub(crate) fn result(self, (p1, s1): (u8, i8), (p2, s2): (u8, i8)) -> (u8, i8) {
        let (p1, s1, p2, s2) = (i32::from(p1), i32::from(s1), i32::from(p2), i32::from(s2));
        let (precision, scale) = match self {
            Op::Add | Op::Subtract => {
                let scale = s1.max(s2);
                ((p1 - s1).max(p2 - s2) + scale + 1, scale)
            }
            Op::Multiply => (p1 + p2, s1 + s2),
            Op::Divide => {
                let scale = (s1 + p2 + 1).max(6);
                (p1 - s1 + s2 + scale, scale)
            }
            Op::Modulo => {
                let scale = s1.max(s2);
                ((p1 - s1).min(p2 - s2) + scale, scale)
            }
        };
        adjust(precision, scale)
    }
}

/// Makes room for the digits before the point when the precision is too large, keeping six after it.
fn adjust(precision: i32, scale: i32) -> (u8, i8) {
    let max = i32::from(DECIMAL_MAX);
    if precision <= max {
        return (precision.max(1) as u8, scale as i8);
    }
    let whole = precision - scale;
    let scale = (max - whole).max(scale.min(6));
    (DECIMAL_MAX, scale as i8)
}

fn ten_to(exponent: i32) -> Option<i256> {
    i256::from_i128(10).checked_pow(u32::try_from(exponent).ok()?)
}

/// Quotient, half away from zero.
fn divide_rounded(a: i256, b: i256) -> Option<i256> {
    let quotient = a.checked_div(b)?;
    let rest = a.checked_rem(b)?;
    let twice = rest.wrapping_abs().checked_mul(i256::from_i128(2))?;
    if twice >= b.wrapping_abs() {
        let negative = a.is_negative() != b.is_negative();
        let one = i256::from_i128(if negative { -1 } else { 1 });
        quotient.checked_add(one)
    } else {
        Some(quotient)
    }
}

/// `value` of scale `from` at scale `to`.
fn rescale(value: i256, from: i32, to: i32) -> Option<i256> {
    if to >= from {
        value.checked_mul(ten_to(to - from)?)
    } else {
        divide_rounded(value, ten_to(from - to)?)
    }
}

fn compute(op: Op, a: i128, s1: i32, b: i128, s2: i32, scale: i32) -> Option<i256> {
    let (a, b) = (i256::from_i128(a), i256::from_i128(b));
    let both = s1.max(s2);
    match op {
        Op::Add => rescale(
            rescale(a, s1, both)?.checked_add(rescale(b, s2, both)?)?,
            both,
            scale,
        ),
        Op::Subtract => rescale(
            rescale(a, s1, both)?.checked_sub(rescale(b, s2, both)?)?,
            both,
            scale,
        ),
        Op::Multiply => rescale(a.checked_mul(b)?, s1 + s2, scale),
        Op::Divide => {
            let shift = scale + s2 - s1;
            if shift >= 0 {
                divide_rounded(a.checked_mul(ten_to(shift)?)?, b)
            } else {
                divide_rounded(a, b.checked_mul(ten_to(-shift)?)?)
            }
        }
        Op::Modulo => rescale(
            rescale(a, s1, both)?.checked_rem(rescale(b, s2, both)?)?,
            both,
            scale,
        ),
    }
}

fn scale_of(ty: &DataType) -> i32 {
    match ty {
        DataType::Decimal128(_, s) => i32::from(*s),
        _ => 0,
    }
}

fn arithmetic(call: &Call<'_>, op: Op) -> Evaluated {
    let (left, right) = (
        call.args[0].as_primitive::<Decimal128Type>(),
        call.args[1].as_primitive::<Decimal128Type>(),
    );
    let (s1, s2) = (scale_of(left.data_type()), scale_of(right.data_type()));
    let DataType::Decimal128(precision, scale) = *call.result else {
        return Err("the result is no decimal".into());
    };
    let limit = 10i128.pow(u32::from(precision));
    let mut values = Vec::with_capacity(call.rows);
    for (a, b) in left.iter().zip(right) {
        let (Some(a), Some(b)) = (a, b) else {
            values.push(None);
            continue;
        };
        if b == 0 && matches!(op, Op::Divide | Op::Modulo) {
            return Err("division by zero".into());
        }
        let value = compute(op, a, s1, b, s2, i32::from(scale)).and_then(i256::to_i128);
        values.push(value.filter(|v| v.unsigned_abs() < limit.unsigned_abs()));
    }
    Ok(Arc::new(
        Decimal128Array::from(values).with_data_type(call.result.clone()),
    ))
}

/// The evaluation of an operator.
pub(crate) fn eval(op: Op) -> super::Eval {
    match op {
        Op::Add => |c| arithmetic(c, Op::Add),
        Op::Subtract => |c| arithmetic(c, Op::Subtract),
        Op::Multiply => |c| arithmetic(c, Op::Multiply),
        Op::Divide => |c| arithmetic(c, Op::Divide),
        Op::Modulo => |c| arithmetic(c, Op::Modulo),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_types_are_flinks() {
        assert_eq!(Op::Multiply.result((4, 3), (19, 0)), (23, 3));
        assert_eq!(Op::Add.result((10, 2), (5, 4)), (13, 4));
        assert_eq!(Op::Divide.result((10, 2), (5, 0)), (16, 8));
        assert_eq!(Op::Multiply.result((38, 10), (38, 10)), (38, 6));
        assert_eq!(Op::Modulo.result((10, 2), (5, 0)), (7, 2));
    }

    #[test]
    fn arithmetic_rounds_half_away_from_zero() {
        let v = |op, a, s1, b, s2, s| compute(op, a, s1, b, s2, s).and_then(i256::to_i128);
        assert_eq!(v(Op::Divide, 1, 0, 3, 0, 6), Some(333_333));
        assert_eq!(v(Op::Divide, -2, 0, 3, 0, 6), Some(-666_667));
        assert_eq!(v(Op::Multiply, 15, 1, 5, 1, 1), Some(8));
        assert_eq!(v(Op::Add, 15, 1, 25, 2, 2), Some(175));
        assert_eq!(v(Op::Modulo, -7, 0, 3, 0, 0), Some(-1));
    }
}
