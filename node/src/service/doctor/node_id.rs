//! Checks that the node which answers is the one that has the configured key in the registry.
//!
//! No answer of a public call names a node. A node refuses each token that was made for another node, though
//! (`docs/protocol/api.md`), so it shows its id by what it accepts.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use hawser_net::{NODE_TOKEN_HEADER, PlainTextPeers, node_token};
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::GetVersionRequest;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_client::MetadataApiClient;
use hawser_proto::{OriginatorId, SecretKey, one_line};
use hawser_serve::CheckedChannel;
use tokio::time::timeout;
use tonic::transport::Uri;
use tonic::{Code, Request};

use super::calls::{CALL_MAX, endpoint};
use super::checked::DoctorCheck;
use super::public::root_cause;

const NAME: &str = "node_id";
/// Validity of the tokens in seconds. Chosen: short, because another server may get one; above the difference of two
/// clocks that nodes tolerate.
const LIFETIME_S: u64 = 300;
/// The id of a chain's strand, which no node has.
const NO_NODE: OriginatorId = OriginatorId(0);
const URL_REMEDY: &str = "correct the name's record in the DNS, the proxy in front, or the URL: hawser registry node update-http";

/// The answer of a server to a call with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TokenAnswer {
    Accepted,
    Refused,
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

/// Compares the node that answers at the registered URL with `own`, by two tokens that `key` signs: one for `own`, and
/// one that every node refuses.
pub(super) async fn at_url(
    url: &str,
    own: OriginatorId,
    key: &SecretKey,
    plain_text: PlainTextPeers,
) -> DoctorCheck {
    let permitted = match plain_text.permitted(url).await {
        Ok(permitted) => permitted.and_then(|addresses| addresses.into_iter().next()),
        Err(error) => {
            let found = format!("the node at {url} is not asked for its id: {error}");
            return DoctorCheck::doubtful(NAME, found, "register a URL with https");
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let token = |node| node_token(own, key, node, now, LIFETIME_S);
    let (of_no_node, of_own) = (token(NO_NODE), token(own));
    let ask = |token: String| answer(url, permitted, token);
    judge(url, own, ask(of_no_node).await, ask(of_own).await)
}

/// Judges the answers to a token for no node and to one for `own`.
fn judge(url: &str, own: OriginatorId, no_node: TokenAnswer, of_own: TokenAnswer) -> DoctorCheck {
    match (no_node, of_own) {
        (TokenAnswer::Refused, TokenAnswer::Accepted) => {
            DoctorCheck::fine(NAME, format!("the node at {url} is {own}"))
        }
        (TokenAnswer::Refused, TokenAnswer::Refused) => {
            let found = format!(
                "the server at {url} is not node {own}, whose tokens it refuses: it is another node, or a replica"
            );
            DoctorCheck::failed(NAME, found, URL_REMEDY)
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

/// Makes a call with a token. With `permitted`, dials this address and looks no name up.
async fn answer(url: &str, permitted: Option<SocketAddr>, token: String) -> TokenAnswer {
    let late = || TokenAnswer::Unknown(format!("no answer within {} s", CALL_MAX.as_secs()));
    timeout(CALL_MAX, call(url, permitted, &token)).await.unwrap_or_else(|_| late())
}

async fn call(url: &str, permitted: Option<SocketAddr>, token: &str) -> TokenAnswer {
    let unknown =
        |error: tonic::transport::Error| TokenAnswer::Unknown(one_line(&root_cause(&error)));
    let endpoint = match (permitted, url.parse::<Uri>()) {
        // The server still sees the name in the URL.
        (Some(address), Ok(origin)) => {
            let endpoint = endpoint(&format!("http://{address}")).await;
            endpoint.map(|endpoint| endpoint.origin(origin))
        }
        _ => endpoint(url).await,
    };
    let channel = match endpoint {
        Ok(endpoint) => endpoint.connect().await,
        Err(error) => return unknown(error),
    };
    let mut client = match channel {
        Ok(channel) => MetadataApiClient::new(CheckedChannel::from(channel)),
        Err(error) => return unknown(error),
    };
    let mut request = Request::new(GetVersionRequest {});
    let token = token.parse().expect("a token is ASCII");
    request.metadata_mut().insert(NODE_TOKEN_HEADER, token);
    match client.get_version(request).await {
        Ok(_) => TokenAnswer::Accepted,
        Err(status) if status.code() == Code::Unauthenticated => TokenAnswer::Refused,
        Err(status) => {
            TokenAnswer::Unknown(one_line(&format!("{:?}: {}", status.code(), status.message())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::checked::CheckResult::{Doubtful, Failed, Fine};
    use super::TokenAnswer::{Accepted, Refused, Unknown};
    use super::*;

    const OWN: OriginatorId = OriginatorId(200);

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
        let result = |no_node, of_own| judge("https://node.example", OWN, no_node, of_own).result;
        assert_eq!(result(Refused, Accepted), Fine);
        assert_eq!(result(Refused, Refused), Failed, "another node");
        for of_own in [Accepted, Refused, silent()] {
            assert_eq!(result(Accepted, of_own), Doubtful, "it checks no token");
        }
        assert_eq!(result(silent(), Accepted), Doubtful);
        assert_eq!(result(Refused, silent()), Doubtful);
    }

    #[tokio::test]
    async fn no_token_goes_over_plain_text_to_a_public_address() {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        // For documentation (RFC 5737); nothing answers there.
        let url = "http://192.0.2.1:5050";
        let found = at_url(url, OWN, &key, PlainTextPeers::Private).await;
        assert!(found.result == Doubtful && found.found.contains("has no TLS"), "{found:?}");
    }
}
