//! Settings in a request, and settings as they may be shown.

use super::ApiError;
use holdfast_common::NodeId;
use holdfast_common::config::peers::{host_of, parse_peers};
use holdfast_common::config::{Configuration, Scope, options};
use serde::Serialize;
use std::collections::BTreeMap;

/// The other coordinators' REST addresses, as the configuration says or implies them.
pub(crate) fn rest_peers(config: &Configuration) -> BTreeMap<NodeId, String> {
    let list = |text: Option<String>| text.and_then(|t| parse_peers(&t).ok()).unwrap_or_default();
    let mut rest = BTreeMap::new();
    if let Ok(port) = config.get(&options::REST_PORT) {
        for (id, rpc) in list(config.get_optional(&options::RAFT_PEERS).ok().flatten()) {
            if let Some(host) = host_of(&rpc) {
                rest.insert(id, format!("{host}:{port}"));
            }
        }
    }
    rest.extend(list(
        config.get_optional(&options::RAFT_REST_PEERS).ok().flatten(),
    ));
    rest
}

/// One setting of a process.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Setting {
    pub(crate) key: String,
    pub(crate) value: String,
}

/// A process's explicit settings, secrets hidden.
pub(crate) fn shown(config: &Configuration) -> Vec<Setting> {
    config
        .iter()
        .map(|(key, value)| {
            let secret = ["secret", "password", "token", "access-key"]
                .iter()
                .any(|word| key.contains(word));
            Setting {
                key: key.to_owned(),
                value: if secret { "******" } else { value }.to_owned(),
            }
        })
        .collect()
}

/// The process's settings with those of a request on top. Only job settings can be given with a request.
pub(crate) fn with_request<'a>(
    base: &Configuration,
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Configuration, ApiError> {
    let mut config = base.clone();
    for (key, value) in pairs {
        if key == "stale" {
            continue;
        }
        if options::lookup(key).is_some_and(|info| info.scope == Scope::Process) {
            return Err(ApiError::bad_request(format!(
                "'{key}' is a setting of processes: it stands in their configuration file, not with a job"
            )));
        }
        config
            .set(key, value)
            .map_err(|e| ApiError::bad_request(e.to_string()))?;
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_request_sets_only_what_belongs_to_a_job() {
        let base = Configuration::from_pairs([("parallelism.default", "2")]).unwrap();
        let config = with_request(&base, [("pipeline.name", "x"), ("parallelism.default", "4")]).unwrap();
        assert_eq!(config.get(&options::PARALLELISM), Ok(4));
        assert!(with_request(&base, [("rest.port", "1")]).is_err());
        assert!(with_request(&base, [("paralelism.default", "1")]).is_err());
    }

    #[test]
    fn rest_addresses_are_listed_or_implied() {
        let config = Configuration::from_pairs([
            ("high-availability.raft.peers", "1@a:7101,2@b:7101"),
            ("high-availability.raft.rest-peers", "2@c:9000"),
            ("rest.port", "8088"),
        ])
        .unwrap();
        let rest = rest_peers(&config);
        assert_eq!(
            (rest[&NodeId(1)].as_str(), rest[&NodeId(2)].as_str()),
            ("a:8088", "c:9000")
        );
        assert!(rest_peers(&Configuration::new()).is_empty());
    }

    #[test]
    fn secrets_are_hidden() {
        let config =
            Configuration::from_pairs([("s3.secret-key", "abc"), ("parallelism.default", "2")]).unwrap();
        let shown = shown(&config);
        assert_eq!(
            shown[0],
            Setting {
                key: "parallelism.default".into(),
                value: "2".into()
            }
        );
        assert_eq!(shown[1].value, "******");
    }
}
