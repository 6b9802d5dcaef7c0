-- Last part of the library: how a job gets from one place to another. Each move leaves record, sets and counts agreeing.

-- DOORBELL is put in front by shared/store/lua.py.
local function ring(pool)
  local id = 'bell-' .. redis.call('INCR', bells_key())
  local message = string.gsub(DOORBELL, '@ID@', id)
  message = string.gsub(message, '@QUEUE@', queue_name(pool))
  redis.call('LPUSH', bell_key(pool), message)
end

-- A new job: its record, its place in its tenant's line, and a doorbell. `job` is as shared/store/jobs/forms.py has it.
local function accept(ref, job)
  local tenant, id = split(ref)
  local order = next_order()
  local rank = exact(order + tonumber(job.offset_ms))
  local deadline = job.deadline_ms ~= '' and string.format('%.0f', now + tonumber(job.deadline_ms)) or ''
  redis.call('HSET', job_key(ref), 'id', id, 'tenant', tenant, 'kind', job.kind, 'pool', job.pool, 'spec', job.spec,
    'state', 'queued', 'priority', job.priority, 'rank', rank, 'attempt', 0, 'failures', 0,
    'losses', 0, 'created_at', now, 'queued_at', now, 'deadline_at', deadline, 'metadata', job.metadata,
    'retry_of', job.retry_of, 'fingerprint', job.fingerprint)
  if job.ttl_ms ~= '' then redis.call('HSET', job_key(ref), 'ttl', job.ttl_ms) end
  if job.request_id ~= '' then redis.call('HSET', job_key(ref), 'request_id', job.request_id) end
  redis.call('ZADD', jobs_key(tenant), exact(order), id)
  redis.call('SADD', pools_key(), job.pool)
  if deadline ~= '' then redis.call('ZADD', deadlines_key(), deadline, ref) end
  enqueue(job.pool, ref, rank)
  count(job.kind, 'accepted')
  emit(ref, 'queued', '{"state":"queued"}')
  ring(job.pool)
end

-- Where a queued job waits: held while its caller pauses it, among the suspects, or in its tenant's line.
local function place(ref)
  local pool, rank, losses, paused = unpack(redis.call('HMGET', job_key(ref), 'pool', 'rank', 'losses', 'paused'))
  if paused ~= '1' and not is_suspect(losses) then
    enqueue(pool, ref, tonumber(rank or '') and rank or exact(next_order()))
    ring(pool)
    return
  end
  redis.call('INCR', queued_key((split(ref))))
  if paused == '1' then
    redis.call('ZADD', paused_key(), now, ref)
  else
    add_suspect(pool, ref)
    ring(pool)
  end
end

local function dequeue(pool, ref)
  local tenant, id = split(ref)
  local removed = redis.call('ZREM', ready_key(pool, tenant), id) + redis.call('ZREM', delayed_key(), ref)
    + redis.call('ZREM', paused_key(), ref) + redis.call('ZREM', suspects_key(pool), ref)
  if removed > 0 then redis.call('DECR', queued_key(tenant)) end
  retire_vtime(pool, tenant)
end

-- The job runs no more: its lease goes, and where it had a worker set apart for it, that worker's place does.
local function drop_lease(ref)
  redis.call('ZREM', leases_key(), ref)
  suspect_ended(redis.call('HGET', job_key(ref), 'pool') or '', ref)
end

-- The one door to a final state: finished_at and expires_at are set with it, every set forgets the job.
local function finish(ref, state, err)
  local key = job_key(ref)
  local kind, ttl = unpack(redis.call('HMGET', key, 'kind', 'ttl'))
  local expires_at = string.format('%.0f', now + (tonumber(ttl) or conf.result_ttl_ms))
  redis.call('HSET', key, 'state', state, 'finished_at', now, 'expires_at', expires_at, 'due_at', '')
  redis.call('HDEL', key, 'paused')
  redis.call('HDEL', key, 'snapshot')
  if err and err ~= '' then redis.call('HSET', key, 'error', err) end
  drop_lease(ref)
  redis.call('ZREM', deadlines_key(), ref)
  redis.call('ZADD', expiry_key(), expires_at, ref)
  count(kind or 'unknown', state)
  local data = '{"state":"' .. state .. '"'
  if err and err ~= '' then data = data .. ',"error":' .. err end
  emit(ref, 'finished', data .. '}')
  redis.call('PEXPIRE', events_key(ref), math.min(conf.event_ttl_ms, tonumber(ttl) or conf.event_ttl_ms))
end

-- A running job is queued again, not before `due` ('': at once); its deadline counts in the queue once more.
local function unlease(ref, due)
  local key = job_key(ref)
  local deadline = redis.call('HGET', key, 'deadline_at')
  drop_lease(ref)
  redis.call('HSET', key, 'state', 'queued', 'queued_at', now, 'worker', '', 'due_at', due)
  if deadline and deadline ~= '' then redis.call('ZADD', deadlines_key(), deadline, ref) end
end

-- Back to the queue at its old rank, so a job that lost its worker does not lose its place.
local function requeue(ref, reason)
  unlease(ref, '')
  emit(ref, 'queued', '{"state":"queued","reason":"' .. reason .. '"}')
  place(ref)
end

-- The same after a wait.
local function postpone(ref, delay_ms, reason, err)
  local due = string.format('%.0f', now + delay_ms)
  unlease(ref, due)
  redis.call('ZADD', delayed_key(), due, ref)
  redis.call('INCR', queued_key((split(ref))))
  local data = '{"state":"queued","reason":"' .. reason .. '","due_at":' .. due
  if err then data = data .. ',"error":' .. err end
  emit(ref, 'queued', data .. '}')
end

-- A job whose record no script can work with is ended, so that it stops nobody else's: it leaves every set, keeps what
-- can be read of it, and says why.
local function end_unreadable(ref)
  local key = job_key(ref)
  local tenant, id = split(ref)
  if redis.call('TYPE', key).ok ~= 'hash' then redis.call('DEL', key) end
  for _, set in ipairs({leases_key(), delayed_key(), paused_key(), deadlines_key()}) do redis.call('ZREM', set, ref) end
  for _, pool in ipairs(redis.call('SMEMBERS', pools_key())) do
    redis.call('ZREM', suspects_key(pool), ref)
    redis.call('ZREM', ready_key(pool, tenant), id)
    retire_vtime(pool, tenant)
  end
  redis.call('HSET', key, 'id', id, 'tenant', tenant)
  finish(ref, 'failed', '{"code":"unreadable_record","message":"this job\'s record cannot be read","retryable":false}')
end

-- What fn(ref, ...) returns. Where it fails because the job's record makes no sense, the job ends, and this returns nil.
local function safely(ref, fn, ...)
  local results = {pcall(fn, ref, ...)}
  if results[1] then return unpack(results, 2, 4) end
  end_unreadable(ref)
  count('all', 'unreadable')
  return nil
end
