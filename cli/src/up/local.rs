//! A local cluster inside this process, for commands that need one of their own: as `up` makes it, but its processes'
//! settings can be changed before they start.

use super::claim::{Claim, Held};
use super::health;
use super::layout;
use super::occupied;
use super::ports::PortLocks;
use super::supervisor::Running;
use crate::args::UpArgs;
use crate::exit::Failure;
use anyhow::Context;
use holdfast_common::config::{Configuration, options};
use holdfast_coordinator::api::view::cluster::ClusterInfo;
use std::path::PathBuf;

pub use super::layout::ChildSpec;

/// A cluster that is laid out and holds its ports, but does not run yet.
pub struct Prepared {
    /// Its directory, absolute.
    pub dir: PathBuf,
    /// Its processes; their settings may be changed.
    pub specs: Vec<ChildSpec>,
    log_max: u64,
    claim: Claim,
    locks: PortLocks,
}

/// A running cluster. Dropped without [`Self::stop`], its processes go on.
pub struct Local {
    running: Running,
    _claim: Claim,
    _locks: PortLocks,
}

/// Lays a cluster out in `args.dir`, with `base` for all of its processes.
///
/// # Errors
/// If the directory is in use, or ports or settings are refused.
pub fn prepare(args: &UpArgs, base: &Configuration) -> Result<Prepared, Failure> {
    std::fs::create_dir_all(&args.dir).with_context(|| format!("cannot make {}", args.dir.display()))?;
    let dir =
        std::fs::canonicalize(&args.dir).with_context(|| format!("cannot use {}", args.dir.display()))?;
    let claim = Claim::take(&dir).map_err(|held: Held| occupied(&dir, held))?;
    let mut locks = PortLocks::default();
    let layout = layout::settle(&dir, args, &mut locks)?;
    let specs = layout::children(&dir, &layout, base)?;
    let log_max = base
        .get(&options::LOG_MAX)
        .map_err(|e| Failure::usage(e.to_string()))?;
    Ok(Prepared {
        dir,
        specs,
        log_max: log_max.0,
        claim,
        locks,
    })
}

impl Prepared {
    /// Starts every process and waits until all are well. Processes that die are started again.
    ///
    /// # Errors
    /// If the cluster does not become healthy; it is stopped then.
    pub async fn start(self) -> Result<(Local, ClusterInfo), Failure> {
        layout::write(&self.dir, &self.specs)?;
        let running = Running::start(&self.dir, self.specs, true, self.log_max).await?;
        match health::wait(&self.dir, &mut running.given_up()).await {
            Ok(info) => Ok((
                Local {
                    running,
                    _claim: self.claim,
                    _locks: self.locks,
                },
                info,
            )),
            Err(failure) => {
                running.stop().await;
                Err(failure)
            }
        }
    }
}

impl Local {
    /// Stops every process, and waits.
    pub async fn stop(self) {
        self.running.stop().await;
    }
}
