-- Ids, which are two decimal numerals: a number of Lua holds 53 bits, and they have 63.

local PART_MAX = '9223372036854775807'
local PREFIX = 'monolite:'

-- What to answer instead of a reply; the engine makes an error of it.
local function refuse(code, ...)
  return {code, ...}
end

local function fmt(number)
  return string.format('%.0f', number)
end

local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local function inc(digits)
  if #digits < 15 then return fmt(tonumber(digits) + 1) end
  local head, tail = string.sub(digits, 1, -10), tonumber(string.sub(digits, -9)) + 1
  if tail == 1000000000 then return inc(head) .. '000000000' end
  return head .. string.format('%09d', tail)
end

local function parts(id)
  return string.match(id, '^(%d+)%-(%d+)$')
end

local function before(a, b)
  local ams, an = parts(a)
  local bms, bn = parts(b)
  if ams == bms then return less(an, bn) end
  return less(ams, bms)
end

-- As members of sorted sets: a letter for each part's length makes their order by bytes that of ids.
local function key_of(id)
  local ms, n = parts(id)
  return string.char(64 + #ms) .. ms .. string.char(64 + #n) .. n
end

local function id_of(key)
  local ms, n = string.match(key, '^%u(%d+)%u(%d+)$')
  return ms .. '-' .. n
end

-- The caller's time, or the store's own, by which all servers then go.
local function times(ms, us)
  if ms ~= '' then return ms, tonumber(us) end
  local now = redis.call('TIME')
  local micros = tonumber(now[1]) * 1000000 + tonumber(now[2])
  return fmt(math.floor(micros / 1000)), micros
end

-- Pieces of a reply to commands that take many arguments; Lua's stack holds 8000.
local AT_ONCE = 1000

local function in_parts(list, call)
  for from = 1, #list, AT_ONCE do
    call(unpack(list, from, math.min(from + AT_ONCE - 1, #list)))
  end
end
