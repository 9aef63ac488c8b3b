//! A job graph as text for people.

use crate::types;
use arrow::datatypes::Schema;
use holdfast_dataflow::graph::{
    AggregateFunction, AggregateSpec, CalcSpec, Edge, JobGraph, OperatorNode, OperatorSpec, Partitioning,
    SourceSpec, TableSpec, Vertex, WindowAggregateSpec, WindowKind, WindowOutput,
};
use std::fmt::Write;

/// The graph as a readable text: every vertex with its inputs and operators.
#[must_use]
pub fn explain(graph: &JobGraph) -> String {
    let mut out = format!(
        "job {}: parallelism {}, max parallelism {}\n",
        graph.name, graph.parallelism, graph.max_parallelism
    );
    for (key, value) in &graph.settings {
        let _ = writeln!(out, "  set {key} = {value}");
    }
    for vertex in &graph.vertices {
        let _ = writeln!(
            out,
            "\nvertex {}: {} (parallelism {})",
            vertex.id, vertex.name, vertex.parallelism
        );
        for edge in graph.inputs(vertex.id) {
            let _ = writeln!(out, "  <- vertex {} {}", edge.from, partitioning(edge));
        }
        operators(&mut out, graph, vertex);
    }
    out
}

fn partitioning(edge: &Edge) -> String {
    match &edge.partitioning {
        Partitioning::Forward => "forward".into(),
        Partitioning::Rebalance => "rebalance".into(),
        Partitioning::Hash(columns) => format!("hash({})", names(&edge.schema, columns)),
    }
}

fn name(schema: &Schema, index: usize) -> &str {
    schema.fields().get(index).map_or("?", |f| f.name().as_str())
}

fn names(schema: &Schema, indexes: &[usize]) -> String {
    let names: Vec<&str> = indexes.iter().map(|i| name(schema, *i)).collect();
    names.join(", ")
}

fn operators(out: &mut String, graph: &JobGraph, vertex: &Vertex) {
    let mut input = graph.inputs(vertex.id).next().map(|edge| edge.schema.as_ref());
    for node in &vertex.chain {
        let empty = Schema::empty();
        let text = operator(node, input.unwrap_or(&empty));
        let _ = writeln!(out, "  {text}");
        input = Some(node.schema.as_ref());
    }
}

fn operator(node: &OperatorNode, input: &Schema) -> String {
    match &node.spec {
        OperatorSpec::Source(source) => source_text(source),
        OperatorSpec::Calc(calc) => format!("Calc {}", calc_text(calc)),
        OperatorSpec::WindowAssign(assign) => format!(
            "WindowAssign {}",
            window(assign.kind, name(input, assign.time_column))
        ),
        OperatorSpec::WindowAggregate(aggregate) => aggregate_text(aggregate, node, input),
        OperatorSpec::Sink(table) => format!("Sink {} ({})", table_text(table), columns(&table.schema)),
    }
}

fn table_text(table: &TableSpec) -> String {
    format!("{} [{}]", table.name, table.connector)
}

fn columns(schema: &Schema) -> String {
    let columns: Vec<String> = schema
        .fields()
        .iter()
        .map(|f| format!("{} {}", f.name(), types::name(f.data_type())))
        .collect();
    columns.join(", ")
}

fn source_text(source: &SourceSpec) -> String {
    let bounded = if source.bounded { "bounded" } else { "unbounded" };
    let mut text = format!(
        "Source {} {bounded} ({})",
        table_text(&source.table),
        columns(&source.table.schema)
    );
    if let Some(computed) = &source.computed {
        let _ = write!(text, "; columns {}", calc_text(computed));
    }
    if let Some(watermark) = &source.watermark {
        let schema = source
            .computed
            .as_ref()
            .map_or(&source.table.schema, |c| &c.schema);
        let _ = write!(
            text,
            "; watermark {} AS {}",
            name(schema, watermark.column),
            watermark.expression.describe()
        );
    }
    text
}

fn calc_text(calc: &CalcSpec) -> String {
    let mut parts = Vec::new();
    if let Some(projection) = &calc.projection {
        let columns: Vec<String> = projection
            .iter()
            .zip(calc.schema.fields())
            .map(|(expr, field)| {
                let text = expr.describe();
                if text == crate::sqltext::identifier(field.name()) {
                    text
                } else {
                    format!("{text} AS {}", crate::sqltext::identifier(field.name()))
                }
            })
            .collect();
        parts.push(format!("select({})", columns.join(", ")));
    }
    if let Some(filter) = &calc.filter {
        parts.push(format!("where({})", filter.describe()));
    }
    parts.join(" ")
}

/// Milliseconds as `1 h`, `5 min` or `90 s`.
fn length(millis: i64) -> String {
    for (size, unit) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")] {
        if millis != 0 && millis % size == 0 {
            return format!("{} {unit}", millis / size);
        }
    }
    format!("{millis} ms")
}

fn window(kind: WindowKind, time: &str) -> String {
    let shift = |offset: i64| {
        if offset == 0 {
            String::new()
        } else {
            format!(", offset {}", length(offset))
        }
    };
    match kind {
        WindowKind::Tumble { size_ms, offset_ms } => {
            format!("TUMBLE({time}, size {}{})", length(size_ms), shift(offset_ms))
        }
        WindowKind::Hop {
            slide_ms,
            size_ms,
            offset_ms,
        } => format!(
            "HOP({time}, slide {}, size {}{})",
            length(slide_ms),
            length(size_ms),
            shift(offset_ms)
        ),
    }
}

fn aggregate_text(aggregate: &WindowAggregateSpec, node: &OperatorNode, input: &Schema) -> String {
    let outputs: Vec<String> = aggregate
        .output
        .iter()
        .zip(node.schema.fields())
        .map(|(output, field)| {
            let text = match output {
                WindowOutput::Key(k) => aggregate
                    .keys
                    .get(*k)
                    .map_or("?", |index| name(input, *index))
                    .to_owned(),
                WindowOutput::Start => "window_start".into(),
                WindowOutput::End => "window_end".into(),
                WindowOutput::Time => "window_time".into(),
                WindowOutput::Aggregate(a) => aggregate
                    .aggregates
                    .get(*a)
                    .map_or_else(|| "?".into(), |spec| call(spec, input)),
            };
            if text == *field.name() {
                text
            } else {
                format!("{text} AS {}", crate::sqltext::identifier(field.name()))
            }
        })
        .collect();
    format!(
        "WindowAggregate {} by({}) select({})",
        window(aggregate.kind, name(input, aggregate.time_column)),
        names(input, &aggregate.keys),
        outputs.join(", ")
    )
}

fn call(spec: &AggregateSpec, input: &Schema) -> String {
    let function = match spec.function {
        AggregateFunction::Count => "COUNT",
        AggregateFunction::Sum => "SUM",
        AggregateFunction::Avg => "AVG",
        AggregateFunction::Min => "MIN",
        AggregateFunction::Max => "MAX",
    };
    let distinct = if spec.distinct { "DISTINCT " } else { "" };
    let argument = spec.argument.map_or("*", |index| name(input, index));
    let filter = spec
        .filter
        .map(|index| format!(" FILTER (WHERE {})", name(input, index)))
        .unwrap_or_default();
    format!("{function}({distinct}{argument}){filter}")
}
