//! The SQL of the failure tests: numbered rows at a steady rate, raw and aggregated, both checkable in closed form.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A bounded stream of the numbers `0..rows`, whose event time is the number in milliseconds: every number goes to one
/// sink, counts and sums per second of event time and last digit to another.
#[derive(Debug, Clone)]
pub struct Numbers {
    /// How many.
    pub rows: u64,
    /// How many per second of real time.
    pub rate: u64,
    /// Parallelism.
    pub parallelism: u32,
    /// Checkpoint interval.
    pub checkpoint: Duration,
    /// Further settings.
    pub settings: Vec<(String, String)>,
    /// Whether every fortieth number is printed as well, so that [`crate::output::Pulse`] sees the tasks work.
    pub printed: bool,
    /// Directory of the raw numbers.
    pub raw: PathBuf,
    /// Directory of the windows.
    pub windows: PathBuf,
}

impl Numbers {
    /// A job of about `seconds` at 20,000 rows a second with a checkpoint every 200 ms, below `out`.
    #[must_use]
    pub fn lasting(seconds: u64, out: &Path) -> Self {
        Self {
            rows: seconds * 20_000,
            rate: 20_000,
            parallelism: 2,
            checkpoint: Duration::from_millis(200),
            settings: Vec::new(),
            printed: false,
            raw: out.join("raw"),
            windows: out.join("windows"),
        }
    }

    /// With a `SET`.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// How long the source emits if nothing disturbs it.
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_secs(self.rows.div_ceil(self.rate))
    }

    /// The script.
    #[must_use]
    pub fn sql(&self) -> String {
        let mut sql = String::new();
        let _ = writeln!(sql, "SET 'pipeline.name' = 'numbers';");
        let _ = writeln!(
            sql,
            "SET 'execution.checkpointing.interval' = '{} ms';",
            self.checkpoint.as_millis()
        );
        let _ = writeln!(sql, "SET 'parallelism.default' = '{}';", self.parallelism);
        for (key, value) in &self.settings {
            let _ = writeln!(sql, "SET '{key}' = '{value}';");
        }
        let _ = write!(
            sql,
            "CREATE TABLE numbers (
  n BIGINT,
  k AS MOD(n, 10),
  ts AS TO_TIMESTAMP_LTZ(n, 3),
  WATERMARK FOR ts AS ts - INTERVAL '1' SECOND
) WITH (
  'connector' = 'datagen',
  'rows-per-second' = '{}',
  'number-of-rows' = '{}',
  'fields.n.kind' = 'sequence',
  'fields.n.start' = '0',
  'fields.n.end' = '{}'
);
",
            self.rate,
            self.rows,
            self.rows.saturating_sub(1)
        );
        sql.push_str(&csv_table("raw_numbers", "n BIGINT", &self.raw));
        let columns = "w TIMESTAMP(3), k BIGINT, c BIGINT, s BIGINT";
        sql.push_str(&csv_table("per_second", columns, &self.windows));
        if self.printed {
            sql.push_str("CREATE TABLE printed (n BIGINT) WITH ('connector' = 'print');\n");
        }
        sql.push_str("EXECUTE STATEMENT SET\nBEGIN\n");
        if self.printed {
            sql.push_str("  INSERT INTO printed SELECT n FROM numbers WHERE MOD(n, 40) = 0;\n");
        }
        sql.push_str(
            "\
  INSERT INTO raw_numbers SELECT n FROM numbers;
  INSERT INTO per_second
    SELECT window_start, k, COUNT(*), SUM(n)
    FROM TABLE(TUMBLE(TABLE numbers, DESCRIPTOR(ts), INTERVAL '1' SECOND))
    GROUP BY window_start, window_end, k;
END;
",
        );
        sql
    }
}

/// `CREATE TABLE` of a filesystem table in CSV.
#[must_use]
pub fn csv_table(name: &str, columns: &str, path: &Path) -> String {
    format!(
        "CREATE TABLE {name} ({columns}) WITH ('connector' = 'filesystem', 'path' = '{}', 'format' = 'csv');\n",
        path.display()
    )
}

/// A table of a script, as far as the oracle needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableOption {
    /// The table's name.
    pub table: String,
    /// An option's value.
    pub value: String,
}

/// The value that each `CREATE TABLE` of a script gives to an option, in the order of the script. Only understands what
/// the examples use: one option per `'key' = 'value'`.
#[must_use]
pub fn options_of(script: &str, key: &str) -> Vec<TableOption> {
    let mut found = Vec::new();
    let upper = script.to_uppercase();
    let starts: Vec<usize> = upper.match_indices("CREATE TABLE").map(|(at, _)| at).collect();
    for (i, start) in starts.iter().enumerate() {
        let end = starts.get(i + 1).copied().unwrap_or(script.len());
        let text = &script[*start..end];
        let name = text["CREATE TABLE".len()..]
            .split(|c: char| c.is_whitespace() || c == '(')
            .find(|word| !word.is_empty())
            .unwrap_or_default();
        let Some(at) = text.find(&format!("'{key}'")) else {
            continue;
        };
        let after = &text[at + key.len() + 2..];
        if let Some(value) = after
            .trim_start()
            .strip_prefix('=')
            .and_then(|rest| rest.split('\'').nth(1))
        {
            found.push(TableOption {
                table: name.trim_matches('`').to_owned(),
                value: value.to_owned(),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_per_table() {
        let numbers = Numbers::lasting(1, Path::new("/out"));
        let paths = options_of(&numbers.sql(), "path");
        let pairs: Vec<_> = paths
            .iter()
            .map(|o| (o.table.as_str(), o.value.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [("raw_numbers", "/out/raw"), ("per_second", "/out/windows")]
        );
        assert_eq!(options_of(&numbers.sql(), "rows-per-second").len(), 1);
    }
}
