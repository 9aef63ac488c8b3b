//! The page of one run.

use super::axis::Axis;
use super::html::{escape, table};
use super::{lanes, latency, operations};
use crate::check::faults::bands;
use crate::history::{Event, Finding, Verdict};
use crate::runner::RunInfo;
use std::fmt::Write;

const STYLE: &str = "
body{font:14px/1.45 system-ui,sans-serif;margin:24px auto;max-width:1240px;padding:0 16px;color:#1c2430;background:#fff}
h1{font-size:22px}h2{font-size:16px;margin:28px 0 6px}table{border-collapse:collapse;font-size:13px}
th,td{padding:3px 10px;border-bottom:1px solid #e3e7ec;text-align:left;vertical-align:top}
.plot{background:#fafbfc;border:1px solid #e3e7ec;display:block}.small,.tick,.name,.term{font-size:12px;color:#66707c}
.plot .tick{font-size:9px;fill:#66707c}.plot .name{font-size:10px;fill:#1c2430}.plot .term{font-size:9px;fill:#fff}
.grid{stroke:#e3e7ec}.band{fill:#f4a93c;opacity:.16}.fault{fill:#e58a00}.skipped{fill:#c8ced6}
.ok{stroke:#2c8a4b;stroke-width:5}.fail{stroke:#8a94a0;stroke-width:5}.info{stroke:#c5302c;stroke-width:5}
.dok{fill:#2c8a4b;opacity:.6}.dfail{fill:#8a94a0;opacity:.7}.dinfo{fill:#c5302c;opacity:.8}
.up{fill:#57b173}.down{fill:#c5302c}.leader{fill:#2f6fb5}.follower{fill:#cfdbe8}
.start{stroke:#2c8a4b;stroke-width:2}.exit{stroke:#c5302c;stroke-width:2}
.done{fill:#2c8a4b}.undone{fill:#c5302c}.attempt{stroke:#7a3fb0;stroke-width:1.5}.file{stroke:#2f6fb5}
.valid{color:#2c8a4b}.unknown{color:#a06800}.invalid{color:#c5302c}
details pre{white-space:pre-wrap;background:#f5f6f8;padding:8px}
#hint{position:fixed;background:#1c2430;color:#fff;padding:4px 8px;font-size:12px;max-width:640px;display:none;border-radius:3px}
button{font:inherit;font-size:12px}";

/// Shows an element's title at once, and hides outcomes by their button.
const SCRIPT: &str = "
const hint=document.getElementById('hint');
document.addEventListener('mousemove',e=>{const t=e.target.closest&&e.target.closest('svg *');
const title=t&&t.querySelector('title');if(!title){hint.style.display='none';return}
hint.textContent=title.textContent;hint.style.display='block';
hint.style.left=Math.min(e.clientX+12,innerWidth-660)+'px';hint.style.top=(e.clientY+14)+'px'});
document.querySelectorAll('button[data-c]').forEach(b=>b.onclick=()=>{const off=b.classList.toggle('off');
b.style.opacity=off?.4:1;
b.dataset.c.split(' ').forEach(c=>document.querySelectorAll('.'+c).forEach(e=>e.style.display=off?'none':''))});";

/// A verdict's word, which is its class in the style, too.
pub(super) fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "valid",
        Verdict::Unknown => "unknown",
        Verdict::Invalid => "invalid",
    }
}

fn findings(out: &mut String, findings: &[Finding]) {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|f| std::cmp::Reverse(f.verdict));
    out.push_str("<table><tr><th>checker</th><th>verdict</th><th>finding</th></tr>");
    for finding in sorted {
        let word = word(finding.verdict);
        let _ = write!(
            out,
            "<tr><td>{}</td><td class=\"{word}\"><b>{word}</b></td><td>{}",
            escape(&finding.checker),
            escape(&finding.summary)
        );
        if !finding.evidence.is_empty() {
            let open = if finding.verdict == Verdict::Invalid {
                " open"
            } else {
                ""
            };
            let _ = write!(
                out,
                "<details{open}><summary>{} lines</summary><pre>{}</pre></details>",
                finding.evidence.len(),
                escape(&finding.evidence.join("\n"))
            );
        }
        out.push_str("</td></tr>");
    }
    out.push_str("</table>");
}

fn about(run: &RunInfo) -> Vec<Vec<String>> {
    let swarm = serde_json::to_value(&run.plan.swarm).unwrap_or_default();
    let told: Vec<String> = swarm
        .as_object()
        .map(|fields| {
            fields
                .iter()
                .map(|(name, value)| format!("{name} {value}"))
                .collect()
        })
        .unwrap_or_default();
    let mut rows = vec![
        vec!["what".into(), "value".into()],
        vec!["seed".into(), run.seed.to_string()],
        vec!["binary".into(), run.binary.clone()],
        vec!["began, ms since 1970".into(), run.started_unix_ms.to_string()],
        vec!["took".into(), format!("{} ms", run.duration_ms)],
        vec!["cluster".into(), told.join(", ")],
        vec!["workloads".into(), run.plan.workloads.join(", ")],
        vec!["steps planned".into(), run.plan.steps.len().to_string()],
    ];
    for (name, value) in &run.plan.environment {
        rows.push(vec![name.clone(), value.clone()]);
    }
    if !run.left_out.is_empty() {
        rows.push(vec!["left out".into(), run.left_out.join("; ")]);
    }
    if let Some(error) = &run.harness_error {
        rows.push(vec!["the harness failed".into(), error.clone()]);
    }
    rows
}

/// The whole page.
pub(super) fn page(run: &RunInfo, history: &[Event], all: &[Finding]) -> String {
    let axis = Axis {
        end: history.iter().map(|e| e.t).max().unwrap_or(1),
    };
    let bands = bands(history);
    let word = word(run.verdict);
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <title>Run {seed}: {word}</title><style>{STYLE}</style></head>\
         <body><h1>Run {seed}: <span class=\"{word}\">{word}</span></h1>",
        seed = run.seed
    );
    out.push_str(&table(&about(run)));
    out.push_str("<h2>Findings</h2>");
    findings(&mut out, all);
    out.push_str(
        "<h2>Operations and faults</h2><p class=\"small\"><button data-c=\"ok dok\">took effect</button> \
         <button data-c=\"fail dfail\">no effect</button> <button data-c=\"info dinfo\">unknown</button> \
         Orange bands are faults. Point at a stroke to read it.</p>",
    );
    out.push_str(&operations::timeline(&axis, history, &bands));
    out.push_str("<h2>Availability of the registers, per 100 ms</h2>");
    out.push_str(&latency::strips(&axis, history, &bands));
    out.push_str("<h2>Latency of the registers</h2>");
    out.push_str(&latency::scatter(&axis, history, &bands));
    out.push_str(&latency::quantiles(history));
    out.push_str("<h2>Coordinators and workers: leader with its term, starts, ends</h2>");
    out.push_str(&lanes::nodes(&axis, history, &bands));
    out.push_str("<h2>Jobs: checkpoints complete and failed, attempts, visible files</h2>");
    out.push_str(&lanes::jobs(&axis, history, &bands));
    out.push_str("<h2>Logs</h2>");
    let mut logs = vec![vec!["node".to_owned(), "role".to_owned(), "log".to_owned()]];
    logs.extend(
        run.nodes
            .iter()
            .map(|n| vec![n.name.clone(), n.role.clone(), n.log.display().to_string()]),
    );
    out.push_str(&table(&logs));
    let _ = write!(
        out,
        "<div id=\"hint\"></div><script>{SCRIPT}</script></body></html>"
    );
    out
}
