//! The client commands: ask the cluster, show the answer.

pub mod explain;
mod jobs;
mod members;
mod run;
mod status;

pub use explain::{explain, planned_here};
pub use jobs::{cancel, checkpoints, exceptions, job, jobs};
pub use members::members;
pub use run::{run, submit_file};
pub use status::status;

use crate::args::{Output, Target};
use crate::client::{Call, Client, ClientError};
use crate::exit::{Exit, Failure};
use hyper::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Refused { status, .. } if *status == StatusCode::BAD_REQUEST => Exit::Usage,
            _ => Exit::Error,
        };
        Failure {
            exit,
            message: error.to_string(),
        }
    }
}

/// Asks; prints the JSON as it came, or what `table` makes of it.
async fn show<T: DeserializeOwned>(
    client: &Client,
    target: &Target,
    path: &str,
    table: impl FnOnce(&T) -> String,
) -> Result<Exit, Failure> {
    let value = client.call(&Call::get(path)).await?;
    match target.output {
        Output::Json => print_json(&value)?,
        Output::Table => {
            let answer: T = serde_json::from_value(value).map_err(|e| {
                Failure::error(format!("the cluster gave an unexpected answer to {path}: {e}"))
            })?;
            print(&table(&answer));
        }
    }
    Ok(Exit::Ok)
}

/// Prints, and does not mind a reader that has gone away (`| head`).
pub fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

fn print_json(value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::error(e.to_string()))?;
    print(&format!("{text}\n"));
    Ok(())
}

/// A script's text.
///
/// # Errors
/// With exit code 2 if it cannot be read.
pub fn read_script(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| Failure::usage(format!("cannot read {}: {e}", path.display())))
}
