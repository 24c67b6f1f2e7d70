//! The addresses at which nodes of the registry are known, and hosts as bounds count them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hawser_engine::ports::Registry;
use hawser_proto::OriginatorId;
use parking_lot::Mutex;

/// Addresses that are kept of a node's registered name. A guess: both versions of IP, and a second host. A node whose
/// name has very many must not make them all its own.
const PER_NAME_MAX: usize = 4;

/// Length of the prefix of an IPv6 site, in bits. The most that providers usually give to one customer (RFC 6177).
const SITE_BITS: u32 = 48;

/// Returns an address as logs and statuses show it. A socket for both versions of IP maps the IPv4 addresses of its
/// peers into IPv6.
pub(crate) fn unmapped(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// The addresses that count as those of one host: one of IPv4, an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AddressBlock(IpAddr);

impl AddressBlock {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let prefix = address.to_bits() & !u128::from(u64::MAX);
                Self(Ipv6Addr::from_bits(prefix).into())
            }
            address @ IpAddr::V4(_) => Self(address),
        }
    }

    /// Returns the first address of its site: an IPv4 address itself, or an IPv6 /48, whose owner has 65,536 blocks.
    pub(crate) fn site(self) -> Self {
        match self.0 {
            IpAddr::V6(address) => {
                let prefix = address.to_bits() & !(u128::MAX >> SITE_BITS);
                Self(Ipv6Addr::from_bits(prefix).into())
            }
            IpAddr::V4(_) => self,
        }
    }
}

/// The addresses of nodes that were dialled or have proved their ids. They are no proof of an id: a host there only
/// has a share of its own of what all other addresses have in common.
#[derive(Debug, Default)]
pub(crate) struct NodeAddresses {
    of_node: Mutex<BTreeMap<OriginatorId, KnownAddresses>>,
}

#[derive(Debug, Default)]
struct KnownAddresses {
    /// The addresses of the registered name when it was last looked up.
    registered: Vec<AddressBlock>,
    /// The one from which the node last proved its id. It may differ: nodes dial through gateways, too.
    proven: Option<AddressBlock>,
}

impl NodeAddresses {
    /// Replaces the addresses of a node's registered name.
    pub(crate) fn set_registered(
        &self,
        node: OriginatorId,
        addresses: impl Iterator<Item = IpAddr>,
    ) {
        let blocks = addresses.take(PER_NAME_MAX).map(AddressBlock::of).collect();
        self.of_node.lock().entry(node).or_default().registered = blocks;
    }

    /// Replaces the address from which a node has proved its id.
    pub(crate) fn set_proven(&self, node: OriginatorId, address: IpAddr) {
        self.of_node.lock().entry(node).or_default().proven = Some(AddressBlock::of(address));
    }

    /// Returns true if an address is that of a node in the registry.
    pub(crate) fn has(&self, address: IpAddr, registry: &Registry) -> bool {
        let block = AddressBlock::of(address);
        let of_node = self.of_node.lock();
        let mut known = of_node
            .iter()
            .filter(|(_, it)| it.registered.contains(&block) || it.proven == Some(block));
        known.any(|(node, _)| registry.member(*node).is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hawser_engine::ports::NodeRecord;
    use hawser_proto::SecretKey;

    use super::*;

    fn registry(ids: &[u32]) -> Registry {
        let public_key = SecretKey::from_bytes(&[7; 32]).unwrap().public_key();
        let record = |id: &u32| NodeRecord {
            id: OriginatorId(*id),
            public_key,
            owner: public_key.address(),
            http_address: None,
            quic_address: None,
            canonical: true,
        };
        ids.iter().map(record).collect()
    }

    fn host(number: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, number).into()
    }

    #[test]
    fn a_node_has_few_addresses_and_none_once_it_is_not_in_the_registry() {
        let known = NodeAddresses::default();
        known.set_registered(OriginatorId(100), (1..=200).map(host));
        known.set_proven(OriginatorId(200), host(250));
        let of = |registry: &Registry| {
            (0..=255).filter(|it| known.has(host(*it), registry)).collect::<Vec<u8>>()
        };
        assert_eq!(of(&registry(&[100, 200])), [1, 2, 3, 4, 250]);
        assert_eq!(of(&registry(&[200])), [250]);
        known.set_proven(OriginatorId(200), host(251));
        known.set_registered(OriginatorId(100), [host(9)].into_iter());
        assert_eq!(of(&registry(&[100, 200])), [9, 251], "those of before are forgotten");
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let of = |text: &str| AddressBlock::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.7"), of("192.0.2.7"));
        assert_ne!(of("192.0.2.7"), of("192.0.2.8"));
    }

    #[test]
    fn an_ipv4_address_looks_the_same_at_a_socket_for_both_versions() {
        for (seen, shown) in [
            ("[::ffff:192.0.2.7]:5050", "192.0.2.7:5050"),
            ("192.0.2.7:5050", "192.0.2.7:5050"),
            ("[2001:db8::7]:5050", "[2001:db8::7]:5050"),
        ] {
            assert_eq!(unmapped(seen.parse().unwrap()).to_string(), shown);
        }
    }

    #[test]
    fn a_larger_network_of_ipv6_counts_as_one_site() {
        let of = |text: &str| AddressBlock::of(text.parse().unwrap()).site();
        assert_eq!(of("2001:db8:1::1"), of("2001:db8:1:ffff::2"));
        assert_ne!(of("2001:db8:1::1"), of("2001:db8:2::1"));
        assert_eq!(of("::ffff:192.0.2.7"), of("192.0.2.7"));
        assert_ne!(of("192.0.2.7"), of("192.0.2.8"));
    }
}
