//! Between coordinators: gRPC clients and server for openraft's messages. Every request says who calls whom, and the
//! receiver refuses what is not meant for it.

pub(crate) mod client;
mod confirm;
pub(crate) mod peers;
mod piggyback;
pub(crate) mod server;

pub(crate) use client::NetworkFactory;
pub(crate) use peers::{Lane, Peers};
