//! Connections to nodes. The operator of a node chooses its address, so those that lie in private networks, behind
//! which the gateway's own surroundings are, are refused unless the operator allows them. The address of the
//! connection counts, whatever name the registry has for it.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::Uri;
use tokio::net::{TcpStream, lookup_host};

/// Returns whether an address is one of the public internet.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(it) => {
            let [a, b, ..] = it.octets();
            let is_shared = a == 100 && (64..128).contains(&b); // RFC 6598
            let is_benchmark = a == 198 && (b == 18 || b == 19); // RFC 2544
            !(it.is_private()
                || it.is_loopback()
                || it.is_link_local()
                || it.is_broadcast()
                || it.is_multicast()
                || it.is_documentation()
                || a == 0
                || a >= 240
                || is_shared
                || is_benchmark)
        }
        IpAddr::V6(it) => !it.is_loopback() && is_global(it),
    }
}

/// Returns whether an address is in 2000::/3, from which public addresses are given out (RFC 4291 §2.4), and does not
/// stand for one of IPv4 or for documentation.
fn is_global(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    let is_6to4 = first == 0x2002;
    let is_teredo_or_documentation = first == 0x2001 && (second == 0 || second == 0xdb8);
    first & 0xe000 == 0x2000 && !is_6to4 && !is_teredo_or_documentation
}

/// Connects to the host of a URL. Private addresses are passed over unless `allow_private`.
///
/// # Errors
/// When the name has no address that may be used, or none of them answers.
pub(super) async fn dial(uri: &Uri, allow_private: bool) -> io::Result<TcpStream> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "the URL names no host");
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let host = uri.host().ok_or_else(missing)?.trim_matches(['[', ']']);
    let found: Vec<SocketAddr> =
        lookup_host((host, uri.port_u16().unwrap_or(default))).await?.collect();
    let allowed = found.iter().filter(|address| allow_private || is_public(address.ip()));
    let mut last = io::Error::new(
        io::ErrorKind::PermissionDenied,
        "the address lies in a private network, which --allow-private-nodes would allow",
    );
    for address in allowed {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_told_from_public_ones() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
            "fd00::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in ["1.1.1.1", "100.63.0.1", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[tokio::test]
    async fn a_name_of_a_private_address_is_refused_too() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["localhost", "127.0.0.1"] {
            let uri: Uri = format!("http://{host}:{port}").parse().unwrap();
            let refused = dial(&uri, false).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{host}");
            assert!(dial(&uri, true).await.is_ok(), "{host}");
        }
    }
}
