//! From the option `path` to a path. Knows nothing of what lies there.

use crate::options::Options;
use holdfast_dataflow::connector::ConnectorError;
use std::path::PathBuf;

/// An absolute path: `file://` is taken off, a relative path begins at the process's working directory.
pub(super) fn resolve(options: &Options<'_>, text: &str) -> Result<PathBuf, ConnectorError> {
    let path = match text.strip_prefix("file:") {
        Some(rest) => {
            let rest = rest.strip_prefix("//").unwrap_or(rest);
            if !rest.starts_with('/') {
                return Err(options.wrong("path", "is no absolute file URL: write file:///path"));
            }
            rest
        }
        None if text.contains("://") => {
            return Err(options.wrong(
                "path",
                "has a scheme that is not supported here: sources read local files, sinks also write memory:// and s3://",
            ));
        }
        None => text,
    };
    std::path::absolute(path).map_err(|e| options.wrong("path", &format!("cannot be resolved: {e}")))
}
