//! Publishing: the answers, and every refusal with its code and text, after which nothing is stored.

use hawser_engine::runtime::PublishCaller;
use hawser_proto::envelope::Payload;
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::pb::xmtp::mls::api::v1::UploadKeyPackageRequest;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb_env;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::{Bytes, OriginatorId, SequenceId, Topic, TopicKind};
use hawser_rules::RateTable;
use hawser_serve::StatusDetails;
use prost::Message as _;
use tonic::Code;

use crate::common::*;

fn request(payer_envelopes: Vec<pb_env::PayerEnvelope>) -> pb::PublishPayerEnvelopesRequest {
    pb::PublishPayerEnvelopesRequest { payer_envelopes }
}

#[tokio::test]
async fn each_service_name_answers_with_the_stored_bytes_in_request_order() {
    let node = node().await;
    let sent = vec![message(1, "one"), message(2, "two")];
    let first = node.replication().await.publish_payer_envelopes(request(sent.clone())).await;
    let first = first.unwrap().into_inner().originator_envelopes;
    assert_eq!(ids(&first), "100:1 100:2");
    for envelope in &first {
        let stored = node.engine.store().snapshot().get(id(envelope)).unwrap().unwrap();
        assert_eq!(stored, envelope.encode_to_vec());
    }
    let again = node.publishing().await.publish_payer_envelopes(request(sent)).await;
    assert_eq!(
        again.unwrap().into_inner().originator_envelopes,
        first,
        "answered once and for all"
    );
}

/// A refused request: a name, the envelopes, and a part of the error text.
type RefusedRequest = (&'static str, Vec<pb_env::PayerEnvelope>, &'static str);

fn refusals() -> Vec<RefusedRequest> {
    [refusals_of_layers(), refusals_of_content()].concat()
}

fn refusals_of_layers() -> Vec<RefusedRequest> {
    let fine = || message(1, "text");
    vec![
        ("nothing", vec![], "missing payer envelope"),
        ("no client envelope", vec![sign(Bytes::new())], "aad is missing"),
        ("no protobuf", vec![sign(Bytes::from_static(&[0xff]))], "could not unmarshal"),
        (
            "no payload",
            vec![sign(
                pb_env::ClientEnvelope {
                    aad: Some(pb_env::AuthenticatedData {
                        target_topic: topic_bytes(1),
                        depends_on: None,
                    }),
                    payload: None,
                }
                .encode_to_vec()
                .into(),
            )],
            "payload is missing",
        ),
        (
            "another node's",
            vec![pb_env::PayerEnvelope { target_originator: 200, ..fine() }],
            "invalid target originator",
        ),
        (
            "unsigned",
            vec![pb_env::PayerEnvelope { payer_signature: None, ..fine() }],
            "payer signature is missing",
        ),
        (
            "badly signed",
            vec![pb_env::PayerEnvelope {
                payer_signature: Some(pb_assoc_signature(&[1; 10])),
                ..fine()
            }],
            "could not recover signer",
        ),
    ]
}

fn refusals_of_content() -> Vec<RefusedRequest> {
    [refusals_of_dependencies_and_retention(), refusals_of_payloads()]
        .into_iter()
        .flatten()
        .collect()
}

fn refusals_of_dependencies_and_retention() -> Vec<RefusedRequest> {
    let text = || group_payload(frame(1, 1, b"text"));
    let to = |topic: &Topic, payload| vec![sign(client(topic, None, payload))];
    let depending = |originator, sequence| {
        vec![dependent_message(1, "text", Some(wire_cursor([(originator, sequence)])))]
    };
    let topic = |kind, identifier: &[u8]| Topic::new(kind, identifier).unwrap();
    vec![
        (
            "kind and payload apart",
            to(&topic(TopicKind::Welcomes, &[1; 32]), text()),
            "topic does not match payload",
        ),
        ("depends on a node", depending(100, 1), "a message can not depend on a non-commit"),
        ("depends on a chain unseen", depending(1, 1), "has not been seen by this node"),
        ("depends on the future", depending(0, 9), "exceeds last seen sequence id"),
        (
            "kept too short",
            vec![sign_as(client(&group_topic(1), None, text()), 0, 1)],
            "invalid expiry retention days",
        ),
        (
            "kept too long",
            vec![sign_as(client(&group_topic(1), None, text()), 0, 366)],
            "invalid expiry retention days",
        ),
    ]
}

fn refusals_of_payloads() -> Vec<RefusedRequest> {
    let text = || group_payload(frame(1, 1, b"text"));
    let to = |topic: &Topic, payload| vec![sign(client(topic, None, payload))];
    let topic = |kind, identifier: &[u8]| Topic::new(kind, identifier).unwrap();
    let fine = || message(1, "text");
    let key_packages = topic(TopicKind::KeyPackages, &[1; 32]);
    vec![
        (
            "reserved",
            to(
                &topic(TopicKind::PayerReports, &[1; 4]),
                Payload::PayerReport(pb_env::PayerReport::default()),
            ),
            "reserved topics cannot be published to by gateways",
        ),
        (
            "an identity update",
            to(
                &topic(TopicKind::IdentityUpdates, &[1; 32]),
                Payload::IdentityUpdate(IdentityUpdate::default()),
            ),
            "identity updates must be published via the blockchain",
        ),
        (
            "a commit",
            to(&group_topic(1), group_payload(frame(1, 3, b"commit"))),
            "published via the blockchain",
        ),
        (
            "no MLS message",
            to(&group_topic(1), group_payload(b"nonsense".to_vec())),
            "invalid group message",
        ),
        (
            "no key package",
            to(&key_packages, Payload::UploadKeyPackage(UploadKeyPackageRequest::default())),
            "key package validation failed",
        ),
        (
            "two payers",
            vec![fine(), sign_as(client(&group_topic(1), None, text()), 1, 60)],
            "must be from the same payer",
        ),
        (
            "one bad among good",
            vec![fine(), pb_env::PayerEnvelope { target_originator: 7, ..fine() }],
            "could not validate envelope. index 1: invalid_argument: invalid target originator",
        ),
    ]
}

fn pb_assoc_signature(
    bytes: &[u8],
) -> hawser_proto::pb::xmtp::identity::associations::RecoverableEcdsaSignature {
    hawser_proto::pb::xmtp::identity::associations::RecoverableEcdsaSignature {
        bytes: Bytes::copy_from_slice(bytes),
    }
}

#[tokio::test]
async fn every_refusal_has_its_code_and_text_and_stores_nothing() {
    let node = node().await;
    node.commit_on_chain(1, 1);
    let before = node.engine.heads().get();
    let mut publisher = node.publishing().await;
    for (name, envelopes, text) in refusals() {
        let refused = publisher.publish_payer_envelopes(request(envelopes)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name}: {refused}");
        assert!(refused.message().contains(text), "{name}: {}", refused.message());
    }
    assert_eq!(node.engine.heads().get(), before);
    let counted = r#"xmtp_publish_rejected_total{code="invalid_argument",reason="rule"}"#;
    assert_eq!(node.sample(counted).await, Some(refusals().len() as f64));
}

#[tokio::test]
async fn a_refusal_for_a_dependency_tells_what_the_node_has_of_the_strands_named() {
    let node = node().await;
    (1..=3).for_each(|sequence| node.commit_on_chain(sequence, 1));
    node.publish(vec![message(1, "text")]).await;
    let mut publisher = node.publishing().await;
    let mut told = async |envelopes| {
        let refused = publisher.publish_payer_envelopes(request(envelopes)).await.unwrap_err();
        let seen = StatusDetails::seen_of(&refused).into_iter();
        seen.map(|(OriginatorId(id), SequenceId(place))| (id, place)).collect::<Vec<_>>()
    };
    let ahead = dependent_message(1, "ahead", Some(wire_cursor([(0, 4)])));
    let unseen = dependent_message(1, "unseen", Some(wire_cursor([(0, 2), (1, 1), (10, 7)])));
    let of_node = dependent_message(1, "of a node", Some(wire_cursor([(0, 1), (100, 9)])));
    assert_eq!(told(vec![ahead.clone()]).await, [(0, 3)]);
    assert_eq!(told(vec![unseen.clone()]).await, [(0, 3), (1, 0), (10, 0)]);
    assert_eq!(told(vec![of_node.clone()]).await, [(0, 3), (100, 1)]);
    let together = vec![unseen, message(1, "fine"), of_node, ahead];
    assert_eq!(told(together).await, [(0, 3), (1, 0), (10, 0), (100, 1)]);

    let mut of_another = dependent_message(1, "other", Some(wire_cursor([(0, 4)])));
    of_another.target_originator = 200;
    assert!(told(vec![of_another]).await.is_empty(), "refused for another reason");
}

#[tokio::test]
async fn several_bad_envelopes_are_reported_together() {
    let node = node().await;
    let bad = |target_originator| pb_env::PayerEnvelope { target_originator, ..message(1, "text") };
    let envelopes = vec![bad(1), message(1, "fine"), bad(2)];
    let refused = node.publishing().await.publish_payer_envelopes(request(envelopes)).await;
    let text = "error processing payer envelopes:\
                could not validate envelope. index 0: invalid_argument: invalid target originator\n\
                could not validate envelope. index 2: invalid_argument: invalid target originator";
    assert_eq!(refused.unwrap_err().message(), text);
}

#[tokio::test]
async fn a_node_that_may_not_sign_refuses_for_a_while_and_goes_on_reading() {
    let node = node().await;
    node.publish(vec![message(1, "before")]).await;
    let mut publisher = node.publishing().await;
    let mut refused = async |text: &str| {
        let envelopes = vec![message(1, "later")];
        let status = publisher.publish_payer_envelopes(request(envelopes)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains(text), "{}", status.message());
        let retry_after = status.metadata().get("retry-after").unwrap().to_str().unwrap();
        assert!(retry_after.parse::<u32>().unwrap() > 0, "whole seconds");
    };
    node.set_registry([]);
    refused("no record in the registry").await;
    let mut other = record();
    other.canonical = false;
    node.set_registry([other]);
    refused("not canonical").await;
    node.set_registry([record()]);
    let long_ago = RateTable::new(vec![rate()], Some(START_NS - 61 * 60 * 1_000_000_000)).unwrap();
    node.rates.send_replace(std::sync::Arc::new(long_ago));
    refused("rates have not been refreshed").await;

    let query = pb::QueryEnvelopesRequest { query: Some(topics_query([1], None)), limit: 0 };
    let page = node.query().await.query_envelopes(query).await.unwrap().into_inner();
    assert_eq!(ids(&page.envelopes), "100:1");
}

#[tokio::test]
async fn after_a_failed_write_the_log_takes_nothing_more() {
    let node = node().await;
    node.engine.store().fail_next_write();
    let mut publisher = node.publishing().await;
    for _ in 0..2 {
        let envelopes = vec![message(1, "text")];
        let status = publisher.publish_payer_envelopes(request(envelopes)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.metadata().contains_key("retry-after"));
    }
    assert_eq!(node.page("/readyz?for=publish").await.0, 503);
    assert_eq!(node.page("/readyz").await.0, 200, "readers are served");
}

#[tokio::test]
async fn requests_of_far_more_envelopes_than_one_publish_has_are_not_decoded() {
    let node = node().await;
    let mut publisher = node.publishing().await;
    let many = |count| request(vec![pb_env::PayerEnvelope::default(); count]);
    for count in [10_001, 20_001] {
        let refused = publisher.publish_payer_envelopes(many(count)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let text = format!("too many payer_envelopes: {count}, at most 10000 are allowed");
        assert_eq!(refused.message(), text);
        let details = String::from_utf8_lossy(refused.details()).into_owned();
        assert!(details.contains("TOO_MANY_ENVELOPES"), "{details:?}");
    }
    // The last envelope is a byte that does not decode.
    let path = "/xmtp.xmtpv4.message_api.PublishApi/PublishPayerEnvelopes";
    let undecodable = framed(&[&[0x0a, 0].repeat(20_001)[..], &[0x0a, 1, 0xff]].concat());
    let (code, text) = call_raw(&node.channel().await, path, undecodable).await;
    assert_eq!(code, Code::InvalidArgument);
    // It is counted, too.
    assert!(text.starts_with("too many payer_envelopes: 20002"), "{text}");
}

#[tokio::test]
async fn a_publish_whose_answer_would_be_too_large_is_refused() {
    let node = node().await;
    let large = |index| {
        let text = vec![index; 5 * 1024 * 1024 - 200];
        sign(client(&group_topic(1), None, group_payload(frame(1, 1, &text))))
    };
    let envelopes: Vec<_> = (0..5).map(large).collect();
    assert!(request(envelopes.clone()).encoded_len() < MESSAGE_LEN_BYTES_MAX, "it can be sent");
    let refused = node.replication().await.publish_payer_envelopes(request(envelopes)).await;
    assert_eq!(refused.unwrap_err().code(), Code::ResourceExhausted);
    assert!(node.engine.heads().get().is_empty());
}

/// Played by a caller that publishes and hangs up, again and again, while a disk hangs: the places of its publishes
/// would be taken for 30 s each, and so would the memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_waits_for_room_ends_with_its_call() {
    const CALLS: &str = r#"grpc_type="unary",grpc_service="xmtp.xmtpv4.message_api.PublishApi",grpc_method="PublishPayerEnvelopes""#;
    let node = node().await;
    let all_bytes = pb_env::PayerEnvelope {
        unsigned_client_envelope: vec![0_u8; 256 << 20].into(),
        ..Default::default()
    };
    let publisher = node.engine.publisher().clone();
    let all = publisher.begin(PublishCaller::default(), vec![all_bytes]).await.unwrap();
    let mut client = node.publishing().await;
    let call = tokio::spawn(async move {
        drop(client.publish_payer_envelopes(request(vec![message(1, "one")])).await);
    });
    node.until_sample(&format!("grpc_server_started_total{{{CALLS}}}"), 1.0).await;
    call.abort();
    let canceled = format!("grpc_server_handled_total{{{CALLS},grpc_code=\"canceled\"}}");
    node.until_sample(&canceled, 1.0).await;
    drop(all);
    assert_eq!(ids(&node.publish(vec![message(2, "two")]).await), "100:1", "nothing is before it");
}
