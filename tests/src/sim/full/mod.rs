//! Whole clusters of the real processes in one thread: coordinators with consensus, leader's services and gRPC, workers
//! with engine and exchange, clients of the key-value service, over turmoil's network and virtual time, simulated log
//! disks and snapshot storage in memory. Everything that happens follows from the seed.
//!
//! A seed lives through faults (safety), then everything is repaired, and then all promises have to be kept within a
//! bounded time (liveness). It repeats itself exactly only in a fresh process, so [`run_seed`] starts one.

pub mod checks;
pub mod clients;
pub mod cluster;
pub mod determinism;
pub mod faults;
pub mod history;
pub mod jobs;
mod net;
pub mod output;
pub mod process;
pub mod trace;

pub use process::{child_main, run_seed, try_run_seed};

use super::{Options, Outcome};
use checks::Observer;
use cluster::{Cluster, Shape};
use determinism::{Dice, EPOCH_MS};
use holdfast_machine::state::JobStatus;
use holdfast_raft::testing;
use jobs::Submission;
use output::Reader;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// Messages take up to this, unless a fault slows them.
pub(crate) const LATENCY_MAX: Duration = Duration::from_millis(3);
const LATENCY_MIN: Duration = Duration::from_micros(100);
/// Faults begin after this: the cluster has been formed.
const CALM_MS: u64 = 1_500;
/// Faults end after this, unless the caller says otherwise.
const FAULTS_MS: u64 = 9_000;
/// After the end of all faults, every promise has to be kept within this.
const LIVENESS_MS: u64 = 25_000;
/// Between two looks at the output.
const LOOK_MS: u64 = 150;
/// A healthy cluster answers so many questions of clients before the seed is over.
const ANSWERS_AFTER_HEAL: usize = 10;

/// A seed's life.
struct Life {
    cluster: Cluster,
    observer: Observer,
    submission: Submission,
    reader: Reader,
    shared: clients::Shared,
    looked_ms: u64,
}

/// Lives a seed in this process, which must have done nothing else; `dir` is empty.
///
/// # Errors
/// If the simulation itself does not work: that is no verdict on the product.
pub fn live(seed: u64, options: &Options, dir: &Path) -> Result<Outcome, String> {
    holdfast_runtime::install(Arc::new(net::Network));
    trace::begin(options.trace);
    let faults_ms = match options.virtual_seconds {
        0 => FAULTS_MS,
        seconds => seconds * 1000,
    };
    let mut life = Life::new(seed, dir, faults_ms)?;
    watch_panics();
    while life.now_ms() < faults_ms {
        life.step()?;
    }
    life.cluster.heal();
    life.stay_alive()?;
    let outcome = life.outcome(seed);
    // The process ends: nobody needs the hosts to say goodbye to each other.
    std::mem::forget(life);
    Ok(outcome)
}

thread_local! {
    static PANICS: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Panics in the product's tasks are caught by the runtime; nobody else would see them.
fn watch_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.with_borrow_mut(|panics| panics.push(info.to_string()));
        usual(info);
    }));
}

impl Life {
    fn new(seed: u64, dir: &Path, faults_ms: u64) -> Result<Self, String> {
        let mut dice = Dice::new(seed, "simulation");
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(dice.roll())
            .epoch(UNIX_EPOCH + Duration::from_millis(EPOCH_MS))
            .simulation_duration(Duration::from_secs(24 * 3600))
            .tick_duration(Duration::from_millis(dice.between(2, 5)))
            .min_message_latency(LATENCY_MIN)
            .max_message_latency(LATENCY_MAX)
            .tcp_capacity(65_536)
            .enable_random_order();
        let shape = Shape::draw(seed);
        let shared = clients::Shared::default();
        let mut cluster = Cluster::new(builder.build(), seed, &shape, dir, &shared)
            .map_err(|error| format!("the cluster's settings: {error}"))?;
        let (coordinators, workers) = cluster.names();
        let plan = faults::plan(seed, coordinators, workers, CALM_MS, faults_ms);
        cluster.set_plan(plan);
        let submission = Submission::new(seed, &dir.join("out"), faults_ms / 1000)?;
        trace::event(&format!("seed {seed}: {shape:?}"));
        Ok(Self {
            cluster,
            observer: Observer::default(),
            submission,
            reader: Reader::default(),
            shared,
            looked_ms: 0,
        })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.cluster.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn step(&mut self) -> Result<(), String> {
        let now_ms = self.now_ms();
        let ids = self.cluster.ids();
        self.cluster.act(now_ms);
        for id in self.cluster.take_restarted() {
            self.observer.restarted(id);
        }
        self.submission.act(now_ms, &ids, &mut self.observer);
        self.cluster.step()?;
        determinism::set_elapsed(self.cluster.elapsed());
        let cluster = &self.cluster;
        self.observer.look(&ids, |id| cluster.may_fail(id));
        if now_ms >= self.looked_ms + LOOK_MS {
            self.looked_ms = now_ms;
            self.observer.add(self.reader.look(&self.submission.numbers));
        }
        for panic in PANICS.with_borrow_mut(std::mem::take) {
            self.observer.violate("no-panic", panic);
        }
        Ok(())
    }

    /// After the heal: goes on until every promise is kept, or the time for it is over.
    fn stay_alive(&mut self) -> Result<(), String> {
        let healed_ms = self.now_ms();
        let answered = self.shared.history.borrow().answered();
        let mut missing = String::new();
        while self.now_ms() < healed_ms + LIVENESS_MS {
            self.step()?;
            missing = self.missing(answered + ANSWERS_AFTER_HEAL);
            if missing.is_empty() {
                break;
            }
        }
        trace::count("virtual ms to health", self.now_ms() - healed_ms);
        if !missing.is_empty() {
            let text = format!("{LIVENESS_MS} ms after the last fault: {missing}");
            self.observer.violate("liveness", text);
        } else {
            self.observer.add(self.reader.look(&self.submission.numbers));
            self.observer.add(Reader::check_whole(&self.submission.numbers));
        }
        self.shared.stop.set(true);
        self.observer.add(self.shared.history.borrow().check());
        self.check_nothing_lost();
        Ok(())
    }

    /// What a healthy cluster would have by now, and this one has not.
    fn missing(&self, answers: usize) -> String {
        let metrics: Vec<_> = self
            .cluster
            .ids()
            .into_iter()
            .filter_map(|id| testing::node(id)?.metrics())
            .collect();
        if metrics.len() < self.cluster.ids().len() {
            return "a coordinator does not run".to_owned();
        }
        if !metrics
            .iter()
            .any(|m| m.leadership.is_leader && m.leadership.quorum_ok)
        {
            return "no coordinator leads with a quorum".to_owned();
        }
        match self.submission.status(&self.observer) {
            Some(JobStatus::Finished) => {}
            status => return format!("the job is not finished but {status:?}"),
        }
        let answered = self.shared.history.borrow().answered();
        if answered < answers {
            return format!("clients have {answered} answers, not {answers}");
        }
        let newest = metrics.iter().map(|m| m.applied).max().unwrap_or(0);
        match metrics.iter().find(|m| m.applied + 50 < newest) {
            Some(behind) => format!("coordinator {} is at {} of {newest}", behind.id, behind.applied),
            None => String::new(),
        }
    }

    /// What clients were told is written is there, or something newer is.
    fn check_nothing_lost(&mut self) {
        let Some(state) = self.observer.newest().cloned() else {
            return;
        };
        for (key, revision) in self.shared.history.borrow().newest() {
            let there = state.kv.get(&key).map_or(0, |entry| entry.revision);
            if there < revision {
                let text = format!("{key}: revision {revision} was acknowledged, the state has {there}");
                self.observer.violate("acknowledged-is-kept", text);
            }
        }
    }

    fn outcome(&self, seed: u64) -> Outcome {
        trace::event(&format!("over after {} ms", self.now_ms()));
        let (hash, tail, mut counts) = trace::result();
        let history = self.shared.history.borrow();
        counts.insert("client operations", history.len() as u64);
        counts.insert("client answers", history.answered() as u64);
        counts.insert("terms led", self.observer.terms_led() as u64);
        counts.insert("virtual ms", self.now_ms());
        let applied = self.observer.newest().map_or(0, |state| state.applied);
        counts.insert("log entries", applied);
        Outcome {
            seed,
            hash,
            violations: self.observer.violations().to_vec(),
            counts,
            tail,
        }
    }
}
