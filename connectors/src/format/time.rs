//! Dates, times and timestamps as text, in the proleptic Gregorian calendar without zones. Pure.

use arrow::datatypes::TimeUnit;

const SECONDS_PER_DAY: i64 = 86_400;
const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// What stands between date and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Separator {
    /// `2013-01-01 05:15:00`
    Space,
    /// `2013-01-01T05:15:00`
    T,
    /// Either.
    Any,
}

/// Days since 1970-01-01.
pub(crate) fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    // Counting years from March puts the leap day last, so that month lengths follow a linear rule.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = i64::from((month + 9) % 12);
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month, day of a day number.
pub(crate) fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (
        year,
        u32::try_from(month).unwrap_or(1),
        u32::try_from(day).unwrap_or(1),
    )
}

fn digits(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0u32, |value, byte| {
        byte.is_ascii_digit().then(|| value * 10 + u32::from(byte - b'0'))
    })
}

fn days_in_month(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// `yyyy-MM-dd` as days since the epoch.
pub(crate) fn parse_date(text: &[u8]) -> Option<i64> {
    if text.len() != 10 || text[4] != b'-' || text[7] != b'-' {
        return None;
    }
    let (year, month, day) = (digits(&text[..4])?, digits(&text[5..7])?, digits(&text[8..])?);
    let valid = (1..=12).contains(&month) && day >= 1 && day <= days_in_month(year, month);
    valid.then(|| days_from_civil(i64::from(year), month, day))
}

/// `HH:mm:ss[.fffffffff]` as seconds of the day and nanoseconds.
pub(crate) fn parse_time(text: &[u8]) -> Option<(u32, u32)> {
    if text.len() < 8 || text[2] != b':' || text[5] != b':' {
        return None;
    }
    let (hour, minute, second) = (digits(&text[..2])?, digits(&text[3..5])?, digits(&text[6..8])?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let nanos = match &text[8..] {
        [] => 0,
        [b'.', fraction @ ..] if !fraction.is_empty() && fraction.len() <= 9 => {
            let missing = u32::try_from(9 - fraction.len()).ok()?;
            digits(fraction)? * 10u32.pow(missing)
        }
        _ => return None,
    };
    Some((hour * 3600 + minute * 60 + second, nanos))
}

/// `yyyy-MM-dd HH:mm:ss[.fffffffff]` as seconds since the epoch and nanoseconds; `zone` allows a `Z` at the end.
pub(crate) fn parse_timestamp(text: &[u8], separator: Separator, zone: bool) -> Option<(i64, u32)> {
    let text = match text {
        [head @ .., b'Z'] if zone => head,
        other => other,
    };
    if text.len() < 19 {
        return None;
    }
    let separator_fits = match separator {
        Separator::Space => text[10] == b' ',
        Separator::T => text[10] == b'T',
        Separator::Any => text[10] == b' ' || text[10] == b'T',
    };
    if !separator_fits {
        return None;
    }
    let days = parse_date(&text[..10])?;
    let (seconds, nanos) = parse_time(&text[11..])?;
    Some((days * SECONDS_PER_DAY + i64::from(seconds), nanos))
}

/// Units per second.
pub(crate) fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// A point in time in a unit; finer digits are cut off. `None` if it does not fit 64 bits.
pub(crate) fn to_unit(seconds: i64, nanos: u32, unit: TimeUnit) -> Option<i64> {
    let per_second = per_second(unit);
    let fraction = i64::from(nanos) / (i64::from(NANOS_PER_SECOND) / per_second);
    // With the sum in 128 bits, times shortly before the type's end still fit.
    let value = i128::from(seconds) * i128::from(per_second) + i128::from(fraction);
    i64::try_from(value).ok()
}

/// Seconds since the epoch and nanoseconds of a value.
pub(crate) fn from_unit(value: i64, unit: TimeUnit) -> (i64, u32) {
    let per_second = per_second(unit);
    let fraction = value.rem_euclid(per_second) * (i64::from(NANOS_PER_SECOND) / per_second);
    (value.div_euclid(per_second), u32::try_from(fraction).unwrap_or(0))
}

fn push_digits(out: &mut Vec<u8>, value: u32, width: usize) {
    let mut place = 10u32.pow(u32::try_from(width).unwrap_or(1) - 1);
    while place > 0 {
        out.push(b'0' + u8::try_from(value / place % 10).unwrap_or(0));
        place /= 10;
    }
}

/// Writes `yyyy-MM-dd`.
pub(crate) fn write_date(out: &mut Vec<u8>, days: i64) {
    let (year, month, day) = civil_from_days(days);
    match u32::try_from(year) {
        Ok(year) if year <= 9999 => push_digits(out, year, 4),
        _ => out.extend_from_slice(year.to_string().as_bytes()),
    }
    out.push(b'-');
    push_digits(out, month, 2);
    out.push(b'-');
    push_digits(out, day, 2);
}

/// Writes `HH:mm:ss[.f]` without trailing zeros.
pub(crate) fn write_time(out: &mut Vec<u8>, seconds_of_day: u32, nanos: u32) {
    push_digits(out, seconds_of_day / 3600, 2);
    out.push(b':');
    push_digits(out, seconds_of_day / 60 % 60, 2);
    out.push(b':');
    push_digits(out, seconds_of_day % 60, 2);
    if nanos > 0 {
        out.push(b'.');
        push_digits(out, nanos, 9);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

/// Writes `yyyy-MM-dd<separator>HH:mm:ss[.f]`.
pub(crate) fn write_timestamp(out: &mut Vec<u8>, value: i64, unit: TimeUnit, separator: u8) {
    let (seconds, nanos) = from_unit(value, unit);
    write_date(out, seconds.div_euclid(SECONDS_PER_DAY));
    out.push(separator);
    let of_day = u32::try_from(seconds.rem_euclid(SECONDS_PER_DAY)).unwrap_or(0);
    write_time(out, of_day, nanos);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_instants() {
        assert_eq!(
            parse_timestamp(b"1970-01-01 00:00:00", Separator::Space, false),
            Some((0, 0))
        );
        assert_eq!(
            parse_timestamp(b"2013-01-01T05:15:00.5Z", Separator::T, true),
            Some((1_357_017_300, 500_000_000))
        );
        assert_eq!(parse_date(b"2000-02-29"), Some(11_016));
        for wrong in [
            "2013-02-29",
            "2013-13-01",
            "2013-00-01",
            "1900-02-29",
            "2013-1-01",
            "2013-01-0x",
        ] {
            assert_eq!(parse_date(wrong.as_bytes()), None, "{wrong}");
        }
        for wrong in [
            "2013-01-01 05:15",
            "2013-01-01T05:15:00",
            "2013-01-01 24:00:00",
            "2013-01-01 05:15:00.",
            "2013-01-01 05:15:00Z",
        ] {
            assert_eq!(
                parse_timestamp(wrong.as_bytes(), Separator::Space, false),
                None,
                "{wrong}"
            );
        }
        assert_eq!(to_unit(i64::MAX, 0, TimeUnit::Nanosecond), None);
    }

    proptest! {
        #[test]
        fn timestamps_read_back(value in -62_135_596_800_000i64..253_402_300_799_999, sep in any::<bool>()) {
            let mut out = Vec::new();
            let (byte, separator) = if sep { (b'T', Separator::T) } else { (b' ', Separator::Space) };
            write_timestamp(&mut out, value, TimeUnit::Millisecond, byte);
            let (seconds, nanos) = parse_timestamp(&out, separator, false).unwrap();
            prop_assert_eq!(to_unit(seconds, nanos, TimeUnit::Millisecond), Some(value));
        }

        #[test]
        fn days_read_back(days in -3_000_000i64..3_000_000) {
            let (year, month, day) = civil_from_days(days);
            prop_assert_eq!(days_from_civil(year, month, day), days);
        }

        #[test]
        fn any_bytes_are_safe(text in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse_timestamp(&text, Separator::Any, true);
            let _ = parse_time(&text);
        }
    }
}
