-- Consumer groups. What a group holds is in Redis's own list of pending entries, with the counts of
-- deliveries; beside it are the instants, which that list keeps in milliseconds of the store alone.
-- What was given back is held by the consumer `:`, whose name nobody else can have.
--
--   monolite:due                       zset: T/S/G by when to look at it next (µs)
--   monolite:T:S:groups                set: names
--   monolite:T:S:group:G               hash: fence, the last; pos and pid, the place and the id that
--                                      it has come to; swept; created; its settings
--   monolite:T:S:group:G:held          zset: what consumers hold, by the fence of its delivery
--   monolite:T:S:group:G:released      zset: what was given back, by when it is due (µs)
--   monolite:T:S:group:G:consumers     hash: when each asked and got something (ms)
--   monolite:T:S:group:G:dead          hash: dead letters by their place in the zset :dead_ids
--   monolite:T:S:group:G:seqs          hash: ids by the numbers that tokens of another store name

local NOBODY = ':'
local CONSUMER_COUNT_MAX = 10000
local BURIED_AT_ONCE = 1000
local LOOKED_AT_ONCE = 256

local function open_group(stream, name)
  local base = stream.base .. 'group:' .. name
  local known = redis.call(
    'HMGET', base, 'fence', 'pos', 'pid', 'max_deliveries', 'claim_idle_ms', 'max_pending',
    'swept', 'created')
  if not known[1] then return nil end
  return {
    stream = stream, name = name, base = base,
    held = base .. ':held', released = base .. ':released', consumers = base .. ':consumers',
    dead = base .. ':dead', dead_ids = base .. ':dead_ids', seqs = base .. ':seqs',
    due = stream.tenant .. '/' .. stream.name .. '/' .. name,
    fence = tonumber(known[1]), pos = tonumber(known[2]), pid = known[3],
    max_deliveries = tonumber(known[4]), idle_us = 1000 * tonumber(known[5]),
    max_pending = tonumber(known[6]), swept = tonumber(known[7]), created = known[8],
  }
end

local function find(tenant, name, group)
  local stream = open(tenant, name)
  if not exists(stream) then return nil end
  return open_group(stream, group)
end

local function pending_count(g)
  return redis.call('ZCARD', g.held) + redis.call('ZCARD', g.released)
end

local function lowest(set, above)
  local found = redis.call('ZRANGE', set, above, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
  return found[2] and tonumber(found[2])
end

-- When something may be due again; nothing where nothing is pending.
local function next_due(g, above)
  local released, held = lowest(g.released, '-inf'), lowest(g.held, above)
  if held then held = held + g.idle_us end
  if released and held then return math.min(released, held) end
  return released or held
end

-- Remember when upkeep is to look at the group.
local function note_due(g)
  local due = next_due(g, '(' .. fmt(g.swept))
  if due then
    redis.call('ZADD', PREFIX .. 'due', fmt(due), g.due)
  elseif pending_count(g) == 0 then
    redis.call('ZREM', PREFIX .. 'due', g.due)
  end
end

local function next_fence(g, now_us)
  g.fence = math.max(now_us, g.fence + 1)
  redis.call('HSET', g.base, 'fence', fmt(g.fence))
  return g.fence
end

local function place_of(stream, id)
  local entry = redis.call('XREVRANGE', stream.events, id, '-', 'COUNT', 1)[1]
  if entry then return seq_of(entry) end
  return tonumber(redis.call('HGET', stream.info, 'last')) - redis.call('XLEN', stream.events)
end

-- Where a group begins behind an id, or now.
local function position(stream, start)
  local known = redis.call('HMGET', stream.info, 'ms', 'n', 'last')
  local last = known[1] .. '-' .. known[2]
  if start == '' or not before(start, last) then return known[3], last end
  return fmt(place_of(stream, start)), start
end

local function forget(g, ids, keys)
  in_parts(ids, function(...) redis.call('XACK', g.stream.events, g.name, ...) end)
  in_parts(keys, function(...) redis.call('ZREM', g.held, ...) end)
  in_parts(keys, function(...) redis.call('ZREM', g.released, ...) end)
end

-- Let an event be nobody's, delivered so often, due then.
local function release(g, id, deliveries, due_us)
  local key = key_of(id)
  redis.call('XCLAIM', g.stream.events, g.name, NOBODY, 0, id, 'RETRYCOUNT', deliveries, 'FORCE',
    'JUSTID')
  redis.call('ZREM', g.held, key)
  redis.call('ZADD', g.released, fmt(due_us), key)
end

-- Give an event up; whether it is a dead letter now, since a trimmed one is only dropped.
local function bury(g, id, deliveries, consumer, reason, now_ms)
  local key = key_of(id)
  local entry = redis.call('XRANGE', g.stream.events, id, id)[1]
  forget(g, {id}, {key})
  if not entry then return 0 end
  local piece = piece_of(entry)
  local who = consumer ~= NOBODY and cjson.encode(consumer) or 'null'
  local how = ',"reason":' .. cjson.encode(reason) .. ',"deliveries":' .. deliveries
    .. ',"consumer":' .. who
  redis.call('HSET', g.dead, key, '{"seq":' .. fmt(seq_of(entry)) .. ',"dead_at":'
    .. now_ms .. how .. '}\n' .. piece)
  redis.call('ZADD', g.dead_ids, 0, key)
  if not string.find(g.stream.name, ':', 1, true) then
    local tab = string.find(piece, '\t', 1, true)
    local graves = open(g.stream.tenant, g.stream.name .. ':dlq')
    append(graves, {string.sub(piece, 1, tab) .. '{"id":"' .. id .. '","data":'
      .. string.sub(piece, tab + 1) .. ',"group":' .. cjson.encode(g.name) .. how
      .. ',"dead_at_ms":' .. now_ms .. '}'}, {}, now_ms)
    tell(graves, '', 'a')
  end
  return 1
end

local function exhausted(g)
  return 'not acknowledged within ' .. fmt(g.idle_us / 1000) .. ' ms of its delivery, '
    .. g.max_deliveries .. ' times'
end

-- How Redis knows a pending entry: id, consumer, idle, deliveries.
local function known_as(g, id)
  return redis.call('XPENDING', g.stream.events, g.name, id, id, 1)[1]
end

local function new_delivery()
  return {ids = {}, counts = {}, fresh = {}, pieces = {}, fence = '0', fresh_fence = '0', dead = 0}
end

-- Deliver what nobody holds and is due, then what was held for long. Returns how much is wanted yet.
local function again(g, consumer, count, now_us, now_ms, idle_us, out)
  local fence, buried = nil, 0
  for pass = 1, 2 do
    local set = pass == 1 and g.released or g.held
    -- What this call delivers is held from its fence on.
    local till = now_us
    if pass == 2 then till = math.min(now_us - idle_us, math.max(now_us, g.fence + 1) - 1) end
    if pass == 2 and fence then till = math.min(till, fence - 1) end
    while count > 0 and buried < BURIED_AT_ONCE do
      local limit = math.min(count, LOOKED_AT_ONCE)
      local keys = redis.call('ZRANGE', set, '-inf', fmt(till), 'BYSCORE', 'LIMIT', 0, limit)
      if #keys == 0 then break end
      fence = fence or next_fence(g, now_us)
      for _, key in ipairs(keys) do
        local id = id_of(key)
        local known = known_as(g, id)
        if not known then
          forget(g, {id}, {key})
        elseif known[4] >= g.max_deliveries then
          buried = buried + 1
          out.dead = out.dead + bury(g, id, known[4], known[2], exhausted(g), now_ms)
        else
          local claimed = redis.call(
            'XCLAIM', g.stream.events, g.name, consumer, 0, id, 'RETRYCOUNT', known[4] + 1)[1]
          if claimed then
            if pass == 1 then redis.call('ZREM', g.released, key) end
            redis.call('ZADD', g.held, fmt(fence), key)
            out.ids[#out.ids + 1] = id
            out.counts[#out.counts + 1] = known[4] + 1
            out.pieces[#out.pieces + 1] = piece_of(claimed)
            count = count - 1
          else
            forget(g, {id}, {key})
          end
        end
      end
    end
  end
  out.fence = fmt(fence or 0)
  return count
end

-- Deliver events that the group has not had; at most `wanted`, fewer where they are large.
local function deliver_new(g, consumer, wanted, now_us, out)
  local chunk, size, fence, newest = FIRST_CHUNK, 0, nil, nil
  while wanted > 0 and size < BYTES_MAX do
    chunk = math.min(wanted, chunk)
    local found = redis.call('XREADGROUP', 'GROUP', g.name, consumer, 'COUNT', chunk,
      'STREAMS', g.stream.events, '>')
    if not found or not found[1] then break end
    local entries = found[1][2]
    fence = fence or fmt(next_fence(g, now_us))
    local scored = {}
    for _, entry in ipairs(entries) do
      local piece = piece_of(entry)
      out.fresh[#out.fresh + 1] = entry[1]
      out.pieces[#out.pieces + 1] = piece
      size = size + #piece
      scored[#scored + 1] = fence
      scored[#scored + 1] = key_of(entry[1])
    end
    redis.call('ZADD', g.held, unpack(scored))
    newest = entries[#entries]
    wanted = wanted - #entries
    if #entries < chunk then break end
    chunk = next_chunk(#out.fresh, size)
  end
  if newest then
    g.pos, g.pid = seq_of(newest), newest[1]
    redis.call('HSET', g.base, 'pos', fmt(g.pos), 'pid', g.pid)
    out.fresh_fence = fence
  end
end

-- A consumer asked; whether it may.
local function admit(g, consumer)
  if redis.call('HEXISTS', g.consumers, consumer) == 1 then return true end
  if redis.call('HLEN', g.consumers) >= CONSUMER_COUNT_MAX then return false end
  redis.call('XGROUP', 'CREATECONSUMER', g.stream.events, g.name, consumer)
  return true
end

local function note_seen(g, consumer, now_ms, is_active)
  local seen = now_ms
  if is_active then
    seen = now_ms .. ' ' .. now_ms
  else
    local known = redis.call('HGET', g.consumers, consumer)
    local active = known and string.match(known, ' (%d+)$')
    if active then seen = now_ms .. ' ' .. active end
  end
  redis.call('HSET', g.consumers, consumer, seen)
end

-- The id of a place that a token names: an id, or a number in the store it came from.
local function resolved(g, place)
  if string.find(place, '-', 1, true) then return place end
  return redis.call('HGET', g.seqs, place) or nil
end

-- Acknowledge the places of one fence; how many were held under it.
local function ack(g, fence, places, stale)
  local count = 0
  for from = 1, #places, AT_ONCE do
    local ids, keys, named = {}, {}, {}
    for at = from, math.min(from + AT_ONCE - 1, #places) do
      local id = resolved(g, places[at])
      if id then
        ids[#ids + 1], keys[#keys + 1], named[#named + 1] = id, key_of(id), places[at]
      else
        stale[#stale + 1] = fence .. '.' .. places[at]
      end
    end
    if #keys > 0 then
      local good_ids, good_keys = {}, {}
      for at, score in ipairs(redis.call('ZMSCORE', g.held, unpack(keys))) do
        if score == fence then
          good_ids[#good_ids + 1], good_keys[#good_keys + 1] = ids[at], keys[at]
        else
          stale[#stale + 1] = fence .. '.' .. named[at]
        end
      end
      if #good_keys > 0 then
        count = count + redis.call('ZREM', g.held, unpack(good_keys))
        redis.call('XACK', g.stream.events, g.name, unpack(good_ids))
      end
    end
  end
  return count
end

-- Fences with their places, from an argument on: fence, how many, places….
local function marked(from, call)
  while ARGV[from] do
    local fence, count, places = ARGV[from], tonumber(ARGV[from + 1]), {}
    for at = 1, count do places[at] = ARGV[from + 1 + at] end
    call(fence, places)
    from = from + 2 + count
  end
end

local function ack_all(g, from, stale)
  local count = 0
  marked(from, function(fence, places)
    if fence ~= 'ids' then
      count = count + ack(g, fence, places, stale)
      return
    end
    local first = first_id(g.stream)
    for _, id in ipairs(places) do
      local key = key_of(id)
      local is_there = first and not before(id, first)
      if is_there and redis.call('ZREM', g.held, key) + redis.call('ZREM', g.released, key) > 0 then
        redis.call('XACK', g.stream.events, g.name, id)
        count = count + 1
      else
        stale[#stale + 1] = id
      end
    end
  end)
  return count
end

local function lag(g)
  local last = tonumber(redis.call('HGET', g.stream.info, 'last'))
  return math.min(last - g.pos, redis.call('XLEN', g.stream.events))
end

local function delivered(g, out, acked, stale, is_full, has_new, now_us)
  local due = next_due(g, '-inf')
  local due_in = due and fmt(math.max(0, math.ceil((due - now_us) / 1000))) or ''
  local has_more = (due and due <= now_us) or has_new
  return {
    acked, table.concat(stale, ','), is_full and 1 or 0, has_more and 1 or 0, due_in,
    out.fence, table.concat(out.ids, ','), table.concat(out.counts, ','),
    out.fresh_fence, table.concat(out.fresh, ','), table.concat(out.pieces, '\n'), out.dead,
  }
end

-- tenant, stream, group, now_ms, now_us, consumer, count, marked…
function verbs.read(tenant, name, group, now_ms, now_us, consumer, count)
  local g = find(tenant, name, group)
  if not g then return false end
  if not admit(g, consumer) then return refuse('consumers') end
  now_ms, now_us = times(now_ms, now_us)
  local stale, out = {}, new_delivery()
  local acked = ack_all(g, 9, stale)
  local wanted = again(g, consumer, tonumber(count), now_us, now_ms, g.idle_us, out)
  local room = g.max_pending - pending_count(g)
  deliver_new(g, consumer, math.min(wanted, room), now_us, out)
  local is_active = #out.pieces > 0
  note_seen(g, consumer, now_ms, is_active)
  note_due(g)
  local has_new = lag(g) > 0 and pending_count(g) < g.max_pending
  return delivered(g, out, acked, stale, not is_active and room <= 0, has_new, now_us)
end

function verbs.claim(tenant, name, group, now_ms, now_us, consumer, count, min_idle_ms)
  local g = find(tenant, name, group)
  if not g then return false end
  if not admit(g, consumer) then return refuse('consumers') end
  now_ms, now_us = times(now_ms, now_us)
  local out = new_delivery()
  again(g, consumer, tonumber(count), now_us, now_ms, 1000 * tonumber(min_idle_ms), out)
  note_seen(g, consumer, now_ms, #out.pieces > 0)
  note_due(g)
  return delivered(g, out, 0, {}, false, false, now_us)
end

function verbs.ack(tenant, name, group)
  local g = find(tenant, name, group)
  if not g then return false end
  local stale = {}
  local count = ack_all(g, 5, stale)
  note_due(g)
  return {count, table.concat(stale, ','), 0}
end

-- tenant, stream, group, server, now_ms, now_us, delay_ms, reason, counts, marked…
function verbs.nack(tenant, name, group, server, now_ms, now_us, delay_ms, reason, counts)
  local g = find(tenant, name, group)
  if not g then return false end
  now_ms, now_us = times(now_ms, now_us)
  local due_us = now_us + 1000 * tonumber(delay_ms)
  local count, dead, stale = 0, 0, {}
  marked(11, function(fence, places)
    for _, place in ipairs(places) do
      local id = resolved(g, place)
      local known = id and redis.call('ZSCORE', g.held, key_of(id)) == fence and known_as(g, id)
      if not known then
        stale[#stale + 1] = fence .. '.' .. place
      else
        count = count + 1
        if counts == '1' and known[4] >= g.max_deliveries then
          dead = dead + bury(g, id, known[4], known[2], reason, now_ms)
        elseif #redis.call('XRANGE', g.stream.events, id, id) == 0 then
          forget(g, {id}, {key_of(id)})
        else
          release(g, id, known[4] - (counts == '1' and 0 or 1), due_us)
        end
      end
    end
  end)
  if count > 0 then
    note_due(g)
    tell(g.stream, server, 'r' .. group)
  end
  return {count, table.concat(stale, ','), dead}
end
