//! One cluster at a time on a machine, over all test processes.

use crate::wait;
use anyhow::Result;
use std::fs::{File, TryLockError};
use std::time::Duration;

/// The right to run a cluster on this machine, over all test processes.
#[derive(Debug)]
pub struct OnlyOne {
    _file: File,
}

impl OnlyOne {
    /// Waits for the right; it is given back on drop, also when the process dies.
    ///
    /// # Errors
    /// If another holder keeps it for an hour.
    pub fn acquire() -> Result<Self> {
        let path = std::env::temp_dir().join("holdfast-one-cluster-at-a-time.lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)?;
        wait::until(
            format!("the lock {}", path.display()),
            Duration::from_secs(3600),
            || match file.try_lock() {
                Ok(()) => Ok(Some(())),
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(error)) => Err(error.into()),
            },
        )?;
        Ok(Self { _file: file })
    }
}
