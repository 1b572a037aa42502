-- Making, showing and removing groups, and what upkeep does with them.

-- More than two reads deliver at most under one fence.
local SWEPT_AT_ONCE = 3000

local SETTINGS = {'max_deliveries', 'claim_idle_ms', 'max_pending'}

local function shown(g)
  local known = redis.call('HMGET', g.base, unpack(SETTINGS))
  return {
    g.name, known[1], known[2], known[3], g.pid, pending_count(g), lag(g),
    redis.call('ZCARD', g.dead_ids), redis.call('HLEN', g.consumers), g.created,
  }
end

local function remove_group(stream, group)
  local base = stream.base .. 'group:' .. group
  redis.call('XGROUP', 'DESTROY', stream.events, group)
  redis.call('SREM', stream.groups, group)
  redis.call('ZREM', PREFIX .. 'due', stream.tenant .. '/' .. stream.name .. '/' .. group)
  redis.call('UNLINK', base, base .. ':held', base .. ':released', base .. ':consumers',
    base .. ':dead', base .. ':dead_ids', base .. ':seqs')
end

-- Call with each entry that a group holds from an id on, with a consumer or all, until it says so.
local function each_pending(g, first, last, consumer, call)
  local from = first
  while true do
    local found
    if consumer ~= '' then
      found = redis.call('XPENDING', g.stream.events, g.name, from, last, AT_ONCE, consumer)
    else
      found = redis.call('XPENDING', g.stream.events, g.name, from, last, AT_ONCE)
    end
    for _, known in ipairs(found) do
      if call(known) then return end
    end
    if #found < AT_ONCE then return end
    from = '(' .. found[#found][1]
  end
end

-- tenant, stream, group, server, now_ms, now_us, start, settings
function verbs.put_group(tenant, name, group, server, now_ms, now_us, start, deliveries, idle, most)
  local stream = open(tenant, name)
  now_ms = times(now_ms, now_us)
  make(stream, now_ms)
  local g = open_group(stream, group)
  local base = stream.base .. 'group:' .. group
  redis.call('HSET', base, 'max_deliveries', deliveries, 'claim_idle_ms', idle, 'max_pending', most,
    'swept', '-1')
  local is_new = not g
  if is_new then
    local pos, pid = position(stream, start)
    redis.call('HSET', base, 'fence', '0', 'pos', pos, 'pid', pid, 'created', now_ms)
    redis.call('XGROUP', 'CREATE', stream.events, group, pid, 'MKSTREAM')
    redis.call('XGROUP', 'CREATECONSUMER', stream.events, group, NOBODY)
    redis.call('SADD', stream.groups, group)
  end
  g = open_group(stream, group)
  note_due(g)
  if not is_new then tell(stream, server, 'r' .. group) end
  return {is_new and 1 or 0, shown(g)}
end

function verbs.group(tenant, name, group)
  local g = find(tenant, name, group)
  return g and shown(g) or false
end

function verbs.groups(tenant, name)
  local stream = open(tenant, name)
  if not exists(stream) then return false end
  local all = redis.call('SMEMBERS', stream.groups)
  table.sort(all)
  for at, group in ipairs(all) do all[at] = shown(open_group(stream, group)) end
  return all
end

function verbs.move_group(tenant, name, group, server, start)
  local g = find(tenant, name, group)
  if not g then return false end
  g.pos, g.pid = position(g.stream, start)
  redis.call('XGROUP', 'SETID', g.stream.events, group, g.pid)
  redis.call('HSET', g.base, 'pos', g.pos, 'pid', g.pid)
  g.pos = tonumber(g.pos)
  -- What lies behind it is delivered anew, and so is held no more.
  local ids, keys = {}, {}
  each_pending(g, '(' .. g.pid, '+', '', function(known)
    ids[#ids + 1], keys[#keys + 1] = known[1], key_of(known[1])
  end)
  forget(g, ids, keys)
  note_due(g)
  tell(g.stream, server, 'r' .. group)
  return shown(g)
end

function verbs.delete_group(tenant, name, group, server)
  local stream = open(tenant, name)
  if not exists(stream) then return false end
  if not open_group(stream, group) then return 0 end
  remove_group(stream, group)
  tell(stream, server, 'r' .. group)
  return 1
end

function verbs.delete_stream(tenant, name, server)
  local stream = open(tenant, name)
  if not exists(stream) then return 0 end
  for _, group in ipairs(redis.call('SMEMBERS', stream.groups)) do remove_group(stream, group) end
  redis.call('UNLINK', stream.info, stream.events, stream.groups)
  redis.call('ZREM', PREFIX .. 'streams', stream.listed)
  redis.call('SREM', PREFIX .. 'retained', tenant .. '/' .. name)
  tell(stream, server, 'd')
  return 1
end

-- ── What is held ──────────────────────────────────────────────────────────────────────────────

-- Id, consumer, idle (ms), deliveries of each; trimmed ones are left out.
function verbs.pending(tenant, name, group, now_ms, now_us, first, last, count, consumer, min_idle)
  local g = find(tenant, name, group)
  if not g then return false end
  now_ms, now_us = times(now_ms, now_us)
  count, min_idle = tonumber(count), tonumber(min_idle)
  local listed, earliest = {}, first_id(g.stream)
  if not earliest then return listed end
  if before(first, earliest) then first = earliest end
  if before(last, first) then return listed end
  each_pending(g, first, last, consumer, function(known)
    local idle, holder = 0, ''
    if known[2] ~= NOBODY then
      local since = tonumber(redis.call('ZSCORE', g.held, key_of(known[1])))
      idle, holder = math.max(0, math.floor((now_us - since) / 1000)), known[2]
    end
    if idle >= min_idle then listed[#listed + 1] = {known[1], holder, fmt(idle), known[4]} end
    return #listed >= count
  end)
  return listed
end

function verbs.summary(tenant, name, group)
  local g = find(tenant, name, group)
  if not g then return false end
  local all = redis.call('XPENDING', g.stream.events, group)
  local earliest = first_id(g.stream)
  local lowest_id, greatest = '', ''
  if earliest and all[1] > 0 and not before(all[3], earliest) then
    lowest_id = redis.call('XPENDING', g.stream.events, group, earliest, '+', 1)[1][1]
    greatest = all[3]
  end
  local holders = {}
  for _, holder in ipairs(all[4] or {}) do
    if holder[1] ~= NOBODY then holders[#holders + 1] = holder end
  end
  return {pending_count(g), lowest_id, greatest, holders}
end

-- Name, how much it holds, when it asked and when it got something.
function verbs.consumers(tenant, name, group)
  local g = find(tenant, name, group)
  if not g then return false end
  local holds, listed = {}, {}
  for _, holder in ipairs(redis.call('XPENDING', g.stream.events, group)[4] or {}) do
    holds[holder[1]] = holder[2]
  end
  local seen = redis.call('HGETALL', g.consumers)
  for at = 1, #seen, 2 do
    listed[#listed + 1] = {seen[at], holds[seen[at]] or '0', seen[at + 1]}
  end
  return listed
end

local function remove_consumer(g, consumer)
  redis.call('HDEL', g.consumers, consumer)
  redis.call('XGROUP', 'DELCONSUMER', g.stream.events, g.name, consumer)
end

function verbs.delete_consumer(tenant, name, group, server, now_ms, now_us, consumer)
  local g = find(tenant, name, group)
  if not g then return false end
  if redis.call('HEXISTS', g.consumers, consumer) == 0 then return refuse('consumer') end
  now_ms, now_us = times(now_ms, now_us)
  local count, dead = 0, 0
  each_pending(g, '-', '+', consumer, function(known)
    count = count + 1
    if known[4] >= g.max_deliveries then
      dead = dead + bury(g, known[1], known[4], consumer, consumer .. ' was deleted', now_ms)
    elseif #redis.call('XRANGE', g.stream.events, known[1], known[1]) == 0 then
      forget(g, {known[1]}, {key_of(known[1])})
    else
      release(g, known[1], known[4], now_us)
    end
  end)
  remove_consumer(g, consumer)
  note_due(g)
  tell(g.stream, server, 'r' .. group)
  return {count, dead}
end

-- ── Dead letters ──────────────────────────────────────────────────────────────────────────────

function verbs.dead(tenant, name, group, after, limit)
  local g = find(tenant, name, group)
  if not g then return false end
  local keys = redis.call('ZRANGE', g.dead_ids, '(' .. key_of(after), '+', 'BYLEX', 'LIMIT', 0, limit)
  local listed = {}
  for at, key in ipairs(keys) do listed[at] = {id_of(key), redis.call('HGET', g.dead, key)} end
  return listed
end

-- Let an event that is not pending be delivered as if for the first time; whether it was not.
local function release_again(g, id, now_us)
  local key = key_of(id)
  redis.call('HDEL', g.dead, key)
  redis.call('ZREM', g.dead_ids, key)
  if redis.call('ZSCORE', g.held, key) or redis.call('ZSCORE', g.released, key) then return 0 end
  release(g, id, 0, now_us)
  return 1
end

-- tenant, stream, group, server, now_ms, now_us, limit, ids…, all where there are none
function verbs.redrive(tenant, name, group, server, now_ms, now_us, limit, is_named)
  local g = find(tenant, name, group)
  if not g then return false end
  now_ms, now_us = times(now_ms, now_us)
  local first, stale, chosen = first_id(g.stream), {}, {}
  if is_named == '1' then
    for at = 10, #ARGV do chosen[#chosen + 1] = ARGV[at] end
  else
    -- The trimmed ones, which stay, and then as many that the stream still has.
    local border = first and key_of(first) or '\255'
    for _, span in ipairs({{'-', '(' .. border}, {'[' .. border, '+'}}) do
      for _, key in ipairs(redis.call(
        'ZRANGE', g.dead_ids, span[1], span[2], 'BYLEX', 'LIMIT', 0, limit)) do
        chosen[#chosen + 1] = id_of(key)
      end
    end
  end
  local count = 0
  for _, id in ipairs(chosen) do
    local is_dead = redis.call('ZSCORE', g.dead_ids, key_of(id))
    if is_dead and first and not before(id, first) then
      count = count + release_again(g, id, now_us)
    else
      stale[#stale + 1] = id
    end
  end
  note_due(g)
  tell(g.stream, server, 'r' .. group)
  return {count, table.concat(stale, ','), 0}
end

function verbs.redeliver(tenant, name, group, server, now_ms, now_us, first, last, limit)
  local g = find(tenant, name, group)
  if not g then return false end
  now_ms, now_us = times(now_ms, now_us)
  local count = 0
  if before(g.pid, last) then last = g.pid end
  for _, entry in ipairs(redis.call('XRANGE', g.stream.events, first, last, 'COUNT', limit)) do
    count = count + release_again(g, entry[1], now_us)
  end
  note_due(g)
  tell(g.stream, server, 'r' .. group)
  return count
end

function verbs.hasten(tenant, name, group, server, now_ms, now_us)
  local g = find(tenant, name, group)
  if not g then return false end
  now_ms, now_us = times(now_ms, now_us)
  local late = redis.call('ZRANGE', g.released, '(' .. fmt(now_us), '+inf', 'BYSCORE')
  for _, key in ipairs(late) do redis.call('ZADD', g.released, fmt(now_us), key) end
  note_due(g)
  tell(g.stream, server, 'r' .. group)
  return #late
end

-- ── Upkeep ────────────────────────────────────────────────────────────────────────────────────

-- Give up what was delivered often enough and fell due unseen. What a group holds falls due in the
-- order of its fences, so each is looked at once.
function verbs.sweep(tenant, name, group, server, now_ms, now_us)
  local g = find(tenant, name, group)
  if not g then
    redis.call('ZREM', PREFIX .. 'due', tenant .. '/' .. name .. '/' .. group)
    return {0, 0}
  end
  now_ms, now_us = times(now_ms, now_us)
  local till, dead = fmt(now_us - g.idle_us), 0
  local found = redis.call('ZRANGE', g.held, '(' .. fmt(g.swept), till, 'BYSCORE', 'LIMIT', 0,
    SWEPT_AT_ONCE, 'WITHSCORES')
  local is_cut = #found == 2 * SWEPT_AT_ONCE
  for at = 1, #found, 2 do
    -- What is cut off may be of the last fence, which the next sweep looks at whole.
    if is_cut and found[at + 1] == found[#found] then break end
    local id = id_of(found[at])
    local known = known_as(g, id)
    if known and known[4] >= g.max_deliveries then
      dead = dead + bury(g, id, known[4], known[2], exhausted(g), now_ms)
    end
    g.swept = tonumber(found[at + 1])
  end
  redis.call('HSET', g.base, 'swept', fmt(g.swept))
  note_due(g)
  local due = next_due(g, '-inf')
  if due and due <= now_us then tell(g.stream, server, 'r' .. group) end
  return {dead, is_cut and 1 or 0}
end

-- Groups to be looked at by now.
function verbs.due(now_ms, now_us, limit)
  now_ms, now_us = times(now_ms, now_us)
  return redis.call('ZRANGE', PREFIX .. 'due', '-inf', fmt(now_us), 'BYSCORE', 'LIMIT', 0, limit)
end

-- Forget consumers that have asked for nothing since then and hold nothing.
function verbs.expire_consumers(tenant, name, group, now_ms, now_us, kept_ms)
  local g = find(tenant, name, group)
  if not g then return 0 end
  now_ms = times(now_ms, now_us)
  local count, holds = 0, {}
  for _, holder in ipairs(redis.call('XPENDING', g.stream.events, group)[4] or {}) do
    holds[holder[1]] = true
  end
  local seen = redis.call('HGETALL', g.consumers)
  for at = 1, #seen, 2 do
    local asked = tonumber(string.match(seen[at + 1], '^%d+'))
    if not holds[seen[at]] and asked < tonumber(now_ms) - tonumber(kept_ms) then
      remove_consumer(g, seen[at])
      count = count + 1
    end
  end
  return count
end

-- Whether this server, of several, consumes for a group: while it says so often enough.
function verbs.own(tenant, name, group, server, kept_ms)
  local owner = PREFIX .. tenant .. ':' .. name .. ':owner:' .. group
  local known = redis.call('GET', owner)
  if known and known ~= server then return 0 end
  redis.call('SET', owner, server, 'PX', kept_ms)
  return 1
end

function verbs.disown(tenant, name, group, server)
  local owner = PREFIX .. tenant .. ':' .. name .. ':owner:' .. group
  if redis.call('GET', owner) == server then redis.call('DEL', owner) end
  return 1
end
