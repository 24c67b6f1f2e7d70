//! Limits that two nodes share through a real Redis, and their behaviour when it fails.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hawser_api::{ApiSettings, ApiStartError, NoPeers, RateLimitSettings, RedisSettings};
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::Code;

use crate::common::*;
use crate::redis_server::RedisServer;

/// A Redis server for the nodes of a test.
struct Redis(RedisServer);

impl Redis {
    fn start() -> Self {
        Self(RedisServer::start())
    }

    fn settings(&self) -> RedisSettings {
        RedisSettings {
            call_timeout: Duration::from_secs(5),
            breaker_cooldown: Duration::from_millis(50),
            stream_refresh_interval: Duration::from_millis(20),
            ..RedisSettings::new(self.0.url())
        }
    }

    async fn node(&self) -> Node {
        Self::node_with(self.settings()).await
    }

    /// Returns the number of scripts that Redis has run.
    async fn scripts(&self) -> u64 {
        let client = redis::Client::open(self.settings().url).unwrap();
        let mut direct = client.get_multiplexed_async_connection().await.unwrap();
        let mut info = redis::cmd("INFO");
        info.arg("commandstats");
        let stats: String = info.query_async(&mut direct).await.unwrap();
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_eval:calls="));
        calls.and_then(|calls| calls.split(',').next()).unwrap().parse().unwrap()
    }

    async fn node_with(redis: RedisSettings) -> Node {
        let limit = |settings: &mut ApiSettings| {
            let redis = Some(redis);
            settings.rate_limits =
                Some(RateLimitSettings { redis, ..RateLimitSettings::default() });
        };
        node_with(limit, Arc::new(NoPeers)).await
    }
}

/// A proxy to Redis that forwards requests at once and can hold back the answers.
struct Gate {
    port: u16,
    open: watch::Sender<bool>,
}

impl Gate {
    async fn start(redis: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (open, is_open) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((node, _)) = listener.accept().await {
                let (mut from_node, mut to_node) = node.into_split();
                let redis = TcpStream::connect(("127.0.0.1", redis)).await.unwrap();
                let (mut from_redis, mut to_redis) = redis.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from_node, &mut to_redis).await });
                let mut is_open = is_open.clone();
                tokio::spawn(async move {
                    let mut answer = [0; 4096];
                    while let Ok(len @ 1..) = from_redis.read(&mut answer).await {
                        let _ = is_open.wait_for(|open| *open).await;
                        let _ = to_node.write_all(&answer[..len]).await;
                    }
                });
            }
        });
        Self { port, open }
    }
}

const OPEN_STREAMS: &str = r#"xmtp_api_open_connections_gauge{style="stream",method="/xmtp.xmtpv4.message_api.NotificationApi/SubscribeAllEnvelopes"}"#;
const NEWEST: &str = r#"xmtpd_rate_limit_decisions_total{service="QueryApi",method="GetNewestEnvelope",tier="tier2",outcome=""#;

#[tokio::test]
async fn two_processes_share_the_limits_of_a_caller() {
    let redis = Redis::start();
    let nodes = [redis.node().await, redis.node().await];
    let request = pb::GetNewestEnvelopeRequest::default;
    // The clock of these nodes does not move, so no tokens are added.
    for number in 0..60 {
        let mut client = nodes[number % 2].query().await;
        client.get_newest_envelope(request()).await.unwrap();
    }
    for node in &nodes {
        let error = node.query().await.get_newest_envelope(request()).await.unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted);
        assert_eq!(error.metadata().get("retry-after").unwrap(), "1");
    }
    for node in &nodes {
        node.clock.advance(1);
    }
    nodes[1].query().await.get_newest_envelope(request()).await.unwrap();
    assert!(nodes[0].query().await.get_newest_envelope(request()).await.is_err());

    // All or nothing: a call that is refused by the limit of opens takes no tokens.
    let filter =
        pb::subscribe_topics_request::TopicFilter { topic: topic_bytes(1), last_seen: None };
    for node in &nodes {
        node.clock.advance(3600);
    }
    let open = || pb::SubscribeTopicsRequest { filters: vec![filter.clone()] };
    let mut client = nodes[0].query().await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(client.subscribe_topics(open()).await.unwrap());
    }
    for _ in 0..60 {
        let error = client.subscribe_topics(open()).await.unwrap_err();
        assert_eq!(error.metadata().get("retry-after").unwrap(), "6");
    }
    for _ in 0..50 {
        client.get_newest_envelope(request()).await.unwrap();
    }
    assert!(client.get_newest_envelope(request()).await.is_err());
}

/// The clock of each process adds tokens up to its own time, which must not be later than that of the others.
#[tokio::test]
async fn a_clock_that_is_ahead_keeps_no_tokens_from_the_callers_of_another_process() {
    const YEAR_S: i64 = 365 * 24 * 3600;
    let redis = Redis::start();
    let [ahead, other] = [redis.node().await, redis.node().await];
    ahead.clock.advance(100 * YEAR_S);
    other.clock.advance(50 * YEAR_S); // later than the time of Redis, too
    let request = pb::GetNewestEnvelopeRequest::default;
    let mut client = ahead.query().await;
    while client.get_newest_envelope(request()).await.is_ok() {}
    let mut client = other.query().await;
    for _ in 0..1500 {
        if client.get_newest_envelope(request()).await.is_ok() {
            return;
        }
        other.clock.advance(1); // so that the node asks Redis again
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no token was added");
}

/// Another program writes once into the keys of a caller.
#[tokio::test]
async fn values_of_other_programs_in_redis_end_no_limit_and_keep_no_caller_out() {
    let redis = Redis::start();
    let node = redis.node().await;
    let direct = redis::Client::open(redis.settings().url).unwrap();
    let mut direct = direct.get_multiplexed_async_connection().await.unwrap();
    let mut write = async |key: &str, command: &str, value: &str| {
        redis::cmd("DEL").arg(key).query_async::<()>(&mut direct).await.unwrap();
        redis::cmd(command).arg(key).arg(value).query_async::<()>(&mut direct).await.unwrap();
    };
    let mut client = node.query().await;
    let request = pb::GetNewestEnvelopeRequest::default;
    for (command, value) in [("SET", "x"), ("RPUSH", "a list")] {
        for part in ["ts", "1", "2"] {
            write(&format!("xmtpd:rl:t2:q:127.0.0.1:{part}"), command, value).await;
        }
        for _ in 0..60 {
            client.get_newest_envelope(request()).await.unwrap();
        }
        let error = client.get_newest_envelope(request()).await.unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted, "{command}: a bucket as if it was new");
        node.clock.advance(60);
    }
    write("xmtpd:rl:t2:q:127.0.0.1:1", "SET", "-1000000000").await;
    node.clock.advance(60);
    client.get_newest_envelope(request()).await.expect("no bucket is emptier than empty");
    for time in ["x", "nan"] {
        write("xmtpd:rl:t2:q:127.0.0.1:ts", "SET", time).await;
        write("xmtpd:rl:t2:q:127.0.0.1:1", "SET", "0").await;
        client.get_newest_envelope(request()).await.expect("it would never get a token");
    }

    let mut client = node.notification().await;
    let all = pb::SubscribeAllEnvelopesRequest::default;
    write("xmtpd:rl:streams:127.0.0.1", "SET", "x").await;
    let _open = [
        client.subscribe_all_envelopes(all()).await.unwrap(),
        client.subscribe_all_envelopes(all()).await.unwrap(),
    ];
    let error = client.subscribe_all_envelopes(all()).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
}

/// Redis had another clock before a failover to a replica, or another program has written the time.
#[tokio::test]
async fn a_time_in_redis_that_is_still_to_come_keeps_no_tokens_from_a_caller() {
    let redis = Redis::start();
    let node = redis.node().await;
    let mut client = node.query().await;
    let request = pb::GetNewestEnvelopeRequest::default;
    while client.get_newest_envelope(request()).await.is_ok() {}
    let direct = redis::Client::open(redis.settings().url).unwrap();
    let mut direct = direct.get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*:ts").query_async(&mut direct).await.unwrap();
    assert_eq!(keys.len(), 1);
    let mut set = redis::cmd("SET");
    set.arg(&keys[0]).arg("9000000000000").arg("KEEPTTL");
    set.query_async::<()>(&mut direct).await.unwrap();
    for _ in 0..10 {
        node.clock.advance(1); // so that the node asks Redis again
        if client.get_newest_envelope(request()).await.is_ok() {
            return;
        }
    }
    panic!("no token was added");
}

/// A refused call costs its caller next to nothing. Callers without tokens could keep Redis so busy with their calls
/// that it answers late, and then all calls pass.
#[tokio::test]
async fn a_caller_that_redis_has_refused_costs_redis_nothing_until_its_call_fits() {
    let redis = Redis::start();
    let node = redis.node().await;
    let mut client = node.query().await;
    let request = pb::GetNewestEnvelopeRequest::default;
    while client.get_newest_envelope(request()).await.is_ok() {}
    let before = redis.scripts().await;
    for _ in 0..100 {
        let error = client.get_newest_envelope(request()).await.unwrap_err();
        assert_eq!(error.metadata().get("retry-after").unwrap(), "1");
    }
    assert_eq!(redis.scripts().await, before);
    node.clock.advance(1);
    client.get_newest_envelope(request()).await.unwrap();
    assert_eq!(redis.scripts().await, before + 1);
}

/// The rest of such a call is done beside the runtime's threads.
#[tokio::test]
async fn calls_of_ten_thousand_topics_go_on_when_redis_has_answered() {
    let redis = Redis::start();
    let node = redis.node().await;
    node.publish(vec![message(1, "text")]).await;
    let other = |number: u32| Bytes::from([&[0][..], &number.to_be_bytes()].concat());
    let topics: Vec<Bytes> = (1..10_000).map(other).chain([topic_bytes(1)]).collect();
    let mut client = node.query().await;
    let query = pb::EnvelopesQuery { topics: topics.clone(), ..pb::EnvelopesQuery::default() };
    let request = pb::QueryEnvelopesRequest { query: Some(query), limit: 0 };
    let page = client.query_envelopes(request).await.unwrap().into_inner();
    assert_eq!(page.envelopes.len(), 1);

    node.clock.advance(3600);
    let filter = |topic: &Bytes| pb::subscribe_topics_request::TopicFilter {
        topic: topic.clone(),
        last_seen: None,
    };
    let request = pb::SubscribeTopicsRequest { filters: topics.iter().map(filter).collect() };
    let mut stream = client.subscribe_topics(request).await.unwrap().into_inner();
    loop {
        use pb::subscribe_topics_response::Response;
        let message = stream.message().await.unwrap().unwrap();
        if let Some(Response::Envelopes(of_stream)) = message.response {
            assert_eq!(of_stream.envelopes, page.envelopes);
            break;
        }
    }

    node.clock.advance(3600);
    let newest = client.get_newest_envelope(pb::GetNewestEnvelopeRequest { topics }).await.unwrap();
    let found =
        newest.into_inner().results.iter().filter(|it| it.originator_envelope.is_some()).count();
    assert_eq!(found, 1);
}

#[tokio::test]
async fn two_processes_share_the_places_of_streams() {
    let redis = Redis::start();
    let nodes = [redis.node().await, redis.node().await];
    let mut clients = [nodes[0].notification().await, nodes[1].notification().await];
    let all = pb::SubscribeAllEnvelopesRequest::default;
    let first = clients[0].subscribe_all_envelopes(all()).await.unwrap();
    let _second = clients[1].subscribe_all_envelopes(all()).await.unwrap();
    for client in &mut clients {
        let error = client.subscribe_all_envelopes(all()).await.unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted);
    }
    drop(first);
    let mut third = clients[1].subscribe_all_envelopes(all()).await;
    while third.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        third = clients[1].subscribe_all_envelopes(all()).await;
    }
}

#[tokio::test]
async fn a_place_comes_back_when_its_call_ends_before_redis_answers() {
    let redis = Redis::start();
    let gate = Gate::start(redis.0.port).await;
    let settings = RedisSettings {
        url: format!("redis://127.0.0.1:{}/0", gate.port),
        call_timeout: Duration::from_secs(60),
        ..redis.settings()
    };
    let node = Redis::node_with(settings).await;
    let direct = redis::Client::open(redis.settings().url).unwrap();
    let mut direct = direct.get_multiplexed_async_connection().await.unwrap();
    let mut until_places = async |expected: i64| {
        let mut places = None::<i64>;
        for _ in 0..4000 {
            let mut get = redis::cmd("GET");
            get.arg("xmtpd:rl:streams:127.0.0.1");
            places = get.query_async(&mut direct).await.unwrap();
            if places == Some(expected) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{places:?} are taken, not {expected}");
    };
    gate.open.send_replace(false);
    let mut client = node.notification().await;
    let call = tokio::spawn(async move {
        client.subscribe_all_envelopes(pb::SubscribeAllEnvelopesRequest::default()).await
    });
    until_places(1).await;
    call.abort();
    node.until_sample(OPEN_STREAMS, 0.0).await;
    gate.open.send_replace(true);
    until_places(0).await;
}

#[tokio::test]
async fn calls_pass_while_redis_is_gone_and_are_limited_again_when_it_is_back() {
    let redis = Redis::start();
    let node = redis.node().await;
    let mut client = node.query().await;
    let request = pb::GetNewestEnvelopeRequest::default;
    client.get_newest_envelope(request()).await.unwrap();
    let port = redis.0.kill();
    for _ in 0..100 {
        client.get_newest_envelope(request()).await.unwrap();
    }
    let failed_open = node.sample(&format!("{NEWEST}failed_open\"}}")).await;
    assert!(failed_open >= Some(99.0), "{failed_open:?}");
    assert!(node.sample("xmtpd_rate_limit_circuit_breaker_trips_total").await >= Some(1.0));
    let mut all = node.notification().await;
    let request_all = pb::SubscribeAllEnvelopesRequest::default;
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(all.subscribe_all_envelopes(request_all()).await.unwrap());
    }

    let _redis = RedisServer::start_at(port).unwrap();
    while client.get_newest_envelope(request()).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(node.sample("xmtpd_rate_limit_circuit_breaker_state").await, Some(0.0));
}

#[tokio::test]
async fn a_node_does_not_start_without_the_redis_that_it_relies_on() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let engine = node().await.engine;
    for url in [format!("redis://127.0.0.1:{port}/0"), "http://127.0.0.1".to_owned()] {
        let redis = Some(RedisSettings::new(url));
        let settings = ApiSettings {
            listen: None,
            metrics: None,
            rate_limits: Some(RateLimitSettings { redis, ..RateLimitSettings::default() }),
            ..ApiSettings::default()
        };
        let started = hawser_api::start(settings, engine.clone(), Arc::new(NoPeers)).await;
        assert!(matches!(started, Err(ApiStartError::Redis(_))));
    }
}
