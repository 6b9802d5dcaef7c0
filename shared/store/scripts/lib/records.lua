-- Second part of the library: time, and what can be read of a job's record and written to it without moving the job.
-- Time is Redis TIME, never a host's clock.
local clock_now = redis.call('TIME')
local now = clock_now[1] * 1000 + math.floor(clock_now[2] / 1000)

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

local function count(kind, what) redis.call('HINCRBY', counts_key(), kind .. ':' .. what, 1) end

local function emit(ref, type, data)
  redis.call('XADD', events_key(ref), 'MAXLEN', '~', conf.events_max_len, '*', 'type', type, 'data', data)
end

-- With its memory full, Redis refuses a script whose first write could need more (6.2 and 7 alike), as a whole. What
-- keeps a job alive, moves it or ends it must go through even then: it calls this first, a write that needs nothing.
local function even_when_full() redis.call('DEL', nothing_key()) end

-- Whether attempt still owns the running job. A refusal is counted: it is a late worker being fenced off.
local function owns(ref, attempt)
  local state, current = unpack(redis.call('HMGET', job_key(ref), 'state', 'attempt'))
  if state == 'running' and current == attempt then return true end
  count('all', 'fenced')
  return false
end

local function is_cancelling(ref) return redis.call('HGET', job_key(ref), 'cancel') == '1' end

-- What the owner of a running job is told: 'cancel', 'yield' (paused, or called away for a high job) or 'ok'.
local function signal_for(ref)
  local cancel, paused, yield, attempt = unpack(redis.call('HMGET', job_key(ref), 'cancel', 'paused', 'yield', 'attempt'))
  if cancel == '1' then return 'cancel' end
  return (paused == '1' or yield == attempt) and 'yield' or 'ok'
end

-- Why a job has no record: it ended long ago, or there never was one.
local function why_absent(ref)
  local tenant, id = split(ref)
  return redis.call('ZSCORE', jobs_key(tenant), id) and 'gone' or 'missing'
end

-- Why a job whose deadline passed ends; `when` it did.
local function deadline_exceeded(when)
  return '{"code":"deadline_exceeded","message":"the deadline passed ' .. when .. '","retryable":false}'
end

-- Which process of that name announces itself: when it started, '' when none does.
local function process_of(worker)
  local description = redis.call('GET', worker_key(worker)) or ''
  return string.match(description, '"started_at_ms": *(%d+)') or ''
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
