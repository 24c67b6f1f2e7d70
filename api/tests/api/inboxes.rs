//! The inboxes of addresses.

use hawser_proto::pb::xmtp::identity::associations::identity_action::Kind as Action;
use hawser_proto::pb::xmtp::identity::associations::{
    AddAssociation, CreateInbox, IdentifierKind, MemberIdentifier, RevokeAssociation,
    member_identifier,
};
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_serve::MESSAGE_LEN_BYTES_MAX;
use prost::Message as _;
use tonic::Code;

use crate::common::*;

fn text(name: u8) -> String {
    format!("0x{}", hex::encode([name; 20]))
}

fn member(name: u8) -> Option<MemberIdentifier> {
    Some(MemberIdentifier { kind: Some(member_identifier::Kind::EthereumAddress(text(name))) })
}

fn create(name: u8) -> Action {
    Action::CreateInbox(CreateInbox { initial_identifier: text(name), ..Default::default() })
}

fn asking(identifiers: &[&str]) -> pb::GetInboxIdsRequest {
    use pb::get_inbox_ids_request::Request;
    let kinds = [IdentifierKind::Unspecified, IdentifierKind::Ethereum, IdentifierKind::Passkey];
    let request = |(place, identifier): (usize, &&str)| Request {
        identifier: (*identifier).to_owned(),
        identifier_kind: kinds[place % kinds.len()].into(),
    };
    pb::GetInboxIdsRequest { requests: identifiers.iter().enumerate().map(request).collect() }
}

#[tokio::test]
async fn identifiers_are_answered_in_place_and_as_they_were_written() {
    let node = node().await;
    let add = AddAssociation { new_member_identifier: member(0xb1), ..Default::default() };
    node.update_on_chain(1, 1, vec![create(0xa1), Action::Add(add)]);
    let create_passkey = CreateInbox {
        initial_identifier: text(0xc1),
        initial_identifier_kind: IdentifierKind::Passkey.into(),
        ..CreateInbox::default()
    };
    node.update_on_chain(2, 2, vec![Action::CreateInbox(create_passkey)]);

    let (one, other) = (text(0xa1), text(0xb1));
    let (unknown, passkey, shouted) = (text(0xd1), text(0xc1), one.to_uppercase());
    let asked = [
        &*other,
        &one,
        &unknown,
        &one,
        "",
        "0x",
        "nonsense\u{1f980}",
        &passkey,
        &shouted,
        &one[2..],
    ];
    let inbox = Some(hex::encode([1; 32]));
    let expected: Vec<_> = asked
        .iter()
        .map(|&text| (text.to_owned(), inbox.clone().filter(|_| text == one || text == other)))
        .collect();
    let rows = |answer: pb::GetInboxIdsResponse| -> Vec<_> {
        assert!(answer.responses.iter().all(|it| it.identifier_kind == 0));
        answer.responses.into_iter().map(|it| (it.identifier, it.inbox_id)).collect()
    };
    let answer = node.query().await.get_inbox_ids(asking(&asked)).await.unwrap();
    assert_eq!(rows(answer.into_inner()), expected);
    let answer = node.replication().await.get_inbox_ids(asking(&asked)).await.unwrap();
    assert_eq!(rows(answer.into_inner()), expected);

    let revoke = RevokeAssociation { member_to_revoke: member(0xb1), ..Default::default() };
    node.update_on_chain(3, 1, vec![Action::Revoke(revoke)]);
    let answer = node.query().await.get_inbox_ids(asking(&[&other, &one])).await.unwrap();
    assert_eq!(rows(answer.into_inner()), [(other, None), (one, inbox)]);
    let measured = r#"db_query_duration_seconds_count{query="inboxes",op="read"}"#;
    assert_eq!(node.sample(measured).await, Some(3.0));
    let counted = r#"grpc_server_handled_total{grpc_type="unary",grpc_service="xmtp.xmtpv4.message_api.QueryApi",grpc_method="GetInboxIds",grpc_code="code_0"}"#;
    assert_eq!(node.sample(counted).await, Some(2.0));
}

#[tokio::test]
async fn a_thousand_identifiers_may_be_asked_for_at_once() {
    let node = node().await;
    let mut client = node.query().await;
    let answer = client.get_inbox_ids(asking(&["0x"; 1000])).await.unwrap();
    assert_eq!(answer.into_inner().responses.len(), 1000);
    let none = client.get_inbox_ids(asking(&[])).await.unwrap();
    assert_eq!(none.into_inner().responses, []);
    let refused = client.get_inbox_ids(asking(&["0x"; 1001])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("too many requests"), "{}", refused.message());
}

/// An identifier may be as long as a request. What is found makes the answer longer than that.
#[tokio::test]
async fn an_answer_that_is_longer_than_a_message_is_refused_by_name() {
    let node = node().await;
    node.update_on_chain(1, 1, vec![create(0xa1)]);
    let known = text(0xa1);
    let mut request = asking(&[&*known; 900]);
    // Its own head takes some bytes.
    let len_bytes = MESSAGE_LEN_BYTES_MAX - request.encoded_len() - 32;
    request.requests.extend(asking(&[&"x".repeat(len_bytes)]).requests);
    assert!(request.encoded_len() <= MESSAGE_LEN_BYTES_MAX);
    let refused = node.query().await.get_inbox_ids(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let details = String::from_utf8_lossy(refused.details());
    assert!(details.contains("ANSWER_TOO_LARGE"), "{refused}");
}
