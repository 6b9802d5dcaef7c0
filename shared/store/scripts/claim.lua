-- Give the waiting worker the next job of a pool: the tenant whose turn it is, its lowest rank (lib/fairness.lua), or a
-- suspect, which runs alone (lib/isolation.lua). A suspect uses its tenant's turn as any job does.
--   dq:turn:{pool} zset, dq:clock:{pool}  whose turn      dq:ready:{pool}:{tenant} zset  popped
--   dq:suspects:{pool} zset  popped                       dq:emptying:{pool} string  the worker told to wait, then the ref
--   dq:forced:{pool} string  the worker that owes the line a job
--   dq:job:{ref} hash  becomes running                    dq:leases zset  gets the lease
-- ARGV 2 pool  3 worker  4 lease ms  5 '1' when the worker holds nothing else  6 ms a suspect waits for an idle worker
-- Returns nil, 'standby', or
--   {tenant, id, kind, attempt, spec, created_at, queued_at, deadline_at, failures, now, snapshot, alone, last error JSON or '',
--    request id or ''}
even_when_full()
local pool, worker, lease_ms, is_idle = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1'
local skips = 100  -- late jobs dropped at most on the way; the next doorbell goes on from there

local function run(ref, alone, deadline)
  local key = job_key(ref)
  local tenant, id = split(ref)
  local attempt = redis.call('HINCRBY', key, 'attempt', 1)
  local f = redis.call('HMGET', key, 'kind', 'spec', 'created_at', 'queued_at', 'failures', 'attempts', 'started_at',
    'snapshot', 'error', 'request_id')
  local attempts = decoded(f[6], {})
  if #attempts >= 20 then table.remove(attempts, 1) end
  attempts[#attempts + 1] = {number = attempt, worker = worker, started_at = now, alone = alone or nil}
  redis.call('HSET', key, 'state', 'running', 'worker', worker, 'holder', process_of(worker), 'claimed_at', now,
    'started_at', f[7] or now, 'attempts', cjson.encode(attempts), 'progress', '', 'alone', alone and '1' or '')
  redis.call('ZREM', deadlines_key(), ref)
  redis.call('ZADD', leases_key(), now + lease_ms, ref)
  emit(ref, 'started', '{"state":"running","attempt":' .. attempt .. ',"worker":"' .. worker .. '"}')
  return {tenant, id, f[1] or '', attempt, f[2] or '', f[3] or '', f[4] or '', deadline or '', f[5] or '', now,
    f[8] or '', alone and '1' or '', f[9] or '', f[10] or ''}
end

-- Whether the job just taken out of a set may run; if its time is over, or it is not queued at all, it is dropped here.
local function is_due(ref)
  local state, deadline = unpack(redis.call('HMGET', job_key(ref), 'state', 'deadline_at'))
  if state ~= 'queued' then return false end
  redis.call('DECR', queued_key((split(ref))))
  if deadline and deadline ~= '' and tonumber(deadline) <= now then
    finish(ref, 'expired', deadline_exceeded('before a worker was free'))
    return false
  end
  return true, deadline
end

local function from_suspects(is_forced)
  while skips > 0 do
    local ref = pop_suspect(pool)
    if not ref then return nil end
    local due, deadline = safely(ref, is_due)
    if due then
      suspect_starts(pool, worker, ref, is_forced, lease_ms)
      charge(pool, (split(ref)))
      local claimed = safely(ref, run, true, deadline)
      if claimed then return claimed end
    end
    skips = skips - 1
  end
end

local function from_line()
  while skips > 0 do
    local tenant, turn = next_turn(pool)
    if not tenant then return nil end
    local id = redis.call('ZPOPMIN', ready_key(pool, tenant))[1]
    local due, deadline = false, nil
    local ref = id and tenant .. ':' .. id
    if ref then due, deadline = safely(ref, is_due) end
    if due then
      take_turn(pool, tenant, turn)
      line_served(pool, worker)
      local claimed = safely(ref, run, false, deadline)
      if claimed then return claimed end
    end
    retire_vtime(pool, tenant)
    skips = skips - 1
  end
end

if is_suspect_due(pool, worker, tonumber(ARGV[6])) then
  if is_idle then return from_suspects(has_line(pool)) or from_line() end
  set_worker_apart(pool, worker, lease_ms)
  return 'standby'
end
return from_line() or (is_idle and from_suspects(false)) or nil
