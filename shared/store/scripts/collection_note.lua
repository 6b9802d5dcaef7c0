-- After rows were written or removed: how large the collection is now. Every note is a change that caches follow; sizes
-- of an older version of the table are not taken.
--   dq:collection:{tenant}:{name} hash  rows, bytes, version, changes        dq:uncompacted zset  gets the collection
-- ARGV 2 tenant  3 name  4 table  5 its version  6 rows  7 bytes
-- Returns 'ok', 'moved' (the collection has another table by now) or 'gone'
even_when_full()
local key = collection_key(ARGV[2], ARGV[3])
local held, version = unpack(redis.call('HMGET', key, 'table', 'version'))
if not held then return 'gone' end
if held ~= ARGV[4] then return 'moved' end
redis.call('HINCRBY', key, 'changes', 1)
redis.call('HSET', key, 'changed_at', now)
redis.call('ZADD', uncompacted_key(), 'NX', now, ARGV[2] .. ':' .. ARGV[3])
if tonumber(ARGV[5]) >= tonumber(version) then
  redis.call('HSET', key, 'version', ARGV[5], 'rows', ARGV[6], 'bytes', ARGV[7])
end
return 'ok'
