//! Tests of payloads whose transactions a reorganisation of the chain has moved, or an earlier process has sent.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hawser_gateway::GatewaySettings;
use hawser_gateway::chain::{OnChain, ResumedPayload};
use hawser_gateway::routing::ChainTopic;
use hawser_proto::{Bytes, GroupId, OriginatorId, SequenceId};
use prost::Message as _;

use super::fake_node::id_of;
use super::fixture::{Net, SOON, SpoiltWhile, TRANSACTION, commit, identity_update, until};
use super::redis_server::RedisServer;
use super::sharing::two;

/// Otherwise the payload would be on the chain twice, and paid for twice.
#[tokio::test]
async fn a_payload_whose_transaction_was_moved_is_found_there_and_not_sent_again() {
    let check = Arc::new(SpoiltWhile::default());
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
        check.0.store(true, Relaxed);
        net.chain.held.send_replace(false);
    };
    let (dropped, ()) = tokio::join!(net.publish(update.clone()), releasing);
    assert!(dropped.unwrap_err().message().contains("on the chain as number 1"));
    // The same transaction is in another block, with another sequence id, where the update is valid.
    check.0.store(false, Relaxed);
    net.chain.moved_by.store(1, Relaxed);
    net.chain.finds.store(true, Relaxed);
    let showing = async {
        until(async || net.chain.sought.load(Relaxed) == 1).await;
        net.chain.shown_by(0, &net.nodes).await;
    };
    let both = async { tokio::join!(net.publish_until_shown(&update), showing) };
    let (answer, ()) = tokio::time::timeout(SOON, both).await.expect("a node shows it");
    assert_eq!(id_of(&answer[0]), (1, 2));
    assert_eq!(net.chain.given.load(Relaxed), 1, "it is sent once");
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

/// The process that has sent it has ended, and it was mined afterwards. Every reader of its group can repeat it.
#[tokio::test]
async fn a_payload_that_an_earlier_process_has_sent_is_not_sent_again() {
    let net = Net::start(1).await;
    let payload = Bytes::from(commit(1, "a").encode_to_vec());
    net.chain.taken.lock().push((ChainTopic::Group(GroupId([1; 16])), payload.clone()));
    let on_chain = OnChain {
        sequence_id: SequenceId(1),
        transaction_hash: TRANSACTION,
        block_time_s: 1_750_000_000,
    };
    let originator = OriginatorId::GROUP_MESSAGES;
    net.chain.resumed.lock().push(ResumedPayload { originator, payload, on_chain });
    let next = net.beside(|_| {}, |_| {}).await;
    until(async || net.chain.resumed.lock().is_empty()).await;
    net.chain.shown_by(0, &net.nodes).await;
    let answer = next.publish(vec![commit(1, "a")]).await.unwrap();
    assert_eq!(answer, [net.chain.envelope(0).2]);
    assert_eq!(net.chain.given.load(Relaxed), 0, "it was sent before");
}
