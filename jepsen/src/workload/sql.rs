//! The scripts of the workloads' jobs. Their sources are sequences, so that every result has a closed form.

use crate::model::oracle::{ACCOUNTS, FILTER_MODULUS, FILTERED};
use std::fmt::Write;
use std::path::Path;

/// Splits of every source.
pub(super) const SPLITS: u64 = 16;

/// Settings of a job.
pub(super) struct Shape {
    pub(super) name: String,
    pub(super) rows: u64,
    pub(super) rate: u64,
    pub(super) parallelism: u32,
    pub(super) checkpoint_ms: u64,
}

fn head(shape: &Shape) -> String {
    let Shape {
        name,
        rows,
        rate,
        parallelism,
        checkpoint_ms,
    } = shape;
    format!(
        "SET 'pipeline.name' = '{name}';
SET 'parallelism.default' = '{parallelism}';
SET 'execution.checkpointing.interval' = '{checkpoint_ms} ms';
SET 'restart-strategy.exponential-delay.max-backoff' = '1 s';
CREATE TABLE numbers (
  n BIGINT,
  k AS MOD(n, 10),
  ts AS TO_TIMESTAMP_LTZ(n, 3),
  WATERMARK FOR ts AS ts - INTERVAL '1' SECOND
) WITH (
  'connector' = 'datagen',
  'rows-per-second' = '{rate}',
  'number-of-rows' = '{rows}',
  'scan.splits' = '{SPLITS}',
  'fields.n.kind' = 'sequence',
  'fields.n.start' = '0',
  'fields.n.end' = '{}'
);
",
        rows.saturating_sub(1)
    )
}

fn csv(sql: &mut String, name: &str, columns: &str, out: &Path) {
    let path = out.join(name);
    let _ = writeln!(
        sql,
        "CREATE TABLE {name} ({columns}) WITH ('connector' = 'filesystem', 'path' = '{}', 'format' = 'csv');",
        path.display()
    );
}

/// All numbers but the filtered ones, and windows per last digit.
pub(super) fn eos(shape: &Shape, out: &Path) -> String {
    let mut sql = head(shape);
    csv(&mut sql, "filtered", "n BIGINT", out);
    csv(&mut sql, "windows", "k BIGINT, f BIGINT, c BIGINT, s BIGINT", out);
    let _ = write!(
        sql,
        "EXECUTE STATEMENT SET
BEGIN
  INSERT INTO filtered SELECT n FROM numbers WHERE MOD(n, {FILTER_MODULUS}) <> {FILTERED};
  INSERT INTO windows SELECT k, MIN(n), COUNT(*), SUM(n)
    FROM TABLE(TUMBLE(TABLE numbers, DESCRIPTOR(ts), INTERVAL '1' SECOND)) GROUP BY window_start, window_end, k;
END;
"
    );
    sql
}

/// Transfers as pairs of rows, put together by a union; balances per account and totals over all, per window.
pub(super) fn bank(shape: &Shape, out: &Path) -> String {
    let mut sql = head(shape);
    csv(
        &mut sql,
        "balances",
        "a BIGINT, f BIGINT, c BIGINT, s BIGINT",
        out,
    );
    csv(&mut sql, "totals", "f BIGINT, c BIGINT, s BIGINT", out);
    let _ = write!(
        sql,
        "CREATE VIEW moves AS
  SELECT ts, n, MOD(n, {ACCOUNTS}) AS account, 0 - (MOD(n, 97) + 1) AS amount FROM numbers
  UNION ALL
  SELECT ts, n, MOD(n * 7 + 5, {ACCOUNTS}) AS account, MOD(n, 97) + 1 AS amount FROM numbers;
EXECUTE STATEMENT SET
BEGIN
  INSERT INTO balances SELECT account, MIN(n), COUNT(*), SUM(amount)
    FROM TABLE(TUMBLE(TABLE moves, DESCRIPTOR(ts), INTERVAL '1' SECOND)) GROUP BY window_start, window_end, account;
  INSERT INTO totals SELECT MIN(n), COUNT(*), SUM(amount)
    FROM TABLE(TUMBLE(TABLE moves, DESCRIPTOR(ts), INTERVAL '1' SECOND)) GROUP BY window_start, window_end;
END;
"
    );
    sql
}

/// State without results.
pub(super) fn idle(shape: &Shape) -> String {
    let mut sql = head(shape);
    sql.push_str(
        "CREATE TABLE nowhere (k BIGINT, c BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO nowhere SELECT k, COUNT(*)
  FROM TABLE(TUMBLE(TABLE numbers, DESCRIPTOR(ts), INTERVAL '1' SECOND)) GROUP BY window_start, window_end, k;
",
    );
    sql
}
