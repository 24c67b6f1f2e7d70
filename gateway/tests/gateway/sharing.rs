//! Two gateways that share limits, budgets and the nodes of topics through a real Redis, and one that loses it.

use std::sync::Arc;

use hawser_chain::redis_link::RedisLink;
use hawser_gateway::policy::config::PolicyFile;
use hawser_gateway::select::Strategy;
use hawser_gateway::{GatewayPorts, GatewaySettings};
use hawser_proto::OriginatorId;
use tonic::Code;

use super::fake_node::{Manner, id_of};
use super::fixture::{Net, commit, message, until};
use super::redis_server::RedisServer;

/// Two gateways before the same nodes.
async fn two(redis: &RedisServer, nodes: u32, adjust: impl Fn(&mut GatewaySettings)) -> (Net, Net) {
    let link = Arc::new(RedisLink::connect(&redis.access()).await.unwrap());
    let shared = |ports: &mut GatewayPorts| ports.redis = Some(link.clone());
    let first = Net::with(nodes, &adjust, shared).await;
    let second = first.beside(&adjust, shared).await;
    (first, second)
}

fn policies(text: &str) -> impl Fn(&mut GatewaySettings) {
    let file = PolicyFile::parse(&format!("[identity]\nkind = \"none\"\n{text}")).unwrap();
    move |settings| settings.policies = file.clone()
}

async fn code(net: &Net, text: &str) -> Code {
    net.publish(vec![message(1, text)]).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn a_caller_has_one_limit_at_both_gateways() {
    let Some(redis) = RedisServer::start().await else { return };
    let (first, second) = two(&redis, 1, policies("[default]\nenvelopes_per_day = 5")).await;
    for (round, net) in [&first, &second, &first, &second, &first].into_iter().enumerate() {
        assert_eq!(code(net, &format!("message {round}")).await, Code::Ok);
    }
    for net in [&first, &second] {
        let refused = net.publish(vec![message(1, "one more")]).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("envelopes a day"), "{}", refused.message());
        assert!(refused.metadata().contains_key("retry-after"));
    }
    assert_eq!(first.nodes[0].calls(), 5, "what is refused reaches no node");
}

#[tokio::test]
async fn the_money_of_an_hour_is_counted_once_for_both_and_comes_back() {
    let Some(redis) = RedisServer::start().await else { return };
    // An envelope of this size costs less than two million picodollars here, and more than one.
    let budget = "[total]\npicodollars_per_hour = 4000000";
    let (first, second) = two(&redis, 1, policies(budget)).await;
    assert_eq!(code(&first, "a").await, Code::Ok);
    // What a node refuses is not published, and is paid back to both.
    first.nodes[0].becomes(Manner::Refuses(1));
    for _ in 0..5 {
        assert_eq!(code(&second, "refused").await, Code::InvalidArgument);
    }
    first.nodes[0].becomes(Manner::Honest);
    let mut published = 1;
    while code(&second, &format!("number {published}")).await == Code::Ok {
        published += 1;
        assert!(published < 5, "the budget is never reached");
    }
    assert!(published >= 2, "what was refused does not count");
    let refused = first.publish(vec![message(1, "number 100")]).await.unwrap_err();
    assert!(refused.message().contains("all callers together"), "{}", refused.message());
}

#[tokio::test]
async fn a_price_without_measure_leaves_the_shared_limits_in_force() {
    let Some(redis) = RedisServer::start().await else { return };
    let (first, second) = two(&redis, 1, policies("[default]\nenvelopes_per_day = 4")).await;
    *first.chain.gas_price_wei.lock() = u128::MAX;
    for (place, (net, text)) in [(&first, "a"), (&second, "b")].into_iter().enumerate() {
        let showing = first.chain.shown_by(place, &first.nodes);
        let publishing = net.publish(vec![commit(1, text)]);
        let (sent, ()) = futures_util::future::join(publishing, showing).await;
        assert!(sent.is_ok(), "{sent:?}");
    }
    *first.chain.gas_price_wei.lock() = 0;
    for (net, text) in [(&first, "c"), (&second, "d")] {
        assert_eq!(code(net, text).await, Code::Ok, "{text}");
    }
    for net in [&first, &second] {
        assert_eq!(code(net, "one more").await, Code::ResourceExhausted);
    }
}

#[tokio::test]
async fn without_redis_each_gateway_goes_on_with_its_own_limits() {
    let Some(redis) = RedisServer::start().await else { return };
    let (first, second) = two(&redis, 1, policies("[default]\nenvelopes_per_day = 3")).await;
    assert_eq!(code(&first, "a").await, Code::Ok);
    redis.kill();
    for (net, texts) in [(&first, &["b", "c"][..]), (&second, &["d", "e", "f"])] {
        for text in texts {
            assert_eq!(code(net, text).await, Code::Ok, "{text}");
        }
        assert_eq!(code(net, "one more").await, Code::ResourceExhausted);
    }
}

#[tokio::test]
async fn a_topic_that_has_moved_at_one_gateway_has_moved_at_the_other() {
    let Some(redis) = RedisServer::start().await else { return };
    let (first, second) = two(&redis, 2, |_| {}).await;
    let before = id_of(&first.publish(vec![message(1, "where?")]).await.unwrap()[0]).0;
    let at_second = id_of(&second.publish(vec![message(1, "and here?")]).await.unwrap()[0]).0;
    assert_eq!(at_second, before);
    first.node_of(before).becomes(Manner::Fails);
    let after = id_of(&first.publish(vec![message(1, "moves")]).await.unwrap()[0]).0;
    assert_ne!(after, before);
    // The node is well again, and alone it would get the topic back.
    first.node_of(before).becomes(Manner::Honest);
    let at_second = id_of(&second.publish(vec![message(1, "stays")]).await.unwrap()[0]).0;
    assert_eq!(at_second, after, "readers find the topic at one node");
    // A gateway that starts later knows it too.
    let link = Arc::new(RedisLink::connect(&redis.access()).await.unwrap());
    let ordered = |settings: &mut GatewaySettings| {
        settings.strategy = Strategy::Ordered(vec![OriginatorId(before)]);
    };
    let third = first.beside(ordered, |ports| ports.redis = Some(link)).await;
    let at_third = id_of(&third.publish(vec![message(1, "late")]).await.unwrap()[0]).0;
    assert_eq!(at_third, after);
}

#[tokio::test]
async fn a_gateway_whose_sender_is_halted_says_so_and_publishes_to_nodes() {
    let net = Net::start(1).await;
    *net.chain.halted.lock() = Some("Redis: no answer in time".into());
    until(async || net.unmet().await == ["app_chain_sender"]).await;
    assert_eq!(code(&net, "a").await, Code::Ok);
    *net.chain.halted.lock() = None;
    until(async || net.unmet().await.is_empty()).await;
}
