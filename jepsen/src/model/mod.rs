//! What is right: sequential objects, closed forms of results, and the form of stored objects, written without the
//! product's code.

pub mod manifest;
pub mod oracle;
pub mod part;
pub mod register;
