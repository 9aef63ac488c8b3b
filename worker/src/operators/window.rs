//! Window arithmetic on milliseconds: panes (slices as long as the slide), windows made of panes, and what a watermark
//! closes. Must not know rows or state.

use holdfast_dataflow::graph::WindowKind;

/// Windows of one length at regular distance. A tumbling window slides by its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Length.
    pub size_ms: i64,
    /// Distance; the length is a multiple of it.
    pub slide_ms: i64,
    offset_ms: i64,
}

impl Windows {
    /// From the plan's form.
    ///
    /// # Errors
    /// If the slide is not positive or does not divide the size.
    pub fn new(kind: WindowKind) -> Result<Self, String> {
        let (slide_ms, size_ms, offset_ms) = match kind {
            WindowKind::Tumble { size_ms, offset_ms } => (size_ms, size_ms, offset_ms),
            WindowKind::Hop {
                slide_ms,
                size_ms,
                offset_ms,
            } => (slide_ms, size_ms, offset_ms),
        };
        if slide_ms <= 0 || size_ms < slide_ms || size_ms % slide_ms != 0 {
            return Err(format!(
                "windows of {size_ms} ms every {slide_ms} ms are not possible: the size must be a positive multiple of the slide"
            ));
        }
        Ok(Self {
            size_ms,
            slide_ms,
            offset_ms: offset_ms.rem_euclid(slide_ms),
        })
    }

    /// Windows that hold one instant.
    #[must_use]
    pub fn per_row(&self) -> i64 {
        self.size_ms / self.slide_ms
    }

    /// Start of the pane that holds an instant: the start of the last window that holds it.
    #[inline]
    #[must_use]
    pub fn pane_of(&self, at_ms: i64) -> i64 {
        let shifted = at_ms.saturating_sub(self.offset_ms);
        at_ms.saturating_sub(shifted.rem_euclid(self.slide_ms))
    }

    /// Whether every window that holds a pane has been closed by the watermark.
    #[must_use]
    pub fn pane_closed(&self, pane_ms: i64, watermark_ms: i64) -> bool {
        pane_ms.saturating_add(self.size_ms).saturating_sub(1) <= watermark_ms
    }

    /// The greatest window end that a watermark closes: a window `[s, e)` closes when the watermark reaches `e - 1`.
    /// None if the watermark closes nothing.
    #[must_use]
    pub fn closed_end(&self, watermark_ms: i64) -> Option<i64> {
        (watermark_ms != i64::MIN).then(|| self.pane_of(watermark_ms.saturating_add(1)))
    }

    /// The first window end after `closed` (all ends up to it are done) whose window holds the pane, if there is one.
    #[must_use]
    pub fn next_end(&self, pane_ms: i64, closed: Option<i64>) -> Option<i64> {
        let first = pane_ms.saturating_add(self.slide_ms);
        let last = pane_ms.saturating_add(self.size_ms);
        let next = closed.map_or(first, |c| first.max(c.saturating_add(self.slide_ms)));
        (next <= last).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// Every window that holds an instant, by definition.
    fn naive(at: i64, slide: i64, size: i64, offset: i64) -> Vec<(i64, i64)> {
        let from = (at - size - offset).div_euclid(slide) - 1;
        (from..from + size / slide + 4)
            .map(|k| (k * slide + offset, k * slide + offset + size))
            .filter(|(s, e)| *s <= at && at < *e)
            .collect()
    }

    proptest! {
        #[test]
        fn a_row_is_in_exactly_the_windows_that_hold_it(
            at in -100_000i64..100_000, slide in 1i64..500, times in 1i64..6, offset in -1000i64..1000,
        ) {
            let size = slide * times;
            let windows = Windows::new(WindowKind::Hop { slide_ms: slide, size_ms: size, offset_ms: offset }).unwrap();
            let pane = windows.pane_of(at);
            let mut closed = None;
            let mut found = Vec::new();
            while let Some(end) = windows.next_end(pane, closed) {
                found.push((end - size, end));
                closed = Some(end);
            }
            prop_assert_eq!(found, naive(at, slide, size, offset));
        }

        #[test]
        fn a_pane_closes_with_its_last_window(
            at in -10_000i64..10_000, slide in 1i64..100, times in 1i64..5, offset in 0i64..50, watermark in -10_000i64..10_000,
        ) {
            let size = slide * times;
            let windows = Windows::new(WindowKind::Hop { slide_ms: slide, size_ms: size, offset_ms: offset }).unwrap();
            let open = naive(at, slide, size, offset).iter().any(|(_, e)| watermark < e - 1);
            prop_assert_eq!(windows.pane_closed(windows.pane_of(at), watermark), !open);
            let closed = windows.closed_end(watermark).unwrap();
            prop_assert!(closed - 1 <= watermark && watermark < closed + slide - 1);
            prop_assert_eq!((closed - offset).rem_euclid(slide), 0);
        }
    }

    #[test]
    fn bad_windows_are_refused() {
        assert!(
            Windows::new(WindowKind::Tumble {
                size_ms: 0,
                offset_ms: 0
            })
            .is_err()
        );
        assert!(
            Windows::new(WindowKind::Hop {
                slide_ms: 3,
                size_ms: 10,
                offset_ms: 0
            })
            .is_err()
        );
    }

    #[test]
    fn the_ends_of_time_do_not_overflow() {
        let windows = Windows::new(WindowKind::Tumble {
            size_ms: 1000,
            offset_ms: 7,
        })
        .unwrap();
        assert!(windows.closed_end(i64::MAX).is_some());
        assert_eq!(windows.closed_end(i64::MIN), None);
        assert!(windows.pane_of(i64::MIN) < 0);
        assert!(windows.pane_closed(5007, i64::MAX));
    }
}
