//! Nodes of the reference implementation that follow this one: tokens, first frames, sizes of frames.

use std::sync::Arc;

use hawser_api::NoPeers;
use hawser_proto::envelope::UnsealedEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb_env;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::{self, metadata_api_client::MetadataApiClient};
use hawser_proto::quic_address::QUIC_ADDRESS_HEADER;
use hawser_proto::{EnvelopeId, MARKED_HEADER, QuicAddress, SequenceId};
use hawser_storage::{Change, InvalidRule, LogEntry};
use prost::Message as _;
use tonic::{Code, Response, Status};

use crate::callers::{token, with};
use crate::common::*;

const TOKEN: &str = "node-authorization";

fn strand(after: u64) -> pb::SubscribeOriginatorsRequest {
    let filter = pb::subscribe_originators_request::OriginatorFilter {
        originator_node_ids: vec![100],
        last_seen: Some(wire_cursor([(100, after)])),
    };
    pb::SubscribeOriginatorsRequest { filter: Some(filter) }
}

/// Calls each method of the `ReplicationApi`, and returns the answers.
async fn every_method(node: &Node, headers: &[(&'static str, &str)]) -> Vec<Code> {
    fn code<T>(answer: Result<Response<T>, Status>) -> Code {
        answer.map_or_else(|status| status.code(), |_| Code::Ok)
    }
    let mut client = node.replication().await;
    let query = Some(topics_query([1], None));
    let envelopes = pb::SubscribeEnvelopesRequest { query: query.clone() };
    let query = pb::QueryEnvelopesRequest { query, limit: 0 };
    let filter =
        pb::subscribe_topics_request::TopicFilter { topic: topic_bytes(1), last_seen: None };
    let topics = pb::SubscribeTopicsRequest { filters: vec![filter] };
    let publish = pb::PublishPayerEnvelopesRequest { payer_envelopes: vec![message(1, "a")] };
    vec![
        code(client.subscribe_originators(with(strand(0), headers)).await),
        code(client.subscribe_envelopes(with(envelopes, headers)).await),
        code(client.subscribe_topics(with(topics, headers)).await),
        code(client.query_envelopes(with(query, headers)).await),
        code(client.publish_payer_envelopes(with(publish, headers)).await),
        code(client.get_inbox_ids(with(pb::GetInboxIdsRequest::default(), headers)).await),
        code(
            client
                .get_newest_envelope(with(pb::GetNewestEnvelopeRequest::default(), headers))
                .await,
        ),
    ]
}

#[tokio::test]
async fn every_replication_call_checks_its_token() {
    let open = node().await;
    let closed = node_with(|settings| settings.require_node_auth = true, Arc::new(NoPeers)).await;
    let good = token(3600);
    let (refused, served) = (vec![Code::Unauthenticated; 7], vec![Code::Ok; 7]);
    for bad in ["x", "Bearer x", &good[1..], &token(3 * 3600), &token(-1)] {
        assert_eq!(every_method(&open, &[(TOKEN, bad)]).await, refused, "{bad}");
        assert_eq!(every_method(&closed, &[(TOKEN, bad)]).await, refused, "{bad}");
    }
    for absent in [vec![], vec![(TOKEN, "")], vec![("authorization", good.as_str())]] {
        assert_eq!(every_method(&open, &absent).await, served);
        assert_eq!(every_method(&closed, &absent).await, refused);
    }
    assert_eq!(every_method(&open, &[(TOKEN, &good)]).await, served);
    assert_eq!(every_method(&closed, &[(TOKEN, &good)]).await, served);
    let first_counts = [(TOKEN, good.as_str()), (TOKEN, "x")];
    assert_eq!(every_method(&closed, &first_counts).await, served, "as at the reference");
}

#[tokio::test]
async fn a_token_counts_in_any_spelling_of_its_header() {
    let node = node_with(|settings| settings.require_node_auth = true, Arc::new(NoPeers)).await;
    let path = "/xmtp.xmtpv4.message_api.ReplicationApi/QueryEnvelopes";
    let body = framed(&pb::QueryEnvelopesRequest::default().encode_to_vec());
    for (text, status) in [(token(3600), 0), (token(3 * 3600), 16)] {
        for name in ["node-authorization", "Node-Authorization", "NODE-AUTHORIZATION"] {
            let header = format!("{name}: {text}\r\n");
            let request = post(path, "application/grpc-web+proto", &header, &body);
            let answer = node.ask(&request).await;
            let trailers = String::from_utf8_lossy(&answer.body).replace(' ', "");
            let is_stated = answer.header("grpc-status") == Some(&status.to_string())
                || trailers.contains(&format!("grpc-status:{status}"));
            assert!(is_stated, "{name}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_follower_gets_a_first_frame_at_once_and_frames_that_it_reads() {
    let node = node().await;
    for index in 0..4u8 {
        let payload = group_payload(frame(1, 1, &vec![index; 8 * 1024 * 1024]));
        node.publish(vec![sign(client(&group_topic(1), None, payload))]).await;
    }
    for index in 0..2000 {
        node.publish(vec![message(2, &index.to_string())]).await;
    }
    let mut client = node.replication().await;
    let mut stream = client.subscribe_originators(strand(0)).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert!(first.response.is_none(), "it says only that the stream is open");
    let mut next = 1;
    while next <= 2004 {
        let frame = stream.message().await.unwrap().unwrap();
        assert!(frame.encoded_len() <= MESSAGE_LEN_BYTES_MAX);
        for envelope in originators_list(frame.response) {
            assert_eq!(id(&envelope).sequence.0, next);
            next += 1;
        }
    }
}

#[tokio::test]
async fn the_address_for_quic_is_told_to_nodes_if_there_is_one() {
    let text = token(60);
    let of_node = [(TOKEN, text.as_str())];
    let address_for = async |address: Option<QuicAddress>, headers: &[(&'static str, &str)]| {
        let node = node_with(|settings| settings.quic_address = address, Arc::new(NoPeers)).await;
        let mut client = MetadataApiClient::new(node.channel().await);
        let request = with(metadata_api::GetSyncCursorRequest {}, headers);
        let answer = client.get_sync_cursor(request).await.unwrap();
        answer.metadata().get(QUIC_ADDRESS_HEADER).map(|it| it.to_str().unwrap().to_owned())
    };
    assert_eq!(address_for(None, &of_node).await, None);
    let address = QuicAddress::parse("node.example:5050");
    assert_eq!(address_for(address.clone(), &of_node).await.as_deref(), Some("node.example:5050"));
    assert_eq!(address_for(address, &[]).await, None, "other callers have no use for it");
}

/// Stores an envelope that another node has signed and that breaks a rule.
fn marked_by_peer(node: &Node, sequence: u64) {
    let statement = pb_env::UnsignedOriginatorEnvelope {
        originator_node_id: PEER.0,
        originator_sequence_id: sequence,
        payer_envelope_bytes: message(1, "marked").encode_to_vec().into(),
        ..Default::default()
    };
    let bytes = UnsealedEnvelope::new(&statement).seal(&node_key());
    let id = EnvelopeId::new(PEER, SequenceId(sequence));
    let entry = LogEntry::invalid(id, bytes, InvalidRule(1));
    node.engine.committer().commit(vec![Change::Append(entry)]).unwrap();
}

#[tokio::test]
async fn marked_envelopes_are_for_followers_that_ask_for_them() {
    let node = node().await;
    node.ordered_by_peer(1, 1, None);
    marked_by_peer(&node, 2);
    node.ordered_by_peer(3, 1, None);
    let query = pb::EnvelopesQuery { originator_node_ids: vec![PEER.0], ..Default::default() };
    let page =
        |query: pb::EnvelopesQuery| pb::QueryEnvelopesRequest { query: Some(query), limit: 0 };
    let asks = &[(MARKED_HEADER, "1")];
    let (plain, asking) = (with(page(query.clone()), &[]), with(page(query.clone()), asks));
    let mut follower = node.replication().await;
    let shown = follower.query_envelopes(plain).await.unwrap().into_inner();
    assert_eq!(ids(&shown.envelopes), "200:1 200:3");
    let shown = follower.query_envelopes(asking).await.unwrap().into_inner();
    assert_eq!(ids(&shown.envelopes), "200:1 200:2 200:3");
    let topics = with(page(topics_query([1], None)), asks);
    let shown = follower.query_envelopes(topics).await.unwrap().into_inner();
    assert_eq!(ids(&shown.envelopes), "200:1 200:3", "a topic has readers");
    let reader = node.query().await.query_envelopes(with(page(query), asks)).await;
    assert_eq!(
        ids(&reader.unwrap().into_inner().envelopes),
        "200:1 200:3",
        "clients check no rule"
    );
}
