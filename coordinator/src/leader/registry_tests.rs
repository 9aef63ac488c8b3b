//! Tests of the worker registry.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

fn hello(name: &str, incarnation: u128, session: SessionId) -> Hello {
    Hello {
        session,
        resource_id: name.to_owned(),
        incarnation: Incarnation(incarnation),
        data_addr: "127.0.0.1:1".to_owned(),
        slots: 2,
        ..Hello::default()
    }
}

fn is_lost(changes: &[Change], incarnation: u128) -> bool {
    changes
        .iter()
        .any(|c| matches!(c, Change::Lost(w) if w.incarnation == Incarnation(incarnation)))
}

#[test]
fn a_killed_worker_is_lost_when_the_redial_is_refused() {
    let mut registry = Registry::new(200, 2000);
    registry.attach(hello("w1", 1, 10), 0, 0);
    let changes = registry.closed(10);
    assert_eq!(
        changes,
        vec![Change::Redial(Incarnation(1), "127.0.0.1:1".to_owned())]
    );
    assert!(registry.session(Incarnation(1)).is_none());
    assert!(is_lost(&registry.redialed(Incarnation(1), true), 1));
    assert!(registry.get(Incarnation(1)).is_none());
}

#[test]
fn a_broken_connection_alone_waits_for_the_timeout() {
    let mut registry = Registry::new(200, 2000);
    registry.attach(hello("w1", 1, 10), 0, 0);
    registry.closed(10);
    assert!(registry.redialed(Incarnation(1), false).is_empty());
    assert!(registry.tick(1999).is_empty());
    let mut back = registry.clone();
    assert!(
        back.attach(hello("w1", 1, 11), 1999, 0)
            .contains(&Change::Attached(Incarnation(1), 11))
    );
    assert!(back.tick(3000).is_empty());
    assert!(is_lost(&registry.tick(2000), 1));
}

#[test]
fn a_late_refusal_does_not_lose_a_worker_that_came_back() {
    let mut registry = Registry::new(200, 2000);
    registry.attach(hello("w1", 1, 10), 0, 0);
    registry.closed(10);
    registry.attach(hello("w1", 1, 11), 5, 0);
    assert!(registry.redialed(Incarnation(1), true).is_empty());
}

#[test]
fn a_restarted_process_replaces_the_old_one_which_may_not_return() {
    let mut registry = Registry::new(200, 2000);
    registry.attach(hello("w1", 1, 10), 0, 0);
    let changes = registry.attach(hello("w1", 2, 11), 1, 0);
    assert!(is_lost(&changes, 1));
    assert!(matches!(&changes[0], Change::Refuse(10, _)));
    let changes = registry.attach(hello("w1", 1, 12), 2, 0);
    assert!(matches!(&changes[..], [Change::Refuse(12, _)]));
    assert!(registry.session(Incarnation(2)).is_some());
}

#[test]
fn a_leader_that_stood_still_blames_nobody() {
    let mut registry = Registry::new(200, 2000);
    registry.attach(hello("w1", 1, 10), 1000, 0);
    registry.attach(hello("w2", 2, 11), 1000, 0);
    for now in (1000..2000).step_by(200) {
        registry.wake(now);
        registry.heard(11, now, 0);
    }
    // Five seconds pass without a look; then both have as long as they had before.
    registry.wake(6800);
    assert!(registry.tick(6800).is_empty());
    for now in (6800..9000).step_by(200) {
        registry.wake(now);
        registry.heard(11, now, 0);
        let changes = registry.tick(now);
        assert!(!is_lost(&changes, 2));
        if now < 7800 {
            assert!(changes.is_empty(), "{now}");
        }
    }
    assert!(registry.get(Incarnation(1)).is_none(), "its silence did go on");
}

#[test]
fn work_is_held_back_for_workers_that_are_started_again() {
    let mut registry = Registry::new(200, 2000);
    registry.wake(0);
    let worker = Worker {
        resource_id: "w1".into(),
        incarnation: Incarnation(1),
        data_addr: "127.0.0.1:1".into(),
        slots: 1,
        version: String::new(),
        pid: 1,
        registered_ms: 0,
    };
    registry.expect(&worker, 0);
    assert!(registry.awaits_any());
    registry.redialed(Incarnation(1), true);
    assert!(registry.awaits_any());
    let mut late = registry.clone();
    registry.attach(hello("w1", 2, 10), 5, 0);
    assert!(!registry.awaits_any());
    late.tick(RETURN_WAIT_MS);
    assert!(!late.awaits_any());
}

#[derive(Debug, Clone)]
enum Event {
    Attach(u8, u8),
    Closed(u64),
    Redialed(u8, bool),
    Heard(u64),
    Leaving(u64),
    Tick(u16),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        (0u8..3, 0u8..3).prop_map(|(name, n)| Event::Attach(name, n)),
        (0u64..30).prop_map(Event::Closed),
        (0u8..9, any::<bool>()).prop_map(|(n, refused)| Event::Redialed(n, refused)),
        (0u64..30).prop_map(Event::Heard),
        (0u64..30).prop_map(Event::Leaving),
        (0u16..1500).prop_map(Event::Tick),
    ];
    prop::collection::vec(event, 0..60)
}

proptest! {
    /// One name has at most one process; a session belongs to one attached worker; a worker is lost at most once
    /// per registration; and nobody outlives the timeout unheard.
    #[test]
    fn invariants_hold(events in events()) {
        let mut registry = Registry::new(200, 2000);
        let mut now = 0;
        let mut next_session = 0;
        let mut present: BTreeSet<Incarnation> = BTreeSet::new();
        for event in events {
            let changes = match event {
                Event::Attach(name, n) => {
                    next_session += 1;
                    let incarnation = u128::from(name) * 3 + u128::from(n);
                    registry.attach(hello(&format!("w{name}"), incarnation, next_session), now, 0)
                }
                Event::Closed(s) => registry.closed(s),
                Event::Redialed(n, refused) => registry.redialed(Incarnation(u128::from(n)), refused),
                Event::Heard(s) => { registry.heard(s, now, 0); Vec::new() }
                Event::Leaving(s) => registry.leaving(s, "test"),
                Event::Tick(ms) => { now += u64::from(ms); registry.tick(now) }
            };
            for change in changes {
                match change {
                    Change::Attached(i, _) => { present.insert(i); }
                    Change::Lost(w) => prop_assert!(present.remove(&w.incarnation)),
                    _ => {}
                }
            }
            let mut names = BTreeSet::new();
            for entry in registry.iter() {
                prop_assert!(names.insert(entry.resource_id.clone()));
                prop_assert!(present.contains(&entry.incarnation));
                if let Link::Attached(session) = entry.link {
                    prop_assert_eq!(registry.sessions.get(&session), Some(&entry.incarnation));
                }
            }
            prop_assert_eq!(present.len(), registry.workers.len());
            prop_assert!(registry.tick(now).is_empty() || registry.workers.values().all(|e| registry.lost_at(e) > now));
            present = registry.workers.keys().copied().collect();
        }
    }
}
