//! Tests of two gateways that share limits, budgets and the nodes of topics through a real Redis, and of one that
//! loses it.

use std::sync::Arc;

use hawser_chain::admin::WeiPerGas;
use hawser_chain::redis_link::RedisLink;
use hawser_gateway::chain::ChainPublishError;
use hawser_gateway::policy::config::PolicyFile;
use hawser_gateway::select::Strategy;
use hawser_gateway::{GatewaySettings, REDIS_ANSWER_LEN_BYTES_MAX};
use hawser_proto::OriginatorId;
use hawser_serve::StatusDetails;
use tonic::Code;

use super::fake_node::{Manner, id_of};
use super::fixture::{Net, SOON, commit, message, proposal, until};
use super::policies::{parse, publish_from};
use super::redis_server::RedisServer;
use super::strangers::hung_up;

/// Starts two gateways with the same nodes.
pub(super) async fn two(
    redis: &RedisServer,
    nodes: u32,
    adjust: impl Fn(&mut GatewaySettings),
) -> (Net, Net) {
    let [link, other] = [connect(redis).await, connect(redis).await];
    // A long time for answers: on a busy machine Redis may answer late, and the test needs its counts.
    let adjust = |settings: &mut GatewaySettings| {
        settings.shared_call_max = SOON;
        adjust(settings);
    };
    let first = Net::with(nodes, &adjust, |ports| ports.redis = Some(link.clone())).await;
    let second = first.beside(&adjust, |ports| ports.redis = Some(other.clone())).await;
    (first, second)
}

pub(super) async fn connect(redis: &RedisServer) -> Arc<RedisLink> {
    let link = RedisLink::connect(&redis.access(), REDIS_ANSWER_LEN_BYTES_MAX).await;
    Arc::new(link.unwrap())
}

pub(super) fn policies(text: &str) -> impl Fn(&mut GatewaySettings) {
    let file = PolicyFile::parse(&format!("[identity]\nkind = \"none\"\n{text}")).unwrap();
    move |settings| settings.policies = file.clone()
}

pub(super) async fn code(net: &Net, text: &str) -> Code {
    net.publish(vec![message(1, text)]).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// Returns the prefix of the gateways' keys in Redis.
pub(super) fn base() -> String {
    let payer = hawser_proto::SecretKey::from_bytes(&[9; 32]).unwrap().public_key().address();
    format!("test:gateway:{{{payer}}}")
}

/// Returns the number of envelope ids in Redis.
pub(super) async fn places(redis: &RedisServer) -> u64 {
    let mut redis = redis.connect().await;
    let mut count = 0;
    for generation in 0..2 {
        let key = format!("{}:landed:{generation}", base());
        count += redis::cmd("HLEN").arg(key).query_async::<u64>(&mut redis).await.unwrap();
    }
    count
}

#[tokio::test]
async fn a_caller_has_one_limit_at_both_gateways() {
    let redis = RedisServer::start();
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
async fn a_kind_has_one_limit_at_both_gateways() {
    for (of, whose) in [("default", "too many"), ("total", "all callers together")] {
        let redis = RedisServer::start();
        let limit = format!("[{of}]\nenvelopes_per_hour_by_kind = {{ message = 2 }}");
        let (first, second) = two(&redis, 1, policies(&limit)).await;
        assert_eq!(code(&first, "a").await, Code::Ok);
        assert_eq!(code(&second, "b").await, Code::Ok);
        for net in [&first, &second] {
            let refused = net.publish(vec![message(1, "one more")]).await.unwrap_err();
            assert_eq!(refused.code(), Code::ResourceExhausted);
            let text = refused.message();
            assert!(text.contains(whose) && text.contains("messages an hour"), "{text}");
            assert!(refused.metadata().contains_key("retry-after"));
        }
        assert_eq!(first.nodes[0].calls(), 2, "what is refused reaches no node");
    }
}

/// Otherwise the owner of a network would spend its share of what all callers may at each gateway.
#[tokio::test]
async fn a_network_has_one_limit_at_both_gateways() {
    let redis = RedisServer::start();
    let of_kind = "[total]\nenvelopes_per_hour_by_kind = { message = 100 }";
    let file = parse(&format!("[network]\nenvelopes_per_day = 3\n{of_kind}"));
    let (first, second) = two(&redis, 1, move |settings| settings.policies = file.clone()).await;
    let from = async |net: &Net, host: u8| {
        let address = format!("2001:db8:1:{host}::1");
        publish_from(net, &address, &format!("from {host}")).await
    };
    first.nodes[0].becomes(Manner::Refuses(1));
    for host in 1..=4 {
        let refused = from(&first, host).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "what is not published goes back");
    }
    first.nodes[0].becomes(Manner::Honest);
    for (host, net) in (1..).zip([&first, &second, &first]) {
        from(net, host).await.unwrap();
    }
    for net in [&first, &second] {
        let refused = from(net, 5).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let text = refused.message();
        assert!(text.contains("callers of this network") && text.contains("a day"), "{text}");
        assert!(refused.metadata().contains_key("retry-after"));
    }
    publish_from(&second, "2001:db8:2:1::1", "of another network").await.unwrap();
}

#[tokio::test]
async fn the_money_of_an_hour_is_counted_once_for_both_and_comes_back() {
    let redis = RedisServer::start();
    // An envelope of this size costs between one and two million picodollars.
    let budget = "[total]\npicodollars_per_hour = 4000000";
    let (first, second) = two(&redis, 1, policies(budget)).await;
    assert_eq!(code(&first, "a").await, Code::Ok);
    // A refused envelope is not published, and its price returns to the budgets of both gateways.
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
async fn a_request_makes_one_call_before_it_is_published_and_one_after() {
    let redis = RedisServer::start();
    let (first, _second) = two(&redis, 1, policies("[default]\nenvelopes_per_day = 100")).await;
    let calls = async || {
        let mut connection = redis.connect().await;
        let mut ask = redis::cmd("INFO");
        let text: String = ask.arg("commandstats").query_async(&mut connection).await.unwrap();
        let scripts = text.lines().filter(|line| line.starts_with("cmdstat_eval"));
        let calls = scripts.map(|line| line.split(['=', ',']).nth(1).unwrap().parse::<u64>());
        calls.map(Result::unwrap).sum::<u64>()
    };
    for round in 1..=3 {
        // Known and new topics.
        let topics = 0..round * 2;
        let envelopes = topics.map(|topic| message(topic, &format!("{topic} in {round}")));
        first.publish(envelopes.collect()).await.unwrap();
        assert_eq!(calls().await, 2 * u64::from(round), "round {round}");
    }
}

#[tokio::test]
async fn what_is_taken_in_redis_for_a_caller_who_has_gone_by_then_comes_back() {
    let redis = RedisServer::start();
    let (first, second) = two(&redis, 1, policies("[default]\nenvelopes_per_day = 1")).await;
    let mut connection = redis.connect().await;
    let mut pause = redis::cmd("CLIENT");
    pause.arg("PAUSE").arg(3_600_000).arg("WRITE");
    pause.query_async::<()>(&mut connection).await.unwrap();
    let is_asked = async || {
        let mut connection = redis.connect().await;
        let clients: String =
            redis::cmd("INFO").arg("clients").query_async(&mut connection).await.unwrap();
        clients.contains("blocked_clients:1\r\n")
    };
    tokio::select! {
        answer = first.publish(vec![message(1, "a")]) => panic!("{answer:?}"),
        () = until(is_asked) => {}
    }
    until(async || hung_up(&first).await == 1).await;
    redis::cmd("CLIENT").arg("UNPAUSE").query_async::<()>(&mut connection).await.unwrap();
    // Redis has counted this request before all later ones.
    until(async || code(&second, "b").await == Code::Ok).await;
    assert_eq!(code(&first, "c").await, Code::ResourceExhausted);
    assert_eq!(first.nodes[0].calls(), 1);
}

#[tokio::test]
async fn a_price_without_measure_leaves_the_shared_limits_in_force() {
    let redis = RedisServer::start();
    let (first, second) = two(&redis, 1, policies("[default]\nenvelopes_per_day = 4")).await;
    *first.chain.gas_price.lock() = WeiPerGas(u128::MAX);
    for (place, (net, text)) in [(&first, "a"), (&second, "b")].into_iter().enumerate() {
        let showing = first.chain.shown_by(place, &first.nodes);
        let publishing = net.publish(vec![commit(1, text)]);
        let (sent, ()) = futures_util::future::join(publishing, showing).await;
        assert!(sent.is_ok(), "{sent:?}");
    }
    *first.chain.gas_price.lock() = WeiPerGas(0);
    for (net, text) in [(&first, "c"), (&second, "d")] {
        assert_eq!(code(net, text).await, Code::Ok, "{text}");
    }
    for net in [&first, &second] {
        assert_eq!(code(net, "one more").await, Code::ResourceExhausted);
    }
}

#[tokio::test]
async fn a_redis_that_has_lost_the_scripts_or_loads_none_goes_on_counting() {
    let redis = RedisServer::start();
    let (first, second) = two(&redis, 1, policies("[default]\nenvelopes_per_day = 4")).await;
    assert_eq!(code(&first, "a").await, Code::Ok);
    let mut connection = redis.connect().await;
    redis::cmd("SCRIPT").arg("FLUSH").query_async::<()>(&mut connection).await.unwrap();
    assert_eq!(code(&first, "b").await, Code::Ok);
    // The second gateway has not loaded the script yet and must not load it; the first one must not use its loaded
    // script any more.
    let mut forbid = redis::cmd("ACL");
    forbid.arg("SETUSER").arg("default").arg("-script|load").arg("-evalsha");
    forbid.query_async::<()>(&mut connection).await.unwrap();
    for (net, text) in [(&second, "c"), (&first, "d")] {
        assert_eq!(code(net, text).await, Code::Ok, "{text}");
    }
    for net in [&first, &second] {
        assert_eq!(code(net, "one more").await, Code::ResourceExhausted);
    }
    assert_eq!(places(&redis).await, 4);
}

/// Redis had another clock before a failover to a replica, and gateways of earlier versions wrote times of their own.
#[tokio::test]
async fn a_time_in_redis_that_is_still_to_come_does_not_keep_buckets_from_filling() {
    const TO_COME_MS: &str = "9000000000000";
    for limit in ["envelopes_per_minute", "envelopes_per_minute_by_kind.message"] {
        let redis = RedisServer::start();
        let (first, _second) = two(&redis, 1, policies(&format!("[default]\n{limit} = 600"))).await;
        assert_eq!(code(&first, "a").await, Code::Ok);
        let mut connection = redis.connect().await;
        let of_caller = format!("{}:rl:*", base());
        let keys: Vec<String> =
            redis::cmd("KEYS").arg(of_caller).query_async(&mut connection).await.unwrap();
        let mut emptied = 0;
        for key in keys {
            let value = match key.rsplit(':').next() {
                Some("ts") => TO_COME_MS.to_owned(),
                Some("1") => "0".to_owned(),
                Some("60000") => format!("{TO_COME_MS} 0"),
                _ => continue, // counts of the hour and the day
            };
            let mut set = redis::cmd("SET");
            set.arg(key).arg(value).query_async::<()>(&mut connection).await.unwrap();
            emptied += 1;
        }
        assert!(emptied > 0);
        until(async || code(&first, "b").await == Code::Ok).await;
    }
}

/// The texts of a stranger are no numbers, or say that far more was taken than a bucket has.
#[tokio::test]
async fn texts_of_strangers_in_redis_end_no_limit_and_keep_no_bucket_from_filling() {
    for limit in ["envelopes_per_hour = 2", "envelopes_per_hour_by_kind = { message = 2 }"] {
        for (time, left) in [("x", "x"), ("0", "-1e18")] {
            let redis = RedisServer::start();
            let text = format!("[default]\n{limit}");
            let (first, second) = two(&redis, 1, policies(&text)).await;
            assert_eq!(code(&first, "a").await, Code::Ok);
            let mut connection = redis.connect().await;
            let of_caller = format!("{}:rl:*", base());
            let keys: Vec<String> =
                redis::cmd("KEYS").arg(of_caller).query_async(&mut connection).await.unwrap();
            let mut written = 0;
            for key in keys {
                let value = match key.rsplit(':').next() {
                    Some("ts") => time.to_owned(),
                    Some("2") => left.to_owned(),
                    Some("3600000") => format!("{time} {left}"),
                    _ => continue, // counts of the hour and the day
                };
                let mut set = redis::cmd("SET");
                set.arg(key).arg(value).query_async::<()>(&mut connection).await.unwrap();
                written += 1;
            }
            assert!(written > 0);
            assert_eq!(code(&second, "b").await, Code::Ok, "{limit}: {left}");
            assert_eq!(code(&first, "c").await, Code::Ok, "{limit}: {left}");
            let refused = code(&second, "d").await;
            assert_eq!(refused, Code::ResourceExhausted, "{limit}: {left}: they count together");
        }
    }
}

#[tokio::test]
async fn without_redis_each_gateway_goes_on_with_its_own_limits() {
    let redis = RedisServer::start();
    let (first, second) = two(&redis, 1, policies("[default]\nenvelopes_per_day = 3")).await;
    assert_eq!(code(&first, "a").await, Code::Ok);
    redis.kill();
    for (net, texts) in [(&first, &["b", "c"][..]), (&second, &["d", "e", "f"])] {
        for text in texts {
            assert_eq!(code(net, text).await, Code::Ok, "{text}");
        }
        assert_eq!(code(net, "one more").await, Code::ResourceExhausted);
        assert!(net.sample("xmtp_gateway_redis_failures_total").await > 0);
    }
}

#[tokio::test]
async fn a_topic_that_has_moved_at_one_gateway_has_moved_at_the_other() {
    let redis = RedisServer::start();
    let (first, second) = two(&redis, 2, |_| {}).await;
    let before = id_of(&first.publish(vec![message(1, "where?")]).await.unwrap()[0]).0;
    let at_second = id_of(&second.publish(vec![message(1, "and here?")]).await.unwrap()[0]).0;
    assert_eq!(at_second, before);
    first.node_of(before).becomes(Manner::Fails);
    let after = id_of(&first.publish(vec![message(1, "moves")]).await.unwrap()[0]).0;
    assert_ne!(after, before);
    // The node works again, and a single gateway would give it the topic back.
    first.node_of(before).becomes(Manner::Honest);
    let at_second = id_of(&second.publish(vec![message(1, "stays")]).await.unwrap()[0]).0;
    assert_eq!(at_second, after, "readers find the topic at one node");
    // A gateway that starts later learns it, too.
    let link = connect(&redis).await;
    let ordered = |settings: &mut GatewaySettings| {
        settings.strategy = Strategy::Ordered(vec![OriginatorId(before)]);
        settings.shared_call_max = SOON;
    };
    let third = first.beside(ordered, |ports| ports.redis = Some(link)).await;
    let at_third = id_of(&third.publish(vec![message(1, "late")]).await.unwrap()[0]).0;
    assert_eq!(at_third, after);
}

/// Each of two gateways remembers another node of a topic, and Redis has none, or a text of a stranger.
#[tokio::test]
async fn a_topic_that_redis_has_lost_is_shared_again_and_stays_at_one_node() {
    for is_emptied in [true, false] {
        let redis = RedisServer::start();
        let (first, second) = two(&redis, 2, |_| {}).await;
        let before = id_of(&second.publish(vec![message(1, "where?")]).await.unwrap()[0]).0;
        first.node_of(before).becomes(Manner::Fails);
        let after = id_of(&first.publish(vec![message(1, "moves")]).await.unwrap()[0]).0;
        assert_ne!(after, before);
        first.node_of(before).becomes(Manner::Honest);
        let mut connection = redis.connect().await;
        if is_emptied {
            redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await.unwrap();
        } else {
            let mut written = 0;
            for generation in 0..2 {
                let key = format!("{}:topics:{generation}", base());
                let topics: Vec<Vec<u8>> =
                    redis::cmd("HKEYS").arg(&key).query_async(&mut connection).await.unwrap();
                for topic in topics {
                    let mut set = redis::cmd("HSET");
                    set.arg(&key).arg(topic).arg("no node");
                    set.query_async::<()>(&mut connection).await.unwrap();
                    written += 1;
                }
            }
            assert_eq!(written, 1);
        }
        let at_first = id_of(&first.publish(vec![message(1, "stays")]).await.unwrap()[0]).0;
        assert_eq!(at_first, after);
        let at_second = id_of(&second.publish(vec![message(1, "and here?")]).await.unwrap()[0]).0;
        assert_eq!(at_second, after, "readers find the topic at one node");
    }
}

/// Its caller may have asked another gateway before, and would have it sent elsewhere as well.
#[tokio::test]
async fn what_waits_at_a_gateway_is_called_unsent_only_if_no_other_one_may_send_it() {
    let redis = RedisServer::start();
    let (sharing, _other) = two(&redis, 1, |_| {}).await;
    for (net, reason) in [(sharing, "TRANSACTION_UNKNOWN"), (Net::start(1).await, "NOT_SENT")] {
        net.chain.faults.lock().push(ChainPublishError::NotSent("no gas".into()));
        let failed = net.publish(vec![proposal(1, "a"), commit(1, "b")]).await.unwrap_err();
        assert_eq!(failed.code(), Code::Unavailable);
        let wrong = StatusDetails::wrong_of(&failed);
        let reasons: Vec<&str> = wrong.iter().map(|it| &*it.reason).collect();
        assert_eq!(reasons, ["NOT_SENT", reason], "the second one was not passed to the writer");
    }
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
