//! Counts operations and lets the configured fault happen at its turn.

use crate::config::{self, Action, Config, OPS, Op};
use crate::sys;
use std::sync::atomic::{AtomicU64, Ordering};

static COUNTS: [AtomicU64; OPS.len()] = [const { AtomicU64::new(0) }; OPS.len()];
static ALL: AtomicU64 = AtomicU64::new(0);
static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// What is to become of an operation.
pub(crate) enum Verdict {
    /// It happens.
    Go,
    /// It fails with this code and has no effect.
    Fail(libc::c_int),
    /// Half of it happens, and the process ends. Only writes have halves.
    Torn,
}

/// Counts an operation on a file below the directory, and decides. Does not come back from a kill.
pub(crate) fn before(config: &Config, op: Op, what: &str) -> Verdict {
    let mine = COUNTS[op as usize].fetch_add(1, Ordering::SeqCst) + 1;
    let all = ALL.fetch_add(1, Ordering::SeqCst) + 1;
    if op == Op::Fsync && config.fsync_delay_us > 0 {
        sys::sleep_us(config.fsync_delay_us);
    }
    let Some(fault) = config.fault else {
        return Verdict::Go;
    };
    let count = match fault.op {
        None => all,
        Some(wanted) if wanted == op => mine,
        Some(_) => return Verdict::Go,
    };
    if count != fault.nth {
        return Verdict::Go;
    }
    log(
        config,
        &format!("fired action={:?} nth={count} call={what}", fault.action),
    );
    match fault.action {
        Action::Kill => sys::kill_self(),
        Action::Torn => Verdict::Torn,
        Action::Power => {
            if let Err(error) = sys::cut_power(&config.dir_c) {
                log(config, &format!("the power could not be cut: {error}"));
            }
            sys::kill_self()
        }
        Action::Fail(code) => Verdict::Fail(code),
        Action::Stall(time) => {
            sys::sleep_us(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
            Verdict::Go
        }
    }
}

/// How many of `bytes` still fit on the disk. What fits counts as written.
pub(crate) fn room(config: &Config, bytes: usize) -> usize {
    let Some(limit) = config.enospc_after else {
        return bytes;
    };
    let asked = bytes as u64;
    let before = WRITTEN.fetch_add(asked, Ordering::SeqCst);
    let fits = asked.min(limit.saturating_sub(before));
    if fits < asked {
        // What did not fit takes no room, so that the disk stays exactly full.
        WRITTEN.fetch_sub(asked - fits, Ordering::SeqCst);
        log(config, &format!("full limit={limit} asked={asked} fits={fits}"));
    }
    fits as usize
}

fn log(config: &Config, line: &str) {
    if let Some(path) = &config.log {
        sys::append_line(path, line);
    }
}

/// Called when the process exits in an orderly way.
pub(crate) extern "C" fn write_counts() {
    let Some(config) = config::get() else { return };
    let Some(path) = &config.count else { return };
    let all = ALL.load(Ordering::SeqCst);
    if all == 0 {
        // A child that inherited the environment and has nothing to do with the directory.
        return;
    }
    let mut line = format!("any={all}");
    for (name, op) in OPS {
        line += &format!(" {name}={}", COUNTS[op as usize].load(Ordering::SeqCst));
    }
    sys::append_line(path, &line);
}
