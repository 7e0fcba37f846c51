-- Publish a shard's heartbeat if the shard still has the incarnation that the caller believes in. Answers 1 if so, else 0.
--
-- KEYS[1]  the shard's incarnation
-- KEYS[2]  its heartbeat channel
-- ARGV[1]  the incarnation that the caller believes in, 6 bytes
-- ARGV[2]  the bridge's instance name
local stored = redis.call('GET', KEYS[1])
if not stored or string.sub(stored, 1, 6) ~= ARGV[1] then
  return 0
end
redis.call('PUBLISH', KEYS[2], ARGV[1] .. ARGV[2])
return 1
