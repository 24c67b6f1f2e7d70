//! Identifies callers by address. The gateway sends the address to no node.

use std::net::SocketAddr;

use hawser_serve::address::{ClientAddress, TrustedProxies};
use http::HeaderMap;

/// Returns the address of a request's caller: that of the connection or, if it is a trusted proxy's, the last entry
/// of `X-Forwarded-For` that is not a trusted proxy's.
pub(super) fn caller(
    headers: &HeaderMap,
    peer: Option<SocketAddr>,
    trusted: &TrustedProxies,
) -> ClientAddress {
    trusted.client(headers, peer)
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
    fn without_trusted_proxies_no_client_can_choose_an_address() {
        for forwarded in ["1.2.3.4", " , 1.2.3.4, 5.6.7.8", "", "hello"] {
            assert_eq!(of(&[forwarded], "9.9.9.9:1", &[]), "9.9.9.9", "{forwarded}");
        }
        assert_eq!(of(&[], "[::ffff:9.9.9.9]:1", &[]), "9.9.9.9");
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
