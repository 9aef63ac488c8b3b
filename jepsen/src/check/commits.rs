//! The log decides before a sink does: whatever a reader sees of a checkpoint, that checkpoint (or the later one that
//! carried its files) is complete in every linearizable answer that is asked for afterwards.

use super::Case;
use super::catalogue::by_job;
use super::ops::ops;
use super::visible::parse_name;
use crate::history::{Checker, Event, Finding};

/// The checker.
pub struct Commits;

impl Checker for Commits {
    fn name(&self) -> &'static str {
        "commits"
    }

    fn check(&self, history: &[Event]) -> Finding {
        let mut case = Case::default();
        let all = ops(history, "catalogue");
        let polls = by_job(&all, "checkpoints");
        for event in history.iter().filter(|e| e.f == "visible") {
            let (Some(job), Some(name)) = (event.text("job"), event.text("file").and_then(parse_name)) else {
                continue;
            };
            let after = polls.get(job).into_iter().flatten().filter(|p| p.start > event.t);
            let Some(poll) = after.min_by_key(|p| p.start) else {
                continue;
            };
            case.count("files");
            if poll.number("latest").unwrap_or(0) < name.checkpoint {
                case.violation(format!(
                    "job {job}: {} was visible at {:.1} ms, and afterwards the newest complete checkpoint was older: {}",
                    event.text("file").unwrap_or_default(),
                    super::ops::ms(event.t),
                    poll.told()
                ));
            }
        }
        case.finish(
            self.name(),
            "nothing is visible before its checkpoint is complete",
            &["files"],
        )
    }
}
