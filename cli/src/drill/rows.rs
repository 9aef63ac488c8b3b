//! Accounts of the drill's rows. The job's source numbers its rows from 0; row `n` belongs to split `n % SPLITS`, and
//! a split emits its rows in order. So whatever is committed must be, split by split, the first so many rows, each once.
//! Pure.

/// Splits of the source (the default of `scan.splits`); a subtask of a job with parallelism p has those whose number is
/// its own modulo p.
pub const SPLITS: u64 = 16;
/// Rows that are told apart: more than an hour's drill emits. Beyond it rows are not counted, and the account says so.
const ROWS_MAX: u64 = 1 << 32;

/// A set of row numbers.
#[derive(Debug, Default)]
struct Numbers {
    words: Vec<u64>,
}

impl Numbers {
    /// Whether the number is new.
    fn insert(&mut self, number: u64) -> bool {
        let word = usize::try_from(number / 64).unwrap_or(usize::MAX);
        if word >= self.words.len() {
            self.words.resize(word + word / 4 + 1024, 0);
        }
        let bit = 1 << (number % 64);
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        new
    }
}

/// What readers of the committed files have seen.
#[derive(Debug)]
pub struct Committed {
    seen: Numbers,
    /// Per split: rows, and the first number behind the greatest one.
    splits: Vec<(u64, u64)>,
    doubled: u64,
    strange: u64,
    modulus: u64,
}

impl Committed {
    /// An empty account over `modulus` splits ([`SPLITS`] for Holdfast's own source).
    #[must_use]
    pub fn new(modulus: u64) -> Self {
        Self {
            seen: Numbers::default(),
            splits: vec![(0, 0); usize::try_from(modulus).unwrap_or(1)],
            doubled: 0,
            strange: 0,
            modulus,
        }
    }

    /// Takes a line of a committed file.
    pub fn line(&mut self, line: &str) {
        match line.trim().parse::<u64>() {
            Ok(n) if n < ROWS_MAX => self.take(n),
            _ => self.strange += 1,
        }
    }

    fn take(&mut self, n: u64) {
        if !self.seen.insert(n) {
            self.doubled += 1;
            return;
        }
        let split = &mut self.splits[usize::try_from(n % self.modulus).unwrap_or(0)];
        split.0 += 1;
        split.1 = split.1.max(n / self.modulus + 1);
    }

    /// Rows that were seen more than once.
    #[must_use]
    pub fn doubled(&self) -> u64 {
        self.doubled
    }

    /// Rows that are missing before the last one of their split. Between two files of one checkpoint some may be missing
    /// for a moment.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.splits.iter().map(|(rows, end)| end - rows).sum()
    }

    /// Different rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.splits.iter().map(|(rows, _)| rows).sum()
    }

    /// Lines that are no rows of the job.
    #[must_use]
    pub fn strange(&self) -> u64 {
        self.strange
    }
}

/// A row as a task emitted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emitted {
    /// When it was read, microseconds.
    pub at: i64,
    /// Its number.
    pub number: u64,
    /// Whether it had been emitted before.
    pub again: bool,
}

/// What the job's tasks have emitted, committed or not.
#[derive(Debug, Default)]
pub struct Emissions {
    seen: Numbers,
    rows: Vec<Emitted>,
}

impl Emissions {
    /// Takes a row; numbers that no drill reaches are not taken.
    pub fn take(&mut self, at: i64, number: u64) {
        if number < ROWS_MAX {
            let again = !self.seen.insert(number);
            self.rows.push(Emitted { at, number, again });
        }
    }

    /// Forgets the times (not the numbers) of rows before `at`.
    pub fn forget_before(&mut self, at: i64) {
        self.rows.retain(|row| row.at >= at);
    }

    /// The rows that are remembered, as they came.
    #[must_use]
    pub fn rows(&self) -> &[Emitted] {
        &self.rows
    }
}

/// The row that a task printed: what stands between `+I[` and `]` in a line of a worker's log.
#[must_use]
pub fn printed(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("+I[")?;
    rest.split_once(']')?.0.trim().parse().ok()
}

/// The longest silence of any subtask that touches `from..to`: its beginning and end.
#[must_use]
pub fn silence(rows: &[Emitted], parallelism: u64, from: i64, to: i64) -> (i64, i64) {
    (0..parallelism.max(1))
        .map(|lane| {
            let own = rows
                .iter()
                .filter(|row| row.number % SPLITS % parallelism.max(1) == lane);
            super::stats::longest_silence(own.map(|row| row.at), from, to)
        })
        .max_by_key(|(begin, end)| end - begin)
        .unwrap_or((from, from))
}

/// When the last subtask to do so had emitted a row at `from` or later; `None` if one has not.
#[must_use]
pub fn first_out(rows: &[Emitted], parallelism: u64, from: i64) -> Option<i64> {
    (0..parallelism.max(1))
        .map(|lane| {
            let own = |row: &&Emitted| row.number % SPLITS % parallelism.max(1) == lane && row.at >= from;
            rows.iter().find(own).map(|row| row.at)
        })
        .try_fold(from, |latest, first| Some(latest.max(first?)))
}

/// When every split had emitted a row beyond all that it had emitted before `fault`: everything is done again that had
/// to be. `None` if that has not come to pass.
#[must_use]
pub fn caught_up(rows: &[Emitted], fault: i64) -> Option<i64> {
    let mut latest = fault;
    for split in 0..SPLITS {
        let own = || rows.iter().filter(|row| row.number % SPLITS == split);
        let Some(high) = own().filter(|row| row.at <= fault).map(|row| row.number).max() else {
            continue;
        };
        let beyond = own().find(|row| row.at > fault && row.number > high)?;
        latest = latest.max(beyond.at);
    }
    Some(latest)
}

/// Rows of `from..to` that had been emitted before.
#[must_use]
pub fn replayed(rows: &[Emitted], from: i64, to: i64) -> u64 {
    let again = rows
        .iter()
        .filter(|row| row.again && (from..=to).contains(&row.at))
        .count();
    again as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lost_and_doubled_rows_are_counted_exactly() {
        let mut account = Committed::new(SPLITS);
        for n in 0..64 {
            if n != 17 && n != 33 {
                account.line(&n.to_string());
            }
        }
        // 17 and 33 are rows 1 and 2 of split 1, whose row 3 (49) is there.
        assert_eq!((account.lost(), account.doubled(), account.rows()), (2, 0, 62));
        account.line("17");
        account.line("5");
        account.line("five");
        assert_eq!((account.lost(), account.doubled(), account.strange()), (1, 1, 1));
    }

    #[test]
    fn the_tail_of_a_split_is_not_lost_but_still_to_come() {
        let mut account = Committed::new(2);
        for n in [0, 2, 4, 1] {
            account.line(&n.to_string());
        }
        assert_eq!(account.lost(), 0);
    }

    #[test]
    fn printed_rows_are_found_among_other_lines() {
        assert_eq!(printed("drill:1> +I[42]"), Some(42));
        assert_eq!(printed("2026-11-22T21:00:00Z  INFO +I am a line"), None);
        assert_eq!(printed("+I[4"), None);
    }

    fn rows(list: &[(i64, u64)]) -> Vec<Emitted> {
        let mut emissions = Emissions::default();
        for (at, number) in list {
            emissions.take(*at, *number);
        }
        emissions.rows().to_vec()
    }

    #[test]
    fn a_silent_subtask_is_not_hidden_by_a_busy_one() {
        let mut list: Vec<(i64, u64)> = (0..100)
            .map(|i| (i * 10, u64::try_from(i).unwrap() * 2))
            .collect();
        list.extend([(5, 1), (900, 3)]);
        list.sort_unstable();
        assert_eq!(silence(&rows(&list), 2, 100, 950), (5, 900));
        assert_eq!(
            silence(&rows(&list), 1, 100, 950).1 - silence(&rows(&list), 1, 100, 950).0,
            10
        );
    }

    #[test]
    fn the_first_record_is_that_of_the_slowest_subtask() {
        let list = rows(&[(1, 0), (5, 2), (9, 1), (11, 4)]);
        assert_eq!(first_out(&list, 2, 3), Some(9));
        assert_eq!(first_out(&list, 2, 10), None);
        assert_eq!(first_out(&list, 1, 10), Some(11));
    }

    #[test]
    fn caught_up_means_beyond_what_was_emitted_before() {
        let list = rows(&[
            (1, 0),
            (2, 16),
            (3, 1),
            (10, 0),
            (11, 1),
            (12, 16),
            (13, 17),
            (14, 32),
        ]);
        assert_eq!(caught_up(&list, 5), Some(14));
        assert_eq!(replayed(&list, 5, 20), 3);
        assert_eq!(caught_up(&list[..7], 5), None);
        assert_eq!(caught_up(&list, 0), Some(0), "nothing was emitted before");
    }
}
