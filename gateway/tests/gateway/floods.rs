//! Tests of floods while a node is silent: callers at one address hang up, or more requests than the gateway has places
//! for go to that node. Other callers must still be served.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hawser_gateway::GatewaySettings;
use hawser_gateway::policy::config::PolicyFile;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::payer_api as api;
use hawser_proto::pb::xmtp::xmtpv4::payer_api::payer_api_client::PayerApiClient;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::fake_node::id_of;
use super::fixture::{Net, message, until};
use super::strangers::{charged, have_come, hung_up};

/// The memory that the gateway under test has for callers.
const LIMIT_BYTES: usize = 8 * 1024 * 1024;
/// Envelopes of a large request. It is charged with at least a kilobyte for each.
const LARGE: usize = 400;
const LARGE_BYTES_MIN: u64 = 400 * 1024;
/// Largest number of concurrent calls of a gateway to a node.
const CALLS_MAX: usize = 8;
/// The last byte of loopback addresses: of the flood, of the callers who take all memory that is left, and of the
/// first other caller.
const FLOOD: u8 = 2;
const HOARDER: u8 = 3;
const OTHERS: u8 = 100;

/// Returns a client with an address of its own.
fn client_at(net: &Net, last_byte: u8) -> PayerApiClient<Channel> {
    let from = IpAddr::from(Ipv4Addr::new(127, 0, 0, last_byte));
    let endpoint = Endpoint::from_shared(format!("http://{}", net.gateway.address())).unwrap();
    PayerApiClient::new(endpoint.local_address(Some(from)).connect_lazy())
}

async fn publish(
    mut client: PayerApiClient<Channel>,
    envelopes: Vec<pb::ClientEnvelope>,
) -> Result<usize, Status> {
    let request = api::PublishClientEnvelopesRequest { envelopes };
    let answer = client.publish_client_envelopes(request).await?;
    Ok(answer.into_inner().originator_envelopes.len())
}

fn large(group: u8, name: &str) -> Vec<pb::ClientEnvelope> {
    (0..LARGE).map(|number| message(group, &format!("{name} {number}"))).collect()
}

/// Returns a group whose envelopes go to this node.
async fn group_at(net: &Net, node: u32) -> u8 {
    for group in 1..=u8::MAX {
        let answer = net.publish(vec![message(group, "where?")]).await.unwrap();
        if id_of(&answer[0]).0 == node {
            return group;
        }
    }
    panic!("no group goes to node {node}");
}

/// Publishes a large request and hangs up when `so` returns true. Returns when the gateway has noticed this, or has
/// refused the request.
async fn publish_and_leave(net: &Net, group: u8, name: &str, so: impl AsyncFn() -> bool) {
    let before = hung_up(net).await;
    tokio::select! {
        refused = publish(client_at(net, FLOOD), large(group, name)) => {
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
            return;
        }
        () = until(so) => {}
    }
    until(async || hung_up(net).await > before).await;
}

async fn assert_within_the_limit(net: &Net) {
    let charged = charged(net).await;
    assert!(charged <= LIMIT_BYTES as u64, "{charged} bytes are charged");
}

#[tokio::test]
async fn callers_who_hang_up_at_a_silent_node_keep_no_memory_from_others() {
    // Timeouts so long that no attempt ends by itself during the test.
    let adjust = |settings: &mut GatewaySettings| {
        settings.callers_bytes_max = LIMIT_BYTES;
        settings.attempt_timeout = Duration::from_secs(3600);
        settings.policies = PolicyFile::parse("[identity]\nkind = \"none\"").unwrap();
    };
    let net = Net::with(2, adjust, |_| {}).await;
    let (silent, other) = (&net.nodes[0], &net.nodes[1]);
    let (to_silent, to_other) =
        (group_at(&net, silent.id.0).await, group_at(&net, other.id.0).await);
    silent.holds_answers(true);

    // As many requests as the gateway makes concurrent calls to the node. They stay charged after their callers
    // have hung up.
    for number in 0..CALLS_MAX {
        let is_sent = async || silent.under_way() == number + 1;
        publish_and_leave(&net, to_silent, &format!("sent {number}"), is_sent).await;
    }
    assert_eq!(silent.under_way(), CALLS_MAX);
    assert!(charged(&net).await >= CALLS_MAX as u64 * LARGE_BYTES_MIN);
    assert_within_the_limit(&net).await;
    // Many more requests, which leave no charge.
    let before = charged(&net).await;
    for number in 0..40 {
        let come = have_come(&net).await;
        let is_read = async || have_come(&net).await > come;
        publish_and_leave(&net, to_silent, &format!("waiting {number}"), is_read).await;
        assert_within_the_limit(&net).await;
        let envelopes = vec![message(to_other, &format!("beside {number}"))];
        publish(client_at(&net, OTHERS), envelopes).await.expect("others are served");
    }
    until(async || charged(&net).await <= before + LARGE_BYTES_MIN / 2).await;

    // Callers who stay connected and wait for the silent node. They take all memory that their address may have.
    let mut hoarders = Vec::new();
    loop {
        let before = charged(&net).await;
        let envelopes = large(to_silent, &format!("hoarded {}", hoarders.len()));
        let asking = tokio::spawn(publish(client_at(&net, HOARDER), envelopes));
        let is_charged = async || charged(&net).await >= before + LARGE_BYTES_MIN;
        until(async || asking.is_finished() || is_charged().await).await;
        if asking.is_finished() {
            break;
        }
        hoarders.push(asking);
        assert!(hoarders.len() < 20, "the budget bounds them");
    }
    assert!(hoarders.len() >= 2, "{}", hoarders.len());
    assert_within_the_limit(&net).await;
    // More connections than fit into the memory that is left. The gateway has to close connections of the hoarders:
    // closing those of callers who have hung up would free nothing.
    let mut kept = Vec::new();
    for number in 0..60 {
        let client = client_at(&net, OTHERS + number);
        let envelope = message(to_other, &format!("newcomer {number}"));
        until(async || publish(client.clone(), vec![envelope.clone()]).await.is_ok()).await;
        assert_within_the_limit(&net).await;
        kept.push(client);
    }
    assert!(hoarders.iter().any(tokio::task::JoinHandle::is_finished));
    assert_eq!(silent.under_way(), CALLS_MAX, "the node is as silent as before");

    hoarders.iter().for_each(tokio::task::JoinHandle::abort);
    drop(kept);
    silent.holds_answers(false);
    until(async || charged(&net).await == 0).await;
}

/// The node answers health checks, so that the gateway continues to choose it.
#[tokio::test]
async fn a_silent_node_leaves_places_to_requests_for_others() {
    let adjust = |settings: &mut GatewaySettings| {
        settings.attempt_timeout = Duration::from_secs(3600);
        settings.policies = PolicyFile::parse("[identity]\nkind = \"none\"").unwrap();
    };
    let net = Net::with(2, adjust, |_| {}).await;
    let (silent, other) = (&net.nodes[0], &net.nodes[1]);
    let to_silent = group_at(&net, silent.id.0).await;
    let before = other.log().len();
    silent.holds_answers(true);
    let clients: Vec<_> = (0..30).map(|number| client_at(&net, OTHERS + number)).collect();
    let requests = (0..2100).zip(clients.iter().cycle()).map(|(number, client)| {
        publish(client.clone(), vec![message(to_silent, &format!("number {number}"))])
    });
    let requests: Vec<_> = requests.collect();
    let flood = tokio::spawn(futures_util::future::join_all(requests));
    until(async || other.log().len() >= before + 500).await;
    assert!(!flood.is_finished(), "the others wait for the silent node");
    flood.abort();
}
