//! Golden cases: `golden/*.txt` hold scripts and the plan or error that each must give. `HOLDFAST_UPDATE_GOLDEN=1`
//! rewrites the expectations; review them as a diff.
//!
//! A file begins with a prelude of tables. Cases follow: `== name`, the script, `--`, the expectation.

use super::plan_after;
use crate::explain;
use std::path::{Path, PathBuf};

/// Rewrites the files instead of checking them.
pub(super) const UPDATE: &str = "HOLDFAST_UPDATE_GOLDEN";

/// One case: name, input, expectation.
pub(super) type Case = (String, String, String);

/// Reads a file of cases: its prelude, and the cases.
pub(super) fn read(path: &Path) -> (String, Vec<Case>) {
    let text = std::fs::read_to_string(path).unwrap();
    let mut parts = text.split("\n== ");
    let prelude = parts.next().unwrap_or_default().to_owned();
    let cases = parts
        .map(|part| {
            let (name, rest) = part.split_once('\n').unwrap();
            let (input, expected) = rest.split_once("\n--").unwrap_or((rest, ""));
            (name.to_owned(), input.to_owned(), expected.trim().to_owned())
        })
        .collect();
    (prelude, cases)
}

/// Checks or rewrites a file of cases with the results of `run`.
pub(super) fn check(path: &Path, run: impl Fn(&str, &str) -> String) {
    let (prelude, cases) = read(path);
    let update = std::env::var_os(UPDATE).is_some();
    let mut out = prelude.clone();
    let mut wrong = Vec::new();
    for (name, input, expected) in cases {
        let result = run(&prelude, &input).trim().to_owned();
        out += &format!("\n== {name}\n{input}\n--\n{result}\n");
        if result != expected {
            wrong.push(format!(
                "{name}\n--- expected\n{expected}\n--- result\n{result}\n"
            ));
        }
    }
    if update {
        std::fs::write(path, out).unwrap();
    } else {
        assert!(wrong.is_empty(), "{}:\n{}", path.display(), wrong.join("\n"));
    }
}

pub(super) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn plan_or_error(prelude: &str, sql: &str) -> String {
    match plan_after(prelude, sql) {
        Ok(graph) => explain(&graph),
        Err(error) => error.to_string(),
    }
}

#[test]
fn plans() {
    check(&folder().join("plans.txt"), plan_or_error);
}

#[test]
fn windows() {
    check(&folder().join("windows.txt"), plan_or_error);
}

#[test]
fn tables() {
    check(&folder().join("tables.txt"), plan_or_error);
}

#[test]
fn errors() {
    check(&folder().join("errors.txt"), plan_or_error);
}

#[test]
fn refusals() {
    check(&folder().join("refusals.txt"), plan_or_error);
}
