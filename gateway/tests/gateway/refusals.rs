//! Tests of refused requests: they take nothing that other callers, or later requests of the same caller, need.

use tonic::Code;

use super::fake_node::Manner;
use super::fixture::Net;
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
