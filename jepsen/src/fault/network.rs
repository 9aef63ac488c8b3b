//! Faults of the network: which directed links are cut or disturbed, and by which rules.

use super::process::installed;
use super::{Outcome, Tools, skipped};
use crate::env::links::Rule;
use crate::env::{Net, OBJECTS, Role};
use crate::plan::{Fault, Plane, Shape, Target};
use anyhow::{Context, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Directed links by the nodes' names.
type Links = Vec<(String, String)>;

/// Who is there when a partition begins.
struct Scene {
    leader: Option<String>,
    coordinators: Vec<String>,
    workers: Vec<String>,
    everybody: Vec<String>,
}

fn both(links: &mut Links, left: &[String], right: &[String]) {
    one_way(links, left, right);
    one_way(links, right, left);
}

fn one_way(links: &mut Links, from: &[String], to: &[String]) {
    for a in from {
        links.extend(to.iter().filter(|b| *b != a).map(|b| (a.clone(), b.clone())));
    }
}

fn without(all: &[String], some: &[String]) -> Vec<String> {
    all.iter().filter(|name| !some.contains(name)).cloned().collect()
}

/// The links that a shape cuts, and whom it means.
fn cut(scene: &Scene, shape: &Shape, resolve: impl Fn(&Target) -> Vec<String>) -> (Vec<String>, Links) {
    let mut links = Vec::new();
    let mut ordered: Vec<String> = scene.leader.clone().into_iter().collect();
    ordered.extend(
        scene
            .coordinators
            .iter()
            .filter(|c| Some(*c) != scene.leader.as_ref())
            .cloned(),
    );
    let targets = match shape {
        Shape::Alone(target) => {
            let targets = resolve(target);
            both(&mut links, &targets, &without(&scene.everybody, &targets));
            targets
        }
        Shape::AmongCoordinators(target) => {
            let targets = resolve(target);
            both(&mut links, &targets, &without(&scene.coordinators, &targets));
            targets
        }
        Shape::Halves { leader_minor } => {
            if !leader_minor {
                ordered.reverse();
            }
            // The first are fewer than half: with the leader, or (reversed) without.
            let mut minor: Vec<String> = ordered
                .iter()
                .take(ordered.len().saturating_sub(1) / 2)
                .cloned()
                .collect();
            minor.extend(scene.workers.iter().take(scene.workers.len() / 2).cloned());
            let all: Vec<String> = scene.coordinators.iter().chain(&scene.workers).cloned().collect();
            both(&mut links, &minor, &without(&all, &minor));
            minor
        }
        Shape::Ring => {
            let n = ordered.len();
            for a in 0..n {
                for b in 0..n {
                    let apart = (a + n - b) % n;
                    if apart > 1 && apart < n - 1 {
                        links.push((ordered[a].clone(), ordered[b].clone()));
                    }
                }
            }
            if n == 3 {
                both(&mut links, &ordered[..1], &ordered[2..]);
            }
            ordered
        }
        Shape::Bridge => {
            if let [first, .., last] = ordered.as_slice() {
                both(
                    &mut links,
                    std::slice::from_ref(first),
                    std::slice::from_ref(last),
                );
            }
            ordered
        }
        Shape::OneWayIn(target) => {
            let targets = resolve(target);
            one_way(&mut links, &without(&scene.everybody, &targets), &targets);
            targets
        }
        Shape::OneWayOut(target) => {
            let targets = resolve(target);
            one_way(&mut links, &targets, &without(&scene.everybody, &targets));
            targets
        }
        Shape::WorkersFromCoordinators(target) => {
            let targets = resolve(target);
            both(&mut links, &targets, &scene.coordinators);
            targets
        }
        Shape::WorkersApart => {
            both(&mut links, &scene.workers, &scene.workers);
            scene.workers.clone()
        }
        Shape::FromStorage(target) => {
            let targets = resolve(target);
            both(&mut links, &targets, &[OBJECTS.to_owned()]);
            targets
        }
    };
    links.sort();
    links.dedup();
    (targets, links)
}

fn scene(tools: &Tools) -> Scene {
    let names = |role| {
        tools
            .places(role)
            .into_iter()
            .map(|place| place.name)
            .collect::<Vec<_>>()
    };
    Scene {
        leader: tools.cluster.leader(),
        coordinators: names(Role::Coordinator),
        workers: names(Role::Worker),
        everybody: tools
            .cluster
            .env()
            .places()
            .iter()
            .map(|place| place.name.clone())
            .collect(),
    }
}

pub(super) fn partition(
    tools: &Tools,
    fault: u64,
    shape: &Shape,
    plane: Plane,
    flap: Option<u64>,
) -> Result<Outcome> {
    let env = tools.cluster.env();
    let (targets, links) = cut(&scene(tools), shape, |target| tools.resolve(target));
    if targets.is_empty() || links.is_empty() {
        return skipped("nobody is there to be parted");
    }
    let ports: Vec<(usize, usize)> = links
        .iter()
        .filter_map(|(a, b)| Some((env.port(a)?, env.port(b)?)))
        .collect();
    let rules: Vec<_> = ports
        .iter()
        .map(|(a, b)| (*a, *b, Rule::cut(fault, plane)))
        .collect();
    let detail = format!("{} directed links, {plane:?}", rules.len());
    let net = env.net().context("the network")?;
    let before = net.met(&ports).1;
    net.add(&rules);
    let flapping =
        flap.map(|every| Flapping::start(tools, fault, rules, Duration::from_millis(every.max(5))));
    let own = tools.clone();
    let heal = move || {
        drop(flapping.transpose()?);
        let net = own.cluster.env().net().context("the network")?;
        net.remove(fault);
        Ok(Some(net.met(&ports).1 > before))
    };
    Ok(installed(targets, detail, heal, None))
}

/// A link that comes and goes.
struct Flapping {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Flapping {
    fn start(tools: &Tools, fault: u64, rules: Vec<(usize, usize, Rule)>, every: Duration) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (own, ended) = (tools.clone(), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("flapping".into())
            .spawn(move || {
                let mut cut = true;
                while !ended.load(Ordering::SeqCst) {
                    std::thread::sleep(every);
                    let Some(net) = own.cluster.env().net() else {
                        return;
                    };
                    cut = !cut;
                    if cut {
                        net.add(&rules);
                    } else {
                        net.remove(fault);
                    }
                }
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Flapping {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(super) fn packets(tools: &Tools, fault: u64, parameters: &Fault) -> Result<Outcome> {
    let Fault::Packets {
        target,
        delay_ms,
        jitter_ms,
        loss,
        duplicate,
        reorder,
    } = parameters
    else {
        return skipped("no fault of packets");
    };
    let env = tools.cluster.env();
    let Some(net @ Net::Switch(_)) = env.net() else {
        return skipped("streams through relays have no packets");
    };
    let targets = tools.resolve(target);
    if targets.is_empty() {
        return skipped("nobody is there");
    }
    let rule = Rule {
        drop: false,
        delay: Duration::from_millis((*delay_ms).into()),
        jitter: Duration::from_millis((*jitter_ms).into()),
        loss: *loss,
        duplicate: *duplicate,
        reorder: *reorder,
        ..Rule::cut(fault, Plane::Any)
    };
    let mut ports = Vec::new();
    let mine: Vec<usize> = targets.iter().filter_map(|name| env.port(name)).collect();
    for other in 0..env.places().len() {
        for own in mine.iter().filter(|own| **own != other) {
            ports.extend([(*own, other), (other, *own)]);
        }
    }
    ports.sort_unstable();
    ports.dedup();
    let rules: Vec<_> = ports.iter().map(|(a, b)| (*a, *b, rule.clone())).collect();
    let before = net.met(&ports).0;
    net.add(&rules);
    let own = tools.clone();
    let heal = move || {
        let net = own.cluster.env().net().context("the network")?;
        net.remove(fault);
        Ok(Some(net.met(&ports).0 > before))
    };
    let detail = format!(
        "+{delay_ms}..{} ms, lost {loss}, twice {duplicate}, late {reorder} of 1000",
        delay_ms + jitter_ms
    );
    Ok(installed(targets, detail, heal, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|n| (*n).to_owned()).collect()
    }

    fn links_of(coordinators: &[&str], shape: &Shape) -> Links {
        let scene = Scene {
            leader: Some("c2".into()),
            coordinators: names(coordinators),
            workers: names(&["w1", "w2"]),
            everybody: [names(coordinators), names(&["w1", "w2", "obj", "k1"])].concat(),
        };
        cut(&scene, shape, |target| match target {
            Target::Leader => names(&["c2"]),
            Target::Workers => names(&["w1", "w2"]),
            _ => Vec::new(),
        })
        .1
    }

    fn has(links: &Links, from: &str, to: &str) -> bool {
        links.contains(&(from.to_owned(), to.to_owned()))
    }

    #[test]
    fn shapes_cut_what_they_say() {
        let three = ["c1", "c2", "c3"];
        let alone = links_of(&three, &Shape::Alone(Target::Leader));
        assert_eq!(alone.len(), 12);
        assert!(has(&alone, "c2", "k1") && has(&alone, "obj", "c2") && !has(&alone, "c1", "c3"));
        let inward = links_of(&three, &Shape::OneWayIn(Target::Leader));
        assert!(has(&inward, "c1", "c2") && !has(&inward, "c2", "c1"));
        let bridge = links_of(&three, &Shape::Bridge);
        assert_eq!(bridge.len(), 2);
        assert!(has(&bridge, "c2", "c3"));
        let workers = links_of(&three, &Shape::WorkersFromCoordinators(Target::Workers));
        assert_eq!(workers.len(), 12);
        assert!(!has(&workers, "w1", "w2"));
        assert_eq!(links_of(&three, &Shape::WorkersApart).len(), 2);
        assert_eq!(links_of(&three, &Shape::FromStorage(Target::Leader)).len(), 2);
    }

    #[test]
    fn a_ring_of_five_leaves_two_neighbours_and_halves_leave_a_majority() {
        let five = ["c1", "c2", "c3", "c4", "c5"];
        let ring = links_of(&five, &Shape::Ring);
        assert_eq!(ring.len(), 10);
        for node in five {
            assert_eq!(ring.iter().filter(|(from, _)| from == node).count(), 2, "{node}");
        }
        assert_eq!(links_of(&["c1", "c2", "c3"], &Shape::Ring).len(), 2);
        let minor = links_of(&five, &Shape::Halves { leader_minor: true });
        // Two coordinators and a worker from three and a worker, both ways.
        assert_eq!(minor.len(), 24);
        assert!(has(&minor, "c2", "c3") && !has(&minor, "c2", "c1"));
        let major = links_of(&five, &Shape::Halves { leader_minor: false });
        assert!(!has(&major, "c2", "c1") && has(&major, "c2", "c5"));
    }
}
