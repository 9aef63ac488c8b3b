//! Connectors, expressions and graphs for tests: a source that is a function of split and offset, a sink that commits
//! into memory, and the job that connects them. Only compiled for tests.
#![allow(clippy::unwrap_used)]

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMillisecondType};
use holdfast_common::clock::Clock;
use holdfast_common::{AttemptId, CheckpointId, JobId, VertexId};
use holdfast_dataflow::connector::*;
use holdfast_dataflow::expr::{ExprError, RowExpr};
use holdfast_dataflow::graph::*;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Rows of a run's result, in a form that sorts.
pub type Row = (Option<String>, i64, i64, Option<i64>, i64, Option<String>);

#[derive(Default)]
pub struct ManualClock(pub AtomicU64);

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Numbers from a seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }
}

/// What the fake source emits: `splits` splits of `rows` rows, with event times up to `disorder_ms` out of order.
#[derive(Debug, Clone, Copy)]
pub struct Input {
    pub splits: u64,
    pub rows: u64,
    pub keys: u64,
    pub disorder_ms: i64,
}

impl Input {
    /// key (sometimes null), value (sometimes null), text, event time: a function of split and offset.
    pub fn row(&self, split: u64, offset: u64) -> (Option<String>, Option<i64>, String, i64) {
        let mut dice = Dice(split * 1_000_003 + offset);
        let key = dice.roll(self.keys + 1);
        let key = (key > 0).then(|| format!("k{key}"));
        let value = (dice.roll(10) > 0).then(|| dice.roll(50) as i64 - 10);
        let at = (offset * (3 + split)) as i64 - dice.roll(self.disorder_ms as u64 + 1) as i64;
        (key, value, format!("t{}", dice.roll(1000)), at)
    }

    pub fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("k", DataType::Utf8, true),
            Field::new("v", DataType::Int64, true),
            Field::new("s", DataType::Utf8, true),
            Field::new("ts", DataType::Timestamp(TimeUnit::Millisecond, None), true),
        ]))
    }

    pub fn batch(rows: &[(Option<String>, Option<i64>, String, i64)]) -> RecordBatch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter(rows.iter().map(|r| r.0.as_deref()))),
            Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.1))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.2))),
            Arc::new(TimestampMillisecondArray::from_iter_values(
                rows.iter().map(|r| r.3),
            )),
        ];
        RecordBatch::try_new(Self::schema(), columns).unwrap()
    }

    /// The result by definition: per window and key COUNT(*), SUM(v), COUNT(DISTINCT v), MAX(s).
    pub fn expected(&self, slide_ms: i64, size_ms: i64) -> Vec<Row> {
        type Group = Vec<(Option<i64>, String)>;
        let mut groups: BTreeMap<(i64, Option<String>), Group> = BTreeMap::new();
        for split in 0..self.splits {
            for offset in 0..self.rows {
                let (key, value, text, at) = self.row(split, offset);
                let mut start = at.div_euclid(slide_ms) * slide_ms;
                while start > at - size_ms {
                    groups
                        .entry((start + size_ms, key.clone()))
                        .or_default()
                        .push((value, text.clone()));
                    start -= slide_ms;
                }
            }
        }
        let mut all: Vec<Row> = groups
            .into_iter()
            .map(|((end, key), rows)| {
                let mut values: Vec<i64> = rows.iter().filter_map(|r| r.0).collect();
                let sum = (!values.is_empty()).then(|| values.iter().sum());
                values.sort_unstable();
                values.dedup();
                let max = rows.iter().map(|r| r.1.clone()).max();
                (key, end, rows.len() as i64, sum, values.len() as i64, max)
            })
            .collect();
        all.sort();
        all
    }
}

/// Everything the fake connectors know.
pub struct World {
    pub input: Input,
    /// Rows per poll at most.
    pub poll_rows: u64,
    /// Prepared outputs by id.
    prepared: Mutex<BTreeMap<u64, Vec<Row>>>,
    next_output: AtomicU64,
    pub committed: Mutex<Vec<Row>>,
    /// A source at this offset panics, once.
    pub panic_at: AtomicU64,
}

impl World {
    pub fn new(input: Input, poll_rows: u64) -> Arc<Self> {
        Arc::new(Self {
            input,
            poll_rows,
            prepared: Mutex::default(),
            next_output: AtomicU64::new(0),
            committed: Mutex::default(),
            panic_at: AtomicU64::new(u64::MAX),
        })
    }

    pub fn registry(self: &Arc<Self>) -> Arc<dyn ConnectorRegistry> {
        Arc::new(Fakes(self.clone()))
    }

    pub fn commit(&self, committables: &[Committable]) {
        for committable in committables {
            let id = u64::from_le_bytes(committable.data[..].try_into().unwrap());
            let rows = self.prepared.lock().get(&id).cloned().unwrap();
            self.committed.lock().extend(rows);
        }
    }

    pub fn result(&self) -> Vec<Row> {
        let mut rows = self.committed.lock().clone();
        rows.sort();
        rows
    }
}

struct Fakes(Arc<World>);

impl ConnectorRegistry for Fakes {
    fn source(&self, _table: &TableSpec) -> Result<Arc<dyn Source>, ConnectorError> {
        Ok(Arc::new(Fakes(self.0.clone())))
    }

    fn sink(&self, _table: &TableSpec) -> Result<Arc<dyn Sink>, ConnectorError> {
        Ok(Arc::new(Fakes(self.0.clone())))
    }
}

impl Source for Fakes {
    fn bounded(&self) -> bool {
        true
    }

    fn reader(
        &self,
        c: SourceContext,
        restored: Vec<SplitState>,
    ) -> Result<Box<dyn SourceReader>, ConnectorError> {
        let mine = (0..self.0.input.splits).filter(|s| s % u64::from(c.parallelism) == u64::from(c.subtask));
        let splits = mine
            .map(|id| {
                let state = restored.iter().find(|r| r.split_id == format!("split-{id}"));
                let offset = state.map_or(0, |r| u64::from_le_bytes(r.position[..].try_into().unwrap()));
                (id, offset, state.is_some_and(|r| r.finished))
            })
            .collect();
        Ok(Box::new(FakeReader {
            world: self.0.clone(),
            splits,
            dice: Dice(u64::from(c.subtask) + 77),
        }))
    }
}

struct FakeReader {
    world: Arc<World>,
    splits: Vec<(u64, u64, bool)>,
    dice: Dice,
}

impl SourceReader for FakeReader {
    fn poll(&mut self, _max_rows: usize) -> Result<SourcePoll, ConnectorError> {
        let open: Vec<usize> = (0..self.splits.len()).filter(|s| !self.splits[*s].2).collect();
        if open.is_empty() {
            return Ok(SourcePoll::End);
        }
        let split = open[self.dice.roll(open.len() as u64) as usize];
        let (id, offset, finished) = &mut self.splits[split];
        if *offset == self.world.input.rows {
            *finished = true;
            return Ok(SourcePoll::SplitFinished(split));
        }
        if self.dice.roll(20) == 0 {
            return Ok(SourcePoll::Pending(Duration::from_millis(1)));
        }
        let until = (*offset + 1 + self.dice.roll(self.world.poll_rows)).min(self.world.input.rows);
        let panic_at = self.world.panic_at.load(Ordering::Relaxed);
        if (*offset..until).contains(&panic_at) {
            self.world.panic_at.store(u64::MAX, Ordering::Relaxed);
            panic!("a bug in the reader");
        }
        let rows: Vec<_> = (*offset..until).map(|o| self.world.input.row(*id, o)).collect();
        *offset = until;
        Ok(SourcePoll::Batch(SourceBatch {
            split,
            rows: Input::batch(&rows),
        }))
    }

    fn splits(&self) -> Vec<String> {
        self.splits
            .iter()
            .map(|(id, _, _)| format!("split-{id}"))
            .collect()
    }

    fn snapshot(&mut self) -> Result<Vec<SplitState>, ConnectorError> {
        Ok(self
            .splits
            .iter()
            .map(|(id, offset, finished)| SplitState {
                split_id: format!("split-{id}"),
                position: offset.to_le_bytes().to_vec(),
                finished: *finished,
            })
            .collect())
    }
}

impl Sink for Fakes {
    fn writer(&self, context: SinkContext) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        Ok(Box::new(FakeWriter {
            world: self.0.clone(),
            subtask: context.subtask,
            rows: Vec::new(),
        }))
    }

    fn commits(&self) -> bool {
        true
    }

    fn commit(&self, _checkpoint: CheckpointId, committables: &[Committable]) -> Result<(), ConnectorError> {
        self.0.commit(committables);
        Ok(())
    }

    fn recover(&self, _: JobId, _: AttemptId, _: Option<CheckpointId>) -> Result<(), ConnectorError> {
        Ok(())
    }
}

struct FakeWriter {
    world: Arc<World>,
    subtask: u32,
    rows: Vec<Row>,
}

impl SinkWriter for FakeWriter {
    fn write(&mut self, rows: &RecordBatch) -> Result<(), ConnectorError> {
        let opt = |c: usize, r: usize| {
            let column = rows.column(c).as_string::<i32>();
            column.iter().nth(r).flatten().map(str::to_owned)
        };
        let int = |c: usize, r: usize| rows.column(c).as_primitive::<Int64Type>().iter().nth(r).flatten();
        for r in 0..rows.num_rows() {
            let end = rows.column(1).as_primitive::<TimestampMillisecondType>().value(r);
            let row = (
                opt(0, r),
                end,
                int(2, r).unwrap(),
                int(3, r),
                int(4, r).unwrap(),
                opt(5, r),
            );
            self.rows.push(row);
        }
        Ok(())
    }

    fn prepare(&mut self, checkpoint: CheckpointId) -> Result<PrepareJob, ConnectorError> {
        let (rows, world, subtask) = (std::mem::take(&mut self.rows), self.world.clone(), self.subtask);
        Ok(Box::new(move || {
            if rows.is_empty() {
                return Ok(Vec::new());
            }
            let id = world.next_output.fetch_add(1, Ordering::Relaxed);
            world.prepared.lock().insert(id, rows);
            Ok(vec![Committable {
                checkpoint,
                subtask,
                data: id.to_le_bytes().to_vec(),
            }])
        }))
    }
}

/// The column minus some milliseconds.
#[derive(Debug)]
pub struct Minus(pub usize, pub i64);

impl RowExpr for Minus {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExprError> {
        let column = batch.column(self.0).as_primitive::<TimestampMillisecondType>();
        Ok(Arc::new(
            column.unary::<_, TimestampMillisecondType>(|v| v - self.1),
        ))
    }

    fn describe(&self) -> String {
        format!("${} - {} ms", self.0, self.1)
    }
}

pub fn aggregates() -> Vec<AggregateSpec> {
    let one = |function, argument, distinct, result| AggregateSpec {
        function,
        argument,
        filter: None,
        distinct,
        result,
    };
    vec![
        one(AggregateFunction::Count, None, false, DataType::Int64),
        one(AggregateFunction::Sum, Some(1), false, DataType::Int64),
        one(AggregateFunction::Count, Some(1), true, DataType::Int64),
        one(AggregateFunction::Max, Some(2), false, DataType::Utf8),
    ]
}

pub fn result_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Utf8, true),
        Field::new("end", DataType::Timestamp(TimeUnit::Millisecond, None), false),
        Field::new("count", DataType::Int64, false),
        Field::new("sum", DataType::Int64, true),
        Field::new("distinct", DataType::Int64, false),
        Field::new("max", DataType::Utf8, true),
    ]))
}

pub fn window_spec(slide_ms: i64, size_ms: i64) -> WindowAggregateSpec {
    let mut output = vec![WindowOutput::Key(0), WindowOutput::End];
    output.extend((0..4).map(WindowOutput::Aggregate));
    WindowAggregateSpec {
        kind: WindowKind::Hop {
            slide_ms,
            size_ms,
            offset_ms: 0,
        },
        time_column: 3,
        keys: vec![0],
        aggregates: aggregates(),
        output,
    }
}

/// Source, hashed into a window aggregation with a sink.
pub fn graph(parallelism: u32, slide_ms: i64, size_ms: i64, delay_ms: i64) -> JobGraph {
    let table = |name: &str, schema| TableSpec {
        name: name.to_owned(),
        connector: "fake".to_owned(),
        options: BTreeMap::new(),
        schema,
    };
    let node = |uid: &str, spec, schema| OperatorNode {
        uid: uid.to_owned(),
        name: uid.to_owned(),
        spec,
        schema,
    };
    let source = SourceSpec {
        table: table("input", Input::schema()),
        computed: None,
        watermark: Some(WatermarkSpec {
            column: 3,
            expression: Arc::new(Minus(3, delay_ms)),
        }),
        bounded: true,
    };
    let vertex = |id, name: &str, chain| Vertex {
        id: VertexId(id),
        name: name.to_owned(),
        parallelism,
        chain,
    };
    JobGraph {
        name: "test".to_owned(),
        vertices: vec![
            vertex(
                0,
                "source",
                vec![node("src", OperatorSpec::Source(source), Input::schema())],
            ),
            vertex(
                1,
                "window",
                vec![
                    node(
                        "win",
                        OperatorSpec::WindowAggregate(window_spec(slide_ms, size_ms)),
                        result_schema(),
                    ),
                    node(
                        "out",
                        OperatorSpec::Sink(table("output", result_schema())),
                        result_schema(),
                    ),
                ],
            ),
        ],
        edges: vec![Edge {
            id: 0,
            from: VertexId(0),
            to: VertexId(1),
            input: 0,
            partitioning: Partitioning::Hash(vec![0]),
            schema: Input::schema(),
        }],
        parallelism,
        max_parallelism: 16,
        settings: BTreeMap::new(),
    }
}
