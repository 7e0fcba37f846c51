-- Publish a batch on one shard. Each publication is all or nothing: whatever can fail comes before its first write.
--
-- KEYS[1]            the shard's incarnation
-- KEYS[2i], [2i+1]   head and history of publication i
-- ARGV[1]            the incarnation that the caller believes in, 6 bytes
-- ARGV[2]            6 random bytes, for the epochs of channels that start here
-- ARGV[3i] .. [3i+2] of publication i: meta (packed, see META), the rest of its full envelope, the rest of its delta envelope or ''
--
-- Returns three values a publication: outcome, epoch, offset; or for one that failed FAILED, the reason, 0.

local META = '>BI4I4I8I8c8c8i8I8I4c12'
-- flags, history size, history bytes, history age in ms, ttl in ms, payload hash, base hash, Kafka time, Kafka offset, index, source
local STATE = '>c12I8c8i8I8B'
-- epoch, offset, payload hash, Kafka time, bytes in the history, kind
local ONLY_CHANGED, RESTORE = 1, 2
local DUPLICATE, UNCHANGED, FULL, DELTA, FAILED = 0, 1, 2, 3, 4
local TIME_AT, KIND_DIVISOR = 31, 4

local call, pack, unpack = redis.call, struct.pack, struct.unpack

local stored = call('GET', KEYS[1])
if not stored or string.sub(stored, 1, 6) ~= ARGV[1] then
  return redis.error_reply('INCARNATION the shard has another incarnation than the publisher believes')
end
local fresh_epoch = ARGV[1] .. ARGV[2]

-- Writes nothing, but fails where Redis is full. Redis asks itself that only before a script's first write, and only if that write
-- could need memory: a DEL or PEXPIRE that came first would open the way for everything after it.
call('SETRANGE', KEYS[1], 0, '')

local function trim(history, size_limit, byte_limit, age_limit, length, bytes, now)
  while length > 1 do
    local over = length > size_limit or bytes > byte_limit
    if not over and age_limit > 0 then
      over = now - unpack('>i8', call('LINDEX', history, 0), TIME_AT) > age_limit
    end
    if not over then break end
    bytes = bytes - #call('LPOP', history)
    length = length - 1
  end
  return bytes
end

local function publish(head, history, meta, full, delta)
  local flags, size_limit, byte_limit, age_limit, ttl, hash, base_hash, time, kafka_offset, index, source = unpack(META, meta)
  local found = call('HMGET', head, 'p', source)
  local epoch, offset, newest_hash, newest_time, bytes = fresh_epoch, 0, '', 0, 0
  local source_state = pack('>I8I4', kafka_offset, index)

  local exists = found[1] and string.sub(found[1], 1, 6) == ARGV[1]
  if exists then
    epoch, offset, newest_hash, newest_time, bytes = unpack(STATE, found[1])
    if found[2] then
      local newest_offset, newest_index = unpack('>I8I4', found[2])
      if kafka_offset < newest_offset or (kafka_offset == newest_offset and index <= newest_index) then
        return DUPLICATE, epoch, offset
      end
    end
    if flags >= RESTORE and (newest_time > time or newest_time == time and not found[2]) then
      return DUPLICATE, epoch, offset
    end
    if flags % 2 == ONLY_CHANGED and newest_hash == hash and call('PEXPIRE', history, ttl) == 1 then
      call('HSET', head, source, source_state)
      call('PEXPIRE', head, ttl)
      return UNCHANGED, epoch, offset
    end
  elseif found[1] then
    -- Left over from before the shard's data was lost or restored: its tail may be missing, so nothing of it counts.
    call('DEL', head, history)
  end

  local length = 0
  local entry
  if exists then
    entry = pack('>Bc12I8I8', 1, epoch, offset + 1, 0) .. full
    length = call('RPUSHX', history, entry)
  end
  if length == 0 then
    -- A new channel, or one whose history is gone: its offsets start again under an epoch of their own.
    call('DEL', head, history)
    epoch, offset, newest_hash, bytes = fresh_epoch, 0, '', 0
    entry = pack('>Bc12I8I8', 1, epoch, 1, 0) .. full
    length = call('RPUSH', history, entry)
  end
  offset = offset + 1
  bytes = trim(history, size_limit, byte_limit, age_limit, length, bytes + #entry, time)
  local kind = math.floor(string.byte(full, 1) / KIND_DIVISOR) % 4
  call('HSET', head, 'p', pack(STATE, epoch, offset, hash, time, bytes, kind), source, source_state)
  call('PEXPIRE', head, ttl)
  call('PEXPIRE', history, ttl)

  if delta ~= '' and base_hash == newest_hash then
    call('PUBLISH', head, pack('>Bc12I8I8', 1, epoch, offset, offset - 1) .. delta)
    return DELTA, epoch, offset
  end
  call('PUBLISH', head, entry)
  return FULL, epoch, offset
end

local answers = {}
local full_bus
for i = 1, (#KEYS - 1) / 2 do
  local outcome, epoch, offset
  if full_bus then
    -- A later publication of a channel must not overtake an earlier one: it would make it a duplicate, and so lose it.
    outcome, epoch, offset = FAILED, full_bus, 0
  else
    local ok
    ok, outcome, epoch, offset = pcall(publish, KEYS[2 * i], KEYS[2 * i + 1], ARGV[3 * i], ARGV[3 * i + 1], ARGV[3 * i + 2])
    if not ok then
      local reason = type(outcome) == 'table' and outcome.err or tostring(outcome)
      outcome, epoch, offset = FAILED, reason, 0
      full_bus = string.find(reason, 'OOM', 1, true) and reason
    end
  end
  local at = 3 * i
  answers[at - 2], answers[at - 1], answers[at] = outcome, epoch, offset
end
return answers
