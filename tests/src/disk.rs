//! A small disk of its own for a directory, to be filled: a tmpfs, which only root may mount.

use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system; unmounted when dropped.
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts one of so many MiB at a directory, which is made. `None` with a word to people if this process may not.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn mount(at: &Path, mebibytes: u32) -> Result<Option<Self>> {
        std::fs::create_dir_all(at).with_context(|| at.display().to_string())?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(at)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Ok(Some(Self { at: at.to_owned() })),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                println!(
                    "    skipped: a small disk cannot be mounted here: {}",
                    said.trim()
                );
                Ok(None)
            }
            Err(error) => {
                println!("    skipped: a small disk cannot be mounted here: {error}");
                Ok(None)
            }
        }
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("_ballast")
    }

    /// Fills it to the last byte.
    ///
    /// # Errors
    /// If writing fails for another reason than that it is full.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(self.ballast())?;
        for size in [1 << 20, 4 << 10, 1] {
            let block = vec![0x5a_u8; size];
            loop {
                match file.write(&block) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) => {
                        ensure!(
                            error.kind() == std::io::ErrorKind::StorageFull,
                            "{}: {error}",
                            self.at.display()
                        );
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives the space back.
    ///
    /// # Errors
    /// If the ballast cannot be removed.
    pub fn free(&self) -> Result<()> {
        std::fs::remove_file(self.ballast()).with_context(|| self.at.display().to_string())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: processes that a failed test left behind may still have files there.
        let unmounted = Command::new("umount").arg("-l").arg(&self.at).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            println!("    {} could not be unmounted", self.at.display());
        }
    }
}
