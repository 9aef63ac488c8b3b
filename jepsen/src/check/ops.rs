//! From events to operations: each invocation with its answer.

use super::Case;
use crate::history::{Checker, Event, Finding, Kind, Nanos, Verdict};
use serde_json::Value;
use std::collections::HashMap;

/// An operation: an invocation and what became of it.
#[derive(Debug, Clone)]
pub struct Op<'h> {
    /// Its number.
    pub id: u64,
    /// Who.
    pub process: &'h str,
    /// What.
    pub f: &'h str,
    /// Sent.
    pub start: Nanos,
    /// Answered; [`Nanos::MAX`] if its outcome is not known.
    pub end: Nanos,
    /// `Ok`, `Fail` or `Info`.
    pub kind: Kind,
    /// The invocation.
    pub invoke: &'h Event,
    /// The answer.
    pub done: Option<&'h Event>,
}

impl<'h> Op<'h> {
    /// A value of the answer, or else of the invocation.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'h Value> {
        self.done
            .and_then(|d| d.value.get(name))
            .or_else(|| self.invoke.value.get(name))
    }

    /// A text of the answer, or else of the invocation.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&'h str> {
        self.field(name).and_then(Value::as_str)
    }

    /// A number of the answer, or else of the invocation.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.field(name).and_then(Value::as_u64)
    }

    /// Whether it succeeded.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.kind == Kind::Ok
    }

    /// For evidence: who did what when.
    #[must_use]
    pub fn told(&self) -> String {
        let end = if self.end == Nanos::MAX {
            "?".to_owned()
        } else {
            format!("{:.1}", ms(self.end))
        };
        let values: Vec<String> = self
            .invoke
            .value
            .iter()
            .chain(self.done.iter().flat_map(|d| &d.value))
            .map(|(name, value)| format!("{name}={}", short(&value.to_string())))
            .collect();
        format!(
            "#{} {} {} {:.1}..{end} ms {:?} {}",
            self.id,
            self.process,
            self.f,
            ms(self.start),
            self.kind,
            values.join(" ")
        )
    }
}

/// Milliseconds, for people.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub fn ms(t: Nanos) -> f64 {
    t as f64 / 1e6
}

fn short(text: &str) -> String {
    text.chars().take(120).collect()
}

/// The operations of one workload in the order of their invocations. An invocation without an answer is `Info`.
#[must_use]
pub fn ops<'h>(history: &'h [Event], workload: &str) -> Vec<Op<'h>> {
    let mut found: Vec<Op<'h>> = Vec::new();
    let mut open: HashMap<u64, usize> = HashMap::new();
    let mine = history.iter().filter(|e| e.workload == workload);
    // Answers may stand before invocations of other processes, but an operation's own two events are matched by number.
    let mut answers: Vec<&'h Event> = Vec::new();
    for event in mine {
        match event.kind {
            Kind::Invoke => {
                open.insert(event.op, found.len());
                found.push(Op {
                    id: event.op,
                    process: &event.process,
                    f: &event.f,
                    start: event.t,
                    end: Nanos::MAX,
                    kind: Kind::Info,
                    invoke: event,
                    done: None,
                });
            }
            Kind::Ok | Kind::Fail | Kind::Info => answers.push(event),
            Kind::Note => {}
        }
    }
    for answer in answers {
        let Some(op) = open.remove(&answer.op).and_then(|at| found.get_mut(at)) else {
            continue;
        };
        op.kind = answer.kind;
        op.done = Some(answer);
        if answer.kind != Kind::Info {
            op.end = answer.t;
        }
    }
    found.sort_by_key(|op| (op.start, op.id));
    found
}

/// One observation with an order: used by [`Sweep`].
pub trait Timed {
    /// When it began.
    fn start(&self) -> Nanos;
    /// When it had its answer.
    fn end(&self) -> Nanos;
}

impl Timed for Op<'_> {
    fn start(&self) -> Nanos {
        self.start
    }

    fn end(&self) -> Nanos {
        self.end
    }
}

/// Walks observations in real-time order: calls `judge(y, floor)` for each with what `join` made of all observations that had
/// ended before `y` began.
pub fn sweep<T: Timed, F: Default>(
    items: &[T],
    mut join: impl FnMut(&mut F, &T),
    mut judge: impl FnMut(&T, &F),
) {
    let mut by_start: Vec<&T> = items.iter().collect();
    by_start.sort_by_key(|t| t.start());
    let mut by_end: Vec<&T> = items.iter().filter(|t| t.end() != Nanos::MAX).collect();
    by_end.sort_by_key(|t| t.end());
    let mut floor = F::default();
    let mut next = 0;
    for item in by_start {
        while let Some(ended) = by_end.get(next).filter(|e| e.end() < item.start()) {
            join(&mut floor, ended);
            next += 1;
        }
        judge(item, &floor);
    }
}

/// Whether the history itself makes sense: a fault of the harness must not look like one of the product, nor hide one.
pub struct WellFormed;

impl Checker for WellFormed {
    fn name(&self) -> &'static str {
        "history"
    }

    fn check(&self, history: &[Event]) -> Finding {
        let mut case = Case::default();
        let mut invoked: HashMap<u64, &Event> = HashMap::new();
        let mut answered = std::collections::HashSet::new();
        let mut sorted: Vec<&Event> = history.iter().filter(|e| e.kind != Kind::Note).collect();
        sorted.sort_by_key(|e| (e.t, e.kind != Kind::Invoke));
        for event in sorted {
            case.count("events");
            if event.kind == Kind::Invoke {
                if invoked.insert(event.op, event).is_some() {
                    case.violation(format!("operation {} was invoked twice", event.op));
                }
                continue;
            }
            match invoked.get(&event.op) {
                None => case.violation(format!("operation {} was answered and never invoked", event.op)),
                Some(invoke) if invoke.t > event.t || invoke.process != event.process => {
                    case.violation(format!(
                        "operation {} was answered by another or too early",
                        event.op
                    ));
                }
                Some(_) if !answered.insert(event.op) => {
                    case.violation(format!("operation {} was answered twice", event.op));
                }
                Some(_) => {}
            }
        }
        // The harness's own fault is never a verdict on the product.
        let verdict = if case.violations() > 0 {
            Verdict::Unknown
        } else {
            Verdict::Valid
        };
        case.finish_as(self.name(), verdict, "the history is well-formed")
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::event;
    use super::*;

    #[test]
    fn answers_find_their_invocations() {
        let history = [
            event(1, "a", Kind::Invoke, "w", "read", 1),
            event(2, "b", Kind::Invoke, "w", "read", 2),
            event(3, "a", Kind::Ok, "w", "read", 1).with("value", 7),
            event(4, "b", Kind::Info, "w", "read", 2),
            event(5, "c", Kind::Invoke, "w", "read", 3),
            event(5, "c", Kind::Invoke, "other", "read", 4),
        ];
        let ops = ops(&history, "w");
        let seen: Vec<_> = ops.iter().map(|o| (o.id, o.end, o.kind)).collect();
        assert_eq!(
            seen,
            [
                (1, 3, Kind::Ok),
                (2, Nanos::MAX, Kind::Info),
                (3, Nanos::MAX, Kind::Info)
            ]
        );
        assert_eq!(ops[0].number("value"), Some(7));
        assert_eq!(WellFormed.check(&history).verdict, Verdict::Valid);
    }

    #[test]
    fn an_answer_from_nowhere_is_the_harness_s_fault() {
        let history = [event(3, "a", Kind::Ok, "w", "read", 1)];
        assert_eq!(WellFormed.check(&history).verdict, Verdict::Unknown);
    }

    #[test]
    fn the_floor_holds_only_what_had_ended() {
        let history = [
            event(1, "a", Kind::Invoke, "w", "r", 1),
            event(2, "b", Kind::Invoke, "w", "r", 2),
            event(4, "a", Kind::Ok, "w", "r", 1).with("v", 5),
            event(9, "b", Kind::Ok, "w", "r", 2).with("v", 3),
            event(5, "c", Kind::Invoke, "w", "r", 3),
            event(6, "c", Kind::Ok, "w", "r", 3).with("v", 9),
        ];
        let all = ops(&history, "w");
        let mut seen = Vec::new();
        sweep(
            &all,
            |floor: &mut u64, op| *floor = (*floor).max(op.number("v").unwrap_or(0)),
            |op, floor| seen.push((op.id, *floor)),
        );
        assert_eq!(seen, [(1, 0), (2, 0), (3, 5)]);
    }
}
