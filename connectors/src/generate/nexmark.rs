//! The `nexmark` table: options, and arrays of the declared columns. What an event is stands in `nexmark_events`.

use super::datagen;
use super::nexmark_events::{Auction, Bid, Entity, Model, Person, Strings};
use super::reader::Generator;
use crate::format::time::{self, Separator};
use crate::options::{Options, nearest};
use arrow::array::{
    ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray, TimestampSecondArray,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use holdfast_common::config::ConfigValue as _;
use holdfast_dataflow::connector::ConnectorError;
use holdfast_dataflow::graph::TableSpec;
use std::sync::Arc;
use std::time::Duration;

/// Number column: the value of the i-th event of its kind.
type Number = fn(&Model, u64) -> i64;
/// String column: appends the value.
type Text = fn(&Model, u64, &mut Strings);

#[derive(Clone, Copy)]
enum Make {
    Number(Number),
    Text(Text),
    /// Microseconds since the epoch.
    Moment(Number),
}

const BID: [(&str, Make); 7] = [
    ("auction", Make::Number(Bid::auction)),
    ("bidder", Make::Number(Bid::bidder)),
    ("price", Make::Number(Bid::price)),
    ("channel", Make::Text(Bid::channel)),
    ("url", Make::Text(Bid::url)),
    ("dateTime", Make::Moment(Bid::time_us)),
    ("extra", Make::Text(Bid::extra)),
];
const AUCTION: [(&str, Make); 10] = [
    ("id", Make::Number(Auction::id)),
    ("itemName", Make::Text(Auction::item_name)),
    ("description", Make::Text(Auction::description)),
    ("initialBid", Make::Number(Auction::initial_bid)),
    ("reserve", Make::Number(Auction::reserve)),
    ("dateTime", Make::Moment(Auction::time_us)),
    ("expires", Make::Moment(Auction::expires_us)),
    ("seller", Make::Number(Auction::seller)),
    ("category", Make::Number(Auction::category)),
    ("extra", Make::Text(Auction::extra)),
];
const PERSON: [(&str, Make); 8] = [
    ("id", Make::Number(Person::id)),
    ("name", Make::Text(Person::name)),
    ("emailAddress", Make::Text(Person::email)),
    ("creditCard", Make::Text(Person::credit_card)),
    ("city", Make::Text(Person::city)),
    ("state", Make::Text(Person::state)),
    ("dateTime", Make::Moment(Person::time_us)),
    ("extra", Make::Text(Person::extra)),
];

pub(super) struct Nexmark {
    schema: SchemaRef,
    model: Model,
    columns: Vec<Make>,
    rows: Option<u64>,
    rate: Option<u64>,
    splits: u32,
}

impl Nexmark {
    pub(super) fn new(table: &TableSpec) -> Result<Self, ConnectorError> {
        let options = Options::new(
            table,
            &[
                "nexmark.table",
                "events.num",
                "first-event.rate",
                "base-time",
                "inter-event-delay",
                "scan.splits",
            ],
        )?;
        let (entity, known): (Entity, &[(&str, Make)]) =
            match options.choice("nexmark.table", &["bid", "auction", "person"])? {
                "bid" => (Entity::Bid, &BID),
                "auction" => (Entity::Auction, &AUCTION),
                _ => (Entity::Person, &PERSON),
            };
        let columns = table
            .schema
            .fields()
            .iter()
            .map(|field| column(&options, field, known))
            .collect::<Result<_, _>>()?;
        let model = Model {
            base_us: base_time_us(&options)?,
            delay_us: delay_us(&options)?,
        };
        let events: Option<u64> = options.value("events.num")?.filter(|n| *n > 0);
        let rate: u64 = options.value("first-event.rate")?.unwrap_or(0);
        Ok(Self {
            schema: table.schema.clone(),
            model,
            columns,
            rows: events.map(|n| entity.count(n)),
            rate: (rate > 0).then_some(rate),
            splits: datagen::splits(&options)?,
        })
    }
}

fn column(options: &Options<'_>, field: &Field, known: &[(&str, Make)]) -> Result<Make, ConnectorError> {
    let name = field.name();
    let Some((_, make)) = known.iter().find(|(n, _)| n == name) else {
        let names: Vec<&str> = known.iter().map(|(n, _)| *n).collect();
        let hint = nearest(name, names.iter().copied())
            .map(|n| format!("; did you mean '{n}'?"))
            .unwrap_or_default();
        return Err(options.wrong_column(
            name,
            &format!("does not exist{hint} (there are {})", names.join(", ")),
        ));
    };
    let (fits, wanted) = match make {
        Make::Number(_) => (*field.data_type() == DataType::Int64, "BIGINT"),
        Make::Text(_) => (*field.data_type() == DataType::Utf8, "STRING"),
        Make::Moment(_) => (
            matches!(field.data_type(), DataType::Timestamp(..)),
            "TIMESTAMP(3)",
        ),
    };
    if fits {
        return Ok(*make);
    }
    Err(options.wrong_column(
        name,
        &format!("must have type {wanted}, not {}", field.data_type()),
    ))
}

fn base_time_us(options: &Options<'_>) -> Result<i64, ConnectorError> {
    let text = options.text("base-time").unwrap_or("2015-07-15 00:00:00").trim();
    let value = time::parse_timestamp(text.as_bytes(), Separator::Any, true)
        .and_then(|(seconds, nanos)| time::to_unit(seconds, nanos, TimeUnit::Microsecond));
    value.ok_or_else(|| options.wrong("base-time", "is no timestamp like 2015-07-15 00:00:00"))
}

/// A bare number is in microseconds.
fn delay_us(options: &Options<'_>) -> Result<u64, ConnectorError> {
    let key = "inter-event-delay";
    let Some(text) = options.text(key).map(str::trim) else {
        return Ok(100);
    };
    let micros = match text.parse() {
        Ok(number) => Some(number),
        Err(_) => Duration::parse(text)
            .ok()
            .and_then(|d| u64::try_from(d.as_micros()).ok()),
    };
    // With at most an hour between events, no event number leaves the range of times.
    micros
        .filter(|us| (1..=3_600_000_000).contains(us))
        .ok_or_else(|| {
            options.wrong(
                key,
                "is no time between 1 us and 1 h (a bare number is in microseconds)",
            )
        })
}

impl Generator for Nexmark {
    fn splits(&self) -> u32 {
        self.splits
    }

    fn rows(&self) -> Option<u64> {
        self.rows
    }

    fn rate(&self) -> Option<u64> {
        self.rate
    }

    fn generate(&self, first: u64, stride: u64, count: usize) -> Result<RecordBatch, ConnectorError> {
        let wrong =
            |e: arrow::error::ArrowError| ConnectorError::Data(format!("cannot build generated rows: {e}"));
        let numbers = || (0..count as u64).map(move |k| first + k * stride);
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for (make, field) in self.columns.iter().zip(self.schema.fields()) {
            arrays.push(match make {
                Make::Number(f) => {
                    Arc::new(Int64Array::from_iter_values(numbers().map(|n| f(&self.model, n))))
                }
                Make::Text(f) => {
                    let mut strings = Strings::with_capacity(count);
                    for number in numbers() {
                        f(&self.model, number, &mut strings);
                        strings.end();
                    }
                    let (offsets, bytes) = strings.into_parts();
                    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
                    Arc::new(StringArray::try_new(offsets, Buffer::from_vec(bytes), None).map_err(wrong)?)
                }
                Make::Moment(f) => moments(field.data_type(), numbers().map(|n| f(&self.model, n))),
            });
        }
        RecordBatch::try_new(self.schema.clone(), arrays).map_err(wrong)
    }
}

/// Nexmark's times have milliseconds, whatever the column could hold.
fn moments(data_type: &DataType, micros: impl Iterator<Item = i64>) -> ArrayRef {
    let millis = micros.map(|us| us.div_euclid(1000));
    let (unit, zone) = match data_type {
        DataType::Timestamp(unit, zone) => (*unit, zone.clone()),
        _ => (TimeUnit::Millisecond, None),
    };
    match unit {
        TimeUnit::Second => {
            let seconds = millis.map(|ms| ms.div_euclid(1000));
            Arc::new(TimestampSecondArray::from_iter_values(seconds).with_timezone_opt(zone))
        }
        TimeUnit::Millisecond => {
            Arc::new(TimestampMillisecondArray::from_iter_values(millis).with_timezone_opt(zone))
        }
        TimeUnit::Microsecond => {
            let micros = millis.map(|ms| ms * 1000);
            Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone_opt(zone))
        }
        TimeUnit::Nanosecond => {
            let nanos = millis.map(|ms| ms.saturating_mul(1_000_000));
            Arc::new(TimestampNanosecondArray::from_iter_values(nanos).with_timezone_opt(zone))
        }
    }
}
