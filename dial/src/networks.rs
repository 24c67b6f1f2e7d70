//! Sorts addresses by network: the public internet, private networks, and addresses that no node can have.
//!
//! The operator of a node chooses the address in its record, and could name one at which other nodes and gateways find
//! a service of their own networks.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Addresses outside of the link-local ranges at which machines of some clouds get their credentials. They lie in
/// ranges that nodes may use: shared, public and unique-local addresses.
const CREDENTIALS_V4: [Ipv4Addr; 2] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16)];
const CREDENTIALS_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];
/// The prefix of the IPv6 addresses that a translator maps to IPv4 addresses: RFC 6052, section 2.1.
const NAT64: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];
/// The bytes of an IPv6 address for a network's own translator (`64:ff9b:1::/48`, RFC 8215) that may hold the IPv4
/// address, for each prefix length: RFC 6052, section 2.2.
const LOCAL_NAT64: [[usize; 4]; 4] =
    [[6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12], [12, 13, 14, 15]];

/// The networks in which nodes are dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialledNetworks {
    /// The public internet alone.
    Public,
    /// The public internet, this machine and private networks.
    All,
}

impl DialledNetworks {
    /// Returns the addresses that are dialled. Addresses that no node can have are never dialled.
    ///
    /// # Errors
    /// Fails with `PermissionDenied` when there are addresses, and none of them is dialled.
    pub(crate) fn of(self, mut addresses: Vec<SocketAddr>) -> io::Result<Vec<SocketAddr>> {
        let refused = addresses.iter().find_map(|address| self.refusal(address.ip()));
        addresses.retain(|address| self.refusal(address.ip()).is_none());
        match refused {
            Some(reason) if addresses.is_empty() => {
                Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
            }
            _ => Ok(addresses),
        }
    }

    /// Returns the reason for which an address is not dialled; `None` for one that is.
    fn refusal(self, address: IpAddr) -> Option<String> {
        if is_of_no_node(address) {
            return Some(format!("no node can be at {address}: it is not dialled"));
        }
        (self == Self::Public && !is_public(address)).then(|| {
            format!(
                "{address} is no address of the internet: it is dialled only with --allow-private-nodes"
            )
        })
    }
}

/// Returns true for an address that no node can have in any network: unspecified, link-local, multicast and broadcast
/// addresses, and those at which machines of clouds get their credentials.
fn is_of_no_node(address: IpAddr) -> bool {
    match translated(address) {
        IpAddr::V4(it) => {
            let is_of_many = it.is_multicast() || it.is_broadcast();
            it.octets()[0] == 0 || is_of_many || is_beside_machine(it)
        }
        IpAddr::V6(it) => {
            it.is_unspecified()
                || it.is_multicast()
                || it.is_unicast_link_local()
                || CREDENTIALS_V6.contains(&it)
                || unpacked(it).into_iter().any(is_beside_machine)
        }
    }
}

/// Returns true for a link-local address, or one at which a machine gets its credentials.
fn is_beside_machine(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    // RFC 6890, section 2.2.2: not routed. One provider's machines get their credentials there.
    let is_of_protocols = [a, b, c] == [192, 0, 0];
    is_of_protocols || address.is_link_local() || CREDENTIALS_V4.contains(&address)
}

/// Returns the IPv4 addresses to which packets for this address may go: the end of a 6to4 tunnel (RFC 3056, section 2),
/// or the addresses that a network's translator may read from it.
fn unpacked(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let octets = address.octets();
    let at = |places: [usize; 4]| Ipv4Addr::from(places.map(|place| octets[place]));
    match address.segments() {
        [0x2002, ..] => vec![at([2, 3, 4, 5])],
        [0x64, 0xff9b, 1, ..] => LOCAL_NAT64.map(at).to_vec(),
        _ => Vec::new(),
    }
}

/// Returns true if an address belongs to the public internet, and a node can be there.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    if is_of_no_node(address) {
        return false;
    }
    match translated(address) {
        IpAddr::V4(it) => {
            let [a, b, ..] = it.octets();
            let is_shared = a == 100 && (64..128).contains(&b); // RFC 6598
            let is_benchmark = a == 198 && (b == 18 || b == 19); // RFC 2544
            let is_reserved = a >= 240 || is_benchmark || it.is_documentation();
            !(it.is_private() || it.is_loopback() || is_shared || is_reserved)
        }
        IpAddr::V6(it) => !it.is_loopback() && is_global(it),
    }
}

/// Returns true if an address is in 2000::/3, the range of public addresses (RFC 4291 §2.4), and neither embeds an
/// IPv4 address nor is reserved for documentation.
fn is_global(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    let is_6to4 = first == 0x2002;
    let is_teredo_or_documentation = first == 0x2001 && (second == 0 || second == 0xdb8);
    first & 0xe000 == 0x2000 && !is_6to4 && !is_teredo_or_documentation
}

/// Returns true if an address is that of this machine or of a private network: loopback, private (RFC 1918), shared
/// (RFC 6598) or unique-local (RFC 4193).
#[must_use]
pub fn is_private(address: IpAddr) -> bool {
    match translated(address) {
        IpAddr::V4(it) => {
            let [a, b, ..] = it.octets();
            it.is_loopback() || it.is_private() || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(it) => it.is_loopback() || it.is_unique_local(),
    }
}

/// Returns true if the host of a URL is this machine. Of names only `localhost` counts, because any other may resolve
/// to any address.
#[must_use]
pub fn is_this_machine(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Returns the IPv4 address that an IPv6 address represents, on this machine or at a translator. Returns any other
/// address unchanged.
fn translated(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(it) if it.segments()[..6] == NAT64 => {
            let [.., a, b, c, d] = it.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses of machines, data centres and providers.
    const PRIVATE: [&str; 14] = [
        "127.0.0.1",
        "127.1.2.3",
        "10.1.2.3",
        "172.31.0.1",
        "192.168.1.2",
        "100.64.0.1",
        "::1",
        "fc00::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:100.127.0.1",
        "64:ff9b::a00:1",
        "64:ff9b::7f00:1",
    ];
    const PUBLIC: [&str; 7] = [
        "1.1.1.1",
        "100.63.0.1",
        "172.32.0.1",
        "192.0.1.1",
        "2606:4700::1111",
        "::ffff:1.1.1.1",
        "64:ff9b::101:101",
    ];
    /// Addresses at which no node is, in whatever network.
    const OF_NO_NODE: [&str; 24] = [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "0.0.0.0",
        "0.1.2.3",
        "192.0.0.192",
        "224.0.0.1",
        "255.255.255.255",
        "64:ff9b::",
        "::",
        "fe80::1",
        "ff02::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "::ffff:100.100.100.200",
        "168.63.129.16",
        "64:ff9b::a83f:8110",
        "2002:a9fe:a9fe::1",
        "2002:6464:64c8::1",
        "64:ff9b:1::a9fe:a9fe",
        "64:ff9b:1:a9fe:a9:fe00::",
        "64:ff9b:1:a9:fe:a9fe::",
        "64:ff9b:1:0:a9:fea9:fe00:0",
    ];

    fn at(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), 80)
    }

    #[test]
    fn private_addresses_are_told_from_public_ones() {
        // Neither of a private network nor of the internet.
        let others = [
            "198.18.0.1",
            "240.0.0.1",
            "192.0.2.1",
            "2002:a00:1::1",
            "2001:db8::1",
            "64:ff9b:1::1",
        ];
        for private in PRIVATE.into_iter().chain(OF_NO_NODE).chain(others) {
            assert!(!is_public(at(private).ip()), "{private}");
        }
        for public in PUBLIC {
            assert!(is_public(at(public).ip()), "{public}");
        }
        for private in PRIVATE {
            assert!(is_private(at(private).ip()), "{private}");
        }
        for other in PUBLIC.into_iter().chain(others) {
            assert!(!is_private(at(other).ip()), "{other}");
        }
    }

    /// A node with a record in the registry could have all others connect to services of their own machines.
    #[test]
    fn no_peer_is_looked_for_where_no_node_can_be() {
        for networks in [DialledNetworks::Public, DialledNetworks::All] {
            for address in OF_NO_NODE {
                let refused = networks.of(vec![at(address)]).unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{address}");
                assert!(refused.to_string().contains("no node can be at"), "{refused}");
            }
            for address in PUBLIC {
                assert_eq!(networks.of(vec![at(address)]).unwrap(), [at(address)]);
            }
            // A name may have addresses of both kinds.
            let mixed = vec![at("169.254.1.1"), at("1.1.1.1")];
            assert_eq!(networks.of(mixed).unwrap(), [at("1.1.1.1")]);
            assert!(networks.of(Vec::new()).unwrap().is_empty(), "the caller names this failure");
        }
    }

    #[test]
    fn private_addresses_are_dialled_only_where_all_networks_are() {
        for address in PRIVATE {
            assert_eq!(DialledNetworks::All.of(vec![at(address)]).unwrap(), [at(address)]);
            let refused = DialledNetworks::Public.of(vec![at(address)]).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{address}");
            assert!(refused.to_string().contains("--allow-private-nodes"), "{refused}");
        }
        // A tunnel or a translator may lead into a private network.
        for address in ["2002:a00:1::1", "2002:101:101::1", "64:ff9b:1::101:101"] {
            assert_eq!(DialledNetworks::All.of(vec![at(address)]).unwrap(), [at(address)]);
            assert!(DialledNetworks::Public.of(vec![at(address)]).is_err(), "{address}");
        }
        let mixed = || vec![at("10.1.2.3"), at("1.1.1.1"), at("::1")];
        assert_eq!(DialledNetworks::Public.of(mixed()).unwrap(), [at("1.1.1.1")]);
        assert_eq!(DialledNetworks::All.of(mixed()).unwrap(), mixed());
    }
}
