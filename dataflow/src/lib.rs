//! The job graph and the traits that its parts implement: what SQL planning produces, what workers execute, and what
//! connectors provide. Knows neither DataFusion nor tokio nor any process.

pub mod connector;
pub mod expr;
pub mod graph;

pub use arrow;
