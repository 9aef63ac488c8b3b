//! The types that a configuration value can have, in the notation of Flink's configuration files.

use std::fmt;
use std::time::Duration;

/// Why a text is no value of a type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(pub String);

/// A type that configuration values can have.
pub trait ConfigValue: Sized {
    /// The type's name in documentation and errors.
    const NAME: &'static str;

    /// Reads the text form.
    ///
    /// # Errors
    /// If the text is no such value.
    fn parse(text: &str) -> Result<Self, ValueError>;
}

impl ConfigValue for String {
    const NAME: &'static str = "String";
    fn parse(text: &str) -> Result<Self, ValueError> {
        Ok(text.trim().to_owned())
    }
}

impl ConfigValue for bool {
    const NAME: &'static str = "Boolean";
    fn parse(text: &str) -> Result<Self, ValueError> {
        match text.trim().to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(ValueError("expected true or false".into())),
        }
    }
}

macro_rules! number {
    ($($ty:ty => $name:literal),*) => {$(
        impl ConfigValue for $ty {
            const NAME: &'static str = $name;
            fn parse(text: &str) -> Result<Self, ValueError> {
                text.trim().parse().map_err(|e| ValueError(format!("{e}")))
            }
        }
    )*};
}
number!(u16 => "Port", u32 => "Integer", u64 => "Long", f64 => "Double");

impl ConfigValue for Duration {
    const NAME: &'static str = "Duration";
    fn parse(text: &str) -> Result<Self, ValueError> {
        let (number, unit) = split_unit(text)?;
        let nanos: u64 = match unit.as_str() {
            "ns" | "nano" | "nanos" | "nanosecond" | "nanoseconds" => 1,
            "us" | "µs" | "micro" | "micros" | "microsecond" | "microseconds" => 1_000,
            "" | "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1_000_000,
            "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000_000,
            "m" | "min" | "mins" | "minute" | "minutes" => 60 * 1_000_000_000,
            "h" | "hour" | "hours" => 3600 * 1_000_000_000,
            "d" | "day" | "days" => 86_400 * 1_000_000_000,
            other => {
                return Err(ValueError(format!(
                    "'{other}' is no unit of time (ns, us, ms, s, min, h, d; a bare number is milliseconds)"
                )));
            }
        };
        let total = number
            .checked_mul(nanos)
            .ok_or_else(|| ValueError("too long (over 584 years)".into()))?;
        Ok(Duration::from_nanos(total))
    }
}

/// A number of bytes, written like `64 mb` or `1 gb` with binary units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemorySize(pub u64);

impl ConfigValue for MemorySize {
    const NAME: &'static str = "MemorySize";
    fn parse(text: &str) -> Result<Self, ValueError> {
        let (number, unit) = split_unit(text)?;
        let factor: u64 = match unit.as_str() {
            "" | "b" | "bytes" => 1,
            "k" | "kb" | "kibibytes" => 1 << 10,
            "m" | "mb" | "mebibytes" => 1 << 20,
            "g" | "gb" | "gibibytes" => 1 << 30,
            "t" | "tb" | "tebibytes" => 1 << 40,
            other => {
                return Err(ValueError(format!(
                    "'{other}' is no unit of memory (b, kb, mb, gb, tb)"
                )));
            }
        };
        number
            .checked_mul(factor)
            .map(MemorySize)
            .ok_or_else(|| ValueError("too large".into()))
    }
}

fn split_unit(text: &str) -> Result<(u64, String), ValueError> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let number = digits
        .parse()
        .map_err(|_| ValueError("expected a whole number, then a unit".into()))?;
    Ok((number, unit.trim().to_lowercase()))
}

/// A duration as a user would write it: the largest unit that divides it.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    for (unit, size) in [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("min", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000u128),
    ] {
        if nanos >= size && nanos.is_multiple_of(size) {
            return format!("{} {unit}", nanos / size);
        }
    }
    format!("{nanos} ns")
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in [
            ("tb", 1u64 << 40),
            ("gb", 1 << 30),
            ("mb", 1 << 20),
            ("kb", 1 << 10),
        ] {
            if self.0 >= size && self.0.is_multiple_of(size) {
                return write!(f, "{} {unit}", self.0 / size);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_flink_writes_them() {
        for (text, millis) in [
            ("10 s", 10_000),
            ("200ms", 200),
            ("250", 250),
            ("1 min", 60_000),
            ("2 h", 7_200_000),
        ] {
            assert_eq!(Duration::parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert!(Duration::parse("10 parsecs").is_err());
        assert!(Duration::parse("s").is_err());
        assert_eq!(format_duration(Duration::from_secs(90)), "90 s");
    }

    #[test]
    fn memory_sizes() {
        assert_eq!(MemorySize::parse("64 mb"), Ok(MemorySize(64 << 20)));
        assert_eq!(MemorySize(64 << 20).to_string(), "64 mb");
    }
}
