-- The retention of an ended job is over and its artifacts are deleted: drop the record, keep the id for the 410. The id
-- of a job with a retention of its own goes, too: such jobs are many, and nobody asks for them later.
--   dq:job:{ref}, dq:events:{ref}  deleted      dq:expiry zset      dq:jobs:{tenant} zset  old ids trimmed
-- ARGV 2 ref
even_when_full()
local ref = ARGV[2]
local tenant = split(ref)
if redis.call('HEXISTS', job_key(ref), 'ttl') == 1 then redis.call('ZREM', jobs_key(tenant), (select(2, split(ref)))) end
redis.call('DEL', job_key(ref), events_key(ref))
redis.call('ZREM', expiry_key(), ref)
redis.call('ZREMRANGEBYSCORE', jobs_key(tenant), '-inf', '(' .. (now - conf.result_ttl_ms - conf.gone_ttl_ms))
return 1
