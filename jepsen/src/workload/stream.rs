//! The streaming workloads: one bounded job after the other while faults go on, each with sinks whose directories are
//! read all the time (`eos`, `bank`, `attempts`), or one endless job whose checkpoints are watched (`catalogue`).

use super::client::{Command, values};
use super::process::ClientProcess;
use super::reader::{Reader, SinkSpec};
use super::sql::{self, Shape};
use super::{Workload, judges};
use crate::check::words::note;
use crate::history::Checker;
use crate::world::World;
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks at the sinks.
const LOOK: Duration = Duration::from_millis(15);
/// Rows per second of real time: windows of 1000 rows close several times a second, and two cores are enough for a debug
/// build.
const RATE: u64 = 4000;
/// For the last job's end after healing, beyond its own length.
const PATIENCE: Duration = Duration::from_secs(60);
/// For the observer's own end.
const FAREWELL: Duration = Duration::from_secs(10);

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Eos,
    Bank,
    Catalogue,
    Attempts,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::Bank => "bank",
            Self::Catalogue => "catalogue",
            Self::Attempts => "attempts",
        }
    }

    /// Under which name the history has what the reader sees.
    fn history(self) -> &'static str {
        if self == Self::Attempts {
            "eos"
        } else {
            self.name()
        }
    }

    fn sinks(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Eos | Self::Attempts => &[("filtered", "filtered"), ("windows", "windows")],
            Self::Bank => &[("balances", "balances"), ("totals", "totals")],
            Self::Catalogue => &[],
        }
    }
}

/// The workload.
pub(super) struct StreamWorkload {
    kind: Kind,
    seed: u64,
    observer: Option<ClientProcess>,
    jobs: u64,
    current: Option<Current>,
}

/// The job that runs.
struct Current {
    job: String,
    rows: u64,
    readers: Vec<Reader>,
}

impl StreamWorkload {
    pub(super) fn new(kind: Kind, seed: u64) -> Self {
        Self {
            kind,
            seed,
            observer: None,
            jobs: 0,
            current: None,
        }
    }

    /// Between 6 and 12 s of rows, never a whole number of windows.
    fn rows(&self) -> u64 {
        if self.kind == Kind::Catalogue {
            return 1_000_000_000;
        }
        RATE * (6 + (self.seed / 7 + self.jobs) % 7) + 37
    }

    fn out(&self, world: &World) -> PathBuf {
        world
            .shared_dir()
            .join(format!("{}-{}", self.kind.name(), self.jobs))
    }

    /// Submits the next job and waits until it is accepted, or the phase ends before.
    async fn submit(&mut self, world: &World, deadline: Option<Instant>) -> Result<bool> {
        self.jobs += 1;
        let (rows, out) = (self.rows(), self.out(world));
        let shape = Shape {
            name: format!("{}-{}", self.kind.name(), self.jobs),
            rows,
            rate: RATE,
            parallelism: if world.slots() >= 4 { 2 } else { 1 },
            checkpoint_ms: world.checkpoint_ms(),
        };
        let sql = match self.kind {
            Kind::Eos | Kind::Attempts => sql::eos(&shape, &out),
            Kind::Bank => sql::bank(&shape, &out),
            Kind::Catalogue => sql::idle(&shape),
        };
        let tag = shape.name;
        let bounded = self.kind != Kind::Catalogue;
        let observer = self.observer.as_mut().context("no observer")?;
        observer
            .tell(&Command::Submit {
                tag: tag.clone(),
                sql,
                bounded,
            })
            .await?;
        loop {
            if let Some(reply) = observer.reply(LOOK).await
                && reply.tag == tag
            {
                let spec = |(sink, oracle): &(&'static str, &'static str)| SinkSpec {
                    workload: self.kind.history(),
                    job: reply.job.clone(),
                    sink: (*sink).to_owned(),
                    oracle,
                    rows,
                    dir: out.join(sink),
                };
                let readers: Vec<Reader> = self.kind.sinks().iter().map(spec).map(Reader::new).collect();
                for reader in &readers {
                    world.record(reader.expect(world.now()));
                }
                self.current = Some(Current {
                    job: reply.job,
                    rows,
                    readers,
                });
                return Ok(true);
            }
            let over = deadline.map_or_else(|| world.stopping(), |at| Instant::now() >= at);
            if over {
                return Ok(false);
            }
        }
    }

    /// Reads on until the job ends or `over` says so; `true` if it has ended.
    async fn follow(&mut self, world: &World, over: impl Fn() -> bool) -> Result<bool> {
        loop {
            let observer = self.observer.as_mut().context("no observer")?;
            let reply = observer.reply(LOOK).await;
            let Some(current) = &mut self.current else {
                return Ok(true);
            };
            look(world, &mut current.readers).await?;
            let ended = reply
                .filter(|r| r.job == current.job)
                .and_then(|r| Some((r.state?, r.reason)));
            if let Some((state, reason)) = ended {
                // The look that decides begins after the end was known.
                look(world, &mut current.readers).await?;
                let mut event = note(world.now(), "reader", self.kind.history(), "ended")
                    .with("job", current.job.as_str())
                    .with("state", state);
                event.error = reason;
                world.record(event);
                self.current = None;
                return Ok(true);
            }
            if over() {
                return Ok(false);
            }
        }
    }
}

/// Looks at every sink, away from the threads that carry everything else.
async fn look(world: &World, readers: &mut Vec<Reader>) -> Result<()> {
    let (mut mine, world) = (std::mem::take(readers), world.clone());
    *readers = tokio::task::spawn_blocking(move || {
        for reader in &mut mine {
            reader.look(&world);
        }
        mine
    })
    .await?;
    Ok(())
}

#[tonic::async_trait]
impl Workload for StreamWorkload {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn checkers(&self) -> Vec<Box<dyn Checker>> {
        match self.kind {
            Kind::Eos => judges(&["eos", "commits", "catalogue", "attempts", "undisturbed"]),
            Kind::Bank => judges(&["bank", "commits", "catalogue"]),
            Kind::Catalogue => judges(&["catalogue", "attempts", "undisturbed"]),
            Kind::Attempts => judges(&["attempts", "commits", "undisturbed", "eos"]),
        }
    }

    async fn setup(&mut self, world: &World) -> Result<()> {
        let settings = world.storage_settings();
        let endpoint = settings.get("s3.endpoint").cloned().unwrap_or_default();
        let params = values([
            ("snapshots", Value::from(world.snapshot_url())),
            ("endpoint", Value::from(endpoint)),
        ]);
        // Observers share the clients' namespaces with others.
        let index = 3 + self.kind as u32;
        self.observer = Some(ClientProcess::start(world, "observe", index, params)?);
        let deadline = Instant::now() + PATIENCE;
        self.submit(world, Some(deadline)).await?;
        Ok(())
    }

    async fn run(&mut self, world: &World) -> Result<()> {
        while !world.stopping() {
            if self.current.is_some() {
                self.follow(world, || world.stopping()).await?;
            } else {
                self.submit(world, None).await?;
            }
        }
        Ok(())
    }

    async fn finish(&mut self, world: &World) -> Result<()> {
        if let Some(current) = &self.current {
            let length = if self.kind == Kind::Catalogue {
                // Long enough for a few checkpoints more; then it is cancelled.
                let job = current.job.clone();
                let wait = Duration::from_millis(world.checkpoint_ms() * 3) + Duration::from_secs(3);
                tokio::time::sleep(wait).await;
                let observer = self.observer.as_mut().context("no observer")?;
                observer.tell(&Command::Cancel { job }).await?;
                Duration::ZERO
            } else {
                Duration::from_secs(current.rows / RATE)
            };
            let deadline = Instant::now() + length + PATIENCE;
            self.follow(world, || Instant::now() >= deadline).await?;
        }
        if let Some(mut observer) = self.observer.take() {
            observer.tell(&Command::Final).await?;
            observer.end(FAREWELL).await?;
        }
        Ok(())
    }
}
