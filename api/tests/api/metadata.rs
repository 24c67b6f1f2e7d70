//! Metadata: cursor, version, usage of payers.

use std::sync::Arc;

use hawser_api::{ApiSettings, NoPeers};
use hawser_engine::ledger::{LedgerAction, LedgerEvent, LedgerMicroDollars};
use hawser_proto::pb::xmtp::xmtpv4::metadata_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_client::MetadataApiClient;
use hawser_proto::price::SettledAmount;
use hawser_proto::{SecretKey, SequenceId, minute_of};
use hawser_storage::{ChainPosition, LedgerEventId, PayerReportChange, PayerReportEvent};
use tonic::Code;

use crate::common::*;

#[tokio::test]
async fn the_cursor_is_that_of_the_log() {
    let node = node().await;
    let mut client = MetadataApiClient::new(node.channel().await);
    let mut cursor = async || {
        let answer = client.get_sync_cursor(pb::GetSyncCursorRequest {}).await.unwrap();
        answer.into_inner().latest_sync.unwrap()
    };
    assert_eq!(cursor().await, wire_cursor([]));
    node.publish(vec![message(1, "a"), message(1, "b")]).await;
    node.commit_on_chain(1, 1);
    assert_eq!(cursor().await, wire_cursor([(0, 1), (100, 2)]));
}

#[tokio::test]
async fn a_follower_of_the_cursor_ends_with_the_newest() {
    let node = node().await;
    let mut client = MetadataApiClient::new(node.channel().await);
    let stream = client.subscribe_sync_cursor(pb::GetSyncCursorRequest {}).await.unwrap();
    let mut stream = stream.into_inner();
    let mut cursor = async || stream.message().await.unwrap().unwrap().latest_sync.unwrap();
    assert_eq!(cursor().await, wire_cursor([]));
    for text in 0..20 {
        node.publish(vec![message(1, &text.to_string())]).await;
    }
    let mut last = 0;
    while last < 20 {
        let next = cursor().await.node_id_to_sequence_id[&100];
        assert!(next > last, "{next} after {last}");
        last = next;
    }
}

#[tokio::test]
async fn the_version_is_told() {
    let node = node().await;
    let mut client = MetadataApiClient::new(node.channel().await);
    let version = client.get_version(pb::GetVersionRequest {}).await.unwrap().into_inner();
    assert_eq!(version.version, "1.2.3");
}

fn payer_request(addresses: &[&str], granularity: i32) -> pb::GetPayerInfoRequest {
    let payer_addresses = addresses.iter().map(|&text| text.to_owned()).collect();
    pb::GetPayerInfoRequest { payer_addresses, granularity }
}

#[tokio::test]
async fn usage_is_by_hour_or_day_under_the_requested_names() {
    let node = node().await;
    let mut client = MetadataApiClient::new(node.channel().await);
    let one = |text: &str| vec![sign_as(client_of(text), 1, 60)];
    node.publish(one("a")).await;
    node.publish(one("b")).await;
    node.clock.advance(3600);
    node.publish(one("c")).await;
    node.publish(vec![sign_as(client_of("d"), 2, 60)]).await;
    let charged = |payer: u8| SecretKey::from_bytes(&[payer + 10; 32]).unwrap();
    let [first, second] = [1, 2].map(|payer| charged(payer).public_key().address().to_string());
    let lower = first.trim_start_matches("0x").to_lowercase();

    let mut asked = async |granularity| {
        let request = payer_request(&[&first, &lower, &second], granularity);
        client.get_payer_info(request).await.unwrap().into_inner().payer_info
    };
    let hours = asked(0).await;
    assert_eq!(hours, asked(1).await, "hours unless something else is asked for");
    assert_eq!(hours.len(), 3);
    assert_eq!(hours[&first], hours[&lower]);
    let periods = &hours[&first].period_summaries;
    let starts: Vec<_> = periods.iter().map(|it| it.period_start_unix_seconds).collect();
    assert_eq!(starts, [1_749_999_600, 1_750_003_200], "the UTC hours of the two moments");
    assert_eq!(periods.iter().map(|it| it.num_messages).collect::<Vec<_>>(), [2, 1]);
    assert!(periods[0].amount_spent_picodollars > periods[1].amount_spent_picodollars);
    assert_eq!(hours[&second].period_summaries.len(), 1);

    let days = &asked(2).await[&first].period_summaries;
    assert_eq!(days.len(), 1);
    assert_eq!(days[0].period_start_unix_seconds, 1_749_945_600);
    assert_eq!(days[0].num_messages, 3);
    let spent: u64 = periods.iter().map(|it| it.amount_spent_picodollars).sum();
    assert_eq!(days[0].amount_spent_picodollars, spent);
}

/// Returns the events of a report about this node's strand through a minute, and of its complete settlement.
fn settled_report(end_minute: u32, through: u64) -> [PayerReportEvent; 2] {
    let submitted = PayerReportChange::Submitted {
        start: SequenceId(0),
        end: SequenceId(through),
        end_minute,
        root: [7; 32],
        nodes: vec![NODE],
    };
    let settled = PayerReportChange::Settled { leaves: 1, left: 0, microdollars: SettledAmount(1) };
    [(0, submitted), (1, settled)].map(|(log_index, change)| PayerReportEvent {
        block: 1,
        log_index,
        originator: NODE,
        index: 0,
        change,
    })
}

#[tokio::test]
async fn settled_usage_stands_apart_from_what_is_still_owed() {
    let node = node().await;
    let mut client = MetadataApiClient::new(node.channel().await);
    let one = |text: &str| vec![sign_as(client_of(text), 1, 60)];
    node.publish(one("a")).await;
    node.clock.advance(60);
    node.publish(one("b")).await;
    let payer = SecretKey::from_bytes(&[11; 32]).unwrap().public_key().address().to_string();
    let mut summary = async || {
        let request = payer_request(&[&payer], 0);
        let answer = client.get_payer_info(request).await.unwrap().into_inner();
        let periods = answer.payer_info[&payer].period_summaries.clone();
        <[_; 1]>::try_from(periods).expect("one hour")
    };
    let [before] = summary().await;
    assert_eq!((before.num_messages, before.settled_num_messages), (2, 0));
    assert_eq!(before.settled_picodollars, 0);

    let first_minute = minute_of(START_NS);
    let events = settled_report(first_minute, 1);
    let position = ChainPosition { block: 1, hash: [1; 32] };
    node.engine.store().record_payer_reports(0, &events, position).unwrap();
    let [after] = summary().await;
    assert_eq!((after.num_messages, after.settled_num_messages), (1, 1));
    assert!(after.settled_picodollars > 0 && after.amount_spent_picodollars > 0);
    let sum = after.amount_spent_picodollars + after.settled_picodollars;
    assert_eq!(sum, before.amount_spent_picodollars, "nothing is lost or counted twice");

    let events = settled_report(first_minute + 1, 2);
    node.engine.store().record_payer_reports(0, &events, position).unwrap();
    let [all] = summary().await;
    assert_eq!((all.amount_spent_picodollars, all.num_messages), (0, 0));
    assert_eq!(all.settled_picodollars, before.amount_spent_picodollars);
}

/// A payer learns from any node what it can still spend, once the node knows its deposits.
#[tokio::test]
async fn the_balance_and_what_is_available_of_it_are_told_once_they_are_known() {
    let node = node().await;
    let mut client = MetadataApiClient::new(node.channel().await);
    node.publish(vec![sign_as(client_of("a"), 1, 60)]).await;
    let payer = SecretKey::from_bytes(&[11; 32]).unwrap().public_key().address();
    let deposit = LedgerEvent {
        id: LedgerEventId([1; 32]),
        block: 1,
        payer,
        action: LedgerAction::Deposit(LedgerMicroDollars(5)),
    };
    let (name, position) = (payer.to_string(), ChainPosition { block: 1, hash: [1; 32] });
    node.engine.ledger_appender().append(0, std::slice::from_ref(&deposit), position).unwrap();
    let mut info = async || {
        let answer = client.get_payer_info(payer_request(&[&name], 0)).await.unwrap();
        answer.into_inner().payer_info.remove(&name).unwrap()
    };
    let early = info().await;
    assert_eq!((early.balance_picodollars, early.available_picodollars), (None, None));
    node.engine.store().note_payers_read(position).unwrap();
    node.engine.store().note_payer_reports_read(position).unwrap();
    let known = info().await;
    let unsettled = i64::try_from(known.period_summaries[0].amount_spent_picodollars).unwrap();
    assert!(unsettled > 0);
    assert_eq!(known.balance_picodollars, Some(5_000_000));
    assert_eq!(known.available_picodollars, Some(5_000_000 - unsettled), "may be below 0");

    let events = settled_report(minute_of(START_NS), 1);
    node.engine.store().record_payer_reports(0, &events, position).unwrap();
    let early = info().await;
    assert_eq!(early.available_picodollars, known.available_picodollars, "it is in no ledger yet");
    let action = LedgerAction::UsageSettled(LedgerMicroDollars(1));
    let settled = LedgerEvent { id: LedgerEventId([2; 32]), action, ..deposit.clone() };
    node.engine.ledger_appender().append(0, &[deposit, settled], position).unwrap();
    assert_eq!(info().await.available_picodollars, Some(4_000_000), "no fee is owed any more");
}

fn client_of(text: &str) -> hawser_proto::Bytes {
    client(&group_topic(1), None, group_payload(frame(1, 1, text.as_bytes())))
}

#[tokio::test]
async fn unknown_payers_and_malformed_requests_are_refused() {
    let node = node().await;
    node.publish(vec![message(1, "a")]).await;
    let known = SecretKey::from_bytes(&[10; 32]).unwrap().public_key().address().to_string();
    let unknown = "0x0000000000000000000000000000000000000001";
    let mut client = MetadataApiClient::new(node.channel().await);
    let many = vec![known.as_str(); 1001];
    let cases = [
        (payer_request(&[], 0), Code::InvalidArgument, "payer_addresses cannot be empty"),
        (payer_request(&[&known], 9), Code::InvalidArgument, "granularity 9"),
        (payer_request(&many, 0), Code::InvalidArgument, "at most 1000"),
        (payer_request(&[&known, "0x12"], 0), Code::NotFound, "0x12"),
        (payer_request(&[&known, unknown], 0), Code::NotFound, unknown),
    ];
    for (request, code, text) in cases {
        let refused = client.get_payer_info(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(text), "{refused}");
    }
    let long = "z".repeat(100_000);
    let refused = client.get_payer_info(payer_request(&[&long], 0)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    assert!(refused.message().len() < 200, "the beginning of a long name: {refused}");
    assert!(client.get_payer_info(payer_request(&[&known], 0)).await.is_ok());
}

/// The last 20 bytes of a name count, so each payer has names of any length. The request has their bytes, and they are
/// copied once for the decoded form and once into the answer: here two of the three fit.
#[tokio::test]
async fn long_names_of_payers_are_charged_in_the_request_and_in_the_answer() {
    const MIB: usize = 1024 * 1024;
    let budget = |settings: &mut ApiSettings| settings.callers_bytes_max = 32 * MIB;
    let node = node_with(budget, Arc::new(NoPeers)).await;
    node.publish(vec![message(1, "a")]).await;
    let known = SecretKey::from_bytes(&[10; 32]).unwrap().public_key().address().to_string();
    let digits = known.trim_start_matches("0x");
    let mut client = MetadataApiClient::new(node.channel().await)
        .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX);
    let mut asked = async |len_bytes: usize| {
        let zeros = "0".repeat(len_bytes / 1000 - 44);
        let names = (0..1000).map(|number| format!("{number:04}{zeros}{digits}"));
        let payer_addresses = names.collect();
        client.get_payer_info(pb::GetPayerInfoRequest { payer_addresses, granularity: 0 }).await
    };
    let usage = asked(2 * MIB).await.unwrap().into_inner().payer_info;
    assert_eq!(usage.len(), 1000, "a connection may hold half of the budget");
    let refused = asked(6 * MIB + MIB / 2).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
}
