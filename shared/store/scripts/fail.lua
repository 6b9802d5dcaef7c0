-- The attempt ended in an error: wait and try again where the error allows it, else fail for good.
--   dq:job:{ref} hash  failures, error, state      dq:delayed zset  when it may run again
-- ARGV 2 ref  3 attempt  4 error JSON  5 retryable '1'|'0'  6 delay ms  7 max failures  8 result JSON or ''  9 timings
-- Returns the state reached ('queued' when it will run again), or 'lost'
even_when_full()
local ref = ARGV[2]
if not owns(ref, ARGV[3]) then return 'lost' end
local key = job_key(ref)
if ARGV[8] ~= '' then redis.call('HSET', key, 'result', ARGV[8]) end
redis.call('HSET', key, 'timings', ARGV[9])
if is_cancelling(ref) then
  close_attempt(ref, 'cancelled', ARGV[4])
  finish(ref, 'cancelled', nil)
  return 'cancelled'
end
local failures = redis.call('HINCRBY', key, 'failures', 1)
if ARGV[5] == '1' and failures < tonumber(ARGV[7]) then
  close_attempt(ref, 'retried', ARGV[4])
  count(redis.call('HGET', key, 'kind'), 'retried')
  redis.call('HSET', key, 'error', ARGV[4])
  if redis.call('HGET', key, 'paused') == '1' then
    requeue(ref, 'paused')
  else
    postpone(ref, tonumber(ARGV[6]), 'retry', ARGV[4])
  end
  return 'queued'
end
close_attempt(ref, 'failed', ARGV[4])
finish(ref, 'failed', ARGV[4])
return 'failed'
