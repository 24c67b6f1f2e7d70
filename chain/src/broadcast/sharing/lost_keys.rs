//! Tests with a Redis that has lost a single key, as by an eviction.

use std::time::Duration;

use alloy::primitives::{B256, Bytes};

use super::redis_process::RedisServer;
use super::tests::process;
use super::{
    HourCost, JobId, Share, SharedHour, SharedNonces, SharedRecord, SharedTransaction, SyncRequest,
    SyncResponse,
};
use crate::admin::Wei;

const JOB: JobId = JobId(1);
const PAYLOAD: B256 = B256::repeat_byte(3);

/// Runs a command of a stranger about one of the keys.
async fn command(redis: &RedisServer, process: &SharedNonces, words: [&str; 2], more: &[&str]) {
    let [name, key] = words;
    let client = redis::Client::open(redis.url()).unwrap();
    // On a busy machine answers take long.
    let patient = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(60)))
        .set_response_timeout(None);
    let connected = client.get_multiplexed_async_connection_with_config(&patient).await;
    let mut command = redis::cmd(name);
    command.arg(format!("{}:{key}", process.base));
    for word in more {
        command.arg(*word);
    }
    command.query_async::<()>(&mut connected.unwrap()).await.unwrap();
}

/// Sends a heartbeat, repeatedly while Redis is too busy to answer.
async fn sync(process: &SharedNonces, request: &SyncRequest) -> SyncResponse {
    for _ in 0..60 {
        if let Ok(response) = process.sync(request).await {
            return response;
        }
    }
    panic!("Redis never answers")
}

/// Records the transaction of the payload.
async fn record(process: &SharedNonces) {
    for _ in 0..60 {
        let (payload, raw) = (Some(PAYLOAD), Bytes::from_static(b"raw"));
        let transaction =
            SharedTransaction { nonce: 0, payload, is_next: false, cost: Wei(0), raw };
        let hour = SharedHour { max: Wei(1), own: HourCost::default() };
        if let Ok(answers) = process.record(&[transaction], hour).await {
            return assert_eq!(answers, [SharedRecord::Recorded]);
        }
    }
    panic!("Redis never answers")
}

/// Asks for a nonce for the payload.
fn asks() -> SyncRequest {
    let wanted = vec![(JOB, PAYLOAD)];
    SyncRequest { floor: Some(0), wanted, ..SyncRequest::default() }
}

/// Ends the time in which all processes say what they hold.
async fn settle(redis: &RedisServer, process: &SharedNonces) {
    command(redis, process, ["HSET", "state"], &["since", "0"]).await;
}

/// Starts a Redis and two processes, of which the first one has the payload under way.
async fn payload_under_way() -> (RedisServer, SharedNonces, SharedNonces) {
    let redis = RedisServer::start();
    let (first, second) = (process(&redis).await, process(&redis).await);
    sync(&first, &SyncRequest::default()).await;
    sync(&second, &SyncRequest::default()).await;
    settle(&redis, &first).await;
    assert_eq!(sync(&first, &asks()).await.given, [(JOB, Share::Nonce(0))]);
    record(&first).await;
    (redis, first, second)
}

/// Otherwise the callers who ask another process for a payload would have it sent, and paid for, twice.
#[tokio::test]
async fn a_payload_under_way_gets_no_second_nonce_though_redis_loses_a_key() {
    for lost in [&["owner"][..], &["payload"], &["owner", "payload"]] {
        let (redis, first, second) = payload_under_way().await;
        for &key in lost {
            command(&redis, &first, ["DEL", key], &[]).await;
        }
        let told = sync(&second, &asks()).await.given;
        assert!(matches!(told[0].1, Share::Later | Share::Elsewhere), "{lost:?}: {told:?}");
        // The first process says what it holds, and records what is lost.
        let holds = SyncRequest { floor: Some(0), held: vec![0], ..SyncRequest::default() };
        if sync(&first, &holds).await.unrecorded == [0] {
            record(&first).await;
        }
        settle(&redis, &first).await;
        assert_eq!(sync(&second, &asks()).await.given, [(JOB, Share::Elsewhere)], "{lost:?}");
    }
}

/// Otherwise its transaction would stay on record without an owner, and the payload would get a second nonce.
#[tokio::test]
async fn a_payload_of_a_process_that_has_ended_is_taken_over_though_redis_loses_the_owners() {
    let (redis, first, second) = payload_under_way().await;
    command(&redis, &first, ["DEL", "owner"], &[]).await;
    assert_eq!(sync(&second, &asks()).await.given, [(JOB, Share::Elsewhere)]);
    settle(&redis, &first).await;
    for _ in 0..60 {
        // The second process has sent signs of life for long enough to take nonces over.
        command(&redis, &second, ["HSET", "since"], &[second.me.as_str(), "0"]).await;
        let response = sync(&second, &asks()).await;
        assert_eq!(response.given, [(JOB, Share::Elsewhere)], "it has its nonce");
        if let [(nonce, _)] = response.adopted[..] {
            return assert_eq!(nonce, 0);
        }
    }
    panic!("the nonce is never taken over")
}
