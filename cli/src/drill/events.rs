//! The moments that the processes themselves stamp: lines of their logs. All processes of a local cluster share one
//! clock, so their stamps can be compared. Pure.

use chrono::DateTime;

/// What a line of a log tells about a failover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A coordinator suspects the leader: its connection was reset and its port refuses, or its lease is over.
    LeaderSuspected,
    /// A coordinator has won the election of a term.
    Elected {
        /// The term.
        term: u64,
    },
    /// A leader's claim is in the log: it serves.
    Claimed,
    /// The leader counts a worker as lost.
    WorkerLost,
    /// A worker's stream to a leader is open.
    Attached,
    /// A new leader has taken a job's tasks over as they run.
    Adopted,
    /// A worker starts the tasks of a new attempt.
    AttemptStarted,
}

/// A stamped line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Microseconds since the Unix epoch.
    pub unix_us: i64,
    /// Index of the process whose log it stands in.
    pub process: usize,
    /// What happened.
    pub what: What,
}

/// Reads a line of a process's log; `None` for one that tells nothing about a failover.
#[must_use]
pub fn parse(process: usize, line: &str) -> Option<Event> {
    let what = meaning(line)?;
    let stamp = line.split_ascii_whitespace().next()?;
    let unix_us = DateTime::parse_from_rfc3339(stamp).ok()?.timestamp_micros();
    Some(Event {
        unix_us,
        process,
        what,
    })
}

fn meaning(line: &str) -> Option<What> {
    let has = |text: &str| line.contains(text);
    if has(": the leader's process is gone") || has(": asks for votes") {
        return Some(What::LeaderSuspected);
    }
    if has(": leadership ") && has("mine=true") {
        return Some(What::Elected {
            term: number(line, "term=")?,
        });
    }
    if has(": this coordinator leads") {
        return Some(What::Claimed);
    }
    if has(": worker '") && has("' is lost") {
        return Some(What::WorkerLost);
    }
    if has(": attached to the leader") {
        return Some(What::Attached);
    }
    if has(" is adopted: all its tasks run") {
        return Some(What::Adopted);
    }
    has(": attempt starts").then_some(What::AttemptStarted)
}

fn number(line: &str, name: &str) -> Option<u64> {
    let (_, rest) = line.split_once(name)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Moments of one failover in microseconds since the epoch; `None` for what did not happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamps {
    /// First suspicion of what failed.
    pub detected: Option<i64>,
    /// First election won after it.
    pub elected: Option<i64>,
    /// The claim of the last leader that was elected.
    pub claimed: Option<i64>,
    /// When the last worker was attached.
    pub reattached: Option<i64>,
    /// When the tasks of the last new attempt were started, if there was one.
    pub restarted: Option<i64>,
}

/// Sorts out the events after `fault`. A leader's failure is seen by coordinators, a worker's by the leader.
#[must_use]
pub fn stamps(events: &[Event], fault: i64, of_leader: bool) -> Stamps {
    let after = || events.iter().filter(move |e| e.unix_us >= fault);
    let first = |what: fn(&What) -> bool| after().filter(|e| what(&e.what)).map(|e| e.unix_us).min();
    let last = |what: fn(&What) -> bool| after().filter(|e| what(&e.what)).map(|e| e.unix_us).max();
    let is_election = |what: &What| matches!(what, What::Elected { .. });
    let elected = first(is_election);
    Stamps {
        // A suspicion that comes after the election is a straggler's.
        detected: if of_leader {
            first(|w| *w == What::LeaderSuspected).filter(|at| elected.is_none_or(|elected| *at <= elected))
        } else {
            first(|w| *w == What::WorkerLost)
        },
        elected,
        claimed: last(|w| *w == What::Claimed),
        reattached: last(|w| *w == What::Attached),
        restarted: last(|w| *w == What::AttemptStarted),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_processes_own_lines_are_understood() {
        let lines = [
            (
                "INFO holdfast_raft::hint: the leader's process is gone leader=1",
                What::LeaderSuspected,
            ),
            (
                "INFO holdfast_raft::net::client: asks for votes term=6",
                What::LeaderSuspected,
            ),
            (
                "INFO holdfast_raft::leadership: leadership leader=Some(2) term=6 mine=true",
                What::Elected { term: 6 },
            ),
            (
                "INFO holdfast_coordinator::leader::lifecycle: this coordinator leads node=2 epoch=31",
                What::Claimed,
            ),
            (
                "WARN holdfast_coordinator::leader::services: worker 'w-2' is lost: nobody listens",
                What::WorkerLost,
            ),
            (
                "INFO holdfast_worker::agent::actor: attached to the leader leader=2 addr=\"a:1\" epoch=31",
                What::Attached,
            ),
            (
                "INFO holdfast_coordinator::leader::services: attempt 9 is adopted: all its tasks run job=1",
                What::Adopted,
            ),
        ];
        for (line, what) in lines {
            let stamped = format!("2026-11-22T21:00:00.000250Z  {line}");
            let event = parse(3, &stamped).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(
                (event.what, event.process, event.unix_us % 1_000_000),
                (what, 3, 250),
                "{line}"
            );
        }
        for other in [
            "2026-11-22T21:00:00Z  INFO holdfast_raft::leadership: leadership leader=Some(2) term=6 mine=false",
            "drill:1> +I[5]",
            "",
        ] {
            assert_eq!(parse(0, other), None, "{other}");
        }
    }

    #[test]
    fn stamps_are_the_first_suspicion_and_the_last_attachment() {
        let event = |unix_us, what| Event {
            unix_us,
            process: 0,
            what,
        };
        let events = [
            event(5, What::Attached),
            event(12, What::LeaderSuspected),
            event(11, What::LeaderSuspected),
            event(20, What::Elected { term: 2 }),
            event(21, What::Claimed),
            event(23, What::Attached),
            event(25, What::Attached),
        ];
        let found = stamps(&events, 10, true);
        assert_eq!(
            found,
            Stamps {
                detected: Some(11),
                elected: Some(20),
                claimed: Some(21),
                reattached: Some(25),
                restarted: None
            }
        );
        assert_eq!(stamps(&events, 10, false).detected, None);
        assert_eq!(stamps(&events[3..], 10, true).detected, None);
    }
}
