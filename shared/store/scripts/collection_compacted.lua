-- A table was compacted as it was after so many changes. What changed meanwhile is compacted after the usual rest; what was
-- written lately once more later, when its old versions may be forgotten.
--   dq:collection:{tenant}:{name} hash  read        dq:uncompacted zset  the collection leaves, or stays with another time
-- ARGV 2 tenant  3 name  4 changes then  5 ms for which old versions are kept
local ref = ARGV[2] .. ':' .. ARGV[3]
local changes, changed_at = unpack(redis.call('HMGET', collection_key(ARGV[2], ARGV[3]), 'changes', 'changed_at'))
if changes and changes ~= ARGV[4] then
  redis.call('ZADD', uncompacted_key(), now, ref)
elseif changes and now - tonumber(changed_at) < tonumber(ARGV[5]) then
  redis.call('ZADD', uncompacted_key(), now + tonumber(ARGV[5]), ref)
else
  redis.call('ZREM', uncompacted_key(), ref)
end
return 1
