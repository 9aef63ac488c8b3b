//! One process of the product: its command line, environment, log, end.

use super::{Setup, config};
use crate::check::words::note;
use crate::env::{Env, Place, Role, netns};
use crate::history::Event;
use crate::plan::{Fault, Swarm};
use crate::world::World;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longest that a killed process may take to go; one that waits for a frozen disk takes until the thaw.
const GONE: Duration = Duration::from_secs(25);
/// A process that a fault has ended may be gone only so long after the fault, on a machine with much to do.
const LATE: Duration = Duration::from_secs(2);
/// The exit code of a process that says why it ends: a full disk, a log that cannot be written.
const FAILED: i32 = 1;

/// How a process is started.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// Further environment, for this start only.
    pub extra: BTreeMap<String, String>,
    /// The other release's binary from now on (`Some(true)`), or this one's again.
    pub other_release: Option<bool>,
    /// Whether its end will be no surprise.
    pub expected: bool,
}

/// What is added to a coordinator's id when it comes back with an empty disk.
const NEXT_ID: u32 = 100;

/// A process of the product, running or not.
pub(crate) struct Node {
    place: Place,
    /// A coordinator's id: first its number, then another one after each renewal.
    id: u32,
    swarm: Swarm,
    binary: PathBuf,
    other_binary: Option<PathBuf>,
    use_other: bool,
    args: Vec<String>,
    environment: BTreeMap<String, String>,
    log: PathBuf,
    child: Option<Child>,
    stdin: Option<ChildStdin>,
    /// Whether its end is no surprise.
    expected: bool,
    /// Until when the end that a healed fault has caused may show.
    late_until: Option<Instant>,
    /// When the supervisor starts it again.
    pub(super) again_at: Option<Instant>,
    /// How much of the log was read.
    pub(super) read: u64,
}

impl Node {
    pub(super) fn new(env: &Env, place: &Place, setup: &Setup<'_>) -> Result<Self> {
        let mut environment = setup.plan.environment.clone();
        environment.insert("RUST_BACKTRACE".into(), "1".into());
        environment.insert(
            "HOLDFAST_INJECT_LOG".into(),
            setup
                .logs
                .join(format!("{}.inject", place.name))
                .display()
                .to_string(),
        );
        let (binary, args) = match place.role {
            Role::Objects => {
                let me = std::env::current_exe().context("cannot tell where this program lies")?;
                let log = setup.logs.join("objects.jsonl").display().to_string();
                let listen = place.main.to_string();
                let seed = setup.plan.seed.to_string();
                let args = ["objd", "--listen", &listen, "--log", &log, "--seed", &seed].map(str::to_owned);
                (me, args.to_vec())
            }
            _ => {
                let file = env.home().join(format!("{}.yaml", place.name));
                std::fs::write(
                    &file,
                    config::yaml(
                        env,
                        &setup.plan.swarm,
                        place,
                        &config::Ids::new(),
                        place.role != Role::Coordinator,
                    ),
                )?;
                let role = if place.role == Role::Coordinator {
                    "coordinator"
                } else {
                    "worker"
                };
                let args = vec![role.to_owned(), "--config".into(), file.display().to_string()];
                (setup.binary.to_owned(), args)
            }
        };
        // A clock can only be moved in a process that was started with the library.
        let clocks = setup
            .plan
            .steps
            .iter()
            .any(|step| matches!(step.fault, Fault::Clock { .. }));
        if let (true, Some(shim), true) = (clocks, setup.shim, place.role != Role::Objects) {
            let clock = clock_file(env, &place.name);
            std::fs::write(&clock, [0u8; 16])?;
            environment.insert("LD_PRELOAD".into(), shim.display().to_string());
            environment.insert("SHIM_CLOCK_FILE".into(), clock.display().to_string());
        }
        Ok(Self {
            place: place.clone(),
            id: place.number,
            swarm: setup.plan.swarm.clone(),
            binary,
            other_binary: setup.other_binary.map(Path::to_owned),
            use_other: false,
            args,
            environment,
            log: setup.logs.join(format!("{}.log", place.name)),
            child: None,
            stdin: None,
            expected: false,
            late_until: None,
            again_at: None,
            read: 0,
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Gives a coordinator that is down an empty disk and an id that nobody has had.
    pub(super) fn renew(&mut self, env: &Env, world: &World, mut ids: config::Ids) -> Result<u32> {
        ensure!(self.child.is_none(), "{} runs", self.place.name);
        let data = env.data_dir(&self.place.name);
        if data.exists() {
            std::fs::remove_dir_all(&data).with_context(|| data.display().to_string())?;
        }
        self.id += NEXT_ID;
        ids.insert(self.place.name.clone(), self.id);
        let file = env.home().join(format!("{}.yaml", self.place.name));
        std::fs::write(&file, config::yaml(env, &self.swarm, &self.place, &ids, false))
            .with_context(|| file.display().to_string())?;
        world.record(self.event(world, "renew").with("id", self.id));
        Ok(self.id)
    }

    /// From its next start on, a coordinator reaches the others through relays.
    pub(super) fn use_relays(&self, env: &Env) -> Result<()> {
        let file = env.home().join(format!("{}.yaml", self.place.name));
        let yaml = config::yaml(env, &self.swarm, &self.place, &config::Ids::new(), true);
        std::fs::write(&file, yaml).with_context(|| file.display().to_string())
    }

    pub(super) fn role(&self) -> Role {
        self.place.role
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    pub(super) fn name(&self) -> &str {
        &self.place.name
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub(super) fn runs(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    pub(super) fn start(&mut self, env: &Env, world: &World, start: Start) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.place.name);
        if let Some(other) = start.other_release {
            self.use_other = other;
        }
        let binary = self
            .other_binary
            .as_ref()
            .filter(|_| self.use_other)
            .unwrap_or(&self.binary);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| self.log.display().to_string())?;
        let piped = self.place.role == Role::Objects;
        let mut command = Command::new(binary);
        command
            .args(&self.args)
            .envs(&self.environment)
            .envs(&start.extra)
            .current_dir(env.home())
            .stdin(if piped { Stdio::piped() } else { Stdio::null() })
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut spawn = move || command.spawn();
        let spawned = match &self.place.namespace {
            Some(namespace) => netns::inside(namespace, spawn)?,
            None => spawn(),
        };
        let mut child = spawned.with_context(|| binary.display().to_string())?;
        if let Some(cgroup) = env.cgroup(&self.place.name)
            && let Err(error) = cgroup.adopt(child.id())
        {
            // It may have ended already; the watcher tells.
            eprintln!("jepsen: {}: {error:#}", self.place.name);
        }
        self.stdin = child.stdin.take();
        self.expected = start.expected;
        self.late_until = None;
        self.again_at = None;
        world.record(self.event(world, "start").with("pid", child.id()));
        self.child = Some(child);
        Ok(())
    }

    pub(super) fn event(&self, world: &World, f: &str) -> Event {
        note(world.now(), &format!("node:{}", self.place.name), "cluster", f)
    }

    pub(super) fn signal(&mut self, signal: Signal) -> Result<()> {
        let Some(child) = self.child.as_mut() else {
            bail!("{} does not run", self.place.name);
        };
        // A pid is only signalled while its process is known not to have been reaped.
        ensure!(
            matches!(child.try_wait(), Ok(None)),
            "{} does not run",
            self.place.name
        );
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        kill(pid, signal).with_context(|| format!("{signal} to {}", self.place.name))
    }

    pub(super) fn kill(&mut self, world: &World) -> Result<()> {
        self.expected = true;
        self.again_at = None;
        let Some(child) = self.child.as_mut() else {
            return Ok(());
        };
        // Rust's kill does nothing to a process that has ended; a stopped one dies all the same.
        child.kill().ok();
        let end = Instant::now() + GONE;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            ensure!(
                Instant::now() < end,
                "{} is not gone within {GONE:?}",
                self.place.name
            );
            std::thread::sleep(Duration::from_millis(1));
        };
        self.ended(world, status);
        Ok(())
    }

    pub(super) fn expect_exit(&mut self, expected: bool) {
        let was_expected = std::mem::replace(&mut self.expected, expected);
        if expected {
            self.again_at = None;
        } else if was_expected {
            self.late_until = Some(Instant::now() + LATE);
        }
    }

    /// Looks whether it has ended; answers whether that was unexpected.
    pub(super) fn look(&mut self, world: &World) -> bool {
        let Some(child) = self.child.as_mut() else {
            return false;
        };
        match child.try_wait() {
            Ok(Some(status)) => self.ended(world, status),
            _ => false,
        }
    }

    fn ended(&mut self, world: &World, status: ExitStatus) -> bool {
        self.child = None;
        self.stdin = None;
        // A point that was armed ends its process, as it should.
        let fired = fired(&self.environment);
        let late = self.late_until.is_some_and(|until| Instant::now() < until);
        let expected = self.expected || fired > 0 || (late && may_be_late(status));
        let mut event = self
            .event(world, "exit")
            .with("expected", expected)
            .with("fired", fired);
        if let Some(code) = status.code() {
            event = event.with("code", code);
        }
        if let Some(signal) = status.signal() {
            event = event.with("signal", signal);
        }
        world.record(event.because(status.to_string()));
        !self.expected
    }

    pub(super) fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self
            .stdin
            .as_mut()
            .with_context(|| format!("{} does not listen", self.place.name))?;
        writeln!(stdin, "{line}")?;
        Ok(stdin.flush()?)
    }

    /// Kills without record: the end of the run.
    pub(super) fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Whether a fault that ends processes may have ended one like this: it refused to go on, or the kernel took its memory.
/// A panic, an abort or a damaged address is never excused.
fn may_be_late(status: ExitStatus) -> bool {
    status.code() == Some(FAILED) || status.signal() == Some(Signal::SIGKILL as i32)
}

/// Crash points that have fired in this process so far, by its own log.
fn fired(environment: &BTreeMap<String, String>) -> u64 {
    let Some(path) = environment.get("HOLDFAST_INJECT_LOG") else {
        return 0;
    };
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|line| line.starts_with("fired ")).count() as u64
}

/// The file by which a process's clock is moved: offset in nanoseconds, drift in parts per million.
#[must_use]
pub fn clock_file(env: &Env, name: &str) -> PathBuf {
    env.home().join(format!("clock-{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_fault_does_is_excused_afterwards() {
        // As wait(2) tells it: the exit code in the second byte, or the signal in the first.
        let exited = |code: i32| ExitStatus::from_raw(code << 8);
        assert!(may_be_late(exited(FAILED)));
        assert!(may_be_late(ExitStatus::from_raw(Signal::SIGKILL as i32)));
        for other in [
            exited(0),
            exited(101),
            ExitStatus::from_raw(Signal::SIGABRT as i32),
        ] {
            assert!(!may_be_late(other), "{other}");
        }
    }
}
