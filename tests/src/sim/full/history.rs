//! What clients of the key-value service asked and were told, and whether one order explains it. The log gives that
//! order away: a write's revision is its index, a read names the revision that it saw. So no search is needed; what is
//! checked is that the order of the log never contradicts what clients saw happen one after the other.
//!
//! Knows neither network nor processes.

use super::super::Violation;
use std::collections::BTreeMap;

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Write, whatever is there.
    Put,
    /// Write if the revision is this; 0: if nothing is there.
    Cas(u64),
    /// Read.
    Read,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Nothing yet, or nothing that says whether it happened.
    Unknown,
    /// It certainly did not happen.
    NotDone,
    /// The write has this revision.
    Written(u64),
    /// The compare did not hold: this is the revision, 0 if nothing is there.
    Differs(u64),
    /// The read saw this revision and value; 0 and nothing if nothing is there.
    Saw(u64, Vec<u8>),
}

/// One operation. Times are counted in events of the simulation, which are in one order.
#[derive(Debug, Clone)]
pub struct Operation {
    /// Who.
    pub client: usize,
    /// On what.
    pub key: String,
    /// What.
    pub asked: Asked,
    /// Of writes; unique among all.
    pub value: Vec<u8>,
    /// When it was sent.
    pub invoked: u64,
    /// When the answer came.
    pub completed: Option<u64>,
    /// The answer.
    pub told: Told,
}

/// All operations.
#[derive(Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
    clock: u64,
}

impl History {
    /// An operation begins; answers its number.
    pub fn invoke(&mut self, client: usize, key: &str, asked: Asked, value: Vec<u8>) -> usize {
        self.clock += 1;
        self.operations.push(Operation {
            client,
            key: key.to_owned(),
            asked,
            value,
            invoked: self.clock,
            completed: None,
            told: Told::Unknown,
        });
        self.operations.len() - 1
    }

    /// An operation is answered.
    pub fn complete(&mut self, number: usize, told: Told) {
        self.clock += 1;
        if let Some(operation) = self.operations.get_mut(number) {
            operation.completed = Some(self.clock);
            operation.told = told;
        }
    }

    /// Operations so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Operations that had an answer.
    #[must_use]
    pub fn answered(&self) -> usize {
        let answered = self.operations.iter().filter(|o| o.told != Told::Unknown);
        answered.count()
    }

    /// The newest revision of each key that a client was told of, and its value where that is known.
    #[must_use]
    pub fn newest(&self) -> BTreeMap<String, u64> {
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        for operation in &self.operations {
            if let Told::Written(revision) = operation.told {
                let known = newest.entry(operation.key.clone()).or_default();
                *known = revision.max(*known);
            }
        }
        newest
    }

    /// Everything that no order explains.
    #[must_use]
    pub fn check(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
        for operation in &self.operations {
            keys.entry(&operation.key).or_default().push(operation);
        }
        for (key, operations) in keys {
            check_key(key, &operations, &mut found);
        }
        check_real_time(&self.operations, true, "all keys", &mut found);
        found
    }
}

fn violation(what: &str, detail: String) -> Violation {
    Violation {
        invariant: format!("kv-linearizable: {what}"),
        detail,
        at_ms: super::trace::now_ms(),
    }
}

/// The revision that an operation saw or made.
fn revision(operation: &Operation) -> Option<u64> {
    match operation.told {
        Told::Written(revision) | Told::Differs(revision) | Told::Saw(revision, _) => Some(revision),
        Told::Unknown | Told::NotDone => None,
    }
}

fn check_key(key: &str, operations: &[&Operation], found: &mut Vec<Violation>) {
    // Revision to writer: those that were told, and those that a read has shown to have happened.
    let mut writers: BTreeMap<u64, &Operation> = BTreeMap::new();
    for operation in operations {
        if let Told::Written(revision) = operation.told
            && let Some(other) = writers.insert(revision, operation)
        {
            let text = format!("{key}: revision {revision} was given to {other:?} and to {operation:?}");
            found.push(violation("one write per revision", text));
        }
    }
    for read in operations {
        let Told::Saw(revision, value) = &read.told else {
            continue;
        };
        if *revision == 0 {
            continue;
        }
        let writer = operations
            .iter()
            .copied()
            .find(|o| o.asked != Asked::Read && o.value == *value);
        let fits = writer.is_some_and(|w| {
            let told = match w.told {
                Told::Written(told) => told == *revision,
                Told::Unknown => true,
                _ => false,
            };
            told && read.completed.is_some_and(|at| w.invoked < at)
        });
        match writer.filter(|_| fits) {
            Some(writer) => {
                if writers
                    .insert(*revision, writer)
                    .is_some_and(|w| w.value != *value)
                {
                    let text = format!("{key}: {read:?} saw another value than was written at its revision");
                    found.push(violation("reads see what was written", text));
                }
            }
            None => {
                let text = format!("{key}: {read:?} saw what {writer:?} wrote");
                found.push(violation("reads see what was written", text));
            }
        }
    }
    for (revision, writer) in &writers {
        if let Asked::Cas(expected) = writer.asked
            && let Some((between, other)) = writers.range(expected + 1..*revision).next()
        {
            let text = format!("{key}: {writer:?} overwrote revision {between}, which is {other:?}");
            found.push(violation("compare and set", text));
        }
    }
    let owned: Vec<Operation> = operations.iter().map(|o| (*o).clone()).collect();
    check_real_time(&owned, false, key, found);
}

/// What was answered before something else was asked is not newer than it. Over all keys this holds for writes alone: a
/// read's revision says nothing about other keys.
fn check_real_time(operations: &[Operation], writes_only: bool, what: &str, found: &mut Vec<Violation>) {
    let is_write = |o: &Operation| matches!(o.told, Told::Written(_));
    let relevant = |o: &&Operation| revision(o).is_some() && (!writes_only || is_write(o));
    let mut by_start: Vec<&Operation> = operations.iter().filter(relevant).collect();
    let mut by_end = by_start.clone();
    by_start.sort_by_key(|o| o.invoked);
    by_end.sort_by_key(|o| o.completed);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<&Operation> = None;
    for operation in by_start {
        while let Some(before) = ended.next_if(|o| o.completed < Some(operation.invoked)) {
            if newest.is_none_or(|n| revision(n) < revision(before)) {
                newest = Some(before);
            }
        }
        let Some(before) = newest else { continue };
        let stale = if is_write(operation) {
            revision(operation) <= revision(before)
        } else {
            revision(operation) < revision(before)
        };
        if stale {
            let text = format!("{what}: {before:?} was answered before {operation:?} was asked");
            found.push(violation("real time", text));
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(steps: &[(Asked, &str, Told)]) -> Vec<String> {
        let mut history = History::default();
        for (asked, value, told) in steps {
            let number = history.invoke(0, "k", asked.clone(), value.as_bytes().to_vec());
            history.complete(number, told.clone());
        }
        history.check().into_iter().map(|v| v.invariant).collect()
    }

    fn saw(revision: u64, value: &str) -> Told {
        Told::Saw(revision, value.as_bytes().to_vec())
    }

    #[test]
    fn an_order_is_accepted() {
        let steps = [
            (Asked::Put, "a", Told::Written(5)),
            (Asked::Read, "", saw(5, "a")),
            (Asked::Cas(5), "b", Told::Written(7)),
            (Asked::Cas(5), "c", Told::Differs(7)),
            (Asked::Put, "d", Told::Unknown),
            (Asked::Read, "", saw(9, "d")),
        ];
        assert_eq!(run(&steps), Vec::<String>::new());
    }

    #[test]
    fn stale_reads_lost_writes_and_false_compares_are_found() {
        let stale = [
            (Asked::Put, "a", Told::Written(5)),
            (Asked::Put, "b", Told::Written(6)),
            (Asked::Read, "", saw(5, "a")),
        ];
        assert!(run(&stale).iter().any(|v| v.contains("real time")));
        let lost = [
            (Asked::Put, "a", Told::Written(5)),
            (Asked::Read, "", Told::Saw(0, Vec::new())),
        ];
        assert!(run(&lost).iter().any(|v| v.contains("real time")));
        let compare = [
            (Asked::Put, "a", Told::Written(5)),
            (Asked::Put, "b", Told::Written(6)),
            (Asked::Cas(5), "c", Told::Written(7)),
        ];
        assert!(run(&compare).iter().any(|v| v.contains("compare and set")));
        let invented = [(Asked::Read, "", saw(3, "x"))];
        assert!(run(&invented).iter().any(|v| v.contains("reads see")));
        let undone = [(Asked::Put, "a", Told::NotDone), (Asked::Read, "", saw(3, "a"))];
        assert!(run(&undone).iter().any(|v| v.contains("reads see")));
    }
}
