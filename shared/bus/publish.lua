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
-- Returns three values a publication: outcome, epoch, offset; or for one that failed FAILED, the reason, 0. Behind one that failed and
-- whose meta says that it stops, those of its source on its channel either fail too, or are BEHIND: they are not even tried.

local META, META_BYTES = '>BI4I4I8I8c8c8i8I8I4c12', 73
-- flags, history size, history bytes, history age in ms, ttl in ms, payload hash, base hash, Kafka time, Kafka offset, index, source
local MORE = '>BBBBI4I8I8I4dc16B'
-- is keyed, is a deletion, has a version, has an id, most keys, most bytes of all keys, window of ids in ms, most ids, version, id, stops
local STATE = '>c12I8c8i8I8B'
-- epoch, offset, payload hash, Kafka time, bytes in the history, kind + 4 where versions are kept + 8 where ids are kept
local LONG_STATE = STATE .. 'I8BI8'
-- where the channel is keyed, or has versions or ids; behind that: bytes of all keys' envelopes, ids noted since some were
-- forgotten, when the keys, versions and ids expire (ms since 1970)
local PREFIX, PREFIX_BYTES = '>Bc12I8I8', 29
-- of an envelope: version, epoch, offset, base offset
local ONLY_CHANGED, RESTORE = 1, 2
local DUPLICATE, UNCHANGED, FULL, DELTA, FAILED, STALE, REPEATED, BEHIND = 0, 1, 2, 3, 4, 5, 6, 7
local SOURCE_AT = META_BYTES - 11 -- in a meta
local KEPT_AT = 45 -- in a state
local OFFSET_AT, TIME_AT, HASH_AT, HASH_END, KIND_DIVISOR = 14, 31, 39, 46, 4
local KEYED, VERSIONS, IDS = 2, 4, 8
local IDS_BETWEEN, MOST_IDS_FORGOTTEN, VERSIONS_DRAWN = 16, 64, 16

local spread = unpack
local call, pack, unpack, sub, byte = redis.call, struct.pack, struct.unpack, string.sub, string.byte

local stored = call('GET', KEYS[1])
if not stored or sub(stored, 1, 6) ~= ARGV[1] then
  return redis.error_reply('INCARNATION the shard has another incarnation than the publisher believes')
end
local fresh_epoch = ARGV[1] .. ARGV[2]
local changes_of_kind = 0
local only_look = false -- whether an earlier one of this source on this channel failed, so that this one may not be published
local now -- by Redis' clock, in ms since 1970, where it was needed

-- Writes nothing, but fails where Redis is full. Redis asks itself that only before a script's first write, and only if that write
-- could need memory: a DEL or PEXPIRE that came first would open the way for everything after it.
call('SETRANGE', KEYS[1], 0, '')

local function trim(history, size_limit, byte_limit, age_limit, length, bytes, time)
  while length > 1 do
    local over = length > size_limit or bytes > byte_limit
    if not over and age_limit > 0 then
      over = time - unpack('>i8', call('LINDEX', history, 0), TIME_AT) > age_limit
    end
    if not over then break end
    bytes = bytes - #call('LPOP', history)
    length = length - 1
  end
  return bytes
end

-- The other keys of a channel, from its head's.
local function names_of(head)
  local stem = sub(KEYS[1], 1, -#'incarnation' - 1)
  local channel = sub(head, #stem + #'c:' + 1)
  return stem .. 'k:' .. channel, stem .. 'v:' .. channel, stem .. 'i:' .. channel
end

-- Makes the function for publications with a key, a version or an id, and on channels that have such. A plain publication on a plain
-- channel has `publish` below, which does the same by fewer steps; where a call has only such, nothing of this is made.
local function make_publish_more()
  -- The push in hand, and what is known of its channel. Each call sets them all. They are no tables, because those would cost more than
  -- all that is done with them.
  local head, history, keys, versions, ids
  local full, delta, delta_base, hash, time, source, kafka_offset, index, only_changed, is_restore
  local size_limit, byte_limit, age_limit, ttl
  local key, is_keyed, is_deletion, most_keys, most_key_bytes, version, id, window, most_ids
  local epoch, offset, newest_hash, newest_time, bytes, kind, exists, is_other_kind, has_source
  local has_versions, has_ids, key_bytes, ids_noted, more_until
  local has_base, base_offset, base_hash, base_time, base_bytes

  -- `key` is nil where the push itself has nothing of the kind.
  local function read_push(meta)
    local flags, keyed, deletion, has_version, has_id = 0, 0, 0, 0, 0
    flags, size_limit, byte_limit, age_limit, ttl, hash, delta_base, time, kafka_offset, index, source = unpack(META, meta)
    only_changed, is_restore = flags % 2 == ONLY_CHANGED, flags >= RESTORE
    if key then
      keyed, deletion, has_version, has_id, most_keys, most_key_bytes, window, most_ids, version, id = unpack(MORE, meta, META_BYTES + 1)
    end
    is_keyed, is_deletion = keyed == 1, deletion == 1
    version, id = has_version == 1 and version, has_id == 1 and id
  end

  -- The channel does not exist where its history is gone, or is of another kind (keyed or not) than the push; its sources count
  -- nevertheless. Returns whether the push's source was published already.
  local function read_channel()
    epoch, offset, newest_hash, newest_time, bytes, kind = fresh_epoch, 0, '', 0, 0, 0
    key_bytes, ids_noted, more_until = 0, 0, 0
    exists, is_other_kind, has_source, has_versions, has_ids = false, false, false, false, false
    local found = call('HMGET', head, 'p', source)
    local state = found[1]
    if not state or sub(state, 1, 6) ~= ARGV[1] then return false end

    local kept = byte(state, KEPT_AT)
    kind = kept % VERSIONS
    if kept < KEYED then
      epoch, offset, newest_hash, newest_time, bytes = unpack(STATE, state)
    else
      local _
      epoch, offset, newest_hash, newest_time, bytes, _, key_bytes, ids_noted, more_until = unpack(LONG_STATE, state)
    end
    if found[2] then
      has_source = true
      local newest_offset, newest_index = unpack('>I8I4', found[2])
      if kafka_offset < newest_offset or (kafka_offset == newest_offset and index <= newest_index) then return true end
    end
    if call('LLEN', history) > 0 then
      is_other_kind = (kind == KEYED) ~= is_keyed
      exists = not is_other_kind
    end
    has_versions, has_ids = exists and kept % IDS >= VERSIONS, exists and kept >= IDS
    return false
  end

  -- What a delta applies to, and what a publication must differ from: the newest one of the channel, or of the key.
  local function find_base()
    has_base, base_offset, base_hash, base_time, base_bytes = exists, offset, newest_hash, newest_time, 0
    if exists and is_keyed then
      local newest = call('HGET', keys, key)
      has_base = newest and true
      if newest then
        base_offset, base_time, base_bytes = unpack('>I8', newest, OFFSET_AT), unpack('>i8', newest, TIME_AT), #newest
        base_hash = sub(newest, HASH_AT, HASH_END)
      end
    end
  end

  -- Why the value has no room among the channel's keys, or nil.
  local function lacks_room()
    if exists and not has_base then
      local count = call('HLEN', keys)
      if count >= most_keys then
        return 'the channel has as many keys as it may: ' .. most_keys
      elseif count == 0 then
        key_bytes, more_until = 0, 0
      end
    end
    local more = PREFIX_BYTES + #full - base_bytes
    if more > 0 and key_bytes + more > most_key_bytes then
      return 'the values of the channel\'s keys take as many bytes as they may: ' .. most_key_bytes
    end
  end

  -- Whether the push is to be published, as far as its id lets it: nil; or the outcome that it has instead, and the reason of FAILED.
  local function judge()
    local is_newer = false
    if version and has_versions then
      local newest = call('HGET', versions, key)
      newest = newest and unpack('>d', newest)
      is_newer = newest and version > newest
      if newest and not is_newer and not (is_restore and version == newest) then return STALE end
    end
    if is_restore and has_base and not is_newer and (base_time > time or base_time == time and not has_source) then return DUPLICATE end
    if is_deletion then
      return exists and not has_base and (only_changed or is_restore) and UNCHANGED or nil
    end
    if only_changed and has_base and base_hash == hash then return UNCHANGED end
    local reason = is_keyed and lacks_room()
    if reason then return FAILED, reason end
  end

  local function time_of_newest_id()
    return tonumber(call('ZRANGE', ids, -1, -1, 'WITHSCORES')[2] or 0)
  end

  -- Whether the channel saw the id within the window. If not, and `is_noted`, it has by now: this is the last thing that is checked and
  -- the first that is written. An id is noted with Kafka's time; where there is none, with that of the newest id.
  local function is_repeated(is_noted)
    local noted_at = time < 0 and is_noted and time_of_newest_id() or time
    if is_noted and call('ZADD', ids, 'NX', noted_at, id) == 1 then return false end
    local seen_at = tonumber(call('ZSCORE', ids, id) or nil)
    if seen_at and not is_restore and (time < 0 or math.abs(time - seen_at) <= window) then return true end
    if is_noted and noted_at > seen_at then
      call('ZADD', ids, noted_at, id)
    end
    return false
  end

  -- Forget ids that are beyond the window, or too many: now and then, and then a few, so that no call takes long.
  local function forget_ids()
    local oldest = (time < 0 and time_of_newest_id() or time) - window
    local gone = math.max(call('ZCOUNT', ids, '-inf', oldest - 1), call('ZCARD', ids) - most_ids)
    if gone > 0 then
      call('ZREMRANGEBYRANK', ids, 0, math.min(gone, MOST_IDS_FORGOTTEN) - 1)
    end
  end

  -- A new channel; or one whose history is gone, or that is left over from before the shard's data was lost; or one that becomes keyed,
  -- or ceases to be: then its sources are what they were.
  local function start_anew()
    call('DEL', history, keys, versions, ids)
    epoch, offset, bytes, key_bytes, ids_noted, more_until = fresh_epoch, 0, 0, 0, 0, 0
    if not is_other_kind then
      call('DEL', head)
    else
      -- It may have started in this very call, so the epoch must be yet another one. A batch has fewer than 256 publications.
      changes_of_kind = changes_of_kind + 1
      epoch = sub(fresh_epoch, 1, -2) .. string.char((byte(fresh_epoch, -1) + changes_of_kind) % 256)
    end
  end

  -- Put the publication into the history and among the keys. Returns its full envelope.
  local function append()
    offset, newest_hash, newest_time = offset + 1, hash, time
    kind = math.floor(byte(full, 1) / KIND_DIVISOR) % 4
    local entry = pack(PREFIX, 1, epoch, offset, 0) .. full
    local length = call('RPUSH', history, entry)
    bytes = trim(history, size_limit, byte_limit, age_limit, length, bytes + #entry, time)
    if is_deletion then
      call('HDEL', keys, key)
      key_bytes = key_bytes - base_bytes
    elseif is_keyed then
      call('HSET', keys, key, entry)
      key_bytes = key_bytes - base_bytes + #entry
    end
    return entry
  end

  -- Those of deleted keys are kept, so that a late arrival does not bring a key back; but no more of them than of keys: beyond that,
  -- half or more of all versions are of deleted keys, so a few that are drawn at random hit some.
  local function note_version()
    if not has_versions then
      has_versions, more_until = true, 0
      call('DEL', versions)
    end
    if call('HSET', versions, key, pack('>d', version)) == 1 and is_keyed and call('HLEN', versions) > 2 * most_keys then
      for _, drawn in ipairs(call('HRANDFIELD', versions, VERSIONS_DRAWN)) do
        if drawn ~= key and call('HEXISTS', keys, drawn) == 0 then
          call('HDEL', versions, drawn)
        end
      end
    end
  end

  -- Where the channel had ids, `is_repeated` has noted this one.
  local function note_id()
    if not has_ids then
      has_ids, more_until = true, 0
      call('DEL', ids)
      call('ZADD', ids, math.max(time, 0), id)
    end
    ids_noted = (ids_noted + 1) % IDS_BETWEEN
    if ids_noted == 0 then
      forget_ids()
    end
  end

  -- Keys, versions and ids outlive the channel's head by up to a quarter of its time to live: so they need telling only now and then.
  local function let_more_live_on()
    if not now then
      local seconds = call('TIME')
      now = seconds[1] * 1000 + math.floor(seconds[2] / 1000)
    end
    local least, most = now + ttl, now + ttl + math.floor(ttl / 4)
    if more_until >= least and more_until <= most then return end
    more_until = most
    call('PEXPIREAT', keys, more_until)
    call('PEXPIREAT', versions, more_until)
    call('PEXPIREAT', ids, more_until)
  end

  -- The channel's state and the push's source; and all of the channel lives on.
  local function save()
    let_more_live_on()
    local kept = kind + (has_versions and VERSIONS or 0) + (has_ids and IDS or 0)
    local state = pack(LONG_STATE, epoch, offset, newest_hash, newest_time, bytes, kept, key_bytes, ids_noted, more_until)
    call('HSET', head, 'p', state, source, pack('>I8I4', kafka_offset, index))
    call('PEXPIRE', head, ttl)
    call('PEXPIRE', history, ttl)
  end

  return function(meta, ...)
    head, history, keys, versions, ids, full, delta, key = ...
    read_push(meta)
    if version and version ~= version then
      return FAILED, 'the version is not a number', 0
    end

    -- First look, and write nothing.
    if read_channel() then
      return DUPLICATE, epoch, offset
    end
    find_base()
    local outcome, reason = judge()
    if only_look and outcome ~= FAILED then
      return BEHIND, '', 0
    end
    if id and has_ids and is_repeated(not outcome or outcome == UNCHANGED) then
      outcome = REPEATED
    end
    if outcome == FAILED then
      return FAILED, reason, 0
    elseif outcome == DUPLICATE then
      return DUPLICATE, epoch, offset
    end

    -- From here on nothing fails.
    local entry
    if not outcome then
      if not exists then
        start_anew()
      end
      entry = append()
    end
    if not outcome or outcome == UNCHANGED then
      if version then note_version() end
      if id then note_id() end
    end
    save()

    if outcome then
      return outcome, epoch, offset
    end
    if delta ~= '' and has_base and delta_base == base_hash then
      call('PUBLISH', head, pack(PREFIX, 1, epoch, offset, base_offset) .. delta)
      return DELTA, epoch, offset
    end
    call('PUBLISH', head, entry)
    return FULL, epoch, offset
  end
end

local publish_more

local function publish(head, history, meta, full, delta)
  local flags, size_limit, byte_limit, age_limit, ttl, hash, base_hash, time, kafka_offset, index, source = unpack(META, meta)
  local found = call('HMGET', head, 'p', source)
  local epoch, offset, newest_hash, newest_time, bytes = fresh_epoch, 0, '', 0, 0
  local source_state = pack('>I8I4', kafka_offset, index)

  local exists = found[1] and sub(found[1], 1, 6) == ARGV[1]
  if exists then
    local kept
    epoch, offset, newest_hash, newest_time, bytes, kept = unpack(STATE, found[1])
    if kept >= KEYED then
      publish_more = publish_more or make_publish_more()
      local keys, versions, ids = names_of(head)
      return publish_more(meta, head, history, keys, versions, ids, full, delta)
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
  local kind = math.floor(byte(full, 1) / KIND_DIVISOR) % 4
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
local stopped -- the channels and sources of which one failed that stops: FAILED; or BEHIND, once one of them would have been published
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
      publish_more = publish_more or make_publish_more()
      local head, history, keys, versions, ids = spread(KEYS, key_at, key_at + 4)
      local stop = stopped and stopped[head .. sub(meta, SOURCE_AT, META_BYTES)]
      if stop == BEHIND then
        ok, outcome, epoch, offset = true, BEHIND, '', 0
      else
        only_look = stop == FAILED
        ok, outcome, epoch, offset = pcall(publish_more, meta, head, history, keys, versions, ids, full, delta, ARGV[argument_at + 3])
      end
    else
      ok, outcome, epoch, offset = pcall(publish, KEYS[key_at], KEYS[key_at + 1], meta, full, delta)
    end
    if not ok then
      local reason = type(outcome) == 'table' and outcome.err or tostring(outcome)
      outcome, epoch, offset = FAILED, reason, 0
      full_bus = string.find(reason, 'OOM', 1, true) and reason
    end
    if (outcome == FAILED or outcome == BEHIND) and has_more and byte(meta, -1) == 1 then
      stopped = stopped or {}
      stopped[KEYS[key_at] .. sub(meta, SOURCE_AT, META_BYTES)] = outcome
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
