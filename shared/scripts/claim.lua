-- Give the waiting worker the next job of a pool: the tenant whose turn it is, its lowest rank. A suspect goes only to
-- a worker that holds nothing else: when nothing is in line, or before all others once it has waited long enough. Then
-- one busy worker at a time is told to take nothing until it is idle.
--   dq:turn:{pool} zset, dq:clock:{pool}  whose turn      dq:ready:{pool}:{tenant} zset  popped
--   dq:suspects:{pool} zset  popped                       dq:emptying:{pool} string  the worker told to wait
--   dq:job:{ref} hash  becomes running                    dq:leases zset  gets the lease
-- ARGV 2 pool  3 worker  4 lease ms  5 '1' when the worker holds nothing else  6 ms a suspect waits for an idle worker
-- Returns nil, 'standby', or
--   {tenant, id, kind, attempt, spec, created_at, queued_at, deadline_at, failures, now, snapshot, alone}
even_when_full()
local pool, worker, lease_ms, is_idle = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1'
local turn, suspects, emptying = 'dq:turn:' .. pool, 'dq:suspects:' .. pool, 'dq:emptying:' .. pool
local skips = 100  -- late jobs dropped at most on the way; the next doorbell goes on from there

local function run(ref, alone, deadline)
  local key = job_key(ref)
  local tenant, id = split(ref)
  local attempt = redis.call('HINCRBY', key, 'attempt', 1)
  local f = redis.call('HMGET', key, 'kind', 'spec', 'created_at', 'queued_at', 'failures', 'attempts', 'started_at',
    'snapshot')
  local attempts = f[6] and cjson.decode(f[6]) or {}
  if #attempts >= 20 then table.remove(attempts, 1) end
  attempts[#attempts + 1] = {number = attempt, worker = worker, started_at = now, alone = alone or nil}
  redis.call('HSET', key, 'state', 'running', 'worker', worker, 'claimed_at', now, 'started_at', f[7] or now,
    'attempts', cjson.encode(attempts), 'progress', '', 'alone', alone and '1' or '')
  redis.call('ZREM', 'dq:deadlines', ref)
  redis.call('ZADD', 'dq:leases', now + lease_ms, ref)
  emit(ref, 'started', '{"state":"running","attempt":' .. attempt .. ',"worker":"' .. worker .. '"}')
  return {tenant, id, f[1], attempt, f[2], f[3], f[4], deadline or '', f[5], now, f[8] or '',
    alone and '1' or ''}
end

-- Whether the job just taken out of a set may run; if its time is over, or it is not queued at all, it is dropped here.
local function is_due(ref)
  local state, deadline = unpack(redis.call('HMGET', job_key(ref), 'state', 'deadline_at'))
  if state ~= 'queued' then return false end
  redis.call('DECR', 'dq:queued:' .. (split(ref)))
  if deadline and deadline ~= '' and tonumber(deadline) <= now then
    finish(ref, 'expired', '{"code":"deadline_exceeded","message":"the deadline passed before a worker was free","retryable":false}')
    return false
  end
  return true, deadline
end

local function from_suspects()
  while skips > 0 do
    local ref = redis.call('ZPOPMIN', suspects)[1]
    if not ref then return nil end
    local due, deadline = is_due(ref)
    if due then
      redis.call('DEL', emptying)
      return run(ref, true, deadline)
    end
    skips = skips - 1
  end
end

local function from_line()
  while skips > 0 do
    local head = redis.call('ZRANGE', turn, 0, 0, 'WITHSCORES')
    if #head == 0 then return nil end
    local tenant, tag = head[1], head[2]
    local id = redis.call('ZPOPMIN', 'dq:ready:' .. pool .. ':' .. tenant)[1]
    local due, deadline = false, nil
    if id then due, deadline = is_due(tenant .. ':' .. id) end
    if due then
      redis.call('SET', 'dq:clock:' .. pool, tag)
      redis.call('ZINCRBY', turn, stride_of(tenant), tenant)
      retire_turn(pool, tenant)
      return run(tenant .. ':' .. id, false, deadline)
    end
    retire_turn(pool, tenant)
    skips = skips - 1
  end
end

local waiting_since = tonumber(redis.call('ZRANGE', suspects, 0, 0, 'WITHSCORES')[2])
if waiting_since and now - waiting_since >= tonumber(ARGV[6]) then
  if is_idle then return from_suspects() or from_line() end
  local chosen = redis.call('GET', emptying)
  if not chosen or chosen == worker then
    redis.call('SET', emptying, worker, 'PX', lease_ms)
    return 'standby'
  end
end
return from_line() or (is_idle and from_suspects()) or nil
