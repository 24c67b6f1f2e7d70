//! Every refusal of a publish, by the text that publishers match on.

use crate::common::{
    NODE, Node, client, frame, group_payload, group_topic, message, payer, sign, start, store,
};
use hawser_engine::chain_strand::ChainEvent;
use hawser_engine::runtime::PublishError;
use hawser_proto::envelope::{PayerEnvelope, Payload};
use hawser_proto::pb::xmtp::identity::associations::{IdentityUpdate, RecoverableEcdsaSignature};
use hawser_proto::pb::xmtp::mls::api::v1 as mls;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, OriginatorId, SequenceId, Topic};

fn depending(entries: &[(u32, u64)]) -> pb::PayerEnvelope {
    let cursor = pb::Cursor { node_id_to_sequence_id: entries.iter().copied().collect() };
    sign(client(&group_topic(1), Some(cursor), group_payload(frame(1, 1, b"x"))), 60)
}

fn on_topic(topic: &[u8], payload: Payload) -> pb::PayerEnvelope {
    let topic = Topic::parse(Bytes::copy_from_slice(topic)).unwrap();
    sign(client(&topic, None, payload), 60)
}

fn of_group(data: Vec<u8>) -> pb::PayerEnvelope {
    sign(client(&group_topic(1), None, group_payload(data)), 60)
}

fn with_signature(bytes: Option<Vec<u8>>) -> pb::PayerEnvelope {
    let mut envelope = message(1, "x");
    envelope.payer_signature = bytes.map(|bytes| RecoverableEcdsaSignature { bytes: bytes.into() });
    envelope
}

fn retained(days: u32) -> pb::PayerEnvelope {
    sign(message(1, "x").unsigned_client_envelope, days)
}

fn key_package(bytes: &'static [u8]) -> pb::PayerEnvelope {
    let upload = mls::KeyPackageUpload { key_package_tls_serialized: Bytes::from_static(bytes) };
    let payload = Payload::UploadKeyPackage(mls::UploadKeyPackageRequest {
        key_package: Some(upload),
        is_inbox_id_credential: true,
    });
    on_topic(&[&[3][..], &[7; 32]].concat(), payload)
}

/// An update that the chain would take, and that is too long to be decoded for a refusal.
fn long_update() -> pb::PayerEnvelope {
    let update = IdentityUpdate { inbox_id: "a".repeat(20_000), ..Default::default() };
    on_topic(&[&[2][..], &[1; 32]].concat(), Payload::IdentityUpdate(update))
}

/// Returns an envelope for each way to break a rule, with a part of the text that refuses it.
fn refused() -> Vec<(pb::PayerEnvelope, &'static str)> {
    let trailing = [frame(1, 1, b"x"), vec![0]].concat();
    let truncated = frame(1, 1, b"x")[..40].to_vec();
    let mut unparsable = message(1, "x");
    unparsable.unsigned_client_envelope = Bytes::from_static(b"\xff");
    let no_aad = sign(Bytes::new(), 60);
    let other_node = PayerEnvelope::sign(Bytes::new(), OriginatorId(200), 60, &payer(0));
    let wrong_target = pb::PayerEnvelope {
        unsigned_client_envelope: message(1, "x").unsigned_client_envelope,
        ..other_node
    };
    // The first broken rule counts, for any bytes in place of the signature.
    let unsigned = |envelope: &pb::PayerEnvelope| pb::PayerEnvelope {
        payer_signature: with_signature(Some(vec![1; 64])).payer_signature,
        ..envelope.clone()
    };
    let (unparsable_too, wrong_target_too) = (unsigned(&unparsable), unsigned(&wrong_target));
    let long_topic = on_topic(&[0; 129], group_payload(frame(1, 1, b"x")));
    vec![
        (unparsable, "could not unmarshal payer envelope"),
        (no_aad, "aad is missing"),
        (wrong_target, "invalid target originator"),
        (unparsable_too, "could not unmarshal payer envelope"),
        (wrong_target_too, "invalid target originator"),
        (with_signature(None), "payer signature is missing"),
        (with_signature(Some(vec![1; 64])), "could not recover signer"),
        (with_signature(Some(vec![27; 65])), "could not recover signer"),
        (with_signature(Some(vec![0; 65])), "could not recover signer"),
        (on_topic(&[1, 2], group_payload(frame(1, 1, b"x"))), "topic does not match payload"),
        (long_topic, "topic has 129 bytes"),
        (depending(&[(100, 1)]), "a message can not depend on a non-commit"),
        (depending(&[(100, 0)]), "a message can not depend on a non-commit"),
        (depending(&[(7, 1)]), "has not been seen by this node"),
        (depending(&[(0, 2)]), "exceeds last seen sequence id"),
        (retained(0), "invalid expiry retention days"),
        (retained(1), "invalid expiry retention days"),
        (retained(366), "invalid expiry retention days"),
        (retained(u32::MAX - 1), "invalid expiry retention days"),
        (
            on_topic(&[4, 100, 0, 0, 0], Payload::PayerReport(pb::PayerReport::default())),
            "reserved topics cannot be published to by gateways",
        ),
        (
            on_topic(&[&[2][..], &[1; 32]].concat(), Payload::IdentityUpdate(Default::default())),
            "identity updates must be published via the blockchain",
        ),
        (long_update(), "identity updates must be published via the blockchain"),
        (
            pb::PayerEnvelope { target_originator: 200, ..long_update() },
            "invalid target originator",
        ),
        (of_group(frame(1, 2, b"x")), "published via the blockchain"),
        (of_group(frame(1, 3, b"x")), "published via the blockchain"),
        (of_group(trailing), "invalid group message"),
        (of_group(truncated), "invalid group message"),
        (of_group(vec![]), "invalid group message"),
        (
            on_topic(&[0, 1], Payload::GroupMessage(mls::GroupMessageInput { version: None })),
            "invalid group message",
        ),
        (key_package(b"\x00\x01"), "key package validation failed"),
    ]
}

/// Appends one commit, so that dependencies on it can be right and wrong.
fn append_commit(node: &Node) {
    let commit = client(&group_topic(1), None, group_payload(frame(1, 3, b"commit")));
    let event = ChainEvent {
        sequence: SequenceId(1),
        block_time_s: 1_750_000_000,
        transaction_hash: [1; 32],
        client_bytes: commit,
        topic_identifier: None,
        bootstrapped: false,
    };
    node.engine.chain_appender().append(OriginatorId::GROUP_MESSAGES, &[event], None).unwrap();
}

#[tokio::test]
async fn every_rule_refuses_with_its_text() {
    let store = store();
    let node = start(store.clone());
    append_commit(&node);
    for (envelope, text) in refused() {
        match node.engine.publish(vec![envelope]).await {
            Err(PublishError::Refused(refusal)) => {
                assert!(refusal.text.contains(text), "{text}: {refusal}")
            }
            answer => panic!("{text}: {answer:?}"),
        }
    }
    assert_eq!(store.snapshot().head(NODE).unwrap(), SequenceId::NONE);
    let welcome = on_topic(&[1, 9], Payload::WelcomeMessage(Default::default()));
    for accepted in [depending(&[(0, 1)]), retained(2), retained(365), retained(u32::MAX), welcome]
    {
        node.engine.publish(vec![accepted]).await.unwrap();
    }
}

/// Each envelope breaks the rule of its text, and all later ones. A gateway that learns of a dependency which this node
/// lacks asks again, so no other fault may hide behind that one, nor that one behind a payload.
#[tokio::test]
async fn of_several_broken_rules_the_first_one_refuses() {
    let node = start(store());
    append_commit(&node);
    let on = |topic: &[u8], entries: &[(u32, u64)], days| {
        let topic = Topic::parse(Bytes::copy_from_slice(topic)).unwrap();
        let cursor = pb::Cursor { node_id_to_sequence_id: entries.iter().copied().collect() };
        sign(client(&topic, Some(cursor), group_payload(frame(1, 3, b"commit"))), days)
    };
    let of_node = [(0, 2), (100, 1)];
    let mismatch = || on(&[1; 129], &of_node, 1);
    let unsigned = |bytes| pb::PayerEnvelope {
        payer_signature: with_signature(bytes).payer_signature,
        ..mismatch()
    };
    let other_node = || pb::PayerEnvelope { target_originator: 200, ..unsigned(None) };
    let empty = pb::PayerEnvelope { unsigned_client_envelope: Bytes::new(), ..other_node() };
    for (envelope, text) in [
        (empty, "could not unmarshal payer envelope: aad is missing"),
        (other_node(), "invalid target originator"),
        (unsigned(None), "payer signature is missing"),
        (unsigned(Some(vec![0; 65])), "could not recover signer"),
        (mismatch(), "topic does not match payload"),
        (on(&[0; 129], &of_node, 1), "topic has 129 bytes"),
        (on(&[0; 128], &of_node, 1), "a message can not depend on a non-commit"),
        (on(&[0; 128], &[(0, 1), (7, 1)], 1), "has not been seen by this node"),
        (on(&[0; 128], &[(0, 2)], 1), "exceeds last seen sequence id"),
        (on(&[0; 128], &[(0, 1)], 1), "invalid expiry retention days"),
        (on(&[0; 128], &[(0, 1)], 60), "published via the blockchain"),
    ] {
        match node.engine.publish(vec![envelope]).await {
            Err(PublishError::Refused(refusal)) => {
                assert!(refusal.text.contains(text), "{text}: {refusal}");
            }
            answer => panic!("{text}: {answer:?}"),
        }
    }
}

#[tokio::test]
async fn all_refusals_of_a_request_are_told_and_payers_must_not_mix() {
    let node = start(store());
    let missing = node.engine.publish(vec![]).await;
    assert_eq!(missing.unwrap_err().to_string(), "missing payer envelope");

    let batch = vec![with_signature(None), message(1, "x"), of_group(vec![])];
    let Err(PublishError::Refused(refusal)) = node.engine.publish(batch).await else { panic!() };
    assert_eq!(refusal.text.lines().count(), 2, "{refusal}");
    assert!(refusal.text.contains("index 0:") && refusal.text.contains("index 2:"), "{refusal}");
    assert_eq!(refusal.envelopes.iter().map(|it| it.index).collect::<Vec<_>>(), [0, 2]);

    let client = message(1, "y").unsigned_client_envelope;
    let other = PayerEnvelope::sign(client, NODE, 60, &payer(1));
    let Err(PublishError::Refused(refusal)) =
        node.engine.publish(vec![message(1, "x"), other]).await
    else {
        panic!()
    };
    assert!(refusal.text.contains("must be from the same payer"), "{refusal}");
}

/// Signatures of up to 32 envelopes are checked together. Each gets the verdict that it would get alone.
#[tokio::test]
async fn a_wrong_signature_among_many_right_ones_refuses_its_request() {
    let node = start(store());
    let all = || (0..70).map(|at| message(1, &format!("message {at}"))).collect::<Vec<_>>();
    for wrong in [0, 1, 31, 32, 69] {
        let mut unrecoverable = all();
        unrecoverable[wrong].payer_signature = with_signature(Some(vec![0; 65])).payer_signature;
        let Err(PublishError::Refused(refusal)) = node.engine.publish(unrecoverable).await else {
            panic!("{wrong}")
        };
        assert_eq!(refusal.envelopes.iter().map(|it| it.index).collect::<Vec<_>>(), [wrong]);
        assert!(!refusal.text.contains("must be from the same payer"), "{refusal}");

        let mut of_other = all();
        let client = of_other[wrong].unsigned_client_envelope.clone();
        of_other[wrong] = PayerEnvelope::sign(client, NODE, 60, &payer(1));
        // Each of these signatures is valid for another envelope, and recovers to a payer that does not exist.
        let mut swapped = all();
        swapped[wrong].payer_signature = swapped[(wrong + 1) % 70].payer_signature.clone();
        for batch in [of_other, swapped] {
            let Err(PublishError::Refused(refusal)) = node.engine.publish(batch).await else {
                panic!("{wrong}")
            };
            assert!(refusal.text.contains("must be from the same payer"), "{refusal}");
        }
    }
    node.engine.publish(all()).await.unwrap();
}
