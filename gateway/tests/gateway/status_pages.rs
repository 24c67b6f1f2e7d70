//! Tests of the pages of the operators' port, and of the schema for reflection.

use std::sync::Arc;
use std::time::Duration;

use hawser_chain::admin::{SignedMicroDollars, Wei, WeiPerGas};
use hawser_chain::broadcast::{GasPriceReading, GasPriceReadings};
use hawser_gateway::chain::SenderFigures;
use hawser_serve::{ChainListStatus, ChainListsView};
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::Code;
use tonic_reflection::pb::{v1, v1alpha};
use v1::server_reflection_client::ServerReflectionClient;
use v1::server_reflection_request::MessageRequest;
use v1::server_reflection_response::MessageResponse;
use v1alpha::server_reflection_client::ServerReflectionClient as Older;

use super::fixture::{Net, commit, message, until};

/// Status of chain lists, as set by a test.
struct Lists(Mutex<Vec<ChainListStatus>>);

impl ChainListsView for Lists {
    fn lists(&self) -> Vec<ChainListStatus> {
        self.0.lock().clone()
    }
}

fn list(name: &'static str) -> ChainListStatus {
    let age = Duration::from_secs(7);
    let failing_max = Duration::from_secs(60);
    ChainListStatus { name, age, failing_for: None, failing_max, fault: None, failures: 0 }
}

#[tokio::test]
async fn lists_that_cannot_be_read_are_shown_at_once_and_count_after_a_while() {
    let lists = Arc::new(Lists(Mutex::new(vec![list("node_registry"), list("rate_registry")])));
    let net = Net::with(1, |_| {}, |ports| ports.lists = Some(lists.clone())).await;
    let becomes = |failing_for: Option<u64>, failures| {
        let rates = &mut lists.0.lock()[1];
        rates.failing_for = failing_for.map(Duration::from_secs);
        rates.fault = failing_for.map(|_| "the endpoint is tired".into());
        rates.failures = failures;
    };
    let shown = async || net.json("/status").await.1["lists"].clone();
    let age = r#"xmtp_chain_list_age_seconds{list="node_registry"}"#;
    let failures = r#"xmtp_chain_list_failures_total{list="rate_registry"}"#;

    assert!(net.unmet().await.is_empty());
    assert_eq!(shown().await[0]["name"], "node_registry");
    assert_eq!(shown().await[0]["age_s"], 7.0);
    assert!(net.page("/metrics").await.1.contains(&format!("{age} 7.0\n")));

    becomes(Some(59), 3);
    assert!(net.unmet().await.is_empty(), "what is known is not old yet");
    assert_eq!(shown().await[1]["fault"], "the endpoint is tired");
    assert_eq!(shown().await[1]["failures"], 3);
    assert_eq!(net.sample(failures).await, 3);

    becomes(Some(61), 4);
    assert_eq!(net.unmet().await, ["settlement_chain_lists_read"]);
    let text = net.page("/readyz").await.1;
    assert!(text.contains("the rate_registry was last read 7 s ago: the endpoint is"), "{text}");
    net.publish(vec![message(1, "by what was read last")]).await.unwrap();

    becomes(None, 4);
    assert!(net.unmet().await.is_empty());
    assert_eq!(net.sample(failures).await, 4, "they have happened");
}

#[tokio::test]
async fn versions_of_nodes_are_shown_and_only_a_later_major_one_is_avoided() {
    let net = Net::start(2).await;
    let node =
        async |place: usize, name: &str| net.json("/status").await.1["nodes"][place][name].clone();
    let restarts_with = async |place: usize, version: Option<&str>| {
        net.nodes[place].runs(version);
        net.nodes[place].serves(false);
        until(async || node(place, "serves").await == false).await;
        net.nodes[place].serves(true);
        until(async || node(place, "serves").await == true).await;
    };
    restarts_with(0, Some("1.3.0")).await;
    until(async || node(0, "version").await == "1.3.0").await;
    restarts_with(0, Some(&format!("1.4.0\n{}", "x".repeat(1000)))).await;
    let shown = format!("1.4.0{}", "x".repeat(59));
    until(async || node(0, "version").await == shown.as_str()).await;
    restarts_with(0, None).await;
    until(async || node(0, "version").await.is_null()).await;

    assert!(node(1, "version").await.is_null(), "it does not know the question");
    for place in [0, 1] {
        assert_eq!(node(place, "usable").await, true);
    }
    let everywhere = (0..16).map(|group| message(group, "a")).collect();
    net.publish(everywhere).await.unwrap();
    assert!(net.nodes.iter().all(|node| !node.clients().is_empty()));

    restarts_with(0, Some("2.0.0")).await;
    until(async || node(0, "version").await == "2.0.0").await;
    assert_eq!(net.get_nodes().await.into_keys().collect::<Vec<_>>(), [200]);
    let before = net.nodes[0].clients().len();
    let everywhere = (0..16).map(|group| message(group, "b")).collect();
    net.publish(everywhere).await.unwrap();
    assert_eq!(net.nodes[0].clients().len(), before, "topics leave a node that is avoided");
    restarts_with(1, Some("2.1.0-rc1")).await;
    until(async || net.get_nodes().await.len() == 2).await;
    assert_eq!(node(0, "usable").await, true, "it is used if there is no other");
    net.publish(vec![message(1, "c")]).await.unwrap();
}

#[tokio::test]
async fn nonce_gas_prices_and_times_of_the_chain_are_shown_under_the_reference_names() {
    const PRICE: &str = "xmtp_blockchain_oracle_gas_price";
    let net = Net::start(1).await;
    let of_chain = |family: &str| format!("{family}{{chain_id=\"7\"}}");
    let times = "xmtp_blockchain_publish_payload_seconds_count";
    let time = |kind: &str| format!("{times}{{payload_type=\"{kind}\"}}");
    let figures = SenderFigures { chain_id: 7, ..SenderFigures::default() };
    *net.chain.figures.lock() = figures;
    let page = net.page("/metrics").await.1;
    assert!(page.contains("# TYPE xmtp_gateway_lru_nonce gauge"), "{page}");
    assert!(!page.contains("\nxmtp_gateway_lru_nonce "), "nothing was sent yet");
    assert!(!page.contains(&of_chain(PRICE)), "no price is known");

    // An endpoint may state any price.
    let price = WeiPerGas(u128::MAX);
    let last = Some(GasPriceReading { unix_s: 1_750_000_000, price });
    let gas_prices = GasPriceReadings { last, read: 3, defaults: 2 };
    *net.chain.figures.lock() = SenderFigures { gas_prices, last_nonce: Some(41), ..figures };
    let sent = net.publish_shown(vec![commit(1, "a")], 0, &net.nodes).await;
    sent.unwrap();
    for (name, value) in [
        (of_chain(PRICE), u64::MAX),
        (of_chain(&format!("{PRICE}_last_update_timestamp_unix")), 1_750_000_000),
        (of_chain(&format!("{PRICE}_updates_total")), 3),
        (of_chain(&format!("{PRICE}_default_fallback_total")), 2),
        ("xmtp_gateway_lru_nonce".to_owned(), 41),
        (time("group_message"), 1),
        (time("identity_update"), 0),
    ] {
        assert_eq!(net.sample(&name).await, value, "{name}");
    }
}

#[tokio::test]
async fn what_the_payer_has_is_shown_while_it_is_known() {
    let (known, deposit) = watch::channel(None);
    let net = Net::with(1, |_| {}, |ports| ports.deposit = deposit).await;
    let shown = async |line: &str| net.page("/metrics").await.1.contains(line);
    assert!(!shown("\nxmtp_payer_balance_picodollars ").await, "it is not known");
    assert!(!shown("\nxmtp_account_balance_wei{").await, "it is not known");
    known.send_replace(Some(SignedMicroDollars(-2)));
    assert!(shown("\nxmtp_payer_balance_picodollars -2000000.0\n").await);
    let figures = SenderFigures { balance: Some(Wei(7)), ..SenderFigures::default() };
    *net.chain.figures.lock() = figures;
    assert!(shown("\nxmtp_account_balance_wei{chain=\"app\"} 7.0\n").await);
    known.send_replace(None);
    assert!(!shown("\nxmtp_payer_balance_picodollars ").await, "it cannot be read any more");
}

#[tokio::test]
async fn the_schema_of_what_is_served_is_shown_to_who_may_ask() {
    let net = Net::with(1, |settings| settings.reflection = true, |_| {}).await;
    let mut client = ServerReflectionClient::new(net.channel().await);
    let mut ask = async |message_request| {
        let request = v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(message_request),
        };
        let answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
        answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap()
    };
    let answer = ask(MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(services) = answer else {
        panic!("services were asked for")
    };
    let mut names: Vec<_> = services.service.into_iter().map(|service| service.name).collect();
    names.retain(|name| !name.starts_with("grpc.reflection."));
    names.sort();
    let expected = [
        "grpc.health.v1.Health",
        "xmtp.xmtpv4.gateway_api.GatewayApi",
        "xmtp.xmtpv4.payer_api.PayerApi",
    ];
    assert_eq!(names, expected, "what is served, and nothing else that the schema knows");
    for symbol in ["xmtp.xmtpv4.gateway_api.GatewayApi", "xmtp.xmtpv4.envelopes.ClientEnvelope"] {
        let answer = ask(MessageRequest::FileContainingSymbol(symbol.to_owned())).await;
        assert!(matches!(answer, MessageResponse::FileDescriptorResponse(_)), "{answer:?}");
    }
    let request = v1alpha::ServerReflectionRequest::default();
    let mut older = Older::new(net.channel().await);
    older.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
    let calls = "grpc_server_started_total{grpc_type=\"bidi\",\
                 grpc_service=\"grpc.reflection.v1.ServerReflection\"";
    assert!(net.page("/metrics").await.1.contains(calls));
}

#[tokio::test]
async fn the_schema_is_not_shown_unless_that_is_switched_on() {
    let net = Net::start(1).await;
    let request = || tokio_stream::iter([v1::ServerReflectionRequest::default()]);
    let mut client = ServerReflectionClient::new(net.channel().await);
    let refused = client.server_reflection_info(request()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

/// A rate takes a series that appears with 1 as one without an increase.
#[tokio::test]
async fn faults_of_a_node_are_counted_from_zero_while_it_is_used() {
    let net = Net::start(2).await;
    let counted = async |node: u32| {
        let start = format!("xmtp_gateway_node_faults_total{{originator_id=\"{node}\",");
        let page = net.page("/metrics").await.1;
        let samples: Vec<_> = page.lines().filter(|line| line.starts_with(&start)).collect();
        assert!(samples.iter().all(|line| line.ends_with("} 0")), "{samples:?}");
        samples.len()
    };
    let kinds = 6; // as docs/gateway.md lists them
    assert_eq!((counted(100).await, counted(200).await), (kinds, kinds));
    net.register_without_address(100);
    until(async || counted(100).await == 0).await;
    assert_eq!(counted(200).await, kinds);
}
