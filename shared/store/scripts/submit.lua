-- Accept a job: record, ready entry and doorbell in one step, or nothing.
--   dq:job:{ref} hash  written        dq:ready, dq:turn  the job's place       dq:bell  one doorbell
--   dq:idem:{tenant}:{key} string     dq:jobs:{tenant} zset, dq:deadlines zset
-- ARGV 2 the job, JSON {tenant, id, pool, kind, spec, priority, offset_ms, deadline_ms, metadata, retry_of,
--      idempotency_key, fingerprint, ttl_ms, request_id}: rank offset ms, ms from now, retention ms; what it has not is ''
-- Returns {'created'|'duplicate'|'conflict'|'full', id}
local job = cjson.decode(ARGV[2])
local tenant, id = job.tenant, job.id
local ref = tenant .. ':' .. id
local idem = idem_key(tenant, job.idempotency_key)

if job.idempotency_key ~= '' then
  local held = redis.call('GET', idem)
  if held then
    local said, first = split(held)
    local same = said == job.fingerprint
    local is_known = redis.call('EXISTS', job_key(tenant .. ':' .. first)) == 1
      or redis.call('ZSCORE', jobs_key(tenant), first)
    if is_known then return {same and 'duplicate' or 'conflict', first} end  -- else its short retention is over
  end
end
local known = redis.call('HGET', job_key(ref), 'fingerprint')
if known then return {known == job.fingerprint and 'duplicate' or 'conflict', id} end
if redis.call('ZSCORE', jobs_key(tenant), id) then return {'conflict', id} end
-- A tenth more for jobs of a short retention: a queue full of pictures does not refuse searches.
local most = conf.max_queued * (job.ttl_ms ~= '' and 1.1 or 1)
if tonumber(redis.call('GET', queued_key(tenant)) or '0') >= most then return {'full', id} end

accept(ref, job)
if job.idempotency_key ~= '' then redis.call('SET', idem, job.fingerprint .. ':' .. id, 'PX', conf.idempotency_ttl_ms) end
return {'created', id}
