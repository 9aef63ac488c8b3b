//! What every job graph keeps, whatever the script.

use arrow::datatypes::{DataType, Schema};
use holdfast_dataflow::graph::{
    CalcSpec, Edge, JobGraph, OperatorNode, OperatorSpec, Partitioning, WindowAggregateSpec, WindowOutput,
};
use std::collections::BTreeSet;

/// Panics if the graph breaks a rule that workers rely on.
pub(super) fn check(graph: &JobGraph) {
    let text = graph.canonical_text();
    let mut uids = BTreeSet::new();
    assert!(graph.sinks().count() > 0, "{text}");
    for (index, vertex) in graph.vertices.iter().enumerate() {
        assert_eq!(vertex.id.0 as usize, index, "{text}");
        assert!(
            vertex.parallelism >= 1 && vertex.parallelism <= graph.parallelism,
            "{text}"
        );
        let inputs: Vec<&Edge> = graph.inputs(vertex.id).collect();
        let is_source = matches!(vertex.chain[0].spec, OperatorSpec::Source(_));
        assert_eq!(is_source, inputs.is_empty(), "vertex {index}: {text}");
        for edge in &inputs {
            check_edge(graph, edge);
            assert_eq!(edge.schema, inputs[0].schema, "{text}");
        }
        let mut schema = inputs.first().map(|edge| edge.schema.as_ref().clone());
        for (place, node) in vertex.chain.iter().enumerate() {
            assert!(uids.insert(node.uid.clone()), "{} twice: {text}", node.uid);
            let is_sink = matches!(node.spec, OperatorSpec::Sink(_));
            if is_sink {
                assert_eq!(place + 1, vertex.chain.len(), "{text}");
                assert_eq!(graph.outputs(vertex.id).count(), 0, "{text}");
            } else if place + 1 == vertex.chain.len() {
                assert!(graph.outputs(vertex.id).count() > 0, "{text}");
            }
            check_node(node, schema.as_ref(), place);
            schema = Some(node.schema.as_ref().clone());
        }
    }
    for (index, edge) in graph.edges.iter().enumerate() {
        assert_eq!(edge.id as usize, index);
        assert!(edge.from < edge.to, "{text}");
    }
}

fn check_edge(graph: &JobGraph, edge: &Edge) {
    let (from, to) = (graph.vertex(edge.from).unwrap(), graph.vertex(edge.to).unwrap());
    assert_eq!(edge.schema, from.chain.last().unwrap().schema);
    match &edge.partitioning {
        Partitioning::Forward => assert_eq!(from.parallelism, to.parallelism),
        Partitioning::Rebalance => {}
        Partitioning::Hash(columns) => {
            assert!(!columns.is_empty());
            assert!(columns.iter().all(|c| *c < edge.schema.fields().len()));
            let OperatorSpec::WindowAggregate(spec) = &to.chain[0].spec else {
                panic!("a hash edge into {}", to.name);
            };
            assert_eq!(*columns, spec.keys);
        }
    }
}

fn types(schema: &Schema) -> Vec<(&str, &DataType)> {
    schema
        .fields()
        .iter()
        .map(|f| (f.name().as_str(), f.data_type()))
        .collect()
}

fn check_node(node: &OperatorNode, input: Option<&Schema>, place: usize) {
    let names: BTreeSet<&String> = node.schema.fields().iter().map(|f| f.name()).collect();
    assert_eq!(names.len(), node.schema.fields().len(), "{:?}", node.schema);
    match &node.spec {
        OperatorSpec::Source(source) => {
            assert_eq!(place, 0);
            if source.computed.is_none() {
                assert_eq!(node.schema, source.table.schema);
            }
            if let Some(watermark) = &source.watermark {
                let ty = node.schema.field(watermark.column).data_type();
                assert!(matches!(ty, DataType::Timestamp(..)));
            }
        }
        OperatorSpec::Calc(calc) => check_calc(calc, node, input.unwrap()),
        OperatorSpec::WindowAssign(assign) => {
            let input = input.unwrap();
            assert_eq!(node.schema.fields().len(), input.fields().len() + 3);
            assert!(matches!(
                input.field(assign.time_column).data_type(),
                DataType::Timestamp(..)
            ));
        }
        OperatorSpec::WindowAggregate(spec) => check_aggregate(spec, node, input.unwrap()),
        OperatorSpec::Sink(table) => {
            assert_eq!(node.schema, table.schema);
            assert_eq!(types(input.unwrap()), types(&table.schema));
        }
    }
}

fn check_calc(calc: &CalcSpec, node: &OperatorNode, input: &Schema) {
    assert_eq!(calc.schema, node.schema);
    match &calc.projection {
        Some(projection) => assert_eq!(projection.len(), node.schema.fields().len()),
        None => {
            assert!(calc.filter.is_some());
            assert_eq!(types(input), types(&node.schema));
        }
    }
}

fn check_aggregate(spec: &WindowAggregateSpec, node: &OperatorNode, input: &Schema) {
    let timestamp = |ty: &DataType| matches!(ty, DataType::Timestamp(..));
    assert!(timestamp(input.field(spec.time_column).data_type()));
    assert_eq!(spec.output.len(), node.schema.fields().len());
    for (output, field) in spec.output.iter().zip(node.schema.fields()) {
        match output {
            WindowOutput::Key(k) => assert_eq!(field.data_type(), input.field(spec.keys[*k]).data_type()),
            WindowOutput::Aggregate(a) => assert_eq!(*field.data_type(), spec.aggregates[*a].result),
            WindowOutput::Start | WindowOutput::End | WindowOutput::Time => {
                assert!(timestamp(field.data_type()));
            }
        }
    }
    for aggregate in &spec.aggregates {
        assert!(aggregate.argument.is_none_or(|a| a < input.fields().len()));
        if let Some(filter) = aggregate.filter {
            assert_eq!(*input.field(filter).data_type(), DataType::Boolean);
        }
    }
}
