//! Addresses of callers: networks, trusted proxies, and the address that identifies a caller for limits.
//!
//! Networks are parsed here, without a library: an IPv4 address in its IPv6 form counts as IPv4, in networks as in
//! addresses, and the comparison of two prefixes is all that is left. A property test checks it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::HeaderMap;
use serde::{Deserialize, Deserializer};

const FORWARDED: &str = "x-forwarded-for";

/// A network: an address and the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // The text is not shown: it may be a secret in the wrong place of a file.
        let reason = "a text is not a network such as 10.0.0.0/8";
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom(reason))
    }
}

impl Cidr {
    /// Parses `10.0.0.0/8`, or an address alone as a network of one; `None` for other texts.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address.parse().ok()?, Some(bits.parse::<u8>().ok()?)),
            None => (text.parse().ok()?, None),
        };
        let most = if matches!(address, IpAddr::V4(_)) { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most {
            return None;
        }
        // Addresses are compared in their canonical form.
        let (address, bits) = match (address.to_canonical(), bits.checked_sub(96)) {
            (mapped @ IpAddr::V4(_), Some(bits)) if address.is_ipv6() => (mapped, bits),
            _ => (address, bits),
        };
        Some(Self { address, bits })
    }

    /// Returns the length of the prefix, in bits.
    #[must_use]
    pub fn prefix_bits(&self) -> u8 {
        self.bits
    }

    /// Returns true if both name the same network.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.bits == other.bits && self.contains(other.address)
    }

    /// Returns the caller that the network is, if it is one caller: an IPv4 address, or a network in one IPv6 /64.
    #[must_use]
    pub fn caller(&self) -> Option<ClientAddress> {
        let whole = if self.address.is_ipv4() { 32 } else { 64 };
        (self.bits >= whole).then(|| self.address.into())
    }

    /// Returns true if an address lies in the network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let prefix = |address: u128, width: u8| {
            address.checked_shr(u32::from(width.saturating_sub(self.bits))).unwrap_or(0)
        };
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                prefix(u32::from(own).into(), 32) == prefix(u32::from(other).into(), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                prefix(own.into(), 128) == prefix(other.into(), 128)
            }
            _ => false,
        }
    }
}

/// The address that identifies a caller for limits. IPv6 addresses of one /64 network are one caller, because providers
/// give each client at least such a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientAddress {
    /// One IPv4 address.
    V4(Ipv4Addr),
    /// The upper half of an IPv6 address.
    V6(u64),
    /// The shared identity of all requests without a valid address.
    Invalid,
}

impl From<IpAddr> for ClientAddress {
    /// Converts an IPv4 address that is mapped into IPv6 to IPv4.
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let upper = u128::from(address) >> 64;
                Self::V6(u64::try_from(upper).expect("64 of 128 bits are left"))
            }
        }
    }
}

impl ClientAddress {
    /// Returns the first address of its network: an IPv4 /24, or an IPv6 /48. All addresses of such a network may have
    /// one owner.
    #[must_use]
    pub fn network(self) -> Self {
        match self {
            Self::V4(address) => Self::V4(Ipv4Addr::from_bits(address.to_bits() & !0xff)),
            Self::V6(upper) => Self::V6(upper & !0xffff),
            Self::Invalid => Self::Invalid,
        }
    }

    /// Returns the first address of its site: an IPv6 /48, or an IPv4 address itself. A /48 is the most that providers
    /// usually give to one customer (RFC 6177), who then is 65,536 callers by the /64 rule. All addresses of a /24 are
    /// too few to take a node's bounds alone, and belong to many owners, so an IPv4 address is a site of its own.
    #[must_use]
    pub fn site(self) -> Self {
        match self {
            Self::V6(_) => self.network(),
            Self::V4(_) | Self::Invalid => self,
        }
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => write!(f, "{address}"),
            Self::V6(upper) => write!(f, "{}/64", Ipv6Addr::from(u128::from(*upper) << 64)),
            Self::Invalid => f.write_str("invalid"),
        }
    }
}

/// The networks of the trusted proxies in front of this process. Statements about a client's address count only if one
/// of these proxies wrote them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct TrustedProxies(Vec<Cidr>);

impl TrustedProxies {
    /// Returns true if no proxy is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if the address is that of a trusted proxy.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(address))
    }

    /// Returns the caller of a request: the peer, or, if the peer is a trusted proxy, the last entry of
    /// `X-Forwarded-For` that is not one. Reads the header from right to left, because proxies append to it and a
    /// client can send any beginning.
    #[must_use]
    pub fn client(&self, headers: &HeaderMap, peer: Option<SocketAddr>) -> ClientAddress {
        let Some(mut address) = peer.map(|peer| peer.ip().to_canonical()) else {
            return ClientAddress::Invalid;
        };
        // Most callers come through no proxy, and the header costs a search.
        if !self.contains(address) {
            return address.into();
        }
        let mut entries = entries(headers).rev();
        while self.contains(address) {
            let Some(entry) = entries.next() else { break };
            match entry.parse::<IpAddr>() {
                Ok(next) => address = next.to_canonical(),
                Err(_) => return ClientAddress::Invalid,
            }
        }
        address.into()
    }
}

impl FromIterator<Cidr> for TrustedProxies {
    fn from_iter<I: IntoIterator<Item = Cidr>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

/// Returns the entries of all `X-Forwarded-For` lines in their order, without empty ones. A line that is not text
/// counts as one entry that does not parse.
pub fn entries(headers: &HeaderMap) -> impl DoubleEndedIterator<Item = &str> {
    let lines = headers.get_all(FORWARDED).iter().map(|line| line.to_str().unwrap_or("?"));
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|entry| !entry.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_network_holds_the_addresses_with_its_prefix(
            own in any::<u32>(),
            noise in any::<u32>(),
            shift in 0_u32..32,
            bits in 0_u8..=32,
        ) {
            let other = Ipv4Addr::from(own ^ (noise >> shift));
            let is_inside = (noise >> shift).leading_zeros() >= u32::from(bits);
            let own = Ipv4Addr::from(own);
            let network = Cidr::parse(&format!("{own}/{bits}")).unwrap();
            prop_assert_eq!(network.contains(other.into()), is_inside);
            let mapped = Cidr::parse(&format!("::ffff:{own}/{}", bits + 96)).unwrap();
            prop_assert!(mapped.is_same(&network));
        }
    }

    #[test]
    fn addresses_that_may_have_one_owner_are_of_one_network() {
        let network = |text: &str| {
            let address: IpAddr = text.parse().unwrap();
            ClientAddress::from(address).network()
        };
        for (one, other) in [
            ("9.9.9.1", "9.9.9.255"),
            ("9.9.9.1", "::ffff:9.9.9.7"),
            ("2001:db8:1::1", "2001:db8:1:ffff::2"),
        ] {
            assert_eq!(network(one), network(other), "{one} and {other}");
        }
        for (one, other) in
            [("9.9.9.1", "9.9.8.1"), ("2001:db8:1::1", "2001:db8:2::1"), ("9.9.9.1", "2001:db8::1")]
        {
            assert_ne!(network(one), network(other), "{one} and {other}");
        }
        assert_eq!(ClientAddress::Invalid.network(), ClientAddress::Invalid);
    }

    #[test]
    fn a_site_is_a_network_of_ipv6_or_one_address_of_ipv4() {
        let address = |text: &str| ClientAddress::from(text.parse::<IpAddr>().unwrap());
        let site = |text: &str| address(text).site();
        assert_eq!(site("2001:db8:1::1"), site("2001:db8:1:ffff::2"));
        assert_ne!(site("2001:db8:1::1"), site("2001:db8:2::1"));
        assert_eq!(site("9.9.9.1"), address("9.9.9.1"));
        assert_eq!(site("::ffff:9.9.9.1"), site("9.9.9.1"));
        assert_eq!(ClientAddress::Invalid.site(), ClientAddress::Invalid);
    }

    fn of(forwarded: &[&str], peer: &str, trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(FORWARDED, http::HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        let trusted: TrustedProxies =
            trusted.iter().map(|cidr| Cidr::parse(cidr).unwrap()).collect();
        trusted.client(&headers, peer.parse().ok()).to_string()
    }

    #[test]
    fn headers_of_strangers_are_not_read() {
        assert_eq!(of(&["1.2.3.4"], "9.9.9.9:1", &[]), "9.9.9.9");
        assert_eq!(of(&["1.2.3.4"], "9.9.9.9:1", &["10.0.0.0/8"]), "9.9.9.9");
        assert_eq!(of(&[], "[::ffff:9.9.9.9]:1", &[]), "9.9.9.9");
    }

    #[test]
    fn a_header_is_believed_as_far_as_proxies_wrote_it() {
        let proxies = ["10.0.0.0/8", "fd00::/8"];
        assert_eq!(of(&["6.6.6.6, 1.2.3.4"], "10.0.0.1:1", &proxies), "1.2.3.4");
        assert_eq!(of(&["6.6.6.6", "1.2.3.4, 10.0.0.2"], "10.0.0.1:1", &proxies), "1.2.3.4");
        assert_eq!(of(&["10.9.9.9, 1.2.3.4"], "[::ffff:10.0.0.1]:1", &proxies), "1.2.3.4");
        assert_eq!(of(&["2001:db8:1:2:3::1"], "[fd00::1]:1", &proxies), "2001:db8:1:2::/64");
        assert_eq!(of(&[], "10.0.0.1:1", &proxies), "10.0.0.1");
        assert_eq!(of(&["10.0.0.7"], "10.0.0.1:1", &proxies), "10.0.0.7");
    }

    #[test]
    fn entries_that_are_no_address_are_one_caller() {
        let proxies = ["10.0.0.0/8"];
        for entry in ["1.2.3.4, x", "1.2.3.4:80", "unknown", "1.2.3.4, \u{e9}"] {
            assert_eq!(of(&[entry], "10.0.0.1:1", &proxies), "invalid", "{entry}");
        }
        assert_eq!(of(&[], "no peer", &proxies), "invalid");
    }

    #[test]
    fn networks_of_64_bits_are_one_caller() {
        let address = |text: &str| ClientAddress::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(address("2001:db8:1:2:3:4:5:6"), address("2001:db8:1:2::9"));
        assert_ne!(address("2001:db8:1:2::1"), address("2001:db8:1:3::1"));
        assert_eq!(address("::ffff:1.2.3.4"), address("1.2.3.4"));
    }

    #[test]
    fn networks_hold_their_addresses() {
        let holds = |cidr: &str, address: &str| {
            Cidr::parse(cidr).unwrap().contains(address.parse().unwrap())
        };
        assert!(holds("10.0.0.0/8", "10.255.3.4"));
        assert!(!holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("0.0.0.0/0", "1.2.3.4"));
        assert!(holds("2001:db8::/32", "2001:db8:1::1"));
        assert!(!holds("2001:db8::/32", "2001:db9::1"));
        assert!(holds("127.0.0.1", "127.0.0.1"));
        assert!(!holds("0.0.0.0/0", "::1"));
        for broken in ["10.0.0.0/", "10.0.0.0/33", "::/129", "::ffff:10.0.0.1/129"] {
            assert_eq!(Cidr::parse(broken), None, "{broken}");
        }
    }
}
