//! Whole attempts under a seeded scheduler: tasks are stepped in random order by one thread, checkpoints are triggered,
//! aborted and completed at random, everything is killed at random and restored with another parallelism. The committed
//! output must equal the definition of the query, exactly.
#![allow(clippy::unwrap_used)]

use super::api::{Deployment, EngineEvent, RestoreState, SlotPlace, VertexRestore};
use super::build::{Site, build};
use super::capture::CapturedState;
use super::cell::Mail;
use super::events::EventQueue;
use super::task::{Progress, Task};
use crate::testing::{Dice, Input, ManualClock, World, graph};
use holdfast_common::config::Configuration;
use holdfast_common::{AttemptId, CheckpointId, Incarnation, JobId, VertexId};
use holdfast_dataflow::connector::{Committable, PrepareJob};
use holdfast_proto::control::TaskStatus;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio_util::sync::CancellationToken;

/// A checkpoint in flight.
#[derive(Default)]
struct Flight {
    /// Written when the checkpoint completes, long after the tasks went on.
    states: BTreeMap<(VertexId, u32), CapturedState>,
    committables: Vec<Committable>,
    /// Subtasks whose prepare job has not run.
    unprepared: BTreeSet<u32>,
}

/// The leader, the agent and one worker's tasks, all in one thread.
struct Sim {
    world: Arc<World>,
    clock: Arc<ManualClock>,
    dice: Dice,
    events: EventQueue,
    tasks: Vec<Task>,
    parallelism: u32,
    windows: (i64, i64),
    attempt: u64,
    next_checkpoint: u64,
    flight: Option<(CheckpointId, Flight)>,
    jobs: Vec<(CheckpointId, u32, PrepareJob)>,
    completed: Option<RestoreState>,
    finished: BTreeSet<(VertexId, u32)>,
    /// The leader's words that have not reached the second vertex's worker yet, in order.
    on_the_way: VecDeque<Mail>,
    crashes: u32,
    aborts: u32,
}

impl Sim {
    fn new(seed: u64, input: Input, windows: (i64, i64), parallelism: u32) -> Self {
        let mut sim = Self {
            world: World::new(input, 7),
            clock: Arc::new(ManualClock::default()),
            dice: Dice(seed),
            events: EventQueue::default(),
            tasks: Vec::new(),
            parallelism,
            windows,
            attempt: 0,
            next_checkpoint: 1,
            flight: None,
            jobs: Vec::new(),
            completed: None,
            finished: BTreeSet::new(),
            on_the_way: VecDeque::new(),
            crashes: 0,
            aborts: 0,
        };
        sim.deploy();
        sim
    }

    fn deploy(&mut self) {
        self.attempt += 1;
        self.events = EventQueue::default();
        let me = Incarnation(1);
        let (slide, size) = self.windows;
        let settings = Configuration::from_pairs([("pipeline.auto-watermark-interval", "3 ms")]).unwrap();
        let deployment = Deployment {
            job: JobId(1),
            attempt: AttemptId(self.attempt),
            graph: Arc::new(graph(self.parallelism, slide, size, self.world.input.disorder_ms)),
            settings,
            slots: vec![
                SlotPlace {
                    incarnation: me,
                    data_addr: String::new()
                };
                self.parallelism as usize
            ],
            my_slots: (0..self.parallelism).collect(),
            restore: self.completed.clone(),
        };
        let site = Site {
            incarnation: me,
            registry: self.world.registry(),
            clock: self.clock.clone(),
            events: self.events.clone(),
            tmp_dir: std::path::PathBuf::new(),
            wakers: BTreeMap::new(),
            stop: CancellationToken::new(),
        };
        let built = build(&deployment, &site).unwrap();
        self.tasks = built.tasks.into_iter().map(|(_, task)| task).collect();
        self.send_all(|| Mail::Start);
    }

    /// As if each vertex lay on a worker of its own: the sources get the leader's word at once, the others later but
    /// in order.
    fn send_all(&mut self, mail: impl Fn() -> Mail) {
        self.send_vertex(0, &mail);
        self.on_the_way.push_back(mail());
        if self.dice.roll(2) == 0 {
            self.deliver(usize::MAX);
        }
    }

    fn send_vertex(&self, vertex: u32, mail: impl Fn() -> Mail) {
        let there = self
            .tasks
            .iter()
            .filter(|t| t.cell().id.vertex == VertexId(vertex));
        there.for_each(|t| t.cell().send(mail()));
    }

    fn deliver(&mut self, most: usize) {
        for _ in 0..most.min(self.on_the_way.len()) {
            match self.on_the_way.pop_front().unwrap() {
                Mail::Start => self.send_vertex(1, || Mail::Start),
                Mail::Trigger(c) => self.send_vertex(1, || Mail::Trigger(c)),
                Mail::Abort(c) => self.send_vertex(1, || Mail::Abort(c)),
                Mail::Settled(c) => self.send_vertex(1, || Mail::Settled(c)),
                other => panic!("{other:?} is no word of the leader"),
            }
        }
    }

    fn crash(&mut self) {
        self.crashes += 1;
        self.tasks.clear();
        self.flight = None;
        self.jobs.clear();
        self.finished.clear();
        self.on_the_way.clear();
        self.parallelism = 1 + self.dice.roll(3) as u32;
        self.deploy();
    }

    fn trigger(&mut self) {
        let checkpoint = CheckpointId(self.next_checkpoint);
        self.next_checkpoint += 1 + self.dice.roll(3);
        self.flight = Some((checkpoint, Flight::default()));
        self.send_all(|| Mail::Trigger(checkpoint));
    }

    fn abort(&mut self) {
        if let Some((checkpoint, _)) = self.flight.take() {
            self.aborts += 1;
            self.send_all(|| Mail::Abort(checkpoint));
        }
    }

    fn step_task(&mut self) {
        let which = self.dice.roll(self.tasks.len() as u64) as usize;
        let turns = 1 + self.dice.roll(4) as usize;
        self.clock.0.fetch_add(self.dice.roll(2), Ordering::Relaxed);
        let progress = self.tasks[which].step(turns);
        assert_ne!(progress, Progress::Failed, "{:?}", self.events.pop());
        while let Some(event) = self.events.pop() {
            self.on_event(event);
        }
    }

    fn on_event(&mut self, event: EngineEvent) {
        match event {
            EngineEvent::TaskStatus {
                vertex,
                subtask,
                status: TaskStatus::Finished,
                ..
            } => {
                self.finished.insert((vertex, subtask));
            }
            EngineEvent::TaskStatus { .. } => {}
            EngineEvent::Declined { checkpoint, .. } => {
                if self.flight.as_ref().is_some_and(|(c, _)| *c == checkpoint) {
                    self.abort();
                }
            }
            EngineEvent::Snapshot {
                checkpoint,
                vertex,
                subtask,
                state,
                prepares,
                pending,
                ..
            } => {
                let mut unprepared = false;
                for (uid, job) in prepares {
                    assert_eq!(uid, "out");
                    self.jobs.push((checkpoint, subtask, job));
                    unprepared = true;
                }
                let Some((current, flight)) = &mut self.flight else {
                    return;
                };
                if *current != checkpoint {
                    return;
                }
                assert!(flight.states.insert((vertex, subtask), state).is_none());
                flight
                    .committables
                    .extend(pending.into_iter().flat_map(|(_, c)| c));
                if unprepared {
                    flight.unprepared.insert(subtask);
                }
                self.complete();
            }
        }
    }

    fn prepare_one(&mut self) {
        if self.jobs.is_empty() {
            return;
        }
        let (checkpoint, subtask, job) = self.jobs.remove(0);
        let committables = job().unwrap();
        let task = self
            .tasks
            .iter()
            .find(|t| t.cell().id.vertex == VertexId(1) && t.cell().id.subtask == subtask);
        task.unwrap().cell().send(Mail::Prepared {
            checkpoint,
            sink_uid: "out".to_owned(),
            committables: committables.clone(),
        });
        if let Some((current, flight)) = &mut self.flight
            && *current == checkpoint
        {
            flight.unprepared.remove(&subtask);
            flight.committables.extend(committables);
            self.complete();
        }
    }

    fn complete(&mut self) {
        let done = |(_, f): &mut (CheckpointId, Flight)| {
            f.states.len() == self.tasks.len() && f.unprepared.is_empty()
        };
        let Some((checkpoint, flight)) = self.flight.take_if(done) else {
            return;
        };
        self.world.commit(&flight.committables);
        let mut vertices: BTreeMap<VertexId, VertexRestore> = BTreeMap::new();
        for ((vertex, subtask), state) in flight.states {
            let entry = vertices.entry(vertex).or_default();
            entry.old_parallelism = self.parallelism;
            entry.parts.push((subtask, state.write()));
        }
        self.completed = Some(RestoreState { checkpoint, vertices });
        self.send_all(|| Mail::Settled(checkpoint));
    }

    /// Until every task has finished and a checkpoint after that is complete.
    fn run(&mut self, faults: bool) {
        let mut last_words: Option<u64> = None;
        for step in 0..3_000_000u64 {
            let all_finished = self.finished.len() == self.tasks.len();
            if all_finished && self.flight.is_none() {
                match last_words {
                    Some(from) if self.completed.as_ref().is_some_and(|c| c.checkpoint.0 >= from) => return,
                    Some(_) => {}
                    None => last_words = Some(self.next_checkpoint),
                }
                self.trigger();
            }
            match self.dice.roll(1000) {
                0..20 if self.flight.is_none() => self.trigger(),
                20..24 if faults => self.abort(),
                24..26 if faults && self.crashes < 6 && step > 200 => {
                    self.crash();
                    last_words = None;
                }
                26..200 => self.prepare_one(),
                200..220 => self.deliver(1),
                _ => self.step_task(),
            }
        }
        panic!("no end in sight: {:?}", self.finished);
    }
}

fn input(splits: u64, rows: u64) -> Input {
    Input {
        splits,
        rows,
        keys: 5,
        disorder_ms: 20,
    }
}

#[test]
fn an_undisturbed_run_is_exact() {
    let mut sim = Sim::new(1, input(3, 300), (50, 50), 2);
    sim.run(false);
    assert_eq!(sim.world.result(), input(3, 300).expected(50, 50));
    let late: u64 = sim
        .tasks
        .iter()
        .map(|t| t.cell().report().late_records_dropped)
        .sum();
    assert_eq!(late, 0);
    let read: u64 = sim
        .tasks
        .iter()
        .filter(|t| t.cell().id.vertex.0 == 0)
        .map(|t| t.cell().report().records_out)
        .sum();
    assert_eq!(read, 900);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn faults_change_nothing(
        seed: u64, splits in 1u64..5, rows in 50u64..300, slide in 10i64..60, times in 1i64..4, parallelism in 1u32..4,
    ) {
        let input = input(splits, rows);
        let mut sim = Sim::new(seed, input, (slide, slide * times), parallelism);
        sim.run(true);
        prop_assert_eq!(sim.world.result(), input.expected(slide, slide * times));
    }
}

#[test]
fn state_of_another_query_is_refused() {
    let mut sim = Sim::new(3, input(2, 100), (50, 50), 2);
    sim.run(false);
    let mut restore = sim.completed.clone().unwrap();
    for part in &mut restore.vertices.get_mut(&VertexId(1)).unwrap().parts {
        part.1
            .operators
            .iter_mut()
            .filter(|o| o.uid == "win")
            .for_each(|o| o.uid = "other".to_owned());
    }
    let vertex = &graph(2, 50, 50, 0).vertices[1];
    let error = super::restore::VertexState::find(&restore, vertex)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("'win'") || error.contains("'other'"), "{error}");
    restore.vertices.get_mut(&VertexId(1)).unwrap().parts.pop();
    let error = super::restore::VertexState::find(&restore, vertex)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("parts"), "{error}");
    restore.vertices.clear();
    assert!(super::restore::VertexState::find(&restore, vertex).is_err());
}
