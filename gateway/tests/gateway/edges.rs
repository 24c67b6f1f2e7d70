//! Tests of health checks, browsers, metrics and the shutdown.

use std::collections::BTreeSet;
use std::time::Duration;

use hawser_gateway::GatewaySettings;
use hawser_proto::pb::xmtp::xmtpv4::payer_api as api;
use prost::Message as _;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::fake_node::Manner;
use super::fixture::{Net, message, raw, until};
use super::policies::parse;

/// Publishes a message over gRPC-Web, on a connection that begins with these bytes. Returns the response.
async fn publish_over_http_1(net: &Net, begin: &str, text: &str) -> String {
    let request = api::PublishClientEnvelopesRequest { envelopes: vec![message(1, text)] };
    call_over_http_1(net, begin, "PublishClientEnvelopes", &request.encode_to_vec()).await
}

/// Makes a call over gRPC-Web, on a connection that begins with these bytes. Returns the response.
async fn call_over_http_1(net: &Net, begin: &str, method: &str, request: &[u8]) -> String {
    let mut framed = vec![0];
    framed.extend(u32::try_from(request.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(request);
    let mut http = format!(
        "{begin}POST /xmtp.xmtpv4.payer_api.PayerApi/{method} HTTP/1.1\r\nhost: a\r\n\
         content-type: application/grpc-web+proto\r\nx-grpc-web: 1\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        framed.len()
    )
    .into_bytes();
    http.extend(framed);
    let answer = raw(net.gateway.address(), &http).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn has_status(answer: &str, code: Code) -> bool {
    let code = i32::from(code);
    [format!("grpc-status:{code}"), format!("grpc-status: {code}")]
        .iter()
        .any(|status| answer.contains(status))
}

#[tokio::test]
async fn browsers_are_answered_over_http_1() {
    let net = Net::start(1).await;
    let text = publish_over_http_1(&net, "", "a").await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.to_ascii_lowercase().contains("access-control-allow-origin: *"), "{text}");
    assert!(has_status(&text, Code::Ok), "{text}");
    assert_eq!(net.nodes[0].clients().len(), 1);
}

#[tokio::test]
async fn a_trusted_proxy_of_connections_names_the_callers() {
    let policies = parse("[default]\nenvelopes_per_minute = 1");
    let net = Net::with(1, |settings| settings.policies = policies, |_| {}).await;
    for (caller, text, code) in [
        ("1.2.3.4", "a", Code::Ok),
        ("1.2.3.5", "b", Code::Ok),
        ("1.2.3.4", "c", Code::ResourceExhausted),
    ] {
        let header = format!("PROXY TCP4 {caller} 127.0.0.1 1000 443\r\n");
        let answer = publish_over_http_1(&net, &header, text).await;
        assert!(has_status(&answer, code), "{caller}: {answer}");
    }
    assert_eq!(net.nodes[0].calls(), 2);
}

#[tokio::test]
async fn one_address_has_a_bounded_number_of_connections_and_a_trusted_proxy_any_number() {
    let few = |settings: &mut GatewaySettings| settings.connections_per_address_max = 2;
    let net = Net::with(1, few, |_| {}).await;
    let mut open = [net.client().await, net.client().await];
    for client in &mut open {
        client.get_nodes(api::GetNodesRequest {}).await.unwrap();
    }
    let refused = raw(net.gateway.address(), b"").await;
    assert!(!refused.is_empty(), "a clear refusal");
    let refusals = "xmtp_api_connections_refused_total{reason=\"address\"}";
    assert_eq!(net.sample(refusals).await, 1);

    let behind_a_proxy = |settings: &mut GatewaySettings| {
        few(settings);
        settings.policies = parse("");
    };
    let net = Net::with(1, behind_a_proxy, |_| {}).await;
    let mut open = [net.client().await, net.client().await, net.client().await];
    for client in &mut open {
        client.get_nodes(api::GetNodesRequest {}).await.unwrap();
    }
}

/// A client of a later version may send fields that this gateway does not know.
#[tokio::test]
async fn a_long_request_for_nodes_has_the_limit_of_every_message() {
    const LEN: u32 = 5 << 20; // above the limit that the library has without a setting
    let net = Net::start(1).await;
    let mut request = vec![0xfa_u8, 0x01]; // field 31, with a length
    prost::encoding::encode_varint(u64::from(LEN), &mut request);
    request.resize(request.len() + LEN as usize, 7);
    let answer = call_over_http_1(&net, "", "GetNodes", &request).await;
    assert!(has_status(&answer, Code::Ok), "{answer}");
}

#[tokio::test]
async fn health_follows_whether_anything_can_be_published() {
    let net = Net::start(1).await;
    let client = HealthClient::new(net.channel().await);
    let check = async |service: &str| {
        let request = HealthCheckRequest { service: service.into() };
        client.clone().check(request).await.map(|answer| answer.into_inner().status())
    };
    let names = ["", "xmtp.xmtpv4.payer_api.PayerApi", "xmtp.xmtpv4.gateway_api.GatewayApi"];
    until(async || check("").await.unwrap() == ServingStatus::Serving).await;
    for name in names {
        assert_eq!(check(name).await.unwrap(), ServingStatus::Serving);
    }
    assert_eq!(check("nonsense").await.unwrap_err().code(), Code::NotFound);
    net.nodes[0].serves(false);
    until(async || check("").await.unwrap() == ServingStatus::NotServing).await;
    assert!(net.page("/readyz").await.1.contains("node_usable"));
    assert_eq!(net.page("/livez").await.0, 200);
}

#[tokio::test]
async fn calls_under_way_are_finished_when_it_ends() {
    let net = Net::start(1).await;
    net.nodes[0].becomes(Manner::Hangs);
    let client = net.client().await;
    let asking = tokio::spawn(async move {
        let request = api::PublishClientEnvelopesRequest { envelopes: vec![message(1, "a")] };
        client.clone().publish_client_envelopes(request).await
    });
    until(async || net.nodes[0].calls() == 1).await;
    let Net { gateway, nodes, .. } = net;
    let ending = tokio::spawn(gateway.shutdown(Duration::ZERO));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!ending.is_finished(), "a call is under way");
    assert!(asking.await.unwrap().is_err(), "its node never answers, and the caller hears of it");
    tokio::time::timeout(Duration::from_secs(30), ending).await.unwrap().unwrap();
    drop(nodes);
}

/// Returns the names of metric families in the documentation's table.
fn documented() -> BTreeSet<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/gateway.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows =
        rows.filter(|row| ["counter", "gauge", "histogram"].iter().any(|kind| row.contains(kind)));
    rows.map(|row| row.split('`').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_scrape_shows_what_the_documentation_lists() {
    let net = Net::start(1).await;
    net.publish(vec![message(1, "a")]).await.unwrap();
    let address = net.gateway.metrics_address().unwrap();
    let accept = "accept: application/openmetrics-text\r\nconnection: close\r\n\r\n";
    let request = format!("GET /metrics HTTP/1.1\r\nhost: a\r\n{accept}");
    let page = String::from_utf8(raw(address, request.as_bytes()).await).unwrap();
    assert!(page.ends_with("# EOF\n"));
    let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let families: BTreeSet<_> =
        families.map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    let is_shared = |name: &&String| {
        ["grpc_", "xmtp_api_", "process_"].iter().any(|start| name.starts_with(*start))
    };
    let shared: BTreeSet<_> = families.iter().filter(is_shared).cloned().collect();
    let own: BTreeSet<_> = families.difference(&shared).cloned().collect();
    assert_eq!(own, documented());
}

#[tokio::test]
async fn a_node_at_a_private_address_is_not_called_unless_that_is_allowed() {
    let net = Net::with(1, |settings| settings.allow_private_nodes = false, |_| {}).await;
    until(async || net.unmet().await == ["node_usable"]).await;
    let refused = net.publish(vec![message(1, "a")]).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert_eq!(net.nodes[0].calls(), 0);
}
