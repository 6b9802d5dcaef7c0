-- The owner is about to die under this job and knows it: the lease ends now, and whoever reaps next counts the loss.
--   dq:leases zset  moved to now      dq:job:{ref} hash  holder: none that could be seen alive
-- ARGV 2 ref  3 attempt
-- Returns 'ok' or 'lost'
even_when_full()
local ref = ARGV[2]
if not owns(ref, ARGV[3]) then return 'lost' end
redis.call('ZADD', leases_key(), now, ref)
redis.call('HDEL', job_key(ref), 'holder')
return 'ok'
