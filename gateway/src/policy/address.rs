//! Identifies callers by address. The address stays in the gateway: no node is told of it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::HeaderMap;

use super::config::Cidr;

const FORWARDED: &str = "x-forwarded-for";
/// The one caller for all requests without a valid address.
const INVALID: &str = "invalid";

/// Returns the caller of a request. Without trusted proxies this is the first entry of
/// `X-Forwarded-For`, which any client can set, or else the peer of the connection. With trusted
/// proxies it is the peer, or, if the peer is one of them, the last entry that is not.
pub(super) fn caller(headers: &HeaderMap, peer: Option<SocketAddr>, trusted: &[Cidr]) -> String {
    let entries = entries(headers);
    if trusted.is_empty() {
        if let Some(first) = entries.first() {
            return first.parse().map_or_else(|_| INVALID.to_owned(), name_of);
        }
        return peer.map_or_else(|| INVALID.to_owned(), |peer| name_of(peer.ip()));
    }
    let Some(mut address) = peer.map(|peer| peer.ip().to_canonical()) else {
        return INVALID.to_owned();
    };
    let mut from_right = entries.iter().rev();
    while trusted.iter().any(|network| network.contains(address)) {
        let Some(entry) = from_right.next() else { break };
        match entry.parse::<IpAddr>() {
            Ok(next) => address = next.to_canonical(),
            Err(_) => return INVALID.to_owned(),
        }
    }
    name_of(address)
}

fn entries(headers: &HeaderMap) -> Vec<&str> {
    let lines = headers.get_all(FORWARDED).iter().filter_map(|line| line.to_str().ok());
    let entries = lines.flat_map(|line| line.split(',')).map(str::trim);
    entries.filter(|entry| !entry.is_empty()).collect()
}

/// Returns the name of an address. IPv6 addresses of one /64 network are one caller, because a client
/// has at least such a network to itself.
fn name_of(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            format!("{}/64", Ipv6Addr::from(network))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(forwarded: &[&str], peer: &str, trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(FORWARDED, line.parse().unwrap());
        }
        let trusted: Vec<_> = trusted.iter().map(|cidr| Cidr::parse(cidr).unwrap()).collect();
        caller(&headers, peer.parse().ok(), &trusted)
    }

    #[test]
    fn without_trusted_proxies_the_first_forwarded_entry_counts() {
        assert_eq!(of(&[" , 1.2.3.4, 5.6.7.8"], "9.9.9.9:1", &[]), "1.2.3.4");
        assert_eq!(of(&[], "9.9.9.9:1", &[]), "9.9.9.9");
        assert_eq!(of(&[""], "[::ffff:9.9.9.9]:1", &[]), "9.9.9.9");
        assert_eq!(of(&["hello"], "9.9.9.9:1", &[]), "invalid");
        assert_eq!(of(&[], "[2001:db8:1:2:3:4:5:6]:1", &[]), "2001:db8:1:2::/64");
    }

    #[test]
    fn with_them_only_what_they_say_counts() {
        let proxies = ["10.0.0.0/8"];
        assert_eq!(of(&["1.2.3.4"], "9.9.9.9:1", &proxies), "9.9.9.9", "not one of them");
        assert_eq!(of(&["6.6.6.6, 1.2.3.4"], "10.0.0.1:1", &proxies), "1.2.3.4");
        assert_eq!(of(&["1.2.3.4", "10.0.0.2"], "10.0.0.1:1", &proxies), "1.2.3.4");
        assert_eq!(of(&[], "10.0.0.1:1", &proxies), "10.0.0.1");
        assert_eq!(of(&["1.2.3.4, x"], "10.0.0.1:1", &proxies), "invalid");
    }
}
