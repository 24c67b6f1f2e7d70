//! Checks that the node which answers is the one that has the configured key in the registry.
//!
//! No answer of a public call names a node. A node refuses each token that was made for another node, though
//! (`docs/protocol/api.md`), so it shows its id by what it accepts.

use std::net::SocketAddr;

use hawser_net::{node_token, token_addresses};
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::GetVersionRequest;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_client::MetadataApiClient;
use hawser_proto::{NODE_TOKEN_HEADER, OriginatorId, SecretKey, one_line, root_cause};
use hawser_rules::NodeRecord;
use hawser_serve::CheckedChannel;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::calls::{CALL_MAX, endpoint};
use super::checked::DoctorCheck;
use crate::clock::now_unix_s;

const NAME: &str = "node_id";
/// Validity of the tokens in seconds. Chosen: short, because another server may get one; above the difference of two
/// clocks that nodes tolerate.
const LIFETIME_S: u64 = 300;
/// The id of a chain's strand, which no node has.
const NO_NODE: OriginatorId = OriginatorId(0);
const REFUSED_REMEDY: &str = "if this node became canonical a moment ago, run this again in some minutes; otherwise correct the name's \
    record in the DNS, the proxy in front, or the URL: hawser registry node update-http";
const URL_REMEDY: &str = "correct the name's record in the DNS, the proxy in front, or the URL: hawser registry node update-http";

/// The answer of a server to a call with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TokenAnswer {
    Accepted,
    /// The token is refused, for the reason that the server gives.
    Refused(String),
    /// There is no answer, or one that shows neither.
    Unknown(String),
}

/// Compares the id that a running node states at its operators' port with the one that the registry has for the key.
pub(super) fn stated(own: OriginatorId, stated: Option<OriginatorId>) -> DoctorCheck {
    const REMEDY: &str =
        "stop the process that runs there, or run this with its settings (--metrics.metrics-port)";
    match stated {
        Some(id) if id == own => {
            DoctorCheck::fine(NAME, format!("the node that runs is {own}, as the registry has it"))
        }
        Some(id) => {
            let found =
                format!("the node that runs is {id}, and the registry has {own} for the key");
            DoctorCheck::failed(NAME, found, REMEDY)
        }
        None => {
            let found = format!("the process that runs states no id of a node, and is not {own}");
            DoctorCheck::failed(NAME, found, REMEDY)
        }
    }
}

/// Compares the node that answers at the registered URL with the one of this record, by two tokens that `key` signs:
/// one for that node, and one that every node refuses. A node that is not canonical has no token that a node accepts.
pub(super) async fn at_url(url: &str, record: &NodeRecord, key: &SecretKey) -> DoctorCheck {
    let own = record.id;
    if !record.canonical {
        let found = format!(
            "the node at {url} is not asked for its id: node {own} is not canonical, and has no tokens that nodes accept"
        );
        return DoctorCheck::doubtful(NAME, found, "run this again once it is canonical");
    }
    let permitted = match token_addresses(url).await {
        Ok(permitted) => permitted,
        Err(error) => {
            let found = format!("the node at {url} is not asked for its id: {error}");
            return DoctorCheck::doubtful(NAME, found, "register a URL with https");
        }
    };
    let now = now_unix_s();
    let token = |node| node_token(own, key, node, now, LIFETIME_S);
    let (of_no_node, of_own) = (token(NO_NODE), token(own));
    let ask = |token: String| answer(url, permitted.as_deref(), token);
    judge(url, own, ask(of_no_node).await, ask(of_own).await)
}

/// Judges the answers to a token for no node and to one for `own`.
fn judge(url: &str, own: OriginatorId, no_node: TokenAnswer, of_own: TokenAnswer) -> DoctorCheck {
    match (no_node, of_own) {
        (TokenAnswer::Refused(_), TokenAnswer::Accepted) => {
            DoctorCheck::fine(NAME, format!("the node at {url} is {own}"))
        }
        (TokenAnswer::Refused(_), TokenAnswer::Refused(why)) => {
            let found = format!(
                "the server at {url} is not node {own}, or has not read that it is canonical: it refuses the token \
                 of the node: {why}"
            );
            DoctorCheck::failed(NAME, found, REFUSED_REMEDY)
        }
        (TokenAnswer::Accepted, _) => {
            let found = format!(
                "the server at {url} accepts a token that every node refuses, so its id is unknown"
            );
            DoctorCheck::doubtful(NAME, found, URL_REMEDY)
        }
        (TokenAnswer::Unknown(why), _) | (_, TokenAnswer::Unknown(why)) => {
            let found = format!("the id of the server at {url} is unknown: {why}");
            DoctorCheck::doubtful(NAME, found, "run this again")
        }
    }
}

/// Makes a call with a token.
async fn answer(url: &str, permitted: Option<&[SocketAddr]>, token: String) -> TokenAnswer {
    let late = || TokenAnswer::Unknown(format!("no answer within {} s", CALL_MAX.as_secs()));
    timeout(CALL_MAX, call(url, permitted, &token)).await.unwrap_or_else(|_| late())
}

async fn call(url: &str, permitted: Option<&[SocketAddr]>, token: &str) -> TokenAnswer {
    let channel = match connect(url, permitted).await {
        Ok(channel) => channel,
        Err(why) => return TokenAnswer::Unknown(why),
    };
    let mut client = MetadataApiClient::new(CheckedChannel::from(channel));
    let mut request = Request::new(GetVersionRequest {});
    let token = token.parse().expect("a token is ASCII");
    request.metadata_mut().insert(NODE_TOKEN_HEADER, token);
    match client.get_version(request).await {
        Ok(_) => TokenAnswer::Accepted,
        Err(status) => of_status(&status),
    }
}

/// Connects to a server. With `permitted`, dials the first of these addresses that answers and looks no name up; the
/// server still sees the name in the URL.
async fn connect(url: &str, permitted: Option<&[SocketAddr]>) -> Result<Channel, String> {
    let why = |error: tonic::transport::Error| one_line(&root_cause(&error));
    let named = endpoint(url).await.map_err(why)?;
    let Some(addresses) = permitted else { return named.connect().await.map_err(why) };
    let share = CALL_MAX / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut last = "the name has no address".to_owned();
    for address in addresses {
        // Without the zone of a link-local address, which no URL has.
        let address = SocketAddr::new(address.ip(), address.port());
        let at = endpoint(&format!("http://{address}")).await.map_err(why)?;
        match at.origin(named.uri().clone()).connect_timeout(share).connect().await {
            Ok(channel) => return Ok(channel),
            Err(error) => last = why(error),
        }
    }
    Err(last)
}

/// Returns the answer that a status gives. A node that has checked too many tokens of this address refuses a further
/// one unread, and names the time after which it reads one.
fn of_status(status: &Status) -> TokenAnswer {
    let text = one_line(&format!("{:?}: {}", status.code(), status.message()));
    match status.code() {
        Code::Unauthenticated if !status.metadata().contains_key("retry-after") => {
            TokenAnswer::Refused(text)
        }
        _ => TokenAnswer::Unknown(text),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::super::checked::CheckResult::{Doubtful, Failed, Fine};
    use super::TokenAnswer::{Accepted, Refused, Unknown};
    use super::*;

    const OWN: OriginatorId = OriginatorId(200);

    fn key() -> SecretKey {
        SecretKey::from_bytes(&[7; 32]).unwrap()
    }

    fn record(canonical: bool) -> NodeRecord {
        let public_key = key().public_key();
        NodeRecord {
            id: OWN,
            public_key,
            owner: public_key.address(),
            http_address: None,
            quic_address: None,
            canonical,
        }
    }

    #[test]
    fn only_the_id_of_the_registry_is_right() {
        assert_eq!(stated(OWN, Some(OWN)).result, Fine);
        let other = stated(OWN, Some(OriginatorId(100)));
        assert!(other.result == Failed && other.found.contains("is 100"), "{other:?}");
        assert_eq!(stated(OWN, None).result, Failed, "a replica, or no node");
    }

    #[test]
    fn a_server_is_the_node_only_if_it_tells_tokens_apart() {
        let silent = || Unknown("silence".to_owned());
        let refused = || Refused("the token is meant for another node".to_owned());
        let judged = |no_node, of_own| judge("https://node.example", OWN, no_node, of_own);
        assert_eq!(judged(refused(), Accepted).result, Fine);
        let other = judged(refused(), refused());
        assert!(other.result == Failed && other.found.contains("another node"), "{other:?}");
        for of_own in [Accepted, refused(), silent()] {
            assert_eq!(judged(Accepted, of_own).result, Doubtful, "it checks no token");
        }
        assert_eq!(judged(silent(), Accepted).result, Doubtful);
        assert_eq!(judged(refused(), silent()).result, Doubtful);
    }

    /// Any caller behind the same proxy can use up the checks of its address.
    #[test]
    fn a_token_that_was_not_checked_shows_no_other_node() {
        let mut status = Status::unauthenticated("this address has sent too many others");
        assert!(matches!(of_status(&status), Refused(_)));
        status.metadata_mut().insert("retry-after", "7".parse().unwrap());
        assert!(matches!(of_status(&status), Unknown(_)));
        assert!(matches!(of_status(&Status::unavailable("later")), Unknown(_)));
    }

    #[tokio::test]
    async fn a_node_that_is_not_canonical_yet_is_not_taken_for_another_one() {
        let url = "https://node.invalid";
        let found = at_url(url, &record(false), &key()).await;
        assert!(found.result == Doubtful && found.found.contains("not canonical"), "{found:?}");
    }

    #[tokio::test]
    async fn no_token_goes_over_plain_text_to_a_public_address() {
        // For documentation (RFC 5737); nothing answers there.
        let url = "http://192.0.2.1:5050";
        let found = at_url(url, &record(true), &key()).await;
        assert!(found.result == Doubtful && found.found.contains("has no TLS"), "{found:?}");
    }

    #[tokio::test]
    async fn the_first_permitted_address_that_answers_is_dialled_and_no_name_looked_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listens = listener.local_addr().unwrap();
        let refuses = SocketAddr::from(([127, 0, 0, 1], 1));
        let url = "http://node.invalid:5050";
        assert!(connect(url, Some(&[refuses, listens])).await.is_ok());
        assert!(connect(url, Some(&[refuses])).await.is_err());
    }
}
