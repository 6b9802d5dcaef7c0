-- Leases that ran out: back to the queue, to run alone once workers died under it too often; failed when it was alone
-- already, for then no neighbour can have killed the worker. Deadlines that passed in the queue: expired. Idempotent; any number of reapers may run it.
--   dq:leases zset, dq:deadlines zset  scanned from the past      dq:job:{ref} hash  losses, state
-- ARGV 2 limit
-- Returns {requeued, worker_lost, cancelled, expired, deadline_exceeded}
even_when_full()
local requeued, dead, cancelled, expired, late = 0, 0, 0, 0, 0

for _, ref in ipairs(redis.call('ZRANGEBYSCORE', 'dq:leases', '-inf', now, 'LIMIT', 0, ARGV[2])) do
  local key = job_key(ref)
  local state, deadline, alone = unpack(redis.call('HMGET', key, 'state', 'deadline_at', 'alone'))
  if state ~= 'running' then
    redis.call('ZREM', 'dq:leases', ref)
  else
    local losses = redis.call('HINCRBY', key, 'losses', 1)
    redis.call('HINCRBY', 'dq:counts', 'all:leases_lost', 1)
    if is_cancelling(ref) then
      close_attempt(ref, 'lost', nil)
      finish(ref, 'cancelled', nil)
      cancelled = cancelled + 1
    elseif deadline and deadline ~= '' and tonumber(deadline) <= now then
      local err = '{"code":"deadline_exceeded","message":"the deadline passed while a worker was lost","retryable":false}'
      close_attempt(ref, 'lost', err)
      finish(ref, 'failed', err)
      late = late + 1
    elseif alone == '1' then
      local err = '{"code":"worker_lost","message":"' .. losses .. ' workers were lost under this job, the last with no other job beside it","retryable":false}'
      close_attempt(ref, 'lost', err)
      finish(ref, 'failed', err)
      dead = dead + 1
    else
      close_attempt(ref, 'lost', nil)
      requeue(ref, 'worker lost')
      requeued = requeued + 1
    end
  end
end

for _, ref in ipairs(redis.call('ZRANGEBYSCORE', 'dq:deadlines', '-inf', now, 'LIMIT', 0, ARGV[2])) do
  local state, pool = unpack(redis.call('HMGET', job_key(ref), 'state', 'pool'))
  if state == 'queued' then
    dequeue(pool, ref)
    finish(ref, 'expired', '{"code":"deadline_exceeded","message":"the deadline passed before a worker was free","retryable":false}')
    expired = expired + 1
  else
    redis.call('ZREM', 'dq:deadlines', ref)
  end
end
return {requeued, dead, cancelled, expired, late}
