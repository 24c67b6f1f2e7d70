//! Addresses of hosts in a node's registry record.

use hawser_engine::ports::NodeRecord;

/// Returns the `host:port` to dial: the record's QUIC address, or else host and port of its API URL.
/// `None` if the record has neither.
pub(crate) fn quic_address(record: &NodeRecord) -> Option<String> {
    match &record.quic_address {
        Some(address) => Some(address.clone()),
        None => of_url(record.http_address.as_deref()?),
    }
}

/// Takes `host:port` out of an `http` or `https` URL, with the scheme's default port.
pub(crate) fn of_url(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let default_port = match scheme.to_ascii_lowercase().as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let host_and_port = authority.rsplit('@').next()?;
    let after_host = host_and_port.rfind(']').map_or(0, |bracket| bracket + 1);
    match host_and_port[after_host..].rsplit_once(':') {
        _ if host_and_port.is_empty() => None,
        Some((_, port)) => port.parse::<u16>().ok().map(|_| host_and_port.to_owned()),
        None => Some(format!("{host_and_port}:{default_port}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_come_out_of_a_url() {
        for (url, expected) in [
            ("http://node.example:5050", Some("node.example:5050")),
            ("https://node.example/path?x", Some("node.example:443")),
            ("http://10.0.0.1", Some("10.0.0.1:80")),
            ("HTTPS://node.example", Some("node.example:443")),
            ("http://[::1]:5050/", Some("[::1]:5050")),
            ("https://[::1]", Some("[::1]:443")),
            ("http://user@node.example:1", Some("node.example:1")),
            ("http://node.example:port", None),
            ("http://", None),
            ("ftp://node.example", None),
            ("node.example:5050", None),
        ] {
            assert_eq!(of_url(url).as_deref(), expected, "{url}");
        }
    }
}
