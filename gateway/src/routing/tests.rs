//! Tests of the routes of a real client's envelopes, and of envelopes that a client must not send.

use hawser_proto::pb::xmtp::identity::associations::{IdentityAction, IdentityUpdate};
use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::{V1, Version};
use hawser_proto::pb::xmtp::mls::api::v1::{GroupMessageInput, WelcomeMessageInput};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use proptest::prelude::*;
use prost::Message as _;
use serde_json::Value;

use super::*;

fn vectors() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/client/envelopes.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn client(topic: &[u8], payload: Payload) -> Bytes {
    let aad =
        pb::AuthenticatedData { target_topic: Bytes::copy_from_slice(topic), depends_on: None };
    pb::ClientEnvelope { aad: Some(aad), payload: Some(payload) }.encode_to_vec().into()
}

/// Returns the shortest private message of this content type.
fn frame(content_type: u8) -> Vec<u8> {
    let mut frame = vec![0, 1, 0, 2, 16];
    frame.extend([0xaa; 16]);
    frame.extend([0, 0, 0, 0, 0, 0, 0, 1, content_type, 0, 0, 0]);
    frame
}

fn group(id_len: usize, data: Vec<u8>) -> Bytes {
    let v1 = V1 { data: data.into(), ..V1::default() };
    let message = GroupMessageInput { version: Some(Version::V1(v1)) };
    client(&[&[0][..], &vec![0xaa; id_len]].concat(), Payload::GroupMessage(message))
}

fn update_of(inbox_id: String) -> IdentityUpdate {
    let actions = vec![IdentityAction::default()];
    IdentityUpdate { inbox_id, actions, ..IdentityUpdate::default() }
}

fn fault(bytes: Bytes) -> RouteError {
    let fine = group(16, frame(1));
    // All bad envelopes are named, not only the first one.
    let RoutingError(refused) = route(vec![bytes.clone(), fine, bytes], 1000).unwrap_err();
    let places: Vec<usize> = refused.iter().map(|(index, _)| *index).collect();
    assert_eq!(places, [0, 2]);
    assert_eq!(refused[0].1, refused[1].1);
    refused[0].1.clone()
}

#[test]
fn captured_envelopes_go_where_the_real_gateway_sent_them() {
    let vectors = vectors();
    assert!(!vectors.is_empty());
    for vector in vectors {
        let bytes = Bytes::from(hex::decode(vector["hex"].as_str().unwrap()).unwrap());
        let routed = route(vec![bytes.clone()], 200_000).unwrap().remove(0);
        let expected = vector["expect_route"].as_str().unwrap();
        let name = match routed.route {
            Route::Node => "node",
            Route::Chain(ChainTopic::Group(_)) => "chain:group",
            Route::Chain(ChainTopic::Inbox(_)) => "chain:identity",
        };
        assert_eq!(name, expected, "{vector}");
        assert_eq!(routed.bytes, bytes, "the bytes stay as they came");
    }
}

#[test]
fn content_type_decides_between_node_and_chain() {
    let kind = |content_type| route(vec![group(16, frame(content_type))], 0).unwrap()[0].kind;
    assert_eq!(kind(1), PayloadClass::Message);
    assert_eq!(kind(2), PayloadClass::Commit);
    assert_eq!(kind(3), PayloadClass::Commit);
}

/// Returns the shortest public message of a member, whose content begins with its type.
fn public_frame(content: &[u8]) -> Vec<u8> {
    let (group, epoch, sender) = ([0xaa; 16], [0, 0, 0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0]);
    [&[0, 1, 0, 1, 16][..], &group, &epoch, &sender, &[0], content, &[0]].concat()
}

/// The captured messages are all private.
#[test]
fn content_type_decides_for_public_messages_too() {
    let kind = |content: &[u8]| route(vec![group(16, public_frame(content))], 0).unwrap()[0].kind;
    assert_eq!(kind(&[1, 0, 0]), PayloadClass::Message);
    assert_eq!(kind(&[2, 0, 3, 0, 0, 0, 7, 0]), PayloadClass::Commit, "a proposal to remove");
    assert_eq!(kind(&[3, 0, 0, 0, 0]), PayloadClass::Commit);
}

#[test]
fn an_mls_message_is_read_to_its_last_byte() {
    let mut long = frame(1);
    long.push(0);
    assert!(matches!(fault(group(16, long)), RouteError::Violation(Violation::GroupMessage(_))));
    let mut short = frame(1);
    short.pop();
    assert!(matches!(fault(group(16, short)), RouteError::Violation(Violation::GroupMessage(_))));
    let none = Payload::GroupMessage(GroupMessageInput::default());
    assert_eq!(fault(client(&[0, 1], none)), Violation::GroupMessageEmpty.into());
}

#[test]
fn ids_on_the_chain_have_their_lengths() {
    assert_eq!(fault(group(15, frame(3))), RouteError::GroupIdLen(15));
    assert!(route(vec![group(15, frame(1))], 0).is_ok(), "nodes take any length");
    let update = update_of("aa".repeat(31));
    let short = client(&[&[2][..], &[0xaa; 31]].concat(), Payload::IdentityUpdate(update));
    assert_eq!(fault(short), RouteError::InboxIdLen(31));
}

#[test]
fn an_update_is_for_the_inbox_of_its_topic() {
    let of = |inbox_id: String| {
        let update = update_of(inbox_id);
        client(&[&[2][..], &[0xaa; 32]].concat(), Payload::IdentityUpdate(update))
    };
    assert!(route(vec![of("aa".repeat(32))], 0).is_ok());
    assert_eq!(fault(of("ab".repeat(32))), RouteError::OtherInbox);
    for other in ["AA".repeat(32), format!("{}A", "a".repeat(63)), format!("0x{}", "aa".repeat(32))]
    {
        assert_eq!(
            fault(of(other.clone())),
            RouteError::OtherInbox,
            "{other}: nodes mark it invalid"
        );
    }
}

#[test]
fn envelopes_that_no_originator_accepts_are_refused() {
    let welcome = || Payload::WelcomeMessage(WelcomeMessageInput::default());
    assert_eq!(fault(client(&[0, 1], welcome())), Violation::TopicMismatch.into());
    assert_eq!(fault(client(&[1; 129], welcome())), Violation::TopicTooLong(129).into());
    assert!(matches!(fault(client(&[9, 1], welcome())), RouteError::Layer(_)));
    assert!(matches!(fault(Bytes::from_static(b"\xff")), RouteError::Layer(_)));
    let report = Payload::PayerReport(pb::PayerReport::default());
    assert_eq!(fault(client(&[4, 100, 0, 0, 0], report)), Violation::Reserved.into());
    let long = [frame(3), vec![0; 2000]].concat();
    assert!(matches!(fault(group(16, long)), RouteError::Violation(Violation::GroupMessage(_))));
}

#[test]
fn only_chain_envelopes_can_be_depended_on() {
    let with = |originator: u32| {
        let aad = pb::AuthenticatedData {
            target_topic: Bytes::from_static(&[1, 1]),
            depends_on: Some(pb::Cursor { node_id_to_sequence_id: [(originator, 7)].into() }),
        };
        let payload = Some(Payload::WelcomeMessage(WelcomeMessageInput::default()));
        Bytes::from(pb::ClientEnvelope { aad: Some(aad), payload }.encode_to_vec())
    };
    assert!(route(vec![with(0)], 0).is_ok());
    assert!(matches!(fault(with(100)), RouteError::Violation(Violation::DependsOnNode(_))));
}

#[test]
fn payloads_that_are_too_long_for_the_chain_are_refused_and_for_nodes_they_are_not() {
    let mut data = frame(3);
    data.truncate(data.len() - 1);
    data.extend([0x47, 0xd0]); // a ciphertext of 2000 bytes
    data.extend([7; 2000]);
    let RouteError::TooLongForChain { len, max: 1000 } = fault(group(16, data.clone())) else {
        panic!("taken")
    };
    assert!(len > 2000);
    let content_type = data.len() - 2000 - 2 - 2 - 1;
    assert_eq!(data[content_type], 3);
    data[content_type] = 1;
    assert!(route(vec![group(16, data)], 1000).is_ok());
}

proptest! {
    #[test]
    fn any_bytes_are_routed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = route(vec![bytes.into()], 100);
    }

    #[test]
    fn whatever_is_changed_in_a_real_envelope_it_is_routed_or_refused(
        pick in any::<proptest::sample::Index>(),
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let vectors = vectors();
        let vector = pick.get(&vectors);
        let mut bytes = hex::decode(vector["hex"].as_str().unwrap()).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let given = Bytes::from(bytes);
        if let Ok(routed) = route(vec![given.clone()], 200_000) {
            prop_assert_eq!(&routed[0].bytes, &given);
        }
    }
}
