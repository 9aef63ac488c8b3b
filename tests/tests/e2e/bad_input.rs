//! Bad input gets a clear error with its place, and loses nothing.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::Duration;
use tests::cluster::{Cluster, Options, with_cluster};
use tests::output::visible_lines;
use tests::script::{Numbers, csv_table};
use tests::wait::{self, SOON};

/// A script that must be refused: where, and what the answer must name.
struct Refused {
    what: &'static str,
    sql: String,
    place: Option<(u32, u32)>,
    line: Option<u32>,
    names: &'static [&'static str],
}

const TABLES: &str =
    "CREATE TABLE a (n BIGINT, s STRING) WITH ('connector' = 'datagen', 'number-of-rows' = '10');
CREATE TABLE b (n BIGINT) WITH ('connector' = 'blackhole');
";

fn refused(
    what: &'static str,
    statement: &str,
    place: Option<(u32, u32)>,
    names: &'static [&'static str],
) -> Refused {
    // Line 3 is the statement's: TABLES has two.
    Refused {
        what,
        sql: format!("{TABLES}{statement}"),
        place,
        line: Some(3),
        names,
    }
}

fn cases() -> Vec<Refused> {
    vec![
        refused(
            "unknown column",
            "INSERT INTO b SELECT m FROM a;",
            Some((3, 22)),
            &["m"],
        ),
        refused(
            "unknown table",
            "INSERT INTO b SELECT n FROM nowhere;",
            Some((3, 29)),
            &["nowhere"],
        ),
        refused(
            "unknown sink",
            "INSERT INTO c SELECT n FROM a;",
            Some((3, 13)),
            &["c"],
        ),
        refused(
            "unknown function",
            "INSERT INTO b SELECT FROBNICATE(n) FROM a;",
            Some((3, 22)),
            &["FROBNICATE"],
        ),
        refused("syntax", "INSERT INTO b SELEC n FROM a;", None, &[]),
        refused("wrong type", "INSERT INTO b SELECT s FROM a;", None, &["n"]),
        refused(
            "wrong number of columns",
            "INSERT INTO b SELECT n, s FROM a;",
            None,
            &[],
        ),
        refused(
            "not yet: join",
            "INSERT INTO b SELECT a.n FROM a JOIN a AS x ON a.n = x.n;",
            None,
            &["JOIN"],
        ),
        refused("not yet: DELETE", "DELETE FROM a;", None, &["DELETE"]),
        refused(
            "unknown option",
            "CREATE TABLE z (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-secnd' = '5');\nINSERT INTO b SELECT n FROM z;",
            None,
            &["rows-per-secnd", "rows-per-second"],
        ),
        Refused {
            what: "unknown connector",
            sql: "CREATE TABLE z (n BIGINT) WITH ('connector' = 'carrier-pigeon');\n\
                  CREATE TABLE b (n BIGINT) WITH ('connector' = 'blackhole');\nINSERT INTO b SELECT n FROM z;"
                .into(),
            place: None,
            line: None,
            names: &["carrier-pigeon"],
        },
        Refused {
            what: "unknown key in SET",
            sql: format!(
                "SET 'execution.checkpoint.interval' = '1 s';\n{TABLES}INSERT INTO b SELECT n FROM a;"
            ),
            place: None,
            line: Some(1),
            names: &[
                "execution.checkpoint.interval",
                "execution.checkpointing.interval",
            ],
        },
        Refused {
            what: "ill-typed value in SET",
            sql: format!("SET 'parallelism.default' = 'two';\n{TABLES}INSERT INTO b SELECT n FROM a;"),
            place: None,
            line: Some(1),
            names: &["parallelism.default", "two"],
        },
        Refused {
            what: "no INSERT",
            sql: TABLES.into(),
            place: None,
            line: None,
            names: &["INSERT"],
        },
        Refused {
            what: "empty",
            sql: "  \n".into(),
            place: None,
            line: None,
            names: &["empty"],
        },
    ]
}

fn check(cluster: &Cluster, case: &Refused) -> Result<()> {
    let reply = cluster.post_job(&case.sql, &format!("bad-{:08x}", rand::random::<u32>()))?;
    let text = reply.text();
    ensure!(reply.status.as_u16() == 400, "status {}: {text}", reply.status);
    let answer = reply.json()?;
    ensure!(answer["errors"][0].is_string(), "not Flink's shape: {text}");
    for name in case.names {
        ensure!(
            text.to_lowercase().contains(&name.to_lowercase()),
            "'{name}' is not named: {text}"
        );
    }
    if let Some(line) = case.line {
        ensure!(
            text.contains(&format!("line {line}, column ")),
            "line {line} is not named: {text}"
        );
    }
    if let Some((line, column)) = case.place {
        ensure!(
            text.contains(&format!("line {line}, column {column}")),
            "not line {line}, column {column}: {text}"
        );
    }
    Ok(())
}

#[test]
fn bad_input_is_refused_with_its_place() {
    with_cluster("bad-input", Options::default(), |cluster| {
        let mut wrong = Vec::new();
        for case in cases() {
            if let Err(error) = check(cluster, &case) {
                wrong.push(format!("{}: {error:#}", case.what));
            }
        }
        let bad = cluster.home().join("bad.sql");
        std::fs::write(&bad, format!("{TABLES}INSERT INTO b SELECT m FROM a;\n"))?;
        for command in ["explain", "run"] {
            let said = cluster.cli(&[command, "bad.sql"])?;
            ensure!(said.code.is_some_and(|code| code != 0), "{said}");
            said.expect_text("line 3, column 22")?;
        }
        for (what, result) in [
            ("oversized body", oversized(cluster)),
            ("missing file", missing_file(cluster)),
            ("bad row, fail", bad_row_fails(cluster)),
            ("bad row, skip", bad_row_is_skipped(cluster)),
            ("nonsense over REST", nonsense(cluster)),
        ] {
            if let Err(error) = result {
                wrong.push(format!("{what}: {error:#}"));
            }
        }
        ensure!(
            wrong.is_empty(),
            "{} cases are wrong:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        // After all of it the cluster works as before.
        let mut spec = Numbers::lasting(1, &cluster.home().join("after"));
        spec.parallelism = 1;
        let id = cluster.submit(&spec.sql())?;
        cluster.wait_state(&id, "FINISHED", SOON)?;
        tests::output::check_numbers_job(&spec)
    });
}

fn oversized(cluster: &Cluster) -> Result<()> {
    for bytes in [600 << 10, 2 << 20] {
        let sql = format!("{TABLES}INSERT INTO b SELECT n FROM a; -- {}", "x".repeat(bytes));
        let reply = cluster.post_job(&sql, &format!("big-{bytes}"))?;
        let status = reply.status.as_u16();
        ensure!(
            status == 413 || status == 400,
            "{bytes} bytes: {status} {}",
            reply.text()
        );
    }
    Ok(())
}

/// A missing file may be refused at once, or fail the job; either way its name must be told.
fn missing_file(cluster: &Cluster) -> Result<()> {
    let mut sql = String::from("SET 'restart-strategy.type' = 'none';\n");
    sql.push_str(&csv_table("f", "n BIGINT", Path::new("/nonexistent/numbers.csv")));
    sql.push_str(
        "CREATE TABLE b (n BIGINT) WITH ('connector' = 'blackhole');\nINSERT INTO b SELECT n FROM f;\n",
    );
    let reply = cluster.post_job(&sql, "missing-file")?;
    if reply.status.is_success() {
        let id = cluster.submit_with_key(&sql, "missing-file")?;
        cluster.wait_state(&id, "FAILED", SOON)?;
        let told = cluster.exceptions(&id)?.to_string();
        ensure!(
            told.contains("/nonexistent/numbers.csv"),
            "the file is not named: {told}"
        );
    } else {
        ensure!(
            reply.text().contains("/nonexistent/numbers.csv"),
            "the file is not named: {}",
            reply.text()
        );
    }
    Ok(())
}

fn csv_job(cluster: &Cluster, name: &str, option: &str) -> Result<String> {
    let input = cluster.home().join(format!("{name}.csv"));
    let rows: Vec<String> = (0..2000)
        .map(|n| if n == 1234 { "12x4".into() } else { n.to_string() })
        .collect();
    std::fs::write(&input, rows.join("\n") + "\n")?;
    let mut sql = String::from("SET 'restart-strategy.type' = 'none';\n");
    let table = csv_table("f", "n BIGINT", &input);
    sql.push_str(&table.replace("'format' = 'csv'", &format!("'format' = 'csv'{option}")));
    sql.push_str(&csv_table("o", "n BIGINT", &cluster.out(name)));
    sql.push_str("INSERT INTO o SELECT n FROM f;\n");
    Ok(sql)
}

fn bad_row_fails(cluster: &Cluster) -> Result<()> {
    let id = cluster.submit(&csv_job(cluster, "fails", "")?)?;
    cluster.wait_state(&id, "FAILED", SOON)?;
    let told = cluster.exceptions(&id)?.to_string();
    for part in ["fails.csv", "1235", "12x4"] {
        ensure!(told.contains(part), "'{part}' is not named: {told}");
    }
    Ok(())
}

fn bad_row_is_skipped(cluster: &Cluster) -> Result<()> {
    let id = cluster.submit(&csv_job(
        cluster,
        "skips",
        ", 'csv.ignore-parse-errors' = 'true'",
    )?)?;
    cluster.wait_state(&id, "FINISHED", SOON)?;
    let lines = visible_lines(&cluster.out("skips"))?;
    ensure!(
        lines.len() == 1999 && !lines.iter().any(|l| l == "1234" || l.is_empty()),
        "{} rows",
        lines.len()
    );
    // The leader publishes counters a moment after it has decided.
    wait::until_true("the skipped row to be counted", SOON, || {
        let job = cluster.rest().get(&format!("/v1/jobs/{}", id.0), SOON)?;
        Ok(job["bad-records-skipped"] == 1)
    })?;
    Ok(())
}

fn nonsense(cluster: &Cluster) -> Result<()> {
    use hyper::Method;
    use tests::rest::Call;
    let calls = [
        (Call::get("/v1/jobs/not-an-id"), 400),
        (Call::get(format!("/v1/jobs/{:032x}", 7)), 404),
        (Call::get("/v1/no-such-path"), 404),
        (Call::new(Method::DELETE, "/v1/overview"), 405),
        (
            Call::new(Method::PUT, format!("/v1/kv/{}", "k".repeat(2000))).body("1"),
            413,
        ),
        (
            Call::new(Method::PUT, "/v1/kv/large").body(vec![b'x'; 300 << 10]),
            413,
        ),
        (Call::new(Method::POST, "/v1/jobs").body(vec![0xff, 0xfe]), 400),
    ];
    for (call, status) in calls {
        let reply = cluster
            .rest()
            .call(&call, Duration::from_secs(10))
            .with_context(|| call.path.clone())?;
        ensure!(
            reply.status.as_u16() == status,
            "{} {}: {} {}",
            call.method,
            call.path,
            reply.status,
            reply.text()
        );
    }
    Ok(())
}
