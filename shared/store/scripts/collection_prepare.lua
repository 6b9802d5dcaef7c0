-- A table for the vectors of another model, beside the one that answers. Another one in the making is given up.
--   dq:collection:{tenant}:{name} hash  next_table        dq:dropped zset  gets the one given up
-- ARGV 2 tenant  3 name  4 id  5 next table
-- Returns 'ok', 'gone', or 'dropped' (another re-embedding took over: that table may be deleted at any time)
local key = collection_key(ARGV[2], ARGV[3])
local id, pending = unpack(redis.call('HMGET', key, 'id', 'next_table'))
if id ~= ARGV[4] then return 'gone' end
if redis.call('ZSCORE', dropped_key(), ARGV[5]) then return 'dropped' end
if pending ~= '' and pending ~= ARGV[5] then redis.call('ZADD', dropped_key(), now, pending) end
redis.call('HSET', key, 'next_table', ARGV[5])
return 'ok'
