-- The owner reports: the record's progress and an event, together.
--   dq:job:{ref} hash  progress       dq:events:{ref} stream      dq:leases zset  moved on
-- ARGV 2 ref  3 attempt  4 lease ms  5 progress JSON  6 event type  7 event data JSON
-- Returns 'ok', 'cancel', 'yield' or 'lost'
local ref = ARGV[2]
if not owns(ref, ARGV[3]) then return 'lost' end
redis.call('HSET', job_key(ref), 'progress', ARGV[5])
redis.call('ZADD', leases_key(), now + tonumber(ARGV[4]), ref)
emit(ref, ARGV[6], ARGV[7])
return signal_for(ref)
