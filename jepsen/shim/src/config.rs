//! What the environment asks for, read when the library is loaded.

use crate::{clock, fault, sys};
use std::ffi::CString;
use std::sync::OnceLock;
use std::time::Duration;

/// Which operations are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    Write,
    Fsync,
    Rename,
    Open,
}

/// In the order of the counters.
pub(crate) const OPS: [(&str, Op); 4] = [
    ("write", Op::Write),
    ("fsync", Op::Fsync),
    ("rename", Op::Rename),
    ("open", Op::Open),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Kill,
    Torn,
    Power,
    Fail(libc::c_int),
    Stall(Duration),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// `None`: any.
    pub(crate) op: Option<Op>,
    pub(crate) nth: u64,
    pub(crate) action: Action,
}

pub(crate) struct Config {
    /// Without a slash at its end.
    pub(crate) dir: Vec<u8>,
    pub(crate) dir_c: CString,
    pub(crate) fault: Option<Fault>,
    pub(crate) enospc_after: Option<u64>,
    pub(crate) fsync_delay_us: u64,
    pub(crate) log: Option<CString>,
    pub(crate) count: Option<CString>,
}

static CONFIG: OnceLock<Config> = OnceLock::new();

/// `None` until the library is loaded, and if the environment names no directory.
pub(crate) fn get() -> Option<&'static Config> {
    CONFIG.get()
}

#[used]
// SAFETY: the section holds pointers to functions of this type, which the loader calls once.
#[unsafe(link_section = ".init_array")]
static LOAD: extern "C" fn() = load;

extern "C" fn load() {
    if let Err(reason) = read() {
        sys::write(2, format!("holdfast-shim: {reason}\n").as_bytes());
        // SAFETY: no pointers. The process must not run without the faults that were asked for.
        unsafe { libc::_exit(2) };
    }
}

fn read() -> Result<(), String> {
    if let Some(path) = text("SHIM_CLOCK_FILE")? {
        clock::map(&c_string(&path)?).map_err(|error| format!("SHIM_CLOCK_FILE={path}: {error}"))?;
    }
    let Some(dir) = text("SHIM_DIR")? else {
        return Ok(());
    };
    if !dir.starts_with('/') {
        return Err(format!("SHIM_DIR={dir} is no absolute path"));
    }
    let dir = dir.trim_end_matches('/').to_owned();
    let path = |name| text(name)?.map(|path| c_string(&path)).transpose();
    let config = Config {
        dir_c: c_string(&dir)?,
        dir: dir.into_bytes(),
        fault: text("SHIM_FAULT")?
            .map(|text| parse_fault(&text).map_err(|why| format!("SHIM_FAULT={text}: {why}")))
            .transpose()?,
        enospc_after: number("SHIM_ENOSPC_AFTER")?,
        fsync_delay_us: number("SHIM_FSYNC_DELAY_US")?.unwrap_or(0),
        log: path("SHIM_LOG")?,
        count: path("SHIM_COUNT")?,
    };
    if config.count.is_some() {
        // SAFETY: the function lives as long as the library, which is never unloaded.
        unsafe { libc::atexit(fault::write_counts) };
    }
    let _ = CONFIG.set(config);
    Ok(())
}

fn text(name: &str) -> Result<Option<String>, String> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(format!("{name}: {error}")),
    }
}

fn number(name: &str) -> Result<Option<u64>, String> {
    let Some(value) = text(name)? else { return Ok(None) };
    let number = value
        .parse()
        .map_err(|error| format!("{name}={value}: {error}"))?;
    Ok(Some(number))
}

fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|error| error.to_string())
}

fn parse_fault(text: &str) -> Result<Fault, String> {
    let (mut op, mut nth, mut action) = (None, 1, None);
    for part in text.split(',') {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| format!("'{part}' is not key=value"))?;
        match key {
            "op" if value == "any" => op = None,
            "op" => {
                let known = OPS.iter().find(|(name, _)| *name == value);
                op = Some(known.ok_or_else(|| format!("there is no operation '{value}'"))?.1);
            }
            "nth" => nth = value.parse().map_err(|error| format!("nth={value}: {error}"))?,
            "action" => action = Some(parse_action(value)?),
            _ => return Err(format!("unknown key '{key}'")),
        }
    }
    let action = action.ok_or("action= is missing")?;
    Ok(Fault { op, nth, action })
}

fn parse_action(text: &str) -> Result<Action, String> {
    Ok(match (text, text.split_once(':')) {
        ("kill", _) => Action::Kill,
        ("torn", _) => Action::Torn,
        ("power", _) => Action::Power,
        ("eio", _) => Action::Fail(libc::EIO),
        ("enospc", _) => Action::Fail(libc::ENOSPC),
        (_, Some(("stall", ms))) => Action::Stall(Duration::from_millis(
            ms.parse().map_err(|error| format!("{text}: {error}"))?,
        )),
        _ => return Err(format!("unknown action '{text}'")),
    })
}
