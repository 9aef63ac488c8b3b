//! What a reader of the job's output sees, looked at again and again: every row once, for ever, and of every split a
//! prefix. Reads the sink's directory as any user would.

use super::super::Violation;
use super::trace;
use crate::oracle;
use crate::output::{visible_files, visible_lines};
use crate::script::Numbers;
use std::collections::{BTreeMap, BTreeSet};

/// Splits of the generated table: row `n` belongs to split `n` modulo this.
const SPLITS: u64 = 16;

/// A reader.
#[derive(Debug, Default)]
pub struct Reader {
    numbers: BTreeSet<u64>,
    windows: BTreeSet<String>,
    files: BTreeMap<String, usize>,
}

fn violation(invariant: &str, detail: String) -> Violation {
    Violation {
        invariant: invariant.to_owned(),
        detail,
        at_ms: trace::now_ms(),
    }
}

impl Reader {
    /// Looks at both directories.
    pub fn look(&mut self, job: &Numbers) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut present = BTreeSet::new();
        for (dir, windows) in [(&job.raw, false), (&job.windows, true)] {
            let names = match visible_files(dir) {
                Ok(names) => names,
                Err(error) => {
                    found.push(violation("output-files", format!("{error:#}")));
                    continue;
                }
            };
            for name in names {
                let path = dir.join(&name);
                let path_text = path.display().to_string();
                present.insert(path_text.clone());
                let bytes = std::fs::read(&path).unwrap_or_default();
                match self.files.get(&path_text) {
                    Some(length) if *length == bytes.len() => continue,
                    Some(length) => {
                        let text = format!("{name} had {length} bytes and has {}", bytes.len());
                        found.push(violation("output-never-changes", text));
                    }
                    None => self.take(&name, &bytes, windows, &mut found),
                }
                self.files.insert(path_text, bytes.len());
            }
        }
        for gone in self.files.keys().filter(|name| !present.contains(*name)) {
            found.push(violation(
                "output-never-goes",
                format!("{gone} was visible and is gone"),
            ));
        }
        self.check_prefixes(&mut found);
        found
    }

    fn take(&mut self, name: &str, bytes: &[u8], windows: bool, found: &mut Vec<Violation>) {
        let text = String::from_utf8_lossy(bytes);
        let mut rows = 0;
        for line in text.lines() {
            rows += 1;
            let fresh = if windows {
                let key: Vec<&str> = line.splitn(3, ',').take(2).collect();
                self.windows.insert(key.join(","))
            } else {
                line.trim()
                    .parse()
                    .is_ok_and(|number| self.numbers.insert(number))
            };
            if !fresh {
                let text = format!("{name}: '{line}' was visible before, or is no row");
                found.push(violation("exactly-once", text));
            }
        }
        trace::count("output rows", rows);
        trace::event(&format!("visible: {name}, {rows} rows"));
    }

    fn check_prefixes(&self, found: &mut Vec<Violation>) {
        let mut rows: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for number in &self.numbers {
            let (count, last) = rows.entry(number % SPLITS).or_default();
            *count += 1;
            *last = number / SPLITS;
        }
        for (split, (count, last)) in rows {
            if count != last + 1 {
                let text = format!("split {split}: {count} rows are visible, the last is its {last}th");
                found.push(violation("output-is-a-prefix", text));
            }
        }
    }

    /// After the job's end: all of it, compared with what it has to be.
    #[must_use]
    pub fn check_whole(job: &Numbers) -> Vec<Violation> {
        let whole = visible_lines(&job.raw)
            .and_then(|lines| oracle::check_numbers(&lines, job.rows))
            .map_err(|error| violation("output-whole", format!("numbers: {error:#}")));
        let windows = visible_lines(&job.windows)
            .and_then(|lines| lines.iter().map(|l| oracle::parse_window(l)).collect())
            .and_then(|rows| oracle::check_rows(rows, oracle::number_windows(job.rows)))
            .map_err(|error| violation("output-whole", format!("windows: {error:#}")));
        whole.err().into_iter().chain(windows.err()).collect()
    }
}
