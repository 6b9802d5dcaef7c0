-- Take a collection whose table was written to so long ago, for one worker; another one may take it if that one is not
-- done with it by then.
--   dq:uncompacted zset  the collection stays, at the time when it may be taken again
-- ARGV 2 ms since it was first written to  3 ms that the work may take
-- Returns {tenant:name}, or nothing
local found = redis.call('ZRANGE', uncompacted_key(), '-inf', now - tonumber(ARGV[2]), 'BYSCORE', 'LIMIT', 0, 1)
if #found > 0 then redis.call('ZADD', uncompacted_key(), now - tonumber(ARGV[2]) + tonumber(ARGV[3]), found[1]) end
return found
