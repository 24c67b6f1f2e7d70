//! Tests with a Redis that executes calls and whose answers come late.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use hawser_chain::redis_link::{RedisAccess, RedisLink};
use hawser_gateway::{GatewaySettings, REDIS_ANSWER_LEN_BYTES_MAX};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::Code;

use super::fake_node::Manner;
use super::fixture::{Net, SOON, message, until};
use super::redis_server::RedisServer;
use super::sharing::{code, policies};

/// A real Redis behind a proxy that can delay its answers.
struct LateRedis {
    redis: RedisServer,
    port: u16,
    is_held: watch::Sender<bool>,
}

impl LateRedis {
    async fn start() -> Self {
        let redis = RedisServer::start();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_held, held) = watch::channel(false);
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, redis.port));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else { return };
                let ((from, to), (back, answers)) = (client.into_split(), server.into_split());
                let (_, never) = watch::channel(false);
                tokio::spawn(pass_on(from, answers, never));
                tokio::spawn(pass_on(back, to, held.clone()));
            }
        });
        Self { redis, port, is_held }
    }

    async fn link(&self) -> Arc<RedisLink> {
        let url = format!("redis://127.0.0.1:{}/0", self.port);
        let access = RedisAccess { url, ..self.redis.access() };
        Arc::new(RedisLink::connect(&access, REDIS_ANSWER_LEN_BYTES_MAX).await.unwrap())
    }

    /// Starts a gateway with this Redis, one node and these policies.
    async fn gateway(&self, text: &str) -> Net {
        let link = self.link().await;
        let adjust = |settings: &mut GatewaySettings| policies(text)(settings);
        Net::with(1, adjust, |ports| ports.redis = Some(link)).await
    }

    fn hold(&self, is_held: bool) {
        self.is_held.send_replace(is_held);
    }

    /// Returns the number of envelopes of all callers that Redis has counted.
    async fn counted(&self) -> u64 {
        let mut redis = self.redis.connect().await;
        let keys: Vec<String> =
            redis::cmd("KEYS").arg("*:rl-total:d*").query_async(&mut redis).await.unwrap();
        let mut sum = 0;
        for key in keys {
            let mut get = redis::cmd("HGET");
            get.arg(key).arg("e");
            sum += get.query_async::<Option<u64>>(&mut redis).await.unwrap().unwrap_or(0);
        }
        sum
    }
}

/// Passes bytes on, and waits before each part while `held` is true.
async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut held: watch::Receiver<bool>) {
    let mut part = vec![0; 16_384];
    while let Ok(len @ 1..) = from.read(&mut part).await {
        // An error means that the test has ended, or that this direction is never held.
        let _ = held.wait_for(|is_held| !is_held).await;
        if to.write_all(&part[..len]).await.is_err() {
            return;
        }
    }
}

const LIMIT: &str = "[default]\nenvelopes_per_day = 100";

#[tokio::test]
async fn what_redis_takes_late_for_a_request_that_was_refused_comes_back() {
    let late = LateRedis::start().await;
    let net = late.gateway(LIMIT).await;
    net.nodes[0].becomes(Manner::Refuses(1));
    late.hold(true);
    assert_eq!(code(&net, "refused").await, Code::InvalidArgument);
    until(async || late.counted().await == 1).await;
    late.hold(false);
    until(async || late.counted().await == 0).await;
}

#[tokio::test]
async fn of_costs_that_redis_takes_late_only_published_envelopes_stay_counted() {
    let late = LateRedis::start().await;
    let net = late.gateway(LIMIT).await;
    late.hold(true);
    // An envelope that is in a request twice is published once.
    let answer = net.publish(vec![message(1, "a"), message(1, "a")]).await.unwrap();
    assert_eq!(answer[0], answer[1]);
    until(async || late.counted().await == 2).await;
    late.hold(false);
    until(async || late.counted().await == 1).await;
}

#[tokio::test]
async fn tokens_that_redis_takes_and_a_limit_of_the_gateway_refuses_go_back_to_the_buckets_in_redis()
 {
    for limit in ["envelopes_per_hour = 2", "envelopes_per_hour_by_kind = { message = 2 }"] {
        let late = LateRedis::start().await;
        let adjust = |settings: &mut GatewaySettings| {
            policies(&format!("[total]\n{limit}"))(settings);
            settings.shared_call_max = SOON; // the answers are waited for
        };
        let [link, other] = [late.link().await, late.link().await];
        let first = Net::with(1, adjust, |ports| ports.redis = Some(link)).await;
        let second = first.beside(adjust, |ports| ports.redis = Some(other)).await;
        assert_eq!(code(&first, "a").await, Code::Ok);
        // The first gateway has one left of its limit, and Redis has forgotten what was taken.
        let mut connection = late.redis.connect().await;
        redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await.unwrap();
        late.hold(true);
        let releasing = async {
            until(async || late.counted().await == 2).await;
            late.hold(false);
        };
        let (one, two, ()) = tokio::join!(code(&first, "b"), code(&first, "c"), releasing);
        let codes = [one, two];
        assert!(codes.contains(&Code::Ok), "{codes:?}");
        assert!(codes.contains(&Code::ResourceExhausted), "{codes:?}");
        until(async || code(&second, "d").await == Code::Ok).await;
        assert_eq!(code(&second, "e").await, Code::ResourceExhausted, "no more came back");
    }
}
