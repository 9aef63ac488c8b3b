//! Functions over strings. Positions count characters, not bytes.

use super::{Arg, Call, Def, Evaluated, Ret, collect_text, def, int_at, string_at};
use arrow::array::{ArrayRef, AsArray, BooleanArray, Int32Array};
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use std::fmt::Write;
use std::sync::Arc;

use Arg::{Int, Text};

/// The functions of this file.
pub(crate) const DEFS: &[Def] = &[
    def("UPPER", &[Text], 0, Ret::Text, |c| map(c, str::to_uppercase)),
    def("LOWER", &[Text], 0, Ret::Text, |c| map(c, str::to_lowercase)),
    def("INITCAP", &[Text], 0, Ret::Text, |c| map(c, initcap)),
    def("REVERSE", &[Text], 0, Ret::Text, |c| {
        map(c, |s| s.chars().rev().collect())
    }),
    def("LTRIM", &[Text, Text], 1, Ret::Text, |c| trim(c, true, false)),
    def("RTRIM", &[Text, Text], 1, Ret::Text, |c| trim(c, false, true)),
    def("BTRIM", &[Text, Text], 1, Ret::Text, |c| trim(c, true, true)),
    def("TRIM", &[Text, Text], 1, Ret::Text, |c| trim(c, true, true)),
    def("SUBSTRING", &[Text, Int, Int], 1, Ret::Text, substring),
    def("SUBSTR", &[Text, Int, Int], 1, Ret::Text, substring),
    def("LEFT", &[Text, Int], 0, Ret::Text, left),
    def("RIGHT", &[Text, Int], 0, Ret::Text, right),
    def("REPEAT", &[Text, Int], 0, Ret::Text, repeat),
    def("LPAD", &[Text, Int, Text], 0, Ret::Text, |c| pad(c, true)),
    def("RPAD", &[Text, Int, Text], 0, Ret::Text, |c| pad(c, false)),
    def("REPLACE", &[Text, Text, Text], 0, Ret::Text, replace),
    def("SPLIT_INDEX", &[Text, Text, Int], 0, Ret::Text, split_index),
    def("CHR", &[Arg::Long], 0, Ret::Text, chr),
    def("ASCII", &[Text], 0, Ret::Int, ascii),
    def("CHAR_LENGTH", &[Text], 0, Ret::Int, length),
    def("CHARACTER_LENGTH", &[Text], 0, Ret::Int, length),
    def("LOCATE", &[Text, Text, Int], 1, Ret::Int, locate),
    def("INSTR", &[Text, Text], 0, Ret::Int, instr),
    def("STARTSWITH", &[Text, Text], 0, Ret::Bool, |c| {
        test(c, |s, t| s.starts_with(t))
    }),
    def("ENDSWITH", &[Text, Text], 0, Ret::Bool, |c| {
        test(c, |s, t| s.ends_with(t))
    }),
    Def {
        repeats: true,
        ..def("CONCAT", &[Text], 0, Ret::Text, concat)
    },
    Def {
        repeats: true,
        ..def("CONCAT_WS", &[Text, Text], 1, Ret::Text, concat_ws)
    },
    def("SHA224", &[Arg::Bytes], 0, Ret::Text, digest::<Sha224>),
    def("SHA256", &[Arg::Bytes], 0, Ret::Text, digest::<Sha256>),
    def("SHA384", &[Arg::Bytes], 0, Ret::Text, digest::<Sha384>),
    def("SHA512", &[Arg::Bytes], 0, Ret::Text, digest::<Sha512>),
];

fn map(call: &Call<'_>, f: impl Fn(&str) -> String) -> Evaluated {
    collect_text(call, |i| string_at(&call.args[0], i).map(&f))
}

fn test(call: &Call<'_>, f: impl Fn(&str, &str) -> bool) -> Evaluated {
    let values: BooleanArray = (0..call.rows)
        .map(|i| Some(f(string_at(&call.args[0], i)?, string_at(&call.args[1], i)?)))
        .collect();
    Ok(Arc::new(values))
}

fn numbers(call: &Call<'_>, f: impl FnMut(usize) -> Option<usize>) -> Evaluated {
    let values: Int32Array = (0..call.rows)
        .map(f)
        .map(|n| n.map(|n| i32::try_from(n).unwrap_or(i32::MAX)))
        .collect();
    Ok(Arc::new(values))
}

fn initcap(text: &str) -> String {
    let mut inside = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphanumeric();
    }
    out
}

/// Characters to cut are the second argument's, a blank without it.
fn trim(call: &Call<'_>, start: bool, end: bool) -> Evaluated {
    collect_text(call, |i| {
        let mut text = string_at(&call.args[0], i)?;
        let cut = match call.args.get(1) {
            Some(chars) => string_at(chars, i)?,
            None => " ",
        };
        if start {
            text = text.trim_start_matches(|c| cut.contains(c));
        }
        if end {
            text = text.trim_end_matches(|c| cut.contains(c));
        }
        Some(text.to_owned())
    })
}

fn substring(call: &Call<'_>) -> Evaluated {
    collect_text(call, |i| {
        let text = string_at(&call.args[0], i)?;
        let from = i64::from(int_at(&call.args[1], i)?);
        let length = match call.args.get(2) {
            Some(length) => i64::from(int_at(length, i)?),
            None => i64::from(i32::MAX),
        };
        if length < 0 {
            return None;
        }
        let count = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        let start = match from {
            1.. => from - 1,
            0 => 0,
            _ => count + from,
        };
        if start < 0 || start >= count {
            return Some(String::new());
        }
        let (skip, take) = (usize::try_from(start).ok()?, usize::try_from(length).ok()?);
        Some(text.chars().skip(skip).take(take).collect())
    })
}

fn left(call: &Call<'_>) -> Evaluated {
    collect_text(call, |i| {
        let text = string_at(&call.args[0], i)?;
        let n = usize::try_from(int_at(&call.args[1], i)?).unwrap_or(0);
        Some(text.chars().take(n).collect())
    })
}

fn right(call: &Call<'_>) -> Evaluated {
    collect_text(call, |i| {
        let text = string_at(&call.args[0], i)?;
        let n = usize::try_from(int_at(&call.args[1], i)?).unwrap_or(0);
        let skip = text.chars().count().saturating_sub(n);
        Some(text.chars().skip(skip).collect())
    })
}

/// Longest string that REPEAT, LPAD and RPAD make, so that one row cannot exhaust memory.
const MADE_MAX: usize = 1 << 20;

fn repeat(call: &Call<'_>) -> Evaluated {
    for i in 0..call.rows {
        let size = string_at(&call.args[0], i).map_or(0, str::len);
        let n = int_at(&call.args[1], i).map_or(0, |n| usize::try_from(n).unwrap_or(0));
        if size.saturating_mul(n) > MADE_MAX {
            return Err(format!("REPEAT would make a string of over {MADE_MAX} bytes"));
        }
    }
    collect_text(call, |i| {
        let n = usize::try_from(int_at(&call.args[1], i)?).unwrap_or(0);
        Some(string_at(&call.args[0], i)?.repeat(n))
    })
}

fn pad(call: &Call<'_>, at_start: bool) -> Evaluated {
    for i in 0..call.rows {
        if int_at(&call.args[1], i).is_some_and(|n| n > MADE_MAX as i32) {
            return Err(format!(
                "{} would make a string of over {MADE_MAX} characters",
                if at_start { "LPAD" } else { "RPAD" }
            ));
        }
    }
    collect_text(call, |i| {
        let text = string_at(&call.args[0], i)?;
        let length = usize::try_from(int_at(&call.args[1], i)?).ok()?;
        let fill = string_at(&call.args[2], i)?;
        if fill.is_empty() {
            return None;
        }
        let missing = length.saturating_sub(text.chars().count());
        let filling: String = fill.chars().cycle().take(missing).collect();
        let body: String = text.chars().take(length).collect();
        Some(if at_start {
            filling + &body
        } else {
            body + &filling
        })
    })
}

fn replace(call: &Call<'_>) -> Evaluated {
    collect_text(call, |i| {
        let text = string_at(&call.args[0], i)?;
        let (what, with) = (string_at(&call.args[1], i)?, string_at(&call.args[2], i)?);
        Some(if what.is_empty() {
            text.to_owned()
        } else {
            text.replace(what, with)
        })
    })
}

fn split_index(call: &Call<'_>) -> Evaluated {
    collect_text(call, |i| {
        let text = string_at(&call.args[0], i)?;
        let separator = string_at(&call.args[1], i)?;
        let n = usize::try_from(int_at(&call.args[2], i)?).ok()?;
        if text.is_empty() {
            return None;
        }
        let part = if separator.is_empty() {
            text.split_whitespace().nth(n)
        } else {
            text.split(separator).nth(n)
        };
        part.map(str::to_owned)
    })
}

fn chr(call: &Call<'_>) -> Evaluated {
    collect_text(call, |i| {
        let n = super::long_at(&call.args[0], i)?;
        Some(if n < 0 {
            String::new()
        } else {
            char::from((n & 0xff) as u8).to_string()
        })
    })
}

fn ascii(call: &Call<'_>) -> Evaluated {
    numbers(call, |i| {
        string_at(&call.args[0], i).map(|s| s.bytes().next().map_or(0, usize::from))
    })
}

fn length(call: &Call<'_>) -> Evaluated {
    numbers(call, |i| string_at(&call.args[0], i).map(|s| s.chars().count()))
}

/// Position of `what` in `text` from character `from` (1-based) on; 0 if it is not there.
fn find(what: &str, text: &str, from: i32) -> usize {
    let Ok(from) = usize::try_from(from) else {
        return 0;
    };
    if from == 0 {
        return 0;
    }
    let Some(start) = text
        .char_indices()
        .map(|(at, _)| at)
        .chain([text.len()])
        .nth(from - 1)
    else {
        return 0;
    };
    text[start..]
        .find(what)
        .map_or(0, |at| text[..start + at].chars().count() + 1)
}

fn locate(call: &Call<'_>) -> Evaluated {
    numbers(call, |i| {
        let from = match call.args.get(2) {
            Some(from) => int_at(from, i)?,
            None => 1,
        };
        Some(find(
            string_at(&call.args[0], i)?,
            string_at(&call.args[1], i)?,
            from,
        ))
    })
}

fn instr(call: &Call<'_>) -> Evaluated {
    numbers(call, |i| {
        Some(find(
            string_at(&call.args[1], i)?,
            string_at(&call.args[0], i)?,
            1,
        ))
    })
}

fn concat(call: &Call<'_>) -> Evaluated {
    collect_text(call, |i| {
        let mut out = String::new();
        for arg in call.args {
            out += string_at(arg, i)?;
        }
        Some(out)
    })
}

fn concat_ws(call: &Call<'_>) -> Evaluated {
    collect_text(call, |i| {
        let separator = string_at(&call.args[0], i)?;
        let parts: Vec<&str> = call.args[1..].iter().filter_map(|a| string_at(a, i)).collect();
        Some(parts.join(separator))
    })
}

/// `a || b`
pub(crate) const CONCAT: super::Eval = concat;

/// Cuts to `params[1]` characters; with `params[0]` = 1, fills with blanks.
pub(crate) fn fit(array: &ArrayRef, fixed: bool, length: usize) -> ArrayRef {
    let fitted: arrow::array::StringArray = array
        .as_string::<i32>()
        .iter()
        .map(|text| {
            text.map(|text| {
                let mut out: String = text.chars().take(length).collect();
                if fixed {
                    let missing = length.saturating_sub(out.chars().count());
                    out.extend(std::iter::repeat_n(' ', missing));
                }
                out
            })
        })
        .collect();
    Arc::new(fitted)
}

fn digest<D: Digest>(call: &Call<'_>) -> Evaluated {
    let bytes = call.args[0].as_binary::<i32>();
    collect_text(call, |i| {
        use arrow::array::Array;
        (!bytes.is_null(i)).then(|| {
            D::digest(bytes.value(i))
                .iter()
                .fold(String::new(), |mut text, byte| {
                    let _ = write!(text, "{byte:02x}");
                    text
                })
        })
    })
}
