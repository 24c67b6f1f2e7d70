//! A real Redis server for a test, and access to it.

mod process;

use std::time::Duration;

use hawser_chain::redis_link::RedisAccess;
pub(crate) use process::RedisServer;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;

impl RedisServer {
    pub(crate) fn access(&self) -> RedisAccess {
        RedisAccess {
            url: self.url(),
            key_prefix: "test:".into(),
            connect_timeout: Duration::from_secs(5),
        }
    }

    pub(crate) async fn connect(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url()).unwrap();
        // On a busy machine answers take long.
        let patient = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(60)))
            .set_response_timeout(None);
        client.get_multiplexed_async_connection_with_config(&patient).await.unwrap()
    }
}
