//! Checks of the node's public address: its DNS name, and the headers that browsers need.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use hawser_proto::{one_line, root_cause};
use hawser_serve::cors;
use http::header::{
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, ORIGIN,
};
use http::{Method, StatusCode};
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::checked::DoctorCheck;

/// The time limit of a DNS query. A guess: resolvers answer within a few seconds or not at all.
const DNS_MAX: Duration = Duration::from_secs(5);
/// The time limit of the request to the public URL. A guess.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// The number of addresses that are shown. A guess: names have one or two.
const ADDRESSES_SHOWN_MAX: usize = 4;
/// The RPC for whose path the preflight request is sent.
const CALL: &str = "xmtp.xmtpv4.message_api.QueryApi/QueryEnvelopes";
/// The advice about a URL that does not answer this machine at all.
pub(super) const ASK_ELSEWHERE: &str =
    "ask it from another machine: some routers do not lead back to their own address";
/// The origin in the preflight request. The response does not depend on it.
const PAGE: &str = "https://hawser-doctor.example";

/// Checks that the host of the registered URL has addresses, and shows them. `listen` is the address of the API.
pub(super) async fn dns(url: &str, listen: SocketAddr) -> DoctorCheck {
    const NAME: &str = "dns";
    const REMEDY: &str =
        "correct the name's record in the DNS, or the URL: hawser registry node update-http";
    let Some((host, port)) = host_and_port(url) else {
        return DoctorCheck::failed(NAME, format!("{url:?} has no host"), REMEDY);
    };
    let looked = timeout(DNS_MAX, lookup_host((host.as_str(), port))).await;
    let addresses: Vec<SocketAddr> = match looked {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => {
            let found = format!("{host} has no address, as this machine resolves it: {error}");
            return DoctorCheck::failed(NAME, found, REMEDY);
        }
        Err(_) => {
            let found = format!("no answer about {host} within {} s", DNS_MAX.as_secs());
            return DoctorCheck::failed(NAME, found, "check this machine's resolver");
        }
    };
    judge_addresses(&host, &addresses, listen, is_of_this_machine)
}

/// Judges the addresses of a host, for an API that listens at `listen`. `is_own` returns true for an address of this
/// machine.
fn judge_addresses(
    host: &str,
    addresses: &[SocketAddr],
    listen: SocketAddr,
    is_own: impl Fn(IpAddr) -> bool,
) -> DoctorCheck {
    const NAME: &str = "dns";
    const LISTEN_REMEDY: &str =
        "listen over IPv6 too (--listen-address ::), or remove that address from the name's record";
    const REMEDY: &str =
        "register a name that others can reach, unless this is a network on one machine";
    let resolved = addresses.iter().take(ADDRESSES_SHOWN_MAX).map(|it| it.ip().to_string());
    let resolved = resolved.collect::<Vec<_>>().join(", ");
    if addresses.is_empty() {
        let found = format!("{host} has no address, as this machine resolves it");
        return DoctorCheck::failed(NAME, found, REMEDY);
    }
    // An entry in the hosts file or a local resolver may hide what others resolve.
    let resolved = format!("{resolved}, as this machine resolves it");
    if addresses.iter().all(|it| is_of_one_machine(it.ip())) {
        let found = format!("{host} is {resolved}: only programs on this machine reach it");
        return DoctorCheck::doubtful(NAME, found, REMEDY);
    }
    if let Some(inner) = addresses.iter().find(|it| is_of_one_network(it.ip())) {
        let found =
            format!("{host} is {resolved}: {} is not reached from the internet", inner.ip());
        return DoctorCheck::doubtful(NAME, found, REMEDY);
    }
    if let Some(unheard) = addresses.iter().find(|it| is_unheard(**it, listen) && is_own(it.ip())) {
        let (ip, listen) = (unheard.ip(), listen.ip());
        let found = format!(
            "{host} is {resolved}: {ip} is of this machine, and a node at {listen} listens over IPv4 alone"
        );
        return DoctorCheck::doubtful(NAME, found, LISTEN_REMEDY);
    }
    match addresses.iter().find(|it| is_own(it.ip())) {
        Some(own) => DoctorCheck::fine(
            NAME,
            format!("{host} is {resolved}; {} is of this machine", own.ip()),
        ),
        None => {
            let found =
                format!("{host} is {resolved}: a balancer or router in front of this machine");
            DoctorCheck::fine(NAME, found)
        }
    }
}

/// Returns true if an API that listens at all addresses of IPv4 does not hear callers of this address of its machine.
/// Callers of a port that is not the API's are those of a proxy.
fn is_unheard(address: SocketAddr, listen: SocketAddr) -> bool {
    let is_of_ipv4 = listen.ip() == Ipv4Addr::UNSPECIFIED;
    is_of_ipv4 && address.port() == listen.port() && address.ip().to_canonical().is_ipv6()
}

/// Returns true for an address that always leads to the machine that uses it.
fn is_of_one_machine(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_loopback() || ip.is_unspecified()
}

/// Returns true for an address that is reachable only from one network or machine: private (RFC 1918), shared (RFC
/// 6598), unique-local (RFC 4193), link-local, or local to a machine.
fn is_of_one_network(ip: IpAddr) -> bool {
    let of_network = match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            ip.is_private() || ip.is_link_local() || (first == 100 && (64..128).contains(&second))
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    };
    of_network || is_of_one_machine(ip)
}

/// Returns true for an address of this machine, because only such an address can be bound.
fn is_of_this_machine(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// Sends the preflight request of a browser (Fetch §4.8) to the registered URL, and
/// compares the response with a node's.
pub(super) async fn browsers(url: &str) -> DoctorCheck {
    const NAME: &str = "cors";
    const REMEDY: &str =
        "let the proxy in front pass OPTIONS on and add no Access-Control headers: docs/proxies.md";
    let headers = match preflight(url).await {
        Ok((status, headers)) if status.is_success() => headers,
        Ok((status, _)) => {
            // Browsers accept no other status (Fetch §4.8), and a node sends no other.
            let status = status.as_u16();
            let found = format!("browsers may not call {url}: OPTIONS is answered with {status}");
            return DoctorCheck::failed(NAME, found, REMEDY);
        }
        Err(error) => {
            let found = format!("{url} does not answer this machine: {error}");
            return DoctorCheck::doubtful(NAME, found, ASK_ELSEWHERE);
        }
    };
    match different(&headers) {
        None => DoctorCheck::fine(NAME, format!("browsers may call {url}")),
        Some(found) => {
            DoctorCheck::failed(NAME, format!("browsers may not call {url}: {found}"), REMEDY)
        }
    }
}

/// Sends the preflight request. Reads only the head of the response, and follows no redirects.
async fn preflight(url: &str) -> Result<(StatusCode, HeaderMap), String> {
    // An error means that the process has already installed another one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .timeout(REQUEST_MAX)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none());
    let client = client.build().map_err(|error| error.to_string())?;
    let request = client
        .request(Method::OPTIONS, format!("{}/{CALL}", url.trim_end_matches('/')))
        .header(ORIGIN, PAGE)
        .header(ACCESS_CONTROL_REQUEST_METHOD, "POST")
        .header(ACCESS_CONTROL_REQUEST_HEADERS, "content-type,x-grpc-web");
    let answer = request.send().await.map_err(|error| root_cause(&error))?;
    Ok((answer.status(), answer.headers().clone()))
}

/// Returns the first header that differs from a node's.
fn different(headers: &HeaderMap) -> Option<String> {
    cors::of_preflight().into_iter().find_map(|(name, wanted)| {
        let found: Vec<_> = headers.get_all(&name).iter().collect();
        match found.as_slice() {
            [] => Some(format!("{name} is missing")),
            [one] if **one == wanted => None,
            [one] => {
                let found = one_line(&String::from_utf8_lossy(one.as_bytes()));
                Some(format!("{name} is {found:?}"))
            }
            more => Some(format!("{name} is there {} times", more.len())),
        }
    })
}

/// Returns the host and port of a URL, by default the port of its scheme.
pub(super) fn host_and_port(url: &str) -> Option<(String, u16)> {
    let uri: http::Uri = url.parse().ok()?;
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let host = uri.host().filter(|host| !host.is_empty())?;
    Some((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::checked::CheckResult::{Doubtful, Failed, Fine};
    use super::*;

    /// Returns the address of an API that takes callers over IPv4 and IPv6.
    fn everywhere() -> SocketAddr {
        "[::]:443".parse().unwrap()
    }

    /// An environment of the reference node, which listens over both, has no other address.
    #[test]
    fn a_node_that_does_not_listen_over_ipv6_is_told_of_its_address_there() {
        let judged = |listen: &str, own: &str| {
            let addresses: [SocketAddr; 2] =
                ["203.0.113.7:5050", "[2001:db8::7]:5050"].map(|it| it.parse().unwrap());
            judge_addresses("node.example", &addresses, listen.parse().unwrap(), |ip| {
                ip.to_string() == own
            })
        };
        let unheard = judged("0.0.0.0:5050", "2001:db8::7");
        assert!(unheard.result == Doubtful && unheard.found.contains("IPv4 alone"), "{unheard:?}");
        assert!(unheard.remedy.as_ref().is_some_and(|it| it.contains("--listen-address ::")));
        for (listen, own) in [
            ("[::]:5050", "2001:db8::7"),
            ("0.0.0.0:5050", "203.0.113.7"),
            ("0.0.0.0:5051", "2001:db8::7"), // a proxy has the port of the URL
            ("127.0.0.1:5050", "2001:db8::7"),
        ] {
            assert_eq!(judged(listen, own).result, Fine, "{listen} {own}");
        }
    }

    #[test]
    fn addresses_are_told_and_judged_by_who_reaches_them() {
        let judged = |addresses: &[&str], own: &str| {
            let addresses: Vec<_> =
                addresses.iter().map(|it| SocketAddr::new(it.parse().unwrap(), 443)).collect();
            judge_addresses("node.example", &addresses, everywhere(), |ip| ip.to_string() == own)
        };
        let own = judged(&["203.0.113.7", "2001:db8::7"], "2001:db8::7");
        assert_eq!(own.result, Fine);
        assert!(own.found.ends_with("2001:db8::7 is of this machine"), "{own:?}");
        let other = judged(&["203.0.113.7"], "198.51.100.1");
        assert!(other.result == Fine && other.found.contains(": a balancer"));
        assert_eq!(judged(&["127.0.0.1", "::1"], "127.0.0.1").result, Doubtful);
        assert_eq!(judged(&[], "").result, Failed);
        let alone = judged(&["::ffff:127.0.0.1"], "");
        assert!(alone.result == Doubtful && alone.found.contains("on this machine"), "{alone:?}");
        let inner = [
            "10.1.2.3",
            "172.31.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "100.127.0.1",
            "fe80::1",
            "fd00::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "127.0.0.1",
        ];
        for inner in inner {
            // One suitable address is enough, because clients use any of them.
            let judged = judged(&["203.0.113.7", inner], inner);
            assert_eq!(judged.result, Doubtful, "{judged:?}");
            assert!(judged.found.contains("as this machine resolves it"), "{judged:?}");
        }
        for outer in ["100.63.0.1", "100.128.0.1", "172.32.0.1", "2001:db8::7"] {
            assert_eq!(judged(&[outer], "").result, Fine, "{outer}");
        }
        let many: Vec<_> = (1..200).map(|it| format!("203.0.113.{it}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(judged(&many, "").found.len() < 200);
    }

    #[test]
    fn an_address_of_this_machine_is_one_that_can_be_bound() {
        assert!(is_of_this_machine("127.0.0.1".parse().unwrap()));
        assert!(!is_of_this_machine("192.0.2.1".parse().unwrap()), "for documentation (RFC 5737)");
    }

    #[tokio::test]
    async fn a_name_that_there_is_not_fails() {
        let of = async |url: &str| dns(url, everywhere()).await.result;
        assert_eq!(of("https://node.invalid:5050").await, Failed, "RFC 6761 §6.4");
        assert_eq!(of("http://127.0.0.1:5050").await, Doubtful);
        assert_eq!(of("http://[::1]").await, Doubtful);
        assert_eq!(of("no url").await, Failed);
    }

    /// Answers one connection with these bytes, or never.
    async fn at(answer: Option<String>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            match answer {
                Some(answer) => {
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
                None => std::future::pending().await,
            }
        });
        url
    }

    fn answer(headers: &[(String, String)]) -> Option<String> {
        let lines = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let lines: String = lines.collect();
        Some(format!("HTTP/1.1 204 No Content\r\n{lines}\r\n"))
    }

    #[tokio::test]
    async fn only_the_headers_of_a_node_let_browsers_in() {
        let all: Vec<(String, String)> = cors::of_preflight()
            .into_iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        assert_eq!(all.len(), 5);
        let whole = browsers(&at(answer(&all)).await).await;
        assert_eq!(whole.result, Fine, "{whole:?}");
        let missing = browsers(&at(answer(&all[1..])).await).await;
        assert!(missing.result == Failed && missing.found.contains("is missing"), "{missing:?}");
        let twice = [&all[..], &all[..1]].concat();
        let twice = browsers(&at(answer(&twice)).await).await;
        assert!(twice.result == Failed && twice.found.contains("2 times"), "{twice:?}");
        let mut other = all.clone();
        other[0].1 = format!("other{}", "x".repeat(5000));
        let other = browsers(&at(answer(&other)).await).await;
        assert!(other.result == Failed && other.found.len() < 300, "{other:?}");
        let moved = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n".to_owned();
        let moved = browsers(&at(Some(moved)).await).await;
        assert!(moved.result == Failed && moved.found.ends_with("with 302"), "{moved:?}");
        for status in [401, 403, 404, 405, 502] {
            let refused = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n");
            let refused = browsers(&at(Some(refused)).await).await;
            assert_eq!(refused.result, Failed, "{refused:?}");
            assert!(refused.remedy.as_ref().is_some_and(|it| it.contains("proxy")), "{refused:?}");
        }
        assert_eq!(browsers(&at(None).await).await.result, Doubtful, "silence");
        assert_eq!(browsers("http://127.0.0.1:1").await.result, Doubtful, "nothing listens");
        let mut headers = HeaderMap::new();
        headers.insert("x", HeaderValue::from_static("y"));
        assert!(different(&headers).is_some());
    }
}
