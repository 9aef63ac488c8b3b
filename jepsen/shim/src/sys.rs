//! The real system calls. Made directly, so that the functions of this library never call themselves, and so that they
//! work before anything else is set up.

use libc::{c_int, c_long, c_void};
use std::ffi::CStr;
use std::io;

/// Makes a system call; a failure sets `errno` and is -1.
macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {
        // SAFETY: the arguments are those of the caller of the function that is replaced, or our own buffers, which
        // outlive the call.
        unsafe { libc::syscall($number $(, $argument)*) }
    };
}
pub(crate) use call;

pub(crate) fn set_errno(code: c_int) {
    // SAFETY: the location is this thread's own, and always there.
    unsafe { *libc::__errno_location() = code };
}

/// Ends this process as a crash does: no handler runs, nothing is flushed.
pub(crate) fn kill_self() -> ! {
    loop {
        // SAFETY: no pointers. The loop only covers the moment until the signal arrives.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}

pub(crate) fn sleep_us(us: u64) {
    let time = libc::timespec {
        tv_sec: (us / 1_000_000) as libc::time_t,
        tv_nsec: (us % 1_000_000 * 1000) as c_long,
    };
    call!(
        libc::SYS_nanosleep,
        &raw const time,
        std::ptr::null_mut::<libc::timespec>()
    );
}

/// Opens without being counted.
pub(crate) fn open(path: &CStr, flags: c_int) -> io::Result<c_int> {
    let fd = call!(
        libc::SYS_openat,
        libc::AT_FDCWD,
        path.as_ptr(),
        flags | libc::O_CLOEXEC,
        0o644
    );
    if fd < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(fd as c_int)
    }
}

pub(crate) fn close(fd: c_int) {
    call!(libc::SYS_close, fd);
}

/// Writes without being counted. For lines, which a file opened for appending takes whole.
pub(crate) fn write(fd: c_int, bytes: &[u8]) -> isize {
    call!(libc::SYS_write, fd, bytes.as_ptr().cast::<c_void>(), bytes.len()) as isize
}

/// Appends a line to a file.
pub(crate) fn append_line(path: &CStr, line: &str) {
    if let Ok(fd) = open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND) {
        write(fd, format!("{line}\n").as_bytes());
        close(fd);
    }
}

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: neither cache nor journal is written any more.
pub(crate) fn cut_power(dir: &CStr) -> io::Result<()> {
    const SHUTDOWN: c_long = 0x8004_587D;
    const NO_LOG_FLUSH: u32 = 2;
    let fd = open(dir, libc::O_RDONLY)?;
    let flags = NO_LOG_FLUSH;
    if call!(libc::SYS_ioctl, fd, SHUTDOWN, &raw const flags) < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
