//! From a target to nodes, when a step begins.

use super::Tools;
use crate::env::{Place, Role};
use crate::plan::Target;

impl Tools {
    /// The nodes that a target means now; running ones, except by name.
    pub(crate) fn resolve(&self, target: &Target) -> Vec<String> {
        let (coordinators, workers) = (self.cluster.coordinators(), self.cluster.workers());
        let leader = self.cluster.leader();
        resolve(target, leader.as_deref(), &coordinators, &workers)
    }

    /// Every coordinator and worker that the plan has, running or not.
    pub(crate) fn places(&self, role: Role) -> Vec<Place> {
        let places = self.cluster.env().places().iter();
        places.filter(|place| place.role == role).cloned().collect()
    }
}

/// The pure part of it.
fn resolve(
    target: &Target,
    leader: Option<&str>,
    coordinators: &[String],
    workers: &[String],
) -> Vec<String> {
    let nth = |names: Vec<&String>, n: u64| -> Vec<String> {
        let at = (n as usize).checked_rem(names.len());
        at.and_then(|at| names.get(at))
            .map(|name| (*name).clone())
            .into_iter()
            .collect()
    };
    match target {
        Target::Leader => leader.map(str::to_owned).into_iter().collect(),
        Target::Follower(n) => nth(
            coordinators
                .iter()
                .filter(|c| leader != Some(c.as_str()))
                .collect(),
            *n,
        ),
        Target::Majority => {
            let mut chosen: Vec<String> = leader.map(str::to_owned).into_iter().collect();
            let more = coordinators.iter().filter(|c| leader != Some(c.as_str()));
            chosen.extend(more.cloned());
            chosen.truncate(coordinators.len() / 2 + 1);
            chosen
        }
        Target::Coordinators => coordinators.to_vec(),
        Target::Worker(n) => nth(workers.iter().collect(), *n),
        Target::Workers => workers.to_vec(),
        Target::All => coordinators.iter().chain(workers).cloned().collect(),
        Target::Node(name) => vec![name.clone()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_become_names() {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let (c, w) = (names(&["c1", "c2", "c3"]), names(&["w1", "w2"]));
        let get = |target: &Target| resolve(target, Some("c2"), &c, &w);
        assert_eq!(get(&Target::Leader), ["c2"]);
        assert_eq!(get(&Target::Follower(0)), ["c1"]);
        assert_eq!(get(&Target::Follower(3)), ["c3"]);
        assert_eq!(get(&Target::Majority), ["c2", "c1"]);
        assert_eq!(get(&Target::Worker(1)), ["w2"]);
        assert_eq!(get(&Target::All).len(), 5);
        assert!(resolve(&Target::Leader, None, &c, &w).is_empty());
        assert!(resolve(&Target::Worker(0), None, &c, &[]).is_empty());
    }
}
