//! Reads snapshot storage as an outsider: manifests and their objects, without the product's code.

use super::http::{Call, Lost, send};
use crate::model::manifest::{self, Manifest, crc32c};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(3);

/// Where snapshots lie.
#[derive(Debug, Clone)]
pub(super) enum Storage {
    /// A directory that this process sees.
    Directory(PathBuf),
    /// An object server that serves `GET /bucket/key` without a signature.
    Server { at: SocketAddr, prefix: String },
}

/// What became of an object.
pub(super) enum Got {
    Bytes(Vec<u8>),
    Missing,
    /// Storage itself did not answer: nothing can be said.
    Unavailable(String),
}

/// What became of a checkpoint.
pub(super) enum Fetched {
    Whole(Manifest),
    Missing(String),
    Damaged(String),
    Unavailable(String),
}

impl Storage {
    /// From the checkpoint directory's URL and, for `s3://`, the server's address.
    pub(super) fn new(url: &str, endpoint: &str) -> Option<Self> {
        if let Some(path) = url.strip_prefix("file://") {
            return Some(Self::Directory(PathBuf::from(path)));
        }
        let place = url.strip_prefix("s3://")?;
        let at = endpoint
            .trim_end_matches('/')
            .strip_prefix("http://")?
            .parse()
            .ok()?;
        Some(Self::Server {
            at,
            prefix: format!("/{}", place.trim_end_matches('/')),
        })
    }

    async fn get(&self, path: &str) -> Got {
        match self {
            Self::Directory(root) => get_file(root, path).await,
            Self::Server { at, prefix } => {
                let key = format!("{prefix}/{path}");
                match send(*at, &Call::get(&key), DEADLINE).await {
                    Ok(answer) if answer.status.is_success() => Got::Bytes(answer.body.to_vec()),
                    Ok(answer) if answer.status.as_u16() == 404 => Got::Missing,
                    Ok(answer) => Got::Unavailable(answer.told()),
                    Err(Lost::NotSent(reason) | Lost::Unknown(reason)) => Got::Unavailable(reason),
                }
            }
        }
    }

    /// Reads a manifest and every object that it names.
    pub(super) async fn fetch(&self, path: &str) -> Fetched {
        let bytes = match self.get(path).await {
            Got::Bytes(bytes) => bytes,
            Got::Missing => return Fetched::Missing(path.to_owned()),
            Got::Unavailable(reason) => return Fetched::Unavailable(reason),
        };
        let manifest = match manifest::read(&bytes) {
            Ok(manifest) => manifest,
            Err(reason) => return Fetched::Damaged(format!("{path}: {reason}")),
        };
        for object in &manifest.objects {
            match self.get(&object.path).await {
                Got::Bytes(bytes) => {
                    let found = (bytes.len() as u64, crc32c(&bytes));
                    if found != (object.size, object.crc32c) {
                        return Fetched::Damaged(format!("{object:?} is {found:?}"));
                    }
                }
                Got::Missing => return Fetched::Missing(object.path.clone()),
                Got::Unavailable(reason) => return Fetched::Unavailable(reason),
            }
        }
        Fetched::Whole(manifest)
    }
}

/// A disk that is being mounted again after a loss of power shows an empty directory: a file is missing only if the
/// root is there before and after it was looked for.
async fn get_file(root: &Path, path: &str) -> Got {
    for _ in 0..2 {
        let there = tokio::fs::try_exists(root).await.unwrap_or(false);
        match tokio::fs::read(root.join(path)).await {
            Ok(bytes) => return Got::Bytes(bytes),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Got::Unavailable(error.to_string());
            }
            Err(_) if there && tokio::fs::try_exists(root).await.unwrap_or(false) => return Got::Missing,
            Err(_) => {}
        }
    }
    Got::Unavailable(format!("{} is not there", root.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn without_its_root_nothing_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("snapshots");
        assert!(matches!(get_file(&root, "a").await, Got::Unavailable(_)));
        std::fs::create_dir(&root).unwrap();
        assert!(matches!(get_file(&root, "a").await, Got::Missing));
        std::fs::write(root.join("a"), b"x").unwrap();
        assert!(matches!(get_file(&root, "a").await, Got::Bytes(bytes) if bytes == b"x"));
    }
}
