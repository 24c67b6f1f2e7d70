//! Tests of publishing through nodes.

use std::collections::BTreeSet;

use hawser_proto::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::gateway_api::gateway_api_client::GatewayApiClient;
use hawser_proto::pb::xmtp::xmtpv4::payer_api as api;
use prost::Message as _;
use tonic::Request;

use super::fake_node::{client_of, id_of};
use super::fixture::{Net, commit, message, until, welcome};

#[tokio::test]
async fn answers_keep_the_order_of_the_request_whatever_node_they_come_from() {
    let net = Net::start(3).await;
    let envelopes: Vec<_> = (0..40).map(|n| message(n, &format!("number {n}"))).collect();
    let answer = net.publish(envelopes.clone()).await.unwrap();
    let sent = envelopes.iter().map(|envelope| Bytes::from(envelope.encode_to_vec()));
    let answered = answer.iter().map(client_of);
    assert!(sent.eq(answered));
    let nodes: BTreeSet<_> = answer.iter().map(|envelope| id_of(envelope).0).collect();
    assert_eq!(nodes.len(), 3, "several nodes took part: {nodes:?}");
    for envelope in &envelopes {
        assert_eq!(net.held_by(envelope), 1);
    }
}

#[tokio::test]
async fn an_answer_is_what_the_node_stores_and_a_repetition_gets_the_same() {
    let net = Net::start(2).await;
    let first = net.publish(vec![message(1, "once")]).await.unwrap();
    let second = net.publish(vec![message(1, "once")]).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(net.held_by(&message(1, "once")), 1);
}

#[tokio::test]
async fn each_service_name_publishes_and_an_empty_request_succeeds() {
    let net = Net::start(1).await;
    let mut client = GatewayApiClient::new(net.channel().await);
    let request = api::PublishClientEnvelopesRequest { envelopes: vec![welcome(5)] };
    let answer = client.publish_client_envelopes(request).await.unwrap().into_inner();
    assert_eq!(answer.originator_envelopes.len(), 1);
    let nothing = api::PublishClientEnvelopesRequest::default();
    let answer = client.publish_client_envelopes(nothing).await.unwrap().into_inner();
    assert!(answer.originator_envelopes.is_empty());
    let nodes = client.get_nodes(api::GetNodesRequest {}).await.unwrap().into_inner().nodes;
    assert_eq!(nodes, net.get_nodes().await);
}

#[tokio::test]
async fn a_topic_stays_on_the_node_that_it_has_come_to() {
    let mut net = Net::start(2).await;
    let first = id_of(&net.publish(vec![message(1, "a")]).await.unwrap()[0]).0;
    let place = net.nodes.iter().position(|node| node.id.0 == first).unwrap();
    net.nodes[place].die();
    let second = id_of(&net.publish(vec![message(1, "b")]).await.unwrap()[0]).0;
    assert_ne!(first, second);
    net.nodes[place].rise().await;
    until(async || net.get_nodes().await.len() == 2).await;
    for text in ["c", "d", "e"] {
        let answer = net.publish(vec![message(1, text)]).await.unwrap();
        assert_eq!(id_of(&answer[0]).0, second, "it lives, so the topic stays");
    }
}

#[tokio::test]
async fn a_node_that_moves_is_followed() {
    let mut net = Net::start(1).await;
    net.publish(vec![message(1, "before")]).await.unwrap();
    net.nodes[0].moves().await;
    net.register();
    let url = net.nodes[0].url();
    until(async || net.get_nodes().await[&100] == url).await;
    net.publish(vec![message(1, "after")]).await.unwrap();
    assert_eq!(net.nodes[0].clients().len(), 2);
}

#[tokio::test]
async fn nothing_about_a_client_reaches_a_node() {
    let net = Net::start(1).await;
    let mut request =
        Request::new(api::PublishClientEnvelopesRequest { envelopes: vec![message(1, "a")] });
    let own = [
        ("x-forwarded-for", "203.0.113.77"),
        ("forwarded", "for=203.0.113.77"),
        ("authorization", "Bearer a-token"),
        ("x-app-version", "chat/1.2"),
        ("x-libxmtp-version", "1.9.1"),
        ("baggage", "user=alice"),
    ];
    for (name, value) in own {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    net.client().await.publish_client_envelopes(request).await.unwrap();
    let headers = net.nodes[0].headers();
    assert_eq!(headers.len(), 1);
    for (name, value) in &headers[0] {
        let value = value.to_str().unwrap();
        for (own, said) in own {
            assert!(name != own && !value.contains(said), "{name}: {value}");
        }
        assert!(!value.contains("127.0.0.1"), "{name}: {value}");
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_one_envelope_nothing_of_the_request_is_sent() {
    let net = Net::start(1).await;
    let mut wrong = commit(3, "x");
    wrong.aad.as_mut().unwrap().target_topic = Bytes::from_static(&[0, 1, 2]);
    let refused = net.publish(vec![message(1, "a"), wrong, commit(2, "b")]).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("envelope 1"), "{}", refused.message());
    assert_eq!((net.nodes[0].calls(), net.chain.count()), (0, 0));
    assert_eq!(net.sample("xmtp_gateway_invalid_total").await, 1);
}

#[tokio::test]
async fn many_clients_at_once_share_calls_and_each_gets_its_own_answer() {
    let net = Net::start(1).await;
    let client = net.client().await;
    let calls = (0..400u32).map(|n| {
        let mut client = client.clone();
        let envelope = message(u8::try_from(n % 200).unwrap(), &n.to_string());
        async move {
            let request = api::PublishClientEnvelopesRequest { envelopes: vec![envelope.clone()] };
            let answer = client.publish_client_envelopes(request).await.unwrap().into_inner();
            assert_eq!(client_of(&answer.originator_envelopes[0]), envelope.encode_to_vec());
        }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(net.nodes[0].clients().len(), 400);
    assert!(net.nodes[0].calls() < 400, "{} calls", net.nodes[0].calls());
}
