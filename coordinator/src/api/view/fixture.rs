//! A small running job for the tests of the answers.

use crate::live::{LiveJob, LiveTask, LiveView, LiveWorker};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use holdfast_common::{
    AttemptId, CheckpointId, ClusterId, Incarnation, JobId, LeaderEpoch, NodeId, VertexId,
};
use holdfast_dataflow::graph::{
    CalcSpec, Edge, JobGraph, OperatorNode, OperatorSpec, Partitioning, TableSpec, Vertex,
};
use holdfast_machine::state::{
    Attempt, Checkpoint, CheckpointOutcome, CheckpointStats, Cluster, Failure, Job, JobStatus, LeaderClaim,
    SlotAssignment, State, Worker,
};
use holdfast_proto::control::{TaskReport, TaskStatus};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub(crate) const JOB: JobId = JobId(0xabc);

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("carrier", DataType::Utf8, true)]))
}

/// Two vertices with two subtasks each: calc, then sink.
pub(crate) fn graph() -> JobGraph {
    let calc = OperatorSpec::Calc(CalcSpec {
        filter: None,
        projection: None,
        schema: schema(),
    });
    let sink = OperatorSpec::Sink(TableSpec {
        name: "result".into(),
        connector: "filesystem".into(),
        options: BTreeMap::new(),
        schema: schema(),
    });
    let vertex = |id: u32, name: &str, spec: OperatorSpec| Vertex {
        id: VertexId(id),
        name: name.into(),
        parallelism: 2,
        chain: vec![OperatorNode {
            uid: format!("uid-{id}"),
            name: name.into(),
            spec,
            schema: schema(),
        }],
    };
    JobGraph {
        name: "flights".into(),
        vertices: vec![
            vertex(0, "Source: flights", calc),
            vertex(1, "Sink: result", sink),
        ],
        edges: vec![Edge {
            id: 0,
            from: VertexId(0),
            to: VertexId(1),
            input: 0,
            partitioning: Partitioning::Hash(vec![0]),
            schema: schema(),
        }],
        parallelism: 2,
        max_parallelism: 128,
        settings: BTreeMap::new(),
    }
}

fn job() -> Job {
    let place = || SlotAssignment {
        resource_id: "worker-1".into(),
        incarnation: Incarnation(5),
        data_addr: "127.0.0.1:9001".into(),
    };
    let outcome = |id: u64, failure: Option<&str>| CheckpointOutcome {
        id: CheckpointId(id),
        triggered_ms: 10_000 + id * 100,
        ended_ms: 10_000 + id * 100 + 20 * id,
        state_bytes: if failure.is_some() { 0 } else { 1_000 * id },
        failure: failure.map(str::to_owned),
    };
    Job {
        id: JOB,
        name: "flights".into(),
        sql: "INSERT INTO result SELECT carrier FROM flights".into(),
        settings: BTreeMap::from([("parallelism.default".to_owned(), "2".to_owned())]),
        fingerprint: "f".into(),
        parallelism: 2,
        max_parallelism: 128,
        status: JobStatus::Running,
        status_ms: 10_100,
        submitted_ms: 9_000,
        ended_ms: None,
        attempt: Some(Attempt {
            id: AttemptId(77),
            number: 2,
            assignment: vec![place(), place()],
            restored: Some(CheckpointId(1)),
            started_ms: 9_900,
            running_ms: Some(10_100),
        }),
        attempts: 2,
        restart_at_ms: 0,
        failure_times_ms: VecDeque::from([9_500]),
        exceptions: VecDeque::from([Failure {
            at_ms: 9_500,
            attempt_number: 1,
            task: "Source: flights (1/2)".into(),
            worker: "worker-2".into(),
            message: "worker-2 is gone: connection refused".into(),
        }]),
        next_checkpoint: CheckpointId(1_000),
        checkpoints: BTreeMap::from([(
            CheckpointId(2),
            Checkpoint {
                id: CheckpointId(2),
                attempt: AttemptId(77),
                manifest_path: "c/jobs/j/chk/2/a77/manifest".into(),
                manifest_sha256: [0; 32],
                state_bytes: 2_000,
                triggered_ms: 10_200,
                completed_ms: 10_240,
                needs_commit: true,
                committed: true,
                is_final: false,
                retired: false,
                damaged: false,
            },
        )]),
        checkpoint_stats: CheckpointStats {
            completed: 2,
            failed: 1,
            failed_in_a_row: 1,
            restored: 1,
            newest_completed: CheckpointId(2),
            history: VecDeque::from([
                outcome(1, None),
                outcome(2, None),
                outcome(3, Some("snapshot storage is unavailable")),
            ]),
        },
        idempotency_key: None,
        last_reports: prost::bytes::Bytes::new(),
    }
}

/// The state of a cluster with one worker and one job, and what its leader hears.
pub(crate) fn running() -> (State, LiveView) {
    let worker = Worker {
        resource_id: "worker-1".into(),
        incarnation: Incarnation(5),
        data_addr: "127.0.0.1:9001".into(),
        slots: 2,
        version: "0.1.0".into(),
        pid: 4711,
        registered_ms: 8_000,
    };
    let state = State {
        applied: 90,
        now_ms: 10_400,
        cluster: Some(Cluster {
            id: ClusterId(9),
            name: "test".into(),
            created_ms: 1,
        }),
        leader: Some(LeaderClaim {
            epoch: LeaderEpoch(60),
            node: NodeId(1),
            incarnation: Incarnation(1),
        }),
        workers: BTreeMap::from([("worker-1".to_owned(), worker)]),
        jobs: BTreeMap::from([(JOB, Arc::new(job()))]),
        ..State::default()
    };
    let task = |vertex: u32, subtask: u32| {
        let report = TaskReport {
            vertex,
            subtask,
            status: TaskStatus::Running as i32,
            started_ms: 10_000,
            records_in: 100 * (u64::from(subtask) + 1),
            records_out: 10,
            bytes_in: 1_000,
            bytes_out: 100,
            watermark_ms: 5_000 + i64::from(subtask),
            late_records_dropped: u64::from(subtask),
            bad_records_skipped: 2,
            busy_ms: 5,
            backpressured_ms: 1,
        };
        (
            (VertexId(vertex), subtask),
            LiveTask {
                worker: "worker-1".into(),
                report,
            },
        )
    };
    let live = LiveView {
        epoch: Some(LeaderEpoch(60)),
        workers: BTreeMap::from([(
            "worker-1".to_owned(),
            LiveWorker {
                incarnation: Incarnation(5),
                heartbeat_ms: 10_000,
                free_slots: 0,
            },
        )]),
        jobs: BTreeMap::from([(
            JOB,
            LiveJob {
                attempt: AttemptId(77),
                tasks: [task(0, 0), task(0, 1), task(1, 0), task(1, 1)].into(),
                pending: None,
            },
        )]),
    };
    (state, live)
}
