//! A real Redis for a test, on a port of its own and without a disk.

#![allow(dead_code, reason = "every test file uses a part of this")]

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use hawser_chain::redis_link::RedisAccess;
use redis::aio::MultiplexedConnection;

/// A Redis server, which ends with this value.
pub(crate) struct RedisServer {
    pub(crate) port: u16,
    process: Child,
}

impl RedisServer {
    /// Starts one; `None` with a message if this machine has none.
    pub(crate) async fn start() -> Option<Self> {
        loop {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            // Another test may have taken the port since: then this one ends, and the next is tried.
            match Self::start_at(port).await? {
                Ok(redis) => return Some(redis),
                Err(status) => eprintln!("redis-server ended: {status}"),
            }
        }
    }

    /// Starts one at this port and waits until it answers, or ends.
    pub(crate) async fn start_at(port: u16) -> Option<Result<Self, ExitStatus>> {
        let started = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"])
            .arg(port.to_string())
            .stdout(Stdio::null())
            .spawn();
        let process = match started {
            Ok(process) => process,
            Err(error) => {
                eprintln!(
                    "SKIPPED: redis-server cannot be started ({error}); install redis-server"
                );
                return None;
            }
        };
        let mut redis = Self { port, process };
        loop {
            if let Some(status) = redis.process.try_wait().unwrap() {
                return Some(Err(status));
            }
            if let Ok(mut connection) = redis.try_connect().await
                && redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
            {
                return Some(Ok(redis));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub(crate) fn access(&self) -> RedisAccess {
        RedisAccess {
            url: self.url(),
            key_prefix: "test:".into(),
            connect_timeout: Duration::from_secs(5),
        }
    }

    async fn try_connect(&self) -> Result<MultiplexedConnection, redis::RedisError> {
        redis::Client::open(self.url())?.get_multiplexed_async_connection().await
    }

    pub(crate) async fn connect(&self) -> MultiplexedConnection {
        self.try_connect().await.unwrap()
    }

    /// Ends it at once. Returns its port.
    pub(crate) fn kill(mut self) -> u16 {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.port
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
