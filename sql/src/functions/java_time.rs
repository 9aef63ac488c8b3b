//! Java's date patterns (`yyyy-MM-dd HH:mm:ss`), and the plain forms of dates and times that CAST reads and writes.

use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike};
use std::fmt::Write;

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Item>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Text(String),
    Field(char, usize),
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];

impl Pattern {
    /// Compiles a pattern; the error names the letter that is not supported.
    pub(crate) fn compile(pattern: &str) -> Result<Pattern, String> {
        let mut items = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            if c == '\'' {
                items.push(Item::Text(quoted(&mut chars, pattern)?));
            } else if c.is_ascii_alphabetic() {
                let mut count = 1;
                while chars.next_if_eq(&c).is_some() {
                    count += 1;
                }
                if !"yuMdHhkKmsSaEDQ".contains(c) {
                    return Err(format!(
                        "the date pattern '{pattern}': the letter '{c}' is not supported"
                    ));
                }
                items.push(Item::Field(c, count));
            } else {
                items.push(Item::Text(c.to_string()));
            }
        }
        Ok(Pattern(items))
    }

    /// Writes a time.
    pub(crate) fn format(&self, at: NaiveDateTime) -> String {
        let mut out = String::new();
        for item in &self.0 {
            match item {
                Item::Text(text) => out += text,
                Item::Field(letter, count) => field(&mut out, at, *letter, *count),
            }
        }
        out
    }

    /// Reads a time; `None` if the text does not fit.
    pub(crate) fn parse(&self, text: &str) -> Option<NaiveDateTime> {
        let mut parts = Parts::default();
        let mut rest = text;
        for (n, item) in self.0.iter().enumerate() {
            match item {
                Item::Text(expected) => rest = rest.strip_prefix(expected.as_str())?,
                Item::Field(letter, count) => {
                    // Digits run on only where no other number follows at once.
                    let bounded = matches!(self.0.get(n + 1), Some(Item::Field(..)));
                    rest = parts.read(rest, *letter, *count, bounded)?;
                }
            }
        }
        if rest.is_empty() { parts.finish() } else { None }
    }
}

fn quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, pattern: &str) -> Result<String, String> {
    let mut text = String::new();
    if chars.next_if_eq(&'\'').is_some() {
        return Ok("'".into());
    }
    loop {
        match chars.next() {
            Some('\'') if chars.next_if_eq(&'\'').is_some() => text.push('\''),
            Some('\'') => return Ok(text),
            Some(c) => text.push(c),
            None => return Err(format!("the date pattern '{pattern}' has an open quote")),
        }
    }
}

fn field(out: &mut String, at: NaiveDateTime, letter: char, count: usize) {
    let mut number = |value: u32| {
        let _ = write!(out, "{value:0count$}");
    };
    match letter {
        'y' | 'u' if count == 2 => number(at.year().rem_euclid(100).unsigned_abs()),
        'y' | 'u' => number(at.year().unsigned_abs()),
        'M' if count == 3 => *out += &MONTHS[at.month0() as usize][..3],
        'M' if count > 3 => *out += MONTHS[at.month0() as usize],
        'M' => number(at.month()),
        'Q' => number(at.month0() / 3 + 1),
        'd' => number(at.day()),
        'D' => number(at.ordinal()),
        'H' => number(at.hour()),
        'k' => number(if at.hour() == 0 { 24 } else { at.hour() }),
        'K' => number(at.hour() % 12),
        'h' => number(at.hour12().1),
        'm' => number(at.minute()),
        's' => number(at.second()),
        'S' => *out += &fraction(at.nanosecond(), count),
        'a' => *out += if at.hour() < 12 { "AM" } else { "PM" },
        'E' => {
            let name = DAYS[at.weekday().num_days_from_monday() as usize];
            *out += if count > 3 { name } else { &name[..3] };
        }
        _ => {}
    }
}

fn fraction(nanos: u32, digits: usize) -> String {
    let all = format!("{nanos:09}");
    if digits <= 9 {
        all[..digits].to_owned()
    } else {
        format!("{all:0<digits$}")
    }
}

/// What parsing has found so far; missing parts are the epoch's.
#[derive(Default)]
struct Parts {
    year: Option<i32>,
    month: Option<u32>,
    day: Option<u32>,
    ordinal: Option<u32>,
    hour: Option<u32>,
    hour12: Option<u32>,
    afternoon: bool,
    minute: u32,
    second: u32,
    nanos: u32,
}

impl Parts {
    fn read<'t>(&mut self, text: &'t str, letter: char, count: usize, bounded: bool) -> Option<&'t str> {
        match letter {
            'M' if count >= 3 => {
                let (n, rest) = word(text, &MONTHS, count)?;
                self.month = Some(n + 1);
                return Some(rest);
            }
            'E' => return word(text, &DAYS, count).map(|(_, rest)| rest),
            'a' => {
                let half = text.get(..2)?.to_ascii_uppercase();
                self.afternoon = match half.as_str() {
                    "AM" => false,
                    "PM" => true,
                    _ => return None,
                };
                return text.get(2..);
            }
            _ => {}
        }
        let widest = match letter {
            _ if bounded || letter == 'S' => count,
            'y' | 'u' if count != 2 => 9.max(count),
            'D' => 3.max(count),
            _ => 2.max(count),
        };
        let digits = text.bytes().take(widest).take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits < count.min(widest) {
            return None;
        }
        let value: u32 = text[..digits].parse().ok()?;
        match letter {
            'y' | 'u' if count == 2 => self.year = Some(2000 + i32::try_from(value).ok()?),
            'y' | 'u' => self.year = i32::try_from(value).ok(),
            'M' => self.month = Some(value),
            'd' => self.day = Some(value),
            'D' => self.ordinal = Some(value),
            'H' => self.hour = Some(value),
            'k' => self.hour = Some(value % 24),
            'h' | 'K' => self.hour12 = Some(value % 12),
            'm' => self.minute = value,
            's' => self.second = value,
            'S' => self.nanos = format!("{:0<9}", &text[..digits.min(9)]).parse().ok()?,
            _ => {}
        }
        Some(&text[digits..])
    }

    fn finish(self) -> Option<NaiveDateTime> {
        let year = self.year.unwrap_or(1970);
        let date = match self.ordinal {
            Some(ordinal) => NaiveDate::from_yo_opt(year, ordinal)?,
            None => NaiveDate::from_ymd_opt(year, self.month.unwrap_or(1), self.day.unwrap_or(1))?,
        };
        let hour = match (self.hour, self.hour12) {
            (Some(hour), _) => hour,
            (None, Some(hour)) => hour + if self.afternoon { 12 } else { 0 },
            (None, None) => 0,
        };
        date.and_hms_nano_opt(hour, self.minute, self.second, self.nanos)
    }
}

fn word<'t>(text: &'t str, names: &[&str], count: usize) -> Option<(u32, &'t str)> {
    names.iter().enumerate().find_map(|(n, name)| {
        let name = if count > 3 { name } else { &name[..3] };
        let head = text.get(..name.len())?;
        head.eq_ignore_ascii_case(name)
            .then(|| (n as u32, &text[name.len()..]))
    })
}

/// `2013-01-31`, with one or two digits for month and day.
pub(crate) fn parse_date(text: &str) -> Option<NaiveDate> {
    let mut parts = text.trim().splitn(3, '-');
    let year = number(parts.next()?, 4, 4)?;
    let month = parts.next().map_or(Some(1), |p| number(p, 1, 2))?;
    let day = parts.next().map_or(Some(1), |p| number(p, 1, 2))?;
    NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, day)
}

/// `23:59:59.123`, without seconds or fraction as well.
pub(crate) fn parse_time(text: &str) -> Option<NaiveTime> {
    let (clock, nanos) = match text.trim().split_once('.') {
        Some((clock, digits)) => {
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            let nanos = format!("{:0<9}", digits.get(..9).unwrap_or(digits));
            (clock, nanos.parse().ok()?)
        }
        None => (text.trim(), 0),
    };
    let mut parts = clock.splitn(3, ':');
    let hour = number(parts.next()?, 1, 2)?;
    let minute = number(parts.next()?, 1, 2)?;
    let second = parts.next().map_or(Some(0), |p| number(p, 1, 2))?;
    NaiveTime::from_hms_nano_opt(hour, minute, second, nanos)
}

/// `2013-01-31 23:59:59.123`; `T` for the blank, and a date alone, are read too.
pub(crate) fn parse_timestamp(text: &str) -> Option<NaiveDateTime> {
    let text = text.trim();
    match text.split_once([' ', 'T']) {
        Some((date, time)) => Some(parse_date(date)?.and_time(parse_time(time)?)),
        None => Some(parse_date(text)?.and_time(NaiveTime::MIN)),
    }
}

fn number(text: &str, least: usize, most: usize) -> Option<u32> {
    let fits = (least..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    fits.then(|| text.parse().ok()).flatten()
}

/// `2013-01-31 23:59:59.123` with this many digits after the point.
pub(crate) fn format_timestamp(at: NaiveDateTime, digits: u32) -> String {
    format!("{} {}", at.date(), format_time(at.time(), digits))
}

/// `23:59:59.123` with this many digits after the point.
pub(crate) fn format_time(at: NaiveTime, digits: u32) -> String {
    let clock = format!("{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second());
    if digits == 0 {
        clock
    } else {
        format!("{clock}.{}", fraction(at.nanosecond(), digits as usize))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(text: &str) -> NaiveDateTime {
        parse_timestamp(text).unwrap()
    }

    #[test]
    fn patterns_write_and_read() {
        let time = at("2013-07-04 15:08:09.123");
        for (pattern, expected) in [
            ("yyyy-MM-dd HH:mm:ss", "2013-07-04 15:08:09"),
            ("yyyyMMdd", "20130704"),
            ("yy/M/d h:mm a", "13/7/4 3:08 PM"),
            ("EEE, d MMM yyyy 'at' HH", "Thu, 4 Jul 2013 at 15"),
            ("HH:mm:ss.SSS", "15:08:09.123"),
            ("'it''s' D", "it's 185"),
        ] {
            assert_eq!(Pattern::compile(pattern).unwrap().format(time), expected);
        }
        let read = |pattern: &str, text: &str| Pattern::compile(pattern).unwrap().parse(text);
        assert_eq!(
            read("yyyyMMddHHmmss", "20130704150809"),
            Some(at("2013-07-04 15:08:09"))
        );
        assert_eq!(read("dd MMM yyyy", "04 Jul 2013"), Some(at("2013-07-04")));
        assert_eq!(read("yyyy-MM-dd", "2013-02-30"), None);
        assert_eq!(read("yyyy-MM-dd", "2013-02-03 x"), None);
        assert_eq!(read("h:mm a", "3:08 PM"), Some(at("1970-01-01 15:08:00")));
        assert!(Pattern::compile("yyyy-ww").is_err());
        assert!(Pattern::compile("'open").is_err());
    }

    #[test]
    fn plain_forms() {
        assert_eq!(at("2013-1-2T03:04"), at("2013-01-02 03:04:00"));
        assert_eq!(parse_timestamp("2013-13-01"), None);
        assert_eq!(parse_timestamp("2013-01-01 25:00:00"), None);
        assert_eq!(
            format_timestamp(at("2013-01-02 03:04:05.6"), 3),
            "2013-01-02 03:04:05.600"
        );
    }
}
