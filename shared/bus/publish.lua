-- Publish a batch on one shard. Each publication is all or nothing: whatever can fail comes before its first write.
--
-- KEYS[1]   the shard's incarnation
-- ARGV[1]   the incarnation that the caller believes in, 6 bytes
-- ARGV[2]   6 random bytes, for the epochs of channels that start here
-- then, of each publication,
--   KEYS    head, history; and where its meta has a second part: keys, versions, ids
--   ARGV    meta (packed, see META and MORE), the rest of its full envelope, the rest of its delta envelope or ''; and where its meta
--           has a second part: its key ('' on a channel that is not keyed)
--
-- Returns three values a publication: outcome, epoch, offset; or for one that failed FAILED, the reason, 0.

local META, META_BYTES = '>BI4I4I8I8c8c8i8I8I4c12', 73
-- flags, history size, history bytes, history age in ms, ttl in ms, payload hash, base hash, Kafka time, Kafka offset, index, source
local MORE = '>BBBBI4I8I4dc16'
-- is keyed, is a deletion, has a version, has an id, most keys, window of ids in ms, most ids, version, id
local STATE = '>c12I8c8i8I8B'
-- epoch, offset, payload hash, Kafka time, bytes in the history, kind + 4 where versions are kept + 8 where ids are kept
local PREFIX = '>Bc12I8I8'
-- of an envelope: version, epoch, offset, base offset
local ONLY_CHANGED, RESTORE = 1, 2
local DUPLICATE, UNCHANGED, FULL, DELTA, FAILED, STALE, REPEATED = 0, 1, 2, 3, 4, 5, 6
local OFFSET_AT, TIME_AT, HASH_AT, HASH_END, KIND_DIVISOR = 14, 31, 39, 46, 4
local KEYED, VERSIONS, IDS = 2, 4, 8
local MOST_PRUNED = 16

local spread = unpack
local call, pack, unpack = redis.call, struct.pack, struct.unpack

local stored = call('GET', KEYS[1])
if not stored or string.sub(stored, 1, 6) ~= ARGV[1] then
  return redis.error_reply('INCARNATION the shard has another incarnation than the publisher believes')
end
local fresh_epoch = ARGV[1] .. ARGV[2]
local changes_of_kind = 0

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

-- The other keys of a channel, from its head's.
local function names_of(head)
  local stem = string.sub(KEYS[1], 1, -#'incarnation' - 1)
  local channel = string.sub(head, #stem + #'c:' + 1)
  return stem .. 'k:' .. channel, stem .. 'v:' .. channel, stem .. 'i:' .. channel
end

-- Note an id, and forget those that are beyond the window or too many: a few each time, so that no call takes long.
local function remember(ids, id, seen, time, window, most)
  if time < 0 then
    time = tonumber(call('ZRANGE', ids, -1, -1, 'WITHSCORES')[2] or 0)
  end
  call('ZADD', ids, string.format('%.0f', math.max(time, seen or time)), id)
  local old = call('ZRANGEBYSCORE', ids, '-inf', string.format('(%.0f', time - window), 'LIMIT', 0, MOST_PRUNED)
  if #old > 0 then
    call('ZREM', ids, spread(old))
  end
  local excess = call('ZCARD', ids) - most
  if excess > 0 then
    call('ZREMRANGEBYRANK', ids, 0, math.min(excess, MOST_PRUNED) - 1)
  end
end

-- Note a version. Those of deleted keys are kept, so that a late arrival does not bring a key back; but no more of them than of keys:
-- beyond that, half or more of all versions are of deleted keys, so a few that are drawn at random hit some.
local function set_version(versions, field, version, keys, most)
  if call('HSET', versions, field, pack('>d', version)) == 1 and keys and call('HLEN', versions) > 2 * most then
    for _, drawn in ipairs(call('HRANDFIELD', versions, MOST_PRUNED)) do
      if drawn ~= field and call('HEXISTS', keys, drawn) == 0 then
        call('HDEL', versions, drawn)
      end
    end
  end
end

-- A publication with a key, a version or an id, or on a channel that has such.
local function publish_more(head, history, meta, full, delta, keys, versions, ids, key)
  local flags, size_limit, byte_limit, age_limit, ttl, hash, base_hash, time, kafka_offset, index, source = unpack(META, meta)
  local is_keyed, is_deletion, has_version, has_id = false, false, false, false
  local most_keys, window, most_ids, version, id
  if key then
    is_keyed, is_deletion, has_version, has_id, most_keys, window, most_ids, version, id = unpack(MORE, meta, META_BYTES + 1)
    is_keyed, is_deletion, has_version, has_id = is_keyed == 1, is_deletion == 1, has_version == 1, has_id == 1
    if has_version and version ~= version then
      return FAILED, 'the version is not a number', 0
    end
  else
    keys, versions, ids = names_of(head)
  end
  local is_restore, only_changed = flags >= RESTORE, flags % 2 == ONLY_CHANGED
  local source_state = pack('>I8I4', kafka_offset, index)
  local epoch, offset, newest_hash, newest_time, bytes, kept = fresh_epoch, 0, '', 0, 0, 0

  -- First look, and write nothing.
  local found = call('HMGET', head, 'p', source)
  local exists = found[1] and string.sub(found[1], 1, 6) == ARGV[1]
  local is_other_kind = false
  if exists then
    epoch, offset, newest_hash, newest_time, bytes, kept = unpack(STATE, found[1])
    if found[2] then
      local newest_offset, newest_index = unpack('>I8I4', found[2])
      if kafka_offset < newest_offset or (kafka_offset == newest_offset and index <= newest_index) then
        return DUPLICATE, epoch, offset
      end
    end
    exists = call('LLEN', history) > 0
    is_other_kind = exists and (kept % 4 == KEYED) ~= is_keyed
    exists = exists and not is_other_kind
  end
  local has_versions, has_ids = exists and kept % 8 >= VERSIONS, exists and kept >= IDS
  local base_offset, has_base, is_newer, seen = offset, exists, false, nil
  local outcome
  if exists then
    if is_keyed then
      local newest = call('HGET', keys, key)
      has_base = newest and true
      if newest then
        base_offset, newest_time, newest_hash = unpack('>I8', newest, OFFSET_AT), unpack('>i8', newest, TIME_AT), string.sub(newest, HASH_AT, HASH_END)
      end
    end
    if has_id and has_ids then
      seen = tonumber(call('ZSCORE', ids, id) or nil)
      if seen and not is_restore and (time < 0 or math.abs(time - seen) <= window) then
        outcome = REPEATED
      end
    end
    if has_version and has_versions then
      local newest = call('HGET', versions, key)
      newest = newest and unpack('>d', newest)
      is_newer = newest and version > newest
      if newest and not is_newer and not (is_restore and version == newest) then
        outcome = outcome or STALE
      end
    end
    if not outcome and is_restore and has_base and not is_newer and (newest_time > time or newest_time == time and not found[2]) then
      return DUPLICATE, epoch, offset
    end
    if not outcome and is_deletion and not has_base and (only_changed or is_restore) then
      outcome = UNCHANGED
    elseif not outcome and only_changed and not is_deletion and has_base and newest_hash == hash then
      outcome = UNCHANGED
    end
    if not outcome and is_keyed and not is_deletion and not has_base and call('HLEN', keys) >= most_keys then
      return FAILED, 'the channel has as many keys as it may: ' .. most_keys, 0
    end
  end

  -- From here on nothing fails.
  local entry, length
  if not outcome then
    if not exists then
      -- A new channel; or one whose history is gone, or that is left over from before the shard's data was lost; or one that becomes
      -- keyed, or ceases to be: then its sources are what they were.
      call('DEL', history, keys, versions, ids)
      if not is_other_kind then
        call('DEL', head)
      end
      epoch, offset, newest_hash, bytes, kept = fresh_epoch, 0, '', 0, 0
      if is_other_kind then
        -- It may have started in this very call, so the epoch must be yet another one. A batch has fewer than 256 publications.
        changes_of_kind = changes_of_kind + 1
        epoch = string.sub(fresh_epoch, 1, -2) .. string.char((string.byte(fresh_epoch, -1) + changes_of_kind) % 256)
      end
    end
    offset = offset + 1
    entry = pack(PREFIX, 1, epoch, offset, 0) .. full
    length = call('RPUSH', history, entry)
    bytes = trim(history, size_limit, byte_limit, age_limit, length, bytes + #entry, time)
    if is_deletion then
      call('HDEL', keys, key)
    elseif is_keyed then
      call('HSET', keys, key, entry)
    end
  end
  if has_version and (not outcome or outcome == UNCHANGED) then
    if not has_versions then
      call('DEL', versions)
    end
    set_version(versions, key, version, is_keyed and keys, most_keys)
    has_versions = true
  end
  if has_id and (not outcome or outcome == UNCHANGED) then
    if not has_ids then
      call('DEL', ids)
    end
    remember(ids, id, seen, time, window, most_ids)
    has_ids = true
  end
  local now_kept = (has_versions and VERSIONS or 0) + (has_ids and IDS or 0)
  if outcome then
    call('HSET', head, source, source_state)
    if now_kept ~= kept - kept % VERSIONS then
      call('HSET', head, 'p', string.sub(found[1], 1, -2) .. string.char(kept % VERSIONS + now_kept))
    end
  else
    local kind = math.floor(string.byte(full, 1) / KIND_DIVISOR) % 4
    call('HSET', head, 'p', pack(STATE, epoch, offset, hash, time, bytes, kind + now_kept), source, source_state)
  end
  call('PEXPIRE', head, ttl)
  call('PEXPIRE', history, ttl)
  if is_keyed then
    call('PEXPIRE', keys, ttl)
  end
  if has_versions then
    call('PEXPIRE', versions, ttl)
  end
  if has_ids then
    call('PEXPIRE', ids, ttl)
  end

  if outcome then
    return outcome, epoch, offset
  end
  if delta ~= '' and exists and has_base and base_hash == newest_hash then
    call('PUBLISH', head, pack(PREFIX, 1, epoch, offset, base_offset) .. delta)
    return DELTA, epoch, offset
  end
  call('PUBLISH', head, entry)
  return FULL, epoch, offset
end

local function publish(head, history, meta, full, delta)
  local flags, size_limit, byte_limit, age_limit, ttl, hash, base_hash, time, kafka_offset, index, source = unpack(META, meta)
  local found = call('HMGET', head, 'p', source)
  local epoch, offset, newest_hash, newest_time, bytes = fresh_epoch, 0, '', 0, 0
  local source_state = pack('>I8I4', kafka_offset, index)

  local exists = found[1] and string.sub(found[1], 1, 6) == ARGV[1]
  if exists then
    local kept
    epoch, offset, newest_hash, newest_time, bytes, kept = unpack(STATE, found[1])
    if kept >= KEYED then
      return publish_more(head, history, meta, full, delta)
    end
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
    call('DEL', head, history, names_of(head))
  end

  local length = 0
  local entry
  if exists then
    entry = pack(PREFIX, 1, epoch, offset + 1, 0) .. full
    length = call('RPUSHX', history, entry)
  end
  if length == 0 then
    -- A new channel, or one whose history is gone: its offsets start again under an epoch of their own.
    call('DEL', head, history)
    epoch, offset, newest_hash, bytes = fresh_epoch, 0, '', 0
    entry = pack(PREFIX, 1, epoch, 1, 0) .. full
    length = call('RPUSH', history, entry)
  end
  offset = offset + 1
  bytes = trim(history, size_limit, byte_limit, age_limit, length, bytes + #entry, time)
  local kind = math.floor(string.byte(full, 1) / KIND_DIVISOR) % 4
  call('HSET', head, 'p', pack(STATE, epoch, offset, hash, time, bytes, kind), source, source_state)
  call('PEXPIRE', head, ttl)
  call('PEXPIRE', history, ttl)

  if delta ~= '' and base_hash == newest_hash then
    call('PUBLISH', head, pack(PREFIX, 1, epoch, offset, offset - 1) .. delta)
    return DELTA, epoch, offset
  end
  call('PUBLISH', head, entry)
  return FULL, epoch, offset
end

local answers = {}
local full_bus
local key_at, argument_at, answer_at, last_key = 2, 3, 1, #KEYS
while key_at <= last_key do
  local meta, full, delta = ARGV[argument_at], ARGV[argument_at + 1], ARGV[argument_at + 2]
  local has_more = #meta > META_BYTES
  local outcome, epoch, offset
  if full_bus then
    -- A later publication of a channel must not overtake an earlier one: it would make it a duplicate, and so lose it.
    outcome, epoch, offset = FAILED, full_bus, 0
  else
    local ok
    if has_more then
      local head, history, keys, versions, ids = spread(KEYS, key_at, key_at + 4)
      ok, outcome, epoch, offset = pcall(publish_more, head, history, meta, full, delta, keys, versions, ids, ARGV[argument_at + 3])
    else
      ok, outcome, epoch, offset = pcall(publish, KEYS[key_at], KEYS[key_at + 1], meta, full, delta)
    end
    if not ok then
      local reason = type(outcome) == 'table' and outcome.err or tostring(outcome)
      outcome, epoch, offset = FAILED, reason, 0
      full_bus = string.find(reason, 'OOM', 1, true) and reason
    end
  end
  answers[answer_at], answers[answer_at + 1], answers[answer_at + 2] = outcome, epoch, offset
  answer_at = answer_at + 3
  if has_more then
    key_at, argument_at = key_at + 5, argument_at + 4
  else
    key_at, argument_at = key_at + 2, argument_at + 3
  end
end
return answers
