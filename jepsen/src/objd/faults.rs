//! What happens to a request: by the modes that are on, drawn from the seed.

use crate::seed::Stream;
use std::collections::BTreeMap;
use std::time::Duration;

/// The modes.
pub(crate) const MODES: [&str; 6] = ["slow", "errors", "hang", "apply-drop", "late-list", "outage"];

#[derive(Debug, Clone, Copy)]
struct On {
    share: u32,
    ms: u32,
}

/// The modes that are on.
#[derive(Debug)]
pub(crate) struct Faults {
    on: BTreeMap<&'static str, On>,
    random: Stream,
    healed: u64,
}

/// What becomes of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fate {
    /// Waits first.
    pub(crate) wait: Option<Duration>,
    /// Is answered with this status, without effect.
    pub(crate) status: Option<u16>,
    /// Is never answered and has no effect (until everything is healed).
    pub(crate) hang: bool,
    /// Has its effect, and the connection breaks before the answer.
    pub(crate) drop_answer: bool,
    /// The connection breaks at once.
    pub(crate) refuse: bool,
    /// A listing shows what was there so long ago.
    pub(crate) stale: Option<Duration>,
    /// Which modes met it, for the log.
    pub(crate) met: Vec<&'static str>,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            on: BTreeMap::new(),
            random: Stream::new(seed, "objects"),
            healed: 0,
        }
    }

    /// Carries out a line of standard input.
    pub(crate) fn command(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mode = words
            .get(1)
            .and_then(|word| MODES.into_iter().find(|mode| mode == word));
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u32>().ok());
        match (words.first().copied(), mode) {
            (None, _) => Ok(()),
            (Some("fault"), Some(mode)) => {
                let share = number(2).ok_or("a share is missing")?;
                let ms = number(3).unwrap_or(0);
                self.on.insert(mode, On { share, ms });
                Ok(())
            }
            (Some("heal"), Some(mode)) => {
                self.on.remove(mode);
                self.healed += 1;
                Ok(())
            }
            _ => Err(format!("'{line}' is no command")),
        }
    }

    /// Counts healings, so that a request that hangs knows when it may end.
    pub(crate) fn healed(&self) -> u64 {
        self.healed
    }

    pub(crate) fn fate(&mut self, changes: bool, lists: bool) -> Fate {
        let mut fate = Fate::default();
        for (mode, on) in &self.on {
            if !self.random.per_mille(on.share) {
                continue;
            }
            let time = Duration::from_millis(on.ms.into());
            match *mode {
                "slow" => fate.wait = Some(time),
                "errors" => fate.status = Some(if self.random.per_mille(500) { 500 } else { 503 }),
                "hang" => fate.hang = true,
                "apply-drop" if changes => fate.drop_answer = true,
                "late-list" if lists => fate.stale = Some(time),
                "outage" => fate.refuse = true,
                _ => continue,
            }
            fate.met.push(mode);
        }
        fate
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn modes_meet_what_they_are_for_and_end() {
        let mut faults = Faults::new(1);
        faults.command("fault apply-drop 1000 0").unwrap();
        faults.command("fault late-list 1000 700").unwrap();
        assert!(faults.fate(true, false).drop_answer);
        assert!(!faults.fate(false, false).drop_answer);
        assert_eq!(faults.fate(false, true).stale, Some(Duration::from_millis(700)));
        faults.command("heal apply-drop").unwrap();
        faults.command("heal late-list").unwrap();
        assert_eq!(faults.fate(true, true), Fate::default());
        for bad in ["fault", "fault melt 1 1", "heal", "fault slow"] {
            assert!(faults.command(bad).is_err(), "{bad}");
        }
    }
}
