//! What the leader needs to know of a job's plan: its vertices, how wide they are, and whose state they hold.

use super::input::TaskKey;
use holdfast_common::{Incarnation, VertexId};
use holdfast_dataflow::graph::JobGraph;
use holdfast_machine::state::SlotAssignment;
use std::collections::BTreeSet;

/// A plan without its expressions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    /// Of the plan.
    pub fingerprint: String,
    /// Key groups.
    pub max_parallelism: u32,
    /// Vertices in topological order.
    pub vertices: Vec<VertexShape>,
}

/// A vertex.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VertexShape {
    /// Its position.
    pub id: VertexId,
    /// What people see.
    pub name: String,
    /// Number of subtasks.
    pub parallelism: u32,
    /// Its operators' uids, first to last.
    pub operator_uids: Vec<String>,
}

impl Shape {
    /// The shape of a graph.
    #[must_use]
    pub fn of(graph: &JobGraph) -> Self {
        Self {
            fingerprint: graph.fingerprint(),
            max_parallelism: graph.max_parallelism,
            vertices: graph
                .vertices
                .iter()
                .map(|vertex| VertexShape {
                    id: vertex.id,
                    name: vertex.name.clone(),
                    parallelism: vertex.parallelism,
                    operator_uids: vertex.chain.iter().map(|node| node.uid.clone()).collect(),
                })
                .collect(),
        }
    }

    /// Every subtask.
    #[must_use]
    pub fn tasks(&self) -> BTreeSet<TaskKey> {
        self.vertices
            .iter()
            .flat_map(|v| (0..v.parallelism).map(move |subtask| (v.id, subtask)))
            .collect()
    }

    /// The subtasks that run on a worker under an assignment: slot i runs subtask i of every vertex.
    #[must_use]
    pub fn tasks_on(&self, assignment: &[SlotAssignment], worker: Incarnation) -> BTreeSet<TaskKey> {
        self.tasks()
            .into_iter()
            .filter(|(_, subtask)| {
                assignment
                    .get(*subtask as usize)
                    .is_some_and(|slot| slot.incarnation == worker)
            })
            .collect()
    }

    /// A subtask as people name it.
    #[must_use]
    pub fn task_name(&self, task: TaskKey) -> String {
        match self.vertices.iter().find(|v| v.id == task.0) {
            Some(v) => format!("{} ({}/{})", v.name, task.1 + 1, v.parallelism),
            None => format!("vertex {} subtask {}", task.0, task.1),
        }
    }
}
