-- Make a collection, or find it there already.
--   dq:collection:{tenant}:{name} hash  written        dq:collections:{tenant} zset  gets the name
-- ARGV 2 tenant  3 name  4 id  5 table  6 model  7 its fingerprint or ''  8 description  9 most that a tenant may have
-- Returns 'created', 'exists' or 'full'
local tenant, name = ARGV[2], ARGV[3]
local key, names = collection_key(tenant, name), collections_key(tenant)
if redis.call('EXISTS', key) == 1 then return 'exists' end
if redis.call('ZCARD', names) >= tonumber(ARGV[9]) then return 'full' end
redis.call('HSET', key, 'id', ARGV[4], 'table', ARGV[5], 'model', ARGV[6], 'fingerprint', ARGV[7], 'width', 0,
  'description', ARGV[8], 'rows', 0, 'bytes', 0, 'version', 0, 'changes', 0, 'created_at', now, 'changed_at', now,
  'next_table', '', 'fields', '{}')
redis.call('ZADD', names, now, name)
return 'created'
