//! Judges of a finished history. Pure: no IO, no clock; a stored history can be judged again.
//!
//! What each reads stands in [`words`]; every one answers [`Verdict::Unknown`] when nothing happened that could have
//! broken its promise, so that an empty run never counts as a proof.

pub mod attempts;
pub mod bank;
pub mod catalogue;
pub mod commits;
pub mod coverage;
pub mod crash;
pub mod digests;
pub mod eos;
pub mod faults;
pub mod fencing;
pub mod jobs;
pub mod liveness;
pub mod mutate;
pub mod ops;
pub mod register;
pub mod undisturbed;
pub mod versioned;
pub mod visible;
pub mod wgl;
pub mod words;

use crate::history::{Checker, Event, Finding, Verdict};
use std::collections::BTreeMap;

/// Lines of evidence that a finding keeps: enough to see the pattern, small enough to read.
pub const EVIDENCE_MAX: usize = 100;

/// Collects what a checker counts and finds.
#[derive(Debug, Default)]
pub struct Case {
    counts: BTreeMap<String, u64>,
    evidence: Vec<String>,
    violations: u64,
}

impl Case {
    /// Counts one more of something.
    pub fn count(&mut self, name: &str) {
        self.add(name, 1);
    }

    /// Counts `n` more of something.
    pub fn add(&mut self, name: &str, n: u64) {
        *self.counts.entry(name.to_owned()).or_default() += n;
    }

    /// What was counted so far.
    #[must_use]
    pub fn counted(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// A broken promise.
    pub fn violation(&mut self, text: impl Into<String>) {
        self.violations += 1;
        if self.evidence.len() < EVIDENCE_MAX {
            self.evidence.push(text.into());
        }
    }

    /// Something worth reading that breaks no promise.
    pub fn remark(&mut self, text: impl Into<String>) {
        if self.evidence.len() < EVIDENCE_MAX {
            self.evidence.push(text.into());
        }
    }

    /// Broken promises so far.
    #[must_use]
    pub fn violations(&self) -> u64 {
        self.violations
    }

    /// The finding: invalid if anything was violated, unknown if none of `needed` was counted, else valid.
    #[must_use]
    pub fn finish(mut self, checker: &str, promise: &str, needed: &[&str]) -> Finding {
        let seen = needed.is_empty() || needed.iter().any(|name| self.counted(name) > 0);
        let (verdict, summary) = match (self.violations, seen) {
            (0, true) => (Verdict::Valid, format!("{promise}: held")),
            (0, false) => (
                Verdict::Unknown,
                format!("{promise}: nothing was seen of {}", needed.join(", ")),
            ),
            (n, _) => (Verdict::Invalid, format!("{promise}: broken {n} times")),
        };
        self.counts.insert("violations".to_owned(), self.violations);
        Finding {
            checker: checker.to_owned(),
            verdict,
            summary: format!("{summary} ({})", told(&self.counts)),
            counts: self.counts,
            evidence: self.evidence,
        }
    }

    /// A finding whose verdict was decided elsewhere.
    #[must_use]
    pub fn finish_as(mut self, checker: &str, verdict: Verdict, summary: impl Into<String>) -> Finding {
        self.counts.insert("violations".to_owned(), self.violations);
        Finding {
            checker: checker.to_owned(),
            verdict,
            summary: format!("{} ({})", summary.into(), told(&self.counts)),
            counts: self.counts,
            evidence: self.evidence,
        }
    }
}

fn told(counts: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = counts.iter().map(|(name, n)| format!("{n} {name}")).collect();
    parts.join(", ")
}

/// The worst verdict: one broken promise makes the run invalid, one that could not be judged makes it unknown.
#[must_use]
pub fn overall(findings: &[Finding]) -> Verdict {
    findings
        .iter()
        .map(|f| f.verdict)
        .max()
        .unwrap_or(Verdict::Unknown)
}

/// The checkers that fit every run, whatever its workloads.
#[must_use]
pub fn general() -> Vec<Box<dyn Checker>> {
    vec![
        Box::new(ops::WellFormed),
        Box::new(coverage::Coverage),
        Box::new(crash::Crash),
        Box::new(digests::Digests),
        Box::new(fencing::Fencing),
        Box::new(liveness::Liveness::default()),
    ]
}

/// A checker by its name, with its usual settings.
#[must_use]
pub fn by_name(name: &str) -> Option<Box<dyn Checker>> {
    Some(match name {
        "history" => Box::new(ops::WellFormed),
        "coverage" => Box::new(coverage::Coverage),
        "crash" => Box::new(crash::Crash),
        "digests" => Box::new(digests::Digests),
        "fencing" => Box::new(fencing::Fencing),
        "liveness" => Box::new(liveness::Liveness::default()),
        "register-wgl" => Box::new(register::Linearizable::default()),
        "register-versioned" => Box::new(versioned::Versioned),
        "jobs" => Box::new(jobs::Jobs),
        "catalogue" => Box::new(catalogue::Catalogue),
        "attempts" => Box::new(attempts::Attempts),
        "commits" => Box::new(commits::Commits),
        "control" => Box::new(coverage::Control),
        "undisturbed" => Box::new(undisturbed::Undisturbed),
        "eos" => Box::new(eos::ExactlyOnce),
        "bank" => Box::new(bank::Bank),
        _ => return None,
    })
}

/// All names that [`by_name`] knows.
pub const NAMES: &[&str] = &[
    "history",
    "coverage",
    "crash",
    "digests",
    "fencing",
    "liveness",
    "register-wgl",
    "register-versioned",
    "jobs",
    "catalogue",
    "attempts",
    "commits",
    "control",
    "undisturbed",
    "eos",
    "bank",
];

/// Runs checkers over a history, each name once.
#[must_use]
pub fn run(checkers: &[Box<dyn Checker>], history: &[Event]) -> Vec<Finding> {
    let mut done = std::collections::BTreeSet::new();
    checkers
        .iter()
        .filter(|checker| done.insert(checker.name()))
        .map(|checker| checker.check(history))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_name_makes_a_checker_that_is_unknown_or_valid_about_nothing() {
        for name in NAMES {
            let checker = by_name(name).unwrap();
            assert_eq!(checker.name(), *name);
            assert_ne!(checker.check(&[]).verdict, Verdict::Invalid, "{name}");
        }
        assert!(by_name("x").is_none());
    }

    #[test]
    fn a_case_without_what_it_needs_is_unknown() {
        assert_eq!(
            Case::default().finish("x", "it", &["reads"]).verdict,
            Verdict::Unknown
        );
        let mut case = Case::default();
        case.count("reads");
        assert_eq!(case.finish("x", "it", &["reads"]).verdict, Verdict::Valid);
        let mut case = Case::default();
        case.violation("no");
        let finding = case.finish("x", "it", &["reads"]);
        assert_eq!(
            (finding.verdict, finding.counts["violations"]),
            (Verdict::Invalid, 1)
        );
        assert_eq!(overall(&[finding]), Verdict::Invalid);
        assert_eq!(overall(&[]), Verdict::Unknown);
    }
}
