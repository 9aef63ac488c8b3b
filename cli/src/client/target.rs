//! Which coordinators a command talks to: flag, directory, environment, or the default directory.

use super::Client;
use crate::args::{DEFAULT_DIR, Target};
use crate::exit::Failure;
use crate::files::{ClusterFile, cluster_path, read_json};
use std::path::{Path, PathBuf};

/// Environment variable with REST addresses.
pub const REST_VARIABLE: &str = "HOLDFAST_REST";

/// Where the addresses come from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Addresses(String),
    Directory(PathBuf),
}

fn source(target: &Target, variable: Option<String>) -> Source {
    if let Some(rest) = &target.rest {
        return Source::Addresses(rest.clone());
    }
    if let Some(dir) = &target.dir {
        return Source::Directory(dir.clone());
    }
    match variable.filter(|v| !v.trim().is_empty()) {
        Some(rest) => Source::Addresses(rest),
        None => Source::Directory(PathBuf::from(DEFAULT_DIR)),
    }
}

/// A client for the cluster that is meant.
///
/// # Errors
/// If no address is found.
pub fn connect(target: &Target) -> Result<Client, Failure> {
    match source(target, std::env::var(REST_VARIABLE).ok()) {
        Source::Addresses(text) => parse_addresses(&text).map(Client::new).map_err(Failure::usage),
        Source::Directory(dir) => of_directory(&dir).map(Client::new),
    }
}

/// The directory that is meant, if one is.
#[must_use]
pub fn directory(target: &Target) -> Option<PathBuf> {
    match source(target, std::env::var(REST_VARIABLE).ok()) {
        Source::Directory(dir) => Some(dir),
        Source::Addresses(_) => None,
    }
}

/// REST addresses of the coordinators of a directory.
///
/// # Errors
/// If there is no running cluster in it.
pub fn of_directory(dir: &Path) -> Result<Vec<String>, Failure> {
    let path = cluster_path(dir);
    let file: Option<ClusterFile> = read_json(&path)?;
    let addresses: Vec<String> = file
        .into_iter()
        .flat_map(|f| f.processes)
        .filter_map(|p| p.rest)
        .collect();
    if addresses.is_empty() {
        return Err(Failure::error(format!(
            "no cluster runs in {}: start one with `holdfast up --dir {}`, or name one with --rest or {REST_VARIABLE}",
            dir.display(),
            dir.display()
        )));
    }
    Ok(addresses)
}

/// `http://host:port` or `host:port`, separated by commas.
fn parse_addresses(text: &str) -> Result<Vec<String>, String> {
    let mut addresses = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let bare = part.strip_prefix("http://").unwrap_or(part).trim_end_matches('/');
        let port = bare
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty())
            .map(|(_, port)| port.parse::<u16>());
        if bare.contains("//") || bare.contains('/') || !matches!(port, Some(Ok(1..))) {
            return Err(format!("'{part}' is no REST address: expected http://host:port"));
        }
        addresses.push(bare.to_owned());
    }
    if addresses.is_empty() {
        return Err("no REST address was given: expected http://host:port[,…]".to_owned());
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::args::Output;

    fn target(dir: Option<&str>, rest: Option<&str>) -> Target {
        Target {
            dir: dir.map(PathBuf::from),
            rest: rest.map(str::to_owned),
            output: Output::Table,
        }
    }

    #[test]
    fn flags_go_before_the_environment() {
        let variable = || Some("127.0.0.1:1".to_owned());
        assert_eq!(
            source(&target(None, Some("a:1")), variable()),
            Source::Addresses("a:1".into())
        );
        assert_eq!(
            source(&target(Some("d"), None), variable()),
            Source::Directory("d".into())
        );
        assert_eq!(
            source(&target(None, None), variable()),
            Source::Addresses("127.0.0.1:1".into())
        );
        assert_eq!(
            source(&target(None, None), None),
            Source::Directory(DEFAULT_DIR.into())
        );
    }

    #[test]
    fn addresses_are_read_with_and_without_a_scheme() {
        assert_eq!(parse_addresses("http://a:1/, b:2 ,").unwrap(), ["a:1", "b:2"]);
        for bad in ["", "a", ":1", "a:0", "a:x", "https://a:1", "http://a:1/v1"] {
            assert!(parse_addresses(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_directory_without_a_cluster_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let failure = of_directory(dir.path()).unwrap_err();
        assert!(
            failure.message.contains("holdfast up --dir"),
            "{}",
            failure.message
        );
    }
}
