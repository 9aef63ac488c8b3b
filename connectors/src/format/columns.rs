//! Arrow columns that are filled from text, one field at a time. A record that fails half-way is padded with NULLs and
//! taken out when the batch is finished. Pure.

use super::time::{self, Separator};
use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanArray, BooleanBuilder, Decimal128Builder, Float32Builder, Float64Builder,
    Int8Builder, Int16Builder, Int32Builder, Int64Builder, PrimitiveArray, StringBuilder,
};
use arrow::datatypes::{
    ArrowPrimitiveType, ArrowTimestampType, DataType, Date32Type, Schema, SchemaRef, Time32MillisecondType,
    Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use base64::Engine as _;
use holdfast_dataflow::connector::ConnectorError;
use std::sync::Arc;

/// Refuses columns of types that the text formats do not have.
pub(crate) fn check_schema(table: &str, schema: &Schema) -> Result<(), ConnectorError> {
    if schema.fields().is_empty() {
        return Err(ConnectorError::Definition(format!(
            "table '{table}' has no columns"
        )));
    }
    for field in schema.fields() {
        if !supported(field.data_type()) {
            return Err(ConnectorError::Definition(format!(
                "table '{table}': column '{}' has type {}, which text formats do not support",
                field.name(),
                field.data_type()
            )));
        }
    }
    Ok(())
}

fn supported(data_type: &DataType) -> bool {
    use DataType as D;
    matches!(
        data_type,
        D::Boolean
            | D::Int8
            | D::Int16
            | D::Int32
            | D::Int64
            | D::Float32
            | D::Float64
            | D::Decimal128(_, 0..)
            | D::Utf8
            | D::Binary
            | D::Date32
            | D::Time32(TimeUnit::Second | TimeUnit::Millisecond)
            | D::Time64(TimeUnit::Microsecond | TimeUnit::Nanosecond)
            | D::Timestamp(_, _)
    )
}

/// The type's name in SQL.
fn sql_name(data_type: &DataType) -> String {
    use DataType as D;
    match data_type {
        D::Boolean => "BOOLEAN".into(),
        D::Int8 => "TINYINT".into(),
        D::Int16 => "SMALLINT".into(),
        D::Int32 => "INT".into(),
        D::Int64 => "BIGINT".into(),
        D::Float32 => "FLOAT".into(),
        D::Float64 => "DOUBLE".into(),
        D::Decimal128(p, s) => format!("DECIMAL({p}, {s})"),
        D::Utf8 => "STRING".into(),
        D::Binary => "BYTES".into(),
        D::Date32 => "DATE".into(),
        D::Time32(..) | D::Time64(..) => "TIME".into(),
        D::Timestamp(_, None) => "TIMESTAMP".into(),
        D::Timestamp(_, Some(_)) => "TIMESTAMP_LTZ".into(),
        other => other.to_string(),
    }
}

enum Values {
    Bool(BooleanBuilder),
    I8(Int8Builder),
    I16(Int16Builder),
    I32(Int32Builder),
    I64(Int64Builder),
    F32(Float32Builder),
    F64(Float64Builder),
    Decimal(Decimal128Builder, u8, u32),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Date(Int32Builder),
    Time32(Int32Builder, TimeUnit),
    Time64(Int64Builder, TimeUnit),
    Timestamp(Int64Builder, TimeUnit, bool),
}

/// One column being filled.
pub(super) struct Column {
    values: Values,
    data_type: DataType,
    nullable: bool,
    pub(super) name: String,
    /// Values so far.
    len: usize,
}

/// Runs one expression over whichever builder there is.
macro_rules! each {
    ($values:expr, $builder:ident => $body:expr) => {
        match $values {
            Values::Bool($builder) => $body,
            Values::I8($builder) => $body,
            Values::I16($builder) => $body,
            Values::I32($builder) => $body,
            Values::I64($builder) => $body,
            Values::F32($builder) => $body,
            Values::F64($builder) => $body,
            Values::Decimal($builder, ..) => $body,
            Values::Text($builder) => $body,
            Values::Bytes($builder) => $body,
            Values::Date($builder) => $body,
            Values::Time32($builder, _) => $body,
            Values::Time64($builder, _) => $body,
            Values::Timestamp($builder, ..) => $body,
        }
    };
}

impl Column {
    fn new(field: &arrow::datatypes::Field) -> Self {
        use DataType as D;
        let values = match field.data_type() {
            D::Boolean => Values::Bool(BooleanBuilder::new()),
            D::Int8 => Values::I8(Int8Builder::new()),
            D::Int16 => Values::I16(Int16Builder::new()),
            D::Int32 => Values::I32(Int32Builder::new()),
            D::Int64 => Values::I64(Int64Builder::new()),
            D::Float32 => Values::F32(Float32Builder::new()),
            D::Float64 => Values::F64(Float64Builder::new()),
            D::Decimal128(p, s) => {
                Values::Decimal(Decimal128Builder::new(), *p, u32::try_from(*s).unwrap_or(0))
            }
            D::Binary => Values::Bytes(BinaryBuilder::new()),
            D::Date32 => Values::Date(Int32Builder::new()),
            D::Time32(unit) => Values::Time32(Int32Builder::new(), *unit),
            D::Time64(unit) => Values::Time64(Int64Builder::new(), *unit),
            D::Timestamp(unit, zone) => Values::Timestamp(Int64Builder::new(), *unit, zone.is_some()),
            // Other types were refused by `check_schema`.
            _ => Values::Text(StringBuilder::new()),
        };
        Self {
            values,
            data_type: field.data_type().clone(),
            nullable: field.is_nullable(),
            name: field.name().clone(),
            len: 0,
        }
    }

    pub(super) fn is_text(&self) -> bool {
        matches!(self.values, Values::Text(_))
    }

    /// Appends NULL.
    pub(super) fn null(&mut self) -> Result<(), String> {
        if !self.nullable {
            return Err(format!(
                "column '{}' is NOT NULL and the field is empty or NULL",
                self.name
            ));
        }
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        each!(&mut self.values, builder => builder.append_null());
        self.len += 1;
    }

    /// Appends the value that `text` spells; `separator` is what timestamps must have.
    pub(super) fn text(&mut self, text: &[u8], separator: Separator) -> Result<(), String> {
        if self.append(text, separator).is_none() {
            return Err(self.refuse(text));
        }
        self.len += 1;
        Ok(())
    }

    /// The error for a text that is no value of this column.
    pub(super) fn refuse(&self, text: &[u8]) -> String {
        let shown: String = String::from_utf8_lossy(text).chars().take(80).collect();
        let kind = sql_name(&self.data_type);
        let why = if self.is_text() {
            "is no valid UTF-8"
        } else {
            "is no"
        };
        if self.is_text() {
            format!("column '{}': '{shown}' {why}", self.name)
        } else {
            format!("column '{}': '{shown}' {why} {kind}", self.name)
        }
    }

    #[inline]
    fn append(&mut self, text: &[u8], separator: Separator) -> Option<()> {
        if let Values::Text(builder) = &mut self.values {
            builder.append_value(std::str::from_utf8(text).ok()?);
            return Some(());
        }
        let text = text.trim_ascii();
        match &mut self.values {
            Values::Text(_) => {}
            Values::Bool(b) => b.append_value(parse_bool(text)?),
            Values::I8(b) => b.append_value(lexical_core::parse(text).ok()?),
            Values::I16(b) => b.append_value(lexical_core::parse(text).ok()?),
            Values::I32(b) => b.append_value(lexical_core::parse(text).ok()?),
            Values::I64(b) => b.append_value(lexical_core::parse(text).ok()?),
            Values::F32(b) => b.append_value(lexical_core::parse(text).ok()?),
            Values::F64(b) => b.append_value(lexical_core::parse(text).ok()?),
            Values::Decimal(b, precision, scale) => b.append_value(parse_decimal(text, *precision, *scale)?),
            Values::Bytes(b) => b.append_value(base64::engine::general_purpose::STANDARD.decode(text).ok()?),
            Values::Date(b) => b.append_value(i32::try_from(time::parse_date(text)?).ok()?),
            Values::Time32(b, unit) => {
                let (seconds, nanos) = time::parse_time(text)?;
                b.append_value(i32::try_from(time::to_unit(i64::from(seconds), nanos, *unit)?).ok()?);
            }
            Values::Time64(b, unit) => {
                let (seconds, nanos) = time::parse_time(text)?;
                b.append_value(time::to_unit(i64::from(seconds), nanos, *unit)?);
            }
            Values::Timestamp(b, unit, zone) => {
                let (seconds, nanos) = time::parse_timestamp(text, separator, *zone)?;
                b.append_value(time::to_unit(seconds, nanos, *unit)?);
            }
        }
        Some(())
    }

    fn finish(&mut self) -> ArrayRef {
        self.len = 0;
        match &mut self.values {
            Values::Bool(b) => Arc::new(b.finish()),
            Values::I8(b) => Arc::new(b.finish()),
            Values::I16(b) => Arc::new(b.finish()),
            Values::I32(b) => Arc::new(b.finish()),
            Values::I64(b) => Arc::new(b.finish()),
            Values::F32(b) => Arc::new(b.finish()),
            Values::F64(b) => Arc::new(b.finish()),
            Values::Decimal(b, ..) => {
                let array = b.finish();
                // Every value was checked against the precision when it was parsed.
                Arc::new(array.with_data_type(self.data_type.clone()))
            }
            Values::Text(b) => Arc::new(b.finish()),
            Values::Bytes(b) => Arc::new(b.finish()),
            Values::Date(b) => Arc::new(b.finish().reinterpret_cast::<Date32Type>()),
            Values::Time32(b, TimeUnit::Second) => {
                Arc::new(b.finish().reinterpret_cast::<Time32SecondType>())
            }
            Values::Time32(b, _) => Arc::new(b.finish().reinterpret_cast::<Time32MillisecondType>()),
            Values::Time64(b, TimeUnit::Microsecond) => cast::<Time64MicrosecondType>(b),
            Values::Time64(b, _) => cast::<Time64NanosecondType>(b),
            Values::Timestamp(b, unit, _) => timestamps(b, *unit, &self.data_type),
        }
    }
}

fn cast<T: ArrowPrimitiveType<Native = i64>>(builder: &mut Int64Builder) -> ArrayRef {
    Arc::new(builder.finish().reinterpret_cast::<T>())
}

fn timestamps(builder: &mut Int64Builder, unit: TimeUnit, data_type: &DataType) -> ArrayRef {
    fn zoned<T: ArrowTimestampType>(builder: &mut Int64Builder, zone: Option<Arc<str>>) -> ArrayRef {
        let array: PrimitiveArray<T> = builder.finish().reinterpret_cast::<T>();
        Arc::new(array.with_timezone_opt(zone))
    }
    let zone = match data_type {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    match unit {
        TimeUnit::Second => zoned::<TimestampSecondType>(builder, zone),
        TimeUnit::Millisecond => zoned::<TimestampMillisecondType>(builder, zone),
        TimeUnit::Microsecond => zoned::<TimestampMicrosecondType>(builder, zone),
        TimeUnit::Nanosecond => zoned::<TimestampNanosecondType>(builder, zone),
    }
}

fn parse_bool(text: &[u8]) -> Option<bool> {
    if text.eq_ignore_ascii_case(b"true") {
        Some(true)
    } else if text.eq_ignore_ascii_case(b"false") {
        Some(false)
    } else {
        None
    }
}

/// `[+-]digits[.digits][e[+-]digits]` rounded half up to `scale` digits; `None` if it needs more than `precision` digits.
fn parse_decimal(text: &[u8], precision: u8, scale: u32) -> Option<i128> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (mantissa, exponent): (&[u8], i32) = match text.iter().position(|b| matches!(b, b'e' | b'E')) {
        Some(at) => (&text[..at], lexical_core::parse(&text[at + 1..]).ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = match mantissa.iter().position(|b| *b == b'.') {
        Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
        None => (mantissa, &mantissa[..0]),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value: i128 = 0;
    // Digits after the last one that counts: only the first decides the rounding.
    let mut wanted = i64::try_from(whole.len()).ok()? + i64::from(exponent) + i64::from(scale);
    for digit in whole.iter().chain(fraction) {
        if !digit.is_ascii_digit() {
            return None;
        }
        let digit = i128::from(digit - b'0');
        if wanted > 0 {
            value = value.checked_mul(10)?.checked_add(digit)?;
        } else if wanted == 0 && digit >= 5 {
            value += 1;
        }
        wanted -= 1;
    }
    while wanted > 0 && value != 0 {
        value = value.checked_mul(10)?;
        wanted -= 1;
    }
    let limit = 10i128.checked_pow(u32::from(precision))?;
    (value < limit).then_some(if negative { -value } else { value })
}

/// The columns of a batch being filled, and which of its rows are to be dropped.
pub(super) struct Columns {
    schema: SchemaRef,
    pub(super) columns: Vec<Column>,
    rows: usize,
    bad: Vec<usize>,
    skipped: u64,
}

impl Columns {
    pub(super) fn new(schema: &SchemaRef) -> Self {
        Self {
            schema: schema.clone(),
            columns: schema.fields().iter().map(|field| Column::new(field)).collect(),
            rows: 0,
            bad: Vec::new(),
            skipped: 0,
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// A record is complete.
    pub(super) fn end_row(&mut self) {
        self.rows += 1;
    }

    /// A record failed: whatever part of it was appended will be dropped.
    pub(super) fn drop_row(&mut self) {
        self.skipped += 1;
        if self.columns.iter().all(|c| c.len == self.rows) {
            return;
        }
        for column in &mut self.columns {
            if column.len == self.rows {
                column.pad();
            }
        }
        self.bad.push(self.rows);
        self.rows += 1;
    }

    /// The good rows, and how many records were dropped.
    pub(super) fn finish(&mut self) -> Result<(RecordBatch, u64), ConnectorError> {
        let internal =
            |e: arrow::error::ArrowError| ConnectorError::Data(format!("cannot build a batch: {e}"));
        let mut arrays: Vec<ArrayRef> = self.columns.iter_mut().map(Column::finish).collect();
        let mut rows = self.rows;
        if !self.bad.is_empty() {
            let mut keep = vec![true; rows];
            for row in &self.bad {
                keep[*row] = false;
            }
            let keep = BooleanArray::from(keep);
            for array in &mut arrays {
                *array = arrow::compute::filter(array, &keep).map_err(internal)?;
            }
            rows -= self.bad.len();
        }
        let skipped = std::mem::take(&mut self.skipped);
        self.bad.clear();
        self.rows = 0;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch =
            RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options).map_err(internal)?;
        Ok((batch, skipped))
    }
}

#[cfg(test)]
mod tests {
    use super::parse_decimal;

    #[test]
    fn decimals_are_rounded_half_up_and_bounded() {
        let parse = |text: &str| parse_decimal(text.as_bytes(), 5, 2);
        assert_eq!(parse("1.005"), Some(101));
        assert_eq!(parse("-1.004"), Some(-100));
        assert_eq!(parse(".5"), Some(50));
        assert_eq!(parse("1e2"), Some(10_000));
        assert_eq!(parse("12345e-3"), Some(1235));
        assert_eq!(parse("999.994"), Some(99_999));
        assert_eq!(parse("999.995"), None);
        assert_eq!(parse("0e400000"), Some(0));
        for wrong in ["", ".", "1.2.3", "1e", "x", "--1", "1e400000"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
