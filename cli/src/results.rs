//! Where a job's results lie, and their first rows. A directory may hold results of other jobs, too: they are counted and
//! not shown.

use crate::commands::print;
use crate::output::count;
use holdfast_common::JobId;
use holdfast_coordinator::api::view::plan::SinkInfo;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Rows that are shown.
const ROWS: usize = 10;
/// Results up to this size are sorted before they are shown; of larger ones the first rows of the first files are.
const SORTED_BYTES_MAX: u64 = 64 << 20;

/// A look at one job's results in a directory.
#[derive(Debug, Default, PartialEq, Eq)]
struct Preview {
    files: usize,
    /// Visible files that this job did not write.
    others: usize,
    /// Known only if all was read.
    rows: Option<u64>,
    first: Vec<String>,
}

/// Prints every sink's location and the first rows of what the job wrote there.
pub fn show(sinks: &[SinkInfo], job: &str) {
    for sink in sinks {
        let Some(location) = &sink.location else { continue };
        print(&format!("\nresult of {} in {location}\n", sink.table));
        let Some(dir) = local_path(location) else { continue };
        let shown = job
            .parse::<JobId>()
            .map_err(std::io::Error::other)
            .and_then(|job| preview(&dir, job));
        match shown {
            Ok(preview) => print(&text(sink, &preview)),
            Err(error) => print(&format!("  (cannot be shown from here: {error})\n")),
        }
    }
}

fn local_path(location: &str) -> Option<PathBuf> {
    match location.split_once("://") {
        Some(("file", path)) => Some(PathBuf::from(path)),
        Some(_) => None,
        None => Some(PathBuf::from(location)),
    }
}

fn text(sink: &SinkInfo, preview: &Preview) -> String {
    let mut text = format!("  {}\n", sink.columns.join(","));
    for row in &preview.first {
        text.push_str(&format!("  {row}\n"));
    }
    let files = files_of(preview.files);
    match preview.rows {
        Some(rows) => text.push_str(&format!("  ({} rows in {files})\n", count(rows))),
        None => text.push_str(&format!("  (… in {files})\n")),
    }
    if preview.others > 0 {
        let others = files_of(preview.others);
        text.push_str(&format!(
            "  (the directory also holds {others} that this job did not write)\n"
        ));
    }
    text
}

fn files_of(number: usize) -> String {
    match number {
        1 => "1 file".to_owned(),
        _ => format!("{} files", count(number as u64)),
    }
}

/// Visible files below a directory, in the order of their paths.
fn files(dir: &Path, into: &mut Vec<(PathBuf, u64)>) -> std::io::Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::path);
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') || name.starts_with('_') {
            continue;
        }
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            files(&entry.path(), into)?;
        } else {
            into.push((entry.path(), metadata.len()));
        }
    }
    Ok(())
}

/// Whether a file's name says that this job wrote it.
fn is_written_by(path: &Path, job: JobId) -> bool {
    let name = path.file_name().map(std::ffi::OsStr::to_string_lossy);
    name.is_some_and(|name| holdfast_connectors::is_result_of(&name, job))
}

fn preview(dir: &Path, job: JobId) -> std::io::Result<Preview> {
    let mut found = Vec::new();
    files(dir, &mut found)?;
    let visible = found.len();
    found.retain(|(path, _)| is_written_by(path, job));
    let whole = found.iter().map(|(_, size)| size).sum::<u64>() <= SORTED_BYTES_MAX;
    let mut preview = Preview {
        files: found.len(),
        others: visible - found.len(),
        ..Preview::default()
    };
    let mut rows = Vec::new();
    for (path, _) in &found {
        for line in BufReader::new(std::fs::File::open(path)?).lines() {
            rows.push(line?);
            if !whole && rows.len() >= ROWS {
                preview.first = rows;
                return Ok(preview);
            }
        }
    }
    preview.rows = Some(rows.len() as u64);
    rows.sort_unstable();
    rows.truncate(ROWS);
    preview.first = rows;
    Ok(preview)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const JOB: JobId = JobId(0x0a1b_2c3d_4e5f_6071_8293_a4b5_c6d7_e8f9);
    const EARLIER: JobId = JobId(u128::MAX);

    #[test]
    fn rows_of_this_jobs_visible_files_are_sorted_and_others_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let name = |job: JobId, n: u32| {
            let short = &job.to_string()[..8];
            dir.path()
                .join(format!("part-{short}-5e8c0e2a-00000001-1-0-{n}.csv"))
        };
        std::fs::write(name(JOB, 1), "c,3\na,1\n").unwrap();
        std::fs::write(name(JOB, 0), "b,2\n").unwrap();
        std::fs::write(name(EARLIER, 0), "a,1\nb,2\nc,3\n").unwrap();
        std::fs::write(dir.path().join("notes.txt"), "mine\n").unwrap();
        std::fs::write(dir.path().join(".part-2.inprogress"), "z,9\n").unwrap();
        std::fs::create_dir(dir.path().join("_staging")).unwrap();
        std::fs::write(dir.path().join("_staging/x"), "y,8\n").unwrap();
        let preview = preview(dir.path(), JOB).unwrap();
        assert_eq!(
            preview,
            Preview {
                files: 2,
                others: 2,
                rows: Some(3),
                first: vec!["a,1".into(), "b,2".into(), "c,3".into()]
            }
        );
        let sink = SinkInfo {
            table: "t".into(),
            connector: "filesystem".into(),
            location: None,
            columns: vec!["k".into(), "n".into()],
        };
        assert_eq!(
            text(&sink, &preview),
            "  k,n\n  a,1\n  b,2\n  c,3\n  (3 rows in 2 files)\n  (the directory also holds 2 files that this job did not write)\n"
        );
    }

    #[test]
    fn only_local_results_are_read() {
        assert_eq!(local_path("file:///a/b"), Some("/a/b".into()));
        assert_eq!(local_path("out/x"), Some("out/x".into()));
        assert_eq!(local_path("s3://bucket/x"), None);
    }
}
