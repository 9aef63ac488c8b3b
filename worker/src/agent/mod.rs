//! The agent: follows the leader, deploys what it is told, makes snapshots durable, commits, and reports. Tasks run on
//! while it has no leader.
//!
//! What it trusts: commands of the newest leader epoch that it has obeyed, for attempts that are not over. Everything
//! else is refused and logged. What the leader may not have heard is said again to the next one.

pub mod actor;
mod commands;
pub mod commits;
pub mod deploy;
pub mod ledger;
pub mod link;
pub mod plans;
pub mod restore;
pub mod run;
pub mod snapshots;
mod uploads;
