//! Aggregates in columns: one vector per aggregate, indexed by the dense number of a key. Must not know windows.

use super::OperatorError;
use super::distinct::DistinctValues;
use crate::state::column::{Column, Kind, Lane, Values};
use crate::state::keys::{Value, put_value, take_value};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;
use holdfast_dataflow::graph::{AggregateFunction, AggregateSpec};
use std::sync::Arc;

/// What an aggregate is, checked once.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The plan's form.
    pub spec: AggregateSpec,
    /// Kind of the argument; COUNT(*) has none.
    kind: Option<Kind>,
    /// Digits after the point of a decimal argument.
    scale: i8,
    /// Distinct values matter.
    distinct: bool,
    /// For errors.
    text: String,
}

/// An aggregate's argument over one batch.
pub struct Argument {
    column: Option<Column>,
    /// Rows that count; `None` is all.
    counts: Option<BooleanBuffer>,
}

/// Values of one aggregate by key number.
#[derive(Debug, Clone)]
pub enum Accumulator {
    /// COUNT.
    Count(Vec<i64>),
    /// SUM and AVG of integers and decimals. Wide, so that the order of rows does not decide about overflow.
    SumExact(Vec<i128>, Vec<i64>),
    /// SUM and AVG of floats.
    SumFloat(Vec<f64>, Vec<i64>),
    /// MIN and MAX of what fits an i64 (booleans too).
    I64(Vec<i64>, Vec<bool>),
    /// MIN and MAX of floats, in total order with NaN greatest.
    F64(Vec<f64>, Vec<bool>),
    /// MIN and MAX of decimals.
    I128(Vec<i128>, Vec<bool>),
    /// MIN and MAX of strings; shared, so that copying a column copies no strings.
    Bytes(Vec<Option<Arc<[u8]>>>),
    /// Distinct values by key number.
    Distinct(DistinctValues),
}

impl Plan {
    /// Checks an aggregate against its input.
    ///
    /// # Errors
    /// If the argument's type cannot be aggregated so.
    pub fn new(spec: &AggregateSpec, input: &Schema) -> Result<Self, OperatorError> {
        let field = spec.argument.map(|a| input.field(a));
        let text = format!(
            "{}({}{})",
            format!("{:?}", spec.function).to_uppercase(),
            if spec.distinct { "DISTINCT " } else { "" },
            field.map_or("*", |f| f.name().as_str())
        );
        // COUNT needs no value unless it must tell values apart.
        let needs_value = spec.function != AggregateFunction::Count || spec.distinct;
        let kind = match field {
            Some(f) if needs_value => {
                Some(Kind::of(f.data_type()).map_err(|e| OperatorError(format!("{text}: {e}")))?)
            }
            _ => None,
        };
        let sums = matches!(spec.function, AggregateFunction::Sum | AggregateFunction::Avg);
        if sums && !matches!(kind, Some(Kind::I64 | Kind::F64 | Kind::I128)) || needs_value && kind.is_none()
        {
            return Err(OperatorError(format!(
                "{text}: the argument's type cannot be aggregated so"
            )));
        }
        let scale = match field.map(|f| f.data_type()) {
            Some(DataType::Decimal128(_, s) | DataType::Decimal64(_, s) | DataType::Decimal32(_, s)) => *s,
            _ => 0,
        };
        let extremum = matches!(spec.function, AggregateFunction::Min | AggregateFunction::Max);
        Ok(Self {
            spec: spec.clone(),
            kind,
            scale,
            distinct: spec.distinct && !extremum,
            text,
        })
    }

    /// No values.
    #[must_use]
    pub fn accumulator(&self) -> Accumulator {
        if self.distinct {
            return Accumulator::Distinct(DistinctValues::default());
        }
        self.plain()
    }

    fn plain(&self) -> Accumulator {
        match (self.spec.function, self.kind) {
            (AggregateFunction::Count, _) | (_, None) => Accumulator::Count(Vec::new()),
            (AggregateFunction::Sum | AggregateFunction::Avg, Some(Kind::F64)) => {
                Accumulator::SumFloat(Vec::new(), Vec::new())
            }
            (AggregateFunction::Sum | AggregateFunction::Avg, Some(_)) => {
                Accumulator::SumExact(Vec::new(), Vec::new())
            }
            (_, Some(Kind::I64 | Kind::Bool)) => Accumulator::I64(Vec::new(), Vec::new()),
            (_, Some(Kind::F64)) => Accumulator::F64(Vec::new(), Vec::new()),
            (_, Some(Kind::I128)) => Accumulator::I128(Vec::new(), Vec::new()),
            (_, Some(Kind::Bytes)) => Accumulator::Bytes(Vec::new()),
        }
    }

    /// Reads the argument and the filter of a batch.
    ///
    /// # Errors
    /// If the filter is not boolean.
    pub fn argument(&self, batch: &RecordBatch) -> Result<Argument, OperatorError> {
        let mut counts: Option<BooleanBuffer> = None;
        let mut require = |buffer: &BooleanBuffer| {
            counts = Some(match counts.take() {
                None => buffer.clone(),
                Some(other) => &other & buffer,
            });
        };
        if let Some(filter) = self.spec.filter {
            let filter = batch.column(filter);
            if filter.data_type() != &DataType::Boolean {
                return Err(OperatorError(format!(
                    "{}: the FILTER column is not boolean",
                    self.text
                )));
            }
            let filter = filter.as_boolean();
            require(filter.values());
            if let Some(nulls) = filter.nulls() {
                require(nulls.inner());
            }
        }
        let array = self.spec.argument.map(|a| batch.column(a));
        if let Some(nulls) = array.and_then(|a| a.nulls()).filter(|n| n.null_count() > 0) {
            require(nulls.inner());
        }
        let column = match (array, self.kind) {
            (Some(array), Some(_)) => Some(Column::new(array)?),
            _ => None,
        };
        Ok(Argument { column, counts })
    }

    /// Adds rows to keys: row `rows[i]` to key `keys[i]`.
    ///
    /// # Errors
    /// If a sum overflows even 128 bits.
    pub fn update(
        &self,
        acc: &mut Accumulator,
        argument: &Argument,
        rows: &[u32],
        keys: &[u32],
    ) -> Result<(), OperatorError> {
        let max = self.spec.function == AggregateFunction::Max;
        let counts = argument.counts.as_ref();
        let lane = argument.column.as_ref().map(|c| &c.lane);
        match (acc, lane) {
            (Accumulator::Count(n), _) => each(counts, rows, keys, |_, k| n[k] += 1),
            (Accumulator::SumExact(sum, n), Some(Lane::I64(v))) => each(counts, rows, keys, |r, k| {
                // 2^63 additions of 64-bit values fit 127 bits: no check is needed.
                sum[k] += i128::from(v[r]);
                n[k] += 1;
            }),
            (Accumulator::SumExact(sum, n), Some(Lane::I128(v))) => {
                let mut overflow = false;
                each(counts, rows, keys, |r, k| {
                    let (value, over) = sum[k].overflowing_add(v[r]);
                    (sum[k], overflow) = (value, overflow | over);
                    n[k] += 1;
                });
                if overflow {
                    return Err(self.overflow());
                }
            }
            (Accumulator::SumFloat(sum, n), Some(Lane::F64(v))) => each(counts, rows, keys, |r, k| {
                sum[k] += v[r];
                n[k] += 1;
            }),
            (Accumulator::I64(best, seen), Some(Lane::I64(v))) => each(counts, rows, keys, |r, k| {
                if !seen[k] || (v[r] < best[k]) != max {
                    (best[k], seen[k]) = (v[r], true);
                }
            }),
            (Accumulator::I64(best, seen), Some(Lane::Bool(v))) => each(counts, rows, keys, |r, k| {
                let value = i64::from(v.value(r));
                if !seen[k] || (value < best[k]) != max {
                    (best[k], seen[k]) = (value, true);
                }
            }),
            (Accumulator::F64(best, seen), Some(Lane::F64(v))) => each(counts, rows, keys, |r, k| {
                if !seen[k] || float_less(v[r], best[k]) != max {
                    (best[k], seen[k]) = (v[r], true);
                }
            }),
            (Accumulator::I128(best, seen), Some(Lane::I128(v))) => each(counts, rows, keys, |r, k| {
                if !seen[k] || (v[r] < best[k]) != max {
                    (best[k], seen[k]) = (v[r], true);
                }
            }),
            (Accumulator::Bytes(best), Some(Lane::Bytes(offsets, data))) => {
                each(counts, rows, keys, |r, k| {
                    let value = Lane::slice(offsets, data, r);
                    if best[k].as_deref().is_none_or(|b| (value < b) != max) {
                        best[k] = Some(value.into());
                    }
                })
            }
            (Accumulator::Distinct(values), Some(_)) => {
                let Some(column) = &argument.column else {
                    return Ok(());
                };
                let mut value = Vec::new();
                each(counts, rows, keys, |r, k| {
                    value.clear();
                    put_value(&mut value, column, r);
                    values.add(k, &value);
                });
            }
            _ => {
                return Err(OperatorError(format!(
                    "{}: the argument changed its type",
                    self.text
                )));
            }
        }
        Ok(())
    }

    fn overflow(&self) -> OperatorError {
        OperatorError(format!("{} overflows its type {}", self.text, self.spec.result))
    }

    /// Adds a part of another accumulator: its key `first + i` to key `keys[i]`.
    ///
    /// # Errors
    /// If a sum overflows even 128 bits.
    pub fn merge(
        &self,
        acc: &mut Accumulator,
        other: &Accumulator,
        first: usize,
        keys: &[u32],
    ) -> Result<(), OperatorError> {
        use Accumulator as A;
        let max = self.spec.function == AggregateFunction::Max;
        let pairs = || (first..).zip(keys.iter().map(|k| *k as usize));
        match (acc, other) {
            (A::Count(n), A::Count(m)) => pairs().for_each(|(i, k)| n[k] += m[i]),
            (A::SumExact(sum, n), A::SumExact(more, m)) => {
                for (i, k) in pairs() {
                    sum[k] = sum[k].checked_add(more[i]).ok_or_else(|| self.overflow())?;
                    n[k] += m[i];
                }
            }
            (A::SumFloat(sum, n), A::SumFloat(more, m)) => pairs().for_each(|(i, k)| {
                sum[k] += more[i];
                n[k] += m[i];
            }),
            (A::I64(best, seen), A::I64(v, has)) => pairs().filter(|(i, _)| has[*i]).for_each(|(i, k)| {
                if !seen[k] || (v[i] < best[k]) != max {
                    (best[k], seen[k]) = (v[i], true);
                }
            }),
            (A::F64(best, seen), A::F64(v, has)) => pairs().filter(|(i, _)| has[*i]).for_each(|(i, k)| {
                if !seen[k] || float_less(v[i], best[k]) != max {
                    (best[k], seen[k]) = (v[i], true);
                }
            }),
            (A::I128(best, seen), A::I128(v, has)) => pairs().filter(|(i, _)| has[*i]).for_each(|(i, k)| {
                if !seen[k] || (v[i] < best[k]) != max {
                    (best[k], seen[k]) = (v[i], true);
                }
            }),
            (A::Bytes(best), A::Bytes(v)) => pairs().for_each(|(i, k)| {
                if let Some(value) = &v[i]
                    && best[k].as_deref().is_none_or(|b| (**value < *b) != max)
                {
                    best[k] = Some(value.clone());
                }
            }),
            (A::Distinct(values), A::Distinct(others)) => {
                for (i, k) in pairs() {
                    others.of(i).for_each(|value| values.add(k, value));
                }
            }
            _ => return Err(OperatorError(format!("{}: state of another kind", self.text))),
        }
        Ok(())
    }

    /// The results of some keys.
    ///
    /// # Errors
    /// If a result does not fit its type.
    pub fn finish(&self, acc: &Accumulator, keys: &[u32]) -> Result<ArrayRef, OperatorError> {
        let (values, valid) = self.results(acc, keys)?;
        values
            .into_array(valid, &self.spec.result)
            .map_err(|e| match self.spec.function {
                AggregateFunction::Sum | AggregateFunction::Avg => {
                    OperatorError(format!("{}: {e}", self.overflow()))
                }
                _ => OperatorError(format!("{}: {e}", self.text)),
            })
    }

    fn results(&self, acc: &Accumulator, keys: &[u32]) -> Result<(Values, Vec<bool>), OperatorError> {
        let of = |seen: &[bool]| keys.iter().map(|k| seen[*k as usize]).collect::<Vec<_>>();
        let some = |n: &[i64]| keys.iter().map(|k| n[*k as usize] > 0).collect::<Vec<_>>();
        let index = || keys.iter().map(|k| *k as usize);
        Ok(match acc {
            Accumulator::Count(n) => (
                Values::I64(index().map(|k| n[k]).collect()),
                vec![true; keys.len()],
            ),
            Accumulator::SumExact(sum, n) => {
                let avg = self.spec.function == AggregateFunction::Avg;
                let values = match (&self.spec.result, avg) {
                    (DataType::Float32 | DataType::Float64, _) => {
                        let unit = 10f64.powi(i32::from(self.scale));
                        let per = |k: usize| if avg { (n[k].max(1)) as f64 } else { 1.0 };
                        Values::F64(index().map(|k| sum[k] as f64 / unit / per(k)).collect())
                    }
                    (result, _) => {
                        let (wanted, round) = match result {
                            DataType::Decimal128(_, s)
                            | DataType::Decimal64(_, s)
                            | DataType::Decimal32(_, s) => (*s, true),
                            _ => (0, false),
                        };
                        let exact = index()
                            .map(|k| {
                                let divisor = if avg { n[k].max(1) } else { 1 };
                                divide(sum[k], i32::from(wanted) - i32::from(self.scale), divisor, round)
                                    .ok_or_else(|| self.overflow())
                            })
                            .collect::<Result<Vec<_>, _>>()?;
                        Values::I128(exact)
                    }
                };
                (values, some(n))
            }
            Accumulator::SumFloat(sum, n) => {
                let avg = self.spec.function == AggregateFunction::Avg;
                let per = |k: usize| if avg { (n[k].max(1)) as f64 } else { 1.0 };
                (Values::F64(index().map(|k| sum[k] / per(k)).collect()), some(n))
            }
            Accumulator::I64(best, seen) if self.kind == Some(Kind::Bool) => {
                (Values::Bool(index().map(|k| best[k] != 0).collect()), of(seen))
            }
            Accumulator::I64(best, seen) => (Values::I64(index().map(|k| best[k]).collect()), of(seen)),
            Accumulator::F64(best, seen) => (Values::F64(index().map(|k| best[k]).collect()), of(seen)),
            Accumulator::I128(best, seen) => (Values::I128(index().map(|k| best[k]).collect()), of(seen)),
            Accumulator::Bytes(best) => {
                let mut values = Values::empty(Kind::Bytes);
                index().for_each(|k| values.push_bytes(best[k].as_deref().unwrap_or_default()));
                (values, index().map(|k| best[k].is_some()).collect())
            }
            Accumulator::Distinct(values) => {
                let mut plain = self.plain();
                plain.resize(keys.len());
                for (i, k) in index().enumerate() {
                    for value in values.of(k) {
                        self.add_distinct(&mut plain, i, value)?;
                    }
                }
                let all: Vec<u32> = (0..keys.len() as u32).collect();
                return self.results(&plain, &all);
            }
        })
    }

    fn add_distinct(
        &self,
        plain: &mut Accumulator,
        key: usize,
        mut value: &[u8],
    ) -> Result<(), OperatorError> {
        if let Accumulator::Count(n) = plain {
            n[key] += 1;
            return Ok(());
        }
        let kind = self.kind.unwrap_or(Kind::I64);
        match (plain, take_value(&mut value, kind)?) {
            (Accumulator::SumExact(sum, n), Some(Value::I64(v))) => {
                sum[key] += i128::from(v);
                n[key] += 1;
            }
            (Accumulator::SumExact(sum, n), Some(Value::I128(v))) => {
                sum[key] = sum[key].checked_add(v).ok_or_else(|| self.overflow())?;
                n[key] += 1;
            }
            (Accumulator::SumFloat(sum, n), Some(Value::F64(v))) => {
                sum[key] += v;
                n[key] += 1;
            }
            _ => {
                return Err(OperatorError(format!(
                    "{}: a distinct value of another kind",
                    self.text
                )));
            }
        }
        Ok(())
    }

    /// A number that stands for the form of [`Self::encode`].
    #[must_use]
    pub fn code(&self) -> u8 {
        match self.accumulator() {
            Accumulator::Count(_) => 1,
            Accumulator::SumExact(..) => 2,
            Accumulator::SumFloat(..) => 3,
            Accumulator::I64(..) => 4,
            Accumulator::F64(..) => 5,
            Accumulator::I128(..) => 6,
            Accumulator::Bytes(_) => 7,
            Accumulator::Distinct(..) => 8,
        }
    }
}

/// The quotient of `sum * 10^shift` and `divisor`: rounded half up for decimals, else towards zero.
fn divide(sum: i128, shift: i32, divisor: i64, round: bool) -> Option<i128> {
    let power = 10i128.checked_pow(shift.unsigned_abs())?;
    let (numerator, denominator) = if shift >= 0 {
        (sum.checked_mul(power)?, i128::from(divisor))
    } else {
        (sum, power.checked_mul(i128::from(divisor))?)
    };
    let (quotient, rest) = (numerator / denominator, numerator % denominator);
    if round && rest.unsigned_abs() >= denominator.unsigned_abs() - rest.unsigned_abs() {
        return Some(quotient + numerator.signum());
    }
    Some(quotient)
}

fn float_less(a: f64, b: f64) -> bool {
    match (a.is_nan(), b.is_nan()) {
        (false, false) => a < b,
        (a_nan, _) => !a_nan,
    }
}

#[inline]
fn each(counts: Option<&BooleanBuffer>, rows: &[u32], keys: &[u32], mut f: impl FnMut(usize, usize)) {
    match counts {
        None => rows
            .iter()
            .zip(keys)
            .for_each(|(r, k)| f(*r as usize, *k as usize)),
        Some(counts) => rows
            .iter()
            .zip(keys)
            .filter(|(r, _)| counts.value(**r as usize))
            .for_each(|(r, k)| f(*r as usize, *k as usize)),
    }
}
