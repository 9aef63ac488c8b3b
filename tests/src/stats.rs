//! Order statistics over measured times. Nothing is trimmed.

use std::fmt;
use std::time::Duration;

/// Measured times, kept as they came.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    millis: Vec<f64>,
}

impl Samples {
    /// No samples yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one.
    pub fn push(&mut self, time: Duration) {
        self.millis.push(time.as_secs_f64() * 1e3);
    }

    /// Takes one that is in milliseconds already.
    pub fn push_ms(&mut self, millis: f64) {
        self.millis.push(millis);
    }

    /// All of them in milliseconds, in the order in which they were measured.
    #[must_use]
    pub fn millis(&self) -> &[f64] {
        &self.millis
    }

    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.millis.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.millis.is_empty()
    }

    /// The smallest sample that at least `share` of all samples do not exceed; 0 without samples. `share` in 0..=1.
    #[must_use]
    pub fn quantile(&self, share: f64) -> f64 {
        if self.millis.is_empty() {
            return 0.0;
        }
        let mut sorted = self.millis.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share.clamp(0.0, 1.0) * sorted.len() as f64).ceil() as usize;
        sorted[rank.clamp(1, sorted.len()) - 1]
    }

    /// The median.
    #[must_use]
    pub fn p50(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The 99th percentile.
    #[must_use]
    pub fn p99(&self) -> f64 {
        self.quantile(0.99)
    }

    /// The largest sample; 0 without samples.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.quantile(1.0)
    }

    /// The arithmetic mean; 0 without samples.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.millis.is_empty() {
            0.0
        } else {
            self.millis.iter().sum::<f64>() / self.millis.len() as f64
        }
    }
}

impl Extend<Duration> for Samples {
    fn extend<I: IntoIterator<Item = Duration>>(&mut self, times: I) {
        for time in times {
            self.push(time);
        }
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(millis: I) -> Self {
        Self {
            millis: millis.into_iter().collect(),
        }
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p50 {:.1} ms, max {:.1} ms of {} [",
            self.p50(),
            self.max(),
            self.len()
        )?;
        for (i, sample) in self.millis.iter().enumerate() {
            write!(f, "{}{sample:.1}", if i == 0 { "" } else { " " })?;
        }
        write!(f, "]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let samples: Samples = [5.0, 1.0, 3.0, 4.0, 2.0].into_iter().collect();
        assert!((samples.p50() - 3.0).abs() < f64::EPSILON);
        assert!((samples.quantile(0.0) - 1.0).abs() < f64::EPSILON);
        assert!((samples.p99() - 5.0).abs() < f64::EPSILON);
        assert!((samples.mean() - 3.0).abs() < f64::EPSILON);
        assert!(Samples::new().max().abs() < f64::EPSILON);
    }
}
