//! The binary under test: with crash points, seeded bugs and S3, which no release has, hence never in a release's place.

use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Environment variable that names the binary.
pub const BINARY: &str = "HOLDFAST_BIN";
/// Environment variable that names the library with faults of disk and clock.
pub const SHIM: &str = "HOLDFAST_SHIM";
const FEATURES: &str = "inject,s3";

/// Finds the binary, or builds it beside this program: `<target>/jepsen/holdfast`.
///
/// # Errors
/// If there is none and it cannot be built.
pub fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(BINARY) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "{BINARY}: there is no {}", path.display());
        return Ok(path.canonicalize()?);
    }
    let (target, profile) = target_dir()?;
    let kept = target.join("jepsen").join("holdfast");
    eprintln!("building holdfast with --features {FEATURES} (name one with {BINARY} to skip this)");
    build(&target, &profile, &kept)?;
    Ok(kept)
}

/// The build leaves its result where the plain binary lies; that one is put back, so that nobody takes one for the other.
fn build(target: &Path, profile: &str, kept: &Path) -> Result<()> {
    let built = target.join(profile).join("holdfast");
    let aside = target.join(profile).join("holdfast.plain");
    let had = built.exists();
    if had {
        std::fs::rename(&built, &aside)?;
    }
    let done = cargo(target, profile, &["-p", "holdfast", "--features", FEATURES]).and_then(|()| {
        std::fs::create_dir_all(kept.parent().context("no directory")?)?;
        std::fs::copy(&built, kept).context("the binary that was built")?;
        Ok(std::fs::remove_file(&built)?)
    });
    if had {
        std::fs::rename(&aside, &built)?;
    }
    done
}

fn cargo(target: &Path, profile: &str, args: &[&str]) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "--locked", "--target-dir"])
        .arg(target)
        .args(args);
    if profile == "release" {
        command.arg("--release");
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("no workspace")?;
    let status = command
        .current_dir(workspace)
        .stdin(Stdio::null())
        .status()
        .context("cargo")?;
    ensure!(status.success(), "cargo build {}: {status}", args.join(" "));
    Ok(())
}

/// The library: named, or beside this program, or built.
#[must_use]
pub fn find_shim() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(SHIM) {
        return Some(PathBuf::from(path)).filter(|path| path.is_file());
    }
    let (target, profile) = target_dir().ok()?;
    let library = target.join(&profile).join("libholdfast_shim.so");
    if std::env::var_os(BINARY).is_none() {
        cargo(&target, &profile, &["-p", "holdfast-shim"]).ok()?;
    }
    library.is_file().then_some(library)
}

/// The target directory and the profile of this very program.
fn target_dir() -> Result<(PathBuf, String)> {
    let me = std::env::current_exe().context("cannot tell where this program lies")?;
    let mut dir = me.parent().context("no directory")?;
    if dir.ends_with("deps") {
        dir = dir.parent().context("no directory")?;
    }
    let profile = dir
        .file_name()
        .context("no profile")?
        .to_string_lossy()
        .into_owned();
    Ok((dir.parent().context("no target directory")?.to_owned(), profile))
}

/// Whether a binary can reach an object server: without the feature it refuses such a URL before anything else.
///
/// # Errors
/// If it cannot be started.
pub fn has_s3(binary: &Path) -> Result<bool> {
    let settings = [
        "high-availability.raft.id=1",
        "high-availability.raft.peers=1@127.0.0.1:1",
        "execution.checkpointing.dir=s3://try/try",
        // An address that no machine has: with S3 it ends here.
        "rest.address=203.0.113.1",
    ];
    let mut command = Command::new(binary);
    command
        .arg("coordinator")
        .args(settings.iter().flat_map(|s| ["-D", s]));
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("log");
    let file = std::fs::File::create(&log)?;
    command
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    let mut child = command.spawn().with_context(|| binary.display().to_string())?;
    let end = Instant::now() + Duration::from_secs(10);
    while child.try_wait()?.is_none() {
        if Instant::now() > end {
            child.kill().ok();
            child.wait().ok();
            bail!(
                "{}: a coordinator that cannot start did not end",
                binary.display()
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let said = std::fs::read_to_string(&log)?;
    Ok(!said.contains("built without s3"))
}

/// For reports: path, size, time of change.
#[must_use]
pub fn describe(binary: &Path) -> String {
    let Ok(meta) = std::fs::metadata(binary) else {
        return binary.display().to_string();
    };
    let changed = meta
        .modified()
        .ok()
        .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    let name = binary.file_name().unwrap_or_default().to_string_lossy();
    format!(
        "{name}, {} bytes, built {}",
        meta.len(),
        changed.map_or(0, |t| t.as_secs())
    )
}
