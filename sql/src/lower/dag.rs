//! Operators before they are chained: a graph in which equal operators over equal inputs are one.

use arrow::datatypes::{Schema, SchemaRef};
use holdfast_dataflow::graph::{OperatorSpec, Partitioning};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How rows come to an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exchange {
    /// From the same subtask where the parallelism allows it.
    Forward,
    /// By key.
    Hash(Vec<usize>),
    /// All to one subtask.
    Single,
}

impl Exchange {
    /// The edge between two parallelisms.
    pub(super) fn partitioning(&self, from: u32, to: u32) -> Partitioning {
        match self {
            Exchange::Hash(columns) => Partitioning::Hash(columns.clone()),
            Exchange::Forward if from == to => Partitioning::Forward,
            Exchange::Forward | Exchange::Single => Partitioning::Rebalance,
        }
    }
}

/// One operator.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// What it does.
    pub spec: OperatorSpec,
    /// Schema of what it emits.
    pub schema: SchemaRef,
    /// Where its rows come from: all into its one input.
    pub inputs: Vec<usize>,
    /// How they come.
    pub exchange: Exchange,
}

/// Operators; inputs stand before their consumers.
#[derive(Debug, Default)]
pub(super) struct Dag {
    /// The operators.
    pub nodes: Vec<Node>,
    known: BTreeMap<String, usize>,
}

/// The kind of an operator, for names and identities.
pub(super) fn kind(spec: &OperatorSpec) -> &'static str {
    match spec {
        OperatorSpec::Source(_) => "source",
        OperatorSpec::Calc(_) => "calc",
        OperatorSpec::WindowAssign(_) => "window-assign",
        OperatorSpec::WindowAggregate(_) => "window-aggregate",
        OperatorSpec::Sink(_) => "sink",
    }
}

/// A schema as text.
pub(super) fn schema_text(schema: &Schema) -> String {
    let fields: Vec<String> = schema
        .fields()
        .iter()
        .map(|f| format!("{} {} {}", f.name(), f.data_type(), f.is_nullable()))
        .collect();
    fields.join(", ")
}

impl Dag {
    /// Adds an operator, or finds the equal one. Sinks are never shared: two equal INSERTs write twice.
    pub(super) fn add(&mut self, node: Node) -> usize {
        let key = format!(
            "{}|{}|{:?}|{:?}",
            node.spec.describe(),
            schema_text(&node.schema),
            node.inputs,
            node.exchange
        );
        let is_sink = matches!(node.spec, OperatorSpec::Sink(_));
        if !is_sink && let Some(known) = self.known.get(&key) {
            return *known;
        }
        let id = self.nodes.len();
        self.nodes.push(node);
        self.known.insert(key, id);
        id
    }

    /// How many edges leave an operator.
    pub(super) fn consumers(&self, id: usize) -> usize {
        self.nodes
            .iter()
            .flat_map(|node| &node.inputs)
            .filter(|input| **input == id)
            .count()
    }

    /// A projection that only picks and renames columns right after a window aggregation, and nobody else reads the
    /// aggregation: the aggregation emits those columns itself.
    pub(super) fn absorb_projections(&mut self) {
        for id in 0..self.nodes.len() {
            let Some((input, picked)) = self.pure_pick(id) else {
                continue;
            };
            if self.consumers(input) != 1 {
                continue;
            }
            let schema = Arc::clone(&self.nodes[id].schema);
            let mut merged = self.nodes[input].clone();
            if let OperatorSpec::WindowAggregate(spec) = &mut merged.spec {
                spec.output = picked.iter().map(|i| spec.output[*i]).collect();
                merged.schema = schema;
                self.nodes[id] = merged;
                self.nodes[input].inputs.clear();
            }
        }
        self.drop_unread();
    }

    /// The window aggregation under a Calc and the columns that the Calc picks, if it does nothing else.
    fn pure_pick(&self, id: usize) -> Option<(usize, Vec<usize>)> {
        let node = &self.nodes[id];
        let (OperatorSpec::Calc(calc), [input]) = (&node.spec, node.inputs.as_slice()) else {
            return None;
        };
        let below = &self.nodes[*input];
        if calc.filter.is_some() || !matches!(below.spec, OperatorSpec::WindowAggregate(_)) {
            return None;
        }
        let picked = calc.projection.as_ref()?.iter().map(|expr| {
            let text = expr.describe();
            below
                .schema
                .fields()
                .iter()
                .position(|f| crate::sqltext::identifier(f.name()) == text)
        });
        picked.collect::<Option<Vec<_>>>().map(|picked| (*input, picked))
    }

    /// Removes operators that no sink reads, and renumbers the rest.
    fn drop_unread(&mut self) {
        let mut read = vec![false; self.nodes.len()];
        for id in (0..self.nodes.len()).rev() {
            read[id] |= matches!(self.nodes[id].spec, OperatorSpec::Sink(_));
            if read[id] {
                for input in &self.nodes[id].inputs {
                    read[*input] = true;
                }
            }
        }
        let mut renumbered = Vec::with_capacity(read.len());
        let mut next = 0;
        for kept in &read {
            renumbered.push(next);
            next += usize::from(*kept);
        }
        let nodes = std::mem::take(&mut self.nodes);
        self.nodes = nodes
            .into_iter()
            .zip(&read)
            .filter(|(_, kept)| **kept)
            .map(|(mut node, _)| {
                node.inputs
                    .iter_mut()
                    .for_each(|input| *input = renumbered[*input]);
                node
            })
            .collect();
        self.known.clear();
    }
}
