//! Lists of coordinators' addresses: `high-availability.raft.peers` and `high-availability.raft.rest-peers`.

use crate::NodeId;
use std::collections::BTreeMap;

/// Reads `1@host:port,2@host:port`.
///
/// # Errors
/// A text that names the entry that is refused.
pub fn parse_peers(text: &str) -> Result<BTreeMap<NodeId, String>, String> {
    let mut peers = BTreeMap::new();
    for entry in text.split(',').map(str::trim).filter(|e| !e.is_empty()) {
        let refused = |reason: &str| format!("'{entry}': {reason}; expected number@host:port");
        let (number, address) = entry.split_once('@').ok_or_else(|| refused("there is no @"))?;
        let number = number
            .parse::<u64>()
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| refused("bad number"))?;
        if host_of(address).is_none() {
            return Err(refused(&format!("'{address}' is no address")));
        }
        if peers.insert(NodeId(number), address.to_owned()).is_some() {
            return Err(refused("the number stands there twice"));
        }
    }
    if peers.is_empty() {
        return Err("no coordinator is listed; expected number@host:port[,…]".to_owned());
    }
    Ok(peers)
}

/// Writes what [`parse_peers`] reads.
#[must_use]
pub fn format_peers(peers: &BTreeMap<NodeId, String>) -> String {
    let entries: Vec<String> = peers
        .iter()
        .map(|(id, address)| format!("{id}@{address}"))
        .collect();
    entries.join(",")
}

/// The host of `host:port`, if the text is one; brackets of IPv6 stay.
#[must_use]
pub fn host_of(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse::<u16>().ok()?;
    (port > 0 && !host.is_empty() && !host.contains(['/', '@', ' '])).then_some(host)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_list_reads_back() {
        let text = "1@127.0.0.1:7101,2@[::1]:7102,3@host-3:7103";
        let peers = parse_peers(text).unwrap();
        assert_eq!(peers.len(), 3);
        assert_eq!(peers[&NodeId(2)], "[::1]:7102");
        assert_eq!(host_of(&peers[&NodeId(2)]), Some("[::1]"));
        assert_eq!(format_peers(&peers), text);
    }

    #[test]
    fn wrong_entries_are_named() {
        for bad in [
            "",
            "127.0.0.1:7101",
            "x@h:1",
            "0@h:1",
            "1@h",
            "1@:1",
            "1@h:0",
            "1@a:1/b:2",
            "1@h:1,1@h:2",
        ] {
            assert!(parse_peers(bad).is_err(), "{bad}");
        }
        assert!(
            parse_peers("1@h:1,2@h")
                .unwrap_err()
                .starts_with("'2@h': 'h' is no address")
        );
    }
}
