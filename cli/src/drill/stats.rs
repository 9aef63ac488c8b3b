//! Order statistics over measured times. Pure; nothing is trimmed, nothing is interpolated.

/// Runs from which the largest sample bounds the 99th percentile with 95 % confidence: 1 - 0.99^299 >= 0.95.
pub const RUNS_FOR_P99: usize = 299;
/// Runs from which a 99th percentile is a sample other than the largest; said with its number, not as a bound.
pub const RUNS_FOR_NAMED_P99: usize = 100;

/// The smallest sample that at least `share` (0 to 1) of all samples do not exceed; `None` without samples.
#[must_use]
pub fn quantile(samples: &[f64], share: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share.clamp(0.0, 1.0) * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// The median.
#[must_use]
pub fn p50(samples: &[f64]) -> Option<f64> {
    quantile(samples, 0.5)
}

/// The largest sample.
#[must_use]
pub fn max(samples: &[f64]) -> Option<f64> {
    quantile(samples, 1.0)
}

/// The 99th percentile where so many samples carry one, with what it may be called.
#[must_use]
pub fn p99(samples: &[f64]) -> Option<(f64, String)> {
    let name = match samples.len() {
        RUNS_FOR_P99.. => "p99".to_owned(),
        n @ RUNS_FOR_NAMED_P99.. => format!("p99 of {n}"),
        _ => return None,
    };
    Some((quantile(samples, 0.99)?, name))
}

/// The longest silence that touches `from..to`, as its beginning and end: between two `events` (in order), or from the
/// last one to `to`. A silence that began before `from` counts whole if it reaches into the span.
#[must_use]
pub fn longest_silence(events: impl IntoIterator<Item = i64>, from: i64, to: i64) -> (i64, i64) {
    let mut longest = (from, from);
    let mut last = from;
    for event in events {
        if event <= from {
            last = event;
            continue;
        }
        if event - last > longest.1 - longest.0 {
            longest = (last, event);
        }
        last = event;
        if event >= to {
            return longest;
        }
    }
    if to - last > longest.1 - longest.0 {
        longest = (last, to);
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let samples = [5.0, 1.0, 3.0, 4.0, 2.0];
        assert_eq!(p50(&samples), Some(3.0));
        assert_eq!(max(&samples), Some(5.0));
        assert_eq!(quantile(&samples, 0.0), Some(1.0));
        assert_eq!(p50(&[]), None);
    }

    #[test]
    fn a_99th_percentile_needs_runs() {
        let samples: Vec<f64> = (1..=299).map(f64::from).collect();
        assert_eq!(p99(&samples), Some((297.0, "p99".to_owned())));
        assert_eq!(p99(&samples[..100]), Some((99.0, "p99 of 100".to_owned())));
        assert_eq!(p99(&samples[..99]), None);
        assert!(1.0 - 0.99_f64.powi(299) >= 0.95);
    }

    #[test]
    fn silences_that_touch_a_span() {
        let events = [10, 20, 120, 130, 500];
        assert_eq!(longest_silence(events, 15, 125), (20, 120));
        assert_eq!(longest_silence(events, 125, 200), (130, 500));
        assert_eq!(longest_silence(events, 505, 600), (500, 600));
        assert_eq!(longest_silence([], 0, 7), (0, 7));
    }
}
