//! SQL in Flink's dialect: from a script's text to a [`JobGraph`].
//!
//! The road: `parse` (statements with positions) → `catalog` and `bind` (names and types resolved, DataFusion's logical
//! plans) → `lower` (DataFusion's optimizer, operators, vertices) → a graph whose expressions `physical` evaluates.
//! Planning is a pure function of its arguments: the same script gives the same graph on every process.
//!
//! Binding is our own rather than `datafusion-sql`'s: every error has a place, constants and decimals have Flink's types,
//! functions have Flink's names and results, and the build is spared five crates. From the logical plan on it is
//! DataFusion: its expressions, its optimizer rules, its evaluation.
//!
//! What is not supported is refused by its name and place; nothing is ignored silently. This crate knows no process,
//! no network and no clock.

mod bind;
mod catalog;
mod error;
mod explain;
mod functions;
mod lower;
mod nodes;
mod parse;
mod physical;
mod settings;
mod sqltext;
mod types;

#[cfg(test)]
mod tests;

pub use error::{PlanError, Pos};
pub use explain::explain;

use bind::insert::{self, BoundInsert};
use bind::query::{Binder, rename};
use catalog::Catalog;
use error::Result;
use holdfast_common::config::Configuration;
use holdfast_common::limits::SQL_TEXT_BYTES_MAX;
use holdfast_dataflow::connector::ConnectorRegistry;
use holdfast_dataflow::graph::JobGraph;
use parse::script::{self, StatementKind};

/// Plans the one job of a script. `SET` statements lie over `base`; the graph's settings are all explicit job settings
/// of both.
///
/// # Errors
/// If the script is wrong, or asks for what is not supported: with line and column wherever there are some.
pub fn plan(
    sql: &str,
    base: &Configuration,
    registry: &dyn ConnectorRegistry,
) -> std::result::Result<JobGraph, PlanError> {
    if sql.len() > SQL_TEXT_BYTES_MAX {
        return Err(PlanError::new(
            Pos::default(),
            format!(
                "the script has {} bytes, the limit is {SQL_TEXT_BYTES_MAX}",
                sql.len()
            ),
        ));
    }
    let mut job = Script {
        config: base.clone(),
        catalog: Catalog::default(),
        inserts: Vec::new(),
    };
    for statement in script::parse(sql)? {
        job.statement(statement)?;
    }
    job.finish(registry)
}

/// What the statements so far have made.
struct Script {
    config: Configuration,
    catalog: Catalog,
    inserts: Vec<BoundInsert>,
}

impl Script {
    fn statement(&mut self, statement: script::Statement) -> Result<()> {
        let pos = statement.pos;
        match statement.kind {
            StatementKind::Set { key, key_pos, value } => {
                settings::apply(&mut self.config, &key, &value, key_pos)
            }
            StatementKind::CreateTable(table) => self.catalog.add_table(&table, pos),
            StatementKind::CreateView(view) => {
                let plan = Binder::new(&self.catalog).query(&view.query, pos)?;
                let plan = rename(plan, &view.columns, pos)?;
                self.catalog.add_view(&view.name, view.if_not_exists, plan, pos)
            }
            StatementKind::Insert(insert) => self.insert(pos, std::slice::from_ref(&*insert)),
            StatementKind::StatementSet(inserts) => self.insert(pos, &inserts),
        }
    }

    fn finish(self, registry: &dyn ConnectorRegistry) -> Result<JobGraph> {
        if self.inserts.is_empty() {
            return Err(PlanError::new(
                Pos::default(),
                "the script has no INSERT INTO, so there is nothing to run",
            ));
        }
        lower::lower(self.inserts, &self.config, registry)
    }

    fn insert(&mut self, pos: Pos, inserts: &[script::Insert]) -> Result<()> {
        if !self.inserts.is_empty() {
            return Err(PlanError::new(
                pos,
                "a script is one job: put its INSERTs between EXECUTE STATEMENT SET BEGIN and END",
            ));
        }
        for insert in inserts {
            self.inserts.push(insert::bind(&self.catalog, insert)?);
        }
        Ok(())
    }
}
