//! Limits, budgets, the nodes of topics and the places of envelopes that several gateways share through Redis.
//!
//! Redis decides nothing alone: a request has to fit this gateway's own limits first, which count a part of the same.
//! So a Redis that is gone, or empty, or old, leaves each gateway with its own limits. When it does not answer, it is
//! left alone for a while, so that no caller waits for it again and again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use hawser_chain::redis_link::{RedisFault, RedisLink, number};
use hawser_proto::{Address, EnvelopeId, OriginatorId};
use sha2::{Digest as _, Sha256};

use crate::landed::{self, ClientKey, LandedEnvelope};

/// Time for which Redis is left alone after a failure. A guess.
const PAUSE_MS: u64 = 1000;
/// Time for which the node of a topic is kept after its last change. A guess: a day more than readers are usually
/// behind.
const TOPIC_KEPT_S: u64 = 7 * 86_400;
/// The most that is counted of a part of one cost. Chosen: far above any price (a thousand dollars), and Lua adds
/// some of them exactly. A price is what an endpoint says, any number.
const COST_MAX: u64 = 1 << 50;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Takes a cost from all limits, or from none.
///
/// Keys, for the caller and for all callers together: the time of the buckets, the bucket of a minute, that of an
/// hour, the counts of the hour, those of the day. Arguments: unix time in ms; for each of the two capacity and
/// window of both buckets, the cost (envelopes, picodollars, gas), and the limits of picodollars and gas in the
/// hour, and of envelopes, picodollars and gas in the day; -1 stands for no limit.
/// Returns nothing, or the group, the place of the limit in it, and the ms after which the cost fits (-1: never).
///
/// Each request makes this call, so it reads and writes each count once, with all its parts.
const TAKE: &str = r"
local now, writes, counts = tonumber(ARGV[1]), {}, {}
for group = 0, 1 do
  local k, a = group * 5, 1 + group * 12
  local costs = {tonumber(ARGV[a + 5]), tonumber(ARGV[a + 6]), tonumber(ARGV[a + 7])}
  local last, longest = nil, 0
  for b = 0, 1 do
    local capacity, window = tonumber(ARGV[a + 1 + 2 * b]), tonumber(ARGV[a + 2 + 2 * b])
    if capacity >= 0 then
      if costs[1] > capacity then return {group, b, -1} end
      last = last or tonumber(redis.call('GET', KEYS[k + 1]) or now)
      local left = tonumber(redis.call('GET', KEYS[k + 2 + b]) or capacity)
      left = math.min(capacity, left + math.max(0, now - last) * capacity / window) - costs[1]
      if left < 0 then return {group, b, math.ceil(-left * window / capacity)} end
      writes[#writes + 1] = {KEYS[k + 2 + b], string.format('%.17g', left), window}
      longest = math.max(longest, window)
    end
  end
  if longest > 0 then
    writes[#writes + 1] = {KEYS[k + 1], string.format('%.0f', math.max(now, last)), longest}
  end
  for of_day = 0, 1 do
    local key, after = KEYS[k + 4 + of_day], {}
    local used = redis.call('HMGET', key, 'e', 'p', 'g')
    for at = 1, 3 do
      local limit = tonumber(ARGV[a + 6 + 3 * of_day + at])
      if at == 1 and of_day == 0 then limit = -1 end
      local sum = tonumber(used[at] or '0') + costs[at]
      if limit >= 0 and sum > limit then
        return {group, at + 3 * of_day, costs[at] <= limit and 0 or -1}
      end
      after[at] = string.format('%.0f', math.min(9007199254740991, sum))
    end
    counts[#counts + 1] = {key, after, not used[1] and (of_day == 1 and 172800 or 7200)}
  end
end
for _, write in ipairs(writes) do redis.call('SET', write[1], write[2], 'PX', write[3]) end
for _, count in ipairs(counts) do
  local key, after, life = count[1], count[2], count[3]
  redis.call('HSET', key, 'e', after[1], 'p', after[2], 'g', after[3])
  if life then redis.call('EXPIRE', key, life) end
end
return {}
";

/// Adds to the counts of an hour and a day that exist, or takes from them, never below zero.
/// Keys: the counts. Arguments: `1` to add or `-1` to take; envelopes, picodollars, gas.
const ADJUST: &str = r"
for _, key in ipairs(KEYS) do
  if redis.call('EXISTS', key) == 1 then
    for at, name in ipairs({'e', 'p', 'g'}) do
      local used = tonumber(redis.call('HGET', key, name) or '0')
      local after = math.max(0, used + tonumber(ARGV[1]) * tonumber(ARGV[1 + at]))
      after = math.min(9007199254740991, after)
      redis.call('HSET', key, name, string.format('%.0f', after))
    end
  end
end
return 0
";

const GET_TOPICS: &str = "return redis.call('MGET', unpack(KEYS))";

const SET_TOPICS: &str = r"
for at, key in ipairs(KEYS) do redis.call('SET', key, ARGV[1 + at], 'EX', ARGV[1]) end
return 0
";

/// Topics that one call names: a script has room for some thousand. A guess.
const TOPICS_PER_CALL: usize = 1000;

/// A cost: envelopes, picodollars, gas.
pub(crate) type SharedCost = [u64; 3];

/// Returns a cost as arguments of a script.
fn bounded(cost: SharedCost) -> [Vec<u8>; 3] {
    cost.map(|part| number(part.min(COST_MAX)))
}

/// Reads the answer of [`TAKE`]. One of another form counts as none.
fn taken(answer: &[i64]) -> SharedTake {
    match answer {
        [] => SharedTake::Taken,
        [group, place, wait_ms] => usize::try_from(*place).map_or(SharedTake::Skipped, |place| {
            let (of_total, wait_ms) = (*group == 1, u64::try_from(*wait_ms).ok());
            SharedTake::Exceeded(SharedExceeded { of_total, place, wait_ms })
        }),
        _ => SharedTake::Skipped,
    }
}

/// The limits of one group: buckets of a minute and an hour; picodollars and gas in an hour; envelopes, picodollars
/// and gas in a day.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SharedLimits {
    /// Capacity and window in ms.
    pub(crate) buckets: [Option<(u64, u64)>; 2],
    pub(crate) hour: [Option<u64>; 2],
    pub(crate) day: [Option<u64>; 3],
}

/// The limit that a cost exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SharedExceeded {
    /// True if it is a limit of all callers together.
    pub(crate) of_total: bool,
    /// The place of the limit: buckets, then those of the hour, then those of the day.
    pub(crate) place: usize,
    /// Time after which the same cost fits a bucket, ms; `None` if it never does. 0 for other limits.
    pub(crate) wait_ms: Option<u64>,
}

/// The answer of Redis to a cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SharedTake {
    Taken,
    /// Redis did not answer in time, or was not asked. What it has taken all the same stays taken.
    Skipped,
    Exceeded(SharedExceeded),
}

/// The state that the gateways of one payer share.
pub(crate) struct GatewayShare {
    link: Arc<RedisLink>,
    /// The beginning of the keys.
    base: String,
    /// Time for an answer.
    call_max: Duration,
    since: Instant,
    /// The time until which Redis is left alone, ms since the start.
    paused_until_ms: AtomicU64,
    /// True once a script has failed.
    has_failed: AtomicBool,
}

impl std::fmt::Debug for GatewayShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GatewayShare({:?})", self.base)
    }
}

impl GatewayShare {
    /// Shares what belongs to one payer. Redis has `call_max` to answer.
    pub(crate) fn new(link: Arc<RedisLink>, payer: Address, call_max: Duration) -> Self {
        let base = link.key(&format!("gateway:{{{payer}}}"));
        Self {
            link,
            base,
            call_max,
            since: Instant::now(),
            paused_until_ms: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
        }
    }

    /// Takes a cost from the limits of a caller and of all callers, or from none.
    pub(crate) async fn take(
        &self,
        caller: &str,
        limits: [SharedLimits; 2],
        cost: SharedCost,
        now_ms: u64,
    ) -> SharedTake {
        let of_caller = self.limit_keys(&self.caller_key(caller), now_ms);
        let of_total = self.limit_keys(&self.total_key(), now_ms);
        let or_none = |limit: Option<u64>| limit.map_or_else(|| b"-1".to_vec(), number);
        let mut arguments = vec![number(now_ms)];
        for SharedLimits { buckets, hour, day } in limits {
            for bucket in buckets {
                arguments.push(or_none(bucket.map(|(capacity, _)| capacity)));
                arguments.push(or_none(bucket.map(|(_, window_ms)| window_ms)));
            }
            arguments.extend(bounded(cost));
            arguments.extend(hour.into_iter().chain(day).map(or_none));
        }
        let keys = [of_caller, of_total].concat();
        let answer: Option<Vec<i64>> = self.eval(TAKE, &keys, &arguments).await;
        answer.map_or(SharedTake::Skipped, |answer| taken(&answer))
    }

    /// Adds a cost that was not known before, to one that was taken.
    pub(crate) async fn add(&self, caller: &str, cost: SharedCost, now_ms: u64) {
        self.adjust(caller, b"1", cost, now_ms).await;
    }

    /// Returns a cost that was [taken](SharedTake::Taken) at this time to the counts of its hour and day.
    pub(crate) async fn give_back(&self, caller: &str, cost: SharedCost, taken_ms: u64) {
        self.adjust(caller, b"-1", cost, taken_ms).await;
    }

    async fn adjust(&self, caller: &str, sign: &[u8], cost: SharedCost, at_ms: u64) {
        if cost == SharedCost::default() {
            return;
        }
        let of_caller = self.limit_keys(&self.caller_key(caller), at_ms);
        let of_total = self.limit_keys(&self.total_key(), at_ms);
        let keys = [&of_caller[3..], &of_total[3..]].concat();
        let arguments: Vec<Vec<u8>> = std::iter::once(sign.to_vec()).chain(bounded(cost)).collect();
        let _: Option<i64> = self.eval(ADJUST, &keys, &arguments).await;
    }

    /// Returns the nodes of topics, by the digest of each; nothing if Redis does not answer.
    pub(crate) async fn nodes_of(&self, topics: &[[u8; 16]]) -> Vec<([u8; 16], OriginatorId)> {
        let mut known = Vec::new();
        for topics in topics.chunks(TOPICS_PER_CALL) {
            let keys: Vec<String> = topics.iter().map(|topic| self.topic_key(topic)).collect();
            let nodes: Option<Vec<Option<u32>>> = self.eval(GET_TOPICS, &keys, &[]).await;
            let nodes = topics.iter().zip(nodes.unwrap_or_default());
            known.extend(nodes.filter_map(|(topic, node)| Some((*topic, OriginatorId(node?)))));
        }
        known
    }

    /// Stores the nodes of topics.
    pub(crate) async fn set_nodes(&self, topics: &[([u8; 16], OriginatorId)]) {
        for topics in topics.chunks(TOPICS_PER_CALL) {
            let keys: Vec<String> = topics.iter().map(|(topic, _)| self.topic_key(topic)).collect();
            let nodes = topics.iter().map(|(_, node)| number(u64::from(node.0)));
            let arguments: Vec<Vec<u8>> =
                std::iter::once(number(TOPIC_KEPT_S)).chain(nodes).collect();
            let _: Option<i64> = self.eval(SET_TOPICS, &keys, &arguments).await;
        }
    }

    /// Returns the places at which gateways have published envelopes, by the key of each; nothing if Redis does not
    /// answer. A place is where to look, and no proof.
    pub(crate) async fn places_of(
        &self,
        clients: &[ClientKey],
    ) -> Vec<(ClientKey, LandedEnvelope)> {
        let mut known = Vec::new();
        for clients in clients.chunks(landed::PLACES_PER_CALL) {
            let arguments: Vec<Vec<u8>> = clients.iter().map(|client| client.to_vec()).collect();
            let places: Option<Vec<Option<Vec<u8>>>> =
                self.eval(landed::FIND, &self.place_keys(), &arguments).await;
            let places = clients.iter().zip(places.unwrap_or_default());
            known.extend(
                places
                    .filter_map(|(client, place)| Some((*client, LandedEnvelope::read(&place?)?))),
            );
        }
        known
    }

    /// Tells the places of envelopes. Returns those of them that were told before, or whose transaction was: the gateway that
    /// told them first has them in a bill. An envelope that is known at one place may be new at another one, so each is returned
    /// with the place that was asked about. Returns none if Redis does not answer.
    pub(crate) async fn tell_places(
        &self,
        places: &[(ClientKey, LandedEnvelope)],
    ) -> BTreeSet<(ClientKey, EnvelopeId)> {
        let mut known = BTreeSet::new();
        for places in places.chunks(landed::PLACES_PER_CALL) {
            let mut arguments = vec![number(landed::KEPT_MS), number(landed::PLACES_MAX)];
            for (client, place) in places {
                arguments.extend([client.to_vec(), place.to_text()]);
            }
            let told: Option<Vec<i64>> =
                self.eval(landed::TELL, &self.place_keys(), &arguments).await;
            let told = places.iter().zip(told.unwrap_or_default()).filter(|(_, told)| *told == 1);
            known.extend(told.map(|((client, place), _)| (*client, place.id)));
        }
        known
    }

    fn place_keys(&self) -> [String; 3] {
        ["0", "1", "turn"].map(|name| format!("{}:landed:{name}", self.base))
    }

    fn limit_keys(&self, base: &str, at_ms: u64) -> Vec<String> {
        let (hour, day) = (at_ms / HOUR_MS, at_ms / DAY_MS);
        let names = ["ts".into(), "1".into(), "2".into(), format!("h{hour}"), format!("d{day}")];
        names.iter().map(|name| format!("{base}:{name}")).collect()
    }

    /// A name that a caller chooses neither lengthens a key nor meets another one's.
    fn caller_key(&self, caller: &str) -> String {
        format!("{}:rl:{}", self.base, hex::encode(&Sha256::digest(caller)[..16]))
    }

    fn total_key(&self) -> String {
        format!("{}:rl-total", self.base)
    }

    fn topic_key(&self, topic: &[u8; 16]) -> String {
        format!("{}:topic:{}", self.base, hex::encode(topic))
    }

    async fn eval<T: redis::FromRedisValue>(
        &self,
        script: &str,
        keys: &[String],
        arguments: &[Vec<u8>],
    ) -> Option<T> {
        let now_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let until_ms = self.paused_until_ms.load(Relaxed);
        if now_ms < until_ms {
            return None;
        }
        let answer: Result<T, RedisFault> =
            self.link.eval(self.call_max, script, keys, arguments).await;
        match answer {
            Ok(answer) => {
                if until_ms > 0 && self.paused_until_ms.swap(0, Relaxed) > 0 {
                    tracing::info!("limits, topics and places are shared again");
                }
                Some(answer)
            }
            // Waiting for Redis would not help, and the next call may do.
            Err(fault) if fault.is_answer() => {
                if !self.has_failed.swap(true, Relaxed) {
                    tracing::warn!(code = "redis_refuses", %fault, "a request, a topic or a place is not shared");
                }
                None
            }
            Err(fault) => {
                if self.paused_until_ms.swap(now_ms + PAUSE_MS, Relaxed) == 0 {
                    tracing::warn!(code = "redis_gone", %fault, "each gateway has its own limits for now");
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_answer_says_that_a_cost_is_taken() {
        assert_eq!(taken(&[]), SharedTake::Taken);
        let exceeded = SharedExceeded { of_total: true, place: 2, wait_ms: None };
        assert_eq!(taken(&[1, 2, -1]), SharedTake::Exceeded(exceeded));
        for other in [&[1][..], &[0, -1, 5], &[0, 1, 2, 3]] {
            assert_eq!(taken(other), SharedTake::Skipped, "{other:?}");
        }
    }

    #[test]
    fn no_part_of_a_cost_is_beyond_what_scripts_count() {
        let most = number(COST_MAX);
        assert_eq!(bounded([1, u64::MAX, COST_MAX]), [number(1), most.clone(), most]);
    }
}
