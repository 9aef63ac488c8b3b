//! Workloads: what clients do while the nemesis is at work, recorded so that checkers can judge it.
//!
//! Requests are sent by client processes of their own, inside namespaces that faults can cut off; the harness itself only
//! tells them what to do and reads the sinks' directories.

pub mod client;
mod http;
mod jobs;
mod kv;
mod observe;
mod process;
mod reader;
mod register;
mod session;
mod sql;
mod storage;
mod stream;

use crate::check;
use crate::history::Checker;
use crate::world::World;
use anyhow::Result;

/// What a run does to the cluster besides breaking it.
#[tonic::async_trait]
pub trait Workload: Send {
    /// Its name.
    fn name(&self) -> &'static str;
    /// Who judges its history.
    fn checkers(&self) -> Vec<Box<dyn Checker>>;
    /// Starts clients; nothing is broken yet.
    ///
    /// # Errors
    /// If the harness cannot: the run has no verdict then.
    async fn setup(&mut self, world: &World) -> Result<()>;
    /// Goes on until [`World::stopping`].
    ///
    /// # Errors
    /// See [`Self::setup`].
    async fn run(&mut self, world: &World) -> Result<()>;
    /// After everything is healed: final reads, the jobs' ends, the clients' ends. Has its own deadline.
    ///
    /// # Errors
    /// See [`Self::setup`].
    async fn finish(&mut self, world: &World) -> Result<()>;
}

/// All workloads. `rescale` is missing: the product cannot change a running job's parallelism yet.
pub const NAMES: &[&str] = &[
    "register",
    "jobs",
    "eos",
    "bank",
    "catalogue",
    "attempts",
    "control",
];

/// A workload by its name.
#[must_use]
pub fn by_name(name: &str, seed: u64) -> Option<Box<dyn Workload>> {
    Some(match name {
        "register" => Box::new(register::RegisterWorkload::new(seed)),
        "jobs" => Box::new(jobs::JobsWorkload::new(seed)),
        "eos" => Box::new(stream::StreamWorkload::new(stream::Kind::Eos, seed)),
        "bank" => Box::new(stream::StreamWorkload::new(stream::Kind::Bank, seed)),
        "catalogue" => Box::new(stream::StreamWorkload::new(stream::Kind::Catalogue, seed)),
        "attempts" => Box::new(stream::StreamWorkload::new(stream::Kind::Attempts, seed)),
        "control" => Box::new(ControlWorkload),
        _ => return None,
    })
}

fn judges(names: &[&str]) -> Vec<Box<dyn Checker>> {
    names.iter().filter_map(|name| check::by_name(name)).collect()
}

/// Does nothing: it declares that the run has no faults, so that any failure counts.
struct ControlWorkload;

#[tonic::async_trait]
impl Workload for ControlWorkload {
    fn name(&self) -> &'static str {
        "control"
    }

    fn checkers(&self) -> Vec<Box<dyn Checker>> {
        judges(&["control", "undisturbed"])
    }

    async fn setup(&mut self, world: &World) -> Result<()> {
        world.note("nemesis", "nemesis", "control", std::collections::BTreeMap::new());
        Ok(())
    }

    async fn run(&mut self, _world: &World) -> Result<()> {
        Ok(())
    }

    async fn finish(&mut self, _world: &World) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_name_makes_a_workload_with_checkers() {
        for name in NAMES {
            let workload = by_name(name, 7).unwrap();
            assert_eq!(workload.name(), *name);
            assert!(!workload.checkers().is_empty(), "{name}");
        }
        assert!(by_name("x", 7).is_none());
    }
}
