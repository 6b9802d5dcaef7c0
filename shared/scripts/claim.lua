-- Give the waiting worker the next job of a pool: the tenant whose turn it is, its lowest rank.
--   dq:turn:{pool} zset, dq:clock:{pool}  whose turn      dq:ready:{pool}:{tenant} zset  popped
--   dq:job:{ref} hash  becomes running                    dq:leases zset  gets the lease
-- ARGV 2 pool  3 worker  4 lease ms
-- Returns nil, or {tenant, id, kind, attempt, spec, created_at, queued_at, deadline_at, failures, now}
local pool, worker = ARGV[2], ARGV[3]
local turn = 'dq:turn:' .. pool

for _ = 1, 100 do  -- skips at most 100 jobs whose deadline has passed; the next doorbell goes on from there
  local head = redis.call('ZRANGE', turn, 0, 0, 'WITHSCORES')
  if #head == 0 then return nil end
  local tenant, tag = head[1], head[2]
  local popped = redis.call('ZPOPMIN', 'dq:ready:' .. pool .. ':' .. tenant)
  if #popped == 0 then
    retire_turn(pool, tenant)
  else
    local ref = tenant .. ':' .. popped[1]
    local key = job_key(ref)
    redis.call('DECR', 'dq:queued:' .. tenant)
    local deadline = redis.call('HGET', key, 'deadline_at')
    if deadline and deadline ~= '' and tonumber(deadline) <= now then
      retire_turn(pool, tenant)
      finish(ref, 'expired', '{"code":"deadline_exceeded","message":"the deadline passed before a worker was free","retryable":false}')
    else
      redis.call('SET', 'dq:clock:' .. pool, tag)
      redis.call('ZINCRBY', turn, stride_of(tenant), tenant)
      retire_turn(pool, tenant)
      local attempt = redis.call('HINCRBY', key, 'attempt', 1)
      local f = redis.call('HMGET', key, 'kind', 'spec', 'created_at', 'queued_at', 'failures', 'attempts', 'started_at')
      local attempts = f[6] and cjson.decode(f[6]) or {}
      if #attempts >= 20 then table.remove(attempts, 1) end
      attempts[#attempts + 1] = {number = attempt, worker = worker, started_at = now}
      redis.call('HSET', key, 'state', 'running', 'worker', worker, 'claimed_at', now, 'started_at', f[7] or now,
        'attempts', cjson.encode(attempts), 'progress', '')
      redis.call('ZREM', 'dq:deadlines', ref)
      redis.call('ZADD', 'dq:leases', now + tonumber(ARGV[4]), ref)
      emit(ref, 'started', '{"state":"running","attempt":' .. attempt .. ',"worker":"' .. worker .. '"}')
      return {tenant, popped[1], f[1], attempt, f[2], f[3], f[4], deadline or '', f[5], now}
    end
  end
end
return nil
