//! Limits that several processes share through Redis.
//!
//! The keys are those of the network's reference node, so that both may share one Redis. Each decision is one
//! script, which Redis runs atomically. A call without an answer in time passes, and after several of them Redis is
//! not asked for a while: a limiter that is down must not stop the node. Callers could slow Redis down to get there, so
//! it is not asked about callers that it has just refused.

use std::time::Duration;

use hawser_dial::{RedisConnection, RedisConnectionSettings};
use hawser_proto::one_line;
use hawser_serve::address::ClientAddress;
use hawser_serve::bucket::BucketSize;
use hawser_serve::caller_table::CallerTable;
use parking_lot::Mutex;
use redis::{Client, Cmd, FromRedisValue, RedisError};
use tokio::time::{Instant, sleep, timeout};

use crate::circuit_breaker::{Breaker, BreakerSettings, BreakerState};
use crate::known_refusals::KnownRefusals;
use crate::metrics::LimitMetrics;
use crate::rate_limits::CallCost;
use crate::settings::{RateLimitSettings, RedisSettings};

/// Time for which a caller without a free place for a stream is refused without asking Redis, in milliseconds. A guess:
/// a client that has ended a stream hardly notices it.
const FULL_MS: u64 = 250;
/// Largest number of callers that are remembered to have no free place. A guess: as for queries.
const FULL_CALLERS_MAX: usize = 100_000;

/// The largest answer of Redis, in bytes. A guess: an answer is a number, or the text of an error.
const ANSWER_LEN_BYTES_MAX: usize = 64 << 10;

/// Takes a cost from all buckets or from none. Keys: for each group its time and its buckets. Arguments: the time
/// in ms; for each group the number of its buckets, and for each bucket capacity, window in ms and cost. Returns
/// the milliseconds after which the same call fits; 0 if it was taken.
///
/// The time counts up to that of Redis: a process whose clock is ahead would otherwise write times from which on the
/// calls of the others add no tokens. A time that is still to come by the clock of Redis was written before that clock
/// was set back, or by another program: tokens are added from now on then.
///
/// Other programs can write here too. A value that is no number counts as none, and no bucket is emptier than empty:
/// one such value would otherwise fail each call of its caller, until the breaker lets those of all callers pass, or
/// keep that caller out for good. Buckets without a time are full: a time stays for as long as its buckets, and calls
/// that are refused write none, so no token would ever be added.
const TAKE: &str = r"
local t, a, k, wait, writes = redis.call('TIME'), 2, 1, 0, {}
local function number(key)
  local value = tonumber(redis.pcall('GET', key) or '')
  if value == value then return value end -- no number is unequal to itself but NaN
end
local latest = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local now = math.min(tonumber(ARGV[1]), latest)
while a <= #ARGV do
  local buckets, time = tonumber(ARGV[a]), KEYS[k]
  local last = number(time)
  local has_time = last ~= nil
  last = last or now
  if last > latest then
    redis.call('SET', time, string.format('%.0f', now), 'KEEPTTL')
    last = now
  end
  local elapsed, longest = math.max(0, now - last), 1
  a, k = a + 1, k + 1
  for _ = 1, buckets do
    local capacity, window = tonumber(ARGV[a]), tonumber(ARGV[a + 1])
    local cost, key = math.min(capacity, tonumber(ARGV[a + 2])), KEYS[k]
    local left = math.max(0, math.min(capacity, has_time and number(key) or capacity))
    left = math.min(capacity, left + elapsed * capacity / window) - cost
    if left < 0 then wait = math.max(wait, math.ceil(-left * window / capacity)) end
    local full = math.max(1, math.ceil((capacity - left) * window / capacity))
    writes[#writes + 1] = {key, string.format('%.17g', left), full}
    longest = math.max(longest, window)
    a, k = a + 3, k + 1
  end
  writes[#writes + 1] = {time, string.format('%.0f', math.max(now, last)), longest}
end
if wait > 0 then return wait end
for _, write in ipairs(writes) do redis.call('SET', write[1], write[2], 'PX', write[3]) end
return 0
";

/// Takes a place. Key: the counter of an address. Arguments: the most places, the life of the counter in
/// ms. Returns 1 if there was one. A counter that another program has written counts as none if it is no number, and
/// ends like every other one.
const OPEN: &str = r"
local taken = math.max(0, tonumber(redis.pcall('GET', KEYS[1]) or '') or 0)
if taken >= tonumber(ARGV[1]) then
  if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
  return 0
end
redis.call('SET', KEYS[1], string.format('%.0f', taken + 1), 'PX', ARGV[2])
return 1
";

/// Gives a place back.
const CLOSE: &str = r"
local taken = tonumber(redis.pcall('GET', KEYS[1]) or '') or 0
if taken > 0 then
  redis.call('SET', KEYS[1], string.format('%.0f', math.max(0, taken - 1)), 'KEEPTTL')
end
return 0
";

/// An answer of Redis, or its absence.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RedisAnswer<T> {
    Answer(T),
    /// Redis is down or slow: the call passes.
    NoAnswer,
}

/// The limits in one Redis.
pub(crate) struct RedisLimits {
    client: Client,
    connection_settings: RedisConnectionSettings,
    connection: tokio::sync::Mutex<Option<RedisConnection>>,
    breaker: Mutex<Breaker>,
    since: Instant,
    settings: RedisSettings,
    minute: BucketSize,
    hour: BucketSize,
    opens: BucketSize,
    streams_max: usize,
    refusals: Mutex<KnownRefusals>,
    /// Callers without a free place for a stream, with the time from which Redis is asked about them again.
    full: Mutex<CallerTable<ClientAddress, u64>>,
    metrics: LimitMetrics,
}

impl RedisLimits {
    /// Connects, and pings Redis.
    ///
    /// # Errors
    /// An error if the URL is malformed or Redis does not answer: a node must not start without the protection that
    /// its operator has configured.
    pub(crate) async fn connect(
        limits: &RateLimitSettings,
        settings: &RedisSettings,
        metrics: LimitMetrics,
    ) -> Result<Self, RedisError> {
        let client = Client::open(settings.url.as_str())?;
        let connection_settings = RedisConnectionSettings {
            connect_timeout: settings.connect_timeout,
            answer_timeout: Some(settings.call_timeout),
            answer_bytes_max: ANSWER_LEN_BYTES_MAX,
        };
        let mut connection = RedisConnection::open(&client, &connection_settings).await?;
        connection.ask::<()>(&redis::cmd("PING")).await?;
        let breaker = Breaker::new(BreakerSettings {
            failures_max: settings.breaker_failures_max,
            cooldown_ms: ms(settings.breaker_cooldown),
        });
        Ok(Self {
            client,
            connection_settings,
            connection: tokio::sync::Mutex::new(Some(connection)),
            breaker: Mutex::new(breaker),
            since: Instant::now(),
            settings: settings.clone(),
            minute: BucketSize::per_minute(limits.per_minute),
            hour: BucketSize::per_hour(limits.per_hour),
            opens: BucketSize::per_minute(limits.opens_per_minute),
            streams_max: limits.subscribe_all_max,
            refusals: Mutex::new(KnownRefusals::new()),
            full: Mutex::new(CallerTable::new(FULL_CALLERS_MAX)),
            metrics,
        })
    }

    /// Takes the cost of a call from all buckets of its caller, or from none. Returns the milliseconds after which
    /// the same call fits; 0 if it was taken. `now_ms` is unix time, which the processes share.
    pub(crate) async fn take(
        &self,
        caller: ClientAddress,
        cost: CallCost,
        now_ms: u64,
    ) -> RedisAnswer<u64> {
        if let Some(wait_ms) = self.refusals.lock().wait_ms(caller, cost, now_ms) {
            return RedisAnswer::Answer(wait_ms);
        }
        let prefix = &self.settings.key_prefix;
        let queries = format!("{prefix}rl:t2:q:{caller}");
        let (mut keys, mut arguments) = (Vec::new(), vec![now_ms]);
        let mut group = |base: &str, buckets: &[BucketSize], cost: u64| {
            keys.push(format!("{base}:ts"));
            arguments.push(buckets.len() as u64);
            for (number, size) in buckets.iter().enumerate() {
                keys.push(format!("{base}:{}", number + 1));
                arguments.extend([size.capacity, size.window_ms, cost]);
            }
        };
        group(&queries, &[self.minute, self.hour], cost.query);
        if cost.opens > 0 {
            group(&format!("{prefix}rl:t2:o:{caller}:opens"), &[self.opens], cost.opens);
        }
        let mut command = script(TAKE, &keys);
        command.arg(&arguments);
        let answer = self.ask(&command).await;
        if let RedisAnswer::Answer(wait_ms @ 1..) = answer {
            self.refusals.lock().note(caller, cost, wait_ms, now_ms);
        }
        answer
    }

    /// Takes a place for a stream of all envelopes. Returns false if none was free.
    pub(crate) async fn open_stream(&self, caller: ClientAddress) -> RedisAnswer<bool> {
        let now_ms = self.now_ms();
        if self.full.lock().get(&caller).is_some_and(|until_ms| now_ms < *until_ms) {
            return RedisAnswer::Answer(false);
        }
        let mut command = script(OPEN, &[self.stream_key(caller)]);
        command.arg(self.streams_max).arg(ms(self.settings.stream_ttl));
        let answer = self.ask(&command).await;
        if answer == RedisAnswer::Answer(false) {
            let until_ms = now_ms.saturating_add(FULL_MS);
            self.full.lock().put(caller, until_ms, until_ms, now_ms);
        }
        answer
    }

    /// Keeps the places of an address alive.
    pub(crate) async fn refresh_stream(&self, caller: ClientAddress) {
        let mut command = redis::cmd("PEXPIRE");
        command.arg(self.stream_key(caller)).arg(ms(self.settings.stream_ttl));
        self.ask::<i64>(&command).await;
    }

    /// Gives a place back. Tries again while Redis does not answer: other streams of the address renew the counter, so
    /// the place would stay taken as long as one of them lasts. Stops after the life of a counter that none renews. A
    /// place that Redis gives back without an answer in time may come back twice: one more stream passes then, as calls
    /// do while Redis does not answer.
    pub(crate) async fn close_stream(&self, caller: ClientAddress) {
        let command = script(CLOSE, &[self.stream_key(caller)]);
        let closing = async {
            while self.ask::<i64>(&command).await == RedisAnswer::NoAnswer {
                sleep(self.settings.breaker_cooldown).await;
            }
        };
        // Late: the counter has ended, or has been renewed by streams that Redis knows.
        let _ = timeout(self.settings.stream_ttl, closing).await;
    }

    /// Returns the interval of [`refresh_stream`](Self::refresh_stream).
    pub(crate) fn refresh_every(&self) -> Duration {
        self.settings.stream_refresh_interval
    }

    fn stream_key(&self, caller: ClientAddress) -> String {
        format!("{}rl:streams:{caller}", self.settings.key_prefix)
    }

    /// Sends a command unless the breaker is open. A failure closes the connection, and enough of them open the
    /// breaker: calls then pass without shared limits instead of waiting for Redis.
    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> RedisAnswer<T> {
        let state = self.breaker.lock().state(self.now_ms());
        self.metrics.breaker_is(state);
        if state == BreakerState::Open {
            return RedisAnswer::NoAnswer;
        }
        let answer = timeout(self.settings.call_timeout, self.query(command)).await;
        match answer.map_err(|_| None).and_then(|answer| answer.map_err(Some)) {
            Ok(answer) => {
                self.breaker.lock().worked();
                self.metrics.breaker_is(BreakerState::Closed);
                RedisAnswer::Answer(answer)
            }
            Err(error) => {
                // The next call opens a new connection.
                if let Ok(mut connection) = self.connection.try_lock() {
                    *connection = None;
                }
                if self.breaker.lock().failed(self.now_ms()) {
                    self.metrics.breaker_opened();
                    let error = error.map_or_else(
                        || "Redis did not answer in time".into(),
                        |error| one_line(&error.to_string()),
                    );
                    tracing::warn!(code = "redis_gone", error, "calls pass without shared limits");
                }
                RedisAnswer::NoAnswer
            }
        }
    }

    async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let mut connection = {
            let mut held = self.connection.lock().await;
            match &*held {
                Some(connection) => connection.clone(),
                None => {
                    let settings = &self.connection_settings;
                    held.insert(RedisConnection::open(&self.client, settings).await?).clone()
                }
            }
        };
        connection.ask(command).await
    }

    fn now_ms(&self) -> u64 {
        ms(self.since.elapsed())
    }
}

fn script(text: &str, keys: &[String]) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(text).arg(keys.len()).arg(keys);
    command
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "../../dial/tests/scripted_redis/mod.rs"]
mod scripted_redis;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Each connection answers one call with too much; such calls pass, and open the breaker.
    #[tokio::test]
    async fn answers_without_an_end_count_as_none_and_end_the_asking_for_a_while() {
        let url = scripted_redis::start(|name, _| match name {
            "EVAL" => b"*1\r\n$536870912\r\nx".to_vec(),
            _ => b"+PONG\r\n".to_vec(),
        });
        let settings = RedisSettings {
            call_timeout: Duration::from_secs(60),
            breaker_failures_max: 2,
            breaker_cooldown: Duration::from_secs(3600),
            ..RedisSettings::new(url.await)
        };
        let limits = RateLimitSettings::default();
        let limits = RedisLimits::connect(&limits, &settings, LimitMetrics::default()).await;
        let limits = limits.unwrap();
        for state in [BreakerState::Closed, BreakerState::Open] {
            let error = limits.query::<u64>(&script(CLOSE, &[])).await.unwrap_err();
            assert!(error.to_string().contains("bytes"), "{error}");
            *limits.connection.lock().await = None;
            let answer = limits.ask::<u64>(&script(CLOSE, &[])).await;
            assert_eq!(answer, RedisAnswer::NoAnswer);
            assert_eq!(limits.breaker.lock().state(limits.now_ms()), state);
        }
    }

    /// Played by a Redis that restarts while a stream ends. Another stream of the address renews the counter meanwhile,
    /// and with it the place that nothing holds any more.
    #[tokio::test]
    async fn a_place_is_given_back_when_redis_answers_again() {
        let scripts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&scripts);
        let url = scripted_redis::start(move |name, _| match name {
            "EVAL" if counted.fetch_add(1, Ordering::SeqCst) < 3 => b"-ERR not now\r\n".to_vec(),
            "EVAL" => b":0\r\n".to_vec(),
            _ => b"+PONG\r\n".to_vec(),
        });
        let settings = RedisSettings {
            call_timeout: Duration::from_secs(60),
            breaker_failures_max: 2,
            breaker_cooldown: Duration::from_millis(10),
            ..RedisSettings::new(url.await)
        };
        let limits = RateLimitSettings::default();
        let limits = RedisLimits::connect(&limits, &settings, LimitMetrics::default()).await;
        let caller = std::net::IpAddr::from(Ipv4Addr::LOCALHOST).into();
        limits.unwrap().close_stream(caller).await;
        assert_eq!(scripts.load(Ordering::SeqCst), 4, "until the first answer, and no more");
    }
}
