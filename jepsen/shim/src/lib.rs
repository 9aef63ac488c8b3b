//! Loaded into a process by `LD_PRELOAD`: faults of its disk and its clock, without root and without a change to the
//! process. Linux with glibc only. A program that makes system calls without libc (rustix does) passes it by.
//!
//! Configured by the environment, read once when the library is loaded; a value that cannot be read ends the process
//! with code 2, so that no harness takes a run without faults for one with them.
//!
//! - `SHIM_DIR`: an absolute path. Only files below it are counted and faulted.
//! - `SHIM_FAULT`: `op=write|fsync|rename|open|any,nth=N,action=kill|torn|power|eio|enospc|stall:MS`, what happens at the
//!   N-th operation of that kind, counted from 1.
//! - `SHIM_ENOSPC_AFTER`: bytes that may be written before the disk is full, for good.
//! - `SHIM_FSYNC_DELAY_US`: microseconds that every sync takes longer.
//! - `SHIM_CLOCK_FILE`: a file of two native 64-bit integers, mapped, so that a change shows at once: nanoseconds added
//!   to `CLOCK_REALTIME`, and its drift in parts per million since the process started. `CLOCK_MONOTONIC` is never
//!   touched. Works without `SHIM_DIR`.
//! - `SHIM_LOG`: a file to which a line is appended for everything that fires.
//! - `SHIM_COUNT`: a file to which a process that exits, and has touched the directory, appends how many operations of
//!   each kind there were.
//!
//! Kinds: *write* is write, pwrite, writev, pwritev, ftruncate and fallocate; *fsync* is fsync, fdatasync and
//! sync_file_range; *rename* is rename and unlink; *open* is every open; *any* is all of these.
//!
//! Actions come before the operation. *kill* is SIGKILL: what was written stays in the page cache. *torn* writes the
//! first half, then kills. *power* shuts the file system of `SHIM_DIR` down without writing its journal or its cache
//! (ext4, root), then kills: what was not synced is gone once it is mounted again. *eio* and *enospc* fail once.
//!
//! Everything in here is unsafe by its nature: these functions replace libc's and are called from C and Rust alike,
//! with the pointers that those would have got. They pass every pointer on untouched and keep none.
#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![allow(unsafe_code)]

mod clock;
mod config;
mod fault;
mod files;
mod paths;
mod sys;
