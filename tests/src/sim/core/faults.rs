//! Faults, drawn from the plan's menu, and their end. A process that was killed comes back; one that stood still goes on
//! with what it knew, and meets a world that did not wait.

use super::ops::StoreHealth;
use super::plan::Fault;
use super::worker::Said;
use super::world::{Event, Proc, World};
use holdfast_common::Incarnation;
use holdfast_proto::control::Leaving;

impl World {
    /// The next fault.
    pub(super) fn fault(&mut self) {
        if !self.faults_on || self.plan.menu.is_empty() {
            return;
        }
        let gap = self.plan.fault_gap_us;
        let wait = self.rng.range(gap);
        self.after(wait, None, Event::Fault);
        let kind = self.plan.menu[self.rng.index(self.plan.menu.len())];
        self.count("faults");
        self.note(20, kind as u64, 0, || format!("fault: {kind:?}"));
        self.inflict(kind);
    }

    fn any_node(&mut self) -> usize {
        self.rng.index(self.nodes.len())
    }

    fn any_worker(&mut self) -> usize {
        self.rng.index(self.workers.len())
    }

    fn inflict(&mut self, kind: Fault) {
        match kind {
            Fault::KillNode => {
                let p = Proc::Node(self.any_node());
                self.kill_for(p, (50_000, 1_500_000));
            }
            Fault::KillWorker => {
                let p = Proc::Worker(self.any_worker());
                let gone = if self.rng.chance(500) {
                    (20_000, 200_000)
                } else {
                    (500_000, 3_500_000)
                };
                self.kill_for(p, gone);
            }
            Fault::KillAll => self.kill_all(),
            Fault::FreezeNode => {
                let p = Proc::Node(self.any_node());
                self.freeze_for(p, (50_000, 3_000_000));
            }
            Fault::FreezeWorker => {
                let p = Proc::Worker(self.any_worker());
                self.freeze_for(p, (50_000, 5_000_000));
            }
            Fault::StopWorker => {
                let worker = self.any_worker();
                let leaving = Said::Leaving(Leaving {
                    reason: "told to stop".to_owned(),
                });
                self.tell(worker, leaving);
                let wait = self.rng.below(500_000);
                self.after(wait, Some(Proc::Worker(worker)), Event::Exit(worker));
                let wait = self.rng.range((600_000, 2_000_000));
                self.after(wait, None, Event::Start(Proc::Worker(worker)));
            }
            Fault::SplitNodes | Fault::CutWorker => self.cut(kind),
            Fault::NewLeader => {
                let winner = self.any_node();
                if self.has_quorum(winner) {
                    self.elect(winner);
                }
            }
            Fault::ClockJump => {
                let node = self.any_node();
                self.nodes[node].wall_ms = self.rng.below(30_000);
            }
            Fault::BreakStream => {
                let streams = self.live_streams();
                if let Some(stream) = streams.get(self.rng.index(streams.len())) {
                    self.break_stream(*stream);
                }
            }
            Fault::StorageDown | Fault::StorageFlaky | Fault::StorageSlow => self.trouble_storage(kind),
            Fault::Damage => self.damage(),
        }
    }

    fn trouble_storage(&mut self, kind: Fault) {
        let health = &mut self.store.health;
        match kind {
            Fault::StorageDown => health.down = true,
            Fault::StorageFlaky => health.flaky = (self.rng.range((20, 400)), self.rng.range((20, 300))),
            _ => health.slow = true,
        }
        let wait = self.rng.range((100_000, 1_500_000));
        self.after(wait, None, Event::Storage);
    }

    fn cut(&mut self, kind: Fault) {
        let side: Vec<bool> = (0..self.nodes.len()).map(|_| self.rng.chance(500)).collect();
        if kind == Fault::SplitNodes {
            for a in 0..side.len() {
                for b in a + 1..side.len() {
                    if side[a] != side[b] {
                        self.cuts.insert((Proc::Node(a), Proc::Node(b)));
                    }
                }
            }
        } else {
            let worker = self.any_worker();
            for (node, cut) in side.iter().enumerate() {
                if *cut {
                    self.cuts.insert((Proc::Node(node), Proc::Worker(worker)));
                }
            }
        }
        let wait = self.rng.range((50_000, 3_500_000));
        self.after(wait, None, Event::Heal);
    }

    /// All links work again.
    pub(super) fn heal_links(&mut self) {
        self.cuts.clear();
        self.flush_streams();
        self.spread_commit();
    }

    /// One object of a job's newest checkpoint is not what it was.
    fn damage(&mut self) {
        let jobs: Vec<_> = self.checks.reference.jobs.values().collect();
        let Some(job) = jobs.get(self.rng.index(jobs.len())) else {
            return;
        };
        let Some(newest) = job.latest_restorable() else {
            return;
        };
        let prefix = newest.manifest_path.trim_end_matches("manifest").to_owned();
        let paths: Vec<String> = self
            .store
            .objects
            .range(prefix.clone()..)
            .map(|(path, _)| path.clone())
            .take_while(|path| path.starts_with(&prefix))
            .collect();
        let Some(path) = paths.get(self.rng.index(paths.len())).cloned() else {
            return;
        };
        if self.rng.chance(300) {
            self.store.objects.remove(&path);
        } else if let Some(body) = self.store.objects.get_mut(&path) {
            let mut bytes = body.to_vec();
            let at = self.rng.index(bytes.len());
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << self.rng.below(8);
            }
            *body = bytes.into();
        }
        self.note(21, 0, 0, || format!("{path} is damaged"));
        self.checks.hurt.insert(path);
    }

    fn kill_all(&mut self) {
        let back = self.rng.range((100_000, 1_500_000));
        let nodes = (0..self.nodes.len()).map(Proc::Node);
        let all: Vec<Proc> = nodes.chain((0..self.workers.len()).map(Proc::Worker)).collect();
        for p in all {
            self.kill(p);
            let wait = back + self.rng.below(200_000);
            self.after(wait, None, Event::Start(p));
        }
    }

    fn kill_for(&mut self, p: Proc, range: (u64, u64)) {
        self.kill(p);
        let wait = self.rng.range(range);
        self.after(wait, None, Event::Start(p));
    }

    fn freeze_for(&mut self, p: Proc, range: (u64, u64)) {
        if !self.is_alive(p) {
            return;
        }
        self.note(22, 0, 0, || format!("{p:?} stands still"));
        match p {
            Proc::Node(i) => self.nodes[i].frozen = true,
            Proc::Worker(i) => self.workers[i].frozen = true,
        }
        let wait = self.rng.range(range);
        self.after(wait, None, Event::Thaw(p));
    }

    pub(super) fn kill(&mut self, p: Proc) {
        if !self.is_alive(p) {
            return;
        }
        self.note(23, 0, 0, || format!("{p:?} is killed"));
        self.drop_flights(p);
        self.break_streams_of(p);
        match p {
            Proc::Node(i) => {
                let node = &mut self.nodes[i];
                node.generation += 1;
                node.alive = false;
                node.frozen = false;
                node.held.clear();
                node.run = None;
                node.leads = None;
            }
            Proc::Worker(i) => {
                let worker = &mut self.workers[i];
                worker.generation += 1;
                worker.alive = false;
                worker.frozen = false;
                worker.held.clear();
                let engine = std::mem::take(&mut worker.engine);
                for (key, local) in engine {
                    self.break_peers(i, key, &local.slots);
                }
            }
        }
    }

    pub(super) fn start(&mut self, p: Proc) {
        if self.is_alive(p) {
            return;
        }
        self.note(24, 0, 0, || format!("{p:?} starts"));
        let number = u128::from(self.number());
        match p {
            Proc::Node(i) => {
                let state = self.recovered_state(i);
                self.nodes[i].reset(state, Incarnation(number << 16 | i as u128));
                self.spread_commit();
            }
            Proc::Worker(i) => {
                self.workers[i].reset(Incarnation(number << 16 | i as u128));
                self.after(1_000, Some(p), Event::Seek { worker: i });
            }
        }
    }

    pub(super) fn thaw(&mut self, p: Proc) {
        if !self.is_alive(p) || !self.is_frozen(p) {
            return;
        }
        self.note(25, 0, 0, || format!("{p:?} goes on"));
        let held = match p {
            Proc::Node(i) => {
                self.nodes[i].frozen = false;
                std::mem::take(&mut self.nodes[i].held)
            }
            Proc::Worker(i) => {
                self.workers[i].frozen = false;
                std::mem::take(&mut self.workers[i].held)
            }
        };
        self.release(held);
        self.spread_commit();
    }

    /// Everything works again, for good.
    pub(super) fn heal(&mut self) {
        self.faults_on = false;
        self.store.health = StoreHealth::default();
        self.note(26, 0, 0, || "everything heals".to_owned());
        let nodes = (0..self.nodes.len()).map(Proc::Node);
        let all: Vec<Proc> = nodes.chain((0..self.workers.len()).map(Proc::Worker)).collect();
        for p in all {
            self.thaw(p);
            self.start(p);
        }
        self.heal_links();
    }
}
