//! The simulated cluster: processes, the queue of what will happen, and whom it happens to.

use super::checks::Checks;
use super::clients::Client;
use super::coordinator::{Node, Run};
pub(super) use super::event::{Completion, Event, Proc, Queued, Task};
use super::log::Log;
use super::ops::{Desk, Directory, OpResult, Outside, Store};
use super::plan::Plan;
use super::rng::Rng;
use super::streams::Stream;
use super::tasks::TaskId;
use super::trace::Trace;
use super::worker::Worker;
use holdfast_common::Incarnation;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::task::{Context, Poll, Waker};

/// Where the clocks of all nodes begin, in milliseconds since the Unix epoch.
pub(super) const EPOCH_MS: u64 = 1_800_000_000_000;

/// A future and whose it is.
struct Flight {
    task: Task,
    owner: (Proc, u32),
}

/// See the module.
pub(super) struct World {
    pub(super) now_us: u64,
    pub(super) rng: Rng,
    pub(super) trace: Trace,
    pub(super) plan: Plan,
    pub(super) log: Log,
    pub(super) nodes: Vec<Node>,
    pub(super) workers: Vec<Worker>,
    pub(super) clients: Vec<Client>,
    pub(super) streams: BTreeMap<u64, Stream>,
    /// Pairs of processes that do not reach each other, the smaller first.
    pub(super) cuts: BTreeSet<(Proc, Proc)>,
    pub(super) outside: Outside,
    pub(super) store: Store,
    pub(super) directory: Directory,
    pub(super) checks: Checks,
    pub(super) counts: BTreeMap<&'static str, u64>,
    /// When the last item arrives on each connection between tasks: the next one comes later.
    pub(super) wires: BTreeMap<(TaskId, Incarnation), u64>,
    /// The furthest that any source of a job has come.
    pub(super) furthest: Vec<u64>,
    /// Rows per split of each job, once its input has an end.
    pub(super) limits: Vec<Option<u64>>,
    pub(super) cancelled: BTreeSet<usize>,
    pub(super) faults_on: bool,
    pub(super) next_number: u64,
    queue: BinaryHeap<Queued>,
    order: u64,
    flights: BTreeMap<u64, Flight>,
    /// Operations under way: of which future, and what.
    ops: BTreeMap<u64, (u64, super::ops::Op)>,
}

impl World {
    pub(super) fn new(plan: Plan, rng: Rng, trace: Trace) -> Self {
        let jobs = plan.jobs.len();
        let mut world = Self {
            now_us: 0,
            rng,
            trace,
            log: Log::default(),
            nodes: Vec::new(),
            workers: Vec::new(),
            clients: Vec::new(),
            streams: BTreeMap::new(),
            cuts: BTreeSet::new(),
            outside: Outside::default(),
            store: Store::default(),
            directory: Directory::default(),
            checks: Checks::new(&plan),
            counts: BTreeMap::new(),
            wires: BTreeMap::new(),
            furthest: vec![0; jobs],
            limits: vec![None; jobs],
            cancelled: BTreeSet::new(),
            faults_on: true,
            next_number: 0,
            queue: BinaryHeap::new(),
            order: 0,
            flights: BTreeMap::new(),
            ops: BTreeMap::new(),
            plan,
        };
        world.log.patience_us = 10_000;
        for i in 0..world.plan.nodes {
            let wall = world.rng.below(400);
            world.nodes.push(Node::new(wall));
            world.start(Proc::Node(i));
        }
        for i in 0..world.plan.workers {
            let slots = world.plan.slots;
            world.workers.push(Worker::new(i, slots));
            world.start(Proc::Worker(i));
        }
        for i in 0..world.plan.clients {
            world.clients.push(Client::new());
            world.after(
                100_000,
                None,
                Event::Client {
                    client: i,
                    request: 0,
                },
            );
        }
        for i in 0..jobs {
            let at = world.plan.jobs[i].submit_at_us;
            world.after(at, None, Event::Submit { job: i });
        }
        world.after(0, None, Event::Watch);
        world
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(super) fn note(&mut self, code: u64, a: u64, b: u64, text: impl FnOnce() -> String) {
        self.trace.note(self.now_us, [code, a, b], text);
    }

    pub(super) fn violation(&mut self, invariant: &'static str, detail: String) {
        self.note(99, 0, 0, || format!("VIOLATION {invariant}: {detail}"));
        let at_ms = self.now_us / 1000;
        self.checks.violated(invariant, detail, at_ms);
    }

    /// Something will happen after a time.
    pub(super) fn after(&mut self, us: u64, owner: Option<Proc>, event: Event) {
        self.at(self.now_us + us, owner, event);
    }

    pub(super) fn at(&mut self, at_us: u64, owner: Option<Proc>, event: Event) {
        let owner = owner.map(|p| (p, self.generation(p)));
        self.push(at_us, owner, event);
    }

    fn push(&mut self, at_us: u64, owner: Option<(Proc, u32)>, event: Event) {
        self.order += 1;
        self.queue.push(Queued {
            at_us,
            order: self.order,
            owner,
            event,
        });
    }

    pub(super) fn latency(&mut self) -> u64 {
        let range = self.plan.latency_us;
        self.rng.range(range)
    }

    pub(super) fn generation(&self, p: Proc) -> u32 {
        match p {
            Proc::Node(i) => self.nodes[i].generation,
            Proc::Worker(i) => self.workers[i].generation,
        }
    }

    pub(super) fn is_alive(&self, p: Proc) -> bool {
        match p {
            Proc::Node(i) => self.nodes[i].alive,
            Proc::Worker(i) => self.workers[i].alive,
        }
    }

    pub(super) fn is_frozen(&self, p: Proc) -> bool {
        match p {
            Proc::Node(i) => self.nodes[i].frozen,
            Proc::Worker(i) => self.workers[i].frozen,
        }
    }

    pub(super) fn is_cut(&self, a: Proc, b: Proc) -> bool {
        self.cuts.contains(&(a.min(b), a.max(b)))
    }

    /// Alive, running and reachable.
    pub(super) fn reaches(&self, a: Proc, b: Proc) -> bool {
        a == b || (self.is_alive(b) && !self.is_frozen(b) && !self.is_cut(a, b))
    }

    /// Runs until a time, or until `done`. True if `done`.
    pub(super) fn run_until(&mut self, until_us: u64, mut done: impl FnMut(&Self) -> bool) -> bool {
        while let Some(next) = self.queue.peek() {
            if self.checks.is_broken() {
                return false;
            }
            if next.at_us > until_us {
                break;
            }
            let Some(queued) = self.queue.pop() else { break };
            let is_look = matches!(queued.event, Event::Watch);
            self.now_us = queued.at_us;
            self.happen(queued);
            if is_look && done(self) {
                return true;
            }
        }
        self.now_us = self.now_us.max(until_us);
        done(self)
    }

    fn happen(&mut self, queued: Queued) {
        if let Some((owner, generation)) = queued.owner {
            if self.generation(owner) != generation || !self.is_alive(owner) {
                return;
            }
            if self.is_frozen(owner) {
                let held = match owner {
                    Proc::Node(i) => &mut self.nodes[i].held,
                    Proc::Worker(i) => &mut self.workers[i].held,
                };
                held.push(queued);
                return;
            }
        }
        self.count("events");
        self.dispatch(queued.event);
        self.poll_new();
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Watch => self.watch(),
            Event::Commit => self.commit(),
            Event::Apply { node, upto } => self.apply(node, upto),
            Event::Deposed { node, term } => self.deposed(node, term),
            Event::Claim { node, term } => self.claim(node, term),
            Event::Again {
                node,
                run,
                ticket,
                tries,
            } => self.propose_again(node, run, ticket, tries),
            Event::Input { node, run, input } => self.step(node, run, *input),
            Event::Tick { node, run, at_us } => self.tick(node, run, at_us),
            Event::Redial {
                node,
                run,
                incarnation,
                dials,
            } => self.redial(node, run, incarnation, dials),
            Event::Effect { op } => self.take_effect(op),
            Event::Told { op, result } => self.told(op, *result),
            Event::Attach { stream, register } => self.attach(stream, *register),
            Event::Down { stream, body } => self.down(stream, body),
            Event::Up { stream, said } => self.up(stream, said),
            Event::Seek { worker } => self.seek(worker),
            Event::Beat { worker, stream } => self.beat(worker, stream),
            Event::Emit { worker, task } => self.emit(worker, task),
            Event::Deliver {
                worker,
                from,
                task,
                split,
                item,
            } => self.deliver(worker, from, task, split, item),
            Event::Broken { worker, task } => {
                self.fail_task(worker, task, "connection reset by peer".to_owned());
            }
            Event::Gone { worker, job, attempt } => self.gone(worker, job, attempt),
            Event::Client { client, request } => self.client(client, request),
            Event::Ask {
                node,
                client,
                request,
            } => self.asked(node, client, request),
            Event::Submit { job } => self.submit(job),
            Event::Cancel { job } => self.cancel_job(job),
            Event::Fault => self.fault(),
            Event::Thaw(p) => self.thaw(p),
            Event::Start(p) => self.start(p),
            Event::Exit(worker) => self.kill(Proc::Worker(worker)),
            Event::Heal => self.heal_links(),
            Event::Storage => self.store.health = super::ops::StoreHealth::default(),
        }
    }

    /// Starts a future for a process.
    pub(super) fn spawn(&mut self, owner: Proc, task: Task) {
        let id = self.number();
        let owner = (owner, self.generation(owner));
        self.flights.insert(id, Flight { task, owner });
        self.poll(id);
    }

    /// Futures of a leader's services end with them; what they have begun outside goes on.
    pub(super) fn drop_flights(&mut self, owner: Proc) {
        self.flights.retain(|_, flight| flight.owner.0 != owner);
    }

    fn poll(&mut self, id: u64) {
        let Some(flight) = self.flights.get_mut(&id) else {
            return;
        };
        let mut context = Context::from_waker(Waker::noop());
        let polled = flight.task.as_mut().poll(&mut context);
        let asked = std::mem::take(&mut self.outside.0.lock().asked);
        for (op, what) in asked {
            self.ops.insert(op, (id, what));
            let wait = self.op_time(op);
            self.after(wait, None, Event::Effect { op });
        }
        if let Poll::Ready(completion) = polled {
            self.flights.remove(&id);
            self.finish(completion);
        }
    }

    /// An object is on its way to storage.
    pub(super) fn is_writing(&self) -> bool {
        self.ops
            .values()
            .any(|(_, op)| matches!(op, super::ops::Op::Put { .. }))
    }

    /// Nothing is asked for but while a future is polled.
    fn poll_new(&self) {
        debug_assert!(self.outside.0.lock().asked.is_empty());
    }

    fn op_time(&mut self, op: u64) -> u64 {
        match self.ops.get(&op) {
            Some((_, super::ops::Op::Pause { us })) => *us,
            _ if self.store.health.slow => self.rng.range((1_000, 400_000)),
            _ => self.rng.range((100, 4_000)),
        }
    }

    fn take_effect(&mut self, op: u64) {
        let Some((flight, what)) = self.ops.get(&op).cloned() else {
            return;
        };
        let result = self.carry_out_op(&what);
        let Some(owner) = self.flights.get(&flight).map(|f| f.owner) else {
            self.ops.remove(&op);
            return;
        };
        let wait = match what {
            super::ops::Op::Pause { .. } => 0,
            _ => self.op_time(op) / 2,
        };
        // It has happened; who asked may die before it hears of it.
        self.ops.insert(op, (flight, super::ops::Op::Pause { us: 0 }));
        let result = Box::new(result);
        self.push(self.now_us + wait, Some(owner), Event::Told { op, result });
    }

    fn told(&mut self, op: u64, result: OpResult) {
        let Some((flight, _)) = self.ops.remove(&op) else {
            return;
        };
        let known = self.flights.contains_key(&flight);
        if known {
            let desk: &mut Desk = &mut self.outside.0.lock();
            desk.done.insert(op, result);
        }
        self.poll(flight);
    }

    fn finish(&mut self, completion: Completion) {
        match completion {
            Completion::Leader(node, run, Some(input)) => self.step(node, run, input),
            Completion::Leader(_, _, None) => {}
            Completion::Worker(worker, done) => self.worker_done(worker, *done),
        }
    }

    /// What waits for a process that stood still happens now, in order.
    pub(super) fn release(&mut self, held: Vec<Queued>) {
        for queued in held {
            self.happen(queued);
        }
    }

    pub(super) fn run_mut(&mut self, node: usize, run: u64) -> Option<&mut Run> {
        self.nodes[node].run.as_mut().filter(|r| r.id == run)
    }
}
