//! What the results of the workloads' jobs must be, in closed form.

use std::collections::BTreeSet;

/// Milliseconds of event time, and so numbers, per window.
pub const WINDOW: u64 = 1000;
/// Accounts of the bank.
pub const ACCOUNTS: u64 = 13;
/// The numbers whose remainder by [`FILTER_MODULUS`] is this one are filtered out.
pub const FILTERED: u64 = 5;
/// See [`FILTERED`].
pub const FILTER_MODULUS: u64 = 48;

/// Whether the pipeline's filter lets a number through.
#[must_use]
pub fn passes(n: u64) -> bool {
    n % FILTER_MODULUS != FILTERED
}

/// The numbers that the filtered sink must hold.
#[must_use]
pub fn filtered_count(rows: u64) -> u64 {
    let whole = rows / FILTER_MODULUS * (FILTER_MODULUS - 1);
    let rest = rows % FILTER_MODULUS;
    whole + rest - u64::from(rest > FILTERED)
}

/// Rows of the windows: last digit, least number, count, sum, as CSV.
#[must_use]
pub fn windows(rows: u64) -> BTreeSet<String> {
    let mut expected = BTreeSet::new();
    for start in (0..rows).step_by(1000) {
        let end = (start + WINDOW).min(rows);
        for digit in 0..10 {
            let first = start + digit;
            if first < end {
                let count = (end - 1 - first) / 10 + 1;
                let sum = count * first + 10 * (count * (count - 1) / 2);
                expected.insert(format!("{digit},{first},{count},{sum}"));
            }
        }
    }
    expected
}

/// The two sides of a transfer: account and amount.
#[must_use]
pub fn transfer(n: u64) -> [(u64, i64); 2] {
    let amount = i64::try_from(n % 97).unwrap_or(0) + 1;
    [(n % ACCOUNTS, -amount), ((n * 7 + 5) % ACCOUNTS, amount)]
}

/// Rows of the balances: account, least number, count, sum per window, as CSV.
#[must_use]
pub fn balances(rows: u64) -> BTreeSet<String> {
    let mut expected = BTreeSet::new();
    for start in (0..rows).step_by(1000) {
        let mut accounts: std::collections::BTreeMap<u64, (u64, u64, i64)> =
            std::collections::BTreeMap::new();
        for n in start..(start + WINDOW).min(rows) {
            for (account, amount) in transfer(n) {
                let (_, count, sum) = accounts.entry(account).or_insert((n, 0, 0));
                *count += 1;
                *sum += amount;
            }
        }
        for (account, (first, count, sum)) in accounts {
            expected.insert(format!("{account},{first},{count},{sum}"));
        }
    }
    expected
}

/// Rows of the totals: least number, count, sum (always 0) per window, as CSV.
#[must_use]
pub fn totals(rows: u64) -> BTreeSet<String> {
    let window = |start: u64| format!("{start},{},0", 2 * ((start + WINDOW).min(rows) - start));
    (0..rows).step_by(1000).map(window).collect()
}

/// The rows of an oracle by its name; `None` for numbers, which are not written out.
#[must_use]
pub fn lines(oracle: &str, rows: u64) -> Option<BTreeSet<String>> {
    match oracle {
        "windows" => Some(windows(rows)),
        "balances" => Some(balances(rows)),
        "totals" => Some(totals(rows)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_forms_agree_with_counting() {
        for rows in [1, 5, 6, 47, 48, 53, 54, 1000, 2345] {
            assert_eq!(
                filtered_count(rows),
                (0..rows).filter(|n| passes(*n)).count() as u64,
                "{rows}"
            );
            let mut counted = BTreeSet::new();
            for start in (0..rows).step_by(1000) {
                for digit in 0..10 {
                    let of: Vec<u64> = (start..(start + 1000).min(rows))
                        .filter(|n| n % 10 == digit)
                        .collect();
                    if let Some(first) = of.first() {
                        counted.insert(format!("{digit},{first},{},{}", of.len(), of.iter().sum::<u64>()));
                    }
                }
            }
            assert_eq!(windows(rows), counted);
        }
        // As the product itself printed them for the first windows.
        assert!(balances(12_000).contains("0,1001,154,37") && balances(12_000).contains("3,4000,154,-54"));
        assert!(totals(12_000).contains("0,2000,0") && totals(1).contains("0,2,0"));
    }
}
