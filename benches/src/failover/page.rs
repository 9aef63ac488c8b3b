//! docs/failover.md and its plots, from the results alone. Pure.

use super::svg::{self, Series};
use super::{Entry, Results, stats};
use std::fmt::Write;

/// A case in the page's order, with its title.
const CASES: [(&str, &str); 9] = [
    ("leader", "The leader dies (`kill -9`)"),
    ("leader-graceful", "The leader is asked to stop (SIGTERM)"),
    ("pause-leader", "The leader stands still for 3 s (SIGSTOP)"),
    ("partition-leader", "The leader is cut off for 3 s"),
    ("follower", "A follower dies (`kill -9`)"),
    ("worker", "A worker dies (`kill -9`)"),
    ("worker-silent", "A worker falls silent (SIGSTOP)"),
    ("blip", "A 1 s blip of the coordination"),
    ("storage-outage", "Snapshot storage fails for 5 s"),
];

/// How a system is called.
fn title(system: &str) -> &str {
    match system {
        "holdfast" => "Holdfast",
        "holdfast-fast" => "Holdfast, profile fast",
        "etcd" => "etcd (election only)",
        "flink" => "Flink + ZooKeeper, default timeouts",
        "flink-tuned" => "Flink + ZooKeeper, shortest timeouts",
        other => other,
    }
}

/// The page and its drawings: names and contents of the files of docs/.
#[must_use]
pub fn files(results: &Results) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut page = head(results);
    for (case, about) in CASES {
        let entries: Vec<&Entry> = results
            .entries
            .iter()
            .filter(|e| e.case == case && e.runs > 0)
            .collect();
        if entries.is_empty() {
            continue;
        }
        let _ = writeln!(page, "\n## {about}\n");
        table(&mut page, &entries);
        for (measure, name, of) in plots() {
            let series: Vec<Series> = entries
                .iter()
                .map(|e| Series {
                    label: e.system.clone(),
                    samples: of(e).clone(),
                })
                .filter(|s| !s.samples.is_empty())
                .collect();
            if series.is_empty() {
                continue;
            }
            let file = format!("failover-{case}-{measure}.svg");
            let plot = format!("{name}: share of failures within a time (ms)");
            let _ = writeln!(page, "\n![{plot}]({file})");
            files.push((file, svg::distribution(&plot, &series, &[])));
        }
        for entry in entries.iter().filter(|e| !e.what.is_empty()) {
            let _ = write!(page, "\n- {}: {}", title(&entry.system), entry.what);
            if !entry.measured.is_empty() {
                let _ = write!(page, "; measured {}", entry.measured);
            }
            if let Some(trouble) = &entry.trouble {
                let _ = write!(page, "; {trouble}");
            }
        }
        page.push('\n');
    }
    files.insert(0, ("failover.md".to_owned(), page));
    files
}

type Plot = (&'static str, &'static str, fn(&Entry) -> &Vec<f64>);

fn plots() -> [Plot; 2] {
    [
        ("control", "Control plane not served", |e| &e.write_gap_ms),
        ("output", "Output silent", |e| &e.output_gap_ms),
    ]
}

fn head(results: &Results) -> String {
    let mut page = String::from(
        "# Failover, side by side\n\nWritten by `cargo run --release -p benches --bin failover`; do not edit. Repeat Holdfast's \
         part with `holdfast drill CASE --runs N`.\n\n",
    );
    if let Some(machine) = &results.machine {
        let _ = writeln!(
            page,
            "Everything ran on one machine, one system at a time: {} processors ({}), Linux {}.",
            machine.cpus, machine.model, machine.kernel
        );
    }
    let _ = writeln!(
        page,
        "\nThe job is the same everywhere: {} numbered rows a second, parallelism 2, a checkpoint every second, to a \
         committing file sink, to the workers' output, and into a keyed window. *Control* is the longest time between two \
         served requests of an open-loop client that sends one every 10 ms: a committed write for Holdfast and etcd, for Flink \
         a REST request that only a leading JobManager answers. *Output* is the longest silence of one subtask's output. Rows \
         are lost or doubled if the committed files miss them or hold them twice. Dead processes are started again at once, \
         on both sides. Nothing is trimmed; the plots show every sample.",
        results.load
    );
    page
}

fn table(page: &mut String, entries: &[&Entry]) {
    page.push_str(
        "| system | failures | control p50 | max | output p50 | max | caught up p50 | max | tasks restarted | rows replayed \
         | lost | doubled |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for e in entries {
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            title(&e.system),
            e.runs,
            time(stats::p50(&e.write_gap_ms)),
            time(stats::max(&e.write_gap_ms)),
            time(stats::p50(&e.output_gap_ms)),
            time(stats::max(&e.output_gap_ms)),
            time(stats::p50(&e.caught_up_ms)),
            time(stats::max(&e.caught_up_ms)),
            count(e.tasks_restarted),
            count(e.records_replayed),
            count(e.rows_lost),
            count(e.rows_doubled)
        );
    }
    for e in entries {
        if let Some((value, name)) = stats::p99(&e.output_gap_ms) {
            let _ = writeln!(
                page,
                "\n{}: output {name} {}.",
                title(&e.system),
                time(Some(value))
            );
        }
    }
}

fn time(millis: Option<f64>) -> String {
    match millis {
        None => "-".to_owned(),
        Some(ms) if ms < 10.0 => format!("{ms:.1} ms"),
        Some(ms) if ms < 1000.0 => format!("{ms:.0} ms"),
        Some(ms) => format!("{:.1} s", ms / 1e3),
    }
}

fn count(count: Option<u64>) -> String {
    count.map_or("-".to_owned(), |c| c.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_a_table_and_plots_per_measured_case() {
        let mut results = Results {
            load: 1000,
            ..Results::default()
        };
        let entry = |system: &str, gap: f64| Entry {
            system: system.into(),
            case: "leader".into(),
            what: "v".into(),
            measured: "2026-01-02".into(),
            runs: 2,
            write_gap_ms: vec![gap, gap * 2.0],
            output_gap_ms: vec![gap / 10.0; 2],
            tasks_restarted: Some(0),
            ..Entry::default()
        };
        results.put(entry("holdfast", 200.0));
        results.put(entry("flink", 11_000.0));
        let files = files(&results);
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "failover.md",
                "failover-leader-control.svg",
                "failover-leader-output.svg"
            ]
        );
        let page = &files[0].1;
        assert!(
            page.contains("| Holdfast | 2 | 200 ms | 400 ms | 20 ms | 20 ms | - | - | 0 | - | - | - |"),
            "{page}"
        );
        assert!(
            page.contains("| Flink + ZooKeeper, default timeouts | 2 | 11.0 s | 22.0 s |"),
            "{page}"
        );
        assert!(page.contains("- Holdfast: v; measured 2026-01-02\n"), "{page}");
        assert!(!page.contains("A worker dies"), "it was not measured");
        assert_eq!(files[1].1.matches("<circle").count(), 4);
    }
}
