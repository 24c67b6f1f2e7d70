//! Identifies callers by address. The address stays in the gateway: no node is told of it.

use std::net::{IpAddr, SocketAddr};

use hawser_serve::address::{ClientAddress, TrustedProxies, entries};
use http::HeaderMap;

/// Returns the caller of a request. Without trusted proxies this is the first entry of
/// `X-Forwarded-For`, which any client can set, or else the peer of the connection. With trusted
/// proxies it is the peer, or, if the peer is one of them, the last entry that is not.
pub(super) fn caller(
    headers: &HeaderMap,
    peer: Option<SocketAddr>,
    trusted: &TrustedProxies,
) -> ClientAddress {
    let first = entries(headers).next().filter(|_| trusted.is_empty());
    match first {
        Some(first) => first.parse::<IpAddr>().map_or(ClientAddress::Invalid, Into::into),
        None => trusted.client(headers, peer),
    }
}

#[cfg(test)]
mod tests {
    use hawser_serve::address::Cidr;

    use super::*;

    fn of(forwarded: &[&str], peer: &str, trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append("x-forwarded-for", line.parse().unwrap());
        }
        let trusted: TrustedProxies =
            trusted.iter().map(|cidr| Cidr::parse(cidr).unwrap()).collect();
        caller(&headers, peer.parse().ok(), &trusted).to_string()
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
