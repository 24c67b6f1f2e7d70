//! Publishing the same payer envelope again gives the same answer and takes no new place, however
//! and whenever it comes again.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;

use bytes::Bytes;
use hawser_proto::envelope::PayerEnvelope;
use hawser_proto::minute_of;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_storage::Store;
use hawser_tests::harness::envelopes::{group_message, payer, sign};
use hawser_tests::harness::network::{Network, Node};
use hawser_tests::harness::{seed, strand};

/// Distinct client envelopes.
fn messages(count: u8) -> Vec<Bytes> {
    let mut rng = seed::rng(seed::seed(), 0);
    (0..count).map(|number| group_message([number; 16], 64, &mut rng)).collect()
}

fn signed(node: &Node, messages: &[Bytes]) -> Vec<pb::PayerEnvelope> {
    messages.iter().map(|message| sign(message, node.id, &payer(1))).collect()
}

/// The last sequence id that the node has given out.
async fn head(node: &Node) -> u64 {
    node.client().cursor().await.unwrap().get(node.id).0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_envelope_again_gets_the_same_answer_and_no_new_place() {
    let mut network = Network::start(1).await;
    let node = &mut network.nodes[0];
    let messages = messages(6);
    let all = signed(node, &messages);
    let client = node.client();
    let first = client.publish(all[..3].to_vec()).await.unwrap();
    assert_eq!(
        first.iter().map(|bytes| strand::id_of(bytes).sequence.0).collect::<Vec<_>>(),
        [1, 2, 3]
    );

    // Alone, in another order, and among new ones: answers stand in request order.
    assert_eq!(client.publish(vec![all[1].clone()]).await.unwrap(), [first[1].clone()]);
    let turned = client.publish(all[..3].iter().rev().cloned().collect()).await.unwrap();
    assert_eq!(turned, first.iter().rev().cloned().collect::<Vec<_>>());
    let mixed = [3, 0, 4, 2].map(|index| all[index].clone()).to_vec();
    let mixed = client.publish(mixed).await.unwrap();
    assert_eq!((&mixed[1], &mixed[3]), (&first[0], &first[2]));
    assert_eq!(strand::client_bytes_of(&mixed[0]), messages[3]);
    assert_eq!(strand::client_bytes_of(&mixed[2]), messages[4]);
    assert_eq!(head(node).await, 5);

    // Twice in one request.
    let twice = client.publish(vec![all[5].clone(), all[5].clone()]).await.unwrap();
    assert_eq!(twice[0], twice[1]);
    assert_eq!(head(node).await, 6);

    // After an orderly stop, and after a crash.
    assert!(node.terminate().success());
    node.start();
    node.ready().await;
    assert_eq!(node.client().publish(all[..3].to_vec()).await.unwrap(), first);
    node.kill();
    node.start();
    node.ready().await;
    assert_eq!(node.client().publish(all[..3].to_vec()).await.unwrap(), first);
    assert_eq!(head(node).await, 6);
    strand::assert_sound(&strand::read(&node.client(), node.id).await);
}

/// The retention is not signed, so a relay between payer and node could change it; a changed one makes no new envelope.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_retention_is_the_same_envelope_and_another_payer_is_not() {
    let network = Network::start(1).await;
    let node = &network.nodes[0];
    let message = &messages(1)[0];
    let with =
        |days, number| vec![PayerEnvelope::sign(message.clone(), node.id, days, &payer(number))];
    let client = node.client();
    let first = client.publish(with(60, 1)).await.unwrap();
    assert_eq!(client.publish(with(2, 1)).await.unwrap(), first);
    assert_eq!(client.publish(with(u32::MAX, 1)).await.unwrap(), first);
    assert_eq!(head(node).await, 1);
    let other = client.publish(with(60, 2)).await.unwrap();
    assert_eq!(strand::id_of(&other[0]).sequence.0, 2);
    // A refused retention is refused, known or not.
    assert!(client.publish(with(1, 1)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeats_that_are_under_way_at_the_same_time_meet() {
    const REPEATS: usize = 24;
    let network = Network::start(1).await;
    let node = &network.nodes[0];
    for message in messages(10) {
        let request = signed(node, &[message]);
        let repeats: Vec<_> = (0..REPEATS)
            .map(|_| {
                let (client, request) = (node.client(), request.clone());
                tokio::spawn(async move { client.publish(request).await.unwrap() })
            })
            .collect();
        let mut answers = Vec::new();
        for repeat in repeats {
            answers.extend(repeat.await.unwrap());
        }
        assert_eq!(answers, vec![answers[0].clone(); REPEATS]);
    }
    assert_eq!(head(node).await, 10);
    strand::assert_sound(&strand::read(&node.client(), node.id).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_costs_nothing() {
    let mut network = Network::start(1).await;
    let node = &mut network.nodes[0];
    let all = signed(node, &messages(4));
    let client = node.client();
    let answer = client.publish(all.clone()).await.unwrap();
    assert_eq!(client.publish(all).await.unwrap(), answer);
    assert!(node.terminate().success());
    let expected = answer.iter().map(|bytes| {
        let envelope = strand::open(bytes);
        let unsigned = envelope.unsigned();
        unsigned.base_fee().0 + unsigned.congestion_fee().0
    });
    assert_eq!(charged(node, &answer), (expected.sum(), 4));
}

/// Returns the payer's debt for the minutes of these envelopes and the count of messages, by the
/// stopped node's own account.
fn charged(node: &Node, answer: &[Bytes]) -> (u64, u64) {
    let (store, _) = Store::open_existing(&node.data_dir(), hawser_engine::price::price).unwrap();
    let minutes: BTreeSet<u32> = answer
        .iter()
        .map(|bytes| minute_of(strand::open(bytes).unsigned().originator_ns()))
        .collect();
    let payer = payer(1).public_key().address();
    let rows = minutes
        .into_iter()
        .map(|minute| store.snapshot().usage(node.id, minute, payer).unwrap().unwrap_or_default());
    rows.fold((0, 0), |(spent, messages), row| (spent + row.picodollars.0, messages + row.messages))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switched_off_every_publish_takes_a_place() {
    let mut network = Network::new(1);
    network.nodes[0].arguments = vec!["--idempotent-publish=false".into()];
    network.start_all().await;
    let node = &network.nodes[0];
    let all = signed(node, &messages(2));
    let client = node.client();
    let first = client.publish(all.clone()).await.unwrap();
    let second =
        client.publish(vec![all[0].clone(), all[0].clone(), all[1].clone()]).await.unwrap();
    assert_eq!(head(node).await, 5);
    let ids: Vec<_> = second.iter().map(|bytes| strand::id_of(bytes).sequence.0).collect();
    assert_eq!(ids, [3, 4, 5]);
    assert_ne!(first[0], second[0]);
    assert_eq!(strand::client_bytes_of(&first[0]), strand::client_bytes_of(&second[1]));
}
