//! The Lua script by which the gateways of one payer share their state in Redis.
//!
//! One call carries the operations of several requests. Each operation has its own keys and arguments, and answers
//! with a list. If an operation fails, its answer is a text, and the other operations still run.
//!
//! Lua's numbers are doubles. Beyond 2^53 a sum is rounded, up to 2^60 by less than 128 picodollars, and every price is
//! higher than that. Sums end at 2^60, above any limit of a policy file.

/// Runs operations in their order.
///
/// All times are those of Redis, so the clocks of gateways do not matter. A time that is still to come was written
/// before the clock of Redis was set back, or by an earlier version of a gateway: buckets fill from now on then.
///
/// Keys: those of all operations. Arguments: for each operation its name, the number of its keys, the number of its
/// arguments, and the arguments.
///
/// - `take` takes a cost from all limits, or from none. Their holders are 0, the caller; 1, all callers; and 2, the
///   caller's network, which may be left out. Keys, for each holder: the time of the buckets, the bucket of the minute,
///   the bucket of the hour, the counts of the hour and of the day, both without the number of the hour or day, which
///   the script adds; after those of all holders, one for each bucket of a kind. Arguments: the number of holders; for
///   each of them, capacity and window in ms of both buckets, the cost (envelopes, picodollars, gas), the limits of
///   picodollars and gas in the hour, and the limits of envelopes, picodollars and gas in the day; -1 is no limit;
///   then, for each bucket of a kind, its holder, its capacity, its window in ms, and the envelopes to take from it, at
///   least one. The answer is the unix time in ms if the cost was taken. Otherwise it has the holder, the index of the
///   exceeded limit, and the ms after which the cost fits (-1: never). Every request runs this operation, so it reads
///   and writes each count once, with all parts.
/// - `give_tokens_back` returns what `take` has taken from buckets, except for the part that may have been refilled
///   since. Keys: those of `take`. Arguments: the time that `take` has answered, then those of `take`.
/// - `adjust` adds to the existing counts of an hour and a day, or subtracts from them, never below zero. Keys: the
///   counts. Arguments: `1` to add or `-1` to subtract; envelopes, picodollars, gas.
/// - `tell` stores the ids of envelopes that are in a bill. For each envelope the answer has 1 if the same id, or
///   another id from the same transaction, was told before, otherwise 0. A transaction gets another id after a
///   reorganisation of the chain and is paid for once. If the call is repeated, its answer says nothing: it finds its
///   own ids. Keys: the two generations; the number of the newer one. Arguments: the time in ms for which an id is
///   kept; the largest number of ids in a generation; for each envelope its digest and its id. The nodes of topics are
///   stored in the same way, in generations of their own.
/// - `note` stores ids as `tell` does, of envelopes that are in no bill. A mark beside each one says so, under its
///   digest and a question mark. The first `tell` of the envelope takes the mark away, and its answer has 0. So
///   does one with another transaction: otherwise the answer to a second `tell` of that one would have 0, too.
/// - `find` returns the id of each envelope, or the node of each topic, if one is stored. Keys: as for `tell`.
///   Arguments: the digests.
pub(super) const CALL: &str = r"
local ops, t = {}, redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)

-- Others can write here too: a text that is no number counts as none, and no bucket is emptier than empty.
local function number(text, default) return tonumber(text or '') or default end
local function level(text, capacity)
  return math.max(0, math.min(capacity, number(text, capacity)))
end

function ops.take(key, arg, keys, arguments)
  local writes, counts, groups = {}, {}, tonumber(ARGV[arg + 1])
  arg, arguments = arg + 1, arguments - 1
  for group = 0, groups - 1 do
    local k, a = key + group * 5, arg + group * 12
    local costs = {tonumber(ARGV[a + 5]), tonumber(ARGV[a + 6]), tonumber(ARGV[a + 7])}
    local last, longest = nil, 0
    for b = 0, 1 do
      local capacity, window = tonumber(ARGV[a + 1 + 2 * b]), tonumber(ARGV[a + 2 + 2 * b])
      if capacity >= 0 then
        if costs[1] > capacity then return {group, b, -1} end
        last = last or number(redis.call('GET', KEYS[k + 1]), now)
        if last > now then
          local life = math.max(tonumber(ARGV[a + 2]), tonumber(ARGV[a + 4]))
          redis.call('SET', KEYS[k + 1], string.format('%.0f', now), 'PX', life)
          last = now
        end
        local left = level(redis.call('GET', KEYS[k + 2 + b]), capacity)
        left = math.min(capacity, left + (now - last) * capacity / window) - costs[1]
        if left < 0 then return {group, b, math.ceil(-left * window / capacity)} end
        writes[#writes + 1] = {KEYS[k + 2 + b], string.format('%.17g', left), window}
        longest = math.max(longest, window)
      end
    end
    if longest > 0 then
      writes[#writes + 1] = {KEYS[k + 1], string.format('%.0f', now), longest}
    end
    for of_day = 0, 1 do
      local length, after = of_day == 1 and 86400000 or 3600000, {}
      local key = KEYS[k + 4 + of_day] .. string.format('%.0f', math.floor(now / length))
      local used = redis.call('HMGET', key, 'e', 'p', 'g')
      for at = 1, 3 do
        local limit = tonumber(ARGV[a + 6 + 3 * of_day + at])
        if at == 1 and of_day == 0 then limit = -1 end
        local sum = number(used[at], 0) + costs[at]
        if limit >= 0 and sum > limit then
          return {group, at + 3 * of_day, costs[at] <= limit and length - now % length or -1}
        end
        after[at] = string.format('%.0f', math.min(1152921504606846976, sum))
      end
      counts[#counts + 1] = {key, after, not used[1] and (of_day == 1 and 172800 or 7200)}
    end
  end
  for b = 1, (arguments - 12 * groups) / 4 do
    local bucket, a = KEYS[key + 5 * groups + b], arg + 12 * groups - 4 + 4 * b
    local group, capacity = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
    local window, cost = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
    if cost > capacity then return {group, 6 + b, -1} end
    local last, left = string.match(redis.call('GET', bucket) or '', '^(%S+) (%S+)$')
    last, left = number(last, now), level(left, capacity)
    if last > now then
      redis.call('SET', bucket, string.format('%.0f %.17g', now, left), 'PX', window)
      last = now
    end
    left = math.min(capacity, left + (now - last) * capacity / window) - cost
    if left < 0 then return {group, 6 + b, math.ceil(-left * window / capacity)} end
    writes[#writes + 1] = {bucket, string.format('%.0f %.17g', now, left), window}
  end
  for _, write in ipairs(writes) do redis.call('SET', write[1], write[2], 'PX', write[3]) end
  for _, count in ipairs(counts) do
    local key, after, life = count[1], count[2], count[3]
    redis.call('HSET', key, 'e', after[1], 'p', after[2], 'g', after[3])
    if life then redis.call('EXPIRE', key, life) end
  end
  return {now}
end

local function returned(left, capacity, window, cost, elapsed)
  return math.min(capacity, left + math.max(0, cost - math.max(0, elapsed) * capacity / window))
end

function ops.give_tokens_back(key, arg, keys, arguments)
  local elapsed, groups = now - tonumber(ARGV[arg + 1]), tonumber(ARGV[arg + 2])
  arg, arguments = arg + 2, arguments - 2
  for group = 0, groups - 1 do
    local k, a = key + group * 5, arg + group * 12
    local cost = tonumber(ARGV[a + 5])
    for b = 0, 1 do
      local bucket = KEYS[k + 2 + b]
      local capacity, window = tonumber(ARGV[a + 1 + 2 * b]), tonumber(ARGV[a + 2 + 2 * b])
      local life = capacity >= 0 and redis.call('PTTL', bucket) or 0
      if life > 0 then
        local left = level(redis.call('GET', bucket), capacity)
        left = returned(left, capacity, window, cost, elapsed)
        redis.call('SET', bucket, string.format('%.17g', left), 'PX', life)
      end
    end
  end
  for b = 1, (arguments - 12 * groups) / 4 do
    local bucket, a = KEYS[key + 5 * groups + b], arg + 12 * groups - 4 + 4 * b
    local capacity, window, cost = tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
    local life = redis.call('PTTL', bucket)
    local last, left = string.match(redis.call('GET', bucket) or '', '^(%S+) (%S+)$')
    if life > 0 and last then
      left = returned(level(left, capacity), capacity, window, cost, elapsed)
      redis.call('SET', bucket, string.format('%s %.17g', last, left), 'PX', life)
    end
  end
  return {}
end

function ops.adjust(key, arg, keys)
  for at = key + 1, key + keys do
    if redis.call('EXISTS', KEYS[at]) == 1 then
      local used, after = redis.call('HMGET', KEYS[at], 'e', 'p', 'g'), {}
      for part = 1, 3 do
        local sum = number(used[part], 0) + tonumber(ARGV[arg + 1]) * tonumber(ARGV[arg + 1 + part])
        after[part] = string.format('%.0f', math.min(1152921504606846976, math.max(0, sum)))
      end
      redis.call('HSET', KEYS[at], 'e', after[1], 'p', after[2], 'g', after[3])
    end
  end
  return {}
end

local function transaction(place) return place:match('^%d+%.%d+%.(%x+)$') end
local function is_same(known_place, place)
  if not known_place or known_place == place then return known_place == place end
  local sent = transaction(place)
  return sent ~= nil and sent == transaction(known_place)
end
local function turn_of(key) return redis.call('GET', KEYS[key + 3]) == '1' and 1 or 0 end

local function store(first, arg, arguments, is_billed)
  local kept, known, turn, marks = tonumber(ARGV[arg + 1]), {}, turn_of(first), {}
  local key, older = KEYS[first + 1 + turn], KEYS[first + 2 - turn]
  for at = arg + 3, arg + arguments, 2 do
    local mark = ARGV[at] .. '?'
    local known_place = redis.call('HGET', key, ARGV[at]) or redis.call('HGET', older, ARGV[at])
    local is_known = is_same(known_place, ARGV[at + 1])
    if is_billed and known_place then
      local is_marked = redis.call('HDEL', key, mark) + redis.call('HDEL', older, mark) > 0
      is_known = is_known and not is_marked
    elseif not is_billed and not is_known then
      marks[#marks + 1] = mark
    end
    known[#known + 1] = is_known and 1 or 0
  end
  if redis.call('HLEN', key) >= tonumber(ARGV[arg + 2]) or redis.call('PTTL', key) < kept then
    turn = 1 - turn
    key = KEYS[first + 1 + turn]
    redis.call('UNLINK', key)
    redis.call('SET', KEYS[first + 3], turn, 'PX', 2 * kept)
  end
  for at = arg + 3, arg + arguments, 2 do redis.call('HSET', key, ARGV[at], ARGV[at + 1]) end
  for _, mark in ipairs(marks) do redis.call('HSET', key, mark, '1') end
  if redis.call('PTTL', key) < 0 then redis.call('PEXPIRE', key, 2 * kept) end
  return known
end
function ops.tell(first, arg, keys, arguments) return store(first, arg, arguments, true) end
function ops.note(first, arg, keys, arguments) return store(first, arg, arguments, false) end

function ops.find(key, arg, keys, arguments)
  local turn, found = turn_of(key), {}
  local newer = redis.call('HMGET', KEYS[key + 1 + turn], unpack(ARGV, arg + 1, arg + arguments))
  local older = redis.call('HMGET', KEYS[key + 2 - turn], unpack(ARGV, arg + 1, arg + arguments))
  for at = 1, arguments do found[at] = newer[at] or older[at] end
  return found
end

local answers, key, arg = {}, 0, 0
while arg < #ARGV do
  local keys, arguments = tonumber(ARGV[arg + 2]), tonumber(ARGV[arg + 3])
  local is_done, answer = pcall(ops[ARGV[arg + 1]], key, arg + 3, keys, arguments)
  if not is_done then answer = type(answer) == 'table' and answer.err or tostring(answer) end
  answers[#answers + 1] = answer
  key, arg = key + keys, arg + 3 + arguments
end
return answers
";
