//! The job graph: vertices (chains of operators) and the edges between them.
//!
//! A graph is rebuilt from SQL text on every process that needs it. Equal graphs have equal fingerprints; a worker
//! whose fingerprint differs from the coordinator's refuses to deploy.

use crate::expr::ExprRef;
use arrow::datatypes::SchemaRef;
use holdfast_common::VertexId;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;

/// A job, ready to be scheduled.
#[derive(Debug, Clone)]
pub struct JobGraph {
    /// The job's name.
    pub name: String,
    /// Vertices in topological order; `VertexId` is the index.
    pub vertices: Vec<Vertex>,
    /// All edges.
    pub edges: Vec<Edge>,
    /// Subtasks of the widest vertex: the slots that the job needs.
    pub parallelism: u32,
    /// Key groups.
    pub max_parallelism: u32,
    /// Settings from the script's `SET` statements, checked.
    pub settings: BTreeMap<String, String>,
}

/// A chain of operators that runs in one task per subtask.
#[derive(Debug, Clone)]
pub struct Vertex {
    /// Position in the graph.
    pub id: VertexId,
    /// What people see, like `Source: flights -> Calc`.
    pub name: String,
    /// Number of subtasks.
    pub parallelism: u32,
    /// First to last. The first is a source, or takes the in-edges; a sink is last.
    pub chain: Vec<OperatorNode>,
}

/// One operator of a chain.
#[derive(Debug, Clone)]
pub struct OperatorNode {
    /// Stable identity of the operator's state.
    pub uid: String,
    /// What people see.
    pub name: String,
    /// What it does.
    pub spec: OperatorSpec,
    /// Schema of what it emits; for a sink, of what it takes.
    pub schema: SchemaRef,
}

/// What an operator does.
#[derive(Debug, Clone)]
pub enum OperatorSpec {
    /// Reads a table.
    Source(SourceSpec),
    /// Filters, then projects.
    Calc(CalcSpec),
    /// Appends `window_start`, `window_end` and `window_time` to every row, once per window that holds it.
    WindowAssign(WindowAssignSpec),
    /// Aggregates per key and window, emits when the watermark passes the window's end.
    WindowAggregate(WindowAggregateSpec),
    /// Writes a table.
    Sink(TableSpec),
}

/// A table of the script with its connector.
#[derive(Debug, Clone)]
pub struct TableSpec {
    /// Its name in the script.
    pub name: String,
    /// The `connector` option.
    pub connector: String,
    /// All other options of its WITH clause.
    pub options: BTreeMap<String, String>,
    /// Physical columns: what the connector reads or writes (no computed columns).
    pub schema: SchemaRef,
}

/// A source table: physical columns, then computed ones, then the watermark, generated per split.
#[derive(Debug, Clone)]
pub struct SourceSpec {
    /// What the connector reads.
    pub table: TableSpec,
    /// Projections over the physical columns that make the table's columns (all of them, in order); `None` if the
    /// table has no computed columns.
    pub computed: Option<CalcSpec>,
    /// `WATERMARK FOR column AS expression`.
    pub watermark: Option<WatermarkSpec>,
    /// Whether the input ends.
    pub bounded: bool,
}

/// How a source's watermark comes about.
#[derive(Debug, Clone)]
pub struct WatermarkSpec {
    /// The event-time column, an index into the table's columns; a timestamp of any unit.
    pub column: usize,
    /// Value of the watermark if the row were the last: a timestamp, over the table's columns. A split's watermark is
    /// the maximum over its rows, minus one millisecond as in Flink's bounded-out-of-orderness strategy is NOT
    /// subtracted: SQL's expression already says what has passed.
    pub expression: ExprRef,
}

/// Filter and projection.
#[derive(Debug, Clone)]
pub struct CalcSpec {
    /// A boolean expression; rows for which it is not true are dropped.
    pub filter: Option<ExprRef>,
    /// One expression per output column; `None` keeps the input's columns.
    pub projection: Option<Vec<ExprRef>>,
    /// Schema of the output.
    pub schema: SchemaRef,
}

/// Window kinds, all in milliseconds of event time since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowKind {
    /// `TUMBLE(size, offset)`.
    Tumble {
        /// Length.
        size_ms: i64,
        /// Shift of the boundaries.
        offset_ms: i64,
    },
    /// `HOP(slide, size, offset)`; size is a multiple of slide.
    Hop {
        /// Distance of two windows' starts.
        slide_ms: i64,
        /// Length.
        size_ms: i64,
        /// Shift of the boundaries.
        offset_ms: i64,
    },
}

/// Window table function without aggregation.
#[derive(Debug, Clone)]
pub struct WindowAssignSpec {
    /// The windows.
    pub kind: WindowKind,
    /// The event-time column of the input.
    pub time_column: usize,
}

/// Aggregation per key and window.
#[derive(Debug, Clone)]
pub struct WindowAggregateSpec {
    /// The windows.
    pub kind: WindowKind,
    /// The event-time column of the input.
    pub time_column: usize,
    /// Grouping columns of the input, without the window's own columns. The in-edge is hashed by the same columns; with
    /// none, the vertex has parallelism 1.
    pub keys: Vec<usize>,
    /// The aggregates.
    pub aggregates: Vec<AggregateSpec>,
    /// Output columns, in order: the operator's schema has the same length.
    pub output: Vec<WindowOutput>,
}

/// One output column of a window aggregation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowOutput {
    /// The i-th grouping column.
    Key(usize),
    /// The window's first instant.
    Start,
    /// The window's first instant after its end.
    End,
    /// The end minus one millisecond: the rowtime of the result.
    Time,
    /// The i-th aggregate.
    Aggregate(usize),
}

/// One aggregate over one input column.
#[derive(Debug, Clone)]
pub struct AggregateSpec {
    /// The function.
    pub function: AggregateFunction,
    /// Input column; `None` for COUNT(*).
    pub argument: Option<usize>,
    /// A boolean input column; only rows where it is true count (`FILTER (WHERE ...)`).
    pub filter: Option<usize>,
    /// `DISTINCT`.
    pub distinct: bool,
    /// Type of the result.
    pub result: arrow::datatypes::DataType,
}

/// Aggregate functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AggregateFunction {
    /// Rows, or rows whose argument is not null.
    Count,
    /// Sum; NULL if there is no value.
    Sum,
    /// Mean; NULL if there is no value. Of integers, an integer rounded towards zero, as in Flink.
    Avg,
    /// Least value.
    Min,
    /// Greatest value.
    Max,
}

/// Rows go from every subtask of one vertex to subtasks of another.
#[derive(Debug, Clone)]
pub struct Edge {
    /// Position in the graph's list: the channel's identity between workers.
    pub id: u32,
    /// Producer.
    pub from: VertexId,
    /// Consumer.
    pub to: VertexId,
    /// Which input of the consumer: always 0 until there are joins. UNION ALL is several edges into one input.
    pub input: u32,
    /// Who gets which row.
    pub partitioning: Partitioning,
    /// Schema of the rows.
    pub schema: SchemaRef,
}

/// Who gets which row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Partitioning {
    /// Subtask i to subtask i; equal parallelism.
    Forward,
    /// By key group of these columns.
    Hash(Vec<usize>),
    /// Batches in turn to all subtasks.
    Rebalance,
}

impl JobGraph {
    /// SHA-256 over a canonical text of the graph, as hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let digest = Sha256::digest(self.canonical_text().as_bytes());
        digest.iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// The vertex of an id.
    #[must_use]
    pub fn vertex(&self, id: VertexId) -> Option<&Vertex> {
        self.vertices.get(id.0 as usize)
    }

    /// Edges into a vertex.
    pub fn inputs(&self, id: VertexId) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(move |edge| edge.to == id)
    }

    /// Edges out of a vertex.
    pub fn outputs(&self, id: VertexId) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(move |edge| edge.from == id)
    }

    /// Every sink with the operator's uid.
    pub fn sinks(&self) -> impl Iterator<Item = (&str, &TableSpec)> {
        self.vertices
            .iter()
            .flat_map(|v| &v.chain)
            .filter_map(|node| match &node.spec {
                OperatorSpec::Sink(table) => Some((node.uid.as_str(), table)),
                _ => None,
            })
    }

    /// One line per operator and edge, stable over processes and builds of one version.
    #[must_use]
    pub fn canonical_text(&self) -> String {
        let mut text = format!("parallelism {} max {}\n", self.parallelism, self.max_parallelism);
        for vertex in &self.vertices {
            let _ = writeln!(
                text,
                "vertex {} x{} {}",
                vertex.id, vertex.parallelism, vertex.name
            );
            for node in &vertex.chain {
                let _ = writeln!(text, "  {} {}", node.uid, node.spec.describe());
                for field in node.schema.fields() {
                    let _ = writeln!(text, "    {}: {}", field.name(), field.data_type());
                }
            }
        }
        for edge in &self.edges {
            let _ = writeln!(
                text,
                "edge {} {}->{}.{} {:?}",
                edge.id, edge.from, edge.to, edge.input, edge.partitioning
            );
        }
        text
    }
}

impl OperatorSpec {
    /// A canonical text: part of the fingerprint and of EXPLAIN.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Source(s) => {
                let mut text = format!("Source {}", s.table.describe());
                if let Some(computed) = &s.computed {
                    let _ = write!(text, " computed[{}]", computed.describe());
                }
                if let Some(w) = &s.watermark {
                    let _ = write!(text, " watermark[{} AS {}]", w.column, w.expression.describe());
                }
                text
            }
            Self::Calc(c) => format!("Calc {}", c.describe()),
            Self::WindowAssign(w) => format!("WindowAssign {:?} on {}", w.kind, w.time_column),
            Self::WindowAggregate(w) => {
                let aggregates: Vec<String> = w.aggregates.iter().map(AggregateSpec::describe).collect();
                format!(
                    "WindowAggregate {:?} on {} keys {:?} [{}] output {:?}",
                    w.kind,
                    w.time_column,
                    w.keys,
                    aggregates.join(", "),
                    w.output
                )
            }
            Self::Sink(t) => format!("Sink {}", t.describe()),
        }
    }
}

impl TableSpec {
    fn describe(&self) -> String {
        let options: Vec<String> = self.options.iter().map(|(k, v)| format!("'{k}'='{v}'")).collect();
        format!("{} '{}' ({})", self.name, self.connector, options.join(", "))
    }
}

impl CalcSpec {
    /// A canonical text.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = String::new();
        if let Some(projection) = &self.projection {
            let columns: Vec<String> = projection
                .iter()
                .zip(self.schema.fields())
                .map(|(e, f)| format!("{} AS {}", e.describe(), f.name()))
                .collect();
            let _ = write!(text, "select[{}]", columns.join(", "));
        }
        if let Some(filter) = &self.filter {
            let _ = write!(text, " where[{}]", filter.describe());
        }
        text
    }
}

impl AggregateSpec {
    fn describe(&self) -> String {
        let distinct = if self.distinct { "DISTINCT " } else { "" };
        let argument = self.argument.map_or_else(|| "*".to_owned(), |a| format!("${a}"));
        let filter = self.filter.map(|f| format!(" FILTER ${f}")).unwrap_or_default();
        format!(
            "{:?}({distinct}{argument}){filter}: {}",
            self.function, self.result
        )
    }
}
