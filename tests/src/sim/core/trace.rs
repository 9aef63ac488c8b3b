//! What has happened: a hash that costs next to nothing, and text when somebody asks for it. Text is made only in a
//! traced run; a seed that fails is simply run again with it.

use std::collections::VecDeque;

/// Events kept for a report.
const TAIL: usize = 200;

#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) hash: u64,
    pub(super) tail: VecDeque<String>,
    keep: bool,
    print: bool,
}

impl Trace {
    pub(super) fn new(keep: bool, print: bool) -> Self {
        Self {
            keep: keep || print,
            print,
            ..Self::default()
        }
    }

    /// Something happened; `text` is asked for only if anybody will read it.
    pub(super) fn note(&mut self, now_us: u64, numbers: [u64; 3], text: impl FnOnce() -> String) {
        for number in [now_us, numbers[0], numbers[1], numbers[2]] {
            self.hash = (self.hash ^ number)
                .wrapping_mul(0x9fb2_1c65_1e98_df25)
                .rotate_left(23);
        }
        if !self.keep {
            return;
        }
        let line = format!("{:>11.3} ms  {}", now_us as f64 / 1000.0, text());
        if self.print {
            println!("{line}");
        }
        if self.tail.len() >= TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }
}
