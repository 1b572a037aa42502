-- Storing what was exported, or is moved here from another store, under its own ids.

-- `last` is how many events there were before the first that follows.
function verbs.restore_stream(tenant, name, ms, n, max_length, max_age, created, last)
  local stream = open(tenant, name)
  if exists(stream) then return refuse('there') end
  make(stream, created)
  redis.call('HSET', stream.info, 'ms', ms, 'n', n, 'last', last)
  if max_length ~= '' then redis.call('HSET', stream.info, 'max_length', max_length) end
  if max_age ~= '' then redis.call('HSET', stream.info, 'max_age', max_age) end
  if max_length ~= '' or max_age ~= '' then
    redis.call('SADD', PREFIX .. 'retained', tenant .. '/' .. name)
  end
  return 1
end

-- tenant, stream, ms, n, events…, whose ids count on from the first
function verbs.restore_events(tenant, name, ms, n)
  local stream = open(tenant, name)
  if not exists(stream) then return false end
  local newest = redis.call('XREVRANGE', stream.events, '+', '-', 'COUNT', 1)[1]
  if newest and not before(newest[1], ms .. '-' .. n) then return refuse('low') end
  local known = redis.call('HMGET', stream.info, 'ms', 'n', 'last')
  local last = tonumber(known[3])
  for at = 6, #ARGV do
    last = last + 1
    redis.call('XADD', stream.events, ms .. '-' .. n, 'e', ARGV[at], 's', fmt(last))
    if at < #ARGV then n = inc(n) end
  end
  redis.call('HSET', stream.info, 'last', fmt(last))
  if before(known[1] .. '-' .. known[2], ms .. '-' .. n) then
    redis.call('HSET', stream.info, 'ms', ms, 'n', n)
  end
  return 1
end

-- tenant, stream, group, position, settings, created, fence
function verbs.restore_group(tenant, name, group, start, deliveries, idle, most, created, fence)
  local stream = open(tenant, name)
  if not exists(stream) then return false end
  if open_group(stream, group) then return refuse('there') end
  local pos, pid = position(stream, start)
  redis.call('HSET', stream.base .. 'group:' .. group, 'max_deliveries', deliveries,
    'claim_idle_ms', idle, 'max_pending', most, 'swept', '-1', 'fence', fence, 'pos', pos,
    'pid', pid, 'created', created)
  redis.call('XGROUP', 'CREATE', stream.events, group, pid, 'MKSTREAM')
  redis.call('XGROUP', 'CREATECONSUMER', stream.events, group, NOBODY)
  redis.call('SADD', stream.groups, group)
  return 1
end

function verbs.restore_consumer(tenant, name, group, consumer, seen)
  local g = find(tenant, name, group)
  if not g then return false end
  redis.call('XGROUP', 'CREATECONSUMER', g.stream.events, group, consumer)
  redis.call('HSET', g.consumers, consumer, seen)
  return 1
end

-- tenant, stream, group, consumer, since when it is held or due (µs), deliveries, ids…
function verbs.restore_pending(tenant, name, group, consumer, at_us, deliveries)
  local g = find(tenant, name, group)
  if not g then return false end
  local count = 0
  for at = 8, #ARGV do
    local id = ARGV[at]
    if #redis.call('XRANGE', g.stream.events, id, id) > 0 then
      local who = consumer ~= '' and consumer or NOBODY
      redis.call('XCLAIM', g.stream.events, group, who, 0, id, 'RETRYCOUNT', deliveries, 'FORCE',
        'JUSTID')
      redis.call('ZADD', consumer ~= '' and g.held or g.released, at_us, key_of(id))
      count = count + 1
    end
  end
  note_due(g)
  return count
end

function verbs.restore_dead(tenant, name, group, id, letter)
  local g = find(tenant, name, group)
  if not g then return false end
  redis.call('HSET', g.dead, key_of(id), letter)
  redis.call('ZADD', g.dead_ids, 0, key_of(id))
  return 1
end

-- The numbers that tokens of another store name, for the ids they mean: how long to keep them (ms),
-- number, id…
function verbs.restore_numbers(tenant, name, group, kept_ms)
  local g = find(tenant, name, group)
  if not g then return false end
  for at = 6, #ARGV, 2 do redis.call('HSET', g.seqs, ARGV[at], ARGV[at + 1]) end
  redis.call('PEXPIRE', g.seqs, kept_ms)
  return 1
end

-- A page of what a group holds behind an id: id, consumer, since when or until when (µs), deliveries.
function verbs.holdings(tenant, name, group, after)
  local g = find(tenant, name, group)
  if not g then return false end
  local listed = {}
  local found = redis.call('XPENDING', g.stream.events, group, '(' .. after, '+', AT_ONCE)
  for at, known in ipairs(found) do
    local is_held = known[2] ~= NOBODY
    local since = redis.call('ZSCORE', is_held and g.held or g.released, key_of(known[1]))
    listed[at] = {known[1], is_held and known[2] or '', since or '0', known[4]}
  end
  return {fmt(g.fence), listed}
end
