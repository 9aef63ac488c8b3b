//! Tables, numbers and times for people. Pure but for the question whether a terminal is there.

use std::io::IsTerminal;

/// Whether standard output takes colours: a terminal, and NO_COLOR not set.
#[must_use]
pub fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// A table whose columns align.
#[derive(Debug)]
pub struct Table {
    headers: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    #[must_use]
    pub fn new(headers: &[&'static str]) -> Self {
        Self {
            headers: headers.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    /// The text, one line per row, with a newline at each end. Columns of numbers stand to the right.
    #[must_use]
    pub fn render(&self, colours: bool) -> String {
        let columns = self.headers.len();
        let width = |column: usize| {
            let cells = self
                .rows
                .iter()
                .filter_map(|r| r.get(column))
                .map(|c| c.chars().count());
            cells
                .chain([self.headers[column].chars().count()])
                .max()
                .unwrap_or(0)
        };
        let numeric = |column: usize| {
            let mut cells = self
                .rows
                .iter()
                .filter_map(|r| r.get(column))
                .filter(|c| *c != "-")
                .peekable();
            cells.peek().is_some() && cells.all(|c| is_quantity(c))
        };
        let layout: Vec<(usize, bool)> = (0..columns).map(|c| (width(c), numeric(c))).collect();
        let headers: Vec<String> = self.headers.iter().map(|h| (*h).to_owned()).collect();
        let mut text = line(&headers, &layout, false);
        for row in &self.rows {
            text.push_str(&line(row, &layout, colours));
        }
        text
    }
}

/// A number, perhaps with a unit after a space; no address, date or id.
fn is_quantity(cell: &str) -> bool {
    let (number, unit) = cell.split_once(' ').unwrap_or((cell, ""));
    let digits = number.replacen('.', "", 1).replace(',', "");
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain && unit.chars().next().is_none_or(char::is_alphabetic)
}

fn line(cells: &[String], layout: &[(usize, bool)], colours: bool) -> String {
    let mut text = String::new();
    for (position, (cell, (width, right))) in cells.iter().zip(layout).enumerate() {
        if position > 0 {
            text.push_str("  ");
        }
        let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
        let shown = if colours { painted(cell) } else { cell.clone() };
        if *right {
            text.push_str(&padding);
            text.push_str(&shown);
        } else {
            text.push_str(&shown);
            text.push_str(&padding);
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// A state in its colour; anything else as it is.
#[must_use]
pub fn painted(word: &str) -> String {
    let colour = match word {
        "RUNNING" | "FINISHED" | "COMPLETED" | "leader" => "32",
        "RESTARTING" | "CANCELLING" | "CREATED" | "IN_PROGRESS" | "learner" => "33",
        "FAILED" | "CANCELED" => "31",
        _ => return word.to_owned(),
    };
    format!("\x1b[{colour}m{word}\x1b[0m")
}

/// With a comma at every third digit.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many things.
#[must_use]
pub fn several(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Bytes with a binary unit.
#[must_use]
pub fn bytes(number: u64) -> String {
    let mut unit = 0;
    let mut tenths = u128::from(number) * 10;
    while tenths >= 10_240 && unit < 4 {
        tenths /= 1024;
        unit += 1;
    }
    let name = ["B", "KiB", "MiB", "GiB", "TiB"][unit];
    if unit == 0 {
        format!("{number} B")
    } else {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    }
}

/// A span of time, in two units at most.
#[must_use]
pub fn span(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0 => format!("{millis} ms"),
        1..=59 => format!("{seconds}.{} s", millis % 1000 / 100),
        60..=3599 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A moment, UTC; a dash if it lies outside the calendar.
#[must_use]
pub fn moment(millis: i64) -> String {
    let time = chrono::DateTime::from_timestamp_millis(millis);
    time.map_or_else(
        || "-".to_owned(),
        |time| time.format("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

/// A watermark: a moment, or the end of all input.
#[must_use]
pub fn watermark(millis: Option<i64>) -> String {
    match millis {
        Some(i64::MAX) => "at the end".to_owned(),
        Some(millis) => moment(millis),
        None => "-".to_owned(),
    }
}

/// A moment that Flink writes as -1 (or 0) when it has not come.
#[must_use]
pub fn moment_or_dash(millis: i64) -> String {
    if millis <= 0 {
        "-".to_owned()
    } else {
        moment(millis)
    }
}

/// The text, or a dash.
#[must_use]
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

/// At most so many characters, with an ellipsis if some are missing; the first line only.
#[must_use]
pub fn shortened(text: &str, limit: usize) -> String {
    let first = text.lines().next().unwrap_or_default();
    if first.chars().count() <= limit && first.len() == text.trim_end().len() {
        return first.to_owned();
    }
    let kept: String = first.chars().take(limit.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_numbers_stand_right() {
        let mut table = Table::new(&["ID", "STATE", "ROWS"]);
        table.row(["a".into(), "RUNNING".into(), "5".into()]);
        table.row(["bcd".into(), "FAILED".into(), "1,234".into()]);
        table.row(["e".into(), "FAILED".into(), "-".into()]);
        assert_eq!(
            table.render(false),
            "ID   STATE     ROWS\na    RUNNING      5\nbcd  FAILED   1,234\ne    FAILED       -\n"
        );
    }

    #[test]
    fn only_quantities_stand_right() {
        for quantity in ["0", "1,234", "1.5 KiB", "61 min 3 s"] {
            assert!(is_quantity(quantity), "{quantity}");
        }
        for other in [
            "127.0.0.1:80",
            "2026-11-22 19:09:56",
            "42ac",
            "1/2",
            "",
            "worker-1",
        ] {
            assert!(!is_quantity(other), "{other}");
        }
    }

    #[test]
    fn colours_do_not_disturb_the_columns() {
        let mut table = Table::new(&["STATE", "X"]);
        table.row(["RUNNING".into(), "a".into()]);
        assert_eq!(table.render(true), "STATE    X\n\x1b[32mRUNNING\x1b[0m  a\n");
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(several(1, "slot"), "1 slot");
        assert_eq!(several(0, "slot"), "0 slots");
        assert_eq!(bytes(17), "17 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(64 << 20), "64.0 MiB");
        assert_eq!(span(999), "999 ms");
        assert_eq!(span(1_250), "1.2 s");
        assert_eq!(span(61_000), "1 min 1 s");
        assert_eq!(moment(0), "1970-01-01 00:00:00");
        assert_eq!(moment_or_dash(-1), "-");
        assert_eq!(watermark(Some(i64::MAX)), "at the end");
        assert_eq!(shortened("abcdef", 4), "abc…");
        assert_eq!(shortened("abc\n", 4), "abc");
        assert_eq!(shortened("abc\ndef", 10), "abc…");
    }
}
