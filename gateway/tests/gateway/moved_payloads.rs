//! Tests of payloads whose transactions a reorganisation of the chain has moved, or an earlier process has sent, or
//! that are mined when they are no longer followed.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hawser_gateway::GatewaySettings;
use hawser_gateway::chain::{ChainPublishError, OnChain, UnawaitedPayload};
use hawser_gateway::routing::ChainTopic;
use hawser_proto::{Bytes, GroupId, OriginatorId, SequenceId};
use prost::Message as _;
use tonic::Code;

use super::fake_node::id_of;
use super::fixture::{FakeChain, Net, SOON, TRANSACTION, commit, identity_update, message, until};
use super::identity_checks::FakeCheck;
use super::redis_server::RedisServer;
use super::sharing::two;

/// Publishes an update that becomes invalid where it is on the chain. Then a reorganisation moves its transaction to a
/// place where it is valid, and the update is repeated until a node shows it there, which one does when `is_due`.
async fn publish_moved(set: impl FnOnce(&FakeChain), is_due: impl Fn(&FakeChain) -> bool) -> Net {
    let check = Arc::new(FakeCheck::default());
    let adjust = |settings: &mut GatewaySettings| {
        settings.chain_results_kept = Duration::ZERO;
        settings.shown_timeout = Duration::from_millis(200);
    };
    let net = Net::with(1, adjust, |ports| ports.identity = Some(check.clone())).await;
    let update = vec![identity_update([5; 32])];
    // The writer holds its answer until the update has become invalid where it is.
    net.chain.held.send_replace(true);
    let releasing = async {
        until(async || net.chain.count() == 1).await;
        check.refuses_all.store(true, Relaxed);
        net.chain.held.send_replace(false);
    };
    let (dropped, ()) = tokio::join!(net.publish(update.clone()), releasing);
    assert!(dropped.unwrap_err().message().contains("on the chain as number 1"));
    // The same transaction is in another block, with another sequence id, where the update is valid.
    check.refuses_all.store(false, Relaxed);
    net.chain.moved_by.store(1, Relaxed);
    set(&net.chain);
    let showing = async {
        until(async || is_due(&net.chain)).await;
        net.chain.shown_by(0, &net.nodes).await;
    };
    let both = async { tokio::join!(net.publish_until_shown(&update), showing) };
    let (answer, ()) = tokio::time::timeout(SOON, both).await.expect("a node shows it");
    assert_eq!(id_of(&answer[0]), (1, 2));
    net
}

/// Otherwise the payload would be on the chain twice, and paid for twice.
#[tokio::test]
async fn a_payload_whose_transaction_was_moved_is_found_there_and_not_sent_again() {
    let finds = |chain: &FakeChain| chain.finds.store(true, Relaxed);
    let net = publish_moved(finds, |chain| chain.sought.load(Relaxed) == 1).await;
    assert_eq!(net.chain.given.load(Relaxed), 1, "it is sent once");
}

#[tokio::test]
async fn a_payload_that_is_sent_again_and_found_in_its_transaction_is_billed_once() {
    let keeps_one = |chain: &FakeChain| chain.one_each.store(true, Relaxed);
    let net = publish_moved(keeps_one, |chain| chain.given.load(Relaxed) == 2).await;
    let usage = net.page("/usage.csv").await.1;
    assert!(usage.contains(",identity_update,1,"), "{usage}");
}

/// Redis has the place before a reorganisation, and no node shows the payload there.
#[tokio::test]
async fn a_payload_that_another_gateway_has_put_on_the_chain_is_found_there_and_not_sent_again() {
    let redis = RedisServer::start();
    let adjust = |settings: &mut GatewaySettings| {
        settings.shown_timeout = Duration::from_millis(200);
    };
    let (first, second) = two(&redis, 1, adjust).await;
    let (chain, payload) = (&first.chain, vec![commit(1, "a")]);
    assert!(first.publish(payload.clone()).await.is_err(), "no node shows it");
    assert_eq!(chain.count(), 1);
    chain.moved_by.store(1, Relaxed);
    chain.finds.store(true, Relaxed);
    chain.shown_by(0, &first.nodes).await;
    let waiting = second.publish_until_shown(&payload);
    let answer = tokio::time::timeout(SOON, waiting).await.expect("a node shows it");
    assert_eq!(id_of(&answer[0]), (0, 2));
    assert_eq!(chain.given.load(Relaxed), 1, "it is sent once");
}

/// Returns what the writer tells of a commit of group 1 that no call waits for, as number 1 on the chain.
fn resumed(payload: Bytes) -> UnawaitedPayload {
    let on_chain = OnChain {
        sequence_id: SequenceId(1),
        transaction_hash: TRANSACTION,
        block_time_s: 1_750_000_000,
    };
    UnawaitedPayload { originator: OriginatorId::GROUP_MESSAGES, payload, on_chain }
}

/// The process that has sent it has ended, or its outcome was open for so long that it is not followed any more, and it
/// was mined afterwards. Every reader of its group can repeat it.
#[tokio::test]
async fn a_payload_that_is_mined_while_no_call_waits_for_it_is_not_sent_again() {
    for is_open in [false, true] {
        let net = Net::start(1).await;
        let envelope = commit(1, "a");
        if is_open {
            let reason = "it may have been mined".into();
            let unknown = ChainPublishError::Unknown { hash: TRANSACTION, reason };
            net.chain.faults.lock().push(unknown);
            let status = net.publish(vec![envelope.clone()]).await.unwrap_err();
            assert_eq!(status.code(), Code::DeadlineExceeded);
        }
        let payload = Bytes::from(envelope.encode_to_vec());
        net.chain.taken.lock().push((ChainTopic::Group(GroupId([1; 16])), payload.clone()));
        net.chain.resumed.lock().push(resumed(payload));
        until(async || net.chain.resumed.lock().is_empty()).await;
        net.chain.shown_by(0, &net.nodes).await;
        let waiting = net.publish_until_shown(std::slice::from_ref(&envelope));
        let answer = tokio::time::timeout(SOON, waiting).await.expect("a node shows it");
        assert_eq!(answer, [net.chain.envelope(0).2]);
        assert_eq!(net.chain.given.load(Relaxed), 0, "it was sent before");
    }
}

/// The payload is mined between two questions for its outcome.
#[tokio::test]
async fn a_payload_that_is_followed_is_billed_although_it_is_mined_while_no_call_waits_for_it() {
    let net = Net::start(1).await;
    let reason = "not mined yet".into();
    let pending = ChainPublishError::Pending { hash: TRANSACTION, reason };
    net.chain.faults.lock().push(pending);
    let envelope = commit(1, "a");
    assert!(net.publish(vec![envelope.clone()]).await.is_err());
    net.chain.resumed.lock().push(resumed(Bytes::from(envelope.encode_to_vec())));
    until(async || net.page("/usage.csv").await.1.contains(",commit,1,")).await;
    assert_eq!(net.chain.count(), 1);
}

/// One gateway stands still for some seconds, and another one takes its transaction over. Both see it mined, and the
/// first to share its place in Redis bills it: the other one has no caller for it.
#[tokio::test]
async fn a_payload_that_was_taken_over_is_billed_by_the_gateway_that_follows_it() {
    let redis = RedisServer::start();
    let (first, second) = two(&redis, 1, |_| {}).await;
    let (chain, envelope) = (&first.chain, commit(1, "a"));
    chain.held.send_replace(true);
    let taking_over = async {
        until(async || chain.count() == 1).await;
        chain.resumed.lock().push(resumed(Bytes::from(envelope.encode_to_vec())));
        until(async || chain.resumed.lock().is_empty()).await;
        // Either gateway may have taken it. These are behind what it has told Redis at once.
        for net in [&first, &second] {
            net.publish(vec![message(2, "b")]).await.unwrap();
        }
        chain.held.send_replace(false);
        chain.shown_by(0, &first.nodes).await;
    };
    let publishing = first.publish_until_shown(std::slice::from_ref(&envelope));
    tokio::join!(publishing, taking_over);
    let (_, usage) = first.page("/usage.csv").await;
    assert!(usage.contains(",commit,1,"), "{usage}");
}

/// A bug ends the task that follows a payload, after the payload was sent.
#[tokio::test]
async fn a_payload_whose_task_has_ended_is_neither_called_unsent_nor_sent_again() {
    let net = Net::start(1).await;
    for panics in [true, false] {
        net.chain.panics.store(panics, Relaxed);
        let status = net.publish(vec![commit(1, "a")]).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{}", status.message());
    }
    assert_eq!(net.chain.count(), 1);
    // It is mined, and the writer tells so, because no call waits for it any more.
    let envelope = commit(1, "a");
    net.chain.resumed.lock().push(resumed(Bytes::from(envelope.encode_to_vec())));
    until(async || net.chain.resumed.lock().is_empty()).await;
    net.chain.shown_by(0, &net.nodes).await;
    let waiting = net.publish_until_shown(std::slice::from_ref(&envelope));
    let answer = tokio::time::timeout(SOON, waiting).await.expect("a node shows it");
    assert_eq!(answer, [net.chain.envelope(0).2]);
    assert_eq!(net.chain.given.load(Relaxed), 1, "it was sent before");
}
