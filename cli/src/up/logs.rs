//! The children's log files: their last lines, and keeping them bounded.
//!
//! Children write to a file that they were given open, in append mode; so it is copied and emptied, not renamed. What is
//! written between the two steps is lost.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes that are read from a log's end.
const TAIL_BYTES: u64 = 16 << 10;

/// The last lines, indented; empty if there is no file.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    let last = all.len().saturating_sub(lines);
    all.iter()
        .skip(last)
        .map(|line| format!("    {line}\n"))
        .collect()
}

/// Moves a log that has grown too large aside; two old ones are kept.
///
/// # Errors
/// If the disk refuses.
pub fn rotate(path: &Path, bytes_max: u64) -> std::io::Result<bool> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > bytes_max => {}
        _ => return Ok(false),
    }
    let (first, second) = (numbered(path, 1), numbered(path, 2));
    if first.exists() {
        std::fs::rename(&first, &second)?;
    }
    std::fs::copy(path, &first)?;
    std::fs::File::options().write(true).open(path)?.set_len(0)?;
    Ok(true)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    #[test]
    fn the_tail_is_the_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        assert_eq!(tail(&path, 2), "");
        std::fs::write(&path, "a\nb\nc\n").unwrap();
        assert_eq!(tail(&path, 2), "    b\n    c\n");
    }

    #[test]
    fn an_appending_writer_goes_on_after_the_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut writer = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap();
        for round in 0..4 {
            writeln!(writer, "round {round}").unwrap();
            assert!(!rotate(&path, 100).unwrap());
            assert!(rotate(&path, 3).unwrap());
        }
        writeln!(writer, "end").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "end\n");
        assert_eq!(std::fs::read_to_string(numbered(&path, 1)).unwrap(), "round 3\n");
        assert_eq!(std::fs::read_to_string(numbered(&path, 2)).unwrap(), "round 2\n");
        assert!(!numbered(&path, 3).exists());
    }
}
