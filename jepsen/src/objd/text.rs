//! Percent encoding, XML and dates, as far as S3 needs them.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// Decodes `%41`; a plus sign is one.
pub(crate) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text
            .get(at + 1..at + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The parts of a query by name.
pub(crate) fn query(text: Option<&str>) -> BTreeMap<String, String> {
    let parts = text
        .unwrap_or_default()
        .split('&')
        .filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (percent_decode(name), percent_decode(&value.replace('+', " ")))
        })
        .collect()
}

/// Escapes what XML gives a meaning to.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn unescape(text: &str) -> String {
    let text = text
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"");
    text.replace("&apos;", "'").replace("&amp;", "&")
}

/// The content of every `<name>...</name>`.
pub(crate) fn elements(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut found = Vec::new();
    let mut rest = xml;
    while let Some((_, after)) = rest.split_once(&open) {
        let Some((content, next)) = after.split_once(&close) else {
            break;
        };
        found.push(unescape(content));
        rest = next;
    }
    found
}

struct Moment {
    year: i64,
    month: usize,
    day: i64,
    weekday: usize,
    seconds: i64,
    millis: u32,
}

/// From days since 1970 to a date: Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.
fn moment(time: SystemTime) -> Moment {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(0);
    let days = seconds / 86_400;
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z - era * 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    Moment {
        year: yoe + era * 400 + i64::from(month <= 2),
        month: usize::try_from(month).unwrap_or(1),
        day: doy - (153 * mp + 2) / 5 + 1,
        weekday: usize::try_from((days + 4) % 7).unwrap_or(0),
        seconds: seconds % 86_400,
        millis: since.subsec_millis(),
    }
}

/// `Sun, 22 Nov 2026 20:57:00 GMT`.
pub(crate) fn http_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let m = moment(time);
    format!(
        "{}, {:02} {} {} {:02}:{:02}:{:02} GMT",
        DAYS[m.weekday % 7],
        m.day,
        MONTHS[(m.month - 1) % 12],
        m.year,
        m.seconds / 3600,
        m.seconds / 60 % 60,
        m.seconds % 60
    )
}

/// `2026-11-22T20:57:00.000Z`.
pub(crate) fn iso_date(time: SystemTime) -> String {
    let m = moment(time);
    format!(
        "{}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        m.year,
        m.month,
        m.day,
        m.seconds / 3600,
        m.seconds / 60 % 60,
        m.seconds % 60,
        m.millis
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(http_date(at(0)), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(at(1_709_210_096)), "Thu, 29 Feb 2024 12:34:56 GMT");
        assert_eq!(iso_date(at(951_782_400)), "2000-02-29T00:00:00.000Z");
        assert_eq!(iso_date(at(1_735_689_599)), "2024-12-31T23:59:59.000Z");
    }

    #[test]
    fn names_survive_urls_and_xml() {
        assert_eq!(percent_decode("a%20b%2Fc%zz"), "a b/c%zz");
        let parsed = query(Some("list-type=2&prefix=a%2Fb&delete"));
        assert_eq!(
            (parsed["prefix"].as_str(), parsed["delete"].as_str()),
            ("a/b", "")
        );
        let xml = format!("<D><Key>{}</Key><Key>b</Key></D>", escape("a&<b>"));
        assert_eq!(elements(&xml, "Key"), ["a&<b>", "b"]);
    }
}
