//! Clients: they write to the key-value space within a session, submit jobs and cancel them. Each repeats its request
//! until it is answered, wherever it has to; answers get lost.

use super::log::Waiter;
use super::world::{Event, Proc, World};
use holdfast_common::JobId;
use holdfast_machine::command::{Command, Proposal, Response, SessionSeq};

/// Time after which a request is made again.
const RETRY_US: (u64, u64) = (150_000, 600_000);
/// Keys that are written to.
const KEYS: u64 = 4;

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Errand {
    Writes,
    Submits(usize),
    Cancels(usize),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    errand: Errand,
    request: u64,
    session: Option<u64>,
    command: Option<Command>,
    known: u64,
}

impl Client {
    pub(super) fn new() -> Self {
        Self::on(Errand::Writes)
    }

    fn on(errand: Errand) -> Self {
        Self {
            errand,
            request: 0,
            session: None,
            command: None,
            known: 0,
        }
    }
}

impl World {
    pub(super) fn submit(&mut self, job: usize) {
        self.clients.push(Client::on(Errand::Submits(job)));
        let client = self.clients.len() - 1;
        self.client(client, 0);
        if let Some(at_us) = self.plan.jobs[job].cancel_at_us {
            self.at(at_us.max(self.now_us), None, Event::Cancel { job });
        }
    }

    pub(super) fn cancel_job(&mut self, job: usize) {
        self.cancelled.insert(job);
        self.clients.push(Client::on(Errand::Cancels(job)));
        let client = self.clients.len() - 1;
        self.client(client, 0);
    }

    /// A client makes its request, for the first time or again.
    pub(super) fn client(&mut self, client: usize, request: u64) {
        if self.clients[client].request != request {
            return;
        }
        let wait = self.rng.range(RETRY_US);
        self.after(wait, None, Event::Client { client, request });
        let guess = self.rng.index(self.nodes.len());
        let node = match self.log.leader {
            Some(leader) if self.rng.chance(800) => leader,
            _ => guess,
        };
        if self.faults_on && self.plan.unknown > 0 && self.rng.chance(50) {
            return;
        }
        let wait = self.latency();
        self.after(
            wait,
            Some(Proc::Node(node)),
            Event::Ask {
                node,
                client,
                request,
            },
        );
    }

    /// A request has reached a coordinator.
    pub(super) fn asked(&mut self, node: usize, client: usize, request: u64) {
        if self.clients[client].request != request || self.nodes[node].leads.is_none() {
            return;
        }
        let Some(command) = self.command_of(client) else {
            return;
        };
        let session = self.clients[client].session.map(|session| SessionSeq {
            session,
            seq: request,
            acked_up_to: request - 1,
        });
        let proposal = Proposal {
            proposed_ms: self.wall_ms(node),
            session,
            command,
        };
        self.propose(node, proposal, Waiter::Client { client, request });
    }

    fn command_of(&mut self, client: usize) -> Option<Command> {
        match self.clients[client].errand {
            Errand::Submits(job) => Some(self.submission(job)),
            Errand::Cancels(job) => {
                let key = self.plan.jobs[job].key.clone();
                let id = self.checks.reference.submissions.get(&key)?;
                Some(Command::CancelJob { job: *id })
            }
            Errand::Writes if self.clients[client].session.is_none() => Some(Command::OpenSession {
                client: format!("client {client}"),
            }),
            Errand::Writes => {
                if self.clients[client].command.is_none() {
                    let write = self.write(client);
                    self.clients[client].command = Some(write);
                }
                self.clients[client].command.clone()
            }
        }
    }

    /// Every try draws a new identity, as the REST interface does; the key makes them one.
    fn submission(&mut self, job: usize) -> Command {
        let plan = self.plan.jobs[job].clone();
        Command::SubmitJob {
            job: JobId(self.rng.wide()),
            name: plan.key.clone(),
            sql: plan.key.clone(),
            settings: plan.settings,
            fingerprint: format!("plan of {}", plan.key),
            parallelism: plan.sources,
            max_parallelism: 128,
            idempotency_key: Some(plan.key),
        }
    }

    fn write(&mut self, client: usize) -> Command {
        let key = format!("key-{}", self.rng.below(KEYS));
        if self.rng.chance(150) {
            return Command::KvDelete { key };
        }
        let known = self.clients[client].known;
        let if_revision = match self.rng.below(4) {
            0 => Some(known),
            1 => Some(0),
            _ => None,
        };
        Command::KvPut {
            key,
            value: self.rng.next().to_le_bytes().to_vec().into(),
            if_revision,
        }
    }

    /// The log has answered a client's request; the answer may get lost on its way.
    pub(super) fn client_told(&mut self, client: usize, request: u64, index: u64, response: Response) {
        let lost = self.faults_on && self.plan.unknown > 0 && self.rng.chance(150);
        if lost || self.clients[client].request != request {
            return;
        }
        self.count("answers");
        let c = &mut self.clients[client];
        match (c.errand, response) {
            (Errand::Writes, Response::Session(session)) => c.session = Some(session),
            (Errand::Writes, Response::Kv(entry)) => c.known = entry.revision,
            (Errand::Submits(job), Response::Submitted { job: id, .. }) => {
                c.request += 1;
                return self.check_submitted(job, id);
            }
            (Errand::Cancels(_), _) => {
                c.request += 1;
                return;
            }
            (Errand::Submits(_), other) => {
                return self.violation("submissions-are-taken", format!("entry {index}: {other:?}"));
            }
            _ => {}
        }
        let c = &mut self.clients[client];
        c.request += 1;
        c.command = None;
        let request = c.request;
        let wait = self.rng.range((20_000, 300_000));
        self.after(wait, None, Event::Client { client, request });
    }
}
