//! The scripts by which processes share the nonces of one account in Redis.
//!
//! Keys, in this order, all with one hash tag: the state (`seq`, `epoch`, `since`, `next`, `used`); the owner and the
//! payload of each nonce; its signed transactions; the nonce of each payload; the last sign of life of each
//! process, and the time since which it has given them; the nonces that were given back. Then the result of each
//! payload that is named, a key that expires.
//!
//! Times are those of Redis, so clocks of processes play no part.

/// Gives a sign of life and takes nonces.
///
/// Arguments: the process; the time in ms after which a silent process counts as gone; the highest `seq` seen;
/// the chain's pending and mined counts (-1: not known); a range of nonces without transactions (from, to);
/// the number of nonces held, and these; the digests of the payloads that need a nonce.
/// Returns the epoch; `seq`; nonces that another process owns; nonces without transactions on record; nonces to
/// fill; nonces taken over, each followed by its transactions; for each digest a letter and a value.
pub(super) const SYNC: &str = r"
local S, O, R, P, A, B, F = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local me, lease, seen = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local floor, mined = tonumber(ARGV[4]), tonumber(ARGV[5])
local gap_from, gap_to, held_count = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local function s(n) return string.format('%.0f', n) end
local function get(key, field) return tonumber(redis.call('HGET', key, field) or '-1') end

-- A state that is new, or older than what was seen: all have to say first what they hold.
local seq, since = get(S, 'seq'), get(S, 'since')
if seq < seen then
  redis.call('HSET', S, 'epoch', t[1] .. '.' .. t[2] .. '.' .. me)
  redis.call('DEL', B)
  seq, since = seen, now
end
if since > now then since = now end
seq = seq + 1
redis.call('HSET', S, 'seq', s(seq), 'since', s(since))
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
    if at + lease < now then gone[v] = true end
    if at + 100 * lease < now then redis.call('HDEL', A, v) redis.call('HDEL', B, v) end
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
local i = 9
for _ = 1, held_count do
  local nonce = ARGV[i]
  i, held[nonce] = i + 1, true
  local owner = redis.call('HGET', O, nonce)
  if not owner then
    take(nonce, '')
    owner = me .. '|'
  end
  if string.sub(owner, 1, #me + 1) == me .. '|' then
    if redis.call('HEXISTS', R, nonce) == 0 then unrecorded[#unrecorded + 1] = nonce end
  else
    lost[#lost + 1] = nonce
  end
end

local all, highest, count = redis.call('HGETALL', O), -1, 0
for k = 1, #all, 2 do
  local nonce, who, digest = all[k], string.match(all[k + 1], '^([^|]*)|(.*)$')
  local is_over = who == me and not held[nonce]
  if not is_over and who ~= me then is_over = adopts and (gone[who] or get(A, who) < 0) end
  local raws = is_over and redis.call('HGET', R, nonce)
  if raws then
    redis.call('HSET', O, nonce, me .. '|' .. digest)
    adopted[#adopted + 1] = nonce
    adopted[#adopted + 1] = raws
  end
  if is_over and not raws then
    free(nonce, digest)
  else
    highest, count = math.max(highest, tonumber(nonce)), count + 1
  end
end

if mined > 0 then redis.call('ZREMRANGEBYSCORE', F, '-inf', '(' .. s(mined)) end
local next_nonce = get(S, 'next')
floor = floor >= 0 and math.max(floor, get(S, 'used')) or floor
if count == 0 and floor >= 0 then
  -- A higher one came from transactions of another sender that nodes have dropped since, or from a lie.
  redis.call('DEL', F)
  next_nonce = floor
end
next_nonce = math.max(next_nonce, floor, highest + 1)
while true do
  local top = redis.call('ZREVRANGE', F, 0, 0)[1]
  if not top or tonumber(top) < next_nonce - 1 or next_nonce <= floor then break end
  redis.call('ZREM', F, top)
  next_nonce = math.min(next_nonce, tonumber(top))
end
next_nonce = math.max(next_nonce, highest + 1)

for k = 1, #ARGV - i + 1 do
  local digest = ARGV[i + k - 1]
  local done, at = redis.call('GET', KEYS[7 + k]), redis.call('HGET', P, digest)
  local owner = at and redis.call('HGET', O, at)
  if done then
    given[#given + 1] = string.sub(done, 1, 1)
    given[#given + 1] = string.sub(done, 2)
  elseif owner and string.match(owner, '|(.*)$') == digest then
    given[#given + 1], given[#given + 2] = 'e', at
  elseif not settled or floor < 0 then
    given[#given + 1], given[#given + 2] = 'w', ''
  else
    local nonce = redis.call('ZRANGEBYSCORE', F, s(floor), '+inf', 'LIMIT', 0, 1)[1]
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
    take(nonce, '')
    fill[#fill + 1] = nonce
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
redis.call('HSET', S, 'next', s(next_nonce))
return {redis.call('HGET', S, 'epoch') or '', s(seq), lost, unrecorded, fill, adopted, given}
";

/// Puts signed transactions on record, each of which may be sent if it is.
///
/// Arguments: the process; for each its nonce, the digest of the payload (may be empty), `1` if it follows
/// others of this nonce, and its bytes. Returns for each 1 or 0: 0 if another process owns the nonce.
pub(super) const RECORD: &str = r"
local O, R, P, me, out = KEYS[2], KEYS[3], KEYS[4], ARGV[1], {}
for i = 2, #ARGV, 4 do
  local nonce, digest = ARGV[i], ARGV[i + 1]
  local owner = redis.call('HGET', O, nonce)
  if owner and string.sub(owner, 1, #me + 1) == me .. '|' then
    if digest ~= '' then
      redis.call('HSET', O, nonce, me .. '|' .. digest)
      redis.call('HSET', P, digest, nonce)
    end
    local before = ARGV[i + 2] == '1' and redis.call('HGET', R, nonce) or ''
    redis.call('HSET', R, nonce, before .. ARGV[i + 3])
    out[#out + 1] = 1
  else
    out[#out + 1] = 0
  end
end
return out
";

/// Ends the use of nonces. What another process owns stays as it is.
///
/// Arguments: the process; the life of results in ms; for each its nonce, the digest (may be empty), and the
/// result: empty if the nonce is free again, `-` if it is used up, or a letter and a hash to remember.
/// Keys beside the usual: for each the key of its result.
pub(super) const FINISH: &str = r"
local O, R, P, F, me = KEYS[2], KEYS[3], KEYS[4], KEYS[7], ARGV[1]
local k = 8
for i = 3, #ARGV, 3 do
  local nonce, digest, result = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local owner = redis.call('HGET', O, nonce)
  -- A call that arrives late must not end what the nonce was given to since.
  if owner == me .. '|' .. digest or owner == me .. '|' then
    redis.call('HDEL', O, nonce)
    redis.call('HDEL', R, nonce)
    if digest ~= '' and redis.call('HGET', P, digest) == nonce then redis.call('HDEL', P, digest) end
    if result == '' then
      redis.call('ZADD', F, nonce, nonce)
    else
      local used = tonumber(redis.call('HGET', KEYS[1], 'used') or '0')
      redis.call('HSET', KEYS[1], 'used', string.format('%.0f', math.max(used, tonumber(nonce) + 1)))
    end
  end
  if #result > 1 then redis.call('SET', KEYS[k], result, 'PX', ARGV[2]) end
  k = k + 1
end
return 0
";

/// Takes back the signs of life of a process that ends, so that others go on with what it leaves at once.
pub(super) const LEAVE: &str = r"
redis.call('HDEL', KEYS[5], ARGV[1])
redis.call('HDEL', KEYS[6], ARGV[1])
return 0
";
