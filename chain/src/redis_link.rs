//! A connection to a Redis server that several processes share.
//!
//! Each operation is one Lua script, which Redis runs atomically. The first call of a script sends its text and later
//! calls its digest, because texts are longer than their arguments. The data in Redis belongs to the operator, but
//! answers are still validated and bounded: other programs may write to it, and it may be restored or emptied.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hawser_dial::{RedisConnection, RedisConnectionSettings};
use hawser_proto::one_line;
use parking_lot::Mutex;
use redis::{Client, FromRedisValue};
use tokio::time::timeout;

/// The length of a script's digest: SHA-1 in hexadecimal. Specified: `SCRIPT LOAD` of Redis.
const DIGEST_LEN: usize = 40;

/// The address of a Redis server, and the prefix of the keys.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisAccess {
    /// The URL, such as `redis://127.0.0.1:6379/0`. It may contain a password.
    pub url: String,
    /// The prefix of every key.
    pub key_prefix: String,
    /// The time limit of connecting.
    pub connect_timeout: Duration,
}

impl fmt::Debug for RedisAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisAccess({:?})", self.key_prefix)
    }
}

/// A failed call of Redis: no answer, or an unexpected one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Redis: {reason}")]
pub struct RedisLinkError {
    reason: String,
    reply: RedisReply,
}

/// The reply to a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RedisReply {
    /// None, or one that no Redis sends.
    None,
    /// Redis has no script with this digest, because it was restarted or its scripts were flushed, or this user may not
    /// call scripts by digest. Nothing was run.
    WantsText,
    /// Another error of Redis.
    Error,
}

impl RedisLinkError {
    /// Returns true if Redis itself returned this error, so it is reachable and the script is at fault.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        self.reply != RedisReply::None
    }
}

/// The time limits of a call that waits for a late answer.
#[derive(Debug, Clone, Copy)]
pub struct CallTimeLimits {
    /// The time limit for connecting and for an answer.
    pub answer: Duration,
    /// The further time for which a late answer is awaited, after `answer`.
    pub late_answer: Duration,
}

/// A connection that is re-established after a failure.
pub struct RedisLink {
    client: Client,
    settings: RedisConnectionSettings,
    key_prefix: String,
    connection: tokio::sync::Mutex<Option<RedisConnection>>,
    /// The digest of each script that was called; `None` while it is unknown, and if this user may not load scripts.
    /// The map holds only scripts of this program, so it is bounded.
    digests: Arc<Mutex<HashMap<String, Option<String>>>>,
}

impl fmt::Debug for RedisLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisLink({:?})", self.key_prefix)
    }
}

impl RedisLink {
    /// Connects and waits for the answer to a ping. An answer of more than `answer_bytes_max` bytes is a failure.
    ///
    /// # Errors
    /// Fails when the URL is invalid, or Redis does not answer.
    pub async fn connect(
        access: &RedisAccess,
        answer_bytes_max: usize,
    ) -> Result<Self, RedisLinkError> {
        let client = Client::open(access.url.as_str()).map_err(link_error)?;
        // Each call has its own time limit.
        let settings = RedisConnectionSettings {
            connect_timeout: access.connect_timeout,
            answer_timeout: None,
            answer_bytes_max,
        };
        let key_prefix = access.key_prefix.clone();
        let (connection, digests) = (tokio::sync::Mutex::default(), Arc::default());
        let link = Self { client, settings, key_prefix, connection, digests };
        let ping = async {
            let mut connection = link.connected().await?;
            connection.ask::<()>(&redis::cmd("PING")).await.map_err(link_error)
        };
        timeout(access.connect_timeout, ping).await.unwrap_or_else(|_| Err(late()))?;
        tracing::debug!("connected to Redis");
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
    /// Fails when no answer comes within `limit`, or when it has an unexpected type. Redis may
    /// have run the script nevertheless.
    pub(crate) async fn eval<T: FromRedisValue>(
        &self,
        limit: Duration,
        script: &str,
        keys: &[String],
        arguments: &[Vec<u8>],
    ) -> Result<T, RedisLinkError> {
        let run = async { self.run(self.connected().await?, script, keys, arguments).await };
        let answer = timeout(limit, run).await;
        self.judged(answer.unwrap_or_else(|_| Err(late())))
    }

    /// Runs a script and also accepts a late answer. If there is no answer within `limit.answer`, later
    /// calls use a new connection, and `is_awaited` decides whether to wait for the answer on the old one
    /// for up to `limit.late_answer` more.
    ///
    /// # Errors
    /// Fails when no answer comes, or when it has an unexpected type. Redis may have run the script nevertheless.
    pub async fn eval_with_late_answer<T: FromRedisValue>(
        &self,
        limit: CallTimeLimits,
        script: &str,
        keys: &[String],
        arguments: &[Vec<u8>],
        is_awaited: impl FnOnce(&RedisLinkError) -> bool,
    ) -> Result<T, RedisLinkError> {
        let run = async {
            // Other calls wait for a connection attempt in progress, so it is limited by the shorter time.
            let connection = timeout(limit.answer, self.connected()).await;
            let connection = connection.unwrap_or_else(|_| Err(late()))?;
            self.run(connection, script, keys, arguments).await
        };
        let mut run = std::pin::pin!(run);
        if let Ok(answer) = timeout(limit.answer, &mut run).await {
            return self.judged(answer);
        }
        let error = late();
        self.forget_connection();
        if !is_awaited(&error) {
            return Err(error);
        }
        timeout(limit.late_answer, run).await.unwrap_or(Err(error))
    }

    /// Runs a script by its digest, if it is known, or else by its text: one round trip,
    /// unless Redis has lost the script.
    async fn run<T: FromRedisValue>(
        &self,
        mut connection: RedisConnection,
        script: &str,
        keys: &[String],
        arguments: &[Vec<u8>],
    ) -> Result<T, RedisLinkError> {
        let known = self.digests.lock().get(script).cloned();
        if let Some(Some(digest)) = &known {
            let call = call("EVALSHA", digest, keys, arguments);
            match connection.ask(&call).await.map_err(link_error) {
                Err(error) if error.reply == RedisReply::WantsText => {} // the text gives it to Redis again
                answer => return answer,
            }
        }
        let call = call("EVAL", script, keys, arguments);
        let answer = connection.ask(&call).await.map_err(link_error);
        if known.is_none() && answer.is_ok() {
            self.learn_digest(script, connection);
        }
        answer
    }

    /// Requests the digest of a script in the background, so that no call waits for it.
    fn learn_digest(&self, script: &str, mut connection: RedisConnection) {
        let script = script.to_owned();
        if self.digests.lock().insert(script.clone(), None).is_some() {
            return;
        }
        let digests = self.digests.clone();
        tokio::spawn(async move {
            let mut load = redis::cmd("SCRIPT");
            load.arg("LOAD").arg(&script);
            let loaded = connection.ask::<String>(&load).await;
            let mut digests = digests.lock();
            match loaded {
                Ok(digest) if digest.len() == DIGEST_LEN => {
                    digests.insert(script, Some(digest));
                }
                Ok(_) => {} // another text would be sent with every call
                // This user may not load scripts, so each call sends the text.
                Err(error) if error.code().is_some() => {}
                Err(_) => _ = digests.remove(&script),
            }
        });
    }

    /// Returns the answer unchanged. After a failure, the next call connects anew.
    fn judged<T>(&self, answer: Result<T, RedisLinkError>) -> Result<T, RedisLinkError> {
        if answer.is_err() {
            self.forget_connection();
        }
        answer
    }

    /// Makes the next call connect anew, because another server may be at the address by now. Calls in progress keep
    /// their connection.
    pub fn forget_connection(&self) {
        if let Ok(mut connection) = self.connection.try_lock() {
            *connection = None;
        }
    }

    async fn connected(&self) -> Result<RedisConnection, RedisLinkError> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = &*held {
            return Ok(connection.clone());
        }
        let new = RedisConnection::open(&self.client, &self.settings).await.map_err(link_error)?;
        Ok(held.insert(new).clone())
    }
}

/// Builds the command that runs a script by its text or its digest; `name` is the command.
fn call(name: &str, script: &str, keys: &[String], arguments: &[Vec<u8>]) -> redis::Cmd {
    let mut command = redis::cmd(name);
    command.arg(script).arg(keys.len());
    keys.iter().for_each(|key| {
        command.arg(key);
    });
    arguments.iter().for_each(|argument| {
        command.arg(argument.as_slice());
    });
    command
}

fn late() -> RedisLinkError {
    RedisLinkError { reason: "Redis did not answer in time".into(), reply: RedisReply::None }
}

fn link_error(error: redis::RedisError) -> RedisLinkError {
    let reply = match error.code() {
        None => RedisReply::None,
        Some("NOSCRIPT" | "NOPERM") => RedisReply::WantsText,
        Some(_) => RedisReply::Error,
    };
    RedisLinkError { reason: one_line(&error.to_string()), reply }
}

/// Encodes a number as an argument of a script.
#[must_use]
pub fn number(value: u64) -> Vec<u8> {
    value.to_string().into_bytes()
}

#[cfg(test)]
#[path = "../../dial/tests/scripted_redis/mod.rs"]
mod scripted_redis;

#[cfg(test)]
mod tests {
    use redis::ErrorKind;

    use super::*;

    /// The second connection is to a Redis that answers as it should.
    #[tokio::test]
    async fn an_answer_without_an_end_fails_its_call_and_the_next_one_connects_anew() {
        let url = scripted_redis::start(|name, connections| match (name, connections) {
            ("EVAL", 1) => b"*1\r\n$536870912\r\nx".to_vec(),
            ("EVAL", _) => b":7\r\n".to_vec(),
            ("SCRIPT", _) => b"$3\r\nabc\r\n".to_vec(),
            _ => b"+PONG\r\n".to_vec(),
        });
        let connect_timeout = Duration::from_secs(60);
        let access = RedisAccess { url: url.await, key_prefix: String::new(), connect_timeout };
        let link = RedisLink::connect(&access, 1000).await.unwrap();
        let run = async || link.eval::<u64>(connect_timeout, "return 7", &[], &[]).await;
        let error = run().await.unwrap_err();
        assert!(
            error.to_string().contains("more than 1000 bytes") && !error.is_answer(),
            "{error}"
        );
        for _ in 0..10 {
            assert_eq!(run().await, Ok(7), "what is no digest is not sent as one");
        }
    }

    #[test]
    fn the_text_of_an_error_is_short_and_one_line() {
        let detail = format!("\u{1b}[2J\nforged {}", "x".repeat(10_000));
        let text = link_error((ErrorKind::Extension, "refused", detail).into()).to_string();
        assert!(text.contains("forged xxx"), "{text}");
        assert!(!text.contains(char::is_control) && text.len() < 400, "{text:?}");
    }
}
