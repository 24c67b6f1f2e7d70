//! The certificate of the API.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use hawser_net::is_public;
use hawser_serve::tls::{Tls, TlsFiles, TlsFilesError};

/// Loads the configured certificate.
///
/// # Errors
/// [`TlsFilesError`] with the file that cannot be used.
pub(super) fn load(files: Option<&TlsFiles>) -> Result<Option<Tls>, TlsFilesError> {
    files.cloned().map(Tls::load).transpose()
}

/// Destinations for which a route is looked up: for documentation (RFC 5737, RFC 3849), so that no other route than the
/// one to the internet leads there.
const ELSEWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Warns about a public API without TLS, whose traffic can be read and changed on its way.
pub(super) fn warn_without(files: Option<&TlsFiles>, listen: SocketAddr) {
    if files.is_some() {
        return;
    }
    if let Some(address) = public_address(listen.ip(), source_of_route) {
        tracing::warn!(
            code = "tls_missing",
            %listen,
            %address,
            "the API listens on a public address without TLS (--tls-cert, --tls-key)"
        );
    }
}

/// Returns a public address at which a listener on `listen` is reached. A listener on all addresses is reached at those
/// from which this machine calls the internet, which `source` returns for a destination.
fn public_address(listen: IpAddr, source: impl Fn(IpAddr) -> Option<IpAddr>) -> Option<IpAddr> {
    if !listen.is_unspecified() {
        return is_public(listen).then_some(listen);
    }
    // A listener on all IPv6 addresses takes IPv4 as well.
    let reached = ELSEWHERE.into_iter().filter(|it| it.is_ipv4() || listen.is_ipv6());
    reached.filter_map(source).find(|address| is_public(*address))
}

/// Returns the address from which this machine calls a destination; `None` without a route. Sends nothing.
fn source_of_route(destination: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match destination {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((destination, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_public_if_the_machine_is() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let on = |listen: &str, v4: &str, v6: &str| {
            let source = |to: IpAddr| -> Option<IpAddr> {
                let text = if to.is_ipv4() { v4 } else { v6 };
                text.parse().ok()
            };
            public_address(ip(listen), source)
        };
        let (public, public_v6) = ("9.9.9.9", "2620:fe::fe");
        assert_eq!(on("0.0.0.0", public, ""), Some(ip(public)));
        assert_eq!(on("0.0.0.0", "10.0.0.1", public_v6), None, "it takes no IPv6");
        assert_eq!(on("::", "10.0.0.1", public_v6), Some(ip(public_v6)));
        assert_eq!(on("::", public, ""), Some(ip(public)));
        assert_eq!(on("0.0.0.0", "", ""), None, "no route");
        assert_eq!(on("127.0.0.1", public, public_v6), None);
        assert_eq!(on("10.0.0.1", public, public_v6), None);
        assert_eq!(on(public, "", ""), Some(ip(public)));
    }
}
