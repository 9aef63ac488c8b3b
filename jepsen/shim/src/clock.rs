//! The functions that replace libc's: the clock that people read. `CLOCK_MONOTONIC` is passed through: no machine's
//! jumps, and timeouts that stand on it must hold.
//!
//! SAFETY: as in `files`.

use crate::sys::{self, call};
use libc::{c_int, c_long, c_void, clockid_t, time_t, timespec, timeval};
use std::ffi::CStr;
use std::io;
use std::sync::atomic::{AtomicI64, AtomicPtr, Ordering};

const NANOS: i128 = 1_000_000_000;

/// Two integers in the mapped file, which somebody else may change at any time.
static MAPPED: AtomicPtr<[AtomicI64; 2]> = AtomicPtr::new(std::ptr::null_mut());
/// When the process started, by the monotonic clock.
static STARTED: AtomicI64 = AtomicI64::new(0);
/// libc's own function, which asks the kernel's page instead of the kernel.
static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

type ClockGetTime = unsafe extern "C" fn(clockid_t, *mut timespec) -> c_int;

/// Maps the file that says how wrong the clock is.
pub(crate) fn map(path: &CStr) -> io::Result<()> {
    let fd = sys::open(path, libc::O_RDONLY)?;
    let size = size_of::<[AtomicI64; 2]>();
    // SAFETY: plain data, filled by the kernel before it is read.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    if call!(libc::SYS_fstat, fd, &raw mut stat) < 0 {
        return Err(io::Error::last_os_error());
    }
    if stat.st_size < size as i64 {
        return Err(io::Error::other("it holds fewer than two 64-bit integers"));
    }
    // SAFETY: a new mapping of a file that is long enough; it is never unmapped.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size,
            libc::PROT_READ,
            libc::MAP_SHARED,
            fd,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    sys::close(fd);
    let mut now = timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    call!(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut now);
    STARTED.store(nanos(&now) as i64, Ordering::Relaxed);
    MAPPED.store(at.cast(), Ordering::Release);
    Ok(())
}

fn nanos(time: &timespec) -> i128 {
    i128::from(time.tv_sec) * NANOS + i128::from(time.tv_nsec)
}

/// libc's answer, or the kernel's if libc's function cannot be found.
unsafe fn real(clock: clockid_t, time: *mut timespec) -> c_int {
    let mut found = REAL.load(Ordering::Relaxed);
    if found.is_null() {
        // SAFETY: a name that ends with a zero; the answer is that function or null.
        found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"clock_gettime".as_ptr()) };
        REAL.store(found, Ordering::Relaxed);
    }
    if found.is_null() {
        return call!(libc::SYS_clock_gettime, clock, time) as c_int;
    }
    // SAFETY: libc's function of that name has this type.
    unsafe { std::mem::transmute::<*mut c_void, ClockGetTime>(found)(clock, time) }
}

/// What must be added to the real time now.
unsafe fn wrong_by() -> i128 {
    let mapped = MAPPED.load(Ordering::Acquire);
    if mapped.is_null() {
        return 0;
    }
    // SAFETY: the mapping is never taken away, and its integers are read as atomics.
    let [offset, ppm] = unsafe { &*mapped };
    let (offset, ppm) = (offset.load(Ordering::Relaxed), ppm.load(Ordering::Relaxed));
    if ppm == 0 {
        return i128::from(offset);
    }
    let mut now = timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: our own buffer.
    unsafe { real(libc::CLOCK_MONOTONIC, &raw mut now) };
    let elapsed = nanos(&now) - i128::from(STARTED.load(Ordering::Relaxed));
    i128::from(offset) + elapsed * i128::from(ppm) / 1_000_000
}

unsafe fn realtime() -> timespec {
    let mut now = timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: our own buffer.
    let wrong = unsafe {
        real(libc::CLOCK_REALTIME, &raw mut now);
        wrong_by()
    };
    let shown = (nanos(&now) + wrong).max(0);
    timespec {
        tv_sec: (shown / NANOS) as time_t,
        tv_nsec: (shown % NANOS) as c_long,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    let is_people_s = clock == libc::CLOCK_REALTIME || clock == libc::CLOCK_REALTIME_COARSE;
    if !is_people_s || time.is_null() {
        return unsafe { real(clock, time) };
    }
    unsafe { *time = realtime() };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn gettimeofday(time: *mut timeval, zone: *mut c_void) -> c_int {
    let result = call!(libc::SYS_gettimeofday, std::ptr::null_mut::<timeval>(), zone) as c_int;
    if !time.is_null() {
        let now = unsafe { realtime() };
        unsafe {
            *time = timeval {
                tv_sec: now.tv_sec,
                tv_usec: now.tv_nsec / 1000,
            }
        };
    }
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn time(to: *mut time_t) -> time_t {
    let now = unsafe { realtime() }.tv_sec;
    if !to.is_null() {
        unsafe { *to = now };
    }
    now
}
