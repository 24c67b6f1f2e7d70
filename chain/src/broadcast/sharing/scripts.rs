//! The Lua scripts with which processes share the nonces of one account in Redis.
//!
//! Keys, in this order, all with one hash tag: the state (`seq`, `epoch`, `since`, `next`, `used`; `owners`, the number
//! of nonces with an owner; `server`, the id of the Redis run that wrote it; for each process `n:`, the count of its
//! calls, `w:`, the time and the amount of its gas cost in the last hour in wei, and `p:`, the number of that amount);
//! the owner and the payload of each nonce; its signed transactions; the nonce of each payload; the last heartbeat of
//! each process, and the time since when it has sent heartbeats; the nonces that were given back. Then, for each
//! payload in the call, the key of its result, which expires.
//!
//! All times are those of Redis, so the clocks of processes do not matter.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// The end of the counts that scripts read, which have at most 15 digits. A count from there on is a stranger's.
const COUNTS_END: u64 = 1_000_000_000_000_000;

/// Remembers the highest count that a script has returned. Forgets it after a count that a stranger has written:
/// compared with that one, every later state would look older.
pub(super) fn remember(highest: &AtomicU64, returned: u64) {
    match returned < COUNTS_END {
        true => _ = highest.fetch_max(returned, Relaxed),
        false => highest.store(0, Relaxed),
    }
}

/// Registers a heartbeat and assigns nonces.
///
/// Arguments: the process; the time in ms after which a silent process is considered gone; the highest `seq` seen; the
/// highest count of its own calls; its gas cost in the last hour, and the number of that amount; the chain's pending
/// and mined counts (-1: unknown); a range of nonces without transactions (from, to); the number of held nonces, and
/// these; the digests of the payloads that need a nonce.
/// Returns the epoch; `seq`; the count of its own calls; nonces that another process owns; nonces
/// without recorded transactions; nonces to fill; nonces taken over, each followed by its transactions, with 8 MB of
/// these and the rest of one nonce at most; for each digest a letter and a value.
pub(super) const SYNC: &str = r"
local S, O, R, P, A, B, F = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local me, lease, seen = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local told, spent, place = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local floor, mined = tonumber(ARGV[7]), tonumber(ARGV[8])
local gap_from, gap_to, held_count = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local function s(n) return string.format('%.0f', n) end
-- Others can write here too: a text that is no number, or no whole one as it is written here, counts for none.
local function get(key, field)
  local n = tonumber(redis.call('HGET', key, field) or '-1') or -1
  return n > -2 and n < 1e15 and n or -1
end
local function whole(text)
  return #text < 16 and string.match(text, '^%d+$') and s(tonumber(text)) == text and tonumber(text) or nil
end
-- The distance from the chain's count at which a nonce is a stranger's, or of another chain; see `nonces/shared.rs`.
local AHEAD = 1000
local function is_far(n) return floor >= 0 and n > floor + AHEAD end

-- A state that is new, or older than what was seen: all have to say first what they hold. Other processes' calls raise
-- `seq` again, and no other's the count of the own ones. Another run of Redis has what was saved or replicated by
-- then, and a process that was restarted remembers no count: so it counts as older too.
local seq, since, calls = get(S, 'seq'), get(S, 'since'), get(S, 'n:' .. me)
local info = redis.pcall('INFO', 'server')
local server = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
local is_moved = server ~= '' and redis.call('HGET', S, 'server') ~= server
-- Redis may also lose the owners alone, as by an eviction.
local is_short = redis.call('HLEN', O) < get(S, 'owners')
if seq < seen or (told > 0 and calls < told) or is_moved or is_short then
  redis.call('HSET', S, 'epoch', t[1] .. '.' .. t[2] .. '.' .. me)
  redis.call('DEL', B)
  seq, since = math.max(seq, seen), now
end
if since > now then since = now end
seq, calls = seq + 1, math.max(calls, told, 0) + 1
redis.call('HSET', S, 'seq', s(seq), 'since', s(since), 'n:' .. me, s(calls))
if server ~= '' then redis.call('HSET', S, 'server', server) end

-- A call that has put transactions on record since the amount was taken has told a later one, which stays.
-- No call is overtaken by a million others: a higher number is a stranger's.
local cost = tonumber(string.match(redis.call('HGET', S, 'w:' .. me) or '', '|(.*)$') or '0') or 0
local later = get(S, 'p:' .. me)
if place > later or later > place + 1000000 then
  cost = spent
  redis.call('HSET', S, 'p:' .. me, s(place))
end
if cost > 0 then
  redis.call('HSET', S, 'w:' .. me, string.format('%.0f|%.17g', now, cost))
else
  redis.call('HDEL', S, 'w:' .. me)
end
local settled = now - since >= lease

-- The sign of life. One that was silent itself, or a clock that jumped, gives no other up for a while.
local last, beating = get(A, me), get(B, me)
if last < 0 or beating < 0 or now - last > lease or beating > now then
  beating = now
  redis.call('HSET', B, me, s(now))
end
redis.call('HSET', A, me, s(now))
local adopts = now - beating >= lease
local gone = {}
for k, v in pairs(redis.call('HGETALL', A)) do
  if k % 2 == 1 and v ~= me then
    local at = get(A, v)
    -- A sign of life far in the future is a stranger's, or older than a clock that was set back.
    if at + lease < now or at > now + lease then gone[v] = true end
    if at + 100 * lease < now then redis.call('HDEL', A, v) redis.call('HDEL', B, v) redis.call('HDEL', S, 'n:' .. v, 'p:' .. v) end
  end
end

local function free(nonce, digest)
  redis.call('HDEL', O, nonce)
  redis.call('HDEL', R, nonce)
  if digest ~= '' and redis.call('HGET', P, digest) == nonce then redis.call('HDEL', P, digest) end
  redis.call('ZADD', F, nonce, nonce)
end
local function take(nonce, digest)
  redis.call('ZREM', F, nonce)
  redis.call('HSET', O, nonce, me .. '|' .. digest)
  if digest ~= '' then redis.call('HSET', P, digest, nonce) end
end

local held, lost, unrecorded, fill, adopted, given = {}, {}, {}, {}, {}, {}
local i = 12
for _ = 1, held_count do
  local nonce = ARGV[i]
  i, held[nonce] = i + 1, true
  local owner = redis.call('HGET', O, nonce)
  if not owner then
    redis.call('HDEL', R, nonce) -- so that it is recorded again, with its payload
    take(nonce, '')
    owner = me .. '|'
  end
  if string.sub(owner, 1, #me + 1) == me .. '|' then
    if redis.call('HEXISTS', R, nonce) == 0 then unrecorded[#unrecorded + 1] = nonce end
  else
    lost[#lost + 1] = nonce
  end
end

local used = get(S, 'used')
if floor >= 0 and used > floor and not is_far(used) then floor = used end

-- What is left is taken over by the next calls: an answer has a bound, and has to come in time.
local ADOPTED_BYTES, size = 8000000, 0
local all, highest, count = redis.call('HGETALL', O), -1, 0
for k = 1, #all, 2 do
  local nonce, n, who, digest = all[k], whole(all[k]), string.match(all[k + 1], '^([^|]*)|(.*)$')
  local is_valid = n and who
  local is_over = is_valid and who == me and not held[nonce]
  if is_valid and not is_over and who ~= me then is_over = adopts and (gone[who] or get(A, who) < 0) end
  local raws = is_over and (size >= ADOPTED_BYTES or redis.call('HGET', R, nonce))
  if type(raws) == 'string' then
    size = size + #raws
    redis.call('HSET', O, nonce, me .. '|' .. digest)
    adopted[#adopted + 1] = nonce
    adopted[#adopted + 1] = raws
  end
  if not is_valid then
    redis.call('HDEL', O, nonce)
    redis.call('HDEL', R, nonce)
  elseif is_over and not raws then
    free(nonce, digest)
  else
    if not is_far(n) then highest, count = math.max(highest, n), count + 1 end
    if digest ~= '' then redis.call('HSETNX', P, digest, nonce) end -- Redis may have lost that alone
  end
end
if floor >= 0 then redis.call('ZREMRANGEBYSCORE', F, '(' .. s(floor + AHEAD), '+inf') end
-- Returns the first free nonce of a list, and removes what is none.
local function first_of(free_nonces)
  for _, nonce in ipairs(free_nonces) do
    if whole(nonce) then return nonce end
    redis.call('ZREM', F, nonce)
  end
end

if mined > 0 then redis.call('ZREMRANGEBYSCORE', F, '-inf', '(' .. s(mined)) end
local next_nonce = get(S, 'next')
if is_far(next_nonce) then next_nonce = floor end
if count == 0 and floor >= 0 then
  -- A higher one came from transactions of another sender that nodes have dropped since, or from a lie.
  redis.call('DEL', F)
  next_nonce = floor
end
next_nonce = math.max(next_nonce, floor, highest + 1)
while true do
  local top = first_of(redis.call('ZREVRANGE', F, 0, 63))
  if not top or tonumber(top) < next_nonce - 1 or next_nonce <= floor then break end
  redis.call('ZREM', F, top)
  next_nonce = math.min(next_nonce, tonumber(top))
end
next_nonce = math.max(next_nonce, highest + 1)

for k = 1, #ARGV - i + 1 do
  local digest = ARGV[i + k - 1]
  local done, at = redis.call('GET', KEYS[7 + k]), redis.call('HGET', P, digest)
  local owner = at and redis.call('HGET', O, at)
  -- A text of another form is a stranger's.
  if done and #done == 65 and string.match(done, '^[mu]%x+$') then
    given[#given + 1] = string.sub(done, 1, 1)
    given[#given + 1] = string.sub(done, 2)
  elseif owner and string.match(owner, '|(.*)$') == digest then
    given[#given + 1], given[#given + 2] = 'e', at
  elseif not settled or floor < 0 then
    given[#given + 1], given[#given + 2] = 'w', ''
  else
    local nonce = first_of(redis.call('ZRANGEBYSCORE', F, s(floor), '+inf', 'LIMIT', 0, 64))
    if not nonce then
      nonce = s(next_nonce)
      next_nonce = next_nonce + 1
    end
    take(nonce, digest)
    highest = math.max(highest, tonumber(nonce))
    given[#given + 1], given[#given + 2] = 'n', nonce
  end
end

-- Nonces that later ones wait for.
if settled and floor >= 0 and highest > floor then
  for _, nonce in pairs(redis.call('ZRANGEBYSCORE', F, s(floor), '(' .. s(highest), 'LIMIT', 0, 64)) do
    if whole(nonce) then
      take(nonce, '')
      fill[#fill + 1] = nonce
    else
      redis.call('ZREM', F, nonce)
    end
  end
end
if settled and gap_from >= 0 then
  for n = gap_from, math.min(gap_to, gap_from + 64) - 1 do
    local nonce = s(n)
    if redis.call('HEXISTS', O, nonce) == 0 then
      take(nonce, '')
      fill[#fill + 1] = nonce
    end
  end
end
redis.call('HSET', S, 'next', s(next_nonce), 'owners', s(redis.call('HLEN', O)))
return {redis.call('HGET', S, 'epoch') or '', s(seq), s(calls), lost, unrecorded, fill, adopted, given}
";

/// Records signed transactions. A transaction may be sent only if it is recorded.
///
/// Arguments: the process; the highest count of its own calls; the hourly ceiling in wei; its gas cost in the last hour
/// without these transactions, and the number of that amount; for each transaction its nonce, the digest of the payload
/// (may be empty), `1` if an earlier transaction has the same nonce, the added cost, and its bytes. Amounts are
/// doubles, exact to one part in 10^15.
/// Returns the count of its own calls; the cost of the last hour; for each transaction 1 if it is recorded, 0 if
/// another process owns the nonce, 2 if the cost would exceed the ceiling.
pub(super) const RECORD: &str = r"
local S, O, R, P, me, out = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1], {}
-- Others can write here too: a text that is no number above 0 counts for 0.
local function number(text)
  local n = tonumber(text or '0') or 0
  return n > 0 and n or 0
end
local function count(text)
  local n = number(text)
  return n < 1e15 and n or 0
end
local most, own, place, others = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), 0
local t, hour = redis.call('TIME'), 3600000
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local all = redis.call('HGETALL', S)
for k = 1, #all, 2 do
  local who = string.match(all[k], '^w:(.*)$')
  if who and who ~= me then
    local at, wei = string.match(all[k + 1], '^(%d+)|(.*)$')
    at = number(at)
    -- What a process that has ended told last counts for an hour more. The clock of Redis may have been set back.
    if now - at >= hour or at - now >= hour then
      redis.call('HDEL', S, all[k])
    else
      others = others + number(wei)
    end
  end
end
-- A later amount was told meanwhile, which may have these in it: the higher one counts until the next is told.
local later = number(redis.call('HGET', S, 'p:' .. me))
if later > place and later <= place + 1000000 then
  local told = number(string.match(redis.call('HGET', S, 'w:' .. me) or '', '|(.*)$'))
  own, place = math.max(own, told), later
end
local is_over = false
for i = 6, #ARGV, 5 do
  local nonce, digest, is_next, cost = ARGV[i], ARGV[i + 1], ARGV[i + 2] == '1', tonumber(ARGV[i + 3])
  local owner = redis.call('HGET', O, nonce)
  if not owner or string.sub(owner, 1, #me + 1) ~= me .. '|' then
    out[#out + 1] = 0
  elseif cost > 0 and (others + own + cost > most or (is_over and not is_next)) then
    -- A cheaper one behind a nonce that is not used could not be mined.
    is_over = true
    out[#out + 1] = 2
  else
    if digest ~= '' then
      redis.call('HSET', O, nonce, me .. '|' .. digest)
      redis.call('HSET', P, digest, nonce)
    end
    local before = is_next and redis.call('HGET', R, nonce) or ''
    redis.call('HSET', R, nonce, before .. ARGV[i + 4])
    own = own + cost
    out[#out + 1] = 1
  end
end
if own > 0 then redis.call('HSET', S, 'w:' .. me, string.format('%.0f|%.17g', now, own)) end
redis.call('HSET', S, 'p:' .. me, string.format('%.0f', place))
-- On an older state the count stays behind, so that the next sync notices it.
local calls = count(redis.call('HGET', S, 'n:' .. me))
if calls >= tonumber(ARGV[2]) then
  calls = calls + 1
  redis.call('HSET', S, 'n:' .. me, string.format('%.0f', calls))
end
return {string.format('%.0f', calls), string.format('%.0f', others + own), out}
";

/// Ends the use of nonces. Nonces of other processes are left unchanged, and so is the result of a payload that another
/// process knows to be mined, if this one knows of no outcome.
///
/// Arguments: the process; the highest count of its own calls; the lifetime of results in ms; for each nonce its
/// number, the digest (may be empty), and the result: empty if the nonce is free again, `x` if it is free because its
/// transactions are a stranger's, whatever their digest, `-` if it is used without a result, or a letter and a hash to
/// remember. Keys besides the common ones: for each nonce the key of its result.
/// Returns the count of its own calls.
pub(super) const FINISH: &str = r"
local S, O, R, P, F, me = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[7], ARGV[1]
-- Others can write here too: a text that is no count counts for 0.
local function count(text)
  local n = tonumber(text or '0') or 0
  return n > 0 and n < 1e15 and n or 0
end
local k, owners = 8, count(redis.call('HGET', S, 'owners'))
for i = 4, #ARGV, 3 do
  local nonce, digest, result = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local owner = redis.call('HGET', O, nonce)
  if result == 'x' and owner and string.sub(owner, 1, #me + 1) == me .. '|' then
    digest, result = string.match(owner, '|(.*)$'), ''
  end
  -- A call that arrives late must not end what the nonce was given to since.
  if owner == me .. '|' .. digest or owner == me .. '|' then
    owners = math.max(0, owners - redis.call('HDEL', O, nonce))
    redis.call('HDEL', R, nonce)
    if digest ~= '' and redis.call('HGET', P, digest) == nonce then redis.call('HDEL', P, digest) end
    if result == '' then
      redis.call('ZADD', F, nonce, nonce)
    else
      local used = count(redis.call('HGET', S, 'used'))
      redis.call('HSET', S, 'used', string.format('%.0f', math.max(used, tonumber(nonce) + 1)))
    end
  end
  if #result > 1 then
    local known = redis.call('GET', KEYS[k]) or ''
    if string.sub(result, 1, 1) == 'm' or string.sub(known, 1, 1) ~= 'm' then
      redis.call('SET', KEYS[k], result, 'PX', ARGV[3])
    end
  end
  k = k + 1
end
redis.call('HSET', S, 'owners', string.format('%.0f', owners))
local calls = count(redis.call('HGET', S, 'n:' .. me))
if calls >= tonumber(ARGV[2]) then
  calls = calls + 1
  redis.call('HSET', S, 'n:' .. me, string.format('%.0f', calls))
end
return string.format('%.0f', calls)
";

/// Stores results once more, which Redis may have lost. A process that knows of no outcome takes nothing back from one
/// that does.
///
/// Arguments: the lifetime of results in ms; for each key its result, as in [`FINISH`]. Keys: those of the results.
pub(super) const RESULTS: &str = r"
for k = 1, #KEYS do
  if string.sub(ARGV[k + 1], 1, 1) == 'm' then
    redis.call('SET', KEYS[k], ARGV[k + 1], 'PX', ARGV[1])
  else
    redis.call('SET', KEYS[k], ARGV[k + 1], 'PX', ARGV[1], 'NX')
  end
end
return 0
";

/// Removes the heartbeat of a process that ends, so that other processes take over its nonces at once.
pub(super) const LEAVE: &str = r"
redis.call('HDEL', KEYS[5], ARGV[1])
redis.call('HDEL', KEYS[6], ARGV[1])
redis.call('HDEL', KEYS[1], 'n:' .. ARGV[1], 'p:' .. ARGV[1])
return 0
";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use alloy::primitives::{Address, B256, Bytes};

    use super::super::redis_process::RedisServer;
    use super::super::{
        FinishedNonce, HourCost, JobId, Share, SharedEnd, SharedHour, SharedNonces, SharedRecord,
        SharedTransaction, SyncRequest,
    };
    use super::COUNTS_END;
    use crate::admin::Wei;
    use crate::redis_link::RedisAccess;

    async fn process(redis: &RedisServer) -> SharedNonces {
        let access = RedisAccess {
            url: redis.url(),
            key_prefix: "test:".into(),
            connect_timeout: Duration::from_secs(60),
        };
        SharedNonces::connect(&access, 1, Address::ZERO).await.unwrap()
    }

    /// Returns a connection of a stranger.
    async fn stranger(redis: &RedisServer) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(redis.url()).unwrap();
        // On a busy machine answers take long.
        let patient = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(60)))
            .set_response_timeout(None);
        client.get_multiplexed_async_connection_with_config(&patient).await.unwrap()
    }

    /// Writes fields of the state like a stranger.
    async fn write(redis: &RedisServer, process: &SharedNonces, fields: &[(&str, &str)]) {
        let mut command = redis::cmd("HSET");
        command.arg(process.keys[0].as_str());
        for (field, text) in fields {
            command.arg(*field).arg(*text);
        }
        command.query_async::<()>(&mut stranger(redis).await).await.unwrap();
    }

    /// A process that was stopped for minutes gives up a payload, which another one has seen mined meanwhile.
    #[tokio::test]
    async fn a_process_that_knows_of_no_outcome_takes_none_back() {
        let redis = RedisServer::start();
        let process = process(&redis).await;
        let [given_up, later, mined] = [1, 2, 4].map(B256::repeat_byte);
        let payload = B256::repeat_byte(3);
        let request = SyncRequest { wanted: vec![(JobId(1), payload)], ..SyncRequest::default() };
        for (end, known) in [
            (SharedEnd::Unknown(given_up), Share::Unknown(given_up)),
            (SharedEnd::Unknown(later), Share::Unknown(later)),
            (SharedEnd::Mined(mined), Share::Mined(mined)),
            (SharedEnd::Unknown(given_up), Share::Mined(mined)),
        ] {
            let finished = [FinishedNonce { nonce: 5, payload: Some(payload), end }];
            assert_eq!(given(&process, &finished, &request).await, [(JobId(1), known)]);
        }
    }

    /// Otherwise one text that a stranger has written once would keep a process from ending a nonce, and from each
    /// heartbeat, which follows the end.
    #[tokio::test]
    async fn texts_of_strangers_in_the_state_keep_no_process_from_ending_a_nonce() {
        let redis = RedisServer::start();
        let process = process(&redis).await;
        let own_calls = format!("n:{}", process.me);
        let payload = B256::repeat_byte(3);
        let wanted = vec![(JobId(1), payload)];
        let request = SyncRequest { held: vec![5], wanted, ..SyncRequest::default() };
        assert_eq!(given(&process, &[], &request).await, [(JobId(1), Share::Later)]);
        for (number, text) in (1..).zip(["x", "", "nan", "inf", "-7", "1e300", "12.5", "007"]) {
            write(&redis, &process, &[("used", text), (own_calls.as_str(), text)]).await;
            let mined = B256::repeat_byte(number);
            let end = SharedEnd::Mined(mined);
            let finished = [FinishedNonce { nonce: 5, payload: Some(payload), end }];
            let known = [(JobId(1), Share::Mined(mined))];
            assert_eq!(given(&process, &finished, &request).await, known, "{text:?}");
        }
    }

    /// Otherwise the sum of others would be no number, which exceeds no ceiling, or lower than what they have spent.
    #[tokio::test]
    async fn texts_of_strangers_in_the_state_neither_stop_records_nor_lower_the_cost_of_the_hour() {
        let redis = RedisServer::start();
        let process = process(&redis).await;
        let own_fields = ["p", "n"].map(|name| format!("{name}:{}", process.me));
        let request = SyncRequest { held: vec![5], ..SyncRequest::default() };
        assert!(given(&process, &[], &request).await.is_empty());
        for (number, text) in (1..).zip(["x", "", "nan", "-7", "-1e300"]) {
            let (seconds, _): (u64, u64) =
                redis::cmd("TIME").query_async(&mut stranger(&redis).await).await.unwrap();
            let of_others = format!("{seconds}000|{text}");
            let fields =
                [(&*own_fields[0], text), (&*own_fields[1], text), ("w:other", &*of_others)];
            write(&redis, &process, &fields).await;
            let refused = recorded(&process, 11, 2 * number).await;
            assert!(matches!(refused, SharedRecord::TooExpensive(_)), "{text:?}");
            write(&redis, &process, &fields).await;
            let fits = recorded(&process, 10, 2 * number + 1).await;
            assert_eq!(fits, SharedRecord::Recorded, "{text:?}");
        }
    }

    /// Otherwise each call would find the state older than before, and no nonce would be assigned until a restart.
    #[tokio::test]
    async fn counts_that_a_stranger_has_raised_to_their_end_begin_one_epoch_and_not_one_with_each_call()
     {
        let redis = RedisServer::start();
        let process = process(&redis).await;
        let epoch = async || {
            for _ in 0..60 {
                if let Ok(response) = process.sync(&SyncRequest::default()).await {
                    return response.epoch;
                }
            }
            panic!("Redis never answers")
        };
        epoch().await;
        let last = (COUNTS_END - 1).to_string();
        let own_calls = format!("n:{}", process.me);
        write(&redis, &process, &[("seq", last.as_str()), (own_calls.as_str(), last.as_str())])
            .await;
        // The first call raises them to the end, and the second one finds no counts.
        for _ in 0..2 {
            epoch().await;
        }
        let settled = epoch().await;
        for _ in 0..3 {
            assert_eq!(epoch().await, settled);
        }
    }

    /// Otherwise the gas of an hour would only rise, and reach the ceiling some time.
    #[tokio::test]
    async fn a_number_that_a_stranger_has_raised_does_not_keep_the_cost_of_the_hour_from_falling() {
        let redis = RedisServer::start();
        let process = process(&redis).await;
        let told = |wei, number| {
            let spent = HourCost { sum: Wei(wei), number };
            SyncRequest { held: vec![5], spent, ..SyncRequest::default() }
        };
        assert!(given(&process, &[], &told(8, 1)).await.is_empty());
        let number = format!("p:{}", process.me);
        let raised = [(number.as_str(), "500000000000000")];
        write(&redis, &process, &raised).await;
        assert!(given(&process, &[], &told(0, 2)).await.is_empty());
        assert_eq!(recorded(&process, 10, 3).await, SharedRecord::Recorded, "told by a sync");
        write(&redis, &process, &raised).await;
        assert_eq!(recorded(&process, 10, 4).await, SharedRecord::Recorded, "told by a record");
    }

    /// Otherwise the payload would wait for as long as the text is there.
    #[tokio::test]
    async fn a_result_of_another_form_keeps_no_payload_from_its_nonce() {
        let redis = RedisServer::start();
        let process = process(&redis).await;
        let payload = B256::repeat_byte(3);
        let wanted = vec![(JobId(1), payload)];
        let request = SyncRequest { floor: Some(0), wanted, ..SyncRequest::default() };
        assert_eq!(given(&process, &[], &request).await, [(JobId(1), Share::Later)]);
        // All processes have had the time to say what they hold.
        write(&redis, &process, &[("since", "0")]).await;
        let mut set = redis::cmd("SET");
        set.arg(process.result_key(Some(payload))).arg("m, says a stranger");
        set.query_async::<()>(&mut stranger(&redis).await).await.unwrap();
        assert_eq!(given(&process, &[], &request).await, [(JobId(1), Share::Nonce(0))]);
    }

    /// Records a transaction with nonce 5 against a ceiling of 10 wei. Repeats the call while Redis is too busy to
    /// answer.
    async fn recorded(process: &SharedNonces, cost: u128, number: u64) -> SharedRecord {
        for _ in 0..60 {
            let (cost, raw) = (Wei(cost), Bytes::from_static(b"raw"));
            let transaction =
                SharedTransaction { nonce: 5, payload: None, is_next: false, cost, raw };
            let own = HourCost { sum: Wei(0), number };
            let hour = SharedHour { max: Wei(10), own };
            if let Ok(answers) = process.record(&[transaction], hour).await {
                return answers[0];
            }
        }
        panic!("Redis never answers")
    }

    /// Reports an outcome and returns what Redis then tells. Repeats both calls while Redis is too busy to answer.
    async fn given(
        process: &SharedNonces,
        finished: &[FinishedNonce],
        request: &SyncRequest,
    ) -> Vec<(JobId, Share)> {
        for _ in 0..60 {
            if process.finish(finished).await.is_ok()
                && let Ok(response) = process.sync(request).await
            {
                return response.given;
            }
        }
        panic!("Redis never answers")
    }
}
