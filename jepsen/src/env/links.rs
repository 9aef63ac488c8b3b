//! The rules of the switch: what happens to a frame on its way from one port to another. Pure.

use crate::plan::Plane;
use crate::seed::Stream;
use std::time::Duration;

/// What is done to frames of a directed link. Rules of several faults lie over each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The fault that it belongs to.
    pub fault: u64,
    /// Which frames.
    pub plane: Plane,
    /// Nothing passes.
    pub drop: bool,
    /// Held for so long.
    pub delay: Duration,
    /// Up to so much longer.
    pub jitter: Duration,
    /// Of a thousand, lost.
    pub loss: u32,
    /// Of a thousand, delivered twice.
    pub duplicate: u32,
    /// Of a thousand, held back so that later ones overtake them.
    pub reorder: u32,
}

impl Rule {
    /// A rule that cuts the link for a plane.
    #[must_use]
    pub fn cut(fault: u64, plane: Plane) -> Self {
        Self {
            fault,
            plane,
            drop: true,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0,
            duplicate: 0,
            reorder: 0,
        }
    }

    fn meets(&self, plane: Plane) -> bool {
        self.plane == Plane::Any || self.plane == plane
    }
}

/// How a frame goes on: one delay per copy that is delivered; none if it is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fate {
    /// Delays of the copies.
    pub copies: Vec<Duration>,
    /// Whether a rule changed anything.
    pub touched: bool,
}

/// The rules of all links.
#[derive(Debug, Clone, Default)]
pub struct Table {
    ports: usize,
    rules: Vec<Vec<Rule>>,
}

impl Table {
    /// No rules between so many ports.
    #[must_use]
    pub fn new(ports: usize) -> Self {
        Self {
            ports,
            rules: vec![Vec::new(); ports * ports],
        }
    }

    /// Adds a rule to a directed link.
    pub fn add(&mut self, from: usize, to: usize, rule: Rule) {
        let at = from * self.ports + to;
        if from != to
            && let Some(rules) = self.rules.get_mut(at)
        {
            rules.push(rule);
        }
    }

    /// Removes the rules of a fault.
    pub fn remove(&mut self, fault: u64) {
        for rules in &mut self.rules {
            rules.retain(|rule| rule.fault != fault);
        }
    }

    /// Removes every rule.
    pub fn clear(&mut self) {
        self.rules.iter_mut().for_each(Vec::clear);
    }

    /// What becomes of a frame.
    #[must_use]
    pub fn fate(&self, from: usize, to: usize, plane: Plane, random: &mut Stream) -> Fate {
        let rules = self
            .rules
            .get(from * self.ports + to)
            .map_or(&[][..], Vec::as_slice);
        let mut delay = Duration::ZERO;
        let (mut twice, mut touched) = (false, false);
        for rule in rules.iter().filter(|rule| rule.meets(plane)) {
            touched = true;
            if rule.drop || random.per_mille(rule.loss) {
                return Fate {
                    copies: Vec::new(),
                    touched,
                };
            }
            let jitter = random.below(rule.jitter.as_micros() as u64 + 1);
            delay += rule.delay + Duration::from_micros(jitter);
            if random.per_mille(rule.reorder) {
                delay += Duration::from_micros(random.between(500, 10_000));
            }
            twice |= random.per_mille(rule.duplicate);
        }
        let mut copies = vec![delay];
        if twice {
            copies.push(delay + Duration::from_micros(random.between(0, 5_000)));
        }
        Fate { copies, touched }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_directed_and_meets_its_plane_alone() {
        let mut table = Table::new(3);
        table.add(0, 1, Rule::cut(7, Plane::Control));
        let mut random = Stream::new(1, "test");
        assert!(table.fate(0, 1, Plane::Control, &mut random).copies.is_empty());
        assert_eq!(table.fate(1, 0, Plane::Control, &mut random).copies.len(), 1);
        assert_eq!(table.fate(0, 1, Plane::Data, &mut random).copies.len(), 1);
        table.remove(8);
        assert!(table.fate(0, 1, Plane::Control, &mut random).copies.is_empty());
        table.remove(7);
        assert_eq!(table.fate(0, 1, Plane::Control, &mut random).copies.len(), 1);
    }

    #[test]
    fn rules_lie_over_each_other_and_losses_come_as_often_as_asked() {
        let mut table = Table::new(2);
        let slow = Rule {
            drop: false,
            delay: Duration::from_millis(20),
            ..Rule::cut(1, Plane::Any)
        };
        table.add(0, 1, slow.clone());
        table.add(
            0,
            1,
            Rule {
                fault: 2,
                ..slow.clone()
            },
        );
        let mut random = Stream::new(1, "test");
        assert_eq!(
            table.fate(0, 1, Plane::Any, &mut random).copies,
            [Duration::from_millis(40)]
        );
        table.clear();
        table.add(0, 1, Rule { loss: 200, ..slow });
        let arrived = (0..10_000)
            .filter(|_| !table.fate(0, 1, Plane::Data, &mut random).copies.is_empty())
            .count();
        assert!((7_800..8_200).contains(&arrived), "{arrived}");
    }
}
