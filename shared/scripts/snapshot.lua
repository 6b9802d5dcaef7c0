-- The owner has stored what its run reached: the next attempt's claim carries this note. Renews nothing.
--   dq:job:{ref} hash  snapshot
-- ARGV 2 ref  3 attempt  4 note JSON {key, step, bytes, sha256}
-- Returns 'ok' or 'lost'
even_when_full()
local ref = ARGV[2]
if not owns(ref, ARGV[3]) then return 'lost' end
redis.call('HSET', job_key(ref), 'snapshot', ARGV[4])
return 'ok'
