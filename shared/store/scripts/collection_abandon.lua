-- A re-embedding ends without a switch: its table goes, unless another one took over already.
--   dq:collection:{tenant}:{name} hash  next_table        dq:dropped zset  gets the table
-- ARGV 2 tenant  3 name  4 id  5 table
-- Returns 1, or 0 when it was not the collection's any more
even_when_full()
local key = collection_key(ARGV[2], ARGV[3])
local id, pending = unpack(redis.call('HMGET', key, 'id', 'next_table'))
if id ~= ARGV[4] or pending ~= ARGV[5] then return 0 end
redis.call('HSET', key, 'next_table', '')
redis.call('ZADD', dropped_key(), now, ARGV[5])
return 1
