//! The functions that replace libc's: files.
//!
//! SAFETY, for every exported function below: it has the signature of the libc function that it replaces, is called
//! with that function's contract, and hands the arguments on to the system call behind it. `no_mangle` is the point:
//! the loader must find these names first.

use crate::config::{self, Op};
use crate::fault::{self, Verdict};
use crate::paths;
use crate::sys::{self, call};
use libc::{c_char, c_int, c_uint, c_void, iovec, mode_t, off_t, size_t, ssize_t};

/// Decides over an operation on a path; `Some` is its result, and it does not happen.
unsafe fn on_path(op: Op, what: &str, dir_fd: c_int, path: *const c_char) -> Option<c_int> {
    let config = config::get()?;
    // SAFETY: the path is a string by the contract of the function that is replaced.
    if !unsafe { paths::is_below(config, dir_fd, path) } {
        return None;
    }
    match fault::before(config, op, what) {
        Verdict::Go => None,
        Verdict::Torn => sys::kill_self(),
        Verdict::Fail(code) => {
            sys::set_errno(code);
            Some(-1)
        }
    }
}

/// The same on a descriptor.
fn on_fd(op: Op, what: &str, fd: c_int) -> Option<c_int> {
    let config = config::get().filter(|_| paths::is_watched(fd))?;
    match fault::before(config, op, what) {
        Verdict::Go => None,
        Verdict::Torn => sys::kill_self(),
        Verdict::Fail(code) => {
            sys::set_errno(code);
            Some(-1)
        }
    }
}

/// What a write may do: its first so many bytes, and whether the process ends then.
enum Allowed {
    Bytes { count: usize, then_kill: bool },
    Fails,
}

fn on_write(what: &str, fd: c_int, bytes: usize) -> Allowed {
    let all = Allowed::Bytes {
        count: bytes,
        then_kill: false,
    };
    let Some(config) = config::get().filter(|_| paths::is_watched(fd)) else {
        return all;
    };
    match fault::before(config, Op::Write, what) {
        Verdict::Torn => Allowed::Bytes {
            count: bytes / 2,
            then_kill: true,
        },
        Verdict::Fail(code) => {
            sys::set_errno(code);
            Allowed::Fails
        }
        Verdict::Go => match fault::room(config, bytes) {
            0 if bytes > 0 => {
                sys::set_errno(libc::ENOSPC);
                Allowed::Fails
            }
            count => Allowed::Bytes {
                count,
                then_kill: false,
            },
        },
    }
}

fn write_at_most(what: &str, fd: c_int, bytes: usize, write: impl FnOnce(usize) -> ssize_t) -> ssize_t {
    match on_write(what, fd, bytes) {
        Allowed::Fails => -1,
        Allowed::Bytes { count, then_kill } => {
            let written = write(count);
            if then_kill {
                sys::kill_self();
            }
            written
        }
    }
}

/// Buffers of a vectored write, cut to `bytes` in all.
unsafe fn cut(iov: *const iovec, count: c_int, bytes: usize) -> Vec<iovec> {
    let mut left = bytes;
    let mut parts = Vec::new();
    for at in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the caller of writev says that so many elements are there.
        let part = unsafe { *iov.add(at) };
        let length = part.iov_len.min(left);
        left -= length;
        parts.push(iovec {
            iov_base: part.iov_base,
            iov_len: length,
        });
    }
    parts
}

unsafe fn total(iov: *const iovec, count: c_int) -> usize {
    // SAFETY: as in `cut`.
    (0..usize::try_from(count).unwrap_or(0))
        .map(|at| unsafe { (*iov.add(at)).iov_len })
        .sum()
}

unsafe fn open_any(what: &str, dir_fd: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: see the module.
    if let Some(result) = unsafe { on_path(Op::Open, what, dir_fd, path) } {
        return result;
    }
    let fd = call!(libc::SYS_openat, dir_fd, path, flags, c_uint::from(mode as u16)) as c_int;
    if fd >= 0 {
        // SAFETY: see the module.
        let watched = config::get().is_some_and(|config| unsafe { paths::is_below(config, dir_fd, path) });
        paths::watch(fd, watched);
    }
    fd
}

// `mode` is a variable argument in C, which this calling convention passes as an ordinary one; it is garbage, and
// ignored by the kernel, when the flags do not ask for a new file.
#[unsafe(no_mangle)]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { open_any("open", libc::AT_FDCWD, path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { open_any("open", libc::AT_FDCWD, path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn openat(dir_fd: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { open_any("openat", dir_fd, path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn openat64(dir_fd: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { open_any("openat", dir_fd, path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn creat(path: *const c_char, mode: mode_t) -> c_int {
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
    unsafe { open_any("creat", libc::AT_FDCWD, path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn close(fd: c_int) -> c_int {
    paths::watch(fd, false);
    call!(libc::SYS_close, fd) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, buffer: *const c_void, count: size_t) -> ssize_t {
    write_at_most("write", fd, count, |count| {
        call!(libc::SYS_write, fd, buffer, count) as ssize_t
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite(fd: c_int, buffer: *const c_void, count: size_t, at: off_t) -> ssize_t {
    write_at_most("pwrite", fd, count, |count| {
        call!(libc::SYS_pwrite64, fd, buffer, count, at) as ssize_t
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(fd: c_int, buffer: *const c_void, count: size_t, at: off_t) -> ssize_t {
    write_at_most("pwrite", fd, count, |count| {
        call!(libc::SYS_pwrite64, fd, buffer, count, at) as ssize_t
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    let bytes = unsafe { total(iov, count) };
    write_at_most("writev", fd, bytes, |bytes| {
        let parts = unsafe { cut(iov, count, bytes) };
        call!(libc::SYS_writev, fd, parts.as_ptr(), parts.len()) as ssize_t
    })
}

unsafe fn pwritev_any(fd: c_int, iov: *const iovec, count: c_int, at: off_t) -> ssize_t {
    let bytes = unsafe { total(iov, count) };
    write_at_most("pwritev", fd, bytes, |bytes| {
        let parts = unsafe { cut(iov, count, bytes) };
        // The offset goes in two halves of a word; on 64 bits the first holds all of it.
        call!(libc::SYS_pwritev, fd, parts.as_ptr(), parts.len(), at, 0_usize) as ssize_t
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwritev(fd: c_int, iov: *const iovec, count: c_int, at: off_t) -> ssize_t {
    unsafe { pwritev_any(fd, iov, count, at) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwritev64(fd: c_int, iov: *const iovec, count: c_int, at: off_t) -> ssize_t {
    unsafe { pwritev_any(fd, iov, count, at) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ftruncate(fd: c_int, length: off_t) -> c_int {
    on_fd(Op::Write, "ftruncate", fd).unwrap_or_else(|| call!(libc::SYS_ftruncate, fd, length) as c_int)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ftruncate64(fd: c_int, length: off_t) -> c_int {
    on_fd(Op::Write, "ftruncate", fd).unwrap_or_else(|| call!(libc::SYS_ftruncate, fd, length) as c_int)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fallocate(fd: c_int, mode: c_int, at: off_t, length: off_t) -> c_int {
    on_fd(Op::Write, "fallocate", fd)
        .unwrap_or_else(|| call!(libc::SYS_fallocate, fd, mode, at, length) as c_int)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fallocate64(fd: c_int, mode: c_int, at: off_t, length: off_t) -> c_int {
    on_fd(Op::Write, "fallocate", fd)
        .unwrap_or_else(|| call!(libc::SYS_fallocate, fd, mode, at, length) as c_int)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    on_fd(Op::Fsync, "fsync", fd).unwrap_or_else(|| call!(libc::SYS_fsync, fd) as c_int)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    on_fd(Op::Fsync, "fdatasync", fd).unwrap_or_else(|| call!(libc::SYS_fdatasync, fd) as c_int)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sync_file_range(fd: c_int, at: off_t, length: off_t, flags: c_uint) -> c_int {
    on_fd(Op::Fsync, "sync_file_range", fd)
        .unwrap_or_else(|| call!(libc::SYS_sync_file_range, fd, at, length, flags) as c_int)
}

unsafe fn rename_any(
    what: &str,
    from_fd: c_int,
    from: *const c_char,
    to_fd: c_int,
    to: *const c_char,
    flags: c_uint,
) -> c_int {
    // SAFETY: see the module. What lands below the directory counts, as what leaves it.
    let refused = unsafe { on_path(Op::Rename, what, to_fd, to) };
    refused.unwrap_or_else(|| call!(libc::SYS_renameat2, from_fd, from, to_fd, to, flags) as c_int)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    unsafe { rename_any("rename", libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn renameat(from_fd: c_int, from: *const c_char, to_fd: c_int, to: *const c_char) -> c_int {
    unsafe { rename_any("renameat", from_fd, from, to_fd, to, 0) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn renameat2(
    from_fd: c_int,
    from: *const c_char,
    to_fd: c_int,
    to: *const c_char,
    flags: c_uint,
) -> c_int {
    unsafe { rename_any("renameat2", from_fd, from, to_fd, to, flags) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    let refused = unsafe { on_path(Op::Rename, "unlink", libc::AT_FDCWD, path) };
    refused.unwrap_or_else(|| call!(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) as c_int)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlinkat(dir_fd: c_int, path: *const c_char, flags: c_int) -> c_int {
    let refused = unsafe { on_path(Op::Rename, "unlinkat", dir_fd, path) };
    refused.unwrap_or_else(|| call!(libc::SYS_unlinkat, dir_fd, path, flags) as c_int)
}
