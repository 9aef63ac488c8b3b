//! Tidies the tree: what a reviewer would otherwise have to say again and again. Reads source text only.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Longest line, as in rustfmt.toml with room for what rustfmt cannot break.
const COLUMNS_MAX: usize = 130;
/// Longest file that needs no reason.
const LINES_MAX: usize = 500;

/// Longer files, each with the reason why it is one piece.
const LONG_FILES: &[(&str, &str)] = &[
    (
        "coordinator/machine/tests/rules.rs",
        "one list of the log's rules, tried one by one",
    ),
    (
        "coordinator/src/leader/tests/scenarios.rs",
        "one scenario after the other",
    ),
    (
        "coordinator/src/leader/tests/world.rs",
        "the simulated world of the leader's tests",
    ),
    ("sql/src/bind/query.rs", "binds one statement, clause by clause"),
    ("sql/src/functions/time.rs", "one function after the other"),
];

/// A call that has one home.
struct Forbidden {
    call: &'static str,
    /// Files, or folders ending with `/`, where it may stand.
    homes: &'static [&'static str],
    instead: &'static str,
}

const FORBIDDEN: &[Forbidden] = &[
    Forbidden {
        call: "SystemTime::now",
        homes: &["common/src/clock.rs"],
        instead: "take a `holdfast_common::clock::SharedClock`, so that the code runs under a simulator",
    },
    Forbidden {
        call: "Utc::now",
        homes: &[],
        instead: "take a `holdfast_common::clock::SharedClock`, so that the code runs under a simulator",
    },
    Forbidden {
        call: "thread::spawn",
        homes: &[
            "worker/src/engine/",
            "worker/src/exchange/",
            "coordinator/raft/src/",
        ],
        instead: "use a task of the process's runtime; only slot threads and the log stores have threads of their own",
    },
    Forbidden {
        call: "rand::random",
        homes: &["cli/src/random.rs"],
        instead: "take a `holdfast_common::clock::SharedRandom`, so that a seed replays a run",
    },
    Forbidden {
        call: "process::exit",
        // A wrong arming must end a process under test before anybody takes its run for one with faults.
        homes: &["cli/src/", "common/src/inject/"],
        instead: "return an error; only the entry point decides the exit code",
    },
];

/// Words that say that something is not finished.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("HA", "CK"),
];

fn root() -> PathBuf {
    tests::binary::workspace()
}

fn members() -> Vec<String> {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let list = manifest
        .split("members = [")
        .nth(1)
        .unwrap()
        .split(']')
        .next()
        .unwrap();
    list.split(',')
        .map(|m| m.trim().trim_matches('"').to_owned())
        .filter(|m| !m.is_empty())
        .collect()
}

/// Every .rs file of the workspace by its path from the root, with its text.
fn sources() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for member in members() {
        collect(&root().join(member), &mut found);
    }
    assert!(found.len() > 50, "only {} source files were found", found.len());
    found
}

fn collect(dir: &Path, found: &mut BTreeMap<String, String>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for path in entries.flatten().map(|e| e.path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(&path, found);
        } else if name.ends_with(".rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let relative = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            found.insert(relative, text);
        }
    }
}

/// Not part of the product: may use the machine's clock and threads as it likes.
fn is_test_code(path: &str) -> bool {
    path.starts_with("tests/")
        || path.starts_with("benches/")
        || path.starts_with("jepsen/")
        || path.contains("/tests/")
        || path.contains("/benches/")
        || path.contains("/crash_matrix/")
        || path.contains("/examples/")
        || path.ends_with("/tests.rs")
        || path.ends_with("/testing.rs")
        || path.ends_with("_tests.rs")
        || path.ends_with("/build.rs")
}

/// The text before the file's `#[cfg(test)] mod` without its comments.
fn product_code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut previous_cfg_test = false;
    let lines = text.lines().enumerate().take_while(move |(_, line)| {
        let line = line.trim_start();
        let ends = previous_cfg_test && line.starts_with("mod ") && line.ends_with('{');
        if !line.starts_with("#[allow") && !line.starts_with("#![") {
            previous_cfg_test = line.starts_with("#[cfg(test)]");
        }
        !ends
    });
    lines
        .map(|(i, line)| (i + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn report(what: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "{what}:\n  {}", findings.join("\n  "));
}

#[test]
fn every_file_says_what_it_is_for() {
    let files = sources();
    let findings = files
        .iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(path, _)| path.clone());
    report(
        "files that do not open with `//!`: what it is for, and what it must not know",
        findings.collect(),
    );
}

#[test]
fn lines_are_short() {
    let mut findings = Vec::new();
    for (path, text) in sources() {
        for (i, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            // rustfmt cannot break a string: what people read is written as they read it.
            let holds_text = line.contains('"') && !line.trim_start().starts_with("//");
            if columns > COLUMNS_MAX && !holds_text {
                findings.push(format!("{path}:{} has {columns} columns", i + 1));
            }
        }
    }
    report(&format!("lines over {COLUMNS_MAX} columns"), findings);
}

#[test]
fn files_are_short_or_have_a_reason() {
    let allowed: BTreeMap<&str, &str> = LONG_FILES.iter().copied().collect();
    let files = sources();
    let mut findings = Vec::new();
    for (path, text) in &files {
        let lines = text.lines().count();
        match (lines > LINES_MAX, allowed.contains_key(path.as_str())) {
            (true, false) => findings.push(format!(
                "{path} has {lines} lines: split it, or give a reason in tidy.rs"
            )),
            (false, true) => findings.push(format!("{path} is short again: take it off the list in tidy.rs")),
            _ => {}
        }
    }
    findings.extend(
        allowed
            .keys()
            .filter(|p| !files.contains_key(**p))
            .map(|p| format!("{p} is gone")),
    );
    assert!(allowed.values().all(|reason| !reason.is_empty()));
    report(&format!("files over {LINES_MAX} lines"), findings);
}

#[test]
fn calls_stand_where_they_belong() {
    let mut findings = Vec::new();
    for (path, text) in sources() {
        if is_test_code(&path) {
            continue;
        }
        for (number, line) in product_code(&text) {
            for rule in FORBIDDEN.iter().filter(|rule| line.contains(rule.call)) {
                let at_home = rule
                    .homes
                    .iter()
                    .any(|home| path == *home || (home.ends_with('/') && path.starts_with(home)));
                if !at_home {
                    findings.push(format!("{path}:{number}: {}: {}", rule.call, rule.instead));
                }
            }
            if line.contains(".unwrap()") {
                findings.push(format!(
                    "{path}:{number}: .unwrap(): return an error that says what to do"
                ));
            }
        }
    }
    report("calls that do not belong there", findings);
}

#[test]
fn nothing_is_left_unfinished() {
    let mut findings = Vec::new();
    for (path, text) in sources() {
        for (i, line) in text.lines().enumerate() {
            let words: BTreeSet<&str> = line.split(|c: char| !c.is_ascii_alphanumeric()).collect();
            for word in UNFINISHED.iter().filter(|w| words.contains(**w)) {
                findings.push(format!("{path}:{}: {word}", i + 1));
            }
        }
    }
    report("notes of unfinished work: finish it, or file an issue", findings);
}

#[test]
fn only_the_log_knows_openraft() {
    let mut findings = Vec::new();
    for (path, text) in sources() {
        if path.starts_with("coordinator/raft/") || is_test_code(&path) {
            continue;
        }
        for (number, line) in product_code(&text).filter(|(_, line)| line.contains("openraft::")) {
            findings.push(format!("{path}:{number}: {}", line.trim()));
        }
    }
    report("all contact with openraft ends in coordinator/raft", findings);
}

/// Names of a manifest's `[dependencies]` (and target-specific ones), without those for tests and build scripts.
fn dependencies(member: &str) -> BTreeSet<String> {
    let manifest = std::fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            inside = section == "dependencies]" || section.ends_with(".dependencies]");
            if let Some(name) = section.strip_prefix("dependencies.") {
                names.insert(name.trim_end_matches(']').to_owned());
            }
            continue;
        }
        let name = line.split(['=', '.', ' ']).next().filter(|n| !n.is_empty());
        if let Some(name) = name.filter(|_| inside && !line.starts_with('#')) {
            names.insert(name.trim_matches('"').to_owned());
        }
    }
    names
}

/// Package name to folder.
fn packages() -> BTreeMap<String, String> {
    let mut packages = BTreeMap::new();
    for member in members() {
        let manifest = std::fs::read_to_string(root().join(&member).join("Cargo.toml")).unwrap();
        let name = manifest
            .lines()
            .find_map(|l| l.strip_prefix("name = "))
            .unwrap()
            .trim_matches('"');
        packages.insert(name.to_owned(), member);
    }
    packages
}

/// All dependencies of a package over the workspace's own packages: external names included.
fn reachable(package: &str, packages: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![package.to_owned()];
    while let Some(next) = open.pop() {
        let Some(folder) = packages.get(&next) else {
            continue;
        };
        for name in dependencies(folder) {
            if seen.insert(name.clone()) {
                open.push(name);
            }
        }
    }
    seen
}

#[test]
fn cargo_enforces_the_layers() {
    let packages = packages();
    // (package, what it must never reach, why)
    let laws: &[(&str, &[&str], &str)] = &[
        (
            "holdfast-coordinator",
            &["holdfast-worker"],
            "the two sides meet only in proto and common",
        ),
        (
            "holdfast-worker",
            &["holdfast-coordinator", "holdfast-machine", "holdfast-raft"],
            "the two sides meet only in proto and common",
        ),
        (
            "holdfast-machine",
            &["openraft", "holdfast-dataflow"],
            "the replicated state machine is pure",
        ),
        (
            "holdfast-sql",
            &["tokio", "holdfast-proto", "holdfast-storage"],
            "SQL is a function from text to graph",
        ),
        ("holdfast-dataflow", &["tokio", "tonic"], "the graph is a value"),
        (
            "holdfast-common",
            &["tokio", "tonic", "prost"],
            "vocabulary without IO",
        ),
        (
            "jepsen",
            &["holdfast-coordinator", "holdfast-worker", "holdfast-sql"],
            "the fault harness sees what users see",
        ),
    ];
    let mut findings = Vec::new();
    for (package, never, why) in laws {
        assert!(packages.contains_key(*package), "no package {package}");
        let reached = reachable(package, &packages);
        for name in never.iter().filter(|n| reached.contains(**n)) {
            findings.push(format!("{package} reaches {name}: {why}"));
        }
    }
    for (package, folder) in &packages {
        let direct = dependencies(folder);
        if package != "holdfast-raft" && direct.contains("openraft") {
            findings.push(format!("{package} names openraft: only holdfast-raft may"));
        }
        if package == "holdfast-machine" && direct.contains("tokio") {
            findings.push("holdfast-machine names tokio: the replicated state machine is pure".into());
        }
    }
    report("layers", findings);
}

#[test]
fn every_package_obeys_the_workspace_lints() {
    let findings = members().into_iter().filter(|member| {
        let manifest = std::fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
        !manifest.contains("[lints]\nworkspace = true")
    });
    report("packages without `[lints] workspace = true`", findings.collect());
}

#[test]
fn the_harness_sees_what_users_see() {
    let insides = [
        "holdfast_coordinator",
        "holdfast_worker",
        "holdfast_sql",
        "holdfast_machine",
    ];
    let mut findings = Vec::new();
    for (path, text) in sources() {
        // Only the simulators link the product; the cluster harness and its stories go by processes and REST.
        let ours = path.starts_with("tests/") && !path.starts_with("tests/src/sim/");
        if ours && path != "tests/src/bin/sim.rs" && path != "tests/tests/tidy.rs" {
            let named = insides.iter().filter(|inside| text.contains(**inside));
            findings.extend(named.map(|inside| format!("{path} names {inside}")));
        }
    }
    report("insides of the product in the cluster harness", findings);
}
