//! Disputed trees of a strand: the envelopes of those who hold the other one prove that its node has told two stories.

use hawser_engine::misbehavior::Misbehavior;
use hawser_proto::OriginatorId;
use hawser_proto::frame::FEATURE_CHECKPOINTS;

use crate::checkpoints::{
    LIAR, evidence, has_two_statements, observe, other_envelope, show, statement, told,
    until_it_may_sign, wait_for,
};
use crate::common::envelopes::envelope;
use crate::common::network::{Network, eventually};
use crate::common::raw::RawPeer;

/// No node is observed while it signs. Node 100 is shown no checkpoint of the story that it was told.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_story_that_alone_is_signed_is_proven_by_the_envelopes_of_the_peer_that_shows_it()
{
    let mut network = Network::new();
    let story: Vec<_> = (1..=4).map(|place| envelope(LIAR, place)).collect();
    let mut other = story.clone();
    other[2] = other_envelope(3);
    let (nodes, mut silent) = told(&mut network, [&story, &other]).await;
    let root = nodes[1].engine.store().snapshot().root(LIAR, 4).unwrap();
    drop(silent.remove(1));
    let mut peer = RawPeer::join_with(&nodes[1], 300, FEATURE_CHECKPOINTS).await;
    show(&mut peer, statement(LIAR, 4, root)).await;
    eventually("both statements are held", || has_two_statements(&nodes[0])).await;
    assert_eq!(evidence(&nodes[0], OriginatorId(200)), []);
}

/// The checkpoint is no news when a peer shows it that holds its envelopes.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_story_that_its_node_shows_first_is_proven_by_the_envelopes_of_the_next_peer() {
    let mut network = Network::new();
    let story: Vec<_> = (1..=4).map(|place| envelope(LIAR, place)).collect();
    let mut other = story.clone();
    other[2] = other_envelope(3);
    let (nodes, silent) = told(&mut network, [&story, &other]).await;
    let root = nodes[1].engine.store().snapshot().root(LIAR, 4).unwrap();
    drop(silent);
    let mut first = RawPeer::join_with(&nodes[0], 300, FEATURE_CHECKPOINTS).await;
    show(&mut first, statement(LIAR, 4, root)).await;
    let is_claimed = || evidence(&nodes[0], LIAR).contains(&Misbehavior::OtherTree);
    eventually("the difference is noticed", is_claimed).await;
    let mut second = RawPeer::join_with(&nodes[1], 300, FEATURE_CHECKPOINTS).await;
    show(&mut second, statement(LIAR, 4, root)).await;
    eventually("both statements are held", || has_two_statements(&nodes[0])).await;
}

/// No observer has signed a tree while the strand's node did, and its places are more than a holder is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn two_stories_behind_a_long_one_that_both_have_cosigned_are_proven() {
    let mut network = Network::new();
    let story: Vec<_> = (1..=1_030).map(|place| envelope(LIAR, place)).collect();
    let (nodes, silent) = told(&mut network, [&story, &story]).await;
    for node in &nodes {
        until_it_may_sign(node).await;
    }
    drop(silent);
    let root = nodes[0].engine.store().snapshot().root(LIAR, 1_030).unwrap();
    let mut peers = Vec::new();
    for node in &nodes {
        let mut peer = RawPeer::join_with(node, 300, FEATURE_CHECKPOINTS).await;
        let want = peer.hear_want(300).await;
        show(&mut peer, statement(LIAR, 1_030, root)).await;
        peers.push((peer, want));
    }
    for node in &nodes {
        wait_for(node, 300, 1_030, &[100, 200]).await;
    }
    let mut strands = Vec::new();
    let stories = [envelope(LIAR, 1_031), other_envelope(1_031)];
    for ((peer, want), last) in peers.iter().zip(stories) {
        let mut strand = peer.open(want.originator, want.after).await;
        strand.send_batch(&[last]).await;
        strands.push(strand);
    }
    for node in &nodes {
        node.wait_for(300, 1_031).await;
    }
    // Observations count once the node has signed nothing more for a quarter of a minute.
    let tasks = observe(&nodes);
    eventually("both statements are held", || nodes.iter().any(has_two_statements)).await;
    for task in tasks {
        task.stop().await;
    }
}
