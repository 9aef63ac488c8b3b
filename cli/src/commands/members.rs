//! `members`: the set of coordinators, and who leads.

use super::print;
use crate::args::{MembersCommand, Output, Target};
use crate::client::{Call, Safety, encode, target};
use crate::exit::{Exit, Failure};
use crate::files::{ClusterFile, cluster_path, read_json};
use hyper::Method;
use std::time::Duration;

/// A new member first receives the whole state.
const DEADLINE: Duration = Duration::from_secs(90);
/// How long a coordinator that does not answer, or has not caught up, is given before that is told.
const RETRY_FOR: Duration = Duration::from_secs(10);
/// Flink's REST port, and ours.
const DEFAULT_REST_PORT: u16 = 8081;

/// `members add`, `remove`, `transfer`.
pub async fn members(command: &MembersCommand) -> Result<Exit, Failure> {
    match command {
        MembersCommand::Add {
            id,
            addr,
            rest_addr,
            target,
        } => {
            let rest = match rest_addr {
                Some(rest) => rest.clone(),
                None => rest_of(target, *id, addr)?,
            };
            let path = format!("/v1/members/{id}?rpc={}&rest={}", encode(addr), encode(&rest));
            let done = format!("coordinator {id} is a voter now (rpc {addr}, rest {rest})\n");
            change(target, Method::POST, path, &done).await
        }
        MembersCommand::Remove { id, target } => {
            let done = format!("coordinator {id} is no longer a member; its number must not be used again\n");
            change(target, Method::DELETE, format!("/v1/members/{id}"), &done).await
        }
        MembersCommand::Transfer { id, target } => {
            let done = format!("coordinator {id} leads now\n");
            change(
                target,
                Method::POST,
                format!("/v1/leader/transfer?to={id}"),
                &done,
            )
            .await
        }
    }
}

/// The REST address of a coordinator that was named by its RPC address only.
fn rest_of(target: &Target, id: u64, rpc: &str) -> Result<String, Failure> {
    let listed: Option<ClusterFile> = match target::directory(target) {
        Some(dir) => read_json(&cluster_path(&dir))?,
        None => None,
    };
    let known = listed
        .into_iter()
        .flat_map(|f| f.processes)
        .find(|p| p.role == "coordinator" && (p.id == id || p.rpc.as_deref() == Some(rpc)));
    if let Some(rest) = known.and_then(|p| p.rest) {
        return Ok(rest);
    }
    match rpc.rsplit_once(':') {
        Some((host, _)) if !host.is_empty() => Ok(format!("{host}:{DEFAULT_REST_PORT}")),
        _ => Err(Failure::usage(format!(
            "'{rpc}' is no address: expected host:port"
        ))),
    }
}

async fn change(args: &Target, method: Method, path: String, done: &str) -> Result<Exit, Failure> {
    let client = target::connect(args)?;
    let value = client
        .call(
            &Call::new(method, path, Safety::Once)
                .deadline(DEADLINE)
                .retry_for(RETRY_FOR),
        )
        .await?;
    match args.output {
        Output::Json => print(&format!("{value}\n")),
        Output::Table => print(done),
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_missing_rest_address_is_guessed_from_the_host() {
        let target = Target {
            dir: None,
            rest: Some("127.0.0.1:1".into()),
            output: Output::Table,
        };
        assert_eq!(rest_of(&target, 4, "10.0.0.4:7101").unwrap(), "10.0.0.4:8081");
        assert!(rest_of(&target, 4, "7101").is_err());
    }
}
