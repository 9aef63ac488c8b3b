//! A node's disk: a sparse image with ext4 on a loop device, whose power can be taken away.

use super::{command, sys};
use crate::seed::Stream;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Shorter than any record of a log.
const TORN_HEAD: u64 = 12;

/// Longest that an unmount is tried for: a holder that was just killed takes a moment to go.
const UNMOUNT: Duration = Duration::from_secs(5);

/// An image and where it is mounted.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
    mounted: bool,
}

impl Disk {
    /// Makes an image of so many MiB and mounts it.
    ///
    /// # Errors
    /// If a tool fails.
    pub fn create(image: &Path, mount: &Path, mib: u64) -> Result<Self> {
        let file = File::create(image).with_context(|| image.display().to_string())?;
        file.set_len(mib * 1024 * 1024)?;
        std::fs::create_dir_all(mount)?;
        let path = image.display().to_string();
        let options = "lazy_itable_init=1,lazy_journal_init=1";
        command::run(
            "mkfs.ext4",
            &["-q", "-F", "-m", "0", "-J", "size=8", "-E", options, &path],
        )?;
        let mut disk = Self {
            image: image.to_owned(),
            mount: mount.to_owned(),
            mounted: false,
        };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Mounts it; the journal is replayed.
    ///
    /// # Errors
    /// If the image cannot be mounted.
    pub fn mount(&mut self) -> Result<()> {
        if !self.mounted {
            let (image, at) = (self.image.display().to_string(), self.mount.display().to_string());
            command::run("mount", &["-o", "loop,noatime,errors=remount-ro", &image, &at])?;
            self.mounted = true;
        }
        Ok(())
    }

    /// Unmounts it, waiting a while for holders that are going away.
    ///
    /// # Errors
    /// If it is still held after that.
    pub fn unmount(&mut self) -> Result<()> {
        let end = Instant::now() + UNMOUNT;
        while self.mounted {
            match nix::mount::umount(&self.mount) {
                Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => self.mounted = false,
                Err(error) if Instant::now() > end => {
                    return Err(error).with_context(|| format!("umount {}", self.mount.display()));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        Ok(())
    }

    /// Takes the power away: what was not synced is gone, every access fails until [`Self::power_on`].
    ///
    /// # Errors
    /// If the file system cannot be shut down.
    pub fn power_off(&self) -> Result<()> {
        sys::shut_down_ext4(&self.mount)
    }

    /// Gives the power back. Whoever held files here must have been killed.
    ///
    /// # Errors
    /// If it cannot be mounted again.
    pub fn power_on(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount()?;
        // Somebody who still holds the old mount keeps the file system that is shut down: that would be the harness's fault,
        // and must not be taken for the product's.
        let probe = self.mount.join(".powered");
        let written = File::create(&probe).and_then(|file| file.sync_all());
        written.with_context(|| format!("{} is dead after its power came back", self.mount.display()))?;
        Ok(std::fs::remove_file(&probe)?)
    }

    /// Fills it up with one file, leaving about `leave` bytes. Answers what it took.
    ///
    /// # Errors
    /// If nothing could be written.
    pub fn fill(&self, leave: u64) -> Result<u64> {
        let free = nix::sys::statvfs::statvfs(&self.mount).context("statvfs")?;
        let bytes = (free.blocks_available() * free.fragment_size()).saturating_sub(leave);
        let path = self.ballast();
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        nix::fcntl::posix_fallocate(&file, 0, i64::try_from(bytes)?).context("fallocate")?;
        Ok(bytes)
    }

    /// Removes what [`Self::fill`] wrote.
    ///
    /// # Errors
    /// If it is there and cannot be removed.
    pub fn empty(&self) -> Result<()> {
        match std::fs::remove_file(self.ballast()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("ballast"),
            _ => Ok(()),
        }
    }

    fn ballast(&self) -> PathBuf {
        self.mount.join(".ballast")
    }

    /// Freezes it until the answer is dropped, or for `longest` at most: processes that wait for a frozen disk cannot
    /// be killed, so the thaw is armed before the freeze.
    ///
    /// # Errors
    /// If it cannot be frozen.
    pub fn stall(&self, longest: Duration) -> Result<Stall> {
        let dir = File::open(&self.mount).with_context(|| self.mount.display().to_string())?;
        let watched = dir.try_clone()?;
        let (release, released): (Sender<()>, Receiver<()>) = channel();
        let watchdog = std::thread::Builder::new().name("thaw".into()).spawn(move || {
            // Whether the stall is over or the time: thaw.
            let _ = released.recv_timeout(longest);
            sys::thaw(&watched)
        })?;
        if let Err(error) = sys::freeze(&dir) {
            drop(release);
            let _ = watchdog.join();
            return Err(error);
        }
        Ok(Stall {
            release: Some(release),
            watchdog: Some(watchdog),
        })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            eprintln!("jepsen: {error:#}");
            let _ = nix::mount::umount2(&self.mount, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// A frozen disk; thawed when dropped.
#[derive(Debug)]
pub struct Stall {
    release: Option<Sender<()>>,
    watchdog: Option<std::thread::JoinHandle<Result<()>>>,
}

impl Drop for Stall {
    fn drop(&mut self) {
        drop(self.release.take());
        if let Some(watchdog) = self.watchdog.take() {
            let _ = watchdog.join();
        }
    }
}

/// A bit that was flipped: enough to flip it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flipped {
    /// The file.
    pub file: PathBuf,
    /// The byte.
    pub offset: u64,
    /// The bit.
    pub bit: u8,
}

/// Flips a bit of one of the files below `dir` that hold at least one byte, chosen by `random`.
///
/// # Errors
/// If there is no such file.
pub fn flip_a_bit(dir: &Path, random: &mut Stream) -> Result<Flipped> {
    let mut files = Vec::new();
    collect(dir, &mut files)?;
    files.retain(|(path, size)| *size > 0 && !path.ends_with(".ballast"));
    files.sort();
    let Some((file, size)) = random.pick(&files).cloned() else {
        bail!("{} holds no file", dir.display());
    };
    let flipped = Flipped {
        file,
        offset: random.below(size),
        bit: random.below(8) as u8,
    };
    flip(&flipped)?;
    Ok(flipped)
}

/// Flips a bit; twice is not at all.
///
/// # Errors
/// If the file is not there any more or is shorter.
pub fn flip(at: &Flipped) -> Result<()> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .open(&at.file)
        .with_context(|| at.file.display().to_string())?;
    let mut byte = [0u8];
    file.seek(SeekFrom::Start(at.offset))?;
    file.read_exact(&mut byte)?;
    byte[0] ^= 1 << at.bit;
    file.seek(SeekFrom::Start(at.offset))?;
    file.write_all(&byte)?;
    Ok(file.sync_all()?)
}

/// Adds to the log file that was written last what a torn write leaves: either the beginning of a record whose end never
/// arrived, or zeroes where the file had grown already. What was synced lies before it and stays whole. (A mixture of
/// both is refused by the log, since it cannot be told from damage to what was synced.)
///
/// # Errors
/// If there is no log file (`.wal`).
pub fn tear_log(dir: &Path, bytes: u64, random: &mut Stream) -> Result<PathBuf> {
    let mut files = Vec::new();
    collect(dir, &mut files)?;
    let logs = files
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "wal"));
    let newest = logs.max_by_key(|(path, _)| path.metadata().and_then(|m| m.modified()).ok());
    let Some((path, size)) = newest else {
        bail!("{} holds no log file", dir.display());
    };
    let mut file = File::options().append(true).open(&path)?;
    if random.below(2) == 0 {
        file.set_len(size + bytes)?;
    } else {
        // The beginning of the file is the beginning of a record: what arrived of one that was on its way looks like it.
        let mut part = Vec::new();
        File::open(&path)?
            .take(1 + random.below(TORN_HEAD))
            .read_to_end(&mut part)?;
        file.write_all(&part)?;
    }
    file.sync_all()?;
    Ok(path)
}

fn collect(dir: &Path, files: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && entry.file_name() != "lost+found" {
            collect(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push((entry.path(), entry.metadata()?.len()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_bit_flipped_twice_is_as_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, b"holdfast").unwrap();
        let flipped = flip_a_bit(dir.path(), &mut Stream::new(3, "test")).unwrap();
        assert_ne!(std::fs::read(&path).unwrap(), b"holdfast");
        flip(&flipped).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"holdfast");
    }

    #[test]
    fn a_tear_leaves_what_was_synced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r-0.wal");
        std::fs::write(&path, vec![7u8; 5000]).unwrap();
        tear_log(dir.path(), 100, &mut Stream::new(3, "test")).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.len() > 5000 && bytes.len() <= 5100);
        assert!(bytes[..5000].iter().all(|b| *b == 7));
    }
}
