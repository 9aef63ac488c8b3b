//! From script text to statements with positions. Knows the grammar, not the catalogue.

pub(crate) mod ddl;
pub(crate) mod dialect;
pub(crate) mod script;
