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
  local due = string.format('%.0f', now + tonumber(ARGV[6]))
  local deadline = redis.call('HGET', key, 'deadline_at')
  close_attempt(ref, 'retried', ARGV[4])
  count(redis.call('HGET', key, 'kind'), 'retried')
  if redis.call('HGET', key, 'paused') == '1' then
    redis.call('HSET', key, 'error', ARGV[4])
    requeue(ref, 'paused')
    return 'queued'
  end
  let_go(ref)
  redis.call('ZADD', 'dq:delayed', due, ref)
  redis.call('INCR', 'dq:queued:' .. (split(ref)))
  redis.call('HSET', key, 'state', 'queued', 'error', ARGV[4], 'due_at', due, 'queued_at', now, 'worker', '')
  if deadline and deadline ~= '' then redis.call('ZADD', 'dq:deadlines', deadline, ref) end
  emit(ref, 'queued', '{"state":"queued","reason":"retry","due_at":' .. due .. ',"error":' .. ARGV[4] .. '}')
  return 'queued'
end
close_attempt(ref, 'failed', ARGV[4])
finish(ref, 'failed', ARGV[4])
return 'failed'
