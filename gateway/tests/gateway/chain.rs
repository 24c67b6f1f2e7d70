//! Tests of publishing through the chain.

use std::sync::Arc;
use std::time::Duration;

use hawser_gateway::chain::ChainPublishError;
use hawser_gateway::identity::VouchError;
use hawser_gateway::routing::ChainTopic;
use hawser_gateway::{GatewayPorts, GatewaySettings};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, InboxId};
use prost::Message as _;
use tonic::Code;

use super::fake_node::{Manner, client_of, id_of};
use super::fixture::{
    Net, SOON, TRANSACTION, commit, identity_update, indexed, message, numbered_update, proposal,
    until,
};
use super::identity_checks::{FakeCheck, IMPOSSIBLE, Numbered};

/// Makes a gateway wait a short time for a payload that no node shows. On busy cores it takes a good part of that to
/// hear of one that a node shows.
fn impatient(settings: &mut GatewaySettings) {
    settings.shown_timeout = Duration::from_secs(2);
}

#[tokio::test]
async fn a_commit_is_answered_when_a_node_shows_it_with_what_the_node_shows() {
    let net = Net::start(2).await;
    let publishing = net.publish(vec![commit(1, "a")]);
    tokio::pin!(publishing);
    let sent = async {
        until(async || net.chain.count() == 1).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    tokio::select! {
        _ = &mut publishing => panic!("no node shows it yet"),
        () = sent => {}
    }
    net.chain.shown_by(0, &net.nodes[1..]).await;
    let answer = publishing.await.unwrap();
    assert_eq!(answer, [net.chain.envelope(0).2]);
    assert_eq!(id_of(&answer[0]), (0, 1));
}

#[tokio::test]
async fn a_node_that_lies_about_the_chain_is_reported_and_neither_believed_nor_in_the_way() {
    let net = Net::start(3).await;
    let lying = async {
        until(async || net.chain.count() == 1).await;
        let other_payload = indexed(0, 1, commit(1, "b").encode_to_vec().into());
        net.nodes[0].show(0, 1, &other_payload);
        let mut other_transaction = net.chain.envelope(0).2;
        let proof = pb::BlockchainProof { transaction_hash: Bytes::from_static(&[8; 32]) };
        other_transaction.proof = Some(pb::originator_envelope::Proof::BlockchainProof(proof));
        net.nodes[1].show(0, 1, &other_transaction);
        let faults = |node: u32| {
            format!(
                "xmtp_gateway_node_faults_total{{originator_id=\"{node}\",\
                 kind=\"wrong_chain_envelope\"}}"
            )
        };
        until(async || net.sample(&faults(100)).await == 1).await;
        until(async || net.sample(&faults(200)).await == 1).await;
        net.chain.shown_by(0, &net.nodes[2..]).await;
    };
    let (answer, ()) = futures_util::future::join(net.publish(vec![commit(1, "a")]), lying).await;
    assert_eq!(answer.unwrap(), [net.chain.envelope(0).2]);
}

#[tokio::test]
async fn a_node_that_does_not_know_a_new_commit_yet_is_asked_again() {
    let net = Net::start(3).await;
    let made = net.publish_shown(vec![commit(1, "a")], 0, &net.nodes).await;
    assert_eq!(id_of(&made.unwrap()[0]), (0, 1));
    net.nodes.iter().for_each(|node| node.becomes(Manner::RefusesCalls(2)));
    let mut dependent = message(1, "b");
    let commit = pb::Cursor { node_id_to_sequence_id: [(0, 1)].into() };
    dependent.aad.get_or_insert_default().depends_on = Some(commit);
    let answer = net.publish(vec![dependent]).await.unwrap();
    let chosen = net.node_of(id_of(&answer[0]).0);
    let all: usize = net.nodes.iter().map(super::fake_node::FakeNode::calls).sum();
    assert_eq!((chosen.calls(), all), (3, 3), "it went to no other node");
}

#[tokio::test]
async fn the_order_of_a_request_is_the_order_on_the_chain() {
    let net = Net::start(1).await;
    let envelopes: Vec<_> =
        (0..20).map(|n| proposal(1, &n.to_string())).chain([commit(1, "all")]).collect();
    let showing = async {
        for place in 0..envelopes.len() {
            net.chain.shown_by(place, &net.nodes[..1]).await;
        }
    };
    let (answer, ()) = futures_util::future::join(net.publish(envelopes.clone()), showing).await;
    let sent: Vec<_> =
        envelopes.iter().map(|envelope| Bytes::from(envelope.encode_to_vec())).collect();
    let taken: Vec<_> = net.chain.taken.lock().iter().map(|(_, payload)| payload.clone()).collect();
    assert_eq!(taken, sent);
    let answered: Vec<_> = answer.unwrap().iter().map(client_of).collect();
    assert_eq!(answered, sent);
}

#[tokio::test]
async fn after_what_is_not_sent_nothing_of_its_topic_is_and_the_request_again_keeps_its_order() {
    let not_sent = ChainPublishError::NotSent("no gas".into());
    let pending = ChainPublishError::Pending { hash: TRANSACTION, reason: "not mined yet".into() };
    for (fault, code) in [(not_sent, Code::Unavailable), (pending, Code::DeadlineExceeded)] {
        let net = Net::start(1).await;
        let envelopes = vec![proposal(1, "a"), commit(1, "b")];
        net.chain.faults.lock().push(fault);
        let failed = net.publish(envelopes.clone()).await.unwrap_err();
        assert_eq!(failed.code(), code);
        assert_eq!(failed.metadata().get("failed-envelopes").unwrap(), "0-1");
        let text = "envelope 1: the payload could not be sent to the chain: an earlier payload";
        assert!(failed.message().contains(text), "{}", failed.message());
        let showing = async {
            net.chain.shown_by(0, &net.nodes).await;
            net.chain.shown_by(1, &net.nodes).await;
        };
        let again = net.publish(envelopes.clone());
        let (answer, ()) = futures_util::future::join(again, showing).await;
        let sent = envelopes.iter().map(|envelope| Bytes::from(envelope.encode_to_vec()));
        let answered: Vec<_> = answer.unwrap().iter().map(client_of).collect();
        assert_eq!(answered, sent.collect::<Vec<_>>());
        let places = [net.chain.envelope(0).2, net.chain.envelope(1).2];
        assert_eq!(places.iter().map(client_of).collect::<Vec<_>>(), answered);
    }
}

#[tokio::test]
async fn an_unsent_payload_delays_no_other_topic() {
    let net = Net::start(1).await;
    net.chain.faults.lock().push(ChainPublishError::NotSent("no gas".into()));
    let failed = net.publish_shown(vec![commit(1, "a"), commit(2, "b")], 0, &net.nodes).await;
    let failed = failed.unwrap_err();
    // The order of payloads of two topics is not specified.
    assert!(failed.metadata().get("published-envelopes").is_some(), "{failed}");
    assert_eq!(net.chain.count(), 1);
}

#[tokio::test]
async fn the_same_payload_is_sent_once_however_often_it_is_asked_for() {
    let net = Net::start(1).await;
    let inbox = [3; 32];
    let (first, second) =
        (net.publish(vec![identity_update(inbox)]), net.publish(vec![identity_update(inbox)]));
    let showing = net.chain.shown_by(0, &net.nodes[..1]);
    let (first, second, ()) = futures_util::future::join3(first, second, showing).await;
    let third = net.publish(vec![identity_update(inbox)]).await;
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(third.unwrap(), [net.chain.envelope(0).2]);
    assert_eq!(net.chain.count(), 1);
    assert_eq!(net.sample("xmtp_gateway_chain_repeats_total").await, 2);
}

#[tokio::test]
async fn a_repeated_request_gets_what_was_sent_before_and_was_not_shown_in_time() {
    let net = Net::with(1, impatient, |_| {}).await;
    let late = net.publish(vec![commit(1, "a")]).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    assert!(late.message().contains(&"07".repeat(32)), "the transaction: {}", late.message());
    net.chain.shown_by(0, &net.nodes[..1]).await;
    let answer = net.publish(vec![commit(1, "a")]).await.unwrap();
    assert_eq!(answer, [net.chain.envelope(0).2]);
    assert_eq!(net.chain.count(), 1, "it was sent once");
}

#[tokio::test]
async fn an_unsent_payload_is_sent_with_the_next_request() {
    let net = Net::start(1).await;
    net.chain.faults.lock().push(ChainPublishError::NotSent("no gas".into()));
    let failed = net.publish(vec![commit(1, "a")]).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable);
    assert!(failed.message().contains("no gas"), "{}", failed.message());
    let answer = net.publish_shown(vec![commit(1, "a")], 0, &net.nodes[..1]).await;
    assert_eq!(answer.unwrap().len(), 1);
}

#[tokio::test]
async fn a_pending_transaction_is_followed_and_a_repeated_request_waits_for_it() {
    let net = Net::start(1).await;
    let pending =
        || ChainPublishError::Pending { hash: TRANSACTION, reason: "not mined yet".into() };
    // Taken from the end: another gateway has the payload, then it is pending, and an attempt to learn more fails.
    let elsewhere = ChainPublishError::Open("another process is sending it".into());
    let faults = [ChainPublishError::NotSent("the chain is silent".into()), pending(), elsewhere];
    net.chain.faults.lock().extend(faults);
    let status = net.publish(vec![commit(1, "a")]).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    until(async || net.chain.count() == 1).await; // no request waits any more
    let answer = net.publish_shown(vec![commit(1, "a")], 0, &net.nodes[..1]).await;
    assert_eq!(answer.unwrap(), [net.chain.envelope(0).2]);
    assert_eq!(net.chain.count(), 1, "there is one transaction");
}

#[tokio::test]
async fn a_pending_transaction_is_polled_with_pauses() {
    let net = Net::start(1).await;
    let pending = ChainPublishError::Pending { hash: TRANSACTION, reason: "not mined yet".into() };
    net.chain.faults.lock().extend(vec![pending; 1000]);
    let status = net.publish(vec![commit(1, "a")]).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(!net.chain.faults.lock().is_empty(), "it was asked a thousand times");
}

#[tokio::test]
async fn a_payload_of_unknown_outcome_is_reported_and_not_sent_again() {
    let net = Net::start(1).await;
    let pending = ChainPublishError::Pending { hash: TRANSACTION, reason: "not mined yet".into() };
    let unknown =
        ChainPublishError::Unknown { hash: TRANSACTION, reason: "it may have been mined".into() };
    net.chain.faults.lock().extend([unknown, pending]);
    let status = net.publish(vec![commit(1, "a")]).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    until(async || net.chain.faults.lock().is_empty()).await;
    for _ in 0..2 {
        let status = net.publish(vec![commit(1, "a")]).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.message().contains("it may have been mined"), "{}", status.message());
    }
    assert_eq!(net.chain.count(), 0);
}

#[tokio::test]
async fn a_payload_that_failed_is_sent_with_the_next_request() {
    let net = Net::start(1).await;
    let pending = ChainPublishError::Pending { hash: TRANSACTION, reason: "not mined yet".into() };
    let failed = ChainPublishError::Failed { hash: TRANSACTION, reason: "it was reverted".into() };
    net.chain.faults.lock().extend([failed, pending]);
    let status = net.publish(vec![commit(1, "a")]).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    until(async || net.chain.faults.lock().is_empty()).await;
    assert_eq!(net.chain.count(), 0);
    let again = async {
        let aborted = net.publish(vec![commit(1, "a")]).await;
        // This request may have joined the failed attempt just before it ended.
        if aborted.is_err() { net.publish(vec![commit(1, "a")]).await } else { aborted }
    };
    let showing = net.chain.shown_by(0, &net.nodes[..1]);
    let (answer, ()) = futures_util::future::join(again, showing).await;
    assert_eq!(answer.unwrap().len(), 1);
}

#[tokio::test]
async fn an_envelope_that_no_stream_shows_is_queried() {
    let net = Net::start(1).await;
    let (originator, sequence) = (0, 1);
    let publishing = net.publish(vec![commit(1, "a")]);
    let indexing = async {
        until(async || net.chain.count() == 1).await;
        let (_, _, envelope) = net.chain.envelope(0);
        net.nodes[0].index_quietly(originator, sequence, &envelope);
    };
    let (answer, ()) = futures_util::future::join(publishing, indexing).await;
    assert_eq!(answer.unwrap(), [net.chain.envelope(0).2]);
}

#[tokio::test]
async fn a_node_and_the_chain_may_each_have_a_part_and_failures_are_told_by_place() {
    let net = Net::with(1, impatient, |_| {}).await;
    let envelopes = vec![message(1, "a"), commit(1, "b"), message(2, "c")];
    let failed = net.publish(envelopes).await.unwrap_err();
    assert_eq!(failed.code(), Code::DeadlineExceeded);
    assert_eq!(failed.metadata().get("published-envelopes").unwrap(), "0,2");
    assert_eq!(failed.metadata().get("failed-envelopes").unwrap(), "1");
    assert_eq!(net.held_by(&message(1, "a")), 1);
    assert_eq!(net.sample("xmtp_gateway_partial_total").await, 1);
}

#[tokio::test]
async fn an_identity_update_that_is_not_valid_costs_no_gas() {
    let spoilt = [5; 32];
    let net = Net::with(
        1,
        |_| {},
        |ports| {
            ports.identity = Some(Arc::new(FakeCheck::without(spoilt)));
        },
    )
    .await;
    let refused = net.publish(vec![identity_update(spoilt)]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("it is spoilt"), "{}", refused.message());
    assert_eq!(net.chain.count(), 0);
    let fine = net.publish_shown(vec![identity_update([6; 32])], 0, &net.nodes[..1]).await;
    assert_eq!(fine.unwrap().len(), 1);
}

#[tokio::test]
async fn an_update_whose_contract_wallets_cannot_be_asked_is_not_sent() {
    let there = indexed(1, 1, identity_update([5; 32]).encode_to_vec().into());
    for (fault, code, after_s) in [
        (VouchError::Refused("no such chain".into()), Code::InvalidArgument, None),
        (VouchError::Unavailable("it is away".into()), Code::Unavailable, Some("5")),
        (VouchError::Busy("others ask".into()), Code::ResourceExhausted, Some("1")),
        (VouchError::TooMany("its minute".into()), Code::ResourceExhausted, Some("60")),
    ] {
        let text = fault.to_string();
        let ports = |ports: &mut GatewayPorts| {
            ports.identity = Some(Arc::new(FakeCheck::of_wallets(fault)))
        };
        let net = Net::with(1, |_| {}, ports).await;
        let refused = net.publish(vec![identity_update([6; 32])]).await.unwrap_err();
        assert_eq!(refused.code(), code);
        assert!(refused.message().contains(&text), "{}", refused.message());
        let retry_after = refused.metadata().get("retry-after");
        assert_eq!(retry_after.map(|it| it.to_str().unwrap()), after_s, "{text}");
        assert_eq!(net.chain.count(), 0);
        net.nodes[0].show(1, 1, &there);
        let known = net.publish(vec![identity_update([5; 32])]).await.unwrap();
        assert_eq!(known, std::slice::from_ref(&there), "what is there already is not asked about");
    }
}

#[tokio::test]
async fn an_update_is_refused_only_if_no_node_knows_an_inbox_in_which_it_is_valid() {
    for ahead in 0..2 {
        let numbered = |ports: &mut GatewayPorts| ports.identity = Some(Arc::new(Numbered));
        let net = Net::with(2, |_| {}, numbered).await;
        let inbox = [5; 32];
        let there = indexed(1, 9, numbered_update(inbox, 0).encode_to_vec().into());
        net.nodes[ahead].index_quietly(1, 9, &there);
        let refused = net.publish(vec![numbered_update(inbox, 2)]).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(net.chain.count(), 0);
        let answer = net.publish_shown(vec![numbered_update(inbox, 1)], 0, &net.nodes).await;
        assert_eq!(answer.unwrap().len(), 1, "only node {ahead} has what comes before");
    }
}

#[tokio::test]
async fn updates_of_one_inbox_in_one_request_are_judged_one_after_the_other() {
    let numbered = |ports: &mut GatewayPorts| ports.identity = Some(Arc::new(Numbered));
    let net = Net::with(1, |_| {}, numbered).await;
    let updates = |numbers: &[u64]| {
        numbers.iter().map(|number| numbered_update([5; 32], *number)).collect::<Vec<_>>()
    };
    let refused = net.publish(updates(&[0, 2])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("envelope 1"), "{}", refused.message());
    assert_eq!(net.chain.count(), 0);
    let showing = async {
        for place in 0..3 {
            net.chain.shown_by(place, &net.nodes).await;
        }
    };
    let (answer, ()) = futures_util::future::join(net.publish(updates(&[0, 1, 2])), showing).await;
    assert_eq!(answer.unwrap().len(), 3);
}

/// Logs above 1 MiB are read two at a time, and are judged like shorter ones.
#[tokio::test]
async fn an_inbox_whose_log_is_longer_than_usual_is_judged_too() {
    let inbox = [5; 32];
    let net = Net::with(1, |_| {}, numbered_inboxes).await;
    for number in 0..8 {
        let mut long = numbered_update(inbox, number);
        let Some(pb::client_envelope::Payload::IdentityUpdate(update)) = &mut long.payload else {
            panic!("{long:?}")
        };
        update.inbox_id = "0".repeat(150_000);
        let there = indexed(1, number + 9, long.encode_to_vec().into());
        net.nodes[0].index_quietly(1, number + 9, &there);
    }
    let refused = net.publish(vec![numbered_update(inbox, 7)]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("it is 7 and not 8"), "{}", refused.message());
    let answer = net.publish_shown(vec![numbered_update(inbox, 8)], 0, &net.nodes).await;
    assert_eq!(answer.unwrap().len(), 1);
}

#[tokio::test]
async fn an_update_that_its_log_has_is_answered_from_there() {
    let inbox = [5; 32];
    for nodes in 1..=2 {
        let spoilt =
            |ports: &mut GatewayPorts| ports.identity = Some(Arc::new(FakeCheck::without(inbox)));
        let net = Net::with(nodes, |_| {}, spoilt).await;
        let there = indexed(1, 1, identity_update(inbox).encode_to_vec().into());
        net.nodes.iter().for_each(|node| node.show(1, 1, &there));
        assert_eq!(net.publish(vec![identity_update(inbox)]).await.unwrap(), [there]);
        assert_eq!(net.chain.count(), 0, "it was not sent again");
    }
}

/// A lying node invents an envelope with an update that it has seen elsewhere, to keep the update from ever being
/// sent.
#[tokio::test]
async fn an_update_that_one_node_alone_claims_to_have_is_sent() {
    let inbox = [5; 32];
    for liar in 0..2 {
        let net = Net::with(2, |_| {}, numbered_inboxes).await;
        let made_up = indexed(1, 9, numbered_update(inbox, 0).encode_to_vec().into());
        net.nodes[liar].index_quietly(1, 9, &made_up);
        let answer = net.publish_shown(vec![numbered_update(inbox, 0)], 0, &net.nodes).await;
        assert_ne!(answer.unwrap(), [made_up], "node {liar} is not believed");
        assert_eq!(net.chain.count(), 1);
    }
}

/// A lying node invents an impossible log, to make the gateway pay for a caller's invalid update.
#[tokio::test]
async fn a_log_that_does_not_add_up_judges_nothing() {
    let inbox = [5; 32];
    for liar in 0..2 {
        let net = Net::with(2, |_| {}, numbered_inboxes).await;
        let broken = indexed(1, 9, numbered_update(inbox, IMPOSSIBLE).encode_to_vec().into());
        net.nodes[liar].index_quietly(1, 9, &broken);
        let refused = net.publish(vec![numbered_update(inbox, 7)]).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "the other node's log decides");
        net.nodes[1 - liar].index_quietly(1, 9, &broken);
        let refused = net.publish(vec![numbered_update(inbox, 7)]).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{}", refused.message());
        assert_eq!(net.chain.count(), 0);
    }
}

pub(super) fn numbered_inboxes(ports: &mut GatewayPorts) {
    ports.identity = Some(Arc::new(Numbered));
}

/// Returns another update of the same inbox with the same number.
fn rival_of(update: &pb::ClientEnvelope) -> pb::ClientEnvelope {
    let mut rival = update.clone();
    rival.aad.as_mut().unwrap().depends_on = Some(pb::Cursor::default());
    rival
}

impl Net {
    /// Puts a payload on the chain before those that a test sends.
    pub(super) fn with_first_place_taken(self) -> Self {
        self.chain.taken.lock().push((ChainTopic::Inbox(InboxId([9; 32])), Bytes::new()));
        self
    }

    /// Makes a node show an update with this sequence id on the chain.
    fn show_update(&self, node: usize, sequence: u64, update: &pb::ClientEnvelope) {
        self.nodes[node].show(1, sequence, &indexed(1, sequence, update.encode_to_vec().into()));
    }
}

#[tokio::test]
async fn an_update_that_lost_a_race_is_invalid_as_soon_as_nodes_are_past_it() {
    let patient = |settings: &mut GatewaySettings| {
        settings.shown_timeout = Duration::from_secs(3600);
    };
    let net = Net::with(2, patient, numbered_inboxes).await.with_first_place_taken();
    let ours = numbered_update([5; 32], 0);
    let losing = async {
        until(async || net.chain.count() == 2).await;
        for node in 0..2 {
            net.show_update(node, 1, &rival_of(&ours));
        }
        net.show_update(1, 3, &numbered_update([6; 32], 0));
    };
    let both = futures_util::future::join(net.publish(vec![ours.clone()]), losing);
    let (status, ()) = tokio::time::timeout(SOON, both).await.expect("it is not waited for");
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("it is 0 and not 1"), "{}", status.message());
    assert!(status.message().contains("on the chain as number 2"), "{}", status.message());
    let again = net.publish(vec![ours]).await.unwrap_err();
    assert_eq!(again.code(), Code::InvalidArgument);
    assert_eq!(net.chain.count(), 2);
}

#[tokio::test]
async fn an_update_that_lost_a_race_is_invalid_when_it_was_waited_for() {
    let net = Net::with(1, impatient, numbered_inboxes).await.with_first_place_taken();
    let ours = numbered_update([5; 32], 0);
    let losing = async {
        until(async || net.chain.count() == 2).await;
        net.show_update(0, 1, &rival_of(&ours));
    };
    // The first request may be answered before nodes show the rival update.
    let (status, ()) = futures_util::future::join(net.publish(vec![ours.clone()]), losing).await;
    assert!(status.is_err());
    let status = net.publish(vec![ours]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(net.chain.count(), 2);
}

/// The caller would take its update for invalid, and the next request with it would be paid for once more.
#[tokio::test]
async fn an_update_that_one_node_alone_calls_invalid_while_the_others_are_silent_is_not_dropped() {
    let net = Net::with(2, impatient, numbered_inboxes).await.with_first_place_taken();
    let ours = numbered_update([5; 32], 0);
    let lying = async {
        until(async || net.chain.count() == 2).await;
        net.nodes[1].becomes(Manner::AnswersNoQuery);
        let made_up = indexed(1, 1, rival_of(&ours).encode_to_vec().into());
        net.nodes[0].index_quietly(1, 1, &made_up);
    };
    let publishing = net.publish(vec![ours.clone()]);
    let (status, ()) = futures_util::future::join(publishing, lying).await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{}", status.message());
    net.nodes[1].becomes(Manner::Honest);
    net.chain.shown_by(1, &net.nodes[1..]).await;
    assert_eq!(net.publish(vec![ours]).await.unwrap(), [net.chain.envelope(1).2]);
    assert_eq!(net.chain.count(), 2, "gas was paid once");
}

#[tokio::test]
async fn an_update_that_got_on_the_chain_twice_is_answered_with_the_first() {
    let net = Net::with(2, |_| {}, numbered_inboxes).await.with_first_place_taken();
    let ours = numbered_update([5; 32], 0);
    let doubled = async {
        until(async || net.chain.count() == 2).await;
        (0..2).for_each(|node| net.show_update(node, 1, &ours));
    };
    let (answer, ()) = futures_util::future::join(net.publish(vec![ours.clone()]), doubled).await;
    let first = [indexed(1, 1, ours.encode_to_vec().into())];
    assert_eq!(answer.unwrap(), first);
    assert_eq!(net.publish(vec![ours]).await.unwrap(), first);
    assert_eq!(net.chain.count(), 2);
}

#[tokio::test]
async fn updates_that_nodes_hold_back_are_waited_for_although_others_come_later() {
    let net = Net::with(1, |_| {}, numbered_inboxes).await;
    let ours = vec![numbered_update([5; 32], 0), numbered_update([5; 32], 1)];
    let showing = async {
        until(async || net.chain.count() == 2).await;
        net.show_update(0, 7, &numbered_update([6; 32], 0));
        // Long enough for several judgements.
        tokio::time::sleep(Duration::from_secs(3)).await;
        net.chain.shown_by(0, &net.nodes).await;
        net.chain.shown_by(1, &net.nodes).await;
    };
    let (answer, ()) = futures_util::future::join(net.publish(ours), showing).await;
    assert_eq!(answer.unwrap(), [net.chain.envelope(0).2, net.chain.envelope(1).2]);
}

#[tokio::test]
async fn without_a_chain_what_belongs_there_is_refused_and_the_rest_goes_on() {
    let net = Net::with(1, |_| {}, |ports| ports.chain = None).await;
    let refused = net.publish(vec![commit(1, "a")]).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(net.publish(vec![message(1, "a")]).await.is_ok());
}

#[tokio::test]
async fn a_ceiling_that_stops_sending_is_a_condition() {
    let net = Net::start(1).await;
    until(async || net.unmet().await.is_empty()).await;
    *net.chain.ceiling.lock() = Some("the last hour has cost enough".into());
    until(async || net.unmet().await == ["app_chain_cost"]).await;
    *net.chain.ceiling.lock() = None;
    until(async || net.unmet().await.is_empty()).await;
}
