//! Plans drawn from seeds: what they hold and what they never hold.
#![allow(clippy::unwrap_used)]
use super::*;

fn wishes() -> Wishes {
    Wishes {
        faults: every_fault(),
        swarm: true,
        workloads: vec!["register".into()],
        fault_phase_ms: 60_000,
        mode: Mode::Isolated,
        object_storage: true,
    }
}

#[test]
fn a_seed_gives_one_plan_and_the_plan_survives_its_file() {
    let plan = draw(7, &wishes());
    assert_eq!(plan, draw(7, &wishes()));
    assert_ne!(plan.steps, draw(8, &wishes()).steps);
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
}

#[test]
fn every_fault_can_be_drawn_alone_and_is_over_before_the_phase() {
    for name in every_fault() {
        for seed in 0..20 {
            let one = Wishes {
                faults: vec![name],
                ..wishes()
            };
            let plan = draw(seed, &one);
            assert!(!plan.steps.is_empty(), "{name}");
            for step in &plan.steps {
                assert_eq!(step.name, name);
                assert!(step.at_ms + step.for_ms <= plan.fault_phase_ms, "{step:?}");
            }
        }
    }
}

#[test]
fn the_name_of_a_fault_is_not_taken_for_another() {
    let swarm = draw(1, &wishes()).swarm;
    for name in every_fault()
        .into_iter()
        .filter(|name| !name.starts_with("kill-"))
    {
        let (fault, _) = parameters(name, &mut Stream::new(1, "test"), &swarm);
        assert!(!matches!(fault, Fault::Kill { .. }), "{name} became {fault:?}");
    }
}

#[test]
fn a_run_without_faults_has_no_steps() {
    let none = Wishes {
        faults: Vec::new(),
        ..wishes()
    };
    assert!(draw(3, &none).steps.is_empty());
}

#[test]
fn groups_and_names_are_expanded_and_others_refused() {
    let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        super::super::expand(&names(&["kill-leader", "kill"]))
            .unwrap()
            .len(),
        7
    );
    assert_eq!(
        super::super::expand(&names(&["all"])).unwrap().len(),
        every_fault().len()
    );
    assert!(super::super::expand(&names(&["none"])).unwrap().is_empty());
    assert!(super::super::expand(&names(&["earthquake"])).is_err());
}
