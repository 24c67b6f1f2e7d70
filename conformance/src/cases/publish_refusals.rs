//! Publishing envelopes that break a rule: one case for each group of refusals.

use bytes::Bytes;
use hawser_proto::envelope::{PayerEnvelope, Payload};
use hawser_proto::pb::xmtp::identity::associations as identity;
use hawser_proto::pb::xmtp::mls::api::v1 as mls;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{OriginatorId, SecretKey};
use tonic::Code;

use crate::case::Need::{Load, Payer};
use crate::case::{Area, Case};
use crate::case_error::{CaseError, Checked, ensure, refused};
use crate::context::{JudgedNodes, heads, id_of, same_envelopes};
use crate::envelopes::{client, cursor, frame, group_payload, message, new_group, new_welcomes};

const AREA: Area = Area::Errors;
const RULES: &str = "docs/protocol/rules.md#what-a-node-may-sign";
const AT_PUBLISH: &str = "docs/protocol/rules.md#at-publish";
const PUBLISHING: &str = "docs/protocol/api.md#publishing";
const FRAMES: &str = "docs/protocol/mls-framing.md#group-messages";

pub(super) const CASES: &[Case] = &[
    Case::new(
        AREA,
        "publish-undecodable",
        "an envelope whose layers do not decode, or lack their parts, is refused",
        RULES,
        |c| Box::pin(undecodable(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "publish-wrong-target",
        "an envelope for another originator is refused",
        RULES,
        |c| Box::pin(wrong_target(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "publish-bad-signature",
        "an envelope without a payer's signature that recovers a key is refused",
        RULES,
        |c| Box::pin(bad_signature(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "publish-topic-mismatch",
        "a topic whose kind and payload do not belong together is refused",
        RULES,
        |c| Box::pin(topic_mismatch(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "publish-depends-on-node",
        "a dependency on an envelope of a node is refused",
        RULES,
        |c| Box::pin(depends_on_node(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "publish-depends-on-unseen",
        "a dependency on a strand that the node does not have is refused",
        AT_PUBLISH,
        |c| Box::pin(depends_on_unseen(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "publish-depends-on-later",
        "a dependency on a place that the node has not read is refused",
        AT_PUBLISH,
        |c| Box::pin(depends_on_later(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "publish-bad-retention",
        "a retention that is neither 2 to 365 days nor infinite is refused",
        RULES,
        |c| Box::pin(bad_retention(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "publish-reserved-topic",
        "payer reports and attestations are refused",
        RULES,
        |c| Box::pin(reserved(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "publish-identity-update",
        "an identity update is refused, because a chain orders it",
        RULES,
        |c| Box::pin(identity_update(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "publish-commit",
        "commits and proposals are refused, because a chain orders them",
        RULES,
        |c| Box::pin(commit(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "publish-bad-group-message",
        "a group message that is not exactly one MLS message of a group with an id of 16 bytes is refused",
        FRAMES,
        |c| Box::pin(bad_group_message(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "publish-bad-key-package",
        "a key package that does not parse or validate is refused",
        RULES,
        |c| Box::pin(bad_key_package(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "publish-two-payers",
        "envelopes of two payers in one request are refused",
        AT_PUBLISH,
        |c| Box::pin(two_payers(c)),
    )
    .needs(&[Payer]),
    Case::new(AREA, "publish-nothing", "a request without envelopes is refused", PUBLISHING, |c| {
        Box::pin(nothing(c))
    })
    .needs(&[Payer]),
    Case::new(
        AREA,
        "publish-all-or-nothing",
        "one broken envelope refuses its whole request, which names its index; nothing is \
         stored and no place is used up",
        AT_PUBLISH,
        |c| Box::pin(all_or_nothing(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "publish-names-every-fault",
        "a refusal names all broken envelopes of the request",
        AT_PUBLISH,
        |c| Box::pin(every_fault(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "publish-long-topic",
        "a topic of more than 128 bytes, which no query could name, is refused",
        RULES,
        |c| Box::pin(long_topic(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "refusals-have-details",
        "a refusal of a publish has google.rpc details that name the envelope",
        "docs/protocol/api.md#errors",
        |c| Box::pin(details(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "the-edges-are-accepted",
        "what is just within each rule is accepted",
        RULES,
        |c| Box::pin(edges(c)),
    )
    .needs(&[Payer]),
    Case::new(
        AREA,
        "long-retentions-are-accepted",
        "retentions of a year and without an end are accepted",
        RULES,
        |c| Box::pin(long_retentions(c)),
    )
    .needs(&[Payer, Load]),
];

/// Checks that the target refuses an envelope with INVALID_ARGUMENT and this text.
async fn refuses(c: &JudgedNodes, what: &str, envelope: pb::PayerEnvelope, text: &str) -> Checked {
    refused(what, c.try_publish(vec![envelope]).await, Code::InvalidArgument, text).map(|_| ())
}

async fn refuses_client(c: &JudgedNodes, what: &str, client: Bytes, text: &str) -> Checked {
    refuses(c, what, c.sign(client)?, text).await
}

/// Returns the payload of a good message to a group's topic.
fn payload(topic: &[u8]) -> Option<Payload> {
    Some(group_payload(frame(&topic[1..], 1, 40)))
}

async fn undecodable(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let layer = "could not unmarshal payer envelope";
    refuses_client(c, "bytes that are no protobuf", Bytes::from_static(&[0xff; 9]), layer).await?;
    refuses_client(c, "a length beyond the end", Bytes::from_static(&[0x0a, 0x7f, 1]), layer)
        .await?;
    refuses_client(c, "no client envelope", Bytes::new(), "aad is missing").await?;
    refuses_client(c, "no payload", client(&topic, None, None), "payload is missing").await?;
    for (what, topic, text) in [
        ("no topic", &[][..], "topic must be at least 2 bytes long"),
        ("a topic of its kind only", &[0], "topic must be at least 2 bytes long"),
        ("a topic of an unknown kind", &[6, 1], "unknown topic kind 6"),
    ] {
        refuses_client(c, what, client(topic, None, payload(&[0, 1])), text).await?;
    }
    Ok(())
}

async fn wrong_target(c: &JudgedNodes) -> Checked {
    let own = c.node()?.0;
    for target in [0, own.wrapping_add(1), own.wrapping_add(100), u32::MAX] {
        let client = message(&new_group());
        let envelope = PayerEnvelope::sign(client, OriginatorId(target), 2, c.payer()?);
        refuses(c, &format!("target {target}"), envelope, "invalid target originator").await?;
    }
    Ok(())
}

async fn bad_signature(c: &JudgedNodes) -> Checked {
    let mut missing = c.sign(message(&new_group()))?;
    missing.payer_signature = None;
    refuses(c, "no signature", missing, "payer signature is missing").await?;
    let broken: [(&str, Vec<u8>); 4] = [
        ("an empty signature", Vec::new()),
        ("a signature without its recovery id", vec![1; 64]),
        ("a signature with a byte more", vec![1; 66]),
        ("a signature of zeros", vec![0; 65]),
    ];
    for (what, bytes) in broken {
        let mut envelope = c.sign(message(&new_group()))?;
        envelope.payer_signature = Some(pb_signature(bytes));
        refuses(c, what, envelope, "").await?;
    }
    let mut envelope = c.sign(message(&new_group()))?;
    let mut bytes = envelope.payer_signature.take().unwrap_or_default().bytes.to_vec();
    let last = bytes.len() - 1;
    bytes[last] += 27;
    envelope.payer_signature = Some(pb_signature(bytes));
    refuses(c, "a recovery id as in transactions", envelope, "").await
}

fn pb_signature(bytes: Vec<u8>) -> identity::RecoverableEcdsaSignature {
    identity::RecoverableEcdsaSignature { bytes: bytes.into() }
}

async fn topic_mismatch(c: &JudgedNodes) -> Checked {
    let text = "topic does not match payload";
    let (group, welcomes) = (new_group(), new_welcomes());
    refuses_client(c, "a message for welcomes", client(&welcomes, None, payload(&group)), text)
        .await?;
    let welcome = Some(Payload::WelcomeMessage(mls::WelcomeMessageInput::default()));
    refuses_client(c, "a welcome for a group", client(&group, None, welcome), text).await
}

async fn depends(c: &JudgedNodes, what: &str, on: &[(u32, u64)], text: &str) -> Checked {
    let topic = new_group();
    let client = client(&topic, Some(cursor(on.iter().copied())), payload(&topic));
    refuses_client(c, what, client, text).await
}

async fn depends_on_node(c: &JudgedNodes) -> Checked {
    let text = "a message can not depend on a non-commit";
    let own = c.node()?.0;
    depends(c, "after a message of this node", &[(own, 1)], text).await?;
    depends(c, "after a message of another node", &[(100, 1)], text).await
}

async fn depends_on_unseen(c: &JudgedNodes) -> Checked {
    // An id between those of chains, of the older network and of nodes: no strand has it.
    depends(c, "after an unknown strand", &[(42, 1)], "has not been seen by this node").await
}

async fn depends_on_later(c: &JudgedNodes) -> Checked {
    let heads = heads(&c.target).await?;
    let has_commits = heads.node_id_to_sequence_id.get(&0).is_some_and(|head| *head > 0);
    // The last word is left out because xmtpd writes it in capitals.
    let text = if has_commits { "exceeds last seen sequence" } else { "" };
    depends(c, "after a commit that is far from here", &[(0, i64::MAX.unsigned_abs())], text).await
}

async fn bad_retention(c: &JudgedNodes) -> Checked {
    for days in [0, 1, 366, u32::MAX - 1] {
        let envelope = PayerEnvelope::sign(message(&new_group()), c.node()?, days, c.payer()?);
        refuses(c, &format!("{days} days"), envelope, "invalid expiry retention days").await?;
    }
    Ok(())
}

async fn reserved(c: &JudgedNodes) -> Checked {
    let text = "reserved topics cannot be published to by gateways";
    let report = Some(Payload::PayerReport(pb::PayerReport::default()));
    refuses_client(c, "a payer report", client(&[4, 100, 0, 0, 0], None, report), text).await?;
    let attestation = Some(Payload::PayerReportAttestation(pb::PayerReportAttestation::default()));
    refuses_client(c, "an attestation", client(&[5, 100, 0, 0, 0], None, attestation), text).await
}

async fn identity_update(c: &JudgedNodes) -> Checked {
    let update = Some(Payload::IdentityUpdate(identity::IdentityUpdate::default()));
    let client = client(&[2; 33], None, update);
    refuses_client(
        c,
        "an identity update",
        client,
        "identity updates must be published via the blockchain",
    )
    .await
}

async fn commit(c: &JudgedNodes) -> Checked {
    for (what, content_type) in [("a proposal", 2), ("a commit", 3)] {
        let topic = new_group();
        let data = frame(&topic[1..], content_type, 40);
        let client = client(&topic, None, Some(group_payload(data)));
        refuses_client(c, what, client, "published via the blockchain").await?;
    }
    Ok(())
}

async fn bad_group_message(c: &JudgedNodes) -> Checked {
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, Change); 8] = [
        ("no MLS message", Vec::clear),
        ("a header only", |frame| frame.truncate(12)),
        ("MLS 2", |frame| frame[1] = 2),
        ("an MLS welcome", |frame| frame[3] = 3),
        ("a group id of 2^62 bytes", |frame| drop(frame.splice(4..5, [0xff; 8]))),
        ("a message that is cut off", |frame| frame.truncate(frame.len() - 1)),
        ("a message and a byte", |frame| frame.push(0)),
        ("a group id of 15 bytes", |frame| drop(frame.splice(4..6, [15]))),
    ];
    for (number, (what, change)) in changes.into_iter().enumerate() {
        let topic = new_group();
        let mut data = frame(&topic[1..], 1, 40);
        change(&mut data);
        let envelope = c.sign(client(&topic, None, Some(group_payload(data))))?;
        match refuses(c, what, envelope, "invalid group message").await {
            // In the last three the header is complete.
            Err(failure) if number >= 5 && failure.got == "OK" => {
                let software = "xmtpd 1.3: it reads the header of a message only";
                return Err(CaseError::known(software, failure.expected, failure.got));
            }
            Err(failure) if number == 4 && failure.got.contains("h2 protocol error") => {
                let software = "xmtpd 1.3: the stream breaks";
                return Err(CaseError::known(software, failure.expected, failure.got));
            }
            other => other?,
        }
    }
    let nothing = Payload::GroupMessage(mls::GroupMessageInput { version: None });
    refuses_client(
        c,
        "a message of no version",
        client(&new_group(), None, Some(nothing)),
        "invalid group message",
    )
    .await
}

async fn bad_key_package(c: &JudgedNodes) -> Checked {
    let installation: [u8; 32] = rand::random();
    let topic = [&[3][..], &installation].concat();
    for (what, package) in [
        ("no key package", None),
        ("an empty key package", Some(Bytes::new())),
        ("noise", Some(Bytes::from_static(&[0xff; 300]))),
    ] {
        let key_package = package
            .map(|key_package_tls_serialized| mls::KeyPackageUpload { key_package_tls_serialized });
        let upload = mls::UploadKeyPackageRequest { key_package, is_inbox_id_credential: true };
        let client = client(&topic, None, Some(Payload::UploadKeyPackage(upload)));
        refuses_client(c, what, client, "key package").await?;
    }
    Ok(())
}

async fn two_payers(c: &JudgedNodes) -> Checked {
    let stranger = stranger()?;
    let other = PayerEnvelope::sign(message(&new_group()), c.node()?, 2, &stranger);
    let both = vec![c.sign(message(&new_group()))?, other];
    let answer = c.try_publish(both).await;
    refused("two payers", answer, Code::InvalidArgument, "must be from the same payer").map(|_| ())
}

/// Returns a new random key, which no registry has and whose address has no balance.
pub(super) fn stranger() -> Checked<SecretKey> {
    SecretKey::from_bytes(&rand::random()).map_err(|_| CaseError::skip("the dice gave no key"))
}

async fn nothing(c: &JudgedNodes) -> Checked {
    let answer = c.try_publish(Vec::new()).await;
    refused("no envelopes", answer, Code::InvalidArgument, "missing payer envelope").map(|_| ())
}

async fn all_or_nothing(c: &JudgedNodes) -> Checked {
    let topic = new_group();
    let before = c.send(&topic, 1).await?;
    let mut broken = c.sign(message(&topic))?;
    broken.message_retention_days = 1;
    let answer =
        c.try_publish(vec![c.sign(message(&topic))?, broken, c.sign(message(&topic))?]).await;
    let status = refused("one of three", answer, Code::InvalidArgument, "index 1")?;
    let names_others = status.message().contains("index 0") || status.message().contains("index 2");
    ensure(!names_others, "the broken envelope alone", || status.message().to_owned())?;
    let read = c.query(&c.target, &[&topic], None, 0).await?;
    same_envelopes("the topic afterwards", &before, &read)?;
    let after = id_of(&c.send(&topic, 1).await?[0])?;
    ensure(after > id_of(&before[0])?, "a later place", || after.to_string())
}

async fn every_fault(c: &JudgedNodes) -> Checked {
    let mut three = Vec::new();
    for _ in 0..3 {
        three.push(c.sign(message(&new_group()))?);
    }
    three[0].message_retention_days = 1;
    three[2].payer_signature = None;
    let status = refused(
        "two of three",
        c.try_publish(three).await,
        Code::InvalidArgument,
        "error processing payer envelopes:",
    )?;
    for text in
        ["index 0", "invalid expiry retention days", "index 2", "payer signature is missing"]
    {
        ensure(status.message().contains(text), format_args!("{text:?} in the text"), || {
            status.message().to_owned()
        })?;
    }
    Ok(())
}

async fn long_topic(c: &JudgedNodes) -> Checked {
    let topic = [&[0][..], &[7; 128]].concat();
    let envelope = c.sign(client(&topic, None, payload(&topic)))?;
    match refuses(c, "129 bytes", envelope, "").await {
        Err(failure) if failure.got == "OK" => {
            Err(CaseError::known("xmtpd 1.3: it has no bound", failure.expected, failure.got))
        }
        other => other,
    }
}

async fn details(c: &JudgedNodes) -> Checked {
    let mut broken = c.sign(message(&new_group()))?;
    broken.message_retention_days = 1;
    let both = vec![c.sign(message(&new_group()))?, broken];
    let status =
        refused("the second of two", c.try_publish(both).await, Code::InvalidArgument, "index 1")?;
    let text = String::from_utf8_lossy(status.details()).into_owned();
    if text.is_empty() {
        return Err(CaseError::known(
            "xmtpd 1.3: it sends no details",
            "google.rpc details",
            "none",
        ));
    }
    for part in ["google.rpc.ErrorInfo", "google.rpc.BadRequest", "payer_envelopes[1]"] {
        ensure(text.contains(part), format_args!("{part} in the details"), || text.clone())?;
    }
    Ok(())
}

async fn edges(c: &JudgedNodes) -> Checked {
    let mut longest = vec![0];
    longest.extend(rand::random::<[u8; 32]>().repeat(4));
    longest.truncate(128);
    for topic in [longest, vec![0, rand::random()]] {
        let answer = c.publish(vec![c.sign(client(&topic, None, payload(&topic)))?]).await;
        answer.map_err(|failure| failure.at(format_args!("a topic of {} bytes", topic.len())))?;
    }
    let topic = new_group();
    let none = c.sign(client(&topic, Some(cursor([])), payload(&topic)))?;
    c.publish(vec![none]).await.map_err(|failure| failure.at("an empty depends_on")).map(|_| ())
}

async fn long_retentions(c: &JudgedNodes) -> Checked {
    for days in [365, u32::MAX] {
        let envelope = PayerEnvelope::sign(message(&new_group()), c.node()?, days, c.payer()?);
        c.publish(vec![envelope])
            .await
            .map_err(|failure| failure.at(format_args!("{days} days")))?;
    }
    Ok(())
}
