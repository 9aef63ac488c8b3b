//! The queries of which a real Flink was measured, as scripts for Holdfast: the same tables, the same number of rows, the
//! same windows, a checkpoint every second and parallelism 2.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// One query and what the peer reached with it.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    /// Its name.
    pub name: &'static str,
    /// Rows that it reads.
    pub rows: u64,
    /// Rows per CPU-second of Flink 2.2.1's TaskManager, warm, on the machine on which the peer was measured.
    pub flink_rows_per_cpu_second: f64,
    /// Whether it reads the CSV files.
    pub csv: bool,
    body: &'static str,
}

/// Rows of the CSV files, and how many files they are spread over.
pub const CSV_ROWS: u64 = 5_000_000;
const CSV_FILES: u64 = 4;
const DATAGEN_ROWS: u64 = 20_000_000;

const HEAD: &str = "SET 'execution.checkpointing.interval' = '1 s';
SET 'parallelism.default' = '2';
";
const NUMBERS: &str = "CREATE TABLE numbers (
  n BIGINT,
  k INT,
  v BIGINT,
  ts AS TO_TIMESTAMP_LTZ(n / 100, 3),
  WATERMARK FOR ts AS ts
) WITH (
  'connector' = 'datagen', 'rows-per-second' = '1000000000', 'number-of-rows' = '{rows}',
  'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '80000000000',
  'fields.k.min' = '0', 'fields.k.max' = '9999', 'fields.v.min' = '0', 'fields.v.max' = '1000000'
);
";
const BIDS: &str = "CREATE TABLE bids (
  auction BIGINT,
  bidder BIGINT,
  price BIGINT,
  ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '1' SECOND
) WITH ('connector' = 'filesystem', 'path' = '{csv}', 'format' = 'csv');
";

/// All queries.
pub const QUERIES: [Query; 4] = [
    Query {
        name: "datagen-projection",
        rows: DATAGEN_ROWS,
        flink_rows_per_cpu_second: 1.85e6,
        csv: false,
        body: "CREATE TABLE nowhere (n BIGINT, k INT, v BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO nowhere SELECT n, k, v + 1 FROM numbers;
",
    },
    Query {
        name: "datagen-tumble",
        rows: DATAGEN_ROWS,
        flink_rows_per_cpu_second: 0.9e6,
        csv: false,
        body: "CREATE TABLE nowhere (k INT, c BIGINT, m BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO nowhere SELECT k, COUNT(*), MAX(v)
FROM TABLE(TUMBLE(TABLE numbers, DESCRIPTOR(ts), INTERVAL '2' SECOND))
GROUP BY window_start, window_end, k;
",
    },
    Query {
        name: "csv-projection",
        rows: CSV_ROWS,
        flink_rows_per_cpu_second: 0.55e6,
        csv: true,
        body: "CREATE TABLE nowhere (auction BIGINT, bidder BIGINT, price BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO nowhere SELECT auction, bidder, price * 2 FROM bids;
",
    },
    Query {
        name: "csv-hop",
        rows: CSV_ROWS,
        flink_rows_per_cpu_second: 0.22e6,
        csv: true,
        body: "CREATE TABLE nowhere (auction BIGINT, c BIGINT, m BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO nowhere SELECT auction, COUNT(*), MAX(price)
FROM TABLE(HOP(TABLE bids, DESCRIPTOR(ts), INTERVAL '2' SECOND, INTERVAL '10' SECOND))
GROUP BY window_start, window_end, auction;
",
    },
];

impl Query {
    /// The script over `rows` rows, with the CSV files in `csv`.
    #[must_use]
    pub fn script(&self, rows: u64, csv: &Path) -> String {
        let table = if self.csv {
            BIDS.replace("{csv}", &csv.display().to_string())
        } else {
            NUMBERS.replace("{rows}", &rows.to_string())
        };
        format!("{HEAD}{table}{}", self.body)
    }
}

/// Writes `rows` bids: ten per millisecond, ten thousand auctions, a hundred thousand bidders; every file covers the whole
/// time. A function of the row number.
///
/// # Errors
/// If a file cannot be written.
pub fn write_bids(directory: &Path, rows: u64) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    for file in 0..CSV_FILES {
        let path = directory.join(format!("bids-{file}.csv"));
        let mut out = BufWriter::new(File::create(&path).with_context(|| path.display().to_string())?);
        for row in (file..rows).step_by(CSV_FILES as usize) {
            let mixed = row.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            let (auction, bidder, price) = (mixed % 10_000, mixed / 7 % 100_000, mixed / 13 % 1_000_000);
            let ms = row / 10;
            let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
            let millis = ms % 1000;
            writeln!(
                out,
                "{auction},{bidder},{price},2025-01-01 {hour:02}:{minute:02}:{second:02}.{millis:03}"
            )?;
        }
        out.flush().with_context(|| path.display().to_string())?;
    }
    Ok(())
}
