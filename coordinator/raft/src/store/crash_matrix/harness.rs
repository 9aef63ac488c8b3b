//! Processes that run the script under `jepsen/shim`, and a disk that loses its power.

use super::script::Told;
use crate::api::LogStoreKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(super) const DIR: &str = "HOLDFAST_MATRIX_DIR";
pub(super) const TELL: &str = "HOLDFAST_MATRIX_TELL";
pub(super) const KIND: &str = "HOLDFAST_MATRIX_KIND";
/// The test that is the process.
const CHILD: &str = "store::crash_matrix::the_process_that_is_killed";
/// Longer than any run takes, so that only one that hangs meets it.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same for a store that is known to hang.
const SHORT_PATIENCE: Duration = Duration::from_secs(4);

/// sled 0.34 answers nobody any more after a write of its own has failed, and cannot be closed either. A coordinator on
/// it hangs then, instead of ending: known, and a reason against it.
pub(super) fn hangs_on_errors(kind: LogStoreKind) -> bool {
    kind == LogStoreKind::Sled
}

/// Builds the library once, beside this test's own files.
pub(super) fn shim() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
        let target = deps.parent().unwrap().join("shim");
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../jepsen/shim/Cargo.toml");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--offline", "--manifest-path"])
            .arg(manifest)
            .arg("--target-dir")
            .arg(&target)
            .status()
            .unwrap();
        assert!(built.success(), "jepsen/shim does not build");
        target.join("debug/libholdfast_shim.so")
    })
}

/// One run of the script.
pub(super) struct Run {
    pub(super) told: Told,
    /// What the shim said.
    pub(super) fired: String,
    pub(super) status: ExitStatus,
    pub(super) counts: String,
    /// It did not end by itself.
    pub(super) hung: bool,
}

/// Runs the script on the log in `dir`, with these settings of the shim.
pub(super) fn run(kind: LogStoreKind, dir: &Path, settings: &[(&str, String)]) -> Run {
    let notes = TempDir::new().unwrap();
    let note = |name: &str| notes.path().join(name);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(TELL, note("told"))
        .env(KIND, kind.to_string())
        .env("LD_PRELOAD", shim())
        .env("SHIM_DIR", dir)
        .env("SHIM_LOG", note("fired"))
        .env("SHIM_COUNT", note("counts"))
        .envs(settings.iter().map(|(name, value)| (*name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (status, hung) = wait(
        child,
        if hangs_on_errors(kind) {
            SHORT_PATIENCE
        } else {
            PATIENCE
        },
    );
    let text = |name: &str| std::fs::read_to_string(note(name)).unwrap_or_default();
    Run {
        told: Told::read(&note("told")),
        fired: text("fired"),
        status,
        counts: text("counts"),
        hung,
    }
}

fn wait(mut child: Child, patience: Duration) -> (ExitStatus, bool) {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return (status, false);
        }
        if started.elapsed() > patience {
            child.kill().unwrap();
            return (child.wait().unwrap(), true);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// How many operations of a kind the shim counted.
pub(super) fn counted(counts: &str, op: &str) -> u64 {
    let number = |word: &str| word.strip_prefix(op)?.strip_prefix('=')?.parse().ok();
    counts.split_whitespace().rev().find_map(number).unwrap_or(0)
}

/// An ext4 file system in a file, which can lose its power.
pub(super) struct Disk {
    /// Holds the image and the mount point.
    place: TempDir,
}

impl Disk {
    /// Err says what is missing: root, a loop device, mkfs.
    pub(super) fn new() -> Result<Self, String> {
        let disk = Self {
            place: TempDir::new().map_err(|error| error.to_string())?,
        };
        std::fs::create_dir(disk.path()).map_err(|error| error.to_string())?;
        let image = std::fs::File::create(disk.image()).map_err(|error| error.to_string())?;
        image.set_len(128 << 20).map_err(|error| error.to_string())?;
        command(
            "mkfs.ext4",
            &["-q".as_ref(), "-F".as_ref(), disk.image().as_os_str()],
        )?;
        disk.mount()?;
        Ok(disk)
    }

    fn image(&self) -> PathBuf {
        self.place.path().join("image")
    }

    pub(super) fn path(&self) -> PathBuf {
        self.place.path().join("disk")
    }

    fn mount(&self) -> Result<(), String> {
        let (image, path) = (self.image(), self.path());
        command(
            "mount",
            &[
                "-o".as_ref(),
                "loop".as_ref(),
                image.as_os_str(),
                path.as_os_str(),
            ],
        )
    }

    /// As a machine that gets its power back: what was synced is there.
    pub(super) fn power_on(&self) {
        command("umount", &[self.path().as_os_str()]).unwrap();
        self.mount().unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = command("umount", &[self.path().as_os_str()]);
    }
}

fn command(program: &str, args: &[&std::ffi::OsStr]) -> Result<(), String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}
