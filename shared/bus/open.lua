-- Open one shard: give its incarnation, making a new one where there is none or where it belongs to another server.
--
-- KEYS[1]  the shard's incarnation
-- ARGV[1]  term of the server that the caller is connected to: its run id, 40 bytes; in a cluster also its replication id, 40 bytes
-- ARGV[2]  6 random bytes
local stored = redis.call('GET', KEYS[1])
if stored and string.sub(stored, 7) == ARGV[1] then
  return string.sub(stored, 1, 6)
end
redis.call('SET', KEYS[1], ARGV[2] .. ARGV[1])
return ARGV[2]
