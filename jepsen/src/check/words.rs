//! The words of a history: which events workloads, faults and nodes write, and what stands in their values.
//!
//! - workload: process: f: value
//! - `register`: `kv-N` (no session), `kvs-N` (session, retries): `read`: `key`, `node`; answer: `value` (null:
//!   absent), `revision`, `applied`
//! - `write`: `key`, `value`, `node`; answer: `revision`, `index`
//! - `cas`: as `write`, and `expected` (value), `expected_revision`
//! - `repeat`: `session`, `seq`, `first`; answer: `revision` (of the repeated request's answer)
//! - `final`: a stale read after healing: `key`, `node`, `value`, `revision`, `applied`
//! - `jobs`: `jobs-N`: `submit`: `key`, `name`; answer: `job`, `existing`
//! - `cancel`: `job`
//! - `list`: `node`; answer: `jobs`: {id: {`name`, `state`}}
//! - `get`: `job`; answer: `state`, `attempt`, `attempt_id`, `restarts`
//! - `catalogue`: `catalogue-N`: `cluster`: `node`; answer: `leader`, `term`, `epoch`, `epoch_by`, `version` (local, not
//!   linearizable)
//! - `checkpoints`: `job`, `node`; answer: `completed`, `failed`, `in_progress`, `latest`, `restored`, `done` (see
//!   [`crate::check::catalogue`])
//! - `job`: `job`, `node`; answer: `state`, `attempt`, `attempt_id`, `restored`
//! - `exceptions`: after a restart: `job`, `node`; answer: `texts`
//! - `fetch`: `job`, `id`, `attempt`, `path`; answer: `outcome` (`ok`, `missing`, `damaged`, `unavailable`), `epoch`,
//!   `objects`, `what`
//! - `eos`, `bank`: `reader`: `expect`: `job`, `sink`, `oracle`, `rows`, ... : what the directory must hold in the end
//! - `visible`: `job`, `sink`, `file`, `runs` or `lines`
//! - `gone`, `changed`, `torn`: `job`, `sink`, `file`
//! - `ended`: `job`, `state`: seen by a linearizable read; the last scan came after it
//! - `nemesis`: `nemesis`: the fault's name: `outcome` (`installed`, `skipped`, `indeterminate`), `targets`; `phase` =
//!   `heal` when it ends
//! - `cluster`: `node:c1`: `start`, `exit`, `role`, `renew`, `log`: `exit`: `expected`; `role`: `role`, `term`; `renew`
//!   (an empty disk and another id): `id`; `log`: `line`

use crate::history::{Event, Kind, Nanos};
use serde_json::Value;
use std::collections::BTreeMap;

/// Builds an event.
#[must_use]
pub fn event(t: Nanos, process: &str, kind: Kind, workload: &str, f: &str, op: u64) -> Event {
    Event {
        t,
        process: process.to_owned(),
        kind,
        workload: workload.to_owned(),
        f: f.to_owned(),
        op,
        value: BTreeMap::new(),
        error: None,
    }
}

/// Builds a note.
#[must_use]
pub fn note(t: Nanos, process: &str, workload: &str, f: &str) -> Event {
    event(t, process, Kind::Note, workload, f, 0)
}

impl Event {
    /// With a value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.value.insert(name.to_owned(), value.into());
        self
    }

    /// With a reason.
    #[must_use]
    pub fn because(mut self, error: impl Into<String>) -> Self {
        self.error = Some(error.into());
        self
    }

    /// A value that is text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.value.get(name).and_then(Value::as_str)
    }

    /// A value that is a number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.value.get(name).and_then(Value::as_u64)
    }
}
