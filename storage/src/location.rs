//! From a URL to a store: `file:///path`, `memory://name/prefix`, `s3://bucket/prefix`. The only place that constructs
//! stores; knows nothing of what is kept there.

use crate::StorageError;
use holdfast_common::config::{ConfigError, Configuration, options};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A place in a store.
#[derive(Clone)]
pub struct ObjectLocation {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The same store's multipart interface, where it has one (not local files).
    pub multipart: Option<Arc<dyn MultipartStore>>,
    /// What every path begins with.
    pub prefix: Path,
    /// The URL without a trailing slash, for messages.
    pub url: String,
    /// The directory of a local store.
    root: Option<PathBuf>,
}

/// How to reach an S3-compatible store: the `s3.*` keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Settings {
    /// `s3.endpoint`.
    pub endpoint: Option<String>,
    /// `s3.access-key`.
    pub access_key: Option<String>,
    /// `s3.secret-key`.
    pub secret_key: Option<String>,
    /// `s3.path.style.access`.
    pub path_style: bool,
    /// `s3.endpoint.region`.
    pub region: String,
}

impl S3Settings {
    /// From the process's configuration.
    ///
    /// # Errors
    /// If a stored value does not have its key's type.
    pub fn from_config(config: &Configuration) -> Result<Self, ConfigError> {
        Ok(Self {
            endpoint: config.get_optional(&options::S3_ENDPOINT)?,
            access_key: config.get_optional(&options::S3_ACCESS_KEY)?,
            secret_key: config.get_optional(&options::S3_SECRET_KEY)?,
            path_style: config.get(&options::S3_PATH_STYLE)?,
            region: config.get(&options::S3_REGION)?,
        })
    }
}

impl ObjectLocation {
    /// Opens the store behind a URL. A missing local directory is created, durably.
    ///
    /// # Errors
    /// [`StorageError::Invalid`] for a URL of another form, [`StorageError::Unavailable`] if a directory cannot be made.
    pub fn open(url: &str, s3: &S3Settings) -> Result<Self, StorageError> {
        let trimmed = url.trim().trim_end_matches('/');
        if let Some(path) = trimmed.strip_prefix("file://") {
            return local(path, url);
        }
        if url.trim().starts_with("memory://") {
            let rest = trimmed.strip_prefix("memory://").unwrap_or_default();
            let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let store = named_memory(name);
            return Ok(Self {
                store: store.clone(),
                multipart: Some(store),
                prefix: parse_path(prefix)?,
                url: trimmed.to_owned(),
                root: None,
            });
        }
        if let Some(rest) = trimmed.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err(StorageError::Invalid(format!(
                    "'{url}' names no bucket: write s3://bucket/prefix"
                )));
            }
            return open_s3(bucket, parse_path(prefix)?, trimmed, s3);
        }
        Err(StorageError::Invalid(format!(
            "'{url}' is no storage location: write file:///absolute/path, s3://bucket/prefix or memory://"
        )))
    }

    /// The full path of an object below this location.
    ///
    /// # Errors
    /// [`StorageError::Invalid`] for a path with empty or relative parts.
    pub fn join(&self, path: &str) -> Result<Path, StorageError> {
        let parsed = parse_path(path)?;
        Ok(self.prefix.parts().chain(parsed.parts()).collect())
    }

    /// Makes an object durable that another call created, perhaps one that died before its fsync. Only local files need it.
    pub(crate) fn harden(&self, full: &Path) -> std::io::Result<()> {
        let Some(root) = &self.root else { return Ok(()) };
        let path = full
            .parts()
            .fold(root.clone(), |path, part| path.join(part.as_ref()));
        std::fs::File::open(&path)?.sync_all()?;
        path.parent()
            .map_or(Ok(()), |parent| std::fs::File::open(parent)?.sync_all())
    }

    /// A full path as it stands below this location; unchanged if it lies elsewhere.
    #[must_use]
    pub fn strip(&self, full: &Path) -> String {
        let below: Option<Path> = full.prefix_match(&self.prefix).map(Iterator::collect);
        below.map_or_else(|| full.to_string(), |path| path.to_string())
    }
}

fn parse_path(path: &str) -> Result<Path, StorageError> {
    Path::parse(path).map_err(|e| StorageError::Invalid(format!("'{path}' is no object path: {e}")))
}

fn local(path: &str, url: &str) -> Result<ObjectLocation, StorageError> {
    if !path.starts_with('/') {
        return Err(StorageError::Invalid(format!(
            "'{url}' is no absolute path: write file:///absolute/path, with three slashes"
        )));
    }
    let unavailable = |action: &str, reason: String| {
        StorageError::Unavailable(format!(
            "cannot {action} the storage directory '{path}': {reason}"
        ))
    };
    create_dirs_durably(std::path::Path::new(path)).map_err(|e| unavailable("create", e.to_string()))?;
    let store = LocalFileSystem::new_with_prefix(path)
        .map_err(|e| unavailable("open", e.to_string()))?
        .with_fsync(true)
        .with_automatic_cleanup(true);
    Ok(ObjectLocation {
        store: Arc::new(store),
        multipart: None,
        prefix: Path::default(),
        url: url.trim().trim_end_matches('/').to_owned(),
        root: Some(PathBuf::from(path)),
    })
}

/// Creates a directory and its missing parents, each made durable by an fsync of the directory that holds it.
///
/// # Errors
/// As the file system has it.
pub fn create_dirs_durably(path: &std::path::Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent();
    if let Some(parent) = parent {
        create_dirs_durably(parent)?;
    }
    match std::fs::create_dir(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists || !path.is_dir() => return Err(e),
        _ => {}
    }
    parent.map_or(Ok(()), |p| std::fs::File::open(p)?.sync_all())
}

/// Stores in memory live as long as the process and are shared by name, so that several parts of one process meet there.
fn named_memory(name: &str) -> Arc<InMemory> {
    static STORES: OnceLock<Mutex<BTreeMap<String, Arc<InMemory>>>> = OnceLock::new();
    let stores = STORES.get_or_init(Mutex::default);
    let mut stores = stores.lock().unwrap_or_else(PoisonError::into_inner);
    stores.entry(name.to_owned()).or_default().clone()
}

#[cfg(feature = "s3")]
fn open_s3(bucket: &str, prefix: Path, url: &str, s3: &S3Settings) -> Result<ObjectLocation, StorageError> {
    use holdfast_common::limits;
    use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
    use object_store::{ClientOptions, RetryConfig};
    let client = ClientOptions::new()
        .with_connect_timeout(limits::CONNECT_DEADLINE)
        .with_allow_http(s3.endpoint.as_deref().is_some_and(|e| e.starts_with("http://")));
    let retry = RetryConfig {
        max_retries: 3,
        retry_timeout: limits::STORAGE_DEADLINE,
        ..RetryConfig::default()
    };
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_region(&s3.region)
        .with_virtual_hosted_style_request(!s3.path_style)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_client_options(client)
        .with_retry(retry);
    if let Some(endpoint) = &s3.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(key) = &s3.access_key {
        builder = builder.with_access_key_id(key);
    }
    if let Some(secret) = &s3.secret_key {
        builder = builder.with_secret_access_key(secret);
    }
    let store = Arc::new(
        builder
            .build()
            .map_err(|e| StorageError::Invalid(format!("'{url}': {e}")))?,
    );
    Ok(ObjectLocation {
        store: store.clone(),
        multipart: Some(store),
        prefix,
        url: url.to_owned(),
        root: None,
    })
}

#[cfg(not(feature = "s3"))]
fn open_s3(
    _bucket: &str,
    _prefix: Path,
    url: &str,
    _s3: &S3Settings,
) -> Result<ObjectLocation, StorageError> {
    Err(StorageError::Invalid(format!(
        "'{url}': this binary was built without s3; build it with `--features s3`, or use file:///path"
    )))
}
