//! Whether a request may be sent again: a pure function of what is known about the last try.

use bytes::Bytes;
use hyper::StatusCode;
use std::fmt;

/// What a second execution would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Safety {
    /// Nothing worse: a read, or a write with an idempotency key.
    Repeatable,
    /// Harm: sent again only if the first certainly had no effect.
    Once,
}

/// What came of asking one coordinator.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Not reached.
    NotSent(String),
    /// Sent, but there is no whole answer.
    NoAnswer(String),
    /// An answer.
    Answer {
        /// HTTP status.
        status: StatusCode,
        /// The coordinator does not know whether it took effect.
        unknown: bool,
        /// The body.
        body: Bytes,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(reason) | Self::NoAnswer(reason) => f.write_str(reason),
            Self::Answer { status, body, .. } => {
                let errors = serde_json::from_slice(body).ok().and_then(|v| super::errors(&v));
                match errors {
                    Some(errors) => f.write_str(&errors),
                    None => write!(f, "{status}"),
                }
            }
        }
    }
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The answer is final.
    Done,
    /// Try another coordinator, or the same one later.
    Elsewhere,
    /// Stop: it may have taken effect.
    Unknown,
}

/// The rule.
#[must_use]
pub fn next(safety: Safety, outcome: &Outcome) -> Next {
    let uncertain = match safety {
        Safety::Repeatable => Next::Elsewhere,
        Safety::Once => Next::Unknown,
    };
    match outcome {
        Outcome::NotSent(_) => Next::Elsewhere,
        Outcome::NoAnswer(_) => uncertain,
        Outcome::Answer { status, unknown, .. } => match *status {
            StatusCode::SERVICE_UNAVAILABLE if *unknown => uncertain,
            // Busy, stopping, without a leader: said before anything was done.
            StatusCode::SERVICE_UNAVAILABLE => Next::Elsewhere,
            _ => Next::Done,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: StatusCode, unknown: bool) -> Outcome {
        Outcome::Answer {
            status,
            unknown,
            body: Bytes::new(),
        }
    }

    #[test]
    fn only_what_certainly_had_no_effect_is_sent_again() {
        let refused = Outcome::NotSent("refused".into());
        let cut = Outcome::NoAnswer("reset".into());
        let busy = answer(StatusCode::SERVICE_UNAVAILABLE, false);
        let unknown = answer(StatusCode::SERVICE_UNAVAILABLE, true);
        for (safety, outcome, expected) in [
            (Safety::Once, &refused, Next::Elsewhere),
            (Safety::Once, &cut, Next::Unknown),
            (Safety::Once, &busy, Next::Elsewhere),
            (Safety::Once, &unknown, Next::Unknown),
            (Safety::Repeatable, &refused, Next::Elsewhere),
            (Safety::Repeatable, &cut, Next::Elsewhere),
            (Safety::Repeatable, &busy, Next::Elsewhere),
            (Safety::Repeatable, &unknown, Next::Elsewhere),
        ] {
            assert_eq!(next(safety, outcome), expected, "{safety:?} {outcome:?}");
        }
        for status in [
            StatusCode::OK,
            StatusCode::ACCEPTED,
            StatusCode::BAD_REQUEST,
            StatusCode::CONFLICT,
        ] {
            assert_eq!(next(Safety::Once, &answer(status, false)), Next::Done);
        }
    }
}
