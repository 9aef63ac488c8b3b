//! Generated sources: rows are a pure function of their number, so every split can be entered anywhere.

mod datagen;
mod datagen_column;
mod hash;
mod nexmark;
mod nexmark_events;
mod reader;

use holdfast_dataflow::connector::ConnectorError;
use holdfast_dataflow::graph::TableSpec;
use reader::GeneratedSource;
use std::sync::Arc;

/// A checked `datagen` table.
pub(crate) fn datagen(table: &TableSpec) -> Result<GeneratedSource, ConnectorError> {
    datagen::Datagen::new(table).map(|g| GeneratedSource::new(Arc::new(g)))
}

/// A checked `nexmark` table.
pub(crate) fn nexmark(table: &TableSpec) -> Result<GeneratedSource, ConnectorError> {
    nexmark::Nexmark::new(table).map(|g| GeneratedSource::new(Arc::new(g)))
}

#[cfg(test)]
mod tests;
