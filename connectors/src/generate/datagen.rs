//! The `datagen` table: options as in Flink, rows as a function of (`seed`, row number).

use super::datagen_column::ColumnRule;
use super::reader::Generator;
use crate::options::Options;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use holdfast_dataflow::connector::ConnectorError;
use holdfast_dataflow::graph::TableSpec;

/// What can be set per column, behind `fields.<name>.`.
const COLUMN_KEYS: [&str; 9] = [
    "kind",
    "min",
    "max",
    "max-past",
    "length",
    "var-len",
    "start",
    "end",
    "null-rate",
];
const TABLE_KEYS: [&str; 4] = ["rows-per-second", "number-of-rows", "seed", "scan.splits"];
/// Beyond this a split is a handful of rows and checkpoints only grow.
const SPLITS_MAX: u32 = 4096;

/// The numbers of the rows of one batch.
#[derive(Debug, Clone)]
pub(super) struct RowNumbers {
    pub(super) next: u64,
    pub(super) stride: u64,
    pub(super) left: usize,
}

impl Iterator for RowNumbers {
    type Item = u64;

    #[inline]
    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        let row = self.next;
        self.next = row.wrapping_add(self.stride);
        Some(row)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for RowNumbers {}

pub(super) struct Datagen {
    schema: SchemaRef,
    columns: Vec<ColumnRule>,
    rows: Option<u64>,
    rate: u64,
    splits: u32,
}

/// The option `scan.splits`.
pub(super) fn splits(options: &Options<'_>) -> Result<u32, ConnectorError> {
    let splits: u32 = options.value("scan.splits")?.unwrap_or(16);
    if (1..=SPLITS_MAX).contains(&splits) {
        return Ok(splits);
    }
    Err(options.wrong("scan.splits", &format!("must be between 1 and {SPLITS_MAX}")))
}

impl Datagen {
    pub(super) fn new(table: &TableSpec) -> Result<Self, ConnectorError> {
        let mut known: Vec<String> = TABLE_KEYS.iter().map(|k| (*k).to_owned()).collect();
        for field in table.schema.fields() {
            known.extend(
                COLUMN_KEYS
                    .iter()
                    .map(|key| format!("fields.{}.{key}", field.name())),
            );
        }
        let options = Options::new(table, &known)?;
        let seed: u64 = options.value("seed")?.unwrap_or(0);
        let rate: u64 = options.value("rows-per-second")?.unwrap_or(10_000);
        if rate == 0 {
            return Err(options.wrong("rows-per-second", "must be at least 1"));
        }
        let mut rows: Option<u64> = options.value("number-of-rows")?;
        let mut columns = Vec::with_capacity(table.schema.fields().len());
        for (index, field) in table.schema.fields().iter().enumerate() {
            let rule = ColumnRule::new(&options, field, seed, index as u64 + 1, rate)?;
            // As in Flink, the source ends when a sequence does.
            if let Some(length) = rule.sequence_length() {
                rows = Some(rows.map_or(length, |r| r.min(length)));
            }
            columns.push(rule);
        }
        Ok(Self {
            schema: table.schema.clone(),
            columns,
            rows,
            rate,
            splits: splits(&options)?,
        })
    }
}

impl Generator for Datagen {
    fn splits(&self) -> u32 {
        self.splits
    }

    fn rows(&self) -> Option<u64> {
        self.rows
    }

    fn rate(&self) -> Option<u64> {
        Some(self.rate)
    }

    fn generate(&self, first: u64, stride: u64, count: usize) -> Result<RecordBatch, ConnectorError> {
        let numbers = RowNumbers {
            next: first,
            stride,
            left: count,
        };
        let arrays = self
            .columns
            .iter()
            .map(|rule| rule.array(numbers.clone()))
            .collect();
        RecordBatch::try_new(self.schema.clone(), arrays)
            .map_err(|e| ConnectorError::Data(format!("cannot build generated rows: {e}")))
    }
}
