-- The vectors of another model are all there: from now on they are the collection's. Not if anything changed since.
--   dq:collection:{tenant}:{name} hash  table, model, fingerprint, width, sizes        dq:dropped zset  the old table
--   dq:uncompacted zset  gets the collection
-- ARGV 2 tenant  3 name  4 id  5 new table  6 changes it holds  7 model  8 fingerprint  9 width  10 version  11 rows
--      12 bytes
-- Returns 'ok', 'changed' or 'gone'
local key = collection_key(ARGV[2], ARGV[3])
local id, held, pending, changes = unpack(redis.call('HMGET', key, 'id', 'table', 'next_table', 'changes'))
if id ~= ARGV[4] then return 'gone' end
if held == ARGV[5] then return 'ok' end  -- this very switch, its answer was lost
if pending ~= ARGV[5] then return 'gone' end  -- another re-embedding took over
if changes ~= ARGV[6] then return 'changed' end
redis.call('HSET', key, 'table', ARGV[5], 'next_table', '', 'model', ARGV[7], 'fingerprint', ARGV[8], 'width', ARGV[9],
  'version', ARGV[10], 'rows', ARGV[11], 'bytes', ARGV[12], 'changed_at', now)
redis.call('HINCRBY', key, 'changes', 1)
redis.call('ZADD', dropped_key(), now, held)
redis.call('ZADD', uncompacted_key(), 'NX', now, ARGV[2] .. ':' .. ARGV[3])
return 'ok'
