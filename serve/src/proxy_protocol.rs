//! The PROXY protocol, versions 1 and 2: a proxy names its client's address before the first byte of a
//! connection. Parsing only; [`crate::connection_admission`] decides whose header is read.
//!
//! This is not taken from a library. Only two forms of addresses are needed, and the bound on the header has to hold
//! before the parser has all of it: a hundred lines, with a property test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// First bytes of version 1.
const V1: &[u8] = b"PROXY ";
/// First bytes of version 2.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header of version 1, with its line end. Specified by the protocol.
const V1_LEN_BYTES_MAX: usize = 107;
/// Bytes of version 2 before the addresses: signature, command, family, length.
const V2_HEAD_LEN_BYTES: usize = V2.len() + 4;
/// The longest header that is read. A guess: addresses take 36 bytes at most, and the extensions that
/// proxies add a few hundred.
pub(crate) const HEADER_LEN_BYTES_MAX: usize = 2048;

/// The first bytes of a connection, read as a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxyHeader {
    /// The connection begins with other bytes.
    None,
    /// More bytes are needed to decide.
    Incomplete,
    /// A header of `len_bytes`. `client` is `None` for the proxy's own connection.
    Whole { len_bytes: usize, client: Option<SocketAddr> },
    /// The bytes begin like a header but are malformed.
    Malformed,
}

/// Reads the first bytes of a connection.
pub(crate) fn parse(bytes: &[u8]) -> ProxyHeader {
    let begins = |signature: &[u8]| {
        let len = bytes.len().min(signature.len());
        bytes[..len] == signature[..len]
    };
    if begins(V2) {
        version_2(bytes)
    } else if begins(V1) {
        version_1(bytes)
    } else {
        ProxyHeader::None
    }
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n`
fn version_1(bytes: &[u8]) -> ProxyHeader {
    let window = &bytes[..bytes.len().min(V1_LEN_BYTES_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        let over = window.len() == V1_LEN_BYTES_MAX;
        return if over { ProxyHeader::Malformed } else { ProxyHeader::Incomplete };
    };
    let whole = |client| ProxyHeader::Whole { len_bytes: end + 2, client };
    let line = std::str::from_utf8(&bytes[..end]).unwrap_or_default();
    let mut words = line.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        return whole(None);
    }
    let words: Vec<&str> = words.take(5).collect();
    let [source, destination, source_port, destination_port] = words[..] else {
        return ProxyHeader::Malformed;
    };
    let address = |text: &str| match family {
        Some("TCP4") => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        Some("TCP6") => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    };
    let port = |text: &str| text.parse::<u16>().ok();
    match (address(source), port(source_port), address(destination), port(destination_port)) {
        (Some(ip), Some(port), Some(_), Some(_)) => whole(Some(SocketAddr::new(ip, port))),
        _ => ProxyHeader::Malformed,
    }
}

/// Parses a header of version 2 at the start of a connection.
fn version_2(bytes: &[u8]) -> ProxyHeader {
    let Some([command, family, high, low]) = bytes.get(V2.len()..V2_HEAD_LEN_BYTES) else {
        return ProxyHeader::Incomplete;
    };
    let len_bytes = V2_HEAD_LEN_BYTES + usize::from(u16::from_be_bytes([*high, *low]));
    if len_bytes > HEADER_LEN_BYTES_MAX || command >> 4 != 2 {
        return ProxyHeader::Malformed;
    }
    let Some(addresses) = bytes.get(V2_HEAD_LEN_BYTES..len_bytes) else {
        return ProxyHeader::Incomplete;
    };
    let port = |at: usize| Some(u16::from_be_bytes([*addresses.get(at)?, *addresses.get(at + 1)?]));
    let whole = |client| ProxyHeader::Whole { len_bytes, client };
    let client = match (command & 0xf, family >> 4) {
        // LOCAL, the proxy's own connection, such as a health check. Or an address family other than IP: the proxy's
        // own address counts, as for version 1.
        (0, _) | (1, 0 | 3) => return whole(None),
        (1, 1) => addresses.first_chunk::<4>().map(|ip| IpAddr::from(*ip)).zip(port(8)),
        (1, 2) => addresses.first_chunk::<16>().map(|ip| IpAddr::from(*ip)).zip(port(32)),
        _ => None,
    };
    client.map_or(ProxyHeader::Malformed, |client| whole(Some(client.into())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(bytes: &[u8], client: Option<&str>) {
        let client = client.map(|text| text.parse().unwrap());
        let expected = ProxyHeader::Whole { len_bytes: bytes.len(), client };
        assert_eq!(parse(&[bytes, b"PRI * HTTP"].concat()), expected, "{bytes:?}");
        for len in 0..bytes.len() {
            assert_eq!(parse(&bytes[..len]), ProxyHeader::Incomplete, "{len} of {bytes:?}");
        }
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2, &[0x20 | command, family], &len, rest].concat()
    }

    #[test]
    fn headers_of_both_versions_are_read() {
        whole(b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 443\r\n", Some("1.2.3.4:1000"));
        whole(b"PROXY TCP6 2001:db8::1 ::1 1000 443\r\n", Some("[2001:db8::1]:1000"));
        whole(b"PROXY UNKNOWN\r\n", None);
        whole(b"PROXY UNKNOWN what ever\r\n", None);
        let ipv4 = [1, 2, 3, 4, 5, 6, 7, 8, 3, 232, 1, 187];
        whole(&v2(1, 0x11, &ipv4), Some("1.2.3.4:1000"));
        whole(&v2(1, 0x11, &[&ipv4[..], &[4, 0, 2, 9, 9]].concat()), Some("1.2.3.4:1000"));
        let mut ipv6 = [0; 36];
        (ipv6[15], ipv6[33]) = (1, 7);
        whole(&v2(1, 0x21, &ipv6), Some("[::1]:7"));
        whole(&v2(0, 0, &[]), None);
        whole(&v2(1, 0x31, &[0; 216]), None);
    }

    #[test]
    fn other_connections_have_no_header_and_broken_ones_are_refused() {
        for other in [&b"PRI * HTTP/2.0"[..], b"POST / HTTP/1.1", b"PRO", b"\r\n\r\nx"] {
            let header = parse(other);
            let undecided = other == b"PRO";
            let expected = if undecided { ProxyHeader::Incomplete } else { ProxyHeader::None };
            assert_eq!(header, expected, "{other:?}");
        }
        for broken in [
            &b"PROXY TCP4 1.2.3.4 5.6.7.8 1000\r\n"[..],
            b"PROXY TCP4 ::1 ::1 1 1\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 99999\r\n",
            b"PROXY \xff\r\n",
            &[b"PROXY ", &[b'x'; 120][..]].concat(),
            &v2(1, 0x11, &[1, 2, 3]),
            &v2(2, 0x11, &[0; 12]),
            &v2(1, 0x11, &[0; 3000])[..20],
        ] {
            assert_eq!(parse(broken), ProxyHeader::Malformed, "{broken:?}");
        }
    }

    proptest! {
        /// Random bytes alone hardly ever state a command and a length that fit.
        #[test]
        fn no_bytes_make_the_parser_panic_or_claim_too_much(
            begin in 0usize..4,
            (command, family, len) in (0x20u8..0x22, any::<u8>(), 0u16..2100),
            rest in proptest::collection::vec(any::<u8>(), 0..3000),
        ) {
            let head = [V2, &[command, family], &len.to_be_bytes()].concat();
            let bytes = [[&b""[..], V1, V2, &head][begin], &rest].concat();
            if let ProxyHeader::Whole { len_bytes, .. } = parse(&bytes) {
                prop_assert!(len_bytes <= bytes.len() && len_bytes <= HEADER_LEN_BYTES_MAX);
            }
        }
    }
}
