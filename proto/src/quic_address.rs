//! The address at which a node accepts QUIC, if it differs from its registered URL.

use std::fmt;
use std::net::Ipv6Addr;

/// Response metadata of `GetSyncCursor` with the node's QUIC address.
pub const QUIC_ADDRESS_HEADER: &str = "hawser-quic-address";

/// Longest name of a host. Specified in RFC 1035 §2.3.4.
const HOST_LEN_BYTES_MAX: usize = 253;

/// A host and a UDP port, as `host:port`. An IPv6 address is in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuicAddress(String);

impl QuicAddress {
    /// Parses an address. `None` unless the text is a host and a port of at least 1.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let is_digits = port.bytes().all(|it| it.is_ascii_digit());
        let port = port.parse::<u16>().ok().filter(|port| is_digits && *port > 0)?;
        let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match in_brackets {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => is_name(host),
        };
        is_host.then(|| Self(format!("{host}:{port}")))
    }

    /// Returns the address as `host:port`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QuicAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns true for a possible host name or IPv4 address: letters, digits, hyphens and dots.
fn is_name(host: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    !host.is_empty() && host.len() <= HOST_LEN_BYTES_MAX && host.bytes().all(is_known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_a_port_are_an_address_and_nothing_else_is() {
        for text in ["node.example:5050", "10.0.0.1:1", "[::1]:65535", "a:443"] {
            assert_eq!(QuicAddress::parse(text).unwrap().as_str(), text);
        }
        let long = format!("{}:1", "a".repeat(HOST_LEN_BYTES_MAX + 1));
        for text in [
            "",
            ":",
            "node.example",
            ":5050",
            "node.example:",
            "node.example:0",
            "node.example:65536",
            "node.example:+1",
            "node.example:-1",
            "node example:1",
            "https://node.example:1",
            "user@node.example:1",
            "::1:5050",
            "[::1:5050",
            "[node.example]:1",
            "ä.example:1",
            &long,
        ] {
            assert_eq!(QuicAddress::parse(text), None, "{text}");
        }
    }
}
