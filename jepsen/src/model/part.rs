//! The rows of a file of numbers, in short: arithmetic runs.
//!
//! A source with `s` splits deals the numbers out like cards, so that a file holds stretches `a, a + s, a + 2s, ...`.
//! Written as runs, a history of millions of rows stays small and exact.

use serde_json::{Value, json};

/// The numbers `first, first + step, ..., first + (count - 1) * step`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// The first.
    pub first: u64,
    /// From one to the next; at least 1.
    pub step: u64,
    /// How many; at least 1.
    pub count: u64,
}

impl Run {
    /// As it stands in a history: `[first, step, count]`.
    #[must_use]
    pub fn to_json(self) -> Value {
        json!([self.first, self.step, self.count])
    }

    /// From [`Self::to_json`].
    #[must_use]
    pub fn from_json(value: &Value) -> Option<Self> {
        let parts = value.as_array()?;
        let number = |at: usize| parts.get(at).and_then(Value::as_u64);
        Some(Self {
            first: number(0)?,
            step: number(1)?.max(1),
            count: number(2)?.max(1),
        })
    }

    /// The numbers.
    pub fn numbers(self) -> impl Iterator<Item = u64> {
        (0..self.count).map(move |k| self.first + k * self.step)
    }
}

/// Numbers as runs of step `splits`. A number that occurs twice begins a run of its own: nothing is lost or merged.
#[must_use]
pub fn runs(mut numbers: Vec<u64>, splits: u64) -> Vec<Run> {
    let splits = splits.max(1);
    numbers.sort_unstable_by_key(|n| (n % splits, *n));
    let mut runs: Vec<Run> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(run) if run.first.checked_add(run.count * splits) == Some(number) => run.count += 1,
            _ => runs.push(Run {
                first: number,
                step: splits,
                count: 1,
            }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn runs_hold_exactly_the_numbers() {
        let numbers = vec![0, 16, 32, 1, 17, 32, 64];
        let runs = runs(numbers.clone(), 16);
        assert_eq!(runs.len(), 4, "{runs:?}");
        let mut back: Vec<u64> = runs.iter().flat_map(|r| r.numbers()).collect();
        back.sort_unstable();
        assert_eq!(back, [0, 1, 16, 17, 32, 32, 64]);
        assert_eq!(Run::from_json(&runs[0].to_json()).unwrap(), runs[0]);
    }
}
