-- Leases that ran out: back to the queue, to run alone once workers died under it too often; failed when it was alone
-- already, for then no neighbour can have killed the worker. Deadlines that passed in the queue: expired. Idempotent;
-- any number of reapers may run it.
--   dq:leases zset, dq:deadlines zset  scanned from the past      dq:job:{ref} hash  losses, lost_step, state
--   dq:sweep hash  at: the last sweep; spared_until: no lease is reaped before
-- ARGV 2 limit  3 lease ms  4 gap ms: so long without a sweep, and the workers could not reach Redis  5 grace ms
-- Returns {requeued, worker_lost, cancelled, expired, deadline_exceeded}
even_when_full()
local lease_ms, gap_ms, grace_ms = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local requeued, dead, cancelled, expired, late = 0, 0, 0, 0, 0

-- Every live worker sweeps and beats. Where nobody swept, nobody could beat: leases ran out that say nothing of their
-- holders. These get the time of one beat before any is reaped. Only a gap that began after the last such grace gives
-- another, so slow sweeps cannot put it off for ever; a clock set back ends it.
local function is_spared()
  local f = redis.call('HMGET', sweep_key(), 'at', 'spared_until')
  local swept_at, spared_until = tonumber(f[1] or now), tonumber(f[2] or '0')
  if now - swept_at > gap_ms and now - spared_until > gap_ms then
    spared_until = now + grace_ms
    redis.call('HSET', sweep_key(), 'spared_until', spared_until)
  end
  redis.call('HSET', sweep_key(), 'at', now)
  return now < spared_until and spared_until - now <= grace_ms
end

-- Whether the worker that holds the job on paper has been heard of, itself and not a successor of its name, when it
-- should have beaten for the job long ago: the reply to its claim never reached it. That is nobody's death.
local function is_holder_alive(worker, holder, lease_end)
  if not holder or holder == '' then return false end
  local seen_at = tonumber(redis.call('ZSCORE', workers_key(), worker) or '0')
  return seen_at > lease_end - lease_ms / 2 and process_of(worker) == holder
end

local function lose(ref, key, deadline, alone)
  local snapshot = redis.call('HGET', key, 'snapshot')
  redis.call('HSET', key, 'lost_step', tonumber(decoded(snapshot, {}).step) or 0)
  local losses = redis.call('HINCRBY', key, 'losses', 1)
  if is_cancelling(ref) then
    close_attempt(ref, 'lost', nil)
    finish(ref, 'cancelled', nil)
    cancelled = cancelled + 1
  elseif deadline and deadline ~= '' and tonumber(deadline) <= now then
    local err = deadline_exceeded('while a worker was lost')
    close_attempt(ref, 'lost', err)
    finish(ref, 'failed', err)
    late = late + 1
  elseif alone == '1' and losses >= conf.max_losses then
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

local function reap(ref, lease_end)
  local key = job_key(ref)
  local state, deadline, alone, worker, holder = unpack(redis.call('HMGET', key, 'state', 'deadline_at', 'alone', 'worker', 'holder'))
  if state ~= 'running' then
    redis.call('ZREM', leases_key(), ref)
    return
  end
  count('all', 'leases_lost')
  if is_holder_alive(worker, holder, lease_end) and not is_cancelling(ref) then
    close_attempt(ref, 'lost', nil)
    requeue(ref, 'claim lost')
    requeued = requeued + 1
  else
    lose(ref, key, deadline, alone)
  end
end

local function rank_of(ref) return tonumber(redis.call('HGET', job_key(ref), 'rank')) end

if not is_spared() then
  local found = redis.call('ZRANGEBYSCORE', leases_key(), '-inf', now, 'WITHSCORES', 'LIMIT', 0, ARGV[2])
  local ended = {}
  for i = 1, #found, 2 do
    ended[#ended + 1] = {ref = found[i], lease_end = tonumber(found[i + 1]), rank = safely(found[i], rank_of) or 0}
  end
  -- One dead worker's jobs come back, or become suspects, in the order they were given.
  table.sort(ended, function(a, b) return a.rank < b.rank or (a.rank == b.rank and a.ref < b.ref) end)
  for _, lease in ipairs(ended) do safely(lease.ref, reap, lease.lease_end) end
end

local function expire(ref)
  local state, pool = unpack(redis.call('HMGET', job_key(ref), 'state', 'pool'))
  if state == 'queued' then
    dequeue(pool, ref)
    finish(ref, 'expired', deadline_exceeded('before a worker was free'))
    expired = expired + 1
  else
    redis.call('ZREM', deadlines_key(), ref)
  end
end

for _, ref in ipairs(redis.call('ZRANGEBYSCORE', deadlines_key(), '-inf', now, 'LIMIT', 0, ARGV[2])) do
  safely(ref, expire)
end
return {requeued, dead, cancelled, expired, late}
