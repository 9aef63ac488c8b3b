//! Asking the other coordinators, over REST, which feature level their builds support.

use super::config::rest_peers;
use super::forward::{Buffered, Forwarder};
use super::view::cluster::ClusterInfo;
use crate::features::{FEATURE_LEVEL, Survey};
use async_trait::async_trait;
use axum::http::{Extensions, HeaderMap, Method};
use bytes::Bytes;
use holdfast_common::NodeId;
use holdfast_common::config::Configuration;
use holdfast_common::limits::CONNECT_DEADLINE;
use holdfast_raft::RaftHandle;
use std::collections::BTreeMap;

/// Largest answer that is read: thousands of workers fit.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// The members, as consensus knows them.
pub struct Members {
    handle: RaftHandle,
    rest_peers: BTreeMap<NodeId, String>,
    forwarder: Forwarder,
}

impl Members {
    /// Of this coordinator's cluster.
    #[must_use]
    pub fn new(handle: RaftHandle, config: &Configuration) -> Self {
        Self {
            handle,
            rest_peers: rest_peers(config),
            forwarder: Forwarder::new(),
        }
    }

    async fn ask(&self, rest: &str) -> Option<u32> {
        let request = Buffered {
            method: Method::GET,
            path_and_query: "/v1/cluster".to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            extensions: Extensions::new(),
        };
        let answer = self.forwarder.send(rest, &request, CONNECT_DEADLINE).await.ok()?;
        let body = axum::body::to_bytes(answer.into_body(), ANSWER_BYTES_MAX)
            .await
            .ok()?;
        let info: ClusterInfo = serde_json::from_slice(&body).ok()?;
        Some(info.supported_feature_level)
    }
}

#[async_trait]
impl Survey for Members {
    async fn levels(&self) -> Vec<Option<u32>> {
        let metrics = self.handle.metrics();
        let mut levels = Vec::with_capacity(metrics.members.len());
        for member in metrics.members {
            if member.id == metrics.id {
                levels.push(Some(FEATURE_LEVEL));
                continue;
            }
            let in_log = Some(member.addr.rest).filter(|rest| !rest.is_empty());
            let rest = in_log.or_else(|| self.rest_peers.get(&member.id).cloned());
            levels.push(match rest {
                Some(rest) => self.ask(&rest).await,
                None => None,
            });
        }
        levels
    }
}
