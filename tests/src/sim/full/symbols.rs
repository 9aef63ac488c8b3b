//! The system's sources of randomness and time, for the `sim` binary only: std, getrandom and everything above them
//! find these functions before the C library's. They pass calls through until a seed is being run.
#![allow(unsafe_code)] // The C library's functions can be replaced in no other way.

use libc::{c_int, c_long, c_uint, c_void, clockid_t, size_t, ssize_t, timespec};
use tests::sim::full::determinism;

/// Fills `buffer` from the seed, or asks the kernel.
///
/// # Safety
/// As getrandom(2): `buffer` points to `length` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: size_t, flags: c_uint) -> ssize_t {
    if !determinism::is_enabled() {
        // SAFETY: the arguments are the caller's.
        let got = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, c_long::from(flags)) };
        return ssize_t::try_from(got).unwrap_or(-1);
    }
    if !buffer.is_null() {
        // SAFETY: the caller vouches for `length` writable bytes.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
        determinism::fill(bytes);
    }
    ssize_t::try_from(length).unwrap_or(-1)
}

/// Answers from the virtual clock, or asks the kernel.
///
/// # Safety
/// As clock_gettime(2): `time` points to a writable timespec.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    if !determinism::is_enabled() || time.is_null() {
        // SAFETY: the arguments are the caller's.
        let answer = unsafe { libc::syscall(libc::SYS_clock_gettime, c_long::from(clock), time) };
        return c_int::try_from(answer).unwrap_or(-1);
    }
    let (wall, uptime) = determinism::clocks_ns();
    let ns = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => wall,
        _ => uptime,
    };
    let value = timespec {
        tv_sec: libc::time_t::try_from(ns / 1_000_000_000).unwrap_or(0),
        tv_nsec: c_long::try_from(ns % 1_000_000_000).unwrap_or(0),
    };
    // SAFETY: the caller vouches for a writable timespec.
    unsafe { time.write(value) };
    0
}

/// One number for all, or the kernel's: a worker tells the leader which process it is.
#[unsafe(no_mangle)]
pub extern "C" fn getpid() -> libc::pid_t {
    if determinism::is_enabled() {
        return 4242;
    }
    // SAFETY: it takes no arguments and cannot fail.
    let pid = unsafe { libc::syscall(libc::SYS_getpid) };
    libc::pid_t::try_from(pid).unwrap_or(0)
}
