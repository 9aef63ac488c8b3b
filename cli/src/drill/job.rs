//! The job that runs while the cluster is hurt: numbered rows at a steady rate to a sink that commits, to the workers'
//! output, and through an exchange into a keyed window, so that it has state. Pure.

use super::rows::SPLITS;
use std::path::Path;

/// Between two checkpoints.
pub const CHECKPOINT_MS: u64 = 1000;
/// Rows that are printed per second at most; above that, every so many-th block of [`SPLITS`] is.
const PRINTED_PER_SECOND: u64 = 4000;
/// Rows before the source ends: it never does.
const ROWS: u64 = 1 << 40;

/// One row in how many is printed, at `load` rows per second.
#[must_use]
pub fn printed_one_in(load: u64) -> u64 {
    load.div_ceil(PRINTED_PER_SECOND).max(1)
}

/// The script. The source's rate is `load` rows per second.
#[must_use]
pub fn script(load: u64, parallelism: u32, committed: &Path) -> String {
    let block = SPLITS * printed_one_in(load);
    format!(
        "SET 'pipeline.name' = 'holdfast-drill';
SET 'parallelism.default' = '{parallelism}';
SET 'execution.checkpointing.interval' = '{CHECKPOINT_MS} ms';
CREATE TABLE numbers (
  n BIGINT,
  k AS MOD(n, 1000),
  ts AS TO_TIMESTAMP_LTZ(n, 3),
  WATERMARK FOR ts AS ts - INTERVAL '1' SECOND
) WITH (
  'connector' = 'datagen',
  'rows-per-second' = '{load}',
  'fields.n.kind' = 'sequence',
  'fields.n.start' = '0',
  'fields.n.end' = '{}'
);
CREATE TABLE committed (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '{}', 'format' = 'csv');
CREATE TABLE emitted (n BIGINT) WITH ('connector' = 'print', 'print-identifier' = 'drill');
CREATE TABLE counts (w TIMESTAMP(3), k BIGINT, c BIGINT) WITH ('connector' = 'blackhole');
EXECUTE STATEMENT SET
BEGIN
  INSERT INTO committed SELECT n FROM numbers;
  INSERT INTO emitted SELECT n FROM numbers WHERE MOD(n, {block}) < {SPLITS};
  INSERT INTO counts
    SELECT window_start, k, COUNT(*)
    FROM TABLE(TUMBLE(TABLE numbers, DESCRIPTOR(ts), INTERVAL '10' SECOND))
    GROUP BY window_start, window_end, k;
END;
",
        ROWS - 1,
        committed.display()
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use holdfast_common::config::Configuration;

    #[test]
    fn the_script_is_a_plan_and_prints_a_bounded_share() {
        for load in [16, 1000, 50_000] {
            let sql = script(load, 2, Path::new("/tmp/out"));
            let registry = holdfast_connectors::registry();
            holdfast_sql::plan(&sql, &Configuration::new(), registry.as_ref()).unwrap();
            assert!(load / printed_one_in(load) <= PRINTED_PER_SECOND);
        }
        assert!(script(50_000, 2, Path::new("/o")).contains("MOD(n, 208) < 16"));
    }
}
