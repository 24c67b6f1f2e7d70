//! Peers in private networks.
//!
//! Each peer chooses its address in the registry, and may announce another one for QUIC. It could name a service on
//! this node's own machine or network that only this node can reach.

use hawser_dial::{DialledNetworks, is_private};
use hawser_engine::ports::NodeRecord;

use crate::address::of_url;

/// Ends of names that the public DNS never has: RFC 6761, RFC 6762, RFC 8375, and `internal`, which ICANN has reserved
/// for private use.
const PRIVATE_ENDS: [&str; 5] = ["localhost", "local", "internal", "test", "home.arpa"];

/// The peers that are dialled at addresses of this machine and of private networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrivatePeers {
    /// All peers if this node's own URL in the registry is in such a network, and otherwise none.
    #[default]
    OfPrivateNodes,
    /// All peers.
    All,
}

impl PrivatePeers {
    /// Returns the networks in which the node of this record dials peers, at the addresses of the registry and at those
    /// that they announce. `None` means a node without a record.
    pub(crate) fn networks(self, own: Option<&NodeRecord>) -> DialledNetworks {
        let is_allowed = match self {
            Self::OfPrivateNodes => own.is_some_and(is_in_private_network),
            Self::All => true,
        };
        if is_allowed { DialledNetworks::All } else { DialledNetworks::Public }
    }
}

/// Returns true if the URL of a record can be reached only from a private network. Looks no name up: machines of the
/// public internet often have a private address for their own name.
fn is_in_private_network(record: &NodeRecord) -> bool {
    let place = record.http_address.as_deref().and_then(of_url);
    let host = place.as_deref().and_then(|place| place.rsplit_once(':')).map(|(host, _)| host);
    host.is_some_and(is_private_host)
}

fn is_private_host(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    if let Ok(address) = host.parse() {
        return is_private(address);
    }
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let is_below = |end: &str| {
        name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    !name.is_empty() && (!name.contains('.') || PRIVATE_ENDS.into_iter().any(is_below))
}

#[cfg(test)]
mod tests {
    use hawser_proto::{OriginatorId, SecretKey};

    use super::*;

    fn record(url: Option<&str>) -> NodeRecord {
        let public_key = SecretKey::from_bytes(&[7; 32]).unwrap().public_key();
        NodeRecord {
            id: OriginatorId(100),
            public_key,
            owner: public_key.address(),
            http_address: url.map(str::to_owned),
            quic_address: None,
            canonical: false,
        }
    }

    #[test]
    fn a_node_dials_private_addresses_if_its_own_is_one() {
        let networks = |own: Option<&NodeRecord>| PrivatePeers::OfPrivateNodes.networks(own);
        for url in [
            "http://127.0.0.1:5050",
            "http://[::1]:5050",
            "http://10.1.2.3",
            "https://100.64.0.1:5050",
            "http://[fd00::1]:5050",
            "http://[::ffff:10.0.0.1]:5050",
            "http://localhost:5050",
            "http://node-100:5050",
            "http://node-0.hawser.default.svc.cluster.local:5050",
            "https://node.corp.Internal",
            "https://node.test.",
            "http://router.home.arpa",
        ] {
            assert_eq!(networks(Some(&record(Some(url)))), DialledNetworks::All, "{url}");
        }
        for url in [
            "https://node.example",
            "https://node.example:5050",
            "https://8.8.8.8",
            "http://[2606:4700::1111]:5050",
            "http://[64:ff9b::808:808]",
            "https://notlocal.example",
            "https://node.mylocal",
            "https://local.node.example",
            // No node can be there, so the record says nothing about the network.
            "http://169.254.1.1:5050",
            "http://0.0.0.0:5050",
            "http://:5050",
            "http://",
            "node-100:5050",
        ] {
            assert_eq!(networks(Some(&record(Some(url)))), DialledNetworks::Public, "{url}");
        }
    }

    /// A replica has no record, and the URL in a node's record may be none.
    #[test]
    fn a_node_without_an_address_dials_private_ones_only_if_its_operator_says_so() {
        let without = record(None);
        for own in [None, Some(&without)] {
            assert_eq!(PrivatePeers::OfPrivateNodes.networks(own), DialledNetworks::Public);
            assert_eq!(PrivatePeers::All.networks(own), DialledNetworks::All);
        }
    }
}
