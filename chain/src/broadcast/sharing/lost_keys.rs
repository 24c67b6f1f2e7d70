//! Tests with a Redis that has lost a single key, as by an eviction.

use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes};

use super::redis_process::RedisServer;
use super::{
    HourCost, JobId, Share, SharedHour, SharedNonces, SharedRecord, SharedTransaction, SyncRequest,
    SyncResponse,
};
use crate::admin::Wei;
use crate::redis_link::RedisAccess;

const JOB: JobId = JobId(1);
const PAYLOAD: B256 = B256::repeat_byte(3);

async fn process(redis: &RedisServer) -> SharedNonces {
    let access = RedisAccess {
        url: redis.url(),
        key_prefix: "test:".into(),
        connect_timeout: Duration::from_secs(60),
    };
    SharedNonces::connect(&access, 1, Address::ZERO).await.unwrap()
}

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

/// Otherwise the callers who ask another process for a payload would have it sent, and paid for, twice.
#[tokio::test]
async fn a_payload_under_way_gets_no_second_nonce_though_redis_loses_a_key() {
    for lost in ["owner", "payload"] {
        let redis = RedisServer::start();
        let (first, second) = (process(&redis).await, process(&redis).await);
        let asks = || SyncRequest {
            floor: Some(0),
            wanted: vec![(JOB, PAYLOAD)],
            ..SyncRequest::default()
        };
        sync(&first, &SyncRequest::default()).await;
        sync(&second, &SyncRequest::default()).await;
        // All processes have had the time to say what they hold.
        let settle = async || command(&redis, &first, ["HSET", "state"], &["since", "0"]).await;
        settle().await;
        assert_eq!(sync(&first, &asks()).await.given, [(JOB, Share::Nonce(0))]);
        record(&first).await;
        command(&redis, &first, ["DEL", lost], &[]).await;
        let told = sync(&second, &asks()).await.given;
        assert!(matches!(told[0].1, Share::Later | Share::Elsewhere), "{lost}: {told:?}");
        // The first process says what it holds, and records what is lost.
        let holds = SyncRequest { floor: Some(0), held: vec![0], ..SyncRequest::default() };
        if sync(&first, &holds).await.unrecorded == [0] {
            record(&first).await;
        }
        settle().await;
        assert_eq!(sync(&second, &asks()).await.given, [(JOB, Share::Elsewhere)], "{lost}");
    }
}
