//! Which files lie below the directory.

use crate::config::Config;
use crate::sys::call;
use libc::{c_char, c_int, c_void};
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};

/// Descriptors beyond this are not watched: no process here comes near.
const FDS: usize = 1 << 16;
static WATCHED: [AtomicBool; FDS] = [const { AtomicBool::new(false) }; FDS];

pub(crate) fn watch(fd: c_int, watched: bool) {
    if let Some(flag) = usize::try_from(fd).ok().and_then(|fd| WATCHED.get(fd)) {
        flag.store(watched, Ordering::Relaxed);
    }
}

pub(crate) fn is_watched(fd: c_int) -> bool {
    usize::try_from(fd)
        .ok()
        .and_then(|fd| WATCHED.get(fd))
        .is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Whether a path, relative to `dir_fd` if it is relative, lies below the directory or is it.
///
/// # Safety
/// `path` is null or a string that ends with a zero.
pub(crate) unsafe fn is_below(config: &Config, dir_fd: c_int, path: *const c_char) -> bool {
    if path.is_null() {
        return false;
    }
    // SAFETY: by the contract above.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    if path.starts_with(b"/") {
        return below(config, path);
    }
    let base: &CStr = c"/proc/self/cwd";
    let base = if dir_fd == libc::AT_FDCWD {
        base.to_owned()
    } else {
        match std::ffi::CString::new(format!("/proc/self/fd/{dir_fd}")) {
            Ok(base) => base,
            Err(_) => return false,
        }
    };
    let mut buffer = [0_u8; libc::PATH_MAX as usize];
    let length = call!(
        libc::SYS_readlinkat,
        libc::AT_FDCWD,
        base.as_ptr(),
        buffer.as_mut_ptr().cast::<c_void>(),
        buffer.len()
    );
    let Some(base) = usize::try_from(length)
        .ok()
        .and_then(|length| buffer.get(..length))
    else {
        return false;
    };
    below(config, &[base, b"/", path].concat())
}

/// By the path's text, without `.` and with `..` followed back.
fn below(config: &Config, path: &[u8]) -> bool {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut whole = Vec::with_capacity(path.len() + 1);
    for part in parts {
        whole.push(b'/');
        whole.extend_from_slice(part);
    }
    whole
        .strip_prefix(config.dir.as_slice())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}
