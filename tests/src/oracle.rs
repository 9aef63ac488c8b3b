//! What the results must be, computed without any of the product's code.
//!
//! Everything is a multiset of rows with typed fields, so that a comparison never depends on how a number is padded.

use anyhow::{Context, Result, anyhow, bail, ensure};
use flate2::read::GzDecoder;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::io::Read;
use std::path::Path;

/// A row of [`crate::script::Numbers`]' windows: start of the window in ms, last digit, count, sum.
pub type WindowRow = (i64, u64, u64, u64);

/// The windows of the numbers `0..rows`, one second of event time each, per last digit.
#[must_use]
pub fn number_windows(rows: u64) -> Vec<WindowRow> {
    let mut expected = Vec::new();
    for start in (0..rows).step_by(1000) {
        let end = (start + 1000).min(rows);
        for digit in 0..10 {
            // start is a multiple of 10, so the first number with this digit is start + digit.
            let first = start + digit;
            if first >= end {
                continue;
            }
            let count = (end - 1 - first) / 10 + 1;
            let sum = count * first + 10 * (count * (count - 1) / 2);
            expected.push((start as i64, digit, count, sum));
        }
    }
    expected
}

/// Parses an output line of the windows.
///
/// # Errors
/// If it is no such row.
pub fn parse_window(line: &str) -> Result<WindowRow> {
    let fields = split_csv(line);
    let [start, digit, count, sum] = fields.as_slice() else {
        bail!("not four fields: {line}")
    };
    let parse =
        || -> Result<WindowRow> { Ok((timestamp_ms(start)?, digit.parse()?, count.parse()?, sum.parse()?)) };
    parse().with_context(|| format!("not a window row: {line}"))
}

/// Refuses rows that are not exactly the numbers `0..rows`, each once.
///
/// # Errors
/// Names how many are lost and doubled, and the first of each.
pub fn check_numbers(lines: &[String], rows: u64) -> Result<()> {
    let mut seen = vec![0_u8; usize::try_from(rows)?];
    let mut foreign = Vec::new();
    for line in lines {
        let number = line.trim().parse::<usize>().ok();
        match number.and_then(|n| seen.get_mut(n)) {
            Some(count) => *count = count.saturating_add(1),
            None => foreign.push(line.clone()),
        }
    }
    let lost: Vec<usize> = seen
        .iter()
        .enumerate()
        .filter(|(_, c)| **c == 0)
        .map(|(n, _)| n)
        .collect();
    let doubled: Vec<usize> = seen
        .iter()
        .enumerate()
        .filter(|(_, c)| **c > 1)
        .map(|(n, _)| n)
        .collect();
    ensure!(
        lost.is_empty() && doubled.is_empty() && foreign.is_empty(),
        "{} of {rows} numbers lost (first {:?}, last {:?}), {} doubled (first {:?}, last {:?}), {} foreign rows ({:?})",
        lost.len(),
        lost.first(),
        lost.last(),
        doubled.len(),
        doubled.first(),
        doubled.last(),
        foreign.len(),
        foreign.first()
    );
    Ok(())
}

/// Refuses a multiset of rows that differs from the expected one.
///
/// # Errors
/// Names how many rows are missing and too many, and some of each.
pub fn check_rows<T: Ord + Clone + Debug>(actual: Vec<T>, expected: Vec<T>) -> Result<()> {
    let mut balance: BTreeMap<T, i64> = BTreeMap::new();
    let total = expected.len();
    for row in expected {
        *balance.entry(row).or_default() -= 1;
    }
    for row in actual {
        *balance.entry(row).or_default() += 1;
    }
    let pick = |wanted: fn(i64) -> bool| -> Vec<(&T, i64)> {
        balance
            .iter()
            .filter(|(_, n)| wanted(**n))
            .map(|(row, n)| (row, *n))
            .collect()
    };
    let (missing, extra) = (pick(|n| n < 0), pick(|n| n > 0));
    ensure!(
        missing.is_empty() && extra.is_empty(),
        "of {total} expected rows {} are missing and {} are too many; missing {:?}, too many {:?}",
        missing.len(),
        extra.len(),
        missing.iter().take(5).collect::<Vec<_>>(),
        extra.iter().take(5).collect::<Vec<_>>()
    );
    Ok(())
}

/// A row of `examples/flights.sql`: hour in ms, carrier, departures, bits of the mean delay, largest delay.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlightRow {
    /// Start of the hour, ms since the epoch (local time read as UTC).
    pub hour_ms: i64,
    /// Carrier.
    pub carrier: String,
    /// Number of departures.
    pub departures: u64,
    /// `f64::to_bits` of the mean delay in minutes.
    pub mean_bits: u64,
    /// Largest delay in minutes.
    pub largest: i64,
}

impl FlightRow {
    /// Parses an output line.
    ///
    /// # Errors
    /// If it is no such row.
    pub fn parse(line: &str) -> Result<Self> {
        let fields = split_csv(line);
        let [hour, carrier, departures, mean, largest] = fields.as_slice() else {
            bail!("not five fields: {line}")
        };
        let parse = || -> Result<Self> {
            Ok(Self {
                hour_ms: timestamp_ms(hour)?,
                carrier: carrier.clone(),
                departures: departures.parse()?,
                mean_bits: mean.parse::<f64>()?.to_bits(),
                largest: largest.parse()?,
            })
        };
        parse().with_context(|| format!("not a flight row: {line}"))
    }
}

/// Which instant of a flight the example counts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlightTime {
    /// `sched_dep`.
    Scheduled,
    /// `dep`.
    Departed,
}

/// Departures per hour and carrier with their mean and largest delay, over a (gzipped) CSV file with a header line.
/// Cancelled flights (no `dep`) do not depart.
///
/// # Errors
/// If the file cannot be read or has other columns.
pub fn flights(path: &Path, by: FlightTime) -> Result<Vec<FlightRow>> {
    let text = read_maybe_gzipped(path)?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let column = |name: &str| {
        header
            .iter()
            .position(|c| *c == name)
            .ok_or_else(|| anyhow!("{}: no column {name}", path.display()))
    };
    let (sched, dep, carrier, delay) = (
        column("sched_dep")?,
        column("dep")?,
        column("carrier")?,
        column("dep_delay_min")?,
    );
    let time = if by == FlightTime::Scheduled { sched } else { dep };
    let mut groups: HashMap<(i64, &str), (u64, i64, i64)> = HashMap::new();
    for (number, line) in lines.enumerate() {
        let fields: Vec<&str> = line.split(',').collect();
        ensure!(
            fields.len() == header.len(),
            "{} line {}: {line}",
            path.display(),
            number + 2
        );
        if fields[dep].is_empty() {
            continue;
        }
        let hour = timestamp_ms(fields[time])?.div_euclid(3_600_000) * 3_600_000;
        let minutes: i64 = fields[delay]
            .parse()
            .with_context(|| format!("line {}: {line}", number + 2))?;
        let group = groups.entry((hour, fields[carrier])).or_insert((0, 0, i64::MIN));
        *group = (group.0 + 1, group.1 + minutes, group.2.max(minutes));
    }
    let mut rows: Vec<FlightRow> = groups
        .into_iter()
        .map(|((hour_ms, carrier), (departures, sum, largest))| FlightRow {
            hour_ms,
            carrier: carrier.to_owned(),
            departures,
            // Sums of whole minutes are exact, so the order of addition cannot matter.
            mean_bits: (sum as f64 / departures as f64).to_bits(),
            largest,
        })
        .collect();
    rows.sort();
    Ok(rows)
}

/// A file's text, unpacked if its name ends with `.gz`.
///
/// # Errors
/// If it cannot be read.
pub fn read_maybe_gzipped(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    if path.extension().is_some_and(|e| e == "gz") {
        let mut text = String::new();
        GzDecoder::new(bytes.as_slice()).read_to_string(&mut text)?;
        return Ok(text);
    }
    Ok(String::from_utf8(bytes)?)
}

/// Splits a line of CSV with double quotes.
#[must_use]
pub fn split_csv(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                push(&mut fields, '"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => push(&mut fields, other),
        }
    }
    fields
}

fn push(fields: &mut [String], c: char) {
    if let Some(last) = fields.last_mut() {
        last.push(c);
    }
}

/// Milliseconds since the epoch of `YYYY-MM-DD HH:MM:SS[.fff]`, also with `T` or a final `Z`, read as UTC.
///
/// # Errors
/// If the text is no such timestamp.
pub fn timestamp_ms(text: &str) -> Result<i64> {
    let parse = || -> Option<i64> {
        let text = text.trim().trim_end_matches('Z');
        let (date, time) = text.split_once([' ', 'T'])?;
        let date: Vec<i64> = date.split('-').map(|p| p.parse().ok()).collect::<Option<_>>()?;
        let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
        let mut clock: Vec<i64> = clock.split(':').map(|p| p.parse().ok()).collect::<Option<_>>()?;
        clock.resize(3, 0);
        let [year, month, day] = date.as_slice() else {
            return None;
        };
        let millis: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
        let seconds =
            days_since_epoch(*year, *month, *day) * 86_400 + clock[0] * 3600 + clock[1] * 60 + clock[2];
        Some(seconds * 1000 + millis)
    };
    parse().ok_or_else(|| anyhow!("'{text}' is no timestamp"))
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar, counting years from March so that a leap day is the last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let from_march = (month + 9) % 12;
    let year = if month <= 2 { year - 1 } else { year };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days_before_month = (153 * from_march + 2) / 5;
    year * 365 + leap_days + days_before_month + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn windows_add_up() {
        for rows in [1, 9, 10, 999, 1000, 1001, 12_345] {
            let windows = number_windows(rows);
            assert_eq!(windows.iter().map(|w| w.2).sum::<u64>(), rows);
            assert_eq!(windows.iter().map(|w| w.3).sum::<u64>(), rows * (rows - 1) / 2);
        }
        assert_eq!(number_windows(25)[3], (0, 3, 3, 3 + 13 + 23));
    }

    #[test]
    fn lost_and_doubled_numbers_are_named() {
        let lines = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>();
        check_numbers(&lines(&[2, 0, 1]), 3).unwrap();
        let error = check_numbers(&lines(&[0, 0, 7]), 3).unwrap_err().to_string();
        assert!(
            error.contains("2 of 3 numbers lost (first Some(1), last Some(2)), 1 doubled"),
            "{error}"
        );
        assert!(error.contains("1 foreign"), "{error}");
        check_rows(vec![1, 1, 2], vec![1, 2, 1]).unwrap();
        assert!(check_rows(vec![1], vec![1, 1]).is_err());
    }

    #[test]
    fn timestamps_of_all_shapes() {
        assert_eq!(timestamp_ms("1970-01-01 00:00:01").unwrap(), 1000);
        assert_eq!(timestamp_ms("1970-01-01T00:00:00.5Z").unwrap(), 500);
        assert_eq!(timestamp_ms("2013-01-01 05:15:00").unwrap(), 1_357_017_300_000);
        assert_eq!(timestamp_ms("2000-02-29 00:00").unwrap(), 951_782_400_000);
        assert_eq!(timestamp_ms("1969-12-31 23:59:59.999").unwrap(), -1);
        assert!(timestamp_ms("yesterday").is_err());
    }

    #[test]
    fn csv_with_quotes() {
        assert_eq!(split_csv(r#"a,"b,""c""",,d"#), ["a", "b,\"c\"", "", "d"]);
        assert_eq!(
            parse_window("1970-01-01 00:00:01,3,4,5").unwrap(),
            (1000, 3, 4, 5)
        );
        let row = FlightRow::parse("2013-01-01 05:00:00,UA,2,3.5,11").unwrap();
        assert_eq!(
            (row.departures, f64::from_bits(row.mean_bits), row.largest),
            (2, 3.5, 11)
        );
    }

    #[test]
    fn flights_are_grouped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.csv");
        let text = "sched_dep,dep,carrier,dep_delay_min\n\
            2013-01-01 05:15:00,2013-01-01 05:17:00,UA,2\n\
            2013-01-01 05:59:00,2013-01-01 06:02:00,UA,3\n\
            2013-01-01 05:20:00,,UA,\n";
        std::fs::write(&path, text).unwrap();
        let rows = flights(&path, FlightTime::Scheduled).unwrap();
        assert_eq!(
            rows,
            [FlightRow::parse("2013-01-01 05:00:00,UA,2,2.5,3").unwrap()]
        );
        assert_eq!(flights(&path, FlightTime::Departed).unwrap().len(), 2);
    }
}
