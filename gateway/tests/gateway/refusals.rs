//! Tests of refused requests: they take nothing that other callers, or later requests of the same caller, need, and two
//! nodes decide.

use hawser_proto::pb::xmtp::xmtpv4::envelopes::Cursor;
use tonic::Code;

use super::fake_node::{Manner, id_of};
use super::fixture::{Net, commit, key_package, message};
use super::policies::{parse, poor_and_rich, publish_from};
use super::redis_server::RedisServer;
use super::sharing::two;

pub(super) const SPENT: &str = "1.2.3.4";
pub(super) const OTHER: &str = "1.2.3.5";

#[tokio::test]
async fn what_a_shared_limit_refuses_takes_nothing_from_all_callers_together() {
    for total in ["envelopes_per_minute = 5", "envelopes_per_hour_by_kind = { message = 5 }"] {
        let redis = RedisServer::start();
        let limits = parse(&format!("[default]\nenvelopes_per_day = 1\n[total]\n{total}"));
        let (first, second) = two(&redis, 1, |settings| settings.policies = limits.clone()).await;
        publish_from(&first, SPENT, "a").await.unwrap();
        for number in 0..10 {
            let text = format!("refused {number}");
            let refused = publish_from(&second, SPENT, &text).await.unwrap_err();
            assert_eq!(refused.code(), Code::ResourceExhausted);
            let text = refused.message();
            assert!(text.contains("too many envelopes a day"), "{total}: {text}");
        }
        publish_from(&second, OTHER, "b").await.unwrap();
        assert_eq!(first.nodes[0].calls(), 2, "what is refused reaches no node");
    }
}

#[tokio::test]
async fn what_a_shared_limit_refuses_does_not_make_its_caller_wait_for_longer() {
    for own in ["envelopes_per_hour = 2", "envelopes_per_hour_by_kind = { message = 2 }"] {
        let redis = RedisServer::start();
        let limits = parse(&format!("[default]\n{own}"));
        let (first, second) = two(&redis, 1, |settings| settings.policies = limits.clone()).await;
        for text in ["a", "b"] {
            publish_from(&first, SPENT, text).await.unwrap();
        }
        for _ in 0..5 {
            let refused = publish_from(&second, SPENT, "refused").await.unwrap_err();
            assert_eq!(refused.code(), Code::ResourceExhausted, "{own}");
        }
        // Without what Redis knew, the second gateway has only its own count.
        let mut connection = redis.connect().await;
        redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await.unwrap();
        publish_from(&second, SPENT, "c").await.unwrap();
    }
}

#[tokio::test]
async fn a_caller_for_whom_all_nodes_are_too_expensive_takes_nothing_from_all_callers_together() {
    let (poor, rich) = (SPENT, OTHER);
    let total = "[total]\nenvelopes_per_hour = 3";
    let policies = parse(&format!("{}\n{total}", poor_and_rich().await));
    let net = Net::with(1, |settings| settings.policies = policies, |_| {}).await;
    net.nodes[0].becomes(Manner::IsBusy(15_000));
    publish_from(&net, poor, "a").await.unwrap(); // no fee is known yet
    for _ in 0..10 {
        let refused = publish_from(&net, poor, "b").await.unwrap_err();
        assert!(refused.message().contains("congestion fee"), "{}", refused.message());
    }
    for text in ["c", "d"] {
        publish_from(&net, rich, text).await.unwrap();
    }
    let refused = publish_from(&net, rich, "e").await.unwrap_err();
    assert!(refused.message().contains("all callers together"), "{}", refused.message());
}

/// The two nodes may read the chain through one endpoint that stands still.
#[tokio::test]
async fn two_nodes_that_are_behind_the_chain_refuse_for_none_of_the_others() {
    let net = Net::start(3).await;
    let made = net.publish_shown(vec![commit(1, "a")], 0, &net.nodes[2..]).await;
    assert_eq!(id_of(&made.unwrap()[0]), (0, 1));
    // The first two of the strategy, for the topics of groups 1 and 5.
    net.nodes[..2].iter().for_each(|node| node.becomes(Manner::Refuses(0)));
    let mut dependent = message(1, "b");
    let needed = Cursor { node_id_to_sequence_id: [(0, 1)].into() };
    dependent.aad.get_or_insert_default().depends_on = Some(needed);
    let answer = net.publish(vec![dependent]).await.unwrap();
    assert_eq!(id_of(&answer[0]).0, net.nodes[2].id.0);
    let refused = net.publish(vec![message(5, "c")]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "it depends on nothing: {refused}");
    assert_eq!(net.nodes[2].calls(), 1);
}

/// One node is behind or lies, and so does another one, about an envelope of another topic.
#[tokio::test]
async fn two_nodes_that_refuse_different_envelopes_of_a_request_refuse_neither() {
    let net = Net::start(3).await;
    // The first nodes of the strategy, for the topics of groups 1 and 2.
    net.nodes[0].becomes(Manner::Refuses(1));
    net.nodes[1].becomes(Manner::Refuses(2));
    let answer = net.publish(vec![message(1, "a"), message(2, "b")]).await.unwrap();
    assert_ne!(id_of(&answer[0]).0, net.nodes[0].id.0);
    assert_ne!(id_of(&answer[1]).0, net.nodes[1].id.0);
    assert!(net.nodes[..2].iter().all(|node| !node.refused().is_empty()), "each has refused one");
}

/// The two nodes may ask one validation service, which is broken or lies.
#[tokio::test]
async fn two_nodes_that_refuse_a_key_package_refuse_for_none_of_the_others() {
    let refuses = Manner::Refuses(3); // all topics of key packages
    for honest in 0..3 {
        let net = Net::start(3).await;
        net.nodes.iter().for_each(|node| node.becomes(refuses.clone()));
        net.nodes[honest].becomes(Manner::Honest);
        let answer = net.publish(vec![key_package()]).await.unwrap();
        assert_eq!(id_of(&answer[0]).0, net.nodes[honest].id.0);
    }
    // The order in which they are asked does not matter.
    for failing in 0..3 {
        let net = Net::start(3).await;
        net.nodes.iter().for_each(|node| node.becomes(refuses.clone()));
        net.nodes[failing].becomes(Manner::Fails);
        let refused = net.publish(vec![key_package()]).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "node {failing} fails: {refused}");
    }
    let net = Net::start(4).await;
    net.nodes.iter().for_each(|node| node.becomes(refuses.clone()));
    let refused = net.publish(vec![key_package()]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let asked: Vec<_> = net.nodes.iter().map(super::fake_node::FakeNode::calls).collect();
    assert_eq!(asked, [1; 4], "each node once");
}
