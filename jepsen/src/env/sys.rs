//! The system calls that no safe wrapper offers: a TAP interface, ext4's shutdown, freezing a file system.
#![allow(unsafe_code)]

use anyhow::{Context, Result};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)`.
const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587D;
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: neither data nor journal are written out, as if the power were gone.
const NO_LOG_FLUSH: u32 = 2;
/// `FIFREEZE`, `_IOWR('X', 119, int)`.
const FIFREEZE: libc::c_ulong = 0xC004_5877;
/// `FITHAW`, `_IOWR('X', 120, int)`.
const FITHAW: libc::c_ulong = 0xC004_5878;
/// `TUNSETIFF`, `_IOW('T', 202, int)`.
const TUNSETIFF: libc::c_ulong = 0x4004_54CA;

/// Opens a TAP interface in the network namespace of the calling thread. Reads and writes do not block.
///
/// # Errors
/// If there is no `/dev/net/tun` or the caller may not.
pub fn open_tap(name: &str) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .context("/dev/net/tun")?;
    // SAFETY: all zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .zip(name.bytes().take(libc::IFNAMSIZ - 1))
    {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    let code = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, &raw mut request) };
    checked(code).context("TUNSETIFF")?;
    Ok(file)
}

/// Takes the power away from the file system that holds `path`: every later access fails, nothing more is written.
///
/// # Errors
/// If it is not ext4, or the caller may not.
pub fn shut_down_ext4(path: &Path) -> Result<()> {
    let dir = File::open(path).with_context(|| path.display().to_string())?;
    let flags = NO_LOG_FLUSH;
    // SAFETY: the call reads one u32, which outlives it.
    let code = unsafe { libc::ioctl(dir.as_raw_fd(), EXT4_IOC_SHUTDOWN as _, &raw const flags) };
    checked(code).with_context(|| format!("EXT4_IOC_SHUTDOWN of {}", path.display()))
}

/// Freezes the file system behind an open directory: writers wait.
///
/// # Errors
/// If it is frozen already, or the caller may not.
pub fn freeze(dir: &File) -> Result<()> {
    // SAFETY: the argument is ignored by the kernel.
    checked(unsafe { libc::ioctl(dir.as_raw_fd(), FIFREEZE as _, 0) }).context("FIFREEZE")
}

/// Lets the writers of a frozen file system go on.
///
/// # Errors
/// If it is not frozen.
pub fn thaw(dir: &File) -> Result<()> {
    // SAFETY: the argument is ignored by the kernel.
    checked(unsafe { libc::ioctl(dir.as_raw_fd(), FITHAW as _, 0) }).context("FITHAW")
}

fn checked(code: libc::c_int) -> Result<()> {
    if code < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(())
}
