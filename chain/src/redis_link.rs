//! The connection to a Redis that several processes share.
//!
//! Every decision is one script, which Redis runs as a whole. What Redis answers is the operator's own data and
//! is parsed all the same: another program may write to it, and it may be restored or emptied.

use std::fmt;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, FromRedisValue};
use tokio::time::timeout;

/// The Redis, and the beginning of the keys.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisAccess {
    /// URL, such as `redis://127.0.0.1:6379/0`. It may contain a password.
    pub url: String,
    /// The beginning of every key.
    pub key_prefix: String,
    /// Time limit of a connection.
    pub connect_timeout: Duration,
}

impl fmt::Debug for RedisAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisAccess({:?})", self.key_prefix)
    }
}

/// Redis does not answer, or answers something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Redis: {reason}")]
pub struct RedisFault {
    reason: String,
    is_answer: bool,
}

impl RedisFault {
    /// Returns whether Redis itself has answered with this error: it is there, and a script does not do.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        self.is_answer
    }
}

/// A connection that is made anew after a failure.
pub struct RedisLink {
    client: Client,
    config: AsyncConnectionConfig,
    key_prefix: String,
    connection: tokio::sync::Mutex<Option<MultiplexedConnection>>,
}

impl fmt::Debug for RedisLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisLink({:?})", self.key_prefix)
    }
}

impl RedisLink {
    /// Connects, and waits for the answer to a ping.
    ///
    /// # Errors
    /// When the URL is none, or Redis does not answer.
    pub async fn connect(access: &RedisAccess) -> Result<Self, RedisFault> {
        let client = Client::open(access.url.as_str()).map_err(fault)?;
        // Each call has a limit of its own.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(access.connect_timeout))
            .set_response_timeout(None);
        let key_prefix = access.key_prefix.clone();
        let link = Self { client, config, key_prefix, connection: tokio::sync::Mutex::default() };
        let ping = redis::cmd("PING");
        let answered: String = link.within(access.connect_timeout, &ping).await?;
        tracing::debug!(answered, "connected to Redis");
        Ok(link)
    }

    /// Returns the key of this name.
    #[must_use]
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.key_prefix)
    }

    /// Runs a script.
    ///
    /// # Errors
    /// When the answer does not come within `limit`, or has another form. Redis may have run the script all the
    /// same.
    pub async fn eval<T: FromRedisValue>(
        &self,
        limit: Duration,
        script: &str,
        keys: &[String],
        arguments: &[Vec<u8>],
    ) -> Result<T, RedisFault> {
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(keys.len());
        keys.iter().for_each(|key| {
            command.arg(key);
        });
        arguments.iter().for_each(|argument| {
            command.arg(argument.as_slice());
        });
        self.within(limit, &command).await
    }

    async fn within<T: FromRedisValue>(
        &self,
        limit: Duration,
        command: &redis::Cmd,
    ) -> Result<T, RedisFault> {
        let asked = timeout(limit, self.ask(command)).await;
        let late = || RedisFault { reason: "no answer in time".into(), is_answer: false };
        let answer = asked.unwrap_or_else(|_| Err(late()));
        if answer.is_err() {
            // The next call connects anew.
            if let Ok(mut connection) = self.connection.try_lock() {
                *connection = None;
            }
        }
        answer
    }

    async fn ask<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, RedisFault> {
        let mut connection = {
            let mut held = self.connection.lock().await;
            match &*held {
                Some(connection) => connection.clone(),
                None => {
                    let config = &self.config;
                    let new = self.client.get_multiplexed_async_connection_with_config(config);
                    held.insert(new.await.map_err(fault)?).clone()
                }
            }
        };
        command.query_async(&mut connection).await.map_err(fault)
    }
}

fn fault(error: redis::RedisError) -> RedisFault {
    RedisFault { reason: error.to_string(), is_answer: error.code().is_some() }
}

/// Returns a number as an argument of a script.
#[must_use]
pub fn number(value: u64) -> Vec<u8> {
    value.to_string().into_bytes()
}
