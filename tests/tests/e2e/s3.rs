//! Snapshot storage and a sink on a real S3 server: a worker dies, every row is there once.
//!
//! Runs where HOLDFAST_S3_SERVER names a `moto_server` (of the Python package moto) and the binary under test was built
//! with `--features s3`; `.ci/run` sees to both.

use anyhow::{Context, Result, anyhow, ensure};
use hyper::Method;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tests::cluster::{Cluster, Options};
use tests::output::check_numbers_job;
use tests::rest::{Call, Rest};
use tests::script::Numbers;
use tests::wait::{self, LATER, SOON};

const SERVER_VARIABLE: &str = "HOLDFAST_S3_SERVER";
const BUCKET: &str = "holdfast";
/// The server checks no signature, but answers strangers otherwise than whoever brings one.
const SIGNED: &str =
    "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00";

/// A running server; killed when dropped.
struct Server {
    child: Child,
    address: String,
    rest: Rest,
}

impl Server {
    fn start(program: &Path, log: &Path) -> Result<Self> {
        let port = crate::members::free_port()?;
        let log = std::fs::File::create(log)?;
        let child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let server = Self {
            child,
            address: format!("127.0.0.1:{port}"),
            rest: Rest::new()?,
        };
        wait::until_true("the S3 server", SOON, || {
            server.call(Method::PUT, &format!("/{BUCKET}"), b"")?;
            Ok(true)
        })?;
        Ok(server)
    }

    fn call(&self, method: Method, path: &str, body: &[u8]) -> Result<tests::rest::Reply> {
        let call = Call::new(method, path)
            .header("authorization", SIGNED)
            .header("content-type", "application/octet-stream")
            .body(body.to_vec());
        self.rest
            .call_at(&self.address, &call, Duration::from_secs(10))?
            .ok()
    }

    /// Reads; the server sometimes stumbles over what others write at the same time.
    fn get(&self, path: &str) -> Result<tests::rest::Reply> {
        wait::until(format!("GET {path}"), SOON, || {
            Ok(Some(self.call(Method::GET, path, b"")?))
        })
    }

    /// Names of all objects below a prefix.
    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let mut names: Vec<String> = Vec::new();
        loop {
            let after = names
                .last()
                .map(|n| format!("&start-after={n}"))
                .unwrap_or_default();
            let path = format!("/{BUCKET}?list-type=2&prefix={prefix}{after}");
            let page = self.get(&path)?.text();
            let found: Vec<String> = page
                .split("<Key>")
                .skip(1)
                .filter_map(|rest| rest.split_once("</Key>").map(|(name, _)| name.to_owned()))
                .collect();
            if found.is_empty() {
                return Ok(names);
            }
            names.extend(found);
        }
    }

    /// Copies what a reader of the bucket sees below a prefix into a directory.
    fn download(&self, prefix: &str, to: &Path) -> Result<usize> {
        std::fs::create_dir_all(to)?;
        let names = self.list(prefix)?;
        for name in &names {
            let body = self.get(&format!("/{BUCKET}/{name}"))?.body;
            let file = name.rsplit('/').next().unwrap_or(name);
            std::fs::write(to.join(file), body)?;
        }
        Ok(names.len())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn s3_holds_snapshots_and_output_through_a_workers_death() -> Result<()> {
    let Some(program) = std::env::var_os(SERVER_VARIABLE).map(PathBuf::from) else {
        println!("    skipped: {SERVER_VARIABLE} names no S3 server");
        return Ok(());
    };
    let log = tempfile::NamedTempFile::new()?;
    let server = Server::start(&program, log.path())?;
    let options = Options::default()
        .set(
            "execution.checkpointing.dir",
            &format!("s3://{BUCKET}/checkpoints"),
        )
        .set("s3.endpoint", &format!("http://{}", server.address))
        .set("s3.access-key", "test")
        .set("s3.secret-key", "test")
        .set("s3.path.style.access", "true");
    let mut cluster = Cluster::start("s3", options)?;
    let mut local = Numbers::lasting(20, &cluster.home().join("out"));
    local.checkpoint = Duration::from_millis(500);
    let remote = Numbers {
        raw: PathBuf::from(format!("s3://{BUCKET}/raw")),
        windows: PathBuf::from(format!("s3://{BUCKET}/windows")),
        ..local.clone()
    };
    let id = cluster.submit_running(&remote.sql())?;
    cluster.wait_checkpoints(&id, 2)?;
    ensure!(
        !server.list("checkpoints/")?.is_empty(),
        "no snapshot lies in the bucket"
    );
    for _ in 0..2 {
        let before = cluster.job(&id)?.restarts;
        let busy = cluster.job(&id)?.by_worker();
        let name = busy
            .keys()
            .next()
            .cloned()
            .ok_or_else(|| anyhow!("no worker runs the job"))?;
        let worker = cluster
            .workers()?
            .into_iter()
            .find(|w| name.ends_with(&format!("-{}", w.id())))
            .ok_or_else(|| anyhow!("{name} is not in cluster.json"))?;
        cluster.kill_9(&worker)?;
        cluster.wait_restarted(&worker)?;
        wait::until_true("the job to run again", SOON, || {
            Ok(cluster.job(&id)?.restarts > before)
        })?;
        cluster.wait_running(&id)?;
        cluster.wait_checkpoints(&id, 2)?;
    }
    let job = cluster.wait_state(&id, "FINISHED", LATER)?;
    let files = server.download("raw/", &local.raw)? + server.download("windows/", &local.windows)?;
    check_numbers_job(&local)?;
    println!(
        "    exact: {} rows in {files} objects, {} restarts",
        local.rows, job.restarts
    );
    cluster.down()
}
