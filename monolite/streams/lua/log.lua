-- Streams as logs.
--
--   monolite:streams              zset: every stream, tenant (16 hex digits)/name, by bytes
--   monolite:retained             set: those with a retention
--   monolite:T:S:stream           hash: ms, n the last id; last, how many events there ever were;
--                                 created, max_length, max_age
--   monolite:T:S:events           stream: e the event, s the how-manyeth it is
--   monolite:T:S:once:DIGEST      string: the ids that a request was given, for a day
--   monolite:T:S:news             channel: `a`, or `r` and a group, after the server that did it

local ONCE_MS = 86400000
local BYTES_MAX = 4194304

local function open(tenant, name)
  local base = PREFIX .. tenant .. ':' .. name .. ':'
  return {
    tenant = tenant,
    name = name,
    base = base,
    info = base .. 'stream',
    events = base .. 'events',
    groups = base .. 'groups',
    listed = string.format('%016x', tonumber(tenant)) .. '/' .. name,
  }
end

local function exists(stream)
  return redis.call('EXISTS', stream.info) == 1
end

local function make(stream, now_ms)
  if not exists(stream) then
    redis.call('HSET', stream.info, 'ms', '0', 'n', '0', 'last', '0', 'created', now_ms)
    redis.call('ZADD', PREFIX .. 'streams', 0, stream.listed)
    return true
  end
  return false
end

local function tell(stream, server, what)
  redis.call('PUBLISH', stream.base .. 'news', server .. ' ' .. what)
end

local function first_id(stream)
  local first = redis.call('XRANGE', stream.events, '-', '+', 'COUNT', 1)[1]
  return first and first[1]
end

local function piece_of(entry)
  return entry[2][2]
end

local function seq_of(entry)
  return tonumber(entry[2][4])
end

-- The ids of events behind the last, or nothing and the place of the one that does not fit.
local function numbered(ms, n, wishes, count, now_ms)
  local given = {}
  for at = 1, count do
    local wish = wishes[at]
    if wish == nil or wish == '' then
      if less(ms, now_ms) then
        ms, n = now_ms, '0'
      elseif n ~= PART_MAX then
        n = inc(n)
      elseif ms ~= PART_MAX then
        ms, n = inc(ms), '0'
      else
        return nil, 'full', at
      end
    else
      local wms, wn = string.match(wish, '^(%d+)%-(.+)$')
      if wn == '*' then
        if less(ms, wms) then
          ms, n = wms, wms == '0' and '1' or '0'
        elseif less(wms, ms) or n == PART_MAX then
          return nil, 'low', at, ms .. '-' .. n
        else
          n = inc(n)
        end
      elseif less(ms, wms) or (ms == wms and less(n, wn)) then
        ms, n = wms, wn
      else
        return nil, 'low', at, ms .. '-' .. n
      end
    end
    given[at] = ms .. '-' .. n
  end
  return given, ms, n
end

-- Append; the ids, or nothing and why not.
local function append(stream, pieces, wishes, now_ms)
  local known = redis.call('HMGET', stream.info, 'ms', 'n', 'last')
  local last = tonumber(known[3] or 0)
  local given, ms, n, at = numbered(known[1] or '0', known[2] or '0', wishes, #pieces, now_ms)
  if given == nil then return nil, ms, n, at end
  if not known[1] then make(stream, now_ms) end
  for place, id in ipairs(given) do
    redis.call('XADD', stream.events, id, 'e', pieces[place], 's', fmt(last + place))
  end
  redis.call('HSET', stream.info, 'ms', ms, 'n', n, 'last', fmt(last + #pieces))
  return given
end

local function trim(stream, maxlen, minid, approximate)
  local dropped = 0
  local how = approximate == '1' and '~' or '='
  if maxlen ~= '' then
    dropped = redis.call('XTRIM', stream.events, 'MAXLEN', how, maxlen)
  end
  if minid ~= '' then
    dropped = dropped + redis.call('XTRIM', stream.events, 'MINID', how, minid)
  end
  return dropped
end

local verbs = {}

-- tenant, stream, server, now_ms, now_us, once, maxlen, minid, approximate, count, wished, pieces…,
-- wishes…
function verbs.append(tenant, name, server, now_ms, now_us, once, maxlen, minid, approximate, count)
  local stream = open(tenant, name)
  local remembered = stream.base .. 'once:' .. once
  if once ~= '' then
    local ids = redis.call('GET', remembered)
    if ids then return ids end
  end
  now_ms = times(now_ms, now_us)
  local pieces, wishes = {}, {}
  count = tonumber(count)
  for at = 1, count do
    pieces[at] = ARGV[11 + at]
    wishes[at] = ARGV[11 + count + at]
  end
  local given, why, at, last = append(stream, pieces, wishes, now_ms)
  if given == nil then return refuse(why, at, last or '') end
  trim(stream, maxlen, minid, approximate)
  local ids = table.concat(given, ',')
  if once ~= '' then redis.call('SET', remembered, ids, 'PX', ONCE_MS) end
  tell(stream, server, 'a')
  return ids
end

-- How many events to read at once behind some whose size is known; the next may be larger.
local FIRST_CHUNK, CHUNK_MAX = 4, 64

local function next_chunk(count, size)
  return math.max(1, math.min(CHUNK_MAX, math.floor((BYTES_MAX - size) * count / size)))
end

-- The ids, and the events with a line each, of a range of `count`, fewer where they are large.
function verbs.range(tenant, name, first, last, count, backwards)
  local stream = open(tenant, name)
  if not exists(stream) then return false end
  local ids, pieces, size = {}, {}, 0
  local left, chunk = tonumber(count), FIRST_CHUNK
  while left > 0 and size < BYTES_MAX do
    local found
    chunk = math.min(left, chunk)
    if backwards == '1' then
      found = redis.call('XREVRANGE', stream.events, last, first, 'COUNT', chunk)
    else
      found = redis.call('XRANGE', stream.events, first, last, 'COUNT', chunk)
    end
    for _, entry in ipairs(found) do
      ids[#ids + 1] = entry[1]
      pieces[#pieces + 1] = piece_of(entry)
      size = size + #piece_of(entry)
    end
    if #found < chunk then break end
    left = left - #found
    if backwards == '1' then last = '(' .. ids[#ids] else first = '(' .. ids[#ids] end
    chunk = next_chunk(#ids, size)
  end
  return {table.concat(ids, ','), table.concat(pieces, '\n')}
end

function verbs.stream(tenant, name)
  local stream = open(tenant, name)
  if not exists(stream) then return false end
  local known = redis.call('HMGET', stream.info, 'ms', 'n', 'created', 'max_length', 'max_age')
  return {
    redis.call('XLEN', stream.events), first_id(stream) or '', known[1] .. '-' .. known[2],
    redis.call('SCARD', stream.groups), known[4] or '', known[5] or '', known[3],
  }
end

function verbs.configure(tenant, name, now_ms, now_us, max_length, max_age)
  local stream = open(tenant, name)
  now_ms = times(now_ms, now_us)
  local is_new = make(stream, now_ms)
  redis.call('HDEL', stream.info, 'max_length', 'max_age')
  if max_length ~= '' then redis.call('HSET', stream.info, 'max_length', max_length) end
  if max_age ~= '' then redis.call('HSET', stream.info, 'max_age', max_age) end
  local is_retained = max_length ~= '' or max_age ~= ''
  redis.call(is_retained and 'SADD' or 'SREM', PREFIX .. 'retained', tenant .. '/' .. name)
  return is_new and 1 or 0
end

function verbs.trim(tenant, name, maxlen, minid, approximate)
  local stream = open(tenant, name)
  if not exists(stream) then return false end
  return trim(stream, maxlen, minid, approximate)
end

function verbs.retain(tenant, name, now_ms, now_us)
  local stream = open(tenant, name)
  local known = redis.call('HMGET', stream.info, 'max_length', 'max_age')
  now_ms = times(now_ms, now_us)
  local minid = ''
  if known[2] then
    minid = fmt(math.max(0, tonumber(now_ms) - tonumber(known[2]))) .. '-0'
  end
  return trim(stream, known[1] or '', minid, '0')
end
