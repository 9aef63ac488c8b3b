//! What the feature `inject` adds: arming by environment, counting passages, and the actions.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    /// The process ends at once.
    Abort,
    /// The process stops where it is; the harness takes the disk's power away and then kills it.
    Power,
    /// The calling thread sleeps.
    Delay(Duration),
    /// The call fails.
    Error,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Armed {
    point: String,
    hit: u64,
    action: Action,
}

fn parse(text: &str) -> Result<Armed, String> {
    let (mut point, mut hit, mut action) = (None, 1, None);
    for part in text.split(',') {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| format!("'{part}' does not read key=value"))?;
        match key {
            "point" if super::points::POINTS.iter().any(|p| p.name == value) => {
                point = Some(value.to_owned())
            }
            "point" => return Err(format!("there is no crash point '{value}'")),
            "hit" => hit = value.parse().map_err(|error| format!("hit={value}: {error}"))?,
            "action" => action = Some(parse_action(value)?),
            _ => return Err(format!("unknown key '{key}'")),
        }
    }
    Ok(Armed {
        point: point.ok_or("point= is missing")?,
        hit,
        action: action.ok_or("action= is missing")?,
    })
}

fn parse_action(text: &str) -> Result<Action, String> {
    match (text, text.split_once(':')) {
        ("abort", _) => Ok(Action::Abort),
        ("power", _) => Ok(Action::Power),
        ("error", _) => Ok(Action::Error),
        (_, Some(("delay", ms))) => ms
            .parse()
            .map(|ms| Action::Delay(Duration::from_millis(ms)))
            .map_err(|error| format!("{text}: {error}")),
        _ => Err(format!("unknown action '{text}'")),
    }
}

/// A wrong value ends the process: a harness that arms nothing must not go unnoticed.
fn armed() -> Option<&'static Armed> {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    ARMED
        .get_or_init(|| {
            let text = std::env::var("HOLDFAST_INJECT").ok()?;
            match parse(&text) {
                Ok(armed) => Some(armed),
                Err(reason) => {
                    eprintln!("HOLDFAST_INJECT={text}: {reason}");
                    std::process::exit(2);
                }
            }
        })
        .as_ref()
}

pub(super) fn point(name: &'static str) -> io::Result<()> {
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let Some(armed) = armed().filter(|armed| armed.point == name) else {
        return Ok(());
    };
    if PASSED.fetch_add(1, Ordering::SeqCst) + 1 != armed.hit {
        return Ok(());
    }
    log(&format!(
        "fired point={name} hit={} action={:?}",
        armed.hit, armed.action
    ));
    match &armed.action {
        Action::Abort => std::process::abort(),
        Action::Power => {
            let me = rustix::process::getpid();
            let _ = rustix::process::kill_process(me, rustix::process::Signal::STOP);
            Ok(())
        }
        Action::Delay(time) => {
            std::thread::sleep(*time);
            Ok(())
        }
        Action::Error => Err(io::Error::other(format!("injected at {name}"))),
    }
}

pub(super) fn bug(name: &'static str) -> bool {
    static ON: OnceLock<Option<String>> = OnceLock::new();
    static TOLD: AtomicBool = AtomicBool::new(false);
    let on = ON.get_or_init(|| {
        let name = std::env::var("HOLDFAST_BUG").ok()?;
        if !super::bugs::BUGS.iter().any(|bug| bug.name == name) {
            eprintln!("HOLDFAST_BUG={name}: there is no such seeded bug");
            std::process::exit(2);
        }
        Some(name)
    });
    let is_on = on.as_deref() == Some(name);
    if is_on && !TOLD.swap(true, Ordering::SeqCst) {
        log(&format!("reached bug={name}"));
    }
    is_on
}

fn log(line: &str) {
    let Some(path) = std::env::var_os("HOLDFAST_INJECT_LOG") else {
        return;
    };
    if let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path) {
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::inject::points::POINTS;

    #[test]
    fn an_arming_is_read_or_refused() {
        let name = POINTS[0].name;
        let armed = parse(&format!("point={name},hit=3,action=delay:250")).unwrap();
        assert_eq!(armed.hit, 3);
        assert_eq!(armed.action, Action::Delay(Duration::from_millis(250)));
        for bad in ["", "point=nowhere,action=abort", "hit=1,action=abort", "point=x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse(&format!("point={name},action=explode")).is_err());
    }
}
