//! Plans are the same in every process: no addresses, no order of hash maps, no clock.

use super::{FakeRegistry, golden, plan_after};
use holdfast_common::config::Configuration;
use std::collections::BTreeSet;

fn fingerprints() -> Vec<String> {
    let mut all = Vec::new();
    for file in ["plans.txt", "windows.txt", "tables.txt"] {
        let (prelude, cases) = golden::read(&golden::folder().join(file));
        for (_, sql, _) in cases {
            if let Ok(graph) = plan_after(&prelude, &sql) {
                all.push(format!("{}\n{:?}", graph.fingerprint(), graph.settings));
            }
        }
    }
    assert!(all.len() > 30, "only {} plans", all.len());
    all
}

#[test]
fn two_threads_plan_the_same() {
    let here = fingerprints();
    let handles: Vec<_> = (0..3).map(|_| std::thread::spawn(fingerprints)).collect();
    for handle in handles {
        assert_eq!(handle.join().unwrap(), here);
    }
}

#[test]
fn uids_are_unique_and_do_not_depend_on_parallelism_or_other_statements() {
    let prelude =
        "CREATE TABLE t (k STRING, v INT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'a');
        CREATE TABLE o (k STRING, v INT) WITH ('connector' = 'b');
        CREATE TABLE p (k STRING) WITH ('connector' = 'c')";
    let insert =
        "INSERT INTO o SELECT k, SUM(v) FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' HOUR))
        GROUP BY window_start, window_end, k";
    let other = "INSERT INTO p SELECT k FROM t";
    let uids = |sql: &str| -> BTreeSet<String> {
        let graph = plan_after(prelude, sql).unwrap();
        let all: Vec<String> = graph
            .vertices
            .iter()
            .flat_map(|v| v.chain.iter().map(|o| o.uid.clone()))
            .collect();
        let set: BTreeSet<String> = all.iter().cloned().collect();
        assert_eq!(set.len(), all.len(), "{all:?}");
        set
    };
    let alone = uids(insert);
    let wide = uids(&format!("SET 'parallelism.default' = '8'; {insert}"));
    assert_eq!(alone, wide);
    let beside = uids(&format!(
        "EXECUTE STATEMENT SET BEGIN {other}; {insert}; {insert}; END"
    ));
    assert!(beside.is_superset(&alone), "{beside:?} {alone:?}");
}

#[test]
fn settings_of_the_cluster_lie_under_those_of_the_script() {
    let mut base = Configuration::new();
    base.set("parallelism.default", "4").unwrap();
    base.set("execution.checkpointing.interval", "3 s").unwrap();
    base.set("rest.port", "9000").unwrap();
    let sql = "SET 'parallelism.default' = '2';
        CREATE TABLE t (k STRING) WITH ('connector' = 'a');
        CREATE TABLE o (k STRING) WITH ('connector' = 'b');
        INSERT INTO o SELECT k FROM t";
    let graph = crate::plan(sql, &base, &FakeRegistry).unwrap();
    assert_eq!(graph.parallelism, 2);
    assert_eq!(graph.max_parallelism, 128);
    let settings: Vec<String> = graph.settings.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        settings,
        ["execution.checkpointing.interval=3 s", "parallelism.default=2"]
    );
}

#[test]
fn a_script_over_the_limit_is_refused() {
    let sql = format!("-- {}", "x".repeat(holdfast_common::limits::SQL_TEXT_BYTES_MAX));
    let error = crate::plan(&sql, &Configuration::new(), &FakeRegistry).unwrap_err();
    assert!(error.message.contains("the limit is"), "{error}");
}
