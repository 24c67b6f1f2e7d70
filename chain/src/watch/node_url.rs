//! The form of the addresses at which nodes are called. The owner of a node may register any text.

/// The longest registered address, in bytes. A guess: the name of a host has 253 at most (RFC 1035 §2.3.4), and a path
/// is short.
const URL_LEN_BYTES_MAX: usize = 1024;

/// The reason for which a node is not called at its registered address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NodeUrlError {
    /// The address is too long.
    #[error("it has more than {URL_LEN_BYTES_MAX} bytes")]
    Long,
    /// The address is not an HTTP URL.
    #[error("it is no URL of the form http://host:port or https://host")]
    NoUrl,
    /// The address has credentials, which callers would send to the host that answers.
    #[error("it has a user in front of its host")]
    User,
    /// The address has a part that names a place in a document.
    #[error("it has a fragment (#)")]
    Fragment,
    /// No server can listen at the port.
    #[error("its port is not a number from 1 to 65535")]
    Port,
}

/// Checks the address that is registered for a node.
///
/// # Errors
/// The first part of the address that is not allowed.
pub fn check_node_url(address: &str) -> Result<(), NodeUrlError> {
    if address.len() > URL_LEN_BYTES_MAX {
        return Err(NodeUrlError::Long);
    }
    let url: http::Uri = address.parse().map_err(|_| NodeUrlError::NoUrl)?;
    let (Some("http" | "https"), Some(authority)) = (url.scheme_str(), url.authority()) else {
        return Err(NodeUrlError::NoUrl);
    };
    if authority.as_str().contains('@') {
        return Err(NodeUrlError::User);
    }
    if authority.host().is_empty() {
        return Err(NodeUrlError::NoUrl);
    }
    // The parser leaves fragments out.
    if address.contains('#') {
        return Err(NodeUrlError::Fragment);
    }
    // The parser takes a number without a port for no port.
    let port = authority.as_str()[authority.host().len()..].trim_start_matches(':');
    if !port.is_empty() && authority.port_u16().is_none_or(|port| port == 0) {
        return Err(NodeUrlError::Port);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_none_of_a_node_is_refused_by_name() {
        for good in [
            "http://127.0.0.1:5050",
            "http://10.0.0.1",
            "https://node.example/path?x",
            "HTTPS://node.example:443/",
            "http://[::1]:65535",
            "http://[fd00::1]",
        ] {
            assert_eq!(check_node_url(good), Ok(()), "{good}");
        }
        let long = format!("http://node.example/{}", "x".repeat(64_000));
        for (bad, reason) in [
            (long.as_str(), NodeUrlError::Long),
            ("", NodeUrlError::NoUrl),
            ("node.example:5050", NodeUrlError::NoUrl),
            ("ftp://node.example", NodeUrlError::NoUrl),
            ("http://", NodeUrlError::NoUrl),
            ("http://:5050", NodeUrlError::NoUrl),
            ("http://a b", NodeUrlError::NoUrl),
            ("http://a\u{1b}[2J", NodeUrlError::NoUrl),
            ("http://user:word@node.example:5050", NodeUrlError::User),
            ("http://@node.example", NodeUrlError::User),
            ("http://node.example:5050/#here", NodeUrlError::Fragment),
            ("http://node.example:0", NodeUrlError::Port),
            ("http://node.example:65536", NodeUrlError::Port),
            ("http://[::1]:0", NodeUrlError::Port),
        ] {
            assert_eq!(check_node_url(bad), Err(reason), "{bad:.50}");
        }
    }
}
