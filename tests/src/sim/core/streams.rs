//! Streams between workers and coordinators: in order, delayed, held while the link is cut, and lost with what was on
//! its way when a connection breaks.

use super::worker::Said;
use super::world::{Event, Proc, World};
use holdfast_coordinator::leader::input::Input;
use holdfast_coordinator::leader::wire;
use holdfast_proto::control::coordinator_message::Body;
use holdfast_proto::control::{NotLeader, Register, WorkerMessage};

/// One stream of one worker to one coordinator.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) worker: usize,
    pub(super) node: usize,
    /// The services that it leads to, once it was taken.
    pub(super) run: Option<u64>,
    /// It broke: what is on its way is lost.
    broken: bool,
    worker_closed: bool,
    leader_closed: bool,
    /// When the last message arrives at either end: the next one comes later.
    down_us: u64,
    up_us: u64,
    /// What waits for the link to heal.
    stuck: Vec<Event>,
}

impl World {
    /// A worker asks a coordinator to take it.
    pub(super) fn open_stream(&mut self, worker: usize, node: usize, register: Register) -> u64 {
        let id = self.number();
        self.streams.insert(
            id,
            Stream {
                worker,
                node,
                run: None,
                broken: false,
                worker_closed: false,
                leader_closed: false,
                down_us: 0,
                up_us: 0,
                stuck: Vec::new(),
            },
        );
        let event = Event::Attach {
            stream: id,
            register: Box::new(register),
        };
        self.travel_up(id, event);
        id
    }

    fn travel_up(&mut self, stream: u64, event: Event) {
        let wait = self.latency();
        let now_us = self.now_us;
        let Some(s) = self.streams.get_mut(&stream) else {
            return;
        };
        s.up_us = (now_us + wait).max(s.up_us + 1);
        let (at_us, node) = (s.up_us, s.node);
        self.at(at_us, Some(Proc::Node(node)), event);
    }

    fn travel_down(&mut self, stream: u64, event: Event) {
        let wait = self.latency();
        let now_us = self.now_us;
        let Some(s) = self.streams.get_mut(&stream) else {
            return;
        };
        s.down_us = (now_us + wait).max(s.down_us + 1);
        let (at_us, worker) = (s.down_us, s.worker);
        self.at(at_us, Some(Proc::Worker(worker)), event);
    }

    /// The message, if it arrives now; `None` if it is lost, or waits for the link to heal.
    fn is_held_up(&mut self, stream: u64, event: Event) -> Option<Event> {
        let s = self.streams.get(&stream)?;
        let end = matches!(
            event,
            Event::Down { body: None, .. } | Event::Up { said: None, .. }
        );
        if s.broken && !end {
            return None;
        }
        let cut = self.is_cut(Proc::Worker(s.worker), Proc::Node(s.node));
        let s = self.streams.get_mut(&stream)?;
        if cut || !s.stuck.is_empty() {
            s.stuck.push(event);
            return None;
        }
        Some(event)
    }

    /// Links have healed: what was held goes on.
    pub(super) fn flush_streams(&mut self) {
        let ids: Vec<u64> = self.streams.keys().copied().collect();
        for id in ids {
            let Some(s) = self.streams.get(&id) else { continue };
            if s.stuck.is_empty() || self.is_cut(Proc::Worker(s.worker), Proc::Node(s.node)) {
                continue;
            }
            let stuck = self
                .streams
                .get_mut(&id)
                .map(|s| std::mem::take(&mut s.stuck))
                .unwrap_or_default();
            for event in stuck {
                if matches!(event, Event::Down { .. }) {
                    self.travel_down(id, event);
                } else {
                    self.travel_up(id, event);
                }
            }
        }
    }

    /// A registration has reached a coordinator.
    pub(super) fn attach(&mut self, stream: u64, register: Register) {
        let event = Event::Attach {
            stream,
            register: Box::new(register),
        };
        let Some(Event::Attach { register, .. }) = self.is_held_up(stream, event) else {
            return;
        };
        let Some(s) = self.streams.get(&stream) else {
            return;
        };
        let node = s.node;
        let Some(run) = self.nodes[node].run.as_ref().map(|r| r.id) else {
            let body = Some(Box::new(Body::NotLeader(NotLeader::default())));
            self.travel_down(stream, Event::Down { stream, body });
            return;
        };
        if let Some(s) = self.streams.get_mut(&stream) {
            s.run = Some(run);
        }
        match wire::hello(stream, *register) {
            Ok(hello) => self.step(node, run, Input::Attached(Box::new(hello))),
            Err(error) => self.violation("messages-are-understood", error.to_string()),
        }
    }

    /// The leader says something to a worker.
    pub(super) fn send_down(&mut self, node: usize, stream: u64, body: Body) {
        self.check_sent(node, &body);
        if self.streams.get(&stream).is_none_or(|s| s.leader_closed) {
            return;
        }
        self.count("commands");
        let body = Some(Box::new(body));
        self.travel_down(stream, Event::Down { stream, body });
    }

    /// The leader ends a stream, after what it has sent.
    pub(super) fn close_down(&mut self, stream: u64) {
        let Some(s) = self.streams.get_mut(&stream) else {
            return;
        };
        s.leader_closed = true;
        s.run = None;
        self.travel_down(stream, Event::Down { stream, body: None });
    }

    /// A worker says something to its leader.
    pub(super) fn send_up(&mut self, stream: u64, said: Said) {
        if self.streams.get(&stream).is_none_or(|s| s.worker_closed) {
            return;
        }
        self.count("reports");
        let said = Some(Box::new(said));
        self.travel_up(stream, Event::Up { stream, said });
    }

    pub(super) fn close_up(&mut self, stream: u64) {
        let Some(s) = self.streams.get_mut(&stream) else {
            return;
        };
        if !s.worker_closed {
            s.worker_closed = true;
            self.travel_up(stream, Event::Up { stream, said: None });
        }
    }

    /// A connection breaks: what is on its way is lost, and both ends notice in their own time.
    pub(super) fn break_stream(&mut self, stream: u64) {
        let Some(s) = self.streams.get_mut(&stream) else {
            return;
        };
        s.broken = true;
        s.stuck.clear();
        self.travel_up(stream, Event::Up { stream, said: None });
        self.travel_down(stream, Event::Down { stream, body: None });
    }

    /// A process is gone: the other ends of its streams notice.
    pub(super) fn break_streams_of(&mut self, p: Proc) {
        let ids: Vec<u64> = self
            .streams
            .iter()
            .filter(|(_, s)| p == Proc::Worker(s.worker) || p == Proc::Node(s.node))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            // What a dead process had sent still arrives; only what was sent to it is lost, with it.
            match p {
                Proc::Worker(_) => self.travel_up(
                    id,
                    Event::Up {
                        stream: id,
                        said: None,
                    },
                ),
                Proc::Node(_) => self.travel_down(
                    id,
                    Event::Down {
                        stream: id,
                        body: None,
                    },
                ),
            }
        }
    }

    pub(super) fn down(&mut self, stream: u64, body: Option<Box<Body>>) {
        let Some(Event::Down { body, .. }) = self.is_held_up(stream, Event::Down { stream, body }) else {
            return;
        };
        let Some(s) = self.streams.get(&stream) else {
            return;
        };
        if s.worker_closed {
            return;
        }
        let (worker, node) = (s.worker, s.node);
        match body {
            Some(body) => self.hear(worker, node, stream, *body),
            None => self.stream_ended(worker, node, stream),
        }
    }

    fn stream_ended(&mut self, worker: usize, node: usize, stream: u64) {
        self.workers[worker].forget_ask(node, stream);
        self.close_up(stream);
        if self.workers[worker].link.stream() == Some(stream) {
            self.detach(worker);
        }
    }

    pub(super) fn up(&mut self, stream: u64, said: Option<Box<Said>>) {
        let Some(Event::Up { said, .. }) = self.is_held_up(stream, Event::Up { stream, said }) else {
            return;
        };
        let Some((node, Some(run))) = self.streams.get(&stream).map(|s| (s.node, s.run)) else {
            if said.is_none() {
                self.streams.remove(&stream);
            }
            return;
        };
        let Some(said) = said else {
            if let Some(s) = self.streams.get_mut(&stream) {
                s.run = None;
                s.leader_closed = true;
            }
            self.travel_down(stream, Event::Down { stream, body: None });
            return self.step(node, run, Input::Closed { session: stream });
        };
        match wire::message(WorkerMessage { body: Some(*said) }) {
            Ok(message) => {
                let input = Input::Message {
                    session: stream,
                    message: Box::new(message),
                };
                self.step(node, run, input);
            }
            Err(error) => self.violation("messages-are-understood", error.to_string()),
        }
    }

    /// The streams of attached workers.
    pub(super) fn live_streams(&self) -> Vec<u64> {
        self.workers
            .iter()
            .filter_map(|w| match w.link {
                Link::Attached { stream, .. } => Some(stream),
                Link::Seeking => None,
            })
            .collect()
    }
}

/// The connection to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Seeking,
    Attached {
        stream: u64,
        heard_us: u64,
        sequence: u64,
    },
}

impl Link {
    pub(super) fn stream(self) -> Option<u64> {
        match self {
            Self::Seeking => None,
            Self::Attached { stream, .. } => Some(stream),
        }
    }
}
