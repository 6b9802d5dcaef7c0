-- A collection is gone at once; its tables are dropped by a worker.
--   dq:collection:{tenant}:{name} hash  deleted        dq:collections:{tenant} zset        dq:dropped zset  its tables
-- ARGV 2 tenant  3 name
-- Returns 1, or 0 when there is none
even_when_full()
local tenant, name = ARGV[2], ARGV[3]
local key = collection_key(tenant, name)
local held, pending = unpack(redis.call('HMGET', key, 'table', 'next_table'))
if not held then return 0 end
redis.call('ZADD', dropped_key(), now, held)
if pending ~= '' then redis.call('ZADD', dropped_key(), now, pending) end
redis.call('DEL', key)
redis.call('ZREM', collections_key(tenant), name)
return 1
