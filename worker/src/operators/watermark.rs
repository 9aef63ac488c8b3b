//! Watermarks of a source subtask: the least over its splits. Pure: time is an argument. Must not know readers.

use super::NO_WATERMARK;

#[derive(Debug, Clone)]
struct Split {
    watermark_ms: i64,
    finished: bool,
    last_active_ms: u64,
    idle: bool,
}

/// Watermarks of all splits of one subtask.
#[derive(Debug, Clone)]
pub struct SplitWatermarks {
    splits: Vec<Split>,
    /// Silence after which a split no longer counts; 0 is never.
    idle_timeout_ms: u64,
    /// The greatest subtask watermark so far: it never goes back, also when an idle split wakes up behind it.
    reached_ms: i64,
    created_ms: u64,
}

impl SplitWatermarks {
    /// No splits yet.
    #[must_use]
    pub fn new(idle_timeout_ms: u64, now_ms: u64) -> Self {
        Self {
            splits: Vec::new(),
            idle_timeout_ms,
            reached_ms: NO_WATERMARK,
            created_ms: now_ms,
        }
    }

    /// Adds a split, with what a restore says of it.
    pub fn add(&mut self, watermark_ms: i64, finished: bool, now_ms: u64) {
        self.splits.push(Split {
            watermark_ms,
            finished,
            last_active_ms: now_ms,
            idle: false,
        });
    }

    /// Number of splits known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.splits.len()
    }

    /// A split brought rows; `watermark_ms` is the greatest value of the watermark expression among them, if any.
    pub fn observe(&mut self, split: usize, watermark_ms: Option<i64>, now_ms: u64) {
        if let Some(split) = self.splits.get_mut(split) {
            split.watermark_ms = split.watermark_ms.max(watermark_ms.unwrap_or(NO_WATERMARK));
            split.last_active_ms = now_ms;
            split.idle = false;
        }
    }

    /// A split has come to its end.
    pub fn finish(&mut self, split: usize) {
        if let Some(split) = self.splits.get_mut(split) {
            split.finished = true;
        }
    }

    /// A split's own watermark.
    #[must_use]
    pub fn of(&self, split: usize) -> i64 {
        self.splits.get(split).map_or(NO_WATERMARK, |s| s.watermark_ms)
    }

    /// Marks splits that have been silent for too long.
    pub fn tick(&mut self, now_ms: u64) {
        if self.idle_timeout_ms == 0 {
            return;
        }
        for split in &mut self.splits {
            split.idle = split.idle || now_ms.saturating_sub(split.last_active_ms) >= self.idle_timeout_ms;
        }
    }

    /// Whether every split is silent, so that the whole subtask holds nobody back.
    #[must_use]
    pub fn all_idle(&self, now_ms: u64) -> bool {
        if self.idle_timeout_ms == 0 {
            return false;
        }
        if self.splits.is_empty() {
            return now_ms.saturating_sub(self.created_ms) >= self.idle_timeout_ms;
        }
        let mut open = self.splits.iter().filter(|s| !s.finished).peekable();
        open.peek().is_some() && open.all(|s| s.idle)
    }

    /// The subtask's watermark: the least over splits that are neither finished nor idle. A split that has none yet
    /// holds it where it is.
    pub fn combined(&mut self) -> i64 {
        let least = self
            .splits
            .iter()
            .filter(|s| !s.finished && !s.idle)
            .map(|s| s.watermark_ms)
            .min();
        if let Some(least) = least {
            self.reached_ms = self.reached_ms.max(least);
        }
        self.reached_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_split_counts_and_one_without_holds() {
        let mut w = SplitWatermarks::new(0, 0);
        w.add(NO_WATERMARK, false, 0);
        w.add(NO_WATERMARK, false, 0);
        w.observe(0, Some(100), 0);
        assert_eq!(w.combined(), NO_WATERMARK);
        w.observe(1, Some(50), 0);
        assert_eq!(w.combined(), 50);
        w.observe(1, Some(40), 0);
        assert_eq!(w.combined(), 50);
        w.finish(1);
        assert_eq!(w.combined(), 100);
        w.finish(0);
        assert_eq!(w.combined(), 100);
    }

    #[test]
    fn silence_releases_and_a_late_riser_does_not_turn_time_back() {
        let mut w = SplitWatermarks::new(10, 0);
        w.add(NO_WATERMARK, false, 0);
        w.add(NO_WATERMARK, false, 0);
        w.observe(0, Some(100), 5);
        w.tick(9);
        assert_eq!(w.combined(), NO_WATERMARK);
        w.tick(10);
        assert_eq!(w.combined(), 100);
        assert!(!w.all_idle(10));
        w.observe(1, Some(20), 11);
        assert_eq!(w.combined(), 100);
        w.tick(30);
        assert!(w.all_idle(30));
    }

    #[test]
    fn a_restored_watermark_counts() {
        let mut w = SplitWatermarks::new(0, 0);
        w.add(70, false, 0);
        w.add(90, true, 0);
        assert_eq!(w.combined(), 70);
        assert_eq!(w.of(1), 90);
    }
}
