-- Put in front of every script. ARGV[1] is always the constants (JSON, see store.py), the rest is the script's own.
-- Time is Redis TIME, never a host's clock. A ref is "tenant:id". Key table: shared/store/keys.py.
local conf = cjson.decode(ARGV[1])
local STRIDE = 5040  -- virtual time one job costs a tenant of weight 1; divisible by every weight up to 10

local clock_now = redis.call('TIME')
local now = clock_now[1] * 1000 + math.floor(clock_now[2] / 1000)

local function job_key(ref) return 'dq:job:' .. ref end

local function split(ref)
  local colon = string.find(ref, ':', 1, true) or #ref + 1
  return string.sub(ref, 1, colon - 1), string.sub(ref, colon + 1)
end

-- A JSON text of a record as a table; `fallback` where there is none, or it makes no sense.
local function decoded(text, fallback)
  if not text or text == '' then return fallback end
  local is_json, value = pcall(cjson.decode, text)
  return is_json and type(value) == 'table' and value or fallback
end

local function count(kind, what) redis.call('HINCRBY', 'dq:counts', kind .. ':' .. what, 1) end

local function emit(ref, type, data)
  redis.call('XADD', 'dq:events:' .. ref, 'MAXLEN', '~', conf.events_max_len, '*', 'type', type, 'data', data)
end

-- With its memory full, Redis refuses a script whose first write could need more (6.2 and 7 alike), as a whole. What
-- keeps a job alive, moves it or ends it must go through even then: it calls this first, a write that needs nothing.
local function even_when_full() redis.call('DEL', 'dq:nothing') end

local function ring(pool)
  local id = 'bell-' .. redis.call('INCR', 'dq:bells')
  local message = string.gsub(conf.doorbell, '@ID@', id)
  message = string.gsub(message, '@QUEUE@', 'bell:' .. pool)
  redis.call('LPUSH', 'dq:bell:' .. pool, message)
end

-- Start-time fair queueing: a tenant's next turn is a virtual time; each job moves it on by STRIDE / weight. A tenant
-- that comes back gets no credit for having been away and no debt beyond what it used.
local function stride_of(tenant)
  local weight = tonumber(redis.call('HGET', 'dq:weight', tenant) or '1') or 1
  return math.floor(STRIDE / math.min(math.max(weight, 1), 10))
end

-- The order in which things came: milliseconds, and within one of them a fraction that grows by 1/1024, so that ranks
-- are exact in a double until the year 2248. A clock set back by up to a second changes no order; beyond that, the
-- clock is believed, since a rank far ahead of it would starve what comes later.
local function next_order()
  local last = tonumber(redis.call('GET', 'dq:order') or '0') or 0
  local order = now
  if last >= now and last < now + 1000 then order = last + 1 / 1024 end
  redis.call('SET', 'dq:order', string.format('%.10f', order))
  return order
end

-- Into its tenant's line.
local function enqueue(pool, ref, rank)
  local tenant, id = split(ref)
  redis.call('ZADD', 'dq:ready:' .. pool .. ':' .. tenant, rank, id)
  redis.call('INCR', 'dq:queued:' .. tenant)
  if not redis.call('ZSCORE', 'dq:turn:' .. pool, tenant) then
    local now_v = tonumber(redis.call('GET', 'dq:clock:' .. pool) or '0')
    local last = tonumber(redis.call('HGET', 'dq:tags:' .. pool, tenant) or '0')
    redis.call('ZADD', 'dq:turn:' .. pool, string.format('%.0f', math.max(now_v, last)), tenant)
    redis.call('HDEL', 'dq:tags:' .. pool, tenant)
  end
end

-- When a tenant has nothing ready, its turn leaves the table; the time it was due at is kept while it matters.
local function retire_vtime(pool, tenant)
  if redis.call('ZCARD', 'dq:ready:' .. pool .. ':' .. tenant) == 0 then
    local tag = redis.call('ZSCORE', 'dq:turn:' .. pool, tenant)
    redis.call('ZREM', 'dq:turn:' .. pool, tenant)
    if tag and tonumber(tag) > tonumber(redis.call('GET', 'dq:clock:' .. pool) or '0') then
      redis.call('HSET', 'dq:tags:' .. pool, tenant, tag)
    end
  end
end

-- The job that a claim would take from the line now, if any: its tenant, id, and the time of that tenant's turn.
local function first_in_line(pool)
  local head = redis.call('ZRANGE', 'dq:turn:' .. pool, 0, 0, 'WITHSCORES')
  if #head == 0 then return nil end
  return head[1], redis.call('ZRANGE', 'dq:ready:' .. pool .. ':' .. head[1], 0, 0)[1], tonumber(head[2])
end

-- A job under which so many workers died gets its next one to itself; if that dies too, the job was it.
local function is_suspect(losses) return (tonumber(losses or '0') or 0) >= conf.max_losses - 1 end

-- A new job: its record, its place in its tenant's line, and a doorbell.
local function accept(ref, job)
  local tenant, id = split(ref)
  local order = next_order()
  local rank = order + tonumber(job.offset_ms)
  local deadline = job.deadline_ms ~= '' and string.format('%.0f', now + tonumber(job.deadline_ms)) or ''
  redis.call('HSET', job_key(ref), 'id', id, 'tenant', tenant, 'kind', job.kind, 'pool', job.pool, 'spec', job.spec,
    'state', 'queued', 'priority', job.priority, 'rank', string.format('%.10f', rank), 'attempt', 0, 'failures', 0,
    'losses', 0, 'created_at', now, 'queued_at', now, 'deadline_at', deadline, 'metadata', job.metadata,
    'retry_of', job.retry_of, 'fingerprint', job.fingerprint)
  if job.ttl_ms ~= '' then redis.call('HSET', job_key(ref), 'ttl', job.ttl_ms) end
  if (job.request_id or '') ~= '' then redis.call('HSET', job_key(ref), 'request_id', job.request_id) end
  redis.call('ZADD', 'dq:jobs:' .. tenant, string.format('%.10f', order), id)
  redis.call('SADD', 'dq:pools', job.pool)
  if deadline ~= '' then redis.call('ZADD', 'dq:deadlines', deadline, ref) end
  enqueue(job.pool, ref, string.format('%.10f', rank))
  count(job.kind, 'accepted')
  emit(ref, 'queued', '{"state":"queued"}')
  ring(job.pool)
end

-- Where a queued job waits: held while its caller pauses it, among the suspects, or in its tenant's line.
local function place(ref)
  local pool, rank, losses, paused = unpack(redis.call('HMGET', job_key(ref), 'pool', 'rank', 'losses', 'paused'))
  if paused ~= '1' and not is_suspect(losses) then
    enqueue(pool, ref, tonumber(rank or '') and rank or string.format('%.10f', next_order()))
    ring(pool)
    return
  end
  redis.call('INCR', 'dq:queued:' .. (split(ref)))
  if paused == '1' then
    redis.call('ZADD', 'dq:held', now, ref)
  else
    redis.call('ZADD', 'dq:suspects:' .. pool, string.format('%.10f', next_order()), ref)
    ring(pool)
  end
end

local function dequeue(pool, ref)
  local tenant, id = split(ref)
  local removed = redis.call('ZREM', 'dq:ready:' .. pool .. ':' .. tenant, id)
    + redis.call('ZREM', 'dq:delayed', ref) + redis.call('ZREM', 'dq:held', ref)
    + redis.call('ZREM', 'dq:suspects:' .. pool, ref)
  if removed > 0 then redis.call('DECR', 'dq:queued:' .. tenant) end
  retire_vtime(pool, tenant)
end

local function close_attempt(ref, outcome, err)
  local attempts = decoded(redis.call('HGET', job_key(ref), 'attempts'), {})
  local last = attempts[#attempts]
  if type(last) ~= 'table' then return end
  last.ended_at = now
  last.outcome = outcome
  if err and err ~= '' then last.error = decoded(err, nil) end
  redis.call('HSET', job_key(ref), 'attempts', cjson.encode(attempts))
end

-- Why a job whose deadline passed ends; `when` it did.
local function deadline_exceeded(when)
  return '{"code":"deadline_exceeded","message":"the deadline passed ' .. when .. '","retryable":false}'
end

-- The job runs no more: its lease goes, and where it had a worker emptied for it, that worker's place does.
local function drop_lease(ref)
  redis.call('ZREM', 'dq:leases', ref)
  local draining = 'dq:emptying:' .. (redis.call('HGET', job_key(ref), 'pool') or '')
  if redis.call('GET', draining) == ref then redis.call('DEL', draining) end
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
  redis.call('ZREM', 'dq:deadlines', ref)
  redis.call('ZADD', 'dq:expiry', expires_at, ref)
  count(kind or 'unknown', state)
  local data = '{"state":"' .. state .. '"'
  if err and err ~= '' then data = data .. ',"error":' .. err end
  emit(ref, 'finished', data .. '}')
  redis.call('PEXPIRE', 'dq:events:' .. ref, math.min(conf.event_ttl_ms, tonumber(ttl) or conf.event_ttl_ms))
end

-- A running job is queued again, not before `due` ('': at once); its deadline counts in the queue once more.
local function unlease(ref, due)
  local key = job_key(ref)
  local deadline = redis.call('HGET', key, 'deadline_at')
  drop_lease(ref)
  redis.call('HSET', key, 'state', 'queued', 'queued_at', now, 'worker', '', 'due_at', due)
  if deadline and deadline ~= '' then redis.call('ZADD', 'dq:deadlines', deadline, ref) end
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
  redis.call('ZADD', 'dq:delayed', due, ref)
  redis.call('INCR', 'dq:queued:' .. (split(ref)))
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
  for _, name in ipairs({'dq:leases', 'dq:delayed', 'dq:held', 'dq:deadlines'}) do redis.call('ZREM', name, ref) end
  for _, pool in ipairs(redis.call('SMEMBERS', 'dq:pools')) do
    redis.call('ZREM', 'dq:suspects:' .. pool, ref)
    redis.call('ZREM', 'dq:ready:' .. pool .. ':' .. tenant, id)
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

-- Why a job has no record: it ended long ago, or there never was one.
local function why_absent(ref)
  local tenant, id = split(ref)
  return redis.call('ZSCORE', 'dq:jobs:' .. tenant, id) and 'gone' or 'missing'
end

-- Which process of that name announces itself: when it started, '' when none does.
local function process_of(worker)
  local description = redis.call('GET', 'dq:worker:' .. worker) or ''
  return string.match(description, '"started_at_ms": *(%d+)') or ''
end

-- Whether attempt still owns the running job. A refusal is counted: it is a late worker being fenced off.
local function owns(ref, attempt)
  local state, current = unpack(redis.call('HMGET', job_key(ref), 'state', 'attempt'))
  if state == 'running' and current == attempt then return true end
  redis.call('HINCRBY', 'dq:counts', 'all:fenced', 1)
  return false
end

-- What the owner of a running job is told: 'cancel', 'yield' (paused, or called away for a high job) or 'ok'.
local function signal_for(ref)
  local cancel, paused, yield, attempt = unpack(redis.call('HMGET', job_key(ref), 'cancel', 'paused', 'yield', 'attempt'))
  if cancel == '1' then return 'cancel' end
  return (paused == '1' or yield == attempt) and 'yield' or 'ok'
end

local function is_cancelling(ref) return redis.call('HGET', job_key(ref), 'cancel') == '1' end
