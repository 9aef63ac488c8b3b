//! Exit codes of every command, in one place. Supervisors and scripts read them.

use std::process::ExitCode;

/// What `--help` says of them.
pub const CODES: &str = "Exit codes:
  0    done, or stopped in order; a followed job FINISHED
  1    failed, and trying again may help; a followed job FAILED
  2    wrong usage, configuration or SQL
  3    refused by the cluster: another cluster, a version or identity that does not fit
  4    a followed job was CANCELED
  5    this coordinator was removed from the cluster
  130  interrupted while jobs were followed";

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked, or was stopped in order. A followed job FINISHED.
    Ok,
    /// It failed; trying again may help. A followed job FAILED.
    Error,
    /// Wrong usage, configuration or SQL: trying again the same way fails in the same way. (clap uses 2 as well.)
    Usage,
    /// The cluster refuses this process: another cluster, a version or identity that does not fit.
    Refused,
    /// A followed job was CANCELED.
    Canceled,
    /// This coordinator was removed from the cluster: its work is done, and it never takes part again.
    Removed,
    /// Ctrl-C or SIGTERM while jobs were followed; 128 + SIGINT, as shells count.
    Interrupted,
}

impl Exit {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Error => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Canceled => 4,
            Self::Removed => 5,
            Self::Interrupted => 130,
        }
    }

    /// Whether a process that ended with this code would end the same way if it were started again.
    #[must_use]
    pub fn is_permanent(code: i32) -> bool {
        [Self::Usage, Self::Refused, Self::Removed]
            .iter()
            .any(|exit| code == i32::from(exit.code()))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// An error with the exit code that it means.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// What happened, to what, and what to do.
    pub message: String,
}

impl Failure {
    /// Code 1.
    pub fn error(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Error,
            message: message.into(),
        }
    }

    /// Code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Usage,
            message: message.into(),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::error(format!("{error:#}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_code() {
        let all = [
            Exit::Ok,
            Exit::Error,
            Exit::Usage,
            Exit::Refused,
            Exit::Canceled,
            Exit::Removed,
            Exit::Interrupted,
        ];
        let named: Vec<_> = CODES
            .lines()
            .filter_map(|line| line.split_whitespace().next()?.parse::<u8>().ok())
            .collect();
        assert_eq!(named, all.map(Exit::code));
    }

    #[test]
    fn only_usage_refusal_and_removal_are_permanent() {
        for code in [2, 3, 5] {
            assert!(Exit::is_permanent(code));
        }
        for code in [0, 1, 4, 101, 130, 137] {
            assert!(!Exit::is_permanent(code));
        }
    }
}
